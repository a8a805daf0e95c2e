#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "proto/k8s/kubeconfig.h"
#include "proto/k8s/object.h"
#include "proto/k8s/yaml.h"

/* --- YAML --- */

static void test_yaml(void **state)
{
	static const struct {
		const char *yaml, *json;
	} rows[] = {
		{ "", "null" },
		{ "# only\n\n---\n", "null" },
		{ "a: b", "{\"a\":\"b\"}" },
		{ "a: b # c\nd: e#f\r\n", "{\"a\":\"b\",\"d\":\"e#f\"}" },
		{ "a:\n  b:\n    c: d\n  e: f\ng: h\n",
		  "{\"a\":{\"b\":{\"c\":\"d\"},\"e\":\"f\"},\"g\":\"h\"}" },
		{ "a:\n- b\n- c\nd: e\n", "{\"a\":[\"b\",\"c\"],\"d\":\"e\"}" },
		{ "a:\n  - b: 1\n    c: 2\n  - b: 3\n",
		  "{\"a\":[{\"b\":\"1\",\"c\":\"2\"},{\"b\":\"3\"}]}" },
		{ "- - a\n  - b\n- c\n", "[[\"a\",\"b\"],\"c\"]" },
		{ "-\n  a: b\n-\n- {}\n- []\n", "[{\"a\":\"b\"},null,{},[]]" },
		{ "a: null\nb: ~\nc:\nd: true\ne: false\nf: 'true'\n",
		  "{\"a\":null,\"b\":null,\"c\":null,\"d\":true,\"e\":false,\"f\":\"true\"}" },
		{ "a: 'it''s # no comment'\n", "{\"a\":\"it's # no comment\"}" },
		{ "\"a: b\": \"x\\ty\\\"\\u00e9\\x41\"\n", "{\"a: b\":\"x\\ty\\\"\xc3\xa9"
							   "A\"}" },
		{ "a: https://x:1/y\n", "{\"a\":\"https://x:1/y\"}" },
		{ "a: |\n  x\n   y\n\n  z\nb: c\n", "{\"a\":\"x\\n y\\n\\nz\\n\",\"b\":\"c\"}" },
		{ "a: |-\n  x\n", "{\"a\":\"x\"}" },
		{ "a: >\n  x\n  y\n\n  z\n", "{\"a\":\"x y\\nz\\n\"}" },
		{ " {\"a\": [1]}", "{\"a\": [1]}" },
		{ "a: b\n...\nanything: [", "{\"a\":\"b\"}" },
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct buf b;
		char err[200];
		buf_init(&b, 4096);
		if (yaml_to_json(slice_str(rows[i].yaml), &b, err, sizeof(err)) < 0)
			fail_msg("row %zu: %s", i, err);
		char *is = xslicedup(buf_data(&b));
		assert_string_equal(is, rows[i].json);
		free(is);
		buf_end(&b);
	}
}

static void test_yaml_refused(void **state)
{
	static const struct {
		const char *yaml, *says;
	} rows[] = {
		{ "a: b\n  c: d\n", "line 2" }, { "a:\n\tb: c\n", "line 2" },
		{ "a: [b, c]\n", "line 1" },    { "a: {b: c}\n", "line 1" },
		{ "a: &x b\n", "line 1" },      { "a: *x\n", "line 1" },
		{ "a: !!str b\n", "line 1" },   { "a: 'b\n", "line 1" },
		{ "a: \"\\q\"\n", "line 1" },   { "a: \"\\ud800\"\n", "line 1" },
		{ "a: b\nwhat\n", "line 2" },   { "a: b\n---\nc: d\n", "line 2" },
		{ "  a: b\nc: d\n", "line 2" }, { "- a\nb: c\n", "line 2" },
		{ "a: \"b\" c\n", "line 1" },
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct buf b;
		char err[200];
		buf_init(&b, 4096);
		if (yaml_to_json(slice_str(rows[i].yaml), &b, err, sizeof(err)) == 0)
			fail_msg("row %zu was taken", i);
		if (!strstr(err, rows[i].says))
			fail_msg("row %zu: %s", i, err);
		buf_end(&b);
	}
}

