#include "cmd/tsctl/forward_store.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include "reactor/buf.h"
#include "reactor/err.h"

enum { FILE_MAX = 4 * 1024 * 1024, TEXT_MAX = 16 * 1024, VERSION = 1 };

/* --- a record --- */

void forward_record_end(struct forward_record *r)
{
	free(r->name);
	free(r->src);
	free(r->dst);
	*r = (struct forward_record){ .id = "" };
}

bool forward_name_ok(const char *name)
{
	size_t n = strlen(name);
	if (n == 0 || n > FORWARD_NAME_LEN || name[0] == '-')
		return false;
	for (size_t i = 0; i < n; i++)
		if (!isalnum((unsigned char)name[i]) && !strchr("-_.", name[i]))
			return false;
	return true;
}

/* The members but for "id", in the order of the file. */
static const struct {
	const char *name;
	size_t at;
} texts[] = { { "name", offsetof(struct forward_record, name) },
	      { "src", offsetof(struct forward_record, src) },
	      { "dst", offsetof(struct forward_record, dst) } },
  flags[] = { { "insecure", offsetof(struct forward_record, insecure) },
	      { "paused", offsetof(struct forward_record, paused) } },
  times[] = { { "connect_ms", offsetof(struct forward_record, connect_ms) },
	      { "handshake_ms", offsetof(struct forward_record, handshake_ms) },
	      { "keepalive_ms", offsetof(struct forward_record, keepalive_ms) },
	      { "udp_idle_ms", offsetof(struct forward_record, udp_idle_ms) } };

void forward_record_put(struct json_writer *w, const struct forward_record *r)
{
	const char *base = (const char *)r;
	json_put_object(w);
	json_put_name(w, "id");
	json_put_str(w, slice_str(r->id));
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		json_put_name(w, texts[i].name);
		json_put_str(w, slice_str(*(char *const *)(const void *)(base + texts[i].at)));
	}
	for (size_t i = 0; i < ARRAY_LEN(flags); i++) {
		json_put_name(w, flags[i].name);
		json_put_bool(w, *(const bool *)(base + flags[i].at));
	}
	for (size_t i = 0; i < ARRAY_LEN(times); i++) {
		json_put_name(w, times[i].name);
		json_put_u64(w, *(const uint64_t *)(const void *)(base + times[i].at));
	}
	json_put_name(w, "port");
	json_put_u64(w, r->port);
	json_put_end(w);
}

/* A string without NUL bytes. */
static int get_text(struct json_doc *doc, struct json *object, const char *name, struct slice *out)
{
	*out = SLICE("");
	int r = json_str(doc, json_member(object, slice_str(name)), out);
	if (r == -ENOENT)
		return 0;
	return r < 0 || out->n > TEXT_MAX || memchr(out->p, '\0', out->n) ? -EINVAL : 0;
}

static bool is_id(struct slice s)
{
	for (size_t i = 0; i < s.n; i++)
		if (!strchr("0123456789abcdef", s.p[i]))
			return false;
	return s.n == FORWARD_ID_LEN;
}

static const char *get_all(struct forward_record *r, struct json_doc *doc, struct json *object)
{
	char *base = (char *)r;
	struct slice text;
	uint64_t port = 0;
	int e;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		if (get_text(doc, object, texts[i].name, &text) < 0)
			return texts[i].name;
		*(char **)(void *)(base + texts[i].at) = xslicedup(text);
	}
	for (size_t i = 0; i < ARRAY_LEN(flags); i++) {
		e = json_bool(json_member(object, slice_str(flags[i].name)),
			      (bool *)(base + flags[i].at));
		if (e < 0 && e != -ENOENT)
			return flags[i].name;
	}
	for (size_t i = 0; i < ARRAY_LEN(times); i++) {
		e = json_u64(json_member(object, slice_str(times[i].name)),
			     (uint64_t *)(void *)(base + times[i].at));
		if (e < 0 && e != -ENOENT)
			return times[i].name;
	}
	e = json_u64(json_member(object, SLICE("port")), &port);
	if ((e < 0 && e != -ENOENT) || port > UINT16_MAX)
		return "port";
	r->port = (uint16_t)port;
	if (get_text(doc, object, "id", &text) < 0 || !is_id(text))
		return "id";
	memcpy(r->id, text.p, FORWARD_ID_LEN);
	return r->name[0] && !forward_name_ok(r->name) ? "name" : NULL;
}

int forward_record_get(struct forward_record *r, struct json_doc *doc, struct json *object,
		       char *err, size_t errlen)
{
	*r = (struct forward_record){ .id = "" };
	const char *bad =
	    object && object->type == JSON_OBJECT ? get_all(r, doc, object) : "record";
	if (!bad)
		return 0;
	snprintf(err, errlen, "malformed \"%s\" of a forward", bad);
	forward_record_end(r);
	return -EINVAL;
}

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
		snprintf(err, errlen,
			 "where to keep forwards? neither XDG_STATE_HOME nor HOME is set");
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

int forward_store_path(char *out, size_t outlen, bool make, char *err, size_t errlen)
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
	int n = snprintf(out, outlen, "%s/forwards.json", dir);
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

static int load(struct json_doc *doc, void (*each)(void *arg, struct forward_record *), void *arg,
		char *why, size_t whylen)
{
	uint64_t version = 0;
	struct json *all = json_find(json_root(doc), "forwards");
	if (json_u64(json_find(json_root(doc), "version"), &version) < 0 || !all ||
	    all->type != JSON_ARRAY) {
		snprintf(why, whylen, "not a file of forwards");
		return -EINVAL;
	}
	if (version != VERSION) {
		snprintf(why, whylen, "written by another version of tsctl (its format is %llu)",
			 (unsigned long long)version);
		return -EINVAL;
	}
	if (all->count > FORWARDS_MAX) {
		snprintf(why, whylen, "more than %d forwards", FORWARDS_MAX);
		return -EINVAL;
	}
	for (struct json *v = json_first(all); v; v = json_next(v)) {
		struct forward_record r;
		if (forward_record_get(&r, doc, v, why, whylen) < 0)
			return -EINVAL;
		each(arg, &r);
	}
	return 0;
}

int forward_store_load(const char *path, void (*each)(void *arg, struct forward_record *),
		       void *arg, char *err, size_t errlen)
{
	struct buf b;
	struct json_error bad = { 0 };
	char why[256];
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
		r = load(doc, each, arg, why, sizeof(why));
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

int forward_store_save(const char *path, size_t n,
		       const struct forward_record *(*next)(void *arg, size_t i), void *arg,
		       char *err, size_t errlen)
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
	json_put_name(&w, "forwards");
	json_put_array(&w);
	for (size_t i = 0; i < n; i++)
		forward_record_put(&w, next(arg, i));
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
