/*
 * A carrier's connection: dial, TLS, HTTP upgrade, as one stream that is born usable
 * (docs/protocol.md, "The handshake"). What follows the 101 is the mux's.
 */
#ifndef TSTUNNEL_CARRIER_H
#define TSTUNNEL_CARRIER_H

#include "reactor/dial.h"
#include "reactor/tls.h"

#define CARRIER_PATH "/tinyscale/v1/tunnel"

struct carrier_config {
	struct addr server;     /* ADDR_TCP, or ADDR_UNIX for tests */
	struct tls_config *tls; /* NULL: plain text */
	/* Used for a second try when tls is NULL and the far side turns out to speak TLS (the
	 * seed's
	 * --ts-insecure); NULL: fail with -ERR_IS_TLS. */
	struct tls_config *tls_fallback;
	uint64_t connect_ms;   /* TCP; 0: 10 s */
	uint64_t handshake_ms; /* TLS and upgrade; 0: 10 s */
};

/* Never NULL. cfg must outlive the stream. stream_why names the step that failed:
 * "dial tcp HOST:PORT: connection refused", "failed to establish TLS connection: x509: ...",
 * "HOST:PORT answered 404 Not Found to the tunnel request; is that a guest?". */
struct stream *carrier_dial(struct reactor *, const struct carrier_config *cfg);
/* For the server's side, too: has the kernel hold little (TCP_NOTSENT_LOWAT, 128 KiB) of what is
 * written to a carrier's socket, since nothing overtakes what it holds. Other sockets are left. */
void carrier_tune(int fd);

#endif
