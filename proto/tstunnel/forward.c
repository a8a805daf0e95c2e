#include "proto/tstunnel/forward.h"

#include <errno.h>

#include "json/json.h"
#include "reactor/err.h"
#include "reactor/listen.h"
#include "reactor/log.h"
#include "reactor/pump.h"
#include "reactor/utf8.h"

enum { OPEN_MAX_BYTES = 4096, FAILED_LOG_MS = 10 * 1000 };

/* One listening port. A forward may have thousands. */
struct port {
	struct forward *f;
	struct listener *listener;
};

/* One connection: what the log and forward_free need beside the pump. */
struct conn {
	struct list link; /* forward.conns */
	struct port *port;
	struct pump *pump;
	uint64_t started_ms;
};

struct forward {
	struct reactor *rx;
	struct tunnel *tunnel;
	struct addr from, server, target;
	unsigned count;
	struct list conns;
	size_t nconns;
	uint64_t failed_logged;
	struct task drained_task;
	void (*drained)(void *arg);
	void *arg;
	struct port ports[];
};

/* --- what is wanted --- */

static bool is_url(struct slice s)
{
	return s.n >= 9 && slice_eqi(slice_of(s.p, 9), SLICE("tstunnel:"));
}

static int parse_from(struct forward_spec *sp, struct slice src, char *err, size_t errlen)
{
	struct slice text = src, last;
	uint64_t to;
	bool range = !slice_starts(src, SLICE("unix:")) && tsurl_cut_range(&text, &last);
	char why[400];
	int r = addr_parse(&sp->from, text, 0, why, sizeof(why));
	if (r < 0) {
		snprintf(err, errlen, "SRC: %s", why);
		return r;
	}
	if (sp->from.kind == ADDR_UDP) {
		snprintf(err, errlen, "SRC: forwarding UDP is not there yet");
		return -EINVAL;
	}
	if (sp->from.kind == ADDR_TCP && sp->from.host[0] == '\0')
		snprintf(sp->from.host, sizeof(sp->from.host), "localhost");
	sp->count = 1;
	if (!range)
		return 0;
	if (sp->from.port == 0 || slice_u64(last, UINT16_MAX, &to) < 0 || to < sp->from.port) {
		snprintf(err, errlen,
			 "SRC: port range \"%u-%.*s\" must be FROM-TO, both in 1..65535, FROM not "
			 "above TO",
			 sp->from.port, SLICE_FMT(last));
		return -EINVAL;
	}
	sp->count = (unsigned)to - sp->from.port + 1;
	return 0;
}

static int parse_to(struct forward_spec *sp, struct slice dst, char *err, size_t errlen)
{
	char why[400];
	if (tsurl_parse(&sp->to, dst, why, sizeof(why)) < 0) {
		snprintf(err, errlen, "DST: %s", why);
		return -EINVAL;
	}
	const struct tsurl *to = &sp->to;
	unsigned ports =
	    to->target.kind == ADDR_TCP ? (unsigned)to->target_last - to->target.port + 1 : 1;
	if (!to->has_target)
		snprintf(err, errlen,
			 "DST: path \"%s\" is no target: want /tcp:HOST:PORT or /unix:/PATH",
			 to->path);
	else if (to->target.kind == ADDR_UDP)
		snprintf(err, errlen, "DST: forwarding to UDP is not there yet");
	else if (to->target.kind == ADDR_UNIX && !utf8_valid(slice_str(to->target.path)))
		snprintf(err, errlen, "DST: the target's path is not UTF-8");
	else if (ports != sp->count)
		snprintf(err, errlen, "SRC has %u port%s, DST has %u: the numbers must be equal",
			 sp->count, sp->count == 1 ? "" : "s", ports);
	else
		return 0;
	tsurl_end(&sp->to);
	return -EINVAL;
}

int forward_parse(struct forward_spec *sp, struct slice src, struct slice dst, char *err,
		  size_t errlen)
{
	*sp = (struct forward_spec){ .count = 0 };
	if (is_url(src)) {
		snprintf(
		    err, errlen,
		    "SRC is a tstunnel:// URL: forwards that listen on the remote host are "
		    "not there yet; SRC has to be tcp:HOST:PORT or unix:/PATH on this machine");
		return -EINVAL;
	}
	if (!is_url(dst)) {
		snprintf(err, errlen,
			 "DST is no tstunnel:// URL: forwards to this machine are not there yet; "
			 "DST has to be tstunnel://HOST:PORT/tcp:HOST:PORT or "
			 "tstunnel://HOST:PORT/unix:/PATH");
		return -EINVAL;
	}
	int r = parse_from(sp, src, err, errlen);
	return r < 0 ? r : parse_to(sp, dst, err, errlen);
}

void forward_spec_end(struct forward_spec *sp)
{
	tsurl_end(&sp->to);
}

/* --- which port is which --- */

static unsigned index_of(const struct port *p)
{
	return (unsigned)(p - p->f->ports);
}

static struct addr from_of(const struct port *p)
{
	struct addr a = p->f->from;
	if (a.kind == ADDR_TCP)
		a.port = listener_port(p->listener);
	return a;
}

static struct addr target_of(const struct port *p)
{
	struct addr a = p->f->target;
	if (a.kind == ADDR_TCP)
		a.port = (uint16_t)(a.port + index_of(p));
	return a;
}

uint16_t forward_port(const struct forward *f)
{
	return listener_port(f->ports[0].listener);
}

