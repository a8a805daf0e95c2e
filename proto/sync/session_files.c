/* The content of files: from alpha to beta, and back. */
#include <errno.h>
#include <unistd.h>

#include "proto/sync/session_int.h"

enum { CACHE_BYTES_MAX = 16 << 20 };
enum { SIGNATURE_BYTES_MAX = (16 << 20) + 64, SIGNATURE_PIECE = 128 * 1024 };

/* --- to beta --- */

/* Alpha has another file by now than the one that is to be sent. */
static bool is_other(const struct op *op)
{
	const struct version *a = op->node->side[SYNC_ALPHA];
	return !a || a->kind != SYNC_FILE || a->size != op->want->size ||
	       (a != op->want && version_same(a, op->want) == 0);
}

static void give_up(struct session *s, struct op *op, const char *path, int code)
{
	side_look(&s->side, slice_str(path), code == -ESTALE);
	op->unread = true;
	op_done(s, op, code, NULL);
}

static void digest_known(struct op *op, const uint8_t digest[SYNC_DIGEST])
{
	struct version *a = op->node->side[SYNC_ALPHA];
	memcpy(op->want->digest, digest, SYNC_DIGEST);
	op->want->hashed = 1;
	if (a && a != op->want && a->kind == SYNC_FILE && a->size == op->want->size &&
	    a->mtime_ns == op->want->mtime_ns) {
		memcpy(a->digest, digest, SYNC_DIGEST);
		a->hashed = 1;
	}
}

static void send_small(struct session *s, struct op *op, const char *path)
{
	struct version *want = op->want;
	bool was_hashed = want->hashed;
	uint8_t digest[SYNC_DIGEST];
	struct msg m = { .type = MSG_PUT,
			 .id = op->id,
			 .path = slice_str(path),
			 .want = want,
			 .expect = op->expect };
	want->hashed = 1; /* it will be, so the message is as long */
	char *to = channel_put(s->ch, &m, (size_t)want->size + 1);
	int r =
	    file_read(s->side.root, path, op->node->side[SYNC_ALPHA], &op->node->stamp, to, digest);
	if (r == 0 && was_hashed && memcmp(digest, want->digest, SYNC_DIGEST) != 0)
		r = -ESTALE;
	if (r < 0) {
		want->hashed = was_hashed;
		channel_put_drop(s->ch);
		give_up(s, op, path, r);
		return;
	}
	digest_known(op, digest);
	channel_put_done(s->ch, &m, (size_t)want->size);
}

static bool copy_at_beta(struct session *s, struct op *op, const char *path)
{
	char from[SYNC_PATH_MAX + 1];
	struct node *source = source_of(s, op, path);
	op->copy = true; /* tried, at least */
	if (!source || node_path(source, from, sizeof(from)) <= 0)
		return false;
	channel_send(s->ch, &(struct msg){ .type = MSG_COPY_FROM,
					   .id = op->id,
					   .path = slice_str(path),
					   .from = slice_str(from),
					   .want = op->want,
					   .expect = op->expect,
					   .source = source->side[SYNC_BETA] });
	op->copying = true;
	return true;
}

void file_send(struct session *s, struct op *op, const char *path)
{
	if (is_other(op)) {
		give_up(s, op, path, -ESTALE);
		return;
	}
	if (!op->copy && copy_at_beta(s, op, path))
		return;
	/* No room: copies have failed at a far end that does not read what is sent instead. */
	if (op->want->size <= WIRE_INLINE && channel_room(s->ch)) {
		send_small(s, op, path);
		return;
	}
	op->state = OP_WAITING;
	list_add_tail(&s->waiting, &op->queue);
}

/* What beta has of large files, as far as it came from here: no need to ask for it. The file will
 * be another once it is used, so it is taken out. */
static bool signature_known(struct session *s, const struct version *beta, struct signature *sig)
{
	if (!beta || beta->kind != SYNC_FILE || beta->hashed != 1)
		return false;
	for (size_t i = 0; i < ARRAY_LEN(s->signatures); i++) {
		struct known_signature *k = &s->signatures[i];
		if (k->sig.n && memcmp(k->digest, beta->digest, SYNC_DIGEST) == 0) {
			*sig = k->sig;
			k->sig = (struct signature){ 0 };
			return true;
		}
	}
	return false;
}

static void signature_keep(struct session *s, struct outgoing *o)
{
	struct known_signature *k = &s->signatures[s->next_signature];
	size_t bytes = o->made.n * sizeof(*o->made.v);
	if (bytes == 0 || bytes > CACHE_BYTES_MAX / ARRAY_LEN(s->signatures))
		return;
	s->next_signature = (s->next_signature + 1) % ARRAY_LEN(s->signatures);
	signature_end(&k->sig);
	k->sig = o->made;
	o->made = (struct signature){ 0 };
	memcpy(k->digest, o->digest, SYNC_DIGEST);
}

