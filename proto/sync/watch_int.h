/*
 * Shared by watch.c (which node is watched by what) and the two that talk to the kernel.
 */
#ifndef SYNC_WATCH_INT_H
#define SYNC_WATCH_INT_H

#include "proto/sync/watch.h"

/* What the kernel's events name a directory by: inotify's wd, or a hash of its file handle. */
struct watch_key {
	uint64_t v[2];
};

enum { WATCH_BUF = 64 * 1024 };

struct slot {
	struct watch_key key;
	struct node *node; /* NULL: the slot is free */
	uint32_t next;     /* in its bucket, or in the free list: index + 1 */
};

struct watch {
	struct watch_options options;
	bool fan;
	int fd;
	/* node->watch is the index + 1 of its slot */
	struct slot *slots;
	size_t cap, n;
	uint32_t free_head;
	uint32_t *buckets; /* cap of them */
	/* events that were read, and not yet told */
	_Alignas(8) char buf[WATCH_BUF];
	size_t at, len;
};

/* The node that is watched by that key, or NULL. */
struct node *watch_find(const struct watch *, struct watch_key);
/* The directory that node stands for is no longer watched, as the kernel says. */
void watch_drop(struct watch *, struct node *);
/* A name in the directory of node. */
void watch_name(struct watch *, struct node *, struct slice name, bool written, bool open);
/* A directory itself has changed: that is told as a name in its parent. */
void watch_self(struct watch *, struct node *);

int inotify_open(struct watch *);
int inotify_key(struct watch *, int dir_fd, struct watch_key *);
void inotify_unwatch(struct watch *, struct watch_key);
/* Tells the event at buf + at: its length. */
size_t inotify_event(struct watch *);

int fanotify_open(struct watch *, int root_fd);
void fanotify_leave(struct watch *, int dir_fd);
int fanotify_key(int dir_fd, struct watch_key *);
size_t fanotify_event(struct watch *);

#endif
