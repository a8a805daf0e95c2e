/*
 * A forward: listens here, and relays each connection to a target that the guest dials.
 *
 * A connection is accepted before the target is known to answer: a target that refuses becomes a
 * reset (on a unix socket, which knows no resets, an end of stream). What the client sends
 * meanwhile goes with the request. A lost tunnel resets the connections that are open and leaves
 * the listeners; while it is down, new connections are reset.
 */
#ifndef TSTUNNEL_FORWARD_H
#define TSTUNNEL_FORWARD_H

#include "proto/tstunnel/tunnel.h"
#include "proto/tstunnel/url.h"

/* Which ports, or which socket, go where. */
struct forward_spec {
	struct addr from; /* ADDR_TCP (port 0: the kernel chooses) or ADDR_UNIX */
	unsigned count;   /* ports, from.port upwards; 1 for a socket and for port 0 */
	struct tsurl to;  /* its target is ADDR_TCP, with as many ports, or ADDR_UNIX */
};

/* src: "tcp:HOST:PORT", "tcp:HOST:FROM-TO", "tcp:HOST:0" or "unix:/PATH", an empty HOST being
 * localhost. dst: a tstunnel:// URL with a tcp or unix target. 0, or -EINVAL with a sentence in err
 * that names the wrong part. On success to be released with forward_spec_end. Pure. */
int forward_parse(struct forward_spec *, struct slice src, struct slice dst, char *err,
		  size_t errlen);
void forward_spec_end(struct forward_spec *);

struct forward;

/* Listens on all of it, or on nothing: -errno then (-EADDRINUSE: taken), with a sentence in err,
 * and *out is NULL. The tunnel is lent and must outlive the forward; several may share it. */
int forward_new(struct forward **out, struct reactor *, struct tunnel *,
		const struct forward_spec *, char *err, size_t errlen);
/* Closes the listeners, resets the connections. NULL is ignored. */
void forward_free(struct forward *);
/* Closes the listeners; connections go on. drained is called once, from a task, when none is left;
 * it may free the forward. */
void forward_drain(struct forward *, void (*drained)(void *arg), void *arg);

/* Connections that are open. */
size_t forward_connections(const struct forward *);
/* The port that the first listener has got; 0 for a socket. Not after forward_drain. */
uint16_t forward_port(const struct forward *);
/* "127.0.0.1:8080 -> tstunnel://HOST:PORT/tcp:localhost:80", without the query: of the i-th port,
 * i < spec.count. -ENOBUFS if it does not fit (part of it may be in b). Not after forward_drain. */
int forward_put(const struct forward *, unsigned i, struct buf *b);

#endif
