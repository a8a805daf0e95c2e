/* Published ports in the engine's JSON, and listeners in procfs: what is read, what is rewritten.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "proto/docker/follow.h"
#include "proto/docker/listeners.h"
#include "proto/docker/route.h"
#include "reactor/buf.h"

#define ID "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void routes(void **state)
{
	static const struct {
		const char *method, *target;
		enum docker_verb verb;
		const char *prefix, *container;
	} cases[] = {
		{ "POST", "/v1.41/containers/web/start", DOCKER_START, "/v1.41", "web" },
		{ "POST", "/containers/" ID "/restart?t=1", DOCKER_RESTART, "", ID },
		{ "GET", "/v1.43/containers/a_b.c-1/json?size=1", DOCKER_INSPECT, "/v1.43",
		  "a_b.c-1" },
		{ "GET", "/containers/json?all=1", DOCKER_LIST, "", "" },
		{ "POST", "/v1.24/containers/create?name=x", DOCKER_CREATE, "/v1.24", "" },
		{ "GET", "/containers/create", DOCKER_OTHER, "", "" },
		{ "POST", "/containers/json", DOCKER_OTHER, "", "" },
		{ "GET", "/containers/web/start", DOCKER_OTHER, "", "web" },
		{ "POST", "/containers/web/stop?t=1", DOCKER_STOP, "", "web" },
		{ "POST", "/containers/web/kill", DOCKER_STOP, "", "web" },
		{ "POST", "/containers/web/wait?condition=removed", DOCKER_WAIT, "", "web" },
		{ "DELETE", "/v1.41/containers/web?force=1", DOCKER_REMOVE, "/v1.41", "web" },
		{ "DELETE", "/containers/w%65b", DOCKER_OTHER, "", "" },
		{ "POST", "/containers/web/attach?stream=1", DOCKER_ATTACH, "", "web" },
		{ "GET", "/containers/web/attach/ws", DOCKER_ATTACH, "", "web" },
		{ "GET", "/containers/web/logs?stdout=1&follow=1", DOCKER_LOGS, "", "web" },
		{ "GET", "/containers/web/logs?follow=0", DOCKER_OTHER, "", "web" },
		{ "POST", "/containers/web/exec", DOCKER_EXEC, "", "web" },
		{ "POST", "/containers/prune", DOCKER_OTHER, "", "" },
		{ "POST", "/containers/w%65b/start", DOCKER_OTHER, "", "" },
		{ "POST", "/containers//start", DOCKER_OTHER, "", "" },
		{ "POST", "/containers/a/b/start", DOCKER_OTHER, "", "a" },
		{ "GET", "/images/web/json", DOCKER_OTHER, "", "" },
		{ "POST", "/v1.41/exec/abc/start", DOCKER_EXEC_RUN, "/v1.41", "abc" },
		{ "GET", "/exec/abc/json", DOCKER_OTHER, "", "abc" },
		{ "GET", "/x?y=/containers/json", DOCKER_OTHER, "", "" },
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct http_head h = { .method = slice_str(cases[i].method),
				       .target = slice_str(cases[i].target) };
		struct docker_route r = docker_route(&h);
		if (r.verb != cases[i].verb || !slice_eq(r.prefix, slice_str(cases[i].prefix)) ||
		    !slice_eq(r.container, slice_str(cases[i].container)))
			fail_msg("%s %s gave %d", cases[i].method, cases[i].target, r.verb);
	}
}

static void port_text(void **state)
{
	enum docker_proto proto;
	uint16_t n;
	(void)state;
	assert_int_equal(docker_port_parse(SLICE("80/tcp"), &proto, &n), 0);
	assert_int_equal(n, 80);
	assert_int_equal(proto, DOCKER_TCP);
	assert_int_equal(docker_port_parse(SLICE("53/udp"), &proto, &n), 0);
	assert_int_equal(proto, DOCKER_UDP);
	assert_int_equal(docker_port_parse(SLICE("9"), &proto, &n), 0);
	assert_int_equal(proto, DOCKER_TCP);
	static const char *const bad[] = { "",        "/tcp",  "0/tcp",  "65536/tcp", "80/",
					   "80/icmp", "x/tcp", "-1/tcp", "80-81/tcp" };
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(docker_port_parse(slice_str(bad[i]), &proto, &n), -EINVAL);
	assert_string_equal(docker_proto_text(DOCKER_SCTP), "sctp");
	assert_true(docker_ip_is_any("") && docker_ip_is_any("::") && docker_ip_is_any("0.0.0.0"));
	assert_false(docker_ip_is_any("127.0.0.1") || docker_ip_is_any("::1"));
}

/* "tcp 80 0.0.0.0 8080; udp ..." */
static void assert_ports(const struct docker_container *c, const char *want)
{
	char got[1024] = "";
	for (size_t i = 0; i < c->nports; i++)
		snprintf(got + strlen(got), sizeof(got) - strlen(got), "%s%s %u %s %u",
			 i ? "; " : "", docker_proto_text(c->ports[i].proto), c->ports[i].inside,
			 c->ports[i].ip, c->ports[i].number);
	assert_string_equal(got, want);
}

