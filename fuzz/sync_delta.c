/*
 * Deltas: a signature from the wire is what it is put as, and may be of any file or of none; the
 * delta of one file against another, or against a signature that lies, never leaves its bounds, and
 * against an honest one rebuilds the file. First byte: which; then, for files: the length of the
 * old one in two bytes, a repeat count, and the bytes of both.
 */
#include <errno.h>

#include "proto/sync/delta.h"

enum { ROOM = 600000 };

struct rebuild {
	struct slice old;
	uint64_t size; /* what the signature tells */
	bool honest;
	char *got;
	size_t n;
};

static int on_copy(void *arg, uint64_t at, uint64_t n)
{
	struct rebuild *r = arg;
	BUG_ON(n == 0 || at > r->size || n > r->size - at);
	if (r->honest)
		memcpy(r->got + r->n, r->old.p + at, (size_t)n);
	r->n += (size_t)n;
	BUG_ON(r->n > ROOM);
	return 0;
}

static int on_data(void *arg, struct slice s)
{
	struct rebuild *r = arg;
	BUG_ON(s.n == 0 || s.n > SYNC_BLOCK || r->n + s.n > ROOM);
	memcpy(r->got + r->n, s.p, s.n);
	r->n += s.n;
	return 0;
}

static void delta(struct rebuild *r, const struct signature *sig, struct slice new, size_t step)
{
	struct delta_ops ops = { on_copy, on_data, r };
	struct slice rest = new;
	struct delta *d;
	r->size = sig->size;
	r->got = xmalloc(ROOM);
	d = delta_new(sig, &ops);
	while (rest.n) {
		size_t n = MIN(rest.n, step);
		BUG_ON(delta_feed(d, slice_of(rest.p, n)) != 0);
		rest = slice_after(rest, n);
	}
	BUG_ON(delta_end(d) != 0);
	delta_free(d);
	BUG_ON(r->n != new.n);
	BUG_ON(r->honest && new.n &&memcmp(r->got, new.p, new.n) != 0);
	free(r->got);
}

static void wire(struct slice in)
{
	struct signature s;
	struct rebuild r = { 0 };
	if (signature_get(&s, in) < 0)
		return;
	BUG_ON(s.n && signature_size(&s) != in.n);
	if (s.n) {
		char *out = xmalloc(signature_size(&s));
		signature_put(&s, out);
		BUG_ON(memcmp(out, in.p, in.n) != 0);
		free(out);
	}
	char *new = xcalloc(1, 3 * SYNC_BLOCK);
	memcpy(new + SYNC_BLOCK, in.p, MIN(in.n, SYNC_BLOCK));
	delta(&r, &s, slice_of(new, 3 * SYNC_BLOCK), 100000);
	free(new);
	signature_end(&s);
}

/* The bytes, over and over, so that files of several blocks come from a small input. */
static struct slice repeat(struct slice s, size_t times, char *out, size_t room)
{
	size_t n = 0;
	for (size_t i = 0; i <= times && s.n && n + s.n <= room; i++, n += s.n)
		memcpy(out + n, s.p, s.n);
	return slice_of(out, n);
}

static void files(struct slice in)
{
	struct rebuild r = { .honest = true };
	struct signature sig;
	struct digest d;
	uint8_t hash[32];
	if (in.n < 4)
		return;
	const uint8_t *p = (const uint8_t *)in.p;
	size_t cut = (size_t)p[0] << 8 | p[1], times = (size_t)p[2] * p[2], step = 1 + p[3] * 500U;
	in = slice_after(in, 4);
	cut = MIN(cut, in.n);
	char *old = xmalloc(ROOM / 2), *new = xmalloc(ROOM);
	r.old = repeat(slice_of(in.p, cut), times, old, ROOM / 2);
	/* The new one: a little of its own, the old one, and the rest of its own. */
	struct slice own = slice_after(in, cut), tail = slice_after(own, own.n / 2);
	size_t n = own.n / 2;
	memcpy(new, own.p, n);
	memcpy(new + n, r.old.p, r.old.n);
	n += r.old.n;
	n += repeat(tail, times, new + n, ROOM - n).n;
	digest_init(&d, &sig);
	digest_add(&d, r.old);
	digest_end(&d, hash);
	delta(&r, &sig, slice_of(new, n), step);
	signature_end(&sig);
	free(old);
	free(new);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct slice in = slice_of(data, n);
	if (n == 0)
		return 0;
	if (data[0] & 1)
		wire(slice_after(in, 1));
	else
		files(slice_after(in, 1));
	return 0;
}
