#include "reactor/dial.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "reactor/dns.h"
#include "reactor/err.h"

enum {
	DEADLINE_MS = 30 * 1000,
	ATTEMPT_DELAY_MS = 250, /* RFC 8305 section 5 */
	UNIX_RETRY_MS = 20
};

/* A stream being dialled. Lives until the stream is attached, failed or dropped. */
struct dial {
	struct reactor *rx;
	struct stream *stream;
	struct addr addr;
	struct dns_query *query; /* not NULL while the name is being looked up */
	struct task task;        /* some attempt made progress */
	struct timer deadline;
	struct timer next;       /* when to start another attempt, or to retry a unix one */
	struct dns_result found; /* where to connect to, in this order */
	size_t started, live;    /* attempts; those that may still succeed */
	struct handle attempt[DNS_MAX_ADDRS];
	int error; /* the most telling failure so far */
};

/* --- how it ends: every function here frees d --- */

static void dial_free(void *arg)
{
	struct dial *d = arg;
	if (d->query)
		dns_cancel(d->query);
	task_cancel(&d->task);
	timer_clear(d->rx, &d->deadline);
	timer_clear(d->rx, &d->next);
	for (size_t i = 0; i < d->started; i++)
		handle_close(&d->attempt[i]);
	free(d);
}

static const char *network(const struct dial *d)
{
	if (d->addr.kind == ADDR_UNIX)
		return "unix";
	return d->addr.kind == ADDR_UDP ? "udp" : "tcp";
}

static void fail_lookup(struct dial *d, int code)
{
	char why[320];
	snprintf(why, sizeof(why), "dial %s: lookup %s: %s", network(d), d->addr.host,
		 err_text(code));
	fd_stream_fail(d->stream, code, why);
	dial_free(d);
}

static void fail(struct dial *d, int code)
{
	char why[384];
	const char *where = d->addr.kind == ADDR_UNIX ? d->addr.path : addr_text(&d->addr);
	snprintf(why, sizeof(why), "dial %s %s: %s", network(d), where, err_text(code));
	fd_stream_fail(d->stream, code, why);
	dial_free(d);
}

static void succeed(struct dial *d, int fd)
{
	fd_stream_attach(d->stream, fd);
	dial_free(d);
}

/* --- attempts --- */

/* Remembers why an attempt failed. That a family has no route here says less than what the peer of
 * the other family answered. */
static void note(struct dial *d, int code)
{
	if (d->error == 0 || d->error == -ENETUNREACH || d->error == -EHOSTUNREACH ||
	    d->error == -EADDRNOTAVAIL || d->error == -EAFNOSUPPORT)
		d->error = code;
}

static socklen_t target(const struct dial *d, size_t i, struct sockaddr_storage *ss)
{
	struct sockaddr_in *in = (void *)ss;
	struct sockaddr_in6 *in6 = (void *)ss;
	memset(ss, 0, sizeof(*ss));
	ss->ss_family = (sa_family_t)d->found.addr[i].family;
	if (ss->ss_family == AF_INET) {
		in->sin_port = htons(d->addr.port);
		in->sin_addr = d->found.addr[i].v4;
		return sizeof(*in);
	}
	in6->sin6_port = htons(d->addr.port);
	in6->sin6_addr = d->found.addr[i].v6;
	return sizeof(*in6);
}

static int open_socket(const struct dial *d, int family)
{
	int type = d->addr.kind == ADDR_UDP ? SOCK_DGRAM : SOCK_STREAM;
	int fd = socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	return fd == -1 ? -errno : fd;
}

/* Starts one attempt: the connected descriptor, -EINPROGRESS (d->attempt[i] is open), or -errno. */
static int attempt(struct dial *d, size_t i, const struct sockaddr_storage *ss, socklen_t len)
{
	int fd = open_socket(d, ss->ss_family);
	int r;
	d->attempt[i].fd = -1;
	if (fd < 0)
		return fd;
	if (connect(fd, (const struct sockaddr *)ss, len) == 0)
		return fd;
	r = -errno;
	if (r == -EINPROGRESS) {
		r = handle_open(&d->attempt[i], d->rx, fd, &d->task);
		if (r == 0)
			return -EINPROGRESS;
	}
	close(fd);
	return r;
}

/* Starts attempts until one is under way or none is left. May free d. */
static void attempt_next(struct dial *d)
{
	while (d->started < d->found.count) {
		struct sockaddr_storage ss;
		size_t i = d->started++;
		socklen_t len = target(d, i, &ss);
		int r = attempt(d, i, &ss, len);
		if (r >= 0) {
			succeed(d, r);
			return;
		}
		if (r == -EINPROGRESS) {
			d->live++;
			if (d->started < d->found.count)
				timer_set(d->rx, &d->next, ATTEMPT_DELAY_MS);
			return;
		}
		note(d, r);
	}
	if (d->live == 0)
		fail(d, d->error);
}

