/* forward.c between sockets of this process and a small guest in it: what is asked of the guest,
 * refusals, half close, a lost carrier, draining. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/tstunnel/forward.h"
#include "reactor/buf.h"
#include "reactor/err.h"
#include "reactor/listen.h"
#include "reactor/log.h"
#include "test/unit/mini_guest.h"
#include "test/unit/turn.h"

static struct reactor *rx;

/* --- the side that is tested --- */

static struct tunnel *tunnel;

static int setup(void **state)
{
	(void)state;
	log_level = LOG_ERROR;
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
	return 0;
}

static struct forward *forward_of(const char *src, const char *target)
{
	char err[512] = "";
	struct forward_spec sp;
	char *dst = xasprintf("tstunnel://" HOST ":%u/%s", guest.port, target);
	if (forward_parse(&sp, slice_str(src), slice_str(dst), err, sizeof(err)) < 0)
		fail_msg("%s", err);
	struct forward *f;
	int r = forward_new(&f, rx, tunnel, &sp, err, sizeof(err));
	assert_string_equal("", err);
	assert_int_equal(0, r);
	forward_spec_end(&sp);
	free(dst);
	return f;
}

/* Where the i-th port listens, from the line that people read. */
static struct addr where(struct forward *f, unsigned i)
{
	struct addr a;
	struct buf b;
	char err[256];
	struct slice from, rest;
	buf_init(&b, 1024);
	assert_int_equal(0, forward_put(f, i, &b));
	slice_cut(buf_data(&b), ' ', &from, &rest);
	assert_true(slice_starts(rest, SLICE("-> tstunnel://" HOST ":")));
	assert_int_equal(0, addr_parse(&a, from, 0, err, sizeof(err)));
	buf_end(&b);
	return a;
}

static int client(struct addr a)
{
	struct sockaddr_storage ss;
	socklen_t len;
	assert_int_equal(0, addr_literal(&a, &ss, &len));
	int fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(0, connect(fd, (struct sockaddr *)&ss, len));
	return fd;
}

/* The newest stream that the guest was asked for. */
static struct stream *next_stream(unsigned n)
{
	UNTIL(guest.nopened == n);
	return guest.opened[n - 1];
}

static void client_gets(int fd, const char *want)
{
	char got[64];
	ssize_t n;
	UNTIL((n = recv(fd, got, sizeof(got), MSG_DONTWAIT)) != -1 || errno != EAGAIN);
	assert_int_equal(strlen(want), n);
	assert_memory_equal(want, got, strlen(want));
}

static void client_is_reset(int fd)
{
	char byte;
	ssize_t n;
	UNTIL((n = recv(fd, &byte, 1, MSG_DONTWAIT)) != -1 || errno != EAGAIN);
	assert_int_equal(-1, n);
	assert_int_equal(ECONNRESET, errno);
	close(fd);
}

static void stream_gets(struct stream *s, const char *want)
{
	char got[64];
	ssize_t n;
	UNTIL((n = stream_read(s, got, sizeof(got))) != -EAGAIN);
	assert_int_equal(strlen(want), n);
	assert_memory_equal(want, got, strlen(want));
}

/* --- tests --- */

static void early_data_and_half_close(void **state)
{
	(void)state;
	struct forward *f = forward_of("tcp:" HOST ":0", "tcp:target:80");
	int fd = client(where(f, 0));
	assert_int_equal(5, send(fd, "early", 5, 0));
	struct stream *s = next_stream(1);
	assert_string_equal("{\"kind\":\"tcp\",\"address\":\"target:80\"}", guest.json[0]);
	assert_int_equal(1, forward_connections(f));
	stream_gets(s, "early"); /* before the target answered */
	mux_accept(s, SLICE(""));
	assert_int_equal(0, shutdown(fd, SHUT_WR));
	stream_gets(s, "");
	assert_int_equal(4, stream_write(s, "last", 4));
	assert_int_equal(0, stream_shut(s));
	client_gets(fd, "last");
	client_gets(fd, "");
	UNTIL(forward_connections(f) == 0);
	close(fd);

	/* The other direction first. */
	fd = client(where(f, 0));
	s = next_stream(2);
	mux_accept(s, SLICE(""));
	assert_int_equal(0, stream_shut(s));
	client_gets(fd, "");
	assert_int_equal(5, send(fd, "after", 5, 0));
	stream_gets(s, "after");
	close(fd);
	stream_gets(s, "");
	UNTIL(forward_connections(f) == 0);
	forward_free(f);
}

