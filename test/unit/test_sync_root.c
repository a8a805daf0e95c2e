/* The root of a sync: what is seen, that no path leads out of it, and the bounds of the trash. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/sync/digest.h"
#include "sync_root.h"

static int setup(void **state)
{
	struct sync_root *f = sync_root_new("sync-root");
	file_put(at(f->base, "outside/f"), "secret");
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	sync_root_free(*state);
	return 0;
}

static void opens_what_is_there(void **state)
{
	struct sync_root *f = *state;
	int err;
	struct stat st;
	assert_int_equal(0, stat(at(f->store, "stage"), &st));
	assert_int_equal(0700, st.st_mode & 07777);
	assert_int_equal(0, root_check(f->r));
	assert_int_equal(-1, access(at(f->path, SYNC_PRIVATE), F_OK));
	root_close(f->r);
	shell(f->base, "rmdir root");
	f->r = sync_root_try(f, false, false, &err);
	assert_null(f->r);
	assert_int_equal(-ENOENT, err);
	file_put(f->path, "a file");
	assert_null(sync_root_try(f, false, false, &err));
	assert_int_equal(-ENOTDIR, err);
	assert_null(sync_root_try(f, true, false, &err));
	assert_int_equal(-ENOTDIR, err);
}

static struct version *look(struct sync_root *f, const char *path, struct stamp *stamp)
{
	struct version *v;
	assert_int_equal(0, root_look(f->r, path, &v, stamp));
	return v;
}

static int look_kind(struct sync_root *f, const char *path)
{
	struct stamp stamp;
	struct version *v = look(f, path, &stamp);
	int kind = v ? v->kind : 0;
	assert_int_equal(v != NULL, stamp.ino != 0);
	version_unref(v);
	return kind;
}

static void sees_what_is_at_a_path(void **state)
{
	struct sync_root *f = *state;
	struct stamp stamp;
	struct stat st;
	shell(f->path,
	      "mkdir -m 2750 d; printf 12345 >d/f; chmod 4751 d/f; ln -s ../x/y d/l; mkfifo p; "
	      "touch -d '1969-12-31 23:59:58.25 UTC' d/f; ln -s d ld");
	struct version *v = look(f, "d/f", &stamp);
	assert_int_equal(SYNC_FILE, v->kind);
	assert_int_equal(0751, v->mode);
	assert_int_equal(5, v->size);
	assert_int_equal(-1750000000, v->mtime_ns);
	assert_int_equal(0, v->hashed);
	assert_int_equal(0, stat(at(f->path, "d/f"), &st));
	assert_int_equal(st.st_ino, stamp.ino);
	assert_int_equal(st.st_ctim.tv_sec * 1000000000 + st.st_ctim.tv_nsec, stamp.ctime_ns);
	version_unref(v);
	v = look(f, "d", &stamp);
	assert_int_equal(SYNC_DIR, v->kind);
	assert_int_equal(0750, v->mode);
	version_unref(v);
	v = look(f, "d/l", &stamp);
	assert_int_equal(SYNC_LINK, v->kind);
	assert_int_equal(6, v->size);
	assert_string_equal("../x/y", v->target);
	version_unref(v);
	assert_int_equal(SYNC_DIR, look_kind(f, ""));
	assert_int_equal(SYNC_OTHER, look_kind(f, "p"));
	/* Nothing: missing, its directory missing, a file, a symlink. */
	static const char *none[] = { "n", "n/n", "d/f/n", "ld/f", "d/l/n" };
	for (size_t i = 0; i < ARRAY_LEN(none); i++)
		assert_int_equal(0, look_kind(f, none[i]));
	int dir = root_open_at(f->r, "d", O_RDONLY | O_DIRECTORY);
	assert_true(dir >= 0);
	assert_int_equal(0, root_look_at(f->r, dir, "f", &v, &stamp));
	assert_int_equal(5, v->size);
	version_unref(v);
	close(dir);
}

