#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <unistd.h>

#include "reactor/opt.h"

struct values {
	bool insecure, tty, interactive;
	const char *listen, *name;
	struct opt_list env;
	int port;
	uint64_t timeout;
};

static struct values v;

static const struct opt rows[] = {
	{ OPT_STRING, "listen", 'l', &v.listen, "HOST:PORT", "Where to listen", 0, 0, false },
	{ OPT_INT, "port", 'p', &v.port, "PORT", "The port (default 8080)", 1, 65535, false },
	{ OPT_FLAG, "tty", 't', &v.tty, NULL, "A terminal", 0, 0, false },
	{ OPT_FLAG, "interactive", 'i', &v.interactive, NULL, "Keep stdin open", 0, 0, false },
	{ OPT_HEADING, NULL, 0, NULL, NULL, "TLS:", 0, 0, false },
	{ OPT_FLAG, "insecure", 0, &v.insecure, NULL,
	  "Skip the verification of the certificate, which is for development only", 0, 0, false },
	{ OPT_STRING, "a-very-long-name-for-an-option", 0, &v.name, "SOMETHING", "On its own line",
	  0, 0, false },
	{ OPT_LIST, "env", 'e', &v.env, "NAME=VALUE", "Set a variable", 0, 0, false },
	{ OPT_DURATION, "timeout", 0, &v.timeout, "DURATION", "Give up after", 0, 0, false },
	{ OPT_STRING, "secret", 0, &v.name, "X", "Not shown", 0, 0, true },
	{ .kind = OPT_END },
};

static struct opt_command cmd = {
	.name = "tsctl start",
	.args = "[OPTIONS]",
	.summary = "Starts the proxy.",
	.opts = rows,
	.more = "Examples:\n  tsctl start",
};

static char out[4096], err[4096];
static char *args[32];
static int argc;

/* Runs f with fd going to text. */
static void capture(int fd, char *text, size_t size, void (*f)(void *), void *arg)
{
	FILE *to = tmpfile();
	int kept = dup(fd);
	assert_non_null(to);
	fflush(NULL);
	assert_int_not_equal(dup2(fileno(to), fd), -1);
	f(arg);
	fflush(NULL);
	dup2(kept, fd);
	close(kept);
	rewind(to);
	text[fread(text, 1, size - 1, to)] = '\0';
	fclose(to);
}

static void parse_now(void *result)
{
	*(int *)result = opt_parse(&cmd, argc, args);
}

static void parse_err(void *result)
{
	capture(STDERR_FILENO, err, sizeof(err), parse_now, result);
}

/* Splits line at spaces and parses it; what was printed is in out and err. */
static int parse(const char *line)
{
	static char copy[1024];
	int r = 0;
	memset(&v, 0, sizeof(v));
	snprintf(copy, sizeof(copy), "%s", line);
	argc = 0;
	args[argc++] = (char *)"program";
	for (char *w = strtok(copy, " "); w; w = strtok(NULL, " "))
		args[argc++] = w;
	args[argc] = NULL;
	capture(STDOUT_FILENO, out, sizeof(out), parse_err, &r);
	return r;
}

static void assert_all_options(const char *line)
{
	int r = parse(line);
	assert_int_equal(r, argc);
}

static void assert_refused(const char *line, const char *why)
{
	char want[512];
	snprintf(want, sizeof(want), "tsctl start: %s\nSee 'tsctl start --help'.\n", why);
	assert_int_equal(parse(line), -EINVAL);
	assert_string_equal(err, want);
	assert_string_equal(out, "");
	opt_list_free(&v.env);
}

static void test_forms(void **state)
{
	(void)state;
	assert_all_options("--listen a:1 --port=7 -e A=1 -eB=2 -e=C=3 --timeout 1500ms");
	assert_string_equal(v.listen, "a:1");
	assert_int_equal(v.port, 7);
	assert_int_equal(v.env.n, 3);
	assert_string_equal(v.env.v[0], "A=1");
	assert_string_equal(v.env.v[1], "B=2");
	assert_string_equal(v.env.v[2], "C=3");
	assert_int_equal(v.timeout, 1500);
	opt_list_free(&v.env);
	assert_int_equal(v.env.n, 0);

	assert_all_options("-it -p80 -listen x -insecure");
	assert_true(v.tty && v.interactive && v.insecure);
	assert_int_equal(v.port, 80);
	assert_string_equal(v.listen, "x");

	assert_all_options("-itp 81 --insecure=false --tty=false --listen=");
	assert_true(v.interactive);
	assert_false(v.insecure || v.tty);
	assert_int_equal(v.port, 81);
	assert_string_equal(v.listen, "");

	assert_all_options("-port=5 -listen=y --secret s");
	assert_int_equal(v.port, 5);
	assert_string_equal(v.listen, "y");
	assert_string_equal(v.name, "s");
	assert_string_equal(out, "");
	assert_string_equal(err, "");
}

