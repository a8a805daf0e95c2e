/* Changes under a root: each with the right expectation and with wrong ones, what the trash has
 * afterwards, and what comes when the disk is full. test_sync_race.c has what others do meanwhile.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/sync/digest.h"
#include "proto/sync/root_int.h"
#include "sync_root.h"

#define TIME INT64_C(1700000000123456789)

static int setup(void **state)
{
	*state = sync_root_new("sync-apply");
	return 0;
}

/* As on a filesystem without O_TMPFILE, or where linkat(2) of a descriptor is not allowed. */
static int setup_named(void **state)
{
	setup(state);
	((struct sync_root *)*state)->r->nameless = false;
	return 0;
}

static int teardown(void **state)
{
	sync_root_free(*state);
	return 0;
}

static bool prints(struct sync_root *f, const char *want, const char *command)
{
	char *text = output_of(f, command);
	bool same = strcmp(want, text) == 0;
	if (!same)
		print_error("%s: %s", command, text);
	free(text);
	return same;
}
#define assert_text(f, want, command) assert_true(prints(f, want, command))

static int put_text(struct sync_root *f, const char *path, const char *text, const struct expect *e,
		    struct stamp *stamp)
{
	struct version *want = version_file(0640, strlen(text), TIME, NULL);
	int err;
	struct put *p = put_new(f->r, path, want, &err);
	version_unref(want);
	if (!p)
		return err;
	assert_int_equal(0, put_data(p, slice_str(text)));
	return put_end(p, e, stamp);
}

enum op { MKDIR, PUT, LINK, META, REMOVE, COPY, OPS };

static int run(struct sync_root *f, enum op op, const char *path, const struct expect *e,
	       struct stamp *stamp)
{
	struct version *want = op == MKDIR  ? version_dir(0710)
			       : op == LINK ? version_link(SLICE("to"))
			       : op == META && e->v && e->v->kind == SYNC_DIR
				   ? version_dir(0501)
				   : version_file(0604, 6, TIME, NULL);
	struct expect src = expect_now(f, "source");
	int err = op == MKDIR    ? apply_mkdir(f->r, path, want, e, stamp)
		  : op == PUT    ? put_text(f, path, "new", e, stamp)
		  : op == LINK   ? apply_link(f->r, path, want, e, stamp)
		  : op == META   ? apply_meta(f->r, path, want, e, stamp)
		  : op == REMOVE ? apply_remove(f->r, path, e)
				 : apply_copy(f->r, "source", &src, path, want, e, stamp);
	expect_free(&src);
	version_unref(want);
	return err;
}

/* What may be at p, and how it is made there. */
static const char *const things[] = {
	":",                          /* nothing */
	"printf old >p; chmod 644 p", /* a file */
	"ln -s target p",             /* a link */
	"mkdir -m 755 p",             /* a directory */
};
/* The same kind, but another. */
static const char *const others[] = {
	"printf other >p",
	"printf older >p",
	"ln -sfn other p",
	"mkdir p.; mkdir p; rmdir p.",
};
enum { NOTHING, FILE_, LINK_, DIR_, THINGS };

static void make(struct sync_root *f, const char *how)
{
	shell(f->path, "rm -rf p p.; printf 'source' >source; touch -d 2020-01-01 source");
	shell(f->path, how);
}

/* What is left of what was at p: "kind content". */
#define STATE                                                                                      \
	"cd root; if [ -L p ]; then echo l $(readlink p); elif [ -d p ]; then echo d; "            \
	"elif [ -f p ]; then echo f $(cat p); else echo -; fi"

static bool possible(enum op op, int thing)
{
	switch (op) {
	case META: /* keeps the kind */
		return thing == FILE_ || thing == DIR_;
	case REMOVE:
		return thing != NOTHING;
	default:
		return true;
	}
}

