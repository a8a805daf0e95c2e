/* What the brain asks the far end to do. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "proto/sync/digest.h"
#include "proto/sync/serve_int.h"

/* --- checks --- */

/* Is it all the same, as far as both know? */
static bool is_the_same(const struct version *a, const struct version *b)
{
	if (!a || !b)
		return a == b;
	return a->kind == b->kind && a->mode == b->mode && a->mtime_ns == b->mtime_ns &&
	       version_same(a, b) != 0 && a->size == b->size;
}

/* What must be on the disk for an operation on a path, if the brain knows what we know. */
static int expect_at(struct serve *s, struct slice path, const struct version *expected,
		     struct expect *out)
{
	struct node *n = tree_find(s->side.tree, path);
	struct version *v = n ? n->side[SYNC_ALPHA] : NULL;
	*out = (struct expect){ .v = v };
	if (s->only && !slice_eq(path, slice_str(s->only)))
		return -EACCES;
	if (!is_the_same(v, expected))
		return -ESTALE;
	if (n && v)
		out->stamp = n->stamp;
	return 0;
}

static bool full(struct serve *s)
{
	return tree_count(s->side.tree) + SYNC_PATH_MAX / 2 > SYNC_ENTRIES_MAX ||
	       tree_full(s->side.tree);
}

/* --- results --- */

/* It is done: this is what is there now, and nobody needs to be told. */
static void now_is(struct serve *s, struct slice path, struct version *v, const struct stamp *stamp)
{
	struct tree *t = s->side.tree;
	struct node *n = v ? tree_get(t, path) : tree_find(t, path);
	if (!n)
		return;
	node_set(t, n, SYNC_ALPHA, version_ref(v));
	n->stamp = stamp ? *stamp : (struct stamp){ 0 };
	node_set_base(t, n, version_ref(v));
	while (tree_dirty(t)) /* all else was told before the operation */
		tree_pop_dirty(t);
	store_note(s->store, n);
	s->noted = true;
	if (!v)
		node_prune(t, n);
}

/* About to be put there: noted before it is, so that a kill in between leaves no doubt whose it is.
 * If it never gets there, the next scan finds something else, and that is noted instead. */
static void note_intent(struct serve *s, struct slice path, struct version *want)
{
	struct node *n = tree_get(s->side.tree, path);
	if (!n)
		return;
	struct node was = *n;
	n->side[SYNC_ALPHA] = n->base = want;
	n->stamp = (struct stamp){ 0 };
	store_note(s->store, n);
	n->side[SYNC_ALPHA] = was.side[SYNC_ALPHA];
	n->base = was.base;
	n->stamp = was.stamp;
	s->noted = true;
}

static void intend(struct serve *s, struct slice path, struct version *want)
{
	note_intent(s, path, want);
	store_flush(s->store);
}

static void finish(struct serve *s, uint32_t id, struct slice path, struct version *v,
		   const struct stamp *stamp, int r)
{
	if (r == 0) {
		now_is(s, path, v, stamp);
	} else {
		/* What the brain knows is perhaps not what is there: say what we know, and look. */
		struct node *n = tree_find(s->side.tree, path);
		if (n && v)
			store_note(s->store, n);
		channel_send(s->ch, &(struct msg){ .type = MSG_ENTRY,
						   .path = path,
						   .want = n ? n->side[SYNC_ALPHA] : NULL });
		side_look(&s->side, path, false);
		if (n && r == -ENOTEMPTY)
			scan_below(s->side.scan, n); /* what is it? */
		if (n)
			node_prune(s->side.tree, n);
	}
	serve_done(s, id, r);
}

/* --- files in pieces --- */

static struct incoming *incoming_find(struct serve *s, uint32_t id)
{
	for (struct list *l = s->puts.next; l != &s->puts; l = l->next) {
		struct incoming *in = container_of(l, struct incoming, link);
		if (in->id == id)
			return in;
	}
	return NULL;
}

static void incoming_free(struct serve *s, struct incoming *in)
{
	list_del(&in->link);
	s->nputs--;
	put_abort(in->put);
	if (in->basis >= 0)
		close(in->basis);
	version_unref(in->want);
	version_unref(in->expect);
	free(in->path);
	free(in);
}

