#include "cmd/pico-apiserver/sandbox_int.h"

#include <errno.h>
#include <time.h>

#include "reactor/err.h"
#include "reactor/log.h"

enum { TOMBSTONES = 4096, FAILED_KEEP_MS = 300 * 1000, SAMPLE_MS = 1000 };

int64_t session_now(void)
{
	return (int64_t)time(NULL);
}

/* --- the set --- */

static struct session **bucket_of(struct sessions *set, struct slice id)
{
	uint32_t h = 2166136261U;
	for (size_t i = 0; i < id.n; i++)
		h = (h ^ (unsigned char)id.p[i]) * 16777619U;
	return &set->bucket[h % ARRAY_LEN(set->bucket)];
}

struct session *session_by_id(struct sessions *set, struct slice id)
{
	struct session *s = *bucket_of(set, id);
	while (s && !slice_eq(slice_str(s->r.id), id))
		s = s->next;
	return s;
}

static void fire(struct timer *t);

/* Takes the record. */
struct session *session_add(struct sessions *set, struct sandbox_record *r)
{
	struct session *s = xcalloc(1, sizeof(*s));
	s->set = set;
	s->r = *r;
	*r = (struct sandbox_record){ 0 };
	list_init(&s->waiters);
	list_init(&s->tunnels);
	timer_init(&s->timer, fire);
	/* Records come in any order. */
	struct list *before = set->all.prev;
	while (before != &set->all &&
	       container_of(before, struct session, link)->r.order > s->r.order)
		before = before->prev;
	list_init(&s->link);
	s->link.next = before->next;
	s->link.prev = before;
	before->next->prev = &s->link;
	before->next = &s->link;
	struct session **b = bucket_of(set, slice_str(s->r.id));
	s->next = *b;
	*b = s;
	set->n++;
	return s;
}

/* Tells those who wait; s is NULL to them when gone. */
static void settle(struct session *s, bool gone, int code, const char *why)
{
	struct list told, *l;
	list_init(&told);
	list_splice(&told, &s->waiters);
	while ((l = list_pop(&told))) {
		struct session_waiter *w = container_of(l, struct session_waiter, link);
		w->settled(w, gone ? NULL : s, code, why);
	}
}

/* The end of s: it is in no list afterwards. */
void session_drop(struct session *s, const char *why)
{
	struct sessions *set = s->set;
	struct session **at = bucket_of(set, slice_str(s->r.id));
	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	list_del(&s->link);
	set->n--;
	tunnels_abort(s);
	if (s->box)
		s->box->ops->free(s->box);
	s->box = NULL;
	timer_clear(set->rx, &s->timer);
	settle(s, true, -ERR_NOT_FOUND, why);
	sandbox_record_end(&s->r);
	free(s->why);
	free(s);
	if (set->ending && set->n == 0 && set->drained)
		*set->drained = true;
}

void session_bury(struct session *s)
{
	struct sessions *set = s->set;
	if (!set->tomb)
		set->tomb = xcalloc(TOMBSTONES, sizeof(*set->tomb));
	struct tombstone *t = &set->tomb[set->tomb_at++ % TOMBSTONES];
	free(t->owner);
	memcpy(t->id, s->r.id, sizeof(t->id));
	t->owner = xstrdup(s->r.owner);
	set->ntomb = MIN(set->ntomb + 1, (size_t)TOMBSTONES);
	set->expired_total++;
}

/* --- time --- */

uint64_t session_ms_until(int64_t t)
{
	struct timespec ts;
	clock_gettime(CLOCK_REALTIME, &ts);
	int64_t ms = (t - (int64_t)ts.tv_sec) * 1000 - ts.tv_nsec / 1000000;
	return ms > 0 ? (uint64_t)ms : 0;
}

static int64_t due(const struct session *s)
{
	bool idle = s->r.idle > 0 && s->busy == 0 && s->r.state == SANDBOX_RUNNING;
	/* One more: the last activity was within that second, and no idle time is to be shorter
	 * than what was asked for. */
	return idle ? MIN(s->r.expires, s->r.active + s->r.idle + 1) : s->r.expires;
}

