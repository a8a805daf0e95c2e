/*
 * What mux.c (the carrier), mux_stream.c (its streams), mux_out.c (what waits to be written) and
 * mux_pipe.c (what travels by splice) share.
 */
#ifndef TSTUNNEL_MUX_INT_H
#define TSTUNNEL_MUX_INT_H

#include "proto/tstunnel/frame.h"
#include "proto/tstunnel/mux.h"
#include "reactor/buf.h"
#include "reactor/pipe.h"

enum {
	WINDOW_INITIAL = 256 * 1024, /* protocol constant: credit of each new stream, both ways */
	WINDOW_MAX = 16 * 1024 * 1024,
	WINDOW_EXTRA_MAX = 64 * 1024 * 1024, /* per carrier, granted beyond the initial windows */
	STASH_MAX = 256 * 1024 * 1024,       /* per carrier: memory for what owners have not read */
	QUANTUM = 64 * 1024 - 128,           /* what a stream may queue before others get a turn */
	QUANTUM_MAX = 240 * 1024,            /* on a fast carrier: fits a pipe, and a block */
	SPLICE_LEAST = 32 * 1024,            /* less payload than this is copied */
	OUT_MAX = 256 * 1024,                /* queued data, all streams together */
	PROMPT_MAX = 256 * 1024,             /* queued control frames before we stop reading */
	SPARSE_BYTES = 4096,
	SPARSE_MS = 10,           /* a stream that sends less is interactive */
	CONTROLS_MAX = 64 * 1024, /* CONTROL messages waiting for one stream's owner, in bytes */
	CONTROL_COST = 64         /* of a message beside its text */
};

/* --- output: mux_out.c --- */

/* Whole frames, packed, or the header of one whose payload is in a pipe; a block goes to the wire
 * as one. */
struct out_block {
	struct out_block *next;
	size_t cap, head, len; /* data[head .. len) is still to be sent */
	struct pipe_pair *pipe;
	size_t in_pipe; /* and then these */
	uint64_t seq;
	char data[];
};

struct out_queue {
	struct out_block *first, *last;
	size_t bytes;
};

/* Control frames and the few bytes of interactive streams go first (prompt), bulk data follows;
 * wire is what has been given its place already. */
struct mux_out {
	struct out_queue prompt, bulk, wire;
	uint64_t seq;   /* of the newest bulk block */
	uint64_t wired; /* of the newest bulk block given to the wire */
	uint64_t sent;  /* bytes, headers included */
	bool congested; /* the carrier said EAGAIN last time: commit little at once */
};

/* Room for a frame with at most want bytes of payload at the end of q: where the payload goes. */
struct iovec out_room(struct mux_out *, struct out_queue *q, size_t want);
/* Commits the frame whose payload was put at that place (f->length bytes). */
void out_commit(struct out_queue *q, const struct frame *f);
/* Nothing was put there. */
void out_cancel(struct out_queue *q);
/* Commits a frame of bulk whose payload is all that pipe holds. Takes the pipe. */
void out_pipe(struct mux_out *, struct pipe_pair *pipe, const struct frame *f);
/* Appends a control frame with its payload. */
void out_frame(struct mux_out *, const struct frame *f, const char *payload);
/* Writes what it can: 0 all gone, -EAGAIN, or a fatal code. */
int out_flush(struct mux_out *, struct stream *transport);
void out_end(struct mux_out *);

static inline size_t out_bytes(const struct mux_out *o)
{
	return o->prompt.bytes + o->bulk.bytes + o->wire.bytes;
}

/* --- the carrier --- */

/* The rest of the frame being received, left in the carrier for its stream to splice. */
struct mux_offer {
	struct task task;   /* the turn of that stream is over */
	bool no_in, no_out; /* the carrier cannot splice (this way) */
	bool dry;           /* it had no more when it was asked */
	bool begun;         /* some of the frame was taken: the last bytes go the same way */
	bool ended;         /* it said so, or failed, with code */
	int code;
	size_t taken;    /* since the task ran */
	size_t ahead;    /* how far fill() may read beyond the frame; 0: no limit */
	unsigned strict; /* reads for which it stays like that */
};

struct mux {
	struct reactor *rx;
	struct stream *transport;
	struct mux_options opt;
	struct mux_stats stats;
	struct task task;       /* the transport's owner: reads */
	struct task flush_task; /* end of turn: writes */
	struct timer timer;
	uint64_t last_rx_ms, ping_ms;
	bool pinged;  /* and nothing has come since */
	bool closing; /* all was said: only the peer's end of stream is waited for */

	struct mux_stream **table; /* by id, chained, power of two */
	uint32_t table_size, count, peer_count;
	uint32_t next_id, last_peer_id;
	bool goaway_sent;

