/* Create requests whose ports are to be on the engine's loopback only. */
#include <arpa/inet.h>
#include <errno.h>

#include "proto/docker/docker.h"
#include "proto/docker/ports.h"

#define LOOPBACK   "127.0.0.1"
#define ANY_NUMBER "[{\"HostIp\":\"" LOOPBACK "\",\"HostPort\":\"\"}]"

/* As the engine reads it: an address may be written in many ways. */
static bool means_any(const char *text)
{
	static const struct in6_addr mapped = { .s6_addr = { [10] = 0xff, [11] = 0xff } };
	struct in_addr v4;
	struct in6_addr v6;
	if (inet_pton(AF_INET6, text, &v6) == 1)
		return IN6_IS_ADDR_UNSPECIFIED(&v6) || memcmp(&v6, &mapped, sizeof(v6)) == 0;
	return !*text || (inet_pton(AF_INET, text, &v4) == 1 && v4.s_addr == INADDR_ANY);
}

/* One {"HostIp":"","HostPort":"8080"}. */
static int bind_one(struct json_doc *doc, struct json *binding)
{
	struct json *next, *v = docker_named(binding, NULL, "HostIp");
	if (binding->type != JSON_OBJECT)
		return -EINVAL;
	if (!v)
		return json_set(doc, binding, SLICE("HostIp"), SLICE("\"" LOOPBACK "\"")) ? 0
											  : -EINVAL;
	for (; v; v = next) {
		struct slice ip = SLICE("");
		char text[46];
		next = docker_named(binding, v, "HostIp");
		int r = json_str(doc, v, &ip);
		if (r == -EINVAL || ip.n >= sizeof(text))
			return -EINVAL;
		snprintf(text, sizeof(text), "%.*s", SLICE_FMT(ip));
		if (means_any(text) && !json_replace(doc, v, SLICE("\"" LOOPBACK "\"")))
			return -EINVAL;
	}
	return 0;
}

/* {"80/tcp":[...]}: no binding at all means any address and any number. */
static int bind_map(struct json_doc *doc, struct json *map)
{
	struct json *next;
	if (map->type == JSON_NULL)
		return 0;
	if (map->type != JSON_OBJECT)
		return -EINVAL;
	for (struct json *m = json_first(map); m; m = next) {
		next = json_next(m);
		if (m->type != JSON_NULL && m->type != JSON_ARRAY)
			return -EINVAL;
		if (m->type == JSON_NULL || m->count == 0) {
			if (!json_replace(doc, m, SLICE(ANY_NUMBER)))
				return -EINVAL;
			continue;
		}
		for (struct json *b = json_first(m); b; b = json_next(b))
			if (bind_one(doc, b) < 0)
				return -EINVAL;
	}
	return 0;
}

/* Each port that is exposed gets a binding, unless it has one. */
static int bind_exposed(struct json_doc *doc, struct json *host, struct json *exposed)
{
	if (!exposed || exposed->type != JSON_OBJECT)
		return 0;
	for (struct json *m = json_first(exposed); m; m = json_next(m)) {
		struct json *map = docker_named(host, NULL, "PortBindings");
		if (!map || map->type == JSON_NULL)
			map = json_set(doc, host, map ? map->name : SLICE("PortBindings"),
				       SLICE("{}"));
		if (!map)
			return -EINVAL;
		if (!json_member(map, m->name) && !json_set(doc, map, m->name, SLICE(ANY_NUMBER)))
			return -EINVAL;
	}
	return 0;
}

static bool is_true(const struct json *v)
{
	bool b = false;
	json_bool(v, &b);
	return b;
}

static int bind_all(struct json_doc *doc, struct json *host, struct json *image)
{
	struct json *all = NULL, *v = NULL, *next;
	bool wanted = false;
	while ((all = docker_named(host, all, "PublishAllPorts")))
		wanted |= is_true(all);
	if (!wanted)
		return 0;
	while ((v = docker_named(json_root(doc), v, "ExposedPorts")))
		if (bind_exposed(doc, host, v) < 0)
			return -EINVAL;
	if (bind_exposed(doc, host, json_find(image, "Config", "ExposedPorts")) < 0)
		return -EINVAL;
	for (all = docker_named(host, NULL, "PublishAllPorts"); all; all = next) {
		next = docker_named(host, all, "PublishAllPorts");
		if (!json_replace(doc, all, SLICE("false")))
			return -EINVAL;
	}
	return 0;
}

int docker_bind_loopback(struct json_doc *doc, struct json_doc *exposed)
{
	struct json *root = json_root(doc), *host = NULL;
	while ((host = docker_named(root, host, "HostConfig"))) {
		struct json *map = NULL, *next;
		for (map = docker_named(host, NULL, "PortBindings"); map; map = next) {
			next = docker_named(host, map, "PortBindings");
			if (bind_map(doc, map) < 0)
				return -EINVAL;
		}
		if (exposed && bind_all(doc, host, json_root(exposed)) < 0)
			return -EINVAL;
	}
	return 0;
}

bool docker_publishes_all(struct json_doc *doc, struct slice *image)
{
	struct json *root = json_root(doc), *host = NULL, *v = NULL;
	bool all = false;
	*image = SLICE("");
	while ((v = docker_named(root, v, "Image")))
		json_str(doc, v, image);
	while ((host = docker_named(root, host, "HostConfig")))
		while ((v = docker_named(host, v, "PublishAllPorts")))
			all |= is_true(v);
	return all;
}
