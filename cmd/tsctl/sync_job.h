/*
 * One sync as the reactor of a program sees it: the stream to the guest, the worker beside it, what
 * the worker says of itself. Starts both anew whenever one of them is lost. Disks are the worker's.
 */
#ifndef TSCTL_SYNC_JOB_H
#define TSCTL_SYNC_JOB_H

#include "json/json.h"
#include "proto/sync/reconcile.h"
#include "proto/tstunnel/tunnel.h"

struct sync_job;

/* All strings are copied. */
struct sync_spec {
	char id[33];       /* 32 hex digits */
	const char *alpha; /* absolute path here: a directory, or with file: the file */
	bool file; /* a single file: the worker's root is its directory, "only" its name; a bind's
		      is written in place at the far end */
	const char *beta;  /* by hand: absolute path at the guest; with file, of the file: its name
			      is alpha's */
	const char *owner; /* Docker bind: then beta is NULL, and SYNC_ROOT/owner/alpha is meant */
	const char *shown; /* beta as a person is shown it (a URL without parameters); NULL: its
			      path */
	enum sync_mode mode;
	const char *ignore; /* patterns, one a line (the .tsignore file is the worker's to read);
			       NULL: none */
	bool ignore_vcs;
	const char *state_dir; /* the worker's store is STATE_DIR/ID */
	struct reactor *rx;
	struct tunnel *tunnel;      /* lent */
	void (*changed)(void *arg); /* status, remote root or state are other now. May wake tasks
				       only. NULL: nobody */
	void *arg;
};

struct sync_job *sync_job_new(const struct sync_spec *, bool paused);
/* Ends the worker (it ends by itself when its stdin does; SIGKILL after 5 s). Pending fences fail
 * with -ERR_CANCELLED, from here. NULL is ignored. */
void sync_job_free(struct sync_job *);

/* For one that was made without a tunnel: here it is, or (NULL) why there is none: "failed". */
void sync_job_tunnel(struct sync_job *, struct tunnel *, const char *why);
/* Whoever owns the tunnel may say so from its "changed" and "goaway": a job that waits for the
 * tunnel goes on at once (else within a second), and one whose carrier goes away starts anew. */
void sync_job_tunnel_changed(struct sync_job *);
void sync_job_tunnel_goaway(struct sync_job *);

/* The directory at the guest, absolute, as the guest resolved it; NULL until the far end has been
 * open once. For a file: of the file itself. */
const char *sync_job_remote(const struct sync_job *);
const char *sync_job_id(const struct sync_job *);
bool sync_job_paused(const struct sync_job *);
/* "connecting", "scanning", "reconciling", "transferring", "watching", "paused", "halted" or
 * "failed" (the guest refused, or a worker ended by itself; tried again); static. *why (may be
 * NULL) is set to the sentence for it, "" if there is none; it lives until the next turn. */
const char *sync_job_state(const struct sync_job *, const char **why);

/* Calls done once, from a task: 0 when all that was changed on either side before now has been
 * applied on the other; else a code and a sentence: -ETIMEDOUT, or what keeps it from that
 * (halted, paused, failed: the reason; conflicts are no failure). Waits through lost tunnels.
 * Returns a handle for cancel. timeout_ms 0: none. */
struct sync_fence;
typedef void sync_fenced(void *arg, int code, const char *why);
struct sync_fence *sync_job_fence(struct sync_job *, uint64_t timeout_ms, sync_fenced *done,
				  void *arg);
/* done will not be called. NULL is ignored. */
void sync_fence_cancel(struct sync_fence *);

/* A paused one has no worker and no stream. */
void sync_job_pause(struct sync_job *);
/* Also lets a halted one proceed. */
void sync_job_resume(struct sync_job *);
/* Forgets what both sides last agreed on (now, or when it runs again): they are merged. */
void sync_job_reset(struct sync_job *);
/* keep: "local", "remote" or "both"; done once, from a task. path is relative to the root. A handle
 * for cancel. */
struct sync_fence *sync_job_resolve(struct sync_job *, struct slice path, struct slice keep,
				    sync_fenced *done, void *arg);
/* Paths relative to alpha that are left out, beside the patterns (copied). The worker is started
 * anew if they differ. */
void sync_job_masks(struct sync_job *, char *const *masks, size_t n);
/* The members of one object of `tsctl sync list --json`, into one that is open: id, local, remote
 * (paths as docs/sync.md, "Control", writes them), mode, paused, state, why, and all the worker's
 * status, with zeros as long as there is none. */
void sync_job_status(const struct sync_job *, struct json_writer *);

#endif
