/*
 * HTTP/1.1 client side: one request over one stream. Pulled by its owner: no callbacks, the owner's
 * task is woken when trying again may help. The owner has the deadlines.
 */
#ifndef HTTP_CLIENT_H
#define HTTP_CLIENT_H

#include "http/http.h"
#include "reactor/stream.h"

struct http_client;

/* Sends request, a whole message written with the http_put functions, over s, which it owns (it may
 * still be dialling). The bytes are moved out of *request. method: for the framing of the response.
 */
struct http_client *http_client_new(struct stream *s, struct buf *request, struct slice method);
/* Closes the stream (why < 0: with a reset) and frees c. NULL is ignored. */
void http_client_free(struct http_client *c, int why);
void http_client_bind(struct http_client *c, struct task *);

/* The response head, once: 0, -EAGAIN or fatal. Interim responses are skipped. Its slices live
 * until the next call on c. Malformed: -ERR_HTTP; the connection ended: -ERR_TRUNCATED. */
int http_client_head(struct http_client *c, struct http_head *);
/* Body bytes, decoded, after the head: the count, 0 at the end, -EAGAIN or fatal. */
ssize_t http_client_read(struct http_client *c, void *p, size_t n);
/* After a head that ends HTTP on this connection (101, 2xx to CONNECT, a hijack): the stream, bound
 * to nobody, is the caller's. *rest gets what came behind the head (the caller buf_ends it). Frees
 * c. */
struct stream *http_client_take(struct http_client *c, struct buf *rest);

/* One line on why a call failed with code. Lives as long as c. */
const char *http_client_why(struct http_client *c, int code);

#endif
