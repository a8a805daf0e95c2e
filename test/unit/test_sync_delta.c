/* Deltas: what is rebuilt is the new file, whatever was edited; what is sent is what is new; and
 * input that is made to have equal sums costs no more than its length. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <time.h>

#include <cmocka.h>

#include "proto/sync/delta.h"

struct bytes {
	uint8_t *p;
	size_t n;
};

static uint64_t seed = 1;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static size_t below(size_t n)
{
	return (size_t)(rnd() % n);
}

static struct bytes bytes_new(size_t n)
{
	struct bytes b = { xmalloc(n + 1), n };
	for (size_t i = 0; i < n; i += 8) {
		uint64_t r = rnd();
		memcpy(b.p + i, &r, MIN(n - i, sizeof(r)));
	}
	return b;
}

static void sign(struct bytes b, struct signature *s)
{
	struct digest d;
	uint8_t out[32];
	digest_init(&d, s);
	digest_add(&d, slice_of(b.p, b.n));
	digest_end(&d, out);
}

struct rebuild {
	struct bytes old, got;
	size_t room, data, copies; /* copies: neighbours are one */
	uint64_t copy_end;
	int fail_after; /* ops, then -EIO; 0: never */
};

static int rebuild_add(struct rebuild *r, const void *p, size_t n)
{
	if (r->fail_after && --r->fail_after == 0)
		return -EIO;
	assert_true(r->got.n + n <= r->room);
	memcpy(r->got.p + r->got.n, p, n);
	r->got.n += n;
	return 0;
}

static int on_copy(void *arg, uint64_t at, uint64_t n)
{
	struct rebuild *r = arg;
	assert_true(n > 0 && at <= r->old.n && n <= r->old.n - at && n <= DELTA_COPY_MAX);
	r->copies += r->copies == 0 || at != r->copy_end;
	r->copy_end = at + n;
	return rebuild_add(r, r->old.p + at, (size_t)n);
}

static int on_data(void *arg, struct slice s)
{
	struct rebuild *r = arg;
	assert_true(s.n > 0 && s.n <= SYNC_BLOCK);
	r->data += s.n;
	return rebuild_add(r, s.p, s.n);
}

/* Feeds new in pieces of at most max bytes; what was sent is in the result. ahead: its own
 * signature is known as far as it is fed. */
static struct rebuild run_once(struct bytes old, struct bytes new, size_t max, bool ahead)
{
	struct signature sig, own;
	struct digest sum;
	struct rebuild r = { .old = old, .room = new.n };
	struct delta_ops ops = { on_copy, on_data, &r };
	r.got.p = xmalloc(new.n + 1);
	sign(old, &sig);
	digest_init(&sum, &own);
	struct delta *d = delta_new(&sig, &ops);
	if (ahead)
		delta_own(d, &own, 0);
	for (size_t at = 0, n; at < new.n; at += n) {
		n = 1 + below(max);
		n = MIN(n, new.n - at);
		digest_add(&sum, slice_of(new.p + at, n));
		if (at + n < new.n)
			digest_more(&sum);
		assert_int_equal(0, delta_feed(d, slice_of(new.p + at, n)));
	}
	assert_int_equal(0, delta_end(d));
	delta_free(d);
	signature_end(&sig);
	signature_end(&own);
	assert_int_equal(new.n, r.got.n);
	assert_memory_equal(new.p, r.got.p, new.n);
	free(r.got.p);
	r.got.p = NULL;
	return r;
}

static struct rebuild delta_run(struct bytes old, struct bytes new, size_t max)
{
	struct rebuild r = run_once(old, new, max, false), with = run_once(old, new, max, true);
	assert_int_equal(r.data, with.data);
	assert_int_equal(r.copies, with.copies);
	return r;
}

static struct bytes splice(struct bytes b, size_t at, size_t cut, struct bytes in)
{
	struct bytes out = { xmalloc(b.n - cut + in.n + 1), b.n - cut + in.n };
	memcpy(out.p, b.p, at);
	memcpy(out.p + at, in.p, in.n);
	memcpy(out.p + at + in.n, b.p + at + cut, b.n - at - cut);
	return out;
}

