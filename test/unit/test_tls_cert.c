/* Names, SPIFFE identities and dates read from DER that is built here; what tls_make makes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <time.h>

#include "reactor/tls_cert.h"
#include "reactor/tls_make.h"

/* --- a DER writer, from the inside out --- */

struct der {
	unsigned char b[4096];
	size_t n;
};

static void add(struct der *d, const void *p, size_t n)
{
	assert_true(d->n + n <= sizeof(d->b));
	if (n)
		memcpy(d->b + d->n, p, n);
	d->n += n;
}

static void add_tlv(struct der *d, unsigned tag, const void *p, size_t n)
{
	unsigned char head[4] = { (unsigned char)tag, 0x82, (unsigned char)(n >> 8),
				  (unsigned char)n };
	if (n < 128) {
		head[1] = (unsigned char)n;
		add(d, head, 2);
	} else if (n < 256) {
		head[1] = 0x81;
		head[2] = (unsigned char)n;
		add(d, head, 3);
	} else {
		add(d, head, 4);
	}
	add(d, p, n);
}

static void add_in(struct der *d, unsigned tag, const struct der *inner)
{
	add_tlv(d, tag, inner->b, inner->n);
}

struct san {
	unsigned tag;
	const char *value;
	size_t n; /* 0: strlen */
};

struct plan {
	const char *cn, *second_cn;
	size_t cn_len; /* 0: strlen */
	const char *not_before, *not_after;
	const struct san *san;
	size_t n_san;
	bool ca, twice;
	int key_usage; /* -1: none; else the first byte of the bit string */
};

static void add_extension(struct der *list, unsigned char id, const struct der *value)
{
	const unsigned char oid[] = { 0x55, 0x1d, id };
	struct der e = { .n = 0 };
	add_tlv(&e, 0x06, oid, sizeof(oid));
	add_tlv(&e, 0x01, "\xff", 1);
	add_in(&e, 0x04, value);
	add_in(list, 0x30, &e);
}

static void add_cn(struct der *name, const char *cn, size_t n)
{
	struct der attribute = { .n = 0 }, set = { .n = 0 };
	add_tlv(&attribute, 0x06, "\x55\x04\x03", 3);
	add_tlv(&attribute, 0x0c, cn, n ? n : strlen(cn));
	add_in(&set, 0x30, &attribute);
	add_in(name, 0x31, &set);
}

static struct der build(const struct plan *p)
{
	struct der tbs = { .n = 0 }, in = { .n = 0 }, list = { .n = 0 }, out = { .n = 0 };
	add_tlv(&in, 0x02, "\x02", 1);
	add_in(&tbs, 0xa0, &in);
	add_tlv(&tbs, 0x02, "\x01", 1);
	add_tlv(&tbs, 0x30, NULL, 0);
	add_tlv(&tbs, 0x30, NULL, 0);
	in.n = 0;
	const char *from = p->not_before ? p->not_before : "200101000000Z";
	const char *to = p->not_after ? p->not_after : "20510101000000Z";
	add_tlv(&in, strlen(from) == 13 ? 0x17 : 0x18, from, strlen(from));
	add_tlv(&in, strlen(to) == 13 ? 0x17 : 0x18, to, strlen(to));
	add_in(&tbs, 0x30, &in);
	in.n = 0;
	if (p->cn)
		add_cn(&in, p->cn, p->cn_len);
	if (p->second_cn)
		add_cn(&in, p->second_cn, 0);
	add_in(&tbs, 0x30, &in);
	add_tlv(&tbs, 0x30, NULL, 0);
	if (p->n_san) {
		struct der names = { .n = 0 }, seq = { .n = 0 };
		for (size_t i = 0; i < p->n_san; i++)
			add_tlv(&names, 0x80 | p->san[i].tag, p->san[i].value,
				p->san[i].n ? p->san[i].n : strlen(p->san[i].value));
		add_in(&seq, 0x30, &names);
		add_extension(&list, 0x11, &seq);
		if (p->twice)
			add_extension(&list, 0x11, &seq);
	}
	if (p->key_usage >= 0) {
		struct der bits = { .n = 0 };
		unsigned char value[2] = { 0, (unsigned char)p->key_usage };
		while (value[1] && !(value[1] & (1u << value[0])))
			value[0]++;
		add_tlv(&bits, 0x03, value, value[1] ? 2 : 1);
		add_extension(&list, 0x0f, &bits);
	}
	struct der constraints = { .n = 0 };
	in.n = 0;
	if (p->ca)
		add_tlv(&in, 0x01, "\xff", 1);
	add_in(&constraints, 0x30, &in);
	add_extension(&list, 0x13, &constraints);
	in.n = 0;
	add_in(&in, 0x30, &list);
	add_in(&tbs, 0xa3, &in);
	struct der cert = { .n = 0 };
	add_in(&cert, 0x30, &tbs);
	add_tlv(&cert, 0x30, NULL, 0);
	add_tlv(&cert, 0x03, "\x00", 1);
	add_in(&out, 0x30, &cert);
	return out;
}

