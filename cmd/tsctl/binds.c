/* What there is: syncs, and the containers that use them. */
#include "cmd/tsctl/binds_int.h"

#include "proto/docker/ports.h"
#include "reactor/log.h"

enum {
	CREATED_MS = 60 * 1000, /* a container that is not started keeps its files alike so long */
	GONE_MS = 10 * 1000     /* one that is gone: who waits for its end may still ask */
};

/* --- syncs --- */

static void put_users(const struct sync_item *item, struct json_writer *w)
{
	const struct bind_sync *s = container_of(item, const struct bind_sync, item);
	json_put_name(w, "containers");
	json_put_array(w);
	for (struct list *l = s->b->users.next; l != &s->b->users; l = l->next) {
		const struct bind_user *u = container_of(l, struct bind_user, link);
		bool uses = false;
		for (size_t i = 0; i < u->nuses; i++)
			uses |= u->uses[i].sync == s;
		if (uses && (u->name[0] || u->id[0]))
			json_put_str(w, u->name[0] ? slice_str(u->name) : slice_of(u->id, 12));
	}
	json_put_end(w);
}

static const struct sync_owner owner_ops = { .kind = "bind",
					     .stays = "it ends with the containers that use it",
					     .put = put_users };

static void on_changed(void *arg)
{
	struct bind_sync *s = arg;
	s->changes++;
	task_wake(s->b->o.rx, &s->b->wake_task);
}

static void job_start(struct bind_sync *s)
{
	struct binds *b = s->b;
	struct sync_spec sp = { .alpha = s->source,
				.file = s->file,
				.owner = b->owner,
				.mode = s->writable ? SYNC_TWO_WAY_RESOLVED : SYNC_ONE_WAY_REPLICA,
				.state_dir = b->o.state_dir,
				.rx = b->o.rx,
				.tunnel = b->o.tunnel,
				.changed = on_changed,
				.arg = s };
	binds_id(b, s->source, sp.id);
	s->item.job = sync_job_new(&sp, false);
}

static struct bind_sync *sync_find(struct binds *b, const char *source)
{
	for (struct list *l = b->syncs.next; l != &b->syncs; l = l->next) {
		struct bind_sync *s = container_of(l, struct bind_sync, link);
		if (strcmp(s->source, source) == 0)
			return s;
	}
	return NULL;
}

/* It is to be written from there, too, or is something else now. Fences that wait on the old job
 * find the new one. */
static void job_replace(struct bind_sync *s)
{
	struct sync_job *old = s->item.job;
	job_start(s);
	sync_job_free(old);
}

struct bind_sync *bind_sync_get(struct binds *b, const char *source, const char *named, bool file,
				bool writable)
{
	struct bind_sync *s = sync_find(b, source);
	if (s && (s->file != file || (writable && !s->writable))) {
		s->file = file;
		s->writable |= writable;
		job_replace(s);
	}
	if (!s) {
		s = xcalloc(1, sizeof(*s));
		s->b = b;
		s->source = xstrdup(source);
		s->named = xstrdup(named);
		s->file = file;
		s->writable = writable;
		job_start(s);
		s->item.name = "";
		s->item.owner = &owner_ops;
		sync_set_add(b->o.set, &s->item);
		list_init(&s->link);
		list_add_tail(&b->syncs, &s->link);
		log_info("sync-start sync=%.12s source=%s mode=%s", sync_job_id(s->item.job),
			 log_quote(slice_str(source)), writable ? "rw" : "ro");
	}
	s->uses++;
	return s;
}

void bind_sync_put(struct bind_sync *s)
{
	struct binds *b = s->b;
	if (--s->uses)
		return;
	log_info("sync-end sync=%.12s source=%s", sync_job_id(s->item.job),
		 log_quote(slice_str(s->source)));
	sync_set_remove(&s->item);
	sync_job_free(s->item.job);
	list_del(&s->link);
	free(s->source);
	free(s->named);
	free(s);
	binds_mask(b);
}

/* --- masks --- */

struct paths {
	char **v;
	size_t n;
};

static void paths_add(struct paths *p, const char *path)
{
	p->v = xrealloc(p->v, (p->n + 1) * sizeof(char *));
	p->v[p->n++] = xstrdup(path);
}

static void paths_end(struct paths *p)
{
	for (size_t i = 0; p->v && i < p->n; i++)
		free(p->v[i]);
	free(p->v);
	*p = (struct paths){ .n = 0 };
}

/* What both leave out: of two of which one covers the other, the one below. */
static void paths_cross(struct paths *all, const struct bind_use *use)
{
	struct paths both = { .n = 0 };
	for (size_t i = 0; i < all->n; i++)
		for (size_t k = 0; k < use->nmasks; k++) {
			if (docker_path_below(all->v[i], use->masks[k]))
				paths_add(&both, use->masks[k]);
			else if (docker_path_below(use->masks[k], all->v[i]))
				paths_add(&both, all->v[i]);
		}
	paths_end(all);
	*all = both;
}