static void arm(struct session *s)
{
	timer_set(s->set->rx, &s->timer, session_ms_until(due(s)) + 1);
}

static void give_up(struct session *s, const char *why);

static void fire(struct timer *t)
{
	struct session *s = container_of(t, struct session, timer);
	if (s->r.state == SANDBOX_FAILED) {
		if (s->unremoved && !s->set->ending)
			session_delete(s); /* perhaps now */
		else
			session_drop(s, s->why);
		return;
	}
	tunnels_sample(s);
	if (due(s) <= session_now()) {
		log_info("session-expired id=%s name=%s reason=%s", s->r.id, s->r.name,
			 s->r.expires <= session_now() ? "ttl" : "idle");
		session_bury(s);
		session_delete(s);
	} else if (s->r.state == SANDBOX_CREATING && s->set->listed) {
		give_up(s, "the sandbox was not ready in time");
	} else if (s->r.state != SANDBOX_DELETING) {
		arm(s);
	}
}

/* Idle times depend on tunnels' bytes, which nobody tells us of. */
void session_sample_all(struct timer *t)
{
	struct sessions *set = container_of(t, struct sessions, sample);
	for (struct list *l = set->all.next; l != &set->all; l = l->next)
		tunnels_sample(container_of(l, struct session, link));
	timer_set(set->rx, t, SAMPLE_MS);
}

void session_touch(struct session *s)
{
	s->r.active = session_now();
}

void session_work_begin(struct session *s)
{
	s->busy++;
	session_touch(s);
}

/* The timer may have looked while work was under way, and then waits for the ttl. */
void session_work_end(struct session *s)
{
	BUG_ON(s->busy == 0);
	s->busy--;
	session_touch(s);
	if (s->r.state == SANDBOX_RUNNING)
		arm(s);
}

/* --- states --- */

static void set_state(struct session *s, enum sandbox_state state)
{
	log_debug("session-state id=%s from=%s to=%s", s->r.id, sandbox_state_text(s->r.state),
		  sandbox_state_text(state));
	s->r.state = state;
	session_store_put(s->set->store, &s->r);
}

bool session_unsettled(const struct session *s)
{
	return s->r.state == SANDBOX_CREATING || s->r.state == SANDBOX_PAUSING ||
	       s->r.state == SANDBOX_RESUMING || s->r.state == SANDBOX_DELETING;
}

void session_wait(struct session *s, struct session_waiter *w)
{
	BUG_ON(!session_unsettled(s));
	list_init(&w->link);
	list_add_tail(&s->waiters, &w->link);
}

void session_unwait(struct session_waiter *w)
{
	if (w->link.next)
		list_del(&w->link);
}

void session_on_ready(void *arg, const char *fingerprint, bool paused)
{
	struct session *s = arg;
	if (s->r.state != SANDBOX_CREATING)
		return;
	if (fingerprint)
		snprintf(s->r.fingerprint, sizeof(s->r.fingerprint), "%s", fingerprint);
	session_touch(s);
	set_state(s, paused ? SANDBOX_PAUSED : SANDBOX_RUNNING);
	arm(s);
	log_info("session-ready id=%s name=%s state=%s", s->r.id, s->r.name,
		 sandbox_state_text(s->r.state));
	settle(s, false, 0, NULL);
}

static void on_removed(void *arg, int code, const char *why)
{
	struct session *s = arg;
	bool told = s->r.state == SANDBOX_DELETING;
	s->unremoved = code < 0;
	if (code < 0)
		log_error("sandbox-remove id=%s name=%s error=%s", s->r.id, s->r.name,
			  log_quote(slice_str(why)));
	else
		session_store_remove(s->set->store, s->r.id); /* else the next start tries again */
	if (s->box)
		s->box->ops->free(s->box);
	s->box = NULL;
	if (code < 0 && told && !s->set->ending) {
		free(s->why);
		s->why = xasprintf("it could not be removed: %s", why);
		set_state(s, SANDBOX_FAILED);
	}
	if (s->r.state == SANDBOX_FAILED) {
		timer_set(s->set->rx, &s->timer, s->set->ending ? 0 : FAILED_KEEP_MS);
		if (told)
			settle(s, false, code, s->why);
		return;
	}
	log_info("session-gone id=%s name=%s", s->r.id, s->r.name);
	session_drop(s, "the session was deleted");
}

