#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "reactor/log.h"

static int kept, reader;

/* stderr becomes a pipe that the test reads. */
static int begin(void **state)
{
	int p[2];
	(void)state;
	if (pipe2(p, O_CLOEXEC) == -1 || fcntl(p[0], F_SETFL, O_NONBLOCK) == -1)
		return -1;
	kept = dup(STDERR_FILENO);
	dup2(p[1], STDERR_FILENO);
	close(p[1]);
	reader = p[0];
	log_set_program("tsctl");
	log_set_json(false);
	log_level = LOG_INFO;
	return 0;
}

static int end(void **state)
{
	(void)state;
	dup2(kept, STDERR_FILENO);
	close(kept);
	close(reader);
	return 0;
}

/* What was written since, without the time stamp (whose form is checked). */
static const char *written(void)
{
	static char text[65536];
	ssize_t n = read(reader, text, sizeof(text) - 1);
	if (n <= 0)
		return "";
	text[n] = '\0';
	assert_int_equal(text[n - 1], '\n');
	char *stamp = text[0] == '{' ? text + strlen("{\"time\":\"") : text;
	assert_true(strlen(stamp) > 24);
	for (size_t i = 0; i < 24; i++) {
		char want = "dddd-dd-ddTdd:dd:dd.dddZ"[i];
		if (want == 'd')
			assert_in_range(stamp[i], '0', '9');
		else
			assert_int_equal(stamp[i], want);
	}
	return stamp + 24;
}

static void test_plain(void **state)
{
	(void)state;
	log_info("listen addr=%s n=%d", "127.0.0.1:2375", 3);
	assert_string_equal(written(),
			    " level=info program=tsctl listen addr=127.0.0.1:2375 n=3\n");
	log_error("broken why=%s", log_quote(SLICE("no \"such\" file")));
	assert_string_equal(written(),
			    " level=error program=tsctl broken why=\"no \\\"such\\\" file\"\n");
	/* One event is one line, whoever forgot to quote. */
	log_warn("odd v=a\nb\x01\xff");
	assert_string_equal(written(), " level=warn program=tsctl odd v=a\\nb\\x01\\xff\n");
}

static int called;

static int count(void)
{
	return ++called;
}

static void test_levels(void **state)
{
	(void)state;
	log_debug("hidden n=%d", count());
	assert_string_equal(written(), "");
	assert_int_equal(called, 0);
	assert_int_equal(log_set_level("debug"), 0);
	log_debug("shown n=%d", count());
	assert_string_equal(written(), " level=debug program=tsctl shown n=1\n");
	assert_int_equal(log_set_level("error"), 0);
	log_warn("hidden");
	assert_string_equal(written(), "");
	assert_int_equal(log_set_level("loud"), -EINVAL);
	assert_int_equal(log_level, LOG_ERROR);
}

static void test_json(void **state)
{
	(void)state;
	log_set_json(true);
	log_info("conn end peer=1.2.3.4 why=%s bytes=7", log_quote(SLICE("a \"b\" \\ \n\x80 é")));
	assert_string_equal(written(),
			    "\",\"level\":\"info\",\"program\":\"tsctl\",\"event\":\"conn end\","
			    "\"peer\":\"1.2.3.4\",\"why\":\"a \\\"b\\\" \\\\ \\u000a\\ufffd é\","
			    "\"bytes\":\"7\"}\n");
	/* Bare words after a pair belong to it; a second member of the same name is left out. */
	log_info("x err=connection refused level=fake err=again");
	assert_string_equal(written(),
			    "\",\"level\":\"info\",\"program\":\"tsctl\",\"event\":\"x\","
			    "\"err\":\"connection refused\"}\n");
	log_info("k=v");
	assert_string_equal(written(),
			    "\",\"level\":\"info\",\"program\":\"tsctl\",\"k\":\"v\"}\n");
}

