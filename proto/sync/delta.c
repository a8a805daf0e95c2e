#include "proto/sync/delta.h"

#include <errno.h>

enum {
	BUF = 4 * SYNC_BLOCK,
	BITS_MAX = 24,
	PROBES = 32, /* of the index: what finds no place in as many is left out */
	CREDIT = 64, /* hashes that may be made in vain, */
	CREDIT_PER =
	    16384 /* and one more for each so many bytes: bounds what equal sums can cost */
};

struct delta {
	const struct signature *old;
	const struct signature *own; /* may be NULL */
	uint64_t own_at;             /* where buf[0] is in the new file */
	struct delta_ops ops;
	size_t whole;  /* blocks of SYNC_BLOCK bytes; */
	size_t rest;   /* length of the short one behind them, or 0 */
	uint32_t *at;  /* index by weak sum: the block + 1, or 0 */
	uint64_t *bit; /* one bit a slot of a larger table: most sums are none of ours */
	unsigned at_bits, bit_bits;
	/* New bytes that are not told yet are buf[start, len): those before pos are in no block,
	 * the window is at pos. */
	uint8_t *buf;
	size_t start, pos, len;
	struct weak weak; /* of the window, if summed */
	bool summed, looked;
	size_t next; /* the block that would go on where the last match ended */
	uint64_t copy_at, copy_n;
	uint64_t credit; /* in bytes */
	int err;
};

static uint32_t hash_bits(uint32_t weak, unsigned bits)
{
	return (weak * 0x85ebca6bU) >> (32 - bits);
}

static void bit_set(struct delta *d, uint32_t weak)
{
	uint32_t h = weak >> (32 - d->bit_bits);
	d->bit[h >> 6] |= 1ULL << (h & 63);
}

static bool sum_eq(const struct block_sum *a, const struct block_sum *b)
{
	return a->weak == b->weak && memcmp(a->strong, b->strong, SYNC_STRONG) == 0;
}

/* The first of equal blocks is enough. */
static void index_add(struct delta *d, size_t block)
{
	const struct block_sum *v = d->old->v;
	uint32_t mask = (1U << d->at_bits) - 1, h = hash_bits(v[block].weak, d->at_bits);
	for (int i = 0; i < PROBES; i++, h = (h + 1) & mask) {
		if (d->at[h] == 0) {
			d->at[h] = (uint32_t)block + 1;
			bit_set(d, v[block].weak);
			return;
		}
		if (sum_eq(&v[d->at[h] - 1], &v[block]))
			return;
	}
}

struct delta *delta_new(const struct signature *old, const struct delta_ops *ops)
{
	struct delta *d = xcalloc(1, sizeof(*d));
	d->old = old;
	d->ops = *ops;
	if (old->n == 0)
		return d;
	d->rest = (size_t)(old->size % SYNC_BLOCK);
	d->whole = old->n - (d->rest > 0);
	d->credit = (uint64_t)CREDIT * CREDIT_PER;
	d->buf = xmalloc(BUF);
	for (d->at_bits = 6; (size_t)1 << d->at_bits < 2 * d->whole;)
		d->at_bits++;
	d->bit_bits = MIN(MAX(d->at_bits + 6, 17U), BITS_MAX);
	d->at = xcalloc((size_t)1 << d->at_bits, sizeof(*d->at));
	d->bit = xcalloc((size_t)1 << (d->bit_bits - 6), sizeof(*d->bit));
	for (size_t i = 0; i < d->whole; i++)
		index_add(d, i);
	return d;
}

void delta_own(struct delta *d, const struct signature *own, uint64_t at)
{
	d->own = own;
	d->own_at = at;
}

/* The sums of the window, if it is a block of the new file that is known. */
static const struct block_sum *own_block(const struct delta *d)
{
	uint64_t at = d->own_at + d->pos;
	if (!d->own || at % SYNC_BLOCK || at / SYNC_BLOCK >= d->own->n)
		return NULL;
	return &d->own->v[at / SYNC_BLOCK];
}

void delta_free(struct delta *d)
{
	if (!d)
		return;
	free(d->at);
	free(d->bit);
	free(d->buf);
	free(d);
}

static int copy_tell(struct delta *d)
{
	uint64_t n = d->copy_n;
	d->copy_n = 0;
	return n ? d->ops.copy(d->ops.arg, d->copy_at, n) : 0;
}

/* Tells what is before end and in no block. */
static int data_tell(struct delta *d, size_t end)
{
	int err = end > d->start ? copy_tell(d) : 0;
	while (err == 0 && d->start < end) {
		struct slice s = slice_of(d->buf + d->start, MIN(end - d->start, SYNC_BLOCK));
		err = d->ops.data(d->ops.arg, s);
		d->start += s.n;
	}
	return err;
}

