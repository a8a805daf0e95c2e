/* Whom TLS streams believe, what they say when they do not, and what they make of configurations.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "reactor/err.h"
#include "test/unit/tls_pair.h"

/* --- refusals --- */

/* What each side is told. server_text NULL: the server is content. late: the client only learns of
 * it from its first read. */
static void refused(struct tls_config *client, struct tls_config *server, const char *host,
		    int client_code, const char *client_text, int server_code,
		    const char *server_text)
{
	for (int tcp = 0; tcp < 2; tcp++) {
		int fd[2];
		char in[16];
		tcp ? tcp_pair(fd) : socket_pair(fd);
		struct tls_two t = tls_pair_over(tls_config_ref(client), tls_config_ref(server),
						 host, fd, 0, NULL);
		if (server_text)
			tls_expect_why(t.server, tls_put(t.server, NULL, 0), server_code,
				       server_text);
		if (tcp && server_text)
			stream_close(t.server, -EACCES);
		/* A first write may well succeed: the verdict is still under way. */
		ssize_t r = tls_put(t.client, "hello", 5);
		if (r >= 0)
			r = tls_get(t.client, in, sizeof(in));
		tls_expect_why(t.client, r, client_code, client_text);
		assert_int_equal(stream_write(t.client, "x", 1), r);
		stream_close(t.client, (int)r);
		if (!tcp || !server_text)
			stream_close(t.server, -EACCES);
		tls_settle();
	}
	tls_config_unref(client);
	tls_config_unref(server);
}

#define DOING "failed to establish TLS connection: "

static void test_unknown_ca(void **state)
{
	(void)state;
	refused(tls_client_config("other", NULL), tls_server_config(NULL, "server"), HOST,
		ERR_TLS_UNKNOWN_CA, DOING "x509: certificate signed by unknown authority",
		ERR_TLS_CERT_DENIED, "the client does not accept our certificate: unknown CA");
	refused(tls_client_config("twin", NULL), tls_server_config(NULL, "server"), HOST,
		ERR_TLS_UNKNOWN_CA, "x509: certificate signed by unknown authority",
		ERR_TLS_CERT_DENIED, "");
	setenv("SSL_CERT_FILE", "/nonexistent", 1);
	refused(tls_any_config(false, (struct tls_options){ .n_ca = 0 }),
		tls_server_config(NULL, "server"), HOST, ERR_TLS_UNKNOWN_CA,
		"x509: certificate signed by unknown authority", ERR_TLS_CERT_DENIED, "");
}

static void test_names(void **state)
{
	(void)state;
	refused(tls_client_config("ca", NULL), tls_server_config(NULL, "server"), "abc." HOST,
		ERR_TLS_NAME, DOING "x509: certificate is valid for " HOST ", not abc." HOST,
		ERR_TLS_CERT_DENIED, "");
	refused(tls_client_config("ca", NULL), tls_server_config(NULL, "server-wild"), "a.b." HOST,
		ERR_TLS_NAME, "x509: certificate is valid for " HOST ", *." HOST ", not a.b." HOST,
		ERR_TLS_CERT_DENIED, "");
	refused(tls_client_config("ca", NULL), tls_server_config(NULL, "server"), "127.0.0.1",
		ERR_TLS_NAME,
		"x509: cannot validate certificate for 127.0.0.1 because it doesn't contain any IP "
		"SANs",
		ERR_TLS_CERT_DENIED, "");
	refused(tls_client_config("ca", NULL), tls_server_config(NULL, "server-ip"), "10.1.2.3",
		ERR_TLS_NAME, "x509: certificate is valid for 127.0.0.1, ::1, not 10.1.2.3",
		ERR_TLS_CERT_DENIED, "");
	refused(tls_client_config("ca", NULL), tls_server_config(NULL, "server-cn"), HOST,
		ERR_TLS_NAME,
		"x509: certificate relies on legacy Common Name field, use SANs instead",
		ERR_TLS_CERT_DENIED, "");
	static const char *const good[][2] = { { "server", HOST },
					       { "server", "CONTAINERS.tinyscale.net." },
					       { "server-wild", "abc." HOST },
					       { "server-ip", "127.0.0.1" },
					       { "server-ip", "[::1]" },
					       { "server-ip", "::1" } };
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		int fd[2];
		socket_pair(fd);
		struct tls_two t =
		    tls_pair_over(tls_client_config("ca", NULL),
				  tls_server_config(NULL, good[i][0]), good[i][1], fd, 0, NULL);
		assert_int_equal(tls_put(t.client, NULL, 0), 0);
		assert_null(tls_peer(t.server));
		stream_close(t.client, 0);
		stream_close(t.server, 0);
		tls_settle();
	}
}

