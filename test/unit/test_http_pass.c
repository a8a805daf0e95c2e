/* Exchanges that the program looks at (pass.h), and requests of its own (fetch.h), between
 * simulated streams. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "http/fetch.h"
#include "http/pass.h"
#include "reactor/err.h"
#include "test/unit/sim.h"

enum { SEEDS = 40, UPS = 4, MAX_BODY = 100 };

static struct reactor *rx;
static struct sim_rules rules;
static struct http_server front;
static struct sim_peer client, up[UPS];
static unsigned ups, empties;
static int broken;

/* The program: what it does with an exchange, and what it saw. */
static struct {
	struct http_pass *pass;
	const char *send, *refuse, *reply; /* NULL: as it came, or not */
	bool later;                        /* the test calls the verbs */
	char asked[200], answered[200];
	int status;
	unsigned nasked, nanswered, too_long, over;
	size_t max;
	enum http_pass_way way;
} prog;

static struct stream *dial(void *arg)
{
	struct stream *near, *far;
	(void)arg;
	if (broken)
		return sim_broken(rx, broken, "dial unix /x: connection refused");
	assert_true(ups < UPS);
	sim_pair(rx, &rules, &near, &far);
	sim_peer_init(&up[ups++], far);
	return near;
}

static const struct http_upstream via = { .dial = dial };

static struct slice text_or_none(const char *s)
{
	return s ? slice_of(s, strlen(s)) : (struct slice){ NULL, 0 };
}

static void on_asked(void *arg, struct slice body)
{
	assert_ptr_equal(arg, &prog);
	prog.nasked++;
	snprintf(prog.asked, sizeof(prog.asked), "%.*s", SLICE_FMT(body));
	if (prog.later)
		return;
	if (prog.refuse)
		http_pass_refuse(prog.pass, 409, prog.refuse);
	else
		http_pass_send(prog.pass, text_or_none(prog.send));
}

static void on_answered(void *arg, int status, struct slice body)
{
	assert_ptr_equal(arg, &prog);
	prog.nanswered++;
	prog.status = status;
	snprintf(prog.answered, sizeof(prog.answered), "%.*s", SLICE_FMT(body));
	if (!prog.later)
		http_pass_reply(prog.pass, text_or_none(prog.reply));
}

static void on_too_long(void *arg, size_t limit)
{
	assert_ptr_equal(arg, &prog);
	assert_int_equal(limit, prog.max);
	prog.too_long++;
}

static void on_over(void *arg)
{
	assert_ptr_equal(arg, &prog);
	prog.pass = NULL;
	prog.over++;
}

static void handle(struct http_conn *c, struct http_head *h, void *arg)
{
	static struct http_pass_ops ops = { on_asked, on_answered, on_too_long, on_over,
					    HTTP_PASS_WHOLE };
	(void)arg;
	ops.way = prog.way;
	prog.pass = http_pass_new(c, h, &via, prog.max, &ops, &prog);
}

static void empty(void *arg)
{
	(void)arg;
	empties++;
}

static void start(uint64_t seed)
{
	struct stream *near, *far;
	rules = (struct sim_rules){ .seed = seed,
				    .refuse = seed % 4 * 20,
				    .piece = seed % 3 ? seed % 40 + 1 : 0 };
	rx = reactor_new();
	front = (struct http_server){ .rx = rx, .handle = handle, .empty = empty };
	ups = empties = 0;
	broken = 0;
	sim_open = 0;
	memset(&prog, 0, sizeof(prog));
	prog.max = MAX_BODY;
	http_server_init(&front);
	sim_pair(rx, &rules, &near, &far);
	assert_int_equal(http_server_accept(&front, far, NULL), 0);
	sim_peer_init(&client, near);
}

static bool is_empty(void *arg)
{
	(void)arg;
	return empties > 0;
}

static bool is_over(void *arg)
{
	(void)arg;
	return sim_open == 0;
}

static void finish(void)
{
	sim_peer_end(&client, 0);
	if (prog.pass && prog.later)
		http_pass_abort(prog.pass);
	http_server_abort(&front);
	assert_true(sim_until(rx, is_empty, NULL));
	for (unsigned i = 0; i < ups; i++)
		sim_peer_end(&up[i], 0);
	assert_true(sim_until(rx, is_over, NULL));
	assert_null(prog.pass);
	assert_int_equal(reactor_stats(rx)->timers, 0);
	reactor_free(rx);
	block_trim();
}

