#include "reactor/hold.h"

#include <errno.h>

struct hold {
	struct stream s;
	struct stream_ops ops; /* those that the one below has */
	struct stream *below;
	struct task ended_task;
	struct task *bound;
	bool at_end, released;
	void (*ended)(void *arg);
	void (*closed)(void *arg);
	void *arg;
};

static struct hold *of(struct stream *s)
{
	return container_of(s, struct hold, s);
}

static void ended_run(struct task *t)
{
	struct hold *h = container_of(t, struct hold, ended_task);
	h->ended(h->arg);
}

/* What a read of the one below came to. */
static ssize_t seen(struct hold *h, ssize_t n)
{
	if (n != 0 || h->released)
		return n;
	if (!h->at_end)
		task_wake(h->s.rx, &h->ended_task);
	h->at_end = true;
	return -EAGAIN;
}

static ssize_t hold_read(struct stream *s, const struct iovec *iov, int n)
{
	struct hold *h = of(s);
	return seen(h, h->below->ops->read(h->below, iov, n));
}

static ssize_t hold_to_pipe(struct stream *s, int pipe_w, size_t max)
{
	struct hold *h = of(s);
	return seen(h, h->below->ops->to_pipe(h->below, pipe_w, max));
}

static int hold_peek(struct stream *s, struct iovec *iov, int max)
{
	struct hold *h = of(s);
	return (int)seen(h, h->below->ops->peek(h->below, iov, max));
}

static void hold_drop(struct stream *s, size_t n)
{
	of(s)->below->ops->drop(of(s)->below, n);
}

static ssize_t hold_write(struct stream *s, const struct iovec *iov, int n)
{
	return of(s)->below->ops->write(of(s)->below, iov, n);
}

static ssize_t hold_write_more(struct stream *s, const struct iovec *iov, int n)
{
	return of(s)->below->ops->write_more(of(s)->below, iov, n);
}

static ssize_t hold_from_pipe(struct stream *s, struct pipe_pair **p, size_t n)
{
	return of(s)->below->ops->from_pipe(of(s)->below, p, n);
}

static int hold_room(struct stream *s, struct iovec *iov)
{
	return of(s)->below->ops->room(of(s)->below, iov);
}

static void hold_added(struct stream *s, size_t n)
{
	of(s)->below->ops->added(of(s)->below, n);
}

static int hold_shut(struct stream *s)
{
	return of(s)->below->ops->shut(of(s)->below);
}

static void hold_bind(struct stream *s, struct task *t)
{
	of(s)->bound = t;
	of(s)->below->ops->bind(of(s)->below, t);
}

static const char *hold_why(struct stream *s)
{
	return of(s)->below->ops->why(of(s)->below);
}

static void hold_close(struct stream *s, int why)
{
	struct hold *h = of(s);
	void (*closed)(void *arg) = h->closed;
	void *arg = h->arg;
	task_cancel(&h->ended_task);
	stream_close(h->below, why);
	free(h);
	closed(arg);
}

struct stream *hold_stream_new(struct stream *below, void (*ended)(void *arg),
			       void (*closed)(void *arg), void *arg)
{
	const struct stream_ops *b = below->ops;
	struct hold *h = xcalloc(1, sizeof(*h));
	h->ops = (struct stream_ops){ .name = b->name,
				      .read = hold_read,
				      .write = hold_write,
				      .write_more = b->write_more ? hold_write_more : NULL,
				      .to_pipe = b->to_pipe ? hold_to_pipe : NULL,
				      .from_pipe = b->from_pipe ? hold_from_pipe : NULL,
				      .peek = b->peek ? hold_peek : NULL,
				      .drop = b->drop ? hold_drop : NULL,
				      .room = b->room ? hold_room : NULL,
				      .added = b->added ? hold_added : NULL,
				      .shut = hold_shut,
				      .close = hold_close,
				      .bind = hold_bind,
				      .why = b->why ? hold_why : NULL };
	h->s = (struct stream){ .ops = &h->ops, .rx = below->rx };
	h->below = below;
	h->ended = ended;
	h->closed = closed;
	h->arg = arg;
	task_init(&h->ended_task, ended_run);
	return &h->s;
}

void hold_stream_release(struct stream *s)
{
	struct hold *h = of(s);
	h->released = true;
	task_cancel(&h->ended_task);
	if (h->bound)
		task_wake(s->rx, h->bound);
}
