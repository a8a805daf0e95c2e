/*
 * The way into a sandbox: one CONNECT to the API, and the fingerprint of the sandbox's host key
 * that the API vouches for.
 */
#ifndef CMD_TEST_TUNNEL_OPENING_H
#define CMD_TEST_TUNNEL_OPENING_H

#include "reactor/dial.h"
#include "reactor/tls.h"

/* The API and the session there. */
struct target {
	struct addr addr;
	char *authority; /* "localhost:8080", as in Host */
	char *base;      /* what is before "/v1", often "" */
	bool https;
	struct tls_config *tls; /* https; the caller's */
	const char *session, *token;
	uint64_t ms; /* until the tunnel is open */
};

/* Takes url ("http://localhost:8080") and session apart: 0, or -EINVAL with a sentence. */
int target_parse(struct target *, const char *url, const char *session, char *err, size_t errlen);
void target_end(struct target *);
/* "/v1/sessions/ID/tunnel"; to be free()d. */
char *target_path(const struct target *, const char *after);

struct opening;

/* Called from the reactor; each at most once, ended once and last. The first two may be NULL. */
struct opening_events {
	void (*connected)(void *arg);
	void (*answered)(void *arg, int status, struct slice reason);
	/* s: the tunnel, the callee's; pin: "SHA256:...", "" if the API has none. Or s is NULL and
	 * why says what failed. The opening is gone. */
	void (*ended)(void *arg, struct stream *s, const char *pin, const char *why);
};

/* want_pin: ask the API for the fingerprint, too. target, events and arg have to live until the
 * end. Never NULL. */
struct opening *opening_new(struct reactor *, const struct target *, bool want_pin,
			    const struct opening_events *, void *arg);
/* Gives up. NULL is ignored. */
void opening_free(struct opening *);

#endif
