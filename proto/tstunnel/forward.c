#include "proto/tstunnel/forward.h"

#include <errno.h>

#include "json/json.h"
#include "proto/tstunnel/reverse.h"
#include "proto/tstunnel/udp_listen.h"
#include "reactor/err.h"
#include "reactor/listen.h"
#include "reactor/log.h"
#include "reactor/pump.h"

enum { OPEN_MAX_BYTES = 4096, FAILED_LOG_MS = 10 * 1000 };

/* One listening port. A forward may have thousands. */
struct port {
	struct forward *f;
	union {
		struct listener *listener;
		struct udp_listener *udp;
		struct reverse *reverse;
	};
};

/* One connection: what the log and forward_free need beside the pump. */
struct conn {
	struct list link; /* forward.conns */
	struct port *port;
	struct pump *pump;
	uint64_t started_ms;
};

enum mode { STREAMS = 0, DATAGRAMS, REVERSE };

struct forward {
	struct reactor *rx;
	struct tunnel *tunnel;
	enum mode mode; /* which of a port's pointers is used */
	struct addr from, server, target;
	unsigned count;
	uint64_t udp_idle_ms;
	struct list conns;
	size_t nconns;
	uint64_t sent, received; /* by connections that are over */
	uint64_t failed_logged;
	struct task drained_task;
	void (*drained)(void *arg);
	void *arg;
	struct port ports[];
};

/* --- which port is which --- */

static unsigned index_of(const struct port *p)
{
	return (unsigned)(p - p->f->ports);
}

static struct addr from_of(const struct port *p)
{
	struct addr a = p->f->from;
	if (a.kind == ADDR_UNIX)
		return a;
	if (p->f->mode == REVERSE)
		a.port = (uint16_t)(a.port + index_of(p));
	else
		a.port =
		    a.kind == ADDR_UDP ? udp_listener_port(p->udp) : listener_port(p->listener);
	return a;
}

static struct addr target_of(const struct port *p)
{
	struct addr a = p->f->target;
	if (p->f->mode == REVERSE && p->reverse)
		return reverse_bound(p->reverse);
	if (a.kind != ADDR_UNIX)
		a.port = (uint16_t)(a.port + index_of(p));
	return a;
}

int forward_put(const struct forward *f, unsigned i, struct buf *b)
{
	const struct port *p = &f->ports[i];
	const struct forward_spec sp = { .from = from_of(p),
					 .to = { .server = f->server, .target = target_of(p) },
					 .reverse = f->mode == REVERSE };
	return forward_spec_put(&sp, 0, b);
}

uint16_t forward_port(const struct forward *f)
{
	const struct port *p = &f->ports[0];
	struct addr a = f->mode == REVERSE ? target_of(p) : from_of(p);
	return a.port;
}

/* --- connections --- */

/* A client that only sees a reset cannot know why: the log says so, but not in a flood. a is where
 * it came from. */
static void log_finished(const struct port *p, const struct pump_end *e, const char *why,
			 uint64_t ms)
{
	struct forward *f = p->f;
	bool reverse = f->mode == REVERSE;
	struct addr target = reverse ? from_of(p) : target_of(p);
	bool tell = e->code < 0 && !e->a_failed && e->code != -ERR_CANCELLED &&
		    log_ratelimit(&f->failed_logged, FAILED_LOG_MS);
	log_at(tell ? LOG_WARN : LOG_DEBUG,
	       "forward-%s target=%s sent=%llu received=%llu ms=%llu%s%s",
	       e->code < 0 ? "reset" : "closed", log_quote(slice_str(addr_text(&target))),
	       (unsigned long long)(reverse ? e->b_to_a : e->a_to_b),
	       (unsigned long long)(reverse ? e->a_to_b : e->b_to_a), (unsigned long long)ms,
	       e->code < 0 ? " error=" : "", e->code < 0 ? log_quote(slice_str(why)) : "");
}

