/* The streams of a mux: reactor/stream.h on top of credit, quanta and borrowed blocks. */
#include <errno.h>

#include "proto/tstunnel/mux_int.h"
#include "reactor/err.h"

enum { PROMPTLY_MS = 10 };

/* Received bytes that their owner did not take within the turn, copied out of the carrier's block:
 * records of one channel each, packed in chunks. */
struct chunk {
	struct chunk *next;
	size_t size; /* of the allocation */
	uint32_t head, tail, cap;
	uint32_t last; /* offset of the newest record */
	char data[];
};

struct record {
	uint32_t len;
	uint32_t channel;
};

/* Written over the header of a received frame, in place: the next segment of the same stream. */
struct segment {
	uint32_t next, len;
	uint8_t channel;
} __attribute__((packed));
_Static_assert(sizeof(struct segment) <= FRAME_HEADER, "a segment must fit a frame header");

static const struct stream_ops mux_ops;

static struct mux_stream *self(struct stream *s)
{
	return container_of(s, struct mux_stream, s);
}

bool stream_is_mux(const struct stream *s)
{
	return s->ops == &mux_ops;
}

/* --- table --- */

static struct mux_stream **slot_of(struct mux *m, uint32_t id)
{
	struct mux_stream **at = &m->table[(id >> 1) & (m->table_size - 1)];
	while (*at && (*at)->id != id)
		at = &(*at)->hash_next;
	return at;
}

struct mux_stream *mux_stream_find(struct mux *m, uint32_t id)
{
	return m->table_size ? *slot_of(m, id) : NULL;
}

static void table_grow(struct mux *m)
{
	struct mux_stream **old = m->table;
	uint32_t old_size = m->table_size;
	m->table_size = old_size ? old_size * 2 : 16;
	m->table = xcalloc(m->table_size, sizeof(struct mux_stream *));
	for (uint32_t i = 0; i < old_size; i++) {
		while (old[i]) {
			struct mux_stream *s = old[i];
			old[i] = s->hash_next;
			s->hash_next = NULL;
			*slot_of(m, s->id) = s;
		}
	}
	free(old);
}

struct mux_stream *mux_stream_new(struct mux *m, uint32_t id, bool by_peer)
{
	struct mux_stream *s = xcalloc(1, sizeof(*s));
	s->s = (struct stream){ .ops = &mux_ops, .rx = m->rx };
	s->m = m;
	s->id = id;
	s->by_peer = by_peer;
	s->credit = WINDOW_INITIAL;
	s->recv_credit = s->window = WINDOW_INITIAL;
	list_init(&s->wait_link);
	list_init(&s->borrow_link);
	if (m->count >= m->table_size)
		table_grow(m);
	*slot_of(m, id) = s;
	m->count++;
	m->peer_count += by_peer;
	m->stats.streams = m->count;
	m->stats.streams_total++;
	return s;
}

static void chunk_free(struct mux_stream *s, struct chunk *c)
{
	if (s->m)
		s->m->stashed -= c->size;
	block_put((char *)c, c->size);
}

static void stash_end(struct mux_stream *s)
{
	while (s->stash_first) {
		struct chunk *c = s->stash_first;
		s->stash_first = c->next;
		chunk_free(s, c);
	}
	s->stash_last = NULL;
}

static void segments_end(struct mux_stream *s)
{
	s->seg_first = s->seg_last = s->seg_skip = 0;
	list_del(&s->borrow_link);
}

/* Takes s out of its mux. */
static void detach(struct mux_stream *s)
{
	struct mux *m = s->m;
	if (!m)
		return;
	segments_end(s);
	list_del(&s->wait_link);
	*slot_of(m, s->id) = s->hash_next;
	s->hash_next = NULL;
	if (m->cur_stream == s)
		m->cur_stream = NULL;
	m->window_extra -= s->window - WINDOW_INITIAL;
	m->count--;
	m->peer_count -= s->by_peer;
	m->stats.streams = m->count;
	s->m = NULL;
}

