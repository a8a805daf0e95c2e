#include "proto/sync/tree.h"

#include <errno.h>
#include <sys/random.h>

#include "proto/sync/slab.h"

enum {
	ENTRY_BYTES = 320,
	BYTES_MIN = 1 << 20,
	BUCKETS_MIN = 64,
	QUEUE_MIN = 64,
	VERSION_SIZE = sizeof(struct version)
};

/* A ring of the dirty nodes, which grows and is freed when it is empty. */
struct queue {
	struct node **v;
	size_t first, n, cap;
};

struct tree {
	struct node *root;
	struct node **buckets; /* the name table, chained through the nodes */
	size_t nbuckets;       /* a power of two */
	uint64_t key[2];       /* random: nobody can make names that collide */
	size_t count, max;
	size_t node_bytes;
	struct queue dirty;
	struct node *others[TREE_OTHERS_MAX];
	size_t listed, nothers; /* of them in others; all */
	void (*forget)(void *arg, struct node *);
	void *arg;
};

/* Of all trees: versions belong to none. */
static size_t version_bytes;

/* -- versions -- */

static size_t version_size(const struct version *v)
{
	size_t end = offsetof(struct version, target) + v->size + 1;
	return v->kind == SYNC_LINK && end > VERSION_SIZE ? end : VERSION_SIZE;
}

static struct version *version_new(enum sync_kind kind, unsigned mode, uint64_t size)
{
	struct version head = { .refs = 1, .kind = (uint8_t)kind, .mode = mode & 0777 };
	struct version *v;
	head.size = size;
	v = slab_new(version_size(&head));
	memcpy(v, &head, offsetof(struct version, target));
	version_bytes += version_size(v);
	return v;
}

struct version *version_dir(unsigned mode)
{
	return version_new(SYNC_DIR, mode, 0);
}

struct version *version_file(unsigned mode, uint64_t size, int64_t mtime_ns, const uint8_t *digest)
{
	struct version *v = version_new(SYNC_FILE, mode, size);
	v->mtime_ns = mtime_ns;
	if (digest) {
		v->hashed = 1;
		memcpy(v->digest, digest, SYNC_DIGEST);
	}
	return v;
}

struct version *version_link(struct slice target)
{
	struct version *v = version_new(SYNC_LINK, 0, target.n);
	if (target.n)
		memcpy((char *)v + offsetof(struct version, target), target.p, target.n);
	return v;
}

struct version *version_other(void)
{
	return version_new(SYNC_OTHER, 0, 0);
}

struct version *version_ref(struct version *v)
{
	if (v)
		v->refs++;
	return v;
}

void version_unref(struct version *v)
{
	if (!v || --v->refs)
		return;
	version_bytes -= version_size(v);
	slab_free(v, version_size(v));
}

int version_same(const struct version *a, const struct version *b)
{
	const size_t at = offsetof(struct version, target);
	if (a == b)
		return 1;
	if (!a || !b || a->kind != b->kind || a->size != b->size)
		return 0;
	if (a->kind == SYNC_LINK)
		return memcmp((const char *)a + at, (const char *)b + at, a->size) == 0;
	if (a->kind != SYNC_FILE || a->size == 0)
		return 1;
	if (!a->hashed || !b->hashed)
		return -1;
	return memcmp(a->digest, b->digest, SYNC_DIGEST) == 0;
}

int version_equal(const struct version *a, const struct version *b)
{
	return a && b && a->mode != b->mode ? 0 : version_same(a, b);
}

bool version_identical(const struct version *a, const struct version *b)
{
	return version_equal(a, b) == 1 && (!a || a->mtime_ns == b->mtime_ns);
}

/* -- the name table -- */

static uint64_t rotl(uint64_t x, unsigned n)
{
	return x << n | x >> (64 - n);
}

static void sip_round(uint64_t v[4])
{
	v[0] += v[1], v[1] = rotl(v[1], 13) ^ v[0], v[0] = rotl(v[0], 32);
	v[2] += v[3], v[3] = rotl(v[3], 16) ^ v[2];
	v[0] += v[3], v[3] = rotl(v[3], 21) ^ v[0];
	v[2] += v[1], v[1] = rotl(v[1], 17) ^ v[2], v[2] = rotl(v[2], 32);
}

