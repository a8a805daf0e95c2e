#include "proto/sync/reconcile.h"

#include <errno.h>

/* Of struct node's flags. */
enum {
	N_MAKING_A = 1 << 8,   /* while it is busy: a MKDIR is on its way to this side */
	N_MAKING_B = 1 << 9,   /* so what is in it can follow */
	N_BETA_WINS = 1 << 10, /* one-way modes: a person has said so */
	/* During one call: */
	N_LISTED = 1 << 11,  /* it was dirty */
	N_AGAIN = 1 << 12,   /* stays dirty */
	N_VISITED = 1 << 13, /* what is to be done here and below has been found */
	N_OPAQUE = 1 << 14,  /* visited: nothing is done below */
	/* Below a directory that only one side has; all but REMOVE hold for the parents, too: */
	N_REMOVE = 1 << 15,  /* it should go */
	N_CREATE = 1 << 16,  /* the other side must get it */
	N_STAYS = 1 << 17,   /* it stays where it is, and only there */
	N_BLOCKED = 1 << 18, /* it cannot be synced */
	N_WAITS = 1 << 19,   /* not known yet */
	N_HELD = N_CREATE | N_STAYS | N_BLOCKED | N_WAITS,
};

enum outcome { SAME = 1, TO_ALPHA, TO_BETA, LEAVE, CONFLICT, WAIT };

static const char both_changed[] = "both sides have changed it";
static const char one_way[] = "beta has changed it, and this sync goes from alpha to beta only";
static const char in_the_way[] = "a socket, a device or a mount point is in the way";
static const char below_changed[] =
    "one side has something else in place of a directory in which the other has changed files";
static const char stuck[] =
    "it was removed on the other side, but holds a socket, a device or what cannot be read";

struct pass {
	struct reconciler *r;
	struct actions *out;
	struct node **visited;
	size_t nvisited, cap;
};

static const char *const mode_text[] = {
	[SYNC_TWO_WAY_SAFE] = "two-way-safe",
	[SYNC_TWO_WAY_RESOLVED] = "two-way-resolved",
	[SYNC_ONE_WAY_SAFE] = "one-way-safe",
	[SYNC_ONE_WAY_REPLICA] = "one-way-replica",
};

const char *sync_mode_text(enum sync_mode mode)
{
	return mode_text[mode];
}

enum sync_mode sync_mode_parse(struct slice text)
{
	for (size_t i = SYNC_TWO_WAY_SAFE; i < ARRAY_LEN(mode_text); i++)
		if (slice_eq(text, slice_str(mode_text[i])))
			return (enum sync_mode)i;
	return (enum sync_mode)0;
}

static enum sync_mode mode_of(const struct reconciler *r, const struct node *n)
{
	return n->flags & N_BETA_WINS ? SYNC_TWO_WAY_SAFE : r->mode;
}

static bool two_way(enum sync_mode mode)
{
	return mode == SYNC_TWO_WAY_SAFE || mode == SYNC_TWO_WAY_RESOLVED;
}

static bool is_kind(const struct version *v, enum sync_kind kind)
{
	return v && v->kind == kind;
}

static enum sync_side other(enum sync_side side)
{
	return side == SYNC_ALPHA ? SYNC_BETA : SYNC_ALPHA;
}

/* -- the conflicts: an array, and a table of where in it a node is (open addressing) -- */

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

static void conflict_set(struct reconciler *r, struct node *n, const char *reason)
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

static void conflict_clear(struct reconciler *r, struct node *n)
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

void reconciler_end(struct reconciler *r)
{
	free(r->conflicts);
	free(r->conflict_slots);
	r->conflicts = NULL;
	r->conflict_slots = NULL;
	r->nconflicts = r->conflicts_cap = r->nconflict_slots = 0;
}

/* -- the table of cases -- */

