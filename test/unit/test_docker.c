/* What we know of Docker's API, and the guard against web pages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "proto/docker/docker.h"

static struct http_head request(const char *text)
{
	struct http_head h;
	struct http_err err;
	if (http_request_parse(&h, slice_str(text), 0, HTTP_HEAD_MAX, &err) <= 0)
		fail_msg("no request: %s", text);
	return h;
}

static struct http_head reply(const char *text)
{
	struct http_head h;
	struct http_err err;
	if (http_response_parse(&h, slice_str(text), 0, HTTP_HEAD_MAX, &err) <= 0)
		fail_msg("no reply: %s", text);
	return h;
}

/* The text of the request lives until the next call. */
static struct http_head line(const char *method, const char *target)
{
	static char text[1024];
	snprintf(text, sizeof(text), "%s %s HTTP/1.1\r\nHost: docker\r\n\r\n", method, target);
	return request(text);
}

static void paths(void **state)
{
	static const char *const cases[][2] = {
		{ "/v1.41/info", "/info" },
		{ "/v1.41/containers/x/json?all=1", "/containers/x/json?all=1" },
		{ "/v2/x", "/x" },
		{ "/info", "/info" },
		{ "/version", "/version" },
		{ "/volumes/v1", "/volumes/v1" },
		{ "/v1.41", "/v1.41" },
		{ "/v/info", "/v/info" },
		{ "/v1.41x/info", "/v1.41x/info" },
		{ "/v1.41?x=/info", "/v1.41?x=/info" },
		{ "/", "/" },
		{ "*", "*" },
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct slice got = docker_path(slice_str(cases[i][0]));
		if (!slice_eq(got, slice_str(cases[i][1])))
			fail_msg("%s gave %.*s", cases[i][0], SLICE_FMT(got));
	}
}

static void bulk(void **state)
{
	static const char *const yes[] = {
		"/images/load",
		"/v1.41/images/load?quiet=1",
		"/images/get?names=a&names=b",
		"/images/bb/get",
		"/v1.41/images/registry:5000/a/b/get",
		"/images/create?fromImage=bb",
		"/v1.41/build?t=x",
		"/containers/x/archive?path=/etc",
		"/containers/x/export",
	};
	static const char *const no[] = {
		"/info",
		"/images/json",
		"/images/bb/json",
		"/build/prune",
		"/containers/x/attach?stdin=1",
		"/containers/json?x=/archive",
		"/exec/x/start",
		"/volumes/build",
		"/containers/create?name=/export",
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(yes); i++) {
		struct http_head h = line("POST", yes[i]);
		if (!docker_is_bulk(&h))
			fail_msg("%s is bulk", yes[i]);
	}
	for (size_t i = 0; i < ARRAY_LEN(no); i++) {
		struct http_head h = line("POST", no[i]);
		if (docker_is_bulk(&h))
			fail_msg("%s is not bulk", no[i]);
	}
}

#define RAW "Content-Type: application/vnd.docker.raw-stream\r\n\r\n"

static void hijack(void **state)
{
	struct http_head bare = reply("HTTP/1.1 200 OK\r\n" RAW);
	struct http_head sized = reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n");
	struct http_head chunked = reply("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
	struct http_head missing = reply("HTTP/1.1 404 Not Found\r\n" RAW);
	struct http_head h = line("POST", "/v1.41/containers/x/attach?stream=1");
	(void)state;
	assert_true(docker_is_hijack(NULL, &h, NULL));
	assert_true(docker_is_hijack(NULL, &h, &bare));
	assert_false(docker_is_hijack(NULL, &h, &sized));
	assert_false(docker_is_hijack(NULL, &h, &chunked));
	assert_false(docker_is_hijack(NULL, &h, &missing));
	h = line("POST", "/exec/x/start");
	assert_true(docker_is_hijack(NULL, &h, &bare));

	static const char *const others[][2] = {
		{ "GET", "/containers/x/attach" },   { "POST", "/containers/x/attach/ws" },
		{ "POST", "/containers/x/start" },   { "POST", "/exec/x/json" },
		{ "POST", "/images/x/attach" },      { "POST", "/x?y=/containers/x/attach" },
		{ "GET", "/containers/x/logs?f=1" }, { "POST", "/build" },
	};
	for (size_t i = 0; i < ARRAY_LEN(others); i++) {
		h = line(others[i][0], others[i][1]);
		if (docker_is_hijack(NULL, &h, NULL) || docker_is_hijack(NULL, &h, &bare))
			fail_msg("%s %s is no hijack", others[i][0], others[i][1]);
	}
}

#define HELP "try --allow-host"

/* What the guard says to these fields of a GET of target. */
static int guard(const struct docker_guard *g, const char *target, const char *fields,
		 char why[512])
{
	char text[2048];
	snprintf(text, sizeof(text), "GET %s HTTP/1.%d\r\n%s\r\n", target,
		 strstr(fields, "Host:") ? 1 : 0, fields);
	struct http_head h = request(text);
	why[0] = '\0';
	int status = docker_guard_check(g, &h, why, 512);
	assert_true(status ? why[0] : !why[0]);
	return status;
}

static int host(const struct docker_guard *g, const char *name)
{
	char fields[600], why[512];
	snprintf(fields, sizeof(fields), "Host: %s\r\n", name);
	int status = guard(g, "/info", fields, why);
	if (status == 403 && !strstr(why, HELP))
		fail_msg("no help in: %s", why);
	return status;
}

static void guard_hosts(void **state)
{
	static const char *const local[] = {
		"localhost",       "LocalHost",
		"localhost:2375",  "127.0.0.1",
		"127.1.2.3:1",     "[::1]",
		"[::1]:2375",      "[0:0:0:0:0:0:0:1]:2375",
		"a.localhost",     "A.B.LOCALHOST:80",
		"[::ffff:7f00:1]", "[::ffff:127.0.0.1]",
	};
	static const char *const foreign[] = {
		"evil.example",
		"evil.example:2375",
		"localhost.evil.example",
		"notlocalhost",
		"localhost.",
		"127.0.0.1.nip.io",
		"0.0.0.0",
		"[::]:2375",
		"10.0.0.1",
		"[::ffff:10.0.0.1]",
		"[fe80::1]:2375",
		"2130706433",
		"0x7f.1",
		"127.0.0.1@evil.com",
		"%6cocalhost",
		"::1",
	};
	struct docker_guard g = { .check_host = true, .help = HELP };
	char long_name[300];
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(local); i++)
		if (host(&g, local[i]) != 0)
			fail_msg("%s is local", local[i]);
	memset(long_name, 'a', sizeof(long_name));
	strcpy(long_name + 260, ".example");
	assert_int_equal(host(&g, long_name), 403);
	g.check_host = false;
	assert_int_equal(host(&g, "evil.example"), 0);
	g.check_host = true;
	for (size_t i = 0; i < ARRAY_LEN(foreign); i++) {
		char text[512];
		struct http_head h;
		struct http_err err;
		snprintf(text, sizeof(text), "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", foreign[i]);
		if (http_request_parse(&h, slice_str(text), 0, HTTP_HEAD_MAX, &err) <= 0)
			continue; /* the parser refuses it already */
		if (host(&g, foreign[i]) == 0)
			fail_msg("%s is foreign", foreign[i]);
	}
}

