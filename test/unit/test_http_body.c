/* Body framing: golden cases, each replayed split at every byte. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "http/http.h"
#include "reactor/err.h"

#define CHUNKED "Transfer-Encoding: chunked\r\n\r\n"
#define REQUEST "POST / HTTP/1.1\r\nHost: a\r\n"

struct result {
	char payload[512];
	size_t n, used, at;
	enum http_err_code code;
	bool done;
	int eof;
};

/* Runs a body through the machine in pieces: up to cut, then the rest, by 1 byte if single. */
static struct result run(const char *head, const char *method, struct slice in, size_t cut,
			 bool single)
{
	struct http_head h;
	struct http_body b;
	struct http_err err;
	struct slice out;
	struct result r = { .code = 0 };
	struct slice hs = slice_str(head);
	bool response = slice_starts(hs, SLICE("HTTP/"));
	if (response)
		assert_int_equal(http_response_parse(&h, hs, 0, HTTP_HEAD_MAX, &err), hs.n);
	else
		assert_int_equal(http_request_parse(&h, hs, 0, HTTP_HEAD_MAX, &err), hs.n);
	http_body_init(&b, &h, slice_str(method));
	while (r.used < in.n) {
		size_t end = r.used < cut ? cut : single ? r.used + 1 : in.n;
		ssize_t n = http_body_next(&b, slice_of(in.p + r.used, end - r.used), &out, &err);
		if (n < 0) {
			r.code = err.code;
			r.at = r.used + err.at;
			return r;
		}
		memcpy(r.payload + r.n, out.p ? out.p : "", out.n);
		r.n += out.n;
		r.used += (size_t)n;
		if (n == 0)
			break;
	}
	r.done = http_body_done(&b);
	r.eof = http_body_eof(&b);
	return r;
}

static const struct {
	const char *head, *method, *in, *payload;
	int left; /* bytes that are not the body's any more */
	bool done;
	bool ends; /* end of the connection would be a proper end */
} good[] = {
	{ REQUEST "\r\n", "POST", "next", "", 4, true, true },
	{ REQUEST "Content-Length: 3\r\n\r\n", "POST", "abcd", "abc", 1, true, true },
	{ REQUEST "Content-Length: 0\r\n\r\n", "POST", "d", "", 1, true, true },
	{ REQUEST "Content-Length: 9\r\n\r\n", "POST", "abcd", "abcd", 0, false, false },
	{ REQUEST CHUNKED, "POST", "3\r\nabc\r\n0\r\n\r\nGET", "abc", 3, true, true },
	{ REQUEST CHUNKED, "POST", "3\r\nabc\r\nA;x=y; z\r\n0123456789\r\n000\r\n\r\n",
	  "abc0123456789", 0, true, true },
	{ REQUEST CHUNKED, "POST", "0\r\nA: b\r\nX-y:\r\n\r\nx", "", 1, true, true },
	{ REQUEST CHUNKED, "POST", "0;\"q;\xff\"\r\n\r\n", "", 0, true, true },
	{ REQUEST CHUNKED, "POST", "0000000000000001\r\na\r\n0\r\n\r\n", "a", 0, true, true },
	{ REQUEST CHUNKED, "POST", "7fffffffffffffff\r\nab", "ab", 0, false, false },
	{ REQUEST CHUNKED, "POST", "1\r\na\r\n0\r\n\r", "a", 0, false, false },
	{ "HTTP/1.1 200 OK\r\n\r\n", "GET", "abc", "abc", 0, false, true },
	{ "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", "GET", "abc", "a", 2, true, true },
	{ "HTTP/1.1 200 OK\r\n" CHUNKED, "GET", "1\r\na\r\n0\r\n\r\n", "a", 0, true, true },
	{ "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "HEAD", "abc", "", 3, true, true },
	{ "HTTP/1.1 200 OK\r\n" CHUNKED, "HEAD", "abc", "", 3, true, true },
	{ "HTTP/1.1 204 x\r\n\r\n", "GET", "abc", "", 3, true, true },
	{ "HTTP/1.1 304 x\r\nContent-Length: 4\r\n\r\n", "GET", "abc", "", 3, true, true },
	{ "HTTP/1.1 100 x\r\n\r\n", "GET", "abc", "", 3, true, true },
	{ "HTTP/1.1 101 x\r\n\r\n", "GET", "abc", "", 3, true, true },
	{ "HTTP/1.1 200 x\r\nContent-Length: 4\r\n\r\n", "CONNECT", "abc", "", 3, true, true },
	{ "HTTP/1.1 407 x\r\nContent-Length: 2\r\n\r\n", "CONNECT", "abc", "ab", 1, true, true },
};

static const struct {
	const char *in;
	enum http_err_code code;
	size_t at;
} bad[] = {
	{ "\r\n", HTTP_E_CHUNK, 0 },
	{ "g\r\n", HTTP_E_CHUNK, 0 },
	{ "-1\r\n", HTTP_E_CHUNK, 0 },
	{ "+1\r\n", HTTP_E_CHUNK, 0 },
	{ " 1\r\n", HTTP_E_CHUNK, 0 },
	{ ";a\r\n", HTTP_E_CHUNK, 0 },
	{ "0x1\r\n", HTTP_E_CHUNK, 1 },
	{ "1 \r\na", HTTP_E_CHUNK, 1 },
	{ "1\t\r\na", HTTP_E_CHUNK, 1 },
	{ "1\na", HTTP_E_CHUNK, 1 },
	{ "1\r\r\na", HTTP_E_CHUNK, 2 },
	{ "1;a\nb", HTTP_E_CHUNK, 3 },
	{ "1;a\rb", HTTP_E_CHUNK, 4 },
	{ "1\r\nab\r\n", HTTP_E_CHUNK, 4 },
	{ "1\r\na\n", HTTP_E_CHUNK, 4 },
	{ "1\r\na\rb", HTTP_E_CHUNK, 5 },
	{ "8000000000000000\r\n", HTTP_E_CHUNK, 15 },
	{ "fffffffffffffffff\r\n", HTTP_E_CHUNK, 15 },
	{ "00000000000000001\r\n", HTTP_E_CHUNK, 16 },
	{ "0\r\n\n", HTTP_E_TRAILER, 3 },
	{ "0\r\n\rx", HTTP_E_TRAILER, 4 },
	{ "0\r\n: x\r\n\r\n", HTTP_E_TRAILER, 3 },
	{ "0\r\n a: x\r\n\r\n", HTTP_E_TRAILER, 3 },
	{ "0\r\na : x\r\n\r\n", HTTP_E_TRAILER, 4 },
	{ "0\r\na\r\n\r\n", HTTP_E_TRAILER, 4 },
	{ "0\r\na: x\n\r\n", HTTP_E_TRAILER, 7 },
	{ "0\r\na: x\r\n b\r\n\r\n", HTTP_E_TRAILER, 9 },
	{ "0\r\nContent-Length: 1\r\n\r\n", HTTP_E_TRAILER, 17 },
	{ "0\r\nTRANSFER-ENCODING: chunked\r\n\r\n", HTTP_E_TRAILER, 20 },
	{ "0\r\nA: b\r\nHost: c\r\n\r\n", HTTP_E_TRAILER, 13 },
};

static void test_good(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		struct slice in = slice_str(good[i].in);
		for (size_t cut = 0; cut <= 2 * in.n + 1; cut++) {
			struct result r = run(good[i].head, good[i].method, in, cut / 2, cut & 1);
			assert_int_equal(r.code, 0);
			assert_int_equal(in.n - r.used, good[i].left);
			assert_true(slice_eq(slice_of(r.payload, r.n), slice_str(good[i].payload)));
			assert_int_equal(r.done, good[i].done);
			assert_int_equal(r.eof, good[i].ends ? 0 : -ERR_TRUNCATED);
		}
	}
}

