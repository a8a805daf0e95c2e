/*
 * The client's side of what the guest listens on: one address there, a target here. Asks for it,
 * takes the connections that the guest opens for it, asks again after the tunnel was lost.
 */
#ifndef TSTUNNEL_REVERSE_H
#define TSTUNNEL_REVERSE_H

#include "proto/tstunnel/tunnel.h"
#include "reactor/pump.h"

struct reverse;

struct reverse_options {
	struct addr listen;   /* there; port 0: any, but the same again after a loss */
	struct addr target;   /* here; of the same kind, datagrams or not */
	uint64_t udp_idle_ms; /* a silent flow of datagrams ends there; 0: the guest's default */
	/* A connection is over, after so long. a is the tunnel's side; why lives during the call.
	 */
	void (*ended)(void *arg, const struct pump_end *, const char *why, uint64_t ms);
	void *arg;
};

struct reverse *reverse_new(struct reactor *, struct tunnel *, const struct reverse_options *);
/* Resets its connections. NULL is ignored; ended is called for each. */
void reverse_free(struct reverse *);
/* The guest is to listen no more; flows of datagrams end; connections go on. */
void reverse_drain(struct reverse *);

/* 0: the guest listens; -EAGAIN: it has not answered yet; else why it does not, with a sentence in
 * err; it will be asked again. */
int reverse_ready(const struct reverse *, char *err, size_t errlen);
/* The address that the guest listens on, its port 0 as long as it is not known. */
struct addr reverse_bound(const struct reverse *);
size_t reverse_connections(const struct reverse *);
/* Bytes of the connections that are, added: to the tunnel and from it. */
void reverse_moved(const struct reverse *, uint64_t *sent, uint64_t *received);

#endif
