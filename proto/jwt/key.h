/* Keys of tokens, for jwt.c. */
#ifndef PROTO_JWT_KEY_H
#define PROTO_JWT_KEY_H

#include "proto/jwt/jwt.h"

/* Is signature the key's over text? In a time that does not depend on where it differs. */
bool jwt_key_check(const struct jwt_key *, struct slice text, struct slice signature);

#endif
