/* Backend "address": every sandbox is the one sshd at an address. */
#include <errno.h>

#include "cmd/pico-apiserver/backend.h"
#include "reactor/dial.h"
#include "reactor/err.h"

struct address_backend {
	struct backend b;
	struct addr to;
};

struct address_box {
	struct box box;
	struct address_backend *backend;
	struct task task; /* tells later what is known at once */
	struct box_events events;
	box_done *done;
	void *arg;
};

static void box_run(struct task *t)
{
	struct address_box *x = container_of(t, struct address_box, task);
	box_done *done = x->done;
	x->done = NULL;
	if (done)
		done(x->arg, 0, NULL);
	else
		x->events.ready(x->events.arg, NULL, false);
}

static struct box *box_create(struct backend *b, const struct box_spec *spec,
			      const struct box_events *events)
{
	struct address_box *x = xcalloc(1, sizeof(*x));
	(void)spec;
	x->box.ops = b->ops;
	x->backend = container_of(b, struct address_backend, b);
	x->events = *events;
	task_init(&x->task, box_run);
	task_wake(b->rx, &x->task);
	return &x->box;
}

static struct stream *box_connect(struct box *b)
{
	struct address_box *x = container_of(b, struct address_box, box);
	return dial(x->backend->b.rx, &x->backend->to, 0);
}

static void box_later(struct box *b, box_done *done, void *arg)
{
	struct address_box *x = container_of(b, struct address_box, box);
	x->done = done;
	x->arg = arg;
	task_wake(x->backend->b.rx, &x->task);
}

static void box_free(struct box *b)
{
	struct address_box *x = container_of(b, struct address_box, box);
	task_cancel(&x->task);
	free(x);
}

static void list(struct backend *b, void (*each)(void *arg, const struct box_found *),
		 box_done *done, void *arg)
{
	(void)b;
	(void)each;
	done(arg, 0, NULL); /* nothing survives a restart */
}

static void remove_box(struct backend *b, const struct box_found *f, box_done *done, void *arg)
{
	(void)b;
	(void)f;
	if (done)
		done(arg, 0, NULL);
}

static void close_backend(struct backend *b)
{
	free(container_of(b, struct address_backend, b));
}

static const struct backend_ops ops = {
	.name = "address",
	.create = box_create,
	.adopt = box_create,
	.connect = box_connect,
	.pause = box_later,
	.resume = box_later,
	.destroy = box_later,
	.free = box_free,
	.list = list,
	.remove = remove_box,
	.close = close_backend,
};

struct backend *backend_address_new(struct reactor *rx, const struct backend_options *o, char *err,
				    size_t errlen)
{
	struct address_backend *a = xcalloc(1, sizeof(*a));
	a->b = (struct backend){ &ops, rx, o };
	if (!o->address) {
		snprintf(err, errlen, "--backend address needs --sandbox-address HOST:PORT");
	} else if (addr_parse_stream(&a->to, slice_str(o->address), o->ssh_port, err, errlen) ==
		   0) {
		return &a->b;
	}
	free(a);
	return NULL;
}
