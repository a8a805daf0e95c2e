#include "proto/tstunnel/udp_dial.h"

#include <errno.h>
#include <unistd.h>

#include "proto/tstunnel/dgram.h"
#include "proto/tstunnel/mux.h"
#include "reactor/dns.h"
#include "reactor/err.h"
#include "reactor/udp.h"

enum {
	LOOKUP_MS = 30 * 1000,
	BURST = 64,           /* datagrams received a turn */
	AGAIN_MAX = 64 * 1024 /* kept for the name's next address */
};

struct udp_dial {
	struct reactor *rx;
	struct stream *s;
	struct task task; /* the stream's, and the socket's owner */
	struct handle socket;
	struct dgram dgram;
	struct addr to;
	struct dns_query *query;  /* while the name is looked up */
	struct dns_result *found; /* until an address has answered, or none is left */
	size_t at;                /* the address in use */
	struct buf again;         /* what was sent so far, to be sent to the next address, too */
	int failed;               /* what the socket said */
	uint64_t sent, received;
	pump_finished *finished;
	void *arg;
};

static void settle_address(struct udp_dial *u)
{
	free(u->found);
	u->found = NULL;
	buf_end(&u->again);
}

/* --- the end --- */

static void udp_dial_end(struct udp_dial *u, int code, bool by_stream, const char *why)
{
	struct pump_end end = {
		.code = code, .a_failed = by_stream, .a_to_b = u->sent, .b_to_a = u->received
	};
	pump_finished *finished = u->finished;
	void *arg = u->arg;
	char *text = why ? xstrdup(why) : NULL; /* it may be the stream's own */
	if (u->query)
		dns_cancel(u->query);
	settle_address(u);
	task_cancel(&u->task);
	handle_close(&u->socket);
	dgram_end(&u->dgram);
	if (code < 0 && !by_stream)
		mux_refuse(u->s, code, text);
	else
		stream_close(u->s, code);
	free(u);
	if (finished)
		finished(arg, &end, text ? text : err_text(code));
	free(text);
}

static void target_failed(struct udp_dial *u, int code)
{
	char why[384];
	snprintf(why, sizeof(why), "dial udp %s: %s", addr_text(&u->to), err_text(code));
	udp_dial_end(u, code, false, why);
}

/* --- the socket --- */

/* What the kernel does not take now is lost; what else it says is about the target. */
static void send_one(struct udp_dial *u, struct slice d)
{
	int r = udp_connected_send(&u->socket, d);
	if (r < 0 && r != -EAGAIN && r != -ENOBUFS && r != -EMSGSIZE && r != -EINTR)
		u->failed = r;
}

static void on_datagram(void *arg, struct slice d)
{
	struct udp_dial *u = arg;
	u->sent += d.n;
	if (u->found && u->again.len + DGRAM_HEADER + d.n <= u->again.max) {
		char header[DGRAM_HEADER];
		dgram_header(header, d.n);
		buf_put(&u->again, slice_of(header, DGRAM_HEADER));
		buf_put(&u->again, d);
	}
	if (!u->failed)
		send_one(u, d);
}

/* Connects to the address in use or the first after it that can be. 0 or the code of the last. */
static int open_socket(struct udp_dial *u)
{
	int r = -ERR_DNS_NOT_FOUND;
	handle_close(&u->socket);
	for (; u->at < u->found->count; u->at++) {
		struct sockaddr_storage ss;
		socklen_t len = dns_sockaddr(u->found, u->at, u->to.port, &ss);
		r = udp_connect(&ss, len);
		int fd = r;
		if (r >= 0)
			r = handle_open(&u->socket, u->rx, fd, &u->task);
		if (r == 0)
			return 0;
		if (fd >= 0)
			close(fd);
	}
	return r;
}

/* Nobody is at this address; somebody may be at the next. */
static int next_address(struct udp_dial *u)
{
	int code = u->failed;
	if (!u->found || ++u->at == u->found->count || open_socket(u) < 0)
		return code;
	u->failed = 0;
	struct slice d = buf_data(&u->again);
	while (d.n > 0) {
		size_t n = dgram_length(d.p);
		send_one(u, slice_of(d.p + DGRAM_HEADER, n));
		d = slice_after(d, DGRAM_HEADER + n);
	}
	return 0;
}

