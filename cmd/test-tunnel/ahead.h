/*
 * A stream some of whose bytes were read already: a server that speaks first (SSH) may have sent
 * its banner right behind the reply to CONNECT.
 */
#ifndef CMD_TEST_TUNNEL_AHEAD_H
#define CMD_TEST_TUNNEL_AHEAD_H

#include "reactor/buf.h"
#include "reactor/stream.h"

/* Reads what is in *ahead (moved out of it) first, then lower, which it owns. lower itself when
 * there is nothing. */
struct stream *ahead_stream_new(struct stream *lower, struct buf *ahead);

#endif
