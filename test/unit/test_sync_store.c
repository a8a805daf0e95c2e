/* The journal of a sync: what was noted is loaded again, whatever happened to the end of the file.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "proto/sync/record.h"
#include "proto/sync/store.h"

enum { MANY = 200000 };

static char dir[64], state_path[80], why[300];

static int setup(void **state)
{
	char shell[100];
	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/test-sync-store-%d", getpid());
	snprintf(state_path, sizeof(state_path), "%s/a/b/state", dir);
	snprintf(shell, sizeof(shell), "rm -rf %s", dir);
	return system(shell);
}

static struct store *opened(void)
{
	char path[80];
	int err;
	snprintf(path, sizeof(path), "%s/a/b", dir);
	struct store *s = store_open(path, &err, why, sizeof(why));
	if (!s)
		fail_msg("%d: %s", err, why);
	return s;
}

static struct store *loaded(struct tree **t, bool base, int want)
{
	struct store *s = opened();
	*t = tree_new(SYNC_ENTRIES_MAX, NULL, NULL);
	int r = store_load(s, *t, base, "one", why, sizeof(why));
	if (r != want)
		fail_msg("%d: %s", r, why);
	return s;
}

static void closed(struct store *s, struct tree *t)
{
	store_close(s);
	tree_free(t);
}

static struct version *file(unsigned i)
{
	uint8_t digest[SYNC_DIGEST];
	memset(digest, (int)i, sizeof(digest));
	return version_file(0600 + i % 64, 1000 + i, (int64_t)i * 1000000007,
			    i % 3 ? digest : NULL);
}

/* As if it were synced: both sides and the base. */
static struct node *put(struct tree *t, struct slice path, struct version *v, uint64_t ino)
{
	struct node *n = tree_get(t, path);
	node_set(t, n, SYNC_ALPHA, version_ref(v));
	node_set(t, n, SYNC_BETA, version_ref(v));
	node_set_base(t, n, v);
	n->stamp = (struct stamp){ ino, v ? -(int64_t)ino : 0 };
	return n;
}

static void note_all(struct store *s, struct tree *t)
{
	for (struct node *n = tree_root(t); n; n = node_next(t, n))
		store_note(s, n);
}

static void fill(struct tree *t)
{
	char target[SYNC_PATH_MAX];
	memset(target, 't', sizeof(target));
	node_set_base(t, tree_root(t), version_dir(0750));
	put(t, SLICE("d"), version_dir(0755), 1);
	put(t, SLICE("d/\xff\xfe\n"), file(1), 2);
	put(t, SLICE("d/e"), version_dir(0500), 3);
	put(t, SLICE("d/e/f"), file(3), 4);
	put(t, SLICE("d/g"), version_link(SLICE("../\xff")), 5);
	put(t, SLICE("l"), version_link(slice_of(target, sizeof(target))), 6);
	put(t, SLICE("z"), version_file(0, 0, -1, NULL), 7);
}

static void assert_loaded(struct tree *t, struct tree *want, bool base)
{
	char path[SYNC_PATH_MAX + 1];
	for (struct node *w = tree_root(want); w; w = node_next(want, w)) {
		ssize_t len = node_path(w, path, sizeof(path));
		struct node *n = tree_find(t, slice_of(path, (size_t)len));
		struct version *v = base ? w->base : w->side[SYNC_ALPHA];
		assert_non_null(n);
		assert_null(n->side[SYNC_BETA]);
		if (v && v->kind == SYNC_FILE && v->size) {
			assert_int_equal(n->side[SYNC_ALPHA]->hashed, v->hashed);
			assert_int_equal(n->side[SYNC_ALPHA]->size, v->size);
			assert_int_equal(n->side[SYNC_ALPHA]->mtime_ns, v->mtime_ns);
			assert_int_equal(n->side[SYNC_ALPHA]->mode, v->mode);
			assert_memory_equal(n->side[SYNC_ALPHA]->digest, v->digest, SYNC_DIGEST);
		} else {
			assert_true(version_identical(n->side[SYNC_ALPHA], v));
		}
		/* Far: the fill has it that all was put there. */
		assert_ptr_equal(n->base, n->side[SYNC_ALPHA]);
		assert_int_equal(n->flags & NODE_DIRTY, base ? NODE_DIRTY : 0);
		if (w->parent) {
			assert_int_equal(n->stamp.ino, w->stamp.ino);
			assert_int_equal(n->stamp.ctime_ns, w->stamp.ctime_ns);
		}
	}
	assert_int_equal(tree_count(t), tree_count(want));
}

