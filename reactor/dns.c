#include "reactor/dns.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "reactor/dns_conf.h"
#include "reactor/dns_msg.h"
#include "reactor/err.h"

enum {
	FILE_MAX = 8 << 20,
	CACHE_SLOTS = 256,
	TTL_MIN = 1,
	TTL_MAX = 300,
	TTL_NEGATIVE = 5, /* seconds */
	SETTLE_MS = 50,   /* how long AAAA may come after A: RFC 8305 section 3 */
	UDP_MAX = 4096,
	PACKETS_PER_TURN = 16, /* read from one socket */
	TCP_MAX = 2 + 65535
};

/* One question (a name, a type) on its way through the servers. */
enum ask_state { ASK_UDP = 0, ASK_TCP, ASK_DONE };

struct ask {
	struct dns_query *q;
	enum ask_state state;
	uint16_t type, id;
	struct handle h;
	struct timer timer;
	bool expired;     /* the timer has fired for the present try */
	bool last_chance; /* the other question is answered: no other server after this one */
	unsigned tries;
	int code; /* ASK_DONE: 0 = see answer; before: why the last try failed */
	uint8_t out[2 + DNS_QUESTION]; /* length prefix (TCP only), message */
	size_t out_n, out_sent;
	uint8_t *in; /* TCP_MAX bytes, ASK_TCP only */
	size_t in_n;
	struct dns_answer answer;
};

struct dns_query {
	struct reactor *rx;
	void (*done)(void *, const struct dns_result *);
	void *arg;
	struct task task;
	struct timer deadline;
	char name[DNS_NAME_TEXT + 2];      /* as asked for, perhaps with a last dot */
	char candidate[DNS_NAME_TEXT + 1]; /* being tried */
	size_t next_candidate;
	size_t first_server;
	bool server_failed; /* for some candidate no server had an answer */
	bool finished;      /* result holds */
	struct ask ask[2];  /* A, AAAA */
	struct dns_result result;
};

/* --- the local files --- */

struct local_file {
	const char *path;
	struct stat seen;
	char *text;
	size_t n;
};

static struct local_file hosts = { .path = "/etc/hosts" };
static struct local_file resolv = { .path = "/etc/resolv.conf" };
static struct dns_conf conf;
static bool conf_known;
static uint16_t server_port = 53;

static void file_forget(struct local_file *f)
{
	free(f->text);
	f->text = NULL;
	f->n = 0;
	memset(&f->seen, 0, sizeof(f->seen));
}

static void file_read(struct local_file *f)
{
	int fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t got = 1;
	if (fd == -1)
		return;
	if (fstat(fd, &f->seen) == 0 && S_ISREG(f->seen.st_mode)) {
		size_t max = (size_t)MIN(f->seen.st_size, FILE_MAX);
		f->text = xmalloc(max);
		while (f->n < max && (got = read(fd, f->text + f->n, max - f->n)) > 0)
			f->n += (size_t)got;
	}
	close(fd);
}

/* Reads the file if it is not what was read last time: true. A missing file is an empty one. */
static bool file_refresh(struct local_file *f)
{
	struct stat now;
	if (stat(f->path, &now) == -1)
		memset(&now, 0, sizeof(now));
	if (now.st_ino == f->seen.st_ino && now.st_size == f->seen.st_size &&
	    now.st_mtim.tv_sec == f->seen.st_mtim.tv_sec &&
	    now.st_mtim.tv_nsec == f->seen.st_mtim.tv_nsec)
		return false;
	file_forget(f);
	f->seen = now;
	file_read(f);
	return true;
}

/* --- cache: direct-mapped, a newcomer takes the place --- */

struct cached {
	char name[DNS_NAME_TEXT + 2];
	uint64_t until;
	struct dns_result result;
};

static struct cached *cache[CACHE_SLOTS];

/* FNV-1a of the name in lower case. */
static struct cached **cache_slot(struct slice name)
{
	uint32_t h = 2166136261u;
	for (size_t i = 0; i < name.n; i++) {
		unsigned char c = (unsigned char)name.p[i];
		h = (h ^ (c >= 'A' && c <= 'Z' ? c + 32u : c)) * 16777619u;
	}
	return &cache[h % CACHE_SLOTS];
}

