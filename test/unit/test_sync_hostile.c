/*
 * A brain and a far end that lies, a far end and a brain that does: what the fuzz targets
 * (fuzz/sync_session.c, sync_serve.c) and a reading have found, one by one.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/sync/session.h"
#include "proto/sync/wire.h"
#include "reactor/buf.h"
#include "sync_files.h"

enum { WAIT_S = 60 };

#define SAFE ",\"mode\":\"two-way-safe\""

static struct reactor *rx;
static struct session *session;
static char *dir;
static int control, far;
static char said[1 << 22], wire[1 << 20];
static size_t wire_n, used;
static char why_ended[512];
static bool ended;

static void on_ended(void *arg, int code, const char *why)
{
	(void)arg;
	(void)code;
	snprintf(why_ended, sizeof(why_ended), "%s", why);
	ended = true;
}

static void words(const char *text)
{
	assert_int_equal(write(control, text, strlen(text)), strlen(text));
	assert_int_equal(write(control, "\n", 1), 1);
}

static void tell(const struct msg *m)
{
	static char out[WIRE_MAX + WIRE_HEAD];
	size_t n = wire_size(m);
	char *p = wire_put(m, out);
	if (m->data.n)
		memcpy(p, m->data.p, m->data.n);
	assert_int_equal(send(far, out, n, MSG_NOSIGNAL), n);
}

static void entry(const char *path, struct version *v)
{
	tell(&(struct msg){ .type = MSG_ENTRY, .path = slice_str(path), .want = v });
	version_unref(v);
}

static bool tick_over;
static void tick(struct timer *t)
{
	(void)t;
	tick_over = true;
}

static void some(unsigned ms)
{
	struct timer timer;
	timer_init(&timer, tick);
	timer_set(rx, &timer, ms);
	tick_over = false;
	reactor_run_until(rx, &tick_over);
	timer_clear(rx, &timer);
	size_t n = strlen(said);
	ssize_t got = read(control, said + n, sizeof(said) - n - 1);
	said[n + (got > 0 ? (size_t)got : 0)] = '\0';
}

/* The next message of the brain; it lives until the next call. */
static const struct msg *hear(void)
{
	static struct msg_in in;
	double end = seconds() + WAIT_S;
	wire_end(&in);
	wire_n -= used;
	memmove(wire, wire + used, wire_n);
	used = 0;
	for (;;) {
		ssize_t n = wire_length(slice_of(wire, wire_n));
		if (n > 0 && (size_t)n <= wire_n) {
			used = (size_t)n;
			assert_int_equal(0, wire_get(&in, slice_of(wire, used)));
			return &in.m;
		}
		ssize_t got = recv(far, wire + wire_n, sizeof(wire) - wire_n, 0);
		if (got > 0)
			wire_n += (size_t)got;
		else
			some(2);
		if (seconds() > end || ended)
			fail_msg("nothing was said; ended: %d %s", ended, why_ended);
	}
}

static const struct msg *hear_a(enum msg_type type)
{
	const struct msg *m;
	do {
		m = hear();
	} while (m->type != type);
	return m;
}

static void wait_for(const char *text)
{
	double end = seconds() + WAIT_S;
	while (!strstr(said, text)) {
		if (seconds() > end || ended)
			fail_msg("no %s in %s; ended %d %s", text, said, ended, why_ended);
		some(2);
	}
}

/* The brain has said OPEN, and hears that it is opened; what is there is to be told. */
static void begin(const char *more)
{
	char text[2048];
	int a[2], c[2];
	assert_int_equal(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, a));
	assert_int_equal(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, c));
	struct stream *near = fd_stream_new(rx, a[1]);
	session = session_new(rx, near, near, fd_stream_new(rx, c[1]), on_ended, NULL);
	far = a[0];
	control = c[0];
	said[0] = '\0';
	wire_n = used = 0;
	ended = false;
	snprintf(text, sizeof(text),
		 "{\"root\":\"%s/alpha\",\"store\":\"%s/store\","
		 "\"halt\":true,\"far\":{\"make\":true}%s}",
		 dir, dir, more);
	words(text);
	hear_a(MSG_OPEN);
	tell(&(struct msg){ .type = MSG_OPENED,
			    .id = WIRE_VERSION,
			    .text = SLICE("g"),
			    .data = SLICE("\x1b\xff") });
}

