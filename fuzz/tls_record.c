/*
 * A TLS 1.3 stream after its handshake, under the input's orders: records well made, badly made or
 * spoilt, in pieces, from a peer that has the keys; and every verb of the stream in any order.
 *
 * Held against a second reader that gets each record whole: what comes out of the stream is the
 * data of the records before the first fault, in order, and then what that reader says: end, alert
 * or fault. What the stream writes opens at the peer, in order, with an answer to each KeyUpdate
 * that asks; a fault is told with the right alert. No buffer grows beyond its bound.
 */
#include <errno.h>

#include <openssl/ssl.h>

#include "reactor/err.h"
#include "reactor/tls_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { HEADER = 5, TAG = 16, WIRE = 1 << 19, FORGED = RECORD_MAX + 2048, BUF_MAX = 256 * 1024 };

enum op {
	FEED_DATA = 0, /* length (2), padding (2) */
	FEED_TYPE,     /* type, count, bytes */
	FEED_UPDATE,   /* asks? */
	FEED_ALERT,    /* level, alert */
	FEED_RAW,      /* count, bytes */
	FEED_SPOILT,   /* length (2), where (2): one bit of a data record */
	FEED_END,      /* bit 0: with an error */
	LOWER,         /* most per read (2); capacity for writes (2) */
	READ,          /* two lengths (2, 2) */
	WRITE,         /* three lengths (2, 2, 2) */
	SHUT,
	PEER_READ,
	TURN,
	OPS
};

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

static size_t word(void)
{
	size_t high = byte();
	return high << 8 | byte();
}

/* A count, and as many bytes, at most 255. */
static size_t bytes(char *to)
{
	size_t n = byte();
	n = MIN(n, in_left);
	memcpy(to, in, n);
	in += n;
	in_left -= n;
	return n;
}

static char pattern(uint64_t at)
{
	return (char)(at * 7 + (at >> 8) * 3);
}

/* --- the lower stream --- */

static struct reactor *rx;
static struct stream lower;
static struct task *lower_owner;
static bool lower_open, feed_ended, feed_broken;
static char feed[WIRE], sent[WIRE]; /* to the stream, from it */
static size_t feed_at, feed_n, sent_at, sent_n;
static size_t read_most, write_room;

static ssize_t lower_read(struct stream *s, const struct iovec *iov, int n)
{
	(void)s;
	BUG_ON(n != 1 || iov->iov_len == 0);
	size_t part = MIN(MIN(iov->iov_len, feed_n - feed_at), read_most);
	if (feed_at == feed_n)
		return feed_broken ? -ECONNRESET : feed_ended ? 0 : -EAGAIN;
	if (part == 0)
		return -EAGAIN;
	memcpy(iov->iov_base, feed + feed_at, part);
	feed_at += part;
	return (ssize_t)part;
}

static ssize_t lower_write(struct stream *s, const struct iovec *iov, int n)
{
	(void)s;
	BUG_ON(n != 1);
	if (feed_broken)
		return -EPIPE;
	size_t part = MIN(MIN(iov->iov_len, write_room), WIRE - sent_n);
	if (part == 0)
		return -EAGAIN;
	memcpy(sent + sent_n, iov->iov_base, part);
	sent_n += part;
	write_room -= part;
	return (ssize_t)part;
}

static int lower_shut(struct stream *s)
{
	(void)s;
	return 0;
}

static void lower_close(struct stream *s, int why)
{
	(void)s, (void)why;
	BUG_ON(!lower_open);
	lower_open = false;
	lower_owner = NULL;
}

static void lower_bind(struct stream *s, struct task *t)
{
	(void)s;
	lower_owner = t;
}

static const struct stream_ops lower_ops = {
	.name = "fuzz",
	.read = lower_read,
	.write = lower_write,
	.shut = lower_shut,
	.close = lower_close,
	.bind = lower_bind,
};

/* --- the stream, its peer, and the second reader --- */

static struct tls_config *client_config, *server_config;
static struct tls_stream *t;
static struct records peer, second;
/* What the second reader has said so far: */
static uint64_t fed;            /* bytes of data */
static enum record_event final; /* RECORD_PART: nothing final yet */
static uint8_t final_alert;
/* What came out: */
static uint64_t got;
static ssize_t verdict; /* 1: none yet */
/* What went in, and came out at the peer: */
static uint64_t wrote, peer_got;
static bool shut, peer_closed;
static unsigned asked, answered;

static void secret(struct records *r, char seed)
{
	memset(r->in.secret, seed, sizeof(r->in.secret));
	memset(r->out.secret, ~seed, sizeof(r->out.secret));
}