/* The client's words have their Date cut out. */
static char *without_date(struct slice s)
{
	char *text = xslicedup(s), *at, *end;
	while ((at = strstr(text, "Date: "))) {
		end = strstr(at, "\r\n");
		memmove(at, end ? end + 2 : "", end ? strlen(end + 2) + 1 : 1);
	}
	return text;
}

struct expected {
	struct sim_peer *p;
	const char *want;
	unsigned need;
};

static bool has(void *arg)
{
	const struct expected *e = arg;
	if (ups < e->need)
		return false;
	char *got = without_date(buf_data(&e->p->in));
	bool enough = strlen(got) >= strlen(e->want) || e->p->code < 0;
	free(got);
	return enough;
}

static void expect(struct sim_peer *p, unsigned need, const char *want)
{
	struct expected e = { p, want, need };
	bool ok = sim_until(rx, has, &e);
	if (ok)
		sim_turns(rx, 200); /* nothing must follow */
	char *got = without_date(need <= ups ? buf_data(&p->in) : SLICE("(no connection)"));
	assert_string_equal(got, want);
	assert_true(ok);
	free(got);
	if (p->in.len)
		buf_drop(&p->in, p->in.len);
}

static void client_gets(const char *want)
{
	expect(&client, 0, want);
}

static void up_gets(unsigned i, const char *want)
{
	expect(&up[i], i + 1, want);
}

static void client_says(const char *s)
{
	sim_peer_send(&client, slice_str(s));
}

static void up_says(unsigned i, const char *s)
{
	sim_peer_send(&up[i], slice_str(s));
}

#define H "HTTP/1.1\r\nHost: a\r\n"
#define R "HTTP/1.1 200 OK\r\n"

static const struct {
	const char *client, *send, *up_gets, *up, *reply, *client_gets, *asked, *answered;
} cases[] = {
	{ "GET / " H "\r\n", NULL, "GET / " H "\r\n",
	  R "X: 1\r\nDate: then\r\nContent-Length: 2\r\n\r\nhi", NULL,
	  R "X: 1\r\nContent-Length: 2\r\n\r\nhi", "", "hi" },
	{ "POST /x " H "Content-Length: 3\r\nConnection: close, z\r\nZ: 1\r\n\r\nabc", NULL,
	  "POST /x " H "Content-Length: 3\r\n\r\nabc", "HTTP/1.1 204 No Content\r\nA: b\r\n\r\n",
	  NULL, "HTTP/1.1 204 No Content\r\nA: b\r\nConnection: close\r\n\r\n", "abc", "" },
	/* chunks become a length, an empty body stays said */
	{ "POST / " H "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", NULL,
	  "POST / " H "Content-Length: 3\r\n\r\nabc",
	  R "Transfer-Encoding: chunked\r\nConnection: q\r\nQ: "
	    "1\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n",
	  NULL, R "Content-Length: 2\r\n\r\nhi", "abc", "hi" },
	{ "POST / " H "Content-Length: 0\r\n\r\n", NULL, "POST / " H "Content-Length: 0\r\n\r\n",
	  "HTTP/1.1 304 Not Modified\r\n\r\n", NULL, "HTTP/1.1 304 Not Modified\r\n\r\n", "", "" },
	/* other bodies */
	{ "POST / " H "Content-Length: 3\r\n\r\nabc", "longer",
	  "POST / " H "Content-Length: 6\r\n\r\nlonger", R "Content-Length: 2\r\nX: y\r\n\r\nhi",
	  "hello", R "X: y\r\nContent-Length: 5\r\n\r\nhello", "abc", "hi" },
	{ "POST / " H "\r\n", "new", "POST / " H "Content-Length: 3\r\n\r\nnew",
	  R "Content-Length: 2\r\n\r\nhi", "", R "Content-Length: 0\r\n\r\n", "", "hi" },
};

static void passes(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		for (uint64_t seed = 0; seed < SEEDS; seed++) {
			start(seed);
			prog.send = cases[i].send;
			prog.reply = cases[i].reply;
			client_says(cases[i].client);
			up_gets(0, cases[i].up_gets);
			up_says(0, cases[i].up);
			client_gets(cases[i].client_gets);
			assert_string_equal(prog.asked, cases[i].asked);
			assert_string_equal(prog.answered, cases[i].answered);
			assert_int_equal(prog.over, 1);
			assert_int_equal(prog.nanswered, 1);
			finish();
		}
}

