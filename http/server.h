/*
 * HTTP/1.1 server side: connections on streams, and exchanges for a program's handler to answer.
 *
 * A connection reads request heads (pipelined or not) and calls the program's handler for each,
 * from a task of its own. From then on the exchange is the handler's, which answers it at once or
 * later, with the verbs below; they never call back. Until a final verb (http_reply,
 * http_reply_end, http_abort, http_take, http_relay, or http_proxy of proxy.h) the http_conn stays
 * valid, even when the client goes away: then every verb says so and http_abort or any other final
 * verb lets go. After a final verb the http_conn is not the handler's any more.
 *
 * Malformed input is answered with 400, 408, 417, 431, 501 or 505 and a close.
 */
#ifndef HTTP_SERVER_H
#define HTTP_SERVER_H

#include "http/http.h"
#include "reactor/stream.h"

struct http_conn;

/* What happened, for the log. The strings live during the call. */
struct http_access {
	const char *peer; /* as given to http_server_accept, "" if none */
	const char *method,
	    *path;        /* path without its query; both "" if the head was not readable */
	int status;       /* as sent; 0: none */
	int code;         /* 0, or why it ended before its time (err.h) */
	bool relayed;     /* became a raw relay; in and out are its bytes */
	uint64_t in, out; /* body bytes from and to the client */
	uint64_t ms;
};

/* Zeroed, then filled by the program as far as "private", then http_server_init. Lives longer than
 * its connections. */
struct http_server {
	struct reactor *rx;
	void *arg; /* for the functions below */
	/* A request has arrived. head and its slices live until this returns, or until http_read.
	 */
	void (*handle)(struct http_conn *, struct http_head *head, void *arg);
	/* The client opened with the HTTP/2 preface: http_relay (status 0), http_take or
	 * http_abort. NULL: refused. */
	void (*preface)(struct http_conn *, void *arg);
	/* Once an exchange, after it. May be NULL. */
	void (*done)(const struct http_access *, void *arg);
	/* A connection failed before its first request, in the handshake for one. May be NULL. */
	void (*broken)(const char *peer, int code, const char *why, void *arg);
	/* Answers what could not be made a request with http_reply. NULL: {"message":...}. */
	void (*refuse)(struct http_conn *, int status, const char *message, void *arg);
	/* After http_server_drain or _abort: the last connection has ended. From a task; may be
	 * NULL; may free the server. */
	void (*empty)(void *arg);

	/* Limits; 0 takes the default. */
	size_t head_max;   /* bytes of a request head (64 KiB) */
	size_t conns_max;  /* connections, relays included (no limit) */
	uint64_t head_ms;  /* for the whole of a head, from accept or its first byte (30 s) */
	uint64_t idle_ms;  /* between two requests (120 s) */
	uint64_t stall_ms; /* a client that neither takes our bytes nor sends its body (60 s) */

	/* private */
	struct list conns, relays;
	struct task task;
	size_t nconns; /* both; a program may read it */
	bool ending, aborting;
};

void http_server_init(struct http_server *);
/* Takes s. peer (copied, may be NULL) is for the log. Over the limit or while draining: closes s
 * and returns -ERR_TOO_MANY or -ERR_GOAWAY. */
int http_server_accept(struct http_server *, struct stream *s, const char *peer);
/* No further requests: idle connections are closed now, others after their exchange. */
void http_server_drain(struct http_server *);
/* Ends everything with a reset; exchanges that handlers still hold fail and go when let go. */
void http_server_abort(struct http_server *);

/* --- an exchange --- */

/* Wakes task when a verb that said -EAGAIN may go on, or when the client has gone. */
void http_bind(struct http_conn *, struct task *);
/* 0, or the code that the client's side failed with. */
int http_failed(const struct http_conn *);
/* 400 or 408: it failed because its body is malformed or did not come in time, and can still be
 * told so; http_reply works then. Else 0. */
int http_fault(const struct http_conn *);
/* The stream, to ask who the peer is (tls_peer). Not to read or write. */
struct stream *http_conn_stream(struct http_conn *);
const char *http_conn_peer(const struct http_conn *);

/* Body bytes, decoded: the count, 0 at the end, -EAGAIN, or fatal. Answers Expect: 100-continue.
 * Not reading is back-pressure. */
ssize_t http_read(struct http_conn *, void *p, size_t n);

/* Final: a whole reply. Content-Length, Date and Connection are added to fields. What is left of
 * the request body is read away, or the connection closed when that is much. */
void http_reply(struct http_conn *, int status, const struct http_field *, size_t nfields,
		struct slice body);
/* Final: {"message":"..."}. */
void http_reply_error(struct http_conn *, int status, const char *message);

/* A reply of unknown length, chunked where the client can: start, write as often as it takes, end
 * (final). */
void http_reply_start(struct http_conn *, int status, const struct http_field *, size_t nfields);
/* Bytes taken, -EAGAIN or fatal. */
ssize_t http_write(struct http_conn *, const void *p, size_t n);
void http_reply_end(struct http_conn *);

/* Final: gives up; the client sees a reset, or what http_fault says. why < 0. */
void http_abort(struct http_conn *, int why);

/* Final: sends a head with that status (200 to CONNECT says "Connection Established") and these
 * fields (nothing when status is 0), then hands the stream over, from a task. rest came behind the
 * request and lives during the call. s is NULL when the client went away before. An unread request
 * body is read away first. */
typedef void http_taken(void *arg, struct stream *s, struct slice rest);
void http_take(struct http_conn *, int status, const struct http_field *, size_t nfields,
	       http_taken *, void *arg);
/* Final: like http_take, then relays raw bytes between the client and other (owned from now on)
 * until both have ended. Counts as a connection of the server. */
void http_relay(struct http_conn *, int status, const struct http_field *, size_t nfields,
		struct stream *other);

#endif