/* 0 = connected, -EAGAIN = not yet, else why it failed. */
static int attempt_result(struct handle *h)
{
	struct sockaddr_storage peer, own;
	socklen_t len = sizeof(int), peer_len = sizeof(peer), own_len = sizeof(own);
	int error = 0;
	if (!(h->ready & READY_OUT))
		return -EAGAIN;
	if (getsockopt(h->fd, SOL_SOCKET, SO_ERROR, &error, &len) == -1)
		return -errno;
	if (error)
		return -error;
	if (getpeername(h->fd, (struct sockaddr *)&peer, &peer_len) == -1) {
		h->ready = 0;
		return -EAGAIN;
	}
	/* Nobody listened, but the kernel gave us the very port we dialled, and so us to us. */
	if (getsockname(h->fd, (struct sockaddr *)&own, &own_len) == 0 && own_len == peer_len &&
	    memcmp(&own, &peer, own_len) == 0)
		return -ECONNREFUSED;
	return 0;
}

static void dial_run(struct task *t)
{
	struct dial *d = container_of(t, struct dial, task);
	bool failed = false;
	for (size_t i = 0; i < d->started; i++) {
		struct handle *h = &d->attempt[i];
		int r = h->fd == -1 ? -EAGAIN : attempt_result(h);
		if (r == -EAGAIN)
			continue;
		if (r == 0)
			r = handle_release(h);
		if (r >= 0) {
			succeed(d, r);
			return;
		}
		note(d, r);
		handle_close(h);
		d->live--;
		failed = true;
	}
	if (failed)
		attempt_next(d);
}

/* --- unix sockets --- */

/* A full backlog says EAGAIN and nothing tells when that has changed, so it is tried again. */
static void connect_unix(struct dial *d)
{
	struct sockaddr_storage ss;
	socklen_t len;
	int fd, r;
	addr_literal(&d->addr, &ss, &len);
	fd = open_socket(d, AF_UNIX);
	if (fd < 0) {
		fail(d, fd);
		return;
	}
	if (connect(fd, (const struct sockaddr *)&ss, len) == 0) {
		succeed(d, fd);
		return;
	}
	r = -errno;
	close(fd);
	if (r == -EAGAIN)
		timer_set(d->rx, &d->next, UNIX_RETRY_MS);
	else
		fail(d, r);
}

/* --- timers, the resolver, the beginning --- */

static void on_next(struct timer *t)
{
	struct dial *d = container_of(t, struct dial, next);
	if (d->addr.kind == ADDR_UNIX)
		connect_unix(d);
	else
		attempt_next(d);
}

static void on_deadline(struct timer *t)
{
	struct dial *d = container_of(t, struct dial, deadline);
	if (d->query)
		fail_lookup(d, -ETIMEDOUT);
	else
		fail(d, -ETIMEDOUT);
}

static void on_found(void *arg, const struct dns_result *found)
{
	struct dial *d = arg;
	d->query = NULL;
	if (found->code < 0) {
		fail_lookup(d, found->code);
		return;
	}
	d->found = *found;
	attempt_next(d);
}

static bool found_literal(struct dial *d)
{
	struct sockaddr_storage ss;
	socklen_t len;
	if (addr_literal(&d->addr, &ss, &len) < 0)
		return false;
	d->found.count = 1;
	d->found.addr[0].family = ss.ss_family;
	if (ss.ss_family == AF_INET)
		d->found.addr[0].v4 = ((struct sockaddr_in *)&ss)->sin_addr;
	else
		d->found.addr[0].v6 = ((struct sockaddr_in6 *)&ss)->sin6_addr;
	return true;
}

struct stream *dial(struct reactor *rx, const struct addr *a, uint64_t ms)
{
	struct dial *d = xcalloc(1, sizeof(*d));
	struct stream *s = fd_stream_pending(rx);
	if (ms == 0)
		ms = DEADLINE_MS;
	d->rx = rx;
	d->stream = s;
	d->addr = *a;
	task_init(&d->task, dial_run);
	timer_init(&d->deadline, on_deadline);
	timer_init(&d->next, on_next);
	timer_set(rx, &d->deadline, ms);
	fd_stream_on_drop(s, dial_free, d);
	if (d->addr.kind == ADDR_UNIX)
		connect_unix(d);
	else if (found_literal(d))
		attempt_next(d);
	else
		d->query =
		    dns_lookup(rx, slice_str(a->host[0] ? a->host : "localhost"), ms, on_found, d);
	return s;
}
