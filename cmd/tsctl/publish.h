/*
 * Published ports follow containers: what the engine publishes on its host is answered on this
 * machine. The engine's events and lists say what there is (proto/docker/follow.h); a start that
 * comes through this tsctl binds its ports before the engine is asked, so that it fails as it would
 * with a local engine, and is answered when they work. Nothing here blocks or outlives
 * publish_free.
 */
#ifndef TSCTL_PUBLISH_H
#define TSCTL_PUBLISH_H

#include "cmd/tsctl/binds.h"
#include "http/proxy.h"
#include "json/json.h"
#include "proto/tstunnel/tunnel.h"

struct publish;

struct publish_options {
	struct reactor *rx;
	struct tunnel *tunnel;              /* lent, like engine */
	const struct http_upstream *engine; /* to the engine, for small requests */
	const char *address;  /* where ports of any address are bound here; NULL: loopback */
	bool follow;          /* bind ports at all */
	bool remote_loopback; /* keep them off the remote host's network */
	struct binds *binds;  /* lent: their exchanges come by here, too; NULL: none */
};

/* Can this be options.address? 0 or -EINVAL. */
int publish_address_check(const char *);
struct publish *publish_new(const struct publish_options *);
/* NULL is ignored. */
void publish_free(struct publish *);
/* Begins to follow the engine. */
void publish_start(struct publish *);
/* A carrier of the tunnel is going away (tunnel_options.goaway): what stays open for long moves. */
void publish_reconnect(struct publish *);
/* No new connections; drained is called once, from a task, when the last one is over. */
void publish_drain(struct publish *, void (*drained)(void *arg), void *arg);

/* True: the exchange is about ports or binds, and taken over. False: it is the caller's. */
bool publish_handle(struct publish *, struct http_conn *, const struct http_head *);

/* Writes an array, one object a port. */
void publish_status(const struct publish *, struct json_writer *);

#endif
