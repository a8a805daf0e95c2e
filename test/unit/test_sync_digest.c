#include <setjmp.h>
#include <sys/mman.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "proto/sync/digest.h"

enum { MOST = 5 * SYNC_BLOCK };

static uint8_t bytes[MOST];

static void fill(unsigned seed)
{
	for (size_t i = 0; i < sizeof(bytes); i++) {
		seed = seed * 1103515245 + 12345;
		bytes[i] = (uint8_t)(seed >> 16);
	}
}

static void sha(uint8_t out[32], uint8_t first, const void *p, size_t n, const void *q, size_t m)
{
	struct sha256 s;
	sha256_init(&s);
	sha256_add(&s, slice_of(&first, 1));
	sha256_add(&s, slice_of(p, n));
	sha256_add(&s, slice_of(q, m));
	sha256_end(&s, out);
}

/* As digest.h says it, all at once. */
static void plain(uint8_t out[32], const uint8_t *p, size_t n)
{
	uint8_t hashes[MOST / SYNC_BLOCK + 1][32], size[8] = { 0 };
	size_t blocks = 0;

	if (n <= SYNC_BLOCK) {
		sha(out, 0, p, n, NULL, 0);
		return;
	}
	for (size_t at = 0; at < n; at += SYNC_BLOCK)
		sha(hashes[blocks++], 0, p + at, MIN(n - at, SYNC_BLOCK), NULL, 0);
	for (int i = 0; i < 4; i++)
		size[7 - i] = (uint8_t)(n >> 8 * i);
	sha(out, 1, hashes, 32 * blocks, size, 8);
}

static struct weak plain_weak(const uint8_t *p, size_t n)
{
	struct weak w = { 0, 0 };
	for (size_t i = 0; i < n; i++) {
		w.a += p[i];
		w.b += (uint32_t)(n - i) * p[i];
	}
	return w;
}

/* FIPS 180-4's examples, as NIST publishes them. */
static void test_sha256(void **state)
{
	static const uint8_t abc[32] = { 0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea,
					 0x41, 0x41, 0x40, 0xde, 0x5d, 0xae, 0x22, 0x23,
					 0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17, 0x7a, 0x9c,
					 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad };
	static const uint8_t none[32] = { 0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14,
					  0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
					  0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c,
					  0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55 };
	uint8_t out[32];
	struct sha256 s;

	(void)state;
	sha256_init(&s);
	sha256_add(&s, SLICE("a"));
	sha256_add(&s, SLICE(""));
	sha256_add(&s, SLICE("bc"));
	sha256_end(&s, out);
	assert_memory_equal(out, abc, 32);
	sha256_init(&s);
	sha256_end(&s, out);
	assert_memory_equal(out, none, 32);
}

static void test_weak(void **state)
{
	(void)state;
	fill(1);
	for (size_t n = 0; n < 100; n++) {
		struct weak w = weak_of(slice_of(bytes + n, n)), x = plain_weak(bytes + n, n);
		assert_int_equal(w.a, x.a);
		assert_int_equal(w.b, x.b);
	}
	memset(bytes, 255, SYNC_BLOCK); /* the largest sums */
	struct weak w = weak_of(slice_of(bytes, SYNC_BLOCK)), x = plain_weak(bytes, SYNC_BLOCK);
	assert_int_equal(weak_value(w), weak_value(x));
	fill(2);
	size_t n = 1000;
	w = weak_of(slice_of(bytes, n));
	for (size_t at = 0; at < 500; at++) {
		w = weak_roll(w, n, bytes[at], bytes[at + n]);
		x = plain_weak(bytes + at + 1, n);
		assert_int_equal(w.a, x.a);
		assert_int_equal(w.b, x.b);
	}
	w = weak_shrink(w, n, bytes[500]);
	x = plain_weak(bytes + 501, n - 1);
	assert_int_equal(w.a, x.a);
	assert_int_equal(w.b, x.b);
}

static void check_signature(const struct signature *s, const uint8_t *p, size_t n)
{
	uint8_t hash[32];

	assert_int_equal(s->size, n);
	assert_int_equal(s->n, (n + SYNC_BLOCK - 1) / SYNC_BLOCK);
	for (size_t i = 0; i < s->n; i++) {
		size_t at = i * SYNC_BLOCK, len = MIN(n - at, SYNC_BLOCK);
		assert_int_equal(s->v[i].weak, weak_value(plain_weak(p + at, len)));
		digest_block(slice_of(p + at, len), hash);
		assert_memory_equal(s->v[i].strong, hash, SYNC_STRONG);
	}
}

static const size_t sizes[] = {
	0,   1, 100, SYNC_BLOCK - 1, SYNC_BLOCK, SYNC_BLOCK + 1, 2 * SYNC_BLOCK, 3 * SYNC_BLOCK - 7,
	MOST
};

static void test_pieces(void **state)
{
	uint8_t want[32], got[32];
	struct signature sig;
	struct digest d;

	(void)state;
	fill(3);
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		plain(want, bytes, sizes[i]);
		for (int round = 0; round < 20; round++) {
			digest_init(&d, round % 2 ? &sig : NULL);
			for (size_t at = 0; at < sizes[i];) {
				size_t n = 1 + (size_t)rand() % (round < 4 ? MOST : 9000);
				n = MIN(n, sizes[i] - at);
				digest_add(&d, slice_of(bytes + at, n));
				at += n;
			}
			digest_end(&d, got);
			assert_memory_equal(got, want, 32);
			if (round % 2) {
				check_signature(&sig, bytes, sizes[i]);
				signature_end(&sig);
				assert_null(sig.v);
			}
		}
	}
}

