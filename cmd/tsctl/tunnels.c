#include "cmd/tsctl/tunnels.h"

#include "cmd/tsctl/forward.h"
#include "reactor/log.h"

static bool same_text(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) == 0 : a == b;
}

static bool fits(const struct shared_tunnel *t, const struct tsurl *b,
		 const struct tunnel_options *o)
{
	const struct tsurl *a = &t->url;
	return strcmp(a->server.host, b->server.host) == 0 && a->server.port == b->server.port &&
	       same_text(a->cert, b->cert) && same_text(a->key, b->key) &&
	       same_text(a->ca, b->ca) && a->insecure == b->insecure &&
	       t->opt.connect_ms == o->connect_ms && t->opt.handshake_ms == o->handshake_ms &&
	       t->opt.keepalive_ms == o->keepalive_ms;
}

static void shared_free(struct shared_tunnel *t)
{
	list_del(&t->link);
	tunnel_free(t->tunnel);
	tsurl_end(&t->url);
	free(t);
}

static char *copy(const char *s)
{
	return s ? xstrdup(s) : NULL;
}

void tunnels_init(struct tunnels *ts)
{
	list_init(&ts->all);
}

struct shared_tunnel *tunnels_get(struct tunnels *ts, const struct tsurl *to, uint64_t connect_ms,
				  uint64_t handshake_ms, uint64_t keepalive_ms, char *err,
				  size_t errlen)
{
	struct tunnel_options o =
	    forward_tunnel_options(to, connect_ms, handshake_ms, keepalive_ms);
	for (struct list *i = ts->all.next; i != &ts->all; i = i->next) {
		struct shared_tunnel *t = container_of(i, struct shared_tunnel, link);
		if (fits(t, to, &o)) {
			t->users++;
			return t;
		}
	}
	struct shared_tunnel *t = xcalloc(1, sizeof(*t));
	t->users = 1;
	t->url = (struct tsurl){ .server = to->server,
				 .cert = copy(to->cert),
				 .key = copy(to->key),
				 .ca = copy(to->ca),
				 .insecure = to->insecure };
	t->opt = forward_tunnel_options(&t->url, connect_ms, handshake_ms, keepalive_ms);
	t->opt.changed = ts->changed;
	t->opt.goaway = ts->goaway;
	t->opt.arg = ts->arg;
	list_init(&t->link);
	list_add_tail(&ts->all, &t->link);
	t->tunnel = tunnel_new(ts->rx, &t->opt, err, errlen);
	if (t->tunnel)
		return t;
	shared_free(t);
	return NULL;
}

void tunnels_put(struct shared_tunnel *t)
{
	if (t && --t->users == 0)
		shared_free(t);
}

void tunnels_reload(struct tunnels *ts)
{
	char err[512];
	for (struct list *i = ts->all.next; i != &ts->all; i = i->next) {
		struct shared_tunnel *t = container_of(i, struct shared_tunnel, link);
		if (tunnel_reload(t->tunnel, err, sizeof(err)) < 0)
			log_error("reload kept=old reason=%s", log_quote(slice_str(err)));
	}
	log_info("reload done");
}
