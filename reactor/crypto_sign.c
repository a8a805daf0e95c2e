#include "reactor/crypto_sign.h"

#include <openssl/bn.h>
#include <openssl/curve25519.h>
#include <openssl/ec.h>
#include <openssl/ec_key.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/mem.h>
#include <openssl/nid.h>
#include <openssl/rsa.h>
#include <openssl/sha.h>

struct sign_key {
	enum sign_type type;
	uint8_t ed_public[32], ed_private[64];
	EC_KEY *ec;
	RSA *rsa;
};

void x25519_keypair(uint8_t public_key[32], uint8_t private_key[32])
{
	X25519_keypair(public_key, private_key);
}

bool x25519_shared(uint8_t out[32], const uint8_t private_key[32], const uint8_t peer[32])
{
	return X25519(out, private_key, peer) == 1;
}

static const uint8_t *bytes(struct slice s)
{
	return (const uint8_t *)s.p;
}

static BIGNUM *number(struct slice s)
{
	BIGNUM *n = BN_bin2bn(bytes(s), s.n, NULL);
	BUG_ON(!n);
	return n;
}

static struct sign_key *key_new(enum sign_type type)
{
	struct sign_key *k = xcalloc(1, sizeof(*k));
	k->type = type;
	return k;
}

void sign_key_free(struct sign_key *k)
{
	if (!k)
		return;
	EC_KEY_free(k->ec);
	RSA_free(k->rsa);
	OPENSSL_cleanse(k, sizeof(*k));
	free(k);
}

/* k, or NULL and nothing in the error queue. */
static struct sign_key *key_if(struct sign_key *k, bool ok)
{
	ERR_clear_error();
	if (ok)
		return k;
	sign_key_free(k);
	return NULL;
}

struct sign_key *sign_ed25519_public(const uint8_t key[32])
{
	struct sign_key *k = key_new(SIGN_ED25519);
	memcpy(k->ed_public, key, 32);
	return k;
}

struct sign_key *sign_ed25519_pair(const uint8_t seed[32])
{
	struct sign_key *k = key_new(SIGN_ED25519);
	ED25519_keypair_from_seed(k->ed_public, k->ed_private, seed);
	return k;
}

struct sign_key *sign_p256_public(struct slice point)
{
	struct sign_key *k = key_new(SIGN_P256);
	k->ec = EC_KEY_new_by_curve_name(NID_X9_62_prime256v1);
	EC_POINT *at = k->ec ? EC_POINT_new(EC_KEY_get0_group(k->ec)) : NULL;
	BUG_ON(!at);
	bool ok = point.n == 65 && point.p[0] == 4 &&
		  EC_POINT_oct2point(EC_KEY_get0_group(k->ec), at, bytes(point), point.n, NULL) &&
		  EC_KEY_set_public_key(k->ec, at) && EC_KEY_check_key(k->ec);
	EC_POINT_free(at);
	return key_if(k, ok);
}

struct sign_key *sign_p256_pair(struct slice point, struct slice scalar)
{
	struct sign_key *k = sign_p256_public(point);
	if (!k)
		return NULL;
	bool ok = scalar.n <= 32;
	if (ok) {
		BIGNUM *d = number(scalar);
		/* check_key sees whether the point is the scalar's. */
		ok = EC_KEY_set_private_key(k->ec, d) && EC_KEY_check_key(k->ec);
		BN_clear_free(d);
	}
	return key_if(k, ok);
}

static bool rsa_size_ok(struct slice n, struct slice e)
{
	return n.n >= SIGN_RSA_BITS_MIN / 8 && n.n <= SIGN_RSA_BITS_MAX / 8 && e.n > 0 && e.n <= 4;
}

struct sign_key *sign_rsa_public(struct slice n, struct slice e)
{
	if (!rsa_size_ok(n, e))
		return NULL;
	struct sign_key *k = key_new(SIGN_RSA);
	k->rsa = RSA_new();
	BUG_ON(!k->rsa || !RSA_set0_key(k->rsa, number(n), number(e), NULL));
	return key_if(k, RSA_bits(k->rsa) >= SIGN_RSA_BITS_MIN && RSA_check_key(k->rsa));
}

