/*
 * The edits of a head on its way through a proxy.
 */
#ifndef HTTP_EDITS_H
#define HTTP_EDITS_H

#include "http/http.h"

#define HTTP_EDITS_MAX 48

struct http_edits {
	struct http_edit e[HTTP_EDITS_MAX];
	size_t n;
};

/* Adds one (value.p NULL: the field is dropped): 0, or -E2BIG. The first edit of a name holds. */
int http_edits_add(struct http_edits *, struct slice name, struct slice value);
int http_edits_drop(struct http_edits *, struct slice name);
/* Adds the dropping of what is meant for one hop (RFC 9110 section 7.6.1): an upgrade passes with
 * all that belongs to it. 0, or -ERR_HTTP for a head that nobody can pass on. */
int http_edits_hop(struct http_edits *, const struct http_head *);

#endif
