/*
 * Tells which names in which directories have changed: fanotify(7) on the whole filesystem
 * (FAN_REPORT_DFID_NAME, needs CAP_SYS_ADMIN), else inotify(7), one watch a directory. Events are
 * queued by the kernel before the call that caused them returns, so watch_read until it says
 * nothing is a fence: what was done before is known after.
 */
#ifndef SYNC_WATCH_H
#define SYNC_WATCH_H

#include "proto/sync/tree.h"

struct watch;

struct watch_options {
	bool fanotify; /* try it first */
	/* fanotify: what this process does to files is not told, it knows. (Of directories it is:
	 * what is in a new one has to be looked at.) */
	bool not_own;
	/* name in the directory dir changed. written: its content may have, even if size and times
	 * have not (else: it came, went, or its mode did). */
	void (*changed)(void *arg, struct node *dir, struct slice name, bool written);
	/* name (no directory) was made or written to, and whoever does that has perhaps not closed
	 * it yet: then changed follows. NULL: changed is called instead. */
	void (*writing)(void *arg, struct node *dir, struct slice name);
	/* Events were lost: whatever is below this directory may have changed (NULL: anything). */
	void (*lost)(void *arg, struct node *dir);
	void *arg;
};

/* root_fd is lent: the filesystem to mark. NULL and *err. */
struct watch *watch_new(const struct watch_options *, int root_fd, int *err);
void watch_free(struct watch *);
/* Of no use is what happens in that directory, which is not in the tree: the kernel need not tell
 * (fanotify, Linux 6.0). */
void watch_leave(struct watch *, int dir_fd);
int watch_fd(const struct watch *);           /* readable when there is something */
const char *watch_kind(const struct watch *); /* "fanotify", "inotify" */
/* From now on; dir_fd is open on it. 0; 1: this very directory was watched for that node already;
 * -ENOSPC: over the limit of watches (the caller polls this one); -errno. If the directory was
 * watched for another node (it was moved), it is this one's now. */
int watch_add(struct watch *, struct node *dir, int dir_fd);
/* The node is going away (tree_new's forget). */
void watch_forget(struct watch *, struct node *);
/* Reads what there is, calls back. At most max events (0: until there are none): true if there may
 * be more. */
bool watch_read(struct watch *, size_t max);
/* inotify only: how many watches, and the limit (/proc/sys/fs/inotify/max_user_watches). */
size_t watch_count(const struct watch *);

#endif
