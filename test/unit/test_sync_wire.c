/* The messages of a sync: each there and back, cut at each byte, and what is refused. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "proto/sync/wire.h"

static const uint8_t digest[SYNC_DIGEST] = { 1, 2, 3, 250, 251, 252 };

static struct version *make(int kind)
{
	switch (kind) {
	case SYNC_DIR:
		return version_dir(0755);
	case SYNC_FILE:
		return version_file(0640, 5000000000, -1234567890123, NULL);
	case SYNC_FILE + 10:
		return version_file(0777, 0, INT64_MAX, digest);
	case SYNC_LINK:
		return version_link(
		    SLICE("../elsewhere/and/a/target/that/is/longer/than/a/digest/is"));
	case SYNC_OTHER:
		return version_other();
	default:
		return NULL;
	}
}

static void same_version(const struct version *a, const struct version *b)
{
	if (!a || !b) {
		assert_ptr_equal(a, b);
		return;
	}
	assert_int_equal(a->kind, b->kind);
	assert_int_equal(a->mode, b->mode);
	assert_int_equal(a->size, b->size);
	assert_int_equal(a->mtime_ns, b->mtime_ns);
	if (a->kind == SYNC_LINK) {
		assert_string_equal(a->target, b->target);
	} else {
		assert_int_equal(a->hashed, b->hashed);
		if (a->hashed)
			assert_memory_equal(a->digest, b->digest, SYNC_DIGEST);
	}
}

static bool same_slice(struct slice a, struct slice b)
{
	return slice_eq(a, b);
}

/* Which fields a type carries, seen from outside: those that come back are those that went. */
static void there_and_back(struct msg *m, char *buf)
{
	static struct msg_in in;
	size_t n = wire_size(m);
	char *p = wire_put(m, buf);
	memcpy(p, m->data.p, (size_t)(buf + n - p));
	assert_int_equal(wire_length(slice_of(buf, n)), n);
	assert_int_equal(wire_get(&in, slice_of(buf, n)), 0);
	assert_int_equal(in.m.type, m->type);
	if (in.m.id)
		assert_int_equal(in.m.id, m->id);
	if (in.m.path.n) {
		assert_true(same_slice(in.m.path, m->path));
		assert_string_equal(in.path, "dir/na me\377");
	}
	if (in.m.from.n)
		assert_true(same_slice(in.m.from, m->from));
	if (in.m.text.n)
		assert_true(same_slice(in.m.text, m->text));
	if (in.m.data.n)
		assert_true(same_slice(in.m.data, m->data));
	if (in.m.want)
		same_version(in.m.want, m->want);
	if (in.m.expect)
		same_version(in.m.expect, m->expect);
	if (in.m.source)
		same_version(in.m.source, m->source);
	/* What came is all that went: written again, it is the same bytes. */
	static char again[WIRE_MAX + WIRE_HEAD];
	assert_int_equal(wire_size(&in.m), n);
	p = wire_put(&in.m, again);
	if (in.m.data.n)
		memcpy(p, in.m.data.p, in.m.data.n);
	assert_memory_equal(buf, again, n);
	wire_end(&in);
	assert_null(in.m.want);
}

static bool has_data(enum msg_type type)
{
	return type == MSG_OPEN || type == MSG_IGNORE || type == MSG_PUT || type == MSG_DATA ||
	       type == MSG_OPENED || type == MSG_SIGNATURE || type == MSG_EPOCH;
}

/* Shorter, and told so: refused, but for data, which is as long as it is. */
static void cut(struct msg *m, char *buf)
{
	static struct msg_in in;
	size_t n = wire_size(m);
	for (size_t k = 0; k < n; k++) {
		char *copy = xmalloc(n + 1); /* on its own, so that ASan sees a byte too many */
		memcpy(copy, buf, n);
		assert_int_equal(wire_get(&in, slice_of(copy, k)), -EBADMSG);
		if (k > WIRE_HEAD) {
			size_t len = k - WIRE_HEAD;
			for (int i = 0; i < WIRE_HEAD; i++)
				copy[i] = (char)(len >> (24 - 8 * i));
			int r = wire_get(&in, slice_of(copy, k));
			if (r == 0) {
				assert_true(has_data(m->type));
				wire_end(&in);
			} else {
				assert_int_equal(r, -EBADMSG);
			}
		}
		free(copy);
	}
	/* One byte more */
	char *copy = xmalloc(n + 1);
	memcpy(copy, buf, n);
	copy[n] = 'x';
	for (int i = 0; i < WIRE_HEAD; i++)
		copy[i] = (char)((n + 1 - WIRE_HEAD) >> (24 - 8 * i));
	int r = wire_get(&in, slice_of(copy, n + 1));
	assert_int_equal(r, has_data(m->type) ? 0 : -EBADMSG);
	if (r == 0)
		wire_end(&in);
	free(copy);
}

