/* carrier.c and tunnel.c against a small guest in this process: refusals, TLS or not, redialling,
 * GOAWAY, what people are told. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/tstunnel/tunnel.h"
#include "reactor/buf.h"
#include "reactor/err.h"
#include "reactor/listen.h"
#include "reactor/log.h"
#include "reactor/tls_make.h"
#include "test/unit/turn.h"

#define HOST "127.0.0.1"

static struct reactor *rx;
static char dir[] = "/tmp/test-tunnel-XXXXXX";

/* --- the guest --- */

enum { CONNS = 64 };

struct conn {
	struct task task;
	struct stream *s; /* until the answer */
	struct mux *mux;
	struct stream *opened[8];
	unsigned nopened;
	char head[2048];
	size_t n;
	int ended_code;
};

static struct {
	struct listener *listener;
	uint16_t port;
	struct tls_config *tls;
	const char *reply; /* NULL: silence; "": hang up */
	struct conn *conn[CONNS];
	unsigned nconns;
} guest;

static const char upgraded[] = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
			       "Upgrade: tstunnel/1\r\n\r\n";

static void on_opened(void *arg, struct stream *s, struct slice json)
{
	struct conn *c = arg;
	(void)json;
	assert_true(c->nopened < ARRAY_LEN(c->opened));
	c->opened[c->nopened++] = s;
	mux_accept(s, SLICE("{}"));
	assert_int_equal(5, stream_write(s, "hello", 5));
}

static void on_ended(void *arg, int code, const char *why)
{
	struct conn *c = arg;
	c->ended_code = code;
	mux_free(c->mux, code, why);
	c->mux = NULL;
}

static void answer(struct conn *c)
{
	const char *reply = c->head[0] == 0x16 ? "HTTP/1.1 400 Bad Request\r\n\r\n" : guest.reply;
	if (!reply)
		return;
	struct stream *s = c->s;
	c->s = NULL;
	task_cancel(&c->task);
	if (*reply)
		assert_int_equal(strlen(reply), stream_write(s, reply, strlen(reply)));
	if (strcmp(reply, upgraded) != 0) {
		stream_close(s, 0);
		return;
	}
	assert_non_null(strstr(c->head, "GET " CARRIER_PATH " HTTP/1.1\r\nHost: " HOST));
	assert_non_null(strstr(c->head, "\r\nUpgrade: tstunnel/1\r\n"));
	c->mux = mux_new(rx, s, SLICE(""),
			 &(struct mux_options){ .opened = on_opened, .ended = on_ended, .arg = c });
}

static void conn_run(struct task *t)
{
	struct conn *c = container_of(t, struct conn, task);
	ssize_t n = stream_read(c->s, c->head + c->n, sizeof(c->head) - 1 - c->n);
	if (n == -EAGAIN)
		return;
	if (n <= 0) {
		stream_close(c->s, (int)n);
		c->s = NULL;
		return;
	}
	c->n += (size_t)n;
	if (c->head[0] == 0x16 || strstr(c->head, "\r\n\r\n"))
		answer(c);
}

static void on_accept(void *arg, int fd, const struct sockaddr *peer)
{
	(void)arg, (void)peer;
	assert_true(guest.nconns < CONNS);
	struct conn *c = guest.conn[guest.nconns++] = xcalloc(1, sizeof(*c));
	c->ended_code = 99;
	c->s = fd_stream_new(rx, fd);
	if (guest.tls)
		c->s = tls_server(guest.tls, c->s);
	task_init(&c->task, conn_run);
	stream_bind(c->s, &c->task);
}

static struct addr address(void)
{
	struct addr a = { .kind = ADDR_TCP, .host = HOST, .port = guest.port };
	return a;
}

static void guest_listen(void)
{
	int err = 0;
	struct addr a = address();
	guest.listener = listener_new(rx, &a, on_accept, NULL, &err);
	assert_non_null(guest.listener);
	guest.port = listener_port(guest.listener);
}

static int setup(void **state)
{
	(void)state;
	rx = reactor_new();
	memset(&guest, 0, sizeof(guest));
	guest.reply = upgraded;
	guest_listen();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	listener_close(guest.listener);
	for (unsigned i = 0; i < guest.nconns; i++) {
		struct conn *c = guest.conn[i];
		task_cancel(&c->task);
		stream_close(c->s, -ECONNRESET);
		for (unsigned k = 0; k < c->nopened; k++)
			stream_close(c->opened[k], 0);
		mux_free(c->mux, -ECONNRESET, NULL);
		free(c);
	}
	tls_config_unref(guest.tls);
	UNTIL(reactor_stats(rx)->handles == 0 && reactor_stats(rx)->timers == 0);
	reactor_free(rx);
	block_trim();
	return 0;
}

