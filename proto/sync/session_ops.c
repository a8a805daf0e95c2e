/* Operations: one step on one side, from an action to what came of it. */
#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "proto/sync/session_int.h"
#include "reactor/err.h"

/* --- busy nodes --- */

void ops_busy(struct session *s, struct node *n)
{
	(void)s;
	BUG_ON((n->flags & NODE_OPS) == NODE_OPS);
	n->flags += NODE_OP;
	n->flags |= NODE_BUSY;
}

void ops_unbusy(struct session *s, struct node *n)
{
	(void)s;
	BUG_ON(!(n->flags & NODE_OPS));
	n->flags -= NODE_OP;
	if (n->flags & NODE_OPS)
		return;
	n->flags &= ~(uint32_t)NODE_BUSY;
}

/* --- by number --- */

struct op *op_find(struct session *s, uint32_t id)
{
	struct op *op = s->by_id[id % OPS_SLOTS];
	return op && op->id == id ? op : NULL;
}

static void into_order(struct session *s, struct op *op)
{
	struct list *l = s->ops.prev;
	while (l != &s->ops && container_of(l, struct op, all)->serial > op->serial)
		l = l->prev;
	list_add_tail(l->next, &op->all);
}

static struct op *op_new(struct session *s, struct node *n, uint8_t side, uint8_t act,
			 uint64_t serial)
{
	struct op *op = xcalloc(1, sizeof(*op));
	while (s->by_id[s->next_id % OPS_SLOTS])
		s->next_id++;
	op->id = s->next_id++;
	s->by_id[op->id % OPS_SLOTS] = op;
	op->node = n;
	op->side = side;
	op->act = act;
	op->state = OP_ASKED;
	op->basis = -1;
	op->serial = serial;
	list_init(&op->queue);
	list_init(&op->all);
	into_order(s, op);
	s->nops++;
	return op;
}

static void op_free(struct session *s, struct op *op)
{
	s->by_id[op->id % OPS_SLOTS] = NULL;
	s->nops--;
	list_del(&op->all);
	list_del(&op->queue);
	if (op->state == OP_SIGNING || op->state == OP_SENDING)
		s->nsending--;
	if (op->state == OP_READING && op->want->size > WIRE_INLINE)
		s->nreading--;
	if (op->basis >= 0)
		close(op->basis);
	outgoing_free(op->out);
	put_abort(op->put);
	version_unref(op->want);
	version_unref(op->expect);
	free(op->sig);
	free(op->rename_to);
	free(op);
}

uint64_t ops_oldest(const struct session *s)
{
	uint64_t waiting = s->next_serial - (s->todo.n - s->todo_at);
	if (list_empty(&s->ops))
		return waiting;
	return MIN(waiting, container_of(s->ops.next, struct op, all)->serial);
}

void ops_end(struct session *s)
{
	for (struct list *l; (l = list_pop(&s->ops));)
		op_free(s, container_of(l, struct op, all));
	for (size_t i = 0; i < s->todo_at; i++)
		s->todo.v[i].want = s->todo.v[i].expect = NULL;
	actions_end(&s->todo);
}

/* --- what came of it --- */

static void settle(struct session *s, struct op *op)
{
	struct node *n = op->node;
	node_set(s->side.tree, n, (enum sync_side)op->side, version_ref(op->want));
	if (op->side == SYNC_ALPHA)
		n->stamp = op->want ? op->stamp : (struct stamp){ 0 };
	if (op->act == ACT_META)
		reconcile_meta_done(s->side.tree, n, op->expect, op->want);
	else
		node_set_base(s->side.tree, n, version_ref(op->want));
	store_note(s->store, n);
	s->noted = true;
	/* At once: what lies here without a note, because we were killed, is a conflict when beta
	 * changes it before the next start. (The far end notes what it is given before it is.) */
	if (op->side == SYNC_ALPHA)
		store_flush(s->store);
	for (int side = 0; side < 2;
	     side++) { /* it was to be read on one, and written on the other */
		problem_clear(s, n, PROBLEM_STALE, (enum sync_side)side);
		problem_clear(s, n, PROBLEM_OP, (enum sync_side)side);
	}
}

