/* Two TLS streams over a socket pair (or loopback TCP), with certificates made on the spot. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "reactor/buf.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "reactor/stream.h"
#include "reactor/tls.h"
#include "reactor/tls_make.h"

#define HOST "containers.tinyscale.net"

static struct reactor *rx;
static uint64_t seed = 1;
static char dir[] = "/tmp/test_tls.XXXXXX";

static int turns;
static bool settled;

static void on_tick(struct task *t)
{
	settled = --turns <= 0;
	if (!settled)
		task_wake(rx, t);
}

/* Lets what goes on behind the scenes end: closing, lingering. */
static void settle(void)
{
	static struct task tick = { .link = { &tick.link, &tick.link }, .run = on_tick };
	turns = 20;
	settled = false;
	task_wake(rx, &tick);
	reactor_run_until(rx, &settled);
}

static size_t chance(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed >> 11;
}

/* --- files --- */

static int shell(const char *command)
{
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		execl("/bin/sh", "sh", "-c", command, (char *)NULL);
		_exit(127);
	}
	return waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static const char *path(const char *name)
{
	static char ring[8][128];
	static unsigned next;
	char *p = ring[next++ % 8];
	snprintf(p, sizeof(ring[0]), "%s/%s", dir, name);
	return p;
}

static void save(const char *name, const char *text)
{
	FILE *f = fopen(path(name), "we");
	assert_non_null(f);
	assert_int_equal(fputs(text, f) >= 0, 1);
	fclose(f);
}

static char *load(const char *name)
{
	char text[16384];
	FILE *f = fopen(path(name), "re");
	assert_non_null(f);
	size_t n = fread(text, 1, sizeof(text), f);
	fclose(f);
	return xslicedup(slice_of(text, n));
}

static void make(const char *ca, const char *name, struct tls_make want)
{
	char file[64], err[256] = "";
	struct tls_made made;
	char *cert = NULL, *key = NULL;
	if (!want.not_after) {
		want.not_before = time(NULL) - 60;
		want.not_after = time(NULL) + 10 * 86400;
	}
	if (ca) {
		snprintf(file, sizeof(file), "%s.crt", ca);
		cert = load(file);
		snprintf(file, sizeof(file), "%s.key", ca);
		key = load(file);
	}
	want.ca_cert_pem = cert;
	want.ca_key_pem = key;
	if (tls_make(&want, &made, err, sizeof(err)) < 0)
		fail_msg("%s: %s", name, err);
	snprintf(file, sizeof(file), "%s.crt", name);
	save(file, made.cert_pem);
	snprintf(file, sizeof(file), "%s.key", name);
	save(file, made.key_pem);
	tls_made_end(&made);
	free(cert);
	free(key);
}

static int setup(void **state)
{
	(void)state;
	rx = reactor_new();
	log_level = LOG_ERROR;
	if (!mkdtemp(dir))
		return -1;
	const char *names[] = { HOST }, *ips[] = { "127.0.0.1", "::1" };
	const char *wild[] = { HOST, "*." HOST };
	const int64_t now = time(NULL), day = 86400;
	struct tls_make server = { .kind = TLS_MAKE_SERVER, .common_name = HOST, .dns = names };
	server.n_dns = 1;
	struct tls_make client = { .kind = TLS_MAKE_CLIENT, .common_name = "client" };
	make(NULL, "ca", (struct tls_make){ .common_name = "TinyscaleCA" });
	make(NULL, "twin", (struct tls_make){ .common_name = "TinyscaleCA" });
	make(NULL, "other", (struct tls_make){ .common_name = "Other" });
	make("ca", "server", server);
	make("ca", "client", client);
	make("other", "stranger", client);
	client.spiffe_id = "spiffe://tinyscale.net/ns/dev/sa/alice";
	make("ca", "alice", client);
	server.ip = ips;
	server.n_ip = 2;
	make("ca", "server-ip", server);
	server.n_ip = 0;
	server.dns = wild;
	server.n_dns = 2;
	make("ca", "server-wild", server);
	server.n_dns = 0;
	make("ca", "server-cn", server);
	server.dns = names;
	server.n_dns = 1;
	server.not_before = now - 2 * day;
	server.not_after = now - day;
	make("ca", "server-old", server);
	server.not_before = now + day;
	server.not_after = now + 2 * day;
	make("ca", "server-new", server);
	client.not_before = now - 2 * day;
	client.not_after = now - day;
	make("ca", "client-old", client);
	make(NULL, "ca-old",
	     (struct tls_make){
		 .common_name = "OldCA", .not_before = now - 9 * day, .not_after = now - 2 * day });
	server.not_before = now - 3 * day;
	server.not_after = now + day;
	make("ca-old", "server-oldca", server);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	char *command = xasprintf("rm -rf '%s'", dir);
	int r = shell(command);
	free(command);
	settle();
	if (reactor_stats(rx)->handles || reactor_stats(rx)->timers)
		r = -1; /* a stream was not ended */
	reactor_free(rx);
	block_trim();
	return r;
}

/* --- a lower stream that counts calls, and on request tears everything into small pieces --- */

struct choppy {
	struct stream s;
	struct stream *lower;
	struct task *owner;
	size_t most; /* 0: as much as there is */
	size_t *calls;
};

static struct choppy *choppy_of(struct stream *s)
{
	return container_of(s, struct choppy, s);
}

