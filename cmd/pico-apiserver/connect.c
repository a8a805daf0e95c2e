/* CONNECT: from a request to a raw relay between the client and the sandbox's sshd. */
#include <errno.h>

#include "cmd/pico-apiserver/api.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "reactor/pump.h"

/* An open tunnel. Beside its two streams and the pump, this is all that it costs. */
struct tunnel {
	struct list link; /* session.tunnels */
	struct sessions *set;
	struct session *s; /* NULL: ended while the client was being answered */
	struct stream *up; /* until there is a pump */
	struct pump *pump;
	uint64_t seen; /* bytes at the last sample */
};

static void tunnel_free(struct tunnel *t)
{
	list_del(&t->link);
	t->set->ntunnels--;
	free(t);
}

static void on_finished(void *arg, const struct pump_end *end, const char *why)
{
	struct tunnel *t = arg;
	(void)why;
	t->set->bytes_in += end->a_to_b;
	t->set->bytes_out += end->b_to_a;
	if (t->s) {
		if (end->a_to_b + end->b_to_a > t->seen)
			session_touch(t->s);
		log_info("tunnel-end id=%s in=%llu out=%llu%s%s", t->s->r.id,
			 (unsigned long long)end->a_to_b, (unsigned long long)end->b_to_a,
			 end->code ? " error=" : "",
			 end->code ? log_quote(slice_str(err_text(end->code))) : "");
	}
	tunnel_free(t);
}

static void on_taken(void *arg, struct stream *client, struct slice rest)
{
	struct tunnel *t = arg;
	struct stream *up = t->up;
	t->up = NULL;
	if (!client || !t->s) {
		stream_close(up, -ERR_CANCELLED);
		stream_close(client, -ERR_CANCELLED);
		tunnel_free(t);
		return;
	}
	t->pump = pump_start(t->set->rx, client, up, on_finished, t);
	if (rest.n)
		pump_seed_to_b(t->pump, rest);
}

void tunnels_sample(struct session *s)
{
	for (struct list *l = s->tunnels.next; l != &s->tunnels; l = l->next) {
		struct tunnel *t = container_of(l, struct tunnel, link);
		uint64_t in = 0, out = 0;
		if (t->pump)
			pump_moved(t->pump, &in, &out);
		if (in + out > t->seen)
			session_touch(s);
		t->seen = in + out;
	}
}

void tunnels_abort(struct session *s)
{
	struct list *l;
	while ((l = list_pop(&s->tunnels))) {
		struct tunnel *t = container_of(l, struct tunnel, link);
		t->s = NULL;
		if (t->pump)
			pump_abort(t->pump, -ERR_CANCELLED);
	}
}

/* --- until the sandbox's sshd is there --- */

static void close_up(struct call *c)
{
	stream_close(c->state, -ERR_CANCELLED);
	c->state = NULL;
}

static void try_open(struct call *c)
{
	struct stream *up = c->state;
	bool expired;
	int r = stream_open_yet(up);
	if (r == -EAGAIN)
		return;
	/* key holds the id: the session may have ended meanwhile */
	struct session *s = session_find(&c->sv->sessions, c->owner, slice_str(c->key), &expired);
	if (r < 0 || !s) {
		char *why = xstrdup(r < 0 ? stream_why(up, r) : "it has ended");
		close_up(c);
		log_warn("tunnel-failed id=%s reason=%s", c->key, log_quote(slice_str(why)));
		call_error(c, 503, "SANDBOX_NOT_READY", 1, why, "Sandbox not ready");
		free(why);
		return;
	}
	struct tunnel *t = xcalloc(1, sizeof(*t));
	t->set = &c->sv->sessions;
	t->s = s;
	t->up = up;
	stream_bind(up, NULL);
	list_init(&t->link);
	list_add_tail(&s->tunnels, &t->link);
	t->set->ntunnels++;
	t->set->tunnels_total++;
	session_touch(s);
	http_take(c->conn, 200, NULL, 0, on_taken, t);
	call_free(c);
}

static void open_up(struct call *c, struct session *s)
{
	struct stream *up = s->box->ops->connect(s->box);
	free(c->key);
	c->key = xstrdup(s->r.id);
	c->state = up;
	stream_bind(up, &c->task);
	call_wait(c, try_open, close_up);
}

void session_connect(struct call *c, const struct http_head *h, struct slice id)
{
	(void)h;
	struct session *s = call_session(c, id);
	if (!s)
		return;
	if (c->sv->sessions.ntunnels >= c->sv->http.conns_max) { /* they count there no more */
		call_error(c, 503, "TOO_MANY_TUNNELS", 5, NULL, "too many tunnels");
		return;
	}
	if (call_running(c, s, open_up) == 1)
		open_up(c, s);
}
