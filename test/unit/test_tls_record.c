/* The record layer of TLS 1.3 by itself: records made by RFC 8446 and broken in every way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <unistd.h>

#include <openssl/digest.h>
#include <openssl/hkdf.h>
#include <openssl/ssl.h>

#include "reactor/tls_record.h"

enum { HEADER = 5, TAG = 16, BIG = RECORD_MAX + 1024 };

static const uint16_t ciphers[] = { 0x1301, 0x1302, 0x1303 };
static const struct iovec nowhere;
static char wire[2 * BIG], plain[2 * BIG];

/* --- two ends --- */

static struct records us, them;

static void start(uint16_t cipher, bool we_serve)
{
	records_end(&us);
	records_end(&them);
	memset(us.in.secret, 0xc5, sizeof(us.in.secret));
	memset(us.out.secret, 0x3a, sizeof(us.out.secret));
	memcpy(them.out.secret, us.in.secret, sizeof(us.in.secret));
	memcpy(them.in.secret, us.out.secret, sizeof(us.out.secret));
	assert_int_equal(records_start(&us, cipher, we_serve, 0, 0), 0);
	assert_int_equal(records_start(&them, cipher, !we_serve, 0, 0), 0);
}

static int teardown(void **state)
{
	(void)state;
	static const struct records none;
	records_end(&us);
	records_end(&them);
	assert_memory_equal(&us, &none, sizeof(us)); /* no secret is left */
	return 0;
}

/* A record as the RFC says, with any content type, size and padding: its size on the wire. */
static size_t forge(uint8_t type, const void *content, size_t n, size_t padding, char *out)
{
	size_t inner = n + 1 + padding, sealed;
	uint8_t nonce[12],
	    header[HEADER] = { 23, 3, 3, (uint8_t)((inner + TAG) >> 8), (uint8_t)(inner + TAG) };
	memset(plain, 0, n + 1 + padding);
	if (n)
		memcpy(plain, content, n);
	plain[n] = (char)type;
	memcpy(nonce, them.out.iv, 12);
	for (int i = 0; i < 8; i++)
		nonce[11 - i] ^= (uint8_t)(them.out.seq >> 8 * i);
	them.out.seq++;
	memcpy(out, header, HEADER);
	assert_int_equal(EVP_AEAD_CTX_seal(&them.out.aead, (uint8_t *)out + HEADER, &sealed,
					   inner + TAG, nonce, 12, (uint8_t *)plain, inner, header,
					   HEADER),
			 1);
	assert_int_equal(sealed, inner + TAG);
	return HEADER + sealed;
}

static struct record_opened got;

static enum record_event open_wire(size_t n, struct iovec out)
{
	return record_open(&us, wire, n, out, &got);
}

static enum record_event forged(uint8_t type, const void *content, size_t n)
{
	size_t size = forge(type, content, n, 0, wire);
	enum record_event e = open_wire(size, nowhere);
	assert_true(got.used == size || e == RECORD_FAULT);
	return e;
}

static void expect_fault(enum record_event e, uint8_t alert, const char *why)
{
	if (e != RECORD_FAULT || got.alert != alert || !strstr(got.why, why))
		fail_msg("event %d, alert %u, \"%s\"; wanted alert %u, \"%s\"", (int)e, got.alert,
			 got.why ? got.why : "", alert, why);
}

static size_t seal(struct records *r, const void *p, size_t n, char *out)
{
	struct iovec iov = { (void *)(uintptr_t)p, n };
	struct record_source source = { &iov, 1, 0 };
	size_t size = record_seal(r, RECORD_DATA, &source, out);
	assert_int_equal(size, n + RECORD_OVERHEAD);
	assert_int_equal(source.n, 0);
	return size;
}

/* --- what must work --- */

static size_t unhex(const char *text, uint8_t *out)
{
	size_t n = strlen(text) / 2;
	for (size_t i = 0; i < n; i++) {
		char pair[3] = { text[2 * i], text[2 * i + 1], 0 };
		out[i] = (uint8_t)strtoul(pair, NULL, 16);
	}
	return n;
}

/* RFC 8448 section 3: the client's and the server's application data. */
static void test_known_answers(void **state)
{
	(void)state;
	uint8_t want[128], data[50];
	records_end(&us);
	unhex("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5", us.out.secret);
	unhex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643", us.in.secret);
	assert_int_equal(records_start(&us, 0x1301, false, 1, 0), 0);
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)i;
	size_t n = unhex("1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8"
			 "a5b46b395bd54a9a20441e2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4",
			 want);
	assert_int_equal(seal(&us, data, sizeof(data), wire), n);
	assert_memory_equal(wire, want, n);
	n = unhex("17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90e6df"
		  "fc602dcb501a59a8fcc49c4bf2e5f0a21c0047c2abf332540dd032e167c2955d",
		  (uint8_t *)wire);
	assert_int_equal(open_wire(n, nowhere), RECORD_OPENED);
	assert_int_equal(got.data.n, sizeof(data));
	assert_memory_equal(got.data.p, data, sizeof(data));
}