/* A connection or a flow is over. */
static void count_out(const struct port *p, const struct pump_end *e, const char *why, uint64_t ms)
{
	struct forward *f = p->f;
	log_finished(p, e, why, ms);
	f->sent += f->mode == REVERSE ? e->b_to_a : e->a_to_b;
	f->received += f->mode == REVERSE ? e->a_to_b : e->b_to_a;
	if (f->drained && forward_connections(f) == 0)
		task_wake(f->rx, &f->drained_task);
}

static void on_finished(void *arg, const struct pump_end *e, const char *why)
{
	struct conn *c = arg;
	struct port *p = c->port;
	uint64_t ms = reactor_now(p->f->rx) - c->started_ms;
	list_del(&c->link);
	free(c);
	p->f->nconns--;
	count_out(p, e, why, ms);
}

/* The OPEN request for p's target. */
static void put_request(struct buf *b, const struct port *p)
{
	static const char *const kinds[] = {
		[ADDR_TCP] = "tcp", [ADDR_UDP] = "udp", [ADDR_UNIX] = "unix"
	};
	struct addr target = target_of(p);
	struct json_writer w;
	json_writer_begin(&w, b);
	json_put_object(&w);
	json_put_name(&w, "kind");
	json_put_str(&w, slice_str(kinds[target.kind]));
	json_put_name(&w, "address");
	json_put_str(&w, slice_str(addr_text(&target)));
	json_put_end(&w);
	int r = json_writer_end(&w);
	BUG_ON(r < 0); /* an address is shorter than OPEN_MAX_BYTES, escapes included */
}

static struct stream *open_target(const struct port *p)
{
	struct buf request;
	buf_init(&request, OPEN_MAX_BYTES);
	put_request(&request, p);
	struct stream *s = tunnel_open(p->f->tunnel, buf_data(&request), TUNNEL_INTERACTIVE);
	buf_end(&request);
	return s;
}

static void on_accept(void *arg, int fd, const struct sockaddr *peer)
{
	struct port *p = arg;
	struct forward *f = p->f;
	struct conn *c = xcalloc(1, sizeof(*c));
	(void)peer;
	c->port = p;
	c->started_ms = reactor_now(f->rx);
	list_init(&c->link);
	list_add_tail(&f->conns, &c->link);
	f->nconns++;
	c->pump = pump_start(f->rx, fd_stream_new(f->rx, fd), open_target(p), on_finished, c);
}

static struct stream *on_flow(void *arg, const char *peer)
{
	(void)peer;
	return open_target(arg);
}

static void on_ended(void *arg, const struct pump_end *e, const char *why, uint64_t ms)
{
	count_out(arg, e, why, ms);
}

/* --- life --- */

static void drained_run(struct task *t)
{
	struct forward *f = container_of(t, struct forward, drained_task);
	f->drained(f->arg);
}

static struct addr shifted(struct addr a, unsigned i)
{
	a.port = (uint16_t)(a.port + i);
	return a;
}

/* 0 or -errno. */
static int listen_one(struct port *p)
{
	struct forward *f = p->f;
	struct addr from = shifted(f->from, index_of(p));
	const struct udp_listen_options udp = {
		.open = on_flow, .ended = on_ended, .arg = p, .idle_ms = f->udp_idle_ms
	};
	const struct reverse_options reverse = { .listen = shifted(f->target, index_of(p)),
						 .target = from,
						 .udp_idle_ms = f->udp_idle_ms,
						 .ended = on_ended,
						 .arg = p };
	int e = 0;
	if (f->mode == STREAMS)
		p->listener = listener_new(f->rx, &from, on_accept, p, &e);
	else if (f->mode == DATAGRAMS)
		p->udp = udp_listener_new(f->rx, &from, &udp, &e);
	else
		p->reverse = reverse_new(f->rx, f->tunnel, &reverse);
	return e;
}