void mux_stream_wake(struct mux_stream *s)
{
	if (s->owner)
		task_wake(s->s.rx, s->owner);
}

struct mux_extra *mux_stream_extra(struct mux_stream *s)
{
	if (!s->extra) {
		s->extra = xcalloc(1, sizeof(*s->extra));
		list_init(&s->extra->controls);
	}
	return s->extra;
}

static void extra_end(struct mux_stream *s)
{
	struct list *l;
	if (!s->extra)
		return;
	while ((l = list_pop(&s->extra->controls))) {
		struct control_msg *c = container_of(l, struct control_msg, link);
		free(c->text);
		free(c);
	}
	free(s->extra->why);
	free(s->extra->opened_json);
	free(s->extra);
}

void mux_stream_fail(struct mux_stream *s, int code, const char *why)
{
	stash_end(s);
	detach(s);
	s->code = code;
	if (why) {
		struct mux_extra *x = mux_stream_extra(s);
		free(x->why);
		x->why = xstrdup(why);
	}
	mux_stream_wake(s);
}

void mux_stream_orphan(struct mux_stream *s)
{
	if (!s->fin_got || (!s->fin_sent && !s->peer_stopped))
		return;
	mux_stream_settle(s);
	for (const struct chunk *c = s->stash_first; c; c = c->next)
		s->m->stashed -= c->size; /* it goes with the stream */
	detach(s);
	mux_stream_wake(s);
}

/* --- receiving --- */

static struct segment segment_get(const struct mux *m, uint32_t at)
{
	struct segment g;
	memcpy(&g, m->block + at - FRAME_HEADER, sizeof(g));
	return g;
}

static void segment_set(struct mux *m, uint32_t at, struct segment g)
{
	memcpy(m->block + at - FRAME_HEADER, &g, sizeof(g));
}

void mux_stream_lend(struct mux_stream *s, char *p, size_t n, uint8_t channel)
{
	struct mux *m = s->m;
	uint32_t at = (uint32_t)(p - m->block);
	segment_set(m, at, (struct segment){ 0, (uint32_t)n, channel });
	if (s->seg_last) {
		struct segment last = segment_get(m, s->seg_last);
		last.next = at;
		segment_set(m, s->seg_last, last);
	} else {
		s->seg_first = at;
		list_add_tail(&m->borrowers, &s->borrow_link);
	}
	s->seg_last = at;
	mux_stream_wake(s);
}

static void stash_put(struct mux_stream *s, const char *p, size_t n, uint8_t channel)
{
	while (n > 0) {
		struct chunk *c = s->stash_last;
		if (!c || c->cap - c->tail <= sizeof(struct record)) {
			size_t size = sizeof(*c) + sizeof(struct record) + MIN(n, 60 * 1024);
			c = (void *)block_get(&size);
			*c = (struct chunk){ .size = size, .cap = (uint32_t)(size - sizeof(*c)) };
			c->last = UINT32_MAX;
			s->m->stashed += size;
			if (s->stash_last)
				s->stash_last->next = c;
			else
				s->stash_first = c;
			s->stash_last = c;
		}
		struct record r;
		bool append = false;
		if (c->last != UINT32_MAX && c->last >= c->head) {
			memcpy(&r, c->data + c->last, sizeof(r));
			append = r.channel == channel;
		}
		if (!append) {
			c->last = c->tail;
			c->tail += (uint32_t)sizeof(r);
			r = (struct record){ 0, channel };
		}
		size_t part = MIN(n, c->cap - c->tail);
		memcpy(c->data + c->tail, p, part);
		c->tail += (uint32_t)part;
		r.len += (uint32_t)part;
		memcpy(c->data + c->last, &r, sizeof(r));
		p += part;
		n -= part;
	}
}

