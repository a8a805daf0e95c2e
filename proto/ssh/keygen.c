#include "proto/ssh/keygen.h"

#include "proto/ssh/wire.h"
#include "reactor/base64.h"
#include "reactor/crypto.h"
#include "reactor/crypto_cipher.h"
#include "reactor/crypto_sign.h"

static const char type[] = "ssh-ed25519";

/* The part that could be encrypted. */
static void put_private(struct ssh_wire_out *w, struct slice blob, struct slice secret)
{
	uint32_t check = arc4random();
	put_u32(w, check);
	put_u32(w, check);
	put_bytes(w, blob);
	put_string(w, secret);
	put_str(w, "sandbox"); /* comment */
	for (uint8_t pad = 1; w->n % 8; pad++)
		put_u8(w, pad);
}

size_t ssh_keygen(char text[SSH_KEYGEN_TEXT_MAX], char line[SSH_KEYGEN_LINE_MAX])
{
	static const char magic[] = "openssh-key-v1"; /* with its NUL */
	static const char *const padding[] = { "", "==", "=" };
	char blob[64], private[256], whole[512], coded[SSH_KEYGEN_TEXT_MAX];
	struct ssh_wire_out public = { blob, 0, sizeof(blob) };
	struct ssh_wire_out inner = { private, 0, sizeof(private) };
	struct ssh_wire_out out = { whole, 0, sizeof(whole) };
	uint8_t secret[64]; /* seed, public half */
	random_fill(secret, 32);
	struct sign_key *key = sign_ed25519_pair(secret);
	memcpy(secret + 32, sign_ed25519_bytes(key), 32);
	sign_key_free(key);

	put_str(&public, type);
	put_string(&public, slice_of(secret + 32, 32));
	put_private(&inner, ssh_wire_written(&public), slice_of(secret, sizeof(secret)));
	put_bytes(&out, slice_of(magic, sizeof(magic)));
	put_str(&out, "none"); /* cipher */
	put_str(&out, "none"); /* key derivation */
	put_str(&out, "");     /* its options */
	put_u32(&out, 1);      /* keys */
	put_string(&out, ssh_wire_written(&public));
	put_string(&out, ssh_wire_written(&inner));

	base64_put(ssh_wire_written(&public), coded);
	snprintf(line, SSH_KEYGEN_LINE_MAX, "%s %.100s", type, coded); /* 51 bytes: no padding */
	base64_put(ssh_wire_written(&out), coded);
	int n = snprintf(text, SSH_KEYGEN_TEXT_MAX,
			 "-----BEGIN OPENSSH PRIVATE KEY-----\n%s%s\n"
			 "-----END OPENSSH PRIVATE KEY-----\n",
			 coded, padding[out.n % 3]);
	secret_wipe(secret, sizeof(secret));
	secret_wipe(private, sizeof(private));
	secret_wipe(whole, sizeof(whole));
	secret_wipe(coded, sizeof(coded));
	return (size_t)n;
}