static void what_is_equal_is_one_copy(void **state)
{
	(void)state;
	static const size_t sizes[] = { 0,     1,      100,    65535,  65536,
					65537, 131072, 200000, 262144, 1000000 };
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		struct bytes b = bytes_new(sizes[i]);
		struct rebuild r = delta_run(b, b, 300000);
		assert_int_equal(0, r.data);
		assert_int_equal(b.n > 0, r.copies);
		free(b.p);
	}
}

static void random_edits_are_rebuilt(void **state)
{
	(void)state;
	for (int round = 0; round < 150; round++) {
		struct bytes old = bytes_new(below(600000)), new = splice(old, 0, 0, old);
		new.n = old.n;
		size_t fresh = 0, edits = below(6);
		for (size_t i = 0; i < edits; i++) {
			struct bytes in = bytes_new(below(2) ? below(200) : below(100000));
			size_t at = below(new.n + 1), cut = below(2) ? 0 : below(new.n - at + 1);
			struct bytes next = splice(new, at, cut, in);
			fresh += in.n;
			free(in.p);
			free(new.p);
			new = next;
		}
		struct rebuild r = delta_run(old, new, 1 + below(round % 2 ? 1000 : 400000));
		/* Each edit may spoil the block before and the one behind it. */
		assert_true(r.data <= fresh + (2 * edits + 1) * SYNC_BLOCK);
		free(old.p);
		free(new.p);
	}
}

