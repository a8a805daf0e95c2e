/*
 * Where files go that are replaced or removed: DIR/BATCH/FILE. A batch is named by the time it was
 * begun, 20261125-230510 (UTC), and holds at most 1,000 files of ten minutes. A file is named by
 * its time, a number, and its path with '/' as "%2F" and '%' as "%25" (of a long path, the end):
 * 230512-7-src%2Fmain.c. Whole batches are dropped, the oldest first, so nothing has to be walked
 * but once, after a start.
 */
#ifndef SYNC_TRASH_H
#define SYNC_TRASH_H

#include <time.h>

#include "reactor/base.h"

enum {
	TRASH_AGE = 86400,  /* seconds a file is kept, at least */
	TRASH_SPAN = 600,   /* seconds a batch takes */
	TRASH_BATCH = 1000, /* files */
	TRASH_FILES = 100000,
	TRASH_NAME = 256
};

struct trash_batch {
	char name[32];
	time_t begun;
	uint64_t files, bytes;
	bool counted; /* else left by an earlier process, and files and bytes are to be found out */
};

struct trash {
	int dir; /* or -1 */
	int now; /* the newest batch, which is being filled, or -1 */
	uint64_t bytes_max, files, bytes, seq;
	struct trash_batch *v; /* oldest first */
	size_t n, cap;
};

/* Takes the fd, even if it fails. 0 or -errno. */
int trash_init(struct trash *, int dir, uint64_t bytes_max);
void trash_end(struct trash *);
/* A free name for what was at path: the directory to put it in (lent), or -errno. */
int trash_name(struct trash *, const char *path, char name[TRASH_NAME]);
/* Something with that many bytes on disk is there now. */
void trash_added(struct trash *, uint64_t bytes);
/* See root_tidy. */
void trash_tidy(struct trash *, unsigned ms);

#endif
