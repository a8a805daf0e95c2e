/*
 * What a control socket answers about the syncs of its program (HTTP, JSON):
 *
 *	GET  /syncs               {"syncs":[{...}]}: sync_item_put
 *	POST /syncs/pause         {"which":["ID"]}: {"syncs":["NAME or short ID"]}
 *	POST /syncs/resume        the same: also lets halted ones go on
 *	POST /syncs/reset         the same
 *	POST /syncs/terminate     the same
 *	POST /syncs/flush         {"which":["ID"],"timeout_ms":N}: the same, once all are fenced
 *	POST /syncs/resolve       {"which":["ID"],"path":"..","keep":"local"}: the same
 *	POST /syncs               the owner's (create)
 *
 * ID is the whole one. Errors are {"message":".."} with 400, 404, 409, 502 or 504.
 */
#ifndef TSCTL_SYNC_API_H
#define TSCTL_SYNC_API_H

#include "cmd/tsctl/sync_set.h"
#include "http/server.h"

struct sync_api {
	struct sync_set *set;
	struct reactor *rx;
	/* POST /syncs with its body, an object: is to answer c, now or later. NULL: 404. */
	void (*create)(void *arg, struct http_conn *c, struct json_doc *);
	void (*idle)(void *arg); /* a request was answered, and no other waits; may be NULL */
	void *arg;
	bool ending; /* set by the owner: 503 from now on */

	/* private */
	struct list requests;
	size_t nrequests;
};

/* Filled as far as "private". */
void sync_api_init(struct sync_api *);
/* True: the request is about syncs, and is or will be answered. */
bool sync_api_handle(struct sync_api *, struct http_conn *, struct http_head *);
/* Requests that are not answered yet. */
size_t sync_api_busy(const struct sync_api *);
/* Lets go of all requests. */
void sync_api_end(struct sync_api *);

#endif
