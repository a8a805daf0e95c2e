/*
 * A client that is ready, in the clear, with channels; the server says well-formed or broken things
 * about them, the owners use the streams in any order.
 *
 * Held against a model: bytes come out in order on their stream; the client sends no more than the
 * windows let it, no packet that is too large, nothing after its EOF or CLOSE, one CLOSE; windows
 * bound what is kept; exited comes once; who failed stays failed.
 */
#include "fuzz/ssh_peer.h"

enum { CHANNELS = 6, PIECE = 70000 };

enum op {
	OWN_EXEC = 0,
	OWN_WRITE, /* channel, length (2) */
	OWN_ROOM,
	OWN_READ,
	OWN_READ_ERR,
	OWN_PEEK,
	OWN_SHUT, /* channel */
	OWN_CLOSE,
	OWN_CLOSE_ERR,
	OWN_FREE,
	TURN,
	SPEED,
	SAY_CONFIRM, /* channel, window and packet exponents */
	SAY_REFUSE,
	SAY_DATA, /* channel, length (2) */
	SAY_ERR,
	SAY_ADJUST, /* channel, exponent */
	SAY_EOF,
	SAY_CLOSE,
	SAY_ANSWER,
	SAY_EXIT,
	SAY_RAW, /* count, bytes */
	KEX,     /* the client holds what it sends, or no longer */
	END,
	OPS
};

static struct model {
	struct ssh_channel *ch;
	struct stream *io, *err;
	bool used, opened, eof_seen, close_seen, close_said, eof_said, exited, said_ok;
	uint64_t fed, got, err_fed, err_got, wrote, seen, granted;
	uint64_t window; /* what the client granted */
	uint32_t max;
	int code;
} model[CHANNELS];

static struct reactor *rx;
static struct ssh_client *c;
static struct task nobody;
static const uint8_t *in;
static size_t in_left;
static unsigned failed;
static bool over, faulty, wild;

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
	return n | byte();
}

static char pattern(size_t id, uint64_t at)
{
	return (char)(id * 31 + at * 7 + (at >> 8));
}

static void on_failed(void *arg, int code, const char *why)
{
	(void)arg;
	BUG_ON(failed++ || code >= 0 || !why);
	BUG_ON(code == -EPROTO && !faulty);
}

static void on_ended(void *arg, const struct ssh_exit *e)
{
	struct model *m = arg;
	BUG_ON(m->exited || !m->ch || (e->code && !e->why) || (e->signal && !e->why));
	m->exited = true;
}

static void nothing(struct task *t)
{
	(void)t;
}

static void turn_over(struct task *t)
{
	(void)t;
	over = true;
}

/* --- what the client says --- */

static void take(void)
{
	static char p[PACKET_MAX];
	size_t n;
	while ((n = peer_take(p, sizeof(p))) > 0) {
		struct ssh_wire_in w = { slice_of(p, n), false };
		uint8_t type = ssh_wire_u8(&w);
		uint32_t id = ssh_wire_u32(&w);
		struct model *m = id >= 100 && id < 100 + CHANNELS ? &model[id - 100] : NULL;
		if (type < MSG_CHANNEL_WINDOW_ADJUST || wild)
			continue;
		BUG_ON(!m || m->close_seen); /* 100 + n is how we call channel n */
		switch (type) {
		case MSG_CHANNEL_DATA: {
			struct slice d = ssh_wire_string(&w);
			BUG_ON(!ssh_wire_end(&w) || d.n == 0 || m->eof_seen || d.n > m->max);
			for (size_t i = 0; i < d.n; i++)
				BUG_ON(d.p[i] != pattern(id, m->seen + i));
			m->seen += d.n;
			BUG_ON(m->seen > m->granted || m->seen > m->wrote);
			break;
		}
		case MSG_CHANNEL_WINDOW_ADJUST:
			m->window += ssh_wire_u32(&w);
			BUG_ON(!ssh_wire_end(&w));
			break;
		case MSG_CHANNEL_EOF:
			BUG_ON(m->eof_seen);
			m->eof_seen = true;
			break;
		case MSG_CHANNEL_CLOSE:
			m->close_seen = true;
			break;
		}
	}
}

