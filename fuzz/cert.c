/*
 * A certificate as it comes from a peer; and the same bytes as "PATTERN NUL HOST". No name leaves
 * the input or holds a NUL, a wildcard stands for one label, an SVID obeys every rule.
 */
#include "reactor/tls_cert.h"

static void check_inside(struct slice s, const uint8_t *data, size_t n)
{
	const char *base = (const char *)data;
	if (s.n == 0)
		return;
	BUG_ON(s.p < base || s.n > n || s.p + s.n > base + n);
	BUG_ON(memchr(s.p, '\0', s.n));
}

static size_t dots(struct slice s)
{
	size_t n = 0;
	for (size_t i = 0; i < s.n; i++)
		n += s.p[i] == '.';
	return n;
}

static void check_match(struct slice pattern, struct slice host)
{
	if (!cert_name_matches(pattern, host))
		return;
	if (slice_ends(host, SLICE(".")))
		host.n--;
	BUG_ON(host.n == 0 || pattern.n == 0 || dots(host) != dots(pattern));
	struct slice label, rest;
	if (slice_starts(pattern, SLICE("*."))) {
		BUG_ON(!slice_cut(host, '.', &label, &rest) || label.n == 0);
		BUG_ON(!slice_eqi(rest, slice_after(pattern, 2)));
	} else {
		BUG_ON(!slice_eqi(host, pattern) || memchr(pattern.p, '*', pattern.n));
	}
}

/* What a wildcard must and must not cover, for a name that came out of a certificate. */
static void check_wildcard(struct slice name)
{
	if (!slice_starts(name, SLICE("*.")))
		return;
	struct slice rest = slice_after(name, 1);
	char *one = xasprintf("x%.*s", SLICE_FMT(rest)),
	     *two = xasprintf("x.y%.*s", SLICE_FMT(rest));
	BUG_ON(cert_name_matches(name, slice_str(two)));
	BUG_ON(cert_name_matches(name, slice_after(rest, 1)));
	check_match(name, slice_str(one));
	free(one);
	free(two);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct slice in = slice_of(data, n), pattern, host, value;
	slice_cut(in, '\0', &pattern, &host);
	check_match(pattern, host);
	check_match(pattern, pattern);
	spiffe_id_valid(in);

	struct cert c, cut;
	if (cert_parse(&c, in) < 0)
		return 0;
	BUG_ON(cert_parse(&cut, slice_of(data, n - 1)) == 0);
	check_inside(c.common_name, data, n);
	struct slice rest = c.alt_names;
	enum cert_name_kind kind;
	size_t uris = 0, names = 0;
	while (cert_next_name(&rest, &kind, &value)) {
		BUG_ON(++names > n);
		uris += kind == CERT_URI;
		if (kind == CERT_IP) {
			BUG_ON(value.n != 4 && value.n != 16);
			continue;
		}
		check_inside(value, data, n);
		check_wildcard(value);
		char *text = xslicedup(value);
		if (kind == CERT_DNS && cert_name_matches(value, value))
			cert_covers(&c, text);
		free(text);
	}
	BUG_ON(rest.n != 0); /* cert_parse has seen all of it */
	struct slice id = cert_spiffe_id(&c);
	check_inside(id, data, n);
	BUG_ON(id.n && (uris != 1 || c.ca || c.signs || !spiffe_id_valid(id) ||
			!slice_starts(id, SLICE("spiffe://"))));
	char why[64];
	cert_name_error(&c, "a.example.org", why, sizeof(why));
	BUG_ON(strnlen(why, sizeof(why)) == sizeof(why));
	cert_name_error(&c, "10.0.0.1", why, sizeof(why));
	BUG_ON(cert_covers(&c, ""));
	return 0;
}
