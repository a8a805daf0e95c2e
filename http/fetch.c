#include "http/fetch.h"

#include <errno.h>

#include "http/client.h"
#include "reactor/err.h"

struct http_fetch {
	struct task task;
	struct timer timer;
	struct reactor *rx;
	struct http_client *client;
	struct buf body;
	int status; /* 0: no head yet */
	http_fetched *fetched;
	void *arg;
};

void http_fetch_free(struct http_fetch *f)
{
	if (!f)
		return;
	task_cancel(&f->task);
	timer_clear(f->rx, &f->timer);
	http_client_free(f->client, -ERR_CANCELLED);
	buf_end(&f->body);
	free(f);
}

static void fetch_end(struct http_fetch *f, int code)
{
	char why[512] = "";
	struct buf body = f->body;
	http_fetched *fetched = f->fetched;
	void *arg = f->arg;

	if (code == -EMSGSIZE)
		snprintf(why, sizeof(why), "the reply is over %zu bytes", body.max);
	else if (code == -ETIMEDOUT)
		snprintf(why, sizeof(why), "no reply in time");
	else if (code < 0)
		snprintf(why, sizeof(why), "%s", http_client_why(f->client, code));
	buf_init(&f->body, 0);
	if (code >= 0) {
		http_client_free(f->client, 0);
		f->client = NULL;
	}
	http_fetch_free(f);
	fetched(arg, code, why, code < 0 ? SLICE("") : buf_data(&body));
	buf_end(&body);
}

/* The status when the reply is whole, -EAGAIN, or what failed. */
static int fetch_step(struct http_fetch *f)
{
	if (!f->status) {
		struct http_head head;
		int r = http_client_head(f->client, &head);
		if (r < 0)
			return r;
		f->status = head.status;
	}
	for (;;) {
		char spare; /* a body of just max bytes has its end still to be read */
		struct iovec room = buf_room(&f->body);
		bool full = room.iov_len == 0;
		ssize_t n = full ? http_client_read(f->client, &spare, 1)
				 : http_client_read(f->client, room.iov_base, room.iov_len);
		if (n == 0)
			return f->status;
		if (n < 0)
			return (int)n;
		if (full)
			return -EMSGSIZE;
		buf_added(&f->body, (size_t)n);
	}
}

static void fetch_run(struct task *t)
{
	struct http_fetch *f = container_of(t, struct http_fetch, task);
	int r = fetch_step(f);
	if (r != -EAGAIN)
		fetch_end(f, r);
}

static void fetch_late(struct timer *t)
{
	fetch_end(container_of(t, struct http_fetch, timer), -ETIMEDOUT);
}

struct http_fetch *http_fetch_new(struct stream *s, struct buf *request, struct slice method,
				  size_t max, uint64_t ms, http_fetched *fetched, void *arg)
{
	struct http_fetch *f = xcalloc(1, sizeof(*f));
	f->rx = s->rx;
	f->fetched = fetched;
	f->arg = arg;
	buf_init(&f->body, max);
	task_init(&f->task, fetch_run);
	timer_init(&f->timer, fetch_late);
	timer_set(f->rx, &f->timer, ms);
	f->client = http_client_new(s, request, method);
	http_client_bind(f->client, &f->task);
	return f;
}

struct http_fetch *http_fetch_plain(struct stream *s, struct slice method, struct slice target,
				    struct slice host, size_t max, uint64_t ms,
				    http_fetched *fetched, void *arg)
{
	struct buf b;
	buf_init(&b, HTTP_HEAD_MAX);
	int r = http_put_request(&b, method, target) | http_put_field(&b, SLICE("Host"), host) |
		http_put_field(&b, SLICE("Connection"), SLICE("close")) | http_put_end(&b);
	BUG_ON(r < 0); /* targets are ours, or were parsed */
	return http_fetch_new(s, &b, method, max, ms, fetched, arg);
}
