/* The brain: its turns and rounds, what the far end tells. */
#include "proto/sync/session_int.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <unistd.h>

#include "reactor/err.h"

enum {
	TURN_MS = 10,
	FRESH_MS = 2, /* and of a scan whose finds are already on their way */
	MESSAGES = 2048,
	CHECK_MS = 2000,
	GONE_QUIET_MS = 30, /* deletions are believed when none has followed for so long */
	GONE_STEADY_MS = 300,
	IGNORE_FILE_MAX = 1 << 20,
	ROUNDS_MAX = 200, /* that a fence waits for what keeps changing */
	AGAIN_MS = 10, /* until the next round, when one has changed nothing; doubled each time */
	AGAIN_MAX_MS = 1000,
	FAR_PROBLEMS_MAX = 10000 /* more are not for people to read */
};

int session_fail(struct session *s, int code, const char *fmt, ...)
{
	va_list ap;
	if (s->code == 0) {
		va_start(ap, fmt);
		vsnprintf(s->why, sizeof(s->why), fmt, ap);
		va_end(ap);
		s->code = code;
	}
	return s->code;
}

void session_halt(struct session *s, bool restart, const char *fmt, ...)
{
	va_list ap;
	/* A root that goes is emptied first: that it is gone is the better reason, since what is
	 * made in its place is merged, and removes nothing. */
	if (s->halt_why[0] && (s->restart_to_proceed || !restart))
		return;
	va_start(ap, fmt);
	vsnprintf(s->halt_why, sizeof(s->halt_why), fmt, ap);
	va_end(ap);
	s->restart_to_proceed = restart;
	s->news = true;
	fences_fail(s, s->halt_why);
}

void session_again(struct session *s, bool now)
{
	s->again_ms = now ? 0 : MIN(s->again_ms, AGAIN_MS);
	s->again_at = MIN(s->again_at, reactor_now(s->rx) + AGAIN_MS);
}

/* --- what alpha's scan tells --- */

/* It is gone, and was there: perhaps all is about to go, root and all, so look again in a moment.
 */
static void hold(struct session *s, struct node *n)
{
	if (!s->started || !n->base)
		return;
	if (!n->side[SYNC_ALPHA] && !n->side[SYNC_BETA]) {
		/* They agree on that, and now: what one of them brings back before the end of a
		 * hold is new. */
		node_set_base(s->side.tree, n, NULL);
		store_note(s->store, n);
		s->noted = true;
		return;
	}
	if (n->flags & NODE_HELD)
		return;
	if (s->nheld == s->held_cap) {
		s->held_cap = s->held_cap ? 2 * s->held_cap : 64;
		s->held = xrealloc(s->held, s->held_cap * sizeof(struct node *));
	}
	if (s->nheld == 0)
		s->held_first = reactor_now(s->rx);
	s->held_last = reactor_now(s->rx);
	s->held[s->nheld++] = n;
	n->flags |= NODE_HELD;
	ops_busy(s, n);
}

void held_release(struct session *s)
{
	for (size_t i = 0; i < s->nheld; i++) {
		struct node *n = s->held[i];
		n->flags &= ~(uint32_t)NODE_HELD;
		ops_unbusy(s, n);
		node_mark_dirty(s->side.tree, n);
	}
	s->nheld = 0;
	session_again(s, true);
	s->news = true;
}

static void on_changed(void *arg, struct node *n)
{
	struct session *s = arg;
	if (n->base) {
		store_note(s->store, n);
		s->noted = true;
	}
	if (!n->side[SYNC_ALPHA])
		hold(s, n);
	if (!n->parent->parent && slice_eq(slice_of(n->name, n->namelen), SLICE(".tsignore")))
		s->want_look = s->started && s->scanned;
	s->news = true;
}

static void on_problem(void *arg, struct node *n, const char *why)
{
	struct session *s = arg;
	if (why)
		problem_set(s, n, PROBLEM_SCAN, SYNC_ALPHA, why);
	else
		problem_clear(s, n, PROBLEM_SCAN, SYNC_ALPHA);
}

static void on_settled(void *arg, struct node *n)
{
	struct session *s = arg;
	store_note(s->store, n);
	s->noted = true;
}

