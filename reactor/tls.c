/*
 * TLS streams. BoringSSL shakes hands (tls_handshake.c); then TLS 1.3 data passes by our own
 * records (tls_record.c): sealed from the writer's memory, opened into the reader's. Between t->in
 * and t->out and the lower stream bytes move in large pieces, many records per system call.
 */
#include <errno.h>

#include <openssl/ssl.h>

#include "reactor/err.h"
#include "reactor/tls_int.h"

enum {
	SMALL_ROOM = 1024,            /* close_notify, an alert, a key update */
	OUT_MAX = 256 * 1024,         /* a flight of handshake messages must fit, too */
	BATCH = OUT_MAX - SMALL_ROOM, /* of data sealed before it is sent: 15 records and a bit */
	IN_MIN = 16 * 1024,
	IN_MAX = 256 * 1024,
	CLOSE_MS = 5000,
	LINGER_MS = 2000,
};

static const struct stream_ops tls_ops;

static struct tls_stream *self(struct stream *s)
{
	return container_of(s, struct tls_stream, s);
}

/* --- to and from the lower stream --- */

/* Seals what the record layer itself has to say; there is always room for it. */
static void put_renewal(struct tls_stream *t)
{
	struct iovec room = buf_room_for(&t->out, SMALL_ROOM);
	buf_added(&t->out, record_seal_renewal(&t->records, room.iov_base));
}

static void put_alert(struct tls_stream *t, uint8_t alert)
{
	struct iovec room = buf_room_for(&t->out, SMALL_ROOM);
	buf_added(&t->out, record_seal_alert(&t->records, alert, room.iov_base));
}

static int send_out(struct tls_stream *t)
{
	while (t->out.len > 0 && t->write_code == 0) {
		struct slice data = buf_data(&t->out);
		ssize_t n = stream_write(t->lower, data.p, data.n);
		if (n == -EAGAIN)
			return -EAGAIN;
		if (n < 0) {
			t->write_code = (int)n;
			buf_end(&t->out);
		} else {
			buf_drop(&t->out, (size_t)n);
		}
	}
	return t->write_code;
}

int tls_flush(struct tls_stream *t)
{
	int r = send_out(t);
	/* One answer at a time, however often we are asked: the queue stays bounded. */
	if (r == 0 && t->records.renew_asked && !t->shut && t->state != TLS_FAILED) {
		put_renewal(t);
		r = send_out(t);
	}
	return r;
}

/* Larger pieces as long as they come full. */
ssize_t tls_fill(struct tls_stream *t)
{
	struct iovec room = buf_room_for(&t->in, t->chunk);
	room.iov_len = MIN(room.iov_len, t->chunk);
	ssize_t n = stream_read(t->lower, room.iov_base, room.iov_len);
	buf_added(&t->in, n > 0 ? (size_t)n : 0);
	if (n == (ssize_t)t->chunk)
		t->chunk = MIN(2 * t->chunk, IN_MAX);
	else if (n > 0 && (size_t)n < t->chunk / 4)
		t->chunk = MAX(t->chunk / 2, IN_MIN);
	return n;
}

/* --- reading --- */

static int fail_fault(struct tls_stream *t, const struct record_opened *o)
{
	tls_fail(t, -ERR_TLS, xasprintf("tls: %s", o->why));
	t->parting = true;
	if (!t->shut)
		put_alert(t, o->alert);
	tls_flush(t);
	return t->code;
}

/* Opens records of t->in up to the next data: its size, and it is in out if that has room, else in
 * t->rest; or 0 after close_notify, or a fatal code; -EAGAIN when in is spent. */
static ssize_t open_next(struct tls_stream *t, struct iovec out)
{
	if (t->peer_closed)
		return 0;
	while (t->in.len > 0) {
		struct record_opened o;
		struct slice in = buf_data(&t->in);
		char *p = t->in.base + t->in.head;
		switch (record_open(&t->records, p, in.n, out, &o)) {
		case RECORD_OPENED:
			t->got_data = true;
			if (o.data.p == out.iov_base) {
				buf_drop(&t->in, o.used);
			} else {
				t->rest = o.data;
				t->rest_record = o.used;
			}
			return (ssize_t)o.data.n;
		case RECORD_NOTHING:
			buf_drop(&t->in, o.used);
			if (t->records.renew_asked)
				tls_flush(t);
			break;
		case RECORD_CLOSED:
			t->peer_closed = true;
			buf_end(&t->in);
			return 0;
		case RECORD_ALERTED:
			return tls_fail_alert(t, o.alert);
		case RECORD_FAULT:
			return fail_fault(t, &o);
		case RECORD_PART:
			return -EAGAIN;
		}
	}
	return -EAGAIN;
}

/* The next data, as open_next, read from lower if need be. */
static ssize_t next_data(struct tls_stream *t, struct iovec out)
{
	for (;;) {
		ssize_t n = open_next(t, out);
		if (n != -EAGAIN)
			return n;
		n = tls_fill(t);
		if (n == -EAGAIN)
			return t->write_code < 0 ? t->write_code : n;
		if (n < 0)
			return tls_fail_lower(t, (int)n);
		if (n == 0) {
			t->lower_eof = true;
			return tls_fail_truncated(t);
		}
	}
}

