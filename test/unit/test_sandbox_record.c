/* What clients ask for, and what is kept of a session. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "proto/sandbox/record.h"

#define KEY "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdXQbVYCmNvRdJzzr3GlE0b0JyzmwNWVc8vOQBHAxWT me"

static int ask(struct sandbox_request *q, const char *text, char *err)
{
	return sandbox_request_get(q, slice_str(text), SANDBOX_TTL_MIN, err, 256);
}

static void test_requests(void **state)
{
	struct sandbox_request q;
	char err[256];
	(void)state;
	assert_int_equal(0, ask(&q, "", err));
	assert_int_equal(3600, q.ttl);
	assert_int_equal(0, ask(&q, " \n", err));
	assert_int_equal(0, ask(&q,
				"{\"ttl\":60,\"image\":\"r.example:5000/a/b:1@sha256:0\","
				"\"sshPublicKey\":\"" KEY "\\n\",\"metadata\":{\"a\":[1]},"
				"\"idle_timeout\":5,\"else\":1}",
				err));
	assert_int_equal(60, q.ttl);
	assert_int_equal(5, q.idle);
	assert_string_equal(KEY, q.public_key);
	assert_string_equal("{\"a\":[1]}", q.metadata);
	sandbox_request_end(&q);
	assert_int_equal(0, ask(&q, "{\"ssh_public_key\":\"" KEY "\",\"ttl\":28800}", err));
	sandbox_request_end(&q);
	static const char *const bad[] = { "{\"ttl\":59}",
					   "{\"ttl\":28801}",
					   "{\"ttl\":6e1}",
					   "{\"image\":\"-x\"}",
					   "{\"image\":\"a b\"}",
					   "{\"sshPublicKey\":\"command=\\\"x\\\" " KEY "\"}",
					   "{\"sshPublicKey\":\"" KEY "\\n" KEY "\"}",
					   "{\"metadata\":\"x\"}",
					   "{\"idleTimeout\":-1}",
					   "5",
					   "{\"ttl\":60" };
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		err[0] = '\0';
		if (ask(&q, bad[i], err) != -EINVAL || !err[0] || q.image || q.public_key)
			fail_msg("%s: %s", bad[i], err);
	}
}

static void test_records(void **state)
{
	struct sandbox_record r = { .id = "d6bdc5a3-c963-4c0f-be75-bb8083739883",
				    .name = "sandbox-d6bdc5a3",
				    .state = SANDBOX_PAUSED,
				    .owner = (char[]){ "al\"ice" },
				    .metadata = (char[]){ "{\"k\":\"\\u00e4\"}" },
				    .created = 1,
				    .order = 9,
				    .expires = 2,
				    .active = 3,
				    .idle = 4,
				    .fingerprint = "SHA256:x",
				    .key = (char[]){ "k" },
				    .key_hash = "ab" };
	struct sandbox_record back;
	struct json_writer w;
	struct buf b;
	char err[256] = "";
	(void)state;
	buf_init(&b, SANDBOX_RECORD_MAX);
	json_writer_begin(&w, &b);
	sandbox_record_put(&w, &r);
	assert_int_equal(0, json_writer_end(&w));
	assert_int_equal(0, sandbox_record_get(&back, buf_data(&b), err, sizeof(err)));
	assert_string_equal(r.id, back.id);
	assert_string_equal(r.name, back.name);
	assert_int_equal(SANDBOX_PAUSED, back.state);
	assert_string_equal(r.owner, back.owner);
	assert_string_equal(r.metadata, back.metadata);
	assert_null(back.image);
	assert_int_equal(4, back.idle);
	assert_int_equal(9, back.order);
	assert_string_equal("k", back.key);
	sandbox_record_end(&back);
	/* Half a file is no record. */
	for (size_t n = 0; n < b.len; n++)
		assert_int_equal(-EINVAL, sandbox_record_get(&back, slice_of(buf_data(&b).p, n),
							     err, sizeof(err)));
	buf_end(&b);
	assert_int_equal(-EINVAL, sandbox_record_get(&back, SLICE("{}"), err, sizeof(err)));
}

static void test_texts(void **state)
{
	char text[24];
	(void)state;
	assert_string_equal("2025-10-24T03:45:00Z", sandbox_time_text(1761277500, text));
	assert_true(sandbox_id_ok(SLICE("d6bdc5a3-c963-4c0f-be75-bb8083739883")));
	assert_false(sandbox_id_ok(SLICE("D6bdc5a3-c963-4c0f-be75-bb8083739883")));
	assert_false(sandbox_id_ok(SLICE("../../../../../../../etc/passwd-----")));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_requests),
		cmocka_unit_test(test_records),
		cmocka_unit_test(test_texts),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
