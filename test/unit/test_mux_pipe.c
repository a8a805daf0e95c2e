/*
 * Large DATA frames by splice: two muxes in one reactor, each with pumps between its streams and
 * real sockets, over a carrier that refuses, shortens and stalls as the test says. What comes out
 * is compared byte by byte.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/tstunnel/mux_int.h"
#include "reactor/err.h"
#include "reactor/pump.h"
#include "test/unit/pair.h"
#include "test/unit/turn.h"

enum { STREAMS = 40 };

static uint32_t seed;
static uint32_t dice(void)
{
	seed = seed * 1664525 + 1013904223;
	return seed >> 8;
}

/* --- the carrier's ends --- */

struct gate {
	struct stream s;
	struct stream *in;
	struct task *owner;
	unsigned refuse, odd; /* percent of calls that say EAGAIN; EINVAL (pipe verbs) */
	size_t piece;         /* most that a call moves; 0: no limit */
	bool stalled;         /* every call says EAGAIN */
	bool no_pipe;         /* the pipe verbs say EOPNOTSUPP */
	uint64_t copied_out, piped_out, copied_in, piped_in;
};

static struct reactor *rx;
static struct gate *gate[2];
static struct mux *mux[2]; /* client, server */
static unsigned muxes_ended;

static struct gate *gate_of(struct stream *s)
{
	return container_of(s, struct gate, s);
}

static bool refuses(struct gate *g)
{
	if (g->stalled)
		return true;
	if (dice() % 100 >= g->refuse)
		return false;
	if (g->owner)
		task_wake(rx, g->owner);
	return true;
}

static size_t part_of(struct gate *g, size_t n)
{
	size_t some = g->piece ? 1 + dice() % g->piece : n;
	return MIN(n, some);
}

static ssize_t gate_read(struct stream *s, const struct iovec *iov, int n)
{
	struct gate *g = gate_of(s);
	assert_int_equal(1, n);
	if (refuses(g))
		return -EAGAIN;
	ssize_t r = stream_read(g->in, iov->iov_base, part_of(g, iov->iov_len));
	g->copied_in += r > 0 ? (uint64_t)r : 0;
	return r;
}

static ssize_t put(struct gate *g, const struct iovec *iov, int n, bool more)
{
	struct iovec cut = { NULL, 0 };
	if (refuses(g))
		return -EAGAIN;
	if (g->piece) {
		cut = (struct iovec){ iov->iov_base, part_of(g, iov->iov_len) };
		iov = &cut;
		n = 1;
	}
	ssize_t r = more ? g->in->ops->write_more(g->in, iov, n) : g->in->ops->write(g->in, iov, n);
	g->copied_out += r > 0 ? (uint64_t)r : 0;
	return r;
}

static ssize_t gate_write(struct stream *s, const struct iovec *iov, int n)
{
	return put(gate_of(s), iov, n, false);
}

static ssize_t gate_write_more(struct stream *s, const struct iovec *iov, int n)
{
	return put(gate_of(s), iov, n, true);
}

/* What a pipe verb says before it is tried: 0 to go on. */
static int no_pipe(struct gate *g)
{
	if (g->no_pipe)
		return -EOPNOTSUPP;
	if (dice() % 100 < g->odd)
		return -EINVAL;
	return refuses(g) ? -EAGAIN : 0;
}

static ssize_t gate_to_pipe(struct stream *s, int pipe_w, size_t max)
{
	struct gate *g = gate_of(s);
	int no = no_pipe(g);
	if (no)
		return no;
	ssize_t r = g->in->ops->to_pipe(g->in, pipe_w, part_of(g, max));
	g->piped_in += r > 0 ? (uint64_t)r : 0;
	return r;
}

static ssize_t gate_from_pipe(struct stream *s, struct pipe_pair **p, size_t n)
{
	struct gate *g = gate_of(s);
	if (n == 0)
		return g->no_pipe ? -EOPNOTSUPP : PIPE_BYTES;
	int no = no_pipe(g);
	if (no)
		return no;
	ssize_t r = g->in->ops->from_pipe(g->in, p, part_of(g, n));
	g->piped_out += r > 0 ? (uint64_t)r : 0;
	return r;
}

static int gate_shut(struct stream *s)
{
	return stream_shut(gate_of(s)->in);
}

static void gate_close(struct stream *s, int why)
{
	struct gate *g = gate_of(s);
	stream_close(g->in, why);
	gate[g == gate[1]] = NULL;
	free(g);
}

