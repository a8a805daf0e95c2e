#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>

#include "proto/tstunnel/url.h"

static struct tsurl u;
static char err[300];

static void parse(const char *text)
{
	int r = tsurl_parse(&u, slice_str(text), err, sizeof(err));
	if (r)
		print_error("%s: %s\n", text, err);
	assert_int_equal(r, 0);
}

static void assert_put(const char *want)
{
	struct buf b;
	buf_init(&b, 16384);
	assert_int_equal(tsurl_put(&b, &u), 0);
	char *text = xslicedup(buf_data(&b));
	assert_string_equal(text, want);
	free(text);
	/* Every size that is too small is refused. */
	size_t whole = b.len;
	for (size_t max = 0; max < whole; max++) {
		buf_end(&b);
		buf_init(&b, max);
		assert_int_equal(tsurl_put(&b, &u), -ENOBUFS);
	}
	buf_end(&b);
	tsurl_end(&u);
}

/* The two examples of the quick-start guide. */
static void test_seed(void **state)
{
	static const char forward[] =
	    "tstunnel://containers.tinyscale.net:443/tcp:localhost:8080"
	    "?cert=/certs/client.crt&key=/certs/client.key&ca=/certs/ca.crt";
	static const char sync[] = "tstunnel://containers.tinyscale.net:443/app"
				   "?cert=/certs/client.crt&key=/certs/client.key";
	(void)state;
	parse(forward);
	assert_int_equal(u.server.kind, ADDR_TCP);
	assert_string_equal(u.server.host, "containers.tinyscale.net");
	assert_int_equal(u.server.port, 443);
	assert_true(u.has_target);
	assert_int_equal(u.target.kind, ADDR_TCP);
	assert_string_equal(u.target.host, "localhost");
	assert_int_equal(u.target.port, 8080);
	assert_null(u.path);
	assert_string_equal(u.cert, "/certs/client.crt");
	assert_string_equal(u.key, "/certs/client.key");
	assert_string_equal(u.ca, "/certs/ca.crt");
	assert_false(u.insecure);
	assert_put(forward);

	parse(sync);
	assert_false(u.has_target);
	assert_string_equal(u.path, "/app");
	assert_null(u.ca);
	assert_put(sync);
}

static void test_forms(void **state)
{
	static const struct {
		const char *in, *out;
	} same[] = {
		{ "tstunnel://h/app", "tstunnel://h:80/app" },
		{ "TSTUNNEL://h/app", "tstunnel://h:80/app" },
		{ "tstunnel://h/app?cert=c&key=k", "tstunnel://h:443/app?cert=c&key=k" },
		{ "tstunnel://h/app?key=k&cert=c", "tstunnel://h:443/app?cert=c&key=k" },
		{ "tstunnel://h/app?ca=c", "tstunnel://h:80/app?ca=c" },
		{ "tstunnel://h:8080/app?insecure=true", "tstunnel://h:8080/app?insecure=true" },
		{ "tstunnel://h/app?insecure=false", "tstunnel://h:80/app" },
		{ "tstunnel://h/app?", "tstunnel://h:80/app" },
		{ "tstunnel://[::1]/app", "tstunnel://[::1]:80/app" },
		{ "tstunnel://[2001:db8::1]:9/tcp:[::1]:80",
		  "tstunnel://[2001:db8::1]:9/tcp:[::1]:80" },
		{ "tstunnel://10.0.0.1:1/udp:10.0.0.2:53",
		  "tstunnel://10.0.0.1:1/udp:10.0.0.2:53" },
		{ "tstunnel://h/tcp:a-b:8000-8100", "tstunnel://h:80/tcp:a-b:8000-8100" },
		{ "tstunnel://h/tcp:[::1]:80-81?insecure=true",
		  "tstunnel://h:80/tcp:[::1]:80-81?insecure=true" },
		{ "tstunnel://h/tcp:x:0", "tstunnel://h:80/tcp:x:0" },
		{ "tstunnel://h/udp:[::]:0", "tstunnel://h:80/udp:[::]:0" },
		{ "tstunnel://h/tcp:x:80-80", "tstunnel://h:80/tcp:x:80" },
		{ "tstunnel://h:65535/unix:/run/x.sock", "tstunnel://h:65535/unix:/run/x.sock" },
		{ "tstunnel://h/unix:/run/a%20b%3fc", "tstunnel://h:80/unix:/run/a%20b%3Fc" },
		{ "tstunnel://h//a/./b//", "tstunnel://h:80/a/b" },
		{ "tstunnel://h/a%2Fb", "tstunnel://h:80/a/b" },
		{ "tstunnel://h/a%20b%23c%25d+e", "tstunnel://h:80/a%20b%23c%25d+e" },
		{ "tstunnel://h/\xe6\x95\xb0", "tstunnel://h:80/%E6%95%B0" },
		{ "tstunnel://h/a..b/...", "tstunnel://h:80/a..b/..." },
		/* A directory that is called like a target. */
		{ "tstunnel://h/tcp%3Ax:1", "tstunnel://h:80/tcp%3Ax%3A1" },
		{ "tstunnel://h/./tcp:x", "tstunnel://h:80/tcp%3Ax" },
		{ "tstunnel://h/a/tcp:x", "tstunnel://h:80/a/tcp:x" },
		{ "tstunnel://h/tcp", "tstunnel://h:80/tcp" },
		{ "tstunnel://h/app?ca=/c%26d%3De%3f", "tstunnel://h:80/app?ca=/c%26d%3De%3F" },
		{ "tstunnel://h/app?ca=a+b=c", "tstunnel://h:80/app?ca=a+b%3Dc" },
		{ "tstunnel://h/app?ca=/a?b", "tstunnel://h:80/app?ca=/a%3Fb" },
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(same); i++) {
		parse(same[i].in);
		assert_put(same[i].out);
		parse(same[i].out);
		assert_put(same[i].out);
	}
	parse("tstunnel://h/a%20b?ca=x+%79&cert=c%2fd&key=k");
	assert_string_equal(u.path, "/a b");
	assert_string_equal(u.ca, "x+y");
	assert_string_equal(u.cert, "c/d");
	tsurl_end(&u);
	parse("tstunnel://[::1]/udp:[fe80::1]:53");
	assert_string_equal(u.server.host, "::1");
	assert_string_equal(u.target.host, "fe80::1");
	assert_int_equal(u.target.kind, ADDR_UDP);
	tsurl_end(&u);
	parse("tstunnel://h/unix:/run/docker.sock");
	assert_int_equal(u.target.kind, ADDR_UNIX);
	assert_string_equal(u.target.path, "/run/docker.sock");
	tsurl_end(&u);
}

