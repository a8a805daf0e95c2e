/* /v1/sessions and /v1/sandboxes: create, list, get, delete, pause, resume. */
#include <errno.h>

#include "cmd/pico-apiserver/api.h"
#include "http/url.h"
#include "reactor/crypto.h"
#include "reactor/err.h"

enum { BODY_MAX = 64 * 1024, LIST_DEFAULT = 50, LIST_MAX = 100, REPLY_MAX = 4 << 20, RETRY_S = 10 };

/* --- JSON --- */

static void put(struct json_writer *w, const char *name, const char *text)
{
	json_put_name(w, name);
	if (text)
		json_put_str(w, slice_str(text));
	else
		json_put_null(w);
}

static void put_time(struct json_writer *w, const char *name, int64_t t)
{
	char text[24];
	put(w, name, sandbox_time_text(t, text));
}

static void put_session(struct json_writer *w, struct session *s, bool camel)
{
	struct sandbox_record *r = &s->r;
	tunnels_sample(s);
	json_put_object(w);
	put(w, camel ? "sandboxId" : "session_id", r->id);
	if (camel)
		put(w, "sessionId", r->id);
	put(w, "status", sandbox_state_text(r->state));
	put_time(w, camel ? "createdAt" : "created_at", r->created);
	put_time(w, camel ? "expiresAt" : "expires_at", r->expires);
	put_time(w, camel ? "lastActivityAt" : "last_activity_at", r->active);
	json_put_name(w, "ttl");
	json_put_i64(w, r->expires - r->created);
	json_put_name(w, camel ? "idleTimeout" : "idle_timeout");
	if (r->idle)
		json_put_i64(w, r->idle);
	else
		json_put_null(w);
	put(w, camel ? "sandboxName" : "sandbox_name", r->name);
	put(w, "image", r->image ? r->image : s->set->image);
	put(w, camel ? "sshHostKeyFingerprint" : "ssh_host_key_fingerprint",
	    r->fingerprint[0] ? r->fingerprint : NULL);
	put(w, camel ? "sshUsername" : "ssh_username", s->set->backend->options->ssh_username);
	if (s->why)
		put(w, "reason", s->why);
	json_put_name(w, "metadata");
	struct json_doc *doc = r->metadata ? json_parse(slice_str(r->metadata), NULL, NULL) : NULL;
	if (doc) {
		json_put_value(w, json_root(doc));
	} else {
		json_put_object(w);
		json_put_end(w);
	}
	json_free(doc);
	json_put_end(w);
}

static void reply_session(struct call *c, int status, struct session *s, bool replayed)
{
	struct http_field f[2];
	size_t n = 0;
	struct json_writer w;
	struct buf b;
	char *location = xasprintf("/v1/%s/%s", c->camel ? "sandboxes" : "sessions", s->r.id);
	if (status == 201 || status == 202)
		f[n++] = (struct http_field){ SLICE("Location"), slice_str(location) };
	if (replayed)
		f[n++] = (struct http_field){ SLICE("Idempotent-Replayed"), SLICE("true") };
	buf_init(&b, REPLY_MAX);
	json_writer_begin(&w, &b);
	put_session(&w, s, c->camel);
	json_writer_end(&w);
	buf_puts(&b, "\n");
	call_reply(c, status, f, n, buf_data(&b));
	buf_end(&b);
	free(location);
}

/* --- create --- */

struct creating {
	bool replayed;
	char id[SANDBOX_ID_LEN + 1];
};

static void hash_hex(struct slice body, char out[65])
{
	struct sha256 h;
	uint8_t sum[32];
	sha256_init(&h);
	sha256_add(&h, body);
	sha256_end(&h, sum);
	for (size_t i = 0; i < sizeof(sum); i++)
		snprintf(out + 2 * i, 3, "%02x", sum[i]);
}

/* It is worth nothing but this answer; with it gone the key makes a new one. */
static void reply_failed(struct call *c, struct session *s, const char *why)
{
	call_error(c, 503, "SANDBOX_FAILED", RETRY_S, NULL, "%s", why ? why : "no sandbox");
	session_delete(s); /* another caller with the same key may have been here before */
}

