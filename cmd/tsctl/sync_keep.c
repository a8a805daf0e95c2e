#include "cmd/tsctl/sync_keep.h"

#include <errno.h>
#include <unistd.h>

#include "cmd/tsctl/state_file.h"
#include "reactor/err.h"
#include "reactor/log.h"

enum {
	WATCH_MS = 10,
	RETRY_MS = 5000,  /* for a tunnel whose certificates cannot be read */
	RETURN_MS = 2000, /* that a tunnel which was up before has to come back, for a new sync */
	OPEN_MS = 30 * 1000
};

struct kept {
	struct sync_item item;
	struct sync_keep *keep;
	struct sync_record rec;
	struct tsurl url;
	struct shared_tunnel *tunnel;
};

/* A request that waits for its sync to be up. By id, since it may go meanwhile. */
struct create {
	struct list link; /* sync_keep.creates */
	struct http_conn *c;
	char id[SYNC_ID_LEN + 1];
	bool fresh, joined;
	uint64_t since_ms, most_ms;
};

static struct kept *kept_of(struct sync_item *item)
{
	return container_of(item, struct kept, item);
}

/* --- the file --- */

static void put_record(void *arg, size_t i, struct json_writer *w)
{
	struct list **at = arg;
	(void)i;
	*at = (*at)->next;
	sync_record_put(w, &kept_of(container_of(*at, struct sync_item, link))->rec);
}

static int save(struct sync_keep *k, char *err, size_t errlen)
{
	struct list *at = &k->set.items;
	return state_save(k->path, "syncs", k->set.n, put_record, &at, err, errlen);
}

/* --- one sync --- */

static void kept_free(struct kept *s)
{
	sync_job_free(s->item.job);
	tunnels_put(s->tunnel);
	tsurl_end(&s->url);
	sync_record_end(&s->rec);
	free(s);
}

static int on_paused(struct sync_item *item, bool paused, char *err, size_t errlen)
{
	struct kept *s = kept_of(item);
	s->rec.paused = paused;
	return save(s->keep, err, errlen);
}

/* The trash stays for whoever misses something. */
static void forget_state(const struct sync_keep *k, const char *id)
{
	char *path = xasprintf("%s/%s/state", k->state_dir, id);
	unlink(path);
	free(path);
}

static void kept_remove(struct kept *s)
{
	sync_set_remove(&s->item);
	forget_state(s->keep, s->rec.id);
	kept_free(s);
}

static int on_terminate(struct sync_item *item, char *err, size_t errlen)
{
	struct kept *s = kept_of(item);
	struct sync_keep *k = s->keep;
	kept_remove(s);
	return save(k, err, errlen);
}

static const struct sync_owner by_hand = { .kind = "manual",
					   .paused = on_paused,
					   .terminate = on_terminate };

/* As people are shown it: without the names of files. */
static char *shown(const struct tsurl *u)
{
	struct tsurl plain = { .server = u->server, .path = u->path };
	struct buf b;
	buf_init(&b, 4 * TSURL_MAX);
	tsurl_put(&b, &plain);
	char *text = xslicedup(buf_data(&b));
	buf_end(&b);
	return text;
}

static bool get_tunnel(struct kept *s, char *err, size_t errlen)
{
	s->tunnel = tunnels_get(s->keep->tunnels, &s->url, s->rec.connect_ms, s->rec.handshake_ms,
				s->rec.keepalive_ms, err, errlen);
	return s->tunnel != NULL;
}

/* Tries again what had no tunnel. */
static void on_retry(struct timer *t)
{
	struct sync_keep *k = container_of(t, struct sync_keep, retry);
	char err[1024];
	bool again = false;
	for (struct list *i = k->set.items.next; i != &k->set.items; i = i->next) {
		struct kept *s = kept_of(container_of(i, struct sync_item, link));
		if (s->tunnel)
			continue;
		bool has_tunnel = get_tunnel(s, err, sizeof(err));
		sync_job_tunnel(s->item.job, has_tunnel ? s->tunnel->tunnel : NULL, err);
		again |= !has_tunnel;
	}
	if (again)
		timer_set(k->rx, t, RETRY_MS);
}

/* Makes it, and starts it unless it is paused. The record is taken in any case. NULL with a
 * sentence; loading: only what can never work is refused. */
