/* Two muxes over a socketpair in one reactor: data, credit, fairness, half close, resets, the end.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/tstunnel/frame.h"
#include "proto/tstunnel/mux.h"
#include "reactor/buf.h"
#include "reactor/err.h"
#include "reactor/pump.h"

static struct reactor *rx;
static struct mux *client, *server;
static struct stream *accepted[16384];
static unsigned naccepted;
static char open_json[64];
static int ended_code[2];
static bool ended_flag;

static void on_opened(void *arg, struct stream *s, struct slice json)
{
	(void)arg;
	snprintf(open_json, sizeof(open_json), "%.*s", SLICE_FMT(json));
	if (slice_eq(json, SLICE("{\"no\":1}"))) {
		mux_refuse(s, -ECONNREFUSED, "dial tcp 127.0.0.1:9: connection refused");
		return;
	}
	mux_accept(s, SLICE("{}"));
	accepted[naccepted++] = s;
}

static void on_ended(void *arg, int code, const char *why)
{
	struct mux **m = arg;
	assert_non_null(why);
	ended_code[m == &server] = code;
	mux_free(*m, code, why);
	*m = NULL;
	ended_flag = true;
}

static int setup(void **state)
{
	(void)state;
	int fd[2];
	rx = reactor_new();
	assert_int_equal(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd));
	naccepted = 0;
	ended_flag = false;
	ended_code[0] = ended_code[1] = 99;
	client =
	    mux_new(rx, fd_stream_new(rx, fd[0]), SLICE(""),
		    &(struct mux_options){ .client = true, .ended = on_ended, .arg = &client });
	server = mux_new(
	    rx, fd_stream_new(rx, fd[1]), SLICE(""),
	    &(struct mux_options){ .opened = on_opened, .ended = on_ended, .arg = &server });
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	mux_free(client, -ECONNRESET, NULL);
	mux_free(server, -ECONNRESET, NULL);
	client = server = NULL;
	reactor_free(rx);
	block_trim();
	return 0;
}

/* --- a peer in the test: sends n pattern bytes, then FIN; reads and checks the same --- */

struct end {
	struct task task;
	struct stream *s;
	uint64_t to_send, sent, got, quantum;
	unsigned char seed;
	bool paused, eof, shut, failed;
	int code;
	bool *flag;
};

static unsigned char pattern(unsigned char seed, uint64_t at)
{
	return (unsigned char)(seed + at * 7 + (at >> 13));
}

static void end_run(struct task *t)
{
	struct end *e = container_of(t, struct end, task);
	static unsigned char buf[32768];
	while (e->sent < e->to_send) {
		size_t n = MIN(sizeof(buf), e->to_send - e->sent);
		for (size_t i = 0; i < n; i++)
			buf[i] = pattern(e->seed, e->sent + i);
		ssize_t r = stream_write(e->s, buf, n);
		if (r == -EAGAIN)
			break;
		if (r < 0) {
			e->failed = true;
			e->code = (int)r;
			*e->flag = true;
			return;
		}
		e->sent += (uint64_t)r;
	}
	if (e->sent == e->to_send && !e->shut) {
		assert_int_equal(0, stream_shut(e->s));
		e->shut = true;
	}
	while (!e->paused && !e->eof) {
		ssize_t r = stream_read(e->s, buf, sizeof(buf));
		if (r == -EAGAIN)
			break;
		if (r < 0) {
			e->failed = true;
			e->code = (int)r;
			*e->flag = true;
			return;
		}
		for (ssize_t i = 0; i < r; i++)
			if (buf[i] != pattern(e->seed, e->got + (uint64_t)i))
				fail_msg("byte %llu differs",
					 (unsigned long long)e->got + (uint64_t)i);
		e->got += (uint64_t)r;
		if (r == 0) {
			e->eof = true;
			*e->flag = true;
		}
	}
}

static void end_start(struct end *e, struct stream *s, uint64_t n, unsigned char seed, bool *flag)
{
	*e = (struct end){ .s = s, .to_send = n, .seed = seed, .flag = flag };
	task_init(&e->task, end_run);
	stream_bind(s, &e->task);
	task_wake(rx, &e->task);
}

static void end_close(struct end *e, int why)
{
	task_cancel(&e->task);
	stream_close(e->s, why);
}

