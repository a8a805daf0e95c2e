#include "proto/tstunnel/reverse.h"

#include <errno.h>

#include "json/json.h"
#include "proto/tstunnel/bridge.h"
#include "proto/tstunnel/udp_dial.h"
#include "reactor/buf.h"
#include "reactor/err.h"
#include "reactor/log.h"

enum {
	OPEN_MAX_BYTES = 4096,
	RETRY_FIRST_MS = 100,
	POLL_MS = 200,
	RETRY_MAX_MS = 5000,
	TOKEN_BYTES = 16
};

/* One connection, in one of its three stages. */
struct conn {
	struct list link;
	struct reverse *r;
	struct bridge *bridge; /* the target is being dialled */
	struct pump *pump;
	struct udp_dial *udp;
	uint64_t started_ms;
};

struct reverse {
	struct reactor *rx;
	struct tunnel *tunnel;
	struct reverse_options opt;
	struct tunnel_taker taker;
	struct task task; /* the stream's */
	struct timer retry;
	struct stream *s; /* as long as it lives the guest listens; NULL: lost */
	struct list conns;
	size_t nconns;
	uint64_t retry_ms;
	uint16_t port; /* that was got */
	bool serving;
	int code; /* why not */
	char why[512];
	char token[2 * TOKEN_BYTES + 1];
};

/* --- asking the guest to listen --- */

static const char *kind_prefix(const struct addr *a)
{
	if (a->kind == ADDR_UNIX)
		return ""; /* addr_text says it */
	return a->kind == ADDR_UDP ? "udp:" : "tcp:";
}

static void ask(struct reverse *r)
{
	struct addr a = reverse_bound(r);
	struct buf b, text;
	struct json_writer w;
	buf_init(&b, OPEN_MAX_BYTES);
	buf_init(&text, OPEN_MAX_BYTES);
	buf_printf(&text, "%s%s", kind_prefix(&a), addr_text(&a));
	json_writer_begin(&w, &b);
	json_put_object(&w);
	json_put_name(&w, "kind");
	json_put_str(&w, SLICE("listen"));
	json_put_name(&w, "address");
	json_put_str(&w, buf_data(&text));
	json_put_name(&w, "token");
	json_put_str(&w, slice_str(r->token));
	if (r->opt.udp_idle_ms) {
		json_put_name(&w, "idle_ms");
		json_put_u64(&w, r->opt.udp_idle_ms);
	}
	json_put_end(&w);
	int e = json_writer_end(&w);
	BUG_ON(e < 0); /* an address is shorter than OPEN_MAX_BYTES, escapes included */
	r->s = tunnel_open(r->tunnel, buf_data(&b), TUNNEL_INTERACTIVE);
	stream_bind(r->s, &r->task);
	buf_end(&b);
	buf_end(&text);
}

/* It is asked again soon; a guest that said no is left in peace for longer and longer. */
static void lost(struct reverse *r, int code)
{
	snprintf(r->why, sizeof(r->why), "%s", stream_why(r->s, code));
	if (r->serving || r->code != code)
		log_warn("listener %s address=%s reason=%s", r->serving ? "lost" : "refused",
			 log_quote(slice_str(addr_text(&r->opt.listen))),
			 log_quote(slice_str(r->why)));
	r->code = code;
	r->retry_ms = r->serving ? RETRY_FIRST_MS : MIN(r->retry_ms * 2, (uint64_t)RETRY_MAX_MS);
	r->serving = false;
	stream_close(r->s, 0);
	r->s = NULL;
	timer_set(r->rx, &r->retry, r->retry_ms);
}

/* While the tunnel is down it has its own pace, which is not to be forced. */
static void retry_fire(struct timer *t)
{
	struct reverse *r = container_of(t, struct reverse, retry);
	if (tunnel_is_up(r->tunnel)) {
		ask(r);
		return;
	}
	r->retry_ms = RETRY_FIRST_MS;
	timer_set(r->rx, &r->retry, POLL_MS);
}

static void take_bound(struct reverse *r)
{
	struct slice text = { NULL, 0 };
	struct addr a;
	char err[256];
	struct json_doc *doc = json_parse(mux_opened_json(r->s), NULL, NULL);
	if (doc && json_str(doc, json_find(json_root(doc), "address"), &text) == 0 &&
	    addr_parse(&a, text, 0, err, sizeof(err)) == 0 && a.kind == r->opt.listen.kind)
		r->port = a.port;
	json_free(doc);
}

static void reverse_run(struct task *t)
{
	struct reverse *r = container_of(t, struct reverse, task);
	char *message;
	int e = stream_open_yet(r->s);
	if (e == -EAGAIN)
		return;
	if (e == 0 && !r->serving) {
		take_bound(r);
		r->serving = true;
		r->code = 0;
	}
	while ((message = mux_next_control(r->s))) /* none is known */
		free(message);
	char byte;
	ssize_t n = e < 0 ? e : stream_read(r->s, &byte, 1);
	if (n != -EAGAIN)
		lost(r, n < 0 ? (int)n : -ECONNRESET);
}

/* --- connections --- */

