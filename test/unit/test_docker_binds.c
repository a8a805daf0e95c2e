/* Bind mounts in the engine's JSON: what is read, what is rewritten. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "proto/docker/binds.h"
#include "reactor/buf.h"

#define ROOT "/sync/me-1"

static struct json_doc *parse(const char *text)
{
	struct json_doc *doc = json_parse(slice_str(text), NULL, NULL);
	assert_non_null(doc);
	return doc;
}

static void assert_prints(struct json_doc *doc, const char *want)
{
	struct buf b;
	buf_init(&b, 1 << 20);
	assert_int_equal(json_print(doc, &b), 0);
	char *got = xslicedup(buf_data(&b));
	assert_string_equal(got, want);
	free(got);
	buf_end(&b);
}

static void paths(void **state)
{
	static const char *const cases[][2] = {
		{ "/", "/" },
		{ "//", "/" },
		{ "/a/", "/a" },
		{ "/a//b/./c", "/a/b/c" },
		{ "/a/../b", "/b" },
		{ "/../..", "/" },
		{ "/a/b/../../..", "/" },
		{ "/a/..b/.c", "/a/..b/.c" },
		{ "a", NULL },
		{ "", NULL },
		{ "./a", NULL },
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		char *got = docker_path_clean(slice_str(cases[i][0]));
		if (cases[i][1])
			assert_string_equal(got, cases[i][1]);
		else
			assert_null(got);
		free(got);
	}
	assert_null(docker_path_clean(slice_of("/a\0b", 4)));
	assert_string_equal(docker_path_below("/a", "/a/b/c"), "b/c");
	assert_string_equal(docker_path_below("/a", "/a"), "");
	assert_string_equal(docker_path_below("/", "/a"), "a");
	assert_null(docker_path_below("/a", "/ab"));
	assert_null(docker_path_below("/a/b", "/a"));
}

/* "/src>/dst ro strict; ..." */
static void assert_binds(const struct docker_binds *b, const char *want)
{
	char got[1024] = "";
	for (size_t i = 0; i < b->n; i++)
		snprintf(got + strlen(got), sizeof(got) - strlen(got), "%s%s>%s%s%s", i ? "; " : "",
			 b->v[i].source, b->v[i].target, b->v[i].read_only ? " ro" : "",
			 b->v[i].strict ? " strict" : "");
	assert_string_equal(got, want);
}

static void assert_masks(const struct docker_binds *b, size_t i, const char *want)
{
	char got[1024] = "";
	size_t n;
	char **masks = docker_binds_masks(b, i, &n);
	for (size_t k = 0; k < n; k++) {
		snprintf(got + strlen(got), sizeof(got) - strlen(got), "%s%s", k ? " " : "",
			 masks[k]);
		free(masks[k]);
	}
	free(masks);
	assert_string_equal(got, want);
}

