/* The carrier of a mux: reading frames, flushing, keepalive, the end. */
#include "proto/tstunnel/mux.h"

#include <errno.h>
#include <time.h>

#include "json/json.h"
#include "proto/tstunnel/mux_int.h"
#include "reactor/err.h"
#include "reactor/log.h"

enum {
	READ_AT = 2 * FRAME_HEADER, /* room before the bytes read: a cut header, a segment's link */
	READ_BLOCK = 256 * 1024,
	KEEPALIVE_MS = 4000,
	SETTLE_MS = 60000,
	CLOSING_MS = 2000,
	PACE_MS = 4,
	STREAMS_MAX = 16384,
	TABLE_KEEP = 1024 /* slots that may stay when no stream is open */
};

static uint64_t clock_us(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

void mux_send(struct mux *m, const struct frame *f, const char *payload)
{
	out_frame(&m->out, f, payload);
	task_defer(m->rx, &m->flush_task);
}

/* --- the end --- */

/* Fails every stream and lets the transport go. The mux itself stays until mux_free. */
static void tear_down(struct mux *m, int code, const char *why)
{
	while (m->count > 0) {
		for (uint32_t i = 0; i < m->table_size; i++)
			while (m->table[i])
				mux_stream_fail(m->table[i], code < 0 ? code : -ECONNRESET, why);
	}
	task_cancel(&m->task);
	task_cancel(&m->flush_task);
	task_cancel(&m->offer.task);
	timer_clear(m->rx, &m->timer);
	if (code == 0 && !m->closing)
		out_flush(&m->out, m->transport);
	stream_close(m->transport, code);
	m->transport = NULL;
}

/* Only in tail position: the owner may free the mux in ended(). */
static void mux_end(struct mux *m, int code, const char *why)
{
	char text[512];
	snprintf(text, sizeof(text), "%s", why ? why : err_text(code));
	tear_down(m, code, text);
	if (m->opt.ended)
		m->opt.ended(m->opt.arg, code, text);
}

void mux_free(struct mux *m, int code, const char *why)
{
	if (!m)
		return;
	if (m->transport)
		tear_down(m, code, why);
	out_end(&m->out);
	buf_end(&m->ctl);
	block_put(m->block, m->block_cap);
	free(m->table);
	free(m);
}

static bool drained(const struct mux *m)
{
	return (m->goaway_sent || m->stats.goaway) && m->count == 0;
}

void mux_stream_gone(struct mux *m)
{
	if (m->count == 0 && m->table_size > TABLE_KEEP) {
		free(m->table);
		m->table = NULL;
		m->table_size = 0;
	}
	if (m->goaway_sent || m->stats.goaway)
		task_defer(m->rx, &m->flush_task);
}

/* --- writing --- */

/* Gives waiting streams their turns while there is room. */
static void wake_waiting(struct mux *m)
{
	size_t queued = m->out.bulk.bytes + m->out.wire.bytes;
	bool woken = false;
	while (queued < OUT_MAX && !list_empty(&m->waiting)) {
		struct mux_stream *s =
		    container_of(list_pop(&m->waiting), struct mux_stream, wait_link);
		s->turn_left = (uint32_t)m->quantum;
		s->recent_ms =
		    (uint32_t)reactor_now(m->rx); /* who waits has not become interactive by it */
		queued += m->quantum;
		mux_stream_wake(s);
		woken = true;
	}
	/* Come back even if none of them had anything to say: the next ones wait. */
	if (woken)
		task_defer(m->rx, &m->flush_task);
}

/* Closing over bytes that the peer still sends would reset the connection and with it our last
 * words, so its end of stream is waited for. */
static void close_in_order(struct mux *m)
{
	int r = stream_shut(m->transport);
	if (r < 0 && r != -EAGAIN) {
		mux_end(m, r, stream_why(m->transport, r));
		return;
	}
	if (!m->closing)
		timer_set(m->rx, &m->timer, CLOSING_MS);
	m->closing = true;
}

/* A turn is long where the carrier is fast: large frames cost less, and others wait only PACE_MS
 * longer for it. */
static void pace(struct mux *m)
{
	uint64_t ms = reactor_now(m->rx) - m->paced_ms;
	if (ms < 2 * PACE_MS)
		return;
	size_t fast = (size_t)((m->out.sent - m->paced_sent) / ms * PACE_MS);
	m->quantum = MIN(MAX(fast, (size_t)QUANTUM), (size_t)QUANTUM_MAX);
	m->paced_ms += ms;
	m->paced_sent = m->out.sent;
}

static void flush_run(struct task *t)
{
	struct mux *m = container_of(t, struct mux, flush_task);
	bool was_full = m->out.prompt.bytes >= PROMPT_MAX;
	int r = out_flush(&m->out, m->transport);
	if (r < 0 && r != -EAGAIN) {
		mux_end(m, r, stream_why(m->transport, r));
		return;
	}
	if (drained(m) && out_bytes(&m->out) == 0) {
		close_in_order(m);
		return;
	}
	pace(m);
	wake_waiting(m);
	if (was_full && m->out.prompt.bytes < PROMPT_MAX)
		task_wake(m->rx, &m->task);
}

/* --- reading --- */

static int fault(struct mux *m, const char *why)
{
	m->fault = why;
	return -EPROTO;
}

static bool is_ours(const struct mux *m, uint32_t id)
{
	return (id & 1) == (m->opt.client ? 1 : 0);
}

/* The stream that a frame other than OPEN is about: NULL (and 0) when it was closed meanwhile. */
static int frame_stream(struct mux *m, const struct frame *f, struct mux_stream **s)
{
	*s = mux_stream_find(m, f->stream);
	if (*s && (*s)->reset)
		*s = NULL;
	if (!*s && (is_ours(m, f->stream) ? f->stream >= m->next_id : f->stream > m->last_peer_id))
		return fault(m, "frame for a stream that was never opened");
	return 0;
}

static int on_open(struct mux *m, const struct frame *f, struct slice payload)
{
	if (is_ours(m, f->stream) || f->stream <= m->last_peer_id || f->stream > INT32_MAX)
		return fault(m, "OPEN with a used or wrong stream number");
	m->last_peer_id = f->stream;
	struct mux_stream *s = mux_stream_new(m, f->stream, true);
	if (m->goaway_sent)
		mux_refuse(&s->s, -ERR_CANCELLED, "shutting down");
	else if (m->peer_count > m->opt.max_streams)
		mux_refuse(&s->s, -ERR_TOO_MANY, "too many streams");
	else if (!m->opt.opened)
		mux_refuse(&s->s, -ERR_DENIED, "this side accepts no streams");
	else
		m->opt.opened(m->opt.arg, &s->s, payload);
	return 0;
}

static int on_fin(struct mux *m, struct mux_stream *s, uint8_t flags)
{
	if (s->fin_got && (s->peer_stopped || !(flags & FRAME_FIN_STOP)))
		return fault(m, "second FIN");
	s->fin_got = true;
	if (flags & FRAME_FIN_STOP)
		s->peer_stopped = true;
	mux_stream_wake(s);
	return 0;
}

static int on_window(struct mux *m, struct mux_stream *s, uint32_t add)
{
	if (add > (uint32_t)(INT32_MAX - s->credit))
		return fault(m, "window overflow");
	bool was_blocked = s->credit <= 0;
	s->credit += (int32_t)add;
	if (was_blocked)
		mux_stream_wake(s);
	return 0;
}

static void on_control(struct mux_stream *s, struct slice payload)
{
	struct mux_extra *x = mux_stream_extra(s);
	size_t cost = payload.n + CONTROL_COST;
	if (x->controls_bytes > 0 && x->controls_bytes + cost > CONTROLS_MAX) {
		mux_stream_reset(s, -ERR_TOO_MANY, "too many CONTROL messages");
		return;
	}
	struct control_msg *c = xcalloc(1, sizeof(*c));
	c->cost = cost;
	c->text = xslicedup(payload);
	list_add_tail(&x->controls, &c->link);
	x->controls_bytes += cost;
	mux_stream_wake(s);
}

static void on_reset(struct mux_stream *s, struct slice payload)
{
	int code = reset_to_err(frame_get_u32(payload.p));
	struct slice text = slice_after(payload, 4);
	char *why = text.n ? xslicedup(text) : NULL;
	for (size_t i = 0; i < text.n; i++) /* it will meet a terminal */
		if ((unsigned char)why[i] < ' ' || why[i] == 0x7f)
			why[i] = '?';
	s->reset = true;
	mux_stream_fail(s, code, why);
	free(why);
}

static void on_pong(struct mux *m, struct slice payload)
{
	uint64_t sent;
	memcpy(&sent, payload.p, sizeof(sent));
	uint64_t now = clock_us();
	if (sent <= now)
		m->stats.rtt_us = MAX(now - sent, 1);
}

static int on_stream_frame(struct mux *m, const struct frame *f, struct slice payload)
{
	struct mux_stream *s;
	int r = frame_stream(m, f, &s);
	if (r < 0 || !s)
		return r;
	switch ((enum frame_type)f->type) {
	case FRAME_OPENED:
		if (s->by_peer || s->accepted)
			return fault(m, "OPENED twice or for a stream of the wrong side");
		s->accepted = true;
		if (payload.n) /* a forward's has none, and there may be thousands */
			mux_stream_extra(s)->opened_json = xslicedup(payload);
		mux_stream_wake(s);
		return 0;
	case FRAME_WINDOW:
		return on_window(m, s, frame_get_u32(payload.p));
	case FRAME_FIN:
		return on_fin(m, s, f->flags);
	case FRAME_RESET:
		on_reset(s, payload);
		return 0;
	default:
		on_control(s, payload);
		return 0;
	}
}

static bool is_json_object(struct slice text)
{
	struct json_doc *doc = json_parse(text, NULL, NULL);
	bool object = doc && json_root(doc)->type == JSON_OBJECT;
	json_free(doc);
	return object;
}

/* A whole frame that is not DATA. */
static int on_frame(struct mux *m, const struct frame *f, struct slice payload)
{
	if (!m->stats.settled && f->type != FRAME_SETTINGS)
		return fault(m, "the first frame is not SETTINGS");
	switch ((enum frame_type)f->type) {
	case FRAME_SETTINGS:
		if (m->stats.settled)
			return fault(m, "SETTINGS twice");
		if (!is_json_object(payload))
			return fault(m, "SETTINGS is no JSON object");
		m->stats.settled = true;
		mux_offer_settled(m);
		timer_set(m->rx, &m->timer, m->opt.keepalive_ms);
		log_debug("mux peer settings=%s", log_quote(payload));
		if (m->opt.settled)
			m->opt.settled(m->opt.arg);
		return 0;
	case FRAME_OPEN:
		return on_open(m, f, payload);
	case FRAME_PING:
		mux_send(m, &(struct frame){ .length = 8, .type = FRAME_PONG }, payload.p);
		return 0;
	case FRAME_PONG:
		on_pong(m, payload);
		return 0;
	case FRAME_GOAWAY:
		m->stats.goaway = true;
		task_defer(m->rx, &m->flush_task);
		if (m->opt.goaway)
			m->opt.goaway(m->opt.arg);
		return 0;
	default:
		return on_stream_frame(m, f, payload);
	}
}

static int data_begin(struct mux *m)
{
	const struct frame *f = &m->cur;
	if (!m->stats.settled)
		return fault(m, "the first frame is not SETTINGS");
	int r = frame_stream(m, f, &m->cur_stream);
	struct mux_stream *s = m->cur_stream;
	if (r < 0 || !s)
		return r;
	if (s->fin_got)
		return fault(m, "DATA after FIN");
	if (f->length > s->recv_credit)
		return fault(m, "DATA beyond the window");
	s->recv_credit -= f->length;
	m->stats.bytes_in += f->length;
	if (s->splices && f->length >= SPLICE_LEAST)
		mux_offer_next(m);
	return 0;
}

static void data_part(struct mux *m, char *p, size_t n)
{
	if (m->cur_stream && n > 0)
		mux_stream_lend(m->cur_stream, p, n, m->cur.channel);
}

/* Takes the next part of the current frame's payload. */
static int payload_part(struct mux *m, char *p, size_t n)
{
	m->cur_left -= n;
	if (m->cur.type == FRAME_DATA) {
		data_part(m, p, n);
		return 0;
	}
	if (n == m->cur.length)
		return on_frame(m, &m->cur, slice_of(p, n));
	int r = buf_put(&m->ctl, slice_of(p, n));
	BUG_ON(r < 0);
	if (m->cur_left > 0)
		return 0;
	r = on_frame(m, &m->cur, buf_data(&m->ctl));
	buf_end(&m->ctl);
	return r;
}

/* Bytes of the carrier, inside m->block with FRAME_HEADER bytes to spare before them. */
static int parse(struct mux *m, char *p, size_t n)
{
	while (n > 0) {
		if (m->cur_left == 0) {
			if (n < FRAME_HEADER) {
				memcpy(m->partial, p, n);
				m->partial_len = n;
				return 0;
			}
			int r = frame_get(&m->cur, p, &m->fault);
			if (r < 0)
				return r;
			p += FRAME_HEADER;
			n -= FRAME_HEADER;
			m->cur_left = m->cur.length;
			if (m->cur.type == FRAME_DATA && (r = data_begin(m)) < 0)
				return r;
			if (m->cur.length == 0 && m->cur.type != FRAME_DATA &&
			    (r = on_frame(m, &m->cur, slice_of(p, 0))) < 0)
				return r;
			continue;
		}
		size_t part = MIN(n, m->cur_left);
		int r = payload_part(m, p, part);
		if (r < 0)
			return r;
		p += part;
		n -= part;
	}
	return 0;
}

/* Reads once into the block: the count, 0 at the end, or a code. */
static ssize_t fill(struct mux *m, char **at)
{
	if (!m->block) {
		m->block_cap = READ_BLOCK;
		m->block = block_get(&m->block_cap);
	}
	if (m->offer.ended)
		return MIN(m->offer.code, 0);
	ssize_t n = (ssize_t)m->early; /* came with the handshake, in the block already */
	m->early = 0;
	if (n == 0)
		n = stream_read(m->transport, m->block + READ_AT,
				mux_offer_room(m, m->block_cap - READ_AT));
	if (n <= 0)
		return n;
	*at = m->block + READ_AT - m->partial_len;
	memcpy(*at, m->partial, m->partial_len);
	n += (ssize_t)m->partial_len;
	m->partial_len = 0;
	return n;
}

static void settle(struct mux *m)
{
	struct list *l;
	while ((l = list_pop(&m->borrowers))) {
		struct mux_stream *s = container_of(l, struct mux_stream, borrow_link);
		mux_stream_settle(s);
		if (m->stashed > STASH_MAX)
			mux_stream_reset(s, -ERR_TOO_MANY, "too much unread data on this carrier");
	}
}

static void mux_protocol_error(struct mux *m, int code)
{
	char why[256];
	snprintf(why, sizeof(why), "tunnel protocol error: %s", m->fault ? m->fault : "bad frame");
	mux_end(m, code, why);
}

/* The far side has said its last word. Streams that have theirs need us no more. */
static void release_complete(struct mux *m)
{
	for (uint32_t i = 0; i < m->table_size; i++) {
		for (struct mux_stream *s = m->table[i], *next; s; s = next) {
			next = s->hash_next;
			mux_stream_orphan(s);
		}
	}
}

static void mux_run(struct task *t)
{
	struct mux *m = container_of(t, struct mux, task);
	if (out_bytes(&m->out) > 0 || m->closing)
		task_defer(m->rx, &m->flush_task);
	if (m->out.prompt.bytes >= PROMPT_MAX)
		return; /* the peer sends but does not read: flush_run wakes us */
	if (mux_offer(m))
		return;
	settle(m);

	char *p = NULL;
	ssize_t n = fill(m, &p);
	if (n > 0) {
		m->last_rx_ms = reactor_now(m->rx);
		m->pinged = false;
		int r = m->closing ? 0 : parse(m, p, (size_t)n);
		if (r < 0)
			mux_protocol_error(m, r);
		else if (!mux_offer(m))
			task_wake(m->rx, &m->task); /* behind the streams that were just woken */
		return;
	}
	if (list_empty(&m->borrowers)) {
		block_put(m->block, m->block_cap);
		m->block = NULL;
	}
	if (n == 0)
		release_complete(m);
	if (n == 0)
		mux_end(m, drained(m) ? 0 : -ECONNRESET, "the tunnel was closed by the far side");
	else if (n != -EAGAIN)
		mux_end(m, m->closing ? 0 : (int)n, stream_why(m->transport, (int)n));
}

/* --- keepalive --- */

static void send_ping(struct mux *m)
{
	char payload[8];
	uint64_t now = clock_us();
	memcpy(payload, &now, sizeof(now));
	m->ping_ms = reactor_now(m->rx);
	m->pinged = true;
	mux_send(m, &(struct frame){ .length = 8, .type = FRAME_PING }, payload);
}

/* While the transport connects it has a deadline of its own; then SETTINGS must follow soon. */
static void keepalive(struct timer *t)
{
	struct mux *m = container_of(t, struct mux, timer);
	uint64_t k = m->stats.settled ? m->opt.keepalive_ms : SETTLE_MS;
	uint64_t now = reactor_now(m->rx), quiet = now - m->last_rx_ms;
	if (m->closing) {
		mux_end(m, 0, "closed by agreement");
	} else if (quiet < k) {
		timer_set(m->rx, &m->timer, k - quiet);
	} else if (!m->pinged) {
		send_ping(m);
		timer_set(m->rx, &m->timer, k);
	} else if (now - m->ping_ms < k) {
		timer_set(m->rx, &m->timer, k - (now - m->ping_ms));
	} else {
		mux_end(m, -ETIMEDOUT, "the tunnel's far side no longer answers (keepalive)");
	}
}

/* --- the rest --- */

static void send_settings(struct mux *m)
{
	char json[256];
	int n =
	    snprintf(json, sizeof(json), "{\"version\":1,\"program\":\"%s\",\"max_streams\":%u}",
		     m->opt.program ? m->opt.program : "tstunnel", m->opt.max_streams);
	BUG_ON(n < 0 || (size_t)n >= sizeof(json));
	mux_send(m, &(struct frame){ .length = (uint32_t)n, .type = FRAME_SETTINGS }, json);
}

struct mux *mux_new(struct reactor *rx, struct stream *transport, struct slice early,
		    const struct mux_options *opt)
{
	struct mux *m = xcalloc(1, sizeof(*m));
	m->rx = rx;
	m->transport = transport;
	m->opt = *opt;
	if (!m->opt.keepalive_ms)
		m->opt.keepalive_ms = KEEPALIVE_MS;
	if (!m->opt.max_streams)
		m->opt.max_streams = STREAMS_MAX;
	m->next_id = m->opt.client ? 1 : 2;
	m->last_rx_ms = reactor_now(rx);
	m->quantum = QUANTUM;
	m->paced_ms = m->last_rx_ms;
	list_init(&m->borrowers);
	list_init(&m->waiting);
	mux_offer_init(m);
	buf_init(&m->ctl, FRAME_OTHER_MAX);
	task_init(&m->task, mux_run);
	task_init(&m->flush_task, flush_run);
	timer_init(&m->timer, keepalive);
	timer_set(rx, &m->timer, m->opt.keepalive_ms);
	stream_bind(transport, &m->task);
	send_settings(m);
	send_ping(m);
	if (early.n > 0) {
		m->block_cap = READ_BLOCK;
		m->block = block_get(&m->block_cap);
		BUG_ON(early.n > m->block_cap - READ_AT);
		memcpy(m->block + READ_AT, early.p, early.n);
		m->early = early.n;
	}
	task_wake(rx, &m->task);
	return m;
}

struct stream *mux_open(struct mux *m, struct slice json)
{
	BUG_ON(json.n > FRAME_OTHER_MAX);
	struct mux_stream *s = mux_stream_new(m, m->next_id, false);
	m->next_id += 2;
	if (!m->transport || m->stats.goaway || m->goaway_sent || m->next_id > INT32_MAX) {
		s->reset = true; /* the peer never hears of it */
		mux_stream_fail(s, -ERR_GOAWAY, "the far side is shutting down");
		return &s->s;
	}
	mux_send(m,
		 &(struct frame){ .length = (uint32_t)json.n, .stream = s->id, .type = FRAME_OPEN },
		 json.p);
	return &s->s;
}

void mux_goaway(struct mux *m, const char *text)
{
	if (m->goaway_sent || m->closing || !m->transport)
		return;
	char payload[4 + FRAME_TEXT_MAX];
	size_t n = text ? MIN(strlen(text), (size_t)FRAME_TEXT_MAX) : 0;
	frame_put_u32(payload, m->last_peer_id);
	if (n)
		memcpy(payload + 4, text, n);
	mux_send(m, &(struct frame){ .length = (uint32_t)(4 + n), .type = FRAME_GOAWAY }, payload);
	m->goaway_sent = true;
}

const struct mux_stats *mux_stats(const struct mux *m)
{
	return &m->stats;
}
