#include "proto/sync/scan.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "reactor/err.h"

/* node->flags of the scan's own, beside NODE_SEEN and NODE_RACY. */
enum {
	LOOK = 1 << 20,      /* in names */
	WRITTEN = 1 << 21,   /* with LOOK: compare the content */
	LIST = 1 << 22,      /* in dirs */
	DEEP = 1 << 23,      /* with LIST: known subdirectories, too */
	LISTING = 1 << 24,   /* being read right now */
	UNWATCHED = 1 << 25, /* over the limit of watches */
	BLIND = 1 << 26,     /* a problem was told */
};

enum { DENTS_SIZE = 64 * 1024, TRIES = 3, RACY_NS = 20 * 1000 * 1000, RETRY_MAX = 1000 };

struct queue {
	struct node **v;
	size_t first, n, cap; /* a ring */
};

/* The directory that is being read. */
struct listing {
	struct node *node; /* NULL: none */
	int fd;
	bool deep;
	bool stop; /* it is gone, or another: what it lists is of no use */
	bool failed;
	char path[SYNC_PATH_MAX + 1];
	size_t path_len;
	size_t at, len; /* in dents */
};

struct scan {
	struct scan_options o;
	struct queue names, dirs;
	struct queue blind; /* all that are BLIND */
	struct listing list;
	size_t unwatched;
	int64_t looked_ns;    /* when the last look began */
	bool full, full_told; /* of entries */
	bool pass, passed;    /* all of the root is being looked at; has been */
	uint64_t pass_entries, pass_bytes, entries, bytes;
	_Alignas(16) char dents[DENTS_SIZE];
};

/* How a name came to be looked at. */
enum how { BY_NAME, BY_LIST, BY_DEEP_LIST };

/* --- queues --- */

static void queue_put(struct queue *q, struct node *n)
{
	if (q->n == q->cap) {
		struct queue bigger = { .cap = q->cap ? 2 * q->cap : 64 };
		bigger.v = xmalloc(bigger.cap * sizeof(struct node *));
		for (; bigger.n < q->n; bigger.n++)
			bigger.v[bigger.n] = q->v[(q->first + bigger.n) & (q->cap - 1)];
		free(q->v);
		*q = bigger;
	}
	q->v[(q->first + q->n++) & (q->cap - 1)] = n;
}

/* NULL: none, or one that was forgotten. */
static struct node *queue_pop(struct queue *q)
{
	if (q->n == 0)
		return NULL;
	struct node *n = q->v[q->first];
	q->first = (q->first + 1) & (q->cap - 1);
	if (--q->n == 0) {
		free(q->v);
		*q = (struct queue){ 0 };
	}
	return n;
}

static void queue_forget(struct queue *q, const struct node *n)
{
	for (size_t i = 0; i < q->n; i++) {
		struct node **at = &q->v[(q->first + i) & (q->cap - 1)];
		if (*at == n) {
			*at = NULL;
			break;
		}
	}
	while (q->n > 0 && !q->v[q->first])
		queue_pop(q);
}

static void queue_look(struct scan *s, struct node *n, bool written)
{
	if (!(n->flags & LOOK))
		queue_put(&s->names, n);
	n->flags |= LOOK | (written ? WRITTEN : 0);
}

static void queue_list(struct scan *s, struct node *n, bool deep)
{
	if (!(n->flags & LIST))
		queue_put(&s->dirs, n);
	n->flags |= LIST | (deep ? DEEP : 0);
}

static void clear(struct node *n, unsigned flags)
{
	n->flags &= ~flags;
}

/* --- what is left out --- */

/* By what it is, not by its name. */
static bool to_be_left(const struct scan *s, const struct version *v, struct stamp stamp)
{
	for (size_t i = 0; v->kind == SYNC_DIR && i < ARRAY_LEN(s->o.leave); i++)
		if (stamp.ino == s->o.leave[i])
			return true;
	return false;
}

