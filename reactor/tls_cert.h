/*
 * What a certificate says about its holder: dates, names, SPIFFE identity. Pure functions on DER
 * and strings; whether the certificate is to be believed is tls_trust.c's question.
 */
#ifndef REACTOR_TLS_CERT_H
#define REACTOR_TLS_CERT_H

#include "reactor/base.h"

/* Slices point into the DER. */
struct cert {
	struct slice common_name; /* empty unless the subject has exactly one, of printable text */
	struct slice alt_names;   /* what subjectAltName holds, for cert_next_name */
	bool has_alt_names;
	int64_t not_before, not_after; /* Unix time */
	bool ca;                       /* basicConstraints */
	bool signs;                    /* keyUsage: keyCertSign or cRLSign */
};

/* Reads a certificate (RFC 5280 section 4.1): 0 or -EINVAL. Names with bytes outside printable
 * ASCII and addresses that are neither 4 nor 16 bytes long make it invalid. */
int cert_parse(struct cert *, struct slice der);

/* Tags of GeneralName, RFC 5280 section 4.2.1.6. */
enum cert_name_kind { CERT_DNS = 2, CERT_URI = 6, CERT_IP = 7 };

/* Takes the next DNS, URI or IP name off *rest (at first alt_names); false at the end. An IP is 4
 * or 16 raw bytes. */
bool cert_next_name(struct slice *rest, enum cert_name_kind *, struct slice *value);

/* RFC 6125 as Go does it: equal but for case; "*" only as the whole first label of pattern, where
 * it stands for exactly one label. A trailing dot of host is ignored. */
bool cert_name_matches(struct slice pattern, struct slice host);
/* True when a SAN covers host, a DNS name or an IP literal (brackets and zone are ignored). The
 * common name never counts. */
bool cert_covers(const struct cert *, const char *host);
/* Why it does not, in Go's words: "x509: certificate is valid for A, B, not HOST". */
void cert_name_error(const struct cert *, const char *host, char *out, size_t n);

/* The SPIFFE ID of a leaf that is a valid X509-SVID (SPIFFE X509-SVID sections 2, 4, 5.2: one URI
 * SAN, not a CA, does not sign certificates or CRLs, a path that is not the root); else empty. */
struct slice cert_spiffe_id(const struct cert *);
/* "spiffe://DOMAIN/PATH" by the grammar of SPIFFE-ID section 2, with a path, at most 2048 bytes. */
bool spiffe_id_valid(struct slice);

#endif
