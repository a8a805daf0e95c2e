#include "cmd/pico-apiserver/keygen.h"

#include "proto/ssh/wire.h"
#include "reactor/crypto.h"
#include "reactor/crypto_cipher.h"
#include "reactor/crypto_sign.h"

static char *add_u32(char *p, uint32_t v)
{
	for (int shift = 24; shift >= 0; shift -= 8)
		*p++ = (char)(v >> shift);
	return p;
}

static char *add_bytes(char *p, const void *from, size_t n)
{
	p = add_u32(p, (uint32_t)n);
	memcpy(p, from, n);
	return p + n;
}

static void add_public(char *p, size_t n, struct slice blob, char line[KEYGEN_LINE_MAX],
		       char fingerprint[64])
{
	struct sha256 h;
	uint8_t sum[32];
	sha256_init(&h);
	sha256_add(&h, blob);
	sha256_end(&h, sum);
	base64_put(slice_of(sum, sizeof(sum)), p);
	snprintf(fingerprint, 64, "SHA256:%.*s", (int)n, p);
	base64_put(blob, p);
	snprintf(line, KEYGEN_LINE_MAX, "ssh-ed25519 %.100s", p); /* 51 bytes: no padding */
}

size_t keygen(char text[KEYGEN_TEXT_MAX], char line[KEYGEN_LINE_MAX], char fingerprint[64])
{
	static const char type[] = "ssh-ed25519", magic[] = "openssh-key-v1";
	static const char begin[] = "-----BEGIN OPENSSH PRIVATE KEY-----\n";
	static const char end[] = "\n-----END OPENSSH PRIVATE KEY-----\n";
	static const char *const padding[] = { "", "==", "=" };
	uint8_t seed[32];
	char blob[64], secret[64], private[256], whole[512], coded[KEYGEN_TEXT_MAX];
	random_fill(seed, sizeof(seed));
	struct sign_key *key = sign_ed25519_pair(seed);
	const uint8_t *public = sign_ed25519_bytes(key);

	char *p = add_bytes(blob, type, sizeof(type) - 1);
	size_t blob_n = (size_t)(add_bytes(p, public, 32) - blob);
	memcpy(secret, seed, 32);
	memcpy(secret + 32, public, 32);

	uint32_t check = arc4random();
	p = add_u32(add_u32(private, check), check);
	memcpy(p, blob, blob_n);
	p = add_bytes(p + blob_n, secret, sizeof(secret));
	p = add_bytes(p, "sandbox", 7); /* comment */
	for (char pad = 1; (p - private) % 8; pad++)
		*p++ = pad;
	size_t private_n = (size_t)(p - private);

	memcpy(whole, magic, sizeof(magic));
	p = add_bytes(whole + sizeof(magic), "none", 4); /* cipher */
	p = add_bytes(p, "none", 4);                     /* key derivation */
	p = add_u32(p, 0);                               /* its options */
	p = add_u32(p, 1);                               /* keys */
	p = add_bytes(p, blob, blob_n);
	p = add_bytes(p, private, private_n);
	base64_put(slice_of(whole, (size_t)(p - whole)), coded);
	size_t n = (size_t)snprintf(text, KEYGEN_TEXT_MAX, "%s%s%s%s", begin, coded,
				    padding[(size_t)(p - whole) % 3], end);
	add_public(coded, 43, slice_of(blob, blob_n), line, fingerprint);
	secret_wipe(seed, sizeof(seed));
	secret_wipe(secret, sizeof(secret));
	secret_wipe(private, sizeof(private));
	secret_wipe(whole, sizeof(whole));
	secret_wipe(coded, sizeof(coded));
	sign_key_free(key);
	return n;
}
