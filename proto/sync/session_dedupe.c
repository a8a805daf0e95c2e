/*
 * Content that the other side has already, under another name: copied there instead of sent. Known
 * from one pass over the tree when a lot is to be moved, and forgotten a second after.
 */
#include "proto/sync/session_int.h"
#include "reactor/err.h"

enum {
	MUCH = 1 << 20,
	MUCH_IF_GONE = 64 << 10,
	FILE_MIN = 4096,
	LATELY_MS = 1000,
	AGAIN_MS = 50,
	PROBES = 128
};

static bool is_source(const struct node *n, enum sync_side side)
{
	const struct version *v = n->side[side];
	return v && v->kind == SYNC_FILE && v->hashed && v->size >= FILE_MIN;
}

static uint64_t key_of(const struct version *v)
{
	uint64_t key;
	memcpy(&key, v->digest, sizeof(key));
	return key;
}

/* Where it is, or could be; NULL: too many of the like are there, as when a far end makes up
 * digests and sizes. */
static struct node **node_slot(struct sources *t, const struct version *v, enum sync_side side)
{
	size_t i = key_of(v) & (t->cap - 1);
	for (int k = 0; k < PROBES; k++, i = (i + 1) & (t->cap - 1)) {
		struct node *n = t->nodes[i];
		if (!n || (is_source(n, side) && version_same(n->side[side], v) == 1))
			return &t->nodes[i];
	}
	return NULL;
}

static uint64_t *size_slot(struct sources *t, uint64_t size)
{
	size_t i = (size_t)(size * 0x9e3779b97f4a7c15u >> 32) & (t->cap - 1);
	for (int k = 0; k < PROBES; k++, i = (i + 1) & (t->cap - 1))
		if (!t->sizes[i] || t->sizes[i] == size)
			return &t->sizes[i];
	return NULL;
}

static void forget(struct session *s, enum sync_side side)
{
	struct sources *t = &s->sources[side];
	for (size_t i = 0; t->nodes && i < t->cap; i++) {
		struct node *n = t->nodes[i];
		if (!n)
			continue;
		n->flags &= ~(side == SYNC_ALPHA ? NODE_SOURCE_A : NODE_SOURCE_B);
		node_prune(s->side.tree, n);
	}
	free(t->nodes);
	free(t->sizes);
	*t = (struct sources){ 0 };
}

static void find_sources(struct session *s, enum sync_side side)
{
	struct sources *t = &s->sources[side];
	struct tree *tree = s->side.tree;
	size_t n = 0;
	for (struct node *i = tree_root(tree); i; i = node_next(tree, i))
		n += is_source(i, side);
	if (n == 0)
		return;
	forget(s, side);
	t->found_at = reactor_now(s->rx);
	for (t->cap = 64; t->cap < 2 * n; t->cap *= 2)
		;
	t->nodes = xcalloc(t->cap, sizeof(*t->nodes));
	t->sizes = xcalloc(t->cap, sizeof(*t->sizes));
	for (struct node *i = tree_root(tree); i; i = node_next(tree, i)) {
		if (!is_source(i, side))
			continue;
		struct node **at = node_slot(t, i->side[side], side);
		uint64_t *size = size_slot(t, i->side[side]->size);
		if (!at || *at || !size)
			continue;
		*at = i;
		i->flags |= side == SYNC_ALPHA ? NODE_SOURCE_A : NODE_SOURCE_B; /* not pruned */
		*size = i->side[side]->size;
	}
}

void sources_find(struct session *s, size_t from)
{
	uint64_t now = reactor_now(s->rx), much = s->nheld ? MUCH_IF_GONE : MUCH;
	if (now > s->lately_at + LATELY_MS)
		s->lately[0] = s->lately[1] = 0;
	if (s->todo.n == from)
		return;
	s->lately_at = now;
	if (s->fresh)
		return; /* there is nothing but what was sent just now */
	for (size_t i = from; i < s->todo.n; i++)
		if (s->todo.v[i].act == ACT_PUT)
			s->lately[s->todo.v[i].side] += s->todo.v[i].want->size;
	for (int side = 0; side < 2; side++)
		if (s->lately[side] > much && now >= s->sources[side].found_at + AGAIN_MS)
			find_sources(s, (enum sync_side)side);
}

void sources_forget(struct session *s)
{
	forget(s, SYNC_ALPHA);
	forget(s, SYNC_BETA);
}

uint64_t sources_age(struct session *s)
{
	uint64_t until = s->lately_at + LATELY_MS;
	if (!s->sources[0].nodes && !s->sources[1].nodes)
		return 0;
	if (s->todo.n || reactor_now(s->rx) < until)
		return until;
	sources_forget(s);
	return 0;
}

struct node *source_of(struct session *s, const struct op *op, const char *path)
{
	struct sources *t = &s->sources[op->side];
	struct node *n = op->node;
	struct version *want = op->want;
	if (!t->nodes || want->size < FILE_MIN)
		return NULL;
	const uint64_t *size = size_slot(t, want->size);
	if (!size || !*size)
		return NULL;
	if (!want->hashed && op->side == SYNC_BETA) {
		struct version *a = n->side[SYNC_ALPHA];
		if (!a || a->kind != SYNC_FILE ||
		    (!a->hashed && root_hash(s->side.root, path, a, &n->stamp, NULL) < 0))
			return NULL;
		if (a != want && a->size == want->size && a->mtime_ns == want->mtime_ns) {
			memcpy(want->digest, a->digest, SYNC_DIGEST);
			want->hashed = 1;
		}
	}
	if (!want->hashed)
		return NULL;
	struct node **found = node_slot(t, want, (enum sync_side)op->side);
	return !found || *found == n ? NULL : *found;
}
