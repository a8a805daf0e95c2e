/*
 * The syncs of one program, whoever owns them, as its control socket shows and steers them
 * (sync_api.h). Both the daemon (syncs made by hand) and tsctl start (Docker binds) have one:
 *
 *	sync_set_init(&set, rx);                       tunnel.changed: sync_set_tunnel_changed(&set)
 *	item.job = sync_job_new(...); item.name = ""; item.owner = &ops; item.arg = me;
 *	sync_set_add(&set, &item); ... sync_set_remove(&item); sync_job_free(item.job);
 *
 * and in the handler of the control socket: if (sync_api_handle(&api, conn, head)) return;
 */
#ifndef TSCTL_SYNC_SET_H
#define TSCTL_SYNC_SET_H

#include "cmd/tsctl/sync_job.h"

struct sync_item;

/* What an owner does beside what the job does. All may be NULL. */
struct sync_owner {
	const char *kind; /* "manual", "bind": member "kind" of the status */
	/* It was paused (or goes on again) on a person's word: to be remembered. 0, or -errno with
	 * a sentence. */
	int (*paused)(struct sync_item *, bool paused, char *err, size_t errlen);
	/* Ends it for good: the item is gone when this returns 0. NULL: refused, with stays. */
	int (*terminate)(struct sync_item *, char *err, size_t errlen);
	const char *stays; /* "it ends with the containers that use it" */
	/* More members of its status. */
	void (*put)(const struct sync_item *, struct json_writer *);
};

/* Embedded in the owner's object. */
struct sync_item {
	struct list link;
	struct sync_set *set;
	struct sync_job *job; /* the owner's; never NULL while it is in the set */
	const char *name;     /* the owner's; "" without one */
	const struct sync_owner *owner;
	void *arg;
};

struct sync_set {
	struct reactor *rx;
	struct list items; /* the oldest first */
	size_t n;
};

void sync_set_init(struct sync_set *, struct reactor *);
/* Does not free the job. */
void sync_set_add(struct sync_set *, struct sync_item *);
void sync_set_remove(struct sync_item *);
/* By the whole id; NULL: there is none. */
struct sync_item *sync_set_find(struct sync_set *, struct slice id);
/* Its name, or the first 12 digits of its id; lives until the next turn. */
const char *sync_item_label(const struct sync_item *);
/* An object: name, kind, all of sync_job_status, and what the owner adds. */
void sync_item_put(const struct sync_item *, struct json_writer *);
/* An array of these, as one value. */
void sync_set_put(const struct sync_set *, struct json_writer *);
/* For tunnel_options.changed and .goaway. */
void sync_set_tunnel_changed(struct sync_set *);
void sync_set_tunnel_goaway(struct sync_set *);

#endif
