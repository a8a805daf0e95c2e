/*
 * Asking a REST API over HTTP: the Docker engine's, the cluster's. One connection a request; the
 * backends hold the http_fetch of what is under way.
 */
#ifndef PICO_REST_H
#define PICO_REST_H

#include "http/client.h"
#include "http/fetch.h"
#include "reactor/dial.h"
#include "reactor/tls.h"

enum { REST_REPLY_MAX = 16 << 20, REST_MS = 30 * 1000 };

/* Where it is. Filled by the backend. */
struct rest {
	struct reactor *rx;
	struct addr to;
	struct tls_config *tls; /* NULL: plain */
	const char *tls_name;   /* checked against the certificate */
	const char *host;       /* of Host */
	const char *prefix;     /* before every target, "" for none */
	/* The value of Authorization, for every request anew; NULL (or what it returns): none. */
	const char *(*authorization)(void *arg);
	void *arg;
};

struct rest_request {
	const char *method, *target;
	const char *type; /* of body; NULL: application/json */
	struct slice body;
	uint64_t ms; /* 0: REST_MS */
};

/* A connection to it, never NULL, and the whole request: for http_client_new. fields: further ones,
 * each a name and a value, then NULL; may be NULL. If no request can be made of this (a line end in
 * a token or a name), the stream fails with -EINVAL and the buffer is empty. */
struct stream *rest_open(const struct rest *, const struct rest_request *,
			 const char *const *fields, struct buf *);
/* Asks; see http_fetch_new. */
struct http_fetch *rest_ask(const struct rest *, const struct rest_request *, http_fetched *,
			    void *arg);

#endif
