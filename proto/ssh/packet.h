/*
 * Packets of RFC 4253 section 6, sealed into a buffer and opened from one, both in place: a payload
 * is written where it leaves from and read where it came in. No I/O here. Private to proto/ssh.
 */
#ifndef PROTO_SSH_PACKET_H
#define PROTO_SSH_PACKET_H

#include "proto/ssh/cipher.h"
#include "reactor/buf.h"

enum {
	PACKET_MAX = 256 * 1024,  /* packet_length; OpenSSH's limit, too */
	PACKET_MAX_EARLY = 35000, /* section 6.1: while nothing else is agreed */
	PACKET_HEAD = 5,          /* lengths of packet and padding */
	PACKET_EXTRA = PACKET_HEAD + 255 + CIPHER_TAG_MAX
};

/* One direction of a connection. */
struct packets {
	struct cipher cipher;
	uint32_t seq;            /* of the next packet */
	uint32_t length;         /* in: of the packet that is coming, 0: not known yet */
	uint32_t max;            /* in: of packet_length */
	uint64_t bytes, packets; /* under this key */
};

void packets_init(struct packets *);
void packets_end(struct packets *);

/* Where the payload of the next packet (max bytes at most) is to be written: in out, which must
 * have room for max + PACKET_EXTRA. Nothing else may touch out until packet_seal. */
char *packet_room(struct buf *out, size_t max);
/* Pads and seals the n bytes (at least 1) written there. */
void packet_seal(struct packets *, struct buf *out, size_t n);

/* Opens the first packet of in[0..n), in place: how many bytes it took, with its payload (never
 * empty); 0, it is not whole yet; -EPROTO, and *why says how it is wrong. The same bytes must come
 * again, with more behind them, after a 0. */
ssize_t packet_open(struct packets *, char *in, size_t n, struct slice *payload, const char **why);

#endif