static struct incoming *incoming_new(struct serve *s, const struct msg *m)
{
	struct incoming *in = xcalloc(1, sizeof(*in));
	in->id = m->id;
	in->basis = -1;
	in->want = version_ref(m->want);
	in->expect = version_ref(m->expect);
	in->path = xslicedup(m->path);
	list_init(&in->link);
	list_add_tail(&s->puts, &in->link);
	s->nputs++;
	return in;
}

static void incoming_end(struct serve *s, struct incoming *in, int r, const struct stamp *stamp)
{
	finish(s, in->id, slice_str(in->path), in->want, stamp, r);
	incoming_free(s, in);
}

static void send_signature(struct serve *s, uint32_t id, const struct signature *sig)
{
	enum { PIECE = 128 * 1024 };
	struct msg m = { .type = MSG_SIGNATURE, .id = id };
	size_t n = sig->n ? signature_size(sig) : 0;
	char *text = xmalloc(n + 1);
	if (n)
		signature_put(sig, text);
	for (size_t at = 0; at < n; at += m.data.n) {
		m.data = slice_of(text + at, MIN(n - at, PIECE));
		channel_send(s->ch, &m);
	}
	m.data.n = 0;
	channel_send(s->ch, &m);
	free(text);
}

static int on_sign(struct serve *s, struct msg *m)
{
	uint8_t digest[SYNC_DIGEST];
	struct signature sig = { 0 };
	if (!m->want || m->want->kind != SYNC_FILE || s->nputs == PUTS_MAX ||
	    incoming_find(s, m->id))
		return serve_bad(s, "SIGN");
	struct incoming *in = incoming_new(s, m);
	if (!s->only || slice_eq(m->path, slice_str(s->only)))
		in->basis = put_basis(s->side.root, in->path, in->want);
	if (in->basis >= 0 && digest_file(in->basis, digest, &sig) < 0)
		sig = (struct signature){ 0 };
	if (in->basis >= 0 && sig.n == 0) {
		close(in->basis);
		in->basis = -1;
	}
	send_signature(s, m->id, &sig);
	signature_end(&sig);
	return 0;
}

static int on_put_begin(struct serve *s, struct msg *m)
{
	struct incoming *in = incoming_find(s, m->id);
	struct expect e;
	if (!m->want || m->want->kind != SYNC_FILE || (in && in->put) ||
	    (in && !slice_eq(slice_str(in->path), m->path)) || (!in && s->nputs == PUTS_MAX))
		return serve_bad(s, "PUT_BEGIN");
	if (!in)
		in = incoming_new(s, m);
	version_unref(in->want);
	version_unref(in->expect);
	in->want = version_ref(m->want);
	in->expect = version_ref(m->expect);
	int r = expect_at(s, m->path, in->expect, &e);
	if (r == 0 && full(s))
		r = -ENOSPC;
	if (r == 0 && in->basis >= 0) {
		in->put = put_new_from(s->side.root, in->path, in->want, in->basis, &r);
		in->basis = -1;
	} else if (r == 0) {
		in->put = put_new(s->side.root, in->path, in->want, &r);
	}
	if (!in->put)
		incoming_end(s, in, r, NULL);
	return 0;
}

/* A piece for a file that failed meanwhile is of no use any more. */
static int on_piece(struct serve *s, struct msg *m)
{
	struct incoming *in = incoming_find(s, m->id);
	if (!in)
		return 0;
	if (!in->put)
		return serve_bad(s, wire_name(m->type));
	int r = m->type == MSG_DATA   ? put_data(in->put, m->data)
		: m->type == MSG_HOLE ? put_hole(in->put, m->n)
				      : put_copy(in->put, m->at, m->n);
	if (r < 0)
		incoming_end(s, in, r, NULL);
	return 0;
}

static int on_end(struct serve *s, struct msg *m)
{
	struct incoming *in = incoming_find(s, m->id);
	struct expect e;
	struct stamp stamp;
	if (!in)
		return 0;
	if (!in->put)
		return serve_bad(s, "END");
	int r = expect_at(s, slice_str(in->path), in->expect, &e);
	if (r == 0) {
		memcpy(in->want->digest, m->digest, SYNC_DIGEST);
		in->want->hashed = 1;
		intend(s, slice_str(in->path), in->want);
		r = put_end(in->put, &e, &stamp);
		in->put = NULL;
	}
	incoming_end(s, in, r, &stamp);
	return 0;
}

