/*
 * Changes under a root: each is done only if what is there is what the caller expects, is seen by
 * others whole or not at all (rename(2), renameat2(2) EXCHANGE and NOREPLACE), and keeps what it
 * replaces or removes in the trash.
 *
 * All return 0 with the new stamp, or: -ESTALE: something else is there (look again: nothing was
 * changed), -ENOENT: its directory is missing (or is a file or a symlink), -ENOTEMPTY: a directory
 * that is to be removed or replaced, -ENOSPC, -EACCES, -EXDEV: below a mount point, -EINVAL: a path
 * that no tree has. Nothing is created through a symlink. Set-user-id bits are never set.
 *
 * What is there is looked at before and, since it was taken away by one rename(2), after: what
 * turns out to be another is put back, and in whatever order others do what they do meanwhile, each
 * thing that they wrote is at the path or in the trash. Two exceptions: where there is no
 * RENAME_EXCHANGE (NFS, FAT), what is renamed to the path in the microseconds between two calls is
 * replaced; and in a root that is in_place, what is written to a file while it is overwritten.
 *
 * A file that is replaced keeps its owner and group if we may set them (root); extended attributes,
 * ACLs and hard links are not kept. A directory of ours that we may not write to (mode 0555, not
 * root) is made writable for the moment of a change in it, and has its mode back then: so
 * directories can be made with their final mode before their contents.
 */
#ifndef SYNC_APPLY_H
#define SYNC_APPLY_H

#include "proto/sync/root.h"

/* v NULL: nothing is there. The stamp all zero: only kind, size, mtime (and link target) count. */
struct expect {
	const struct version *v;
	struct stamp stamp;
};

int apply_mkdir(struct root *, const char *path, const struct version *want, const struct expect *,
		struct stamp *);
int apply_link(struct root *, const char *path, const struct version *want, const struct expect *,
	       struct stamp *);
/* Mode, and mtime of a file. path "" is the root. */
int apply_meta(struct root *, const char *path, const struct version *want, const struct expect *,
	       struct stamp *);
/* Files and links go to the trash, a directory must be empty (but for SYNC_PRIVATE). */
int apply_remove(struct root *, const char *path, const struct expect *);
/* Both paths in the root; never replaces. */
int apply_rename(struct root *, const char *from, const char *to);
/* A file whose content is here already: copies (copy_file_range(2), reflinks where there are) from
 * another path, if that is what source expects. */
int apply_copy(struct root *, const char *from, const struct expect *source, const char *path,
	       const struct version *want, const struct expect *, struct stamp *);

/* A file that comes in pieces, in order. */
struct put;
/* basis: copies may be taken from the file at path as it is now (a delta), or from a partial file
 * of an earlier try (see put_basis). want->size is how long it will be: more is -EFBIG, as is more
 * than SYNC_FILE_MAX. */
struct put *put_new(struct root *, const char *path, const struct version *want, int *err);
int put_data(struct put *, struct slice);
int put_hole(struct put *, uint64_t n);              /* zeros that take no room */
int put_copy(struct put *, uint64_t at, uint64_t n); /* from the basis */
/* All is there: checks the length (-EINVAL), sets mode and mtime, puts it in place. Frees the put,
 * also when it fails, as put_abort does; an error of the calls before is returned again. -ESTALE,
 * too, when the basis has changed meanwhile. want->hashed is not checked against the content: who
 * sent it vouches for it. */
int put_end(struct put *, const struct expect *, struct stamp *);
/* Frees it; what has come of a file is kept for another try if it is 1 MiB or more (and the disk
 * was not full): the last 16 of them, for a day; kept after kill -9, too. NULL is ignored. */
void put_abort(struct put *);
/* The file that put_copy would take from for this path and want: a partial one of an earlier try,
 * if it is longer than half of the file at path, else the file itself. The fd, or -ENOENT. The
 * signature of it (digest_file) is what the sender makes its delta from; the put must be made with
 * the same fd (which it takes). */
int put_basis(struct root *, const char *path, const struct version *want);
struct put *put_new_from(struct root *, const char *path, const struct version *want, int basis_fd,
			 int *err);

#endif
