/*
 * Backend "kubernetes": a sandbox is a Sandbox of agents.x-k8s.io where the cluster has that API,
 * else a Pod.
 *
 * What runs is told by one watch over all our pods (and one over the Sandboxes): a pod with an
 * address whose container runs is probed, and the box is ready when its sshd shows a banner. A
 * Sandbox outlives its pod: the address follows. A Pod that is gone is gone.
 */
#include <errno.h>
#include <time.h>

#include "cmd/pico-apiserver/k8s_int.h"
#include "reactor/err.h"
#include "reactor/log.h"

enum {
	CREATE_TRIES = 6,
	PATCH_TRIES = 6,
	PAUSE_TRIES = 120,
	RETRY_MS = 250,
	POLL_MS = 500,
	RESUME_MS = 60 * 1000
};

static const struct slice nothing = { NULL, 0 };

static void adopt_step(struct kube_box *x);

static void fire(struct timer *t)
{
	struct kube_box *x = container_of(t, struct kube_box, timer);
	x->fire(x);
}

static void later(struct kube_box *x, uint64_t ms, void (*then)(struct kube_box *))
{
	x->fire = then;
	timer_set(x->k->b.rx, &x->timer, ms);
}

static void box_quiet(struct kube_box *x)
{
	probe_stop(&x->probe);
	timer_clear(x->k->b.rx, &x->timer);
	http_fetch_free(x->ask);
	x->ask = NULL;
	x->creating = false;
}

void kube_box_gone(struct kube_box *x, int code, const char *why)
{
	if (x->is_gone || x->destroying)
		return;
	x->is_gone = true;
	box_quiet(x);
	x->events.gone(x->events.arg, code, why);
}

/* Tells of the end of pause or resume. */
void kube_box_settle(struct kube_box *x, int code, const char *why)
{
	box_done *done = x->done;
	timer_clear(x->k->b.rx, &x->timer);
	x->done = NULL;
	x->pausing = x->resuming = false;
	if (done)
		done(x->arg, code, why);
}

static struct stream *connect_box(void *arg)
{
	struct kube_box *x = arg;
	if (x->at.host[0])
		return dial(x->k->b.rx, &x->at, 0);
	struct stream *s = fd_stream_pending(x->k->b.rx); /* dial would take it for localhost */
	fd_stream_fail(s, -ECONNREFUSED, "the sandbox has no pod now");
	return s;
}

static void probe_found(void *arg)
{
	struct kube_box *x = arg;
	if (x->resuming) {
		x->paused = false;
		kube_box_settle(x, 0, NULL);
	} else if (!x->is_ready) {
		x->is_ready = true;
		x->events.ready(x->events.arg, NULL, false);
	}
}

/* --- create, adopt --- */

/* The object as it is: after a create that said "exists already", and for adopt. */
static void on_found(void *arg, int status, const char *why, struct slice body)
{
	struct kube_box *x = arg;
	struct kube_meta m = { .deleting = false };
	struct kube_sandbox s = { .suspended = false };
	struct kube_pod p = { .running = false };
	char text[600];
	x->ask = NULL;
	struct json_doc *doc = status == 200 ? json_parse(body, NULL, NULL) : NULL;
	if (doc) {
		kube_meta_read(doc, json_root(doc), &m);
		kube_sandbox_read(doc, json_root(doc), &s);
		kube_pod_read(doc, json_root(doc), &p);
	}
	if (status == 404 && x->kind != KUBE_POD) {
		x->kind = KUBE_POD;
		adopt_step(x);
	} else if (kube_passing(status) && ++x->tries < CREATE_TRIES) {
		later(x, (uint64_t)RETRY_MS << x->tries, adopt_step);
	} else if (!doc) {
		kube_box_gone(x, status < 0 ? status : -ERR_NOT_FOUND,
			      kube_said(x->k, status, why, body, text, sizeof(text)));
	} else if (!slice_eq(m.session, slice_str(x->session))) {
		snprintf(text, sizeof(text), "%s is the name of something else in namespace %s",
			 x->name, x->k->ns);
		kube_box_gone(x, -EEXIST, text);
	} else if (m.deleting) {
		kube_box_gone(x, -ERR_NOT_FOUND, "the sandbox is being deleted");
	} else {
		x->made = true;
		if (x->kind == KUBE_POD) {
			kube_pod_seen(x, &p, false);
		} else if (s.suspended) {
			x->paused = x->is_ready = true;
			x->events.ready(x->events.arg, NULL, true);
		}
	}
	json_free(doc);
}

