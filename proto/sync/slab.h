/*
 * Memory for millions of small pieces, without a header for each: in chunks of 64 KiB, one size a
 * chunk, which go back to the system when the last piece in them is freed. Not for threads.
 */
#ifndef SYNC_SLAB_H
#define SYNC_SLAB_H

#include "reactor/base.h"

enum { SLAB_MAX = 384 }; /* larger ones are malloc's */

/* n bytes, zeroed, aligned to 8. Out of memory aborts. */
void *slab_new(size_t n);
/* n as it was then. NULL is ignored. */
void slab_free(void *p, size_t n);
/* What all chunks take. */
size_t slab_bytes(void);

#endif