static void test_round_trip(void **state)
{
	(void)state;
	static const size_t sizes[] = { 1, 2, 15, 16, 17, 4095, 5000, RECORD_MAX - 1, RECORD_MAX };
	static char data[RECORD_MAX], back[RECORD_MAX + 1];
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (char)(i * 7 >> 3);
	for (size_t c = 0; c < ARRAY_LEN(ciphers); c++) {
		start(ciphers[c], c & 1);
		for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
			size_t n = sizes[i], size = seal(&them, data, n, wire);
			assert_int_equal(record_room(slice_of(wire, size)), n + 1);
			assert_int_equal(record_room(slice_of(wire, size - 1)), 0);
			assert_int_equal(record_room(slice_of(wire, 4)), 0);
			for (size_t part = 0; part < size; part += 1 + part / 3)
				assert_int_equal(open_wire(part, nowhere), RECORD_PART);
			/* Straight to where it is wanted, or, one byte too small, in place. */
			struct iovec out = { back, i & 1 ? n : n + 1 };
			assert_int_equal(open_wire(size, out), RECORD_OPENED);
			assert_int_equal(got.used, size);
			assert_ptr_equal(got.data.p, i & 1 ? wire + HEADER : back);
			assert_int_equal(got.data.n, n);
			assert_memory_equal(got.data.p, data, n);
		}
	}
	assert_int_equal(records_start(&us, 0x1304, false, 0, 0), -EINVAL);
}

/* Small pieces share a record, large ones are not copied, the limit holds. */
static void test_gather(void **state)
{
	(void)state;
	static char data[50000];
	struct iovec iov[] = { { NULL, 0 },           { data, 12 },           { data + 12, 100 },
			       { data + 112, 20000 }, { data + 20112, 5000 }, { data + 25112, 3 },
			       { NULL, 0 },           { data + 25115, 7 } };
	static const size_t want[] = { RECORD_MAX, 25122 - RECORD_MAX };
	struct record_source source = { iov, ARRAY_LEN(iov), 0 };
	size_t at = 0;
	start(0x1301, true);
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (char)(i * 31 >> 4);
	for (size_t i = 0; i < ARRAY_LEN(want); i++) {
		size_t size = record_seal(&them, RECORD_DATA, &source, wire);
		assert_int_equal(open_wire(size, nowhere), RECORD_OPENED);
		assert_int_equal(got.data.n, want[i]);
		assert_memory_equal(got.data.p, data + at, got.data.n);
		at += got.data.n;
	}
	assert_int_equal(source.n, 0);
	char gathered[RECORD_MAX];
	source = (struct record_source){ iov + 3, 2, 0 };
	struct slice piece = record_take(&source, gathered);
	assert_ptr_equal(piece.p, data + 112);
	assert_int_equal(piece.n, RECORD_MAX);
}

static void test_padding(void **state)
{
	(void)state;
	start(0x1303, true);
	for (size_t padding = 1; padding <= RECORD_MAX - 3; padding = padding * 4 + 1) {
		size_t size = forge(RECORD_DATA, "abc", 3, MIN(padding, RECORD_MAX - 3u), wire);
		assert_int_equal(open_wire(size, (struct iovec){ plain, sizeof(plain) }),
				 RECORD_OPENED);
		assert_int_equal(got.data.n, 3);
		assert_memory_equal(got.data.p, "abc", 3);
	}
	size_t size = forge(RECORD_DATA, "abc", 3, RECORD_MAX - 3, wire);
	assert_int_equal(open_wire(size, nowhere), RECORD_OPENED);
}

/* --- keys that change --- */

