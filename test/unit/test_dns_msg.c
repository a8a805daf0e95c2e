/* The DNS message codec: reactor/dns_msg.c. Messages are built here byte by byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "reactor/dns_msg.h"

#define ID 0x1234

struct msg {
	uint8_t b[2048];
	size_t n;
};

static void u16(struct msg *m, unsigned v)
{
	m->b[m->n++] = (uint8_t)(v >> 8);
	m->b[m->n++] = (uint8_t)v;
}

static void name(struct msg *m, const char *text)
{
	struct slice rest = slice_str(text), label;
	while (rest.n) {
		slice_cut(rest, '.', &label, &rest);
		m->b[m->n++] = (uint8_t)label.n;
		memcpy(m->b + m->n, label.p, label.n);
		m->n += label.n;
	}
	m->b[m->n++] = 0;
}

static void head(struct msg *m, unsigned bits, unsigned answers, const char *question,
		 unsigned type)
{
	m->n = 0;
	u16(m, ID);
	u16(m, bits);
	u16(m, 1);
	u16(m, answers);
	u16(m, 0);
	u16(m, 0);
	name(m, question);
	u16(m, type);
	u16(m, 1);
}

/* All of a record after its owner's name but for RDATA. */
static void record(struct msg *m, unsigned type, unsigned ttl, size_t size)
{
	u16(m, type);
	u16(m, 1);
	u16(m, ttl >> 16);
	u16(m, ttl & 0xffff);
	u16(m, (unsigned)size);
}

static void record_a(struct msg *m, const char *owner, unsigned ttl, uint8_t last)
{
	name(m, owner);
	record(m, DNS_TYPE_A, ttl, 4);
	memcpy(m->b + m->n, (uint8_t[]){ 10, 0, 0, last }, 4);
	m->n += 4;
}

static void record_cname(struct msg *m, const char *owner, unsigned ttl, const char *to)
{
	name(m, owner);
	record(m, DNS_TYPE_CNAME, ttl, strlen(to) + 2);
	name(m, to);
}

static int answer(struct dns_answer *a, const struct msg *m)
{
	return dns_msg_answer(a, slice_of(m->b, m->n), ID, SLICE("www.Example.com"), DNS_TYPE_A);
}

static void test_names(void **state)
{
	char text[300];
	(void)state;
	assert_true(dns_name_ok(SLICE("a")));
	assert_true(dns_name_ok(SLICE("a.b-c._d.E9")));
	assert_true(dns_name_ok(SLICE("example.com.")));
	assert_false(dns_name_ok(SLICE("")));
	assert_false(dns_name_ok(SLICE(".")));
	assert_false(dns_name_ok(SLICE("a..b")));
	assert_false(dns_name_ok(SLICE(".a")));
	assert_false(dns_name_ok(SLICE("a..")));
	assert_false(dns_name_ok(SLICE("a b")));
	assert_false(dns_name_ok(SLICE("b\xc3\xbc"
				       "cher.de")));
	memset(text, 'a', sizeof(text));
	assert_true(dns_name_ok(slice_of(text, 63)));
	assert_false(dns_name_ok(slice_of(text, 64)));
	for (size_t i = 63; i < sizeof(text); i += 64)
		text[i] = '.';
	assert_true(dns_name_ok(slice_of(text, 253)));
	assert_false(dns_name_ok(slice_of(text, 254)));
	text[253] = '.';
	assert_true(dns_name_ok(slice_of(text, 254)));
}

static void test_question(void **state)
{
	static const uint8_t want[] = "\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x07"
				      "example\x03"
				      "com\0\0\x1c\0\x01";
	uint8_t out[DNS_QUESTION];
	char text[254];
	(void)state;
	assert_int_equal(dns_msg_ask(out, ID, SLICE("WWW.Example.com"), DNS_TYPE_AAAA),
			 sizeof(want) - 1);
	assert_memory_equal(out, want, sizeof(want) - 1);
	assert_int_equal(dns_msg_ask(out, ID, SLICE("www.example.com."), DNS_TYPE_AAAA),
			 sizeof(want) - 1);
	memset(text, 'a', sizeof(text));
	for (size_t i = 63; i < sizeof(text); i += 64)
		text[i] = '.';
	assert_int_equal(dns_msg_ask(out, ID, slice_of(text, 253), DNS_TYPE_A), DNS_QUESTION);
}

static void test_addresses(void **state)
{
	struct msg m;
	struct dns_answer a;
	(void)state;
	head(&m, 0x8180, 2, "wWw.eXample.com", DNS_TYPE_A);
	record_a(&m, "www.example.com", 300, 1);
	record_a(&m, "www.example.com", 60, 2);
	assert_int_equal(answer(&a, &m), 0);
	assert_int_equal(a.rcode, DNS_RCODE_OK);
	assert_false(a.truncated);
	assert_int_equal(a.count, 2);
	assert_int_equal(a.ttl, 60);
	assert_int_equal(a.addr[0][3], 1);
	assert_int_equal(a.addr[1][3], 2);
}

