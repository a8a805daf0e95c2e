/* What waits to be written to a carrier, in order of urgency. */
#include <errno.h>

#include "proto/tstunnel/mux_int.h"

enum { BLOCK = 64 * 1024, BLOCK_MAX = 256 * 1024, IOVS = 64, COMMIT_BULK = 256 * 1024 };

_Static_assert(sizeof(struct out_block) + FRAME_HEADER + QUANTUM <= BLOCK, "a turn fits a block");
_Static_assert(sizeof(struct out_block) + FRAME_HEADER + QUANTUM_MAX <= BLOCK_MAX, "any turn does");

static struct out_block *block_new(size_t data)
{
	size_t size = sizeof(struct out_block) + data;
	struct out_block *b = (void *)block_get(&size);
	*b = (struct out_block){ .cap = size - sizeof(*b) };
	return b;
}

static void block_free(struct out_block *b)
{
	pipe_put(b->pipe, b->in_pipe == 0);
	block_put((char *)b, sizeof(*b) + b->cap);
}

static size_t block_bytes(const struct out_block *b)
{
	return b->len - b->head + b->in_pipe;
}

static void queue_append(struct out_queue *q, struct out_block *b)
{
	b->next = NULL;
	if (q->last)
		q->last->next = b;
	else
		q->first = b;
	q->last = b;
}

static struct out_block *queue_pop(struct out_queue *q)
{
	struct out_block *b = q->first;
	q->first = b->next;
	if (!q->first)
		q->last = NULL;
	return b;
}

struct iovec out_room(struct mux_out *o, struct out_queue *q, size_t want)
{
	struct out_block *b = q->last;
	size_t least = FRAME_HEADER + MIN(want, (size_t)BLOCK / 4);
	if (!b || b->cap - b->len < least) {
		/* Small blocks for small talk: an idle carrier's PING needs no 64 KiB. And a turn
		 * in one piece: it is one read, one frame, and whole records under TLS. */
		size_t size = sizeof(*b) + FRAME_HEADER + want;
		size = size <= 1024 ? 1024 : size <= BLOCK ? BLOCK : BLOCK_MAX;
		b = block_new(size - sizeof(*b));
		if (q == &o->bulk)
			b->seq = ++o->seq;
		queue_append(q, b);
	}
	size_t room = b->cap - b->len - FRAME_HEADER;
	return (struct iovec){ b->data + b->len + FRAME_HEADER, MIN(room, want) };
}

void out_commit(struct out_queue *q, const struct frame *f)
{
	struct out_block *b = q->last;
	frame_put(b->data + b->len, f);
	b->len += FRAME_HEADER + f->length;
	BUG_ON(b->len > b->cap);
	q->bytes += FRAME_HEADER + f->length;
}

void out_pipe(struct mux_out *o, struct pipe_pair *pipe, const struct frame *f)
{
	struct out_block *b = block_new(FRAME_HEADER);
	b->cap = FRAME_HEADER; /* no other frame may follow in it */
	frame_put(b->data, f);
	b->len = FRAME_HEADER;
	b->pipe = pipe;
	b->in_pipe = f->length;
	b->seq = ++o->seq;
	queue_append(&o->bulk, b);
	o->bulk.bytes += block_bytes(b);
}

void out_cancel(struct out_queue *q)
{
	if (q->first->len == 0)
		block_free(queue_pop(q));
}

void out_frame(struct mux_out *o, const struct frame *f, const char *payload)
{
	/* FRAME_OTHER_MAX fits a block of its own: out_room splits nothing that asks for its all.
	 */
	struct out_block *b = o->prompt.last;
	if (!b || b->cap - b->len < FRAME_HEADER + f->length) {
		b = block_new(MAX((size_t)FRAME_HEADER + f->length, 1024 - sizeof(*b)));
		queue_append(&o->prompt, b);
	}
	if (f->length)
		memcpy(b->data + b->len + FRAME_HEADER, payload, f->length);
	out_commit(&o->prompt, f);
}

