/* The reverse proxy between simulated streams: scripted upstreams, and our own server as one. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "http/proxy.h"
#include "reactor/err.h"
#include "reactor/hold.h"
#include "test/unit/sim.h"

enum { SEEDS = 40, UPS = 8 };

static struct reactor *rx;
static struct sim_rules rules;
static struct http_server front;
static struct sim_peer client, up[UPS]; /* upstream connections in the order of dialling */
static unsigned ups, empties, dones;
static int broken; /* what dialling fails with */
static struct http_access last;

static struct stream *dial(void *arg)
{
	struct stream *near, *far;
	assert_ptr_equal(arg, &front);
	if (broken)
		return sim_broken(rx, broken, "dial tcp 10.0.0.1:1: \"nobody\" there");
	assert_true(ups < UPS);
	sim_pair(rx, &rules, &near, &far);
	sim_peer_init(&up[ups++], far);
	return near;
}

static bool hijack(void *arg, const struct http_head *request, const struct http_head *response)
{
	(void)arg;
	assert_true(!response || response->status == 200);
	return slice_starts(request->target, SLICE("/attach"));
}

/* The program may put a stream of its own around what is relayed. */
static bool held;
static struct stream *hold;
static unsigned ended, closed;

static void on_ended(void *arg)
{
	assert_ptr_equal(arg, &front);
	ended++;
}

static void on_closed(void *arg)
{
	(void)arg;
	closed++;
	hold = NULL;
}

static struct stream *relayed(void *arg, const struct http_head *request, struct stream *s)
{
	if (!held)
		return s;
	assert_true(slice_eq(request->method, SLICE("POST")));
	return hold = hold_stream_new(s, on_ended, on_closed, arg);
}

static const struct http_upstream via = {
	.dial = dial, .hijack = hijack, .relayed = relayed, .arg = &front
};

static void handle(struct http_conn *c, struct http_head *h, void *arg)
{
	struct http_edit edit[] = { { SLICE("X-Secret"), { NULL, 0 } },
				    { SLICE("X-Added"), SLICE("yes") } };
	(void)arg;
	if (slice_eq(h->target, SLICE("/refused")))
		http_reply_error(c, 403, "no");
	else
		http_proxy(c, h, edit, slice_eq(h->target, SLICE("/edit")) ? 2 : 0, &via);
}

static void preface(struct http_conn *c, void *arg)
{
	(void)arg;
	http_relay(c, 0, NULL, 0, dial(&front));
}

static void done(const struct http_access *a, void *arg)
{
	(void)arg;
	last = *a;
	dones++;
}

static void empty(void *arg)
{
	(void)arg;
	empties++;
}

static void start_with(struct sim_rules with)
{
	struct stream *near, *far;

	rx = reactor_new();
	rules = with;
	front = (struct http_server){
		.rx = rx, .handle = handle, .preface = preface, .done = done, .empty = empty
	};
	ups = empties = dones = 0;
	broken = 0;
	sim_open = 0;
	http_server_init(&front);
	sim_pair(rx, &rules, &near, &far);
	assert_int_equal(http_server_accept(&front, far, NULL), 0);
	sim_peer_init(&client, near);
}

static void start(uint64_t seed)
{
	start_with((struct sim_rules){
	    .seed = seed, .refuse = seed % 4 * 20, .piece = seed % 3 ? seed % 40 + 1 : 0 });
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
	http_server_abort(&front);
	assert_true(sim_until(rx, is_empty, NULL));
	for (unsigned i = 0; i < ups; i++)
		sim_peer_end(&up[i], 0);
	assert_true(sim_until(rx, is_over, NULL));
	assert_int_equal(front.nconns, 0);
	assert_int_equal(reactor_stats(rx)->timers, 0);
	reactor_free(rx);
	block_trim();
}

static bool client_over(void *arg)
{
	(void)arg;
	return client.eof || client.code < 0;
}

static bool up_over(void *arg)
{
	const unsigned *i = arg;
	return *i < ups && (up[*i].eof || up[*i].code < 0);
}

