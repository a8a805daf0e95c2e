/*
 * The records of a store's journal (store.h): a 7-byte head (CRC32C of what follows it, length of
 * the payload, type), then the payload. Numbers in little-endian order. Pure.
 *
 *   GENERATION  text
 *   ENTRY       path length (2), path, kind (1), mode (2), inode (8), ctime (8), then for a file:
 *               size (8), mtime (8), and its digest (32) if it is known; for a link: its target
 *   GONE        path
 *   GIVEN       like ENTRY: at the far end, what the brain has put there
 */
#ifndef SYNC_RECORD_H
#define SYNC_RECORD_H

#include "proto/sync/tree.h"

enum { RECORD_GENERATION = 1, RECORD_ENTRY, RECORD_GONE, RECORD_GIVEN };
enum { RECORD_HEAD = 7, RECORD_MAX = RECORD_HEAD + 2 * (SYNC_PATH_MAX + 1) + 96 };

struct record {
	int type;
	struct slice text; /* the path, or the generation: at most SYNC_PATH_MAX bytes */
	struct version *v; /* ENTRY, GIVEN: a reference; never SYNC_OTHER */
	struct stamp stamp;
};

/* Its length in out, which has room for RECORD_MAX. */
size_t record_put(char *out, const struct record *);
/* The record at the start of in: its length (text points into in; v is to be released); 0: it ends
 * before the record does; -EBADMSG: no record of ours. */
ssize_t record_get(struct slice in, struct record *);

/* CRC32C (RFC 3720, appendix B.4). */
uint32_t crc32c(struct slice);

#endif
