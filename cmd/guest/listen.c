/* Reverse forwards: what a client has this guest listen on. Each connection becomes a stream that
 * the guest opens. */
#include <errno.h>

#include "cmd/guest/guest.h"
#include "proto/tstunnel/udp_listen.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "reactor/pump.h"

enum { LISTENING_MAX = 1024 /* of one tunnel */, OPEN_MAX_BYTES = 1024 };

/* As long as its stream lives. */
struct listening {
	struct list link; /* session.listening */
	struct session *se;
	struct task task; /* the stream's */
	struct stream *s;
	struct listener *listener; /* or */
	struct udp_listener *udp;
	struct addr bound;
	char *token; /* who has it may have the address again; "": nobody */
	uint64_t connections;
};

/* code 0: its stream has ended in order. */
static void listening_end(struct listening *l, int code, const char *text)
{
	log_info("listen-closed peer=%s addr=%s connections=%llu",
		 log_quote(slice_str(l->se->peer)), log_quote(slice_str(addr_text(&l->bound))),
		 (unsigned long long)l->connections);
	list_del(&l->link);
	l->se->nlistening--;
	listener_close(l->listener);
	udp_listener_close(l->udp, code);
	task_cancel(&l->task);
	if (code < 0)
		mux_refuse(l->s, code, text);
	else
		stream_close(l->s, 0);
	free(l->token);
	free(l);
}

void listen_end_all(struct session *se, int code, const char *text)
{
	struct list *i;
	while ((i = list_pop(&se->listening)))
		listening_end(container_of(i, struct listening, link), code, text);
}

/* The client has no more to say on this stream than that it ends. */
static void listening_run(struct task *t)
{
	struct listening *l = container_of(t, struct listening, task);
	char *message, byte;
	while ((message = mux_next_control(l->s)))
		free(message);
	ssize_t n = stream_read(l->s, &byte, 1);
	if (n > 0)
		listening_end(l, -EINVAL, "data on a stream of kind \"listen\"");
	else if (n != -EAGAIN)
		listening_end(l, 0, NULL);
}

/* --- connections --- */

static struct stream *open_accepted(struct listening *l, const char *peer)
{
	struct buf b;
	struct json_writer w;
	l->connections++;
	buf_init(&b, OPEN_MAX_BYTES);
	json_writer_begin(&w, &b);
	json_put_object(&w);
	json_put_name(&w, "kind");
	json_put_str(&w, SLICE("accepted"));
	json_put_name(&w, "listen");
	json_put_u64(&w, mux_stream_id(l->s));
	json_put_name(&w, "peer");
	json_put_str(&w, slice_str(peer));
	json_put_end(&w);
	int r = json_writer_end(&w);
	BUG_ON(r < 0); /* an address is shorter */
	struct stream *s = mux_open(l->se->mux, buf_data(&b));
	buf_end(&b);
	return s;
}

static void on_accept(void *arg, int fd, const struct sockaddr *peer)
{
	struct listening *l = arg;
	struct reactor *rx = l->se->g->rx;
	const char *who = l->bound.kind == ADDR_UNIX ? "unix" : sockaddr_text(peer);
	pump_start(rx, fd_stream_new(rx, fd), open_accepted(l, who), NULL, NULL);
}

static struct stream *on_flow(void *arg, const char *peer)
{
	return open_accepted(arg, peer);
}

/* --- the request --- */

/* The client's tunnel was lost and is back, and we have not noticed yet that the old one is dead.
 */
static void take_over(struct session *se, struct slice token)
{
	struct list *sessions = &se->g->sessions;
	for (struct list *i = sessions->next; i != sessions; i = i->next) {
		struct session *other = container_of(i, struct session, link);
		if (strcmp(other->peer, se->peer) != 0)
			continue;
		struct list *all = &other->listening;
		for (struct list *j = all->next, *next; j != all; j = next) {
			struct listening *l = container_of(j, struct listening, link);
			next = j->next;
			if (slice_eq(slice_str(l->token), token))
				listening_end(l, -ERR_CANCELLED, "asked for again");
		}
	}
}

static int bind_it(struct listening *l, uint64_t idle_ms)
{
	struct reactor *rx = l->se->g->rx;
	const struct udp_listen_options udp = { .open = on_flow, .arg = l, .idle_ms = idle_ms };
	int e = 0;
	if (l->bound.kind == ADDR_UDP)
		l->udp = udp_listener_new(rx, &l->bound, &udp, &e);
	else
		l->listener = listener_new(rx, &l->bound, on_accept, l, &e);
	if (e == 0 && l->bound.kind != ADDR_UNIX)
		l->bound.port = l->udp ? udp_listener_port(l->udp) : listener_port(l->listener);
	return e;
}

/* OPENED, with the address as bound. */
static void answer(struct listening *l)
{
	static const char *const prefix[] = {
		[ADDR_TCP] = "tcp:", [ADDR_UDP] = "udp:", [ADDR_UNIX] = ""
	};
	struct buf b, text;
	struct json_writer w;
	buf_init(&b, OPEN_MAX_BYTES);
	buf_init(&text, OPEN_MAX_BYTES);
	buf_printf(&text, "%s%s", prefix[l->bound.kind], addr_text(&l->bound));
	json_writer_begin(&w, &b);
	json_put_object(&w);
	json_put_name(&w, "address");
	json_put_str(&w, buf_data(&text));
	json_put_end(&w);
	json_writer_end(&w);
	mux_accept(l->s, buf_data(&b));
	buf_end(&text);
	buf_end(&b);
}

int listen_start(struct session *se, struct stream *s, struct json_doc *doc, const struct addr *a,
		 char *why, size_t whylen)
{
	struct slice token = SLICE("");
	uint64_t idle_ms = 0;
	struct addr to = *a;
	if (to.kind != ADDR_UNIX && to.host[0] == '\0')
		snprintf(to.host, sizeof(to.host), "localhost");
	int r = policy_listen(&se->g->policy, &to, why, whylen);
	if (r < 0)
		return r;
	if (json_str(doc, json_find(json_root(doc), "token"), &token) == 0 && token.n)
		take_over(se, token);
	json_u64(json_find(json_root(doc), "idle_ms"), &idle_ms);
	if (se->nlistening >= LISTENING_MAX) {
		snprintf(why, whylen, "this tunnel has %d listeners, that is the limit",
			 LISTENING_MAX);
		return -ERR_TOO_MANY;
	}
	struct listening *l = xcalloc(1, sizeof(*l));
	l->se = se;
	l->s = s;
	l->bound = to;
	r = bind_it(l, idle_ms);
	if (r < 0) {
		snprintf(why, whylen, "cannot listen on %s: %s", addr_text(&to), err_text(r));
		free(l);
		return r;
	}
	l->token = xslicedup(token);
	task_init(&l->task, listening_run);
	list_init(&l->link);
	list_add_tail(&se->listening, &l->link);
	se->nlistening++;
	stream_bind(s, &l->task);
	answer(l);
	log_info("listen-open peer=%s addr=%s", log_quote(slice_str(se->peer)),
		 log_quote(slice_str(addr_text(&l->bound))));
	return 0;
}
