#include "proto/docker/route.h"

#include <strings.h>

#include "http/url.h"
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

/* As moby reads a flag of a query (api/server/httputils/form.go). */
static bool is_set(struct slice query, const char *key)
{
	char value[8];
	ssize_t n = http_query_get(query, key, value, sizeof(value));
	return n > 0 && strcmp(value, "0") != 0 && strcasecmp(value, "no") != 0 &&
	       strcasecmp(value, "false") != 0 && strcasecmp(value, "none") != 0;
}

static enum docker_verb verb_of(struct slice method, struct slice action, struct slice query)
{
	static const struct {
		struct slice method, action;
		enum docker_verb verb;
	} actions[] = {
		{ SLICE("POST"), SLICE("start"), DOCKER_START },
		{ SLICE("POST"), SLICE("restart"), DOCKER_RESTART },
		{ SLICE("GET"), SLICE("json"), DOCKER_INSPECT },
		{ SLICE("POST"), SLICE("wait"), DOCKER_WAIT },
		{ SLICE("POST"), SLICE("stop"), DOCKER_STOP },
		{ SLICE("POST"), SLICE("kill"), DOCKER_STOP },
		{ SLICE("POST"), SLICE("attach"), DOCKER_ATTACH },
		{ SLICE("GET"), SLICE("attach/ws"), DOCKER_ATTACH },
		{ SLICE("GET"), SLICE("logs"), DOCKER_LOGS },
		{ SLICE("POST"), SLICE("exec"), DOCKER_EXEC },
	};
	for (size_t i = 0; i < ARRAY_LEN(actions); i++)
		if (slice_eq(action, actions[i].action) && slice_eq(method, actions[i].method))
			return actions[i].verb == DOCKER_LOGS && !is_set(query, "follow")
				   ? DOCKER_OTHER
				   : actions[i].verb;
	return DOCKER_OTHER;
}

struct docker_route docker_route(const struct http_head *h)
{
	struct slice rest = docker_path(h->target), path, query, name, action;
	struct docker_route r = { .prefix = slice_of(h->target.p, h->target.n - rest.n) };

	slice_cut(rest, '?', &path, &query);
	bool exec = slice_starts(path, SLICE("/exec/"));
	if (!exec && !slice_starts(path, SLICE("/containers/")))
		return r;
	path = slice_after(path, exec ? SLICE("/exec/").n : SLICE("/containers/").n);
	if (!exec && slice_eq(path, SLICE("create")) && slice_eq(h->method, SLICE("POST")))
		r.verb = DOCKER_CREATE;
	else if (!exec && slice_eq(path, SLICE("json")) && slice_eq(h->method, SLICE("GET")))
		r.verb = DOCKER_LIST;
	if (r.verb)
		return r;
	bool acted = slice_cut(path, '/', &name, &action);
	if (!is_plain(name))
		return r;
	if (exec && slice_eq(action, SLICE("start")) && slice_eq(h->method, SLICE("POST")))
		r.verb = DOCKER_EXEC_RUN;
	else if (!exec && acted)
		r.verb = verb_of(h->method, action, query);
	else if (!exec && slice_eq(h->method, SLICE("DELETE")))
		r.verb = DOCKER_REMOVE;
	if (r.verb || acted)
		r.container = name;
	return r;
}
