/*
 * The two local files of the resolver, as pure parsers of their text: hosts(5), resolv.conf(5).
 * Lines that make no sense are stepped over, as every libc does.
 */
#ifndef REACTOR_DNS_CONF_H
#define REACTOR_DNS_CONF_H

#include <netinet/in.h>
#include <sys/socket.h>

#include "reactor/dns.h"

enum { DNS_SERVERS_MAX = 3, DNS_SEARCH_MAX = 16 };

struct dns_server {
	socklen_t len;
	union {
		struct sockaddr sa;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
	};
};

struct dns_conf {
	size_t nservers; /* at least 1: without any, 127.0.0.1 is asked */
	struct dns_server server[DNS_SERVERS_MAX];
	size_t nsearch;
	char search[DNS_SEARCH_MAX][254]; /* each dns_name_ok, without the last dot */
	unsigned ndots, timeout_ms, attempts;
	bool rotate;
};

/* Reads resolv.conf: nameserver (IPv6 with %zone too), search, domain, options ndots, timeout,
 * attempts, rotate. All servers listen on port. */
void dns_conf_parse(struct dns_conf *, struct slice text, uint16_t port);

/* Addresses of one name, by family. */
struct dns_addrs {
	size_t n4, n6;
	struct in_addr v4[DNS_MAX_ADDRS];
	struct in6_addr v6[DNS_MAX_ADDRS];
};

/* Adds the addresses that a hosts file gives to name (no last dot, any case); false: none. */
bool dns_hosts_find(struct dns_addrs *, struct slice text, struct slice name);

#endif
