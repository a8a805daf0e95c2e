/*
 * TLS streams. BoringSSL reads records from t->in and writes them to t->out through a BIO of ours;
 * between these and the lower stream bytes move in large pieces, many records per system call.
 */
#include "reactor/tls.h"

#include <arpa/inet.h>
#include <errno.h>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pool.h>
#include <openssl/ssl.h>

#include "reactor/buf.h"
#include "reactor/err.h"
#include "reactor/tls_cert.h"
#include "reactor/tls_config.h"
#include "reactor/tls_trust.h"

enum {
	RECORD = 16384,
	RECORD_ROOM = RECORD + 256, /* sealed, with any cipher */
	SMALL_ROOM = 1024,          /* close_notify, an alert, a key update */
	BATCH = 7 * RECORD_ROOM,    /* sealed before they are sent; fits a block of 128 KiB */
	OUT_MAX = 256 * 1024,       /* a flight of handshake messages must fit, too */
	IN_MIN = 16 * 1024,
	IN_MAX = 128 * 1024,
	CLOSE_MS = 5000,
	LINGER_MS = 2000,
};

enum tls_state { TLS_HANDSHAKE = 0, TLS_OPEN, TLS_FAILED, TLS_CLOSING };

struct tls_stream {
	struct stream s;
	struct stream *lower;
	struct tls_config *config;
	SSL *ssl;
	char *host;       /* client: the name to verify */
	struct task task; /* bound to lower */
	struct task *owner;
	struct timer timer; /* handshake limit, then close limit */
	struct buf in, out; /* sealed bytes */
	size_t chunk;       /* size of the next read from lower */
	enum tls_state state;
	int code;        /* TLS_FAILED */
	int read_code;   /* lower's, sticky */
	int write_code;  /* lower's, sticky */
	bool lower_eof;  /* end of lower stream */
	bool in_checked; /* the first byte was a TLS record's */
	bool not_tls;    /* it was not */
	bool cert_asked; /* client: the server sent a CertificateRequest */
	bool got_data;   /* application data came: the peer accepted us */
	bool shut;       /* close_notify written */
	bool parting;    /* failed with an alert for the peer, who should get to read it */
	char *why;
	char *session;
	char *names; /* what peer points into */
	struct tls_peer peer;
	bool has_peer;
	/* The verdict of the verify callback: */
	int cert_code;
	char *cert_why;
};

static const struct stream_ops tls_ops;

static struct tls_stream *self(struct stream *s)
{
	return container_of(s, struct tls_stream, s);
}

/* --- errors --- */

static const char doing[] = "failed to establish TLS connection: ";

/* The first failure stays. why is taken. */
static int fail(struct tls_stream *t, int code, char *why)
{
	if (t->state == TLS_FAILED) {
		free(why);
		return t->code;
	}
	t->state = TLS_FAILED;
	t->code = code;
	t->why = why;
	timer_clear(t->s.rx, &t->timer);
	return code;
}

static bool is_about_certificate(int alert)
{
	switch (alert) {
	case SSL_AD_NO_CERTIFICATE:
	case SSL_AD_BAD_CERTIFICATE:
	case SSL_AD_UNSUPPORTED_CERTIFICATE:
	case SSL_AD_CERTIFICATE_REVOKED:
	case SSL_AD_CERTIFICATE_EXPIRED:
	case SSL_AD_CERTIFICATE_UNKNOWN:
	case SSL_AD_UNKNOWN_CA:
	case SSL_AD_ACCESS_DENIED:
	case SSL_AD_DECRYPT_ERROR:
	case SSL_AD_CERTIFICATE_REQUIRED:
		return true;
	default:
		return false;
	}
}