void mux_stream_settle(struct mux_stream *s)
{
	struct mux *m = s->m;
	for (uint32_t at = s->seg_first; at;) {
		struct segment g = segment_get(m, at);
		stash_put(s, m->block + at + s->seg_skip, g.len - s->seg_skip, g.channel);
		s->seg_skip = 0;
		at = g.next;
	}
	segments_end(s);
}

static int peek_stash(struct mux_stream *s, struct iovec *iov, int max)
{
	int n = 0;
	for (struct chunk *c = s->stash_first; c && n < max; c = c->next) {
		uint32_t at = c->head;
		while (at < c->tail && n < max) {
			struct record r;
			memcpy(&r, c->data + at, sizeof(r));
			if (n == 0)
				s->peeked_channel = (uint8_t)r.channel;
			else if (r.channel != s->peeked_channel)
				return n;
			iov[n++] = (struct iovec){ c->data + at + sizeof(r), r.len };
			at += (uint32_t)sizeof(r) + r.len;
		}
	}
	return n;
}

static int peek_segments(struct mux_stream *s, struct iovec *iov, int max)
{
	int n = 0;
	uint32_t skip = s->seg_skip;
	for (uint32_t at = s->seg_first; at && n < max;) {
		struct segment g = segment_get(s->m, at);
		if (n == 0)
			s->peeked_channel = g.channel;
		else if (g.channel != s->peeked_channel)
			break;
		iov[n++] = (struct iovec){ s->m->block + at + skip, g.len - skip };
		skip = 0;
		at = g.next;
	}
	return n;
}

static int mux_peek(struct stream *st, struct iovec *iov, int max)
{
	struct mux_stream *s = self(st);
	if (s->code)
		return s->code;
	if (s->stash_first)
		return peek_stash(s, iov, max);
	if (s->seg_first)
		return peek_segments(s, iov, max);
	return s->fin_got ? 0 : -EAGAIN;
}

/* Drops up to n bytes of the stash: how many. A record cut in the middle keeps its header, moved up
 * to the bytes that are left. */
static size_t drop_stash(struct mux_stream *s, size_t n)
{
	size_t dropped = 0;
	while (dropped < n && s->stash_first) {
		struct chunk *c = s->stash_first;
		struct record r;
		memcpy(&r, c->data + c->head, sizeof(r));
		uint32_t part = (uint32_t)MIN((size_t)r.len, n - dropped);
		bool newest = c->last == c->head;
		r.len -= part;
		c->head += part;
		dropped += part;
		if (r.len > 0) {
			memcpy(c->data + c->head, &r, sizeof(r));
			if (newest)
				c->last = c->head;
		} else {
			c->head += (uint32_t)sizeof(r);
		}
		if (c->head == c->tail) {
			s->stash_first = c->next;
			if (!s->stash_first)
				s->stash_last = NULL;
			chunk_free(s, c);
		}
	}
	return dropped;
}

static void drop_segments(struct mux_stream *s, size_t n)
{
	while (n > 0) {
		BUG_ON(!s->seg_first); /* more than was lent */
		struct segment g = segment_get(s->m, s->seg_first);
		size_t part = MIN(n, g.len - s->seg_skip);
		s->seg_skip += (uint32_t)part;
		n -= part;
		if (s->seg_skip < g.len)
			return;
		s->seg_first = g.next;
		s->seg_skip = 0;
	}
	if (!s->seg_first)
		segments_end(s);
}

/* Returns credit for what was consumed; a window that the owner empties within about two round
 * trips is too small for the path, so it doubles (docs/protocol.md). So it does within PROMPTLY_MS:
 * more credit costs fewer WINDOW frames, and a sender with many streams needs it to have some left
 * when a stream's turn comes. An owner with bytes in the stash is the slow one: more would only lie
 * there. */
