/* The relay over descriptors, over in-memory streams with faults, and its ends. */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "reactor/buf.h"
#include "reactor/pipe.h"
#include "reactor/pump.h"
#include "test/unit/pair.h"
#include "test/unit/sim.h"
#include "test/unit/turn.h"

static struct reactor *rx;
static struct pump_end end;
static char end_why[256];
static unsigned ended;

static int setup(void **state)
{
	(void)state;
	rx = reactor_new();
	ended = 0;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	assert_int_equal(0, reactor_stats(rx)->timers);
	assert_int_equal(0, reactor_stats(rx)->handles);
	reactor_free(rx);
	pipe_trim();
	block_trim();
	return 0;
}

static void finished(void *arg, const struct pump_end *e, const char *why)
{
	assert_ptr_equal(&ended, arg);
	end = *e;
	snprintf(end_why, sizeof(end_why), "%s", why);
	ended++;
}

/* --- descriptors --- */

enum kind { UNIX = 0, TCP, KINDS };

static void connected(enum kind kind, int fd[2])
{
	if (kind == UNIX)
		socket_pair(fd);
	else
		tcp_pair(fd);
}

/* A pump between near ends; the test holds the far ones. */
static struct pump *rig(enum kind ka, enum kind kb, int *a, int *b)
{
	int fa[2], fb[2];
	connected(ka, fa);
	connected(kb, fb);
	*a = fa[0];
	*b = fb[0];
	return pump_start(rx, fd_stream_new(rx, fa[1]), fd_stream_new(rx, fb[1]), finished, &ended);
}

static uint32_t seed;
static uint32_t dice(void)
{
	seed = seed * 1664525 + 1013904223;
	return seed >> 8;
}

static char pattern(int way, uint64_t at)
{
	return (char)((uint64_t)way * 101 + at * 13 + (at >> 9));
}

/* One direction, from one far end to the other, in pieces of random size. */
struct flow {
	int from, to, way;
	uint64_t all, sent, got;
	bool shut, eof;
};

static void flow_step(struct flow *f, size_t most)
{
	static char piece[300000];
	size_t n = 1 + dice() % most;
	n = MIN(n, f->all - f->sent);
	for (size_t i = 0; i < n; i++)
		piece[i] = pattern(f->way, f->sent + i);
	ssize_t r = n ? send(f->from, piece, n, MSG_NOSIGNAL) : 0;
	f->sent += r > 0 ? (uint64_t)r : 0;
	if (f->sent == f->all && !f->shut) {
		assert_int_equal(0, shutdown(f->from, SHUT_WR));
		f->shut = true;
	}
	r = read(f->to, piece, 1 + dice() % most);
	if (r == -1) {
		assert_int_equal(EAGAIN, errno);
		return;
	}
	for (ssize_t i = 0; i < r; i++)
		if (piece[i] != pattern(f->way, f->got + (uint64_t)i))
			fail_msg("byte %llu differs", (unsigned long long)f->got + (uint64_t)i);
	f->got += (uint64_t)r;
	f->eof |= r == 0;
}

/* Both ways at once, for all kinds, past the point where splicing starts. */
static void bytes_arrive_both_ways(void **state)
{
	(void)state;
	for (int i = 0; i < KINDS * KINDS; i++) {
		int a, b;
		seed = (uint32_t)i;
		rig((enum kind)(i % KINDS), (enum kind)(i / KINDS), &a, &b);
		struct flow up = { .from = a, .to = b, .way = 1, .all = 7000001 };
		struct flow down = { .from = b, .to = a, .way = 2, .all = 5000003 };
		while (!up.eof || !down.eof) {
			size_t most = dice() % 8 ? 100000 : 100;
			flow_step(&up, most);
			flow_step(&down, most);
			turn_once(rx);
		}
		UNTIL(ended == 1);
		assert_int_equal(0, end.code);
		assert_int_equal(up.all, up.got);
		assert_int_equal(down.all, down.got);
		assert_int_equal(up.all, end.a_to_b);
		assert_int_equal(down.all, end.b_to_a);
		ended = 0;
		close(a);
		close(b);
	}
}