/* --- certificates --- */

static const char *path(const char *name)
{
	static char ring[8][64];
	static unsigned next;
	char *p = ring[next++ % 8];
	snprintf(p, sizeof(ring[0]), "%s/%s", dir, name);
	return p;
}

static void save(const char *name, const char *text)
{
	FILE *f = fopen(path(name), "we");
	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	fclose(f);
}

static int make_certs(void **state)
{
	(void)state;
	struct tls_made ca, other, server;
	char err[256];
	const char *ip[] = { HOST };
	struct tls_make m = { .common_name = "CA",
			      .not_before = time(NULL) - 60,
			      .not_after = time(NULL) + 86400 };
	log_level = LOG_ERROR;
	if (!mkdtemp(dir) || tls_make(&m, &ca, err, sizeof(err)) < 0 ||
	    tls_make(&m, &other, err, sizeof(err)) < 0)
		return -1;
	m.kind = TLS_MAKE_SERVER;
	m.common_name = "guest";
	m.ip = ip;
	m.n_ip = 1;
	m.ca_cert_pem = ca.cert_pem;
	m.ca_key_pem = ca.key_pem;
	if (tls_make(&m, &server, err, sizeof(err)) < 0)
		return -1;
	save("ca.crt", ca.cert_pem);
	save("other.crt", other.cert_pem);
	save("server.crt", server.cert_pem);
	save("server.key", server.key_pem);
	tls_made_end(&ca);
	tls_made_end(&other);
	tls_made_end(&server);
	return 0;
}

static int remove_certs(void **state)
{
	(void)state;
	static const char *const names[] = { "ca.crt", "other.crt", "server.crt", "server.key" };
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		unlink(path(names[i]));
	return rmdir(dir);
}

static void guest_tls(void)
{
	char err[256] = "";
	guest.tls = tls_config_new(&(struct tls_options){ .cert_file = path("server.crt"),
							  .key_file = path("server.key") },
				   true, err, sizeof(err));
	assert_string_equal("", err);
}

/* --- the client --- */

static struct tunnel *client(struct tunnel_options o)
{
	char err[256] = "";
	o.server = address();
	struct tunnel *t = tunnel_new(rx, &o, err, sizeof(err));
	assert_string_equal("", err);
	assert_non_null(t);
	return t;
}

/* Opens a stream that must fail, with this code and these words. */
static void fails(struct tunnel_options o, int code, const char *words)
{
	struct tunnel *t = client(o);
	struct stream *s = tunnel_open(t, SLICE("{\"kind\":\"x\"}"), TUNNEL_INTERACTIVE);
	int r;
	UNTIL((r = stream_open_yet(s)) != -EAGAIN);
	if (r != code || !strstr(stream_why(s, r), words))
		fail_msg("%d (not %d): %s", r, code, stream_why(s, r));
	struct tunnel_status st;
	tunnel_status(t, &st);
	assert_false(st.up);
	assert_non_null(strstr(st.last_error, words));
	stream_close(s, 0);
	tunnel_free(t);
}

static void says_hello(struct stream *s)
{
	char buf[8];
	ssize_t r;
	UNTIL((r = stream_read(s, buf, sizeof(buf))) != -EAGAIN);
	if (r < 0)
		fail_msg("%s", stream_why(s, (int)r));
	assert_int_equal(5, r);
	assert_memory_equal("hello", buf, 5);
	assert_int_equal(0, stream_open_yet(s));
}

static void works(struct tunnel_options o)
{
	struct tunnel *t = client(o);
	struct stream *s = tunnel_open(t, SLICE("{\"kind\":\"x\"}"), TUNNEL_INTERACTIVE);
	says_hello(s);
	struct tunnel_status st;
	UNTIL((tunnel_status(t, &st), st.rtt_us > 0));
	assert_true(st.up);
	assert_int_equal(1, st.carriers);
	assert_int_equal(1, st.streams);
	assert_int_equal(5, st.bytes_in);
	assert_int_equal(0, st.redials);
	assert_string_equal("", st.last_error);
	assert_non_null(strstr(st.server, HOST ":"));
	stream_close(s, 0);
	tunnel_free(t);
}

/* --- tests --- */

static void plain_works(void **state)
{
	(void)state;
	works((struct tunnel_options){ .program = "test" });
	works((struct tunnel_options){ .insecure = true }); /* plain comes first */
}

