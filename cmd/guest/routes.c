/* The guest's HTTP surface: the tunnel, the plain endpoints, and the engine behind everything else.
 */
#include <errno.h>

#include "cmd/guest/guest.h"
#include "http/proxy.h"
#include "http/url.h"
#include "proto/docker/docker.h"
#include "proto/tstunnel/carrier.h"
#include "reactor/err.h"
#include "reactor/log.h"

#define FIELD(name, value)                                                                         \
	{                                                                                          \
		{ "" name, sizeof(name) - 1 },                                                     \
		{                                                                                  \
			"" value, sizeof(value) - 1                                                \
		}                                                                                  \
	}

static const struct http_field json_type = FIELD("Content-Type", "application/json");

static void tunnel(struct guest *g, struct http_conn *c, const struct http_head *head)
{
	static const struct http_field upgrade[] = { FIELD("Connection", "Upgrade"),
						     FIELD("Upgrade", "tstunnel/1") };
	if (!http_wants_upgrade(head) ||
	    !http_field_has_token(head, SLICE("Upgrade"), SLICE("tstunnel/1"))) {
		http_reply(c, 426, upgrade, ARRAY_LEN(upgrade),
			   SLICE("{\"message\":\"this is the tunnel: ask for Upgrade: "
				 "tstunnel/1\"}\n"));
		return;
	}
	if (g->tunnels >= g->http.conns_max) { /* it counts no more once it was taken over */
		http_reply_error(c, 503, "too many tunnels");
		return;
	}
	http_take(c, 101, upgrade, ARRAY_LEN(upgrade), session_start, g);
}

static void health(struct guest *g, struct http_conn *c, const struct http_head *head)
{
	(void)g;
	(void)head;
	http_reply(c, 200, &json_type, 1,
		   SLICE("{\"status\":\"ok\",\"version\":\"" TSTUNNEL_VERSION "\"}\n"));
}

static void metric(struct buf *b, const char *name, const char *type, uint64_t value)
{
	buf_printf(b, "# TYPE %s %s\n%s %llu\n", name, type, name, (unsigned long long)value);
}

static void metrics(struct guest *g, struct http_conn *c, const struct http_head *head)
{
	(void)head;
	static const struct http_field text =
	    FIELD("Content-Type", "text/plain; version=0.0.4; charset=utf-8");
	const struct reactor_stats *rs = reactor_stats(g->rx);
	struct mux_stats up = { 0 };
	sessions_stats(g, &up);
	struct buf b;
	buf_init(&b, 16 * 1024);
	metric(&b, "tstunnel_connections", "gauge", g->http.nconns);
	metric(&b, "tstunnel_tunnels", "gauge", g->tunnels);
	metric(&b, "tstunnel_tunnels_total", "counter", g->tunnels_total);
	metric(&b, "tstunnel_streams", "gauge", up.streams);
	metric(&b, "tstunnel_received_bytes_total", "counter", g->bytes_in + up.bytes_in);
	metric(&b, "tstunnel_sent_bytes_total", "counter", g->bytes_out + up.bytes_out);
	metric(&b, "tstunnel_exec_children", "gauge", g->policy.exec.children);
	metric(&b, "tstunnel_handles", "gauge", rs->handles);
	metric(&b, "tstunnel_turns_total", "counter", rs->turns);
	metric(&b, "tstunnel_slow_turns_total", "counter", rs->slow_turns);
	metric(&b, "tstunnel_longest_turn_microseconds", "gauge", rs->longest_turn_us);
	http_reply(c, 200, &text, 1, buf_data(&b));
	buf_end(&b);
}

static const struct route {
	const char *method, *path;
	void (*run)(struct guest *, struct http_conn *, const struct http_head *);
} routes[] = {
	{ "GET", CARRIER_PATH, tunnel },
	{ "POST", "/tinyscale/v1/host-exec/command", command_start },
	{ "POST", "/tinyscale/v1/host-exec/copy", files_copy },
	{ "POST", "/tinyscale/v1/host-exec/directories", files_directories },
	{ "GET", "/health", health },
	{ "GET", "/metrics", metrics },
};

/* 0, or the status to refuse the request with. */
static int forbidden(struct guest *g, struct http_conn *c, const struct http_head *head, char *why,
		     size_t whylen)
{
	struct stream *s = http_conn_stream(c);
	if (stream_is_tls(s) && policy_peer(&g->policy, tls_peer(s), why, whylen) < 0)
		return 403;
	/* A browser has its user's certificate, too, and shows it for any page that asks. */
	struct docker_guard guard = { .check_host = g->plain_host_check,
				      .help = "a guest on loopback serves loopback names" };
	return docker_guard_check(&guard, head, why, whylen);
}

static struct stream *engine_dial(void *arg)
{
	struct guest *g = arg;
	return dial(g->rx, &g->docker, 0);
}

void routes_init(struct guest *g)
{
	g->engine =
	    (struct http_upstream){ .dial = engine_dial, .hijack = docker_is_hijack, .arg = g };
}

/* A client that opens with HTTP/2 wants the engine, which speaks it. */
void guest_preface(struct http_conn *c, void *arg)
{
	struct guest *g = arg;
	struct stream *s = http_conn_stream(c);
	char why[512];
	if (stream_is_tls(s) && policy_peer(&g->policy, tls_peer(s), why, sizeof(why)) < 0) {
		log_info("preface-refused peer=%s reason=%s", http_conn_peer(c),
			 log_quote(slice_str(why)));
		http_abort(c, -ERR_DENIED);
		return;
	}
	http_relay(c, 0, NULL, 0, engine_dial(g));
}

void guest_handle(struct http_conn *c, struct http_head *head, void *arg)
{
	struct guest *g = arg;
	char why[512];
	int status = forbidden(g, c, head, why, sizeof(why));
	if (status) {
		http_reply_error(c, status, why);
		return;
	}
	struct slice path, query;
	slice_cut(head->target, '?', &path, &query);
	for (size_t i = 0; i < ARRAY_LEN(routes); i++) {
		if (!slice_eq(path, slice_str(routes[i].path)))
			continue;
		if (slice_eq(head->method, slice_str(routes[i].method)))
			routes[i].run(g, c, head);
		else
			http_reply_error(c, 405, "this endpoint takes another method");
		return;
	}
	if (slice_starts(path, SLICE("/tinyscale/"))) {
		http_reply_error(c, 404, "no such endpoint");
		return;
	}
	/* The engine's API is every power that exec has, and more. */
	http_proxy(c, head, NULL, 0, &g->engine);
}

void guest_done(const struct http_access *a, void *arg)
{
	(void)arg;
	log_info("request peer=%s method=%s path=%s status=%d in=%llu out=%llu ms=%llu%s%s",
		 a->peer, a->method, log_quote(slice_str(a->path)), a->status,
		 (unsigned long long)a->in, (unsigned long long)a->out, (unsigned long long)a->ms,
		 a->code ? " error=" : "", a->code ? log_quote(slice_str(err_text(a->code))) : "");
}

void guest_broken(const char *peer, int code, const char *why, void *arg)
{
	(void)arg;
	if (code <= -ERR_FIRST) /* a port scan's reset is no news; a refused certificate is */
		log_warn("connection-failed peer=%s reason=%s", peer, log_quote(slice_str(why)));
}