static int parse(struct cert *c, const struct plan *p)
{
	static struct der d; /* the slices of *c point here */
	d = build(p);
	return cert_parse(c, slice_of(d.b, d.n));
}

/* --- tests --- */

static void test_host_names(void **state)
{
	(void)state;
	static const struct {
		const char *pattern, *host;
		bool match;
	} rows[] = {
		{ "a.b", "a.b", true },
		{ "A.b", "a.B", true },
		{ "a.b", "a.b.", true },
		{ "a.b.", "a.b", false },
		{ "a.b", "xa.b", false },
		{ "*.a.b", "x.a.b", true },
		{ "*.a.b", "X.A.B.", true },
		{ "*.a.b", "a.b", false },
		{ "*.a.b", ".a.b", false },
		{ "*.a.b", "x.y.a.b", false },
		{ "*.a.b", "*.a.b", false },
		{ "*", "a", false },
		{ "*", "*", false },
		{ "*.", "a.", false },
		{ "x*.a.b", "xy.a.b", false },
		{ "*x.a.b", "yx.a.b", false },
		{ "a.*.b", "a.x.b", false },
		{ "*.*.b", "x.y.b", false },
		{ "", "", false },
		{ "a..b", "a..b", false },
		{ "-a.b", "-a.b", false },
		{ "a_b.c", "a_b.c", true },
		{ "*.b", "a_b.b", true },
		{ "a b", "a b", false },
		{ "1.2.3.4", "1.2.3.4", true }, /* as names; cert_covers takes literals apart */
	};
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		if (cert_name_matches(slice_str(rows[i].pattern), slice_str(rows[i].host)) !=
		    rows[i].match)
			fail_msg("%s, %s", rows[i].pattern, rows[i].host);
	char label[300];
	memset(label, 'a', sizeof(label));
	assert_false(cert_name_matches(slice_of(label, 254), slice_of(label, 254)));
	assert_false(cert_name_matches(slice_of("a\0b", 3), slice_of("a\0b", 3)));
}

static void test_spiffe_ids(void **state)
{
	(void)state;
	static const char *const good[] = { "spiffe://a/b", "spiffe://tinyscale.net/ns/Dev/sa-1_x",
					    "spiffe://1.2_3-x/...", "spiffe://a/b/.c" };
	static const char *const bad[] = {
		"",
		"spiffe://",
		"spiffe://a",
		"spiffe://a/",
		"spiffe:///b",
		"spiffe://a//b",
		"spiffe://a/b/",
		"spiffe://a/./b",
		"spiffe://a/..",
		"spiffe://A/b",
		"SPIFFE://a/b",
		"http://a/b",
		"spiffe://u@a/b",
		"spiffe://a:1/b",
		"spiffe://a/b?c",
		"spiffe://a/b#c",
		"spiffe://a/%62",
		"spiffe://a/b c",
		"spiffe:/a/b",
	};
	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		assert_true(spiffe_id_valid(slice_str(good[i])));
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		if (spiffe_id_valid(slice_str(bad[i])))
			fail_msg("%s", bad[i]);
	char *longest = xasprintf("spiffe://a/%02037d", 0), *longer = xasprintf("%s0", longest);
	assert_int_equal(strlen(longest), 2048);
	assert_true(spiffe_id_valid(slice_str(longest)));
	assert_false(spiffe_id_valid(slice_str(longer)));
	free(longest);
	free(longer);
}

