/*
 * For the targets of file sync: a root under /dev/shm with things around it that must never change,
 * a stream in memory, a clock that the input moves on, and somebody who changes files in the root,
 * also in between two system calls of the code under test.
 */
#ifndef FUZZ_SYNC_WORLD_H
#define FUZZ_SYNC_WORLD_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sanitizer/allocator_interface.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "proto/sync/wire.h"
#include "reactor/log.h"
#include "reactor/reactor.h"
#include "reactor/stream.h"

enum {
	COPY_MAX = 8 << 20,   /* what copy_file_range(2) may move in a run: then the disk is full */
	TURNS_MAX = 3000,     /* without rest, while no time passes */
	OUT_KEPT = 1 << 20,   /* of what a peer that does not read has not read */
	MEMORY_MAX = 96 << 20 /* in one run */
};

/* What was freed is soon used again: it is half of the time of a run otherwise. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "quarantine_size_mb=8:allocator_release_to_os_interval_ms=-1";
}

static struct reactor *rx;
static char base[64], root_path[80], store_path[80];
static int root_fd, store_fd;

/* --- the input, in records of RECORD bytes --- */

enum { RECORD = 16 };
static const uint8_t *input;
static size_t input_left;
static const uint8_t *rec; /* the one that counts now */

static bool record_next(void)
{
	static uint8_t last[RECORD];
	if (input_left == 0)
		return false;
	size_t n = MIN(input_left, (size_t)RECORD);
	memset(last, 0, sizeof(last));
	memcpy(last, input, n);
	input += n;
	input_left -= n;
	rec = last;
	return true;
}

/* --- the clock --- */

static uint64_t clock_ahead; /* ns */

int clock_gettime(clockid_t id, struct timespec *ts)
{
	long r = syscall(SYS_clock_gettime, id, ts);
	if (r == 0 && id == CLOCK_MONOTONIC) {
		uint64_t ns =
		    (uint64_t)ts->tv_sec * 1000000000 + (uint64_t)ts->tv_nsec + clock_ahead;
		ts->tv_sec = (time_t)(ns / 1000000000);
		ts->tv_nsec = (long)(ns % 1000000000);
	}
	return (int)r;
}

static void clock_advance(unsigned ms)
{
	clock_ahead += (uint64_t)ms * 1000000;
}

/* --- somebody else in the root --- */

static const char *const paths[] = {
	"a",          "d",       "d/b",       "new",      "d/new",    "out",        "s",
	"out/secret", "out/new", "d/e",       "d/e/f",    "d/e/new",  "big",        "fifo",
	"suid",       "link",    "s/x",       "d/b/x",    "new/sub",  "new/sub/x",  "ign/keep",
	"ign/new",    "ign",     ".tsignore", "masked",   "masked/x", "abs/secret", "abs",
	"d/link",     "d/e/g",   "big2",      "\xff\x01%"
};

static struct slice path_of(unsigned k)
{
	static char text[4][SYNC_PATH_MAX + 8];
	static unsigned next;
	static const char *const odd[] = { "..",
					   "d/../../outside/secret",
					   "/etc/passwd",
					   ".tstunnel-sync",
					   ".tstunnel-sync/x",
					   "d/.tstunnel-sync",
					   "./a",
					   "d//b",
					   "d/",
					   "" };
	if (k < 224)
		return slice_str(paths[k % ARRAY_LEN(paths)]);
	k -= 224;
	if (k < ARRAY_LEN(odd))
		return slice_str(odd[k]);
	char *p = text[next++ % 4];
	k -= ARRAY_LEN(odd);
	size_t n = k % 4 == 0 ? 255 : k % 4 == 1 ? 256 : k % 4 == 2 ? SYNC_PATH_MAX : 4096;
	memset(p, 'x', n);
	if (k & 4)
		p[n / 2] = '\0';
	for (size_t i = 200; n > 256 && !(k & 8) && i < n - 1; i += 200)
		p[i] = '/';
	return slice_of(p, n);
}

static int below(const char *path, int flags)
{
	struct open_how how = { .flags = (uint64_t)flags | O_CLOEXEC,
				.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS };
	return (int)syscall(SYS_openat2, root_fd, path, &how, sizeof(how));
}