/* Turns until cond or 20 s. */
static bool timed_out;
static void on_deadline(struct timer *t)
{
	(void)t;
	timed_out = true;
	ended_flag = true;
}
#define RUN_UNTIL(cond)                                                                            \
	do {                                                                                       \
		struct timer deadline_;                                                            \
		timer_init(&deadline_, on_deadline);                                               \
		timer_set(rx, &deadline_, 20000);                                                  \
		timed_out = false;                                                                 \
		while (!(cond) && !timed_out) {                                                    \
			bool once_ = false;                                                        \
			one_turn(&once_);                                                          \
		}                                                                                  \
		timer_clear(rx, &deadline_);                                                       \
		assert_false(timed_out);                                                           \
	} while (0)

static bool *turn_flag;
static void turn_over(struct task *t)
{
	(void)t;
	*turn_flag = true;
}
static void one_turn(bool *flag)
{
	struct task t;
	struct timer tick;
	turn_flag = flag;
	task_init(&t, turn_over);
	(void)tick;
	task_defer(rx, &t);
	reactor_run_until(rx, flag);
	task_cancel(&t);
}

static void echo_both_ways(void **state)
{
	(void)state;
	bool flag = false;
	struct end a, b;
	end_start(&a, mux_open(client, SLICE("{\"kind\":\"x\"}")), 9000000, 3, &flag);
	RUN_UNTIL(naccepted == 1);
	assert_string_equal("{\"kind\":\"x\"}", open_json);
	end_start(&b, accepted[0], 7000000, 3, &flag);
	RUN_UNTIL(a.eof && b.eof);
	assert_int_equal(a.got, 7000000);
	assert_int_equal(b.got, 9000000);
	end_close(&a, 0);
	end_close(&b, 0);
	RUN_UNTIL(mux_stats(client)->streams == 0 && mux_stats(server)->streams == 0);
	assert_true(mux_stats(client)->rtt_us > 0);
}

static void refusal_has_code_and_text(void **state)
{
	(void)state;
	struct stream *s = mux_open(client, SLICE("{\"no\":1}"));
	RUN_UNTIL(stream_open_yet(s) != -EAGAIN);
	assert_int_equal(-ECONNREFUSED, stream_open_yet(s));
	assert_string_equal("dial tcp 127.0.0.1:9: connection refused",
			    stream_why(s, -ECONNREFUSED));
	stream_close(s, 0);
}

/* A reader that does not read stops its own stream and no other; memory is bounded by the window.
 */
static void stalled_stream_stops_only_itself(void **state)
{
	(void)state;
	bool flag = false;
	struct end a[2], b[2];
	end_start(&a[0], mux_open(client, SLICE("{}")), 50000000, 1, &flag);
	RUN_UNTIL(naccepted == 1);
	end_start(&a[1], mux_open(client, SLICE("{}")), 5000000, 2, &flag);
	RUN_UNTIL(naccepted == 2);
	end_start(&b[0], accepted[0], 0, 1, &flag);
	b[0].paused = true;
	end_start(&b[1], accepted[1], 0, 2, &flag);
	RUN_UNTIL(b[1].eof);
	assert_int_equal(5000000, b[1].got);
	assert_true(a[0].sent <= 256 * 1024); /* the initial window, exactly */
	b[0].paused = false;
	task_wake(rx, &b[0].task);
	RUN_UNTIL(b[0].eof);
	assert_int_equal(50000000, b[0].got);
	for (int i = 0; i < 2; i++) {
		end_close(&a[i], 0);
		end_close(&b[i], 0);
	}
}

/* While one finishes, the others must be about as far: Jain's index over 32 streams. */
static void streams_share_fairly(void **state)
{
	(void)state;
	enum { N = 32, EACH = 3000000 };
	static struct end a[N], b[N];
	bool sender = false, flag = false;
	for (int i = 0; i < N; i++)
		end_start(&a[i], mux_open(client, SLICE("{}")), EACH, (unsigned char)i, &sender);
	RUN_UNTIL(naccepted == N);
	for (int i = 0; i < N; i++)
		end_start(&b[i], accepted[i], 0, (unsigned char)i, &flag);
	RUN_UNTIL(flag);
	double sum = 0, squares = 0;
	for (int i = 0; i < N; i++) {
		sum += (double)b[i].got;
		squares += (double)b[i].got * (double)b[i].got;
	}
	assert_true(sum * sum / (N * squares) > 0.99);
	for (int i = 0; i < N; i++) {
		end_close(&a[i], -ECONNRESET);
		end_close(&b[i], -ECONNRESET);
	}
}