static void ops_do_what_they_say(void **state)
{
	struct sync_root *f = *state;
	static const char *const after[OPS] = {
		"d\n", "f new\n", "l to\n", "", "-\n", "f source\n"
	};
	for (enum op op = 0; op < OPS; op++) {
		for (int thing = 0; thing < THINGS; thing++) {
			if (!possible(op, thing))
				continue;
			make(f, things[thing]);
			shell(f->store, "rm -rf trash/*");
			struct expect e = expect_now(f, "p");
			struct stamp stamp = { 0 };
			assert_int_equal(0, run(f, op, "p", &e, &stamp));
			if (op != META)
				assert_text(f, after[op], STATE);
			struct expect now = expect_now(f, "p");
			assert_int_equal(op == REMOVE, now.v == NULL);
			/* The stamp is that of what is there now. */
			assert_memory_equal(&now.stamp, &stamp, sizeof(stamp));
			if (op == MKDIR)
				assert_int_equal(0710, now.v->mode);
			if (op == META)
				assert_int_equal(thing == DIR_ ? 0501 : 0604, now.v->mode);
			if (op == PUT)
				assert_int_equal(0640, now.v->mode);
			if ((op == META && thing == FILE_) || op == PUT || op == COPY)
				assert_int_equal(TIME, now.v->mtime_ns);
			/* What was replaced is in the trash. */
			if (thing == FILE_ && op != META)
				assert_text(f, "old", "cat state/0123/trash/*/*-p");
			if (thing == LINK_)
				assert_text(f, "target\n", "readlink state/0123/trash/*/*-p");
			assert_text(f, "", "ls state/0123/stage");
			expect_free(&now);
			expect_free(&e);
		}
	}
}

/* Whatever is expected, if something else is there nothing happens. */
static void ops_refuse_what_they_did_not_expect(void **state)
{
	struct sync_root *f = *state;
	for (enum op op = 0; op < OPS; op++) {
		for (int thing = 0; thing < THINGS; thing++) {
			if (!possible(op, thing))
				continue;
			for (int actual = 0; actual < THINGS; actual++) {
				make(f, things[thing]);
				struct expect e = expect_now(f, "p");
				struct stamp stamp;
				make(f, actual == thing ? others[actual] : things[actual]);
				if (actual == thing && thing == NOTHING)
					make(f, "echo something >p");
				char *before = output_of(f, STATE);
				int err = run(f, op, "p", &e, &stamp);
				if (err != -ESTALE)
					print_error("op %d: expected %d, is %d\n", op, thing,
						    actual);
				assert_int_equal(-ESTALE, err);
				assert_text(f, before, STATE);
				free(before);
				assert_text(f, "", "ls state/0123/stage");
				expect_free(&e);
			}
		}
	}
	assert_text(f, "", "find state/0123/trash -type f");
}

/* The same by a stamp, each part of it, and without one. */
static void a_stamp_tells_more_than_size_and_time(void **state)
{
	struct sync_root *f = *state;
	static const char *const changes[] = {
		"touch -r p ref; printf OLD >p; touch -r ref p; rm ref", /* content: ctime */
		"cp -p p p.; mv p. p",                                   /* inode */
		"chmod 600 p",                                           /* mode */
	};
	for (size_t i = 0; i < ARRAY_LEN(changes); i++) {
		struct stamp stamp;
		make(f, "printf old >p; chmod 644 p");
		struct expect e = expect_now(f, "p");
		shell(f->path, changes[i]);
		assert_int_equal(-ESTALE, run(f, PUT, "p", &e, &stamp));
		assert_int_equal(-ESTALE, run(f, REMOVE, "p", &e, &stamp));
		assert_int_equal(-ESTALE, run(f, META, "p", &e, &stamp));
		e.stamp = (struct stamp){ 0 };
		assert_int_equal(0, run(f, PUT, "p", &e, &stamp));
		expect_free(&e);
	}
	make(f, "printf old >p");
	struct expect e = expect_now(f, "p");
	struct stamp stamp;
	e.stamp = (struct stamp){ 0 };
	shell(f->path, "touch -d '2 seconds' p");
	assert_int_equal(-ESTALE, run(f, PUT, "p", &e, &stamp));
	expect_free(&e);
}

