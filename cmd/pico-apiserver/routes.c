/* Paths to functions; what needs no session is answered here. */
#include <errno.h>

#include "cmd/pico-apiserver/api.h"
#include "reactor/err.h"
#include "reactor/log.h"

static void health(struct server *sv, struct http_conn *c)
{
	static const struct http_field json = { { "Content-Type", 12 },
						{ "application/json", 16 } };
	(void)sv;
	http_reply(c, 200, &json, 1,
		   SLICE("{\"status\":\"ok\",\"version\":\"" TSTUNNEL_VERSION "\"}\n"));
}

static void metric(struct buf *b, const char *name, const char *type, uint64_t value)
{
	buf_printf(b, "# TYPE pico_%s %s\npico_%s %llu\n", name, type, name,
		   (unsigned long long)value);
}

static void metrics(struct call *c, const struct http_head *head)
{
	(void)head;
	struct http_field text[] = {
		{ SLICE("Content-Type"), SLICE("text/plain; version=0.0.4; charset=utf-8") },
		{ SLICE("X-Request-Id"), slice_str(c->request_id) },
	};
	struct server *sv = c->sv;
	const struct reactor_stats *rs = reactor_stats(sv->rx);
	size_t state[SANDBOX_FAILED + 1] = { 0 };
	for (struct list *l = sv->sessions.all.next; l != &sv->sessions.all; l = l->next)
		state[container_of(l, struct session, link)->r.state]++;
	struct buf b;
	buf_init(&b, 16 * 1024);
	buf_puts(&b, "# TYPE pico_sessions gauge\n");
	for (size_t i = 0; i < ARRAY_LEN(state); i++)
		buf_printf(&b, "pico_sessions{state=\"%s\"} %zu\n",
			   sandbox_state_text((enum sandbox_state)i), state[i]);
	metric(&b, "sessions_created_total", "counter", sv->sessions.created_total);
	metric(&b, "sessions_failed_total", "counter", sv->sessions.failed_total);
	metric(&b, "sessions_expired_total", "counter", sv->sessions.expired_total);
	metric(&b, "tunnels", "gauge", sv->sessions.ntunnels);
	metric(&b, "tunnels_total", "counter", sv->sessions.tunnels_total);
	metric(&b, "tunnel_received_bytes_total", "counter", sv->sessions.bytes_in);
	metric(&b, "tunnel_sent_bytes_total", "counter", sv->sessions.bytes_out);
	metric(&b, "commands_total", "counter", sv->commands);
	metric(&b, "connections", "gauge", sv->http.nconns);
	metric(&b, "requests_total", "counter", sv->requests);
	metric(&b, "handles", "gauge", rs->handles);
	metric(&b, "slow_turns_total", "counter", rs->slow_turns);
	http_reply(c->conn, 200, text, ARRAY_LEN(text), buf_data(&b));
	buf_end(&b);
	call_free(c);
}

/* Of one session: /v1/sessions/ID[/NAME]. */
static const struct route {
	const char *method, *name;
	void (*run)(struct call *, const struct http_head *, struct slice id);
} routes[] = {
	{ "GET", "", session_get },
	{ "HEAD", "", session_get },
	{ "DELETE", "", session_remove },
	{ "CONNECT", "", session_connect },
	{ "CONNECT", "tunnel", session_connect },
	{ "POST", "pause", session_post_pause },
	{ "POST", "resume", session_post_resume },
	{ "POST", "commands", session_command },
	{ "POST", "code", session_code },
	{ "PUT", "files", session_put_file },
	{ "POST", "files", session_put_file },
	{ "GET", "files", session_get_file },
};

static void wrong_method(struct call *c, const char *allow)
{
	c->allow = allow;
	call_error(c, 405, "METHOD_NOT_ALLOWED", 0, NULL, "this path takes %s", allow);
}

static void no_path(struct call *c)
{
	call_error(c, 404, "NOT_FOUND", 0, NULL, "no such path; docs/sandboxes.md has the API");
}

