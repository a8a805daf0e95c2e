#include "reactor/dial.h"

#include <arpa/inet.h>
#include <errno.h>

/* --- text to address --- */

static int complain(char *err, size_t errlen, const char *what, struct slice text)
{
	snprintf(err, errlen, "address %.*s: %s", SLICE_FMT(text), what);
	return -EINVAL;
}

static bool take_prefix(struct slice *s, const char *prefix)
{
	if (!slice_starts(*s, slice_str(prefix)))
		return false;
	*s = slice_after(*s, strlen(prefix));
	return true;
}

static bool is_v6(const char *host)
{
	return strchr(host, ':') != NULL;
}

static bool name_chars_ok(struct slice host)
{
	for (size_t i = 0; i < host.n; i++) {
		char c = host.p[i];
		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
		      c == '-' || c == '.' || c == '_'))
			return false;
	}
	return true;
}

static int parse_path(struct addr *a, struct slice path, struct slice text, char *err,
		      size_t errlen)
{
	if (path.n == 0 || (path.n == 1 && path.p[0] == '@'))
		return complain(err, errlen, "missing path", text);
	if (path.n >= sizeof(a->path))
		return complain(err, errlen, "path too long (107 bytes at most)", text);
	if (memchr(path.p, '\0', path.n))
		return complain(err, errlen, "NUL byte in path", text);
	a->kind = ADDR_UNIX;
	memcpy(a->path, path.p, path.n);
	return 0;
}

/* Splits "HOST:PORT", "HOST" or "[V6]:PORT" at the colon before the port; no colon leaves port.p
 * NULL. Returns what is wrong, or NULL. */
static const char *split_port(struct slice s, struct slice *host, struct slice *port)
{
	bool bracketed = s.n && s.p[0] == '[';
	struct slice rest;
	if (bracketed) {
		if (!slice_cut(slice_after(s, 1), ']', host, &rest))
			return "missing ']' in address";
		if (rest.n && rest.p[0] != ':')
			return "unexpected text after ']'";
		*port = rest.n ? slice_after(rest, 1) : (struct slice){ NULL, 0 };
		return NULL;
	}
	slice_cut(s, ':', host, port);
	if (port->n && memchr(port->p, ':', port->n))
		return "too many colons in address (an IPv6 address needs brackets)";
	return NULL;
}

static int parse_host_port(struct addr *a, struct slice s, uint16_t port_default, struct slice text,
			   char *err, size_t errlen)
{
	struct slice host, port;
	struct in6_addr v6;
	uint64_t number = port_default;
	const char *wrong = split_port(s, &host, &port);
	if (wrong)
		return complain(err, errlen, wrong, text);
	if (host.n >= sizeof(a->host))
		return complain(err, errlen, "host name too long (253 bytes at most)", text);
	if (host.n)
		memcpy(a->host, host.p, host.n);
	if (s.n && s.p[0] == '[') {
		if (strlen(a->host) != host.n || inet_pton(AF_INET6, a->host, &v6) != 1)
			return complain(err, errlen, "bad IPv6 address", text);
	} else if (!name_chars_ok(host)) {
		return complain(err, errlen, "bad character in host name", text);
	}
	if (!port.p && port_default == 0)
		return complain(err, errlen, "missing port in address", text);
	if (port.p && slice_u64(port, UINT16_MAX, &number) < 0)
		return complain(err, errlen, "bad port (a number up to 65535)", text);
	a->port = (uint16_t)number;
	return 0;
}

int addr_parse(struct addr *a, struct slice text, uint16_t port_default, char *err, size_t errlen)
{
	struct slice s = text;
	memset(a, 0, sizeof(*a));
	if (take_prefix(&s, "unix://") || take_prefix(&s, "unix:"))
		return parse_path(a, s, text, err, errlen);
	a->kind = ADDR_TCP;
	if (take_prefix(&s, "udp://") || take_prefix(&s, "udp:"))
		a->kind = ADDR_UDP;
	else if (!take_prefix(&s, "tcp://"))
		take_prefix(&s, "tcp:");
	if (s.n == 0)
		return complain(err, errlen, "empty address", text);
	return parse_host_port(a, s, port_default, text, err, errlen);
}

