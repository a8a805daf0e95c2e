/* Inside of a server connection, for server.c, exchange.c, relay.c and proxy.c only. */
#ifndef HTTP_CONN_H
#define HTTP_CONN_H

#include "http/server.h"

enum {
	CONN_OUT_MAX = 1 << 20,      /* a whole reply, or a head and one read of body */
	CONN_DRAIN_MAX = 256 * 1024, /* request body read away for the sake of keep-alive */
	CONN_LINGER_MS = 2000
};

enum conn_state {
	CONN_HEAD = 0, /* reading a request head, or idle */
	CONN_USER,     /* the handler has the exchange */
	CONN_PROXY,    /* proxy.c has it, and the stream is bound to its task */
	CONN_REPLY,    /* the reply is all in out: flush it */
	CONN_DRAIN,    /* reading away the rest of the request body */
	CONN_TAKE,     /* flushing, then handing the stream over */
	CONN_END       /* to be freed by the connection's task */
};

/* What the log wants to know. */
struct http_record {
	char *peer, *path;
	char method[12];
	int status;
	uint64_t in, out, started;
};

struct http_conn {
	struct task task;
	struct timer timer;
	struct list link;
	struct http_server *srv;
	struct stream *stream;
	struct task *user; /* the handler's, NULL: none */
	enum conn_state state;
	int failed; /* < 0: the client's side is gone or broke the rules */
	struct buf in, out;
	size_t seen;           /* of in, by the head parser */
	size_t head_len;       /* of in: the head that the handler is looking at */
	struct http_body body; /* of the request */
	struct http_record log;
	bool keep, expect, http10, is_head;
	bool
	    upgrade; /* asked to leave HTTP: the client's end of stream may be half of a dialogue */
	bool streaming, chunked; /* the reply */
	bool timed_out, served;
	size_t drained;
	http_taken *taken; /* who the stream goes to */
	void *taken_arg;
	struct stream *other; /* or what it is relayed to */
	struct http_proxy *proxy;
};

/* server.c */

/* Takes over an exchange whose reply is complete but for out, and goes on from there. */
void http_conn_reply(struct http_conn *);
/* Closes and frees it all; code < 0: a reset. The caller does not touch it any more. */
void http_conn_end(struct http_conn *, int code);
/* Frees c but for its stream, which was taken. */
void http_conn_free(struct http_conn *);
/* Tells the program's done function and clears the record but for the peer. */
void http_conn_log(struct http_server *, struct http_record *, int code, bool relayed);
/* One connection or relay less. */
void http_server_left(struct http_server *);

/* exchange.c */

/* Writes what is in out: 0, -EAGAIN or fatal. */
int http_conn_flush(struct http_conn *);
/* Drops the head that the handler has seen from in. */
void http_conn_unhead(struct http_conn *);
/* Reads away the request body: 0 when done, -EAGAIN, -EFBIG over CONN_DRAIN_MAX, or fatal. */
int http_conn_drain(struct http_conn *);
/* Reads what the client sends ahead of its turn, as far as there is room: -EAGAIN, or fatal when it
 * has gone. */
int http_conn_watch(struct http_conn *);

/* relay.c */

/* Turns c into a relay between its stream and other; frees c. What is in c->out goes to the client
 * first, to_other the other way. More than REACTOR_SCRATCH of either: both are reset. */
void http_relay_start(struct http_conn *, struct stream *other, struct slice to_other);
/* Each relay's finished function runs from here: only from the server's task. */
void http_relays_abort(struct http_server *);

/* proxy.c */

/* NULL is ignored. */
void http_proxy_free(struct http_proxy *);

#endif