static int fail_alert(struct tls_stream *t, int alert)
{
	const char *text = SSL_alert_desc_string_long(alert);
	bool server = t->config->server, refused = is_about_certificate(alert) && !t->got_data;
	if (!server && !t->config->has_cert && t->cert_asked &&
	    (refused || (alert == SSL_AD_HANDSHAKE_FAILURE && !t->got_data)))
		return fail(t, -ERR_TLS_CERT_REQUIRED,
			    xasprintf("%sthe server requires a client certificate", doing));
	if (!server && refused && t->cert_asked)
		return fail(
		    t, -ERR_TLS_CERT_DENIED,
		    xasprintf("%sthe server refused the client certificate: %s", doing, text));
	if (server && refused && t->state == TLS_HANDSHAKE)
		return fail(t, -ERR_TLS_CERT_DENIED,
			    xasprintf("the client does not accept our certificate: %s", text));
	if (alert == SSL_AD_PROTOCOL_VERSION)
		return fail(t, -ERR_TLS,
			    xasprintf("%sremote error: tls: protocol version not supported",
				      server ? "" : doing));
	return fail(t, -ERR_TLS,
		    xasprintf("%sremote error: tls: %s",
			      t->state == TLS_HANDSHAKE && !server ? doing : "", text));
}

static int fail_not_tls(struct tls_stream *t)
{
	bool server = t->config->server;
	struct slice got = buf_data(&t->in), http = SLICE("HTTP/");
	char first = got.p[0];
	http.n = MIN(http.n, got.n);
	if (server && first >= 'A' && first <= 'Z')
		return fail(t, -ERR_NOT_TLS,
			    xasprintf("client sent an HTTP request to a TLS server"));
	if (!server && slice_starts(got, http))
		return fail(t, -ERR_NOT_TLS,
			    xasprintf("%sserver gave HTTP response to TLS client", doing));
	return fail(t, -ERR_NOT_TLS,
		    xasprintf("%stls: first record does not look like a TLS handshake",
			      server ? "" : doing));
}

static int fail_lower(struct tls_stream *t, int code)
{
	bool handshake = t->state == TLS_HANDSHAKE;
	const char *why = stream_why(t->lower, code);
	return fail(t, code,
		    handshake && why == err_text(code) && !t->config->server
			? xasprintf("%s%s", doing, why)
			: xstrdup(why));
}

/* Names what BoringSSL (or the lower stream under it) stumbled over. */
static int fail_ssl(struct tls_stream *t)
{
	bool server = t->config->server, handshake = t->state == TLS_HANDSHAKE;
	uint32_t e = ERR_peek_error();
	int reason = ERR_GET_REASON(e);
	if (t->not_tls) {
		static const char alert[] = { 21, 3, 1, 0, 2, 2, SSL_AD_UNEXPECTED_MESSAGE };
		fail_not_tls(t);
		if (server)
			buf_put(&t->out, slice_of(alert, sizeof(alert)));
	} else if (ERR_GET_LIB(e) == ERR_LIB_SSL && reason >= SSL_AD_REASON_OFFSET) {
		return fail_alert(t, reason - SSL_AD_REASON_OFFSET);
	} else if (e == 0 && t->read_code < 0) {
		return fail_lower(t, t->read_code);
	} else if (e == 0) { /* end of lower, or close_notify instead of a handshake */
		return fail(t, -ERR_TRUNCATED,
			    handshake ? xasprintf("%sEOF (the %s closed the connection during the "
						  "handshake)",
						  server ? "" : doing, server ? "client" : "server")
				      : xasprintf("unexpected EOF (connection cut: end of stream "
						  "without TLS close_notify)"));
	} else if (t->cert_code < 0) {
		fail(t, t->cert_code,
		     xasprintf("%s%s", server ? "client certificate: " : doing, t->cert_why));
	} else if (reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE) {
		fail(t, -ERR_TLS_CERT_REQUIRED, xasprintf("client sent no certificate"));
	} else if (reason == SSL_R_UNSUPPORTED_PROTOCOL) {
		fail(t, -ERR_TLS,
		     xasprintf("%stls: the %s does not offer a TLS version that is allowed here",
			       server ? "" : doing, server ? "client" : "server"));
	} else {
		const char *text = ERR_reason_error_string(e);
		char *why = xasprintf("%stls: %s", handshake && !server ? doing : "",
				      text ? text : "protocol failure");
		for (char *p = strstr(why, "tls: ") + 5; *p; p++)
			*p = *p == '_' ? ' ' : (char)(*p >= 'A' && *p <= 'Z' ? *p + 32 : *p);
		fail(t, -ERR_TLS, why);
	}
	t->parting = true;
	return t->code;
}

/* --- between the lower stream and BoringSSL --- */

