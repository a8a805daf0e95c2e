#include "reactor/dial.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "reactor/dns.h"
#include "reactor/err.h"
#include "reactor/log.h"

enum {
	DEADLINE_MS = 30 * 1000,
	ATTEMPT_DELAY_MS = 250, /* RFC 8305 section 5 */
	REPEAT_MS = 500,
	UNIX_RETRY_MS = 20,
	WARN_MS = 60 * 1000
};

/* One address to connect to. Silence may mean that the network is cut, and then TCP repeats its SYN
 * ever more seldom (after 1, 3, 7 s), which would be felt when the network returns. So a second
 * attempt is begun anew every REPEAT_MS, beside the first, which stays for very long paths. */
struct attempt {
	int family;
	union {
		struct in_addr v4;
		struct in6_addr v6;
	};
	struct handle first, again; /* fd -1: not under way */
};

/* A stream being dialled. Lives until the stream is attached, failed or dropped. Thousands may be
 * under way at once: the addresses are apart. */
struct dial {
	struct reactor *rx;
	struct stream *stream;
	struct dns_query *query; /* not NULL while the name is being looked up */
	struct task task;        /* some attempt made progress */
	struct timer deadline;
	struct timer next;             /* when to begin another attempt, or to retry a unix one */
	struct attempt *attempts;      /* in the order of trying */
	unsigned count, started, live; /* attempts: all, begun, those that may still succeed */
	int error;                     /* the most telling failure so far */
	enum addr_kind kind;
	uint16_t port;
	char host[]; /* or the path of a unix socket */
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
	for (unsigned i = 0; i < d->count; i++) {
		handle_close(&d->attempts[i].first);
		handle_close(&d->attempts[i].again);
	}
	free(d->attempts);
	free(d);
}

static const char *network(const struct dial *d)
{
	if (d->kind == ADDR_UNIX)
		return "unix";
	return d->kind == ADDR_UDP ? "udp" : "tcp";
}

static struct addr addr_of(const struct dial *d)
{
	struct addr a = { .kind = d->kind, .port = d->port };
	if (d->kind == ADDR_UNIX)
		snprintf(a.path, sizeof(a.path), "%s", d->host);
	else
		snprintf(a.host, sizeof(a.host), "%s", d->host);
	return a;
}

static void fail_lookup(struct dial *d, int code)
{
	char why[320];
	snprintf(why, sizeof(why), "dial %s: lookup %s: %s", network(d), d->host, err_text(code));
	fd_stream_fail(d->stream, code, why);
	dial_free(d);
}

static void fail(struct dial *d, int code)
{
	char why[384];
	struct addr a = addr_of(d);
	const char *where = d->kind == ADDR_UNIX ? a.path : addr_text(&a);
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

static socklen_t target(const struct dial *d, const struct attempt *t, struct sockaddr_storage *ss)
{
	struct sockaddr_in *in = (void *)ss;
	struct sockaddr_in6 *in6 = (void *)ss;
	memset(ss, 0, sizeof(*ss));
	ss->ss_family = (sa_family_t)t->family;
	if (t->family == AF_INET) {
		in->sin_port = htons(d->port);
		in->sin_addr = t->v4;
		return sizeof(*in);
	}
	in6->sin6_port = htons(d->port);
	in6->sin6_addr = t->v6;
	return sizeof(*in6);
}

static int open_socket(const struct dial *d, int family)
{
	static uint64_t warned;
	int type = d->kind == ADDR_UDP ? SOCK_DGRAM : SOCK_STREAM;
	int fd = socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd != -1)
		return fd;
	int r = -errno;
	if ((r == -EMFILE || r == -ENFILE) && log_ratelimit(&warned, WARN_MS))
		log_warn("dial out-of-descriptors error=%s", log_quote(slice_str(err_text(r))));
	return r;
}

/* Starts one attempt: the connected descriptor, -EINPROGRESS (h is open), or -errno. */
static int begin(struct dial *d, const struct attempt *t, struct handle *h)
{
	struct sockaddr_storage ss;
	socklen_t len = target(d, t, &ss);
	int fd = open_socket(d, t->family);
	if (fd < 0)
		return fd;
	if (connect(fd, (const struct sockaddr *)&ss, len) == 0)
		return fd;
	int r = -errno;
	if (r == -EINPROGRESS) {
		r = handle_open(h, d->rx, fd, &d->task);
		if (r == 0)
			return -EINPROGRESS;
	}
	close(fd);
	return r;
}

/* Starts attempts until one is under way or none is left. May free d. */
static void attempt_next(struct dial *d)
{
	while (d->started < d->count) {
		struct attempt *t = &d->attempts[d->started++];
		int r = begin(d, t, &t->first);
		if (r >= 0) {
			succeed(d, r);
			return;
		}
		if (r == -EINPROGRESS) {
			d->live++;
			timer_set(d->rx, &d->next,
				  d->started < d->count ? ATTEMPT_DELAY_MS : REPEAT_MS);
			return;
		}
		note(d, r);
	}
	if (d->live == 0)
		fail(d, d->error);
}

