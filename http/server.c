/* A server connection from accept to close: one task, one switch. The handler's verbs are in
 * exchange.c. */
#include "http/conn.h"

#include <errno.h>

#include "reactor/err.h"
#include "reactor/log.h"

enum { STEPS_PER_TURN = 64 };

static void conn_run(struct task *t);
static void conn_late(struct timer *t);
static void server_run(struct task *t);

void http_server_init(struct http_server *srv)
{
	list_init(&srv->conns);
	list_init(&srv->relays);
	task_init(&srv->task, server_run);
	srv->nconns = 0;
	srv->ending = srv->aborting = false;
	if (srv->head_max == 0 || srv->head_max > HTTP_HEAD_MAX)
		srv->head_max = HTTP_HEAD_MAX;
	srv->head_ms = srv->head_ms ? srv->head_ms : 30 * 1000;
	srv->idle_ms = srv->idle_ms ? srv->idle_ms : 120 * 1000;
	srv->stall_ms = srv->stall_ms ? srv->stall_ms : 60 * 1000;
}

int http_server_accept(struct http_server *srv, struct stream *s, const char *peer)
{
	int refusal = srv->ending                                       ? -ERR_GOAWAY
		      : srv->conns_max && srv->nconns >= srv->conns_max ? -ERR_TOO_MANY
									: 0;
	if (refusal < 0) {
		stream_close(s, refusal);
		return refusal;
	}
	struct http_conn *c = xcalloc(1, sizeof(*c));
	c->srv = srv;
	c->stream = s;
	c->log.peer = peer ? xstrdup(peer) : NULL;
	buf_init(&c->in, srv->head_max);
	buf_init(&c->out, CONN_OUT_MAX);
	task_init(&c->task, conn_run);
	timer_init(&c->timer, conn_late);
	list_add_tail(&srv->conns, &c->link);
	srv->nconns++;
	timer_set(srv->rx, &c->timer, srv->head_ms);
	stream_bind(s, &c->task);
	task_wake(srv->rx, &c->task);
	return 0;
}

void http_server_left(struct http_server *srv)
{
	if (--srv->nconns == 0 && srv->ending)
		task_wake(srv->rx, &srv->task);
}

/* Woken by drain, by abort and when the last connection has gone. */
static void server_run(struct task *t)
{
	struct http_server *srv = container_of(t, struct http_server, task);

	if (srv->aborting)
		http_relays_abort(srv);
	if (srv->nconns == 0 && srv->empty) {
		task_cancel(&srv->task);
		srv->empty(srv->arg);
	}
}

void http_server_drain(struct http_server *srv)
{
	srv->ending = true;
	task_wake(srv->rx, &srv->task);
	for (struct list *l = srv->conns.next; l != &srv->conns; l = l->next)
		task_wake(srv->rx, &container_of(l, struct http_conn, link)->task);
}

void http_server_abort(struct http_server *srv)
{
	srv->ending = srv->aborting = true;
	task_wake(srv->rx, &srv->task);
	for (struct list *l = srv->conns.next; l != &srv->conns; l = l->next) {
		struct http_conn *c = container_of(l, struct http_conn, link);
		if (c->failed == 0)
			c->failed = -ERR_CANCELLED;
		task_wake(srv->rx, &c->task);
	}
}

void http_conn_log(struct http_server *srv, struct http_record *r, int code, bool relayed)
{
	struct http_access a = { .peer = r->peer ? r->peer : "",
				 .method = r->method,
				 .path = r->path ? r->path : "",
				 .status = r->status,
				 .code = code,
				 .relayed = relayed,
				 .in = r->in,
				 .out = r->out,
				 .ms = reactor_now(srv->rx) - r->started };
	char *path = r->path;

	if (srv->done && r->started)
		srv->done(&a, srv->arg);
	*r = (struct http_record){ .peer = r->peer };
	free(path);
}

void http_conn_free(struct http_conn *c)
{
	struct http_server *srv = c->srv;

	task_cancel(&c->task);
	timer_clear(srv->rx, &c->timer);
	list_del(&c->link);
	http_proxy_free(c->proxy);
	buf_end(&c->in);
	buf_end(&c->out);
	free(c->log.peer);
	free(c->log.path);
	free(c);
	http_server_left(srv);
}

void http_conn_end(struct http_conn *c, int code)
{
	http_conn_log(c->srv, &c->log, code, false);
	stream_close(c->stream, code);
	http_conn_free(c);
}

