/*
 * Packets of every cipher: sealed and opened again, in pieces, between them raw bytes or flipped
 * bits; and the other pure readers of what a server or a file says.
 *
 * What is opened is what was sealed, in order and whole; after a byte was changed nothing more is
 * opened; pieces mean what the whole means; written again, names and numbers are the same.
 */
#include "proto/ssh/ssh_int.h"
#include "reactor/base64.h"

enum { MODES = 7, MESSAGES = 24 };

static const char *const suites[MODES][2] = {
	{ NULL, NULL },
	{ "aes128-gcm@openssh.com", NULL },
	{ "aes256-gcm@openssh.com", NULL },
	{ "chacha20-poly1305@openssh.com", NULL },
	{ "aes128-ctr", "hmac-sha2-256" },
	{ "aes256-ctr", "hmac-sha2-256-etm@openssh.com" },
	{ "aes256-ctr", "hmac-sha2-256" },
};

static const uint8_t *in;
static size_t in_left;

static unsigned byte(void)
{
	if (in_left == 0)
		return 0;
	in_left--;
	return *in++;
}

static void start(struct packets *p, unsigned mode)
{
	static const uint8_t key[64] = { 1, 2, 3 }, iv[16] = { 4 }, mac[32] = { 5 };
	packets_init(p);
	if (suites[mode][0])
		cipher_start(&p->cipher, cipher_find(slice_str(suites[mode][0])),
			     suites[mode][1] ? mac_find(slice_str(suites[mode][1])) : NULL, key, iv,
			     mac);
}

static void packets(void)
{
	struct packets out, from;
	struct buf wire;
	size_t length[MESSAGES];
	unsigned mode = byte() % MODES, n = 0, opened = 0;
	bool spoiled = false;
	start(&out, mode);
	start(&from, mode);
	buf_init(&wire, 4 << 20);
	while (in_left > 0 && n < MESSAGES) {
		unsigned op = byte();
		if (op < 200) { /* a message of that many bytes, or many times as many */
			size_t size = 1 + op * (op & 1 ? 40 : 1);
			memset(packet_room(&wire, size), (int)n, size);
			packet_seal(&out, &wire, size);
			length[n++] = size;
		} else if (op < 230) {
			size_t at = byte() << 8 | byte();
			if (wire.len == 0)
				continue;
			wire.base[wire.head + at % wire.len] ^= (char)(1 << op % 8);
			spoiled = true;
		} else {
			char raw[30];
			for (unsigned i = 0; i < op - 229; i++)
				raw[i] = (char)byte();
			BUG_ON(buf_put(&wire, slice_of(raw, op - 229)) < 0);
			spoiled = true;
		}
	}
	if (wire.len == 0) {
		packets_end(&out);
		packets_end(&from);
		return;
	}
	/* A copy for a second reader, to whom all comes at once. */
	char *whole = xmalloc(wire.len + 1);
	memcpy(whole, buf_data(&wire).p ? buf_data(&wire).p : "", wire.len);
	size_t whole_n = wire.len, whole_at = 0, step = 1 + byte() * 7, have = 0;
	struct packets second;
	start(&second, mode);
	for (;;) {
		struct slice payload, again;
		const char *why = NULL, *why2 = NULL;
		ssize_t r = packet_open(&from, wire.base + wire.head, have, &payload, &why);
		if (r == 0 && have < wire.len) {
			have = MIN(wire.len, have + step);
			continue;
		}
		ssize_t r2 =
		    packet_open(&second, whole + whole_at, whole_n - whole_at, &again, &why2);
		BUG_ON(r != r2 || why != why2 || (r < 0) != (why != NULL));
		if (r <= 0) {
			BUG_ON(r == 0 && !spoiled && opened != n);
			BUG_ON(r < 0 && !spoiled);
			break;
		}
		BUG_ON(payload.n == 0 || payload.n > PACKET_MAX || !slice_eq(payload, again));
		if (mode != 0 || !spoiled) { /* in the clear anybody may change them */
			BUG_ON(opened >= n || payload.n != length[opened]);
			for (size_t i = 0; i < payload.n; i++)
				BUG_ON((uint8_t)payload.p[i] != opened);
		}
		opened++;
		whole_at += (size_t)r;
		have -= (size_t)r;
		buf_drop(&wire, (size_t)r);
		if (wire.len == 0)
			break;
	}
	free(whole);
	buf_end(&wire);
	packets_end(&out);
	packets_end(&from);
	packets_end(&second);
}

