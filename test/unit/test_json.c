#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "json/json.h"
#include "reactor/buf.h"
#include "reactor/err.h"

static struct json_doc *parse(struct slice text)
{
	struct json_error err;
	struct json_doc *doc = json_parse(text, NULL, &err);
	if (!doc)
		print_error("%s at %zu: %.*s\n", json_error_text(err.code), err.at,
			    SLICE_FMT(text));
	assert_non_null(doc);
	assert_int_equal(err.code, JSON_OK);
	return doc;
}

static void assert_printed(const struct json_doc *doc, const char *want)
{
	struct buf b;
	buf_init(&b, 65536);
	assert_int_equal(json_print(doc, &b), 0);
	char *text = xslicedup(buf_data(&b));
	assert_string_equal(text, want);
	assert_int_equal(json_length(doc), strlen(want));
	free(text);
	buf_end(&b);
}

static void test_accept(void **state)
{
	static const char *const good[] = {
		"null",
		"true",
		"false",
		"0",
		"-0",
		"12",
		"-1",
		"0.5",
		"-0.0",
		"1e5",
		"1E+5",
		"1.25e-10",
		"0e0",
		"0e+1",
		"100000000000000000000000000000000000000000000000",
		"1e999999",
		"-123123e100000",
		"\"\"",
		"\"a\"",
		"[]",
		"{}",
		"[ ]",
		"{ }",
		" [] ",
		"\t\r\n1\n",
		"[1]",
		"[1,2,3]",
		"[ 1 , 2 ]",
		"[[]]",
		"[[],[[]]]",
		"[null,1,\"1\",{}]",
		"[\"\"]",
		"{\"\":0}",
		"{\"a\":1}",
		"{ \"a\" : 1 , \"b\" : [ ] }",
		"{\"a\":{\"b\":{}}}",
		"{\"a\":1,\"A\":2}",
		"{\"a\":{\"a\":1}}",
		"[{\"a\":1},{\"a\":1}]",
		"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
		"\"\\u0000\"",
		"\"\\u0041\\u00e9\\uFFFF\"",
		"\"\\uD834\\uDD1e\"",
		"\"\\uDBFF\\uDFFF\"",
		"\"\x7f\"",
		"\"\xc2\x80\"",
		"\"\xdf\xbf\"",
		"\"\xe0\xa0\x80\"",
		"\"\xed\x9f\xbf\"",
		"\"\xee\x80\x80\"",
		"\"\xef\xbf\xbf\"",
		"\"\xf0\x90\x80\x80\"",
		"\"\xf4\x8f\xbf\xbf\"",
		"\"\xe2\x80\xa8\xe2\x80\xa9\"",
		"\"\xef\xbb\xbf\"",
		"\"a/*b*/c//d#e\"",
		"{\"80/tcp\":[{\"HostPort\":\"8080\"}],\"a.b\":null}",
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		/* A copy of the exact size, so that the sanitizer sees a read past the end. */
		size_t n = strlen(good[i]);
		char *text = xmalloc(n);
		memcpy(text, good[i], n);
		struct json_doc *doc = parse(slice_of(text, n));
		assert_printed(doc, good[i]);
		json_free(doc);
		free(text);
	}
}

