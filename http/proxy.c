/* Two directions, a small state machine each; one task runs both. The request's goes first. */
#include "http/proxy.h"

#include <errno.h>

#include "http/conn.h"
#include "http/edits.h"
#include "reactor/err.h"

enum {
	QUANTUM = REACTOR_SCRATCH, /* moved per direction and turn before others get theirs */
	INTERIM_MAX = 32           /* 1xx responses to one request */
};

enum send_state {
	SEND_OPEN = 0, /* head and body go upstream */
	SEND_DISCARD,  /* upstream takes no more; its response may explain why */
	SEND_DONE
};

enum recv_state { RECV_HEAD = 0, RECV_BODY, RECV_DONE };

enum blame { BLAME_CLIENT = 1, BLAME_REQUEST, BLAME_UPSTREAM, BLAME_RESPONSE };

struct http_proxy {
	struct task task; /* of both streams during an exchange, else of the upstream one */
	struct http_conn *conn;
	const struct http_upstream *via;
	struct stream *up; /* NULL: none */
	bool busy;         /* an exchange is on */
	bool reused;       /* up has served another one */
	bool keep_up;      /* and may serve the next */
	bool repeatable, watch, raw;
	enum send_state send;
	enum recv_state recv;
	enum blame blame;
	struct buf head;    /* the request's as sent, kept until the response's has come */
	size_t sent;        /* of it */
	struct buf to_up;   /* body that up did not take yet */
	struct buf from_up; /* response head that is not complete yet */
	size_t seen;
	struct http_body response;
	unsigned interim;
	struct http_err err;
};

static int fail(struct http_proxy *px, enum blame blame, ssize_t code)
{
	px->blame = blame;
	return (int)code;
}

/* --- heads --- */

static int put_request(struct http_proxy *px, const struct http_head *h,
		       const struct http_edit *extra, size_t n)
{
	struct http_edits ed = { .n = 0 };

	BUG_ON(n > HTTP_PROXY_EDITS);
	for (size_t i = 0; i < n; i++)
		http_edits_add(&ed, extra[i].name, extra[i].value);
	int r = http_edits_hop(&ed, h);
	return r < 0 ? r : http_put_head(&px->head, h, ed.e, ed.n);
}

static int put_response(struct http_conn *c, struct http_head *h)
{
	struct http_edits ed = { .n = 0 };

	if (!http_wants_upgrade(h) && h->status >= 200) {
		if (!c->keep)
			http_edits_add(&ed, SLICE("Connection"), SLICE("close"));
		else if (c->http10)
			http_edits_add(&ed, SLICE("Connection"), SLICE("keep-alive"));
	}
	int r = http_edits_hop(&ed, h);
	h->minor = 1;
	return r < 0 ? r : http_put_head(&c->out, h, ed.e, ed.n);
}

/* --- the upstream connection --- */

static void up_open(struct http_proxy *px)
{
	px->up = px->via->dial(px->via->arg);
	px->reused = false;
	stream_bind(px->up, &px->task);
}

static void up_close(struct http_proxy *px, int code)
{
	stream_close(px->up, code);
	px->up = NULL;
}

/* A kept connection that has anything to say between two exchanges is of no more use. */
static void up_check(struct http_proxy *px)
{
	char byte;
	if (px->up && stream_read(px->up, &byte, 1) != -EAGAIN)
		up_close(px, 0);
}

/* A kept connection was lost: opens a new one if the request cannot have been acted on. */
static bool up_again(struct http_proxy *px)
{
	if (!px->reused || px->recv != RECV_HEAD || px->interim || px->from_up.len ||
	    (px->sent > 0 && !px->repeatable))
		return false;
	up_close(px, 0);
	up_open(px);
	px->send = SEND_OPEN;
	px->sent = 0;
	return true;
}

/* --- request: client to upstream --- */

static void send_give_up(struct http_proxy *px)
{
	px->send = SEND_DISCARD;
	px->keep_up = false;
	px->sent = px->head.len;
	buf_end(&px->to_up);
}

