#include "test/unit/turn.h"

struct over {
	struct task task;
	bool flag;
};

static void turn_over(struct task *t)
{
	container_of(t, struct over, task)->flag = true;
}

void turn_once(struct reactor *rx)
{
	struct over o = { .flag = false };
	task_init(&o.task, turn_over);
	task_defer(rx, &o.task);
	reactor_run_until(rx, &o.flag);
	task_cancel(&o.task); /* the reactor may have been stopped instead */
}
