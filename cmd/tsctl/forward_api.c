#include "cmd/tsctl/forward_api.h"

#include <errno.h>

#include "cmd/tsctl/forward.h"
#include "reactor/err.h"
#include "reactor/log.h"

enum { BODY_MAX = 64 * 1024, REPLY_MAX = 1024 * 1024 };

enum verb { LIST, CREATE, PAUSE, RESUME, TERMINATE };

/* A request whose body is still being read. */
struct request {
	struct list link; /* forward_api.requests */
	struct task task;
	struct forward_api *api;
	struct http_conn *c;
	enum verb verb;
	struct buf body;
};

/* What is to be done about a forward that does not come to serve. */
enum undo { UNDO_NOTHING = 0, UNDO_PAUSE, UNDO_REMOVE };

/* A request that waits for its forwards to serve. By id, since they may go meanwhile. */
struct job {
	struct list link; /* forward_api.jobs */
	struct http_conn *c;
	bool create;
	size_t n;
	struct {
		char id[FORWARD_ID_LEN + 1];
		enum undo undo;
	} item[];
};

/* --- replies --- */

static void reply_json(struct http_conn *c, int status, struct buf *b)
{
	static const struct http_field type = { { "Content-Type", 12 },
						{ "application/json", 16 } };
	http_reply(c, status, &type, 1, buf_data(b));
}

bool forward_api_busy(const struct forward_api *a)
{
	return !list_empty(&a->jobs) || !list_empty(&a->requests);
}

static void check_idle(struct forward_api *a)
{
	if (a->set->n == 0 && !forward_api_busy(a))
		a->idle(a->arg);
}

static void reply_list(struct forward_api *a, struct http_conn *c)
{
	struct buf b;
	struct json_writer w;
	buf_init(&b, REPLY_MAX);
	json_writer_begin(&w, &b);
	json_put_object(&w);
	json_put_name(&w, "forwards");
	json_put_array(&w);
	for (struct list *i = a->set->entries.next; i != &a->set->entries; i = i->next)
		entry_put(container_of(i, struct entry, link), &w);
	json_put_end(&w);
	json_put_end(&w);
	if (json_writer_end(&w) < 0)
		http_reply_error(c, 500, "the list is too long");
	else
		reply_json(c, 200, &b);
	buf_end(&b);
}

/* Those that were asked for, by the names that people know. */
static void put_labels(struct buf *b, struct entry *const *all, size_t n)
{
	struct json_writer w;
	json_writer_begin(&w, b);
	json_put_object(&w);
	json_put_name(&w, "forwards");
	json_put_array(&w);
	for (size_t i = 0; i < n; i++)
		json_put_str(&w, slice_str(entry_label(all[i])));
	json_put_end(&w);
	json_put_end(&w);
	int r = json_writer_end(&w);
	BUG_ON(r < 0); /* FORWARDS_MAX names fit REPLY_MAX */
}

static void reply_created(struct http_conn *c, const struct entry *e)
{
	struct buf b;
	struct json_writer w;
	buf_init(&b, REPLY_MAX);
	json_writer_begin(&w, &b);
	json_put_object(&w);
	json_put_name(&w, "id");
	json_put_str(&w, slice_str(e->rec.id));
	json_put_name(&w, "port");
	json_put_u64(&w, forward_port(e->forward));
	json_put_end(&w);
	json_writer_end(&w);
	reply_json(c, 201, &b);
	buf_end(&b);
}

/* --- waiting for forwards --- */

static void job_end(struct forward_api *a, struct job *j)
{
	list_del(&j->link);
	free(j);
	check_idle(a);
}

static void job_undo(struct forward_api *a, struct job *j)
{
	char err[1024];
	for (size_t i = 0; i < j->n; i++) {
		struct entry *e = set_find(a->set, slice_str(j->item[i].id));
		if (e && j->item[i].undo == UNDO_REMOVE) {
			set_remove(e);
		} else if (e && j->item[i].undo == UNDO_PAUSE) {
			entry_stop(e);
			e->rec.paused = true;
		}
	}
	if (set_save(a->set, err, sizeof(err)) < 0)
		log_error("state not-kept reason=%s", log_quote(slice_str(err)));
}

static void job_fail(struct forward_api *a, struct job *j, int status, const char *why)
{
	job_undo(a, j);
	if (http_failed(j->c))
		http_abort(j->c, -ERR_CANCELLED); /* nobody wants to know any more */
	else
		http_reply_error(j->c, status, why);
	job_end(a, j);
}

static void job_done(struct forward_api *a, struct job *j)
{
	struct entry **all = xcalloc(MAX(j->n, 1), sizeof(struct entry *));
	struct buf b;
	char err[1024];
	for (size_t i = 0; i < j->n; i++) {
		all[i] = set_find(a->set, slice_str(j->item[i].id));
		entry_note_port(all[i]);
	}
	buf_init(&b, REPLY_MAX);
	if (set_save(a->set, err, sizeof(err)) < 0) {
		job_fail(a, j, 500, err);
	} else {
		for (size_t i = 0; i < j->n; i++)
			log_info("forward-%s forward=%s", j->create ? "created" : "resumed",
				 entry_label(all[i]));
		if (j->create) {
			reply_created(j->c, all[0]);
		} else {
			put_labels(&b, all, j->n);
			reply_json(j->c, 200, &b);
		}
		job_end(a, j);
	}
	buf_end(&b);
	free(all);
}