static int send_flush(struct http_proxy *px)
{
	while (px->sent < px->head.len || px->to_up.len > 0) {
		struct slice head = slice_after(buf_data(&px->head), px->sent);
		struct slice body = buf_data(&px->to_up);
		struct iovec iov[2] = { { (void *)(uintptr_t)head.p, head.n },
					{ (void *)(uintptr_t)body.p, body.n } };
		int first = head.n ? 0 : 1, last = body.n ? 2 : 1;
		ssize_t n = px->up->ops->write(px->up, iov + first, last - first);
		if (n == -EAGAIN)
			return -EAGAIN;
		if (n < 0) {
			if (!up_again(px))
				send_give_up(px);
			continue;
		}
		size_t of_head = MIN((size_t)n, head.n);
		px->sent += of_head;
		buf_drop(&px->to_up, (size_t)n - of_head);
	}
	if (px->recv != RECV_HEAD) {
		buf_end(&px->head);
		px->sent = 0;
	}
	return 0;
}

/* Body bytes, checked, on their way upstream. */
static void send_bytes(struct http_proxy *px, struct slice s)
{
	ssize_t n = 0;

	px->conn->log.in += s.n;
	if (px->send == SEND_DISCARD)
		return;
	if (px->sent == px->head.len)
		n = stream_write(px->up, s.p, s.n);
	if (n == -EAGAIN)
		n = 0;
	if (n < 0) {
		send_give_up(px);
		return;
	}
	int r = buf_put(&px->to_up, slice_after(s, (size_t)n));
	BUG_ON(r < 0); /* it was empty */
}

static ssize_t send_more(struct http_proxy *px)
{
	struct http_conn *c = px->conn;
	bool held = c->in.len > 0;
	struct slice in = buf_data(&c->in);

	if (!held) {
		size_t most = c->body.how == HTTP_CHUNKED ? c->in.max : c->body.left;
		in.p = reactor_scratch(c->srv->rx);
		ssize_t n =
		    stream_read(c->stream, (char *)(uintptr_t)in.p, MIN(most, REACTOR_SCRATCH));
		if (n == -EAGAIN)
			return n;
		if (n <= 0)
			return fail(px, BLAME_CLIENT, n == 0 ? -ERR_TRUNCATED : n);
		in.n = (size_t)n;
	}
	ssize_t used = http_body_check(&c->body, in, &px->err);
	if (used < 0)
		return fail(px, BLAME_REQUEST, -ERR_HTTP);
	send_bytes(px, slice_of(in.p, (size_t)used));
	if (held) {
		buf_drop(&c->in, (size_t)used);
	} else {
		int r = buf_put(&c->in, slice_after(in, (size_t)used));
		BUG_ON(r < 0); /* no more was read than it holds */
	}
	return (ssize_t)in.n;
}

/* 0 done, 1 quantum spent, -EAGAIN some stream will wake us, other codes fatal. */
static int send_run(struct http_proxy *px)
{
	struct http_conn *c = px->conn;
	size_t quantum = QUANTUM;

	/* What came with the head leaves with the head. */
	if (px->sent < px->head.len && px->to_up.len == 0 && c->in.len > 0 &&
	    !http_body_done(&c->body)) {
		ssize_t n = send_more(px);
		if (n < 0)
			return (int)n;
	}
	while (px->send != SEND_DONE) {
		int r = send_flush(px);
		if (r < 0)
			return r;
		if (http_body_done(&c->body)) {
			px->send = SEND_DONE;
			break;
		}
		if (quantum == 0)
			return 1;
		ssize_t n = send_more(px);
		if (n < 0)
			return (int)n;
		quantum -= MIN(quantum, (size_t)n);
	}
	return 0;
}

/* --- response: upstream to client --- */

static int recv_interim(struct http_proxy *px, struct http_head *h)
{
	struct http_conn *c = px->conn;

	if (++px->interim > INTERIM_MAX)
		return fail(px, BLAME_RESPONSE, -ERR_HTTP);
	if (h->status == 100)
		c->expect = false;
	if (!c->http10 && put_response(c, h) < 0)
		return fail(px, BLAME_RESPONSE, -ERR_HTTP);
	return 0;
}

