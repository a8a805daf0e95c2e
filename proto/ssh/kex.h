/*
 * Key exchange (RFC 4253 section 7) with curve25519-sha256 (RFC 8731), seen from the client: what
 * both sides can do, what that agrees to, the shared secret, the hash, the keys. Pure but for
 * random numbers; who may send what when is transport.c's. Private to proto/ssh.
 */
#ifndef PROTO_SSH_KEX_H
#define PROTO_SSH_KEX_H

#include "proto/ssh/cipher.h"
#include "proto/ssh/hostkey.h"

enum { KEX_HASH = 32, KEX_INIT_MAX = 4096 };

/* "curve25519-sha256,curve25519-sha256@libssh.org": one method under two names. */
extern const char kex_names[];

/* Name-lists of ours, best first. */
struct kex_offer {
	const char *kex, *host_key, *cipher, *mac;
};

struct kex_agreed {
	struct slice kex; /* one of kex_names, for people */
	const struct host_alg *host_alg;
	/* [0] client to server, [1] server to client. mac is NULL where the cipher does it. */
	const struct cipher_suite *cipher[2];
	const struct mac_suite *mac[2];
	bool strict; /* first exchange: the server has kex-strict-s-v00@openssh.com */
	bool skip;   /* the server guessed wrong: its next packet of the exchange does not count */
};

/* Writes our KEXINIT. first: the connection's first exchange, which also says ext-info-c (RFC 8308)
 * and kex-strict-c-v00@openssh.com (OpenSSH's PROTOCOL, section 1.10). */
void kex_init_put(struct ssh_wire_out *, const struct kex_offer *, bool first);
/* Reads the server's KEXINIT and agrees: 0, or -EPROTO with a sentence. chacha20-poly1305 and EtM
 * without strict key exchange are refused, even in later exchanges (CVE-2023-48795); strict says
 * what the first one agreed. */
int kex_agree(struct kex_agreed *, const struct kex_offer *, struct slice theirs, bool first,
	      bool strict, char *err, size_t errlen);

/* What the exchange hash is over (RFC 8731 section 3.1). */
struct kex_transcript {
	struct slice v_c, v_s; /* version lines without line ends */
	struct slice i_c, i_s; /* payloads of the KEXINITs */
	struct slice k_s;      /* host key */
	struct slice q_c, q_s; /* public values */
	struct slice k;        /* shared secret: a big-endian number */
};
void kex_hash(const struct kex_transcript *, uint8_t out[KEX_HASH]);
/* Key material (RFC 4253 section 7.2): n bytes for letter 'A' to 'F'. */
void kex_derive(struct slice k, const uint8_t hash[KEX_HASH], struct slice session_id, char letter,
		uint8_t *out, size_t n);

/* The server's answer (RFC 5656 section 4): fields lie in the payload. 0 or -EPROTO. */
struct kex_reply {
	struct slice host_key, q_s, signature;
};
int kex_reply_get(struct kex_reply *, struct slice payload);

#endif