/* --- the beginning --- */

/* A memory that begins anew has a new name, and the far end is told it: what that was given in the
 * time of another (GIVEN) counts no more, however soon both are killed. */
static void epoch_new(struct session *s)
{
	uint64_t v;
	arc4random_buf(&v, sizeof(v));
	snprintf(s->epoch, sizeof(s->epoch), "%016llx", (unsigned long long)v);
	s->epoch_is_new = true;
}

/* The generation: two roots and the epoch. */
static void epoch_load(struct session *s)
{
	char text[sizeof(s->generation)];
	store_generation(s->store, text, sizeof(text));
	const char *second = strchr(text, ' '), *third = second ? strchr(second + 1, ' ') : NULL;
	if (third)
		snprintf(s->epoch, sizeof(s->epoch), "%s", third + 1);
	else if (!second)
		epoch_new(s);
}

static void generation_set(struct session *s)
{
	snprintf(s->generation, sizeof(s->generation), "%s%s%s", s->roots, s->epoch[0] ? " " : "",
		 s->epoch);
}

/* Alpha's part of it, as the far end knows it. */
static void generation_of_alpha(struct session *s, char *out, size_t outlen)
{
	char root[64];
	root_generation(s->side.root, root);
	snprintf(out, outlen, "%s%s%s", root, s->epoch[0] ? " " : "", s->epoch);
}

int session_forget(struct session *s)
{
	char mine[sizeof(s->generation)];
	struct tree *t = s->side.tree;
	for (struct node *n = node_next(t, tree_root(t)); n; n = node_next(t, n)) {
		node_set_base(t, n, NULL);
		node_mark_dirty(t, n);
	}
	epoch_new(s);
	generation_set(s);
	s->remembers = false;
	int r = store_rename(s->store, s->generation);
	if (r < 0)
		return r;
	generation_of_alpha(s, mine, sizeof(mine));
	channel_send(s->ch, &(struct msg){ .type = MSG_EPOCH, .data = slice_str(mine) });
	return 0;
}

/* Patterns: the file's at the root, then the configuration's, which have the last word: the far end
 * may write the file. */
static char *all_patterns(struct session *s)
{
	char *file = xcalloc(1, IGNORE_FILE_MAX + 2);
	int fd = root_open_at(s->side.root, ".tsignore", O_RDONLY);
	ssize_t n = 0;
	size_t len = 0;
	while (fd >= 0 && len < IGNORE_FILE_MAX &&
	       (n = read(fd, file + len, IGNORE_FILE_MAX - len)) > 0)
		len += (size_t)n;
	if (fd >= 0)
		close(fd);
	char *all = xasprintf("%s%s%s", file, file[0] ? "\n" : "", s->config.ignore);
	free(file);
	return all;
}

static void call_far_end(struct session *s)
{
	struct slice text = slice_str(s->config.ignore);
	char mine[sizeof(s->generation)];
	while (text.n) {
		struct msg m = { .type = MSG_IGNORE, .data = text };
		m.data.n = MIN(text.n, WIRE_INLINE);
		channel_send(s->ch, &m);
		text = slice_after(text, m.data.n);
	}
	for (size_t i = 0; i < s->config.nmasks; i++)
		channel_send(s->ch, &(struct msg){ .type = MSG_MASK,
						   .path = slice_str(s->config.masks[i]) });
	generation_of_alpha(s, mine, sizeof(mine));
	uid_t uid;
	gid_t gid;
	root_owner(s->side.root, &uid, &gid);
	channel_send(s->ch, &(struct msg){ .type = MSG_OPEN,
					   .data = slice_str(mine),
					   .id = WIRE_VERSION,
					   .n = uid,
					   .at = gid,
					   .flags = (s->config.far_owned ? OPEN_OWNED : 0) |
						    (s->config.far_make ? OPEN_MAKE : 0) |
						    (s->config.far_in_place ? OPEN_IN_PLACE : 0) |
						    (s->config.far_fanotify ? OPEN_FANOTIFY : 0),
					   .text = slice_str(s->config.only) });
}

