/* The ports of one container: which are bound where on this machine. */
#include <errno.h>

#include "cmd/tsctl/publish_int.h"
#include "reactor/err.h"
#include "reactor/log.h"

enum { LEAVE_MS = 10 * 1000 };

/* Connections of a container that has ended are let to their end, and what the remote host never
 * closes, after a while. */
static void leaving_free(struct leaving *l)
{
	struct publish *p = l->p;
	timer_clear(p->o.rx, &l->timer);
	list_del(&l->link);
	forward_free(l->forward);
	free(l);
	if (p->drained && list_empty(&p->leaving))
		task_wake(p->o.rx, &p->drained_task);
}

static void leaving_left(void *arg)
{
	leaving_free(arg);
}

static void leaving_late(struct timer *t)
{
	leaving_free(container_of(t, struct leaving, timer));
}

static void leave(struct publish *p, struct forward *f)
{
	struct leaving *l;
	if (!f)
		return;
	if (forward_connections(f) == 0) {
		forward_free(f);
		return;
	}
	l = xcalloc(1, sizeof(*l));
	l->p = p;
	l->forward = f;
	list_init(&l->link);
	list_add_tail(&p->leaving, &l->link);
	timer_init(&l->timer, leaving_late);
	if (!p->drained) /* else the program's own grace holds */
		timer_set(p->o.rx, &l->timer, LEAVE_MS);
	forward_drain(f, leaving_left, l);
}

void leaving_end(struct publish *p)
{
	struct list *l;
	while ((l = list_pop(&p->leaving)))
		leaving_free(container_of(l, struct leaving, link));
}

/* --- which is which --- */

/* Where a port with that address of the engine's host is bound here. */
static const char *host_here(const struct publish *p, const char *ip)
{
	if (!docker_ip_is_any(ip))
		return ip;
	return p->o.address ? p->o.address : "localhost";
}

/* Where the guest finds it. */
static const char *host_there(const char *ip)
{
	if (!docker_ip_is_any(ip))
		return ip;
	return strcmp(ip, "::") == 0 ? "::1" : "127.0.0.1";
}

struct pub *pub_find(struct box *b, const struct docker_port *port)
{
	const char *host = host_here(b->p, port->ip);
	for (struct list *l = b->pubs.next; l != &b->pubs; l = l->next) {
		struct pub *pub = container_of(l, struct pub, link);
		if (pub->port.number == port->number && pub->port.proto == port->proto &&
		    strcmp(host_here(b->p, pub->port.ip), host) == 0)
			return pub;
	}
	return NULL;
}

/* Whoever of us has that number here. */
static struct pub *holder(struct publish *p, enum docker_proto proto, uint16_t number,
			  struct box **of)
{
	for (size_t i = 0; i < p->nboxes; i++) {
		struct box *b = p->boxes[i];
		for (struct list *l = b->pubs.next; l != &b->pubs; l = l->next) {
			struct pub *pub = container_of(l, struct pub, link);
			if (pub->here == number && pub->port.proto == proto) {
				*of = b;
				return pub;
			}
		}
	}
	return NULL;
}

static const char *here_text(const struct pub *pub)
{
	struct addr a = { .kind = ADDR_TCP, .port = pub->here ? pub->here : pub->port.number };
	snprintf(a.host, sizeof(a.host), "%s", pub->host);
	return addr_text(&a);
}

static const char *there_text(const struct pub *pub)
{
	struct addr a = { .kind = ADDR_TCP, .port = pub->port.number };
	snprintf(a.host, sizeof(a.host), "%s", host_there(pub->port.ip));
	return addr_text(&a);
}

/* --- binding --- */

static struct pub *pub_new(struct box *b, const struct docker_port *port, bool found)
{
	struct pub *pub = xcalloc(1, sizeof(*pub));
	pub->port = *port;
	pub->found = found;
	pub->host = host_here(b->p, pub->port.ip);
	list_init(&pub->link);
	list_add_tail(&b->pubs, &pub->link);
	return pub;
}