/* All have been tried, and some have not answered: asks those once more. May free d. */
static void attempt_again(struct dial *d)
{
	timer_set(d->rx, &d->next, REPEAT_MS);
	for (unsigned i = 0; i < d->count; i++) {
		struct attempt *t = &d->attempts[i];
		if (t->first.fd == -1)
			continue;
		handle_close(&t->again);
		int r = begin(d, t, &t->again); /* if it fails, the first still waits */
		if (r >= 0) {
			succeed(d, r);
			return;
		}
	}
}

/* 0 = connected, -EAGAIN = not yet, else why it failed. */
static int handle_result(struct handle *h)
{
	struct sockaddr_storage peer, own;
	socklen_t len = sizeof(int), peer_len = sizeof(peer), own_len = sizeof(own);
	int error = 0;
	if (h->fd == -1 || !(h->ready & READY_OUT))
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

/* The connected descriptor, -EAGAIN = not yet, else why it failed. */
static int attempt_result(struct attempt *t)
{
	int first = handle_result(&t->first);
	if (first == 0)
		return handle_release(&t->first);
	int again = handle_result(&t->again);
	if (again == 0)
		return handle_release(&t->again);
	return first == -EAGAIN ? again : first;
}

static void dial_run(struct task *task)
{
	struct dial *d = container_of(task, struct dial, task);
	bool failed = false;
	for (unsigned i = 0; i < d->started; i++) {
		struct attempt *t = &d->attempts[i];
		int r = attempt_result(t);
		if (r == -EAGAIN)
			continue;
		if (r >= 0) {
			succeed(d, r);
			return;
		}
		note(d, r);
		handle_close(&t->first);
		handle_close(&t->again);
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
	struct addr a = addr_of(d);
	struct sockaddr_storage ss;
	socklen_t len;
	addr_literal(&a, &ss, &len);
	int fd = open_socket(d, AF_UNIX);
	if (fd < 0) {
		fail(d, fd);
		return;
	}
	if (connect(fd, (const struct sockaddr *)&ss, len) == 0) {
		succeed(d, fd);
		return;
	}
	int r = -errno;
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
	if (d->kind == ADDR_UNIX)
		connect_unix(d);
	else if (d->started < d->count)
		attempt_next(d);
	else
		attempt_again(d);
}

static void on_deadline(struct timer *t)
{
	struct dial *d = container_of(t, struct dial, deadline);
	if (d->query)
		fail_lookup(d, -ETIMEDOUT);
	else
		fail(d, -ETIMEDOUT);
}

/* Room for n addresses, which the caller fills in. */
static void attempts_new(struct dial *d, size_t n)
{
	d->count = (unsigned)n;
	d->attempts = xcalloc(n, sizeof(*d->attempts));
	for (size_t i = 0; i < n; i++)
		d->attempts[i].first.fd = d->attempts[i].again.fd = -1;
}

static void on_found(void *arg, const struct dns_result *found)
{
	struct dial *d = arg;
	d->query = NULL;
	if (found->code < 0) {
		fail_lookup(d, found->code);
		return;
	}
	attempts_new(d, found->count);
	for (size_t i = 0; i < found->count; i++) {
		d->attempts[i].family = found->addr[i].family;
		d->attempts[i].v6 = found->addr[i].v6; /* or v4 */
	}
	attempt_next(d);
}

static bool found_literal(struct dial *d, const struct addr *a)
{
	struct sockaddr_storage ss;
	socklen_t len;
	if (addr_literal(a, &ss, &len) < 0)
		return false;
	attempts_new(d, 1);
	d->attempts->family = ss.ss_family;
	if (ss.ss_family == AF_INET)
		d->attempts->v4 = ((struct sockaddr_in *)&ss)->sin_addr;
	else
		d->attempts->v6 = ((struct sockaddr_in6 *)&ss)->sin6_addr;
	return true;
}

struct stream *dial(struct reactor *rx, const struct addr *a, uint64_t ms)
{
	const char *host = a->kind == ADDR_UNIX ? a->path : a->host;
	size_t n = strlen(host) + 1;
	struct dial *d = xcalloc(1, sizeof(*d) + n);
	struct stream *s = fd_stream_pending(rx);
	if (ms == 0)
		ms = DEADLINE_MS;
	d->rx = rx;
	d->stream = s;
	d->kind = a->kind;
	d->port = a->port;
	memcpy(d->host, host, n);
	task_init(&d->task, dial_run);
	timer_init(&d->deadline, on_deadline);
	timer_init(&d->next, on_next);
	timer_set(rx, &d->deadline, ms);
	fd_stream_on_drop(s, dial_free, d);
	if (d->kind == ADDR_UNIX)
		connect_unix(d);
	else if (found_literal(d, a))
		attempt_next(d);
	else
		d->query =
		    dns_lookup(rx, slice_str(a->host[0] ? a->host : "localhost"), ms, on_found, d);
	return s;
}