static bool left_out(const struct scan *s, struct slice path, bool is_dir)
{
	const char *slash = path.n ? memrchr(path.p, '/', path.n) : NULL;
	struct slice name = slash ? slice_after(path, (size_t)(slash - path.p) + 1) : path;

	if (slice_eq(name, SLICE(SYNC_PRIVATE)))
		return true;
	if (!slash && s->o.only && !slice_eq(name, slice_str(s->o.only)))
		return true;
	for (size_t i = 0; i < s->o.nmasks; i++) {
		if (slice_eq(path, slice_str(s->o.masks[i])))
			return true;
	}
	return s->o.ignore && ignore_match(s->o.ignore, path, is_dir);
}

bool scan_ignores(const struct scan *s, struct slice path, bool is_dir)
{
	for (size_t n = 1; n < path.n; n++) {
		if (path.p[n] == '/' && left_out(s, slice_of(path.p, n), true))
			return true;
	}
	return left_out(s, path, is_dir);
}

/* --- what becomes of a node --- */

static void tell(struct scan *s, struct node *n, const char *what, int err)
{
	char why[200];

	if (!(n->flags & BLIND))
		queue_put(&s->blind, n);
	n->flags |= BLIND;
	snprintf(why, sizeof(why), "%s: %s", what, err_text(err));
	s->o.problem(s->o.arg, n, why);
}

static void seen_well(struct scan *s, struct node *n)
{
	if (!(n->flags & BLIND))
		return;
	clear(n, BLIND);
	queue_forget(&s->blind, n);
	s->o.problem(s->o.arg, n, NULL);
}

/* Is there, or may there be, something below dir that could not be looked at? */
static bool blind_below(const struct scan *s, const struct node *dir)
{
	for (size_t i = 0; i < MIN(s->blind.n, (size_t)RETRY_MAX); i++) {
		const struct node *n = s->blind.v[(s->blind.first + i) & (s->blind.cap - 1)];
		while (n && n != dir)
			n = n->parent;
		if (n)
			return true;
	}
	return s->blind.n > RETRY_MAX;
}

static void tell_full(struct scan *s)
{
	char why[200];

	s->full = true;
	if (s->full_told)
		return;
	s->full_told = true;
	snprintf(why, sizeof(why),
		 "there are more than %zu entries, and what is over is left out: ignore what need "
		 "not be synced",
		 tree_count(s->o.tree));
	s->o.problem(s->o.arg, tree_root(s->o.tree), why);
}

static void set_unwatched(struct scan *s, struct node *n, bool yes)
{
	if (yes == !!(n->flags & UNWATCHED))
		return;
	n->flags ^= UNWATCHED;
	s->unwatched += yes ? 1 : (size_t)-1;
}

/* It is no directory any more, or another one. */
static void no_dir(struct scan *s, struct node *n)
{
	if (s->o.watch)
		watch_forget(s->o.watch, n);
	set_unwatched(s, n, false);
	if (s->list.node == n)
		s->list.stop = true;
}

static void set_gone(struct scan *s, struct node *n)
{
	no_dir(s, n);
	clear(n, NODE_RACY);
	seen_well(s, n);
	if (!n->side[SYNC_ALPHA])
		return;
	node_set(s->o.tree, n, SYNC_ALPHA, NULL);
	n->stamp = (struct stamp){ 0 };
	s->o.changed(s->o.arg, n);
}

static void gone_below(struct scan *s, struct node *top)
{
	struct node *end = node_skip(s->o.tree, top);

	for (struct node *n = node_next(s->o.tree, top); n != end; n = node_next(s->o.tree, n))
		set_gone(s, n);
}

static void gone(struct scan *s, struct node *n)
{
	gone_below(s, n);
	set_gone(s, n);
	node_prune(s->o.tree, n); /* if nobody else knows of it */
}

static bool stamp_eq(struct stamp a, struct stamp b)
{
	return a.ino == b.ino && a.ctime_ns == b.ctime_ns;
}