static void until_up_over(unsigned i)
{
	assert_true(sim_until(rx, up_over, &i));
}

struct expected {
	struct sim_peer *p;
	struct slice want;
	unsigned need; /* upstream connections */
};

static bool has(void *arg)
{
	const struct expected *e = arg;
	return ups >= e->need && (e->p->in.len >= e->want.n || e->p->code < 0);
}

/* Waits for exactly these bytes and drops them. */
static void expect(struct sim_peer *p, unsigned need, const char *want)
{
	struct expected e = { p, slice_str(want), need };
	bool ok = sim_until(rx, has, &e);
	if (ok)
		sim_turns(rx, 10); /* nothing must follow */
	char *got = xslicedup(need <= ups ? buf_data(&p->in) : SLICE("(no connection)"));
	assert_string_equal(got, want);
	assert_true(ok);
	free(got);
	buf_drop(&p->in, e.want.n);
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

#define H   " HTTP/1.1\r\nHost: a\r\n"
#define R   "HTTP/1.1 200 OK\r\n"
#define GET "GET /" H "\r\n"
#define HI  R "Content-Length: 2\r\n\r\nhi"

/* One exchange: what the client says, upstream gets and says, and the client gets. */
static const struct {
	const char *client, *up_gets, *up, *client_gets;
	char end;         /* of upstream's words: E end of stream */
	char client_end;  /* e end of stream, r reset */
	const char *more; /* what upstream adds to earn the reset */
} cases[] = {
	{ GET, GET, HI, HI, 0, 0, NULL },
	{ "GET /a?b HTTP/1.1\r\nHost: h\r\nConnection: X-Drop , keep-alive\r\nx-drop: 1\r\n"
	  "Keep-Alive: 5\r\nTE: trailers\r\nUpgrade: foo\r\nProxy-Connection: "
	  "x\r\nX-Keep:2\r\n\r\n",
	  "GET /a?b HTTP/1.1\r\nHost: h\r\nX-Keep: 2\r\n\r\n",
	  R "Connection: X-Up\r\nX-UP: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\n"
	    "Content-Length: 2\r\n\r\nhi",
	  HI, 0, 0, NULL },
	{ "POST /edit" H "x-secret: 1\r\nContent-Length: 2\r\n\r\nab",
	  "POST /edit" H "Content-Length: 2\r\nX-Added: yes\r\n\r\nab", HI, HI, 0, 0, NULL },
	/* bodies pass as they are */
	{ "POST /" H "Transfer-Encoding: Chunked\r\n\r\n02;x=y\r\nab\r\n0\r\nT: u\r\n\r\n",
	  "POST /" H "Transfer-Encoding: Chunked\r\n\r\n02;x=y\r\nab\r\n0\r\nT: u\r\n\r\n",
	  R "Transfer-Encoding: chunked\r\n\r\n003\r\nabc\r\n0\r\nT: u\r\n\r\n",
	  R "Transfer-Encoding: chunked\r\n\r\n003\r\nabc\r\n0\r\nT: u\r\n\r\n", 0, 0, NULL },
	{ "HEAD /" H "\r\n", "HEAD /" H "\r\n", R "Content-Length: 999\r\n\r\n",
	  R "Content-Length: 999\r\n\r\n", 0, 0, NULL },
	{ GET, GET, "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
	  "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 0, 0, NULL },
	{ GET, GET, "HTTP/1.1 204 \r\n\r\n", "HTTP/1.1 204 \r\n\r\n", 0, 0, NULL },
	{ GET, GET, "HTTP/1.1 103 Early\r\nLink: x\r\nConnection: y\r\nY: z\r\n\r\n" HI,
	  "HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" HI, 0, 0, NULL },
	/* the end of the connection ends the body */
	{ GET, GET, "HTTP/1.0 200 OK\r\n\r\nabc", R "Connection: close\r\n\r\nabc", 'E', 'e',
	  NULL },
	{ GET, GET, R "Connection: close\r\nContent-Length: 2\r\n\r\nhi", HI, 'E', 0, NULL },
	{ "GET / HTTP/1.0\r\nHost: a\r\n\r\n", "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
	  "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
	  R "Content-Length: 2\r\nConnection: close\r\n\r\nhi", 0, 'e', NULL },
	{ "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "GET / HTTP/1.0\r\n\r\n",
	  "HTTP/1.1 103 E\r\n\r\n" HI, R "Content-Length: 2\r\nConnection: keep-alive\r\n\r\nhi", 0,
	  0, NULL },
	{ "GET /" H "Connection: close\r\n\r\n", GET, HI,
	  R "Content-Length: 2\r\nConnection: close\r\n\r\nhi", 0, 'e', NULL },
	/* failures in the middle */
	{ GET, GET, R "Content-Length: 5\r\n\r\nab", R "Content-Length: 5\r\n\r\nab", 'E', 'r',
	  NULL },
	{ GET, GET, R "Transfer-Encoding: chunked\r\n\r\n5\r\nab",
	  R "Transfer-Encoding: chunked\r\n\r\n5\r\nab", 'E', 'r', NULL },
	{ GET, GET, R "Transfer-Encoding: chunked\r\n\r\n", R "Transfer-Encoding: chunked\r\n\r\n",
	  0, 'r', "xx" },
};

static void test_cases(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		for (uint64_t seed = 0; seed < SEEDS; seed++) {
			start(seed);
			client_says(cases[i].client);
			up_gets(0, cases[i].up_gets);
			up_says(0, cases[i].up);
			if (cases[i].client_end != 'r' && cases[i].end)
				sim_peer_shut(&up[0]);
			client_gets(cases[i].client_gets);
			if (cases[i].client_end == 'r' && cases[i].end == 'E')
				sim_peer_shut(&up[0]);
			else if (cases[i].client_end == 'r')
				up_says(0, cases[i].more);
			if (cases[i].client_end) {
				assert_true(sim_until(rx, client_over, NULL));
				assert_int_equal(client.code,
						 cases[i].client_end == 'r' ? -ECONNRESET : 0);
			} else { /* and again, on the same connection to us */
				assert_int_equal(dones, 1);
				client_says(GET);
				unsigned j =
				    cases[i].end || strstr(cases[i].client, "/1.0") ? 1 : 0;
				up_gets(j, GET);
				up_says(j, HI);
				client_gets(HI);
				assert_int_equal(ups, j + 1);
				assert_int_equal(dones, 2);
			}
			finish();
		}
}

/* What upstream says, or how it fails, and the status and words that the client gets. */
static const struct {
	const char *request, *up;
	int broken, status;
	const char *why;
} failures[] = {
	{ GET, "", 0, 502, "unexpected EOF" },
	{ GET, "HTTP/1.1 200", 0, 502, "unexpected EOF" },
	{ GET, "SSH-2.0-x\r\n\r\n", 0, 502, "bad response from upstream: malformed start line" },
	{ GET, R "Content-Length: 1\r\nContent-Length: 1\r\n\r\na", 0, 502,
	  "bad response from upstream: repeated or malformed Content-Length" },
	{ GET, R "Connection: Content-Length\r\nContent-Length: 1\r\n\r\nx", 0, 502,
	  "bad response from upstream: protocol violation" },
	{ GET, "HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", 0, 502,
	  "bad response from upstream: protocol violation" },
	{ "GET / HTTP/1.0\r\n\r\n", R "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0, 502,
	  "bad response from upstream: protocol violation" },
	{ GET, NULL, -ECONNREFUSED, 502, "dial tcp 10.0.0.1:1: \\\"nobody\\\" there" },
	{ "POST /" H "Content-Length: 3\r\n\r\nabc", NULL, -ETIMEDOUT, 504,
	  "dial tcp 10.0.0.1:1: \\\"nobody\\\" there" },
	{ "POST /" H "Transfer-Encoding: chunked\r\n\r\nxyz\r\n", NULL, 0, 400, "malformed chunk" },
	{ "POST /" H "Connection: content-length\r\nContent-Length: 3\r\n\r\nabc", NULL, 0, 400,
	  "unusable request head" },
	{ "GET /" H "Connection: host, upgrade\r\nUpgrade: tcp\r\n\r\n", NULL, 0, 400,
	  "unusable request head" },
	{ "GET /refused" H "\r\n", NULL, 0, 403, "no" },
};

static bool client_has_reply(void *arg)
{
	struct slice in = buf_data(&client.in);
	(void)arg;
	return in.n > 2 && slice_ends(in, SLICE("}\n"));
}

static bool client_sent(void *arg)
{
	(void)arg;
	return client.out.len == 0 && ups > 0 && up[0].in.len > 0;
}

static void test_failures(void **state)
{
	char start_line[32], message[256];
	(void)state;

	for (size_t i = 0; i < ARRAY_LEN(failures); i++)
		for (uint64_t seed = 0; seed < SEEDS; seed++) {
			start(seed);
			broken = failures[i].broken;
			client_says(failures[i].request);
			if (failures[i].up) {
				assert_true(sim_until(rx, client_sent, NULL));
				up_says(0, failures[i].up);
				sim_peer_shut(&up[0]);
			}
			assert_true(sim_until(rx, client_has_reply, NULL));
			snprintf(start_line, sizeof(start_line), "HTTP/1.1 %d ",
				 failures[i].status);
			snprintf(message, sizeof(message), "\r\n\r\n{\"message\":\"%s\"}\n",
				 failures[i].why);
			char *got = xslicedup(buf_data(&client.in));
			assert_memory_equal(got, start_line, strlen(start_line));
			assert_string_equal(strstr(got, "\r\n\r\n"), message);
			free(got);
			sim_turns(rx, 5);
			assert_int_equal(last.status, failures[i].status);
			finish();
		}
}

static void relay_both_ways(void)
{
	sim_peer_shut(&client); /* half a close, then more from the other side */
	until_up_over(0);
	assert_int_equal(up[0].code, 0);
	up_says(0, "still here");
	client_gets("still here");
	sim_peer_shut(&up[0]);
	assert_true(sim_until(rx, client_over, NULL));
	assert_int_equal(client.code, 0);
	sim_turns(rx, 5);
	assert_int_equal(front.nconns, 0);
	assert_true(last.relayed);
	assert_int_equal(last.code, 0);
}

static void test_hijack(void **state)
{
#define UP       "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n"
#define SWITCHED "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
	(void)state;
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		start(seed); /* 101, with bytes behind both heads */
		client_says("POST /exec/1/start" H UP "Content-Length: 2\r\n\r\n{}");
		up_gets(0, "POST /exec/1/start" H UP "Content-Length: 2\r\n\r\n{}");
		client_says("early");
		up_says(0, SWITCHED "EARLY");
		client_gets(SWITCHED "EARLY");
		up_gets(0, "early");
		relay_both_ways();
		assert_int_equal(last.status, 101);
		finish();

		start(seed); /* 200; the client ended its half at once */
		client_says("POST /attach" H "\r\nearly");
		sim_peer_shut(&client);
		up_gets(0, "POST /attach" H "\r\n");
		sim_turns(rx, 50);
		up_says(0, R "Content-Type: raw\r\n\r\nEARLY");
		client_gets(R "Content-Type: raw\r\nConnection: close\r\n\r\nEARLY");
		up_gets(0, "early");
		relay_both_ways();
		finish();

		start(seed); /* refused: an ordinary exchange after all */
		client_says("POST /attach" H UP "\r\n");
		up_gets(0, "POST /attach" H UP "\r\n");
		up_says(0, "HTTP/1.1 404 x\r\nContent-Length: 2\r\n\r\nno");
		client_gets("HTTP/1.1 404 x\r\nContent-Length: 2\r\n\r\nno");
		client_says(GET);
		up_gets(0, GET);
		up_says(0, HI);
		client_gets(HI);
		finish();

		start(seed); /* a 200 with a length is no hijack */
		client_says("POST /attach" H "\r\n");
		up_gets(0, "POST /attach" H "\r\n");
		up_says(0, HI);
		client_gets(HI);
		assert_false(last.relayed);
		finish();

		start(seed);
		client_says("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nx");
		up_gets(0, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nx");
		relay_both_ways();
		finish();
	}
}

static bool ended_once(void *arg)
{
	(void)arg;
	return ended == 1;
}

static bool closed_once(void *arg)
{
	(void)arg;
	return closed == 1;
}

/* A relay whose end the program holds: bytes pass, the end waits, and a client that goes is gone.
 */
static void test_hijack_held(void **state)
{
	(void)state;
	held = true;
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		start(seed);
		ended = closed = 0;
		client_says("POST /attach" H UP "\r\n");
		up_gets(0, "POST /attach" H UP "\r\n");
		up_says(0, SWITCHED "EARLY");
		client_gets(SWITCHED "EARLY");
		up_says(0, "late");
		sim_peer_shut(&up[0]);
		client_gets("late");
		client_says("up");
		up_gets(0, "up");
		assert_true(sim_until(rx, ended_once, NULL));
		sim_turns(rx, 50);
		assert_false(client.eof);
		if (seed % 2) {
			hold_stream_release(hold);
			sim_peer_shut(&client);
			assert_true(sim_until(rx, client_over, NULL));
		} else {
			sim_peer_end(&client, -ECONNRESET);
		}
		assert_true(sim_until(rx, closed_once, NULL));
		assert_int_equal(ended, 1);
		finish();
	}
	held = false;
}

static void test_client_gone(void **state)
{
	static const char *const sends[] = { GET, "POST /" H "Content-Length: 5\r\n\r\nab" };
	(void)state;

	for (size_t i = 0; i < 2; i++)
		for (uint64_t seed = 0; seed < SEEDS; seed++) {
			start(seed);
			client_says(sends[i]);
			up_gets(0, sends[i]);
			if (seed & 4) { /* in the middle of a long response */
				up_says(0, R "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n");
				client_gets(R "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n");
			}
			if (seed & 8)
				stream_close(client.s, seed & 1 ? -ECONNRESET : 0);
			else
				sim_peer_shut(&client);
			until_up_over(0);
			assert_int_equal(up[0].code, -ECONNRESET);
			sim_turns(rx, 5);
			assert_int_equal(front.nconns, 0);
			if (seed & 8)
				client.s = NULL;
			finish();
		}
}

/* Upstream closes between two requests, seen in time or not. */
static void test_kept(void **state)
{
	(void)state;
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		start(seed);
		client_says(GET);
		up_gets(0, GET);
		up_says(0, HI);
		client_gets(HI);
		sim_peer_shut(&up[0]);
		until_up_over(0); /* noticed while idle */
		assert_int_equal(up[0].code, 0);
		client_says("POST /" H "Content-Length: 1\r\n\r\na");
		up_gets(1, "POST /" H "Content-Length: 1\r\n\r\na");
		up_says(1, HI);
		client_gets(HI);

		client_says(GET); /* closed under a request that may be repeated */
		up_gets(1, GET);
		sim_peer_shut(&up[1]);
		up_gets(2, GET);
		up_says(2, HI);
		client_gets(HI);

		client_says("POST /" H "\r\n"); /* and under one that may not */
		up_gets(2, "POST /" H "\r\n");
		sim_peer_shut(&up[2]);
		assert_true(sim_until(rx, client_has_reply, NULL));
		assert_int_equal(ups, 3);
		buf_end(&client.in);

		client_says(GET); /* a fresh connection is not tried twice */
		up_gets(3, GET);
		sim_peer_shut(&up[3]);
		assert_true(sim_until(rx, client_has_reply, NULL));
		assert_int_equal(ups, 4);
		finish();
	}
}