/* There is no sandbox (any more): what is left of it goes, the session stays for its message. */
static void give_up(struct session *s, const char *why)
{
	log_warn("session-failed id=%s name=%s reason=%s", s->r.id, s->r.name,
		 log_quote(slice_str(why)));
	free(s->why);
	s->why = xstrdup(why);
	s->set->failed_total++;
	set_state(s, SANDBOX_FAILED);
	timer_clear(s->set->rx, &s->timer);
	tunnels_abort(s);
	s->box->ops->destroy(s->box, on_removed, s);
	settle(s, false, -ERR_NOT_FOUND, s->why);
}

void session_on_gone(void *arg, int code, const char *why)
{
	struct session *s = arg;
	if (s->r.state != SANDBOX_DELETING && s->r.state != SANDBOX_FAILED)
		give_up(s, why ? why : err_text(code));
}

void session_delete(struct session *s)
{
	if (s->r.state == SANDBOX_DELETING)
		return;
	bool failed = s->r.state == SANDBOX_FAILED;
	set_state(s, SANDBOX_DELETING);
	timer_clear(s->set->rx, &s->timer);
	tunnels_abort(s);
	if (!s->box && s->unremoved) {
		struct box_found left = { .id = s->r.id, .name = s->r.name };
		s->set->backend->ops->remove(s->set->backend, &left, on_removed, s);
	} else if (!s->box) {
		session_store_remove(s->set->store, s->r.id);
		session_drop(s, s->why ? s->why : "the session was deleted");
	} else if (!failed) { /* else that is under way */
		s->box->ops->destroy(s->box, on_removed, s);
	}
}

static void on_paused(void *arg, int code, const char *why)
{
	struct session *s = arg;
	if (s->r.state != SANDBOX_PAUSING)
		return;
	set_state(s, code < 0 ? SANDBOX_RUNNING : SANDBOX_PAUSED);
	arm(s);
	settle(s, false, code, why);
}

static void on_resumed(void *arg, int code, const char *why)
{
	struct session *s = arg;
	if (s->r.state != SANDBOX_RESUMING)
		return;
	session_touch(s);
	set_state(s, code < 0 ? SANDBOX_PAUSED : SANDBOX_RUNNING);
	arm(s);
	settle(s, false, code, why);
}

int session_pause(struct session *s)
{
	if (s->r.state != SANDBOX_RUNNING)
		return s->r.state == SANDBOX_PAUSED ? -EALREADY : -EBUSY;
	set_state(s, SANDBOX_PAUSING);
	s->box->ops->pause(s->box, on_paused, s);
	return 0;
}

int session_resume(struct session *s)
{
	if (s->r.state != SANDBOX_PAUSED)
		return s->r.state == SANDBOX_RUNNING ? -EALREADY : -EBUSY;
	set_state(s, SANDBOX_RESUMING);
	s->box->ops->resume(s->box, on_resumed, s);
	return 0;
}

/* --- making one --- */

/* RFC 9562 section 5.4. */
static void make_id(char out[SANDBOX_ID_LEN + 1])
{
	uint8_t u[16];
	arc4random_buf(u, sizeof(u));
	u[6] = (uint8_t)((u[6] & 0x0f) | 0x40);
	u[8] = (uint8_t)((u[8] & 0x3f) | 0x80);
	for (size_t i = 0, at = 0; i < sizeof(u); i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			out[at++] = '-';
		at += (size_t)snprintf(out + at, SANDBOX_ID_LEN + 1 - at, "%02x", u[i]);
	}
}

