/* reverse.c and bridge.c, through forward.c, between a small guest and sockets of this process:
 * what the guest is asked to listen on, its connections, refusals, half close, a lost carrier. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "json/json.h"
#include "proto/tstunnel/forward.h"
#include "reactor/buf.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "test/unit/mini_guest.h"
#include "test/unit/turn.h"

static struct reactor *rx;
static struct tunnel *tunnel;
static int target; /* a listening socket of the test */
static uint16_t target_port;

static int setup(void **state)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	socklen_t len = sizeof(a);
	(void)state;
	log_level = LOG_ERROR;
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	target = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_int_equal(0, bind(target, (struct sockaddr *)&a, len));
	assert_int_equal(0, listen(target, 5));
	assert_int_equal(0, getsockname(target, (struct sockaddr *)&a, &len));
	target_port = ntohs(a.sin_port);
	rx = reactor_new();
	guest_begin(rx);
	tunnel = guest_tunnel();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	tunnel_free(tunnel);
	guest_end();
	UNTIL(reactor_stats(rx)->handles == 0 && reactor_stats(rx)->timers == 0);
	reactor_free(rx);
	block_trim();
	close(target);
	return 0;
}

static struct forward *reverse_of(const char *listen, const char *dst)
{
	char err[512] = "";
	struct forward_spec sp;
	struct forward *f;
	char *src = xasprintf("tstunnel://" HOST ":%u/%s", guest.port, listen);
	char *own = dst ? xstrdup(dst) : xasprintf("tcp:" HOST ":%u", target_port);
	if (forward_parse(&sp, slice_str(src), slice_str(own), err, sizeof(err)) < 0)
		fail_msg("%s", err);
	assert_true(sp.reverse);
	assert_int_equal(0, forward_new(&f, rx, tunnel, &sp, err, sizeof(err)));
	forward_spec_end(&sp);
	free(src);
	free(own);
	return f;
}

/* The n-th stream that was opened, which has to ask for address; its token. */
static void asked_for(unsigned n, const char *address, char token[64])
{
	struct slice kind, where, key;
	UNTIL(guest.nopened == n);
	struct json_doc *doc = json_parse(slice_str(guest.json[n - 1]), NULL, NULL);
	assert_non_null(doc);
	assert_int_equal(0, json_str(doc, json_find(json_root(doc), "kind"), &kind));
	assert_int_equal(0, json_str(doc, json_find(json_root(doc), "address"), &where));
	assert_int_equal(0, json_str(doc, json_find(json_root(doc), "token"), &key));
	assert_true(slice_eq(kind, SLICE("listen")));
	if (!slice_eq(where, slice_str(address)))
		fail_msg("%.*s, not %s", SLICE_FMT(where), address);
	snprintf(token, 64, "%.*s", SLICE_FMT(key));
	json_free(doc);
}

static void says(const char *want, struct forward *f)
{
	struct buf b;
	buf_init(&b, 1024);
	assert_int_equal(0, forward_put(f, 0, &b));
	char *got = xslicedup(buf_data(&b));
	assert_string_equal(want, got);
	free(got);
	buf_end(&b);
}

/* A connection that the guest has accepted on the first stream that it was asked for. */
static struct stream *arrive(unsigned carrier, const struct stream *listening)
{
	char *json = xasprintf("{\"kind\":\"accepted\",\"listen\":%u,\"peer\":\"1.2.3.4:5\"}",
			       mux_stream_id(listening));
	struct stream *s = mux_open(guest.carrier[carrier]->mux, slice_str(json));
	free(json);
	return s;
}

static int accepted(void)
{
	int fd;
	UNTIL((fd = accept(target, NULL, NULL)) != -1);
	return fd;
}

static int outcome(struct stream *s)
{
	int r;
	UNTIL((r = stream_open_yet(s)) != -EAGAIN);
	return r;
}

static void gets(struct stream *s, const char *want)
{
	char got[64];
	ssize_t n;
	UNTIL((n = stream_read(s, got, sizeof(got))) != -EAGAIN);
	assert_int_equal(strlen(want), n);
	assert_memory_equal(want, got, strlen(want));
}

static void fd_gets(int fd, const char *want)
{
	char got[64];
	ssize_t n;
	UNTIL((n = recv(fd, got, sizeof(got), MSG_DONTWAIT)) != -1 || errno != EAGAIN);
	assert_int_equal(strlen(want), n);
	assert_memory_equal(want, got, strlen(want));
}

/* --- tests --- */

