#include "cmd/tsctl/ask.h"

#include <errno.h>

#include "http/fetch.h"

enum { REQUEST_MAX = 64 * 1024, REPLY_MAX = 4 * 1024 * 1024 };

struct ask {
	bool done;
	int outcome;
	struct buf *reply;
};

static void on_reply(void *arg, int status, const char *why, struct slice body)
{
	struct ask *a = arg;
	(void)why; /* the socket is local: the code says enough */
	a->done = true;
	a->outcome = buf_put(a->reply, body) < 0 ? -EMSGSIZE : status;
}

static int put_request(struct buf *b, const char *method, const char *path, struct slice body)
{
	http_put_request(b, slice_str(method), slice_str(path));
	http_put_field(b, SLICE("Host"), SLICE("tsctl"));
	http_put_field(b, SLICE("Connection"), SLICE("close"));
	if (body.n) {
		http_put_number(b, SLICE("Content-Length"), body.n);
		http_put_field(b, SLICE("Content-Type"), SLICE("application/json"));
	}
	http_put_end(b);
	return buf_put(b, body);
}

int control_ask(const struct addr *socket, const char *method, const char *path, struct slice body,
		uint64_t ms, int *status, struct buf *reply)
{
	struct ask a = { .reply = reply };
	struct buf request;
	buf_init(reply, REPLY_MAX);
	buf_init(&request, REQUEST_MAX);
	if (put_request(&request, method, path, body) < 0) {
		buf_end(&request);
		return -EMSGSIZE;
	}
	struct reactor *rx = reactor_new();
	http_fetch_new(dial(rx, socket, ms), &request, slice_str(method), REPLY_MAX, ms, on_reply,
		       &a);
	reactor_run_until(rx, &a.done);
	stream_linger_end();
	reactor_free(rx);
	*status = a.outcome;
	return MIN(a.outcome, 0);
}
