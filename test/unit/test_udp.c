/* Datagrams through streams: their framing, the dialling and the listening end, between sockets of
 * this process and over two muxes. */
#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/tstunnel/dgram.h"
#include "proto/tstunnel/mux.h"
#include "proto/tstunnel/udp_dial.h"
#include "proto/tstunnel/udp_listen.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "test/unit/sim.h"
#include "test/unit/turn.h"

static struct reactor *rx;
static struct mux *client, *server;
static struct addr target;
static unsigned opened, finished, ended;
static struct pump_end ended_as;
static uint64_t ended_ms;
static char ended_why[256];

static void on_finished(void *arg, const struct pump_end *e, const char *why)
{
	(void)arg, (void)e, (void)why;
	finished++;
}

static void on_opened(void *arg, struct stream *s, struct slice json)
{
	(void)arg, (void)json;
	opened++;
	udp_dial_start(rx, s, &target, on_finished, NULL);
}

static struct stream *on_flow(void *arg, const char *peer)
{
	(void)arg;
	assert_non_null(strchr(peer, ':'));
	return mux_open(client, SLICE("{}"));
}

static void on_ended(void *arg, const struct pump_end *e, const char *why, uint64_t ms)
{
	(void)arg;
	ended++;
	ended_as = *e;
	ended_ms = ms;
	snprintf(ended_why, sizeof(ended_why), "%s", why);
}

static int setup(void **state)
{
	int fd[2];
	(void)state;
	log_level = LOG_ERROR;
	rx = reactor_new();
	opened = finished = ended = 0;
	assert_int_equal(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd));
	client = mux_new(rx, fd_stream_new(rx, fd[0]), SLICE(""),
			 &(struct mux_options){ .client = true });
	server = mux_new(rx, fd_stream_new(rx, fd[1]), SLICE(""),
			 &(struct mux_options){ .opened = on_opened });
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	assert_int_equal(opened, finished); /* whoever listened has gone */
	mux_free(client, -ECONNRESET, NULL);
	mux_free(server, -ECONNRESET, NULL);
	UNTIL(reactor_stats(rx)->handles == 0 && reactor_stats(rx)->timers == 0);
	reactor_free(rx);
	block_trim();
	return 0;
}

/* --- sockets of the test --- */

/* A socket bound to host, on a port that the kernel chooses: *port. */
static int bound(const char *host, uint16_t *port)
{
	struct addr a = { .kind = ADDR_UDP };
	struct sockaddr_storage ss;
	struct sockaddr_in6 got;
	socklen_t len;
	snprintf(a.host, sizeof(a.host), "%s", host);
	assert_int_equal(0, addr_literal(&a, &ss, &len));
	int fd = socket(ss.ss_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd == -1 || bind(fd, (struct sockaddr *)&ss, len) == -1) {
		close(fd);
		return -1; /* no IPv6 here */
	}
	len = sizeof(got);
	assert_int_equal(0, getsockname(fd, (struct sockaddr *)&got, &len));
	*port = ntohs(got.sin6_port);
	return fd;
}

static void connect_to(int fd, const char *host, uint16_t port)
{
	struct addr a = { .kind = ADDR_UDP, .port = port };
	struct sockaddr_storage ss;
	socklen_t len;
	snprintf(a.host, sizeof(a.host), "%s", host);
	assert_int_equal(0, addr_literal(&a, &ss, &len));
	assert_int_equal(0, connect(fd, (struct sockaddr *)&ss, len));
}

static char big[UINT16_MAX];

/* Sends back the next datagram: its size. */
static ssize_t echo_one(int fd)
{
	struct sockaddr_storage from;
	socklen_t len = sizeof(from);
	ssize_t n = recvfrom(fd, big, sizeof(big), 0, (struct sockaddr *)&from, &len);
	if (n >= 0)
		assert_int_equal(n, sendto(fd, big, (size_t)n, 0, (struct sockaddr *)&from, len));
	return n;
}

static void fill(char *p, size_t n, unsigned seed)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (char)(seed + i * 7 + (i >> 8));
}

static void gets_pattern(int fd, size_t n, unsigned seed)
{
	static char got[UINT16_MAX], want[UINT16_MAX];
	ssize_t r;
	UNTIL((r = recv(fd, got, sizeof(got), 0)) != -1);
	assert_int_equal(n, r);
	fill(want, n, seed);
	assert_memory_equal(want, got, n);
}

static struct udp_listener *listen_on(const char *host, uint64_t idle_ms)
{
	struct addr a = { .kind = ADDR_UDP };
	int err = 0;
	snprintf(a.host, sizeof(a.host), "%s", host);
	struct udp_listener *l = udp_listener_new(
	    rx, &a,
	    &(struct udp_listen_options){ .open = on_flow, .ended = on_ended, .idle_ms = idle_ms },
	    &err);
	assert_int_equal(0, err);
	assert_non_null(l);
	return l;
}