static void sip_word(uint64_t v[4], uint64_t m)
{
	v[3] ^= m;
	sip_round(v);
	v[0] ^= m;
}

/* SipHash-1-3 (Aumasson, Bernstein 2012) of the parent's address and the name. */
static size_t bucket_of(const struct tree *t, const struct node *parent, struct slice name)
{
	uint64_t v[4] = { t->key[0] ^ 0x736f6d6570736575, t->key[1] ^ 0x646f72616e646f6d,
			  t->key[0] ^ 0x6c7967656e657261, t->key[1] ^ 0x7465646279746573 };
	uint64_t m, last = (uint64_t)name.n << 56;
	size_t i;
	sip_word(v, (uintptr_t)parent);
	for (i = 0; i + 8 <= name.n; i += 8) {
		memcpy(&m, name.p + i, 8);
		sip_word(v, m);
	}
	for (size_t k = 0; i + k < name.n; k++)
		last |= (uint64_t)(uint8_t)name.p[i + k] << 8 * k;
	sip_word(v, last);
	v[2] ^= 0xff;
	for (i = 0; i < 3; i++)
		sip_round(v);
	return (size_t)(v[0] ^ v[1] ^ v[2] ^ v[3]) & (t->nbuckets - 1);
}

static size_t bucket_of_node(const struct tree *t, const struct node *n)
{
	return bucket_of(t, n->parent, slice_of(n->name, n->namelen));
}

/* Twice the buckets (or so many), in place: a chain splits up. */
static void table_grow(struct tree *t, size_t nbuckets)
{
	size_t old = t->nbuckets;
	t->nbuckets = nbuckets;
	t->buckets = xrealloc(t->buckets, nbuckets * sizeof(struct node *));
	memset(t->buckets + old, 0, (nbuckets - old) * sizeof(struct node *));
	for (size_t i = 0; i < old; i++) {
		struct node *n = t->buckets[i];
		t->buckets[i] = NULL;
		while (n) {
			struct node *next = n->chain;
			struct node **head = &t->buckets[bucket_of_node(t, n)];
			n->chain = *head;
			*head = n;
			n = next;
		}
	}
}

void tree_reserve(struct tree *t, size_t entries)
{
	size_t n = t->nbuckets;
	while (n < MIN(entries, t->max))
		n *= 2;
	if (n > t->nbuckets)
		table_grow(t, n);
}

static void table_remove(struct tree *t, struct node *n)
{
	struct node **p = &t->buckets[bucket_of_node(t, n)];
	while (*p != n)
		p = &(*p)->chain;
	*p = n->chain;
}

/* -- nodes -- */

static size_t node_size(size_t namelen)
{
	return MAX(offsetof(struct node, name) + namelen + 1, sizeof(struct node));
}

static struct node *node_new(struct tree *t, struct node *parent, struct slice name)
{
	struct node *n = slab_new(node_size(name.n));
	n->parent = parent;
	n->namelen = (uint8_t)name.n;
	if (name.n)
		memcpy(n->name, name.p, name.n);
	t->node_bytes += node_size(name.n);
	return n;
}

/* -- what is never synced -- */

static bool is_other(const struct node *n)
{
	return (n->side[SYNC_ALPHA] && n->side[SYNC_ALPHA]->kind == SYNC_OTHER) ||
	       (n->side[SYNC_BETA] && n->side[SYNC_BETA]->kind == SYNC_OTHER);
}

/* A side of n has changed; was: is_other before. */
static void others_follow(struct tree *t, struct node *n, bool was)
{
	if (is_other(n) == was)
		return;
	t->nothers += was ? -(size_t)1 : 1;
	if (!was && t->listed < TREE_OTHERS_MAX)
		t->others[t->listed++] = n;
	for (size_t i = 0; was && i < t->listed; i++)
		if (t->others[i] == n)
			t->others[i] = t->others[--t->listed];
}