static void open_both(unsigned how)
{
	static const uint16_t ciphers[] = { 0x1301, 0x1302, 0x1303 };
	bool server = how & 1;
	uint16_t cipher = ciphers[(how >> 1) % 3];
	struct tls_config *c = server ? server_config : client_config;
	c->renew_after = how >> 3 & 1 ? how >> 4 : 0;
	lower = (struct stream){ .ops = &lower_ops, .rx = rx };
	lower_open = true;
	struct stream *s = server ? tls_server(c, &lower) : tls_client(c, &lower, "fuzz");
	t = container_of(s, struct tls_stream, s);
	task_cancel(&t->task); /* no handshake: the keys fall from the sky */
	SSL_free(t->ssl);
	t->ssl = NULL;
	t->state = TLS_OPEN;
	buf_end(&t->out);
	secret(&t->records, 0x1d);
	secret(&second, 0x1d);
	secret(&peer, ~0x1d);
	BUG_ON(records_start(&t->records, cipher, server, 0, 0) < 0);
	BUG_ON(records_start(&second, cipher, server, 0, 0) < 0);
	BUG_ON(records_start(&peer, cipher, !server, 0, 0) < 0);
}

static void wake(void)
{
	if (lower_owner)
		task_wake(rx, lower_owner);
}

/* The second reader's word on the record at p, which it overwrites. */
static void judge(char *p, size_t n)
{
	struct record_opened o;
	uint8_t before[48];
	memcpy(before, second.in.secret, sizeof(before));
	enum record_event e = record_open(&second, p, n, (struct iovec){ NULL, 0 }, &o);
	BUG_ON(e == RECORD_FAULT && (!o.why || !*o.why || !o.alert));
	BUG_ON(e != RECORD_FAULT && e != RECORD_PART && o.used != n);
	if (memcmp(before, second.in.secret, sizeof(before)) != 0) {
		char lost[64]; /* the peer follows */
		record_seal_renewal(&peer, lost);
		BUG_ON(memcmp(peer.out.secret, second.in.secret, 32) != 0);
	}
	asked += second.renew_asked;
	second.renew_asked = false;
	if (e == RECORD_OPENED) {
		for (size_t i = 0; i < o.data.n; i++)
			BUG_ON(o.data.p[i] != pattern(fed + i));
		fed += o.data.n;
	} else if (e != RECORD_NOTHING) {
		final = e;
		final_alert = o.alert;
	}
}

/* n bytes onto the wire, as one record; only the first fault counts. */
static void put_wire(const char *p, size_t n)
{
	static char copy[FORGED];
	feed_ended |=
	    feed_n + n > WIRE; /* or the peer's next record would have a number too high */
	if (feed_ended)
		return;
	memcpy(feed + feed_n, p, n);
	feed_n += n;
	if (final == RECORD_PART) {
		memcpy(copy, p, n);
		judge(copy, n);
	}
	wake();
}

/* A record as RFC 8446 section 5.2 says, of any type and size. plain has room for the rest. */
static size_t forge(uint8_t type, char *plain, size_t n, size_t padding, char *out)
{
	size_t inner = n + 1 + padding, sealed;
	uint8_t nonce[12],
	    header[HEADER] = { 23, 3, 3, (uint8_t)((inner + TAG) >> 8), (uint8_t)(inner + TAG) };
	plain[n] = (char)type;
	memset(plain + n + 1, 0, padding);
	memcpy(nonce, peer.out.iv, 12);
	for (int i = 0; i < 8; i++)
		nonce[11 - i] ^= (uint8_t)(peer.out.seq >> 8 * i);
	peer.out.seq++;
	memcpy(out, header, HEADER);
	BUG_ON(!EVP_AEAD_CTX_seal(&peer.out.aead, (uint8_t *)out + HEADER, &sealed, inner + TAG,
				  nonce, 12, (uint8_t *)plain, inner, header, HEADER));
	return HEADER + sealed;
}

static char plain[FORGED], record[FORGED];

static size_t forge_data(size_t n, size_t padding)
{
	for (size_t i = 0; i < n; i++)
		plain[i] = pattern(fed + i);
	return forge(RECORD_DATA, plain, n, padding, record);
}

/* Data that nothing is wrong with is never refused. */
static void feed_data(size_t n, size_t padding)
{
	bool good = final == RECORD_PART && !second.message_have && second.idle < RECORD_IDLE_MAX &&
		    n + padding <= RECORD_MAX;
	uint64_t before = fed, place = feed_n;
	size_t size = forge_data(n, padding);
	put_wire(record, size);
	if (good && feed_n > place)
		BUG_ON(fed != before + n || final != RECORD_PART);
}