static bool refuses(struct choppy *c)
{
	if (c->calls)
		++*c->calls;
	if (!c->most || chance() % 3)
		return false;
	if (c->owner)
		task_wake(rx, c->owner);
	return true;
}

static ssize_t choppy_read(struct stream *s, const struct iovec *iov, int n)
{
	struct choppy *c = choppy_of(s);
	assert_int_equal(n, 1);
	if (refuses(c))
		return -EAGAIN;
	size_t most = c->most ? 1 + chance() % c->most : iov->iov_len;
	return stream_read(c->lower, iov->iov_base, MIN(most, iov->iov_len));
}

static ssize_t choppy_write(struct stream *s, const struct iovec *iov, int n)
{
	struct choppy *c = choppy_of(s);
	if (n == 0)
		return 0;
	if (refuses(c))
		return -EAGAIN;
	size_t most = c->most ? 1 + chance() % c->most : iov->iov_len;
	return stream_write(c->lower, iov->iov_base, MIN(most, iov->iov_len));
}

static int choppy_shut(struct stream *s)
{
	return stream_shut(choppy_of(s)->lower);
}

static void choppy_close(struct stream *s, int why)
{
	stream_close(choppy_of(s)->lower, why);
	free(choppy_of(s));
}

static void choppy_bind(struct stream *s, struct task *t)
{
	choppy_of(s)->owner = t;
	stream_bind(choppy_of(s)->lower, t);
}

static const struct stream_ops choppy_ops = {
	.name = "choppy",
	.read = choppy_read,
	.write = choppy_write,
	.shut = choppy_shut,
	.close = choppy_close,
	.bind = choppy_bind,
};

static struct stream *choppy_new(struct stream *lower, size_t most, size_t *calls)
{
	struct choppy *c = xcalloc(1, sizeof(*c));
	c->s = (struct stream){ .ops = &choppy_ops, .rx = rx };
	c->lower = lower;
	c->most = most;
	c->calls = calls;
	return &c->s;
}

/* --- pairs --- */

static bool woken;

static void on_wake(struct task *t)
{
	(void)t;
	woken = true;
}

static struct task waker = { .link = { &waker.link, &waker.link }, .run = on_wake };

static void socket_pair(int fd[2])
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
}

static void tcp_pair(int fd[2])
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t n = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(l, (struct sockaddr *)&a, n), 0);
	assert_int_equal(listen(l, 1), 0);
	assert_int_equal(getsockname(l, (struct sockaddr *)&a, &n), 0);
	fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fd[0], (struct sockaddr *)&a, n), 0);
	fd[1] = accept4(l, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	assert_int_equal(fcntl(fd[0], F_SETFL, O_NONBLOCK), 0);
	close(l);
}

static struct tls_config *config(bool server, struct tls_options o)
{
	char err[256] = "";
	struct tls_config *c = tls_config_new(&o, server, err, sizeof(err));
	if (!c)
		fail_msg("%s", err);
	return c;
}

/* A client's options: its CA and its certificate by name, each may be NULL. */
static struct tls_config *client_config(const char *ca, const char *cert)
{
	char names[3][128];
	snprintf(names[0], 128, "%s/%s.crt", dir, ca ? ca : "ca");
	snprintf(names[1], 128, "%s/%s.crt", dir, cert ? cert : "");
	snprintf(names[2], 128, "%s/%s.key", dir, cert ? cert : "");
	return config(false, (struct tls_options){ .ca_files = (const char *[]){ names[0] },
						   .n_ca = ca ? 1 : 0,
						   .insecure = !ca,
						   .cert_file = cert ? names[1] : NULL,
						   .key_file = cert ? names[2] : NULL });
}

/* A server's: the CA for its clients (NULL: asks for no certificate) and its own certificate. */
static struct tls_config *server_config(const char *ca, const char *cert)
{
	char names[3][128];
	snprintf(names[0], 128, "%s/%s.crt", dir, ca ? ca : "");
	snprintf(names[1], 128, "%s/%s.crt", dir, cert);
	snprintf(names[2], 128, "%s/%s.key", dir, cert);
	return config(true, (struct tls_options){ .ca_files = (const char *[]){ names[0] },
						  .n_ca = ca ? 1 : 0,
						  .require_client_cert = ca != NULL,
						  .cert_file = names[1],
						  .key_file = names[2] });
}

struct two {
	struct stream *client, *server;
};

static struct two pair_over(struct tls_config *client, struct tls_config *server, const char *host,
			    int fd[2], size_t most, size_t *calls)
{
	struct two t = {
		tls_client(client, choppy_new(fd_stream_new(rx, fd[0]), most, calls), host),
		tls_server(server, choppy_new(fd_stream_new(rx, fd[1]), most, calls)),
	};
	tls_config_unref(client);
	tls_config_unref(server);
	stream_bind(t.client, &waker);
	stream_bind(t.server, &waker);
	return t;
}

static struct two simple_pair(size_t most, size_t *calls)
{
	int fd[2];
	socket_pair(fd);
	return pair_over(client_config("ca", "client"), server_config("ca", "server"), HOST, fd,
			 most, calls);
}

static void wait_wake(void)
{
	reactor_run_until(rx, &woken);
	woken = false;
}