#define INSPECT                                                                                    \
	"{\"Id\":\"" ID "\",\"Name\":\"/web\",\"State\":{\"Running\":true,\"Restarting\":false},"  \
	"\"HostConfig\":{\"NetworkMode\":\"default\",\"PublishAllPorts\":true,\"AutoRemove\":"     \
	"true,"                                                                                    \
	"\"PortBindings\":{\"80/tcp\":[{\"HostIp\":\"\",\"HostPort\":\"8080\"},{\"HostIp\":"       \
	"\"127.0.0.1\",\"HostPort\":\"\"}],\"81/tcp\":null,\"53/udp\":[{\"HostPort\":\"1-9\"}],"   \
	"\"90/tcp\":[]}},"                                                                         \
	"\"NetworkSettings\":{\"Ports\":{\"80/tcp\":[{\"HostIp\":\"0.0.0.0\",\"HostPort\":"        \
	"\"8080\"},{\"HostIp\":\"::\",\"HostPort\":\"8080\"}],\"81/"                               \
	"tcp\":null,\"bad\":[{\"HostIp\":"                                                         \
	"\"\",\"HostPort\":\"1\"}],\"82/tcp\":[{\"HostIp\":\"\",\"HostPort\":\"no\"},7]}}}"

static void inspected(void **state)
{
	struct docker_container c;
	struct json_doc *doc = json_parse(SLICE(INSPECT), NULL, NULL);
	(void)state;
	assert_int_equal(docker_inspected(&c, doc), 0);
	assert_string_equal(c.id, ID);
	assert_string_equal(c.name, "web");
	assert_string_equal(c.network, "default");
	assert_true(c.running && !c.restarting && c.publish_all && c.auto_remove);
	assert_ports(&c, "tcp 80 0.0.0.0 8080; tcp 80 :: 8080");
	docker_container_end(&c);
	assert_int_equal(docker_wanted(&c, doc), 0);
	assert_ports(&c, "tcp 80  8080; tcp 80 127.0.0.1 0; tcp 81  0; udp 53  0; tcp 90  0");
	docker_container_end(&c);
	json_free(doc);

	static const char *const bad[] = {
		"{}", "[]", "{\"Id\":\"abc\"}", "{\"Id\":7}",
		("{\"Id\":\"0123456789ABCDEF0123456789abcdef0123456789abcd"
		 "ef0123456789abcdef\"}")
	};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		doc = json_parse(slice_str(bad[i]), NULL, NULL);
		assert_int_equal(docker_inspected(&c, doc), -EINVAL);
		json_free(doc);
	}
	doc = json_parse(SLICE("{\"Id\":\"" ID "\",\"State\":{\"Running\":true,\"Restarting\":"
			       "true},\"NetworkSettings\":[]}"),
			 NULL, NULL);
	assert_int_equal(docker_inspected(&c, doc), 0);
	assert_true(c.restarting && !c.running);
	docker_container_end(&c);
	json_free(doc);
}