static void what_cannot_be_says_why(void **state)
{
	struct sync_root *f = *state;
	struct expect none = { 0 }, e;
	struct stamp stamp;
	shell(f->path, "mkdir d; echo x >d/f; echo x >f; ln -s d l; mkfifo p");
	shell(f->path, "ln -s ../outside o; printf source >source");
	static const char *const missing[] = { "n/x", "f/x", "l/x", "o/x", "d/f/x" };
	for (enum op op = 0; op < OPS; op++) {
		for (size_t i = 0; i < ARRAY_LEN(missing) && op != META && op != REMOVE; i++)
			assert_int_equal(-ENOENT, run(f, op, missing[i], &none, &stamp));
		assert_int_equal(op == META ? -ESTALE : -EINVAL, run(f, op, "", &none, &stamp));
		assert_int_equal(-EINVAL, run(f, op, "../x", &none, &stamp));
		assert_int_equal(-EINVAL, run(f, op, SYNC_PRIVATE "/x", &none, &stamp));
		e = expect_now(f, "p");
		assert_int_equal(-ESTALE, run(f, op, "p", &e, &stamp));
		expect_free(&e);
	}
	e = expect_now(f, "d");
	assert_int_equal(-ENOTEMPTY, apply_remove(f->r, "d", &e));
	assert_int_equal(-ENOTEMPTY, run(f, PUT, "d", &e, &stamp));
	assert_int_equal(-ENOTEMPTY, run(f, LINK, "d", &e, &stamp));
	expect_free(&e);
	assert_int_equal(-ESTALE, apply_rename(f->r, "d", "f"));
	assert_int_equal(-ESTALE, apply_rename(f->r, "none", "x"));
	assert_int_equal(-ENOENT, apply_rename(f->r, "f", "o/x"));
	assert_int_equal(-EINVAL, apply_rename(f->r, "f", "../outside/x"));
	assert_int_equal(0, apply_rename(f->r, "d/f", "g"));
	assert_text(f, "f\ng\n", "cd root; ls f g; ls d");
	assert_text(f, "", "ls outside");
}

/* As when $HOME is synced: a peer could make itself a sync of what was not to be synced. */
static void the_state_in_a_root_is_not_for_peers(void **state)
{
	struct sync_root *f = *state;
	static const char *const paths[] = { "state", "state/x", "state/0123/state" };
	struct expect none = { 0 };
	struct stamp stamp;
	int err;
	char why[256];
	root_close(f->r);
	struct root_options o = { .path = f->base, .store = f->store };
	f->r = root_open(&o, &err, why, sizeof(why));
	assert_non_null(f->r);
	shell(f->base, "echo source >source");
	for (enum op op = 0; op < OPS; op++)
		for (size_t i = 0; i < ARRAY_LEN(paths) && op != META && op != REMOVE; i++)
			assert_int_equal(-EINVAL, run(f, op, paths[i], &none, &stamp));
	assert_int_equal(-EINVAL, root_open_at(f->r, "state/0123/state", O_RDONLY));
	assert_int_equal(-EINVAL, apply_rename(f->r, "source", "state/x"));
	assert_int_equal(0, put_text(f, "state2", "new", &none, &stamp));
	assert_text(f, "state2\n", "ls -d state2; ls state/x state/0123/x 2>/dev/null; true");
}

/* A peer may say any time (the filesystem may have a say, too), and any size. */
static void times_and_sizes_of_any_sort(void **state)
{
	struct sync_root *f = *state;
	static const int64_t times[] = { INT64_MIN, -1, 0, INT64_MAX };
	struct expect none = { 0 };
	struct stamp stamp;
	int err;
	for (size_t i = 0; i < ARRAY_LEN(times); i++) {
		struct version *want = version_file(0644, 0, times[i], NULL), *v;
		struct put *p = put_new(f->r, "p", want, &err);
		assert_non_null(p);
		assert_int_equal(0, put_end(p, &none, &stamp));
		assert_int_equal(0, root_look(f->r, "p", &v, &stamp));
		if (i == 1 || i == 2)
			assert_int_equal(times[i], v->mtime_ns);
		version_unref(v);
		version_unref(want);
		shell(f->path, "rm p");
	}
	struct version *large = version_file(0644, SYNC_FILE_MAX + 1, 0, NULL);
	assert_null(put_new(f->r, "p", large, &err));
	assert_int_equal(-EFBIG, err);
	version_unref(large);
	assert_text(f, "", "ls state/0123/stage");
}

static void a_directory_with_only_our_own_in_it_goes(void **state)
{
	struct sync_root *f = *state;
	shell(f->path, "mkdir -p d/" SYNC_PRIVATE "/1/trash; echo x >d/" SYNC_PRIVATE "/1/trash/f");
	struct expect e = expect_now(f, "d");
	assert_int_equal(0, apply_remove(f->r, "d", &e));
	expect_free(&e);
	assert_text(f, "x\n", "find state -name f | xargs cat");
	assert_text(f, "", "ls root");
}