static void expect_id(const struct plan *p, const char *want)
{
	struct cert c;
	assert_int_equal(parse(&c, p), 0);
	assert_true(slice_eq(cert_spiffe_id(&c), slice_str(want)));
}

static void test_svid(void **state)
{
	(void)state;
	const char *id = "spiffe://a/b";
	struct san one[] = { { CERT_DNS, "x.y", 0 }, { CERT_URI, id, 0 } };
	struct san two[] = { { CERT_URI, id, 0 }, { CERT_URI, "https://x/", 0 } };
	struct plan p = { .cn = "x", .san = one, .n_san = 2, .key_usage = 0x80 };
	expect_id(&p, id);
	p.key_usage = -1;
	expect_id(&p, id);
	p.key_usage = 0x84; /* keyCertSign */
	expect_id(&p, "");
	p.key_usage = 0x82; /* cRLSign */
	expect_id(&p, "");
	p.key_usage = 0x80;
	p.ca = true;
	expect_id(&p, "");
	p.ca = false;
	p.san = two;
	expect_id(&p, "");
	p.n_san = 1;
	expect_id(&p, id);
	two[0].value = "spiffe://a";
	expect_id(&p, "");
}

static void test_common_name(void **state)
{
	(void)state;
	struct cert c;
	struct plan p = { .cn = "client", .key_usage = -1 };
	assert_int_equal(parse(&c, &p), 0);
	assert_true(slice_eq(c.common_name, SLICE("client")));
	assert_false(c.has_alt_names);
	p.second_cn = "admin";
	assert_int_equal(parse(&c, &p), 0);
	assert_int_equal(c.common_name.n, 0);
	p = (struct plan){ .cn = "admin\0x", .cn_len = 7, .key_usage = -1 };
	assert_int_equal(parse(&c, &p), 0);
	assert_int_equal(c.common_name.n, 0);
	p = (struct plan){ .cn = "a\nb", .key_usage = -1 };
	assert_int_equal(parse(&c, &p), 0);
	assert_int_equal(c.common_name.n, 0);
	p.cn = "\xc3\xbc";
	assert_int_equal(parse(&c, &p), 0);
	assert_int_equal(c.common_name.n, 2);
	p.cn = "\xff";
	assert_int_equal(parse(&c, &p), 0);
	assert_int_equal(c.common_name.n, 0);
	p.cn = NULL;
	assert_int_equal(parse(&c, &p), 0);
	assert_int_equal(c.common_name.n, 0);
}

