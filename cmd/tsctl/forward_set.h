/*
 * The forwards of the daemon, kept in the store.
 */
#ifndef TSCTL_FORWARD_SET_H
#define TSCTL_FORWARD_SET_H

#include <limits.h>

#include "cmd/tsctl/forward_store.h"
#include "cmd/tsctl/tunnels.h"
#include "proto/tstunnel/forward.h"

struct entry {
	struct list link; /* forward_set.entries, the oldest first */
	struct forward_set *set;
	struct forward_record rec;
	struct forward_spec spec;
	struct shared_tunnel *tunnel; /* while it has a forward */
	struct forward *forward;      /* NULL: paused, or error says why not */
	char error[1024];
	bool joined; /* its tunnel was there before */
	uint64_t started_ms, tried_ms;
	uint64_t sent, received; /* by forwards that it had before */
};

struct forward_set {
	struct reactor *rx;
	char path[PATH_MAX];
	struct tunnels *tunnels; /* lent */
	struct list entries;
	size_t n;
	struct timer tick;
	size_t draining;
	void (*drained)(void *arg);
	void *drained_arg;
};

/* Reads the store and starts what is not paused; what cannot be started now is tried again every
 * few seconds. 0, or -errno with a sentence. */
int set_open(struct forward_set *, struct tunnels *, char *err, size_t errlen);
/* Ends all; the store keeps them. */
void set_close(struct forward_set *);
/* Connections may finish first; drained is called once, perhaps from here. No other call but
 * set_close after this. */
void set_drain(struct forward_set *, void (*drained)(void *arg), void *arg);
/* Writes the store. 0, or -errno with a sentence. */
int set_save(struct forward_set *, char *err, size_t errlen);

/* By name, else by id; NULL: there is none. */
struct entry *set_find(struct forward_set *, struct slice name_or_id);
/* A new one, not started and not saved. The record is taken in any case. NULL with a sentence. */
struct entry *set_add(struct forward_set *, struct forward_record *, char *err, size_t errlen);
/* Ends and forgets it; not saved. */
void set_remove(struct entry *);
/* Makes it serve: 0, or -errno with a sentence (also in error). */
int entry_start(struct entry *, char *err, size_t errlen);
/* No forward any more: connections are reset. */
void entry_stop(struct entry *);
/* 0: serves; -EAGAIN: not known yet; else why it does not, with a sentence. */
int entry_state(const struct entry *, char *err, size_t errlen);
/* Its name, or its id if it has none. */
const char *entry_label(const struct entry *);
/* Remembers the port that port 0 has got. True if that was news. */
bool entry_note_port(struct entry *);
/* An object with all that is known about it. */
void entry_put(const struct entry *, struct json_writer *);

#endif