static bool up_sent(void *arg)
{
	(void)arg;
	return up[0].out.len == 0;
}

static void test_extra_bytes(void **state)
{
	(void)state;
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		start(seed); /* a second response that nobody asked for goes to nobody */
		client_says(GET);
		up_gets(0, GET);
		up_says(0, HI "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
		client_gets(HI);
		assert_true(sim_until(rx, up_sent, NULL));
		client_says(GET);
		up_gets(1, GET);
		up_says(1, HI);
		client_gets(HI);
		finish();
	}
}

static void test_continue(void **state)
{
#define EXPECT "POST /" H "Expect: 100-continue\r\nContent-Length: 4\r\n\r\n"
	(void)state;
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		start(seed);
		client_says(EXPECT);
		up_gets(0, EXPECT);
		up_says(0, "HTTP/1.1 100 Continue\r\n\r\n");
		client_gets("HTTP/1.1 100 Continue\r\n\r\n");
		client_says("body" GET);
		up_gets(0, "body");
		up_says(0, HI);
		client_gets(HI);
		up_gets(0, GET);
		finish();

		start(seed); /* refused: the body will not come */
		client_says(EXPECT);
		up_gets(0, EXPECT);
		up_says(0, "HTTP/1.1 417 no\r\nContent-Length: 0\r\n\r\n");
		client_gets("HTTP/1.1 417 no\r\nContent-Length: 0\r\n\r\n");
		assert_true(sim_until(rx, client_over, NULL));
		assert_int_equal(client.code, 0);
		finish();
	}
}

