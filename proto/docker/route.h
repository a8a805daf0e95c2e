/*
 * Which of the engine's requests are about published ports or bind mounts.
 */
#ifndef DOCKER_ROUTE_H
#define DOCKER_ROUTE_H

#include "http/http.h"

enum docker_verb {
	DOCKER_OTHER = 0,
	DOCKER_CREATE,  /* POST /containers/create */
	DOCKER_START,   /* POST /containers/NAME/start */
	DOCKER_RESTART, /* POST /containers/NAME/restart */
	DOCKER_LIST,    /* GET /containers/json */
	DOCKER_INSPECT, /* GET /containers/NAME/json */
	DOCKER_WAIT,    /* POST /containers/NAME/wait */
	DOCKER_STOP,    /* POST /containers/NAME/stop, /kill */
	DOCKER_REMOVE,  /* DELETE /containers/NAME */
	DOCKER_ATTACH,  /* POST /containers/NAME/attach, GET /containers/NAME/attach/ws */
	DOCKER_LOGS,    /* GET /containers/NAME/logs?follow=1 */
	DOCKER_EXEC,    /* POST /containers/NAME/exec */
	DOCKER_EXEC_RUN /* POST /exec/ID/start */
};

struct docker_route {
	enum docker_verb verb;
	struct slice prefix;    /* "/v1.41", or empty */
	struct slice container; /* name, id, or the start of one: plain characters only; of
				   DOCKER_EXEC_RUN the exec's id */
};

/* The slices point into the request's target. A container that is written with escapes is OTHER:
 * the engine decodes it, we let it pass. */
struct docker_route docker_route(const struct http_head *request);

#endif
