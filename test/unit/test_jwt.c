/* Tokens: vectors of the RFCs, and everything that has to be refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "proto/jwt/jwt.h"
#include "reactor/crypto_cipher.h"

#define SECRET "0123456789abcdef0123456789abcdef"
#define NOW    1700000000

static void b64(const void *p, size_t n, char *out)
{
	static const char digits[] =
	    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	const uint8_t *b = p;
	for (size_t i = 0; i < n; i += 3) {
		uint32_t v = (uint32_t)b[i] << 16 | (i + 1 < n ? (uint32_t)b[i + 1] << 8 : 0) |
			     (i + 2 < n ? b[i + 2] : 0);
		size_t chars = n - i >= 3 ? 4 : n - i + 1;
		for (size_t k = 0; k < chars; k++)
			*out++ = digits[v >> (18 - 6 * k) & 63];
	}
	*out = '\0';
}

/* A token as an honest issuer makes it, but for what the test says. */
static char *make(const char *header, const char *claims, const char *secret)
{
	char h[512], c[2048], m[64];
	uint8_t mac[32];
	b64(header, strlen(header), h);
	b64(claims, strlen(claims), c);
	char *text = xasprintf("%s.%s", h, c);
	struct slice s = slice_str(text);
	struct hmac_sha256 *k = hmac_sha256_new(slice_str(secret));
	hmac_sha256(k, &s, 1, mac);
	hmac_sha256_free(k);
	b64(mac, sizeof(mac), m);
	char *token = xasprintf("%s.%s", text, m);
	free(text);
	return token;
}

static int check_with(const char *token, const char *aud, const char *iss, const char **why)
{
	struct jwt_key *key = jwt_key_secret(SLICE(SECRET));
	struct jwt_rules rules = { key, aud, iss, 30 };
	struct jwt_claims claims;
	*why = "";
	int r = jwt_verify(slice_str(token), &rules, NOW, &claims, why);
	if (r == 0)
		assert_string_equal("alice", claims.subject);
	jwt_key_free(key);
	return r;
}

#define HS256 "{\"alg\":\"HS256\",\"typ\":\"JWT\"}"

static void expect(const char *header, const char *claims, const char *aud, const char *iss,
		   const char *complaint)
{
	const char *why;
	char *token = make(header, claims, SECRET);
	int r = check_with(token, aud, iss, &why);
	if (complaint ? r == 0 || !strstr(why, complaint) : r != 0)
		fail_msg("%s %s: %d %s", header, claims, r, why);
	free(token);
}

static void test_claims(void **state)
{
	(void)state;
	expect(HS256, "{\"sub\":\"alice\",\"exp\":1700000001}", NULL, NULL, NULL);
	expect("{\"alg\":\"HS256\"}", "{\"sub\":\"alice\",\"exp\":1700000001.5}", NULL, NULL, NULL);
	expect(HS256, "{\"sub\":\"alice\",\"exp\":1699999971}", NULL, NULL, NULL); /* leeway */
	expect(HS256, "{\"sub\":\"alice\",\"exp\":1699999970}", NULL, NULL, "expired");
	expect(HS256, "{\"sub\":\"alice\",\"exp\":-9223372036854775808}", NULL, NULL, "expired");
	expect(HS256, "{\"sub\":\"alice\"}", NULL, NULL, "no exp");
	expect(HS256, "{\"sub\":\"alice\",\"exp\":\"1800000000\"}", NULL, NULL, "no exp");
	expect(HS256, "{\"exp\":1800000000}", NULL, NULL, "sub");
	expect(HS256, "{\"sub\":\"\",\"exp\":1800000000}", NULL, NULL, "sub");
	expect(HS256, "{\"sub\":\"a\\u0000b\",\"exp\":1800000000}", NULL, NULL, "sub");
	expect(HS256, "{\"sub\":\"alice\",\"exp\":1800000000,\"nbf\":1700000030}", NULL, NULL,
	       NULL);
	expect(HS256, "{\"sub\":\"alice\",\"exp\":1800000000,\"nbf\":1700000031}", NULL, NULL,
	       "yet");
	expect(HS256, "{\"sub\":\"alice\",\"exp\":1800000000,\"iat\":1700009999}", NULL, NULL,
	       "future");
	expect(HS256, "{\"sub\":\"alice\",\"exp\":1800000000,\"aud\":\"a\"}", "a", NULL, NULL);
	expect(HS256, "{\"sub\":\"alice\",\"exp\":1800000000,\"aud\":[\"b\",\"a\"]}", "a", NULL,
	       NULL);
	expect(HS256, "{\"sub\":\"alice\",\"exp\":1800000000,\"aud\":[\"b\"]}", "a", NULL,
	       "audience");
	expect(HS256, "{\"sub\":\"alice\",\"exp\":1800000000}", "a", NULL, "audience");
	expect(HS256, "{\"sub\":\"alice\",\"exp\":1800000000,\"iss\":\"i\"}", NULL, "i", NULL);
	expect(HS256, "{\"sub\":\"alice\",\"exp\":1800000000,\"iss\":\"j\"}", NULL, "i", "issuer");
	expect(HS256, "[]", NULL, NULL, "object");
	expect(HS256, "{", NULL, NULL, "malformed");
	expect(HS256, "{\"sub\":\"alice\",\"sub\":\"bob\",\"exp\":1800000000}", NULL, NULL,
	       "malformed");
}