static void pieces_make_a_file(void **state)
{
	struct sync_root *f = *state;
	struct version *want = version_file(0600, 3 << 20, TIME, NULL);
	struct expect none = { 0 }, e;
	struct stamp stamp;
	struct stat st;
	int err;
	shell(f->path, "yes | head -c 100000 >p");
	e = expect_now(f, "p");
	struct put *p = put_new(f->r, "p", want, &err);
	assert_non_null(p);
	assert_int_equal(0, put_data(p, SLICE("begin")));
	assert_int_equal(0, put_hole(p, (1 << 20) - 5));
	assert_int_equal(0, put_copy(p, 1, 10));
	assert_int_equal(0, put_hole(p, (2 << 20) - 10));
	/* Too much. */
	assert_int_equal(0, stat(at(f->path, "p"), &st));
	assert_int_equal(100000, st.st_size);
	assert_int_equal(0, put_end(p, &e, &stamp));
	assert_int_equal(0, stat(at(f->path, "p"), &st));
	assert_int_equal(3 << 20, st.st_size);
	assert_true(st.st_blocks * 512 <= 64 << 10);
	assert_text(f, "begin", "tr -d '\\0' <root/p | head -c 5");
	assert_text(f, "\ny\ny\ny\ny\ny", "dd if=root/p bs=1 skip=1048576 count=10 2>/dev/null");
	/* Holes stay holes in a copy, too. */
	struct expect src = expect_now(f, "p");
	assert_int_equal(0, apply_copy(f->r, "p", &src, "q", want, &none, &stamp));
	assert_int_equal(0, stat(at(f->path, "q"), &st));
	assert_true(st.st_blocks * 512 <= 64 << 10);
	assert_text(f, "", "cmp root/p root/q");
	expect_free(&src);
	/* Too long, too short, a basis that ends before. */
	p = put_new(f->r, "x", want, &err);
	assert_int_equal(-EFBIG, put_hole(p, (3 << 20) + 1));
	assert_int_equal(-EFBIG, put_data(p, SLICE("x")));
	assert_int_equal(-EFBIG, put_end(p, &none, &stamp));
	p = put_new(f->r, "x", want, &err);
	assert_int_equal(0, put_data(p, SLICE("x")));
	assert_int_equal(-EINVAL, put_end(p, &none, &stamp));
	p = put_new(f->r, "q", want, &err);
	assert_int_equal(-ESTALE, put_copy(p, (3 << 20) - 5, 10));
	put_abort(p);
	p = put_new(f->r, "none", want, &err);
	assert_int_equal(-ESTALE, put_copy(p, 0, 10));
	put_abort(p);
	p = put_new(f->r, "q", want, &err);
	assert_int_equal(-ESTALE, put_copy(p, UINT64_MAX - 2, 10));
	put_abort(p);
	assert_text(f, "", "ls state/0123/stage");
	assert_text(f, "p\nq\n", "ls root");
	version_unref(want);
	expect_free(&e);
}

/* A basis that changes while it is copied from is told. */
static void a_basis_must_stay(void **state)
{
	struct sync_root *f = *state;
	struct version *want = version_file(0600, 3, TIME, NULL);
	struct stamp stamp;
	int err;
	shell(f->path, "printf abc >p; touch -d 2020-01-01 p");
	struct expect e = expect_now(f, "p");
	struct put *p = put_new(f->r, "p", want, &err);
	assert_int_equal(0, put_copy(p, 0, 2));
	shell(f->path, "printf x >>p");
	assert_int_equal(0, put_copy(p, 2, 1));
	assert_int_equal(-ESTALE, put_end(p, &e, &stamp));
	assert_text(f, "abcx", "cat root/p");
	version_unref(want);
	expect_free(&e);
}

