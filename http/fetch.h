/*
 * One request of our own, its whole reply by a deadline.
 */
#ifndef HTTP_FETCH_H
#define HTTP_FETCH_H

#include "http/http.h"
#include "reactor/stream.h"

struct http_fetch;

/* Once, from a task: status is the reply's, or a negative code with a sentence in why (-EMSGSIZE: a
 * body over the limit; -ETIMEDOUT). body and why live during the call. The fetch is gone when this
 * runs: the owner forgets it, and may start another. */
typedef void http_fetched(void *arg, int status, const char *why, struct slice body);

/* Sends request, a whole message (moved out of *request), over s, which it owns (it may still be
 * dialling). At most max bytes of body, within ms milliseconds. */
struct http_fetch *http_fetch_new(struct stream *s, struct buf *request, struct slice method,
				  size_t max, uint64_t ms, http_fetched *, void *arg);
/* The same for a request without a body. */
struct http_fetch *http_fetch_plain(struct stream *s, struct slice method, struct slice target,
				    struct slice host, size_t max, uint64_t ms, http_fetched *,
				    void *arg);
/* Gives up; the function is not called. NULL is ignored. */
void http_fetch_free(struct http_fetch *);

#endif