/* Each direction outlives the other, with data still flowing. */
static void half_close_leaves_the_other_way_alone(void **state)
{
	(void)state;
	for (int turned = 0; turned < 2; turned++) {
		int fd[2];
		rig(TCP, turned ? TCP : UNIX, &fd[0], &fd[1]);
		struct flow first = { .from = fd[turned], .to = fd[!turned], .way = 1, .all = 10 };
		struct flow second = { .from = fd[!turned], .to = fd[turned], .way = 2 };
		second.all = 3000000;
		while (!first.eof) {
			flow_step(&first, 100);
			turn_once(rx);
		}
		assert_int_equal(10, first.got);
		assert_int_equal(0, ended);
		while (!second.eof) {
			flow_step(&second, 100000);
			turn_once(rx);
		}
		assert_int_equal(second.all, second.got);
		UNTIL(ended == 1);
		assert_int_equal(0, end.code);
		ended = 0;
		close(fd[0]);
		close(fd[1]);
	}
}

static void pipes_and_pairs(void **state)
{
	(void)state;
	int in[2], out[2], fd[2];
	assert_int_equal(0, pipe2(in, O_NONBLOCK | O_CLOEXEC));
	assert_int_equal(0, pipe2(out, O_NONBLOCK | O_CLOEXEC));
	connected(UNIX, fd);
	pump_start(rx, fd_stream_new(rx, fd[1]),
		   pair_stream_new(rx, fd_stream_new(rx, out[0]), fd_stream_new(rx, in[1])),
		   finished, &ended);
	struct flow up = { .from = fd[0], .to = in[0], .way = 1, .all = 2000000 };
	while (!up.eof) {
		flow_step(&up, 70000);
		turn_once(rx);
	}
	assert_int_equal(up.all, up.got);
	static char piece[4096];
	uint64_t sent = 0, got = 0;
	ssize_t r;
	while (sent < 2000000) {
		for (size_t i = 0; i < sizeof(piece); i++)
			piece[i] = pattern(2, sent + i);
		r = write(out[1], piece, sizeof(piece));
		sent += r > 0 ? (uint64_t)r : 0;
		r = read(fd[0], piece, sizeof(piece));
		for (ssize_t i = 0; i < r; i++)
			assert_int_equal(pattern(2, got + (uint64_t)i), piece[i]);
		got += r > 0 ? (uint64_t)r : 0;
		turn_once(rx);
	}
	close(out[1]);
	UNTIL((r = read(fd[0], piece, sizeof(piece))) == 0 ||
	      (got += r > 0 ? (uint64_t)r : 0, false));
	assert_int_equal(sent, got);
	UNTIL(ended == 1);
	assert_int_equal(0, end.code);
	close(fd[0]);
	close(in[0]);
}

/* Sent after enough to splice: the far end cannot, so what is in the pipe is copied out of it. */
static void a_sink_that_cannot_be_spliced_into(void **state)
{
	(void)state;
	char path[] = "/tmp/test-pump-XXXXXX";
	int fd[2], file = mkostemp(path, O_CLOEXEC), reader = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(0, fcntl(file, F_SETFL, O_APPEND)); /* splice(2): EINVAL */
	connected(UNIX, fd);
	pump_start(rx, fd_stream_new(rx, fd[1]), pair_stream_new(rx, NULL, fd_stream_new(rx, file)),
		   finished, &ended);
	struct flow f = { .from = fd[0], .to = reader, .way = 1, .all = 3000000 };
	while (!f.shut) {
		flow_step(&f, 100000);
		f.eof = false;
		turn_once(rx);
	}
	UNTIL(ended == 1);
	f.eof = false;
	while (!f.eof)
		flow_step(&f, 100000);
	assert_int_equal(0, end.code);
	assert_int_equal(f.all, f.got);
	close(fd[0]);
	close(reader);
	unlink(path);
}

