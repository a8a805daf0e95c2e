/* What sync_job.c (its life) and sync_talk.c (lines to and from the worker) share. */
#ifndef TSCTL_SYNC_JOB_INT_H
#define TSCTL_SYNC_JOB_INT_H

#include "cmd/tsctl/sync_job.h"
#include "reactor/buf.h"
#include "reactor/child.h"
#include "reactor/pump.h"

enum { SYNC_LINE_MAX = 4 * 1024 * 1024, SYNC_STDERR_MAX = 4096 };

enum sync_stage {
	SYNC_IDLE = 0, /* paused, or retry is set */
	SYNC_OPENING,  /* the stream waits for OPENED */
	SYNC_RUNNING,  /* the pump and the worker run */
	SYNC_ENDING    /* the stream is gone, the worker not yet */
};

/* A fence, or (path not NULL) a resolve. */
struct sync_fence {
	struct list link; /* sync_job.fences, or .done */
	struct sync_job *job;
	struct task task;   /* delivers */
	struct timer timer; /* its timeout */
	uint64_t number;
	char *path, *keep;
	sync_fenced *done;
	void *arg;
	int code;
	char *why;
};

struct sync_job {
	struct sync_spec sp; /* the strings are ours */
	char **masks;
	size_t nmasks;
	enum sync_stage stage;
	bool paused, freed;
	bool again;  /* it is ended in order to be started anew */
	bool failed; /* the guest said no, or the worker ended by itself: why says it */
	bool heard;  /* a status of this worker has come */
	bool reset;  /* the worker is to be told, once there is one */
	char *why;   /* of the last loss or failure; may be NULL */
	char *root;  /* as the guest has resolved it; may be NULL */
	char *remote;
	uint64_t started_ms, backoff_ms, fail_ms;
	struct task task;
	struct timer retry, kill;

	struct stream *s; /* OPENING */
	struct pump *pump;
	struct child *child;
	bool exited;
	struct child_status exit;
	struct stream *channel, *err;
	struct buf out, in, said; /* to and from the channel; the worker's stderr */
	size_t looked;            /* bytes of in without a newline */
	char last_said[512];

	char *line; /* that status lies in */
	struct json_doc *doc;
	struct json *status; /* the last one; may be NULL */
	struct list fences;  /* waiting */
	struct list over;    /* to be delivered */
	uint64_t serial;
};

/* --- sync_talk.c --- */
/* The configuration, and what waited for a worker. */
void sync_talk_begin(struct sync_job *);
/* Moves what can be moved. False: the worker talks nonsense. */
bool sync_talk(struct sync_job *);
void sync_talk_end(struct sync_job *);
/* The worker's last word for its state, as one of ours: "connecting" before there is one. */
const char *sync_talk_state(const struct sync_job *);
/* {"NAME":true}, if there is a worker. */
void sync_tell(struct sync_job *, const char *name);
/* Tells the worker of a fence. */
void sync_tell_fence(struct sync_job *, const struct sync_fence *);
/* --- sync_fence.c --- */
/* All that wait fail. */
void sync_fences_fail(struct sync_job *, int code, const char *why);
/* At the end of the job: these fail, and all are delivered from here. */
void sync_fences_end(struct sync_job *);
/* It waits no more: delivered from a task. */
void sync_fence_over(struct sync_fence *, int code, const char *why);

/* --- sync_job.c --- */
void sync_job_changed(const struct sync_job *);

#endif
