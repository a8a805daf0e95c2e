#include "proto/ssh/key.h"

#include "proto/ssh/file.h"
#include "proto/ssh/hostkey.h"
#include "reactor/base64.h"
#include "reactor/crypto_cipher.h"
#include "reactor/err.h"

struct ssh_key {
	struct sign_key *pair;
	char *blob;
	size_t blob_n;
};

static const char begin_line[] = "-----BEGIN OPENSSH PRIVATE KEY-----";
static const char end_line[] = "-----END OPENSSH PRIVATE KEY-----";

void ssh_key_free(struct ssh_key *k)
{
	if (!k)
		return;
	sign_key_free(k->pair);
	free(k->blob);
	free(k);
}

struct slice ssh_key_blob(const struct ssh_key *k)
{
	return slice_of(k->blob, k->blob_n);
}

struct slice ssh_key_type(const struct ssh_key *k)
{
	return host_key_type(ssh_key_blob(k));
}

bool ssh_key_fingerprint(struct slice line, char out[SSH_FINGERPRINT_MAX])
{
	struct slice type, rest, coded;
	slice_cut(line, ' ', &type, &rest);
	slice_cut(rest, ' ', &coded, &rest);
	while (coded.n && (coded.p[coded.n - 1] == '\n' || coded.p[coded.n - 1] == '\r'))
		coded.n--;
	out[0] = '\0';
	if (coded.n == 0 || coded.n > SSH_KEY_FILE_MAX)
		return false;
	uint8_t *blob = xmalloc(coded.n);
	ssize_t n = base64_get(coded, false, blob);
	bool ok = n > 0 && slice_eq(host_key_type(slice_of(blob, (size_t)n)), type);
	if (ok)
		host_key_fingerprint(slice_of(blob, (size_t)n), out);
	free(blob);
	return ok;
}

/* Points at the first needle in s, or NULL. */
static const char *find(struct slice s, const char *needle)
{
	return s.n ? memmem(s.p, s.n, needle, strlen(needle)) : NULL;
}

/* The private numbers behind the type, which was read. NULL: broken, or not those of the public
 * key. */
static struct sign_key *pair_get(struct ssh_wire_in *w, struct slice type)
{
	struct slice a, b, d, p, q;
	if (slice_eq(type, SLICE("ssh-ed25519"))) {
		a = ssh_wire_string(w); /* public */
		b = ssh_wire_string(w); /* seed, public */
		if (w->bad || a.n != 32 || b.n != 64 || memcmp(b.p + 32, a.p, 32) != 0)
			return NULL;
		struct sign_key *k = sign_ed25519_pair((const uint8_t *)b.p);
		if (memcmp(sign_ed25519_bytes(k), a.p, 32) == 0)
			return k;
		sign_key_free(k);
		return NULL;
	}
	if (slice_eq(type, SLICE("ecdsa-sha2-nistp256"))) {
		a = ssh_wire_string(w); /* "nistp256" */
		b = ssh_wire_string(w); /* point */
		d = ssh_wire_mpint(w);
		return w->bad || !slice_eq(a, SLICE("nistp256")) ? NULL : sign_p256_pair(b, d);
	}
	a = ssh_wire_mpint(w); /* n */
	b = ssh_wire_mpint(w); /* e */
	d = ssh_wire_mpint(w);
	ssh_wire_mpint(w); /* q^-1 mod p: follows from the others */
	p = ssh_wire_mpint(w);
	q = ssh_wire_mpint(w);
	return w->bad ? NULL : sign_rsa_pair(a, b, d, p, q);
}

/* Does the pair belong to the public key that the file begins with? */
static bool matches(const struct ssh_key *k, const struct sign_key *public_half)
{
	uint8_t raw[SIGN_MAX];
	size_t n = sign_make(k->pair, SIGN_SHA256, SLICE("match"), raw);
	return sign_verify(public_half, SIGN_SHA256, SLICE("match"), slice_of(raw, n));
}

/* PROTOCOL.key, the part that could be encrypted. */
static const char *inner_get(struct ssh_key *k, const struct sign_key *public_half, struct slice s)
{
	struct ssh_wire_in w = { s, false };
	uint32_t check = ssh_wire_u32(&w);
	if (ssh_wire_u32(&w) != check || w.bad)
		return "its check numbers differ: broken";
	struct slice type = ssh_wire_string(&w);
	if (!slice_eq(type, ssh_key_type(k)))
		return "its private half is of another type than its public one";
	k->pair = pair_get(&w, type);
	ssh_wire_string(&w); /* comment */
	if (!k->pair || w.bad || sign_key_type(k->pair) != sign_key_type(public_half) ||
	    !matches(k, public_half))
		return "its private numbers are broken";
	for (uint8_t i = 1; w.left.n > 0; i++)
		if (ssh_wire_u8(&w) != i)
			return "its padding is broken";
	return NULL;
}