static void grant(struct mux_stream *s)
{
	struct mux *m = s->m;
	uint32_t now = (uint32_t)reactor_now(m->rx);
	uint32_t add = s->consumed;
	uint64_t limit_ms = 2 * m->stats.rtt_us / 1000 + PROMPTLY_MS;
	if (now - s->granted_ms <= limit_ms && !s->stash_first && s->window < WINDOW_MAX &&
	    m->window_extra + s->window <= WINDOW_EXTRA_MAX) {
		m->window_extra += s->window;
		add += s->window;
		s->window *= 2;
	}
	s->granted_ms = now;
	s->consumed = 0;
	s->recv_credit += add;
	char payload[4];
	frame_put_u32(payload, add);
	mux_send(m, &(struct frame){ .length = 4, .stream = s->id, .type = FRAME_WINDOW }, payload);
}

void mux_stream_consumed(struct mux_stream *s, size_t n)
{
	s->consumed += (uint32_t)n;
	if (!s->fin_got && s->consumed >= s->window / 2)
		grant(s);
}

static void mux_drop(struct stream *st, size_t n)
{
	struct mux_stream *s = self(st);
	if (s->code)
		return; /* it failed since it lent them */
	drop_segments(s, n - drop_stash(s, n));
	mux_stream_consumed(s, n);
}

static ssize_t mux_read(struct stream *st, const struct iovec *iov, int n)
{
	size_t total = 0;
	for (int i = 0; i < n; i++) {
		size_t at = 0;
		while (at < iov[i].iov_len) {
			struct iovec have = { NULL, 0 };
			int r = mux_peek(st, &have, 1);
			if (r <= 0)
				return total ? (ssize_t)total : r;
			BUG_ON(!have.iov_base);
			size_t part = MIN(have.iov_len, iov[i].iov_len - at);
			memcpy((char *)iov[i].iov_base + at, have.iov_base, part);
			mux_drop(st, part);
			at += part;
			total += part;
		}
	}
	return (ssize_t)total;
}

/* --- sending --- */

int mux_stream_may_send(const struct mux_stream *s)
{
	if (s->code)
		return s->code;
	if (s->fin_sent || s->peer_stopped)
		return -EPIPE;
	return 0;
}

static int wait_turn(struct mux_stream *s)
{
	if (list_empty(&s->wait_link))
		list_add_tail(&s->m->waiting, &s->wait_link);
	return -EAGAIN;
}

size_t mux_stream_sparse(struct mux_stream *s)
{
	struct mux *m = s->m;
	uint32_t now = (uint32_t)reactor_now(m->rx);
	if (now - s->recent_ms >= SPARSE_MS) {
		uint32_t quarters = MIN((now - s->recent_ms) / SPARSE_MS, 15u);
		s->recent_ms = now;
		s->recent_bytes >>= 2 * quarters;
	}
	/* Its own bulk bytes must not be overtaken. */
	if (s->bulk_seq > m->out.wired || m->out.prompt.bytes >= PROMPT_MAX)
		return 0;
	return s->recent_bytes < SPARSE_BYTES ? SPARSE_BYTES - s->recent_bytes : 0;
}

int mux_stream_turn(struct mux_stream *s)
{
	struct mux *m = s->m;
	/* A turn that was given may be used up, or the last of a batch would always lose. */
	size_t limit = s->turn_left ? OUT_MAX + m->quantum : OUT_MAX;
	if (m->out.bulk.bytes + m->out.wire.bytes >= limit)
		return wait_turn(s);
	if (s->turn_left == 0) {
		if (!list_empty(&m->waiting))
			return wait_turn(s);
		s->turn_left = (uint32_t)m->quantum;
	}
	return 0;
}

static struct out_queue *lent_of(struct mux_stream *s)
{
	return s->lent_bulk ? &s->m->out.bulk : &s->m->out.prompt;
}

static int mux_room(struct stream *st, struct iovec *iov)
{
	struct mux_stream *s = self(st);
	int r = mux_stream_may_send(s);
	if (r < 0)
		return r;
	struct mux *m = s->m;
	if (s->credit <= 0)
		return -EAGAIN;
	size_t want = mux_stream_sparse(s);
	s->lent_bulk = want == 0;
	if (s->lent_bulk) {
		r = mux_stream_turn(s);
		if (r < 0)
			return r;
		want = s->turn_left;
	}
	s->lent = true;
	*iov = out_room(&m->out, lent_of(s), MIN(want, (size_t)s->credit));
	return 0;
}

