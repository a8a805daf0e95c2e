/* Buffers: growth up to the maximum, compaction, all-or-nothing puts; the block pool. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "reactor/buf.h"

static int teardown(void **state)
{
	(void)state;
	block_trim();
	return 0;
}

static void empty_holds_no_block(void **state)
{
	(void)state;
	struct buf b;
	buf_init(&b, 1000);
	assert_null(b.base);
	assert_int_equal(0, buf_data(&b).n);
	assert_int_equal(0, buf_put(&b, SLICE("")));
	assert_null(b.base);
	assert_int_equal(0, buf_put(&b, SLICE("abc")));
	assert_non_null(b.base);
	buf_drop(&b, 3);
	assert_null(b.base);
	assert_true(buf_room(&b).iov_len > 0);
	assert_non_null(b.base);
	buf_added(&b, 0); /* nothing came after all */
	assert_null(b.base);
	buf_end(&b);
}

static void grows_to_its_maximum_and_no_further(void **state)
{
	(void)state;
	static const size_t maxima[] = { 1, 100, 511, 512, 513, 4096, 100000, 262144, 1000000 };
	for (size_t i = 0; i < ARRAY_LEN(maxima); i++) {
		struct buf b;
		size_t n = 0;
		buf_init(&b, maxima[i]);
		for (;;) {
			struct iovec room = buf_room(&b);
			if (room.iov_len == 0)
				break;
			assert_true(n + room.iov_len <= maxima[i]);
			size_t part = MIN(room.iov_len, 777);
			memset(room.iov_base, (int)(n & 127), part);
			buf_added(&b, part);
			n += part;
		}
		assert_int_equal(maxima[i], n);
		assert_int_equal(-ENOBUFS, buf_put(&b, SLICE("x")));
		buf_drop(&b, 1);
		assert_int_equal(-ENOBUFS, buf_put(&b, SLICE("xy")));
		assert_int_equal(0, buf_put(&b, SLICE("x")));
		buf_end(&b);
	}
}

static void room_for_gives_what_was_asked(void **state)
{
	(void)state;
	struct buf b;
	buf_init(&b, 100000);
	assert_int_equal(0, buf_puts(&b, "head"));
	assert_true(buf_room_for(&b, 70000).iov_len >= 70000);
	assert_true(b.cap >= 70004);
	assert_memory_equal("head", buf_data(&b).p, 4);
	assert_int_equal(99996, buf_room_for(&b, 1 << 20).iov_len);
	assert_memory_equal("head", buf_data(&b).p, 4);
	buf_end(&b);
}

/* A queue that never empties stays in place: dropped bytes are reused, not added to. */
static void compacts_instead_of_growing(void **state)
{
	(void)state;
	struct buf b;
	buf_init(&b, 1 << 20);
	unsigned char in = 0, out = 0;
	for (int i = 0; i < 100000; i++) {
		unsigned char piece[100];
		for (size_t k = 0; k < sizeof(piece); k++)
			piece[k] = in++;
		assert_int_equal(0, buf_put(&b, slice_of(piece, sizeof(piece))));
		size_t n = i ? sizeof(piece) : sizeof(piece) - 1; /* one byte stays behind */
		struct slice d = buf_data(&b);
		for (size_t k = 0; k < n; k++)
			if ((unsigned char)d.p[k] != out++)
				fail_msg("byte %zu of round %d differs", k, i);
		buf_drop(&b, n);
	}
	assert_int_equal(1, b.len);
	assert_true(b.cap <= 1024);
	buf_end(&b);
}

static void puts_are_all_or_nothing(void **state)
{
	(void)state;
	struct buf b;
	buf_init(&b, 10);
	assert_int_equal(0, buf_printf(&b, "%d-%s", 12345, "ab"));
	assert_int_equal(-ENOBUFS, buf_printf(&b, "%s", "cde"));
	assert_int_equal(-ENOBUFS, buf_puts(&b, "cde"));
	assert_int_equal(8, b.len);
	assert_int_equal(0, buf_printf(&b, "%s", "cd"));
	assert_memory_equal("12345-abcd", buf_data(&b).p, 10);
	assert_int_equal(0, buf_printf(&b, "%s", ""));
	buf_end(&b);
}

static void pool_gives_blocks_again(void **state)
{
	(void)state;
	size_t a = 600, c = 262145, small = 1;
	char *p = block_get(&a);
	assert_int_equal(1024, a);
	block_put(p, a);
	a = 1000;
	assert_ptr_equal(p, block_get(&a));
	block_put(p, a);
	block_put(NULL, 512);
	p = block_get(&c); /* past the largest class */
	assert_int_equal(262145, c);
	memset(p, 1, c);
	block_put(p, c);
	p = block_get(&small);
	assert_int_equal(512, small);
	block_put(p, small);
	char *many[64];
	size_t size = 262144;
	for (size_t i = 0; i < ARRAY_LEN(many); i++)
		many[i] = block_get(&size);
	for (size_t i = 0; i < ARRAY_LEN(many); i++)
		block_put(many[i], size); /* keeps a few, frees the rest: ASan would tell */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(empty_holds_no_block, teardown),
		cmocka_unit_test_teardown(grows_to_its_maximum_and_no_further, teardown),
		cmocka_unit_test_teardown(room_for_gives_what_was_asked, teardown),
		cmocka_unit_test_teardown(compacts_instead_of_growing, teardown),
		cmocka_unit_test_teardown(puts_are_all_or_nothing, teardown),
		cmocka_unit_test_teardown(pool_gives_blocks_again, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
