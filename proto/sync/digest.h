/*
 * The digest of a file's content, and the signature that deltas are made from: both come from one
 * pass. A file is cut into blocks of 64 KiB; each has a hash, SHA-256 of (0x00, the block), and a
 * rolling sum. Digest = the hash of its block for a file of up to one block; SHA-256 of (0x01, the
 * hashes one after the other, the size in 8 bytes in network order) for more.
 */
#ifndef SYNC_DIGEST_H
#define SYNC_DIGEST_H

#include "reactor/crypto.h"

enum { SYNC_BLOCK = 65536, SYNC_STRONG = 16 };
/* Larger files are not synced (-EFBIG): even if they are all holes, which cost a peer nothing to
 * ask for, their digest takes a hash a block. */
#define SYNC_FILE_MAX ((uint64_t)1 << 42)

/* The rolling sum of a window of bytes: a = their sum, b = the sum of each times its distance from
 * the end (the last byte: 1), both modulo 2^32. */
struct weak {
	uint32_t a, b;
};
struct weak weak_of(struct slice window);

/* What goes into block_sum.weak. */
static inline uint32_t weak_value(struct weak w)
{
	return w.b + w.a * 0x9e3779b1u;
}

/* The window of n bytes moves on by one: out leaves, in comes. */
static inline struct weak weak_roll(struct weak w, size_t n, uint8_t out, uint8_t in)
{
	w.a += (uint32_t)in - out;
	w.b += w.a - (uint32_t)n * out;
	return w;
}

/* The window of n bytes loses its first. */
static inline struct weak weak_shrink(struct weak w, size_t n, uint8_t out)
{
	w.a -= out;
	w.b -= (uint32_t)n * out;
	return w;
}

/* Of two pieces, one behind the other; n: length of the second. */
static inline struct weak weak_join(struct weak first, struct weak second, size_t n)
{
	return (struct weak){ first.a + second.a, first.b + (uint32_t)n * first.a + second.b };
}

/* The hash of one block (at most SYNC_BLOCK bytes). */
void digest_block(struct slice block, uint8_t out[32]);

/* One block of an old file: enough to recognise it. */
struct block_sum {
	uint32_t weak;               /* weak_value of it */
	uint8_t strong[SYNC_STRONG]; /* the start of its hash */
};

struct signature {
	uint64_t size; /* of the file: all blocks but the last are whole */
	size_t n;
	struct block_sum *v;
};
/* Frees what it holds; it is empty then. */
void signature_end(struct signature *);

struct digest {
	struct sha256 leaf, whole;
	uint64_t size;
	size_t in_block;
	/* private */
	struct signature *sig;
	size_t sig_cap;
	bool many; /* more than one block: the hash of each before this one is in whole */
	struct weak weak;
};
/* sig NULL: only the digest; else it is filled (16 MiB of it at most: files up to 51 GiB; larger
 * ones get none, sig->n = 0). To be released by signature_end, also when digest_end is never
 * called. */
void digest_init(struct digest *, struct signature *sig);
void digest_add(struct digest *, struct slice);
/* More is to come, for sure: a block that is full is in the signature from now on. */
void digest_more(struct digest *);
void digest_end(struct digest *, uint8_t out[32]);
/* n zero bytes (a hole), without reading them. */
void digest_zeros(struct digest *, uint64_t n);
/* Reads fd from its start to the end that it has at the call. 0 or -errno (sig is then empty;
 * -EFBIG: over SYNC_FILE_MAX). sig may be NULL. Holes cost no reading. */
int digest_file(int fd, uint8_t out[32], struct signature *sig);

#endif
