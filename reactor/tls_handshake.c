/* What BoringSSL's SSL object does: the handshake, and all of TLS 1.2; what it stumbles over, in
 * words. It reads records from t->in and writes them to t->out through a BIO of ours, and takes no
 * byte more than the records it wants: what is in t->in when the handshake ends is ours. */
#include "reactor/tls_int.h"

#include <arpa/inet.h>
#include <errno.h>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/mem.h>
#include <openssl/pool.h>
#include <openssl/ssl.h>

#include "reactor/err.h"
#include "reactor/tls_cert.h"
#include "reactor/tls_trust.h"

/* --- errors --- */

static const char doing[] = "failed to establish TLS connection: ";

int tls_fail(struct tls_stream *t, int code, char *why)
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

int tls_fail_alert(struct tls_stream *t, int alert)
{
	const char *text = SSL_alert_desc_string_long(alert);
	bool server = t->config->server, refused = is_about_certificate(alert) && !t->got_data;
	if (!server && !t->config->has_cert && t->cert_asked &&
	    (refused || (alert == SSL_AD_HANDSHAKE_FAILURE && !t->got_data)))
		return tls_fail(t, -ERR_TLS_CERT_REQUIRED,
				xasprintf("%sthe server requires a client certificate", doing));
	if (!server && refused && t->cert_asked)
		return tls_fail(
		    t, -ERR_TLS_CERT_DENIED,
		    xasprintf("%sthe server refused the client certificate: %s", doing, text));
	if (server && refused && t->state == TLS_HANDSHAKE)
		return tls_fail(t, -ERR_TLS_CERT_DENIED,
				xasprintf("the client does not accept our certificate: %s", text));
	if (alert == SSL_AD_PROTOCOL_VERSION)
		return tls_fail(t, -ERR_TLS,
				xasprintf("%sremote error: tls: protocol version not supported",
					  server ? "" : doing));
	return tls_fail(t, -ERR_TLS,
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
		return tls_fail(t, -ERR_NOT_TLS,
				xasprintf("client sent an HTTP request to a TLS server"));
	if (!server && slice_starts(got, http))
		return tls_fail(t, -ERR_NOT_TLS,
				xasprintf("%sserver gave HTTP response to TLS client", doing));
	return tls_fail(t, -ERR_NOT_TLS,
			xasprintf("%stls: first record does not look like a TLS handshake",
				  server ? "" : doing));
}

int tls_fail_lower(struct tls_stream *t, int code)
{
	bool handshake = t->state == TLS_HANDSHAKE;
	const char *why = stream_why(t->lower, code);
	return tls_fail(t, code,
			handshake && why == err_text(code) && !t->config->server
			    ? xasprintf("%s%s", doing, why)
			    : xstrdup(why));
}

int tls_fail_truncated(struct tls_stream *t)
{
	bool server = t->config->server;
	return tls_fail(t, -ERR_TRUNCATED,
			t->state == TLS_HANDSHAKE
			    ? xasprintf("%sEOF (the %s closed the connection during the handshake)",
					server ? "" : doing, server ? "client" : "server")
			    : xasprintf("unexpected EOF (connection cut: end of stream without TLS "
					"close_notify)"));
}

int tls_fail_timeout(struct tls_stream *t)
{
	return tls_fail(t, -ETIMEDOUT,
			xasprintf("%sTLS handshake timeout", t->config->server ? "" : doing));
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
		return tls_fail_alert(t, reason - SSL_AD_REASON_OFFSET);
	} else if (e == 0 && t->read_code < 0) {
		return tls_fail_lower(t, t->read_code);
	} else if (e == 0) { /* end of lower, or close_notify instead of a handshake */
		return tls_fail_truncated(t);
	} else if (t->cert_code < 0) {
		tls_fail(t, t->cert_code,
			 xasprintf("%s%s", server ? "client certificate: " : doing, t->cert_why));
	} else if (reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE) {
		tls_fail(t, -ERR_TLS_CERT_REQUIRED, xasprintf("client sent no certificate"));
	} else if (reason == SSL_R_UNSUPPORTED_PROTOCOL) {
		tls_fail(
		    t, -ERR_TLS,
		    xasprintf("%stls: the %s does not offer a TLS version that is allowed here",
			      server ? "" : doing, server ? "client" : "server"));
	} else {
		const char *text = ERR_reason_error_string(e);
		char *why = xasprintf("%stls: %s", handshake && !server ? doing : "",
				      text ? text : "protocol failure");
		for (char *p = strstr(why, "tls: ") + 5; *p; p++)
			*p = *p == '_' ? ' ' : (char)(*p >= 'A' && *p <= 'Z' ? *p + 32 : *p);
		tls_fail(t, -ERR_TLS, why);
	}
	t->parting = true;
	return t->code;
}

/* --- between BoringSSL and t --- */

