/* The streams of a channel: reactor/stream.h on top of windows. What is written is sealed where it
 * leaves from, what is read is lent from where it was put. */
#include <errno.h>

#include "proto/ssh/ssh_int.h"
#include "reactor/err.h"

enum { DATA_HEAD = 9 /* type, channel, length */ };

static struct ssh_channel *of_stdio(struct stream *s)
{
	return container_of(s, struct ssh_channel, stdio);
}

static struct ssh_channel *of_stderr(struct stream *s)
{
	return container_of(s, struct ssh_channel, stderr_);
}

/* --- reading --- */

/* What a read says that finds nothing in b. */
static int nothing(const struct ssh_channel *ch)
{
	if (ch->code)
		return ch->code;
	return ch->eof_got || ch->state == CHANNEL_ENDED ? 0 : -EAGAIN;
}

static ssize_t take(struct ssh_channel *ch, struct buf *b, const struct iovec *iov, int n)
{
	size_t done = 0;
	if (b->len == 0)
		return nothing(ch);
	for (int i = 0; i < n && b->len > 0; i++) {
		size_t part = MIN(iov[i].iov_len, b->len);
		if (part == 0)
			continue;
		memcpy(iov[i].iov_base, buf_data(b).p, part);
		buf_drop(b, part);
		done += part;
	}
	channel_consumed(ch, done);
	return (ssize_t)done;
}

static int lend(struct ssh_channel *ch, struct buf *b, struct iovec *iov)
{
	struct slice d = buf_data(b);
	if (d.n == 0)
		return nothing(ch);
	*iov = (struct iovec){ (void *)(uintptr_t)d.p, d.n };
	return 1;
}

static ssize_t stdio_read(struct stream *s, const struct iovec *iov, int n)
{
	return take(of_stdio(s), &of_stdio(s)->out, iov, n);
}

static int stdio_peek(struct stream *s, struct iovec *iov, int max)
{
	(void)max;
	return lend(of_stdio(s), &of_stdio(s)->out, iov);
}

static void stdio_drop(struct stream *s, size_t n)
{
	buf_drop(&of_stdio(s)->out, n);
	channel_consumed(of_stdio(s), n);
}

static ssize_t stderr_read(struct stream *s, const struct iovec *iov, int n)
{
	return take(of_stderr(s), &of_stderr(s)->err, iov, n);
}

static int stderr_peek(struct stream *s, struct iovec *iov, int max)
{
	(void)max;
	return lend(of_stderr(s), &of_stderr(s)->err, iov);
}

static void stderr_drop(struct stream *s, size_t n)
{
	buf_drop(&of_stderr(s)->err, n);
	channel_consumed(of_stderr(s), n);
}

/* --- writing --- */

/* How many bytes may go in the next DATA message: more than 0, or a code. */
static ssize_t may_send(struct ssh_channel *ch)
{
	if (ch->code)
		return ch->code;
	if (ch->eof_want || ch->close_want || ch->no_stdin || ch->state == CHANNEL_ENDED)
		return -EPIPE;
	size_t n = MIN(MIN(ch->send_window, ch->send_max), (uint32_t)DATA_MAX);
	if (ch->state < CHANNEL_STARTING || !client_writable(ch->c) || n == 0) {
		ch->blocked = true;
		return -EAGAIN;
	}
	return (ssize_t)n;
}

static void data_seal(struct ssh_channel *ch, char *p, size_t n)
{
	struct ssh_client *c = ch->c;
	p[0] = MSG_CHANNEL_DATA;
	ssh_put_u32(p + 1, ch->peer_id);
	ssh_put_u32(p + 5, (uint32_t)n);
	packet_seal(&c->send, &c->out, DATA_HEAD + n);
	ch->send_window -= (uint32_t)n;
	client_flush_later(c);
	if (c->send.bytes > c->rekey_bytes || c->send.packets > 1u << 30)
		transport_rekey(c);
}

static ssize_t stdio_write(struct stream *s, const struct iovec *iov, int n)
{
	struct ssh_channel *ch = of_stdio(s);
	size_t off = 0, done = 0;
	ssize_t room = 0;
	while (n > 0 && iov->iov_len == 0)
		iov++, n--;
	if (n == 0) {
		if (ch->code || ch->state >= CHANNEL_RUNNING)
			return ch->code;
		ch->blocked = true;
		return -EAGAIN;
	}
	while (n > 0 && (room = may_send(ch)) > 0) {
		char *p = packet_room(&ch->c->out, DATA_HEAD + (size_t)room);
		size_t put = 0;
		while (n > 0 && put < (size_t)room) {
			size_t part = MIN(iov->iov_len - off, (size_t)room - put);
			memcpy(p + DATA_HEAD + put, (const char *)iov->iov_base + off, part);
			put += part;
			off += part;
			if (off == iov->iov_len) {
				off = 0;
				do
					iov++, n--;
				while (n > 0 && iov->iov_len == 0);
			}
		}
		data_seal(ch, p, put);
		done += put;
	}
	return done ? (ssize_t)done : room;
}