static void seeds_go_first(void **state)
{
	(void)state;
	int a, b;
	char buf[64] = { 0 };
	struct pump *p = rig(TCP, UNIX, &a, &b);
	pump_seed_to_a(p, SLICE("HTTP/1.1 200 OK\r\n\r\n"));
	pump_seed_to_b(p, SLICE("early "));
	pump_seed_to_b(p, SLICE(""));
	assert_int_equal(5, write(a, "later", 5));
	UNTIL(ioctl(b, FIONREAD, buf) == 0 && *(int *)(void *)buf == 11);
	assert_int_equal(11, read(b, buf, sizeof(buf)));
	assert_memory_equal("early later", buf, 11);
	ssize_t r;
	UNTIL((r = read(a, buf, sizeof(buf))) != -1);
	assert_int_equal(19, r);
	pump_abort(p, -ECANCELED);
	assert_int_equal(1, ended);
	assert_int_equal(-ECANCELED, end.code);
	assert_int_equal(11, end.a_to_b);
	assert_int_equal(19, end.b_to_a);
	UNTIL((r = read(a, buf, 1)) != -1 || errno != EAGAIN);
	assert_int_equal(-1, r);
	assert_int_equal(ECONNRESET, errno);
	close(a);
	close(b);
}

/* Who reads no more ends that direction only: what he still says arrives. */
static void epipe_ends_one_direction(void **state)
{
	(void)state;
	int in[2], out[2], fd[2];
	char buf[64];
	ssize_t r;
	assert_int_equal(0, pipe2(in, O_NONBLOCK | O_CLOEXEC));
	assert_int_equal(0, pipe2(out, O_NONBLOCK | O_CLOEXEC));
	connected(TCP, fd);
	pump_start(rx, fd_stream_new(rx, fd[1]),
		   pair_stream_new(rx, fd_stream_new(rx, out[0]), fd_stream_new(rx, in[1])),
		   finished, &ended);
	close(in[0]); /* the command does not want its stdin */
	assert_int_equal(5, write(fd[0], "input", 5));
	for (int i = 0; i < 5; i++)
		turn_once(rx);
	assert_int_equal(0, ended);
	assert_int_equal(6, write(out[1], "output", 6));
	UNTIL((r = read(fd[0], buf, sizeof(buf))) != -1);
	assert_int_equal(6, r);
	close(out[1]);
	UNTIL(ended == 1);
	assert_int_equal(0, end.code);
	close(fd[0]);
}

static void a_reset_is_passed_on(void **state)
{
	(void)state;
	for (int way = 0; way < 2; way++) {
		int fd[2];
		char c;
		ssize_t r;
		rig(TCP, TCP, &fd[0], &fd[1]);
		turn_once(rx);
		struct linger abrupt = { 1, 0 };
		setsockopt(fd[way], SOL_SOCKET, SO_LINGER, &abrupt, sizeof(abrupt));
		close(fd[way]);
		UNTIL(ended == 1);
		assert_int_equal(-ECONNRESET, end.code);
		assert_int_equal(way == 0, end.a_failed);
		assert_string_equal("connection reset by peer", end_why);
		UNTIL((r = read(fd[!way], &c, 1)) != -1 || errno != EAGAIN);
		assert_int_equal(-1, r);
		assert_int_equal(ECONNRESET, errno);
		close(fd[!way]);
		ended = 0;
	}
}