static int listen_all(struct forward *f, char *err, size_t errlen)
{
	for (unsigned i = 0; i < f->count; i++) {
		struct port *p = &f->ports[i];
		p->f = f;
		int e = listen_one(p);
		if (e < 0) {
			struct addr a = shifted(f->from, i);
			bool name = e == -EADDRNOTAVAIL && a.kind != ADDR_UNIX;
			snprintf(err, errlen, "cannot listen on %s: %s%s", addr_text(&a),
				 err_text(e), name ? "; give an IP address of this machine" : "");
			return e;
		}
	}
	return 0;
}

/* why: for flows of datagrams, see udp_listener_close. */
static void close_listener(struct port *p, int why)
{
	if (p->f->mode == STREAMS)
		listener_close(p->listener);
	else
		udp_listener_close(p->udp, why);
	p->listener = NULL;
}

int forward_new(struct forward **out, struct reactor *rx, struct tunnel *tunnel,
		const struct forward_spec *sp, char *err, size_t errlen)
{
	struct forward *f = xcalloc(1, sizeof(*f) + sp->count * sizeof(struct port));
	f->rx = rx;
	f->tunnel = tunnel;
	f->mode = sp->reverse ? REVERSE : sp->from.kind == ADDR_UDP ? DATAGRAMS : STREAMS;
	f->from = sp->from;
	f->server = sp->to.server;
	f->target = sp->to.target;
	f->count = sp->count;
	f->udp_idle_ms = sp->udp_idle_ms;
	list_init(&f->conns);
	task_init(&f->drained_task, drained_run);
	for (unsigned i = 0; i < f->count; i++)
		f->ports[i].f = f;
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
	f->drained = NULL;
	for (unsigned i = 0; i < f->count; i++) {
		if (f->mode == REVERSE)
			reverse_free(f->ports[i].reverse);
		else
			close_listener(&f->ports[i], -ERR_CANCELLED);
	}
	while (!list_empty(&f->conns)) /* each takes itself out */
		pump_abort(container_of(f->conns.next, struct conn, link)->pump, -ERR_CANCELLED);
	task_cancel(&f->drained_task);
	free(f);
}

void forward_drain(struct forward *f, void (*drained)(void *arg), void *arg)
{
	for (unsigned i = 0; i < f->count; i++) {
		if (f->mode == REVERSE)
			reverse_drain(f->ports[i].reverse);
		else
			close_listener(&f->ports[i], 0);
	}
	f->drained = drained;
	f->arg = arg;
	if (forward_connections(f) == 0)
		task_wake(f->rx, &f->drained_task);
}

/* --- asked from outside --- */

int forward_ready(const struct forward *f, char *err, size_t errlen)
{
	int r = 0;
	for (unsigned i = 0; i < f->count && f->mode == REVERSE; i++) {
		int e = reverse_ready(f->ports[i].reverse, err, errlen);
		if (e < 0 && e != -EAGAIN)
			return e;
		r = MIN(r, e);
	}
	return r;
}

size_t forward_connections(const struct forward *f)
{
	size_t n = f->nconns;
	for (unsigned i = 0; i < f->count && f->mode != STREAMS; i++) {
		const struct port *p = &f->ports[i];
		if (f->mode == REVERSE && p->reverse)
			n += reverse_connections(p->reverse);
		else if (f->mode == DATAGRAMS && p->udp)
			n += udp_listener_flows(p->udp);
	}
	return n;
}

void forward_moved(const struct forward *f, uint64_t *sent, uint64_t *received)
{
	*sent = f->sent;
	*received = f->received;
	for (const struct list *l = f->conns.next; l != &f->conns; l = l->next) {
		uint64_t out, in;
		pump_moved(container_of(l, const struct conn, link)->pump, &out, &in);
		*sent += out;
		*received += in;
	}
	for (unsigned i = 0; i < f->count && f->mode != STREAMS; i++) {
		const struct port *p = &f->ports[i];
		if (f->mode == REVERSE && p->reverse)
			reverse_moved(p->reverse, sent, received);
		else if (f->mode == DATAGRAMS && p->udp)
			udp_listener_moved(p->udp, sent, received);
	}
}
