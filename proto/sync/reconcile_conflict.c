#include "proto/sync/reconcile_int.h"

#include <errno.h>

/* An array, and a table of where in it a node is (open addressing). */

static size_t slot_of(const struct reconciler *r, const struct node *n)
{
	uint64_t h = ((uintptr_t)n >> 4) * 0x9e3779b97f4a7c15;
	return (size_t)(h >> 20) & (r->nconflict_slots - 1);
}

/* The slot that holds n, or the free one where it goes. */
static size_t slot_find(const struct reconciler *r, const struct node *n)
{
	size_t i = slot_of(r, n);
	while (r->conflict_slots[i] && r->conflicts[r->conflict_slots[i] - 1].node != n)
		i = (i + 1) & (r->nconflict_slots - 1);
	return i;
}

void conflict_set(struct reconciler *r, struct node *n, const char *reason)
{
	if (n->flags & NODE_CONFLICT) {
		r->conflicts[r->conflict_slots[slot_find(r, n)] - 1].reason = reason;
		return;
	}
	if (r->nconflicts == r->conflicts_cap) {
		r->conflicts_cap = r->conflicts_cap ? r->conflicts_cap * 2 : 16;
		r->conflicts = xrealloc(r->conflicts, r->conflicts_cap * sizeof(struct conflict));
		r->nconflict_slots = r->conflicts_cap * 2;
		free(r->conflict_slots);
		r->conflict_slots = xcalloc(r->nconflict_slots, sizeof(uint32_t));
		for (size_t i = 0; i < r->nconflicts; i++)
			r->conflict_slots[slot_find(r, r->conflicts[i].node)] = (uint32_t)i + 1;
	}
	r->conflict_slots[slot_find(r, n)] = (uint32_t)r->nconflicts + 1;
	r->conflicts[r->nconflicts++] = (struct conflict){ n, reason };
	n->flags |= NODE_CONFLICT;
}

void conflict_clear(struct reconciler *r, struct node *n)
{
	size_t mask = r->nconflict_slots - 1, hole, last;
	uint32_t at;
	if (!(n->flags & NODE_CONFLICT))
		return;
	n->flags &= ~(uint32_t)NODE_CONFLICT;
	hole = slot_find(r, n);
	last = slot_find(r, r->conflicts[r->nconflicts - 1].node);
	at = r->conflict_slots[hole];
	r->conflict_slots[last] = at;
	r->conflict_slots[hole] = 0;
	r->conflicts[at - 1] = r->conflicts[--r->nconflicts];
	/* What probed past the hole moves up. */
	for (size_t i = (hole + 1) & mask; r->conflict_slots[i]; i = (i + 1) & mask) {
		size_t home = slot_of(r, r->conflicts[r->conflict_slots[i] - 1].node);
		if (((i - home) & mask) < ((i - hole) & mask))
			continue;
		r->conflict_slots[hole] = r->conflict_slots[i];
		r->conflict_slots[i] = 0;
		hole = i;
	}
}

void conflict_covers(struct reconciler *r, struct node *top, const char *reason)
{
	struct node *end = node_skip(r->tree, top);
	if (!(top->flags & NODE_CONFLICT))
		for (struct node *n = top; n != end; n = node_next(r->tree, n))
			conflict_clear(r, n);
	conflict_set(r, top, reason);
}

void reconciler_end(struct reconciler *r)
{
	free(r->conflicts);
	free(r->conflict_slots);
	r->conflicts = NULL;
	r->conflict_slots = NULL;
	r->nconflicts = r->conflicts_cap = r->nconflict_slots = 0;
}

void base_becomes(struct reconciler *r, struct node *top, enum sync_side loser)
{
	struct node *end = node_skip(r->tree, top);
	for (struct node *n = top; n != end; n = node_next(r->tree, n)) {
		if (n->base == n->side[loser])
			continue;
		node_set_base(r->tree, n, version_ref(n->side[loser]));
		if (r->settled)
			r->settled(r->arg, n);
	}
}

static bool is_below(const struct node *n, const struct node *top)
{
	while (n && n != top)
		n = n->parent;
	return n == top;
}

int reconcile_keep(struct reconciler *r, struct node *top, enum sync_side winner)
{
	size_t found = 0, done = 0;
	for (size_t i = 0; i < r->nconflicts; i++) {
		struct node *c = r->conflicts[i].node, *end = node_skip(r->tree, c);
		const char *reason = r->conflicts[i].reason;
		if (!is_below(c, top))
			continue;
		found++;
		if (reason == reason_in_the_way || reason == reason_stuck)
			continue;
		base_becomes(r, c, other(winner));
		for (struct node *n = c; n != end && !two_way(r->mode); n = node_next(r->tree, n))
			n->flags = winner == SYNC_BETA ? n->flags | N_BETA_WINS
						       : n->flags & ~(uint32_t)N_BETA_WINS;
		node_mark_dirty(r->tree, c);
		done++;
	}
	if (found == 0)
		return -ENOENT;
	return done ? 0 : -EOPNOTSUPP;
}

const char *reconcile_halt(struct tree *t, enum sync_mode mode)
{
	size_t base = 0;
	bool alpha = false, beta = false;
	for (struct node *n = tree_root(t)->children; n && !(alpha && beta); n = n->next) {
		base += n->base != NULL;
		alpha |= n->side[SYNC_ALPHA] != NULL;
		beta |= n->side[SYNC_BETA] != NULL;
	}
	if (alpha == beta || base < 2)
		return NULL;
	if (beta)
		return "everything in alpha is gone, and beta would be emptied, too";
	return two_way(mode) ? "everything in beta is gone, and alpha would be emptied, too" : NULL;
}