static void clear_below(int dir)
{
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fdopendir(fd);
	BUG_ON(!d);
	for (struct dirent *e; (e = readdir(d));) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		if (syscall(SYS_unlinkat, fd, e->d_name, 0) == 0)
			continue;
		int sub = openat(fd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (sub == -1)
			continue;
		clear_below(sub);
		close(sub);
		syscall(SYS_unlinkat, fd, e->d_name, AT_REMOVEDIR);
	}
	closedir(d);
}

static void put_file(int dir, const char *name, size_t n, unsigned mode)
{
	static const char text[] = "some text of a file that is long enough for all of this";
	int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd == -1)
		return;
	if (n <= sizeof(text) && write(fd, text, n) != (ssize_t)n)
		n = 0;
	if (n > sizeof(text) &&
	    (pwrite(fd, text, 40, (off_t)n - 40) != 40 || pwrite(fd, text, 40, 0) != 40))
		n = 0;
	fchmod(fd, mode);
	close(fd);
}

/* One change, by whoever else works in the root. */
static void somebody(unsigned what, const char *path, const char *other)
{
	static const char *const targets[] = { "../outside", "../outside/secret", "../../outside",
					       "../outside/d" };
	char parent[SYNC_PATH_MAX + 1];
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
	struct stat st;
	other = strrchr(other, '/') ? strrchr(other, '/') + 1 : other; /* he keeps to the root */
	snprintf(parent, sizeof(parent), "%.*s", slash ? (int)(slash - path) : 1,
		 slash ? path : ".");
	int dir = below(parent, O_RDONLY | O_DIRECTORY);
	if (dir == -1)
		return;
	switch (what % 12) {
	case 0:
		put_file(dir, name, what & 16 ? 7 : 4, 0644);
		break;
	case 1:
		syscall(SYS_unlinkat, dir, name, 0);
		break;
	case 2:
		syscall(SYS_mkdirat, dir, name, 0755);
		break;
	case 3: /* whatever is there becomes a link that leads out */
	case 4:
		syscall(SYS_renameat2, dir, name, root_fd, "moved", 0);
		syscall(SYS_symlinkat, targets[what / 16 % ARRAY_LEN(targets)], dir, name);
		break;
	case 5:
		syscall(SYS_renameat2, dir, name, root_fd, other, 0);
		break;
	case 6:
		if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISLNK(st.st_mode))
			fchmodat(dir, name, what & 16 ? 0700 : 04755, 0);
		break;
	case 7:
		mkfifoat(dir, name, 0644);
		break;
	case 8:
		put_file(dir, name, what & 16 ? 300000 : 1200000, 0644);
		break;
	case 9:
		syscall(SYS_unlinkat, dir, name, AT_REMOVEDIR);
		break;
	case 10:
		syscall(SYS_renameat2, dir, name, root_fd, other, RENAME_EXCHANGE);
		break;
	default:
		syscall(SYS_linkat, dir, name, root_fd, other, 0);
		break;
	}
	close(dir);
}

/* Somebody is quick: between two system calls. */
static unsigned race_in, race_what, race_path, race_other;

static void race(void)
{
	if (race_in && --race_in == 0)
		somebody(race_what, paths[race_path % ARRAY_LEN(paths)],
			 paths[race_other % ARRAY_LEN(paths)]);
}

int renameat2(int a, const char *from, int b, const char *to, unsigned flags)
{
	race();
	return (int)syscall(SYS_renameat2, a, from, b, to, flags);
}

int renameat(int a, const char *from, int b, const char *to)
{
	race();
	return (int)syscall(SYS_renameat2, a, from, b, to, 0);
}

int mkdirat(int dir, const char *name, mode_t mode)
{
	race();
	return (int)syscall(SYS_mkdirat, dir, name, mode);
}

int symlinkat(const char *target, int dir, const char *name)
{
	race();
	return (int)syscall(SYS_symlinkat, target, dir, name);
}

int unlinkat(int dir, const char *name, int flags)
{
	race();
	return (int)syscall(SYS_unlinkat, dir, name, flags);
}

int linkat(int a, const char *from, int b, const char *to, int flags)
{
	race();
	return (int)syscall(SYS_linkat, a, from, b, to, flags);
}

static size_t copied;
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t n, unsigned flags)
{
	race();
	if (copied >= COPY_MAX) {
		errno = ENOSPC;
		return -1;
	}
	long r = syscall(SYS_copy_file_range, in, from, out, to, MIN(n, COPY_MAX - copied), flags);
	copied += r > 0 ? (size_t)r : 0;
	return r;
}

