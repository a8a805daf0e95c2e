/*
 * The listening end of datagrams: a bound UDP socket and its flows, one a source address, each with
 * a stream of its own. A flow ends when it was silent for a while, and the one silent for longest
 * when there are too many.
 */
#ifndef TSTUNNEL_UDP_LISTEN_H
#define TSTUNNEL_UDP_LISTEN_H

#include "reactor/dial.h"
#include "reactor/pump.h"

enum { UDP_FLOWS_MAX = 1024, UDP_IDLE_MS = 60 * 1000, UDP_ANSWERED = 3 /* times that */ };

struct udp_listener;

struct udp_listen_options {
	/* The stream for a new flow; peer is its source. Never NULL. */
	struct stream *(*open)(void *arg, const char *peer);
	/* A flow is over, after so long; may be NULL. a is the socket, b the stream; why lives
	 * during the call. */
	void (*ended)(void *arg, const struct pump_end *, const char *why, uint64_t ms);
	void *arg;
	uint64_t idle_ms; /* silent for so long, or UDP_ANSWERED times so long once it was answered:
			     over. 0: UDP_IDLE_MS */
};

/* Addresses and errors as udp_bind. NULL and -errno in *err on failure. */
struct udp_listener *udp_listener_new(struct reactor *, const struct addr *,
				      const struct udp_listen_options *, int *err);
/* Ends the flows (why 0: what was taken in still arrives; < 0: resets), frees. NULL is ignored. */
void udp_listener_close(struct udp_listener *, int why);
uint16_t udp_listener_port(const struct udp_listener *);
/* Flows now. */
size_t udp_listener_flows(const struct udp_listener *);
/* Bytes of the flows that are, added to *in (from clients) and *out. */
void udp_listener_moved(const struct udp_listener *, uint64_t *in, uint64_t *out);

#endif
