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

/* A path is a rule for sockets, where they are allowed. */
static int check_rules(const char *flag, const struct opt_list *rules, bool paths, char *why,
		       size_t whylen)
{
	for (size_t i = 0; i < rules->n; i++) {
		struct rule r;
		if (paths && rules->v[i][0] == '/')
			continue;
		if (rule_parse(&r, rules->v[i]) == 0)
			continue;
		snprintf(why, whylen, "%s %s: must be HOST:PORT, HOST:FROM-TO%s HOST:*%s", flag,
			 rules->v[i], paths ? "," : " or", paths ? " or an absolute path" : "");
		return -EINVAL;
	}
	return 0;
}

int policy_check(const struct policy *p, char *why, size_t whylen)
{
	if (check_rules("--allow-tcp", &p->allow_tcp, false, why, whylen) < 0 ||
	    check_rules("--allow-udp", &p->allow_udp, false, why, whylen) < 0 ||
	    check_rules("--allow-listen", &p->allow_listen, true, why, whylen) < 0)
		return -EINVAL;
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

/* Does one of the rules have it? Port 0, any port, only where any port is allowed. */
static bool has_port(const struct opt_list *rules, const struct addr *a)
{
	for (size_t i = 0; i < rules->n; i++) {
		struct rule r;
		if (rule_parse(&r, rules->v[i]) < 0)
			continue;
		bool port = a->port ? a->port >= r.from && a->port <= r.to
				    : r.from == 1 && r.to == UINT16_MAX;
		if (port && (slice_eq(r.host, SLICE("*")) || slice_eqi(r.host, slice_str(a->host))))
			return true;
	}
	return false;
}

static bool has_path(const struct opt_list *rules, const struct addr *a)
{
	for (size_t i = 0; i < rules->n; i++)
		if (strcmp(rules->v[i], a->path) == 0)
			return true;
	return false;
}

static int denied(const struct addr *a, const char *flag, char *why, size_t whylen)
{
	snprintf(why, whylen, "%s is not allowed by this guest (%s)", addr_text(a), flag);
	return -ERR_DENIED;
}

static bool narrowed(const struct policy *p)
{
	return p->allow_unix.n > 0 || p->allow_tcp.n > 0 || p->allow_udp.n > 0;
}

static int policy_tcp(const struct policy *p, const struct addr *a, char *why, size_t whylen)
{
	if (p->allow_tcp.n == 0 || has_port(&p->allow_tcp, a))
		return 0;
	snprintf(why, whylen, "%s is not allowed by this guest's --allow-tcp", addr_text(a));
	return -ERR_DENIED;
}

int policy_dial(const struct policy *p, const struct addr *a, char *why, size_t whylen)
{
	if (a->kind == ADDR_TCP)
		return policy_tcp(p, a, why, whylen);
	if (a->kind == ADDR_UDP) {
		bool any = p->allow_udp.n == 0 && p->allow_tcp.n == 0;
		return any || has_port(&p->allow_udp, a) ? 0
							 : denied(a, "--allow-udp", why, whylen);
	}
	bool any = !narrowed(p) && p->exec.allowed;
	return any || has_path(&p->allow_unix, a) ? 0 : denied(a, "--allow-unix", why, whylen);
}

int policy_listen(const struct policy *p, const struct addr *a, char *why, size_t whylen)
{
	const struct opt_list *rules = &p->allow_listen;
	bool ok;
	if (a->kind == ADDR_UNIX)
		ok = rules->n ? has_path(rules, a) : !narrowed(p) && p->exec.allowed;
	else
		ok = rules->n ? has_port(rules, a) : !narrowed(p) && addr_is_loopback(a);
	if (ok)
		return 0;
	snprintf(why, whylen, "listening on %s is not allowed by this guest (--allow-listen)",
		 addr_text(a));
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
