#include "proto/docker/docker.h"

#include "http/url.h"
#include "reactor/dial.h"

struct slice docker_path(struct slice target)
{
	struct slice rest = target;
	if (!slice_starts(rest, SLICE("/v")))
		return target;
	rest = slice_after(rest, 2);
	size_t digits = 0;
	while (rest.n && ((rest.p[0] >= '0' && rest.p[0] <= '9') || rest.p[0] == '.')) {
		rest = slice_after(rest, 1);
		digits++;
	}
	return digits && rest.n && rest.p[0] == '/' ? rest : target;
}

static struct slice path_only(struct slice target)
{
	struct slice path, query;
	slice_cut(docker_path(target), '?', &path, &query);
	return path;
}

bool docker_is_hijack(void *unused, const struct http_head *request, const struct http_head *reply)
{
	(void)unused;
	if (!slice_eq(request->method, SLICE("POST")) ||
	    (reply && (reply->status != 200 || reply->chunked || reply->has_length)))
		return false;
	struct slice path = path_only(request->target);
	return (slice_starts(path, SLICE("/containers/")) && slice_ends(path, SLICE("/attach"))) ||
	       (slice_starts(path, SLICE("/exec/")) && slice_ends(path, SLICE("/start")));
}

bool docker_is_bulk(const struct http_head *request)
{
	struct slice path = path_only(request->target);
	return slice_eq(path, SLICE("/images/load")) || slice_eq(path, SLICE("/images/get")) ||
	       slice_eq(path, SLICE("/images/create")) || slice_eq(path, SLICE("/build")) ||
	       (slice_starts(path, SLICE("/images/")) && slice_ends(path, SLICE("/get"))) ||
	       (slice_starts(path, SLICE("/containers/")) &&
		(slice_ends(path, SLICE("/archive")) || slice_ends(path, SLICE("/export"))));
}

struct json *docker_named(struct json *object, struct json *v, const char *name)
{
	if (!object || object->type != JSON_OBJECT)
		return NULL;
	for (v = v ? json_next(v) : json_first(object); v; v = json_next(v))
		if (slice_eqi(v->name, slice_str(name)))
			return v;
	return NULL;
}

static bool is_local_name(struct slice host)
{
	struct addr a = { .kind = ADDR_TCP };
	if (host.n >= sizeof(a.host))
		return false;
	memcpy(a.host, host.p, host.n);
	struct slice under = SLICE(".localhost");
	return addr_is_loopback(&a) ||
	       (host.n > under.n && slice_eqi(slice_after(host, host.n - under.n), under));
}

static bool is_listed(const struct opt_list *hosts, struct slice host)
{
	for (size_t i = 0; hosts && i < hosts->n; i++)
		if (strcmp(hosts->v[i], "*") == 0 || slice_eqi(slice_str(hosts->v[i]), host))
			return true;
	return false;
}

int docker_guard_check(const struct docker_guard *g, const struct http_head *request, char *why,
		       size_t whylen)
{
	struct slice origin = http_field_get(request, SLICE("Origin"));
	struct slice site = http_field_get(request, SLICE("Sec-Fetch-Site"));
	struct slice host = http_head_host(request);
	struct http_url url;
	struct http_err err;
	if (g->check_host && host.p && http_authority_parse(&url, host, &err) < 0) {
		snprintf(why, whylen, "malformed Host");
		return 400;
	}
	if (g->check_host && host.p && !is_local_name(url.host) && !is_listed(g->hosts, url.host)) {
		snprintf(why, whylen,
			 "request for host %.*s refused: that is none of this server's names (%s)",
			 SLICE_FMT(url.host), g->help);
		return 403;
	}
	bool page = origin.p || (site.p && !slice_eqi(site, SLICE("none")));
	if (page && !is_listed(g->hosts, SLICE("*"))) {
		snprintf(why, whylen,
			 "request from a web page refused (Origin %.*s): no page may drive Docker",
			 SLICE_FMT(origin));
		return 403;
	}
	return 0;
}