static struct kept *kept_new(struct sync_keep *k, struct sync_record *rec, bool loading, char *err,
			     size_t errlen)
{
	struct kept *s = xcalloc(1, sizeof(*s));
	s->keep = k;
	s->rec = *rec;
	*rec = (struct sync_record){ .id = "" };
	if (k->set.n >= SYNCS_MAX) {
		snprintf(err, errlen, "there are %d syncs, that is the limit", SYNCS_MAX);
		goto no;
	}
	if (tsurl_parse(&s->url, slice_str(s->rec.beta), err, errlen) < 0)
		goto no;
	if (s->url.has_target) {
		snprintf(err, errlen, "BETA must end in a directory, not in a port or socket");
		goto no;
	}
	bool has_tunnel = get_tunnel(s, err, errlen);
	if (!has_tunnel && !loading)
		goto no;
	struct sync_spec sp = { .alpha = s->rec.alpha,
				.file = s->rec.file,
				.beta = s->url.path,
				.shown = shown(&s->url),
				.mode = s->rec.mode,
				.ignore = s->rec.ignore,
				.ignore_vcs = s->rec.ignore_vcs,
				.state_dir = k->state_dir,
				.rx = k->rx,
				.tunnel = has_tunnel ? s->tunnel->tunnel : NULL };
	memcpy(sp.id, s->rec.id, sizeof(sp.id));
	s->item = (struct sync_item){ .name = s->rec.name, .owner = &by_hand, .arg = s };
	s->item.job = sync_job_new(&sp, s->rec.paused);
	free((char *)(uintptr_t)sp.shown);
	sync_set_add(&k->set, &s->item);
	if (!has_tunnel) {
		sync_job_tunnel(s->item.job, NULL, err);
		timer_set(k->rx, &k->retry, RETRY_MS);
	}
	return s;
no:
	kept_free(s);
	return NULL;
}

/* --- create --- */

static void create_end(struct sync_keep *k, struct create *c)
{
	list_del(&c->link);
	free(c);
	if (k->idle)
		k->idle(k->arg);
}

static void create_fail(struct sync_keep *k, struct create *c, int status, const char *why)
{
	char err[1024];
	struct sync_item *item = sync_set_find(&k->set, slice_str(c->id));
	if (item && c->fresh) {
		kept_remove(kept_of(item));
		if (save(k, err, sizeof(err)) < 0)
			log_error("state not-kept reason=%s", log_quote(slice_str(err)));
	}
	if (http_failed(c->c))
		http_abort(c->c, -ERR_CANCELLED);
	else
		http_reply_error(c->c, status, why);
	create_end(k, c);
}

static void create_done(struct sync_keep *k, struct create *c, struct kept *s)
{
	static const struct http_field type = { { "Content-Type", 12 },
						{ "application/json", 16 } };
	char err[1024];
	struct buf b;
	struct json_writer w;
	if (c->fresh && save(k, err, sizeof(err)) < 0) {
		create_fail(k, c, 500, err);
		return;
	}
	if (c->fresh)
		log_info("sync-created sync=%s local=%s", sync_item_label(&s->item),
			 log_quote(slice_str(s->rec.alpha)));
	buf_init(&b, 4096);
	json_writer_begin(&w, &b);
	json_put_object(&w);
	json_put_name(&w, "id");
	json_put_str(&w, slice_str(s->rec.id));
	json_put_name(&w, "name");
	json_put_str(&w, slice_str(s->rec.name));
	json_put_end(&w);
	json_writer_end(&w);
	http_reply(c->c, 201, &type, 1, buf_data(&b));
	buf_end(&b);
	create_end(k, c);
}

/* Why the far end cannot be reached, and what helps. False: it is not known yet. */
static bool unreachable(const struct create *c, const struct kept *s, char *text, size_t textlen)
{
	struct tunnel_status t;
	uint64_t waited = reactor_now(s->keep->rx) - c->since_ms;
	if (!s->tunnel)
		return false; /* it is failed */
	tunnel_status(s->tunnel->tunnel, &t);
	if (!t.up && t.last_code < 0 && (!c->joined || waited >= RETURN_MS)) {
		tunnel_advice(t.last_code, t.last_error, NULL, &s->tunnel->opt, text, textlen);
		return true;
	}
	snprintf(text, textlen, "the guest %s does not answer", t.server);
	return waited > c->most_ms;
}

static void create_look(struct sync_keep *k, struct create *c)
{
	struct sync_item *item = sync_set_find(&k->set, slice_str(c->id));
	const char *why = "";
	char text[1024];
	if (!item || http_failed(c->c)) {
		create_fail(k, c, 502, "another command has ended it");
		return;
	}
	struct kept *s = kept_of(item);
	const char *state = sync_job_state(item->job, &why);
	if (strcmp(state, "failed") == 0) {
		snprintf(text, sizeof(text), "%s", why);
		create_fail(k, c, 502, text);
	} else if (strcmp(state, "connecting") != 0) {
		create_done(k, c, s);
	} else if (unreachable(c, s, text, sizeof(text))) {
		create_fail(k, c, 502, text);
	}
}

static void on_watch(struct timer *t)
{
	struct sync_keep *k = container_of(t, struct sync_keep, watch);
	for (struct list *i = k->creates.next, *next; i != &k->creates; i = next) {
		next = i->next;
		create_look(k, container_of(i, struct create, link));
	}
	if (!list_empty(&k->creates))
		timer_set(k->rx, t, WATCH_MS);
}

static bool within(const char *outer, const char *inner)
{
	size_t n = strlen(outer);
	return strcmp(outer, "/") == 0 ||
	       (strncmp(outer, inner, n) == 0 && (inner[n] == '/' || inner[n] == '\0'));
}

static bool overlap(const char *a, const char *b)
{
	return within(a, b) || within(b, a);
}

