#include "reactor/tls_record.h"

#include <errno.h>

#include <openssl/digest.h>
#include <openssl/err.h>
#include <openssl/hkdf.h>
#include <openssl/mem.h>
#include <openssl/ssl.h>

enum {
	HEADER = 5,
	TAG = 16,
	NONCE = 12,
	SEALED_MAX = RECORD_MAX + 256, /* section 5.2 */
	KEY_MAX = 32,
	ALONE = 4096, /* from here on a record of its own is cheaper than a copy */
	KEY_UPDATE = 24,
	NEW_SESSION_TICKET = 4,
	TICKET_MAX = 16384, /* as BoringSSL */
};

struct record_suite {
	uint16_t cipher;
	const EVP_AEAD *(*aead)(void);
	const EVP_MD *(*hash)(void);
};

static const struct record_suite suites[] = {
	{ 0x1301, EVP_aead_aes_128_gcm, EVP_sha256 },
	{ 0x1302, EVP_aead_aes_256_gcm, EVP_sha384 },
	{ 0x1303, EVP_aead_chacha20_poly1305, EVP_sha256 },
};

/* --- keys: RFC 8446 sections 7.1 to 7.3 --- */

/* HKDF-Expand-Label with an empty context. */
static void expand(const struct record_key *k, const char *label, uint8_t *out, size_t n)
{
	const EVP_MD *hash = k->suite->hash();
	uint8_t info[32];
	int len = snprintf((char *)info + 2, sizeof(info) - 2, "%ctls13 %s", (int)strlen(label) + 6,
			   label);
	info[0] = (uint8_t)(n >> 8);
	info[1] = (uint8_t)n;
	info[2 + len] = 0; /* no context: snprintf's NUL, and its length */
	BUG_ON(!HKDF_expand(out, n, hash, k->secret, EVP_MD_size(hash), info, (size_t)len + 3));
}

static void key_of_secret(struct record_key *k)
{
	const EVP_AEAD *aead = k->suite->aead();
	uint8_t key[KEY_MAX];
	size_t n = EVP_AEAD_key_length(aead);
	expand(k, "key", key, n);
	expand(k, "iv", k->iv, sizeof(k->iv));
	BUG_ON(!EVP_AEAD_CTX_init(&k->aead, aead, key, n, TAG, NULL));
	OPENSSL_cleanse(key, sizeof(key));
}

static void key_next(struct record_key *k)
{
	uint8_t next[sizeof(k->secret)];
	size_t n = EVP_MD_size(k->suite->hash());
	expand(k, "traffic upd", next, n);
	memcpy(k->secret, next, n);
	OPENSSL_cleanse(next, sizeof(next));
	EVP_AEAD_CTX_cleanup(&k->aead);
	key_of_secret(k);
	k->seq = 0;
}

int records_start(struct records *r, uint16_t cipher, bool server, uint64_t seq_in,
		  uint64_t seq_out)
{
	const struct record_suite *suite = NULL;
	for (size_t i = 0; i < ARRAY_LEN(suites); i++)
		if (suites[i].cipher == cipher)
			suite = &suites[i];
	if (!suite)
		return -EINVAL;
	r->server = server;
	r->in.suite = r->out.suite = suite;
	r->in.seq = seq_in;
	r->out.seq = seq_out;
	if (!r->renew_after)
		r->renew_after = RECORD_RENEW_AFTER;
	key_of_secret(&r->in);
	key_of_secret(&r->out);
	return 0;
}

void records_end(struct records *r)
{
	if (r->in.suite) {
		EVP_AEAD_CTX_cleanup(&r->in.aead);
		EVP_AEAD_CTX_cleanup(&r->out.aead);
	}
	OPENSSL_cleanse(r, sizeof(*r));
}

/* Section 5.3; counts the record. */
static void nonce_next(struct record_key *k, uint8_t nonce[NONCE])
{
	memcpy(nonce, k->iv, NONCE);
	for (unsigned i = 0; i < 8; i++)
		nonce[NONCE - 1 - i] ^= (uint8_t)(k->seq >> 8 * i);
	k->seq++;
}

/* --- sealing --- */