static void test_key_update(void **state)
{
	(void)state;
	static const uint8_t quiet[] = { 24, 0, 0, 1, 0 }, asking[] = { 24, 0, 0, 1, 1 };
	for (size_t c = 0; c < ARRAY_LEN(ciphers); c++) {
		start(ciphers[c], c & 1);
		uint8_t before[48];
		memcpy(before, us.in.secret, 48);
		assert_false(record_renewal_due(&us));
		assert_int_equal(open_wire(record_seal_renewal(&them, wire), nowhere),
				 RECORD_NOTHING);
		assert_false(record_renewal_due(&us));
		assert_memory_not_equal(us.in.secret, before, 48);
		assert_int_equal(us.in.seq, 0);
		assert_int_equal(open_wire(seal(&them, "a", 1, wire), nowhere), RECORD_OPENED);
		/* Cut after each byte, in records of their own. */
		for (size_t cut = 1; cut < sizeof(asking); cut++) {
			assert_int_equal(forged(RECORD_HANDSHAKE, asking, cut), RECORD_NOTHING);
			assert_int_equal(
			    forged(RECORD_HANDSHAKE, asking + cut, sizeof(asking) - cut),
			    RECORD_NOTHING);
			assert_true(record_renewal_due(&us));
			record_seal_renewal(&them, plain); /* only for its key */
			char answer[64];
			size_t n = record_seal_renewal(&us, answer);
			assert_int_equal(n, RECORD_OVERHEAD + 5);
			assert_false(record_renewal_due(&us));
			struct record_opened o;
			assert_int_equal(record_open(&them, answer, n, nowhere, &o),
					 RECORD_NOTHING);
			assert_false(record_renewal_due(&them));
			n = seal(&us, "b", 1, answer);
			assert_int_equal(record_open(&them, answer, n, nowhere, &o), RECORD_OPENED);
			assert_int_equal(open_wire(seal(&them, "c", 1, wire), nowhere),
					 RECORD_OPENED);
		}
		/* Sealed with the old key after the update. */
		forge(RECORD_HANDSHAKE, quiet, sizeof(quiet), 0, wire);
		assert_int_equal(open_wire(RECORD_OVERHEAD + 5, nowhere), RECORD_NOTHING);
		expect_fault(forged(RECORD_DATA, "x", 1), SSL_AD_BAD_RECORD_MAC, "bad record mac");
	}
}

static void test_key_wears_out(void **state)
{
	(void)state;
	records_end(&us);
	records_end(&them);
	us.renew_after = 3;
	assert_int_equal(records_start(&us, 0x1302, true, 0, 2), 0);
	assert_false(record_renewal_due(&us));
	seal(&us, "x", 1, wire);
	assert_true(record_renewal_due(&us));
	record_seal_renewal(&us, wire);
	assert_false(record_renewal_due(&us));
	assert_int_equal(us.out.seq, 0);
	start(0x1301, true);
	us.out.seq = RECORD_RENEW_AFTER - 1;
	assert_false(record_renewal_due(&us));
	us.out.seq++;
	assert_true(record_renewal_due(&us));
}

/* --- what else may come --- */

static void test_tickets(void **state)
{
	(void)state;
	/* Two tickets and the head of a third, then its rest, in any pieces. */
	static char tickets[3 * 304];
	for (int i = 0; i < 3; i++)
		memcpy(tickets + 304 * i, "\x04\x00\x01\x2c", 4);
	for (size_t cut = 1; cut < sizeof(tickets); cut += 7) {
		start(0x1301, false);
		assert_int_equal(forged(RECORD_HANDSHAKE, tickets, cut), RECORD_NOTHING);
		assert_int_equal(forged(RECORD_HANDSHAKE, tickets + cut, sizeof(tickets) - cut),
				 RECORD_NOTHING);
		assert_int_equal(forged(RECORD_DATA, "x", 1), RECORD_OPENED);
	}
	/* Data must not come between the pieces of one. */
	assert_int_equal(forged(RECORD_HANDSHAKE, tickets, 10), RECORD_NOTHING);
	expect_fault(forged(RECORD_DATA, "x", 1), SSL_AD_UNEXPECTED_MESSAGE, "inside");
	start(0x1301, false);
	expect_fault(forged(RECORD_HANDSHAKE, "\x04\x01\x00\x00", 4), SSL_AD_ILLEGAL_PARAMETER,
		     "oversized");
	start(0x1301, true); /* a server is not sent any */
	expect_fault(forged(RECORD_HANDSHAKE, tickets, 304), SSL_AD_UNEXPECTED_MESSAGE,
		     "unexpected message");
}