static void failed(struct session *s, struct op *op, int status, const char *why)
{
	char path[SYNC_PATH_MAX + 1];
	ssize_t len = node_path(op->node, path, sizeof(path));
	if (op->side == SYNC_ALPHA && len > 0)
		side_look(&s->side, slice_of(path, (size_t)len), false);
	if (op->side == SYNC_ALPHA && status == -ENOTEMPTY)
		scan_below(s->side.scan, op->node); /* what is it? */
	/* ENOTEMPTY: something has come there, and will be known in a moment. */
	bool stale = status == -ESTALE || status == -ENOENT || status == -ENOTEMPTY;
	problem_set(s, op->node, stale ? PROBLEM_STALE : PROBLEM_OP,
		    (enum sync_side)(op->unread ? !op->side : op->side),
		    why && *why ? why : err_text(status));
}

void op_done(struct session *s, struct op *op, int status, const char *why)
{
	struct node *n = op->node;
	uint64_t size = op->act == ACT_PUT ? op->want->size : 0;
	if (op->act <= ACT_REMOVE) {
		s->todo_left.files--;
		s->todo_left.bytes -= size;
	}
	if (status < 0) {
		failed(s, op, status, why);
	} else if (op->act <= ACT_REMOVE) {
		s->done.files++;
		s->done.bytes += size;
		settle(s, op);
	}
	if (status == 0) /* there may be more to do, or it is to be pruned */
		node_mark_dirty(s->side.tree, n);
	session_again(s, status == 0);
	s->news = true;
	op_free(s, op);
	ops_unbusy(s, n);
}

/* --- beginning --- */

void ops_added(struct session *s, size_t from)
{
	for (size_t i = from; i < s->todo.n; i++) {
		struct action *a = &s->todo.v[i];
		ops_busy(s, a->node);
		s->todo_left.files++;
		if (a->act == ACT_PUT)
			s->todo_left.bytes += a->want->size;
	}
	s->next_serial += s->todo.n - from;
	s->news |= s->todo.n > from;
}

static void begin_alpha(struct session *s, struct op *op, const char *path)
{
	struct node *n = op->node;
	struct expect e = { op->expect, n->stamp };
	int r;
	op->stamp = n->stamp;
	/* The stamp is of what is there now, which may look like what was expected. */
	if (n->side[SYNC_ALPHA] != op->expect &&
	    !version_identical(n->side[SYNC_ALPHA], op->expect)) {
		op_done(s, op, -ESTALE, NULL);
		return;
	}
	switch (op->act) {
	case ACT_PUT:
		file_fetch(s, op, path);
		return;
	case ACT_MKDIR:
		r = apply_mkdir(s->side.root, path, op->want, &e, &op->stamp);
		break;
	case ACT_LINK:
		r = apply_link(s->side.root, path, op->want, &e, &op->stamp);
		break;
	case ACT_META:
		r = apply_meta(s->side.root, path, op->want, &e, &op->stamp);
		break;
	default:
		r = apply_remove(s->side.root, path, &e);
		break;
	}
	op_done(s, op, r, NULL);
}

static void begin_beta(struct session *s, struct op *op, const char *path)
{
	static const enum msg_type type[] = { [ACT_MKDIR] = MSG_MKDIR,
					      [ACT_LINK] = MSG_LINK,
					      [ACT_META] = MSG_META,
					      [ACT_REMOVE] = MSG_REMOVE };
	if (op->act == ACT_PUT) {
		file_send(s, op, path);
		return;
	}
	bool agreed = version_same(op->node->base, op->expect) == 1;
	channel_send(s->ch, &(struct msg){ .type = type[op->act],
					   .id = op->id,
					   .flags = agreed ? META_AGREED : 0,
					   .path = slice_str(path),
					   .want = op->want,
					   .expect = op->expect });
}

