/*
 * URLs and request targets (RFC 3986, RFC 9112 section 3.2), percent coding, queries. Pure.
 * Parts are slices of the caller's bytes, still percent-encoded; decode once, where they are used.
 */
#ifndef HTTP_URL_H
#define HTTP_URL_H

#include "http/http.h"

struct http_url {
	struct slice scheme;   /* as written; compare with slice_eqi */
	struct slice userinfo; /* .p NULL: none. Most callers refuse it. */
	struct slice host;     /* IPv6 literals without their brackets; may be empty */
	bool ipv6;
	uint16_t port;      /* 0: none given */
	struct slice path;  /* empty, or starts with '/' */
	struct slice query; /* without the '?'; .p NULL: none */
};

/* scheme://[userinfo@]host[:port][/path][?query]. 0, or -1 with err (HTTP_E_URL). Refused: a
 * fragment, bytes that are not visible ASCII, malformed escapes, an empty or zero port. */
int http_url_parse(struct http_url *, struct slice in, struct http_err *);
/* /path[?query] into path and query, the other parts empty. 0, or -1 with err. */
int http_target_parse(struct http_url *, struct slice in, struct http_err *);
/* host[:port], as in Host and CONNECT; host may be empty. 0, or -1 with err. */
int http_authority_parse(struct http_url *, struct slice in, struct http_err *);

/* Decodes %XX into out, and '+' as a space where plus. Returns the length (out is not terminated),
 * -EINVAL for a malformed escape or a NUL, encoded or not, -ENOBUFS when cap is too small. out may
 * be in.p: decoding never grows. */
ssize_t http_percent_decode(char *out, size_t cap, struct slice in, bool plus);
/* Appends s with everything but unreserved characters escaped: 0 or -ENOBUFS. */
int http_percent_put(struct buf *, struct slice s);

/* Takes the next key=value off *query, both still encoded; value.p NULL: no '='. Empty pieces are
 * skipped. False at the end. */
bool http_query_next(struct slice *query, struct slice *key, struct slice *value);
/* The decoded value of the first such key: its length, NUL-terminated in out; -ENOENT, -EINVAL
 * (malformed escape), -ENOBUFS (cap, terminator included, is too small). */
ssize_t http_query_get(struct slice query, const char *key, char *out, size_t cap);

#endif
