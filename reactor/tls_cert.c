#include "reactor/tls_cert.h"

#include <arpa/inet.h>
#include <errno.h>
#include <time.h>

#include <openssl/bytestring.h>

#include "reactor/utf8.h"

enum { LISTED_NAMES = 20, MAX_ADDRESS = 16 };

static const uint8_t oid_common_name[] = { 0x55, 0x04, 0x03 };
static const uint8_t oid_key_usage[] = { 0x55, 0x1d, 0x0f };
static const uint8_t oid_alt_names[] = { 0x55, 0x1d, 0x11 };
static const uint8_t oid_constraints[] = { 0x55, 0x1d, 0x13 };

static struct slice slice_cbs(const CBS *c)
{
	return slice_of(CBS_data(c), CBS_len(c));
}

static bool cbs_is(const CBS *c, const uint8_t *oid, size_t n)
{
	return CBS_mem_equal(c, oid, n) == 1;
}

static bool all_between(struct slice s, unsigned char low, unsigned char high)
{
	for (size_t i = 0; i < s.n; i++)
		if ((unsigned char)s.p[i] < low || (unsigned char)s.p[i] > high)
			return false;
	return true;
}

/* --- DER --- */

static int two_digits(CBS *c, int *out)
{
	uint8_t a, b;
	if (!CBS_get_u8(c, &a) || !CBS_get_u8(c, &b) || a < '0' || a > '9' || b < '0' || b > '9')
		return -EINVAL;
	*out = (a - '0') * 10 + (b - '0');
	return 0;
}

/* UTCTime or GeneralizedTime, both in UTC with seconds: RFC 5280 section 4.1.2.5. */
static int get_time(CBS *in, int64_t *out)
{
	CBS t;
	unsigned tag;
	int century = 0, year, mon, day, hour, min, sec;
	uint8_t z;
	if (!CBS_get_any_asn1(in, &t, &tag) ||
	    (tag != CBS_ASN1_UTCTIME && tag != CBS_ASN1_GENERALIZEDTIME))
		return -EINVAL;
	if (tag == CBS_ASN1_GENERALIZEDTIME && two_digits(&t, &century))
		return -EINVAL;
	if (two_digits(&t, &year) || two_digits(&t, &mon) || two_digits(&t, &day) ||
	    two_digits(&t, &hour) || two_digits(&t, &min) || two_digits(&t, &sec) ||
	    !CBS_get_u8(&t, &z) || z != 'Z' || CBS_len(&t) != 0)
		return -EINVAL;
	if (mon < 1 || mon > 12 || day < 1 || day > 31 || hour > 23 || min > 59 || sec > 59)
		return -EINVAL;
	if (tag == CBS_ASN1_UTCTIME)
		century = year < 50 ? 20 : 19;
	struct tm tm = { .tm_year = century * 100 + year - 1900,
			 .tm_mon = mon - 1,
			 .tm_mday = day,
			 .tm_hour = hour,
			 .tm_min = min,
			 .tm_sec = sec };
	*out = timegm(&tm);
	return 0;
}

/* Two common names are one too many: which of them would the policy mean? */
static int get_subject(CBS *in, struct cert *c)
{
	CBS name, rdn, attribute, oid, value;
	unsigned tag;
	size_t found = 0;
	if (!CBS_get_asn1(in, &name, CBS_ASN1_SEQUENCE))
		return -EINVAL;
	while (CBS_len(&name) > 0) {
		if (!CBS_get_asn1(&name, &rdn, CBS_ASN1_SET))
			return -EINVAL;
		while (CBS_len(&rdn) > 0) {
			if (!CBS_get_asn1(&rdn, &attribute, CBS_ASN1_SEQUENCE) ||
			    !CBS_get_asn1(&attribute, &oid, CBS_ASN1_OBJECT) ||
			    !CBS_get_any_asn1(&attribute, &value, &tag))
				return -EINVAL;
			if (!cbs_is(&oid, oid_common_name, sizeof(oid_common_name)))
				continue;
			found++;
			bool text = tag == CBS_ASN1_UTF8STRING || tag == CBS_ASN1_PRINTABLESTRING ||
				    tag == CBS_ASN1_IA5STRING;
			c->common_name = text ? slice_cbs(&value) : (struct slice){ NULL, 0 };
		}
	}
	if (found != 1 || !utf8_valid(c->common_name) || !all_between(c->common_name, 0x20, 0xff) ||
	    (c->common_name.n && memchr(c->common_name.p, 0x7f, c->common_name.n)))
		c->common_name = (struct slice){ NULL, 0 };
	return 0;
}

