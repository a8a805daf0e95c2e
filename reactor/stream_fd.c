/* Streams over descriptors: TCP and unix sockets, pipe ends, ttys, files. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "reactor/err.h"
#include "reactor/pipe.h"
#include "reactor/stream.h"

enum fd_kind { FD_PENDING = 0, FD_FAILED, FD_TCP, FD_SOCKET, FD_PIPE, FD_OTHER };

/* Tells the dialler that its stream is gone. */
struct drop {
	void (*run)(void *);
	void *arg;
};

struct failure {
	int code;
	char *why;
};

/* Thousands of these idle: what an open one does not need is elsewhere. */
struct fd_stream {
	struct stream s;
	struct handle h; /* h.owner is the bound task in every state */
	enum fd_kind kind;
	union {
		struct drop *drop;       /* FD_PENDING, may be NULL */
		struct failure *failure; /* FD_FAILED */
	};
};

static const struct stream_ops fd_ops;

static struct fd_stream *self(struct stream *s)
{
	return container_of(s, struct fd_stream, s);
}

static bool is_socket(const struct fd_stream *f)
{
	return f->kind == FD_TCP || f->kind == FD_SOCKET;
}

/* What a verb says before it may try a system call: 0 to go on. */
static int refusal(const struct fd_stream *f, unsigned bit)
{
	if (f->kind == FD_PENDING)
		return -EAGAIN;
	if (f->kind == FD_FAILED)
		return f->failure->code;
	if (f->h.fd == -1)
		return -EPIPE;
	return f->h.ready & bit ? 0 : -EAGAIN;
}

/* Books the outcome of a system call that was asked to move want bytes. */
static ssize_t outcome(struct fd_stream *f, unsigned bit, ssize_t n, size_t want)
{
	if (n == -1) {
		if (errno != EAGAIN)
			return -errno;
		f->h.ready &= ~bit;
		return -EAGAIN;
	}
	/* A short transfer on a socket says that the kernel's buffer is spent; asking again would
	 * only cost a system call. After a hang-up no further edge may come, so keep asking. */
	if ((size_t)n < want && is_socket(f) && !(f->h.ready & READY_HUP))
		f->h.ready &= ~bit;
	return n;
}

static size_t iov_total(const struct iovec *iov, int n)
{
	size_t total = 0;
	for (int i = 0; i < n; i++)
		total += iov[i].iov_len;
	return total;
}

static ssize_t fd_read(struct stream *s, const struct iovec *iov, int n)
{
	struct fd_stream *f = self(s);
	int no = refusal(f, READY_IN);
	if (no)
		return no == -EPIPE ? 0 : no;
	ssize_t got;
	do
		got = n == 1 ? read(f->h.fd, iov->iov_base, iov->iov_len) : readv(f->h.fd, iov, n);
	while (got == -1 && errno == EINTR);
	if (got == -1 && errno == EIO && f->kind == FD_OTHER)
		got = 0; /* a pty whose other end was closed: tty_ioctl(4) */
	return got == 0 ? 0 : outcome(f, READY_IN, got, iov_total(iov, n));
}

/* "Open yet?" A reset is known before a read or write meets it. */
static int open_yet(const struct fd_stream *f)
{
	int no = refusal(f, READY_OUT), error = 0;
	socklen_t len = sizeof(error);
	if (no && (no != -EAGAIN || f->kind == FD_PENDING))
		return no;
	if (f->h.ready & READY_HUP && is_socket(f))
		getsockopt(f->h.fd, SOL_SOCKET, SO_ERROR, &error, &len);
	return -error;
}

static ssize_t fd_write(struct stream *s, const struct iovec *iov, int n)
{
	struct fd_stream *f = self(s);
	if (n == 0)
		return open_yet(f);
	int no = refusal(f, READY_OUT);
	if (no)
		return no;
	ssize_t put;
	do
		put =
		    n == 1 ? write(f->h.fd, iov->iov_base, iov->iov_len) : writev(f->h.fd, iov, n);
	while (put == -1 && errno == EINTR);
	return outcome(f, READY_OUT, put, iov_total(iov, n));
}

static ssize_t fd_write_more(struct stream *s, const struct iovec *iov, int n)
{
	struct fd_stream *f = self(s);
	struct msghdr msg = { .msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)n };
	if (!is_socket(f) || n == 0)
		return fd_write(s, iov, n);
	int no = refusal(f, READY_OUT);
	if (no)
		return no;
	ssize_t put;
	do
		put = sendmsg(f->h.fd, &msg, MSG_MORE | MSG_NOSIGNAL | MSG_DONTWAIT);
	while (put == -1 && errno == EINTR);
	return outcome(f, READY_OUT, put, iov_total(iov, n));
}