static void asked(void **state)
{
	static const char text[] =
	    "{ \"Image\":\"x\", \"volumes\":{\"/app/node_modules/\":{}},\n"
	    " \"Labels\":{\"tstunnel.fence\":\"off\"}, \"hostconfig\" : {\"Binds\":[ "
	    "\"/home/me/app/:/app\", \"vol:/app/data:ro\", \"/a:/b:z,ro\",\"/anon\", "
	    "\"/1:/2:/3:/4\", \"./rel:/x\", 7, \"/sl\\u0061sh\\u00fc:/u\"],"
	    "\"Mounts\":[{\"Type\":\"bind\",\"source\":\"/m\",\"Target\":\"/app/m/../n\","
	    "\"ReadOnly\":true,\"Consistency\":\"cached\"},{\"Type\":\"volume\","
	    "\"Source\":\"/no\",\"Target\":\"/app/node_modules/x\"},"
	    "{\"Target\":\"/k\",\"Type\":\"bind\",\"Source\":\"/k:1\","
	    "\"BindOptions\":{\"CreateMountpoint\":true}}],"
	    "\"Tmpfs\":{\"/app/tmp\":\"size=1m\"} , \"Big\": 1e999}}";
	struct docker_binds b;
	struct json_doc *doc = parse(text);
	(void)state;
	docker_binds_asked(&b, doc);
	assert_binds(&b, "/home/me/app>/app; /a>/b ro; /slashü>/u; /m>/app/n ro strict; /k:1>/k");
	assert_true(b.unfenced);
	assert_masks(&b, 0, "data n node_modules tmp");
	assert_masks(&b, 1, "");
	for (size_t i = 0; i < b.n; i++) {
		char *to = xasprintf(ROOT "%s", b.v[i].source);
		assert_int_equal(docker_bind_move(doc, &b.v[i], slice_str(to)), 0);
		free(to);
	}
	assert_int_equal(docker_bind_move(doc, &b.v[0], SLICE("/a:b")), -EINVAL);
	assert_prints(doc,
		      "{ \"Image\":\"x\", \"volumes\":{\"/app/node_modules/\":{}},\n"
		      " \"Labels\":{\"tstunnel.fence\":\"off\"}, \"hostconfig\" : {\"Binds\":[ "
		      "\"" ROOT "/home/me/app:/app\", \"vol:/app/data:ro\", \"" ROOT
		      "/a:/b:z,ro\",\"/anon\", \"/1:/2:/3:/4\", \"./rel:/x\", 7, \"" ROOT
		      "/slashü:/u\"],\"Mounts\":[{\"Type\":\"bind\",\"source\":\"" ROOT
		      "/m\",\"Target\":\"/app/m/../n\",\"ReadOnly\":true,\"Consistency\":"
		      "\"cached\"},{\"Type\":\"volume\",\"Source\":\"/no\",\"Target\":"
		      "\"/app/node_modules/x\"},{\"Target\":\"/k\",\"Type\":\"bind\",\"Source\":"
		      "\"" ROOT "/k:1\",\"BindOptions\":{\"CreateMountpoint\":true}}],"
		      "\"Tmpfs\":{\"/app/tmp\":\"size=1m\"} , \"Big\": 1e999}}");
	docker_binds_end(&b);
	json_free(doc);
}

/* Of several members that mean the same, the engine believes the last: all are moved. */
static void asked_twice(void **state)
{
	struct docker_binds b;
	struct json_doc *doc = parse("{\"HostConfig\":{\"Binds\":[\"/a:/b\"],\"BINDS\":null,"
				     "\"Mounts\":[{\"Type\":\"bind\",\"Source\":\"/x\","
				     "\"SOURCE\":\"/y\",\"Target\":\"/t\"}]},\"hostConfig\":"
				     "{\"binds\":[\"/c:/d\"]}}");
	(void)state;
	docker_binds_asked(&b, doc);
	assert_binds(&b, "/a>/b; /y>/t strict; /c>/d");
	for (size_t i = 0; i < b.n; i++)
		assert_int_equal(docker_bind_move(doc, &b.v[i], SLICE("/N")), 0);
	assert_prints(doc, "{\"HostConfig\":{\"Binds\":[\"/N:/b\"],\"BINDS\":null,\"Mounts\":"
			   "[{\"Type\":\"bind\",\"Source\":\"/N\",\"SOURCE\":\"/N\",\"Target\":"
			   "\"/t\"}]},\"hostConfig\":{\"binds\":[\"/N:/d\"]}}");
	docker_binds_end(&b);
	json_free(doc);

	static const char *const none[] = { "{}", "[]", "7", "{\"HostConfig\":[]}",
					    ("{\"HostConfig\":{\"Binds\":{},\"Mounts\":[7,[]],"
					     "\"Tmpfs\":[]}}") };
	for (size_t i = 0; i < ARRAY_LEN(none); i++) {
		doc = parse(none[i]);
		docker_binds_asked(&b, doc);
		assert_int_equal(b.n, 0);
		docker_binds_end(&b);
		docker_binds_mounted(&b, doc, NULL);
		assert_int_equal(b.n, 0);
		docker_binds_end(&b);
		json_free(doc);
	}
}