static void aim(const char *host, uint16_t port)
{
	target = (struct addr){ .kind = ADDR_UDP, .port = port };
	snprintf(target.host, sizeof(target.host), "%s", host);
}

static void close_listener(struct udp_listener *l)
{
	udp_listener_close(l, 0);
	UNTIL(opened == finished);
}

/* --- tests --- */

static void every_size_arrives_as_one(void **state)
{
	static const size_t sizes[] = { 1, 0, 2, 255, 256, 1400, 4096, 16384, 60000, 65507, 1 };
	(void)state;
	uint16_t port, own;
	int echo = bound("127.0.0.1", &port), fd = bound("127.0.0.1", &own);
	aim("127.0.0.1", port);
	struct udp_listener *l = listen_on("127.0.0.1", 0);
	connect_to(fd, "127.0.0.1", udp_listener_port(l));
	uint64_t sum = 0, in = 0, out = 0;
	for (unsigned i = 0; i < ARRAY_LEN(sizes); i++) {
		static char d[UINT16_MAX];
		ssize_t n;
		fill(d, sizes[i], i);
		assert_int_equal(sizes[i], send(fd, d, sizes[i], 0));
		UNTIL((n = echo_one(echo)) != -1);
		assert_int_equal(sizes[i], n);
		gets_pattern(fd, sizes[i], i);
		sum += sizes[i];
	}
	assert_int_equal(1, opened); /* one source, one stream */
	assert_int_equal(1, udp_listener_flows(l));
	udp_listener_moved(l, &in, &out);
	assert_int_equal(sum, in);
	assert_int_equal(sum, out);
	/* Several at once do not melt into one. */
	for (unsigned i = 0; i < 20; i++) {
		char d[100];
		fill(d, 10 + i, i);
		assert_int_equal(10 + i, send(fd, d, 10 + i, 0));
	}
	for (unsigned i = 0; i < 20; i++) {
		ssize_t n;
		UNTIL((n = echo_one(echo)) != -1);
		assert_int_equal(10 + i, n);
		gets_pattern(fd, 10 + i, i);
	}
	close_listener(l);
	assert_int_equal(1, ended);
	assert_int_equal(0, ended_as.code);
	close(fd);
	close(echo);
}

static void sources_have_streams_of_their_own(void **state)
{
	(void)state;
	uint16_t port, own;
	int echo = bound("127.0.0.1", &port), fd[3];
	aim("127.0.0.1", port);
	struct udp_listener *l = listen_on("localhost", 0);
	for (unsigned i = 0; i < 3; i++) {
		fd[i] = bound(i == 2 ? "::1" : "127.0.0.1", &own);
		if (fd[i] == -1)
			continue;
		connect_to(fd[i], i == 2 ? "::1" : "127.0.0.1", udp_listener_port(l));
		char d[10];
		fill(d, 10, i);
		assert_int_equal(10, send(fd[i], d, 10, 0));
	}
	unsigned n = fd[2] == -1 ? 2 : 3;
	for (unsigned i = 0; i < n; i++)
		UNTIL(echo_one(echo) == 10);
	for (unsigned i = 0; i < n; i++)
		gets_pattern(fd[i], 10, i);
	assert_int_equal(n, opened);
	close_listener(l);
	for (unsigned i = 0; i < n; i++)
		close(fd[i]);
	close(echo);
}

/* A connected socket hears only the address that it speaks to. */
static void answers_come_from_where_they_were_asked(void **state)
{
	static const char *const any[] = { "0.0.0.0", "" };
	(void)state;
	uint16_t port, own;
	int echo = bound("127.0.0.1", &port);
	aim("127.0.0.1", port);
	for (size_t i = 0; i < ARRAY_LEN(any); i++) {
		struct udp_listener *l = listen_on(any[i], 0);
		int fd = bound("127.0.0.1", &own);
		connect_to(fd, "127.0.0.9", udp_listener_port(l));
		char d[10];
		fill(d, 10, 3);
		assert_int_equal(10, send(fd, d, 10, 0));
		UNTIL(echo_one(echo) == 10);
		gets_pattern(fd, 10, 3);
		close(fd);
		close_listener(l);
	}
	close(echo);
}

