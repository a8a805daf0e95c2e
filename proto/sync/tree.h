/*
 * The paths of a sync and what is there: one node a path, with what alpha has, what beta has, and
 * what they last agreed on (the base). Versions are immutable and shared, so that a settled path
 * costs one node and one version: at most 200 bytes together, name included. No I/O.
 *
 * The brain's tree (session.h) has all three. The far worker's tree has its own side in SYNC_ALPHA
 * only.
 */
#ifndef SYNC_TREE_H
#define SYNC_TREE_H

#include "reactor/base.h"

enum sync_side { SYNC_ALPHA = 0, SYNC_BETA };
enum sync_kind {
	SYNC_DIR = 1,
	SYNC_FILE,
	SYNC_LINK,
	SYNC_OTHER /* socket, device, FIFO, mount point: never synced, never replaced */
};
enum {
	SYNC_DIGEST = 32,
	SYNC_NAME_MAX = 255,
	SYNC_PATH_MAX = 4095,
	SYNC_ENTRIES_MAX = 4000000,
	TREE_OTHERS_MAX = 100
};

/* What is at a path. Reference counted; only hashed and digest may be filled in later, for they say
 * nothing new. */
struct version {
	uint32_t refs;
	uint8_t kind;
	uint8_t hashed;   /* FILE: digest is known */
	uint16_t mode;    /* DIR, FILE: the 0777 bits; else 0 */
	uint64_t size;    /* FILE: bytes; LINK: of its target; else 0 */
	int64_t mtime_ns; /* FILE: since 1970; else 0 */
	union {
		uint8_t digest[SYNC_DIGEST]; /* FILE: digest.h */
		char target[SYNC_DIGEST];    /* LINK: NUL-terminated, runs on behind the struct */
	};
};

/* Who the file was when it was last looked at on this disk, beside what the version says: if these
 * are unchanged, so is the content. All zero: not known. */
struct stamp {
	uint64_t ino;
	int64_t ctime_ns;
};

struct version *version_dir(unsigned mode);
/* digest NULL: not hashed. */
struct version *version_file(unsigned mode, uint64_t size, int64_t mtime_ns, const uint8_t *digest);
struct version *version_link(struct slice target);
struct version *version_other(void);
/* Both take NULL. */
struct version *version_ref(struct version *);
void version_unref(struct version *);
/* Same kind and content (bytes, target), whatever mode and mtime: 1 yes, 0 no, -1 it depends on
 * digests that are not known. NULL is absent, and equals NULL. */
int version_same(const struct version *, const struct version *);
/* The same in mode, too (mtime is not compared). 1, 0, -1. */
int version_equal(const struct version *, const struct version *);

/* The same in mode and mtime, too: yes or not known to be. */
bool version_identical(const struct version *, const struct version *);

struct tree;

struct node {
	struct node *parent, *next, *prev, *children; /* siblings in no order */
	struct node *chain;                           /* of the name table */
	struct version *side[2], *base;               /* NULL: nothing there */
	struct stamp stamp;                           /* of side[SYNC_ALPHA], on this disk */
	uint32_t watch;                               /* watch.h's own; 0: none */
	uint32_t flags;                               /* NODE_... */
	uint8_t namelen;
	char name[]; /* NUL-terminated */
};
/* Others use: parent, children and next (iteration), side, base, stamp, watch, flags, name. */
enum {
	NODE_DIRTY = 1,    /* a side changed since reconcile last looked */
	NODE_BUSY = 2,     /* an operation on it is on its way: reconcile leaves it dirty */
	NODE_CONFLICT = 4, /* listed in the reconciler's conflicts */
	NODE_PROBLEM = 8,  /* listed in the session's problems */
	NODE_SEEN = 16,    /* scan.c's own, while a directory is read */
	NODE_RACY = 32,    /* scan.c's own: looked at in the very tick it was changed in */
	/* With NODE_BUSY: it will be marked dirty when that is over, so reconcile does not. */
	NODE_HELD = 1 << 19,
	/* Others: bits 8 to 18 are reconcile_int.h's, 20 to 26 scan.c's, 6, 7 and 27 to 31
	 * session_int.h's, or serve_int.h's. */
};

/* entries_max bounds the nodes (at most SYNC_ENTRIES_MAX), and 320 bytes for each (and 1 MiB) what
 * the tree takes, should there be long names and links only (see tree_full). The root node is there
 * from the start. forget (may be NULL) is called for each node before it is freed. */
struct tree *tree_new(size_t entries_max, void (*forget)(void *arg, struct node *), void *arg);
void tree_free(struct tree *);
struct node *tree_root(struct tree *);
/* So many are to come: saves time, changes nothing. */
void tree_reserve(struct tree *, size_t entries);
size_t tree_count(const struct tree *); /* nodes, without the root */
/* One of the bounds is reached: no node is made; who takes a peer's word for a version asks, too.
 */
bool tree_full(const struct tree *);
/* Path relative to the root, "" is the root, no leading, doubled or trailing '/'. NULL: no such
 * node. */
struct node *tree_find(struct tree *, struct slice path);
struct node *node_child(struct tree *, struct node *parent, struct slice name);
/* The same, made if missing; NULL when the tree is full, or for a name that is empty,
 * ".", "..", longer than 255 or holds '/' or NUL (tree_find: any of its components). */
struct node *tree_get(struct tree *, struct slice path);
struct node *node_child_get(struct tree *, struct node *parent, struct slice name);
/* Writes the path, NUL-terminated; its length, or -ENAMETOOLONG. */
ssize_t node_path(const struct node *, char *out, size_t outlen);
/* The next node in pre-order (parents first), NULL at the end; start with the root. node_skip: the
 * next one that is not below n. */
struct node *node_next(const struct tree *, struct node *);
struct node *node_skip(const struct tree *, struct node *);
/* Sets a side; takes the reference v (NULL: absent). Marks the node dirty unless it is equal in
 * all, mtime too. */
void node_set(struct tree *, struct node *, enum sync_side, struct version *v);
/* Sets the base; takes the reference. Marks nothing. */
void node_set_base(struct tree *, struct node *, struct version *v);
void node_mark_dirty(struct tree *, struct node *);
/* Frees the node, and then its ancestors, as long as they have no version, no children, no flags
 * and no base. The root stays. */
void node_prune(struct tree *, struct node *);
/* The dirty ones, in the order they became dirty. Marked anew while iterating: they come later. */
size_t tree_dirty(const struct tree *);
struct node *tree_pop_dirty(struct tree *); /* clears NODE_DIRTY; NULL: none */
/* How many nodes have a SYNC_OTHER on a side, and up to TREE_OTHERS_MAX of them, valid until the
 * tree changes. */
size_t tree_others(struct tree *, struct node *const **list, size_t *listed);
/* Bytes that the tree holds, for the status (versions: of all trees of the process). */
size_t tree_bytes(const struct tree *);

#endif
