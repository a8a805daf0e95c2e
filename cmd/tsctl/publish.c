/* The containers: what the engine says is brought into the table, and the table to their ports. */
#include "cmd/tsctl/publish_int.h"

#include <errno.h>

#include "reactor/log.h"

enum { STATUS_BYTES = 768 * 1024 }; /* of ports in one status */

/* --- the table --- */

/* The place of id: where it is, or where it would be. */
static size_t place_of(const struct publish *p, struct slice id, bool *there)
{
	size_t from = 0, to = p->nboxes;
	*there = false;
	if (id.n != sizeof(p->boxes[0]->id) - 1)
		return to;
	while (from < to) {
		size_t mid = from + (to - from) / 2;
		int cmp = memcmp(p->boxes[mid]->id, id.p, id.n);
		if (cmp == 0) {
			*there = true;
			return mid;
		}
		if (cmp < 0)
			from = mid + 1;
		else
			to = mid;
	}
	return from;
}

struct box *box_find(const struct publish *p, struct slice id)
{
	bool there;
	size_t at = place_of(p, id, &there);
	return there ? p->boxes[at] : NULL;
}

struct box *box_get(struct publish *p, const struct docker_container *c)
{
	bool there;
	size_t at = place_of(p, slice_str(c->id), &there);
	if (there)
		return p->boxes[at];
	struct box *b = xcalloc(1, sizeof(*b));
	b->p = p;
	memcpy(b->id, c->id, sizeof(b->id));
	list_init(&b->pubs);
	if ((p->nboxes & (p->nboxes - 1)) == 0) /* a power of two is full */
		p->boxes = xrealloc(p->boxes, MAX(2 * p->nboxes, 1) * sizeof(struct box *));
	memmove(p->boxes + at + 1, p->boxes + at, (p->nboxes - at) * sizeof(struct box *));
	p->boxes[at] = b;
	p->nboxes++;
	return b;
}

/* It does not run. The box stays until a list says so, too: an older one may still be on its way.
 */
static void box_clear(struct box *b)
{
	host_watch_free(b->watch);
	b->watch = NULL;
	while (!list_empty(&b->pubs))
		pub_free(b, container_of(b->pubs.next, struct pub, link));
	b->touched = ++b->p->clock;
}

static void box_free(struct box *b)
{
	struct publish *p = b->p;
	bool there;
	size_t at = place_of(p, slice_str(b->id), &there);
	BUG_ON(!there);
	box_clear(b);
	memmove(p->boxes + at, p->boxes + at + 1, (p->nboxes - at - 1) * sizeof(struct box *));
	p->nboxes--;
	free(b);
}

static void box_name(struct box *b, const struct docker_container *c)
{
	snprintf(b->name, sizeof(b->name), "%s", c->name);
}

/* c runs: the second half, when what others had is closed. */
static void box_open(struct box *b, const struct docker_container *c)
{
	bool host = strcmp(c->network, "host") == 0;
	box_open_missing(b, c, false);
	if (host && !b->watch && !b->p->drained)
		b->watch = host_watch_new(b);
}

/* --- starts --- */

void box_hold(struct box *b)
{
	b->holds++;
}

void box_update(struct publish *p, const char *id, const struct docker_container *c)
{
	struct box *b = box_find(p, slice_str(id));
	if (b && b->holds == 0 && !c->running && !c->restarting)
		box_clear(b);
	else if (b && b->holds == 0 && c->running)
		box_drop_stale(b, c, false);
}

void box_release(struct box *b, const struct docker_container *c)
{
	struct publish *p = b->p;
	b->holds--;
	b->touched = ++p->clock;
	if (c && c->running) {
		box_name(b, c);
		box_drop_stale(b, c, false);
		box_open(b, c);
	} else if (c && !c->restarting && b->holds == 0) {
		box_clear(b);
	}
	/* Lists that came meanwhile left it alone. */
	if (p->follow)
		docker_follow_hint(p->follow);
}

/* --- lists --- */

struct listing {
	struct docker_container c;
	struct box *box; /* NULL: not for us to touch */
};

/* A start has set b since that list was asked for. */
static bool is_newer(const struct box *b, uint64_t asked)
{
	return b->touched > asked;
}