static void scanned(void)
{
	tell(&(struct msg){ .type = MSG_SCANNED });
}

static void done(uint32_t id, int status)
{
	tell(&(struct msg){ .type = MSG_DONE, .id = id, .status = status, .text = SLICE("no") });
}

/* Once all that was told before it is dealt with. */
static void fence(void)
{
	words("{\"fence\":1}");
	uint32_t id = hear_a(MSG_FENCE)->id;
	tell(&(struct msg){ .type = MSG_FENCED, .id = id });
	wait_for("{\"fenced\":1}");
}

static int setup(void **state)
{
	(void)state;
	rx = reactor_new();
	dir = files_new("/dev/shm/sync-hostile");
	mkdir(at(dir, "alpha"), 0755);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	session_free(session);
	session = NULL;
	close(control);
	close(far);
	reactor_free(rx);
	block_trim();
	files_free(dir);
	return 0;
}

/* It could have put a hook into the .git that was not to be synced. */
static void test_what_is_ignored_stays_as_it_is(void **state)
{
	(void)state;
	shell(dir, "cd alpha; mkdir -p .git/hooks masked; echo 1 >.git/HEAD; echo '!.git' "
		   ">.tsignore; cp -a . ../before");
	begin(SAFE ",\"ignore\":\".git\\n*.o\",\"masks\":[\"masked\"]");
	entry(".git", version_dir(0755));
	entry(".git/hooks", version_dir(0755));
	entry(".git/hooks/post-checkout", version_file(0755, 4, 1, NULL));
	entry("masked", version_dir(0755));
	entry("masked/x", version_file(0755, 4, 1, NULL));
	entry("x.o", version_file(0755, 4, 1, NULL));
	entry("a/.tstunnel-sync", version_dir(0755));
	scanned();
	/* All it is asked for is to take what alpha has. */
	const struct msg *m = hear();
	assert_int_equal(m->type, MSG_PUT);
	assert_true(slice_eq(m->path, SLICE(".tsignore")));
	done(m->id, 0);
	fence();
	shell(dir, "diff -r before alpha");
}

/* Looked at again and again, as fast as it went. */
static void test_what_is_in_no_directory_costs_little(void **state)
{
	(void)state;
	begin(SAFE);
	entry("d/e/f", version_file(0644, 4, 1, NULL));
	scanned();
	wait_for("\"state\":\"watching\"");
	some(100);
	uint64_t turns = reactor_stats(rx)->turns;
	some(500);
	assert_in_range(reactor_stats(rx)->turns - turns, 0, 60);
	/* It is not forgotten, either. */
	entry("d", version_dir(0755));
	entry("d/e", version_dir(0755));
	const struct msg *m = hear_a(MSG_READ);
	assert_true(slice_eq(m->path, SLICE("d/e/f")));
	tell(&(struct msg){ .type = MSG_DATA, .id = m->id, .data = SLICE("text") });
	tell(&(struct msg){ .type = MSG_END, .id = m->id });
	fence();
	shell(dir, "grep -q text alpha/d/e/f");
}

/* A file of 4 EiB of zeros is quickly said, and its digest would take years. */
static void test_no_file_is_larger_than_we_can_read(void **state)
{
	(void)state;
	begin(SAFE);
	entry("new", version_file(0644, 1ULL << 62, 1, NULL));
	scanned();
	const struct msg *m = hear_a(MSG_READ);
	tell(&(struct msg){ .type = MSG_HOLE, .id = m->id, .n = 1ULL << 62 });
	tell(&(struct msg){ .type = MSG_END, .id = m->id });
	wait_for("File too large");
	shell(dir, "test ! -e alpha/new");
}

