#include "proto/tstunnel/exec_server.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include "json/json.h"
#include "proto/tstunnel/exec_request.h"
#include "proto/tstunnel/mux.h"
#include "reactor/buf.h"
#include "reactor/child.h"
#include "reactor/err.h"
#include "reactor/log.h"

enum {
	QUANTUM = 256 * 1024, /* each way and turn */
	HELD_MAX = 64 * 1024, /* plain: each way */
	SILENCE_MS = 250,
	LINGER_MS = 5000,
	WHY_MAX = 512
};

#define PATH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

enum exec_state {
	EXEC_STARTING = 1, /* exec has not succeeded yet */
	EXEC_RUNNING,
	EXEC_EXITED, /* its output may go on for a while */
	EXEC_FAILED  /* plain: never started, waits for ready and exec_plain_free */
};

struct exec {
	struct reactor *rx;
	struct exec_policy *policy;
	enum exec_state state;
	struct task task;
	struct timer timer;    /* EXEC_EXITED: silence */
	struct stream *client; /* plain: NULL until exec_plain_relay */
	struct child *child;
	struct stream *in;     /* NULL: what comes for it is discarded */
	struct stream *out[2]; /* stdout, stderr: NULL after their end; tty: out[0] is in */
	bool tty;
	bool in_done; /* the client's end of stream was passed on */
	bool blocked; /* the client takes no output now */
	bool silent;  /* EXEC_EXITED, and nothing came for SILENCE_MS */
	struct child_status status;

	struct buf held_in, held_out; /* plain */
	void (*ready)(void *arg, int code, const char *why);
	void *arg;
	int code;
	char *why;

	char *command, *dir, *who; /* for log and errors */
	uint64_t since_ms, bytes_in, bytes_out;
};

/* --- the end --- */

static void exec_log(const struct exec *e, const char *how)
{
	log_info("exec command=%s who=%s ms=%llu in=%llu out=%llu end=%s",
		 log_quote(slice_str(e->command)), log_quote(slice_str(e->who)),
		 (unsigned long long)(reactor_now(e->rx) - e->since_ms),
		 (unsigned long long)e->bytes_in, (unsigned long long)e->bytes_out,
		 log_quote(slice_str(how)));
}

static void out_close(struct exec *e, int i)
{
	if (e->out[i] == e->in)
		e->in = NULL;
	stream_close(e->out[i], 0);
	e->out[i] = NULL;
}

static void in_close(struct exec *e)
{
	if (!e->tty)
		stream_close(e->in, 0);
	e->in = NULL;
}

/* Frees all but the client's stream; kills what still runs. */
static void exec_free(struct exec *e)
{
	task_cancel(&e->task);
	timer_clear(e->rx, &e->timer);
	in_close(e);
	out_close(e, 0);
	out_close(e, 1);
	struct exec_policy *policy = e->policy;
	bool spawned = e->child != NULL;
	child_free(e->child);
	buf_end(&e->held_in);
	buf_end(&e->held_out);
	free(e->why);
	free(e->command);
	free(e->dir);
	free(e->who);
	free(e);
	if (!spawned)
		return;
	policy->children--;
	if (policy->left)
		policy->left(policy->arg);
}

/* All was said: the process is gone and its output passed on. */
static void exec_finish(struct exec *e)
{
	struct stream *client = e->client;
	char how[32];
	if (e->status.signal)
		snprintf(how, sizeof(how), "signal %d", e->status.signal);
	else
		snprintf(how, sizeof(how), "exit %d", e->status.exit_code);
	exec_log(e, how);
	exec_free(e);
	if (stream_is_mux(client))
		stream_close(client, 0);
	else
		stream_linger(client, LINGER_MS);
}

/* The client is gone, or broke the rules: nobody waits for the command any more. */
static void exec_abort(struct exec *e, int code)
{
	struct stream *client = e->client;
	char how[WHY_MAX];
	snprintf(how, sizeof(how), "client gone: %s", stream_why(client, code));
	exec_log(e, how);
	/* Also when it has exited: what it left behind belongs to the session. */
	child_kill(e->child, SIGHUP);
	exec_free(e);
	stream_close(client, code);
}

