/* What fuzz/http_request.c and fuzz/http_response.c have in common. */
#ifndef FUZZ_HTTP_HEAD_H
#define FUZZ_HTTP_HEAD_H

#include "http/http.h"

typedef ssize_t head_parser(struct http_head *, struct slice, size_t, size_t, struct http_err *);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void same_head(const struct http_head *a, const struct http_head *b)
{
	BUG_ON(a->minor != b->minor || a->status != b->status || a->form != b->form);
	BUG_ON(!slice_eq(a->method, b->method) || !slice_eq(a->target, b->target));
	BUG_ON(!slice_eq(a->reason, b->reason) || a->nfields != b->nfields);
	BUG_ON(a->chunked != b->chunked || a->has_length != b->has_length ||
	       a->length != b->length);
	for (size_t i = 0; i < a->nfields; i++)
		BUG_ON(!slice_eq(a->field[i].name, b->field[i].name) ||
		       !slice_eq(a->field[i].value, b->field[i].value));
}

/* Byte by byte, from an exact-sized copy so that reading past what was offered is caught. */
static ssize_t parse_split(head_parser *parse, struct http_head *h, struct slice in, size_t step,
			   struct http_err *err)
{
	size_t seen = 0;
	ssize_t r = 0;
	for (size_t n = 0; r == 0 && n < in.n; seen = n) {
		n = MIN(n + step, in.n);
		r = parse(h, slice_of(in.p, n), seen, HTTP_HEAD_MAX, err);
	}
	return r;
}

static void fuzz_head(head_parser *parse, struct slice in)
{
	static struct http_head whole, split, again;
	struct http_err e1 = { 0, 0 }, e2 = { 0, 0 };
	struct buf b;
	ssize_t n = parse(&whole, in, 0, HTTP_HEAD_MAX, &e1);

	for (size_t step = 1; step < 40; step = step * 3 + 1) {
		BUG_ON(in.n && parse_split(parse, &split, in, step, &e2) != n);
		BUG_ON(n < 0 && (e1.code != e2.code || e1.at != e2.at));
	}
	BUG_ON(n > (ssize_t)in.n || (n < 0 && e1.at > in.n));
	if (n <= 0)
		return;
	same_head(&whole, &split);
	BUG_ON(whole.chunked && whole.has_length);

	buf_init(&b, 2 * HTTP_HEAD_MAX); /* "a:" is written as "a: " */
	BUG_ON(http_put_head(&b, &whole, NULL, 0) < 0);
	if (b.len <= HTTP_HEAD_MAX) {
		BUG_ON(parse(&again, buf_data(&b), 0, HTTP_HEAD_MAX, &e2) != (ssize_t)b.len);
		same_head(&whole, &again);
	}
	buf_end(&b);
	http_head_host(&whole);
	BUG_ON(http_wants_upgrade(&whole) && !http_field_get(&whole, SLICE("Upgrade")).p);

	struct http_body body;
	http_body_init(&body, &whole, SLICE("GET"));
	ssize_t used = http_body_check(&body, slice_after(in, (size_t)n), &e1);
	BUG_ON(used > (ssize_t)in.n - n);
	BUG_ON(used >= 0 && used < (ssize_t)in.n - n && !http_body_done(&body) &&
	       body.how != HTTP_TUNNEL);
}

#endif
