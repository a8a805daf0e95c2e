/* The client against OpenSSH's sshd and dropbear, as Debian ships them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include "proto/ssh/ssh_int.h"
#include "reactor/err.h"
#include "test/unit/ssh_server.h"
#include "test/unit/turn.h"

static struct reactor *rx;
static bool have_servers;

/* --- one connection --- */

static struct session {
	struct ssh_client *c;
	int pid;
	bool ready;
	int failed; /* code */
	char why[WHY_MAX + 100], banner[1000], question[2000];
	bool accept; /* unknown hosts */
} at;

static void on_ready(void *arg)
{
	struct session *s = arg;
	assert_false(s->ready);
	s->ready = true;
}

static void on_failed(void *arg, int code, const char *why)
{
	struct session *s = arg;
	assert_int_equal(s->failed, 0);
	assert_true(code < 0);
	s->failed = code;
	snprintf(s->why, sizeof(s->why), "%s", why);
}

static void on_banner(void *arg, const char *text)
{
	struct session *s = arg;
	snprintf(s->banner, sizeof(s->banner), "%s", text);
}

static bool on_unknown(void *arg, const struct ssh_unknown_host *h)
{
	struct session *s = arg;
	snprintf(s->question, sizeof(s->question), "%s|%s|%s|%s", h->host, h->type, h->fingerprint,
		 h->line);
	return s->accept;
}

struct how {
	enum ssh_server_kind kind;
	const char *host_key, *config; /* the server's; NULL: ed25519 */
	struct ssh_options o;          /* user, callbacks are filled in; host, port, if not set */
	bool ask;                      /* no pin, unless the options have one */
};

static void start(const struct how *h)
{
	const char *type = h->host_key ? h->host_key : "ed25519";
	struct ssh_options o = h->o;
	bool accept = at.accept;
	memset(&at, 0, sizeof(at));
	at.accept = accept;
	int fd = ssh_server_start(h->kind, type, h->config, &at.pid);
	o.user = o.user ? o.user : SSH_SERVER_USER;
	o.host = o.host ? o.host : "box";
	o.port = o.port ? o.port : 2222;
	if (!h->ask && !o.host_pin) {
		if (h->kind == SSH_SERVER_OPENSSH) {
			o.host_pin = ssh_server_fingerprint(type);
		} else {
			o.unknown_host = on_unknown;
			at.accept = true;
		}
	}
	if (h->ask)
		o.unknown_host = on_unknown;
	o.ready = on_ready;
	o.failed = on_failed;
	o.banner = on_banner;
	o.arg = &at;
	at.c = ssh_client_new(rx, fd_stream_new(rx, fd), &o);
}

static void stop(void)
{
	ssh_client_free(at.c);
	at.c = NULL;
	ssh_server_stop(at.pid);
	at.accept = false;
}

/* --- one command --- */

/* Sends a pattern, expects another (or keeps what comes), as fast as the streams go. */
struct job {
	struct ssh_channel *ch;
	struct stream *io, *err;
	struct task task, err_task;
	uint64_t to_send, sent, want, got;
	bool checked; /* what comes is the pattern */
	bool shut, eof, paused, exited;
	int code;
	struct ssh_exit exit;
	char signal[32], why[500];
	char out[4096], errors[4096];
	size_t errors_n;
	bool err_eof;
};

static char pattern(uint64_t i)
{
	return (char)(i * 7 + (i >> 8) * 13 + (i >> 16));
}

static void job_read(struct job *j)
{
	static char p[100000];
	ssize_t n;
	while (!j->paused && !j->eof && (n = stream_read(j->io, p, sizeof(p))) != -EAGAIN) {
		if (n < 0) {
			j->code = (int)n;
			snprintf(j->why, sizeof(j->why), "%s", stream_why(j->io, (int)n));
			j->eof = true;
			return;
		}
		j->eof = n == 0;
		if (j->checked)
			for (ssize_t i = 0; i < n; i++)
				assert_int_equal(p[i], pattern(j->got + (uint64_t)i));
		else if (j->got + (uint64_t)n < sizeof(j->out))
			memcpy(j->out + j->got, p, (size_t)n);
		j->got += (uint64_t)n;
	}
}

static void job_run(struct task *t)
{
	struct job *j = container_of(t, struct job, task);
	static char p[70001];
	while (j->sent < j->to_send) {
		size_t want = MIN(sizeof(p), j->to_send - j->sent);
		for (size_t i = 0; i < want; i++)
			p[i] = pattern(j->sent + i);
		ssize_t n = stream_write(j->io, p, want);
		if (n < 0)
			break;
		j->sent += (uint64_t)n;
	}
	if (j->sent == j->to_send && !j->shut) {
		j->shut = true;
		stream_shut(j->io);
	}
	job_read(j);
}

