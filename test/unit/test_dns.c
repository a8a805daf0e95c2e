/* The stub resolver: reactor/dns.c and dns_conf.c, against name servers played by this process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "reactor/dns.h"
#include "reactor/dns_conf.h"
#include "reactor/dns_msg.h"
#include "reactor/err.h"
#include "reactor/listen.h"

/* --- a name server --- */

enum reply {
	R_ADDR = 1,
	R_CNAME,
	R_NODATA,
	R_SERVFAIL,
	R_DROP,
	R_TRUNCATED,
	R_FORGED,
	R_MALFORMED
};

/* What is said about a name, for one type or (0) both; the first line that fits counts. A name
 * without a line does not exist. */
struct rule {
	const char *name;
	unsigned type;
	enum reply reply;
	const char *value; /* an address; or a name, whose lines follow */
	unsigned ttl;
};

struct server {
	struct reactor *rx;
	struct handle udp;
	struct task task;
	struct listener *tcp;
	const struct rule *rules;
	int asked, asked_tcp;
	uint16_t ports[4]; /* of the clients */
};

static void put16(uint8_t *out, size_t *n, unsigned v)
{
	out[(*n)++] = (uint8_t)(v >> 8);
	out[(*n)++] = (uint8_t)v;
}

static void put_name(uint8_t *out, size_t *n, const char *text)
{
	struct slice rest = slice_str(text), label;
	while (rest.n) {
		slice_cut(rest, '.', &label, &rest);
		out[(*n)++] = (uint8_t)label.n;
		memcpy(out + *n, label.p, label.n);
		*n += label.n;
	}
	out[(*n)++] = 0;
}

static const struct rule *find(const struct rule *rules, const char *name, unsigned type)
{
	for (; rules && rules->name; rules++)
		if (strcmp(rules->name, name) == 0 && (rules->type == 0 || rules->type == type))
			return rules;
	return NULL;
}

/* Adds all records about name, following CNAMEs; how many. */
static unsigned put_records(uint8_t *out, size_t *n, const struct rule *rules, const char *name,
			    unsigned type)
{
	unsigned count = 0;
	for (; rules->name; rules++) {
		size_t at;
		if (strcmp(rules->name, name) != 0 || (rules->type && rules->type != type) ||
		    rules->reply == R_NODATA)
			continue;
		put_name(out, n, name);
		put16(out, n, rules->reply == R_CNAME ? DNS_TYPE_CNAME : type);
		put16(out, n, 1);
		put16(out, n, 0);
		put16(out, n, rules->ttl);
		at = *n;
		*n += 2;
		if (rules->reply == R_CNAME) {
			put_name(out, n, rules->value);
		} else {
			int family = type == DNS_TYPE_A ? AF_INET : AF_INET6;
			assert_int_equal(inet_pton(family, rules->value, out + *n), 1);
			*n += type == DNS_TYPE_A ? 4 : 16;
		}
		put16(out, &at, (unsigned)(*n - at - 2));
		count++;
		if (rules->reply == R_CNAME)
			return count + put_records(out, n, rules + 1, rules->value, type);
	}
	return count;
}

/* The name and type asked for; the length of the query. */
static size_t get_question(const uint8_t *in, char *name, unsigned *type)
{
	size_t at = 12, n = 0;
	while (in[at]) {
		memcpy(name + n, in + at + 1, in[at]);
		n += in[at];
		name[n++] = '.';
		at += 1u + in[at];
	}
	name[n - 1] = '\0';
	*type = (unsigned)in[at + 2];
	return at + 5;
}

/* Writes the reply; 0 = none. */
static size_t answer(const struct server *s, const uint8_t *in, bool tcp, uint8_t *out)
{
	char name[256];
	unsigned type, bits = 0x8180, count = 0;
	size_t query = get_question(in, name, &type), n = query, at = 2;
	const struct rule *r = find(s->rules, name, type);
	memcpy(out, in, query);
	if (!r)
		bits |= DNS_RCODE_NXDOMAIN;
	else if (r->reply == R_DROP)
		return 0;
	else if (r->reply == R_SERVFAIL)
		bits |= DNS_RCODE_SERVFAIL;
	else if (r->reply == R_MALFORMED)
		count = 3;
	else if (r->reply == R_TRUNCATED && !tcp)
		bits |= 0x0200;
	else
		count = put_records(out, &n, s->rules, name, type);
	put16(out, &at, bits);
	put16(out, &at, 1);
	put16(out, &at, count);
	if (r && r->reply == R_FORGED && !tcp) /* a stranger's address, under another id */
		out[0] ^= 0x55;
	return n;
}