/* The connection goes on with the next request. */
static void one_after_another(void **state)
{
	(void)state;
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		start(seed);
		client_says("GET /1 " H "\r\nGET /2 " H "\r\n");
		up_gets(0, "GET /1 " H "\r\n");
		up_says(0, R "Content-Length: 1\r\n\r\n1");
		up_gets(1, "GET /2 " H "\r\n");
		up_says(1, R "Content-Length: 1\r\n\r\n2");
		client_gets(R "Content-Length: 1\r\n\r\n1" R "Content-Length: 1\r\n\r\n2");
		assert_int_equal(prog.over, 2);
		finish();
	}
}

static void refused(void **state)
{
	(void)state;
	start(0);
	prog.refuse = "no \"port\"";
	client_says("POST / " H "\r\n");
	client_gets(
	    "HTTP/1.1 409 Conflict\r\nContent-Type: application/json\r\nContent-Length: 26\r\n"
	    "\r\n{\"message\":\"no \\\"port\\\"\"}\n");
	assert_int_equal(ups, 0);
	assert_int_equal(prog.over, 1);
	finish();
}

static bool asked_once(void *arg)
{
	(void)arg;
	return prog.nasked == 1;
}

static bool over_once(void *arg)
{
	(void)arg;
	return prog.over == 1;
}

/* The program takes its time, and the client goes meanwhile. */
static void later_and_gone(void **state)
{
	(void)state;
	start(0);
	prog.later = true;
	client_says("POST / " H "Content-Length: 1\r\n\r\nx");
	assert_true(sim_until(rx, asked_once, NULL));
	sim_turns(rx, 20);
	assert_int_equal(prog.over, 0);
	http_pass_send(prog.pass, text_or_none(NULL));
	up_gets(0, "POST / " H "Content-Length: 1\r\n\r\nx");
	up_says(0, R "Content-Length: 1\r\n\r\ny");
	sim_turns(rx, 50);
	assert_int_equal(prog.nanswered, 1);
	http_pass_reply(prog.pass, text_or_none("z"));
	client_gets(R "Content-Length: 1\r\n\r\nz");
	client_says("POST / " H "Content-Length: 1\r\n\r\nx");
	prog.nasked = prog.over = 0;
	assert_true(sim_until(rx, asked_once, NULL));
	sim_peer_end(&client, -ECONNRESET);
	assert_true(sim_until(rx, over_once, NULL));
	finish();
}

static bool answered_once(void *arg)
{
	(void)arg;
	return prog.nanswered == 1;
}

/* The head goes at once, the body only when it is let go. */
static void body_held(void **state)
{
	(void)state;
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		start(seed);
		prog.way = HTTP_PASS_BODY_HELD;
		client_says("POST /wait " H "\r\n");
		assert_true(sim_until(rx, asked_once, NULL));
		prog.later = true;
		up_gets(0, "POST /wait " H "\r\n");
		up_says(0, R "X: 1\r\nTransfer-Encoding: chunked\r\n\r\n");
		client_gets(R "X: 1\r\nTransfer-Encoding: chunked\r\n\r\n");
		up_says(0, "2\r\nhi\r\n0\r\n\r\n");
		assert_true(sim_until(rx, answered_once, NULL));
		assert_string_equal(prog.answered, "hi");
		client_gets("");
		http_pass_reply(prog.pass, text_or_none(NULL));
		client_gets("2\r\nhi\r\n0\r\n\r\n");
		assert_int_equal(prog.over, 1);
		prog.later = false;
		finish();
	}
}

/* All goes by but for the end; more than the limit, too. */
static void end_held(void **state)
{
	static const char big[] = "0123456789012345678901234567890123456789012345678901234567890123"
				  "456789012345678901234567890123456789012345678901234567890123456";
	(void)state;
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		start(seed);
		prog.way = HTTP_PASS_END_HELD;
		client_says("GET /logs HTTP/1.0\r\nHost: a\r\n\r\n");
		assert_true(sim_until(rx, asked_once, NULL));
		prog.later = true;
		up_gets(0, "GET /logs HTTP/1.0\r\nHost: a\r\n\r\n");
		up_says(0, R "\r\n");
		client_gets(R "Connection: close\r\n\r\n");
		up_says(0, "hi");
		client_gets("hi");
		up_says(0, big);
		client_gets(big);
		assert_int_equal(prog.nanswered, 0);
		sim_peer_shut(&up[0]);
		assert_true(sim_until(rx, answered_once, NULL));
		sim_turns(rx, 50);
		assert_false(client.eof);
		if (seed % 2)
			http_pass_reply(prog.pass, text_or_none(NULL));
		else
			sim_peer_end(&client, -ECONNRESET);
		assert_true(sim_until(rx, over_once, NULL));
		if (seed % 2)
			sim_turns(rx, 200);
		assert_true(seed % 2 == 0 || client.eof);
		finish();
	}
}

