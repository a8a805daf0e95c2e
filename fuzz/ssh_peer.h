/*
 * An SSH server of our own, in memory, for fuzz targets and tests: it does what it is told, in any
 * order, with real keys. One connection; the client's lower stream is peer.s.
 */
#ifndef FUZZ_SSH_PEER_H
#define FUZZ_SSH_PEER_H

#include <errno.h>

#include "proto/ssh/ssh_int.h"
#include "reactor/err.h"

enum { PEER_WIRE_MAX = 8 << 20 };

static struct peer {
	struct stream s;
	struct task *owner;
	struct buf to_client, from_client;
	size_t read_max, write_left;
	bool eof, closed;
	int error;
	struct packets send, recv;
	struct sign_key *host;
	char v_c[VERSION_MAX + 1];
	char i_c[KEX_INIT_MAX], i_s[KEX_INIT_MAX], q_c[32];
	size_t i_c_n, i_s_n;
	uint8_t secret[32], hash[KEX_HASH], session_id[KEX_HASH];
	unsigned exchanges;
	bool strict;          /* said in the first KEXINIT */
	bool replied;         /* since the last ECDH_INIT: later replies change no keys of ours */
	const char *lists[4]; /* kex, host key, cipher, mac */
	const char *strict_name;
} peer;

static ssize_t peer_s_read(struct stream *s, const struct iovec *iov, int n)
{
	(void)s, (void)n;
	struct slice d = buf_data(&peer.to_client);
	if (d.n == 0)
		return peer.error ? peer.error : peer.eof ? 0 : -EAGAIN;
	d.n = MIN(MIN(d.n, iov->iov_len), peer.read_max);
	memcpy(iov->iov_base, d.p, d.n);
	buf_drop(&peer.to_client, d.n);
	return (ssize_t)d.n;
}

static ssize_t peer_s_write(struct stream *s, const struct iovec *iov, int n)
{
	(void)s;
	size_t total = 0;
	if (peer.error)
		return peer.error;
	for (int i = 0; i < n && peer.write_left > 0; i++) {
		size_t part = MIN(iov[i].iov_len, peer.write_left);
		if (buf_put(&peer.from_client, slice_of(iov[i].iov_base, part)) < 0)
			break;
		peer.write_left -= part;
		total += part;
	}
	return n && total == 0 ? -EAGAIN : (ssize_t)total;
}

static int peer_s_shut(struct stream *s)
{
	(void)s;
	return 0;
}

static void peer_s_close(struct stream *s, int why)
{
	(void)s, (void)why;
	BUG_ON(peer.closed);
	peer.closed = true;
	peer.owner = NULL;
}

static void peer_s_bind(struct stream *s, struct task *t)
{
	peer.owner = t;
	if (t)
		task_wake(s->rx, t);
}

static const struct stream_ops peer_ops = {
	.name = "peer",
	.read = peer_s_read,
	.write = peer_s_write,
	.shut = peer_s_shut,
	.close = peer_s_close,
	.bind = peer_s_bind,
};

static inline void peer_wake(void)
{
	if (peer.owner)
		task_wake(peer.s.rx, peer.owner);
}

static inline void peer_init(struct reactor *rx)
{
	static const uint8_t seed[32] = { 1, 2, 3 };
	memset(&peer, 0, sizeof(peer));
	peer.s = (struct stream){ .ops = &peer_ops, .rx = rx };
	peer.read_max = peer.write_left = SIZE_MAX;
	buf_init(&peer.to_client, PEER_WIRE_MAX);
	buf_init(&peer.from_client, PEER_WIRE_MAX);
	packets_init(&peer.send);
	packets_init(&peer.recv);
	peer.recv.max = PACKET_MAX;
	peer.host = sign_ed25519_pair(seed);
	peer.lists[0] = kex_names;
	peer.lists[1] = host_alg_names;
	peer.lists[2] = cipher_names;
	peer.lists[3] = mac_names;
	peer.strict_name = ",kex-strict-s-v00@openssh.com";
}

