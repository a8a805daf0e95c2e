#include "proto/docker/follow.h"

#include <errno.h>

#include "http/client.h"
#include "http/fetch.h"
#include "http/url.h"
#include "reactor/buf.h"
#include "reactor/err.h"
#include "reactor/log.h"

enum {
	EVENT_MAX = 1 << 20,
	HEAD_MS = 30 * 1000, /* for the engine's first word */
	LIST_MS = 30 * 1000,
	BACKOFF_MIN_MS = 100,
	BACKOFF_MAX_MS = 2000
};

/* Pauses after a list, until the next event. moby tells that a container died before its list does,
 * by as long as it takes to clean up; and it drops events of slow readers without a word. */
static const uint64_t list_pause_ms[] = { 150, 600, 2500, 60 * 1000 };

struct docker_follow {
	struct reactor *rx;
	struct docker_follow_options o;
	struct task task;   /* of events */
	struct timer timer; /* time to connect again, or the head is late */
	struct http_client *events;
	bool headed;
	struct buf in;
	struct json_split split;
	uint64_t since;
	uint64_t backoff_ms;
	struct timer list_timer; /* time for the next list */
	struct http_fetch *list;
	uint64_t list_began;
	size_t quiet;  /* lists since the last event */
	bool again;    /* something happened while a list was on its way */
	char why[256]; /* last reason that was logged, "" while all is well */
};

/* --- pure parts --- */

int docker_event_parse(struct docker_event *e, struct slice text)
{
	static const struct slice actions[] = {
		SLICE("start"),  SLICE("restart"), SLICE("die"),        SLICE("stop"),
		SLICE("kill"),   SLICE("oom"),     SLICE("destroy"),    SLICE("rename"),
		SLICE("pause"),  SLICE("unpause"), SLICE("disconnect"), SLICE("connect"),
		SLICE("remove"), SLICE("died"),
	};
	struct json_doc *doc = json_parse(text, NULL, NULL);
	struct slice action = SLICE("");
	*e = (struct docker_event){ .nano = 0 };
	if (!doc || json_root(doc)->type != JSON_OBJECT) {
		json_free(doc);
		return -EINVAL;
	}
	if (json_str(doc, json_find(json_root(doc), "Action"), &action) < 0)
		json_str(doc, json_find(json_root(doc), "status"), &action); /* before 1.22 */
	for (size_t i = 0; i < ARRAY_LEN(actions); i++)
		e->matters |= slice_eq(action, actions[i]);
	json_u64(json_find(json_root(doc), "timeNano"), &e->nano);
	json_free(doc);
	return 0;
}

void docker_events_target(uint64_t since, char *out, size_t outlen)
{
	/* Types only: what else goes through here is a health check now and then. Networks, because
	 * a container that is connected to one may get its ports then. since=0: all that the engine
	 * remembers, so that nothing is lost between the reply's head and the subscription. */
	static const char filters[] = "{\"type\":[\"container\",\"network\"]}";
	struct buf b;
	buf_init(&b, 512);
	buf_printf(&b,
		   "/events?since=%llu.%09llu&filters=", (unsigned long long)(since / 1000000000),
		   (unsigned long long)(since % 1000000000));
	http_percent_put(&b, slice_str(filters));
	snprintf(out, outlen, "%.*s", SLICE_FMT(buf_data(&b)));
	buf_end(&b);
}

struct json_doc *docker_list_parse(struct slice text, char *why, size_t whylen)
{
	static const struct json_limits limits = { .bytes = DOCKER_LIST_MAX, .values = 1 << 21 };
	struct json_error err = { JSON_OK, 0 };
	struct json_doc *doc = json_parse(text, &limits, &err);
	if (doc && json_root(doc)->type == JSON_ARRAY)
		return doc;
	json_free(doc);
	snprintf(why, whylen, "the engine's list of containers: %s",
		 err.code ? json_error_text(err.code) : "not an array");
	return NULL;
}

/* --- what goes wrong --- */

/* Once per reason: it may last for hours. */
static void tell(struct docker_follow *f, const char *why)
{
	if (strcmp(f->why, why) == 0)
		return;
	snprintf(f->why, sizeof(f->why), "%s", why);
	log_warn("ports not-followed reason=%s", log_quote(slice_str(why)));
}

static void all_is_well(struct docker_follow *f)
{
	if (f->why[0])
		log_info("ports followed-again");
	f->why[0] = '\0';
}

/* --- the list --- */

static void list_begin(struct docker_follow *f);

static void on_list(void *arg, int status, const char *why, struct slice body)
{
	struct docker_follow *f = arg;
	struct json_doc *doc = NULL;
	char text[512] = "";
	uint64_t took = reactor_now(f->rx) - f->list_began;
	f->list = NULL;
	if (status == 200)
		doc = docker_list_parse(body, text, sizeof(text));
	else if (status > 0)
		snprintf(text, sizeof(text), "the engine answered %d to its list of containers",
			 status);
	else
		snprintf(text, sizeof(text), "%s", why);
	if (doc) {
		f->o.listed(f->o.arg, doc);
		if (f->headed)
			all_is_well(f);
	} else {
		tell(f, text);
	}
	if (!doc)
		timer_set(f->rx, &f->list_timer, BACKOFF_MAX_MS / 2);
	else if (f->again) /* no more than half of the engine's time is ours */
		timer_set(f->rx, &f->list_timer, took);
	else
		timer_set(f->rx, &f->list_timer, list_pause_ms[f->quiet]);
	if (doc && f->quiet + 1 < ARRAY_LEN(list_pause_ms))
		f->quiet++;
	json_free(doc);
}