static void round_trip(void **state)
{
	struct tree *t, *again;
	struct stat st;
	(void)state;
	for (int base = 0; base < 2; base++) {
		setup(NULL);
		struct store *s = loaded(&t, base, 1);
		fill(t);
		note_all(s, t);
		assert_int_equal(store_flush(s), 0);
		store_close(s);
		s = loaded(&again, base, 0);
		assert_loaded(again, t, base);
		closed(s, again);
		s = loaded(&again, base, 0); /* what loading did to the file */
		assert_loaded(again, t, base);
		closed(s, again);
		tree_free(t);
	}
	assert_int_equal(stat(state_path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	*strrchr(state_path, '/') = '\0';
	assert_int_equal(stat(state_path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	state_path[strlen(state_path)] = '/';
}

/* The base is what counts; the stamp goes with it only if alpha has just that. */
static void stamps(void **state)
{
	struct tree *t;
	struct node *n;
	(void)state;
	struct store *s = loaded(&t, true, 1);
	put(t, SLICE("same"), file(1), 10);
	put(t, SLICE("racy"), file(1), 11)->flags |= NODE_RACY;
	n = put(t, SLICE("newer"), file(1), 12);
	node_set(t, n, SYNC_ALPHA, file(2));
	n = put(t, SLICE("gone here"), file(1), 13);
	node_set(t, n, SYNC_ALPHA, NULL);
	n = put(t, SLICE("new"), file(1), 14);
	node_set_base(t, n, NULL);
	n = put(t, SLICE("other"), version_other(), 15);
	note_all(s, t);
	closed(s, t);
	s = loaded(&t, true, 0);
	assert_int_equal(tree_find(t, SLICE("same"))->stamp.ino, 10);
	assert_int_equal(tree_find(t, SLICE("racy"))->stamp.ino, 0);
	assert_int_equal(tree_find(t, SLICE("newer"))->stamp.ino, 0);
	assert_int_equal(tree_find(t, SLICE("newer"))->side[SYNC_ALPHA]->size, 1001);
	assert_int_equal(tree_find(t, SLICE("gone here"))->stamp.ino, 0);
	assert_non_null(tree_find(t, SLICE("gone here"))->base);
	assert_null(tree_find(t, SLICE("new")));
	assert_null(tree_find(t, SLICE("other")));
	closed(s, t);
}

static bool has(struct tree *t, struct slice path)
{
	struct node *n = tree_find(t, path);
	return n && n->side[SYNC_ALPHA];
}

static void removal(void **state)
{
	struct tree *t;
	(void)state;
	for (int base = 0; base < 2; base++) {
		setup(NULL);
		struct store *s = loaded(&t, base, 1);
		put(t, SLICE("a"), version_dir(0700), 1);
		put(t, SLICE("c"), file(1), 3);
		store_note(s, tree_find(t, SLICE("a")));
		store_note(s, tree_find(t, SLICE("c")));
		store_note(s, put(t, SLICE("a/b"), file(1), 2));
		store_note(s, put(t, SLICE("a/b"), NULL, 0));
		store_note(s, put(t, SLICE("a"), NULL, 0));
		store_note(s, put(t, SLICE("a/x"), file(2), 5)); /* its directory is another */
		store_note(s, put(t, SLICE("d"), file(2), 4));
		closed(s, t);
		s = loaded(&t, base, 0);
		assert_false(has(t, SLICE("a/b")));
		assert_false(has(t, SLICE("a")));
		assert_true(has(t, SLICE("c")));
		assert_true(has(t, SLICE("d")));
		assert_true(has(t, SLICE("a/x")));
		closed(s, t);
	}
}

static void generations(void **state)
{
	struct tree *t;
	(void)state;
	struct store *s = loaded(&t, true, 1);
	put(t, SLICE("a"), file(1), 1);
	note_all(s, t);
	closed(s, t);
	s = opened();
	t = tree_new(10, NULL, NULL);
	assert_int_equal(store_load(s, t, true, "two", why, sizeof(why)), 1);
	assert_int_equal(tree_count(t), 0);
	closed(s, t);
	s = loaded(&t, true, 1);
	put(t, SLICE("b"), file(1), 1);
	note_all(s, t);
	node_set_base(t, tree_find(t, SLICE("b")), NULL);
	assert_int_equal(store_rename(s, "one"), 0);
	put(t, SLICE("c"), file(1), 1);
	store_note(s, tree_find(t, SLICE("c")));
	closed(s, t);
	s = loaded(&t, true, 0);
	assert_int_equal(tree_count(t), 1);
	assert_non_null(tree_find(t, SLICE("c")));
	closed(s, t);
}

static void locked(void **state)
{
	struct store *s = opened(), *second;
	char path[80];
	int err = 0;
	(void)state;
	snprintf(path, sizeof(path), "%s/a/b", dir);
	second = store_open(path, &err, why, sizeof(why));
	assert_null(second);
	assert_int_equal(err, -EBUSY);
	assert_non_null(strstr(why, path));
	store_close(s);
	store_close(opened());
	store_close(NULL);
	assert_null(store_open("/proc/none", &err, why, sizeof(why)));
	assert_true(err < 0 && err != -EBUSY);
}

static size_t read_state(char *buf, size_t size)
{
	int fd = open(state_path, O_RDONLY);
	ssize_t n = read(fd, buf, size);
	close(fd);
	assert_in_range(n, 0, size - 1);
	return (size_t)n;
}

static void write_state(const char *buf, size_t n)
{
	int fd = open(state_path, O_WRONLY | O_TRUNC);
	assert_int_equal(write(fd, buf, n), n);
	close(fd);
}

/* Entries "0", "1", ...: how many are there, and are they as they were? */
static unsigned entries(struct tree *t)
{
	char name[16];
	unsigned n = 0;
	for (;; n++) {
		snprintf(name, sizeof(name), "%u", n);
		struct node *node = tree_find(t, slice_str(name));
		if (!node)
			break;
		assert_int_equal(node->base->size, 1000 + n);
		assert_int_equal(node->base->mode, 0600 + n % 64);
	}
	assert_int_equal(tree_count(t), n);
	return n;
}

static void note_number(struct store *s, struct tree *t, unsigned i)
{
	char name[16];
	snprintf(name, sizeof(name), "%u", i);
	store_note(s, put(t, slice_str(name), file(i), i + 1));
}

/* Cut off at every byte, and every byte damaged: what is before it is there, and it goes on. */
static void damage(void **state)
{
	enum { N = 12 };
	static char whole[8192], bad[8192];
	struct tree *t;
	(void)state;
	struct store *s = loaded(&t, true, 1);
	for (unsigned i = 0; i < N; i++)
		note_number(s, t, i);
	closed(s, t);
	size_t len = read_state(whole, sizeof(whole));
	unsigned last = 0;
	for (size_t cut = 0; cut <= len; cut++) {
		write_state(whole, cut);
		s = loaded(&t, true, cut < RECORD_HEAD + 3);
		unsigned n = entries(t);
		assert_in_range(n, last, last + 1);
		last = n;
		note_number(s, t, n);
		closed(s, t);
		s = loaded(&t, true, 0);
		assert_int_equal(entries(t), n + 1);
		closed(s, t);
	}
	assert_int_equal(last, N);
	for (size_t at = 0; at < len; at++) {
		memcpy(bad, whole, len);
		bad[at] = (char)(bad[at] ^ 1 << at % 8);
		write_state(bad, len);
		s = loaded(&t, true, at < RECORD_HEAD + 3);
		unsigned n = entries(t);
		assert_in_range(n, 0, N - 1);
		/* What is written in its place does not bring back what was behind it. */
		note_number(s, t, n);
		closed(s, t);
		s = loaded(&t, true, 0);
		assert_int_equal(entries(t), n + 1);
		closed(s, t);
	}
}

/* Killed at any moment: all that was flushed is there, in order. */
static void killed(void **state)
{
	struct tree *t;
	unsigned before = 0;
	(void)state;
	for (int round = 0; round < 10; round++) {
		int p[2];
		unsigned flushed = 0;
		assert_int_equal(pipe(p), 0);
		pid_t pid = fork();
		if (pid == 0) {
			struct store *s = opened();
			t = tree_new(SYNC_ENTRIES_MAX, NULL, NULL);
			store_load(s, t, true, "one", why, sizeof(why));
			for (unsigned i = entries(t);; i++) {
				note_number(s, t, i);
				if (i % 7 == 0)
					store_flush(s);
				if (i % 7 == 0 && write(p[1], &i, sizeof(i)) < 0)
					_exit(1);
			}
		}
		for (int i = 0; i < 50 * (round + 1); i++)
			assert_int_equal(read(p[0], &flushed, sizeof(flushed)), sizeof(flushed));
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		close(p[1]);
		while (read(p[0], &flushed, sizeof(flushed)) == sizeof(flushed)) {
		}
		close(p[0]);
		struct store *s = loaded(&t, true, 0);
		unsigned n = entries(t);
		assert_true(n > flushed && n > before);
		before = n;
		closed(s, t);
	}
}

/* One node that changes all the time does not make the file grow for ever. */
static void rewriting(void **state)
{
	struct tree *t;
	struct stat st;
	off_t largest = 0;
	(void)state;
	struct store *s = loaded(&t, true, 1);
	put(t, SLICE("kept"), file(5), 5);
	store_note(s, tree_find(t, SLICE("kept")));
	for (unsigned i = 0; i < 50000; i++) {
		store_note(s, put(t, SLICE("busy"), file(i), i));
		if (i % 100)
			continue;
		assert_int_equal(store_flush(s), 0);
		assert_int_equal(stat(state_path, &st), 0);
		largest = MAX(largest, st.st_size);
	}
	closed(s, t);
	assert_in_range(largest, 1, 1 << 20);
	s = loaded(&t, true, 0);
	assert_int_equal(tree_find(t, SLICE("busy"))->base->size, 1000 + 49999);
	assert_int_equal(tree_find(t, SLICE("kept"))->stamp.ino, 5);
	closed(s, t);
}

/* A disk that is full for a while: what was noted meanwhile is not lost, nor does it pile up. */
static void disk_full(void **state)
{
	struct rlimit old, low = { 64 * 1024, 0 };
	struct tree *t;
	unsigned i = 0;
	(void)state;
	getrlimit(RLIMIT_FSIZE, &old);
	low.rlim_max = old.rlim_max;
	signal(SIGXFSZ, SIG_IGN);
	for (unsigned more = 100; more <= 20000; more *= 200) { /* less and more than the buffer */
		struct store *s = loaded(&t, true, i == 0);
		unsigned end = i + 1000 + more;
		setrlimit(RLIMIT_FSIZE, &low);
		for (; i < end; i++)
			note_number(s, t, i);
		assert_true(store_flush(s) < 0);
		note_number(s, t, i++);
		assert_true(store_flush(s) < 0);
		setrlimit(RLIMIT_FSIZE, &old);
		note_number(s, t, i++);
		assert_int_equal(store_flush(s), 0);
		note_number(s, t, i++);
		closed(s, t);
		s = loaded(&t, true, 0);
		assert_int_equal(entries(t), i);
		closed(s, t);
	}
	signal(SIGXFSZ, SIG_DFL);
}

static double now_ms(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static void many(void **state)
{
	struct tree *t, *again;
	struct stat st;
	char path[64];
	(void)state;
	struct store *s = loaded(&t, true, 1);
	for (unsigned i = 0; i < MANY; i++) {
		snprintf(path, sizeof(path), "packages/p%03u/src/file-%06u", i / 1000, i);
		put(t, slice_str(path), file(i), i);
	}
	double start = now_ms();
	note_all(s, t);
	assert_int_equal(store_flush(s), 0);
	double noted = now_ms() - start;
	store_close(s);
	stat(state_path, &st);
	start = now_ms();
	s = loaded(&again, true, 0);
	double took = now_ms() - start;
	print_message("%d entries: noted in %.0f ms, %ld bytes, loaded in %.0f ms\n", MANY, noted,
		      (long)st.st_size, took);
	assert_int_equal(tree_count(again), tree_count(t));
	assert_true(took < 3000);
	closed(s, again);
	tree_free(t);
}

static void checksum(void **state)
{
	(void)state;
	char zeros[32] = { 0 }, out[RECORD_MAX];
	/* RFC 3720, appendix B.4. */
	assert_int_equal(crc32c(slice_of(zeros, 32)), 0x8a9136aa);
	assert_int_equal(crc32c(SLICE("123456789")), 0xe3069283);
	/* The largest there are. */
	char long_text[SYNC_PATH_MAX];
	memset(long_text, 'x', sizeof(long_text));
	struct slice text = slice_of(long_text, sizeof(long_text));
	struct record r = { .type = RECORD_ENTRY, .text = text, .v = version_link(text) }, back;
	size_t n = record_put(out, &r);
	assert_in_range(n, 1, RECORD_MAX);
	assert_int_equal(record_get(slice_of(out, n), &back), n);
	assert_true(slice_eq(back.text, text));
	assert_int_equal(version_same(back.v, r.v), 1);
	version_unref(back.v);
	version_unref(r.v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(checksum, setup),
		cmocka_unit_test_setup(round_trip, setup),
		cmocka_unit_test_setup(stamps, setup),
		cmocka_unit_test_setup(removal, setup),
		cmocka_unit_test_setup(generations, setup),
		cmocka_unit_test_setup(locked, setup),
		cmocka_unit_test_setup(damage, setup),
		cmocka_unit_test_setup(killed, setup),
		cmocka_unit_test_setup(rewriting, setup),
		cmocka_unit_test_setup(disk_full, setup),
		cmocka_unit_test_setup(many, setup),
	};
	return cmocka_run_group_tests(tests, NULL, setup);
}