void signatures_end(struct session *s)
{
	for (size_t i = 0; i < ARRAY_LEN(s->signatures); i++)
		signature_end(&s->signatures[i].sig);
}

/* The far end is told (or not) what can be left out. sig is taken. */
static void begin_pieces(struct session *s, struct op *op, struct signature *sig)
{
	char path[SYNC_PATH_MAX + 1];
	int r = -ESTALE;
	node_path(op->node, path, sizeof(path));
	if (!is_other(op)) {
		op->out = outgoing_new(s->ch, op->id, s->side.root, path,
				       op->node->side[SYNC_ALPHA], &op->node->stamp, sig, &r);
	} else if (sig) {
		signature_end(sig);
	}
	if (!op->out) {
		channel_send(s->ch, &(struct msg){ .type = MSG_ABORT, .id = op->id, .status = r });
		give_up(s, op, path, r);
		return;
	}
	outgoing_sign(op->out);
	channel_send(s->ch, &(struct msg){ .type = MSG_PUT_BEGIN,
					   .id = op->id,
					   .path = slice_str(path),
					   .want = op->want,
					   .expect = op->expect });
	op->state = OP_SENDING;
	list_add_tail(&s->sending, &op->queue);
}

static void begin_waiting(struct session *s, struct op *op)
{
	char path[SYNC_PATH_MAX + 1];
	if (op->want->size <= WIRE_INLINE) {
		op->state = OP_ASKED;
		node_path(op->node, path, sizeof(path));
		file_send(s, op, path);
		return;
	}
	s->nsending++;
	op->state = OP_SIGNING;
	if (op->want->size < DELTA_MIN) {
		begin_pieces(s, op, NULL);
		return;
	}
	struct signature sig;
	if (signature_known(s, op->expect, &sig)) {
		begin_pieces(s, op, &sig);
		return;
	}
	node_path(op->node, path, sizeof(path));
	channel_send(
	    s->ch, &(struct msg){
		       .type = MSG_SIGN, .id = op->id, .path = slice_str(path), .want = op->want });
}

int file_signature(struct session *s, struct op *op, const struct msg *m)
{
	struct signature sig = { 0 };
	if (m->data.n > SIGNATURE_BYTES_MAX - op->sig_len)
		return session_fail(s, -EPROTO, "the guest broke the protocol of the sync: %s",
				    wire_name(m->type));
	if (m->data.n) {
		op->sig = xrealloc(op->sig, op->sig_len + m->data.n);
		memcpy(op->sig + op->sig_len, m->data.p, m->data.n);
		op->sig_len += m->data.n;
		return 0;
	}
	if (op->sig_len && signature_get(&sig, slice_of(op->sig, op->sig_len)) < 0)
		return session_fail(s, -EPROTO, "the guest broke the protocol of the sync: %s",
				    wire_name(m->type));
	free(op->sig);
	op->sig = NULL;
	op->sig_len = 0;
	begin_pieces(s, op, &sig);
	return 0;
}

/* A piece of the first in the queue, which then is the last. */
static void send_piece(struct session *s)
{
	struct op *op = container_of(list_pop(&s->sending), struct op, queue);
	BUG_ON(!op->out);
	int r = outgoing_step(op->out);
	if (r == 0) {
		list_add_tail(&s->sending, &op->queue);
		return;
	}
	if (r > 0) {
		digest_known(op, op->out->digest);
		signature_keep(s, op->out);
		s->nsending--;
		op->state = OP_ASKED;
		outgoing_free(op->out);
		op->out = NULL;
		return;
	}
	char *path = xstrdup(op->out->path);
	give_up(s, op, path, r);
	free(path);
}

/* --- to alpha --- */

static void ask(struct session *s, struct op *op, const char *path)
{
	channel_send(s->ch, &(struct msg){ .type = MSG_READ,
					   .id = op->id,
					   .path = slice_str(path),
					   .expect = op->node->side[SYNC_BETA] });
	op->state = OP_READING;
}

static void send_signature(struct session *s, const struct op *op, const struct signature *sig)
{
	size_t n = signature_size(sig);
	char *text = xmalloc(n);
	signature_put(sig, text);
	struct msg m = { .type = MSG_SIGNATURE, .id = op->id };
	for (size_t at = 0; at < n; at += m.data.n) {
		m.data = slice_of(text + at, MIN(n - at, SIGNATURE_PIECE));
		channel_send(s->ch, &m);
	}
	free(text);
}