static ssize_t get(struct stream *s, void *p, size_t n)
{
	ssize_t r;
	woken = false;
	while ((r = stream_read(s, p, n)) == -EAGAIN)
		wait_wake();
	return r;
}

static ssize_t put(struct stream *s, const void *p, size_t n)
{
	ssize_t r;
	woken = false;
	while ((r = n ? stream_write(s, p, n) : stream_open_yet(s)) == -EAGAIN)
		wait_wake();
	return r;
}

static int shut(struct stream *s)
{
	int r;
	woken = false;
	while ((r = stream_shut(s)) == -EAGAIN)
		wait_wake();
	return r;
}

static void expect_why(struct stream *s, ssize_t code, int want, const char *text)
{
	const char *why = stream_why(s, (int)code);
	if (code != -want || !strstr(why, text))
		fail_msg("got %zd (%s), \"%s\"; wanted %d, \"%s\"", code, err_text((int)code), why,
			 -want, text);
}

/* --- data --- */

static void test_opens(void **state)
{
	(void)state;
	int fd[2];
	socket_pair(fd);
	struct two t = pair_over(client_config("ca", "alice"), server_config("ca", "server"), HOST,
				 fd, 0, NULL);
	assert_int_equal(stream_write(t.client, "x", 1), -EAGAIN);
	assert_null(tls_peer(t.server));
	assert_string_equal(tls_session_text(t.client), "");
	assert_int_equal(put(t.client, NULL, 0), 0);
	assert_int_equal(put(t.server, NULL, 0), 0);
	assert_true(stream_is_tls(t.client));
	assert_string_equal(tls_session_text(t.client), "TLSv1.3 TLS_AES_128_GCM_SHA256");
	const struct tls_peer *p = tls_peer(t.server);
	assert_non_null(p);
	assert_string_equal(p->common_name, "client");
	assert_string_equal(p->subject, "CN=client");
	assert_string_equal(p->spiffe_id, "spiffe://tinyscale.net/ns/dev/sa/alice");
	assert_true(p->verified);
	p = tls_peer(t.client);
	assert_string_equal(p->common_name, HOST);
	assert_string_equal(p->spiffe_id, "");
	stream_close(t.client, 0);
	stream_close(t.server, 0);
	settle();
}

static unsigned char pattern(uint64_t i)
{
	return (unsigned char)((i * 2654435761u) >> 13);
}

/* Sends total bytes each way at once, in random portions of up to most bytes, and shuts. */
static void exchange(struct two t, uint64_t total, size_t most)
{
	struct stream *s[2] = { t.client, t.server };
	uint64_t sent[2] = { 0 }, got[2] = { 0 };
	bool shut_done[2] = { false }, ended[2] = { false };
	unsigned char *data = xmalloc(most);
	while (!ended[0] || !ended[1]) {
		bool moved = false;
		woken = false;
		for (int i = 0; i < 2; i++) {
			size_t n = 1 + chance() % most;
			n = MIN(n, total - sent[i]);
			for (size_t k = 0; k < n; k++)
				data[k] = pattern(sent[i] + k + (uint64_t)i);
			size_t cut = n ? chance() % n : 0, cut2 = cut + (n - cut) / 2;
			struct iovec iov[3] = { { data, cut },
						{ data + cut, cut2 - cut },
						{ data + cut2, n - cut2 } };
			ssize_t r = n ? s[i]->ops->write(s[i], iov, 3) : 0;
			assert_true(r >= 0 || r == -EAGAIN);
			moved |= r > 0;
			sent[i] += r > 0 ? (uint64_t)r : 0;
			if (sent[i] == total && !shut_done[i]) {
				int code = stream_shut(s[i]);
				assert_true(code == 0 || code == -EAGAIN);
				shut_done[i] = code == 0;
				moved |= shut_done[i];
			}
			if (ended[i])
				continue;
			r = stream_read(s[i], data, 1 + chance() % most);
			assert_true(r >= 0 || r == -EAGAIN);
			ended[i] = r == 0;
			moved |= r >= 0;
			for (ssize_t k = 0; k < r; k++)
				assert_int_equal(data[k],
						 pattern(got[i] + (uint64_t)k + (uint64_t)(1 - i)));
			got[i] += r > 0 ? (uint64_t)r : 0;
		}
		if (!moved)
			wait_wake();
	}
	assert_int_equal(got[0], total);
	assert_int_equal(got[1], total);
	free(data);
	stream_close(s[0], 0);
	stream_close(s[1], 0);
	settle();
}

static void test_random_sizes(void **state)
{
	(void)state;
	seed = 7;
	for (int round = 0; round < 20; round++)
		exchange(simple_pair(round % 2 ? 0 : 1 + chance() % 20000, NULL), chance() % 400000,
			 1 + chance() % 100000);
	exchange(simple_pair(7, NULL), 5000, 300);
	exchange(simple_pair(0, NULL), 0, 1);
}