/* But for the digest. */
static bool looks_same(const struct version *a, const struct version *b)
{
	if (!a || a->kind != b->kind || a->mode != b->mode || a->size != b->size ||
	    a->mtime_ns != b->mtime_ns)
		return false;
	return a->kind != SYNC_LINK || version_same(a, b);
}

/* Takes the reference v. */
static void put(struct scan *s, struct node *n, struct version *v, struct stamp stamp)
{
	const struct version *old = n->side[SYNC_ALPHA];
	bool is_dir = v->kind == SYNC_DIR, same_stamp = stamp_eq(n->stamp, stamp);
	int64_t age = s->looked_ns - stamp.ctime_ns;

	clear(n, NODE_RACY);
	if (v->kind == SYNC_FILE && age < RACY_NS && age > -RACY_NS)
		n->flags |= NODE_RACY;
	version_ref(v); /* so that a new one cannot have the old one's place */
	node_set(s->o.tree, n, SYNC_ALPHA, v);
	n->stamp = stamp;
	seen_well(s, n);
	bool changed = n->side[SYNC_ALPHA] != old;
	version_unref(v);
	if (changed || (!is_dir && !same_stamp))
		s->o.changed(s->o.arg, n);
}

static void look_begins(struct scan *s)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	s->looked_ns = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void take_file(struct scan *s, struct node *n, const char *path, struct version *v,
		      struct stamp stamp, bool written)
{
	struct version *old = n->side[SYNC_ALPHA];
	bool known = old && looks_same(old, v) && stamp_eq(n->stamp, stamp);

	if (known && !written && !(n->flags & NODE_RACY) && (old->hashed || !s->o.hash)) {
		version_unref(v);
		seen_well(s, n);
		return;
	}
	int err = 0;
	for (int i = 0; s->o.hash; i++) {
		err = root_hash(s->o.root, path, v, &stamp, NULL);
		/* With a watch there is an event of what changed it. */
		if (err != -ESTALE || i == TRIES || n->parent->watch)
			break;
		version_unref(v);
		look_begins(s);
		err = root_look(s->o.root, path, &v, &stamp);
		if (err < 0 || !v || v->kind != SYNC_FILE) {
			version_unref(v);
			queue_look(s, n, false);
			return;
		}
	}
	if (err == 0) {
		put(s, n, v, stamp);
		return;
	}
	version_unref(v);
	if (err != -ESTALE)
		tell(s, n, "cannot be read", err);
	else
		node_prune(s->o.tree, n);
}

/* Is it watched as the directory that n stood for before? The kernel knows, where an inode number
 * may have been used again. */
static bool watched_already(struct scan *s, struct node *n, const char *path)
{
	int fd = root_open_at(s->o.root, path, O_RDONLY | O_DIRECTORY);
	if (fd < 0)
		return false;
	int rc = watch_add(s->o.watch, n, fd);
	close(fd);
	return rc == 1 || (rc < 0 && (n->flags & UNWATCHED));
}

static void take_dir(struct scan *s, struct node *n, const char *path, struct version *v,
		     struct stamp stamp, enum how how)
{
	const struct version *old = n->side[SYNC_ALPHA];
	bool same = old && old->kind == SYNC_DIR && n->stamp.ino == stamp.ino;
	bool touched = n->stamp.ctime_ns != stamp.ctime_ns;
	/* Its mode may be what it was for. */
	bool blind = n->flags & BLIND || (how == BY_NAME && touched && blind_below(s, n));

	if (old && !same)
		no_dir(s, n);
	if (old && old->kind == SYNC_DIR && old->mode == v->mode) {
		version_unref(v);
		n->stamp = stamp; /* whether it can be listed is still to be seen */
	} else {
		put(s, n, v, stamp);
	}
	if (!same || blind || how == BY_DEEP_LIST ||
	    (how == BY_NAME && s->o.watch && !watched_already(s, n, path)))
		queue_list(s, n, true);
	else if (how == BY_LIST && touched)
		queue_look(s, n, false);
}

