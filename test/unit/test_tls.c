/* TLS streams that move data: between two of ours, over a socket pair or loopback TCP. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>

#include "reactor/buf.h"
#include "reactor/err.h"
#include "test/unit/tls_pair.h"

/* --- data --- */

static void test_opens(void **state)
{
	(void)state;
	int fd[2];
	socket_pair(fd);
	struct tls_two t = tls_pair_over(tls_client_config("ca", "alice"),
					 tls_server_config("ca", "server"), HOST, fd, 0, NULL);
	assert_int_equal(stream_write(t.client, "x", 1), -EAGAIN);
	assert_null(tls_peer(t.server));
	assert_string_equal(tls_session_text(t.client), "");
	assert_int_equal(tls_put(t.client, NULL, 0), 0);
	assert_int_equal(tls_put(t.server, NULL, 0), 0);
	assert_true(stream_is_tls(t.client));
	assert_string_equal(tls_session_text(t.client), "TLSv1.3 TLS_AES_128_GCM_SHA256");
	const struct tls_peer *p = tls_peer(t.server);
	assert_non_null(p);
	assert_string_equal(p->common_name, "client");
	assert_string_equal(p->subject, "CN=client");
	assert_string_equal(p->spiffe_id, "spiffe://tinyscale.net/ns/dev/sa/alice");
	assert_true(p->verified);
	p = tls_peer(t.client);
	assert_string_equal(p->common_name, HOST);
	assert_string_equal(p->spiffe_id, "");
	stream_close(t.client, 0);
	stream_close(t.server, 0);
	tls_settle();
}

static unsigned char pattern(uint64_t i)
{
	return (unsigned char)((i * 2654435761u) >> 13);
}

/* Sends total bytes each way at once, in random portions of up to most bytes, and shuts. */
static void exchange(struct tls_two t, uint64_t total, size_t most)
{
	struct stream *s[2] = { t.client, t.server };
	uint64_t sent[2] = { 0 }, got[2] = { 0 };
	bool shut_done[2] = { false }, ended[2] = { false };
	unsigned char *data = xmalloc(most);
	while (!ended[0] || !ended[1]) {
		bool moved = false;
		woken = false;
		for (int i = 0; i < 2; i++) {
			size_t n = 1 + tls_chance() % most;
			n = MIN(n, total - sent[i]);
			for (size_t k = 0; k < n; k++)
				data[k] = pattern(sent[i] + k + (uint64_t)i);
			size_t cut = n ? tls_chance() % n : 0, cut2 = cut + (n - cut) / 2;
			struct iovec iov[3] = { { data, cut },
						{ data + cut, cut2 - cut },
						{ data + cut2, n - cut2 } };
			ssize_t r = n ? s[i]->ops->write(s[i], iov, 3) : 0;
			assert_true(r >= 0 || r == -EAGAIN);
			moved |= r > 0;
			sent[i] += r > 0 ? (uint64_t)r : 0;
			if (sent[i] == total && !shut_done[i]) {
				int code = stream_shut(s[i]);
				assert_true(code == 0 || code == -EAGAIN);
				shut_done[i] = code == 0;
				moved |= shut_done[i];
			}
			if (ended[i])
				continue;
			r = stream_read(s[i], data, 1 + tls_chance() % most);
			assert_true(r >= 0 || r == -EAGAIN);
			ended[i] = r == 0;
			moved |= r >= 0;
			for (ssize_t k = 0; k < r; k++)
				assert_int_equal(data[k],
						 pattern(got[i] + (uint64_t)k + (uint64_t)(1 - i)));
			got[i] += r > 0 ? (uint64_t)r : 0;
		}
		if (!moved)
			tls_wait();
	}
	assert_int_equal(got[0], total);
	assert_int_equal(got[1], total);
	free(data);
	stream_close(s[0], 0);
	stream_close(s[1], 0);
	tls_settle();
}

static void test_random_sizes(void **state)
{
	(void)state;
	tls_seed = 7;
	for (int round = 0; round < 20; round++)
		exchange(tls_pair(round % 2 ? 0 : 1 + tls_chance() % 20000, NULL),
			 tls_chance() % 400000, 1 + tls_chance() % 100000);
	exchange(tls_pair(7, NULL), 5000, 300);
	exchange(tls_pair(0, NULL), 0, 1);
}

