/*
 * Ciphers, message authentication, random numbers (BoringSSL), as plain building blocks: which of
 * them go together, and over which bytes, is the caller's protocol. Everything works in place.
 */
#ifndef REACTOR_CRYPTO_CIPHER_H
#define REACTOR_CRYPTO_CIPHER_H

#include "reactor/base.h"

/* Random bytes from the kernel's generator; never fails. */
void random_fill(void *p, size_t n);
/* Overwrites a secret, also where the compiler sees no further use. NULL with n = 0 is fine. */
void secret_wipe(void *p, size_t n);
/* Equal? In a time that depends on n alone. */
bool secret_equal(const void *a, const void *b, size_t n);

/* AES-GCM (NIST SP 800-38D) with 12-byte nonces and 16-byte tags. key_n is 16 or 32. */
struct gcm;
struct gcm *gcm_new(const uint8_t *key, size_t key_n);
void gcm_free(struct gcm *); /* wipes the key; NULL is ignored */
void gcm_seal(const struct gcm *, const uint8_t nonce[12], struct slice extra, void *p, size_t n,
	      uint8_t tag[16]);
/* False: not authentic, and p is zeroed. */
bool gcm_open(const struct gcm *, const uint8_t nonce[12], struct slice extra, void *p, size_t n,
	      const uint8_t tag[16]);

/* AES in counter mode (SP 800-38A), a key stream that goes on from call to call. */
struct aes_ctr;
struct aes_ctr *aes_ctr_new(const uint8_t *key, size_t key_n, const uint8_t iv[16]);
void aes_ctr_free(struct aes_ctr *);
void aes_ctr_xor(struct aes_ctr *, void *p, size_t n);

/* ChaCha20 as D. J. Bernstein published it (64-bit nonce, 64-bit block counter, of which 32 bits
 * are used), xored onto p. */
void chacha20_xor(const uint8_t key[32], const uint8_t nonce[8], uint32_t counter, void *p,
		  size_t n);
/* RFC 8439 section 2.5. The key is for one message only. */
void poly1305(const uint8_t key[32], struct slice message, uint8_t tag[16]);

/* HMAC-SHA-256 (RFC 2104, FIPS 198-1) under a key that is set up once. */
struct hmac_sha256;
struct hmac_sha256 *hmac_sha256_new(struct slice key);
void hmac_sha256_free(struct hmac_sha256 *);
/* Over the parts as if they were one. */
void hmac_sha256(struct hmac_sha256 *, const struct slice *parts, size_t n, uint8_t out[32]);
/* HMAC-SHA-1: for formats that have nothing better, such as hashed known_hosts. */
void hmac_sha1(struct slice key, struct slice message, uint8_t out[20]);

#endif
