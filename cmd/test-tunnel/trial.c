#include "cmd/test-tunnel/trial.h"

#include <errno.h>
#include <time.h>

#include "cmd/test-tunnel/command.h"
#include "cmd/test-tunnel/transfer.h"
#include "proto/ssh/wire.h"
#include "reactor/err.h"

enum { LINE_MAX_BYTES = 512 };

struct trial {
	struct reactor *rx;
	const struct plan *plan;
	struct opening *opening;
	struct ssh_client *ssh;
	struct command *command;
	struct transfer transfer;
	size_t at;         /* step */
	char *failed;      /* the first check that did not pass; the others are made all the same */
	uint64_t marks[4]; /* start, tunnel open, SSH open, end */
	void (*ended)(void *arg, const char *why, const uint64_t us[TRIAL_TIMES]);
	void *arg;
};

static void next_step(struct trial *t);

void say(const char *fmt, ...)
{
	char stamp[32];
	time_t now = time(NULL);
	struct tm tm;
	va_list ap;
	fflush(stdout);
	strftime(stamp, sizeof(stamp), "%Y/%m/%d %H:%M:%S", localtime_r(&now, &tm));
	va_start(ap, fmt);
	char text[2048];
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	fprintf(stderr, "%s %s\n", stamp, text);
}

#define talk(t, ...)                                                                               \
	do {                                                                                       \
		if ((t)->plan->talk)                                                               \
			say(__VA_ARGS__);                                                          \
	} while (0)

