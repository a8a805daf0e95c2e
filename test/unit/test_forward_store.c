/* The file of the forwards: what is written is read again, what is damaged is told and left alone.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "cmd/tsctl/forward_store.c" // NOLINT: programs are not in the library
#include "cmd/tsctl/state_file.c"    // NOLINT

static char dir[] = "/tmp/test-store-XXXXXX", path[PATH_MAX], err[2 * PATH_MAX];
static struct forward_record got[8];
static size_t ngot;

static int setup(void **state)
{
	(void)state;
	memcpy(dir + strlen(dir) - 6, "XXXXXX", 6);
	assert_non_null(mkdtemp(dir));
	setenv("XDG_STATE_HOME", dir, 1);
	assert_int_equal(0, forward_store_path(path, sizeof(path), true, err, sizeof(err)));
	ngot = 0;
	err[0] = '\0';
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	for (size_t i = 0; i < ngot; i++)
		forward_record_end(&got[i]);
	unlink(path);
	char *sub = xasprintf("%s/tstunnel", dir);
	rmdir(sub);
	free(sub);
	assert_int_equal(0, rmdir(dir));
	block_trim();
	return 0;
}

static void each(void *arg, struct forward_record *r)
{
	(void)arg;
	assert_true(ngot < ARRAY_LEN(got));
	got[ngot++] = *r;
}

static const struct forward_record *next(void *arg, size_t i)
{
	return &((const struct forward_record *)arg)[i];
}

static void put_file(const char *text)
{
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
	chmod(path, 0600);
}

static void what_is_saved_is_loaded(void **state)
{
	(void)state;
	char name[] = "a.b-c_9", none[] = "", src[] = "unix:///run/\"x\"\n\xc3\xa4.sock";
	char dst[] = "tstunnel://h:80/tcp:t:1?ca=/c/ca.crt";
	struct forward_record in[] = {
		{ .id = "0123abcd",
		  .name = name,
		  .src = src,
		  .dst = dst,
		  .insecure = true,
		  .port = 65535,
		  .connect_ms = 1,
		  .handshake_ms = 2,
		  .keepalive_ms = 3,
		  .udp_idle_ms = UINT64_MAX },
		{ .id = "ffffffff", .name = none, .src = dst, .dst = src, .paused = true },
	};
	assert_int_equal(0, forward_store_save(path, 2, next, in, err, sizeof(err)));
	struct stat st;
	assert_int_equal(0, stat(path, &st));
	assert_int_equal(0600, st.st_mode & 07777);
	assert_int_equal(0, forward_store_load(path, each, NULL, err, sizeof(err)));
	assert_int_equal(2, ngot);
	for (size_t i = 0; i < 2; i++) {
		assert_string_equal(in[i].id, got[i].id);
		assert_string_equal(in[i].name, got[i].name);
		assert_string_equal(in[i].src, got[i].src);
		assert_string_equal(in[i].dst, got[i].dst);
		assert_int_equal(in[i].insecure, got[i].insecure);
		assert_int_equal(in[i].paused, got[i].paused);
		assert_int_equal(in[i].port, got[i].port);
		assert_int_equal(in[i].connect_ms, got[i].connect_ms);
		assert_int_equal(in[i].handshake_ms, got[i].handshake_ms);
		assert_int_equal(in[i].keepalive_ms, got[i].keepalive_ms);
		assert_int_equal(in[i].udp_idle_ms, got[i].udp_idle_ms);
	}
	/* A leftover of a save that was cut short is no obstacle; none at all is no file. */
	char *left = xasprintf("%s.new", path);
	assert_int_equal(0, symlink("/nowhere", left));
	assert_int_equal(0, forward_store_save(path, 1, next, in, err, sizeof(err)));
	assert_int_equal(-1, access(left, F_OK));
	free(left);
	assert_int_equal(0, forward_store_save(path, 0, next, in, err, sizeof(err)));
	assert_int_equal(-1, access(path, F_OK));
	assert_int_equal(0, forward_store_save(path, 0, next, in, err, sizeof(err)));
	assert_int_equal(0, forward_store_load(path, each, NULL, err, sizeof(err)));
	assert_int_equal(2, ngot);
}

