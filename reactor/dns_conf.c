#include "reactor/dns_conf.h"

#include <arpa/inet.h>
#include <net/if.h>

#include "reactor/dns_msg.h"

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

/* The next word of a line, empty at its end. */
static struct slice take_word(struct slice *line)
{
	size_t start = 0, end;
	struct slice word;
	while (start < line->n && is_blank(line->p[start]))
		start++;
	end = start;
	while (end < line->n && !is_blank(line->p[end]))
		end++;
	word = slice_of(line->p + start, end - start);
	*line = slice_after(*line, end);
	return word;
}

/* The next line up to a comment; false at the end of the text. */
static bool take_line(struct slice *text, const char *comment, struct slice *line)
{
	if (text->n == 0)
		return false;
	slice_cut(*text, '\n', line, text);
	for (size_t i = 0; i < line->n; i++)
		if (line->p[i] && strchr(comment, line->p[i]))
			line->n = i;
	return true;
}

/* An address as text into v4 or v6: its family, 0 if it is none. */
static int parse_ip(struct slice word, struct in_addr *v4, struct in6_addr *v6)
{
	char text[INET6_ADDRSTRLEN] = "";
	if (word.n == 0 || word.n >= sizeof(text))
		return 0;
	memcpy(text, word.p, word.n);
	if (inet_pton(AF_INET, text, v4) == 1)
		return AF_INET;
	return inet_pton(AF_INET6, text, v6) == 1 ? AF_INET6 : 0;
}

/* --- resolv.conf --- */

static uint32_t zone_index(struct slice zone)
{
	char name[IF_NAMESIZE] = "";
	if (zone.n == 0 || zone.n >= sizeof(name))
		return 0;
	memcpy(name, zone.p, zone.n);
	return if_nametoindex(name);
}

static void add_server(struct dns_conf *c, struct slice word, uint16_t port)
{
	struct dns_server s = { .len = 0 };
	struct slice ip, zone;
	struct in_addr v4;
	struct in6_addr v6;
	slice_cut(word, '%', &ip, &zone);
	switch (parse_ip(ip, &v4, &v6)) {
	case AF_INET:
		s.len = sizeof(s.in);
		s.in = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(port) };
		s.in.sin_addr = v4;
		break;
	case AF_INET6:
		s.len = sizeof(s.in6);
		s.in6 = (struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_port = htons(port) };
		s.in6.sin6_addr = v6;
		s.in6.sin6_scope_id = zone_index(zone);
		break;
	}
	if (s.len && c->nservers < DNS_SERVERS_MAX)
		c->server[c->nservers++] = s;
}

/* The last search or domain line of a file wins. */
static void set_search(struct dns_conf *c, struct slice line, size_t max)
{
	struct slice word;
	c->nsearch = 0;
	while (c->nsearch < max && (word = take_word(&line)).n) {
		if (!dns_name_ok(word))
			continue;
		if (word.p[word.n - 1] == '.')
			word.n--;
		memcpy(c->search[c->nsearch], word.p, word.n);
		c->search[c->nsearch++][word.n] = '\0';
	}
}

/* "name:N" with N brought between min and max. */
static void number_option(struct slice word, struct slice name, unsigned min, unsigned max,
			  unsigned *to)
{
	uint64_t v;
	if (slice_starts(word, name) && slice_u64(slice_after(word, name.n), 1000, &v) == 0)
		*to = (unsigned)MAX(min, MIN(max, v));
}

static void set_options(struct dns_conf *c, struct slice line)
{
	unsigned seconds = c->timeout_ms / 1000;
	struct slice word;
	while ((word = take_word(&line)).n) {
		number_option(word, SLICE("ndots:"), 0, 15, &c->ndots);
		number_option(word, SLICE("timeout:"), 1, 30, &seconds);
		number_option(word, SLICE("attempts:"), 1, 5, &c->attempts);
		if (slice_eq(word, SLICE("rotate")))
			c->rotate = true;
	}
	c->timeout_ms = seconds * 1000;
}

void dns_conf_parse(struct dns_conf *c, struct slice text, uint16_t port)
{
	struct slice line;
	memset(c, 0, sizeof(*c));
	c->ndots = 1;
	c->timeout_ms = 5000;
	c->attempts = 2;
	while (take_line(&text, "#;", &line)) {
		struct slice key = take_word(&line);
		if (slice_eq(key, SLICE("nameserver")))
			add_server(c, take_word(&line), port);
		else if (slice_eq(key, SLICE("search")))
			set_search(c, line, DNS_SEARCH_MAX);
		else if (slice_eq(key, SLICE("domain")))
			set_search(c, line, 1);
		else if (slice_eq(key, SLICE("options")))
			set_options(c, line);
	}
	if (c->nservers == 0)
		add_server(c, SLICE("127.0.0.1"), port);
}

/* --- hosts --- */

static bool line_has(struct slice line, struct slice name)
{
	struct slice word;
	while ((word = take_word(&line)).n)
		if (slice_eqi(word, name))
			return true;
	return false;
}

bool dns_hosts_find(struct dns_addrs *found, struct slice text, struct slice name)
{
	bool any = false;
	struct slice line;
	while (take_line(&text, "#", &line)) {
		struct slice ip = take_word(&line);
		struct in_addr v4;
		struct in6_addr v6;
		int family;
		if (!line_has(line, name))
			continue;
		family = parse_ip(ip, &v4, &v6);
		if (family == AF_INET && found->n4 < DNS_MAX_ADDRS)
			found->v4[found->n4++] = v4;
		if (family == AF_INET6 && found->n6 < DNS_MAX_ADDRS)
			found->v6[found->n6++] = v6;
		any = any || family != 0;
	}
	return any;
}
