/* Server connections and the client, over simulated streams with random short I/O. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "http/client.h"
#include "http/server.h"
#include "reactor/err.h"
#include "test/unit/sim.h"

enum { SEEDS = 60 };

static struct reactor *rx;
static struct http_server srv;
static struct http_access last; /* strings not valid */
static char last_path[64], last_method[16];
static unsigned dones, empties;
static struct sim_peer *target; /* of relays: the far end */
static struct sim_rules rules;

/* An exchange that a task of ours holds: echoes the body, or waits. */
struct echo {
	struct task task;
	struct http_conn *c;
	char held[3000];
	size_t n, at;
	bool started, stream, wait;
	int ended;
};
static struct echo echo;

static void echo_run(struct task *t)
{
	struct echo *e = container_of(t, struct echo, task);
	ssize_t n = http_failed(e->c);

	while (n >= 0 && !e->wait) {
		if (e->at < e->n) {
			n = http_write(e->c, e->held + e->at, e->n - e->at);
			e->at += n > 0 ? (size_t)n : 0;
			continue;
		}
		n = http_read(e->c, e->held, sizeof(e->held));
		if (n < 0)
			break;
		if (!e->started)
			http_reply_start(e->c, 200, NULL, 0);
		e->started = true;
		e->at = 0;
		e->n = (size_t)n;
		if (n == 0) {
			http_reply_end(e->c);
			e->ended = 1;
			return;
		}
	}
	if (n < 0 && n != -EAGAIN) {
		e->ended = (int)n;
		http_abort(e->c, (int)n);
	}
}

struct taken {
	struct stream *s;
	char rest[64];
	size_t n;
	bool called;
};
static struct taken taken;

static void on_taken(void *arg, struct stream *s, struct slice rest)
{
	struct taken *t = arg;
	t->s = s;
	t->n = rest.n;
	t->called = true;
	if (rest.n)
		memcpy(t->rest, rest.p, rest.n);
}

static struct stream *dial(void)
{
	struct stream *near, *far;
	target = xcalloc(1, sizeof(*target));
	sim_pair(rx, &rules, &near, &far);
	sim_peer_init(target, far);
	return near;
}

static void handle(struct http_conn *c, struct http_head *h, void *arg)
{
	struct http_field text = { SLICE("Content-Type"), SLICE("text/plain") };
	struct http_field upgrade[] = { { SLICE("Connection"), SLICE("Upgrade") },
					{ SLICE("Upgrade"), SLICE("tcp") } };
	assert_ptr_equal(arg, &srv);
	if (slice_eq(h->target, SLICE("/echo")) || slice_eq(h->target, SLICE("/wait"))) {
		memset(&echo, 0, sizeof(echo));
		task_init(&echo.task, echo_run);
		echo.c = c;
		echo.wait = slice_eq(h->target, SLICE("/wait"));
		http_bind(c, &echo.task);
	} else if (slice_eq(h->target, SLICE("/take"))) {
		http_take(c, 101, upgrade, 2, on_taken, &taken);
	} else if (slice_eq(h->method, SLICE("CONNECT"))) {
		http_relay(c, 200, NULL, 0, dial());
	} else if (slice_eq(h->target, SLICE("/none"))) {
		http_reply(c, 204, NULL, 0, SLICE(""));
	} else if (slice_eq(h->target, SLICE("/bad"))) {
		http_reply_error(c, 404, "no \"such\"\n");
	} else if (slice_eq(h->target, SLICE("/unsendable"))) {
		text.value = SLICE("a\r\nb");
		http_reply(c, 200, &text, 1, SLICE("x"));
	} else {
		http_reply(c, 200, &text, 1, h->target);
	}
}

static void preface(struct http_conn *c, void *arg)
{
	(void)arg;
	http_relay(c, 0, NULL, 0, dial());
}

static void done(const struct http_access *a, void *arg)
{
	(void)arg;
	last = *a;
	snprintf(last_path, sizeof(last_path), "%s", a->path);
	snprintf(last_method, sizeof(last_method), "%s", a->method);
	dones++;
}

