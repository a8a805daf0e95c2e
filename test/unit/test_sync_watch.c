#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/sync/watch.h"
#include "sync_files.h"

/* What was told: " dir/name" each, with a '+' when it was written to. */
struct told {
	char text[20000];
	unsigned lost;
};

struct env {
	char *dir;
	struct tree *tree;
	struct watch *watch;
	struct told told;
};

static bool contains(const char *text, const char *what)
{
	size_t n = strlen(what);

	for (const char *p = text; (p = strstr(p, what)); p += n) {
		if (p[n] == 0 || p[n] == ' ' || p[n] == '+')
			return true;
	}
	return false;
}

static void on_changed(void *arg, struct node *dir, struct slice name, bool written)
{
	struct told *t = arg;
	char path[5000], one[6000];

	node_path(dir, path, sizeof(path));
	snprintf(one, sizeof(one), " %s/%.*s%s", path, SLICE_FMT(name), written ? "+" : "");
	if (!contains(t->text, one))
		snprintf(t->text + strlen(t->text), sizeof(t->text) - strlen(t->text), "%s", one);
}

static void on_lost(void *arg, struct node *dir)
{
	struct told *t = arg;
	(void)dir;
	t->lost++;
}

static void on_forget(void *arg, struct node *n)
{
	struct env *e = arg;
	if (e->watch)
		watch_forget(e->watch, n);
}

static struct node *add(struct env *e, const char *path, int want)
{
	struct node *n = tree_get(e->tree, slice_str(path));
	int fd = open(at(e->dir, path), O_RDONLY | O_DIRECTORY);

	assert_non_null(n);
	assert_true(fd >= 0);
	assert_int_equal(watch_add(e->watch, n, fd), want);
	close(fd);
	return n;
}

static void env_open_with(struct env *e, const char *kind, const char *where, bool not_own)
{
	struct watch_options o = { .fanotify = strcmp(kind, "fanotify") == 0,
				   .not_own = not_own,
				   .changed = on_changed,
				   .lost = on_lost,
				   .arg = &e->told };
	int err;

	memset(e, 0, sizeof(*e));
	e->dir = files_new(where);
	e->tree = tree_new(SYNC_ENTRIES_MAX, on_forget, e);
	int fd = open(e->dir, O_RDONLY | O_DIRECTORY);
	e->watch = watch_new(&o, fd, &err);
	close(fd);
	assert_non_null(e->watch);
	assert_string_equal(watch_kind(e->watch), kind);
	shell(e->dir, "mkdir -p a/b c");
	add(e, "", 0);
	add(e, "a", 0);
	add(e, "a/b", 0);
	add(e, "c", 0);
	watch_read(e->watch, 0); /* fanotify has seen what was made here */
}

static void env_open(struct env *e, const char *kind, const char *where)
{
	env_open_with(e, kind, where, false);
}

static void env_close(struct env *e)
{
	watch_free(e->watch);
	e->watch = NULL;
	tree_free(e->tree);
	files_free(e->dir);
}

static const char *told(struct env *e)
{
	e->told.text[0] = 0;
	assert_false(watch_read(e->watch, 0));
	return e->told.text;
}

static bool readable(struct env *e)
{
	struct pollfd p = { watch_fd(e->watch), POLLIN, 0 };
	return poll(&p, 1, 0) == 1;
}

static const struct {
	const char *kind, *where;
} all[] = { { "inotify", "test_sync_watch" },
	    { "inotify", "/dev/shm/test_sync_watch" },
	    { "fanotify", "test_sync_watch" },
	    { "fanotify", "/dev/shm/test_sync_watch" } };

/* The next that this kernel has; false at the end. */
static bool next_kind(size_t *i)
{
	for (; *i < ARRAY_LEN(all); ++*i) {
		bool shm = all[*i].where[0] == '/';
		if (shm && access("/dev/shm", W_OK) < 0)
			continue;
		if (strcmp(all[*i].kind, "inotify") == 0 ||
		    fanotify_works(shm ? "/dev/shm" : "/tmp"))
			return true;
	}
	return false;
}

static void has(const char *text, const char *what)
{
	if (!contains(text, what))
		fail_msg("'%s' is not in '%s'", what, text);
}