/* --- kubeconfig --- */

static const char two[] = "apiVersion: v1\n"
			  "clusters:\n"
			  "- cluster:\n"
			  "    certificate-authority-data: UEVN\n"
			  "    server: https://one:6443\n"
			  "  name: one\n"
			  "- cluster:\n"
			  "    certificate-authority: ca.pem\n"
			  "    insecure-skip-tls-verify: true\n"
			  "    server: https://two\n"
			  "    tls-server-name: kubernetes\n"
			  "  name: two\n"
			  "contexts:\n"
			  "- context:\n"
			  "    cluster: one\n"
			  "    user: cert\n"
			  "  name: one\n"
			  "- context:\n"
			  "    cluster: two\n"
			  "    namespace: dev\n"
			  "    user: file\n"
			  "  name: two\n"
			  "current-context: one\n"
			  "users:\n"
			  "- name: cert\n"
			  "  user:\n"
			  "    client-certificate-data: QQ==\n"
			  "    client-key-data: Qg==\n"
			  "- name: file\n"
			  "  user:\n"
			  "    tokenFile: /abs/token\n";

static void test_kubeconfig(void **state)
{
	struct kube_config c;
	char err[400];
	(void)state;
	assert_int_equal(kube_config_parse(&c, slice_str(two), "/d", NULL, err, sizeof(err)), 0);
	assert_string_equal(c.server, "https://one:6443");
	assert_string_equal(c.ca_data, "PEM");
	assert_string_equal(c.cert_data, "A");
	assert_string_equal(c.key_data, "B");
	assert_null(c.token);
	assert_false(c.insecure);
	kube_config_end(&c);
	assert_int_equal(kube_config_parse(&c, slice_str(two), "/d", "two", err, sizeof(err)), 0);
	assert_string_equal(c.ca_file, "/d/ca.pem");
	assert_string_equal(c.token_file, "/abs/token");
	assert_string_equal(c.tls_name, "kubernetes");
	assert_string_equal(c.namespace_, "dev");
	assert_true(c.insecure);
	kube_config_end(&c);
	assert_true(kube_config_parse(&c, slice_str(two), "/d", "three", err, sizeof(err)) < 0);
	assert_non_null(strstr(err, "\"three\""));
	kube_config_end(&c);
}

/* --- objects --- */

static struct kube_spec spec(void)
{
	return (struct kube_spec){ .s = { .id = "id-1",
					  .name = "sandbox-1",
					  .server = "srv",
					  .image = "img\"1",
					  .user = "sandbox",
					  .public_key = "ssh-ed25519 A",
					  .server_key = "ssh-ed25519 B",
					  .expires_at = 1000000100,
					  .ssh_port = 22 },
				   .now = 1000000000 };
}

static struct json_doc *put(struct buf *b, enum kube_kind kind)
{
	struct kube_spec k = spec();
	buf_init(b, 65536);
	kube_put(b, kind, &k);
	struct json_doc *doc = json_parse(buf_data(b), NULL, NULL);
	assert_non_null(doc);
	return doc;
}

static void is(struct json_doc *doc, struct json *v, const char *want)
{
	struct slice s;
	assert_int_equal(json_str(doc, v, &s), 0);
	if (!slice_eq(s, slice_str(want)))
		fail_msg("%.*s, not %s", SLICE_FMT(s), want);
}