static bool to_wire(struct mux_out *o, struct out_queue *q)
{
	struct out_block *b;
	/* Room that was lent and not used leaves an empty block, perhaps before full ones. */
	while (q->first && q->first->len == 0)
		block_free(queue_pop(q));
	if (!q->first)
		return false;
	b = queue_pop(q);
	q->bytes -= block_bytes(b);
	if (q == &o->bulk)
		o->wired = b->seq;
	queue_append(&o->wire, b);
	o->wire.bytes += block_bytes(b);
	return true;
}

/* Gives the next blocks their place. Little of the bulk while the carrier is slow: what has its
 * place can no longer be overtaken. */
static void commit(struct mux_out *o)
{
	while (to_wire(o, &o->prompt))
		;
	size_t most = o->wire.bytes + (o->congested ? 0 : COMMIT_BULK);
	while (to_wire(o, &o->bulk) && o->bulk.first &&
	       o->wire.bytes + block_bytes(o->bulk.first) <= most)
		;
}

static void sent(struct mux_out *o, size_t n)
{
	o->sent += n;
	o->wire.bytes -= n;
	while (n > 0) {
		struct out_block *b = o->wire.first;
		size_t part = MIN(n, b->len - b->head);
		b->head += part;
		n -= part;
		if (b->head == b->len && !b->pipe)
			block_free(queue_pop(&o->wire));
	}
}

/* The bytes in memory up to the first pipe, whose header leaves together with what it holds. */
static ssize_t write_blocks(struct mux_out *o, struct stream *transport)
{
	struct iovec iov[IOVS];
	int n = 0;
	bool more = false;
	for (struct out_block *b = o->wire.first; b && n < IOVS && !more; b = b->next) {
		iov[n++] = (struct iovec){ b->data + b->head, b->len - b->head };
		more = b->pipe;
	}
	ssize_t r = more && transport->ops->write_more
			? transport->ops->write_more(transport, iov, n)
			: transport->ops->write(transport, iov, n);
	if (r > 0)
		sent(o, (size_t)r);
	return r;
}

/* The carrier cannot splice after all: the first block's payload moves to memory. */
static void unpipe(struct mux_out *o)
{
	struct out_block *old = queue_pop(&o->wire), *b = block_new(old->in_pipe);
	pipe_read(old->pipe, b->data, old->in_pipe);
	b->len = old->in_pipe;
	b->next = o->wire.first;
	o->wire.first = b;
	if (!b->next)
		o->wire.last = b;
	old->in_pipe = 0;
	block_free(old);
}

static ssize_t splice_block(struct mux_out *o, struct stream *transport, struct out_block *b)
{
	ssize_t r = transport->ops->from_pipe(transport, &b->pipe, b->in_pipe);
	if (r == -EOPNOTSUPP || r == -EINVAL) {
		unpipe(o);
		return 0;
	}
	if (r <= 0)
		return r;
	o->sent += (size_t)r;
	o->wire.bytes -= (size_t)r;
	b->in_pipe -= (size_t)r;
	if (b->in_pipe == 0)
		block_free(queue_pop(&o->wire));
	return r;
}

int out_flush(struct mux_out *o, struct stream *transport)
{
	for (;;) {
		if (!o->wire.first)
			commit(o);
		struct out_block *b = o->wire.first;
		if (!b)
			return 0;
		ssize_t r = b->pipe && b->head == b->len ? splice_block(o, transport, b)
							 : write_blocks(o, transport);
		o->congested = r == -EAGAIN;
		if (r < 0)
			return (int)r;
	}
}

static void queue_end(struct out_queue *q)
{
	while (q->first)
		block_free(queue_pop(q));
	q->bytes = 0;
}

void out_end(struct mux_out *o)
{
	queue_end(&o->prompt);
	queue_end(&o->bulk);
	queue_end(&o->wire);
}
