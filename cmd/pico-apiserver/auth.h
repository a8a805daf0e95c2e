/*
 * Who is asking: bearer tokens (RFC 6750) in Authorization or Proxy-Authorization, checked by
 * proto/jwt. Without a key everybody is the one owner "".
 */
#ifndef PICO_AUTH_H
#define PICO_AUTH_H

#include "http/http.h"
#include "proto/jwt/jwt.h"

struct auth {
	struct jwt_key *key; /* NULL: no tokens */
	const char *audience, *issuer;
	bool check_host; /* no tokens, and on loopback only: browsers are the danger */
};

struct auth_options {
	const char *secret, *secret_file, *public_key_file;
	const char *audience, *issuer;
};

/* 0, or -EINVAL with a sentence. Reads files: for program starts. */
int auth_init(struct auth *, const struct auth_options *, char *err, size_t errlen);
void auth_end(struct auth *);
/* 0 and the owner, or the status to refuse with (401, 403, 400) and a sentence. */
int auth_check(const struct auth *, const struct http_head *, char owner[JWT_SUBJECT_MAX + 1],
	       char *why, size_t whylen);

#endif
