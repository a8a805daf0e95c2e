/*
 * A TLS stream from the inside. Private to tls.c (the stream and its data) and tls_handshake.c (all
 * that BoringSSL's SSL object does, which is all of TLS 1.2).
 */
#ifndef REACTOR_TLS_INT_H
#define REACTOR_TLS_INT_H

#include <openssl/base.h>

#include "reactor/buf.h"
#include "reactor/tls.h"
#include "reactor/tls_config.h"
#include "reactor/tls_record.h"

enum tls_state { TLS_HANDSHAKE = 0, TLS_OPEN, TLS_FAILED, TLS_CLOSING };

struct tls_stream {
	struct stream s;
	struct stream *lower;
	struct tls_config *config;
	SSL *ssl;               /* until the handshake is done; TLS 1.2: to the end */
	struct records records; /* TLS 1.3: from then on */
	char *host;             /* client: the name to verify */
	struct task task;       /* bound to lower */
	struct task *owner;
	struct timer timer; /* handshake limit, then close limit */
	struct buf in, out; /* sealed bytes */
	struct slice rest;  /* data of the first record of in, opened there and not read yet */
	size_t rest_record; /* size of that record */
	size_t chunk;       /* size of the next read from lower */
	enum tls_state state;
	int code;         /* TLS_FAILED */
	int read_code;    /* lower's, sticky */
	int write_code;   /* lower's, sticky */
	bool lower_eof;   /* end of lower stream */
	bool in_checked;  /* the first byte was a TLS record's */
	bool not_tls;     /* it was not */
	bool cert_asked;  /* client: the server sent a CertificateRequest */
	bool got_data;    /* application data came: the peer accepted us */
	bool peer_closed; /* close_notify came */
	bool shut;        /* close_notify written */
	bool parting;     /* failed with an alert for the peer, who should get to read it */
	char *why;
	char *session;
	char *names; /* what peer points into */
	struct tls_peer peer;
	bool has_peer;
	/* The verdict of the verify callback: */
	int cert_code;
	char *cert_why;
};

/* --- tls.c --- */

/* Sends what is sealed: 0, -EAGAIN or lower's code. */
int tls_flush(struct tls_stream *);
/* Reads from lower, behind what t->in holds: the count, 0 at its end, or a code. */
ssize_t tls_fill(struct tls_stream *);

/* --- tls_handshake.c --- */

void tls_ssl_new(struct tls_stream *);
/* Goes on with the handshake; afterwards t->state says how far it is. */
void tls_ssl_handshake(struct tls_stream *);
/* TLS 1.2 data, at most one record: progress, 0 at the peer's end, -EAGAIN or a fatal code. */
ssize_t tls_ssl_read(struct tls_stream *, void *p, size_t n);
/* Seals one record of the source: how many bytes of it, or a fatal code. */
ssize_t tls_ssl_write(struct tls_stream *, struct record_source *);
/* Fails if there is an alert next in what came in. */
void tls_ssl_look(struct tls_stream *);
void tls_ssl_shut(struct tls_stream *);
/* The key log callback of tls_config.c's SSL_CTX. */
void tls_on_secret(const SSL *, const char *line);

/* The first failure stays. Each returns t->code. */
/* why is taken. */
int tls_fail(struct tls_stream *, int code, char *why);
/* The peer gave up with this alert. */
int tls_fail_alert(struct tls_stream *, int alert);
/* The lower stream failed. */
int tls_fail_lower(struct tls_stream *, int code);
/* The lower stream ended without close_notify. */
int tls_fail_truncated(struct tls_stream *);
int tls_fail_timeout(struct tls_stream *);

#endif