static void test_reject(void **state)
{
#define BAD(literal, code, at)                                                                     \
	{                                                                                          \
		SLICE(literal), code, at                                                           \
	}
	static const struct {
		struct slice text;
		enum json_code code;
		size_t at;
	} bad[] = {
		BAD("", JSON_E_TRUNCATED, 0),
		BAD("  ", JSON_E_TRUNCATED, 2),
		BAD("[", JSON_E_TRUNCATED, 1),
		BAD("{", JSON_E_TRUNCATED, 1),
		BAD("[1", JSON_E_TRUNCATED, 2),
		BAD("[1,", JSON_E_TRUNCATED, 3),
		BAD("{\"a\"", JSON_E_TRUNCATED, 4),
		BAD("{\"a\":", JSON_E_TRUNCATED, 5),
		BAD("{\"a\":1", JSON_E_TRUNCATED, 6),
		BAD("{\"a\":1,", JSON_E_TRUNCATED, 7),
		BAD("\"", JSON_E_TRUNCATED, 1),
		BAD("\"a", JSON_E_TRUNCATED, 2),
		BAD("\"\\", JSON_E_TRUNCATED, 2),
		BAD("\"\\\"", JSON_E_TRUNCATED, 3),
		BAD("\"\\u00", JSON_E_TRUNCATED, 5),
		BAD("\"\\ud834\\", JSON_E_TRUNCATED, 8),
		BAD("-", JSON_E_TRUNCATED, 1),
		BAD("1.", JSON_E_TRUNCATED, 2),
		BAD("1e", JSON_E_TRUNCATED, 2),
		BAD("1e+", JSON_E_TRUNCATED, 3),
		BAD("tru", JSON_E_TRUNCATED, 3),
		BAD("nul", JSON_E_TRUNCATED, 3),
		BAD("]", JSON_E_SYNTAX, 0),
		BAD("}", JSON_E_SYNTAX, 0),
		BAD(",", JSON_E_SYNTAX, 0),
		BAD("[,1]", JSON_E_SYNTAX, 1),
		BAD("[1,]", JSON_E_SYNTAX, 3),
		BAD("[1,,2]", JSON_E_SYNTAX, 3),
		BAD("[1 2]", JSON_E_SYNTAX, 3),
		BAD("[1}", JSON_E_SYNTAX, 2),
		BAD("[1:2]", JSON_E_SYNTAX, 2),
		BAD("{]", JSON_E_SYNTAX, 1),
		BAD("{,}", JSON_E_SYNTAX, 1),
		BAD("{1:2}", JSON_E_SYNTAX, 1),
		BAD("{a:1}", JSON_E_SYNTAX, 1),
		BAD("{'a':1}", JSON_E_SYNTAX, 1),
		BAD("{null:1}", JSON_E_SYNTAX, 1),
		BAD("{\"a\"}", JSON_E_SYNTAX, 4),
		BAD("{\"a\",1}", JSON_E_SYNTAX, 4),
		BAD("{\"a\"::1}", JSON_E_SYNTAX, 5),
		BAD("{\"a\":1,}", JSON_E_SYNTAX, 7),
		BAD("{\"a\":1 \"b\":2}", JSON_E_SYNTAX, 7),
		BAD("{\"a\":}", JSON_E_SYNTAX, 5),
		BAD("{\"a\":1]", JSON_E_SYNTAX, 6),
		BAD("'a'", JSON_E_SYNTAX, 0),
		BAD("True", JSON_E_SYNTAX, 0),
		BAD("trUe", JSON_E_SYNTAX, 2),
		BAD("NaN", JSON_E_SYNTAX, 0),
		BAD("nan", JSON_E_SYNTAX, 1),
		BAD("Infinity", JSON_E_SYNTAX, 0),
		BAD("[-Infinity]", JSON_E_NUMBER, 2),
		BAD("[//x\n]", JSON_E_SYNTAX, 1),
		BAD("/**/1", JSON_E_SYNTAX, 0),
		BAD("#1", JSON_E_SYNTAX, 0),
		BAD("\xef\xbb\xbf{}", JSON_E_SYNTAX, 0),
		BAD("\xff", JSON_E_SYNTAX, 0),
		BAD("\v1", JSON_E_SYNTAX, 0),
		BAD("\f1", JSON_E_SYNTAX, 0),
		BAD("\xc2\xa0"
		    "1",
		    JSON_E_SYNTAX, 0),
		BAD("[1\0]", JSON_E_SYNTAX, 2),
		BAD("undefined", JSON_E_SYNTAX, 0),
		BAD("01", JSON_E_NUMBER, 1),
		BAD("-01", JSON_E_NUMBER, 2),
		BAD("00", JSON_E_NUMBER, 1),
		BAD("[-]", JSON_E_NUMBER, 2),
		BAD("[--1]", JSON_E_NUMBER, 2),
		BAD("[+1]", JSON_E_SYNTAX, 1),
		BAD("[.5]", JSON_E_SYNTAX, 1),
		BAD("[1.]", JSON_E_NUMBER, 3),
		BAD("[1.e1]", JSON_E_NUMBER, 3),
		BAD("[1e]", JSON_E_NUMBER, 3),
		BAD("[1e+]", JSON_E_NUMBER, 4),
		BAD("[1e1.5]", JSON_E_SYNTAX, 4),
		BAD("[0x1]", JSON_E_SYNTAX, 2),
		BAD("[1_000]", JSON_E_SYNTAX, 2),
		BAD("[1 000]", JSON_E_SYNTAX, 3),
		BAD("[\"\\a\"]", JSON_E_ESCAPE, 3),
		BAD("[\"\\'\"]", JSON_E_ESCAPE, 3),
		BAD("[\"\\0\"]", JSON_E_ESCAPE, 3),
		BAD("[\"\\x41\"]", JSON_E_ESCAPE, 3),
		BAD("[\"\\\0\"]", JSON_E_ESCAPE, 3),
		BAD("[\"\\U0041\"]", JSON_E_ESCAPE, 3),
		BAD("[\"\\u004\"]", JSON_E_ESCAPE, 7),
		BAD("[\"\\u00g0\"]", JSON_E_ESCAPE, 6),
		BAD("[\"\\u+041\"]", JSON_E_ESCAPE, 4),
		BAD("[\"\\ud800\"]", JSON_E_SURROGATE, 2),
		BAD("[\"\\udc00\"]", JSON_E_SURROGATE, 2),
		BAD("[\"a\\ud800b\"]", JSON_E_SURROGATE, 3),
		BAD("[\"\\ud800\\n\"]", JSON_E_SURROGATE, 2),
		BAD("[\"\\ud800\\u0041\"]", JSON_E_SURROGATE, 2),
		BAD("[\"\\ud800\\ud800\"]", JSON_E_SURROGATE, 2),
		BAD("[\"\\udc00\\ud800\"]", JSON_E_SURROGATE, 2),
		BAD("[\"\\udc00\\udc00\"]", JSON_E_SURROGATE, 2),
		BAD("[\"\\ud800\\ue000\"]", JSON_E_SURROGATE, 2),
		BAD("[\"a\nb\"]", JSON_E_CONTROL, 3),
		BAD("[\"\t\"]", JSON_E_CONTROL, 2),
		BAD("[\"\0\"]", JSON_E_CONTROL, 2),
		BAD("[\"\x1f\"]", JSON_E_CONTROL, 2),
		BAD("[\"\x80\"]", JSON_E_UTF8, 2),
		BAD("[\"\xc0\x80\"]", JSON_E_UTF8, 2),
		BAD("[\"\xc1\xbf\"]", JSON_E_UTF8, 2),
		BAD("[\"\xe0\x9f\xbf\"]", JSON_E_UTF8, 2),
		BAD("[\"a\xed\xa0\x80\"]", JSON_E_UTF8, 3),
		BAD("[\"\xf0\x8f\xbf\xbf\"]", JSON_E_UTF8, 2),
		BAD("[\"\xf4\x90\x80\x80\"]", JSON_E_UTF8, 2),
		BAD("[\"\xf5\x80\x80\x80\"]", JSON_E_UTF8, 2),
		BAD("[\"\xe2\x82\"]", JSON_E_UTF8, 2),
		BAD("[\"\xe2\x82", JSON_E_UTF8, 2),
		BAD("[\"\xe9\"]", JSON_E_UTF8, 2),
		BAD("1 1", JSON_E_TRAILING, 2),
		BAD("{}}", JSON_E_TRAILING, 2),
		BAD("[]]", JSON_E_TRAILING, 2),
		BAD("[],", JSON_E_TRAILING, 2),
		BAD("{} //", JSON_E_TRAILING, 3),
		BAD("null\0", JSON_E_TRAILING, 4),
		BAD("truefalse", JSON_E_TRAILING, 4),
		BAD("\"a\"x", JSON_E_TRAILING, 3),
		BAD("{\"a\":1,\"a\":1}", JSON_E_DUPLICATE, 7),
		BAD("{\"a\":1,\"b\":2, \"a\":3}", JSON_E_DUPLICATE, 14),
		BAD("{\"a\":1,\"\\u0061\":2}", JSON_E_DUPLICATE, 7),
		BAD("{\"\":1,\"\":2}", JSON_E_DUPLICATE, 6),
		BAD("{\"b\":1,\"b\":2,\"a\":1,\"a\":2}", JSON_E_DUPLICATE, 7),
		BAD("[{\"x\":{\"\\uD834\\uDD1E\":1,\"\xf0\x9d\x84\x9e\":2}}]", JSON_E_DUPLICATE,
		    24),
	};
#undef BAD
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct slice s = bad[i].text;
		char *text = xmalloc(s.n);
		struct json_error err = { JSON_OK, 999 };
		memcpy(text, s.p, s.n);
		struct json_doc *doc = json_parse(slice_of(text, s.n), NULL, &err);
		if (doc || err.code != bad[i].code || err.at != bad[i].at)
			print_error("%.*s: %s at %zu\n", SLICE_FMT(s), json_error_text(err.code),
				    err.at);
		assert_null(doc);
		assert_int_equal(err.code, bad[i].code);
		assert_int_equal(err.at, bad[i].at);
		assert_null(json_parse(slice_of(text, s.n), NULL, NULL));
		free(text);
	}
}