/* A response that is over before the request is. */
static void test_early(void **state)
{
	static char data[100000];
	(void)state;

	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		start(seed); /* upstream goes on taking the body */
		client_says("POST /" H "Content-Length: 4\r\n\r\nab");
		up_gets(0, "POST /" H "Content-Length: 4\r\n\r\nab");
		up_says(0, HI);
		client_gets(HI);
		client_says("cd" GET);
		up_gets(0, "cd" GET);
		finish();
	}
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		start(seed); /* upstream answers and closes */
		client_says("POST /" H "Content-Length: 100000\r\n\r\nab");
		up_gets(0, "POST /" H "Content-Length: 100000\r\n\r\nab");
		up_says(0, "HTTP/1.1 413 x\r\nContent-Length: 2\r\n\r\nno");
		client_gets("HTTP/1.1 413 x\r\nContent-Length: 2\r\n\r\nno");
		stream_close(up[0].s, 0);
		up[0].s = NULL;
		sim_peer_send(&client, slice_of(data, sizeof(data) - 2));
		assert_true(sim_until(rx, client_over, NULL));
		assert_int_equal(client.code, 0);
		finish();
	}
}

/* Half a gigabyte each way would do as well: what is held does not depend on it. */
static void test_stalled_reader(void **state)
{
	static char data[1 << 20];
	(void)state;

	start_with((struct sim_rules){ .seed = 2, .refuse = 20, .capacity = 64 * 1024 });
	sim_peer_pause(&client, true);
	client_says("GET /logs" H "\r\n");
	up_gets(0, "GET /logs" H "\r\n");
	up_says(0, R "Content-Length: 4194304\r\n\r\n");
	for (int i = 0; i < 4; i++)
		sim_peer_send(&up[0], slice_of(data, sizeof(data)));
	sim_turns(rx, 3000);
	assert_true(up[0].out.len > 4 * sizeof(data) - 600 * 1024);
	sim_peer_pause(&client, false);
	struct expected e = { &client, { NULL, 4 * sizeof(data) }, 1 };
	assert_true(sim_until(rx, has, &e));
	finish();
}