static uint64_t now_us(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static void end(struct trial *t, const char *why)
{
	uint64_t us[TRIAL_TIMES];
	t->marks[3] = now_us();
	for (size_t i = 0; i < 3; i++)
		us[i] = t->marks[i + 1] - t->marks[i];
	us[TRIAL_TOTAL] = t->marks[3] - t->marks[0];
	opening_free(t->opening);
	command_free(t->command);
	ssh_client_free(t->ssh);
	transfer_end(&t->transfer);
	t->ended(t->arg, why, us);
	free(t->failed);
	free(t);
}

static void fail(struct trial *t, const char *what, const char *reason)
{
	char *why = xasprintf("%s: %s", what, reason);
	end(t, why);
	free(why);
}

/* --- steps --- */

static void show_output(const struct step *s, const struct command_end *e)
{
	struct slice both[2] = { e->out, e->err };
	static const char *const names[2] = { "Stdout", "Stderr" };
	printf("\n--- Command Output ---\nCommand: %s\nExit Code: %u\n", s->command, e->status);
	for (size_t i = 0; i < 2; i++) {
		if (i == 1 && both[i].n == 0)
			continue;
		printf("%s:\n", names[i]);
		if (both[i].n)
			fwrite(both[i].p, 1, both[i].n, stdout);
		if (both[i].n && both[i].p[both[i].n - 1] != '\n')
			putchar('\n');
		putchar('\n');
	}
	if (e->cut)
		printf("(over %d MiB: cut)\n\n", COMMAND_OUTPUT_MAX >> 20);
	printf("--- End Output ---\n\n");
	fflush(stdout);
}

/* NULL, or why it did not pass; to be free()d. */
static char *how_ended(const struct command_end *e)
{
	char said[LINE_MAX_BYTES];
	struct slice line, rest;
	if (e->why)
		return xstrdup(e->why);
	if (!e->signal && e->status == 0)
		return NULL;
	slice_cut(e->err, '\n', &line, &rest);
	ssh_text(line, false, said, sizeof(said));
	return e->signal ? xasprintf("killed by SIG%s", e->signal)
			 : xasprintf("exit status %u%s%s", e->status, said[0] ? ": " : "", said);
}

static void command_ended(struct trial *t, const struct step *s, const struct command_end *e,
			  const char *why)
{
	if (!why)
		talk(t, "✅ Command executed successfully");
	if (t->plan->talk && !e->why)
		show_output(s, e);
}

static void check_ended(struct trial *t, const struct step *s, const struct command_end *e,
			const char *why)
{
	char text[LINE_MAX_BYTES];
	struct slice line, rest;
	slice_cut(e->out, '\n', &line, &rest);
	if (why)
		talk(t, "❌ %s: %s", s->label, why);
	else
		talk(t, "✅ %s: %s", s->label, ssh_text(line, false, text, sizeof(text)));
}

static void on_command(void *arg, const struct command_end *e)
{
	struct trial *t = arg;
	const struct step *s = &t->plan->steps[t->at];
	char *why = how_ended(e), *what = NULL;
	t->command = NULL;
	if (s->kind == STEP_COMMAND) {
		command_ended(t, s, e, why);
		what = xstrdup("failed to execute command");
	} else if (s->kind == STEP_CHECK) {
		check_ended(t, s, e, why);
		what = xasprintf("%s", s->label);
	} else {
		what = xasprintf("%s failed", s->kind == STEP_UPLOAD ? "upload" : "download");
		if (!why)
			why = transfer_finish(&t->transfer);
		if (why)
			talk(t, "❌ %s: %s", what, why);
		else if (s->kind == STEP_UPLOAD)
			talk(t, "✅ Uploaded %s to %s (%llu bytes)", s->local, s->remote,
			     (unsigned long long)t->transfer.size);
		else
			talk(t, "✅ Downloaded %s to %s (%llu bytes)", s->remote, s->local,
			     (unsigned long long)e->received);
		transfer_end(&t->transfer);
	}
	if (why && !t->failed)
		t->failed = xasprintf("%s: %s", what, why);
	bool over = why && (s->kind == STEP_COMMAND || e->why);
	free(why);
	free(what);
	if (over) {
		char *text = xstrdup(t->failed);
		end(t, text);
		free(text);
		return;
	}
	t->at++;
	next_step(t);
}

static void next_step(struct trial *t)
{
	const struct plan *p = t->plan;
	if (t->at == p->nsteps) {
		char *why = t->failed;
		t->failed = NULL;
		end(t, why);
		free(why);
		return;
	}
	const struct step *s = &p->steps[t->at];
	if (t->at == 1)
		talk(t, "Running additional tests...");
	int in = -1, out = -1;
	const char *command = s->command;
	if (s->kind == STEP_UPLOAD || s->kind == STEP_DOWNLOAD) {
		char err[LINE_MAX_BYTES];
		bool up = s->kind == STEP_UPLOAD;
		int fd = transfer_begin(&t->transfer, up, s->local, s->remote, err, sizeof(err));
		if (fd < 0) {
			talk(t, "❌ %s", err);
			fail(t, up ? "upload failed" : "download failed", err);
			return;
		}
		in = up ? fd : -1;
		out = up ? -1 : fd;
		command = t->transfer.command;
	}
	t->command = command_start(t->rx, t->ssh, command, in, out, on_command, t);
}

/* --- SSH --- */

static void on_ready(void *arg)
{
	struct trial *t = arg;
	t->marks[2] = now_us();
	talk(t, "✅ SSH connection established successfully");
	next_step(t);
}

static void on_failed(void *arg, int code, const char *why)
{
	struct trial *t = arg;
	if (slice_starts(slice_str(why), SLICE("ssh: ")))
		why += 5;
	if (code == -ERR_SSH_AUTH)
		fail(t, "ssh: unable to authenticate", why);
	else if (t->marks[2])
		fail(t, "failed to execute command: the SSH connection ended", why);
	else
		fail(t, "failed to establish SSH connection: ssh: handshake failed", why);
}

static bool on_unknown_host(void *arg, const struct ssh_unknown_host *h)
{
	struct trial *t = arg;
	talk(t, "⚠ The API does not tell the sandbox's host key; %s %s is taken as it is", h->type,
	     h->fingerprint);
	return true;
}

static void on_banner(void *arg, const char *text)
{
	(void)arg;
	fputs(text, stderr);
}

/* --- the tunnel --- */

static void on_connected(void *arg)
{
	struct trial *t = arg;
	char *path = target_path(&t->plan->target, "/tunnel");
	talk(t, "Sending CONNECT request to %s", path);
	free(path);
}

static void on_answered(void *arg, int status, struct slice reason)
{
	struct trial *t = arg;
	char text[LINE_MAX_BYTES];
	talk(t, "Received response: %d %s", status, ssh_text(reason, false, text, sizeof(text)));
	if (status >= 200 && status < 300)
		talk(t, "✅ HTTP CONNECT tunnel established successfully");
}

static void on_tunnel(void *arg, struct stream *s, const char *pin, const char *why)
{
	struct trial *t = arg;
	const struct plan *p = t->plan;
	t->opening = NULL;
	if (!s) {
		end(t, why);
		return;
	}
	t->marks[1] = now_us();
	talk(t, "Establishing SSH connection as user: %s", p->user);
	struct ssh_options o = { .user = p->user,
				 .password = p->password[0] ? p->password : NULL,
				 .key = p->key,
				 .host = p->target.session,
				 .port = 22,
				 .host_pin = pin[0] ? pin : NULL,
				 .known_hosts = p->known_hosts,
				 .unknown_host = on_unknown_host,
				 .handshake_ms = p->target.ms,
				 .keepalive_ms = 15000,
				 .ready = on_ready,
				 .failed = on_failed,
				 .banner = p->talk ? on_banner : NULL,
				 .arg = t };
	t->ssh = ssh_client_new(t->rx, s, &o);
}

struct trial *trial_new(struct reactor *rx, const struct plan *p,
			void (*ended)(void *, const char *, const uint64_t[TRIAL_TIMES]), void *arg)
{
	static const struct opening_events events = { on_connected, on_answered, on_tunnel };
	struct trial *t = xcalloc(1, sizeof(*t));
	t->rx = rx;
	t->plan = p;
	t->ended = ended;
	t->arg = arg;
	t->marks[0] = now_us();
	transfer_init(&t->transfer);
	talk(t, "Testing tunnel connection to session: %s", p->target.session);
	talk(t, "Connecting to %s", p->target.authority);
	t->opening = opening_new(rx, &p->target, true, &events, t);
	return t;
}
