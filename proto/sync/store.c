#include "proto/sync/store.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "proto/sync/record.h"
#include "proto/sync/root.h"
#include "reactor/err.h"

enum {
	BUFFER = 256 * 1024, /* notes are written when there are more */
	SPARE = 4096,        /* records that may be of no use, beside as many as there are nodes */
	READ_PIECE = 1 << 20,
	RECORD_USUAL = 128 /* bytes of a record; rather too many */
};

struct store {
	char *dir;
	int dir_fd, lock_fd, fd;
	char *generation;
	struct tree *tree; /* NULL: not loaded */
	bool base;
	uint64_t end;      /* the file ends here: a whole record was the last */
	size_t records;    /* in the file and the buffer */
	size_t rewrite_at; /* when there are so many */
	bool behind;       /* notes were dropped: nothing is appended before it is written anew */
	char *buf;         /* BUFFER + RECORD_MAX */
	size_t n;
};

static int fail(char *why, size_t whylen, const char *what, const char *dir, int code)
{
	snprintf(why, whylen, "cannot %s %s/state, where a sync remembers what it did: %s", what,
		 dir, err_text(code));
	return code;
}

static int open_at(int dir_fd, const char *name, int flags)
{
	int fd = openat(dir_fd, name, flags | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	return fd == -1 ? -errno : fd;
}

struct store *store_open(const char *dir, int *err, char *why, size_t whylen)
{
	struct store *s = xcalloc(1, sizeof(*s));
	s->dir = xstrdup(dir);
	s->dir_fd = s->lock_fd = s->fd = -1;
	*err = root_make_path(dir, 0700);
	if (*err == 0 && (s->dir_fd = open(dir, O_DIRECTORY | O_RDONLY | O_CLOEXEC)) == -1)
		*err = -errno;
	if (*err == 0 && (s->lock_fd = open_at(s->dir_fd, "lock", O_RDWR)) < 0)
		*err = s->lock_fd;
	if (*err == 0 && flock(s->lock_fd, LOCK_EX | LOCK_NB) == -1)
		*err = errno == EWOULDBLOCK ? -EBUSY : -errno;
	if (*err == 0 && (s->fd = open_at(s->dir_fd, "state", O_RDWR)) < 0)
		*err = s->fd;
	if (*err == 0) {
		s->buf = xmalloc(BUFFER + RECORD_MAX);
		return s;
	}
	if (*err == -EBUSY)
		snprintf(why, whylen, "%s is in use by another process: this sync runs already",
			 dir);
	else
		fail(why, whylen, "open", dir, *err);
	store_close(s);
	return NULL;
}

void store_generation(const struct store *s, char *out, size_t outlen)
{
	char head[RECORD_MAX];
	struct record r = { 0 };
	ssize_t n = pread(s->fd, head, sizeof(head), 0);
	*out = '\0';
	if (n > 0 && record_get(slice_of(head, (size_t)n), &r) > 0 && r.type == RECORD_GENERATION)
		snprintf(out, outlen, "%.*s", SLICE_FMT(r.text));
	version_unref(r.v);
}

/* -- writing -- */

static int write_at(int fd, const char *p, size_t n, uint64_t at, size_t *done)
{
	*done = 0;
	while (*done < n) {
		ssize_t r = pwrite(fd, p + *done, n - *done, (off_t)(at + *done));
		if (r == -1 && errno == EINTR)
			continue;
		if (r <= 0)
			return r == 0 ? -EIO : -errno;
		*done += (size_t)r;
	}
	return 0;
}

static int drain(struct store *s, int fd, uint64_t *end)
{
	size_t done;
	int r = write_at(fd, s->buf, s->n, *end, &done);
	/* What has been written of a record stays, and the rest follows. */
	*end += done;
	s->n -= done;
	memmove(s->buf, s->buf + done, s->n);
	return r;
}

void store_close(struct store *s)
{
	if (!s)
		return;
	if (s->fd >= 0 && !s->behind)
		drain(s, s->fd, &s->end);
	if (s->fd >= 0)
		close(s->fd);
	if (s->lock_fd >= 0)
		close(s->lock_fd);
	if (s->dir_fd >= 0)
		close(s->dir_fd);
	free(s->generation);
	free(s->buf);
	free(s->dir);
	free(s);
}

static struct version *version_to_keep(const struct store *s, const struct node *n)
{
	struct version *v = s->base ? n->base : n->side[SYNC_ALPHA];
	return v && v->kind != SYNC_OTHER ? v : NULL;
}

/* Into the buffer. False: it has a path or a target that is too long, and is not remembered. */
static bool put_node(struct store *s, struct node *n)
{
	char path[SYNC_PATH_MAX + 1];
	ssize_t len = node_path(n, path, sizeof(path));
	struct record r = { .v = version_to_keep(s, n) };
	if (len < 0 || (r.v && r.v->kind == SYNC_LINK && r.v->size > SYNC_PATH_MAX))
		return false;
	r.type = !r.v ? RECORD_GONE : !s->base && r.v == n->base ? RECORD_GIVEN : RECORD_ENTRY;
	r.text = slice_of(path, (size_t)len);
	/* The stamp of a file that was changed in the tick it was looked at proves nothing later.
	 */
	if (!(n->flags & NODE_RACY) && version_identical(n->side[SYNC_ALPHA], r.v))
		r.stamp = n->stamp;
	s->n += record_put(s->buf + s->n, &r);
	return true;
}

static void put_generation(struct store *s)
{
	struct record r = { .type = RECORD_GENERATION, .text = slice_str(s->generation) };
	s->n += record_put(s->buf + s->n, &r);
}

/* Aside, then in place of the old one: the generation, and with nodes all that the tree has. */
static int write_anew(struct store *s, bool nodes)
{
	int fd = open_at(s->dir_fd, "state.new", O_RDWR | O_TRUNC), r = 0;
	uint64_t end = 0;
	size_t records = 1;
	if (fd < 0)
		return fd;
	/* The buffer's notes are in the tree. */
	s->n = 0;
	put_generation(s);
	for (struct node *n = tree_root(s->tree); n && nodes && r == 0; n = node_next(s->tree, n)) {
		if (version_to_keep(s, n))
			records += put_node(s, n);
		if (s->n > BUFFER)
			r = drain(s, fd, &end);
	}
	if (r == 0)
		r = drain(s, fd, &end);
	if (r == 0 &&
	    (fsync(fd) == -1 || renameat(s->dir_fd, "state.new", s->dir_fd, "state") == -1))
		r = -errno;
	s->n = 0;
	if (r < 0) {
		close(fd);
		unlinkat(s->dir_fd, "state.new", 0);
		s->behind = true;
		return r;
	}
	fsync(s->dir_fd);
	close(s->fd);
	s->fd = fd;
	s->end = end;
	s->records = records;
	s->behind = false;
	s->rewrite_at = 0;
	return 0;
}

int store_flush(struct store *s)
{
	int r;
	if (!s->behind && s->n && (r = drain(s, s->fd, &s->end)) < 0)
		return r;
	if (s->behind || s->records > MAX(s->rewrite_at, 2 * tree_count(s->tree) + SPARE)) {
		bool must = s->behind;
		r = write_anew(s, true);
		if (r < 0 && !must) {
			/* The old one is whole, and all is in it: later. */
			s->behind = false;
			s->rewrite_at = s->records + s->records / 2;
			r = 0;
		}
		return r;
	}
	return 0;
}

void store_note(struct store *s, struct node *n)
{
	if (!s->tree || s->behind)
		return;
	s->records += put_node(s, n);
	if (s->n > BUFFER && store_flush(s) < 0 && s->n > BUFFER)
		s->behind = true; /* the tree knows */
}

/* -- reading -- */

struct loading {
	struct store *s;
	char dir[SYNC_PATH_MAX + 1]; /* of the last path */
	size_t dirlen;
	struct node *parent; /* its node; NULL: none */
};

/* Like tree_get; faster for neighbours. */
static struct node *get_node(struct loading *l, struct slice path)
{
	const char *cut = path.n ? memrchr(path.p, '/', path.n) : NULL;
	size_t dirlen = cut ? (size_t)(cut - path.p) : 0;
	struct tree *t = l->s->tree;
	struct node *n;
	if (!cut)
		return tree_get(t, path);
	if (!l->parent || l->dirlen != dirlen || memcmp(l->dir, path.p, dirlen) != 0) {
		l->parent = tree_get(t, slice_of(path.p, dirlen));
		memcpy(l->dir, path.p, dirlen);
		l->dirlen = dirlen;
	}
	n = l->parent ? node_child_get(t, l->parent, slice_after(path, dirlen + 1)) : NULL;
	if (!n && l->parent) {
		node_prune(t, l->parent); /* made for nothing */
		l->parent = NULL;
	}
	return n;
}

static int load_record(struct loading *l, const struct record *r)
{
	struct store *s = l->s;
	struct tree *t = s->tree;
	struct node *n;
	if (r->type == RECORD_GENERATION)
		return -EBADMSG; /* only the first */
	n = r->v ? get_node(l, r->text) : tree_find(t, r->text);
	if (!n)
		return r->v ? -EBADMSG : 0;
	/* Not node_set: nothing has changed yet, but the brain is to compare all with beta. */
	version_unref(n->side[SYNC_ALPHA]);
	n->side[SYNC_ALPHA] = version_ref(r->v);
	n->stamp = r->stamp;
	if (s->base) {
		node_set_base(t, n, version_ref(r->v));
		node_mark_dirty(t, n);
	}
	if (!s->base)
		node_set_base(t, n, r->type == RECORD_GIVEN ? version_ref(r->v) : NULL);
	if (!r->v) {
		l->parent = NULL; /* may go with it */
		node_prune(t, n);
	}
	return 0;
}

/* All records in buf: the bytes used. *r: 0, 1 (of another generation), -EBADMSG. */
static size_t load_piece(struct loading *l, struct slice buf, int *r)
{
	struct slice rest = buf;
	struct record rec;
	ssize_t n = 0;
	*r = 0;
	while (*r == 0 && (n = record_get(rest, &rec)) > 0) {
		if (l->s->records++ > 0)
			*r = load_record(l, &rec);
		else if (rec.type != RECORD_GENERATION ||
			 !slice_eq(rec.text, slice_str(l->s->generation)))
			*r = 1;
		version_unref(rec.v);
		if (*r == 0)
			rest = slice_after(rest, (size_t)n);
	}
	if (n < 0)
		*r = -EBADMSG;
	return buf.n - rest.n;
}

/* 0: all that is whole has been loaded, up to s->end; 1: nothing of this generation; -errno. */
static int load_file(struct store *s)
{
	struct loading *l = xcalloc(1, sizeof(*l));
	char *buf = xmalloc(READ_PIECE);
	size_t have = 0;
	struct stat st;
	int r = 0;
	if (fstat(s->fd, &st) == 0)
		tree_reserve(s->tree, (size_t)st.st_size / RECORD_USUAL);
	l->s = s;
	s->end = 0;
	s->records = 0;
	while (r == 0) {
		ssize_t n = pread(s->fd, buf + have, READ_PIECE - have, (off_t)(s->end + have));
		size_t used;
		if (n == -1 && errno == EINTR)
			continue;
		if (n <= 0) {
			r = n == -1 ? -errno : -EBADMSG; /* the end: torn, if have > 0 */
			break;
		}
		have += (size_t)n;
		used = load_piece(l, slice_of(buf, have), &r);
		s->end += used;
		have -= used;
		memmove(buf, buf + used, have);
	}
	free(buf);
	free(l);
	if (r == -EBADMSG) /* what is behind the first damage counts for nothing */
		r = s->records ? 0 : 1;
	return r;
}

int store_load(struct store *s, struct tree *t, bool base, const char *generation, char *why,
	       size_t whylen)
{
	int r;
	s->tree = t;
	s->base = base;
	free(s->generation);
	s->generation = xstrdup(generation);
	s->n = 0;
	r = load_file(s);
	if (r == 0) {
		if (ftruncate(s->fd, (off_t)s->end) == 0)
			return 0;
		r = -errno;
	}
	if (r < 0)
		return fail(why, whylen, "read", s->dir, r);
	r = write_anew(s, false);
	return r < 0 ? fail(why, whylen, "write", s->dir, r) : 1;
}

int store_rename(struct store *s, const char *generation)
{
	free(s->generation);
	s->generation = xstrdup(generation);
	return s->tree ? write_anew(s, true) : 0;
}
