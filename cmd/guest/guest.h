/*
 * guest: the remote side, beside Docker. What its files share.
 */
#ifndef GUEST_GUEST_H
#define GUEST_GUEST_H

#include "http/proxy.h"
#include "json/json.h"
#include "proto/tstunnel/exec_server.h"
#include "proto/tstunnel/mux.h"
#include "proto/tstunnel/version.h"
#include "reactor/listen.h"
#include "reactor/opt.h"
#include "reactor/signals.h"
#include "reactor/tls.h"

/* What an authenticated peer may do. */
struct policy {
	struct exec_policy exec;
	struct opt_list allow_tcp; /* HOST:PORTS; none = any */
	struct opt_list allow_udp; /* HOST:PORTS; none = any, but nothing once allow_tcp has some */
	struct opt_list
	    allow_unix; /* paths; none = any, but nothing once something else is narrowed */
	struct opt_list allow_listen; /* HOST:PORTS and paths; none = loopback, but nothing once
					 something else is narrowed */
	struct opt_list allowed_cns;  /* of client certificates; none = any that verifies */
	const char *sync_root;
};

struct guest {
	struct reactor *rx;
	struct policy policy;
	struct addr docker;
	struct http_server http;
	struct http_upstream engine;
	struct listener *listener;
	struct tls_config *tls;
	struct tls_options tls_options;
	struct signals signals;
	struct timer grace;
	uint64_t grace_ms;
	uint64_t handshake_ms;
	bool plain_host_check; /* no TLS and loopback only: browsers are the danger */
	bool draining;
	struct list sessions; /* tunnels that are up */
	struct list watchers; /* children that look for listeners */
	size_t nwatchers;
	struct list syncs; /* streams of kind sync */
	size_t nsyncs;
	char *sync_root; /* that of the policy, or the default; NULL: none */
	char *state_dir; /* NULL: none */
	uint64_t started_ms;
	size_t tunnels;
	uint64_t tunnels_total, bytes_in, bytes_out; /* bytes: of tunnels that have ended */
};

/* A tunnel that is up. */
struct session {
	struct list link; /* guest.sessions */
	struct guest *g;
	struct mux *mux;
	char *peer;            /* who: the certificate's subject, "-" without one */
	struct list listening; /* what the peer has us listen on */
	size_t nlistening;
	uint64_t started_ms;
};

/* --- main.c --- */
/* Something has ended: while draining, the guest ends with the last of them. Also for
 * exec_policy.left. */
void guest_left(void *guest);

/* --- routes.c --- */
void routes_init(struct guest *);
void guest_handle(struct http_conn *, struct http_head *, void *guest);
void guest_preface(struct http_conn *, void *guest);
void guest_done(const struct http_access *, void *guest);
void guest_broken(const char *peer, int code, const char *why, void *guest);

/* --- session.c: tunnels --- */
void session_start(void *guest, struct stream *, struct slice rest);
void sessions_goaway(struct guest *);
void sessions_abort(struct guest *);
/* Sums over the tunnels that are up, added to *out. */
void sessions_stats(const struct guest *, struct mux_stats *out);

/* --- listen.c: reverse forwards --- */
/* The peer wants us to listen on address (kind listen): 0, and the stream is taken; or a code, with
 * a sentence, and it is not. */
int listen_start(struct session *, struct stream *, struct json_doc *, const struct addr *,
		 char *why, size_t whylen);
/* Closes all listeners of the session; their streams are reset with code and text. */
void listen_end_all(struct session *, int code, const char *text);

/* --- target.c: policy --- */
/* May it be dialled (by its kind)? 0, or -ERR_DENIED with a sentence naming the flag. */
int policy_dial(const struct policy *, const struct addr *, char *why, size_t whylen);
/* May a peer have us listen there? The same. */
int policy_listen(const struct policy *, const struct addr *, char *why, size_t whylen);
/* Checks the rules' own syntax at start: 0, or -EINVAL with a sentence. */
int policy_check(const struct policy *, char *why, size_t whylen);
/* May this peer use the guest? 0, or -ERR_DENIED. peer NULL: no certificate. */
int policy_peer(const struct policy *, const struct tls_peer *peer, char *why, size_t whylen);

/* --- files.c: copy and directories --- */
void files_copy(struct guest *, struct http_conn *, const struct http_head *);
void files_directories(struct guest *, struct http_conn *, const struct http_head *);

/* --- listeners.c: what containers on the host's network listen on --- */
/* 0, and the stream is taken; or a code, with a sentence, and it is not. */
int listeners_start(struct guest *, struct stream *, struct json_doc *, char *why, size_t whylen);
void listeners_end_all(struct guest *);

/* --- syncs.c: files kept alike --- */
/* 0, and the stream is taken; or a code, with a sentence, and it is not. */
int sync_start(struct session *, struct stream *, struct json_doc *, char *why, size_t whylen);
/* Kind sync-root: says where the files of an owner's containers are, and closes the stream; or a
 * code, with a sentence, and it does not. */
int sync_root_tell(const struct guest *, struct stream *, struct json_doc *, char *why,
		   size_t whylen);
void syncs_end_all(struct guest *);
/* At start: where syncs are and what is remembered of them. state_dir NULL: the default. 0, or
 * -EINVAL with a sentence. */
int syncs_init(struct guest *, const char *state_dir, char *err, size_t errlen);
/* "guest sync-worker ROOT STORE [BASE]", argv from ROOT on. BASE: ROOT must be below it, and no
 * symlink there is followed. Returns the exit status. */
int syncs_worker_main(int argc, char **argv);
/* Makes these directories; what fails is logged only. */
void syncs_make_dirs(const struct guest *);

/* --- command.c: the plain exec endpoint --- */
void command_start(struct guest *, struct http_conn *, const struct http_head *);

#endif
