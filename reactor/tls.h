/*
 * TLS streams over streams (BoringSSL). With tls_cert.c and crypto.c the only place that includes
 * its headers. TLS 1.3 unless min_tls12; X25519; AES-128-GCM first where AES is in hardware; no
 * session tickets (every connection is authorised anew). Buffers, and all that only the handshake
 * needs, are released: an idle stream costs 2 KB.
 */
#ifndef REACTOR_TLS_H
#define REACTOR_TLS_H

#include "reactor/stream.h"

/* Certificates, key and trust of one end; immutable, reference counted: a reload makes a new one
 * and running connections keep theirs. */
struct tls_config;

struct tls_options {
	const char *cert_file; /* PEM chain, leaf first; with key_file or NULL */
	const char *key_file;  /* PEM */
	const char **ca_files; /* PEM bundles; n_ca = 0: the system's store (client only) */
	size_t n_ca;
	bool insecure;            /* client: verify nothing */
	bool require_client_cert; /* server: mTLS, verified against ca_files */
	bool min_tls12;
};

/* Reads the files. NULL on failure, with a sentence in err that names the file and what is wrong
 * with it (missing, unreadable, not PEM, key does not match the certificate, expired CA is only
 * warned about). */
struct tls_config *tls_config_new(const struct tls_options *, bool server, char *err,
				  size_t errlen);
struct tls_config *tls_config_ref(struct tls_config *);
/* NULL is ignored. */
void tls_config_unref(struct tls_config *);

/* Reading may use more of the room that it is given than the count that it returns: records are
 * opened there, and their ends cut off. */

/* Client over lower, which it owns. host is the SNI name and is checked against the certificate's
 * SANs (DNS with wildcards, IP); an IP literal sends no SNI. Usable at once. */
struct stream *tls_client(struct tls_config *, struct stream *lower, const char *host);
/* Server over lower. */
struct stream *tls_server(struct tls_config *, struct stream *lower);
/* Handshake must end within ms, else the stream fails with -ETIMEDOUT. */
void tls_handshake_limit(struct stream *, uint64_t ms);

/* Who the peer proved to be, after the handshake. Strings belong to the stream. */
struct tls_peer {
	const char *common_name; /* subject CN, "" if none */
	const char *spiffe_id;   /* the URI SAN if the certificate is a valid X509-SVID, else "" */
	const char *subject;     /* one line for logs: "CN=client" */
	bool verified;
};
/* NULL before the handshake is done, or when the peer sent no certificate. */
const struct tls_peer *tls_peer(struct stream *);
/* Negotiated version and cipher ("TLSv1.3 TLS_AES_128_GCM_SHA256"), "" before. */
const char *tls_session_text(struct stream *);
bool stream_is_tls(const struct stream *);

#endif