/* What stands in the way of rec: 0, or the HTTP status, with a sentence. *same: it is there. */
static int check_others(struct sync_keep *k, const struct sync_record *rec, const struct tsurl *url,
			struct kept **same, char *err, size_t errlen)
{
	*same = NULL;
	for (struct list *i = k->set.items.next; i != &k->set.items; i = i->next) {
		struct kept *s = kept_of(container_of(i, struct sync_item, link));
		const char *label = sync_item_label(&s->item);
		if (strcmp(s->rec.id, rec->id) == 0 || (sync_record_same_ends(&s->rec, rec) &&
							sync_record_same_options(&s->rec, rec))) {
			*same = s;
			return 0;
		}
		if (sync_record_same_ends(&s->rec, rec)) {
			snprintf(err, errlen,
				 "these two are synced already, with other options (%s%s%s, %s); "
				 "\"tsctl sync terminate %s\" ends that",
				 label, s->rec.ignore[0] ? ", with ignored paths" : "",
				 s->rec.ignore_vcs ? ", --ignore-vcs" : "",
				 sync_mode_text(s->rec.mode), label);
			return 409;
		}
		if (rec->name[0] && strcmp(rec->name, s->rec.name) == 0) {
			snprintf(err, errlen,
				 "there is another sync %s; \"tsctl sync terminate %s\" ends it",
				 label, label);
			return 409;
		}
		if (strcmp(s->url.server.host, url->server.host) == 0 &&
		    s->url.server.port == url->server.port && overlap(s->rec.alpha, rec->alpha) &&
		    overlap(s->url.path, url->path)) {
			snprintf(err, errlen,
				 "the sync %s has %s and %s already, and one lies in the other",
				 label, s->rec.alpha, s->url.path);
			return 409;
		}
	}
	return 0;
}

void sync_keep_create(void *arg, struct http_conn *conn, struct json_doc *doc)
{
	struct sync_keep *k = arg;
	struct sync_record rec;
	struct tsurl url = { .path = NULL };
	struct kept *s = NULL;
	char err[2 * PATH_MAX];
	int status = 400;
	if (sync_record_get(&rec, doc, json_root(doc), err, sizeof(err)) == 0 &&
	    tsurl_parse(&url, slice_str(rec.beta), err, sizeof(err)) == 0 && url.path)
		status = check_others(k, &rec, &url, &s, err, sizeof(err));
	tsurl_end(&url);
	bool fresh = status == 0 && !s;
	if (fresh && !(s = kept_new(k, &rec, false, err, sizeof(err))))
		status = 400;
	if (rec.id[0])
		sync_record_end(&rec);
	if (status) {
		http_reply_error(conn, status, err);
		return;
	}
	struct create *c = xcalloc(1, sizeof(*c));
	c->c = conn;
	memcpy(c->id, s->rec.id, sizeof(c->id));
	c->fresh = fresh;
	c->joined = s->tunnel && s->tunnel->users > 1;
	c->since_ms = reactor_now(k->rx);
	c->most_ms = s->rec.connect_ms + s->rec.handshake_ms + OPEN_MS;
	list_init(&c->link);
	list_add_tail(&k->creates, &c->link);
	timer_set(k->rx, &k->watch, 0);
}

bool sync_keep_busy(const struct sync_keep *k)
{
	return !list_empty(&k->creates);
}

/* --- life --- */

static int on_record(void *arg, struct json_doc *doc, struct json *object, char *err, size_t errlen)
{
	struct sync_keep *k = arg;
	struct sync_record rec;
	char why[1024];
	if (sync_record_get(&rec, doc, object, err, errlen) < 0)
		return -EINVAL;
	char id[13];
	snprintf(id, sizeof(id), "%.12s", rec.id);
	if (kept_new(k, &rec, true, why, sizeof(why)))
		return 0;
	snprintf(err, errlen, "sync %s: %.900s", id, why);
	return -EINVAL;
}

int sync_keep_open(struct sync_keep *k, struct tunnels *tunnels, char *err, size_t errlen)
{
	k->rx = tunnels->rx;
	k->tunnels = tunnels;
	sync_set_init(&k->set, k->rx);
	list_init(&k->creates);
	timer_init(&k->watch, on_watch);
	timer_init(&k->retry, on_retry);
	int r = state_path(k->path, sizeof(k->path), "syncs.json", true, err, errlen);
	if (r == 0)
		r = state_path(k->state_dir, sizeof(k->state_dir), "sync", true, err, errlen);
	if (r < 0)
		return r;
	return state_load(k->path,
			  &(struct state_load){
			      .member = "syncs", .max = SYNCS_MAX, .each = on_record, .arg = k },
			  err, errlen);
}

void sync_keep_close(struct sync_keep *k)
{
	struct list *i;
	if (!k->rx)
		return;
	timer_clear(k->rx, &k->watch);
	timer_clear(k->rx, &k->retry);
	while ((i = list_pop(&k->creates))) {
		struct create *c = container_of(i, struct create, link);
		http_abort(c->c, -ERR_CANCELLED);
		free(c);
	}
	while ((i = list_pop(&k->set.items))) {
		struct kept *s = kept_of(container_of(i, struct sync_item, link));
		sync_set_remove(&s->item);
		kept_free(s);
	}
}