/* Every proper prefix of an object is refused as truncated, except inside a character. */
static void test_prefixes(void **state)
{
	static const char whole[] =
	    "{\"a\":[1.5e3,true,null,\"\\ud834\\udd1e x\"],\"b\":{\"c\":-0}}";
	(void)state;
	for (size_t n = 0; n < sizeof(whole) - 1; n++) {
		struct json_error err;
		char *text = xmalloc(n);
		memcpy(text, whole, n);
		assert_null(json_parse(slice_of(text, n), NULL, &err));
		assert_int_equal(err.code, JSON_E_TRUNCATED);
		assert_int_equal(err.at, n);
		free(text);
	}
}

static struct slice nested(char *to, unsigned depth)
{
	memset(to, '[', depth);
	memset(to + depth, ']', depth);
	return slice_of(to, 2 * (size_t)depth);
}

static void test_limits(void **state)
{
	static char text[200000];
	struct json_error err;
	struct json_limits max = { .depth = 3 };
	struct json_doc *doc;
	(void)state;

	doc = parse(nested(text, 64));
	json_free(doc);
	assert_null(json_parse(nested(text, 65), NULL, &err));
	assert_int_equal(err.code, JSON_E_DEPTH);
	assert_int_equal(err.at, 64);
	assert_null(json_parse(nested(text, 100000), NULL, &err));
	assert_int_equal(err.code, JSON_E_DEPTH);
	assert_null(json_parse(nested(text, 4), &max, &err));
	assert_int_equal(err.at, 3);
	/* Depth is what is open, not what has been. */
	doc = json_parse(SLICE("[[[]],[[]],{\"a\":[]}]"), &max, &err);
	assert_non_null(doc);
	json_free(doc);
	max.depth = 1024;
	doc = json_parse(nested(text, 1024), &max, &err);
	assert_non_null(doc);
	json_free(doc);

	max = (struct json_limits){ .bytes = 4 };
	assert_null(json_parse(SLICE("[  1]"), &max, &err));
	assert_int_equal(err.code, JSON_E_BYTES);
	assert_int_equal(err.at, 4);
	doc = json_parse(SLICE("[ 1]"), &max, &err);
	assert_non_null(doc);
	json_free(doc);

	max = (struct json_limits){ .values = 3 };
	assert_null(json_parse(SLICE("[1,2,3]"), &max, &err));
	assert_int_equal(err.code, JSON_E_VALUES);
	assert_int_equal(err.at, 5);
	doc = json_parse(SLICE("[1,2]"), &max, &err);
	assert_non_null(doc);
	assert_null(json_append(doc, json_root(doc), SLICE("0")));
	json_free(doc);
}

