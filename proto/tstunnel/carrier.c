#include "proto/tstunnel/carrier.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "http/http.h"
#include "json/json.h"
#include "reactor/err.h"

enum {
	CONNECT_MS = 10000,
	HANDSHAKE_MS = 10000,
	REPLY_MAX = 16 * 1024,
	NOTSENT_LOWAT = 128 * 1024, /* what the kernel may hold beyond the path's window */
	USER_TIMEOUT_MS = 10000
};

enum carrier_state { CARRIER_ASK = 1, CARRIER_REPLY, CARRIER_OPEN, CARRIER_FAILED };

struct carrier {
	struct stream s;
	const struct carrier_config *cfg;
	struct stream *bottom; /* the dialled one, under TLS if there is TLS; owned by inner */
	struct stream *inner;
	struct task task; /* drives the handshake; once open, inner wakes the owner itself */
	struct timer timer;
	struct task *owner;
	enum carrier_state state;
	bool tls;
	struct buf out, in;
	size_t seen;
	int code;
	char *why;
};

static const struct stream_ops carrier_ops;

static struct carrier *self(struct stream *s)
{
	return container_of(s, struct carrier, s);
}

static uint64_t or_default(uint64_t ms, uint64_t otherwise)
{
	return ms ? ms : otherwise;
}

static void fail(struct carrier *c, int code, const char *why)
{
	c->state = CARRIER_FAILED;
	c->code = code;
	free(c->why);
	c->why = xstrdup(why);
	timer_clear(c->s.rx, &c->timer);
	task_cancel(&c->task);
	buf_end(&c->in);
	buf_end(&c->out);
	stream_close(c->inner, code);
	c->inner = NULL;
	if (c->owner)
		task_wake(c->s.rx, c->owner);
}

static void start(struct carrier *c, struct tls_config *tls)
{
	const struct carrier_config *cfg = c->cfg;
	c->bottom = c->inner = dial(c->s.rx, &cfg->server, or_default(cfg->connect_ms, CONNECT_MS));
	c->tls = tls != NULL;
	if (tls) {
		c->inner = tls_client(tls, c->inner, cfg->server.host);
		tls_handshake_limit(c->inner, or_default(cfg->connect_ms, CONNECT_MS) +
						  or_default(cfg->handshake_ms, HANDSHAKE_MS));
	}
	c->seen = 0;
	c->state = CARRIER_ASK;
	buf_init(&c->in, REPLY_MAX);
	buf_init(&c->out, REPLY_MAX);
	int r = buf_printf(&c->out,
			   "GET " CARRIER_PATH " HTTP/1.1\r\nHost: %s\r\n"
			   "Connection: Upgrade\r\nUpgrade: tstunnel/1\r\n\r\n",
			   cfg->server.kind == ADDR_UNIX ? "localhost" : addr_text(&cfg->server));
	BUG_ON(r < 0);
	stream_bind(c->inner, &c->task);
	task_wake(c->s.rx, &c->task);
}

/* The plain try met something that looks like TLS: once more with it, if that is wanted. */
static bool try_tls(struct carrier *c)
{
	if (c->tls || !c->cfg->tls_fallback)
		return false;
	timer_clear(c->s.rx, &c->timer);
	buf_end(&c->in);
	buf_end(&c->out);
	stream_close(c->inner, -ECONNRESET);
	start(c, c->cfg->tls_fallback);
	return true;
}

static void fail_io(struct carrier *c, int code)
{
	char *why = xstrdup(stream_why(c->inner, code));
	fail(c, code, why);
	free(why);
}

static void fail_eof(struct carrier *c)
{
	if (try_tls(c))
		return;
	char *why = xasprintf("%s closed the connection instead of answering the tunnel request",
			      addr_text(&c->cfg->server));
	fail(c, -ERR_TRUNCATED, why);
	free(why);
}

/* The "message" member of an error body, as guests and Docker engines write it; free() it. */
static char *error_message(struct slice body)
{
	struct slice text;
	char *message = NULL;
	struct json_doc *doc = json_parse(body, NULL, NULL);
	if (doc && json_str(doc, json_member(json_root(doc), SLICE("message")), &text) == 0)
		message = xslicedup(text);
	json_free(doc);
	return message;
}