static void a_refused_target_is_a_reset(void **state)
{
	(void)state;
	struct forward *f = forward_of("tcp:" HOST ":0", "tcp:target:80");
	int fd = client(where(f, 0)), chatty = client(where(f, 0));
	assert_int_equal(5, send(chatty, "early", 5, 0));
	UNTIL(guest.nopened == 2);
	for (unsigned i = 0; i < 2; i++)
		mux_refuse(guest.opened[i], -ECONNREFUSED, "connection refused");
	guest.nopened = 0;
	client_is_reset(fd);
	client_is_reset(chatty);
	assert_int_equal(0, forward_connections(f));

	/* One that breaks off later, too; and what a client resets is reset there. */
	fd = client(where(f, 0));
	struct stream *s = next_stream(1);
	mux_accept(s, SLICE(""));
	assert_int_equal(2, stream_write(s, "hi", 2));
	client_gets(fd, "hi");
	stream_close(s, -ECONNRESET);
	guest.nopened = 0;
	client_is_reset(fd);
	fd = client(where(f, 0));
	s = next_stream(1);
	mux_accept(s, SLICE(""));
	struct linger now = { .l_onoff = 1 };
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(fd);
	char byte;
	ssize_t r;
	UNTIL((r = stream_read(s, &byte, 1)) != -EAGAIN);
	assert_int_equal(-ECONNRESET, r);
	forward_free(f);
}

static void on_nobody(void *arg, int fd, const struct sockaddr *peer)
{
	(void)arg, (void)peer;
	close(fd);
}

static void ranges_go_port_by_port(void **state)
{
	(void)state;
	int err;
	struct forward *f = NULL;
	char src[64], text[512];
	unsigned from = 0;
	struct forward_spec sp;
	for (unsigned tries = 0; !f; tries++) { /* three free ports in a row */
		assert_true(tries < 100);
		from = 20000 + arc4random_uniform(10000);
		snprintf(src, sizeof(src), "tcp:" HOST ":%u-%u", from, from + 2);
		assert_int_equal(0, forward_parse(&sp, slice_str(src),
						  SLICE("tstunnel://" HOST "/tcp:t:7000-7002"),
						  text, sizeof(text)));
		assert_int_equal(3, sp.count);
		forward_new(&f, rx, tunnel, &sp, text, sizeof(text));
		forward_spec_end(&sp);
	}
	int fd[3];
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(from + i, where(f, i).port);
		fd[i] = client(where(f, i));
		next_stream(i + 1);
		snprintf(text, sizeof(text), "{\"kind\":\"tcp\",\"address\":\"t:%u\"}", 7000 + i);
		assert_string_equal(text, guest.json[i]);
	}
	forward_free(f); /* with connections: they are reset, here and there */
	for (unsigned i = 0; i < 3; i++)
		client_is_reset(fd[i]);

	/* One port taken: all or nothing. */
	struct addr taken = { .kind = ADDR_TCP, .host = HOST, .port = (uint16_t)(from + 1) };
	struct listener *l = listener_new(rx, &taken, on_nobody, NULL, &err);
	assert_non_null(l);
	assert_int_equal(0, forward_parse(&sp, slice_str(src),
					  SLICE("tstunnel://" HOST "/tcp:t:7000-7002"), text,
					  sizeof(text)));
	assert_int_equal(-EADDRINUSE, forward_new(&f, rx, tunnel, &sp, text, sizeof(text)));
	assert_null(f);
	snprintf(src, sizeof(src), "cannot listen on " HOST ":%u: address already in use",
		 from + 1);
	assert_string_equal(src, text);
	forward_spec_end(&sp);
	listener_close(l);
}

static void sockets_both_ends(void **state)
{
	(void)state;
	char path[64], src[80];
	snprintf(path, sizeof(path), "/tmp/test-forward-%d.sock", (int)getpid());
	snprintf(src, sizeof(src), "unix:%s", path);
	struct forward *f = forward_of(src, "unix:/run/a%20%22b%22.sock");
	int fd = client(where(f, 0));
	struct stream *s = next_stream(1);
	assert_string_equal("{\"kind\":\"unix\",\"address\":\"unix:///run/a \\\"b\\\".sock\"}",
			    guest.json[0]);
	mux_accept(s, SLICE(""));
	assert_int_equal(5, stream_write(s, "hello", 5));
	client_gets(fd, "hello");
	close(fd);
	stream_gets(s, "");
	forward_free(f);
	assert_int_equal(-1, access(path, F_OK));
}

