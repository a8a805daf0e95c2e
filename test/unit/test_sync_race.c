/*
 * Changes under a root while another process writes to the same paths: what it wrote is at the path
 * or in the trash, every byte. And while it swaps directories for symlinks: nothing outside
 * changes.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/sync/root_int.h"
#include "sync_root.h"

enum { RECORDS = 3000 };

/* What the writer has written, for sure. */
struct shared {
	unsigned written; /* records 0 ... written - 1 */
	bool stop;
};

static struct shared *shared;
static uint64_t seed;

static int setup(void **state)
{
	struct sync_root *f = sync_root_new("sync-race");
	shared =
	    mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	BUG_ON(shared == MAP_FAILED);
	seed = (uint64_t)getpid();
	shell(f->base, "mkdir mine");
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	munmap(shared, sizeof(*shared));
	sync_root_free(*state);
	return 0;
}

static unsigned rnd(unsigned n)
{
	seed = seed * 6364136223846793005U + 1442695040888963407U;
	return (unsigned)(seed >> 33) % n;
}

/* "<12>" */
static struct slice record(unsigned i, char out[16])
{
	return slice_of(out, (size_t)snprintf(out, 16, "<%u>", i));
}

static void record_new(unsigned i)
{
	char text[16];
	struct slice s = record(i, text);
	int fd = open("mine/new", O_WRONLY | O_CREAT | O_TRUNC, 0644);
	BUG_ON(fd == -1 || write(fd, s.p, s.n) != (ssize_t)s.n);
	close(fd);
}

/* Writes records one after the other, without losing one itself: it makes the file if there is
 * none, appends to what is there, or puts a new one in its place and keeps the old one. */
static void write_records(struct sync_root *f)
{
	char text[64], own[64];
	unsigned away = 0;
	BUG_ON(chdir(f->base) == -1);
	for (unsigned i = 0; i < RECORDS && !*(volatile bool *)&shared->stop;) {
		bool done = false;
		struct slice s = record(i, text);
		int fd;
		switch (rnd(4)) {
		case 0:
			record_new(i);
			done = renameat2(AT_FDCWD, "mine/new", AT_FDCWD, "root/p",
					 RENAME_NOREPLACE) == 0;
			break;
		case 1:
			fd = open("root/p", O_WRONLY | O_APPEND | O_NOFOLLOW);
			done = fd != -1 && write(fd, s.p, s.n) == (ssize_t)s.n;
			if (fd != -1)
				close(fd);
			break;
		case 2:
			record_new(i);
			snprintf(own, sizeof(own), "mine/%u", i);
			BUG_ON(rename("mine/new", own) == -1);
			done = renameat2(AT_FDCWD, own, AT_FDCWD, "root/p", RENAME_EXCHANGE) == 0;
			if (!done)
				unlink(own);
			break;
		default: /* away, and kept */
			snprintf(own, sizeof(own), "mine/away%u", away++);
			rename("root/p", own);
			break;
		}
		if (done)
			__atomic_store_n(&shared->written, ++i, __ATOMIC_SEQ_CST);
	}
	_exit(0);
}

static int change(struct sync_root *f, unsigned what, const struct expect *e,
		  const struct expect *src)
{
	struct version *want = what < 3    ? version_file(0644, 3, rnd(1000), NULL)
			       : what == 3 ? version_link(SLICE("to"))
					   : version_file(0644, 6, 77, NULL);
	struct stamp stamp;
	int err = 0;
	if (what < 3) {
		struct put *p = put_new(f->r, "p", want, &err);
		assert_non_null(p);
		assert_int_equal(0, put_data(p, SLICE("new")));
		err = put_end(p, e, &stamp);
	} else if (what == 3) {
		err = apply_link(f->r, "p", want, e, &stamp);
	} else if (what == 4) {
		err = apply_copy(f->r, "source", src, "p", want, e, &stamp);
	} else if (e->v) {
		err = apply_remove(f->r, "p", e);
	}
	version_unref(want);
	return err;
}