static int recv_final(struct http_proxy *px, struct http_head *h, struct slice rest)
{
	struct http_conn *c = px->conn;
	struct http_head request;
	ssize_t used = 0;

	ssize_t n = http_request_parse(&request, buf_data(&px->head), 0, HTTP_HEAD_MAX, &px->err);
	BUG_ON(n <= 0);
	http_body_init(&px->response, h, request.method);
	bool hijack = h->status == 200 && px->response.how == HTTP_CLOSE && px->via->hijack &&
		      px->via->hijack(px->via->arg, &request, h);
	bool raw = hijack || px->response.how == HTTP_TUNNEL;
	if ((h->status == 101 && !http_wants_upgrade(&request)) || (c->http10 && h->chunked))
		return fail(px, BLAME_RESPONSE, -ERR_HTTP);
	if (!raw)
		used = http_body_check(&px->response, rest, &px->err);
	if (used < 0)
		return fail(px, BLAME_RESPONSE, -ERR_HTTP);
	bool extra = (size_t)used < rest.n;
	px->keep_up = px->send != SEND_DISCARD && http_keep_alive(h) && h->minor == 1 && !extra &&
		      px->response.how != HTTP_CLOSE && !c->http10;
	c->keep = c->keep && px->response.how != HTTP_CLOSE && !c->srv->ending;
	if (put_response(c, h) < 0)
		return fail(px, BLAME_RESPONSE, -ERR_HTTP);
	if (!raw)
		rest.n = (size_t)used;
	int r = buf_put(&c->out, rest);
	BUG_ON(r < 0); /* a head and one read of it */
	c->log.out += rest.n;
	c->log.status = h->status;
	px->recv = RECV_BODY;
	px->raw = raw;
	if (raw && px->via->relayed)
		px->up = px->via->relayed(px->via->arg, &request, px->up);
	px->watch = true;
	return 0;
}

/* Reads and parses up to one response head: bytes moved, -EAGAIN or fatal. */
static ssize_t recv_head(struct http_proxy *px)
{
	struct slice in = buf_data(&px->from_up);
	struct http_head head;
	ssize_t n = 0;

	if (in.n > px->seen)
		n = http_response_parse(&head, in, px->seen, HTTP_HEAD_MAX, &px->err);
	if (n < 0)
		return fail(px, BLAME_RESPONSE, -ERR_HTTP);
	if (n > 0) {
		bool interim = head.status < 200 && head.status != 101;
		int r = interim ? recv_interim(px, &head)
				: recv_final(px, &head, slice_after(in, (size_t)n));
		if (r < 0)
			return r;
		buf_drop(&px->from_up, interim ? (size_t)n : in.n);
		px->seen = 0;
		return n;
	}
	px->seen = in.n;
	struct iovec room = buf_room(&px->from_up);
	n = stream_read(px->up, room.iov_base, room.iov_len);
	buf_added(&px->from_up, n > 0 ? (size_t)n : 0);
	if (n > 0 || n == -EAGAIN)
		return n;
	if (up_again(px)) {
		task_wake(px->conn->srv->rx, &px->task);
		return -EAGAIN;
	}
	return fail(px, BLAME_UPSTREAM, n == 0 ? -ERR_TRUNCATED : n);
}

static ssize_t recv_body(struct http_proxy *px)
{
	struct http_conn *c = px->conn;
	char *scratch = reactor_scratch(c->srv->rx);
	size_t most = px->response.how == HTTP_LENGTH ? px->response.left : REACTOR_SCRATCH;
	ssize_t n = stream_read(px->up, scratch, MIN(most, REACTOR_SCRATCH));

	if (n == -EAGAIN)
		return n;
	if (n == 0 && px->response.how == HTTP_CLOSE) {
		px->recv = RECV_DONE;
		return 0;
	}
	if (n <= 0)
		return fail(px, BLAME_UPSTREAM, n == 0 ? -ERR_TRUNCATED : n);
	ssize_t used = http_body_check(&px->response, slice_of(scratch, (size_t)n), &px->err);
	if (used < 0)
		return fail(px, BLAME_RESPONSE, -ERR_HTTP);
	if (used < n)
		px->keep_up = false;
	c->log.out += (uint64_t)used;
	ssize_t put = stream_write(c->stream, scratch, (size_t)used);
	if (put == -EAGAIN)
		put = 0;
	if (put < 0)
		return fail(px, BLAME_CLIENT, put);
	int r = buf_put(&c->out, slice_of(scratch + put, (size_t)(used - put)));
	BUG_ON(r < 0); /* it was empty */
	return n;
}