/* BOOLEAN DEFAULT FALSE */
static bool get_flag(CBS *in, int *out)
{
	*out = 0;
	return !CBS_peek_asn1_tag(in, CBS_ASN1_BOOLEAN) || CBS_get_asn1_bool(in, out);
}

static int get_constraints(CBS *in, struct cert *c)
{
	CBS seq;
	int ca;
	if (!CBS_get_asn1(in, &seq, CBS_ASN1_SEQUENCE) || !get_flag(&seq, &ca))
		return -EINVAL;
	c->ca = ca;
	return 0;
}

static int get_key_usage(CBS *in, struct cert *c)
{
	CBS bits;
	if (!CBS_get_asn1(in, &bits, CBS_ASN1_BITSTRING) || !CBS_is_valid_asn1_bitstring(&bits))
		return -EINVAL;
	c->signs = CBS_asn1_bitstring_has_bit(&bits, 5) || CBS_asn1_bitstring_has_bit(&bits, 6);
	return 0;
}

/* 1 with a name, 0 at the end, -EINVAL. Names of other kinds are passed over. */
static int next_name(CBS *rest, enum cert_name_kind *kind, struct slice *value)
{
	while (CBS_len(rest) > 0) {
		CBS name;
		unsigned tag;
		if (!CBS_get_any_asn1(rest, &name, &tag))
			return -EINVAL;
		*value = slice_cbs(&name);
		if (tag == (CBS_ASN1_CONTEXT_SPECIFIC | CERT_IP)) {
			*kind = CERT_IP;
			return value->n == 4 || value->n == MAX_ADDRESS ? 1 : -EINVAL;
		}
		if (tag != (CBS_ASN1_CONTEXT_SPECIFIC | CERT_DNS) &&
		    tag != (CBS_ASN1_CONTEXT_SPECIFIC | CERT_URI))
			continue;
		*kind = tag == (CBS_ASN1_CONTEXT_SPECIFIC | CERT_DNS) ? CERT_DNS : CERT_URI;
		return all_between(*value, 0x21, 0x7e) ? 1 : -EINVAL;
	}
	return 0;
}

static int get_alt_names(CBS *in, struct cert *c)
{
	CBS names;
	enum cert_name_kind kind;
	struct slice value;
	int r;
	if (!CBS_get_asn1(in, &names, CBS_ASN1_SEQUENCE))
		return -EINVAL;
	c->alt_names = slice_cbs(&names);
	c->has_alt_names = true;
	while ((r = next_name(&names, &kind, &value)) == 1)
		;
	return r;
}

static int get_extensions(CBS *list, struct cert *c)
{
	static const struct {
		const uint8_t *oid;
		int (*get)(CBS *, struct cert *);
	} known[] = { { oid_key_usage, get_key_usage },
		      { oid_alt_names, get_alt_names },
		      { oid_constraints, get_constraints } };
	bool seen[ARRAY_LEN(known)] = { false };
	while (CBS_len(list) > 0) {
		CBS extension, oid, value;
		int critical;
		if (!CBS_get_asn1(list, &extension, CBS_ASN1_SEQUENCE) ||
		    !CBS_get_asn1(&extension, &oid, CBS_ASN1_OBJECT) ||
		    !get_flag(&extension, &critical) ||
		    !CBS_get_asn1(&extension, &value, CBS_ASN1_OCTETSTRING))
			return -EINVAL;
		for (size_t i = 0; i < ARRAY_LEN(known); i++) {
			if (!cbs_is(&oid, known[i].oid, 3))
				continue;
			if (seen[i] || known[i].get(&value, c) < 0)
				return -EINVAL;
			seen[i] = true;
		}
	}
	return 0;
}

