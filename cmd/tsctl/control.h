/*
 * The control socket of a running tsctl: HTTP over a unix socket of mode 0600.
 * GET /status answers JSON, POST /stop ends it; /syncs is sync_api.h's.
 */
#ifndef TSCTL_CONTROL_H
#define TSCTL_CONTROL_H

#include "cmd/tsctl/instance.h"
#include "cmd/tsctl/sync_api.h"
#include "http/server.h"
#include "json/json.h"
#include "reactor/listen.h"

struct control {
	struct http_server http;
	struct listener *listener;
	void (*status)(void *arg, struct json_writer *); /* writes one object */
	void (*stop)(void *arg);
	void *arg;
	struct sync_api *syncs; /* lent; may be NULL */
};

/* Serves it; status, stop and arg are set by the caller. 0 or -errno with a sentence. */
int control_open(struct control *, struct reactor *, const struct instance *, char *err,
		 size_t errlen);
void control_close(struct control *);

/* tsctl stop, tsctl status. */
int cmd_stop(int argc, char **argv);
int cmd_status(int argc, char **argv);

#endif
