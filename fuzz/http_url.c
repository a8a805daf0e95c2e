/*
 * URLs, targets, percent coding and queries. Properties: a parsed URL put together again parses to
 * the same parts; what was encoded decodes to itself; slices stay inside the input.
 */
#include "http/url.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void inside(struct slice part, struct slice in)
{
	BUG_ON(part.p && (part.p < in.p || part.p + part.n > in.p + in.n));
}

static void put(struct buf *b, struct slice s)
{
	BUG_ON(buf_put(b, s) < 0);
}

static void url_again(const struct http_url *u)
{
	struct http_url v;
	struct http_err err;
	struct buf b;

	buf_init(&b, 1 << 20);
	put(&b, u->scheme);
	put(&b, SLICE("://"));
	put(&b, u->userinfo);
	put(&b, u->userinfo.p ? SLICE("@") : SLICE(""));
	put(&b, u->ipv6 ? SLICE("[") : SLICE(""));
	put(&b, u->host);
	put(&b, u->ipv6 ? SLICE("]") : SLICE(""));
	if (u->port)
		BUG_ON(buf_printf(&b, ":%d", u->port) < 0);
	put(&b, u->path);
	put(&b, u->query.p ? SLICE("?") : SLICE(""));
	put(&b, u->query);
	BUG_ON(http_url_parse(&v, buf_data(&b), &err) < 0);
	BUG_ON(!slice_eq(u->scheme, v.scheme) || !slice_eq(u->userinfo, v.userinfo));
	BUG_ON(!slice_eq(u->host, v.host) || u->ipv6 != v.ipv6 || u->port != v.port);
	BUG_ON(!slice_eq(u->path, v.path) || !slice_eq(u->query, v.query));
	BUG_ON(!u->query.p != !v.query.p || !u->userinfo.p != !v.userinfo.p);
	buf_end(&b);
}

static void percent(struct slice in)
{
	struct buf b;
	char *out = xmalloc(3 * in.n + 1);
	ssize_t n = http_percent_decode(out, in.n, in, true);

	BUG_ON(n > (ssize_t)in.n);
	buf_init(&b, 3 * in.n + 1);
	BUG_ON(http_percent_put(&b, in) < 0);
	n = http_percent_decode(out, in.n, buf_data(&b), false);
	if (in.n && memchr(in.p, 0, in.n))
		BUG_ON(n >= 0);
	else
		BUG_ON(n < 0 || !slice_eq(slice_of(out, (size_t)n), in));
	buf_end(&b);
	free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct slice in = slice_of(data, size), query, k, v;
	struct http_url u;
	struct http_err err;
	char out[16];

	if (http_url_parse(&u, in, &err) == 0) {
		inside(u.host, in);
		inside(u.path, in);
		inside(u.query, in);
		url_again(&u);
	} else {
		BUG_ON(err.at > size);
	}
	query = in;
	if (http_target_parse(&u, in, &err) == 0) {
		BUG_ON(u.path.n + u.query.n + (u.query.p ? 1 : 0) != size);
		query = u.query;
	}
	for (struct slice rest = query; http_query_next(&rest, &k, &v);) {
		inside(k, in);
		inside(v, in);
	}
	ssize_t n = http_query_get(query, "a/b", out, sizeof(out));
	BUG_ON(n >= (ssize_t)sizeof(out) || (n >= 0 && strlen(out) != (size_t)n));
	percent(in);
	return 0;
}