static void a_file_that_was_given_up_can_be_resumed(void **state)
{
	struct sync_root *f = *state;
	struct version *want = version_file(0600, 4 << 20, TIME, NULL);
	struct version *other = version_file(0600, 4 << 20, TIME + 1, NULL);
	struct expect none = { 0 };
	struct stamp stamp;
	struct stat st;
	static char mib[1 << 20];
	int err, fd;
	memset(mib, 'm', sizeof(mib));
	assert_int_equal(-ENOENT, put_basis(f->r, "big", want));
	struct put *p = put_new(f->r, "big", want, &err);
	for (int i = 0; i < 3; i++)
		assert_int_equal(0, put_data(p, slice_of(mib, sizeof(mib))));
	put_abort(p);
	assert_text(f, "1\n", "ls state/0123/stage | grep -c ^p");
	assert_int_equal(-ENOENT, put_basis(f->r, "big", other));
	assert_int_equal(-ENOENT, put_basis(f->r, "bigger", want));
	/* A short one does not take its place, nor does a start. */
	p = put_new(f->r, "big", want, &err);
	assert_int_equal(0, put_data(p, slice_of(mib, sizeof(mib))));
	put_abort(p);
	sync_root_reopen(f, false);
	/* It is better than an old file of less than twice its size. */
	shell(f->path, "head -c 7000000 /dev/zero >big");
	fd = put_basis(f->r, "big", want);
	assert_int_equal(0, fstat(fd, &st));
	assert_int_equal(7000000, st.st_size);
	close(fd);
	shell(f->path, "head -c 6000000 /dev/zero >big");
	fd = put_basis(f->r, "big", want);
	assert_int_equal(0, fstat(fd, &st));
	assert_int_equal(3 << 20, st.st_size);
	p = put_new_from(f->r, "big", want, fd, &err);
	assert_int_equal(0, put_copy(p, 0, 3 << 20));
	assert_int_equal(0, put_data(p, slice_of(mib, sizeof(mib))));
	assert_int_equal(-ESTALE, put_end(p, &none, &stamp));
	/* Now all of it has come. */
	fd = put_basis(f->r, "big", want);
	assert_int_equal(0, fstat(fd, &st));
	assert_int_equal(4 << 20, st.st_size);
	p = put_new_from(f->r, "big", want, fd, &err);
	assert_int_equal(0, put_copy(p, 0, 4 << 20));
	struct expect e = expect_now(f, "big");
	assert_int_equal(0, put_end(p, &e, &stamp));
	assert_text(f, "4194304\n", "tr -cd m <root/big | wc -c");
	assert_text(f, "", "ls state/0123/stage");
	version_unref(want);
	version_unref(other);
	expect_free(&e);
}

/* kill -9: the file is in the stage under its first name, and kept by the next start. */
static void a_killed_transfer_can_be_resumed(void **state)
{
	struct sync_root *f = *state;
	struct version *want = version_file(0600, 4 << 20, TIME, NULL);
	static char mib[2 << 20];
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		int err;
		struct put *p = put_new(f->r, "big", want, &err);
		put_data(p, slice_of(mib, sizeof(mib)));
		struct version *small = version_file(0600, 100, TIME, NULL);
		p = put_new(f->r, "small", small, &err);
		put_data(p, SLICE("small"));
		_exit(0);
	}
	assert_int_equal(pid, waitpid(pid, &status, 0));
	sync_root_reopen(f, false);
	int fd = put_basis(f->r, "big", want);
	assert_true(fd >= 0);
	close(fd);
	assert_text(f, "1\n", "ls state/0123/stage | wc -l");
	/* After a day it is gone. (A file's ctime cannot be set.) */
	for (int i = 0; i < 30; i++) {
		struct version *v = version_file(0600, 4 << 20, i, NULL);
		int err;
		struct put *p = put_new(f->r, "big", v, &err);
		put_data(p, slice_of(mib, sizeof(mib)));
		put_abort(p);
		version_unref(v);
	}
	assert_text(f, "16\n", "ls state/0123/stage | wc -l");
	version_unref(want);
}

static void in_place_keeps_the_inode(void **state)
{
	struct sync_root *f = *state;
	struct stamp stamp;
	struct stat a, b;
	sync_root_reopen(f, true);
	shell(f->path, "printf 'a longer text' >p; chmod 4600 p; ln p q");
	assert_int_equal(0, stat(at(f->path, "p"), &a));
	struct expect e = expect_now(f, "p");
	assert_int_equal(0, put_text(f, "p", "short", &e, &stamp));
	expect_free(&e);
	assert_text(f, "short", "cat root/q");
	assert_text(f, "640\n", "stat -c %a root/q"); /* no set-user-id bit on another's content */
	assert_text(f, "a longer text", "cat state/0123/trash/*/*-p");
	e = expect_now(f, "p");
	assert_memory_equal(&e.stamp, &stamp, sizeof(stamp));
	assert_int_equal(0640, e.v->mode);
	assert_int_equal(TIME, e.v->mtime_ns);
	assert_int_equal(0, put_text(f, "p", "a much longer text than it was", &e, &stamp));
	assert_text(f, "a much longer text than it was", "cat root/q");
	assert_int_equal(0, stat(at(f->path, "p"), &b));
	assert_int_equal(a.st_ino, b.st_ino);
	/* Not what is expected. */
	assert_int_equal(-ESTALE, put_text(f, "p", "x", &e, &stamp));
	assert_text(f, "a much longer text than it was", "cat root/q");
	expect_free(&e);
	assert_text(f, "", "ls state/0123/stage");
}

