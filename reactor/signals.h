/*
 * Signals as events (signalfd).
 */
#ifndef REACTOR_SIGNALS_H
#define REACTOR_SIGNALS_H

#include <signal.h>

#include "reactor/reactor.h"

struct signals {
	struct handle handle;
	struct task task;
	void (*on_signal)(void *arg, int signo);
	void *arg;
	sigset_t mask;
};

/* Blocks the listed signals (0-terminated) and calls on_signal, which may close s, for each that
 * arrives; several of one kind may come as one. That holds for signals ignored until now, too (who
 * respects nohup leaves SIGHUP out). Aborts when the kernel has no signalfd. */
void signals_open(struct signals *, struct reactor *, const int *list,
		  void (*on_signal)(void *arg, int signo), void *arg);
/* Unblocks them; one that is pending takes its effect now. */
void signals_close(struct signals *);

#endif
