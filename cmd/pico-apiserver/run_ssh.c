/* Commands in boxes over SSH, for backends that have no way of their own: one connection each, with
 * the server's key, or the password that sandboxes have. The command is wrapped so that its process
 * group can be found and killed by a second one on the same connection. */
#include <errno.h>
#include <signal.h>

#include "cmd/pico-apiserver/api.h"
#include "proto/ssh/ssh.h"
#include "reactor/log.h"

enum { COMMAND_ROOM = 64 * 1024 };

struct ssh_run {
	struct box_run run;
	struct ssh_client *client;
	struct ssh_channel *channel, *killer;
	char mark[24]; /* names the file with the group's number */
	void (*ended)(void *arg, const struct child_status *);
	void *arg;
	bool over;
};

static int put_quoted(struct buf *b, const char *text)
{
	int r = buf_puts(b, "'");
	for (const char *p = text; *p && r == 0; p++)
		r = *p == '\'' ? buf_puts(b, "'\\''") : buf_put(b, slice_of(p, 1));
	return r ? r : buf_puts(b, "' ");
}

/* The words for the user's shell: 0 or -ENOBUFS. */
static int put_command(struct buf *b, const char *mark, const struct box_command *c)
{
	int r = buf_printf(b,
			   "exec setsid -w sh -c 'm=/tmp/.%s; echo $$ >$m; "
			   "trap \"rm -f $m\" EXIT; cd \"$0\" || exit 127; \"$@\"' ",
			   mark);
	r = r ? r : put_quoted(b, c->dir ? c->dir : "/workspace");
	r = r ? r : buf_puts(b, "env ");
	for (char *const *e = c->envp; e && *e && r == 0; e++)
		r = put_quoted(b, *e);
	for (char *const *a = c->argv; *a && r == 0; a++)
		r = put_quoted(b, *a);
	return r;
}

static int signal_number(const char *name)
{
	for (int i = 1; i < NSIG; i++) {
		const char *n = sigabbrev_np(i);
		if (n && strcmp(n, name) == 0)
			return i;
	}
	return SIGKILL;
}

static void tell(struct ssh_run *r, const struct child_status *st)
{
	if (r->over)
		return;
	r->over = true;
	r->ended(r->arg, st);
}

/* It did not run, or nobody knows how it ended. */
static void on_failed(void *arg, int code, const char *why)
{
	struct ssh_run *r = arg;
	if (!r->over)
		log_warn("command-over-ssh reason=%s", log_quote(slice_str(why)));
	tell(r, &(struct child_status){ .exec_errno = -code });
}

static void on_exited(void *arg, const struct ssh_exit *e)
{
	struct child_status st = { .exit_code = (int)e->status };
	if (e->signal)
		st = (struct child_status){ .signal = signal_number(e->signal) };
	if (e->code < 0)
		on_failed(arg, e->code, e->why);
	else
		tell(arg, &st);
}

static int run_kill(struct box_run *b, int signo)
{
	struct ssh_run *r = container_of(b, struct ssh_run, run);
	char *command = xasprintf("m=/tmp/.%s; kill -s %s -- -$(cat $m); rm -f $m", r->mark,
				  sigabbrev_np(signo));
	if (!r->killer)
		r->killer = ssh_exec(r->client, &(struct ssh_exec){ .command = command });
	free(command);
	return 0;
}

static void run_free(struct box_run *b)
{
	struct ssh_run *r = container_of(b, struct ssh_run, run);
	stream_close(b->out, -ECANCELED); /* in is the same */
	stream_close(b->err, 0);
	ssh_channel_free(r->channel);
	ssh_channel_free(r->killer);
	ssh_client_free(r->client);
	free(r);
}

/* Without a pin: the way to the sandbox is the backend's, which says where it is. */
static bool any_host(void *arg, const struct ssh_unknown_host *h)
{
	(void)arg;
	(void)h;
	return true;
}

static const struct box_run_ops run_ops = { run_kill, run_free };

struct box_run *run_over_ssh(struct server *sv, struct session *s, const struct box_command *c,
			     void (*ended)(void *arg, const struct child_status *), void *arg,
			     int *err)
{
	struct ssh_run *r = xcalloc(1, sizeof(*r));
	struct buf b;
	r->run.ops = &run_ops;
	r->ended = ended;
	r->arg = arg;
	snprintf(r->mark, sizeof(r->mark), "pico-%08x%08x", arc4random(), arc4random());
	buf_init(&b, COMMAND_ROOM);
	*err = put_command(&b, r->mark, c);
	if (*err < 0) {
		*err = -E2BIG;
		buf_end(&b);
		free(r);
		return NULL;
	}
	char *command = xslicedup(buf_data(&b));
	buf_end(&b);
	struct ssh_options o = {
		.user = sv->backend_options.ssh_username,
		.password = "sandbox",
		.key = sv->ssh_key,
		.host = s->r.name,
		.port = sv->backend_options.ssh_port,
		.host_pin = s->r.fingerprint[0] ? s->r.fingerprint : NULL,
		.unknown_host = any_host,
		.failed = on_failed,
		.arg = r,
	};
	r->client = ssh_client_new(sv->rx, s->box->ops->connect(s->box), &o);
	r->channel = ssh_exec(
	    r->client, &(struct ssh_exec){ .command = command, .exited = on_exited, .arg = r });
	free(command);
	r->run.in = r->run.out = ssh_channel_stdio(r->channel);
	r->run.err = ssh_channel_stderr(r->channel);
	return &r->run;
}
