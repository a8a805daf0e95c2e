/* Remote commands, both halves over a mux pair in one process: proto/tstunnel/exec_*.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/tstunnel/exec_client.h"
#include "proto/tstunnel/exec_request.h"
#include "proto/tstunnel/exec_server.h"
#include "proto/tstunnel/mux.h"
#include "reactor/buf.h"
#include "reactor/child.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "test/unit/process.h"
#include "test/unit/turn.h"

enum { OUT_MAX = 16 << 20, GIVE_UP_MS = 20000 };

static struct reactor *rx;
static struct mux *near, *far; /* the client's and the guest's end of one carrier */
static struct exec_policy policy;
static struct timer watchdog;

static void too_late(struct timer *t)
{
	(void)t;
	fprintf(stderr, "test timed out\n");
	abort();
}

static void wait_for(const bool *flag)
{
	timer_init(&watchdog, too_late);
	timer_set(rx, &watchdog, GIVE_UP_MS);
	reactor_run_until(rx, flag);
	timer_clear(rx, &watchdog);
}

struct pause {
	struct timer timer;
	bool over;
};

static void pause_fire(struct timer *t)
{
	container_of(t, struct pause, timer)->over = true;
}

static void turn_for(uint64_t ms)
{
	struct pause p = { .over = false };
	timer_init(&p.timer, pause_fire);
	timer_set(rx, &p.timer, ms);
	wait_for(&p.over);
}

/* --- one remote command with its local ends --- */

struct session {
	struct exec_client *client;
	struct stream *feed, *from[2]; /* our ends of its stdin, stdout, stderr */
	struct task task;
	struct buf text[2];
	size_t to_write, written;
	bool keep_stdin, stalled;
	bool opened, ended, done;
	struct exec_result result;
	char why[256];
	int *left;
	bool *all_done;
};

/* Byte i of what is fed: no period that a lost or repeated block could hide in. */
static char pattern(size_t i)
{
	return (char)((i * 2654435761u) >> 13);
}

static void feed(struct session *s)
{
	while (s->feed && s->written < s->to_write) {
		char block[8192];
		size_t want = MIN(sizeof(block), s->to_write - s->written);
		for (size_t i = 0; i < want; i++)
			block[i] = pattern(s->written + i);
		ssize_t n = stream_write(s->feed, block, want);
		if (n == -EAGAIN)
			return;
		if (n < 0)
			break;
		s->written += (size_t)n;
	}
	if (!s->keep_stdin) {
		stream_close(s->feed, 0);
		s->feed = NULL;
	}
}

static void collect(struct session *s, int i)
{
	while (s->from[i]) {
		struct iovec room = buf_room(&s->text[i]);
		assert_true(room.iov_len > 0);
		ssize_t n = s->from[i]->ops->read(s->from[i], &room, 1);
		buf_added(&s->text[i], n > 0 ? (size_t)n : 0);
		if (n == -EAGAIN)
			return;
		if (n <= 0) {
			stream_close(s->from[i], 0);
			s->from[i] = NULL;
		}
	}
}

static void session_run(struct task *t)
{
	struct session *s = container_of(t, struct session, task);
	feed(s);
	if (s->stalled)
		return;
	collect(s, 0);
	collect(s, 1);
	if (s->ended && !s->from[0] && !s->from[1] && !s->done) {
		s->done = true;
		if (s->left && --*s->left == 0)
			*s->all_done = true;
	}
}

static void on_opened(void *arg)
{
	((struct session *)arg)->opened = true;
}

static void on_ended(void *arg, const struct exec_result *result)
{
	struct session *s = arg;
	assert_false(s->ended);
	s->ended = true;
	s->result = *result;
	snprintf(s->why, sizeof(s->why), "%s", result->why);
	exec_client_free(s->client);
	s->client = NULL;
	task_wake(rx, &s->task);
}

