#include "reactor/pump.h"

#include <errno.h>

#include "reactor/buf.h"
#include "reactor/pipe.h"

enum {
	QUANTUM = 256 * 1024,      /* moved per direction and turn before others get theirs, */
	QUANTUM_END = 32 * 1024,   /* but for a rest that is not worth its calls */
	SPLICE_AFTER = 256 * 1024, /* a direction earns a pipe by moving this much */
	EARNED_MAX = 1024 * 1024,
	SMALL = 16 * 1024, /* smaller moves are cheaper by copy: each takes back */
	SMALL_COSTS = 64 * 1024,
	HELD_MAX = REACTOR_SCRATCH, /* what one copy can leave behind when dst blocks */
	PEEK_IOVS = 16
};

/* One direction. */
struct half {
	struct stream *src, *dst;
	struct buf held;        /* read from src, not yet taken by dst */
	struct pipe_pair *pipe; /* lent while splicing */
	uint32_t in_pipe;
	uint32_t earned; /* towards a pipe */
	uint64_t moved;
	bool eof;             /* src ended */
	bool done;            /* and dst was told */
	bool deaf;            /* dst takes no more (EPIPE); ends with the other direction */
	bool no_splice;       /* one of the ends said EOPNOTSUPP */
	bool stirred;         /* bytes went in or out since the pump looked */
	struct stream *blame; /* whose verb failed */
};

struct pump {
	struct reactor *rx;
	struct task task;
	struct timer timer;
	struct half up, down; /* a to b, b to a */
	uint64_t idle_ms, last_moved_ms;
	pump_finished *finished;
	void *arg;
};

static ssize_t blame(struct half *h, struct stream *s, ssize_t code)
{
	if (code < 0 && code != -EAGAIN)
		h->blame = s;
	return code;
}

static void pipe_release(struct half *h)
{
	pipe_put(h->pipe, h->in_pipe == 0);
	h->pipe = NULL;
	h->in_pipe = 0;
}

/* Hands dst what was already taken from src. 0 when nothing is held any more. */
static ssize_t drain(struct half *h)
{
	while (h->held.len > 0) {
		struct slice d = buf_data(&h->held);
		ssize_t n = stream_write(h->dst, d.p, d.n);
		if (n < 0)
			return blame(h, h->dst, n);
		buf_drop(&h->held, (size_t)n);
		h->stirred = true;
	}
	while (h->in_pipe > 0) {
		ssize_t n = h->dst->ops->from_pipe(h->dst, &h->pipe, h->in_pipe);
		if (n < 0)
			return blame(h, h->dst, n);
		h->in_pipe -= (uint32_t)n;
		h->stirred = true;
	}
	return 0;
}

/* Through a pipe, once dst would take something: the count, or a code; -EINVAL: copy this time. */
static ssize_t move_spliced(struct half *h, size_t max)
{
	if (h->no_splice || h->earned < SPLICE_AFTER || !h->src->ops->to_pipe ||
	    !h->dst->ops->from_pipe)
		return -EINVAL;
	ssize_t n = h->dst->ops->from_pipe(h->dst, NULL, 0);
	if (n < 0) {
		pipe_release(h);
		return blame(h, h->dst, n);
	}
	if (!h->pipe && !(h->pipe = pipe_get()))
		return -EINVAL;
	n = h->src->ops->to_pipe(h->src, h->pipe->w, MIN(MIN(max, (size_t)n), h->pipe->size));
	if (n < 0)
		pipe_release(h);
	if (n > 0)
		h->in_pipe = (uint32_t)n;
	return blame(h, h->src, n);
}

static ssize_t move_borrowed(struct half *h)
{
	struct iovec iov[PEEK_IOVS];
	int r = h->src->ops->peek(h->src, iov, PEEK_IOVS);
	if (r <= 0)
		return blame(h, h->src, r);
	ssize_t n = h->dst->ops->write(h->dst, iov, r);
	if (n < 0)
		return blame(h, h->dst, n);
	h->src->ops->drop(h->src, (size_t)n);
	return n;
}