static void a_lost_carrier_leaves_the_listener(void **state)
{
	(void)state;
	struct forward *f = forward_of("tcp:localhost:0", "tcp:target:80");
	struct addr a = where(f, 0);
	snprintf(a.host, sizeof(a.host), HOST); /* localhost is that, at least */
	int fd = client(a);
	mux_accept(next_stream(1), SLICE(""));
	guest_drop(0);
	client_is_reset(fd);

	/* No guest at all: at once. */
	listener_close(guest.listener);
	guest.listener = NULL;
	for (unsigned i = 1; i < guest.ncarriers; i++)
		guest_drop(i);
	client_is_reset(client(a));

	guest_listen();
	unsigned before = guest.nopened;
	fd = client(a);
	struct stream *s = next_stream(before + 1);
	mux_accept(s, SLICE(""));
	assert_int_equal(5, stream_write(s, "again", 5));
	client_gets(fd, "again");
	close(fd);
	forward_free(f);
}

static struct forward *draining;

static void on_drained(void *arg)
{
	*(bool *)arg = true;
	forward_free(draining);
}

static void drain_waits_for_connections(void **state)
{
	(void)state;
	bool done = false;
	draining = forward_of("tcp:" HOST ":0", "tcp:target:80");
	struct addr a = where(draining, 0);
	int fd = client(a);
	struct stream *s = next_stream(1);
	mux_accept(s, SLICE(""));
	forward_drain(draining, on_drained, &done);
	struct sockaddr_storage ss;
	socklen_t len;
	addr_literal(&a, &ss, &len);
	int late = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(-1, connect(late, (struct sockaddr *)&ss, len));
	assert_int_equal(ECONNREFUSED, errno);
	close(late);
	assert_int_equal(4, send(fd, "more", 4, 0));
	stream_gets(s, "more");
	assert_false(done);
	assert_int_equal(0, stream_shut(s));
	close(fd);
	UNTIL(done);

	done = false; /* with nothing to wait for: still from a task */
	draining = forward_of("tcp:" HOST ":0", "tcp:target:80");
	forward_drain(draining, on_drained, &done);
	assert_false(done);
	UNTIL(done);
	forward_free(NULL);
}

/* --- what people write --- */

static void good_specs(void **state)
{
	(void)state;
	static const struct {
		const char *src, *dst, *from;
		unsigned count;
	} cases[] = {
		{ "tcp:localhost:8080",
		  "tstunnel://containers.tinyscale.net:443/tcp:localhost:8080?cert=/c/client.crt"
		  "&key=/c/client.key&ca=/c/ca.crt",
		  "localhost:8080", 1 },
		{ "tcp::80", "tstunnel://h/tcp:t:1", "localhost:80", 1 },
		{ "tcp:0.0.0.0:0", "TSTUNNEL://h/tcp:t:1", "0.0.0.0:0", 1 },
		{ "tcp:[::1]:8000-8100", "tstunnel://h/tcp:[::2]:1-101", "[::1]:8000", 101 },
		{ "tcp:127.0.0.1:1-65535", "tstunnel://h/tcp:t:1-65535", "127.0.0.1:1", 65535 },
		{ "tcp:localhost:5-5", "tstunnel://h/unix:/s", "localhost:5", 1 },
		{ "unix:/run/a:1-2", "tstunnel://h/tcp:t:1", "unix:///run/a:1-2", 1 },
		{ "udp::53", "tstunnel://h/udp:t:53", "localhost:53", 1 },
		{ "udp:0.0.0.0:1-9", "tstunnel://h/udp:t:11-19", "0.0.0.0:1", 9 },
		{ "tstunnel://h/tcp:localhost:9000", "tcp::3000", "localhost:3000", 1 },
		{ "tstunnel://h/tcp:0.0.0.0:0", "unix:/s", "unix:///s", 1 },
		{ "tstunnel://h/udp:[::]:5-6", "udp:x:15-16", "x:15", 2 },
		{ "TSTUNNEL://h/unix:/s", "tcp:x:1", "x:1", 1 },
	};
	char err[512] = "";
	struct forward_spec sp;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		if (forward_parse(&sp, slice_str(cases[i].src), slice_str(cases[i].dst), err,
				  sizeof(err)) < 0)
			fail_msg("%s: %s", cases[i].src, err);
		assert_string_equal(cases[i].from, addr_text(&sp.from));
		assert_int_equal(cases[i].count, sp.count);
		assert_int_equal(!strncasecmp(cases[i].src, "tstunnel:", 9), sp.reverse);
		forward_spec_end(&sp);
	}
}

