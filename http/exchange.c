/* The verbs with which a handler answers a request. */
#include "http/conn.h"
#include "http/pull.h"

#include <errno.h>
#include <time.h>

#include "reactor/err.h"

enum { WRITE_PIECE = 64 * 1024 };

static void stalled(struct http_conn *c)
{
	if (!timer_is_set(&c->timer))
		timer_set(c->srv->rx, &c->timer, c->srv->stall_ms);
}

/* Progress: the stall clock starts anew at the next refusal. */
static void moved(struct http_conn *c)
{
	timer_clear(c->srv->rx, &c->timer);
}

static int failed(struct http_conn *c, int code)
{
	if (c->failed == 0)
		c->failed = code;
	return c->failed;
}

int http_conn_flush(struct http_conn *c)
{
	while (c->out.len > 0) {
		struct slice out = buf_data(&c->out);
		ssize_t n = stream_write(c->stream, out.p, out.n);
		if (n == -EAGAIN)
			stalled(c);
		if (n < 0)
			return (int)n;
		moved(c);
		buf_drop(&c->out, (size_t)n);
	}
	return 0;
}

void http_conn_unhead(struct http_conn *c)
{
	buf_drop(&c->in, c->head_len);
	c->head_len = 0;
}

int http_conn_watch(struct http_conn *c)
{
	while (c->in.len < c->in.max) {
		struct iovec room = buf_room(&c->in);
		ssize_t n = stream_read(c->stream, room.iov_base, room.iov_len);
		buf_added(&c->in, n > 0 ? (size_t)n : 0);
		if (n <= 0)
			return n == 0 ? -ECONNRESET : (int)n;
	}
	return -EAGAIN;
}

int http_conn_drain(struct http_conn *c)
{
	char *scratch = reactor_scratch(c->srv->rx);

	while (!http_body_done(&c->body)) {
		ssize_t n = http_read(c, scratch, REACTOR_SCRATCH);
		if (n < 0)
			return (int)n;
		c->drained += (size_t)n;
		if (c->drained > CONN_DRAIN_MAX)
			return -EFBIG;
	}
	return 0;
}

void http_bind(struct http_conn *c, struct task *t)
{
	c->user = t;
	if (t)
		task_wake(c->srv->rx, t);
}

int http_failed(const struct http_conn *c)
{
	return c->failed;
}

int http_fault(const struct http_conn *c)
{
	if (c->streaming)
		return 0;
	if (c->failed == -ERR_HTTP)
		return 400;
	/* What waits in out is not taken either: nobody reads there. */
	return c->failed == -ETIMEDOUT && c->out.len == 0 ? 408 : 0;
}

struct stream *http_conn_stream(struct http_conn *c)
{
	return c->stream;
}

const char *http_conn_peer(const struct http_conn *c)
{
	return c->log.peer ? c->log.peer : "";
}

static void send_continue(struct http_conn *c)
{
	c->expect = false;
	if (c->in.len > 0 || c->streaming)
		return;
	int r = buf_put(&c->out, SLICE("HTTP/1.1 100 Continue\r\n\r\n"));
	if (r == 0)
		r = http_conn_flush(c);
	if (r < 0 && r != -EAGAIN)
		failed(c, r);
}

ssize_t http_read(struct http_conn *c, void *p, size_t n)
{
	http_conn_unhead(c);
	if (c->expect && !http_body_done(&c->body))
		send_continue(c);
	if (c->failed < 0)
		return c->failed;
	ssize_t got = http_pull(&c->body, &c->in, c->stream, p, n);
	if (got == -EAGAIN)
		stalled(c);
	else if (got < 0)
		failed(c, (int)got);
	else
		moved(c);
	if (got > 0)
		c->log.in += (uint64_t)got;
	return got;
}

