#include "http/http.h"

#include <errno.h>

/* Field values, targets and reasons: no byte that could end a line. */
static bool is_text(struct slice s)
{
	for (size_t i = 0; i < s.n; i++) {
		unsigned char c = (unsigned char)s.p[i];
		if ((c < ' ' && c != '\t') || c == 0x7f)
			return false;
	}
	return true;
}

static int put_parts(struct buf *b, const struct slice *part, size_t n)
{
	size_t total = 0;

	for (size_t i = 0; i < n; i++)
		total += part[i].n;
	struct iovec room = buf_room_for(b, total);
	if (room.iov_len < total)
		return -ENOBUFS;
	char *p = room.iov_base;
	for (size_t i = 0; i < n; i++) {
		if (part[i].n)
			memcpy(p, part[i].p, part[i].n);
		p += part[i].n;
	}
	buf_added(b, total);
	return 0;
}

static int put_request(struct buf *b, struct slice method, struct slice target, uint8_t minor)
{
	if (!http_is_token(method) || target.n == 0 || !is_text(target) ||
	    memchr(target.p, ' ', target.n) || memchr(target.p, '\t', target.n))
		return -EINVAL;
	return put_parts(
	    b,
	    (struct slice[]){ method, SLICE(" "), target,
			      minor ? SLICE(" HTTP/1.1\r\n") : SLICE(" HTTP/1.0\r\n") },
	    4);
}

int http_put_request(struct buf *b, struct slice method, struct slice target)
{
	return put_request(b, method, target, 1);
}

static int put_status(struct buf *b, int status, struct slice reason, uint8_t minor)
{
	if (status < 100 || status > 999 || !is_text(reason))
		return -EINVAL;
	char code[] = { (char)('0' + status / 100), (char)('0' + status / 10 % 10),
			(char)('0' + status % 10), ' ' };
	return put_parts(b,
			 (struct slice[]){ minor ? SLICE("HTTP/1.1 ") : SLICE("HTTP/1.0 "),
					   slice_of(code, sizeof(code)), reason, SLICE("\r\n") },
			 4);
}

int http_put_status(struct buf *b, int status, struct slice reason)
{
	return put_status(b, status, reason.n ? reason : slice_str(http_status_text(status)), 1);
}

int http_put_field(struct buf *b, struct slice name, struct slice value)
{
	if (!http_is_token(name) || !is_text(value))
		return -EINVAL;
	return put_parts(b, (struct slice[]){ name, SLICE(": "), value, SLICE("\r\n") }, 4);
}

int http_put_number(struct buf *b, struct slice name, uint64_t value)
{
	char digits[20], *p = digits + sizeof(digits);
	do
		*--p = (char)('0' + value % 10);
	while ((value /= 10) > 0);
	return http_put_field(b, name, slice_of(p, (size_t)(digits + sizeof(digits) - p)));
}

int http_put_end(struct buf *b)
{
	return buf_put(b, SLICE("\r\n"));
}

static const struct http_edit *edit_of(const struct http_edit *edit, size_t n, struct slice name)
{
	for (size_t i = 0; i < n; i++)
		if (slice_eqi(edit[i].name, name))
			return &edit[i];
	return NULL;
}

/* Has the head a field of that name before the i-th? */
static bool occurs_before(const struct http_head *h, size_t i, struct slice name)
{
	while (i-- > 0)
		if (slice_eqi(h->field[i].name, name))
			return true;
	return false;
}

static int put_fields(struct buf *b, const struct http_head *h, const struct http_edit *edit,
		      size_t n)
{
	int r = 0;

	for (size_t i = 0; i < h->nfields && r == 0; i++) {
		const struct http_field *f = &h->field[i];
		const struct http_edit *e = edit_of(edit, n, f->name);
		if (!e)
			r = http_put_field(b, f->name, f->value);
		else if (e->value.p && !occurs_before(h, i, f->name))
			r = http_put_field(b, f->name, e->value);
	}
	for (size_t i = 0; i < n && r == 0; i++)
		if (edit[i].value.p && !occurs_before(h, h->nfields, edit[i].name))
			r = http_put_field(b, edit[i].name, edit[i].value);
	return r;
}

int http_put_head(struct buf *b, const struct http_head *h, const struct http_edit *edit, size_t n)
{
	size_t before = b->len;
	int r = h->response ? put_status(b, h->status, h->reason, h->minor)
			    : put_request(b, h->method, h->target, h->minor);
	if (r == 0)
		r = put_fields(b, h, edit, n);
	if (r == 0)
		r = http_put_end(b);
	if (r < 0)
		b->len = before;
	return r;
}

int http_put_chunk(struct buf *b, struct slice data)
{
	char size[24];

	if (data.n == 0)
		return 0;
	snprintf(size, sizeof(size), "%zx\r\n", data.n);
	return put_parts(b, (struct slice[]){ slice_str(size), data, SLICE("\r\n") }, 3);
}

int http_put_last_chunk(struct buf *b)
{
	return buf_put(b, SLICE("0\r\n\r\n"));
}

int http_put_message(struct buf *b, const char *text)
{
	size_t before = b->len;
	int r = buf_puts(b, "{\"message\":\"");

	for (; *text && r == 0; text++) {
		unsigned char c = (unsigned char)*text;
		if (c == '"' || c == '\\')
			r = buf_printf(b, "\\%c", c);
		else if (c < ' ')
			r = buf_printf(b, "\\u%04x", c);
		else
			r = buf_put(b, slice_of(text, 1));
	}
	if (r == 0)
		r = buf_puts(b, "\"}\n");
	if (r < 0)
		b->len = before;
	return r;
}

const char *http_status_text(int status)
{
	switch (status) {
	case 100:
		return "Continue";
	case 101:
		return "Switching Protocols";
	case 200:
		return "OK";
	case 201:
		return "Created";
	case 202:
		return "Accepted";
	case 204:
		return "No Content";
	case 304:
		return "Not Modified";
	case 400:
		return "Bad Request";
	case 401:
		return "Unauthorized";
	case 403:
		return "Forbidden";
	case 404:
		return "Not Found";
	case 405:
		return "Method Not Allowed";
	case 406:
		return "Not Acceptable";
	case 407:
		return "Proxy Authentication Required";
	case 408:
		return "Request Timeout";
	case 409:
		return "Conflict";
	case 410:
		return "Gone";
	case 411:
		return "Length Required";
	case 413:
		return "Content Too Large";
	case 415:
		return "Unsupported Media Type";
	case 417:
		return "Expectation Failed";
	case 421:
		return "Misdirected Request";
	case 422:
		return "Unprocessable Content";
	case 426:
		return "Upgrade Required";
	case 429:
		return "Too Many Requests";
	case 431:
		return "Request Header Fields Too Large";
	case 500:
		return "Internal Server Error";
	case 501:
		return "Not Implemented";
	case 502:
		return "Bad Gateway";
	case 503:
		return "Service Unavailable";
	case 504:
		return "Gateway Timeout";
	case 505:
		return "HTTP Version Not Supported";
	case 507:
		return "Insufficient Storage";
	default:
		return "Status";
	}
}
