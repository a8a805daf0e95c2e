/* Streams over descriptors, the pair, linger, our own stdio. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include <cmocka.h>

#include "reactor/err.h"
#include "reactor/stream.h"
#include "test/unit/pair.h"

static struct reactor *rx;
static bool flag, late;

static int setup(void **state)
{
	(void)state;
	rx = reactor_new();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	assert_int_equal(0, reactor_stats(rx)->handles);
	reactor_free(rx);
	return 0;
}

static void set_flag(struct task *t)
{
	(void)t;
	flag = true;
}

static void turn(void)
{
	struct task t;
	task_init(&t, set_flag);
	task_defer(rx, &t);
	flag = false;
	reactor_run_until(rx, &flag);
}

static void too_late(struct timer *t)
{
	(void)t;
	late = true;
}

#define UNTIL(cond)                                                                                \
	do {                                                                                       \
		struct timer limit_;                                                               \
		timer_init(&limit_, too_late);                                                     \
		timer_set(rx, &limit_, 5000);                                                      \
		late = false;                                                                      \
		while (!(cond) && !late)                                                           \
			turn();                                                                    \
		timer_clear(rx, &limit_);                                                          \
		assert_false(late);                                                                \
	} while (0)

static void pair_of(int kind, int fd[2])
{
	if (kind)
		tcp_pair(fd);
	else
		socket_pair(fd);
}

static char pattern(uint64_t at)
{
	return (char)(at * 13 + (at >> 10));
}

/* More than the kernel holds, in odd sizes; then half close, and the other way still works. */
static void bytes_and_half_close(void **state)
{
	(void)state;
	static char out[70001], in[50021];
	for (int kind = 0; kind < 2; kind++) {
		int fd[2];
		uint64_t sent = 0, got = 0, all = 20 * 1000 * 1000;
		bool shut = false, refused = false;
		ssize_t r = -EAGAIN;
		pair_of(kind, fd);
		struct stream *a = fd_stream_new(rx, fd[0]), *b = fd_stream_new(rx, fd[1]);
		struct task wake;
		task_init(&wake, set_flag);
		stream_bind(a, &wake);
		stream_bind(b, &wake);
		assert_int_equal(0, stream_open_yet(a));
		assert_int_equal(-EAGAIN, stream_read(b, in, sizeof(in)));
		while (r != 0) {
			for (;;) {
				size_t n = MIN(sizeof(out), all - sent);
				if (n == 0)
					break;
				for (size_t i = 0; i < n; i++)
					out[i] = pattern(sent + i);
				struct iovec iov[2] = { { out, n / 3 },
							{ out + n / 3, n - n / 3 } };
				ssize_t w = a->ops->write(a, iov, 2);
				refused |= w == -EAGAIN;
				if (w == -EAGAIN)
					break;
				assert_true(w > 0);
				sent += (uint64_t)w;
			}
			if (sent == all && !shut) {
				assert_int_equal(0, stream_shut(a));
				assert_int_equal(0, stream_shut(a));
				assert_int_equal(-EPIPE, stream_write(a, "x", 1));
				shut = true;
			}
			while ((r = stream_read(b, in, sizeof(in))) > 0) {
				for (ssize_t i = 0; i < r; i++)
					if (in[i] != pattern(got + (uint64_t)i))
						fail_msg("byte %llu differs",
							 (unsigned long long)got);
				got += (uint64_t)r;
			}
			assert_true(r == 0 || r == -EAGAIN);
			if (r == -EAGAIN) { /* only a wake-up brings us on: none may be lost */
				flag = false;
				reactor_run_until(rx, &flag);
			}
		}
		assert_true(refused);
		assert_int_equal(all, got);
		assert_int_equal(0, stream_read(b, in, 1)); /* the end stays the end */
		assert_int_equal(5, stream_write(b, "hello", 5));
		UNTIL((r = stream_read(a, in, 5)) != -EAGAIN);
		assert_int_equal(5, r);
		stream_close(a, 0);
		stream_close(b, 0);
		task_cancel(&wake);
	}
}

static void abort_is_a_reset_and_close_is_not(void **state)
{
	(void)state;
	for (int why = 0; why >= -1; why--) {
		int fd[2], one = 0;
		socklen_t len = sizeof(one);
		char c;
		ssize_t r;
		tcp_pair(fd);
		getsockopt(fd[0], IPPROTO_TCP, TCP_NODELAY, &one, &len);
		assert_int_equal(0, one);
		struct stream *a = fd_stream_new(rx, fd[0]), *b = fd_stream_new(rx, fd[1]);
		assert_int_equal(fd[0], stream_fd(a));
		getsockopt(fd[0], IPPROTO_TCP, TCP_NODELAY, &one, &len);
		assert_int_not_equal(0, one);
		stream_close(a, why ? -ECONNRESET : 0);
		UNTIL((r = stream_read(b, &c, 1)) != -EAGAIN);
		assert_int_equal(why ? -ECONNRESET : 0, r);
		assert_non_null(stream_why(b, -ECONNRESET));
		stream_close(b, 0);
	}
}