static void test_alerts(void **state)
{
	(void)state;
	start(0x1301, true);
	assert_int_equal(forged(RECORD_ALERT, "\x01\x5a", 2), RECORD_NOTHING); /* user_canceled */
	assert_int_equal(forged(RECORD_ALERT, "\x02\x50", 2), RECORD_ALERTED);
	assert_int_equal(got.alert, SSL_AD_INTERNAL_ERROR);
	assert_int_equal(forged(RECORD_ALERT, "\x01\x30", 2),
			 RECORD_ALERTED); /* level: no matter */
	assert_int_equal(got.alert, SSL_AD_UNKNOWN_CA);
	assert_int_equal(forged(RECORD_ALERT, "\x02\xff", 2), RECORD_ALERTED); /* unknown */
	assert_int_equal(forged(RECORD_ALERT, "\x01\x00", 2), RECORD_CLOSED);
	expect_fault(forged(RECORD_ALERT, "\x01", 1), SSL_AD_DECODE_ERROR, "bad alert");
	expect_fault(forged(RECORD_ALERT, "\x01\x00\x01", 3), SSL_AD_DECODE_ERROR, "bad alert");
	expect_fault(forged(RECORD_ALERT, "", 0), SSL_AD_UNEXPECTED_MESSAGE, "empty alert");
	assert_int_equal(open_wire(record_seal_alert(&them, SSL_AD_CLOSE_NOTIFY, wire), nowhere),
			 RECORD_CLOSED);
	assert_int_equal(open_wire(record_seal_alert(&them, SSL_AD_DECODE_ERROR, wire), nowhere),
			 RECORD_ALERTED);
	assert_int_equal(got.alert, SSL_AD_DECODE_ERROR);
}

/* --- what must not --- */

static void test_refused(void **state)
{
	(void)state;
	static const struct {
		const char *content;
		size_t n;
		uint8_t type, alert;
		const char *why;
	} bad[] = {
		{ "x", 1, 20, SSL_AD_UNEXPECTED_MESSAGE, "unexpected record" },
		{ "x", 1, 24, SSL_AD_UNEXPECTED_MESSAGE, "unexpected record" }, /* heartbeat */
		{ "x", 1, 0xff, SSL_AD_UNEXPECTED_MESSAGE, "unexpected record" },
		{ "x", 0, 0, SSL_AD_UNEXPECTED_MESSAGE, "without a type" },
		{ "\0\0\0", 3, 0, SSL_AD_UNEXPECTED_MESSAGE, "without a type" },
		{ "", 0, 22, SSL_AD_UNEXPECTED_MESSAGE, "empty handshake" },
		{ "\x01\x00\x00\x00", 4, 22, SSL_AD_UNEXPECTED_MESSAGE, "unexpected message" },
		{ "\x0d\x00\x00\x00", 4, 22, SSL_AD_UNEXPECTED_MESSAGE, "unexpected message" },
		{ "\x14\x00\x00\x20", 4, 22, SSL_AD_UNEXPECTED_MESSAGE, "unexpected message" },
		{ "\x18\x00\x00\x00", 4, 22, SSL_AD_DECODE_ERROR, "bad key update" },
		{ "\x18\x00\x00\x02\x00\x00", 6, 22, SSL_AD_DECODE_ERROR, "bad key update" },
		{ "\x18\x00\x00\x01\x02", 5, 22, SSL_AD_ILLEGAL_PARAMETER, "bad key update" },
		{ "\x18\x00\x00\x01\x00\x18", 6, 22, SSL_AD_UNEXPECTED_MESSAGE, "after a key" },
	};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		start(0x1301, i & 1);
		expect_fault(forged(bad[i].type, bad[i].content, bad[i].n), bad[i].alert,
			     bad[i].why);
	}
}

static void test_too_large(void **state)
{
	(void)state;
	static char data[BIG];
	start(0x1301, true);
	expect_fault(open_wire(forge(RECORD_DATA, data, RECORD_MAX + 1, 0, wire), nowhere),
		     SSL_AD_RECORD_OVERFLOW, "data length too long");
	start(0x1301, true); /* padding counts */
	expect_fault(open_wire(forge(RECORD_DATA, data, RECORD_MAX, 1, wire), nowhere),
		     SSL_AD_RECORD_OVERFLOW, "data length too long");
	start(0x1301, true); /* refused by its header alone */
	expect_fault(record_open(&us, (char[]){ 23, 3, 3, 0x41, 1 }, 5, nowhere, &got),
		     SSL_AD_RECORD_OVERFLOW, "encrypted length too long");
	assert_int_equal(record_open(&us, (char[]){ 23, 3, 3, 0x41, 0 }, 5, nowhere, &got),
			 RECORD_PART);
	for (char n = 0; n < 16; n++)
		expect_fault(record_open(&us, (char[]){ 23, 3, 3, 0, n }, 5, nowhere, &got),
			     SSL_AD_BAD_RECORD_MAC, "bad record mac");
	memset(wire, 0, 64);
	memcpy(wire, (char[]){ 23, 3, 3, 0, 16 }, 5);
	expect_fault(open_wire(21, nowhere), SSL_AD_BAD_RECORD_MAC, "bad record mac");
}