static void test_dates(void **state)
{
	(void)state;
	const char *words =
	    DOING "x509: certificate has expired or is not yet valid: current time ";
	refused(tls_client_config("ca", NULL), tls_server_config(NULL, "server-old"), HOST,
		ERR_TLS_EXPIRED, words, ERR_TLS_CERT_DENIED, "certificate expired");
	refused(tls_client_config("ca", NULL), tls_server_config(NULL, "server-old"), HOST,
		ERR_TLS_EXPIRED, "Z is after 20", ERR_TLS_CERT_DENIED, "");
	refused(tls_client_config("ca", NULL), tls_server_config(NULL, "server-new"), HOST,
		ERR_TLS_NOT_YET, "Z is before 20", ERR_TLS_CERT_DENIED, "");
	refused(tls_client_config("ca-old", NULL), tls_server_config(NULL, "server-oldca"), HOST,
		ERR_TLS_EXPIRED, "its issuer \"OldCA\": current time ", ERR_TLS_CERT_DENIED, "");
}

static void test_wrong_usage(void **state)
{
	(void)state;
	refused(tls_client_config("ca", "client"), tls_server_config("ca", "alice"), "x",
		ERR_TLS_NAME, "", ERR_TLS_CERT_DENIED, "");
	refused(tls_client_config("ca", "server"), tls_server_config("ca", "server"), HOST,
		ERR_TLS_CERT_DENIED,
		DOING "the server refused the client certificate: ", ERR_TLS_BAD_CERT,
		"client certificate: x509: certificate specifies an incompatible");
}

static void test_client_certs(void **state)
{
	(void)state;
	refused(tls_client_config("ca", NULL), tls_server_config("ca", "server"), HOST,
		ERR_TLS_CERT_REQUIRED, DOING "the server requires a client certificate",
		ERR_TLS_CERT_REQUIRED, "client sent no certificate");
	refused(tls_client_config("ca", "stranger"), tls_server_config("ca", "server"), HOST,
		ERR_TLS_CERT_DENIED, DOING "the server refused the client certificate: unknown CA",
		ERR_TLS_UNKNOWN_CA,
		"client certificate: x509: certificate signed by unknown authority");
	refused(tls_client_config("ca", "client-old"), tls_server_config("ca", "server"), HOST,
		ERR_TLS_CERT_DENIED, "certificate expired", ERR_TLS_EXPIRED,
		"client certificate: x509: certificate has expired");
}

static void test_insecure(void **state)
{
	(void)state;
	int fd[2];
	socket_pair(fd);
	struct tls_two t =
	    tls_pair_over(tls_client_config(NULL, NULL), tls_server_config(NULL, "server-old"),
			  "elsewhere", fd, 0, NULL);
	assert_int_equal(tls_put(t.client, NULL, 0), 0);
	assert_false(tls_peer(t.client)->verified);
	assert_string_equal(tls_peer(t.client)->common_name, HOST);
	stream_close(t.client, 0);
	stream_close(t.server, 0);
	tls_settle();
}