static void empty(void *arg)
{
	(void)arg;
	empties++;
}

static void start(uint64_t seed)
{
	rx = reactor_new();
	sim_open = 0;
	rules = (struct sim_rules){ .seed = seed,
				    .refuse = seed % 4 * 20,
				    .piece = seed % 3 ? seed % 40 + 1 : 0 };
	memset(&srv, 0, sizeof(srv));
	memset(&taken, 0, sizeof(taken));
	memset(&last, 0, sizeof(last));
	dones = empties = 0;
	srv.rx = rx;
	srv.arg = &srv;
	srv.handle = handle;
	srv.preface = preface;
	srv.done = done;
	srv.empty = empty;
	http_server_init(&srv);
}

static bool is_empty(void *arg)
{
	(void)arg;
	return empties > 0;
}

static bool all_closed(void *arg)
{
	(void)arg;
	return sim_open == 0; /* those that linger included */
}

static void finish(void)
{
	http_server_abort(&srv);
	assert_true(sim_until(rx, is_empty, NULL));
	assert_int_equal(srv.nconns, 0);
	assert_true(list_empty(&srv.conns) && list_empty(&srv.relays));
	if (target) {
		sim_peer_end(target, 0);
		free(target);
		target = NULL;
	}
	assert_true(sim_until(rx, all_closed, NULL));
	assert_int_equal(reactor_stats(rx)->timers, 0);
	reactor_free(rx);
	block_trim();
}

static void connect_peer(struct sim_peer *p)
{
	struct stream *near, *far;
	sim_pair(rx, &rules, &near, &far);
	assert_int_equal(http_server_accept(&srv, far, "tester"), 0);
	sim_peer_init(p, near);
}

static bool ended(void *arg)
{
	const struct sim_peer *p = arg;
	return p->eof || p->code < 0;
}

/* Everything but the Date, whose value becomes D. */
static char *clean(const struct buf *b)
{
	char *text = xslicedup(buf_data(b)), *at = text;
	while ((at = strstr(at, "Date: "))) {
		at += 6;
		at[0] = 'D';
		memmove(at + 1, strstr(at, "\r\n"), strlen(strstr(at, "\r\n")) + 1);
	}
	return text;
}

static void assert_in(const struct sim_peer *p, const char *want)
{
	char *got = clean(&p->in);
	assert_string_equal(got, want);
	free(got);
}

#define H    " HTTP/1.1\r\nHost: a\r\n"
#define OK   "HTTP/1.1 200 OK\r\nDate: D\r\n"
#define TEXT OK "Content-Type: text/plain\r\n"
#define JSON "Date: D\r\nContent-Type: application/json\r\n"