/* 0, or the code that the stream failed with. */
static int receive(struct udp_dial *u)
{
	for (int i = 0; i < BURST; i++) {
		int r = dgram_flush(&u->dgram, u->s);
		if (r < 0)
			return r == -EAGAIN ? 0 : r; /* the kernel keeps the rest, or drops it */
		char *p = reactor_scratch(u->rx);
		ssize_t n = udp_connected_recv(&u->socket, p, UDP_MAX);
		if (n == -EAGAIN)
			return 0;
		if (n < 0) {
			u->failed = (int)n;
			return 0;
		}
		settle_address(u);
		u->received += (uint64_t)n;
		r = dgram_write(&u->dgram, u->s, slice_of(p, (size_t)n));
		if (r < 0 && r != -ENOBUFS)
			return r;
	}
	task_wake(u->rx, &u->task);
	return 0;
}

static void open_first(struct udp_dial *u)
{
	int r = open_socket(u);
	if (r < 0) {
		target_failed(u, r);
		return;
	}
	if (u->at + 1 == u->found->count)
		settle_address(u);
	mux_accept(u->s, SLICE(""));
	task_wake(u->rx, &u->task);
}

/* What the peer sends before there is a socket waits in the stream. */
static void wait_run(struct udp_dial *u)
{
	int r = stream_open_yet(u->s);
	if (r < 0 && r != -EAGAIN && r != -EPIPE)
		udp_dial_end(u, r, true, stream_why(u->s, r));
	else if (!u->query)
		open_first(u);
}

static void udp_dial_run(struct task *t)
{
	struct udp_dial *u = container_of(t, struct udp_dial, task);
	if (u->socket.fd == -1) {
		wait_run(u);
		return;
	}
	int got = dgram_read(&u->dgram, u->s, on_datagram, u), r = 0;
	if (got == 1)
		task_wake(u->rx, &u->task);
	else if (got < 0 && got != -EAGAIN)
		r = got;
	if (r == 0)
		r = receive(u);
	if (r == -EPIPE) /* nobody wants answers; what was sent goes on */
		r = 0;
	for (; u->failed && r == 0; task_wake(u->rx, &u->task)) {
		int code = next_address(u);
		if (code < 0) {
			target_failed(u, code);
			return;
		}
	}
	if (r < 0)
		udp_dial_end(u, r, true, stream_why(u->s, r));
	else if (got == 0)
		udp_dial_end(u, 0, false, NULL);
}

/* --- the beginning --- */

static void on_found(void *arg, const struct dns_result *found)
{
	struct udp_dial *u = arg;
	u->query = NULL;
	*u->found = *found;
	if (found->code == 0) {
		open_first(u);
		return;
	}
	char why[384];
	snprintf(why, sizeof(why), "dial udp: lookup %s: %s", u->to.host, err_text(found->code));
	udp_dial_end(u, found->code, false, why);
}

struct udp_dial *udp_dial_start(struct reactor *rx, struct stream *s, const struct addr *to,
				pump_finished *finished, void *arg)
{
	const char *host = to->host[0] ? to->host : "localhost";
	struct udp_dial *u = xcalloc(1, sizeof(*u));
	u->rx = rx;
	u->s = s;
	u->to = *to;
	u->finished = finished;
	u->arg = arg;
	u->socket.fd = -1;
	u->found = xcalloc(1, sizeof(*u->found));
	dgram_init(&u->dgram);
	buf_init(&u->again, AGAIN_MAX);
	task_init(&u->task, udp_dial_run);
	if (!dns_literal(host, u->found))
		u->query = dns_lookup(rx, slice_str(host), LOOKUP_MS, on_found, u);
	stream_bind(s, &u->task);
	task_wake(rx, &u->task);
	return u;
}

void udp_dial_abort(struct udp_dial *u, int code)
{
	udp_dial_end(u, code, false, NULL);
}

void udp_dial_moved(const struct udp_dial *u, uint64_t *a_to_b, uint64_t *b_to_a)
{
	*a_to_b = u->sent;
	*b_to_a = u->received;
}
