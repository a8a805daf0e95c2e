/* The ends of attach and exec: held until what the container wrote is back. */
#include "cmd/tsctl/binds_int.h"
#include "http/fetch.h"
#include "proto/docker/route.h"
#include "reactor/hold.h"

enum { INSPECT_MAX = 1 << 20, INSPECT_MS = 10 * 1000, TARGET_MAX = 400 };

struct tail {
	struct list link; /* binds.tails */
	struct binds *b;
	struct stream *hold;
	struct http_fetch *fetch; /* whose exec is it? */
	char *container;
	struct binds_step *step;
	bool ended;
};

static void on_settled(void *arg, int status, const char *why)
{
	struct tail *t = arg;
	(void)status, (void)why;
	binds_step_free(t->step);
	t->step = NULL;
	hold_stream_release(t->hold);
}

static void settle(struct tail *t)
{
	if (!t->ended || t->fetch || t->step)
		return;
	if (t->container)
		t->step = binds_settle(t->b, slice_str(t->container), on_settled, t);
	if (!t->step)
		hold_stream_release(t->hold);
}

static void on_ended(void *arg)
{
	struct tail *t = arg;
	t->ended = true;
	settle(t);
}

static void tail_free(void *arg)
{
	struct tail *t = arg;
	list_del(&t->link);
	http_fetch_free(t->fetch);
	binds_step_free(t->step);
	free(t->container);
	free(t);
}

static void on_exec(void *arg, int status, const char *why, struct slice body)
{
	struct tail *t = arg;
	struct json_doc *doc = status == 200 ? json_parse(body, NULL, NULL) : NULL;
	struct slice id;
	(void)why; /* then nothing is waited for */
	t->fetch = NULL;
	if (doc && json_str(doc, json_find(json_root(doc), "ContainerID"), &id) == 0)
		t->container = xslicedup(id);
	json_free(doc);
	settle(t);
}

struct stream *binds_relayed(struct binds *b, const struct http_head *head, struct stream *up)
{
	struct docker_route r = docker_route(head);
	bool exec = r.verb == DOCKER_EXEC_RUN;
	char target[TARGET_MAX];
	if ((!exec && r.verb != DOCKER_ATTACH) || (exec && list_empty(&b->syncs)) ||
	    !binds_fenced(b, exec ? SLICE("") : r.container, true) || r.container.n > 256)
		return up;
	struct tail *t = xcalloc(1, sizeof(*t));
	t->b = b;
	list_init(&t->link);
	list_add_tail(&b->tails, &t->link);
	t->hold = hold_stream_new(up, on_ended, tail_free, t);
	if (!exec) {
		t->container = xslicedup(r.container);
		return t->hold;
	}
	snprintf(target, sizeof(target), "%.*s/exec/%.*s/json", SLICE_FMT(r.prefix),
		 SLICE_FMT(r.container));
	t->fetch =
	    http_fetch_plain(b->o.engine->dial(b->o.engine->arg), SLICE("GET"), slice_str(target),
			     SLICE("docker"), INSPECT_MAX, INSPECT_MS, on_exec, t);
	return t->hold;
}

/* Their streams are let go of by nobody any more. */
void binds_tails_end(struct binds *b)
{
	struct list *l;
	while ((l = list_pop(&b->tails)))
		tail_free(container_of(l, struct tail, link));
}
