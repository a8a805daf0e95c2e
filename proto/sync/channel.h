/*
 * Messages over a stream pair, both ways: what is sent is gathered and written in large pieces;
 * content is read from disk straight into what is written. At most about a mebibyte waits to be
 * written: who produces asks for room first, and goes on when the task is woken.
 */
#ifndef SYNC_CHANNEL_H
#define SYNC_CHANNEL_H

#include "proto/sync/wire.h"
#include "reactor/stream.h"

struct channel;

/* Takes both streams (they may be one and the same). owner is woken when there is something to read
 * or room again. */
struct channel *channel_new(struct stream *in, struct stream *out, struct task *owner);
void channel_free(struct channel *);

/* May a message be sent now? (One of any length; a few short ones more never hurt.) */
bool channel_room(const struct channel *);
/* Sends, data included. Never refuses. */
void channel_send(struct channel *, const struct msg *);
/* A message whose data is put in place: room for up to max bytes of it, which lives until
 * channel_put_done (n bytes are there) or channel_put_drop (nothing is sent after all). No other
 * call in between. The message's other fields may still change, but for their lengths. */
char *channel_put(struct channel *, const struct msg *, size_t max);
void channel_put_done(struct channel *, struct msg *, size_t n);
void channel_put_drop(struct channel *);

/* The next message: 1 with *in (wire_end it before the next call; its slices live until then); 0:
 * none for now; -ENODATA: the peer has ended; -EBADMSG, -EMSGSIZE: what came is none of ours, or a
 * code of the stream. */
int channel_next(struct channel *, struct msg_in *in);
/* Writes what waits: 0, or the code of the stream. Call once a turn, after all was sent. */
int channel_flush(struct channel *);
/* Nothing waits to be written. */
bool channel_empty(const struct channel *);
/* To be called every few seconds: if nothing came or went since the last call, what memory is held
 * for that is freed. True: it was. */
bool channel_tidy(struct channel *);
/* Bytes since the start. */
uint64_t channel_sent(const struct channel *);
uint64_t channel_received(const struct channel *);

#endif