int cert_parse(struct cert *c, struct slice der)
{
	CBS in, cert, tbs, part, dates;
	int present;
	*c = (struct cert){ .ca = false };
	CBS_init(&in, (const uint8_t *)der.p, der.n);
	if (!CBS_get_asn1(&in, &cert, CBS_ASN1_SEQUENCE) || CBS_len(&in) != 0 ||
	    !CBS_get_asn1(&cert, &tbs, CBS_ASN1_SEQUENCE))
		return -EINVAL;
	const unsigned explicit = CBS_ASN1_CONTEXT_SPECIFIC | CBS_ASN1_CONSTRUCTED;
	if (!CBS_get_optional_asn1(&tbs, &part, &present, explicit | 0) || /* version */
	    !CBS_get_asn1(&tbs, &part, CBS_ASN1_INTEGER) ||                /* serialNumber */
	    !CBS_get_asn1(&tbs, &part, CBS_ASN1_SEQUENCE) ||               /* signature */
	    !CBS_get_asn1(&tbs, &part, CBS_ASN1_SEQUENCE) ||               /* issuer */
	    !CBS_get_asn1(&tbs, &dates, CBS_ASN1_SEQUENCE) ||              /* validity */
	    get_time(&dates, &c->not_before) < 0 || get_time(&dates, &c->not_after) < 0 ||
	    get_subject(&tbs, c) < 0 ||
	    !CBS_get_asn1(&tbs, &part, CBS_ASN1_SEQUENCE) || /* subjectPublicKeyInfo */
	    !CBS_get_optional_asn1(&tbs, &part, &present, CBS_ASN1_CONTEXT_SPECIFIC | 1) ||
	    !CBS_get_optional_asn1(&tbs, &part, &present, CBS_ASN1_CONTEXT_SPECIFIC | 2) ||
	    !CBS_get_optional_asn1(&tbs, &part, &present, explicit | 3))
		return -EINVAL;
	if (!present)
		return 0;
	CBS list;
	if (!CBS_get_asn1(&part, &list, CBS_ASN1_SEQUENCE))
		return -EINVAL;
	return get_extensions(&list, c);
}

bool cert_next_name(struct slice *rest, enum cert_name_kind *kind, struct slice *value)
{
	CBS in;
	CBS_init(&in, (const uint8_t *)rest->p, rest->n);
	int r = next_name(&in, kind, value);
	*rest = slice_cbs(&in);
	return r == 1;
}

/* --- names --- */

/* Labels of letters, digits, '-' (not first) and '_', none empty. */
static bool dns_name_valid(struct slice name)
{
	if (name.n == 0 || name.n > 253)
		return false;
	bool first = true;
	for (size_t i = 0; i < name.n; i++) {
		char c = name.p[i];
		if (c == '.') {
			if (first)
				return false;
			first = true;
			continue;
		}
		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
		      c == '_' || (c == '-' && !first)))
			return false;
		first = false;
	}
	return !first;
}

bool cert_name_matches(struct slice pattern, struct slice host)
{
	if (host.n && host.p[host.n - 1] == '.')
		host.n--;
	if (!dns_name_valid(host))
		return false;
	if (slice_starts(pattern, SLICE("*."))) {
		struct slice first, rest;
		pattern = slice_after(pattern, 2);
		if (!slice_cut(host, '.', &first, &rest))
			return false;
		host = rest;
	}
	return dns_name_valid(pattern) && slice_eqi(pattern, host);
}

/* The bytes of an IP literal (4, or 16), 0 when host is a name. An IPv4 address mapped into IPv6
 * counts as the IPv4 address. */
