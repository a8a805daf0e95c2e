/* Small pieces of memory: they are apart, zeroed, and go back to the system. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/sync/slab.h"

enum { PIECES = 60000, SIZES = SLAB_MAX + 100 };

static struct {
	uint8_t *p;
	size_t n;
	uint8_t with;
} pieces[PIECES];

static uint64_t seed = 1;

static unsigned rnd(unsigned n)
{
	seed = seed * 6364136223846793005U + 1442695040888963407U;
	return (unsigned)(seed >> 33) % n;
}

static void take(size_t i)
{
	size_t n = rnd(SIZES);
	pieces[i].p = slab_new(n);
	pieces[i].n = n;
	pieces[i].with = (uint8_t)rnd(256);
	assert_int_equal(0, (uintptr_t)pieces[i].p % 8);
	for (size_t k = 0; k < n; k++)
		if (pieces[i].p[k] != 0)
			fail_msg("byte %zu of %zu is not zero", k, n);
	memset(pieces[i].p, pieces[i].with, n);
}

static void give_back(size_t i)
{
	for (size_t k = 0; k < pieces[i].n; k++)
		if (pieces[i].p[k] != pieces[i].with)
			fail_msg("byte %zu of %zu is another's", k, pieces[i].n);
	slab_free(pieces[i].p, pieces[i].n);
	pieces[i].p = NULL;
}

/* Bytes of memory that no file is behind. (proc(5): statm is not exact, by some pages for each
 * processor.) */
static size_t resident(void)
{
	char line[200];
	size_t kb = 0;
	FILE *f = fopen("/proc/self/smaps_rollup", "r");
	assert_non_null(f);
	while (kb == 0 && fgets(line, sizeof(line), f))
		sscanf(line, "Anonymous: %zu kB", &kb);
	fclose(f);
	assert_true(kb > 0);
	return kb * 1024;
}

static void pieces_are_apart_and_zeroed(void **state)
{
	(void)state;
	for (size_t i = 0; i < PIECES; i++)
		take(i);
	for (int i = 0; i < 3 * PIECES; i++) {
		size_t k = rnd(PIECES);
		if (pieces[k].p)
			give_back(k);
		else
			take(k);
	}
	for (size_t i = 0; i < PIECES; i++)
		if (pieces[i].p)
			give_back(i);
	slab_free(NULL, 10);
}

static void what_is_free_goes_back(void **state)
{
	(void)state;
#if defined(__SANITIZE_ADDRESS__)
	skip();
#endif
	enum { N = PIECES, SIZE = 104 };
	size_t before = resident();
	for (size_t i = 0; i < N; i++)
		memset(pieces[i].p = slab_new(SIZE), 1, SIZE);
	size_t full = resident();
	/* A chunk of that size may have been kept from before. */
	assert_true(full - before + 64 * 1024 >= (size_t)N * SIZE);
	assert_true(full - before <= (size_t)N * (SIZE + 2)); /* nothing beside */
	for (size_t i = 0; i < N; i++)
		slab_free(pieces[i].p, SIZE);
	assert_true(resident() <= before + 256 * 1024);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pieces_are_apart_and_zeroed),
		cmocka_unit_test(what_is_free_goes_back),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