/* Proxied bytes may wait for a slow client as long as it likes, so not http_conn_flush. */
static int recv_flush(struct http_proxy *px)
{
	struct http_conn *c = px->conn;

	while (c->out.len > 0) {
		struct slice out = buf_data(&c->out);
		ssize_t n = stream_write(c->stream, out.p, out.n);
		if (n < 0)
			return n == -EAGAIN ? -EAGAIN : fail(px, BLAME_CLIENT, n);
		buf_drop(&c->out, (size_t)n);
	}
	return 0;
}

/* As send_run. */
static int recv_run(struct http_proxy *px)
{
	size_t quantum = QUANTUM;

	while (px->recv != RECV_DONE && !px->raw) {
		int r = recv_flush(px);
		if (r < 0)
			return r;
		if (px->recv == RECV_BODY && http_body_done(&px->response)) {
			px->recv = RECV_DONE;
			break;
		}
		if (quantum == 0)
			return 1;
		ssize_t n = px->recv == RECV_HEAD ? recv_head(px) : recv_body(px);
		if (n < 0)
			return (int)n;
		quantum -= MIN(quantum, (size_t)n);
	}
	return 0;
}

/* --- the end of an exchange --- */

static void buffers_end(struct http_proxy *px)
{
	buf_end(&px->head);
	buf_end(&px->to_up);
	buf_end(&px->from_up);
}

static void exchange_end(struct http_proxy *px)
{
	px->busy = false;
	buffers_end(px);
	stream_bind(px->conn->stream, &px->conn->task);
}

static void finish(struct http_proxy *px)
{
	struct http_conn *c = px->conn;
	bool complete = http_body_done(&c->body);

	exchange_end(px);
	px->reused = px->keep_up && complete;
	if (px->reused)
		task_wake(c->srv->rx, &px->task); /* it may have closed meanwhile */
	else
		up_close(px, complete ? 0 : -ERR_CANCELLED);
	c->keep = c->keep && complete;
	timer_clear(c->srv->rx, &c->timer);
	http_conn_reply(c);
}

/* Something can still be said to the client: why there is no response. */
static void apologise(struct http_proxy *px, int code)
{
	struct http_conn *c = px->conn;
	int status = px->blame == BLAME_REQUEST ? 400 : code == -ETIMEDOUT ? 504 : 502;
	char text[512];

	if (px->blame == BLAME_UPSTREAM)
		snprintf(text, sizeof(text), "%s", stream_why(px->up, code));
	else
		snprintf(text, sizeof(text), "%s%s",
			 px->blame == BLAME_RESPONSE ? "bad response from upstream: " : "",
			 px->err.code ? http_err_text(px->err.code) : "protocol violation");
	exchange_end(px);
	up_close(px, -ERR_CANCELLED);
	if (px->blame == BLAME_REQUEST)
		c->keep = false;
	c->state = CONN_USER;
	http_reply_error(c, status, text);
}

static void proxy_fail(struct http_proxy *px, int code)
{
	if (px->blame != BLAME_CLIENT && px->recv == RECV_HEAD)
		apologise(px, code);
	else
		http_conn_end(px->conn, code);
}