/* What all containers that use it have something else mounted over. */
static struct paths masks_of_uses(const struct bind_sync *s)
{
	struct paths all = { .n = 0 };
	bool first = true;
	for (struct list *l = s->b->users.next; l != &s->b->users; l = l->next) {
		const struct bind_user *u = container_of(l, struct bind_user, link);
		for (size_t i = 0; i < u->nuses; i++) {
			const struct bind_use *use = &u->uses[i];
			if (use->sync != s)
				continue;
			for (size_t k = 0; first && k < use->nmasks; k++)
				paths_add(&all, use->masks[k]);
			if (!first)
				paths_cross(&all, use);
			first = false;
		}
	}
	return all;
}

void binds_mask(struct binds *b)
{
	for (struct list *l = b->syncs.next; l != &b->syncs; l = l->next) {
		struct bind_sync *s = container_of(l, struct bind_sync, link);
		if (s->file)
			continue;
		struct paths masks = masks_of_uses(s);
		/* What has a sync of its own is that one's, in the same place on the guest. */
		for (struct list *k = b->syncs.next; k != &b->syncs; k = k->next) {
			const struct bind_sync *in = container_of(k, struct bind_sync, link);
			const char *below = docker_path_below(s->source, in->source);
			if (below && *below)
				paths_add(&masks, below);
		}
		masks.n = docker_paths_outermost(masks.v, masks.n);
		sync_job_masks(s->item.job, masks.v, masks.n);
		paths_end(&masks);
	}
}

/* --- containers --- */

struct bind_user *bind_user_find(struct binds *b, struct slice container)
{
	struct bind_user *starts = NULL;
	for (struct list *l = b->users.next; container.n && l != &b->users; l = l->next) {
		struct bind_user *u = container_of(l, struct bind_user, link);
		if (slice_eq(slice_str(u->id), container) ||
		    slice_eq(slice_str(u->name), container))
			return u;
		if (slice_starts(slice_str(u->id), container))
			starts = u;
	}
	return starts;
}

static void user_timer(struct timer *t)
{
	struct bind_user *u = container_of(t, struct bind_user, timer);
	if (u->holds == 0 && !u->step)
		bind_user_free(u);
	else
		timer_set(u->b->o.rx, &u->timer, GONE_MS);
}

struct bind_user *bind_user_new(struct binds *b)
{
	struct bind_user *u = xcalloc(1, sizeof(*u));
	u->b = b;
	u->holds = 1;
	timer_init(&u->timer, user_timer);
	list_init(&u->link);
	list_add_tail(&b->users, &u->link);
	return u;
}

void bind_user_add(struct bind_user *u, struct bind_sync *s, const struct docker_binds *binds,
		   size_t i)
{
	if ((u->nuses & (u->nuses - 1)) == 0) /* a power of two is full */
		u->uses = xrealloc(u->uses, MAX(2 * u->nuses, 1) * sizeof(*u->uses));
	struct bind_use *use = &u->uses[u->nuses++];
	use->sync = s;
	use->masks = docker_binds_masks(binds, i, &use->nmasks);
}

void bind_uses_end(struct bind_use *uses, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		bind_sync_put(uses[i].sync);
		for (size_t k = 0; k < uses[i].nmasks; k++)
			free(uses[i].masks[k]);
		free(uses[i].masks);
	}
	free(uses);
}

void bind_user_free(struct bind_user *u)
{
	struct binds *b = u->b;
	timer_clear(b->o.rx, &u->timer);
	binds_step_free(u->step);
	list_del(&u->link);
	bind_uses_end(u->uses, u->nuses);
	free(u);
	binds_mask(b);
}

void bind_user_release(struct bind_user *u)
{
	if (--u->holds)
		return;
	if (!u->id[0])
		bind_user_free(u);
	else if (!u->running && !u->gone)
		timer_set(u->b->o.rx, &u->timer, CREATED_MS);
}

void bind_user_runs(struct bind_user *u)
{
	u->running = true;
	u->gone = false;
	u->touched = ++u->b->clock;
	timer_clear(u->b->o.rx, &u->timer);
}

static void on_last(void *arg, int status, const char *why)
{
	struct bind_user *u = arg;
	(void)status, (void)why; /* it was logged */
	binds_step_free(u->step);
	u->step = NULL;
	if (u->gone) /* else it was started again */
		timer_set(u->b->o.rx, &u->timer, GONE_MS);
}

/* It runs no more: a last time its files are brought back. */
static void user_gone(struct bind_user *u)
{
	u->running = false;
	u->gone = true;
	if (!u->step)
		u->step = binds_settle_user(u->b, u, on_last, u);
	if (!u->step)
		timer_set(u->b->o.rx, &u->timer, GONE_MS);
}

/* --- the engine's list --- */

void binds_asking(struct binds *b)
{
	b->asked = ++b->clock;
}