static void conn_end(struct conn *c, const struct pump_end *e, const char *why)
{
	struct reverse *r = c->r;
	uint64_t ms = reactor_now(r->rx) - c->started_ms;
	list_del(&c->link);
	r->nconns--;
	free(c);
	r->opt.ended(r->opt.arg, e, why, ms);
}

static void on_finished(void *arg, const struct pump_end *e, const char *why)
{
	conn_end(arg, e, why);
}

static void on_bridged(void *arg, struct stream *s, struct stream *target, int code,
		       const char *why)
{
	struct conn *c = arg;
	c->bridge = NULL;
	if (code < 0)
		conn_end(c, &(struct pump_end){ .code = code }, why);
	else
		c->pump = pump_start(c->r->rx, s, target, on_finished, c);
}

static void conn_start(struct reverse *r, struct stream *s)
{
	struct conn *c = xcalloc(1, sizeof(*c));
	c->r = r;
	c->started_ms = reactor_now(r->rx);
	list_init(&c->link);
	list_add_tail(&r->conns, &c->link);
	r->nconns++;
	if (r->opt.target.kind == ADDR_UDP)
		c->udp = udp_dial_start(r->rx, s, &r->opt.target, on_finished, c);
	else
		c->bridge = bridge_start(r->rx, s, dial(r->rx, &r->opt.target, 0), on_bridged, c);
}

static void conn_abort(struct conn *c)
{
	if (c->udp) {
		udp_dial_abort(c->udp, -ERR_CANCELLED);
	} else if (c->pump) {
		pump_abort(c->pump, -ERR_CANCELLED);
	} else {
		bridge_abort(c->bridge, -ERR_CANCELLED);
		conn_end(c, &(struct pump_end){ .code = -ERR_CANCELLED }, "");
	}
}

/* {"kind":"accepted","listen":ID,"peer":"..."}: is it about our stream? */
static bool on_stream(struct tunnel_taker *t, struct stream *s, struct slice json)
{
	struct reverse *r = container_of(t, struct reverse, taker);
	struct json_doc *doc = json_parse(json, NULL, NULL);
	struct slice kind = { NULL, 0 };
	uint64_t id = 0;
	bool ours = r->s && doc && json_str(doc, json_find(json_root(doc), "kind"), &kind) == 0 &&
		    slice_eq(kind, SLICE("accepted")) &&
		    json_u64(json_find(json_root(doc), "listen"), &id) == 0 && id <= UINT32_MAX &&
		    mux_sibling(s, (uint32_t)id) == r->s;
	json_free(doc);
	if (ours)
		conn_start(r, s);
	return ours;
}

/* --- life --- */

struct reverse *reverse_new(struct reactor *rx, struct tunnel *tunnel,
			    const struct reverse_options *opt)
{
	struct reverse *r = xcalloc(1, sizeof(*r));
	unsigned char token[TOKEN_BYTES];
	r->rx = rx;
	r->tunnel = tunnel;
	r->opt = *opt;
	r->retry_ms = RETRY_FIRST_MS;
	r->taker.take = on_stream;
	list_init(&r->conns);
	task_init(&r->task, reverse_run);
	timer_init(&r->retry, retry_fire);
	arc4random_buf(token, sizeof(token));
	for (size_t i = 0; i < sizeof(token); i++)
		snprintf(r->token + 2 * i, 3, "%02x", token[i]);
	tunnel_take(tunnel, &r->taker);
	ask(r);
	return r;
}

static void stop_listening(struct reverse *r)
{
	tunnel_take_end(&r->taker);
	timer_clear(r->rx, &r->retry);
	stream_close(r->s, 0);
	r->s = NULL;
	r->serving = false;
	task_cancel(&r->task);
}

void reverse_drain(struct reverse *r)
{
	stop_listening(r);
	for (struct list *l = r->conns.next, *next; l != &r->conns; l = next) {
		struct conn *c = container_of(l, struct conn, link);
		next = l->next;
		if (c->udp)
			conn_abort(c);
	}
}

void reverse_free(struct reverse *r)
{
	if (!r)
		return;
	stop_listening(r);
	struct list *i;
	while ((i = list_pop(&r->conns)))
		conn_abort(container_of(i, struct conn, link));
	free(r);
}

/* --- asked from outside --- */

int reverse_ready(const struct reverse *r, char *err, size_t errlen)
{
	if (r->serving)
		return 0;
	if (r->code == 0)
		return -EAGAIN;
	snprintf(err, errlen, "%s", r->why);
	return r->code;
}

struct addr reverse_bound(const struct reverse *r)
{
	struct addr a = r->opt.listen;
	if (a.kind != ADDR_UNIX && a.port == 0)
		a.port = r->port;
	return a;
}

size_t reverse_connections(const struct reverse *r)
{
	return r->nconns;
}

void reverse_moved(const struct reverse *r, uint64_t *sent, uint64_t *received)
{
	for (const struct list *l = r->conns.next; l != &r->conns; l = l->next) {
		const struct conn *c = container_of(l, const struct conn, link);
		uint64_t in = 0, out = 0; /* from the tunnel, to it */
		if (c->pump)
			pump_moved(c->pump, &in, &out);
		else if (c->udp)
			udp_dial_moved(c->udp, &in, &out);
		*sent += out;
		*received += in;
	}
}
