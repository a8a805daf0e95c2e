/* The transport layer: version exchange, key exchange, and the messages that may come any time. */
#include <errno.h>

#include "proto/ssh/ssh_int.h"
#include "reactor/base64.h"
#include "reactor/err.h"

enum {
	BANNER_LINE_MAX = 8192,
	BANNER_LINES_MAX = 1024,
	SSH_DISCONNECT_HOST_KEY_NOT_VERIFIABLE = 9,
};

const char ssh_version[] = "SSH-2.0-tstunnel";

ssize_t version_get(struct slice in, struct slice *line, struct slice *version, const char **why)
{
	const char *end = in.n ? memchr(in.p, '\n', in.n) : NULL;
	size_t n = end ? (size_t)(end - in.p) : in.n;
	bool is_version = n >= 4 && memcmp(in.p, "SSH-", 4) == 0;
	*version = slice_of("", 0);
	*line = slice_of(in.p, n);
	if (n > (is_version ? VERSION_MAX : BANNER_LINE_MAX)) {
		*why = "a first line that is too long: no SSH server";
		return -EPROTO;
	}
	if (n && memchr(in.p, '\0', n)) {
		*why = "zero bytes in its first lines: no SSH server";
		return -EPROTO;
	}
	if (!end)
		return 0;
	if (slice_ends(*line, SLICE("\r")))
		line->n--;
	if (is_version) {
		if (!slice_starts(*line, SLICE("SSH-2.0-")) &&
		    !slice_starts(*line, SLICE("SSH-1.99-"))) {
			*why = "a version of SSH before 2.0";
			return -EPROTO;
		}
		*version = *line;
	}
	return (ssize_t)n + 1;
}

int transport_version(struct ssh_client *c)
{
	struct slice line, version;
	const char *why;
	for (;;) {
		ssize_t n = version_get(buf_data(&c->in), &line, &version, &why);
		if (n < 0)
			return client_fail(c, -EPROTO, "the server sent %s", why);
		if (n == 0)
			return 0;
		if (version.n > 0) {
			memcpy(c->v_s, version.p, version.n);
			c->v_s[version.n] = '\0';
			buf_drop(&c->in, (size_t)n);
			c->state = CLIENT_KEX;
			return 0;
		}
		if (line.n > 0)
			ssh_text(line, false, c->said, sizeof(c->said));
		if (++c->lines > BANNER_LINES_MAX)
			return client_fail(c, -EPROTO, "%u lines came, none of them SSH's: \"%s\"",
					   c->lines, c->said);
		buf_drop(&c->in, (size_t)n);
	}
}

void transport_goodbye(struct ssh_client *c, uint32_t reason, const char *text)
{
	char p[WHY_MAX + 32];
	struct ssh_wire_out w = { p, 0, sizeof(p) };
	put_u8(&w, MSG_DISCONNECT);
	put_u32(&w, reason);
	put_string(&w, slice_of(text, strnlen(text, WHY_MAX)));
	put_str(&w, "");
	client_send(c, ssh_wire_written(&w));
}

static char *keep(struct slice s)
{
	char *p = xmalloc(s.n + 1);
	memcpy(p, s.p, s.n);
	return p;
}

static void forget(struct exchange *k)
{
	free(k->i_c);
	free(k->i_s);
	k->i_c = k->i_s = NULL;
	secret_wipe(k->private_key, sizeof(k->private_key));
	secret_wipe(k->secret, sizeof(k->secret));
}

void transport_end(struct ssh_client *c)
{
	forget(&c->kex);
	packets_end(&c->recv);
	packets_end(&c->send);
}

void transport_rekey(struct ssh_client *c)
{
	struct exchange *k = &c->kex;
	char p[KEX_INIT_MAX];
	struct ssh_wire_out w = { p, 0, sizeof(p) };
	if (k->state != KEX_IDLE)
		return;
	kex_init_put(&w, &c->offer, k->done == 0);
	free(k->i_c);
	k->i_c = keep(ssh_wire_written(&w));
	k->i_c_n = w.n;
	k->state = KEX_ASKED;
	k->began = reactor_now(c->rx);
	client_send(c, ssh_wire_written(&w));
}