/* Moves up to n bytes of t->rest. */
static size_t take_rest(struct tls_stream *t, char *p, size_t n)
{
	n = MIN(n, t->rest.n);
	memcpy(p, t->rest.p, n);
	t->rest = slice_after(t->rest, n);
	if (t->rest.n == 0)
		buf_drop(&t->in, t->rest_record);
	return n;
}

/* Fills out: from whole records as they lie in t->in, and only if there is none from lower. So one
 * system call is behind many records, and no record is opened in place that out has no room for
 * unless it is the first. */
static ssize_t read_some(struct tls_stream *t, struct iovec out, bool first)
{
	if (t->rest.n > 0)
		return (ssize_t)take_rest(t, out.iov_base, out.iov_len);
	size_t want = record_room(buf_data(&t->in));
	if (!first && (want == 0 || want > out.iov_len))
		return -EAGAIN;
	ssize_t n = next_data(t, out);
	return t->rest.n > 0 ? (ssize_t)take_rest(t, out.iov_base, out.iov_len) : n;
}

static ssize_t tls_read(struct stream *s, const struct iovec *iov, int n)
{
	struct tls_stream *t = self(s);
	if (t->state != TLS_OPEN)
		return t->state == TLS_FAILED ? t->code : -EAGAIN;
	size_t total = 0;
	for (int i = 0; i < n; i++) {
		struct iovec out = iov[i];
		while (out.iov_len > 0) {
			ssize_t r = t->ssl ? tls_ssl_read(t, out.iov_base, out.iov_len)
					   : read_some(t, out, total == 0);
			if (r <= 0)
				return total > 0 ? (ssize_t)total : r; /* the next call says why */
			out.iov_base = (char *)out.iov_base + r;
			out.iov_len -= (size_t)r;
			total += (size_t)r;
		}
	}
	return (ssize_t)total;
}

/* --- writing --- */

/* The lower stream does not take our bytes any more. If it refused us, the reason may be waiting to
 * be read: in TLS 1.3 a client's certificate is judged after its handshake is done. */
static int fail_write(struct tls_stream *t)
{
	if (t->state != TLS_OPEN || t->got_data)
		return t->write_code;
	if (t->ssl)
		tls_ssl_look(t);
	else
		while (open_next(t, (struct iovec){ NULL, 0 }) == -EAGAIN && tls_fill(t) > 0)
			;
	return t->state == TLS_FAILED ? t->code : t->write_code;
}

/* For a record of what is left? With TLS 1.2 its overhead depends on the cipher. */
static bool has_room(const struct tls_stream *t, size_t left)
{
	size_t want = t->ssl ? RECORD_MAX + 256 : MIN(left, RECORD_MAX) + RECORD_OVERHEAD;
	return t->out.len + want <= BATCH;
}

/* Seals a record of at most left bytes: how many, or a fatal code. */
static ssize_t seal_one(struct tls_stream *t, struct record_source *source, size_t left)
{
	if (t->ssl)
		return tls_ssl_write(t, source);
	if (record_renewal_due(&t->records))
		put_renewal(t);
	struct iovec room = buf_room_for(&t->out, MIN(left, RECORD_MAX) + RECORD_OVERHEAD);
	size_t n = record_seal(&t->records, RECORD_DATA, source, room.iov_base);
	buf_added(&t->out, n);
	return (ssize_t)n - RECORD_OVERHEAD;
}

static ssize_t tls_write(struct stream *s, const struct iovec *iov, int n)
{
	struct tls_stream *t = self(s);
	if (t->state != TLS_OPEN)
		return t->state == TLS_FAILED ? t->code : -EAGAIN;
	if (t->write_code < 0)
		return fail_write(t);
	if (n == 0)
		return 0;
	if (t->shut)
		return -EPIPE;
	int r = tls_flush(t);
	if (r < 0)
		return r == -EAGAIN ? r : fail_write(t);

	struct record_source source = { iov, n, 0 };
	size_t total = 0, offered = 0;
	for (int i = 0; i < n; i++)
		offered += iov[i].iov_len;
	while (total < offered && r == 0) {
		size_t left = offered - total;
		buf_room_for(&t->out, MIN(left + left / RECORD_MAX * 32 + SMALL_ROOM, BATCH));
		while (total < offered && has_room(t, offered - total)) {
			ssize_t put = seal_one(t, &source, offered - total);
			if (put < 0)
				return put;
			total += (size_t)put;
		}
		r = tls_flush(t);
	}
	return (ssize_t)total;
}

static int tls_shut(struct stream *s)
{
	struct tls_stream *t = self(s);
	if (t->state != TLS_OPEN)
		return t->state == TLS_FAILED ? t->code : -EAGAIN;
	if (t->write_code < 0)
		return fail_write(t);
	if (!t->shut) {
		t->shut = true;
		if (t->ssl)
			tls_ssl_shut(t);
		else
			put_alert(t, SSL_AD_CLOSE_NOTIFY);
	}
	int r = tls_flush(t);
	return r < 0 && r != -EAGAIN ? fail_write(t) : r;
}