static void damage_is_told(void **state)
{
	(void)state;
#define RECORD(members) "{\"version\":1,\"forwards\":[{" members "}]}"
	static const struct {
		const char *text, *words;
	} cases[] = {
		{ "", "damaged: " },
		{ "{\"version\":1,\"forwards\":[", "damaged: " },
		{ "[]", "not a file of forwards" },
		{ "{\"version\":\"1\",\"forwards\":[]}", "not a file of forwards" },
		{ "{\"version\":1,\"forwards\":{}}", "not a file of forwards" },
		{ "{\"version\":2,\"forwards\":[]}", "another version of tsctl (its format is 2)" },
		{ "{\"version\":1,\"forwards\":[1]}", "malformed \"record\"" },
		{ RECORD(""), "malformed \"id\"" },
		{ RECORD("\"id\":\"0123abcg\""), "malformed \"id\"" },
		{ RECORD("\"id\":\"0123abc\""), "malformed \"id\"" },
		{ RECORD("\"id\":12345678"), "malformed \"id\"" },
		{ RECORD("\"id\":\"0123abcd\",\"name\":\"a b\""), "malformed \"name\"" },
		{ RECORD("\"id\":\"0123abcd\",\"name\":\"-a\""), "malformed \"name\"" },
		{ RECORD("\"id\":\"0123abcd\",\"src\":\"a\\u0000b\""), "malformed \"src\"" },
		{ RECORD("\"id\":\"0123abcd\",\"dst\":[]"), "malformed \"dst\"" },
		{ RECORD("\"id\":\"0123abcd\",\"port\":65536"), "malformed \"port\"" },
		{ RECORD("\"id\":\"0123abcd\",\"port\":-1"), "malformed \"port\"" },
		{ RECORD("\"id\":\"0123abcd\",\"paused\":1"), "malformed \"paused\"" },
		{ RECORD("\"id\":\"0123abcd\",\"connect_ms\":\"1\""), "malformed \"connect_ms\"" },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		put_file(cases[i].text);
		int r = forward_store_load(path, each, NULL, err, sizeof(err));
		if (r >= 0 || !strstr(err, cases[i].words) || !strstr(err, path))
			fail_msg("%s: %d %s", cases[i].text, r, err);
		assert_int_equal(0, ngot);
	}
	/* What somebody newer knows more about is kept out of sight. */
	put_file(RECORD("\"id\":\"0123abcd\",\"colour\":[1]"));
	assert_int_equal(0, forward_store_load(path, each, NULL, err, sizeof(err)));
	assert_int_equal(1, ngot);
	assert_string_equal("", got[0].src);
}

static void others_may_not_write(void **state)
{
	(void)state;
	put_file("{\"version\":1,\"forwards\":[]}");
	chmod(path, 0620);
	assert_int_equal(-EPERM, forward_store_load(path, each, NULL, err, sizeof(err)));
	chmod(path, 0644); /* reading does no harm */
	assert_int_equal(0, forward_store_load(path, each, NULL, err, sizeof(err)));
	unlink(path);
	assert_int_equal(0, symlink("/etc/passwd", path));
	assert_int_equal(-ELOOP, forward_store_load(path, each, NULL, err, sizeof(err)));
	unlink(path);
	assert_int_equal(0, mkfifo(path, 0600));
	assert_int_equal(-EPERM, forward_store_load(path, each, NULL, err, sizeof(err)));
	char *sub = xasprintf("%s/tstunnel", dir), other[PATH_MAX];
	chmod(sub, 0770);
	assert_int_equal(-EPERM, forward_store_path(other, sizeof(other), true, err, sizeof(err)));
	chmod(sub, 0700);
	free(sub);
}

static void where_it_is(void **state)
{
	(void)state;
	char out[PATH_MAX], *want;
	unsetenv("XDG_STATE_HOME");
	setenv("HOME", dir, 1);
	assert_int_equal(0, forward_store_path(out, sizeof(out), false, err, sizeof(err)));
	want = xasprintf("%s/.local/state/tstunnel/forwards.json", dir);
	assert_string_equal(want, out);
	free(want);
	setenv("XDG_STATE_HOME", "not/absolute", 1);
	unsetenv("HOME");
	assert_int_equal(-ENOENT, forward_store_path(out, sizeof(out), false, err, sizeof(err)));
	setenv("XDG_STATE_HOME", "/proc/nix", 1);
	assert_true(forward_store_path(out, sizeof(out), true, err, sizeof(err)) < 0);
	assert_non_null(strstr(err, "cannot make the directory /proc/nix"));
	char *deep = xasprintf("%s/%0*d", dir, PATH_MAX, 0);
	setenv("XDG_STATE_HOME", deep, 1);
	assert_int_equal(-ENAMETOOLONG,
			 forward_store_path(out, sizeof(out), true, err, sizeof(err)));
	free(deep);
}

static void names(void **state)
{
	(void)state;
	static const char *const good[] = { "a", "A-b_c.9", "0", ".x" };
	static const char *const bad[] = { "", "-a", "a b", "a/b", "\xc3\xa4", "a\n" };
	char longest[FORWARD_NAME_LEN + 2];
	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		assert_true(forward_name_ok(good[i]));
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_false(forward_name_ok(bad[i]));
	memset(longest, 'x', sizeof(longest));
	longest[FORWARD_NAME_LEN + 1] = '\0';
	assert_false(forward_name_ok(longest));
	longest[FORWARD_NAME_LEN] = '\0';
	assert_true(forward_name_ok(longest));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(what_is_saved_is_loaded),
		T(damage_is_told),
		T(others_may_not_write),
		T(where_it_is),
		T(names),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