static void feed_bytes(uint8_t type)
{
	size_t n = bytes(plain), last = n;
	while (type == 0 && last > 0) /* the content's end is the type, and the rest padding */
		type = (uint8_t)plain[--last];
	/* Data has a pattern to keep. */
	if (type != RECORD_DATA)
		put_wire(record, forge(last < n ? 0 : type, plain, n, 0, record));
}

static void feed_raw(void)
{
	/* To the second reader it is one record, so it has to end as one, or never. */
	static char raw[HEADER + 256];
	size_t n = bytes(raw);
	if (n == 0 || final != RECORD_PART)
		return;
	if (n > HEADER && raw[0] == RECORD_DATA) {
		raw[3] = 0;
		raw[4] = (char)(n - HEADER);
	}
	put_wire(raw, n);
	if (final == RECORD_PART) {
		feed_ended = true; /* cut in a header */
		wake();
	}
}

static void feed_spoilt(void)
{
	size_t n = forge_data(word() % 600, 0);
	size_t at = word() % (8 * n);
	record[at / 8] ^= (char)(1 << at % 8);
	if (at / 8 == 3 ||
	    at / 8 == 4) { /* a length: the second reader wants no part of a record */
		size_t says = (size_t)(uint8_t)record[3] << 8 | (uint8_t)record[4];
		memset(record + n, 0, sizeof(record) - n);
		n = HEADER + says <= FORGED ? HEADER + says : HEADER;
	}
	put_wire(record, n);
}

/* --- what the stream does --- */

static void failed(ssize_t r)
{
	BUG_ON(r >= 0 || r == -EAGAIN);
	BUG_ON(!*stream_why(&t->s, (int)r));
}

/* Whatever ends reading must be what the second reader said, after all data before it. */
static void on_verdict(ssize_t r)
{
	verdict = r;
	BUG_ON(got > fed);
	if (r == 0) {
		BUG_ON(final != RECORD_CLOSED || got != fed);
		return;
	}
	failed(r);
	if (final == RECORD_FAULT && r == -ERR_TLS)
		BUG_ON(got != fed);
	else if (final == RECORD_ALERTED && r != -ERR_TRUNCATED && r != -ECONNRESET)
		BUG_ON(got != fed);
	else
		BUG_ON(!feed_ended && !feed_broken);
}

static void do_read(size_t a, size_t b)
{
	static char out[2 * 65536 + 64];
	memset(out, 0x5a, a + b + 64);
	struct iovec iov[2] = { { out, a }, { out + a, b } };
	ssize_t r = t->s.ops->read(&t->s, iov, 2);
	BUG_ON(r > (ssize_t)(a + b));
	for (size_t i = a + b; i < a + b + 64; i++)
		BUG_ON(out[i] != 0x5a); /* nothing outside of the room */
	BUG_ON(verdict != 1 && a + b > 0 && r != verdict);
	if (r > 0) {
		for (ssize_t i = 0; i < r; i++)
			BUG_ON(out[i] != pattern(got + (uint64_t)i));
		got += (uint64_t)r;
		BUG_ON(got > fed);
	} else if (r != -EAGAIN && a + b > 0 && verdict == 1) {
		on_verdict(r);
	}
}

static void do_write(void)
{
	static char out[3 * 65536];
	size_t n[3] = { word(), word(), word() };
	for (size_t i = 0; i < n[0] + n[1] + n[2]; i++)
		out[i] = pattern(wrote + i);
	struct iovec iov[3] = { { out, n[0] }, { out + n[0], n[1] }, { out + n[0] + n[1], n[2] } };
	ssize_t r = t->s.ops->write(&t->s, iov, 3);
	BUG_ON(r > (ssize_t)(n[0] + n[1] + n[2]));
	if (r > 0) {
		BUG_ON(shut);
		wrote += (uint64_t)r;
	} else if (r < 0 && r != -EAGAIN && !(r == -EPIPE && shut)) {
		failed(r);
	}
}

/* The peer opens what has come so far. */
static void peer_read(void)
{
	struct record_opened o;
	while (sent_at < sent_n) {
		uint8_t before[48];
		memcpy(before, peer.in.secret, sizeof(before));
		peer.idle = 0; /* it may well answer often */
		enum record_event e = record_open(&peer, sent + sent_at, sent_n - sent_at,
						  (struct iovec){ NULL, 0 }, &o);
		if (e == RECORD_PART)
			return;
		sent_at += o.used;
		BUG_ON(e == RECORD_FAULT || o.used == 0);
		BUG_ON(peer_closed); /* the last word was said */
		BUG_ON(e == RECORD_ALERTED && (final != RECORD_FAULT || o.alert != final_alert));
		if (e == RECORD_OPENED)
			for (size_t i = 0; i < o.data.n; i++)
				BUG_ON(o.data.p[i] != pattern(peer_got++));
		peer_closed |= e == RECORD_CLOSED || e == RECORD_ALERTED;
		answered += memcmp(before, peer.in.secret, sizeof(before)) != 0;
	}
	BUG_ON(peer_got > wrote);
}

