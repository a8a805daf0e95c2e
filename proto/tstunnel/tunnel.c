#include "proto/tstunnel/tunnel.h"

#include <errno.h>

#include "reactor/buf.h"
#include "reactor/err.h"
#include "reactor/log.h"

enum { BACKOFF_FIRST_MS = 50, BACKOFF_MAX_MS = 5000, STABLE_MS = 1000 };

/* One carrier. It is current for its class, or only finishing what it carries (GOAWAY). */
struct link {
	struct list list; /* tunnel.links */
	struct tunnel *t;
	struct mux *mux;
	enum tunnel_class class;
	uint64_t dialled_ms;
};

struct tunnel {
	struct reactor *rx;
	struct tunnel_options opt;
	struct carrier_config carrier;
	struct list links, takers;
	struct link *current[TUNNEL_CLASSES];
	bool dialled[TUNNEL_CLASSES]; /* at some time */
	struct timer redial;
	struct task drained_task;
	void (*drained)(void *arg);
	void *drained_arg;
	uint64_t backoff_ms;
	uint64_t redials, streams_total, bytes_in, bytes_out; /* of links that are gone */
	char last_error[512];
	int last_code;
};

static struct tls_config *load_tls(const struct tunnel_options *o, char *err, size_t errlen)
{
	const char *ca = o->ca_file;
	return tls_config_new(&(struct tls_options){ .cert_file = o->cert_file,
						     .key_file = o->key_file,
						     .ca_files = ca ? &ca : NULL,
						     .n_ca = ca ? 1 : 0,
						     .insecure = o->insecure },
			      false, err, errlen);
}

/* Certificates or a CA ask for TLS; without them plain comes first, and with insecure TLS second.
 */
static int load(struct tunnel *t, char *err, size_t errlen)
{
	const struct tunnel_options *o = &t->opt;
	bool want_tls = o->cert_file || o->key_file || o->ca_file;
	if (!want_tls && !o->insecure)
		return 0;
	struct tls_config *tls = load_tls(o, err, errlen);
	if (!tls)
		return -EINVAL;
	struct tls_config **slot = want_tls ? &t->carrier.tls : &t->carrier.tls_fallback;
	tls_config_unref(*slot);
	*slot = tls;
	return 0;
}

static void forget(struct link *l)
{
	struct tunnel *t = l->t;
	const struct mux_stats *s = mux_stats(l->mux);
	t->streams_total += s->streams_total;
	t->bytes_in += s->bytes_in;
	t->bytes_out += s->bytes_out;
	if (t->current[l->class] == l)
		t->current[l->class] = NULL;
	list_del(&l->list);
	free(l);
}

static bool is_up(const struct link *l)
{
	return l && mux_stats(l->mux)->settled;
}

/* Jitter keeps a thousand clients of one gateway from coming back in step. */
static void redial_later(struct tunnel *t)
{
	uint32_t half = (uint32_t)t->backoff_ms / 2;
	timer_set(t->rx, &t->redial, half + arc4random_uniform(half + 1));
	t->backoff_ms = MIN(t->backoff_ms * 2, (uint64_t)BACKOFF_MAX_MS);
}

static void changed(const struct tunnel *t)
{
	if (t->opt.changed)
		t->opt.changed(t->opt.arg);
}

static void link_ended(void *arg, int code, const char *why)
{
	struct link *l = arg;
	struct tunnel *t = l->t;
	struct mux *mux = l->mux;
	/* A server that takes us in only to drop us at once must not be dialled in a frenzy. */
	bool stable = reactor_now(t->rx) - l->dialled_ms >= STABLE_MS;
	bool was_up = mux_stats(mux)->settled, current = t->current[l->class] == l;
	if (code < 0) {
		if (was_up)
			log_warn("tunnel lost server=%s reason=%s", addr_text(&t->opt.server),
				 log_quote(slice_str(why)));
		else if (strcmp(t->last_error, why) != 0)
			log_warn("tunnel down server=%s reason=%s", addr_text(&t->opt.server),
				 log_quote(slice_str(why)));
		snprintf(t->last_error, sizeof(t->last_error), "%s", why);
		t->last_code = code;
	}
	forget(l);
	mux_free(mux, code, why);
	changed(t);
	if (was_up && stable)
		t->backoff_ms = BACKOFF_FIRST_MS;
	if (t->opt.keep_up && current && !timer_is_set(&t->redial) &&
	    !t->current[TUNNEL_INTERACTIVE])
		redial_later(t);
	if (t->drained && list_empty(&t->links))
		task_wake(t->rx, &t->drained_task);
}

static void link_settled(void *arg)
{
	changed(((const struct link *)arg)->t);
}

static void link_goaway(void *arg)
{
	const struct link *l = arg;
	if (l->t->opt.goaway)
		l->t->opt.goaway(l->t->opt.arg);
}

