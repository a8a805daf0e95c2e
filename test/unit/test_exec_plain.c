/* Remote commands over plain HTTP: exec_plain_* of proto/tstunnel/exec_server.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/tstunnel/exec_server.h"
#include "reactor/child.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "test/unit/process.h"
#include "test/unit/turn.h"

static struct reactor *rx;
static struct exec_policy policy;

struct plain {
	struct exec *exec;
	int fd; /* the client */
	struct stream *raw;
	bool ready;
	int code;
	char why[256];
};

static void on_ready(void *arg, int code, const char *why)
{
	struct plain *p = arg;
	assert_false(p->ready);
	p->ready = true;
	p->code = code;
	snprintf(p->why, sizeof(p->why), "%s", why ? why : "");
	if (code == 0)
		exec_plain_relay(p->exec, p->raw, SLICE("first "));
	else
		exec_plain_free(p->exec);
}

static void plain_start(struct plain *p, const char *json)
{
	int fd[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
	p->fd = fd[0];
	p->raw = fd_stream_new(rx, fd[1]);
	p->exec = exec_plain_start(rx, slice_str(json), &policy, "test", on_ready, p);
	assert_false(p->ready);
	UNTIL(p->ready);
}

/* Reads until the end or the first newline. */
static void plain_read(struct plain *p, char *text, size_t max, bool to_end)
{
	size_t n = 0;
	ssize_t got = -1;
	text[0] = '\0';
	while (got != 0 && (to_end || !strchr(text, '\n'))) {
		UNTIL((got = read(p->fd, text + n, max - 1 - n)) >= 0);
		n += (size_t)got;
		text[n] = '\0';
	}
}

static void plain_relay(void **state)
{
	(void)state;
	char text[256];
	struct plain p = { 0 };
	plain_start(&p, "{\"command\":\"sh\",\"args\":[\"-c\",\"cat; echo $X >&2\"],"
			"\"envs\":[\"X=y\"]}");
	assert_int_equal(p.code, 0);
	assert_int_equal(write(p.fd, "second\n", 7), 7);
	shutdown(p.fd, SHUT_WR);
	plain_read(&p, text, sizeof(text), true);
	assert_string_equal(text, "first second\ny\n");
	close(p.fd);
	UNTIL(policy.children == 0);
}

/* The command ends while the client still holds its side open. */
static void plain_command_ends(void **state)
{
	(void)state;
	char text[256];
	struct plain p = { 0 };
	plain_start(&p, "{\"command\":\"echo\",\"args\":[\"bye\"],\"envs\":null}");
	assert_int_equal(p.code, 0);
	plain_read(&p, text, sizeof(text), true);
	assert_string_equal(text, "bye\n");
	UNTIL(policy.children == 0);
	close(p.fd);
}

static void plain_client_gone(void **state)
{
	(void)state;
	char text[256];
	struct plain p = { 0 };
	plain_start(&p, "{\"command\":\"sh\",\"args\":[\"-c\",\"sleep 100 & echo $!; wait\"]}");
	plain_read(&p, text, sizeof(text), false);
	close(p.fd);
	int pid = (int)strtol(text, NULL, 10);
	UNTIL(!process_runs(pid));
	UNTIL(policy.children == 0);
}

static void plain_cannot_start(void **state)
{
	(void)state;
	static const struct {
		const char *json;
		int code;
		const char *why;
	} cases[] = {
		{ "{\"command\":\"no-such\"}", -ERR_NOT_FOUND,
		  "exec: \"no-such\": executable file not found in $PATH" },
		{ "{\"command\":\"/etc/passwd\"}", -ERR_DENIED,
		  "exec: \"/etc/passwd\": permission denied" },
		{ "{\"command\":\"a\",\"tty\":true}", -EINVAL, "exec: unknown member \"tty\"" },
		{ "", -EINVAL, "exec: bad JSON at byte 0" },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct plain p = { 0 };
		plain_start(&p, cases[i].json);
		assert_int_equal(p.code, cases[i].code);
		assert_int_equal(strncmp(p.why, cases[i].why, strlen(cases[i].why)), 0);
		stream_close(p.raw, 0);
		close(p.fd);
	}
	policy.allowed = false;
	struct plain p = { 0 };
	plain_start(&p, "{\"command\":\"true\"}");
	assert_int_equal(p.code, -ERR_DENIED);
	stream_close(p.raw, 0);
	close(p.fd);
	assert_int_equal(policy.children, 0);
}

static int setup(void **state)
{
	(void)state;
	log_level = LOG_ERROR;
	rx = reactor_new();
	policy = (struct exec_policy){ .allowed = true, .max_children = 1000 };
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	child_kill_lingering();
	UNTIL(policy.children == 0 && reactor_stats(rx)->handles == 0);
	assert_int_equal(reactor_stats(rx)->timers, 0);
	reactor_free(rx);
	return 0;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(plain_relay),
		TEST(plain_command_ends),
		TEST(plain_client_gone),
		TEST(plain_cannot_start),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