static void turn(void)
{
	struct task t;
	task_init(&t, turn_over);
	task_defer(rx, &t);
	over = false;
	reactor_run_until(rx, &over);
	take();
	BUG_ON(c->in.len > IN_MAX || c->held.len > HELD_MAX || c->out.len > OUT_MAX);
}

/* --- what the server says --- */

static void say(uint8_t type, uint32_t id, const uint32_t *numbers, unsigned n, struct slice text,
		bool with_text)
{
	static char p[PIECE + 100];
	struct ssh_wire_out w = { p, 0, sizeof(p) };
	put_u8(&w, type);
	put_u32(&w, id);
	for (unsigned i = 0; i < n; i++)
		put_u32(&w, numbers[i]);
	if (with_text)
		put_string(&w, text);
	peer_send(ssh_wire_written(&w));
}

static bool live(size_t id)
{
	return model[id].opened && !model[id].close_said;
}

static void say_data(size_t id, bool err, size_t n)
{
	static char p[65536];
	struct model *m = &model[id];
	if (!live(id) || m->eof_said || m->window < n) {
		if (!(n & 1)) /* mostly we keep the rules */
			return;
		faulty = wild = true;
	}
	uint64_t *fed = err ? &m->err_fed : &m->fed;
	for (size_t i = 0; i < n; i++)
		p[i] = pattern(id + (err ? 50 : 0), *fed + i);
	*fed += n;
	m->window -= n;
	say(err ? MSG_CHANNEL_EXTENDED_DATA : MSG_CHANNEL_DATA, (uint32_t)id,
	    (const uint32_t[]){ 1 }, err, slice_of(p, n), true);
}

static void server(enum op op, size_t id, size_t arg)
{
	struct model *m = &model[id];
	uint32_t numbers[3];
	char raw[256];
	if (op == SAY_CONFIRM || op == SAY_REFUSE)
		faulty = wild |= !m->used || m->opened || m->close_said || !c ||
				 (m->ch && m->ch->state != CHANNEL_OPENING);
	else
		faulty |= !live(id);
	wild |= faulty;
	switch (op) {
	case SAY_CONFIRM:
		numbers[0] = (uint32_t)(100 + id);
		numbers[1] = 1u << (arg >> 8) % 24;
		numbers[2] = 256u << (arg & 255) % 8;
		m->opened = true;
		m->granted = numbers[1];
		m->max = MIN(numbers[2], (uint32_t)DATA_MAX);
		m->window = SSH_WINDOW;
		say(MSG_CHANNEL_OPEN_CONFIRMATION, (uint32_t)id, numbers, 3, SLICE(""), false);
		break;
	case SAY_REFUSE:
		m->close_said = true;
		numbers[0] = (uint32_t)arg;
		say(MSG_CHANNEL_OPEN_FAILURE, (uint32_t)id, numbers, 1, SLICE("no\33"), true);
		break;
	case SAY_DATA:
		say_data(id, false, arg);
		break;
	case SAY_ERR:
		say_data(id, true, arg);
		break;
	case SAY_ADJUST:
		numbers[0] = 1u << arg % 32;
		if (m->granted + numbers[0] > UINT32_MAX)
			faulty = wild = true;
		m->granted += numbers[0];
		say(MSG_CHANNEL_WINDOW_ADJUST, (uint32_t)id, numbers, 1, SLICE(""), false);
		break;
	case SAY_EOF:
		m->eof_said = true;
		say(MSG_CHANNEL_EOF, (uint32_t)id, NULL, 0, SLICE(""), false);
		break;
	case SAY_CLOSE:
		m->close_said = true;
		say(MSG_CHANNEL_CLOSE, (uint32_t)id, NULL, 0, SLICE(""), false);
		break;
	case SAY_ANSWER:
		faulty = wild |= m->said_ok;
		m->said_ok = true;
		say(arg & 1 ? MSG_CHANNEL_SUCCESS : MSG_CHANNEL_FAILURE, (uint32_t)id, NULL, 0,
		    SLICE(""), false);
		break;
	case SAY_EXIT:
		faulty = wild = true; /* the second one is a fault */
		if (arg & 1)
			peer_send(slice_of("\142\0\0\0\0\0\0\0\13exit-status\0\0\0\0\7", 25));
		else
			peer_send(
			    slice_of("\142\0\0\0\0\0\0\0\13exit-signal\0\0\0\0\4TERM\0\0\0\0\1x\0\0"
				     "\0\0",
				     38));
		break;
	default:
		faulty = wild = true;
		for (size_t i = 0; i < arg % 256; i++)
			raw[i] = (char)byte();
		peer_send(slice_of(raw, arg % 256));
	}
}