/* --- our own server behind it: bodies both ways at once --- */

static struct http_server back;

struct echo {
	struct task task;
	struct http_conn *c;
	char held[20000];
	size_t n, at;
};

static void echo_run(struct task *t)
{
	struct echo *e = container_of(t, struct echo, task);
	ssize_t n = http_failed(e->c);

	while (n >= 0) {
		if (e->at < e->n) {
			n = http_write(e->c, e->held + e->at, e->n - e->at);
			e->at += n > 0 ? (size_t)n : 0;
			continue;
		}
		n = http_read(e->c, e->held, sizeof(e->held));
		e->at = 0;
		e->n = n > 0 ? (size_t)n : 0;
		if (n == 0) {
			http_reply_end(e->c);
			free(e);
			return;
		}
	}
	if (n != -EAGAIN) {
		http_abort(e->c, (int)n);
		free(e);
	}
}

static void echo_handle(struct http_conn *c, struct http_head *h, void *arg)
{
	struct echo *e = xcalloc(1, sizeof(*e));
	(void)h;
	(void)arg;
	e->c = c;
	task_init(&e->task, echo_run);
	http_reply_start(c, 200, NULL, 0);
	http_bind(c, &e->task);
}

static struct stream *dial_back(void *arg)
{
	struct stream *near, *far;
	(void)arg;
	ups++;
	sim_pair(rx, &rules, &near, &far);
	assert_int_equal(http_server_accept(&back, far, NULL), 0);
	return near;
}