/* Many members, and the same with the last one a duplicate: no square, and found. */
static void test_many_members(void **state)
{
	struct buf b;
	struct json_error err;
	(void)state;
	for (int twice = 0; twice < 2; twice++) {
		buf_init(&b, 4 << 20);
		buf_puts(&b, "{");
		for (int i = 0; i < 100000; i++)
			buf_printf(&b, "\"k%d\":0,", i);
		size_t at = buf_data(&b).n;
		buf_printf(&b, "\"k%d\":1}", twice ? 31415 : 100000);
		struct json_doc *doc = json_parse(buf_data(&b), NULL, &err);
		if (twice) {
			assert_null(doc);
			assert_int_equal(err.code, JSON_E_DUPLICATE);
			assert_int_equal(err.at, at);
		} else {
			assert_int_equal(json_root(doc)->count, 100001);
			assert_non_null(json_find(json_root(doc), "k99999"));
			json_free(doc);
		}
		buf_end(&b);
	}
}

static void test_get(void **state)
{
	struct json_doc *doc = parse(SLICE(
	    "{\"Image\":\"nginx\",\"HostConfig\":{\"NetworkMode\":\"\\u0068ost\",\"Binds\":[\"/a:/"
	    "b\","
	    "\"/c:/d:ro\"],\"PortBindings\":{\"80/tcp\":[{\"HostPort\":\"8080\"}]},\"Init\":null},"
	    "\"Tty\":true,\"n\":9223372036854775807,\"m\":-9223372036854775808,"
	    "\"u\":18446744073709551615,\"big\":18446744073709551616,\"f\":1.0,\"e\":1e3,"
	    "\"z\":-0,\"\\u0065sc\":1,\"nul\":\"a\\u0000b\",\"all\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\","
	    "\"uni\":\"\\u00e9\\u20ac\\ud834\\udd1e\"}"));
	struct json *root = json_root(doc), *v;
	struct slice s = SLICE("untouched");
	bool flag = false;
	int64_t i;
	uint64_t u;
	(void)state;

	assert_int_equal(json_str(doc, json_find(root, "Image"), &s), 0);
	assert_true(slice_eq(s, SLICE("nginx")));
	assert_int_equal(json_str(doc, json_find(root, "HostConfig", "NetworkMode"), &s), 0);
	assert_true(slice_eq(s, SLICE("host")));
	v = json_find(root, "HostConfig", "PortBindings", "80/tcp");
	assert_int_equal(v->count, 1);
	assert_int_equal(json_str(doc, json_find(json_first(v), "HostPort"), &s), 0);
	assert_true(slice_eq(s, SLICE("8080")));
	v = json_first(json_find(root, "HostConfig", "Binds"));
	assert_true(slice_eq(v->raw, SLICE("\"/a:/b\"")));
	v = json_next(v);
	assert_int_equal(json_str(doc, v, &s), 0);
	assert_true(slice_eq(s, SLICE("/c:/d:ro")));
	assert_null(json_next(v));

	assert_int_equal(json_str(doc, json_find(root, "nul"), &s), 0);
	assert_true(slice_eq(s, SLICE("a\0b")));
	assert_int_equal(json_str(doc, json_find(root, "all"), &s), 0);
	assert_true(slice_eq(s, SLICE("\"\\/\b\f\n\r\t")));
	assert_int_equal(json_str(doc, json_find(root, "uni"), &s), 0);
	assert_true(slice_eq(s, SLICE("\xc3\xa9\xe2\x82\xac\xf0\x9d\x84\x9e")));

	assert_int_equal(json_bool(json_find(root, "Tty"), &flag), 0);
	assert_true(flag);
	assert_int_equal(json_i64(json_find(root, "n"), &i), 0);
	assert_true(i == INT64_MAX);
	assert_int_equal(json_i64(json_find(root, "m"), &i), 0);
	assert_true(i == INT64_MIN);
	assert_int_equal(json_i64(json_find(root, "u"), &i), -ERANGE);
	assert_int_equal(json_u64(json_find(root, "u"), &u), 0);
	assert_true(u == UINT64_MAX);
	assert_int_equal(json_u64(json_find(root, "big"), &u), -ERANGE);
	assert_int_equal(json_u64(json_find(root, "m"), &u), -ERANGE);
	assert_int_equal(json_i64(json_find(root, "f"), &i), -EINVAL);
	assert_int_equal(json_i64(json_find(root, "e"), &i), -EINVAL);
	assert_int_equal(json_u64(json_find(root, "z"), &u), 0);
	assert_int_equal(json_u64(json_find(root, "esc"), &u), 0);

	s = SLICE("untouched");
	assert_int_equal(json_str(doc, json_find(root, "HostConfig", "Init"), &s), -ENOENT);
	assert_int_equal(json_str(doc, json_find(root, "No"), &s), -ENOENT);
	assert_int_equal(json_str(doc, json_find(root, "No", "deeper"), &s), -ENOENT);
	assert_int_equal(json_str(doc, json_find(root, "Image", "deeper"), &s), -ENOENT);
	assert_int_equal(json_str(doc, json_find(root, "image"), &s), -ENOENT);
	assert_int_equal(json_str(doc, json_find(root, "Tty"), &s), -EINVAL);
	assert_int_equal(json_bool(json_find(root, "Image"), &flag), -EINVAL);
	assert_int_equal(json_i64(json_find(root, "Image"), &i), -EINVAL);
	assert_true(slice_eq(s, SLICE("untouched")));
	assert_null(json_first(NULL));
	assert_null(json_first(json_find(root, "Image")));
	json_free(doc);
}