static void cache_drop(void)
{
	for (size_t i = 0; i < CACHE_SLOTS; i++) {
		free(cache[i]);
		cache[i] = NULL;
	}
}

static bool cache_get(const struct dns_query *q, struct dns_result *out)
{
	struct cached *c = *cache_slot(slice_str(q->name));
	if (!c || c->until <= reactor_now(q->rx) ||
	    !slice_eqi(slice_str(c->name), slice_str(q->name)))
		return false;
	*out = c->result;
	return true;
}

static void cache_put(const struct dns_query *q, uint32_t ttl)
{
	struct cached **slot = cache_slot(slice_str(q->name));
	if (!*slot)
		*slot = xmalloc(sizeof(**slot));
	memcpy((*slot)->name, q->name, sizeof(q->name));
	(*slot)->until = reactor_now(q->rx) + (uint64_t)ttl * 1000;
	(*slot)->result = q->result;
}

static void files_refresh(void)
{
	bool hosts_changed = file_refresh(&hosts), resolv_changed = file_refresh(&resolv);
	if (resolv_changed || !conf_known)
		dns_conf_parse(&conf, slice_of(resolv.text, resolv.n), server_port);
	conf_known = true;
	if (hosts_changed || resolv_changed)
		cache_drop();
}

/* --- results --- */

static void result_add(struct dns_result *r, const struct in_addr *v4, const struct in6_addr *v6)
{
	if (r->count == DNS_MAX_ADDRS)
		return;
	r->addr[r->count].family = v4 ? AF_INET : AF_INET6;
	if (v4)
		r->addr[r->count++].v4 = *v4;
	else
		r->addr[r->count++].v6 = *v6;
}

static void finish(struct dns_query *q, int code)
{
	q->result.code = code;
	q->finished = true;
	task_wake(q->rx, &q->task);
}

static void finish_found(struct dns_query *q, const struct dns_addrs *found)
{
	for (size_t i = 0; i < MAX(found->n4, found->n6); i++) {
		if (i < found->n6)
			result_add(&q->result, NULL, &found->v6[i]);
		if (i < found->n4)
			result_add(&q->result, &found->v4[i], NULL);
	}
	finish(q, 0);
}

/* --- one question --- */

static void ask_close(struct ask *a)
{
	handle_close(&a->h);
	timer_clear(a->q->rx, &a->timer);
	free(a->in);
	a->in = NULL;
}

static void ask_end(struct ask *a, int code)
{
	ask_close(a);
	a->state = ASK_DONE;
	a->code = code;
}

static const struct dns_server *ask_server(const struct ask *a)
{
	return &conf.server[(a->q->first_server + a->tries) % conf.nservers];
}

/* A socket connected (or connecting) to the server of this try, with a fresh id for the question.
 * The kernel picks the source port at random. */
static bool ask_open(struct ask *a, enum ask_state state)
{
	const struct dns_server *s = ask_server(a);
	int type = state == ASK_UDP ? SOCK_DGRAM : SOCK_STREAM;
	int fd;
	ask_close(a);
	fd = socket(s->sa.sa_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd == -1)
		return false;
	if ((connect(fd, &s->sa, s->len) == -1 && errno != EINPROGRESS) ||
	    handle_open(&a->h, a->q->rx, fd, &a->q->task) < 0) {
		close(fd);
		return false;
	}
	BUG_ON(getrandom(&a->id, sizeof(a->id), 0) != sizeof(a->id));
	a->state = state;
	a->expired = false;
	a->out_n = dns_msg_ask(a->out + 2, a->id, slice_str(a->q->candidate), a->type);
	a->out[0] = (uint8_t)(a->out_n >> 8);
	a->out[1] = (uint8_t)a->out_n;
	timer_set(a->q->rx, &a->timer, a->last_chance ? SETTLE_MS : conf.timeout_ms);
	return true;
}

static bool ask_over_udp(struct ask *a)
{
	return ask_open(a, ASK_UDP) &&
	       send(a->h.fd, a->out + 2, a->out_n, MSG_NOSIGNAL) == (ssize_t)a->out_n;
}