void pub_free(struct box *b, struct pub *pub)
{
	if (pub->here)
		log_info("port-closed container=%s here=%s proto=%s", log_quote(slice_str(b->name)),
			 here_text(pub), docker_proto_text(pub->port.proto));
	if (pub->here && pub->here != pub->port.number)
		b->p->moved--;
	leave(b->p, pub->forward);
	list_del(&pub->link);
	free(pub->reason);
	free(pub);
}

static void set_reason(struct pub *pub, char *text)
{
	free(pub->reason);
	pub->reason = text;
}

static int bind_at(struct publish *p, struct pub *pub, uint16_t number)
{
	struct forward_spec sp = { .count = 1 };
	char err[400];
	enum addr_kind kind = pub->port.proto == DOCKER_UDP ? ADDR_UDP : ADDR_TCP;
	sp.from = (struct addr){ .kind = kind, .port = number };
	snprintf(sp.from.host, sizeof(sp.from.host), "%s", pub->host);
	sp.to.has_target = true;
	sp.to.target = (struct addr){ .kind = kind, .port = pub->port.number };
	snprintf(sp.to.target.host, sizeof(sp.to.target.host), "%s", host_there(pub->port.ip));
	sp.to.target_last = pub->port.number;
	int r = forward_new(&pub->forward, p->o.rx, p->o.tunnel, &sp, err, sizeof(err));
	if (r == 0)
		pub->here = forward_port(pub->forward);
	set_reason(pub, r < 0 ? xstrdup(err) : NULL);
	return r;
}

static bool is_missing(int r)
{
	return r == -EADDRNOTAVAIL || r == -EAFNOSUPPORT;
}

/* Another container's record of this very port of the engine's host: the engine gives it to one
 * only, so that one is over. */
static bool evict(struct publish *p, const struct pub *pub)
{
	struct box *of = NULL;
	struct pub *old = holder(p, pub->port.proto, pub->port.number, &of);
	if (!old || old == pub || of->holds || old->port.number != pub->port.number ||
	    strcmp(host_there(old->port.ip), host_there(pub->port.ip)) != 0)
		return false;
	pub_free(of, old);
	return true;
}

/* Binds pub, in strict on its own number or not at all: 0 or -errno. */
static int pub_open(struct box *b, struct pub *pub, bool strict)
{
	struct publish *p = b->p;
	pub->host = host_here(p, pub->port.ip);
	pub->elsewhere = false;
	if (pub->port.proto == DOCKER_SCTP) {
		set_reason(pub, xstrdup("sctp is not forwarded"));
		return -EPROTONOSUPPORT;
	}
	int r = bind_at(p, pub, pub->port.number);
	if (is_missing(r) && strcmp(pub->host, "localhost") != 0) {
		pub->host = "localhost";
		pub->elsewhere = true;
		r = bind_at(p, pub, pub->port.number);
	}
	if (r == -EADDRINUSE && !strict && evict(p, pub))
		r = bind_at(p, pub, pub->port.number);
	if (r == -EADDRINUSE && (!strict || pub->elsewhere) && !pub->found)
		r = bind_at(p, pub, 0);
	if (r < 0)
		return r;
	if (pub->here != pub->port.number) {
		p->moved++;
		set_reason(pub, xasprintf("port %u is taken on this machine", pub->port.number));
	} else if (pub->elsewhere) {
		set_reason(pub, xasprintf("this machine has no address %s", pub->port.ip));
	}
	return 0;
}

