/* The kubernetes backend: which API the cluster has, and what its watches tell of our boxes. */
#include <errno.h>

#include "cmd/pico-apiserver/k8s_int.h"
#include "reactor/err.h"
#include "reactor/log.h"

static const struct slice nothing = { NULL, 0 };

/* --- what the watches tell --- */

static void pod_lost(struct kube_box *x, const char *why)
{
	char text[600];
	x->at.host[0] = '\0';
	probe_stop(&x->probe);
	if (x->pausing || x->paused || x->kind != KUBE_POD)
		return; /* the polling of pause sees it, or another pod comes */
	snprintf(text, sizeof(text), "pod %s has ended: %s", x->name, why);
	kube_box_gone(x, -ERR_NOT_FOUND, text);
}

void kube_pod_seen(struct kube_box *x, const struct kube_pod *p, bool deleting)
{
	char text[600];
	x->seen = true;
	if (p->hopeless && (x->kind == KUBE_POD || !x->is_ready)) {
		snprintf(text, sizeof(text), "pod %s: %s", x->name, p->why);
		kube_box_gone(x, -ERR_NOT_FOUND, text);
		return;
	}
	if (!p->running || p->ip.n == 0 || p->ip.n >= sizeof(x->at.host) || deleting ||
	    x->pausing || (x->paused && !x->resuming))
		return;
	if (slice_eq(slice_str(x->at.host), p->ip))
		return;
	x->at = (struct addr){ .kind = ADDR_TCP, .port = x->k->b.options->ssh_port };
	memcpy(x->at.host, p->ip.p, p->ip.n);
	log_debug("kubernetes-pod name=%s addr=%s", x->name, addr_text(&x->at));
	if (!x->is_ready || x->resuming)
		probe_start(&x->probe, x->k->b.rx);
}

static struct kube_box *box_find(struct kube *k, struct slice session)
{
	for (struct list *l = k->boxes.next; l != &k->boxes; l = l->next) {
		struct kube_box *x = container_of(l, struct kube_box, link);
		if (slice_eq(slice_str(x->session), session))
			return x->is_gone || x->destroying ? NULL : x;
	}
	return NULL;
}

void kube_on_pod(void *arg, enum kube_event_type type, struct json_doc *doc, struct json *object)
{
	struct kube_meta m;
	struct kube_pod p;
	kube_meta_read(doc, object, &m);
	kube_pod_read(doc, object, &p);
	struct kube_box *x = box_find(arg, m.session);
	if (!x || !x->made)
		return; /* it asks for its pod when it is made */
	if (type == KUBE_DELETED)
		pod_lost(x, p.why[0] ? p.why : "it was deleted");
	else
		kube_pod_seen(x, &p, m.deleting);
}

static void on_sandbox(void *arg, enum kube_event_type type, struct json_doc *doc,
		       struct json *object)
{
	struct kube_meta m;
	struct kube_sandbox s;
	char text[600];
	kube_meta_read(doc, object, &m);
	kube_sandbox_read(doc, object, &s);
	struct kube_box *x = box_find(arg, m.session);
	if (!x || x->kind == KUBE_POD || (type != KUBE_DELETED && !s.finished))
		return;
	snprintf(text, sizeof(text), "sandbox %s has ended: %s", x->name,
		 s.why[0] ? s.why : "it was deleted");
	kube_box_gone(x, -ERR_NOT_FOUND, text);
}

static void pods_listing(void *arg)
{
	struct kube *k = arg;
	for (struct list *l = k->boxes.next; l != &k->boxes; l = l->next) {
		struct kube_box *x = container_of(l, struct kube_box, link);
		x->seen_before = x->seen;
		x->seen = false;
	}
}

static void pods_listed(void *arg)
{
	struct kube *k = arg;
	for (struct list *l = k->boxes.next, *next; l != &k->boxes; l = next) {
		struct kube_box *x = container_of(l, struct kube_box, link);
		next = l->next; /* pod_lost may free this one only */
		if (x->seen_before && !x->seen && !x->is_gone && !x->destroying)
			pod_lost(x, "it was deleted");
	}
}

/* The watches go on by themselves; those who wait for a first sign must not wait in vain. */
static void watch_broken(void *arg, int status, const char *why)
{
	struct kube *k = arg;
	if (status != 401 && status != 403)
		return;
	for (struct list *l = k->boxes.next, *next; l != &k->boxes; l = next) {
		struct kube_box *x = container_of(l, struct kube_box, link);
		next = l->next;
		if (!x->is_ready && x->made)
			kube_box_gone(x, -ERR_DENIED, why);
	}
}

static void sandboxes_listing(void *arg)
{
	(void)arg;
}

static void watches_open(struct kube *k)
{
	char *selector = kube_selector(k->b.options->server, NULL);
	char *all = kube_target(KUBE_POD, k->ns, NULL);
	char *target = xasprintf("%s%s", all, selector);
	struct kube_watch_options o = { .api = &k->api,
					.target = target,
					.listing = pods_listing,
					.event = kube_on_pod,
					.listed = pods_listed,
					.broken = watch_broken,
					.arg = k };
	k->pods = kube_watch_new(&o);
	free(all);
	free(target);
	if (k->kind != KUBE_POD) {
		all = kube_target(k->kind, k->ns, NULL);
		o.target = target = xasprintf("%s%s", all, selector);
		o.listing = o.listed = sandboxes_listing;
		o.event = on_sandbox;
		k->sandboxes = kube_watch_new(&o);
		free(all);
		free(target);
	}
	free(selector);
}

/* --- which API --- */

static void on_discovered(void *arg, int status, const char *why, struct slice body)
{
	struct kube *k = arg;
	char text[600];
	k->discover = NULL;
	if (status == 200 || status == 404) {
		k->kind = status == 200 ? kube_discovery(body) : KUBE_POD;
		k->known = true;
		log_info("kubernetes server=%s namespace=%s kind=%s", k->host, k->ns,
			 k->kind == KUBE_POD               ? "Pod"
			 : k->kind == KUBE_SANDBOX_V1BETA1 ? "Sandbox/v1beta1"
							   : "Sandbox/v1alpha1");
		watches_open(k);
	} else {
		kube_said(k, status, why, body, text, sizeof(text));
	}
	int code = k->known ? 0 : status < 0 ? status : -ERR_DENIED;
	for (struct list *l = k->boxes.next, *next; l != &k->boxes; l = next) {
		struct kube_box *x = container_of(l, struct kube_box, link);
		next = l->next;
		if (x->made || x->ask || x->is_gone || x->destroying)
			continue;
		if (k->known)
			kube_box_begin(x);
		else
			kube_box_gone(x, code, text);
	}
	kube_list_discovered(k, code, text);
}

void kube_discover(struct kube *k)
{
	if (!k->known && !k->discover)
		k->discover = kube_ask(k, "GET", xstrdup("/apis/agents.x-k8s.io"), NULL, nothing,
				       on_discovered, k);
}
