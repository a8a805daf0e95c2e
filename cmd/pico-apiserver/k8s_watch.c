#include "cmd/pico-apiserver/k8s_watch.h"

#include <errno.h>

#include "reactor/err.h"
#include "reactor/log.h"

enum {
	EVENT_MAX = 4 << 20,
	WATCH_S = 240, /* asked for; the cluster ends it then */
	LATE_S = 30,   /* and this much later we do */
	HEAD_MS = 30000,
	PAUSE_MIN_MS = 50,
	PAUSE_MAX_MS = 5000
};

struct kube_watch {
	struct kube_watch_options o;
	struct reactor *rx;
	struct task task;
	struct timer timer; /* begin again, or the connection is late */
	struct http_fetch *list;
	struct http_client *client;
	bool headed;
	struct buf in;
	struct json_split split;
	char *version; /* resourceVersion; NULL: list first */
	uint64_t pause_ms;
	char why[300]; /* logged last */
};

static void forget(struct kube_watch *w)
{
	free(w->version);
	w->version = NULL;
}

static void tell(struct kube_watch *w, int status, const char *why)
{
	if (strcmp(w->why, why) != 0)
		log_warn("kubernetes-watch target=%s reason=%s", w->o.target,
			 log_quote(slice_str(why)));
	snprintf(w->why, sizeof(w->why), "%s", why);
	w->o.broken(w->o.arg, status, why);
}

static void again(struct kube_watch *w)
{
	http_client_free(w->client, -ERR_CANCELLED);
	w->client = NULL;
	buf_end(&w->in);
	timer_set(w->rx, &w->timer, w->pause_ms);
	w->pause_ms = MIN(2 * w->pause_ms, (uint64_t)PAUSE_MAX_MS);
}

static void watch_begin(struct kube_watch *w);

/* --- the list --- */

static void on_list(void *arg, int status, const char *why, struct slice body)
{
	struct kube_watch *w = arg;
	struct json_limits limits = { .bytes = REST_REPLY_MAX, .values = 1 << 21 };
	struct kube_meta meta;
	char text[600];
	w->list = NULL;
	struct json_doc *doc = status == 200 ? json_parse(body, &limits, NULL) : NULL;
	if (doc)
		kube_meta_read(doc, json_root(doc), &meta);
	if (!doc || !meta.version.n) {
		if (status == 200)
			snprintf(text, sizeof(text), "the list is not understood");
		else if (status > 0)
			kube_refusal(status, body, text, sizeof(text));
		else
			snprintf(text, sizeof(text), "%s: %s", addr_text(&w->o.api->to), why);
		json_free(doc);
		tell(w, status, text);
		again(w);
		return;
	}
	struct json *item = json_first(json_find(json_root(doc), "items"));
	for (; item; item = json_next(item))
		w->o.event(w->o.arg, KUBE_ADDED, doc, item);
	forget(w);
	w->version = xslicedup(meta.version);
	w->why[0] = '\0';
	json_free(doc);
	w->o.listed(w->o.arg);
	watch_begin(w);
}

static void list_begin(struct kube_watch *w)
{
	struct rest_request q = { .method = "GET", .target = w->o.target };
	w->o.listing(w->o.arg);
	w->list = rest_ask(w->o.api, &q, on_list, w);
}

/* --- the watch --- */

/* -ESTALE: the version is too old. */
static int event_take(struct kube_watch *w, struct slice text)
{
	struct kube_event e;
	struct kube_meta meta;
	struct json_doc *doc = json_parse(text, NULL, NULL);
	int r = doc ? kube_event_read(doc, &e) : -EINVAL;
	if (r == 0 && e.type == KUBE_ERROR)
		r = e.code == 410 ? -ESTALE : -EREMOTEIO;
	if (r == 0) {
		kube_meta_read(doc, e.object, &meta);
		if (meta.version.n) {
			forget(w);
			w->version = xslicedup(meta.version);
		}
		if (e.type != KUBE_BOOKMARK)
			w->o.event(w->o.arg, e.type, doc, e.object);
	}
	json_free(doc);
	return r;
}

