/* The three-way merge: cases of the table one by one, then against a model: two small file systems
 * that a seeded generator edits, and that carry out what reconcile asks for, or fail to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <time.h>

#include "proto/sync/reconcile.h"

/* -- the model -- */

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
		if (a->act != ACT_META) {
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

static void model(void **state)
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

/* -- the table, case by case -- */

/* "d": a directory; "f1": a file of content 1; "l1": a link; "o": a socket; "-": nothing. m after
 * it: another mode; t: another mtime. */
static struct version *parse(const char *text)
{
	struct item i = { .kind = *text == 'd'   ? SYNC_DIR
				  : *text == 'f' ? SYNC_FILE
				  : *text == 'l' ? SYNC_LINK
				  : *text == 'o' ? SYNC_OTHER
						 : KIND_NONE };
	i.mode = i.kind == SYNC_DIR ? 0755 : i.kind == SYNC_FILE ? 0644 : 0;
	i.content = is_content(&i) ? (unsigned)text[1] - '0' : 0;
	i.mtime = i.kind == SYNC_FILE ? 1 : 0;
	if (strchr(text, 'm'))
		i.mode = i.mode == 0644 ? 0600 : 0700;
	if (strchr(text, 'M'))
		i.mode = 0640;
	if (strchr(text, 't'))
		i.mtime = 2;
	if (strchr(text, 'T'))
		i.mtime = 3;
	return version_of(&i, true);
}

struct bench {
	struct tree *tree;
	struct reconciler r;
	struct actions out;
	char text[400];
};

static void bench_begin(struct bench *b, enum sync_mode mode)
{
	memset(b, 0, sizeof(*b));
	b->tree = tree_new(SYNC_ENTRIES_MAX, NULL, NULL);
	b->r = (struct reconciler){ .tree = b->tree, .mode = mode };
}

static void bench_end(struct bench *b)
{
	reconciler_end(&b->r);
	tree_free(b->tree);
}

/* "a=f1,f2,f1 a/b=...": path = alpha, beta, base. Equal ones share a version. */
static void set_paths(struct bench *b, const char *paths)
{
	char *copy = xstrdup(paths), *save, *at;
	for (char *word = strtok_r(copy, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
		char *v[3], *eq = strchr(word, '=');
		struct version *made[3];
		*eq = '\0';
		v[0] = strtok_r(eq + 1, ",", &at);
		v[1] = strtok_r(NULL, ",", &at);
		v[2] = strtok_r(NULL, ",", &at);
		struct node *n = tree_get(b->tree, slice_str(word));
		for (int i = 0; i < 3; i++) {
			made[i] = parse(v[i]);
			for (int k = 0; k < i; k++)
				if (version_identical(made[k], made[i])) {
					version_unref(made[i]);
					made[i] = version_ref(made[k]);
				}
		}
		node_set(b->tree, n, SYNC_ALPHA, made[0]);
		node_set(b->tree, n, SYNC_BETA, made[1]);
		node_set_base(b->tree, n, made[2]);
		node_mark_dirty(b->tree, n);
	}
	free(copy);
}

/* What is asked for, in words: "beta put a f1", and conflicts: "! a". */
static const char *reconciled(struct bench *b)
{
	static const char *const act[] = { "?", "mkdir", "put", "link", "meta", "rm" };
	char *p = b->text, *end = b->text + sizeof(b->text), path[SYNC_PATH_MAX + 1];
	reconcile(&b->r, &b->out);
	*p = '\0';
	for (size_t i = 0; i < b->out.n; i++) {
		struct action *a = &b->out.v[i];
		node_path(a->node, path, sizeof(path));
		p += snprintf(p, (size_t)(end - p), "%s%c %s %s", i ? ", " : "",
			      a->side == SYNC_ALPHA ? 'A' : 'B', act[a->act], path);
		if (a->act == ACT_META)
			p += snprintf(p, (size_t)(end - p), " %o %d", a->want->mode,
				      (int)a->want->mtime_ns);
	}
	for (size_t i = 0; i < b->r.nconflicts; i++) {
		node_path(b->r.conflicts[i].node, path, sizeof(path));
		p += snprintf(p, (size_t)(end - p), "%s! %s", p == b->text ? "" : ", ", path);
	}
	actions_end(&b->out);
	return b->text;
}

static void cases(void **state)
{
	/* Alpha, beta, base; then two-way-safe, two-way-resolved, one-way-safe, one-way-replica. */
	static const char *const table[][5] = {
		{ "p=f1,f1,f2", "", "", "", "" },
		{ "p=f1,f1,-", "", "", "", "" },
		{ "p=-,-,f1", "", "", "", "" },
		{ "p=f2,f1,f1", "B put p", "B put p", "B put p", "B put p" },
		{ "p=f2,-,-", "B put p", "B put p", "B put p", "B put p" },
		{ "p=l2,f1,f1", "B link p", "B link p", "B link p", "B link p" },
		{ "p=-,f1,f1", "B rm p", "B rm p", "B rm p", "B rm p" },
		{ "p=f1,f2,f1", "A put p", "A put p", "! p", "B put p" },
		{ "p=-,f2,-", "A put p", "A put p", "", "B rm p" },
		{ "p=f1,-,f1", "A rm p", "A rm p", "B put p", "B put p" },
		{ "p=-,f2,f1", "A put p", "B rm p", "", "B rm p" },
		{ "p=f2,-,f1", "B put p", "B put p", "B put p", "B put p" },
		{ "p=f2,f3,f1", "! p", "B put p", "! p", "B put p" },
		{ "p=f2,f3,-", "! p", "B put p", "! p", "B put p" },
		{ "p=l2,f3,-", "! p", "B link p", "! p", "B link p" },
		{ "p=o,f1,f1", "! p", "! p", "! p", "! p" },
		{ "p=f2,o,f1", "! p", "! p", "! p", "! p" },
		{ "p=o,-,f1", "", "", "", "" },
		{ "p=o,o,f1", "", "", "", "" },
		{ "p=-,o,-", "", "", "", "" },
		/* Mode and mtime. */
		{ "p=f1m,f1,f1", "B meta p 600 1", "B meta p 600 1", "B meta p 600 1",
		  "B meta p 600 1" },
		{ "p=f1,f1m,f1", "A meta p 600 1", "A meta p 600 1", "", "B meta p 644 1" },
		{ "p=f1m,f1t,f1", "A meta p 600 2, B meta p 600 2",
		  "A meta p 600 2, B meta p 600 2", "B meta p 600 1", "B meta p 600 1" },
		{ "p=f1mT,f1Mt,f1", "B meta p 600 3", "B meta p 600 3", "B meta p 600 3",
		  "B meta p 600 3" },
		{ "p=f1mt,f1MT,f1", "A meta p 600 3, B meta p 600 3",
		  "A meta p 600 3, B meta p 600 3", "B meta p 600 2", "B meta p 600 2" },
		{ "p=f1,f1t,-", "A meta p 644 2", "A meta p 644 2", "B meta p 644 1",
		  "B meta p 644 1" },
		{ "p=dm,d,d", "B meta p 700 0", "B meta p 700 0", "B meta p 700 0",
		  "B meta p 700 0" },
		{ "p=f2,f1m,f1", "B put p, A meta p 600 1", "B put p, A meta p 600 1", "B put p",
		  "B put p" },
		/* Directories. */
		{ "p=d,d,- p/a=f1,-,- p/b=-,f2,-", "B put p/a, A put p/b", "B put p/a, A put p/b",
		  "B put p/a", "B put p/a, B rm p/b" },
		{ "p=d,-,- p/a=d,-,- p/a/f=f1,-,-", "B mkdir p, B mkdir p/a, B put p/a/f",
		  "B mkdir p, B mkdir p/a, B put p/a/f", "B mkdir p, B mkdir p/a, B put p/a/f",
		  "B mkdir p, B mkdir p/a, B put p/a/f" },
		{ "p=d,-,d p/a=d,-,d p/a/f=f1,-,f1", "A rm p/a/f, A rm p/a, A rm p",
		  "A rm p/a/f, A rm p/a, A rm p", "B mkdir p, B mkdir p/a, B put p/a/f",
		  "B mkdir p, B mkdir p/a, B put p/a/f" },
		{ "p=-,d,d p/a=-,d,d p/a/f=-,f2,f1", "A mkdir p, A mkdir p/a, A put p/a/f",
		  "B rm p/a/f, B rm p/a, B rm p", "", "B rm p/a/f, B rm p/a, B rm p" },
		{ "p=-,d,d p/a=-,d,d p/n=-,f1,-", "A mkdir p, A put p/n, B rm p/a",
		  "A mkdir p, A put p/n, B rm p/a", "B rm p/a", "B rm p/n, B rm p/a, B rm p" },
		{ "p=d,-,d p/s=o,-,-", "! p", "! p", "B mkdir p", "B mkdir p" },
		{ "p=-,d,d p/a=-,d,d p/a/s=-,o,-", "! p", "! p", "! p", "! p" },
		/* A directory against a file. */
		{ "p=f1,d,d p/a=-,f1,f1", "B rm p/a, B rm p, B put p", "B rm p/a, B rm p, B put p",
		  "B rm p/a, B rm p, B put p", "B rm p/a, B rm p, B put p" },
		{ "p=f1,d,d p/a=-,f2,f1", "! p", "B rm p/a, B rm p, B put p", "! p",
		  "B rm p/a, B rm p, B put p" },
		{ "p=f1,d,d p/a=-,f2,-", "! p", "B rm p/a, B rm p, B put p", "! p",
		  "B rm p/a, B rm p, B put p" },
		{ "p=f1,d,d p/a=-,o,-", "! p", "! p", "! p", "! p" },
		{ "p=d,f1,d p/a=f1,-,f1", "A rm p/a, A rm p, A put p", "A rm p/a, A rm p, A put p",
		  "! p", "B rm p, B mkdir p, B put p/a" },
		{ "p=d,f1,d p/a=f2,-,f1 p/b=f1,-,f1", "! p",
		  "B rm p, B mkdir p, B put p/b, B put p/a", "! p",
		  "B rm p, B mkdir p, B put p/b, B put p/a" },
		{ "p=d,f1,f1 p/a=l1,-,-", "B rm p, B mkdir p, B link p/a",
		  "B rm p, B mkdir p, B link p/a", "B rm p, B mkdir p, B link p/a",
		  "B rm p, B mkdir p, B link p/a" },
		{ "p=f1,d,f1 p/a=-,l1,-", "A rm p, A mkdir p, A link p/a",
		  "A rm p, A mkdir p, A link p/a", "! p", "B rm p/a, B rm p, B put p" },
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(table); i++)
		for (int mode = SYNC_TWO_WAY_SAFE; mode <= SYNC_ONE_WAY_REPLICA; mode++) {
			struct bench b;
			bench_begin(&b, (enum sync_mode)mode);
			set_paths(&b, table[i][0]);
			const char *got = reconciled(&b);
			if (strcmp(got, table[i][mode]) != 0)
				fail_msg("%s, %s: \"%s\", not \"%s\"", table[i][0],
					 sync_mode_text((enum sync_mode)mode), got, table[i][mode]);
			assert_int_equal(tree_dirty(b.tree), 0);
			bench_end(&b);
		}
}

static void modes(void **state)
{
	(void)state;
	for (int mode = SYNC_TWO_WAY_SAFE; mode <= SYNC_ONE_WAY_REPLICA; mode++)
		assert_int_equal(sync_mode_parse(slice_str(sync_mode_text((enum sync_mode)mode))),
				 mode);
	assert_int_equal(sync_mode_parse(SLICE("two-way")), 0);
	assert_int_equal(sync_mode_parse(SLICE("")), 0);
}

/* What is busy waits, and what hangs on it; what is created below a directory under way does not.
 */
static void busy(void **state)
{
	struct bench b;
	struct node *n;
	(void)state;
	bench_begin(&b, SYNC_TWO_WAY_SAFE);
	set_paths(&b, "p=d,-,d p/a=f1,-,f1 p/b=f1,-,f1");
	n = tree_find(b.tree, SLICE("p/a"));
	n->flags |= NODE_BUSY;
	assert_string_equal(reconciled(&b), "A rm p/b");
	assert_int_equal(tree_dirty(b.tree), 1);
	assert_string_equal(reconciled(&b), "");
	n->flags &= ~(uint32_t)NODE_BUSY;
	set_paths(&b, "p/b=-,-,-");
	assert_string_equal(reconciled(&b), "A rm p/a, A rm p");
	bench_end(&b);

	bench_begin(&b, SYNC_TWO_WAY_SAFE);
	set_paths(&b, "p=d,-,-");
	assert_string_equal(reconciled(&b), "B mkdir p");
	tree_find(b.tree, SLICE("p"))->flags |= NODE_BUSY;
	set_paths(&b, "p/a=d,-,- p/a/b=f1,-,-");
	assert_string_equal(reconciled(&b), "B mkdir p/a, B put p/a/b");
	bench_end(&b);

	/* A removal under way is another thing. */
	bench_begin(&b, SYNC_TWO_WAY_SAFE);
	set_paths(&b, "p=d,-,d");
	assert_string_equal(reconciled(&b), "A rm p");
	n = tree_find(b.tree, SLICE("p"));
	n->flags |= NODE_BUSY;
	set_paths(&b, "p/a=f1,-,-");
	assert_string_equal(reconciled(&b), "");
	n->flags &= ~(uint32_t)NODE_BUSY;
	node_mark_dirty(b.tree, n);
	assert_string_equal(reconciled(&b), "B mkdir p, B put p/a");
	bench_end(&b);

	/* A problem is left alone until it is dirty. */
	bench_begin(&b, SYNC_TWO_WAY_SAFE);
	set_paths(&b, "p=d,-,d p/a=f1,-,f1");
	n = tree_find(b.tree, SLICE("p/a"));
	while (tree_pop_dirty(b.tree)) {
	}
	n->flags |= NODE_PROBLEM;
	node_mark_dirty(b.tree, n->parent);
	assert_string_equal(reconciled(&b), "! p");
	node_mark_dirty(b.tree, n);
	assert_string_equal(reconciled(&b), "A rm p/a, A rm p");
	bench_end(&b);
}

static bool no_hash(void *arg, struct node *n, enum sync_side side)
{
	unsigned *asked = arg;
	(void)n;
	*asked |= 1U << side;
	return false;
}

/* Which digests a decision hangs on: of alpha 1, of beta 2. */
static void digests(void **state)
{
	/* Contents of one size; + has a digest, = is the base itself. */
	static const struct {
		const char *a, *b, *base;
		enum sync_mode mode;
		unsigned asked;
		const char *got;
	} table[] = {
		/* Of the base it will never be known: it differs. */
		{ "f3+", "-", "f1", SYNC_TWO_WAY_SAFE, 0, "B put p" },
		{ "-", "f3+", "f1", SYNC_TWO_WAY_SAFE, 0, "A put p" },
		{ "f3+", "f5+", "f1", SYNC_TWO_WAY_SAFE, 0, "! p" },
		{ "f1", "-", "-", SYNC_TWO_WAY_SAFE, 0, "B put p" },
		{ "f1", "f3", "-", SYNC_TWO_WAY_SAFE, 3, "" },
		{ "f1+", "f3", "-", SYNC_TWO_WAY_SAFE, 2, "" },
		{ "f1", "f2", "-", SYNC_TWO_WAY_SAFE, 0, "! p" },
		{ "=", "f3", "f1+", SYNC_TWO_WAY_SAFE, 2, "" },
		{ "f3", "=", "f1+", SYNC_TWO_WAY_SAFE, 1, "" },
		{ "f2", "=", "f1+", SYNC_TWO_WAY_SAFE, 0, "B put p" },
		{ "f2", "f4", "f1+", SYNC_TWO_WAY_SAFE, 3, "" },
		{ "f3", "-", "f1+", SYNC_TWO_WAY_SAFE, 1, "" },
		{ "f3", "-", "f1+", SYNC_ONE_WAY_REPLICA, 0, "B put p" },
		{ "-", "f3", "f1+", SYNC_TWO_WAY_RESOLVED, 0, "B rm p" },
		{ "-", "f3", "f1+", SYNC_TWO_WAY_SAFE, 2, "" },
		{ "f3", "l1", "f1+", SYNC_TWO_WAY_SAFE, 1, "" },
		{ "f3", "l1", "f1+", SYNC_TWO_WAY_RESOLVED, 1, "" },
		{ "f3", "l1", "f1+", SYNC_ONE_WAY_REPLICA, 0, "B put p" },
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		const char *text[3] = { table[i].a, table[i].b, table[i].base };
		struct version *v[3];
		struct bench b;
		unsigned asked = 0;
		bench_begin(&b, table[i].mode);
		b.r.hash = no_hash;
		b.r.arg = &asked;
		for (int k = 2; k >= 0; k--) {
			v[k] = *text[k] == '=' ? version_ref(v[2]) : parse(text[k]);
			if (v[k] && v[k]->kind == SYNC_FILE && *text[k] != '=')
				v[k]->hashed = strchr(text[k], '+') != NULL;
		}
		struct node *n = tree_get(b.tree, SLICE("p"));
		node_set(b.tree, n, SYNC_ALPHA, v[0]);
		node_set(b.tree, n, SYNC_BETA, v[1]);
		node_set_base(b.tree, n, v[2]);
		const char *got = reconciled(&b);
		if (asked != table[i].asked || strcmp(table[i].got, got) != 0)
			fail_msg("%s %s %s, %s: asked %u, \"%s\"", text[0], text[1], text[2],
				 sync_mode_text(table[i].mode), asked, got);
		bench_end(&b);
	}
}

static void keeping(void **state)
{
	struct bench b;
	(void)state;
	for (int mode = SYNC_TWO_WAY_SAFE; mode <= SYNC_ONE_WAY_SAFE; mode += 2) {
		for (int winner = 0; winner < 2; winner++) {
			bench_begin(&b, (enum sync_mode)mode);
			set_paths(&b, "p=d,d,d p/a=f1,f2,- p/s=o,f1,- q=f1,f2,-");
			reconciled(&b);
			assert_int_equal(b.r.nconflicts, 3);
			assert_int_equal(reconcile_keep(&b.r, tree_find(b.tree, SLICE("p")),
							(enum sync_side)winner),
					 0);
			reconciled(&b);
			b.text[strlen(winner ? "A put p/a" : "B put p/a")] = '\0';
			assert_string_equal(b.text, winner ? "A put p/a" : "B put p/a");
			assert_int_equal(b.r.nconflicts, 2);
			assert_int_equal(reconcile_keep(&b.r, tree_find(b.tree, SLICE("p/s")),
							(enum sync_side)winner),
					 -EOPNOTSUPP);
			assert_int_equal(reconcile_keep(&b.r, tree_find(b.tree, SLICE("p/a")),
							(enum sync_side)winner),
					 -ENOENT);
			bench_end(&b);
		}
	}
}

/* What is listed by itself is not, when something above is. */
static void covering(void **state)
{
	struct bench b;
	(void)state;
	bench_begin(&b, SYNC_TWO_WAY_SAFE);
	set_paths(&b, "p=d,d,d p/a=-,d,d p/a/s=-,o,-");
	assert_string_equal(reconciled(&b), "! p/a");
	set_paths(&b, "p=o,d,d");
	assert_string_equal(reconciled(&b), "! p");
	set_paths(&b, "p=d,d,d");
	assert_string_equal(reconciled(&b), "! p/a");
	set_paths(&b, "p=f1,d,d");
	assert_string_equal(reconciled(&b), "! p");
	set_paths(&b, "p=-,d,d");
	assert_string_equal(reconciled(&b), "! p");
	set_paths(&b, "p/a/s=-,-,-");
	assert_string_equal(reconciled(&b), "B rm p/a, B rm p");
	bench_end(&b);
}

/* A directory that its owner cannot write to gets its mode when it is filled. */
static void read_only(void **state)
{
	struct bench b;
	struct node *n;
	(void)state;
	bench_begin(&b, SYNC_ONE_WAY_REPLICA);
	n = tree_get(b.tree, SLICE("p"));
	node_set(b.tree, n, SYNC_ALPHA, version_dir(0555));
	node_set(b.tree, tree_get(b.tree, SLICE("p/a")), SYNC_ALPHA, parse("f1"));
	reconcile(&b.r, &b.out);
	assert_int_equal(b.out.n, 2);
	assert_int_equal(b.out.v[0].want->mode, 0755);
	node_set(b.tree, n, SYNC_BETA, version_ref(b.out.v[0].want));
	node_set_base(b.tree, n, version_ref(b.out.v[0].want));
	actions_end(&b.out);
	assert_string_equal(reconciled(&b), "B put p/a, B meta p 555 0");
	bench_end(&b);
}

static void halting(void **state)
{
	struct bench b;
	(void)state;
	bench_begin(&b, SYNC_TWO_WAY_SAFE);
	set_paths(&b, "a=f1,-,- b=f1,-,-");
	assert_null(reconcile_halt(b.tree, SYNC_TWO_WAY_SAFE)); /* the first time */
	set_paths(&b, "a=f1,-,f1");
	assert_null(reconcile_halt(b.tree, SYNC_TWO_WAY_SAFE)); /* the base has one */
	set_paths(&b, "b=f1,-,f1");
	assert_non_null(strstr(reconcile_halt(b.tree, SYNC_TWO_WAY_SAFE), "beta is gone"));
	assert_null(reconcile_halt(b.tree, SYNC_ONE_WAY_REPLICA)); /* alpha's comes back */
	set_paths(&b, "a=f1,f1,f1");
	assert_null(reconcile_halt(b.tree, SYNC_TWO_WAY_SAFE));
	set_paths(&b, "a=-,f1,f1 b=-,-,f1");
	assert_non_null(strstr(reconcile_halt(b.tree, SYNC_ONE_WAY_SAFE), "alpha is gone"));
	set_paths(&b, "a=-,-,f1");
	assert_null(reconcile_halt(b.tree, SYNC_TWO_WAY_SAFE));
	bench_end(&b);
}

static double cpu_ms(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

/* The cost of a change is the change's, whatever else there is. */
static void cost(void **state)
{
	enum { MANY = 200000, EDITS = 1000 };
	struct bench b;
	char name[64];
	double start, all, settled_ms, one;
	(void)state;
	bench_begin(&b, SYNC_TWO_WAY_SAFE);
	for (unsigned i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "d%u", i / 500);
		if (i % 500 == 0)
			node_set(b.tree, tree_get(b.tree, slice_str(name)), SYNC_ALPHA,
				 version_dir(0755));
		snprintf(name, sizeof(name), "d%u/file-%u", i / 500, i);
		node_set(b.tree, tree_get(b.tree, slice_str(name)), SYNC_ALPHA,
			 version_file(0644, i, 1, NULL));
	}
	start = cpu_ms();
	reconcile(&b.r, &b.out);
	all = cpu_ms() - start;
	assert_int_equal(b.out.n, MANY + MANY / 500);
	for (size_t i = 0; i < b.out.n; i++) {
		node_set(b.tree, b.out.v[i].node, SYNC_BETA, version_ref(b.out.v[i].want));
		node_set_base(b.tree, b.out.v[i].node, version_ref(b.out.v[i].want));
	}
	actions_end(&b.out);
	start = cpu_ms();
	reconcile(&b.r, &b.out);
	settled_ms = cpu_ms() - start;
	assert_int_equal(b.out.n, 0);
	start = cpu_ms();
	for (unsigned i = 0; i < EDITS; i++) {
		snprintf(name, sizeof(name), "d%u/file-%u", i * 199 / 500, i * 199);
		node_set(b.tree, tree_find(b.tree, slice_str(name)), SYNC_ALPHA,
			 version_file(0644, MANY + i, 2, NULL));
		reconcile(&b.r, &b.out);
		assert_int_equal(b.out.n, i + 1);
	}
	one = (cpu_ms() - start) / EDITS;
	actions_end(&b.out);
	print_message("%d new: %.0f ms, settled: %.0f ms; one of them: %.1f us\n", MANY, all,
		      settled_ms, one * 1000);
	assert_true(one < 0.2); /* a walk through all would be 2 */
	bench_end(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cases),    cmocka_unit_test(modes),     cmocka_unit_test(busy),
		cmocka_unit_test(covering), cmocka_unit_test(read_only), cmocka_unit_test(digests),
		cmocka_unit_test(keeping),  cmocka_unit_test(halting),   cmocka_unit_test(cost),
		cmocka_unit_test(model),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
