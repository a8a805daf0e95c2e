/*
 * The data types of SSH (RFC 4251 section 5), read from a message and written to one. Pure.
 */
#ifndef PROTO_SSH_WIRE_H
#define PROTO_SSH_WIRE_H

#include <sys/types.h>

#include "reactor/base.h"

/* Message numbers: RFC 4250 section 4.1.2, RFC 5656, RFC 8308. */
enum ssh_msg {
	MSG_DISCONNECT = 1,
	MSG_IGNORE,
	MSG_UNIMPLEMENTED,
	MSG_DEBUG,
	MSG_SERVICE_REQUEST,
	MSG_SERVICE_ACCEPT,
	MSG_EXT_INFO,
	MSG_KEXINIT = 20,
	MSG_NEWKEYS,
	MSG_KEX_ECDH_INIT = 30,
	MSG_KEX_ECDH_REPLY,
	MSG_USERAUTH_REQUEST = 50,
	MSG_USERAUTH_FAILURE,
	MSG_USERAUTH_SUCCESS,
	MSG_USERAUTH_BANNER,
	MSG_USERAUTH_PASSWD_CHANGEREQ = 60,
	MSG_GLOBAL_REQUEST = 80,
	MSG_REQUEST_SUCCESS,
	MSG_REQUEST_FAILURE,
	MSG_CHANNEL_OPEN = 90,
	MSG_CHANNEL_OPEN_CONFIRMATION,
	MSG_CHANNEL_OPEN_FAILURE,
	MSG_CHANNEL_WINDOW_ADJUST,
	MSG_CHANNEL_DATA,
	MSG_CHANNEL_EXTENDED_DATA,
	MSG_CHANNEL_EOF,
	MSG_CHANNEL_CLOSE,
	MSG_CHANNEL_REQUEST,
	MSG_CHANNEL_SUCCESS,
	MSG_CHANNEL_FAILURE
};

static inline uint32_t ssh_get_u32(const void *p)
{
	const uint8_t *b = p;
	return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

static inline void ssh_put_u32(void *p, uint32_t v)
{
	uint8_t *b = p;
	b[0] = (uint8_t)(v >> 24);
	b[1] = (uint8_t)(v >> 16);
	b[2] = (uint8_t)(v >> 8);
	b[3] = (uint8_t)v;
}

/* Reads front to back. Once something did not fit, bad stays true and all that follows reads as
 * zero or empty, so that one question at the end is enough. */
struct ssh_wire_in {
	struct slice left;
	bool bad;
};

uint8_t ssh_wire_u8(struct ssh_wire_in *);
bool ssh_wire_bool(struct ssh_wire_in *);
uint32_t ssh_wire_u32(struct ssh_wire_in *);
struct slice ssh_wire_bytes(struct ssh_wire_in *, size_t n);
/* Lies in the message. */
struct slice ssh_wire_string(struct ssh_wire_in *);
/* A positive mpint without its leading zeros; bad if negative, zero or padded. */
struct slice ssh_wire_mpint(struct ssh_wire_in *);
/* Nothing was bad, and nothing is left. */
bool ssh_wire_end(const struct ssh_wire_in *);

/* Writes to memory of a fixed size; more than that is a bug of ours. */
struct ssh_wire_out {
	char *p;
	size_t n, max;
};

void put_u8(struct ssh_wire_out *, uint8_t);
void put_u32(struct ssh_wire_out *, uint32_t);
void put_bytes(struct ssh_wire_out *, struct slice);
void put_string(struct ssh_wire_out *, struct slice);
void put_str(struct ssh_wire_out *, const char *);
/* A big-endian number of any number of leading zeros, as mpint: at most 5 + n bytes. */
void put_mpint(struct ssh_wire_out *, struct slice);
static inline struct slice ssh_wire_written(const struct ssh_wire_out *w)
{
	return slice_of(w->p, w->n);
}

/* Takes the next name off a name-list ("a,b,c"); false at its end. */
bool name_next(struct slice *list, struct slice *name);
bool name_in(struct slice list, struct slice name);
/* Non-empty names of printable US-ASCII, as RFC 4251 section 5 has them; the list may be empty. */
bool name_list_ok(struct slice list);

/* What a server says, made fit for a terminal or a log: at most n - 1 bytes of it, control bytes
 * (and line ends, unless lines) as '?', ill-formed UTF-8, too. Returns out. */
const char *ssh_text(struct slice, bool lines, char *out, size_t n);

#endif