static void close_tells_the_writer(void **state)
{
	(void)state;
	bool flag = false;
	struct end a;
	end_start(&a, mux_open(client, SLICE("{}")), 100000000, 1, &flag);
	RUN_UNTIL(naccepted == 1);
	stream_close(accepted[0], 0); /* reads no more */
	RUN_UNTIL(a.failed);
	assert_int_equal(-EPIPE, a.code);
	end_close(&a, 0);
	end_start(&a, mux_open(client, SLICE("{}")), 100000000, 1, &flag);
	RUN_UNTIL(naccepted == 2);
	stream_close(accepted[1], -ETIMEDOUT);
	RUN_UNTIL(a.failed);
	assert_int_equal(-ETIMEDOUT, a.code);
	end_close(&a, 0);
	RUN_UNTIL(mux_stats(client)->streams == 0);
}

/* What was written before close(0) arrives, with a proper end. */
static void close_after_write_loses_nothing(void **state)
{
	(void)state;
	bool flag = false;
	struct stream *s = mux_open(client, SLICE("{}"));
	unsigned char buf[100000];
	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = pattern(9, i);
	ssize_t n = stream_write(s, buf, sizeof(buf));
	assert_int_equal(n, sizeof(buf));
	stream_close(s, 0);
	RUN_UNTIL(naccepted == 1);
	struct end b;
	end_start(&b, accepted[0], 0, 9, &flag);
	RUN_UNTIL(b.eof || b.failed);
	assert_int_equal(sizeof(buf), b.got);
	end_close(&b, 0);
}

static void lost_carrier_fails_streams_with_the_reason(void **state)
{
	(void)state;
	bool flag = false;
	struct end a;
	end_start(&a, mux_open(client, SLICE("{}")), 1000, 1, &flag);
	RUN_UNTIL(naccepted == 1);
	mux_free(server, -ECONNRESET, "gone");
	server = NULL;
	RUN_UNTIL(a.failed && ended_flag);
	assert_int_equal(-ECONNRESET, a.code);
	assert_int_equal(-ECONNRESET, ended_code[0]);
	assert_null(client);
	end_close(&a, 0);
	stream_close(accepted[0], 0);
}

static void goaway_drains(void **state)
{
	(void)state;
	bool flag = false;
	struct end a, b;
	end_start(&a, mux_open(client, SLICE("{}")), 3000000, 1, &flag);
	RUN_UNTIL(naccepted == 1);
	end_start(&b, accepted[0], 10, 1, &flag);
	mux_goaway(server, "bye");
	RUN_UNTIL(mux_stats(client)->goaway);
	struct stream *late = mux_open(client, SLICE("{}"));
	assert_int_equal(-ERR_GOAWAY, stream_open_yet(late));
	stream_close(late, 0);
	RUN_UNTIL(a.eof && b.eof);
	assert_int_equal(3000000, b.got);
	end_close(&a, 0);
	end_close(&b, 0);
	RUN_UNTIL(!client && !server);
	assert_int_equal(0, ended_code[0]);
	assert_int_equal(0, ended_code[1]);
}

static void limits_streams_of_the_peer(void **state)
{
	(void)state;
	enum { MAX = ARRAY_LEN(accepted) };
	static struct stream *s[MAX + 1];
	for (int i = 0; i < MAX + 1; i++)
		s[i] = mux_open(client, SLICE("{}"));
	RUN_UNTIL(stream_open_yet(s[MAX]) != -EAGAIN);
	assert_int_equal(MAX, naccepted);
	assert_int_equal(-ERR_TOO_MANY, stream_open_yet(s[MAX]));
	assert_int_equal(0, stream_open_yet(s[MAX - 1]));
	for (int i = 0; i < MAX + 1; i++)
		stream_close(s[i], 0);
	RUN_UNTIL(mux_stats(client)->streams == 0);
	stream_close(accepted[--naccepted], 0); /* there is a place again */
	struct stream *again = mux_open(client, SLICE("{}"));
	RUN_UNTIL(stream_open_yet(again) != -EAGAIN);
	assert_int_equal(0, stream_open_yet(again));
	stream_close(again, 0);
	for (unsigned i = 0; i < naccepted; i++)
		stream_close(accepted[i], 0);
	RUN_UNTIL(mux_stats(server)->streams == 0);
}

