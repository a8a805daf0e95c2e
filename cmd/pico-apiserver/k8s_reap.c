/* The kubernetes backend without a box: listing, and removing objects until they are gone. */
#include <errno.h>

#include "cmd/pico-apiserver/k8s_int.h"
#include "reactor/err.h"

enum { TRIES = 120, PAUSE_MIN_MS = 50, PAUSE_MAX_MS = 500 };

static const struct slice nothing = { NULL, 0 };

/* A Sandbox of that name, then a Pod of that name. */
struct kube_reap {
	struct kube *k;
	struct list link;
	struct http_fetch *ask;
	struct timer timer;
	char *session, *name;
	bool pod; /* the second */
	unsigned tries;
	box_done *done;
	void *arg;
};

void kube_reap_free(struct kube_reap *r)
{
	if (!r)
		return;
	list_del(&r->link);
	timer_clear(r->k->b.rx, &r->timer);
	http_fetch_free(r->ask);
	free(r->session);
	free(r->name);
	free(r);
}

static void reap_end(struct kube_reap *r, int code, const char *why)
{
	box_done *done = r->done;
	void *arg = r->arg;
	kube_reap_free(r);
	if (done)
		done(arg, code, why);
}

static void reap_again(struct kube_reap *r, int code, const char *why)
{
	uint64_t ms = MIN((uint64_t)PAUSE_MIN_MS << MIN(r->tries, 4U), (uint64_t)PAUSE_MAX_MS);
	if (++r->tries > TRIES)
		reap_end(r, code, why);
	else
		timer_set(r->k->b.rx, &r->timer, ms);
}

static char *reap_target(struct kube_reap *r)
{
	return kube_target(r->pod ? KUBE_POD : r->k->kind, r->k->ns, r->name);
}

static void on_delete(void *arg, int status, const char *why, struct slice body)
{
	struct kube_reap *r = arg;
	char text[600];
	r->ask = NULL;
	kube_said(r->k, status, why, body, text, sizeof(text));
	if (status == 401 || status == 403 || status == 400 || status == 422)
		reap_end(r, -ERR_DENIED, text);
	else
		reap_again(r, status < 0 ? status : -ETIMEDOUT,
			   status >= 200 && status < 300 ? "the cluster has not removed it in time"
							 : text);
}

static void on_look(void *arg, int status, const char *why, struct slice body)
{
	struct kube_reap *r = arg;
	struct kube_meta m;
	char text[600];
	r->ask = NULL;
	struct json_doc *doc = status == 200 ? json_parse(body, NULL, NULL) : NULL;
	if (doc)
		kube_meta_read(doc, json_root(doc), &m);
	bool ours = doc && slice_eq(m.session, slice_str(r->session));
	if (ours && m.deleting) {
		reap_again(r, -ETIMEDOUT, "the cluster has not removed it in time");
	} else if (ours) {
		char *options = xasprintf("{\"apiVersion\":\"v1\",\"kind\":\"DeleteOptions\","
					  "\"propagationPolicy\":\"Foreground\","
					  "\"preconditions\":{\"uid\":\"%.*s\"}}",
					  SLICE_FMT(m.uid));
		r->ask = kube_ask(r->k, "DELETE", reap_target(r), NULL, slice_str(options),
				  on_delete, r);
		free(options);
	} else if (doc || status == 404) { /* or somebody else's, which is none of ours */
		bool both = !r->pod;
		r->pod = true;
		if (both)
			timer_set(r->k->b.rx, &r->timer, 0);
		else
			reap_end(r, 0, NULL);
	} else if (status == 401 || status == 403) {
		reap_end(r, -ERR_DENIED, kube_said(r->k, status, why, body, text, sizeof(text)));
	} else {
		reap_again(r, status < 0 ? status : -ERR_DENIED,
			   kube_said(r->k, status, why, body, text, sizeof(text)));
	}
	json_free(doc);
}