/* A filesystem without RENAME_EXCHANGE. */
static void files_are_replaced_without_exchange(void **state)
{
	struct sync_root *f = *state;
	f->r->no_exchange = true;
	ops_do_what_they_say(state);
	ops_refuse_what_they_did_not_expect(state);
}

/* "git clean" takes the private directory away. */
static void the_stage_and_the_trash_come_back(void **state)
{
	struct sync_root *f = *state;
	struct stamp stamp;
	struct expect none = { 0 };
	assert_int_equal(0, put_text(f, "p", "one", &none, &stamp));
	for (int i = 0; i < 3; i++) {
		shell(f->base, i == 0   ? "rm -r state"
			       : i == 1 ? "rm -r state/0123/trash/*"
					: "rm -r state/0123/stage");
		struct expect e = expect_now(f, "p");
		assert_int_equal(0, put_text(f, "p", "two", &e, &stamp));
		expect_free(&e);
		e = expect_now(f, "p");
		assert_int_equal(0, apply_remove(f->r, "p", &e));
		expect_free(&e);
		assert_int_equal(0, put_text(f, "p", "one", &none, &stamp));
	}
	assert_text(f, "two", "cat $(ls -d state/0123/trash/*/* | tail -n 1)");
}

static int in_child(struct sync_root *f, void (*fn)(struct sync_root *))
{
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		fn(f);
		_exit(0);
	}
	assert_int_equal(pid, waitpid(pid, &status, 0));
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void on_full_disk(struct sync_root *f)
{
	struct version *want = version_file(0600, 2 << 20, TIME, NULL);
	static char mib[1 << 20];
	struct stamp stamp;
	struct stat st;
	int err;
	if (unshare(CLONE_NEWNS) == -1 ||
	    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == -1 ||
	    mount("none", f->base, "tmpfs", 0, "size=2m") == -1)
		_exit(77);
	for (int in_place = 0; in_place < 2; in_place++) {
		sync_root_reopen(f, in_place);
		shell(f->base, "head -c 700000 /dev/zero | tr '\\0' o >root/p");
		struct expect e = expect_now(f, "p");
		struct put *p = put_new(f->r, "p", want, &err);
		BUG_ON(!p || put_data(p, slice_of(mib, sizeof(mib))) != 0);
		BUG_ON(put_data(p, slice_of(mib, sizeof(mib))) != -ENOSPC);
		BUG_ON(put_end(p, &e, &stamp) != -ENOSPC);
		BUG_ON(!prints(f, "700000\n", "tr -cd o <root/p | wc -c"));
		BUG_ON(!prints(f, "", "ls state/0123/stage"));
		/* In place the copy for the trash, or the room, is missing in the end. */
		struct version *less = version_file(0600, 1 << 20, TIME, NULL);
		p = put_new(f->r, "p", less, &err);
		BUG_ON(put_data(p, slice_of(mib, sizeof(mib))) != 0);
		err = put_end(p, &e, &stamp);
		BUG_ON(err != (in_place ? -ENOSPC : 0));
		BUG_ON(stat(at(f->path, "p"), &st) == -1);
		if (in_place)
			BUG_ON(!prints(f, "700000\n", "tr -cd o <root/p | wc -c"));
		else
			BUG_ON(st.st_size != 1 << 20);
		version_unref(less);
		expect_free(&e);
		shell(f->base, "rm -rf state/0123/trash/* root/p");
	}
	version_unref(want);
}

static void a_full_disk_leaves_all_as_it_was(void **state)
{
	int r = in_child(*state, on_full_disk);
	if (r == 77)
		skip();
	assert_int_equal(0, r);
}

