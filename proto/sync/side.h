/*
 * This disk's side of a sync, the same at the brain and at the far end: root, tree, watch and scan
 * put together, and how long a file that is being written is left alone.
 */
#ifndef SYNC_SIDE_H
#define SYNC_SIDE_H

#include "proto/sync/scan.h"
#include "reactor/reactor.h"

struct side {
	struct reactor *rx;
	struct task *owner; /* woken when there is something to do */
	struct root *root;
	struct tree *tree;
	struct watch *watch; /* NULL: none could be had, and all is looked at every few seconds */
	struct scan *scan;
	struct ignore *ignore;
	/* private */
	struct handle events;
	struct timer timer;
	struct list held; /* the latest first */
	size_t nheld;
	uint64_t poll_at, check_at;
	void (*forget)(void *arg, struct node *);
	void *arg;
};

struct side_options {
	struct root_options root;
	struct slice ignore;
	char *const *masks; /* kept alive by the caller */
	size_t nmasks;
	const char *only;
	bool fanotify, hash;
	void (*problem)(void *arg, struct node *, const char *why);
	void (*changed)(void *arg, struct node *);
	void (*forget)(void *arg, struct node *); /* may be NULL */
	void *arg;
};

/* The root and an empty tree: 0, or a code and a sentence. side_close also after that. */
int side_open(struct side *, struct reactor *, struct task *owner, const struct side_options *,
	      char *why, size_t whylen);
/* Watches, and queues a look at everything. The tree may have been filled since side_open. */
int side_start(struct side *, const struct side_options *, char *why, size_t whylen);
void side_close(struct side *);

/* Takes what events there are and works on what they say for about that long: true if there is more
 * to do now. */
bool side_turn(struct side *, unsigned ms);
/* Takes all events there are by now and lets go of what was held back: a fence is through when
 * side_idle says so after this. */
void side_settle(struct side *);
/* Nothing is to be looked at (but for files that are still being written). */
bool side_idle(const struct side *);
/* Looks at a path again, at the part of it that is known. content: even if its stamp is as it was.
 */
void side_look(struct side *, struct slice path, bool content);
/* 0; else a code with a sentence: the root is gone, or another. */
int side_check(struct side *, char *why, size_t whylen);
const char *side_watch_kind(const struct side *);

#endif
