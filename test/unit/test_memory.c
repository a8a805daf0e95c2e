/* What idle things cost, counted by the allocator, and that memory is given back after a storm. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <malloc.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/tstunnel/mux.h"
#include "reactor/buf.h"
#include "reactor/listen.h"
#include "reactor/pump.h"
#include "test/unit/turn.h"

/* The promises of issue "Port forwarding": bytes of ours, each. */
enum { LISTENER_MAX = 256, FRAMED_MAX = 1024 };
/* What may stay: freed pieces that the allocator counts as used, and the tables of streams. */
enum { MANY = 200, LEFT_MAX = 16 * 1024 };

#ifdef __SANITIZE_ADDRESS__
static const bool counted = false; /* its allocator does not count like malloc */
#else
static const bool counted = true;
#endif

static struct reactor *rx;

static int setup(void **state)
{
	struct rlimit lim;
	(void)state;
	rx = reactor_new();
	getrlimit(RLIMIT_NOFILE, &lim);
	return lim.rlim_cur > 6 * MANY + 100 ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	assert_int_equal(reactor_stats(rx)->handles, 0);
	reactor_free(rx);
	block_trim();
	return 0;
}

static size_t heap(void)
{
	struct mallinfo2 m = mallinfo2();
	return m.uordblks + m.hblkhd;
}

static void assert_all_back(size_t before)
{
	if (counted && heap() > before)
		assert_in_range(heap() - before, 0, LEFT_MAX);
}

static void nobody(void *arg, int fd, const struct sockaddr *peer)
{
	(void)arg, (void)peer;
	close(fd);
}

static void listeners(void **state)
{
	struct listener *l[MANY];
	struct addr a = { .kind = ADDR_TCP, .host = "127.0.0.1" };
	size_t before = heap();
	int err;
	(void)state;
	for (size_t i = 0; i < MANY; i++) {
		l[i] = listener_new(rx, &a, nobody, NULL, &err);
		assert_non_null(l[i]);
	}
	if (counted)
		assert_in_range((heap() - before) / MANY, 1, LISTENER_MAX - 16);
	for (size_t i = 0; i < MANY; i++)
		listener_close(l[i]);
	assert_all_back(before);
}

static struct stream *socket_stream(int *peer)
{
	int fd[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
	*peer = fd[1];
	return fd_stream_new(rx, fd[0]);
}

/* A byte through each, so that they are what a used and idle one is. */
static void chat(const int *from, const int *to)
{
	char c;
	for (size_t i = 0; i < MANY; i++)
		assert_int_equal(write(from[i], "x", 1), 1);
	for (size_t i = 0; i < MANY; i++) {
		UNTIL(read(to[i], &c, 1) == 1);
		assert_int_equal(write(to[i], &c, 1), 1);
	}
	for (size_t i = 0; i < MANY; i++)
		UNTIL(read(from[i], &c, 1) == 1);
	for (size_t i = 0; i < 3; i++)
		turn_once(rx);
}

static void hang_up(const int *here, const int *there)
{
	for (size_t i = 0; i < MANY; i++) {
		close(here[i]);
		close(there[i]);
	}
}

/* --- framed: both halves are in this process --- */

static struct mux *half[2];
static int there_fd[MANY];
static size_t accepted;

static void on_opened(void *arg, struct stream *s, struct slice json)
{
	(void)arg, (void)json;
	assert_true(accepted < MANY);
	mux_accept(s, SLICE(""));
	pump_start(rx, s, socket_stream(&there_fd[accepted++]), NULL, NULL);
}

static void framed(void **state)
{
	static int here[MANY];
	int fd[2];
	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
	half[0] = mux_new(rx, fd_stream_new(rx, fd[0]), SLICE(""),
			  &(struct mux_options){ .client = true });
	half[1] = mux_new(rx, fd_stream_new(rx, fd[1]), SLICE(""),
			  &(struct mux_options){ .opened = on_opened });
	UNTIL(mux_stats(half[0])->settled && mux_stats(half[0])->rtt_us);
	for (size_t i = 0; i < 3; i++)
		turn_once(rx);
	block_trim();
	size_t before = heap();
	accepted = 0;
	for (size_t i = 0; i < MANY; i++)
		pump_start(rx, socket_stream(&here[i]), mux_open(half[0], SLICE("{}")), NULL, NULL);
	UNTIL(accepted == MANY);
	chat(here, there_fd);
	block_trim();
	if (counted)
		assert_in_range((heap() - before) / MANY, 1, 2 * FRAMED_MAX);
	hang_up(here, there_fd);
	UNTIL(reactor_stats(rx)->handles == 2);
	UNTIL(mux_stats(half[0])->streams == 0 && mux_stats(half[1])->streams == 0);
	for (size_t i = 0; i < 3; i++)
		turn_once(rx);
	block_trim();
	assert_all_back(before);
	mux_free(half[0], 0, NULL);
	mux_free(half[1], 0, NULL);
}

/* --- after a storm --- */

static size_t resident(void)
{
	unsigned long size, pages = 0;
	FILE *f = fopen("/proc/self/statm", "r");
	assert_non_null(f);
	assert_int_equal(fscanf(f, "%lu %lu", &size, &pages), 2);
	fclose(f);
	return pages * (size_t)sysconf(_SC_PAGESIZE);
}

static void given_back(void **state)
{
	enum { PIECES = 20000, PIECE = 1000 };
	static char *piece[PIECES];
	static struct stream *s[2 * MANY];
	static int peer[2 * MANY];
	(void)state;
	if (!counted)
		skip();
	for (size_t i = 0; i < PIECES; i++)
		memset(piece[i] = xmalloc(PIECE), 1, PIECE);
	char *top = xmalloc(PIECE); /* or free() would give all of it back */
	for (size_t i = 0; i < PIECES; i++)
		free(piece[i]);
	size_t before = resident();
	for (size_t i = 0; i < 2 * MANY; i++)
		s[i] = socket_stream(&peer[i]);
	char *scratch = reactor_scratch(rx);
	memset(scratch, 1, REACTOR_SCRATCH);
	UNTIL(resident() + PIECES * PIECE * 3 / 4 < before); /* a second later */
	for (size_t i = 0; i < 2 * MANY; i++) {
		stream_close(s[i], 0);
		close(peer[i]);
	}
	free(top);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(listeners),
		TEST(framed),
		TEST(given_back),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