/* A, B: what the sides have; ab, ao, bo: which have the same content. */
static enum outcome case_of(enum sync_mode mode, const struct version *a, const struct version *b,
			    bool ab, bool ao, bool bo)
{
	if (ab)
		return SAME;
	if (is_kind(a, SYNC_OTHER) || is_kind(b, SYNC_OTHER))
		return a && b ? CONFLICT : LEAVE;
	if (bo && !ao)
		return TO_BETA;
	if (mode == SYNC_ONE_WAY_REPLICA)
		return TO_BETA;
	if (mode == SYNC_ONE_WAY_SAFE) {
		if (!b)
			return TO_BETA;
		return a ? CONFLICT : LEAVE;
	}
	if (ao && !bo)
		return TO_ALPHA;
	if (!b || mode == SYNC_TWO_WAY_RESOLVED)
		return TO_BETA;
	return a ? CONFLICT : TO_ALPHA;
}

/* The same if a digest is missing (-1): what it is whatever they are, or 0 if it hangs on them. */
static enum outcome case_of_unknown(enum sync_mode mode, const struct version *a,
				    const struct version *b, int ab, int ao, int bo)
{
	enum outcome found = (enum outcome)0;
	for (int i = 0; i < 8; i++) {
		bool x = i & 1, y = i & 2, z = i & 4;
		enum outcome o;
		if ((ab >= 0 && x != ab) || (ao >= 0 && y != ao) || (bo >= 0 && z != bo))
			continue;
		if (x + y + z == 2) /* sameness is transitive */
			continue;
		o = case_of(mode, a, b, x, y, z);
		if (found && o != found)
			return (enum outcome)0;
		found = o;
	}
	return found;
}

static bool unhashed(const struct version *v)
{
	return is_kind(v, SYNC_FILE) && !v->hashed;
}

/* sides: which are looked at (bits); the other has nothing there, as its parent is no directory. */
static enum outcome decide(struct pass *p, struct node *n, unsigned sides)
{
	struct reconciler *r = p->r;
	bool asked[2] = { false, false }, later = false, news;
	for (;;) {
		struct version *v[2] = { sides & 1 ? n->side[SYNC_ALPHA] : NULL,
					 sides & 2 ? n->side[SYNC_BETA] : NULL };
		int ab = version_same(v[0], v[1]);
		int base[2] = { version_same(v[0], n->base), version_same(v[1], n->base) };
		enum sync_mode mode = mode_of(r, n);
		enum outcome o = case_of_unknown(mode, v[0], v[1], ab, base[0], base[1]);
		if (o)
			return o;
		news = false;
		for (int i = 0; i < 2; i++) {
			if (asked[i] || !unhashed(v[i]) || (ab >= 0 && base[i] >= 0))
				continue;
			asked[i] = true;
			if (!r->hash)
				continue;
			if (r->hash(r->arg, n, (enum sync_side)i))
				news = true;
			else
				later = true;
		}
		if (!news && later)
			return WAIT;
		if (!news) /* of the base it will never be known */
			return case_of(mode, v[0], v[1], ab == 1, base[0] == 1, base[1] == 1);
	}
}

static const char *conflict_reason(const struct reconciler *r, const struct node *n)
{
	if (is_kind(n->side[SYNC_ALPHA], SYNC_OTHER) || is_kind(n->side[SYNC_BETA], SYNC_OTHER))
		return in_the_way;
	if (mode_of(r, n) == SYNC_ONE_WAY_SAFE && version_same(n->side[SYNC_ALPHA], n->base) == 1)
		return one_way;
	return both_changed;
}

/* -- actions -- */

static void emit(struct pass *p, struct node *n, enum sync_side side, enum act act,
		 struct version *want, struct version *expect)
{
	struct actions *out = p->out;
	if (out->n == out->cap) {
		out->cap = out->cap ? out->cap * 2 : 64;
		out->v = xrealloc(out->v, out->cap * sizeof(struct action));
	}
	out->v[out->n++] = (struct action){ n, version_ref(want), version_ref(expect),
					    (uint8_t)side, (uint8_t)act };
	n->flags &= ~(uint32_t)(N_MAKING_A | N_MAKING_B);
	if (act == ACT_MKDIR)
		n->flags |= side == SYNC_ALPHA ? N_MAKING_A : N_MAKING_B;
}

