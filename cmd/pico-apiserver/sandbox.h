/*
 * Sessions: the life of each sandbox from request to removal. Knows no HTTP; the backend does the
 * work, store.c keeps what has to survive.
 *
 *	creating -> running <-> pausing, paused, resuming
 *	any      -> deleting -> (gone)          asked for, or expired; else failed: not removed
 *	any      -> failed   -> (gone)          the backend says that there is no sandbox (any more)
 */
#ifndef PICO_SANDBOX_H
#define PICO_SANDBOX_H

#include "cmd/pico-apiserver/backend.h"
#include "cmd/pico-apiserver/store.h"

struct session;

/* Zeroed, then filled by the program as far as "private", then sessions_start. */
struct sessions {
	struct reactor *rx;
	struct backend *backend;
	struct session_store *store;
	uint64_t ready_ms; /* a sandbox that is not ready by then is given up */
	size_t max, max_per_user;
	const char *image;      /* for records: the default */
	const char *server_key; /* backend.h, box_spec */

	/* private */
	struct list all; /* in the order of creation */
	size_t n;
	struct session *bucket[1024];
	struct timer retry, sample;
	struct tombstone *tomb; /* ring of those that expired */
	size_t ntomb, tomb_at;
	bool listed, ending, keep;
	bool unanswered; /* the last server ended in the middle of a create */
	unsigned looks;  /* for what came of it */
	bool *drained;
	uint64_t created_total, failed_total, expired_total; /* for metrics */
	size_t ntunnels;
	uint64_t tunnels_total, bytes_in, bytes_out; /* of tunnels; bytes: of those that ended */
};

struct session {
	struct list link;
	struct session *next; /* of its bucket */
	struct sessions *set;
	struct sandbox_record r;
	struct box *box; /* NULL: none (any more) */
	struct timer timer;
	struct list waiters;
	struct list tunnels; /* connect.c's */
	unsigned busy;       /* commands and file transfers under way: no idle end */
	bool found;          /* by list, after a restart */
	bool unremoved;      /* FAILED, and what is left of its sandbox could not be removed */
	char *why;           /* SANDBOX_FAILED */
};

/* Reads the store, asks the backend what is left of an earlier run. 0 or -errno. */
int sessions_start(struct sessions *);
/* At exit. keep: the sandboxes live on, for the next run. Else they are removed, and *done is set
 * when that is over. */
void sessions_end(struct sessions *, bool keep, bool *done);
/* Forgets all. */
void sessions_free(struct sessions *);

/* A new one, in state creating. request is moved out of. key may be NULL. NULL and *code:
 * -ERR_TOO_MANY (all), -EUSERS (this owner), or -errno (no record can be written). */
struct session *session_create(struct sessions *, const char *owner, struct sandbox_request *,
			       const char *key, const char *key_hash, int *code);
/* That is owner's and not being deleted; NULL. *expired: it was, and is over. */
struct session *session_find(struct sessions *, const char *owner, struct slice id, bool *expired);
struct session *session_find_key(struct sessions *, const char *owner, const char *key);
/* Walks those of owner in the order of creation; after NULL: the first. */
struct session *session_next(struct sessions *, const char *owner, struct session *after);
/* What failed is worth nothing but its message. */
bool session_visible(const struct session *, const char *owner);

/* Only from running, only from paused; else -EBUSY (one is under way) or -EALREADY. */
int session_pause(struct session *);
int session_resume(struct session *);
/* Ends it, in any state. */
void session_delete(struct session *);

/* Is it on its way to another state? */
bool session_unsettled(const struct session *);
/* Waits until it is settled: running, paused or failed; or gone (s NULL). Once, from a task. code:
 * of the pause or resume that did not work. */
struct session_waiter {
	struct list link;
	void (*settled)(struct session_waiter *, struct session *s, int code, const char *why);
};
void session_wait(struct session *, struct session_waiter *);
void session_unwait(struct session_waiter *); /* no harm if it does not wait */

/* Something was done with it: the idle time starts anew. */
void session_touch(struct session *);

/* A command or a file transfer begins or ends: no idle time passes between. */
void session_work_begin(struct session *);
void session_work_end(struct session *);

/* --- connect.c: the tunnels of a session --- */
/* Notes bytes that have moved. */
void tunnels_sample(struct session *);
void tunnels_abort(struct session *);

#endif