static void test_edit(void **state)
{
	static const char body[] =
	    " {\n  \"Image\" : \"nginx\",\n  \"Unknown\":  [1.50, \"\\u0041\" ],\n"
	    "  \"HostConfig\": { \"Binds\": [ \"/a:/b\" , \"/c:/d\" ] , \"X\": 1e2 }\n} \n";
	struct json_doc *doc = parse(slice_of(body, sizeof(body) - 1));
	struct json *root = json_root(doc), *v;
	struct slice s;
	(void)state;

	assert_printed(doc, body);
	v = json_first(json_find(root, "HostConfig", "Binds"));
	v = json_replace(doc, v, json_quote(doc, SLICE("/new \"x\":/b")));
	assert_printed(doc, " {\n  \"Image\" : \"nginx\",\n  \"Unknown\":  [1.50, \"\\u0041\" ],\n"
			    "  \"HostConfig\": { \"Binds\": [ \"/new \\\"x\\\":/b\" , \"/c:/d\" ] "
			    ", \"X\": 1e2 }\n} \n");
	assert_int_equal(json_str(doc, v, &s), 0);
	assert_true(slice_eq(s, SLICE("/new \"x\":/b")));
	/* What was put in can be edited in turn, and is found. */
	v = json_set(doc, json_find(root, "HostConfig"), SLICE("X"), SLICE("{\"80/tcp\":[ ]}"));
	assert_ptr_equal(v, json_find(root, "HostConfig", "X"));
	assert_non_null(json_append(doc, json_find(root, "HostConfig", "X", "80/tcp"), SLICE("7")));
	assert_non_null(
	    json_append(doc, json_find(root, "HostConfig", "X", "80/tcp"), SLICE("{}")));
	assert_printed(
	    doc, " {\n  \"Image\" : \"nginx\",\n  \"Unknown\":  [1.50, \"\\u0041\" ],\n"
		 "  \"HostConfig\": { \"Binds\": [ \"/new \\\"x\\\":/b\" , \"/c:/d\" ] , \"X\": "
		 "{\"80/tcp\":[7,{} ]} }\n} \n");
	json_remove(json_find(root, "Unknown"));
	json_remove(json_find(root, "HostConfig"));
	assert_null(json_find(root, "HostConfig"));
	assert_int_equal(root->count, 1);
	assert_non_null(json_set(doc, root, SLICE("a\"b"), SLICE(" null ")));
	assert_printed(doc, " {\n  \"Image\" : \"nginx\",\"a\\\"b\":null\n} \n");
	json_free(doc);
}