static void test_each_message(void **state)
{
	(void)state;
	static char buf[WIRE_MAX + WIRE_HEAD];
	static const int kinds[] = {
		0, SYNC_DIR, SYNC_FILE, SYNC_FILE + 10, SYNC_LINK, SYNC_OTHER
	};
	for (int type = 1; type < MSG_TYPES; type++) {
		for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
			struct msg m = { .type = (enum msg_type)type,
					 .id = 0xfedcba98,
					 .flags = 7,
					 .status = -ENOSPC,
					 .at = 0x0102030405060708,
					 .n = UINT64_MAX,
					 .path = SLICE("dir/na me\377"),
					 .from = SLICE("x"),
					 .text = SLICE("no space left on device"),
					 .data = SLICE("data\0data"),
					 .want = make(kinds[k]),
					 .expect = make(kinds[(k + 1) % ARRAY_LEN(kinds)]),
					 .source = make(kinds[(k + 2) % ARRAY_LEN(kinds)]) };
			memcpy(m.digest, digest, SYNC_DIGEST);
			assert_string_not_equal(wire_name(m.type), "unknown message");
			there_and_back(&m, buf);
			cut(&m, buf);
			version_unref(m.want);
			version_unref(m.expect);
			version_unref(m.source);
		}
	}
}

static void test_lengths(void **state)
{
	(void)state;
	assert_int_equal(wire_length(SLICE("\0\0\0")), 0);
	assert_int_equal(wire_length(SLICE("\0\0\0\0")), -EMSGSIZE);
	assert_int_equal(wire_length(SLICE("\0\0\0\1")), 5);
	assert_int_equal(wire_length(SLICE("\0\5\0\0")), WIRE_MAX + WIRE_HEAD);
	assert_int_equal(wire_length(SLICE("\0\5\0\1")), -EMSGSIZE);
	assert_int_equal(wire_length(SLICE("\377\377\377\377")), -EMSGSIZE);
}

static void test_paths(void **state)
{
	(void)state;
	static const char *const good[] = { "a", "a/b", "...", "a/..b", ".a", " ", "\1\377/\n" };
	static const char *const bad[] = { "",   "/",   "/a",  "a/",     "a//b", ".",
					   "..", "./a", "a/.", "a/../b", "a/..", "../a" };
	char name[300], path[4200];
	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		assert_true(wire_path_ok(slice_str(good[i])));
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_false(wire_path_ok(slice_str(bad[i])));
	assert_false(wire_path_ok(slice_of("a\0b", 3)));
	memset(name, 'n', sizeof(name));
	assert_true(wire_path_ok(slice_of(name, 255)));
	assert_false(wire_path_ok(slice_of(name, 256)));
	for (size_t i = 0; i < sizeof(path); i++)
		path[i] = i % 2 ? '/' : 'p';
	assert_true(wire_path_ok(slice_of(path, 4095)));
	assert_false(wire_path_ok(slice_of(path, 4097)));
}

static int get(const char *p, size_t n)
{
	static struct msg_in in;
	int r = wire_get(&in, slice_of(p, n));
	if (r == 0)
		wire_end(&in);
	return r;
}

/* An ENTRY for "a" with a version of these bytes. */
static int entry(const char *version, size_t n)
{
	char buf[256] = { 0, 0, 0, (char)(8 + n), MSG_ENTRY, 0, 0, 0, 0, 0, 1, 'a' };
	memcpy(buf + 12, version, n);
	return get(buf, 12 + n);
}

static void test_versions(void **state)
{
	(void)state;
	assert_int_equal(entry("\0", 1), 0);
	assert_int_equal(entry("\1\1\355", 3), 0);      /* a directory, 0755 */
	assert_int_equal(entry("\1\2\0", 3), -EBADMSG); /* 01000 */
	assert_int_equal(entry("\4\0\0", 3), 0);
	assert_int_equal(entry("\4\0\1", 3), -EBADMSG);
	assert_int_equal(entry("\5\0\0", 3), -EBADMSG);
	assert_int_equal(entry("\3\0\0\0\1x", 6), 0);
	assert_int_equal(entry("\3\0\0\0\0", 5), -EBADMSG); /* a link to nothing */
	assert_int_equal(entry("\3\0\0\0\1\0", 6), -EBADMSG);
	assert_int_equal(entry("\2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20), 0);
	assert_int_equal(entry("\2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\2", 20), -EBADMSG);
	assert_int_equal(entry("\2\0\0\377\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20), -EBADMSG);
	assert_int_equal(get("\0\0\0\1\0", 5), -EBADMSG);
	assert_int_equal(get("\0\0\0\1\377", 5), -EBADMSG);
	/* A status is a negative code. */
	assert_int_equal(get("\0\0\0\11\17\0\0\0\1\377\377\377\377", 13), 0);
	assert_int_equal(get("\0\0\0\11\17\0\0\0\1\0\0\0\1", 13), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_message),
		cmocka_unit_test(test_lengths),
		cmocka_unit_test(test_paths),
		cmocka_unit_test(test_versions),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
