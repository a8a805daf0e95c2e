/* The exchanges that are about ports and bind mounts: starts, which bind the ones and wait for the
 * others; ends, which wait; replies, which name them; creates. */
#include <errno.h>

#include "cmd/tsctl/publish_int.h"
#include "http/fetch.h"
#include "http/pass.h"
#include "http/url.h"
#include "proto/docker/binds.h"
#include "proto/docker/route.h"
#include "reactor/err.h"
#include "reactor/log.h"

enum { BODY_MAX = 4 << 20, ASK_MS = 30 * 1000, TARGET_MAX = 1024 };

struct exchange {
	struct list link; /* publish.exchanges */
	struct publish *p;
	struct http_pass *pass;
	struct http_fetch *fetch; /* what we ask the engine beside it */
	enum docker_verb verb;
	char prefix[16];
	char *container;              /* as the request names it */
	char *refusal;                /* to be sent */
	struct box *box;              /* held */
	struct docker_container want; /* what its start is to publish */
	char holder[65];              /* the container that was asked about last */
	struct json_doc *create;      /* the request that is being rewritten */
	char *name;                   /* of a create: what the container is to be called */
	struct binds_step *step;      /* of its binds; it lives as long as the exchange */
};

static void ask_engine(struct exchange *x, const char *method, const char *path, http_fetched *then)
{
	const struct http_upstream *engine = x->p->o.engine;
	char target[TARGET_MAX];
	snprintf(target, sizeof(target), "%s%s", x->prefix, path);
	x->fetch = http_fetch_plain(engine->dial(engine->arg), slice_str(method), slice_str(target),
				    SLICE("docker"), BODY_MAX, ASK_MS, then, x);
}

static void inspect(struct exchange *x, const char *container, http_fetched *then)
{
	char path[TARGET_MAX];
	snprintf(path, sizeof(path), "/containers/%s/json", container);
	ask_engine(x, "GET", path, then);
}

/* --- start and restart --- */

static void refuse(struct exchange *x)
{
	char *text = x->refusal;
	x->refusal = NULL;
	http_pass_refuse(x->pass, 500, text);
	free(text);
}

static void on_removed(void *arg, int status, const char *why, struct slice body)
{
	struct exchange *x = arg;
	x->fetch = NULL;
	(void)status, (void)why, (void)body; /* the client is to hear of the port */
	refuse(x);
}

/* The start is not to be. */
static void refuse_removing(struct exchange *x)
{
	char path[128];
	if (!x->want.auto_remove) {
		refuse(x);
		return;
	}
	/* As the engine does it when a start fails (moby daemon/start.go): run --rm waits for that.
	 * Not by force: it may be running after all. */
	snprintf(path, sizeof(path), "/containers/%s?v=1", x->want.id);
	ask_engine(x, "DELETE", path, on_removed);
}

static void refuse_start(struct exchange *x, const struct taken *t)
{
	bool denied = t->code != -EADDRINUSE, restart = x->verb == DOCKER_RESTART;
	bool v6 = strchr(t->host, ':') != NULL;
	struct box *b = x->box;
	x->refusal = xasprintf(
	    "%s%s%sdriver failed programming external connectivity on endpoint %s (%s): Bind for "
	    "%s%s%s:%u failed: %s%s",
	    restart ? "Cannot restart container " : "", restart ? x->container : "",
	    restart ? ": " : "", x->want.name, x->want.id, v6 ? "[" : "", t->host, v6 ? "]" : "",
	    t->port.number, denied ? err_text(t->code) : "port is already allocated",
	    denied ? " (on the machine of tsctl; tsctl start --no-publish leaves ports alone)"
		   : "");
	log_warn("start-refused container=%s port=%u proto=%s reason=%s",
		 log_quote(slice_str(x->want.name)), t->port.number,
		 docker_proto_text(t->port.proto), log_quote(slice_str(err_text(t->code))));
	x->box = NULL;
	box_release(b, NULL);
	refuse_removing(x);
}

/* The reply to an inspect; false when there is none to use. */
static bool parse_reply(int status, struct slice body, struct docker_container *c,
			int (*parse)(struct docker_container *, struct json_doc *))
{
	struct json_doc *doc = status == 200 ? json_parse(body, NULL, NULL) : NULL;
	bool good = doc && parse(c, doc) == 0;
	json_free(doc);
	return good;
}

static void bind_and_send(struct exchange *x);