/* What a client sends on one connection, and all that it gets until the end. */
static const struct {
	const char *send, *want;
} scripts[] = {
	{ "GET /a?q" H "\r\nGET /b" H "\r\nGET /c" H "Connection: close\r\n\r\nGET /d" H "\r\n",
	  TEXT "Content-Length: 4\r\n\r\n/a?q" TEXT "Content-Length: 2\r\n\r\n/b" TEXT
	       "Content-Length: 2\r\nConnection: close\r\n\r\n/c" },
	{ "HEAD /abc" H "\r\nGET /none" H "\r\nGET /x HTTP/1.0\r\n\r\n",
	  TEXT "Content-Length: 4\r\n\r\nHTTP/1.1 204 No Content\r\nDate: D\r\n\r\n" TEXT
	       "Content-Length: 2\r\nConnection: close\r\n\r\n/x" },
	{ "GET /x HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\nGET /y HTTP/1.0\r\n\r\n",
	  TEXT "Content-Length: 2\r\nConnection: keep-alive\r\n\r\n/x" TEXT
	       "Content-Length: 2\r\nConnection: close\r\n\r\n/y" },
	/* bodies that nobody reads are read away */
	{ "POST /a" H "Content-Length: 3\r\n\r\nabcPOST /b" H "Transfer-Encoding: chunked\r\n\r\n"
	  "3\r\nabc\r\n0\r\nT: x\r\n\r\nGET /c" H "Connection: close\r\n\r\n",
	  TEXT "Content-Length: 2\r\n\r\n/a" TEXT "Content-Length: 2\r\n\r\n/b" TEXT
	       "Content-Length: 2\r\nConnection: close\r\n\r\n/c" },
	{ "POST /a" H "Content-Length: 999999\r\n\r\nabc",
	  TEXT "Content-Length: 2\r\nConnection: close\r\n\r\n/a" },
	{ "POST /a" H "Content-Length: 3\r\nExpect: 100-continue\r\n\r\n",
	  TEXT "Content-Length: 2\r\nConnection: close\r\n\r\n/a" },
	{ "GET /bad" H "Connection: close\r\n\r\n",
	  "HTTP/1.1 404 Not Found\r\n" JSON "Content-Length: 32\r\nConnection: close\r\n\r\n"
	  "{\"message\":\"no \\\"such\\\"\\u000a\"}\n" },
	{ "GET /unsendable" H "\r\n",
	  "HTTP/1.1 500 Internal Server Error\r\nDate: D\r\nContent-Length: 31\r\n"
	  "Connection: close\r\n\r\n{\"message\":\"unsendable reply\"}\n" },
	{ "POST /echo" H "Content-Length: 5\r\nConnection: close\r\n\r\nhello", NULL },
	{ "POST /echo HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello",
	  OK "Connection: close\r\n\r\nhello" },
	/* refusals; what came before is still answered */
	{ "HEAD /a" H "\r\nGET / HTTP/1.1\r\n\r\n",
	  TEXT "Content-Length: 2\r\n\r\nHTTP/1.1 400 Bad Request\r\n" JSON
	       "Content-Length: 50\r\nConnection: close\r\n\r\n"
	       "{\"message\":\"missing, repeated or malformed Host\"}\n" },
	{ "GET / HTTP/3.0\r\nHost: a\r\n\r\n", "HTTP/1.1 505 HTTP Version Not Supported\r\n" JSON
					       "Content-Length: 41\r\nConnection: close\r\n\r\n"
					       "{\"message\":\"HTTP version not supported\"}\n" },
	{ "POST /" H "Transfer-Encoding: gzip, chunked\r\n\r\n",
	  "HTTP/1.1 501 Not Implemented\r\n" JSON "Content-Length: 42\r\nConnection: close\r\n\r\n"
	  "{\"message\":\"unsupported transfer coding\"}\n" },
	{ "POST /" H "Expect: 200-maybe\r\nContent-Length: 1\r\n\r\na",
	  "HTTP/1.1 417 Expectation Failed\r\n" JSON
	  "Content-Length: 34\r\nConnection: close\r\n\r\n"
	  "{\"message\":\"unknown expectation\"}\n" },
	{ "POST /echo" H "Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
	  "HTTP/1.1 400 Bad Request\r\n" JSON "Content-Length: 37\r\nConnection: close\r\n\r\n"
	  "{\"message\":\"malformed request body\"}\n" },
	{ "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "HTTP/1.1 505 HTTP Version Not Supported\r\n" JSON
					      "Content-Length: 41\r\nConnection: close\r\n\r\n"
					      "{\"message\":\"HTTP version not supported\"}\n" },
};

static void test_scripts(void **state)
{
	struct sim_peer p;
	(void)state;

	for (size_t i = 0; i < ARRAY_LEN(scripts); i++)
		for (uint64_t seed = 0; seed < SEEDS; seed++) {
			start(seed);
			connect_peer(&p);
			sim_peer_send(&p, slice_str(scripts[i].send));
			assert_true(sim_until(rx, ended, &p));
			assert_int_equal(p.code, 0);
			if (scripts[i].want)
				assert_in(&p, scripts[i].want);
			assert_true(dones > 0);
			sim_peer_end(&p, 0);
			finish();
		}
}

