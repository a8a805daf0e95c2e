#include "cmd/test-tunnel/opening.h"

#include <errno.h>

#include "cmd/test-tunnel/ahead.h"
#include "http/client.h"
#include "http/fetch.h"
#include "http/url.h"
#include "json/json.h"
#include "reactor/err.h"

enum { BODY_MAX = 64 * 1024, WHY_MAX = 512 };

struct opening {
	struct reactor *rx;
	const struct target *target;
	const struct opening_events *events;
	void *arg;
	bool want_pin;
	struct task task;
	struct timer timer;
	struct stream *s;           /* dialling; then the tunnel */
	struct http_client *client; /* CONNECT is under way */
	struct http_fetch *fetch;   /* the fingerprint */
	int status;                 /* of a refusal */
	char *reason;
	struct buf body;
};

/* --- the target --- */

int target_parse(struct target *t, const char *url, const char *session, char *err, size_t errlen)
{
	struct http_url u;
	struct http_err e;
	bool bad = http_url_parse(&u, slice_str(url), &e) < 0;
	*t = (struct target){ .session = session };
	if (!bad)
		t->https = slice_eqi(u.scheme, SLICE("https"));
	if (bad || (!t->https && !slice_eqi(u.scheme, SLICE("http"))) || u.userinfo.p ||
	    u.query.p || u.host.n == 0 || u.host.n >= sizeof(t->addr.host)) {
		snprintf(err, errlen, "-api must be like http://localhost:8080, not %.200s", url);
		return -EINVAL;
	}
	for (const char *p = session; *p; p++)
		if (!strchr("-_.", *p) && !(*p >= '0' && *p <= '9') &&
		    !((*p | 0x20) >= 'a' && (*p | 0x20) <= 'z')) {
			snprintf(err, errlen, "-session: %.100s is no session ID", session);
			return -EINVAL;
		}
	t->addr.kind = ADDR_TCP;
	memcpy(t->addr.host, u.host.p, u.host.n);
	t->addr.port = u.port ? u.port : t->https ? 443 : 80;
	t->authority = xstrdup(addr_text(&t->addr));
	while (u.path.n && u.path.p[u.path.n - 1] == '/')
		u.path.n--;
	t->base = xslicedup(u.path);
	return 0;
}

void target_end(struct target *t)
{
	free(t->authority);
	free(t->base);
}

char *target_path(const struct target *t, const char *after)
{
	return xasprintf("%s/v1/sessions/%s%s", t->base, t->session, after);
}

static struct stream *target_dial(struct reactor *rx, const struct target *t)
{
	struct stream *s = dial(rx, &t->addr, t->ms);
	return t->https ? tls_client(t->tls, s, t->addr.host) : s;
}

/* A whole request without a body, in *b. */
static void put_request(struct buf *b, const struct target *t, struct slice method,
			const char *after)
{
	char *path = target_path(t, after), *bearer = xasprintf("Bearer %s", t->token);
	buf_init(b, HTTP_HEAD_MAX);
	int r = http_put_request(b, method, slice_str(path)) |
		http_put_field(b, SLICE("Host"), slice_str(t->authority));
	if (t->token[0])
		r |= http_put_field(b, SLICE("Authorization"), slice_str(bearer));
	r |= http_put_end(b);
	BUG_ON(r < 0); /* the parts were looked at */
	free(path);
	free(bearer);
}

/* --- the end --- */

void opening_free(struct opening *o)
{
	if (!o)
		return;
	task_cancel(&o->task);
	timer_clear(o->rx, &o->timer);
	http_fetch_free(o->fetch);
	http_client_free(o->client, -ERR_CANCELLED);
	stream_close(o->s, -ERR_CANCELLED);
	buf_end(&o->body);
	free(o->reason);
	free(o);
}

static void end(struct opening *o, const char *pin, const char *why)
{
	const struct opening_events *events = o->events;
	void *arg = o->arg;
	struct stream *s = why ? NULL : o->s;
	if (s)
		o->s = NULL;
	opening_free(o);
	events->ended(arg, s, pin, why);
}

static void fail(struct opening *o, const char *what, const char *reason)
{
	char *why = xasprintf("%s: %s", what, reason);
	end(o, "", why);
	free(why);
}

static void late(struct timer *timer)
{
	fail(container_of(timer, struct opening, timer),
	     container_of(timer, struct opening, timer)->client ? "CONNECT failed"
								: "failed to connect to server",
	     "no answer in time (-timeout gives more)");
}

