/*
 * The relay: moves bytes both ways between two streams until both directions have ended.
 * Port forward, CONNECT, Docker hijack, gateway and SSH channel are all this after different
 * handshakes. It splices where both ends have pipe verbs, else borrows or lends (stream.h), else
 * copies through the reactor's scratch buffer; it holds bytes only while one side is blocked.
 */
#ifndef REACTOR_PUMP_H
#define REACTOR_PUMP_H

#include "reactor/stream.h"

struct pump;

struct pump_end {
	int code;                /* 0: both directions ended in order; else the first fatal code */
	bool a_failed;           /* which side said so */
	uint64_t a_to_b, b_to_a; /* bytes moved */
};

/* Relays between a and b, which it owns from now on. finished (may be NULL) is called once, from
 * the reactor, after both streams were closed and before the pump is freed; why (the failed
 * stream's sentence) lives only during the call. */
typedef void pump_finished(void *arg, const struct pump_end *end, const char *why);
struct pump *pump_start(struct reactor *, struct stream *a, struct stream *b, pump_finished *,
			void *arg);
/* Bytes that came with a handshake and go to the other side before anything else. Only right after
 * pump_start; copied. */
void pump_seed_to_a(struct pump *, struct slice);
void pump_seed_to_b(struct pump *, struct slice);
/* Ends with -ETIMEDOUT when no byte came or went for ms milliseconds; 0: never (the default). */
void pump_idle_limit(struct pump *, uint64_t ms);
/* Bytes moved so far. */
void pump_moved(const struct pump *, uint64_t *a_to_b, uint64_t *b_to_a);
/* Ends the pump now with code; finished is called (from here). */
void pump_abort(struct pump *, int code);

#endif