int session_begin(struct session *s)
{
	struct side_options *o = &s->side_options;
	char why[400];
	int r;
	*o = (struct side_options){ .root = { .path = s->config.root, .store = s->config.store },
				    .masks = s->config.masks,
				    .nmasks = s->config.nmasks,
				    .only = s->config.only[0] ? s->config.only : NULL,
				    .fanotify = s->config.fanotify,
				    .problem = on_problem,
				    .changed = on_changed,
				    .arg = s };
	s->store = store_open(s->config.store, &r, why, sizeof(why));
	if (!s->store)
		return session_fail(s, r, "%s", why);
	epoch_load(s);
	r = side_open(&s->side, s->rx, &s->task, o, why, sizeof(why));
	s->has_side = true;
	if (r < 0)
		return session_fail(s, r, "%s", why);
	char *all = all_patterns(s);
	free(s->config.ignore);
	s->config.ignore = all;
	ignore_free(s->side.ignore);
	s->side.ignore = ignore_new(slice_str(all), why, sizeof(why));
	if (!s->side.ignore)
		return session_fail(s, -EINVAL, "the patterns to ignore: %s", why);
	s->rec = (struct reconciler){ .tree = s->side.tree,
				      .mode = s->config.mode,
				      .settled = on_settled,
				      .hash = ops_hash,
				      .arg = s };
	call_far_end(s);
	return 0;
}

/* --- what the far end tells --- */

static int on_opened(struct session *s, const struct msg *m)
{
	char mine[64], why[400];
	if (s->opened || m->id != WIRE_VERSION || m->text.n >= sizeof(mine))
		return session_fail(s, -EPROTO,
				    "the guest speaks version %u of the sync protocol, this tsctl "
				    "%d: update both",
				    m->id, WIRE_VERSION);
	s->opened = true;
	snprintf(s->far_watch, sizeof(s->far_watch), "%.*s", SLICE_FMT(m->data));
	root_generation(s->side.root, mine);
	snprintf(s->roots, sizeof(s->roots), "%s %.*s", mine, SLICE_FMT(m->text));
	generation_set(s);
	int r = store_load(s->store, s->side.tree, true, s->generation, why, sizeof(why));
	if (r < 0)
		return session_fail(s, r, "%s", why);
	s->remembers = r == 0;
	/* What it remembers is of other roots; the far end may know of these from long ago. */
	if (r == 1 && !s->epoch_is_new && (r = session_forget(s)) < 0)
		return session_fail(s, r, "cannot forget what was synced: %s", err_text(r));
	if (s->reset_first)
		session_reset(s);
	r = side_start(&s->side, &s->side_options, why, sizeof(why));
	return r < 0 ? session_fail(s, r, "%s", why) : 0;
}

/* The same in all, so that one version will do for both. */
static struct version *shared(struct version *known, struct version *v)
{
	if (known && known->kind == v->kind && known->mtime_ns == v->mtime_ns &&
	    version_equal(known, v) == 1)
		return known;
	return v;
}

static int on_entry(struct session *s, const struct msg *m)
{
	struct tree *t = s->side.tree;
	/* It has the same patterns, and yet: what is ignored here is nobody's to write there. */
	if (m->want && scan_ignores(s->side.scan, m->path, m->want->kind == SYNC_DIR))
		return 0;
	struct node *n = m->want ? tree_get(t, m->path) : tree_find(t, m->path);
	bool grows = m->want && m->want->kind == SYNC_LINK;
	if ((!n && m->want) || (grows && tree_full(t)))
		return session_fail(
		    s, -ENOSPC,
		    "there are more than %d files, or names and links too long for them",
		    SYNC_ENTRIES_MAX);
	if (!n)
		return 0;
	struct version *v = m->want;
	if (v)
		v = shared(n->base, v);
	if (v && v == m->want)
		v = shared(n->side[SYNC_ALPHA], v);
	/* We have put it there, and were ended before that was noted: they agreed on it. (Not if
	 * it was another alpha that did: then nothing has been agreed on with this one.) */
	if (v && m->flags & ENTRY_GIVEN && s->remembers && !s->started &&
	    !version_identical(n->base, v)) {
		node_set_base(t, n, version_ref(v));
		store_note(s->store, n);
		s->noted = true;
	}
	struct version *a = n->side[SYNC_ALPHA];
	if (a && a->kind == SYNC_FILE && a->hashed == HASH_ASSUMED && v != n->base)
		a->hashed = 0; /* now it matters what it is */
	node_set(t, n, SYNC_BETA, version_ref(v));
	if (v && v->kind == SYNC_DIR)
		session_again(s, true);
	if (!v)
		hold(s, n);
	else if (s->nheld)
		s->held_last = reactor_now(s->rx); /* perhaps they are here under new names */
	s->news = true;
	return 0;
}

