/*
 * Is there an sshd? Connects again and again until one shows its banner (RFC 4253 section 4.2).
 */
#ifndef PICO_PROBE_H
#define PICO_PROBE_H

#include "reactor/stream.h"

struct probe {
	struct task task;
	struct timer timer;
	struct reactor *rx;
	struct stream *s;
	uint64_t paused_ms; /* between tries, all in all */
	unsigned tries;
	char got[4];
	size_t ngot;
	/* A new connection; never NULL. */
	struct stream *(*connect)(void *arg);
	/* The banner came: the probe rests. */
	void (*found)(void *arg);
	/* One try failed, the next follows; may call probe_stop. May be NULL. */
	void (*failed)(void *arg, unsigned tries, int code);
	void *arg;
};

/* The functions and arg are set. Begins, or begins again. */
void probe_start(struct probe *, struct reactor *);
/* Any time after init by zero; idempotent. */
void probe_stop(struct probe *);

#endif