/* The command cannot be started: the stream is told, and e is gone. */
static void exec_refuse(struct exec *e, int code, const char *why)
{
	struct stream *client = e->client;
	exec_log(e, why);
	exec_free(e);
	mux_refuse(client, code, why);
}

/* The same for the plain form, whose owner is told by the task. */
static void exec_plain_refuse(struct exec *e, int code, const char *why)
{
	exec_log(e, why);
	e->state = EXEC_FAILED;
	e->code = code;
	e->why = xstrdup(why);
	task_wake(e->rx, &e->task);
}

/* --- the client's stream, with borrowing and lending whatever it is --- */

static int client_flush(struct exec *e)
{
	while (e->held_out.len > 0) {
		struct slice d = buf_data(&e->held_out);
		ssize_t n = stream_write(e->client, d.p, d.n);
		if (n < 0)
			return (int)n;
		buf_drop(&e->held_out, (size_t)n);
	}
	return 0;
}

static int client_room(struct exec *e, uint8_t channel, struct iovec *room)
{
	if (stream_is_mux(e->client)) {
		mux_set_channel(e->client, channel);
		return e->client->ops->room(e->client, room);
	}
	int r = client_flush(e);
	*room = buf_room_for(&e->held_out, HELD_MAX);
	return r;
}

static void client_added(struct exec *e, size_t n)
{
	e->bytes_out += n;
	if (stream_is_mux(e->client))
		e->client->ops->added(e->client, n);
	else
		buf_added(&e->held_out, n);
}

/* 1: bytes for stdin, 0: their end, or a code. */
static int client_peek(struct exec *e, struct iovec *bytes)
{
	if (stream_is_mux(e->client)) {
		int r = e->client->ops->peek(e->client, bytes, 1);
		return r == 1 && mux_peeked_channel(e->client) != 0 ? -EPROTO : r;
	}
	if (e->held_in.len == 0) {
		struct iovec room = buf_room_for(&e->held_in, HELD_MAX);
		ssize_t n = e->client->ops->read(e->client, &room, 1);
		buf_added(&e->held_in, n > 0 ? (size_t)n : 0);
		if (n <= 0)
			return (int)n;
	}
	struct slice d = buf_data(&e->held_in);
	*bytes = (struct iovec){ (void *)d.p, d.n };
	return 1;
}

static void client_drop(struct exec *e, size_t n)
{
	e->bytes_in += n;
	if (stream_is_mux(e->client))
		e->client->ops->drop(e->client, n);
	else
		buf_drop(&e->held_in, n);
}

/* Whether the client went away, which neither reading nor writing says while the command is quiet
 * and stdin has ended: 0 or why. */
static int client_gone(struct exec *e)
{
	int r = stream_open_yet(e->client);
	if (r < 0)
		return r == -EAGAIN ? 0 : r;
	struct pollfd p = { .fd = stream_fd(e->client) };
	if (p.fd != -1 && poll(&p, 1, 0) == 1 && p.revents & (POLLERR | POLLHUP))
		return -ECONNRESET;
	return 0;
}

/* --- the relay --- */

/* 1: quantum spent; else -EAGAIN, or why the client failed. */
static int relay_in(struct exec *e)
{
	size_t quantum = QUANTUM;
	while (!e->in_done) {
		struct iovec bytes;
		if (quantum == 0)
			return 1;
		int r = client_peek(e, &bytes);
		if (r < 0)
			return r;
		if (r == 0) {
			in_close(e);
			e->in_done = true;
			break;
		}
		size_t want = MIN(bytes.iov_len, quantum);
		ssize_t n = e->in ? stream_write(e->in, bytes.iov_base, want) : (ssize_t)want;
		if (n == -EAGAIN)
			return -EAGAIN;
		if (n < 0) {
			in_close(e); /* a command that does not read its stdin is no failure */
			continue;
		}
		client_drop(e, (size_t)n);
		quantum -= (size_t)n;
	}
	return -EAGAIN;
}

