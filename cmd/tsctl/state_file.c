#include "cmd/tsctl/state_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include "reactor/buf.h"
#include "reactor/err.h"

enum { FILE_MAX = 4 * 1024 * 1024, VERSION = 1 };

/* --- the directory --- */

static int make_dirs(char *path, char *err, size_t errlen)
{
	for (char *p = path + 1;; p++) {
		if (*p && *p != '/')
			continue;
		char end = *p;
		*p = '\0';
		int e = mkdir(path, 0700) == -1 ? errno : 0;
		if (e && e != EEXIST) {
			snprintf(err, errlen,
				 "cannot make the directory %s: %s (XDG_STATE_HOME chooses "
				 "another place)",
				 path, err_text(e));
			return -e;
		}
		*p = end;
		if (!end)
			return 0;
	}
}

static int dir_of(char *out, size_t outlen, char *err, size_t errlen)
{
	const char *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	int n = -1;
	if (xdg && xdg[0] == '/') {
		n = snprintf(out, outlen, "%s/tstunnel", xdg);
	} else if (home && home[0] == '/') {
		n = snprintf(out, outlen, "%s/.local/state/tstunnel", home);
	} else {
		snprintf(err, errlen, "where to keep it? neither XDG_STATE_HOME nor HOME is set");
		return -ENOENT;
	}
	if (n > 0 && (size_t)n < outlen)
		return 0;
	snprintf(err, errlen, "XDG_STATE_HOME is too long");
	return -ENAMETOOLONG;
}

/* Others who may write here could have us open any port to any target. */
static bool is_ours(const struct stat *st)
{
	return st->st_uid == getuid() && (st->st_mode & 022) == 0;
}

int state_path(char *out, size_t outlen, const char *name, bool make, char *err, size_t errlen)
{
	char dir[PATH_MAX];
	struct stat st;
	int r = dir_of(dir, sizeof(dir), err, errlen);
	if (r == 0 && make)
		r = make_dirs(dir, err, errlen);
	if (r < 0)
		return r;
	if (lstat(dir, &st) == 0 && (!S_ISDIR(st.st_mode) || !is_ours(&st))) {
		snprintf(err, errlen,
			 "%s must be a directory that is yours and that nobody else may write",
			 dir);
		return -EPERM;
	}
	int n = snprintf(out, outlen, "%s/%s", dir, name);
	if (n > 0 && (size_t)n < outlen)
		return 0;
	snprintf(err, errlen, "XDG_STATE_HOME is too long");
	return -ENAMETOOLONG;
}

/* --- the file --- */

static int complain(const char *path, int code, const char *what, char *err, size_t errlen)
{
	snprintf(err, errlen, "%s: %s", path, what ? what : err_text(code));
	return code;
}

/* The whole file. -ENOENT: there is none. */
static int slurp(const char *path, struct buf *b, char *err, size_t errlen)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	struct stat st;
	int r = 0;
	if (fd == -1)
		return errno == ENOENT ? -ENOENT : complain(path, -errno, NULL, err, errlen);
	if (fstat(fd, &st) == -1 || !S_ISREG(st.st_mode) || !is_ours(&st))
		r = complain(path, -EPERM,
			     "must be a file that is yours and that nobody else may write", err,
			     errlen);
	while (r == 0) {
		struct iovec room = buf_room(b);
		ssize_t n = room.iov_len ? read(fd, room.iov_base, room.iov_len) : -1;
		buf_added(b, n > 0 ? (size_t)n : 0);
		if (n == 0)
			break;
		if (n == -1)
			r = complain(path, room.iov_len ? -errno : -EFBIG, NULL, err, errlen);
	}
	close(fd);
	return r;
}

static int load(struct json_doc *doc, const struct state_load *l, char *why, size_t whylen)
{
	uint64_t version = 0;
	struct json *all = json_member(json_root(doc), slice_str(l->member));
	if (json_u64(json_find(json_root(doc), "version"), &version) < 0 || !all ||
	    all->type != JSON_ARRAY) {
		snprintf(why, whylen, "not a file of %s", l->member);
		return -EINVAL;
	}
	if (version != VERSION) {
		snprintf(why, whylen, "written by another version of tsctl (its format is %llu)",
			 (unsigned long long)version);
		return -EINVAL;
	}
	if (all->count > l->max) {
		snprintf(why, whylen, "more than %zu %s", l->max, l->member);
		return -EINVAL;
	}
	for (struct json *v = json_first(all); v; v = json_next(v))
		if (l->each(l->arg, doc, v, why, whylen) < 0)
			return -EINVAL;
	return 0;
}

int state_load(const char *path, const struct state_load *l, char *err, size_t errlen)
{
	struct buf b;
	struct json_error bad = { 0 };
	char why[1024];
	buf_init(&b, FILE_MAX);
	int r = slurp(path, &b, err, errlen);
	if (r < 0) {
		buf_end(&b);
		return r == -ENOENT ? 0 : r;
	}
	struct json_doc *doc = json_parse(buf_data(&b), NULL, &bad);
	if (!doc) {
		snprintf(why, sizeof(why), "damaged: %s at byte %zu", json_error_text(bad.code),
			 bad.at);
		r = -EINVAL;
	} else {
		r = load(doc, l, why, sizeof(why));
	}
	if (r < 0)
		snprintf(err, errlen, "%s: %s; mend it or move it away", path, why);
	json_free(doc);
	buf_end(&b);
	return r;
}

static int write_all(const char *path, struct slice text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd == -1)
		return -errno;
	int r = 0;
	while (text.n > 0 && r == 0) {
		ssize_t n = write(fd, text.p, text.n);
		if (n == -1 && errno != EINTR)
			r = -errno;
		text = slice_after(text, n > 0 ? (size_t)n : 0);
	}
	if (close(fd) == -1 && r == 0)
		r = -errno;
	return r;
}

/* The daemon's lock makes us the only one who writes, so a file of that name is a leftover. */
static int replace(const char *path, struct slice text)
{
	char *tmp = xasprintf("%s.new", path);
	if (unlink(tmp) == -1 && errno != ENOENT) {
		int r = -errno;
		free(tmp);
		return r;
	}
	int r = write_all(tmp, text);
	if (r == 0 && rename(tmp, path) == -1)
		r = -errno;
	if (r < 0)
		unlink(tmp);
	free(tmp);
	return r;
}

int state_save(const char *path, const char *member, size_t n,
	       void (*put)(void *arg, size_t i, struct json_writer *), void *arg, char *err,
	       size_t errlen)
{
	struct buf b;
	struct json_writer w;
	int r = 0;
	if (n == 0) {
		if (unlink(path) == -1 && errno != ENOENT)
			r = complain(path, -errno, NULL, err, errlen);
		return r;
	}
	buf_init(&b, FILE_MAX);
	json_writer_begin(&w, &b);
	json_put_object(&w);
	json_put_name(&w, "version");
	json_put_u64(&w, VERSION);
	json_put_name(&w, member);
	json_put_array(&w);
	for (size_t i = 0; i < n; i++)
		put(arg, i, &w);
	json_put_end(&w);
	json_put_end(&w);
	r = json_writer_end(&w);
	if (r == 0)
		r = replace(path, buf_data(&b));
	if (r < 0)
		complain(path, r, NULL, err, errlen);
	buf_end(&b);
	return r;
}