static bool has_head(void *arg)
{
	struct sim_peer *p = arg;
	struct slice in = buf_data(&p->in);
	return in.n >= 4 && memmem(in.p, in.n, "\r\n\r\n", 4);
}

static void test_continue(void **state)
{
	struct sim_peer p;
	(void)state;

	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		start(seed);
		connect_peer(&p);
		sim_peer_send(&p, SLICE("POST /echo" H "Expect: 100-Continue\r\n"
					"Connection: close\r\nContent-Length: 4\r\n\r\n"));
		assert_true(sim_until(rx, has_head, &p));
		assert_in(&p, "HTTP/1.1 100 Continue\r\n\r\n");
		buf_end(&p.in);
		sim_peer_send(&p, SLICE("abcd"));
		assert_true(sim_until(rx, ended, &p));
		assert_true(has_head(&p));
		assert_string_equal(last_path, "/echo");
		assert_string_equal(last_method, "POST");
		assert_int_equal(last.status, 200);
		assert_int_equal(last.in, 4);
		assert_int_equal(last.out, 4);
		sim_peer_end(&p, 0);
		finish();
	}
}

/* A large body there and back through our own client, chunked or not. */
struct fetch {
	struct task task;
	struct http_client *c;
	struct http_head head;
	struct buf body;
	char piece[4096];
	bool have_head;
	int ended;
};

static void fetch_run(struct task *t)
{
	struct fetch *f = container_of(t, struct fetch, task);
	ssize_t n = 0;

	if (!f->have_head) {
		n = http_client_head(f->c, &f->head);
		f->have_head = n == 0;
	}
	while (f->have_head && (n = http_client_read(f->c, f->piece, sizeof(f->piece))) > 0)
		assert_int_equal(buf_put(&f->body, slice_of(f->piece, (size_t)n)), 0);
	if (n != -EAGAIN)
		f->ended = n == 0 ? 1 : (int)n;
}

static bool fetched(void *arg)
{
	return ((struct fetch *)arg)->ended != 0;
}

static void fetch_start(struct fetch *f, struct buf *request, struct slice method)
{
	struct stream *near, *far;
	sim_pair(rx, &rules, &near, &far);
	assert_int_equal(http_server_accept(&srv, far, NULL), 0);
	memset(f, 0, sizeof(*f));
	task_init(&f->task, fetch_run);
	buf_init(&f->body, 4 << 20);
	f->c = http_client_new(near, request, method);
	http_client_bind(f->c, &f->task);
}

static void fetch_end(struct fetch *f)
{
	task_cancel(&f->task);
	http_client_free(f->c, 0);
	buf_end(&f->body);
}

static void test_echo(void **state)
{
	static char data[200000];
	struct fetch f;
	struct buf b;
	(void)state;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (char)(i * 7 + i / 251);
	for (uint64_t seed = 0; seed < 12; seed++) {
		start(seed);
		if (rules.piece)
			rules.piece = 3000;
		rules.capacity = 10000;
		buf_init(&b, 1 << 20);
		http_put_request(&b, SLICE("POST"), SLICE("/echo"));
		http_put_field(&b, SLICE("Host"), SLICE("a"));
		if (seed & 1) {
			http_put_field(&b, SLICE("Transfer-Encoding"), SLICE("chunked"));
			http_put_end(&b);
			for (size_t i = 0; i < sizeof(data); i += 5000)
				http_put_chunk(&b, slice_of(data + i, 5000));
			http_put_last_chunk(&b);
		} else {
			http_put_number(&b, SLICE("Content-Length"), sizeof(data));
			http_put_end(&b);
			buf_put(&b, slice_of(data, sizeof(data)));
		}
		fetch_start(&f, &b, SLICE("POST"));
		assert_int_equal(b.len, 0);
		/* the echo is the larger duplex: its client reads only when all is sent, or not */
		assert_true(sim_until(rx, fetched, &f));
		assert_int_equal(f.ended, 1);
		assert_int_equal(f.head.status, 200);
		assert_true(slice_eq(buf_data(&f.body), slice_of(data, sizeof(data))));
		assert_int_equal(echo.ended, 1);
		fetch_end(&f);
		finish();
	}
}

