#include "proto/sync/side.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "reactor/err.h"

enum {
	QUIET_MS = 50,   /* a file is being written: wait until it was left alone so long */
	STEADY_MS = 500, /* but in a steady stream of writes no longer than that, */
	STEADY_BYTES =
	    4 << 20, /* and as much again for each of these: a copy of it would be late */
	STEADY_MAX_MS = 30000,
	HELD_MAX = 1024, /* more are looked at as they come */
	EVENTS_MAX = 4096,
	POLL_MS = 3000,
	TIDY_MS = 20
};

/* A name that is being written. */
struct held {
	struct list link;
	struct node *dir;
	uint64_t first, last, steady;
	size_t namelen;
	char name[];
};

/* --- events --- */

static void held_free(struct side *s, struct held *h)
{
	list_del(&h->link);
	s->nheld--;
	free(h);
}

static struct held *held_find(struct side *s, const struct node *dir, struct slice name)
{
	for (struct list *l = s->held.next; l != &s->held; l = l->next) {
		struct held *h = container_of(l, struct held, link);
		if (h->dir == dir && slice_eq(slice_of(h->name, h->namelen), name))
			return h;
	}
	return NULL;
}

static void held_arm(struct side *s, const struct held *h)
{
	uint64_t now = reactor_now(s->rx), due = MIN(h->last + QUIET_MS, h->first + h->steady);
	if (!timer_is_set(&s->timer) || s->timer.at > due)
		timer_set(s->rx, &s->timer, due > now ? due - now : 0);
}

static void on_changed(void *arg, struct node *dir, struct slice name, bool written)
{
	struct side *s = arg;
	struct held *h = s->nheld ? held_find(s, dir, name) : NULL;
	if (h)
		held_free(s, h);
	scan_name(s->scan, dir, name, written);
}

/* Is it a file, and perhaps not what the tree says it is (as our own doings are)? */
enum found { NO_FILE, KNOWN, UNKNOWN };
static enum found find_file(struct side *s, struct node *dir, struct slice name, uint64_t *size)
{
	char path[SYNC_PATH_MAX + 1];
	struct version *v = NULL;
	struct stamp stamp;
	struct node *n = node_child(s->tree, dir, name);
	ssize_t len = node_path(dir, path, sizeof(path));
	if (len < 0 || (size_t)len + 1 + name.n >= sizeof(path))
		return NO_FILE;
	snprintf(path + len, sizeof(path) - (size_t)len, "%s%.*s", len ? "/" : "", SLICE_FMT(name));
	if (root_look(s->root, path, &v, &stamp) < 0 || !v)
		return NO_FILE;
	*size = v->size;
	const struct version *was = n ? n->side[SYNC_ALPHA] : NULL;
	enum found found = v->kind != SYNC_FILE ? NO_FILE : UNKNOWN;
	if (found == UNKNOWN && was && was->kind == SYNC_FILE && was->size == v->size &&
	    was->mtime_ns == v->mtime_ns && was->mode == v->mode && n->stamp.ino == stamp.ino &&
	    n->stamp.ctime_ns == stamp.ctime_ns && !(n->flags & NODE_RACY))
		found = KNOWN;
	version_unref(v);
	return found;
}

static void on_writing(void *arg, struct node *dir, struct slice name)
{
	struct side *s = arg;
	struct held *h = held_find(s, dir, name);
	if (!h) {
		uint64_t size = 0;
		enum found found = find_file(s, dir, name, &size);
		if (found == NO_FILE || (found == UNKNOWN && s->nheld == HELD_MAX))
			scan_name(s->scan, dir, name, true);
		if (found != UNKNOWN || s->nheld == HELD_MAX)
			return;
	}
	if (!h) {
		h = xmalloc(sizeof(*h) + name.n);
		h->dir = dir;
		h->first = reactor_now(s->rx);
		h->steady = STEADY_MS;
		h->namelen = name.n;
		memcpy(h->name, name.p, name.n);
		list_init(&h->link);
		s->nheld++;
	}
	h->last = reactor_now(s->rx);
	list_del(&h->link);
	list_add_tail(s->held.next, &h->link); /* to the front */
	held_arm(s, h);
}

/* How long writes to a file of that size may go on before it is looked at. */
static uint64_t steady_ms(struct side *s, const struct held *h)
{
	uint64_t size = 0;
	find_file(s, h->dir, slice_of(h->name, h->namelen), &size);
	return MIN(STEADY_MS * (1 + size / STEADY_BYTES), STEADY_MAX_MS);
}