/* The other side reads nothing, so nothing is read here, and yet it is noticed. */
static void a_reset_behind_a_stalled_reader_is_noticed(void **state)
{
	(void)state;
	static char piece[65536];
	int a, b;
	rig(TCP, UNIX, &a, &b);
	for (int i = 0, quiet = 0; quiet < 100; i++) {
		quiet = write(a, piece, sizeof(piece)) == -1 ? quiet + 1 : 0;
		turn_once(rx);
		assert_true(i < 10000);
	}
	assert_int_equal(0, ended);
	struct linger abrupt = { 1, 0 };
	setsockopt(a, SOL_SOCKET, SO_LINGER, &abrupt, sizeof(abrupt));
	close(a);
	UNTIL(ended == 1);
	assert_int_equal(-ECONNRESET, end.code);
	assert_true(end.a_failed);
	close(b);
}

static void the_sentence_is_the_failed_streams(void **state)
{
	(void)state;
	int fd[2];
	connected(UNIX, fd);
	pump_start(rx, fd_stream_new(rx, fd[1]),
		   sim_broken(rx, -ECONNREFUSED, "dial tcp h:1: connection refused"), finished,
		   &ended);
	UNTIL(ended == 1);
	assert_int_equal(-ECONNREFUSED, end.code);
	assert_false(end.a_failed);
	assert_string_equal("dial tcp h:1: connection refused", end_why);
	close(fd[0]);
}

/* --- time and memory --- */

static void an_idle_pump_ends(void **state)
{
	(void)state;
	int a, b;
	struct pump *p = rig(UNIX, UNIX, &a, &b);
	uint64_t start = reactor_now(rx);
	pump_idle_limit(p, 200);
	while (reactor_now(rx) - start < 450) { /* now and then a byte */
		assert_int_equal(1, write(reactor_now(rx) & 1 ? a : b, "x", 1));
		turn_once(rx);
		usleep(5000);
	}
	assert_int_equal(0, ended);
	start = reactor_now(rx);
	UNTIL(ended == 1);
	assert_int_equal(-ETIMEDOUT, end.code);
	assert_true(reactor_now(rx) - start > 100);
	close(a);
	close(b);
}