static void test_operands(void **state)
{
	(void)state;
	assert_int_equal(parse("a -p 1 b - --tty c"), 4);
	assert_true(v.tty);
	assert_string_equal(args[1], "-p");
	assert_string_equal(args[2], "1");
	assert_string_equal(args[3], "--tty");
	assert_string_equal(args[4], "a");
	assert_string_equal(args[5], "b");
	assert_string_equal(args[6], "-");
	assert_string_equal(args[7], "c");
	assert_null(args[8]);

	assert_int_equal(parse("a --tty -- ls --nope -- x"), 3);
	assert_string_equal(args[3], "a");
	assert_string_equal(args[4], "ls");
	assert_string_equal(args[5], "--nope");
	assert_string_equal(args[6], "--");
	assert_string_equal(args[7], "x");

	cmd.stop_at_operand = true;
	assert_int_equal(parse("--tty ls -la --nope"), 2);
	assert_string_equal(args[2], "ls");
	assert_string_equal(args[4], "--nope");
	assert_int_equal(parse("-t -- ls -la"), 3);
	cmd.stop_at_operand = false;

	assert_int_equal(parse(""), 1);
}

static void test_refusals(void **state)
{
	(void)state;
	assert_refused("--foo", "unknown flag: --foo");
	assert_refused("--foo=secret", "unknown flag: --foo");
	assert_refused("-itz", "unknown shorthand flag: 'z' in -itz");
	assert_refused("--listen", "flag needs an argument: --listen");
	assert_refused("-listen", "flag needs an argument: -listen");
	assert_refused("-ip", "flag needs an argument: 'p' in -ip");
	assert_refused("--port x",
		       "invalid argument \"x\" for \"-p, --port\" flag: must be 1..65535");
	assert_refused("-p0", "invalid argument \"0\" for \"-p, --port\" flag: must be 1..65535");
	assert_refused("-p -1",
		       "invalid argument \"-1\" for \"-p, --port\" flag: must be 1..65535");
	assert_refused("-p 65536",
		       "invalid argument \"65536\" for \"-p, --port\" flag: must be 1..65535");
	assert_refused("-p 99999999999999999999", "invalid argument \"99999999999999999999\" for "
						  "\"-p, --port\" flag: must be 1..65535");
	assert_refused("--insecure=yes",
		       "invalid argument \"yes\" for \"--insecure\" flag: must be true or false");
	assert_refused("--timeout 5d", "invalid argument \"5d\" for \"--timeout\" flag: must be a "
				       "duration like 10s, 500ms, 2m or 1h");
	assert_refused("-e A=1 --bad --help", "unknown flag: --bad");
}

static void test_usage(void **state)
{
	static const char want[] =
	    "Usage: tsctl start [OPTIONS]\n"
	    "\n"
	    "Starts the proxy.\n"
	    "\n"
	    "Options:\n"
	    "  -l, --listen HOST:PORT  Where to listen\n"
	    "  -p, --port PORT         The port (default 8080)\n"
	    "  -t, --tty               A terminal\n"
	    "  -i, --interactive       Keep stdin open\n"
	    "\n"
	    "TLS:\n"
	    "      --insecure          Skip the verification of the certificate, which is for\n"
	    "                          development only\n"
	    "      --a-very-long-name-for-an-option SOMETHING\n"
	    "                          On its own line\n"
	    "  -e, --env NAME=VALUE    Set a variable\n"
	    "      --timeout DURATION  Give up after\n"
	    "  -h, --help              Print this text\n"
	    "\n"
	    "Examples:\n"
	    "  tsctl start\n";
	(void)state;
	assert_int_equal(parse("--help"), 0);
	assert_string_equal(out, want);
	assert_string_equal(err, "");
	assert_int_equal(parse("-ih --whatever"), 0);
	assert_string_equal(out, want);
	assert_int_equal(parse("-help"), 0);
	/* Behind "--" it is an operand. */
	assert_int_equal(parse("-- --help"), 2);
	assert_string_equal(out, "");
}

static void test_duration(void **state)
{
	static const struct {
		const char *text;
		uint64_t ms;
	} good[] = { { "10s", 10000 },  { "500ms", 500 }, { "2m", 120000 },
		     { "1h", 3600000 }, { "7", 7000 },    { "0", 0 } };
	static const char *const bad[] = { "",
					   "s",
					   "ms",
					   "1.5s",
					   "-1s",
					   "1 s",
					   "1m30s",
					   "5d",
					   "1s ",
					   "+1",
					   "99999999999999999999",
					   "18446744073709551615" };
	uint64_t ms;
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		assert_int_equal(opt_duration(good[i].text, &ms), 0);
		assert_int_equal(ms, good[i].ms);
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(opt_duration(bad[i], &ms), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_forms),    cmocka_unit_test(test_operands),
		cmocka_unit_test(test_refusals), cmocka_unit_test(test_usage),
		cmocka_unit_test(test_duration),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