static inline void peer_end(void)
{
	buf_end(&peer.to_client);
	buf_end(&peer.from_client);
	packets_end(&peer.send);
	packets_end(&peer.recv);
	sign_key_free(peer.host);
	peer.host = NULL;
}

static inline void peer_raw(struct slice s)
{
	if (!peer.eof && buf_put(&peer.to_client, s) == 0)
		peer_wake();
}

static inline void peer_send(struct slice payload)
{
	struct buf *out = &peer.to_client;
	if (peer.eof || payload.n == 0 || out->max - out->len < payload.n + PACKET_EXTRA)
		return;
	memcpy(packet_room(out, payload.n), payload.p, payload.n);
	packet_seal(&peer.send, out, payload.n);
	peer_wake();
}

/* The client's version line: true once it is there. */
static inline bool peer_take_version(void)
{
	struct slice line, version;
	const char *why;
	ssize_t n = version_get(buf_data(&peer.from_client), &line, &version, &why);
	if (n <= 0)
		return false;
	BUG_ON(version.n == 0);
	memcpy(peer.v_c, version.p, version.n);
	peer.v_c[version.n] = '\0';
	buf_drop(&peer.from_client, (size_t)n);
	return true;
}

/* The client's next message, copied to out: its length, 0 if there is none. What does not open is
 * the client's fault. */
static inline size_t peer_take(char *out, size_t max)
{
	struct slice payload;
	const char *why;
	struct buf *b = &peer.from_client;
	if (b->len == 0)
		return 0;
	ssize_t n = packet_open(&peer.recv, b->base + b->head, b->len, &payload, &why);
	BUG_ON(n < 0);
	if (n == 0)
		return 0;
	BUG_ON(payload.n > max || payload.n == 0);
	memcpy(out, payload.p, payload.n);
	size_t got = payload.n;
	buf_drop(b, (size_t)n);
	if (out[0] == MSG_KEXINIT && got <= sizeof(peer.i_c)) {
		memcpy(peer.i_c, out, got);
		peer.i_c_n = got;
	}
	if (out[0] == MSG_KEX_ECDH_INIT) {
		BUG_ON(got != 37);
		memcpy(peer.q_c, out + 5, 32);
		peer.replied = false;
	}
	return got;
}

static const char peer_version[] = "SSH-2.0-peer_1.0 test";

static inline void peer_kexinit(bool follows)
{
	struct ssh_wire_out w = { peer.i_s, 0, sizeof(peer.i_s) };
	char kex[512];
	snprintf(kex, sizeof(kex), "%s%s", peer.lists[0], peer.strict_name);
	put_u8(&w, MSG_KEXINIT);
	put_bytes(&w, SLICE("0123456789abcdef"));
	put_str(&w, kex);
	put_str(&w, peer.lists[1]);
	put_str(&w, peer.lists[2]);
	put_str(&w, peer.lists[2]);
	put_str(&w, peer.lists[3]);
	put_str(&w, peer.lists[3]);
	put_str(&w, "none,zlib@openssh.com");
	put_str(&w, "none,zlib@openssh.com");
	put_str(&w, "");
	put_str(&w, "");
	put_u8(&w, follows);
	put_u32(&w, 0);
	if (peer.i_s_n == 0)
		peer.strict = peer.strict_name[0] != '\0';
	peer.i_s_n = w.n;
	peer_send(ssh_wire_written(&w));
}

/* A genuine answer to the client's ECDH_INIT, but for: spoil bit 0 the signature, bit 1 the public
 * value (all zero), bit 2 another host key. */