static void pipes_have_one_direction(void **state)
{
	(void)state;
	int fd[2];
	char c;
	ssize_t r;
	assert_int_equal(0, pipe2(fd, O_NONBLOCK | O_CLOEXEC));
	struct stream *in = fd_stream_new(rx, fd[0]), *out = fd_stream_new(rx, fd[1]);
	assert_int_equal(2, stream_write(out, "xy", 2));
	assert_int_equal(1, stream_read(in, &c, 1));
	assert_int_equal(0, stream_shut(in)); /* it never wrote: nothing to end */
	assert_int_equal(1, stream_read(in, &c, 1));
	assert_int_equal('y', c);
	assert_int_equal(-EAGAIN, stream_read(in, &c, 1));
	assert_int_equal(0, stream_shut(out));
	assert_int_equal(-EPIPE, stream_write(out, "z", 1));
	UNTIL((r = stream_read(in, &c, 1)) != -EAGAIN);
	assert_int_equal(0, r);
	stream_close(in, 0);
	stream_close(out, 0);

	assert_int_equal(0, pipe2(fd, O_NONBLOCK | O_CLOEXEC));
	out = fd_stream_new(rx, fd[1]);
	close(fd[0]);
	assert_int_equal(-EPIPE, stream_write(out, "z", 1));
	stream_close(out, 0);
}

static void ptys_end_like_streams(void **state)
{
	(void)state;
	int far = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	char name[64], buf[64];
	ssize_t r;
	assert_true(far >= 0);
	assert_int_equal(0, grantpt(far));
	assert_int_equal(0, unlockpt(far));
	assert_int_equal(0, ptsname_r(far, name, sizeof(name)));
	int tty = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	struct termios t;
	assert_int_equal(0, tcgetattr(tty, &t));
	cfmakeraw(&t);
	tcsetattr(tty, TCSANOW, &t);
	struct stream *s = fd_stream_new(rx, far);
	assert_int_equal(3, write(tty, "abc", 3));
	UNTIL((r = stream_read(s, buf, sizeof(buf))) != -EAGAIN);
	assert_int_equal(3, r);
	assert_int_equal(2, stream_write(s, "xy", 2));
	assert_int_equal(2, read(tty, buf, sizeof(buf)));
	assert_int_equal(0, stream_shut(s));
	close(tty); /* EIO from the kernel: the end of stream for us */
	UNTIL((r = stream_read(s, buf, sizeof(buf))) != -EAGAIN);
	assert_int_equal(0, r);
	stream_close(s, 0);
}

static void files_are_streams_too(void **state)
{
	(void)state;
	char path[] = "/tmp/test-stream-XXXXXX", buf[16];
	int fd = mkostemp(path, O_CLOEXEC);
	struct stream *s = fd_stream_new(rx, fd);
	assert_int_equal(5, stream_write(s, "hello", 5));
	assert_int_equal(0, lseek(fd, 0, SEEK_SET));
	assert_int_equal(2, stream_read(s, buf, 2));
	assert_int_equal(3, stream_read(s, buf, sizeof(buf)));
	assert_int_equal(0, stream_read(s, buf, sizeof(buf)));
	stream_close(s, 0);
	unlink(path);
}

/* --- born usable --- */

static unsigned dropped;
static void on_drop(void *arg)
{
	assert_ptr_equal(&dropped, arg);
	dropped++;
}

static void pending_then_attached(void **state)
{
	(void)state;
	int fd[2];
	char c;
	struct task wake;
	task_init(&wake, set_flag);
	dropped = 0;
	struct stream *s = fd_stream_pending(rx);
	fd_stream_on_drop(s, on_drop, &dropped);
	stream_bind(s, &wake);
	assert_int_equal(-EAGAIN, stream_open_yet(s));
	assert_int_equal(-EAGAIN, stream_read(s, &c, 1));
	assert_int_equal(-EAGAIN, stream_write(s, "x", 1));
	assert_int_equal(-EAGAIN, stream_shut(s));
	assert_int_equal(-EAGAIN, s->ops->to_pipe(s, -1, 1));
	assert_int_equal(-1, stream_fd(s));
	socket_pair(fd);
	fd_stream_attach(s, fd[0]);
	flag = false;
	reactor_run_until(rx, &flag); /* its owner is told */
	assert_int_equal(0, stream_open_yet(s));
	assert_int_equal(1, stream_write(s, "x", 1));
	stream_close(s, 0);
	task_cancel(&wake);
	assert_int_equal(0, dropped);
	close(fd[1]);
}

