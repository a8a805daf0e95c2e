#include "reactor/reactor.h"

#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "reactor/buf.h"
#include "reactor/log.h"
#include "reactor/pipe.h"
#include "reactor/timer.h"

enum {
	EVENTS_PER_WAIT = 256,
	SLOW_TURN_US = 50 * 1000,
	TRIM_MS = 1000,    /* memory is given back when the number of handles changed by */
	TRIM_HANDLES = 256 /* this many, and then did not for so long */
};

struct reactor {
	int epoll;
	bool running, stopped, firing;
	int stop_code;
	uint64_t now; /* ms */
	struct list queue, deferred;
	struct timer_heap timers;
	struct reactor_stats stats;
	char *scratch;
	uint64_t trim_at, trim_handles; /* 0: no storm; the handles then */
};

static uint64_t clock_us(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static uint64_t nofile_before;

uint64_t reactor_nofile_before(void)
{
	return nofile_before;
}

static void raise_fd_limit(void)
{
	struct rlimit lim;
	if (getrlimit(RLIMIT_NOFILE, &lim) == -1)
		return;
	if (nofile_before == 0)
		nofile_before = lim.rlim_cur;
	if (lim.rlim_cur < lim.rlim_max) {
		lim.rlim_cur = lim.rlim_max;
		setrlimit(RLIMIT_NOFILE, &lim);
	}
}

struct reactor *reactor_new(void)
{
	struct reactor *rx = xcalloc(1, sizeof(*rx));
	signal(SIGPIPE, SIG_IGN);
	raise_fd_limit();
	rx->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (rx->epoll == -1) {
		log_error("reactor epoll_create1: %s", strerror(errno));
		abort();
	}
	list_init(&rx->queue);
	list_init(&rx->deferred);
	rx->now = clock_us() / 1000;
	rx->trim_at = rx->now + TRIM_MS; /* the start is a storm, too */
	return rx;
}

void reactor_free(struct reactor *rx)
{
	if (!rx)
		return;
	close(rx->epoll);
	free(rx->timers.at);
	free(rx->scratch);
	free(rx);
}

uint64_t reactor_now(const struct reactor *rx)
{
	return rx->now;
}

char *reactor_scratch(struct reactor *rx)
{
	if (!rx->scratch)
		rx->scratch = xmalloc(REACTOR_SCRATCH);
	return rx->scratch;
}

const struct reactor_stats *reactor_stats(const struct reactor *rx)
{
	return &rx->stats;
}

void reactor_stop(struct reactor *rx, int code)
{
	rx->stopped = true;
	rx->stop_code = code;
}

void task_init(struct task *t, void (*run)(struct task *))
{
	list_init(&t->link);
	t->run = run;
}

void task_wake(struct reactor *rx, struct task *t)
{
	if (list_empty(&t->link))
		list_add_tail(&rx->queue, &t->link);
}

void task_defer(struct reactor *rx, struct task *t)
{
	if (list_empty(&t->link))
		list_add_tail(&rx->deferred, &t->link);
}

void task_cancel(struct task *t)
{
	list_del(&t->link);
}

void timer_init(struct timer *t, void (*fire)(struct timer *))
{
	*t = (struct timer){ .fire = fire };
}

void timer_set(struct reactor *rx, struct timer *t, uint64_t ms)
{
	/* One set while timers fire waits for the next turn, or 0 ms would keep us here. */
	t->at = rx->now + (rx->firing ? MAX(ms, 1u) : ms);
	timer_heap_set(&rx->timers, t);
	rx->stats.timers = rx->timers.count;
}

void timer_clear(struct reactor *rx, struct timer *t)
{
	timer_heap_clear(&rx->timers, t);
	rx->stats.timers = rx->timers.count;
}

int handle_open(struct handle *h, struct reactor *rx, int fd, struct task *owner)
{
	*h = (struct handle){ .fd = fd, .owner = owner, .rx = rx };
	struct epoll_event ev = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
				  .data.ptr = h };
	if (epoll_ctl(rx->epoll, EPOLL_CTL_ADD, fd, &ev) == -1) {
		if (errno != EPERM) {
			h->fd = -1;
			return -errno;
		}
		h->ready = READY_IN | READY_OUT;
		if (owner)
			task_wake(rx, owner);
	}
	rx->stats.handles++;
	return 0;
}

