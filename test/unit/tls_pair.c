#include "test/unit/tls_pair.h"

#include <setjmp.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "reactor/buf.h"
#include "reactor/err.h"
#include "reactor/log.h"

struct reactor *rx;
char tls_dir[] = "/tmp/test_tls.XXXXXX";
bool woken;

uint64_t tls_seed = 1;

static int turns;
static bool settled;

static void on_tick(struct task *t)
{
	settled = --turns <= 0;
	if (!settled)
		task_wake(rx, t);
}

void tls_settle(void)
{
	static struct task tick = { .link = { &tick.link, &tick.link }, .run = on_tick };
	turns = 20;
	settled = false;
	task_wake(rx, &tick);
	reactor_run_until(rx, &settled);
}

size_t tls_chance(void)
{
	tls_seed ^= tls_seed << 13;
	tls_seed ^= tls_seed >> 7;
	tls_seed ^= tls_seed << 17;
	return tls_seed >> 11;
}

/* --- files --- */

int tls_shell(const char *command)
{
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		execl("/bin/sh", "sh", "-c", command, (char *)NULL);
		_exit(127);
	}
	return waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

const char *tls_path(const char *name)
{
	static char ring[8][128];
	static unsigned next;
	char *p = ring[next++ % 8];
	snprintf(p, sizeof(ring[0]), "%s/%s", tls_dir, name);
	return p;
}

void tls_save(const char *name, const char *text)
{
	FILE *f = fopen(tls_path(name), "we");
	assert_non_null(f);
	assert_int_equal(fputs(text, f) >= 0, 1);
	fclose(f);
}

char *tls_load(const char *name)
{
	char text[16384];
	FILE *f = fopen(tls_path(name), "re");
	assert_non_null(f);
	size_t n = fread(text, 1, sizeof(text), f);
	fclose(f);
	return xslicedup(slice_of(text, n));
}

void tls_make_files(const char *ca, const char *name, struct tls_make want)
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
		cert = tls_load(file);
		snprintf(file, sizeof(file), "%s.key", ca);
		key = tls_load(file);
	}
	want.ca_cert_pem = cert;
	want.ca_key_pem = key;
	if (tls_make(&want, &made, err, sizeof(err)) < 0)
		fail_msg("%s: %s", name, err);
	snprintf(file, sizeof(file), "%s.crt", name);
	tls_save(file, made.cert_pem);
	snprintf(file, sizeof(file), "%s.key", name);
	tls_save(file, made.key_pem);
	tls_made_end(&made);
	free(cert);
	free(key);
}

int tls_setup(void **state)
{
	(void)state;
	rx = reactor_new();
	log_level = LOG_ERROR;
	if (!mkdtemp(tls_dir))
		return -1;
	const char *names[] = { HOST }, *ips[] = { "127.0.0.1", "::1" };
	const char *wild[] = { HOST, "*." HOST };
	const int64_t now = time(NULL), day = 86400;
	struct tls_make server = { .kind = TLS_MAKE_SERVER, .common_name = HOST, .dns = names };
	server.n_dns = 1;
	struct tls_make client = { .kind = TLS_MAKE_CLIENT, .common_name = "client" };
	tls_make_files(NULL, "ca", (struct tls_make){ .common_name = "TinyscaleCA" });
	tls_make_files(NULL, "twin", (struct tls_make){ .common_name = "TinyscaleCA" });
	tls_make_files(NULL, "other", (struct tls_make){ .common_name = "Other" });
	tls_make_files("ca", "server", server);
	tls_make_files("ca", "client", client);
	tls_make_files("other", "stranger", client);
	client.spiffe_id = "spiffe://tinyscale.net/ns/dev/sa/alice";
	tls_make_files("ca", "alice", client);
	server.ip = ips;
	server.n_ip = 2;
	tls_make_files("ca", "server-ip", server);
	server.n_ip = 0;
	server.dns = wild;
	server.n_dns = 2;
	tls_make_files("ca", "server-wild", server);
	server.n_dns = 0;
	tls_make_files("ca", "server-cn", server);
	server.dns = names;
	server.n_dns = 1;
	server.not_before = now - 2 * day;
	server.not_after = now - day;
	tls_make_files("ca", "server-old", server);
	server.not_before = now + day;
	server.not_after = now + 2 * day;
	tls_make_files("ca", "server-new", server);
	client.not_before = now - 2 * day;
	client.not_after = now - day;
	tls_make_files("ca", "client-old", client);
	tls_make_files(NULL, "ca-old",
		       (struct tls_make){ .common_name = "OldCA",
					  .not_before = now - 9 * day,
					  .not_after = now - 2 * day });
	server.not_before = now - 3 * day;
	server.not_after = now + day;
	tls_make_files("ca-old", "server-oldca", server);
	return 0;
}