static void server_run(struct task *t)
{
	struct server *s = container_of(t, struct server, task);
	uint8_t in[512], out[4096];
	struct sockaddr_storage from;
	socklen_t len = sizeof(from);
	while (recvfrom(s->udp.fd, in, sizeof(in), 0, (struct sockaddr *)&from, &len) > 0) {
		size_t n = answer(s, in, false, out);
		s->ports[s->asked++ % 4] = ntohs(((struct sockaddr_in *)&from)->sin_port);
		if (n)
			sendto(s->udp.fd, out, n, 0, (struct sockaddr *)&from, len);
		if (n && (in[0] ^ out[0]) == 0x55) { /* after the forged one the true one */
			out[0] = in[0];
			out[n - 1] = 99;
			sendto(s->udp.fd, out, n, 0, (struct sockaddr *)&from, len);
		}
	}
	s->udp.ready = 0;
}

/* A TCP client: its question comes in one piece here, the reply leaves in three. */
struct client {
	struct server *s;
	struct handle h;
	struct task task;
	uint8_t out[4096];
	size_t n, sent;
};

static void client_run(struct task *t)
{
	struct client *c = container_of(t, struct client, task);
	static const size_t pieces[] = { 1, 20, 4096 };
	uint8_t in[512];
	if (c->n == 0) {
		size_t at = 0;
		if (recv(c->h.fd, in, sizeof(in), 0) == -1) {
			c->h.ready = 0;
			return;
		}
		c->s->asked_tcp++;
		c->n = 2 + answer(c->s, in + 2, true, c->out + 2);
		put16(c->out, &at, (unsigned)c->n - 2);
	}
	for (size_t i = 0; i < ARRAY_LEN(pieces); i++)
		if (c->sent < pieces[i]) {
			size_t to = MIN(pieces[i], c->n);
			c->sent += (size_t)send(c->h.fd, c->out + c->sent, to - c->sent, 0);
			break;
		}
	if (c->sent < c->n) {
		task_wake(c->s->rx, t);
		return;
	}
	handle_close(&c->h);
	free(c);
}

static void on_client(void *arg, int fd, const struct sockaddr *peer)
{
	struct client *c = xcalloc(1, sizeof(*c));
	(void)peer;
	c->s = arg;
	task_init(&c->task, client_run);
	assert_int_equal(handle_open(&c->h, c->s->rx, fd, &c->task), 0);
}

/* Serves on ip, over UDP and TCP, on *port or (0) a free one; false: not there. */
static bool server_start(struct server *s, struct reactor *rx, const char *ip, uint16_t *port,
			 const struct rule *rules)
{
	struct addr a = { .kind = ADDR_TCP, .port = *port };
	struct sockaddr_storage ss;
	socklen_t len;
	int err, fd;
	memset(s, 0, sizeof(*s));
	s->rx = rx;
	s->rules = rules;
	task_init(&s->task, server_run);
	snprintf(a.host, sizeof(a.host), "%s", ip);
	s->tcp = listener_new(rx, &a, on_client, s, &err);
	if (!s->tcp)
		return false;
	a.port = *port = listener_port(s->tcp);
	addr_literal(&a, &ss, &len);
	fd = socket(ss.ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&ss, len), 0);
	assert_int_equal(handle_open(&s->udp, rx, fd, &s->task), 0);
	return true;
}

static void server_stop(struct server *s)
{
	if (!s->rx)
		return;
	task_cancel(&s->task);
	handle_close(&s->udp);
	listener_close(s->tcp);
}

/* --- the fixture: two servers, a hosts file, a resolv.conf --- */

static char dir[64];

struct fixture {
	struct reactor *rx;
	struct server one, two;
	char hosts[128], resolv[128];
	bool done;
	struct dns_result result;
};