static bool ask_over_tcp(struct ask *a)
{
	if (!ask_open(a, ASK_TCP))
		return false;
	a->out_n += 2;
	a->out_sent = 0;
	a->in = xmalloc(TCP_MAX);
	a->in_n = 0;
	return true;
}

/* Asks the first server, from the present try on, that can be asked at all. */
static void ask_try(struct ask *a)
{
	for (; a->tries < conf.nservers * conf.attempts; a->tries++) {
		if (ask_over_udp(a))
			return;
		a->code = -ERR_DNS_FAIL;
	}
	ask_end(a, a->code);
}

/* This server is of no help. */
static void ask_next(struct ask *a, int code)
{
	a->code = code;
	a->tries++;
	if (a->last_chance)
		ask_end(a, code);
	else
		ask_try(a);
}

/* Takes a reply; false: it was none to this question. */
static bool ask_reply(struct ask *a, struct slice msg)
{
	int r = dns_msg_answer(&a->answer, msg, a->id, slice_str(a->q->candidate), a->type);
	if (r == -ENOMSG)
		return false;
	if (r == 0 && a->answer.truncated && a->state == ASK_UDP) {
		if (!ask_over_tcp(a))
			ask_next(a, -ERR_DNS_FAIL);
	} else if (r == 0 && !a->answer.truncated &&
		   (a->answer.rcode == DNS_RCODE_OK || a->answer.rcode == DNS_RCODE_NXDOMAIN)) {
		ask_end(a, 0);
	} else {
		ask_next(a, -ERR_DNS_FAIL);
	}
	return true;
}

static void ask_run_udp(struct ask *a)
{
	char in[UDP_MAX];
	for (int n = 0; n < PACKETS_PER_TURN; n++) {
		ssize_t got = recv(a->h.fd, in, sizeof(in), 0);
		if (got == -1 && errno == EAGAIN) {
			a->h.ready &= ~(unsigned)READY_IN;
			return;
		}
		if (got == -1) { /* most likely ECONNREFUSED: nobody serves there */
			ask_next(a, -ERR_DNS_FAIL);
			return;
		}
		if (ask_reply(a, slice_of(in, (size_t)got)))
			return;
	}
	task_wake(a->q->rx, &a->q->task);
}

/* RFC 1035 section 4.2.2: each message after its length. 0 = the reply is there, or -errno. */
static int ask_exchange_tcp(struct ask *a)
{
	while (a->out_sent < a->out_n) {
		ssize_t n =
		    send(a->h.fd, a->out + a->out_sent, a->out_n - a->out_sent, MSG_NOSIGNAL);
		if (n == -1)
			return -errno;
		a->out_sent += (size_t)n;
	}
	for (;;) {
		size_t want = a->in_n < 2 ? 2 : 2 + (size_t)(a->in[0] << 8 | a->in[1]);
		ssize_t n;
		if (a->in_n >= 2 && a->in_n == want)
			return 0;
		n = recv(a->h.fd, a->in + a->in_n, want - a->in_n, 0);
		if (n <= 0)
			return n == 0 ? -ECONNRESET : -errno;
		a->in_n += (size_t)n;
	}
}

static void ask_run_tcp(struct ask *a)
{
	int r = ask_exchange_tcp(a);
	if (r == -EAGAIN) {
		a->h.ready = 0;
		return;
	}
	if (r < 0 || !ask_reply(a, slice_of(a->in + 2, a->in_n - 2)))
		ask_next(a, -ERR_DNS_FAIL);
}

static void ask_run(struct ask *a)
{
	if (a->state == ASK_UDP && (a->h.ready & READY_IN))
		ask_run_udp(a);
	else if (a->state == ASK_TCP && a->h.ready)
		ask_run_tcp(a);
	if (a->state != ASK_DONE && a->expired)
		ask_next(a, -ETIMEDOUT);
}

static void on_ask_timer(struct timer *t)
{
	struct ask *a = container_of(t, struct ask, timer);
	a->expired = true;
	task_wake(a->q->rx, &a->q->task);
}

static void ask_init(struct ask *a, struct dns_query *q, uint16_t type)
{
	a->q = q;
	a->type = type;
	a->state = ASK_DONE;
	a->h.fd = -1;
	timer_init(&a->timer, on_ask_timer);
}

