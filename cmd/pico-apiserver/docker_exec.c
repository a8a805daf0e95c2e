#include "cmd/pico-apiserver/docker_exec.h"

#include <errno.h>

#include "json/json.h"
#include "proto/docker/sandbox.h"
#include "reactor/err.h"
#include "reactor/log.h"

enum { IN_MAX = 64 * 1024, FRAME_HEAD = 8 };

struct exec_stream {
	struct stream s;
	const struct rest *api;
	struct task *owner;
	struct task task;           /* of the start request */
	struct http_fetch *create;  /* 1: makes the exec */
	struct http_client *client; /* 2: starts it */
	struct stream *raw;         /* 3: what the connection became */
	struct buf in;
	uint32_t left; /* payload of the frame under way */
	int kind;      /* its type */
	int code;      /* < 0: it failed, why */
	char why[300];
};

static struct exec_stream *exec_of(struct stream *s)
{
	return container_of(s, struct exec_stream, s);
}

static void wake(struct exec_stream *e)
{
	if (e->owner)
		task_wake(e->s.rx, e->owner);
}

static int fail(struct exec_stream *e, int code, const char *why)
{
	e->code = code;
	snprintf(e->why, sizeof(e->why), "exec in the container: %s", why);
	wake(e);
	return code;
}

static void start(struct exec_stream *e, const char *id)
{
	static const char *const fields[] = { "Connection", "Upgrade", "Upgrade", "tcp", NULL };
	struct buf b;
	char *target = xasprintf("/exec/%s/start", id);
	struct rest_request q = { .method = "POST",
				  .target = target,
				  .body = SLICE("{\"Detach\":false,\"Tty\":false}") };
	struct stream *s = rest_open(e->api, &q, fields, &b);
	e->client = http_client_new(s, &b, SLICE("POST"));
	http_client_bind(e->client, &e->task);
	free(target);
}

static void on_created(void *arg, int status, const char *why, struct slice body)
{
	struct exec_stream *e = arg;
	char text[200];
	struct slice id;
	e->create = NULL;
	struct json_doc *doc = status == 201 ? json_parse(body, NULL, NULL) : NULL;
	if (doc && json_str(doc, json_find(json_root(doc), "Id"), &id) == 0) {
		snprintf(text, sizeof(text), "%.*s", SLICE_FMT(id));
		start(e, text);
	} else if (status < 0) {
		fail(e, status, why);
	} else {
		docker_message(body, text, sizeof(text));
		fail(e, -ECONNREFUSED, text);
	}
	json_free(doc);
}

static void exec_run(struct task *t)
{
	struct exec_stream *e = container_of(t, struct exec_stream, task);
	struct http_head h;
	char text[100];
	if (!e->client)
		return;
	int r = http_client_head(e->client, &h);
	if (r == -EAGAIN)
		return;
	if (r == 0 && (h.status == 101 || (h.status == 200 && !h.chunked && !h.has_length))) {
		struct buf rest;
		e->raw = http_client_take(e->client, &rest);
		e->client = NULL;
		buf_put(&e->in, buf_data(&rest));
		buf_end(&rest);
		stream_bind(e->raw, e->owner);
		wake(e);
		return;
	}
	snprintf(text, sizeof(text), "the engine answered %d", r == 0 ? h.status : 0);
	fail(e, r < 0 ? r : -ECONNREFUSED, r < 0 ? http_client_why(e->client, r) : text);
	http_client_free(e->client, -ERR_CANCELLED);
	e->client = NULL;
}

/* Verbs: 0 when there is a connection. */
static int ready(const struct exec_stream *e)
{
	return e->code < 0 ? e->code : e->raw ? 0 : -EAGAIN;
}

/* The next piece of stdout: bytes of it in e->in, 0 at the end, or a code. */
static ssize_t next_piece(struct exec_stream *e)
{
	for (;;) {
		struct slice have = buf_data(&e->in);
		if (e->left == 0 && have.n >= FRAME_HEAD) {
			e->kind = docker_frame_read((const uint8_t *)have.p, &e->left);
			if (e->kind < 0)
				return fail(e, -EPROTO, "not a stream of frames");
			buf_drop(&e->in, FRAME_HEAD);
			continue;
		}
		if (e->left > 0 && have.n > 0) {
			size_t n = MIN(have.n, (size_t)e->left);
			if (e->kind == 1)
				return (ssize_t)n;
			log_debug("docker-exec stderr=%s", log_quote(slice_of(have.p, n)));
			buf_drop(&e->in, n);
			e->left -= (uint32_t)n;
			continue;
		}
		struct iovec room = buf_room(&e->in);
		ssize_t n = stream_read(e->raw, room.iov_base, room.iov_len);
		if (n <= 0)
			return n;
		buf_added(&e->in, (size_t)n);
	}
}

static ssize_t exec_read(struct stream *s, const struct iovec *iov, int n)
{
	struct exec_stream *e = exec_of(s);
	ssize_t total = 0, have;
	int r = ready(e);
	for (int i = 0; r == 0 && i < n; i++) {
		char *to = iov[i].iov_base;
		size_t room = iov[i].iov_len;
		while (room > 0) {
			have = next_piece(e);
			if (have <= 0)
				return total ? total : have;
			size_t take = MIN((size_t)have, room);
			memcpy(to, buf_data(&e->in).p, take);
			buf_drop(&e->in, take);
			e->left -= (uint32_t)take;
			to += take;
			room -= take;
			total += (ssize_t)take;
		}
	}
	return r < 0 ? r : total;
}

static ssize_t exec_write(struct stream *s, const struct iovec *iov, int n)
{
	struct exec_stream *e = exec_of(s);
	int r = ready(e);
	return r < 0 ? r : e->raw->ops->write(e->raw, iov, n);
}

static int exec_shut(struct stream *s)
{
	struct exec_stream *e = exec_of(s);
	int r = ready(e);
	return r < 0 ? r : stream_shut(e->raw);
}

static void exec_close(struct stream *s, int why)
{
	struct exec_stream *e = exec_of(s);
	http_fetch_free(e->create);
	http_client_free(e->client, -ERR_CANCELLED);
	stream_close(e->raw, why);
	task_cancel(&e->task);
	buf_end(&e->in);
	free(e);
}

static void exec_bind(struct stream *s, struct task *t)
{
	struct exec_stream *e = exec_of(s);
	e->owner = t;
	if (e->raw)
		stream_bind(e->raw, t);
	if (t && ready(e) != -EAGAIN)
		task_wake(s->rx, t);
}

static const char *exec_why(struct stream *s)
{
	struct exec_stream *e = exec_of(s);
	return e->code < 0 ? e->why : NULL;
}

static const struct stream_ops ops = {
	.name = "docker-exec",
	.read = exec_read,
	.write = exec_write,
	.shut = exec_shut,
	.close = exec_close,
	.bind = exec_bind,
	.why = exec_why,
};

struct stream *docker_exec(const struct rest *api, const char *container, struct slice body)
{
	struct exec_stream *e = xcalloc(1, sizeof(*e));
	char *target = xasprintf("/containers/%s/exec", container);
	struct rest_request q = { .method = "POST", .target = target, .body = body };
	e->s = (struct stream){ &ops, api->rx };
	e->api = api;
	buf_init(&e->in, IN_MAX);
	task_init(&e->task, exec_run);
	e->create = rest_ask(api, &q, on_created, e);
	free(target);
	return &e->s;
}