static int stdio_room(struct stream *s, struct iovec *iov)
{
	struct ssh_channel *ch = of_stdio(s);
	ssize_t n = may_send(ch);
	if (n < 0)
		return (int)n;
	char *p = packet_room(&ch->c->out, DATA_HEAD + (size_t)n);
	*iov = (struct iovec){ p + DATA_HEAD, (size_t)n };
	return 0;
}

static void stdio_added(struct stream *s, size_t n)
{
	struct ssh_channel *ch = of_stdio(s);
	if (n > 0)
		data_seal(ch, packet_room(&ch->c->out, DATA_HEAD + n), n);
	else if (ch->c->out.len == 0)
		buf_end(&ch->c->out);
}

static int stdio_shut(struct stream *s)
{
	struct ssh_channel *ch = of_stdio(s);
	if (ch->code)
		return ch->code;
	ch->eof_want = true;
	channel_closing(ch);
	return 0;
}

/* --- both --- */

static void stdio_close(struct stream *s, int why)
{
	struct ssh_channel *ch = of_stdio(s);
	size_t unread = ch->out.len;
	ch->stdio_open = false;
	ch->stdio_owner = NULL;
	buf_end(&ch->out);
	channel_consumed(ch, unread);
	ch->eof_want = true;
	if (why < 0)
		ch->close_want = true;
	channel_closing(ch);
	channel_release(ch);
}

static void stderr_close(struct stream *s, int why)
{
	struct ssh_channel *ch = of_stderr(s);
	size_t unread = ch->err.len;
	(void)why;
	ch->stderr_open = false;
	ch->stderr_owner = NULL;
	buf_end(&ch->err);
	channel_consumed(ch, unread);
	channel_release(ch);
}

static void stdio_bind(struct stream *s, struct task *t)
{
	struct ssh_channel *ch = of_stdio(s);
	ch->stdio_owner = t;
	if (t)
		task_wake(ch->rx, t);
}

static void stderr_bind(struct stream *s, struct task *t)
{
	struct ssh_channel *ch = of_stderr(s);
	ch->stderr_owner = t;
	if (t)
		task_wake(ch->rx, t);
}

static ssize_t stderr_write(struct stream *s, const struct iovec *iov, int n)
{
	(void)iov;
	struct ssh_channel *ch = of_stderr(s);
	if (n > 0)
		return -EPIPE;
	return ch->code || ch->state >= CHANNEL_RUNNING ? ch->code : -EAGAIN;
}

static int stderr_shut(struct stream *s)
{
	(void)s;
	return 0;
}

static const char *stdio_why(struct stream *s)
{
	return of_stdio(s)->code ? of_stdio(s)->why : NULL;
}

static const char *stderr_why(struct stream *s)
{
	return of_stderr(s)->code ? of_stderr(s)->why : NULL;
}

static const struct stream_ops stdio_ops = {
	.name = "ssh channel",
	.read = stdio_read,
	.write = stdio_write,
	.peek = stdio_peek,
	.drop = stdio_drop,
	.room = stdio_room,
	.added = stdio_added,
	.shut = stdio_shut,
	.close = stdio_close,
	.bind = stdio_bind,
	.why = stdio_why,
};

static const struct stream_ops stderr_ops = {
	.name = "ssh stderr",
	.read = stderr_read,
	.write = stderr_write,
	.peek = stderr_peek,
	.drop = stderr_drop,
	.shut = stderr_shut,
	.close = stderr_close,
	.bind = stderr_bind,
	.why = stderr_why,
};

void channel_streams_init(struct ssh_channel *ch)
{
	ch->stdio = (struct stream){ .ops = &stdio_ops, .rx = ch->rx };
	ch->stderr_ = (struct stream){ .ops = &stderr_ops, .rx = ch->rx };
}

struct stream *ssh_channel_stdio(struct ssh_channel *ch)
{
	BUG_ON(ch->stdio_given);
	ch->stdio_given = ch->stdio_open = true;
	return &ch->stdio;
}

struct stream *ssh_channel_stderr(struct ssh_channel *ch)
{
	BUG_ON(ch->stderr_given);
	ch->stderr_given = ch->stderr_open = true;
	return &ch->stderr_;
}
