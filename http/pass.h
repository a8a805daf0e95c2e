/*
 * An exchange that the program looks at on its way: request and reply are held whole, up to a
 * limit, and shown to the program, which may change a body, take its time, or answer instead. For
 * the few exchanges that need it; http_proxy streams all others, and those that upgrade.
 *
 * The reply passes with its status and fields; its length is told anew. A reply over the limit is
 * not held but streams to the client as it comes. A request over it is answered with 413. Failures
 * are answered as http_proxy answers them. A client that goes away ends the request upstream.
 */
#ifndef HTTP_PASS_H
#define HTTP_PASS_H

#include "http/proxy.h"

struct http_pass;

/* How the reply goes by. */
enum http_pass_way {
	HTTP_PASS_WHOLE = 0, /* all of it is held, and may be changed */
	HTTP_PASS_BODY_HELD, /* its head goes at once, its body when it is let go (unchanged) */
	HTTP_PASS_END_HELD   /* all goes as it comes but for the end: answered with no body then */
};

/* All are called from the pass's task, none from inside a verb. */
struct http_pass_ops {
	/* The request is all here: answer with http_pass_send or http_pass_refuse, now or later. */
	void (*asked)(void *arg, struct slice body);
	/* So is the reply: http_pass_reply, now or later. The body lives until then. */
	void (*answered)(void *arg, int status, struct slice body);
	/* The reply is over the limit and goes by: nothing to do. May be NULL. */
	void (*too_long)(void *arg, size_t limit);
	/* The exchange is over, however it ended, and the pass is gone. Once. */
	void (*over)(void *arg);
	enum http_pass_way way;
};

/* Final verb of an exchange (server.h), from the handler, before anything of the body was read.
 * body_max holds for either body. NULL: the head could not be passed on, and that was the answer.
 * The request must not ask for an upgrade. */
struct http_pass *http_pass_new(struct http_conn *, const struct http_head *,
				const struct http_upstream *, size_t body_max,
				const struct http_pass_ops *, void *arg);
/* Sends the request upstream; body.p NULL: with the body as it came, else with this one (copied).
 */
void http_pass_send(struct http_pass *, struct slice body);
/* Answers it instead. */
void http_pass_refuse(struct http_pass *, int status, const char *message);
/* Lets the reply go; body as for http_pass_send. */
void http_pass_reply(struct http_pass *, struct slice body);
/* At the program's end: resets the client. over is called, from here. */
void http_pass_abort(struct http_pass *);

#endif
