/*
 * Outgoing connections: a name becomes a stream. Resolves with our own stub resolver (dns.h), tries
 * both address families (RFC 8305, happy eyeballs), asks silent addresses anew every 500 ms, keeps
 * a deadline. Also addresses as text.
 */
#ifndef REACTOR_DIAL_H
#define REACTOR_DIAL_H

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "reactor/stream.h"

enum addr_kind { ADDR_TCP = 1, ADDR_UDP, ADDR_UNIX };

/* Where to connect or listen, as a person writes it. */
struct addr {
	enum addr_kind kind;
	char host[254]; /* name or IP literal without brackets; "" = any (listen) */
	uint16_t port;
	char path[108]; /* ADDR_UNIX; a leading '@' means the abstract namespace */
};

/* Parses "HOST:PORT", ":PORT", "[v6]:PORT", "tcp://HOST:PORT", "udp:HOST:PORT", "tcp:HOST:PORT",
 * "unix:///PATH", "unix:PATH"; port_default 0 = the port must be there. Returns 0, or -EINVAL with
 * a sentence naming the wrong part in err. */
int addr_parse(struct addr *, struct slice text, uint16_t port_default, char *err, size_t errlen);
/* The same for what has to be a stream: UDP addresses are refused, too. */
int addr_parse_stream(struct addr *, struct slice text, uint16_t port_default, char *err,
		      size_t errlen);
/* "10.0.0.1:443", "[::1]:443", "unix:///run/x.sock" into a static rotating buffer (8 of them). */
const char *addr_text(const struct addr *);
const char *sockaddr_text(const struct sockaddr *);
/* True for unix sockets, 127.0.0.0/8, ::1 and "localhost". */
bool addr_is_loopback(const struct addr *);
/* An IP literal or unix path as a sockaddr: 0, or -EINVAL when host is a name or empty. */
int addr_literal(const struct addr *, struct sockaddr_storage *, socklen_t *);

/* Connects to a (an empty host means localhost) within ms milliseconds (0: 30 s). Never NULL;
 * failure comes out of the first verb: -ECONNREFUSED, -ETIMEDOUT, -ERR_DNS_NOT_FOUND, ... and
 * stream_why() gives "dial tcp HOST:PORT: connection refused" or "dial tcp: lookup HOST: no such
 * host". */
struct stream *dial(struct reactor *, const struct addr *, uint64_t ms);

#endif
