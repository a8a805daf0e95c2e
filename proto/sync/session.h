/*
 * The brain of a sync: looks after alpha itself and talks to the far end (serve.h), which looks
 * after beta. One tree with what alpha has, what beta has, and what they last agreed on; whatever
 * changes is reconciled, done, and noted in the store, path by path. docs/sync.md has the rules,
 * and the lines that are spoken with the parent ("Control").
 */
#ifndef SYNC_SESSION_H
#define SYNC_SESSION_H

#include "reactor/stream.h"

struct session;

/* Takes the streams: to the far end (in and out may be one), and control, where the first line is
 * the configuration. When it is over, ended is called from a task: code 0 (a stream has ended) or
 * an error with a sentence; then session_free. */
struct session *session_new(struct reactor *, struct stream *in, struct stream *out,
			    struct stream *control,
			    void (*ended)(void *arg, int code, const char *why), void *arg);
/* Writes the store. NULL is ignored. */
void session_free(struct session *);

#endif
