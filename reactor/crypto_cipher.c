#include "reactor/crypto_cipher.h"

#include <openssl/aead.h>
#include <openssl/chacha.h>
#include <openssl/cipher.h>
#include <openssl/digest.h>
#include <openssl/hmac.h>
#include <openssl/mem.h>
#include <openssl/poly1305.h>
#include <openssl/rand.h>

void random_fill(void *p, size_t n)
{
	BUG_ON(!RAND_bytes(p, n));
}

void secret_wipe(void *p, size_t n)
{
	OPENSSL_cleanse(p, n);
}

bool secret_equal(const void *a, const void *b, size_t n)
{
	return CRYPTO_memcmp(a, b, n) == 0;
}

struct gcm {
	EVP_AEAD_CTX ctx;
};

struct gcm *gcm_new(const uint8_t *key, size_t key_n)
{
	struct gcm *g = xcalloc(1, sizeof(*g));
	const EVP_AEAD *aead = key_n == 16 ? EVP_aead_aes_128_gcm() : EVP_aead_aes_256_gcm();
	BUG_ON(!EVP_AEAD_CTX_init(&g->ctx, aead, key, key_n, 16, NULL));
	return g;
}

void gcm_free(struct gcm *g)
{
	if (!g)
		return;
	EVP_AEAD_CTX_cleanup(&g->ctx);
	OPENSSL_cleanse(g, sizeof(*g));
	free(g);
}

void gcm_seal(const struct gcm *g, const uint8_t nonce[12], struct slice extra, void *p, size_t n,
	      uint8_t tag[16])
{
	size_t tag_n;
	BUG_ON(!EVP_AEAD_CTX_seal_scatter(&g->ctx, p, tag, &tag_n, 16, nonce, 12, p, n, NULL, 0,
					  (const uint8_t *)extra.p, extra.n));
}

bool gcm_open(const struct gcm *g, const uint8_t nonce[12], struct slice extra, void *p, size_t n,
	      const uint8_t tag[16])
{
	return EVP_AEAD_CTX_open_gather(&g->ctx, p, nonce, 12, p, n, tag, 16,
					(const uint8_t *)extra.p, extra.n) == 1;
}

struct aes_ctr {
	EVP_CIPHER_CTX ctx;
};

struct aes_ctr *aes_ctr_new(const uint8_t *key, size_t key_n, const uint8_t iv[16])
{
	struct aes_ctr *c = xcalloc(1, sizeof(*c));
	EVP_CIPHER_CTX_init(&c->ctx);
	BUG_ON(!EVP_EncryptInit_ex(&c->ctx, key_n == 16 ? EVP_aes_128_ctr() : EVP_aes_256_ctr(),
				   NULL, key, iv));
	return c;
}

void aes_ctr_free(struct aes_ctr *c)
{
	if (!c)
		return;
	EVP_CIPHER_CTX_cleanup(&c->ctx);
	free(c);
}

void aes_ctr_xor(struct aes_ctr *c, void *p, size_t n)
{
	int done = 0;
	BUG_ON(n > INT32_MAX || !EVP_EncryptUpdate(&c->ctx, p, &done, p, (int)n));
	BUG_ON(done != (int)n);
}

void chacha20_xor(const uint8_t key[32], const uint8_t nonce[8], uint32_t counter, void *p,
		  size_t n)
{
	/* The upper half of the 64-bit counter lies where RFC 8439 begins its nonce. */
	uint8_t wide[12] = { 0 };
	memcpy(wide + 4, nonce, 8);
	CRYPTO_chacha_20(p, p, n, key, wide, counter);
}

void poly1305(const uint8_t key[32], struct slice message, uint8_t tag[16])
{
	_Alignas(64) poly1305_state state;
	CRYPTO_poly1305_init(&state, key);
	CRYPTO_poly1305_update(&state, (const uint8_t *)message.p, message.n);
	CRYPTO_poly1305_finish(&state, tag);
	OPENSSL_cleanse(&state, sizeof(state));
}

struct hmac_sha256 {
	HMAC_CTX ctx;
};

struct hmac_sha256 *hmac_sha256_new(struct slice key)
{
	struct hmac_sha256 *h = xcalloc(1, sizeof(*h));
	HMAC_CTX_init(&h->ctx);
	BUG_ON(!HMAC_Init_ex(&h->ctx, key.p, key.n, EVP_sha256(), NULL));
	return h;
}

void hmac_sha256_free(struct hmac_sha256 *h)
{
	if (!h)
		return;
	HMAC_CTX_cleanup(&h->ctx);
	OPENSSL_cleanse(h, sizeof(*h));
	free(h);
}

void hmac_sha256(struct hmac_sha256 *h, const struct slice *parts, size_t n, uint8_t out[32])
{
	unsigned len;
	BUG_ON(!HMAC_Init_ex(&h->ctx, NULL, 0, NULL, NULL)); /* the same key again */
	for (size_t i = 0; i < n; i++)
		BUG_ON(!HMAC_Update(&h->ctx, (const uint8_t *)parts[i].p, parts[i].n));
	BUG_ON(!HMAC_Final(&h->ctx, out, &len));
}

void hmac_sha1(struct slice key, struct slice message, uint8_t out[20])
{
	unsigned len;
	BUG_ON(!HMAC(EVP_sha1(), key.p, key.n, (const uint8_t *)message.p, message.n, out, &len));
}