void actions_end(struct actions *a)
{
	for (size_t i = 0; i < a->n; i++)
		version_unref(a->v[i].want), version_unref(a->v[i].expect);
	free(a->v);
	*a = (struct actions){ 0 };
}

/* Both sides have v, and it becomes the base. */
static void settle(struct reconciler *r, struct node *n, struct version *v)
{
	bool news = !version_identical(n->base, v) || (v && v->hashed && !n->base->hashed);
	conflict_clear(r, n);
	n->flags &= ~(uint32_t)N_BETA_WINS;
	if (!news)
		v = n->base;
	else
		node_set_base(r->tree, n, version_ref(v));
	for (int i = 0; i < 2 && v; i++) {
		struct version *old = n->side[i];
		if (old == v || is_kind(old, SYNC_OTHER))
			continue;
		n->side[i] = version_ref(v);
		version_unref(old);
	}
	if (news && r->settled)
		r->settled(r->arg, n);
}

static unsigned merged_mode(const struct version *a, const struct version *b,
			    const struct version *base)
{
	return is_kind(base, (enum sync_kind)a->kind) && a->mode == base->mode ? b->mode : a->mode;
}

static int64_t merged_mtime(const struct version *a, const struct version *b,
			    const struct version *base)
{
	bool known = version_same(a, base) == 1;
	if (known && a->mtime_ns == base->mtime_ns)
		return b->mtime_ns;
	if (known && b->mtime_ns == base->mtime_ns)
		return a->mtime_ns;
	return MAX(a->mtime_ns, b->mtime_ns);
}

static struct version *with_meta(const struct version *v, unsigned mode, int64_t mtime_ns)
{
	if (v->kind == SYNC_DIR)
		return version_dir(mode);
	return version_file(mode, v->size, mtime_ns, v->hashed ? v->digest : NULL);
}

/* Both have the same content: mode and mtime are what may differ. */
static void merge(struct pass *p, struct node *n)
{
	struct version *a = n->side[SYNC_ALPHA], *b = n->side[SYNC_BETA], *want;
	enum sync_mode mode = mode_of(p->r, n);
	bool all_a = !two_way(mode) || a->kind == SYNC_LINK, same = version_identical(a, b);
	unsigned m;
	int64_t mtime;
	if (a->kind == SYNC_OTHER) {
		settle(p->r, n, NULL);
		return;
	}
	if (same) {
		settle(p->r, n, b->hashed && !a->hashed ? b : a);
		return;
	}
	conflict_clear(p->r, n);
	if (mode == SYNC_ONE_WAY_SAFE && version_identical(a, n->base))
		return; /* beta's own doing */
	m = all_a ? a->mode : merged_mode(a, b, n->base);
	mtime = all_a ? a->mtime_ns : merged_mtime(a, b, n->base);
	if (a->mode == m && a->mtime_ns == mtime)
		want = version_ref(a);
	else if (b->mode == m && b->mtime_ns == mtime)
		want = version_ref(b);
	else
		want = with_meta(a, m, mtime);
	if (!version_identical(a, want) && want != a)
		emit(p, n, SYNC_ALPHA, ACT_META, want, a);
	if (!version_identical(b, want) && want != b)
		emit(p, n, SYNC_BETA, ACT_META, want, b);
	version_unref(want);
}

/* What from's side has goes to the other, which has a file or link, or (there) nothing. */
static void transfer(struct pass *p, struct node *n, enum sync_side to, bool there)
{
	struct version *v = n->side[other(to)], *old = there ? n->side[to] : NULL, *want = NULL;
	if (!v) {
		emit(p, n, to, ACT_REMOVE, NULL, old);
		return;
	}
	if (v->kind == SYNC_LINK) {
		emit(p, n, to, ACT_LINK, v, old);
	} else if (v->kind == SYNC_DIR) {
		if (old)
			emit(p, n, to, ACT_REMOVE, NULL, old);
		/* One that its owner cannot write to gets its mode once it is filled: then it is a
		 * directory on both sides whose mode differs from the base's. */
		want = (v->mode & 0700) == 0700 ? version_ref(v) : version_dir(v->mode | 0700);
		emit(p, n, to, ACT_MKDIR, want, NULL);
	} else {
		/* The other side's chmod is kept. */
		unsigned mode = v->mode;
		if (is_kind(old, SYNC_FILE) && is_kind(n->base, SYNC_FILE) &&
		    two_way(mode_of(p->r, n)) && v->mode == n->base->mode)
			mode = old->mode;
		want = mode == v->mode ? version_ref(v) : with_meta(v, mode, v->mtime_ns);
		emit(p, n, to, ACT_PUT, want, old);
		if (mode != v->mode)
			emit(p, n, other(to), ACT_META, want, v);
	}
	version_unref(want);
}