static void created(struct session_waiter *w, struct session *s, int code, const char *why)
{
	struct call *c = container_of(w, struct call, waiter);
	struct creating *st = c->state;
	bool replayed = st->replayed;
	(void)code;
	free(st);
	c->state = NULL;
	if (!s)
		call_error(c, 404, "SESSION_NOT_FOUND", 0, NULL,
			   "the session was deleted before it was ready");
	else if (s->r.state == SANDBOX_FAILED || s->r.state == SANDBOX_DELETING)
		reply_failed(c, s, why);
	else
		reply_session(c, 201, s, replayed);
}

/* Nobody will ever know its id, unless there is a key to ask again with. */
static void creator_left(struct call *c)
{
	struct creating *st = c->state;
	bool expired;
	struct session *s = session_find(&c->sv->sessions, c->owner, slice_str(st->id), &expired);
	session_unwait(&c->waiter);
	free(st);
	c->state = NULL;
	if (s && !s->r.key)
		session_delete(s);
}

static void await_created(struct call *c, struct session *s, bool replayed)
{
	if (s->r.state == SANDBOX_FAILED) {
		reply_failed(c, s, s->why);
		return;
	}
	if (!session_unsettled(s) || c->respond_async) {
		reply_session(c, session_unsettled(s) ? 202 : 201, s, replayed);
		return;
	}
	struct creating *st = xcalloc(1, sizeof(*st));
	st->replayed = replayed;
	memcpy(st->id, s->r.id, sizeof(st->id));
	c->state = st;
	c->waiter.settled = created;
	session_wait(s, &c->waiter);
	call_wait(c, NULL, creator_left);
}

static void create(struct call *c)
{
	struct sandbox_request q;
	char err[256], hash[65] = "";
	int code;
	if (sandbox_request_get(&q, buf_data(&c->body), c->sv->ttl_min, err, sizeof(err)) < 0) {
		call_error(c, 400, "INVALID_REQUEST", 0, NULL, "%s", err);
		return;
	}
	hash_hex(buf_data(&c->body), hash);
	struct session *s = c->key ? session_find_key(&c->sv->sessions, c->owner, c->key) : NULL;
	if (s && strcmp(s->r.key_hash, hash) != 0) {
		call_error(c, 409, "IDEMPOTENCY_CONFLICT", 0, NULL,
			   "this Idempotency-Key came with another body before");
	} else if (s) {
		await_created(c, s, true);
	} else if ((s = session_create(&c->sv->sessions, c->owner, &q, c->key, hash, &code))) {
		await_created(c, s, false);
	} else if (code == -EUSERS) {
		call_error(c, 429, "TOO_MANY_SESSIONS", RETRY_S, NULL,
			   "you have %zu sessions, that is the limit; delete one",
			   c->sv->sessions.max_per_user);
	} else if (code == -ERR_TOO_MANY) {
		call_error(c, 429, "TOO_MANY_SESSIONS", RETRY_S, NULL,
			   "this server has %zu sessions, that is the limit", c->sv->sessions.max);
	} else {
		call_error(c, 503, "STATE_UNAVAILABLE", RETRY_S, NULL,
			   "the session cannot be recorded: %s", err_text(code));
	}
	sandbox_request_end(&q);
}

void sessions_post(struct call *c, const struct http_head *h)
{
	struct slice key = http_field_get(h, SLICE("Idempotency-Key"));
	if (key.n > 255) {
		call_error(c, 400, "INVALID_REQUEST", 0, NULL, "Idempotency-Key is over 255 bytes");
		return;
	}
	c->key = key.n ? xslicedup(key) : NULL;
	call_read_json(c, h, BODY_MAX, create);
}

/* --- list, get --- */

/* 0, or -EINVAL. */
static int query_number(struct slice query, const char *name, uint64_t min, uint64_t max,
			uint64_t *out)
{
	char text[24];
	ssize_t n = http_query_get(query, name, text, sizeof(text));
	if (n == -ENOENT)
		return 0;
	return n < 1 || slice_u64(slice_of(text, (size_t)n), max, out) < 0 || *out < min ? -EINVAL
											 : 0;
}

