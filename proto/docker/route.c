#include "proto/docker/route.h"

#include "proto/docker/docker.h"

/* What a container's name or id is made of (moby daemon/names). */
static bool is_plain(struct slice name)
{
	for (size_t i = 0; i < name.n; i++) {
		char c = name.p[i];
		bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
		if (!letter && !(c >= '0' && c <= '9') && !(c && strchr("_.-", c)))
			return false;
	}
	return name.n > 0;
}

struct docker_route docker_route(const struct http_head *h)
{
	static const struct {
		struct slice method, action;
		enum docker_verb verb;
	} actions[] = {
		{ SLICE("POST"), SLICE("start"), DOCKER_START },
		{ SLICE("POST"), SLICE("restart"), DOCKER_RESTART },
		{ SLICE("GET"), SLICE("json"), DOCKER_INSPECT },
	};
	struct slice rest = docker_path(h->target), path, query, name, action;
	struct docker_route r = { .prefix = slice_of(h->target.p, h->target.n - rest.n) };

	slice_cut(rest, '?', &path, &query);
	if (!slice_starts(path, SLICE("/containers/")))
		return r;
	path = slice_after(path, SLICE("/containers/").n);
	if (slice_eq(path, SLICE("create")) && slice_eq(h->method, SLICE("POST")))
		r.verb = DOCKER_CREATE;
	else if (slice_eq(path, SLICE("json")) && slice_eq(h->method, SLICE("GET")))
		r.verb = DOCKER_LIST;
	if (r.verb || !slice_cut(path, '/', &name, &action) || !is_plain(name))
		return r;
	for (size_t i = 0; i < ARRAY_LEN(actions); i++)
		if (slice_eq(action, actions[i].action) && slice_eq(h->method, actions[i].method))
			r.verb = actions[i].verb;
	r.container = name;
	return r;
}
