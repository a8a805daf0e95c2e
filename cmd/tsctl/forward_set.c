#include "cmd/tsctl/forward_set.h"

#include <errno.h>

#include "cmd/tsctl/forward.h"
#include "reactor/err.h"
#include "reactor/log.h"

enum {
	TICK_MS = 1000,
	RETRY_MS = 5000, /* for one that could not be started */
	RETURN_MS =
	    2000, /* that a tunnel which was up before has to come back, for a new forward */
	PART_MAX = 4096
};

/* --- one forward --- */

const char *entry_label(const struct entry *e)
{
	return e->rec.name[0] ? e->rec.name : e->rec.id;
}

static struct addr *listens_on(const struct entry *e, struct forward_spec *sp)
{
	*sp = e->spec;
	return sp->reverse ? &sp->to.target : &sp->from;
}

/* The port in the record is the one to have again. */
static struct forward_spec spec_to_start(const struct entry *e)
{
	struct forward_spec sp;
	struct addr *listens = listens_on(e, &sp);
	if (listens->kind != ADDR_UNIX && listens->port == 0)
		listens->port = e->rec.port;
	sp.udp_idle_ms = e->rec.udp_idle_ms;
	return sp;
}

/* The forward that has e's address, if one of ours has. */
static const struct entry *holder(const struct entry *e)
{
	const struct list *all = &e->set->entries;
	const struct addr *want = &e->spec.from;
	for (const struct list *i = all->next; i != all; i = i->next) {
		const struct entry *o = container_of(i, const struct entry, link);
		const struct addr *has = &o->spec.from;
		if (o != e && o->forward && !o->spec.reverse && has->kind == want->kind &&
		    strcmp(has->path, want->path) == 0 && has->port < want->port + e->spec.count &&
		    want->port < has->port + o->spec.count)
			return o;
	}
	return NULL;
}

static int start(struct entry *e, char *err, size_t errlen)
{
	struct forward_set *set = e->set;
	struct forward_spec sp = spec_to_start(e);
	e->tunnel = tunnels_get(set->tunnels, &e->spec.to, e->rec.connect_ms, e->rec.handshake_ms,
				e->rec.keepalive_ms, err, errlen);
	if (!e->tunnel)
		return -EINVAL;
	e->joined = e->tunnel->users > 1;
	int r = forward_new(&e->forward, set->rx, e->tunnel->tunnel, &sp, err, errlen);
	if (r == -EADDRINUSE && e->rec.port && !sp.reverse && e->spec.from.port == 0) {
		sp.from.port = 0; /* any will do, if not the one that it had */
		r = forward_new(&e->forward, set->rx, e->tunnel->tunnel, &sp, err, errlen);
	}
	if (r < 0) {
		tunnels_put(e->tunnel);
		e->tunnel = NULL;
	}
	const struct entry *other = r == -EADDRINUSE ? holder(e) : NULL;
	size_t n = strlen(err);
	if (other)
		snprintf(err + n, errlen - n, "; the forward %s has it", entry_label(other));
	return r;
}

int entry_start(struct entry *e, char *err, size_t errlen)
{
	e->error[0] = '\0';
	e->started_ms = e->tried_ms = reactor_now(e->set->rx);
	int r = start(e, err, errlen);
	if (r < 0)
		snprintf(e->error, sizeof(e->error), "%s", err);
	if (!timer_is_set(&e->set->tick))
		timer_set(e->set->rx, &e->set->tick, TICK_MS);
	return r;
}

void entry_stop(struct entry *e)
{
	if (e->forward) {
		uint64_t sent, received;
		forward_moved(e->forward, &sent, &received);
		e->sent += sent;
		e->received += received;
	}
	forward_free(e->forward);
	e->forward = NULL;
	tunnels_put(e->tunnel);
	e->tunnel = NULL;
}

int entry_state(const struct entry *e, char *err, size_t errlen)
{
	if (!e->forward) {
		snprintf(err, errlen, "%s", e->error);
		return -ENOTCONN;
	}
	int r = forward_state_of(e->forward, e->tunnel->tunnel, &e->tunnel->opt, err, errlen);
	if (r < 0 && e->joined && !tunnel_is_up(e->tunnel->tunnel) &&
	    reactor_now(e->set->rx) - e->started_ms < RETURN_MS)
		return -EAGAIN; /* it has just been lost, perhaps, and is being dialled */
	return r;
}

