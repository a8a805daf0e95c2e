/*
 * Datagrams in a stream: each behind its length, two bytes in network order (docs/protocol.md,
 * kind udp). A stream that is stuck makes datagrams get lost, as a full queue of a router does; it
 * never makes anybody wait.
 */
#ifndef TSTUNNEL_DGRAM_H
#define TSTUNNEL_DGRAM_H

#include "reactor/buf.h"
#include "reactor/stream.h"

enum { DGRAM_HEADER = 2, DGRAM_MAX = 65535 };

/* The length in a header, and the other way round. */
static inline size_t dgram_length(const char *header)
{
	return (size_t)(unsigned char)header[0] << 8 | (unsigned char)header[1];
}

static inline void dgram_header(char *header, size_t n)
{
	header[0] = (char)(n >> 8);
	header[1] = (char)n;
}

/* What one stream's datagrams need. Holds no block while nothing is cut or stuck. */
struct dgram {
	struct buf in;  /* the beginning of one whose end has not come */
	struct buf out; /* what the stream did not take yet */
};

void dgram_init(struct dgram *);
void dgram_end(struct dgram *);

/* Reads s once and calls each for the datagrams that are whole; d lives during the call. Returns 1
 * (there may be more), 0 at the end of the stream, -EAGAIN, or fatal; -ERR_TRUNCATED for an end
 * inside a datagram. each must leave d and s alone and not use the reactor's scratch. */
int dgram_read(struct dgram *, struct stream *s, void (*each)(void *arg, struct slice d),
	       void *arg);
/* Sends one (at most DGRAM_MAX bytes): 0; -ENOBUFS when s is stuck and it was dropped; or fatal. */
int dgram_write(struct dgram *, struct stream *s, struct slice d);
/* Goes on sending what s did not take. 0, -EAGAIN or fatal. */
int dgram_flush(struct dgram *, struct stream *s);

#endif