static void refusals_are_told(void **state)
{
	(void)state;
	static const struct {
		const char *reply;
		int code;
		const char *words;
	} cases[] = {
		{ "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", -ERR_HTTP,
		  "answered 404 Not Found to the tunnel request; is that a guest?" },
		{ "HTTP/1.1 403 Forbidden\r\nContent-Length: 24\r\n\r\n{\"message\":\"CN "
		  "unknown\"}",
		  -ERR_DENIED, "refused the tunnel: CN unknown" },
		{ "HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\noops", -ERR_DENIED,
		  "answered 403 Forbidden" },
		{ "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", -ERR_HTTP, "answered 200 OK" },
		{ "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
		  -ERR_HTTP, "answered 101 Switching Protocols" },
		{ "SSH-2.0-OpenSSH_9.2\r\n", -ERR_HTTP,
		  "did not answer in HTTP; is that a guest?" },
		{ "", -ERR_TRUNCATED, "closed the connection instead of answering" },
		{ "HTTP/1.1 2", -ERR_TRUNCATED, "closed the connection instead of answering" },
		{ NULL, -ETIMEDOUT, "did not answer the tunnel request: i/o timeout" },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		guest.reply = cases[i].reply;
		fails((struct tunnel_options){ .handshake_ms = guest.reply ? 0 : 30 },
		      cases[i].code, cases[i].words);
	}
	listener_close(guest.listener);
	guest.listener = NULL;
	fails((struct tunnel_options){ .connect_ms = 1000 }, -ECONNREFUSED, "connection refused");
}

static void tls_works(void **state)
{
	(void)state;
	guest_tls();
	works((struct tunnel_options){ .ca_file = path("ca.crt") });
	works((struct tunnel_options){ .ca_file = path("other.crt"), .insecure = true });
	fails((struct tunnel_options){ .ca_file = path("other.crt") }, -ERR_TLS_UNKNOWN_CA,
	      "certificate signed by unknown authority");
}

static void tls_where_none_was_asked_for(void **state)
{
	(void)state;
	guest_tls();
	fails((struct tunnel_options){ .program = NULL }, -ERR_IS_TLS,
	      "speaks TLS, and no TLS was asked for");
	works((struct tunnel_options){ .insecure = true });
}

static void plain_where_tls_was_asked_for(void **state)
{
	(void)state;
	fails((struct tunnel_options){ .ca_file = path("ca.crt") }, -ERR_NOT_TLS,
	      "server gave HTTP response to TLS client");
}

static void bad_files_are_told(void **state)
{
	(void)state;
	char err[256] = "";
	struct tunnel_options o = { .server = address(), .ca_file = path("missing.crt") };
	assert_null(tunnel_new(rx, &o, err, sizeof(err)));
	assert_non_null(strstr(err, "missing.crt"));
	o.ca_file = NULL;
	o.cert_file = path("server.crt");
	assert_null(tunnel_new(rx, &o, err, sizeof(err)));
	o.cert_file = NULL;
	o.ca_file = path("ca.crt");
	struct tunnel *t = tunnel_new(rx, &o, err, sizeof(err));
	assert_non_null(t);
	assert_int_equal(0, tunnel_reload(t, err, sizeof(err)));
	tunnel_free(t);
	tunnel_free(NULL);
}

static bool is_up(struct tunnel *t)
{
	struct tunnel_status st;
	tunnel_status(t, &st);
	return st.up;
}

static void a_lost_carrier_is_redialled(void **state)
{
	(void)state;
	struct tunnel_status st;
	struct tunnel *t = client((struct tunnel_options){ .keep_up = true });
	UNTIL(is_up(t)); /* without anybody opening a stream */
	struct stream *s = tunnel_open(t, SLICE("{}"), TUNNEL_INTERACTIVE);
	says_hello(s);
	struct conn *c = guest.conn[0];
	mux_free(c->mux, -ECONNRESET, NULL);
	c->mux = NULL;
	UNTIL(!is_up(t));
	char b;
	ssize_t r;
	UNTIL((r = stream_read(s, &b, 1)) != -EAGAIN);
	assert_true(r < 0);
	stream_close(s, 0);
	tunnel_status(t, &st);
	assert_string_not_equal("", st.last_error);
	UNTIL(is_up(t));
	tunnel_status(t, &st);
	assert_int_equal(1, st.redials);
	assert_int_equal(1, st.streams_total); /* those of links that are gone count */
	assert_int_equal(5, st.bytes_in);
	assert_string_equal("", st.last_error);

	/* The whole guest goes, and comes back. */
	listener_close(guest.listener);
	guest.listener = NULL;
	c = guest.conn[1];
	mux_free(c->mux, -ECONNRESET, NULL);
	c->mux = NULL;
	UNTIL((tunnel_status(t, &st), strstr(st.last_error, "connection refused")));
	guest_listen();
	UNTIL(is_up(t));
	s = tunnel_open(t, SLICE("{}"), TUNNEL_INTERACTIVE);
	says_hello(s);
	stream_close(s, 0);
	tunnel_free(t);
}