struct slice record_take(struct record_source *s, char *gathered)
{
	size_t used = 0;
	while (s->n > 0 && used < RECORD_MAX) {
		size_t left = s->iov->iov_len - s->off, n = MIN(left, RECORD_MAX - used);
		const char *p = n ? (const char *)s->iov->iov_base + s->off : NULL;
		bool alone = used == 0 && (left >= ALONE || s->n == 1);
		s->off += n;
		if (n == left) {
			s->off = 0;
			s->iov++;
			s->n--;
		}
		if (alone)
			return slice_of(p, n);
		if (n)
			memcpy(gathered + used, p, n);
		used += n;
	}
	return slice_of(gathered, used);
}

size_t record_seal(struct records *r, enum record_type type, struct record_source *source,
		   char *out)
{
	uint8_t nonce[NONCE], inner_type = (uint8_t)type, *body = (uint8_t *)out + HEADER;
	struct slice data = record_take(source, (char *)body);
	size_t sealed = data.n + 1 + TAG, tag;
	const uint8_t header[HEADER] = { RECORD_DATA, 3, 3, (uint8_t)(sealed >> 8),
					 (uint8_t)sealed };
	memcpy(out, header, HEADER);
	nonce_next(&r->out, nonce);
	BUG_ON(!EVP_AEAD_CTX_seal_scatter(&r->out.aead, body, body + data.n, &tag, 1 + TAG, nonce,
					  NONCE, (const uint8_t *)data.p, data.n, &inner_type, 1,
					  header, HEADER));
	return HEADER + sealed;
}

static size_t seal_small(struct records *r, enum record_type type, const uint8_t *p, size_t n,
			 char *out)
{
	struct iovec iov = { (void *)(uintptr_t)p, n };
	return record_seal(r, type, &(struct record_source){ &iov, 1, 0 }, out);
}

size_t record_seal_alert(struct records *r, uint8_t alert, char *out)
{
	const uint8_t message[2] = { alert == SSL_AD_CLOSE_NOTIFY ? 1 : 2, alert };
	return seal_small(r, RECORD_ALERT, message, sizeof(message), out);
}

bool record_renewal_due(const struct records *r)
{
	return r->renew_asked || r->out.seq >= r->renew_after;
}

size_t record_seal_renewal(struct records *r, char *out)
{
	static const uint8_t message[5] = { KEY_UPDATE, 0, 0, 1, 0 /* update_not_requested */ };
	size_t n = seal_small(r, RECORD_HANDSHAKE, message, sizeof(message), out);
	key_next(&r->out);
	r->renew_asked = false;
	return n;
}

/* --- opening --- */

static enum record_event fault(struct record_opened *o, uint8_t alert, const char *why)
{
	o->alert = alert;
	o->why = why;
	return RECORD_FAULT;
}

static size_t sealed_size(const char *in)
{
	return (size_t)(unsigned char)in[3] << 8 | (unsigned char)in[4];
}

size_t record_room(struct slice in)
{
	if (in.n < HEADER || in.n < HEADER + sealed_size(in.p))
		return 0;
	return MAX(sealed_size(in.p), TAG + 1u) - TAG;
}

/* Section 6. Only close_notify and user_canceled end nothing by force; the level says no more. */
static enum record_event on_alert(struct slice data, struct record_opened *o)
{
	if (data.n == 0)
		return fault(o, SSL_AD_UNEXPECTED_MESSAGE, "empty alert");
	if (data.n != 2)
		return fault(o, SSL_AD_DECODE_ERROR, "bad alert");
	o->alert = (uint8_t)data.p[1];
	if (o->alert == SSL_AD_CLOSE_NOTIFY)
		return RECORD_CLOSED;
	return o->alert == SSL_AD_USER_CANCELLED ? RECORD_NOTHING : RECORD_ALERTED;
}

/* Section 4.6.3. The keys change with the next record, so nothing may follow in this one. */
static enum record_event on_key_update(struct records *r, struct slice body,
				       struct record_opened *o)
{
	if (body.n > 1)
		return fault(o, SSL_AD_UNEXPECTED_MESSAGE, "data after a key update");
	if ((uint8_t)body.p[0] > 1)
		return fault(o, SSL_AD_ILLEGAL_PARAMETER, "bad key update");
	key_next(&r->in);
	if (body.p[0] == 1)
		r->renew_asked = true;
	return RECORD_NOTHING;
}