/* -- a directory that only one side has -- */

static struct node *deepest(struct node *n)
{
	while (n->children)
		n = n->children;
	return n;
}

/* Children before parents; from deepest(top) to top. */
static struct node *next_up(struct node *n)
{
	return n->next ? deepest(n->next) : n->parent;
}

/* For each node below top, which only side has: what is to become of it, into the flags. lost: all
 * goes that can. */
static void classify(struct pass *p, struct node *top, enum sync_side side, bool lost)
{
	for (struct node *n = deepest(top); n != top; n = next_up(n)) {
		if (!n->side[side]) {
			/* gone: settled by itself */
		} else if (n->flags & NODE_BUSY) {
			n->flags |= N_WAITS;
		} else if ((n->flags & (NODE_PROBLEM | N_LISTED)) == NODE_PROBLEM ||
			   n->side[side]->kind == SYNC_OTHER) {
			n->flags |= N_BLOCKED;
		} else if (lost) {
			n->flags |= N_REMOVE;
		} else {
			enum outcome o = decide(p, n, 1U << side);
			if (o == WAIT)
				n->flags |= N_WAITS;
			else if (o == LEAVE || o == CONFLICT)
				n->flags |= N_STAYS;
			else
				n->flags |= o == (side == SYNC_ALPHA ? TO_ALPHA : TO_BETA)
						? N_REMOVE
						: N_CREATE;
		}
		n->parent->flags |= n->flags & N_HELD;
	}
}

static void unclassify(struct node *top)
{
	struct node *n = deepest(top);
	for (; n != top; n = next_up(n))
		n->flags &= ~(uint32_t)(N_REMOVE | N_HELD);
	top->flags &= ~(uint32_t)(N_REMOVE | N_HELD);
}

/* The base of n and all below becomes what loser has: then the other side is the only one that has
 * changed, and that holds over failures and restarts. */
static void base_becomes(struct reconciler *r, struct node *top, enum sync_side loser)
{
	struct node *end = node_skip(r->tree, top);
	for (struct node *n = top; n != end; n = node_next(r->tree, n)) {
		if (n->base == n->side[loser])
			continue;
		node_set_base(r->tree, n, version_ref(n->side[loser]));
		if (r->settled)
			r->settled(r->arg, n);
		if (!n->base && !n->side[other(loser)])
			node_mark_dirty(r->tree, n); /* to be pruned */
	}
}

/* Is to go, but cannot. */
static bool is_stuck(const struct node *n)
{
	return (n->flags & (N_REMOVE | N_CREATE | N_BLOCKED)) == (N_REMOVE | N_BLOCKED);
}

static void emit_classified(struct pass *p, struct node *top, enum sync_side side)
{
	struct tree *t = p->r->tree;
	struct node *end = node_skip(t, top), *n = top;
	while (n != end) {
		bool below_stuck = n != top && is_stuck(n->parent);
		if (n->flags & NODE_BUSY) {
			n = node_skip(t, n);
			continue;
		}
		if (is_stuck(n) && !below_stuck)
			conflict_set(p->r, n, stuck);
		else
			conflict_clear(p->r, n);
		if (n->flags & N_CREATE && n->side[side])
			transfer(p, n, other(side), n == top);
		n = node_next(t, n);
	}
	for (n = deepest(top);; n = next_up(n)) {
		if ((n->flags & (N_REMOVE | N_HELD)) == N_REMOVE)
			emit(p, n, side, ACT_REMOVE, NULL, n->side[side]);
		if (n == top)
			break;
	}
}

