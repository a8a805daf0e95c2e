#include "proto/tstunnel/bridge.h"

#include <errno.h>

#include "proto/tstunnel/mux.h"
#include "reactor/err.h"
#include "reactor/pump.h"

struct bridge {
	struct task task; /* both streams wake it: either may end it */
	struct reactor *rx;
	struct stream *s, *target;
	bridge_done *done;
	void *arg;
};

static void relay(void *arg, struct stream *s, struct stream *target, int code, const char *why)
{
	(void)arg, (void)why;
	if (code == 0)
		pump_start(s->rx, s, target, NULL, NULL);
}

static void bridge_run(struct task *t)
{
	struct bridge *b = container_of(t, struct bridge, task);
	int mine = stream_open_yet(b->s); /* -EAGAIN while we have not accepted */
	int r = stream_open_yet(b->target);
	char *why = NULL;
	if (mine == -EAGAIN && r == -EAGAIN)
		return;
	if (mine != -EAGAIN) {
		r = mine < 0 ? mine : -ECONNRESET;
		why = xstrdup(stream_why(b->s, r));
		stream_close(b->s, 0);
		stream_close(b->target, -ECONNRESET);
	} else if (r < 0) {
		why = xstrdup(stream_why(b->target, r));
		mux_refuse(b->s, r, why);
		stream_close(b->target, r);
	} else {
		mux_accept(b->s, SLICE(""));
	}
	task_cancel(&b->task);
	b->done(b->arg, r < 0 ? NULL : b->s, r < 0 ? NULL : b->target, r, why);
	free(why);
	free(b);
}

struct bridge *bridge_start(struct reactor *rx, struct stream *s, struct stream *target,
			    bridge_done *done, void *arg)
{
	struct bridge *b = xcalloc(1, sizeof(*b));
	b->rx = rx;
	b->s = s;
	b->target = target;
	b->done = done ? done : relay;
	b->arg = arg;
	task_init(&b->task, bridge_run);
	stream_bind(b->s, &b->task);
	stream_bind(b->target, &b->task);
	task_wake(rx, &b->task);
	return b;
}

void bridge_abort(struct bridge *b, int code)
{
	task_cancel(&b->task);
	mux_refuse(b->s, code, err_text(code));
	stream_close(b->target, code);
	free(b);
}
