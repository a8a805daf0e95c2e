#include "http/url.h"

#include <arpa/inet.h>
#include <errno.h>

#define UNRESERVED                                                                                 \
	['a' ... 'z'] = 1, ['A' ... 'Z'] = 1,                                                      \
		 ['0' ... '9'] = 1, ['-'] = 1, ['.'] = 1, ['_'] = 1, ['~'] = 1

static const uint8_t unreserved[256] = { UNRESERVED };

static int refuse(struct http_err *err, struct slice in, const char *at)
{
	err->code = HTTP_E_URL;
	err->at = (size_t)(at - in.p);
	return -1;
}

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The first byte of s that may not stand in a path or query, or NULL. Lenient about which visible
 * characters are there (people type filters={"type":…}), strict about escapes and the rest. */
static const char *bad_path_byte(struct slice s)
{
	for (size_t i = 0; i < s.n; i++) {
		char c = s.p[i];
		if (c <= ' ' || c >= 0x7f || c == '#')
			return s.p + i;
		if (c != '%')
			continue;
		if (s.n - i < 3 || hex(s.p[i + 1]) < 0 || hex(s.p[i + 2]) < 0)
			return s.p + i;
	}
	return NULL;
}

static const char *bad_host_byte(struct slice s)
{
	for (size_t i = 0; i < s.n; i++)
		if (!unreserved[(unsigned char)s.p[i]] && s.p[i] != '%')
			return s.p + i;
	return bad_path_byte(s);
}

static bool is_ipv6(struct slice s)
{
	char text[INET6_ADDRSTRLEN];
	struct in6_addr addr;
	if (s.n >= sizeof(text))
		return false;
	memcpy(text, s.p, s.n);
	text[s.n] = '\0';
	return strlen(text) == s.n && inet_pton(AF_INET6, text, &addr) == 1;
}

int http_authority_parse(struct http_url *u, struct slice in, struct http_err *err)
{
	struct slice rest, port;
	const char *bad;
	uint64_t number;

	u->host = u->userinfo = (struct slice){ NULL, 0 };
	u->ipv6 = false;
	u->port = 0;
	if (in.n && in.p[0] == '[') {
		const char *close = memchr(in.p, ']', in.n);
		if (!close)
			return refuse(err, in, in.p);
		u->host = slice_of(in.p + 1, (size_t)(close - in.p - 1));
		u->ipv6 = true;
		if (!is_ipv6(u->host))
			return refuse(err, in, in.p + 1);
		rest = slice_after(in, u->host.n + 2);
		if (rest.n == 0)
			return 0;
		if (rest.p[0] != ':')
			return refuse(err, in, rest.p);
		port = slice_after(rest, 1);
	} else {
		bool has_port = slice_cut(in, ':', &u->host, &port);
		bad = bad_host_byte(u->host);
		if (bad)
			return refuse(err, in, bad);
		if (!has_port)
			return 0;
		if (u->host.n == 0)
			return refuse(err, in, in.p);
	}
	if (port.n > 5 || slice_u64(port, 65535, &number) < 0 || number == 0)
		return refuse(err, in, port.p);
	u->port = (uint16_t)number;
	return 0;
}

int http_target_parse(struct http_url *u, struct slice in, struct http_err *err)
{
	const char *bad = bad_path_byte(in);

	memset(u, 0, sizeof(*u));
	if (bad)
		return refuse(err, in, bad);
	if (in.n == 0 || in.p[0] != '/')
		return refuse(err, in, in.p);
	slice_cut(in, '?', &u->path, &u->query);
	return 0;
}