/* A pipe: its end for the client, the other for us. */
static struct stream *local_pipe(struct stream **ours, bool we_read)
{
	int fd[2];
	assert_int_equal(pipe2(fd, O_CLOEXEC | O_NONBLOCK), 0);
	*ours = fd_stream_new(rx, fd[we_read ? 0 : 1]);
	return fd_stream_new(rx, fd[we_read ? 1 : 0]);
}

static void session_start_json(struct session *s, struct slice json)
{
	buf_init(&s->text[0], OUT_MAX);
	buf_init(&s->text[1], OUT_MAX);
	task_init(&s->task, session_run);
	struct exec_client_options o = { .opened = on_opened, .ended = on_ended, .arg = s };
	o.in = local_pipe(&s->feed, false);
	o.out = local_pipe(&s->from[0], true);
	o.err = local_pipe(&s->from[1], true);
	stream_bind(s->feed, &s->task);
	stream_bind(s->from[0], &s->task);
	stream_bind(s->from[1], &s->task);
	s->client = exec_client_new(rx, mux_open(near, json), &o);
}

static void session_start(struct session *s, const struct exec_request *req)
{
	char err[256] = "";
	struct buf b;
	buf_init(&b, 65536);
	if (exec_request_write(req, &b, err, sizeof(err)) < 0)
		fail_msg("%s", err);
	session_start_json(s, buf_data(&b));
	buf_end(&b);
}

static void session_end(struct session *s)
{
	exec_client_free(s->client);
	task_cancel(&s->task);
	stream_close(s->feed, 0);
	stream_close(s->from[0], 0);
	stream_close(s->from[1], 0);
	buf_end(&s->text[0]);
	buf_end(&s->text[1]);
}

static void session_whole(struct session *s, const struct exec_request *req)
{
	session_start(s, req);
	wait_for(&s->done);
}

#define ARGV(...) ((char *[]){ __VA_ARGS__, NULL })
#define SH(text)  ARGV("sh", "-c", text)

static void assert_text(const struct session *s, int i, const char *expected)
{
	char *got = xslicedup(buf_data(&s->text[i]));
	assert_string_equal(got, expected);
	free(got);
}

static void wait_text(struct session *s, const char *wanted)
{
	for (int i = 0;; i++) {
		struct slice got = buf_data(&s->text[0]);
		if (got.n && memmem(got.p, got.n, wanted, strlen(wanted)))
			return;
		assert_true(i < 5000);
		turn_for(1);
	}
}

static void wait_children(unsigned n)
{
	UNTIL(policy.children == n);
}

/* --- the tunnel form --- */

static void output_and_status(void **state)
{
	(void)state;
	struct session s = { 0 };
	session_whole(&s, &(struct exec_request){ .argv = SH("echo out; echo err >&2; exit 7") });
	assert_int_equal(s.result.code, 0);
	assert_int_equal(s.result.exit_code, 7);
	assert_int_equal(s.result.signal, 0);
	assert_text(&s, 0, "out\n");
	assert_text(&s, 1, "err\n");
	session_end(&s);
	wait_children(0);
}

static void bytes_both_ways(void **state)
{
	(void)state;
	enum { MANY = 8 << 20 };
	struct session s = { .to_write = MANY };
	session_whole(&s, &(struct exec_request){ .argv = SH("tee /dev/stderr") });
	assert_int_equal(s.result.code, 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(s.text[i].len, MANY);
		const char *p = buf_data(&s.text[i]).p;
		size_t same = 0;
		while (same < MANY && p[same] == pattern(same))
			same++;
		assert_int_equal(same, MANY);
	}
	session_end(&s);
}

static void stdin_not_read(void **state)
{
	(void)state;
	struct session s = { .to_write = 4 << 20 };
	session_whole(&s, &(struct exec_request){ .argv = SH("exec <&-; sleep 0.05; exit 3") });
	assert_int_equal(s.result.code, 0);
	assert_int_equal(s.result.exit_code, 3);
	session_end(&s);
}