static bool echo_over(void *arg)
{
	(void)arg;
	return echo.ended != 0;
}

static bool handler_waits(void *arg)
{
	(void)arg;
	return echo.c && echo.wait;
}

static void test_client_gone(void **state)
{
	static const char *const sends[] = { "GET /wait" H "\r\n",
					     "POST /echo" H "Content-Length: 5\r\n\r\nab",
					     "POST /wait" H "Content-Length: 2\r\n\r\nab" };
	struct sim_peer p;
	(void)state;

	for (size_t i = 0; i < ARRAY_LEN(sends); i++)
		for (uint64_t seed = 0; seed < SEEDS; seed++) {
			start(seed);
			memset(&echo, 0, sizeof(echo));
			connect_peer(&p);
			sim_peer_send(&p, slice_str(sends[i]));
			sim_turns(rx, 300);
			if (i == 2) { /* its body is never read: half a close is not seen */
				assert_true(handler_waits(NULL));
				http_abort(echo.c, -ERR_CANCELLED);
				assert_true(sim_until(rx, ended, &p));
				assert_int_equal(p.code, -ECONNRESET);
			} else if (seed & 1) {
				sim_peer_shut(&p);
				assert_true(sim_until(rx, echo_over, NULL));
				assert_true(sim_until(rx, ended, &p));
				assert_int_equal(p.code, -ECONNRESET);
			}
			sim_peer_end(&p, 0);
			if (i < 2)
				assert_true(sim_until(rx, echo_over, NULL));
			sim_turns(rx, 3);
			assert_int_equal(srv.nconns, 0);
			assert_true(last.code < 0);
			finish();
		}
}

static bool was_taken(void *arg)
{
	(void)arg;
	return taken.called;
}

static void test_take(void **state)
{
	struct sim_peer p;
	(void)state;

	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		start(seed);
		connect_peer(&p);
		sim_peer_send(&p,
			      SLICE("POST /take" H "Content-Length: 2\r\nConnection: Upgrade\r\n"
				    "Upgrade: tcp\r\n\r\nxyEARLY"));
		assert_true(sim_until(rx, was_taken, NULL));
		assert_true(sim_until(rx, has_head, &p));
		assert_in(&p, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
			      "Upgrade: tcp\r\n\r\n");
		while (taken.n < 5) {
			ssize_t n = stream_read(taken.s, taken.rest + taken.n, 5 - taken.n);
			if (n > 0)
				taken.n += (size_t)n;
			sim_turns(rx, 1);
		}
		assert_memory_equal(taken.rest, "EARLY", 5);
		assert_int_equal(srv.nconns, 0);
		stream_close(taken.s, 0);
		sim_peer_end(&p, 0);

		/* and when the client does not wait for it */
		memset(&taken, 0, sizeof(taken));
		connect_peer(&p);
		sim_peer_send(&p, SLICE("POST /take" H "Content-Length: 5\r\n\r\nxy"));
		sim_turns(rx, 300);
		sim_peer_end(&p, 0);
		assert_true(sim_until(rx, was_taken, NULL));
		assert_null(taken.s);
		finish();
	}
}

static bool target_has(void *arg)
{
	return target && target->in.len >= strlen(arg);
}

static void relay_case(const char *head, const char *reply, const char *early, int status)
{
	char want[256];
	struct sim_peer p;

	connect_peer(&p);
	sim_peer_send(&p, slice_str(head));
	sim_peer_send(&p, slice_str(early));
	sim_peer_shut(&p); /* half a close right behind it */
	assert_true(sim_until(rx, target_has, (void *)(uintptr_t)early));
	assert_true(sim_until(rx, ended, target));
	assert_int_equal(target->code, 0);
	assert_in(target, early);
	assert_int_equal(srv.nconns, 1);
	sim_peer_send(target, SLICE("answer after the client's end"));
	sim_peer_shut(target);
	assert_true(sim_until(rx, ended, &p));
	assert_int_equal(p.code, 0);
	snprintf(want, sizeof(want), "%sanswer after the client's end", reply);
	assert_in(&p, want);
	sim_turns(rx, 5);
	assert_int_equal(srv.nconns, 0);
	assert_true(last.relayed);
	assert_int_equal(last.status, status);
	assert_int_equal(last.in, strlen(early));
	assert_int_equal(last.code, 0);
	sim_peer_end(&p, 0);
}

