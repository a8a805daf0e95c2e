/* The parent's words: the configuration, then what it asks for. */
#include <errno.h>

#include "json/json.h"
#include "proto/sync/session_int.h"
#include "reactor/err.h"

/* --- paths in JSON --- */

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)(c | 0x20);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* A path as bytes: %XX are its bytes that are no UTF-8, and '%'. NULL for what is no path. */
static char *path_of(struct slice s)
{
	char *out = xmalloc(s.n + 1), *to = out;
	for (size_t i = 0; i < s.n; i++) {
		int c = (uint8_t)s.p[i];
		if (c == '%' && i + 2 < s.n && hex(s.p[i + 1]) >= 0 && hex(s.p[i + 2]) >= 0) {
			c = hex(s.p[i + 1]) * 16 + hex(s.p[i + 2]);
			i += 2;
		}
		*to++ = (char)c;
	}
	*to = '\0';
	if (strlen(out) == (size_t)(to - out))
		return out;
	free(out);
	return NULL;
}

static char *get_path(struct json_doc *doc, struct json *object, const char *name)
{
	struct slice s;
	if (json_str(doc, json_member(object, slice_str(name)), &s) < 0)
		return NULL;
	return path_of(s);
}

static bool get_bool(struct json *object, const char *name, bool otherwise)
{
	bool b = otherwise;
	json_bool(json_member(object, slice_str(name)), &b);
	return b;
}

/* --- the configuration --- */

void config_end(struct config *c)
{
	free(c->root);
	free(c->store);
	free(c->only);
	free(c->ignore);
	for (size_t i = 0; i < c->nmasks; i++)
		free(c->masks[i]);
	free(c->masks);
	*c = (struct config){ 0 };
}

static void get_masks(struct config *c, struct json_doc *doc, struct json *list)
{
	struct slice s;
	for (struct json *v = json_first(list); v; v = json_next(v)) {
		char *path = json_str(doc, v, &s) == 0 ? path_of(s) : NULL;
		if (!path || !wire_path_ok(slice_str(path))) {
			free(path); /* it names nothing in a tree */
			continue;
		}
		c->masks = xrealloc(c->masks, (c->nmasks + 1) * sizeof(char *));
		c->masks[c->nmasks++] = path;
	}
}

static int configure(struct session *s, struct json_doc *doc)
{
	struct json *root = json_root(doc), *far = json_member(root, SLICE("far"));
	struct config *c = &s->config;
	struct slice text;
	c->root = get_path(doc, root, "root");
	c->store = get_path(doc, root, "store");
	c->only = get_path(doc, root, "only");
	if (!c->only)
		c->only = xstrdup("");
	c->ignore = json_str(doc, json_member(root, SLICE("ignore")), &text) == 0 ? xslicedup(text)
										  : xstrdup("");
	if (json_str(doc, json_member(root, SLICE("mode")), &text) == 0)
		c->mode = sync_mode_parse(text);
	get_masks(c, doc, json_member(root, SLICE("masks")));
	c->halt = get_bool(root, "halt", true);
	c->fanotify = get_bool(root, "fanotify", false);
	c->far_make = get_bool(far, "make", false);
	c->far_in_place = get_bool(far, "in_place", false);
	c->far_fanotify = get_bool(far, "fanotify", true);
	c->far_owned = get_bool(far, "owned", false);
	if (!c->root || c->root[0] != '/' || !c->store || c->store[0] != '/' || !c->mode)
		return session_fail(s, -EINVAL,
				    "the configuration needs root and store, absolute, and mode");
	s->configured = true;
	return session_begin(s);
}

/* --- fences --- */

void fences_fail(struct session *s, const char *why)
{
	while (!list_empty(&s->fences)) {
		struct fence *f = container_of(list_pop(&s->fences), struct fence, link);
		control_reply(s, "fenced", f->n, why);
		free(f);
	}
}

static void fence(struct session *s, int64_t n)
{
	if (s->halt_why[0] || s->paused) {
		control_reply(s, "fenced", n, s->paused ? "the sync is paused" : s->halt_why);
		return;
	}
	struct fence *f = xcalloc(1, sizeof(*f));
	f->n = n;
	f->state = FENCE_SCAN;
	f->far_id = ++s->next_fence;
	list_init(&f->link);
	list_add_tail(&s->fences, &f->link);
	side_settle(&s->side);
	channel_send(s->ch, &(struct msg){ .type = MSG_FENCE, .id = f->far_id });
	if (s->started)
		problems_retry(s, true);
}

/* --- the rest --- */

