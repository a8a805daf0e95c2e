/* Connections that have become raw relays: kept in the server's list, so that they are counted,
 * logged when they end, and ended when the server is. */
#include "http/conn.h"

#include "reactor/err.h"
#include "reactor/pump.h"

struct relay {
	struct list link;
	struct http_server *srv;
	struct pump *pump;
	struct http_record log;
};

static void relay_finished(void *arg, const struct pump_end *end, const char *why)
{
	struct relay *r = arg;
	struct http_server *srv = r->srv;

	(void)why;
	r->log.in += end->a_to_b;
	r->log.out += end->b_to_a;
	http_conn_log(srv, &r->log, end->code, true);
	free(r->log.peer);
	list_del(&r->link);
	free(r);
	http_server_left(srv);
}

void http_relay_start(struct http_conn *c, struct stream *other, struct slice to_other)
{
	struct http_server *srv = c->srv;
	struct slice to_client = buf_data(&c->out);

	if (to_client.n > REACTOR_SCRATCH || to_other.n > REACTOR_SCRATCH) {
		stream_close(other, -ERR_TOO_MANY);
		http_conn_end(c, -ERR_TOO_MANY);
		return;
	}
	struct relay *r = xcalloc(1, sizeof(*r));
	r->srv = srv;
	r->log = c->log;
	c->log = (struct http_record){ 0 };
	list_add_tail(&srv->relays, &r->link);
	srv->nconns++;
	r->pump = pump_start(srv->rx, c->stream, other, relay_finished, r);
	pump_seed_to_a(r->pump, to_client);
	pump_seed_to_b(r->pump, to_other);
	http_conn_free(c);
}

void http_relays_abort(struct http_server *srv)
{
	while (!list_empty(&srv->relays))
		pump_abort(container_of(srv->relays.next, struct relay, link)->pump,
			   -ERR_CANCELLED);
}

void http_relay(struct http_conn *c, int status, const struct http_field *field, size_t n,
		struct stream *other)
{
	c->other = other;
	http_take(c, status, field, n, NULL, NULL);
}