static const struct http_upstream via_back = { .dial = dial_back };

static void handle_back(struct http_conn *c, struct http_head *h, void *arg)
{
	(void)arg;
	http_proxy(c, h, NULL, 0, &via_back);
}

static bool two_done(void *arg)
{
	(void)arg;
	return dones == 2;
}

static bool back_empty(void *arg)
{
	(void)arg;
	return back.nconns == 0;
}

/* Checks one chunked response at the start of s and returns what follows. */
static struct slice check_echo(struct slice s, const char *data, size_t n)
{
	struct http_head h;
	struct http_body b;
	struct http_err err;
	struct slice out;
	size_t at = 0;

	ssize_t head = http_response_parse(&h, s, 0, HTTP_HEAD_MAX, &err);
	assert_true(head > 0 && h.status == 200 && h.chunked);
	s = slice_after(s, (size_t)head);
	http_body_init(&b, &h, SLICE("POST"));
	while (!http_body_done(&b)) {
		ssize_t r = http_body_next(&b, s, &out, &err);
		assert_true(r > 0);
		assert_true(at + out.n <= n);
		if (out.n)
			assert_memory_equal(data + at, out.p, out.n);
		at += out.n;
		s = slice_after(s, (size_t)r);
	}
	assert_int_equal(at, n);
	return s;
}

