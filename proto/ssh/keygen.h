/*
 * New Ed25519 keys as OpenSSH's files have them (PROTOCOL.key).
 */
#ifndef PROTO_SSH_KEYGEN_H
#define PROTO_SSH_KEYGEN_H

#include "proto/ssh/key.h"

enum { SSH_KEYGEN_TEXT_MAX = 1024, SSH_KEYGEN_LINE_MAX = 128 };

/* The private key's file into text (its length is returned), and its line for authorized_keys,
 * without line end. Wipe text after use. */
size_t ssh_keygen(char text[SSH_KEYGEN_TEXT_MAX], char line[SSH_KEYGEN_LINE_MAX]);

#endif