/* They all came to one slot of the table of what could be copied there, one behind the other. */
static void test_digests_that_are_made_up_cost_little(void **state)
{
	(void)state;
	enum { FILES = 100000 };
	uint8_t digest[SYNC_DIGEST] = { 0 };
	char name[24];
	shell(dir, "cd alpha; head -c 3000000 /dev/zero >f");
	begin(",\"mode\":\"one-way-safe\"");
	for (uint32_t i = 0; i < FILES; i++) {
		snprintf(name, sizeof(name), "n%u", i);
		memcpy(digest + 16, &i, sizeof(i));
		entry(name, version_file(0644, 5000, 1, digest));
		if (i % 200 == 0)
			some(0);
	}
	scanned();
	double start = seconds();
	hear_a(MSG_SIGN);
	assert_true(seconds() - start < 8);
}

static void test_a_signature_has_an_end(void **state)
{
	(void)state;
	static char piece[65536];
	shell(dir, "cd alpha; head -c 2000000 /dev/zero >f");
	begin(",\"mode\":\"two-way-resolved\"");
	entry("f", version_file(0644, 3000000, 1, NULL));
	scanned();
	uint32_t id = 0;
	while (id == 0) {
		const struct msg *m = hear();
		if (m->type == MSG_HASH)
			tell(&(struct msg){ .type = MSG_HASHED, .id = m->id });
		if (m->type == MSG_SIGN)
			id = m->id;
	}
	struct msg m = { .type = MSG_SIGNATURE, .id = id };
	m.data = slice_of(piece, sizeof(piece));
	for (int i = 0; i < 300 && !ended; i++) {
		assert_in_range(i, 0, 257); /* 16 MiB */
		tell(&m);
		some(0);
	}
	double end = seconds() + WAIT_S;
	while (!ended && seconds() < end)
		some(2);
	assert_string_equal(why_ended, "the guest broke the protocol of the sync: SIGNATURE");
}

/* What is told of problems and conflicts is for people: it has an end, and is JSON. */
static void test_problems_have_an_end(void **state)
{
	(void)state;
	static char why[WIRE_TEXT_MAX], path[SYNC_PATH_MAX];
	char name[300];
	memset(why, 1, sizeof(why));
	memset(path, 1, sizeof(path));
	for (size_t i = 200; i < sizeof(path) - 1; i += 200)
		path[i] = '/';
	shell(dir, "cd alpha; echo 1 >f");
	begin(SAFE);
	for (int i = 0; i < 12000; i++) {
		snprintf(name, sizeof(name), "p%d", i);
		tell(&(struct msg){
		    .type = MSG_PROBLEM, .path = slice_str(name), .text = SLICE("\x1b") });
		if (i % 100 == 0)
			some(0);
	}
	for (int i = 0; i < 150; i++) {
		memcpy(path, "abcd", 4);
		path[i % 100 + 1] = (char)('A' + i / 100);
		tell(&(struct msg){ .type = MSG_PROBLEM,
				    .path = slice_of(path, sizeof(path)),
				    .text = slice_of(why, sizeof(why)) });
		some(0);
	}
	entry("f", version_file(0644, 99, INT64_MIN, NULL));
	scanned();
	wait_for("\"conflicts_total\":1");
	wait_for("\"problems_total\":10000,");
	wait_for("1677-09-21T00:12:43.145224192Z");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_what_is_ignored_stays_as_it_is, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_what_is_in_no_directory_costs_little, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_no_file_is_larger_than_we_can_read, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_a_signature_has_an_end, setup, teardown),
		cmocka_unit_test_setup_teardown(test_problems_have_an_end, setup, teardown),
		cmocka_unit_test_setup_teardown(test_digests_that_are_made_up_cost_little, setup,
						teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
