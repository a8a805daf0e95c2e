/* The three-way merge against a model: two small file systems that a seeded generator edits, and
 * that carry out what reconcile asks for, or fail to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <time.h>

#include "proto/sync/reconcile.h"

enum { NAMES = 3, PATHS = 3 + 9 + 27, QUEUE = 4096, KIND_NONE = 0 };

struct item {
	unsigned kind, content, mode;
	int64_t mtime;
};

struct model {
	uint64_t rng;
	enum sync_mode mode;
	struct tree *tree;
	struct reconciler r;
	struct item fs[2][PATHS];   /* what is there */
	struct item seen[2][PATHS]; /* what the tree has been told */
	struct item agreed[PATHS];  /* what both had at once, or was decided to */
	struct item stored[PATHS];  /* what a store would have as the base */
	bool pending[2][PATHS];     /* a hash is on its way */
	unsigned busy[PATHS];
	struct action queue[2][QUEUE];
	size_t head[2], tail[2];
	unsigned content;
	int64_t clock;
	bool disturbed; /* since all was quiet: an action may fail */
	bool faults;    /* and is made to, now and then */
	bool deciding;  /* a person has chosen: what loses may go */
	uint64_t seed;
	size_t acts, failed;
};

/* Directory's path is (id - NAMES) / NAMES; the root is none. */
static int parent_of(int id)
{
	return id < NAMES ? -1 : (id - NAMES) / NAMES;
}

static int child_of(int id, int k)
{
	int c = NAMES * (id + 1) + k;
	return c < PATHS ? c : -1;
}

static const char *path_of(int id)
{
	static char path[8][16];
	static unsigned turn;
	char *p = path[turn++ % 8], *end = p + 15;
	*end = '\0';
	for (int i = id; i >= 0; i = parent_of(i)) {
		*--end = (char)('a' + i % NAMES);
		*--end = '/';
	}
	return end + 1;
}

static int id_of(const struct node *n)
{
	int up = n->parent->parent ? id_of(n->parent) : -1;
	return NAMES * (up + 1) + (n->name[0] - 'a');
}

static unsigned roll(struct model *m, unsigned n)
{
	m->rng ^= m->rng << 13;
	m->rng ^= m->rng >> 7;
	m->rng ^= m->rng << 17;
	return (unsigned)(m->rng >> 33) % n;
}

static bool one_in(struct model *m, unsigned n)
{
	return roll(m, n) == 0;
}

static bool is_content(const struct item *i)
{
	return i->kind == SYNC_FILE || i->kind == SYNC_LINK;
}

static bool same_content(const struct item *a, const struct item *b)
{
	return a->kind == b->kind && (!is_content(a) || a->content == b->content);
}

static bool same_item(const struct item *a, const struct item *b)
{
	return same_content(a, b) && a->mode == b->mode && a->mtime == b->mtime;
}

static void digest_of(const struct item *i, uint8_t digest[SYNC_DIGEST])
{
	memset(digest, 0, SYNC_DIGEST);
	memcpy(digest, &i->content, sizeof(i->content));
}

static struct version *version_of(const struct item *i, bool hashed)
{
	uint8_t digest[SYNC_DIGEST];
	char target[16];
	digest_of(i, digest);
	switch (i->kind) {
	case SYNC_DIR:
		return version_dir(i->mode);
	case SYNC_FILE:
		return version_file(i->mode, i->content ? 5 + i->content % 2 : 0, i->mtime,
				    hashed ? digest : NULL);
	case SYNC_LINK:
		snprintf(target, sizeof(target), "%u", i->content);
		return version_link(slice_str(target));
	case SYNC_OTHER:
		return version_other();
	default:
		return NULL;
	}
}

/* To be right, v must be hashed. */
static struct item item_of(const struct version *v)
{
	struct item i = { 0 };
	if (!v)
		return i;
	i.kind = v->kind;
	i.mode = v->mode;
	i.mtime = v->mtime_ns;
	if (v->kind == SYNC_FILE && v->size)
		memcpy(&i.content, v->digest, sizeof(i.content));
	if (v->kind == SYNC_LINK)
		i.content =
		    (unsigned)strtoul((const char *)v + offsetof(struct version, target), NULL, 10);
	return i;
}