#define LIST                                                                                       \
	"[{\"Id\":\"" ID "\", \"Names\":[\"/web\",\"/x/y\"],\"State\":\"running\",\"Ports\":["     \
	"{\"IP\":\"0.0.0.0\",\"PrivatePort\":80,\"PublicPort\":8080,\"Type\":\"tcp\"},"            \
	"{\"PrivatePort\":81,\"Type\":\"tcp\"},"                                                   \
	"{\"IP\":\"::\",\"PrivatePort\":53,\"PublicPort\" : 53,\"Type\":\"udp\"},"                 \
	"{\"IP\":\"\",\"PrivatePort\":9,\"PublicPort\":70000,\"Type\":\"tcp\"}],"                  \
	"\"HostConfig\":{\"NetworkMode\":\"host\"},\"Labels\":{\"\\u0041\":\"1e5\"}}, 7]"

static void listed(void **state)
{
	struct docker_container c;
	struct json_doc *doc = json_parse(SLICE(LIST), NULL, NULL);
	struct json *v = json_first(json_root(doc));
	(void)state;
	assert_int_equal(docker_listed(&c, doc, v), 0);
	assert_string_equal(c.name, "web");
	assert_string_equal(c.network, "host");
	assert_true(c.running);
	assert_ports(&c, "tcp 80 0.0.0.0 8080; udp 53 :: 53");
	docker_container_end(&c);
	assert_int_equal(docker_listed(&c, doc, json_next(v)), -EINVAL);
	json_free(doc);
}

static uint16_t plus_one(void *arg, struct slice id, const struct docker_port *p)
{
	const uint16_t *only = arg;
	assert_true(slice_eq(id, SLICE(ID)));
	return *only == 0 || p->number == *only ? p->number + 1 : 0;
}

static void assert_printed(struct json_doc *doc, const char *want)
{
	struct buf b;
	buf_init(&b, 8192);
	assert_int_equal(json_print(doc, &b), 0);
	char *got = xslicedup(buf_data(&b));
	assert_string_equal(got, want);
	free(got);
	buf_end(&b);
}