/* A handler that takes its time (to dial, say): what the client sends ahead, its end of stream
 * included, belongs to the far side. */
static void test_relay_later(void **state)
{
	struct sim_peer p;
	(void)state;

	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		start(seed);
		memset(&echo, 0, sizeof(echo));
		connect_peer(&p);
		sim_peer_send(&p, SLICE("GET /wait" H "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
					"early"));
		sim_peer_shut(&p);
		assert_true(sim_until(rx, handler_waits, NULL));
		sim_turns(rx, 50);
		assert_int_equal(http_failed(echo.c), 0);
		task_cancel(&echo.task);
		http_relay(echo.c, 101, NULL, 0, dial());
		assert_true(sim_until(rx, ended, target));
		assert_in(target, "early");
		sim_peer_send(target, SLICE("late"));
		sim_peer_shut(target);
		assert_true(sim_until(rx, ended, &p));
		assert_in(&p, "HTTP/1.1 101 Switching Protocols\r\n\r\nlate");
		sim_peer_end(&p, 0);
		finish();
	}
}

static void test_relay(void **state)
{
	(void)state;
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		start(seed);
		relay_case("CONNECT /v1/sessions/7/tunnel" H "\r\n",
			   "HTTP/1.1 200 Connection Established\r\nDate: D\r\n\r\n",
			   "SSH-2.0-x\r\n", 200);
		assert_string_equal(last_path, "/v1/sessions/7/tunnel");
		finish();
		start(seed);
		relay_case("", "", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nframes", 0);
		finish();
	}
}

/* Ends of the server: with relays, idle connections and exchanges that are held. */
static void test_drain(void **state)
{
	struct sim_peer idle, held, tunnel;
	(void)state;

	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		start(seed);
		connect_peer(&idle);
		connect_peer(&held);
		connect_peer(&tunnel);
		sim_peer_send(&idle, SLICE("GET /a" H "\r\n"));
		sim_peer_send(&held, SLICE("POST /echo" H "Content-Length: 2\r\n\r\na"));
		sim_peer_send(&tunnel, SLICE("CONNECT h:1" H "\r\n"));
		assert_true(sim_until(rx, has_head, &idle));
		assert_true(sim_until(rx, has_head, &tunnel));
		sim_turns(rx, 100);
		http_server_drain(&srv);
		assert_true(sim_until(rx, ended, &idle));
		assert_int_equal(idle.code, 0);
		assert_int_equal(srv.nconns, 2);
		struct stream *a, *b;
		sim_pair(rx, &rules, &a, &b);
		assert_int_equal(http_server_accept(&srv, a, NULL), -ERR_GOAWAY);
		stream_close(b, 0);
		sim_peer_send(&held, SLICE("b"));
		assert_true(sim_until(rx, ended, &held));
		assert_int_equal(held.code, 0);
		assert_int_equal(empties, 0);
		http_server_abort(&srv);
		assert_true(sim_until(rx, is_empty, NULL));
		assert_true(sim_until(rx, ended, &tunnel));
		assert_int_equal(tunnel.code, -ECONNRESET);
		sim_peer_end(&idle, 0);
		sim_peer_end(&held, 0);
		sim_peer_end(&tunnel, 0);
		sim_turns(rx, 2);
		empties = 0;
		finish();
	}
}