/* The n bytes at pos are those of the block. */
static int block_tell(struct delta *d, size_t block, size_t n)
{
	uint64_t at = (uint64_t)block * SYNC_BLOCK;
	int err = data_tell(d, d->pos);
	if (err == 0 && d->copy_n && d->copy_at + d->copy_n != at)
		err = copy_tell(d);
	if (d->copy_n == 0)
		d->copy_at = at;
	d->copy_n += n;
	if (err == 0 && d->copy_n >= DELTA_COPY_MAX)
		err = copy_tell(d);
	d->pos += n;
	d->start = d->pos;
	d->next = block + 1;
	d->summed = d->looked = false;
	return err;
}

static void credit_add(struct delta *d, size_t n)
{
	d->credit = MIN(d->credit + n, (uint64_t)CREDIT * CREDIT_PER);
}

static bool strong_eq(const struct delta *d, size_t block, const uint8_t hash[])
{
	return memcmp(d->old->v[block].strong, hash, SYNC_STRONG) == 0;
}

/* Which block the window is, or -1. One hash at most, none if own has it. */
static ssize_t window_find(struct delta *d, uint32_t weak, const struct block_sum *own)
{
	uint32_t mask = (1U << d->at_bits) - 1, h = hash_bits(weak, d->at_bits);
	uint8_t hash[32];
	const uint8_t *strong = own ? own->strong : NULL;
	if (d->credit < CREDIT_PER)
		return -1;
	for (int i = -1; i < PROBES && (i < 0 || d->at[h]); i++) {
		size_t block = i < 0 ? d->next : d->at[h] - 1;
		if (i >= 0)
			h = (h + 1) & mask;
		if (block >= d->whole || d->old->v[block].weak != weak)
			continue;
		if (!strong) {
			digest_block(slice_of(d->buf + d->pos, SYNC_BLOCK), hash);
			strong = hash;
		}
		if (strong_eq(d, block, strong))
			return (ssize_t)block;
	}
	if (strong == hash)
		d->credit -= CREDIT_PER;
	return -1;
}

/* Are the bytes at pos the short block at the end of the old file? */
static bool is_rest(const struct delta *d, size_t pos)
{
	struct slice s = slice_of(d->buf + pos, d->rest);
	uint8_t hash[32];
	if (d->rest == 0 || d->len < pos + d->rest ||
	    weak_value(weak_of(s)) != d->old->v[d->whole].weak)
		return false;
	digest_block(s, hash);
	return strong_eq(d, d->whole, hash);
}

/* Is there a block of this sum? */
static bool index_has(const struct delta *d, uint32_t weak)
{
	uint32_t mask = (1U << d->at_bits) - 1, h = hash_bits(weak, d->at_bits);
	for (int i = 0; i < PROBES && d->at[h]; i++, h = (h + 1) & mask)
		if (d->old->v[d->at[h] - 1].weak == weak)
			return true;
	return false;
}

static uint64_t bit_get(const uint64_t *bit, unsigned shift, struct weak w)
{
	uint32_t h = weak_value(w) >> shift;
	return bit[h >> 6] >> (h & 63);
}

/* Moves the window on, byte by byte, to where the sum is one of ours: not further than there are
 * bytes, nor than the unmatched ones make a block. */
static void window_roll(struct delta *d)
{
	size_t n = MIN(d->len - SYNC_BLOCK, d->start + SYNC_BLOCK) - d->pos, i = 0;
	const uint8_t *out = d->buf + d->pos, *in = out + SYNC_BLOCK;
	const uint64_t *bit = d->bit;
	unsigned shift = 32 - d->bit_bits;
	struct weak w = d->weak, v[4];
	bool found = false;
	while (i < n && !found) {
		/* Four at a time: one branch that is hardly ever taken. */
		for (; i + 4 <= n; i += 4, w = v[3]) {
			v[0] = weak_roll(w, SYNC_BLOCK, out[i], in[i]);
			v[1] = weak_roll(v[0], SYNC_BLOCK, out[i + 1], in[i + 1]);
			v[2] = weak_roll(v[1], SYNC_BLOCK, out[i + 2], in[i + 2]);
			v[3] = weak_roll(v[2], SYNC_BLOCK, out[i + 3], in[i + 3]);
			if ((bit_get(bit, shift, v[0]) | bit_get(bit, shift, v[1]) |
			     bit_get(bit, shift, v[2]) | bit_get(bit, shift, v[3])) &
			    1)
				break;
		}
		for (size_t end = MIN(i + 4, n); i < end && !found; i++) {
			w = weak_roll(w, SYNC_BLOCK, out[i], in[i]);
			found = bit_get(bit, shift, w) & 1 && index_has(d, weak_value(w));
		}
	}
	d->weak = w;
	d->pos += i;
	credit_add(d, i);
	d->looked = false;
}

