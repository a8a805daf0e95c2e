/*
 * Key agreement and signatures (BoringSSL): X25519, Ed25519, ECDSA on P-256, RSA (PKCS #1 v1.5).
 * Keys come and go as the raw numbers of their algorithm, big-endian; no file format is known here.
 */
#ifndef REACTOR_CRYPTO_SIGN_H
#define REACTOR_CRYPTO_SIGN_H

#include "reactor/base.h"

/* RFC 7748 section 5. */
void x25519_keypair(uint8_t public_key[32], uint8_t private_key[32]);
/* False when the result would be all zero (section 6.1): the peer's value is of small order. */
bool x25519_shared(uint8_t out[32], const uint8_t private_key[32], const uint8_t peer[32]);

enum sign_type { SIGN_ED25519 = 1, SIGN_P256, SIGN_RSA };
/* The hash of an RSA signature; ECDSA takes SIGN_SHA256, Ed25519 ignores it. */
enum sign_hash { SIGN_SHA256 = 0, SIGN_SHA512 };

enum {
	SIGN_RSA_BITS_MIN = 2048,
	SIGN_RSA_BITS_MAX = 8192,
	SIGN_MAX = SIGN_RSA_BITS_MAX / 8 /* bytes of the longest signature */
};

/* A public key, or a pair. */
struct sign_key;

/* Each is NULL when the numbers make no valid key (a point off the curve, a modulus out of the
 * bounds above, private numbers that do not belong to the public ones). */
struct sign_key *sign_ed25519_public(const uint8_t key[32]);
struct sign_key *sign_ed25519_pair(const uint8_t seed[32]);
/* point: 65 bytes, uncompressed (SEC 1 section 2.3.3). */
struct sign_key *sign_p256_public(struct slice point);
struct sign_key *sign_p256_pair(struct slice point, struct slice scalar);
struct sign_key *sign_rsa_public(struct slice n, struct slice e);
struct sign_key *sign_rsa_pair(struct slice n, struct slice e, struct slice d, struct slice p,
			       struct slice q);
void sign_key_free(struct sign_key *); /* wipes it; NULL is ignored */
enum sign_type sign_key_type(const struct sign_key *);
/* The public half of an Ed25519 key. */
const uint8_t *sign_ed25519_bytes(const struct sign_key *);

/* Signatures: Ed25519 64 bytes R || S; ECDSA 64 bytes r || s, 32 each (as JWS has them, RFC 7518
 * section 3.4); RSA as long as the modulus. */
bool sign_verify(const struct sign_key *, enum sign_hash, struct slice message,
		 struct slice signature);
/* Signs with a pair: how many bytes went to out. */
size_t sign_make(const struct sign_key *, enum sign_hash, struct slice message,
		 uint8_t out[SIGN_MAX]);

#endif
