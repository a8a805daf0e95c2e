#include "http/pass.h"

#include <errno.h>

#include "http/client.h"
#include "http/edits.h"
#include "reactor/err.h"

enum {
	PIECE = 64 * 1024,
	PIECES_PER_TURN = 4,
	REPLY_ONCE = 512 * 1024 /* a longer body goes in pieces */
};

enum pass_state {
	PASS_ASKING = 0, /* reading the request's body */
	PASS_ASKED,      /* the program has it */
	PASS_SENT,       /* waiting for the reply's head */
	PASS_ANSWERING,  /* reading its body */
	PASS_ANSWERED,   /* the program has it */
	PASS_GOING       /* writing the rest of the reply in pieces */
};

struct http_pass {
	struct task task;
	struct http_conn *conn;
	const struct http_upstream *via;
	const struct http_pass_ops *ops;
	void *arg;
	enum pass_state state;
	struct buf asked;  /* the request's head, hop-by-hop fields left out */
	struct buf answer; /* the reply's head, in the same way */
	struct buf body;   /* of the one, then of the other */
	struct http_client *up;
	bool up_done; /* nothing more comes from there */
	bool started; /* the reply's head has gone to the client */
	bool let_go;  /* the program has seen the reply */
	int status;   /* of the reply */
};

/* --- the end --- */

/* The exchange itself was let go before. */
static void pass_free(struct http_pass *p)
{
	const struct http_pass_ops *ops = p->ops;
	void *arg = p->arg;
	task_cancel(&p->task);
	http_client_free(p->up, p->up_done ? 0 : -ERR_CANCELLED);
	buf_end(&p->asked);
	buf_end(&p->answer);
	buf_end(&p->body);
	free(p);
	ops->over(arg);
}

static void pass_fail(struct http_pass *p, int code)
{
	char text[512];
	if (http_failed(p->conn) < 0 || p->started) {
		http_abort(p->conn, http_failed(p->conn) < 0 ? http_failed(p->conn) : code);
	} else {
		snprintf(text, sizeof(text), "%s%s",
			 code == -ERR_HTTP ? "bad response from upstream: " : "",
			 p->up ? http_client_why(p->up, code) : err_text(code));
		http_reply_error(p->conn, code == -ETIMEDOUT ? 504 : 502, text);
	}
	pass_free(p);
}

void http_pass_abort(struct http_pass *p)
{
	http_abort(p->conn, -ERR_CANCELLED);
	pass_free(p);
}

/* --- the request --- */

static int put_asked(struct http_pass *p, const struct http_head *h)
{
	struct http_edits ed = { .n = 0 };
	http_edits_drop(&ed, SLICE("expect"));
	int r = http_edits_hop(&ed, h);
	return r < 0 ? r : http_put_head(&p->asked, h, ed.e, ed.n);
}

static int pass_asking(struct http_pass *p)
{
	for (;;) {
		struct iovec room = buf_room_for(&p->body, 1);
		char spare;
		bool full = room.iov_len == 0;
		ssize_t n = full ? http_read(p->conn, &spare, 1)
				 : http_read(p->conn, room.iov_base, room.iov_len);
		if (n == 0) {
			p->state = PASS_ASKED;
			return 0;
		}
		if (n < 0)
			return (int)n;
		if (full)
			return -EMSGSIZE;
		buf_added(&p->body, (size_t)n);
	}
}

void http_pass_send(struct http_pass *p, struct slice body)
{
	struct http_edits ed = { .n = 0 };
	struct http_head h;
	struct http_err err;
	struct buf request;
	char length[24];

	BUG_ON(p->state != PASS_ASKED);
	if (!body.p)
		body = buf_data(&p->body);
	ssize_t n = http_request_parse(&h, buf_data(&p->asked), 0, HTTP_HEAD_MAX, &err);
	BUG_ON(n <= 0); /* we wrote it */
	snprintf(length, sizeof(length), "%zu", body.n);
	http_edits_drop(&ed, SLICE("transfer-encoding"));
	if (body.n || h.has_length || h.chunked)
		http_edits_add(&ed, SLICE("Content-Length"), slice_str(length));
	buf_init(&request, HTTP_HEAD_MAX + 64 + body.n);
	int r = http_put_head(&request, &h, ed.e, ed.n);
	if (r == 0)
		r = buf_put(&request, body);
	BUG_ON(r < 0);
	buf_drop(&p->body, p->body.len);
	p->up = http_client_new(p->via->dial(p->via->arg), &request, h.method);
	p->state = PASS_SENT;
	http_client_bind(p->up, &p->task);
}

void http_pass_refuse(struct http_pass *p, int status, const char *message)
{
	BUG_ON(p->state != PASS_ASKED);
	if (http_failed(p->conn) < 0)
		http_abort(p->conn, http_failed(p->conn));
	else
		http_reply_error(p->conn, status, message);
	pass_free(p);
}

/* --- the reply --- */

/* The reply's fields out of its head. */
static void parse_answer(struct http_pass *p, struct http_head *h)
{
	struct http_err err;
	ssize_t n = http_response_parse(h, buf_data(&p->answer), 0, HTTP_HEAD_MAX, &err);
	BUG_ON(n <= 0); /* we wrote it */
}

static void start_reply(struct http_pass *p)
{
	struct http_head h;
	parse_answer(p, &h);
	http_reply_start(p->conn, h.status, h.field, h.nfields);
	p->started = true;
}