static void test_edit_lists(void **state)
{
	struct json_doc *doc = parse(SLICE("[ 1, 2 ,3 ]"));
	struct json *root = json_root(doc), *v;
	(void)state;

	json_remove(json_first(root));
	assert_printed(doc, "[ 2 ,3 ]");
	json_remove(json_next(json_first(root)));
	assert_printed(doc, "[ 2 ]");
	v = json_replace(doc, json_first(root), SLICE("20"));
	v = json_replace(doc, v, SLICE("[200]"));
	assert_printed(doc, "[ [200] ]");
	json_replace(doc, json_first(v), SLICE("{}"));
	assert_printed(doc, "[ [{}] ]");
	json_remove(v);
	assert_printed(doc, "[ ]");
	assert_int_equal(root->count, 0);
	assert_null(json_first(root));
	v = json_append(doc, root, SLICE("4"));
	json_append(doc, root, SLICE("5"));
	json_append(doc, root, SLICE("6"));
	v = json_replace(doc, v, SLICE("44"));
	assert_printed(doc, "[44,5,6 ]");
	json_remove(v);
	assert_printed(doc, "[5,6 ]");
	json_remove(json_next(json_first(root)));
	v = json_append(doc, root, SLICE("7"));
	assert_printed(doc, "[5,7 ]");
	json_remove(json_first(root));
	json_remove(v);
	assert_printed(doc, "[ ]");
	json_append(doc, root, SLICE("8"));
	assert_printed(doc, "[8 ]");

	/* Refused text changes nothing. */
	assert_null(json_append(doc, root, SLICE("1,2")));
	assert_null(json_append(doc, root, SLICE("")));
	assert_null(json_replace(doc, json_first(root), SLICE("\"\xff\"")));
	assert_printed(doc, "[8 ]");
	json_replace(doc, root, SLICE("{}"));
	root = json_root(doc);
	json_set(doc, root, SLICE("k"), SLICE("1"));
	json_set(doc, root, SLICE("k"), SLICE("2"));
	assert_printed(doc, "{\"k\":2}");
	json_free(doc);

	doc = parse(SLICE("[1, 2]"));
	root = json_root(doc);
	json_replace(doc, json_next(json_first(root)), SLICE("3"));
	json_append(doc, root, SLICE("4"));
	assert_printed(doc, "[1, 3,4]");
	json_free(doc);

	/* The depth limit counts what is around. */
	struct json_limits max = { .depth = 2 };
	doc = json_parse(SLICE("[[]]"), &max, NULL);
	assert_null(json_append(doc, json_first(json_root(doc)), SLICE("[]")));
	assert_non_null(json_append(doc, json_root(doc), SLICE("[]")));
	assert_printed(doc, "[[],[]]");
	json_free(doc);
}

