/*
 * Frames of tstunnel/1 on the wire (pure codec). See docs/protocol.md.
 */
#ifndef TSTUNNEL_FRAME_H
#define TSTUNNEL_FRAME_H

#include "reactor/base.h"

enum {
	FRAME_HEADER = 12,
	FRAME_DATA_MAX = 1 << 20,    /* payload of DATA */
	FRAME_OTHER_MAX = 64 * 1024, /* payload of every other type */
	FRAME_TEXT_MAX = 1024        /* text of RESET and GOAWAY */
};

enum frame_type {
	FRAME_SETTINGS = 0,
	FRAME_OPEN,
	FRAME_OPENED,
	FRAME_DATA,
	FRAME_WINDOW,
	FRAME_FIN,
	FRAME_RESET,
	FRAME_PING,
	FRAME_PONG,
	FRAME_GOAWAY,
	FRAME_CONTROL,
	FRAME_TYPES
};

enum {
	FRAME_FIN_STOP = 1 /* flag of FIN: the sender reads no more either */
};

struct frame {
	uint32_t length;
	uint32_t stream;
	uint8_t type, flags, channel;
};

/* Reads the header at p (FRAME_HEADER bytes). 0, or -EPROTO with a sentence in *why: unknown type,
 * unknown flags, length over the type's limit, wrong length of a fixed one, a stream where none
 * belongs, reserved byte not 0. */
int frame_get(struct frame *, const char *p, const char **why);
/* Writes the header to p. */
void frame_put(char *p, const struct frame *);

void frame_put_u32(char *p, uint32_t v);
uint32_t frame_get_u32(const char *p);

/* Reset codes on the wire. */
enum reset_code {
	RESET_INTERNAL = 0,
	RESET_REFUSED,
	RESET_DENIED,
	RESET_NOT_FOUND,
	RESET_TIMED_OUT,
	RESET_TOO_MANY,
	RESET_CANCELLED
};

/* Between reset codes and the codes of err.h (negative). */
uint32_t reset_from_err(int code);
int reset_to_err(uint32_t reset);

#endif