static void guard_targets(void **state)
{
	struct docker_guard g = { .check_host = true, .help = HELP };
	char why[512];
	(void)state;
	/* An absolute target says who the request is for, whatever Host says. */
	assert_int_equal(guard(&g, "http://evil.example/info", "Host: localhost\r\n", why), 403);
	assert_non_null(strstr(why, "evil.example"));
	assert_int_equal(guard(&g, "http://localhost:2375/info", "Host: localhost:2375\r\n", why),
			 0);
	/* HTTP/1.0 need not say: no browser speaks it. */
	assert_int_equal(guard(&g, "/info", "", why), 0);
}

static void guard_listed(void **state)
{
	const char *names[] = { "build.example", "::2" };
	const struct opt_list list = { names, ARRAY_LEN(names) };
	struct docker_guard g = { .check_host = true, .hosts = &list, .help = HELP };
	char why[512];
	(void)state;
	assert_int_equal(host(&g, "build.example"), 0);
	assert_int_equal(host(&g, "BUILD.example:2375"), 0);
	assert_int_equal(host(&g, "[::2]:80"), 0);
	assert_int_equal(host(&g, "localhost"), 0);
	assert_int_equal(host(&g, "x.build.example"), 403);
	/* A name more is no leave for pages. */
	assert_int_equal(
	    guard(&g, "/", "Host: build.example\r\nOrigin: http://build.example\r\n", why), 403);
	names[0] = "*";
	assert_int_equal(host(&g, "anything.example"), 0);
	assert_int_equal(guard(&g, "/", "Host: x\r\nOrigin: http://y\r\n", why), 0);
}

static void guard_pages(void **state)
{
	struct docker_guard g = { .check_host = true, .help = HELP };
	char why[512];
	(void)state;
	assert_int_equal(guard(&g, "/", "Host: localhost\r\nOrigin: http://evil.example\r\n", why),
			 403);
	assert_non_null(strstr(why, "http://evil.example"));
	assert_int_equal(guard(&g, "/", "Host: localhost\r\nOrigin: null\r\n", why), 403);
	assert_int_equal(guard(&g, "/", "Host: localhost\r\nOrigin:\r\n", why), 403);
	assert_int_equal(guard(&g, "/", "Host: localhost\r\nsec-fetch-site: cross-site\r\n", why),
			 403);
	assert_int_equal(guard(&g, "/", "Host: localhost\r\nSec-Fetch-Site: same-origin\r\n", why),
			 403);
	assert_int_equal(guard(&g, "/", "Host: localhost\r\nSec-Fetch-Site: none\r\n", why), 0);
	g.check_host = false;
	assert_int_equal(guard(&g, "/", "Host: x\r\nOrigin: http://x\r\n", why), 403);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(paths),         cmocka_unit_test(bulk),
		cmocka_unit_test(hijack),        cmocka_unit_test(guard_hosts),
		cmocka_unit_test(guard_targets), cmocka_unit_test(guard_listed),
		cmocka_unit_test(guard_pages),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
