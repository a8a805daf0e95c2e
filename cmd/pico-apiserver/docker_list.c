/* The docker backend without a box: where the engine is, listing, and removing what carries a
 * session's label. */
#include <unistd.h>

#include "cmd/pico-apiserver/docker_int.h"

#include "proto/docker/follow.h"
#include "proto/docker/sandbox.h"
#include "reactor/err.h"

enum { ASK_MS = 60 * 1000, RETRY_MS = 500, REMOVE_TRIES = 60, HERE_MS = 2000 };

struct http_fetch *docker_ask(struct docker *d, const char *method, char *target, struct slice body,
			      http_fetched *then, void *arg)
{
	struct rest_request q = { .method = method, .target = target, .body = body, .ms = ASK_MS };
	struct http_fetch *f = rest_ask(&d->api, &q, then, arg);
	free(target);
	return f;
}

const char *docker_said(int status, const char *why, struct slice body, char *out, size_t outlen)
{
	if (status < 0)
		snprintf(out, outlen, "%s", why);
	else
		docker_message(body, out, outlen);
	return out;
}

static char *list_target(struct docker *d, const char *session)
{
	char filters[1024];
	docker_sandbox_filters(d->b.options->server, session, filters, sizeof(filters));
	return xasprintf("/containers/json?all=1&filters=%s", filters);
}

struct docker_reap {
	struct docker *d;
	struct list link;
	struct http_fetch *ask;
	char *session;
	box_done *done;
	void *arg;
	unsigned tries;
	struct timer timer;
};

void docker_reap_free(struct docker_reap *r)
{
	if (!r)
		return;
	list_del(&r->link);
	timer_clear(r->d->b.rx, &r->timer);
	http_fetch_free(r->ask);
	free(r->session);
	free(r);
}

static void reap_end(struct docker_reap *r, int code, const char *why)
{
	box_done *done = r->done;
	void *arg = r->arg;
	docker_reap_free(r);
	if (done)
		done(arg, code, why);
}

static void reap_list(struct docker_reap *r);

static void reap_fire(struct timer *t)
{
	reap_list(container_of(t, struct docker_reap, timer));
}

static void reap_again(struct docker_reap *r, int code, const char *why)
{
	if (++r->tries > REMOVE_TRIES)
		reap_end(r, code, why);
	else
		timer_set(r->d->b.rx, &r->timer, r->tries < 5 ? 20 : RETRY_MS);
}

static void on_reaped(void *arg, int status, const char *why, struct slice body)
{
	struct docker_reap *r = arg;
	char reason[512];
	r->ask = NULL;
	docker_said(status, why, body, reason, sizeof(reason));
	/* 204, 404, or 409 "already in progress": look again. */
	if (status == 204 || status == 404)
		reap_list(r);
	else
		reap_again(r, status < 0 ? status : -ERR_DENIED, reason);
}

static void on_reap_list(void *arg, int status, const char *why, struct slice body)
{
	struct docker_reap *r = arg;
	struct slice id = SLICE("");
	char reason[512];
	r->ask = NULL;
	struct json_doc *doc =
	    status == 200 ? docker_list_parse(body, reason, sizeof(reason)) : NULL;
	if (!doc) {
		reap_again(r, status < 0 ? status : -ERR_DENIED,
			   docker_said(status, why, body, reason, sizeof(reason)));
		return;
	}
	json_str(doc, json_find(json_first(json_root(doc)), "Id"), &id);
	if (id.n)
		r->ask = docker_ask(r->d, "DELETE",
				    xasprintf("/containers/%.*s?force=1&v=1", SLICE_FMT(id)),
				    (struct slice){ NULL, 0 }, on_reaped, r);
	json_free(doc);
	if (!id.n)
		reap_end(r, 0, NULL);
}

static void reap_list(struct docker_reap *r)
{
	r->ask = docker_ask(r->d, "GET", list_target(r->d, r->session), (struct slice){ NULL, 0 },
			    on_reap_list, r);
}