int forward_put(const struct forward *f, unsigned i, struct buf *b)
{
	const struct port *p = &f->ports[i];
	struct addr from = from_of(p);
	struct tsurl to = { .server = f->server, .has_target = true, .target = target_of(p) };
	int r = buf_printf(b, "%s -> ", addr_text(&from));
	return r < 0 ? r : tsurl_put(b, &to);
}

/* --- connections --- */

/* A client that only sees a reset cannot know why: the log says so, but not in a flood. */
static void log_finished(const struct conn *c, const struct pump_end *e, const char *why)
{
	struct forward *f = c->port->f;
	struct addr target = target_of(c->port);
	bool tell = e->code < 0 && !e->a_failed && e->code != -ERR_CANCELLED &&
		    log_ratelimit(&f->failed_logged, FAILED_LOG_MS);
	log_at(tell ? LOG_WARN : LOG_DEBUG,
	       "forward-%s target=%s sent=%llu received=%llu ms=%llu%s%s",
	       e->code < 0 ? "reset" : "closed", log_quote(slice_str(addr_text(&target))),
	       (unsigned long long)e->a_to_b, (unsigned long long)e->b_to_a,
	       (unsigned long long)(reactor_now(f->rx) - c->started_ms),
	       e->code < 0 ? " error=" : "", e->code < 0 ? log_quote(slice_str(why)) : "");
}

static void on_finished(void *arg, const struct pump_end *e, const char *why)
{
	struct conn *c = arg;
	struct forward *f = c->port->f;
	log_finished(c, e, why);
	list_del(&c->link);
	free(c);
	if (--f->nconns == 0 && f->drained)
		task_wake(f->rx, &f->drained_task);
}

/* The OPEN request for p's target. */
static void put_request(struct buf *b, const struct port *p)
{
	struct addr target = target_of(p);
	struct json_writer w;
	json_writer_begin(&w, b);
	json_put_object(&w);
	json_put_name(&w, "kind");
	json_put_str(&w, target.kind == ADDR_TCP ? SLICE("tcp") : SLICE("unix"));
	json_put_name(&w, "address");
	json_put_str(&w, slice_str(addr_text(&target)));
	json_put_end(&w);
	int r = json_writer_end(&w);
	BUG_ON(r < 0); /* an address is shorter than OPEN_MAX_BYTES, escapes included */
}

static void on_accept(void *arg, int fd, const struct sockaddr *peer)
{
	struct port *p = arg;
	struct forward *f = p->f;
	struct conn *c = xcalloc(1, sizeof(*c));
	struct buf request;
	(void)peer;
	c->port = p;
	c->started_ms = reactor_now(f->rx);
	list_init(&c->link);
	list_add_tail(&f->conns, &c->link);
	f->nconns++;
	buf_init(&request, OPEN_MAX_BYTES);
	put_request(&request, p);
	c->pump = pump_start(f->rx, fd_stream_new(f->rx, fd),
			     tunnel_open(f->tunnel, buf_data(&request), TUNNEL_INTERACTIVE),
			     on_finished, c);
	buf_end(&request);
}

/* --- life --- */

static void drained_run(struct task *t)
{
	struct forward *f = container_of(t, struct forward, drained_task);
	f->drained(f->arg);
}

static int listen_all(struct forward *f, char *err, size_t errlen)
{
	for (unsigned i = 0; i < f->count; i++) {
		struct port *p = &f->ports[i];
		struct addr a = f->from;
		int e;
		a.port = (uint16_t)(a.port + i);
		p->f = f;
		p->listener = listener_new(f->rx, &a, on_accept, p, &e);
		if (!p->listener) {
			bool name = e == -EADDRNOTAVAIL && a.kind == ADDR_TCP;
			snprintf(err, errlen, "cannot listen on %s: %s%s", addr_text(&a),
				 err_text(e), name ? "; give an IP address of this machine" : "");
			return e;
		}
	}
	return 0;
}

static void close_listeners(struct forward *f)
{
	for (unsigned i = 0; i < f->count; i++) {
		listener_close(f->ports[i].listener);
		f->ports[i].listener = NULL;
	}
}

int forward_new(struct forward **out, struct reactor *rx, struct tunnel *tunnel,
		const struct forward_spec *sp, char *err, size_t errlen)
{
	struct forward *f = xcalloc(1, sizeof(*f) + sp->count * sizeof(struct port));
	f->rx = rx;
	f->tunnel = tunnel;
	f->from = sp->from;
	f->server = sp->to.server;
	f->target = sp->to.target;
	f->count = sp->count;
	list_init(&f->conns);
	task_init(&f->drained_task, drained_run);
	int r = listen_all(f, err, errlen);
	if (r < 0) {
		forward_free(f);
		f = NULL;
	}
	*out = f;
	return r;
}

void forward_free(struct forward *f)
{
	if (!f)
		return;
	close_listeners(f);
	f->drained = NULL;
	while (!list_empty(&f->conns)) /* each takes itself out */
		pump_abort(container_of(f->conns.next, struct conn, link)->pump, -ERR_CANCELLED);
	task_cancel(&f->drained_task);
	free(f);
}

void forward_drain(struct forward *f, void (*drained)(void *arg), void *arg)
{
	close_listeners(f);
	f->drained = drained;
	f->arg = arg;
	if (f->nconns == 0)
		task_wake(f->rx, &f->drained_task);
}

size_t forward_connections(const struct forward *f)
{
	return f->nconns;
}