	/* The block that the carrier is read into, and what its streams borrow of it. */
	char *block;
	size_t block_cap;
	size_t early; /* bytes of the handshake that wait in the block */
	struct list borrowers;
	char partial[FRAME_HEADER]; /* a header cut by the end of the last read */
	size_t partial_len;
	struct frame cur; /* the frame being received */
	size_t cur_left;
	struct mux_stream *cur_stream; /* of DATA; NULL: discard */
	struct buf ctl;                /* payload so far of a frame that is not DATA */
	const char *fault;             /* why the peer broke the protocol */
	struct mux_offer offer;

	struct mux_out out;
	struct list waiting; /* streams with data, waiting for their turn to queue it */
	size_t quantum;      /* of a turn */
	uint64_t paced_ms, paced_sent;
	size_t window_extra, stashed;
};

struct control_msg {
	struct list link;
	size_t cost;
	char *text;
};

struct chunk; /* of a stash */

/* What few streams have. */
struct mux_extra {
	struct list controls; /* of struct control_msg */
	size_t controls_bytes;
	char *why;
	char *opened_json;
};

/* Thousands of these idle. */
struct mux_stream {
	struct stream s;
	struct mux *m; /* NULL once the carrier is gone */
	struct mux_stream *hash_next;
	struct task *owner;
	struct mux_extra *extra; /* may be NULL */
	uint32_t id;
	int code; /* fatal, once set */
	bool by_peer, accepted, fin_sent, fin_got, peer_stopped, reset;
	bool splices; /* its owner takes what is offered */
	uint8_t channel, peeked_channel;
	bool lent, lent_bulk; /* between room and added: a place in that queue */

	/* sending */
	int32_t credit;
	uint32_t turn_left;    /* of its quantum */
	uint32_t recent_bytes; /* sent of late, as of recent_ms (the clock's lower half) */
	uint32_t recent_ms;
	uint64_t bulk_seq;     /* the newest bulk block that holds bytes of it */
	struct list wait_link; /* m->waiting */

	/* receiving: the stash (older) then the borrowed segments of m->block */
	uint32_t recv_credit, window, consumed, granted_ms;
	struct chunk *stash_first, *stash_last;
	uint32_t seg_first, seg_last, seg_skip; /* offsets in m->block, 0 = none */
	struct list borrow_link;                /* m->borrowers */
};

/* mux_stream.c, for mux.c: */
struct mux_stream *mux_stream_new(struct mux *, uint32_t id, bool by_peer);
struct mux_stream *mux_stream_find(struct mux *, uint32_t id);
/* Ends it with code; why is copied. Keeps the object for its owner, who is woken. */
void mux_stream_fail(struct mux_stream *, int code, const char *why);
/* Lets a stream that has all it will get, and gives no more, outlive the mux unharmed: its owner
 * may still read it to its end. Others are left as they are. */
void mux_stream_orphan(struct mux_stream *);
/* Sends RESET, then fails it. */
void mux_stream_reset(struct mux_stream *, int code, const char *why);
/* n received bytes at p, which lies in m->block with FRAME_HEADER bytes of ours before it. */
void mux_stream_lend(struct mux_stream *, char *p, size_t n, uint8_t channel);
/* Copies what it still borrows, so that the block can be used again. */
void mux_stream_settle(struct mux_stream *);
void mux_stream_wake(struct mux_stream *);
struct mux_extra *mux_stream_extra(struct mux_stream *); /* made if need be */
/* n received bytes were taken: counts them, and gives credit back. */
void mux_stream_consumed(struct mux_stream *, size_t n);
/* May DATA be sent: 0, or a code. */
int mux_stream_may_send(const struct mux_stream *);
/* How much s may queue as an interactive stream, 0 if it is not one (now). */
size_t mux_stream_sparse(struct mux_stream *s);
/* May it queue bulk now: 0, or -EAGAIN, and it is woken when its turn comes. */
int mux_stream_turn(struct mux_stream *);
/* DATA of n bytes was queued, as bulk or prompt. */
void mux_stream_queued(struct mux_stream *, struct out_queue *, size_t n);

/* mux_pipe.c: the pipe verbs of streams */
ssize_t mux_to_pipe(struct stream *, int pipe_w, size_t max);
ssize_t mux_from_pipe(struct stream *, struct pipe_pair **, size_t n);
/* and, for mux.c: */
void mux_offer_init(struct mux *);
/* The carrier is up: can it splice? */
void mux_offer_settled(struct mux *);
/* Leaves the rest of the current frame to its stream for a turn, if it is worth it: do not read. */
bool mux_offer(struct mux *);
/* A large frame has come whose stream splices: others like it may follow, so read no further. */
void mux_offer_next(struct mux *);
/* How much may be read now, of room bytes. */
size_t mux_offer_room(struct mux *, size_t room);

/* mux.c, for the others: */
void mux_send(struct mux *, const struct frame *, const char *payload);
void mux_stream_gone(struct mux *); /* a stream was closed: perhaps drained */

#endif
