/* The tree of a sync: names, shared versions, the dirty queue, and what an entry costs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <malloc.h>

#include "proto/sync/slab.h"
#include "proto/sync/tree.h"

/* The promise of issue 4: bytes of a settled entry with a name of 12. */
enum { ENTRY_MAX = 180, MANY = 200000 };

#ifdef __SANITIZE_ADDRESS__
static const bool counted = false; /* its allocator does not count like malloc */
#else
static const bool counted = true;
#endif

static const uint8_t one[SYNC_DIGEST] = { 1 }, two[SYNC_DIGEST] = { 2 };

static struct version *file(uint64_t size, const uint8_t *digest)
{
	return version_file(0644, size, 1, digest);
}

/* Compares, and releases both. */
static int same(struct version *a, struct version *b)
{
	int r = version_same(a, b), back = version_same(b, a);
	assert_int_equal(r, back);
	version_unref(a);
	version_unref(b);
	return r;
}

static void versions(void **state)
{
	char path[300];
	struct version *v;
	(void)state;
	memset(path, 'x', sizeof(path));
	assert_int_equal(same(NULL, NULL), 1);
	assert_int_equal(same(NULL, version_other()), 0);
	assert_int_equal(same(version_dir(0755), version_dir(0700)), 1);
	assert_int_equal(same(version_dir(0755), file(0, NULL)), 0);
	assert_int_equal(same(file(0, NULL), file(0, one)), 1);
	assert_int_equal(same(file(3, NULL), file(4, one)), 0);
	assert_int_equal(same(file(3, NULL), file(3, one)), -1);
	assert_int_equal(same(file(3, one), file(3, one)), 1);
	assert_int_equal(same(file(3, one), file(3, two)), 0);
	assert_int_equal(same(version_link(SLICE("a")), version_link(SLICE("a"))), 1);
	assert_int_equal(same(version_link(SLICE("a")), version_link(SLICE("b"))), 0);
	assert_int_equal(same(version_link(slice_of(path, 300)), version_link(slice_of(path, 300))),
			 1);
	assert_int_equal(same(version_link(slice_of(path, 300)), version_link(slice_of(path, 299))),
			 0);
	v = file(3, NULL);
	assert_int_equal(version_same(v, v), 1);
	v->hashed = 1;
	memcpy(v->digest, two, SYNC_DIGEST);
	assert_int_equal(same(version_ref(v), file(3, two)), 1);
	version_unref(v);
	v = version_file(0755, 3, 1, one);
	struct version *w = file(3, NULL);
	assert_int_equal(version_same(v, w), -1);
	assert_int_equal(version_equal(v, w), 0);
	version_unref(v);
	version_unref(w);
	v = version_dir(07755);
	assert_int_equal(v->mode, 0755);
	version_unref(v);
}

static void assert_path(struct node *n, const char *want)
{
	char path[SYNC_PATH_MAX + 1];
	assert_int_equal(node_path(n, path, sizeof(path)), strlen(want));
	assert_string_equal(path, want);
	assert_int_equal(node_path(n, path, strlen(want)), -ENAMETOOLONG);
}

static void names(void **state)
{
	static const char *const bad[] = { "/",   "/a",   "a/",  "a//b", ".",     "..",
					   "a/.", "a/..", "./a", "../a", "a/../b" };
	struct tree *t = tree_new(5, NULL, NULL);
	struct node *n = tree_get(t, SLICE("a/b/c"));
	char name[300];
	(void)state;
	assert_non_null(n);
	assert_int_equal(tree_count(t), 3);
	assert_path(n, "a/b/c");
	assert_path(tree_root(t), "");
	assert_ptr_equal(tree_find(t, SLICE("")), tree_root(t));
	assert_ptr_equal(tree_find(t, SLICE("a/b/c")), n);
	assert_ptr_equal(tree_find(t, SLICE("a/b")), n->parent);
	assert_ptr_equal(tree_get(t, SLICE("a/b")), n->parent);
	assert_null(tree_find(t, SLICE("a/c")));
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		assert_null(tree_get(t, slice_str(bad[i])));
		assert_null(tree_find(t, slice_str(bad[i])));
	}
	assert_null(tree_get(t, slice_of("a\0b", 3)));
	memset(name, 'n', sizeof(name));
	assert_null(node_child(t, tree_root(t), slice_of(name, 256)));
	assert_null(node_child_get(t, tree_root(t), slice_of(name, 256)));
	assert_non_null(node_child_get(t, tree_root(t), slice_of(name, 255)));
	assert_int_equal(tree_find(t, slice_of(name, 255))->namelen, 255);
	/* One is left; a path that needs two leaves nothing behind. */
	assert_null(tree_get(t, SLICE("x/y")));
	assert_int_equal(tree_count(t), 4);
	assert_non_null(tree_get(t, SLICE("x")));
	assert_null(tree_get(t, SLICE("y")));
	tree_free(t);
}