/* --- one name --- */

/* Puts the next name to try into q->candidate: as it is, first when it has ndots dots and else
 * last, and with each suffix of the search list. False when all have been tried. */
static bool take_candidate(struct dns_query *q)
{
	struct slice name = slice_str(q->name);
	bool absolute = slice_ends(name, SLICE("."));
	size_t nsearch = absolute ? 0 : conf.nsearch;
	unsigned dots = 0;
	for (size_t i = 0; i < name.n; i++)
		dots += name.p[i] == '.';
	while (q->next_candidate <= nsearch) {
		size_t i = q->next_candidate++, as_is = dots >= conf.ndots ? 0 : nsearch;
		int n;
		if (i == as_is)
			n = snprintf(q->candidate, sizeof(q->candidate), "%.*s",
				     (int)(name.n - absolute), name.p);
		else
			n = snprintf(q->candidate, sizeof(q->candidate), "%s.%s", q->name,
				     conf.search[i - (i > as_is)]);
		if (n <= DNS_NAME_TEXT)
			return true;
	}
	return false;
}

static void next_candidate(struct dns_query *q)
{
	if (!take_candidate(q)) {
		finish(q, q->server_failed ? -ERR_DNS_FAIL : -ERR_DNS_NOT_FOUND);
		if (!q->server_failed)
			cache_put(q, TTL_NEGATIVE);
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(q->ask); i++) {
		q->ask[i].tries = 0;
		q->ask[i].last_chance = false;
		ask_try(&q->ask[i]);
	}
}

/* Both questions about the candidate are done with. */
static void settle(struct dns_query *q)
{
	const struct ask *a = &q->ask[0], *aaaa = &q->ask[1];
	struct dns_addrs found = { .n4 = a->code == 0 ? a->answer.count : 0,
				   .n6 = aaaa->code == 0 ? aaaa->answer.count : 0 };
	uint32_t ttl = TTL_MAX;
	for (size_t i = 0; i < found.n4; i++)
		memcpy(&found.v4[i], a->answer.addr[i], sizeof(found.v4[i]));
	for (size_t i = 0; i < found.n6; i++)
		memcpy(&found.v6[i], aaaa->answer.addr[i], sizeof(found.v6[i]));
	if (found.n4)
		ttl = MIN(ttl, a->answer.ttl);
	if (found.n6)
		ttl = MIN(ttl, aaaa->answer.ttl);
	if (found.n4 || found.n6) {
		finish_found(q, &found);
		cache_put(q, MAX(ttl, TTL_MIN));
	} else if (a->code == -ETIMEDOUT || aaaa->code == -ETIMEDOUT) {
		finish(q, -ETIMEDOUT); /* the next candidate would meet the same silence */
	} else {
		q->server_failed = q->server_failed || a->code < 0 || aaaa->code < 0;
		next_candidate(q);
	}
}

/* A has addresses: AAAA gets a moment more, since servers exist that never answer it. */
static void hurry_aaaa(struct dns_query *q)
{
	struct ask *a = &q->ask[0], *aaaa = &q->ask[1];
	if (a->state != ASK_DONE || a->code < 0 || a->answer.count == 0 ||
	    aaaa->state == ASK_DONE || aaaa->last_chance)
		return;
	aaaa->last_chance = true;
	timer_set(q->rx, &aaaa->timer, SETTLE_MS);
}

static void query_free(struct dns_query *q)
{
	for (size_t i = 0; i < ARRAY_LEN(q->ask); i++)
		ask_close(&q->ask[i]);
	task_cancel(&q->task);
	timer_clear(q->rx, &q->deadline);
	free(q);
}

static void query_run(struct task *t)
{
	struct dns_query *q = container_of(t, struct dns_query, task);
	struct dns_result result;
	void (*done)(void *, const struct dns_result *) = q->done;
	void *arg = q->arg;
	if (!q->finished) {
		ask_run(&q->ask[0]);
		ask_run(&q->ask[1]);
	}
	while (!q->finished && q->ask[0].state == ASK_DONE && q->ask[1].state == ASK_DONE)
		settle(q);
	if (!q->finished) {
		hurry_aaaa(q);
		return;
	}
	result = q->result;
	query_free(q);
	done(arg, &result);
}