struct docker_reap *docker_reap(struct docker *d, const char *session, box_done *done, void *arg)
{
	struct docker_reap *r = xcalloc(1, sizeof(*r));
	r->d = d;
	r->session = xstrdup(session);
	r->done = done;
	r->arg = arg;
	timer_init(&r->timer, reap_fire);
	list_init(&r->link);
	list_add_tail(&d->jobs, &r->link);
	reap_list(r);
	return r;
}

void docker_jobs_end(struct docker *d)
{
	struct list *l;
	while ((l = list_pop(&d->jobs)))
		docker_reap_free(container_of(l, struct docker_reap, link));
	http_fetch_free(d->list);
	d->list = NULL;
}

void docker_remove(struct backend *b, const struct box_found *f, box_done *done, void *arg)
{
	docker_reap(container_of(b, struct docker, b), f->id, done, arg);
}

/* --- list --- */

static void on_list(void *arg, int status, const char *why, struct slice body)
{
	struct docker *d = arg;
	char reason[512], text[800];
	d->list = NULL;
	struct json_doc *doc =
	    status == 200 ? docker_list_parse(body, reason, sizeof(reason)) : NULL;
	if (!doc) {
		snprintf(text, sizeof(text), "docker at %s: %s", addr_text(&d->api.to),
			 status == 200 ? reason
				       : docker_said(status, why, body, reason, sizeof(reason)));
		d->listed(d->listed_arg, status < 0 ? status : -ERR_DENIED, text);
		return;
	}
	for (struct json *c = json_first(json_root(doc)); c; c = json_next(c)) {
		struct slice id, name, state = SLICE("");
		if (json_str(doc, json_find(c, "Labels", "session-id"), &id) < 0 ||
		    json_str(doc, json_find(c, "Labels", "sandbox"), &name) < 0)
			continue;
		json_str(doc, json_find(c, "State"), &state);
		char *id0 = xslicedup(id), *name0 = xslicedup(name);
		struct box_found f = { id0, name0, slice_eq(state, SLICE("paused")) };
		d->each(d->listed_arg, &f);
		free(id0);
		free(name0);
	}
	json_free(doc);
	d->listed(d->listed_arg, 0, NULL);
}

void docker_list(struct backend *b, void (*each)(void *arg, const struct box_found *),
		 box_done *done, void *arg)
{
	struct docker *d = container_of(b, struct docker, b);
	d->each = each;
	d->listed = done;
	d->listed_arg = arg;
	http_fetch_free(d->list);
	d->list = docker_ask(d, "GET", list_target(d, NULL), (struct slice){ NULL, 0 }, on_list, d);
}

/* --- is there one? --- */

struct here {
	bool done, yes;
};

static void on_here(void *arg, int status, const char *why, struct slice body)
{
	struct here *h = arg;
	(void)why;
	(void)body;
	h->done = true;
	h->yes = status == 200;
}

int docker_engine_address(const struct backend_options *o, struct addr *a, char *err, size_t errlen)
{
	const char *text = o->docker_host ? o->docker_host : getenv("DOCKER_HOST");
	if (!text || !*text)
		text = "unix:///var/run/docker.sock";
	return addr_parse_stream(a, slice_str(text), 2375, err, errlen);
}

bool backend_docker_here(const struct backend_options *o)
{
	struct rest api = { .host = "docker", .prefix = "" };
	struct here here = { false, false };
	char err[200];
	if (docker_engine_address(o, &api.to, err, sizeof(err)) < 0 ||
	    (api.to.kind == ADDR_UNIX && access(api.to.path, W_OK) < 0))
		return false;
	char *target = xasprintf("/images/%s/json", o->image);
	struct rest_request q = { .method = "GET", .target = target, .ms = HERE_MS };
	api.rx = reactor_new();
	rest_ask(&api, &q, on_here, &here);
	reactor_run_until(api.rx, &here.done);
	reactor_free(api.rx);
	free(target);
	return here.yes;
}