static void test_manifests(void **state)
{
	struct buf b;
	int64_t n;
	(void)state;
	struct json_doc *doc = put(&b, KUBE_POD);
	struct json *root = json_root(doc);
	is(doc, json_find(root, "apiVersion"), "v1");
	is(doc, json_find(root, "metadata", "labels", "session-id"), "id-1");
	assert_int_equal(json_i64(json_find(root, "spec", "activeDeadlineSeconds"), &n), 0);
	assert_int_equal(n, 160);
	is(doc, json_find(json_first(json_find(root, "spec", "containers")), "image"), "img\"1");
	json_free(doc);
	buf_end(&b);

	doc = put(&b, KUBE_SANDBOX_V1BETA1);
	root = json_root(doc);
	is(doc, json_find(root, "apiVersion"), "agents.x-k8s.io/v1beta1");
	is(doc, json_find(root, "spec", "shutdownTime"), "2001-09-09T01:49:20Z");
	is(doc, json_find(root, "spec", "operatingMode"), "Running");
	is(doc, json_find(root, "spec", "podTemplate", "metadata", "labels", "sandbox"),
	   "sandbox-1");
	assert_null(json_find(root, "spec", "podTemplate", "spec", "activeDeadlineSeconds"));
	json_free(doc);
	buf_end(&b);

	doc = put(&b, KUBE_SANDBOX_V1ALPHA1);
	assert_int_equal(json_i64(json_find(json_root(doc), "spec", "replicas"), &n), 0);
	assert_int_equal(n, 1);
	json_free(doc);
	buf_end(&b);
}

static struct kube_pod pod(const char *text, struct json_doc **doc)
{
	struct kube_pod p;
	*doc = json_parse(slice_str(text), NULL, NULL);
	assert_non_null(*doc);
	kube_pod_read(*doc, json_root(*doc), &p);
	return p;
}

static void test_pods(void **state)
{
	struct json_doc *doc;
	(void)state;
	struct kube_pod p =
	    pod("{\"status\":{\"phase\":\"Pending\",\"conditions\":[{\"type\":"
		"\"PodScheduled\",\"status\":\"False\",\"reason\":\"Unschedulable\","
		"\"message\":\"0/1 nodes\"}]}}",
		&doc);
	assert_false(p.running || p.hopeless);
	assert_string_equal(p.why, "Unschedulable: 0/1 nodes");
	json_free(doc);
	p = pod("{\"status\":{\"phase\":\"Running\",\"podIP\":\"10.0.0.7\","
		"\"containerStatuses\":[{\"state\":{\"running\":{}}}]}}",
		&doc);
	assert_true(p.running);
	assert_true(slice_eq(p.ip, SLICE("10.0.0.7")));
	json_free(doc);
	p = pod(
	    "{\"status\":{\"phase\":\"Pending\",\"containerStatuses\":[{\"state\":{\"waiting\":{"
	    "\"reason\":\"ImagePullBackOff\",\"message\":\"Back-off\"}}}]}}",
	    &doc);
	assert_true(p.hopeless);
	json_free(doc);
	p = pod("{\"status\":{\"phase\":\"Failed\",\"reason\":\"DeadlineExceeded\"}}", &doc);
	assert_true(p.hopeless);
	assert_string_equal(p.why, "DeadlineExceeded");
	json_free(doc);
}

static void test_events(void **state)
{
	static const struct {
		const char *text;
		int type;
		int64_t code;
	} rows[] = {
		{ "{\"type\":\"ADDED\",\"object\":{}}", KUBE_ADDED, 0 },
		{ "{\"type\":\"BOOKMARK\",\"object\":{\"metadata\":{}}}", KUBE_BOOKMARK, 0 },
		{ "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"code\":410}}", KUBE_ERROR,
		  410 },
		{ "{\"type\":\"NEW\",\"object\":{}}", -1, 0 },
		{ "{\"type\":\"ADDED\"}", -1, 0 },
		{ "[]", -1, 0 },
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct kube_event e;
		struct json_doc *doc = json_parse(slice_str(rows[i].text), NULL, NULL);
		int r = kube_event_read(doc, &e);
		assert_int_equal(r < 0 ? -1 : (int)e.type, rows[i].type);
		assert_int_equal(r < 0 ? 0 : e.code, rows[i].code);
		json_free(doc);
	}
}