static struct node *node_of(struct model *m, int id)
{
	return tree_get(m->tree, slice_str(path_of(id)));
}

#define CHECK(m, cond, id)                                                                         \
	do {                                                                                       \
		if (!(cond))                                                                       \
			complain(m, #cond, id, __LINE__);                                          \
	} while (0)

static void complain(struct model *m, const char *what, int id, int line)
{
	static const char kinds[] = "-dflo";
	for (int i = 0; i < PATHS; i++) {
		struct node *n = tree_find(m->tree, slice_str(path_of(i)));
		const struct item *v[4] = { &m->fs[0][i], &m->fs[1][i], &m->agreed[i],
					    &m->stored[i] };
		if (!v[0]->kind && !v[1]->kind && !n)
			continue;
		print_message("%-6s", path_of(i));
		for (size_t k = 0; k < ARRAY_LEN(v); k++)
			print_message(" %c%u %o %d", kinds[v[k]->kind], v[k]->content, v[k]->mode,
				      (int)v[k]->mtime);
		print_message(" %x\n", n ? n->flags : 0);
	}
	fail_msg("seed %llu, mode %s: line %d: %s at %s", (unsigned long long)m->seed,
		 sync_mode_text(m->mode), line, what, id < 0 ? "-" : path_of(id));
}

static bool is_dir_there(const struct item *fs, int id)
{
	return id < 0 || fs[id].kind == SYNC_DIR;
}

static void remove_all(struct item *fs, int id)
{
	for (int k = 0; k < NAMES; k++)
		if (child_of(id, k) >= 0)
			remove_all(fs, child_of(id, k));
	fs[id] = (struct item){ 0 };
}

static void make_parents(struct item *fs, int id)
{
	int up = parent_of(id);
	if (is_dir_there(fs, up))
		return;
	make_parents(fs, up);
	fs[up] = (struct item){ .kind = SYNC_DIR, .mode = 0755 };
}

static void edit(struct model *m, enum sync_side side)
{
	static const unsigned modes[] = { 0644, 0600, 0755 };
	struct item *fs = m->fs[side];
	int id = (int)roll(m, PATHS), from = (int)roll(m, PATHS);
	unsigned op = roll(m, 20);
	m->disturbed = true;
	if (op < 3) {
		remove_all(fs, id);
		return;
	}
	if (op < 5) {
		if (fs[id].kind == SYNC_FILE || fs[id].kind == SYNC_DIR)
			fs[id].mode = one_in(m, 8) ? 0500 : fs[id].kind == SYNC_DIR ? 0700 : 0640;
		return;
	}
	if (op < 6) {
		if (fs[id].kind == SYNC_FILE)
			fs[id].mtime = ++m->clock;
		return;
	}
	if (op < 7 && is_content(&fs[from]) && from != id) { /* rename */
		struct item moved = fs[from];
		make_parents(fs, id);
		if (fs[from].kind != moved.kind)
			return;
		remove_all(fs, from);
		make_parents(fs, id);
		remove_all(fs, id);
		fs[id] = moved;
		return;
	}
	make_parents(fs, id);
	if (op < 10) {
		if (fs[id].kind != SYNC_DIR)
			fs[id] =
			    (struct item){ .kind = SYNC_DIR, .mode = one_in(m, 8) ? 0555 : 0755 };
		return;
	}
	remove_all(fs, id);
	if (op < 12)
		fs[id] = (struct item){ .kind = SYNC_LINK, .content = roll(m, 4) };
	else if (op < 13)
		fs[id] = (struct item){ .kind = one_in(m, 3) ? SYNC_OTHER : SYNC_FILE };
	else
		fs[id] = (struct item){ .kind = SYNC_FILE,
					.content = one_in(m, 3) ? 1 + roll(m, 6) : ++m->content };
	if (fs[id].kind == SYNC_FILE) {
		fs[id].mode = modes[roll(m, ARRAY_LEN(modes))];
		fs[id].mtime = ++m->clock;
	}
}

static void scan(struct model *m, enum sync_side side)
{
	for (int id = 0; id < PATHS; id++) {
		struct item *now = &m->fs[side][id], *then = &m->seen[side][id];
		if (now->kind == then->kind && same_item(now, then))
			continue;
		*then = *now;
		node_set(m->tree, node_of(m, id), side, version_of(now, one_in(m, 2)));
	}
}

static void fill(struct model *m, struct node *n, enum sync_side side)
{
	struct version *v = n->side[side];
	if (v && v->kind == SYNC_FILE) {
		v->hashed = 1;
		digest_of(&m->seen[side][id_of(n)], v->digest);
	}
}

static void settled(void *arg, struct node *n)
{
	struct model *m = arg;
	int id = id_of(n);
	const struct item *a = &m->seen[SYNC_ALPHA][id], *b = &m->seen[SYNC_BETA][id];
	struct item base;
	for (int side = 0; side < 2; side++)
		if (n->base == n->side[side]) /* a store would get the digest later */
			fill(m, n, (enum sync_side)side);
	base = m->agreed[id] = m->stored[id] = item_of(n->base);
	if ((same_content(a, &base) && same_content(b, &base)) || m->deciding)
		return;
	if (!base.kind && a->kind == SYNC_OTHER && b->kind == SYNC_OTHER)
		return;
	/* Else alpha has won by the mode: it counts as the one that has changed. */
	CHECK(m, m->mode == SYNC_TWO_WAY_RESOLVED && same_content(b, &base), id);
}

static bool hash(void *arg, struct node *n, enum sync_side side)
{
	struct model *m = arg;
	CHECK(m, n->side[side] && n->side[side]->kind == SYNC_FILE && !n->side[side]->hashed,
	      id_of(n));
	if (one_in(m, 3)) {
		m->pending[side][id_of(n)] = true;
		return false;
	}
	fill(m, n, side);
	return true;
}

static void deliver_hashes(struct model *m)
{
	for (int id = 0; id < PATHS; id++)
		for (int side = 0; side < 2; side++)
			if (m->pending[side][id]) {
				fill(m, node_of(m, id), (enum sync_side)side);
				node_mark_dirty(m->tree, node_of(m, id));
				m->pending[side][id] = false;
			}
}

/* By the rules of the mode: may what is there be replaced or removed? */
static void check_loss(struct model *m, enum sync_side side, int id)
{
	const struct item *old = &m->fs[side][id], *alpha = m->fs[SYNC_ALPHA];
	if (!is_content(old) || m->deciding || same_content(old, &m->agreed[id]))
		return;
	CHECK(m, m->mode != SYNC_TWO_WAY_SAFE && m->mode != SYNC_ONE_WAY_SAFE, id);
	CHECK(m, side == SYNC_BETA, id);
	if (m->mode == SYNC_ONE_WAY_REPLICA || m->disturbed)
		return;
	/* Alpha wins, but only if it has changed something: here, below, or above. */
	bool changed = !same_content(&alpha[id], &m->agreed[id]);
	for (int i = parent_of(id); i >= 0 && !changed; i = parent_of(i))
		changed = alpha[i].kind && alpha[i].kind != SYNC_DIR;
	for (int i = id + 1; i < PATHS && !changed; i++)
		for (int up = parent_of(i); up >= 0 && !changed; up = parent_of(up))
			changed = up == id && !same_content(&alpha[i], &m->agreed[i]);
	CHECK(m, changed, id);
}

/* As apply.h compares: not by content. */
static bool is_expected(const struct item *i, const struct version *expect)
{
	struct version *v = version_of(i, false);
	bool yes =
	    (!v && !expect) || (v && expect && v->kind == expect->kind && v->size == expect->size &&
				v->mode == expect->mode && v->mtime_ns == expect->mtime_ns &&
				version_same(v, expect) != 0);
	version_unref(v);
	return yes;
}

/* As the disk would: 0 or -errno. */
static int execute(struct model *m, const struct action *a, int id)
{
	struct item *fs = m->fs[a->side], want;
	if (m->faults && one_in(m, 6)) {
		m->disturbed = true;
		return -EIO;
	}
	if (!is_expected(&fs[id], a->expect))
		return -ESTALE;
	if (!is_dir_there(fs, parent_of(id)))
		return -ENOENT;
	if (a->want && a->want->kind == SYNC_FILE && !a->want->hashed) {
		/* What is read now is sent; a change of mode needs no reading. */
		enum sync_side from = (enum sync_side)(a->act == ACT_META ? a->side : !a->side);
		struct version *v = a->node->side[from];
		if (!v || v->kind != SYNC_FILE || v->size != a->want->size ||
		    (a->act != ACT_META && v->mtime_ns != a->want->mtime_ns))
			return -ESTALE;
		a->want->hashed = 1;
		digest_of(&m->seen[from][id], a->want->digest);
	}
	want = item_of(a->want);
	switch (a->act) {
	case ACT_MKDIR:
		CHECK(m, want.kind == SYNC_DIR, id);
		if (fs[id].kind)
			return -EEXIST;
		break;
	case ACT_PUT:
	case ACT_LINK:
		CHECK(m, want.kind == (a->act == ACT_PUT ? SYNC_FILE : SYNC_LINK), id);
		if (fs[id].kind && !is_content(&fs[id]))
			return -EEXIST;
		check_loss(m, (enum sync_side)a->side, id);
		break;
	case ACT_META:
		if (!same_content(&fs[id], &want))
			return -ESTALE;
		CHECK(m, want.kind == SYNC_FILE || want.kind == SYNC_DIR, id);
		break;
	default:
		CHECK(m, a->act == ACT_REMOVE && !a->want, id);
		CHECK(m, fs[id].kind != SYNC_OTHER, id);
		if (!fs[id].kind)
			return -ENOENT;
		for (int k = 0; k < NAMES; k++)
			if (child_of(id, k) >= 0 && fs[child_of(id, k)].kind)
				return -ENOTEMPTY;
		check_loss(m, (enum sync_side)a->side, id);
		break;
	}
	fs[id] = want;
	return 0;
}

static void run_one(struct model *m, enum sync_side side)
{
	struct action *a = &m->queue[side][m->head[side]++ % QUEUE];
	int id = id_of(a->node), r;
	CHECK(m, side == SYNC_BETA || m->mode <= SYNC_TWO_WAY_RESOLVED || m->deciding, id);
	r = execute(m, a, id);
	m->acts++;
	if (--m->busy[id] == 0)
		a->node->flags &= ~(uint32_t)NODE_BUSY;
	if (r == 0) {
		m->seen[side][id] = m->fs[side][id];
		node_set(m->tree, a->node, side, version_ref(a->want));
		if (a->act == ACT_META) {
			reconcile_meta_done(m->tree, a->node, a->expect, a->want);
			m->stored[id] = item_of(a->node->base);
		} else {
			m->agreed[id] = m->stored[id] = m->fs[side][id];
			node_set_base(m->tree, a->node, version_ref(a->want));
		}
		node_mark_dirty(m->tree, a->node);
	} else {
		m->failed++;
		if (!m->disturbed)
			print_message("action %d on %d: %d\n", a->act, side, r);
		CHECK(m, m->disturbed, id);
		if (m->faults && one_in(m, 4))
			a->node->flags |= NODE_PROBLEM;
		else
			node_mark_dirty(m->tree, a->node);
		if (r == -ESTALE || r == -ENOENT)
			scan(m, side);
	}
	version_unref(a->want);
	version_unref(a->expect);
}

static void decide_all(struct model *m)
{
	struct actions out = { 0 };
	reconcile(&m->r, &out);
	for (size_t i = 0; i < out.n; i++) {
		struct action *a = &out.v[i];
		m->queue[a->side][m->tail[a->side]++ % QUEUE] = *a;
		CHECK(m, m->tail[a->side] - m->head[a->side] < QUEUE, -1);
		a->node->flags |= NODE_BUSY;
		m->busy[id_of(a->node)]++;
	}
	out.n = 0; /* the references went with them */
	actions_end(&out);
}

static bool queued(const struct model *m)
{
	return m->head[0] != m->tail[0] || m->head[1] != m->tail[1];
}

static void drain(struct model *m)
{
	while (queued(m)) {
		enum sync_side side = (enum sync_side)roll(m, 2);
		if (m->head[side] != m->tail[side])
			run_one(m, side);
	}
}

/* Until nothing is left to do: what was in doubt is looked at, and nothing more fails. */
static void converge(struct model *m)
{
	unsigned rounds = 0;
	m->faults = false;
	drain(m);
	deliver_hashes(m);
	scan(m, SYNC_ALPHA);
	scan(m, SYNC_BETA);
	for (struct node *n = tree_root(m->tree); (n = node_next(m->tree, n));)
		if (n->flags & NODE_PROBLEM) {
			n->flags &= ~(uint32_t)NODE_PROBLEM;
			node_mark_dirty(m->tree, n);
		}
	m->disturbed = false;
	for (; tree_dirty(m->tree) || queued(m); rounds++) {
		CHECK(m, rounds < 50, -1);
		decide_all(m);
		if (one_in(m, 2))
			drain(m);
		else if (queued(m))
			for (int i = 0; i < 3; i++)
				if (m->head[i % 2] != m->tail[i % 2])
					run_one(m, (enum sync_side)(i % 2));
		deliver_hashes(m);
	}
}

/* Is the path, or one above it, listed? */
static bool is_listed(struct model *m, int id)
{
	for (int i = id; i >= 0; i = parent_of(i)) {
		struct node *n = tree_find(m->tree, slice_str(path_of(i)));
		if (n && n->flags & NODE_CONFLICT)
			return true;
	}
	return false;
}

static bool beta_only(struct model *m, int id)
{
	return m->mode == SYNC_ONE_WAY_SAFE && !m->fs[SYNC_ALPHA][id].kind;
}

static void check_conflicts(struct model *m)
{
	size_t flagged = 0;
	for (int id = 0; id < PATHS; id++) {
		struct node *n = tree_find(m->tree, slice_str(path_of(id)));
		flagged += n && n->flags & NODE_CONFLICT;
	}
	CHECK(m, flagged == m->r.nconflicts, -1);
	for (size_t i = 0; i < m->r.nconflicts; i++) {
		int id = id_of(m->r.conflicts[i].node), below = 0;
		const struct item *a = &m->fs[0][id], *b = &m->fs[1][id];
		CHECK(m, m->r.conflicts[i].node->flags & NODE_CONFLICT, id);
		CHECK(m, !is_listed(m, parent_of(id)), id);
		if (a->kind && b->kind) {
			CHECK(m, !same_content(a, b), id);
			CHECK(m,
			      m->mode != SYNC_ONE_WAY_REPLICA || a->kind == SYNC_OTHER ||
				  b->kind == SYNC_OTHER || b->kind == SYNC_DIR,
			      id);
			continue;
		}
		/* It holds something that blocks it. */
		CHECK(m, a->kind == SYNC_DIR || b->kind == SYNC_DIR, id);
		for (int k = id + 1; k < PATHS; k++)
			for (int up = parent_of(k); up >= 0; up = parent_of(up))
				below += up == id && m->fs[!a->kind][k].kind == SYNC_OTHER;
		CHECK(m, below > 0, id);
	}
}

static void check_settled(struct model *m)
{
	struct actions out = { 0 };
	size_t nodes = 0;
	check_conflicts(m);
	for (int id = 0; id < PATHS; id++) {
		const struct item *a = &m->fs[0][id], *b = &m->fs[1][id];
		struct node *n = tree_find(m->tree, slice_str(path_of(id)));
		struct item base = item_of(n ? n->base : NULL);
		nodes += n != NULL;
		CHECK(m,
		      !n || !(n->flags & ~(uint32_t)NODE_CONFLICT) || m->mode >= SYNC_ONE_WAY_SAFE,
		      id);
		CHECK(m, !n || n->children || n->base || n->side[0] || n->side[1], id);
		CHECK(m, same_item(&base, &m->stored[id]), id);
		if (is_listed(m, id))
			continue;
		if (a->kind == SYNC_OTHER || b->kind == SYNC_OTHER) {
			CHECK(m, !a->kind || !b->kind || a->kind == b->kind, id);
			continue;
		}
		if (beta_only(m, id))
			continue;
		CHECK(m, same_content(a, b), id);
		if (m->mode == SYNC_ONE_WAY_SAFE && a->kind)
			continue;
		CHECK(m, same_item(a, b), id);
		CHECK(m, same_item(a, &base), id);
		CHECK(m, !a->kind || (n->side[0] == n->side[1] && n->side[0] == n->base), id);
	}
	CHECK(m, nodes == tree_count(m->tree), -1);
	/* And again, with nothing new: nothing. */
	for (struct node *n = tree_root(m->tree); (n = node_next(m->tree, n));)
		node_mark_dirty(m->tree, n);
	reconcile(&m->r, &out);
	CHECK(m, out.n == 0, out.n ? id_of(out.v[0].node) : -1);
	actions_end(&out);
	check_conflicts(m);
}

/* Each conflict is decided at random: what won is on both sides then. */
static void resolve(struct model *m)
{
	struct item won[PATHS] = { 0 };
	bool decided[PATHS] = { false };
	enum sync_side winner[PATHS] = { SYNC_ALPHA };
	m->deciding = true;
	for (int id = 0; id < PATHS; id++) {
		struct node *n = tree_find(m->tree, slice_str(path_of(id)));
		int up = parent_of(id);
		if (n && n->flags & NODE_CONFLICT) {
			winner[id] = (enum sync_side)roll(m, 2);
			decided[id] = reconcile_keep(&m->r, n, winner[id]) == 0;
		} else if (up >= 0 && decided[up]) {
			decided[id] = true;
			winner[id] = winner[up];
		}
		if (decided[id])
			won[id] = m->fs[winner[id]][id];
	}
	converge(m);
	for (int id = 0; id < PATHS; id++) {
		if (!decided[id] || is_listed(m, id) || won[id].kind == SYNC_OTHER)
			continue;
		CHECK(m, same_content(&won[id], &m->fs[!winner[id]][id]), id);
		CHECK(m, same_content(&won[id], &m->fs[winner[id]][id]), id);
	}
	for (size_t i = 0; i < m->r.nconflicts; i++) {
		int id = id_of(m->r.conflicts[i].node), others = 0;
		for (int k = id; k < PATHS; k++)
			others += m->fs[0][k].kind == SYNC_OTHER || m->fs[1][k].kind == SYNC_OTHER;
		CHECK(m, others > 0, id);
	}
	m->deciding = false;
	check_settled(m);
}

static size_t play(uint64_t seed, enum sync_mode mode)
{
	struct model *m = xcalloc(1, sizeof(*m));
	unsigned phases;
	size_t acts;
	m->seed = seed;
	m->rng = seed * 0x9e3779b97f4a7c15 + 1;
	m->mode = mode;
	m->content = 10;
	m->tree = tree_new(1000, NULL, NULL);
	m->r = (struct reconciler){
		.tree = m->tree, .mode = mode, .settled = settled, .hash = hash, .arg = m
	};
	for (int i = 0; i < 3; i++)
		roll(m, 2);
	phases = 1 + roll(m, 3);
	while (phases--) {
		unsigned steps = 1 + roll(m, 12);
		m->faults = one_in(m, 2);
		while (steps--) {
			enum sync_side side = (enum sync_side)roll(m, 2);
			for (unsigned i = roll(m, 8); i; i--)
				edit(m, side);
			if (one_in(m, 2))
				scan(m, side);
			if (one_in(m, 2))
				deliver_hashes(m);
			if (one_in(m, 3))
				decide_all(m);
			for (unsigned i = roll(m, 6); i; i--) {
				side = (enum sync_side)roll(m, 2);
				if (m->head[side] != m->tail[side])
					run_one(m, side);
			}
		}
		converge(m);
		check_settled(m);
	}
	resolve(m);
	acts = m->acts;
	reconciler_end(&m->r);
	tree_free(m->tree);
	free(m);
	return acts;
}

static void all_seeds(void **state)
{
	const char *one = getenv("SEED"), *many = getenv("SEEDS");
	uint64_t first = one ? strtoull(one, NULL, 10) : 1;
	uint64_t n = one ? 1 : many ? strtoull(many, NULL, 10) : 2000;
	size_t acts = 0;
	(void)state;
	for (uint64_t seed = first; seed < first + n; seed++)
		for (int mode = SYNC_TWO_WAY_SAFE; mode <= SYNC_ONE_WAY_REPLICA; mode++)
			acts += play(seed, (enum sync_mode)mode);
	assert_true(one || acts > n);
	print_message("%zu actions\n", acts);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(all_seeds) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