static void silent_flows_end(void **state)
{
	(void)state;
	uint16_t port, own;
	int echo = bound("127.0.0.1", &port), asks = bound("127.0.0.1", &own);
	int talks = bound("127.0.0.1", &own);
	aim("127.0.0.1", port);
	struct udp_listener *l = listen_on("127.0.0.1", 100);
	connect_to(talks, "127.0.0.1", udp_listener_port(l));
	connect_to(asks, "127.0.0.1", udp_listener_port(l));
	assert_int_equal(1, send(talks, "x", 1, 0));
	UNTIL(echo_one(echo) == 1);
	char byte;
	UNTIL(recv(talks, &byte, 1, 0) == 1);
	assert_int_equal(1, send(asks, "x", 1, 0));
	UNTIL(recv(echo, &byte, 1, 0) == 1);
	UNTIL(ended == 1);
	assert_true(ended_ms >= 100);
	assert_int_equal(0, ended_as.b_to_a); /* the one without an answer */
	UNTIL(ended == 2);
	assert_true(ended_ms >= 300);
	assert_int_equal(1, ended_as.b_to_a);
	assert_int_equal(0, udp_listener_flows(l));
	UNTIL(finished == 2); /* there, too */
	/* The next datagram begins anew. */
	assert_int_equal(1, send(asks, "x", 1, 0));
	UNTIL(echo_one(echo) == 1);
	UNTIL(recv(asks, &byte, 1, 0) == 1);
	assert_int_equal(3, opened);
	close_listener(l);
	close(talks);
	close(asks);
	close(echo);
}

static void the_oldest_makes_room(void **state)
{
	(void)state;
	uint16_t port, own;
	char host[32], byte;
	int echo = bound("127.0.0.1", &port), first = bound("127.0.0.1", &own);
	aim("127.0.0.1", port);
	struct udp_listener *l = listen_on("0.0.0.0", 0);
	connect_to(first, "127.0.0.1", udp_listener_port(l));
	for (unsigned i = 0; i < UDP_FLOWS_MAX + 5; i++) {
		snprintf(host, sizeof(host), "127.9.%u.%u", i / 250, 1 + i % 250);
		int fd = bound(host, &own);
		connect_to(fd, "127.0.0.1", udp_listener_port(l));
		assert_int_equal(1, send(fd, "x", 1, 0));
		close(fd);
		if (i % 16 == 0) { /* keeps itself fresh */
			assert_int_equal(1, send(first, "y", 1, 0));
			UNTIL(recv(echo, &byte, 1, 0) == 1 && byte == 'y');
		}
	}
	UNTIL(ended == 6 && opened == UDP_FLOWS_MAX + 6);
	assert_int_equal(UDP_FLOWS_MAX, udp_listener_flows(l));
	assert_int_equal(0, ended_as.code);
	assert_int_equal(1, send(first, "y", 1, 0));
	UNTIL(recv(echo, &byte, 1, 0) == 1 && byte == 'y');
	assert_int_equal(UDP_FLOWS_MAX + 6, opened); /* it was not the oldest */
	close_listener(l);
	close(first);
	close(echo);
}

static void nobody_there(void **state)
{
	(void)state;
	uint16_t port, own;
	int fd = bound("127.0.0.1", &own);
	close(bound("127.0.0.1", &port));
	aim("127.0.0.1", port);
	struct udp_listener *l = listen_on("127.0.0.1", 0);
	connect_to(fd, "127.0.0.1", udp_listener_port(l));
	assert_int_equal(1, send(fd, "x", 1, 0));
	UNTIL(ended == 1);
	assert_int_equal(-ECONNREFUSED, ended_as.code);
	assert_false(ended_as.a_failed);
	char want[64];
	snprintf(want, sizeof(want), "dial udp 127.0.0.1:%u: connection refused", port);
	assert_string_equal(want, ended_why);
	assert_int_equal(0, udp_listener_flows(l));

	/* One that stops listening is noticed, too. */
	int echo = bound("127.0.0.1", &port);
	aim("127.0.0.1", port);
	assert_int_equal(1, send(fd, "x", 1, 0));
	UNTIL(echo_one(echo) == 1);
	close(echo);
	assert_int_equal(1, send(fd, "x", 1, 0));
	UNTIL(ended == 2);
	assert_int_equal(-ECONNREFUSED, ended_as.code);

	/* What cannot be found is refused. */
	aim("no name", port);
	assert_int_equal(1, send(fd, "x", 1, 0));
	UNTIL(ended == 3);
	assert_int_equal(-ERR_NOT_FOUND, ended_as.code);
	assert_string_equal("dial udp: lookup no name: no such host", ended_why);
	close_listener(l);
	close(fd);
}

/* "localhost" is two addresses, and datagrams do not say which one is in use. */
static void the_names_other_address(void **state)
{
	static const char *const hosts[] = { "127.0.0.1", "::1" };
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(hosts); i++) {
		uint16_t port, own;
		int echo = bound(hosts[i], &port), fd = bound("127.0.0.1", &own);
		if (echo == -1)
			continue;
		aim("localhost", port);
		struct udp_listener *l = listen_on("127.0.0.1", 0);
		connect_to(fd, "127.0.0.1", udp_listener_port(l));
		for (unsigned n = 1; n < 4; n++) {
			char d[10];
			fill(d, n, n);
			assert_int_equal(n, send(fd, d, n, 0));
		}
		for (unsigned n = 1; n < 4; n++) {
			UNTIL(echo_one(echo) == (ssize_t)n);
			gets_pattern(fd, n, n);
		}
		close_listener(l);
		assert_int_equal(0, ended_as.code);
		close(fd);
		close(echo);
	}
}

