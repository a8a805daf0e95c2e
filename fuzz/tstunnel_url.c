/* What is accepted keeps the rules, and writing it and parsing that again changes nothing. */
#include "proto/tstunnel/url.h"

static bool same_str(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) == 0 : a == b;
}

static bool same_addr(const struct addr *a, const struct addr *b)
{
	return a->kind == b->kind && a->port == b->port && strcmp(a->host, b->host) == 0 &&
	       strcmp(a->path, b->path) == 0;
}

static void check_rules(const struct tsurl *u)
{
	BUG_ON(u->server.kind != ADDR_TCP || !u->server.host[0] || u->server.port == 0);
	BUG_ON(!u->cert != !u->key);
	BUG_ON(u->has_target == (u->path != NULL));
	if (u->has_target && u->target.kind == ADDR_UNIX)
		BUG_ON(u->target.path[0] != '/');
	else if (u->has_target)
		BUG_ON(!u->target.host[0] || u->target_last < u->target.port ||
		       (u->target.port == 0 && u->target_last));
	else
		BUG_ON(u->path[0] != '/' || strstr(u->path, "/../") || strstr(u->path, "//") ||
		       u->path[strlen(u->path) - 1] == '/');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct tsurl u, again;
	struct buf first, second;
	char err[80] = "";

	if (tsurl_parse(&u, slice_of(data, size), err, sizeof(err)) < 0) {
		BUG_ON(!slice_starts(slice_str(err), SLICE("tstunnel URL: ")));
		return 0;
	}
	check_rules(&u);
	buf_init(&first, 3 * TSURL_MAX);
	BUG_ON(tsurl_put(&first, &u) != 0);
	if (first.len > TSURL_MAX) {
		/* Escapes made it too long to come back. */
		buf_end(&first);
		tsurl_end(&u);
		return 0;
	}
	BUG_ON(tsurl_parse(&again, buf_data(&first), err, sizeof(err)) != 0);
	BUG_ON(!same_addr(&u.server, &again.server) || !same_addr(&u.target, &again.target));
	BUG_ON(u.target_last != again.target_last);
	BUG_ON(u.has_target != again.has_target || u.insecure != again.insecure);
	BUG_ON(!same_str(u.path, again.path) || !same_str(u.cert, again.cert));
	BUG_ON(!same_str(u.key, again.key) || !same_str(u.ca, again.ca));
	buf_init(&second, 3 * TSURL_MAX);
	BUG_ON(tsurl_put(&second, &again) != 0);
	BUG_ON(!slice_eq(buf_data(&first), buf_data(&second)));
	buf_end(&first);
	buf_end(&second);
	tsurl_end(&u);
	tsurl_end(&again);
	return 0;
}
