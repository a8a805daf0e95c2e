#include "cmd/test-tunnel/ahead.h"

struct ahead {
	struct stream s;
	struct stream *lower;
	struct buf held;
};

static struct ahead *ahead_of(struct stream *s)
{
	return container_of(s, struct ahead, s);
}

static ssize_t ahead_read(struct stream *s, const struct iovec *iov, int n)
{
	struct ahead *a = ahead_of(s);
	if (a->held.len == 0)
		return a->lower->ops->read(a->lower, iov, n);
	struct slice d = buf_data(&a->held);
	size_t take = n > 0 ? MIN(iov[0].iov_len, d.n) : 0;
	if (take)
		memcpy(iov[0].iov_base, d.p, take);
	buf_drop(&a->held, take);
	return (ssize_t)take;
}

static ssize_t ahead_write(struct stream *s, const struct iovec *iov, int n)
{
	struct stream *lower = ahead_of(s)->lower;
	return lower->ops->write(lower, iov, n);
}

static int ahead_shut(struct stream *s)
{
	return stream_shut(ahead_of(s)->lower);
}

static void ahead_close(struct stream *s, int why)
{
	struct ahead *a = ahead_of(s);
	stream_close(a->lower, why);
	buf_end(&a->held);
	free(a);
}

static void ahead_bind(struct stream *s, struct task *t)
{
	struct ahead *a = ahead_of(s);
	stream_bind(a->lower, t);
	if (t && a->held.len)
		task_wake(s->rx, t);
}

static const char *ahead_why(struct stream *s)
{
	struct stream *lower = ahead_of(s)->lower;
	return lower->ops->why ? lower->ops->why(lower) : NULL;
}

static const struct stream_ops ahead_ops = {
	.name = "ahead",
	.read = ahead_read,
	.write = ahead_write,
	.shut = ahead_shut,
	.close = ahead_close,
	.bind = ahead_bind,
	.why = ahead_why,
};

struct stream *ahead_stream_new(struct stream *lower, struct buf *held)
{
	if (held->len == 0) {
		buf_end(held);
		return lower;
	}
	struct ahead *a = xcalloc(1, sizeof(*a));
	a->s = (struct stream){ .ops = &ahead_ops, .rx = lower->rx };
	a->lower = lower;
	a->held = *held;
	buf_init(held, 0);
	return &a->s;
}