static enum record_event on_message(struct records *r, struct record_opened *o)
{
	const uint8_t *m = r->message;
	uint32_t length = (uint32_t)m[1] << 16 | (uint32_t)m[2] << 8 | m[3];
	if (m[0] == KEY_UPDATE) {
		if (length != 1)
			return fault(o, SSL_AD_DECODE_ERROR, "bad key update");
	} else if (m[0] == NEW_SESSION_TICKET && !r->server) {
		if (length > TICKET_MAX)
			return fault(o, SSL_AD_ILLEGAL_PARAMETER, "oversized session ticket");
	} else {
		return fault(o, SSL_AD_UNEXPECTED_MESSAGE, "unexpected message");
	}
	r->message_left = length;
	return RECORD_NOTHING;
}

/* Handshake messages, in any fragments (section 5.1). Session tickets are not kept, so nothing of
 * them is. */
static enum record_event on_handshake(struct records *r, struct slice data, struct record_opened *o)
{
	if (data.n == 0)
		return fault(o, SSL_AD_UNEXPECTED_MESSAGE, "empty handshake fragment");
	while (data.n > 0) {
		if (r->message_have < sizeof(r->message)) {
			r->message[r->message_have++] = (uint8_t)*data.p;
			data = slice_after(data, 1);
			if (r->message_have == sizeof(r->message) &&
			    on_message(r, o) == RECORD_FAULT)
				return RECORD_FAULT;
		} else if (r->message[0] == KEY_UPDATE) {
			r->message_have = 0;
			return on_key_update(r, data, o);
		} else {
			size_t n = MIN(data.n, r->message_left);
			r->message_left -= (uint32_t)n;
			data = slice_after(data, n);
		}
		if (r->message_have == sizeof(r->message) && r->message_left == 0)
			r->message_have = 0;
	}
	return RECORD_NOTHING;
}

static enum record_event on_record(struct records *r, uint8_t type, struct slice data,
				   struct record_opened *o)
{
	if (r->message_have > 0 && type != RECORD_HANDSHAKE)
		return fault(o, SSL_AD_UNEXPECTED_MESSAGE, "a record inside a handshake message");
	switch (type) {
	case RECORD_DATA:
		o->data = data;
		return data.n ? RECORD_OPENED : RECORD_NOTHING;
	case RECORD_ALERT:
		return on_alert(data, o);
	case RECORD_HANDSHAKE:
		return on_handshake(r, data, o);
	default:
		return fault(o, SSL_AD_UNEXPECTED_MESSAGE, "unexpected record");
	}
}

enum record_event record_open(struct records *r, char *in, size_t n, struct iovec out,
			      struct record_opened *o)
{
	*o = (struct record_opened){ .used = 0 };
	if (n > 0 && in[0] != RECORD_DATA) /* all others are protected now, section 5.1 */
		return fault(o, SSL_AD_UNEXPECTED_MESSAGE, "unexpected record");
	if (n < HEADER)
		return RECORD_PART;
	size_t sealed = sealed_size(in), inner = sealed - TAG;
	if (sealed > SEALED_MAX)
		return fault(o, SSL_AD_RECORD_OVERFLOW, "encrypted length too long");
	if (sealed < TAG)
		return fault(o, SSL_AD_BAD_RECORD_MAC, "decryption failed or bad record mac");
	if (n < HEADER + sealed)
		return RECORD_PART;
	o->used = HEADER + sealed;

	uint8_t nonce[NONCE], *body = (uint8_t *)in + HEADER;
	uint8_t *to = out.iov_len >= inner && inner > 0 ? out.iov_base : body;
	nonce_next(&r->in, nonce);
	if (!EVP_AEAD_CTX_open_gather(&r->in.aead, to, nonce, NONCE, body, inner, body + inner, TAG,
				      (const uint8_t *)in, HEADER)) {
		ERR_clear_error();
		return fault(o, SSL_AD_BAD_RECORD_MAC, "decryption failed or bad record mac");
	}
	if (inner > RECORD_MAX + 1)
		return fault(o, SSL_AD_RECORD_OVERFLOW, "data length too long");
	while (inner > 0 && to[inner - 1] == 0) /* padding, section 5.4 */
		inner--;
	if (inner == 0)
		return fault(o, SSL_AD_UNEXPECTED_MESSAGE, "a record without a type");
	enum record_event event = on_record(r, to[inner - 1], slice_of(to, inner - 1), o);
	if (event != RECORD_NOTHING)
		r->idle = 0;
	else if (++r->idle > RECORD_IDLE_MAX)
		return fault(o, SSL_AD_UNEXPECTED_MESSAGE, "too many records without data");
	return event;
}