static void route_session(struct call *c, const struct http_head *h, struct slice rest)
{
	struct slice id, name;
	char allow[64] = "";
	slice_cut(rest, '/', &id, &name);
	for (size_t i = 0; i < ARRAY_LEN(routes); i++) {
		if (!slice_eq(name, slice_str(routes[i].name)))
			continue;
		if (slice_eq(h->method, slice_str(routes[i].method))) {
			routes[i].run(c, h, id);
			return;
		}
		size_t n = strlen(allow);
		snprintf(allow + n, sizeof(allow) - n, "%s%s", n ? ", " : "", routes[i].method);
	}
	if (allow[0])
		wrong_method(c, allow);
	else
		no_path(c);
}

static void route(struct call *c, const struct http_head *h, struct slice path)
{
	bool get = slice_eq(h->method, SLICE("GET")) || slice_eq(h->method, SLICE("HEAD"));
	struct slice rest;
	bool about = slice_eq(path, SLICE("/metrics"));
	if (about && get) {
		metrics(c, h);
		return;
	}
	if (about || slice_eq(path, SLICE("/health"))) {
		wrong_method(c, "GET, HEAD");
		return;
	}
	c->camel = slice_starts(path, SLICE("/v1/sandboxes"));
	if (c->camel)
		rest = slice_after(path, strlen("/v1/sandboxes"));
	else if (slice_starts(path, SLICE("/v1/sessions")))
		rest = slice_after(path, strlen("/v1/sessions"));
	else {
		no_path(c);
		return;
	}
	if (rest.n > 1 && rest.p[0] == '/') {
		route_session(c, h, slice_after(rest, 1));
	} else if (rest.n == 1 || (rest.n && rest.p[0] != '/')) {
		no_path(c);
	} else if (slice_eq(h->method, SLICE("POST"))) {
		sessions_post(c, h);
	} else if (get) {
		sessions_list(c, h);
	} else {
		wrong_method(c, "GET, HEAD, POST");
	}
}

void routes_handle(struct http_conn *conn, struct http_head *h, void *arg)
{
	struct server *sv = arg;
	struct slice path, query;
	char why[512];
	sv->requests++;
	slice_cut(h->target, '?', &path, &query);
	if (slice_eq(path, SLICE("/health")) &&
	    (slice_eq(h->method, SLICE("GET")) || slice_eq(h->method, SLICE("HEAD")))) {
		health(sv, conn);
		return;
	}
	struct call *c = call_new(sv, conn, h);
	if (h->form != HTTP_ORIGIN) {
		call_error(c, 400, "BAD_REQUEST", 0, NULL,
			   "this is no proxy for everything: CONNECT /v1/sessions/ID/tunnel");
		return;
	}
	int status = auth_check(&sv->auth, h, c->owner, why, sizeof(why));
	c->camel = slice_starts(path, SLICE("/v1/sandboxes"));
	if (status)
		call_error(c, status,
			   status == 401   ? "UNAUTHORIZED"
			   : status == 403 ? "FORBIDDEN"
					   : "BAD_REQUEST",
			   0, NULL, "%s", why);
	else if (sv->draining)
		call_error(c, 503, "SHUTTING_DOWN", 5, NULL, "the server is going down");
	else
		route(c, h, path);
}

void routes_refuse(struct http_conn *conn, int status, const char *message, void *arg)
{
	static const struct {
		int status;
		const char *code;
	} all[] = { { 408, "REQUEST_TIMEOUT" },
		    { 417, "EXPECTATION_FAILED" },
		    { 431, "HEADERS_TOO_LARGE" },
		    { 501, "NOT_IMPLEMENTED" },
		    { 505, "HTTP_VERSION_NOT_SUPPORTED" } };
	struct http_head none = { 0 };
	const char *code = "BAD_REQUEST";
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		if (all[i].status == status)
			code = all[i].code;
	call_error(call_new(arg, conn, &none), status, code, 0, NULL, "%s", message);
}

void routes_done(const struct http_access *a, void *arg)
{
	(void)arg;
	if (log_level < LOG_INFO || (a->status == 200 && strcmp(a->path, "/health") == 0))
		return;
	log_info("request peer=%s method=%s path=%s status=%d in=%llu out=%llu ms=%llu%s%s",
		 a->peer, a->method, log_quote(slice_str(a->path)), a->status,
		 (unsigned long long)a->in, (unsigned long long)a->out, (unsigned long long)a->ms,
		 a->code ? " error=" : "", a->code ? log_quote(slice_str(err_text(a->code))) : "");
}