static void test_foreign_records_ignored(void **state)
{
	struct msg m;
	struct dns_answer a;
	(void)state;
	head(&m, 0x8180, 4, "www.example.com", DNS_TYPE_A);
	record_a(&m, "evil.example.com", 1, 66);
	name(&m, "www.example.com"); /* TXT */
	record(&m, 16, 1, 2);
	u16(&m, 0x0161);
	name(&m, "www.example.com"); /* AAAA, which was not asked for */
	record(&m, DNS_TYPE_AAAA, 1, 16);
	memset(m.b + m.n, 0, 16);
	m.n += 16;
	record_a(&m, "www.example.com", 100, 3);
	assert_int_equal(answer(&a, &m), 0);
	assert_int_equal(a.count, 1);
	assert_int_equal(a.addr[0][3], 3);
	assert_int_equal(a.ttl, 100);
}

static void test_cname_in_any_order(void **state)
{
	struct msg m;
	struct dns_answer a;
	(void)state;
	head(&m, 0x8180, 3, "www.example.com", DNS_TYPE_A);
	record_a(&m, "c.example.net", 100, 9);
	record_cname(&m, "B.example.net", 50, "c.example.net");
	record_cname(&m, "www.example.com", 200, "b.example.NET");
	assert_int_equal(answer(&a, &m), 0);
	assert_int_equal(a.count, 1);
	assert_int_equal(a.addr[0][3], 9);
	assert_int_equal(a.ttl, 50);
}

static void test_cname_loop(void **state)
{
	struct msg m;
	struct dns_answer a;
	(void)state;
	head(&m, 0x8180, 2, "www.example.com", DNS_TYPE_A);
	record_cname(&m, "www.example.com", 1, "b.example.com");
	record_cname(&m, "b.example.com", 1, "www.example.com");
	assert_int_equal(answer(&a, &m), -EBADMSG);
}

static void test_compression(void **state)
{
	struct msg m;
	struct dns_answer a;
	(void)state;
	head(&m, 0x8180, 2, "www.example.com", DNS_TYPE_A);
	u16(&m, 0xc00c); /* www.example.com is a CNAME of ftp.example.com */
	record(&m, DNS_TYPE_CNAME, 9, 6);
	memcpy(m.b + m.n, "\3ftp\xc0\x10", 6);
	m.n += 6;
	u16(&m, 0xc000 | (unsigned)(m.n - 6));
	record(&m, DNS_TYPE_A, 9, 4);
	memcpy(m.b + m.n, "\x0a\0\0\x05", 4);
	m.n += 4;
	assert_int_equal(answer(&a, &m), 0);
	assert_int_equal(a.count, 1);
	assert_int_equal(a.addr[0][3], 5);
}

static void test_bad_pointers(void **state)
{
	struct msg m;
	struct dns_answer a;
	(void)state;
	head(&m, 0x8180, 1, "www.example.com", DNS_TYPE_A);
	u16(&m, 0xc000 | (unsigned)m.n); /* to itself */
	record(&m, DNS_TYPE_A, 9, 0);
	assert_int_equal(answer(&a, &m), -EBADMSG);

	head(&m, 0x8180, 1, "www.example.com", DNS_TYPE_A);
	u16(&m, 0xc000 | (unsigned)(m.n + 4)); /* forward */
	record(&m, DNS_TYPE_A, 9, 0);
	assert_int_equal(answer(&a, &m), -EBADMSG);

	head(&m, 0x8180, 1, "www.example.com", DNS_TYPE_A);
	u16(&m, 0x8000); /* neither label nor pointer */
	record(&m, DNS_TYPE_A, 9, 0);
	assert_int_equal(answer(&a, &m), -EBADMSG);
}

static void test_pointer_chain_is_bounded(void **state)
{
	struct msg m;
	struct dns_answer a;
	unsigned last;
	(void)state;
	head(&m, 0x8180, 2, "www.example.com", DNS_TYPE_A);
	m.b[m.n++] = 0; /* a TXT record of the root whose data is a staircase of pointers */
	record(&m, 16, 9, 2 * 200);
	last = 12;
	for (int i = 0; i < 200; i++) {
		unsigned at = (unsigned)m.n;
		u16(&m, 0xc000 | last);
		last = at;
	}
	u16(&m, 0xc000 | last);
	record(&m, DNS_TYPE_A, 9, 4);
	m.n += 4;
	assert_int_equal(answer(&a, &m), -EBADMSG);
}

