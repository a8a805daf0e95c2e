/* Requests under way: their replies, their bodies, their waiting. */
#include <errno.h>
#include <time.h>

#include "cmd/pico-apiserver/api.h"
#include "reactor/err.h"
#include "reactor/log.h"

enum { REPLY_MAX = 1 << 20, FIELDS_MAX = 8, WORK_MAX = 64 /* of one session at once */ };

/* A client's own id is kept if it is harmless. */
static void take_id(struct call *c, const struct http_head *h)
{
	struct slice id = http_field_get(h, SLICE("X-Request-Id"));
	bool ok = id.n > 0 && id.n <= REQUEST_ID_MAX;
	for (size_t i = 0; i < id.n && ok; i++)
		ok = (id.p[i] >= 'a' && id.p[i] <= 'z') || (id.p[i] >= 'A' && id.p[i] <= 'Z') ||
		     (id.p[i] >= '0' && id.p[i] <= '9') || strchr("._-", id.p[i]);
	uint32_t random[2];
	if (ok) {
		snprintf(c->request_id, sizeof(c->request_id), "%.*s", SLICE_FMT(id));
		return;
	}
	arc4random_buf(random, sizeof(random)); /* one system call */
	snprintf(c->request_id, sizeof(c->request_id), "%08x%08x", random[0], random[1]);
}

static void call_run(struct task *t)
{
	struct call *c = container_of(t, struct call, task);
	if (http_failed(c->conn) < 0) {
		int why = http_failed(c->conn);
		if (c->gone)
			c->gone(c);
		call_abort(c, why);
		return;
	}
	if (c->step)
		c->step(c);
}

struct call *call_new(struct server *sv, struct http_conn *conn, const struct http_head *h)
{
	struct call *c = xcalloc(1, sizeof(*c));
	c->sv = sv;
	c->conn = conn;
	c->connect = slice_eq(h->method, SLICE("CONNECT"));
	c->respond_async = http_field_has_token(h, SLICE("Prefer"), SLICE("respond-async"));
	buf_init(&c->body, 0);
	task_init(&c->task, call_run);
	list_init(&c->waiter.link);
	take_id(c, h);
	return c;
}

void call_free(struct call *c)
{
	session_unwait(&c->waiter);
	task_cancel(&c->task);
	buf_end(&c->body);
	free(c->key);
	free(c->extra);
	free(c);
}

void call_reply(struct call *c, int status, const struct http_field *extra, size_t n,
		struct slice body)
{
	struct http_field f[FIELDS_MAX + 2] = {
		{ SLICE("Content-Type"), SLICE("application/json") },
		{ SLICE("X-Request-Id"), slice_str(c->request_id) },
	};
	BUG_ON(n > FIELDS_MAX);
	if (n)
		memcpy(f + 2, extra, n * sizeof(*extra));
	http_reply(c->conn, status, f, n + 2, body);
	call_free(c);
}

void call_error(struct call *c, int status, const char *code, int retry_s, const char *detail,
		const char *fmt, ...)
{
	char now[24], retry[16], message[1024];
	struct http_field f[3] = { { SLICE("X-Error-Code"), slice_str(code) } };
	struct json_writer w;
	struct buf b;
	size_t n = 1;
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(message, sizeof(message), fmt, ap);
	va_end(ap);
	if (retry_s > 0) {
		snprintf(retry, sizeof(retry), "%d", retry_s);
		f[n++] = (struct http_field){ SLICE("Retry-After"), slice_str(retry) };
	}
	if (c->allow)
		f[n++] = (struct http_field){ SLICE("Allow"), slice_str(c->allow) };
	if (status == 401)
		f[n++] = (struct http_field){ SLICE("WWW-Authenticate"),
					      SLICE("Bearer realm=\"pico-apiserver\"") };
	buf_init(&b, REPLY_MAX);
	json_writer_begin(&w, &b);
	json_put_object(&w);
	json_put_name(&w, "error");
	json_put_str(&w, slice_str(code));
	json_put_name(&w, "message");
	json_put_str(&w, slice_str(message));
	if (detail) {
		json_put_name(&w, "detail");
		json_put_str(&w, slice_str(detail));
	}
	json_put_name(&w, "timestamp");
	json_put_str(&w, slice_str(sandbox_time_text((int64_t)time(NULL), now)));
	json_put_name(&w, c->camel ? "requestId" : "request_id");
	json_put_str(&w, slice_str(c->request_id));
	json_put_end(&w);
	json_writer_end(&w);
	buf_puts(&b, "\n");
	call_reply(c, status, f, n, buf_data(&b));
	buf_end(&b);
}

void call_abort(struct call *c, int why)
{
	int fault = http_fault(c->conn);
	if (fault == 408) {
		call_error(c, 408, "REQUEST_TIMEOUT", 0, NULL,
			   "the request body did not arrive in time");
	} else if (fault) {
		call_error(c, fault, "BAD_REQUEST", 0, NULL, "malformed request body");
	} else {
		http_abort(c->conn, why);
		call_free(c);
	}
}