/* Alpha has something else by now than when that was decided. */
static bool is_late(const struct op *op)
{
	const struct version *a = op->node->side[SYNC_ALPHA], *e = op->expect;
	if (op->side == SYNC_BETA || a == e)
		return false; /* the far end looks itself */
	return !a || !e || a->mtime_ns != e->mtime_ns || version_equal(a, e) == 0;
}

static void begin(struct session *s, struct action *a)
{
	char path[SYNC_PATH_MAX + 1];
	struct op *op =
	    op_new(s, a->node, a->side, a->act, s->next_serial - (s->todo.n - s->todo_at));
	s->todo_at++;
	op->want = a->want;
	op->expect = a->expect;
	a->want = a->expect = NULL;
	if (node_path(op->node, path, sizeof(path)) <= 0) {
		op_done(s, op, -ENAMETOOLONG, NULL);
		return;
	}
	if (is_late(op))
		op_done(s, op, -ESTALE, NULL);
	else if (op->side == SYNC_ALPHA)
		begin_alpha(s, op, path);
	else
		begin_beta(s, op, path);
}

bool ops_run(struct session *s)
{
	enum { BATCH = 512 };
	int i = 0;
	while (s->todo_at < s->todo.n && s->nops < OPS_MAX && channel_room(s->ch) && i++ < BATCH)
		begin(s, &s->todo.v[s->todo_at]);
	if (s->todo_at == s->todo.n && s->todo.n) {
		s->todo.n = s->todo_at = 0;
		if (s->todo.cap > OPS_MAX)
			actions_end(&s->todo);
	}
	bool more = files_run(s);
	return more || (s->todo_at < s->todo.n && s->nops < OPS_MAX && channel_room(s->ch));
}

/* --- what reconcile does not ask for --- */

bool ops_hash(void *arg, struct node *n, enum sync_side side)
{
	struct session *s = arg;
	char path[SYNC_PATH_MAX + 1];
	ssize_t len = node_path(n, path, sizeof(path));
	if (len <= 0 || s->nops >= OPS_SLOTS / 2) {
		problem_set(s, n, PROBLEM_STALE, side, NULL);
		return false;
	}
	if (side == SYNC_ALPHA && n->side[side]->size >= SIGNATURE_MIN && n->base &&
	    n->side[side]->mtime_ns != n->base->mtime_ns &&
	    version_identical(n->side[SYNC_BETA], n->base)) {
		arc4random_buf(n->side[side]->digest, SYNC_DIGEST);
		n->side[side]->hashed = HASH_ASSUMED;
		return true;
	}
	if (side == SYNC_ALPHA) {
		int r = root_hash(s->side.root, path, n->side[side], &n->stamp, NULL);
		if (r == 0) {
			problem_clear(s, n, PROBLEM_OP, side);
			if (n->base) { /* or it would be read at each start, if it is the same */
				store_note(s->store, n);
				s->noted = true;
			}
			return true;
		}
		side_look(&s->side, slice_of(path, (size_t)len), false);
		bool stale = r == -ESTALE || r == -ENOENT;
		problem_set(s, n, stale ? PROBLEM_STALE : PROBLEM_OP, side, err_text(r));
		return false;
	}
	struct op *op = op_new(s, n, SYNC_BETA, ACT_HASH, s->next_serial++);
	op->expect = version_ref(n->side[side]);
	ops_busy(s, n);
	channel_send(s->ch, &(struct msg){ .type = MSG_HASH,
					   .id = op->id,
					   .path = slice_of(path, (size_t)len),
					   .expect = op->expect });
	return false;
}

static void hashed(struct session *s, struct op *op, const struct msg *m)
{
	if (m->status == 0) {
		memcpy(op->expect->digest, m->digest, SYNC_DIGEST);
		op->expect->hashed = 1;
		problem_clear(s, op->node, PROBLEM_STALE, SYNC_BETA);
	}
	op_done(s, op, m->status, NULL);
}

