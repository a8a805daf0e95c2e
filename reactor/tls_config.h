/*
 * What tls.c sees of a tls_config. Private to tls.c and tls_config.c.
 */
#ifndef REACTOR_TLS_CONFIG_H
#define REACTOR_TLS_CONFIG_H

#include <openssl/base.h>

#include "reactor/base.h"

struct tls_config {
	SSL_CTX *ctx;
	X509_STORE *roots; /* NULL only where nothing is verified against it */
	unsigned refs;
	bool server;
	bool verify;          /* asks for the peer's certificate */
	bool insecure;        /* and believes it whatever it says */
	bool has_cert;        /* has one to show */
	uint64_t renew_after; /* records under one key, 0: as tls_record.h says */
};

#endif