static void test_bad(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct slice in = slice_str(bad[i].in);
		for (size_t cut = 0; cut <= 2 * in.n + 1; cut++) {
			struct result r = run(REQUEST CHUNKED, "POST", in, cut / 2, cut & 1);
			if (r.code != bad[i].code || r.at != bad[i].at)
				fail_msg("'%s' cut %zu: got %d at %zu", bad[i].in, cut, r.code,
					 r.at);
		}
	}
}

static void test_bounds(void **state)
{
	char text[HTTP_TRAILERS_MAX + 64];
	struct result r;
	(void)state;

	memset(text, 'x', sizeof(text));
	memcpy(text, "1;", 2);
	r = run(REQUEST CHUNKED, "POST", slice_of(text, sizeof(text)), 0, false);
	assert_int_equal(r.code, HTTP_E_CHUNK);
	assert_in_range(r.at, HTTP_CHUNK_LINE_MAX, HTTP_CHUNK_LINE_MAX + 2);

	memcpy(text, "0\r\nA:", 5);
	r = run(REQUEST CHUNKED, "POST", slice_of(text, sizeof(text)), 0, true);
	assert_int_equal(r.code, HTTP_E_TRAILER);
	assert_in_range(r.at, HTTP_TRAILERS_MAX, HTTP_TRAILERS_MAX + 8);
}

static void test_check(void **state)
{
	struct http_head h;
	struct http_body b;
	struct http_err err;
	(void)state;

	assert_true(http_request_parse(&h, SLICE(REQUEST CHUNKED), 0, HTTP_HEAD_MAX, &err) > 0);
	http_body_init(&b, &h, SLICE("POST"));
	assert_int_equal(http_body_check(&b, SLICE("1\r\na\r\n2\r\nbc\r\n0\r\n\r\nnext"), &err),
			 18);
	assert_true(http_body_done(&b));
	assert_int_equal(http_body_check(&b, SLICE("next"), &err), 0);

	http_body_init(&b, &h, SLICE("POST"));
	assert_int_equal(http_body_check(&b, SLICE("1\r\na\r\n2\r\nbcd\r\n"), &err), -1);
	assert_int_equal(err.code, HTTP_E_CHUNK);
	assert_int_equal(err.at, 11);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_bad),
		cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_check),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