static void proceed(struct session *s)
{
	s->news = true;
	if (s->paused) {
		s->paused = false;
		return;
	}
	if (!s->halt_why[0])
		return;
	session_look_at_root(s);
	if (s->restart_to_proceed) {
		session_fail(s, 1, "to begin anew after a halt: %s", s->halt_why);
		return;
	}
	s->halt_why[0] = '\0';
	s->emptied_ok = true;
}

void session_reset(struct session *s)
{
	s->news = true;
	if (!s->opened) {
		s->reset_first = true; /* when it is loaded */
		return;
	}
	int r = session_forget(s);
	if (r < 0) {
		session_fail(s, r, "cannot forget what was synced: %s", err_text(r));
		return;
	}
	if (s->halt_why[0])
		proceed(s);
}

static void resolve(struct session *s, struct slice text, struct slice keep, int64_t n)
{
	char *path = path_of(text);
	struct node *node = path && s->started ? tree_find(s->side.tree, slice_str(path)) : NULL;
	free(path);
	bool both = slice_eq(keep, SLICE("both"));
	int r = -EINVAL;
	if (!node || (both && !(node->flags & NODE_CONFLICT)))
		r = -ENOENT;
	else if (slice_eq(keep, SLICE("local")))
		r = reconcile_keep(&s->rec, node, SYNC_ALPHA);
	else if (slice_eq(keep, SLICE("remote")))
		r = reconcile_keep(&s->rec, node, SYNC_BETA);
	else if (both)
		r = op_rename(s, node, n);
	s->news = true;
	if (r == 0 && both)
		return; /* answered when it is done */
	const char *why = r == 0             ? NULL
			  : r == -ENOENT     ? "nothing there is in conflict"
			  : r == -EOPNOTSUPP ? "no side can win this: a socket, a device, or a "
					       "directory that cannot be emptied is in the way"
					     : err_text(r);
	control_reply(s, "resolved", n, why);
}

static void command(struct session *s, struct json_doc *doc)
{
	struct json *root = json_root(doc);
	struct slice path, keep = SLICE("");
	int64_t n = 0;
	bool b;
	if (json_i64(json_member(root, SLICE("fence")), &n) == 0)
		fence(s, n);
	if (json_bool(json_member(root, SLICE("pause")), &b) == 0 && b) {
		s->paused = s->news = true;
		fences_fail(s, "the sync is paused");
	}
	if (json_bool(json_member(root, SLICE("proceed")), &b) == 0 && b)
		proceed(s);
	if (json_bool(json_member(root, SLICE("reset")), &b) == 0 && b)
		session_reset(s);
	if (json_str(doc, json_member(root, SLICE("resolve")), &path) == 0) {
		json_i64(json_member(root, SLICE("n")), &n);
		json_str(doc, json_member(root, SLICE("keep")), &keep);
		resolve(s, path, keep, n);
	}
	if (json_member(root, SLICE("masks")))
		session_fail(s, 1, "the masks have changed");
}

static void line(struct session *s, struct slice text)
{
	struct json_doc *doc = json_parse(text, NULL, NULL);
	if (!doc) {
		session_fail(s, -EINVAL, "the parent's words are no JSON");
		return;
	}
	if (s->configured)
		command(s, doc);
	else
		configure(s, doc);
	json_free(doc);
}

void control_read(struct session *s)
{
	for (;;) {
		struct slice have = buf_data(&s->control_in);
		const char *end = have.n ? memchr(have.p, '\n', have.n) : NULL;
		if (end && s->code == 0) {
			size_t n = (size_t)(end - have.p);
			line(s, slice_of(have.p, n));
			buf_drop(&s->control_in, n + 1);
			continue;
		}
		struct iovec room = buf_room(&s->control_in);
		if (s->code || room.iov_len == 0)
			return;
		ssize_t n = stream_read(s->control, room.iov_base, room.iov_len);
		buf_added(&s->control_in, n > 0 ? (size_t)n : 0);
		if (n > 0)
			continue;
		if (n != -EAGAIN)
			session_fail(s, 1, "the parent has gone");
		return;
	}
}

void control_reply(struct session *s, const char *what, int64_t n, const char *error)
{
	struct json_writer w;
	json_writer_begin(&w, &s->control_out);
	json_put_object(&w);
	json_put_name(&w, what);
	json_put_i64(&w, n);
	if (error) {
		json_put_name(&w, "error");
		json_put_str(&w, slice_str(error));
	}
	json_put_end(&w);
	if (json_writer_end(&w) == 0)
		buf_puts(&s->control_out, "\n");
}