static void nothing_written_is_lost(struct sync_root *f)
{
	unsigned done = 0, stale = 0;
	file_put(at(f->path, "source"), "source");
	struct expect src = expect_now(f, "source");
	pid_t pid = fork();
	if (pid == 0)
		write_records(f);
	double until = seconds() + 8;
	while (waitpid(pid, NULL, WNOHANG) == 0) {
		struct expect e = expect_now(f, "p");
		/* At times by kind, size and time alone. */
		if (rnd(2))
			e.stamp = (struct stamp){ 0 };
		int err = change(f, rnd(6), &e, &src);
		if (err != 0 && err != -ESTALE)
			print_error("%s\n", strerror(-err));
		assert_true(err == 0 || err == -ESTALE);
		done += err == 0;
		stale += err != 0;
		expect_free(&e);
		if (seconds() > until)
			shared->stop = true;
	}
	expect_free(&src);
	/* All records, each as often as there is "<i>" somewhere. */
	char *text = output_of(f, "find root state mine -type f -exec cat '{}' +");
	bool *found = xcalloc(RECORDS, 1);
	for (char *s = text; (s = strchr(s, '<')); s++) {
		char *end;
		unsigned long i = strtoul(s + 1, &end, 10);
		if (*end == '>' && i < RECORDS)
			found[i] = true;
	}
	unsigned lost = 0;
	for (unsigned i = 0; i < shared->written; i++)
		if (!found[i] && lost++ < 10)
			print_error("record %u is lost\n", i);
	print_message("%u records, %u changes, %u refused, %u lost\n", shared->written, done, stale,
		      lost);
	assert_int_equal(0, lost);
	assert_true(shared->written > 100 && done > 100 && stale > 0);
	free(found);
	free(text);
	assert_int_equal(0, rmdir(at(f->store, "stage")));
}

static void nothing_written_is_lost_with_exchange(void **state)
{
	nothing_written_is_lost(*state);
}

static void nothing_written_is_lost_with_names(void **state)
{
	struct sync_root *f = *state;
	f->r->nameless = false;
	nothing_written_is_lost(f);
}

/* a is a directory and a symlink to outside by turns. */
static void swap_forever(struct sync_root *f)
{
	BUG_ON(chdir(f->path) == -1);
	for (unsigned i = 0;; i++) {
		renameat2(AT_FDCWD, "a", AT_FDCWD, "l", RENAME_EXCHANGE);
		if (i % 3 == 0)
			renameat2(AT_FDCWD, "d/a", AT_FDCWD, "d/l", RENAME_EXCHANGE);
	}
}

static void hostile(struct sync_root *f, const char *top, unsigned what)
{
	char path[64], to[64];
	struct version *dir = version_dir(0700), *link = version_link(SLICE("x")),
		       *file = version_file(0600, 1, 1, NULL), *seen = NULL;
	struct expect none = { 0 }, e = { 0 };
	struct stamp stamp;
	int err;
	snprintf(path, sizeof(path), "%s/%s", top, what % 2 ? "canary" : "x/canary");
	snprintf(to, sizeof(to), "%s/%s", top, what % 3 ? "new" : "x/new");
	root_look(f->r, path, &seen, &e.stamp);
	e.v = seen;
	switch (what / 2 % 7) {
	case 0:
		apply_mkdir(f->r, to, dir, &none, &stamp);
		break;
	case 1:
		apply_link(f->r, to, link, &none, &stamp);
		break;
	case 2:
		if (seen)
			apply_remove(f->r, path, &e);
		break;
	case 3:
		apply_rename(f->r, path, to);
		break;
	case 4:
		if (seen)
			apply_meta(f->r, path, seen->kind == SYNC_DIR ? dir : file, &e, &stamp);
		break;
	default: {
		struct put *p = put_new(f->r, what & 1 ? path : to, file, &err);
		put_data(p, SLICE("x"));
		put_end(p, what & 1 ? &e : &none, &stamp);
		break;
	}
	}
	version_unref(seen);
	version_unref(dir);
	version_unref(link);
	version_unref(file);
}