/* Has it a port that it did not ask for by number, and which is not known yet? */
static bool port_unknown(const struct entry *e)
{
	struct forward_spec sp;
	const struct addr *a = listens_on(e, &sp);
	return e->forward && a->kind != ADDR_UNIX && a->port == 0 && forward_port(e->forward) == 0;
}

bool entry_note_port(struct entry *e)
{
	struct forward_spec sp;
	const struct addr *a = listens_on(e, &sp);
	if (a->kind == ADDR_UNIX || a->port || !e->forward)
		return false;
	uint16_t port = forward_port(e->forward);
	if (port == 0 || port == e->rec.port)
		return false;
	e->rec.port = port;
	return true;
}

static void put_part(const struct entry *e, bool src, struct json_writer *w)
{
	struct forward_spec sp = spec_to_start(e);
	struct addr *listens = sp.reverse ? &sp.to.target : &sp.from;
	struct buf b;
	buf_init(&b, PART_MAX);
	if (e->forward && listens->kind != ADDR_UNIX && forward_port(e->forward))
		listens->port = forward_port(e->forward);
	forward_spec_put_part(&sp, src, &b);
	json_put_name(w, src ? "src" : "dst");
	json_put_str(w, buf_data(&b));
	buf_end(&b);
}

void entry_put(const struct entry *e, struct json_writer *w)
{
	char why[1024] = "";
	uint64_t sent = 0, received = 0;
	int r = e->rec.paused ? 0 : entry_state(e, why, sizeof(why));
	if (e->forward)
		forward_moved(e->forward, &sent, &received);
	json_put_object(w);
	json_put_name(w, "id");
	json_put_str(w, slice_str(e->rec.id));
	json_put_name(w, "name");
	json_put_str(w, slice_str(e->rec.name));
	put_part(e, true, w);
	put_part(e, false, w);
	json_put_name(w, "state");
	json_put_str(w, e->rec.paused  ? SLICE("paused")
			: r == 0       ? SLICE("active")
			: r == -EAGAIN ? SLICE("starting")
				       : SLICE("error"));
	json_put_name(w, "reason");
	json_put_str(w, r < 0 && r != -EAGAIN ? slice_str(why) : SLICE(""));
	json_put_name(w, "connections");
	json_put_u64(w, e->forward ? forward_connections(e->forward) : 0);
	json_put_name(w, "bytes_out");
	json_put_u64(w, e->sent + sent);
	json_put_name(w, "bytes_in");
	json_put_u64(w, e->received + received);
	json_put_end(w);
}

/* --- the set --- */

struct entry *set_find(struct forward_set *set, struct slice key)
{
	for (int by_id = 0; by_id < 2; by_id++) {
		for (struct list *i = set->entries.next; i != &set->entries; i = i->next) {
			struct entry *e = container_of(i, struct entry, link);
			if (key.n && slice_eq(key, slice_str(by_id ? e->rec.id : e->rec.name)))
				return e;
		}
	}
	return NULL;
}

static int check_new(struct forward_set *set, struct entry *e, char *err, size_t errlen)
{
	if (set->n >= FORWARDS_MAX) {
		snprintf(err, errlen, "there are %d forwards, that is the limit", FORWARDS_MAX);
		return -ERR_TOO_MANY;
	}
	if (set_find(set, slice_str(e->rec.id)) ||
	    (e->rec.name[0] && set_find(set, slice_str(e->rec.name)))) {
		snprintf(err, errlen, "there is a forward %s already", entry_label(e));
		return -EEXIST;
	}
	int r = forward_parse(&e->spec, slice_str(e->rec.src), slice_str(e->rec.dst), err, errlen);
	return r < 0 ? r : forward_check(&e->spec, e->rec.src, e->rec.insecure, err, errlen);
}

struct entry *set_add(struct forward_set *set, struct forward_record *rec, char *err, size_t errlen)
{
	struct entry *e = xcalloc(1, sizeof(*e));
	e->set = set;
	e->rec = *rec;
	*rec = (struct forward_record){ .id = "" };
	list_init(&e->link);
	if (check_new(set, e, err, errlen) < 0) {
		forward_spec_end(&e->spec);
		forward_record_end(&e->rec);
		free(e);
		return NULL;
	}
	list_add_tail(&set->entries, &e->link);
	set->n++;
	return e;
}

void set_remove(struct entry *e)
{
	entry_stop(e);
	list_del(&e->link);
	e->set->n--;
	forward_spec_end(&e->spec);
	forward_record_end(&e->rec);
	free(e);
}

