/* The connection: its bytes, its time, its life. */
#include <errno.h>

#include "proto/ssh/ssh_int.h"
#include "reactor/err.h"

enum {
	HANDSHAKE_MS = 30000,
	EXCHANGE_MS = 60000,       /* a later exchange has to end in so long */
	REKEY_MS = 60 * 60 * 1000, /* RFC 4253 section 9: an hour, a gigabyte */
	REKEY_BYTES = 1 << 30,
	REKEY_PACKETS = 1 << 30, /* far from 2^32, where numbers would repeat */
	PINGS_MAX = 3,
	TICK_MS = 60000,
	SSH_DISCONNECT_PROTOCOL_ERROR = 2,
	SSH_DISCONNECT_BY_APPLICATION = 11,
	/* One turn of the reactor: then others have theirs. */
	TURN_BYTES = 256 * 1024,
};

bool ssh_client_is_ready(const struct ssh_client *c)
{
	return c->state == CLIENT_OPEN;
}

const char *ssh_client_summary(const struct ssh_client *c)
{
	return c->summary ? c->summary : "";
}

const char *ssh_client_host_key(const struct ssh_client *c)
{
	return c->kex.fingerprint;
}

unsigned ssh_client_exchanges(const struct ssh_client *c)
{
	return c->kex.done;
}

/* --- sending --- */

static bool exchanging(const struct ssh_client *c)
{
	return c->kex.state == KEX_ASKED || c->kex.state == KEX_REPLY;
}

bool client_writable(const struct ssh_client *c)
{
	return c->state == CLIENT_OPEN && !exchanging(c) && c->out.len < OUT_SOFT;
}

void client_flush_later(struct ssh_client *c)
{
	task_defer(c->rx, &c->flush_task);
}

static void send_now(struct ssh_client *c, struct slice payload)
{
	if (c->out.max - c->out.len < payload.n + PACKET_EXTRA) {
		c->overflow = true;
		task_wake(c->rx, &c->task);
		return;
	}
	memcpy(packet_room(&c->out, payload.n), payload.p, payload.n);
	packet_seal(&c->send, &c->out, payload.n);
	client_flush_later(c);
}

/* RFC 4253 section 7.1: what may be sent between our KEXINIT and our NEWKEYS. */
static bool of_transport(uint8_t type)
{
	return type < 50 && type != MSG_SERVICE_REQUEST && type != MSG_SERVICE_ACCEPT;
}

void client_send(struct ssh_client *c, struct slice payload)
{
	char length[4];
	if (c->state == CLIENT_DEAD)
		return;
	if (!exchanging(c) || of_transport((uint8_t)payload.p[0])) {
		send_now(c, payload);
		return;
	}
	ssh_put_u32(length, (uint32_t)payload.n);
	if (c->held.max - c->held.len < 4 + payload.n) {
		c->overflow = true;
		task_wake(c->rx, &c->task);
		return;
	}
	buf_put(&c->held, slice_of(length, 4));
	buf_put(&c->held, payload);
}

void client_release(struct ssh_client *c)
{
	struct list *l;
	while (c->held.len > 0) {
		struct slice held = buf_data(&c->held);
		size_t n = ssh_get_u32(held.p);
		send_now(c, slice_of(held.p + 4, n));
		buf_drop(&c->held, 4 + n);
	}
	for (l = c->channels.next; l != &c->channels; l = l->next)
		channel_wake(container_of(l, struct ssh_channel, link));
}

/* --- the end --- */

int client_fail(struct ssh_client *c, int code, const char *fmt, ...)
{
	struct list *l;
	va_list ap;
	if (c->state == CLIENT_DEAD)
		return c->code;
	char text[WHY_MAX];
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	struct slice last = buf_data(&c->out);
	if (last.n > 0) /* perhaps a DISCONNECT: it gets this one chance */
		stream_write(c->lower, last.p, last.n);
	c->state = CLIENT_DEAD;
	c->code = code;
	c->why = xasprintf("ssh: %s", text);
	stream_close(c->lower, 0);
	c->lower = NULL;
	task_cancel(&c->task);
	task_cancel(&c->flush_task);
	timer_clear(c->rx, &c->timer);
	transport_end(c);
	while (!list_empty(&c->channels)) {
		l = c->channels.next;
		channel_end(container_of(l, struct ssh_channel, link), code, c->why);
	}
	task_wake(c->rx, &c->tell_task);
	return code;
}

