#include "proto/ssh/kex.h"

#include <errno.h>

#include "reactor/crypto.h"

const char kex_names[] = "curve25519-sha256,curve25519-sha256@libssh.org";
static const char strict_s[] = "kex-strict-s-v00@openssh.com";
static const char first_extra[] = ",ext-info-c,kex-strict-c-v00@openssh.com";

void kex_init_put(struct ssh_wire_out *w, const struct kex_offer *o, bool first)
{
	uint8_t cookie[16];
	char kex[1024];
	random_fill(cookie, sizeof(cookie));
	snprintf(kex, sizeof(kex), "%s%s", o->kex, first ? first_extra : "");
	put_u8(w, MSG_KEXINIT);
	put_bytes(w, slice_of(cookie, sizeof(cookie)));
	put_str(w, kex);
	put_str(w, o->host_key);
	put_str(w, o->cipher); /* client to server */
	put_str(w, o->cipher); /* server to client */
	put_str(w, o->mac);
	put_str(w, o->mac);
	put_str(w, "none"); /* compression */
	put_str(w, "none");
	put_str(w, ""); /* languages */
	put_str(w, "");
	put_u8(w, 0);  /* first_kex_packet_follows */
	put_u32(w, 0); /* reserved */
}

/* Section 7.1: the client's first name that the server has, too. */
static bool choose(const char *ours, struct slice theirs, struct slice *chosen)
{
	struct slice left = slice_str(ours);
	while (name_next(&left, chosen))
		if (name_in(theirs, *chosen))
			return true;
	return false;
}

static int disagree(const char *what, const char *ours, struct slice theirs, char *err,
		    size_t errlen)
{
	char text[300];
	snprintf(err, errlen, "no common %s: we offer %s, the server %s", what, ours,
		 ssh_text(theirs, false, text, sizeof(text)));
	return -EPROTO;
}

static struct slice first_name(struct slice list)
{
	struct slice name = { "", 0 };
	name_next(&list, &name);
	return name;
}

int kex_agree(struct kex_agreed *a, const struct kex_offer *o, struct slice theirs, bool first,
	      bool strict, char *err, size_t errlen)
{
	struct ssh_wire_in w = { theirs, false };
	struct slice list[10], name, guess[2];
	bool follows, lists_ok = true;
	*a = (struct kex_agreed){ .strict = false };
	ssh_wire_u8(&w);
	ssh_wire_bytes(&w, 16);
	for (size_t i = 0; i < ARRAY_LEN(list); i++) {
		list[i] = ssh_wire_string(&w);
		lists_ok &= name_list_ok(list[i]);
	}
	follows = ssh_wire_bool(&w);
	ssh_wire_u32(&w);
	if (!ssh_wire_end(&w) || !lists_ok) {
		snprintf(err, errlen, "a broken KEXINIT");
		return -EPROTO;
	}

	if (!choose(o->kex, list[0], &name))
		return disagree("key exchange method", o->kex, list[0], err, errlen);
	a->kex = name;
	guess[0] = name;
	if (!choose(o->host_key, list[1], &name))
		return disagree("host key type", o->host_key, list[1], err, errlen);
	a->host_alg = host_alg_find(name);
	guess[1] = name;
	for (int way = 0; way < 2; way++) {
		if (!choose(o->cipher, list[2 + way], &name))
			return disagree("cipher", o->cipher, list[2 + way], err, errlen);
		a->cipher[way] = cipher_find(name);
		BUG_ON(!a->cipher[way]);
		if (a->cipher[way]->mode != CIPHER_CTR)
			continue;
		if (!choose(o->mac, list[4 + way], &name))
			return disagree("MAC", o->mac, list[4 + way], err, errlen);
		a->mac[way] = mac_find(name);
		BUG_ON(!a->mac[way]);
	}
	for (int way = 0; way < 2; way++)
		if (!name_in(list[6 + way], SLICE("none")))
			return disagree("compression", "none", list[6 + way], err, errlen);
	BUG_ON(!a->host_alg);

	a->strict = first ? name_in(list[0], slice_str(strict_s)) : strict;
	a->skip = follows && (!slice_eq(first_name(list[0]), guess[0]) ||
			      !slice_eq(first_name(list[1]), guess[1]));
	for (int way = 0; way < 2; way++)
		if (!a->strict &&
		    (a->cipher[way]->mode == CIPHER_CHACHA || (a->mac[way] && a->mac[way]->etm))) {
			snprintf(err, errlen,
				 "the server lacks strict key exchange (CVE-2023-48795), without "
				 "which %s is not safe: update it, or enable another cipher there",
				 a->mac[way] ? a->mac[way]->name : a->cipher[way]->name);
			return -EPROTO;
		}
	return 0;
}

static void add_u32(struct sha256 *h, size_t v)
{
	uint8_t b[4];
	ssh_put_u32(b, (uint32_t)v);
	sha256_add(h, slice_of(b, 4));
}

static void add_string(struct sha256 *h, struct slice s)
{
	add_u32(h, s.n);
	sha256_add(h, s);
}

static void add_mpint(struct sha256 *h, struct slice s)
{
	while (s.n > 0 && s.p[0] == 0)
		s = slice_after(s, 1);
	bool pad = s.n > 0 && (s.p[0] & 0x80);
	add_u32(h, s.n + pad);
	if (pad)
		sha256_add(h, slice_of("", 1));
	sha256_add(h, s);
}

void kex_hash(const struct kex_transcript *t, uint8_t out[KEX_HASH])
{
	struct sha256 h = { { 0 } };
	sha256_init(&h);
	add_string(&h, t->v_c);
	add_string(&h, t->v_s);
	add_string(&h, t->i_c);
	add_string(&h, t->i_s);
	add_string(&h, t->k_s);
	add_string(&h, t->q_c);
	add_string(&h, t->q_s);
	add_mpint(&h, t->k);
	sha256_end(&h, out);
	secret_wipe(&h, sizeof(h));
}

void kex_derive(struct slice k, const uint8_t hash[KEX_HASH], struct slice session_id, char letter,
		uint8_t *out, size_t n)
{
	uint8_t block[32];
	for (size_t done = 0; done < n;) {
		struct sha256 h = { { 0 } };
		size_t part = MIN(n - done, sizeof(block));
		sha256_init(&h);
		add_mpint(&h, k);
		sha256_add(&h, slice_of(hash, KEX_HASH));
		if (done == 0) {
			sha256_add(&h, slice_of(&letter, 1));
			sha256_add(&h, session_id);
		} else {
			sha256_add(&h, slice_of(out, done)); /* whole blocks so far */
		}
		sha256_end(&h, block);
		memcpy(out + done, block, part);
		done += part;
		secret_wipe(&h, sizeof(h));
	}
	secret_wipe(block, sizeof(block));
}

int kex_reply_get(struct kex_reply *r, struct slice payload)
{
	struct ssh_wire_in w = { payload, false };
	ssh_wire_u8(&w);
	r->host_key = ssh_wire_string(&w);
	r->q_s = ssh_wire_string(&w);
	r->signature = ssh_wire_string(&w);
	return ssh_wire_end(&w) && r->q_s.n == 32 ? 0 : -EPROTO;
}