static void a_taken_port(void **state)
{
	(void)state;
	struct addr a = { .kind = ADDR_UDP, .host = "127.0.0.1" };
	const struct udp_listen_options o = { .open = on_flow };
	int err = 0, fd = bound("127.0.0.1", &a.port);
	assert_null(udp_listener_new(rx, &a, &o, &err));
	assert_int_equal(-EADDRINUSE, err);
	snprintf(a.host, sizeof(a.host), "localhost");
	assert_null(udp_listener_new(rx, &a, &o, &err));
	assert_int_equal(-EADDRINUSE, err);
	snprintf(a.host, sizeof(a.host), "some.name");
	assert_null(udp_listener_new(rx, &a, &o, &err));
	assert_int_equal(-EADDRNOTAVAIL, err);
	close(fd);
}

/* --- the framing alone, over a stream that does as it likes --- */

struct reading {
	unsigned n;
	size_t bytes;
};

static void on_datagram(void *arg, struct slice d)
{
	struct reading *r = arg;
	static char want[UINT16_MAX];
	fill(want, d.n, r->n);
	assert_memory_equal(want, d.p, d.n);
	r->n++;
	r->bytes += d.n;
}

static void framing_survives_any_cut(void **state)
{
	(void)state;
	for (unsigned round = 0; round < 20; round++) {
		struct stream *a, *b;
		const struct sim_rules rules = { .seed = round,
						 .refuse = 20,
						 .piece = round % 2 ? 1 + round : 0,
						 .capacity = round < 10 ? 100 : 100000 };
		struct dgram out, in;
		struct reading got = { 0 };
		sim_pair(rx, &rules, &a, &b);
		dgram_init(&out);
		dgram_init(&in);
		unsigned sent = 0;
		size_t bytes = 0;
		static char d[UINT16_MAX];
		for (unsigned turns = 0; got.n < 40; turns++) {
			size_t n = sent % 3 == 0 ? sent % 7 : sent * 97 % 3000;
			assert_true(turns < 1000000);
			fill(d, n, sent);
			if (sent < 40 && dgram_write(&out, a, slice_of(d, n)) == 0) {
				sent++;
				bytes += n;
			}
			int r = dgram_flush(&out, a);
			assert_true(r == 0 || r == -EAGAIN);
			r = dgram_read(&in, b, on_datagram, &got);
			assert_true(r == 1 || r == -EAGAIN);
		}
		assert_int_equal(bytes, got.bytes);
		assert_int_equal(0, in.in.len);
		dgram_end(&out);
		dgram_end(&in);
		stream_close(a, 0);
		stream_close(b, 0);
	}
}

static void a_stuck_stream_drops(void **state)
{
	(void)state;
	struct stream *a, *b;
	const struct sim_rules rules = { .capacity = 1000 };
	struct dgram out, in;
	struct reading got = { 0 };
	static char d[1000];
	unsigned sent = 0;
	sim_pair(rx, &rules, &a, &b);
	dgram_init(&out);
	dgram_init(&in);
	int r;
	do {
		fill(d, sizeof(d), sent);
		r = dgram_write(&out, a, slice_of(d, sizeof(d)));
		sent += r == 0;
	} while (r == 0);
	assert_int_equal(-ENOBUFS, r);
	assert_true(sent > 60 && sent < 300);
	while (got.n < sent) { /* none of those that were taken is lost or cut */
		dgram_flush(&out, a);
		dgram_read(&in, b, on_datagram, &got);
	}
	assert_int_equal(0, out.out.len);
	/* The end inside of one. */
	char header[DGRAM_HEADER];
	dgram_header(header, 10);
	assert_int_equal(2, stream_write(a, header, 2));
	assert_int_equal(3, stream_write(a, "abc", 3));
	assert_int_equal(0, stream_shut(a));
	while ((r = dgram_read(&in, b, on_datagram, &got)) == 1)
		;
	assert_int_equal(-ERR_TRUNCATED, r);
	dgram_end(&out);
	dgram_end(&in);
	stream_close(a, 0);
	stream_close(b, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(every_size_arrives_as_one),
		T(sources_have_streams_of_their_own),
		T(answers_come_from_where_they_were_asked),
		T(silent_flows_end),
		T(the_oldest_makes_room),
		T(nobody_there),
		T(the_names_other_address),
		T(a_taken_port),
		T(framing_survives_any_cut),
		T(a_stuck_stream_drops),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