static size_t host_address(const char *host, uint8_t *out)
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
	char text[INET6_ADDRSTRLEN];
	if (*host == '[')
		host++;
	size_t n = strcspn(host, "]%");
	if (n >= sizeof(text))
		return 0;
	memcpy(text, host, n);
	text[n] = '\0';
	if (inet_pton(AF_INET, text, out) == 1)
		return 4;
	if (inet_pton(AF_INET6, text, out) != 1)
		return 0;
	if (memcmp(out, mapped, sizeof(mapped)) != 0)
		return MAX_ADDRESS;
	memmove(out, out + sizeof(mapped), 4);
	return 4;
}

bool cert_covers(const struct cert *c, const char *host)
{
	uint8_t address[MAX_ADDRESS];
	size_t n = host_address(host, address);
	struct slice rest = c->alt_names, value;
	enum cert_name_kind kind;
	while (cert_next_name(&rest, &kind, &value)) {
		if (n && kind == CERT_IP && slice_eq(value, slice_of(address, n)))
			return true;
		if (!n && kind == CERT_DNS && cert_name_matches(value, slice_str(host)))
			return true;
	}
	return false;
}

void cert_name_error(const struct cert *c, const char *host, char *out, size_t size)
{
	uint8_t address[MAX_ADDRESS];
	bool is_address = host_address(host, address) > 0;
	enum cert_name_kind kind, wanted = is_address ? CERT_IP : CERT_DNS;
	struct slice rest = c->alt_names, value;
	char list[1024];
	size_t used = 0, count = 0;
	while (cert_next_name(&rest, &kind, &value)) {
		if (kind != wanted || ++count > LISTED_NAMES)
			continue;
		char text[INET6_ADDRSTRLEN];
		if (kind == CERT_IP) {
			inet_ntop(value.n == 4 ? AF_INET : AF_INET6, value.p, text, sizeof(text));
			value = slice_str(text);
		}
		int n = snprintf(list + used, sizeof(list) - used, "%s%.*s", used ? ", " : "",
				 SLICE_FMT(value));
		used = MIN(used + (size_t)n, sizeof(list) - 1);
	}
	if (!c->has_alt_names && cert_name_matches(c->common_name, slice_str(host)))
		snprintf(out, size,
			 "x509: certificate relies on legacy Common Name field, use SANs instead");
	else if (count == 0 && is_address)
		snprintf(out, size,
			 "x509: cannot validate certificate for %s because it doesn't contain any "
			 "IP SANs",
			 host);
	else if (count == 0)
		snprintf(out, size,
			 "x509: certificate is not valid for any names, but wanted to match %s",
			 host);
	else if (count > LISTED_NAMES)
		snprintf(out, size, "x509: certificate is valid for %s and %zu more names, not %s",
			 list, count - LISTED_NAMES, host);
	else
		snprintf(out, size, "x509: certificate is valid for %s, not %s", list, host);
}

/* --- SPIFFE --- */

static bool spiffe_chars(struct slice s, bool upper)
{
	for (size_t i = 0; i < s.n; i++) {
		char c = s.p[i];
		if (!((c >= 'a' && c <= 'z') || (upper && c >= 'A' && c <= 'Z') ||
		      (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '_'))
			return false;
	}
	return s.n > 0;
}

bool spiffe_id_valid(struct slice id)
{
	struct slice domain, path, segment;
	if (id.n > 2048 || !slice_starts(id, SLICE("spiffe://")) ||
	    !slice_cut(slice_after(id, 9), '/', &domain, &path))
		return false;
	if (domain.n > 255 || !spiffe_chars(domain, false))
		return false;
	bool more;
	do {
		more = slice_cut(path, '/', &segment, &path);
		if (!spiffe_chars(segment, true) || slice_eq(segment, SLICE(".")) ||
		    slice_eq(segment, SLICE("..")))
			return false;
	} while (more);
	return true;
}

struct slice cert_spiffe_id(const struct cert *c)
{
	struct slice rest = c->alt_names, value, id = { NULL, 0 };
	enum cert_name_kind kind;
	size_t uris = 0;
	while (cert_next_name(&rest, &kind, &value)) {
		if (kind == CERT_URI) {
			uris++;
			id = value;
		}
	}
	if (uris != 1 || c->ca || c->signs || !spiffe_id_valid(id))
		return (struct slice){ NULL, 0 };
	return id;
}
