/* Tunnels that are up, and the streams that their peers open. */
#include <errno.h>

#include "cmd/guest/guest.h"
#include "json/json.h"
#include "proto/tstunnel/bridge.h"
#include "proto/tstunnel/udp_dial.h"
#include "reactor/err.h"
#include "reactor/log.h"

/* The address in the request. kind 0: any, as its prefix says. */
static int address_of(struct json_doc *doc, enum addr_kind kind, struct addr *to, char *why,
		      size_t whylen)
{
	struct slice text;
	int r = json_str(doc, json_find(json_root(doc), "address"), &text);
	if (r < 0) {
		snprintf(why, whylen, "\"address\" is missing or no string");
		return -EINVAL;
	}
	r = addr_parse(to, text, 0, why, whylen);
	if (r < 0)
		return r;
	if (kind == ADDR_UDP && to->kind == ADDR_TCP && !slice_starts(text, SLICE("tcp:")))
		to->kind = ADDR_UDP; /* HOST:PORT, the kind says the rest */
	if (kind && to->kind != kind) {
		snprintf(why, whylen, "\"address\" is one of another kind");
		return -EINVAL;
	}
	return 0;
}

/* Dials the target in the request for s: 0, or a code, with a sentence, and s is not taken. */
static int dial_start(struct guest *g, struct stream *s, struct json_doc *doc, enum addr_kind kind,
		      char *why, size_t whylen)
{
	struct addr to;
	int r = address_of(doc, kind, &to, why, whylen);
	if (r == 0)
		r = policy_dial(&g->policy, &to, why, whylen);
	if (r < 0)
		return r;
	if (kind == ADDR_UDP)
		udp_dial_start(g->rx, s, &to, NULL, NULL);
	else
		bridge_start(g->rx, s, dial(g->rx, &to, 0), NULL, NULL);
	return 0;
}

/* The engine: the guest's own, or the one that is asked for, if the policy lets it be dialled. */
static int engine_of(struct guest *g, struct json_doc *doc, struct addr *to, char *why,
		     size_t whylen)
{
	struct slice text;
	*to = g->docker;
	if (json_str(doc, json_find(json_root(doc), "address"), &text) == -ENOENT)
		return 0;
	if (json_str(doc, json_find(json_root(doc), "address"), &text) < 0 ||
	    addr_parse_stream(to, text, 0, why, whylen) < 0) {
		snprintf(why, whylen, "\"address\" of the engine is malformed");
		return -EINVAL;
	}
	if (strcmp(addr_text(to), addr_text(&g->docker)) == 0)
		return 0;
	return policy_dial(&g->policy, to, why, whylen);
}

static void session_opened(void *arg, struct stream *s, struct slice json)
{
	struct session *se = arg;
	struct guest *g = se->g;
	struct json_error err;
	struct json_doc *doc = json_parse(json, NULL, &err);
	struct slice kind = { NULL, 0 };
	struct addr to;
	char why[512] = "";
	int r = 0;
	if (!doc || json_str(doc, json_find(json_root(doc), "kind"), &kind) < 0) {
		snprintf(why, sizeof(why), "malformed OPEN: %s",
			 doc ? "no \"kind\"" : json_error_text(err.code));
		r = -EINVAL;
	} else if (slice_eq(kind, SLICE("exec"))) {
		exec_serve(g->rx, s, json, &g->policy.exec, se->peer);
	} else if (slice_eq(kind, SLICE("listeners"))) {
		/* Who may use the engine may know: no policy narrows it. */
		r = listeners_start(g, s, doc, why, sizeof(why));
	} else if (slice_eq(kind, SLICE("sync"))) {
		r = sync_start(se, s, doc, why, sizeof(why));
	} else if (slice_eq(kind, SLICE("sync-root"))) {
		r = sync_root_tell(g, s, doc, why, sizeof(why));
	} else if (slice_eq(kind, SLICE("docker"))) {
		r = engine_of(g, doc, &to, why, sizeof(why));
		if (r == 0)
			bridge_start(g->rx, s, dial(g->rx, &to, 0), NULL, NULL);
	} else if (slice_eq(kind, SLICE("tcp"))) {
		r = dial_start(g, s, doc, ADDR_TCP, why, sizeof(why));
	} else if (slice_eq(kind, SLICE("udp"))) {
		r = dial_start(g, s, doc, ADDR_UDP, why, sizeof(why));
	} else if (slice_eq(kind, SLICE("unix"))) {
		r = dial_start(g, s, doc, ADDR_UNIX, why, sizeof(why));
	} else if (slice_eq(kind, SLICE("listen"))) {
		r = address_of(doc, 0, &to, why, sizeof(why));
		if (r == 0)
			r = listen_start(se, s, doc, &to, why, sizeof(why));
	} else {
		snprintf(why, sizeof(why), "this guest does not know streams of kind \"%.*s\"",
			 SLICE_FMT(kind));
		r = -ERR_NOT_FOUND;
	}
	if (r < 0) {
		log_info("stream-refused peer=%s reason=%s", log_quote(slice_str(se->peer)),
			 log_quote(slice_str(why)));
		mux_refuse(s, r, why);
	}
	json_free(doc);
}

