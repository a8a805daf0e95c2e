/*
 * A live mux between a carrier and owners that both do what the input says: frames well-formed or
 * not, short reads, refused writes, and every verb of its streams in any order.
 *
 * Held against a model of each stream: what comes out is what went in, in order and on its channel;
 * credit is kept; what the mux writes is valid; memory is bounded; who failed stays failed; ended()
 * is called once. Raw bytes (FEED_RAW) end the comparison with the model, not the rest.
 */
#include <errno.h>
#include <unistd.h>

#include "proto/tstunnel/mux_int.h"
#include "reactor/err.h"

enum { IDS = 64, RUNS = 400, STREAMS = 24, WIRE_MAX = 4 << 20, PIECE_MAX = 70000 };

enum op {
	FEED_RAW = 0, /* count, bytes */
	FEED_FRAME,   /* type, stream, flags and channel, length (2) */
	FEED_OPEN,    /* the peer's next stream */
	FEED_DATA,    /* stream, channel, length (2) */
	FEED_WINDOW,  /* stream, exponent */
	FEED_END,     /* bit 0: with an error */
	CARRIER,      /* read size, write capacity: exponents */
	TURN,         /* count */
	OWN_OPEN,
	OWN_WRITE, /* stream, length (2) */
	OWN_READ,  /* stream, length (2) */
	OWN_PEEK,  /* stream, length (2) */
	OWN_ROOM,  /* stream, length (2) */
	OWN_SHUT,  /* stream */
	OWN_CLOSE, /* stream, why */
	OWN_ACCEPT,
	OWN_REFUSE,
	OWN_CONTROL, /* stream, bit 0: take else send, bit 1: a large one */
	OWN_CHANNEL, /* stream, channel */
	OWN_BIND,    /* stream, bit 0: nobody */
	GOAWAY,
	OPS,

	/* These bytes, and not those that are equal to them modulo OPS. */
	OWN_TO_PIPE = 252, /* stream, length (2) */
	OWN_FROM_PIPE,     /* stream, length (2), in quarters */
	PIPE_MODE          /* what the carrier's pipe verbs say */
};

struct run {
	uint64_t upto;
	uint8_t channel;
};

/* What we know of the stream of one number. */
struct model {
	struct stream *s; /* while its owner has it */
	uint64_t fed, got, wrote, seen;
	uint64_t windows_fed, windows_seen;
	struct run run[RUNS];
	unsigned nruns;
	bool out_opened, out_fin, out_reset, closed, unreadable;
	bool fin_fed; /* what is fed after it is a fault, and nobody's data */
	int code;     /* once failed */
};

static struct reactor *rx;
static struct model model[IDS];
static struct task owner_task; /* of streams; drains them at the end */
static bool draining, wild, settings_seen;
static bool faulty; /* the peer may have broken the protocol */
static struct mux *mux;
static unsigned ended, opened;
static uint32_t next_peer_id;
static bool client, free_in_ended;

static char pattern(uint32_t id, uint64_t at)
{
	return (char)(id * 31 + at * 7 + (at >> 8));
}

/* --- input --- */

static const uint8_t *in;
static size_t in_left;

static unsigned byte(void)
{
	if (in_left == 0)
		return 0;
	in_left--;
	return *in++;
}

static size_t length(void)
{
	size_t n = byte() << 8;
	n |= byte();
	return n;
}

/* --- the carrier --- */

static struct wire {
	struct stream s;
	struct task *owner;
	struct buf in, out;
	size_t read_max, write_left;
	bool eof, closed, shut;
	int error, no_pipe;
} wire;

static void wire_wake(void)
{
	if (!wire.closed && wire.owner)
		task_wake(rx, wire.owner);
}

static ssize_t wire_read(struct stream *s, const struct iovec *iov, int n)
{
	(void)s, (void)n;
	if (wire.error)
		return wire.error;
	struct slice d = buf_data(&wire.in);
	if (d.n == 0)
		return wire.eof ? 0 : -EAGAIN;
	d.n = MIN(MIN(d.n, iov->iov_len), wire.read_max);
	if (d.n == 0)
		return -EAGAIN;
	memcpy(iov->iov_base, d.p, d.n);
	buf_drop(&wire.in, d.n);
	return (ssize_t)d.n;
}

