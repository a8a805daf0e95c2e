/*
 * Three-way merge: what is to be done so that alpha and beta agree, path by path, from what each
 * has and what they last agreed on. Pure: it looks at the tree and writes actions. docs/sync.md has
 * the table of cases.
 */
#ifndef SYNC_RECONCILE_H
#define SYNC_RECONCILE_H

#include "proto/sync/tree.h"

enum sync_mode {
	SYNC_TWO_WAY_SAFE = 1,
	SYNC_TWO_WAY_RESOLVED,
	SYNC_ONE_WAY_SAFE,
	SYNC_ONE_WAY_REPLICA
};
/* "two-way-safe" and so on. */
const char *sync_mode_text(enum sync_mode);
/* 0 when it is none. */
enum sync_mode sync_mode_parse(struct slice);

enum act {
	ACT_MKDIR = 1,
	ACT_PUT,    /* a file's content, with mode and mtime */
	ACT_LINK,   /* a symlink */
	ACT_META,   /* mode or mtime of what is there */
	ACT_REMOVE, /* a file or link to the trash, a directory by rmdir */
};

/* One step on one side. Valid if done in order, side by side: directories before what is in them,
 * removals of what is in a directory before its own, removals before what takes the place. */
struct action {
	struct node *node;
	struct version *want; /* a reference; NULL for REMOVE */
	/* A reference: what was there when this was decided (NULL: nothing). It must be so still,
	 * even if a scan has seen something else since. */
	struct version *expect;
	uint8_t side; /* where it is to be done */
	uint8_t act;
};

struct actions {
	struct action *v;
	size_t n, cap;
};
/* Releases what they hold; ready for use again. */
void actions_end(struct actions *);

struct conflict {
	struct node *node;
	const char *reason; /* a static sentence: "both sides have changed it" */
};

struct reconciler {
	struct tree *tree;
	enum sync_mode mode;
	struct conflict *conflicts; /* in no order */
	size_t nconflicts, conflicts_cap;
	uint32_t *conflict_slots; /* private: where in conflicts a node is */
	size_t nconflict_slots;
	/* Called for each node whose base follows (adopted or gone), so that it can be stored. */
	void (*settled)(void *arg, struct node *);
	/* A decision hangs on a digest of this side that is not known. Returns true if it has
	 * filled it in (the version's hashed is set); false: it will come later (the node is left
	 * out, and node_mark_dirty brings it back). May be asked again for one that is on its way.
	 * NULL: files of one size with unknown digests differ. */
	bool (*hash)(void *arg, struct node *, enum sync_side);
	void *arg;
};

/* Takes all dirty nodes and appends what is to be done. Cost: the dirty nodes, their ancestors, the
 * children of directories that are dirty themselves, and the subtrees of directories that only one
 * side has.
 *
 * What the caller does with actions: each node of them is NODE_BUSY until its last one has been
 * answered; those of a side are done in order, also across calls (so that things are created in a
 * directory whose MKDIR is on its way). One that succeeded: node_set(side, want) and
 * node_set_base(want), but for META reconcile_meta_done.
 * Whatever came of it, the node is marked dirty then, or, if it is not to be tried again at once,
 * NODE_PROBLEM (and marked dirty later). A node that is NODE_BUSY stays dirty (unless it is
 * NODE_HELD), and so does what hangs on it. One that is NODE_PROBLEM and not dirty is left as it
 * is, and its parents are not removed. */
void reconcile(struct reconciler *, struct actions *);
void reconciler_end(struct reconciler *);
/* A META is done: what it has changed (mode, mtime) the other side had, so it is agreed on. */
void reconcile_meta_done(struct tree *, struct node *, const struct version *expect,
			 const struct version *want);

/* Why the sync should stop and ask before it reconciles: a sentence, or NULL. The base has two or
 * more entries at the top and exactly one side has now none (one-way modes: alpha). */
const char *reconcile_halt(struct tree *, enum sync_mode);

/* A person's word on a conflict (the node or anything below it): the side wins at the next
 * reconcile, whatever the mode, unless the other has been changed once more by then. 0; -ENOENT
 * when nothing there is in conflict; -EOPNOTSUPP when it is one that no side can win (a socket, a
 * device, a directory that cannot be emptied). */
int reconcile_keep(struct reconciler *, struct node *, enum sync_side winner);

#endif
