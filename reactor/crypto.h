/*
 * Hashes (BoringSSL). Its headers are included by crypto*.c and tls*.c only.
 */
#ifndef REACTOR_CRYPTO_H
#define REACTOR_CRYPTO_H

#include "reactor/base.h"

/* SHA-256 (FIPS 180-4), fed in pieces. */
struct sha256 {
	uint64_t state[14]; /* room for BoringSSL's SHA256_CTX, checked in crypto.c */
};
void sha256_init(struct sha256 *);
void sha256_add(struct sha256 *, struct slice);
void sha256_end(struct sha256 *, uint8_t out[32]);

#endif