static void link_opened(void *arg, struct stream *s, struct slice json)
{
	const struct link *l = arg;
	const struct list *takers = &l->t->takers;
	for (struct list *i = takers->next; i != takers; i = i->next) {
		struct tunnel_taker *taker = container_of(i, struct tunnel_taker, link);
		if (taker->take(taker, s, json))
			return;
	}
	mux_refuse(s, -ERR_DENIED, "this side accepts no such streams");
}

static struct link *link_new(struct tunnel *t, enum tunnel_class class)
{
	struct link *l = xcalloc(1, sizeof(*l));
	l->t = t;
	l->class = class;
	l->dialled_ms = reactor_now(t->rx);
	l->mux = mux_new(t->rx, carrier_dial(t->rx, &t->carrier), SLICE(""),
			 &(struct mux_options){ .client = true,
						.keepalive_ms = t->opt.keepalive_ms,
						.program = t->opt.program,
						.settled = link_settled,
						.opened = link_opened,
						.goaway = link_goaway,
						.ended = link_ended,
						.arg = l });
	list_init(&l->list);
	list_add_tail(&t->links, &l->list);
	t->current[class] = l;
	t->redials += t->dialled[class];
	t->dialled[class] = true;
	return l;
}

/* The carrier to open on; one that is finishing is left to itself. */
static struct link *link_for(struct tunnel *t, enum tunnel_class class)
{
	struct link *l = t->current[class];
	if (l && mux_stats(l->mux)->goaway)
		t->current[class] = l = NULL;
	return l ? l : link_new(t, class);
}

static void on_redial(struct timer *timer)
{
	struct tunnel *t = container_of(timer, struct tunnel, redial);
	link_for(t, TUNNEL_INTERACTIVE);
}

static void drained_run(struct task *task)
{
	struct tunnel *t = container_of(task, struct tunnel, drained_task);
	t->drained(t->drained_arg);
}

struct tunnel *tunnel_new(struct reactor *rx, const struct tunnel_options *opt, char *err,
			  size_t errlen)
{
	struct tunnel *t = xcalloc(1, sizeof(*t));
	t->rx = rx;
	t->opt = *opt;
	t->backoff_ms = BACKOFF_FIRST_MS;
	t->carrier = (struct carrier_config){ .server = opt->server,
					      .connect_ms = opt->connect_ms,
					      .handshake_ms = opt->handshake_ms };
	list_init(&t->links);
	list_init(&t->takers);
	timer_init(&t->redial, on_redial);
	task_init(&t->drained_task, drained_run);
	if (load(t, err, errlen) < 0) {
		tunnel_free(t);
		return NULL;
	}
	if (opt->keep_up)
		link_new(t, TUNNEL_INTERACTIVE);
	return t;
}

void tunnel_free(struct tunnel *t)
{
	if (!t)
		return;
	timer_clear(t->rx, &t->redial);
	task_cancel(&t->drained_task);
	struct list *i;
	while ((i = list_pop(&t->links))) {
		struct link *l = container_of(i, struct link, list);
		struct mux *mux = l->mux;
		forget(l);
		/* With no stream in use the end is an orderly one, and is not to look like a loss.
		 */
		bool idle = mux_stats(mux)->settled && mux_stats(mux)->streams == 0;
		mux_free(mux, idle ? 0 : -ERR_CANCELLED, "the tunnel was closed");
	}
	tls_config_unref(t->carrier.tls);
	tls_config_unref(t->carrier.tls_fallback);
	free(t);
}

void tunnel_drain(struct tunnel *t, void (*drained)(void *arg), void *arg)
{
	t->opt.keep_up = false;
	t->drained = drained;
	t->drained_arg = arg;
	timer_clear(t->rx, &t->redial);
	for (struct list *i = t->links.next, *next; i != &t->links; i = next) {
		struct link *l = container_of(i, struct link, list);
		struct mux *mux = l->mux;
		next = i->next;
		if (is_up(l)) {
			mux_goaway(mux, "the client is done");
			continue;
		}
		forget(l); /* nothing of it can have arrived */
		mux_free(mux, -ERR_CANCELLED, "the tunnel was closed");
	}
	if (list_empty(&t->links))
		task_wake(t->rx, &t->drained_task);
}

int tunnel_reload(struct tunnel *t, char *err, size_t errlen)
{
	return load(t, err, errlen);
}

struct stream *tunnel_open(struct tunnel *t, struct slice json, enum tunnel_class class)
{
	return mux_open(link_for(t, class)->mux, json);
}

void tunnel_take(struct tunnel *t, struct tunnel_taker *taker)
{
	list_init(&taker->link);
	list_add_tail(&t->takers, &taker->link);
}

void tunnel_take_end(struct tunnel_taker *taker)
{
	list_del(&taker->link);
}

bool tunnel_is_up(const struct tunnel *t)
{
	return is_up(t->current[TUNNEL_INTERACTIVE]);
}