int tls_teardown(void **state)
{
	(void)state;
	char *command = xasprintf("rm -rf '%s'", tls_dir);
	int r = tls_shell(command);
	free(command);
	tls_settle();
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
	if (!c->most || tls_chance() % 3)
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
	size_t most = c->most ? 1 + tls_chance() % c->most : iov->iov_len;
	return stream_read(c->lower, iov->iov_base, MIN(most, iov->iov_len));
}

static ssize_t choppy_write(struct stream *s, const struct iovec *iov, int n)
{
	struct choppy *c = choppy_of(s);
	if (n == 0)
		return 0;
	if (refuses(c))
		return -EAGAIN;
	size_t most = c->most ? 1 + tls_chance() % c->most : iov->iov_len;
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

struct stream *choppy_new(struct stream *lower, size_t most, size_t *calls)
{
	struct choppy *c = xcalloc(1, sizeof(*c));
	c->s = (struct stream){ .ops = &choppy_ops, .rx = rx };
	c->lower = lower;
	c->most = most;
	c->calls = calls;
	return &c->s;
}

/* --- pairs --- */

static void on_wake(struct task *t)
{
	(void)t;
	woken = true;
}

struct task waker = { .link = { &waker.link, &waker.link }, .run = on_wake };

struct tls_config *tls_any_config(bool server, struct tls_options o)
{
	char err[256] = "";
	struct tls_config *c = tls_config_new(&o, server, err, sizeof(err));
	if (!c)
		fail_msg("%s", err);
	return c;
}

struct tls_config *tls_client_config(const char *ca, const char *cert)
{
	char names[3][128];
	snprintf(names[0], 128, "%s/%s.crt", tls_dir, ca ? ca : "ca");
	snprintf(names[1], 128, "%s/%s.crt", tls_dir, cert ? cert : "");
	snprintf(names[2], 128, "%s/%s.key", tls_dir, cert ? cert : "");
	return tls_any_config(false, (struct tls_options){ .ca_files = (const char *[]){ names[0] },
							   .n_ca = ca ? 1 : 0,
							   .insecure = !ca,
							   .cert_file = cert ? names[1] : NULL,
							   .key_file = cert ? names[2] : NULL });
}

struct tls_config *tls_server_config(const char *ca, const char *cert)
{
	char names[3][128];
	snprintf(names[0], 128, "%s/%s.crt", tls_dir, ca ? ca : "");
	snprintf(names[1], 128, "%s/%s.crt", tls_dir, cert);
	snprintf(names[2], 128, "%s/%s.key", tls_dir, cert);
	return tls_any_config(true, (struct tls_options){ .ca_files = (const char *[]){ names[0] },
							  .n_ca = ca ? 1 : 0,
							  .require_client_cert = ca != NULL,
							  .cert_file = names[1],
							  .key_file = names[2] });
}

struct tls_two tls_pair_over(struct tls_config *client, struct tls_config *server, const char *host,
			     int fd[2], size_t most, size_t *calls)
{
	struct tls_two t = {
		tls_client(client, choppy_new(fd_stream_new(rx, fd[0]), most, calls), host),
		tls_server(server, choppy_new(fd_stream_new(rx, fd[1]), most, calls)),
	};
	tls_config_unref(client);
	tls_config_unref(server);
	stream_bind(t.client, &waker);
	stream_bind(t.server, &waker);
	return t;
}

struct tls_two tls_pair(size_t most, size_t *calls)
{
	int fd[2];
	socket_pair(fd);
	return tls_pair_over(tls_client_config("ca", "client"), tls_server_config("ca", "server"),
			     HOST, fd, most, calls);
}

void tls_wait(void)
{
	reactor_run_until(rx, &woken);
	woken = false;
}

ssize_t tls_get(struct stream *s, void *p, size_t n)
{
	ssize_t r;
	woken = false;
	while ((r = stream_read(s, p, n)) == -EAGAIN)
		tls_wait();
	return r;
}

ssize_t tls_put(struct stream *s, const void *p, size_t n)
{
	ssize_t r;
	woken = false;
	while ((r = n ? stream_write(s, p, n) : stream_open_yet(s)) == -EAGAIN)
		tls_wait();
	return r;
}

int tls_put_end(struct stream *s)
{
	int r;
	woken = false;
	while ((r = stream_shut(s)) == -EAGAIN)
		tls_wait();
	return r;
}

void tls_expect_why(struct stream *s, ssize_t code, int want, const char *text)
{
	const char *why = stream_why(s, (int)code);
	if (code != -want || !strstr(why, text))
		fail_msg("got %zd (%s), \"%s\"; wanted %d, \"%s\"", code, err_text((int)code), why,
			 -want, text);
}
