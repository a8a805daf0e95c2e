#include "http/http.h"

#include "reactor/err.h"

enum body_state {
	BODY_DONE = 0,
	BODY_DATA,   /* payload: left bytes of it, or up to the end of the connection */
	CHUNK_FIRST, /* first digit of a size */
	CHUNK_SIZE,
	CHUNK_EXT,
	CHUNK_SIZE_LF,
	CHUNK_DATA,
	CHUNK_DATA_CR,
	CHUNK_DATA_LF,
	TRAILER_FIRST, /* first byte of a trailer line, or the CR of the last line */
	TRAILER_NAME,
	TRAILER_VALUE,
	TRAILER_LF,
	LAST_LF
};

static void chunked_init(struct http_body *b)
{
	b->how = HTTP_CHUNKED;
	b->state = CHUNK_FIRST;
}

void http_body_init(struct http_body *b, const struct http_head *h, struct slice method)
{
	memset(b, 0, sizeof(*b));
	if (h->response) {
		bool connected = slice_eq(method, SLICE("CONNECT")) && h->status / 100 == 2;
		if (connected || h->status == 101) {
			b->how = HTTP_TUNNEL;
			return;
		}
		if (slice_eq(method, SLICE("HEAD")) || h->status < 200 || h->status == 204 ||
		    h->status == 304)
			return;
	}
	if (h->chunked) {
		chunked_init(b);
	} else if (h->has_length) {
		b->how = HTTP_LENGTH;
		b->left = h->length;
		b->state = b->left ? BODY_DATA : BODY_DONE;
	} else if (h->response) {
		b->how = HTTP_CLOSE;
		b->left = UINT64_MAX;
		b->state = BODY_DATA;
	}
}

bool http_body_done(const struct http_body *b)
{
	return b->state == BODY_DONE;
}

int http_body_eof(const struct http_body *b)
{
	return b->state == BODY_DONE || b->how == HTTP_CLOSE ? 0 : -ERR_TRUNCATED;
}

static int hex(unsigned char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* A trailer that a reader might merge into the head must not change framing or routing. */
static bool name_forbidden(const struct http_body *b)
{
	struct slice name = slice_of(b->name, b->nname);
	return slice_eq(name, SLICE("content-length")) || slice_eq(name, SLICE("host")) ||
	       slice_eq(name, SLICE("transfer-encoding"));
}

/* One byte of a trailer field's name, or the colon after it. */
static enum http_err_code trailer_name(struct http_body *b, char c)
{
	if (c == ':') {
		b->state = TRAILER_VALUE;
		return name_forbidden(b) ? HTTP_E_TRAILER : 0;
	}
	if (!http_is_token(slice_of(&c, 1)))
		return HTTP_E_TRAILER;
	if (b->nname < sizeof(b->name))
		b->name[b->nname++] = (char)(c >= 'A' && c <= 'Z' ? c | 0x20 : c);
	return 0;
}

static bool is_text(unsigned char c)
{
	return c == '\t' || (c >= ' ' && c != 0x7f);
}

static enum http_err_code expect(struct http_body *b, char c, char wanted, enum body_state next,
				 enum http_err_code code)
{
	b->state = (uint8_t)next;
	return c == wanted ? 0 : code;
}

/* One byte outside the payload (RFC 9112 section 7.1). */
static enum http_err_code framing_byte(struct http_body *b, char c)
{
	int digit;

	switch ((enum body_state)b->state) {
	case CHUNK_FIRST:
	case CHUNK_SIZE:
		digit = hex((unsigned char)c);
		if (digit >= 0) {
			if (b->left >> 59 || ++b->line > 16)
				return HTTP_E_CHUNK;
			b->left = b->left << 4 | (unsigned)digit;
			b->state = CHUNK_SIZE;
			return 0;
		}
		if (b->state == CHUNK_FIRST)
			return HTTP_E_CHUNK;
		if (c == ';') {
			b->state = CHUNK_EXT;
			return 0;
		}
		return expect(b, c, '\r', CHUNK_SIZE_LF, HTTP_E_CHUNK);
	case CHUNK_EXT:
		if (c == '\r')
			b->state = CHUNK_SIZE_LF;
		else if (!is_text((unsigned char)c) || ++b->line > HTTP_CHUNK_LINE_MAX)
			return HTTP_E_CHUNK;
		return 0;
	case CHUNK_SIZE_LF:
		b->line = 0;
		return expect(b, c, '\n', b->left ? CHUNK_DATA : TRAILER_FIRST, HTTP_E_CHUNK);
	case CHUNK_DATA_CR:
		return expect(b, c, '\r', CHUNK_DATA_LF, HTTP_E_CHUNK);
	case CHUNK_DATA_LF:
		return expect(b, c, '\n', CHUNK_FIRST, HTTP_E_CHUNK);
	case TRAILER_FIRST:
		if (c == '\r') {
			b->state = LAST_LF;
			return 0;
		}
		b->nname = 0;
		b->state = TRAILER_NAME;
		if (c == ':')
			return HTTP_E_TRAILER;
		/* fall through */
	case TRAILER_NAME:
		return ++b->line > HTTP_TRAILERS_MAX ? HTTP_E_TRAILER : trailer_name(b, c);
	case TRAILER_VALUE:
		if (c == '\r')
			b->state = TRAILER_LF;
		else if (!is_text((unsigned char)c) || ++b->line > HTTP_TRAILERS_MAX)
			return HTTP_E_TRAILER;
		return 0;
	case TRAILER_LF:
		return expect(b, c, '\n', TRAILER_FIRST, HTTP_E_TRAILER);
	case LAST_LF:
		return expect(b, c, '\n', BODY_DONE, HTTP_E_TRAILER);
	case BODY_DONE:
	case BODY_DATA:
	case CHUNK_DATA:
		break;
	}
	BUG_ON(true);
}

ssize_t http_body_next(struct http_body *b, struct slice in, struct slice *out,
		       struct http_err *err)
{
	size_t i = 0;

	*out = (struct slice){ NULL, 0 };
	while (i < in.n && b->state != BODY_DONE) {
		if (b->state == BODY_DATA || b->state == CHUNK_DATA) {
			size_t n = MIN(b->left, in.n - i);
			*out = slice_of(in.p + i, n);
			if (b->how != HTTP_CLOSE)
				b->left -= n;
			if (b->left == 0)
				b->state = b->state == CHUNK_DATA ? CHUNK_DATA_CR : BODY_DONE;
			return (ssize_t)(i + n);
		}
		enum http_err_code code = framing_byte(b, in.p[i]);
		if (code) {
			*err = (struct http_err){ code, i };
			return -1;
		}
		i++;
	}
	return (ssize_t)i;
}

ssize_t http_body_check(struct http_body *b, struct slice in, struct http_err *err)
{
	struct slice payload;
	size_t used = 0;

	while (used < in.n && b->state != BODY_DONE) {
		ssize_t n = http_body_next(b, slice_after(in, used), &payload, err);
		if (n < 0) {
			err->at += used;
			return -1;
		}
		used += (size_t)n;
	}
	return (ssize_t)used;
}