/* One frame that the mux wrote. */
static void check_out(const struct frame *f, const char *payload)
{
	BUG_ON((f->type == FRAME_SETTINGS) == settings_seen);
	settings_seen = true;
	if (f->stream >= IDS) { /* raw bytes opened it, and on_opened refused */
		BUG_ON(!wild || f->type != FRAME_RESET);
		return;
	}
	struct model *m = &model[f->stream];
	if (f->stream == 0)
		return;
	/* A RESET may overtake bulk data, which the peer then drops. */
	BUG_ON(m->out_reset && f->type != FRAME_DATA && f->type != FRAME_FIN);
	switch ((enum frame_type)f->type) {
	case FRAME_OPEN:
		BUG_ON(m->out_opened);
		m->out_opened = true;
		break;
	case FRAME_DATA:
		BUG_ON(m->out_fin);
		for (uint32_t i = 0; i < f->length; i++)
			BUG_ON(payload[i] != pattern(f->stream + IDS, m->seen + i));
		m->seen += f->length;
		BUG_ON(m->seen > m->wrote);
		BUG_ON(!wild && m->seen > WINDOW_INITIAL + m->windows_fed);
		break;
	case FRAME_FIN:
		BUG_ON(m->out_fin && !(f->flags & FRAME_FIN_STOP));
		BUG_ON(m->seen != m->wrote);
		m->out_fin = true;
		break;
	case FRAME_WINDOW:
		m->windows_seen += frame_get_u32(payload);
		BUG_ON(m->windows_seen > m->got + WINDOW_MAX);
		break;
	case FRAME_RESET:
		m->out_reset = true;
		break;
	default:
		break;
	}
}

static ssize_t wire_write(struct stream *s, const struct iovec *iov, int n)
{
	(void)s;
	size_t total = 0;
	BUG_ON(wire.shut && n > 0);
	if (wire.error)
		return wire.error;
	for (int i = 0; i < n && wire.write_left > 0; i++) {
		size_t part = MIN(iov[i].iov_len, wire.write_left);
		BUG_ON(buf_put(&wire.out, slice_of(iov[i].iov_base, part)) < 0);
		wire.write_left -= part;
		total += part;
	}
	for (;;) {
		struct slice d = buf_data(&wire.out);
		struct frame f;
		const char *why;
		if (d.n < FRAME_HEADER)
			break;
		BUG_ON(frame_get(&f, d.p, &why) < 0);
		if (d.n < FRAME_HEADER + f.length)
			break;
		check_out(&f, d.p + FRAME_HEADER);
		buf_drop(&wire.out, FRAME_HEADER + f.length);
	}
	return n && total == 0 ? -EAGAIN : (ssize_t)total;
}

static ssize_t wire_to_pipe(struct stream *s, int pipe_w, size_t max)
{
	static char piece[PIPE_BYTES];
	if (wire.no_pipe)
		return wire.no_pipe;
	ssize_t n = wire_read(s, &(struct iovec){ piece, MIN(max, sizeof(piece)) }, 1);
	BUG_ON(max == 0 || (n > 0 && write(pipe_w, piece, (size_t)n) != n));
	return n;
}

static ssize_t wire_from_pipe(struct stream *s, struct pipe_pair **p, size_t n)
{
	static char piece[PIPE_BYTES];
	if (wire.no_pipe)
		return wire.no_pipe;
	if (n == 0)
		return PIPE_BYTES;
	n = MIN(n, wire.write_left);
	if (n > 0 && !wire.error)
		pipe_read(*p, piece, n);
	return wire_write(s, &(struct iovec){ piece, n }, 1);
}

static int wire_shut(struct stream *s)
{
	(void)s;
	wire.shut = true;
	return wire.error;
}

static void wire_close(struct stream *s, int why)
{
	(void)s, (void)why;
	BUG_ON(wire.closed);
	wire.closed = true;
}

static void wire_bind(struct stream *s, struct task *t)
{
	(void)s;
	wire.owner = t;
	wire_wake();
}

static const struct stream_ops wire_ops = {
	.name = "wire",
	.read = wire_read,
	.write = wire_write,
	.shut = wire_shut,
	.close = wire_close,
	.bind = wire_bind,
};

static const struct stream_ops pipe_ops = {
	.name = "wire with pipes",
	.read = wire_read,
	.write = wire_write,
	.write_more = wire_write,
	.to_pipe = wire_to_pipe,
	.from_pipe = wire_from_pipe,
	.shut = wire_shut,
	.close = wire_close,
	.bind = wire_bind,
};