static void channels_and_controls(void **state)
{
	(void)state;
	struct stream *s = mux_open(client, SLICE("{}"));
	RUN_UNTIL(naccepted == 1);
	struct stream *g = accepted[0];
	for (int i = 0; i < 300; i++) {
		mux_set_channel(g, (uint8_t)(1 + i % 2));
		assert_int_equal(3, stream_write(g, i % 2 ? "err" : "out", 3));
	}
	assert_int_equal(0, mux_control(g, SLICE("{\"exit\":3}")));
	stream_shut(g);
	char *c = NULL;
	RUN_UNTIL((c = mux_next_control(s)) != NULL);
	assert_string_equal("{\"exit\":3}", c);
	free(c);
	unsigned seen = 0;
	for (;;) {
		struct iovec iov[4];
		int r;
		RUN_UNTIL((r = s->ops->peek(s, iov, 4)) != -EAGAIN);
		if (r == 0)
			break;
		assert_true(r > 0);
		/* one byte at a time: cuts records in the middle */
		uint8_t ch = mux_peeked_channel(s);
		assert_int_equal(1 + seen / 3 % 2, ch);
		assert_int_equal((ch == 2 ? "err" : "out")[seen % 3], *(char *)iov[0].iov_base);
		s->ops->drop(s, 1);
		seen++;
	}
	assert_int_equal(900, seen);
	stream_close(s, 0);
	stream_close(g, 0);
}

static void protocol_errors_end_the_carrier(void **state)
{
	(void)state;
	static const struct {
		struct frame f;
		size_t bytes;
	} bad[] = {
		{ { .length = 0, .type = 77 }, FRAME_HEADER },
		{ { .length = 3, .stream = 1, .type = FRAME_WINDOW }, FRAME_HEADER },
		{ { .length = 5, .stream = 9, .type = FRAME_DATA }, FRAME_HEADER },
		{ { .length = FRAME_DATA_MAX + 1, .stream = 9, .type = FRAME_DATA }, FRAME_HEADER },
		{ { .length = 2, .stream = 2, .type = FRAME_OPEN }, FRAME_HEADER + 2 },
		{ { .stream = 1, .type = FRAME_FIN, .flags = 128 }, FRAME_HEADER },
	};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		int fd[2];
		char raw[64] = { 0 };
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd);
		static struct mux *victim;
		ended_flag = false;
		victim = mux_new(rx, fd_stream_new(rx, fd[0]), SLICE(""),
				 &(struct mux_options){
				     .opened = on_opened, .ended = on_ended, .arg = &victim });
		frame_put(raw, &(struct frame){ .length = 2, .type = FRAME_SETTINGS });
		memcpy(raw + FRAME_HEADER, "{}", 2);
		frame_put(raw + FRAME_HEADER + 2, &bad[i].f);
		memcpy(raw + 2 * FRAME_HEADER + 2, "{}", 2);
		assert_true(write(fd[1], raw, FRAME_HEADER + 2 + bad[i].bytes) > 0);
		RUN_UNTIL(ended_flag);
		assert_int_equal(-EPROTO, ended_code[0]);
		assert_null(victim);
		close(fd[1]);
	}
}

/* Every byte of a session alone in its read: frames are cut everywhere. */
static void frames_survive_any_split(void **state)
{
	(void)state;
	int fd[2];
	socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd);
	static struct mux *m;
	m = mux_new(rx, fd_stream_new(rx, fd[0]), SLICE(""),
		    &(struct mux_options){ .opened = on_opened, .ended = on_ended, .arg = &m });
	char raw[256];
	size_t n = 0;
	const struct {
		struct frame f;
		const char *payload;
	} frames[] = {
		{ { .length = 2, .type = FRAME_SETTINGS }, "{}" },
		{ { .length = 12, .stream = 1, .type = FRAME_OPEN }, "{\"kind\":\"x\"}" },
		{ { .length = 5, .stream = 1, .type = FRAME_DATA }, "hello" },
		{ { .length = 0, .stream = 1, .type = FRAME_DATA }, "" },
		{ { .length = 6, .stream = 1, .type = FRAME_DATA }, " world" },
		{ { .stream = 1, .type = FRAME_FIN }, "" },
	};
	for (size_t i = 0; i < ARRAY_LEN(frames); i++) {
		frame_put(raw + n, &frames[i].f);
		memcpy(raw + n + FRAME_HEADER, frames[i].payload, frames[i].f.length);
		n += FRAME_HEADER + frames[i].f.length;
	}
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(1, write(fd[1], raw + i, 1));
		for (int k = 0; k < 3; k++) {
			bool once = false;
			one_turn(&once);
		}
	}
	assert_int_equal(1, naccepted);
	char got[32] = { 0 };
	size_t have = 0;
	for (;;) {
		ssize_t r;
		RUN_UNTIL((r = stream_read(accepted[0], got + have, sizeof(got) - have)) !=
			  -EAGAIN);
		assert_true(r >= 0);
		if (r == 0)
			break;
		have += (size_t)r;
	}
	assert_string_equal("hello world", got);
	stream_close(accepted[0], 0);
	mux_free(m, -ECONNRESET, NULL);
	close(fd[1]);
}