void sessions_list(struct call *c, const struct http_head *h)
{
	struct slice path, query;
	uint64_t limit = LIST_DEFAULT, offset = 0, total = 0;
	slice_cut(h->target, '?', &path, &query);
	if (query_number(query, "limit", 1, LIST_MAX, &limit) < 0 ||
	    query_number(query, "offset", 0, INT32_MAX, &offset) < 0) {
		call_error(c, 400, "INVALID_REQUEST", 0, NULL,
			   "limit is a number from 1 to %d, offset one from 0", LIST_MAX);
		return;
	}
	struct sessions *set = &c->sv->sessions;
	struct json_writer w;
	struct buf b;
	buf_init(&b, REPLY_MAX);
	json_writer_begin(&w, &b);
	json_put_object(&w);
	json_put_name(&w, c->camel ? "sandboxes" : "sessions");
	json_put_array(&w);
	for (struct session *s = session_next(set, c->owner, NULL); s;
	     s = session_next(set, c->owner, s)) {
		if (total >= offset && total - offset < limit)
			put_session(&w, s, c->camel);
		total++;
	}
	json_put_end(&w);
	json_put_name(&w, "total");
	json_put_u64(&w, total);
	json_put_name(&w, "limit");
	json_put_u64(&w, limit);
	json_put_name(&w, "offset");
	json_put_u64(&w, offset);
	json_put_end(&w);
	json_writer_end(&w);
	buf_puts(&b, "\n");
	call_reply(c, 200, NULL, 0, buf_data(&b));
	buf_end(&b);
}

void session_get(struct call *c, const struct http_head *h, struct slice id)
{
	(void)h;
	struct session *s = call_session(c, id);
	if (s)
		reply_session(c, 200, s, false);
}

/* --- delete --- */

static void deleted(struct session_waiter *w, struct session *s, int code, const char *why)
{
	struct call *c = container_of(w, struct call, waiter);
	char *body = xasprintf("{\"%s\":\"%s\",\"status\":\"deleted\"}\n",
			       c->camel ? "sandboxId" : "session_id", (char *)c->state);
	free(c->state);
	c->state = NULL;
	if (s)
		call_error(c, 502, "BACKEND_ERROR", RETRY_S, NULL, "%s",
			   why ? why : err_text(code));
	else
		call_reply(c, 200, NULL, 0, slice_str(body));
	free(body);
}

static void deleter_left(struct call *c)
{
	session_unwait(&c->waiter);
	free(c->state);
	c->state = NULL;
}

void session_remove(struct call *c, const struct http_head *h, struct slice id)
{
	(void)h;
	struct session *s = call_session(c, id);
	if (!s)
		return;
	c->state = xstrdup(s->r.id);
	c->waiter.settled = deleted;
	list_add_tail(&s->waiters, &c->waiter.link);
	call_wait(c, NULL, deleter_left);
	session_delete(s);
}

/* --- pause, resume --- */

static void changed(struct session_waiter *w, struct session *s, int code, const char *why)
{
	struct call *c = container_of(w, struct call, waiter);
	if (!s)
		call_error(c, 404, "SESSION_NOT_FOUND", 0, NULL, "Session not found");
	else if (code == -EOPNOTSUPP)
		call_error(c, 501, "NOT_SUPPORTED", 0, NULL, "%s", why);
	else if (code < 0)
		call_error(c, 502, "BACKEND_ERROR", 0, NULL, "%s", why ? why : err_text(code));
	else
		reply_session(c, 200, s, false);
}

static void changer_left(struct call *c)
{
	session_unwait(&c->waiter);
}

static void change(struct call *c, struct slice id, int (*verb)(struct session *))
{
	struct session *s = call_session(c, id);
	if (!s)
		return;
	int r = verb(s);
	if (r == -EALREADY) {
		reply_session(c, 200, s, false);
	} else if (r < 0) {
		call_error(c, 409, "INVALID_STATE", 1, NULL, "the session is %s",
			   sandbox_state_text(s->r.state));
	} else {
		c->waiter.settled = changed;
		session_wait(s, &c->waiter);
		call_wait(c, NULL, changer_left);
	}
}

void session_post_pause(struct call *c, const struct http_head *h, struct slice id)
{
	(void)h;
	change(c, id, session_pause);
}

void session_post_resume(struct call *c, const struct http_head *h, struct slice id)
{
	(void)h;
	change(c, id, session_resume);
}