static void feed(const void *p, size_t n)
{
	if (!wire.eof && wire.in.len + n <= WIRE_MAX && n)
		BUG_ON(buf_put(&wire.in, slice_of(p, n)) < 0);
	wire_wake();
}

static void feed_frame(struct frame f, const char *payload)
{
	char head[FRAME_HEADER];
	if (wire.eof || wire.in.len + FRAME_HEADER + f.length > WIRE_MAX)
		return;
	frame_put(head, &f);
	feed(head, sizeof(head));
	feed(payload, f.length);
}

/* --- feeding --- */

static void feed_data(uint32_t id, uint8_t channel, size_t n)
{
	static char payload[65536];
	struct model *m = &model[id];
	if (m->nruns == RUNS || wire.eof || wire.in.len + FRAME_HEADER + n > WIRE_MAX)
		return;
	for (size_t i = 0; i < n; i++)
		payload[i] = pattern(id, m->fed + i);
	bool ours = (id & 1) == (client ? 1 : 0);
	faulty |= m->fin_fed || (ours ? !m->out_opened : id >= next_peer_id) ||
		  m->fed + n > WINDOW_INITIAL + m->windows_seen;
	if (!m->fin_fed) {
		m->fed += n;
		m->run[m->nruns++] = (struct run){ m->fed, channel };
	}
	feed_frame(
	    (struct frame){
		.length = (uint32_t)n, .stream = id, .type = FRAME_DATA, .channel = channel },
	    payload);
}

static void feed_any(void)
{
	static const char text[] = "{\"kind\":\"x\"}\0\n\x1b[31m............................";
	struct frame f = { .type = (uint8_t)byte(), .stream = byte() % IDS };
	unsigned bits = byte();
	size_t n = length();
	f.flags = bits & 15;
	f.channel = (uint8_t)(bits >> 4);
	if (f.type == FRAME_DATA && f.flags == 0 && f.channel < 3 && f.stream) {
		feed_data(f.stream, f.channel, n);
		return;
	}
	faulty = true;
	if (f.type == FRAME_DATA || f.type == FRAME_WINDOW)
		wild = true; /* the model knows only those of its own */
	f.length = (uint32_t)MIN(n, sizeof(text));
	if (f.type == FRAME_FIN)
		model[f.stream].fin_fed = true;
	feed_frame(f, text);
}

static void feed_window(uint32_t id, unsigned exponent)
{
	char payload[4];
	uint32_t add = 1u << (exponent & 31);
	frame_put_u32(payload, add);
	faulty = true; /* too much, or nobody's */
	model[id].windows_fed += add;
	feed_frame((struct frame){ .length = 4, .stream = id, .type = FRAME_WINDOW }, payload);
}

static void feed_open(void)
{
	if (next_peer_id >= IDS)
		return;
	feed_frame((struct frame){ .length = 2, .stream = next_peer_id, .type = FRAME_OPEN }, "{}");
	next_peer_id += 2;
}

/* --- owners --- */

static uint32_t id_of(struct stream *s)
{
	return container_of(s, struct mux_stream, s)->id;
}

static void adopt(struct stream *s)
{
	uint32_t id = id_of(s);
	BUG_ON(id >= IDS || model[id].s || model[id].closed);
	model[id].s = s;
	opened++;
	stream_bind(s, &owner_task);
}

static void on_opened(void *arg, struct stream *s, struct slice json)
{
	(void)arg, (void)json;
	if (id_of(s) >= IDS || opened >= STREAMS)
		mux_refuse(s, -ERR_TOO_MANY, "enough");
	else
		adopt(s);
}

static void on_ended(void *arg, int code, const char *why)
{
	(void)arg;
	BUG_ON(ended++ || !why || !wire.closed || mux->count || mux->window_extra || mux->stashed);
	BUG_ON(code == -EPROTO && !faulty);
	if (code == -EPROTO && !wild && mux->fault && strstr(mux->fault, "beyond the window")) {
		bool over = false;
		for (int i = 0; i < IDS; i++)
			over |= model[i].fed > WINDOW_INITIAL + model[i].windows_seen;
		BUG_ON(!over);
	}
	if (free_in_ended) {
		mux_free(mux, code, why);
		mux = NULL;
	}
}

/* A verb of a stream said r. */
static void check_code(struct model *m, ssize_t r)
{
	int code = container_of(m->s, struct mux_stream, s)->code;
	BUG_ON(m->code && (code != m->code || r != code));
	m->code = code;
	BUG_ON(code && r != code);
	BUG_ON(stream_why(m->s, code) == NULL);
}

