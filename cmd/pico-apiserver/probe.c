#include "cmd/pico-apiserver/probe.h"

#include <errno.h>

#include "reactor/err.h"

enum { TRY_MS = 3000, PAUSE_MIN_MS = 20, PAUSE_MAX_MS = 500 };

static void probe_end(struct probe *p, int code)
{
	stream_close(p->s, -ERR_CANCELLED);
	p->s = NULL;
	p->ngot = 0;
	timer_clear(p->rx, &p->timer);
	if (code == 0) {
		p->found(p->arg);
		return;
	}
	/* at most a tenth later than it could be known */
	uint64_t pause =
	    MIN(MAX(p->paused_ms / 10, (uint64_t)PAUSE_MIN_MS), (uint64_t)PAUSE_MAX_MS);
	timer_set(p->rx, &p->timer, pause);
	p->paused_ms += pause;
	p->tries++;
	if (p->failed)
		p->failed(p->arg, p->tries, code);
}

static void probe_run(struct task *t)
{
	struct probe *p = container_of(t, struct probe, task);
	if (!p->s)
		return;
	while (p->ngot < sizeof(p->got)) {
		ssize_t n = stream_read(p->s, p->got + p->ngot, sizeof(p->got) - p->ngot);
		if (n == -EAGAIN)
			return;
		if (n <= 0) {
			probe_end(p, n == 0 ? -ERR_TRUNCATED : (int)n);
			return;
		}
		p->ngot += (size_t)n;
	}
	probe_end(p, memcmp(p->got, "SSH-", 4) == 0 ? 0 : -EPROTO);
}

static void probe_fire(struct timer *t)
{
	struct probe *p = container_of(t, struct probe, timer);
	if (p->s) {
		probe_end(p, -ETIMEDOUT);
		return;
	}
	p->s = p->connect(p->arg);
	timer_set(p->rx, &p->timer, TRY_MS);
	stream_bind(p->s, &p->task);
	task_wake(p->rx, &p->task);
}

void probe_start(struct probe *p, struct reactor *rx)
{
	probe_stop(p);
	p->rx = rx;
	p->paused_ms = 0;
	p->tries = 0;
	task_init(&p->task, probe_run);
	timer_init(&p->timer, probe_fire);
	timer_set(rx, &p->timer, 0);
}

void probe_stop(struct probe *p)
{
	if (!p->rx)
		return;
	stream_close(p->s, -ERR_CANCELLED);
	p->s = NULL;
	p->ngot = 0;
	task_cancel(&p->task);
	timer_clear(p->rx, &p->timer);
}
