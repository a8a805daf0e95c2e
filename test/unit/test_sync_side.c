/* One disk's side of a sync: what cannot be looked at for a while. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/sync/digest.h"
#include "proto/sync/side.h"
#include "sync_files.h"

struct bench {
	char *dir;
	struct reactor *rx;
	struct task task;
	struct side side;
	unsigned problems, cleared;
};

static void on_changed(void *arg, struct node *n)
{
	(void)arg, (void)n;
}

static void on_problem(void *arg, struct node *n, const char *why)
{
	struct bench *b = arg;
	(void)n;
	if (why)
		b->problems++;
	else
		b->cleared++;
}

static void run(struct task *t)
{
	(void)t;
}

static int setup(void **state)
{
	struct bench *b = xcalloc(1, sizeof(*b));
	b->dir = files_new("test_sync_side");
	b->rx = reactor_new();
	task_init(&b->task, run);
	shell(b->dir, "mkdir root store");
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct bench *b = *state;
	side_close(&b->side);
	reactor_free(b->rx);
	files_free(b->dir);
	free(b);
	return 0;
}

static void start(struct bench *b)
{
	struct side_options o = { .root = { .path = at(b->dir, "root"),
					    .store = at(b->dir, "store") },
				  .hash = true,
				  .problem = on_problem,
				  .changed = on_changed,
				  .arg = b };
	char why[400];
	assert_int_equal(0, side_open(&b->side, b->rx, &b->task, &o, why, sizeof(why)));
	assert_int_equal(0, side_start(&b->side, &o, why, sizeof(why)));
}

/* As for a fence, by somebody for whom modes count. */
static void settle(struct bench *b)
{
	struct node *n;
	b->problems = b->cleared = 0;
	if (getuid() == 0)
		assert_int_equal(seteuid(65534), 0);
	do {
		side_settle(&b->side);
		while (scan_step(b->side.scan, 100))
			;
	} while (!side_idle(&b->side));
	if (getuid() == 0)
		assert_int_equal(seteuid(0), 0);
	while ((n = tree_pop_dirty(b->side.tree)))
		node_prune(b->side.tree, n);
}

/* Without looking again but at what there are events of. */
static void events(struct bench *b)
{
	b->problems = b->cleared = 0;
	assert_int_equal(seteuid(getuid() == 0 ? 65534 : geteuid()), 0);
	watch_read(b->side.watch, 0);
	while (scan_step(b->side.scan, 100))
		;
	assert_int_equal(seteuid(getuid()), 0);
}

static const struct version *known(struct bench *b, const char *path)
{
	struct node *n = tree_find(b->side.tree, slice_str(path));
	return n ? n->side[SYNC_ALPHA] : NULL;
}

static void check_digest(struct bench *b, const char *path, const char *text)
{
	const struct version *v = known(b, path);
	uint8_t digest[32];
	assert_non_null(v);
	assert_true(v->kind == SYNC_FILE && v->hashed);
	digest_block(slice_str(text), digest);
	assert_memory_equal(v->digest, digest, 32);
}

/* The only event is of the mode of a directory above. */
static void closed_for_a_while(struct bench *b, mode_t mode)
{
	shell(b->dir, "cd root; mkdir -p d/e; echo 1 >d/e/f; echo 1 >d/g; chmod -R a+rX .");
	start(b);
	settle(b);
	assert_int_equal(b->problems, 0);
	shell(b->dir, "cd root; echo 22 >d/e/f; rm d/g; echo 3 >d/new; mkdir d/dir;"
		      "echo 4 >d/dir/i; echo 5 >d/tmp");
	assert_int_equal(0, chmod(at(b->dir, "root/d"), mode));
	settle(b);
	assert_true(b->problems >= 5);
	shell(b->dir, "rm root/d/tmp");
	settle(b);
	unsigned there = b->problems;
	assert_true(there >= 5 && b->cleared == 0);
	shell(b->dir, "chmod 755 root/d");
	events(b);
	assert_int_equal(b->problems, 0);
	assert_int_equal(b->cleared, there);
	check_digest(b, "d/e/f", "22\n");
	check_digest(b, "d/new", "3\n");
	check_digest(b, "d/dir/i", "4\n");
	assert_null(known(b, "d/g"));
	assert_null(tree_find(b->side.tree, SLICE("d/tmp")));
}

static void its_directory_can_be_listed_again(void **state)
{
	closed_for_a_while(*state, 0);
}

static void its_directory_can_be_entered_again(void **state)
{
	closed_for_a_while(*state, 0444);
}

/* There is no event at all: it is who looks that changes. */
static void it_is_tried_again(void **state)
{
	struct bench *b = *state;
	if (getuid() != 0)
		skip();
	shell(b->dir, "cd root; mkdir d e; echo 1 >d/f; echo 1 >g; echo 2 >e/h; chmod 0 e g;"
		      "chmod 755 d");
	start(b);
	settle(b);
	assert_int_equal(b->problems, 2);
	shell(b->dir, "echo 22 >root/d/f; chmod 0 root/d");
	settle(b);
	assert_int_equal(b->problems, 4);
	assert_int_equal(b->cleared, 0);
	b->problems = 0;
	scan_retry(b->side.scan);
	while (scan_step(b->side.scan, 100))
		;
	assert_int_equal(b->problems, 0);
	assert_int_equal(b->cleared, 4);
	check_digest(b, "g", "1\n");
	check_digest(b, "d/f", "22\n");
	check_digest(b, "e/h", "2\n");
	scan_retry(b->side.scan);
	assert_true(side_idle(&b->side));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		TEST(its_directory_can_be_listed_again),
		TEST(its_directory_can_be_entered_again),
		TEST(it_is_tried_again),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
