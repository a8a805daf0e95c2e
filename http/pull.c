#include "http/pull.h"

#include <errno.h>

#include "reactor/err.h"

/* Decodes n raw bytes in place: the payload's length. What follows the body goes to in. */
static ssize_t decode(struct http_body *b, struct buf *in, char *p, size_t n)
{
	size_t used = 0, payload = 0;

	while (used < n && !http_body_done(b)) {
		struct slice out;
		struct http_err err;
		ssize_t r = http_body_next(b, slice_of(p + used, n - used), &out, &err);
		if (r < 0)
			return -ERR_HTTP;
		if (out.n)
			memmove(p + payload, out.p, out.n);
		payload += out.n;
		used += (size_t)r;
	}
	int r = buf_put(in, slice_of(p + used, n - used));
	BUG_ON(r < 0); /* it was empty, and no more was read than it holds */
	return (ssize_t)payload;
}

static ssize_t pull_stream(struct http_body *b, struct buf *in, struct stream *s, char *p, size_t n)
{
	size_t most = b->how == HTTP_CHUNKED ? in->max : b->left;
	ssize_t got = stream_read(s, p, MIN(n, most));

	if (got == 0)
		return http_body_eof(b) < 0 ? -ERR_TRUNCATED : -ENODATA;
	return got < 0 ? got : decode(b, in, p, (size_t)got);
}

/* The next piece of what was read ahead. */
static ssize_t pull_held(struct http_body *b, struct buf *in, char *p, size_t n)
{
	struct slice held = buf_data(in), out;
	struct http_err err;
	ssize_t used = http_body_next(b, slice_of(held.p, MIN(held.n, n)), &out, &err);

	if (used < 0)
		return -ERR_HTTP;
	if (out.n)
		memcpy(p, out.p, out.n);
	buf_drop(in, (size_t)used);
	return (ssize_t)out.n;
}

ssize_t http_pull(struct http_body *b, struct buf *in, struct stream *s, void *p, size_t n)
{
	ssize_t got = 0;

	while (got == 0 && n > 0 && !http_body_done(b))
		got = in->len ? pull_held(b, in, p, n) : pull_stream(b, in, s, p, n);
	return got == -ENODATA ? 0 : got; /* a proper end of the connection */
}
