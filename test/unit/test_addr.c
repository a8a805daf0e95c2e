/* Addresses as people write them: reactor/addr.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>

#include "reactor/dial.h"

static void test_accepted(void **state)
{
	static const struct {
		const char *text;
		uint16_t port_default;
		enum addr_kind kind;
		const char *host, *path;
		uint16_t port;
		const char *shown;
	} cases[] = {
		{ "localhost:8080", 0, ADDR_TCP, "localhost", "", 8080, "localhost:8080" },
		{ "10.0.0.1:443", 0, ADDR_TCP, "10.0.0.1", "", 443, "10.0.0.1:443" },
		{ ":2375", 0, ADDR_TCP, "", "", 2375, ":2375" },
		{ "[::1]:443", 0, ADDR_TCP, "::1", "", 443, "[::1]:443" },
		{ "[fd00::2]", 80, ADDR_TCP, "fd00::2", "", 80, "[fd00::2]:80" },
		{ "example.com", 443, ADDR_TCP, "example.com", "", 443, "example.com:443" },
		{ "my_db.internal.:0", 1, ADDR_TCP, "my_db.internal.", "", 0, "my_db.internal.:0" },
		{ "tcp://h:1", 0, ADDR_TCP, "h", "", 1, "h:1" },
		{ "tcp:h:65535", 0, ADDR_TCP, "h", "", 65535, "h:65535" },
		{ "udp:h:53", 0, ADDR_UDP, "h", "", 53, "h:53" },
		{ "udp://[::]:53", 0, ADDR_UDP, "::", "", 53, "[::]:53" },
		{ "unix:///run/x.sock", 0, ADDR_UNIX, "", "/run/x.sock", 0, "unix:///run/x.sock" },
		{ "unix:/run/x y", 0, ADDR_UNIX, "", "/run/x y", 0, "unix:///run/x y" },
		{ "unix:x.sock", 0, ADDR_UNIX, "", "x.sock", 0, "unix://x.sock" },
		{ "unix:@name", 0, ADDR_UNIX, "", "@name", 0, "unix://@name" },
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct addr a;
		char err[256] = "";
		int r = addr_parse(&a, slice_str(cases[i].text), cases[i].port_default, err,
				   sizeof(err));
		if (r)
			fail_msg("%s: %s", cases[i].text, err);
		assert_int_equal(a.kind, cases[i].kind);
		assert_string_equal(a.host, cases[i].host);
		assert_string_equal(a.path, cases[i].path);
		assert_int_equal(a.port, cases[i].port);
		assert_string_equal(addr_text(&a), cases[i].shown);
	}
}

static void test_refused(void **state)
{
	static const struct {
		const char *text, *complaint;
	} cases[] = {
		{ "", "empty address" },
		{ "tcp://", "empty address" },
		{ "localhost", "missing port in address" },
		{ "localhost:", "bad port" },
		{ "localhost:http", "bad port" },
		{ "localhost:65536", "bad port" },
		{ "localhost:-1", "bad port" },
		{ "localhost: 1", "bad port" },
		{ "::1:80", "too many colons" },
		{ "[::1:80", "missing ']'" },
		{ "[::1]80", "unexpected text after ']'" },
		{ "[localhost]:80", "bad IPv6 address" },
		{ "[]:80", "bad IPv6 address" },
		{ "http://h:80", "too many colons" },
		{ "a/b:80", "bad character" },
		{ "a b:80", "bad character" },
		{ "unix:", "missing path" },
		{ "unix://", "missing path" },
		{ "unix:@", "missing path" },
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct addr a;
		char err[256] = "";
		assert_int_equal(addr_parse(&a, slice_str(cases[i].text), 0, err, sizeof(err)),
				 -EINVAL);
		if (!strstr(err, cases[i].complaint) || !strstr(err, cases[i].text))
			fail_msg("%s: %s", cases[i].text, err);
	}
}

static void test_lengths(void **state)
{
	struct addr a;
	char err[64], text[400];
	(void)state;
	memset(text, 'a', sizeof(text));
	memcpy(text + 253, ":1", 2);
	assert_int_equal(addr_parse(&a, slice_of(text, 255), 0, err, sizeof(err)), 0);
	assert_int_equal(strlen(a.host), 253);
	memcpy(text + 253, "a:1", 3);
	assert_int_equal(addr_parse(&a, slice_of(text, 256), 0, err, sizeof(err)), -EINVAL);
	memset(text, 'a', sizeof(text));
	memcpy(text, "unix:", 5);
	assert_int_equal(addr_parse(&a, slice_of(text, 5 + 107), 0, err, sizeof(err)), 0);
	assert_int_equal(strlen(a.path), 107);
	assert_int_equal(addr_parse(&a, slice_of(text, 5 + 108), 0, err, sizeof(err)), -EINVAL);
	memcpy(text, "unix:/a\0b", 9);
	assert_int_equal(addr_parse(&a, slice_of(text, 9), 0, err, sizeof(err)), -EINVAL);
	memcpy(text, "[::1\0]:80", 9);
	assert_int_equal(addr_parse(&a, slice_of(text, 9), 0, err, sizeof(err)), -EINVAL);
}

static bool loopback(const char *text)
{
	struct addr a;
	char err[64];
	assert_int_equal(addr_parse(&a, slice_str(text), 1, err, sizeof(err)), 0);
	return addr_is_loopback(&a);
}

static void test_loopback(void **state)
{
	(void)state;
	assert_true(loopback("localhost"));
	assert_true(loopback("LocalHost"));
	assert_true(loopback("127.0.0.1"));
	assert_true(loopback("127.255.0.9"));
	assert_true(loopback("[::1]"));
	assert_true(loopback("[::ffff:127.0.0.1]"));
	assert_true(loopback("unix:/x"));
	assert_false(loopback(":80"));
	assert_false(loopback("0.0.0.0"));
	assert_false(loopback("128.0.0.1"));
	assert_false(loopback("[::]"));
	assert_false(loopback("[::ffff:10.0.0.1]"));
	assert_false(loopback("127.0.0.1.example.com"));
	assert_false(loopback("localhost.example.com"));
}

static const char *literal(const char *text)
{
	struct addr a;
	struct sockaddr_storage ss;
	socklen_t len = 0;
	char err[64];
	assert_int_equal(addr_parse(&a, slice_str(text), 7, err, sizeof(err)), 0);
	if (addr_literal(&a, &ss, &len) < 0)
		return NULL;
	assert_true(len > 0);
	return sockaddr_text((struct sockaddr *)&ss);
}

static void test_literals(void **state)
{
	(void)state;
	assert_string_equal(literal("10.1.2.3:80"), "10.1.2.3:80");
	assert_string_equal(literal("[FD00::1]:80"), "[fd00::1]:80");
	assert_string_equal(literal("[::ffff:10.1.2.3]:80"), "10.1.2.3:80");
	assert_string_equal(literal("unix:/a"), "unix:///a");
	assert_string_equal(literal("unix:@a"), "unix://@a");
	assert_null(literal("localhost"));
	assert_null(literal("10.1.2"));
	assert_null(literal("010.1.2.3"));
	assert_null(literal(":80"));
}

static void test_eight_texts_at_once(void **state)
{
	const char *shown[8];
	struct addr a = { .kind = ADDR_TCP, .host = "h" };
	(void)state;
	for (uint16_t i = 0; i < 8; i++) {
		a.port = i;
		shown[i] = addr_text(&a);
	}
	assert_string_equal(shown[0], "h:0");
	assert_string_equal(shown[7], "h:7");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_accepted), cmocka_unit_test(test_refused),
		cmocka_unit_test(test_lengths),  cmocka_unit_test(test_loopback),
		cmocka_unit_test(test_literals), cmocka_unit_test(test_eight_texts_at_once),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