/* text with the n-th (from 0) from replaced; free() it. */
static char *with(const char *text, const char *from, const char *to, int nth)
{
	const char *at = strstr(text, from);
	while (nth-- > 0)
		at = strstr(at + 1, from);
	assert_non_null(at);
	return xasprintf("%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
}

static void renumbered(void **state)
{
	uint16_t only = 8080;
	struct json_doc *doc = json_parse(SLICE(LIST), NULL, NULL);
	(void)state;
	assert_int_equal(docker_renumber_list(doc, plus_one, &only), 1);
	char *want = with(LIST, "8080", "8081", 0);
	assert_printed(doc, want);
	free(want);
	json_free(doc);
	only = 1;
	doc = json_parse(SLICE(LIST), NULL, NULL);
	assert_int_equal(docker_renumber_list(doc, plus_one, &only), 0);
	assert_printed(doc, LIST);
	json_free(doc);

	only = 0;
	doc = json_parse(SLICE(INSPECT), NULL, NULL);
	assert_int_equal(docker_renumber_inspect(doc, plus_one, &only), 2);
	char *one = with(INSPECT, "8080", "8081", 1), *two = with(one, "8080", "8081", 1);
	assert_printed(doc, two); /* PortBindings say what was asked for */
	free(one);
	free(two);
	json_free(doc);
	doc = json_parse(SLICE("{\"message\":\"no\"}"), NULL, NULL);
	assert_int_equal(docker_renumber_inspect(doc, plus_one, &only), 0);
	assert_int_equal(docker_renumber_list(doc, plus_one, &only), 0);
	json_free(doc);
}

#define HERE "{\"HostIp\":\"127.0.0.1\",\"HostPort\":\"\"}"

static void loopback(void **state)
{
	static const struct {
		const char *from, *image, *to; /* to NULL: refused */
	} cases[] = {
		{ "{\"Image\":\"x\", \"HostConfig\": {\"a\" : 1e2}}", NULL,
		  "{\"Image\":\"x\", \"HostConfig\": {\"a\" : 1e2}}" },
		{ "{\"HostConfig\":{\"PortBindings\":{\"80/tcp\":[{\"HostIp\":\"\",\"HostPort\":"
		  "\"8\"},{\"HostPort\":\"9\"},{\"HostIp\":\"::\"}, {\"HostIp\":\"127.0.0.2\"}]}}}",
		  NULL,
		  "{\"HostConfig\":{\"PortBindings\":{\"80/tcp\":[{\"HostIp\":\"127.0.0.1\","
		  "\"HostPort\":\"8\"},{\"HostPort\":\"9\",\"HostIp\":\"127.0.0.1\"},{\"HostIp\":"
		  "\"127.0.0.1\"}, {\"HostIp\":\"127.0.0.2\"}]}}}" },
		{ "{\"HostConfig\":{\"PortBindings\":{\"80/tcp\":[],\"81/tcp\":null}}}", NULL,
		  "{\"HostConfig\":{\"PortBindings\":{\"80/tcp\":[" HERE "],\"81/tcp\":[" HERE
		  "]}}}" },
		/* the engine takes names in any case, and addresses in any spelling */
		{ "{\"hostconfig\":{\"PORTBINDINGS\":{\"80/"
		  "tcp\":[{\"hostip\":\"0:0::0\",\"HostIp\":"
		  "null}]}},\"HostConfig\":null}",
		  NULL,
		  "{\"hostconfig\":{\"PORTBINDINGS\":{\"80/tcp\":[{\"hostip\":\"127.0.0.1\","
		  "\"HostIp\":\"127.0.0.1\"}]}},\"HostConfig\":null}" },
		{ "{\"HostConfig\":{\"PortBindings\":{\"1/"
		  "tcp\":[{\"HostIp\":\"::ffff:0.0.0.0\"}]}}}",
		  NULL,
		  "{\"HostConfig\":{\"PortBindings\":{\"1/tcp\":[{\"HostIp\":\"127.0.0.1\"}]}}}" },
		/* all that is exposed */
		{ "{\"ExposedPorts\":{\"1/tcp\":{}},\"HostConfig\":{\"PublishAllPorts\":true,"
		  "\"PortBindings\":{\"2/tcp\":[{\"HostIp\":\"10.0.0.1\"}]}}}",
		  "{\"Config\":{\"ExposedPorts\":{\"2/tcp\":{},\"3/udp\":{}}}}",
		  "{\"ExposedPorts\":{\"1/tcp\":{}},\"HostConfig\":{\"PublishAllPorts\":false,"
		  "\"PortBindings\":{\"2/tcp\":[{\"HostIp\":\"10.0.0.1\"}],\"1/tcp\":[" HERE
		  "],\"3/udp\":[" HERE "]}}}" },
		{ "{\"HostConfig\":{\"PublishAllPorts\":true,\"PortBindings\":null}}",
		  "{\"Config\":{\"ExposedPorts\":{\"2/tcp\":{}}}}",
		  "{\"HostConfig\":{\"PublishAllPorts\":false,\"PortBindings\":{\"2/tcp\":[" HERE
		  "]}}}" },
		{ "{\"HostConfig\":{\"PublishAllPorts\":false}}",
		  "{\"Config\":{\"ExposedPorts\":{\"2/tcp\":{}}}}",
		  "{\"HostConfig\":{\"PublishAllPorts\":false}}" },
		/* nothing that the engine could take otherwise passes */
		{ "{\"HostConfig\":{\"PortBindings\":[]}}", NULL, NULL },
		{ "{\"HostConfig\":{\"PortBindings\":{\"1/tcp\":{}}}}", NULL, NULL },
		{ "{\"HostConfig\":{\"PortBindings\":{\"1/tcp\":[7]}}}", NULL, NULL },
		{ "{\"HostConfig\":{\"PortBindings\":{\"1/tcp\":[{\"HostIp\":7}]}}}", NULL, NULL },
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct json_doc *doc = json_parse(slice_str(cases[i].from), NULL, NULL);
		struct json_doc *image =
		    cases[i].image ? json_parse(slice_str(cases[i].image), NULL, NULL) : NULL;
		assert_non_null(doc);
		int r = docker_bind_loopback(doc, image);
		if (r != (cases[i].to ? 0 : -EINVAL))
			fail_msg("%s gave %d", cases[i].from, r);
		if (r == 0)
			assert_printed(doc, cases[i].to);
		json_free(doc);
		json_free(image);
	}
	struct slice image;
	struct json_doc *doc =
	    json_parse(SLICE("{\"image\":\"a\\u003ab\",\"HostConfig\":{\"publishallports\":true}}"),
		       NULL, NULL);
	assert_true(docker_publishes_all(doc, &image));
	assert_true(slice_eq(image, SLICE("a:b")));
	json_free(doc);
	doc = json_parse(SLICE("{\"Image\":\"a\"}"), NULL, NULL);
	assert_false(docker_publishes_all(doc, &image));
	json_free(doc);
}

static void events(void **state)
{
	static const struct {
		const char *text;
		bool matters;
	} cases[] = {
		{ "{\"Type\":\"container\",\"Action\":\"start\",\"timeNano\":5}", true },
		{ "{\"Action\":\"die\",\"timeNano\":5}", true },
		{ "{\"Action\":\"rename\",\"timeNano\":5}", true },
		{ "{\"Type\":\"network\",\"Action\":\"disconnect\",\"timeNano\":5}", true },
		{ "{\"status\":\"stop\",\"timeNano\":5}", true },
		{ "{\"Action\":\"exec_create: sh\",\"timeNano\":5}", false },
		{ "{\"Action\":\"health_status: healthy\",\"timeNano\":5}", false },
		{ "{\"Action\":7,\"timeNano\":5}", false },
	};
	struct docker_event e;
	char target[512];
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		assert_int_equal(docker_event_parse(&e, slice_str(cases[i].text)), 0);
		assert_int_equal(e.nano, 5);
		assert_int_equal(e.matters, cases[i].matters);
	}
	assert_int_equal(docker_event_parse(&e, SLICE("[]")), -EINVAL);
	assert_int_equal(docker_event_parse(&e, SLICE("{")), -EINVAL);
	docker_events_target(0, target, sizeof(target));
	assert_string_equal(target, "/events?since=0.000000000&filters=%7B%22type%22%3A%5B%22"
				    "container%22%2C%22network%22%5D%7D");
	docker_events_target(1700000000000000042, target, sizeof(target));
	assert_true(slice_starts(slice_str(target), SLICE("/events?since=1700000000.000000042&")));
}

