/*
 * The event loop: tasks, timers, handles. One thread, one epoll_wait.
 *
 * A turn: wait (not at all if tasks are queued) -> record the readiness of the whole batch and wake
 * the owners -> fire due timers -> run the queue as it stood -> run the deferred queue -> again.
 * No handler runs while readiness is being recorded, so a handler may close any handle, its own
 * included, and free any object: whoever frees an object cancels its tasks and timers first.
 * See docs/architecture.md.
 */
#ifndef REACTOR_REACTOR_H
#define REACTOR_REACTOR_H

#include "reactor/base.h"

struct reactor;

/* Something to run once, soon. Embedded in its owner; zero cost while not queued. */
struct task {
	struct list link;
	void (*run)(struct task *);
};

/* Something to run at a time. Embedded in its owner. O(log n) to set and clear. */
struct timer {
	uint64_t at;   /* ms, CLOCK_MONOTONIC */
	uint32_t slot; /* place in the heap, 0 while not set */
	void (*fire)(struct timer *);
};

enum { READY_IN = 1, READY_OUT = 2, READY_HUP = 4 };

/* One descriptor, registered once, edge-triggered, both directions. The ready bits are sticky:
 * set by the loop, cleared by the owner when a call said EAGAIN (or, on a socket without READY_HUP,
 * moved less than it was asked to: epoll(7)) and by nothing else. */
struct handle {
	int fd; /* -1 while closed */
	unsigned ready;
	struct task *owner; /* woken when a bit is set; may be NULL */
	struct reactor *rx;
};

/* Never NULL (aborts). Ignores SIGPIPE process-wide and raises RLIMIT_NOFILE to the hard limit. */
struct reactor *reactor_new(void);
void reactor_free(struct reactor *);
/* The soft RLIMIT_NOFILE from before reactor_new raised it, which is what children should get. */
uint64_t reactor_nofile_before(void);
/* Turns until reactor_stop; returns the code given there. Not re-entrant. */
int reactor_run(struct reactor *);
/* Turns until *flag is true or reactor_stop was called (tests, short-lived programs). */
int reactor_run_until(struct reactor *, const bool *flag);
void reactor_stop(struct reactor *, int code);
/* Time at the start of this turn, ms, CLOCK_MONOTONIC. */
uint64_t reactor_now(const struct reactor *);
/* The one 256 KiB buffer of this thread: what a handler puts there is gone when it returns. */
#define REACTOR_SCRATCH (256u * 1024)
char *reactor_scratch(struct reactor *);

struct reactor_stats {
	uint64_t turns, slow_turns; /* a slow turn took over 50 ms; one log line each */
	uint64_t timers;            /* set now */
	uint64_t handles;           /* open now */
	uint64_t longest_turn_us;
};
const struct reactor_stats *reactor_stats(const struct reactor *);

void task_init(struct task *, void (*run)(struct task *));
/* Idempotent. A task woken from inside run() runs next turn. */
void task_wake(struct reactor *, struct task *);
/* Runs at the end of this turn, after the ordinary tasks: for flushing once a turn. */
void task_defer(struct reactor *, struct task *);
/* Safe any time, also for a task that is queued in this turn. */
void task_cancel(struct task *);

void timer_init(struct timer *, void (*fire)(struct timer *));
/* Fires once, ms from now; setting a set timer moves it. */
void timer_set(struct reactor *, struct timer *, uint64_t ms);
void timer_clear(struct reactor *, struct timer *);
static inline bool timer_is_set(const struct timer *t)
{
	return t->slot != 0;
}

/* Takes ownership of fd, which must be non-blocking. 0 or -errno (fd stays the caller's). A fd that
 * epoll refuses with EPERM (regular file) becomes a handle that is always ready. */
int handle_open(struct handle *, struct reactor *, int fd, struct task *owner);
/* EPOLL_CTL_DEL, then close(2). Does nothing on a closed handle. */
void handle_close(struct handle *);
/* EPOLL_CTL_DEL; the descriptor is the caller's from now on. -1 on a closed handle. */
int handle_release(struct handle *);
/* New owner; woken at once if a ready bit is already set. */
void handle_bind(struct handle *, struct task *owner);

#endif