static void gate_bind(struct stream *s, struct task *t)
{
	gate_of(s)->owner = t;
	stream_bind(gate_of(s)->in, t);
}

static const struct stream_ops gate_ops = {
	.name = "gate",
	.read = gate_read,
	.write = gate_write,
	.write_more = gate_write_more,
	.to_pipe = gate_to_pipe,
	.from_pipe = gate_from_pipe,
	.shut = gate_shut,
	.close = gate_close,
	.bind = gate_bind,
};

static void stall(struct gate *g, bool on)
{
	g->stalled = on;
	task_wake(rx, g->owner);
}

/* --- sockets --- */

enum kind { UNIX = 0, TCP };

static void connected(enum kind kind, int fd[2])
{
	if (kind == UNIX)
		socket_pair(fd);
	else
		tcp_pair(fd);
}

/* --- the rig --- */

/* One forwarded connection: the test holds its far ends. */
static struct link {
	int fd[2]; /* at the client's side, at the server's side */
	unsigned pumps;
	int code[2];
} link_[STREAMS];
static enum kind ends_are;
static unsigned opened;

static void finished(void *arg, const struct pump_end *e, const char *why)
{
	(void)why;
	struct link *l = arg;
	l->code[--l->pumps] = e->code;
}

static void start_pump(struct link *l, int side, struct stream *s)
{
	int fd[2], large = 1 << 20; /* the reader's pace is the test's to say */
	connected(ends_are, fd);
	setsockopt(fd[1], SOL_SOCKET, SO_SNDBUF, &large, sizeof(large));
	l->fd[side] = fd[0];
	l->pumps++;
	pump_start(rx, fd_stream_new(rx, fd[1]), s, finished, l);
}

static void on_opened(void *arg, struct stream *s, struct slice json)
{
	(void)arg, (void)json;
	mux_accept(s, SLICE(""));
	start_pump(&link_[opened++], 1, s); /* in the order in which they were opened */
}

static void on_ended(void *arg, int code, const char *why)
{
	struct mux **m = arg;
	mux_free(*m, code, why);
	*m = NULL;
	muxes_ended++;
}

static void rig(enum kind carrier, unsigned links)
{
	int fd[2];
	connected(carrier, fd);
	opened = 0;
	muxes_ended = 0;
	for (int i = 0; i < 2; i++) {
		gate[i] = xcalloc(1, sizeof(*gate[i]));
		gate[i]->s = (struct stream){ .ops = &gate_ops, .rx = rx };
		gate[i]->in = fd_stream_new(rx, fd[i]);
		mux[i] = mux_new(
		    rx, &gate[i]->s, SLICE(""),
		    &(struct mux_options){
			.client = i == 0, .opened = on_opened, .ended = on_ended, .arg = &mux[i] });
	}
	for (unsigned i = 0; i < links; i++) {
		link_[i] = (struct link){ .pumps = 0 };
		start_pump(&link_[i], 0, mux_open(mux[0], SLICE("{}")));
	}
	UNTIL(opened == links);
}

static void unrig(void)
{
	for (int i = 0; i < 2; i++) {
		mux_free(mux[i], -ECONNRESET, NULL);
		mux[i] = NULL;
	}
	for (unsigned i = 0; i < opened; i++) {
		UNTIL(link_[i].pumps == 0);
		close(link_[i].fd[0]);
		close(link_[i].fd[1]);
	}
}