/* Written anew once a second. */
static int put_date(struct buf *b)
{
	static char text[40];
	static size_t len;
	static time_t at;
	time_t now = time(NULL);
	struct tm tm;

	if (len == 0 || now != at)
		len =
		    strftime(text, sizeof(text), "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&now, &tm));
	at = now;
	return http_put_field(b, SLICE("Date"), slice_of(text, len));
}

static bool bodiless(int status)
{
	return status < 200 || status == 204 || status == 304;
}

/* A head but for the fields that frame the body and the empty line. */
static int put_head(struct http_conn *c, int status, const struct http_field *field, size_t n)
{
	bool tunnel = status == 200 && strcmp(c->log.method, "CONNECT") == 0;
	int r =
	    http_put_status(&c->out, status, tunnel ? SLICE("Connection Established") : SLICE(""));

	if (r == 0 && status >= 200)
		r = put_date(&c->out);
	for (size_t i = 0; i < n && r == 0; i++)
		r = http_put_field(&c->out, field[i].name, field[i].value);
	c->log.status = status;
	return r;
}

static int put_connection(struct http_conn *c)
{
	if (!c->keep)
		return http_put_field(&c->out, SLICE("Connection"), SLICE("close"));
	if (c->http10)
		return http_put_field(&c->out, SLICE("Connection"), SLICE("keep-alive"));
	return 0;
}

/* May the connection go on after this exchange? A client that was never told to go on with its body
 * may or may not send it. */
static bool may_keep(const struct http_conn *c)
{
	if (!c->keep || c->srv->ending)
		return false;
	return http_body_done(&c->body) ||
	       (!c->expect && (c->body.how != HTTP_LENGTH || c->body.left <= CONN_DRAIN_MAX));
}

static int put_reply(struct http_conn *c, int status, const struct http_field *field, size_t n,
		     struct slice body)
{
	int r = put_head(c, status, field, n);

	if (r == 0 && !bodiless(status))
		r = http_put_number(&c->out, SLICE("Content-Length"), body.n);
	if (r == 0)
		r = put_connection(c);
	if (r == 0)
		r = http_put_end(&c->out);
	if (r == 0 && !bodiless(status) && !c->is_head) {
		r = buf_put(&c->out, body);
		c->log.out += body.n;
	}
	return r;
}

void http_reply(struct http_conn *c, int status, const struct http_field *field, size_t n,
		struct slice body)
{
	size_t before = c->out.len;

	BUG_ON(c->state != CONN_USER || c->streaming);
	if (http_fault(c)) { /* there is somebody to tell */
		c->failed = 0;
		c->timed_out = false;
		c->keep = false;
	}
	c->keep = may_keep(c);
	if (put_reply(c, status, field, n, body) < 0) { /* too large, or a field with a line end */
		c->out.len = before;
		c->log.out = 0;
		c->keep = false;
		put_reply(c, 500, NULL, 0, SLICE("{\"message\":\"unsendable reply\"}\n"));
	}
	http_conn_reply(c);
}

void http_reply_error(struct http_conn *c, int status, const char *message)
{
	struct http_field type = { SLICE("Content-Type"), SLICE("application/json") };
	struct buf b;

	buf_init(&b, 64 * 1024);
	if (http_put_message(&b, message) < 0)
		status = 500;
	http_reply(c, status, &type, 1, buf_data(&b));
	buf_end(&b);
}

void http_reply_start(struct http_conn *c, int status, const struct http_field *field, size_t n)
{
	bool body = !bodiless(status);

	BUG_ON(c->state != CONN_USER || c->streaming);
	c->chunked = body && !c->http10;
	c->keep = c->keep && !c->srv->ending && !c->expect && (c->chunked || !body || c->is_head);
	int r = put_head(c, status, field, n);
	if (r == 0 && c->chunked)
		r = http_put_field(&c->out, SLICE("Transfer-Encoding"), SLICE("chunked"));
	if (r == 0)
		r = put_connection(c);
	if (r == 0)
		r = http_put_end(&c->out);
	c->streaming = true;
	c->is_head = c->is_head || !body;
	if (r == 0)
		r = http_conn_flush(c);
	if (r < 0 && r != -EAGAIN)
		failed(c, r);
}

ssize_t http_write(struct http_conn *c, const void *p, size_t n)
{
	BUG_ON(!c->streaming);
	int r = c->failed < 0 ? c->failed : http_conn_flush(c);
	if (r < 0)
		return r == -EAGAIN ? r : failed(c, r);
	if (c->is_head)
		return (ssize_t)n;
	struct slice piece = slice_of(p, MIN(n, WRITE_PIECE));
	r = c->chunked ? http_put_chunk(&c->out, piece) : buf_put(&c->out, piece);
	BUG_ON(r < 0); /* out was empty */
	c->log.out += piece.n;
	r = http_conn_flush(c);
	if (r < 0 && r != -EAGAIN)
		return failed(c, r);
	return (ssize_t)piece.n;
}

void http_reply_end(struct http_conn *c)
{
	BUG_ON(!c->streaming);
	if (c->chunked && !c->is_head) {
		int r = http_put_last_chunk(&c->out);
		BUG_ON(r < 0); /* out holds one piece at most */
	}
	http_conn_reply(c);
}

void http_abort(struct http_conn *c, int why)
{
	BUG_ON(c->state != CONN_USER || why >= 0);
	int fault = http_fault(c);
	if (fault) {
		http_reply_error(c, fault,
				 fault == 400 ? "malformed request body"
					      : "the request body did not arrive in time");
		return;
	}
	failed(c, why);
	http_conn_reply(c);
}

void http_take(struct http_conn *c, int status, const struct http_field *field, size_t n,
	       http_taken *taken, void *arg)
{
	BUG_ON(c->state != CONN_USER || c->streaming);
	http_conn_unhead(c);
	c->user = NULL;
	c->taken = taken;
	c->taken_arg = arg;
	c->state = CONN_TAKE;
	if (status) {
		int r = put_head(c, status, field, n);
		if (r == 0)
			r = http_put_end(&c->out);
		if (r < 0)
			failed(c, r);
	}
	task_wake(c->srv->rx, &c->task);
}