static void no_stdin(void **state)
{
	(void)state;
	struct session s = { .keep_stdin = true };
	struct exec_client_options o = { .ended = on_ended, .arg = &s };
	buf_init(&s.text[0], OUT_MAX);
	buf_init(&s.text[1], OUT_MAX);
	task_init(&s.task, session_run);
	o.out = local_pipe(&s.from[0], true);
	o.err = local_pipe(&s.from[1], true);
	stream_bind(s.from[0], &s.task);
	stream_bind(s.from[1], &s.task);
	s.client = exec_client_new(
	    rx, mux_open(near, SLICE("{\"kind\":\"exec\",\"command\":\"cat\"}")), &o);
	wait_for(&s.done);
	assert_int_equal(s.result.code, 0);
	session_end(&s);
}

static void signals(void **state)
{
	(void)state;
	struct session s = { .keep_stdin = true };
	session_start(&s, &(struct exec_request){ .argv = ARGV("sleep", "100") });
	assert_int_equal(exec_client_signal(s.client, SIGINT), -EAGAIN);
	wait_for(&s.opened);
	assert_int_equal(exec_client_signal(s.client, SIGINT), 0);
	wait_for(&s.done);
	assert_int_equal(s.result.code, 0);
	assert_int_equal(s.result.signal, SIGINT);
	session_end(&s);

	s = (struct session){ .keep_stdin = true };
	session_start(
	    &s, &(struct exec_request){
		    .argv = SH(
			"trap 'echo got; exit 9' TERM; echo up; while :; do sleep 0.01; done") });
	wait_text(&s, "up\n");
	assert_int_equal(exec_client_signal(s.client, SIGTERM), 0);
	wait_for(&s.done);
	assert_text(&s, 0, "up\ngot\n");
	assert_int_equal(s.result.exit_code, 9);
	session_end(&s);
}

static void cannot_start(void **state)
{
	(void)state;
	static const struct {
		const char *command, *dir;
		int code;
		const char *why;
	} cases[] = {
		{ "no-such-command", NULL, -ERR_NOT_FOUND,
		  "exec: \"no-such-command\": executable file not found in $PATH" },
		{ "/no/such", NULL, -ERR_NOT_FOUND,
		  "exec: \"/no/such\": no such file or directory" },
		{ "/etc/passwd", NULL, -ERR_DENIED, "exec: \"/etc/passwd\": permission denied" },
		{ "true", "/no/such", -ERR_DENIED,
		  "exec: working directory \"/no/such\": no such file or directory" },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct session s = { 0 };
		session_whole(&s, &(struct exec_request){ .argv = ARGV((char *)cases[i].command),
							  .dir = cases[i].dir });
		assert_int_equal(s.result.code, cases[i].code);
		assert_true(s.result.not_started);
		assert_string_equal(s.why, cases[i].why);
		session_end(&s);
	}
	assert_int_equal(policy.children, 0);
}

static void policy_says_no(void **state)
{
	(void)state;
	struct session s = { 0 }, t = { 0 };
	policy.allowed = false;
	session_whole(&s, &(struct exec_request){ .argv = ARGV("true") });
	assert_int_equal(s.result.code, -ERR_DENIED);
	assert_false(s.result.not_started);
	assert_string_equal(s.why, "exec is not allowed on this guest");
	session_end(&s);

	policy.allowed = true;
	policy.max_children = 1;
	s = (struct session){ .keep_stdin = true };
	session_start(&s, &(struct exec_request){ .argv = ARGV("cat") });
	wait_for(&s.opened);
	session_whole(&t, &(struct exec_request){ .argv = ARGV("true") });
	assert_int_equal(t.result.code, -ERR_TOO_MANY);
	assert_string_equal(t.why, "too many commands are running (1)");
	session_end(&t);
	session_end(&s);
	wait_children(0);
	t = (struct session){ 0 };
	session_whole(&t, &(struct exec_request){ .argv = ARGV("true") });
	assert_int_equal(t.result.code, 0);
	session_end(&t);
}