/* --- the fingerprint --- */

static void on_session(void *arg, int status, const char *why, struct slice body)
{
	struct opening *o = arg;
	char pin[128] = "";
	struct slice text = SLICE("");
	o->fetch = NULL;
	if (status < 0) {
		fail(o, "failed to ask for the session", why);
		return;
	}
	struct json_doc *doc = status == 200 ? json_parse(body, NULL, NULL) : NULL;
	if (doc)
		json_str(doc, json_member(json_root(doc), SLICE("ssh_host_key_fingerprint")),
			 &text);
	snprintf(pin, sizeof(pin), "%.*s", SLICE_FMT(text));
	json_free(doc);
	end(o, pin, NULL);
}

static void ask_session(struct opening *o)
{
	struct buf b;
	put_request(&b, o->target, SLICE("GET"), "");
	o->fetch = http_fetch_new(target_dial(o->rx, o->target), &b, SLICE("GET"), BODY_MAX,
				  o->target->ms, on_session, o);
}

/* --- CONNECT --- */

/* What the API says in its JSON, else what HTTP says. */
static void refused(struct opening *o)
{
	char text[WHY_MAX];
	struct slice message = SLICE("");
	struct json_doc *doc = json_parse(buf_data(&o->body), NULL, NULL);
	if (doc)
		json_str(doc, json_member(json_root(doc), SLICE("message")), &message);
	snprintf(text, sizeof(text), "CONNECT failed with status %d", o->status);
	char *copy = message.n ? xslicedup(message) : xstrdup(o->reason);
	for (char *p = copy; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
	json_free(doc);
	fail(o, text, copy);
	free(copy);
}

/* The body of a refusal, as far as it comes. */
static int read_refusal(struct opening *o)
{
	for (;;) {
		struct iovec room = buf_room(&o->body);
		if (room.iov_len == 0)
			return 0;
		ssize_t n = http_client_read(o->client, room.iov_base, room.iov_len);
		buf_added(&o->body, n > 0 ? (size_t)n : 0);
		if (n == -EAGAIN)
			return -EAGAIN;
		if (n <= 0)
			return 0;
	}
}

static void take_tunnel(struct opening *o)
{
	struct buf ahead;
	struct stream *s = http_client_take(o->client, &ahead);
	o->client = NULL;
	o->s = ahead_stream_new(s, &ahead);
	timer_clear(o->rx, &o->timer);
	if (o->want_pin)
		ask_session(o);
	else
		end(o, "", NULL);
}

static void step(struct task *task)
{
	struct opening *o = container_of(task, struct opening, task);
	if (!o->client) {
		int r = stream_open_yet(o->s);
		if (r == -EAGAIN)
			return;
		if (r < 0) {
			fail(o, "failed to connect to server",
			     r == -ECONNREFUSED ? err_text(r) : stream_why(o->s, r));
			return;
		}
		if (o->events->connected)
			o->events->connected(o->arg);
		struct buf b;
		put_request(&b, o->target, SLICE("CONNECT"), "/tunnel");
		o->client = http_client_new(o->s, &b, SLICE("CONNECT"));
		o->s = NULL;
		http_client_bind(o->client, &o->task);
		return;
	}
	if (!o->status) {
		struct http_head h;
		int r = http_client_head(o->client, &h);
		if (r == -EAGAIN)
			return;
		if (r < 0) {
			fail(o, "CONNECT failed", http_client_why(o->client, r));
			return;
		}
		if (o->events->answered)
			o->events->answered(o->arg, h.status, h.reason);
		if (h.status >= 200 && h.status < 300) {
			take_tunnel(o);
			return;
		}
		o->status = h.status;
		o->reason = h.reason.n ? xslicedup(h.reason) : xstrdup(http_status_text(h.status));
	}
	if (read_refusal(o) == 0)
		refused(o);
}

struct opening *opening_new(struct reactor *rx, const struct target *t, bool want_pin,
			    const struct opening_events *events, void *arg)
{
	struct opening *o = xcalloc(1, sizeof(*o));
	o->rx = rx;
	o->target = t;
	o->events = events;
	o->arg = arg;
	o->want_pin = want_pin;
	buf_init(&o->body, BODY_MAX);
	task_init(&o->task, step);
	timer_init(&o->timer, late);
	timer_set(rx, &o->timer, t->ms);
	o->s = target_dial(rx, t);
	stream_bind(o->s, &o->task);
	task_wake(rx, &o->task);
	return o;
}