static void procfs(void **state)
{
	static const struct {
		const char *row;
		int result;
		const char *ip;
		uint16_t port;
		uint64_t inode;
	} cases[] = {
		{ "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     "
		  "0"
		  "        0 12345 1 0000000000000000 100 0 0 10 0\n",
		  1, "127.0.0.1", 8080, 12345 },
		{ "  12: 00000000000000000000000001000000:0050 "
		  "00000000000000000000000000000000:0000 "
		  "0A 00000000:00000000 00:00000000 00000000     0        0 18446744073709551615 1",
		  1, "::1", 80, UINT64_MAX },
		{ "   1: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000     "
		  "0"
		  "        0 12346 1",
		  0, "127.0.0.1", 8080, 12346 },
		{ "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   "
		  "uid "
		  " timeout inode",
		  -EINVAL, NULL, 0, 0 },
		{ "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     "
		  "0",
		  -EINVAL, NULL, 0, 0 },
		{ "   0: 0100007:1F90 00000000:0000 0A 0 0 0 0 0 1 1", -EINVAL, NULL, 0, 0 },
		{ "   0: 0100007F:1F9 00000000:0000 0A 0 0 0 0 0 1 1", -EINVAL, NULL, 0, 0 },
		{ "", -EINVAL, NULL, 0, 0 },
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct docker_port p;
		uint64_t inode = 0;
		int r = docker_listener_row(slice_str(cases[i].row), &p, &inode);
		if (r != cases[i].result)
			fail_msg("%s gave %d", cases[i].row, r);
		if (r < 0)
			continue;
		assert_string_equal(p.ip, cases[i].ip);
		assert_int_equal(p.number, cases[i].port);
		assert_true(inode == cases[i].inode);
	}
	uint64_t inode;
	assert_int_equal(docker_socket_inode(SLICE("socket:[77]"), &inode), 0);
	assert_int_equal(inode, 77);
	assert_int_equal(docker_socket_inode(SLICE("socket:[]"), &inode), -EINVAL);
	assert_int_equal(docker_socket_inode(SLICE("pipe:[77]"), &inode), -EINVAL);
	assert_int_equal(docker_socket_inode(SLICE("socket:["), &inode), -EINVAL);
	assert_int_equal(docker_socket_inode(SLICE("/dev/null"), &inode), -EINVAL);

	assert_true(docker_cgroup_is(SLICE("0::/system.slice/docker-" ID ".scope\n"), ID));
	assert_true(docker_cgroup_is(SLICE("9:pids:/x\n8:cpu:/docker/" ID), ID));
	assert_true(docker_cgroup_is(SLICE("0::/docker/" ID "/init.scope\n"), ID));
	assert_false(docker_cgroup_is(SLICE("0::/docker/a" ID "\n"), ID));
	assert_false(docker_cgroup_is(SLICE("0::/docker/" ID "0\n"), ID));
	assert_false(docker_cgroup_is(SLICE("0::/\n"), ID));
}

