#include "cmd/pico-apiserver/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "reactor/child.h"
#include "reactor/err.h"
#include "reactor/log.h"

struct session_store {
	struct reactor *rx;
	char *path;
	int lock, dir;
	bool memory; /* a tmpfs: nothing to sync */
	bool dirty;  /* since the child began */
	struct child *child;
	struct timer timer;
};

enum { NAME_ROOM = SANDBOX_ID_LEN + 16, SYNC_MS = 100 };

/* --- syncing --- */

int session_sync_main(void)
{
	int fd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd != -1 && syncfs(fd) == 0)
		return 0;
	fprintf(stderr, "%s\n", err_text(-errno));
	return 1;
}

static void changed(struct session_store *s)
{
	if (s->memory)
		return;
	s->dirty = true;
	if (!s->child && !timer_is_set(&s->timer))
		timer_set(s->rx, &s->timer, SYNC_MS);
}

static void on_synced(void *arg, const struct child_status *st)
{
	struct session_store *s = arg;
	if (st->exec_errno || st->signal || st->exit_code)
		log_warn("session-sync dir=%s exit=%d error=%s", log_quote(slice_str(s->path)),
			 st->exit_code, err_text(-st->exec_errno));
	child_free(s->child);
	s->child = NULL;
	if (s->dirty)
		changed(s);
}

static void sync_fire(struct timer *t)
{
	struct session_store *s = container_of(t, struct session_store, timer);
	char *argv[] = { (char[]){ "/proc/self/exe" }, (char[]){ SESSION_SYNC_NAME }, NULL };
	char *envp[] = { NULL };
	int err;
	s->dirty = false;
	s->child = child_spawn(
	    s->rx, &(struct child_options){ .argv = argv, .envp = envp, .dir = s->path }, NULL,
	    on_synced, s, &err);
	if (!s->child)
		log_warn("session-sync error=%s", err_text(err));
}

/* --- the directory --- */

/* mkdir -p; only the last one is made private. */
static int make_directories(const char *path)
{
	char *copy = xstrdup(path);
	int r = 0;
	for (char *p = copy + 1; *p && r == 0; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		r = mkdir(copy, 0755) == -1 && errno != EEXIST ? -errno : 0;
		*p = '/';
	}
	if (r == 0 && mkdir(copy, 0700) == -1 && errno != EEXIST)
		r = -errno;
	free(copy);
	return r;
}

/* A server that was killed may have been about to exec a child, which has its files until then. */
static int take_lock(int fd)
{
	for (int tries = 0; flock(fd, LOCK_EX | LOCK_NB) == -1; tries++) {
		if (errno != EWOULDBLOCK || tries == 20)
			return -1;
		usleep(50 * 1000);
	}
	return 0;
}