static bool name_taken(struct sessions *set, const char *name)
{
	for (struct list *l = set->all.next; l != &set->all; l = l->next)
		if (strcmp(container_of(l, struct session, link)->r.name, name) == 0)
			return true;
	return false;
}

/* Later than all that there are, also after a restart. */
static int64_t next_order(struct sessions *set)
{
	struct timespec ts;
	clock_gettime(CLOCK_REALTIME, &ts);
	int64_t us = (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000, last = 0;
	if (!list_empty(&set->all))
		last = container_of(set->all.prev, struct session, link)->r.order;
	return MAX(us, last + 1);
}

struct box_spec session_spec(const struct session *s)
{
	return (struct box_spec){ .id = s->r.id,
				  .name = s->r.name,
				  .image = s->r.image,
				  .public_key = s->r.public_key,
				  .server_key = s->set->server_key,
				  .expires_at = s->r.expires };
}

static int too_many(struct sessions *set, const char *owner)
{
	size_t n = 0;
	if (set->n >= set->max)
		return -ERR_TOO_MANY;
	for (struct list *l = set->all.next; l != &set->all; l = l->next)
		n += strcmp(container_of(l, struct session, link)->r.owner, owner) == 0;
	return n >= set->max_per_user ? -EUSERS : 0;
}

struct session *session_create(struct sessions *set, const char *owner, struct sandbox_request *q,
			       const char *key, const char *key_hash, int *code)
{
	struct sandbox_record r = { .idle = q->idle };
	if ((*code = too_many(set, owner)) < 0)
		return NULL;
	make_id(r.id);
	snprintf(r.name, sizeof(r.name), "sandbox-%.8s", r.id);
	if (name_taken(set, r.name))
		snprintf(r.name, sizeof(r.name), "sandbox-%s", r.id);
	r.created = r.active = session_now();
	r.expires = r.created + q->ttl;
	r.order = next_order(set);
	/* The intent is on disk before anything exists: whatever happens then is found again. */
	r.owner = xstrdup(owner);
	r.image = q->image;
	r.public_key = q->public_key;
	r.metadata = q->metadata;
	*q = (struct sandbox_request){ 0 };
	r.key = key ? xstrdup(key) : NULL;
	snprintf(r.key_hash, sizeof(r.key_hash), "%s", key_hash);
	if ((*code = session_store_put(set->store, &r)) < 0) {
		sandbox_record_end(&r);
		return NULL;
	}
	struct session *s = session_add(set, &r);
	struct box_spec spec = session_spec(s);
	struct box_events events = { session_on_ready, session_on_gone, s };
	log_info("session-create id=%s name=%s owner=%s", s->r.id, s->r.name,
		 log_quote(slice_str(owner)));
	set->created_total++;
	timer_set(set->rx, &s->timer, set->ready_ms);
	s->box = set->backend->ops->create(set->backend, &spec, &events);
	return s;
}

/* --- finding --- */

bool session_visible(const struct session *s, const char *owner)
{
	return s->r.state != SANDBOX_DELETING && strcmp(s->r.owner, owner) == 0;
}

struct session *session_find(struct sessions *set, const char *owner, struct slice id,
			     bool *expired)
{
	struct session *s = session_by_id(set, id);
	*expired = false;
	if (s && session_visible(s, owner))
		return s;
	for (size_t i = 0; i < set->ntomb; i++)
		if (slice_eq(slice_str(set->tomb[i].id), id) &&
		    strcmp(set->tomb[i].owner, owner) == 0)
			*expired = true;
	return NULL;
}

struct session *session_find_key(struct sessions *set, const char *owner, const char *key)
{
	for (struct session *s = session_next(set, owner, NULL); s; s = session_next(set, owner, s))
		if (s->r.key && strcmp(s->r.key, key) == 0)
			return s;
	return NULL;
}

struct session *session_next(struct sessions *set, const char *owner, struct session *after)
{
	struct list *l = after ? after->link.next : set->all.next;
	for (; l != &set->all; l = l->next) {
		struct session *s = container_of(l, struct session, link);
		if (session_visible(s, owner))
			return s;
	}
	return NULL;
}