static void bad_requests(void **state)
{
	(void)state;
	static const struct {
		const char *json, *why;
	} cases[] = {
		{ "{\"kind\":\"exec\"", "exec: bad JSON at byte 14: " },
		{ "[1]", "exec: the request must be a JSON object" },
		{ "{\"kind\":\"exec\"}", "exec: command is missing" },
		{ "{\"command\":\"\"}", "exec: command is missing" },
		{ "{\"command\":null}", "exec: command is missing" },
		{ "{\"command\":1}", "exec: command must be a string" },
		{ "{\"command\":\"a\\u0000b\"}", "exec: command has a NUL in it" },
		{ "{\"args\":[\"x\"]}", "exec: command is missing" },
		{ "{\"command\":\"a\",\"args\":\"x\"}", "exec: args must be an array of strings" },
		{ "{\"command\":\"a\",\"args\":[\"x\",1]}", "exec: each of args must be a string" },
		{ "{\"args\":[\"x\",null],\"command\":\"a\"}",
		  "exec: each of args must be a string" },
		{ "{\"command\":\"a\",\"env\":[\"=x\"]}",
		  "exec: environment entry \"=x\" must be NAME=value" },
		{ "{\"command\":\"a\",\"env\":[\"\"]}",
		  "exec: environment entry \"\" must be NAME=value" },
		{ "{\"command\":\"a\",\"env\":[\"A\"]}",
		  "exec: environment entry \"A\" must be NAME=value" },
		{ "{\"command\":\"a\",\"env\":{\"A\":\"b\"}}",
		  "exec: env must be an array of strings" },
		{ "{\"command\":\"a\",\"envs\":[]}", "exec: unknown member \"envs\"" },
		{ "{\"command\":\"a\",\"user\":\"x\"}", "exec: unknown member \"user\"" },
		{ "{\"command\":\"a\",\"tty\":1}", "exec: tty must be true or false" },
		{ "{\"command\":\"a\",\"rows\":70000}",
		  "exec: rows must be a number from 0 to 65535" },
		{ "{\"command\":\"a\",\"cols\":-1}",
		  "exec: cols must be a number from 0 to 65535" },
		{ "{\"command\":\"a\",\"dir\":[]}", "exec: dir must be a string" },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct session s = { 0 };
		session_start_json(&s, slice_str(cases[i].json));
		wait_for(&s.done);
		assert_true(s.result.code < 0);
		assert_false(s.result.not_started);
		if (strncmp(s.why, cases[i].why, strlen(cases[i].why)) != 0)
			fail_msg("%s: %s", cases[i].json, s.why);
		session_end(&s);
	}
}

static void environment(void **state)
{
	(void)state;
	struct session s = { 0 };
	setenv("SECRET_TOKEN", "x", 1);
	setenv("LANG", "C.UTF-8", 1);
	session_whole(&s, &(struct exec_request){
			      .argv = SH("echo \"$A|$LANG|${SECRET_TOKEN-none}|${TERM-none}\"; "
					 "test -n \"$PATH\" -a -n \"$HOME\" -a -n \"$SHELL\""),
			      .env = ARGV("A=b=c d", "LANG=xx") });
	assert_text(&s, 0, "b=c d|xx|none|none\n");
	assert_int_equal(s.result.exit_code, 0);
	session_end(&s);
}

