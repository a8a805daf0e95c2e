/*
 * A stream that the peer opened, and the target that is being dialled for it.
 */
#ifndef TSTUNNEL_BRIDGE_H
#define TSTUNNEL_BRIDGE_H

#include "reactor/stream.h"

struct bridge;

/* How it ended: with 0 the target is open, s was accepted (mux_accept), and both are the callee's;
 * else both are gone (s was refused with the target's reason, or its peer gave up) and NULL, and
 * why lives during the call. Called once, from a task. */
typedef void bridge_done(void *arg, struct stream *s, struct stream *target, int code,
			 const char *why);
/* Waits for target, which may still be dialling; owns both. done NULL: they are relayed to their
 * end. */
struct bridge *bridge_start(struct reactor *, struct stream *s, struct stream *target,
			    bridge_done *, void *arg);
/* Refuses s with code. Only before done was called; done is not called. */
void bridge_abort(struct bridge *, int code);

#endif
