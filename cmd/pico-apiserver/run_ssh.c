#include <errno.h>
#include "cmd/pico-apiserver/api.h"
struct box_run *run_over_ssh(struct server *sv, struct session *s, const struct box_command *c,
			     void (*ended)(void *arg, const struct child_status *), void *arg,
			     int *err)
{
	(void)sv;
	(void)s;
	(void)c;
	(void)ended;
	(void)arg;
	*err = -EOPNOTSUPP;
	return NULL;
}