struct walk {
	struct list *at;
};

static const struct forward_record *next_record(void *arg, size_t i)
{
	struct walk *w = arg;
	(void)i;
	w->at = w->at->next;
	return &container_of(w->at, struct entry, link)->rec;
}

int set_save(struct forward_set *set, char *err, size_t errlen)
{
	struct walk w = { &set->entries };
	return forward_store_save(set->path, set->n, next_record, &w, err, errlen);
}

/* Tries again what could not be started, and keeps the ports that were got. */
static void on_tick(struct timer *t)
{
	struct forward_set *set = container_of(t, struct forward_set, tick);
	uint64_t now = reactor_now(set->rx);
	bool again = false, news = false;
	char err[1024];
	for (struct list *i = set->entries.next; i != &set->entries; i = i->next) {
		struct entry *e = container_of(i, struct entry, link);
		if (e->rec.paused)
			continue;
		if (!e->forward && now - e->tried_ms >= RETRY_MS) {
			e->tried_ms = now;
			if (start(e, err, sizeof(err)) < 0)
				snprintf(e->error, sizeof(e->error), "%s", err);
			else
				log_info("forward-started forward=%s", entry_label(e));
		}
		news |= entry_note_port(e);
		again |= !e->forward || port_unknown(e);
	}
	if (news && set_save(set, err, sizeof(err)) < 0)
		log_error("state not-kept reason=%s", log_quote(slice_str(err)));
	if (again)
		timer_set(set->rx, &set->tick, TICK_MS);
}

struct loading {
	struct forward_set *set;
	char err[1024];
};

static void on_record(void *arg, struct forward_record *rec)
{
	struct loading *l = arg;
	char err[1024], id[FORWARD_ID_LEN + 1];
	memcpy(id, rec->id, sizeof(id));
	if (!set_add(l->set, rec, err, sizeof(err)) && !l->err[0])
		snprintf(l->err, sizeof(l->err), "forward %s: %.900s", id, err);
}

int set_open(struct forward_set *set, struct tunnels *tunnels, char *err, size_t errlen)
{
	*set = (struct forward_set){ .rx = tunnels->rx, .tunnels = tunnels };
	list_init(&set->entries);
	timer_init(&set->tick, on_tick);
	struct loading l = { .set = set, .err = "" };
	int r = forward_store_path(set->path, sizeof(set->path), true, err, errlen);
	if (r == 0)
		r = forward_store_load(set->path, on_record, &l, err, errlen);
	if (r == 0 && l.err[0]) {
		snprintf(err, errlen, "%s: %s; mend it or move it away", set->path, l.err);
		r = -EINVAL;
	}
	for (struct list *i = set->entries.next; r == 0 && i != &set->entries; i = i->next) {
		struct entry *e = container_of(i, struct entry, link);
		char why[1024];
		if (!e->rec.paused && entry_start(e, why, sizeof(why)) < 0)
			log_warn("forward-failed forward=%s reason=%s", entry_label(e),
				 log_quote(slice_str(why)));
	}
	return r;
}

void set_close(struct forward_set *set)
{
	timer_clear(set->rx, &set->tick);
	struct list *i;
	while ((i = list_pop(&set->entries)))
		set_remove(container_of(i, struct entry, link));
}

/* --- the end --- */

static void one_tunnel_drained(void *arg)
{
	struct forward_set *set = arg;
	if (--set->draining == 0)
		set->drained(set->drained_arg);
}

/* The connections are over, but their last bytes may still be on their way. */
static void drain_tunnels(struct forward_set *set)
{
	struct list *all = &set->tunnels->all;
	for (struct list *i = all->next; i != all; i = i->next) {
		struct shared_tunnel *t = container_of(i, struct shared_tunnel, link);
		set->draining++;
		tunnel_drain(t->tunnel, one_tunnel_drained, set);
	}
}

static void one_forward_drained(void *arg)
{
	struct forward_set *set = arg;
	if (--set->draining == 0)
		drain_tunnels(set);
}

void set_drain(struct forward_set *set, void (*drained)(void *arg), void *arg)
{
	timer_clear(set->rx, &set->tick);
	set->drained = drained;
	set->drained_arg = arg;
	for (struct list *i = set->entries.next; i != &set->entries; i = i->next) {
		struct entry *e = container_of(i, struct entry, link);
		if (!e->forward)
			continue;
		set->draining++;
		forward_drain(e->forward, one_forward_drained, set);
	}
	if (set->draining == 0)
		drained(arg);
}
