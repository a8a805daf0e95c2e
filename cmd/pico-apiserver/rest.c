#include "cmd/pico-apiserver/rest.h"

#include <errno.h>

enum { REQUEST_MAX = 1 << 20 };

static struct stream *rest_dial(const struct rest *r)
{
	struct stream *s = dial(r->rx, &r->to, 0);
	if (!r->tls)
		return s;
	s = tls_client(r->tls, s, r->tls_name);
	tls_handshake_limit(s, REST_MS);
	return s;
}

/* 0, or negative: names and tokens are what others say. */
static int rest_put(const struct rest *r, const struct rest_request *q, const char *const *fields,
		    struct buf *b)
{
	char *target = xasprintf("%s%s", r->prefix, q->target);
	bool body = q->body.p || strcmp(q->method, "POST") == 0;
	const char *authorization = r->authorization ? r->authorization(r->arg) : NULL;
	buf_init(b, REQUEST_MAX);
	int bad = http_put_request(b, slice_str(q->method), slice_str(target));
	bad |= http_put_field(b, SLICE("Host"), slice_str(r->host));
	bad |= http_put_field(b, SLICE("Accept"), SLICE("application/json"));
	if (authorization)
		bad |= http_put_field(b, SLICE("Authorization"), slice_str(authorization));
	for (; fields && *fields; fields += 2)
		bad |= http_put_field(b, slice_str(fields[0]), slice_str(fields[1]));
	if (q->body.p)
		bad |= http_put_field(b, SLICE("Content-Type"),
				      slice_str(q->type ? q->type : "application/json"));
	if (body)
		bad |= http_put_number(b, SLICE("Content-Length"), q->body.n);
	bad |= http_put_end(b);
	bad |= buf_put(b, q->body);
	free(target);
	return bad;
}

struct stream *rest_open(const struct rest *r, const struct rest_request *q,
			 const char *const *fields, struct buf *b)
{
	if (rest_put(r, q, fields, b) == 0)
		return rest_dial(r);
	buf_end(b);
	struct stream *s = fd_stream_pending(r->rx);
	fd_stream_fail(s, -EINVAL,
		       "no HTTP request can be made of it: a token, a name or a version has bytes "
		       "that must not be there");
	return s;
}

struct http_fetch *rest_ask(const struct rest *r, const struct rest_request *q,
			    http_fetched *fetched, void *arg)
{
	static const char *const fields[] = { "Connection", "close", NULL };
	struct buf b;
	struct stream *s = rest_open(r, q, fields, &b);
	return http_fetch_new(s, &b, slice_str(q->method), REST_REPLY_MAX, q->ms ? q->ms : REST_MS,
			      fetched, arg);
}
