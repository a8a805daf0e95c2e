/*
 * Backend "docker": a sandbox is a container of an engine, asked over its API.
 *
 * A box takes one step at a time (ask): create, start, inspect, then the probe until sshd shows its
 * banner, then the host key. Beside that it waits for the container's end (wait). Destroying waits
 * for an answer that is under way, then removes what carries the session's label, so that a name
 * that somebody else has is never touched.
 */
#include <errno.h>

#include "cmd/pico-apiserver/docker_exec.h"
#include "cmd/pico-apiserver/docker_int.h"
#include "cmd/pico-apiserver/probe.h"
#include "proto/docker/sandbox.h"
#include "proto/ssh/key.h"
#include "reactor/err.h"
#include "reactor/log.h"

enum {
	WAIT_MS = 24 * 3600 * 1000,
	RETRY_MS = 500,
	UNREACHED_TRIES = 3 /* of the container's address, before exec is tried */
};

static const char exec_sshd[] =
    "{\"Cmd\":[\"/usr/sbin/sshd\",\"-i\"],\"User\":\"root\",\"AttachStdin\":true,"
    "\"AttachStdout\":true,\"AttachStderr\":true}";

struct docker_box {
	struct box box;
	struct docker *d;
	struct box_events events;
	char *session, *image;
	char *id; /* the container's; NULL: not known */
	struct http_fetch *ask, *wait;
	struct probe probe;
	struct timer retry; /* again what does not answer */
	void (*again)(struct docker_box *);
	struct addr at;
	bool creating, by_exec, is_ready, is_gone, resuming, destroying;
	struct docker_reap *reap;
	box_done *done; /* of pause, resume or destroy */
	void *arg;
};

/* --- asking --- */

static void step(struct docker_box *x, const char *method, char *target, http_fetched *then)
{
	BUG_ON(x->ask);
	x->ask = docker_ask(x->d, method, target, (struct slice){ NULL, 0 }, then, x);
}

static void again_fire(struct timer *t)
{
	struct docker_box *x = container_of(t, struct docker_box, retry);
	x->again(x);
}

static void later(struct docker_box *x, uint64_t ms, void (*again)(struct docker_box *))
{
	x->again = again;
	timer_set(x->d->b.rx, &x->retry, ms);
}

static void remove_box(struct docker_box *x);

/* After each answer: true when the box is being destroyed, which goes on from here. */
static bool turned(struct docker_box *x)
{
	x->ask = NULL;
	if (x->destroying)
		remove_box(x);
	return x->destroying;
}

static void box_gone(struct docker_box *x, int code, const char *why)
{
	if (x->is_gone)
		return;
	x->is_gone = true;
	probe_stop(&x->probe);
	timer_clear(x->d->b.rx, &x->retry);
	http_fetch_free(x->ask);
	http_fetch_free(x->wait);
	x->ask = x->wait = NULL;
	x->events.gone(x->events.arg, code, why);
}

static void refused(struct docker_box *x, const char *what, int status, const char *why,
		    struct slice body)
{
	char reason[512], text[800];
	snprintf(text, sizeof(text), "docker could not %s: %s", what,
		 docker_said(status, why, body, reason, sizeof(reason)));
	box_gone(x, status < 0 ? status : -ERR_DENIED, text);
}

/* --- the container's end --- */

static void inspect_step(struct docker_box *x);

/* status < 0: not known, since the engine has removed it already. */
static void box_ended(struct docker_box *x, int64_t status)
{
	char text[600], with[40] = "";
	if (status >= 0)
		snprintf(with, sizeof(with), " with status %lld", (long long)status);
	if (x->is_ready)
		snprintf(text, sizeof(text), "the container has ended%s", with);
	else
		snprintf(text, sizeof(text),
			 "the container has ended%s: does image %s run sshd as "
			 "images/sandbox/README.md says?",
			 with, x->image);
	box_gone(x, -ERR_NOT_FOUND, text);
}