static void test_refusals(void **state)
{
	static const char missing[] = "path is missing: want /tcp:HOST:PORT, /udp:HOST:PORT, "
				      "/unix:/PATH or /REMOTE/PATH";
	const struct {
		const char *in, *why;
	} bad[] = {
		{ "", "must start with tstunnel://" },
		{ "http://h/app", "must start with tstunnel://" },
		{ "tstunnel:/h/app", "must start with tstunnel://" },
		{ "tstunnel", "must start with tstunnel://" },
		{ "tstunnel://", "server host is empty" },
		{ "tstunnel:///app", "server host is empty" },
		{ "tstunnel://:443/app", "server host is empty" },
		{ "tstunnel://?ca=x", "server host is empty" },
		{ "tstunnel://h:/app", "server port \"\" must be 1..65535" },
		{ "tstunnel://h:0/app", "server port \"0\" must be 1..65535" },
		{ "tstunnel://h:65536/app", "server port \"65536\" must be 1..65535" },
		{ "tstunnel://h:http/app", "server port \"http\" must be 1..65535" },
		{ "tstunnel://h:1:2/app", "server port \"1:2\" must be 1..65535" },
		{ "tstunnel://[::1]:x/app", "server port \"x\" must be 1..65535" },
		{ "tstunnel://[::1/app", "server host is malformed in \"[::1\"" },
		{ "tstunnel://[]/app", "server host is malformed in \"[]\"" },
		{ "tstunnel://[h]/app", "server host is malformed in \"[h]\"" },
		{ "tstunnel://[::1]9/app", "server host is malformed in \"[::1]9\"" },
		{ "tstunnel://::1/app", "server host is empty" },
		{ "tstunnel://a_b!/app", "server host is malformed in \"a_b!\"" },
		{ "tstunnel://a%41/app", "server host is malformed in \"a%41\"" },
		{ "tstunnel://me@h/app", "a user name means nothing here" },
		{ "tstunnel://h/app#x", "a fragment (#) means nothing here" },
		{ "tstunnel://h/a b", "byte 14 must be written as %20" },
		{ "tstunnel://h/a\n", "byte 14 must be written as %0A" },
		{ "tstunnel://h", missing },
		{ "tstunnel://h/", missing },
		{ "tstunnel://h/./", missing },
		{ "tstunnel://h?ca=x", missing },
		{ "tstunnel://h/../app", "path has \"..\"" },
		{ "tstunnel://h/app/..", "path has \"..\"" },
		{ "tstunnel://h/app/%2e%2E/x", "path has \"..\"" },
		{ "tstunnel://h/app%2f..", "path has \"..\"" },
		{ "tstunnel://h/app/%zz", "malformed escape in the path" },
		{ "tstunnel://h/app%", "malformed escape in the path" },
		{ "tstunnel://h/a%00b", "malformed escape in the path" },
		{ "tstunnel://h/tcp:", "target host is empty" },
		{ "tstunnel://h/tcp::80", "target host is empty" },
		{ "tstunnel://h/tcp:localhost", "target port is missing in \"localhost\"" },
		{ "tstunnel://h/tcp:localhost:", "target port \"\" must be 1..65535" },
		{ "tstunnel://h/udp:x:70000", "target port \"70000\" must be 1..65535" },
		{ "tstunnel://h/tcp:x:80/y", "target port \"80/y\" must be 1..65535" },
		{ "tstunnel://h/tcp:x/y:80", "target host is malformed in \"x/y:80\"" },
		{ "tstunnel://h/tcp:x:9:0", "target host is malformed in \"x:9:0\"" },
		{ "tstunnel://h/tcp::0", "target host is empty" },
		{ "tstunnel://h/tcp:x:0-3", "target port \"0\" must be 1..65535" },
		{ "tstunnel://h/tcp:x:80-79", "target port range \"80-79\" must end in 80..65535" },
		{ "tstunnel://h/tcp:x:80-", "target port range \"80-\" must end in 80..65535" },
		{ "tstunnel://h/tcp:x:80-65536",
		  "target port range \"80-65536\" must end in 80..65535" },
		{ "tstunnel://h/tcp:x:-80", "target port \"-80\" must be 1..65535" },
		{ "tstunnel://h/unix:run/x",
		  "target socket \"run/x\" is relative: want /unix:/PATH" },
		{ "tstunnel://h/unix:", "target socket \"\" is relative: want /unix:/PATH" },
		{ "tstunnel://h/unix:/a/../x", "target socket has \"..\"" },
		{ "tstunnel://h/app?crt=x", "unknown parameter \"crt\"" },
		{ "tstunnel://h/app?CA=x", "unknown parameter \"CA\"" },
		{ "tstunnel://h/app?ca=x&ca=x", "parameter \"ca\" is given twice" },
		{ "tstunnel://h/app?insecure=false&insecure=true",
		  "parameter \"insecure\" is given twice" },
		{ "tstunnel://h/app?ca=", "parameter \"ca\" is empty" },
		{ "tstunnel://h/app?ca", "parameter \"ca\" is empty" },
		{ "tstunnel://h/app?ca=%4", "malformed escape in parameter \"ca\"" },
		{ "tstunnel://h/app?ca=%00", "malformed escape in parameter \"ca\"" },
		{ "tstunnel://h/app?insecure=yes", "parameter \"insecure\" must be true or false" },
		{ "tstunnel://h/app?insecure", "parameter \"insecure\" must be true or false" },
		{ "tstunnel://h/app?cert=x", "parameter \"cert\" needs \"key\"" },
		{ "tstunnel://h/app?key=x", "parameter \"key\" needs \"cert\"" },
	};
	char want[300];
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		snprintf(want, sizeof(want), "tstunnel URL: %s", bad[i].why);
		memset(&u, 0xA5, sizeof(u));
		err[0] = '\0';
		int r = tsurl_parse(&u, slice_str(bad[i].in), err, sizeof(err));
		if (r == 0 || strcmp(err, want) != 0)
			print_error("%s\n", bad[i].in);
		assert_int_equal(r, -EINVAL);
		assert_string_equal(err, want);
		assert_null(u.path);
		assert_null(u.cert);
	}
}