static void relay(struct http_proxy *px)
{
	struct http_conn *c = px->conn;
	struct stream *up = px->up;
	struct buf rest;

	/* What was not sent yet, in its order: the bounds add up. */
	buf_init(&rest, px->head.max + px->to_up.max + c->in.max);
	buf_put(&rest, slice_after(buf_data(&px->head), px->sent));
	buf_put(&rest, buf_data(&px->to_up));
	buf_put(&rest, buf_data(&c->in));
	px->up = NULL;
	http_relay_start(c, up, buf_data(&rest));
	buf_end(&rest);
}

/* The response is complete, the request is not. Upstream may still want it, but a client that was
 * never told to go on will not send it. */
static bool may_go_on(struct http_proxy *px)
{
	return px->send == SEND_OPEN && !px->conn->expect;
}

static void proxy_run(struct task *t)
{
	struct http_proxy *px = container_of(t, struct http_proxy, task);
	struct http_conn *c = px->conn;

	if (!px->busy) {
		up_check(px);
		return;
	}
	int sent = send_run(px);
	int got = sent < 0 && sent != -EAGAIN ? sent : recv_run(px);
	if (got == -EAGAIN && px->send == SEND_DONE && px->watch) {
		got = http_conn_watch(c);
		px->blame = BLAME_CLIENT;
	}
	if (px->raw)
		relay(px);
	else if (got < 0 && got != -EAGAIN)
		proxy_fail(px, got);
	else if (px->recv == RECV_DONE && (px->send == SEND_DONE || !may_go_on(px)))
		finish(px);
	else if (sent == 1 || got == 1)
		task_wake(c->srv->rx, &px->task);
	else if (px->recv == RECV_DONE)
		timer_set(c->srv->rx, &c->timer, c->srv->stall_ms);
}

/* --- the beginning --- */

static bool repeatable(const struct http_head *h)
{
	static const struct slice methods[] = { SLICE("GET"),     SLICE("HEAD"),   SLICE("PUT"),
						SLICE("OPTIONS"), SLICE("DELETE"), SLICE("TRACE") };
	for (size_t i = 0; i < ARRAY_LEN(methods); i++)
		if (slice_eq(h->method, methods[i]))
			return !h->chunked && h->length == 0;
	return false;
}

static struct http_proxy *proxy_new(struct http_conn *c)
{
	struct http_proxy *px = xcalloc(1, sizeof(*px));
	px->conn = c;
	task_init(&px->task, proxy_run);
	buf_init(&px->head, HTTP_HEAD_MAX);
	buf_init(&px->to_up, REACTOR_SCRATCH);
	buf_init(&px->from_up, HTTP_HEAD_MAX);
	return px;
}

void http_proxy_free(struct http_proxy *px)
{
	if (!px)
		return;
	task_cancel(&px->task);
	up_close(px, px->busy ? -ERR_CANCELLED : 0);
	buffers_end(px);
	free(px);
}

void http_proxy(struct http_conn *c, const struct http_head *h, const struct http_edit *extra,
		size_t n, const struct http_upstream *via)
{
	BUG_ON(c->state != CONN_USER || c->streaming);
	if (!c->proxy)
		c->proxy = proxy_new(c);
	struct http_proxy *px = c->proxy;
	if (px->via != via)
		up_close(px, 0);
	px->via = via;
	int r = put_request(px, h, extra, n);
	if (r < 0) {
		c->keep = false;
		http_reply_error(c, r == -ENOBUFS ? 431 : 400, "unusable request head");
		return;
	}
	px->watch = !http_wants_upgrade(h) && !slice_eq(h->method, SLICE("CONNECT")) &&
		    !(via->hijack && via->hijack(via->arg, h, NULL));
	px->repeatable = repeatable(h);
	http_conn_unhead(c);
	px->busy = true;
	px->raw = px->keep_up = false;
	px->send = SEND_OPEN;
	px->recv = RECV_HEAD;
	px->sent = px->seen = 0;
	px->interim = 0;
	px->err = (struct http_err){ 0, 0 };
	up_check(px);
	if (!px->up)
		up_open(px);
	c->user = NULL;
	c->state = CONN_PROXY;
	stream_bind(c->stream, &px->task);
	task_wake(c->srv->rx, &px->task);
}