static void err_run(struct task *t)
{
	struct job *j = container_of(t, struct job, err_task);
	ssize_t n = -EAGAIN;
	while (j->errors_n < sizeof(j->errors) - 1 &&
	       (n = stream_read(j->err, j->errors + j->errors_n,
				sizeof(j->errors) - 1 - j->errors_n)) > 0)
		j->errors_n += (size_t)n;
	j->err_eof = n == 0;
}

static void on_ended(void *arg, const struct ssh_exit *e)
{
	struct job *j = arg;
	assert_false(j->exited);
	j->exited = true;
	j->exit = *e;
	snprintf(j->signal, sizeof(j->signal), "%s", e->signal ? e->signal : "");
	if (e->why)
		snprintf(j->why, sizeof(j->why), "%s", e->why);
}

static void job_start(struct job *j, const char *command, uint64_t to_send, bool checked)
{
	static const char *const env[] = { "TS_ONE=1 and 2", "OTHER=x", NULL };
	*j = (struct job){ .to_send = to_send, .checked = checked };
	task_init(&j->task, job_run);
	task_init(&j->err_task, err_run);
	j->ch = ssh_exec(at.c, &(struct ssh_exec){ .command = command,
						   .env = env,
						   .exited = on_ended,
						   .arg = j });
	j->io = ssh_channel_stdio(j->ch);
	j->err = ssh_channel_stderr(j->ch);
	stream_bind(j->io, &j->task);
	stream_bind(j->err, &j->err_task);
}

static void job_end(struct job *j)
{
	stream_close(j->io, 0);
	stream_close(j->err, 0);
	ssh_channel_free(j->ch);
	task_cancel(&j->task);
	task_cancel(&j->err_task);
}

/* A job that has run to its end; or the client failed. */
static void job_wait(struct job *j)
{
	UNTIL((j->exited && j->eof && j->err_eof) || at.failed);
	if (at.failed)
		UNTIL(j->exited);
}

/* The usual exchange of words. */
static void expect_works(const struct how *h)
{
	struct job j;
	start(h);
	job_start(&j, "cat; echo oops >&2; echo $TS_ONE; exit 7", 300000, false);
	job_wait(&j);
	if (at.failed)
		fail_msg("%s", at.why);
	assert_true(at.ready);
	assert_int_equal(j.exit.code, 0);
	assert_int_equal(j.exit.status, 7);
	assert_null(j.exit.signal);
	assert_string_equal(j.errors, "oops\n");
	/* dropbear takes no environment. */
	assert_int_equal(j.got, 300000 + (h->kind == SSH_SERVER_OPENSSH ? 8 : 1));
	job_end(&j);
	stop();
}

#define NEED_SERVERS                                                                               \
	do {                                                                                       \
		if (!have_servers)                                                                 \
			skip();                                                                    \
	} while (0)

static struct ssh_key *key_of(const char *name)
{
	char err[300];
	struct ssh_key *k = ssh_key_load(ssh_server_path(name), err, sizeof(err));
	if (!k)
		fail_msg("%s", err);
	return k;
}

static const char *const types[] = { "ed25519", "ecdsa", "rsa" };

static void each_cipher(void **state)
{
	(void)state;
	NEED_SERVERS;
	static const char *const config[] = {
		"Ciphers aes128-gcm@openssh.com",
		"Ciphers aes256-gcm@openssh.com",
		"Ciphers chacha20-poly1305@openssh.com",
		"Ciphers aes128-ctr\nMACs hmac-sha2-256",
		"Ciphers aes256-ctr\nMACs hmac-sha2-256",
		"Ciphers aes128-ctr\nMACs hmac-sha2-256-etm@openssh.com",
		"Ciphers aes256-ctr\nMACs hmac-sha2-256-etm@openssh.com",
		"KexAlgorithms curve25519-sha256",
		"KexAlgorithms curve25519-sha256@libssh.org",
		"HostKeyAlgorithms ssh-ed25519",
	};
	for (size_t i = 0; i < ARRAY_LEN(config); i++)
		expect_works(&(struct how){ .config = config[i],
					    .o = { .password = SSH_SERVER_PASSWORD } });
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_cipher),
	};
	rx = reactor_new();
	have_servers = ssh_server_setup();
	int r = cmocka_run_group_tests(tests, NULL, NULL);
	if (!getenv("KEEP"))
		ssh_server_teardown();
	reactor_free(rx);
	(void)key_of;
	(void)types;
	return r;
}