/* Takes the reference v: what is at n, which may be nothing. */
static void take(struct scan *s, struct node *n, const char *path, struct version *v,
		 struct stamp stamp, enum how how, bool written)
{
	const struct version *old = n->side[SYNC_ALPHA];

	if (!v) {
		gone(s, n);
		return;
	}
	if (v->kind == SYNC_DIR) {
		take_dir(s, n, path, v, stamp, how);
		return;
	}
	if (old && old->kind == SYNC_DIR) {
		gone_below(s, n);
		no_dir(s, n);
	}
	if (v->kind == SYNC_FILE) {
		take_file(s, n, path, v, stamp, written);
	} else if (looks_same(old, v) && stamp_eq(n->stamp, stamp)) {
		version_unref(v);
		seen_well(s, n);
	} else {
		put(s, n, v, stamp);
	}
}

/* --- one name --- */

static void look(struct scan *s, struct node *n)
{
	bool written = n->flags & WRITTEN;
	char path[SYNC_PATH_MAX + 1];
	struct version *v = NULL;
	struct stamp stamp;

	clear(n, LOOK | WRITTEN);
	ssize_t len = node_path(n, path, sizeof(path));
	if (len < 0) {
		tell(s, n, "has too long a path", (int)len);
		return;
	}
	look_begins(s);
	int err = root_look(s->o.root, path, &v, &stamp);
	if (err < 0 && err != -EXDEV && err != -EINVAL) {
		tell(s, n, "cannot be looked at", err);
		return;
	}
	if (v && (to_be_left(s, v, stamp) ||
		  left_out(s, slice_of(path, (size_t)len), v->kind == SYNC_DIR))) {
		version_unref(v);
		v = NULL;
	}
	take(s, n, path, v, stamp, BY_NAME, written);
}

void scan_name(struct scan *s, struct node *dir, struct slice name, bool written)
{
	char path[SYNC_PATH_MAX + 1];

	if (name.n == 0)
		return;
	struct node *n = node_child(s->o.tree, dir, name);
	if (!n) {
		ssize_t len = node_path(dir, path, sizeof(path));
		if (len < 0 || (size_t)len + 1 + name.n > SYNC_PATH_MAX)
			return;
		if (len > 0)
			path[len++] = '/';
		memcpy(path + len, name.p, name.n);
		struct slice whole = slice_of(path, (size_t)len + name.n);
		if (left_out(s, whole, false) && left_out(s, whole, true))
			return;
		n = node_child_get(s->o.tree, dir, name);
	}
	if (n)
		queue_look(s, n, written);
	else
		tell_full(s);
}

/* --- a directory --- */

static void list_close(struct scan *s)
{
	struct node *n = s->list.node;

	close(s->list.fd);
	s->list.node = NULL;
	clear(n, LISTING);
	node_prune(s->o.tree, n);
}

/* Its own mode may have changed since it was looked at: fanotify tells that by the directory, which
 * was not known, and not by its parent. */
static void look_again(struct scan *s, struct node *n, int fd)
{
	struct version *v = NULL;
	struct stamp stamp;

	look_begins(s);
	if (n->parent && root_look_at(s->o.root, fd, "", &v, &stamp) == 0 && v)
		put(s, n, v, stamp);
}

static void add_watch(struct scan *s, struct node *n, int fd)
{
	if (!s->o.watch)
		return;
	int rc = watch_add(s->o.watch, n, fd);
	set_unwatched(s, n, rc < 0);
	if (rc == 0)
		look_again(s, n, fd);
}

