/*
 * Chunked bodies. The input is a body; its first byte picks the size of the pieces. Properties: the
 * payload, the verdict and the end do not depend on the splitting; written again as chunks the
 * payload comes back.
 */
#include "http/http.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct result {
	struct buf payload;
	size_t used;
	struct http_err err;
	bool done;
};

static void decode(struct result *r, struct slice in, size_t step)
{
	static const struct http_head head = { .minor = 1, .chunked = true };
	struct http_body body;
	struct slice out;

	memset(r, 0, sizeof(*r));
	buf_init(&r->payload, 1 << 20);
	http_body_init(&body, &head, SLICE("POST"));
	while (r->used < in.n && !http_body_done(&body)) {
		struct slice piece = slice_of(in.p + r->used, MIN(step, in.n - r->used));
		ssize_t n = http_body_next(&body, piece, &out, &r->err);
		if (n < 0) {
			r->err.at += r->used;
			return;
		}
		BUG_ON(n == 0 || (size_t)n > piece.n);
		BUG_ON(out.n && (out.p < piece.p || out.p + out.n > piece.p + n));
		BUG_ON(buf_put(&r->payload, out) < 0);
		r->used += (size_t)n;
	}
	r->done = http_body_done(&body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct result whole, split, again;
	struct buf b;

	if (size == 0)
		return 0;
	struct slice in = slice_of(data + 1, size - 1);
	decode(&whole, in, SIZE_MAX);
	decode(&split, in, (size_t)data[0] + 1);
	BUG_ON(whole.err.code != split.err.code || whole.err.at != split.err.at);
	BUG_ON(whole.used != split.used && whole.err.code == 0);
	BUG_ON(whole.done != split.done);
	BUG_ON(!slice_eq(buf_data(&whole.payload), buf_data(&split.payload)));

	buf_init(&b, 2 << 20);
	struct slice payload = buf_data(&whole.payload);
	for (size_t i = 0; i < payload.n; i += data[0] + 1u) {
		struct slice piece = slice_of(payload.p + i, MIN(data[0] + 1u, payload.n - i));
		BUG_ON(http_put_chunk(&b, piece) < 0);
	}
	BUG_ON(http_put_last_chunk(&b) < 0);
	decode(&again, buf_data(&b), 3);
	BUG_ON(!again.done || again.used != b.len);
	BUG_ON(!slice_eq(buf_data(&again.payload), payload));

	buf_end(&b);
	buf_end(&whole.payload);
	buf_end(&split.payload);
	buf_end(&again.payload);
	return 0;
}
