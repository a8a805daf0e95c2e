#include "test/unit/sim.h"

#include <errno.h>

unsigned sim_open;

struct end {
	struct stream s;
	struct task *owner;
	struct wire *wire;
	struct buf in; /* on its way to this end */
	bool closed, shut;
	int reset; /* what this end is told from now on */
};

struct wire {
	struct end end[2];
	struct sim_rules rules;
	uint64_t state;
};

static struct end *self(struct stream *s)
{
	return container_of(s, struct end, s);
}

static struct end *other(struct end *e)
{
	return &e->wire->end[e == &e->wire->end[0]];
}

static void wake(struct end *e)
{
	if (!e->closed && e->owner)
		task_wake(e->s.rx, e->owner);
}

/* splitmix64 */
static uint64_t roll(struct wire *w)
{
	uint64_t z = (w->state += 0x9e3779b97f4a7c15u);
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

/* A refusal for no reason: the owner is woken, as the contract promises. */
static bool refuses(struct end *e)
{
	if (roll(e->wire) % 100 >= e->wire->rules.refuse)
		return false;
	wake(e);
	return true;
}

static size_t piece(struct end *e, size_t n)
{
	size_t most = e->wire->rules.piece;
	if (most == 0 || n == 0)
		return n;
	size_t some = 1 + roll(e->wire) % most;
	return MIN(n, some);
}

static ssize_t sim_read(struct stream *s, const struct iovec *iov, int n)
{
	struct end *e = self(s);
	size_t moved = 0;

	if (e->reset < 0)
		return e->reset;
	if (e->in.len == 0)
		return other(e)->shut || other(e)->closed ? 0 : -EAGAIN;
	if (refuses(e))
		return -EAGAIN;
	size_t left = piece(e, e->in.len);
	for (int i = 0; i < n && left > 0; i++) {
		size_t part = MIN(left, iov[i].iov_len);
		memcpy(iov[i].iov_base, buf_data(&e->in).p, part);
		buf_drop(&e->in, part);
		left -= part;
		moved += part;
	}
	BUG_ON(moved == 0); /* a read of nothing is a bug of the caller */
	wake(other(e));
	return (ssize_t)moved;
}

static ssize_t sim_write(struct stream *s, const struct iovec *iov, int n)
{
	struct end *e = self(s), *to = other(e);
	size_t total = 0, moved = 0;

	if (e->reset < 0)
		return e->reset;
	if (n == 0)
		return 0;
	BUG_ON(e->shut);
	for (int i = 0; i < n; i++)
		total += iov[i].iov_len;
	BUG_ON(total == 0);
	if (to->closed)
		return -EPIPE;
	size_t room = to->in.max - to->in.len;
	if (room == 0 || refuses(e))
		return -EAGAIN;
	size_t left = piece(e, MIN(total, room));
	for (int i = 0; i < n && left > 0; i++) {
		size_t part = MIN(left, iov[i].iov_len);
		int r = buf_put(&to->in, slice_of(iov[i].iov_base, part));
		BUG_ON(r < 0);
		left -= part;
		moved += part;
	}
	wake(to);
	return (ssize_t)moved;
}

static int sim_shut(struct stream *s)
{
	struct end *e = self(s);
	if (e->reset < 0)
		return e->reset;
	if (!e->shut && refuses(e))
		return -EAGAIN;
	e->shut = true;
	wake(other(e));
	return 0;
}

static void sim_close(struct stream *s, int why)
{
	struct end *e = self(s), *peer = other(e);

	BUG_ON(e->closed);
	e->closed = true;
	e->owner = NULL;
	buf_end(&e->in);
	sim_open--;
	if (!peer->closed) {
		if (why < 0)
			peer->reset = -ECONNRESET;
		wake(peer);
		return;
	}
	buf_end(&peer->in);
	free(e->wire);
}

static void sim_bind(struct stream *s, struct task *t)
{
	struct end *e = self(s);
	e->owner = t;
	wake(e);
}

static const struct stream_ops sim_ops = {
	.name = "sim",
	.read = sim_read,
	.write = sim_write,
	.shut = sim_shut,
	.close = sim_close,
	.bind = sim_bind,
};

void sim_pair(struct reactor *rx, const struct sim_rules *rules, struct stream **a,
	      struct stream **b)
{
	struct wire *w = xcalloc(1, sizeof(*w));

	w->rules = *rules;
	w->state = rules->seed;
	for (int i = 0; i < 2; i++) {
		w->end[i].s = (struct stream){ &sim_ops, rx };
		w->end[i].wire = w;
		buf_init(&w->end[i].in, rules->capacity ? rules->capacity : 4096);
	}
	sim_open += 2;
	*a = &w->end[0].s;
	*b = &w->end[1].s;
}

/* --- broken --- */

struct broken {
	struct stream s;
	int code;
	const char *why;
};

static ssize_t broken_io(struct stream *s, const struct iovec *iov, int n)
{
	(void)iov;
	(void)n;
	return container_of(s, struct broken, s)->code;
}

static int broken_shut(struct stream *s)
{
	return container_of(s, struct broken, s)->code;
}

static void broken_close(struct stream *s, int why)
{
	(void)why;
	sim_open--;
	free(container_of(s, struct broken, s));
}

static void broken_bind(struct stream *s, struct task *t)
{
	if (t)
		task_wake(s->rx, t);
}

static const char *broken_why(struct stream *s)
{
	return container_of(s, struct broken, s)->why;
}

static const struct stream_ops broken_ops = {
	.name = "broken",
	.read = broken_io,
	.write = broken_io,
	.shut = broken_shut,
	.close = broken_close,
	.bind = broken_bind,
	.why = broken_why,
};

struct stream *sim_broken(struct reactor *rx, int code, const char *why)
{
	struct broken *b = xcalloc(1, sizeof(*b));
	b->s = (struct stream){ &broken_ops, rx };
	b->code = code;
	b->why = why;
	sim_open++;
	return &b->s;
}

/* --- peer --- */

static void peer_run(struct task *t)
{
	struct sim_peer *p = container_of(t, struct sim_peer, task);
	char chunk[8192];
	ssize_t n = 0;

	if (!p->s)
		return;
	while (p->out.len > 0 && n >= 0) {
		struct slice out = buf_data(&p->out);
		n = stream_write(p->s, out.p, out.n);
		if (n > 0)
			buf_drop(&p->out, (size_t)n);
	}
	if (p->out.len == 0 && p->shutting && n >= 0)
		n = stream_shut(p->s);
	if (n < 0 && n != -EAGAIN)
		buf_end(&p->out); /* nobody takes it; what they said is still read */
	while (!p->eof && p->code == 0 && !p->paused) {
		n = stream_read(p->s, chunk, sizeof(chunk));
		if (n == -EAGAIN)
			return;
		if (n < 0)
			p->code = (int)n;
		p->eof = n == 0;
		if (n > 0) {
			p->got += (uint64_t)n;
			n = buf_put(&p->in, slice_of(chunk, (size_t)n));
			BUG_ON(n < 0);
		}
	}
}

void sim_peer_init(struct sim_peer *p, struct stream *s)
{
	memset(p, 0, sizeof(*p));
	task_init(&p->task, peer_run);
	buf_init(&p->out, 64 << 20);
	buf_init(&p->in, 64 << 20);
	p->s = s;
	stream_bind(s, &p->task);
}

void sim_peer_send(struct sim_peer *p, struct slice s)
{
	int r = buf_put(&p->out, s);
	BUG_ON(r < 0);
	task_wake(p->s->rx, &p->task);
}

void sim_peer_shut(struct sim_peer *p)
{
	p->shutting = true;
	task_wake(p->s->rx, &p->task);
}

void sim_peer_pause(struct sim_peer *p, bool on)
{
	p->paused = on;
	task_wake(p->s->rx, &p->task);
}

void sim_peer_end(struct sim_peer *p, int why)
{
	task_cancel(&p->task);
	stream_close(p->s, why);
	p->s = NULL;
	buf_end(&p->out);
	buf_end(&p->in);
}

/* --- running --- */

struct until {
	struct task task;
	struct reactor *rx;
	bool (*cond)(void *);
	void *arg;
	uint64_t deadline;
	unsigned turns;
	bool stop, ok;
};

static void until_run(struct task *t)
{
	struct until *u = container_of(t, struct until, task);
	u->ok = u->cond ? u->cond(u->arg) : u->turns-- == 0;
	u->stop = u->ok || reactor_now(u->rx) > u->deadline;
	if (!u->stop)
		task_wake(u->rx, &u->task);
}

bool sim_until(struct reactor *rx, bool (*cond)(void *), void *arg)
{
	struct until u = { .rx = rx, .cond = cond, .arg = arg };
	u.deadline = reactor_now(rx) + 10000;
	task_init(&u.task, until_run);
	task_wake(rx, &u.task);
	reactor_run_until(rx, &u.stop);
	return u.ok;
}

void sim_turns(struct reactor *rx, unsigned n)
{
	struct until u = { .rx = rx, .turns = n, .deadline = UINT64_MAX };
	task_init(&u.task, until_run);
	task_wake(rx, &u.task);
	reactor_run_until(rx, &u.stop);
}