size_t tree_others(struct tree *t, struct node *const **list, size_t *listed)
{
	if (t->listed <
	    MIN(t->nothers, (size_t)TREE_OTHERS_MAX)) { /* of many, some listed ones have gone */
		t->listed = 0;
		for (struct node *n = t->root; n && t->listed < TREE_OTHERS_MAX;
		     n = node_next(t, n))
			if (is_other(n))
				t->others[t->listed++] = n;
	}
	*list = t->others;
	*listed = t->listed;
	return t->nothers;
}

static void node_free(struct tree *t, struct node *n)
{
	bool other = is_other(n);
	if (t->forget)
		t->forget(t->arg, n);
	version_unref(n->side[SYNC_ALPHA]);
	version_unref(n->side[SYNC_BETA]);
	version_unref(n->base);
	n->side[SYNC_ALPHA] = n->side[SYNC_BETA] = NULL;
	others_follow(t, n, other);
	t->node_bytes -= node_size(n->namelen);
	slab_free(n, node_size(n->namelen));
}

struct tree *tree_new(size_t entries_max, void (*forget)(void *arg, struct node *), void *arg)
{
	struct tree *t = xcalloc(1, sizeof(*t));
	t->nbuckets = BUCKETS_MIN;
	t->buckets = xcalloc(t->nbuckets, sizeof(struct node *));
	t->max = MIN(entries_max, (size_t)SYNC_ENTRIES_MAX);
	t->forget = forget;
	t->arg = arg;
	BUG_ON(getrandom(t->key, sizeof(t->key), 0) != sizeof(t->key));
	t->root = node_new(t, NULL, (struct slice){ 0 });
	return t;
}

void tree_free(struct tree *t)
{
	struct node *n, *up;
	if (!t)
		return;
	for (n = t->root; n; n = up) {
		up = n->children;
		if (up) { /* down first; on the way back the child is gone from the list */
			n->children = up->next;
			continue;
		}
		up = n->parent;
		node_free(t, n);
	}
	free(t->dirty.v);
	free(t->buckets);
	free(t);
}

struct node *tree_root(struct tree *t)
{
	return t->root;
}

size_t tree_count(const struct tree *t)
{
	return t->count;
}

size_t tree_bytes(const struct tree *t)
{
	return t->node_bytes + t->nbuckets * sizeof(struct node *) +
	       t->dirty.cap * sizeof(struct node *) + version_bytes;
}

bool tree_full(const struct tree *t)
{
	return t->count >= t->max || tree_bytes(t) >= t->max * ENTRY_BYTES + BYTES_MIN;
}

static bool name_ok(struct slice name)
{
	if (name.n == 0 || name.n > SYNC_NAME_MAX)
		return false;
	if (name.p[0] == '.' && (name.n == 1 || (name.n == 2 && name.p[1] == '.')))
		return false;
	return !memchr(name.p, '/', name.n) && !memchr(name.p, '\0', name.n);
}

static struct node *find(struct tree *t, struct node *parent, struct slice name, size_t bucket)
{
	struct node *n = t->buckets[bucket];
	while (n && (n->parent != parent || !slice_eq(slice_of(n->name, n->namelen), name)))
		n = n->chain;
	return n;
}

struct node *node_child(struct tree *t, struct node *parent, struct slice name)
{
	return name.n > SYNC_NAME_MAX ? NULL : find(t, parent, name, bucket_of(t, parent, name));
}

struct node *node_child_get(struct tree *t, struct node *parent, struct slice name)
{
	struct node *n;
	size_t bucket;
	if (name.n > SYNC_NAME_MAX)
		return NULL;
	bucket = bucket_of(t, parent, name);
	n = find(t, parent, name, bucket);
	if (n)
		return n;
	if (!name_ok(name) || tree_full(t))
		return NULL;
	if (t->count >= t->nbuckets) {
		table_grow(t, t->nbuckets * 2);
		bucket = bucket_of(t, parent, name);
	}
	n = node_new(t, parent, name);
	n->chain = t->buckets[bucket];
	t->buckets[bucket] = n;
	n->next = parent->children;
	if (n->next)
		n->next->prev = n;
	parent->children = n;
	t->count++;
	return n;
}