static int on_kexinit(struct ssh_client *c, struct slice payload)
{
	struct exchange *k = &c->kex;
	char err[700], p[64];
	struct ssh_wire_out w = { p, 0, sizeof(p) };
	bool first = k->done == 0;
	if (k->state != KEX_IDLE && k->state != KEX_ASKED)
		return client_fault(c, "a second KEXINIT in the middle of a key exchange");
	if (payload.n > PACKET_MAX_EARLY)
		return client_fault(c, "a KEXINIT of %zu bytes", payload.n);
	transport_rekey(c);
	if (kex_agree(&k->agreed, &c->offer, payload, first, k->strict, err, sizeof(err)) < 0)
		return client_fault(c, "%s", err);
	k->strict = k->agreed.strict;
	k->skip = k->agreed.skip;
	if (first && k->strict && c->recv.seq != 1)
		return client_fault(c, "messages before KEXINIT, in spite of strict key exchange");
	free(k->i_s);
	k->i_s = keep(payload);
	k->i_s_n = payload.n;
	x25519_keypair(k->public_key, k->private_key);
	k->state = KEX_REPLY;
	put_u8(&w, MSG_KEX_ECDH_INIT);
	put_string(&w, slice_of(k->public_key, 32));
	client_send(c, ssh_wire_written(&w));
	return 0;
}

/* --- whose key is it? --- */

static void host_name(const struct ssh_client *c, char *out, size_t n)
{
	if (c->port == 22 || c->port == 0)
		snprintf(out, n, "%s", c->host);
	else
		snprintf(out, n, "[%s]:%u", c->host, c->port);
}

/* Fails the client: the server learns that we do not believe it. */
static int doubt(struct ssh_client *c, const char *text)
{
	transport_goodbye(c, SSH_DISCONNECT_HOST_KEY_NOT_VERIFIABLE, "host key not verifiable");
	return client_fail(c, -ERR_SSH_HOST_KEY, "%s", text);
}

static int ask_owner(struct ssh_client *c, struct slice blob, const char *type, const char *why)
{
	char host[300], text[WHY_MAX];
	size_t room = strlen(type) + 310 + 4 * blob.n / 3 + 3;
	char *line = xmalloc(room);
	host_name(c, host, sizeof(host));
	int n = snprintf(line, room, "%s %s ", host, type);
	base64_put(blob, line + n);
	bool yes =
	    c->unknown_host &&
	    c->unknown_host(c->arg, &(struct ssh_unknown_host){ .host = host,
								.type = type,
								.fingerprint = c->kex.fingerprint,
								.line = line });
	free(line);
	if (yes)
		return 0;
	snprintf(text, sizeof(text), "host key of %s is not known: %s %s %s", host, type,
		 c->kex.fingerprint, why);
	return doubt(c, text);
}

