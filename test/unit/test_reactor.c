/* The loop: timers, tasks, handles. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "reactor/reactor.h"

static struct reactor *rx;
static char events[256]; /* what happened, a letter each */
static bool flag;

static void event(char c)
{
	size_t n = strlen(events);
	assert_true(n + 1 < sizeof(events));
	events[n] = c;
	events[n + 1] = '\0';
}

static int setup(void **state)
{
	(void)state;
	rx = reactor_new();
	events[0] = '\0';
	flag = false;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	reactor_free(rx);
	return 0;
}

static void run(void)
{
	flag = false;
	reactor_run_until(rx, &flag);
}

static void nothing(struct task *t)
{
	(void)t;
}

static void stop_turn(struct task *t)
{
	(void)t;
	flag = true;
}

/* Exactly n turns, without waiting. */
static void turns(int n)
{
	while (n-- > 0) {
		struct task t;
		task_init(&t, stop_turn);
		task_defer(rx, &t);
		run();
	}
}

static uint64_t cpu_ms(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* --- timers --- */

struct named {
	struct timer t;
	char name;
	struct named *other; /* cleared, or set anew, when this one fires */
	uint64_t again;
	bool last;
};

static void named_fire(struct timer *t)
{
	struct named *n = container_of(t, struct named, t);
	assert_false(timer_is_set(t));
	assert_true(reactor_now(rx) >= t->at);
	event(n->name);
	if (n->other && n->again)
		timer_set(rx, &n->other->t, n->again);
	else if (n->other)
		timer_clear(rx, &n->other->t);
	if (n->last)
		flag = true;
}

static struct named named(char name)
{
	struct named n = { .name = name };
	timer_init(&n.t, named_fire);
	return n;
}

static void timers_fire_in_order(void **state)
{
	(void)state;
	struct named a = named('a'), b = named('b'), c = named('c'), d = named('d');
	d.last = true;
	timer_set(rx, &c.t, 3);
	timer_set(rx, &a.t, 1);
	timer_set(rx, &d.t, 10);
	timer_set(rx, &b.t, 2);
	assert_int_equal(4, reactor_stats(rx)->timers);
	run();
	assert_string_equal("abcd", events);
	assert_int_equal(0, reactor_stats(rx)->timers);
}

static void a_set_timer_moves(void **state)
{
	(void)state;
	struct named a = named('a'), b = named('b'), c = named('c');
	timer_set(rx, &a.t, 1);
	timer_set(rx, &b.t, 50);
	timer_set(rx, &c.t, 5);
	timer_set(rx, &a.t, 8); /* later */
	timer_set(rx, &b.t, 2); /* earlier */
	assert_int_equal(3, reactor_stats(rx)->timers);
	a.last = true;
	run();
	assert_string_equal("bca", events);
	timer_clear(rx, &a.t); /* not set: nothing */
	timer_clear(rx, &a.t);
}

static void a_timer_may_clear_or_set_another_that_is_due(void **state)
{
	(void)state;
	struct named a = named('a'), b = named('b'), c = named('c');
	a.other = &b;
	c.last = true;
	timer_set(rx, &a.t, 1);
	timer_set(rx, &b.t, 1);
	timer_set(rx, &c.t, 5);
	/* a and b are due together; either may come first */
	run();
	assert_true(strcmp(events, "ac") == 0 || strcmp(events, "bac") == 0);
	events[0] = '\0';
	a.again = 1;
	b.last = true;
	timer_set(rx, &a.t, 1);
	timer_set(rx, &b.t, 30);
	run();
	assert_string_equal("ab", events);
}

static unsigned zero_fired;
static void zero_fire(struct timer *t)
{
	zero_fired++;
	timer_set(rx, t, 0);
}

static void idle_fire(struct timer *t)
{
	(void)t;
	event('!');
}

/* However many other timers there are: once a turn, and tasks and descriptors get theirs. */
static void a_timer_of_0_ms_does_not_starve_the_rest(void **state)
{
	(void)state;
	enum { MANY = 1000 };
	static struct timer zero, idle[MANY];
	for (int i = 0; i < MANY; i++) {
		timer_init(&idle[i], idle_fire);
		timer_set(rx, &idle[i], 60000);
	}
	timer_init(&zero, zero_fire);
	timer_set(rx, &zero, 0);
	zero_fired = 0;
	turns(20);
	assert_true(zero_fired >= 1 && zero_fired <= 20);
	timer_clear(rx, &zero);
	for (int i = 0; i < MANY; i++)
		timer_clear(rx, &idle[i]);
	assert_string_equal("", events);
}

static unsigned counted;
static uint64_t last_at;
static void count_fire(struct timer *t)
{
	if (t->at < last_at)
		fail_msg("fired out of order");
	last_at = t->at;
	flag = ++counted == 50000;
}

static void a_hundred_thousand_timers_cost_little(void **state)
{
	(void)state;
	enum { MANY = 100000 };
	static struct timer t[MANY];
	uint64_t before = cpu_ms();
	uint32_t seed = 1;
	counted = 0;
	last_at = 0;
	for (int i = 0; i < MANY; i++)
		timer_init(&t[i], count_fire);
	for (int round = 0; round < 3; round++)
		for (int i = 0; i < MANY; i++) {
			seed = seed * 1664525 + 1013904223;
			timer_set(rx, &t[i], round < 2 ? seed >> 8 : seed >> 27);
		}
	for (int i = 0; i < MANY; i += 2)
		timer_clear(rx, &t[i]);
	assert_int_equal(MANY / 2, reactor_stats(rx)->timers);
	run();
	assert_int_equal(MANY / 2, counted);
	assert_int_equal(0, reactor_stats(rx)->timers);
	assert_true(cpu_ms() - before < 5000); /* 0.1 s; a list instead of a heap takes minutes */
}

/* --- tasks --- */

struct step {
	struct task t;
	char name;
	struct step *wakes, *cancels, *defers;
	int left;
};

static void step_run(struct task *t)
{
	struct step *s = container_of(t, struct step, t);
	event(s->name);
	if (s->wakes && s->left-- > 0)
		task_wake(rx, &s->wakes->t);
	if (s->cancels)
		task_cancel(&s->cancels->t);
	if (s->defers)
		task_defer(rx, &s->defers->t);
}

static struct step step(char name)
{
	struct step s = { .name = name };
	return s;
}

static void step_init(struct step *s)
{
	task_init(&s->t, step_run);
}

static void waking_from_run_waits_for_the_next_turn(void **state)
{
	(void)state;
	struct step a = step('a'), b = step('b');
	step_init(&a);
	step_init(&b);
	a.wakes = &a;
	a.left = 2;
	task_wake(rx, &a.t);
	task_wake(rx, &a.t); /* idempotent */
	task_wake(rx, &b.t);
	turns(1);
	assert_string_equal("ab", events);
	task_wake(rx, &b.t);
	turns(1);
	assert_string_equal("abab", events);
	turns(3);
	assert_string_equal("ababa", events);
}

static void a_task_queued_this_turn_can_be_cancelled(void **state)
{
	(void)state;
	struct step a = step('a'), b = step('b'), c = step('c');
	step_init(&a);
	step_init(&b);
	step_init(&c);
	a.cancels = &b;
	task_wake(rx, &a.t);
	task_wake(rx, &b.t);
	task_wake(rx, &c.t);
	turns(2);
	assert_string_equal("ac", events);
	task_cancel(&b.t); /* not queued: nothing */
}

static void deferred_tasks_run_last(void **state)
{
	(void)state;
	struct step a = step('a'), b = step('b'), d = step('d'), e = step('e');
	step_init(&a);
	step_init(&b);
	step_init(&d);
	step_init(&e);
	task_defer(rx, &d.t);
	task_wake(rx, &a.t);
	a.defers = &e;
	task_wake(rx, &b.t);
	turns(1);
	assert_string_equal("abde", events);
	d.defers = &d; /* from the deferred queue itself: next turn */
	task_defer(rx, &d.t);
	turns(2);
	assert_string_equal("abdedd", events);
	task_cancel(&d.t);
	turns(1);
	assert_string_equal("abdedd", events);
}

struct suicide {
	struct task t;
};

static void suicide_run(struct task *t)
{
	free(container_of(t, struct suicide, t));
	event('x');
}

static void a_task_may_free_itself(void **state)
{
	(void)state;
	struct suicide *s = xmalloc(sizeof(*s));
	task_init(&s->t, suicide_run);
	task_wake(rx, &s->t);
	turns(2);
	assert_string_equal("x", events);
}

/* --- handles --- */

struct peer {
	struct task t;
	struct handle h;
	char name;
	struct peer *closes;
	bool releases;
};

static void peer_run(struct task *t)
{
	struct peer *p = container_of(t, struct peer, t);
	event(p->name);
	if (p->closes) {
		handle_close(&p->closes->h);
		task_cancel(&p->closes->t);
	}
}

static int far_end(struct peer *p, char name)
{
	int fd[2];
	assert_int_equal(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd));
	*p = (struct peer){ .name = name };
	task_init(&p->t, peer_run);
	assert_int_equal(0, handle_open(&p->h, rx, fd[0], &p->t));
	return fd[1];
}