static void outgoing_end(struct serve *s, struct outgoing *o)
{
	s->sig_bytes -= o->sig.n * sizeof(*o->sig.v);
	s->noutgoing--;
	outgoing_free(o);
}

static int on_abort(struct serve *s, struct msg *m)
{
	struct incoming *in = incoming_find(s, m->id);
	if (in)
		incoming_free(s, in);
	for (struct list *l = s->outgoing.next; l != &s->outgoing; l = l->next) {
		struct outgoing *o = container_of(l, struct outgoing, link);
		if (o->id == m->id) {
			outgoing_end(s, o);
			break;
		}
	}
	return 0;
}

/* Those before it in the queue may have changed what is there. */
static void small_end(struct serve *s, struct small *f)
{
	struct expect e;
	struct stamp stamp;
	struct slice path = slice_str(f->path);
	int r = expect_at(s, path, f->expect, &e);
	if (r == 0) {
		r = put_end(f->put, &e, &stamp);
		f->put = NULL;
	}
	finish(s, f->id, path, f->want, &stamp, r);
	put_abort(f->put);
	version_unref(f->want);
	version_unref(f->expect);
	free(f->path);
}

/* What is staged goes to its places, in the order it came. What they are to be is in the store
 * before the first is. */
void serve_smalls_end(struct serve *s)
{
	if (s->nsmalls == 0)
		return;
	store_flush(s->store);
	for (size_t i = 0; i < s->nsmalls; i++)
		small_end(s, &s->smalls[i]);
	s->nsmalls = 0;
}

/* A small file is staged, and waits for others, so that one write to the store does for all. */
static int on_put(struct serve *s, struct msg *m)
{
	struct expect e;
	if (!m->want || m->want->kind != SYNC_FILE || m->want->size != m->data.n)
		return serve_bad(s, "PUT");
	if (s->nsmalls == SMALLS_MAX)
		serve_smalls_end(s);
	int r = expect_at(s, m->path, m->expect, &e);
	if (r == 0 && full(s))
		r = -ENOSPC;
	struct put *put = r < 0 ? NULL : put_new(s->side.root, m->path.p, m->want, &r);
	if (put && (r = put_data(put, m->data)) < 0)
		put_abort(put);
	if (r < 0) {
		serve_smalls_end(s); /* they are answered first */
		finish(s, m->id, m->path, m->want, NULL, r);
		return 0;
	}
	note_intent(s, m->path, m->want);
	s->smalls[s->nsmalls++] = (struct small){ .id = m->id,
						  .put = put,
						  .want = version_ref(m->want),
						  .expect = version_ref(m->expect),
						  .path = xslicedup(m->path) };
	return 0;
}

/* --- the rest --- */

typedef int apply_fn(struct root *, const char *, const struct version *, const struct expect *,
		     struct stamp *);

static void not_given(struct serve *s, struct slice path)
{
	struct node *n = tree_find(s->side.tree, path);
	if (!n)
		return;
	node_set_base(s->side.tree, n, NULL);
	store_note(s->store, n);
}

static int on_make(struct serve *s, struct msg *m)
{
	struct expect e;
	struct stamp stamp;
	uint8_t kind = m->want ? m->want->kind : 0;
	apply_fn *fn = m->type == MSG_MKDIR  ? apply_mkdir
		       : m->type == MSG_LINK ? apply_link
					     : apply_meta;
	bool fits = m->type == MSG_MKDIR  ? kind == SYNC_DIR
		    : m->type == MSG_LINK ? kind == SYNC_LINK
					  : m->expect && kind == m->expect->kind &&
						(kind == SYNC_DIR || kind == SYNC_FILE);
	if (!fits)
		return serve_bad(s, wire_name(m->type));
	int r = expect_at(s, m->path, m->expect, &e);
	if (r == 0 && full(s))
		r = -ENOSPC;
	/* New content of this side is not the brain's because it has given it a mode: were that
	 * told as given after a restart, alpha's older content would count as the newer one. */
	bool given = m->type != MSG_META || m->flags & META_AGREED;
	if (r == 0 && given)
		intend(s, m->path, m->want);
	if (r == 0)
		r = fn(s->side.root, m->path.p, m->want, &e, &stamp);
	finish(s, m->id, m->path, m->want, &stamp, r);
	if (r == 0 && !given)
		not_given(s, m->path);
	return 0;
}