static int trust(struct ssh_client *c, struct slice blob)
{
	char host[300], text[WHY_MAX], why[WHY_MAX / 2];
	const char *type = c->kex.agreed.host_alg->key_type;
	unsigned line;
	host_name(c, host, sizeof(host));
	if (c->pin) {
		if (host_key_pinned(blob, c->pin))
			return 0;
		snprintf(text, sizeof(text), "host key mismatch: %s has %s %s, but %s was expected",
			 host, type, c->kex.fingerprint, c->pin);
		return doubt(c, text);
	}
	enum known_verdict v = known_hosts_check(slice_of(c->known_hosts, c->known_hosts_n),
						 c->host, c->port, blob, &line);
	switch (v) {
	case KNOWN_YES:
		return 0;
	case KNOWN_OTHER:
		snprintf(
		    text, sizeof(text),
		    "host key mismatch: %s has %s %s, but %s line %u has another: somebody may "
		    "be listening in, or the server was set up anew (then remove that line)",
		    host, type, c->kex.fingerprint, c->known_hosts_name, line);
		return doubt(c, text);
	case KNOWN_REVOKED:
		snprintf(text, sizeof(text), "host key of %s is revoked by %s line %u: %s %s", host,
			 c->known_hosts_name, line, type, c->kex.fingerprint);
		return doubt(c, text);
	case KNOWN_UNLIKE:
		snprintf(why, sizeof(why), "(%s line %u has a key of another type)",
			 c->known_hosts_name, line);
		return ask_owner(c, blob, type, why);
	default:
		snprintf(why, sizeof(why), "(not in %s)", c->known_hosts_name);
		return ask_owner(c, blob, type, why);
	}
}

/* --- the end of an exchange --- */

static void start_cipher(struct ssh_client *c, int way)
{
	static const char letter[2][3] = { "ACE", "BDF" };
	const struct exchange *k = &c->kex;
	uint8_t iv[CIPHER_IV_MAX], key[CIPHER_KEY_MAX], mac[MAC_KEY];
	struct packets *p = way == 0 ? &c->send : &c->recv;
	struct slice secret = slice_of(k->secret, 32), id = slice_of(k->session_id, KEX_HASH);
	const struct cipher_suite *suite = k->agreed.cipher[way];
	kex_derive(secret, k->hash, id, letter[way][0], iv, sizeof(iv));
	kex_derive(secret, k->hash, id, letter[way][1], key, suite->key);
	kex_derive(secret, k->hash, id, letter[way][2], mac, sizeof(mac));
	cipher_start(&p->cipher, suite, k->agreed.mac[way], key, iv, mac);
	secret_wipe(iv, sizeof(iv));
	secret_wipe(key, sizeof(key));
	secret_wipe(mac, sizeof(mac));
	p->bytes = p->packets = 0;
	if (k->strict)
		p->seq = 0;
}

static int on_reply(struct ssh_client *c, struct slice payload)
{
	struct exchange *k = &c->kex;
	struct kex_reply r;
	const char *why;
	if (k->state != KEX_REPLY)
		return client_fault(c, "a key exchange reply out of place");
	if (kex_reply_get(&r, payload) < 0)
		return client_fault(c, "a broken key exchange reply");
	if (!slice_eq(host_key_type(r.host_key), slice_str(k->agreed.host_alg->key_type)))
		return client_fault(c, "a host key of another type than agreed");
	struct sign_key *key = host_key_parse(r.host_key, &why);
	if (!key)
		return client_fault(c, "a host key that is %s", why);
	if (!x25519_shared(k->secret, k->private_key, (const uint8_t *)r.q_s.p)) {
		sign_key_free(key);
		return client_fault(c, "a public value of small order");
	}
	secret_wipe(k->private_key, sizeof(k->private_key));
	kex_hash(&(struct kex_transcript){ .v_c = slice_str(ssh_version),
					   .v_s = slice_str(c->v_s),
					   .i_c = slice_of(k->i_c, k->i_c_n),
					   .i_s = slice_of(k->i_s, k->i_s_n),
					   .k_s = r.host_key,
					   .q_c = slice_of(k->public_key, 32),
					   .q_s = r.q_s,
					   .k = slice_of(k->secret, 32) },
		 k->hash);
	bool genuine =
	    host_key_verify(key, k->agreed.host_alg, slice_of(k->hash, KEX_HASH), r.signature);
	sign_key_free(key);
	if (!genuine)
		return client_fault(c, "a wrong signature: it does not have the host key that it "
				       "shows, or somebody is in between");
	if (k->done == 0) {
		host_key_fingerprint(r.host_key, k->fingerprint);
		k->host_key = keep(r.host_key);
		k->host_key_n = r.host_key.n;
		memcpy(k->session_id, k->hash, KEX_HASH);
		int code = trust(c, r.host_key);
		if (code < 0)
			return code;
	} else if (!slice_eq(r.host_key, slice_of(k->host_key, k->host_key_n))) {
		return client_fault(c, "another host key than at the beginning");
	}
	client_send(c, slice_of(&(uint8_t){ MSG_NEWKEYS }, 1));
	start_cipher(c, 0);
	k->state = KEX_NEWKEYS;
	client_release(c);
	return 0;
}