static int pass_sent(struct http_pass *p)
{
	struct http_edits ed = { .n = 0 };
	struct http_head h;

	int r = http_client_head(p->up, &h);
	if (r < 0)
		return r;
	if (h.status == 101)
		return -ERR_HTTP;
	p->status = h.status;
	http_edits_drop(&ed, SLICE("content-length"));
	http_edits_drop(&ed, SLICE("transfer-encoding"));
	http_edits_drop(&ed, SLICE("date")); /* the server writes its own */
	r = http_edits_hop(&ed, &h);
	if (r == 0)
		r = http_put_head(&p->answer, &h, ed.e, ed.n);
	if (r < 0)
		return -ERR_HTTP;
	if (p->ops->way != HTTP_PASS_WHOLE)
		start_reply(p);
	p->state = p->ops->way == HTTP_PASS_END_HELD ? PASS_GOING : PASS_ANSWERING;
	return 0;
}

static int pass_answering(struct http_pass *p)
{
	for (;;) {
		struct iovec room = buf_room_for(&p->body, 1);
		if (room.iov_len == 0) {
			if (p->ops->too_long)
				p->ops->too_long(p->arg, p->body.max);
			if (!p->started)
				start_reply(p);
			p->let_go = true;
			p->state = PASS_GOING;
			return 0;
		}
		ssize_t n = http_client_read(p->up, room.iov_base, room.iov_len);
		buf_added(&p->body, n > 0 ? (size_t)n : 0);
		if (n < 0)
			return (int)n;
		if (n == 0) {
			p->up_done = true;
			p->state = PASS_ANSWERED;
			return 0;
		}
	}
}

void http_pass_reply(struct http_pass *p, struct slice body)
{
	BUG_ON(p->state != PASS_ANSWERED || (p->started && body.p));
	p->let_go = true;
	if (body.p) {
		struct buf copy;
		buf_init(&copy, body.n);
		buf_put(&copy, body);
		buf_end(&p->body);
		p->body = copy;
	}
	if (http_failed(p->conn) < 0) {
		http_abort(p->conn, http_failed(p->conn));
		pass_free(p);
	} else if (p->body.len <= REPLY_ONCE && !p->started) {
		struct http_head h;
		parse_answer(p, &h);
		http_reply(p->conn, h.status, h.field, h.nfields, buf_data(&p->body));
		pass_free(p);
	} else {
		if (!p->started)
			start_reply(p);
		p->state = PASS_GOING;
		task_wake(http_conn_stream(p->conn)->rx, &p->task);
	}
}

/* What is held, then what still comes; a while at a time. */
static int pass_going(struct http_pass *p)
{
	for (int pieces = 0; pieces < PIECES_PER_TURN; pieces++) {
		while (p->body.len) {
			struct slice d = buf_data(&p->body);
			ssize_t n = http_write(p->conn, d.p, d.n);
			if (n < 0)
				return (int)n;
			buf_drop(&p->body, (size_t)n);
		}
		if (p->up_done && p->let_go)
			return 1;
		if (p->up_done) {
			p->state = PASS_ANSWERED;
			return 0;
		}
		struct iovec room = buf_room_for(&p->body, PIECE);
		ssize_t n =
		    http_client_read(p->up, room.iov_base, MIN(room.iov_len, (size_t)PIECE));
		buf_added(&p->body, n > 0 ? (size_t)n : 0);
		if (n < 0)
			return (int)n;
		p->up_done = n == 0;
	}
	task_wake(http_conn_stream(p->conn)->rx, &p->task);
	return -EAGAIN;
}

/* --- the whole --- */

/* 0: the state changed, go on; 1: all is written; -EAGAIN; other codes are fatal. */
static int pass_step(struct http_pass *p)
{
	switch (p->state) {
	case PASS_ASKING:
		return pass_asking(p);
	case PASS_SENT:
		return pass_sent(p);
	case PASS_ANSWERING:
		return pass_answering(p);
	case PASS_GOING:
		return pass_going(p);
	case PASS_ASKED:
	case PASS_ANSWERED:
		break;
	}
	return -EAGAIN;
}

static void pass_run(struct task *t)
{
	struct http_pass *p = container_of(t, struct http_pass, task);
	int r;

	do
		r = http_failed(p->conn) < 0 ? http_failed(p->conn) : pass_step(p);
	while (r == 0 && p->state != PASS_ASKED && p->state != PASS_ANSWERED);
	if (r == 1) {
		http_reply_end(p->conn);
		pass_free(p);
	} else if (r == -EMSGSIZE && p->state == PASS_ASKING) {
		char text[80];
		snprintf(text, sizeof(text), "the request body is over %zu bytes", p->body.max);
		http_reply_error(p->conn, 413, text);
		pass_free(p);
	} else if (r < 0 && r != -EAGAIN) {
		pass_fail(p, r);
	} else if (r == 0 && p->state == PASS_ASKED) {
		p->ops->asked(p->arg, buf_data(&p->body)); /* p may be gone */
	} else if (r == 0) {
		p->ops->answered(p->arg, p->status, buf_data(&p->body)); /* p may be gone */
	}
}

struct http_pass *http_pass_new(struct http_conn *c, const struct http_head *h,
				const struct http_upstream *via, size_t body_max,
				const struct http_pass_ops *ops, void *arg)
{
	struct http_pass *p = xcalloc(1, sizeof(*p));
	BUG_ON(http_wants_upgrade(h));
	p->conn = c;
	p->via = via;
	p->ops = ops;
	p->arg = arg;
	task_init(&p->task, pass_run);
	buf_init(&p->asked, HTTP_HEAD_MAX);
	buf_init(&p->answer, HTTP_HEAD_MAX);
	buf_init(&p->body, body_max);
	if (put_asked(p, h) < 0) {
		http_reply_error(c, 400, "unusable request head");
		buf_end(&p->asked);
		free(p);
		return NULL;
	}
	http_bind(c, &p->task);
	return p;
}