/* A mux over one end of a socketpair whose other end is the test's, which has sent SETTINGS. */
static struct mux *lonely;
static int lonely_mux(uint64_t keepalive_ms)
{
	int fd[2];
	char raw[FRAME_HEADER + 2];
	assert_int_equal(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd));
	lonely = mux_new(rx, fd_stream_new(rx, fd[0]), SLICE(""),
			 &(struct mux_options){ .keepalive_ms = keepalive_ms,
						.opened = on_opened,
						.ended = on_ended,
						.arg = &lonely });
	frame_put(raw, &(struct frame){ .length = 2, .type = FRAME_SETTINGS });
	memcpy(raw + FRAME_HEADER, "{}", 2);
	assert_int_equal(sizeof(raw), write(fd[1], raw, sizeof(raw)));
	return fd[1];
}

static void tell(int fd, struct frame f, const char *payload)
{
	char raw[FRAME_HEADER + 1024];
	frame_put(raw, &f);
	memcpy(raw + FRAME_HEADER, payload, f.length);
	assert_int_equal(FRAME_HEADER + f.length, write(fd, raw, FRAME_HEADER + f.length));
}

/* Answers that come within the millisecond of their PING count as answers. */
static void idle_carriers_stay_up(void **state)
{
	(void)state;
	int fd[2];
	static struct mux *m[2];
	assert_int_equal(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd));
	for (int i = 0; i < 2; i++)
		m[i] = mux_new(
		    rx, fd_stream_new(rx, fd[i]), SLICE(""),
		    &(struct mux_options){
			.client = i == 0, .keepalive_ms = 10, .ended = on_ended, .arg = &m[i] });
	struct timer t;
	timer_init(&t, on_deadline);
	timer_set(rx, &t, 300);
	reactor_run_until(rx, &ended_flag);
	assert_true(m[0] && m[1]); /* it was the timer */
	mux_free(m[0], -ECONNRESET, NULL);
	mux_free(m[1], -ECONNRESET, NULL);
}

static void silent_carriers_are_given_up(void **state)
{
	(void)state;
	int fd = lonely_mux(30);
	uint64_t start = reactor_now(rx);
	RUN_UNTIL(ended_flag);
	assert_int_equal(-ETIMEDOUT, ended_code[0]);
	assert_true(reactor_now(rx) - start >= 50 && reactor_now(rx) - start < 2000);
	close(fd);
}

/* Room that was lent and not used must not stand before what follows. */
static void unused_room_stops_nothing(void **state)
{
	(void)state;
	bool flag = false;
	static char text[3001];
	struct end b;
	struct iovec room;
	struct stream *s = mux_open(client, SLICE("{}"));
	RUN_UNTIL(naccepted == 1);
	for (size_t i = 0; i < 3500; i++) { /* nearly all that an interactive stream may */
		char c = (char)pattern(5, i);
		assert_int_equal(1, stream_write(s, &c, 1));
	}
	bool once = false;
	one_turn(&once);
	assert_int_equal(0, s->ops->room(s, &room));
	s->ops->added(s, 0);
	memset(text, 'x', 3000);
	assert_int_equal(0, mux_control(s, slice_str(text)));
	end_start(&b, accepted[0], 0, 5, &flag);
	char *got = NULL;
	RUN_UNTIL((got = mux_next_control(accepted[0])) != NULL);
	assert_int_equal(3000, strlen(got));
	free(got);
	RUN_UNTIL(b.got == 3500);
	end_close(&b, 0);
	stream_close(s, 0);
}

