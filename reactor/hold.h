/*
 * A stream whose end is held back: where the one below has ended, reading says -EAGAIN, until
 * somebody lets it go. All else passes as it is.
 */
#ifndef REACTOR_HOLD_H
#define REACTOR_HOLD_H

#include "reactor/stream.h"

/* Takes below. ended is called once, from a task, when the end has been read; closed once, from the
 * close verb: the stream is gone. */
struct stream *hold_stream_new(struct stream *below, void (*ended)(void *arg),
			       void (*closed)(void *arg), void *arg);
/* Any time before it is closed. */
void hold_stream_release(struct stream *);

#endif
