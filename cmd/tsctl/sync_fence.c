/* Who waits for a sync: fences, and answers to resolve. */
#include <errno.h>

#include "cmd/tsctl/sync_job_int.h"
#include "reactor/err.h"

static void fence_free(struct sync_fence *f)
{
	list_del(&f->link);
	task_cancel(&f->task);
	timer_clear(f->job->sp.rx, &f->timer);
	free(f->path);
	free(f->keep);
	free(f->why);
	free(f);
}

void sync_fence_over(struct sync_fence *f, int code, const char *why)
{
	list_del(&f->link);
	list_add_tail(&f->job->over, &f->link);
	timer_clear(f->job->sp.rx, &f->timer);
	f->code = code;
	f->why = xstrdup(why ? why : "");
	task_wake(f->job->sp.rx, &f->task);
}

void sync_fences_fail(struct sync_job *j, int code, const char *why)
{
	while (!list_empty(&j->fences))
		sync_fence_over(container_of(j->fences.next, struct sync_fence, link), code, why);
}

static void deliver(struct task *t)
{
	struct sync_fence *f = container_of(t, struct sync_fence, task);
	sync_fenced *done = f->done;
	void *arg = f->arg;
	int code = f->code;
	char *why = f->why;
	f->why = NULL;
	fence_free(f);
	done(arg, code, why);
	free(why);
}

static void on_fence_timeout(struct timer *t)
{
	struct sync_fence *f = container_of(t, struct sync_fence, timer);
	struct sync_job *j = f->job;
	const char *why;
	char text[700];
	const char *state = sync_job_state(j, &why);
	snprintf(text, sizeof(text), "not in time: the sync is %s%s%s", state, *why ? ": " : "",
		 why);
	sync_fence_over(f, -ETIMEDOUT, text);
}

static struct sync_fence *fence_new(struct sync_job *j, sync_fenced *done, void *arg)
{
	struct sync_fence *f = xcalloc(1, sizeof(*f));
	f->job = j;
	f->number = ++j->serial;
	f->done = done;
	f->arg = arg;
	task_init(&f->task, deliver);
	timer_init(&f->timer, on_fence_timeout);
	list_init(&f->link);
	list_add_tail(&j->fences, &f->link);
	return f;
}

/* Tells the worker, or says at once why that is of no use. */
static struct sync_fence *fence_go(struct sync_job *j, struct sync_fence *f)
{
	if (j->paused)
		sync_fence_over(f, -EBUSY, "the sync is paused");
	else if (j->failed)
		sync_fence_over(f, -EIO, j->why);
	else
		sync_tell_fence(j, f);
	return f;
}

struct sync_fence *sync_job_fence(struct sync_job *j, uint64_t timeout_ms, sync_fenced *done,
				  void *arg)
{
	struct sync_fence *f = fence_new(j, done, arg);
	if (timeout_ms)
		timer_set(j->sp.rx, &f->timer, timeout_ms);
	return fence_go(j, f);
}

struct sync_fence *sync_job_resolve(struct sync_job *j, struct slice path, struct slice keep,
				    sync_fenced *done, void *arg)
{
	struct sync_fence *f = fence_new(j, done, arg);
	f->path = xslicedup(path);
	f->keep = xslicedup(keep);
	return fence_go(j, f);
}

void sync_fence_cancel(struct sync_fence *f)
{
	if (f)
		fence_free(f);
}

void sync_fences_end(struct sync_job *j)
{
	struct list *i;
	sync_fences_fail(j, -ERR_CANCELLED, "the sync was ended");
	while ((i = list_pop(&j->over))) {
		struct sync_fence *f = container_of(i, struct sync_fence, link);
		deliver(&f->task);
	}
}