static void test_headers(void **state)
{
	static const char claims[] = "{\"sub\":\"alice\",\"exp\":1800000000}";
	static const char *const bad[] = {
		"{\"alg\":\"none\"}",
		"{\"alg\":\"None\"}",
		"{\"alg\":\"hs256\"}",
		"{\"alg\":\"HS384\"}",
		"{\"alg\":\"RS256\"}",
		"{}",
		"[]",
		"{\"alg\":\"HS256\",\"alg\":\"none\"}",
		"{\"alg\":\"HS256\",\"crit\":[\"exp\"]}",
		"{\"alg\":\"HS256\",\"b64\":false}",
		"{\"alg\":\"HS256\",\"typ\":\"JOSE\"}",
		"{\"alg\":5}",
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		expect(bad[i], claims, NULL, NULL, "algorithm");
}

static void test_every_bit_counts(void **state)
{
	const char *why;
	char *token = make(HS256, "{\"sub\":\"alice\",\"exp\":1800000000}", SECRET);
	(void)state;
	assert_int_equal(0, check_with(token, NULL, NULL, &why));
	for (size_t i = 0; token[i]; i++) {
		char was = token[i];
		token[i] = was == 'A' ? 'B' : 'A';
		if (was != 'A' || token[i] != was)
			assert_int_not_equal(0, check_with(token, NULL, NULL, &why));
		token[i] = '\0'; /* and every prefix */
		assert_int_not_equal(0, check_with(token, NULL, NULL, &why));
		token[i] = was;
	}
	char *more = xasprintf("%s.", token);
	assert_int_not_equal(0, check_with(more, NULL, NULL, &why));
	free(more);
	more = xasprintf("%s=", token);
	assert_int_not_equal(0, check_with(more, NULL, NULL, &why));
	free(more);
	free(token);
	token = make(HS256, "{\"sub\":\"alice\",\"exp\":1800000000}", SECRET "x");
	assert_int_not_equal(0, check_with(token, NULL, NULL, &why));
	free(token);
}

/* RFC 8037 appendix A.4: the signature is good, and the payload is no set of claims. */
static void test_ed25519(void **state)
{
	static const char pem[] = "-----BEGIN PUBLIC KEY-----\n"
				  "MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n"
				  "-----END PUBLIC KEY-----\n";
	char err[256] = "";
	struct jwt_claims claims;
	const char *why = "";
	(void)state;
	struct jwt_key *key = jwt_key_public(slice_str(pem), err, sizeof(err));
	assert_string_equal("", err);
	assert_string_equal("EdDSA", jwt_key_algorithm(key));
	struct jwt_rules rules = { key, NULL, NULL, 0 };
	assert_int_not_equal(
	    0, jwt_verify(SLICE("eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_"
				"MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7s"
				"VvpAr_MuM0KAg"),
			  &rules, NOW, &claims, &why));
	assert_string_equal("the token's claims are malformed", why);
	/* The public key as an HMAC secret: the old confusion. */
	char *token = make(HS256, "{\"sub\":\"alice\",\"exp\":1800000000}", pem);
	assert_int_not_equal(0, jwt_verify(slice_str(token), &rules, NOW, &claims, &why));
	assert_non_null(strstr(why, "algorithm"));
	free(token);
	jwt_key_free(key);
}

static void test_keys(void **state)
{
	char err[256];
	(void)state;
	assert_null(jwt_key_secret(SLICE("fifteen bytes..")));
	assert_null(jwt_key_public(SLICE(""), err, sizeof(err)));
	assert_null(jwt_key_public(
	    SLICE("-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----"), err, sizeof(err)));
	assert_non_null(strstr(err, "not a public key"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_claims),
		cmocka_unit_test(test_headers),
		cmocka_unit_test(test_every_bit_counts),
		cmocka_unit_test(test_ed25519),
		cmocka_unit_test(test_keys),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
