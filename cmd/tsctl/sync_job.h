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
	bool file; /* a single file: the worker's root is its directory, "only" its name; written
		      in place at the far end */
	const char *beta;  /* by hand: absolute path at the guest */
	const char *owner; /* Docker bind: then beta is NULL, and SYNC_ROOT/owner/alpha is meant */
	enum sync_mode mode;
	const char *ignore; /* patterns, one a line (the .tsignore file is the worker's to read) */
	bool ignore_vcs;
	const char *state_dir; /* the worker's store is STATE_DIR/ID */
	struct reactor *rx;
	struct tunnel *tunnel; /* lent */
	void (*changed)(
	    void *arg); /* status, remote root or state are other now. May wake tasks only */
	void *arg;
};

struct sync_job *sync_job_new(const struct sync_spec *, bool paused);
/* Ends the worker (it ends by itself when its stdin does; SIGKILL after 5 s). Pending fences fail
 * with -ERR_CANCELLED, from here. NULL is ignored. */
void sync_job_free(struct sync_job *);

/* The directory at the guest, absolute, as the guest resolved it; NULL until the far end has been
 * open once. For a file: of the file itself. */
const char *sync_job_remote(const struct sync_job *);

/* Calls done once, from a task: 0 when all that was changed on either side before now has been
 * applied on the other; else a code and a sentence: -ERR_TIMEOUT, or what keeps it from that
 * (halted, paused, the worker's reason, conflicts are no failure). Waits through lost tunnels.
 * Returns a handle for cancel. timeout_ms 0: none. */
struct sync_fence;
typedef void sync_fenced(void *arg, int code, const char *why);
struct sync_fence *sync_job_fence(struct sync_job *, uint64_t timeout_ms, sync_fenced *done,
				  void *arg);
/* done will not be called. NULL is ignored. */
void sync_fence_cancel(struct sync_fence *);

void sync_job_pause(struct sync_job *);
/* Also lets a halted one proceed. */
void sync_job_resume(struct sync_job *);
void sync_job_reset(struct sync_job *);
/* keep: "local", "remote" or "both"; done once, from a task. */
void sync_job_resolve(struct sync_job *, struct slice path, struct slice keep, sync_fenced *done,
		      void *arg);
/* Paths relative to alpha that are left out, beside the patterns (copied). The worker is started
 * anew if they differ. */
void sync_job_masks(struct sync_job *, char *const *masks, size_t n);
/* The members of one object of `tsctl sync list --json` (docs/sync.md, "Control"): id, alpha, beta,
 * mode, state and all the worker's status. */
void sync_job_status(const struct sync_job *, struct json_writer *);

#endif
