/*
 * Bind mounts follow containers: a directory or file of this machine that a container is to have
 * lies on the engine's host as a copy, kept alike by a sync (sync_job.h) for as long as a container
 * uses it. publish_http.c brings the exchanges here, step by step: a create gets other sources, a
 * start waits until the files are there, an end waits until they are back. Nothing here blocks.
 */
#ifndef TSCTL_BINDS_H
#define TSCTL_BINDS_H

#include "cmd/tsctl/sync_set.h"
#include "http/proxy.h"

struct binds;

struct binds_options {
	struct reactor *rx;
	struct tunnel *tunnel; /* lent, as all */
	const struct http_upstream *engine;
	struct sync_set *set;  /* where the syncs are shown and steered */
	const char *server;    /* the guest's address: syncs with two guests are two */
	const char *owner;     /* whose directory on the guest; NULL: of user and machine */
	const char *state_dir; /* the stores are in it */
	bool fence;            /* starts and ends wait for the files */
};

/* Can this be options.owner? 0 or -EINVAL. */
int binds_owner_check(const char *);
struct binds *binds_new(const struct binds_options *);
/* NULL is ignored; no step may be left. */
void binds_free(struct binds *);
/* It is known whether the engine's host is another machine; if not, binds are none of our business.
 * Before, creates wait. */
void binds_start(struct binds *, bool elsewhere);
/* The tunnel came up or went down: may wake tasks only. */
void binds_tunnel_changed(struct binds *);

/* --- the engine's list (docker_follow) --- */

void binds_asking(struct binds *);
void binds_listed(struct binds *, struct json_doc *list);

/* --- exchanges --- */

/* One exchange's business here. */
struct binds_step;
/* Once, from a task. status 0: go on; else the exchange is to be refused with it and why. */
typedef void binds_done(void *arg, int status, const char *why);

/* A create request, which is rewritten in place; doc lives until done. NULL: nothing to do. */
struct binds_step *binds_create(struct binds *, struct json_doc *, binds_done *, void *arg);
/* Its reply (201): the container's id, and the name that was asked for (may be empty). Adds
 * warnings to the reply, if there are any: true when it has changed. */
bool binds_created(struct binds_step *, struct json_doc *reply, struct slice name);
/* A start or restart: the inspect reply of its container. NULL: nothing to do. */
struct binds_step *binds_begin(struct binds *, struct json_doc *inspect, binds_done *, void *arg);
/* It has begun. */
void binds_begun(struct binds_step *);
/* What a container wrote is to come back, and what was changed here to get there. container: name,
 * id or the start of one. NULL: nothing to do, or not to be waited for. */
struct binds_step *binds_settle(struct binds *, struct slice container, binds_done *, void *arg);
/* Before or after done. NULL is ignored. */
void binds_step_free(struct binds_step *);

/* May replies name files of ours? */
bool binds_may_show(const struct binds *);
/* docker_source_here (proto/docker/binds.h): arg is the binds. */
bool binds_source_here(void *arg, struct slice there, struct slice *here);
/* Is there an end to wait for? Not even if the container is not known (yet): unknown. */
bool binds_fenced(const struct binds *, struct slice container, bool unknown);
/* http_upstream.relayed: holds the end of attach and exec until the files are back. */
struct stream *binds_relayed(struct binds *, const struct http_head *, struct stream *up);

#endif
