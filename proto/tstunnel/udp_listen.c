#include "proto/tstunnel/udp_listen.h"

#include <errno.h>

#include "proto/tstunnel/dgram.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "reactor/udp.h"

enum {
	BURST = 64, /* datagrams received a turn */
	BUCKETS = 256,
	UDP_IDLE_MAX_MS = 24 * 3600 * 1000,
	LOST_LOG_MS = 60 * 1000
};

struct flow {
	struct list link; /* listener.flows[answered], the one silent for longest first */
	struct flow *bucket_next;
	struct udp_listener *l;
	struct task task; /* the stream's */
	struct stream *s;
	struct dgram dgram;
	struct udp_path path;
	uint64_t started_ms, last_ms;
	uint64_t in, out;
	bool answered;
};

struct udp_listener {
	struct reactor *rx;
	struct udp_listen_options opt;
	struct udp_socket socket;
	struct task task; /* the socket's */
	struct timer idle;
	struct list flows[2];
	size_t nflows;
	uint64_t lost, lost_logged;
	uint32_t seed;
	struct flow *bucket[BUCKETS];
};

/* --- the table --- */

static struct flow **slot_of(struct udp_listener *l, const struct udp_path *p)
{
	uint32_t h = l->seed; /* FNV-1a */
	for (size_t i = 0; i < sizeof(*p); i++)
		h = (h ^ ((const unsigned char *)p)[i]) * 16777619u;
	struct flow **at = &l->bucket[h % BUCKETS];
	while (*at && memcmp(&(*at)->path, p, sizeof(*p)) != 0)
		at = &(*at)->bucket_next;
	return at;
}

static uint64_t limit_of(const struct flow *f)
{
	return f->l->opt.idle_ms * (f->answered ? UDP_ANSWERED : 1);
}

static struct flow *oldest(const struct list *l)
{
	if (list_empty(l))
		return NULL;
	// NOLINTNEXTLINE(clang-analyzer-unix.Malloc): it cannot follow a ring
	return container_of(l->next, struct flow, link);
}

/* Something came or went: the last in its list. */
static void touch(struct flow *f)
{
	struct udp_listener *l = f->l;
	f->last_ms = reactor_now(l->rx);
	list_del(&f->link);
	list_add_tail(&l->flows[f->answered], &f->link);
	if (!timer_is_set(&l->idle))
		timer_set(l->rx, &l->idle, l->opt.idle_ms);
}

static void flow_end(struct flow *f, int code, bool by_stream)
{
	struct udp_listener *l = f->l;
	struct pump_end end = {
		.code = code, .a_failed = !by_stream, .a_to_b = f->in, .b_to_a = f->out
	};
	uint64_t ms = reactor_now(l->rx) - f->started_ms;
	char *why = by_stream && code < 0 ? xstrdup(stream_why(f->s, code)) : NULL;
	*slot_of(l, &f->path) = f->bucket_next;
	list_del(&f->link);
	l->nflows--;
	task_cancel(&f->task);
	dgram_end(&f->dgram);
	stream_close(f->s, code);
	free(f);
	if (l->opt.ended)
		l->opt.ended(l->opt.arg, &end, why ? why : err_text(code), ms);
	free(why);
}

/* Ends what was silent for too long and comes again for the next one. */
static void idle_fire(struct timer *t)
{
	struct udp_listener *l = container_of(t, struct udp_listener, idle);
	/* At least as often as the shortest limit, since a flow that begins does not move the
	 * timer.
	 */
	uint64_t now = reactor_now(l->rx), next = l->opt.idle_ms;
	for (size_t i = 0; i < ARRAY_LEN(l->flows); i++) {
		struct flow *f;
		while ((f = oldest(&l->flows[i])) && now - f->last_ms >= limit_of(f))
			flow_end(f, 0, false);
		if (f)
			next = MIN(next, f->last_ms + limit_of(f) - now);
	}
	if (l->nflows > 0)
		timer_set(l->rx, &l->idle, next);
}

static void make_room(struct udp_listener *l)
{
	struct flow *a = oldest(&l->flows[0]), *b = oldest(&l->flows[1]);
	struct flow *f = a && (!b || a->last_ms <= b->last_ms) ? a : b;
	if (f && l->nflows >= UDP_FLOWS_MAX)
		flow_end(f, 0, false);
}