static double cpu_seconds(void)
{
	struct rusage u;
	getrusage(RUSAGE_SELF, &u);
	return (double)u.ru_utime.tv_sec + (double)u.ru_stime.tv_sec +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* One way in large pieces; TEST_TLS_MB sets how much, for measuring. */
static void test_bulk(void **state)
{
	(void)state;
	const char *mb = getenv("TEST_TLS_MB");
	const uint64_t total = (mb ? strtoull(mb, NULL, 10) : 64) << 20;
	const size_t piece = 256 * 1024;
	size_t calls = 0;
	int fd[2];
	tcp_pair(fd);
	struct two t = pair_over(client_config("ca", "client"), server_config("ca", "server"), HOST,
				 fd, 0, &calls);
	char *out = xmalloc(piece), *in = xmalloc(piece);
	for (size_t i = 0; i < piece; i++)
		out[i] = (char)pattern(i);
	assert_int_equal(put(t.client, NULL, 0), 0);
	calls = 0;
	uint64_t sent = 0, got = 0;
	double before = cpu_seconds();
	while (got < total) {
		bool moved = false;
		woken = false;
		size_t at = sent % piece;
		ssize_t r = 0;
		if (sent < total && (r = stream_write(t.client, out + at, piece - at)) > 0)
			sent += (uint64_t)r;
		assert_true(r >= 0 || r == -EAGAIN);
		moved |= r > 0;
		r = stream_read(t.server, in, piece);
		assert_true(r > 0 || r == -EAGAIN);
		moved |= r > 0;
		for (ssize_t k = 0; k < r;) {
			size_t from = (got + (uint64_t)k) % piece;
			size_t n = MIN(piece - from, (size_t)(r - k));
			if (!mb)
				assert_memory_equal(in + k, out + from, n);
			k += (ssize_t)n;
		}
		got += r > 0 ? (uint64_t)r : 0;
		if (!moved)
			wait_wake();
	}
	double spent = cpu_seconds() - before, gb = (double)total / 1e9;
	if (mb)
		print_message("%.3f s/GB of CPU, both ends; %.1f lower calls per MB, both ends\n",
			      spent / gb, (double)calls / ((double)total / 1e6));
	assert_true(calls < total / (16 * 1024)); /* far fewer than two a record */
	free(out);
	free(in);
	stream_close(t.client, 0);
	stream_close(t.server, 0);
	settle();
}

/* What the mux does: a 12-byte header and a payload, each in its own iovec, share a record. */
static void test_gather(void **state)
{
	(void)state;
	struct two t = simple_pair(0, NULL);
	assert_int_equal(put(t.client, NULL, 0), 0);
	char in[128], header[] = "header", payload[] = "payload";
	struct iovec iov[4] = { { header, 6 }, { NULL, 0 }, { payload, 7 }, { NULL, 0 } };
	assert_int_equal(t.client->ops->write(t.client, iov, 4), 13);
	/* A record is opened at once: a short read leaves the rest without another event. */
	assert_int_equal(get(t.server, in, 4), 4);
	assert_int_equal(stream_read(t.server, in + 4, sizeof(in) - 4), 9);
	assert_memory_equal(in, "headerpayload", 13);
	assert_int_equal(stream_read(t.server, in, sizeof(in)), -EAGAIN);
	stream_close(t.client, 0);
	stream_close(t.server, 0);
	settle();
}

static void test_half_close(void **state)
{
	(void)state;
	struct two t = simple_pair(0, NULL);
	char in[16];
	assert_int_equal(put(t.client, "ask", 3), 3);
	assert_int_equal(shut(t.client), 0);
	assert_int_equal(shut(t.client), 0);
	assert_int_equal(stream_write(t.client, "x", 1), -EPIPE);
	assert_int_equal(get(t.server, in, sizeof(in)), 3);
	assert_int_equal(get(t.server, in, sizeof(in)), 0);
	assert_int_equal(get(t.server, in, sizeof(in)), 0);
	assert_int_equal(put(t.server, "answer", 6), 6);
	assert_int_equal(get(t.client, in, sizeof(in)), 6);
	assert_int_equal(stream_read(t.client, in, sizeof(in)), -EAGAIN);
	assert_int_equal(shut(t.server), 0);
	assert_int_equal(get(t.client, in, sizeof(in)), 0);
	stream_close(t.client, 0);
	stream_close(t.server, 0);
	settle();
}

/* close(0) with sealed bytes that the peer has not made room for: all of it arrives. */
static void test_close_flushes(void **state)
{
	(void)state;
	int fd[2];
	tcp_pair(fd);
	struct two t = pair_over(client_config("ca", "client"), server_config("ca", "server"), HOST,
				 fd, 0, NULL);
	static char block[65536];
	uint64_t sent = 0, got = 0;
	ssize_t r;
	assert_int_equal(put(t.client, NULL, 0), 0);
	assert_int_equal(put(t.server, "unread", 6), 6); /* must not turn the close into a reset */
	for (int i = 0; i < 2000 && (r = stream_write(t.client, block, sizeof(block))) > 0; i++)
		sent += (uint64_t)r;
	assert_int_equal(r, -EAGAIN);
	stream_close(t.client, 0);
	while ((r = get(t.server, block, sizeof(block))) > 0)
		got += (uint64_t)r;
	assert_int_equal(r, 0);
	assert_int_equal(got, sent);
	stream_close(t.server, 0);
	settle();
}

static void test_truncated(void **state)
{
	(void)state;
	struct two t = simple_pair(0, NULL);
	char in[16];
	assert_int_equal(put(t.server, "half", 4), 4);
	assert_int_equal(put(t.client, NULL, 0), 0);
	stream_close(t.server, -ECANCELED);
	assert_int_equal(get(t.client, in, sizeof(in)), 4);
	expect_why(t.client, get(t.client, in, sizeof(in)), ERR_TRUNCATED, "unexpected EOF");
	assert_int_equal(get(t.client, in, sizeof(in)), -ERR_TRUNCATED);
	stream_close(t.client, 0);
	settle();
}

/* --- refusals --- */

/* What each side is told. server_text NULL: the server is content. late: the client only learns of
 * it from its first read. */
static void refused(struct tls_config *client, struct tls_config *server, const char *host,
		    int client_code, const char *client_text, int server_code,
		    const char *server_text)
{
	for (int tcp = 0; tcp < 2; tcp++) {
		int fd[2];
		char in[16];
		tcp ? tcp_pair(fd) : socket_pair(fd);
		struct two t =
		    pair_over(tls_config_ref(client), tls_config_ref(server), host, fd, 0, NULL);
		if (server_text)
			expect_why(t.server, put(t.server, NULL, 0), server_code, server_text);
		if (tcp && server_text)
			stream_close(t.server, -EACCES);
		/* A first write may well succeed: the verdict is still under way. */
		ssize_t r = put(t.client, "hello", 5);
		if (r >= 0)
			r = get(t.client, in, sizeof(in));
		expect_why(t.client, r, client_code, client_text);
		assert_int_equal(stream_write(t.client, "x", 1), r);
		stream_close(t.client, (int)r);
		if (!tcp || !server_text)
			stream_close(t.server, -EACCES);
		settle();
	}
	tls_config_unref(client);
	tls_config_unref(server);
}

#define DOING "failed to establish TLS connection: "

static void test_unknown_ca(void **state)
{
	(void)state;
	refused(client_config("other", NULL), server_config(NULL, "server"), HOST,
		ERR_TLS_UNKNOWN_CA, DOING "x509: certificate signed by unknown authority",
		ERR_TLS_CERT_DENIED, "the client does not accept our certificate: unknown CA");
	refused(client_config("twin", NULL), server_config(NULL, "server"), HOST,
		ERR_TLS_UNKNOWN_CA, "x509: certificate signed by unknown authority",
		ERR_TLS_CERT_DENIED, "");
	setenv("SSL_CERT_FILE", "/nonexistent", 1);
	refused(config(false, (struct tls_options){ .n_ca = 0 }), server_config(NULL, "server"),
		HOST, ERR_TLS_UNKNOWN_CA, "x509: certificate signed by unknown authority",
		ERR_TLS_CERT_DENIED, "");
}

static void test_names(void **state)
{
	(void)state;
	refused(client_config("ca", NULL), server_config(NULL, "server"), "abc." HOST, ERR_TLS_NAME,
		DOING "x509: certificate is valid for " HOST ", not abc." HOST, ERR_TLS_CERT_DENIED,
		"");
	refused(client_config("ca", NULL), server_config(NULL, "server-wild"), "a.b." HOST,
		ERR_TLS_NAME, "x509: certificate is valid for " HOST ", *." HOST ", not a.b." HOST,
		ERR_TLS_CERT_DENIED, "");
	refused(client_config("ca", NULL), server_config(NULL, "server"), "127.0.0.1", ERR_TLS_NAME,
		"x509: cannot validate certificate for 127.0.0.1 because it doesn't contain any IP "
		"SANs",
		ERR_TLS_CERT_DENIED, "");
	refused(client_config("ca", NULL), server_config(NULL, "server-ip"), "10.1.2.3",
		ERR_TLS_NAME, "x509: certificate is valid for 127.0.0.1, ::1, not 10.1.2.3",
		ERR_TLS_CERT_DENIED, "");
	refused(client_config("ca", NULL), server_config(NULL, "server-cn"), HOST, ERR_TLS_NAME,
		"x509: certificate relies on legacy Common Name field, use SANs instead",
		ERR_TLS_CERT_DENIED, "");
	static const char *const good[][2] = { { "server", HOST },
					       { "server", "CONTAINERS.tinyscale.net." },
					       { "server-wild", "abc." HOST },
					       { "server-ip", "127.0.0.1" },
					       { "server-ip", "[::1]" },
					       { "server-ip", "::1" } };
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		int fd[2];
		socket_pair(fd);
		struct two t = pair_over(client_config("ca", NULL), server_config(NULL, good[i][0]),
					 good[i][1], fd, 0, NULL);
		assert_int_equal(put(t.client, NULL, 0), 0);
		assert_null(tls_peer(t.server));
		stream_close(t.client, 0);
		stream_close(t.server, 0);
		settle();
	}
}

