/* Heads: golden cases, each replayed split at every byte, and what the writer makes of them. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "http/http.h"

static void dump(const struct http_head *h, char *out, size_t cap)
{
	static const char forms[] = "/u@*";
	int n;
	if (h->response)
		n = snprintf(out, cap, "1.%d %d '%.*s'", h->minor, h->status, SLICE_FMT(h->reason));
	else
		n = snprintf(out, cap, "%.*s %c%.*s 1.%d", SLICE_FMT(h->method), forms[h->form],
			     SLICE_FMT(h->target), h->minor);
	for (size_t i = 0; i < h->nfields; i++)
		n += snprintf(out + n, cap - (size_t)n, " %.*s=[%.*s]", SLICE_FMT(h->field[i].name),
			      SLICE_FMT(h->field[i].value));
	if (h->has_length)
		n += snprintf(out + n, cap - (size_t)n, " L%llu", (unsigned long long)h->length);
	if (h->chunked)
		n += snprintf(out + n, cap - (size_t)n, " C");
	n += snprintf(out + n, cap - (size_t)n, http_keep_alive(h) ? " K" : "");
	snprintf(out + n, cap - (size_t)n, http_wants_upgrade(h) ? " U" : "");
}

static ssize_t parse(bool response, struct http_head *h, struct slice in, size_t seen,
		     struct http_err *err)
{
	return (response ? http_response_parse : http_request_parse)(h, in, seen, HTTP_HEAD_MAX,
								     err);
}

/* Feeds in up to cut bytes first, then step by step; the verdict must not depend on it. */
static ssize_t parse_split(bool response, struct http_head *h, struct slice in, size_t cut,
			   struct http_err *err)
{
	size_t seen = 0;
	for (size_t n = cut; n <= in.n; seen = n, n++) {
		ssize_t r = parse(response, h, slice_of(in.p, n), seen, err);
		if (r != 0)
			return r;
	}
	return 0;
}

static const struct {
	const char *in, *want;
} good[] = {
	{ "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET // 1.1 Host=[a] K" },
	{ "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET", "GET // 1.1 Host=[a] K" },
	{ "GET /x?y=%20 HTTP/1.0\r\n\r\n", "GET //x?y=%20 1.0" },
	{ "GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
	  "GET //x 1.0 Connection=[keep-alive] K" },
	{ "HEAD /_ping HTTP/1.1\r\nhost:\r\n\r\n", "HEAD //_ping 1.1 host=[] K" },
	{ "POST /a HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 0012\r\n\r\n",
	  "POST //a 1.1 Host=[[::1]:80] Content-Length=[0012] L12 K" },
	{ "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \tChunked\t \r\n\r\n",
	  "POST //a 1.1 Host=[a] Transfer-Encoding=[Chunked] C K" },
	{ "GET http://h:81/p HTTP/1.1\r\nHost: other\r\n\r\n",
	  "GET uhttp://h:81/p 1.1 Host=[other] K" },
	{ "CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n", "CONNECT @h:443 1.1 Host=[h] K" },
	{ "CONNECT [::1]:443 HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
	  "CONNECT @[::1]:443 1.1 Host=[h] Content-Length=[0] L0 K" },
	{ "CONNECT /v1/sessions/1/tunnel HTTP/1.1\r\nHost: h\r\n\r\n",
	  "CONNECT //v1/sessions/1/tunnel 1.1 Host=[h] K" },
	{ "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", "OPTIONS ** 1.1 Host=[h] K" },
	{ "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive , CLOSE\r\n\r\n",
	  "GET // 1.1 Host=[a] Connection=[keep-alive , CLOSE]" },
	{ "GET / HTTP/1.1\r\nHost: a\r\nConnection: x\r\nConnection: ,upgrade\r\nUpgrade: "
	  "tcp\r\n\r\n",
	  "GET // 1.1 Host=[a] Connection=[x] Connection=[,upgrade] Upgrade=[tcp] K U" },
	{ "GET /{\"a\":1} HTTP/1.1\r\nHost: a\r\nX: \xc3\xa4 b\tc\r\nx:\r\n\r\n",
	  "GET //{\"a\":1} 1.1 Host=[a] X=[\xc3\xa4 b\tc] x=[] K" },
	{ "HTTP/1.1 200 OK\r\n\r\n", "1.1 200 'OK' K" },
	{ "HTTP/1.1 200 \r\nContent-Length: 9223372036854775807\r\n\r\n",
	  "1.1 200 '' Content-Length=[9223372036854775807] L9223372036854775807 K" },
	{ "HTTP/1.0 404 Not  Found\r\nA: b\r\n\r\n", "1.0 404 'Not  Found' A=[b]" },
	{ "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
	  "1.1 101 'UPGRADED' Connection=[Upgrade] Upgrade=[tcp] K U" },
	{ "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
	  "1.1 204 'No Content' Content-Length=[0] L0 K" },
	{ "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
	  "1.1 304 'Not Modified' Content-Length=[7] L7 K" },
};