struct sign_key *sign_rsa_pair(struct slice n, struct slice e, struct slice d, struct slice p,
			       struct slice q)
{
	if (!rsa_size_ok(n, e) || d.n > n.n || p.n > n.n || q.n > n.n)
		return NULL;
	BN_CTX *ctx = BN_CTX_new();
	BIGNUM *bd = number(d), *bp = number(p), *bq = number(q), *one = BN_new();
	BIGNUM *dp = BN_new(), *dq = BN_new(), *inv = BN_new(), *less = BN_new();
	BUG_ON(!ctx || !one || !dp || !dq || !inv || !less || !BN_one(one));
	/* RFC 8017 section 3.2: d mod p-1, d mod q-1, q^-1 mod p. */
	bool ok = BN_cmp(bp, one) > 0 && BN_cmp(bq, one) > 0 && BN_sub(less, bp, one) &&
		  BN_mod(dp, bd, less, ctx) && BN_sub(less, bq, one) && BN_mod(dq, bd, less, ctx) &&
		  BN_mod_inverse(inv, bq, bp, ctx);
	BN_free(one);
	BN_clear_free(less);
	BN_CTX_free(ctx);

	struct sign_key *k = key_new(SIGN_RSA);
	k->rsa = RSA_new();
	BUG_ON(!k->rsa || !RSA_set0_key(k->rsa, number(n), number(e), bd) ||
	       !RSA_set0_factors(k->rsa, bp, bq) || !RSA_set0_crt_params(k->rsa, dp, dq, inv));
	return key_if(k, ok && RSA_bits(k->rsa) >= SIGN_RSA_BITS_MIN && RSA_check_key(k->rsa));
}

enum sign_type sign_key_type(const struct sign_key *k)
{
	return k->type;
}

const uint8_t *sign_ed25519_bytes(const struct sign_key *k)
{
	return k->ed_public;
}

struct digest {
	uint8_t bytes[64];
	size_t n;
	int nid;
};

static struct digest digest(enum sign_hash hash, struct slice message)
{
	struct digest d;
	if (hash == SIGN_SHA512) {
		SHA512(bytes(message), message.n, d.bytes);
		d.n = 64;
		d.nid = NID_sha512;
	} else {
		SHA256(bytes(message), message.n, d.bytes);
		d.n = 32;
		d.nid = NID_sha256;
	}
	return d;
}

static bool p256_verify(const struct sign_key *k, struct digest d, struct slice sig)
{
	if (sig.n != 64)
		return false;
	ECDSA_SIG *s = ECDSA_SIG_new();
	BUG_ON(!s ||
	       !ECDSA_SIG_set0(s, number(slice_of(sig.p, 32)), number(slice_of(sig.p + 32, 32))));
	bool ok = ECDSA_do_verify(d.bytes, d.n, s, k->ec) == 1;
	ECDSA_SIG_free(s);
	return ok;
}

bool sign_verify(const struct sign_key *k, enum sign_hash hash, struct slice message,
		 struct slice sig)
{
	bool ok = false;
	struct digest d;
	switch (k->type) {
	case SIGN_ED25519:
		ok = sig.n == 64 &&
		     ED25519_verify(bytes(message), message.n, bytes(sig), k->ed_public) == 1;
		break;
	case SIGN_P256:
		ok = p256_verify(k, digest(SIGN_SHA256, message), sig);
		break;
	case SIGN_RSA:
		d = digest(hash, message);
		ok = sig.n == RSA_size(k->rsa) &&
		     RSA_verify(d.nid, d.bytes, d.n, bytes(sig), sig.n, k->rsa) == 1;
		break;
	}
	ERR_clear_error();
	return ok;
}

size_t sign_make(const struct sign_key *k, enum sign_hash hash, struct slice message,
		 uint8_t out[SIGN_MAX])
{
	struct digest d;
	unsigned n = 0;
	ECDSA_SIG *s;
	switch (k->type) {
	case SIGN_ED25519:
		BUG_ON(!ED25519_sign(out, bytes(message), message.n, k->ed_private));
		return 64;
	case SIGN_P256:
		d = digest(SIGN_SHA256, message);
		s = ECDSA_do_sign(d.bytes, d.n, k->ec);
		BUG_ON(!s || !BN_bn2bin_padded(out, 32, ECDSA_SIG_get0_r(s)) ||
		       !BN_bn2bin_padded(out + 32, 32, ECDSA_SIG_get0_s(s)));
		ECDSA_SIG_free(s);
		return 64;
	case SIGN_RSA:
		d = digest(hash, message);
		BUG_ON(!RSA_sign(d.nid, d.bytes, (unsigned)d.n, out, &n, k->rsa));
		return n;
	}
	return 0;
}
