#include "http/http.h"

#include "http/url.h"

#include <errno.h>

static const uint8_t token_char[256] = {
	['a' ... 'z'] = 1, ['A' ... 'Z'] = 1, ['0' ... '9'] = 1, ['!'] = 1, ['#'] = 1, ['$'] = 1,
	['%'] = 1,         ['&'] = 1,         ['\''] = 1,        ['*'] = 1, ['+'] = 1, ['-'] = 1,
	['.'] = 1,         ['^'] = 1,         ['_'] = 1,         ['`'] = 1, ['|'] = 1, ['~'] = 1,
};

/* Bytes that a head must not have, CR and LF in their place apart. */
static const uint8_t control_char[256] = {
	[0 ... 8] = 1,
	[11 ... 12] = 1,
	[14 ... 31] = 1,
	[127] = 1,
};

static const struct {
	const char *text;
	int status;
} errors[HTTP_E_LAST] = {
	[0] = { "no error", 400 },
	[HTTP_E_BYTE] = { "control byte, bare CR or bare LF in the message head", 400 },
	[HTTP_E_LINE] = { "malformed start line", 400 },
	[HTTP_E_TARGET] = { "malformed request target", 400 },
	[HTTP_E_VERSION] = { "HTTP version not supported", 505 },
	[HTTP_E_FIELD] = { "malformed header field", 400 },
	[HTTP_E_FOLD] = { "folded header field", 400 },
	[HTTP_E_HOST] = { "missing, repeated or malformed Host", 400 },
	[HTTP_E_LENGTH] = { "repeated or malformed Content-Length", 400 },
	[HTTP_E_FRAMING] = { "ambiguous body framing", 400 },
	[HTTP_E_CODING] = { "unsupported transfer coding", 501 },
	[HTTP_E_LARGE] = { "message head too large", 431 },
	[HTTP_E_FIELDS] = { "too many header fields", 431 },
	[HTTP_E_CHUNK] = { "malformed chunk", 400 },
	[HTTP_E_TRAILER] = { "malformed or forbidden trailer field", 400 },
	[HTTP_E_URL] = { "malformed URL", 400 },
};

const char *http_err_text(enum http_err_code code)
{
	return errors[code < HTTP_E_LAST ? code : 0].text;
}

int http_err_status(enum http_err_code code)
{
	return errors[code < HTTP_E_LAST ? code : 0].status;
}

static int refuse(struct http_err *err, enum http_err_code code, size_t at)
{
	err->code = code;
	err->at = at;
	return -1;
}

bool http_is_token(struct slice s)
{
	for (size_t i = 0; i < s.n; i++)
		if (!token_char[(unsigned char)s.p[i]])
			return false;
	return s.n > 0;
}

