/*
 * The dialling end of a flow of datagrams: a stream that the peer opened, relayed to a UDP address
 * and back.
 */
#ifndef TSTUNNEL_UDP_DIAL_H
#define TSTUNNEL_UDP_DIAL_H

#include "reactor/dial.h"
#include "reactor/pump.h"

struct udp_dial;

/* Accepts s (mux_accept) once the address is known and has a socket, else refuses it with the
 * reason. The flow ends with s; it is s's other end that knows when it has been idle for too long.
 * A host that answers that nobody listens there (ICMP) is like one that refuses a connection: the
 * name's other addresses are tried with what was sent so far, then s is reset. Owns s. finished
 * (may be NULL) is called once, from the reactor; bytes are those of the datagrams, a is s. */
struct udp_dial *udp_dial_start(struct reactor *, struct stream *s, const struct addr *to,
				pump_finished *finished, void *arg);
/* Ends it now; finished is called (from here). */
void udp_dial_abort(struct udp_dial *, int code);
/* Bytes so far. */
void udp_dial_moved(const struct udp_dial *, uint64_t *a_to_b, uint64_t *b_to_a);

#endif