static void write_file(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static int set_up(void **state)
{
	struct fixture *f = xcalloc(1, sizeof(*f));
	f->rx = reactor_new();
	snprintf(f->hosts, sizeof(f->hosts), "%s/hosts", dir);
	snprintf(f->resolv, sizeof(f->resolv), "%s/resolv.conf", dir);
	write_file(f->hosts, "");
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	server_stop(&f->one);
	server_stop(&f->two);
	assert_int_equal(reactor_stats(f->rx)->handles, 0);
	assert_int_equal(reactor_stats(f->rx)->timers, 0);
	dns_config(NULL, NULL, 0);
	dns_end();
	unlink(f->hosts);
	unlink(f->resolv);
	reactor_free(f->rx);
	free(f);
	return 0;
}

/* NULL rules: no such server, and so its port refuses. */
static void start(struct fixture *f, const struct rule *one, const struct rule *two,
		  const char *resolv)
{
	uint16_t port = 0;
	assert_true(server_start(&f->one, f->rx, "127.0.0.1", &port, one));
	if (two)
		assert_true(server_start(&f->two, f->rx, "127.0.0.2", &port, two));
	if (!one) {
		server_stop(&f->one);
		f->one.rx = NULL;
	}
	write_file(f->resolv, resolv);
	dns_config(f->hosts, f->resolv, port);
}

static void on_done(void *arg, const struct dns_result *r)
{
	struct fixture *f = arg;
	assert_false(f->done);
	f->result = *r;
	f->done = true;
}

static int lookup_within(struct fixture *f, const char *name, uint64_t ms)
{
	f->done = false;
	assert_non_null(dns_lookup(f->rx, slice_str(name), ms, on_done, f));
	assert_false(f->done);
	reactor_run_until(f->rx, &f->done);
	return f->result.code;
}

static int lookup(struct fixture *f, const char *name)
{
	return lookup_within(f, name, 10000);
}

/* "2001:db8::1 10.0.0.1" */
static const char *addresses(const struct fixture *f)
{
	static char out[1024];
	size_t n = 0;
	out[0] = '\0';
	for (size_t i = 0; i < f->result.count; i++) {
		char ip[INET6_ADDRSTRLEN];
		inet_ntop(f->result.addr[i].family, &f->result.addr[i].v4, ip, sizeof(ip));
		n += (size_t)snprintf(out + n, sizeof(out) - n, "%s%s", i ? " " : "", ip);
	}
	return out;
}

static uint64_t now_ms(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

#define A    DNS_TYPE_A
#define AAAA DNS_TYPE_AAAA
#define ONE  "nameserver 127.0.0.1\n"
#define BOTH "nameserver 127.0.0.1\nnameserver 127.0.0.2\noptions timeout:1 attempts:2\n"

/* --- the tests --- */

static void test_both_families(void **state)
{
	static const struct rule rules[] = {
		{ "www.test", A, R_ADDR, "10.0.0.1", 60 },
		{ "www.test", A, R_ADDR, "10.0.0.2", 60 },
		{ "www.test", A, R_ADDR, "10.0.0.3", 60 },
		{ "www.test", AAAA, R_ADDR, "2001:db8::1", 60 },
		{ "www.test", AAAA, R_ADDR, "2001:db8::2", 60 },
		{ "four.test", A, R_ADDR, "10.0.0.4", 60 },
		{ "four.test", AAAA, R_NODATA, NULL, 0 },
		{ 0 },
	};
	struct fixture *f = *state;
	start(f, rules, NULL, ONE);
	assert_int_equal(lookup(f, "www.test"), 0);
	assert_string_equal(addresses(f), "2001:db8::1 10.0.0.1 2001:db8::2 10.0.0.2 10.0.0.3");
	assert_int_equal(f->one.asked, 2);
	assert_int_not_equal(f->one.ports[0], f->one.ports[1]);
	assert_int_equal(lookup(f, "four.test"), 0);
	assert_string_equal(addresses(f), "10.0.0.4");
}

static void test_cname(void **state)
{
	static const struct rule rules[] = {
		{ "www.test", 0, R_CNAME, "cdn.test", 60 },
		{ "cdn.test", 0, R_CNAME, "edge.test", 60 },
		{ "edge.test", A, R_ADDR, "10.0.0.1", 60 },
		{ 0 },
	};
	struct fixture *f = *state;
	start(f, rules, NULL, ONE);
	assert_int_equal(lookup(f, "www.test"), 0);
	assert_string_equal(addresses(f), "10.0.0.1");
}

static void test_unknown(void **state)
{
	static const struct rule rules[] = { { 0 } };
	struct fixture *f = *state;
	start(f, rules, NULL, ONE);
	assert_int_equal(lookup(f, "no.test"), -ERR_DNS_NOT_FOUND);
	assert_int_equal(f->result.count, 0);
	assert_int_equal(f->one.asked, 2);
	assert_int_equal(lookup(f, "NO.test"), -ERR_DNS_NOT_FOUND); /* from the cache */
	assert_int_equal(f->one.asked, 2);
}

static void test_bad_names(void **state)
{
	static const struct rule rules[] = { { 0 } };
	struct fixture *f = *state;
	start(f, rules, NULL, ONE);
	assert_int_equal(lookup(f, ""), -ERR_DNS_NOT_FOUND);
	assert_int_equal(lookup(f, "."), -ERR_DNS_NOT_FOUND);
	assert_int_equal(lookup(f, "a..b"), -ERR_DNS_NOT_FOUND);
	assert_int_equal(lookup(f, "a b"), -ERR_DNS_NOT_FOUND);
	assert_int_equal(f->one.asked, 0);
}

static void test_search(void **state)
{
	static const struct rule rules[] = {
		{ "web.b.test", A, R_ADDR, "10.0.0.1", 60 },
		{ "web", A, R_ADDR, "10.0.0.2", 60 },
		{ "top", A, R_ADDR, "10.0.0.3", 60 },
		{ "x.y", A, R_ADDR, "10.0.0.4", 60 },
		{ "x.y.a.test", A, R_ADDR, "10.0.0.5", 60 },
		{ "p.q.b.test", A, R_ADDR, "10.0.0.6", 60 },
		{ 0 },
	};
	struct fixture *f = *state;
	start(f, rules, NULL, ONE "search a.test b.test\n");
	assert_int_equal(lookup(f, "web"), 0);
	assert_string_equal(addresses(f), "10.0.0.1");
	assert_int_equal(f->one.asked, 4);
	assert_int_equal(lookup(f, "top"), 0); /* after both suffixes, as it is */
	assert_string_equal(addresses(f), "10.0.0.3");
	assert_int_equal(f->one.asked, 10);
	assert_int_equal(lookup(f, "web."), 0); /* absolute */
	assert_string_equal(addresses(f), "10.0.0.2");
	assert_int_equal(f->one.asked, 12);
	assert_int_equal(lookup(f, "x.y"), 0); /* has ndots dots: as it is first */
	assert_string_equal(addresses(f), "10.0.0.4");
	assert_int_equal(f->one.asked, 14);
	assert_int_equal(lookup(f, "p.q"), 0);
	assert_string_equal(addresses(f), "10.0.0.6");
	assert_int_equal(f->one.asked, 20);
	assert_int_equal(lookup(f, "none"), -ERR_DNS_NOT_FOUND);
	write_file(f->resolv, ONE "search a.test b.test\noptions ndots:2\n");
	assert_int_equal(lookup(f, "x.y"), 0);
	assert_string_equal(addresses(f), "10.0.0.5");
}

static void test_suffix_that_makes_the_name_too_long(void **state)
{
	static const struct rule rules[] = { { 0 } };
	struct fixture *f = *state;
	char name[201];
	memset(name, 'a', 200);
	name[200] = '\0';
	for (size_t i = 50; i < 200; i += 50)
		name[i] = '.';
	start(f, rules, NULL,
	      ONE "search "
		  "sixty.bytes.of.a.suffix.are.too.much.for.a.name.like.this.one.test\n");
	assert_int_equal(lookup(f, name), -ERR_DNS_NOT_FOUND);
	assert_int_equal(f->one.asked, 2);
}

static void test_truncated_goes_to_tcp(void **state)
{
	static const struct rule rules[] = {
		{ "big.test", A, R_TRUNCATED, "10.0.0.1", 60 },
		{ "big.test", A, R_ADDR, "10.0.0.2", 60 },
		{ "big.test", AAAA, R_NODATA, NULL, 60 },
		{ 0 },
	};
	struct fixture *f = *state;
	start(f, rules, NULL, ONE);
	assert_int_equal(lookup(f, "big.test"), 0);
	assert_string_equal(addresses(f), "10.0.0.1 10.0.0.2");
	assert_int_equal(f->one.asked_tcp, 1);
}

static void test_forged_reply_ignored(void **state)
{
	static const struct rule rules[] = {
		{ "www.test", A, R_FORGED, "6.6.6.6", 60 },
		{ "www.test", AAAA, R_NODATA, NULL, 60 },
		{ 0 },
	};
	struct fixture *f = *state;
	start(f, rules, NULL, ONE);
	assert_int_equal(lookup(f, "www.test"), 0);
	assert_string_equal(addresses(f), "6.6.6.99");
}

/* Also: a record lives as long as its TTL says (the timeout takes that second). */
static void test_silent_server(void **state)
{
	static const struct rule deaf[] = {
		{ "www.test", 0, R_DROP, NULL, 0 },
		{ "brief.test", A, R_ADDR, "10.0.0.2", 0 },
		{ "brief.test", AAAA, R_NODATA, NULL, 0 },
		{ 0 },
	};
	static const struct rule good[] = { { "www.test", A, R_ADDR, "10.0.0.1", 60 }, { 0 } };
	struct fixture *f = *state;
	start(f, deaf, good, BOTH);
	assert_int_equal(lookup(f, "brief.test"), 0);
	assert_int_equal(lookup(f, "brief.test"), 0);
	assert_int_equal(f->one.asked, 2);
	assert_int_equal(lookup(f, "www.test"), 0);
	assert_string_equal(addresses(f), "10.0.0.1");
	assert_int_equal(f->one.asked, 4);
	assert_int_equal(f->two.asked, 2);
	assert_int_equal(lookup(f, "brief.test"), 0);
	assert_int_equal(f->one.asked, 6);
}

static void test_dead_server(void **state)
{
	static const struct rule good[] = { { "www.test", A, R_ADDR, "10.0.0.1", 60 }, { 0 } };
	struct fixture *f = *state;
	uint64_t begin = now_ms();
	start(f, NULL, good, BOTH);
	assert_int_equal(lookup(f, "www.test"), 0);
	assert_string_equal(addresses(f), "10.0.0.1");
	assert_true(now_ms() - begin < 900); /* refused, not timed out */
}

static void test_failing_server(void **state)
{
	static const struct rule bad[] = {
		{ "www.test", 0, R_SERVFAIL, NULL, 0 },
		{ "odd.test", 0, R_MALFORMED, NULL, 0 },
		{ "all.test", 0, R_SERVFAIL, NULL, 0 },
		{ 0 },
	};
	static const struct rule good[] = {
		{ "www.test", A, R_ADDR, "10.0.0.1", 60 },
		{ "odd.test", A, R_ADDR, "10.0.0.2", 60 },
		{ "all.test", 0, R_SERVFAIL, NULL, 0 },
		{ 0 },
	};
	struct fixture *f = *state;
	start(f, bad, good, BOTH);
	assert_int_equal(lookup(f, "www.test"), 0);
	assert_string_equal(addresses(f), "10.0.0.1");
	assert_int_equal(lookup(f, "odd.test"), 0);
	assert_string_equal(addresses(f), "10.0.0.2");
	f->one.asked = f->two.asked = 0;
	assert_int_equal(lookup(f, "all.test"), -ERR_DNS_FAIL);
	assert_int_equal(f->one.asked, 4); /* two types, two attempts */
	assert_int_equal(f->two.asked, 4);
	assert_int_equal(lookup(f, "all.test"), -ERR_DNS_FAIL); /* not cached */
	assert_int_equal(f->one.asked, 8);
}

/* A suffix whose servers fail does not hide the name itself. */
static void test_failing_suffix(void **state)
{
	static const struct rule rules[] = {
		{ "web.a.test", 0, R_SERVFAIL, NULL, 0 },
		{ "no.a.test", 0, R_SERVFAIL, NULL, 0 },
		{ "web", A, R_ADDR, "10.0.0.1", 60 },
		{ 0 },
	};
	struct fixture *f = *state;
	start(f, rules, NULL, ONE "search a.test\n");
	assert_int_equal(lookup(f, "web"), 0);
	assert_string_equal(addresses(f), "10.0.0.1");
	assert_int_equal(lookup(f, "no"), -ERR_DNS_FAIL);
}

static void test_aaaa_never_answered(void **state)
{
	static const struct rule rules[] = {
		{ "www.test", A, R_ADDR, "10.0.0.1", 60 },
		{ "www.test", AAAA, R_DROP, NULL, 0 },
		{ 0 },
	};
	struct fixture *f = *state;
	uint64_t begin = now_ms();
	start(f, rules, NULL, ONE);
	assert_int_equal(lookup(f, "www.test"), 0);
	assert_string_equal(addresses(f), "10.0.0.1");
	assert_true(now_ms() - begin < 900);
}

static void test_deadline(void **state)
{
	static const struct rule rules[] = { { "www.test", 0, R_DROP, NULL, 0 }, { 0 } };
	struct fixture *f = *state;
	start(f, rules, NULL, ONE);
	assert_int_equal(lookup_within(f, "www.test", 50), -ETIMEDOUT);
}

static void test_cancel(void **state)
{
	static const struct rule rules[] = { { "www.test", 0, R_DROP, NULL, 0 }, { 0 } };
	struct fixture *f = *state;
	uint64_t before;
	struct dns_query *q;
	start(f, rules, NULL, ONE);
	before = reactor_stats(f->rx)->handles;
	q = dns_lookup(f->rx, SLICE("www.test"), 5000, on_done, f);
	assert_int_equal(reactor_stats(f->rx)->handles, before + 2);
	dns_cancel(q);
	assert_int_equal(reactor_stats(f->rx)->handles, before);
	assert_int_equal(reactor_stats(f->rx)->timers, 0);
	dns_cancel(dns_lookup(f->rx, SLICE("localhost"), 5000, on_done, f));
	assert_int_equal(lookup(f, "localhost"), 0); /* one answer, not two */
}

static void test_hosts(void **state)
{
	static const struct rule rules[] = { { "www.test", A, R_ADDR, "10.0.0.1", 60 }, { 0 } };
	struct fixture *f = *state;
	start(f, rules, NULL, ONE);
	assert_int_equal(lookup(f, "www.test"), 0);
	assert_string_equal(addresses(f), "10.0.0.1");
	write_file(f->hosts, "# comment\n"
			     "10.9.9.9\twww.test.example alias # www.test\n"
			     "10.9.9.1   WWW.test\r\n"
			     "nonsense www.test\n"
			     "\n"
			     "2001:db8::9 other www.test");
	f->one.asked = 0;
	assert_int_equal(lookup(f, "www.Test"), 0); /* read anew, before the cache */
	assert_string_equal(addresses(f), "2001:db8::9 10.9.9.1");
	assert_int_equal(lookup(f, "alias."), 0);
	assert_string_equal(addresses(f), "10.9.9.9");
	assert_int_equal(f->one.asked, 0);
	unlink(f->hosts);
	assert_int_equal(lookup(f, "www.test"), 0);
	assert_string_equal(addresses(f), "10.0.0.1");
}

static void test_localhost(void **state)
{
	static const struct rule rules[] = { { 0 } };
	struct fixture *f = *state;
	start(f, rules, NULL, ONE);
	write_file(f->hosts, "10.6.6.6 localhost\n");
	assert_int_equal(lookup(f, "localhost"), 0);
	assert_string_equal(addresses(f), "::1 127.0.0.1");
	assert_int_equal(lookup(f, "Some.LocalHost."), 0);
	assert_string_equal(addresses(f), "::1 127.0.0.1");
	assert_int_equal(f->one.asked, 0);
	assert_int_equal(lookup(f, "notlocalhost"), -ERR_DNS_NOT_FOUND);
	assert_int_equal(f->one.asked, 2);
}

static void test_cache(void **state)
{
	static const struct rule rules[] = { { "www.test", A, R_ADDR, "10.0.0.1", 60 }, { 0 } };
	struct fixture *f = *state;
	start(f, rules, NULL, ONE);
	assert_int_equal(lookup(f, "www.test"), 0);
	assert_int_equal(lookup(f, "WWW.test"), 0);
	assert_string_equal(addresses(f), "10.0.0.1");
	assert_int_equal(f->one.asked, 2);
	write_file(f->resolv, "# changed\n" ONE);
	assert_int_equal(lookup(f, "www.test"), 0);
	assert_int_equal(f->one.asked, 4);
}

static void test_rotate(void **state)
{
	static const struct rule rules[] = { { 0 } };
	struct fixture *f = *state;
	start(f, rules, rules, BOTH "options rotate\n");
	for (int i = 0; i < 4; i++)
		lookup(f, (const char *[]){ "a.test", "b.test", "c.test", "d.test" }[i]);
	assert_int_equal(f->one.asked, 4);
	assert_int_equal(f->two.asked, 4);
}

static void test_server_over_ipv6(void **state)
{
	static const struct rule rules[] = { { "www.test", AAAA, R_ADDR, "2001:db8::1", 60 },
					     { 0 } };
	struct fixture *f = *state;
	uint16_t port = 0;
	if (!server_start(&f->one, f->rx, "::1", &port, rules)) {
		f->one.rx = NULL;
		skip();
	}
	write_file(f->resolv, "nameserver ::1\n");
	dns_config(f->hosts, f->resolv, port);
	assert_int_equal(lookup(f, "www.test"), 0);
	assert_string_equal(addresses(f), "2001:db8::1");
}

static void test_conf(void **state)
{
	struct dns_conf c;
	(void)state;
	dns_conf_parse(&c, SLICE(""), 53);
	assert_int_equal(c.nservers, 1);
	assert_int_equal(c.server[0].in.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
	assert_int_equal(c.server[0].in.sin_port, htons(53));
	assert_int_equal(c.ndots, 1);
	assert_int_equal(c.timeout_ms, 5000);
	assert_int_equal(c.attempts, 2);
	assert_false(c.rotate);

	dns_conf_parse(&c,
		       SLICE("; comment\n"
			     "nameserver 10.0.0.1 # one\n"
			     "nameserver nonsense\n"
			     "nameserver\n"
			     "nameserver fe80::1%lo\n"
			     "nameserver 10.0.0.3\n"
			     "nameserver 10.0.0.4\n"
			     "domain gone.test\n"
			     "\tsearch a.test. b..bad b.test\r\n"
			     "options ndots:99 timeout:0 attempts:x rotate unknown:1\n"
			     "options attempts:3"),
		       5353);
	assert_int_equal(c.nservers, 3);
	assert_int_equal(c.server[1].in6.sin6_family, AF_INET6);
	assert_int_equal(c.server[1].in6.sin6_port, htons(5353));
	assert_int_not_equal(c.server[1].in6.sin6_scope_id, 0);
	assert_int_equal(c.server[2].in.sin_addr.s_addr, htonl(0x0a000003));
	assert_int_equal(c.nsearch, 2);
	assert_string_equal(c.search[0], "a.test");
	assert_string_equal(c.search[1], "b.test");
	assert_int_equal(c.ndots, 15);
	assert_int_equal(c.timeout_ms, 1000);
	assert_int_equal(c.attempts, 3);
	assert_true(c.rotate);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(test_both_families),
		TEST(test_cname),
		TEST(test_unknown),
		TEST(test_bad_names),
		TEST(test_search),
		TEST(test_suffix_that_makes_the_name_too_long),
		TEST(test_truncated_goes_to_tcp),
		TEST(test_forged_reply_ignored),
		TEST(test_silent_server),
		TEST(test_dead_server),
		TEST(test_failing_server),
		TEST(test_failing_suffix),
		TEST(test_aaaa_never_answered),
		TEST(test_deadline),
		TEST(test_cancel),
		TEST(test_hosts),
		TEST(test_localhost),
		TEST(test_cache),
		TEST(test_rotate),
		TEST(test_server_over_ipv6),
		cmocka_unit_test(test_conf),
	};
	int r;
	snprintf(dir, sizeof(dir), "/tmp/test-dns-XXXXXX");
	if (!mkdtemp(dir))
		return 1;
	r = cmocka_run_group_tests(tests, NULL, NULL);
	rmdir(dir);
	return r;
}
