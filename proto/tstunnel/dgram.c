#include "proto/tstunnel/dgram.h"

#include <errno.h>

#include "reactor/err.h"

enum { OUT_HELD = 128 * 1024 }; /* of one stream: a burst, not a queue */

void dgram_init(struct dgram *g)
{
	buf_init(&g->in, DGRAM_HEADER + DGRAM_MAX);
	buf_init(&g->out, OUT_HELD);
}

void dgram_end(struct dgram *g)
{
	buf_end(&g->in);
	buf_end(&g->out);
}

int dgram_read(struct dgram *g, struct stream *s, void (*each)(void *arg, struct slice d),
	       void *arg)
{
	char *p = reactor_scratch(s->rx);
	size_t have = g->in.len;
	ssize_t n = stream_read(s, p + have, REACTOR_SCRATCH - have);
	if (n == 0)
		return have ? -ERR_TRUNCATED : 0;
	if (n < 0)
		return (int)n;
	struct slice rest = slice_of(p, have + (size_t)n);
	if (have)
		memcpy(p, buf_data(&g->in).p, have);
	buf_drop(&g->in, have);
	while (rest.n >= DGRAM_HEADER && rest.n >= DGRAM_HEADER + dgram_length(rest.p)) {
		size_t len = dgram_length(rest.p);
		each(arg, slice_of(rest.p + DGRAM_HEADER, len));
		rest = slice_after(rest, DGRAM_HEADER + len);
	}
	int r = buf_put(&g->in, rest);
	BUG_ON(r < 0); /* a part is shorter than the whole */
	return 1;
}

int dgram_flush(struct dgram *g, struct stream *s)
{
	while (g->out.len > 0) {
		struct slice d = buf_data(&g->out);
		ssize_t n = stream_write(s, d.p, d.n);
		if (n < 0)
			return (int)n;
		buf_drop(&g->out, (size_t)n);
	}
	return 0;
}

/* What of a datagram with its header lies behind the first n bytes goes to the queue. */
static int hold(struct dgram *g, const char *header, struct slice d, size_t n)
{
	if (DGRAM_HEADER + d.n - n > g->out.max - g->out.len)
		return -ENOBUFS; /* never when n > 0: the queue was empty */
	if (n < DGRAM_HEADER)
		buf_put(&g->out, slice_of(header + n, DGRAM_HEADER - n));
	buf_put(&g->out, slice_after(d, n > DGRAM_HEADER ? n - DGRAM_HEADER : 0));
	return 0;
}

int dgram_write(struct dgram *g, struct stream *s, struct slice d)
{
	char header[DGRAM_HEADER];
	const struct iovec iov[2] = { { header, DGRAM_HEADER }, { (void *)(uintptr_t)d.p, d.n } };
	BUG_ON(d.n > DGRAM_MAX);
	dgram_header(header, d.n);
	int r = dgram_flush(g, s);
	if (r < 0 && r != -EAGAIN)
		return r;
	ssize_t n = r < 0 ? -EAGAIN : s->ops->write(s, iov, 2);
	if (n < 0 && n != -EAGAIN)
		return (int)n;
	if (n == (ssize_t)(DGRAM_HEADER + d.n))
		return 0;
	return hold(g, header, d, n < 0 ? 0 : (size_t)n);
}