/* Sends what is sealed: 0, -EAGAIN or lower's code. */
static int flush(struct tls_stream *t)
{
	while (t->out.len > 0 && t->write_code == 0) {
		struct slice data = buf_data(&t->out);
		ssize_t n = stream_write(t->lower, data.p, data.n);
		if (n == -EAGAIN)
			return -EAGAIN;
		if (n < 0) {
			t->write_code = (int)n;
			buf_end(&t->out);
		} else {
			buf_drop(&t->out, (size_t)n);
		}
	}
	return t->write_code;
}

/* Reads from lower into the empty t->in; larger pieces as long as they come full. */
static ssize_t fill(struct tls_stream *t)
{
	struct iovec room = buf_room_for(&t->in, t->chunk);
	room.iov_len = MIN(room.iov_len, t->chunk);
	ssize_t n = stream_read(t->lower, room.iov_base, room.iov_len);
	buf_added(&t->in, n > 0 ? (size_t)n : 0);
	if (n == (ssize_t)t->chunk)
		t->chunk = MIN(2 * t->chunk, IN_MAX);
	else if (n > 0 && (size_t)n < t->chunk / 4)
		t->chunk = MAX(t->chunk / 2, IN_MIN);
	return n;
}

static int bio_read(BIO *bio, char *out, int want)
{
	struct tls_stream *t = BIO_get_data(bio);
	BIO_clear_retry_flags(bio);
	if (t->in.len == 0) {
		if (t->lower_eof || t->read_code < 0)
			return t->lower_eof ? 0 : -1;
		ssize_t n = fill(t);
		if (n == -EAGAIN) {
			BIO_set_retry_read(bio);
			return -1;
		}
		if (n <= 0) {
			t->lower_eof = n == 0;
			t->read_code = (int)n;
			return n == 0 ? 0 : -1;
		}
	}
	struct slice data = buf_data(&t->in);
	if (!t->in_checked) { /* RFC 8446 section 5.1: alert or handshake comes first */
		t->in_checked = true;
		t->not_tls = data.p[0] != 21 && data.p[0] != 22;
	}
	if (t->not_tls)
		return -1;
	size_t n = MIN((size_t)want, data.n);
	memcpy(out, data.p, n);
	buf_drop(&t->in, n);
	return (int)n;
}

static int bio_write(BIO *bio, const char *p, int n)
{
	struct tls_stream *t = BIO_get_data(bio);
	BIO_clear_retry_flags(bio);
	if (buf_put(&t->out, slice_of(p, (size_t)n)) == 0)
		return n;
	BIO_set_retry_write(bio);
	return -1;
}

static long bio_ctrl(BIO *bio, int cmd, long num, void *ptr)
{
	(void)bio, (void)num, (void)ptr;
	return cmd == BIO_CTRL_FLUSH;
}

static BIO *bio_new(struct tls_stream *t)
{
	static BIO_METHOD *method;
	if (!method) {
		method = BIO_meth_new(0, "tls_stream");
		BIO_meth_set_read(method, bio_read);
		BIO_meth_set_write(method, bio_write);
		BIO_meth_set_ctrl(method, bio_ctrl);
	}
	BIO *bio = BIO_new(method);
	BIO_set_data(bio, t);
	BIO_set_init(bio, 1);
	return bio;
}

/* --- handshake --- */

static void keep_peer(struct tls_stream *t, CRYPTO_BUFFER *leaf)
{
	struct cert c;
	if (cert_parse(&c, slice_of(CRYPTO_BUFFER_data(leaf), CRYPTO_BUFFER_len(leaf))) < 0)
		c = (struct cert){ .ca = false };
	struct slice id = cert_spiffe_id(&c);
	char *subject = trust_subject(leaf);
	free(t->names);
	t->names =
	    xasprintf("%.*s%c%.*s%c%s", SLICE_FMT(c.common_name), 0, SLICE_FMT(id), 0, subject);
	free(subject);
	t->peer.common_name = t->names;
	t->peer.spiffe_id = t->names + c.common_name.n + 1;
	t->peer.subject = t->peer.spiffe_id + id.n + 1;
	t->peer.verified = !t->config->insecure;
	t->has_peer = true;
}