int op_rename(struct session *s, struct node *n, int64_t reply)
{
	char path[SYNC_PATH_MAX + 1], stamp[40];
	ssize_t len = node_path(n, path, sizeof(path));
	time_t now = time(NULL);
	struct tm tm;
	if (n->flags & NODE_BUSY || s->nops >= OPS_MAX)
		return -EBUSY;
	if (len <= 0 || !n->side[SYNC_BETA])
		return -ENOENT;
	gmtime_r(&now, &tm);
	strftime(stamp, sizeof(stamp), ".remote-%Y%m%dT%H%M%SZ", &tm);
	/* A long name is cut, between two characters of UTF-8. */
	size_t keep = MIN((size_t)n->namelen, SYNC_NAME_MAX - strlen(stamp));
	while (keep > 1 && keep < n->namelen && (n->name[keep] & 0xc0) == 0x80)
		keep--;
	int head = (int)((size_t)len - n->namelen + keep);
	char *to = xasprintf("%.*s%s", head, path, stamp);
	if (!wire_path_ok(slice_str(to))) {
		free(to);
		return -ENAMETOOLONG;
	}
	struct op *op = op_new(s, n, SYNC_BETA, ACT_RENAME, s->next_serial++);
	op->rename_to = to;
	op->reply = reply;
	ops_busy(s, n);
	channel_send(s->ch, &(struct msg){ .type = MSG_RENAME,
					   .id = op->id,
					   .from = slice_of(path, (size_t)len),
					   .path = slice_str(to) });
	return 0;
}

static void renamed(struct session *s, struct op *op, const struct msg *m)
{
	int r = m->status;
	if (r == 0)
		r = reconcile_keep(&s->rec, op->node, SYNC_ALPHA);
	/* Gone at the far end, and told so before this: no conflict is left, alpha's goes there. */
	if (r == -ENOENT && !op->node->side[SYNC_BETA])
		r = 0;
	control_reply(s, "resolved", op->reply, r < 0 ? err_text(r) : NULL);
	op->act = ACT_HASH; /* nothing is settled by it */
	op_done(s, op, r == -EOPNOTSUPP ? 0 : r, NULL);
}

/* It could not be copied there: its content, then. */
static void resend(struct session *s, struct op *op)
{
	char path[SYNC_PATH_MAX + 1];
	op->copying = false;
	node_path(op->node, path, sizeof(path));
	file_send(s, op, path);
}

int ops_message(struct session *s, struct msg_in *in)
{
	struct msg *m = &in->m;
	struct op *op = op_find(s, m->id);
	char why[256]; /* it is kept for each file: a far end must not fill our memory with it */
	if (!op)
		return 0; /* it was given up meanwhile */
	bool fits = false;
	switch (m->type) {
	case MSG_DONE:
		fits = op->side == SYNC_BETA && op->act != ACT_HASH &&
		       (op->state == OP_ASKED || (op->state == OP_SENDING && m->status < 0));
		if (fits && op->act == ACT_RENAME) {
			renamed(s, op, m);
		} else if (fits && op->copying && m->status < 0) {
			resend(s, op);
		} else if (fits) {
			snprintf(why, sizeof(why), "%.*s", SLICE_FMT(m->text));
			op_done(s, op, m->status, why);
		}
		break;
	case MSG_HASHED:
		fits = op->act == ACT_HASH && op->expect;
		if (fits)
			hashed(s, op, m);
		break;
	case MSG_SIGNATURE:
		fits = op->state == OP_SIGNING;
		if (fits)
			return file_signature(s, op, m);
		break;
	case MSG_DATA:
	case MSG_HOLE:
	case MSG_COPY:
		fits = op->state == OP_READING;
		if (fits)
			file_piece(s, op, m);
		break;
	case MSG_END:
		fits = op->state == OP_READING;
		if (fits)
			file_end(s, op, m);
		break;
	case MSG_ABORT:
		fits = op->state == OP_READING;
		op->unread = fits;
		if (fits)
			op_done(s, op, m->status < 0 ? m->status : -ESTALE, NULL);
		break;
	default:
		break;
	}
	if (!fits)
		return session_fail(s, -EPROTO, "the guest broke the protocol of the sync: %s",
				    wire_name(m->type));
	return 0;
}