/* Only protected records may come: not even what was allowed during the handshake. */
static void test_unprotected(void **state)
{
	(void)state;
	for (unsigned type = 0; type < 256; type++) {
		start(0x1301, type & 1);
		wire[0] = (char)type;
		if (type != 23)
			expect_fault(open_wire(1, nowhere), SSL_AD_UNEXPECTED_MESSAGE,
				     "unexpected record");
		else
			assert_int_equal(open_wire(1, nowhere), RECORD_PART);
	}
}

/* Every bit of a record, flipped; and the record repeated, or left out. */
static void test_tampered(void **state)
{
	(void)state;
	char data[100] = "attack at dawn", saved[200];
	for (size_t c = 0; c < ARRAY_LEN(ciphers); c++) {
		start(ciphers[c], c & 1);
		size_t size = seal(&them, data, sizeof(data), saved);
		for (size_t bit = 0; bit < 8 * size; bit++) {
			memset(wire, 0x55, sizeof(wire));
			memcpy(wire, saved, size);
			wire[bit / 8] ^= (char)(1 << bit % 8);
			us.in.seq = 0;
			enum record_event e = open_wire(sizeof(wire), nowhere);
			assert_int_equal(e, RECORD_FAULT);
			assert_true(got.alert == (bit < 8 ? SSL_AD_UNEXPECTED_MESSAGE
							  : SSL_AD_BAD_RECORD_MAC) ||
				    (bit / 8 == 3 && got.alert == SSL_AD_RECORD_OVERFLOW));
			if (bit >= 8 * HEADER) /* nothing of it comes out */
				assert_memory_not_equal(wire + HEADER, data, 14);
		}
		us.in.seq = 0;
		memcpy(wire, saved, size);
		assert_int_equal(open_wire(size, nowhere), RECORD_OPENED);
		memcpy(wire, saved, size);
		expect_fault(open_wire(size, nowhere), SSL_AD_BAD_RECORD_MAC, "bad record mac");
		start(ciphers[c], c & 1);
		seal(&them, data, 1, saved);
		expect_fault(open_wire(seal(&them, data, 1, wire), nowhere), SSL_AD_BAD_RECORD_MAC,
			     "bad record mac");
	}
}

/* A peer that keeps us busy and says nothing. */
static void test_idle_records(void **state)
{
	(void)state;
	static const struct {
		const char *content;
		size_t n;
		uint8_t type;
	} idle[] = { { "", 0, 23 },
		     { "\x01\x5a", 2, 21 },
		     { "\x04\x00\x00\x00\x04\x00\x00\x00", 8, 22 },
		     { "\x04", 1, 22 } };
	for (size_t i = 0; i < ARRAY_LEN(idle); i++) {
		start(0x1301, false);
		for (int round = 0; round < 3 && idle[i].n != 1; round++) {
			for (int k = 0; k < RECORD_IDLE_MAX; k++)
				assert_int_equal(forged(idle[i].type, idle[i].content, idle[i].n),
						 RECORD_NOTHING);
			assert_int_equal(forged(RECORD_DATA, "x", 1), RECORD_OPENED);
		}
		enum record_event e = RECORD_NOTHING;
		int k = 0;
		for (; e == RECORD_NOTHING && k < 1000; k++) {
			bool part =
			    idle[i].n == 1; /* of a ticket without end: 04 00 00 00 04 ... */
			e = forged(idle[i].type, part && k % 4 ? "\0" : idle[i].content, idle[i].n);
		}
		assert_int_equal(k, RECORD_IDLE_MAX + 1);
		expect_fault(e, SSL_AD_UNEXPECTED_MESSAGE, "too many records without data");
	}
	start(0x1301, true);
	for (int k = 0; k < RECORD_IDLE_MAX; k++)
		assert_int_equal(open_wire(record_seal_renewal(&them, wire), nowhere),
				 RECORD_NOTHING);
	expect_fault(open_wire(record_seal_renewal(&them, wire), nowhere),
		     SSL_AD_UNEXPECTED_MESSAGE, "too many records without data");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_known_answers), cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_gather),        cmocka_unit_test(test_padding),
		cmocka_unit_test(test_key_update),    cmocka_unit_test(test_key_wears_out),
		cmocka_unit_test(test_tickets),       cmocka_unit_test(test_alerts),
		cmocka_unit_test(test_refused),       cmocka_unit_test(test_too_large),
		cmocka_unit_test(test_unprotected),   cmocka_unit_test(test_tampered),
		cmocka_unit_test(test_idle_records),
	};
	alarm(100);
	return cmocka_run_group_tests(tests, NULL, teardown);
}
