#include "cmd/pico-apiserver/rest.h"

enum { REQUEST_MAX = 1 << 20 };

struct stream *rest_dial(const struct rest *r)
{
	struct stream *s = dial(r->rx, &r->to, 0);
	if (!r->tls)
		return s;
	s = tls_client(r->tls, s, r->tls_name);
	tls_handshake_limit(s, REST_MS);
	return s;
}

void rest_put(const struct rest *r, const struct rest_request *q, const char *const *fields,
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
	BUG_ON(bad < 0); /* made of checked parts */
	free(target);
}

struct http_fetch *rest_ask(const struct rest *r, const struct rest_request *q,
			    http_fetched *fetched, void *arg)
{
	static const char *const fields[] = { "Connection", "close", NULL };
	struct buf b;
	rest_put(r, q, fields, &b);
	return http_fetch_new(rest_dial(r), &b, slice_str(q->method), REST_REPLY_MAX,
			      q->ms ? q->ms : REST_MS, fetched, arg);
}