static void test_dates(void **state)
{
	(void)state;
	const char *words =
	    DOING "x509: certificate has expired or is not yet valid: current time ";
	refused(client_config("ca", NULL), server_config(NULL, "server-old"), HOST, ERR_TLS_EXPIRED,
		words, ERR_TLS_CERT_DENIED, "certificate expired");
	refused(client_config("ca", NULL), server_config(NULL, "server-old"), HOST, ERR_TLS_EXPIRED,
		"Z is after 20", ERR_TLS_CERT_DENIED, "");
	refused(client_config("ca", NULL), server_config(NULL, "server-new"), HOST, ERR_TLS_NOT_YET,
		"Z is before 20", ERR_TLS_CERT_DENIED, "");
	refused(client_config("ca-old", NULL), server_config(NULL, "server-oldca"), HOST,
		ERR_TLS_EXPIRED, "its issuer \"OldCA\": current time ", ERR_TLS_CERT_DENIED, "");
}

static void test_wrong_usage(void **state)
{
	(void)state;
	refused(client_config("ca", "client"), server_config("ca", "alice"), "x", ERR_TLS_NAME, "",
		ERR_TLS_CERT_DENIED, "");
	refused(client_config("ca", "server"), server_config("ca", "server"), HOST,
		ERR_TLS_CERT_DENIED,
		DOING "the server refused the client certificate: ", ERR_TLS_BAD_CERT,
		"client certificate: x509: certificate specifies an incompatible");
}