static void on_end(void *arg, int status, const char *why, struct slice body)
{
	struct docker_box *x = arg;
	int64_t code = 0;
	(void)why;
	x->wait = NULL;
	if (x->destroying || x->is_gone)
		return;
	if (status != 200 && status != 404) { /* the engine restarts, or the day is over */
		later(x, RETRY_MS, inspect_step);
		return;
	}
	struct json_doc *doc = status == 200 ? json_parse(body, NULL, NULL) : NULL;
	if (doc && json_i64(json_find(json_root(doc), "StatusCode"), &code) == 0)
		box_ended(x, code);
	else
		box_ended(x, -1);
	json_free(doc);
}

static void wait_step(struct docker_box *x)
{
	char *target = xasprintf("/containers/%s/wait", x->id);
	struct rest_request q = { .method = "POST", .target = target, .ms = WAIT_MS };
	if (!x->wait)
		x->wait = rest_ask(&x->d->api, &q, on_end, x);
	free(target);
}

/* --- to ready --- */

static struct stream *connect_box(struct docker_box *x)
{
	if (x->by_exec)
		return docker_exec(&x->d->api, x->id, slice_str(exec_sshd));
	if (x->at.host[0])
		return dial(x->d->b.rx, &x->at, 0);
	struct stream *s = fd_stream_pending(x->d->b.rx); /* dial would take it for localhost */
	fd_stream_fail(s, -ECONNREFUSED, "the container's address is not known yet");
	return s;
}

static struct stream *probe_connect(void *arg)
{
	return connect_box(arg);
}

/* Nobody there is told by "connection refused"; all else means that there is no way. */
static void probe_failed(void *arg, unsigned tries, int code)
{
	struct docker_box *x = arg;
	if (!x->by_exec && code != -ECONNREFUSED && tries >= UNREACHED_TRIES) {
		log_info("docker-by-exec session=%s addr=%s reason=%s", x->session,
			 addr_text(&x->at), log_quote(slice_str(err_text(code))));
		x->by_exec = true;
	}
}

static void now_ready(struct docker_box *x, const char *fingerprint, bool paused)
{
	box_done *done = x->done;
	x->done = NULL;
	x->is_ready = true;
	if (x->resuming) {
		x->resuming = false;
		if (done)
			done(x->arg, 0, NULL);
	} else {
		x->events.ready(x->events.arg, fingerprint, paused);
	}
}

static void on_key(void *arg, int status, const char *why, struct slice body)
{
	struct docker_box *x = arg;
	char print[SSH_FINGERPRINT_MAX];
	(void)why;
	if (turned(x))
		return;
	bool known = status == 200 && ssh_key_fingerprint(docker_tar_file(body), print);
	now_ready(x, known ? print : NULL, false);
}

static void probe_found(void *arg)
{
	struct docker_box *x = arg;
	if (x->resuming)
		now_ready(x, NULL, false);
	else if (!x->ask) /* else an inspect is under way, which probes again */
		step(x, "GET",
		     xasprintf("/containers/%s/archive?path=/etc/ssh/ssh_host_ed25519_key.pub",
			       x->id),
		     on_key);
}

static void on_inspected(void *arg, int status, const char *why, struct slice body)
{
	struct docker_box *x = arg;
	struct docker_inspect i;
	if (turned(x))
		return;
	if (status < 0 || status >= 500) {
		later(x, RETRY_MS, inspect_step);
		return;
	}
	if (status == 404) {
		box_ended(x, -1);
		return;
	}
	struct json_doc *doc = status == 200 ? json_parse(body, NULL, NULL) : NULL;
	if (!doc || docker_inspect_read(doc, &i) < 0) {
		refused(x, "tell of the container", status, why, body);
	} else if (!slice_eq(i.session, slice_str(x->session))) {
		box_gone(x, -ERR_NOT_FOUND, "a container of that name belongs to somebody else");
	} else if (!i.running) {
		box_ended(x, i.exit_code);
	} else {
		free(x->id);
		x->id = xslicedup(i.id);
		x->at = (struct addr){ .kind = ADDR_TCP, .port = x->d->b.options->ssh_port };
		if (i.address.n < sizeof(x->at.host))
			memcpy(x->at.host, i.address.p, i.address.n);
		x->by_exec |= !x->d->local || i.address.n == 0;
		wait_step(x);
		if (x->is_ready)
			; /* the engine was away */
		else if (i.paused)
			now_ready(x, NULL, true);
		else
			probe_start(&x->probe, x->d->b.rx);
	}
	json_free(doc);
}