/* Of what is below, nothing is listed by itself. */
static void conflict_covers(struct reconciler *r, struct node *top, const char *reason)
{
	struct node *end = node_skip(r->tree, top);
	if (!(top->flags & NODE_CONFLICT))
		for (struct node *n = top; n != end; n = node_next(r->tree, n))
			conflict_clear(r, n);
	conflict_set(r, top, reason);
}

/* top is a directory on this side, and none on the other. */
static void merge_subtree(struct pass *p, struct node *top, enum sync_side side)
{
	struct reconciler *r = p->r;
	struct version *there = top->side[other(side)];
	enum outcome o = decide(p, top, 3);
	bool away = o == (side == SYNC_ALPHA ? TO_ALPHA : TO_BETA);
	bool resolved = mode_of(r, top) == SYNC_TWO_WAY_RESOLVED;
	if (o == WAIT || o == LEAVE || o == CONFLICT) {
		top->flags |= N_OPAQUE;
		if (o == LEAVE)
			conflict_clear(r, top);
		else if (o == CONFLICT)
			conflict_covers(r, top, conflict_reason(r, top));
		return;
	}
	top->flags |= away ? N_REMOVE : N_CREATE;
	classify(p, top, side, false);
	if (away && there && resolved && top->flags & (N_CREATE | N_STAYS) &&
	    !(top->flags & N_WAITS)) {
		unclassify(top);
		away = side == SYNC_BETA;
		if (!away)
			base_becomes(r, top, SYNC_BETA);
		top->flags |= away ? N_REMOVE : N_CREATE;
		classify(p, top, side, away);
	}
	if (away && there && top->flags & N_HELD) {
		if (top->flags & (N_CREATE | N_STAYS) && !resolved)
			conflict_covers(r, top, below_changed);
		else if (top->flags & N_BLOCKED)
			conflict_covers(r, top, stuck);
		top->flags |= N_OPAQUE;
	} else {
		emit_classified(p, top, side);
		if (away && there)
			transfer(p, top, side, false);
	}
	unclassify(top);
}

/* -- from the dirty nodes to the decisions -- */

/* Is it a directory on this side, or will it be before anything that is asked for now is done? */
static bool is_dir(const struct node *n, enum sync_side side)
{
	uint32_t making = side == SYNC_ALPHA ? N_MAKING_A : N_MAKING_B;
	return is_kind(n->side[side], SYNC_DIR) || (n->flags & NODE_BUSY && n->flags & making);
}

static bool both_dirs(const struct node *n)
{
	return !n->parent || (is_dir(n, SYNC_ALPHA) && is_dir(n, SYNC_BETA));
}

/* The topmost of n and its ancestors that is no directory on both sides; NULL: all are. */
static struct node *top_of(struct node *n)
{
	struct node *top = NULL;
	for (; n; n = n->parent)
		if (!both_dirs(n))
			top = n;
	return top;
}

/* All above n are directories on both sides, n is not, and is not busy. */
static void visit(struct pass *p, struct node *n)
{
	struct version *a = n->side[SYNC_ALPHA], *b = n->side[SYNC_BETA];
	if (n->flags & N_VISITED)
		return;
	n->flags |= N_VISITED;
	if (p->nvisited == p->cap) {
		p->cap = p->cap ? p->cap * 2 : 64;
		p->visited = xrealloc(p->visited, p->cap * sizeof(struct node *));
	}
	p->visited[p->nvisited++] = n;
	if (!a && !b) {
		n->flags |= N_OPAQUE;
		settle(p->r, n, NULL);
		return;
	}
	if (is_kind(a, SYNC_DIR) || is_kind(b, SYNC_DIR)) {
		merge_subtree(p, n, is_kind(a, SYNC_DIR) ? SYNC_ALPHA : SYNC_BETA);
		return;
	}
	n->flags |= N_OPAQUE;
	switch (decide(p, n, 3)) {
	case SAME:
		merge(p, n);
		break;
	case TO_ALPHA:
		conflict_clear(p->r, n);
		transfer(p, n, SYNC_ALPHA, true);
		break;
	case TO_BETA:
		conflict_clear(p->r, n);
		transfer(p, n, SYNC_BETA, true);
		break;
	case LEAVE:
		conflict_clear(p->r, n);
		break;
	case CONFLICT:
		conflict_set(p->r, n, conflict_reason(p->r, n));
		break;
	case WAIT:
		break;
	}
}