static int on_newkeys(struct ssh_client *c, struct slice payload)
{
	struct exchange *k = &c->kex;
	if (k->state != KEX_NEWKEYS || payload.n != 1)
		return client_fault(c, "NEWKEYS out of place");
	start_cipher(c, 1);
	forget(k);
	k->state = KEX_IDLE;
	k->ended = reactor_now(c->rx);
	if (k->done++ == 0)
		auth_start(c);
	return 0;
}

/* --- messages --- */

static int on_disconnect(struct ssh_client *c, struct slice payload)
{
	struct ssh_wire_in w = { payload, false };
	char text[600];
	ssh_wire_u8(&w);
	uint32_t reason = ssh_wire_u32(&w);
	struct slice said = ssh_wire_string(&w);
	if (w.bad)
		return client_fault(c, "a broken DISCONNECT");
	return client_fail(c, -ECONNRESET, "the server disconnected: %s (reason %u)",
			   said.n ? ssh_text(said, false, text, sizeof(text)) : "no text", reason);
}

/* Is a message of this type in its place, as far as key exchanges are concerned? */
static bool in_place(const struct ssh_client *c, uint8_t type)
{
	const struct exchange *k = &c->kex;
	bool first = k->done == 0, theirs = k->state == KEX_REPLY || k->state == KEX_NEWKEYS;
	if (type == MSG_DISCONNECT)
		return true;
	if (type >= 20 && type < 50)
		return true; /* by their handlers */
	if (type >= MSG_IGNORE && type <= MSG_DEBUG)
		return !(first && theirs && k->strict);
	return !first && !theirs;
}

int transport_message(struct ssh_client *c, struct slice payload)
{
	uint8_t type = (uint8_t)payload.p[0];
	struct exchange *k = &c->kex;
	char unknown[5] = { MSG_UNIMPLEMENTED };
	if (!in_place(c, type))
		return client_fault(c, "message %u in the middle of a key exchange", type);
	if (k->skip && type >= 30 && type < 50) {
		k->skip = false;
		return 0;
	}
	switch (type) {
	case MSG_DISCONNECT:
		return on_disconnect(c, payload);
	case MSG_IGNORE:
	case MSG_DEBUG:
		return 0;
	case MSG_UNIMPLEMENTED:
		return client_fault(c, "UNIMPLEMENTED: it does not know a message that we need");
	case MSG_KEXINIT:
		return on_kexinit(c, payload);
	case MSG_KEX_ECDH_REPLY:
		return on_reply(c, payload);
	case MSG_NEWKEYS:
		return on_newkeys(c, payload);
	case MSG_SERVICE_ACCEPT:
		return auth_message(c, payload);
	case MSG_EXT_INFO:
		return auth_ext_info(c, payload);
	default:
		if (type >= 20 && type < 50)
			return client_fault(c, "message %u, which is of no exchange of ours", type);
		if (type >= 50 && type < 80)
			return auth_message(c, payload);
		if (c->state != CLIENT_OPEN && type < 128)
			return client_fault(c, "message %u before authentication", type);
		if (type >= MSG_GLOBAL_REQUEST && type <= MSG_CHANNEL_FAILURE)
			return channel_message(c, payload);
		ssh_put_u32(unknown + 1, c->recv.seq - 1); /* section 11.4 */
		client_send(c, slice_of(unknown, sizeof(unknown)));
		return 0;
	}
}