void tunnel_status(const struct tunnel *t, struct tunnel_status *out)
{
	*out = (struct tunnel_status){ .streams_total = t->streams_total,
				       .bytes_in = t->bytes_in,
				       .bytes_out = t->bytes_out,
				       .redials = t->redials };
	for (const struct list *i = t->links.next; i != &t->links; i = i->next) {
		const struct link *l = container_of(i, const struct link, list);
		const struct mux_stats *s = mux_stats(l->mux);
		out->carriers++;
		out->streams += s->streams;
		out->streams_total += s->streams_total;
		out->bytes_in += s->bytes_in;
		out->bytes_out += s->bytes_out;
	}
	const struct link *main_link = t->current[TUNNEL_INTERACTIVE];
	out->up = tunnel_is_up(t);
	if (main_link)
		out->rtt_us = mux_stats(main_link->mux)->rtt_us;
	if (!out->up) {
		snprintf(out->last_error, sizeof(out->last_error), "%s", t->last_error);
		out->last_code = t->last_code;
	}
	snprintf(out->server, sizeof(out->server), "%s", addr_text(&t->opt.server));
}

/* What helps, by code. %s is the prefix of the flags' names. */
static const struct {
	int code;
	const char *text;
} advice[] = {
	{ ERR_TLS_UNKNOWN_CA,
	  "give the CA that signed the server's certificate with --%sca FILE, or, "
	  "for development only, skip the check with --%sinsecure" },
	{ ERR_TLS_NAME,
	  "connect by a name that the certificate has, or have the server's certificate "
	  "made for this one; for development only: --%sinsecure" },
	{ ERR_TLS_EXPIRED,
	  "renew the server's certificate (tsctl certs), or correct a wrong clock; "
	  "for development only: --%sinsecure" },
	{ ERR_TLS_NOT_YET, "check the clocks of both hosts; for development only: --%sinsecure" },
	{ ERR_TLS_BAD_CERT,
	  "have the server's certificate made anew (tsctl certs); for development "
	  "only: --%sinsecure" },
	{ ERR_TLS_CERT_REQUIRED, "give a client certificate with --%scert FILE and --%skey FILE" },
	{ ERR_TLS_CERT_DENIED, "the server's --ca-certs must include the CA that signed the "
			       "certificate in --%scert, and that must not have expired" },
	{ ERR_NOT_TLS,
	  "check the port, start guest with --server-cert, or leave out --%scert, --%skey "
	  "and --%sca" },
	{ ERR_IS_TLS, "give --%sca FILE (and --%scert, --%skey), or, for development only, "
		      "--%sinsecure" },
	{ ERR_DENIED, "guest's --allowed-cns must list this certificate's name" },
	{ ERR_DNS_NOT_FOUND, "check the name of the server" },
	{ ERR_DNS_FAIL, "check the network and /etc/resolv.conf" },
	{ ECONNREFUSED, "is guest running there, and is this its port?" },
	{ ETIMEDOUT, "check the address, the port and the firewalls between" },
	{ EHOSTUNREACH, "check the address and the network" },
	{ ENETUNREACH, "check the address and the network" },
};

/* The name of a flag, which text starts with, as a URL's parameter. Returns what follows it. */
static const char *put_parameter(struct buf *b, const char *text)
{
	static const char value[] = " FILE";
	size_t n = strspn(text, "abcdefghijklmnopqrstuvwxyz");
	bool insecure = n == strlen("insecure");
	buf_printf(b, "%.*s=%s", (int)n, text, insecure ? "true" : value + 1);
	text += n;
	return strncmp(text, value, strlen(value)) == 0 ? text + strlen(value) : text;
}

/* The advice with the flags by their names. */
static void put_advice(struct buf *b, const char *text, const char *flag_prefix)
{
	static const char flag[] = "--%s";
	const char *at;
	for (; (at = strstr(text, flag)); text = at) {
		buf_put(b, slice_of(text, (size_t)(at - text)));
		at += strlen(flag);
		if (flag_prefix)
			buf_printf(b, "--%s", flag_prefix);
		else
			at = put_parameter(b, at);
	}
	buf_puts(b, text);
}

void tunnel_advice(int code, const char *why, const char *flag_prefix,
		   const struct tunnel_options *opt, char *out, size_t outlen)
{
	const char *where = addr_text(&opt->server);
	struct buf text;
	buf_init(&text, 4096);
	buf_printf(&text, "%s", why);
	if (!strstr(why, where))
		buf_printf(&text, " (server %s)", where);
	for (size_t i = 0; i < ARRAY_LEN(advice); i++) {
		if (advice[i].code != -code || (code == -ERR_DENIED && !opt->cert_file))
			continue;
		buf_puts(&text, "; ");
		put_advice(&text, advice[i].text, flag_prefix);
	}
	snprintf(out, outlen, "%.*s", SLICE_FMT(buf_data(&text)));
	buf_end(&text);
}