/* A directory on both sides. It may be new as such, so that what was decided for its children (or
 * above them) no longer holds. */
static void look_dir(struct pass *p, struct node *dir)
{
	if (is_kind(dir->side[SYNC_ALPHA], SYNC_DIR) && is_kind(dir->side[SYNC_BETA], SYNC_DIR))
		merge(p, dir);
	for (struct node *n = dir->children; n; n = n->next) {
		bool settled =
		    n->side[SYNC_ALPHA] == n->side[SYNC_BETA] && n->side[SYNC_ALPHA] == n->base;
		if (settled || n->flags & (N_LISTED | NODE_BUSY | NODE_PROBLEM))
			continue;
		if (both_dirs(n))
			node_mark_dirty(p->r->tree, n);
		else
			visit(p, n);
	}
}

static void look(struct pass *p, struct node *n)
{
	struct node *top;
	if (n->flags & NODE_BUSY) {
		n->flags |= N_AGAIN;
		return;
	}
	n->flags &= ~(uint32_t)(N_MAKING_A | N_MAKING_B);
	if (!n->side[SYNC_ALPHA] && !n->side[SYNC_BETA])
		settle(p->r, n, NULL);
	top = top_of(n);
	if (!top) {
		look_dir(p, n);
	} else if (top->flags & NODE_BUSY) {
		if (n->side[SYNC_ALPHA] || n->side[SYNC_BETA])
			n->flags |= N_AGAIN;
	} else {
		visit(p, top);
		if (n == top)
			return;
		if (top->flags & N_OPAQUE)
			conflict_clear(p->r, n);
		/* The tree says that there is something in what it says is no directory: a scan
		 * will put one of the two right. */
		for (int i = 0; i < 2; i++)
			if (n->side[i] && !is_kind(top->side[i], SYNC_DIR))
				n->flags |= N_AGAIN;
	}
}

void reconcile(struct reconciler *r, struct actions *out)
{
	struct pass p = { .r = r, .out = out };
	size_t count = tree_dirty(r->tree);
	struct node **list;
	if (count == 0)
		return;
	list = xmalloc(count * sizeof(struct node *));
	for (size_t i = 0; i < count; i++) {
		list[i] = tree_pop_dirty(r->tree);
		list[i]->flags |= N_LISTED;
	}
	for (size_t i = 0; i < count; i++)
		look(&p, list[i]);
	for (size_t i = 0; i < p.nvisited; i++)
		p.visited[i]->flags &= ~(uint32_t)(N_VISITED | N_OPAQUE);
	for (size_t i = 0; i < count; i++) {
		struct node *n = list[i];
		bool again = n->flags & N_AGAIN;
		n->flags &= ~(uint32_t)(N_LISTED | N_AGAIN);
		if (again)
			node_mark_dirty(r->tree, n);
		else
			node_prune(r->tree, n);
	}
	free(p.visited);
	free(list);
}

/* -- what a person says, and is asked -- */

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
		if (reason == in_the_way || reason == stuck)
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
	size_t base = 0, alpha = 0, beta = 0;
	for (struct node *n = tree_root(t)->children; n; n = n->next) {
		base += n->base != NULL;
		alpha += n->side[SYNC_ALPHA] != NULL;
		beta += n->side[SYNC_BETA] != NULL;
	}
	if (base < 2)
		return NULL;
	if (alpha == 0 && beta > 0)
		return "everything in alpha is gone, and beta would be emptied, too";
	if (beta == 0 && alpha > 0 && two_way(mode))
		return "everything in beta is gone, and alpha would be emptied, too";
	return NULL;
}
