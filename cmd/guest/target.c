/* Policy: which targets and which peers. */
#include <ctype.h>
#include <errno.h>

#include "cmd/guest/guest.h"
#include "reactor/err.h"

/* "HOST:PORTS": PORTS is a number, a range "8000-8100" or "*"; HOST may be "*". */
struct rule {
	struct slice host;
	uint16_t from, to;
};

/* A name or an IP literal: a rule that nothing can match ("tcp://h:1", "*.h:1", "h:1,i:2") would
 * only show when it is missed. */
static bool is_host(struct slice s)
{
	for (size_t i = 0; i < s.n; i++)
		if (!isalnum((unsigned char)s.p[i]) && !strchr("-._:", s.p[i]))
			return false;
	return s.n > 0;
}

static int rule_parse(struct rule *r, const char *text)
{
	struct slice s = slice_str(text), from, to, ports;
	size_t colon = s.n;
	while (colon > 0 && s.p[colon - 1] != ':')
		colon--;
	if (colon < 2)
		return -EINVAL;
	r->host = slice_of(s.p, colon - 1);
	ports = slice_after(s, colon);
	if (r->host.n > 2 && r->host.p[0] == '[' && r->host.p[r->host.n - 1] == ']')
		r->host = slice_of(r->host.p + 1, r->host.n - 2);
	if (!slice_eq(r->host, SLICE("*")) && !is_host(r->host))
		return -EINVAL;
	r->from = 1;
	r->to = UINT16_MAX;
	if (slice_eq(ports, SLICE("*")))
		return 0;
	uint64_t a, b;
	if (!slice_cut(ports, '-', &from, &to))
		to = from;
	if (slice_u64(from, UINT16_MAX, &a) < 0 || slice_u64(to, UINT16_MAX, &b) < 0 || a < 1 ||
	    a > b)
		return -EINVAL;
	r->from = (uint16_t)a;
	r->to = (uint16_t)b;
	return 0;
}

int policy_check(const struct policy *p, char *why, size_t whylen)
{
	for (size_t i = 0; i < p->allow_tcp.n; i++) {
		struct rule r;
		if (rule_parse(&r, p->allow_tcp.v[i]) < 0) {
			snprintf(why, whylen,
				 "--allow-tcp %s: must be HOST:PORT, HOST:FROM-TO or HOST:*",
				 p->allow_tcp.v[i]);
			return -EINVAL;
		}
	}
	for (size_t i = 0; i < p->allow_unix.n; i++) {
		if (p->allow_unix.v[i][0] != '/') {
			snprintf(why, whylen, "--allow-unix %s: must be an absolute path",
				 p->allow_unix.v[i]);
			return -EINVAL;
		}
	}
	if (p->sync_root && p->sync_root[0] != '/') {
		snprintf(why, whylen, "--sync-root %s: must be an absolute path", p->sync_root);
		return -EINVAL;
	}
	return 0;
}

int policy_tcp(const struct policy *p, const struct addr *a, char *why, size_t whylen)
{
	if (p->allow_tcp.n == 0)
		return 0;
	for (size_t i = 0; i < p->allow_tcp.n; i++) {
		struct rule r;
		if (rule_parse(&r, p->allow_tcp.v[i]) == 0 && a->port >= r.from &&
		    a->port <= r.to &&
		    (slice_eq(r.host, SLICE("*")) || slice_eqi(r.host, slice_str(a->host))))
			return 0;
	}
	snprintf(why, whylen, "%s is not allowed by this guest's --allow-tcp", addr_text(a));
	return -ERR_DENIED;
}

int policy_unix(const struct policy *p, const struct addr *a, char *why, size_t whylen)
{
	bool narrowed = p->allow_unix.n > 0 || p->allow_tcp.n > 0 || !p->exec.allowed;
	if (!narrowed)
		return 0;
	for (size_t i = 0; i < p->allow_unix.n; i++)
		if (strcmp(p->allow_unix.v[i], a->path) == 0)
			return 0;
	snprintf(why, whylen, "%s is not allowed by this guest (--allow-unix)", addr_text(a));
	return -ERR_DENIED;
}

int policy_peer(const struct policy *p, const struct tls_peer *peer, char *why, size_t whylen)
{
	if (p->allowed_cns.n == 0)
		return 0;
	for (size_t i = 0; peer && peer->verified && i < p->allowed_cns.n; i++) {
		/* a list may be given with commas, as the seed's flags are */
		struct slice rest = slice_str(p->allowed_cns.v[i]), one;
		while (rest.n) {
			slice_cut(rest, ',', &one, &rest);
			if (one.n && (slice_eq(one, slice_str(peer->common_name)) ||
				      slice_eq(one, slice_str(peer->spiffe_id))))
				return 0;
		}
	}
	snprintf(why, whylen, "client certificate %s is not in this guest's --allowed-cns",
		 peer ? peer->subject : "(none)");
	return -ERR_DENIED;
}