static int on_remove(struct serve *s, struct msg *m)
{
	struct expect e;
	if (!m->expect)
		return serve_bad(s, "REMOVE");
	int r = expect_at(s, m->path, m->expect, &e);
	if (r == 0)
		r = apply_remove(s->side.root, m->path.p, &e);
	finish(s, m->id, m->path, NULL, NULL, r);
	return 0;
}

static int on_copy_from(struct serve *s, struct msg *m)
{
	struct expect e, source;
	struct stamp stamp;
	if (!m->want || m->want->kind != SYNC_FILE || !m->source || m->source->kind != SYNC_FILE)
		return serve_bad(s, "COPY_FROM");
	int r = expect_at(s, m->path, m->expect, &e);
	if (r == 0)
		r = expect_at(s, m->from, m->source, &source);
	if (r == 0 && full(s))
		r = -ENOSPC;
	if (r == 0)
		intend(s, m->path, m->want);
	if (r == 0)
		r = apply_copy(s->side.root, m->from.p, &source, m->path.p, m->want, &e, &stamp);
	if (r < 0)
		side_look(&s->side, m->from, false);
	finish(s, m->id, m->path, m->want, &stamp, r);
	return 0;
}

static int on_rename(struct serve *s, struct msg *m)
{
	int r = s->only ? -EACCES : apply_rename(s->side.root, m->from.p, m->path.p);
	if (r < 0 || s->nsettles == SETTLES_MAX) {
		serve_done(s, m->id, r);
		return 0;
	}
	side_look(&s->side, m->from, false);
	side_look(&s->side, m->path, false);
	s->settles[s->nsettles++] = (struct settle){ m->id, false };
	return 0;
}

static int on_hash(struct serve *s, struct msg *m)
{
	struct expect e;
	struct msg out = { .type = MSG_HASHED, .id = m->id };
	if (!m->expect || m->expect->kind != SYNC_FILE)
		return serve_bad(s, "HASH");
	int r = expect_at(s, m->path, m->expect, &e);
	struct node *n = r == 0 ? tree_find(s->side.tree, m->path) : NULL;
	struct version *v = n ? n->side[SYNC_ALPHA] : NULL;
	if (v && !v->hashed) {
		r = root_hash(s->side.root, m->path.p, v, &n->stamp, NULL);
		store_note(s->store, n);
		s->noted = true;
	}
	if (v && v->hashed)
		memcpy(out.digest, v->digest, SYNC_DIGEST);
	else if (r == 0)
		r = -ESTALE;
	out.status = r;
	if (r < 0)
		side_look(&s->side, m->path, false);
	channel_send(s->ch, &out);
	return 0;
}

/* --- reading --- */

static int on_signature(struct serve *s, struct msg *m)
{
	if (m->id != s->upload_id)
		s->upload_len = 0;
	s->upload_id = m->id;
	if (m->data.n > SIGNATURE_BYTES_MAX - s->upload_len)
		return serve_bad(s, "SIGNATURE");
	if (m->data.n == 0)
		return 0;
	s->upload = xrealloc(s->upload, s->upload_len + m->data.n);
	memcpy(s->upload + s->upload_len, m->data.p, m->data.n);
	s->upload_len += m->data.n;
	return 0;
}

static void read_failed(struct serve *s, struct msg *m, int code)
{
	struct node *n = tree_find(s->side.tree, m->path);
	channel_send(s->ch, &(struct msg){ .type = MSG_ENTRY,
					   .path = m->path,
					   .want = n ? n->side[SYNC_ALPHA] : NULL });
	side_look(&s->side, m->path, code == -ESTALE);
	channel_send(s->ch, &(struct msg){ .type = MSG_ABORT, .id = m->id, .status = code });
}