/* Whatever else is being asked goes first: the engine may go away at any time. */
static void inspect_step(struct docker_box *x)
{
	if (x->ask)
		later(x, RETRY_MS, inspect_step);
	else
		step(x, "GET", xasprintf("/containers/%s/json", x->id), on_inspected);
}

static void on_started(void *arg, int status, const char *why, struct slice body)
{
	struct docker_box *x = arg;
	if (turned(x))
		return;
	if (status == 204 || status == 304)
		inspect_step(x);
	else
		refused(x, "start the container", status, why, body);
}

static void on_created(void *arg, int status, const char *why, struct slice body)
{
	struct docker_box *x = arg;
	struct slice id;
	struct json_doc *doc = status == 201 ? json_parse(body, NULL, NULL) : NULL;
	x->creating = false;
	if (doc && json_str(doc, json_find(json_root(doc), "Id"), &id) == 0)
		x->id = xslicedup(id);
	json_free(doc);
	if (turned(x))
		return;
	if (x->id) {
		step(x, "POST", xasprintf("/containers/%s/start", x->id), on_started);
	} else if (status == 404) {
		char text[600];
		snprintf(
		    text, sizeof(text),
		    "the engine has no image %s: docker build -t sandbox:latest images/sandbox",
		    x->image);
		box_gone(x, -ERR_NOT_FOUND, text);
	} else {
		refused(x, "create a container", status, why, body);
	}
}

static struct docker_box *box_new(struct backend *b, const struct box_spec *spec,
				  const struct box_events *events)
{
	struct docker_box *x = xcalloc(1, sizeof(*x));
	x->box.ops = b->ops;
	x->d = container_of(b, struct docker, b);
	x->events = *events;
	x->session = xstrdup(spec->id);
	x->image = xstrdup(spec->image ? spec->image : b->options->image);
	x->probe = (struct probe){
		.connect = probe_connect, .found = probe_found, .failed = probe_failed, .arg = x
	};
	timer_init(&x->retry, again_fire);
	return x;
}

static struct box *box_create(struct backend *b, const struct box_spec *spec,
			      const struct box_events *events)
{
	struct docker_box *x = box_new(b, spec, events);
	const struct backend_options *o = b->options;
	struct docker_sandbox s = { .id = spec->id,
				    .name = spec->name,
				    .server = o->server,
				    .image = x->image,
				    .user = o->ssh_username,
				    .public_key = spec->public_key,
				    .server_key = spec->server_key,
				    .expires_at = spec->expires_at,
				    .memory = o->memory,
				    .pids = o->pids,
				    .cpu_millis = o->cpu_millis,
				    .ssh_port = o->ssh_port };
	struct buf body;
	buf_init(&body, 256 * 1024);
	docker_sandbox_put(&body, &s);
	x->creating = true;
	x->ask = docker_ask(x->d, "POST", xasprintf("/containers/create?name=%s", spec->name),
			    buf_data(&body), on_created, x);
	buf_end(&body);
	return &x->box;
}

static struct box *box_adopt(struct backend *b, const struct box_spec *spec,
			     const struct box_events *events)
{
	struct docker_box *x = box_new(b, spec, events);
	x->id = xstrdup(spec->name);
	inspect_step(x);
	return &x->box;
}