static inline void peer_reply(unsigned spoil)
{
	static const uint8_t seed[32] = { 9 };
	uint8_t q_s[32] = { 0 }, priv[32], raw[SIGN_MAX], secret[32], hash[KEX_HASH];
	char blob[100], sig[200], p[600];
	struct sign_key *other = spoil & 4 ? sign_ed25519_pair(seed) : NULL;
	struct sign_key *key = other ? other : peer.host;
	struct ssh_wire_out b = { blob, 0, sizeof(blob) }, s = { sig, 0, sizeof(sig) };
	struct ssh_wire_out w = { p, 0, sizeof(p) };
	x25519_keypair(q_s, priv);
	if (!x25519_shared(secret, priv, (const uint8_t *)peer.q_c))
		memset(secret, 0, 32);
	if (spoil & 2)
		memset(q_s, 0, 32);
	put_str(&b, "ssh-ed25519");
	put_string(&b, slice_of(sign_ed25519_bytes(key), 32));
	kex_hash(&(struct kex_transcript){ .v_c = slice_str(peer.v_c),
					   .v_s = slice_str(peer_version),
					   .i_c = slice_of(peer.i_c, peer.i_c_n),
					   .i_s = slice_of(peer.i_s, peer.i_s_n),
					   .k_s = ssh_wire_written(&b),
					   .q_c = slice_of(peer.q_c, 32),
					   .q_s = slice_of(q_s, 32),
					   .k = slice_of(secret, 32) },
		 hash);
	if (!peer.replied) {
		memcpy(peer.secret, secret, sizeof(secret));
		memcpy(peer.hash, hash, sizeof(hash));
		if (peer.exchanges == 0)
			memcpy(peer.session_id, hash, KEX_HASH);
		peer.replied = true;
	}
	size_t n = sign_make(key, SIGN_SHA256, slice_of(hash, KEX_HASH), raw);
	if (spoil & 1)
		raw[7] ^= 1;
	put_str(&s, "ssh-ed25519");
	put_string(&s, slice_of(raw, n));
	put_u8(&w, MSG_KEX_ECDH_REPLY);
	put_string(&w, ssh_wire_written(&b));
	put_string(&w, slice_of(q_s, 32));
	put_string(&w, ssh_wire_written(&s));
	peer_send(ssh_wire_written(&w));
	sign_key_free(other);
}

static void peer_start_cipher(struct packets *p, int way)
{
	static const char letter[2][3] = { "ACE", "BDF" };
	struct kex_offer o = { kex_names, host_alg_names, peer.lists[2], peer.lists[3] };
	struct kex_agreed a;
	char err[700];
	uint8_t iv[CIPHER_IV_MAX], key[CIPHER_KEY_MAX], mac[MAC_KEY];
	struct slice k = slice_of(peer.secret, 32), id = slice_of(peer.session_id, KEX_HASH);
	/* The server's view: the client's lists decide. */
	struct ssh_wire_in w = { slice_of(peer.i_c, peer.i_c_n), false };
	char list[10][1024];
	ssh_wire_bytes(&w, 17);
	for (int i = 0; i < 10; i++) {
		struct slice s = ssh_wire_string(&w);
		snprintf(list[i], sizeof(list[i]), "%.*s", SLICE_FMT(s));
	}
	o.cipher = list[2];
	o.mac = list[4];
	if (kex_agree(&a, &o, slice_of(peer.i_s, peer.i_s_n), false, true, err, sizeof(err)) < 0)
		return;
	kex_derive(k, peer.hash, id, letter[way][0], iv, sizeof(iv));
	kex_derive(k, peer.hash, id, letter[way][1], key, a.cipher[way]->key);
	kex_derive(k, peer.hash, id, letter[way][2], mac, sizeof(mac));
	cipher_start(&p->cipher, a.cipher[way], a.mac[way], key, iv, mac);
	if (peer.strict)
		p->seq = 0;
}

/* NEWKEYS, and ours from then on. */
static inline void peer_newkeys(void)
{
	peer_send(slice_of("\25", 1));
	peer_start_cipher(&peer.send, 1);
	peer.exchanges++;
}

/* The client's NEWKEYS was taken. */
static inline void peer_got_newkeys(void)
{
	peer_start_cipher(&peer.recv, 0);
}

static inline size_t peer_text(char *p, size_t max, uint8_t type, const char *text)
{
	struct ssh_wire_out w = { p, 0, max };
	put_u8(&w, type);
	put_str(&w, text);
	return w.n;
}

#endif
