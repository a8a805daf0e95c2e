/* Our TLS streams against those of others: BoringSSL's SSL object, and openssl's s_client and
 * s_server. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

#include "reactor/err.h"
#include "reactor/tls_int.h"
#include "test/unit/tls_pair.h"
#include "test/unit/turn.h"

/* --- a peer that is BoringSSL's alone --- */

struct peer {
	SSL_CTX *ctx;
	SSL *ssl;
	int fd;
	int error; /* of the last call: SSL_get_error */
	int reason;
};

/* Labels "CLIENT_TRAFFIC_SECRET_0" and so on, as they come: what a test needs to seal for itself.
 */
static char key_log[4096];

static void on_key_log(const SSL *ssl, const char *line)
{
	(void)ssl;
	size_t n = strlen(key_log);
	snprintf(key_log + n, sizeof(key_log) - n, "%s\n", line);
}

static struct peer peer_new(bool server, int fd, uint16_t version)
{
	struct peer p = { .ctx = SSL_CTX_new(TLS_method()), .fd = fd };
	key_log[0] = '\0';
	SSL_CTX_set_keylog_callback(p.ctx, on_key_log);
	SSL_CTX_set_min_proto_version(p.ctx, version);
	SSL_CTX_set_max_proto_version(p.ctx, version);
	SSL_CTX_set_mode(p.ctx,
			 SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	if (server) {
		assert_int_equal(SSL_CTX_use_certificate_chain_file(p.ctx, tls_path("server.crt")),
				 1);
		assert_int_equal(
		    SSL_CTX_use_PrivateKey_file(p.ctx, tls_path("server.key"), SSL_FILETYPE_PEM),
		    1);
	}
	p.ssl = SSL_new(p.ctx);
	if (fd >= 0)
		SSL_set_fd(p.ssl, fd);
	if (server)
		SSL_set_accept_state(p.ssl);
	else
		SSL_set_connect_state(p.ssl);
	return p;
}

static void peer_free(struct peer *p)
{
	SSL_free(p->ssl);
	SSL_CTX_free(p->ctx);
	if (p->fd >= 0)
		close(p->fd);
}

/* The result of an SSL_ call: as a stream's verbs. -EPROTO: see p->reason. */
static ssize_t outcome(struct peer *p, int r)
{
	p->error = SSL_get_error(p->ssl, r);
	p->reason = ERR_GET_REASON(ERR_peek_error());
	ERR_clear_error();
	if (r > 0)
		return r;
	if (p->error == SSL_ERROR_ZERO_RETURN)
		return 0;
	return p->error == SSL_ERROR_WANT_READ || p->error == SSL_ERROR_WANT_WRITE ? -EAGAIN
										   : -EPROTO;
}

static ssize_t peer_read(struct peer *p, void *to, size_t n)
{
	return outcome(p, SSL_read(p->ssl, to, (int)n));
}

static ssize_t peer_write(struct peer *p, const void *from, size_t n)
{
	return outcome(p, SSL_write(p->ssl, from, (int)n));
}

/* Our end and the peer's, over a socket pair. The handshake is not done yet. */
struct match {
	struct stream *s;
	struct tls_stream *t;
	struct peer peer;
};

static struct match match_new(bool we_serve, uint16_t version, size_t most, uint64_t renew_after)
{
	int fd[2];
	char names[3][128];
	struct match m;
	socket_pair(fd);
	snprintf(names[0], 128, "%s/ca.crt", tls_dir);
	snprintf(names[1], 128, "%s/server.crt", tls_dir);
	snprintf(names[2], 128, "%s/server.key", tls_dir);
	struct tls_config *c = tls_any_config(
	    we_serve, (struct tls_options){ .ca_files = (const char *[]){ names[0] },
					    .n_ca = we_serve ? 0 : 1,
					    .cert_file = we_serve ? names[1] : NULL,
					    .key_file = we_serve ? names[2] : NULL,
					    .min_tls12 = version == TLS1_2_VERSION });
	c->renew_after = renew_after;
	struct stream *lower = choppy_new(fd_stream_new(rx, fd[0]), most, NULL);
	m.s = we_serve ? tls_server(c, lower) : tls_client(c, lower, HOST);
	m.t = container_of(m.s, struct tls_stream, s);
	tls_config_unref(c);
	stream_bind(m.s, &waker);
	m.peer = peer_new(!we_serve, fd[1], version);
	return m;
}

static void match_open(struct match *m)
{
	UNTIL(outcome(&m->peer, SSL_do_handshake(m->peer.ssl)) == 1 && stream_open_yet(m->s) == 0);
}

static struct match open_match(bool we_serve)
{
	struct match m = match_new(we_serve, TLS1_3_VERSION, 0, 0);
	match_open(&m);
	return m;
}

static void match_end(struct match *m)
{
	stream_close(m->s, 0);
	peer_free(&m->peer);
	tls_settle();
}

/* Until our end or the peer has something to say other than -EAGAIN. */
static ssize_t get(struct match *m, void *p, size_t n)
{
	ssize_t r;
	UNTIL((r = stream_read(m->s, p, n)) != -EAGAIN);
	return r;
}

static ssize_t peer_get(struct match *m, void *p, size_t n)
{
	ssize_t r;
	UNTIL((r = peer_read(&m->peer, p, n)) != -EAGAIN);
	return r;
}

/* --- data --- */

static unsigned char pattern(uint64_t i)
{
	return (unsigned char)((i * 2654435761u) >> 11);
}

static void check(const unsigned char *p, ssize_t n, uint64_t at)
{
	for (ssize_t i = 0; i < n; i++)
		assert_int_equal(p[i], pattern(at + (uint64_t)i));
}

/* total bytes each way at once, in random pieces; the peer changes its keys now and then and asks
 * us to; in the end each side closes and hears the other's close. */
static void exchange(struct match *m, uint64_t total, size_t most, bool updates)
{
	static unsigned char data[1 << 17];
	uint64_t sent = 0, got = 0, peer_sent = 0, peer_got = 0;
	size_t again = 0; /* SSL_write wants to be offered the same once more */
	bool ended = false, peer_ended = false, closed = false, peer_closed = false;
	match_open(m);
	while (!ended || !peer_ended) {
		size_t n = 1 + tls_chance() % most;
		n = MIN(n, total - sent);
		for (size_t i = 0; i < n; i++)
			data[i] = pattern(sent + i);
		ssize_t r = n ? stream_write(m->s, data, n) : -EAGAIN;
		assert_true(r > 0 || r == -EAGAIN);
		sent += r > 0 ? (uint64_t)r : 0;
		if (sent == total && !closed)
			closed = stream_shut(m->s) == 0;

		if (updates && peer_sent < total && !again && tls_chance() % 8 == 0)
			assert_int_equal(SSL_key_update(m->peer.ssl, tls_chance() & 1), 1);
		n = 1 + tls_chance() % most;
		n = again ? again : MIN(n, total - peer_sent);
		for (size_t i = 0; i < n; i++)
			data[i] = pattern(peer_sent + i);
		r = n ? peer_write(&m->peer, data, n) : -EAGAIN;
		assert_true(r > 0 || r == -EAGAIN);
		peer_sent += r > 0 ? (uint64_t)r : 0;
		again = r > 0 ? 0 : n;
		if (peer_sent == total && !peer_closed)
			peer_closed = SSL_shutdown(m->peer.ssl) >= 0;

		if (!ended) {
			r = stream_read(m->s, data, 1 + tls_chance() % most);
			assert_true(r >= 0 || r == -EAGAIN);
			check(data, r, got);
			got += r > 0 ? (uint64_t)r : 0;
			ended = r == 0;
		}
		if (!peer_ended) {
			r = peer_read(&m->peer, data, 1 + tls_chance() % most);
			assert_true(r >= 0 || r == -EAGAIN);
			check(data, r, peer_got);
			peer_got += r > 0 ? (uint64_t)r : 0;
			peer_ended = r == 0;
		}
		turn_once(rx);
	}
	assert_int_equal(got, total);
	assert_int_equal(peer_got, total);
	match_end(m);
}

static void test_exchange(void **state)
{
	(void)state;
	tls_seed = 3;
	for (int round = 0; round < 24; round++) {
		struct match m =
		    match_new(round & 1, TLS1_3_VERSION, round & 2 ? 1 + tls_chance() % 20000 : 0,
			      round & 4 ? 1 + tls_chance() % 20 : 0);
		size_t most = round % 3 ? 1 + tls_chance() % 100000 : 1 + tls_chance() % 300;
		exchange(&m, tls_chance() % (most * 16), most, round & 8);
	}
	struct match m = match_new(true, TLS1_3_VERSION, 3, 1);
	exchange(&m, 3000, 100, true);
}

static void test_tls12(void **state)
{
	(void)state;
	tls_seed = 4;
	for (int round = 0; round < 6; round++) {
		struct match m = match_new(round & 1, TLS1_2_VERSION,
					   round & 2 ? 1 + tls_chance() % 20000 : 0, 0);
		match_open(&m);
		assert_non_null(m.t->ssl);
		assert_memory_equal(tls_session_text(m.s), "TLSv1.2 ", 8);
		exchange(&m, tls_chance() % 300000, 1 + tls_chance() % 100000, false);
	}
	/* Without the flag there is no 1.2. */
	struct match m = match_new(true, TLS1_3_VERSION, 0, 0);
	peer_free(&m.peer);
	stream_close(m.s, 0);
	int fd[2];
	socket_pair(fd);
	struct tls_config *c = tls_server_config(NULL, "server");
	m.s = tls_server(c, fd_stream_new(rx, fd[0]));
	tls_config_unref(c);
	stream_bind(m.s, &waker);
	m.peer = peer_new(false, fd[1], TLS1_2_VERSION);
	ssize_t r;
	UNTIL((r = outcome(&m.peer, SSL_do_handshake(m.peer.ssl))) != -EAGAIN);
	assert_int_equal(r, -EPROTO);
	assert_int_equal(m.peer.reason, SSL_R_TLSV1_ALERT_PROTOCOL_VERSION);
	match_end(&m);
}

/* --- where the handshake ends and data begins --- */

/* The client's first data, and its close, arrive together with its Finished. */
static void test_data_with_client_finished(void **state)
{
	(void)state;
	struct match m = match_new(true, TLS1_3_VERSION, 0, 0);
	char in[16];
	UNTIL(outcome(&m.peer, SSL_do_handshake(m.peer.ssl)) == 1);
	assert_int_equal(peer_write(&m.peer, "first", 5), 5); /* no turn between */
	assert_int_equal(peer_write(&m.peer, "second", 6), 6);
	SSL_shutdown(m.peer.ssl);
	assert_int_equal(tls_session_text(m.s)[0], '\0'); /* we have not seen its Finished yet */
	assert_int_equal(get(&m, in, sizeof(in)), 11);
	assert_memory_equal(in, "firstsecond", 11);
	assert_int_equal(get(&m, in, sizeof(in)), 0);
	match_end(&m);
}

/* The secret that the key log names. */
static void logged_secret(const char *label, uint8_t out[48])
{
	const char *p = strstr(key_log, label);
	assert_non_null(p);
	p = strchr(strchr(p, ' ') + 1, ' ') + 1;
	for (size_t i = 0; p[2 * i] != '\n'; i++) {
		char pair[3] = { p[2 * i], p[2 * i + 1], 0 };
		out[i] = (uint8_t)strtoul(pair, NULL, 16);
	}
}

/* The server's first data right behind its own Finished, before it has heard ours (0.5-RTT data,
 * RFC 8446 section 2): BoringSSL cannot do that, so the record is of our own making. */
static void test_data_with_server_finished(void **state)
{
	(void)state;
	static const uint16_t cipher = 0x1301;
	struct records half = { .server = true };
	struct match m = match_new(false, TLS1_3_VERSION, 0, 0);
	char flight[8192], in[16];
	BIO *to = BIO_new(BIO_s_mem());
	BIO_up_ref(to);
	SSL_set0_wbio(m.peer.ssl, to);
	UNTIL(outcome(&m.peer, SSL_do_handshake(m.peer.ssl)) == -EAGAIN && BIO_pending(to) > 0);
	int n = BIO_read(to, flight, 4096);
	assert_true(n > 500);
	logged_secret("SERVER_TRAFFIC_SECRET_0", half.out.secret);
	assert_int_equal(records_start(&half, cipher, true, 0, 0), 0);
	struct iovec early = { (void *)(uintptr_t) "early", 5 };
	struct record_source source = { &early, 1, 0 };
	n += (int)record_seal(&half, RECORD_DATA, &source, flight + n);
	assert_int_equal(write(m.peer.fd, flight, (size_t)n), n);
	assert_int_equal(get(&m, in, sizeof(in)), 5);
	assert_memory_equal(in, "early", 5);
	assert_string_equal(tls_session_text(m.s), "TLSv1.3 TLS_AES_128_GCM_SHA256");
	assert_null(m.t->ssl); /* it is of no use any more */
	records_end(&half);
	BIO_free(to);
	match_end(&m);
}

/* --- what others say --- */

static void test_peer_alert(void **state)
{
	(void)state;
	for (int we_serve = 0; we_serve < 2; we_serve++) {
		struct match m = open_match(we_serve);
		char in[16];
		assert_int_equal(peer_write(&m.peer, "last", 4), 4);
		SSL_send_fatal_alert(m.peer.ssl, SSL_AD_INTERNAL_ERROR);
		assert_int_equal(get(&m, in, sizeof(in)), 4);
		tls_expect_why(m.s, get(&m, in, sizeof(in)), ERR_TLS,
			       "remote error: tls: internal error");
		assert_int_equal(stream_write(m.s, "x", 1), -ERR_TLS);
		match_end(&m);
	}
}

/* A record spoilt on its way to us: we say which rule it broke, and so does the peer. */
static void spoil(const char *record, size_t n, const char *why, int reason)
{
	for (int we_serve = 0; we_serve < 2; we_serve++) {
		struct match m = open_match(we_serve);
		char in[16];
		assert_int_equal(peer_write(&m.peer, "good", 4), 4);
		assert_int_equal(write(m.peer.fd, record, n), (ssize_t)n);
		assert_int_equal(get(&m, in, sizeof(in)), 4);
		tls_expect_why(m.s, get(&m, in, sizeof(in)), ERR_TLS, why);
		stream_close(m.s, -ERR_TLS);
		assert_int_equal(peer_get(&m, in, sizeof(in)), -EPROTO);
		assert_int_equal(m.peer.reason, reason);
		peer_free(&m.peer);
		tls_settle();
	}
}

static void test_spoilt(void **state)
{
	(void)state;
	static const char junk[64] = { 23, 3, 3, 0, 59 };
	spoil(junk, 64, "tls: decryption failed or bad record mac",
	      SSL_R_SSLV3_ALERT_BAD_RECORD_MAC);
	spoil("\x17\x03\x03\x41\x01", 5, "tls: encrypted length too long",
	      SSL_R_TLSV1_ALERT_RECORD_OVERFLOW);
	spoil("\x16\x03\x03", 3, "tls: unexpected record", SSL_R_SSLV3_ALERT_UNEXPECTED_MESSAGE);
	spoil("\x14\x03\x03\x00\x01\x01", 6, "tls: unexpected record",
	      SSL_R_SSLV3_ALERT_UNEXPECTED_MESSAGE);
}

static void test_cut(void **state)
{
	(void)state;
	for (int cut = 0; cut < 40; cut += 13) { /* between records, in a header, in a body */
		struct match m = open_match(cut & 1);
		char in[64];
		static const char record[40] = { 23, 3, 3, 0, 99 };
		assert_int_equal(peer_write(&m.peer, "good", 4), 4);
		assert_int_equal(write(m.peer.fd, record, (size_t)cut), cut);
		assert_int_equal(shutdown(m.peer.fd, SHUT_WR), 0);
		assert_int_equal(get(&m, in, sizeof(in)), 4);
		tls_expect_why(m.s, get(&m, in, sizeof(in)), ERR_TRUNCATED, "unexpected EOF");
		match_end(&m);
	}
}

/* A peer that asks for new keys all the time and never reads the answers. */
static void test_greedy_peer(void **state)
{
	(void)state;
	struct match m = open_match(true);
	static char block[100000];
	char in[16];
	ssize_t r;
	UNTIL((r = stream_write(m.s, block, sizeof(block))) == -EAGAIN); /* it reads none of it */
	size_t full = m.t->out.len;
	for (int i = 0; i < 2000; i++) {
		assert_int_equal(SSL_key_update(m.peer.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
		assert_int_equal(peer_write(&m.peer, "x", 1), 1);
		assert_int_equal(get(&m, in, sizeof(in)), 1);
	}
	assert_int_equal(m.t->out.len, full);
	assert_true(record_renewal_due(&m.t->records));
	/* It reads at last: what was under way, then one answer, then data under the new key. */
	UNTIL((r = peer_read(&m.peer, block, sizeof(block))) == -EAGAIN &&
	      !record_renewal_due(&m.t->records));
	assert_int_equal(m.t->records.out.seq, 0);
	assert_int_equal(stream_write(m.s, "new", 3), 3);
	assert_int_equal(peer_get(&m, in, sizeof(in)), 3);
	assert_memory_equal(in, "new", 3);
	match_end(&m);
}

/* --- openssl --- */

struct tool {
	pid_t pid;
	int in, out; /* its stdin; its stdout and stderr */
	char said[65536];
	size_t n;
};

static void tool_start(struct tool *o, const char *command)
{
	int in[2], out[2];
	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	o->n = 0;
	o->pid = fork();
	if (o->pid == 0) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		dup2(out[1], 2);
		execl("/bin/sh", "sh", "-c", command, (char *)NULL);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	o->in = in[1];
	o->out = out[0];
	fcntl(o->out, F_SETFL, O_NONBLOCK);
}

/* Has it printed text? What came before text is forgotten. */
static bool says(struct tool *o, const char *text)
{
	ssize_t n = read(o->out, o->said + o->n, sizeof(o->said) - 1 - o->n);
	o->n += n > 0 ? (size_t)n : 0;
	o->said[o->n] = '\0';
	char *at = memmem(o->said, o->n, text, strlen(text));
	if (!at)
		return false;
	at += strlen(text);
	o->n -= (size_t)(at - o->said);
	memmove(o->said, at, o->n);
	return true;
}

static void tell(struct tool *o, const char *text)
{
	assert_int_equal(write(o->in, text, strlen(text)), (ssize_t)strlen(text));
}

static void tool_end(struct tool *o)
{
	kill(o->pid, SIGKILL);
	waitpid(o->pid, NULL, 0);
	close(o->in);
	close(o->out);
}

static void expect_line(struct match *m, const char *line)
{
	char in[64];
	size_t n = 0;
	while (n < strlen(line)) {
		ssize_t r = get(m, in + n, sizeof(in) - n);
		assert_true(r > 0);
		n += (size_t)r;
	}
	assert_int_equal(n, strlen(line));
	assert_memory_equal(in, line, n);
}

static const char *const suite_names[] = { "TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384",
					   "TLS_CHACHA20_POLY1305_SHA256" };

static int unix_socket(struct sockaddr_un *a)
{
	*a = (struct sockaddr_un){ .sun_family = AF_UNIX };
	snprintf(a->sun_path, sizeof(a->sun_path), "%s/socket", tls_dir);
	return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

/* s_client, or s_server (which sends session tickets), with one cipher. */
static struct match openssl_match(struct tool *o, bool we_serve, const char *suite)
{
	struct sockaddr_un a;
	struct match m = { .s = NULL };
	struct tls_config *c =
	    we_serve ? tls_server_config(NULL, "server") : tls_client_config("ca", NULL);
	char command[512];
	int fd = unix_socket(&a);
	unlink(a.sun_path);
	c->renew_after = 2;
	if (we_serve) {
		assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
		assert_int_equal(listen(fd, 1), 0);
		snprintf(command, sizeof(command),
			 "exec openssl s_client -unix %s -ciphersuites %s 2>&1", a.sun_path, suite);
		tool_start(o, command);
		int accepted = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		close(fd);
		m.s = tls_server(c, fd_stream_new(rx, accepted));
	} else {
		snprintf(command, sizeof(command),
			 "exec openssl s_server -unix %s -naccept 1 -cert %s/server.crt -key "
			 "%s/server.key -ciphersuites %s 2>&1",
			 a.sun_path, tls_dir, tls_dir, suite);
		tool_start(o, command);
		UNTIL(connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
		fcntl(fd, F_SETFL, O_NONBLOCK);
		m.s = tls_client(c, fd_stream_new(rx, fd), HOST);
	}
	m.t = container_of(m.s, struct tls_stream, s);
	tls_config_unref(c);
	stream_bind(m.s, &waker);
	return m;
}

static void test_openssl(void **state)
{
	(void)state;
	struct tool o;
	char in[8], secret[48];
	if (tls_shell("openssl version >/dev/null") != 0)
		skip();
	for (size_t i = 0; i < 2 * ARRAY_LEN(suite_names); i++) {
		bool we_serve = i & 1;
		struct match m = openssl_match(&o, we_serve, suite_names[i / 2]);
		UNTIL(stream_open_yet(m.s) == 0);
		assert_non_null(strstr(tls_session_text(m.s), suite_names[i / 2]));
		if (!we_serve) /* until the handshake is over its input is not read */
			UNTIL(says(&o, "CIPHER is"));
		for (int round = 0; round < 3; round++) {
			tell(&o, "from openssl\n");
			expect_line(&m, "from openssl\n");
			if (round > 0)
				assert_memory_not_equal(secret, m.t->records.in.secret, 32);
			for (int k = 0; k < 5; k++) { /* new keys of ours among them */
				assert_int_equal(stream_write(m.s, "ours", 4), 4);
				UNTIL(says(&o, "ours"));
			}
			assert_int_equal(stream_write(m.s, "\n", 1), 1);
			/* New keys; K: and of ours, too. s_client sends that with its next line. */
			memcpy(secret, m.t->records.in.secret, sizeof(secret));
			tell(&o, round & 1 ? "k\n" : "K\n");
			UNTIL(we_serve ? says(&o, "KEYUPDATE")
				       : stream_read(m.s, in, sizeof(in)) == -EAGAIN &&
					     memcmp(secret, m.t->records.in.secret, 32) != 0);
		}
		if (we_serve) /* each side closes first, once */
			tell(&o, "Q\n");
		else
			assert_int_equal(stream_shut(m.s), 0);
		assert_int_equal(get(&m, in, sizeof(in)), 0);
		stream_close(m.s, 0);
		tool_end(&o);
		tls_settle();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_exchange),
		cmocka_unit_test(test_tls12),
		cmocka_unit_test(test_data_with_client_finished),
		cmocka_unit_test(test_data_with_server_finished),
		cmocka_unit_test(test_peer_alert),
		cmocka_unit_test(test_spoilt),
		cmocka_unit_test(test_cut),
		cmocka_unit_test(test_greedy_peer),
		cmocka_unit_test(test_openssl),
	};
	alarm(100);
	return cmocka_run_group_tests(tests, tls_setup, tls_teardown);
}