static void no_path_leads_out(void **state)
{
	struct sync_root *f = *state;
	static const char *bad[] = { "..",
				     "../outside/f",
				     "d/..",
				     "d/../../outside/f",
				     "/etc/passwd",
				     "d//f",
				     "d/",
				     ".",
				     "./d",
				     "/",
				     SYNC_PRIVATE,
				     (SYNC_PRIVATE "/x"),
				     ("d/" SYNC_PRIVATE) };
	static const char *links[] = { "abs/f",
				       "rel/f",
				       "abs",
				       "rel",
				       "d/up/outside/f",
				       "file",
				       "proc/self/root/etc/passwd" };
	struct version *v;
	struct stamp stamp;
	shell(f->path, "mkdir d; echo in >d/f; ln -s ../.. d/up; ln -s ../outside rel; "
		       "ln -s ../outside/f file; ln -s /proc proc; ln -s $PWD/../outside abs");
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		assert_int_equal(-EINVAL, root_open_at(f->r, bad[i], O_RDONLY));
		assert_int_equal(-EINVAL, root_look(f->r, bad[i], &v, &stamp));
		assert_null(v);
	}
	for (size_t i = 0; i < ARRAY_LEN(links); i++)
		assert_int_equal(-ELOOP, root_open_at(f->r, links[i], O_RDONLY));
	int fd = root_open_at(f->r, "d/f", O_RDONLY);
	assert_true(fd >= 0);
	assert_int_equal(FD_CLOEXEC, fcntl(fd, F_GETFD));
	close(fd);
	/* A FIFO does not block. */
	shell(f->path, "mkfifo p");
	fd = root_open_at(f->r, "p", O_RDONLY);
	assert_true(fd >= 0);
	close(fd);
}

/* In a child with mounts of its own: 77 where that is not allowed. */
static void on_mount(struct sync_root *f)
{
	struct version *v;
	struct stamp stamp;
	int err;
	if (unshare(CLONE_NEWNS) == -1 ||
	    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == -1 ||
	    mount("none", at(f->path, "m"), "tmpfs", 0, NULL) == -1)
		_exit(77);
	/* Its descriptor is of the mounts as they were. */
	root_close(f->r);
	f->r = sync_root_try(f, false, false, &err);
	file_put(at(f->path, "m/f"), "x");
	BUG_ON(mount(at(f->base, "outside/f"), at(f->path, "b"), NULL, MS_BIND, NULL) == -1);
	BUG_ON(look_kind(f, "m") != SYNC_OTHER || look_kind(f, "b") != SYNC_OTHER);
	BUG_ON(root_open_at(f->r, "m/f", O_RDONLY) != -EXDEV);
	BUG_ON(root_open_at(f->r, "b", O_RDONLY) != -EXDEV);
	BUG_ON(root_look(f->r, "m/f", &v, &stamp) != -EXDEV);
	/* A root may be a mount point itself. And its store is on another filesystem. */
	free(f->path);
	f->path = xasprintf("%s/root/m", f->base);
	struct root *r = sync_root_try(f, false, false, &err);
	BUG_ON(!r || root_look(r, "f", &v, &stamp) != 0 || v->kind != SYNC_FILE);
	struct stat st;
	BUG_ON(stat(at(f->path, SYNC_PRIVATE "/0123/trash"), &st) == -1);
	BUG_ON((st.st_mode & 07777) != 0700);
	struct expect e = { v, stamp };
	BUG_ON(apply_remove(r, "f", &e) != 0);
	shell(f->path, "cat " SYNC_PRIVATE "/0123/trash/*/*-f");
	root_close(r);
	_exit(0);
}

static void mount_points_are_others(void **state)
{
	struct sync_root *f = *state;
	int status;
	shell(f->path, "mkdir m; echo x >b");
	pid_t pid = fork();
	if (pid == 0)
		on_mount(f);
	assert_int_equal(pid, waitpid(pid, &status, 0));
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(0, WEXITSTATUS(status));
}

