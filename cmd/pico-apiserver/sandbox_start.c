/* Sessions at the start and the end of the server: what is on disk, and what the backend still has.
 */
#include <errno.h>

#include "cmd/pico-apiserver/sandbox_int.h"
#include "reactor/log.h"

enum { LIST_RETRY_MS = 5000 };

/* An engine may still be at work for a server that was killed: what comes of it is looked for
 * later. */
static const unsigned look_again_ms[] = { 1000, 5000, 30000 };

static void on_record(void *arg, struct sandbox_record *r)
{
	struct session *s = session_add(arg, r);
	s->set->unanswered |= s->r.state == SANDBOX_CREATING;
	if (s->r.state == SANDBOX_CREATING || s->r.state == SANDBOX_FAILED)
		s->r.state = SANDBOX_DELETING; /* nobody was told of it */
	else if (s->r.state != SANDBOX_DELETING)
		s->r.state =
		    SANDBOX_CREATING; /* until it is found; the backend knows if it is paused */
	timer_set(s->set->rx, &s->timer, session_ms_until(s->r.expires) + 1);
}

static void on_found(void *arg, const struct box_found *f)
{
	struct sessions *set = arg;
	struct session *s = session_by_id(set, slice_str(f->id));
	bool wanted = s && s->r.state != SANDBOX_DELETING && s->r.expires > session_now() &&
		      strcmp(s->r.name, f->name) == 0;
	if (wanted) {
		s->found = true;
		return;
	}
	if (s && set->listed)
		return; /* on its way already */
	log_info("sandbox-leftover name=%s id=%s", log_quote(slice_str(f->name)),
		 log_quote(slice_str(f->id)));
	set->backend->ops->remove(set->backend, f, NULL, NULL);
}

static void on_listed(void *arg, int code, const char *why)
{
	struct sessions *set = arg;
	if (code < 0) {
		log_error("sandbox-list error=%s retry=%ds", log_quote(slice_str(why)),
			  LIST_RETRY_MS / 1000);
		timer_set(set->rx, &set->retry, LIST_RETRY_MS);
		return;
	}
	if (set->unanswered && set->looks < ARRAY_LEN(look_again_ms))
		timer_set(set->rx, &set->retry, look_again_ms[set->looks++]);
	if (set->listed)
		return;
	set->listed = true;
	for (struct list *l = set->all.next, *next; l != &set->all; l = next) {
		struct session *s = container_of(l, struct session, link);
		next = l->next;
		if (s->box)
			continue; /* made meanwhile */
		if (!s->found) {
			bool expired = s->r.expires <= session_now();
			if (expired && s->r.state != SANDBOX_DELETING)
				session_bury(s);
			log_info("session-lost id=%s name=%s", s->r.id, s->r.name);
			session_store_remove(set->store, s->r.id);
			session_drop(s, "its sandbox did not survive");
			continue;
		}
		struct box_spec spec = session_spec(s);
		struct box_events events = { session_on_ready, session_on_gone, s };
		s->r.state = SANDBOX_CREATING;
		timer_set(set->rx, &s->timer, set->ready_ms);
		s->box = set->backend->ops->adopt(set->backend, &spec, &events);
	}
}

static void ask_list(struct timer *t)
{
	struct sessions *set = container_of(t, struct sessions, retry);
	set->backend->ops->list(set->backend, on_found, on_listed, set);
}

int sessions_start(struct sessions *set)
{
	list_init(&set->all);
	timer_init(&set->retry, ask_list);
	timer_init(&set->sample, session_sample_all);
	session_sample_all(&set->sample);
	int r = session_store_load(set->store, on_record, set);
	if (r == 0)
		ask_list(&set->retry);
	return r;
}

void sessions_end(struct sessions *set, bool keep, bool *done)
{
	set->ending = true;
	set->drained = done;
	for (struct list *l = set->all.next, *next; l != &set->all; l = next) {
		struct session *s = container_of(l, struct session, link);
		next = l->next;
		if (keep)
			session_store_put(set->store, &s->r);
		else
			session_delete(s);
	}
	if (keep || set->n == 0)
		*done = true;
}

void sessions_free(struct sessions *set)
{
	set->drained = NULL;
	timer_clear(set->rx, &set->retry);
	timer_clear(set->rx, &set->sample);
	struct list *l;
	while ((l = list_pop(&set->all)))
		session_drop(container_of(l, struct session, link), "the server ends");
	for (size_t i = 0; i < set->ntomb; i++)
		free(set->tomb[i].owner);
	free(set->tomb);
	set->tomb = NULL;
	set->ntomb = 0;
}