/* Looks at what was left alone for long enough, or at all of it. */
static void held_release(struct side *s, bool all)
{
	uint64_t now = reactor_now(s->rx);
	for (struct list *l = s->held.next, *next; l != &s->held; l = next) {
		struct held *h = container_of(l, struct held, link);
		next = l->next;
		if (!all && now < h->last + QUIET_MS && now >= h->first + h->steady)
			h->steady = steady_ms(s, h);
		if (!all && now < h->last + QUIET_MS && now < h->first + h->steady) {
			held_arm(s, h);
			continue;
		}
		scan_name(s->scan, h->dir, slice_of(h->name, h->namelen), true);
		held_free(s, h);
	}
}

static void on_lost(void *arg, struct node *dir)
{
	struct side *s = arg;
	scan_below(s->scan, dir);
}

static void on_forget(void *arg, struct node *n)
{
	struct side *s = arg;
	for (struct list *l = s->held.next, *next; l != &s->held; l = next) {
		struct held *h = container_of(l, struct held, link);
		next = l->next;
		if (h->dir == n)
			held_free(s, h);
	}
	if (s->scan)
		scan_forget(s->scan, n);
	if (s->watch)
		watch_forget(s->watch, n);
	if (s->forget)
		s->forget(s->arg, n);
}

static void on_timer(struct timer *t)
{
	struct side *s = container_of(t, struct side, timer);
	task_wake(s->rx, s->owner);
}

/* --- begin and end --- */

int side_open(struct side *s, struct reactor *rx, struct task *owner, const struct side_options *o,
	      char *why, size_t whylen)
{
	int err;
	*s = (struct side){
		.rx = rx, .owner = owner, .events.fd = -1, .forget = o->forget, .arg = o->arg
	};
	list_init(&s->held);
	timer_init(&s->timer, on_timer);
	s->ignore = ignore_new(o->ignore, why, whylen);
	if (!s->ignore)
		return -EINVAL;
	s->root = root_open(&o->root, &err, why, whylen);
	if (!s->root)
		return err;
	s->tree = tree_new(SYNC_ENTRIES_MAX, on_forget, s);
	return 0;
}

static int watch_start(struct side *s, bool fanotify)
{
	struct watch_options wo = { .fanotify = fanotify,
				    .not_own = true,
				    .changed = on_changed,
				    .writing = on_writing,
				    .lost = on_lost,
				    .arg = s };
	int err, fd = root_open_at(s->root, "", O_RDONLY | O_DIRECTORY);
	if (fd < 0)
		return fd;
	s->watch = watch_new(&wo, fd, &err);
	close(fd);
	if (!s->watch)
		return 0; /* polled */
	watch_leave(s->watch, root_stage(s->root));
	fd = fcntl(watch_fd(s->watch), F_DUPFD_CLOEXEC, 3);
	if (fd == -1)
		return -errno;
	err = handle_open(&s->events, s->rx, fd, s->owner);
	if (err < 0)
		close(fd);
	return err;
}

/* What the store knows in a directory that it knows to be gone: a scan goes from the root down and
 * would never look for it. (If it is there after all, the scan finds it.) */
static void drop_orphans(struct tree *t)
{
	for (struct node *n = node_next(t, tree_root(t)); n; n = node_next(t, n)) {
		const struct node *dir = n->parent;
		const struct version *v = dir->side[SYNC_ALPHA];
		if (!dir->parent || (v && v->kind == SYNC_DIR))
			continue;
		version_unref(n->side[SYNC_ALPHA]);
		n->side[SYNC_ALPHA] = NULL;
		n->stamp = (struct stamp){ 0 };
	}
}

/* The store is STATE/sync/ID, and STATE may lie in what is synced ($HOME is): its journal would be
 * synced, which would be noted in it, and so on. */
static void leave_state(const char *store, int root, uint64_t leave[3])
{
	static const char *const up[] = { ".", "..", "../.." };
	struct stat top, st;
	int fd = open(store, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd == -1)
		return;
	for (size_t i = 0; i < ARRAY_LEN(up); i++)
		if (fstat(root, &top) == 0 && fstatat(fd, up[i], &st, 0) == 0 &&
		    st.st_dev == top.st_dev && st.st_ino != top.st_ino)
			leave[i] = st.st_ino;
	close(fd);
}