static void test_alt_names(void **state)
{
	(void)state;
	struct cert c;
	struct san san[] = { { CERT_DNS, "*.a.b", 0 },
			     { CERT_IP, "\x0a\x00\x00\x01", 4 },
			     { 1, "mail@a.b", 0 },
			     { CERT_IP, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1", 16 } };
	struct plan p = { .cn = "cn.a.b", .san = san, .n_san = 4, .key_usage = -1 };
	assert_int_equal(parse(&c, &p), 0);
	assert_true(cert_covers(&c, "x.a.b"));
	assert_true(cert_covers(&c, "10.0.0.1"));
	assert_true(cert_covers(&c, "::ffff:10.0.0.1"));
	assert_true(cert_covers(&c, "[::1]"));
	assert_true(cert_covers(&c, "::1%lo"));
	assert_true(cert_covers(&c, "0:0::1"));
	assert_false(cert_covers(&c, "::2"));
	assert_false(cert_covers(&c, "a.b"));
	assert_true(cert_covers(&c, "cn.a.b")); /* by the wildcard */
	assert_false(cert_covers(&c, ""));
	char text[256];
	cert_name_error(&c, "b", text, sizeof(text));
	assert_string_equal(text, "x509: certificate is valid for *.a.b, not b");
	cert_name_error(&c, "::2", text, sizeof(text));
	assert_string_equal(text, "x509: certificate is valid for 10.0.0.1, ::1, not ::2");
	p.n_san = 0;
	assert_int_equal(parse(&c, &p), 0);
	assert_false(cert_covers(&c, "cn.a.b"));
	cert_name_error(&c, "cn.a.b", text, sizeof(text));
	assert_non_null(strstr(text, "legacy Common Name"));
	cert_name_error(&c, "x", text, sizeof(text));
	assert_string_equal(text,
			    "x509: certificate is not valid for any names, but wanted to match x");

	struct san odd[] = { { CERT_DNS, "a\0b", 3 } };
	p.san = odd;
	p.n_san = 1;
	assert_int_equal(parse(&c, &p), -EINVAL);
	odd[0] = (struct san){ CERT_URI, "spiffe://a/\x80", 0 };
	assert_int_equal(parse(&c, &p), -EINVAL);
	odd[0] = (struct san){ CERT_IP, "12345", 0 };
	assert_int_equal(parse(&c, &p), -EINVAL);
	odd[0] = (struct san){ CERT_DNS, "a", 0 };
	assert_int_equal(parse(&c, &p), 0);
	p.twice = true;
	assert_int_equal(parse(&c, &p), -EINVAL);

	struct san many[30];
	for (size_t i = 0; i < ARRAY_LEN(many); i++)
		many[i] = (struct san){ CERT_DNS, "name-of-some-length.example.org", 0 };
	p = (struct plan){ .san = many, .n_san = 30, .key_usage = -1 };
	assert_int_equal(parse(&c, &p), 0);
	char longer[2048];
	cert_name_error(&c, "x", longer, sizeof(longer));
	assert_non_null(strstr(longer, " and 10 more names, not x"));
}

static void test_dates(void **state)
{
	(void)state;
	struct cert c;
	struct plan p = { .not_before = "700101000000Z",
			  .not_after = "20380119031407Z",
			  .key_usage = -1 };
	assert_int_equal(parse(&c, &p), 0);
	assert_int_equal(c.not_before, 0);
	assert_int_equal(c.not_after, 0x7fffffff);
	p.not_before = "500101000000Z"; /* 1950 */
	p.not_after = "99991231235959Z";
	assert_int_equal(parse(&c, &p), 0);
	assert_int_equal(c.not_before, -631152000);
	assert_true(c.not_after == 253402300799);
	static const char *const bad[] = { "7001010000Z",   "701301000000Z",   "700100000000Z",
					   "700101240000Z", "700101000000+00", "70010100000aZ",
					   "700101006000Z", "7001010000000Z" };
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		p.not_before = bad[i];
		assert_int_equal(parse(&c, &p), -EINVAL);
	}
}

/* Cut short anywhere, or with a byte too many, it is no certificate. */
static void test_truncated(void **state)
{
	(void)state;
	struct cert c;
	struct san san[] = { { CERT_DNS, "a.b", 0 } };
	struct der d =
	    build(&(struct plan){ .cn = "x", .san = san, .n_san = 1, .key_usage = 0x80 });
	assert_int_equal(cert_parse(&c, slice_of(d.b, d.n)), 0);
	for (size_t n = 0; n < d.n; n++) {
		char *exact = xslicedup(slice_of(d.b, n));
		assert_int_equal(cert_parse(&c, slice_of(exact, n)), -EINVAL);
		free(exact);
	}
	add(&d, "", 1);
	assert_int_equal(cert_parse(&c, slice_of(d.b, d.n)), -EINVAL);
}

static size_t unbase64(const char *pem, unsigned char *out)
{
	static const char digits[] =
	    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	uint32_t bits = 0;
	size_t n = 0, have = 0;
	for (const char *p = strchr(pem, '\n'); *p && *p != '-'; p++) {
		const char *d = strchr(digits, *p);
		if (!d)
			continue;
		bits = bits << 6 | (uint32_t)(d - digits);
		if ((have += 6) >= 8)
			out[n++] = (unsigned char)(bits >> (have -= 8));
	}
	return n;
}

static void test_make(void **state)
{
	(void)state;
	char err[256];
	unsigned char der[4096];
	struct tls_made ca, made, again;
	struct cert c;
	const int64_t now = time(NULL);
	struct tls_make want = { .common_name = "CA", .not_before = now, .not_after = now + 100 };
	assert_int_equal(tls_make(&want, &ca, err, sizeof(err)), 0);
	assert_int_equal(cert_parse(&c, slice_of(der, unbase64(ca.cert_pem, der))), 0);
	assert_true(c.ca && c.signs && !c.has_alt_names);

	const char *dns[] = { "a.b", "*.a.b" }, *ip[] = { "10.0.0.1", "::1" };
	want = (struct tls_make){ .kind = TLS_MAKE_SERVER,
				  .common_name = "a.b",
				  .dns = dns,
				  .n_dns = 2,
				  .ip = ip,
				  .n_ip = 2,
				  .spiffe_id = "spiffe://a/b",
				  .not_before = now - 5,
				  .not_after = now + 50,
				  .ca_cert_pem = ca.cert_pem,
				  .ca_key_pem = ca.key_pem };
	assert_int_equal(tls_make(&want, &made, err, sizeof(err)), 0);
	assert_int_equal(cert_parse(&c, slice_of(der, unbase64(made.cert_pem, der))), 0);
	assert_false(c.ca || c.signs);
	assert_true(c.not_before == now - 5 && c.not_after == now + 50);
	assert_true(slice_eq(c.common_name, SLICE("a.b")));
	assert_true(slice_eq(cert_spiffe_id(&c), SLICE("spiffe://a/b")));
	assert_true(cert_covers(&c, "x.a.b") && cert_covers(&c, "::1") &&
		    cert_covers(&c, "10.0.0.1") && !cert_covers(&c, "10.0.0.2"));
	assert_int_equal(tls_make(&want, &again, err, sizeof(err)), 0);
	assert_string_not_equal(made.cert_pem, again.cert_pem);
	tls_made_end(&again);

	const struct {
		const char *dns, *ip, *id, *ca, *key, *says;
	} bad[] = {
		{ "a b", "::1", NULL, ca.cert_pem, ca.key_pem, "not a DNS name: a b" },
		{ "a.*", "::1", NULL, ca.cert_pem, ca.key_pem, "not a DNS name: a.*" },
		{ "*", "::1", NULL, ca.cert_pem, ca.key_pem, "not a DNS name: *" },
		{ "a", "1.2.3", NULL, ca.cert_pem, ca.key_pem, "not an IP address: 1.2.3" },
		{ "a", "::1", "spiffe://A/", ca.cert_pem, ca.key_pem, "not a SPIFFE ID" },
		{ "a", "::1", NULL, made.cert_pem, made.key_pem, "is not a CA's" },
		{ "a", "::1", NULL, ca.cert_pem, made.key_pem, "does not match" },
		{ "a", "::1", NULL, "x", made.key_pem, "is not a PEM certificate" },
		{ "a", "::1", NULL, ca.cert_pem, "x", "PEM private key" },
	};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		dns[0] = bad[i].dns;
		ip[0] = bad[i].ip;
		want.spiffe_id = bad[i].id;
		want.ca_cert_pem = bad[i].ca;
		want.ca_key_pem = bad[i].key;
		assert_int_equal(tls_make(&want, &again, err, sizeof(err)), -EINVAL);
		if (!strstr(err, bad[i].says))
			fail_msg("\"%s\" does not say \"%s\"", err, bad[i].says);
		assert_null(again.cert_pem);
	}
	tls_made_end(&made);
	tls_made_end(&ca);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_host_names), cmocka_unit_test(test_spiffe_ids),
		cmocka_unit_test(test_svid),       cmocka_unit_test(test_common_name),
		cmocka_unit_test(test_alt_names),  cmocka_unit_test(test_dates),
		cmocka_unit_test(test_truncated),  cmocka_unit_test(test_make),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
