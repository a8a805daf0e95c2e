/* tsctl forward create --foreground. */
#include <errno.h>

#include "cmd/tsctl/forward.h"
#include "reactor/log.h"
#include "reactor/signals.h"

struct create {
	const struct forward_flags *flags;
	const struct forward_spec *spec;
	struct reactor *rx;
	struct tunnel_options tunnel_options;
	struct tunnel *tunnel;
	struct forward *forward;
	struct signals signals;
	struct timer watch; /* does it serve? */
	struct timer grace;
	bool ready, draining;
};

/* --- the end --- */

static void on_tunnel_drained(void *arg)
{
	struct create *c = arg;
	reactor_stop(c->rx, 0);
}

/* The connections are over, but their last bytes may still be on their way to the guest. */
static void on_drained(void *arg)
{
	struct create *c = arg;
	tunnel_drain(c->tunnel, on_tunnel_drained, c);
}

static void grace_over(struct timer *t)
{
	struct create *c = container_of(t, struct create, grace);
	log_warn("drain gave-up connections=%zu", forward_connections(c->forward));
	reactor_stop(c->rx, 0);
}

static void on_signal(void *arg, int signo)
{
	struct create *c = arg;
	(void)signo;
	if (c->draining || !c->ready) { /* asked twice, or nobody is served yet */
		reactor_stop(c->rx, 0);
		return;
	}
	c->draining = true;
	timer_set(c->rx, &c->grace, c->flags->grace_ms);
	forward_drain(c->forward, on_drained, c);
}

/* --- the start --- */

static void print_lines(const struct create *c)
{
	struct buf line;
	buf_init(&line, FORWARD_LINE_MAX);
	for (unsigned i = 0; i < c->spec->count; i++) {
		if (forward_put(c->forward, i, &line) == 0)
			printf("%.*s\n", SLICE_FMT(buf_data(&line)));
		buf_drop(&line, line.len);
	}
	buf_end(&line);
	fflush(stdout);
}

static void on_changed(void *arg)
{
	struct create *c = arg;
	timer_set(c->rx, &c->watch, 0);
}

static void watch_fire(struct timer *t)
{
	struct create *c = container_of(t, struct create, watch);
	char text[1024];
	if (c->ready)
		return;
	int r = forward_state_of(c->forward, c->tunnel, &c->tunnel_options, text, sizeof(text));
	if (r == 0) {
		c->ready = true;
		log_set_level(c->flags->log_level);
		print_lines(c);
	} else if (r == -EAGAIN) {
		if (c->spec->reverse) /* the guest's listeners do not tell */
			timer_set(c->rx, t, FORWARD_WATCH_MS);
	} else {
		reactor_stop(c->rx, forward_fail(1, text));
	}
}

static int serve(struct create *c)
{
	static const int signals[] = { SIGTERM, SIGINT, 0 };
	char err[1024];
	int code = 1;
	log_set_level("error"); /* until ready, what goes wrong is one line of ours */
	c->rx = reactor_new();
	timer_init(&c->watch, watch_fire);
	timer_init(&c->grace, grace_over);
	signals_open(&c->signals, c->rx, signals, on_signal, c);
	c->tunnel = tunnel_new(c->rx, &c->tunnel_options, err, sizeof(err));
	if (!c->tunnel ||
	    forward_new(&c->forward, c->rx, c->tunnel, c->spec, err, sizeof(err)) < 0) {
		forward_fail(code, err);
	} else {
		timer_set(c->rx, &c->watch, 0);
		code = reactor_run(c->rx);
	}
	timer_clear(c->rx, &c->watch);
	timer_clear(c->rx, &c->grace);
	forward_free(c->forward);
	tunnel_free(c->tunnel);
	signals_close(&c->signals);
	stream_linger_end();
	reactor_free(c->rx);
	return code;
}

int forward_run(const struct forward_flags *f, const struct forward_spec *sp)
{
	struct create c = { .flags = f, .spec = sp };
	c.tunnel_options =
	    forward_tunnel_options(&sp->to, f->connect_ms, f->handshake_ms, f->keepalive_ms);
	c.tunnel_options.changed = on_changed;
	c.tunnel_options.arg = &c;
	return serve(&c);
}
