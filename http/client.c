#include "http/client.h"

#include <errno.h>

#include "http/pull.h"
#include "reactor/err.h"

enum { INTERIM_MAX = 32 };

struct http_client {
	struct stream *s;
	struct buf out, in;
	char method[8]; /* for framing: only HEAD and CONNECT matter */
	size_t seen, head_len;
	unsigned interim;
	bool have_head;
	struct http_body body;
	struct http_err err;
};

struct http_client *http_client_new(struct stream *s, struct buf *request, struct slice method)
{
	struct http_client *c = xcalloc(1, sizeof(*c));
	c->s = s;
	c->out = *request;
	buf_init(request, request->max);
	buf_init(&c->in, HTTP_HEAD_MAX);
	snprintf(c->method, sizeof(c->method), "%.*s", SLICE_FMT(method));
	return c;
}

void http_client_bind(struct http_client *c, struct task *t)
{
	stream_bind(c->s, t);
	if (t)
		task_wake(c->s->rx, t);
}

struct stream *http_client_take(struct http_client *c, struct buf *rest)
{
	struct stream *s = c->s;

	buf_drop(&c->in, c->head_len);
	*rest = c->in;
	buf_end(&c->out);
	free(c);
	stream_bind(s, NULL);
	return s;
}

void http_client_free(struct http_client *c, int why)
{
	if (!c)
		return;
	stream_close(c->s, why);
	buf_end(&c->in);
	buf_end(&c->out);
	free(c);
}

static int flush(struct http_client *c)
{
	while (c->out.len > 0) {
		struct slice out = buf_data(&c->out);
		ssize_t n = stream_write(c->s, out.p, out.n);
		if (n < 0)
			return (int)n;
		buf_drop(&c->out, (size_t)n);
	}
	return 0;
}

/* 1 a head is in h, 0 need more, or fatal. */
static int parse(struct http_client *c, struct http_head *h)
{
	while (c->in.len > c->seen) {
		ssize_t n =
		    http_response_parse(h, buf_data(&c->in), c->seen, HTTP_HEAD_MAX, &c->err);
		if (n < 0)
			return -ERR_HTTP;
		if (n == 0) {
			c->seen = c->in.len;
			return 0;
		}
		c->seen = 0;
		if (h->status >= 200 || h->status == 101) {
			c->head_len = (size_t)n;
			return 1;
		}
		if (++c->interim > INTERIM_MAX)
			return -ERR_HTTP;
		buf_drop(&c->in, (size_t)n);
	}
	return 0;
}

int http_client_head(struct http_client *c, struct http_head *h)
{
	int sent = flush(c), r = 0;

	BUG_ON(c->have_head);
	/* An early response may explain why the request cannot be sent: read it all the same. */
	while ((r = parse(c, h)) == 0) {
		struct iovec room = buf_room(&c->in);
		ssize_t n = stream_read(c->s, room.iov_base, room.iov_len);
		buf_added(&c->in, n > 0 ? (size_t)n : 0);
		if (n < 0)
			return sent < 0 && sent != -EAGAIN ? sent : (int)n;
		if (n == 0)
			return sent < 0 && sent != -EAGAIN ? sent : -ERR_TRUNCATED;
	}
	if (r < 0)
		return r;
	c->have_head = true;
	http_body_init(&c->body, h, slice_str(c->method));
	return 0;
}

ssize_t http_client_read(struct http_client *c, void *p, size_t n)
{
	BUG_ON(!c->have_head);
	buf_drop(&c->in, c->head_len);
	c->head_len = 0;
	int sent = flush(c);
	if (sent == -EAGAIN)
		sent = 0;
	ssize_t got = http_pull(&c->body, &c->in, c->s, p, n);
	return got == -EAGAIN && sent < 0 ? sent : got;
}

const char *http_client_why(struct http_client *c, int code)
{
	return code == -ERR_HTTP && c->err.code ? http_err_text(c->err.code)
						: stream_why(c->s, code);
}
