/* The three-way merge, case by case. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <time.h>

#include "proto/sync/reconcile.h"

/* "d": a directory; "f1": a file of content 1; "l1": a link; "o": a socket; "-": nothing. m or M
 * after it: another mode; t or T: another mtime. */
static struct version *parse(const char *text)
{
	uint8_t digest[SYNC_DIGEST] = { 0 };
	unsigned mode = *text == 'd' ? 0755 : 0644;
	if (strchr(text, 'm'))
		mode = mode == 0644 ? 0600 : 0700;
	if (strchr(text, 'M'))
		mode = 0640;
	switch (*text) {
	case 'd':
		return version_dir(mode);
	case 'f':
		digest[0] = (uint8_t)text[1];
		return version_file(mode, text[1] == '0' ? 0 : 5 + (unsigned)text[1] % 2,
				    strchr(text, 't')   ? 2
				    : strchr(text, 'T') ? 3
							: 1,
				    digest);
	case 'l':
		return version_link(slice_of(text + 1, 1));
	case 'o':
		return version_other();
	default:
		return NULL;
	}
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

/* What becomes of mode and mtime is still open, but the content they have agreed on. */
static void agreeing(void **state)
{
	struct bench b;
	struct node *n;
	(void)state;
	bench_begin(&b, SYNC_TWO_WAY_SAFE);
	set_paths(&b, "p=f1t,f1m,-");
	n = tree_find(b.tree, SLICE("p"));
	assert_string_equal(reconciled(&b), "B meta p 644 2");
	/* That failed, and alpha has put another file there: it is the only one that has. */
	node_set(b.tree, n, SYNC_ALPHA, parse("f2"));
	assert_string_equal(reconciled(&b), "B put p");
	/* Or it did not: alpha's mode, the later time, still. */
	node_set(b.tree, n, SYNC_ALPHA, parse("f1t"));
	assert_string_equal(reconciled(&b), "B meta p 644 2");
	node_set(b.tree, n, SYNC_ALPHA, NULL);
	assert_string_equal(reconciled(&b), "B rm p");
	bench_end(&b);
}

/* Beta's chmod has come to alpha, and beta has taken it back meanwhile: alpha's is not its own. */
static void taken_back(void **state)
{
	struct bench b;
	struct node *n;
	(void)state;
	bench_begin(&b, SYNC_TWO_WAY_SAFE);
	set_paths(&b, "p=d,dm,d q=f1,f1mt,f1");
	reconcile(&b.r, &b.out);
	assert_int_equal(b.out.n, 2);
	for (size_t i = 0; i < b.out.n; i++) {
		struct action *a = &b.out.v[i];
		assert_true(a->act == ACT_META && a->side == SYNC_ALPHA);
		node_set(b.tree, a->node, SYNC_ALPHA, version_ref(a->want));
		reconcile_meta_done(b.tree, a->node, a->expect, a->want);
		node_set(b.tree, a->node, SYNC_BETA,
			 parse(a->want->kind == SYNC_DIR ? "d" : "f1t"));
	}
	actions_end(&b.out);
	assert_string_equal(reconciled(&b), "A meta p 755 0, A meta q 644 2");
	/* Of two changes, each to the other: what one has from the other is agreed on, no more. */
	n = tree_get(b.tree, SLICE("r"));
	set_paths(&b, "p=-,-,- q=-,-,- r=f1m,f1t,f1");
	reconcile(&b.r, &b.out);
	assert_int_equal(b.out.n, 2);
	assert_int_equal(b.out.v[0].side, SYNC_ALPHA);
	node_set(b.tree, n, SYNC_ALPHA, version_ref(b.out.v[0].want));
	reconcile_meta_done(b.tree, n, b.out.v[0].expect, b.out.v[0].want);
	actions_end(&b.out);
	assert_int_equal(n->base->mode, 0644);
	assert_int_equal(n->base->mtime_ns, 2);
	assert_string_equal(reconciled(&b), "B meta r 600 2");
	bench_end(&b);
}

/* A node that is held is marked by who holds it, and looked at no more before that. */
static void held(void **state)
{
	struct bench b;
	struct node *n;
	(void)state;
	bench_begin(&b, SYNC_TWO_WAY_SAFE);
	set_paths(&b, "d=d,d,d d/p=-,f1,f1 d/q=-,f1,f1");
	n = tree_find(b.tree, SLICE("d/p"));
	n->flags |= NODE_BUSY;
	tree_find(b.tree, SLICE("d/q"))->flags |= NODE_BUSY | NODE_HELD;
	assert_string_equal(reconciled(&b), "");
	assert_int_equal(tree_dirty(b.tree), 1);
	assert_true(n->flags & NODE_DIRTY);
	n = tree_find(b.tree, SLICE("d/q"));
	n->flags &= ~(uint32_t)(NODE_BUSY | NODE_HELD);
	node_mark_dirty(b.tree, n);
	assert_string_equal(reconciled(&b), "B rm d/q");
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
		cmocka_unit_test(cases),    cmocka_unit_test(modes),      cmocka_unit_test(busy),
		cmocka_unit_test(covering), cmocka_unit_test(read_only),  cmocka_unit_test(digests),
		cmocka_unit_test(agreeing), cmocka_unit_test(taken_back), cmocka_unit_test(held),
		cmocka_unit_test(keeping),  cmocka_unit_test(halting),    cmocka_unit_test(cost),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
