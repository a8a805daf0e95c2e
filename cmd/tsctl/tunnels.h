/*
 * The tunnels of the daemon: one for each server and identity, shared by all that go there, and
 * closed with the last of them.
 */
#ifndef TSCTL_TUNNELS_H
#define TSCTL_TUNNELS_H

#include "proto/tstunnel/tunnel.h"
#include "proto/tstunnel/url.h"

struct tunnels {
	struct reactor *rx;
	/* As in tunnel_options, of any of them; may be NULL. */
	void (*changed)(void *arg);
	void (*goaway)(void *arg);
	void *arg;
	struct list all; /* private */
};

struct shared_tunnel {
	struct list link;
	struct tunnel *tunnel;
	struct tunnel_options opt;
	unsigned users;
	struct tsurl url; /* its server and files; the strings are ours */
};

/* Filled as far as "private". */
void tunnels_init(struct tunnels *);
/* The tunnel to the URL's guest, counted; its path and target do not matter. NULL with a sentence.
 */
struct shared_tunnel *tunnels_get(struct tunnels *, const struct tsurl *, uint64_t connect_ms,
				  uint64_t handshake_ms, uint64_t keepalive_ms, char *err,
				  size_t errlen);
/* The last one closes it. NULL is ignored. */
void tunnels_put(struct shared_tunnel *);
/* Certificates are read again. */
void tunnels_reload(struct tunnels *);

#endif