void call_wait(struct call *c, void (*step)(struct call *), void (*gone)(struct call *))
{
	c->step = step;
	c->gone = gone;
	http_bind(c->conn, &c->task);
}

/* --- bodies --- */

static void read_body(struct call *c)
{
	for (;;) {
		struct iovec room = buf_room(&c->body);
		char spare;
		if (room.iov_len == 0)
			room = (struct iovec){ &spare, 1 };
		ssize_t n = http_read(c->conn, room.iov_base, room.iov_len);
		if (room.iov_base != &spare)
			buf_added(&c->body, n > 0 ? (size_t)n : 0);
		if (n == -EAGAIN)
			return;
		if (n < 0) {
			call_abort(c, (int)n);
			return;
		}
		if (n > 0 && room.iov_base == &spare) {
			call_error(c, 413, "PAYLOAD_TOO_LARGE", 0, NULL,
				   "the body is over %zu bytes", c->body.max);
			return;
		}
		if (n == 0) {
			c->step = NULL;
			c->with_body(c);
			return;
		}
	}
}

static bool is_json(struct slice type)
{
	struct slice main, rest;
	slice_cut(type, ';', &main, &rest);
	while (main.n && main.p[main.n - 1] == ' ')
		main.n--;
	return slice_eqi(main, SLICE("application/json"));
}

void call_read_json(struct call *c, const struct http_head *h, size_t max,
		    void (*then)(struct call *))
{
	struct slice type = http_field_get(h, SLICE("Content-Type"));
	bool some = h->chunked || h->length > 0;
	if (some && !is_json(type)) { /* a web page could send other types unasked */
		call_error(c, 415, "UNSUPPORTED_MEDIA_TYPE", 0, NULL,
			   "the body must be application/json");
		return;
	}
	if (h->length > max) {
		call_error(c, 413, "PAYLOAD_TOO_LARGE", 0, NULL, "the body is over %zu bytes", max);
		return;
	}
	buf_init(&c->body, max);
	c->with_body = then;
	call_wait(c, read_body, NULL);
}

/* --- sessions --- */

struct session *call_session(struct call *c, struct slice id)
{
	bool expired;
	struct session *s = session_find(&c->sv->sessions, c->owner, id, &expired);
	if (s)
		return s;
	if (expired && !c->connect)
		call_error(c, 410, "SESSION_EXPIRED", 0, NULL, "Session has expired");
	else
		call_error(c, 404, "SESSION_NOT_FOUND", 0, NULL, "Session not found");
	return NULL;
}

static void not_ready(struct call *c, const struct session *s)
{
	bool failed = s && s->r.state == SANDBOX_FAILED;
	call_error(c, 503, failed ? "SANDBOX_FAILED" : "SANDBOX_NOT_READY", failed ? 0 : 1,
		   failed ? s->why
		   : s    ? sandbox_state_text(s->r.state)
			  : NULL,
		   "Sandbox not ready");
}

struct running {
	void (*then)(struct call *, struct session *);
};

static void on_settled(struct session_waiter *w, struct session *s, int code, const char *why)
{
	struct call *c = container_of(w, struct call, waiter);
	void (*then)(struct call *, struct session *) = ((struct running *)c->state)->then;
	free(c->state);
	c->state = NULL;
	c->gone = NULL;
	if (!s) {
		call_error(c, 404, "SESSION_NOT_FOUND", 0, NULL, "Session not found");
	} else if (code < 0 && s->r.state == SANDBOX_PAUSED) {
		call_error(c, 503, "SANDBOX_NOT_READY", 5, why, "Sandbox not ready");
	} else if (s->r.state != SANDBOX_RUNNING) {
		int r = call_running(c, s, then);
		if (r == 1)
			then(c, s);
	} else {
		then(c, s);
	}
}

static void stop_waiting(struct call *c)
{
	session_unwait(&c->waiter);
	free(c->state);
	c->state = NULL;
}

int call_running(struct call *c, struct session *s, void (*then)(struct call *, struct session *))
{
	if (s->r.state == SANDBOX_RUNNING)
		return 1;
	if (s->r.state == SANDBOX_CREATING || s->r.state == SANDBOX_FAILED) {
		not_ready(c, s);
		return -EBUSY;
	}
	if (s->r.state == SANDBOX_PAUSED)
		session_resume(s);
	struct running *state = xmalloc(sizeof(*state));
	state->then = then;
	c->state = state;
	c->waiter.settled = on_settled;
	session_wait(s, &c->waiter);
	call_wait(c, NULL, stop_waiting);
	return 0;
}

bool call_may_work(struct call *c, const struct session *s)
{
	if (s->busy < WORK_MAX)
		return true;
	call_error(c, 429, "TOO_MANY_COMMANDS", 1, NULL,
		   "%d commands and file transfers run in the session, that is the limit",
		   WORK_MAX);
	return false;
}