/* --- owners --- */

static void check_got(size_t id, bool err, const char *p, size_t n)
{
	struct model *m = &model[id];
	uint64_t *got = err ? &m->err_got : &m->got;
	for (size_t i = 0; i < n && !wild; i++)
		BUG_ON(p[i] != pattern(id + (err ? 50 : 0), *got + i));
	*got += n;
	BUG_ON(!wild && *got > (err ? m->err_fed : m->fed));
}

static void check_code(struct model *m, ssize_t r)
{
	BUG_ON(r < 0 && r != -EAGAIN && r != -EPIPE && m->ch && r != m->ch->code);
	BUG_ON(m->code && m->ch && m->ch->code != m->code);
	m->code = m->ch ? m->ch->code : m->code;
}

static void own(enum op op, size_t id, size_t arg)
{
	static char p[PIECE];
	struct model *m = &model[id];
	struct iovec iov[3];
	ssize_t r;
	if (op == OWN_EXEC) {
		if (m->used || (id > 0 && !model[id - 1].used))
			return;
		m->used = true;
		m->ch = ssh_exec(
		    c, &(struct ssh_exec){ .command = arg & 1 ? "cmd" : NULL,
					   .env = (const char *const[]){ "A=1", "x", NULL },
					   .exited = on_ended,
					   .arg = m });
		if (!(arg & 2))
			m->io = ssh_channel_stdio(m->ch);
		if (!(arg & 4))
			m->err = ssh_channel_stderr(m->ch);
		if (m->io && arg & 8)
			stream_bind(m->io, &nobody);
		return;
	}
	if (op == OWN_FREE && m->ch) {
		ssh_channel_free(m->ch);
		m->ch = NULL;
		return;
	}
	if (op == OWN_CLOSE_ERR || op == OWN_READ_ERR) {
		if (!m->err)
			return;
		if (op == OWN_CLOSE_ERR) {
			stream_close(m->err, 0);
			m->err = NULL;
			return;
		}
		r = stream_read(m->err, p, arg + 1);
		check_code(m, r);
		if (r > 0)
			check_got(id, true, p, (size_t)r);
		return;
	}
	if (!m->io)
		return;
	switch (op) {
	case OWN_WRITE:
		for (size_t i = 0; i < arg; i++)
			p[i] = pattern(100 + id, m->wrote + i);
		iov[0] = (struct iovec){ p, arg / 3 };
		iov[1] = (struct iovec){ p, 0 };
		iov[2] = (struct iovec){ p + arg / 3, arg - arg / 3 };
		r = m->io->ops->write(m->io, iov, 3);
		check_code(m, r);
		BUG_ON(r > (ssize_t)arg);
		m->wrote += r > 0 ? (size_t)r : 0;
		break;
	case OWN_ROOM:
		r = m->io->ops->room(m->io, iov);
		check_code(m, r);
		if (r < 0)
			break;
		BUG_ON(iov[0].iov_len == 0);
		arg = MIN(arg, iov[0].iov_len);
		for (size_t i = 0; i < arg; i++)
			((char *)iov[0].iov_base)[i] = pattern(100 + id, m->wrote + i);
		m->io->ops->added(m->io, arg);
		m->wrote += arg;
		break;
	case OWN_READ:
		r = stream_read(m->io, p, arg + 1);
		check_code(m, r);
		if (r > 0)
			check_got(id, false, p, (size_t)r);
		break;
	case OWN_PEEK:
		r = m->io->ops->peek(m->io, iov, 1);
		check_code(m, r);
		if (r == 1) {
			BUG_ON(iov[0].iov_len == 0);
			arg = MIN(arg, iov[0].iov_len);
			check_got(id, false, iov[0].iov_base, arg);
			m->io->ops->drop(m->io, arg);
		}
		break;
	case OWN_SHUT:
		check_code(m, stream_shut(m->io));
		break;
	default:
		stream_close(m->io, arg & 1 ? -ECONNRESET : 0);
		m->io = NULL;
	}
}