static void on_changed(void *arg)
{
	(*(unsigned *)arg)++;
}

/* Whoever waits for the tunnel need not ask again and again. */
static void changes_are_told(void **state)
{
	(void)state;
	unsigned told = 0;
	struct tunnel *t =
	    client((struct tunnel_options){ .keep_up = true, .changed = on_changed, .arg = &told });
	UNTIL(told == 1);
	assert_true(is_up(t));
	struct conn *c = guest.conn[0];
	mux_free(c->mux, -ECONNRESET, NULL);
	c->mux = NULL;
	listener_close(guest.listener);
	guest.listener = NULL;
	UNTIL(told == 2); /* lost */
	assert_false(is_up(t));
	UNTIL(told == 3); /* refused */
	assert_false(is_up(t));
	guest_listen();
	UNTIL(is_up(t));
	unsigned up = told;
	assert_true(up >= 4);
	tunnel_free(t);
	assert_int_equal(up, told);
}

static void goaway_moves_new_streams_to_a_new_carrier(void **state)
{
	(void)state;
	struct tunnel_status st;
	struct tunnel *t = client((struct tunnel_options){ .keep_up = true });
	struct stream *old = tunnel_open(t, SLICE("{}"), TUNNEL_INTERACTIVE);
	says_hello(old);
	mux_goaway(guest.conn[0]->mux, "shutting down");
	for (int i = 0; i < 10; i++)
		turn_once(rx);
	struct stream *new = tunnel_open(t, SLICE("{}"), TUNNEL_INTERACTIVE);
	says_hello(new);
	assert_int_equal(2, guest.nconns);
	tunnel_status(t, &st);
	assert_int_equal(2, st.carriers);
	assert_true(st.up);

	/* The old one finishes: the last bytes, unread when the carrier is closed, still arrive. */
	char buf[8];
	ssize_t r;
	struct stream *far = guest.conn[0]->opened[0];
	assert_int_equal(4, stream_write(old, "ping", 4));
	UNTIL((r = stream_read(far, buf, sizeof(buf))) != -EAGAIN);
	assert_int_equal(4, r);
	assert_int_equal(0, stream_shut(old));
	UNTIL((r = stream_read(far, buf, sizeof(buf))) != -EAGAIN);
	assert_int_equal(0, r);
	assert_int_equal(4, stream_write(far, "pong", 4));
	stream_close(far, 0);
	guest.conn[0]->nopened = 0;
	UNTIL(!guest.conn[0]->mux);
	assert_int_equal(0, guest.conn[0]->ended_code);
	assert_int_equal(4, stream_read(old, buf, sizeof(buf)));
	assert_memory_equal("pong", buf, 4);
	assert_int_equal(0, stream_read(old, buf, sizeof(buf)));
	stream_close(old, 0);
	UNTIL((tunnel_status(t, &st), st.carriers == 1));
	assert_int_equal(0, stream_open_yet(new));
	stream_close(new, 0);
	tunnel_free(t);
}

static void bulk_has_a_carrier_of_its_own(void **state)
{
	(void)state;
	struct tunnel *t = client((struct tunnel_options){ .keep_up = false });
	struct stream *a = tunnel_open(t, SLICE("{}"), TUNNEL_INTERACTIVE);
	struct stream *b = tunnel_open(t, SLICE("{}"), TUNNEL_BULK);
	struct stream *c = tunnel_open(t, SLICE("{}"), TUNNEL_BULK);
	says_hello(a);
	says_hello(b);
	says_hello(c);
	assert_int_equal(2, guest.nconns);
	tunnel_free(t); /* streams outlive it, and say why they failed */
	char buf;
	assert_int_equal(-ERR_CANCELLED, stream_read(b, &buf, 1));
	assert_string_equal("the tunnel was closed", stream_why(b, -ERR_CANCELLED));
	stream_close(a, 0);
	stream_close(b, 0);
	stream_close(c, -ECONNRESET);
}

static void on_drained(void *arg)
{
	tunnel_free(*(struct tunnel **)arg);
	*(struct tunnel **)arg = NULL;
}