static void on_far_problem(struct session *s, const struct msg *m)
{
	char why[256];
	bool set = m->text.n && m->text.p[0];
	if (set && s->problems.n >= FAR_PROBLEMS_MAX)
		return;
	struct node *n = set ? tree_get(s->side.tree, m->path) : tree_find(s->side.tree, m->path);
	snprintf(why, sizeof(why), "%.*s", SLICE_FMT(m->text));
	if (n && set)
		problem_set(s, n, PROBLEM_SCAN, SYNC_BETA, why);
	else if (n)
		problem_clear(s, n, PROBLEM_SCAN, SYNC_BETA);
}

static void on_fenced(struct session *s, const struct msg *m)
{
	for (struct list *l = s->fences.next; l != &s->fences; l = l->next) {
		struct fence *f = container_of(l, struct fence, link);
		if (f->far_id == m->id)
			f->far_done = true;
	}
}

static int on_message(struct session *s, struct msg_in *in)
{
	struct msg *m = &in->m;
	if (m->type == MSG_OPENED)
		return on_opened(s, m);
	if (m->type == MSG_HALT) {
		if (!s->opened)
			return session_fail(s, -ECANCELED, "on the remote side: %.*s",
					    SLICE_FMT(m->text));
		session_halt(s, true, "on the remote side: %.*s", SLICE_FMT(m->text));
		return 0;
	}
	if (!s->opened)
		return session_fail(s, -EPROTO, "the guest broke the protocol of the sync: %s",
				    wire_name(m->type));
	switch (m->type) {
	case MSG_ENTRY:
		return on_entry(s, m);
	case MSG_SCANNED:
		s->far_scanned = true;
		s->far_entries = m->n;
		s->far_bytes = m->at;
		s->news = true;
		return 0;
	case MSG_PROBLEM:
		on_far_problem(s, m);
		return 0;
	case MSG_FENCED:
		on_fenced(s, m);
		return 0;
	default:
		return ops_message(s, in);
	}
}

static bool messages(struct session *s)
{
	static struct msg_in in;
	for (int i = 0; i < MESSAGES; i++) {
		int r = channel_next(s->ch, &in);
		if (r == 0)
			return false;
		if (r > 0) {
			r = on_message(s, &in);
			wire_end(&in);
			if (r < 0)
				return false;
			continue;
		}
		if (r == -ENODATA)
			session_fail(s, 1, "the guest's end of the sync has ended");
		else
			session_fail(s, r, "the guest's end of the sync: %s",
				     r == -EBADMSG || r == -EMSGSIZE ? "what came is no message"
								     : err_text(r));
		return false;
	}
	return true;
}

/* --- rounds --- */

/* Nothing has been agreed on, and nothing is at beta: all there is to do is to make what alpha has,
 * and that can begin before all of it is known. */
static bool is_fresh(const struct session *s)
{
	return s->far_scanned && s->far_entries == 0 && !s->remembers &&
	       list_empty(&s->problems.all);
}

/* Both sides are known: whatever is not settled is looked at. */
static void start(struct session *s)
{
	s->fresh = !s->scanned;
	struct tree *t = s->side.tree;
	for (struct node *n = node_next(t, tree_root(t)); n; n = node_next(t, n))
		if (n->side[SYNC_ALPHA] != n->side[SYNC_BETA] || n->side[SYNC_ALPHA] != n->base)
			node_mark_dirty(t, n);
	s->started = true;
	s->news = true;
}