static void bad_specs_name_the_part(void **state)
{
	(void)state;
	static const char url[] = "tstunnel://h/tcp:t:1", udp[] = "tstunnel://h/udp:t:1";
	static const struct {
		const char *src, *dst, *words;
	} cases[] = {
		{ url, url, "SRC and DST are both tstunnel:// URLs" },
		{ "tcp:localhost:1", "tcp:localhost:2",
		  "neither SRC nor DST is a tstunnel:// URL" },
		{ "udp:localhost:53", url, "SRC is UDP and the other is not" },
		{ "tcp:localhost:1", udp, "DST is UDP and the other is not" },
		{ "unix:/a", udp, "DST is UDP and the other is not" },
		{ udp, "tcp:localhost:1", "SRC is UDP and the other is not" },
		{ url, "udp:localhost:1", "DST is UDP and the other is not" },
		{ "tcp:localhost:1", "tstunnel://h/app", "DST: path \"/app\" is no target" },
		{ "tstunnel://h/app", "tcp:localhost:1", "SRC: path \"/app\" is no target" },
		{ "tcp:localhost:1", "tstunnel://h/tcp:t", "DST: tstunnel URL: target port is" },
		{ "tcp:localhost:1", "tstunnel://h/tcp:t:0", "DST: port 0 is for listening" },
		{ url, "tcp:localhost:0", "DST: port 0 is for listening" },
		{ "tcp:localhost:1", "tstunnel://h/tcp:t:1?crt=x", "unknown parameter \"crt\"" },
		{ "tcp:localhost:1", "tstunnel://h/unix:/%ff",
		  "DST: the target's path is not UTF" },
		{ "tcp:localhost", url, "SRC: address tcp:localhost: missing port" },
		{ url, "tcp:localhost", "DST: address tcp:localhost: missing port" },
		{ "tcp:localhost:99999", url, "SRC: address tcp:localhost:99999: bad port" },
		{ "unix:", url, "SRC: address unix:: missing path" },
		{ "tcp:localhost:0-3", url, "SRC: port range \"0-3\"" },
		{ "tcp:localhost:9-8", url, "SRC: port range \"9-8\"" },
		{ "tcp:localhost:9-x", url, "SRC: port range \"9-x\"" },
		{ "tcp:localhost:9-65536", url, "SRC: port range \"9-65536\"" },
		{ "tcp:localhost:1-3", url, "SRC has 3 ports, DST has 1" },
		{ "tcp:localhost:1", "tstunnel://h/tcp:t:1-2", "SRC has 1 port, DST has 2" },
		{ "tstunnel://h/tcp:t:1-2", "tcp:localhost:1", "SRC has 2 ports, DST has 1" },
		{ "tstunnel://h/tcp:t:0", "tcp:localhost:1-2", "SRC has 1 port, DST has 2" },
		{ "tcp:localhost:1-3", "tstunnel://h/unix:/s", "SRC has 3 ports, DST has 1" },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		char err[512] = "";
		struct forward_spec sp;
		int r = forward_parse(&sp, slice_str(cases[i].src), slice_str(cases[i].dst), err,
				      sizeof(err));
		if (r != -EINVAL || !strstr(err, cases[i].words))
			fail_msg("%s %s: %d %s", cases[i].src, cases[i].dst, r, err);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(early_data_and_half_close),
		T(a_refused_target_is_a_reset),
		T(ranges_go_port_by_port),
		T(sockets_both_ends),
		T(a_lost_carrier_leaves_the_listener),
		T(drain_waits_for_connections),
		cmocka_unit_test(good_specs),
		cmocka_unit_test(bad_specs_name_the_part),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