static struct slice trim(struct slice s)
{
	while (s.n && (s.p[0] == ' ' || s.p[0] == '\t'))
		s = slice_after(s, 1);
	while (s.n && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
		s.n--;
	return s;
}

/* Looks for the empty line from in[seen] on and refuses bytes that no head may have, so that what
 * follows can rely on every CR being followed by LF and every LF following a CR. */
static ssize_t head_end(struct slice in, size_t seen, size_t limit, struct http_err *err)
{
	size_t n = MIN(in.n, limit);

	for (size_t i = seen; i < n; i++) {
		unsigned char c = (unsigned char)in.p[i];
		bool after_cr = i > 0 && in.p[i - 1] == '\r';
		if (i == 0 && !token_char[c])
			return refuse(err, HTTP_E_LINE, 0);
		if (after_cr != (c == '\n'))
			return refuse(err, HTTP_E_BYTE, after_cr ? i - 1 : i);
		if (control_char[c])
			return refuse(err, HTTP_E_BYTE, i);
		if (c == '\n' && i >= 3 && in.p[i - 2] == '\n')
			return (ssize_t)i + 1;
	}
	return in.n >= limit ? refuse(err, HTTP_E_LARGE, limit) : 0;
}

/* Takes the line at *at, which ends with CRLF. */
static struct slice next_line(struct slice in, size_t *at)
{
	const char *p = in.p + *at;
	const char *cr = memchr(p, '\r', in.n - *at);
	*at = (size_t)(cr - in.p) + 2;
	return slice_of(p, (size_t)(cr - p));
}

static int version_parse(struct http_head *h, struct slice v, size_t at, struct http_err *err)
{
	if (v.n != 8 || !slice_starts(v, SLICE("HTTP/")) || v.p[6] != '.' || v.p[5] < '0' ||
	    v.p[5] > '9' || v.p[7] < '0' || v.p[7] > '9')
		return refuse(err, HTTP_E_LINE, at);
	if (v.p[5] != '1' || v.p[7] > '1')
		return refuse(err, HTTP_E_VERSION, at);
	h->minor = (uint8_t)(v.p[7] - '0');
	return 0;
}

static int target_parse(struct http_head *h, size_t at, struct http_err *err)
{
	struct http_url url;
	struct http_err e;
	bool connect = slice_eq(h->method, SLICE("CONNECT"));

	for (size_t i = 0; i < h->target.n; i++)
		if (h->target.p[i] < '!' || h->target.p[i] > '~' || h->target.p[i] == '#')
			return refuse(err, HTTP_E_TARGET, at + i);
	if (h->target.p[0] == '/') {
		h->form = HTTP_ORIGIN;
		return 0;
	}
	if (slice_eq(h->target, SLICE("*"))) {
		h->form = HTTP_ASTERISK;
		return slice_eq(h->method, SLICE("OPTIONS")) ? 0 : refuse(err, HTTP_E_TARGET, at);
	}
	if (connect) {
		h->form = HTTP_AUTHORITY;
		if (http_authority_parse(&url, h->target, &e) < 0)
			return refuse(err, HTTP_E_TARGET, at + e.at);
		return url.host.n && url.port ? 0 : refuse(err, HTTP_E_TARGET, at);
	}
	h->form = HTTP_ABSOLUTE;
	if (http_url_parse(&url, h->target, &e) < 0)
		return refuse(err, HTTP_E_TARGET, at + e.at);
	return url.host.n && !url.userinfo.p ? 0 : refuse(err, HTTP_E_TARGET, at);
}

/* request-line = method SP request-target SP HTTP-version */
static int request_line(struct http_head *h, struct slice line, struct http_err *err)
{
	struct slice rest, version;

	if (!slice_cut(line, ' ', &h->method, &rest) || !http_is_token(h->method))
		return refuse(err, HTTP_E_LINE, 0);
	size_t at = h->method.n + 1;
	if (!slice_cut(rest, ' ', &h->target, &version) || h->target.n == 0)
		return refuse(err, HTTP_E_LINE, at);
	if (version_parse(h, version, at + h->target.n + 1, err) < 0)
		return -1;
	return target_parse(h, at, err);
}

/* status-line = HTTP-version SP status-code SP [ reason-phrase ] */
static int status_line(struct http_head *h, struct slice line, struct http_err *err)
{
	struct slice version, rest, code;
	uint64_t status;

	slice_cut(line, ' ', &version, &rest);
	if (version_parse(h, version, 0, err) < 0)
		return -1;
	if (!slice_cut(rest, ' ', &code, &h->reason) || code.n != 3 ||
	    slice_u64(code, 999, &status) < 0 || status < 100)
		return refuse(err, HTTP_E_LINE, 9);
	h->status = (uint16_t)status;
	return 0;
}

/* field-line = field-name ":" OWS field-value OWS */
static int field_parse(struct http_head *h, struct slice line, size_t at, struct http_err *err)
{
	struct http_field f;

	if (line.p[0] == ' ' || line.p[0] == '\t')
		return refuse(err, HTTP_E_FOLD, at);
	if (!slice_cut(line, ':', &f.name, &f.value) || !http_is_token(f.name))
		return refuse(err, HTTP_E_FIELD, at);
	if (h->nfields == HTTP_FIELDS)
		return refuse(err, HTTP_E_FIELDS, at);
	f.value = trim(f.value);
	h->field[h->nfields++] = f;
	return 0;
}

static int host_check(const struct http_head *h, struct slice in, struct http_err *err)
{
	bool seen = false;

	for (size_t i = 0; i < h->nfields; i++) {
		const struct http_field *f = &h->field[i];
		struct http_url url;
		struct http_err e;
		if (!slice_eqi(f->name, SLICE("host")))
			continue;
		if (seen || http_authority_parse(&url, f->value, &e) < 0)
			return refuse(err, HTTP_E_HOST, (size_t)(f->value.p - in.p));
		seen = true;
	}
	return seen || h->minor == 0 ? 0 : refuse(err, HTTP_E_HOST, in.n);
}

/* RFC 9112 section 6.1: a coding list that ends in chunked is well-formed, only not implemented. */
static enum http_err_code coding_error(struct slice value)
{
	struct slice last = { NULL, 0 }, element;
	while (http_list_next(&value, &element))
		last = element;
	return slice_eqi(last, SLICE("chunked")) ? HTTP_E_CODING : HTTP_E_FRAMING;
}

static int framing_parse(struct http_head *h, struct slice in, struct http_err *err)
{
	size_t at = 0;

	for (size_t i = 0; i < h->nfields; i++) {
		const struct http_field *f = &h->field[i];
		size_t value_at = (size_t)(f->value.p - in.p);
		if (slice_eqi(f->name, SLICE("content-length"))) {
			if (h->has_length || slice_u64(f->value, INT64_MAX, &h->length) < 0)
				return refuse(err, HTTP_E_LENGTH, value_at);
			h->has_length = true;
			at = value_at;
		} else if (slice_eqi(f->name, SLICE("transfer-encoding"))) {
			if (h->chunked || h->minor == 0)
				return refuse(err, HTTP_E_FRAMING, value_at);
			if (!slice_eqi(f->value, SLICE("chunked")))
				return refuse(err, coding_error(f->value), value_at);
			h->chunked = true;
			at = value_at;
		}
	}
	if (h->chunked && h->has_length)
		return refuse(err, HTTP_E_FRAMING, at);
	/* These have no body: framing fields on them mean different things to different readers. */
	bool bodiless = h->response ? h->status < 200 || h->status == 204
				    : slice_eq(h->method, SLICE("CONNECT"));
	if (bodiless && (h->chunked || h->length > 0))
		return refuse(err, HTTP_E_FRAMING, at);
	return 0;
}

static ssize_t head_parse(struct http_head *h, bool response, struct slice in, size_t seen,
			  size_t limit, struct http_err *err)
{
	ssize_t n = head_end(in, seen, MIN(limit, HTTP_HEAD_MAX), err);
	size_t at = 0;
	int r;

	if (n <= 0)
		return n;
	in.n = (size_t)n;
	memset(h, 0, offsetof(struct http_head, field));
	h->response = response;
	struct slice line = next_line(in, &at);
	r = response ? status_line(h, line, err) : request_line(h, line, err);
	while (r == 0 && at < in.n - 2) {
		size_t start = at;
		line = next_line(in, &at);
		r = field_parse(h, line, start, err);
	}
	if (r == 0 && !response)
		r = host_check(h, in, err);
	if (r == 0)
		r = framing_parse(h, in, err);
	return r == 0 ? n : -1;
}

ssize_t http_request_parse(struct http_head *h, struct slice in, size_t seen, size_t limit,
			   struct http_err *err)
{
	return head_parse(h, false, in, seen, limit, err);
}

ssize_t http_response_parse(struct http_head *h, struct slice in, size_t seen, size_t limit,
			    struct http_err *err)
{
	return head_parse(h, true, in, seen, limit, err);
}

int http_preface(struct slice in)
{
	struct slice preface = SLICE("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
	if (slice_starts(in, preface))
		return 1;
	return slice_starts(preface, in) ? 0 : -1;
}

struct slice http_field_get(const struct http_head *h, struct slice name)
{
	for (size_t i = 0; i < h->nfields; i++)
		if (slice_eqi(h->field[i].name, name))
			return h->field[i].value;
	return (struct slice){ NULL, 0 };
}

bool http_list_next(struct slice *rest, struct slice *element)
{
	while (rest->n) {
		slice_cut(*rest, ',', element, rest);
		*element = trim(*element);
		if (element->n)
			return true;
	}
	return false;
}

bool http_field_has_token(const struct http_head *h, struct slice name, struct slice token)
{
	for (size_t i = 0; i < h->nfields; i++) {
		struct slice rest = h->field[i].value, element;
		if (!slice_eqi(h->field[i].name, name))
			continue;
		while (http_list_next(&rest, &element))
			if (slice_eqi(element, token))
				return true;
	}
	return false;
}

struct slice http_head_host(const struct http_head *h)
{
	struct slice rest = h->target;
	size_t n = 0;

	if (h->form == HTTP_AUTHORITY)
		return h->target;
	if (h->form != HTTP_ABSOLUTE)
		return http_field_get(h, SLICE("host"));
	slice_cut(h->target, ':', &(struct slice){ NULL, 0 }, &rest);
	rest = slice_after(rest, 2);
	while (n < rest.n && rest.p[n] != '/' && rest.p[n] != '?')
		n++;
	return slice_of(rest.p, n);
}

bool http_keep_alive(const struct http_head *h)
{
	struct slice connection = SLICE("connection");
	if (http_field_has_token(h, connection, SLICE("close")))
		return false;
	return h->minor > 0 || http_field_has_token(h, connection, SLICE("keep-alive"));
}

bool http_wants_upgrade(const struct http_head *h)
{
	return h->minor > 0 && http_field_get(h, SLICE("upgrade")).p &&
	       http_field_has_token(h, SLICE("connection"), SLICE("upgrade"));
}