static void test_print_full(void **state)
{
	struct json_doc *doc = parse(SLICE("[1,2]"));
	struct buf b;
	(void)state;
	buf_init(&b, 8);
	buf_puts(&b, "head");
	assert_int_equal(json_print(doc, &b), -ENOBUFS);
	assert_int_equal(buf_data(&b).n, 4);
	buf_end(&b);
	json_free(doc);
}

static void test_writer(void **state)
{
	static const char want[] =
	    "head{\"a\":[],\"b\":[1,-2,\"x\\\"\\\\\\n\\u0001\\ufffd\xc3\xa9/\",true,false,null,{}],"
	    "\"\\t\":{\"u\":18446744073709551615},\"v\":[ 1.0 ]}";
	struct json_doc *doc = parse(SLICE("{\"k\":[ 1.0 ]}"));
	struct json_writer w;
	struct buf b;
	(void)state;

	/* With every size that is too small the buf stays as it was. */
	for (size_t max = 4; max <= sizeof(want) - 1; max++) {
		buf_init(&b, max);
		buf_puts(&b, "head");
		json_writer_begin(&w, &b);
		json_put_object(&w);
		json_put_name(&w, "a");
		json_put_array(&w);
		json_put_end(&w);
		json_put_name(&w, "b");
		json_put_array(&w);
		json_put_i64(&w, 1);
		json_put_i64(&w, -2);
		json_put_str(&w, SLICE("x\"\\\n\x01\xff\xc3\xa9/"));
		json_put_bool(&w, true);
		json_put_bool(&w, false);
		json_put_null(&w);
		json_put_object(&w);
		json_put_end(&w);
		json_put_end(&w);
		json_put_name_slice(&w, SLICE("\t"));
		json_put_object(&w);
		json_put_name(&w, "u");
		json_put_u64(&w, UINT64_MAX);
		json_put_end(&w);
		json_put_name(&w, "v");
		json_put_value(&w, json_find(json_root(doc), "k"));
		json_put_end(&w);
		bool fits = max == sizeof(want) - 1;
		assert_int_equal(json_writer_end(&w), fits ? 0 : -ENOBUFS);
		char *text = xslicedup(buf_data(&b));
		assert_string_equal(text, fits ? want : "head");
		free(text);
		buf_end(&b);
	}
	json_free(doc);
}

static void two_roots(struct json_writer *w)
{
	json_put_null(w);
	json_put_null(w);
}

static void nameless(struct json_writer *w)
{
	json_put_object(w);
	json_put_null(w);
}

static void name_in_array(struct json_writer *w)
{
	json_put_array(w);
	json_put_name(w, "a");
}

static void name_at_root(struct json_writer *w)
{
	json_put_name(w, "a");
}

static void name_without_value(struct json_writer *w)
{
	json_put_object(w);
	json_put_name(w, "a");
	json_put_end(w);
}

static void two_names(struct json_writer *w)
{
	json_put_object(w);
	json_put_name(w, "a");
	json_put_name(w, "b");
}

static void end_too_many(struct json_writer *w)
{
	json_put_array(w);
	json_put_end(w);
	json_put_end(w);
}

static void not_ended(struct json_writer *w)
{
	json_put_array(w);
	json_writer_end(w);
}

static void nothing(struct json_writer *w)
{
	json_writer_end(w);
}