static uint8_t alert_for(int code)
{
	switch (-code) {
	case ERR_TLS_UNKNOWN_CA:
		return SSL_AD_UNKNOWN_CA;
	case ERR_TLS_EXPIRED:
	case ERR_TLS_NOT_YET:
		return SSL_AD_CERTIFICATE_EXPIRED;
	default:
		return SSL_AD_BAD_CERTIFICATE;
	}
}

static enum ssl_verify_result_t on_verify(SSL *ssl, uint8_t *out_alert)
{
	struct tls_stream *t = SSL_get_app_data(ssl);
	const STACK_OF(CRYPTO_BUFFER) *chain = SSL_get0_peer_certificates(ssl);
	char why[2048];
	keep_peer(t, sk_CRYPTO_BUFFER_value(chain, 0));
	if (t->config->insecure)
		return ssl_verify_ok;
	t->cert_code =
	    trust_verify(t->config->roots, chain, !t->config->server, t->host, why, sizeof(why));
	if (t->cert_code == 0)
		return ssl_verify_ok;
	t->cert_why = xstrdup(why);
	*out_alert = alert_for(t->cert_code);
	return ssl_verify_invalid;
}

static int on_cert_asked(SSL *ssl, void *arg)
{
	(void)arg;
	struct tls_stream *t = SSL_get_app_data(ssl);
	t->cert_asked = true;
	return 1;
}

static void handshake(struct tls_stream *t)
{
	int r = SSL_do_handshake(t->ssl);
	int why = SSL_get_error(t->ssl, r);
	flush(t);
	if (r != 1 && why == SSL_ERROR_WANT_READ && t->write_code < 0) {
		/* Perhaps they said why before they hung up. */
		r = SSL_do_handshake(t->ssl);
		why = SSL_get_error(t->ssl, r);
		if (why == SSL_ERROR_WANT_READ)
			fail_lower(t, t->write_code);
	}
	if (r == 1) {
		t->state = TLS_OPEN;
		timer_clear(t->s.rx, &t->timer);
	} else if (why == SSL_ERROR_WANT_WRITE) {
		if (t->out.len == 0) /* the flight was larger than t->out */
			task_wake(t->s.rx, &t->task);
	} else if (why != SSL_ERROR_WANT_READ) {
		fail_ssl(t);
		flush(t);
	}
}

/* --- verbs --- */

/* The lower stream does not take our bytes any more. If it refused us, the reason may be waiting to
 * be read: in TLS 1.3 a client's certificate is judged after its handshake is done. */
static int fail_write(struct tls_stream *t)
{
	char byte;
	if (t->state != TLS_OPEN || t->got_data)
		return t->write_code;
	int r = SSL_peek(t->ssl, &byte, 1);
	if (r <= 0 && SSL_get_error(t->ssl, r) == SSL_ERROR_SSL)
		return fail_ssl(t);
	return t->write_code;
}

static ssize_t tls_read(struct stream *s, const struct iovec *iov, int n)
{
	struct tls_stream *t = self(s);
	if (t->state != TLS_OPEN)
		return t->state == TLS_FAILED ? t->code : -EAGAIN;
	size_t total = 0;
	int r = 0;
	for (int i = 0; i < n; i++) {
		size_t off = 0;
		while (off < iov[i].iov_len) {
			int want = (int)MIN(iov[i].iov_len - off, 1u << 30);
			r = SSL_read(t->ssl, (char *)iov[i].iov_base + off, want);
			if (r <= 0 && total > 0)
				return (ssize_t)total; /* the next call says why */
			if (r <= 0)
				goto stopped;
			t->got_data = true;
			off += (size_t)r;
			total += (size_t)r;
		}
	}
	return (ssize_t)total;
stopped:
	switch (SSL_get_error(t->ssl, r)) {
	case SSL_ERROR_ZERO_RETURN:
		return 0;
	case SSL_ERROR_WANT_READ:
	case SSL_ERROR_WANT_WRITE:
		return t->write_code < 0 ? t->write_code : -EAGAIN;
	default:
		fail_ssl(t);
		flush(t);
		return t->code;
	}
}

/* The next piece of at most one record: straight from the caller's memory, or small pieces
 * gathered so that they share a record. */
