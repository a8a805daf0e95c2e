/*
 * What root.c, trash.c and apply.c share, and nobody else.
 */
#ifndef SYNC_ROOT_INT_H
#define SYNC_ROOT_INT_H

#include <time.h>

#include "proto/sync/root.h"
#include "proto/sync/trash.h"

struct root {
	int fd;    /* the root, O_RDONLY */
	int stage; /* or -1: nothing can be written, private_err says why */
	int private_err;
	char *path;
	bool in_place;
	bool tmpfile; /* the stage's filesystem has O_TMPFILE */
	dev_t dev;
	ino_t ino;
	uint64_t seq; /* of names in the stage */
	struct trash trash;
};

/* A place in the root: the directory, and the name in it. It is opened for one operation and closed
 * behind it: a descriptor that is kept would follow a directory that is moved out of the root. */
struct place {
	int dir;          /* O_PATH */
	const char *name; /* in the caller's path */
	int mode;         /* of the directory, to be given back, or -1 */
};
/* 0, or -errno: -ENOENT when the directory is missing, or a file or a symlink; -EINVAL for a path
 * that holds "..", SYNC_PRIVATE and the like. */
int place_open(struct root *, const char *path, struct place *);
/* After -EACCES from a change in it: makes a directory of ours writable for a moment (place_close
 * gives its mode back). True: try again. */
bool place_unlock(struct place *, int err);
void place_close(struct place *);

/* statx(2), no symlink followed. */
struct statx;
int look_stat(int dir, const char *name, struct statx *);
/* A version (unhashed) and stamp of what was seen; name to read a link's target. */
int look_version(int dir, const char *name, const struct statx *, struct version **,
		 struct stamp *);
int64_t look_mtime(const struct statx *);
int64_t look_ctime(const struct statx *);

#endif
