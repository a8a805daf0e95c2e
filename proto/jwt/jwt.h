/*
 * JSON Web Tokens (RFC 7519) as bearers show them: compact, signed (RFC 7515). HS256, RS256, ES256
 * and EdDSA with Ed25519 (RFC 7518, RFC 8037). Pure.
 *
 * The key says which algorithm it takes; the token's header must agree and is believed in nothing
 * else. So "none", and an RSA key taken for an HMAC secret, do not get as far as a comparison.
 */
#ifndef PROTO_JWT_H
#define PROTO_JWT_H

#include "reactor/base.h"

enum { JWT_MAX = 16 * 1024, JWT_SUBJECT_MAX = 255, JWT_SECRET_MIN = 16 };

struct jwt_key;

/* For HS256: copied. NULL when it is shorter than JWT_SECRET_MIN bytes, which could be guessed
 * offline from one token. */
struct jwt_key *jwt_key_secret(struct slice secret);
/* A PEM "PUBLIC KEY" (RFC 5280 SubjectPublicKeyInfo) or "RSA PUBLIC KEY" (RFC 8017): RSA for
 * RS256, P-256 for ES256, Ed25519 for EdDSA. NULL with a sentence. */
struct jwt_key *jwt_key_public(struct slice pem, char *err, size_t errlen);
void jwt_key_free(struct jwt_key *); /* NULL is ignored */
/* "HS256", ... */
const char *jwt_key_algorithm(const struct jwt_key *);

struct jwt_rules {
	const struct jwt_key *key;
	const char *audience, *issuer; /* NULL: not asked for */
	int64_t leeway;                /* seconds that clocks may differ */
};

struct jwt_claims {
	char subject[JWT_SUBJECT_MAX + 1];
	int64_t expires;
};

/* Signature first, then exp and sub (which must be there), nbf, iat not in the future, aud, iss. 0,
 * or -EACCES and *why says what is wrong (static storage). now: Unix seconds. */
int jwt_verify(struct slice token, const struct jwt_rules *, int64_t now, struct jwt_claims *,
	       const char **why);

#endif