static void on_holder(void *arg, int status, const char *why, struct slice body)
{
	struct exchange *x = arg;
	struct docker_container c = { .running = false };
	x->fetch = NULL;
	(void)why; /* then it has it still */
	if (parse_reply(status, body, &c, docker_inspected) || status == 404)
		box_update(x->p, x->holder, &c);
	docker_container_end(&c);
	bind_and_send(x);
}

/* Who has the port may be a container of ours that has just ended, and we do not know it yet. The
 * engine does: not its list, which may be late, but its inspect. */
static void bind_and_send(struct exchange *x)
{
	struct taken taken;
	if (box_bind(x->box, &x->want, &taken) == 0) {
		http_pass_send(x->pass, (struct slice){ NULL, 0 });
	} else if (taken.holder[0] && strcmp(taken.holder, x->holder) != 0) {
		memcpy(x->holder, taken.holder, sizeof(x->holder));
		inspect(x, x->holder, on_holder);
	} else {
		refuse_start(x, &taken);
	}
}

/* Are its ports of the engine's host at all? */
static bool has_own_network(const struct docker_container *c)
{
	struct slice mode = slice_str(c->network);
	return !slice_eq(mode, SLICE("host")) && !slice_eq(mode, SLICE("none")) &&
	       !slice_starts(mode, SLICE("container:"));
}

/* Its files are there, if it has any: the ports now. */
static void start_ports(struct exchange *x)
{
	if (!x->p->o.follow || !x->want.id[0] || !has_own_network(&x->want) ||
	    (x->want.nports == 0 && !x->want.publish_all) ||
	    (x->want.running && x->verb == DOCKER_START)) {
		http_pass_send(x->pass, (struct slice){ NULL, 0 });
		return;
	}
	x->box = box_get(x->p, &x->want);
	snprintf(x->box->name, sizeof(x->box->name), "%s", x->want.name);
	box_hold(x->box);
	bind_and_send(x);
}

static void on_files(void *arg, int status, const char *why)
{
	struct exchange *x = arg;
	if (status == 0) {
		start_ports(x);
		return;
	}
	x->refusal = xstrdup(why);
	refuse_removing(x);
}

static void on_looked(void *arg, int status, const char *why, struct slice body)
{
	struct exchange *x = arg;
	struct json_doc *doc = status == 200 ? json_parse(body, NULL, NULL) : NULL;
	x->fetch = NULL;
	(void)why; /* the request itself will tell */
	if (doc && docker_wanted(&x->want, doc) == 0 && x->p->o.binds)
		x->step = binds_begin(x->p->o.binds, doc, on_files, x);
	json_free(doc);
	if (!x->step)
		start_ports(x);
}

static void on_started(void *arg, int status, const char *why, struct slice body)
{
	struct exchange *x = arg;
	struct docker_container c = { .running = false };
	struct box *b = x->box;
	bool known = parse_reply(status, body, &c, docker_inspected) || status == 404;
	x->fetch = NULL;
	x->box = NULL;
	if (!known)
		log_warn("ports unknown container=%s reason=%s", log_quote(slice_str(b->name)),
			 log_quote(slice_str(status < 0 ? why : "no sensible reply")));
	box_release(b, known ? &c : NULL);
	docker_container_end(&c);
	http_pass_reply(x->pass, (struct slice){ NULL, 0 });
}

/* --- replies that name ports --- */

static uint16_t number_here(void *arg, struct slice id, const struct docker_port *port)
{
	struct box *b = box_find(arg, id);
	struct pub *pub = b ? pub_find(b, port) : NULL;
	return pub ? pub->here : 0;
}

/* The reply with the changes that doc has, or as it came. */
static void reply_changed(struct exchange *x, struct json_doc *doc, bool changed)
{
	struct buf b;
	buf_init(&b, changed ? json_length(doc) : 0);
	if (changed && json_print(doc, &b) == 0)
		http_pass_reply(x->pass, buf_data(&b));
	else
		http_pass_reply(x->pass, (struct slice){ NULL, 0 });
	buf_end(&b);
}

static void show(struct exchange *x, struct slice body)
{
	struct json_doc *doc = json_parse(body, NULL, NULL);
	struct binds *binds = x->p->o.binds;
	bool list = x->verb == DOCKER_LIST;
	size_t changed = 0;
	if (doc)
		changed = list ? docker_renumber_list(doc, number_here, x->p)
			       : docker_renumber_inspect(doc, number_here, x->p);
	if (doc && binds && binds_may_show(binds))
		changed += list ? docker_sources_list(doc, binds_source_here, binds)
				: docker_sources_inspect(doc, binds_source_here, binds);
	reply_changed(x, doc, changed > 0);
	json_free(doc);
}