static void connections_come_from_there(void **state)
{
	(void)state;
	char token[64], text[128], err[256];
	struct forward *f = reverse_of("tcp:localhost:0", NULL);
	assert_int_equal(-EAGAIN, forward_ready(f, err, sizeof(err)));
	asked_for(1, "tcp:localhost:0", token);
	assert_int_equal(32, strlen(token));
	assert_int_equal(0, forward_port(f));
	/* OPENED and the first connection come together. */
	mux_accept(guest.opened[0], SLICE("{\"address\":\"tcp:localhost:9123\"}"));
	struct stream *s = arrive(0, guest.opened[0]);
	assert_int_equal(5, stream_write(s, "early", 5));
	int fd = accepted();
	assert_int_equal(0, outcome(s));
	assert_int_equal(0, forward_ready(f, err, sizeof(err)));
	assert_int_equal(9123, forward_port(f));
	snprintf(text, sizeof(text), "tstunnel://" HOST ":%u/tcp:localhost:9123 -> " HOST ":%u",
		 guest.port, target_port);
	says(text, f);
	assert_int_equal(1, forward_connections(f));

	/* Half close, both ways. */
	fd_gets(fd, "early");
	assert_int_equal(0, stream_shut(s));
	fd_gets(fd, "");
	assert_int_equal(4, send(fd, "last", 4, 0));
	assert_int_equal(0, shutdown(fd, SHUT_WR));
	gets(s, "last");
	gets(s, "");
	close(fd);
	stream_close(s, 0);
	UNTIL(forward_connections(f) == 0);
	uint64_t sent, received;
	forward_moved(f, &sent, &received);
	assert_int_equal(4, sent);
	assert_int_equal(5, received);

	s = arrive(0, guest.opened[0]);
	fd = accepted();
	assert_int_equal(0, shutdown(fd, SHUT_WR));
	gets(s, "");
	assert_int_equal(5, stream_write(s, "after", 5));
	fd_gets(fd, "after");
	stream_close(s, 0);
	fd_gets(fd, "");
	close(fd);
	forward_free(f);
	gets(guest.opened[0], ""); /* it is to listen no more */
}

static void a_refused_target_is_a_reset(void **state)
{
	(void)state;
	char token[64], text[64];
	struct forward *f = reverse_of("unix:/run/x.sock", NULL);
	asked_for(1, "unix:///run/x.sock", token);
	mux_accept(guest.opened[0], SLICE("{\"address\":\"unix:///run/x.sock\"}"));
	close(target);
	target = -1;
	struct stream *s = arrive(0, guest.opened[0]);
	assert_int_equal(-ECONNREFUSED, outcome(s));
	snprintf(text, sizeof(text), "dial tcp " HOST ":%u: connection refused", target_port);
	assert_string_equal(text, stream_why(s, -ECONNREFUSED));
	stream_close(s, 0);
	UNTIL(forward_connections(f) == 0);
	forward_free(f);
}

static void what_nobody_asked_for_is_refused(void **state)
{
	(void)state;
	static const char *const wrong[] = {
		"{\"kind\":\"accepted\",\"listen\":3,\"peer\":\"x\"}",
		"{\"kind\":\"accepted\",\"listen\":1,\"listen\":1}",
		"{\"kind\":\"accepted\",\"listen\":\"1\"}",
		"{\"kind\":\"accepted\",\"listen\":4294967297}",
		"{\"kind\":\"accepted\"}",
		"{\"kind\":\"tcp\",\"listen\":1,\"address\":\"localhost:22\"}",
		"{}",
		"!!",
	};
	char token[64];
	struct forward *f = reverse_of("tcp:localhost:9000", NULL);
	asked_for(1, "tcp:localhost:9000", token);
	mux_accept(guest.opened[0], SLICE("{\"address\":\"tcp:localhost:9000\"}"));
	assert_int_equal(1, mux_stream_id(guest.opened[0]));
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
		struct stream *s = mux_open(guest.carrier[0]->mux, slice_str(wrong[i]));
		assert_int_equal(-ERR_DENIED, outcome(s));
		stream_close(s, 0);
	}
	assert_int_equal(0, forward_connections(f));
	forward_free(f);
	struct stream *s = arrive(0, guest.opened[0]); /* too late */
	assert_int_equal(-ERR_DENIED, outcome(s));
	stream_close(s, 0);
}

static void a_guest_that_says_no(void **state)
{
	(void)state;
	char token[64], again[64], err[256];
	struct forward *f = reverse_of("tcp:0.0.0.0:9000", NULL);
	asked_for(1, "tcp:0.0.0.0:9000", token);
	mux_refuse(guest.opened[0], -ERR_DENIED, "no, because");
	guest.nopened = 0;
	int r;
	UNTIL((r = forward_ready(f, err, sizeof(err))) != -EAGAIN);
	assert_int_equal(-ERR_DENIED, r);
	assert_string_equal("no, because", err);
	asked_for(1, "tcp:0.0.0.0:9000", again); /* in time */
	assert_string_equal(token, again);
	mux_accept(guest.opened[0], SLICE("{}")); /* and it may change its mind */
	UNTIL(forward_ready(f, err, sizeof(err)) == 0);
	forward_free(f);
}