/* Zeros in all lengths and places, as holes and as bytes. */
static void test_zeros(void **state)
{
	uint8_t want[32], got[32];
	struct signature sig;

	(void)state;
	for (int round = 0; round < 200; round++) {
		struct digest d;
		size_t size = 0;
		digest_init(&d, &sig);
		while (size < MOST) {
			size_t n = (size_t)rand() % (2 * SYNC_BLOCK + SYNC_BLOCK / 2);
			if (rand() % 4 == 0)
				n = SYNC_BLOCK * (size_t)(rand() % 3);
			n = MIN(n, MOST - size);
			if (rand() % 2) {
				memset(bytes + size, 0, n);
				digest_zeros(&d, n);
			} else {
				memset(bytes + size, rand(), n);
				digest_add(&d, slice_of(bytes + size, n));
			}
			size += n;
			if (rand() % 6 == 0)
				break;
		}
		digest_end(&d, got);
		plain(want, bytes, size);
		assert_memory_equal(got, want, 32);
		check_signature(&sig, bytes, size);
		signature_end(&sig);
	}
}

static int temp_file(void)
{
	char path[] = "/tmp/test_sync_digest.XXXXXX";
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	unlink(path);
	return fd;
}

static void test_file(void **state)
{
	uint8_t want[32], got[32];
	struct signature sig;

	(void)state;
	fill(4);
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		int fd = temp_file();
		assert_int_equal(write(fd, bytes, sizes[i]), sizes[i]);
		assert_int_equal(digest_file(fd, got, &sig), 0);
		plain(want, bytes, sizes[i]);
		assert_memory_equal(got, want, 32);
		check_signature(&sig, bytes, sizes[i]);
		signature_end(&sig);
		close(fd);
	}
	/* a directory cannot be read */
	int fd = open("/tmp", O_RDONLY | O_DIRECTORY);
	assert_true(fd >= 0);
	assert_int_equal(digest_file(fd, got, &sig), -EISDIR);
	assert_null(sig.v);
	close(fd);
}

/* Data here and there in a file of a few blocks. */
static void test_holes(void **state)
{
	uint8_t want[32], got[32];
	struct signature sig;

	(void)state;
	for (int round = 0; round < 50; round++) {
		int fd = temp_file();
		memset(bytes, 0, sizeof(bytes));
		size_t size = (size_t)rand() % MOST;
		assert_int_equal(ftruncate(fd, (off_t)size), 0);
		for (int k = rand() % 4; k > 0 && size > 0; k--) {
			size_t at = (size_t)rand() % size;
			size_t n = MIN((size_t)rand() % 5000, size - at);
			memset(bytes + at, 'x', n);
			assert_int_equal(pwrite(fd, bytes + at, n, (off_t)at), n);
		}
		assert_int_equal(digest_file(fd, got, &sig), 0);
		plain(want, bytes, size);
		assert_memory_equal(got, want, 32);
		check_signature(&sig, bytes, size);
		signature_end(&sig);
		close(fd);
	}
}

static void test_too_large(void **state)
{
	uint8_t out[32];
	struct signature sig;
	int fd = memfd_create("large", MFD_CLOEXEC);
	(void)state;
	assert_int_equal(ftruncate(fd, (off_t)SYNC_FILE_MAX + 1), 0);
	assert_int_equal(digest_file(fd, out, &sig), -EFBIG);
	assert_int_equal(sig.n, 0);
	close(fd);
}

static double seconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* 10 GiB of hole are 160 K cheap steps: nothing like the 6 s that reading them would take. And
 * figures for who reads the log. */
static void test_speed(void **state)
{
	uint8_t out[32];
	struct signature sig;
	int fd = temp_file();

	(void)state;
	assert_int_equal(ftruncate(fd, (off_t)10 << 30), 0);
	double t = seconds();
	assert_int_equal(digest_file(fd, out, &sig), 0);
	t = seconds() - t;
	print_message("10 GiB of hole: %.0f ms\n", 1e3 * t);
	assert_int_equal(sig.n, 10 << 14);
	signature_end(&sig);
	assert_true(t < 3);
	close(fd);

	uint32_t sum = 0;
	t = seconds();
	for (int i = 0; i < 400; i++)
		sum += weak_of(slice_of(bytes, MOST)).b;
	t = seconds() - t;
	print_message("weak_of: %.1f GB/s (%u)\n", 400 * MOST / t / 1e9, sum % 2);
	t = seconds();
	for (int i = 0; i < 100; i++)
		digest_block(slice_of(bytes, SYNC_BLOCK), out);
	t = seconds() - t;
	print_message("digest_block: %.2f GB/s\n", 100 * SYNC_BLOCK / t / 1e9);
	struct digest d;
	t = seconds();
	digest_init(&d, &sig);
	for (int i = 0; i < 100; i++)
		digest_add(&d, slice_of(bytes, MOST));
	digest_end(&d, out);
	t = seconds() - t;
	signature_end(&sig);
	print_message("digest and signature: %.2f GB/s\n", 100 * MOST / t / 1e9);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sha256), cmocka_unit_test(test_weak),
		cmocka_unit_test(test_pieces), cmocka_unit_test(test_zeros),
		cmocka_unit_test(test_file),   cmocka_unit_test(test_holes),
		cmocka_unit_test(test_speed),  cmocka_unit_test(test_too_large),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