/* --- create --- */

/* The request as it is now. */
static void send_create(struct exchange *x)
{
	struct json_doc *doc = x->create;
	struct buf b;
	x->create = NULL;
	buf_init(&b, json_length(doc));
	int r = json_print(doc, &b);
	BUG_ON(r < 0);
	json_free(doc);
	http_pass_send(x->pass, buf_data(&b));
	buf_end(&b);
}

/* For an engine that is to publish on its loopback only. */
static void create_loopback(struct exchange *x, struct json_doc *image)
{
	if (docker_bind_loopback(x->create, image) < 0)
		http_pass_refuse(x->pass, 400,
				 "PortBindings are malformed, and --publish-remote loopback has to "
				 "rewrite them");
	else
		send_create(x);
}

static void on_image(void *arg, int status, const char *why, struct slice body)
{
	struct exchange *x = arg;
	struct json_doc *image = status == 200 ? json_parse(body, NULL, NULL) : NULL;
	x->fetch = NULL;
	if (image || status == 404) { /* without its image the engine refuses it */
		create_loopback(x, image);
	} else {
		char text[600];
		snprintf(text, sizeof(text), "cannot look which ports the image exposes: %s",
			 status < 0 ? why : "the engine's reply makes no sense");
		http_pass_refuse(x->pass, 502, text);
	}
	json_free(image);
}

static void create_ports(struct exchange *x)
{
	struct slice image;
	struct buf path;
	if (!x->p->o.remote_loopback) {
		send_create(x);
		return;
	}
	if (!docker_publishes_all(x->create, &image)) {
		create_loopback(x, NULL);
		return;
	}
	buf_init(&path, TARGET_MAX - sizeof(x->prefix));
	if (buf_puts(&path, "/images/") < 0 || http_percent_put(&path, image) < 0 ||
	    buf_put(&path, SLICE("/json\0")) < 0)
		http_pass_refuse(x->pass, 400, "the image's name is too long");
	else
		ask_engine(x, "GET", buf_data(&path).p, on_image);
	buf_end(&path);
}

static void on_sources(void *arg, int status, const char *why)
{
	struct exchange *x = arg;
	if (status == 0)
		create_ports(x);
	else
		http_pass_refuse(x->pass, status, why);
}

static void rewrite_create(struct exchange *x, struct slice body)
{
	struct json_error err;
	x->create = json_parse(body, NULL, &err);
	if (!x->create && !x->p->o.remote_loopback) {
		log_warn("binds not-synced reason=\"a create request is no strict JSON: %s at byte "
			 "%zu\"",
			 json_error_text(err.code), err.at);
		http_pass_send(x->pass, (struct slice){ NULL, 0 });
		return;
	}
	if (!x->create) {
		char text[200];
		snprintf(text, sizeof(text), "the request is no strict JSON: %s at byte %zu",
			 json_error_text(err.code), err.at);
		http_pass_refuse(x->pass, 400, text);
		return;
	}
	if (x->p->o.binds)
		x->step = binds_create(x->p->o.binds, x->create, on_sources, x);
	if (!x->step)
		create_ports(x);
}

static void created(struct exchange *x, struct slice body)
{
	struct json_doc *reply = json_parse(body, NULL, NULL);
	bool changed = reply && binds_created(x->step, reply, slice_str(x->name));
	reply_changed(x, reply, changed);
	json_free(reply);
}

/* --- ends, which wait for files --- */

static void on_settled(void *arg, int status, const char *why)
{
	struct exchange *x = arg;
	(void)status, (void)why; /* it was logged */
	if (x->verb == DOCKER_EXEC)
		http_pass_send(x->pass, (struct slice){ NULL, 0 });
	else
		http_pass_reply(x->pass, (struct slice){ NULL, 0 });
}

static void settle(struct exchange *x)
{
	x->step = binds_settle(x->p->o.binds, slice_str(x->container), on_settled, x);
	if (!x->step)
		on_settled(x, 0, NULL);
}

/* --- all of them --- */

static void on_asked(void *arg, struct slice body)
{
	struct exchange *x = arg;
	if (x->verb == DOCKER_START || x->verb == DOCKER_RESTART)
		inspect(x, x->container, on_looked);
	else if (x->verb == DOCKER_CREATE)
		rewrite_create(x, body);
	else if (x->verb == DOCKER_EXEC) /* what was changed here is to be seen by it */
		settle(x);
	else
		http_pass_send(x->pass, (struct slice){ NULL, 0 });
}