void mux_stream_queued(struct mux_stream *s, struct out_queue *q, size_t n)
{
	struct mux *m = s->m;
	s->credit -= (int32_t)n;
	s->recent_bytes += (uint32_t)MIN(n, UINT32_MAX - s->recent_bytes);
	if (q == &m->out.bulk) {
		s->turn_left -= (uint32_t)MIN(n, s->turn_left);
		s->bulk_seq = m->out.seq;
	}
	m->stats.bytes_out += n;
	task_defer(m->rx, &m->flush_task);
}

static void mux_added(struct stream *st, size_t n)
{
	struct mux_stream *s = self(st);
	BUG_ON(!s->lent);
	struct out_queue *q = lent_of(s);
	s->lent = false;
	if (n == 0) {
		out_cancel(q);
		return;
	}
	out_commit(q, &(struct frame){ .length = (uint32_t)n,
				       .stream = s->id,
				       .type = FRAME_DATA,
				       .channel = s->channel });
	mux_stream_queued(s, q, n);
}

static ssize_t mux_write(struct stream *st, const struct iovec *iov, int n)
{
	struct mux_stream *s = self(st);
	int r = mux_stream_may_send(s);
	if (n == 0 && !s->code && !s->peer_stopped)
		return s->accepted ? 0 : -EAGAIN; /* our own FIN is no reason to call it closed */
	if (r < 0 || n == 0)
		return r;
	size_t total = 0;
	struct iovec room = { NULL, 0 };
	size_t used = 0;
	for (int i = 0; i < n; i++) {
		size_t at = 0;
		while (at < iov[i].iov_len) {
			if (used == room.iov_len) {
				if (used)
					mux_added(st, used);
				used = room.iov_len = 0;
				r = mux_room(st, &room);
				if (r < 0)
					return total ? (ssize_t)total : r;
			}
			size_t part = MIN(iov[i].iov_len - at, room.iov_len - used);
			memcpy((char *)room.iov_base + used, (const char *)iov[i].iov_base + at,
			       part);
			used += part;
			at += part;
			total += part;
		}
	}
	if (used)
		mux_added(st, used);
	return (ssize_t)total;
}

/* FIN goes where the stream's last bytes went, so that it cannot overtake them. */
static void send_fin(struct mux_stream *s, uint8_t flags)
{
	struct mux *m = s->m;
	struct frame f = { .stream = s->id, .type = FRAME_FIN, .flags = flags };
	if (s->bulk_seq > m->out.wired) {
		out_room(&m->out, &m->out.bulk, 0);
		out_commit(&m->out.bulk, &f);
		s->bulk_seq = m->out.seq;
		task_defer(m->rx, &m->flush_task);
	} else {
		mux_send(m, &f, NULL);
	}
	s->fin_sent = true;
}

static int mux_shut(struct stream *st)
{
	struct mux_stream *s = self(st);
	if (s->code)
		return s->code;
	if (!s->fin_sent && s->m)
		send_fin(s, 0);
	return 0;
}

static void mux_stream_free(struct mux_stream *s)
{
	struct mux *m = s->m;
	stash_end(s);
	detach(s);
	extra_end(s);
	free(s);
	if (m)
		mux_stream_gone(m);
}

static void send_reset(struct mux_stream *s, int code, const char *text)
{
	char payload[4 + FRAME_TEXT_MAX];
	size_t n = text ? MIN(strlen(text), (size_t)FRAME_TEXT_MAX) : 0;
	if (!s->m || s->reset)
		return;
	frame_put_u32(payload, reset_from_err(code));
	if (n)
		memcpy(payload + 4, text, n);
	mux_send(
	    s->m,
	    &(struct frame){ .length = (uint32_t)(4 + n), .stream = s->id, .type = FRAME_RESET },
	    payload);
	s->reset = true;
}