int handle_release(struct handle *h)
{
	int fd = h->fd;
	if (fd == -1)
		return -1;
	/* By hand: a forked child's copy would keep the registration alive after close(2). */
	epoll_ctl(h->rx->epoll, EPOLL_CTL_DEL, fd, NULL);
	h->fd = -1;
	h->owner = NULL;
	h->rx->stats.handles--;
	return fd;
}

void handle_close(struct handle *h)
{
	int fd = handle_release(h);
	if (fd != -1)
		close(fd);
}

void handle_bind(struct handle *h, struct task *owner)
{
	h->owner = owner;
	if (owner && h->ready)
		task_wake(h->rx, owner);
}

static int wait_ms(const struct reactor *rx)
{
	if (!list_empty(&rx->queue) || !list_empty(&rx->deferred))
		return 0;
	const struct timer *first = timer_heap_first(&rx->timers);
	uint64_t at = first ? first->at : UINT64_MAX;
	if (rx->trim_at)
		at = MIN(at, rx->trim_at);
	if (at == UINT64_MAX)
		return -1;
	if (at <= rx->now)
		return 0;
	return (int)MIN(at - rx->now, (uint64_t)INT32_MAX);
}

/* Thousands of connections that came or went leave holes in the heap. */
static void trim(struct reactor *rx)
{
	uint64_t n = rx->stats.handles, before = rx->trim_handles;
	bool changed = n > before + TRIM_HANDLES || n + TRIM_HANDLES < before;
	if (changed) {
		rx->trim_handles = n;
		rx->trim_at = rx->now + TRIM_MS;
	} else if (rx->trim_at && rx->now >= rx->trim_at) {
		rx->trim_at = 0;
		free(rx->scratch);
		rx->scratch = NULL;
		block_trim();
		pipe_trim();
		malloc_trim(0);
	}
}

/* Records readiness of the whole batch before any handler runs, so that no handler can free what a
 * later event of the batch points at. */
static void mark(struct reactor *rx, const struct epoll_event *ev, int n)
{
	for (int i = 0; i < n; i++) {
		struct handle *h = ev[i].data.ptr;
		if (ev[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
			h->ready |= READY_IN;
		if (ev[i].events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
			h->ready |= READY_OUT;
		if (ev[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
			h->ready |= READY_HUP;
		if (h->owner)
			task_wake(rx, h->owner);
	}
}

static void run_timers(struct reactor *rx)
{
	struct timer *t;
	rx->firing = true;
	while ((t = timer_heap_first(&rx->timers)) && t->at <= rx->now) {
		timer_heap_clear(&rx->timers, t);
		t->fire(t);
	}
	rx->firing = false;
	rx->stats.timers = rx->timers.count;
}

/* Runs the list as it stands; what is woken meanwhile waits for the next turn. */
static void run_list(struct list *from)
{
	struct list batch, *l;
	list_init(&batch);
	list_splice(&batch, from);
	while ((l = list_pop(&batch))) {
		struct task *t = container_of(l, struct task, link);
		t->run(t);
	}
}

static void turn(struct reactor *rx)
{
	struct epoll_event ev[EVENTS_PER_WAIT];
	rx->now = clock_us() / 1000;
	int n = epoll_wait(rx->epoll, ev, EVENTS_PER_WAIT, wait_ms(rx));
	uint64_t start = clock_us();
	rx->now = start / 1000;
	if (n > 0)
		mark(rx, ev, n);
	run_timers(rx);
	run_list(&rx->queue);
	run_list(&rx->deferred);
	trim(rx);

	uint64_t took = clock_us() - start;
	rx->stats.turns++;
	rx->stats.longest_turn_us = MAX(rx->stats.longest_turn_us, took);
	if (took > SLOW_TURN_US) {
		rx->stats.slow_turns++;
		log_warn("slow-turn ms=%llu events=%d", (unsigned long long)took / 1000, n);
	}
}

int reactor_run_until(struct reactor *rx, const bool *flag)
{
	BUG_ON(rx->running);
	rx->running = true;
	while (!rx->stopped && !*flag)
		turn(rx);
	rx->running = false;
	return rx->stop_code;
}

int reactor_run(struct reactor *rx)
{
	static const bool never = false;
	return reactor_run_until(rx, &never);
}