/* Not root: modes count. */
static void as_nobody(struct sync_root *f)
{
	struct expect none = { 0 }, e;
	struct stamp stamp, again;
	struct version *dir = version_dir(0555), *file = version_file(0, 3, TIME, NULL);
	int err;
	if (geteuid() == 0 && setuid(65534) == -1)
		_exit(77);
	free(f->path);
	free(f->store);
	f->path = xasprintf("%s/open/root", f->base);
	f->store = xasprintf("%s/open/state", f->base);
	sync_root_reopen(f, false);
	BUG_ON(apply_mkdir(f->r, "d", dir, &none, &stamp) != 0);
	BUG_ON(apply_mkdir(f->r, "d/e", dir, &none, &stamp) != 0);
	BUG_ON(put_text(f, "d/e/f", "one", &none, &stamp) != 0);
	e = expect_now(f, "d/e/f");
	BUG_ON(put_text(f, "d/e/f", "two", &e, &stamp) != 0);
	expect_free(&e);
	e = expect_now(f, "d/e/f");
	BUG_ON(memcmp(&e.stamp, &stamp, sizeof(stamp)) != 0);
	struct put *p = put_new(f->r, "d/g", file, &err);
	BUG_ON(!p || put_data(p, SLICE("abc")) != 0 || put_end(p, &none, &again) != 0);
	BUG_ON(apply_rename(f->r, "d/g", "d/e/g") != 0);
	BUG_ON(!prints(f, "500 555 555 640 0\n",
		       "cd open; chmod 500 root; stat -c %a root root/d root/d/e "
		       "root/d/e/f root/d/e/g | tr '\\n' ' ' | sed 's/ $/\\n/'"));
	BUG_ON(apply_remove(f->r, "d/e/f", &e) != 0);
	expect_free(&e);
	/* A directory of someone else is none of ours to change. */
	BUG_ON(apply_mkdir(f->r, "theirs/x", dir, &none, &stamp) != -EACCES);
}

static void directories_that_are_not_writable_take_files(void **state)
{
	struct sync_root *f = *state;
	shell(f->base, "chmod 755 .; mkdir -p open/root/theirs; chmod 755 open/root/theirs; "
		       "chmod 777 open open/root");
	if (geteuid() == 0)
		shell(f->base, "chown 65534 open open/root");
	int r = in_child(f, as_nobody);
	if (r == 77)
		skip();
	assert_int_equal(0, r);
}

static void an_owner_keeps_the_file(void **state)
{
	struct sync_root *f = *state;
	struct stamp stamp;
	struct expect none = { 0 };
	if (geteuid() != 0)
		skip();
	shell(f->path, "echo x >p; chown 1234:2345 p; mkdir g; chgrp 3456 g; chmod 2775 g");
	struct expect e = expect_now(f, "p");
	assert_int_equal(0, put_text(f, "p", "new", &e, &stamp));
	assert_int_equal(0, put_text(f, "g/f", "new", &none, &stamp));
	assert_text(f, "1234:2345 640\n0:3456 640\n", "stat -c '%u:%g %a' root/p root/g/f");
	expect_free(&e);
	/* Bits that make a program run as another are never set, and go with a change of mode. */
	shell(f->path, "chmod 6755 p");
	e = expect_now(f, "p");
	assert_int_equal(0755, e.v->mode);
	assert_int_equal(0, run(f, META, "p", &e, &stamp));
	expect_free(&e);
	e = expect_now(f, "g");
	assert_int_equal(0, run(f, META, "g", &e, &stamp));
	expect_free(&e);
	assert_text(f, "604\n2501\n", "stat -c %a root/p root/g");
}

/* A watch would have it read once more. */
static void what_we_put_is_no_news_of_a_write(void **state)
{
	struct sync_root *f = *state;
	struct expect none = { 0 };
	struct stamp stamp;
	char events[4096];
	int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	assert_true(inotify_add_watch(fd, f->path, IN_MODIFY | IN_CLOSE_WRITE) >= 0);
	assert_int_equal(0, put_text(f, "p", "old", &none, &stamp));
	struct expect e = expect_now(f, "p");
	assert_int_equal(0, put_text(f, "p", "new", &e, &stamp));
	assert_int_equal(-1, read(fd, events, sizeof(events)));
	assert_int_equal(EAGAIN, errno);
	shell(f->path, "echo theirs >>p");
	assert_true(read(fd, events, sizeof(events)) > 0);
	close(fd);
	expect_free(&e);
}

