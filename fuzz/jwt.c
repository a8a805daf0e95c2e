/*
 * Tokens and keys from strangers. Nothing is accepted that was not signed with the key; what is
 * accepted keeps to the rules. The input is a token, or a PEM file.
 */
#include "proto/jwt/jwt.h"
#include "proto/sandbox/record.h"
#include "reactor/crypto_cipher.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static void encode(const uint8_t *b, size_t n, char *out)
{
	for (size_t i = 0; i < n; i += 3) {
		uint32_t v = (uint32_t)b[i] << 16 | (i + 1 < n ? (uint32_t)b[i + 1] << 8 : 0) |
			     (i + 2 < n ? b[i + 2] : 0);
		size_t chars = n - i >= 3 ? 4 : n - i + 1;
		for (size_t k = 0; k < chars; k++)
			*out++ = digits[v >> (18 - 6 * k) & 63];
	}
	*out = '\0';
}

/* The input as claims under a good signature: the parser behind it. */
static void signed_claims(const struct jwt_rules *rules, const uint8_t *data, size_t size)
{
	static const char secret[] = "0123456789abcdef";
	char text[8192], mac_text[64];
	uint8_t mac[32];
	struct jwt_claims claims;
	const char *why;
	if (size > 4096)
		return;
	size_t n = (size_t)snprintf(text, sizeof(text), "eyJhbGciOiJIUzI1NiJ9.");
	encode(data, size, text + n);
	struct slice s = slice_str(text);
	struct hmac_sha256 *k = hmac_sha256_new(slice_of(secret, sizeof(secret) - 1));
	hmac_sha256(k, &s, 1, mac);
	hmac_sha256_free(k);
	encode(mac, sizeof(mac), mac_text);
	snprintf(text + s.n, sizeof(text) - s.n, ".%s", mac_text);
	if (jwt_verify(slice_str(text), rules, 1700000000, &claims, &why) == 0)
		BUG_ON(claims.expires <= 1700000000 - 30 || claims.subject[0] == '\0');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char err[256];
	const char *why;
	struct jwt_claims claims;
	struct sandbox_request q;
	struct sandbox_record r;
	struct slice in = slice_of(data, size);
	struct jwt_key *key = jwt_key_secret(SLICE("0123456789abcdef"));
	struct jwt_rules rules = { key, NULL, NULL, 30 };
	/* The one good token is not in anybody's reach. */
	BUG_ON(jwt_verify(in, &rules, 1700000000, &claims, &why) == 0);
	signed_claims(&rules, data, size);
	jwt_key_free(key);
	jwt_key_free(jwt_key_public(in, err, sizeof(err)));
	if (sandbox_request_get(&q, in, SANDBOX_TTL_MIN, err, sizeof(err)) == 0) {
		BUG_ON(q.ttl < SANDBOX_TTL_MIN || q.ttl > SANDBOX_TTL_MAX);
		BUG_ON(q.public_key && strchr(q.public_key, '\n'));
		sandbox_request_end(&q);
	}
	if (sandbox_record_get(&r, in, err, sizeof(err)) == 0)
		sandbox_record_end(&r);
	return 0;
}
