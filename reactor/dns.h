/*
 * Stub resolver: hosts file, then the name servers of resolv.conf (search list, ndots, timeout,
 * attempts), UDP with TCP on truncation, A and AAAA asked together, a small cache. Never blocks but
 * for reading two local files. RFC 1035, RFC 6761 ("localhost" is always loopback), resolv.conf(5).
 */
#ifndef REACTOR_DNS_H
#define REACTOR_DNS_H

#include <netinet/in.h>
#include <sys/socket.h>

#include "reactor/reactor.h"

#define DNS_MAX_ADDRS 16

struct dns_result {
	int code;     /* 0, -ERR_DNS_NOT_FOUND, -ERR_DNS_FAIL, -ETIMEDOUT */
	size_t count; /* addresses, IPv6 and IPv4 interleaved as RFC 8305 section 4 orders them */
	struct {
		int family; /* AF_INET or AF_INET6 */
		union {
			struct in_addr v4;
			struct in6_addr v6;
		};
	} addr[DNS_MAX_ADDRS];
};

struct dns_query;

/* Looks name up within ms milliseconds. done is called once, later, from the reactor. */
struct dns_query *dns_lookup(struct reactor *, struct slice name, uint64_t ms,
			     void (*done)(void *arg, const struct dns_result *), void *arg);
/* Gives up; done is not called. Only before done was called. */
void dns_cancel(struct dns_query *);

/* An IP literal as a result of its own; false for names. */
bool dns_literal(const char *host, struct dns_result *);
/* The i-th address, with a port. */
socklen_t dns_sockaddr(const struct dns_result *, size_t i, uint16_t port,
		       struct sockaddr_storage *);

/* Overrides for tests: other files than /etc/hosts and /etc/resolv.conf, another server port.
 * NULL / 0 restore the default. Drops the cache. */
void dns_config(const char *hosts_file, const char *resolv_conf, uint16_t port);
/* Frees the cache (at exit). */
void dns_end(void);

#endif