/* All of a small file at once: one DATA, one END. */
static int read_small(struct serve *s, struct msg *m, const struct expect *e)
{
	struct msg data = { .type = MSG_DATA, .id = m->id }, end = { .type = MSG_END, .id = m->id };
	char *to = channel_put(s->ch, &data, (size_t)e->v->size + 1);
	int r = file_read(s->side.root, m->path.p, e->v, &e->stamp, to, end.digest);
	if (r == 0 && e->v->hashed && memcmp(end.digest, e->v->digest, SYNC_DIGEST) != 0)
		r = -ESTALE;
	if (r < 0) {
		channel_put_drop(s->ch);
		return r;
	}
	channel_put_done(s->ch, &data, (size_t)e->v->size);
	channel_send(s->ch, &end);
	return 0;
}

static int on_read(struct serve *s, struct msg *m)
{
	struct expect e;
	struct signature sig = { 0 };
	if (!m->expect || m->expect->kind != SYNC_FILE || s->noutgoing == OUTGOING_MAX)
		return serve_bad(s, "READ");
	if (s->upload && s->upload_id == m->id &&
	    signature_get(&sig, slice_of(s->upload, s->upload_len)) < 0)
		return serve_bad(s, "SIGNATURE");
	free(s->upload);
	s->upload = NULL;
	s->upload_len = 0;
	size_t bytes = sig.n * sizeof(*sig.v);
	int r = expect_at(s, m->path, m->expect, &e);
	if (r == 0 && e.v->size <= WIRE_INLINE) {
		signature_end(&sig);
		r = read_small(s, m, &e);
	} else if (r == 0 && s->sig_bytes + bytes > SIGNATURES_BYTES_MAX) {
		signature_end(&sig);
		r = -EBUSY;
	} else if (r == 0) {
		struct node *n = tree_find(s->side.tree, m->path);
		struct outgoing *o = outgoing_new(s->ch, m->id, s->side.root, m->path.p,
						  n->side[SYNC_ALPHA], &e.stamp, &sig, &r);
		if (o) {
			list_add_tail(&s->outgoing, &o->link);
			s->noutgoing++;
			s->sig_bytes += bytes;
			task_wake(s->rx, &s->task);
		}
	} else {
		signature_end(&sig);
	}
	if (r < 0)
		read_failed(s, m, r);
	return 0;
}

bool serve_outgoing(struct serve *s)
{
	for (int i = 0; i < 8 && channel_room(s->ch); i++) {
		struct list *l = list_pop(&s->outgoing);
		if (!l)
			return false;
		struct outgoing *o = container_of(l, struct outgoing, link);
		int r = outgoing_step(o);
		if (r == 0) {
			list_add_tail(&s->outgoing, &o->link);
			continue;
		}
		if (r < 0)
			side_look(&s->side, slice_str(o->path), r == -ESTALE);
		outgoing_end(s, o);
	}
	return channel_room(s->ch) && !list_empty(&s->outgoing);
}

int serve_op(struct serve *s, struct msg_in *in)
{
	struct msg *m = &in->m;
	if (m->type != MSG_PUT)
		serve_smalls_end(s);
	switch (m->type) {
	case MSG_PUT:
		return on_put(s, m);
	case MSG_PUT_BEGIN:
		return on_put_begin(s, m);
	case MSG_DATA:
	case MSG_HOLE:
	case MSG_COPY:
		return on_piece(s, m);
	case MSG_END:
		return on_end(s, m);
	case MSG_ABORT:
		return on_abort(s, m);
	case MSG_MKDIR:
	case MSG_LINK:
	case MSG_META:
		return on_make(s, m);
	case MSG_REMOVE:
		return on_remove(s, m);
	case MSG_RENAME:
		return on_rename(s, m);
	case MSG_COPY_FROM:
		return on_copy_from(s, m);
	case MSG_SIGN:
		return on_sign(s, m);
	case MSG_SIGNATURE:
		return on_signature(s, m);
	case MSG_READ:
		return on_read(s, m);
	case MSG_HASH:
		return on_hash(s, m);
	default:
		return serve_bad(s, wire_name(m->type));
	}
}

void serve_ops_end(struct serve *s)
{
	struct list *l;
	while ((l = list_pop(&s->puts)))
		incoming_free(s, container_of(l, struct incoming, link));
	while ((l = list_pop(&s->outgoing)))
		outgoing_free(container_of(l, struct outgoing, link));
	free(s->upload);
	s->upload = NULL;
}
