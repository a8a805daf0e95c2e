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

/* Blocks the listed signals (0-terminated) and calls on_signal for each that arrives. Aborts when
 * the kernel has no signalfd. */
void signals_open(struct signals *, struct reactor *, const int *list,
		  void (*on_signal)(void *arg, int signo), void *arg);
void signals_close(struct signals *);

#endif