/* One read: 1 moved, 0 nothing there (any more), or what the client says. */
static int move_out(struct exec *e, int i)
{
	struct iovec room;
	int r = client_room(e, (uint8_t)(i + 1), &room);
	if (r < 0)
		return r;
	ssize_t n = e->out[i]->ops->read(e->out[i], &room, 1);
	client_added(e, n > 0 ? (size_t)n : 0);
	if (n == -EAGAIN)
		return 0;
	if (n <= 0)
		out_close(e, i);
	return n > 0;
}

/* 1: quantum spent; else 0, or what the client says. */
static int relay_out(struct exec *e)
{
	uint64_t enough = e->bytes_out + QUANTUM;
	bool moved = true;
	while (moved) {
		moved = false;
		for (int i = 1; i >= 0; i--) { /* stderr is the one that must not wait */
			int r = e->out[i] ? move_out(e, i) : 0;
			if (r < 0)
				return r;
			moved |= r == 1;
		}
		if (e->bytes_out >= enough)
			return 1;
	}
	return client_flush(e);
}

/* --- control messages --- */

static void on_resize(struct exec *e, struct json *size)
{
	uint64_t rows, cols;
	struct json *first = json_first(size);
	if (json_u64(first, &rows) == 0 && json_u64(first ? json_next(first) : NULL, &cols) == 0 &&
	    rows <= UINT16_MAX && cols <= UINT16_MAX && e->tty)
		child_resize(e->child, (unsigned short)rows, (unsigned short)cols);
}

/* What this version does not know is left alone, so that later ones may say more. */
static void on_control(struct exec *e, struct slice text)
{
	struct json_doc *doc = json_parse(text, NULL, NULL);
	struct slice name;
	if (!doc)
		return;
	on_resize(e, json_find(json_root(doc), "resize"));
	if (json_str(doc, json_find(json_root(doc), "signal"), &name) == 0) {
		int signo = exec_signal_number(name);
		if (signo)
			child_kill(e->child, signo);
	}
	json_free(doc);
}

static void read_controls(struct exec *e)
{
	char *text;
	while (stream_is_mux(e->client) && (text = mux_next_control(e->client))) {
		on_control(e, slice_str(text));
		free(text);
	}
}

/* --- the session --- */

static bool output_ended(const struct exec *e)
{
	return !e->out[0] && !e->out[1] && e->held_out.len == 0;
}

/* After the exit, output may go on; silence ends it, but not while the client is what is slow. */
static void mind_silence(struct exec *e, bool moved)
{
	bool busy = moved || e->blocked;
	if (e->silent && !busy) {
		out_close(e, 0);
		out_close(e, 1);
	} else if (busy || !timer_is_set(&e->timer)) {
		e->silent = false;
		timer_set(e->rx, &e->timer, SILENCE_MS);
	}
}

/* 1: more to do, -EAGAIN: wait, 0: finished, else why the client failed. */
static int session_step(struct exec *e)
{
	int r = client_gone(e);
	if (r < 0)
		return r;
	if (e->state == EXEC_STARTING)
		return -EAGAIN;
	read_controls(e);
	int in = relay_in(e);
	if (in < 0 && in != -EAGAIN)
		return in;
	uint64_t before = e->bytes_out;
	int out = relay_out(e);
	e->blocked = out == -EAGAIN;
	if (out < 0 && out != -EAGAIN)
		return out;
	if (e->state == EXEC_EXITED) {
		mind_silence(e, e->bytes_out != before);
		if (output_ended(e))
			return 0;
	}
	return in == 1 || out == 1 ? 1 : -EAGAIN;
}

static void exec_run(struct task *t)
{
	struct exec *e = container_of(t, struct exec, task);
	if (e->state == EXEC_FAILED) {
		e->ready(e->arg, e->code, e->why);
		return;
	}
	if (!e->client)
		return;
	int r = session_step(e);
	if (r == 1)
		task_wake(e->rx, t);
	else if (r == 0)
		exec_finish(e);
	else if (r != -EAGAIN)
		exec_abort(e, r);
}