void session_look_at_root(struct session *s)
{
	char why[256];
	if (side_check(&s->side, why, sizeof(why)) < 0)
		session_halt(s, true, "%s: %s", s->config.root, why);
}

static bool roots_there(struct session *s)
{
	session_look_at_root(s);
	return !s->halt_why[0];
}

static bool held_due(struct session *s)
{
	uint64_t now = reactor_now(s->rx);
	for (struct list *l = s->fences.next; l != &s->fences; l = l->next)
		if (container_of(l, struct fence, link)->state != FENCE_SCAN)
			return true; /* all that belongs to it is known */
	return now >= s->held_last + GONE_QUIET_MS || now >= s->held_first + GONE_STEADY_MS;
}

static void round_run(struct session *s)
{
	if (s->nheld && held_due(s)) {
		if (!roots_there(s))
			return;
		held_release(s);
	}
	size_t dirty = tree_dirty(s->side.tree);
	if (dirty == 0) {
		s->again_ms = 0;
		return;
	}
	uint64_t now = reactor_now(s->rx);
	if (s->again_ms && dirty == s->again_dirty && now < s->again_at)
		return;
	const char *why = s->config.halt ? reconcile_halt(s->side.tree, s->config.mode) : NULL;
	if (why && !s->emptied_ok) {
		session_halt(s, false, "%s", why);
		return;
	}
	if (!why)
		s->emptied_ok = false;
	size_t from = s->todo.n, conflicts = s->rec.nconflicts;
	reconcile(&s->rec, &s->todo);
	ops_added(s, from);
	sources_find(s, from);
	problems_looked(s);
	s->news |= s->todo.n > from || s->rec.nconflicts != conflicts;
	/* What the far end says is in no directory stays dirty until it has put that right. If it
	 * never does, that must not cost all of our time. */
	bool stuck = tree_dirty(s->side.tree) == dirty &&
		     (s->todo.n == from || s->done.files == s->done_at_round);
	s->done_at_round = s->done.files;
	s->again_ms = stuck ? MIN(MAX(2 * s->again_ms, AGAIN_MS), AGAIN_MAX_MS) : 0;
	s->again_at = now + s->again_ms;
	s->again_dirty = dirty;
}

/* A fence is through once all that was known when both sides had looked is done, and what that
 * itself has brought to light. */
static void fences_run(struct session *s)
{
	for (struct list *l = s->fences.next, *next; l != &s->fences; l = next) {
		struct fence *f = container_of(l, struct fence, link);
		next = l->next;
		if (f->state == FENCE_SCAN && f->far_done && side_idle(&s->side)) {
			f->state = FENCE_OPS;
			f->until = s->next_serial;
		}
		bool rest = tree_dirty(s->side.tree) || problems_stale(s) || s->nheld;
		f->rest |= f->state != FENCE_SCAN && rest;
		while (f->state != FENCE_SCAN && ops_oldest(s) >= f->until) {
			if (rest && f->until == s->next_serial) {
				/* No rest of these stays one for long: that is no round. */
				if (s->nheld)
					task_wake(s->rx, &s->task);
				break;
			}
			if (f->rest && f->until != s->next_serial && f->rounds++ < ROUNDS_MAX) {
				f->until = s->next_serial; /* what has come of the rest */
				f->rest = rest;
				continue;
			}
			status_say(s);
			control_reply(s, "fenced", f->n, NULL);
			list_del(l);
			free(f);
			break;
		}
	}
}

static bool fence_scans(struct session *s)
{
	for (struct list *l = s->fences.next; l != &s->fences; l = l->next)
		if (container_of(l, struct fence, link)->state == FENCE_SCAN)
			return true;
	return false;
}

/* --- turns --- */

static void wake_later(struct session *s, uint64_t retry_at)
{
	uint64_t now = reactor_now(s->rx), at = s->check_at;
	uint64_t age_at = sources_age(s);
	if (age_at)
		at = MIN(at, MAX(age_at, now + 100));
	if (retry_at)
		at = MIN(at, retry_at);
	if (s->again_ms)
		at = MIN(at, s->again_at);
	if (s->nheld)
		at = MIN(at, MIN(s->held_last + GONE_QUIET_MS, s->held_first + GONE_STEADY_MS));
	if (s->news)
		at = MIN(at, s->status_at);
	timer_set(s->rx, &s->timer, at > now ? at - now : 1);
}