/* As far as there are whole windows. */
static int buf_run(struct delta *d)
{
	int err = 0;
	while (err == 0 && d->len - d->pos >= SYNC_BLOCK) {
		const struct block_sum *own = d->summed || d->looked ? NULL : own_block(d);
		if (!d->summed && !own) {
			d->weak = weak_of(slice_of(d->buf + d->pos, SYNC_BLOCK));
			d->summed = true;
		}
		if (!d->looked) {
			ssize_t block = window_find(d, own ? own->weak : weak_value(d->weak), own);
			d->looked = true;
			if (block >= 0) {
				credit_add(d, SYNC_BLOCK);
				err = block_tell(d, (size_t)block, SYNC_BLOCK);
				continue;
			}
			if (d->pos == d->start && d->next == d->whole && is_rest(d, d->pos)) {
				err = block_tell(d, d->whole, d->rest);
				continue;
			}
		}
		if (!d->summed)
			continue; /* to be rolled */
		if (d->pos - d->start == SYNC_BLOCK)
			err = data_tell(d, d->pos);
		if (d->len - d->pos == SYNC_BLOCK)
			break;
		window_roll(d);
	}
	return err;
}

int delta_feed(struct delta *d, struct slice s)
{
	if (d->old->n == 0) {
		while (d->err == 0 && s.n) {
			struct slice part = slice_of(s.p, MIN(s.n, SYNC_BLOCK));
			d->err = d->ops.data(d->ops.arg, part);
			s = slice_after(s, part.n);
		}
		return d->err;
	}
	while (d->err == 0 && s.n) {
		if (d->len == BUF) {
			d->len -= d->start;
			memmove(d->buf, d->buf + d->start, d->len);
			d->own_at += d->start;
			d->pos -= d->start;
			d->start = 0;
		}
		size_t n = MIN(s.n, BUF - d->len);
		memcpy(d->buf + d->len, s.p, n);
		d->len += n;
		s = slice_after(s, n);
		d->err = buf_run(d);
	}
	return d->err;
}

int delta_end(struct delta *d)
{
	if (d->err || d->old->n == 0)
		return d->err;
	if (d->pos == d->start && d->next == d->whole && is_rest(d, d->pos))
		d->err = block_tell(d, d->whole, d->rest);
	if (d->err == 0 && d->len - d->start >= d->rest && d->len > d->start &&
	    is_rest(d, d->len - d->rest)) {
		d->pos = d->len - d->rest;
		d->err = block_tell(d, d->whole, d->rest);
	}
	if (d->err == 0)
		d->err = data_tell(d, d->len);
	if (d->err == 0)
		d->err = copy_tell(d);
	return d->err;
}

/* --- the wire --- */

enum { HEAD = 8, SUM = 4 + SYNC_STRONG };

size_t signature_size(const struct signature *s)
{
	return HEAD + s->n * SUM;
}

void signature_put(const struct signature *s, char *out)
{
	for (int i = 0; i < HEAD; i++)
		*out++ = (char)(s->size >> (56 - 8 * i));
	for (size_t i = 0; i < s->n; i++) {
		for (int j = 24; j >= 0; j -= 8)
			*out++ = (char)(s->v[i].weak >> j);
		memcpy(out, s->v[i].strong, SYNC_STRONG);
		out += SYNC_STRONG;
	}
}

int signature_get(struct signature *s, struct slice in)
{
	const uint8_t *p = (const uint8_t *)in.p;
	*s = (struct signature){ 0 };
	if (in.n < HEAD || (in.n - HEAD) % SUM)
		return -EINVAL;
	size_t n = (in.n - HEAD) / SUM;
	uint64_t size = 0;
	for (int i = 0; i < HEAD; i++)
		size = size << 8 | *p++;
	/* A file that is too large, or was not read, has none. */
	if (n != 0 && n != size / SYNC_BLOCK + (size % SYNC_BLOCK > 0))
		return -EINVAL;
	s->size = size;
	s->n = n;
	s->v = n ? xcalloc(n, sizeof(*s->v)) : NULL;
	for (size_t i = 0; i < n; i++) {
		for (int j = 0; j < 4; j++)
			s->v[i].weak = s->v[i].weak << 8 | *p++;
		memcpy(s->v[i].strong, p, SYNC_STRONG);
		p += SYNC_STRONG;
	}
	return 0;
}
