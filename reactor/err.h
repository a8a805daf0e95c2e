/*
 * Error codes. Every call that can fail returns 0/a count, or a negative code: -errno, or minus one
 * of the project's own codes below, which start past errno's range.
 */
#ifndef REACTOR_ERR_H
#define REACTOR_ERR_H

enum err_code {
	ERR_FIRST = 4096,
	ERR_TLS = ERR_FIRST, /* handshake or record failure that has no code of its own */
	ERR_TLS_UNKNOWN_CA,  /* x509: certificate signed by unknown authority */
	ERR_TLS_NAME,        /* x509: certificate is valid for A, not B */
	ERR_TLS_EXPIRED,     /* x509: certificate has expired or is not yet valid */
	ERR_TLS_NOT_YET,
	ERR_TLS_BAD_CERT,      /* x509: any other objection */
	ERR_TLS_CERT_REQUIRED, /* the far side wants a client certificate */
	ERR_TLS_CERT_DENIED,   /* the far side refused ours */
	ERR_NOT_TLS,           /* we spoke TLS, the far side did not */
	ERR_IS_TLS,            /* we spoke plain text, the far side answered with TLS */
	ERR_TRUNCATED,         /* end of stream before the end of the message */
	ERR_DNS_NOT_FOUND,     /* no such host */
	ERR_DNS_FAIL,          /* the name servers did not answer, or not sensibly */
	ERR_HTTP,              /* malformed or ambiguous HTTP */
	ERR_DENIED,            /* the far side's policy says no */
	ERR_NOT_FOUND,         /* the far side does not have it */
	ERR_TOO_MANY,          /* a limit was reached */
	ERR_CANCELLED,         /* the owner gave up */
	ERR_GOAWAY,            /* the far side is shutting down */
	ERR_SSH_HOST_KEY,      /* the server's key is not the one we know, or not known */
	ERR_SSH_AUTH,          /* the server took neither key nor password */
	ERR_LAST
};

/* Short English text of a negative (or positive) code, in Go's wording for the common ones
 * ("connection refused", "no such host", "i/o timeout"). Never NULL. Static storage. */
const char *err_text(int code);

#endif