/* --- one inotify descriptor for all runs: to close one takes the kernel 10 ms --- */

static int notify_fd;

int inotify_init1(int how)
{
	char old[4096];
	(void)how;
	while (read(notify_fd, old, sizeof(old)) > 0)
		;
	return fcntl(notify_fd, F_DUPFD_CLOEXEC, 3);
}

/* --- what is not to change --- */

static const char *const canaries[] = {
	"..", ".", "outside", "outside/secret", "outside/d", "outside/d/x", "outside/link", "state"
};
static struct stat canary_was[ARRAY_LEN(canaries)];

static const char *at(const char *name)
{
	static char path[4][160];
	static unsigned next;
	char *p = path[next++ % 4];
	snprintf(p, sizeof(path[0]), "%s/%s", base, name);
	return p;
}

static bool stat_same(const struct stat *a, const struct stat *b)
{
	return a->st_ino == b->st_ino && a->st_mode == b->st_mode && a->st_nlink == b->st_nlink &&
	       a->st_uid == b->st_uid && a->st_gid == b->st_gid && a->st_size == b->st_size &&
	       a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
	       a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

/* Every change of a name, of content or attributes changes a ctime. */
static void world_check(void)
{
	for (size_t i = 0; i < ARRAY_LEN(canaries); i++) {
		struct stat st;
		if (lstat(at(canaries[i]), &st) == 0 && stat_same(&st, &canary_was[i]))
			continue;
		fprintf(stderr, "%s has changed\n", at(canaries[i]));
		abort();
	}
}

static void world_remove(void)
{
	int fd = open(base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	clear_below(fd);
	close(fd);
	rmdir(base);
	*strrchr(base, '/') = '\0';
	rmdir(base);
}

static void world_new(void)
{
	rx = reactor_new();
	log_set_level("error");
	umask(0);
	snprintf(base, sizeof(base), "/dev/shm/sync-fuzz.%d", (int)getpid());
	BUG_ON(mkdir(base, 0755) == -1);
	snprintf(base, sizeof(base), "/dev/shm/sync-fuzz.%d/x", (int)getpid());
	BUG_ON(mkdir(base, 0755) == -1 || mkdir(at("root"), 0755) == -1 ||
	       mkdir(at("state"), 0755) == -1 || mkdir(at("state/0123"), 0755) == -1 ||
	       mkdir(at("outside"), 0755) == -1 || mkdir(at("outside/d"), 0755) == -1);
	put_file(AT_FDCWD, at("outside/secret"), 6, 0644);
	put_file(AT_FDCWD, at("outside/d/x"), 6, 0644);
	BUG_ON(symlink("secret", at("outside/link")) == -1);
	snprintf(root_path, sizeof(root_path), "%s/root", base);
	snprintf(store_path, sizeof(store_path), "%s/state/0123", base);
	root_fd = open(root_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	store_fd = open(store_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	notify_fd = (int)syscall(SYS_inotify_init1, IN_NONBLOCK | IN_CLOEXEC);
	BUG_ON(root_fd == -1 || store_fd == -1 || notify_fd == -1);
	for (size_t i = 0; i < ARRAY_LEN(canaries); i++)
		BUG_ON(lstat(at(canaries[i]), &canary_was[i]) == -1);
	nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL); /* a tick of ctime */
	atexit(world_remove);
}

static void world_fill(bool large)
{
	static char out[96];
	copied = race_in = 0;
	fchmod(root_fd, 0755);
	BUG_ON(fchown(root_fd, 0, 0) == -1 && geteuid() == 0);
	clear_below(root_fd);
	clear_below(store_fd);
	syscall(SYS_mkdirat, root_fd, "d", 0755);
	syscall(SYS_mkdirat, root_fd, "d/e", 0755);
	syscall(SYS_mkdirat, root_fd, "ign", 0755);
	put_file(root_fd, "a", 4, 0644);
	put_file(root_fd, "d/b", 5, 0600);
	put_file(root_fd, "ign/keep", 5, 0600);
	put_file(root_fd, "suid", 5, 04755);
	if (large)
		put_file(root_fd, "big", 1200000, 0644);
	snprintf(out, sizeof(out), "%s/outside", base);
	syscall(SYS_symlinkat, "../outside", root_fd, "out");
	syscall(SYS_symlinkat, "../outside/secret", root_fd, "s");
	syscall(SYS_symlinkat, out, root_fd, "abs");
}

static unsigned fds(void)
{
	unsigned n = 0;
	DIR *d = opendir("/proc/self/fd");
	BUG_ON(!d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* --- versions --- */

static const uint64_t sizes[] = { 0,          1,          4,          7,        100,     65536,
				  65537,      262144,     262145,     1 << 20,  1200000, 3 << 20,
				  1ULL << 32, 1ULL << 33, 1ULL << 62, INT64_MAX };
static const int64_t times[] = { 0, 1, -1, 1700000000123456789, INT64_MAX, INT64_MIN, -999999999 };
static const unsigned modes[] = { 0644, 0755, 0600, 0, 0777, 0444, 0100, 0555 };

/* What is on the disk there. */
static struct version *version_there(struct slice path, bool spoil)
{
	char text[SYNC_PATH_MAX + 1];
	struct stat st;
	ssize_t n;
	if (path.n == 0 || path.n > SYNC_PATH_MAX || memchr(path.p, '\0', path.n) || *path.p == '/')
		return NULL;
	memcpy(text, path.p, path.n);
	text[path.n] = '\0';
	if (fstatat(root_fd, text, &st, AT_SYMLINK_NOFOLLOW) == -1)
		return NULL;
	switch (st.st_mode & S_IFMT) {
	case S_IFDIR:
		return version_dir((st.st_mode & 0777) ^ spoil);
	case S_IFREG:
		return version_file(st.st_mode & 0777, (uint64_t)st.st_size,
				    (int64_t)((uint64_t)st.st_mtim.tv_sec * 1000000000u +
					      (uint64_t)st.st_mtim.tv_nsec + spoil),
				    NULL);
	case S_IFLNK:
		n = readlinkat(root_fd, text, text, sizeof(text));
		return n > (ssize_t)spoil ? version_link(slice_of(text, (size_t)n - spoil)) : NULL;
	default:
		return version_other();
	}
}

static struct version *file_version(unsigned k, uint64_t size)
{
	uint8_t digest[SYNC_DIGEST];
	memset(digest, (int)(k & 3), sizeof(digest));
	return version_file(modes[k / 4 % ARRAY_LEN(modes)], size, times[k / 32 % ARRAY_LEN(times)],
			    k & 1 ? digest : NULL);
}

static struct version *link_version(unsigned k)
{
	static const char *const targets[] = {
		"../outside", "../outside/secret", "a", "d", "/dev/shm", "..", "/", "."
	};
	static char text[SYNC_PATH_MAX];
	if (k < 248)
		return version_link(slice_str(targets[k % ARRAY_LEN(targets)]));
	memset(text, 'y', sizeof(text));
	return version_link(slice_of(text, sizeof(text)));
}

static struct version *any_version(unsigned k, unsigned arg)
{
	switch (k % 8) {
	case 0:
		return NULL;
	case 1:
	case 2:
		return version_dir(modes[arg % ARRAY_LEN(modes)]);
	case 3:
		return link_version(arg);
	case 4:
		return k < 128 ? file_version(arg, 4) : version_other();
	default:
		return file_version(arg, sizes[k / 16 % ARRAY_LEN(sizes)]);
	}
}

/* --- a stream in memory; its other end is the target's --- */

struct memory_stream {
	struct stream s;
	struct task *owner;
	char *in, *out;
	size_t in_at, in_n, in_cap, out_n, out_cap, out_max;
	bool eof, closed;
};

static unsigned calls; /* of any verb: who makes none has nothing to do */

static struct memory_stream *memory_of(struct stream *s)
{
	return container_of(s, struct memory_stream, s);
}

static ssize_t memory_read(struct stream *s, const struct iovec *iov, int n)
{
	struct memory_stream *m = memory_of(s);
	BUG_ON(n != 1 || m->closed);
	calls++;
	if (m->in_at == m->in_n) {
		m->in_at = m->in_n = 0;
		return m->eof ? 0 : -EAGAIN;
	}
	size_t k = MIN(m->in_n - m->in_at, iov->iov_len);
	memcpy(iov->iov_base, m->in + m->in_at, k);
	m->in_at += k;
	return (ssize_t)k;
}

static void append(char **to, size_t *n, size_t *cap, const void *p, size_t len)
{
	if (*cap - *n < len) {
		*cap = MAX(2 * *cap, *n + len);
		*to = xrealloc(*to, *cap);
	}
	if (len)
		memcpy(*to + *n, p, len);
	*n += len;
}

static ssize_t memory_write(struct stream *s, const struct iovec *iov, int n)
{
	struct memory_stream *m = memory_of(s);
	size_t done = 0;
	BUG_ON(m->closed);
	calls++;
	for (int i = 0; i < n; i++) {
		size_t k = MIN(iov[i].iov_len, m->out_max - m->out_n);
		append(&m->out, &m->out_n, &m->out_cap, iov[i].iov_base, k);
		done += k;
	}
	return done || n == 0 ? (ssize_t)done : m->eof ? -EPIPE : -EAGAIN;
}

static int memory_shut(struct stream *s)
{
	(void)s;
	return 0;
}

static void memory_close(struct stream *s, int why)
{
	(void)why;
	memory_of(s)->closed = true;
}

static void memory_bind(struct stream *s, struct task *t)
{
	memory_of(s)->owner = t;
	if (t)
		task_wake(rx, t);
}

static const struct stream_ops memory_ops = { .name = "memory",
					      .read = memory_read,
					      .write = memory_write,
					      .shut = memory_shut,
					      .close = memory_close,
					      .bind = memory_bind };

static void memory_begin(struct memory_stream *m)
{
	m->s = (struct stream){ &memory_ops, rx };
	m->in_at = m->in_n = m->out_n = 0;
	m->out_max = OUT_KEPT;
	m->eof = m->closed = false;
	m->owner = NULL;
}

static void memory_end(struct memory_stream *m)
{
	free(m->in);
	free(m->out);
	m->in = m->out = NULL;
	m->in_cap = m->out_cap = m->in_at = m->in_n = m->out_n = 0;
}

static void memory_wake(struct memory_stream *m)
{
	if (!m->closed && m->owner)
		task_wake(rx, m->owner);
}

static void memory_say(struct memory_stream *m, const void *p, size_t n)
{
	append(&m->in, &m->in_n, &m->in_cap, p, n);
	memory_wake(m);
}

/* Encodes and says it; spoil: 0, or changes a byte of it. */
static void memory_send(struct memory_stream *m, const struct msg *msg, unsigned spoil, unsigned to)
{
	static char out[WIRE_MAX + WIRE_HEAD];
	size_t n = wire_size(msg);
	if (n > sizeof(out))
		return;
	char *p = wire_put(msg, out);
	if (msg->data.n)
		memcpy(p, msg->data.p, msg->data.n);
	if (spoil)
		out[spoil % MIN(n, 64u)] ^= (char)to;
	memory_say(m, out, n);
}

/* --- the reactor --- */

static bool turned;
static void on_turn(struct task *t)
{
	(void)t;
	turned = true;
}

/* Turns until nobody has anything to do, while no time passes to speak of. */
static void settle(const bool *ended)
{
	static struct task task;
	unsigned before;
	if (!task.run)
		task_init(&task, on_turn);
	for (int i = 0, idle = 0; idle < 2 && !*ended; i++) {
		if (i >= TURNS_MAX) {
			fprintf(stderr, "it does not come to rest\n");
			abort();
		}
		before = calls;
		turned = false;
		task_wake(rx, &task);
		reactor_run_until(rx, &turned);
		idle = calls == before ? idle + 1 : 0;
	}
}

/* --- begin and end of a run --- */

static size_t memory_before;
static unsigned fds_before;

static void run_begin(const uint8_t *data, size_t size)
{
	if (!rx)
		world_new();
	input = data;
	input_left = size;
	memory_before = __sanitizer_get_current_allocated_bytes();
	fds_before = fds();
}

static void memory_check(void)
{
	size_t now = __sanitizer_get_current_allocated_bytes();
	if (now > memory_before + MEMORY_MAX) {
		fprintf(stderr, "%zu bytes of memory\n", now - memory_before);
		abort();
	}
}

static void run_end(void)
{
	world_check();
	if (fds() != fds_before) {
		fprintf(stderr, "%u descriptors, and were %u\n", fds(), fds_before);
		abort();
	}
}

#endif