static void reap_fire(struct timer *t)
{
	struct kube_reap *r = container_of(t, struct kube_reap, timer);
	if (!r->k->known) {
		kube_discover(r->k);
		reap_again(r, -ETIMEDOUT, "the cluster does not answer");
		return;
	}
	r->pod |= r->k->kind == KUBE_POD;
	r->ask = kube_ask(r->k, "GET", reap_target(r), NULL, nothing, on_look, r);
}

struct kube_reap *kube_reap(struct kube *k, const char *session, const char *name, box_done *done,
			    void *arg)
{
	struct kube_reap *r = xcalloc(1, sizeof(*r));
	r->k = k;
	r->session = xstrdup(session);
	r->name = xstrdup(name);
	r->done = done;
	r->arg = arg;
	list_init(&r->link);
	list_add_tail(&k->jobs, &r->link);
	timer_init(&r->timer, reap_fire);
	timer_set(k->b.rx, &r->timer, 0);
	return r;
}

void kube_jobs_end(struct kube *k)
{
	struct list *l;
	while ((l = list_pop(&k->jobs)))
		kube_reap_free(container_of(l, struct kube_reap, link));
	http_fetch_free(k->list);
	k->list = NULL;
}

void kube_remove(struct backend *b, const struct box_found *f, box_done *done, void *arg)
{
	kube_reap(container_of(b, struct kube, b), f->id, f->name, done, arg);
}

/* --- list --- */

static void list_step(struct kube *k, enum kube_kind kind, http_fetched *then)
{
	char *all = kube_target(kind, k->ns, NULL);
	char *selector = kube_selector(k->b.options->server, NULL);
	k->list = kube_ask(k, "GET", xasprintf("%s%s", all, selector), NULL, nothing, then, k);
	free(all);
	free(selector);
}

/* False: it failed, and the owner was told. */
static bool list_take(struct kube *k, int status, const char *why, struct slice body, bool pods)
{
	struct json_limits limits = { .bytes = REST_REPLY_MAX, .values = 1 << 21 };
	char text[600];
	k->list = NULL;
	struct json_doc *doc = status == 200 ? json_parse(body, &limits, NULL) : NULL;
	if (!doc) {
		k->listed(k->listed_arg, status < 0 ? status : -ERR_DENIED,
			  kube_said(k, status, why, body, text, sizeof(text)));
		return false;
	}
	struct json *item = json_first(json_find(json_root(doc), "items"));
	for (; item; item = json_next(item)) {
		struct kube_meta m;
		struct kube_sandbox s;
		kube_meta_read(doc, item, &m);
		kube_sandbox_read(doc, item, &s);
		if (!m.session.n || !m.name.n || (pods && m.owned))
			continue;
		char *id = xslicedup(m.session), *name = xslicedup(m.name);
		struct box_found f = { id, name, !pods && s.suspended };
		k->each(k->listed_arg, &f);
		free(id);
		free(name);
	}
	json_free(doc);
	return true;
}

static void on_pods(void *arg, int status, const char *why, struct slice body)
{
	struct kube *k = arg;
	if (list_take(k, status, why, body, true))
		k->listed(k->listed_arg, 0, NULL);
}

static void on_sandboxes(void *arg, int status, const char *why, struct slice body)
{
	struct kube *k = arg;
	if (list_take(k, status, why, body, false))
		list_step(k, KUBE_POD, on_pods);
}

void kube_list_discovered(struct kube *k, int code, const char *why)
{
	if (!k->list_waits)
		return;
	k->list_waits = false;
	if (code < 0)
		k->listed(k->listed_arg, code, why);
	else
		list_step(k, k->kind, k->kind == KUBE_POD ? on_pods : on_sandboxes);
}

void kube_list(struct backend *b, void (*each)(void *arg, const struct box_found *), box_done *done,
	       void *arg)
{
	struct kube *k = container_of(b, struct kube, b);
	k->each = each;
	k->listed = done;
	k->listed_arg = arg;
	k->list_waits = true;
	if (k->known)
		kube_list_discovered(k, 0, NULL);
	else
		kube_discover(k);
}
