/*
 * What root.c, trash.c and apply.c share, and nobody else.
 */
#ifndef SYNC_ROOT_INT_H
#define SYNC_ROOT_INT_H

#include <time.h>

#include "proto/sync/root.h"
#include "proto/sync/trash.h"

enum { STAGE_NAME = 64 };

struct root {
	int fd;    /* the root, O_RDONLY */
	int stage; /* or -1: nothing can be written, private_err says why */
	int private_err;
	char *path, *store;
	char *real;  /* where it was, if path is an open descriptor of it; else NULL */
	char *state; /* where the store lies in the root, a relative path; NULL: it does not */
	uint64_t trash_max;
	bool in_place;
	bool owned; /* as options.owned */
	uid_t uid, owner_uid;
	gid_t gid, owner_gid;
	bool no_exchange; /* it has no RENAME_EXCHANGE */
	bool nameless;    /* O_TMPFILE and linkat(2) work in the stage */
	dev_t dev;
	ino_t ino;
	uint64_t seq; /* of names in the stage */
	/* The directory of the last place, in a batch. */
	struct {
		bool on, ready; /* ready: root_ready has looked */
		int dir;        /* O_PATH, or -1 */
		unsigned users; /* places that have it */
		bool looked;    /* st is of it */
		struct stat st;
		char *path; /* room for SYNC_PATH_MAX */
		size_t n;
	} batch;
	struct trash trash;
};

/* Before a change: the stage and the trash are there (a "git clean" may have taken them), or
 * -errno. */
int root_ready(struct root *);

/* A place in the root: the directory, and the name in it. It is opened for one operation and closed
 * behind it, or kept for the batch. */
struct place {
	struct root *lent; /* whose batch the dir is from, or NULL */
	bool own;          /* to be closed */
	int dir;           /* O_PATH, or the root */
	const char *name;  /* in the caller's path */
	int mode;          /* of the directory, to be given back, or -1 */
};
/* 0, or -errno: -ENOENT when the directory is missing, or a file or a symlink; -EINVAL for a path
 * that holds "..", SYNC_PRIVATE and the like. */
int place_open(struct root *, const char *path, struct place *);
/* If err is -EACCES, of a change in it: makes a directory of ours writable for a moment
 * (place_close gives its mode back). True: try again. */
bool place_unlock(struct place *, int err);
void place_close(struct place *);
/* fstat(2) of the directory; once in a batch. NULL: it fails. */
const struct stat *place_stat(struct place *, struct stat *room);

/* chmod(2) of an O_PATH descriptor, which fchmod(2) does not take. */
int path_chmod(int fd, unsigned mode);

/* statx(2), no symlink followed. */
struct statx;
int look_stat(int dir, const char *name, struct statx *);
/* A version (unhashed) and stamp of what was seen; name to read a link's target. */
int look_version(int dir, const char *name, const struct statx *, struct version **,
		 struct stamp *);
int64_t look_mtime(const struct statx *);
int64_t look_ctime(const struct statx *);
struct timespec time_of(int64_t ns);

/* Is it what is expected? 0, -ESTALE, or -errno. sx tells what is there; stx_mask 0: nothing. */
struct expect;
int expect_look(const struct expect *, int dir, const char *name, struct statx *);
/* The same for what was seen. moved: by rename(2), which sets its ctime. */
bool expect_same(const struct expect *, int dir, const char *name, const struct statx *,
		 bool moved);

/* What is to be put in place. */
struct thing {
	int fd;           /* open on it, maybe O_PATH */
	const char *name; /* in the stage; "": it has none yet */
};
/* Where nothing is. 0, -ESTALE, -errno. */
int thing_add(struct root *, const struct thing *, struct place *);
/* In exchange for what is expected there, which goes to the trash. When it fails, the thing has its
 * name in the stage again, if it had one; if others have seen it, it is in the trash. */
int thing_swap(struct root *, const struct thing *, struct place *, const char *path,
	       const struct expect *);
/* A name for the stage that nothing has. */
void stage_name(struct root *, char out[STAGE_NAME]);

/* A partial file "n..." in the stage is kept for another try as "p...", or removed if it is small.
 */
void partial_keep(int stage, const char *name);

#endif
