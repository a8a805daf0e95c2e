#include "proto/sync/reconcile_int.h"

struct pass {
	struct reconciler *r;
	struct actions *out, late; /* late: behind all others */
	struct node **visited;
	size_t nvisited, cap;
};

/* -- actions -- */

static struct action *action_add(struct actions *out)
{
	if (out->n == out->cap) {
		out->cap = out->cap ? out->cap * 2 : 64;
		out->v = xrealloc(out->v, out->cap * sizeof(struct action));
	}
	return &out->v[out->n++];
}

static void emit(struct pass *p, struct node *n, enum sync_side side, enum act act,
		 struct version *want, struct version *expect)
{
	/* Closing a directory to its owner comes behind what is put into it. */
	bool closes = act == ACT_META && want->kind == SYNC_DIR && (want->mode & 0300) != 0300;
	struct actions *out = closes ? &p->late : p->out;
	*action_add(out) = (struct action){ n, version_ref(want), version_ref(expect),
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
	return version_file(mode, v->size, mtime_ns, v->hashed == 1 ? v->digest : NULL);
}

void reconcile_meta_done(struct tree *t, struct node *n, const struct version *expect,
			 const struct version *want)
{
	const struct version *base = n->base;
	if (!is_kind(base, (enum sync_kind)want->kind))
		return;
	unsigned mode = want->mode == expect->mode ? base->mode : want->mode;
	int64_t mtime = want->mtime_ns == expect->mtime_ns ? base->mtime_ns : want->mtime_ns;
	if (mode != base->mode || mtime != base->mtime_ns)
		node_set_base(t, n, with_meta(base, mode, mtime));
}

/* They agree on the content from now on, whatever becomes of mode and mtime: should one change it
 * before the other has been given those, it is the only one that has. */
static void agree(struct reconciler *r, struct node *n)
{
	const struct version *a = n->side[SYNC_ALPHA], *b = n->side[SYNC_BETA], *base = n->base;
	unsigned mode = 1; /* and a time that neither has: both have changed them */
	int64_t mtime = 0;
	if (version_same(a, base) == 1 || version_same(b, base) == 1)
		return;
	while (mode == a->mode || mode == b->mode)
		mode <<= 1;
	while (mtime == a->mtime_ns || mtime == b->mtime_ns)
		mtime++;
	if (is_kind(base, (enum sync_kind)a->kind))
		mode = base->mode;
	node_set_base(r->tree, n, with_meta(a->hashed == 1 ? a : b, mode, mtime));
	if (r->settled)
		r->settled(r->arg, n);
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
	agree(p->r, n);
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
			enum outcome o = decide(p->r, n, 1U << side);
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

/* Is to go, but cannot. */
static bool is_stuck(const struct node *n)
{
	return (n->flags & (N_REMOVE | N_CREATE | N_BLOCKED)) == (N_REMOVE | N_BLOCKED);
}

static void emit_classified(struct pass *p, struct node *top, enum sync_side side)
{
	struct tree *t = p->r->tree;
	struct node *end = node_skip(t, top), *n = top, *busy_end = NULL;
	bool busy = false; /* below a busy one nothing is made: it is looked at again */
	for (; n != end; n = node_next(t, n)) {
		bool below_stuck = n != top && is_stuck(n->parent);
		if (busy && n == busy_end)
			busy = false;
		if (n->flags & NODE_BUSY && !busy) {
			busy = true;
			busy_end = node_skip(t, n);
		}
		if (is_stuck(n) && !below_stuck)
			conflict_set(p->r, n, reason_stuck);
		else
			conflict_clear(p->r, n);
		if (n->flags & N_CREATE && n->side[side] && !busy)
			transfer(p, n, other(side), n == top);
	}
	for (n = deepest(top);; n = next_up(n)) {
		if ((n->flags & (N_REMOVE | N_HELD)) == N_REMOVE)
			emit(p, n, side, ACT_REMOVE, NULL, n->side[side]);
		if (n == top)
			break;
	}
}

/* top is a directory on this side, and none on the other. */
static void merge_subtree(struct pass *p, struct node *top, enum sync_side side)
{
	struct reconciler *r = p->r;
	struct version *there = top->side[other(side)];
	enum outcome o = decide(r, top, 3);
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
			conflict_covers(r, top, reason_below);
		else if (top->flags & N_BLOCKED)
			conflict_covers(r, top, reason_stuck);
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
	switch (decide(p->r, n, 3)) {
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
		if (!(n->flags & NODE_HELD))
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
	for (size_t i = 0; i < p.late.n; i++)
		*action_add(out) = p.late.v[i];
	free(p.late.v);
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