static int setup(void **state)
{
	(void)state;
	seed = 1;
	ends_are = UNIX;
	rx = reactor_new();
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

/* --- what flows --- */

enum { PIECE = 300000, PERIOD = 1 << 20 };

/* What flow number way has from its byte at on: PIECE bytes. */
static const char *pattern(int way, uint64_t at)
{
	static char noise[PERIOD + PIECE];
	if (noise[0] == noise[1])
		for (size_t i = 0; i < sizeof(noise); i++)
			noise[i] = (char)(i < PERIOD ? dice() : (unsigned char)noise[i - PERIOD]);
	return noise + ((uint64_t)way * 7919 + at) % PERIOD;
}

/* One direction, from one far end to the other. */
struct flow {
	int from, to, way;
	uint64_t all, sent, got;
	unsigned stall; /* steps for which nothing is read */
	bool shut, eof, broken;
};

static void flow_send(struct flow *f, size_t most)
{
	size_t n = 1 + dice() % most;
	n = MIN(n, f->all - f->sent);
	ssize_t r = n ? send(f->from, pattern(f->way, f->sent), n, MSG_NOSIGNAL) : 0;
	f->sent += r > 0 ? (uint64_t)r : 0;
	if (f->sent == f->all && !f->shut) {
		assert_int_equal(0, shutdown(f->from, SHUT_WR));
		f->shut = true;
	}
}

static void flow_read(struct flow *f, size_t most)
{
	static char piece[PIECE];
	ssize_t r = read(f->to, piece, 1 + dice() % most);
	if (r == -1) {
		f->broken = errno != EAGAIN;
		return;
	}
	if (memcmp(piece, pattern(f->way, f->got), (size_t)r) != 0)
		fail_msg("way %d: bytes from %llu on differ", f->way, (unsigned long long)f->got);
	f->got += (uint64_t)r;
	f->eof |= r == 0;
}

static void flow_step(struct flow *f, size_t most)
{
	flow_send(f, most);
	if (f->stall > 0)
		f->stall--;
	else if (!f->eof && !f->broken)
		flow_read(f, most);
}

static struct flow flow_of(unsigned i, int back, uint64_t all)
{
	return (struct flow){ .from = link_[i].fd[back],
			      .to = link_[i].fd[!back],
			      .way = (int)(2 * i) + back,
			      .all = all };
}

static void run_to_end(struct flow *f, size_t n, size_t most)
{
	bool all = false;
	while (!all) {
		all = true;
		for (size_t i = 0; i < n; i++) {
			flow_step(&f[i], most);
			all &= f[i].eof || f[i].broken;
		}
		turn_once(rx);
	}
	for (size_t i = 0; i < n; i++) {
		assert_false(f[i].broken);
		assert_int_equal(f[i].all, f[i].got);
	}
}

/* --- the tests --- */

static void large_frames_are_spliced(void **state)
{
	(void)state;
	for (int kind = 0; kind < 4; kind++) {
		ends_are = (enum kind)(kind & 1);
		rig((enum kind)(kind >> 1), 1);
		struct flow f[2] = { flow_of(0, 0, 20000001), flow_of(0, 1, 15000003) };
		while (!f[0].eof || !f[1].eof) {
			for (int i = 0; i < 2; i++) {
				flow_send(&f[i], 250000);
				for (int n = 0; n < 20 && !f[i].eof; n++)
					flow_read(&f[i], 250000);
			}
			turn_once(rx);
		}
		assert_int_equal(f[0].all, f[0].got);
		assert_int_equal(f[1].all, f[1].got);
		UNTIL(link_[0].pumps == 0);
		assert_int_equal(0, link_[0].code[0]);
		assert_int_equal(0, link_[0].code[1]);
		assert_true(gate[0]->piped_out > f[0].all / 2);
		assert_true(gate[1]->piped_out > f[1].all / 2);
		assert_true(gate[1]->piped_in > f[0].all / 2);
		assert_true(gate[0]->piped_in > f[1].all / 2);
		unrig();
	}
}

/* Small talk is copied, also on a stream that has moved much before. */
static void small_messages_are_copied(void **state)
{
	(void)state;
	rig(TCP, 1);
	struct flow f = flow_of(0, 0, UINT64_MAX), back = flow_of(0, 1, UINT64_MAX);
	while (f.got < 4000000) {
		flow_step(&f, 250000);
		turn_once(rx);
	}
	UNTIL((flow_read(&f, 250000), f.got == f.sent));
	uint64_t piped = gate[0]->piped_out;
	assert_true(piped > 2000000);
	for (int i = 0; i < 300; i++) {
		flow_send(&f, 300);
		UNTIL((flow_read(&f, 1000), f.got == f.sent));
		flow_send(&back, 300);
		UNTIL((flow_read(&back, 1000), back.got == back.sent));
	}
	assert_int_equal(piped, gate[0]->piped_out);
	assert_int_equal(0, gate[1]->piped_out);
	unrig();
}

/* Many at once, both ways, readers that stall, and a carrier that does all it may. */
static void bytes_arrive_whatever_the_carrier_does(void **state)
{
	(void)state;
	enum { N = 12 };
	for (uint32_t round = 1; round <= 10; round++) {
		struct flow f[2 * N];
		bool all = false;
		ends_are = (enum kind)(round & 1);
		rig((enum kind)(round >> 1 & 1), N);
		seed = round * 7919;
		for (int i = 0; i < 2; i++) {
			gate[i]->refuse = round * 7 % 40;
			gate[i]->odd = round % 3 ? 0 : 20;
			gate[i]->piece = round % 4 ? (size_t)1 << (10 + round % 9) : 0;
		}
		for (unsigned i = 0; i < 2 * N; i++)
			f[i] = flow_of(i / 2, i & 1, dice() % 4 ? dice() % 1500000 : dice() % 100);
		while (!all) {
			all = true;
			for (unsigned i = 0; i < 2 * N; i++) {
				if (dice() % 300 == 0)
					f[i].stall = dice() % 100;
				flow_step(&f[i], dice() % 8 ? 250000 : 100);
				assert_false(f[i].broken);
				all &= f[i].eof;
			}
			if (dice() % 50 == 0)
				stall(gate[dice() & 1], true);
			if (dice() % 10 == 0)
				for (int i = 0; i < 2; i++)
					stall(gate[i], false);
			if (dice() % 2000 == 0)
				gate[dice() & 1]->no_pipe = round % 5 == 0;
			turn_once(rx);
		}
		for (unsigned i = 0; i < 2 * N; i++)
			assert_int_equal(f[i].all, f[i].got);
		unrig();
	}
}

/* There are none left: everything is copied. */
static void without_pipes(void **state)
{
	(void)state;
	static struct pipe_pair *taken[PIPES_MAX];
	size_t n = 0;
	while (n < PIPES_MAX && (taken[n] = pipe_get()))
		n++;
	rig(UNIX, 2);
	struct flow f[4] = { flow_of(0, 0, 3000000), flow_of(0, 1, 10), flow_of(1, 0, 3000000),
			     flow_of(1, 1, 3000000) };
	run_to_end(f, 4, 250000);
	assert_int_equal(0, gate[0]->piped_out + gate[1]->piped_out);
	while (n > 0)
		pipe_put(taken[--n], 1);
	unrig();
}

/* Splices until a frame is stuck half-way in the client's end of the carrier. */
static void stick(struct flow *f)
{
	gate[0]->piece = 30000;
	while (mux[0]->out.wire.first == NULL || mux[0]->out.wire.first->in_pipe == 0 ||
	       mux[0]->out.wire.first->head == 0 || mux[0]->out.wire.first->in_pipe > 150000) {
		flow_step(f, 250000);
		gate[0]->refuse = f->got > 1000000 ? 70 : 0;
		turn_once(rx);
	}
	gate[0]->refuse = 0;
	gate[0]->piece = 0;
	stall(gate[0], true);
}

/* The source breaks off while its frame is half-way out: the frame ends as it began, its reader
 * gets a beginning and a reset, the others notice nothing. */
static void a_reset_half_way_through_a_frame(void **state)
{
	(void)state;
	ends_are = TCP;
	rig(UNIX, 2);
	struct flow f = flow_of(0, 0, UINT64_MAX), other = flow_of(1, 0, 3000000);
	struct linger abrupt = { 1, 0 };
	stick(&f);
	setsockopt(f.from, SOL_SOCKET, SO_LINGER, &abrupt, sizeof(abrupt));
	close(f.from);
	link_[0].fd[0] = -1;
	while (link_[0].pumps == 2) { /* the client's has seen it */
		flow_send(&other, 100000);
		turn_once(rx);
	}
	stall(gate[0], false);
	while (!f.eof && !f.broken) {
		flow_read(&f, 250000);
		turn_once(rx);
	}
	assert_true(f.broken && f.got > 0 && f.got <= f.sent);
	run_to_end(&other, 1, 100000);
	assert_int_equal(0, muxes_ended);
	unrig();
}

/* The reader goes away while a frame for it is half-way in. */
static void a_reader_that_leaves_half_way_through_a_frame(void **state)
{
	(void)state;
	ends_are = TCP;
	rig(TCP, 2);
	struct flow f = flow_of(0, 0, UINT64_MAX), other = flow_of(1, 0, 3000000);
	struct linger abrupt = { 1, 0 };
	stick(&f);
	while (mux[1]->cur_left == 0 || mux[1]->cur_stream == NULL) {
		stall(gate[0], false);
		flow_step(&f, 250000);
		turn_once(rx);
		stall(gate[0], true);
	}
	setsockopt(f.to, SOL_SOCKET, SO_LINGER, &abrupt, sizeof(abrupt));
	close(f.to);
	link_[0].fd[1] = -1;
	stall(gate[0], false);
	run_to_end(&other, 1, 100000);
	UNTIL(link_[0].pumps == 0);
	assert_true(link_[0].code[0] < 0 && link_[0].code[1] < 0);
	assert_int_equal(0, muxes_ended);
	unrig();
}

/* The carrier breaks inside a frame: all streams end with a reset, and nobody got a wrong byte. */
static void a_carrier_cut_half_way_through_a_frame(void **state)
{
	(void)state;
	for (int orderly = 0; orderly < 2; orderly++) {
		ends_are = TCP;
		rig(UNIX, 2);
		struct flow f = flow_of(0, 0, UINT64_MAX), back = flow_of(1, 1, UINT64_MAX);
		for (int i = 0; i < 10; i++)
			flow_step(&back, 100000);
		stick(&f);
		if (orderly)
			stream_shut(gate[0]->in);
		else
			mux_free(mux[0], -ECONNRESET, "cut");
		mux[0] = orderly ? mux[0] : NULL;
		while ((!f.eof && !f.broken) || link_[0].pumps + link_[1].pumps > 0) {
			flow_step(&f, 250000);
			flow_step(&back, 250000);
			turn_once(rx);
		}
		assert_true(f.broken);
		assert_true(link_[0].code[0] < 0 && link_[0].code[1] < 0);
		assert_true(muxes_ended > 0);
		unrig();
	}
}

/* A reader that stops in the middle of a frame stops its own stream only. */
static void a_blocked_reader_holds_up_no_other(void **state)
{
	(void)state;
	rig(TCP, 2);
	struct flow f = flow_of(0, 0, UINT64_MAX), other = flow_of(1, 0, 8000000);
	while (f.got < 2000000) {
		flow_step(&f, 250000);
		turn_once(rx);
	}
	f.stall = UINT32_MAX;
	while (!other.eof) {
		flow_step(&f, 250000);
		flow_step(&other, 250000);
		turn_once(rx);
	}
	assert_int_equal(other.all, other.got);
	assert_true(f.sent > f.got && f.sent < f.got + WINDOW_MAX + (4 << 20));
	f.stall = 0; /* and what was held for it is right */
	uint64_t upto = f.sent;
	while (f.got < upto) {
		flow_step(&f, 250000);
		turn_once(rx);
	}
	unrig();
}

/* An interactive stream waits for about one quantum of the bulk beside it, not for a round of it.
 */
static void small_talk_goes_before_bulk(void **state)
{
	(void)state;
	enum { BULK = 8 };
	struct flow f[BULK], talk;
	rig(UNIX, BULK + 1);
	for (unsigned i = 0; i < BULK; i++)
		f[i] = flow_of(i, 0, UINT64_MAX);
	talk = flow_of(BULK, 0, UINT64_MAX);
	gate[0]->piece = 30000; /* so that one turn does not send all */
	gate[0]->refuse = 30;
	uint64_t worst = 0;
	for (int n = 0; n < 200; n++) {
		usleep(500);
		uint64_t at = 0;
		for (int i = 0; i < 5 || talk.got < talk.sent; i++) {
			for (unsigned k = 0; k < BULK; k++)
				flow_step(&f[k], 250000);
			if (i == 4) {
				flow_send(&talk, 100);
				at = gate[0]->piped_out + gate[0]->copied_out;
			}
			turn_once(rx);
			flow_read(&talk, 1000);
			assert_true(i < 10000);
		}
		worst = MAX(worst, gate[0]->piped_out + gate[0]->copied_out - at);
	}
	assert_true(gate[0]->piped_out > 0);
	print_message("at most %llu bytes went before a message\n", (unsigned long long)worst);
	assert_true(worst < 4 * QUANTUM_MAX); /* on the wire, and in the socket's buffer */
	unrig();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(large_frames_are_spliced),
		T(small_messages_are_copied),
		T(bytes_arrive_whatever_the_carrier_does),
		T(without_pipes),
		T(a_reset_half_way_through_a_frame),
		T(a_reader_that_leaves_half_way_through_a_frame),
		T(a_carrier_cut_half_way_through_a_frame),
		T(a_blocked_reader_holds_up_no_other),
		T(small_talk_goes_before_bulk),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
