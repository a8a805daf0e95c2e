#include "proto/tstunnel/url.h"

#include <errno.h>
#include <limits.h>

#include "http/url.h"

struct parse {
	struct tsurl *u;
	char *err;
	size_t errlen;
};

static const struct {
	struct slice prefix; /* behind the first slash */
	enum addr_kind kind;
} targets[] = { { SLICE("tcp:"), ADDR_TCP },
		{ SLICE("udp:"), ADDR_UDP },
		{ SLICE("unix:"), ADDR_UNIX } };

static int fail(const struct parse *p, const char *fmt, ...) PRINTF_LIKE(2, 3);

static int fail(const struct parse *p, const char *fmt, ...)
{
	char what[256];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	snprintf(p->err, p->errlen, "tstunnel URL: %s", what);
	return -EINVAL;
}

/* s with its escapes undone, to be free()d; NULL when one is malformed or stands for NUL. */
static char *decode(struct slice s)
{
	char *text = xslicedup(s);
	ssize_t n = http_percent_decode(text, s.n, s, false);
	if (n < 0) {
		free(text);
		return NULL;
	}
	text[n] = '\0';
	return text;
}

/* "HOST", "HOST:PORT" or "[V6]:PORT"; port 0 when there is none. whose: "server" or "target". */
static int parse_authority(const struct parse *p, const char *whose, struct slice s,
			   struct addr *to)
{
	struct http_url parts = { 0 };
	struct http_err bad;

	if (s.n == 0 || s.p[0] == ':')
		return fail(p, "%s host is empty", whose);
	if (http_authority_parse(&parts, s, &bad) < 0) {
		if (bad.at > 0 && s.p[bad.at - 1] == ':')
			return fail(p, "%s port \"%.*s\" must be 1..65535", whose,
				    SLICE_FMT(slice_after(s, bad.at)));
		return fail(p, "%s host is malformed in \"%.*s\"", whose, SLICE_FMT(s));
	}
	if (parts.host.n >= sizeof(to->host))
		return fail(p, "%s host is too long", whose);
	if (memchr(parts.host.p, '%', parts.host.n))
		return fail(p, "%s host is malformed in \"%.*s\"", whose, SLICE_FMT(s));
	memcpy(to->host, parts.host.p, parts.host.n);
	to->port = parts.port;
	return 0;
}

bool tsurl_cut_range(struct slice *s, struct slice *to)
{
	size_t colon = s->n, dash;
	while (colon > 0 && s->p[colon - 1] != ':')
		colon--;
	for (dash = colon; dash < s->n && s->p[dash] >= '0' && s->p[dash] <= '9';)
		dash++;
	if (colon == 0 || dash == colon || dash == s->n || s->p[dash] != '-')
		return false;
	*to = slice_after(*s, dash + 1);
	*s = slice_of(s->p, dash);
	return true;
}

static bool has_dotdot(struct slice path)
{
	struct slice segment;
	while (path.n) {
		slice_cut(path, '/', &segment, &path);
		if (slice_eq(segment, SLICE("..")))
			return true;
	}
	return false;
}

/* "HOST:PORT", "HOST:FROM-TO" or "HOST:0". */
static int parse_ports(const struct parse *p, struct slice s)
{
	struct addr *to = &p->u->target;
	struct slice last = { NULL, 0 };
	bool range = tsurl_cut_range(&s, &last);
	bool any = !range && slice_ends(s, SLICE(":0"));
	uint64_t n;

	if (any)
		s.n -= strlen(":0");
	if (parse_authority(p, "target", s, to) < 0)
		return -EINVAL;
	if (any && to->port)
		return fail(p, "target host is malformed in \"%.*s:0\"", SLICE_FMT(s));
	if (to->port == 0 && !any)
		return fail(p, "target port is missing in \"%.*s\"", SLICE_FMT(s));
	n = to->port;
	if (range && (slice_u64(last, UINT16_MAX, &n) < 0 || n < to->port))
		return fail(p, "target port range \"%u-%.*s\" must end in %u..65535", to->port,
			    SLICE_FMT(last), to->port);
	p->u->target_last = (uint16_t)n;
	return 0;
}

