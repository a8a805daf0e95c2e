#include "reactor/err.h"

#include <errno.h>
#include <string.h>

static const char *const texts[ERR_LAST - ERR_FIRST] = {
	[ERR_TLS - ERR_FIRST] = "TLS failure",
	[ERR_TLS_UNKNOWN_CA - ERR_FIRST] = "x509: certificate signed by unknown authority",
	[ERR_TLS_NAME - ERR_FIRST] = "x509: certificate is not valid for this name",
	[ERR_TLS_EXPIRED - ERR_FIRST] = "x509: certificate has expired",
	[ERR_TLS_NOT_YET - ERR_FIRST] = "x509: certificate is not yet valid",
	[ERR_TLS_BAD_CERT - ERR_FIRST] = "x509: bad certificate",
	[ERR_TLS_CERT_REQUIRED - ERR_FIRST] = "the server requires a client certificate",
	[ERR_TLS_CERT_DENIED - ERR_FIRST] = "the server refused the client certificate",
	[ERR_NOT_TLS - ERR_FIRST] = "the server does not speak TLS on this port",
	[ERR_IS_TLS - ERR_FIRST] = "the server speaks TLS on this port",
	[ERR_TRUNCATED - ERR_FIRST] = "unexpected EOF",
	[ERR_DNS_NOT_FOUND - ERR_FIRST] = "no such host",
	[ERR_DNS_FAIL - ERR_FIRST] = "name server failure",
	[ERR_HTTP - ERR_FIRST] = "malformed HTTP",
	[ERR_DENIED - ERR_FIRST] = "denied by policy",
	[ERR_NOT_FOUND - ERR_FIRST] = "not found",
	[ERR_TOO_MANY - ERR_FIRST] = "too many",
	[ERR_CANCELLED - ERR_FIRST] = "cancelled",
	[ERR_GOAWAY - ERR_FIRST] = "the server is shutting down",
	[ERR_SSH_HOST_KEY - ERR_FIRST] = "ssh: host key verification failed",
	[ERR_SSH_AUTH - ERR_FIRST] = "ssh: permission denied",
};

const char *err_text(int code)
{
	int e = code < 0 ? -code : code;
	if (e >= ERR_FIRST && e < ERR_LAST)
		return texts[e - ERR_FIRST];
	switch (e) { /* the words that users of Docker and Go tools know */
	case 0:
		return "success";
	case ECONNREFUSED:
		return "connection refused";
	case ECONNRESET:
		return "connection reset by peer";
	case ETIMEDOUT:
		return "i/o timeout";
	case EHOSTUNREACH:
		return "no route to host";
	case ENETUNREACH:
		return "network is unreachable";
	case EADDRINUSE:
		return "address already in use";
	case ENOENT:
		return "no such file or directory";
	case EACCES:
		return "permission denied";
	case EPIPE:
		return "broken pipe";
	default:
		return strerrordesc_np(e) ? strerrordesc_np(e) : "unknown error";
	}
}
