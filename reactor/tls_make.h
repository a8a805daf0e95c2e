/*
 * Makes certificates: a CA, and server and client certificates signed by it. ECDSA P-256, SHA-256,
 * the extensions that RFC 5280 and browsers ask for. Pure but for random numbers and the clock.
 */
#ifndef REACTOR_TLS_MAKE_H
#define REACTOR_TLS_MAKE_H

#include "reactor/base.h"

enum tls_make_kind { TLS_MAKE_CA = 0, TLS_MAKE_SERVER, TLS_MAKE_CLIENT };

struct tls_make {
	enum tls_make_kind kind;
	const char *common_name;
	const char *const *dns; /* subjectAltName: names, "*.x" too */
	size_t n_dns;
	const char *const *ip; /* IP literals */
	size_t n_ip;
	const char *spiffe_id;         /* or NULL */
	int64_t not_before, not_after; /* Unix time */
	/* Of the CA that signs, PEM; NULL for a CA of its own. An RSA key signs as well. */
	const char *ca_cert_pem, *ca_key_pem;
};

struct tls_made {
	char *cert_pem, *key_pem; /* to be free()d: tls_made_end */
};

/* 0, or -EINVAL with a sentence in err: a bad name or address, a CA that is none or whose key is
 * another's. */
int tls_make(const struct tls_make *, struct tls_made *, char *err, size_t errlen);
/* Wipes the key. */
void tls_made_end(struct tls_made *);

#endif