static void session_run(struct task *t)
{
	struct session *s = container_of(t, struct session, task);
	bool more = false;
	uint64_t retry_at = 0;
	if (s->ended_called)
		return;
	control_read(s);
	if (s->configured && s->code == 0) {
		root_batch(s->side.root);
		more = messages(s);
		root_batch_end(s->side.root);
	}
	if (s->opened && s->code == 0) {
		/* A fence waits for what there is now, not for what keeps coming. */
		unsigned ms = s->started && !s->scanned ? FRESH_MS : TURN_MS;
		more |= fence_scans(s) ? scan_step(s->side.scan, ms) : side_turn(&s->side, ms);
		s->scanned |= side_idle(&s->side);
		if (!s->started && (is_fresh(s) || (s->scanned && s->far_scanned)))
			start(s);
		if (s->scanned && s->todo.n == 0 && list_empty(&s->ops))
			s->fresh = false;
		if (s->want_look)
			session_fail(s, 1, "the patterns in .tsignore have changed");
		if (reactor_now(s->rx) >= s->check_at) {
			s->check_at = reactor_now(s->rx) + CHECK_MS;
			if (channel_tidy(s->ch))
				malloc_trim(0);
			roots_there(s);
		}
	}
	if (s->started && s->code == 0 && !s->halt_why[0]) {
		retry_at = problems_retry(s, false);
		if (!s->paused)
			round_run(s);
		root_batch(s->side.root);
		if (!s->halt_why[0])
			more |= ops_run(s);
		root_batch_end(s->side.root);
		fences_run(s);
	}
	if (s->noted) {
		s->noted = false;
		store_flush(s->store);
	}
	int r = channel_flush(s->ch);
	if (r < 0)
		session_fail(s, 1, "the guest's end of the sync: %s", err_text(r));
	status_run(s);
	if (s->code) {
		s->ended_called = true;
		s->ended(s->arg, MIN(s->code, 0), s->why);
		return;
	}
	if (more ||
	    (s->started && !s->paused && !s->halt_why[0] && list_empty(&s->ops) && s->todo.n == 0 &&
	     s->nheld == 0 && s->again_ms == 0 && tree_dirty(s->side.tree)))
		task_wake(s->rx, &s->task);
	wake_later(s, retry_at);
}

static void on_timer(struct timer *t)
{
	struct session *s = container_of(t, struct session, timer);
	task_wake(s->rx, &s->task);
}

struct session *session_new(struct reactor *rx, struct stream *in, struct stream *out,
			    struct stream *control, void (*ended)(void *, int, const char *),
			    void *arg)
{
	struct session *s = xcalloc(1, sizeof(*s));
	s->rx = rx;
	s->ended = ended;
	s->arg = arg;
	s->control = control;
	buf_init(&s->control_in, 4 << 20);
	buf_init(&s->control_out, 4 << 20);
	s->by_id = xcalloc(OPS_SLOTS, sizeof(struct op *));
	s->next_id = 1;
	list_init(&s->ops);
	list_init(&s->waiting);
	list_init(&s->sending);
	list_init(&s->fences);
	list_init(&s->problems.all);
	task_init(&s->task, session_run);
	timer_init(&s->timer, on_timer);
	s->ch = channel_new(in, out, &s->task);
	stream_bind(control, &s->task);
	task_wake(rx, &s->task);
	return s;
}

void session_free(struct session *s)
{
	if (!s)
		return;
	task_cancel(&s->task);
	timer_clear(s->rx, &s->timer);
	fences_fail(s, "the sync has ended");
	sources_forget(s);
	signatures_end(s);
	ops_end(s);
	problems_end(s);
	reconciler_end(&s->rec);
	store_close(s->store); /* it looks at the tree */
	if (s->has_side)
		side_close(&s->side);
	channel_free(s->ch);
	stream_close(s->control, 0);
	buf_end(&s->control_in);
	buf_end(&s->control_out);
	config_end(&s->config);
	free(s->by_id);
	free(s->held);
	free(s);
}