static void nothing_outside_changes(void **state)
{
	struct sync_root *f = *state;
	/* The same names there, so that an operation that is led out finds what it wants. */
	shell(f->base, "umask 022; mkdir outside/x; echo secret >outside/canary; "
		       "echo secret >outside/x/canary; mkdir -p root/a/x root/d/a/x; "
		       "ln -s ../outside root/l; ln -s $PWD/outside root/d/l");
	shell(f->base, "find outside -printf '%p %m %T@ %C@ %s %i\\n' | sort >before");
	pid_t pid = fork();
	if (pid == 0)
		swap_forever(f);
	double until = seconds() + 6;
	unsigned i = 0;
	for (; i < 20000 && seconds() < until; i++) {
		if (i % 100 == 0) {
			kill(pid, SIGSTOP);
			assert_int_equal(pid, waitpid(pid, NULL, WUNTRACED));
			shell(f->path,
			      "for d in a l d/a d/l; do [ -L $d ] || { rm -rf $d/*; mkdir $d/x; "
			      "echo x >$d/canary; echo x >$d/x/canary; }; done");
			kill(pid, SIGCONT);
		}
		if (i % 10 == 0)
			root_batch(f->r);
		hostile(f, i % 2 ? "a" : "d/a", rnd(84));
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	print_message("%u operations\n", i);
	assert_true(i > 500);
	shell(f->base,
	      "find outside -printf '%p %m %T@ %C@ %s %i\\n' | sort >after; cmp before after");
}

/* What others do at the very moment between the look at a path and the change of it: the calls
 * that make it go through here. */
static struct {
	struct sync_root *f; /* NULL: nothing is done */
	const char *command[2];
	unsigned calls;
} meanwhile;

static void others_do(void)
{
	if (!meanwhile.f || meanwhile.calls >= ARRAY_LEN(meanwhile.command))
		return;
	const char *command = meanwhile.command[meanwhile.calls++];
	if (command)
		shell(meanwhile.f->base, command);
}

int renameat2(int dir, const char *name, int to, const char *toname, unsigned flags)
{
	if (flags & RENAME_EXCHANGE)
		others_do();
	return (int)syscall(SYS_renameat2, dir, name, to, toname, flags);
}

int renameat(int dir, const char *name, int to, const char *toname)
{
	if (strcmp(name, "p") == 0)
		others_do();
	return (int)syscall(SYS_renameat2, dir, name, to, toname, 0);
}

int linkat(int dir, const char *name, int to, const char *toname, int flags)
{
	if (strcmp(name, "p") == 0)
		others_do();
	return (int)syscall(SYS_linkat, dir, name, to, toname, flags);
}

/* A change of p (0 to 4: see change; 5: its removal) for which others are faster. */
static void too_late(struct sync_root *f, unsigned what, const char *first, const char *then,
		     const char *left)
{
	shell(f->base, "rm -rf root/p state/0123/trash/*; echo old >root/p; echo mine >mine/1;"
		       "echo newer >mine/2");
	struct expect e = expect_now(f, "p"), src = expect_now(f, "source");
	meanwhile.f = f;
	meanwhile.command[0] = first;
	meanwhile.command[1] = then;
	meanwhile.calls = 0;
	int err = change(f, what, &e, &src);
	meanwhile.f = NULL;
	assert_int_equal(-ESTALE, err);
	assert_true(meanwhile.calls >= (then ? 2 : 1));
	expect_free(&e);
	expect_free(&src);
	char *text = output_of(f, "cat root/p");
	assert_string_equal(left, text);
	free(text);
	assert_int_equal(0, rmdir(at(f->store, "stage")));
	sync_root_reopen(f, false);
}

static void others_are_faster(void **state)
{
	struct sync_root *f = *state;
	file_put(at(f->path, "source"), "source");
	for (unsigned what = 0; what < 6; what++) {
		if (what == 1 || what == 2)
			continue; /* as 0 */
		too_late(f, what, "mv mine/1 root/p", NULL, "mine\n");
		too_late(f, what, "echo more >>root/p", NULL, "old\nmore\n");
		if (what == 5)
			continue; /* no exchange */
		/* And once more while theirs is put back. */
		too_late(f, what, "mv mine/1 root/p", "mv mine/2 root/p", "newer\n");
		shell(f->base, "grep -qr mine state/0123/trash");
		too_late(f, what, "mv mine/1 root/p", "echo more >>root/p", "mine\n");
		shell(f->base, "grep -qr more state/0123/trash root");
		too_late(f, what, "mv mine/1 root/p", "mv root/p mine/3", "mine\n");
		f->r->no_exchange = true;
		too_late(f, what, "mv mine/1 root/p", NULL, "mine\n");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		TEST(nothing_written_is_lost_with_exchange),
		TEST(nothing_written_is_lost_with_names),
		TEST(nothing_outside_changes),
		TEST(others_are_faster),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
