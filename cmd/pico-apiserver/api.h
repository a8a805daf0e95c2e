/*
 * pico-apiserver: sandboxes behind an HTTP API and a CONNECT tunnel. What its files share.
 */
#ifndef PICO_API_H
#define PICO_API_H

#include "cmd/pico-apiserver/auth.h"
#include "cmd/pico-apiserver/sandbox.h"
#include "http/server.h"
#include "proto/tstunnel/version.h"
#include "reactor/listen.h"
#include "reactor/signals.h"
#include "reactor/tls.h"

struct ssh_key;

struct server {
	struct reactor *rx;
	struct http_server http;
	struct listener *listener;
	struct signals signals;
	struct tls_config *tls;
	struct tls_options tls_options;
	struct auth auth;
	struct sessions sessions;
	struct backend *backend;
	struct backend_options backend_options;
	struct ssh_key *ssh_key; /* the server's own, for commands over SSH */
	int64_t ttl_min;
	uint64_t started;
	bool keep, draining;
	bool answered, drained; /* all requests; all sandboxes that are to go are gone */
	struct timer grace;
	uint64_t requests, commands; /* for metrics */
};

enum { REQUEST_ID_MAX = 64 };

/* A request under way, from its head to its reply. */
struct call {
	struct server *sv;
	struct http_conn *conn;
	struct task task; /* bound to conn while it is waited for something */
	void (*step)(struct call *);
	void (*gone)(struct call *); /* the client has left: let go of what waits; may be NULL */
	void *state;                 /* of what is waited for */
	void *extra;                 /* plain memory, freed with the call */
	struct session_waiter waiter;
	struct buf body;
	void (*with_body)(struct call *);
	bool camel; /* of /v1/sandboxes: names in camelCase */
	bool connect;
	const char *allow; /* for 405 */
	char request_id[REQUEST_ID_MAX + 1];
	char owner[JWT_SUBJECT_MAX + 1];
	char *key;          /* Idempotency-Key; NULL: none */
	bool respond_async; /* Prefer: respond-async (RFC 7240) */
};

/* --- call.c --- */
struct call *call_new(struct server *, struct http_conn *, const struct http_head *);
/* Without a reply: conn is not ours any more. */
void call_free(struct call *);
/* Final, as all below. A JSON body; extra may be NULL. */
void call_reply(struct call *, int status, const struct http_field *extra, size_t n,
		struct slice body);
/* {"error":code,"message":...,"timestamp":...,"request_id":...}. retry_s > 0: Retry-After. detail
 * may be NULL. */
void call_error(struct call *, int status, const char *code, int retry_s, const char *detail,
		const char *fmt, ...) PRINTF_LIKE(6, 7);
/* The client is gone: why it is. If only its body was at fault, it is told. */
void call_abort(struct call *, int why);
/* Reads the body (at most max bytes) and goes on with then; JSON only. */
void call_read_json(struct call *, const struct http_head *, size_t max,
		    void (*then)(struct call *));
/* Waits for the client to leave, with step NULL, or wakes step. */
void call_wait(struct call *, void (*step)(struct call *), void (*gone)(struct call *));
/* The session, or NULL and the call was answered: 404, 410, for CONNECT as the guide has it. */
struct session *call_session(struct call *, struct slice id);
/* Makes it run: 1 it does; 0 then is called when it does (or the call was answered instead); < 0
 * answered. What is paused is resumed. */
int call_running(struct call *, struct session *, void (*then)(struct call *, struct session *));

/* For then of the above, before a command or file transfer is begun: false, there are too many in
 * the session, and the call was answered. */
bool call_may_work(struct call *, const struct session *);

/* --- routes.c --- */
void routes_handle(struct http_conn *, struct http_head *, void *server);
/* What is no request. */
void routes_refuse(struct http_conn *, int status, const char *message, void *server);
void routes_done(const struct http_access *, void *server);

/* --- api_sessions.c --- */
void sessions_post(struct call *, const struct http_head *);
void sessions_list(struct call *, const struct http_head *);
void session_get(struct call *, const struct http_head *, struct slice id);
void session_remove(struct call *, const struct http_head *, struct slice id);
void session_post_pause(struct call *, const struct http_head *, struct slice id);
void session_post_resume(struct call *, const struct http_head *, struct slice id);

/* --- connect.c --- */
void session_connect(struct call *, const struct http_head *, struct slice id);

/* --- exec.c, files.c --- */
void session_command(struct call *, const struct http_head *, struct slice id);
void session_code(struct call *, const struct http_head *, struct slice id);
void session_put_file(struct call *, const struct http_head *, struct slice id);
void session_get_file(struct call *, const struct http_head *, struct slice id);

/* --- run.c --- */
/* Runs a command in a box by the backend's own way, or over SSH. As backend_ops.run. */
struct box_run *run_start(struct server *, struct session *, const struct box_command *,
			  void (*ended)(void *arg, const struct child_status *), void *arg,
			  int *err);
/* Ends stdin, which over SSH is the same stream as stdout; *in is NULL then. */
void run_end_input(struct stream **in, const struct stream *out);
/* Closes stdout (or stderr), and stdin if it is the same. */
void run_end_output(struct stream **out, struct stream **in);
/* --- run_ssh.c: the same over SSH, for backends that have no way of their own --- */
struct box_run *run_over_ssh(struct server *, struct session *, const struct box_command *,
			     void (*ended)(void *arg, const struct child_status *), void *arg,
			     int *err);

/* --- server_key.c --- */
/* The key pair in dir, made if there is none: 0, or negative with a sentence. */
int server_key_load(struct server *, const char *dir, char *err, size_t errlen);

#endif