static void test_duplex(void **state)
{
	static char data[400000];
	struct buf b;
	(void)state;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (char)(i * 7 + i / 251);
	for (uint64_t seed = 0; seed < 12; seed++) {
		start_with((struct sim_rules){ .seed = seed,
					       .refuse = seed % 4 * 20,
					       .piece = seed % 3 ? 5000 : 0,
					       .capacity = 20000 });
		ups = 0;
		front.handle = handle_back;
		back = (struct http_server){ .rx = rx, .handle = echo_handle };
		http_server_init(&back);
		buf_init(&b, 2 << 20);
		buf_puts(&b, "POST /" H "Content-Length: 400000\r\n\r\n");
		buf_put(&b, slice_of(data, sizeof(data)));
		buf_puts(&b, "POST /" H "Transfer-Encoding: chunked\r\n\r\n");
		for (size_t i = 0; i < sizeof(data); i += 8000)
			http_put_chunk(&b, slice_of(data + i, 8000));
		http_put_last_chunk(&b);
		sim_peer_send(&client, buf_data(&b));
		buf_end(&b);
		assert_true(sim_until(rx, two_done, NULL));
		sim_turns(rx, 100); /* the last bytes are still on their way */
		struct slice rest = check_echo(buf_data(&client.in), data, sizeof(data));
		rest = check_echo(rest, data, sizeof(data));
		assert_int_equal(rest.n, 0);
		assert_int_equal(ups, 1);
		ups = 0;
		http_server_drain(&back);
		assert_true(sim_until(rx, back_empty, NULL));
		finish();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cases),          cmocka_unit_test(test_failures),
		cmocka_unit_test(test_hijack),         cmocka_unit_test(test_client_gone),
		cmocka_unit_test(test_kept),           cmocka_unit_test(test_extra_bytes),
		cmocka_unit_test(test_continue),       cmocka_unit_test(test_early),
		cmocka_unit_test(test_stalled_reader), cmocka_unit_test(test_duplex),
		cmocka_unit_test(test_hijack_held),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