int client_fault(struct ssh_client *c, const char *fmt, ...)
{
	char text[WHY_MAX];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	transport_goodbye(c, SSH_DISCONNECT_PROTOCOL_ERROR, "protocol error");
	return client_fail(c, -EPROTO, "the server sent %s", text);
}

static void tell_run(struct task *t)
{
	struct ssh_client *c = container_of(t, struct ssh_client, tell_task);
	bool ready = c->telling_ready;
	c->telling_ready = false;
	if (c->state == CLIENT_DEAD && !c->told_failed) {
		c->told_failed = true;
		if (c->failed)
			c->failed(c->arg, c->code, c->why);
	} else if (ready && c->ready) {
		c->ready(c->arg);
	}
}

/* --- time --- */

static void tick(struct timer *t)
{
	struct ssh_client *c = container_of(t, struct ssh_client, timer);
	uint64_t now = reactor_now(c->rx), every = c->keepalive_ms;
	if (c->state != CLIENT_OPEN) {
		client_fail(c, -ETIMEDOUT, "%s",
			    c->state == CLIENT_VERSION ? "the server did not say that it is one in "
							 "time"
			    : c->state == CLIENT_KEX   ? "the key exchange took too long"
						       : "authentication took too long");
		return;
	}
	if (c->kex.state != KEX_IDLE && now - c->kex.began > EXCHANGE_MS) {
		client_fail(c, -ETIMEDOUT, "the server did not answer to a key exchange");
		return;
	}
	if (now - c->kex.ended > REKEY_MS)
		transport_rekey(c);
	if (every && now - c->heard >= every) {
		char p[40];
		struct ssh_wire_out w = { p, 0, sizeof(p) };
		if (c->silent >= PINGS_MAX) {
			client_fail(c, -ETIMEDOUT, "the server no longer answers");
			return;
		}
		put_u8(&w, MSG_GLOBAL_REQUEST);
		put_str(&w, "keepalive@openssh.com");
		put_u8(&w, 1);
		c->pings++;
		c->silent++;
		client_send(c, ssh_wire_written(&w));
	}
	if (c->state != CLIENT_DEAD)
		timer_set(c->rx, &c->timer, every ? MIN(every, TICK_MS) : TICK_MS);
}

void client_opened(struct ssh_client *c)
{
	const struct kex_agreed *a = &c->kex.agreed;
	char version[VERSION_MAX + 1];
	struct list *l;
	c->state = CLIENT_OPEN;
	c->recv.max = PACKET_MAX;
	if (c->password)
		secret_wipe(c->password, strlen(c->password));
	c->key = NULL;
	c->summary = xasprintf(
	    "%s, %.*s, %s %s, %s%s%s", ssh_text(slice_str(c->v_s), false, version, sizeof(version)),
	    SLICE_FMT(a->kex), a->host_alg->name, c->kex.fingerprint, a->cipher[0]->name,
	    a->mac[0] ? " " : "", a->mac[0] ? a->mac[0]->name : "");
	c->heard = reactor_now(c->rx);
	timer_set(c->rx, &c->timer, c->keepalive_ms ? MIN(c->keepalive_ms, TICK_MS) : TICK_MS);
	c->telling_ready = true;
	task_wake(c->rx, &c->tell_task);
	for (l = c->channels.next; l != &c->channels;) {
		struct ssh_channel *ch = container_of(l, struct ssh_channel, link);
		l = l->next;
		channel_begin(ch);
	}
}

/* --- bytes --- */