static void drain_brings_the_last_words(void **state)
{
	(void)state;
	static char block[16384];
	struct tunnel *t = client((struct tunnel_options){ .keep_up = true });
	struct stream *s = tunnel_open(t, SLICE("{}"), TUNNEL_INTERACTIVE);
	struct stream *open = tunnel_open(t, SLICE("{}"), TUNNEL_INTERACTIVE);
	says_hello(s);
	says_hello(open);
	size_t put = 0, got = 0;
	ssize_t n;
	while ((n = stream_write(s, block, sizeof(block))) > 0)
		put += (size_t)n;
	assert_int_equal(-EAGAIN, n);
	assert_true(put >= 64 * 1024);
	stream_close(s, 0);
	tunnel_drain(t, on_drained, &t);
	struct stream *far = guest.conn[0]->opened[0];
	do {
		UNTIL((n = stream_read(far, block, sizeof(block))) != -EAGAIN);
		assert_true(n >= 0);
		got += (size_t)n;
	} while (n > 0);
	assert_int_equal(put, got);
	assert_non_null(t); /* one is open still */
	stream_close(guest.conn[0]->opened[1], 0);
	stream_close(far, 0);
	guest.conn[0]->nopened = 0;
	stream_close(open, 0);
	UNTIL(!t);
	assert_int_equal(0, guest.conn[0]->ended_code);

	guest.reply = NULL; /* a carrier that does not come up is not waited for */
	t = client((struct tunnel_options){ .keep_up = true });
	turn_once(rx);
	tunnel_drain(t, on_drained, &t);
	assert_non_null(t);
	UNTIL(!t);
}

static void advice_names_the_flags(void **state)
{
	(void)state;
	struct tunnel_options o = { .server = address(), .cert_file = "client.crt" };
	static const struct {
		int code;
		const char *prefix, *words;
	} cases[] = {
		{ -ERR_TLS_UNKNOWN_CA, "ts-", "--ts-ca FILE, or, for development only, skip the" },
		{ -ERR_TLS_UNKNOWN_CA, "", "with --ca FILE" },
		{ -ERR_TLS_CERT_REQUIRED, "ts-", "with --ts-cert FILE and --ts-key FILE" },
		{ -ERR_NOT_TLS, "ts-", "--ts-cert, --ts-key and --ts-ca" },
		{ -ERR_IS_TLS, "", "give --ca FILE (and --cert, --key), or" },
		{ -ERR_TLS_UNKNOWN_CA, NULL, "with ca=FILE, or, for development only, skip the" },
		{ -ERR_TLS_UNKNOWN_CA, NULL, "check with insecure=true" },
		{ -ERR_TLS_CERT_REQUIRED, NULL, "with cert=FILE and key=FILE" },
		{ -ERR_IS_TLS, NULL, "give ca=FILE (and cert=FILE, key=FILE), or" },
		{ -ERR_TLS_CERT_DENIED, NULL, "the server's --ca-certs must" },
		{ -ERR_DENIED, "ts-", "--allowed-cns" },
		{ -ECONNREFUSED, "ts-", "is guest running there" },
		{ -ERR_DNS_NOT_FOUND, "ts-", "check the name" },
	};
	char out[512];
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		tunnel_advice(cases[i].code, "it failed", cases[i].prefix, &o, out, sizeof(out));
		assert_memory_equal("it failed (server " HOST ":", out, 27);
		if (!strstr(out, cases[i].words))
			fail_msg("%s", out);
		assert_null(strchr(out, '%'));
	}
	o.cert_file = NULL; /* then it was not for the name in it */
	tunnel_advice(-ERR_DENIED, "it failed", "ts-", &o, out, sizeof(out));
	assert_null(strstr(out, "--allowed-cns"));
	char why[64];
	snprintf(why, sizeof(why), "dial tcp %s: oh", addr_text(&o.server));
	tunnel_advice(-EIO, why, "ts-", &o, out, sizeof(out));
	assert_string_equal(why, out); /* it names the server; nothing to advise */
	tunnel_advice(-ECONNREFUSED, why, "ts-", &o, out, 10);
	assert_int_equal(9, strlen(out));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(plain_works),
		T(refusals_are_told),
		T(tls_works),
		T(tls_where_none_was_asked_for),
		T(plain_where_tls_was_asked_for),
		T(bad_files_are_told),
		T(a_lost_carrier_is_redialled),
		T(changes_are_told),
		T(goaway_moves_new_streams_to_a_new_carrier),
		T(bulk_has_a_carrier_of_its_own),
		T(drain_brings_the_last_words),
		T(advice_names_the_flags),
	};
	return cmocka_run_group_tests(tests, make_certs, remove_certs);
}