static ssize_t fd_splice(struct fd_stream *f, unsigned bit, int from, int to, size_t n)
{
	int no = refusal(f, bit);
	if (no)
		return no;
	ssize_t moved;
	do
		moved = splice(from, NULL, to, NULL, n, SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
	while (moved == -1 && errno == EINTR);
	if (moved == -1 && errno == EINVAL)
		return -EOPNOTSUPP;
	if (moved == -1 && errno == EAGAIN)
		f->h.ready &= ~bit;
	return moved == -1 ? -errno : moved;
}

static ssize_t fd_to_pipe(struct stream *s, int pipe_w, size_t max)
{
	struct fd_stream *f = self(s);
	return fd_splice(f, READY_IN, f->h.fd, pipe_w, max);
}

static ssize_t fd_from_pipe(struct stream *s, struct pipe_pair **p, size_t n)
{
	struct fd_stream *f = self(s);
	if (n == 0) {
		int no = refusal(f, READY_OUT);
		return no ? no : PIPE_BYTES;
	}
	ssize_t moved = fd_splice(f, READY_OUT, (*p)->r, f->h.fd, n);
	return moved > 0 ? outcome(f, READY_OUT, moved, n) : moved;
}

static int fd_shut(struct stream *s)
{
	struct fd_stream *f = self(s);
	if (f->kind == FD_PENDING)
		return -EAGAIN;
	if (f->kind == FD_FAILED)
		return f->failure->code;
	if (is_socket(f)) {
		if (shutdown(f->h.fd, SHUT_WR) == -1 && errno != ENOTCONN)
			return -errno;
	} else if (f->kind == FD_PIPE) {
		handle_close(&f->h);
	}
	return 0;
}

static void failure_free(struct failure *why)
{
	free(why->why);
	free(why);
}

static void fd_close(struct stream *s, int why)
{
	struct fd_stream *f = self(s);
	if (f->kind == FD_PENDING && f->drop)
		f->drop->run(f->drop->arg);
	if (why < 0 && f->kind == FD_TCP) {
		struct linger abort_it = { .l_onoff = 1, .l_linger = 0 };
		setsockopt(f->h.fd, SOL_SOCKET, SO_LINGER, &abort_it, sizeof(abort_it));
	}
	handle_close(&f->h);
	if (f->kind == FD_PENDING)
		free(f->drop);
	if (f->kind == FD_FAILED)
		failure_free(f->failure);
	free(f);
}

static void fd_bind(struct stream *s, struct task *t)
{
	struct fd_stream *f = self(s);
	f->h.owner = t;
	if (t && (f->h.ready || f->kind == FD_FAILED))
		task_wake(s->rx, t);
}

static const char *fd_why(struct stream *s)
{
	const struct fd_stream *f = self(s);
	return f->kind == FD_FAILED ? f->failure->why : NULL;
}

static const struct stream_ops fd_ops = {
	.name = "fd",
	.read = fd_read,
	.write = fd_write,
	.write_more = fd_write_more,
	.to_pipe = fd_to_pipe,
	.from_pipe = fd_from_pipe,
	.shut = fd_shut,
	.close = fd_close,
	.bind = fd_bind,
	.why = fd_why,
};

struct stream *fd_stream_pending(struct reactor *rx)
{
	struct fd_stream *f = xcalloc(1, sizeof(*f));
	f->s = (struct stream){ .ops = &fd_ops, .rx = rx };
	f->h.fd = -1;
	return &f->s;
}

static enum fd_kind kind_of(int fd)
{
	struct stat st;
	int one = 1;
	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) == 0)
		return FD_TCP;
	if (fstat(fd, &st) == -1)
		return FD_OTHER;
	if (S_ISFIFO(st.st_mode)) /* only the writing end can say that no more comes */
		return (fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY ? FD_PIPE : FD_OTHER;
	return S_ISSOCK(st.st_mode) ? FD_SOCKET : FD_OTHER;
}

void fd_stream_attach(struct stream *s, int fd)
{
	struct fd_stream *f = self(s);
	struct task *owner = f->h.owner;
	BUG_ON(f->kind != FD_PENDING);
	int r = handle_open(&f->h, s->rx, fd, owner);
	if (r < 0) {
		close(fd);
		f->h.owner = owner;
		fd_stream_fail(s, r, NULL);
		return;
	}
	free(f->drop);
	f->drop = NULL;
	f->kind = kind_of(fd);
	/* Try before asking: a fresh socket is writable, and its first bytes may be there. */
	f->h.ready = READY_IN | READY_OUT;
	if (owner)
		task_wake(s->rx, owner);
}

void fd_stream_fail(struct stream *s, int code, const char *why)
{
	struct fd_stream *f = self(s);
	BUG_ON(f->kind != FD_PENDING);
	free(f->drop);
	f->failure = xmalloc(sizeof(*f->failure));
	*f->failure = (struct failure){ code, why ? xstrdup(why) : NULL };
	f->kind = FD_FAILED;
	if (f->h.owner)
		task_wake(s->rx, f->h.owner);
}

void fd_stream_on_drop(struct stream *s, void (*drop)(void *), void *arg)
{
	struct fd_stream *f = self(s);
	BUG_ON(f->kind != FD_PENDING || f->drop);
	f->drop = xmalloc(sizeof(*f->drop));
	*f->drop = (struct drop){ drop, arg };
}

struct stream *fd_stream_new(struct reactor *rx, int fd)
{
	struct stream *s = fd_stream_pending(rx);
	fd_stream_attach(s, fd);
	return s;
}

int stream_fd(const struct stream *s)
{
	if (s->ops != &fd_ops)
		return -1;
	return container_of(s, const struct fd_stream, s)->h.fd;
}
