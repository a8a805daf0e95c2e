/*
 * In-memory streams with faults, for tests: short reads and writes, refusals and bounded capacity,
 * all drawn from a seed. And a peer that sends what it is told and keeps what it gets.
 */
#ifndef TEST_SIM_H
#define TEST_SIM_H

#include "reactor/buf.h"
#include "reactor/stream.h"

struct sim_rules {
	uint64_t seed;
	unsigned refuse; /* percent of calls that say -EAGAIN for no reason */
	size_t piece;    /* most bytes per call, 0: no limit */
	size_t capacity; /* bytes on their way in one direction */
};

/* Two ends of one connection. A close with why < 0 resets the other end. */
void sim_pair(struct reactor *, const struct sim_rules *, struct stream **a, struct stream **b);
/* A stream on which every verb fails with code, and says why. */
struct stream *sim_broken(struct reactor *, int code, const char *why);
/* Ends that are open now, of all pairs. */
extern unsigned sim_open;

struct sim_peer {
	struct task task;
	struct stream *s; /* NULL once closed */
	struct buf out, in;
	bool shutting, paused; /* paused: does not read */
	bool eof;              /* the other side has ended */
	int code;              /* or failed */
	uint64_t got;          /* bytes read, those dropped from in included */
};

/* Takes s. */
void sim_peer_init(struct sim_peer *, struct stream *s);
void sim_peer_send(struct sim_peer *, struct slice);
/* End of stream after what was sent. */
void sim_peer_shut(struct sim_peer *);
void sim_peer_pause(struct sim_peer *, bool on);
/* Frees all. why as for stream_close. */
void sim_peer_end(struct sim_peer *, int why);

/* Runs the reactor until cond says so; false after ten seconds. */
bool sim_until(struct reactor *, bool (*cond)(void *), void *arg);
/* Runs that many turns. */
void sim_turns(struct reactor *, unsigned n);

#endif
