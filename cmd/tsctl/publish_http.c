/* The exchanges that are about ports: starts, which bind them; replies, which name them; creates.
 */
#include <errno.h>

#include "cmd/tsctl/publish_int.h"
#include "http/fetch.h"
#include "http/pass.h"
#include "http/url.h"
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
	if (x->want.auto_remove) {
		/* As the engine does it when a start fails (moby daemon/start.go): run --rm waits
		 * for that. Not by force: it may be running after all. */
		char path[128];
		snprintf(path, sizeof(path), "/containers/%s?v=1", x->want.id);
		ask_engine(x, "DELETE", path, on_removed);
	} else {
		refuse(x);
	}
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

static void on_looked(void *arg, int status, const char *why, struct slice body)
{
	struct exchange *x = arg;
	x->fetch = NULL;
	(void)why; /* the request itself will tell */
	if (!parse_reply(status, body, &x->want, docker_wanted) || !has_own_network(&x->want) ||
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

static void renumber(struct exchange *x, struct slice body)
{
	struct json_doc *doc = json_parse(body, NULL, NULL);
	size_t changed = 0;
	struct buf b;
	if (doc)
		changed = x->verb == DOCKER_LIST ? docker_renumber_list(doc, number_here, x->p)
						 : docker_renumber_inspect(doc, number_here, x->p);
	buf_init(&b, doc ? json_length(doc) : 0);
	if (changed && json_print(doc, &b) == 0)
		http_pass_reply(x->pass, buf_data(&b));
	else
		http_pass_reply(x->pass, (struct slice){ NULL, 0 });
	buf_end(&b);
	json_free(doc);
}

/* --- create, for an engine that is to publish on its loopback only --- */

static void send_create(struct exchange *x, struct json_doc *image)
{
	struct json_doc *doc = x->create;
	struct buf b;
	x->create = NULL;
	if (docker_bind_loopback(doc, image) < 0) {
		json_free(doc);
		http_pass_refuse(x->pass, 400,
				 "PortBindings are malformed, and --publish-remote loopback has to "
				 "rewrite them");
		return;
	}
	buf_init(&b, json_length(doc));
	int r = json_print(doc, &b);
	BUG_ON(r < 0);
	json_free(doc);
	http_pass_send(x->pass, buf_data(&b));
	buf_end(&b);
}

static void on_image(void *arg, int status, const char *why, struct slice body)
{
	struct exchange *x = arg;
	struct json_doc *image = status == 200 ? json_parse(body, NULL, NULL) : NULL;
	x->fetch = NULL;
	if (image || status == 404) { /* without its image the engine refuses it */
		send_create(x, image);
	} else {
		char text[600];
		snprintf(text, sizeof(text), "cannot look which ports the image exposes: %s",
			 status < 0 ? why : "the engine's reply makes no sense");
		http_pass_refuse(x->pass, 502, text);
	}
	json_free(image);
}

static void rewrite_create(struct exchange *x, struct slice body)
{
	struct json_error err;
	struct slice image;
	struct buf path;
	x->create = json_parse(body, NULL, &err);
	if (!x->create) {
		char text[200];
		snprintf(text, sizeof(text), "the request is no strict JSON: %s at byte %zu",
			 json_error_text(err.code), err.at);
		http_pass_refuse(x->pass, 400, text);
		return;
	}
	if (!docker_publishes_all(x->create, &image)) {
		send_create(x, NULL);
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

/* --- all of them --- */

static void on_asked(void *arg, struct slice body)
{
	struct exchange *x = arg;
	if (x->verb == DOCKER_START || x->verb == DOCKER_RESTART)
		inspect(x, x->container, on_looked);
	else if (x->verb == DOCKER_CREATE)
		rewrite_create(x, body);
	else
		http_pass_send(x->pass, (struct slice){ NULL, 0 });
}

static void on_answered(void *arg, int status, struct slice body)
{
	struct exchange *x = arg;
	if (x->box)
		inspect(x, x->want.id, on_started);
	else if (status == 200 && (x->verb == DOCKER_LIST || x->verb == DOCKER_INSPECT))
		renumber(x, body);
	else
		http_pass_reply(x->pass, (struct slice){ NULL, 0 });
}

static void on_too_long(void *arg, size_t limit)
{
	(void)arg;
	log_warn("ports not-renumbered reason=\"a reply over %zu bytes\"", limit);
}

static void on_over(void *arg)
{
	struct exchange *x = arg;
	http_fetch_free(x->fetch);
	if (x->box)
		box_release(x->box, NULL);
	docker_container_end(&x->want);
	json_free(x->create);
	list_del(&x->link);
	free(x->container);
	free(x->refusal);
	free(x);
}

void exchanges_abort(struct publish *p)
{
	while (!list_empty(&p->exchanges))
		http_pass_abort(container_of(p->exchanges.next, struct exchange, link)->pass);
}

static bool concerns_us(const struct publish *p, enum docker_verb verb)
{
	switch (verb) {
	case DOCKER_CREATE:
		return p->o.remote_loopback;
	case DOCKER_START:
	case DOCKER_RESTART:
		return p->o.follow;
	case DOCKER_LIST:
	case DOCKER_INSPECT:
		return p->moved > 0;
	case DOCKER_OTHER:
		break;
	}
	return false;
}

bool publish_handle(struct publish *p, struct http_conn *c, const struct http_head *head)
{
	static const struct http_pass_ops ops = {
		.asked = on_asked, .answered = on_answered, .too_long = on_too_long, .over = on_over
	};
	struct docker_route route = docker_route(head);
	if (!concerns_us(p, route.verb) || http_wants_upgrade(head) ||
	    route.prefix.n >= sizeof(((struct exchange *)0)->prefix) || route.container.n > 256)
		return false;
	struct exchange *x = xcalloc(1, sizeof(*x));
	x->p = p;
	x->verb = route.verb;
	x->container = xslicedup(route.container);
	snprintf(x->prefix, sizeof(x->prefix), "%.*s", SLICE_FMT(route.prefix));
	list_init(&x->link);
	list_add_tail(&p->exchanges, &x->link);
	x->pass = http_pass_new(c, head, p->o.engine, BODY_MAX, &ops, x);
	if (!x->pass)
		on_over(x);
	return true;
}