#define H "GET / HTTP/1.1\r\nHost: a\r\n" /* 25 bytes */

static const struct {
	const char *in;
	enum http_err_code code;
	size_t at;
} bad[] = {
	{ "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_E_LINE, 0 },
	{ " GET / HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_E_LINE, 0 },
	{ "\x16\x03\x01", HTTP_E_LINE, 0 },
	{ "GET / HTTP/1.1\nHost: a\n\n", HTTP_E_BYTE, 14 },
	{ "GET / HTTP/1.1\r\nHost: a\n\r\n", HTTP_E_BYTE, 23 },
	{ "GET / HTTP/1.1\rHost: a\r\n\r\n", HTTP_E_BYTE, 14 },
	{ "GET / HTTP/1.1\r\r\n\r\n", HTTP_E_BYTE, 14 },
	{ H "X: a\rb\r\n\r\n", HTTP_E_BYTE, 29 },
	{ H "X: a\x01\r\n\r\n", HTTP_E_BYTE, 29 },
	{ H "X: a\x7f\r\n\r\n", HTTP_E_BYTE, 29 },
	{ "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_E_LINE, 4 },
	{ "GET /  HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_E_LINE, 6 },
	{ "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", HTTP_E_LINE, 6 },
	{ "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_E_LINE, 0 },
	{ "GET /\r\nHost: a\r\n\r\n", HTTP_E_LINE, 4 },
	{ "GET\r\n\r\n", HTTP_E_LINE, 0 },
	{ "G@T / HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_E_LINE, 0 },
	{ "GET / http/1.1\r\nHost: a\r\n\r\n", HTTP_E_LINE, 6 },
	{ "GET / HTTP/1.10\r\nHost: a\r\n\r\n", HTTP_E_LINE, 6 },
	{ "GET / HTTP/11\r\nHost: a\r\n\r\n", HTTP_E_LINE, 6 },
	{ "GET / HTTP/1.2\r\nHost: a\r\n\r\n", HTTP_E_VERSION, 6 },
	{ "GET / HTTP/0.9\r\nHost: a\r\n\r\n", HTTP_E_VERSION, 6 },
	{ "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HTTP_E_VERSION, 6 },
	{ "GET a HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_E_TARGET, 4 },
	{ "GET * HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_E_TARGET, 4 },
	{ "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_E_TARGET, 6 },
	{ "GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_E_TARGET, 5 },
	{ "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_E_TARGET, 4 },
	{ "GET http://u@h/x HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_E_TARGET, 4 },
	{ "GET http://h:0/x HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_E_TARGET, 13 },
	{ "CONNECT h HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_E_TARGET, 8 },
	{ "CONNECT h:99999 HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_E_TARGET, 10 },
	{ "CONNECT h:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n", HTTP_E_FRAMING, 47 },
	{ "GET / HTTP/1.1\r\n\r\n", HTTP_E_HOST, 18 },
	{ H "hOST: a\r\n\r\n", HTTP_E_HOST, 31 },
	{ "GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", HTTP_E_HOST, 31 },
	{ "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", HTTP_E_HOST, 22 },
	{ "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", HTTP_E_HOST, 22 },
	{ "GET / HTTP/1.1\r\nHost: u@b\r\n\r\n", HTTP_E_HOST, 22 },
	{ "GET / HTTP/1.1\r\nHost: a:x\r\n\r\n", HTTP_E_HOST, 22 },
	{ "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", HTTP_E_HOST, 22 },
	{ "GET / HTTP/1.1\r\n Host: a\r\n\r\n", HTTP_E_FOLD, 16 },
	{ H "X: a\r\n b\r\n\r\n", HTTP_E_FOLD, 31 },
	{ H "X: a\r\n\tb\r\n\r\n", HTTP_E_FOLD, 31 },
	{ H "X : a\r\n\r\n", HTTP_E_FIELD, 25 },
	{ H "X\t: a\r\n\r\n", HTTP_E_FIELD, 25 },
	{ H ": a\r\n\r\n", HTTP_E_FIELD, 25 },
	{ H "X\r\n\r\n", HTTP_E_FIELD, 25 },
	{ H "X\"y: a\r\n\r\n", HTTP_E_FIELD, 25 },
	{ H "X\xe9: a\r\n\r\n", HTTP_E_FIELD, 25 },
	{ H "Content-Length: 1\r\nContent-Length: 1\r\n\r\n", HTTP_E_LENGTH, 60 },
	{ H "Content-Length: 1\r\nContent-Length: 2\r\n\r\n", HTTP_E_LENGTH, 60 },
	{ H "Content-Length: 1, 1\r\n\r\n", HTTP_E_LENGTH, 41 },
	{ H "Content-Length:\r\n\r\n", HTTP_E_LENGTH, 40 },
	{ H "Content-Length: +1\r\n\r\n", HTTP_E_LENGTH, 41 },
	{ H "Content-Length: -1\r\n\r\n", HTTP_E_LENGTH, 41 },
	{ H "Content-Length: 0x1\r\n\r\n", HTTP_E_LENGTH, 41 },
	{ H "Content-Length: 1 1\r\n\r\n", HTTP_E_LENGTH, 41 },
	{ H "Content-Length: 9223372036854775808\r\n\r\n", HTTP_E_LENGTH, 41 },
	{ H "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", HTTP_E_FRAMING, 63 },
	{ H "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", HTTP_E_FRAMING, 69 },
	{ H "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", HTTP_E_FRAMING,
	  72 },
	{ H "Transfer-Encoding: chunked, identity\r\n\r\n", HTTP_E_FRAMING, 44 },
	{ H "Transfer-Encoding: identity\r\n\r\n", HTTP_E_FRAMING, 44 },
	{ H "Transfer-Encoding: xchunked\r\n\r\n", HTTP_E_FRAMING, 44 },
	{ H "Transfer-Encoding: chunked;q=1\r\n\r\n", HTTP_E_FRAMING, 44 },
	{ H "Transfer-Encoding: \"chunked\"\r\n\r\n", HTTP_E_FRAMING, 44 },
	{ H "Transfer-Encoding:\r\n\r\n", HTTP_E_FRAMING, 43 },
	{ H "Transfer-Encoding: gzip, chunked\r\n\r\n", HTTP_E_CODING, 44 },
	{ "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", HTTP_E_FRAMING, 35 },
	{ "HTTP/1.1 200\r\n\r\n", HTTP_E_LINE, 9 },
	{ "HTTP/1.1  200 OK\r\n\r\n", HTTP_E_LINE, 9 },
	{ "HTTP/1.1 20 OK\r\n\r\n", HTTP_E_LINE, 9 },
	{ "HTTP/1.1 099 OK\r\n\r\n", HTTP_E_LINE, 9 },
	{ "HTTP/1.1 +20 OK\r\n\r\n", HTTP_E_LINE, 9 },
	{ "HTTP/2.0 200 OK\r\n\r\n", HTTP_E_VERSION, 0 },
	{ "HTTP/1.1 200 O\x01K\r\n\r\n", HTTP_E_BYTE, 14 },
	{ "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", HTTP_E_FRAMING, 36 },
	{ "HTTP/1.1 204 x\r\nTransfer-Encoding: chunked\r\n\r\n", HTTP_E_FRAMING, 35 },
	{ "HTTP/1.1 101 x\r\nContent-Length: 3\r\n\r\n", HTTP_E_FRAMING, 32 },
};

static void test_good(void **state)
{
	struct http_head h;
	struct http_err err;
	char text[1024];
	(void)state;

	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		struct slice in = slice_str(good[i].in);
		bool response = slice_starts(in, SLICE("HTTP/"));
		size_t want = (size_t)(strstr(good[i].in, "\r\n\r\n") - good[i].in) + 4;
		for (size_t cut = 0; cut <= in.n; cut++) {
			assert_int_equal(parse_split(response, &h, in, cut, &err), want);
			dump(&h, text, sizeof(text));
			assert_string_equal(text, good[i].want);
		}
	}
}

static void test_bad(void **state)
{
	struct http_head h;
	struct http_err err;
	(void)state;

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct slice in = slice_str(bad[i].in);
		bool response = slice_starts(in, SLICE("HTTP/"));
		for (size_t cut = 0; cut <= in.n; cut++) {
			err = (struct http_err){ 0, 0 };
			if (parse_split(response, &h, in, cut, &err) != -1 ||
			    err.code != bad[i].code || err.at != bad[i].at)
				fail_msg("'%s' cut %zu: got %s at %zu", bad[i].in, cut,
					 http_err_text(err.code), err.at);
		}
	}
}

static void test_nul(void **state)
{
	struct http_head h;
	struct http_err err;
	(void)state;
	assert_int_equal(parse(false, &h, SLICE(H "X: a\0b\r\n\r\n"), 0, &err), -1);
	assert_int_equal(err.code, HTTP_E_BYTE);
	assert_int_equal(err.at, 29);
}

static void test_limits(void **state)
{
	struct http_head h;
	struct http_err err;
	struct buf b;
	struct slice in = SLICE(H "\r\n");
	(void)state;

	assert_int_equal(http_request_parse(&h, in, 0, in.n, &err), in.n);
	assert_int_equal(http_request_parse(&h, in, 0, in.n - 1, &err), -1);
	assert_int_equal(err.code, HTTP_E_LARGE);
	assert_int_equal(http_err_status(err.code), 431);
	assert_int_equal(http_request_parse(&h, slice_of(in.p, in.n - 1), 0, in.n, &err), 0);

	for (int fields = HTTP_FIELDS - 1; fields <= HTTP_FIELDS; fields++) {
		buf_init(&b, HTTP_HEAD_MAX);
		buf_puts(&b, H);
		for (int i = 0; i < fields; i++)
			buf_puts(&b, "a: b\r\n");
		buf_puts(&b, "\r\n");
		ssize_t r = parse(false, &h, buf_data(&b), 0, &err);
		assert_int_equal(r, fields < HTTP_FIELDS ? (ssize_t)b.len : -1);
		buf_end(&b);
	}
	assert_int_equal(err.code, HTTP_E_FIELDS);
}

static void test_preface(void **state)
{
	struct slice preface = SLICE("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
	(void)state;
	for (size_t n = 0; n < preface.n; n++)
		assert_int_equal(http_preface(slice_of(preface.p, n)), 0);
	assert_int_equal(http_preface(preface), 1);
	assert_int_equal(http_preface(SLICE("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0")), 1);
	assert_int_equal(http_preface(SLICE("PRI * HTTP/1.1")), -1);
	assert_int_equal(http_preface(SLICE("GET")), -1);
}

static void assert_host(const char *in, const char *want)
{
	struct http_head h;
	struct http_err err;
	assert_true(parse(false, &h, slice_str(in), 0, &err) > 0);
	assert_true(slice_eq(http_head_host(&h), slice_str(want)));
}

static void test_host(void **state)
{
	(void)state;
	assert_host(H "\r\n", "a");
	assert_host("GET / HTTP/1.0\r\n\r\n", NULL);
	assert_host("GET http://x:1/y HTTP/1.1\r\nHost: a\r\n\r\n", "x:1");
	assert_host("GET http://x?y HTTP/1.1\r\nHost: a\r\n\r\n", "x");
	assert_host("CONNECT x:1 HTTP/1.1\r\nHost: a\r\n\r\n", "x:1");
}

static void test_edit(void **state)
{
	struct http_head h;
	struct http_err err;
	struct buf b;
	(void)state;

	buf_init(&b, 4096);
	assert_true(parse(false, &h, SLICE(H "A: 1\r\nb: 2\r\na: 3\r\nC: 4\r\n\r\n"), 0, &err) > 0);
	struct http_edit edit[] = { { SLICE("a"), SLICE("new") },
				    { SLICE("B"), { NULL, 0 } },
				    { SLICE("D"), SLICE("added") },
				    { SLICE("E"), { NULL, 0 } } };
	assert_int_equal(http_put_head(&b, &h, edit, ARRAY_LEN(edit)), 0);
	assert_true(slice_eq(buf_data(&b), SLICE(H "A: new\r\nC: 4\r\nD: added\r\n\r\n")));
	edit[0].value = SLICE("x\r\ny: z");
	assert_int_equal(http_put_head(&b, &h, edit, ARRAY_LEN(edit)), -EINVAL);
	assert_true(slice_eq(buf_data(&b), SLICE(H "A: new\r\nC: 4\r\nD: added\r\n\r\n")));
	buf_end(&b);
}

static void test_write(void **state)
{
	struct buf b;
	(void)state;

	buf_init(&b, 4096);
	assert_int_equal(http_put_request(&b, SLICE("GET"), SLICE("/a")), 0);
	assert_int_equal(http_put_field(&b, SLICE("X"), SLICE("")), 0);
	assert_int_equal(http_put_number(&b, SLICE("Content-Length"), UINT64_MAX), 0);
	assert_int_equal(http_put_end(&b), 0);
	assert_int_equal(http_put_status(&b, 404, SLICE("")), 0);
	assert_int_equal(http_put_chunk(&b, SLICE("0123456789abcdef")), 0);
	assert_int_equal(http_put_chunk(&b, SLICE("")), 0);
	assert_int_equal(http_put_last_chunk(&b), 0);
	struct slice want =
	    SLICE("GET /a HTTP/1.1\r\nX: \r\nContent-Length: 18446744073709551615\r\n"
		  "\r\nHTTP/1.1 404 Not Found\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n");
	assert_true(slice_eq(buf_data(&b), want));

	assert_int_equal(http_put_request(&b, SLICE("G T"), SLICE("/a")), -EINVAL);
	assert_int_equal(http_put_request(&b, SLICE("GET"), SLICE("/a b")), -EINVAL);
	assert_int_equal(http_put_request(&b, SLICE("GET"), SLICE("/a\r\n")), -EINVAL);
	assert_int_equal(http_put_request(&b, SLICE("GET"), SLICE("")), -EINVAL);
	assert_int_equal(http_put_status(&b, 99, SLICE("")), -EINVAL);
	assert_int_equal(http_put_status(&b, 200, SLICE("a\nb")), -EINVAL);
	assert_int_equal(http_put_field(&b, SLICE("a:"), SLICE("")), -EINVAL);
	assert_int_equal(http_put_field(&b, SLICE(""), SLICE("")), -EINVAL);
	assert_int_equal(http_put_field(&b, SLICE("a"), SLICE("b\0c")), -EINVAL);
	assert_int_equal(http_put_field(&b, SLICE("a"), SLICE("b\rc")), -EINVAL);
	assert_true(slice_eq(buf_data(&b), want));
	b.max = b.len + 5;
	assert_int_equal(http_put_field(&b, SLICE("ab"), SLICE("")), -ENOBUFS);
	assert_int_equal(http_put_field(&b, SLICE("a"), SLICE("")), 0);
	buf_end(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),    cmocka_unit_test(test_bad),
		cmocka_unit_test(test_nul),     cmocka_unit_test(test_limits),
		cmocka_unit_test(test_preface), cmocka_unit_test(test_host),
		cmocka_unit_test(test_edit),    cmocka_unit_test(test_write),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