static void readiness_comes_once_and_sticks(void **state)
{
	(void)state;
	struct peer p;
	int far = far_end(&p, 'p');
	turns(2);
	assert_string_equal("p", events); /* writable from the start */
	assert_int_equal(READY_OUT, p.h.ready);
	assert_int_equal(1, write(far, "x", 1));
	turns(3);
	assert_string_equal("pp", events); /* the edge, not the level */
	assert_int_equal(READY_IN | READY_OUT, p.h.ready);
	struct task other;
	task_init(&other, stop_turn);
	handle_bind(&p.h, &other); /* woken for what is ready already */
	run();
	close(far);
	p.h.owner = &p.t;
	turns(2);
	assert_true(p.h.ready & READY_HUP);
	assert_int_equal(1, reactor_stats(rx)->handles);
	handle_close(&p.h);
	handle_close(&p.h);
	assert_int_equal(0, reactor_stats(rx)->handles);
}

/* Both are in one batch; whoever comes first closes both, and is the only one to run. */
static void a_handler_may_close_its_own_and_others(void **state)
{
	(void)state;
	struct peer *a = xmalloc(sizeof(*a)), *b = xmalloc(sizeof(*b));
	int fa = far_end(a, 'a'), fb = far_end(b, 'b');
	turns(2);
	events[0] = '\0';
	a->closes = b;
	b->closes = a;
	assert_int_equal(2, write(fa, "xx", 2));
	assert_int_equal(2, write(fb, "xx", 2));
	turns(1);
	assert_int_equal(1, strlen(events));
	struct peer *ran = events[0] == 'a' ? a : b, *other = ran == a ? b : a;
	assert_int_equal(-1, other->h.fd);
	free(other); /* nothing may touch it any more */
	handle_close(&ran->h);
	task_cancel(&ran->t);
	free(ran);
	turns(2);
	assert_int_equal(1, strlen(events));
	close(fa);
	close(fb);
}

