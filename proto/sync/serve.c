#include "proto/sync/serve_int.h"

#include <errno.h>
#include <malloc.h>

#include "reactor/err.h"

enum {
	TURN_MS = 10,
	MESSAGES = 256, /* in one go, then there is a look at the disk */
	CHECK_MS = 2000
};

void serve_done(struct serve *s, uint32_t id, int status)
{
	struct msg m = { .type = MSG_DONE, .id = id, .status = status };
	if (status < 0)
		m.text = slice_str(err_text(status));
	channel_send(s->ch, &m);
}

int serve_bad(struct serve *s, const char *what)
{
	snprintf(s->why, sizeof(s->why), "the other end of the sync broke the protocol: %s", what);
	return -EPROTO;
}

/* --- what is told of this side --- */

static void on_changed(void *arg, struct node *n)
{
	struct serve *s = arg;
	/* It is no longer what the brain has put here: who knows of that one by now. */
	if (n->base && n->base != n->side[SYNC_ALPHA])
		node_set_base(s->side.tree, n,
			      version_identical(n->base, n->side[SYNC_ALPHA])
				  ? version_ref(n->side[SYNC_ALPHA])
				  : NULL);
	store_note(s->store, n);
	s->noted = true;
}

static void on_problem(void *arg, struct node *n, const char *why)
{
	struct serve *s = arg;
	char path[SYNC_PATH_MAX + 1];
	ssize_t len = node_path(n, path, sizeof(path));
	struct slice text = slice_str(why);
	n->flags &= ~(uint32_t)NODE_DUE;
	if (len <= 0 || !why == !(n->flags & NODE_PROBLEM))
		return; /* known */
	if (!channel_room(s->ch)) {
		n->flags |= NODE_DUE;
		node_mark_dirty(s->side.tree, n);
		return;
	}
	n->flags = why ? n->flags | NODE_PROBLEM : n->flags & ~(uint32_t)NODE_PROBLEM;
	text.n = MIN(text.n, WIRE_TEXT_MAX);
	channel_send(s->ch, &(struct msg){ .type = MSG_PROBLEM,
					   .path = slice_of(path, (size_t)len),
					   .text = text });
}

static void halt(struct serve *s, const char *why)
{
	if (s->halted)
		return;
	s->halted = true;
	channel_send(s->ch, &(struct msg){ .type = MSG_HALT, .text = slice_str(why) });
}

/* Before anything is told to be gone: is it not all gone, root and all? */
static bool root_there(struct serve *s)
{
	char why[256];
	if (!s->halted && side_check(&s->side, why, sizeof(why)) < 0)
		halt(s, why);
	return !s->halted;
}

/* Tells what has changed: true when all was told. */
static bool tell(struct serve *s)
{
	char path[SYNC_PATH_MAX + 1];
	bool checked = false;
	while (tree_dirty(s->side.tree) && channel_room(s->ch)) {
		if (!checked && !root_there(s))
			return false;
		checked = true;
		struct node *n = tree_pop_dirty(s->side.tree);
		ssize_t len = node_path(n, path, sizeof(path));
		if (n->flags & NODE_DUE && scan_is_blind(n))
			side_look(&s->side, slice_of(path, len > 0 ? (size_t)len : 0), false);
		else if (n->flags & NODE_DUE)
			on_problem(s, n, NULL);
		n->flags &= ~(uint32_t)NODE_DUE;
		if (len > 0)
			channel_send(s->ch, &(struct msg){ .type = MSG_ENTRY,
							   .flags = n->base ? ENTRY_GIVEN : 0,
							   .path = slice_of(path, (size_t)len),
							   .want = n->side[SYNC_ALPHA] });
		if (!n->side[SYNC_ALPHA])
			node_prune(s->side.tree, n);
	}
	return tree_dirty(s->side.tree) == 0;
}

/* The first scan is over: everything is to be told. */
static void first_scan_over(struct serve *s)
{
	while (tree_dirty(s->side.tree))
		tree_pop_dirty(s->side.tree);
	struct tree *t = s->side.tree;
	for (struct node *n = node_next(t, tree_root(t)); n; n = node_next(t, n))
		if (n->side[SYNC_ALPHA] || n->flags & NODE_DUE)
			node_mark_dirty(t, n);
	s->scanned = true;
}

static void tell_scanned(struct serve *s)
{
	struct msg m = { .type = MSG_SCANNED };
	scan_totals(s->side.scan, &m.n, &m.at);
	channel_send(s->ch, &m);
	s->told = true;
}

