/*
 * A root of a sync on this disk: everything else reaches files through it. No path leads outside,
 * whatever it says and whatever symlinks there are: openat2(2) with RESOLVE_BENEATH,
 * RESOLVE_NO_SYMLINKS and RESOLVE_NO_XDEV. Paths are relative to the root, as in tree.h.
 *
 * Beside the files it has a private directory on the same filesystem: the stage (what is being
 * received) and the trash (what was replaced or removed, kept for a day, bounded). That is
 * DIR/stage and DIR/trash of options.store if rename(2) works from there, else the same in
 * ".tstunnel-sync/ID" in the root, which no scan sees and no path leads to (ID: the last name of
 * options.store). trash.h says how the trash is laid out.
 *
 * A descriptor of a directory follows it out of the root if it is moved. So none is kept, but for
 * that of the last one between root_batch and root_batch_end, which is as if all that is done there
 * had been done before the move.
 */
#ifndef SYNC_ROOT_H
#define SYNC_ROOT_H

#include <sys/stat.h>

#include "proto/sync/tree.h"

#define SYNC_PRIVATE ".tstunnel-sync"

struct root;

struct root_options {
	const char *path;  /* absolute; /proc/self/fd/N: one that is open */
	const char *store; /* this side's directory of this sync */
	bool make;         /* make it, and its parents (0755), if it is missing */
	/* If owned: what is made here is given to that user and group, and the root, too (it takes
	 * CAP_CHOWN; without it things are left as they are). */
	bool owned;
	uid_t uid;
	gid_t gid;
	bool in_place;      /* files are written where they are (same inode): single-file binds */
	uint64_t trash_max; /* bytes; 0: 1 GiB. Also at most 100,000 files */
};

/* NULL with *err -ENOENT, -ENOTDIR, ... and a sentence. Empties the stage but for what can be
 * resumed (younger than a day); the trash is for root_tidy. Sets the umask of the process to 0. A
 * root that cannot be written to is opened all the same: changes say why they fail. */
struct root *root_open(const struct root_options *, int *err, char *why, size_t whylen);
void root_close(struct root *);
/* The descriptor (lent) of the directory where files are before they have their place, or -1. */
int root_stage(const struct root *);
/* Is it still there? 0; -ENOENT: gone; -ENOTDIR: something else is there; -ESTALE: another
 * directory is. */
int root_check(struct root *);
/* Which directory it is (inode and time of birth, statx(2)): a root that was made anew has another.
 */
void root_generation(const struct root *, char out[64]);

/* Begins a batch of operations (looks, changes), which must be done in a few milliseconds, and
 * which nothing comes between that tells of changes by others: after such news, what was known of a
 * directory would be of another one. Ends the last one, too. NULL is ignored. */
void root_batch(struct root *);
void root_batch_end(struct root *);

/* Who the root belonged to when it was opened. */
void root_owner(const struct root *, uid_t *, gid_t *);

/* What is at path: 0 with *v (unhashed; NULL: nothing, also when its directory is none) and the
 * stamp, or -errno: -EXDEV below a mount point, -EINVAL for a path that no tree has (nor one in
 * STATE, if options.store, which is STATE/sync/ID or the like, lies in the root). A mount point
 * or anything that is no file, directory or link is SYNC_OTHER. */
int root_look(struct root *, const char *path, struct version **v, struct stamp *);
/* The same for a name in a directory that is open (root_open_at with O_DIRECTORY). */
int root_look_at(struct root *, int dir, const char *name, struct version **v, struct stamp *);
/* openat2(2) with flags (O_NOFOLLOW, O_CLOEXEC and O_NONBLOCK are added); path "" is the root. The
 * fd, or -errno: -ELOOP for a symlink on the way, -EXDEV for a mount point. */
int root_open_at(struct root *, const char *path, int flags);
/* Digest of the file at path, if it is (before and after reading) what v and stamp say: 0, v's
 * digest is set; -ESTALE: it is another by now; -errno. sig may be NULL. */
struct signature;
int root_hash(struct root *, const char *path, struct version *v, const struct stamp *,
	      struct signature *sig);
/* Drops what is over the bounds of the trash, and what is older than a day; call now and then. A
 * step of about ms. */
void root_tidy(struct root *, unsigned ms);

/* mkdir -p; the last one with mode, those above it with 0755. 0 or -errno. */
int root_make_path(const char *path, mode_t mode);

#endif