static void check_got(struct model *m, uint32_t id, const char *p, size_t n, int channel)
{
	for (size_t i = 0; i < n; i++) {
		if (wild)
			return;
		BUG_ON(p[i] != pattern(id, m->got));
		unsigned k = 0;
		while (m->run[k].upto <= m->got)
			k++;
		BUG_ON(channel >= 0 && m->run[k].channel != channel);
		m->got++;
	}
}

static void own_read(struct model *m, uint32_t id, size_t n)
{
	static char piece[PIECE_MAX];
	struct iovec iov[2] = { { piece, n / 3 }, { piece + n / 3, n - n / 3 } };
	if (n == 0)
		return;
	ssize_t r = m->s->ops->read(m->s, iov, 2);
	check_code(m, r < 0 ? r : container_of(m->s, struct mux_stream, s)->code);
	BUG_ON(r > (ssize_t)n || (r < 0 && r != -EAGAIN && r != m->code));
	BUG_ON(m->unreadable && r > 0);
	m->unreadable |= r == 0;
	BUG_ON(r == 0 && !wild && m->got != m->fed);
	if (wild)
		m->got += r > 0 ? (size_t)r : 0;
	else if (r > 0)
		check_got(m, id, piece, (size_t)r, -1);
}

static void own_peek(struct model *m, uint32_t id, size_t n)
{
	struct iovec iov[5];
	int r = m->s->ops->peek(m->s, iov, 1 + (int)(n % ARRAY_LEN(iov)));
	check_code(m, r < 0 ? r : container_of(m->s, struct mux_stream, s)->code);
	BUG_ON(r > (int)ARRAY_LEN(iov) || (r < 0 && r != -EAGAIN && r != m->code));
	size_t took = 0;
	for (int i = 0; i < r; i++) {
		size_t part = MIN(n - took, iov[i].iov_len);
		BUG_ON(iov[i].iov_len == 0);
		if (wild)
			m->got += part;
		else
			check_got(m, id, iov[i].iov_base, part, mux_peeked_channel(m->s));
		took += part;
	}
	if (r > 0)
		m->s->ops->drop(m->s, took);
}

static void put_pattern(struct model *m, uint32_t id, char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		p[i] = pattern(id + IDS, m->wrote + i);
}

static void own_write(struct model *m, uint32_t id, size_t n)
{
	static char piece[PIECE_MAX];
	struct iovec iov[2] = { { piece, n / 2 }, { piece + n / 2, n - n / 2 } };
	put_pattern(m, id, piece, n);
	/* The mux may give a flush of its own the bytes before it says how many it took. */
	ssize_t r = m->s->ops->write(m->s, iov, n ? 2 : 0);
	check_code(m, r < 0 && r != -EPIPE ? r : container_of(m->s, struct mux_stream, s)->code);
	BUG_ON(r > (ssize_t)n);
	m->wrote += r > 0 ? (size_t)r : 0;
}

static void own_room(struct model *m, uint32_t id, size_t n)
{
	struct iovec room;
	int r = m->s->ops->room(m->s, &room);
	if (r < 0)
		return;
	BUG_ON(room.iov_len == 0);
	n = MIN(n, room.iov_len);
	put_pattern(m, id, room.iov_base, n);
	m->s->ops->added(m->s, n);
	m->wrote += n;
}

static void own_to_pipe(struct model *m, uint32_t id, size_t n)
{
	static char piece[PIECE_MAX];
	struct pipe_pair *p = n > 0 ? pipe_get() : NULL;
	if (!p)
		return;
	ssize_t r = m->s->ops->to_pipe(m->s, p->w, n);
	check_code(m, r < 0 && r != -EINVAL ? r : container_of(m->s, struct mux_stream, s)->code);
	BUG_ON(r > (ssize_t)n || (r < 0 && r != -EAGAIN && r != -EINVAL && r != m->code));
	BUG_ON(m->unreadable && r > 0);
	m->unreadable |= r == 0;
	BUG_ON(r == 0 && !wild && m->got != m->fed);
	if (r > 0) {
		pipe_read(p, piece, (size_t)r);
		if (wild)
			m->got += (size_t)r;
		else
			check_got(m, id, piece, (size_t)r, mux_peeked_channel(m->s));
	}
	pipe_put(p, 1);
}