static void request_round_trip(void **state)
{
	(void)state;
	char err[256] = "";
	struct buf b;
	struct exec_request got;
	const struct exec_request sent = { .argv = ARGV("cmd", "", "a b", "\xc3\xa9\n\"\\", "-x"),
					   .env = ARGV("A=", "B=\t1"),
					   .dir = "/tmp/x y",
					   .tty = true,
					   .rows = 24,
					   .cols = 65535 };
	buf_init(&b, 65536);
	assert_int_equal(exec_request_write(&sent, &b, err, sizeof(err)), 0);
	assert_int_equal(exec_request_parse(&got, buf_data(&b), EXEC_STREAM, err, sizeof(err)), 0);
	for (int i = 0; i < 6; i++)
		assert_true(sent.argv[i] ? strcmp(sent.argv[i], got.argv[i]) == 0 : !got.argv[i]);
	for (int i = 0; i < 3; i++)
		assert_true(sent.env[i] ? strcmp(sent.env[i], got.env[i]) == 0 : !got.env[i]);
	assert_string_equal(got.dir, sent.dir);
	assert_true(got.tty && !got.merge_stderr && got.rows == 24 && got.cols == 65535);
	exec_request_end(&got);

	char *big = xmalloc(70000);
	memset(big, 'x', 70000);
	big[69999] = '\0';
	assert_int_equal(exec_request_write(&(struct exec_request){ .argv = ARGV("a", big) }, &b,
					    err, sizeof(err)),
			 -EINVAL);
	assert_string_equal(err, "the command line and environment are too long (64 KiB at most)");
	free(big);
	buf_end(&b);
	assert_int_equal(exec_request_write(&(struct exec_request){ .argv = ARGV("a", "\xff") }, &b,
					    err, sizeof(err)),
			 -EINVAL);
	buf_end(&b);
}

static void terminal(void **state)
{
	(void)state;
	struct session s = { .keep_stdin = true };
	session_start(&s, &(struct exec_request){
			      .argv = SH("trap 'stty size; exit 5' WINCH; stty size; echo $TERM; "
					 "while :; do sleep 0.01; done"),
			      .env = ARGV("TERM=vt100"),
			      .tty = true,
			      .rows = 24,
			      .cols = 80 });
	wait_text(&s, "24 80\r\nvt100\r\n");
	exec_client_resize(s.client, 50, 132);
	wait_for(&s.done);
	assert_text(&s, 0, "24 80\r\nvt100\r\n50 132\r\n");
	assert_int_equal(s.result.exit_code, 5);
	session_end(&s);
}

/* The command is quiet and reads nothing: only the stream's end tells the guest. */
static void client_gone_kills(void **state)
{
	(void)state;
	for (int stdin_open = 0; stdin_open < 2; stdin_open++) {
		struct session s = { .keep_stdin = stdin_open };
		session_start(&s, &(struct exec_request){
				      .argv = SH("sleep 100 & echo $!; wait; sleep 100") });
		wait_text(&s, "\n");
		int pid = (int)strtol(buf_data(&s.text[0]).p, NULL, 10);
		turn_for(20);
		assert_int_equal(kill(pid, 0), 0);
		exec_client_free(s.client);
		s.client = NULL;
		UNTIL(!process_runs(pid));
		wait_children(0);
		session_end(&s);
	}
}

static void carrier_lost_kills(void **state)
{
	(void)state;
	struct session s = { .keep_stdin = true };
	session_start(&s, &(struct exec_request){ .argv = SH("sleep 100 & echo $!; wait") });
	wait_text(&s, "\n");
	int pid = (int)strtol(buf_data(&s.text[0]).p, NULL, 10);
	mux_free(near, -ECONNRESET, "carrier cut");
	near = NULL;
	wait_for(&s.done);
	assert_int_equal(s.result.code, -ECONNRESET);
	assert_string_equal(s.why, "carrier cut");
	UNTIL(!process_runs(pid));
	wait_children(0);
	session_end(&s);
}

static void local_stdout_closed(void **state)
{
	(void)state;
	struct session s = { .keep_stdin = true, .stalled = true };
	session_start(&s, &(struct exec_request){ .argv = ARGV("yes") });
	wait_for(&s.opened);
	stream_close(s.from[0], 0);
	s.from[0] = NULL;
	wait_for(&s.ended);
	assert_true(s.result.broken_pipe);
	wait_children(0);
	session_end(&s);
}