static void test_not_ours(void **state)
{
	struct msg m;
	struct dns_answer a;
	(void)state;
	head(&m, 0x8180, 0, "www.example.com", DNS_TYPE_A);
	m.b[1] ^= 1; /* id */
	assert_int_equal(answer(&a, &m), -ENOMSG);
	head(&m, 0x0100, 0, "www.example.com", DNS_TYPE_A); /* a question */
	assert_int_equal(answer(&a, &m), -ENOMSG);
	head(&m, 0x8180, 0, "ww2.example.com", DNS_TYPE_A);
	assert_int_equal(answer(&a, &m), -ENOMSG);
	head(&m, 0x8180, 0, "www.example.com", DNS_TYPE_AAAA);
	assert_int_equal(answer(&a, &m), -ENOMSG);
	head(&m, 0x8180, 0, "www.example.com", DNS_TYPE_A);
	m.b[m.n - 1] = 3; /* class */
	assert_int_equal(answer(&a, &m), -ENOMSG);
	head(&m, 0x8180, 0, "www.example.com", DNS_TYPE_A);
	m.b[5] = 2; /* two questions */
	assert_int_equal(answer(&a, &m), -ENOMSG);
	m.n = 11;
	assert_int_equal(answer(&a, &m), -ENOMSG);
	m.n = 0;
	assert_int_equal(answer(&a, &m), -ENOMSG);
}

static void test_codes_and_truncation(void **state)
{
	struct msg m;
	struct dns_answer a;
	(void)state;
	head(&m, 0x8183, 0, "www.example.com", DNS_TYPE_A);
	assert_int_equal(answer(&a, &m), 0);
	assert_int_equal(a.rcode, DNS_RCODE_NXDOMAIN);
	head(&m, 0x8182, 0, "www.example.com", DNS_TYPE_A);
	assert_int_equal(answer(&a, &m), 0);
	assert_int_equal(a.rcode, DNS_RCODE_SERVFAIL);
	head(&m, 0x8380, 5, "www.example.com", DNS_TYPE_A); /* cut in the middle of nowhere */
	assert_int_equal(answer(&a, &m), 0);
	assert_true(a.truncated);
	assert_int_equal(a.count, 0);
}

/* Every message cut short is either not ours or malformed, never an answer. */
static void test_cut_anywhere(void **state)
{
	struct msg m;
	struct dns_answer a;
	(void)state;
	head(&m, 0x8180, 2, "www.example.com", DNS_TYPE_A);
	record_cname(&m, "www.example.com", 5, "b.example.net");
	record_a(&m, "b.example.net", 5, 1);
	assert_int_equal(answer(&a, &m), 0);
	for (size_t whole = m.n; m.n > 0;) {
		m.n--;
		assert_int_equal(answer(&a, &m), m.n < 33 ? -ENOMSG : -EBADMSG);
		assert_true(m.n < whole);
	}
}

static void test_limits(void **state)
{
	struct msg m;
	struct dns_answer a;
	(void)state;
	head(&m, 0x8180, 20, "www.example.com", DNS_TYPE_A);
	for (uint8_t i = 0; i < 20; i++)
		record_a(&m, "www.example.com", 5, i);
	assert_int_equal(answer(&a, &m), 0);
	assert_int_equal(a.count, DNS_ANSWERS);
	head(&m, 0x8180, 60000, "www.example.com", DNS_TYPE_A);
	assert_int_equal(answer(&a, &m), -EBADMSG);
	head(&m, 0x8180, 1, "www.example.com", DNS_TYPE_A);
	name(&m, "www.example.com");
	record(&m, DNS_TYPE_A, 5, 5); /* an A of five bytes */
	m.n += 5;
	assert_int_equal(answer(&a, &m), -EBADMSG);
	head(&m, 0x8180, 1, "www.example.com", DNS_TYPE_A);
	record_a(&m, "www.example.com", 0x80000001, 5); /* RFC 2181 section 8 */
	assert_int_equal(answer(&a, &m), 0);
	assert_int_equal(a.ttl, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_question),
		cmocka_unit_test(test_addresses),
		cmocka_unit_test(test_foreign_records_ignored),
		cmocka_unit_test(test_cname_in_any_order),
		cmocka_unit_test(test_cname_loop),
		cmocka_unit_test(test_compression),
		cmocka_unit_test(test_bad_pointers),
		cmocka_unit_test(test_pointer_chain_is_bounded),
		cmocka_unit_test(test_not_ours),
		cmocka_unit_test(test_codes_and_truncation),
		cmocka_unit_test(test_cut_anywhere),
		cmocka_unit_test(test_limits),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