static double cpu_seconds(void)
{
	struct rusage u;
	getrusage(RUSAGE_SELF, &u);
	return (double)u.ru_utime.tv_sec + (double)u.ru_stime.tv_sec +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* One way in large pieces; TEST_TLS_MB sets how much, for measuring. */
static void test_bulk(void **state)
{
	(void)state;
	const char *mb = getenv("TEST_TLS_MB");
	const uint64_t total = (mb ? strtoull(mb, NULL, 10) : 64) << 20;
	const size_t piece = 256 * 1024;
	size_t calls = 0;
	int fd[2];
	tcp_pair(fd);
	struct tls_two t = tls_pair_over(tls_client_config("ca", "client"),
					 tls_server_config("ca", "server"), HOST, fd, 0, &calls);
	char *out = xmalloc(piece), *in = xmalloc(piece);
	for (size_t i = 0; i < piece; i++)
		out[i] = (char)pattern(i);
	assert_int_equal(tls_put(t.client, NULL, 0), 0);
	calls = 0;
	uint64_t sent = 0, got = 0;
	double before = cpu_seconds();
	while (got < total) {
		bool moved = false;
		woken = false;
		size_t at = sent % piece;
		ssize_t r = 0;
		if (sent < total && (r = stream_write(t.client, out + at, piece - at)) > 0)
			sent += (uint64_t)r;
		assert_true(r >= 0 || r == -EAGAIN);
		moved |= r > 0;
		r = stream_read(t.server, in, piece);
		assert_true(r > 0 || r == -EAGAIN);
		moved |= r > 0;
		for (ssize_t k = 0; k < r;) {
			size_t from = (got + (uint64_t)k) % piece;
			size_t n = MIN(piece - from, (size_t)(r - k));
			if (!mb)
				assert_memory_equal(in + k, out + from, n);
			k += (ssize_t)n;
		}
		got += r > 0 ? (uint64_t)r : 0;
		if (!moved)
			tls_wait();
	}
	double spent = cpu_seconds() - before, gb = (double)total / 1e9;
	if (mb)
		print_message("%.3f s/GB of CPU, both ends; %.1f lower calls per MB, both ends\n",
			      spent / gb, (double)calls / ((double)total / 1e6));
	assert_true(calls < total / (16 * 1024)); /* far fewer than two a record */
	free(out);
	free(in);
	stream_close(t.client, 0);
	stream_close(t.server, 0);
	tls_settle();
}

/* What the mux does: a 12-byte header and a payload, each in its own iovec, share a record. */
static void test_gather(void **state)
{
	(void)state;
	struct tls_two t = tls_pair(0, NULL);
	assert_int_equal(tls_put(t.client, NULL, 0), 0);
	char in[128], header[] = "header", payload[] = "payload";
	struct iovec iov[4] = { { header, 6 }, { NULL, 0 }, { payload, 7 }, { NULL, 0 } };
	assert_int_equal(t.client->ops->write(t.client, iov, 4), 13);
	/* A record is opened at once: a short read leaves the rest without another event. */
	assert_int_equal(tls_get(t.server, in, 4), 4);
	assert_int_equal(stream_read(t.server, in + 4, sizeof(in) - 4), 9);
	assert_memory_equal(in, "headerpayload", 13);
	assert_int_equal(stream_read(t.server, in, sizeof(in)), -EAGAIN);
	stream_close(t.client, 0);
	stream_close(t.server, 0);
	tls_settle();
}

static void test_half_close(void **state)
{
	(void)state;
	struct tls_two t = tls_pair(0, NULL);
	char in[16];
	assert_int_equal(tls_put(t.client, "ask", 3), 3);
	assert_int_equal(tls_put_end(t.client), 0);
	assert_int_equal(tls_put_end(t.client), 0);
	assert_int_equal(stream_write(t.client, "x", 1), -EPIPE);
	assert_int_equal(tls_get(t.server, in, sizeof(in)), 3);
	assert_int_equal(tls_get(t.server, in, sizeof(in)), 0);
	assert_int_equal(tls_get(t.server, in, sizeof(in)), 0);
	assert_int_equal(tls_put(t.server, "answer", 6), 6);
	assert_int_equal(tls_get(t.client, in, sizeof(in)), 6);
	assert_int_equal(stream_read(t.client, in, sizeof(in)), -EAGAIN);
	assert_int_equal(tls_put_end(t.server), 0);
	assert_int_equal(tls_get(t.client, in, sizeof(in)), 0);
	stream_close(t.client, 0);
	stream_close(t.server, 0);
	tls_settle();
}

/* close(0) with sealed bytes that the peer has not made room for: all of it arrives. */
static void test_close_flushes(void **state)
{
	(void)state;
	int fd[2];
	tcp_pair(fd);
	struct tls_two t = tls_pair_over(tls_client_config("ca", "client"),
					 tls_server_config("ca", "server"), HOST, fd, 0, NULL);
	static char block[65536];
	uint64_t sent = 0, got = 0;
	ssize_t r;
	assert_int_equal(tls_put(t.client, NULL, 0), 0);
	assert_int_equal(tls_put(t.server, "unread", 6),
			 6); /* must not turn the close into a reset */
	for (int i = 0; i < 2000 && (r = stream_write(t.client, block, sizeof(block))) > 0; i++)
		sent += (uint64_t)r;
	assert_int_equal(r, -EAGAIN);
	stream_close(t.client, 0);
	while ((r = tls_get(t.server, block, sizeof(block))) > 0)
		got += (uint64_t)r;
	assert_int_equal(r, 0);
	assert_int_equal(got, sent);
	stream_close(t.server, 0);
	tls_settle();
}

static void test_truncated(void **state)
{
	(void)state;
	struct tls_two t = tls_pair(0, NULL);
	char in[16];
	assert_int_equal(tls_put(t.server, "half", 4), 4);
	assert_int_equal(tls_put(t.client, NULL, 0), 0);
	stream_close(t.server, -ECANCELED);
	assert_int_equal(tls_get(t.client, in, sizeof(in)), 4);
	tls_expect_why(t.client, tls_get(t.client, in, sizeof(in)), ERR_TRUNCATED,
		       "unexpected EOF");
	assert_int_equal(tls_get(t.client, in, sizeof(in)), -ERR_TRUNCATED);
	stream_close(t.client, 0);
	tls_settle();
}

/* An open stream that has moved data and is quiet holds little. */
static void test_idle_memory(void **state)
{
	(void)state;
	enum { PAIRS = 100 };
	struct tls_two t[PAIRS];
	char in[1000] = "";
	struct tls_config *client = tls_client_config("ca", "client");
	struct tls_config *server = tls_server_config("ca", "server");
	exchange(tls_pair(0, NULL), 300000, 100000);
	block_trim();
	size_t before = mallinfo2().uordblks;
	for (int i = 0; i < PAIRS; i++) {
		int fd[2];
		socket_pair(fd);
		t[i] = tls_pair_over(tls_config_ref(client), tls_config_ref(server), HOST, fd, 0,
				     NULL);
		assert_int_equal(tls_put(t[i].client, in, sizeof(in)), sizeof(in));
		assert_int_equal(tls_get(t[i].server, in, sizeof(in)), sizeof(in));
		assert_int_equal(tls_put(t[i].server, in, 1), 1);
		assert_int_equal(tls_get(t[i].client, in, sizeof(in)), 1);
		assert_int_equal(stream_read(t[i].server, in, 1), -EAGAIN);
	}
	block_trim();
	size_t each = (mallinfo2().uordblks - before) / (2 * PAIRS);
	if (getenv("TEST_TLS_MB"))
		print_message("idle TLS stream: %zu bytes\n", each);
	assert_true(each < 4096);
	for (int i = 0; i < PAIRS; i++) {
		stream_close(t[i].client, 0);
		stream_close(t[i].server, 0);
	}
	tls_config_unref(client);
	tls_config_unref(server);
	tls_settle();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_opens),      cmocka_unit_test(test_random_sizes),
		cmocka_unit_test(test_bulk),       cmocka_unit_test(test_gather),
		cmocka_unit_test(test_half_close), cmocka_unit_test(test_close_flushes),
		cmocka_unit_test(test_truncated),  cmocka_unit_test(test_idle_memory),
	};
	alarm(100);
	return cmocka_run_group_tests(tests, tls_setup, tls_teardown);
}