/* Nothing new comes, but the reader still takes from what is held: that is not idle. */
static void a_slow_reader_is_not_idle(void **state)
{
	(void)state;
	int fa[2], fb[2], small = 20000, large = 1 << 20;
	static char piece[1 << 20];
	connected(UNIX, fa);
	connected(UNIX, fb);
	setsockopt(fa[0], SOL_SOCKET, SO_SNDBUF, &large, sizeof(large));
	setsockopt(fb[1], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	int a = fa[0], b = fb[0];
	struct pump *p =
	    pump_start(rx, fd_stream_new(rx, fa[1]), fd_stream_new(rx, fb[1]), finished, &ended);
	ssize_t n = write(a, piece, 900000), got = 0;
	assert_true(n > 0);
	for (int i = 0; i < 10; i++)
		turn_once(rx);
	pump_idle_limit(p, 400);
	uint64_t start = reactor_now(rx);
	while (reactor_now(rx) - start < 1000 && got < n) {
		ssize_t r = read(b, piece, (size_t)small); /* each makes room for more */
		got += r > 0 ? r : 0;
		turn_once(rx);
		usleep(30000);
	}
	assert_int_equal(0, ended);
	pump_abort(p, -ECANCELED);
	close(a);
	close(b);
}

static void a_reader_that_stalls_bounds_memory(void **state)
{
	(void)state;
	int a, b;
	static char piece[65536];
	struct pump *p = rig(UNIX, UNIX, &a, &b);
	uint64_t sent = 0;
	size_t before = mallinfo2().uordblks;
	for (int i = 0; i < 2000; i++) {
		ssize_t r = write(a, piece, sizeof(piece));
		sent += r > 0 ? (uint64_t)r : 0;
		turn_once(rx);
	}
	assert_true(sent < 3 << 20); /* the kernel's buffers, and one piece of ours */
	assert_true(mallinfo2().uordblks < before + 2 * REACTOR_SCRATCH + 65536);
	pump_abort(p, -ECANCELED);
	close(a);
	close(b);
}

static void an_idle_pump_is_small(void **state)
{
	(void)state;
	enum { MANY = 2000 };
	static int far[MANY][2];
	static struct pump *p[MANY];
	int fa[2];
	connected(UNIX, fa);
	reactor_scratch(rx);
	turn_once(rx);
	size_t before = mallinfo2().uordblks;
	for (int i = 0; i < MANY; i++)
		p[i] = rig(UNIX, UNIX, &far[i][0], &far[i][1]);
	for (int i = 0; i < MANY; i++)
		assert_int_equal(1, write(far[i][0], "x", 1));
	for (int i = 0; i < 20; i++)
		turn_once(rx);
	for (int i = 0; i < MANY; i++) { /* used once, idle since */
		char c;
		assert_int_equal(1, read(far[i][1], &c, 1));
	}
	block_trim();
	pipe_trim();
	size_t each = (mallinfo2().uordblks - before) / MANY;
	if (before > 0) /* a sanitizer's malloc does not count */
		assert_true(each > 0 && each < 600);
	print_message("%zu bytes for an idle pump\n", each);
	for (int i = 0; i < MANY; i++) {
		pump_abort(p[i], -ECANCELED);
		close(far[i][0]);
		close(far[i][1]);
	}
	assert_int_equal(MANY, ended);
	close(fa[0]);
	close(fa[1]);
}

/* --- streams with faults --- */

static struct sim_peer left, right;

static bool both_done(void *arg)
{
	(void)arg;
	return ended && left.eof && right.eof;
}

static void survives_short_and_refused_calls(void **state)
{
	(void)state;
	static char up[50000], down[30000];
	for (size_t i = 0; i < sizeof(up); i++)
		up[i] = pattern(1, i);
	for (size_t i = 0; i < sizeof(down); i++)
		down[i] = pattern(2, i);
	for (uint64_t n = 1; n <= 150; n++) {
		struct stream *a, *b, *x, *y;
		struct sim_rules rules = { .seed = n,
					   .refuse = (unsigned)(n * 7 % 60),
					   .piece = 1 + n * 97 % 9000,
					   .capacity = 1 + n * 31 % 20000 };
		sim_pair(rx, &rules, &x, &a);
		rules.seed = ~n;
		sim_pair(rx, &rules, &b, &y);
		ended = 0;
		pump_start(rx, a, b, finished, &ended);
		sim_peer_init(&left, x);
		sim_peer_init(&right, y);
		size_t un = n * 331 % sizeof(up), dn = n * 733 % sizeof(down);
		sim_peer_send(&left, slice_of(up, un));
		sim_peer_send(&right, slice_of(down, dn));
		sim_peer_shut(&left);
		sim_peer_shut(&right);
		assert_true(sim_until(rx, both_done, NULL));
		assert_int_equal(0, end.code);
		assert_int_equal(un, right.in.len);
		assert_int_equal(dn, left.in.len);
		assert_true(un == 0 || memcmp(buf_data(&right.in).p, up, un) == 0);
		assert_true(dn == 0 || memcmp(buf_data(&left.in).p, down, dn) == 0);
		sim_peer_end(&left, 0);
		sim_peer_end(&right, 0);
	}
	assert_int_equal(0, sim_open);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(bytes_arrive_both_ways),
		T(half_close_leaves_the_other_way_alone),
		T(pipes_and_pairs),
		T(a_sink_that_cannot_be_spliced_into),
		T(seeds_go_first),
		T(epipe_ends_one_direction),
		T(a_reset_is_passed_on),
		T(a_reset_behind_a_stalled_reader_is_noticed),
		T(the_sentence_is_the_failed_streams),
		T(an_idle_pump_ends),
		T(a_slow_reader_is_not_idle),
		T(a_reader_that_stalls_bounds_memory),
		T(an_idle_pump_is_small),
		T(survives_short_and_refused_calls),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