static int parse_target(const struct parse *p, enum addr_kind kind, struct slice s)
{
	struct addr *to = &p->u->target;

	to->kind = kind;
	p->u->has_target = true;
	if (kind != ADDR_UNIX)
		return parse_ports(p, s);
	if (s.n == 0 || s.p[0] != '/')
		return fail(p, "target socket \"%.*s\" is relative: want /unix:/PATH",
			    SLICE_FMT(s));
	if (has_dotdot(s))
		return fail(p, "target socket has \"..\"");
	if (s.n >= sizeof(to->path))
		return fail(p, "target socket is longer than %zu bytes", sizeof(to->path) - 1);
	memcpy(to->path, s.p, s.n);
	return 0;
}

/* Without empty and "." segments. */
static int parse_remote(const struct parse *p, struct slice s)
{
	char *path = xmalloc(s.n + 1), *end = path;

	p->u->path = path;
	if (has_dotdot(s))
		return fail(p, "path has \"..\"");
	while (s.n) {
		struct slice segment;
		slice_cut(s, '/', &segment, &s);
		if (segment.n == 0 || slice_eq(segment, SLICE(".")))
			continue;
		*end++ = '/';
		memcpy(end, segment.p, segment.n);
		end += segment.n;
	}
	*end = '\0';
	if (end == path)
		return fail(p, "path is missing: want /tcp:HOST:PORT, /udp:HOST:PORT, /unix:/PATH "
			       "or /REMOTE/PATH");
	if (end - path >= PATH_MAX)
		return fail(p, "path is longer than %d bytes", PATH_MAX - 1);
	return 0;
}

static int parse_path(const struct parse *p, struct slice encoded)
{
	char *text = decode(encoded);
	struct slice path = slice_str(text);
	int r;

	if (!text)
		return fail(p, "malformed escape in the path");
	for (size_t i = 0; i < ARRAY_LEN(targets); i++) {
		/* As written: an escaped colon makes it a name like any other. */
		struct slice prefix = targets[i].prefix;
		if (encoded.n && slice_starts(slice_after(encoded, 1), prefix)) {
			r = parse_target(p, targets[i].kind, slice_after(path, prefix.n + 1));
			goto out;
		}
	}
	r = parse_remote(p, path);
out:
	free(text);
	return r;
}

static int parse_insecure(const struct parse *p, struct slice value)
{
	if (!slice_eq(value, SLICE("true")) && !slice_eq(value, SLICE("false")))
		return fail(p, "parameter \"insecure\" must be true or false");
	p->u->insecure = value.n == strlen("true");
	return 0;
}

static int parse_query(const struct parse *p, struct slice query)
{
	struct tsurl *u = p->u;
	const struct {
		const char *name;
		char **to;
	} files[] = { { "cert", &u->cert }, { "key", &u->key }, { "ca", &u->ca } };
	struct slice key, value;
	bool insecure_seen = false;

	while (http_query_next(&query, &key, &value)) {
		char **to = NULL;
		for (size_t i = 0; i < ARRAY_LEN(files); i++)
			if (slice_eq(key, slice_str(files[i].name)))
				to = files[i].to;
		bool insecure = slice_eq(key, SLICE("insecure"));
		if (!to && !insecure)
			return fail(p, "unknown parameter \"%.*s\"", SLICE_FMT(key));
		if (to ? *to != NULL : insecure_seen)
			return fail(p, "parameter \"%.*s\" is given twice", SLICE_FMT(key));
		if (insecure) {
			insecure_seen = true;
			if (parse_insecure(p, value) < 0)
				return -EINVAL;
			continue;
		}
		if (value.n == 0)
			return fail(p, "parameter \"%.*s\" is empty", SLICE_FMT(key));
		*to = decode(value);
		if (!*to)
			return fail(p, "malformed escape in parameter \"%.*s\"", SLICE_FMT(key));
	}
	if (u->cert && !u->key)
		return fail(p, "parameter \"cert\" needs \"key\"");
	if (u->key && !u->cert)
		return fail(p, "parameter \"key\" needs \"cert\"");
	return 0;
}

