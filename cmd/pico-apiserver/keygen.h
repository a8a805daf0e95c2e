/*
 * New Ed25519 keys as OpenSSH's files have them (PROTOCOL.key).
 */
#ifndef PICO_KEYGEN_H
#define PICO_KEYGEN_H

#include "reactor/base.h"

enum { KEYGEN_TEXT_MAX = 1024, KEYGEN_LINE_MAX = 128 };

/* The private key's file into text (its length is returned), its line for authorized_keys, and its
 * fingerprint ("SHA256:..."). Wipe text after use. */
size_t keygen(char text[KEYGEN_TEXT_MAX], char line[KEYGEN_LINE_MAX], char fingerprint[64]);

#endif