static ssize_t move_lent(struct half *h, size_t max)
{
	struct iovec room;
	int r = h->dst->ops->room(h->dst, &room);
	if (r < 0)
		return blame(h, h->dst, r);
	room.iov_len = MIN(room.iov_len, max);
	ssize_t n = h->src->ops->read(h->src, &room, 1);
	h->dst->ops->added(h->dst, n > 0 ? (size_t)n : 0);
	return blame(h, h->src, n);
}

static ssize_t move_copied(struct half *h, size_t max)
{
	char *scratch = reactor_scratch(h->src->rx);
	ssize_t n = stream_read(h->src, scratch, MIN(max, REACTOR_SCRATCH));
	if (n <= 0)
		return blame(h, h->src, n);
	ssize_t put = stream_write(h->dst, scratch, (size_t)n);
	if (put == -EAGAIN)
		put = 0;
	if (put < 0)
		return blame(h, h->dst, put);
	int r = buf_put(&h->held, slice_of(scratch + put, (size_t)(n - put)));
	BUG_ON(r < 0); /* held was empty */
	return n;
}

/* Moves up to max bytes from src: the count, 0 at its end, or a code. */
static ssize_t move(struct half *h, size_t max)
{
	ssize_t n = move_spliced(h, max);
	if (n != -EOPNOTSUPP && n != -EINVAL)
		return n;
	h->no_splice |= n == -EOPNOTSUPP;
	h->blame = NULL;
	if (h->src->ops->peek)
		return move_borrowed(h);
	if (h->dst->ops->room)
		return move_lent(h, max);
	return move_copied(h, max);
}

/* A dst that cannot splice after all still gets what is in the pipe, by copy. */
static void unpipe(struct half *h)
{
	char *scratch = reactor_scratch(h->src->rx);
	pipe_read(h->pipe, scratch, h->in_pipe);
	int r = buf_put(&h->held, slice_of(scratch, h->in_pipe));
	BUG_ON(r < 0);
	h->in_pipe = 0;
	h->blame = NULL;
	pipe_release(h);
}

static void earn(struct half *h, size_t n)
{
	if (n < SMALL)
		h->earned -= MIN(h->earned, (uint32_t)SMALL_COSTS);
	else
		h->earned = (uint32_t)MIN(h->earned + n, (size_t)EARNED_MAX);
}

/* Tells dst that no more comes. If it has no more to say itself, its close does that. */
static int half_shut(struct half *h, const struct half *back)
{
	return back->done ? 0 : stream_shut(h->dst);
}

/* 0 done, 1 quantum spent, -EAGAIN a stream will wake us, other codes fatal. */
static ssize_t half_run(struct half *h, const struct half *back)
{
	size_t quantum = QUANTUM;
	while (!h->done && !h->deaf) {
		ssize_t n = drain(h);
		if ((n == -EOPNOTSUPP || n == -EINVAL) && h->in_pipe > 0) {
			h->no_splice |= n == -EOPNOTSUPP;
			unpipe(h);
			continue;
		}
		if (n < 0)
			return n;
		if (h->eof) {
			if ((n = half_shut(h, back)) < 0)
				return blame(h, h->dst, n);
			pipe_release(h);
			h->done = true;
			break;
		}
		if (quantum < QUANTUM_END) {
			pipe_release(h); /* empty now: the next relay can have it */
			return 1;
		}
		if ((n = move(h, quantum)) < 0)
			return n;
		h->eof = n == 0;
		h->moved += (uint64_t)n;
		earn(h, (size_t)n);
		h->stirred |= n > 0;
		quantum -= MIN(quantum, (size_t)n);
	}
	return 0;
}

static void half_end(struct half *h)
{
	pipe_release(h);
	buf_end(&h->held);
}