static void test_client_certs(void **state)
{
	(void)state;
	refused(client_config("ca", NULL), server_config("ca", "server"), HOST,
		ERR_TLS_CERT_REQUIRED, DOING "the server requires a client certificate",
		ERR_TLS_CERT_REQUIRED, "client sent no certificate");
	refused(client_config("ca", "stranger"), server_config("ca", "server"), HOST,
		ERR_TLS_CERT_DENIED, DOING "the server refused the client certificate: unknown CA",
		ERR_TLS_UNKNOWN_CA,
		"client certificate: x509: certificate signed by unknown authority");
	refused(client_config("ca", "client-old"), server_config("ca", "server"), HOST,
		ERR_TLS_CERT_DENIED, "certificate expired", ERR_TLS_EXPIRED,
		"client certificate: x509: certificate has expired");
}

static void test_insecure(void **state)
{
	(void)state;
	int fd[2];
	socket_pair(fd);
	struct two t = pair_over(client_config(NULL, NULL), server_config(NULL, "server-old"),
				 "elsewhere", fd, 0, NULL);
	assert_int_equal(put(t.client, NULL, 0), 0);
	assert_false(tls_peer(t.client)->verified);
	assert_string_equal(tls_peer(t.client)->common_name, HOST);
	stream_close(t.client, 0);
	stream_close(t.server, 0);
	settle();
}

/* A leaf may be its own trust anchor, and so may an intermediate: as in Go. */
static void test_anchors(void **state)
{
	(void)state;
	int fd[2];
	socket_pair(fd);
	struct two t = pair_over(client_config("server", NULL), server_config(NULL, "server"), HOST,
				 fd, 0, NULL);
	assert_int_equal(put(t.client, NULL, 0), 0);
	stream_close(t.client, 0);
	stream_close(t.server, 0);

	char *bundle = load("other.crt"), *more = load("ca.crt");
	char *both = xasprintf("%s\nsome words\n%s", bundle, more);
	save("bundle.crt", both);
	free(bundle);
	free(more);
	free(both);
	socket_pair(fd);
	t = pair_over(client_config("bundle", "stranger"), server_config("bundle", "server"), HOST,
		      fd, 0, NULL);
	assert_int_equal(put(t.client, NULL, 0), 0);
	assert_int_equal(put(t.server, NULL, 0), 0);
	stream_close(t.client, 0);
	stream_close(t.server, 0);
	settle();
}

/* The seed's client.crt has no extensions at all (X.509 v1). */
static void test_v1_client(void **state)
{
	(void)state;
	char *command = xasprintf(
	    "cd %s && openssl req -newkey rsa:2048 -nodes -keyout v1.key -out v1.csr -subj "
	    "/CN=client >/dev/null 2>&1 && openssl x509 -req -in v1.csr -CA ca.crt -CAkey ca.key "
	    "-CAcreateserial -out v1.crt -days 3 >/dev/null 2>&1",
	    dir);
	int r = shell(command);
	free(command);
	if (r != 0)
		skip();
	int fd[2];
	socket_pair(fd);
	struct two t =
	    pair_over(client_config("ca", "v1"), server_config("ca", "server"), HOST, fd, 0, NULL);
	assert_int_equal(put(t.server, NULL, 0), 0);
	assert_string_equal(tls_peer(t.server)->common_name, "client");
	stream_close(t.client, 0);
	stream_close(t.server, 0);
	settle();
}

/* --- far sides that are no TLS --- */

static struct stream *lone(bool server, int *raw)
{
	int fd[2];
	socket_pair(fd);
	struct tls_config *c = server ? server_config("ca", "server") : client_config("ca", NULL);
	struct stream *lower = fd_stream_new(rx, fd[0]);
	struct stream *s = server ? tls_server(c, lower) : tls_client(c, lower, HOST);
	tls_config_unref(c);
	stream_bind(s, &waker);
	*raw = fd[1];
	return s;
}

static void garbage(bool server, const char *text, int code, const char *why)
{
	int raw;
	struct stream *s = lone(server, &raw);
	assert_int_equal(write(raw, text, strlen(text)), (ssize_t)strlen(text));
	expect_why(s, put(s, NULL, 0), code, why);
	stream_close(s, 0);
	settle();
	if (server) {
		char alert[16];
		assert_int_equal(read(raw, alert, sizeof(alert)), 7);
		assert_memory_equal(alert, "\x15\x03\x01\x00\x02\x02", 6);
	}
	close(raw);
	settle();
}

