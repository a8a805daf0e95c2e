/*
 * Reading a decoded body from a stream: what the server's and the client's exchanges share.
 */
#ifndef HTTP_PULL_H
#define HTTP_PULL_H

#include "http/http.h"
#include "reactor/stream.h"

/* Payload bytes into p: the count, 0 at the body's end, -EAGAIN, -ERR_TRUNCATED, -ERR_HTTP, or what
 * the stream said. in has what was read ahead of the body's turn and gets what came behind it. */
ssize_t http_pull(struct http_body *, struct buf *in, struct stream *, void *p, size_t n);

#endif