/* A reader that stalls longer than the silence that ends a session loses nothing. */
static void slow_reader(void **state)
{
	(void)state;
	struct session s = { .stalled = true };
	session_start(
	    &s, &(struct exec_request){ .argv = SH("head -c 4000000 /dev/zero; echo end >&2") });
	turn_for(600);
	assert_false(s.ended);
	s.stalled = false;
	task_wake(rx, &s.task);
	wait_for(&s.done);
	assert_int_equal(s.text[0].len, 4000000);
	assert_text(&s, 1, "end\n");
	session_end(&s);
}

static void background_children(void **state)
{
	(void)state;
	struct session s = { 0 };
	session_whole(&s, &(struct exec_request){
			      .argv = SH("(for i in 1 2 3 4 5; do sleep 0.1; echo $i; done) &") });
	assert_text(&s, 0, "1\n2\n3\n4\n5\n");
	session_end(&s);

	s = (struct session){ 0 };
	uint64_t before = reactor_now(rx);
	session_whole(&s, &(struct exec_request){ .argv = SH("sleep 100 & echo $!; exit 6") });
	assert_in_range(reactor_now(rx) - before, 200, 5000);
	assert_int_equal(s.result.exit_code, 6);
	int pid = (int)strtol(buf_data(&s.text[0]).p, NULL, 10);
	assert_int_equal(kill(pid, 0), 0); /* a daemon is left alone */
	kill(pid, SIGKILL);
	session_end(&s);
}

static void hundred_at_once(void **state)
{
	(void)state;
	enum { MANY = 100 };
	static struct session s[MANY];
	int left = MANY;
	bool all_done = false;
	for (int i = 0; i < MANY; i++) {
		char text[64];
		snprintf(text, sizeof(text), "cat; exit %d", i);
		s[i] = (struct session){ .to_write = 50000, .left = &left, .all_done = &all_done };
		session_start(&s[i], &(struct exec_request){ .argv = SH(text) });
	}
	wait_for(&all_done);
	for (int i = 0; i < MANY; i++) {
		assert_int_equal(s[i].result.code, 0);
		assert_int_equal(s[i].result.exit_code, i);
		assert_int_equal(s[i].text[0].len, 50000);
		session_end(&s[i]);
	}
	wait_children(0);
}

/* --- frame --- */

static void on_open(void *arg, struct stream *s, struct slice json)
{
	(void)arg;
	exec_serve(rx, s, json, &policy, "test");
}

static void on_mux_ended(void *arg, int code, const char *why)
{
	(void)code;
	(void)why;
	struct mux **m = arg;
	mux_free(*m, 0, NULL);
	*m = NULL;
}

static int setup(void **state)
{
	(void)state;
	int fd[2];
	log_level = LOG_ERROR;
	rx = reactor_new();
	policy = (struct exec_policy){ .allowed = true, .max_children = 1000 };
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd) == -1)
		return -1;
	near =
	    mux_new(rx, fd_stream_new(rx, fd[0]), SLICE(""),
		    &(struct mux_options){ .client = true, .ended = on_mux_ended, .arg = &near });
	far =
	    mux_new(rx, fd_stream_new(rx, fd[1]), SLICE(""),
		    &(struct mux_options){ .opened = on_open, .ended = on_mux_ended, .arg = &far });
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	mux_free(near, 0, NULL);
	for (int i = 0; far && i < 1000; i++)
		turn_for(1);
	assert_null(far);
	child_kill_lingering();
	turn_for(1);
	assert_int_equal(policy.children, 0);
	assert_int_equal(reactor_stats(rx)->handles, 0);
	assert_int_equal(reactor_stats(rx)->timers, 0);
	reactor_free(rx);
	return 0;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(output_and_status),
		TEST(bytes_both_ways),
		TEST(stdin_not_read),
		TEST(no_stdin),
		TEST(signals),
		TEST(cannot_start),
		TEST(policy_says_no),
		TEST(bad_requests),
		TEST(environment),
		TEST(request_round_trip),
		TEST(terminal),
		TEST(client_gone_kills),
		TEST(carrier_lost_kills),
		TEST(local_stdout_closed),
		TEST(slow_reader),
		TEST(background_children),
		TEST(hundred_at_once),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