static struct slice next_piece(const struct iovec **iov, int *n, size_t *off, char *gather)
{
	size_t used = 0;
	while (*n > 0 && used < RECORD) {
		struct slice rest = slice_of((*iov)->iov_base, (*iov)->iov_len);
		if (*off)
			rest = slice_after(rest, *off);
		size_t left = rest.n, take = MIN(left, RECORD - used);
		bool alone = used == 0 && (left >= RECORD || *n == 1);
		if (!alone && take)
			memcpy(gather + used, rest.p, take);
		used += take;
		*off += take;
		if (take == left) {
			*off = 0;
			++*iov;
			--*n;
		}
		if (alone)
			return slice_of(rest.p, take);
	}
	return slice_of(gather, used);
}

static ssize_t tls_write(struct stream *s, const struct iovec *iov, int n)
{
	struct tls_stream *t = self(s);
	if (t->state != TLS_OPEN)
		return t->state == TLS_FAILED ? t->code : -EAGAIN;
	if (t->write_code < 0)
		return fail_write(t);
	if (n == 0)
		return 0;
	if (t->shut)
		return -EPIPE;
	int r = flush(t);
	if (r < 0)
		return r == -EAGAIN ? r : fail_write(t);

	char gather[RECORD];
	size_t total = 0, off = 0, offered = 0;
	for (int i = 0; i < n; i++)
		offered += iov[i].iov_len;
	while (total < offered && r == 0) {
		size_t left = offered - total;
		buf_room_for(&t->out, MIN(left + left / RECORD * 32 + SMALL_ROOM, BATCH));
		while (total < offered && t->out.len + RECORD_ROOM <= BATCH) {
			struct slice piece = next_piece(&iov, &n, &off, gather);
			int put = SSL_write(t->ssl, piece.p, (int)piece.n);
			if (put <= 0)
				return fail_ssl(t);
			total += (size_t)put;
		}
		r = flush(t);
	}
	return total > 0 ? (ssize_t)total : 0;
}

static int tls_shut(struct stream *s)
{
	struct tls_stream *t = self(s);
	if (t->state != TLS_OPEN)
		return t->state == TLS_FAILED ? t->code : -EAGAIN;
	if (t->write_code < 0)
		return fail_write(t);
	if (!t->shut) {
		t->shut = true;
		SSL_shutdown(t->ssl);
	}
	int r = flush(t);
	return r < 0 && r != -EAGAIN ? fail_write(t) : r;
}

static void tls_bind(struct stream *s, struct task *owner)
{
	struct tls_stream *t = self(s);
	t->owner = owner;
	if (owner && t->state != TLS_HANDSHAKE)
		task_wake(s->rx, owner);
}

static const char *tls_why(struct stream *s)
{
	struct tls_stream *t = self(s);
	if (t->state == TLS_FAILED)
		return t->why;
	return t->lower->ops->why ? t->lower->ops->why(t->lower) : NULL;
}

static void end(struct tls_stream *t, int why)
{
	stream_close(t->lower, why);
	task_cancel(&t->task);
	timer_clear(t->s.rx, &t->timer);
	SSL_free(t->ssl);
	tls_config_unref(t->config);
	buf_end(&t->in);
	buf_end(&t->out);
	free(t->host);
	free(t->why);
	free(t->session);
	free(t->names);
	free(t->cert_why);
	free(t);
}

/* All is sent. Closing a socket over unread bytes would reset it, and our last words with it. */
static void end_lingering(struct tls_stream *t)
{
	bool peer_ended = t->lower_eof || SSL_get_shutdown(t->ssl) & SSL_RECEIVED_SHUTDOWN;
	if (!peer_ended && t->write_code == 0) {
		stream_linger(t->lower, LINGER_MS);
		t->lower = NULL;
	}
	end(t, 0);
}

static void tls_close(struct stream *s, int why)
{
	struct tls_stream *t = self(s);
	t->owner = NULL;
	if (t->state == TLS_FAILED && t->parting) {
		if (flush(t) == 0)
			end_lingering(t);
		else
			end(t, t->code);
		return;
	}
	if (why < 0 || t->state != TLS_OPEN) {
		end(t, why);
		return;
	}
	int r = tls_shut(s);
	if (r == -EAGAIN) {
		t->state = TLS_CLOSING;
		timer_set(s->rx, &t->timer, CLOSE_MS);
	} else if (r < 0) {
		end(t, r);
	} else {
		end_lingering(t);
	}
}

