#include "cmd/tsctl/sync_api.h"

#include <errno.h>

#include "proto/sync/path_text.h"
#include "reactor/err.h"
#include "reactor/log.h"

enum { BODY_MAX = 4 * 1024 * 1024, REPLY_MAX = 1024 * 1024 };

enum verb { LIST, CREATE, PAUSE, RESUME, RESET, TERMINATE, FLUSH, RESOLVE };

/* One sync of a request that waits for it. */
struct wait {
	struct request *request;
	struct sync_fence *fence; /* NULL once it is over */
	char label[80];
	int code;
	char *why;
};

struct request {
	struct list link; /* sync_api.requests */
	struct task task;
	struct sync_api *api;
	struct http_conn *c;
	enum verb verb;
	struct buf body;
	size_t n, left;
	struct wait *waits;
	bool acting; /* its body was read */
};

static void reply_json(struct http_conn *c, int status, const struct buf *b)
{
	static const struct http_field type = { { "Content-Type", 12 },
						{ "application/json", 16 } };
	http_reply(c, status, &type, 1, buf_data(b));
}

static void request_end(struct request *r)
{
	struct sync_api *a = r->api;
	list_del(&r->link);
	a->nrequests--;
	task_cancel(&r->task);
	for (size_t i = 0; i < r->n; i++) {
		sync_fence_cancel(r->waits[i].fence);
		free(r->waits[i].why);
	}
	free(r->waits);
	buf_end(&r->body);
	free(r);
	if (a->idle && !a->ending)
		a->idle(a->arg);
}

static void reply_list(struct sync_api *a, struct http_conn *c)
{
	struct buf b;
	struct json_writer w;
	buf_init(&b, REPLY_MAX);
	json_writer_begin(&w, &b);
	json_put_object(&w);
	json_put_name(&w, "syncs");
	sync_set_put(a->set, &w);
	json_put_end(&w);
	if (json_writer_end(&w) < 0)
		http_reply_error(c, 500, "the list is too long");
	else
		reply_json(c, 200, &b);
	buf_end(&b);
}

static void reply_labels(struct request *r)
{
	struct buf b;
	struct json_writer w;
	buf_init(&b, REPLY_MAX);
	json_writer_begin(&w, &b);
	json_put_object(&w);
	json_put_name(&w, "syncs");
	json_put_array(&w);
	for (size_t i = 0; i < r->n; i++)
		json_put_str(&w, slice_str(r->waits[i].label));
	json_put_end(&w);
	json_put_end(&w);
	if (json_writer_end(&w) < 0)
		http_reply_error(r->c, 500, "the reply is too long");
	else
		reply_json(r->c, 200, &b);
	buf_end(&b);
}

/* --- waiting --- */

static void all_over(struct request *r)
{
	const struct wait *bad = NULL;
	char text[1024];
	for (size_t i = 0; i < r->n && !bad; i++)
		if (r->waits[i].code < 0)
			bad = &r->waits[i];
	if (http_failed(r->c)) {
		http_abort(r->c, -ERR_CANCELLED);
	} else if (bad) {
		snprintf(text, sizeof(text), "%s: %s", bad->label, bad->why);
		http_reply_error(r->c, bad->code == -ETIMEDOUT ? 504 : 502, text);
	} else {
		reply_labels(r);
	}
	request_end(r);
}

static void on_fenced(void *arg, int code, const char *why)
{
	struct wait *w = arg;
	w->fence = NULL;
	w->code = code;
	w->why = xstrdup(why);
	if (--w->request->left == 0)
		all_over(w->request);
}

static void wait_all(struct request *r, struct sync_item *const *items, struct json *root,
		     struct json_doc *doc)
{
	uint64_t timeout_ms = 0;
	struct slice path = SLICE(""), keep = SLICE("");
	json_u64(json_find(root, "timeout_ms"), &timeout_ms);
	json_str(doc, json_find(root, "path"), &path);
	json_str(doc, json_find(root, "keep"), &keep);
	char *bytes = path_text_get(path);
	r->left = r->n;
	if (r->n == 0 || !bytes) {
		r->left = 0;
		all_over(r);
		free(bytes);
		return;
	}
	http_bind(r->c, &r->task);
	for (size_t i = 0; i < r->n; i++) {
		struct wait *w = &r->waits[i];
		if (r->verb == FLUSH)
			w->fence = sync_job_fence(items[i]->job, timeout_ms, on_fenced, w);
		else
			w->fence =
			    sync_job_resolve(items[i]->job, slice_str(bytes), keep, on_fenced, w);
	}
	free(bytes);
}

/* --- the others --- */

/* 0, or the status of the error. */
static int act_on(struct request *r, struct sync_item *item, char *err, size_t errlen)
{
	const struct sync_owner *o = item->owner;
	const char *label = sync_item_label(item);
	int e = 0;
	switch (r->verb) {
	case PAUSE:
	case RESUME:
		if (r->verb == PAUSE)
			sync_job_pause(item->job);
		else
			sync_job_resume(item->job);
		if (o->paused)
			e = o->paused(item, r->verb == PAUSE, err, errlen);
		log_info("sync-%s sync=%s", r->verb == PAUSE ? "paused" : "resumed", label);
		break;
	case RESET:
		log_info("sync-reset sync=%s", label);
		sync_job_reset(item->job);
		break;
	default:
		if (!o->terminate) {
			snprintf(err, errlen, "%s cannot be terminated: %s", label,
				 o->stays ? o->stays : "its owner ends it");
			return 409;
		}
		log_info("sync-terminated sync=%s", label);
		e = o->terminate(item, err, errlen);
	}
	return e < 0 ? 500 : 0;
}