int addr_parse_stream(struct addr *a, struct slice text, uint16_t port_default, char *err,
		      size_t errlen)
{
	int r = addr_parse(a, text, port_default, err, errlen);
	if (r == 0 && a->kind == ADDR_UDP)
		return complain(err, errlen, "UDP is of no use here", text);
	return r;
}

/* --- address to text --- */

#define TEXT_MAX 288 /* "[" 253 "]:" 5 and NUL; "unix://" 108 */

static char *text_next(void)
{
	static char ring[8][TEXT_MAX];
	static unsigned at;
	return ring[at++ % ARRAY_LEN(ring)];
}

static const char *host_port_text(const char *host, uint16_t port)
{
	char *out = text_next();
	snprintf(out, TEXT_MAX, is_v6(host) ? "[%s]:%u" : "%s:%u", host, port);
	return out;
}

static const char *unix_text(const char *path, size_t max)
{
	char *out = text_next();
	snprintf(out, TEXT_MAX, "unix://%.*s", (int)strnlen(path, max), path);
	return out;
}

const char *addr_text(const struct addr *a)
{
	if (a->kind == ADDR_UNIX)
		return unix_text(a->path, sizeof(a->path));
	return host_port_text(a->host, a->port);
}

static const char *sockaddr_un_text(const struct sockaddr_un *un)
{
	char name[sizeof(un->sun_path)] = "@";
	if (un->sun_path[0])
		return unix_text(un->sun_path, sizeof(un->sun_path));
	memcpy(name + 1, un->sun_path + 1, sizeof(name) - 1);
	return unix_text(name, sizeof(name));
}

const char *sockaddr_text(const struct sockaddr *sa)
{
	char host[INET6_ADDRSTRLEN];
	if (sa->sa_family == AF_UNIX)
		return sockaddr_un_text((const struct sockaddr_un *)(const void *)sa);
	if (sa->sa_family == AF_INET) {
		const struct sockaddr_in *in = (const void *)sa;
		inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
		return host_port_text(host, ntohs(in->sin_port));
	}
	if (sa->sa_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const void *)sa;
		if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr))
			inet_ntop(AF_INET, &in6->sin6_addr.s6_addr[12], host, sizeof(host));
		else
			inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
		return host_port_text(host, ntohs(in6->sin6_port));
	}
	return "unknown";
}

/* --- what an address is --- */

int addr_literal(const struct addr *a, struct sockaddr_storage *ss, socklen_t *len)
{
	struct sockaddr_in *in = (void *)ss;
	struct sockaddr_in6 *in6 = (void *)ss;
	struct sockaddr_un *un = (void *)ss;
	memset(ss, 0, sizeof(*ss));
	if (a->kind == ADDR_UNIX) {
		size_t n = strlen(a->path);
		bool abstract = a->path[0] == '@';
		un->sun_family = AF_UNIX;
		memcpy(un->sun_path, a->path, n);
		if (abstract)
			un->sun_path[0] = '\0';
		*len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + (abstract ? 0 : 1));
		return 0;
	}
	if (inet_pton(AF_INET, a->host, &in->sin_addr) == 1) {
		in->sin_family = AF_INET;
		in->sin_port = htons(a->port);
		*len = sizeof(*in);
		return 0;
	}
	if (inet_pton(AF_INET6, a->host, &in6->sin6_addr) == 1) {
		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons(a->port);
		*len = sizeof(*in6);
		return 0;
	}
	return -EINVAL;
}

bool addr_is_loopback(const struct addr *a)
{
	struct in_addr v4;
	struct in6_addr v6;
	if (a->kind == ADDR_UNIX || slice_eqi(slice_str(a->host), SLICE("localhost")))
		return true;
	if (inet_pton(AF_INET, a->host, &v4) == 1)
		return ntohl(v4.s_addr) >> 24 == 127;
	if (inet_pton(AF_INET6, a->host, &v6) != 1)
		return false;
	return IN6_IS_ADDR_LOOPBACK(&v6) || (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 127);
}