static void list_begin(struct scan *s, struct node *n)
{
	struct listing *l = &s->list;
	bool deep = n->flags & DEEP;
	const struct version *v = n->side[SYNC_ALPHA];

	clear(n, LIST | DEEP);
	if (n->parent && (!v || v->kind != SYNC_DIR)) {
		node_prune(s->o.tree, n);
		return; /* it is gone by now */
	}
	ssize_t len = node_path(n, l->path, sizeof(l->path));
	int fd = len < 0 ? (int)len : root_open_at(s->o.root, l->path, O_RDONLY | O_DIRECTORY);
	if (fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP || fd == -EXDEV) {
		if (n->parent)
			queue_look(s, n, false);
		return;
	}
	if (fd < 0) {
		tell(s, n, "cannot be listed", fd);
		return;
	}
	seen_well(s, n);
	add_watch(s, n, fd);
	n->flags |= LISTING;
	l->node = n;
	l->fd = fd;
	l->deep = deep;
	l->stop = l->failed = false;
	l->path_len = (size_t)len;
	l->at = l->len = 0;
}

static void count(struct scan *s, const struct version *v)
{
	if (!s->pass)
		return;
	s->pass_entries++;
	if (v->kind == SYNC_FILE)
		s->pass_bytes += v->size;
}

/* A name that the directory has. */
static void list_name(struct scan *s, const char *name)
{
	struct listing *l = &s->list;
	size_t n = strlen(name), at = l->path_len;
	struct version *v = NULL;
	struct stamp stamp;

	look_begins(s);
	int err = root_look_at(s->o.root, l->fd, name, &v, &stamp);
	if (at > 0)
		l->path[at++] = '/';
	if (at + n > SYNC_PATH_MAX) {
		err = -ENAMETOOLONG;
		version_unref(v);
		v = NULL;
	} else {
		memcpy(l->path + at, name, n + 1);
	}
	struct slice path = slice_of(l->path, at + n);
	struct node *child = node_child(s->o.tree, l->node, slice_of(name, n));
	if (err == 0 && v && (to_be_left(s, v, stamp) || left_out(s, path, v->kind == SYNC_DIR))) {
		version_unref(v);
		v = NULL;
	}
	if (!child && (v || err < 0)) {
		child = node_child_get(s->o.tree, l->node, slice_of(name, n));
		if (!child)
			tell_full(s);
	}
	if (child && err < 0) {
		child->flags |= NODE_SEEN;
		tell(s, child, "cannot be looked at", err);
	} else if (child) {
		if (v) {
			child->flags |= NODE_SEEN;
			count(s, v);
		}
		take(s, child, l->path, v, stamp, l->deep ? BY_DEEP_LIST : BY_LIST, false);
	} else {
		version_unref(v);
	}
	l->path[l->path_len] = '\0';
}

/* What was known and not listed is looked at once more: a name can be missed while others come and
 * go, and nothing is called gone for that. */
static void list_end(struct scan *s)
{
	struct node *next;

	for (struct node *n = s->list.node->children; n; n = next) {
		next = n->next;
		if (n->flags & NODE_SEEN)
			clear(n, NODE_SEEN);
		else if ((n->side[SYNC_ALPHA] || n->flags & BLIND) && !s->list.failed &&
			 !s->list.stop)
			list_name(s, n->name);
	}
	/* list_name has set NODE_SEEN anew for what is there after all */
	for (struct node *n = s->list.node->children; n; n = next) {
		next = n->next;
		clear(n, NODE_SEEN);
		node_prune(s->o.tree, n);
	}
	list_close(s);
}

static void list_some(struct scan *s)
{
	struct listing *l = &s->list;

	if (l->at == l->len && !l->stop) {
		ssize_t n =
		    s->o.only && !l->node->parent ? 0 : getdents64(l->fd, s->dents, DENTS_SIZE);
		if (n < 0 && errno == ENOENT) { /* it was removed */
			l->stop = true;
			if (l->node->parent)
				queue_look(s, l->node, false);
		} else if (n < 0) {
			l->failed = true;
			tell(s, l->node, "cannot be listed", -errno);
		}
		l->at = 0;
		l->len = n > 0 ? (size_t)n : 0;
	}
	if (l->at == l->len || l->stop) {
		if (s->o.only && !l->node->parent)
			list_name(s, s->o.only);
		list_end(s);
		return;
	}
	const struct dirent64 *d = (const void *)(s->dents + l->at);
	l->at += d->d_reclen;
	if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0)
		list_name(s, d->d_name);
}