static void texts(void)
{
	char *text = xmalloc(in_left + 1), err[300], order[200], *safe = xmalloc(in_left + 1);
	size_t n = in_left;
	struct slice s, line, version;
	const char *why;
	unsigned at;
	memcpy(text, in, n);
	s = slice_of(text, n);
	ssize_t r = version_get(s, &line, &version, &why);
	BUG_ON(r > (ssize_t)n || (r > 0 && line.n >= (size_t)r));
	for (size_t part = 0; r > 0 && part < (size_t)r; part++)
		BUG_ON(version_get(slice_of(text, part), &line, &version, &why) != 0);
	ssh_text(s, n & 1, safe, n + 1);
	for (size_t i = 0; safe[i]; i++)
		BUG_ON((unsigned char)safe[i] < 32 && safe[i] != '\n' && safe[i] != '\t');
	enum known_verdict v = known_hosts_check(s, "host", 22, SLICE("\0\0\0\3abcdef"), &at);
	BUG_ON((v == KNOWN_NO) != (at == 0));
	known_hosts_order(s, "host", 22, host_alg_names, order);
	BUG_ON(strlen(order) != strlen(host_alg_names));
	ssh_key_free(ssh_key_parse(s, err, sizeof(err)));
	uint8_t *raw = xmalloc(n + 1);
	char *back = xmalloc(2 * n + 8);
	ssize_t m = base64_get(s, false, raw);
	BUG_ON(m > (ssize_t)n);
	if (m >= 0) {
		base64_put(slice_of(raw, (size_t)m), back);
		BUG_ON(strncmp(back, text, strlen(back)) != 0);
	}
	free(raw);
	free(back);
	free(text);
	free(safe);
}

static void blobs(void)
{
	char *text = xmalloc(in_left + 1), err[700];
	struct slice s = slice_of(text, in_left);
	const char *why;
	struct kex_reply reply;
	struct kex_agreed agreed;
	static const struct kex_offer offer = { kex_names, host_alg_names, cipher_names,
						mac_names };
	memcpy(text, in, in_left);
	struct sign_key *k = host_key_parse(s, &why);
	if (k)
		for (size_t i = 0; i < 4; i++) {
			static const char *const alg[] = { "ssh-ed25519", "ecdsa-sha2-nistp256",
							   "rsa-sha2-512", "rsa-sha2-256" };
			BUG_ON(host_key_verify(k, host_alg_find(slice_str(alg[i])), SLICE("m"), s));
		}
	sign_key_free(k);
	kex_reply_get(&reply, s);
	if (kex_agree(&agreed, &offer, s, true, false, err, sizeof(err)) == 0)
		for (int way = 0; way < 2; way++)
			BUG_ON(!agreed.cipher[way] || !agreed.host_alg ||
			       (agreed.cipher[way]->mode == CIPHER_CTR) !=
				   (agreed.mac[way] != NULL) ||
			       (!agreed.strict && agreed.cipher[way]->mode == CIPHER_CHACHA));
	struct ssh_wire_in w = { s, false };
	struct slice number = ssh_wire_mpint(&w);
	if (!w.bad) {
		struct ssh_wire_out o = { xmalloc(number.n + 8), 0, number.n + 8 };
		put_mpint(&o, number);
		BUG_ON(o.n > s.n || memcmp(o.p, text, o.n) != 0);
		free(o.p);
	}
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size > 8192)
		return 0;
	in = data;
	in_left = size;
	switch (byte() % 4) {
	case 0:
	case 1:
		packets();
		break;
	case 2:
		texts();
		break;
	default:
		blobs();
	}
	return 0;
}