/* prefix, then n times 'a', then suffix. */
static int parse_long(const char *prefix, size_t n, const char *suffix)
{
	char *run = xcalloc(1, n + 1);
	memset(run, 'a', n);
	char *text = xasprintf("%s%s%s", prefix, run, suffix);
	int r = tsurl_parse(&u, slice_str(text), err, sizeof(err));
	free(run);
	free(text);
	tsurl_end(&u);
	return r;
}

static void test_long(void **state)
{
	(void)state;
	assert_int_equal(parse_long("tstunnel://", 253, "/app"), 0);
	assert_int_equal(parse_long("tstunnel://", 254, "/app"), -EINVAL);
	assert_string_equal(err, "tstunnel URL: server host is too long");
	assert_int_equal(parse_long("tstunnel://h/tcp:", 254, ":1"), -EINVAL);
	assert_string_equal(err, "tstunnel URL: target host is too long");
	assert_int_equal(parse_long("tstunnel://h/unix:/", 106, ""), 0);
	assert_int_equal(parse_long("tstunnel://h/unix:/", 107, ""), -EINVAL);
	assert_string_equal(err, "tstunnel URL: target socket is longer than 107 bytes");
	assert_int_equal(parse_long("tstunnel://h/", 4094, ""), 0);
	assert_int_equal(parse_long("tstunnel://h/", 4095, ""), -EINVAL);
	assert_string_equal(err, "tstunnel URL: path is longer than 4095 bytes");
	assert_int_equal(parse_long("tstunnel://h/a?ca=", 8192 - 18, ""), 0);
	assert_int_equal(parse_long("tstunnel://h/a?ca=", 8192 - 17, ""), -EINVAL);
	assert_string_equal(err, "tstunnel URL: longer than 8192 bytes");
	/* The sentence is cut, not the buffer overrun. */
	char small[8];
	assert_int_equal(tsurl_parse(&u, SLICE("x"), small, sizeof(small)), -EINVAL);
	assert_string_equal(small, "tstunne");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_seed),
		cmocka_unit_test(test_forms),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_long),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