static void it_comes_back_with_the_tunnel(void **state)
{
	(void)state;
	char token[64], again[64], err[256];
	struct forward *f = reverse_of("tcp:localhost:0", NULL);
	asked_for(1, "tcp:localhost:0", token);
	mux_accept(guest.opened[0], SLICE("{\"address\":\"tcp:localhost:9123\"}"));
	struct stream *s = arrive(0, guest.opened[0]);
	int fd = accepted();
	assert_int_equal(0, outcome(s));
	guest_drop(0);
	stream_close(s, 0);
	char byte;
	UNTIL(recv(fd, &byte, 1, MSG_DONTWAIT) == -1 && errno != EAGAIN);
	assert_int_equal(ECONNRESET, errno);
	close(fd);
	UNTIL(forward_ready(f, err, sizeof(err)) != 0);
	asked_for(2, "tcp:localhost:9123", again); /* the port that people know by now */
	assert_string_equal(token, again);
	mux_accept(guest.opened[1], SLICE("{\"address\":\"tcp:localhost:9123\"}"));
	UNTIL(forward_ready(f, err, sizeof(err)) == 0);
	s = arrive(guest.ncarriers - 1, guest.opened[1]);
	fd = accepted();
	assert_int_equal(0, outcome(s));
	close(fd);
	stream_close(s, 0);
	forward_free(f);
}

static void on_drained(void *arg)
{
	*(bool *)arg = true;
}

static void drain_and_free(void **state)
{
	(void)state;
	char token[64];
	bool drained = false;
	struct forward *f = reverse_of("tcp:localhost:9000", NULL);
	asked_for(1, "tcp:localhost:9000", token);
	mux_accept(guest.opened[0], SLICE("{\"address\":\"tcp:localhost:9000\"}"));
	struct stream *s = arrive(0, guest.opened[0]);
	int fd = accepted();
	assert_int_equal(0, outcome(s));
	forward_drain(f, on_drained, &drained);
	gets(guest.opened[0], "");
	assert_int_equal(4, stream_write(s, "more", 4));
	fd_gets(fd, "more");
	assert_false(drained);
	close(fd);
	gets(s, "");
	stream_close(s, 0);
	UNTIL(drained);
	forward_free(f);

	/* In every stage of a connection. */
	f = reverse_of("tcp:localhost:9000", NULL);
	asked_for(2, "tcp:localhost:9000", token);
	mux_accept(guest.opened[1], SLICE("{\"address\":\"tcp:localhost:9000\"}"));
	struct stream *open = arrive(0, guest.opened[1]);
	fd = accepted();
	assert_int_equal(0, outcome(open));
	struct stream *dialling = arrive(0, guest.opened[1]);
	UNTIL(forward_connections(f) == 2);
	forward_free(f);
	struct stream *both[] = { open, dialling };
	for (unsigned i = 0; i < 2; i++) {
		char byte;
		ssize_t n;
		UNTIL((n = stream_read(both[i], &byte, 1)) != -EAGAIN);
		assert_int_equal(-ECONNRESET, n);
	}
	stream_close(open, 0);
	stream_close(dialling, 0);
	close(fd);
}

static void datagrams(void **state)
{
	(void)state;
	char token[64], dst[64];
	struct sockaddr_in a = { .sin_family = AF_INET };
	struct sockaddr_in from;
	socklen_t len = sizeof(a);
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_int_equal(0, bind(fd, (struct sockaddr *)&a, len));
	assert_int_equal(0, getsockname(fd, (struct sockaddr *)&a, &len));
	snprintf(dst, sizeof(dst), "udp:" HOST ":%u", ntohs(a.sin_port));
	struct forward *f = reverse_of("udp:localhost:5353", dst);
	asked_for(1, "udp:localhost:5353", token);
	mux_accept(guest.opened[0], SLICE("{\"address\":\"udp:localhost:5353\"}"));
	struct stream *s = arrive(0, guest.opened[0]);
	assert_int_equal(7, stream_write(s, "\0\3abc\0\0", 7)); /* "abc" and an empty one */
	char got[64];
	ssize_t n;
	UNTIL((n = recvfrom(fd, got, sizeof(got), 0, (struct sockaddr *)&from, &len)) != -1);
	assert_int_equal(3, n);
	assert_memory_equal("abc", got, 3);
	UNTIL((n = recv(fd, got, sizeof(got), 0)) != -1);
	assert_int_equal(0, n);
	assert_int_equal(2, sendto(fd, "yz", 2, 0, (struct sockaddr *)&from, len));
	UNTIL((n = stream_read(s, got, sizeof(got))) != -EAGAIN);
	assert_int_equal(4, n);
	assert_memory_equal("\0\2yz", got, 4);
	assert_int_equal(1, forward_connections(f));
	stream_close(s, 0);
	UNTIL(forward_connections(f) == 0);
	forward_free(f);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(connections_come_from_there),
		T(a_refused_target_is_a_reset),
		T(what_nobody_asked_for_is_refused),
		T(a_guest_that_says_no),
		T(it_comes_back_with_the_tunnel),
		T(drain_and_free),
		T(datagrams),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
