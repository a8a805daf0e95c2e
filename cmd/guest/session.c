/* Tunnels that are up, and the streams that their peers open. */
#include <errno.h>

#include "cmd/guest/guest.h"
#include "json/json.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "reactor/pump.h"

struct session {
	struct list link; /* guest.sessions */
	struct guest *g;
	struct mux *mux;
	char *peer;
	uint64_t started_ms;
};

/* A stream whose target is still being dialled. Both streams wake it: either may end it. */
struct bridge {
	struct task task;
	struct reactor *rx;
	struct stream *s, *target;
};

static void bridge_run(struct task *t)
{
	struct bridge *b = container_of(t, struct bridge, task);
	int mine = stream_open_yet(b->s); /* -EAGAIN while we have not accepted */
	int r = stream_open_yet(b->target);
	if (mine != -EAGAIN) {
		stream_close(b->s, 0);
		stream_close(b->target, -ECONNRESET);
	} else if (r == 0) {
		mux_accept(b->s, SLICE(""));
		pump_start(b->rx, b->s, b->target, NULL, NULL);
	} else if (r == -EAGAIN) {
		return;
	} else {
		mux_refuse(b->s, r, stream_why(b->target, r));
		stream_close(b->target, r);
	}
	task_cancel(&b->task);
	free(b);
}

static void bridge_start(struct guest *g, struct stream *s, const struct addr *to)
{
	struct bridge *b = xcalloc(1, sizeof(*b));
	b->rx = g->rx;
	b->s = s;
	b->target = dial(g->rx, to, 0);
	task_init(&b->task, bridge_run);
	stream_bind(b->s, &b->task);
	stream_bind(b->target, &b->task);
	task_wake(g->rx, &b->task);
}

/* The address in the request, checked against the policy. */
static int target_of(struct guest *g, struct json_doc *doc, const char *key, enum addr_kind kind,
		     struct addr *to, char *why, size_t whylen)
{
	struct slice text;
	int r = json_str(doc, json_find(json_root(doc), key), &text);
	if (r < 0) {
		snprintf(why, whylen, "\"%s\" is missing or no string", key);
		return -EINVAL;
	}
	r = addr_parse(to, text, 0, why, whylen);
	if (r < 0)
		return r;
	if (to->kind != kind) {
		snprintf(why, whylen, "\"%s\" is an address of another kind", key);
		return -EINVAL;
	}
	return kind == ADDR_TCP ? policy_tcp(&g->policy, to, why, whylen)
				: policy_unix(&g->policy, to, why, whylen);
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
	return to->kind == ADDR_UNIX ? policy_unix(&g->policy, to, why, whylen)
				     : policy_tcp(&g->policy, to, why, whylen);
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
		s = NULL;
	} else if (slice_eq(kind, SLICE("listeners"))) {
		/* Who may use the engine may know: no policy narrows it. */
		r = listeners_start(g, s, doc, why, sizeof(why));
		s = r < 0 ? s : NULL;
	} else if (slice_eq(kind, SLICE("docker"))) {
		r = engine_of(g, doc, &to, why, sizeof(why));
	} else if (slice_eq(kind, SLICE("tcp"))) {
		r = target_of(g, doc, "address", ADDR_TCP, &to, why, sizeof(why));
	} else if (slice_eq(kind, SLICE("unix"))) {
		r = target_of(g, doc, "address", ADDR_UNIX, &to, why, sizeof(why));
	} else {
		snprintf(why, sizeof(why), "this guest does not know streams of kind \"%.*s\"",
			 SLICE_FMT(kind));
		r = -ERR_NOT_FOUND;
	}
	if (r < 0) {
		log_info("stream-refused peer=%s reason=%s", log_quote(slice_str(se->peer)),
			 log_quote(slice_str(why)));
		mux_refuse(s, r, why);
	} else if (s) {
		bridge_start(g, s, &to);
	}
	json_free(doc);
}

static void session_free(struct session *se)
{
	const struct mux_stats *st = mux_stats(se->mux);
	se->g->bytes_in += st->bytes_in;
	se->g->bytes_out += st->bytes_out;
	se->g->tunnels--;
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
	for (struct list *l = g->sessions.next; l != &g->sessions; l = l->next)
		mux_goaway(container_of(l, struct session, link)->mux, "guest is shutting down");
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