static void tls_bind(struct stream *s, struct task *owner)
{
	struct tls_stream *t = self(s);
	t->owner = owner;
	if (owner && t->state != TLS_HANDSHAKE)
		task_wake(s->rx, owner);
}

static const char *tls_why(struct stream *s)
{
	struct tls_stream *t = self(s);
	if (t->state == TLS_FAILED)
		return t->why;
	return t->lower->ops->why ? t->lower->ops->why(t->lower) : NULL;
}

static void end(struct tls_stream *t, int why)
{
	stream_close(t->lower, why);
	task_cancel(&t->task);
	timer_clear(t->s.rx, &t->timer);
	SSL_free(t->ssl);
	records_end(&t->records);
	tls_config_unref(t->config);
	buf_end(&t->in);
	buf_end(&t->out);
	free(t->host);
	free(t->why);
	free(t->session);
	free(t->names);
	free(t->cert_why);
	free(t);
}

/* All is sent. Closing a socket over unread bytes would reset it, and our last words with it. */
static void end_lingering(struct tls_stream *t)
{
	if (!t->lower_eof && !t->peer_closed && t->write_code == 0) {
		stream_linger(t->lower, LINGER_MS);
		t->lower = NULL;
	}
	end(t, 0);
}

static void tls_close(struct stream *s, int why)
{
	struct tls_stream *t = self(s);
	t->owner = NULL;
	if (t->state == TLS_FAILED && t->parting) {
		if (tls_flush(t) == 0)
			end_lingering(t);
		else
			end(t, t->code);
		return;
	}
	if (why < 0 || t->state != TLS_OPEN) {
		end(t, why);
		return;
	}
	int r = tls_shut(s);
	if (r == -EAGAIN) {
		t->state = TLS_CLOSING;
		timer_set(s->rx, &t->timer, CLOSE_MS);
	} else if (r < 0) {
		end(t, r);
	} else {
		end_lingering(t);
	}
}

static const struct stream_ops tls_ops = {
	.name = "tls",
	.read = tls_read,
	.write = tls_write,
	.shut = tls_shut,
	.close = tls_close,
	.bind = tls_bind,
	.why = tls_why,
};

/* --- the stream's own task --- */

static void run(struct task *task)
{
	struct tls_stream *t = container_of(task, struct tls_stream, task);
	if (t->state == TLS_HANDSHAKE) {
		tls_ssl_handshake(t);
		if (t->state == TLS_HANDSHAKE)
			return;
	}
	int r = tls_flush(t);
	if (t->state == TLS_CLOSING) {
		if (r == 0)
			end_lingering(t);
		else if (r != -EAGAIN)
			end(t, r);
		return;
	}
	if (t->owner)
		task_wake(t->s.rx, t->owner);
}

static void too_late(struct timer *timer)
{
	struct tls_stream *t = container_of(timer, struct tls_stream, timer);
	if (t->state == TLS_CLOSING) {
		end(t, -ETIMEDOUT);
		return;
	}
	tls_fail_timeout(t);
	if (t->owner)
		task_wake(t->s.rx, t->owner);
}

static struct tls_stream *stream_new(struct tls_config *config, struct stream *lower)
{
	struct tls_stream *t = xcalloc(1, sizeof(*t));
	t->s = (struct stream){ .ops = &tls_ops, .rx = lower->rx };
	t->lower = lower;
	t->config = tls_config_ref(config);
	t->records.renew_after = config->renew_after;
	t->chunk = IN_MIN;
	task_init(&t->task, run);
	timer_init(&t->timer, too_late);
	buf_init(&t->in, IN_MAX);
	buf_init(&t->out, OUT_MAX);
	stream_bind(lower, &t->task);
	task_wake(lower->rx, &t->task);
	return t;
}

struct stream *tls_client(struct tls_config *config, struct stream *lower, const char *host)
{
	BUG_ON(config->server);
	struct tls_stream *t = stream_new(config, lower);
	t->host = xstrdup(host);
	tls_ssl_new(t);
	return &t->s;
}

struct stream *tls_server(struct tls_config *config, struct stream *lower)
{
	BUG_ON(!config->server);
	struct tls_stream *t = stream_new(config, lower);
	tls_ssl_new(t);
	return &t->s;
}

void tls_handshake_limit(struct stream *s, uint64_t ms)
{
	struct tls_stream *t = self(s);
	if (t->state == TLS_HANDSHAKE)
		timer_set(s->rx, &t->timer, ms);
}

const struct tls_peer *tls_peer(struct stream *s)
{
	struct tls_stream *t = self(s);
	return t->state == TLS_OPEN && t->has_peer ? &t->peer : NULL;
}

const char *tls_session_text(struct stream *s)
{
	struct tls_stream *t = self(s);
	return t->session ? t->session : "";
}

bool stream_is_tls(const struct stream *s)
{
	return s->ops == &tls_ops;
}