static bool up_reset(void *arg)
{
	(void)arg;
	return up[0].code < 0;
}

static void gone_while_upstream_works(void **state)
{
	(void)state;
	start(0);
	client_says("POST / " H "\r\n");
	up_gets(0, "POST / " H "\r\n");
	sim_peer_end(&client, -ECONNRESET);
	assert_true(sim_until(rx, over_once, NULL));
	assert_true(sim_until(rx, up_reset, NULL));
	assert_int_equal(prog.nanswered, 0);
	finish();
}

static void too_long(void **state)
{
	char body[4 * MAX_BODY + 1], text[1000], chunks[4000] = "";
	(void)state;
	for (size_t i = 0; i < sizeof(body) - 1; i++)
		body[i] = (char)('a' + i % 26);
	body[sizeof(body) - 1] = '\0';
	/* a request is refused */
	start(0);
	snprintf(text, sizeof(text), "POST / " H "Content-Length: %zu\r\n\r\n%s", strlen(body),
		 body);
	client_says(text);
	client_gets(
	    "HTTP/1.1 413 Content Too Large\r\nContent-Type: application/json\r\n"
	    "Content-Length: 49\r\n\r\n{\"message\":\"the request body is over 100 bytes\"}\n");
	assert_int_equal(ups, 0);
	assert_int_equal(prog.nasked, 0);
	finish();
	/* a reply goes by, in chunks */
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		struct http_body framing = { .how = HTTP_CHUNKED };
		struct http_head h;
		struct http_err err;
		struct slice rest, piece;
		start(seed);
		client_says("GET / " H "\r\n");
		up_gets(0, "GET / " H "\r\n");
		snprintf(text, sizeof(text), R "X: y\r\nContent-Length: %zu\r\n\r\n%s",
			 strlen(body), body);
		up_says(0, text);
		assert_true(sim_until(rx, over_once, NULL));
		sim_turns(rx, 2000);
		rest = buf_data(&client.in);
		ssize_t n = http_response_parse(&h, rest, 0, HTTP_HEAD_MAX, &err);
		assert_true(n > 0 && h.chunked);
		assert_true(slice_eq(http_field_get(&h, SLICE("X")), SLICE("y")));
		http_body_init(&framing, &h, SLICE("GET"));
		chunks[0] = '\0';
		for (rest = slice_after(rest, (size_t)n); rest.n;
		     rest = slice_after(rest, (size_t)n)) {
			n = http_body_next(&framing, rest, &piece, &err);
			assert_true(n > 0);
			strncat(chunks, piece.n ? piece.p : "", piece.n);
		}
		assert_true(http_body_done(&framing));
		assert_string_equal(chunks, body);
		assert_int_equal(prog.too_long, 1);
		assert_int_equal(prog.nanswered, 0);
		buf_drop(&client.in, client.in.len);
		finish();
	}
	/* and just the limit is none */
	start(1);
	snprintf(text, sizeof(text), "POST / " H "Content-Length: %d\r\n\r\n%.*s", MAX_BODY,
		 MAX_BODY, body);
	client_says(text);
	up_gets(0, text);
	assert_int_equal(prog.nasked, 1);
	finish();
}

/* A body that is too long for one reply of the server. */
static void large_reply(void **state)
{
	enum { LARGE = 3 << 20 };
	char *body = xmalloc(LARGE + 1);
	(void)state;
	memset(body, 'x', LARGE);
	body[LARGE] = '\0';
	start(0);
	prog.max = 4 << 20;
	prog.reply = body;
	buf_end(&client.in);
	buf_init(&client.in, LARGE + (1 << 16));
	client_says("GET / " H "\r\n");
	up_gets(0, "GET / " H "\r\n");
	up_says(0, R "Content-Length: 2\r\n\r\nhi");
	assert_true(sim_until(rx, over_once, NULL));
	sim_turns(rx, 1000);
	assert_true(client.in.len > LARGE);
	assert_true(slice_ends(buf_data(&client.in), SLICE("xx\r\n0\r\n\r\n")));
	assert_int_equal(client.code, 0);
	free(body);
	finish();
}