static void log_opened(const struct box *b, const struct pub *pub, int r)
{
	if (r == 0)
		log_at(pub->reason ? LOG_WARN : LOG_INFO,
		       "port-open container=%s here=%s there=%s proto=%s%s%s",
		       log_quote(slice_str(b->name)), here_text(pub), there_text(pub),
		       docker_proto_text(pub->port.proto), pub->reason ? " reason=" : "",
		       pub->reason ? log_quote(slice_str(pub->reason)) : "");
	else
		log_warn("port-failed container=%s here=%s proto=%s reason=%s",
			 log_quote(slice_str(b->name)), here_text(pub),
			 docker_proto_text(pub->port.proto), log_quote(slice_str(pub->reason)));
}

/* What a local engine fails for, too. Other failures are of our making, and only logged. */
static bool is_fatal(int r)
{
	return r == -EADDRINUSE || r == -EACCES || r == -EPERM;
}

static void unbind_fresh(struct box *b)
{
	for (struct list *l = b->pubs.next, *next; l != &b->pubs; l = next) {
		struct pub *pub = container_of(l, struct pub, link);
		next = l->next;
		if (pub->fresh)
			pub_free(b, pub);
	}
}

int box_bind(struct box *b, const struct docker_container *want, struct taken *taken)
{
	for (struct list *l = b->pubs.next; l != &b->pubs; l = l->next)
		container_of(l, struct pub, link)->fresh = false;
	for (size_t i = 0; i < want->nports && !b->p->drained; i++) {
		const struct docker_port *port = &want->ports[i];
		struct box *of;
		struct pub *pub = port->number ? pub_find(b, port) : NULL;
		if (!port->number || (pub && pub->forward))
			continue;
		if (!pub) {
			pub = pub_new(b, port, false);
			pub->fresh = true;
		}
		int r = pub_open(b, pub, true);
		if (!is_fatal(r)) {
			log_opened(b, pub, r);
			continue;
		}
		*taken = (struct taken){ .port = pub->port, .code = r };
		snprintf(taken->host, sizeof(taken->host), "%s",
			 strcmp(pub->host, "localhost") == 0 ? "127.0.0.1" : pub->host);
		if (holder(b->p, port->proto, port->number, &of))
			memcpy(taken->holder, of->id, sizeof(of->id));
		unbind_fresh(b);
		return -1;
	}
	return 0;
}

void box_drop_stale(struct box *b, const struct docker_container *c, bool found)
{
	for (struct list *l = b->pubs.next; l != &b->pubs; l = l->next)
		container_of(l, struct pub, link)->fresh = false;
	for (size_t i = 0; i < c->nports; i++) {
		struct pub *pub = pub_find(b, &c->ports[i]);
		if (pub && pub->found == found)
			pub->fresh = true;
	}
	for (struct list *l = b->pubs.next, *next; l != &b->pubs; l = next) {
		struct pub *pub = container_of(l, struct pub, link);
		next = l->next;
		if (pub->found == found && !pub->fresh)
			pub_free(b, pub);
	}
}

void box_open_missing(struct box *b, const struct docker_container *c, bool found)
{
	for (size_t i = 0; i < c->nports && !b->p->drained; i++) {
		struct pub *pub = pub_find(b, &c->ports[i]);
		bool again = pub != NULL;
		if (pub && pub->forward)
			continue;
		if (!pub)
			pub = pub_new(b, &c->ports[i], found);
		int r = pub_open(b, pub, false);
		if (r == 0 || !again)
			log_opened(b, pub, r);
	}
}

/* --- status --- */

void pub_status(const struct box *b, const struct pub *pub, struct json_writer *w)
{
	const struct {
		const char *name, *value;
	} texts[] = {
		{ "container", b->name },
		{ "id", b->id },
		{ "proto", docker_proto_text(pub->port.proto) },
		{ "here", pub->here ? here_text(pub) : "" },
		{ "there", there_text(pub) },
		{ "state", !pub->here                      ? "failed"
			   : pub->here != pub->port.number ? "moved"
							   : "open" },
		{ "reason", pub->reason },
	};
	json_put_object(w);
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		json_put_name(w, texts[i].name);
		json_put_str(w, slice_str(texts[i].value));
	}
	json_put_end(w);
}