static void one_kind(const char *kind, const char *where)
{
	struct env e;
	const char *t;

	env_open(&e, kind, where);
	assert_string_equal(told(&e), "");
	if (strcmp(kind, "fanotify") != 0) /* of all the filesystem, and others work there */
		assert_false(readable(&e));

	file_put(at(e.dir, "a/f"), "1");
	assert_true(readable(&e));
	has(told(&e), " a/f+");
	chmod(at(e.dir, "a/f"), 0600);
	assert_string_equal(told(&e), " a/f");
	int fd = open(at(e.dir, "a/f"), O_WRONLY);
	assert_int_equal(write(fd, "22", 2), 2);
	assert_string_equal(told(&e), " a/f+"); /* while it is open */
	close(fd);
	assert_string_equal(told(&e), " a/f+");
	assert_int_equal(rename(at(e.dir, "a/f"), at(e.dir, "a/b/g")), 0);
	t = told(&e);
	has(t, " a/f");
	has(t, " a/b/g");
	unlink(at(e.dir, "a/b/g"));
	has(told(&e), " a/b/g");
	chmod(at(e.dir, "c"), 0700);
	has(told(&e), " /c");
	mkdir(at(e.dir, "c/new"), 0755);
	assert_int_equal(symlink("x", at(e.dir, "c/link")), 0);
	t = told(&e);
	has(t, " c/new");
	has(t, " c/link");
	/* of a directory that was not added nothing is told */
	file_put(at(e.dir, "c/new/f"), "");
	assert_null(strstr(told(&e), "/f"));
	/* twice the same */
	add(&e, "c", 1);
	add(&e, "c/new", 0);
	if (strcmp(kind, "inotify") == 0)
		assert_int_equal(watch_count(e.watch), 5);
	file_put(at(e.dir, "c/new/f"), "");
	has(told(&e), " c/new/f+");
	shell(e.dir, "rm -r c/new");
	has(told(&e), " c/new");
	if (strcmp(kind, "inotify") == 0)
		assert_int_equal(watch_count(e.watch), 4);
	/* in portions */
	for (int i = 0; i < 5; i++) {
		char name[20];
		snprintf(name, sizeof(name), "a/n%d", i);
		file_put(at(e.dir, name), "");
	}
	e.told.text[0] = 0;
	assert_true(watch_read(e.watch, 1));
	assert_null(strstr(e.told.text, "n4"));
	while (watch_read(e.watch, 2))
		;
	has(e.told.text, " a/n4+");
	assert_int_equal(e.told.lost, 0);
	env_close(&e);
}

static void test_names(void **state)
{
	(void)state;
	for (size_t i = 0; next_kind(&i); i++)
		one_kind(all[i].kind, all[i].where);
}

/* The watch goes with the directory, and is the newest node's. */
static void test_moved(void **state)
{
	struct env e;

	(void)state;
	for (size_t i = 0; next_kind(&i); i++) {
		env_open(&e, all[i].kind, all[i].where);
		struct node *old = tree_find(e.tree, SLICE("a/b"));
		assert_int_equal(rename(at(e.dir, "a/b"), at(e.dir, "c/d")), 0);
		has(told(&e), " c/d");
		file_put(at(e.dir, "c/d/early"), "");
		has(told(&e), " a/b/early"); /* not known any better */
		struct node *new = add(&e, "c/d", 0);
		file_put(at(e.dir, "c/d/f"), "");
		has(told(&e), " c/d/f+");
		watch_forget(e.watch, old);
		file_put(at(e.dir, "c/d/g"), "");
		has(told(&e), " c/d/g+");
		/* another one at the old name, and the new node forgotten */
		mkdir(at(e.dir, "a/b"), 0755);
		assert_ptr_equal(add(&e, "a/b", 0), old);
		watch_forget(e.watch, new);
		told(&e);
		file_put(at(e.dir, "c/d/h"), "");
		file_put(at(e.dir, "a/b/h"), "");
		const char *t = told(&e);
		has(t, " a/b/h+");
		assert_null(strstr(t, "c/d/h"));
		/* forgotten first, then moved, then added */
		watch_forget(e.watch, old);
		assert_int_equal(rename(at(e.dir, "a/b"), at(e.dir, "b")), 0);
		add(&e, "b", 0);
		told(&e);
		file_put(at(e.dir, "b/i"), "");
		has(told(&e), " b/i+");
		/* removed, and made anew with its name (and maybe its inode number) */
		shell(e.dir, "rm -r b; mkdir b");
		add(&e, "b", 0);
		told(&e);
		file_put(at(e.dir, "b/j"), "");
		has(told(&e), " b/j+");
		env_close(&e);
	}
}