/* Its pod, which the watch may have told of before the box was there. */
static void on_pods_of(void *arg, int status, const char *why, struct slice body)
{
	struct kube_box *x = arg;
	(void)why;
	x->ask = NULL;
	struct json_doc *doc = status == 200 ? json_parse(body, NULL, NULL) : NULL;
	struct json *item = doc ? json_first(json_find(json_root(doc), "items")) : NULL;
	bool was = x->made;
	x->made = true;
	for (; item && !x->is_gone && !x->destroying; item = json_next(item))
		kube_on_pod(x->k, KUBE_ADDED, doc, item);
	json_free(doc);
	if (!x->is_gone && !x->destroying && !was) {
		x->made = false;
		x->ask = kube_ask(x->k, "GET", kube_target(x->kind, x->k->ns, x->name), NULL,
				  nothing, on_found, x);
	}
}

static void ask_pods(struct kube_box *x, http_fetched *then)
{
	char *all = kube_target(KUBE_POD, x->k->ns, NULL);
	char *selector = kube_selector(NULL, x->session);
	x->ask = kube_ask(x->k, "GET", xasprintf("%s%s", all, selector), NULL, nothing, then, x);
	free(all);
	free(selector);
}

static void adopt_step(struct kube_box *x)
{
	ask_pods(x, on_pods_of);
}

static void create_step(struct kube_box *x);

static void on_created(void *arg, int status, const char *why, struct slice body)
{
	struct kube_box *x = arg;
	char text[600];
	x->ask = NULL;
	x->creating = false;
	if (x->destroying) {
		x->reap = NULL;
		x->fire(x);
		return;
	}
	if (status >= 200 && status < 300) {
		x->made = true;
		adopt_step(x);
	} else if (status == 409 && x->tries < CREATE_TRIES) {
		adopt_step(x); /* ours, if an earlier try got there */
	} else if (kube_passing(status) && ++x->tries < CREATE_TRIES) {
		later(x, (uint64_t)RETRY_MS << x->tries, create_step);
	} else {
		kube_box_gone(x, status < 0 ? status : -ERR_DENIED,
			      kube_said(x->k, status, why, body, text, sizeof(text)));
	}
}

static void create_step(struct kube_box *x)
{
	const struct backend_options *o = x->k->b.options;
	struct kube_spec spec = { .s = { .id = x->session,
					 .name = x->name,
					 .server = o->server,
					 .image = x->image,
					 .user = o->ssh_username,
					 .public_key = x->public_key,
					 .server_key = x->server_key,
					 .expires_at = x->expires_at,
					 .memory = o->memory,
					 .pids = o->pids,
					 .cpu_millis = o->cpu_millis,
					 .ssh_port = o->ssh_port },
				  .runtime_class = o->runtime_class,
				  .now = (int64_t)time(NULL) };
	struct buf body;
	x->creating = true;
	buf_init(&body, 256 * 1024);
	kube_put(&body, x->kind, &spec);
	x->ask = kube_ask(x->k, "POST", kube_target(x->kind, x->k->ns, NULL), NULL, buf_data(&body),
			  on_created, x);
	buf_end(&body);
}

void kube_box_begin(struct kube_box *x)
{
	timer_clear(x->k->b.rx, &x->timer); /* discovery may have come first: not twice */
	if (!x->k->known) {
		kube_discover(x->k);
		return;
	}
	x->kind = x->k->kind;
	if (x->adopting)
		adopt_step(x);
	else
		create_step(x);
}

static struct kube_box *box_new(struct backend *b, const struct box_spec *s,
				const struct box_events *events)
{
	struct kube_box *x = xcalloc(1, sizeof(*x));
	x->box.ops = b->ops;
	x->k = container_of(b, struct kube, b);
	x->events = *events;
	x->session = xstrdup(s->id);
	x->name = xstrdup(s->name);
	x->image = xstrdup(s->image ? s->image : b->options->image);
	x->public_key = s->public_key ? xstrdup(s->public_key) : NULL;
	x->server_key = s->server_key ? xstrdup(s->server_key) : NULL;
	x->expires_at = s->expires_at;
	x->kind = x->k->kind;
	x->probe = (struct probe){ .connect = connect_box, .found = probe_found, .arg = x };
	timer_init(&x->timer, fire);
	list_init(&x->link);
	list_add_tail(&x->k->boxes, &x->link);
	later(x, 0, kube_box_begin);
	return x;
}

static struct box *box_create(struct backend *b, const struct box_spec *spec,
			      const struct box_events *events)
{
	return &box_new(b, spec, events)->box;
}

static struct box *box_adopt(struct backend *b, const struct box_spec *spec,
			     const struct box_events *events)
{
	struct kube_box *x = box_new(b, spec, events);
	x->adopting = true;
	return &x->box;
}

static struct stream *box_connect(struct box *b)
{
	return connect_box(container_of(b, struct kube_box, box));
}

/* --- pause, resume --- */

static void pause_step(struct kube_box *x);
static void patch_step(struct kube_box *x);