static void test_limits(void **state)
{
	static char big[2000];
	struct sim_peer p, q;
	struct stream *a, *b;
	(void)state;

	start(1);
	srv.conns_max = 1;
	srv.head_ms = 30;
	srv.idle_ms = 30;
	srv.stall_ms = 30;
	srv.head_max = 1000;
	connect_peer(&p); /* says nothing: closed without a word */
	sim_pair(rx, &rules, &a, &b);
	assert_int_equal(http_server_accept(&srv, a, NULL), -ERR_TOO_MANY);
	stream_close(b, 0);
	assert_true(sim_until(rx, ended, &p));
	assert_int_equal(p.code, 0);
	assert_in(&p, "");
	sim_peer_end(&p, 0);

	connect_peer(&p); /* half a head */
	sim_peer_send(&p, SLICE("GET / HTTP/1.1\r\nHost: a\r\n"));
	assert_true(sim_until(rx, ended, &p));
	assert_true(slice_starts(buf_data(&p.in), SLICE("HTTP/1.1 408 Request Timeout\r\n")));
	sim_peer_end(&p, 0);
	sim_turns(rx, 20);

	connect_peer(&p); /* idle after a request */
	sim_peer_send(&p, SLICE("GET /x" H "\r\n"));
	assert_true(sim_until(rx, ended, &p));
	assert_true(slice_ends(buf_data(&p.in), SLICE("\r\n\r\n/x")));
	sim_peer_end(&p, 0);

	connect_peer(&q); /* a body that stops coming */
	sim_peer_send(&q, SLICE("POST /echo" H "Content-Length: 10\r\n\r\nabc"));
	assert_true(sim_until(rx, ended, &q));
	assert_int_equal(q.code, -ECONNRESET); /* the reply had begun */
	assert_int_equal(echo.ended, -ETIMEDOUT);
	sim_peer_end(&q, 0);

	connect_peer(&q); /* one that does not begin */
	sim_peer_send(&q, SLICE("POST /echo" H "Content-Length: 10\r\n\r\n"));
	assert_true(sim_until(rx, ended, &q));
	assert_true(slice_starts(buf_data(&q.in), SLICE("HTTP/1.1 408 Request Timeout\r\n")));
	assert_true(slice_ends(buf_data(&q.in), SLICE("did not arrive in time\"}\n")));
	assert_int_equal(q.code, 0);
	assert_int_equal(echo.ended, -ETIMEDOUT);
	sim_peer_end(&q, 0);

	memset(big, 'x', sizeof(big));
	memcpy(big, "GET /", 5);
	connect_peer(&p);
	sim_peer_send(&p, slice_of(big, sizeof(big)));
	assert_true(sim_until(rx, ended, &p));
	assert_true(slice_starts(buf_data(&p.in), SLICE("HTTP/1.1 431 ")));
	sim_peer_end(&p, 0);
	finish();
}

/* A client that sends and sends but does not read: the echo stops, and stays small. */
static void test_back_pressure(void **state)
{
	static char data[1 << 20];
	struct sim_peer p;
	(void)state;

	start(2);
	rules.piece = 0;
	rules.capacity = 64 * 1024;
	connect_peer(&p);
	sim_peer_pause(&p, true);
	sim_peer_send(&p, SLICE("POST /echo" H "Connection: close\r\nContent-Length: 1048576\r\n"
				"\r\n"));
	sim_peer_send(&p, slice_of(data, sizeof(data)));
	sim_turns(rx, 3000);
	assert_true(p.out.len > sizeof(data) - 300 * 1024);
	sim_peer_pause(&p, false);
	assert_true(sim_until(rx, ended, &p));
	assert_true(p.in.len > sizeof(data));
	sim_peer_end(&p, 0);
	finish();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_scripts),     cmocka_unit_test(test_continue),
		cmocka_unit_test(test_echo),        cmocka_unit_test(test_client_gone),
		cmocka_unit_test(test_take),        cmocka_unit_test(test_relay),
		cmocka_unit_test(test_relay_later), cmocka_unit_test(test_drain),
		cmocka_unit_test(test_limits),      cmocka_unit_test(test_back_pressure),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