static void test_not_tls(void **state)
{
	(void)state;
	garbage(false, "HTTP/1.1 400 Bad Request\r\n\r\n", ERR_NOT_TLS,
		DOING "server gave HTTP response to TLS client");
	garbage(false, "SSH-2.0-OpenSSH_9.2\r\n", ERR_NOT_TLS,
		DOING "tls: first record does not look like a TLS handshake");
	garbage(true, "GET / HTTP/1.1\r\n\r\n", ERR_NOT_TLS,
		"client sent an HTTP request to a TLS server");
	garbage(true, "\x01\x02\x03", ERR_NOT_TLS, "does not look like a TLS handshake");
	/* A TLS record, but what is in it is not a handshake. */
	int raw;
	struct stream *s = lone(false, &raw);
	assert_int_equal(write(raw, "\x16\x03\x03\x00\x04\x63\x00\x00\x00", 9), 9);
	expect_why(s, put(s, NULL, 0), ERR_TLS, DOING "tls: ");
	stream_close(s, 0);
	close(raw);
	settle();
}

static void test_alert_texts(void **state)
{
	(void)state;
	int raw;
	struct stream *s = lone(false, &raw);
	assert_int_equal(write(raw, "\x15\x03\x03\x00\x02\x02\x46", 7), 7);
	expect_why(s, put(s, NULL, 0), ERR_TLS,
		   DOING "remote error: tls: protocol version not supported");
	stream_close(s, 0);
	close(raw);
	s = lone(false, &raw);
	assert_int_equal(write(raw, "\x15\x03\x03\x00\x02\x02\x28", 7), 7);
	expect_why(s, put(s, NULL, 0), ERR_TLS, DOING "remote error: tls: handshake failure");
	stream_close(s, 0);
	close(raw);
	settle();
}

static void test_hang_up(void **state)
{
	(void)state;
	int raw;
	struct stream *s = lone(false, &raw);
	close(raw);
	ssize_t r = put(s, NULL, 0);
	assert_true(r < 0);
	assert_non_null(strstr(stream_why(s, (int)r), DOING));
	stream_close(s, 0);
	s = lone(false, &raw);
	assert_int_equal(shutdown(raw, SHUT_WR), 0);
	expect_why(s, put(s, NULL, 0), ERR_TRUNCATED, DOING "EOF");
	stream_close(s, 0);
	close(raw);
	s = lone(false, &raw);
	assert_int_equal(write(raw, "\x15\x03\x03\x00\x02\x01\x00", 7), 7); /* close_notify */
	expect_why(s, put(s, NULL, 0), ERR_TRUNCATED, DOING "EOF (the server closed");
	stream_close(s, 0);
	close(raw);
	s = lone(true, &raw);
	close(raw);
	expect_why(s, put(s, NULL, 0), ERR_TRUNCATED, "EOF (the client closed");
	stream_close(s, 0);
	settle();
}

static void test_timeout(void **state)
{
	(void)state;
	for (int server = 0; server < 2; server++) {
		int raw;
		struct stream *s = lone(server, &raw);
		tls_handshake_limit(s, 5);
		expect_why(s, put(s, NULL, 0), ETIMEDOUT, "TLS handshake timeout");
		stream_close(s, 0);
		close(raw);
	}
	settle();
}

/* What the dialler says comes through as it is. */
static void test_dial_failed(void **state)
{
	(void)state;
	struct stream *lower = fd_stream_pending(rx);
	struct tls_config *c = client_config("ca", NULL);
	struct stream *s = tls_client(c, lower, HOST);
	tls_config_unref(c);
	stream_bind(s, &waker);
	assert_int_equal(stream_open_yet(s), -EAGAIN);
	settle();
	fd_stream_fail(lower, -ECONNREFUSED, "dial tcp h:443: connection refused");
	ssize_t r = put(s, NULL, 0);
	assert_int_equal(r, -ECONNREFUSED);
	assert_string_equal(stream_why(s, (int)r), "dial tcp h:443: connection refused");
	stream_close(s, 0);
}

/* Any byte of the server's first flight, changed: an error on both sides, never data. */
static void test_tampered(void **state)
{
	(void)state;
	struct tls_config *client = client_config("ca", NULL);
	struct tls_config *server = server_config(NULL, "server");
	for (unsigned at = 0; at < 60; at++) {
		int a[2], b[2];
		char flight[65536];
		socket_pair(a);
		socket_pair(b);
		struct two t = { tls_client(client, fd_stream_new(rx, a[0]), HOST),
				 tls_server(server, fd_stream_new(rx, b[0])) };
		settle();
		ssize_t n = read(a[1], flight, sizeof(flight));
		assert_true(n > 0 && write(b[1], flight, (size_t)n) == n);
		settle();
		n = read(b[1], flight, sizeof(flight));
		assert_true(n > 600);
		flight[(size_t)n * at / 60] ^= 0x10;
		assert_int_equal(write(a[1], flight, (size_t)n), n);
		assert_int_equal(shutdown(a[1], SHUT_WR), 0);
		stream_bind(t.client, &waker);
		ssize_t r = put(t.client, NULL, 0);
		if (r == 0) /* an ignored change_cipher_spec record: then it must still be cut */
			r = get(t.client, flight, sizeof(flight));
		assert_true(r < 0);
		stream_close(t.client, 0);
		stream_close(t.server, -1);
		close(a[1]);
		close(b[1]);
		settle();
	}
	tls_config_unref(client);
	tls_config_unref(server);
}

/* --- configuration --- */

