/* URLs, percent coding, queries. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "http/url.h"

static const struct {
	const char *in, *want;
} good[] = {
	{ "http://h", "http|-|h||0||-" },
	{ "HTTPS://h.x:8443/a/b?c=d", "HTTPS|-|h.x||8443|/a/b|c=d" },
	{ "tstunnel://user:pw@h", "tstunnel|user:pw|h||0||-" },
	{ "http://@h/", "http||h||0|/|-" },
	{ "http://[::1]", "http|-|::1|6|0||-" },
	{ "http://[fe80::1]:9?q", "http|-|fe80::1|6|9||q" },
	{ "unix:///var/run/x.sock", "unix|-|||0|/var/run/x.sock|-" },
	{ "http://h/?", "http|-|h||0|/|" },
	{ "http://my_host%20/%7E?{\"a\"}", "http|-|my_host%20||0|/%7E|{\"a\"}" },
};

static const struct {
	const char *in;
	size_t at;
} bad[] = {
	{ "", 0 },
	{ "h", 0 },
	{ "1x://h", 0 },
	{ "h_t://h", 0 },
	{ "://h", 0 },
	{ "http:h", 5 },
	{ "http:/h", 5 },
	{ "http://h:", 9 },
	{ "http://h:0", 9 },
	{ "http://h:65536", 9 },
	{ "http://h:080808", 9 },
	{ "http://h:+8", 9 },
	{ "http://:80", 7 },
	{ "http://::1", 7 },
	{ "http://[::1", 7 },
	{ "http://[::g]", 8 },
	{ "http://[1.2.3.4]", 8 },
	{ "http://[]", 8 },
	{ "http://[::1]x", 12 },
	{ "http://a b", 8 },
	{ "http://a,b", 8 },
	{ "http://a%2", 8 },
	{ "http://a@b@c", 10 },
	{ "http://u%x@c", 8 },
	{ "http://h/a#b", 10 },
	{ "http://h#b", 8 },
	{ "http://h/a b", 10 },
	{ "http://h/\xc3\xa4", 9 },
	{ "http://h/%g0", 9 },
	{ "http://h/%0", 9 },
	{ "http://h/?a%", 11 },
};

static void test_good(void **state)
{
	struct http_url u;
	struct http_err err;
	char text[256];
	(void)state;

	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		assert_int_equal(http_url_parse(&u, slice_str(good[i].in), &err), 0);
		snprintf(text, sizeof(text), "%.*s|%.*s|%.*s|%s|%d|%.*s|%.*s", SLICE_FMT(u.scheme),
			 SLICE_FMT(u.userinfo.p ? u.userinfo : SLICE("-")), SLICE_FMT(u.host),
			 u.ipv6 ? "6" : "", u.port, SLICE_FMT(u.path),
			 SLICE_FMT(u.query.p ? u.query : SLICE("-")));
		assert_string_equal(text, good[i].want);
	}
}

static void test_bad(void **state)
{
	struct http_url u;
	struct http_err err;
	(void)state;

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		err = (struct http_err){ 0, 0 };
		if (http_url_parse(&u, slice_str(bad[i].in), &err) != -1 ||
		    err.code != HTTP_E_URL || err.at != bad[i].at)
			fail_msg("'%s': got %d at %zu", bad[i].in, err.code, err.at);
	}
}

static void test_target(void **state)
{
	struct http_url u;
	struct http_err err;
	(void)state;

	assert_int_equal(http_target_parse(&u, SLICE("/a//b?c?d"), &err), 0);
	assert_true(slice_eq(u.path, SLICE("/a//b")));
	assert_true(slice_eq(u.query, SLICE("c?d")));
	assert_int_equal(http_target_parse(&u, SLICE("/a"), &err), 0);
	assert_null(u.query.p);
	assert_int_equal(http_target_parse(&u, SLICE("a"), &err), -1);
	assert_int_equal(http_target_parse(&u, SLICE(""), &err), -1);
	assert_int_equal(http_target_parse(&u, SLICE("/a%zz"), &err), -1);
	assert_int_equal(err.at, 2);
}

static void test_percent(void **state)
{
	char out[8];
	struct buf b;
	(void)state;

	assert_int_equal(http_percent_decode(out, 8, SLICE("a%2Fb+%41"), false), 5);
	assert_memory_equal(out, "a/b+A", 5);
	assert_int_equal(http_percent_decode(out, 8, SLICE("a+b"), true), 3);
	assert_memory_equal(out, "a b", 3);
	assert_int_equal(http_percent_decode(out, 8, SLICE("%252F"), false), 3); /* once */
	assert_memory_equal(out, "%2F", 3);
	assert_int_equal(http_percent_decode(out, 8, SLICE("%00"), false), -EINVAL);
	assert_int_equal(http_percent_decode(out, 8, SLICE("%4"), false), -EINVAL);
	assert_int_equal(http_percent_decode(out, 8, SLICE("%4x"), false), -EINVAL);
	assert_int_equal(http_percent_decode(out, 2, SLICE("abc"), false), -ENOBUFS);
	buf_init(&b, 20);
	assert_int_equal(http_percent_put(&b, SLICE("a-b {\"\xff")), 0);
	assert_true(slice_eq(buf_data(&b), SLICE("a-b%20%7B%22%FF")));
	assert_int_equal(http_percent_put(&b, SLICE("  ")), -ENOBUFS);
	assert_int_equal(b.len, 15);
	buf_end(&b);
}

static void test_query(void **state)
{
	struct slice q = SLICE("&a=1&&b&c=&d=x=y&"), k, v;
	char out[8];
	(void)state;

	assert_true(http_query_next(&q, &k, &v) && slice_eq(k, SLICE("a")) &&
		    slice_eq(v, SLICE("1")));
	assert_true(http_query_next(&q, &k, &v) && slice_eq(k, SLICE("b")) && !v.p);
	assert_true(http_query_next(&q, &k, &v) && slice_eq(k, SLICE("c")) && v.p && !v.n);
	assert_true(http_query_next(&q, &k, &v) && slice_eq(v, SLICE("x=y")));
	assert_false(http_query_next(&q, &k, &v));

	q = SLICE("ab=no&p%61th=%2Fx+y&path=second&bad=%zz&flag");
	assert_int_equal(http_query_get(q, "path", out, sizeof(out)), 4);
	assert_string_equal(out, "/x y");
	assert_int_equal(http_query_get(q, "path", out, 4), -ENOBUFS);
	assert_int_equal(http_query_get(q, "flag", out, sizeof(out)), 0);
	assert_string_equal(out, "");
	assert_int_equal(http_query_get(q, "bad", out, sizeof(out)), -EINVAL);
	assert_int_equal(http_query_get(q, "a", out, sizeof(out)), -ENOENT);
	assert_int_equal(http_query_get(q, "abc", out, sizeof(out)), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),   cmocka_unit_test(test_bad),
		cmocka_unit_test(test_target), cmocka_unit_test(test_percent),
		cmocka_unit_test(test_query),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