static void on_adopted(void *arg, int status, const char *why)
{
	struct bind_user *u = arg;
	if (status)
		log_warn("sync-failed container=%s reason=%s", log_quote(slice_str(u->name)),
			 log_quote(slice_str(why)));
	binds_step_free(u->step);
	u->step = NULL;
}

static bool has_ours(const struct binds *b, const struct docker_binds *binds)
{
	for (size_t i = 0; i < binds->n; i++)
		if (binds_ours(b, binds->v[i].source))
			return true;
	return false;
}

/* One that runs, and is not known. */
static void adopt(struct binds *b, const struct docker_container *c, struct json_doc *doc,
		  struct json *element)
{
	struct docker_binds binds;
	docker_binds_mounted(&binds, doc, element);
	if (!has_ours(b, &binds)) {
		docker_binds_end(&binds);
		return;
	}
	struct bind_user *u = bind_user_new(b);
	memcpy(u->id, c->id, sizeof(u->id));
	snprintf(u->name, sizeof(u->name), "%s", c->name);
	u->seen = true;
	bind_user_runs(u);
	u->step = binds_adopt(b, u, &binds, on_adopted, u);
	bind_user_release(u);
}

static void listed(struct binds *b, struct json_doc *doc, struct json *element)
{
	struct docker_container c;
	if (docker_listed(&c, doc, element) < 0)
		return;
	struct bind_user *u = bind_user_find(b, slice_str(c.id));
	bool runs = c.running || c.restarting;
	if (u && runs) {
		u->seen = true;
		snprintf(u->name, sizeof(u->name), "%s", c.name);
		if (!u->running && u->holds == 0 && u->touched <= b->asked)
			bind_user_runs(u);
	} else if (runs && b->root) {
		adopt(b, &c, doc, element);
	}
	docker_container_end(&c);
}

void binds_listed(struct binds *b, struct json_doc *doc)
{
	for (struct list *l = b->users.next; l != &b->users; l = l->next)
		container_of(l, struct bind_user, link)->seen = false;
	for (struct json *v = json_first(json_root(doc)); v; v = json_next(v))
		listed(b, doc, v);
	for (struct list *l = b->users.next, *next; l != &b->users; l = next) {
		struct bind_user *u = container_of(l, struct bind_user, link);
		next = l->next;
		if (u->running && !u->seen && u->holds == 0 && u->touched <= b->asked)
			user_gone(u);
	}
}

/* --- replies --- */

const char *binds_ours(const struct binds *b, const char *there)
{
	size_t n = b->root ? strlen(b->root) : 0;
	return n && strncmp(there, b->root, n) == 0 && there[n] == '/' ? there + n : NULL;
}

bool binds_may_show(const struct binds *b)
{
	return b->root != NULL;
}

bool binds_source_here(void *arg, struct slice there, struct slice *here)
{
	const struct binds *b = arg;
	struct slice root = slice_str(b->root);
	if (!b->root || !slice_starts(there, root) || there.n == root.n || there.p[root.n] != '/')
		return false;
	*here = slice_after(there, root.n);
	for (struct list *l = b->syncs.next; l != &b->syncs; l = l->next) {
		const struct bind_sync *s = container_of(l, struct bind_sync, link);
		if (slice_eq(*here, slice_str(s->source)))
			*here = slice_str(s->named);
	}
	return true;
}

bool binds_fenced(const struct binds *b, struct slice container, bool unknown)
{
	if (!b->o.fence || b->state == BINDS_OFF)
		return false;
	const struct bind_user *u = bind_user_find((struct binds *)(uintptr_t)b, container);
	return u ? u->nuses > 0 && !u->unfenced : unknown;
}

/* --- life --- */

static void wake_run(struct task *t)
{
	binds_steps_run(container_of(t, struct binds, wake_task));
}

/* While steps wait (binds_steps_run sets it): not all that they wait for wakes them. */
static void tick(struct timer *t)
{
	struct binds *b = container_of(t, struct binds, tick);
	binds_steps_run(b);
}

struct binds *binds_new(const struct binds_options *o)
{
	struct binds *b = xcalloc(1, sizeof(*b));
	b->o = *o;
	b->server = xstrdup(o->server);
	if (o->owner)
		snprintf(b->owner, sizeof(b->owner), "%s", o->owner);
	else
		binds_default_owner(b->owner, sizeof(b->owner));
	list_init(&b->syncs);
	list_init(&b->users);
	list_init(&b->steps);
	list_init(&b->tails);
	binds_root_init(b);
	task_init(&b->wake_task, wake_run);
	timer_init(&b->tick, tick);
	return b;
}

void binds_free(struct binds *b)
{
	if (!b)
		return;
	struct list *l;
	binds_tails_end(b);
	while ((l = list_pop(&b->users)))
		bind_user_free(container_of(l, struct bind_user, link));
	BUG_ON(!list_empty(&b->steps));
	binds_root_end(b);
	task_cancel(&b->wake_task);
	timer_clear(b->o.rx, &b->tick);
	free(b->server);
	free(b);
}