static void test_long(void **state)
{
	char *text = xmalloc(9000);
	(void)state;
	memset(text, '"', 8999);
	text[8999] = '\0';
	for (int json = 0; json < 2; json++) {
		log_set_json(json);
		log_info("%s", text);
		const char *line = written();
		size_t n = strlen(line);
		assert_in_range(n, 3000, 4096);
		if (json)
			assert_string_equal(line + n - 3, "\"}\n");
	}
	/* Members that do not fit are left out whole. */
	log_set_json(true);
	for (size_t fill = 3900; fill < 4096; fill++) {
		memset(text, 'a', fill);
		text[fill] = '\0';
		log_info("%s key=value z=1", text);
		const char *line = written();
		assert_string_equal(line + strlen(line) - 3, "\"}\n");
	}
	free(text);
}

static void test_quote(void **state)
{
	char many[600];
	(void)state;
	assert_string_equal(log_quote(SLICE("plain")), "plain");
	assert_string_equal(log_quote(SLICE("")), "\"\"");
	assert_string_equal(log_quote(SLICE("a b")), "\"a b\"");
	assert_string_equal(log_quote(SLICE("a=b")), "\"a=b\"");
	assert_string_equal(log_quote(SLICE("a\tb\x1b[31m\x7f\0")), "\"a\\tb\\x1b[31m\\x7f\\x00\"");
	assert_string_equal(log_quote(SLICE("\xc3\xa9\xc3")), "\"\xc3\xa9\\xc3\"");
	memset(many, 'x', sizeof(many));
	const char *cut = log_quote(slice_of(many, sizeof(many)));
	assert_in_range(strlen(cut), 500, 512);
	assert_string_equal(cut + strlen(cut) - 3, "...");
	memset(many, '\n', sizeof(many));
	assert_in_range(strlen(log_quote(slice_of(many, sizeof(many)))), 500, 512);
	/* Eight live at once. */
	const char *first = log_quote(SLICE("first"));
	for (int i = 0; i < 7; i++)
		log_quote(SLICE("later"));
	assert_string_equal(first, "first");
}

static void fill_stderr(void)
{
	static char junk[4096];
	int flags = fcntl(STDERR_FILENO, F_GETFL);
	fcntl(STDERR_FILENO, F_SETFL, flags | O_NONBLOCK);
	while (write(STDERR_FILENO, junk, sizeof(junk)) > 0)
		continue;
	assert_int_equal(errno, EAGAIN);
	fcntl(STDERR_FILENO, F_SETFL, flags);
}

static void drain(void)
{
	char junk[65536];
	while (read(reader, junk, sizeof(junk)) > 0)
		continue;
}

/* A reader that stalls costs lines, never time: this test hangs if a write blocks. */
static void test_full(void **state)
{
	(void)state;
	for (int nonblock = 0; nonblock < 2; nonblock++) {
		fcntl(STDERR_FILENO, F_SETFL, nonblock ? O_NONBLOCK : 0);
		fill_stderr();
		for (int i = 0; i < 5; i++)
			log_info("lost");
		drain();
		log_info("back");
		const char *text = written();
		assert_non_null(strstr(text, " level=warn program=tsctl log_dropped lines=5\n"));
		assert_non_null(strstr(text, " level=info program=tsctl back\n"));
		log_info("later");
		assert_string_equal(written(), " level=info program=tsctl later\n");
	}
	fcntl(STDERR_FILENO, F_SETFL, 0);
}

static void test_ratelimit(void **state)
{
	uint64_t last = 0, other = 0;
	(void)state;
	assert_true(log_ratelimit(&last, 60000));
	assert_false(log_ratelimit(&last, 60000));
	assert_true(log_ratelimit(&other, 60000));
	assert_true(log_ratelimit(&last, 0));
	last -= 60000 < last ? 60000 : last;
	assert_true(log_ratelimit(&last, 60000));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_plain, begin, end),
		cmocka_unit_test_setup_teardown(test_levels, begin, end),
		cmocka_unit_test_setup_teardown(test_json, begin, end),
		cmocka_unit_test_setup_teardown(test_long, begin, end),
		cmocka_unit_test_setup_teardown(test_quote, begin, end),
		cmocka_unit_test_setup_teardown(test_full, begin, end),
		cmocka_unit_test(test_ratelimit),
	};
	alarm(20);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