/* 0, or the client is dead. */
static int flush(struct ssh_client *c)
{
	bool some = false;
	while (c->out.len > 0) {
		struct slice d = buf_data(&c->out);
		ssize_t n = stream_write(c->lower, d.p, d.n);
		if (n == -EAGAIN)
			break;
		if (n < 0)
			return client_fail(c, (int)n, "%s", stream_why(c->lower, (int)n));
		buf_drop(&c->out, (size_t)n);
		some = true;
	}
	if (some && client_writable(c))
		for (struct list *l = c->channels.next; l != &c->channels; l = l->next)
			channel_wake(container_of(l, struct ssh_channel, link));
	if (c->paused && c->out.len < OUT_PAUSE) {
		c->paused = false;
		task_wake(c->rx, &c->task);
	}
	return 0;
}

static void flush_run(struct task *t)
{
	flush(container_of(t, struct ssh_client, flush_task));
}

int client_message(struct ssh_client *c, struct slice payload)
{
	int r = transport_message(c, payload);
	if (r == 0 && c->overflow)
		r = client_fail(c, -ERR_TOO_MANY, "more waits to be sent than may");
	return r;
}

/* Opens what has come: 0, or the client is dead. */
static int parse(struct ssh_client *c)
{
	if (c->state == CLIENT_VERSION) {
		int r = transport_version(c);
		if (r < 0 || c->state == CLIENT_VERSION)
			return r;
	}
	while (c->in.len > 0 && c->out.len < OUT_PAUSE) {
		struct slice payload;
		const char *why;
		ssize_t n =
		    packet_open(&c->recv, c->in.base + c->in.head, c->in.len, &payload, &why);
		if (n < 0)
			return client_fault(c, "%s", why);
		if (n == 0)
			return 0;
		int r = client_message(c, payload);
		if (r < 0)
			return r;
		buf_drop(&c->in, (size_t)n);
	}
	if (c->state == CLIENT_OPEN &&
	    (c->recv.bytes > c->rekey_bytes || c->recv.packets > REKEY_PACKETS))
		transport_rekey(c);
	return 0;
}

static int ended(struct ssh_client *c)
{
	static const char *const when[] = {
		[CLIENT_VERSION] = "before it said that it is an SSH server",
		[CLIENT_KEX] = "during the key exchange",
		[CLIENT_SERVICE] = "before authentication",
		[CLIENT_AUTH] = "during authentication",
		[CLIENT_OPEN] = "without a word",
	};
	return client_fail(c, -ERR_TRUNCATED, "the server closed the connection %s%s%s%s",
			   when[c->state], c->said[0] ? ": \"" : "", c->said,
			   c->said[0] ? "\"" : "");
}

static void run(struct task *t)
{
	struct ssh_client *c = container_of(t, struct ssh_client, task);
	if (c->overflow) {
		client_fail(c, -ERR_TOO_MANY, "more waits to be sent than may");
		return;
	}
	for (size_t done = 0;;) {
		if (parse(c) < 0)
			return;
		if (c->out.len >= OUT_PAUSE) {
			c->paused = true;
			break;
		}
		if (done >= TURN_BYTES) {
			task_wake(c->rx, &c->task);
			break;
		}
		struct iovec room = buf_room_for(&c->in, READ_SIZE);
		ssize_t n = stream_read(c->lower, room.iov_base, room.iov_len);
		buf_added(&c->in, n > 0 ? (size_t)n : 0);
		if (n == -EAGAIN)
			break;
		if (n == 0) {
			ended(c);
			return;
		}
		if (n < 0) {
			client_fail(c, (int)n, "%s", stream_why(c->lower, (int)n));
			return;
		}
		done += (size_t)n;
		c->heard = reactor_now(c->rx);
		c->silent = 0;
	}
	flush(c);
}

/* --- birth --- */

static char *dup_or_null(const char *s)
{
	return s ? xstrdup(s) : NULL;
}

/* Every name of list is one of ours? */
static bool names_ours(const char *list, const char *ours)
{
	struct slice left = slice_str(list), name;
	if (left.n == 0 || !name_list_ok(left))
		return false;
	while (name_next(&left, &name))
		if (!name_in(slice_str(ours), name))
			return false;
	return true;
}

