#include "proto/ssh/packet.h"

#include <errno.h>

#include "proto/ssh/wire.h"

enum { PADDING_MIN = 4, LENGTH_MIN = 6 }; /* padding_length, one byte of payload, padding */

void packets_init(struct packets *p)
{
	*p = (struct packets){ .max = PACKET_MAX_EARLY };
	cipher_plain(&p->cipher);
}

void packets_end(struct packets *p)
{
	cipher_end(&p->cipher);
}

char *packet_room(struct buf *out, size_t max)
{
	struct iovec room = buf_room_for(out, max + PACKET_EXTRA);
	BUG_ON(room.iov_len < max + PACKET_EXTRA);
	return (char *)room.iov_base + PACKET_HEAD;
}

void packet_seal(struct packets *p, struct buf *out, size_t n)
{
	const struct cipher *c = &p->cipher;
	char *at = (char *)buf_room_for(out, n + PACKET_EXTRA).iov_base;
	size_t block = c->suite->block, counted = (cipher_length_apart(c) ? 1 : PACKET_HEAD) + n;
	size_t padding = block - counted % block;
	if (padding < PADDING_MIN)
		padding += block;
	size_t length = 1 + n + padding;
	ssh_put_u32(at, (uint32_t)length);
	at[4] = (char)padding;
	/* "SHOULD be random": where it is sealed nobody can tell, where it is not nobody gains. */
	memset(at + PACKET_HEAD + n, 0, padding);
	cipher_seal(&p->cipher, p->seq++, at, length);
	buf_added(out, 4 + length + c->tag);
	p->bytes += length;
	p->packets++;
}

ssize_t packet_open(struct packets *p, char *in, size_t n, struct slice *payload, const char **why)
{
	struct cipher *c = &p->cipher;
	if (p->length == 0) {
		if (n < cipher_peek_size(c))
			return 0;
		uint32_t length = cipher_length(c, p->seq, in);
		size_t counted = (cipher_length_apart(c) ? 0 : 4) + (size_t)length;
		if (length < LENGTH_MIN || length > p->max || counted < c->suite->block ||
		    counted % c->suite->block) {
			*why = c->suite->mode == CIPHER_PLAIN ? "a packet of impossible length"
							      : "a packet of impossible length "
								"(or changed on its way)";
			return -EPROTO;
		}
		p->length = length;
	}
	size_t whole = 4 + (size_t)p->length + c->tag;
	if (n < whole)
		return 0;
	if (!cipher_open(c, p->seq, in, p->length)) {
		*why = "a packet that was changed on its way (its MAC is wrong)";
		return -EPROTO;
	}
	size_t padding = (uint8_t)in[4];
	if (padding < PADDING_MIN || padding + 2 > p->length) {
		*why = "a packet with impossible padding";
		return -EPROTO;
	}
	*payload = slice_of(in + PACKET_HEAD, p->length - 1 - padding);
	p->seq++;
	p->bytes += p->length;
	p->packets++;
	p->length = 0;
	return (ssize_t)whole;
}