static void pump_end(struct pump *p, int code)
{
	struct stream *a = p->up.src, *b = p->up.dst;
	struct stream *blamed = p->up.blame ? p->up.blame : p->down.blame;
	struct pump_end end = { .code = code,
				.a_failed = blamed == a,
				.a_to_b = p->up.moved,
				.b_to_a = p->down.moved };
	char why[256];
	snprintf(why, sizeof(why), "%s", stream_why(code < 0 ? blamed : NULL, code));

	task_cancel(&p->task);
	timer_clear(p->rx, &p->timer);
	half_end(&p->up);
	half_end(&p->down);
	stream_close(a, code);
	stream_close(b, code);
	if (p->finished)
		p->finished(p->arg, &end, why);
	free(p);
}

/* A reader that went away ends its direction only: its own output may still be worth having. */
static ssize_t forgive_epipe(struct half *h, ssize_t r)
{
	if (r != -EPIPE || h->blame != h->dst)
		return r;
	h->blame = NULL;
	h->deaf = true;
	half_end(h);
	return 0;
}

/* A direction that waits for its dst does not read, and would not hear that its src was reset. */
static ssize_t look(struct half *h, ssize_t r)
{
	if (r != -EAGAIN)
		return r;
	int n = stream_open_yet(h->src);
	return n == -EPIPE || n >= 0 ? r : blame(h, h->src, n);
}

static void pump_run(struct task *t)
{
	struct pump *p = container_of(t, struct pump, task);
	ssize_t up = look(&p->up, forgive_epipe(&p->up, half_run(&p->up, &p->down)));
	ssize_t down = look(&p->down, forgive_epipe(&p->down, half_run(&p->down, &p->up)));
	if (p->up.stirred || p->down.stirred)
		p->last_moved_ms = reactor_now(p->rx);
	p->up.stirred = p->down.stirred = false;

	if (up < 0 && up != -EAGAIN)
		pump_end(p, (int)up);
	else if (down < 0 && down != -EAGAIN)
		pump_end(p, (int)down);
	else if ((p->up.done || p->up.deaf) && (p->down.done || p->down.deaf))
		pump_end(p, 0);
	else if (up == 1 || down == 1)
		task_wake(p->rx, &p->task);
}

static void pump_idle(struct timer *t)
{
	struct pump *p = container_of(t, struct pump, timer);
	uint64_t idle = reactor_now(p->rx) - p->last_moved_ms;
	if (idle >= p->idle_ms)
		pump_end(p, -ETIMEDOUT);
	else
		timer_set(p->rx, &p->timer, p->idle_ms - idle);
}

struct pump *pump_start(struct reactor *rx, struct stream *a, struct stream *b,
			pump_finished *finished, void *arg)
{
	struct pump *p = xcalloc(1, sizeof(*p));
	p->rx = rx;
	p->finished = finished;
	p->arg = arg;
	p->last_moved_ms = reactor_now(rx);
	p->up = (struct half){ .src = a, .dst = b };
	p->down = (struct half){ .src = b, .dst = a };
	buf_init(&p->up.held, HELD_MAX);
	buf_init(&p->down.held, HELD_MAX);
	task_init(&p->task, pump_run);
	timer_init(&p->timer, pump_idle);
	stream_bind(a, &p->task);
	stream_bind(b, &p->task);
	task_wake(rx, &p->task);
	return p;
}

static void seed(struct half *h, struct slice bytes)
{
	int r = buf_put(&h->held, bytes);
	BUG_ON(r < 0); /* handshake buffers are smaller than HELD_MAX */
	h->moved += bytes.n;
}

void pump_seed_to_a(struct pump *p, struct slice bytes)
{
	seed(&p->down, bytes);
}

void pump_seed_to_b(struct pump *p, struct slice bytes)
{
	seed(&p->up, bytes);
}

void pump_idle_limit(struct pump *p, uint64_t ms)
{
	p->idle_ms = ms;
	if (ms)
		timer_set(p->rx, &p->timer, ms);
	else
		timer_clear(p->rx, &p->timer);
}

void pump_moved(const struct pump *p, uint64_t *a_to_b, uint64_t *b_to_a)
{
	*a_to_b = p->up.moved;
	*b_to_a = p->down.moved;
}

void pump_abort(struct pump *p, int code)
{
	pump_end(p, code);
}