static void set_offer(struct ssh_client *c, const struct ssh_options *o)
{
	const char *want[4] = { o->kex, o->host_key_algs, o->ciphers, o->macs };
	const char *ours[4] = { kex_names, host_alg_names, cipher_names, mac_names };
	static const char *const what[4] = { "key exchange method", "host key type", "cipher",
					     "MAC" };
	for (int i = 0; i < 4; i++) {
		if (want[i] && !names_ours(want[i], ours[i]))
			client_fail(c, -EINVAL, "%s: there are %s, not %.200s", what[i], ours[i],
				    want[i]);
		else if (want[i])
			ours[i] = want[i];
		c->offer_text[i] = xstrdup(ours[i]);
	}
	if (!c->pin && !want[1])
		known_hosts_order(slice_of(c->known_hosts, c->known_hosts_n), c->host, c->port,
				  ours[1], c->offer_text[1]);
	c->offer = (struct kex_offer){ c->offer_text[0], c->offer_text[1], c->offer_text[2],
				       c->offer_text[3] };
}

struct ssh_client *ssh_client_new(struct reactor *rx, struct stream *s, const struct ssh_options *o)
{
	struct ssh_client *c = xcalloc(1, sizeof(*c));
	char line[64];
	c->rx = rx;
	c->lower = s;
	task_init(&c->task, run);
	task_init(&c->flush_task, flush_run);
	task_init(&c->tell_task, tell_run);
	timer_init(&c->timer, tick);
	buf_init(&c->in, IN_MAX);
	buf_init(&c->out, OUT_MAX);
	buf_init(&c->held, HELD_MAX);
	packets_init(&c->recv);
	packets_init(&c->send);
	list_init(&c->channels);
	c->user = xstrdup(o->user ? o->user : "");
	c->password = dup_or_null(o->password);
	c->key = o->key;
	c->host = xstrdup(o->host ? o->host : "");
	c->port = o->port;
	c->pin = dup_or_null(o->host_pin);
	c->known_hosts = xslicedup(o->known_hosts);
	c->known_hosts_n = o->known_hosts.n;
	c->known_hosts_name = xstrdup(o->known_hosts_name ? o->known_hosts_name : "known_hosts");
	c->unknown_host = o->unknown_host;
	c->rekey_bytes = o->rekey_bytes ? o->rekey_bytes : REKEY_BYTES;
	c->keepalive_ms = o->keepalive_ms;
	c->ready = o->ready;
	c->failed = o->failed;
	c->banner = o->banner;
	c->arg = o->arg;
	set_offer(c, o);
	if (c->state == CLIENT_DEAD)
		return c;
	if (strlen(c->user) > 1024 || (c->password && strlen(c->password) > 1024)) {
		client_fail(c, -EINVAL, "user and password may have 1024 bytes at most");
		return c;
	}
	stream_bind(s, &c->task);
	timer_set(rx, &c->timer, o->handshake_ms ? o->handshake_ms : HANDSHAKE_MS);
	snprintf(line, sizeof(line), "%s\r\n", ssh_version);
	buf_puts(&c->out, line);
	transport_rekey(c);
	task_wake(rx, &c->task);
	return c;
}

void ssh_client_free(struct ssh_client *c)
{
	if (!c)
		return;
	for (struct list *l = c->channels.next; l != &c->channels; l = l->next)
		container_of(l, struct ssh_channel, link)->exited = NULL;
	if (c->state != CLIENT_DEAD) {
		if (c->state == CLIENT_OPEN)
			transport_goodbye(c, SSH_DISCONNECT_BY_APPLICATION, "bye");
		client_fail(c, -ERR_CANCELLED, "cancelled");
	}
	task_cancel(&c->tell_task);
	buf_end(&c->in);
	buf_end(&c->out);
	buf_end(&c->held);
	if (c->password)
		secret_wipe(c->password, strlen(c->password));
	for (int i = 0; i < 4; i++)
		free(c->offer_text[i]);
	free(c->kex.host_key);
	free(c->user);
	free(c->password);
	free(c->host);
	free(c->pin);
	free(c->known_hosts);
	free(c->known_hosts_name);
	free(c->why);
	free(c->summary);
	secret_wipe(c, sizeof(*c));
	free(c);
}