static void a_hash_is_of_the_file_that_was_seen(void **state)
{
	struct sync_root *f = *state;
	struct stamp stamp, none = { 0 };
	uint8_t out[32];
	file_put(at(f->path, "f"), "content");
	struct version *v = look(f, "f", &stamp);
	assert_int_equal(0, root_hash(f->r, "f", v, &stamp, NULL));
	digest_block(SLICE("content"), out);
	assert_int_equal(1, v->hashed);
	assert_memory_equal(out, v->digest, 32);
	assert_int_equal(-ESTALE, root_hash(f->r, "f", v, &none, NULL));
	/* The same size; another inode with the same times; a link; gone. */
	v->hashed = 0;
	file_put(at(f->path, "f"), "CONTENT");
	assert_int_equal(-ESTALE, root_hash(f->r, "f", v, &stamp, NULL));
	version_unref(v);
	v = look(f, "f", &stamp);
	shell(f->path, "cp -p f g; mv g f");
	assert_int_equal(-ESTALE, root_hash(f->r, "f", v, &stamp, NULL));
	shell(f->path, "ln -sf ../outside/f f");
	assert_int_equal(-ESTALE, root_hash(f->r, "f", v, &stamp, NULL));
	shell(f->path, "rm f");
	assert_int_equal(-ESTALE, root_hash(f->r, "f", v, &stamp, NULL));
	assert_int_equal(0, v->hashed);
	version_unref(v);
}

static void a_root_that_is_gone_or_another_is_told(void **state)
{
	struct sync_root *f = *state;
	char one[64], two[64];
	int err;
	root_generation(f->r, one);
	root_close(f->r);
	f->r = sync_root_try(f, false, false, &err);
	root_generation(f->r, two);
	assert_string_equal(one, two);
	shell(f->base, "mv root old");
	assert_int_equal(-ENOENT, root_check(f->r));
	file_put(f->path, "");
	assert_int_equal(-ENOTDIR, root_check(f->r));
	shell(f->base, "rm root; mkdir root");
	assert_int_equal(-ESTALE, root_check(f->r));
	shell(f->base, "rmdir root; mv old root");
	assert_int_equal(0, root_check(f->r));
	root_close(f->r);
	/* Made anew it may well have the same inode number. */
	shell(f->base, "rmdir root; mkdir root");
	f->r = sync_root_try(f, false, false, &err);
	root_generation(f->r, two);
	assert_string_not_equal(one, two);
}

/* As a guest that runs no commands opens it: who has the descriptor sees the same directory
 * wherever it is, and when it is removed. */
static void a_root_by_descriptor_that_is_gone_is_told(void **state)
{
	struct sync_root *f = *state;
	int err, fd = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char *path = f->path;
	root_close(f->r);
	f->path = xasprintf("/proc/self/fd/%d", fd);
	f->r = sync_root_try(f, false, false, &err);
	assert_int_equal(0, root_check(f->r));
	shell(f->base, "mv root old; mkdir root");
	assert_int_equal(-ENOENT, root_check(f->r));
	shell(f->base, "rmdir root; mv old root");
	assert_int_equal(0, root_check(f->r));
	shell(f->base, "rm -r root");
	assert_int_equal(-ENOENT, root_check(f->r));
	shell(f->base, "mkdir root");
	assert_int_equal(-ENOENT, root_check(f->r));
	free(f->path);
	f->path = path;
	close(fd);
}

static int count(struct sync_root *f, const char *command)
{
	char *text = output_of(f, command);
	int n = atoi(text);
	free(text);
	return n;
}

static void trash(struct sync_root *f, const char *name)
{
	struct expect e = expect_now(f, name);
	assert_int_equal(0, apply_remove(f->r, name, &e));
	expect_free(&e);
}

static void the_trash_is_kept_for_a_day_and_bounded(void **state)
{
	struct sync_root *f = *state;
	struct root_options o = { .path = f->path, .store = f->store, .trash_max = 16 * 16384 };
	char why[256], name[16];
	int err;
	root_close(f->r);
	shell(f->store, "mkdir -p trash/20200101-000000/deep/er trash/mine trash/99990101-000000; "
			"echo x >trash/20200101-000000/000000-1-f; touch trash/note; "
			"mkdir trash/$(date -u -d '23 hours ago' +%Y%m%d-%H%M%S)");
	f->r = root_open(&o, &err, why, sizeof(why));
	assert_non_null(f->r);
	root_tidy(f->r, 10000);
	/* Too old: gone; what is not ours: left. A clock that was set back does not count. */
	assert_int_equal(4, count(f, "ls state/0123/trash | wc -l"));
	assert_int_equal(0, count(f, "ls state/0123/trash | grep -c 20200101 || :"));
	shell(f->path, "for i in $(seq 10 60); do head -c 16000 /dev/zero >$i; done");
	for (int i = 10; i <= 60; i++) {
		snprintf(name, sizeof(name), "%d", i);
		trash(f, name);
	}
	root_tidy(f->r, 10000);
	/* A sixteenth of the bytes fills a batch: the newest are left, not more than allowed. */
	int left = count(f, "find state/0123/trash -name '*-[0-9][0-9]' | wc -l");
	assert_in_range(left, 12, 16);
	assert_int_equal(1, count(f, "find state/0123/trash -name '*-60' | wc -l"));
	/* The same is known after a start. */
	root_close(f->r);
	o.trash_max = 4 * 16384;
	f->r = root_open(&o, &err, why, sizeof(why));
	root_tidy(f->r, 10000);
	assert_int_equal(4, count(f, "find state/0123/trash -name '*-[0-9][0-9]' | wc -l"));
}

