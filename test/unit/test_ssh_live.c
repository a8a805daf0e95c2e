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

/* The pattern repeats after a prime number of bytes, so that a piece that is lost or comes twice
 * shows. */
enum { PERIOD = 65521, PIECE = 70001 };
static char pattern[PERIOD + PIECE];

static void pattern_init(void)
{
	uint32_t x = 1;
	for (size_t i = 0; i < PERIOD; i++)
		pattern[i] = (char)((x = x * 1664525 + 1013904223) >> 24);
	memcpy(pattern + PERIOD, pattern, PERIOD);
	memcpy(pattern + 2 * PERIOD, pattern, PIECE - PERIOD);
}

static void job_read(struct job *j)
{
	static char p[PIECE];
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
			assert_memory_equal(p, pattern + j->got % PERIOD, (size_t)n);
		else if (j->got + (uint64_t)n < sizeof(j->out))
			memcpy(j->out + j->got, p, (size_t)n);
		j->got += (uint64_t)n;
	}
}

static void job_run(struct task *t)
{
	struct job *j = container_of(t, struct job, task);
	while (j->sent < j->to_send) {
		size_t want = MIN((size_t)PIECE, j->to_send - j->sent);
		ssize_t n = stream_write(j->io, pattern + j->sent % PERIOD, want);
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
	j->err_eof = n != -EAGAIN;
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
	j->ch = ssh_exec(at.c, &(struct ssh_exec){
				   .command = command, .env = env, .exited = on_ended, .arg = j });
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
		expect_works(
		    &(struct how){ .config = config[i], .o = { .password = SSH_SERVER_PASSWORD } });
}

static void each_cipher_of_dropbear(void **state)
{
	(void)state;
	NEED_SERVERS;
	static const char *const cipher[] = { "chacha20-poly1305@openssh.com", "aes128-ctr",
					      "aes256-ctr" };
	for (size_t i = 0; i < ARRAY_LEN(cipher); i++)
		expect_works(&(struct how){
		    .kind = SSH_SERVER_DROPBEAR,
		    .o = { .password = SSH_SERVER_PASSWORD, .ciphers = cipher[i] } });
	expect_works(&(struct how){
	    .kind = SSH_SERVER_DROPBEAR,
	    .o = { .password = SSH_SERVER_PASSWORD, .kex = "curve25519-sha256@libssh.org" } });
}

static void each_host_key(void **state)
{
	(void)state;
	NEED_SERVERS;
	for (size_t i = 0; i < ARRAY_LEN(types); i++)
		for (int kind = 0; kind < 2; kind++)
			expect_works(&(struct how){ .kind = (enum ssh_server_kind)kind,
						    .host_key = types[i],
						    .o = { .password = SSH_SERVER_PASSWORD } });
	expect_works(&(struct how){ .host_key = "rsa",
				    .config = "HostKeyAlgorithms rsa-sha2-256",
				    .o = { .password = SSH_SERVER_PASSWORD } });
	expect_works(&(struct how){ .host_key = "rsa",
				    .config = "HostKeyAlgorithms rsa-sha2-512",
				    .o = { .password = SSH_SERVER_PASSWORD } });
	/* SHA-1: nothing in common. */
	start(&(struct how){ .host_key = "rsa", .config = "HostKeyAlgorithms ssh-rsa" });
	UNTIL(at.failed);
	assert_int_equal(at.failed, -EPROTO);
	assert_non_null(strstr(at.why, "no common host key type"));
	assert_non_null(strstr(at.why, "the server ssh-rsa"));
	stop();
}

static void each_user_key(void **state)
{
	(void)state;
	NEED_SERVERS;
	for (size_t i = 0; i < ARRAY_LEN(types); i++) {
		char name[32];
		snprintf(name, sizeof(name), "user_%s", types[i]);
		struct ssh_key *k = key_of(name);
		for (int kind = 0; kind < 2; kind++)
			expect_works(&(struct how){ .kind = (enum ssh_server_kind)kind,
						    .config = "PasswordAuthentication no",
						    .o = { .key = k } });
		ssh_key_free(k);
	}
	struct ssh_key *rsa = key_of("user_rsa");
	expect_works(&(struct how){ .config = "PubkeyAcceptedAlgorithms rsa-sha2-256",
				    .o = { .key = rsa } });
	/* Both, one after the other. */
	expect_works(&(struct how){ .config = "AuthenticationMethods publickey,password",
				    .o = { .key = rsa, .password = SSH_SERVER_PASSWORD } });
	ssh_key_free(rsa);
}

static void expect_failure(const struct how *h, int code, const char *text)
{
	start(h);
	UNTIL(at.failed || at.ready);
	assert_false(at.ready);
	if (!strstr(at.why, text))
		fail_msg("%s", at.why);
	assert_int_equal(at.failed, code);
	/* A command that comes too late learns the same. */
	struct job j;
	job_start(&j, "true", 10, false);
	UNTIL(j.exited && j.eof);
	assert_int_equal(j.exit.code, code);
	assert_non_null(strstr(j.why, text));
	job_end(&j);
	stop();
}

static void denied(void **state)
{
	(void)state;
	NEED_SERVERS;
	struct ssh_key *k = key_of("host_ed25519"); /* a key, but nobody's */
	for (int kind = 0; kind < 2; kind++) {
		enum ssh_server_kind s = (enum ssh_server_kind)kind;
		expect_failure(&(struct how){ .kind = s, .o = { .password = "wrong" } },
			       -ERR_SSH_AUTH,
			       "permission denied (publickey,password): sandbox's "
			       "password was refused");
		expect_failure(&(struct how){ .kind = s, .o = { .user = "nobody-here", .key = k } },
			       -ERR_SSH_AUTH, "nobody-here's key was refused");
		expect_failure(&(struct how){ .kind = s }, -ERR_SSH_AUTH,
			       "neither a key nor a password was given");
	}
	expect_failure(&(struct how){ .o = { .key = k, .password = "wrong" } }, -ERR_SSH_AUTH,
		       "key and password were refused");
	expect_failure(&(struct how){ .config = "PasswordAuthentication no",
				      .o = { .password = SSH_SERVER_PASSWORD } },
		       -ERR_SSH_AUTH, "permission denied (publickey): the server takes nothing");
	ssh_key_free(k);
	char err[300];
	assert_null(ssh_key_load(ssh_server_path("user_locked"), err, sizeof(err)));
	assert_non_null(strstr(err, "user_locked: it is encrypted"));
	assert_null(ssh_key_load(ssh_server_path("user_rsa.pub"), err, sizeof(err)));
	assert_non_null(strstr(err, "public key"));
	assert_null(ssh_key_load(ssh_server_path("none"), err, sizeof(err)));
	assert_non_null(strstr(err, "none: no such file"));
}

/* A known_hosts line: ssh-keyscan's form of a key of ours. */
static size_t add_line(char *text, size_t n, const char *marker, const char *hosts,
		       const char *type)
{
	char name[32], key[1000], kind[100];
	snprintf(name, sizeof(name), "host_%s.pub", type);
	FILE *f = fopen(ssh_server_path(name), "re");
	assert_true(f && fscanf(f, "%99s %999s", kind, key) == 2);
	fclose(f);
	return n + (size_t)sprintf(text + n, "%s%s %s %s me@here\n", marker, hosts, kind, key);
}

static void known_hosts(void **state)
{
	(void)state;
	NEED_SERVERS;
	char text[8000] = "";
	struct how h = { .ask = true, .o = { .password = SSH_SERVER_PASSWORD } };
	/* Unknown, refused and accepted. */
	expect_failure(&h, -ERR_SSH_HOST_KEY, "host key of [box]:2222 is not known: ssh-ed25519 ");
	assert_non_null(strstr(at.question, ssh_server_fingerprint("ed25519")));
	at.accept = true;
	expect_works(&h);
	/* What was asked about is a line that is believed. */
	char line[1000];
	snprintf(line, sizeof(line), "%s", strrchr(at.question, '|') + 1);
	h.o.known_hosts = slice_str(line);
	h.o.known_hosts_name = "/my/known_hosts";
	start(&h);
	UNTIL(at.ready || at.failed);
	assert_true(at.ready);
	assert_string_equal(at.question, "");
	stop();
	/* Another key. */
	size_t n = add_line(text, 0, "", "other,[box]:22 ,", "rsa");
	n = add_line(text, n, "", "[box]:2222", "ed25519");
	h.host_key = "ed25519";
	char *at_key = strstr(text, "[box]:2222 ssh-ed25519 ") + 60;
	*at_key = *at_key == 'A' ? 'B' : 'A';
	h.o.known_hosts = slice_of(text, n);
	expect_failure(&h, -ERR_SSH_HOST_KEY,
		       "host key mismatch: [box]:2222 has ssh-ed25519 SHA256:");
	assert_non_null(strstr(at.why, "/my/known_hosts line 2 has another"));
	/* Only the ecdsa key is known, and is what the server is asked for. */
	char host_keys[200];
	snprintf(host_keys, sizeof(host_keys), "HostKey %s", ssh_server_path("host_ecdsa"));
	n = add_line(text, 0, "", "[b?x]:2*,!nobody", "ecdsa");
	h.o.known_hosts = slice_of(text, n);
	h.config = host_keys;
	start(&h);
	UNTIL(at.ready || at.failed);
	assert_true(at.ready);
	assert_non_null(strstr(ssh_client_summary(at.c), "ecdsa-sha2-nistp256 SHA256:"));
	stop();
	h.config = NULL;
	/* Revoked, whatever else is said. */
	n = add_line(text, 0, "", "[box]:2222", "ed25519");
	n = add_line(text, n, "@revoked ", "*", "ed25519");
	h.o.known_hosts = slice_of(text, n);
	expect_failure(&h, -ERR_SSH_HOST_KEY, "is revoked by /my/known_hosts line 2");
	/* Hashed by ssh-keygen. */
	n = add_line(text, 0, "", "[box]:2222", "ed25519");
	FILE *f = fopen(ssh_server_path("known"), "we");
	assert_true(f && fwrite(text, 1, n, f) == n && fclose(f) == 0);
	char cmd[300], err[300];
	snprintf(cmd, sizeof(cmd), "ssh-keygen -q -H -f %s >/dev/null 2>&1",
		 ssh_server_path("known"));
	assert_int_equal(system(cmd), 0);
	char *hashed = ssh_known_hosts_load(ssh_server_path("known"), &n, err, sizeof(err));
	assert_true(hashed && slice_starts(slice_of(hashed, n), SLICE("|1|")));
	h.o.known_hosts = slice_of(hashed, n);
	start(&h);
	UNTIL(at.ready || at.failed);
	assert_true(at.ready);
	stop();
	h.o.port = 2223;
	expect_failure(&h, -ERR_SSH_HOST_KEY, "is not known");
	free(hashed);
	/* Pinned, and wrong. */
	expect_failure(&(struct how){ .host_key = "ecdsa",
				      .o = { .password = SSH_SERVER_PASSWORD,
					     .host_pin = ssh_server_fingerprint("ed25519") } },
		       -ERR_SSH_HOST_KEY, "host key mismatch: [box]:2222 has ecdsa-sha2-nistp256");
}

/* TSLAB_FULL=1: all of mb; else a part of it. */
static void send_mb(const struct how *h, uint64_t mb, unsigned exchanges)
{
	struct job j;
	if (!getenv("TSLAB_FULL")) {
		mb = mb / 4;
		exchanges = 1 + exchanges / 4;
	}
	start(h);
	job_start(&j, "cat", mb << 20, true);
	job_wait(&j);
	if (at.failed)
		fail_msg("%s", at.why);
	assert_int_equal(j.exit.code, 0);
	assert_int_equal(j.exit.status, 0);
	assert_true(j.got == mb << 20);
	assert_in_range(ssh_client_exchanges(at.c), exchanges, 100000);
	job_end(&j);
	stop();
}

static void bulk(void **state)
{
	(void)state;
	NEED_SERVERS;
	struct how h = { .o = { .password = SSH_SERVER_PASSWORD } };
	send_mb(&h, 100, 1);
	h.kind = SSH_SERVER_DROPBEAR;
	send_mb(&h, 100, 1);
	h = (struct how){ .config = "Ciphers chacha20-poly1305@openssh.com",
			  .o = { .password = SSH_SERVER_PASSWORD } };
	send_mb(&h, 30, 1);
	h.config = "Ciphers aes128-ctr\nMACs hmac-sha2-256";
	send_mb(&h, 30, 1);
}

static void rekey(void **state)
{
	(void)state;
	NEED_SERVERS;
	static const char *const cipher[] = {
		"Ciphers aes128-gcm@openssh.com",
		"Ciphers chacha20-poly1305@openssh.com",
		"Ciphers aes128-ctr\nMACs hmac-sha2-256",
		"Ciphers aes256-ctr\nMACs hmac-sha2-256-etm@openssh.com",
	};
	char config[200];
	struct how h = { .config = config, .o = { .password = SSH_SERVER_PASSWORD } };
	for (size_t i = 0; i < ARRAY_LEN(cipher); i++) {
		/* The server asks, */
		snprintf(config, sizeof(config), "%s\nRekeyLimit 1M", cipher[i]);
		h.o.rekey_bytes = 0;
		send_mb(&h, 12, 10);
		/* we ask, */
		snprintf(config, sizeof(config), "%s", cipher[i]);
		h.o.rekey_bytes = 1 << 20;
		send_mb(&h, 12, 10);
		/* both ask. */
		snprintf(config, sizeof(config), "%s\nRekeyLimit 256K", cipher[i]);
		h.o.rekey_bytes = 256 << 10;
		send_mb(&h, 10, 30);
	}
	h = (struct how){ .kind = SSH_SERVER_DROPBEAR,
			  .o = { .password = SSH_SERVER_PASSWORD, .rekey_bytes = 1 << 20 } };
	send_mb(&h, 20, 15);
}

static void signals(void **state)
{
	(void)state;
	NEED_SERVERS;
	for (int kind = 0; kind < 2; kind++) {
		struct job j;
		start(&(struct how){ .kind = (enum ssh_server_kind)kind,
				     .o = { .password = SSH_SERVER_PASSWORD } });
		job_start(&j, "kill -TERM $$", 0, false);
		job_wait(&j);
		assert_int_equal(j.exit.code, 0);
		assert_string_equal(j.signal, "TERM");
		job_end(&j);
		job_start(&j, "exit 255", 0, false);
		job_wait(&j);
		assert_int_equal(j.exit.status, 255);
		assert_string_equal(j.signal, "");
		job_end(&j);
		/* A shell of its own reads its commands from stdin. */
		job_start(&j, NULL, 0, false);
		job_wait(&j);
		assert_int_equal(j.exit.code, 0);
		job_end(&j);
		stop();
	}
}

static void many_channels(void **state)
{
	(void)state;
	NEED_SERVERS;
	enum { N = 12 };
	static struct job j[N];
	for (int kind = 0; kind < 2; kind++) {
		start(&(struct how){ .kind = (enum ssh_server_kind)kind,
				     .config = "MaxSessions 10",
				     .o = { .password = SSH_SERVER_PASSWORD } });
		for (int i = 0; i < N; i++) {
			char command[100];
			snprintf(command, sizeof(command), "cat; echo %d >&2; exit %d", i, i);
			job_start(&j[i], command, 1 << 20, true);
		}
		for (int i = 0; i < N; i++) {
			char number[16];
			job_wait(&j[i]);
			assert_int_equal(at.failed, 0);
			if (kind == SSH_SERVER_OPENSSH && i >= 10) {
				assert_int_equal(j[i].exit.code, -ERR_DENIED);
				assert_non_null(strstr(j[i].why, "opens no session: "));
				assert_int_equal(j[i].code, -ERR_DENIED);
				job_end(&j[i]);
				continue;
			}
			snprintf(number, sizeof(number), "%d\n", i);
			assert_string_equal(j[i].errors, number);
			assert_int_equal(j[i].exit.status, i);
			assert_int_equal(j[i].got, 1 << 20);
			job_end(&j[i]);
		}
		/* And one after the other: what is closed is gone. */
		for (int i = 0; i < 30; i++) {
			job_start(&j[0], "exit 3", 0, false);
			job_wait(&j[0]);
			assert_int_equal(j[0].exit.status, 3);
			job_end(&j[0]);
		}
		UNTIL(at.c->nchannels == 0);
		stop();
	}
}

static void slow_reader(void **state)
{
	(void)state;
	NEED_SERVERS;
	struct job j, quick;
	start(&(struct how){ .o = { .password = SSH_SERVER_PASSWORD } });
	job_start(&j, "head -c 20000000 /dev/zero", 0, false);
	j.paused = true;
	UNTIL(j.ch->recv_window == 0 || at.failed);
	/* The window is used up; nothing more comes, and others go on. */
	job_start(&quick, "cat", 5 << 20, true);
	job_wait(&quick);
	assert_int_equal(quick.got, 5 << 20);
	job_end(&quick);
	assert_int_equal(j.ch->out.len, SSH_WINDOW);
	assert_int_equal(at.c->in.len, 0);
	j.paused = false;
	task_wake(rx, &j.task);
	job_wait(&j);
	assert_int_equal(j.got, 20000000);
	job_end(&j);
	/* Who takes nothing is not sent more than the window, either. */
	job_start(&j, "sleep 2; cat >/dev/null", 100 << 20, true);
	UNTIL(j.ch->state == CHANNEL_RUNNING && j.ch->send_window == 0);
	assert_in_range(j.sent, 1 << 20, 8 << 20);
	/* Hanging up ends it. */
	stream_close(j.io, -ECONNRESET);
	stream_close(j.err, 0);
	ssh_channel_free(j.ch);
	task_cancel(&j.task);
	task_cancel(&j.err_task);
	UNTIL(at.c->nchannels == 0 || at.failed);
	assert_int_equal(at.failed, 0);
	/* Output that nobody wants flows into the void. */
	job_start(&j, "head -c 20000000 /dev/zero; echo done >&2; exit 4", 0, false);
	stream_close(j.io, 0);
	UNTIL(j.exited);
	assert_int_equal(j.exit.status, 4);
	UNTIL(j.err_eof);
	assert_string_equal(j.errors, "done\n");
	stream_close(j.err, 0);
	ssh_channel_free(j.ch);
	task_cancel(&j.task);
	task_cancel(&j.err_task);
	stop();
}

static void killed(void **state)
{
	(void)state;
	NEED_SERVERS;
	for (int kind = 0; kind < 2; kind++) {
		struct job j;
		start(&(struct how){ .kind = (enum ssh_server_kind)kind,
				     .o = { .password = SSH_SERVER_PASSWORD } });
		job_start(&j, "cat", 1000 << 20, true);
		UNTIL(j.got > 5 << 20);
		ssh_server_stop(at.pid);
		char cmd[100];
		snprintf(cmd, sizeof(cmd), "pkill -KILL -s %d", at.pid); /* its session */
		if (system(cmd) != 0)
			print_message("nothing was left to kill\n");
		UNTIL(at.failed);
		assert_true(at.failed == -ERR_TRUNCATED || at.failed == -ECONNRESET ||
			    at.failed == -EPIPE);
		UNTIL(j.exited && j.eof);
		assert_int_equal(j.exit.code, at.failed);
		assert_int_equal(j.code, at.failed);
		assert_string_equal(j.why, at.why);
		job_end(&j);
		ssh_client_free(at.c);
	}
}

static void keepalive(void **state)
{
	(void)state;
	NEED_SERVERS;
	struct job j;
	/* Both ask and both answer. */
	start(&(struct how){ .config = "ClientAliveInterval 1\nClientAliveCountMax 1",
			     .o = { .password = SSH_SERVER_PASSWORD, .keepalive_ms = 50 } });
	job_start(&j, "sleep 3; exit 9", 0, false);
	job_wait(&j);
	assert_int_equal(at.failed, 0);
	assert_int_equal(j.exit.status, 9);
	assert_in_range(at.c->pings, 0, 1);
	/* It no longer answers. */
	kill(-at.pid, SIGSTOP);
	UNTIL(at.failed);
	assert_int_equal(at.failed, -ETIMEDOUT);
	kill(-at.pid, SIGCONT);
	job_end(&j);
	stop();
}

static void words(void **state)
{
	(void)state;
	NEED_SERVERS;
	char config[300];
	FILE *f = fopen(ssh_server_path("banner"), "we");
	fputs("Hello,\n\x1b[31mred\x1b[0m\r\nworld\n", f);
	fclose(f);
	snprintf(config, sizeof(config), "Banner %s", ssh_server_path("banner"));
	start(&(struct how){ .config = config, .o = { .password = SSH_SERVER_PASSWORD } });
	UNTIL(at.ready || at.failed);
	assert_non_null(strstr(at.banner, "red"));
	assert_non_null(strstr(at.banner, "\nworld\n"));
	assert_null(strchr(at.banner, '\x1b'));
	assert_non_null(strstr(ssh_client_summary(at.c), "SSH-2.0-OpenSSH"));
	assert_non_null(strstr(ssh_client_summary(at.c), "aes128-gcm@openssh.com"));
	assert_string_equal(ssh_client_host_key(at.c), ssh_server_fingerprint("ed25519"));
	stop();
	/* Freed in the middle of it all. */
	struct job j;
	start(&(struct how){ .o = { .password = SSH_SERVER_PASSWORD } });
	job_start(&j, "cat", 100 << 20, true);
	UNTIL(j.got > 1 << 20);
	ssh_client_free(at.c);
	at.c = NULL;
	UNTIL(j.eof);
	assert_int_equal(j.code, -ERR_CANCELLED);
	assert_false(j.exited);
	job_end(&j);
	stop();
	/* A server that has other things to say: sshd refuses the options we make up. */
	start(&(struct how){ .o = { .ciphers = "aes128-cbc" } });
	UNTIL(at.failed);
	assert_int_equal(at.failed, -EINVAL);
	stop();
	expect_failure(&(struct how){ .config = "Ciphers aes128-cbc" }, -EPROTO,
		       "no common cipher: we offer aes128-gcm@openssh.com,");
	expect_failure(&(struct how){ .config = "KexAlgorithms ecdh-sha2-nistp256" }, -EPROTO,
		       "no common key exchange method");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_cipher),   cmocka_unit_test(each_cipher_of_dropbear),
		cmocka_unit_test(each_host_key), cmocka_unit_test(each_user_key),
		cmocka_unit_test(denied),        cmocka_unit_test(known_hosts),
		cmocka_unit_test(bulk),          cmocka_unit_test(rekey),
		cmocka_unit_test(signals),       cmocka_unit_test(many_channels),
		cmocka_unit_test(slow_reader),   cmocka_unit_test(killed),
		cmocka_unit_test(keepalive),     cmocka_unit_test(words),
	};
	pattern_init();
	rx = reactor_new();
	have_servers = ssh_server_setup();
	int r = cmocka_run_group_tests(tests, NULL, NULL);
	if (!getenv("KEEP"))
		ssh_server_teardown();
	reactor_free(rx);
	return r;
}