static int parse(const struct parse *p, struct slice text)
{
	struct slice rest, authority, path, query, scheme;
	size_t n = 0;

	if (text.n > TSURL_MAX)
		return fail(p, "longer than %d bytes", TSURL_MAX);
	for (size_t i = 0; i < text.n; i++) {
		unsigned char c = (unsigned char)text.p[i];
		if (c <= ' ' || c == 0x7F)
			return fail(p, "byte %zu must be written as %%%02X", i, c);
	}
	if (text.n && memchr(text.p, '#', text.n))
		return fail(p, "a fragment (#) means nothing here");
	slice_cut(text, ':', &scheme, &rest);
	if (!slice_eqi(scheme, SLICE("tstunnel")) || !slice_starts(rest, SLICE("//")))
		return fail(p, "must start with tstunnel://");
	rest = slice_after(rest, 2);
	while (n < rest.n && rest.p[n] != '/' && rest.p[n] != '?')
		n++;
	authority = slice_of(rest.p, n);
	slice_cut(slice_after(rest, n), '?', &path, &query);

	if (n && memchr(authority.p, '@', n))
		return fail(p, "a user name means nothing here");
	p->u->server.kind = ADDR_TCP;
	if (parse_authority(p, "server", authority, &p->u->server) < 0 ||
	    parse_query(p, query) < 0 || parse_path(p, path) < 0)
		return -EINVAL;
	if (p->u->server.port == 0)
		p->u->server.port = p->u->cert ? 443 : 80;
	return 0;
}

int tsurl_parse(struct tsurl *u, struct slice text, char *err, size_t errlen)
{
	struct parse p = { .u = u, .err = err, .errlen = errlen };

	*u = (struct tsurl){ 0 };
	if (parse(&p, text) == 0)
		return 0;
	tsurl_end(u);
	return -EINVAL;
}

void tsurl_end(struct tsurl *u)
{
	free(u->path);
	free(u->cert);
	free(u->key);
	free(u->ca);
	*u = (struct tsurl){ 0 };
}

/* s with what would end its part, or could be mistaken, as %XX. */
static int put_escaped(struct buf *b, struct slice s, const char *keep)
{
	int r = 0;
	for (size_t i = 0; i < s.n && r == 0; i++) {
		if (strchr(keep, s.p[i]))
			r = buf_put(b, slice_of(s.p + i, 1));
		else
			r = http_percent_put(b, slice_of(s.p + i, 1));
	}
	return r;
}

static int put_addr(struct buf *b, const struct addr *a)
{
	return buf_printf(b, strchr(a->host, ':') ? "[%s]:%u" : "%s:%u", a->host, a->port);
}

static int put_where(struct buf *b, const struct tsurl *u)
{
	const char *keep = "/:@=,+";
	int r;

	if (!u->has_target) {
		for (size_t i = 0; i < ARRAY_LEN(targets); i++)
			if (slice_starts(slice_str(u->path + 1), targets[i].prefix))
				keep = "/";
		return put_escaped(b, slice_str(u->path), keep);
	}
	r = buf_puts(b, "/");
	for (size_t i = 0; i < ARRAY_LEN(targets) && r == 0; i++)
		if (targets[i].kind == u->target.kind)
			r = buf_put(b, targets[i].prefix);
	if (r < 0)
		return r;
	if (u->target.kind == ADDR_UNIX)
		return put_escaped(b, slice_str(u->target.path), keep);
	r = put_addr(b, &u->target);
	if (r == 0 && u->target_last > u->target.port)
		r = buf_printf(b, "-%u", u->target_last);
	return r;
}

int tsurl_put(struct buf *b, const struct tsurl *u)
{
	const struct {
		const char *name, *value;
	} params[] = { { "cert", u->cert },
		       { "key", u->key },
		       { "ca", u->ca },
		       { "insecure", u->insecure ? "true" : NULL } };
	const char *separator = "?";
	int r = buf_puts(b, "tstunnel://");

	if (r == 0)
		r = put_addr(b, &u->server);
	if (r == 0)
		r = put_where(b, u);
	for (size_t i = 0; i < ARRAY_LEN(params) && r == 0; i++) {
		if (!params[i].value)
			continue;
		r = buf_printf(b, "%s%s=", separator, params[i].name);
		if (r == 0)
			r = put_escaped(b, slice_str(params[i].value), "/:@,+");
		separator = "&";
	}
	return r;
}