static void on_pods_left(void *arg, int status, const char *why, struct slice body)
{
	struct kube_box *x = arg;
	(void)why;
	x->ask = NULL;
	struct json_doc *doc = status == 200 ? json_parse(body, NULL, NULL) : NULL;
	bool none = doc && !json_first(json_find(json_root(doc), "items"));
	json_free(doc);
	if (none) {
		x->paused = true;
		x->at.host[0] = '\0';
		kube_box_settle(x, 0, NULL);
	} else if (++x->tries > PAUSE_TRIES) {
		kube_box_settle(x, -ETIMEDOUT, "the cluster has not stopped the pod in time");
	} else {
		later(x, POLL_MS, pause_step);
	}
}

static void pause_step(struct kube_box *x)
{
	ask_pods(x, on_pods_left);
}

static void resume_late(struct kube_box *x)
{
	probe_stop(&x->probe);
	kube_box_settle(x, -ETIMEDOUT, "the cluster has not started the pod in time");
}

static void on_patched(void *arg, int status, const char *why, struct slice body)
{
	struct kube_box *x = arg;
	char text[600];
	x->ask = NULL;
	if (status == 200) {
		x->tries = 0;
		if (x->pausing)
			later(x, 0, pause_step);
		else { /* unless the watch tells before; the pod may run already */
			later(x, RESUME_MS, resume_late);
			adopt_step(x);
		}
	} else if (kube_passing(status) && ++x->tries < PATCH_TRIES) {
		later(x, (uint64_t)RETRY_MS << x->tries, patch_step);
	} else {
		kube_box_settle(x, status < 0 ? status : -ERR_DENIED,
				kube_said(x->k, status, why, body, text, sizeof(text)));
	}
}

static void patch_step(struct kube_box *x)
{
	x->ask = kube_ask(x->k, "PATCH", kube_target(x->kind, x->k->ns, x->name),
			  "application/merge-patch+json", kube_suspend_patch(x->kind, x->pausing),
			  on_patched, x);
}

static void refuse_step(struct kube_box *x)
{
	kube_box_settle(
	    x, -EOPNOTSUPP,
	    "a plain pod cannot be paused: that takes the Sandbox API (agents.x-k8s.io) in the "
	    "cluster");
}

static void box_switch(struct box *b, bool suspend, box_done *done, void *arg)
{
	struct kube_box *x = container_of(b, struct kube_box, box);
	x->done = done;
	x->arg = arg;
	x->tries = 0;
	http_fetch_free(x->ask); /* at most a look at its pod */
	x->ask = NULL;
	x->pausing = suspend;
	x->resuming = !suspend;
	later(x, 0, x->kind == KUBE_POD ? refuse_step : patch_step);
}

static void box_pause(struct box *b, box_done *done, void *arg)
{
	box_switch(b, true, done, arg);
}

static void box_resume(struct box *b, box_done *done, void *arg)
{
	box_switch(b, false, done, arg);
}

/* --- the end --- */

static void on_reaped(void *arg, int code, const char *why)
{
	struct kube_box *x = arg;
	x->reap = NULL;
	x->done(x->arg, code, why);
}

static void reap_step(struct kube_box *x)
{
	x->reap = kube_reap(x->k, x->session, x->name, on_reaped, x);
}

static void box_destroy(struct box *b, box_done *done, void *arg)
{
	struct kube_box *x = container_of(b, struct kube_box, box);
	x->destroying = true;
	x->done = done;
	x->arg = arg;
	if (x->creating) {
		x->fire = reap_step; /* on_created goes on */
		return;
	}
	box_quiet(x);
	reap_step(x);
}

static void box_free(struct box *b)
{
	struct kube_box *x = container_of(b, struct kube_box, box);
	box_quiet(x);
	kube_reap_free(x->reap);
	list_del(&x->link);
	free(x->session);
	free(x->name);
	free(x->image);
	free(x->public_key);
	free(x->server_key);
	free(x);
}

/* --- the backend --- */

static void backend_close(struct backend *b)
{
	struct kube *k = container_of(b, struct kube, b);
	kube_jobs_end(k);
	http_fetch_free(k->discover);
	kube_watch_free(k->pods);
	kube_watch_free(k->sandboxes);
	kube_cluster_end(k);
	free(k);
}

static const struct backend_ops ops = {
	.name = "kubernetes",
	.create = box_create,
	.adopt = box_adopt,
	.connect = box_connect,
	.pause = box_pause,
	.resume = box_resume,
	.destroy = box_destroy,
	.free = box_free,
	.list = kube_list,
	.remove = kube_remove,
	.close = backend_close,
};

struct backend *backend_kubernetes_new(struct reactor *rx, const struct backend_options *o,
				       char *err, size_t errlen)
{
	struct kube *k = xcalloc(1, sizeof(*k));
	k->b = (struct backend){ &ops, rx, o };
	list_init(&k->boxes);
	list_init(&k->jobs);
	if (kube_cluster_init(k, err, errlen) < 0) {
		kube_cluster_end(k);
		free(k);
		return NULL;
	}
	k->ns = o->namespace_          ? o->namespace_
		: k->config.namespace_ ? k->config.namespace_
				       : "default";
	return &k->b;
}
