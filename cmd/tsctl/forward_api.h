/*
 * What the daemon of the forwards can be asked over its control socket (HTTP, JSON):
 *
 *	GET /forwards                                       {"forwards":[{...}]}: entry_put
 *	POST /forwards   {"id":..,"src":..,"dst":..}        forward_record; {"id":..,"port":N} once
 *it serves, port: the one that port 0 has got POST /pause      {"which":["NAME or ID"]} or
 *{"forwards":["NAME or ID"]} POST /resume     {"all":true}                       the same, once
 *they serve POST /terminate                                     the same
 *
 * Errors are {"message":"..."} with 400, 404, 409, 500, 502; with 503 the daemon is about to end,
 *and another one can be started. Asking again for a forward with the same id, or with the same
 *name, SRC and DST, is no error.
 */
#ifndef TSCTL_FORWARD_API_H
#define TSCTL_FORWARD_API_H

#include "cmd/tsctl/forward_set.h"
#include "http/server.h"

struct forward_api {
	struct forward_set *set;
	struct reactor *rx;
	void (*idle)(
	    void *arg); /* a request was answered, and nothing is left: no forward, no request */
	void *arg;
	bool ending; /* set by the owner: 503 from now on */

	/* private */
	struct list requests, jobs;
	struct timer watch;
};

/* Filled as far as "private". */
void forward_api_init(struct forward_api *);
/* For http_server.handle, with the api as its arg. */
void forward_api_handle(struct http_conn *, struct http_head *, void *api);
/* Requests are not answered yet. */
bool forward_api_busy(const struct forward_api *);
/* Lets go of all requests. */
void forward_api_end(struct forward_api *);

#endif
