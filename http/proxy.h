/*
 * Transparent reverse proxy: hands an exchange of a client connection to an upstream stream.
 *
 * Both directions are parsed strictly. Heads are written anew from their parsed form, hop-by-hop
 * fields left out (RFC 9110 section 7.6.1; Connection: Upgrade passes). Bodies pass as they are
 * while the framing machine checks them; nothing is held but what one read brought and the other
 * side did not take yet. 1xx responses pass. On 101, or on a 200 that the program calls a hijack,
 * the connection becomes a raw relay, half close kept.
 *
 * The upstream connection is kept for the client connection's next request. When it turns out to
 * be closed, a request is sent again, once, if nothing of it can have been acted on: no byte of it
 * was sent, or it is idempotent, has no body, and nothing was answered.
 *
 * A failure before the response head has passed is answered with 502 (504 when time ran out) and
 * the reason; after that the client is reset. A client that goes away while its request is in
 * flight ends the upstream connection; the end of its stream counts as that, hijacks apart.
 */
#ifndef HTTP_PROXY_H
#define HTTP_PROXY_H

#include "http/server.h"

/* The far side. Lives longer than the connections that use it. */
struct http_upstream {
	/* A stream to it, owned by the proxy; never NULL. Its own deadlines apply. */
	struct stream *(*dial)(void *arg);
	/* Does this 200, which has no length, turn the connection into raw bytes? Asked before with
	 * response NULL, when the request is sent: might it? NULL: never. */
	bool (*hijack)(void *arg, const struct http_head *request,
		       const struct http_head *response);
	/* The connection becomes raw bytes now: the stream to relay to, which may be one around up.
	 * NULL: up itself. */
	struct stream *(*relayed)(void *arg, const struct http_head *request, struct stream *up);
	void *arg;
};

/* Final verb of an exchange, from the handler, before anything of the body was read: sends head
 * with n edits (at most HTTP_PROXY_EDITS) upstream and the response back. A program refuses a
 * request by replying itself instead, and rewrites one by its edits, or by changing head's method
 * and target. */
#define HTTP_PROXY_EDITS 16
void http_proxy(struct http_conn *, const struct http_head *, const struct http_edit *, size_t n,
		const struct http_upstream *);

#endif