static void step(unsigned op)
{
	size_t id, arg;
	switch (op) {
	case TURN:
		for (id = 1 + byte() % 3; id > 0; id--)
			turn();
		break;
	case SPEED:
		peer.read_max = (size_t)1 << byte() % 18;
		peer.write_left = ((size_t)1 << byte() % 18) / 2;
		peer_wake();
		break;
	case KEX: /* as if an exchange were going on; its messages are ssh_kex's subject */
		if (c->state != CLIENT_OPEN)
			break;
		if (c->kex.state == KEX_IDLE) {
			c->kex.state = KEX_ASKED;
		} else {
			c->kex.state = KEX_IDLE;
			client_release(c);
		}
		break;
	case END:
		peer.eof = true;
		if (byte() & 1)
			peer.error = -ECONNRESET;
		peer_wake();
		break;
	default:
		id = byte() % CHANNELS;
		arg = length();
		if (op < TURN)
			own(op, id, arg);
		else
			server(op, id, arg);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!rx) {
		rx = reactor_new();
		task_init(&nobody, nothing);
	}
	if (size > 1500)
		return 0;
	in = data;
	in_left = size;
	failed = 0;
	faulty = wild = false;
	memset(model, 0, sizeof(model));
	peer_init(rx);
	c = ssh_client_new(rx, &peer.s, &(struct ssh_options){ .user = "u", .failed = on_failed });
	/* All that comes before is over. */
	c->state = CLIENT_KEX;
	c->kex.state = KEX_IDLE;
	c->kex.done = 1;
	static const struct host_alg *alg;
	alg = host_alg_find(SLICE("ssh-ed25519"));
	c->kex.agreed.host_alg = alg;
	c->kex.agreed.cipher[0] = c->send.cipher.suite;
	c->recv.seq = c->send.seq = 0;
	buf_drop(&c->out, c->out.len);
	client_opened(c);
	while (in_left > 0)
		step(byte() % OPS);
	peer.read_max = peer.write_left = SIZE_MAX;
	if (c->state == CLIENT_OPEN && c->kex.state == KEX_ASKED) {
		c->kex.state = KEX_IDLE;
		client_release(c);
	}
	peer_wake();
	for (int i = 0; i < 100 && peer.to_client.len > 0 && !failed; i++)
		turn();
	turn();
	turn();
	for (size_t id = 0; id < CHANNELS; id++) {
		struct model *m = &model[id];
		for (uint64_t before = m->got - 1; m->io && before != m->got;) {
			before = m->got;
			own(OWN_READ, id, PIECE - 1);
		}
		for (uint64_t before = m->err_got - 1; m->err && before != m->err_got;) {
			before = m->err_got;
			own(OWN_READ_ERR, id, PIECE - 1);
		}
		if (!wild && !failed && c->state == CLIENT_OPEN && m->opened && !peer.eof) {
			BUG_ON(m->seen != m->wrote);
			BUG_ON(m->io && m->got != m->fed);
			BUG_ON(m->err && m->err_got != m->err_fed);
			BUG_ON(m->close_said && m->ch && !m->exited);
		}
		if (m->ch && id & 1)
			own(OWN_FREE, id, 0);
	}
	ssh_client_free(c);
	BUG_ON(!peer.closed);
	for (size_t id = 0; id < CHANNELS; id++) {
		own(OWN_READ, id, 10);
		own(OWN_CLOSE, id, 0);
		own(OWN_CLOSE_ERR, id, 0);
		own(OWN_FREE, id, 0);
	}
	task_cancel(&nobody);
	peer_end();
	return 0;
}