/* A leaf may be its own trust anchor, and so may an intermediate: as in Go. */
static void test_anchors(void **state)
{
	(void)state;
	int fd[2];
	socket_pair(fd);
	struct tls_two t = tls_pair_over(tls_client_config("server", NULL),
					 tls_server_config(NULL, "server"), HOST, fd, 0, NULL);
	assert_int_equal(tls_put(t.client, NULL, 0), 0);
	stream_close(t.client, 0);
	stream_close(t.server, 0);

	char *bundle = tls_load("other.crt"), *more = tls_load("ca.crt");
	char *both = xasprintf("%s\nsome words\n%s", bundle, more);
	tls_save("bundle.crt", both);
	free(bundle);
	free(more);
	free(both);
	socket_pair(fd);
	t = tls_pair_over(tls_client_config("bundle", "stranger"),
			  tls_server_config("bundle", "server"), HOST, fd, 0, NULL);
	assert_int_equal(tls_put(t.client, NULL, 0), 0);
	assert_int_equal(tls_put(t.server, NULL, 0), 0);
	stream_close(t.client, 0);
	stream_close(t.server, 0);
	tls_settle();
}

/* The seed's client.crt has no extensions at all (X.509 v1). */
static void test_v1_client(void **state)
{
	(void)state;
	char *command = xasprintf(
	    "cd %s && openssl req -newkey rsa:2048 -nodes -keyout v1.key -out v1.csr -subj "
	    "/CN=client >/dev/null 2>&1 && openssl x509 -req -in v1.csr -CA ca.crt -CAkey ca.key "
	    "-CAcreateserial -out v1.crt -days 3 >/dev/null 2>&1",
	    tls_dir);
	int r = tls_shell(command);
	free(command);
	if (r != 0)
		skip();
	int fd[2];
	socket_pair(fd);
	struct tls_two t = tls_pair_over(tls_client_config("ca", "v1"),
					 tls_server_config("ca", "server"), HOST, fd, 0, NULL);
	assert_int_equal(tls_put(t.server, NULL, 0), 0);
	assert_string_equal(tls_peer(t.server)->common_name, "client");
	stream_close(t.client, 0);
	stream_close(t.server, 0);
	tls_settle();
}

/* --- far sides that are no TLS --- */

static struct stream *lone(bool server, int *raw)
{
	int fd[2];
	socket_pair(fd);
	struct tls_config *c =
	    server ? tls_server_config("ca", "server") : tls_client_config("ca", NULL);
	struct stream *lower = fd_stream_new(rx, fd[0]);
	struct stream *s = server ? tls_server(c, lower) : tls_client(c, lower, HOST);
	tls_config_unref(c);
	stream_bind(s, &waker);
	*raw = fd[1];
	return s;
}

static void garbage(bool server, const char *text, int code, const char *why)
{
	int raw;
	struct stream *s = lone(server, &raw);
	assert_int_equal(write(raw, text, strlen(text)), (ssize_t)strlen(text));
	tls_expect_why(s, tls_put(s, NULL, 0), code, why);
	stream_close(s, 0);
	tls_settle();
	if (server) {
		char alert[16];
		assert_int_equal(read(raw, alert, sizeof(alert)), 7);
		assert_memory_equal(alert, "\x15\x03\x01\x00\x02\x02", 6);
	}
	close(raw);
	tls_settle();
}

static void test_not_tls(void **state)
{
	(void)state;
	garbage(false, "HTTP/1.1 400 Bad Request\r\n\r\n", ERR_NOT_TLS,
		DOING "server gave HTTP response to TLS client");
	garbage(false, "SSH-2.0-OpenSSH_9.2\r\n", ERR_NOT_TLS,
		DOING "tls: first record does not look like a TLS handshake");
	garbage(true, "GET / HTTP/1.1\r\n\r\n", ERR_NOT_TLS,
		"client sent an HTTP request to a TLS server");
	garbage(true, "\x01\x02\x03", ERR_NOT_TLS, "does not look like a TLS handshake");
	/* A TLS record, but what is in it is not a handshake. */
	int raw;
	struct stream *s = lone(false, &raw);
	assert_int_equal(write(raw, "\x16\x03\x03\x00\x04\x63\x00\x00\x00", 9), 9);
	tls_expect_why(s, tls_put(s, NULL, 0), ERR_TLS, DOING "tls: ");
	stream_close(s, 0);
	close(raw);
	tls_settle();
}

