#include <openssl/sha.h>

#include "reactor/crypto.h"

_Static_assert(sizeof(struct sha256) >= sizeof(SHA256_CTX), "room for the state");
_Static_assert(_Alignof(struct sha256) >= _Alignof(SHA256_CTX), "alignment of the state");

static SHA256_CTX *ctx(struct sha256 *s)
{
	return (SHA256_CTX *)(void *)s->state;
}

void sha256_init(struct sha256 *s)
{
	SHA256_Init(ctx(s));
}

void sha256_add(struct sha256 *s, struct slice data)
{
	if (data.n > 0)
		SHA256_Update(ctx(s), data.p, data.n);
}

void sha256_end(struct sha256 *s, uint8_t out[32])
{
	SHA256_Final(out, ctx(s));
}
