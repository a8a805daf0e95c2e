/*
 * A file on its way out: read from a root, sent as pieces of one id (DATA, HOLE, and COPY where the
 * peer has told a signature), then END with the digest; or ABORT, if it is no longer the file that
 * it was to be. Never a mix of two states: what fstat(2) says before and after must be the same.
 */
#ifndef SYNC_OUTGOING_H
#define SYNC_OUTGOING_H

#include "proto/sync/channel.h"
#include "proto/sync/delta.h"
#include "proto/sync/root.h"

/* Is what an open file shows the version (size, mode, mtime) and the stamp? */
bool file_is(const struct stat *, const struct version *, const struct stamp *);

/* Reads all of a small file (v->size <= WIRE_INLINE) to out, which has room for one byte more: 0
 * and its digest; -ESTALE: it is another; -errno. */
int file_read(struct root *, const char *path, const struct version *v, const struct stamp *,
	      char *out, uint8_t digest[SYNC_DIGEST]);

struct outgoing {
	struct list link; /* the owner's */
	uint32_t id;
	char *path;
	/* private */
	int fd;
	struct channel *ch;
	struct version *v;
	struct stamp stamp;
	uint64_t at, data_end;
	bool holes;
	struct digest sum;
	uint8_t digest[SYNC_DIGEST];
	struct signature sig;
	struct delta *delta;
	/* if outgoing_sign was called, once END was sent: of what was sent; the owner may take it
	 */
	struct signature made;
};

enum { SIGNATURE_MIN = 1 << 20 }; /* smaller files have none */

/* Opens it. sig (taken, NULL or n = 0: none) is of what the peer has. NULL with *err: -ESTALE,
 * -errno; nothing was sent then. */
struct outgoing *outgoing_new(struct channel *, uint32_t id, struct root *, const char *path,
			      struct version *v, const struct stamp *, struct signature *sig,
			      int *err);
/* Before the first step: makes the signature of a large file on the way (up to 16 MiB). */
void outgoing_sign(struct outgoing *);
/* Sends a piece: 0: there is more; 1: END was sent, with o->digest; or a code: ABORT was sent. */
int outgoing_step(struct outgoing *);
/* Frees it, and sends nothing. NULL is ignored. */
void outgoing_free(struct outgoing *);

#endif