static void own_from_pipe(struct model *m, uint32_t id, size_t n)
{
	static char piece[PIPE_BYTES];
	ssize_t most = m->s->ops->from_pipe(m->s, NULL, 0);
	struct pipe_pair *p = most > 0 ? pipe_get() : NULL;
	BUG_ON(most == 0);
	if (!p || n == 0) {
		pipe_put(p, 1);
		return;
	}
	n = MIN(n, sizeof(piece));
	put_pattern(m, id, piece, n);
	BUG_ON(write(p->w, piece, n) != (ssize_t)n);
	ssize_t r = m->s->ops->from_pipe(m->s, &p, n);
	BUG_ON(r > (ssize_t)n || (r > 0 && !p && r != (ssize_t)n));
	BUG_ON(r < 0 && n <= (size_t)most);
	m->wrote += r > 0 ? (size_t)r : 0;
	pipe_put(p, r == (ssize_t)n);
}

static void own_close(struct model *m, int why, bool refuse)
{
	struct stream *s = m->s;
	m->s = NULL;
	m->closed = true;
	if (refuse)
		mux_refuse(s, -ECONNREFUSED, "dial tcp 127.0.0.1:9: connection refused");
	else
		stream_close(s, why);
}

static void own_control(struct model *m, size_t how)
{
	static char large[3000];
	if (how & 1)
		free(mux_next_control(m->s));
	else if (how & 2)
		mux_control(m->s, slice_of(large, sizeof(large)));
	else
		mux_control(m->s, SLICE("{\"resize\":[80,24]}"));
}

/* The owner that reads all there is whenever it is woken. */
static void owner_run(struct task *t)
{
	(void)t;
	for (uint32_t id = 1; draining && id < IDS; id++) {
		struct model *m = &model[id];
		for (uint64_t before = m->got - 1; m->s && before != m->got;) {
			before = m->got;
			own_peek(m, id, 65535);
		}
	}
}

/* --- turns --- */

static bool over;
static void turn_over(struct task *t)
{
	(void)t;
	over = true;
}

static void turn(void)
{
	struct task t;
	task_init(&t, turn_over);
	task_defer(rx, &t);
	over = false;
	reactor_run_until(rx, &over);
	if (!mux)
		return;
	/* One read of the carrier may be answered frame by frame. */
	BUG_ON(mux->out.prompt.bytes > PROMPT_MAX + 3 * 256 * 1024);
	BUG_ON(mux->out.bulk.bytes > OUT_MAX + 2 * QUANTUM_MAX);
	BUG_ON(mux->stashed > STASH_MAX);
	BUG_ON(mux->ctl.len > FRAME_OTHER_MAX);
}

static void on_stream(enum op op)
{
	uint32_t id = byte() % IDS;
	struct model *m = &model[id];
	size_t arg = op == OWN_SHUT || op == OWN_ACCEPT || op == OWN_REFUSE ? 0
		     : op <= OWN_ROOM || op >= OPS                          ? length()
									    : byte();
	if (!m->s)
		return;
	switch (op) {
	case OWN_WRITE:
		own_write(m, id, arg);
		break;
	case OWN_READ:
		own_read(m, id, arg);
		break;
	case OWN_PEEK:
		own_peek(m, id, arg);
		break;
	case OWN_ROOM:
		own_room(m, id, arg);
		break;
	case OWN_SHUT:
		check_code(m, stream_shut(m->s));
		break;
	case OWN_CLOSE:
		own_close(m, arg % 4 == 1 ? -ETIMEDOUT : 0, false);
		break;
	case OWN_ACCEPT:
		mux_accept(m->s, SLICE("{}"));
		break;
	case OWN_REFUSE:
		own_close(m, 0, true);
		break;
	case OWN_CONTROL:
		own_control(m, arg);
		break;
	case OWN_TO_PIPE:
		own_to_pipe(m, id, arg);
		break;
	case OWN_FROM_PIPE:
		own_from_pipe(m, id, 4 * arg);
		break;
	case OWN_CHANNEL:
		mux_set_channel(m->s, arg % 3);
		break;
	default:
		stream_bind(m->s, arg & 1 ? NULL : &owner_task);
	}
}

