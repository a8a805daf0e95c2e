/*
 * Deltas by rolling checksum (rsync's idea): a new file as copies of blocks of an old one, and
 * bytes in between. Pure, memory bounded: the signature, its index (at most 20 bytes a block, and
 * 2 MiB), 256 KiB. Time, too: hashes that are made in vain, for sums that are equal by chance or by
 * intent, are limited to one for 16 KiB, so that hostile input costs bytes on the wire, not hours.
 */
#ifndef SYNC_DELTA_H
#define SYNC_DELTA_H

#include "proto/sync/digest.h"

enum { DELTA_COPY_MAX = 4 << 20 };

struct delta_ops {
	/* Bytes [at, at+n) of the old file; consecutive ones come as one, up to DELTA_COPY_MAX (so
	 * that the other side copies while this one reads). Codes end it. */
	int (*copy)(void *arg, uint64_t at, uint64_t n);
	/* New bytes, at most SYNC_BLOCK a call; live during it. */
	int (*data)(void *arg, struct slice);
	void *arg;
};

struct delta;
/* The signature must outlive it. With n = 0 all is data. */
struct delta *delta_new(const struct signature *old, const struct delta_ops *);
/* The signature of the new file, as far as it is known: of its first own->n blocks, which may
 * become more. What is fed begins at that offset in it. Spares hashing these blocks once more. */
void delta_own(struct delta *, const struct signature *own, uint64_t at);
/* The new file, piece by piece: 0, or the code of an op. */
int delta_feed(struct delta *, struct slice);
int delta_end(struct delta *); /* what is left; does not free */
void delta_free(struct delta *);

/* For the wire: 20 bytes a block behind an 8-byte size, in network order. */
size_t signature_size(const struct signature *);
void signature_put(const struct signature *, char *out);
/* 0, or -EINVAL: its length does not fit the size it tells (no block at all is right for any size).
 * To be released by signature_end. */
int signature_get(struct signature *, struct slice);

#endif