static void test_alert_texts(void **state)
{
	(void)state;
	int raw;
	struct stream *s = lone(false, &raw);
	assert_int_equal(write(raw, "\x15\x03\x03\x00\x02\x02\x46", 7), 7);
	tls_expect_why(s, tls_put(s, NULL, 0), ERR_TLS,
		       DOING "remote error: tls: protocol version not supported");
	stream_close(s, 0);
	close(raw);
	s = lone(false, &raw);
	assert_int_equal(write(raw, "\x15\x03\x03\x00\x02\x02\x28", 7), 7);
	tls_expect_why(s, tls_put(s, NULL, 0), ERR_TLS,
		       DOING "remote error: tls: handshake failure");
	stream_close(s, 0);
	close(raw);
	tls_settle();
}

static void test_hang_up(void **state)
{
	(void)state;
	int raw;
	struct stream *s = lone(false, &raw);
	close(raw);
	ssize_t r = tls_put(s, NULL, 0);
	assert_true(r < 0);
	assert_non_null(strstr(stream_why(s, (int)r), DOING));
	stream_close(s, 0);
	s = lone(false, &raw);
	assert_int_equal(shutdown(raw, SHUT_WR), 0);
	tls_expect_why(s, tls_put(s, NULL, 0), ERR_TRUNCATED, DOING "EOF");
	stream_close(s, 0);
	close(raw);
	s = lone(false, &raw);
	assert_int_equal(write(raw, "\x15\x03\x03\x00\x02\x01\x00", 7), 7); /* close_notify */
	tls_expect_why(s, tls_put(s, NULL, 0), ERR_TRUNCATED, DOING "EOF (the server closed");
	stream_close(s, 0);
	close(raw);
	s = lone(true, &raw);
	close(raw);
	tls_expect_why(s, tls_put(s, NULL, 0), ERR_TRUNCATED, "EOF (the client closed");
	stream_close(s, 0);
	tls_settle();
}

static void test_timeout(void **state)
{
	(void)state;
	for (int server = 0; server < 2; server++) {
		int raw;
		struct stream *s = lone(server, &raw);
		tls_handshake_limit(s, 5);
		tls_expect_why(s, tls_put(s, NULL, 0), ETIMEDOUT, "TLS handshake timeout");
		stream_close(s, 0);
		close(raw);
	}
	tls_settle();
}

/* What the dialler says comes through as it is. */
static void test_dial_failed(void **state)
{
	(void)state;
	struct stream *lower = fd_stream_pending(rx);
	struct tls_config *c = tls_client_config("ca", NULL);
	struct stream *s = tls_client(c, lower, HOST);
	tls_config_unref(c);
	stream_bind(s, &waker);
	assert_int_equal(stream_open_yet(s), -EAGAIN);
	tls_settle();
	fd_stream_fail(lower, -ECONNREFUSED, "dial tcp h:443: connection refused");
	ssize_t r = tls_put(s, NULL, 0);
	assert_int_equal(r, -ECONNREFUSED);
	assert_string_equal(stream_why(s, (int)r), "dial tcp h:443: connection refused");
	stream_close(s, 0);
}

/* Any byte of the server's first flight, changed: an error on both sides, never data. */
static void test_tampered(void **state)
{
	(void)state;
	struct tls_config *client = tls_client_config("ca", NULL);
	struct tls_config *server = tls_server_config(NULL, "server");
	for (unsigned at = 0; at < 60; at++) {
		int a[2], b[2];
		char flight[65536];
		socket_pair(a);
		socket_pair(b);
		struct tls_two t = { tls_client(client, fd_stream_new(rx, a[0]), HOST),
				     tls_server(server, fd_stream_new(rx, b[0])) };
		tls_settle();
		ssize_t n = read(a[1], flight, sizeof(flight));
		assert_true(n > 0 && write(b[1], flight, (size_t)n) == n);
		tls_settle();
		n = read(b[1], flight, sizeof(flight));
		assert_true(n > 600);
		flight[(size_t)n * at / 60] ^= 0x10;
		assert_int_equal(write(a[1], flight, (size_t)n), n);
		assert_int_equal(shutdown(a[1], SHUT_WR), 0);
		stream_bind(t.client, &waker);
		ssize_t r = tls_put(t.client, NULL, 0);
		if (r == 0) /* an ignored change_cipher_spec record: then it must still be cut */
			r = tls_get(t.client, flight, sizeof(flight));
		assert_true(r < 0);
		stream_close(t.client, 0);
		stream_close(t.server, -1);
		close(a[1]);
		close(b[1]);
		tls_settle();
	}
	tls_config_unref(client);
	tls_config_unref(server);
}