static bool is_scheme(struct slice s)
{
	if (s.n == 0 || (s.p[0] | 0x20) < 'a' || (s.p[0] | 0x20) > 'z')
		return false;
	for (size_t i = 0; i < s.n; i++) {
		char c = s.p[i];
		bool letter = (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
		if (!letter && !(c >= '0' && c <= '9') && c != '+' && c != '-' && c != '.')
			return false;
	}
	return true;
}

int http_url_parse(struct http_url *u, struct slice in, struct http_err *err)
{
	struct slice scheme, rest, authority, before, after;
	size_t n = 0;

	memset(u, 0, sizeof(*u));
	if (!slice_cut(in, ':', &scheme, &rest) || !is_scheme(scheme))
		return refuse(err, in, in.p);
	if (!slice_starts(rest, SLICE("//")))
		return refuse(err, in, rest.p);
	rest = slice_after(rest, 2);
	while (n < rest.n && rest.p[n] != '/' && rest.p[n] != '?' && rest.p[n] != '#')
		n++;
	authority = slice_of(rest.p, n);
	before = (struct slice){ NULL, 0 };
	if (slice_cut(authority, '@', &before, &after)) {
		const char *bad = bad_path_byte(before);
		if (bad)
			return refuse(err, in, bad);
		authority = after;
	} else {
		before = (struct slice){ NULL, 0 };
	}
	if (http_authority_parse(u, authority, err) < 0) {
		err->at += (size_t)(authority.p - in.p);
		return -1;
	}
	u->scheme = scheme;
	u->userinfo = before;
	rest = slice_after(rest, n);
	const char *bad = bad_path_byte(rest);
	if (bad)
		return refuse(err, in, bad);
	slice_cut(rest, '?', &u->path, &u->query);
	return 0;
}

ssize_t http_percent_decode(char *out, size_t cap, struct slice in, bool plus)
{
	size_t n = 0;

	for (size_t i = 0; i < in.n; i++) {
		char c = in.p[i];
		if (c == '%') {
			if (in.n - i < 3 || hex(in.p[i + 1]) < 0 || hex(in.p[i + 2]) < 0)
				return -EINVAL;
			c = (char)(hex(in.p[i + 1]) << 4 | hex(in.p[i + 2]));
			i += 2;
		} else if (c == '+' && plus) {
			c = ' ';
		}
		if (c == '\0')
			return -EINVAL;
		if (n == cap)
			return -ENOBUFS;
		out[n++] = c;
	}
	return (ssize_t)n;
}

int http_percent_put(struct buf *b, struct slice s)
{
	static const char digits[] = "0123456789ABCDEF";
	size_t need = s.n;

	for (size_t i = 0; i < s.n; i++)
		need += unreserved[(unsigned char)s.p[i]] ? 0 : 2;
	if (need == 0)
		return 0;
	struct iovec room = buf_room_for(b, need);
	if (room.iov_len < need)
		return -ENOBUFS;
	char *out = room.iov_base;
	for (size_t i = 0; i < s.n; i++) {
		unsigned char c = (unsigned char)s.p[i];
		if (unreserved[c]) {
			*out++ = s.p[i];
			continue;
		}
		*out++ = '%';
		*out++ = digits[c >> 4];
		*out++ = digits[c & 15];
	}
	buf_added(b, need);
	return 0;
}

bool http_query_next(struct slice *query, struct slice *key, struct slice *value)
{
	struct slice piece;

	do {
		if (query->n == 0)
			return false;
		slice_cut(*query, '&', &piece, query);
	} while (piece.n == 0);
	slice_cut(piece, '=', key, value);
	return true;
}

/* Does the encoded key mean name? */
static bool key_is(struct slice key, struct slice name)
{
	size_t at = 0;

	for (size_t i = 0; i < key.n; at++) {
		size_t step = key.p[i] == '%' && key.n - i >= 3 ? 3 : 1;
		char c;
		if (at == name.n ||
		    http_percent_decode(&c, 1, slice_of(key.p + i, step), true) != 1 ||
		    c != name.p[at])
			return false;
		i += step;
	}
	return at == name.n;
}

ssize_t http_query_get(struct slice query, const char *key, char *out, size_t cap)
{
	struct slice k, v;

	while (http_query_next(&query, &k, &v)) {
		if (!key_is(k, slice_str(key)))
			continue;
		if (cap == 0)
			return -ENOBUFS;
		ssize_t n = http_percent_decode(out, cap - 1, v, true);
		if (n >= 0)
			out[n] = '\0';
		return n;
	}
	return -ENOENT;
}