static void answer_settled(struct serve *s)
{
	if (s->nsettles == SETTLES_MAX)
		task_wake(s->rx, &s->task); /* messages waited for this */
	for (size_t i = 0; i < s->nsettles; i++) {
		if (s->settles[i].fence)
			channel_send(s->ch,
				     &(struct msg){ .type = MSG_FENCED, .id = s->settles[i].id });
		else
			serve_done(s, s->settles[i].id, 0);
	}
	s->nsettles = 0;
}

/* --- what the brain says --- */

static int on_ignore(struct serve *s, const struct msg *m)
{
	if (s->opened || buf_put(&s->ignore, m->data) < 0)
		return serve_bad(s, "IGNORE");
	return 0;
}

static int on_mask(struct serve *s, const struct msg *m)
{
	if (s->opened || s->nmasks == MASKS_MAX)
		return serve_bad(s, "MASK");
	s->masks = xrealloc(s->masks, (s->nmasks + 1) * sizeof(*s->masks));
	s->masks[s->nmasks++] = xslicedup(m->path);
	return 0;
}

static bool is_generation(const struct serve *s, struct slice text)
{
	return text.n < sizeof(s->generation) && (text.n == 0 || !memchr(text.p, '\0', text.n));
}

/* What was put here, and by whom: another alpha has agreed on nothing yet. */
static void pair_of(const struct serve *s, struct slice alpha, char *out, size_t outlen)
{
	snprintf(out, outlen, "%s %.*s", s->generation, SLICE_FMT(alpha));
}

static int on_open(struct serve *s, const struct msg *m)
{
	if (s->opened)
		return serve_bad(s, "OPEN");
	if (m->id != WIRE_VERSION) {
		snprintf(s->why, sizeof(s->why),
			 "tsctl speaks version %u of the sync protocol, this guest %d: update both",
			 m->id, WIRE_VERSION);
		return -EPROTO;
	}
	if (!is_generation(s, m->data))
		return serve_bad(s, "OPEN");
	if (m->n >= UINT32_MAX || m->at >= UINT32_MAX)
		return serve_bad(s, "OPEN");
	if (m->text.n && (!wire_path_ok(m->text) || memchr(m->text.p, '/', m->text.n)))
		return serve_bad(s, "OPEN");
	s->opened = true;
	s->only = m->text.n ? xslicedup(m->text) : NULL;
	struct side_options o = { .root = { .path = s->root_path,
					    .store = s->store_path,
					    .make = m->flags & OPEN_MAKE,
					    .in_place = m->flags & OPEN_IN_PLACE,
					    .owned = m->flags & OPEN_OWNED,
					    .uid = (uid_t)m->n,
					    .gid = (gid_t)m->at },
				  .ignore = buf_data(&s->ignore),
				  .masks = s->masks,
				  .nmasks = s->nmasks,
				  .only = s->only,
				  .fanotify = m->flags & OPEN_FANOTIFY,
				  .hash = true,
				  .problem = on_problem,
				  .changed = on_changed,
				  .arg = s };
	int r;
	s->store = store_open(s->store_path, &r, s->why, sizeof(s->why));
	if (!s->store)
		return r;
	r = side_open(&s->side, s->rx, &s->task, &o, s->why, sizeof(s->why));
	if (r < 0)
		return r;
	root_generation(s->side.root, s->generation);
	char pair[2 * sizeof(s->generation)];
	pair_of(s, m->data, pair, sizeof(pair));
	r = store_load(s->store, s->side.tree, false, pair, s->why, sizeof(s->why));
	if (r < 0)
		return r;
	r = side_start(&s->side, &o, s->why, sizeof(s->why));
	if (r < 0)
		return r;
	buf_end(&s->ignore);
	channel_send(s->ch, &(struct msg){ .type = MSG_OPENED,
					   .id = WIRE_VERSION,
					   .text = slice_str(s->generation),
					   .data = slice_str(side_watch_kind(&s->side)) });
	return 0;
}

/* The brain has forgotten what it has put here. */
static int on_epoch(struct serve *s, const struct msg *m)
{
	char pair[2 * sizeof(s->generation)];
	struct tree *t = s->side.tree;
	if (!s->opened || !is_generation(s, m->data))
		return serve_bad(s, "EPOCH");
	serve_smalls_end(s); /* their notes are not in the tree */
	for (struct node *n = node_next(t, tree_root(t)); n; n = node_next(t, n))
		node_set_base(t, n, NULL);
	pair_of(s, m->data, pair, sizeof(pair));
	int r = store_rename(s->store, pair);
	if (r < 0)
		snprintf(s->why, sizeof(s->why), "cannot forget what was synced: %s", err_text(r));
	return r;
}