/* Links that lead nowhere, 4 KB each: they count for what they are. */
static void full_of_links(void **state)
{
	enum { MAX = 20000 };
	static char target[4000];
	struct tree *t = tree_new(MAX, NULL, NULL);
	char name[24];
	size_t n = 0;
	(void)state;
	memset(target, 'x', sizeof(target));
	for (; n < MAX; n++) {
		snprintf(name, sizeof(name), "l%zu", n);
		struct node *l = tree_get(t, slice_str(name));
		if (!l)
			break;
		node_set(t, l, SYNC_BETA, version_link(slice_of(target, sizeof(target))));
	}
	assert_true(tree_full(t));
	assert_in_range(n, MAX / 20, MAX / 8);
	assert_true(tree_bytes(t) < (size_t)MAX * 320 + (1 << 20) + 8192);
	tree_free(t);
}

static void count_forgotten(void *arg, struct node *n)
{
	(void)n;
	++*(size_t *)arg;
}

static void pruning(void **state)
{
	size_t forgotten = 0;
	struct tree *t = tree_new(100, count_forgotten, &forgotten);
	struct node *n = tree_get(t, SLICE("a/b/c")), *b = n->parent;
	struct node *kept = tree_get(t, SLICE("a/k"));
	(void)state;
	node_set(t, n, SYNC_BETA, version_dir(0755));
	node_prune(t, n);
	assert_int_equal(tree_count(t), 4);
	node_set(t, n, SYNC_BETA, NULL);
	node_prune(t, n); /* still dirty */
	assert_int_equal(tree_count(t), 4);
	assert_ptr_equal(tree_pop_dirty(t), n);
	for (uint32_t flag = NODE_BUSY; flag <= NODE_PROBLEM; flag <<= 1) {
		n->flags = flag;
		node_prune(t, n);
		assert_int_equal(tree_count(t), 4);
	}
	n->flags = 0;
	node_set_base(t, b, version_dir(0755));
	node_prune(t, n);
	assert_int_equal(forgotten, 1);
	assert_null(tree_find(t, SLICE("a/b/c")));
	assert_ptr_equal(tree_find(t, SLICE("a/b")), b);
	node_set_base(t, b, NULL);
	node_prune(t, b);
	assert_int_equal(tree_count(t), 2);
	node_prune(t, kept);
	assert_int_equal(tree_count(t), 0);
	assert_int_equal(forgotten, 4);
	node_prune(t, tree_root(t));
	tree_free(t);
	assert_int_equal(forgotten, 5);
}

static void dirty(void **state)
{
	struct tree *t = tree_new(1000, NULL, NULL);
	char name[24];
	(void)state;
	struct node *n = tree_get(t, SLICE("a"));
	node_set(t, n, SYNC_ALPHA, file(3, one));
	assert_int_equal(tree_dirty(t), 1);
	assert_ptr_equal(tree_pop_dirty(t), n);
	assert_null(tree_pop_dirty(t));
	node_set(t, n, SYNC_ALPHA, file(3, one));
	assert_int_equal(tree_dirty(t), 0);
	node_set(t, n, SYNC_ALPHA, version_file(0644, 3, 2, one));
	assert_int_equal(tree_dirty(t), 1);
	node_set(t, n, SYNC_ALPHA, version_file(0600, 3, 2, one));
	node_set(t, n, SYNC_ALPHA, file(3, NULL));
	assert_int_equal(tree_dirty(t), 1);
	tree_pop_dirty(t);
	node_set_base(t, n, file(3, one));
	assert_int_equal(tree_dirty(t), 0);
	/* First in, first out, through several sizes of the ring. */
	size_t in = 0, out = 0;
	for (size_t round = 1; round < 12; round++) {
		for (size_t i = 0; i < 70 + round * 3 && in < 700; i++, in++) {
			snprintf(name, sizeof(name), "%zu", in);
			node_mark_dirty(t, tree_get(t, slice_str(name)));
		}
		for (size_t i = 0; i < 40 && out < in; i++, out++) {
			snprintf(name, sizeof(name), "%zu", out);
			assert_ptr_equal(tree_pop_dirty(t), tree_find(t, slice_str(name)));
		}
		assert_int_equal(tree_dirty(t), in - out);
	}
	for (; out < in; out++)
		assert_non_null(tree_pop_dirty(t));
	tree_free(t);
}

static void order(void **state)
{
	static const char *const paths[] = { "a", "a/b", "a/b/c", "a/d", "e/f", "g" };
	struct tree *t = tree_new(100, NULL, NULL);
	size_t seen = 0;
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(paths); i++)
		tree_get(t, slice_str(paths[i]));
	for (struct node *n = tree_root(t); (n = node_next(t, n)); seen++) {
		assert_false(n->flags & NODE_SEEN);
		assert_true(!n->parent->parent || n->parent->flags & NODE_SEEN);
		n->flags |= NODE_SEEN;
	}
	assert_int_equal(seen, tree_count(t));
	struct node *a = tree_find(t, SLICE("a")), *n = node_skip(t, a);
	assert_true(!n || n->parent == tree_root(t));
	tree_free(t);
}

