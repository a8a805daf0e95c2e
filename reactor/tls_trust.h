/*
 * Certificates and keys from files, and whether to believe a chain. Private to tls.c.
 */
#ifndef REACTOR_TLS_TRUST_H
#define REACTOR_TLS_TRUST_H

#include <openssl/base.h>
#include <openssl/stack.h>

#include "reactor/base.h"

struct stack_st_CRYPTO_BUFFER;

/* The loaders fail with a sentence in err that names the file and what is wrong with it. */

/* Chain and key into ctx; checks that they belong together, warns when the leaf has expired: 0 or
 * -1. */
int trust_load_identity(SSL_CTX *, const char *cert_file, const char *key_file, char *err,
			size_t errlen);
/* Every certificate of the files as a trust anchor, as in Go; NULL on failure. subjects gets their
 * names for a server's CertificateRequest, the caller's to free. */
X509_STORE *trust_load_roots(const char *const *files, size_t n,
			     struct stack_st_CRYPTO_BUFFER **subjects, char *err, size_t errlen);
/* A reference to the system's roots: SSL_CERT_FILE, SSL_CERT_DIR, else the distribution's bundle.
 * Read at the first call (tens of milliseconds), then kept. Never NULL, perhaps empty. */
X509_STORE *trust_system_roots(void);

/* Checks what the peer sent, leaf first: dates, host (NULL: not asked), signatures up to one of
 * roots, and that it may be used as a server's (else a client's) certificate. 0, or -ERR_TLS_* with
 * the reason in why. */
int trust_verify(X509_STORE *roots, const struct stack_st_CRYPTO_BUFFER *chain, bool server,
		 const char *host, char *why, size_t n);
/* The subject of a certificate in one line ("CN=client,O=Tinyscale", RFC 2253), to be free()d. */
char *trust_subject(CRYPTO_BUFFER *);

#endif
