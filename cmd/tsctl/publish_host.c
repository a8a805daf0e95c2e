/* Containers on the host's network publish nothing: what they listen on is asked of the guest. */
#include <errno.h>

#include "cmd/tsctl/publish_int.h"
#include "proto/docker/listeners.h"
#include "reactor/err.h"
#include "reactor/log.h"

enum {
	ANSWER_MAX = 1 << 20,
	RETRY_MS = 1000,
	REFUSED_MS =
	    60 * 1000 /* an older guest, or one that must not look: it may be another soon */
};

struct watch {
	struct box *box;
	struct task task;
	struct timer timer; /* time to ask again */
	struct stream *s;
	struct buf in;
	struct json_split split;
	bool told; /* that it does not work */
};

static void watch_open(struct watch *w)
{
	struct publish *p = w->box->p;
	char open[128];
	snprintf(open, sizeof(open), "{\"kind\":\"listeners\",\"container\":\"%s\"}", w->box->id);
	json_split_init(&w->split, ANSWER_MAX);
	w->s = tunnel_open(p->o.tunnel, slice_str(open), TUNNEL_INTERACTIVE);
	stream_bind(w->s, &w->task);
}

static void watch_close(struct watch *w, uint64_t again_ms)
{
	stream_close(w->s, -ERR_CANCELLED);
	w->s = NULL;
	buf_end(&w->in);
	timer_set(w->box->p->o.rx, &w->timer, again_ms);
}

static void watch_lost(struct watch *w, int code)
{
	bool refused = code == -ERR_NOT_FOUND || code == -ERR_DENIED;
	if (!w->told)
		log_warn(
		    "listeners unknown container=%s reason=%s", log_quote(slice_str(w->box->name)),
		    log_quote(slice_str(code ? stream_why(w->s, code) : "the guest ended it")));
	w->told = true;
	watch_close(w, refused ? REFUSED_MS : RETRY_MS);
}

/* 0, or -EINVAL: the guest makes no sense. */
static int watch_take(struct watch *w)
{
	struct slice value;
	ssize_t n;
	while ((n = json_split_next(&w->split, buf_data(&w->in), false, &value)) > 0) {
		struct docker_container c;
		if (value.n && docker_listeners_parse(&c, value) < 0)
			return -EINVAL;
		if (value.n) {
			box_drop_stale(w->box, &c, true);
			box_open_missing(w->box, &c, true);
			docker_container_end(&c);
			w->told = false;
		}
		buf_drop(&w->in, (size_t)n);
	}
	return n < 0 ? -EINVAL : 0;
}

static void watch_run(struct task *t)
{
	struct watch *w = container_of(t, struct watch, task);
	while (w->s) {
		struct iovec room = buf_room(&w->in);
		ssize_t n = stream_read(w->s, room.iov_base, room.iov_len);
		buf_added(&w->in, n > 0 ? (size_t)n : 0);
		if (n == -EAGAIN)
			return;
		if (n > 0)
			n = watch_take(w) < 0 ? -EINVAL : n;
		if (n <= 0)
			watch_lost(w, (int)n);
	}
}

static void watch_due(struct timer *t)
{
	struct watch *w = container_of(t, struct watch, timer);
	if (w->s)
		watch_close(w, RETRY_MS);
	else
		watch_open(w);
}

void host_watch_again(struct watch *w)
{
	timer_set(w->box->p->o.rx, &w->timer, 0);
}

struct watch *host_watch_new(struct box *b)
{
	struct watch *w = xcalloc(1, sizeof(*w));
	w->box = b;
	buf_init(&w->in, ANSWER_MAX + 1);
	task_init(&w->task, watch_run);
	timer_init(&w->timer, watch_due);
	watch_open(w);
	return w;
}

void host_watch_free(struct watch *w)
{
	if (!w)
		return;
	task_cancel(&w->task);
	timer_clear(w->box->p->o.rx, &w->timer);
	stream_close(w->s, -ERR_CANCELLED);
	buf_end(&w->in);
	free(w);
}