static void pending_then_failed_or_dropped(void **state)
{
	(void)state;
	char c, sentence[] = "dial tcp h:1: connection refused";
	struct task wake;
	task_init(&wake, set_flag);
	dropped = 0;
	struct stream *s = fd_stream_pending(rx);
	fd_stream_on_drop(s, on_drop, &dropped);
	stream_bind(s, &wake);
	fd_stream_fail(s, -ECONNREFUSED, sentence);
	sentence[0] = '\0'; /* it was copied */
	flag = false;
	reactor_run_until(rx, &flag);
	assert_int_equal(-ECONNREFUSED, stream_open_yet(s));
	assert_int_equal(-ECONNREFUSED, stream_read(s, &c, 1));
	assert_int_equal(-ECONNREFUSED, stream_write(s, "x", 1));
	assert_int_equal(-ECONNREFUSED, stream_shut(s));
	assert_string_equal("dial tcp h:1: connection refused", stream_why(s, -ECONNREFUSED));
	stream_bind(s, NULL);
	stream_bind(s, &wake); /* a failure is news to a new owner */
	flag = false;
	reactor_run_until(rx, &flag);
	stream_close(s, -ECONNREFUSED);
	assert_int_equal(0, dropped);

	s = fd_stream_pending(rx);
	fd_stream_on_drop(s, on_drop, &dropped);
	stream_close(s, 0);
	assert_int_equal(1, dropped);

	s = fd_stream_pending(rx); /* a descriptor that is none */
	fd_stream_attach(s, -1);
	assert_int_equal(-EBADF, stream_open_yet(s));
	assert_string_equal(err_text(-EBADF), stream_why(s, -EBADF));
	stream_close(s, 0);
	stream_close(NULL, 0);
}

static void a_new_owner_hears_of_what_is_there(void **state)
{
	(void)state;
	int fd[2];
	struct task first, second;
	task_init(&first, set_flag);
	task_init(&second, set_flag);
	socket_pair(fd);
	struct stream *s = fd_stream_new(rx, fd[0]);
	stream_bind(s, &first);
	assert_int_equal(1, write(fd[1], "x", 1));
	turn();
	task_cancel(&first);
	stream_bind(s, &second);
	flag = false;
	reactor_run_until(rx, &flag);
	assert_true(list_empty(&first.link));
	stream_close(s, 0);
	task_cancel(&second);
	close(fd[1]);
}

/* --- the pair --- */

static void pair_joins_two(void **state)
{
	(void)state;
	int in[2], out[2];
	char buf[8];
	ssize_t r;
	assert_int_equal(0, pipe2(in, O_NONBLOCK | O_CLOEXEC));
	assert_int_equal(0, pipe2(out, O_NONBLOCK | O_CLOEXEC));
	struct stream *s = pair_stream_new(rx, fd_stream_new(rx, in[0]), fd_stream_new(rx, out[1]));
	struct task wake;
	task_init(&wake, set_flag);
	stream_bind(s, &wake);
	assert_int_equal(2, write(in[1], "in", 2));
	assert_int_equal(3, stream_write(s, "out", 3));
	UNTIL((r = stream_read(s, buf, sizeof(buf))) != -EAGAIN);
	assert_int_equal(2, r);
	assert_int_equal(3, read(out[0], buf, sizeof(buf)));
	assert_int_equal(0, stream_shut(s));
	assert_int_equal(0, stream_shut(s));
	assert_int_equal(0, read(out[0], buf, sizeof(buf)));
	assert_int_equal(-EPIPE, stream_write(s, "x", 1));
	assert_int_equal(1, write(in[1], "y", 1));
	UNTIL((r = stream_read(s, buf, sizeof(buf))) != -EAGAIN);
	assert_int_equal(1, r);
	stream_close(s, 0);
	task_cancel(&wake);
	close(in[1]);
	close(out[0]);

	s = pair_stream_new(rx, NULL, NULL);
	assert_int_equal(0, stream_read(s, buf, 1));
	assert_int_equal(-EPIPE, stream_write(s, "x", 1));
	assert_int_equal(0, stream_shut(s));
	assert_int_equal(-EOPNOTSUPP, s->ops->to_pipe(s, -1, 1));
	stream_close(s, 0);
}

