/*
 * Public keys of servers: their form in messages (RFC 4253 section 6.6, RFC 5656, RFC 8332, RFC
 * 8709), their signatures, and whether known_hosts knows them (sshd(8), SSH_KNOWN_HOSTS FILE
 * FORMAT). Pure. Private to proto/ssh.
 */
#ifndef PROTO_SSH_HOSTKEY_H
#define PROTO_SSH_HOSTKEY_H

#include "proto/ssh/key.h"
#include "proto/ssh/wire.h"
#include "reactor/crypto_sign.h"

/* A signature algorithm, and the type that its keys say they are. */
struct host_alg {
	const char *name, *key_type;
	enum sign_type type;
	enum sign_hash hash;
};

/* Best first: "ssh-ed25519,ecdsa-sha2-nistp256,rsa-sha2-512,rsa-sha2-256". SHA-1's ssh-rsa is not
 * among them. */
extern const char host_alg_names[];
const struct host_alg *host_alg_find(struct slice name);

/* A public key as messages have it ("key blob"). NULL: not of a type that we know, or broken; *why
 * says which. The caller frees it. */
struct sign_key *host_key_parse(struct slice blob, const char **why);
/* The type that a blob says it is: empty if broken. */
struct slice host_key_type(struct slice blob);
/* Is this ("signature blob") alg's signature by key over message? */
bool host_key_verify(const struct sign_key *key, const struct host_alg *alg, struct slice message,
		     struct slice signature);

/* "SHA256:" and 43 digits, as ssh-keygen -l prints it. */
void host_key_fingerprint(struct slice blob, char out[SSH_FINGERPRINT_MAX]);
/* Is pin that fingerprint? The "SHA256:" and padding may be missing or there. */
bool host_key_pinned(struct slice blob, const char *pin);

enum known_verdict {
	KNOWN_NO = 0,  /* nothing about this host */
	KNOWN_YES,     /* this very key */
	KNOWN_OTHER,   /* another key of the same type: trouble */
	KNOWN_UNLIKE,  /* keys of other types only */
	KNOWN_REVOKED, /* this key is marked @revoked */
};

/* Looks up host ("[host]:port" unless the port is 22) in the text of a known_hosts file: plain
 * names with * ? and !, hashed ones, @revoked. Certificate authorities and lines that make no sense
 * are stepped over. *line is where the verdict comes from, 0 for none. */
enum known_verdict known_hosts_check(struct slice text, const char *host, uint16_t port,
				     struct slice blob, unsigned *line);
/* The names of algs, those first whose keys the text has for this host, so that the server shows a
 * key that can be compared. out has room for strlen(algs) + 1. */
void known_hosts_order(struct slice text, const char *host, uint16_t port, const char *algs,
		       char *out);

#endif