static struct stream *box_connect(struct box *b)
{
	return connect_box(container_of(b, struct docker_box, box));
}

/* --- pause, resume --- */

static void on_paused(void *arg, int status, const char *why, struct slice body)
{
	struct docker_box *x = arg;
	char reason[512], text[600];
	if (turned(x))
		return;
	box_done *done = x->done;
	bool ok = status == 204 || status == 304;
	if (ok)
		wait_step(x);    /* the inspect that was given up for this may have been about to */
	if (ok && x->resuming) { /* its sshd answers again at once, but ask */
		probe_start(&x->probe, x->d->b.rx);
		return;
	}
	x->done = NULL;
	x->resuming = false;
	snprintf(text, sizeof(text), "docker: %s",
		 docker_said(status, why, body, reason, sizeof(reason)));
	done(x->arg, ok ? 0 : status < 0 ? status : -ERR_DENIED, ok ? NULL : text);
}

static void box_pause(struct box *b, box_done *done, void *arg)
{
	struct docker_box *x = container_of(b, struct docker_box, box);
	x->done = done;
	x->arg = arg;
	http_fetch_free(x->ask); /* at most an inspect */
	x->ask = NULL;
	step(x, "POST", xasprintf("/containers/%s/pause", x->id), on_paused);
}

static void box_resume(struct box *b, box_done *done, void *arg)
{
	struct docker_box *x = container_of(b, struct docker_box, box);
	x->done = done;
	x->arg = arg;
	x->resuming = true;
	http_fetch_free(x->ask);
	x->ask = NULL;
	step(x, "POST", xasprintf("/containers/%s/unpause", x->id), on_paused);
}

/* --- the end --- */

static void on_removed(void *arg, int code, const char *why)
{
	struct docker_box *x = arg;
	x->reap = NULL;
	x->done(x->arg, code, why);
}

static void remove_box(struct docker_box *x)
{
	x->reap = docker_reap(x->d, x->session, on_removed, x);
}

static void rest_of(struct docker_box *x)
{
	probe_stop(&x->probe);
	timer_clear(x->d->b.rx, &x->retry);
	http_fetch_free(x->wait);
	x->wait = NULL;
}

static void box_destroy(struct box *b, box_done *done, void *arg)
{
	struct docker_box *x = container_of(b, struct docker_box, box);
	x->destroying = true;
	x->done = done;
	x->arg = arg;
	rest_of(x);
	if (x->creating)
		return; /* on_created goes on */
	http_fetch_free(x->ask);
	x->ask = NULL;
	remove_box(x);
}

static void box_free(struct box *b)
{
	struct docker_box *x = container_of(b, struct docker_box, box);
	rest_of(x);
	http_fetch_free(x->ask);
	docker_reap_free(x->reap);
	free(x->session);
	free(x->image);
	free(x->id);
	free(x);
}

/* --- the backend --- */

static void backend_close(struct backend *b)
{
	struct docker *d = container_of(b, struct docker, b);
	docker_jobs_end(d);
	free(d);
}

static const struct backend_ops ops = {
	.name = "docker",
	.create = box_create,
	.adopt = box_adopt,
	.connect = box_connect,
	.pause = box_pause,
	.resume = box_resume,
	.destroy = box_destroy,
	.free = box_free,
	.list = docker_list,
	.remove = docker_remove,
	.close = backend_close,
};

struct backend *backend_docker_new(struct reactor *rx, const struct backend_options *o, char *err,
				   size_t errlen)
{
	struct docker *d = xcalloc(1, sizeof(*d));
	d->b = (struct backend){ &ops, rx, o };
	d->api = (struct rest){ .rx = rx, .host = "docker", .prefix = "" };
	list_init(&d->jobs);
	if (docker_engine_address(o, &d->api.to, err, errlen) < 0) {
		free(d);
		return NULL;
	}
	d->local = d->api.to.kind == ADDR_UNIX;
	return &d->b;
}