static void list_begin(struct docker_follow *f)
{
	timer_clear(f->rx, &f->list_timer);
	f->again = false;
	f->list_began = reactor_now(f->rx);
	f->o.asking(f->o.arg);
	f->list = http_fetch_plain(f->o.dial(f->o.arg), SLICE("GET"), SLICE("/containers/json"),
				   SLICE("docker"), DOCKER_LIST_MAX, LIST_MS, on_list, f);
}

static void list_due(struct timer *t)
{
	list_begin(container_of(t, struct docker_follow, list_timer));
}

void docker_follow_hint(struct docker_follow *f)
{
	if (!f->again && !f->list)
		timer_set(f->rx, &f->list_timer, 0);
	f->quiet = 0;
	f->again = true;
}

/* --- events --- */

static void events_open(struct docker_follow *f)
{
	struct buf b;
	char target[512];
	docker_events_target(f->since, target, sizeof(target));
	buf_init(&b, HTTP_HEAD_MAX);
	http_put_request(&b, SLICE("GET"), slice_str(target));
	http_put_field(&b, SLICE("Host"), SLICE("docker"));
	http_put_end(&b);
	f->headed = false;
	json_split_init(&f->split, EVENT_MAX);
	f->events = http_client_new(f->o.dial(f->o.arg), &b, SLICE("GET"));
	timer_set(f->rx, &f->timer, HEAD_MS);
	http_client_bind(f->events, &f->task);
}

static void events_lost(struct docker_follow *f, const char *why)
{
	tell(f, why);
	http_client_free(f->events, -ERR_CANCELLED);
	f->events = NULL;
	f->headed = false;
	buf_end(&f->in);
	timer_set(f->rx, &f->timer, f->backoff_ms);
	f->backoff_ms = MIN(2 * f->backoff_ms, (uint64_t)BACKOFF_MAX_MS);
}

void docker_follow_reconnect(struct docker_follow *f)
{
	if (f->headed)
		timer_set(f->rx, &f->timer, 0);
}

static void events_timer(struct timer *t)
{
	struct docker_follow *f = container_of(t, struct docker_follow, timer);
	if (f->events)
		events_lost(f, f->headed ? "the guest is going away"
					 : "the engine does not answer to GET /events");
	else
		events_open(f);
}

/* 0, or what is wrong with them. */
static int events_take(struct docker_follow *f)
{
	struct slice value;
	ssize_t n;
	while ((n = json_split_next(&f->split, buf_data(&f->in), false, &value)) > 0) {
		struct docker_event e;
		if (value.n && docker_event_parse(&e, value) < 0)
			return -EINVAL;
		if (value.n && e.nano > f->since)
			f->since = e.nano;
		if (value.n && e.matters)
			docker_follow_hint(f);
		buf_drop(&f->in, (size_t)n);
	}
	return (int)n;
}

static ssize_t events_read(struct docker_follow *f)
{
	struct iovec room = buf_room(&f->in);
	ssize_t n = http_client_read(f->events, room.iov_base, room.iov_len);
	buf_added(&f->in, n > 0 ? (size_t)n : 0);
	return n;
}

static void events_run(struct task *t)
{
	struct docker_follow *f = container_of(t, struct docker_follow, task);
	char why[300];
	ssize_t n = 0;
	if (!f->events)
		return;
	if (!f->headed) {
		struct http_head h;
		n = http_client_head(f->events, &h);
		if (n == 0 && h.status != 200) {
			snprintf(why, sizeof(why), "the engine answered %u to GET /events",
				 h.status);
			events_lost(f, why);
			return;
		}
		if (n == 0) {
			f->headed = true;
			f->backoff_ms = BACKOFF_MIN_MS;
			timer_clear(f->rx, &f->timer);
			docker_follow_hint(f);
		}
	}
	while (n >= 0 && (n = events_read(f)) > 0) {
		int r = events_take(f);
		if (r < 0) {
			snprintf(why, sizeof(why), "GET /events: %s",
				 r == -EMSGSIZE ? "an event over 1 MiB" : "no events");
			events_lost(f, why);
			return;
		}
	}
	if (n == 0)
		events_lost(f, "the engine ended GET /events");
	else if (n != -EAGAIN)
		events_lost(f, http_client_why(f->events, (int)n));
}

/* --- life --- */

struct docker_follow *docker_follow_new(struct reactor *rx, const struct docker_follow_options *o)
{
	struct docker_follow *f = xcalloc(1, sizeof(*f));
	f->rx = rx;
	f->o = *o;
	f->backoff_ms = BACKOFF_MIN_MS;
	buf_init(&f->in, EVENT_MAX + 1);
	task_init(&f->task, events_run);
	timer_init(&f->timer, events_timer);
	timer_init(&f->list_timer, list_due);
	events_open(f);
	return f;
}

void docker_follow_free(struct docker_follow *f)
{
	if (!f)
		return;
	task_cancel(&f->task);
	timer_clear(f->rx, &f->timer);
	timer_clear(f->rx, &f->list_timer);
	http_fetch_free(f->list);
	http_client_free(f->events, -ERR_CANCELLED);
	buf_end(&f->in);
	free(f);
}