static int on_message(struct serve *s, struct msg_in *in)
{
	struct msg *m = &in->m;
	if (s->halted)
		return 0; /* a new start is all that helps */
	switch (m->type) {
	case MSG_IGNORE:
		return on_ignore(s, m);
	case MSG_MASK:
		return on_mask(s, m);
	case MSG_OPEN:
		return on_open(s, m);
	case MSG_EPOCH:
		return on_epoch(s, m);
	case MSG_FENCE:
		if (!s->opened || s->nsettles == SETTLES_MAX)
			return serve_bad(s, "FENCE");
		side_settle(&s->side);
		s->settles[s->nsettles++] = (struct settle){ m->id, true };
		return 0;
	default:
		return s->told ? serve_op(s, in) : serve_bad(s, wire_name(m->type));
	}
}

/* Messages, as long as each finds all told that the brain may not know yet: then it is clear which
 * of the two it speaks of. True: there may be more. */
static bool messages(struct serve *s)
{
	static struct msg_in in;
	for (int i = 0; i < MESSAGES; i++) {
		bool behind = s->told && !s->halted && tree_dirty(s->side.tree);
		if (!channel_room(s->ch))
			return false;
		if (behind || s->nsettles == SETTLES_MAX)
			return behind;
		int r = channel_next(s->ch, &in);
		if (r == 0)
			return false;
		if (r > 0) {
			r = on_message(s, &in);
			wire_end(&in);
		} else if (r == -EBADMSG || r == -EMSGSIZE) {
			r = serve_bad(s, "what came is no message");
		}
		if (r < 0) {
			s->code = r == -ENODATA ? 1 : r;
			return false;
		}
	}
	return true;
}

static bool disk(struct serve *s)
{
	bool more = s->nsettles ? scan_step(s->side.scan, TURN_MS) : side_turn(&s->side, TURN_MS);
	if (!s->scanned && side_idle(&s->side))
		first_scan_over(s);
	if (s->scanned && tell(s) && !s->halted) {
		if (!s->told)
			tell_scanned(s);
		if (side_idle(&s->side))
			answer_settled(s);
	}
	if (reactor_now(s->rx) >= s->check_at) {
		s->check_at = reactor_now(s->rx) + CHECK_MS;
		if (channel_tidy(s->ch))
			malloc_trim(0);
		root_there(s);
	}
	return more;
}

static void serve_run(struct task *t)
{
	struct serve *s = container_of(t, struct serve, task);
	if (s->ended_called)
		return;
	root_batch(s->side.root);
	bool more = messages(s);
	serve_smalls_end(s);
	root_batch_end(s->side.root);
	if (s->opened && s->code == 0) {
		more |= disk(s);
		more |= serve_outgoing(s);
	}
	if (s->noted) {
		s->noted = false;
		store_flush(s->store);
	}
	int r = channel_flush(s->ch);
	if (r < 0 && s->code == 0)
		s->code = 1; /* the brain has gone: that is the usual end */
	if (s->code) {
		s->ended_called = true;
		if (s->code < 0)
			halt(s, s->why[0] ? s->why : err_text(s->code));
		channel_flush(s->ch);
		s->ended(s->arg, MIN(s->code, 0), s->why[0] ? s->why : err_text(s->code));
		return;
	}
	if (more || (s->opened && channel_room(s->ch) && tree_dirty(s->side.tree) && s->scanned &&
		     !s->halted))
		task_wake(s->rx, &s->task);
}

struct serve *serve_new(struct reactor *rx, struct stream *in, struct stream *out, const char *root,
			const char *store, void (*ended)(void *, int, const char *), void *arg)
{
	struct serve *s = xcalloc(1, sizeof(*s));
	s->rx = rx;
	s->ended = ended;
	s->arg = arg;
	s->root_path = xstrdup(root);
	s->store_path = xstrdup(store);
	buf_init(&s->ignore, IGNORE_MAX);
	list_init(&s->puts);
	list_init(&s->outgoing);
	task_init(&s->task, serve_run);
	s->ch = channel_new(in, out, &s->task);
	task_wake(rx, &s->task);
	return s;
}

void serve_free(struct serve *s)
{
	if (!s)
		return;
	task_cancel(&s->task);
	serve_ops_end(s);
	store_close(s->store); /* it looks at the tree */
	side_close(&s->side);
	channel_free(s->ch);
	buf_end(&s->ignore);
	for (size_t i = 0; i < s->nmasks; i++)
		free(s->masks[i]);
	free(s->masks);
	free(s->only);
	free(s->root_path);
	free(s->store_path);
	free(s);
}
