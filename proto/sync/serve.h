/*
 * The far end of a sync: scans and watches its root, tells the brain what is there and what
 * changes, and does what it is asked to, in that order, if what is there is what the brain
 * believes. It knows nothing of the other side. Whatever the brain says: nothing outside the root
 * is touched, and memory stays bounded.
 */
#ifndef SYNC_SERVE_H
#define SYNC_SERVE_H

#include "reactor/stream.h"

struct serve;

/* Takes the streams (may be one). root and store: absolute paths, copied. When it is over, ended is
 * called from a task: code 0 (the brain has gone) or an error with a sentence; then serve_free. */
struct serve *serve_new(struct reactor *, struct stream *in, struct stream *out, const char *root,
			const char *store, void (*ended)(void *arg, int code, const char *why),
			void *arg);
/* Writes the store. NULL is ignored. */
void serve_free(struct serve *);

#endif