static int bio_read(BIO *bio, char *out, int want)
{
	struct tls_stream *t = BIO_get_data(bio);
	BIO_clear_retry_flags(bio);
	if (t->in.len == 0) {
		if (t->lower_eof || t->read_code < 0)
			return t->lower_eof ? 0 : -1;
		ssize_t n = tls_fill(t);
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

static uint8_t hex_digit(char c)
{
	return (uint8_t)(c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
}

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

/* A line of the key log: "LABEL CLIENT_RANDOM SECRET" in hexadecimal. It is kept nowhere but where
 * the record layer needs it. */
void tls_on_secret(const SSL *ssl, const char *line)
{
	struct tls_stream *t = SSL_get_app_data(ssl);
	struct slice label, random, secret, rest = slice_str(line);
	if (!slice_cut(rest, ' ', &label, &rest) || !slice_cut(rest, ' ', &random, &secret))
		return;
	bool of_client = slice_eq(label, SLICE("CLIENT_TRAFFIC_SECRET_0"));
	if (!of_client && !slice_eq(label, SLICE("SERVER_TRAFFIC_SECRET_0")))
		return;
	struct record_key *key = of_client == t->config->server ? &t->records.in : &t->records.out;
	BUG_ON(secret.n > 2 * sizeof(key->secret));
	for (size_t i = 0; i < secret.n; i++)
		key->secret[i / 2] = (uint8_t)(key->secret[i / 2] << 4 | hex_digit(secret.p[i]));
}

/* From here on the records of a TLS 1.3 connection are ours. */
static void take_over(struct tls_stream *t)
{
	const SSL_CIPHER *cipher = SSL_get_current_cipher(t->ssl);
	t->session = xasprintf("%s %s", SSL_get_version(t->ssl), SSL_CIPHER_standard_name(cipher));
	if (SSL_version(t->ssl) != TLS1_3_VERSION)
		return;
	int r = records_start(&t->records, SSL_CIPHER_get_protocol_id(cipher), t->config->server,
			      SSL_get_read_sequence(t->ssl), SSL_get_write_sequence(t->ssl));
	BUG_ON(r < 0); /* there are no other ciphers in TLS 1.3 */
	SSL_free(t->ssl);
	t->ssl = NULL;
}

void tls_ssl_handshake(struct tls_stream *t)
{
	int r = SSL_do_handshake(t->ssl);
	int why = SSL_get_error(t->ssl, r);
	tls_flush(t);
	if (r != 1 && why == SSL_ERROR_WANT_READ && t->write_code < 0) {
		/* Perhaps they said why before they hung up. */
		r = SSL_do_handshake(t->ssl);
		why = SSL_get_error(t->ssl, r);
		if (why == SSL_ERROR_WANT_READ)
			tls_fail_lower(t, t->write_code);
	}
	if (r == 1) {
		take_over(t);
		t->state = TLS_OPEN;
		timer_clear(t->s.rx, &t->timer);
	} else if (why == SSL_ERROR_WANT_WRITE) {
		if (t->out.len == 0) /* the flight was larger than t->out */
			task_wake(t->s.rx, &t->task);
	} else if (why != SSL_ERROR_WANT_READ) {
		fail_ssl(t);
		tls_flush(t);
	}
}

/* --- setting up --- */

static void expect_name(struct tls_stream *t)
{
	struct in6_addr address;
	size_t n = strcspn(t->host, "%");
	char *name = xslicedup(slice_of(t->host, n));
	if (n && name[n - 1] == '.')
		name[n - 1] = '\0'; /* RFC 6066 section 3: without the trailing dot */
	if (*name && *name != '[' && inet_pton(AF_INET, name, &address) != 1 &&
	    inet_pton(AF_INET6, name, &address) != 1)
		SSL_set_tlsext_host_name(t->ssl, name);
	ERR_clear_error();
	free(name);
}

void tls_ssl_new(struct tls_stream *t)
{
	t->ssl = SSL_new(t->config->ctx);
	BUG_ON(!t->ssl);
	BIO *bio = bio_new(t);
	SSL_set_bio(t->ssl, bio, bio);
	SSL_set_app_data(t->ssl, t);
	SSL_set_shed_handshake_config(t->ssl, 1);
	if (t->config->verify)
		SSL_set_custom_verify(t->ssl, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT,
				      on_verify);
	if (t->config->server) {
		SSL_set_accept_state(t->ssl);
		return;
	}
	expect_name(t);
	SSL_set_cert_cb(t->ssl, on_cert_asked, NULL);
	SSL_set_connect_state(t->ssl);
}

/* --- TLS 1.2 --- */

ssize_t tls_ssl_read(struct tls_stream *t, void *p, size_t n)
{
	int r = SSL_read(t->ssl, p, (int)MIN(n, RECORD_MAX));
	if (r > 0)
		return r;
	switch (SSL_get_error(t->ssl, r)) {
	case SSL_ERROR_ZERO_RETURN:
		t->peer_closed = true;
		return 0;
	case SSL_ERROR_WANT_READ:
	case SSL_ERROR_WANT_WRITE:
		return t->write_code < 0 ? t->write_code : -EAGAIN;
	default:
		fail_ssl(t);
		tls_flush(t);
		return t->code;
	}
}

ssize_t tls_ssl_write(struct tls_stream *t, struct record_source *source)
{
	char gather[RECORD_MAX];
	struct slice piece = record_take(source, gather);
	int r = SSL_write(t->ssl, piece.p, (int)piece.n);
	return r > 0 ? r : fail_ssl(t);
}

void tls_ssl_look(struct tls_stream *t)
{
	char byte;
	int r = SSL_peek(t->ssl, &byte, 1);
	if (r <= 0 && SSL_get_error(t->ssl, r) == SSL_ERROR_SSL)
		fail_ssl(t);
}

void tls_ssl_shut(struct tls_stream *t)
{
	SSL_shutdown(t->ssl);
}
