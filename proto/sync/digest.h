/*
 * The digest of a file's content, and the signature that deltas are made from: both come from one
 * pass. A file is cut into blocks of 64 KiB; each has a SHA-256 and a rolling sum. Digest = SHA-256
 * of (0x00, content) for up to one block, of (0x01, the size in 8 bytes, the blocks' SHA-256 one
 * after the other) for more.
 */
#ifndef SYNC_DIGEST_H
#define SYNC_DIGEST_H

#include "reactor/crypto.h"

enum { SYNC_BLOCK = 65536, SYNC_STRONG = 16 };

/* One block of an old file: enough to recognise it. */
struct block_sum {
	uint32_t weak;               /* delta.h's rolling sum of it */
	uint8_t strong[SYNC_STRONG]; /* the start of its SHA-256 */
};

struct signature {
	uint64_t size; /* of the file: all blocks but the last are whole */
	size_t n;
	struct block_sum *v;
};
void signature_end(struct signature *);

struct digest {
	struct sha256 leaf, whole;
	uint64_t size;
	size_t in_block;
	/* private */
	struct signature *sig;
	uint32_t weak_a, weak_b;
	uint8_t first[32];
};
/* sig NULL: only the digest; else it is filled (16 MiB of it at most: files up to 50 GiB; larger
 * ones get none, sig->n = 0). */
void digest_init(struct digest *, struct signature *sig);
void digest_add(struct digest *, struct slice);
void digest_end(struct digest *, uint8_t out[32]);
/* n zero bytes (a hole), without reading them. */
void digest_zeros(struct digest *, uint64_t n);
/* Reads fd from its start to its end. 0 or -errno. sig may be NULL. Holes cost no reading. */
int digest_file(int fd, uint8_t out[32], struct signature *sig);

#endif