int side_start(struct side *s, const struct side_options *o, char *why, size_t whylen)
{
	drop_orphans(s->tree);
	int r = watch_start(s, o->fanotify);
	if (r < 0) {
		snprintf(why, whylen, "cannot watch %s: %s", o->root.path, err_text(r));
		return r;
	}
	struct scan_options so = { .root = s->root,
				   .tree = s->tree,
				   .ignore = s->ignore,
				   .masks = o->masks,
				   .nmasks = o->nmasks,
				   .only = o->only,
				   .watch = s->watch,
				   .hash = o->hash,
				   .problem = o->problem,
				   .changed = o->changed,
				   .arg = o->arg };
	int fd = root_open_at(s->root, "", O_RDONLY | O_DIRECTORY);
	if (fd >= 0) {
		leave_state(o->root.store, fd, so.leave);
		close(fd);
	}
	s->scan = scan_new(&so);
	s->poll_at = reactor_now(s->rx) + POLL_MS;
	scan_below(s->scan, NULL);
	return 0;
}

void side_close(struct side *s)
{
	if (!s->rx)
		return;
	handle_close(&s->events);
	timer_clear(s->rx, &s->timer);
	for (struct list *l; (l = list_pop(&s->held));)
		held_free(s, container_of(l, struct held, link));
	scan_free(s->scan);
	watch_free(s->watch);
	s->scan = NULL;
	s->watch = NULL;
	if (s->tree)
		tree_free(s->tree);
	if (s->root)
		root_close(s->root);
	ignore_free(s->ignore);
	*s = (struct side){ 0 };
}

/* --- work --- */

/* What needs looking at now and then, for lack of events. */
static void poll_due(struct side *s)
{
	uint64_t now = reactor_now(s->rx);
	if (now >= s->poll_at) {
		s->poll_at = now + POLL_MS;
		if (!s->watch && scan_idle(s->scan))
			scan_below(s->scan, NULL);
		else if (scan_unwatched(s->scan))
			scan_poll(s->scan);
		scan_retry(s->scan);
		root_tidy(s->root, TIDY_MS);
	}
	if (!timer_is_set(&s->timer))
		timer_set(s->rx, &s->timer, s->poll_at - now);
}

bool side_turn(struct side *s, unsigned ms)
{
	bool more = false;
	if (!s->scan)
		return false;
	if (s->events.ready & READY_IN) {
		root_batch(s->root);
		more = watch_read(s->watch, EVENTS_MAX);
		root_batch_end(s->root);
		if (!more)
			s->events.ready &= ~(unsigned)READY_IN;
	}
	if (s->nheld)
		held_release(s, false);
	poll_due(s);
	return scan_step(s->scan, ms) || more;
}

void side_settle(struct side *s)
{
	if (!s->scan)
		return;
	if (s->watch)
		watch_read(s->watch, 0);
	else
		scan_below(s->scan, NULL);
	s->events.ready &= ~(unsigned)READY_IN;
	held_release(s, true);
	if (scan_unwatched(s->scan))
		scan_poll(s->scan);
	scan_retry(s->scan);
}

bool side_idle(const struct side *s)
{
	return s->scan && scan_idle(s->scan);
}

void side_look(struct side *s, struct slice path, bool content)
{
	struct node *dir = tree_root(s->tree);
	struct slice rest = path, name;
	if (!s->scan)
		return;
	while (slice_cut(rest, '/', &name, &rest)) {
		struct node *n = node_child(s->tree, dir, name);
		if (!n)
			break;
		dir = n;
	}
	scan_name(s->scan, dir, name, content);
}

int side_check(struct side *s, char *why, size_t whylen)
{
	int r = root_check(s->root);
	switch (r) {
	case 0:
		break;
	case -ENOENT:
		snprintf(why, whylen, "the directory is gone");
		break;
	case -ENOTDIR:
		snprintf(why, whylen, "there is no directory any more, but something else");
		break;
	case -ESTALE:
		snprintf(why, whylen, "there is another directory in its place");
		break;
	default:
		snprintf(why, whylen, "the directory cannot be looked at: %s", err_text(r));
	}
	return r;
}

const char *side_watch_kind(const struct side *s)
{
	return s->watch ? watch_kind(s->watch) : "poll";
}
