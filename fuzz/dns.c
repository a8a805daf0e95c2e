/* What a name server, two local files and a person may throw at us: dns_msg.c, dns_conf.c, addr.c.
 * The first byte says which. */
#include <errno.h>

#include "reactor/dial.h"
#include "reactor/dns_conf.h"
#include "reactor/dns_msg.h"

static const struct slice asked = { "www.Example.com", 15 };

static void check_answer(int r, const struct dns_answer *a)
{
	BUG_ON(r != 0 && r != -ENOMSG && r != -EBADMSG);
	BUG_ON(r == 0 && a->count > DNS_ANSWERS);
	BUG_ON(r == 0 && a->ttl > INT32_MAX);
	BUG_ON(r == 0 && a->count && (a->truncated || a->rcode != DNS_RCODE_OK));
}

static void whole_message(struct slice in)
{
	struct dns_answer a;
	uint16_t id = in.n > 1 ? (uint16_t)((uint8_t)in.p[0] << 8 | (uint8_t)in.p[1]) : 0;
	check_answer(dns_msg_answer(&a, in, id, asked, DNS_TYPE_A), &a);
	check_answer(dns_msg_answer(&a, in, id, asked, DNS_TYPE_AAAA), &a);
}

/* A reply to our question with in as its answer section; bytes behind the last record change
 * nothing. in starts with the type and the count of records. */
static void answer_section(struct slice in)
{
	struct dns_answer a, b;
	uint16_t type = DNS_TYPE_A;
	size_t n;
	char *msg;
	int r, again;
	if (in.n < 2 || in.n > 65535)
		return;
	if (in.p[0] & 1)
		type = DNS_TYPE_AAAA;
	msg = xmalloc(DNS_QUESTION + in.n + 3);
	n = dns_msg_ask((uint8_t *)msg, 7, asked, type);
	msg[2] |= (char)0x80; /* QR */
	msg[7] = in.p[1];     /* ANCOUNT */
	memcpy(msg + n, in.p + 2, in.n - 2);
	n += in.n - 2;
	r = dns_msg_answer(&a, slice_of(msg, n), 7, asked, type);
	BUG_ON(r == -ENOMSG);
	check_answer(r, &a);
	memset(msg + n, 0xc0, 3);
	again = dns_msg_answer(&b, slice_of(msg, n + 3), 7, asked, type);
	BUG_ON(r == 0 && (again != 0 || memcmp(&a, &b, sizeof(a)) != 0));
	free(msg);
}

/* What we ask is what a server that echoes it would say: nothing, to our question. */
static void question(struct slice name)
{
	struct dns_answer a;
	uint8_t msg[DNS_QUESTION];
	size_t n;
	if (!dns_name_ok(name))
		return;
	n = dns_msg_ask(msg, 7, name, DNS_TYPE_AAAA);
	BUG_ON(n > sizeof(msg));
	BUG_ON(dns_msg_answer(&a, slice_of(msg, n), 7, name, DNS_TYPE_AAAA) != -ENOMSG);
	msg[2] |= 0x80;
	BUG_ON(dns_msg_answer(&a, slice_of(msg, n), 7, name, DNS_TYPE_AAAA) != 0 || a.count != 0);
}

static void resolv_conf(struct slice text)
{
	struct dns_conf c;
	dns_conf_parse(&c, text, 53);
	BUG_ON(c.nservers < 1 || c.nservers > DNS_SERVERS_MAX || c.nsearch > DNS_SEARCH_MAX);
	BUG_ON(c.ndots > 15 || c.attempts < 1 || c.attempts > 5);
	BUG_ON(c.timeout_ms < 1000 || c.timeout_ms > 30000);
	for (size_t i = 0; i < c.nsearch; i++)
		BUG_ON(!dns_name_ok(slice_str(c.search[i])));
}

/* Whatever else is in the file, a line at its end counts. */
static void hosts(struct slice text)
{
	static const char line[] = "\n10.9.8.7 name.test\n";
	struct dns_addrs found = { 0 };
	char *more = xmalloc(text.n + sizeof(line));
	size_t before;
	dns_hosts_find(&found, text, SLICE("name.test"));
	before = found.n4;
	BUG_ON(found.n4 > DNS_MAX_ADDRS || found.n6 > DNS_MAX_ADDRS);
	if (text.n)
		memcpy(more, text.p, text.n);
	memcpy(more + text.n, line, sizeof(line));
	found.n4 = found.n6 = 0;
	BUG_ON(
	    !dns_hosts_find(&found, slice_of(more, text.n + sizeof(line) - 1), SLICE("NAME.test")));
	BUG_ON(found.n4 != MIN(before + 1, (size_t)DNS_MAX_ADDRS));
	free(more);
}

/* parse, write, parse = parse. (The scheme is written too: a host may be called "tcp".) */
static void address(struct slice text)
{
	struct addr a, b;
	struct sockaddr_storage ss;
	socklen_t len;
	char err[128], again[300];
	static const char *const scheme[] = {
		[ADDR_TCP] = "tcp://", [ADDR_UDP] = "udp://", [ADDR_UNIX] = ""
	};
	if (addr_parse(&a, text, 80, err, sizeof(err)) < 0) {
		BUG_ON(err[0] == '\0');
		return;
	}
	snprintf(again, sizeof(again), "%s%s", scheme[a.kind], addr_text(&a));
	BUG_ON(addr_parse(&b, slice_str(again), 0, err, sizeof(err)) < 0);
	BUG_ON(memcmp(&a, &b, sizeof(a)) != 0);
	if (addr_literal(&a, &ss, &len) == 0)
		BUG_ON(len > sizeof(ss) || sockaddr_text((struct sockaddr *)&ss)[0] == '\0');
	addr_is_loopback(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static void (*const parts[])(struct slice) = { whole_message, answer_section, question,
						       resolv_conf,   hosts,          address };
	if (size > 0)
		parts[data[0] % ARRAY_LEN(parts)](slice_of(data + 1, size - 1));
	return 0;
}