static void step(enum op op)
{
	char raw[256];
	size_t n;
	unsigned a;
	switch (op) {
	case FEED_RAW:
		n = byte();
		wild |= n > 0;
		faulty |= wild;
		for (size_t i = 0; i < n; i++)
			raw[i] = (char)byte();
		feed(raw, n);
		break;
	case FEED_FRAME:
		feed_any();
		break;
	case FEED_OPEN:
		feed_open();
		break;
	case FEED_DATA:
		n = byte() % IDS;
		a = byte() % 3;
		feed_data(n ? (uint32_t)n : 1, (uint8_t)a, length());
		break;
	case FEED_WINDOW:
		n = byte() % IDS;
		feed_window(n ? (uint32_t)n : 1, byte());
		break;
	case FEED_END:
		wire.eof = true;
		if (byte() & 1)
			wire.error = -ECONNRESET;
		wire_wake();
		break;
	case CARRIER:
		wire.read_max = (size_t)1 << byte() % 20;
		wire.write_left = ((size_t)1 << byte() % 20) / 2;
		wire_wake();
		break;
	case TURN:
		for (a = 1 + byte() % 4; a > 0; a--)
			turn();
		break;
	case OWN_OPEN:
		if (mux && opened < STREAMS)
			adopt(mux_open(mux, SLICE("{\"kind\":\"x\"}")));
		break;
	case GOAWAY:
		if (mux)
			mux_goaway(mux, "bye");
		break;
	case PIPE_MODE:
		a = byte();
		wire.no_pipe = a % 4 == 1 ? -EINVAL : a % 8 == 2 ? -EOPNOTSUPP : 0;
		break;
	default:
		on_stream(op);
	}
}

/* With a carrier that flows and owners that read, all that was sent arrives. */
static void finish(void)
{
	wire.read_max = wire.write_left = SIZE_MAX;
	wire_wake();
	draining = true;
	for (uint32_t id = 1; id < IDS; id++)
		if (model[id].s)
			stream_bind(model[id].s, &owner_task);
	for (int i = 0; wire.in.len > 0 && mux && !ended && i < 100000; i++)
		turn();
	for (int i = 0; i < 8; i++)
		turn();
	for (uint32_t id = 1; id < IDS; id++) {
		struct model *m = &model[id];
		if (!m->s)
			continue;
		if (!ended && !wild && !container_of(m->s, struct mux_stream, s)->code)
			BUG_ON(m->got != m->fed || m->seen != m->wrote);
		own_close(m, id % 3 ? 0 : -ECONNRESET, false);
	}
	turn();
	BUG_ON(mux && !ended && mux->count != 0);
	if (mux && !ended)
		BUG_ON(mux->window_extra != 0 || mux->stashed != 0 || out_bytes(&mux->out) != 0);
	mux_free(mux, -ERR_CANCELLED, NULL);
	BUG_ON(!wire.closed);
	task_cancel(&owner_task);
	buf_end(&wire.in);
	buf_end(&wire.out);
	for (uint32_t id = 0; id < IDS; id++) /* the runs need no clearing */
		memset(&model[id], 0, offsetof(struct model, run));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!rx) {
		rx = reactor_new();
		task_init(&owner_task, owner_run);
	}
	if (size > 8192)
		return 0;
	in = data;
	in_left = size;
	for (uint32_t id = 0; id < IDS; id++) {
		model[id].nruns = 0;
		model[id].code = 0;
		model[id].out_opened = model[id].out_fin = model[id].out_reset = false;
		model[id].closed = model[id].unreadable = model[id].fin_fed = false;
	}
	unsigned how = byte();
	client = how & 1;
	free_in_ended = how & 2;
	next_peer_id = client ? 2 : 1;
	draining = wild = faulty = settings_seen = false;
	ended = opened = 0;
	wire = (struct wire){ .s = { .ops = how & 16 ? &pipe_ops : &wire_ops, .rx = rx },
			      .read_max = SIZE_MAX,
			      .write_left = SIZE_MAX };
	buf_init(&wire.in, WIRE_MAX);
	buf_init(&wire.out, 2 * FRAME_DATA_MAX);
	mux = mux_new(rx, &wire.s, how & 4 ? SLICE("\0\0\0\2\0\0\0\0\0\0\0\0{}") : SLICE(""),
		      &(struct mux_options){ .client = client,
					     .max_streams = 12,
					     .opened = how & 8 ? NULL : on_opened,
					     .ended = on_ended });
	if (!(how & 4))
		feed_frame((struct frame){ .length = 2, .type = FRAME_SETTINGS }, "{}");
	while (in_left > 0) {
		unsigned op = byte();
		step(op >= OWN_TO_PIPE && op <= PIPE_MODE ? op : op % OPS);
	}
	finish();
	return 0;
}
