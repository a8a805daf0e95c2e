/*
 * Binary heap of timers, inside the reactor: reactor.c owns one.
 */
#ifndef REACTOR_TIMER_H
#define REACTOR_TIMER_H

#include "reactor/reactor.h"

struct timer_heap {
	struct timer *
	    *at; /* at[1] is the earliest; slot 0 is unused so that slot 0 means "not set" */
	uint32_t count, cap;
};

/* Inserts t or moves it, due at t->at. */
void timer_heap_set(struct timer_heap *, struct timer *t);
/* Removes t; nothing if it is not set. */
void timer_heap_clear(struct timer_heap *, struct timer *t);
/* The earliest, NULL when empty. */
struct timer *timer_heap_first(const struct timer_heap *);

#endif