static unsigned open_files(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* A directory is opened once in a batch, and still each change is where its path says. */
static void a_batch_follows_paths(void **state)
{
	struct sync_root *f = *state;
	struct expect none = { 0 };
	struct stamp stamp;
	struct version *dir = version_dir(0755);
	assert_int_equal(0, put_text(f, "first", "", &none, &stamp));
	struct expect e = expect_now(f, "first");
	assert_int_equal(0, apply_remove(f->r, "first", &e));
	expect_free(&e);
	unsigned files = open_files(); /* the trash is one */
	root_batch(f->r);
	assert_int_equal(0, apply_mkdir(f->r, "d", dir, &none, &stamp));
	assert_int_equal(0, apply_mkdir(f->r, "d/e", dir, &none, &stamp));
	assert_int_equal(0, put_text(f, "d/e/1", "1", &none, &stamp));
	assert_int_equal(0, put_text(f, "d/e/2", "2", &none, &stamp));
	/* Its parent is moved, then there is another of that name. */
	assert_int_equal(0, apply_rename(f->r, "d", "moved"));
	assert_int_equal(-ENOENT, put_text(f, "d/e/3", "3", &none, &stamp));
	assert_int_equal(0, apply_mkdir(f->r, "d", dir, &none, &stamp));
	assert_int_equal(0, apply_mkdir(f->r, "d/e", dir, &none, &stamp));
	assert_int_equal(0, put_text(f, "d/e/4", "4", &none, &stamp));
	/* A file in its place. */
	e = expect_now(f, "d/e/4");
	assert_int_equal(0, apply_remove(f->r, "d/e/4", &e));
	expect_free(&e);
	e = expect_now(f, "d/e");
	assert_int_equal(0, put_text(f, "d/e", "file", &e, &stamp));
	expect_free(&e);
	assert_int_equal(-ENOENT, put_text(f, "d/e/5", "5", &none, &stamp));
	assert_text(f, "d/e\nmoved/e/1\nmoved/e/2\n", "cd root && find * -type f | sort");
	/* Two at once, the first of them kept. */
	assert_int_equal(0, put_text(f, "moved/e/6", "6", &none, &stamp));
	assert_int_equal(0, apply_rename(f->r, "moved/e/6", "d/6"));
	assert_int_equal(0, apply_rename(f->r, "d/6", "moved/7"));
	/* Others moved it: the batch is as if it had been before. The next one looks. */
	assert_int_equal(0, put_text(f, "moved/e/8", "8", &none, &stamp));
	shell(f->path, "mv moved gone; mkdir -p moved/e");
	root_batch(f->r);
	assert_int_equal(0, put_text(f, "moved/e/9", "9", &none, &stamp));
	root_batch_end(f->r);
	assert_text(f, "d/e\ngone/7\ngone/e/1\ngone/e/2\ngone/e/8\nmoved/e/9\n",
		    "cd root && find * -type f | sort");
	assert_int_equal(files, open_files());
	version_unref(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		TEST(ops_do_what_they_say),
		TEST(ops_refuse_what_they_did_not_expect),
		TEST(a_stamp_tells_more_than_size_and_time),
		TEST(what_cannot_be_says_why),
		TEST(a_directory_with_only_our_own_in_it_goes),
		TEST(pieces_make_a_file),
		TEST(a_basis_must_stay),
		TEST(a_file_that_was_given_up_can_be_resumed),
		TEST(a_killed_transfer_can_be_resumed),
		TEST(in_place_keeps_the_inode),
		TEST(times_and_sizes_of_any_sort),
		TEST(the_state_in_a_root_is_not_for_peers),
		TEST(files_are_replaced_without_exchange),
		TEST(the_stage_and_the_trash_come_back),
		TEST(a_full_disk_leaves_all_as_it_was),
		TEST(directories_that_are_not_writable_take_files),
		TEST(an_owner_keeps_the_file),
		TEST(what_we_put_is_no_news_of_a_write),
		TEST(a_batch_follows_paths),
#define TEST_NAMED(name) cmocka_unit_test_setup_teardown(name, setup_named, teardown)
		TEST_NAMED(ops_do_what_they_say),
		TEST_NAMED(ops_refuse_what_they_did_not_expect),
		TEST_NAMED(files_are_replaced_without_exchange),
		TEST_NAMED(what_we_put_is_no_news_of_a_write),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
