/*
 * TLS 1.3 after the handshake (RFC 8446 sections 4.6, 5 and 6): data sealed into records and opened
 * from them, under the traffic secrets that BoringSSL agreed on. Bytes go from and to the caller's
 * memory, with nothing between it and the cipher; no I/O here. Private to tls*.c.
 */
#ifndef REACTOR_TLS_RECORD_H
#define REACTOR_TLS_RECORD_H

#include <sys/uio.h>

#include <openssl/aead.h>

#include "reactor/base.h"

enum {
	RECORD_MAX = 16384,   /* content of a record */
	RECORD_OVERHEAD = 22, /* header 5, content type 1, tag 16: the same for every cipher */
	RECORD_ROOM = RECORD_MAX + RECORD_OVERHEAD,
	/* AES-GCM is good for 2^24.5 full records under one key (section 5.5). */
	RECORD_RENEW_AFTER = 1 << 23,
	RECORD_IDLE_MAX = 32, /* in a row that bring no data, before we call it an attack */
};

enum record_type { RECORD_ALERT = 21, RECORD_HANDSHAKE = 22, RECORD_DATA = 23 };

/* One direction. */
struct record_key {
	const struct record_suite *suite; /* NULL: not started */
	uint64_t seq;                     /* of the next record */
	uint8_t secret[48];               /* traffic secret; longest hash: SHA-384 */
	uint8_t iv[12];
	EVP_AEAD_CTX aead;
};

struct records {
	struct record_key in, out;
	uint64_t renew_after; /* records under one key of ours, 0: RECORD_RENEW_AFTER */
	bool server;
	bool renew_asked; /* the peer wants a KeyUpdate of ours before our next data */
	unsigned idle;    /* records in a row without data */
	/* The handshake message that is coming in, perhaps over several records: */
	uint8_t message[4]; /* its type and length, as far as they are here */
	uint8_t message_have;
	uint32_t message_left;
};

/* Takes the connection over from the handshake that negotiated cipher (its number in the TLS
 * registry), each direction at the record number given. The caller has put both secrets in place.
 * 0, or -EINVAL for a cipher that is none of TLS 1.3. */
int records_start(struct records *, uint16_t cipher, bool server, uint64_t seq_in,
		  uint64_t seq_out);
/* Wipes the secrets. Harmless when nothing was started. */
void records_end(struct records *);

/* --- sealing --- */

/* Where the next bytes to seal come from. */
struct record_source {
	const struct iovec *iov;
	int n;
	size_t off; /* into the first iovec */
};

/* Takes what the next record is to hold off the source, at most RECORD_MAX bytes: a large piece as
 * it lies, small ones copied together to gathered, which has room for RECORD_MAX (or all that is
 * left). */
struct slice record_take(struct record_source *, char *gathered);
/* Seals one record of the source into out, which has room for RECORD_ROOM bytes (or all that is
 * left and RECORD_OVERHEAD more); returns its size. out must not overlap the source. */
size_t record_seal(struct records *, enum record_type, struct record_source *, char *out);
/* Seals an alert (section 6): its size, at most RECORD_OVERHEAD + 2. close_notify is a warning, all
 * others are fatal. */
size_t record_seal_alert(struct records *, uint8_t alert, char *out);
/* True when the next data must not go out before a record_seal_renewal. */
bool record_renewal_due(const struct records *);
/* Seals a KeyUpdate (section 4.6.3) and takes the next key: its size, RECORD_OVERHEAD + 5. */
size_t record_seal_renewal(struct records *, char *out);

/* --- opening --- */

enum record_event {
	RECORD_PART = 0, /* the record is not whole yet */
	RECORD_OPENED,   /* data */
	RECORD_NOTHING,  /* nothing for the reader; perhaps renewal is due now */
	RECORD_CLOSED,   /* close_notify */
	RECORD_ALERTED,  /* the peer gave up: alert */
	RECORD_FAULT,    /* the peer broke the rules: alert is what to tell it, why says how */
};

struct record_opened {
	size_t used;       /* of the input, for all but RECORD_PART */
	struct slice data; /* RECORD_OPENED: inside out where it fits there, else in the input */
	uint8_t alert;
	const char *why;
};

/* Opens the first record of in[0..n), which it overwrites in place unless out has room for it (see
 * record_room). Refuses a bad header before the rest of the record has come. */
enum record_event record_open(struct records *, char *in, size_t n, struct iovec out,
			      struct record_opened *);
/* What out must have room for, so that the first record of in is opened there: one byte more than
 * its data, or more if the peer pads. 0 while the record is not whole. */
size_t record_room(struct slice in);

#endif
