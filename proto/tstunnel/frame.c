#include "proto/tstunnel/frame.h"

#include <errno.h>

#include "reactor/err.h"

/* What each type allows: payload length, flag bits, whether it belongs to a stream. */
static const struct rule {
	uint32_t min, max;
	uint8_t flags;
	bool on_stream, on_carrier, channels;
} rules[FRAME_TYPES] = {
	[FRAME_SETTINGS] = { 2, FRAME_OTHER_MAX, 0, false, true, false },
	[FRAME_OPEN] = { 2, FRAME_OTHER_MAX, 0, true, false, false },
	[FRAME_OPENED] = { 0, FRAME_OTHER_MAX, 0, true, false, false },
	[FRAME_DATA] = { 0, FRAME_DATA_MAX, 0, true, false, true },
	[FRAME_WINDOW] = { 4, 4, 0, true, false, false },
	[FRAME_FIN] = { 0, 0, FRAME_FIN_STOP, true, false, false },
	[FRAME_RESET] = { 4, 4 + FRAME_TEXT_MAX, 0, true, false, false },
	[FRAME_PING] = { 8, 8, 0, false, true, false },
	[FRAME_PONG] = { 8, 8, 0, false, true, false },
	[FRAME_GOAWAY] = { 4, 4 + FRAME_TEXT_MAX, 0, false, true, false },
	[FRAME_CONTROL] = { 2, FRAME_OTHER_MAX, 0, true, false, false },
};

uint32_t frame_get_u32(const char *p)
{
	const unsigned char *u = (const unsigned char *)p;
	return (uint32_t)u[0] << 24 | (uint32_t)u[1] << 16 | (uint32_t)u[2] << 8 | u[3];
}

void frame_put_u32(char *p, uint32_t v)
{
	p[0] = (char)(v >> 24);
	p[1] = (char)(v >> 16);
	p[2] = (char)(v >> 8);
	p[3] = (char)v;
}

int frame_get(struct frame *f, const char *p, const char **why)
{
	const unsigned char *u = (const unsigned char *)p;
	*f = (struct frame){ .length = frame_get_u32(p),
			     .stream = frame_get_u32(p + 4),
			     .type = u[8],
			     .flags = u[9],
			     .channel = u[10] };
	*why = NULL;
	if (f->type >= FRAME_TYPES) {
		*why = "unknown frame type";
		return -EPROTO;
	}
	const struct rule *r = &rules[f->type];
	if (f->length < r->min || f->length > r->max)
		*why = "frame length out of bounds";
	else if (f->flags & ~r->flags)
		*why = "unknown frame flags";
	else if (f->stream == 0 ? !r->on_carrier : !r->on_stream)
		*why = "frame on the wrong kind of stream";
	else if (f->channel > (r->channels ? 2 : 0))
		*why = "unknown channel";
	else if (u[11] != 0)
		*why = "reserved byte is not 0";
	return *why ? -EPROTO : 0;
}

void frame_put(char *p, const struct frame *f)
{
	frame_put_u32(p, f->length);
	frame_put_u32(p + 4, f->stream);
	p[8] = (char)f->type;
	p[9] = (char)f->flags;
	p[10] = (char)f->channel;
	p[11] = 0;
}

static const struct {
	uint32_t reset;
	int err;
} codes[] = {
	{ RESET_INTERNAL, EIO },
	{ RESET_REFUSED, ECONNREFUSED },
	{ RESET_DENIED, ERR_DENIED },
	{ RESET_NOT_FOUND, ERR_NOT_FOUND },
	{ RESET_NOT_FOUND, ERR_DNS_NOT_FOUND },
	{ RESET_NOT_FOUND, ENOENT },
	{ RESET_TIMED_OUT, ETIMEDOUT },
	{ RESET_TOO_MANY, ERR_TOO_MANY },
	{ RESET_CANCELLED, ECONNRESET },
	{ RESET_CANCELLED, ERR_CANCELLED },
	{ RESET_DENIED, EACCES },
	{ RESET_REFUSED, EHOSTUNREACH },
	{ RESET_REFUSED, ENETUNREACH },
};

uint32_t reset_from_err(int code)
{
	for (size_t i = 0; i < ARRAY_LEN(codes); i++)
		if (codes[i].err == -code)
			return codes[i].reset;
	return RESET_INTERNAL;
}

int reset_to_err(uint32_t reset)
{
	for (size_t i = 0; i < ARRAY_LEN(codes); i++)
		if (codes[i].reset == reset)
			return -codes[i].err;
	return -EIO;
}