/* A descriptor number that is used again hears nothing of its former life. */
static void no_stale_event_for_a_reused_fd(void **state)
{
	(void)state;
	struct peer a, b;
	int fa = far_end(&a, 'a'), pipes[2];
	turns(2);
	events[0] = '\0';
	assert_int_equal(2, write(fa, "xx", 2));
	int old = a.h.fd, copy = dup(old); /* as in a forked child: keeps the file open */
	handle_close(&a.h);
	assert_int_equal(0, pipe2(pipes, O_NONBLOCK | O_CLOEXEC));
	assert_int_equal(old, pipes[0]);
	b = (struct peer){ .name = 'b' };
	task_init(&b.t, peer_run);
	assert_int_equal(0, handle_open(&b.h, rx, pipes[0], &b.t));
	assert_int_equal(2, write(fa, "xx", 2));
	turns(3);
	assert_string_equal("", events);
	assert_int_equal(1, write(pipes[1], "y", 1));
	turns(1);
	assert_string_equal("b", events);
	handle_close(&b.h);
	close(pipes[1]);
	close(copy);
	close(fa);
}

static void a_released_fd_is_the_callers(void **state)
{
	(void)state;
	struct peer a;
	int fa = far_end(&a, 'a'), fd = handle_release(&a.h);
	assert_true(fd >= 0);
	assert_int_equal(-1, handle_release(&a.h));
	assert_int_equal(1, write(fa, "x", 1));
	turns(2);
	assert_string_equal("", events);
	char c;
	assert_int_equal(1, read(fd, &c, 1));
	close(fd);
	close(fa);
	struct handle bad;
	assert_int_equal(-EBADF, handle_open(&bad, rx, fd, NULL));
	assert_int_equal(-1, bad.fd);
}

static void a_file_is_always_ready(void **state)
{
	(void)state;
	struct peer p = { .name = 'f' };
	task_init(&p.t, peer_run);
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	assert_int_equal(0, handle_open(&p.h, rx, fd, &p.t));
	turns(2);
	assert_string_equal("f", events);
	assert_int_equal(READY_IN | READY_OUT, p.h.ready);
	handle_close(&p.h);
}

/* --- run --- */

static void stop_fire(struct timer *t)
{
	(void)t;
	reactor_stop(rx, 7);
}

static void run_ends_with_the_code_of_stop(void **state)
{
	(void)state;
	struct timer t;
	struct task idle;
	task_init(&idle, nothing);
	timer_init(&t, stop_fire);
	timer_set(rx, &t, 2);
	assert_int_equal(7, reactor_run(rx));
	assert_true(reactor_stats(rx)->turns >= 1);
	flag = false;
	assert_int_equal(7, reactor_run_until(rx, &flag)); /* stopped is stopped */
}

static void set_flag(struct timer *t)
{
	(void)t;
	flag = true;
}

static void waiting_costs_nothing(void **state)
{
	(void)state;
	struct timer t;
	timer_init(&t, set_flag);
	timer_set(rx, &t, 100);
	uint64_t before = reactor_now(rx), turned = reactor_stats(rx)->turns;
	run();
	assert_true(reactor_now(rx) - before >= 100);
	assert_true(reactor_stats(rx)->turns - turned <= 3);
	memset(reactor_scratch(rx), 1, REACTOR_SCRATCH);
	assert_ptr_equal(reactor_scratch(rx), reactor_scratch(rx));
	assert_true(reactor_nofile_before() > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(timers_fire_in_order),
		T(a_set_timer_moves),
		T(a_timer_may_clear_or_set_another_that_is_due),
		T(a_timer_of_0_ms_does_not_starve_the_rest),
		T(a_hundred_thousand_timers_cost_little),
		T(waking_from_run_waits_for_the_next_turn),
		T(a_task_queued_this_turn_can_be_cancelled),
		T(deferred_tasks_run_last),
		T(a_task_may_free_itself),
		T(readiness_comes_once_and_sticks),
		T(a_handler_may_close_its_own_and_others),
		T(no_stale_event_for_a_reused_fd),
		T(a_released_fd_is_the_callers),
		T(a_file_is_always_ready),
		T(run_ends_with_the_code_of_stop),
		T(waiting_costs_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