static bool copy_at_alpha(struct session *s, struct op *op, const char *path)
{
	char from[SYNC_PATH_MAX + 1];
	struct node *source = source_of(s, op, path);
	struct stamp stamp;
	if (!source || node_path(source, from, sizeof(from)) <= 0)
		return false;
	struct expect there = { op->expect, op->stamp };
	struct expect e = { source->side[SYNC_ALPHA], source->stamp };
	if (apply_copy(s->side.root, from, &e, path, op->want, &there, &stamp) < 0)
		return false; /* it is fetched instead, and that will tell what is wrong */
	op->stamp = stamp;
	op_done(s, op, 0, NULL);
	return true;
}

void file_fetch(struct session *s, struct op *op, const char *path)
{
	const struct version *b = op->node->side[SYNC_BETA];
	if (!b || b->kind != SYNC_FILE || b->size != op->want->size) {
		op_done(s, op, -ESTALE, NULL);
		return;
	}
	if (copy_at_alpha(s, op, path))
		return;
	if (op->want->size <= WIRE_INLINE) {
		ask(s, op, path);
		return;
	}
	op->state = OP_WAITING;
	list_add_tail(&s->waiting, &op->queue);
}

static void fetch_large(struct session *s, struct op *op)
{
	char path[SYNC_PATH_MAX + 1];
	uint8_t digest[SYNC_DIGEST];
	struct signature sig = { 0 };
	const struct version *b = op->node->side[SYNC_BETA];
	node_path(op->node, path, sizeof(path));
	if (!b || b->kind != SYNC_FILE || b->size != op->want->size) {
		op_done(s, op, -ESTALE, NULL);
		return;
	}
	if (op->want->size >= DELTA_MIN)
		op->basis = put_basis(s->side.root, path, op->want);
	if (op->basis >= 0 && digest_file(op->basis, digest, &sig) < 0)
		sig = (struct signature){ 0 };
	if (op->basis >= 0 && sig.n == 0) {
		close(op->basis);
		op->basis = -1;
	}
	if (sig.n)
		send_signature(s, op, &sig);
	signature_end(&sig);
	s->nreading++;
	ask(s, op, path);
}

static int put_begin(struct session *s, struct op *op)
{
	char path[SYNC_PATH_MAX + 1];
	int r = 0;
	if (op->put)
		return 0;
	node_path(op->node, path, sizeof(path));
	if (op->basis >= 0)
		op->put = put_new_from(s->side.root, path, op->want, op->basis, &r);
	else
		op->put = put_new(s->side.root, path, op->want, &r);
	op->basis = -1;
	return op->put ? 0 : r;
}

void file_piece(struct session *s, struct op *op, const struct msg *m)
{
	int r = put_begin(s, op);
	if (r == 0)
		r = m->type == MSG_DATA   ? put_data(op->put, m->data)
		    : m->type == MSG_HOLE ? put_hole(op->put, m->n)
					  : put_copy(op->put, m->at, m->n);
	if (r == 0)
		return;
	channel_send(s->ch, &(struct msg){ .type = MSG_ABORT, .id = op->id, .status = r });
	op_done(s, op, r, NULL);
}

void file_end(struct session *s, struct op *op, const struct msg *m)
{
	struct expect e = { op->expect, op->stamp };
	int r = put_begin(s, op);
	if (r == 0 && op->want->hashed == 1 &&
	    memcmp(op->want->digest, m->digest, SYNC_DIGEST) != 0)
		r = -ESTALE;
	if (r == 0) {
		memcpy(op->want->digest, m->digest, SYNC_DIGEST);
		op->want->hashed = 1;
		r = put_end(op->put, &e, &op->stamp);
		op->put = NULL;
	}
	op_done(s, op, r, NULL);
}

/* --- both --- */

bool files_run(struct session *s)
{
	enum { BATCH = 16 };
	for (struct list *l = s->waiting.next, *next; l != &s->waiting; l = next) {
		struct op *op = container_of(l, struct op, queue);
		next = l->next;
		size_t busy = op->want->size <= WIRE_INLINE ? 0
			      : op->side == SYNC_BETA       ? s->nsending
							    : s->nreading;
		if (!channel_room(s->ch) || (s->nsending >= LARGE_MAX && s->nreading >= LARGE_MAX))
			break;
		if (busy >= LARGE_MAX)
			continue;
		list_del(&op->queue);
		if (op->side == SYNC_BETA)
			begin_waiting(s, op);
		else
			fetch_large(s, op);
	}
	for (int i = 0; i < BATCH && channel_room(s->ch) && !list_empty(&s->sending); i++)
		send_piece(s);
	return channel_room(s->ch) && !list_empty(&s->sending);
}