/* First what is gone is closed, then what is new is bound: a number may have changed hands. */
void publish_apply_list(struct publish *p, struct json_doc *doc, uint64_t asked)
{
	struct json *root = json_root(doc);
	struct listing *all = xcalloc(root->count + 1, sizeof(*all));
	size_t n = 0;
	bool skipped = false;
	for (size_t i = 0; i < p->nboxes; i++)
		p->boxes[i]->seen = false;
	for (struct json *v = json_first(root); v; v = json_next(v)) {
		struct listing *l = &all[n];
		if (docker_listed(&l->c, doc, v) < 0)
			continue;
		if (!l->c.running && !l->c.restarting) {
			docker_container_end(&l->c);
			continue;
		}
		n++;
		struct box *b = l->c.running ? box_get(p, &l->c) : box_find(p, slice_str(l->c.id));
		if (!b)
			continue;
		b->seen = true;
		box_name(b, &l->c);
		skipped |= is_newer(b, asked);
		if (l->c.running && b->holds == 0 && !is_newer(b, asked))
			l->box = b; /* a restarting one's ports wait for it */
	}
	for (size_t i = p->nboxes; i-- > 0;) {
		struct box *b = p->boxes[i];
		skipped |= !b->seen && is_newer(b, asked);
		if (!b->seen && b->holds == 0 && !is_newer(b, asked))
			box_free(b);
	}
	for (size_t i = 0; i < n; i++)
		if (all[i].box)
			box_drop_stale(all[i].box, &all[i].c, false);
	for (size_t i = 0; i < n; i++) {
		if (all[i].box)
			box_open(all[i].box, &all[i].c);
		docker_container_end(&all[i].c);
	}
	free(all);
	if (skipped && p->follow)
		docker_follow_hint(p->follow);
}

static struct stream *engine_dial(void *arg)
{
	struct publish *p = arg;
	return p->o.engine->dial(p->o.engine->arg);
}

static void on_asking(void *arg)
{
	struct publish *p = arg;
	p->asked = ++p->clock;
	if (p->o.binds)
		binds_asking(p->o.binds);
}

static void on_listed(void *arg, struct json_doc *doc)
{
	struct publish *p = arg;
	if (p->o.follow)
		publish_apply_list(p, doc, p->asked);
	if (p->o.binds)
		binds_listed(p->o.binds, doc);
}

/* --- life --- */

static void drained_run(struct task *t)
{
	struct publish *p = container_of(t, struct publish, drained_task);
	p->drained(p->arg);
}

int publish_address_check(const char *text)
{
	struct addr a = { .kind = ADDR_TCP };
	struct sockaddr_storage ss;
	socklen_t len;
	snprintf(a.host, sizeof(a.host), "%s", text);
	return addr_literal(&a, &ss, &len);
}

struct publish *publish_new(const struct publish_options *o)
{
	struct publish *p = xcalloc(1, sizeof(*p));
	p->o = *o;
	list_init(&p->leaving);
	list_init(&p->exchanges);
	task_init(&p->drained_task, drained_run);
	return p;
}

void publish_is_elsewhere(struct publish *p, bool elsewhere)
{
	if (p->o.follow && !elsewhere)
		log_info("ports not-followed reason=\"the engine's host is this machine\"");
	p->o.follow &= elsewhere;
	if (p->o.binds)
		binds_start(p->o.binds, elsewhere);
	if (!elsewhere)
		return;
	p->follow = docker_follow_new(
	    p->o.rx, &(struct docker_follow_options){
			 .dial = engine_dial, .asking = on_asking, .listed = on_listed, .arg = p });
}

void publish_start(struct publish *p)
{
	bool follow = p->o.follow || p->o.binds;
	if (follow)
		p->self = self_new(p);
	if (follow && !p->self)
		publish_is_elsewhere(p, true);
}

void publish_reconnect(struct publish *p)
{
	if (p->follow)
		docker_follow_reconnect(p->follow);
	for (size_t i = 0; i < p->nboxes; i++)
		if (p->boxes[i]->watch)
			host_watch_again(p->boxes[i]->watch);
}

static void stop(struct publish *p)
{
	self_free(p->self);
	p->self = NULL;
	docker_follow_free(p->follow);
	p->follow = NULL;
	for (size_t i = 0; i < p->nboxes; i++)
		box_clear(p->boxes[i]);
}

void publish_drain(struct publish *p, void (*drained)(void *arg), void *arg)
{
	p->drained = drained;
	p->arg = arg;
	stop(p);
	if (list_empty(&p->leaving))
		task_wake(p->o.rx, &p->drained_task);
}

void publish_free(struct publish *p)
{
	if (!p)
		return;
	exchanges_abort(p);
	stop(p);
	p->drained = NULL;
	leaving_end(p);
	task_cancel(&p->drained_task);
	while (p->nboxes)
		box_free(p->boxes[p->nboxes - 1]);
	free(p->boxes);
	free(p);
}

void publish_status(const struct publish *p, struct json_writer *w)
{
	size_t before = w->to->len;
	json_put_array(w);
	for (size_t i = 0; i < p->nboxes; i++) {
		const struct box *b = p->boxes[i];
		for (struct list *l = b->pubs.next; l != &b->pubs; l = l->next)
			if (w->to->len - before < STATUS_BYTES)
				pub_status(b, container_of(l, struct pub, link), w);
	}
	json_put_end(w);
}
