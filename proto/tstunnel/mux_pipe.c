/*
 * Large DATA frames by splice, their headers apart.
 *
 * Sending: a stream's owner hands over a full pipe, which waits in the bulk queue like a block.
 * Receiving: when the block that was read is used up inside a large frame, the rest is left in the
 * carrier for one turn, for the stream to splice. Who lets the turn go by gets it as a copy, so
 * that a blocked stream holds up no other.
 */
#include <errno.h>

#include "proto/tstunnel/mux_int.h"

enum {
	STRICT_READS = 4, /* small frames between large ones that cost a read each */
	AHEAD_GROWTH = 8  /* after them reads grow again, by this factor */
};

static struct mux_stream *self(struct stream *s)
{
	return container_of(s, struct mux_stream, s);
}

/* --- sending --- */

/* How much of s may be spliced now, or a code. */
static ssize_t may_splice(struct mux_stream *s)
{
	int r = mux_stream_may_send(s);
	if (r < 0)
		return r;
	struct mux *m = s->m;
	if (m->offer.no_out)
		return -EOPNOTSUPP;
	if (s->credit <= 0)
		return -EAGAIN;
	/* What is interactive goes first, by copy; what little credit allows is not worth a pipe.
	 */
	if (!m->stats.settled || s->credit < SPLICE_LEAST || mux_stream_sparse(s) > 0)
		return -EINVAL;
	r = mux_stream_turn(s);
	if (r < 0)
		return r;
	size_t credit = (size_t)s->credit;
	if (credit <= m->quantum)
		return (ssize_t)credit;
	/* Two equal frames rather than a large one and a scrap. */
	return (ssize_t)(credit < m->quantum + SPLICE_LEAST ? credit / 2 : m->quantum);
}

/* Little is copied, as any other data, and so is what is more than was said to be welcome. */
static ssize_t copy_out(struct stream *st, struct pipe_pair *p, size_t n)
{
	struct iovec room;
	int r = st->ops->room(st, &room);
	if (r < 0)
		return r;
	n = MIN(n, room.iov_len);
	pipe_read(p, room.iov_base, n);
	st->ops->added(st, n);
	return (ssize_t)n;
}

ssize_t mux_from_pipe(struct stream *st, struct pipe_pair **p, size_t n)
{
	struct mux_stream *s = self(st);
	ssize_t most = may_splice(s);
	if (most < 0 || n == 0)
		return most;
	if (n < SPLICE_LEAST || n > (size_t)most)
		return copy_out(st, *p, n);
	out_pipe(&s->m->out, *p,
		 &(struct frame){ .length = (uint32_t)n,
				  .stream = s->id,
				  .type = FRAME_DATA,
				  .channel = s->channel });
	*p = NULL;
	mux_stream_queued(s, &s->m->out.bulk, n);
	return (ssize_t)n;
}

/* --- receiving --- */

/* Is the carrier inside a frame of DATA for s, at a byte that nobody has read? */
static bool is_at(const struct mux *m, const struct mux_stream *s)
{
	return s && m->cur_stream == s && m->cur.type == FRAME_DATA && m->cur_left > 0 &&
	       m->early == 0 && !m->closing && !m->offer.no_in && !m->offer.ended;
}

static ssize_t take(struct mux *m, int pipe_w, size_t max)
{
	struct mux_offer *o = &m->offer;
	struct stream *t = m->transport;
	ssize_t n = t->ops->to_pipe(t, pipe_w, MIN(max, m->cur_left));
	if (n > 0) {
		m->cur_left -= (size_t)n;
		m->last_rx_ms = reactor_now(m->rx);
		m->pinged = false;
		o->taken += (size_t)n;
		o->begun = m->cur_left > 0;
		return n;
	}
	o->dry = n == -EAGAIN;
	if (o->dry)
		return n;
	if (n == -EINVAL || n == -EOPNOTSUPP) {
		m->cur_stream->splices = false;
		o->no_in |= n == -EOPNOTSUPP;
	} else { /* for the mux to find, when it reads next */
		o->ended = true;
		o->code = (int)n;
	}
	task_wake(m->rx, &m->task);
	return -EAGAIN;
}

ssize_t mux_to_pipe(struct stream *st, int pipe_w, size_t max)
{
	struct mux_stream *s = self(st);
	struct mux *m = s->m;
	if (s->code)
		return s->code;
	s->splices = true;
	if (s->stash_first || s->seg_first)
		return -EINVAL; /* these come first */
	if (!m || !is_at(m, s))
		return s->fin_got ? 0 : -EAGAIN;
	ssize_t n = take(m, pipe_w, max);
	if (n > 0) {
		s->peeked_channel = m->cur.channel;
		mux_stream_consumed(s, (size_t)n);
	}
	return n;
}

bool mux_offer(struct mux *m)
{
	struct mux_stream *s = m->cur_stream;
	if (!is_at(m, s) || !s->splices || (m->cur_left < SPLICE_LEAST && !m->offer.begun))
		return false;
	m->offer.dry = false;
	mux_stream_wake(s);
	task_wake(m->rx, &m->offer.task); /* behind it */
	return true;
}

static void offer_run(struct task *t)
{
	struct mux *m = container_of(t, struct mux, offer.task);
	struct mux_offer *o = &m->offer;
	bool dry = o->dry, taken = o->taken > 0;
	o->taken = 0;
	if (is_at(m, m->cur_stream)) {
		if (dry)
			return; /* the carrier wakes the mux, which offers again */
		if (taken && mux_offer(m))
			return;
		m->cur_stream->splices = false;
	}
	m->task.run(&m->task); /* in tail position: it may end the mux */
}

void mux_offer_init(struct mux *m)
{
	const struct stream_ops *ops = m->transport->ops;
	m->offer.no_in = !ops->to_pipe;
	m->offer.no_out = !ops->from_pipe;
	task_init(&m->offer.task, offer_run);
}

void mux_offer_settled(struct mux *m)
{
	struct stream *t = m->transport;
	m->offer.no_out = m->offer.no_out || t->ops->from_pipe(t, NULL, 0) == -EOPNOTSUPP;
}

void mux_offer_next(struct mux *m)
{
	m->offer.ahead = FRAME_HEADER;
	m->offer.strict = STRICT_READS;
}

size_t mux_offer_room(struct mux *m, size_t room)
{
	struct mux_offer *o = &m->offer;
	o->begun = false;
	if (o->ahead == 0)
		return room;
	size_t want = m->cur_left + o->ahead - m->partial_len;
	if (o->strict > 0)
		o->strict--;
	else
		o->ahead *= AHEAD_GROWTH;
	if (o->ahead > room)
		o->ahead = 0;
	return MIN(want, room);
}