static void silence_fire(struct timer *t)
{
	struct exec *e = container_of(t, struct exec, timer);
	e->silent = true; /* unless the task finds something that came just now */
	task_wake(e->rx, &e->task);
}

static void on_started(void *arg)
{
	struct exec *e = arg;
	e->state = EXEC_RUNNING;
	if (e->ready) {
		e->ready(e->arg, 0, NULL);
		return;
	}
	mux_accept(e->client, SLICE("{}"));
	task_wake(e->rx, &e->task);
}

static void send_exit(struct exec *e)
{
	char text[64];
	const char *name = exec_signal_name(e->status.signal);
	if (!e->status.signal)
		snprintf(text, sizeof(text), "{\"exit\":%d}", e->status.exit_code);
	else if (name)
		snprintf(text, sizeof(text), "{\"signal\":\"%s\",\"core\":%s}", name,
			 e->status.core ? "true" : "false");
	else
		snprintf(text, sizeof(text), "{\"exit\":%d}", 128 + e->status.signal);
	mux_control(e->client, slice_str(text));
}

static void not_started(struct exec *e)
{
	char why[WHY_MAX];
	int error = e->status.exec_errno;
	if (e->status.dir_failed)
		snprintf(why, sizeof(why), "exec: working directory \"%.256s\": %s", e->dir,
			 err_text(error));
	else if (error == ENOENT && !strchr(e->command, '/'))
		snprintf(why, sizeof(why), "exec: \"%.256s\": executable file not found in $PATH",
			 e->command);
	else
		snprintf(why, sizeof(why), "exec: \"%.256s\": %s", e->command, err_text(error));
	int code = error == ENOENT && !e->status.dir_failed ? -ERR_NOT_FOUND : -ERR_DENIED;
	if (e->ready)
		exec_plain_refuse(e, code, why);
	else
		exec_refuse(e, code, why);
}

static void on_ended(void *arg, const struct child_status *status)
{
	struct exec *e = arg;
	e->status = *status;
	if (status->exec_errno) {
		not_started(e);
		return;
	}
	e->state = EXEC_EXITED;
	if (e->client && stream_is_mux(e->client))
		send_exit(e);
	task_wake(e->rx, &e->task);
}

/* --- the start --- */

/* name is NAME or NAME=...; entry is NAME=value. */
static bool same_name(const char *name, const char *entry)
{
	size_t n = strcspn(name, "=");
	return strncmp(name, entry, n) == 0 && entry[n] == '=';
}

/* What of our own environment is anybody's: all else (tokens, LD_*, flags of the service) stays. */
static char **env_new(const struct exec_request *req)
{
	const struct {
		const char *name, *otherwise;
		bool tty_only;
	} base[] = {
		{ "PATH", PATH_DEFAULT, false }, { "HOME", geteuid() == 0 ? "/root" : "/", false },
		{ "USER", NULL, false },         { "LOGNAME", NULL, false },
		{ "SHELL", "/bin/sh", false },   { "LANG", NULL, false },
		{ "LC_ALL", NULL, false },       { "LC_CTYPE", NULL, false },
		{ "TZ", NULL, false },           { "TMPDIR", NULL, false },
		{ "TERM", "xterm", true },
	};
	size_t given = 0, n = 0;
	while (req->env && req->env[given])
		given++;
	char **env = xcalloc(ARRAY_LEN(base) + given + 1, sizeof(*env));
	for (size_t i = 0; i < ARRAY_LEN(base); i++) {
		const char *value = base[i].tty_only ? NULL : getenv(base[i].name);
		bool overridden = false;
		for (size_t j = 0; j < given && !overridden; j++)
			overridden = same_name(base[i].name, req->env[j]);
		if (!value && (!base[i].tty_only || req->tty))
			value = base[i].otherwise;
		if (value && !overridden)
			env[n++] = xasprintf("%s=%s", base[i].name, value);
	}
	for (size_t j = 0; j < given; j++)
		env[n++] = xstrdup(req->env[j]);
	return env;
}

