#include "proto/sync/channel.h"

#include <errno.h>

enum {
	OUT_MAX = 1 << 20,
	CHUNK = 384 * 1024, /* any message fits one */
	CHUNKS_KEPT = 3,
	IN_MAX = 1 << 20,
	MOVE_MAX = 4096
};

/* What is to be written; messages lie in one piece. */
struct chunk {
	struct chunk *next;
	size_t at, len;
	char data[CHUNK];
};

struct channel {
	struct stream *in, *out;
	struct chunk *first, *last; /* to be written */
	struct chunk *spare;
	unsigned spares;
	size_t unsent;
	size_t head; /* of channel_put: the message up to its data */
	char *buf;   /* what was read: [start, end) */
	size_t start, end;
	uint64_t sent, received, tidied; /* tidied: the sum of both when channel_tidy looked */
	bool eof;
};

struct channel *channel_new(struct stream *in, struct stream *out, struct task *owner)
{
	struct channel *c = xcalloc(1, sizeof(*c));
	c->in = in;
	c->out = out;
	stream_bind(in, owner);
	if (out != in)
		stream_bind(out, owner);
	return c;
}

static void chunks_free(struct chunk *k)
{
	while (k) {
		struct chunk *next = k->next;
		free(k);
		k = next;
	}
}

void channel_free(struct channel *c)
{
	if (!c)
		return;
	if (c->out != c->in)
		stream_close(c->out, 0);
	stream_close(c->in, 0);
	chunks_free(c->first);
	chunks_free(c->spare);
	free(c->buf);
	free(c);
}

/* --- out --- */

bool channel_room(const struct channel *c)
{
	return c->unsent < OUT_MAX;
}

bool channel_empty(const struct channel *c)
{
	return c->unsent == 0;
}

static char *reserve(struct channel *c, size_t n)
{
	struct chunk *k = c->last;
	BUG_ON(n > CHUNK);
	if (!k || CHUNK - k->len < n) {
		k = c->spare;
		if (k) {
			c->spare = k->next;
			c->spares--;
		} else {
			k = xmalloc(sizeof(*k));
		}
		k->next = NULL;
		k->at = k->len = 0;
		if (c->last)
			c->last->next = k;
		else
			c->first = k;
		c->last = k;
	}
	return k->data + k->len;
}

static void commit(struct channel *c, size_t n)
{
	c->last->len += n;
	c->unsent += n;
}

void channel_send(struct channel *c, const struct msg *m)
{
	size_t n = wire_size(m);
	char *p = wire_put(m, reserve(c, n));
	if (m->data.n)
		memcpy(p, m->data.p, m->data.n);
	commit(c, n);
}

char *channel_put(struct channel *c, const struct msg *m, size_t max)
{
	struct msg empty = *m;
	empty.data.n = 0;
	c->head = wire_size(&empty);
	return reserve(c, c->head + max) + c->head;
}

void channel_put_done(struct channel *c, struct msg *m, size_t n)
{
	m->data.n = n;
	BUG_ON(wire_size(m) != c->head + n);
	wire_put(m, c->last->data + c->last->len);
	commit(c, c->head + n);
}

void channel_put_drop(struct channel *c)
{
	c->head = 0; /* the chunk stays, the next message takes it */
}

static void spares_leave(struct channel *c, unsigned n)
{
	while (c->spares > n) {
		struct chunk *k = c->spare;
		c->spare = k->next;
		c->spares--;
		free(k);
	}
}

static void chunk_done(struct channel *c)
{
	struct chunk *k = c->first;
	c->first = k->next;
	if (!c->first)
		c->last = NULL;
	k->next = c->spare;
	c->spare = k;
	c->spares++;
	spares_leave(c, CHUNKS_KEPT);
}

int channel_flush(struct channel *c)
{
	while (c->unsent) {
		struct iovec iov[4];
		int n = 0;
		for (struct chunk *k = c->first; k && n < (int)ARRAY_LEN(iov); k = k->next)
			iov[n++] = (struct iovec){ k->data + k->at, k->len - k->at };
		ssize_t put = c->out->ops->write(c->out, iov, n);
		if (put == -EAGAIN)
			return 0;
		if (put < 0)
			return (int)put;
		c->unsent -= (size_t)put;
		c->sent += (uint64_t)put;
		for (size_t left = (size_t)put; c->first;) {
			size_t m = MIN(left, c->first->len - c->first->at);
			c->first->at += m;
			left -= m;
			if (c->first->at < c->first->len)
				break;
			chunk_done(c);
		}
	}
	spares_leave(c, 1);
	return 0;
}

/* --- in --- */

/* Reads more behind what is there: like the verb; 0 is the end. */
static ssize_t fill(struct channel *c)
{
	if (!c->buf)
		c->buf = xmalloc(IN_MAX);
	if (c->start == c->end)
		c->start = c->end = 0;
	/* A little is moved to the front, so that what is used stays small. */
	if (c->start &&
	    (c->end - c->start <= MOVE_MAX || IN_MAX - c->start < WIRE_MAX + WIRE_HEAD)) {
		memmove(c->buf, c->buf + c->start, c->end - c->start);
		c->end -= c->start;
		c->start = 0;
	}
	ssize_t n = stream_read(c->in, c->buf + c->end, IN_MAX - c->end);
	if (n > 0) {
		c->end += (size_t)n;
		c->received += (uint64_t)n;
	}
	return n;
}

int channel_next(struct channel *c, struct msg_in *in)
{
	for (;;) {
		struct slice got = slice_of(c->buf ? c->buf + c->start : NULL, c->end - c->start);
		ssize_t n = wire_length(got);
		if (n < 0)
			return (int)n;
		if (n > 0 && (size_t)n <= got.n) {
			c->start += (size_t)n;
			int r = wire_get(in, slice_of(got.p, (size_t)n));
			return r < 0 ? r : 1;
		}
		ssize_t r = c->eof ? 0 : fill(c);
		if (r == 0) {
			c->eof = true;
			return -ENODATA;
		}
		if (r < 0)
			return r == -EAGAIN ? 0 : (int)r;
	}
}

bool channel_tidy(struct channel *c)
{
	uint64_t now = c->sent + c->received;
	bool idle = now == c->tidied && c->unsent == 0 && c->start == c->end;
	c->tidied = now;
	if (!idle || (!c->buf && !c->spare))
		return false;
	free(c->buf);
	c->buf = NULL;
	c->start = c->end = 0;
	chunks_free(c->spare);
	c->spare = NULL;
	c->spares = 0;
	return true;
}

uint64_t channel_sent(const struct channel *c)
{
	return c->sent;
}

uint64_t channel_received(const struct channel *c)
{
	return c->received;
}