/* The next component of a path, which has one. */
static struct slice path_next(struct slice *path)
{
	struct slice name;
	bool more = slice_cut(*path, '/', &name, path);
	if (more && path->n == 0) /* a '/' at the end */
		name.n = 0;
	return name;
}

struct node *tree_find(struct tree *t, struct slice path)
{
	struct node *n = t->root;
	while (n && path.n)
		n = node_child(t, n, path_next(&path));
	return n;
}

struct node *tree_get(struct tree *t, struct slice path)
{
	struct node *n = t->root, *child;
	if (path.n > SYNC_PATH_MAX)
		return NULL;
	while (path.n) {
		child = node_child_get(t, n, path_next(&path));
		if (!child) {
			node_prune(t, n);
			return NULL;
		}
		n = child;
	}
	return n;
}

ssize_t node_path(const struct node *node, char *out, size_t outlen)
{
	size_t len = 0, at;
	for (const struct node *n = node; n->parent; n = n->parent)
		len += (size_t)n->namelen + 1;
	if (len)
		len--; /* no '/' in front */
	if (len >= outlen)
		return -ENAMETOOLONG;
	out[len] = '\0';
	at = len;
	for (const struct node *n = node; n->parent; n = n->parent) {
		at -= n->namelen;
		memcpy(out + at, n->name, n->namelen);
		if (at)
			out[--at] = '/';
	}
	return (ssize_t)len;
}

struct node *node_skip(const struct tree *t, struct node *n)
{
	(void)t;
	while (n && !n->next)
		n = n->parent;
	return n ? n->next : NULL;
}

struct node *node_next(const struct tree *t, struct node *n)
{
	return n->children ? n->children : node_skip(t, n);
}

void node_set(struct tree *t, struct node *n, enum sync_side side, struct version *v)
{
	struct version *old = n->side[side];
	if (version_identical(old, v)) {
		version_unref(v);
		return;
	}
	bool other = is_other(n);
	n->side[side] = v;
	others_follow(t, n, other);
	version_unref(old);
	node_mark_dirty(t, n);
}

void node_set_base(struct tree *t, struct node *n, struct version *v)
{
	struct version *old = n->base;
	(void)t;
	n->base = v;
	version_unref(old);
}

void node_prune(struct tree *t, struct node *n)
{
	while (n != t->root && !n->children && !n->flags && !n->base && !n->side[SYNC_ALPHA] &&
	       !n->side[SYNC_BETA]) {
		struct node *parent = n->parent;
		table_remove(t, n);
		if (n->prev)
			n->prev->next = n->next;
		else
			parent->children = n->next;
		if (n->next)
			n->next->prev = n->prev;
		t->count--;
		node_free(t, n);
		n = parent;
	}
}

/* -- the dirty queue -- */

void node_mark_dirty(struct tree *t, struct node *n)
{
	struct queue *q = &t->dirty;
	if (n->flags & NODE_DIRTY)
		return;
	n->flags |= NODE_DIRTY;
	if (q->n == q->cap) {
		size_t cap = q->cap ? q->cap * 2 : QUEUE_MIN;
		q->v = xrealloc(q->v, cap * sizeof(struct node *));
		/* What had wrapped around to the start goes behind the end. */
		if (q->first)
			memcpy(q->v + q->cap, q->v, q->first * sizeof(struct node *));
		q->cap = cap;
	}
	q->v[(q->first + q->n++) & (q->cap - 1)] = n;
}

size_t tree_dirty(const struct tree *t)
{
	return t->dirty.n;
}

struct node *tree_pop_dirty(struct tree *t)
{
	struct queue *q = &t->dirty;
	struct node *n;
	if (q->n == 0)
		return NULL;
	n = q->v[q->first];
	q->first = (q->first + 1) & (q->cap - 1);
	n->flags &= ~(uint32_t)NODE_DIRTY;
	if (--q->n == 0 && q->cap > QUEUE_MIN) {
		free(q->v);
		*q = (struct queue){ 0 };
	}
	return n;
}