/* 0: serves; -EAGAIN; or why it does not and will not. */
static int item_state(struct forward_api *a, const char *id, char *why, size_t whylen)
{
	struct entry *e = set_find(a->set, slice_str(id));
	if (e && !e->rec.paused)
		return entry_state(e, why, whylen);
	snprintf(why, whylen,
		 e ? "another command has paused it"
		   : "another command has ended it, or could not make it either");
	return -ERR_CANCELLED;
}

/* True while it has to wait. */
static bool job_look(struct forward_api *a, struct job *j)
{
	char why[1024], text[1200];
	bool waits = false;
	if (http_failed(j->c)) {
		job_fail(a, j, 0, "");
		return false;
	}
	for (size_t i = 0; i < j->n; i++) {
		int r = item_state(a, j->item[i].id, why, sizeof(why));
		waits |= r == -EAGAIN;
		if (r == 0 || r == -EAGAIN)
			continue;
		const struct entry *e = set_find(a->set, slice_str(j->item[i].id));
		snprintf(text, sizeof(text), "%s%s%s", j->n > 1 && e ? entry_label(e) : "",
			 j->n > 1 && e ? ": " : "", why);
		job_fail(a, j, 502, text);
		return false;
	}
	if (!waits)
		job_done(a, j);
	return waits;
}

static void watch_fire(struct timer *t)
{
	struct forward_api *a = container_of(t, struct forward_api, watch);
	bool waits = false;
	for (struct list *i = a->jobs.next, *next; i != &a->jobs; i = next) {
		next = i->next;
		waits |= job_look(a, container_of(i, struct job, link));
	}
	if (waits)
		timer_set(a->rx, t, FORWARD_WATCH_MS);
}

/* Starts what does not serve yet; the reply follows when all of it does. */
static void job_start(struct forward_api *a, struct http_conn *c, bool create,
		      struct entry *const *all, size_t n, bool fresh)
{
	char err[1024];
	struct job *j = xcalloc(1, sizeof(*j) + n * sizeof(j->item[0]));
	j->c = c;
	j->create = create;
	j->n = n;
	for (size_t i = 0; i < n; i++) {
		struct entry *e = all[i];
		memcpy(j->item[i].id, e->rec.id, sizeof(j->item[i].id));
		j->item[i].undo = fresh ? UNDO_REMOVE : e->rec.paused ? UNDO_PAUSE : UNDO_NOTHING;
		e->rec.paused = false;
		if (!e->forward)
			entry_start(e, err, sizeof(err)); /* job_look finds the reason */
	}
	list_init(&j->link);
	list_add_tail(&a->jobs, &j->link);
	timer_set(a->rx, &a->watch, 0);
}

/* --- the verbs --- */

static bool same(const struct forward_record *a, const struct forward_record *b)
{
	return strcmp(a->src, b->src) == 0 && strcmp(a->dst, b->dst) == 0 &&
	       a->insecure == b->insecure;
}

static void create(struct forward_api *a, struct http_conn *c, struct json_doc *doc)
{
	struct forward_record rec;
	char err[1024];
	if (forward_record_get(&rec, doc, json_root(doc), err, sizeof(err)) < 0) {
		http_reply_error(c, 400, err);
		return;
	}
	rec.paused = false;
	struct entry *e = set_find(a->set, slice_str(rec.id));
	if (!e)
		e = set_find(a->set, slice_str(rec.name));
	if (e && !same(&e->rec, &rec)) {
		snprintf(err, sizeof(err),
			 "there is another forward %s; \"tsctl forward terminate %s\" ends it",
			 entry_label(e), entry_label(e));
		http_reply_error(c, 409, err);
	} else if (e) {
		job_start(a, c, true, &e, 1, false);
	} else if ((e = set_add(a->set, &rec, err, sizeof(err)))) {
		job_start(a, c, true, &e, 1, true);
	} else {
		http_reply_error(c, 400, err);
	}
	forward_record_end(&rec);
}

/* The forwards of "which" or "all", to be free()d, and how many; NULL after an error reply. */
static struct entry **pick(struct forward_api *a, struct http_conn *c, struct json_doc *doc,
			   size_t *n)
{
	bool all = false;
	json_bool(json_find(json_root(doc), "all"), &all);
	struct entry **found = xcalloc(MAX(a->set->n, 1), sizeof(struct entry *));
	*n = 0;
	for (struct list *i = a->set->entries.next; all && i != &a->set->entries; i = i->next)
		found[(*n)++] = container_of(i, struct entry, link);
	struct json *v = all ? NULL : json_first(json_find(json_root(doc), "which"));
	for (; v; v = json_next(v)) {
		struct slice key = SLICE("");
		char err[512];
		json_str(doc, v, &key);
		struct entry *e = set_find(a->set, key);
		if (!e) {
			snprintf(err, sizeof(err), "there is no forward %.*s", SLICE_FMT(key));
			http_reply_error(c, 404, err);
			free(found);
			return NULL;
		}
		bool twice = false;
		for (size_t k = 0; k < *n; k++)
			twice |= found[k] == e;
		if (!twice)
			found[(*n)++] = e;
	}
	return found;
}