static void refused(struct carrier *c, const struct http_head *head, struct slice body)
{
	if (head->status == 400 &&
	    try_tls(c)) /* what Go and nginx say to plain HTTP on a TLS port */
		return;
	char *message = error_message(body);
	const char *where = addr_text(&c->cfg->server);
	char *why = message
			? xasprintf("%s refused the tunnel: %s", where, message)
			: xasprintf("%s answered %u %.*s to the tunnel request; is that a guest?",
				    where, head->status, SLICE_FMT(head->reason));
	fail(c, head->status == 403 ? -ERR_DENIED : -ERR_HTTP, why);
	free(message);
	free(why);
}

static int not_http(struct carrier *c)
{
	struct slice in = buf_data(&c->in);
	const char *where = addr_text(&c->cfg->server);
	bool alert = in.n > 0 && in.p[0] == 0x15; /* a TLS record: RFC 8446 section 5.1 */
	if (alert && try_tls(c))
		return -EAGAIN;
	char *why = xasprintf(alert ? "%s speaks TLS, and no TLS was asked for"
				    : "%s did not answer in HTTP; is that a guest?",
			      where);
	fail(c, alert ? -ERR_IS_TLS : -ERR_HTTP, why);
	free(why);
	return -EAGAIN;
}

void carrier_tune(int fd)
{
	const int value = NOTSENT_LOWAT;
	setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &value, sizeof(value));
}

static void opened(struct carrier *c)
{
	int fd = stream_fd(c->bottom);
	if (fd != -1 && c->cfg->server.kind == ADDR_TCP) {
		const int value = USER_TIMEOUT_MS;
		carrier_tune(fd);
		setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &value, sizeof(value));
	}
	timer_clear(c->s.rx, &c->timer);
	c->state = CARRIER_OPEN;
	stream_bind(c->inner, c->owner);
	if (c->owner)
		task_wake(c->s.rx, c->owner);
}

/* Servers of other protocols greet, and then wait: their first bytes must do. */
static bool starts_like_http(struct slice in)
{
	struct slice http = SLICE("HTTP/");
	http.n = MIN(http.n, in.n);
	return slice_starts(in, http);
}

/* 0: the state changed, go on; -EAGAIN: woken later, or the end was seen to. */
static int read_reply(struct carrier *c)
{
	struct http_head head;
	struct http_err err;
	ssize_t n = http_response_parse(&head, buf_data(&c->in), c->seen, REPLY_MAX, &err);
	c->seen = c->in.len;
	if (n < 0 || !starts_like_http(buf_data(&c->in)))
		return not_http(c);
	if (n > 0) {
		struct slice body = slice_after(buf_data(&c->in), (size_t)n);
		if (head.status == 101 &&
		    http_field_has_token(&head, SLICE("Upgrade"), SLICE("tstunnel/1"))) {
			buf_drop(&c->in, (size_t)n);
			opened(c);
			return -EAGAIN;
		}
		uint64_t want = head.has_length ? head.length : 0;
		if (want <= body.n || want > REPLY_MAX / 2) {
			refused(c, &head, slice_of(body.p, MIN(body.n, (size_t)want)));
			return -EAGAIN;
		}
		c->seen = 0; /* the body is not all there yet: this head is parsed again */
	}
	struct iovec room = buf_room(&c->in);
	ssize_t got = c->inner->ops->read(c->inner, &room, 1);
	if (got == -EAGAIN) {
		buf_added(&c->in, 0);
		return -EAGAIN;
	}
	if (got == 0)
		fail_eof(c);
	else if (got < 0 && !(got == -ECONNRESET && try_tls(c)))
		fail_io(c, (int)got);
	if (got <= 0)
		return -EAGAIN;
	buf_added(&c->in, (size_t)got);
	return 0;
}

static int ask(struct carrier *c)
{
	struct slice d = buf_data(&c->out);
	ssize_t n = stream_write(c->inner, d.p, d.n);
	if (n == -EAGAIN)
		return -EAGAIN;
	bool cut = n == -EPIPE || n == -ECONNRESET; /* the far side's last words may say why */
	if (n < 0 && !cut) {
		fail_io(c, (int)n);
		return -EAGAIN;
	}
	buf_drop(&c->out, cut ? 0 : (size_t)n);
	if (cut || c->out.len == 0) {
		c->state = CARRIER_REPLY;
		timer_set(c->s.rx, &c->timer, or_default(c->cfg->handshake_ms, HANDSHAKE_MS));
	}
	return 0;
}