static void conn_late(struct timer *t)
{
	struct http_conn *c = container_of(t, struct http_conn, timer);
	c->timed_out = true;
	task_wake(c->srv->rx, &c->task);
}

/* Closes so that a client that is still sending gets to read our last words. */
static void conn_linger(struct http_conn *c)
{
	http_conn_log(c->srv, &c->log, 0, false);
	stream_linger(c->stream, CONN_LINGER_MS);
	http_conn_free(c);
}

void http_conn_reply(struct http_conn *c)
{
	c->user = NULL;
	c->state = c->failed < 0 ? CONN_END : CONN_REPLY;
	task_wake(c->srv->rx, &c->task);
}

/* Answers what could not be made a request. */
static void conn_refuse(struct http_conn *c, int status, const char *message)
{
	if (c->log.started == 0) { /* no head: nothing of the last request may shine through */
		c->log.started = reactor_now(c->srv->rx);
		c->http10 = c->is_head = c->streaming = c->expect = false;
	}
	c->keep = false;
	c->state = CONN_USER;
	if (c->srv->refuse)
		c->srv->refuse(c, status, message, c->srv->arg);
	else
		http_reply_error(c, status, message);
}

static void record_start(struct http_conn *c, const struct http_head *h)
{
	struct http_record *r = &c->log;
	struct slice path = h->target, query;

	slice_cut(h->target, '?', &path, &query);
	r->started = reactor_now(c->srv->rx);
	r->path = c->srv->done ? xslicedup(path) : NULL;
	size_t n = MIN(h->method.n, sizeof(r->method) - 1);
	memcpy(r->method, h->method.p, n);
	r->method[n] = '\0';
}

/* A request head of n bytes is in c->in. */
static void conn_begin(struct http_conn *c, struct http_head *h, size_t n)
{
	struct slice expect = http_field_get(h, SLICE("expect"));

	timer_clear(c->srv->rx, &c->timer);
	c->served = true;
	c->seen = 0;
	c->head_len = n;
	c->http10 = h->minor == 0;
	c->is_head = slice_eq(h->method, SLICE("HEAD"));
	c->keep = http_keep_alive(h);
	c->upgrade = http_wants_upgrade(h) || slice_eq(h->method, SLICE("CONNECT"));
	c->streaming = c->chunked = false;
	c->drained = 0;
	http_body_init(&c->body, h, h->method);
	c->expect = expect.p && !c->http10 && !http_body_done(&c->body);
	record_start(c, h);
	if (expect.p && !c->http10 && !slice_eqi(expect, SLICE("100-continue"))) {
		conn_refuse(c, 417, "unknown expectation");
	} else {
		c->state = CONN_USER;
		c->srv->handle(c, h, c->srv->arg);
	}
	http_conn_unhead(c);
}

static int head_parse(struct http_conn *c)
{
	struct slice in = buf_data(&c->in);
	struct http_head head;
	struct http_err err;

	if (!c->served && c->srv->preface) {
		int preface = http_preface(in);
		if (preface == 0)
			return -EAGAIN;
		if (preface == 1) {
			timer_clear(c->srv->rx, &c->timer);
			c->log.started = reactor_now(c->srv->rx);
			c->state = CONN_USER;
			c->srv->preface(c, c->srv->arg);
			return 0;
		}
	}
	ssize_t n = http_request_parse(&head, in, c->seen, c->srv->head_max, &err);
	if (n == 0) {
		if (c->seen == 0 && c->served)
			timer_set(c->srv->rx, &c->timer, c->srv->head_ms);
		c->seen = in.n;
		return -EAGAIN;
	}
	if (n < 0)
		conn_refuse(c, http_err_status(err.code), http_err_text(err.code));
	else
		conn_begin(c, &head, (size_t)n);
	return 0;
}

static int conn_head(struct http_conn *c)
{
	for (;;) {
		if (c->in.len > c->seen) {
			int r = head_parse(c);
			if (r != -EAGAIN)
				return r;
		}
		if (c->timed_out && c->in.len > 0) {
			c->timed_out = false;
			conn_refuse(c, 408, "the request head did not arrive in time");
			return 0;
		}
		if (c->timed_out || (c->srv->ending && c->in.len == 0)) {
			c->state = CONN_END;
			return 0;
		}
		struct iovec room = buf_room(&c->in);
		ssize_t n = stream_read(c->stream, room.iov_base, room.iov_len);
		buf_added(&c->in, n > 0 ? (size_t)n : 0);
		if (n < 0)
			return (int)n;
		if (n == 0) {
			c->state = CONN_END;
			c->failed = c->in.len ? -ERR_TRUNCATED : 0;
			return 0;
		}
	}
}