static void listeners(void **state)
{
	const struct docker_port all[] = { { DOCKER_TCP, 80, 80, "0.0.0.0" },
					   { DOCKER_UDP, 53, 53, "::" } };
	struct docker_container c;
	struct json_writer w;
	struct buf b;
	(void)state;
	buf_init(&b, 4096);
	json_writer_begin(&w, &b);
	docker_listeners_put(&w, all, ARRAY_LEN(all));
	assert_int_equal(json_writer_end(&w), 0);
	assert_int_equal(docker_listeners_parse(&c, buf_data(&b)), 0);
	assert_ports(&c, "tcp 80 0.0.0.0 80; udp 53 :: 53");
	docker_container_end(&c);
	buf_end(&b);
	assert_int_equal(
	    docker_listeners_parse(&c, SLICE("{\"listeners\":[{},{\"proto\":\"tcp\",\"ip"
					     "\":\"::1\",\"port\":0}]}")),
	    0);
	assert_ports(&c, "");
	assert_int_equal(docker_listeners_parse(&c, SLICE("{}")), -EINVAL);
	assert_int_equal(docker_listeners_parse(&c, SLICE("{\"listeners\":7}")), -EINVAL);
	assert_int_equal(docker_listeners_parse(&c, SLICE("")), -EINVAL);
}

static void lists(void **state)
{
	char why[256] = "";
	(void)state;
	struct json_doc *doc = docker_list_parse(SLICE("[]"), why, sizeof(why));
	assert_non_null(doc);
	json_free(doc);
	assert_null(docker_list_parse(SLICE("{}"), why, sizeof(why)));
	assert_string_equal(why, "the engine's list of containers: not an array");
	assert_null(docker_list_parse(SLICE("[1,]"), why, sizeof(why)));
	assert_string_not_equal(why, "the engine's list of containers: not an array");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(routes), cmocka_unit_test(port_text),  cmocka_unit_test(inspected),
		cmocka_unit_test(listed), cmocka_unit_test(renumbered), cmocka_unit_test(loopback),
		cmocka_unit_test(events), cmocka_unit_test(procfs),     cmocka_unit_test(listeners),
		cmocka_unit_test(lists),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
