/* Inside of the docker backend, for backend_docker.c and docker_list.c only. */
#ifndef PICO_DOCKER_INT_H
#define PICO_DOCKER_INT_H

#include "cmd/pico-apiserver/backend.h"
#include "cmd/pico-apiserver/rest.h"

struct docker {
	struct backend b;
	struct rest api;
	bool local;       /* a unix socket: addresses of containers may be reachable */
	struct list jobs; /* docker_reap */
	struct http_fetch *list;
	void (*each)(void *arg, const struct box_found *);
	box_done *listed;
	void *listed_arg;
};

/* From --docker, $DOCKER_HOST or the usual socket: 0, or -EINVAL with a sentence. */
int docker_engine_address(const struct backend_options *, struct addr *, char *err, size_t errlen);
/* Frees target. body.p NULL: none. */
struct http_fetch *docker_ask(struct docker *, const char *method, char *target, struct slice body,
			      http_fetched *, void *arg);
/* What the engine said in a refusal, or why there is no answer; into out, which it returns. */
const char *docker_said(int status, const char *why, struct slice body, char *out, size_t outlen);

struct docker_reap;
/* Removes all containers of a session, and looks that they are gone. done may be NULL. */
struct docker_reap *docker_reap(struct docker *, const char *session, box_done *, void *arg);
/* Before done only. NULL is ignored. */
void docker_reap_free(struct docker_reap *);
/* Gives up all of it. */
void docker_jobs_end(struct docker *);

void docker_list(struct backend *, void (*each)(void *arg, const struct box_found *), box_done *,
		 void *arg);
void docker_remove(struct backend *, const struct box_found *, box_done *, void *arg);

#endif