static void bad_config(const char *cert, const char *key, const char *ca, const char *text)
{
	char err[512] = "", names[3][128];
	snprintf(names[0], 128, "%s/%s", dir, cert ? cert : "");
	snprintf(names[1], 128, "%s/%s", dir, key ? key : "");
	snprintf(names[2], 128, "%s/%s", dir, ca ? ca : "");
	struct tls_options o = { .cert_file = cert ? names[0] : NULL,
				 .key_file = key ? names[1] : NULL,
				 .ca_files = (const char *[]){ names[2] },
				 .n_ca = ca ? 1 : 0 };
	assert_null(tls_config_new(&o, false, err, sizeof(err)));
	if (!strstr(err, text))
		fail_msg("\"%s\" does not say \"%s\"", err, text);
}

static void test_config(void **state)
{
	(void)state;
	save("empty", "");
	save("text", "hello\n");
	save("locked.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n"
			   "-----END ENCRYPTED PRIVATE KEY-----\n");
	save("broken.crt", "-----BEGIN CERTIFICATE-----\nMIIB!!!\n-----END CERTIFICATE-----\n");
	save("junk.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
	save("junk.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
	bad_config("none.crt", "client.key", NULL, "none.crt: no such file or directory");
	bad_config("client.crt", "none.key", NULL, "none.key: no such file or directory");
	bad_config(NULL, NULL, "none.crt", "none.crt: no such file or directory");
	bad_config(NULL, NULL, "", "is a directory");
	bad_config(NULL, NULL, "empty", "is not PEM");
	bad_config("text", "client.key", NULL, "text: is not PEM");
	bad_config("client.crt", "text", NULL, "text: is not PEM");
	bad_config("client.key", "client.key", NULL, "has no certificate in it, but a PRIVATE KEY");
	bad_config("client.crt", "client.crt", NULL, "has no private key in it, but a CERTIFICATE");
	bad_config("client.crt", "locked.key", NULL, "encrypted");
	bad_config("client.crt", "junk.key", NULL, "malformed");
	bad_config("broken.crt", "client.key", NULL, "malformed PEM");
	bad_config(NULL, NULL, "junk.crt", "certificate number 1 is malformed");
	bad_config("client.crt", "server.key", NULL, "does not match");
	bad_config("client.crt", NULL, NULL, "together");
	if (geteuid() != 0) {
		assert_int_equal(chmod(path("client.key"), 0), 0);
		bad_config("client.crt", "client.key", NULL, "permission denied");
		assert_int_equal(chmod(path("client.key"), 0600), 0);
	}
	char err[256];
	assert_null(tls_config_new(&(struct tls_options){ .n_ca = 0 }, true, err, sizeof(err)));
	assert_non_null(strstr(err, "a TLS server needs a certificate"));
}

/* An open stream that has moved data and is quiet holds little. */
static void test_idle_memory(void **state)
{
	(void)state;
	enum { PAIRS = 100 };
	struct two t[PAIRS];
	char in[1000] = "";
	struct tls_config *client = client_config("ca", "client");
	struct tls_config *server = server_config("ca", "server");
	exchange(simple_pair(0, NULL), 300000, 100000);
	block_trim();
	size_t before = mallinfo2().uordblks;
	for (int i = 0; i < PAIRS; i++) {
		int fd[2];
		socket_pair(fd);
		t[i] = pair_over(tls_config_ref(client), tls_config_ref(server), HOST, fd, 0, NULL);
		assert_int_equal(put(t[i].client, in, sizeof(in)), sizeof(in));
		assert_int_equal(get(t[i].server, in, sizeof(in)), sizeof(in));
		assert_int_equal(put(t[i].server, in, 1), 1);
		assert_int_equal(get(t[i].client, in, sizeof(in)), 1);
		assert_int_equal(stream_read(t[i].server, in, 1), -EAGAIN);
	}
	block_trim();
	size_t each = (mallinfo2().uordblks - before) / (2 * PAIRS);
	if (getenv("TEST_TLS_MB"))
		print_message("idle TLS stream: %zu bytes\n", each);
	assert_true(each < 16 * 1024);
	for (int i = 0; i < PAIRS; i++) {
		stream_close(t[i].client, 0);
		stream_close(t[i].server, 0);
	}
	tls_config_unref(client);
	tls_config_unref(server);
	settle();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_opens),       cmocka_unit_test(test_random_sizes),
		cmocka_unit_test(test_bulk),        cmocka_unit_test(test_gather),
		cmocka_unit_test(test_half_close),  cmocka_unit_test(test_close_flushes),
		cmocka_unit_test(test_truncated),   cmocka_unit_test(test_unknown_ca),
		cmocka_unit_test(test_names),       cmocka_unit_test(test_dates),
		cmocka_unit_test(test_wrong_usage), cmocka_unit_test(test_client_certs),
		cmocka_unit_test(test_insecure),    cmocka_unit_test(test_anchors),
		cmocka_unit_test(test_v1_client),   cmocka_unit_test(test_not_tls),
		cmocka_unit_test(test_alert_texts), cmocka_unit_test(test_hang_up),
		cmocka_unit_test(test_timeout),     cmocka_unit_test(test_dial_failed),
		cmocka_unit_test(test_tampered),    cmocka_unit_test(test_config),
		cmocka_unit_test(test_idle_memory),
	};
	alarm(100);
	return cmocka_run_group_tests(tests, setup, teardown);
}