#define MOUNTS(root)                                                                               \
	"\"Mounts\":[{\"Type\":\"bind\",\"Source\":\"" root                                        \
	"/home/me\",\"Destination\":\"/app\",\"Mode\":\"\",\"RW\":true},"                          \
	"{\"Type\":\"bind\",\"Source\":\"" root "/h/f\",\"Destination\":\"/f\",\"RW\":false},"     \
	"{\"Type\":\"volume\",\"Name\":\"v\",\"Source\":\"" ROOT                                   \
	"/v\",\"Destination\":\"/app/v\",\"RW\":true}]"
#define INSPECT(root)                                                                              \
	"{\"Id\":\"1\",\"HostConfig\":{\"Binds\":[\"" root "/home/me:/app\",\"" root               \
	"/h/f:/f:ro\",\"v:/app/v\",\"/other:/"                                                     \
	"o\"],\"Mounts\":[{\"Type\":\"bind\",\"Source\":\"" root                                   \
	"/m\",\"Target\":\"/m\"}]},\"Config\":{\"Labels\":{\"tstunnel.fence\":\"off\"}}, " MOUNTS( \
	    root) "}"

static bool here(void *arg, struct slice there, struct slice *out)
{
	struct slice root = SLICE(ROOT);
	(void)arg;
	if (!slice_starts(there, root))
		return false;
	*out = slice_after(there, root.n);
	return true;
}

static void replies(void **state)
{
	struct docker_binds b;
	struct json_doc *doc = parse(INSPECT(ROOT));
	(void)state;
	docker_binds_mounted(&b, doc, NULL);
	assert_binds(&b, ROOT "/home/me>/app; " ROOT "/h/f>/f ro");
	assert_masks(&b, 0, "v");
	assert_true(b.unfenced);
	docker_binds_end(&b);
	assert_int_equal(docker_sources_inspect(doc, here, NULL), 5);
	assert_prints(doc, INSPECT(""));
	json_free(doc);

	doc = parse("[ {\"Id\":\"1\"," MOUNTS(ROOT) "},{\"Labels\":{}},7 ]");
	docker_binds_mounted(&b, doc, json_first(json_root(doc)));
	assert_binds(&b, ROOT "/home/me>/app; " ROOT "/h/f>/f ro");
	assert_false(b.unfenced);
	docker_binds_end(&b);
	assert_int_equal(docker_sources_list(doc, here, NULL), 2);
	assert_prints(doc, "[ {\"Id\":\"1\"," MOUNTS("") "},{\"Labels\":{}},7 ]");
	assert_int_equal(docker_sources_list(doc, here, NULL), 0);
	json_free(doc);
}

static void warnings(void **state)
{
	char *texts[] = { (char[]){ "a \"b\"" }, (char[]){ "c" } };
	struct json_doc *doc = parse("{\"Id\":\"1\",\"Warnings\":[\"w\"]}");
	(void)state;
	assert_int_equal(docker_warnings_add(doc, texts, 2), 0);
	assert_prints(doc, "{\"Id\":\"1\",\"Warnings\":[\"w\",\"a \\\"b\\\"\",\"c\"]}");
	json_free(doc);
	doc = parse("{\"Id\":\"1\",\"Warnings\":null}");
	assert_int_equal(docker_warnings_add(doc, texts, 1), 0);
	assert_prints(doc, "{\"Id\":\"1\",\"Warnings\":[\"a \\\"b\\\"\"]}");
	json_free(doc);
	doc = parse("[]");
	assert_int_equal(docker_warnings_add(doc, texts, 1), -EINVAL);
	json_free(doc);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(paths),       cmocka_unit_test(asked),
		cmocka_unit_test(asked_twice), cmocka_unit_test(replies),
		cmocka_unit_test(warnings),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
