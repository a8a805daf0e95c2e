/*
 * HTTP/1.1 messages (RFC 9110, RFC 9112): heads, body framing, writing. Pure: nothing here touches
 * a descriptor. server.h, client.h and proxy.h put it on streams; url.h has targets and queries.
 *
 * Strict: a message whose framing cannot be proven is refused, never repaired. Slices that the
 * parser returns point into the caller's bytes and live as long as those stay where they are.
 */
#ifndef HTTP_HTTP_H
#define HTTP_HTTP_H

#include <sys/types.h>

#include "reactor/buf.h"

#define HTTP_FIELDS   100         /* field lines in a head */
#define HTTP_HEAD_MAX (64 * 1024) /* bytes of a head, its empty line included */

enum http_err_code {
	HTTP_E_BYTE = 1, /* control byte, bare CR or bare LF */
	HTTP_E_LINE,     /* request or status line */
	HTTP_E_TARGET,   /* request target */
	HTTP_E_VERSION,  /* neither HTTP/1.0 nor HTTP/1.1 */
	HTTP_E_FIELD,    /* field line */
	HTTP_E_FOLD,     /* line folding */
	HTTP_E_HOST,     /* Host missing, repeated or malformed */
	HTTP_E_LENGTH,   /* Content-Length repeated or not a number */
	HTTP_E_FRAMING,  /* ambiguous or forbidden body framing */
	HTTP_E_CODING,   /* transfer coding that we do not have */
	HTTP_E_LARGE,    /* head over the limit */
	HTTP_E_FIELDS,   /* too many fields */
	HTTP_E_CHUNK,    /* chunk size, extension or end */
	HTTP_E_TRAILER,  /* trailer field malformed, forbidden or too long */
	HTTP_E_URL,      /* see url.h */
	HTTP_E_LAST
};

/* Why a parser refused, and the offset of the offence in the bytes it was given. */
struct http_err {
	enum http_err_code code;
	size_t at;
};

/* One line of English; never NULL. */
const char *http_err_text(enum http_err_code);
/* The status that a server answers it with: 400, 431, 501 or 505. */
int http_err_status(enum http_err_code);

/* --- heads (head.c) --- */

/* RFC 9112 section 3.2. CONNECT may also name a path: that is HTTP_ORIGIN. */
enum http_form { HTTP_ORIGIN = 0, HTTP_ABSOLUTE, HTTP_AUTHORITY, HTTP_ASTERISK };

struct http_field {
	struct slice name, value;
};

struct http_head {
	bool response;
	uint8_t minor; /* HTTP/1.minor: 0 or 1 */
	/* Requests */
	struct slice method, target;
	enum http_form form;
	/* Responses */
	uint16_t status;
	struct slice reason;
	/* Framing, proven unambiguous */
	bool chunked, has_length;
	uint64_t length;
	uint16_t nfields;
	struct http_field field[HTTP_FIELDS];
};

/* Parses one head from the start of in. > 0: its length; 0: need more; -1: see err.
 * seen: how many of these bytes the last call was given that returned 0, so that none is looked at
 * twice. limit: most bytes of a head, at most HTTP_HEAD_MAX. */
ssize_t http_request_parse(struct http_head *, struct slice in, size_t seen, size_t limit,
			   struct http_err *);
ssize_t http_response_parse(struct http_head *, struct slice in, size_t seen, size_t limit,
			    struct http_err *);

/* Is it the HTTP/2 client preface? 1 yes (24 bytes), 0 so far, -1 no. */
int http_preface(struct slice in);

/* The first field of that name (any case); .p is NULL when there is none. */
struct slice http_field_get(const struct http_head *, struct slice name);
/* Does a comma-separated field (any number of lines) hold this token, in any case? */
bool http_field_has_token(const struct http_head *, struct slice name, struct slice token);
/* Next element of a comma-separated list, trimmed and never empty; false at the end. */
bool http_list_next(struct slice *rest, struct slice *element);

/* Who the request is for: the authority of an absolute target, else Host. .p NULL: nobody said. */
struct slice http_head_host(const struct http_head *);
/* Does the connection live on after this message, by version and Connection (RFC 9112 9.3)? */
bool http_keep_alive(const struct http_head *);
/* Connection: Upgrade together with an Upgrade field, in HTTP/1.1. */
bool http_wants_upgrade(const struct http_head *);
/* RFC 9110 section 5.6.2. */
bool http_is_token(struct slice);

/* --- bodies (body.c) --- */

enum http_framing {
	HTTP_NONE = 0, /* no body */
	HTTP_LENGTH,
	HTTP_CHUNKED,
	HTTP_CLOSE, /* a response that ends with the connection */
	HTTP_TUNNEL /* not HTTP any more: 101, or 2xx to CONNECT */
};

struct http_body {
	enum http_framing how;
	uint8_t state;
	uint8_t nname;
	uint16_t line; /* bytes of this size line, or of all trailers */
	uint64_t left; /* payload bytes until the next framing byte */
	char name[18]; /* of the trailer field being read, lower case */
};

#define HTTP_CHUNK_LINE_MAX 256
#define HTTP_TRAILERS_MAX   8192

/* The framing of the body after head (RFC 9112 section 6.3). method: of the request. */
void http_body_init(struct http_body *, const struct http_head *, struct slice method);
/* Consumes body bytes: returns how many of in belong to the body, at least one unless in is empty
 * or the body has ended; *out is the one run of payload among them (may be empty). -1: see err. A
 * relay passes on the consumed bytes as they are. */
ssize_t http_body_next(struct http_body *, struct slice in, struct slice *out, struct http_err *);
/* http_body_next until in is used up or the body has ended: what a relay calls. */
ssize_t http_body_check(struct http_body *, struct slice in, struct http_err *);
/* HTTP_CLOSE is never done: its end is the connection's. */
bool http_body_done(const struct http_body *);
/* The connection has ended: 0 if the body was complete, else -ERR_TRUNCATED. */
int http_body_eof(const struct http_body *);

/* --- writing (write.c) --- */

/* All put functions append: 0, -ENOBUFS (buf is full), or -EINVAL for bytes that would break the
 * message (CR, LF, NUL and other control bytes, a name that is no token). Nothing is appended then.
 */
int http_put_request(struct buf *, struct slice method, struct slice target);
/* reason empty: the standard one. */
int http_put_status(struct buf *, int status, struct slice reason);
int http_put_field(struct buf *, struct slice name, struct slice value);
int http_put_number(struct buf *, struct slice name, uint64_t value);
/* The empty line. */
int http_put_end(struct buf *);

/* One change to a head. The first field of that name gets the value, further ones are dropped; a
 * name that is absent is added at the end. value.p NULL: dropped. */
struct http_edit {
	struct slice name, value;
};
/* A parsed head again, with its empty line: order and case kept, n edits applied. */
int http_put_head(struct buf *, const struct http_head *, const struct http_edit *, size_t n);

/* An empty chunk is not written: it would end the body. */
int http_put_chunk(struct buf *, struct slice data);
int http_put_last_chunk(struct buf *);

/* {"message":"text"} and a newline, the way that Docker's and our own APIs tell errors. 0 or
 * -ENOBUFS. */
int http_put_message(struct buf *, const char *text);

/* "OK", "Not Found"; "Status" for those without a name. */
const char *http_status_text(int status);

#endif