static void act_all(struct request *r, struct sync_item **items)
{
	char err[1024];
	int status = 0;
	for (size_t i = 0; i < r->n && status == 0; i++)
		status = act_on(r, items[i], err, sizeof(err));
	if (status)
		http_reply_error(r->c, status, err);
	else
		reply_labels(r);
	request_end(r);
}

/* The syncs of "which", to be free()d; NULL after an error reply. */
static struct sync_item **pick(struct request *r, struct json_doc *doc)
{
	struct json *which = json_find(json_root(doc), "which");
	size_t n = which ? which->count : 0;
	struct sync_item **items = xcalloc(MAX(n, 1), sizeof(struct sync_item *));
	r->waits = xcalloc(MAX(n, 1), sizeof(struct wait));
	for (struct json *v = json_first(which); v; v = json_next(v)) {
		struct slice id = SLICE("");
		char err[512];
		json_str(doc, v, &id);
		struct sync_item *item = sync_set_find(r->api->set, id);
		if (!item) {
			snprintf(err, sizeof(err), "there is no sync %.*s", SLICE_FMT(id));
			http_reply_error(r->c, 404, err);
			free(items);
			return NULL;
		}
		struct wait *w = &r->waits[r->n];
		w->request = r;
		snprintf(w->label, sizeof(w->label), "%s", sync_item_label(item));
		bool twice = false;
		for (size_t k = 0; k < r->n; k++)
			twice |= items[k] == item;
		if (!twice)
			items[r->n++] = item;
	}
	return items;
}

static void act(struct request *r, struct json_doc *doc)
{
	if (r->verb == CREATE) {
		struct http_conn *c = r->c;
		struct sync_api *a = r->api;
		http_bind(c, NULL);
		a->create(a->arg, c, doc);
		request_end(r);
		return;
	}
	struct sync_item **items = pick(r, doc);
	if (!items)
		request_end(r);
	else if (r->verb == FLUSH || r->verb == RESOLVE)
		wait_all(r, items, json_root(doc), doc);
	else
		act_all(r, items);
	free(items);
}

/* --- requests --- */

static void request_act(struct request *r)
{
	struct json_doc *doc = json_parse(buf_data(&r->body), NULL, NULL);
	r->acting = true;
	http_bind(r->c, NULL);
	if (r->api->ending || !doc || json_root(doc)->type != JSON_OBJECT) {
		http_reply_error(r->c, r->api->ending ? 503 : 400,
				 r->api->ending ? "tsctl is about to end"
						: "the request's body is no JSON object");
		request_end(r);
	} else {
		act(r, doc);
	}
	json_free(doc);
}

static void request_run(struct task *t)
{
	struct request *r = container_of(t, struct request, task);
	ssize_t n;
	if (r->acting) { /* nobody waits for the fences any more */
		if (http_failed(r->c)) {
			http_abort(r->c, -ERR_CANCELLED);
			request_end(r);
		}
		return;
	}
	do {
		struct iovec room = buf_room(&r->body);
		n = room.iov_len ? http_read(r->c, room.iov_base, room.iov_len) : -EMSGSIZE;
		buf_added(&r->body, n > 0 ? (size_t)n : 0);
	} while (n > 0);
	if (n == -EAGAIN)
		return;
	if (n == 0) {
		request_act(r);
		return;
	}
	if (n == -EMSGSIZE)
		http_reply_error(r->c, 413, "the request is too long");
	else
		http_abort(r->c, (int)n);
	request_end(r);
}

static const struct {
	const char *method, *path;
	enum verb verb;
} routes[] = { { "GET", "/syncs", LIST },         { "POST", "/syncs", CREATE },
	       { "POST", "/syncs/pause", PAUSE }, { "POST", "/syncs/resume", RESUME },
	       { "POST", "/syncs/reset", RESET }, { "POST", "/syncs/terminate", TERMINATE },
	       { "POST", "/syncs/flush", FLUSH }, { "POST", "/syncs/resolve", RESOLVE } };

bool sync_api_handle(struct sync_api *a, struct http_conn *c, struct http_head *head)
{
	if (!slice_starts(head->target, SLICE("/syncs")))
		return false;
	size_t i = 0;
	while (i < ARRAY_LEN(routes) && !(slice_eq(head->method, slice_str(routes[i].method)) &&
					  slice_eq(head->target, slice_str(routes[i].path))))
		i++;
	if (i == ARRAY_LEN(routes) || (routes[i].verb == CREATE && !a->create)) {
		http_reply_error(c, 404, "no such request");
	} else if (a->ending) {
		http_reply_error(c, 503, "tsctl is about to end");
	} else if (routes[i].verb == LIST) {
		reply_list(a, c);
		if (a->idle)
			a->idle(a->arg);
	} else {
		struct request *r = xcalloc(1, sizeof(*r));
		r->api = a;
		r->c = c;
		r->verb = routes[i].verb;
		buf_init(&r->body, BODY_MAX);
		task_init(&r->task, request_run);
		list_init(&r->link);
		list_add_tail(&a->requests, &r->link);
		a->nrequests++;
		http_bind(c, &r->task);
		task_wake(a->rx, &r->task);
	}
	return true;
}

void sync_api_init(struct sync_api *a)
{
	list_init(&a->requests);
	a->nrequests = 0;
}

size_t sync_api_busy(const struct sync_api *a)
{
	return a->nrequests;
}

void sync_api_end(struct sync_api *a)
{
	struct list *i;
	a->ending = true;
	while ((i = list_pop(&a->requests))) {
		struct request *r = container_of(i, struct request, link);
		http_abort(r->c, -ERR_CANCELLED);
		request_end(r);
	}
}
