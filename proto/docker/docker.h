/*
 * What we know of Docker's Engine API, for proxies in front of an engine (docs/architecture.md).
 */
#ifndef DOCKER_DOCKER_H
#define DOCKER_DOCKER_H

#include "http/http.h"
#include "json/json.h"
#include "reactor/opt.h"

/* The request path without its version prefix ("/v1.41"), query and trailing bytes included. */
struct slice docker_path(struct slice target);

/* Does this reply turn the connection into a raw stream although it is no 101? Clients that attach
 * or start an exec without "Upgrade: tcp" get a bare 200 without length and take the connection
 * over (moby api/server/router/container). reply NULL: might this request's reply? Fits
 * struct http_upstream. */
bool docker_is_hijack(void *unused, const struct http_head *request, const struct http_head *reply);

/* Does the request move much data, so that it belongs on the bulk carrier: image load and save,
 * build, cp, export, commit-sized uploads? */
bool docker_is_bulk(const struct http_head *request);

/* The engine's decoder (Go's encoding/json) takes members in any case, and of several the last; so
 * whoever changes one has to change them all. Returns the next member of that name behind v (NULL:
 * the first), or NULL; object may be NULL, or no object. */
struct json *docker_named(struct json *object, struct json *v, const char *name);

/* Guard of a plain-text listener against browsers (DNS rebinding, cross-site requests). */
struct docker_guard {
	bool check_host;              /* Host must be loopback or one of hosts */
	const struct opt_list *hosts; /* further names, "*" for any; may be NULL */
	const char *help;             /* what would allow it, for the refusal */
};

/* 0, or the status to refuse with and a sentence in why. */
int docker_guard_check(const struct docker_guard *, const struct http_head *request, char *why,
		       size_t whylen);

#endif