static bool waits(enum docker_verb verb)
{
	return verb == DOCKER_WAIT || verb == DOCKER_STOP || verb == DOCKER_REMOVE ||
	       verb == DOCKER_LOGS;
}

static void on_answered(void *arg, int status, struct slice body)
{
	struct exchange *x = arg;
	bool starts = x->verb == DOCKER_START || x->verb == DOCKER_RESTART;
	if (x->step && starts && (status / 100 == 2 || status == 304))
		binds_begun(x->step);
	if (x->box)
		inspect(x, x->want.id, on_started);
	else if (status == 200 && (x->verb == DOCKER_LIST || x->verb == DOCKER_INSPECT))
		show(x, body); /* x may be gone, as in all of these */
	else if (status == 201 && x->verb == DOCKER_CREATE && x->step)
		created(x, body);
	else if (waits(x->verb))
		settle(x);
	else
		http_pass_reply(x->pass, (struct slice){ NULL, 0 });
}

static void on_too_long(void *arg, size_t limit)
{
	(void)arg;
	log_warn("reply not-rewritten reason=\"it is over %zu bytes\"", limit);
}

static void on_over(void *arg)
{
	struct exchange *x = arg;
	http_fetch_free(x->fetch);
	if (x->box)
		box_release(x->box, NULL);
	binds_step_free(x->step);
	docker_container_end(&x->want);
	json_free(x->create);
	list_del(&x->link);
	free(x->container);
	free(x->name);
	free(x->refusal);
	free(x);
}

void exchanges_abort(struct publish *p)
{
	while (!list_empty(&p->exchanges))
		http_pass_abort(container_of(p->exchanges.next, struct exchange, link)->pass);
}

static bool concerns_us(const struct publish *p, const struct docker_route *r)
{
	const struct binds *binds = p->o.binds;
	switch (r->verb) {
	case DOCKER_CREATE:
		return p->o.remote_loopback || binds;
	case DOCKER_START:
	case DOCKER_RESTART:
		return p->o.follow || binds;
	case DOCKER_LIST:
	case DOCKER_INSPECT:
		return p->moved > 0 || (binds && binds_may_show(binds));
	case DOCKER_WAIT:
	case DOCKER_LOGS: /* it may be started later */
		return binds && binds_fenced(binds, r->container, true);
	case DOCKER_STOP:
	case DOCKER_REMOVE:
	case DOCKER_EXEC:
		return binds && binds_fenced(binds, r->container, false);
	case DOCKER_ATTACH: /* binds_relayed */
	case DOCKER_EXEC_RUN:
	case DOCKER_OTHER:
		break;
	}
	return false;
}

static char *name_of(const struct http_head *head)
{
	struct http_url url;
	struct http_err err;
	char name[256];
	if (http_target_parse(&url, head->target, &err) < 0 ||
	    http_query_get(url.query, "name", name, sizeof(name)) < 0)
		return NULL;
	return xstrdup(name + (name[0] == '/'));
}

bool publish_handle(struct publish *p, struct http_conn *c, const struct http_head *head)
{
	static const struct http_pass_ops ops[] = {
#define OPS(how)                                                                                   \
	{ .asked = on_asked,                                                                       \
	  .answered = on_answered,                                                                 \
	  .too_long = on_too_long,                                                                 \
	  .over = on_over,                                                                         \
	  .way = (how) }
		OPS(HTTP_PASS_WHOLE), OPS(HTTP_PASS_BODY_HELD), OPS(HTTP_PASS_END_HELD)
#undef OPS
	};
	struct docker_route route = docker_route(head);
	if (!concerns_us(p, &route) || http_wants_upgrade(head) ||
	    route.prefix.n >= sizeof(((struct exchange *)0)->prefix) || route.container.n > 256)
		return false;
	struct exchange *x = xcalloc(1, sizeof(*x));
	x->p = p;
	x->verb = route.verb;
	x->container = xslicedup(route.container);
	x->name = route.verb == DOCKER_CREATE ? name_of(head) : NULL;
	snprintf(x->prefix, sizeof(x->prefix), "%.*s", SLICE_FMT(route.prefix));
	list_init(&x->link);
	list_add_tail(&p->exchanges, &x->link);
	enum http_pass_way way = x->verb == DOCKER_WAIT   ? HTTP_PASS_BODY_HELD
				 : x->verb == DOCKER_LOGS ? HTTP_PASS_END_HELD
							  : HTTP_PASS_WHOLE;
	x->pass = http_pass_new(c, head, p->o.engine, BODY_MAX, &ops[way], x);
	if (!x->pass)
		on_over(x);
	return true;
}
