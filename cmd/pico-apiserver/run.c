/* Commands in boxes: by the backend's own way where it has one. */
#include <errno.h>

#include "cmd/pico-apiserver/api.h"

struct box_run *run_start(struct server *sv, struct session *s, const struct box_command *c,
			  void (*ended)(void *arg, const struct child_status *), void *arg,
			  int *err)
{
	if (s->box->ops->run)
		return s->box->ops->run(s->box, c, ended, arg, err);
	return run_over_ssh(sv, s, c, ended, arg, err);
}

void run_end_input(struct stream **in, const struct stream *out)
{
	if (*in && *in == out)
		stream_shut(*in);
	else
		stream_close(*in, 0);
	*in = NULL;
}

void run_end_output(struct stream **out, struct stream **in)
{
	if (*in == *out)
		*in = NULL;
	stream_close(*out, 0);
	*out = NULL;
}
