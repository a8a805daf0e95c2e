/*
 * A guest in the process of a unit test: takes carriers, keeps the streams that are opened on them.
 */
#ifndef UNIT_MINI_GUEST_H
#define UNIT_MINI_GUEST_H

#include "proto/tstunnel/tunnel.h"
#include "reactor/listen.h"

#define HOST "127.0.0.1"

enum { CARRIERS = 8, STREAMS = 64 };

struct carrier {
	struct task task;
	struct stream *s; /* until the upgrade */
	struct mux *mux;
	size_t n;
	char head[2048];
};

/* Where it listens, on HOST; what was opened, and the JSON of that. The streams are the test's to
 * accept, refuse and close, but those that nopened counts at the end. */
struct mini_guest {
	struct reactor *rx;
	struct listener *listener;
	uint16_t port;
	struct carrier *carrier[CARRIERS];
	unsigned ncarriers;
	struct stream *opened[STREAMS];
	char json[STREAMS][256];
	unsigned nopened;
};
extern struct mini_guest guest;

void guest_begin(struct reactor *);
/* On the port that it had before, if it had one. */
void guest_listen(void);
/* Listens; a tunnel to it that keeps itself up. */
struct tunnel *guest_tunnel(void);
/* Resets the i-th carrier. */
void guest_drop(unsigned i);
void guest_end(void);

#endif
