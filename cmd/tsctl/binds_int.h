/* What the files of binds.h share. */
#ifndef TSCTL_BINDS_INT_H
#define TSCTL_BINDS_INT_H

#include "cmd/tsctl/bind_check.h"
#include "cmd/tsctl/binds.h"
#include "proto/docker/binds.h"

/* A directory or file of this machine, shared by the containers that mount it. */
struct bind_sync {
	struct list link; /* binds.syncs */
	struct binds *b;
	struct sync_item item;
	char *source; /* without symlinks: what makes it one */
	char *named;  /* as it was first asked for */
	bool file, writable;
	unsigned uses;
	uint64_t changes; /* counts what its job told of */
};

/* A mount of a container. */
struct bind_use {
	struct bind_sync *sync;
	char **masks; /* relative to its target, sorted */
	size_t nmasks;
};

/* A container with such mounts. */
struct bind_user {
	struct list link; /* binds.users */
	struct binds *b;
	char id[65], name[128]; /* "": not known */
	struct bind_use *uses;
	size_t nuses;
	bool running, unfenced, gone, seen;
	unsigned holds;          /* steps on their way: lists do not end it */
	uint64_t touched;        /* binds.clock when it was last known better than by a list */
	struct timer timer;      /* when to forget it */
	struct binds_step *step; /* our own: looks at the sources of one that was found running, or
				    waits for the last files of one that is gone */
};

enum binds_state {
	BINDS_WAITING = 0, /* is the engine's host another machine? */
	BINDS_ASKING,      /* where does the guest keep the files? */
	BINDS_ON,
	BINDS_REFUSED, /* nowhere: why */
	BINDS_OFF      /* the engine's host is this machine */
};

struct binds {
	struct binds_options o;
	enum binds_state state;
	char owner[200], *server;
	char *root; /* of our files on the guest: SYNC_ROOT/OWNER; NULL: never known */
	char *why;  /* BINDS_REFUSED */
	struct stream *asking;
	struct task asking_task, wake_task;
	struct timer asking_timer, tick;
	struct list syncs, users, steps, tails;
	uint64_t clock, asked; /* as in publish_int.h */
};

/* --- binds.c --- */

/* The sync of a source (counted as used), made if there is none. */
struct bind_sync *bind_sync_get(struct binds *, const char *source, const char *named, bool file,
				bool writable);
/* One use less; it ends with the last. */
void bind_sync_put(struct bind_sync *);
/* Masks may be other now. */
void binds_mask(struct binds *);
/* By name, id or the start of one; NULL. */
struct bind_user *bind_user_find(struct binds *, struct slice container);
/* A new one, held once; without an id, it goes when it is let go. */
struct bind_user *bind_user_new(struct binds *);
/* Makes room for one more mount, and takes the masks of bind i. */
void bind_user_add(struct bind_user *, struct bind_sync *, const struct docker_binds *, size_t i);
void bind_uses_end(struct bind_use *, size_t n);
/* It runs, that is known. */
void bind_user_runs(struct bind_user *);
/* A step lets go of it: one that does not run is forgotten after a while. */
void bind_user_release(struct bind_user *);
void bind_user_free(struct bind_user *);
/* A path of the guest without the root of our files; NULL: it is none. */
const char *binds_ours(const struct binds *, const char *there);

/* --- binds_root.c --- */

/* The id of a sync: the same after a restart; another for each owner, guest and source. */
void binds_id(const struct binds *, const char *source, char out[33]);
/* Two machines, or two users, never share a directory on the guest. */
void binds_default_owner(char *out, size_t outlen);
void binds_root_init(struct binds *);
void binds_root_end(struct binds *);

/* --- binds_step.c --- */

/* Something has changed: steps look again. */
void binds_steps_run(struct binds *);
/* A container that was found running: its sources are looked at, and kept alike. */
struct binds_step *binds_adopt(struct binds *, struct bind_user *, struct docker_binds *,
			       binds_done *, void *arg);
/* As binds_settle, for one that we have. */
struct binds_step *binds_settle_user(struct binds *, struct bind_user *, binds_done *, void *arg);

/* --- binds_tail.c --- */

void binds_tails_end(struct binds *);

#endif
