/*
 * Many streams over one carrier: tstunnel/1 after its handshake (docs/protocol.md).
 *
 * A mux owns its transport stream. Its streams obey reactor/stream.h, with the borrow and lend
 * verbs: received bytes are lent straight from the block that the carrier was read into, bytes to
 * send are read straight into the block that the carrier will write. One flush a turn. Streams may
 * outlive the mux: when the carrier dies, each fails with its reason.
 */
#ifndef TSTUNNEL_MUX_H
#define TSTUNNEL_MUX_H

#include "reactor/stream.h"

struct mux;

struct mux_options {
	bool client;           /* opens odd stream ids; a server opens even ones */
	uint32_t max_streams;  /* that the peer may have open at once; 0: 16384 */
	uint64_t keepalive_ms; /* PING when nothing came for this long; dead after as long again. 0:
				  4 s */
	const char *program;   /* name and version for SETTINGS */

	/* The peer opened a stream. Called from the mux's task; json lives during the call. The
	 * callee owns the stream: mux_accept() or mux_refuse() it, now or later. NULL: refuse all.
	 */
	void (*opened)(void *arg, struct stream *, struct slice json);
	/* The peer's SETTINGS have come: the carrier is up. Called once, from the mux's task; may
	 * wake tasks, no more. May be NULL. */
	void (*settled)(void *arg);
	/* The peer said GOAWAY. Called once, from the mux's task; may wake tasks, no more. May be
	 * NULL. */
	void (*goaway)(void *arg);
	/* The carrier is gone. Called once, from the mux's task or timer, in tail position: the
	 * callee may mux_free() there. code 0: closed by agreement (GOAWAY and drained). */
	void (*ended)(void *arg, int code, const char *why);
	void *arg;
};

struct mux_stats {
	uint64_t bytes_in, bytes_out; /* payload of DATA */
	uint32_t streams;             /* open now */
	uint64_t streams_total;
	uint64_t rtt_us; /* last PING, 0 = unknown */
	bool settled;    /* the peer's SETTINGS have come: the carrier is up */
	bool goaway;     /* the peer wants no new streams */
};

/* Takes transport, which may still be connecting. early: bytes of the peer that came with the
 * handshake (copied, at most 64 KiB). */
struct mux *mux_new(struct reactor *, struct stream *transport, struct slice early,
		    const struct mux_options *);
/* Fails every stream with code, closes the transport (why 0: after flushing), frees. ended is not
 * called. NULL is ignored. */
void mux_free(struct mux *, int code, const char *why);

/* Opens a stream; json says what (docs/protocol.md). Never NULL. Writable at once, up to the
 * initial window. An empty write says -EAGAIN until the peer accepted. */
struct stream *mux_open(struct mux *, struct slice json);
/* Says OPENED. json may be empty. */
void mux_accept(struct stream *, struct slice json);
/* Sends RESET with code (err.h) and text, and frees the stream: "no", or the end in disorder. */
void mux_refuse(struct stream *, int code, const char *text);
/* Sends RESET with code and text. The stream stays its owner's, whose next verb says code. */
void mux_reset(struct stream *, int code, const char *text);
/* The peer's answer to mux_open, empty until it came. Lives as long as the stream. */
struct slice mux_opened_json(struct stream *);

/* The number of a stream on its carrier, and the stream that has a number on the carrier of s: NULL
 * when there is none (any more). */
uint32_t mux_stream_id(const struct stream *);
struct stream *mux_sibling(const struct stream *s, uint32_t id);

/* No new streams, please; the open ones finish, then ended(0). */
void mux_goaway(struct mux *, const char *text);
const struct mux_stats *mux_stats(const struct mux *);

/* Channels, for exec: DATA from now on carries channel (0 stdin, 1 stdout, 2 stderr). */
void mux_set_channel(struct stream *, uint8_t channel);
/* The channel of the bytes that the last peek lent. */
uint8_t mux_peeked_channel(const struct stream *);
/* Sends a CONTROL message (JSON). Never waits behind data. 0, or -EPIPE on a dead stream. */
int mux_control(struct stream *, struct slice json);
/* The next CONTROL message of the peer, free() it; NULL when there is none. The owner is woken when
 * one arrives. */
char *mux_next_control(struct stream *);
bool stream_is_mux(const struct stream *);

#endif