/* The handler has the exchange: pass wake-ups on, and notice a client that leaves. */
static int conn_user(struct http_conn *c)
{
	int r = http_conn_flush(c);
	if (r == 0)
		timer_clear(c->srv->rx, &c->timer);
	if ((r == 0 || r == -EAGAIN) && http_body_done(&c->body) && !c->upgrade)
		r = http_conn_watch(c);
	if (c->timed_out)
		r = -ETIMEDOUT;
	if (r < 0 && r != -EAGAIN && c->failed == 0)
		c->failed = r;
	if (c->user)
		task_wake(c->srv->rx, c->user);
	return -EAGAIN;
}

static int conn_reply(struct http_conn *c)
{
	int r = http_conn_flush(c);
	if (r < 0)
		return r;
	if (!c->keep) {
		conn_linger(c);
		return -EOWNERDEAD;
	}
	http_conn_log(c->srv, &c->log, 0, false);
	timer_clear(c->srv->rx, &c->timer);
	c->state = CONN_DRAIN;
	return 0;
}

static int conn_drain(struct http_conn *c)
{
	int r = http_conn_drain(c);
	if (r == -EFBIG) {
		conn_linger(c);
		return -EOWNERDEAD;
	}
	if (r < 0)
		return r;
	timer_set(c->srv->rx, &c->timer, c->srv->idle_ms);
	c->state = CONN_HEAD;
	return 0;
}

static int conn_take(struct http_conn *c)
{
	int r = http_conn_drain(c);
	if (r == 0 && c->other) {
		http_relay_start(c, c->other, buf_data(&c->in));
		return -EOWNERDEAD;
	}
	if (r == 0)
		r = http_conn_flush(c);
	if (r < 0)
		return r;
	struct stream *s = c->stream;
	struct buf rest = c->in;
	http_taken *taken = c->taken;
	void *arg = c->taken_arg;
	stream_bind(s, NULL);
	http_conn_log(c->srv, &c->log, 0, false);
	buf_init(&c->in, 0);
	http_conn_free(c);
	taken(arg, s, buf_data(&rest));
	buf_end(&rest);
	return -EOWNERDEAD;
}

/* The client is gone, or time is up: nothing more is read or written. */
static void conn_fail(struct http_conn *c, int code)
{
	http_taken *taken = c->taken;
	void *arg = c->taken_arg;
	if (!c->served && c->srv->broken)
		c->srv->broken(http_conn_peer(c), code, stream_why(c->stream, code), c->srv->arg);
	stream_close(c->other, code);
	http_conn_end(c, code);
	if (taken)
		taken(arg, NULL, (struct slice){ NULL, 0 });
}

static int conn_step(struct http_conn *c)
{
	switch (c->state) {
	case CONN_HEAD:
		return conn_head(c);
	case CONN_USER:
		return conn_user(c);
	case CONN_PROXY:
		return -EAGAIN;
	case CONN_REPLY:
		return conn_reply(c);
	case CONN_DRAIN:
		return conn_drain(c);
	case CONN_TAKE:
		return conn_take(c);
	case CONN_END:
		break;
	}
	http_conn_end(c, c->failed);
	return -EOWNERDEAD;
}

/* 0: state changed, go on; -EAGAIN: some stream or timer will wake us; -EOWNERDEAD: c is gone;
 * other codes are fatal. */
static void conn_run(struct task *t)
{
	struct http_conn *c = container_of(t, struct http_conn, task);
	int steps = STEPS_PER_TURN, r;

	if (c->state != CONN_USER && c->failed < 0) {
		conn_fail(c, c->failed);
		return;
	}
	if (c->timed_out && c->state != CONN_HEAD && c->state != CONN_USER) {
		conn_fail(c, -ETIMEDOUT);
		return;
	}
	do
		r = conn_step(c);
	while (r == 0 && --steps > 0);
	if (r == 0)
		task_wake(c->srv->rx, &c->task);
	else if (r != -EAGAIN && r != -EOWNERDEAD)
		conn_fail(c, r);
}
