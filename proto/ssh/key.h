/*
 * Private keys of users, from files as ssh-keygen writes them (OpenSSH's PROTOCOL.key).
 */
#ifndef PROTO_SSH_KEY_H
#define PROTO_SSH_KEY_H

#include "reactor/base.h"

enum { SSH_KEY_FILE_MAX = 64 * 1024, SSH_FINGERPRINT_MAX = 51 };

struct ssh_key;

/* Reads the text of a key file: ed25519, ecdsa (P-256) or rsa, not encrypted. NULL, with a sentence
 * in err that says what it is instead and what to do. */
struct ssh_key *ssh_key_parse(struct slice text, char *err, size_t errlen);
/* The same from a file, which err names. Blocks on the disk: for program starts. */
struct ssh_key *ssh_key_load(const char *path, char *err, size_t errlen);
/* Wipes and frees; NULL is ignored. */
void ssh_key_free(struct ssh_key *);
/* Its public half as messages have it, and its type ("ssh-ed25519"). */
struct slice ssh_key_blob(const struct ssh_key *);
struct slice ssh_key_type(const struct ssh_key *);
/* Signs message with alg ("ssh-ed25519", "rsa-sha2-512", ...), which must be one of this key's
 * type: the signature blob (algorithm and signature), to be free()d. */
char *ssh_key_sign(const struct ssh_key *, struct slice alg, struct slice message, size_t *n);

/* Of a public key's line ("TYPE BASE64 COMMENT", as in id_ed25519.pub): "SHA256:..." as ssh-keygen
 * -l prints it. False, and "", if the line is none. */
bool ssh_key_fingerprint(struct slice line, char out[SSH_FINGERPRINT_MAX]);

#endif