/* --- datagrams --- */

static void on_lost(struct udp_listener *l)
{
	l->lost++;
	if (log_ratelimit(&l->lost_logged, LOST_LOG_MS))
		log_warn("datagrams lost port=%u so-far=%llu reason=\"the tunnel is too slow\"",
			 l->socket.port, (unsigned long long)l->lost);
}

static void on_answer(void *arg, struct slice d)
{
	struct flow *f = arg;
	f->answered = true;
	f->out += d.n;
	udp_send(&f->l->socket, d, &f->path); /* what the kernel does not take is lost */
}

static void flow_run(struct task *t)
{
	struct flow *f = container_of(t, struct flow, task);
	int r = dgram_flush(&f->dgram, f->s);
	if (r == 0 || r == -EAGAIN || r == -EPIPE)
		r = dgram_read(&f->dgram, f->s, on_answer, f);
	if (r == 1) {
		touch(f);
		task_wake(f->l->rx, &f->task);
	} else if (r != -EAGAIN) {
		flow_end(f, r, true);
	}
}

static struct flow *flow_new(struct udp_listener *l, const struct udp_path *p)
{
	make_room(l);
	struct flow *f = xcalloc(1, sizeof(*f));
	f->l = l;
	f->path = *p;
	f->started_ms = reactor_now(l->rx);
	f->s = l->opt.open(l->opt.arg, udp_path_text(p));
	list_init(&f->link);
	dgram_init(&f->dgram);
	task_init(&f->task, flow_run);
	*slot_of(l, p) = f;
	l->nflows++;
	stream_bind(f->s, &f->task);
	return f;
}

static void listener_run(struct task *t)
{
	struct udp_listener *l = container_of(t, struct udp_listener, task);
	char *p = reactor_scratch(l->rx);
	for (int i = 0; i < BURST; i++) {
		struct udp_path path;
		ssize_t n = udp_recv(&l->socket, p, UDP_MAX, &path);
		if (n < 0)
			return;
		struct flow *f = *slot_of(l, &path);
		if (!f)
			f = flow_new(l, &path);
		touch(f);
		f->in += (uint64_t)n;
		int r = dgram_write(&f->dgram, f->s, slice_of(p, (size_t)n));
		if (r == -ENOBUFS)
			on_lost(l);
		else if (r < 0)
			flow_end(f, r, true);
	}
	task_wake(l->rx, &l->task);
}

/* --- life --- */

struct udp_listener *udp_listener_new(struct reactor *rx, const struct addr *a,
				      const struct udp_listen_options *opt, int *err)
{
	struct udp_listener *l = xcalloc(1, sizeof(*l));
	l->rx = rx;
	l->opt = *opt;
	if (!l->opt.idle_ms)
		l->opt.idle_ms = UDP_IDLE_MS;
	l->opt.idle_ms = MIN(l->opt.idle_ms, (uint64_t)UDP_IDLE_MAX_MS);
	l->seed = arc4random();
	list_init(&l->flows[0]);
	list_init(&l->flows[1]);
	task_init(&l->task, listener_run);
	timer_init(&l->idle, idle_fire);
	*err = udp_bind(&l->socket, rx, a, &l->task);
	if (*err < 0) {
		free(l);
		return NULL;
	}
	return l;
}

void udp_listener_close(struct udp_listener *l, int why)
{
	if (!l)
		return;
	struct list *i;
	while ((i = list_pop(&l->flows[0])) || (i = list_pop(&l->flows[1])))
		flow_end(container_of(i, struct flow, link), why, false);
	task_cancel(&l->task);
	timer_clear(l->rx, &l->idle);
	udp_close(&l->socket);
	free(l);
}

uint16_t udp_listener_port(const struct udp_listener *l)
{
	return l->socket.port;
}

size_t udp_listener_flows(const struct udp_listener *l)
{
	return l->nflows;
}

void udp_listener_moved(const struct udp_listener *l, uint64_t *in, uint64_t *out)
{
	for (size_t i = 0; i < ARRAY_LEN(l->flows); i++) {
		const struct list *all = &l->flows[i];
		for (const struct list *p = all->next; p != all; p = p->next) {
			const struct flow *f = container_of(p, const struct flow, link);
			*in += f->in;
			*out += f->out;
		}
	}
}