static void on_deadline(struct timer *t)
{
	struct dns_query *q = container_of(t, struct dns_query, deadline);
	if (!q->finished)
		finish(q, -ETIMEDOUT);
}

/* --- what needs no server --- */

/* RFC 6761 section 6.3. */
static bool is_localhost(struct slice name)
{
	const struct slice local = SLICE("localhost");
	if (name.n > local.n && name.p[name.n - local.n - 1] == '.')
		name = slice_after(name, name.n - local.n);
	return slice_eqi(name, local);
}

static bool answer_locally(struct dns_query *q)
{
	struct slice name = slice_str(q->name);
	struct dns_addrs found = { 0 };
	if (slice_ends(name, SLICE(".")))
		name.n--;
	if (is_localhost(name)) {
		found = (struct dns_addrs){ .n4 = 1, .n6 = 1, .v6 = { IN6ADDR_LOOPBACK_INIT } };
		found.v4[0].s_addr = htonl(INADDR_LOOPBACK);
		finish_found(q, &found);
		return true;
	}
	files_refresh();
	if (dns_hosts_find(&found, slice_of(hosts.text, hosts.n), name)) {
		finish_found(q, &found);
		return true;
	}
	if (cache_get(q, &q->result)) {
		finish(q, q->result.code);
		return true;
	}
	return false;
}

/* --- the calls --- */

struct dns_query *dns_lookup(struct reactor *rx, struct slice name, uint64_t ms,
			     void (*done)(void *arg, const struct dns_result *), void *arg)
{
	static size_t turn;
	struct dns_query *q = xcalloc(1, sizeof(*q));
	q->rx = rx;
	q->done = done;
	q->arg = arg;
	task_init(&q->task, query_run);
	timer_init(&q->deadline, on_deadline);
	timer_set(rx, &q->deadline, ms);
	ask_init(&q->ask[0], q, DNS_TYPE_A);
	ask_init(&q->ask[1], q, DNS_TYPE_AAAA);
	if (!dns_name_ok(name)) {
		finish(q, -ERR_DNS_NOT_FOUND);
		return q;
	}
	memcpy(q->name, name.p, name.n);
	if (answer_locally(q))
		return q;
	q->first_server = conf.rotate ? turn++ : 0;
	next_candidate(q);
	task_wake(rx, &q->task); /* in case no server could be asked */
	return q;
}

bool dns_literal(const char *host, struct dns_result *r)
{
	*r = (struct dns_result){ .count = 0 };
	if (inet_pton(AF_INET, host, &r->addr[0].v4) == 1)
		r->addr[0].family = AF_INET;
	else if (inet_pton(AF_INET6, host, &r->addr[0].v6) == 1)
		r->addr[0].family = AF_INET6;
	else
		return false;
	r->count = 1;
	return true;
}

socklen_t dns_sockaddr(const struct dns_result *r, size_t i, uint16_t port,
		       struct sockaddr_storage *ss)
{
	struct sockaddr_in *in = (void *)ss;
	struct sockaddr_in6 *in6 = (void *)ss;
	memset(ss, 0, sizeof(*ss));
	ss->ss_family = (sa_family_t)r->addr[i].family;
	if (ss->ss_family == AF_INET) {
		in->sin_port = htons(port);
		in->sin_addr = r->addr[i].v4;
		return sizeof(*in);
	}
	in6->sin6_port = htons(port);
	in6->sin6_addr = r->addr[i].v6;
	return sizeof(*in6);
}

void dns_cancel(struct dns_query *q)
{
	query_free(q);
}

void dns_config(const char *hosts_file, const char *resolv_conf, uint16_t port)
{
	dns_end();
	hosts.path = hosts_file ? hosts_file : "/etc/hosts";
	resolv.path = resolv_conf ? resolv_conf : "/etc/resolv.conf";
	server_port = port ? port : 53;
}

void dns_end(void)
{
	cache_drop();
	file_forget(&hosts);
	file_forget(&resolv);
	conf_known = false;
}
