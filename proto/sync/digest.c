#include "proto/sync/digest.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "reactor/buf.h"

enum { LANES = 16, READ_MAX = 256 * 1024, SIGNATURE_MAX = 16 << 20 };

static const char zeros[4096];

/* --- rolling sum --- */

/* In lanes, so that the compiler makes vectors of it: sum[j] is of the bytes LANES apart, and runs
 * holds the sum of all values that sum[j] has had, which counts each byte as often as there are
 * rows from it to the end. */
struct weak weak_of(struct slice window)
{
	const uint8_t *p = (const uint8_t *)window.p;
	uint32_t sum[LANES] = { 0 }, runs[LANES] = { 0 };
	struct weak w = { 0, 0 };
	size_t rows = window.n / LANES;

	for (size_t i = 0; i < rows; i++, p += LANES) {
		for (int j = 0; j < LANES; j++) {
			sum[j] += p[j];
			runs[j] += sum[j];
		}
	}
	for (uint32_t j = 0; j < LANES; j++) {
		w.a += sum[j];
		w.b += LANES * runs[j] - j * sum[j];
	}
	for (size_t i = rows * LANES; i < window.n; i++, p++) {
		w.a += *p;
		w.b += w.a;
	}
	return w;
}

/* --- signature --- */

void signature_end(struct signature *s)
{
	free(s->v);
	memset(s, 0, sizeof(*s));
}

static void signature_add(struct digest *d, const uint8_t hash[32])
{
	struct signature *s = d->sig;

	if (s->n == SIGNATURE_MAX / sizeof(*s->v)) {
		signature_end(s);
		d->sig = NULL;
		return;
	}
	if (s->n == d->sig_cap) {
		d->sig_cap = d->sig_cap ? 2 * d->sig_cap : 4;
		s->v = xrealloc(s->v, d->sig_cap * sizeof(*s->v));
	}
	s->v[s->n].weak = weak_value(d->weak);
	memcpy(s->v[s->n].strong, hash, SYNC_STRONG);
	s->n++;
}

/* --- digest --- */

static void block_begin(struct digest *d)
{
	sha256_init(&d->leaf);
	sha256_add(&d->leaf, slice_of("\0", 1));
	d->weak = (struct weak){ 0, 0 };
	d->in_block = 0;
}

void digest_block(struct slice block, uint8_t out[32])
{
	struct sha256 s;
	sha256_init(&s);
	sha256_add(&s, slice_of("\0", 1));
	sha256_add(&s, block);
	sha256_end(&s, out);
}

void digest_init(struct digest *d, struct signature *sig)
{
	memset(d, 0, sizeof(*d));
	block_begin(d);
	d->sig = sig;
	if (sig)
		memset(sig, 0, sizeof(*sig));
}

static void many_add(struct digest *d, const uint8_t hash[32])
{
	if (!d->many) {
		d->many = true;
		sha256_init(&d->whole);
		sha256_add(&d->whole, slice_of("\1", 1));
	}
	sha256_add(&d->whole, slice_of(hash, 32));
}

/* The block is full, and there is more. */
static void block_next(struct digest *d)
{
	uint8_t hash[32];

	sha256_end(&d->leaf, hash);
	if (d->sig)
		signature_add(d, hash);
	many_add(d, hash);
	block_begin(d);
}

void digest_add(struct digest *d, struct slice s)
{
	while (s.n > 0) {
		if (d->in_block == SYNC_BLOCK)
			block_next(d);
		struct slice part = slice_of(s.p, MIN(s.n, SYNC_BLOCK - d->in_block));
		sha256_add(&d->leaf, part);
		if (d->sig)
			d->weak = weak_join(d->weak, weak_of(part), part.n);
		d->in_block += part.n;
		d->size += part.n;
		s = slice_after(s, part.n);
	}
}

void digest_more(struct digest *d)
{
	if (d->in_block == SYNC_BLOCK)
		block_next(d);
}

/* A whole block of zeros. */
static const uint8_t *zero_hash(void)
{
	static uint8_t hash[32];
	static bool known;

	if (!known) {
		struct digest d;
		digest_init(&d, NULL);
		for (int i = 0; i < SYNC_BLOCK / (int)sizeof(zeros); i++)
			digest_add(&d, slice_of(zeros, sizeof(zeros)));
		digest_end(&d, hash);
		known = true;
	}
	return hash;
}

void digest_zeros(struct digest *d, uint64_t n)
{
	while (n > 0) {
		if (d->in_block == SYNC_BLOCK)
			block_next(d);
		if (d->in_block == 0 && n > SYNC_BLOCK) {
			if (d->sig)
				signature_add(d, zero_hash());
			many_add(d, zero_hash());
			d->size += SYNC_BLOCK;
			n -= SYNC_BLOCK;
			continue;
		}
		struct slice part =
		    slice_of(zeros, MIN(MIN(n, sizeof(zeros)), SYNC_BLOCK - d->in_block));
		digest_add(d, part);
		n -= part.n;
	}
}

void digest_end(struct digest *d, uint8_t out[32])
{
	uint8_t size[8];

	sha256_end(&d->leaf, out);
	if (d->sig && d->size > 0)
		signature_add(d, out);
	if (d->sig)
		d->sig->size = d->size;
	if (!d->many)
		return;
	many_add(d, out);
	for (int i = 0; i < 8; i++)
		size[i] = (uint8_t)(d->size >> (56 - 8 * i));
	sha256_add(&d->whole, slice_of(size, 8));
	sha256_end(&d->whole, out);
}

/* --- files --- */

/* Bytes [at, end) are data. 0; 1: the file ends before; -errno. */
static int read_data(struct digest *d, int fd, char *to, off_t at, off_t end)
{
	while (at < end) {
		ssize_t n = pread(fd, to, (size_t)MIN(end - at, READ_MAX), at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return 1;
		digest_add(d, slice_of(to, (size_t)n));
		at += n;
	}
	return 0;
}

/* The next stretch of data at or behind at: [*from, *to). A file that lies close to what it is long
 * is not asked, nor one whose filesystem cannot tell. */
static void find_data(int fd, off_t at, off_t size, off_t *from, off_t *to)
{
	*from = lseek(fd, at, SEEK_DATA);
	if (*from < 0 && errno == ENXIO) {
		*from = *to = size;
		return;
	}
	if (*from < 0)
		*from = at;
	*from = MIN(*from, size);
	*to = lseek(fd, *from, SEEK_HOLE);
	if (*to < 0 || *to > size)
		*to = size;
}

int digest_file(int fd, uint8_t out[32], struct signature *sig)
{
	struct digest d;
	struct stat st;
	int rc = 0;

	digest_init(&d, sig);
	if (fstat(fd, &st) < 0)
		return -errno;
	if ((uint64_t)st.st_size > SYNC_FILE_MAX)
		return -EFBIG;
	bool holes = st.st_blocks < st.st_size / 512;
	size_t room = (size_t)MIN(MAX(st.st_size, 1), READ_MAX);
	char *to = block_get(&room);
	for (off_t at = 0, from, end; at < st.st_size && rc == 0; at = end) {
		from = at;
		end = st.st_size;
		if (holes)
			find_data(fd, at, st.st_size, &from, &end);
		digest_zeros(&d, (uint64_t)(from - at));
		rc = read_data(&d, fd, to, from, end);
	}
	block_put(to, room);
	if (rc < 0) {
		if (sig)
			signature_end(sig);
		return rc;
	}
	digest_end(&d, out);
	return 0;
}
