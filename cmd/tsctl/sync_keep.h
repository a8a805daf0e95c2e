/*
 * The syncs that were made by hand, as the daemon keeps them: their records on disk, the tunnels
 * that they share with the forwards, their jobs in a set.
 */
#ifndef TSCTL_SYNC_KEEP_H
#define TSCTL_SYNC_KEEP_H

#include <limits.h>

#include "cmd/tsctl/sync_record.h"
#include "cmd/tsctl/sync_set.h"
#include "cmd/tsctl/tunnels.h"
#include "http/server.h"

struct sync_keep {
	struct reactor *rx;
	struct tunnels *tunnels; /* lent */
	struct sync_set set;
	/* A create was answered; may be NULL. */
	void (*idle)(void *arg);
	void *arg;

	/* private */
	char path[PATH_MAX], state_dir[PATH_MAX];
	struct list creates;
	struct timer watch, retry;
};

/* Reads the file and starts what is not paused. 0, or -errno with a sentence. */
int sync_keep_open(struct sync_keep *, struct tunnels *, char *err, size_t errlen);
/* Ends all; the file keeps them. Before the tunnels are gone. */
void sync_keep_close(struct sync_keep *);
/* For sync_api.create: {"id":..,"alpha":..,...}, sync_record: 201 {"id":..,"name":..} once the far
 * end is open. When it cannot be reached, or refuses, nothing is left of it. */
void sync_keep_create(void *keep, struct http_conn *, struct json_doc *);
/* Creates that wait for the far end. */
bool sync_keep_busy(const struct sync_keep *);

#endif
