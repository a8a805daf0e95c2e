/*
 * The ciphers of an SSH connection, one direction each: how the length of a packet is hidden, how
 * its rest is sealed and authenticated. RFC 4253 section 6, RFC 4344 (CTR), RFC 5647 as OpenSSH has
 * it (GCM), OpenSSH's PROTOCOL and PROTOCOL.chacha20poly1305.
 */
#ifndef PROTO_SSH_CIPHER_H
#define PROTO_SSH_CIPHER_H

#include "reactor/crypto_cipher.h"

enum cipher_mode { CIPHER_PLAIN = 0, CIPHER_GCM, CIPHER_CHACHA, CIPHER_CTR };

struct cipher_suite {
	const char *name;
	enum cipher_mode mode;
	uint8_t key, iv; /* bytes of key material */
	uint8_t block;   /* what the padding fills up to */
};

struct mac_suite {
	const char *name;
	bool etm; /* encrypt-then-mac: the length stays readable */
};

/* NULL: not one of ours. */
const struct cipher_suite *cipher_find(struct slice name);
const struct mac_suite *mac_find(struct slice name);
/* Those that we have, best first; chacha last (see kex.h: it needs strict key exchange). */
extern const char cipher_names[], mac_names[];

enum { CIPHER_KEY_MAX = 64, CIPHER_IV_MAX = 16, CIPHER_TAG_MAX = 32, MAC_KEY = 32 };

struct cipher {
	const struct cipher_suite *suite;
	bool etm;
	uint8_t tag; /* bytes after the packet */
	struct gcm *gcm;
	uint8_t nonce[12]; /* GCM */
	uint8_t key[64];   /* chacha: packets, then lengths */
	struct aes_ctr *ctr;
	struct hmac_sha256 *mac;
};

/* No encryption, as a connection begins. */
void cipher_plain(struct cipher *);
/* Replaces what was there. mac is ignored (may be NULL) where the cipher authenticates itself. */
void cipher_start(struct cipher *, const struct cipher_suite *, const struct mac_suite *mac,
		  const uint8_t *key, const uint8_t *iv, const uint8_t *mac_key);
/* Wipes all. */
void cipher_end(struct cipher *);
/* True where the four length bytes do not count for the padding. */
bool cipher_length_apart(const struct cipher *);

/* Seals p: 4 bytes length, n bytes packet; writes the tag behind them. */
void cipher_seal(struct cipher *, uint32_t seq, char *p, size_t n);
/* How many bytes must be there before cipher_length. */
size_t cipher_peek_size(const struct cipher *);
/* The packet's length. In CTR without EtM the first block is deciphered in place: so once a packet.
 */
uint32_t cipher_length(struct cipher *, uint32_t seq, char *p);
/* Opens n bytes behind the length of p, with the tag behind them: false, not authentic. */
bool cipher_open(struct cipher *, uint32_t seq, char *p, size_t n);

#endif