static void test_root_gone(void **state)
{
	struct env e;

	(void)state;
	for (size_t i = 0; next_kind(&i); i++) {
		env_open(&e, all[i].kind, all[i].where);
		char *to = xasprintf("%s.moved", e.dir);
		assert_int_equal(rename(e.dir, to), 0);
		has(told(&e), " /");
		assert_int_equal(rename(to, e.dir), 0);
		free(to);
		told(&e);
		shell(e.dir, "rm -r a c");
		told(&e);
		assert_int_equal(rmdir(e.dir), 0);
		has(told(&e), " /");
		assert_int_equal(mkdir(e.dir, 0755), 0);
		env_close(&e);
	}
}

/* 16,384 events are kept (/proc/sys/fs/inotify/max_queued_events). */
static void test_overflow(void **state)
{
	struct env e;
	char name[40];

	(void)state;
	for (size_t i = 0; next_kind(&i); i++) {
		if (all[i].where[0] != '/' || events_max(all[i].kind) > 17000)
			continue; /* where files are cheap */
		env_open(&e, all[i].kind, all[i].where);
		for (int k = 0; k < 18000; k++) {
			snprintf(name, sizeof(name), "%s/%d", k % 2 ? "a" : "c", k);
			close(open(at(e.dir, name), O_CREAT | O_WRONLY, 0644));
		}
		told(&e);
		assert_int_equal(e.told.lost, 1);
		file_put(at(e.dir, "a/f"), "1");
		has(told(&e), " a/f+");
		env_close(&e);
	}
}

/* Many nodes that come and go, in no order. */
static void test_table(void **state)
{
	struct env e;
	char name[40];

	(void)state;
	for (size_t i = 0; next_kind(&i); i++) {
		env_open(&e, all[i].kind, all[i].where);
		for (int k = 0; k < 3000; k++) {
			snprintf(name, sizeof(name), "c/%d", (k * 7919) % 500);
			struct node *n = tree_find(e.tree, slice_str(name));
			if (n && n->watch) {
				watch_forget(e.watch, n);
			} else {
				mkdir(at(e.dir, name), 0755);
				add(&e, name, 0);
			}
		}
		for (int k = 0; k < 500; k++) {
			char f[80];
			snprintf(name, sizeof(name), "c/%d", k);
			snprintf(f, sizeof(f), "c/%d/f", k);
			struct node *n = tree_find(e.tree, slice_str(name));
			told(&e);
			file_put(at(e.dir, f), "");
			if (n->watch)
				has(told(&e), f);
			else
				assert_string_equal(told(&e), "");
		}
		env_close(&e);
	}
}

/* fanotify knows whose doing it was: what we do to files is not told, all else is. */
static void test_not_own(void **state)
{
	struct env e;
	(void)state;
	for (size_t i = 0; next_kind(&i); i++) {
		if (strcmp(all[i].kind, "fanotify") != 0)
			continue;
		env_open_with(&e, all[i].kind, all[i].where, true);
		file_put(at(e.dir, "a/f"), "1");
		chmod(at(e.dir, "a/f"), 0600);
		assert_string_equal(told(&e), "");
		shell(e.dir, "echo 2 >>a/f");
		has(told(&e), " a/f+");
		/* Two at the same file, with nobody reading in between. */
		file_put(at(e.dir, "a/f"), "33");
		shell(e.dir, "echo 2 >>a/f");
		file_put(at(e.dir, "a/f"), "44");
		has(told(&e), " a/f+");
		unlink(at(e.dir, "a/f"));
		assert_string_equal(told(&e), "");
		mkdir(at(e.dir, "c/new"), 0755);
		has(told(&e), " c/new");
		chmod(at(e.dir, "c"), 0700);
		has(told(&e), " /c");
		env_close(&e);
	}
}

/* No fanotify without CAP_SYS_ADMIN. */
static void test_fallback(void **state)
{
	struct watch_options o = { .fanotify = true, .changed = on_changed, .lost = on_lost };
	int err, fd = open("/tmp", O_RDONLY | O_DIRECTORY);

	(void)state;
	if (getuid() == 0)
		assert_int_equal(seteuid(65534), 0);
	struct watch *w = watch_new(&o, fd, &err);
	if (getuid() == 0)
		assert_int_equal(seteuid(0), 0);
	assert_non_null(w);
	assert_string_equal(watch_kind(w), "inotify");
	watch_free(w);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),     cmocka_unit_test(test_moved),
		cmocka_unit_test(test_root_gone), cmocka_unit_test(test_overflow),
		cmocka_unit_test(test_table),     cmocka_unit_test(test_not_own),
		cmocka_unit_test(test_fallback),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