static const char *outer_get(struct ssh_key *k, struct slice s)
{
	static const char magic[] = "openssh-key-v1"; /* with its NUL */
	struct ssh_wire_in w = { s, false };
	const char *why;
	if (!slice_eq(ssh_wire_bytes(&w, sizeof(magic)), slice_of(magic, sizeof(magic))))
		return "it is no openssh-key-v1: broken";
	struct slice cipher = ssh_wire_string(&w), kdf = ssh_wire_string(&w);
	ssh_wire_string(&w); /* KDF options */
	uint32_t count = ssh_wire_u32(&w);
	struct slice blob = ssh_wire_string(&w), inner = ssh_wire_string(&w);
	if (!ssh_wire_end(&w) || count != 1)
		return "it is cut short or broken";
	if (!slice_eq(cipher, SLICE("none")) || !slice_eq(kdf, SLICE("none")))
		return "it is encrypted, which is not supported: write an unencrypted copy with "
		       "ssh-keygen -p -N '' -f COPY";
	struct sign_key *public_half = host_key_parse(blob, &why);
	if (!public_half)
		return "its type is not supported (ed25519, ecdsa with nistp256 and rsa are; "
		       "make one with ssh-keygen -t ed25519), or it is broken";
	k->blob = xmalloc(blob.n);
	memcpy(k->blob, blob.p, blob.n);
	k->blob_n = blob.n;
	why = inner_get(k, public_half, inner);
	sign_key_free(public_half);
	return why;
}

static const char *armour_get(struct ssh_key *k, struct slice text)
{
	const char *from = find(text, begin_line);
	if (!from)
		return find(text, "PRIVATE KEY-----")
			   ? "it is in an old PEM format: convert a copy with "
			     "ssh-keygen -p -N '' -f COPY"
		       : find(text, "ssh-") == text.p || find(text, "ecdsa-") == text.p
			   ? "it is a public key: give the file without .pub"
			   : "it is no OpenSSH private key";
	text = slice_after(text, (size_t)(from - text.p) + sizeof(begin_line) - 1);
	const char *to = find(text, end_line);
	if (!to)
		return "it is cut short";
	text.n = (size_t)(to - text.p);
	uint8_t *raw = xmalloc(text.n + 1);
	ssize_t n = base64_get(text, true, raw);
	const char *wrong = n < 0 ? "its base64 is broken" : outer_get(k, slice_of(raw, (size_t)n));
	secret_wipe(raw, text.n + 1);
	free(raw);
	return wrong;
}

struct ssh_key *ssh_key_parse(struct slice text, char *err, size_t errlen)
{
	struct ssh_key *k = xcalloc(1, sizeof(*k));
	const char *wrong =
	    text.n > SSH_KEY_FILE_MAX ? "it is too large for a key" : armour_get(k, text);
	if (!wrong)
		return k;
	snprintf(err, errlen, "%s", wrong);
	ssh_key_free(k);
	return NULL;
}

struct ssh_key *ssh_key_load(const char *path, char *err, size_t errlen)
{
	size_t n = 0;
	char wrong[300];
	struct ssh_key *k = NULL;
	char *text = NULL;
	int r = file_load(path, SSH_KEY_FILE_MAX, &text, &n);
	if (r < 0)
		snprintf(err, errlen, "private key %s: %s", path, err_text(r));
	else if (!(k = ssh_key_parse(slice_of(text, n), wrong, sizeof(wrong))))
		snprintf(err, errlen, "private key %s: %s", path, wrong);
	if (text)
		secret_wipe(text, n);
	free(text);
	return k;
}

char *ssh_key_sign(const struct ssh_key *k, struct slice alg, struct slice message, size_t *n)
{
	const struct host_alg *a = host_alg_find(alg);
	uint8_t raw[SIGN_MAX];
	BUG_ON(!a || a->type != sign_key_type(k->pair));
	size_t raw_n = sign_make(k->pair, a->hash, message, raw);
	struct ssh_wire_out w = { xmalloc(raw_n + 100), 0, raw_n + 100 };
	put_string(&w, alg);
	if (a->type == SIGN_P256) {
		char two[80];
		struct ssh_wire_out in = { two, 0, sizeof(two) };
		put_mpint(&in, slice_of(raw, 32));
		put_mpint(&in, slice_of(raw + 32, 32));
		put_string(&w, ssh_wire_written(&in));
	} else {
		put_string(&w, slice_of(raw, raw_n));
	}
	*n = w.n;
	return w.p;
}