/* --- configuration --- */

static void bad_config(const char *cert, const char *key, const char *ca, const char *text)
{
	char err[512] = "", names[3][128];
	snprintf(names[0], 128, "%s/%s", tls_dir, cert ? cert : "");
	snprintf(names[1], 128, "%s/%s", tls_dir, key ? key : "");
	snprintf(names[2], 128, "%s/%s", tls_dir, ca ? ca : "");
	struct tls_options o = { .cert_file = cert ? names[0] : NULL,
				 .key_file = key ? names[1] : NULL,
				 .ca_files = (const char *[]){ names[2] },
				 .n_ca = ca ? 1 : 0 };
	assert_null(tls_config_new(&o, false, err, sizeof(err)));
	if (!strstr(err, text))
		fail_msg("\"%s\" does not say \"%s\"", err, text);
}

static void test_config(void **state)
{
	(void)state;
	tls_save("empty", "");
	tls_save("text", "hello\n");
	tls_save("locked.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n"
			       "-----END ENCRYPTED PRIVATE KEY-----\n");
	tls_save("broken.crt", "-----BEGIN CERTIFICATE-----\nMIIB!!!\n-----END CERTIFICATE-----\n");
	tls_save("junk.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
	tls_save("junk.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
	bad_config("none.crt", "client.key", NULL, "none.crt: no such file or directory");
	bad_config("client.crt", "none.key", NULL, "none.key: no such file or directory");
	bad_config(NULL, NULL, "none.crt", "none.crt: no such file or directory");
	bad_config(NULL, NULL, "", "is a directory");
	bad_config(NULL, NULL, "empty", "is not PEM");
	bad_config("text", "client.key", NULL, "text: is not PEM");
	bad_config("client.crt", "text", NULL, "text: is not PEM");
	bad_config("client.key", "client.key", NULL, "has no certificate in it, but a PRIVATE KEY");
	bad_config("client.crt", "client.crt", NULL, "has no private key in it, but a CERTIFICATE");
	bad_config("client.crt", "locked.key", NULL, "encrypted");
	bad_config("client.crt", "junk.key", NULL, "malformed");
	bad_config("broken.crt", "client.key", NULL, "malformed PEM");
	bad_config(NULL, NULL, "junk.crt", "certificate number 1 is malformed");
	bad_config("client.crt", "server.key", NULL, "does not match");
	bad_config("client.crt", NULL, NULL, "together");
	if (geteuid() != 0) {
		assert_int_equal(chmod(tls_path("client.key"), 0), 0);
		bad_config("client.crt", "client.key", NULL, "permission denied");
		assert_int_equal(chmod(tls_path("client.key"), 0600), 0);
	}
	char err[256];
	assert_null(tls_config_new(&(struct tls_options){ .n_ca = 0 }, true, err, sizeof(err)));
	assert_non_null(strstr(err, "a TLS server needs a certificate"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_unknown_ca),   cmocka_unit_test(test_names),
		cmocka_unit_test(test_dates),        cmocka_unit_test(test_wrong_usage),
		cmocka_unit_test(test_client_certs), cmocka_unit_test(test_insecure),
		cmocka_unit_test(test_anchors),      cmocka_unit_test(test_v1_client),
		cmocka_unit_test(test_not_tls),      cmocka_unit_test(test_alert_texts),
		cmocka_unit_test(test_hang_up),      cmocka_unit_test(test_timeout),
		cmocka_unit_test(test_dial_failed),  cmocka_unit_test(test_tampered),
		cmocka_unit_test(test_config),
	};
	alarm(100);
	return cmocka_run_group_tests(tests, tls_setup, tls_teardown);
}
