/*
 * The client's side of a tunnel: streams over one or a few carriers to one guest, redialled when
 * lost.
 */
#ifndef TSTUNNEL_TUNNEL_H
#define TSTUNNEL_TUNNEL_H

#include "proto/tstunnel/carrier.h"
#include "proto/tstunnel/mux.h"

struct tunnel;

/* What a stream is for: bulk transfers get a carrier of their own, so that they cannot stand in the
 * way of a shell on one TCP connection. */
enum tunnel_class { TUNNEL_INTERACTIVE = 0, TUNNEL_BULK, TUNNEL_CLASSES };

struct tunnel_options {
	struct addr server;
	const char *cert_file, *key_file;                /* together or not at all */
	const char *ca_file;                             /* NULL: the system's store */
	bool insecure;                                   /* TLS, if it is spoken, is not verified */
	uint64_t connect_ms, handshake_ms, keepalive_ms; /* 0: defaults (10 s, 10 s, 4 s) */
	const char *program;
	bool keep_up; /* dial at once and redial in the background (a daemon) */
	/* A carrier is going away: who has streams on it that never end by themselves should open
	 * them anew, or the far side waits for them in vain. May wake tasks, no more. NULL: nobody.
	 */
	void (*goaway)(void *arg);
	/* A carrier has come up, or could not, or was lost: tunnel_status says otherwise now. May
	 * wake tasks, no more. NULL: nobody. */
	void (*changed)(void *arg);
	void *arg;
};

/* TLS if there is a certificate or a CA; else plain, with TLS as the second choice if insecure.
 * Reads the files. NULL on failure with a sentence in err. Strings of opt must outlive the tunnel.
 */
struct tunnel *tunnel_new(struct reactor *, const struct tunnel_options *opt, char *err,
			  size_t errlen);
/* Every stream fails; carriers are closed. NULL is ignored. */
void tunnel_free(struct tunnel *);
/* For an orderly end: what was written still arrives, then the carriers are closed, and drained is
 * called once, from a task (it may free the tunnel). Streams that are open finish first. No
 * tunnel_open after this. */
void tunnel_drain(struct tunnel *, void (*drained)(void *arg), void *arg);
/* Reads certificate, key and CA again; running carriers keep what they have. 0, or -EINVAL with a
 * sentence in err, and the old ones stay. */
int tunnel_reload(struct tunnel *, char *err, size_t errlen);

/* Opens a stream; dials when no carrier is there. Never NULL (see mux_open): failing to reach the
 * guest comes out of the first verb. */
struct stream *tunnel_open(struct tunnel *, struct slice json, enum tunnel_class);

/* Takes streams that the guest opens; embedded in its owner, several may share a tunnel. */
struct tunnel_taker {
	struct list link;
	/* Called from the mux's task; json lives during the call. True: s is the callee's, to be
	 * accepted or refused (mux.h). It must not end the tunnel or another taker. */
	bool (*take)(struct tunnel_taker *, struct stream *s, struct slice json);
};
/* What no taker wants is refused. */
void tunnel_take(struct tunnel *, struct tunnel_taker *);
/* Only after tunnel_take; again does no harm. */
void tunnel_take_end(struct tunnel_taker *);

/* A carrier is settled. */
bool tunnel_is_up(const struct tunnel *);
struct tunnel_status {
	bool up; /* a carrier is settled */
	unsigned carriers;
	uint64_t streams, streams_total, bytes_in, bytes_out, rtt_us, redials;
	char last_error[512]; /* of the last dial or loss, "" if none since it is up */
	int last_code;        /* its code, else 0 */
	char server[300];
};
void tunnel_status(const struct tunnel *, struct tunnel_status *);

/* The sentence for a person when the tunnel could not be used: why, and what to do about code, with
 * the names of the flags given ("ts-" for tsctl start's --ts-ca, "" for host-exec's --ca; NULL: the
 * parameters of a tstunnel:// URL, "ca=FILE"). */
void tunnel_advice(int code, const char *why, const char *flag_prefix,
		   const struct tunnel_options *, char *out, size_t outlen);

#endif