static size_t heap(void)
{
	struct mallinfo2 m = mallinfo2();
	return m.uordblks + m.hblkhd + slab_bytes();
}

/* Directories of a thousand; all three share one version. Then half of it goes again. */
static void memory(void **state)
{
	size_t before = heap(), cost;
	struct tree *t = tree_new(SYNC_ENTRIES_MAX, NULL, NULL);
	struct node *dir = NULL;
	char name[16];
	(void)state;
	for (unsigned i = 0; i < MANY; i++) {
		uint8_t digest[SYNC_DIGEST];
		snprintf(name, sizeof(name), "file-%07u", i);
		if (i % 1000 == 0)
			dir = node_child_get(t, tree_root(t), slice_str(name));
		struct node *n = i % 1000 ? node_child_get(t, dir, slice_str(name)) : dir;
		memset(digest, (int)i, sizeof(digest));
		struct version *v = n == dir ? version_dir(0755) : file(i, digest);
		node_set(t, n, SYNC_ALPHA, v);
		node_set(t, n, SYNC_BETA, version_ref(v));
		node_set_base(t, n, version_ref(v));
	}
	assert_int_equal(tree_count(t), MANY);
	while (tree_pop_dirty(t)) {
	}
	cost = (heap() - before) / MANY;
	if (counted) {
		print_message("an entry: %zu bytes, by own account %zu\n", cost,
			      tree_bytes(t) / MANY);
		assert_in_range(cost, 100, ENTRY_MAX);
		assert_in_range(tree_bytes(t) / MANY, cost - 20, cost);
	}
	for (unsigned i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "file-%07u", i);
		if (i % 1000 == 0)
			dir = tree_find(t, slice_str(name));
		struct node *n = i % 1000 ? node_child(t, dir, slice_str(name)) : dir;
		assert_non_null(n);
		if (i % 2 == 0)
			continue;
		node_set(t, n, SYNC_ALPHA, NULL);
		node_set(t, n, SYNC_BETA, NULL);
		node_set_base(t, n, NULL);
		tree_pop_dirty(t);
		node_prune(t, n);
	}
	assert_int_equal(tree_count(t), MANY / 2);
	size_t seen = 0;
	for (struct node *n = tree_root(t); (n = node_next(t, n)); seen++)
		assert_ptr_equal(n->prev ? n->prev->next : n->parent->children, n);
	assert_int_equal(seen, MANY / 2);
	tree_free(t);
	t = tree_new(10, NULL, NULL);
	assert_in_range(tree_bytes(t), 1, 4096); /* no version was left behind */
	tree_free(t);
}

static void others(void **state)
{
	struct tree *t = tree_new(1000, NULL, NULL);
	struct node *const *list;
	struct node *n[150];
	size_t listed;
	char name[16];
	(void)state;
	assert_int_equal(tree_others(t, &list, &listed), 0);
	for (int i = 0; i < 150; i++) {
		snprintf(name, sizeof(name), "%d", i);
		n[i] = tree_get(t, slice_str(name));
		node_set(t, n[i], i % 2 ? SYNC_ALPHA : SYNC_BETA, version_other());
	}
	assert_int_equal(tree_others(t, &list, &listed), 150);
	assert_int_equal(listed, TREE_OTHERS_MAX);
	for (int i = 0; i < 100; i++) /* of the listed ones: others take their places */
		node_set(t, n[i], i % 2 ? SYNC_ALPHA : SYNC_BETA, i < 50 ? NULL : file(1, one));
	assert_int_equal(tree_others(t, &list, &listed), 50);
	assert_int_equal(listed, 50);
	for (size_t i = 0; i < listed; i++)
		assert_true(list[i]->side[0] ? list[i]->side[0]->kind == SYNC_OTHER
					     : list[i]->side[1]->kind == SYNC_OTHER);
	node_set(t, n[149], SYNC_BETA, version_other()); /* on both sides: once */
	assert_int_equal(tree_others(t, &list, &listed), 50);
	node_set(t, n[149], SYNC_ALPHA, NULL);
	assert_int_equal(tree_others(t, &list, &listed), 50);
	node_set(t, n[149], SYNC_BETA, NULL);
	while (tree_pop_dirty(t))
		;
	node_prune(t, n[149]);
	assert_int_equal(tree_others(t, &list, &listed), 49);
	assert_int_equal(listed, 49);
	tree_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(versions),      cmocka_unit_test(names),
		cmocka_unit_test(pruning),       cmocka_unit_test(dirty),
		cmocka_unit_test(order),         cmocka_unit_test(memory),
		cmocka_unit_test(full_of_links), cmocka_unit_test(others),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
