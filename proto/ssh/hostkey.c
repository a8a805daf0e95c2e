#include "proto/ssh/hostkey.h"

#include "reactor/base64.h"
#include "reactor/crypto.h"

static const struct host_alg algs[] = {
	{ "ssh-ed25519", "ssh-ed25519", SIGN_ED25519, SIGN_SHA256 },
	{ "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256", SIGN_P256, SIGN_SHA256 },
	{ "rsa-sha2-512", "ssh-rsa", SIGN_RSA, SIGN_SHA512 },
	{ "rsa-sha2-256", "ssh-rsa", SIGN_RSA, SIGN_SHA256 },
};
const char host_alg_names[] = "ssh-ed25519,ecdsa-sha2-nistp256,rsa-sha2-512,rsa-sha2-256";

const struct host_alg *host_alg_find(struct slice name)
{
	for (size_t i = 0; i < ARRAY_LEN(algs); i++)
		if (slice_eq(name, slice_str(algs[i].name)))
			return &algs[i];
	return NULL;
}

struct slice host_key_type(struct slice blob)
{
	struct ssh_wire_in w = { blob, false };
	return ssh_wire_string(&w);
}

struct sign_key *host_key_parse(struct slice blob, const char **why)
{
	struct ssh_wire_in w = { blob, false };
	struct slice type = ssh_wire_string(&w), a, b;
	struct sign_key *k = NULL;
	*why = "broken";
	if (slice_eq(type, SLICE("ssh-ed25519"))) {
		a = ssh_wire_string(&w);
		if (ssh_wire_end(&w) && a.n == 32)
			k = sign_ed25519_public((const uint8_t *)a.p);
	} else if (slice_eq(type, SLICE("ecdsa-sha2-nistp256"))) {
		a = ssh_wire_string(&w);
		b = ssh_wire_string(&w);
		if (ssh_wire_end(&w) && slice_eq(a, SLICE("nistp256")))
			k = sign_p256_public(b);
	} else if (slice_eq(type, SLICE("ssh-rsa"))) {
		a = ssh_wire_mpint(&w); /* e */
		b = ssh_wire_mpint(&w); /* n */
		if (ssh_wire_end(&w)) {
			k = sign_rsa_public(b, a);
			*why = "broken, or not of 2048 to 8192 bits";
		}
	} else if (!w.bad) {
		*why = "of a type that we do not know";
	}
	return k;
}

/* RFC 5656 section 3.1.2: two mpints. */
static bool p256_signature(struct slice s, char out[64])
{
	struct ssh_wire_in w = { s, false };
	struct slice part[2];
	part[0] = ssh_wire_mpint(&w);
	part[1] = ssh_wire_mpint(&w);
	if (!ssh_wire_end(&w) || part[0].n > 32 || part[1].n > 32)
		return false;
	memset(out, 0, 64);
	memcpy(out + 32 - part[0].n, part[0].p, part[0].n);
	memcpy(out + 64 - part[1].n, part[1].p, part[1].n);
	return true;
}

bool host_key_verify(const struct sign_key *key, const struct host_alg *alg, struct slice message,
		     struct slice signature)
{
	struct ssh_wire_in w = { signature, false };
	struct slice name = ssh_wire_string(&w), raw = ssh_wire_string(&w);
	char flat[64];
	if (!ssh_wire_end(&w) || !slice_eq(name, slice_str(alg->name)) ||
	    sign_key_type(key) != alg->type)
		return false;
	if (alg->type == SIGN_P256) {
		if (!p256_signature(raw, flat))
			return false;
		raw = slice_of(flat, sizeof(flat));
	}
	return sign_verify(key, alg->hash, message, raw);
}

void host_key_fingerprint(struct slice blob, char out[SSH_FINGERPRINT_MAX])
{
	struct sha256 h = { { 0 } };
	uint8_t digest[32];
	sha256_init(&h);
	sha256_add(&h, blob);
	sha256_end(&h, digest);
	memcpy(out, "SHA256:", 7);
	base64_put(slice_of(digest, sizeof(digest)), out + 7);
}

bool host_key_pinned(struct slice blob, const char *pin)
{
	char is[SSH_FINGERPRINT_MAX];
	struct slice p = slice_str(pin);
	host_key_fingerprint(blob, is);
	if (slice_starts(p, SLICE("SHA256:")))
		p = slice_after(p, 7);
	if (slice_ends(p, SLICE("=")))
		p.n--;
	return slice_eq(p, slice_str(is + 7));
}