static void session_free(struct session *se)
{
	const struct mux_stats *st = mux_stats(se->mux);
	se->g->bytes_in += st->bytes_in;
	se->g->bytes_out += st->bytes_out;
	se->g->tunnels--;
	listen_end_all(se, -ERR_CANCELLED, NULL);
	list_del(&se->link);
	free(se->peer);
	free(se);
}

static void session_ended(void *arg, int code, const char *why)
{
	struct session *se = arg;
	struct guest *g = se->g;
	struct mux *mux = se->mux;
	const struct mux_stats *st = mux_stats(mux);
	log_info("tunnel-closed peer=%s streams=%llu in=%llu out=%llu ms=%llu reason=%s",
		 log_quote(slice_str(se->peer)), (unsigned long long)st->streams_total,
		 (unsigned long long)st->bytes_in, (unsigned long long)st->bytes_out,
		 (unsigned long long)(reactor_now(g->rx) - se->started_ms),
		 log_quote(slice_str(why)));
	session_free(se);
	mux_free(mux, code, why);
	guest_left(g);
}

void session_start(void *arg, struct stream *s, struct slice rest)
{
	struct guest *g = arg;
	if (!s)
		return;
	const struct tls_peer *peer = stream_is_tls(s) ? tls_peer(s) : NULL;
	struct session *se = xcalloc(1, sizeof(*se));
	se->g = g;
	se->started_ms = reactor_now(g->rx);
	se->peer = xstrdup(peer ? peer->subject : "-");
	list_init(&se->listening);
	list_init(&se->link);
	list_add_tail(&g->sessions, &se->link);
	g->tunnels++;
	g->tunnels_total++;
	se->mux = mux_new(g->rx, s, rest,
			  &(struct mux_options){ .opened = session_opened,
						 .ended = session_ended,
						 .program = "guest/" TSTUNNEL_VERSION,
						 .arg = se });
	log_info("tunnel-open peer=%s", log_quote(slice_str(se->peer)));
	if (g->draining)
		mux_goaway(se->mux, "shutting down");
}

void sessions_goaway(struct guest *g)
{
	for (struct list *l = g->sessions.next; l != &g->sessions; l = l->next) {
		struct session *se = container_of(l, struct session, link);
		listen_end_all(se, -ERR_GOAWAY, "guest is shutting down");
		mux_goaway(se->mux, "guest is shutting down");
	}
	guest_left(g);
}

void sessions_abort(struct guest *g)
{
	struct list *l;
	while ((l = list_pop(&g->sessions))) {
		struct session *se = container_of(l, struct session, link);
		struct mux *mux = se->mux;
		session_free(se);
		mux_free(mux, -ERR_GOAWAY, "guest was stopped");
	}
}

void sessions_stats(const struct guest *g, struct mux_stats *out)
{
	for (const struct list *l = g->sessions.next; l != &g->sessions; l = l->next) {
		const struct mux_stats *st =
		    mux_stats(container_of(l, const struct session, link)->mux);
		out->bytes_in += st->bytes_in;
		out->bytes_out += st->bytes_out;
		out->streams += st->streams;
	}
}