static bool over;

static void turn_over(struct task *task)
{
	(void)task;
	over = true;
}

static void turn(void)
{
	struct task task;
	task_init(&task, turn_over);
	task_defer(rx, &task);
	over = false;
	reactor_run_until(rx, &over);
}

static void step(void)
{
	unsigned op = byte() % OPS;
	char message[5] = { 24, 0, 0, 1, 0 };
	size_t a, b;
	switch ((enum op)op) {
	case FEED_DATA:
		a = word();
		b = word();
		if (b & 1) /* small ones, mostly */
			a &= 0xff;
		feed_data(a % (RECORD_MAX + 512), b / 2 % 600);
		break;
	case FEED_TYPE:
		feed_bytes((uint8_t)byte());
		break;
	case FEED_UPDATE:
		message[4] = byte() & 1;
		memcpy(plain, message, sizeof(message));
		put_wire(record, forge(RECORD_HANDSHAKE, plain, sizeof(message), 0, record));
		break;
	case FEED_ALERT:
		plain[0] = (char)byte();
		plain[1] = (char)byte();
		put_wire(record, forge(RECORD_ALERT, plain, 2, 0, record));
		break;
	case FEED_RAW:
		feed_raw();
		break;
	case FEED_SPOILT:
		feed_spoilt();
		break;
	case FEED_END:
		feed_broken |= byte() & 1;
		feed_ended = true;
		wake();
		break;
	case LOWER:
		read_most = word() * 4 + 1;
		write_room = word() * 16;
		wake();
		break;
	case READ:
		a = word();
		do_read(a, word());
		break;
	case WRITE:
		do_write();
		break;
	case SHUT:
		shut |= stream_shut(&t->s) == 0 || t->shut;
		break;
	case PEER_READ:
		peer_read();
		break;
	case TURN:
		turn();
		break;
	case OPS:
		break;
	}
	BUG_ON(t->in.cap > BUF_MAX || t->out.cap > BUF_MAX);
	BUG_ON(t->rest.n > RECORD_MAX);
}

/* With a lower stream that holds nothing back all of it must come out. */
static void drain(void)
{
	read_most = write_room = SIZE_MAX;
	for (unsigned i = 0;
	     i < 2 * (WIRE / 1024) && verdict == 1 && (feed_at < feed_n || got < fed); i++)
		do_read(7000, 30000);
	do_read(1, 0);
	if (!feed_broken)
		BUG_ON(got != fed);
	BUG_ON(final != RECORD_PART && verdict == 1);
	wake();
	turn();
	if (!feed_broken && sent_n < WIRE) /* answers, alerts, data leave by themselves */
		BUG_ON(t->state == TLS_OPEN && stream_open_yet(&t->s) == 0 && tls_flush(t) != 0);
	peer_read();
	if (!feed_broken && sent_n < WIRE) {
		BUG_ON(peer_got != wrote);
		BUG_ON(sent_at != sent_n);
		BUG_ON(asked > 0 && answered == 0 && !shut && t->state == TLS_OPEN);
		BUG_ON(final == RECORD_FAULT && verdict == -ERR_TLS && !shut && !peer_closed);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!rx) {
		char err[256];
		rx = reactor_new();
		client_config = tls_config_new(&(struct tls_options){ .insecure = true }, false,
					       err, sizeof(err));
		BUG_ON(!client_config);
		server_config = tls_config_new(&(struct tls_options){ .insecure = true }, false,
					       err, sizeof(err));
		BUG_ON(!server_config);
		server_config->server = true; /* it will never shake hands */
	}
	if (size > 4096)
		return 0;
	in = data;
	in_left = size;
	feed_at = feed_n = sent_at = sent_n = 0;
	feed_ended = feed_broken = shut = peer_closed = false;
	read_most = write_room = SIZE_MAX;
	fed = got = wrote = peer_got = 0;
	asked = answered = 0;
	final = RECORD_PART;
	verdict = 1;

	open_both(byte());
	while (in_left > 0)
		step();
	unsigned end = (unsigned)size & 3;
	if (end != 3)
		drain();
	sent_n = 0;
	stream_close(&t->s, end == 1 ? -ECANCELED : 0); /* it may still have much to send */
	write_room = SIZE_MAX;
	wake();
	turn();
	stream_linger_end();
	turn();
	BUG_ON(lower_open);
	BUG_ON(reactor_stats(rx)->timers > 0);
	records_end(&peer);
	records_end(&second);
	return 0;
}
