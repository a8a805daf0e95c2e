/*
 * Base64 (RFC 4648 section 4). Pure.
 */
#ifndef REACTOR_BASE64_H
#define REACTOR_BASE64_H

#include <sys/types.h>

#include "reactor/base.h"

/* Encodes without padding, NUL-terminated; out has room for 4 * n / 3 + 3 bytes. */
void base64_put(struct slice, char *out);
/* Decodes, strict; padding may be missing; line ends and blanks are stepped over if spaced. Bytes
 * written (at most 3 * n / 4), or -1. */
ssize_t base64_get(struct slice, bool spaced, uint8_t *out);

#endif