static void failures(void **state)
{
	static const struct {
		const char *says, *gets;
	} upstream[] = {
		{ "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", "unexpected EOF" },
		{ "", "unexpected EOF" },
		{ "nonsense\r\n\r\n", "bad response from upstream: " },
		{ "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
		  "bad response from upstream: " },
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(upstream); i++) {
		start(i);
		client_says("GET / " H "\r\n");
		up_gets(0, "GET / " H "\r\n");
		up_says(0, upstream[i].says);
		sim_peer_shut(&up[0]);
		assert_true(sim_until(rx, over_once, NULL));
		sim_turns(rx, 500);
		char *got = xslicedup(buf_data(&client.in));
		if (!strstr(got, " 502 ") || !strstr(got, upstream[i].gets))
			fail_msg("%s gave %s", upstream[i].says, got);
		free(got);
		finish();
	}
	start(0);
	broken = -ECONNREFUSED;
	client_says("GET / " H "\r\n");
	client_gets(
	    "HTTP/1.1 502 Bad Gateway\r\nContent-Type: application/json\r\nContent-Length: 47\r\n"
	    "\r\n{\"message\":\"dial unix /x: connection refused\"}\n");
	finish();
	/* a malformed body of the client's */
	start(0);
	client_says("POST / " H "Transfer-Encoding: chunked\r\n\r\nzz\r\n");
	assert_true(sim_until(rx, over_once, NULL));
	sim_turns(rx, 100);
	assert_true(slice_starts(buf_data(&client.in), SLICE("HTTP/1.1 400 ")));
	assert_int_equal(prog.nasked, 0);
	finish();
}

/* --- fetch --- */

static struct {
	unsigned n;
	int status;
	char why[200], body[200];
} got;

static void on_fetched(void *arg, int status, const char *why, struct slice body)
{
	assert_ptr_equal(arg, &got);
	got.n++;
	got.status = status;
	snprintf(got.why, sizeof(got.why), "%s", why);
	snprintf(got.body, sizeof(got.body), "%.*s", SLICE_FMT(body));
}

static bool fetched(void *arg)
{
	(void)arg;
	return got.n == 1;
}

static struct http_fetch *fetch(uint64_t ms)
{
	memset(&got, 0, sizeof(got));
	return http_fetch_plain(dial(NULL), SLICE("GET"), SLICE("/x?y"), SLICE("h"), 8, ms,
				on_fetched, &got);
}

#define ASKED "GET /x?y HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"

static void fetches(void **state)
{
	static const struct {
		const char *says;
		int status;
		const char *body, *why;
	} replies[] = {
		{ R "Content-Length: 2\r\n\r\nhi", 200, "hi", "" },
		{ R "Content-Length: 8\r\n\r\n12345678", 200, "12345678", "" },
		{ R "Content-Length: 9\r\n\r\n123456789", -EMSGSIZE, "",
		  "the reply is over 8 bytes" },
		{ R "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 200, "abc", "" },
		{ "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", 404, "no", "" },
		{ "HTTP/1.1 204 x\r\n\r\n", 204, "", "" },
		{ R "Content-Length: 2\r\n\r\nh", -ERR_TRUNCATED, "", "unexpected EOF" },
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(replies); i++)
		for (uint64_t seed = 0; seed < SEEDS; seed++) {
			start(seed);
			fetch(20000);
			up_gets(0, ASKED);
			up_says(0, replies[i].says);
			sim_peer_shut(&up[0]);
			assert_true(sim_until(rx, fetched, NULL));
			assert_int_equal(got.status, replies[i].status);
			assert_string_equal(got.why, replies[i].why);
			assert_string_equal(got.body, replies[i].body);
			finish();
		}
	start(0);
	fetch(20);
	up_gets(0, ASKED);
	assert_true(sim_until(rx, fetched, NULL));
	assert_int_equal(got.status, -ETIMEDOUT);
	finish();
	start(0);
	broken = -ECONNREFUSED;
	fetch(20000);
	assert_true(sim_until(rx, fetched, NULL));
	assert_int_equal(got.status, -ECONNREFUSED);
	assert_string_equal(got.why, "dial unix /x: connection refused");
	finish();
	start(0);
	http_fetch_free(fetch(20000));
	sim_turns(rx, 20);
	assert_int_equal(got.n, 0);
	finish();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(passes),
		cmocka_unit_test(one_after_another),
		cmocka_unit_test(refused),
		cmocka_unit_test(later_and_gone),
		cmocka_unit_test(body_held),
		cmocka_unit_test(end_held),
		cmocka_unit_test(gone_while_upstream_works),
		cmocka_unit_test(too_long),
		cmocka_unit_test(large_reply),
		cmocka_unit_test(failures),
		cmocka_unit_test(fetches),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
