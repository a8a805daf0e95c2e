/*
 * A forward: listens at one end of a tunnel, and relays each connection to a target at the other.
 *
 * A connection is accepted before the target is known to answer: a target that refuses becomes a
 * reset (on a unix socket, which knows no resets, an end of stream; with UDP, which knows neither,
 * nothing but the log says so). What the client sends meanwhile goes with the request. A lost
 * tunnel resets the connections that are open and leaves the listeners here; while it is down, new
 * connections are reset. Listeners there go with the tunnel, and come back with it.
 */
#ifndef TSTUNNEL_FORWARD_H
#define TSTUNNEL_FORWARD_H

#include "proto/tstunnel/tunnel.h"
#include "proto/tstunnel/url.h"

/* Which ports, or which socket, go where. Both ends are datagrams (ADDR_UDP) or neither is. */
struct forward_spec {
	struct addr from; /* this end: host not empty, port 0: the kernel chooses; or ADDR_UNIX */
	unsigned count;   /* ports, from.port upwards; 1 for a socket and for port 0 */
	struct tsurl to;  /* the remote end: its target has as many ports, or is ADDR_UNIX */
	bool reverse;     /* the remote end listens, and this one is the target */
	uint64_t udp_idle_ms; /* a silent flow of datagrams ends: udp_listen.h; 0: its default */
};

/* One of the two is a tstunnel:// URL, with a tcp, udp or unix target, and the other
 * "tcp:HOST:PORT", "tcp:HOST:FROM-TO", the same with udp, or "unix:/PATH", an empty HOST being
 * localhost. Where it listens (src) the port may be 0. 0, or -EINVAL with a sentence in err that
 * names the wrong part. On success to be released with forward_spec_end. Pure. */
int forward_parse(struct forward_spec *, struct slice src, struct slice dst, char *err,
		  size_t errlen);
void forward_spec_end(struct forward_spec *);
/* "localhost:8080 -> tstunnel://HOST:PORT/tcp:localhost:80", for the i-th port: never with the
 * URL's parameters. "udp:" stands before the near end of datagrams. -ENOBUFS if it does not fit
 * (part of it may be in b). */
int forward_spec_put(const struct forward_spec *, unsigned i, struct buf *b);
/* One of the two, as people write it, ranges included, without parameters. */
int forward_spec_put_part(const struct forward_spec *, bool src, struct buf *b);

struct forward;

/* Listens on all of it, or on nothing: -errno then (-EADDRINUSE: taken), with a sentence in err,
 * and *out is NULL. What the remote end listens on is asked for, and asked for again whenever the
 * tunnel was lost: see forward_ready. The tunnel is lent and must outlive the forward; several may
 * share it. */
int forward_new(struct forward **out, struct reactor *, struct tunnel *,
		const struct forward_spec *, char *err, size_t errlen);
/* Closes the listeners, resets the connections. NULL is ignored. */
void forward_free(struct forward *);
/* Closes the listeners and ends flows of datagrams; connections go on. drained is called once, from
 * a task, when none is left; it may free the forward. */
void forward_drain(struct forward *, void (*drained)(void *arg), void *arg);

/* 0: it listens; -EAGAIN: the remote end has not answered yet; else why it does not, with a
 * sentence in err: it goes on trying. */
int forward_ready(const struct forward *, char *err, size_t errlen);
/* Connections that are open, flows of datagrams counted. */
size_t forward_connections(const struct forward *);
/* Bytes so far: to the remote end, and from it. */
void forward_moved(const struct forward *, uint64_t *sent, uint64_t *received);
/* The port that the first listener has got; 0 for a socket, or as long as it is not known. Not
 * after forward_drain. */
uint16_t forward_port(const struct forward *);
/* forward_spec_put of the i-th port, i < spec.count, with the ports that it got. Not after
 * forward_drain. */
int forward_put(const struct forward *, unsigned i, struct buf *b);

#endif