static int events_take(struct kube_watch *w)
{
	struct slice value;
	ssize_t n;
	while ((n = json_split_next(&w->split, buf_data(&w->in), false, &value)) > 0) {
		int r = value.n ? event_take(w, value) : 0;
		if (r < 0)
			return r;
		w->pause_ms = PAUSE_MIN_MS;
		buf_drop(&w->in, (size_t)n);
	}
	return (int)n;
}

static int head_take(struct kube_watch *w)
{
	struct http_head h;
	char text[100];
	int r = http_client_head(w->client, &h);
	if (r < 0)
		return r;
	if (h.status == 410)
		return -ESTALE;
	if (h.status != 200) {
		snprintf(text, sizeof(text), "the cluster answered %d to a watch", h.status);
		tell(w, h.status, text);
		return -EREMOTEIO;
	}
	w->headed = true;
	timer_set(w->rx, &w->timer, (WATCH_S + LATE_S) * UINT64_C(1000));
	return 0;
}

static void watch_run(struct task *t)
{
	struct kube_watch *w = container_of(t, struct kube_watch, task);
	ssize_t n = 0;
	if (!w->client)
		return;
	if (!w->headed)
		n = head_take(w);
	while (n == 0) {
		struct iovec room = buf_room(&w->in);
		n = http_client_read(w->client, room.iov_base, room.iov_len);
		if (n <= 0)
			break;
		buf_added(&w->in, (size_t)n);
		n = events_take(w);
	}
	if (n == -EAGAIN)
		return;
	log_debug("kubernetes-watch-end target=%s code=%zd version=%s", w->o.target, n,
		  w->version ? w->version : "");
	if (n == -ESTALE || n == -EREMOTEIO || n == -EINVAL || n == -EMSGSIZE)
		forget(w); /* the list is the truth */
	else if (n < 0 && !w->headed)
		tell(w, (int)n, http_client_why(w->client, (int)n));
	again(w);
}

static void watch_begin(struct kube_watch *w)
{
	struct buf b;
	char *target = xasprintf("%s&watch=1&allowWatchBookmarks=true&timeoutSeconds=%d"
				 "&resourceVersion=%s",
				 w->o.target, WATCH_S, w->version);
	struct rest_request q = { .method = "GET", .target = target };
	struct stream *s = rest_open(w->o.api, &q, NULL, &b);
	free(target);
	w->headed = false;
	json_split_init(&w->split, EVENT_MAX);
	w->client = http_client_new(s, &b, SLICE("GET"));
	timer_set(w->rx, &w->timer, HEAD_MS);
	http_client_bind(w->client, &w->task);
}

static void watch_fire(struct timer *t)
{
	struct kube_watch *w = container_of(t, struct kube_watch, timer);
	if (w->client)
		again(w); /* late */
	else if (w->version)
		watch_begin(w);
	else
		list_begin(w);
}

struct kube_watch *kube_watch_new(const struct kube_watch_options *o)
{
	struct kube_watch *w = xcalloc(1, sizeof(*w));
	w->o = *o;
	w->o.target = xstrdup(o->target);
	w->rx = o->api->rx;
	w->pause_ms = PAUSE_MIN_MS;
	buf_init(&w->in, EVENT_MAX + 1);
	task_init(&w->task, watch_run);
	timer_init(&w->timer, watch_fire);
	timer_set(w->rx, &w->timer, 0);
	return w;
}

void kube_watch_free(struct kube_watch *w)
{
	if (!w)
		return;
	task_cancel(&w->task);
	timer_clear(w->rx, &w->timer);
	http_fetch_free(w->list);
	http_client_free(w->client, -ERR_CANCELLED);
	buf_end(&w->in);
	forget(w);
	free(w->o.target);
	free(w);
}