static void an_insertion_sends_what_was_inserted(void **state)
{
	(void)state;
	struct bytes old = bytes_new(64 << 20), in = bytes_new(1 << 20);
	struct bytes new = splice(old, 20000001, 0, in);
	struct timespec a, b;
	clock_gettime(CLOCK_MONOTONIC, &a);
	struct rebuild r = delta_run(old, new, 262144);
	clock_gettime(CLOCK_MONOTONIC, &b);
	print_message("1 MiB inserted into 64 MiB: %zu bytes sent, %.2f s\n", r.data,
		      (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9);
	assert_true(r.data >= in.n && r.data <= in.n + SYNC_BLOCK);
	assert_int_equal(2, r.copies);
	free(old.p);
	free(in.p);
	free(new.p);
}

static void ends_that_fill_no_block_match(void **state)
{
	(void)state;
	struct bytes old = bytes_new(3 * SYNC_BLOCK + 777), in = bytes_new(10);
	static const size_t at[] = { 0, 5, 70000, 3 * SYNC_BLOCK, 3 * SYNC_BLOCK + 777 };
	for (size_t i = 0; i < ARRAY_LEN(at); i++) {
		struct bytes new = splice(old, at[i], 0, in);
		struct rebuild r = delta_run(old, new, 100000);
		/* The block it was put into is sent anew, all others are not. */
		size_t spoilt = at[i] % SYNC_BLOCK && at[i] < old.n ? SYNC_BLOCK : 0;
		assert_int_equal(in.n + spoilt, r.data);
		free(new.p);
	}
	free(old.p);
	free(in.p);
}

static void blocks_are_found_in_any_order(void **state)
{
	(void)state;
	struct bytes old = bytes_new(20 * SYNC_BLOCK), new = bytes_new(40 * SYNC_BLOCK);
	for (size_t i = 0; i < 40; i++)
		memcpy(new.p + i *SYNC_BLOCK, old.p + below(20) * SYNC_BLOCK, SYNC_BLOCK);
	assert_int_equal(0, delta_run(old, new, 100000).data);
	free(old.p);
	free(new.p);
}

static double cpu(void)
{
	return (double)clock() / CLOCKS_PER_SEC;
}

/* All windows of the new file have the weak sum of all blocks of the old one, but none is equal:
 * +1, -2, +1 somewhere changes neither part of the sum. */
static void equal_sums_cost_no_more_than_a_pass(void **state)
{
	(void)state;
	struct bytes old = bytes_new(200 * SYNC_BLOCK), new = bytes_new(4 << 20);
	memset(old.p, 'x', old.n);
	memset(new.p, 'x', new.n);
	for (size_t i = 0; i < 200; i++) {
		uint8_t *at = old.p + i * SYNC_BLOCK + 3 * i;
		at[0]++;
		at[1] -= 2;
		at[2]++;
	}
	double start = cpu();
	struct rebuild r = delta_run(old, new, 262144);
	/* 320 hashes of 64 KiB; without a bound it were 4 million. */
	assert_true(cpu() - start < 5);
	assert_int_equal(new.n, r.data);
	/* Zeros in zeros are found. */
	memset(old.p, 0, old.n);
	memset(new.p, 0, new.n);
	assert_int_equal(0, delta_run(old, new, 262144).data);
	free(old.p);
	free(new.p);
}

static void an_error_of_an_op_ends_it(void **state)
{
	(void)state;
	struct bytes old = bytes_new(4 * SYNC_BLOCK), new = bytes_new(8 * SYNC_BLOCK);
	struct signature sig;
	sign(old, &sig);
	memcpy(new.p + 100, old.p, old.n);
	for (int after = 1; after < 4; after++) {
		struct rebuild r = { .old = old, .room = new.n, .fail_after = after };
		struct delta_ops ops = { on_copy, on_data, &r };
		r.got.p = xmalloc(new.n);
		struct delta *d = delta_new(&sig, &ops);
		int err = delta_feed(d, slice_of(new.p, new.n));
		if (err == 0)
			err = delta_end(d);
		assert_int_equal(-EIO, err);
		assert_int_equal(-EIO, delta_end(d));
		delta_free(d);
		free(r.got.p);
	}
	signature_end(&sig);
	free(old.p);
	free(new.p);
}

static void without_a_signature_all_is_data(void **state)
{
	(void)state;
	struct bytes none = bytes_new(0), new = bytes_new(300000);
	struct rebuild r = delta_run(none, new, 200000);
	assert_int_equal(new.n, r.data);
	free(none.p);
	free(new.p);
}

static void a_signature_goes_over_the_wire(void **state)
{
	(void)state;
	static const size_t sizes[] = { 0, 1, 65536, 65537, 1000000 };
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		struct bytes b = bytes_new(sizes[i]);
		struct signature s, got;
		sign(b, &s);
		size_t n = signature_size(&s);
		assert_int_equal(8 + 20 * ((sizes[i] + 65535) / 65536), n);
		char *wire = xmalloc(n + 20);
		signature_put(&s, wire);
		memset(wire + n, 0, 20);
		assert_int_equal(0, signature_get(&got, slice_of(wire, n)));
		assert_int_equal(s.size, got.size);
		assert_int_equal(s.n, got.n);
		for (size_t k = 0; k < s.n; k++)
			assert_memory_equal(&s.v[k], &got.v[k], sizeof(s.v[k]));
		signature_end(&got);
		assert_int_equal(-EINVAL, signature_get(&got, slice_of(wire, n + 20)));
		assert_int_equal(-EINVAL, signature_get(&got, slice_of(wire, n - 1)));
		if (s.n > 1) {
			assert_int_equal(-EINVAL, signature_get(&got, slice_of(wire, n - 20)));
		}
		assert_int_equal(0, signature_get(&got, slice_of(wire, 8)));
		assert_int_equal(0, got.n);
		assert_int_equal(-EINVAL, signature_get(&got, slice_of(wire, 7)));
		free(wire);
		signature_end(&s);
		free(b.p);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_equal_is_one_copy),
		cmocka_unit_test(random_edits_are_rebuilt),
		cmocka_unit_test(an_insertion_sends_what_was_inserted),
		cmocka_unit_test(ends_that_fill_no_block_match),
		cmocka_unit_test(blocks_are_found_in_any_order),
		cmocka_unit_test(equal_sums_cost_no_more_than_a_pass),
		cmocka_unit_test(an_error_of_an_op_ends_it),
		cmocka_unit_test(without_a_signature_all_is_data),
		cmocka_unit_test(a_signature_goes_over_the_wire),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