/* --- the interface --- */

struct scan *scan_new(const struct scan_options *o)
{
	struct scan *s = xcalloc(1, sizeof(*s));
	s->o = *o;
	return s;
}

void scan_free(struct scan *s)
{
	struct node *n;

	if (!s)
		return;
	while (s->names.n > 0) {
		if ((n = queue_pop(&s->names)))
			clear(n, LOOK | WRITTEN);
	}
	while (s->dirs.n > 0) {
		if ((n = queue_pop(&s->dirs)))
			clear(n, LIST | DEEP);
	}
	if (s->list.node) {
		s->list.stop = true;
		list_end(s);
	}
	free(s->blind.v);
	free(s);
}

void scan_below(struct scan *s, struct node *dir)
{
	if (!dir || !dir->parent) {
		dir = tree_root(s->o.tree);
		s->pass = true;
		s->full = false;
		s->pass_entries = s->pass_bytes = 0;
	}
	queue_list(s, dir, true);
}

static void pass_end(struct scan *s)
{
	s->pass = false;
	s->passed = true;
	s->entries = s->pass_entries;
	s->bytes = s->pass_bytes;
	if (s->full_told && !s->full) {
		s->full_told = false;
		s->o.problem(s->o.arg, tree_root(s->o.tree), NULL);
	}
}

static void step(struct scan *s)
{
	struct node *n;

	if (s->names.n > 0) {
		if ((n = queue_pop(&s->names)))
			look(s, n);
	} else if (s->list.node) {
		list_some(s);
	} else if ((n = queue_pop(&s->dirs))) {
		list_begin(s, n);
	}
	if (s->pass && s->dirs.n == 0 && !s->list.node)
		pass_end(s);
}

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

bool scan_step(struct scan *s, unsigned ms)
{
	uint64_t end = now_ns() + (uint64_t)ms * 1000000;

	/* What is to be looked at is known before, so what is opened now is newer. */
	root_batch(s->o.root);
	do {
		step(s);
	} while (!scan_idle(s) && now_ns() < end);
	root_batch_end(s->o.root);
	return !scan_idle(s);
}

bool scan_idle(const struct scan *s)
{
	return s->names.n == 0 && s->dirs.n == 0 && !s->list.node;
}

size_t scan_unwatched(const struct scan *s)
{
	return s->unwatched;
}

void scan_poll(struct scan *s)
{
	struct node *n = s->unwatched ? tree_root(s->o.tree) : NULL;

	for (; n; n = node_next(s->o.tree, n)) {
		if (n->flags & UNWATCHED)
			queue_list(s, n, false);
	}
}

void scan_retry(struct scan *s)
{
	for (size_t i = MIN(s->blind.n, (size_t)RETRY_MAX); i > 0; i--) {
		struct node *n = queue_pop(&s->blind);
		if (!n)
			continue;
		queue_put(&s->blind, n);
		queue_look(s, n, false);
	}
}

bool scan_is_blind(const struct node *n)
{
	return n->flags & BLIND;
}

void scan_forget(struct scan *s, struct node *n)
{
	if (n->flags & LOOK)
		queue_forget(&s->names, n);
	if (n->flags & LIST)
		queue_forget(&s->dirs, n);
	if (n->flags & BLIND)
		queue_forget(&s->blind, n);
	if (s->list.node == n) {
		close(s->list.fd);
		s->list.node = NULL;
	}
	set_unwatched(s, n, false);
}

void scan_totals(const struct scan *s, uint64_t *entries, uint64_t *bytes)
{
	bool running = s->pass && !s->passed;

	*entries = running ? s->pass_entries : s->entries;
	*bytes = running ? s->pass_bytes : s->bytes;
}