static int open_all(struct session_store *s, const char *path, const char **what)
{
	struct stat st;
	*what = "cannot make it";
	int r = make_directories(path);
	if (r < 0)
		return r;
	int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir == -1)
		return -errno;
	*what = "it must belong to this user and nobody else may write to it";
	if (fstat(dir, &st) == -1 || st.st_uid != geteuid() || (st.st_mode & 022)) {
		close(dir);
		return -EPERM;
	}
	*what = "cannot make files in it";
	s->lock = openat(dir, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	r = s->lock == -1 ? -errno : 0;
	if (r == 0 && take_lock(s->lock) < 0) {
		*what = "another pico-apiserver uses it (--state-dir chooses another)";
		r = -errno;
	}
	if (r == 0 && mkdirat(dir, "sessions", 0700) == -1 && errno != EEXIST)
		r = -errno;
	if (r == 0 && (s->dir = openat(dir, "sessions",
				       O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)) == -1)
		r = -errno;
	close(dir);
	struct statfs fs;
	s->memory = r == 0 && fstatfs(s->dir, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
	return r;
}

struct session_store *session_store_open(struct reactor *rx, const char *path, char *err,
					 size_t errlen)
{
	const char *what;
	struct session_store *s = xcalloc(1, sizeof(*s));
	s->rx = rx;
	s->path = xstrdup(path);
	s->lock = s->dir = -1;
	timer_init(&s->timer, sync_fire);
	int r = open_all(s, path, &what);
	if (r == 0)
		return s;
	snprintf(err, errlen, "state directory %s: %s: %s", path, what, err_text(r));
	session_store_close(s);
	return NULL;
}

void session_store_close(struct session_store *s)
{
	if (!s)
		return;
	timer_clear(s->rx, &s->timer);
	if (s->dir != -1 && (s->dirty || s->child))
		syncfs(s->dir);
	child_free(s->child);
	if (s->lock != -1)
		close(s->lock);
	if (s->dir != -1)
		close(s->dir);
	free(s->path);
	free(s);
}

static int load_one(struct session_store *s, const char *name, struct sandbox_record *rec)
{
	char err[256] = "", bad[NAME_MAX + 8];
	char *text = xmalloc(SANDBOX_RECORD_MAX);
	int fd = openat(s->dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	ssize_t n = fd == -1 ? -1 : read(fd, text, SANDBOX_RECORD_MAX);
	int r = n == -1 ? -errno : 0;
	if (fd != -1)
		close(fd);
	if (r == 0)
		r = sandbox_record_get(rec, slice_of(text, (size_t)n), err, sizeof(err));
	free(text);
	if (r == 0 && strncmp(rec->id, name, SANDBOX_ID_LEN) != 0) {
		sandbox_record_end(rec);
		r = -EINVAL;
	}
	if (r == -EINVAL) {
		snprintf(bad, sizeof(bad), "%s.bad", name);
		renameat(s->dir, name, s->dir, bad);
	}
	if (r < 0)
		log_error("session-record file=%s error=%s", name,
			  log_quote(slice_str(err[0] ? err : err_text(r))));
	return r;
}

int session_store_load(struct session_store *s, void (*each)(void *arg, struct sandbox_record *),
		       void *arg)
{
	int fd = openat(s->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd == -1 ? NULL : fdopendir(fd);
	struct dirent *e;
	if (!d) {
		int r = -errno;
		if (fd != -1)
			close(fd);
		return r;
	}
	while ((e = readdir(d))) {
		struct sandbox_record rec;
		size_t n = strlen(e->d_name);
		if (n == SANDBOX_ID_LEN + 5 && strcmp(e->d_name + SANDBOX_ID_LEN, ".json") == 0) {
			if (load_one(s, e->d_name, &rec) == 0)
				each(arg, &rec);
		} else if (e->d_name[0] == '.' && n > 2) {
			unlinkat(s->dir, e->d_name, 0); /* a write that did not end */
		}
	}
	closedir(d);
	return 0;
}

static int write_file(int dir, const char *name, struct slice text)
{
	int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd == -1)
		return -errno;
	ssize_t n = write(fd, text.p, text.n);
	int r = n == -1 ? -errno : (size_t)n < text.n ? -ENOSPC : 0;
	close(fd);
	return r;
}

int session_store_put(struct session_store *s, const struct sandbox_record *rec)
{
	char name[NAME_ROOM], temp[NAME_ROOM];
	struct buf b;
	struct json_writer w;
	snprintf(name, sizeof(name), "%s.json", rec->id);
	snprintf(temp, sizeof(temp), ".%s", rec->id);
	buf_init(&b, SANDBOX_RECORD_MAX);
	json_writer_begin(&w, &b);
	sandbox_record_put(&w, rec);
	int r = json_writer_end(&w);
	if (r == 0)
		r = write_file(s->dir, temp, buf_data(&b));
	if (r == 0 && renameat(s->dir, temp, s->dir, name) == -1)
		r = -errno;
	buf_end(&b);
	changed(s);
	if (r < 0) {
		unlinkat(s->dir, temp, 0);
		log_error("session-record id=%s error=%s", rec->id,
			  log_quote(slice_str(err_text(r))));
	}
	return r;
}

void session_store_remove(struct session_store *s, const char *id)
{
	char name[NAME_ROOM];
	snprintf(name, sizeof(name), "%s.json", id);
	if (unlinkat(s->dir, name, 0) == -1 && errno != ENOENT)
		log_error("session-record id=%s error=%s", id,
			  log_quote(slice_str(err_text(-errno))));
	changed(s);
}