static void env_free(char **env)
{
	for (char **p = env; *p; p++)
		free(*p);
	free(env);
}

static int spawn(struct exec *e, const struct exec_request *req, char *why, size_t whylen)
{
	char **env = env_new(req);
	int err = 0;
	const struct child_options opt = {
		.argv = req->argv,
		.envp = env,
		.dir = req->dir,
		.tty = req->tty,
		.rows = req->rows,
		.cols = req->cols,
		.merge_stderr = req->merge_stderr,
	};
	e->tty = req->tty;
	e->child = child_spawn(e->rx, &opt, on_started, on_ended, e, &err);
	env_free(env);
	if (!e->child) {
		snprintf(why, whylen, "exec: cannot start a process: %s", err_text(err));
		return -EIO;
	}
	e->policy->children++;
	e->in = child_stdin(e->child);
	e->out[0] = e->tty ? e->in : child_stdout(e->child);
	e->out[1] = child_stderr(e->child);
	struct stream *all[] = { e->in, e->out[0], e->out[1], e->client };
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		if (all[i])
			stream_bind(all[i], &e->task);
	return 0;
}

/* 0: it is on its way, or a code with a sentence in why. */
static int exec_start(struct exec *e, struct slice json, enum exec_form form, char *why,
		      size_t whylen)
{
	struct exec_request req;
	if (!e->policy->allowed) {
		snprintf(why, whylen, "exec is not allowed on this guest");
		return -ERR_DENIED;
	}
	if (e->policy->children >= e->policy->max_children) {
		snprintf(why, whylen, "too many commands are running (%u)", e->policy->children);
		return -ERR_TOO_MANY;
	}
	int r = exec_request_parse(&req, json, form, why, whylen);
	if (r < 0)
		return r;
	e->command = xstrdup(req.argv[0]);
	e->dir = req.dir ? xstrdup(req.dir) : NULL;
	r = spawn(e, &req, why, whylen);
	exec_request_end(&req);
	return r;
}

static struct exec *exec_new(struct reactor *rx, struct exec_policy *policy, const char *who)
{
	struct exec *e = xcalloc(1, sizeof(*e));
	e->rx = rx;
	e->policy = policy;
	e->state = EXEC_STARTING;
	e->who = xstrdup(who ? who : "");
	e->since_ms = reactor_now(rx);
	buf_init(&e->held_in, HELD_MAX);
	buf_init(&e->held_out, HELD_MAX);
	task_init(&e->task, exec_run);
	timer_init(&e->timer, silence_fire);
	return e;
}

void exec_serve(struct reactor *rx, struct stream *s, struct slice open_json,
		struct exec_policy *policy, const char *who)
{
	struct exec *e = exec_new(rx, policy, who);
	char why[WHY_MAX];
	e->client = s;
	int r = exec_start(e, open_json, EXEC_STREAM, why, sizeof(why));
	if (r < 0)
		exec_refuse(e, r, why);
}

struct exec *exec_plain_start(struct reactor *rx, struct slice json, struct exec_policy *policy,
			      const char *who, void (*ready)(void *arg, int code, const char *why),
			      void *arg)
{
	struct exec *e = exec_new(rx, policy, who);
	char why[WHY_MAX];
	e->ready = ready;
	e->arg = arg;
	int r = exec_start(e, json, EXEC_PLAIN, why, sizeof(why));
	if (r < 0)
		exec_plain_refuse(e, r, why);
	return e;
}

void exec_plain_relay(struct exec *e, struct stream *raw, struct slice leftover)
{
	int r = buf_put(&e->held_in, leftover);
	BUG_ON(r < 0);
	e->client = raw;
	stream_bind(raw, &e->task);
	task_wake(e->rx, &e->task);
}

void exec_plain_free(struct exec *e)
{
	if (e)
		exec_free(e);
}