static void pause_or_end(struct forward_api *a, struct http_conn *c, bool end,
			 struct entry *const *all, size_t n)
{
	char err[1024];
	struct buf b;
	buf_init(&b, REPLY_MAX);
	put_labels(&b, all, n);
	for (size_t i = 0; i < n; i++) {
		log_info("forward-%s forward=%s", end ? "terminated" : "paused",
			 entry_label(all[i]));
		if (end) {
			set_remove(all[i]);
			continue;
		}
		entry_stop(all[i]);
		all[i]->rec.paused = true;
	}
	if (set_save(a->set, err, sizeof(err)) < 0)
		http_reply_error(c, 500, err);
	else
		reply_json(c, 200, &b);
	buf_end(&b);
}

static void act(struct forward_api *a, struct http_conn *c, enum verb verb, struct json_doc *doc)
{
	size_t n;
	if (verb == CREATE) {
		create(a, c, doc);
		return;
	}
	struct entry **all = pick(a, c, doc, &n);
	if (all && verb == RESUME)
		job_start(a, c, false, all, n, false);
	else if (all)
		pause_or_end(a, c, verb == TERMINATE, all, n);
	free(all);
}

/* --- requests --- */

static void request_end(struct request *r)
{
	struct forward_api *a = r->api;
	list_del(&r->link);
	task_cancel(&r->task);
	buf_end(&r->body);
	free(r);
	check_idle(a);
}

static void request_act(struct request *r)
{
	struct json_doc *doc = json_parse(buf_data(&r->body), NULL, NULL);
	http_bind(r->c, NULL); /* a job may keep it, and looks by itself */
	if (r->api->ending)
		http_reply_error(r->c, 503, "the daemon is about to end");
	else if (!doc || json_root(doc)->type != JSON_OBJECT)
		http_reply_error(r->c, 400, "the request's body is no JSON object");
	else
		act(r->api, r->c, r->verb, doc);
	json_free(doc);
}

static void request_run(struct task *t)
{
	struct request *r = container_of(t, struct request, task);
	ssize_t n;
	do {
		struct iovec room = buf_room(&r->body);
		n = room.iov_len ? http_read(r->c, room.iov_base, room.iov_len) : -EMSGSIZE;
		buf_added(&r->body, n > 0 ? (size_t)n : 0);
	} while (n > 0);
	if (n == -EAGAIN)
		return;
	if (n == -EMSGSIZE)
		http_reply_error(r->c, 413, "the request is too long");
	else if (n < 0)
		http_abort(r->c, (int)n);
	else
		request_act(r);
	request_end(r);
}

static const struct {
	const char *method, *path;
	enum verb verb;
} routes[] = { { "GET", "/forwards", LIST },
	       { "POST", "/forwards", CREATE },
	       { "POST", "/pause", PAUSE },
	       { "POST", "/resume", RESUME },
	       { "POST", "/terminate", TERMINATE } };

void forward_api_handle(struct http_conn *c, struct http_head *head, void *arg)
{
	struct forward_api *a = arg;
	size_t i = 0;
	while (i < ARRAY_LEN(routes) && !(slice_eq(head->method, slice_str(routes[i].method)) &&
					  slice_eq(head->target, slice_str(routes[i].path))))
		i++;
	if (i == ARRAY_LEN(routes)) {
		http_reply_error(c, 404, "no such request");
		return;
	}
	if (a->ending) {
		http_reply_error(c, 503, "the daemon is about to end");
		return;
	}
	if (routes[i].verb == LIST) {
		reply_list(a, c);
		check_idle(a);
		return;
	}
	struct request *r = xcalloc(1, sizeof(*r));
	r->api = a;
	r->c = c;
	r->verb = routes[i].verb;
	buf_init(&r->body, BODY_MAX);
	task_init(&r->task, request_run);
	list_init(&r->link);
	list_add_tail(&a->requests, &r->link);
	http_bind(c, &r->task);
	task_wake(a->rx, &r->task);
}

void forward_api_init(struct forward_api *a)
{
	list_init(&a->requests);
	list_init(&a->jobs);
	timer_init(&a->watch, watch_fire);
}

void forward_api_end(struct forward_api *a)
{
	struct list *i;
	timer_clear(a->rx, &a->watch);
	a->ending = true;
	while ((i = list_pop(&a->requests))) {
		struct request *r = container_of(i, struct request, link);
		http_abort(r->c, -ERR_CANCELLED);
		task_cancel(&r->task);
		buf_end(&r->body);
		free(r);
	}
	while ((i = list_pop(&a->jobs))) {
		struct job *j = container_of(i, struct job, link);
		http_abort(j->c, -ERR_CANCELLED);
		free(j);
	}
}