static void too_deep(struct json_writer *w)
{
	for (int i = 0; i <= JSON_WRITER_DEPTH; i++)
		json_put_array(w);
}

static void test_misuse(void **state)
{
	static void (*const misuses[])(struct json_writer *) = {
		two_roots, nameless,     name_in_array, name_at_root, name_without_value,
		two_names, end_too_many, not_ended,     nothing,      too_deep,
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(misuses); i++) {
		int status;
		pid_t child = fork();
		assert_int_not_equal(child, -1);
		if (child == 0) {
			struct json_writer w;
			struct buf b;
			signal(SIGABRT, SIG_DFL);
			dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), STDERR_FILENO);
			buf_init(&b, 4096);
			json_writer_begin(&w, &b);
			misuses[i](&w);
			_exit(0);
		}
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	}
}

/* Feeds in in pieces of step bytes; joins the values with '|' and ends with the code. */
static void split(struct slice in, size_t step, size_t max, char *out, size_t size)
{
	struct json_split s;
	struct buf b;
	struct slice v;
	ssize_t r = 0;
	size_t n = 0;

	json_split_init(&s, max);
	buf_init(&b, 4096);
	out[0] = '\0';
	for (bool eof = false; !eof && r >= 0;) {
		size_t piece = MIN(step, in.n);
		buf_put(&b, slice_of(in.p, piece));
		in = slice_after(in, piece);
		eof = in.n == 0;
		while ((r = json_split_next(&s, buf_data(&b), eof, &v)) > 0) {
			if (v.n)
				n += (size_t)snprintf(out + n, size - n, "%.*s|", SLICE_FMT(v));
			buf_drop(&b, (size_t)r);
		}
	}
	if (r == -ERR_TRUNCATED)
		snprintf(out + n, size - n, "truncated");
	else
		snprintf(out + n, size - n, "%zd %zu", r, r == 0 ? buf_data(&b).n : 0);
	buf_end(&b);
}

static void test_split(void **state)
{
	static const struct {
		const char *in, *want;
	} cases[] = {
		{ "", "0 0" },
		{ " \n\r\t ", "0 0" },
		{ "{}", "{}|0 0" },
		{ "{}{}\n{\"a\":\"}\"}[]", "{}|{}|{\"a\":\"}\"}|[]|0 0" },
		{ "{\"a\":{\"b\":[1,{}]}}\n\n{\"c\":\"\\\"}\\\\\"}\n",
		  "{\"a\":{\"b\":[1,{}]}}|{\"c\":\"\\\"}\\\\\"}|0 0" },
		{ "1 2\n3", "1|2|3|0 0" },
		{ "1[2]true\"x\"null", "1|[2]|true|\"x\"|null|0 0" },
		{ "\"a\"\"b\\\"\"", "\"a\"|\"b\\\"\"|0 0" },
		{ "[1,2", "truncated" },
		{ "{} \"x", "{}|truncated" },
		{ "{}}", "{}|-22 0" },
		{ "{},{}", "{}|-22 0" },
		{ "x", "-22 0" },
		{ "\x1e{}", "-22 0" },
		/* Whether it is JSON is the parser's question. */
		{ "[}1", "[}|1|0 0" },
	};
	char out[512];
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		for (size_t step = 1; step <= strlen(cases[i].in) + 1; step++) {
			split(slice_str(cases[i].in), step, 64, out, sizeof(out));
			assert_string_equal(out, cases[i].want);
		}
	split(SLICE("[]     \n[1,2,3]"), 3, 6, out, sizeof(out));
	assert_string_equal(out, "[]|-90 0");
	split(SLICE("[]     \n[1,23]  123456 "), 3, 6, out, sizeof(out));
	assert_string_equal(out, "[]|[1,23]|123456|0 0");
	split(SLICE("1234567"), 3, 6, out, sizeof(out));
	assert_string_equal(out, "-90 0");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_accept),       cmocka_unit_test(test_reject),
		cmocka_unit_test(test_prefixes),     cmocka_unit_test(test_limits),
		cmocka_unit_test(test_many_members), cmocka_unit_test(test_get),
		cmocka_unit_test(test_edit),         cmocka_unit_test(test_edit_lists),
		cmocka_unit_test(test_print_full),   cmocka_unit_test(test_writer),
		cmocka_unit_test(test_misuse),       cmocka_unit_test(test_split),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