static void test_discovery(void **state)
{
	(void)state;
	assert_int_equal(kube_discovery(SLICE("{\"versions\":[]}")), KUBE_POD);
	assert_int_equal(kube_discovery(SLICE("nonsense")), KUBE_POD);
	assert_int_equal(kube_discovery(SLICE("{\"versions\":[{\"version\":\"v1alpha1\"}]}")),
			 KUBE_SANDBOX_V1ALPHA1);
	assert_int_equal(kube_discovery(SLICE("{\"versions\":[{\"version\":\"v1alpha1\"},"
					      "{\"version\":\"v1beta1\"},{\"version\":\"v2\"}]}")),
			 KUBE_SANDBOX_V1BETA1);
}

static void test_refusals(void **state)
{
	char text[600];
	(void)state;
	kube_refusal(403, SLICE("{\"kind\":\"Status\",\"message\":\"pods is forbidden\"}"), text,
		     sizeof(text));
	assert_non_null(strstr(text, "403: pods is forbidden; the role"));
	kube_refusal(500, SLICE("no\njson"), text, sizeof(text));
	assert_string_equal(text, "the cluster answered 500: no json");
}

/* --- docker --- */

static void test_docker(void **state)
{
	struct kube_spec k = spec();
	struct docker_inspect i;
	struct buf b;
	uint32_t n;
	char tar[2048] = "key.pub";
	(void)state;
	buf_init(&b, 65536);
	docker_sandbox_put(&b, &k.s);
	struct json_doc *doc = json_parse(buf_data(&b), NULL, NULL);
	assert_non_null(doc);
	is(doc, json_find(json_root(doc), "Labels", "pico-server"), "srv");
	struct json *env = json_first(json_find(json_root(doc), "Env"));
	is(doc, env, "SANDBOX_USER=sandbox");
	is(doc, json_next(env), "SANDBOX_AUTHORIZED_KEYS=ssh-ed25519 A\nssh-ed25519 B");
	is(doc, json_next(json_next(env)), "SANDBOX_PASSWORD_LOGIN=no");
	json_free(doc);
	buf_end(&b);

	doc =
	    json_parse(SLICE("{\"Id\":\"abc\",\"State\":{\"Running\":true,\"Paused\":true},"
			     "\"Config\":{\"Labels\":{\"session-id\":\"s\"}},\"NetworkSettings\":{"
			     "\"IPAddress\":\"\",\"Networks\":{\"a\":{\"IPAddress\":\"\"},\"b\":{"
			     "\"IPAddress\":\"172.17.0.2\"}}}}"),
		       NULL, NULL);
	assert_int_equal(docker_inspect_read(doc, &i), 0);
	assert_true(i.running && i.paused && slice_eq(i.address, SLICE("172.17.0.2")));
	json_free(doc);

	memcpy(tar + 124, "00000000005", 11);
	tar[156] = '0';
	memcpy(tar + 512, "hello", 5);
	assert_true(slice_eq(docker_tar_file(slice_of(tar, sizeof(tar))), SLICE("hello")));
	assert_null(docker_tar_file(slice_of(tar, 514)).p); /* cut off */
	memcpy(tar + 124, "77777777777", 11);
	assert_null(docker_tar_file(slice_of(tar, sizeof(tar))).p);

	assert_int_equal(docker_frame_read((const uint8_t *)"\1\0\0\0\0\0\1\2", &n), 1);
	assert_int_equal(n, 258);
	assert_true(docker_frame_read((const uint8_t *)"SSH-2.0-", &n) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_yaml),       cmocka_unit_test(test_yaml_refused),
		cmocka_unit_test(test_kubeconfig), cmocka_unit_test(test_manifests),
		cmocka_unit_test(test_pods),       cmocka_unit_test(test_events),
		cmocka_unit_test(test_discovery),  cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_docker),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