/* Many CONTROL messages in one read are no offence; without end they reset their stream only. */
static void controls_are_bounded(void **state)
{
	(void)state;
	struct stream *s = mux_open(client, SLICE("{}"));
	RUN_UNTIL(naccepted == 1);
	for (int i = 0; i < 500; i++)
		assert_int_equal(0, mux_control(s, SLICE("{\"resize\":[80,24]}")));
	assert_int_equal(0, mux_control(s, SLICE("{\"last\":1}")));
	unsigned n = 0;
	for (bool last = false; !last; n++) {
		char *c = NULL;
		RUN_UNTIL((c = mux_next_control(accepted[0])) != NULL);
		last = strcmp(c, "{\"last\":1}") == 0;
		free(c);
	}
	assert_int_equal(501, n);
	for (int i = 0; i < 5000; i++)
		mux_control(s, SLICE("{\"resize\":[80,24]}"));
	RUN_UNTIL(stream_open_yet(s) != 0);
	assert_int_equal(-ERR_TOO_MANY, stream_open_yet(s));
	assert_non_null(client);
	stream_close(s, 0);
	stream_close(accepted[0], 0);
}

/* All of a stream had come when the far side closed the carrier: that is no loss. */
static void complete_streams_outlive_their_carrier(void **state)
{
	(void)state;
	char buf[16];
	int fd = lonely_mux(0);
	for (uint32_t id = 1; id <= 3; id += 2) {
		tell(fd, (struct frame){ .length = 2, .stream = id, .type = FRAME_OPEN }, "{}");
		tell(fd, (struct frame){ .length = 5, .stream = id, .type = FRAME_DATA }, "bytes");
	}
	tell(fd, (struct frame){ .stream = 1, .type = FRAME_FIN }, "");
	RUN_UNTIL(naccepted == 2);
	assert_int_equal(0, stream_shut(accepted[0]));
	shutdown(fd, SHUT_WR);
	RUN_UNTIL(ended_flag);
	assert_int_equal(-ECONNRESET, ended_code[0]);
	assert_int_equal(3, stream_read(accepted[0], buf, 3));
	assert_int_equal(2, stream_read(accepted[0], buf, sizeof(buf)));
	assert_int_equal(0, stream_read(accepted[0], buf, sizeof(buf)));
	assert_int_equal(0, stream_shut(accepted[0]));
	assert_int_equal(-EPIPE, stream_write(accepted[0], "x", 1));
	assert_int_equal(-EPIPE, mux_control(accepted[0], SLICE("{}")));
	assert_int_equal(-ECONNRESET, stream_read(accepted[1], buf, sizeof(buf))); /* cut short */
	stream_close(accepted[0], 0);
	stream_close(accepted[1], 0);
	close(fd);
}

static void texts_of_the_peer_are_fit_for_a_terminal(void **state)
{
	(void)state;
	int fd = lonely_mux(0), r;
	char payload[32] = { 0, 0, 0, RESET_DENIED };
	tell(fd, (struct frame){ .length = 2, .stream = 1, .type = FRAME_OPEN }, "{}");
	memcpy(payload + 4, "no\x1b[31m\n\0!", 10);
	tell(fd, (struct frame){ .length = 14, .stream = 1, .type = FRAME_RESET }, payload);
	RUN_UNTIL(naccepted == 1 && (r = stream_open_yet(accepted[0])) < 0);
	assert_int_equal(-ERR_DENIED, r);
	assert_string_equal("no?[31m?"
			    "?!",
			    stream_why(accepted[0], r));
	stream_close(accepted[0], 0);
	mux_free(lonely, -ECONNRESET, NULL);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(echo_both_ways),
		T(refusal_has_code_and_text),
		T(stalled_stream_stops_only_itself),
		T(streams_share_fairly),
		T(close_tells_the_writer),
		T(close_after_write_loses_nothing),
		T(lost_carrier_fails_streams_with_the_reason),
		T(goaway_drains),
		T(limits_streams_of_the_peer),
		T(channels_and_controls),
		T(protocol_errors_end_the_carrier),
		T(frames_survive_any_split),
		T(idle_carriers_stay_up),
		T(silent_carriers_are_given_up),
		T(unused_room_stops_nothing),
		T(controls_are_bounded),
		T(complete_streams_outlive_their_carrier),
		T(texts_of_the_peer_are_fit_for_a_terminal),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
