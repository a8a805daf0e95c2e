/*
 * Looks at the files under a root and sets a side of the tree to what is there. In steps: what is
 * to be looked at is queued, a step does as much as its time allows. A file whose stamp, size,
 * mtime and mode are the known ones is not read.
 *
 * The root itself gets no version. Directories that are not readable, and names that cannot be
 * looked at, stay as they are known.
 */
#ifndef SYNC_SCAN_H
#define SYNC_SCAN_H

#include "proto/sync/ignore.h"
#include "proto/sync/root.h"
#include "proto/sync/watch.h"

struct scan;

struct scan_options {
	struct root *root;
	struct tree *tree; /* side[SYNC_ALPHA] is set, with the stamps */
	const struct ignore *ignore;
	/* Paths (relative) that are left out with all below them, beside the patterns. */
	char *const *masks;
	size_t nmasks;
	/* Directories that are left out wherever they are, by inode of the root's filesystem; 0:
	 * none. */
	uint64_t leave[3];
	const char *only;    /* the one name at the top that counts, or NULL: all */
	struct watch *watch; /* each directory is added before it is read; may be NULL */
	bool hash;           /* new and changed files are hashed, else left unhashed */
	/* What could not be looked at (why: a sentence), or can be again (why NULL). The root: what
	 * is wrong with all, as the limit of entries. */
	void (*problem)(void *arg, struct node *, const char *why);
	/* A node's side has changed, or its stamp. Must not prune. */
	void (*changed)(void *arg, struct node *);
	void *arg;
};

/* The options are copied, what they point to must outlive it. */
struct scan *scan_new(const struct scan_options *);
void scan_free(struct scan *);
/* Queues: everything below dir (NULL: the root), by stat; subdirectories that are known included.
 */
void scan_below(struct scan *, struct node *dir);
/* Queues one name in a directory (a watch event). written: its content is compared, too, even if
 * all else is as it was. "": the directory itself, which only the root needs: nothing is done. */
void scan_name(struct scan *, struct node *dir, struct slice name, bool written);
/* Works for about that long (0: one item): true if there is more to do. A file is hashed in one go.
 */
bool scan_step(struct scan *, unsigned ms);
bool scan_idle(const struct scan *);
/* Does this scan leave the path out (patterns, masks, only, private names; of its parents, too)? */
bool scan_ignores(const struct scan *, struct slice path, bool is_dir);
/* Directories over the limit of watches, which are looked at every few seconds by scan_poll. */
size_t scan_unwatched(const struct scan *);
void scan_poll(struct scan *);
/* Queues what could not be looked at, 1,000 of it at most: what comes next is for the next call. */
void scan_retry(struct scan *);
/* Was that a problem, and is one still? */
bool scan_is_blind(const struct node *);
/* Queued nodes are forgotten with the node (call from tree_new's forget). */
void scan_forget(struct scan *, struct node *);
/* Totals of what the last full scan saw: entries, bytes (of the first one, while it runs: so far).
 */
void scan_totals(const struct scan *, uint64_t *entries, uint64_t *bytes);

#endif
