/*
 * UDP sockets: a bound one, which knows of each datagram who sent it to which of our addresses, so
 * that answers leave from there (RFC 1122 section 4.1.3.5; ip(7) IP_PKTINFO, ipv6(7)); and
 * connected ones, which learn from ICMP that nobody listens (udp(7)).
 */
#ifndef REACTOR_UDP_H
#define REACTOR_UDP_H

#include "reactor/dial.h"

enum { UDP_MAX = 65535 }; /* no payload is longer than the length in a UDP header can say */

/* Who talks to which of our addresses. No padding and nothing left unset: to compare and hash its
 * bytes. IPv4 in the first four bytes of an address, or mapped (RFC 4291) on a socket for both. */
struct udp_path {
	uint16_t family; /* of the socket */
	uint16_t port;   /* the peer's, network order */
	uint32_t ifindex;
	struct in6_addr peer, local;
};

struct udp_socket {
	struct handle handle[2]; /* the second one is ::1 of "localhost" */
	uint16_t port;           /* as bound */
};

/* Binds; addresses as listener_new has them (an empty host: all; "localhost": 127.0.0.1 and, if the
 * host has it, ::1; other names are -EADDRNOTAVAIL; port 0: the kernel chooses). 0 or -errno, and
 * then it is closed. */
int udp_bind(struct udp_socket *, struct reactor *, const struct addr *, struct task *owner);
void udp_close(struct udp_socket *);
/* One datagram: its length, which may be 0; -EAGAIN when there is none. *from says where an answer
 * goes. p should have room for UDP_MAX bytes: what is longer is cut. */
ssize_t udp_recv(struct udp_socket *, void *p, size_t n, struct udp_path *from);
/* Sends one datagram back along a path: 0, or -errno (-EAGAIN, -EMSGSIZE, ...): it is dropped. */
int udp_send(struct udp_socket *, struct slice, const struct udp_path *to);
/* The peer, for the log. Rotating static buffer. */
const char *udp_path_text(const struct udp_path *);

/* A non-blocking socket connected to ss: the descriptor or -errno. */
int udp_connect(const struct sockaddr_storage *ss, socklen_t len);
/* Receive and send for a connected one, like the two above; n 0 of a receive is an empty datagram.
 * -ECONNREFUSED: an earlier datagram met nobody. */
ssize_t udp_connected_recv(struct handle *, void *p, size_t n);
int udp_connected_send(const struct handle *, struct slice);

#endif