static const struct stream_ops tls_ops = {
	.name = "tls",
	.read = tls_read,
	.write = tls_write,
	.shut = tls_shut,
	.close = tls_close,
	.bind = tls_bind,
	.why = tls_why,
};

/* --- the stream's own task --- */

static void run(struct task *task)
{
	struct tls_stream *t = container_of(task, struct tls_stream, task);
	if (t->state == TLS_HANDSHAKE) {
		handshake(t);
		if (t->state == TLS_HANDSHAKE)
			return;
	}
	int r = flush(t);
	if (t->state == TLS_CLOSING) {
		if (r == 0)
			end_lingering(t);
		else if (r != -EAGAIN)
			end(t, r);
		return;
	}
	if (t->owner)
		task_wake(t->s.rx, t->owner);
}

static void too_late(struct timer *timer)
{
	struct tls_stream *t = container_of(timer, struct tls_stream, timer);
	if (t->state == TLS_CLOSING) {
		end(t, -ETIMEDOUT);
		return;
	}
	fail(t, -ETIMEDOUT, xasprintf("%sTLS handshake timeout", t->config->server ? "" : doing));
	if (t->owner)
		task_wake(t->s.rx, t->owner);
}

static struct tls_stream *stream_new(struct tls_config *config, struct stream *lower)
{
	struct tls_stream *t = xcalloc(1, sizeof(*t));
	t->s = (struct stream){ .ops = &tls_ops, .rx = lower->rx };
	t->lower = lower;
	t->config = tls_config_ref(config);
	t->chunk = IN_MIN;
	task_init(&t->task, run);
	timer_init(&t->timer, too_late);
	buf_init(&t->in, IN_MAX);
	buf_init(&t->out, OUT_MAX);
	t->ssl = SSL_new(config->ctx);
	BUG_ON(!t->ssl);
	BIO *bio = bio_new(t);
	SSL_set_bio(t->ssl, bio, bio);
	SSL_set_app_data(t->ssl, t);
	SSL_set_shed_handshake_config(t->ssl, 1);
	if (config->verify)
		SSL_set_custom_verify(t->ssl, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT,
				      on_verify);
	stream_bind(lower, &t->task);
	task_wake(lower->rx, &t->task);
	return t;
}

struct stream *tls_client(struct tls_config *config, struct stream *lower, const char *host)
{
	BUG_ON(config->server);
	struct tls_stream *t = stream_new(config, lower);
	struct in6_addr address;
	size_t n = strcspn(host, "%");
	char *name = xslicedup(slice_of(host, n));
	t->host = xstrdup(host);
	if (n && name[n - 1] == '.')
		name[n - 1] = '\0'; /* RFC 6066 section 3: without the trailing dot */
	if (*name && *name != '[' && inet_pton(AF_INET, name, &address) != 1 &&
	    inet_pton(AF_INET6, name, &address) != 1)
		SSL_set_tlsext_host_name(t->ssl, name);
	ERR_clear_error();
	free(name);
	SSL_set_cert_cb(t->ssl, on_cert_asked, NULL);
	SSL_set_connect_state(t->ssl);
	return &t->s;
}

struct stream *tls_server(struct tls_config *config, struct stream *lower)
{
	BUG_ON(!config->server);
	struct tls_stream *t = stream_new(config, lower);
	SSL_set_accept_state(t->ssl);
	return &t->s;
}

void tls_handshake_limit(struct stream *s, uint64_t ms)
{
	struct tls_stream *t = self(s);
	if (t->state == TLS_HANDSHAKE)
		timer_set(s->rx, &t->timer, ms);
}

const struct tls_peer *tls_peer(struct stream *s)
{
	struct tls_stream *t = self(s);
	return t->state == TLS_OPEN && t->has_peer ? &t->peer : NULL;
}

const char *tls_session_text(struct stream *s)
{
	struct tls_stream *t = self(s);
	if (t->state == TLS_OPEN && !t->session)
		t->session = xasprintf("%s %s", SSL_get_version(t->ssl),
				       SSL_CIPHER_standard_name(SSL_get_current_cipher(t->ssl)));
	return t->session ? t->session : "";
}

bool stream_is_tls(const struct stream *s)
{
	return s->ops == &tls_ops;
}