void mux_stream_reset(struct mux_stream *s, int code, const char *why)
{
	send_reset(s, code, why);
	mux_stream_fail(s, code, why);
}

void mux_refuse(struct stream *st, int code, const char *text)
{
	send_reset(self(st), code, text);
	mux_stream_free(self(st));
}

void mux_reset(struct stream *st, int code, const char *text)
{
	if (!self(st)->code)
		mux_stream_reset(self(st), code, text);
}

static void mux_close(struct stream *st, int why)
{
	struct mux_stream *s = self(st);
	if (why < 0 || (s->by_peer && !s->accepted)) {
		mux_refuse(st, why < 0 ? why : -ERR_CANCELLED, why < 0 ? err_text(why) : NULL);
		return;
	}
	bool peer_needs_to_know = !s->fin_sent || (!s->fin_got && !s->peer_stopped);
	if (s->m && peer_needs_to_know)
		send_fin(s, s->fin_got ? 0 : FRAME_FIN_STOP);
	mux_stream_free(s);
}

static void mux_bind(struct stream *st, struct task *t)
{
	struct mux_stream *s = self(st);
	s->owner = t;
	mux_stream_wake(s);
}

static const char *mux_why(struct stream *st)
{
	const struct mux_extra *x = self(st)->extra;
	return x ? x->why : NULL;
}

static const struct stream_ops mux_ops = {
	.name = "mux",
	.read = mux_read,
	.write = mux_write,
	.to_pipe = mux_to_pipe,
	.from_pipe = mux_from_pipe,
	.peek = mux_peek,
	.drop = mux_drop,
	.room = mux_room,
	.added = mux_added,
	.shut = mux_shut,
	.close = mux_close,
	.bind = mux_bind,
	.why = mux_why,
};

/* --- what is particular to these streams --- */

void mux_accept(struct stream *st, struct slice json)
{
	struct mux_stream *s = self(st);
	if (s->accepted || !s->m)
		return;
	s->accepted = true;
	mux_send(
	    s->m,
	    &(struct frame){ .length = (uint32_t)json.n, .stream = s->id, .type = FRAME_OPENED },
	    json.p);
}

struct slice mux_opened_json(struct stream *st)
{
	const struct mux_extra *x = self(st)->extra;
	return slice_str(x ? x->opened_json : NULL);
}

uint32_t mux_stream_id(const struct stream *st)
{
	return container_of(st, const struct mux_stream, s)->id;
}

struct stream *mux_sibling(const struct stream *st, uint32_t id)
{
	struct mux *m = container_of(st, const struct mux_stream, s)->m;
	struct mux_stream *s = m ? mux_stream_find(m, id) : NULL;
	return s ? &s->s : NULL;
}

void mux_set_channel(struct stream *st, uint8_t channel)
{
	self(st)->channel = channel;
}

uint8_t mux_peeked_channel(const struct stream *st)
{
	return container_of(st, const struct mux_stream, s)->peeked_channel;
}

int mux_control(struct stream *st, struct slice json)
{
	struct mux_stream *s = self(st);
	if (!s->m)
		return -EPIPE;
	BUG_ON(json.n > FRAME_OTHER_MAX);
	mux_send(
	    s->m,
	    &(struct frame){ .length = (uint32_t)json.n, .stream = s->id, .type = FRAME_CONTROL },
	    json.p);
	return 0;
}

char *mux_next_control(struct stream *st)
{
	struct mux_stream *s = self(st);
	struct list *l = s->extra ? list_pop(&s->extra->controls) : NULL;
	if (!l)
		return NULL;
	struct control_msg *c = container_of(l, struct control_msg, link);
	char *text = c->text;
	s->extra->controls_bytes -= c->cost;
	free(c);
	return text;
}
