/*
 * Is the engine's host this machine? Then its ports are here already, and binding them would keep
 * the engine from it. We listen on a port of loopback and have the guest connect to it there: what
 * we sent comes back if its loopback is ours.
 */
#include <errno.h>

#include "cmd/tsctl/publish_int.h"
#include "reactor/listen.h"

enum { AGAIN_MS = 250, SAME_MS = 300, NONCE = 32 };

struct self {
	struct publish *p;
	struct task task;
	struct timer timer;
	struct listener *listener;
	struct stream *there, *here; /* the guest's connection, and what arrived */
	char nonce[NONCE], got[NONCE];
	size_t ngot;
	bool opened;
};

void self_free(struct self *s)
{
	if (!s)
		return;
	task_cancel(&s->task);
	timer_clear(s->p->o.rx, &s->timer);
	listener_close(s->listener);
	stream_close(s->there, -ECONNRESET);
	stream_close(s->here, -ECONNRESET);
	free(s);
}

static void self_end(struct self *s, bool same)
{
	struct publish *p = s->p;
	p->self = NULL;
	self_free(s);
	publish_is_elsewhere(p, !same);
}

static void self_read(struct self *s)
{
	while (s->here && s->ngot < NONCE) {
		ssize_t n = stream_read(s->here, s->got + s->ngot, NONCE - s->ngot);
		if (n == -EAGAIN)
			return;
		if (n <= 0) { /* somebody else */
			stream_close(s->here, 0);
			s->here = NULL;
			s->ngot = 0;
			return;
		}
		s->ngot += (size_t)n;
	}
}

static void self_run(struct task *t)
{
	struct self *s = container_of(t, struct self, task);
	struct tunnel_status status;
	self_read(s);
	if (s->ngot == NONCE && memcmp(s->got, s->nonce, NONCE) == 0) {
		self_end(s, true);
		return;
	}
	if (!s->there || s->opened)
		return;
	int r = stream_open_yet(s->there);
	if (r == -EAGAIN)
		return;
	if (r == 0) { /* somebody's port there; ours would have heard of it by now, or soon */
		s->opened = true;
		timer_set(s->p->o.rx, &s->timer, SAME_MS);
		return;
	}
	tunnel_status(s->p->o.tunnel, &status);
	if (status.up) {
		self_end(s, false);
		return;
	}
	stream_close(s->there, r);
	s->there = NULL;
	timer_set(s->p->o.rx, &s->timer, AGAIN_MS);
}

static void self_ask(struct self *s)
{
	char open[100];
	snprintf(open, sizeof(open), "{\"kind\":\"tcp\",\"address\":\"127.0.0.1:%u\"}",
		 listener_port(s->listener));
	s->there = tunnel_open(s->p->o.tunnel, slice_str(open), TUNNEL_INTERACTIVE);
	stream_write(s->there, s->nonce, NONCE); /* goes with the request, or the request fails */
	stream_bind(s->there, &s->task);
}

static void self_timer(struct timer *t)
{
	struct self *s = container_of(t, struct self, timer);
	if (s->opened)
		self_end(s, false);
	else
		self_ask(s);
}

static void on_accept(void *arg, int fd, const struct sockaddr *peer)
{
	struct self *s = arg;
	(void)peer;
	stream_close(s->here, -ECONNRESET);
	s->here = fd_stream_new(s->p->o.rx, fd);
	s->ngot = 0;
	stream_bind(s->here, &s->task);
}

struct self *self_new(struct publish *p)
{
	const struct addr a = { .kind = ADDR_TCP, .host = "127.0.0.1" };
	struct self *s = xcalloc(1, sizeof(*s));
	int err;
	s->p = p;
	task_init(&s->task, self_run);
	timer_init(&s->timer, self_timer);
	arc4random_buf(s->nonce, sizeof(s->nonce));
	s->listener = listener_new(p->o.rx, &a, on_accept, s, &err);
	if (!s->listener) {
		free(s);
		return NULL;
	}
	self_ask(s);
	return s;
}