/* --- linger --- */

/* The peer is still sending: a plain close would reset it before it has read our last words. */
static void linger_lets_the_last_words_be_read(void **state)
{
	(void)state;
	int fd[2];
	char buf[1000];
	ssize_t r, total = 0;
	tcp_pair(fd);
	struct stream *s = fd_stream_new(rx, fd[0]);
	memset(buf, 'x', sizeof(buf));
	for (int i = 0; i < 100; i++)
		assert_int_equal(sizeof(buf), write(fd[1], buf, sizeof(buf)));
	assert_int_equal(4, stream_write(s, "last", 4));
	stream_linger(s, 5000);
	turn();
	assert_int_equal(sizeof(buf), write(fd[1], buf, sizeof(buf)));
	turn();
	while ((r = read(fd[1], buf, sizeof(buf))) > 0 || (r == -1 && errno == EAGAIN)) {
		total += r > 0 ? r : 0;
		turn();
	}
	assert_int_equal(0, r);
	assert_int_equal(4, total);
	assert_int_equal(1, reactor_stats(rx)->handles);
	close(fd[1]);
	UNTIL(reactor_stats(rx)->handles == 0);
	assert_int_equal(0, reactor_stats(rx)->timers);
}

static void linger_is_bounded(void **state)
{
	(void)state;
	int fd[2];
	static char piece[65536];
	socket_pair(fd);
	stream_linger(fd_stream_new(rx, fd[0]), 20); /* by time */
	UNTIL(reactor_stats(rx)->handles == 0);
	close(fd[1]);

	socket_pair(fd);
	stream_linger(fd_stream_new(rx, fd[0]), 60000); /* by bytes */
	for (uint64_t n = 0; reactor_stats(rx)->handles > 0; n += sizeof(piece)) {
		assert_true(n < 4 << 20);
		while (write(fd[1], piece, sizeof(piece)) > 0)
			;
		turn();
	}
	close(fd[1]);

	struct stream *s = fd_stream_pending(rx); /* one that fails */
	stream_linger(s, 60000);
	turn();
	fd_stream_fail(s, -ECONNREFUSED, NULL);
	turn();
	turn();
	assert_int_equal(0, reactor_stats(rx)->timers);
}

/* --- stdio --- */

static void stdio_leaves_the_shared_mode_alone(void **state)
{
	(void)state;
	int fd[2], err = 0, saved = dup(0);
	char c;
	ssize_t r;
	assert_int_equal(0, pipe2(fd, O_CLOEXEC));
	assert_int_equal(0, dup2(fd[0], 0));
	struct stream *s = stdio_stream_new(rx, 0, &err);
	assert_non_null(s);
	assert_int_equal(0, fcntl(0, F_GETFL) & O_NONBLOCK);
	assert_int_equal(-EAGAIN, stream_read(s, &c, 1));
	assert_int_equal(1, write(fd[1], "x", 1));
	UNTIL((r = stream_read(s, &c, 1)) != -EAGAIN);
	assert_int_equal(1, r);
	stream_close(s, 0);
	assert_int_equal(0, fcntl(0, F_GETFL) & O_NONBLOCK);
	close(fd[0]);
	close(fd[1]);

	int far = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	char name[64];
	assert_int_equal(0, unlockpt(far));
	assert_int_equal(0, ptsname_r(far, name, sizeof(name)));
	int tty = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_int_equal(0, dup2(tty, 0));
	s = stdio_stream_new(rx, 0, &err);
	assert_non_null(s);
	assert_int_equal(0, fcntl(tty, F_GETFL) & O_NONBLOCK);
	assert_int_equal(-EAGAIN, stream_read(s, &c, 1));
	stream_close(s, 0);
	close(tty);
	close(far);

	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	dup2(null, 0);
	close(null);
	s = stdio_stream_new(rx, 0, &err);
	assert_non_null(s);
	assert_int_equal(0, stream_read(s, &c, 1));
	stream_close(s, 0);

	close(0);
	assert_null(stdio_stream_new(rx, 0, &err));
	assert_int_equal(-EBADF, err);
	dup2(saved, 0);
	close(saved);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(bytes_and_half_close),
		T(abort_is_a_reset_and_close_is_not),
		T(pipes_have_one_direction),
		T(ptys_end_like_streams),
		T(files_are_streams_too),
		T(pending_then_attached),
		T(pending_then_failed_or_dropped),
		T(a_new_owner_hears_of_what_is_there),
		T(pair_joins_two),
		T(linger_lets_the_last_words_be_read),
		T(linger_is_bounded),
		T(stdio_leaves_the_shared_mode_alone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
