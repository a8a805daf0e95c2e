#include "proto/ssh/cipher.h"

#include "proto/ssh/wire.h"

static const struct cipher_suite plain = { "none", CIPHER_PLAIN, 0, 0, 8 };

static const struct cipher_suite suites[] = {
	{ "aes128-gcm@openssh.com", CIPHER_GCM, 16, 12, 16 },
	{ "aes256-gcm@openssh.com", CIPHER_GCM, 32, 12, 16 },
	{ "aes128-ctr", CIPHER_CTR, 16, 16, 16 },
	{ "aes256-ctr", CIPHER_CTR, 32, 16, 16 },
	{ "chacha20-poly1305@openssh.com", CIPHER_CHACHA, 64, 0, 8 },
};
const char cipher_names[] = "aes128-gcm@openssh.com,aes256-gcm@openssh.com,aes128-ctr,aes256-ctr,"
			    "chacha20-poly1305@openssh.com";

static const struct mac_suite macs[] = {
	{ "hmac-sha2-256-etm@openssh.com", true },
	{ "hmac-sha2-256", false },
};
const char mac_names[] = "hmac-sha2-256-etm@openssh.com,hmac-sha2-256";

const struct cipher_suite *cipher_find(struct slice name)
{
	for (size_t i = 0; i < ARRAY_LEN(suites); i++)
		if (slice_eq(name, slice_str(suites[i].name)))
			return &suites[i];
	return NULL;
}

const struct mac_suite *mac_find(struct slice name)
{
	for (size_t i = 0; i < ARRAY_LEN(macs); i++)
		if (slice_eq(name, slice_str(macs[i].name)))
			return &macs[i];
	return NULL;
}

void cipher_plain(struct cipher *c)
{
	*c = (struct cipher){ .suite = &plain };
}

void cipher_end(struct cipher *c)
{
	gcm_free(c->gcm);
	aes_ctr_free(c->ctr);
	hmac_sha256_free(c->mac);
	secret_wipe(c, sizeof(*c));
	cipher_plain(c);
}

void cipher_start(struct cipher *c, const struct cipher_suite *suite, const struct mac_suite *mac,
		  const uint8_t *key, const uint8_t *iv, const uint8_t *mac_key)
{
	cipher_end(c);
	c->suite = suite;
	c->tag = 16;
	switch (suite->mode) {
	case CIPHER_GCM:
		c->gcm = gcm_new(key, suite->key);
		memcpy(c->nonce, iv, sizeof(c->nonce));
		break;
	case CIPHER_CHACHA:
		memcpy(c->key, key, sizeof(c->key));
		break;
	default:
		c->ctr = aes_ctr_new(key, suite->key, iv);
		c->mac = hmac_sha256_new(slice_of(mac_key, MAC_KEY));
		c->etm = mac->etm;
		c->tag = 32;
	}
}

bool cipher_length_apart(const struct cipher *c)
{
	return c->suite->mode == CIPHER_GCM || c->suite->mode == CIPHER_CHACHA || c->etm;
}

/* RFC 5647 section 7.1: a fixed part of 4 bytes, an invocation counter of 8. */
static void nonce_next(struct cipher *c)
{
	for (int i = 11; i >= 4 && ++c->nonce[i] == 0; i--)
		;
}

/* PROTOCOL.chacha20poly1305: the nonce is the packet's number. */
static void chacha_nonce(uint32_t seq, uint8_t nonce[8])
{
	memset(nonce, 0, 4);
	ssh_put_u32(nonce + 4, seq);
}

static void chacha_tag(const struct cipher *c, const uint8_t nonce[8], struct slice sealed,
		       uint8_t tag[16])
{
	uint8_t once[32] = { 0 };
	chacha20_xor(c->key, nonce, 0, once, sizeof(once));
	poly1305(once, sealed, tag);
	secret_wipe(once, sizeof(once));
}

static void mac_of(const struct cipher *c, uint32_t seq, struct slice packet, uint8_t tag[32])
{
	uint8_t number[4];
	ssh_put_u32(number, seq);
	hmac_sha256(c->mac, (struct slice[]){ slice_of(number, 4), packet }, 2, tag);
}

void cipher_seal(struct cipher *c, uint32_t seq, char *p, size_t n)
{
	uint8_t nonce[8], *tag = (uint8_t *)p + 4 + n;
	switch (c->suite->mode) {
	case CIPHER_PLAIN:
		break;
	case CIPHER_GCM:
		gcm_seal(c->gcm, c->nonce, slice_of(p, 4), p + 4, n, tag);
		nonce_next(c);
		break;
	case CIPHER_CHACHA:
		chacha_nonce(seq, nonce);
		chacha20_xor(c->key + 32, nonce, 0, p, 4);
		chacha20_xor(c->key, nonce, 1, p + 4, n);
		chacha_tag(c, nonce, slice_of(p, 4 + n), tag);
		break;
	case CIPHER_CTR:
		if (c->etm) {
			aes_ctr_xor(c->ctr, p + 4, n);
			mac_of(c, seq, slice_of(p, 4 + n), tag);
		} else {
			mac_of(c, seq, slice_of(p, 4 + n), tag);
			aes_ctr_xor(c->ctr, p, 4 + n);
		}
		break;
	}
}

size_t cipher_peek_size(const struct cipher *c)
{
	return c->suite->mode == CIPHER_CTR && !c->etm ? c->suite->block : 4;
}

uint32_t cipher_length(struct cipher *c, uint32_t seq, char *p)
{
	uint8_t nonce[8], length[4];
	if (c->suite->mode == CIPHER_CHACHA) {
		/* Left as it is: the tag is over what was sent. */
		chacha_nonce(seq, nonce);
		memcpy(length, p, 4);
		chacha20_xor(c->key + 32, nonce, 0, length, 4);
		return ssh_get_u32(length);
	}
	if (c->suite->mode == CIPHER_CTR && !c->etm)
		aes_ctr_xor(c->ctr, p, c->suite->block);
	return ssh_get_u32(p);
}

bool cipher_open(struct cipher *c, uint32_t seq, char *p, size_t n)
{
	uint8_t nonce[8], want[CIPHER_TAG_MAX], *tag = (uint8_t *)p + 4 + n;
	bool ok = true;
	size_t first;
	switch (c->suite->mode) {
	case CIPHER_PLAIN:
		break;
	case CIPHER_GCM:
		ok = gcm_open(c->gcm, c->nonce, slice_of(p, 4), p + 4, n, tag);
		nonce_next(c);
		break;
	case CIPHER_CHACHA:
		chacha_nonce(seq, nonce);
		chacha_tag(c, nonce, slice_of(p, 4 + n), want);
		ok = secret_equal(want, tag, 16);
		if (ok)
			chacha20_xor(c->key, nonce, 1, p + 4, n);
		break;
	case CIPHER_CTR:
		if (c->etm) {
			mac_of(c, seq, slice_of(p, 4 + n), want);
			ok = secret_equal(want, tag, 32);
			if (ok)
				aes_ctr_xor(c->ctr, p + 4, n);
		} else {
			first = c->suite->block; /* deciphered by cipher_length */
			aes_ctr_xor(c->ctr, p + first, 4 + n - first);
			mac_of(c, seq, slice_of(p, 4 + n), want);
			ok = secret_equal(want, tag, 32);
		}
		break;
	}
	return ok;
}
