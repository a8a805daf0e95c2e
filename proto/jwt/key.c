#include "proto/jwt/key.h"

#include <errno.h>

#include "reactor/base64.h"
#include "reactor/crypto_cipher.h"
#include "reactor/crypto_sign.h"

enum { PEM_MAX = 64 * 1024, HS256_LEN = 32, P256_POINT = 65 };

struct jwt_key {
	struct hmac_sha256 *hmac; /* or */
	struct sign_key *sign;
};

struct jwt_key *jwt_key_secret(struct slice secret)
{
	if (secret.n < JWT_SECRET_MIN)
		return NULL;
	struct jwt_key *k = xcalloc(1, sizeof(*k));
	k->hmac = hmac_sha256_new(secret);
	return k;
}

void jwt_key_free(struct jwt_key *k)
{
	if (!k)
		return;
	if (k->hmac)
		hmac_sha256_free(k->hmac);
	sign_key_free(k->sign);
	free(k);
}

const char *jwt_key_algorithm(const struct jwt_key *k)
{
	if (k->hmac)
		return "HS256";
	switch (sign_key_type(k->sign)) {
	case SIGN_RSA:
		return "RS256";
	case SIGN_P256:
		return "ES256";
	default:
		return "EdDSA";
	}
}

bool jwt_key_check(const struct jwt_key *k, struct slice text, struct slice signature)
{
	uint8_t mac[HS256_LEN];
	if (!k->hmac)
		return sign_verify(k->sign, SIGN_SHA256, text, signature);
	hmac_sha256(k->hmac, &text, 1, mac);
	return signature.n == HS256_LEN && secret_equal(mac, signature.p, HS256_LEN);
}

/* --- DER (X.690), as far as public keys need it --- */

enum { DER_INTEGER = 0x02, DER_BITS = 0x03, DER_OID = 0x06, DER_SEQUENCE = 0x30 };

/* Takes one value of that tag off *in. */
static bool der_take(struct slice *in, uint8_t tag, struct slice *value)
{
	const uint8_t *p = (const uint8_t *)in->p;
	size_t header = 2, length;
	if (in->n < 2 || p[0] != tag)
		return false;
	length = p[1];
	if (length & 0x80) {
		size_t bytes = length & 0x7f;
		if (bytes == 0 || bytes > 2 || in->n < 2 + bytes)
			return false;
		header += bytes;
		length = bytes == 1 ? p[2] : (size_t)p[2] << 8 | p[3];
	}
	if (in->n - header < length)
		return false;
	*value = slice_of(in->p + header, length);
	*in = slice_after(*in, header + length);
	return true;
}

/* A positive number without its leading zero. */
static bool der_number(struct slice *in, struct slice *value)
{
	if (!der_take(in, DER_INTEGER, value) || value->n == 0 || (value->p[0] & 0x80))
		return false;
	while (value->n > 1 && value->p[0] == 0)
		*value = slice_after(*value, 1);
	return true;
}

static struct sign_key *rsa_key(struct slice der)
{
	struct slice inner, n, e;
	if (!der_take(&der, DER_SEQUENCE, &inner) || der.n || !der_number(&inner, &n) ||
	    !der_number(&inner, &e) || inner.n)
		return NULL;
	return sign_rsa_public(n, e);
}

/* RFC 5280 section 4.1.2.7; algorithms: RFC 3279, RFC 5480, RFC 8410. */
static struct sign_key *spki_key(struct slice der)
{
	static const char rsa[] = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01";
	static const char ec[] = "\x2a\x86\x48\xce\x3d\x02\x01";
	static const char p256[] = "\x2a\x86\x48\xce\x3d\x03\x01\x07";
	static const char ed25519[] = "\x2b\x65\x70";
	struct slice inner, algorithm, oid, curve, bits;
	if (!der_take(&der, DER_SEQUENCE, &inner) || der.n ||
	    !der_take(&inner, DER_SEQUENCE, &algorithm) || !der_take(&inner, DER_BITS, &bits) ||
	    inner.n || !der_take(&algorithm, DER_OID, &oid) || bits.n < 1 || bits.p[0] != 0)
		return NULL;
	bits = slice_after(bits, 1);
	if (slice_eq(oid, slice_of(rsa, sizeof(rsa) - 1)))
		return rsa_key(bits);
	if (slice_eq(oid, slice_of(ed25519, sizeof(ed25519) - 1)) && bits.n == 32)
		return sign_ed25519_public((const uint8_t *)bits.p);
	if (slice_eq(oid, slice_of(ec, sizeof(ec) - 1)) && der_take(&algorithm, DER_OID, &curve) &&
	    slice_eq(curve, slice_of(p256, sizeof(p256) - 1)) && bits.n == P256_POINT)
		return sign_p256_public(bits);
	return NULL;
}

/* What is between BEGIN and END of that label; .p NULL: not there. */
static struct slice pem_body(struct slice pem, const char *label)
{
	char begin[64], end[64];
	int b = snprintf(begin, sizeof(begin), "-----BEGIN %s-----", label);
	int e = snprintf(end, sizeof(end), "-----END %s-----", label);
	const char *from = pem.n ? memmem(pem.p, pem.n, begin, (size_t)b) : NULL;
	if (!from)
		return (struct slice){ NULL, 0 };
	from += b;
	const char *to = memmem(from, pem.n - (size_t)(from - pem.p), end, (size_t)e);
	return to ? slice_of(from, (size_t)(to - from)) : (struct slice){ NULL, 0 };
}

struct jwt_key *jwt_key_public(struct slice pem, char *err, size_t errlen)
{
	struct slice spki = pem_body(pem, "PUBLIC KEY"), rsa = pem_body(pem, "RSA PUBLIC KEY");
	struct slice body = spki.p ? spki : rsa;
	if (pem.n > PEM_MAX || !body.p) {
		snprintf(err, errlen,
			 "no PEM block \"PUBLIC KEY\" in it (openssl pkey -in KEY "
			 "-pubout writes one)");
		return NULL;
	}
	uint8_t *der = xmalloc(body.n + 4);
	ssize_t n = base64_get(body, true, der);
	struct sign_key *sign = n < 0    ? NULL
				: spki.p ? spki_key(slice_of(der, (size_t)n))
					 : rsa_key(slice_of(der, (size_t)n));
	free(der);
	if (!sign) {
		snprintf(err, errlen,
			 "not a public key of RSA (2048 to 8192 bits), ECDSA on P-256 "
			 "or Ed25519");
		return NULL;
	}
	struct jwt_key *k = xcalloc(1, sizeof(*k));
	k->sign = sign;
	return k;
}