static void a_name_in_the_trash_tells_the_path(void **state)
{
	struct sync_root *f = *state;
	char *deep = xasprintf("%0200d/%0100d%%", 1, 2);
	shell(f->path, "mkdir -p a/b; echo x >'a/b/c%d'");
	trash(f, "a/b/c%d");
	assert_int_equal(1, count(f, "ls state/0123/trash/*/*-a%2Fb%2Fc%25d | wc -l"));
	char *make = xasprintf("mkdir %0200d; echo x >%s", 1, deep);
	shell(f->path, make);
	trash(f, deep);
	assert_int_equal(1, count(f, "ls state/0123/trash/*/*01%2F*02%25 | wc -l"));
	free(make);
	free(deep);
}

/* What cannot be written to can be looked at, and says why. */
static void a_root_without_a_stage_can_be_read(void **state)
{
	struct sync_root *f = *state;
	int status;
	shell(f->base, "chmod 755 .; echo x >root/f; chmod 555 root; rm -rf state");
	pid_t pid = fork();
	if (pid == 0) {
		struct root_options o = { .path = f->path, .store = "/proc/nowhere" };
		struct expect e = { 0 };
		struct version *v;
		char why[256];
		int err;
		if (geteuid() == 0 && setuid(65534) == -1)
			_exit(1);
		struct root *r = root_open(&o, &err, why, sizeof(why));
		BUG_ON(!r || root_look(r, "f", &v, &e.stamp) != 0 || !v);
		e.v = v;
		BUG_ON(apply_remove(r, "f", &e) != -EACCES);
		_exit(0);
	}
	assert_int_equal(pid, waitpid(pid, &status, 0));
	assert_int_equal(0, status);
}

/* Another process makes d a directory and a symlink to outside by turns. */
_Noreturn static void swapper(const char *path)
{
	BUG_ON(chdir(path) == -1);
	for (;;)
		renameat2(AT_FDCWD, "d", AT_FDCWD, "l", RENAME_EXCHANGE);
}

static void nothing_outside_is_seen_while_directories_are_swapped(void **state)
{
	struct sync_root *f = *state;
	unsigned in = 0, out = 0;
	char text[16] = { 0 };
	shell(f->path, "mkdir -p d/e; echo inside >d/e/f; ln -s ../outside l");
	shell(f->base, "mkdir outside/e; echo secret >outside/e/f");
	pid_t pid = fork();
	if (pid == 0)
		swapper(f->path);
	double until = seconds() + 20;
	while ((in < 3000 || out < 3000) && seconds() < until) {
		int fd = root_open_at(f->r, "d/e/f", O_RDONLY);
		if (fd >= 0) {
			assert_int_equal(7, read(fd, text, sizeof(text)));
			assert_memory_equal("inside", text, 6);
			close(fd);
			in++;
		} else {
			assert_int_equal(-ELOOP, fd);
			out++;
		}
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	assert_true(in > 0 && out > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		TEST(opens_what_is_there),
		TEST(sees_what_is_at_a_path),
		TEST(no_path_leads_out),
		TEST(mount_points_are_others),
		TEST(a_hash_is_of_the_file_that_was_seen),
		TEST(a_root_that_is_gone_or_another_is_told),
		TEST(a_root_by_descriptor_that_is_gone_is_told),
		TEST(the_trash_is_kept_for_a_day_and_bounded),
		TEST(a_name_in_the_trash_tells_the_path),
		TEST(a_root_without_a_stage_can_be_read),
		TEST(nothing_outside_is_seen_while_directories_are_swapped),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