static void carrier_run(struct task *t)
{
	struct carrier *c = container_of(t, struct carrier, task);
	int r;
	do
		switch (c->state) {
		case CARRIER_ASK:
			r = ask(c);
			break;
		case CARRIER_REPLY:
			r = read_reply(c);
			break;
		default:
			r = -EAGAIN;
		}
	while (r == 0);
}

static void carrier_late(struct timer *t)
{
	struct carrier *c = container_of(t, struct carrier, timer);
	char *why = xasprintf("%s did not answer the tunnel request: i/o timeout",
			      addr_text(&c->cfg->server));
	fail(c, -ETIMEDOUT, why);
	free(why);
}

/* What a verb says before the carrier is open: 0 to go on. */
static int refusal(const struct carrier *c)
{
	if (c->state == CARRIER_OPEN)
		return 0;
	return c->state == CARRIER_FAILED ? c->code : -EAGAIN;
}

static ssize_t carrier_read(struct stream *s, const struct iovec *iov, int n)
{
	struct carrier *c = self(s);
	int no = refusal(c);
	if (no)
		return no;
	if (c->in.len == 0)
		return c->inner->ops->read(c->inner, iov, n);
	struct slice d = buf_data(&c->in);
	size_t part = MIN(d.n, iov[0].iov_len);
	memcpy(iov[0].iov_base, d.p, part);
	buf_drop(&c->in, part);
	return (ssize_t)part;
}

static ssize_t carrier_write(struct stream *s, const struct iovec *iov, int n)
{
	struct carrier *c = self(s);
	int no = refusal(c);
	return no ? no : c->inner->ops->write(c->inner, iov, n);
}

static ssize_t carrier_write_more(struct stream *s, const struct iovec *iov, int n)
{
	struct carrier *c = self(s);
	if (c->state != CARRIER_OPEN || !c->inner->ops->write_more)
		return carrier_write(s, iov, n);
	return c->inner->ops->write_more(c->inner, iov, n);
}

static ssize_t carrier_to_pipe(struct stream *s, int pipe_w, size_t max)
{
	struct carrier *c = self(s);
	int no = refusal(c);
	if (no)
		return no;
	if (!c->inner->ops->to_pipe)
		return -EOPNOTSUPP;
	return c->in.len > 0 ? -EINVAL : c->inner->ops->to_pipe(c->inner, pipe_w, max);
}

static ssize_t carrier_from_pipe(struct stream *s, struct pipe_pair **p, size_t n)
{
	struct carrier *c = self(s);
	int no = refusal(c);
	if (no)
		return no;
	return c->inner->ops->from_pipe ? c->inner->ops->from_pipe(c->inner, p, n) : -EOPNOTSUPP;
}

static int carrier_shut(struct stream *s)
{
	struct carrier *c = self(s);
	int no = refusal(c);
	return no ? no : stream_shut(c->inner);
}

static void carrier_close(struct stream *s, int why)
{
	struct carrier *c = self(s);
	task_cancel(&c->task);
	timer_clear(s->rx, &c->timer);
	stream_close(c->inner, c->state == CARRIER_OPEN ? why : -ECONNRESET);
	buf_end(&c->in);
	buf_end(&c->out);
	free(c->why);
	free(c);
}

static void carrier_bind(struct stream *s, struct task *t)
{
	struct carrier *c = self(s);
	c->owner = t;
	if (c->state == CARRIER_OPEN)
		stream_bind(c->inner, t);
	if (t && c->state == CARRIER_FAILED)
		task_wake(s->rx, t);
}

static const char *carrier_why(struct stream *s)
{
	struct carrier *c = self(s);
	if (c->state != CARRIER_OPEN)
		return c->why;
	return c->inner->ops->why ? c->inner->ops->why(c->inner) : NULL;
}

static const struct stream_ops carrier_ops = {
	.name = "carrier",
	.read = carrier_read,
	.write = carrier_write,
	.write_more = carrier_write_more,
	.to_pipe = carrier_to_pipe,
	.from_pipe = carrier_from_pipe,
	.shut = carrier_shut,
	.close = carrier_close,
	.bind = carrier_bind,
	.why = carrier_why,
};

struct stream *carrier_dial(struct reactor *rx, const struct carrier_config *cfg)
{
	struct carrier *c = xcalloc(1, sizeof(*c));
	c->s = (struct stream){ .ops = &carrier_ops, .rx = rx };
	c->cfg = cfg;
	task_init(&c->task, carrier_run);
	timer_init(&c->timer, carrier_late);
	start(c, cfg->tls);
	return &c->s;
}
