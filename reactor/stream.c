/* What works on any stream: why, linger, the pair, and our own stdio. */
#include "reactor/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "reactor/err.h"

const char *stream_why(struct stream *s, int code)
{
	const char *why = s && s->ops->why ? s->ops->why(s) : NULL;
	return why ? why : err_text(code);
}

/* --- linger --- */

enum { LINGER_BYTES = 1 << 20 };

struct linger_state {
	struct list link;
	struct task task;
	struct timer timer;
	struct stream *s;
	size_t left;
	bool shut;
};

static struct list lingering = { &lingering, &lingering };

static void linger_end(struct linger_state *l)
{
	list_del(&l->link);
	task_cancel(&l->task);
	timer_clear(l->s->rx, &l->timer);
	stream_close(l->s, 0);
	free(l);
}

static void linger_fire(struct timer *t)
{
	linger_end(container_of(t, struct linger_state, timer));
}

static void linger_run(struct task *t)
{
	struct linger_state *l = container_of(t, struct linger_state, task);
	if (!l->shut) {
		int r = stream_shut(l->s);
		if (r == -EAGAIN)
			return;
		if (r < 0) {
			linger_end(l);
			return;
		}
		l->shut = true;
	}
	for (;;) {
		ssize_t n = stream_read(l->s, reactor_scratch(l->s->rx), REACTOR_SCRATCH);
		if (n == -EAGAIN)
			return;
		if (n <= 0 || (size_t)n >= l->left) {
			linger_end(l);
			return;
		}
		l->left -= (size_t)n;
	}
}

void stream_linger(struct stream *s, uint64_t ms)
{
	struct linger_state *l = xcalloc(1, sizeof(*l));
	l->s = s;
	l->left = LINGER_BYTES;
	list_add_tail(&lingering, &l->link);
	task_init(&l->task, linger_run);
	timer_init(&l->timer, linger_fire);
	timer_set(s->rx, &l->timer, ms);
	stream_bind(s, &l->task);
	task_wake(s->rx, &l->task);
}

void stream_linger_end(void)
{
	while (!list_empty(&lingering))
		linger_end(container_of(lingering.next, struct linger_state, link));
}

/* --- pair --- */

struct pair {
	struct stream s;
	struct stream *in, *out;
	struct task *owner;
};

static struct pair *pair_of(struct stream *s)
{
	return container_of(s, struct pair, s);
}

static ssize_t pair_read(struct stream *s, const struct iovec *iov, int n)
{
	struct stream *in = pair_of(s)->in;
	return in ? in->ops->read(in, iov, n) : 0;
}

static ssize_t pair_write(struct stream *s, const struct iovec *iov, int n)
{
	struct stream *out = pair_of(s)->out;
	return out ? out->ops->write(out, iov, n) : -EPIPE;
}

static ssize_t pair_to_pipe(struct stream *s, int pipe_w, size_t max)
{
	struct stream *in = pair_of(s)->in;
	return in && in->ops->to_pipe ? in->ops->to_pipe(in, pipe_w, max) : -EOPNOTSUPP;
}

static ssize_t pair_from_pipe(struct stream *s, struct pipe_pair **p, size_t n)
{
	struct stream *out = pair_of(s)->out;
	return out && out->ops->from_pipe ? out->ops->from_pipe(out, p, n) : -EOPNOTSUPP;
}

static int pair_shut(struct stream *s)
{
	struct pair *p = pair_of(s);
	if (!p->out)
		return 0;
	int r = stream_shut(p->out);
	if (r == 0) {
		stream_close(p->out, 0);
		p->out = NULL;
	}
	return r;
}

static void pair_close(struct stream *s, int why)
{
	struct pair *p = pair_of(s);
	stream_close(p->in, why);
	stream_close(p->out, why);
	free(p);
}

static void pair_bind(struct stream *s, struct task *t)
{
	struct pair *p = pair_of(s);
	if (p->in)
		stream_bind(p->in, t);
	if (p->out)
		stream_bind(p->out, t);
}

static const char *pair_why(struct stream *s)
{
	struct pair *p = pair_of(s);
	const char *why = p->in && p->in->ops->why ? p->in->ops->why(p->in) : NULL;
	return why || !p->out || !p->out->ops->why ? why : p->out->ops->why(p->out);
}

static const struct stream_ops pair_ops = {
	.name = "pair",
	.read = pair_read,
	.write = pair_write,
	.to_pipe = pair_to_pipe,
	.from_pipe = pair_from_pipe,
	.shut = pair_shut,
	.close = pair_close,
	.bind = pair_bind,
	.why = pair_why,
};

struct stream *pair_stream_new(struct reactor *rx, struct stream *in, struct stream *out)
{
	struct pair *p = xcalloc(1, sizeof(*p));
	p->s = (struct stream){ .ops = &pair_ops, .rx = rx };
	p->in = in;
	p->out = out;
	return &p->s;
}

/* --- our own stdio --- */

struct stream *stdio_stream_new(struct reactor *rx, int fd, int *err)
{
	/* O_NONBLOCK belongs to the open file description, which the shell and our siblings share:
	 * open the same pipe or tty anew. A socket cannot be reopened; its mode is changed. */
	struct stat st;
	if (fstat(fd, &st) == -1) {
		*err = -errno;
		return NULL;
	}
	int mine;
	if (S_ISSOCK(st.st_mode) || S_ISREG(st.st_mode)) {
		mine = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	} else {
		char path[32];
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		mine =
		    open(path, (fd == 0 ? O_RDONLY : O_WRONLY) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		if (mine == -1)
			mine = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	}
	if (mine == -1 || (!S_ISREG(st.st_mode) &&
			   fcntl(mine, F_SETFL, fcntl(mine, F_GETFL) | O_NONBLOCK) == -1)) {
		*err = -errno;
		if (mine != -1)
			close(mine);
		return NULL;
	}
	return fd_stream_new(rx, mine);
}
