/* tsctl host-exec: a command on the remote host, with this process's stdio, signals and status. */
#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include "cmd/tsctl/cmd.h"
#include "cmd/tsctl/terminal.h"
#include "proto/tstunnel/exec_client.h"
#include "proto/tstunnel/exec_request.h"
#include "proto/tstunnel/frame.h"
#include "proto/tstunnel/tunnel.h"
#include "proto/tstunnel/version.h"
#include "reactor/buf.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "reactor/opt.h"
#include "reactor/signals.h"

enum {
	STATUS_OURS = 255, /* the tunnel's own failure, and wrong usage: never the command's */
	STATUS_NOT_FOUND = 127,
	STATUS_DENIED = 126,
	STATUS_SIGNAL = 128,
	INSIST_MS = 2000,
	INSIST_MAX_MS = 10000,
	RESIZE_MS = 100
};

struct flags {
	const char *server, *cert, *key, *ca, *dir, *log_level;
	struct opt_list env;
	uint64_t connect_ms, handshake_ms, keepalive_ms;
	bool insecure, tty, interactive;
};

struct host_exec {
	struct reactor *rx;
	struct tunnel_options to;
	struct tunnel *tunnel;
	struct exec_client *client;
	struct signals signals;
	struct timer resize_timer;
	bool tty;
	uint64_t first_signal_ms; /* of a series by which somebody insists */
};

static int fail(const char *fmt, ...) PRINTF_LIKE(1, 2);

static int fail(const char *fmt, ...)
{
	va_list ap;
	terminal_restore();
	fputs("Error: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	return STATUS_OURS;
}

/* --- the end --- */

static void finish(struct host_exec *h, int status)
{
	terminal_restore();
	exec_client_free(h->client);
	h->client = NULL;
	reactor_stop(h->rx, status);
}

static int report(struct host_exec *h, const struct exec_result *r)
{
	struct tunnel_status up;
	char text[1024];
	tunnel_status(h->tunnel, &up);
	if (up.up) /* so it is not about reaching the guest */
		return fail("%s", r->why);
	tunnel_advice(r->code, r->why, "", &h->to, text, sizeof(text));
	return fail("%s", text);
}

static void on_ended(void *arg, const struct exec_result *r)
{
	struct host_exec *h = arg;
	int status;
	if (r->code == 0)
		status = r->signal ? STATUS_SIGNAL + r->signal : r->exit_code;
	else if (r->broken_pipe)
		status = STATUS_SIGNAL + SIGPIPE;
	else
		status = report(h, r);
	if (r->not_started)
		status = r->code == -ERR_NOT_FOUND ? STATUS_NOT_FOUND : STATUS_DENIED;
	finish(h, status);
}

/* --- the terminal --- */

static void resize_fire(struct timer *t)
{
	struct host_exec *h = container_of(t, struct host_exec, resize_timer);
	unsigned short rows, cols;
	if (h->client && terminal_size(&rows, &cols))
		exec_client_resize(h->client, rows, cols);
}

static void on_opened(void *arg)
{
	struct host_exec *h = arg;
	if (!h->tty)
		return;
	int r = terminal_raw();
	if (r < 0)
		log_warn("terminal raw mode: %s", err_text(r));
	resize_fire(&h->resize_timer); /* it may have changed meanwhile */
}

/* --- signals --- */

/* To the remote process group. Who asks again after two seconds wants to get away from a command,
 * or a tunnel, that does not answer. */
static void forward(struct host_exec *h, int signo)
{
	uint64_t now = reactor_now(h->rx), since = now - h->first_signal_ms;
	bool first = h->first_signal_ms == 0 || since > INSIST_MAX_MS;
	bool hung_up = signo == SIGHUP && h->tty; /* nobody is left to look at it */
	if (exec_client_signal(h->client, signo) < 0 || (!first && since >= INSIST_MS) || hung_up)
		finish(h, STATUS_SIGNAL + signo);
	else if (first)
		h->first_signal_ms = now;
}

static void on_signal(void *arg, int signo)
{
	struct host_exec *h = arg;
	if (!h->client)
		return;
	if (signo == SIGCONT) /* the shell had the terminal */
		on_opened(h);
	else if (signo != SIGWINCH)
		forward(h, signo);
	else if (!timer_is_set(&h->resize_timer))
		timer_set(h->rx, &h->resize_timer, RESIZE_MS);
}

static void catch_signals(struct host_exec *h)
{
	static const int all[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH, SIGCONT };
	int list[ARRAY_LEN(all) + 1], n = 0;
	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		struct sigaction now;
		bool ignored = sigaction(all[i], NULL, &now) == 0 && now.sa_handler == SIG_IGN;
		bool tty_only = all[i] == SIGWINCH || all[i] == SIGCONT;
		if (!ignored && (h->tty || !tty_only)) /* nohup, or a script's "&" */
			list[n++] = all[i];
	}
	list[n] = 0;
	signals_open(&h->signals, h->rx, list, on_signal, h);
}

/* --- the start --- */

/* As docker's -e: NAME=value, or NAME for our own value; the last one of a name counts. The vector
 * belongs to the caller, and its strings, too. */
static char **env_new(const struct flags *f)
{
	char **env = xcalloc(f->env.n + 2, sizeof(*env));
	size_t n = 0;
	for (size_t i = 0; i < f->env.n; i++) {
		const char *entry = f->env.v[i], *ours = getenv(entry);
		size_t name = strcspn(entry, "=");
		bool overridden = false;
		for (size_t j = i + 1; j < f->env.n; j++)
			overridden |= strcspn(f->env.v[j], "=") == name &&
				      strncmp(entry, f->env.v[j], name) == 0;
		if (overridden)
			continue;
		if (entry[name] == '=' || name == 0)
			env[n++] = xstrdup(entry);
		else if (ours)
			env[n++] = xasprintf("%s=%s", entry, ours);
	}
	const char *term = getenv("TERM");
	bool has_term = false;
	for (size_t i = 0; i < n; i++)
		has_term |= strncmp(env[i], "TERM=", 5) == 0;
	if (f->tty && term && !has_term)
		env[n++] = xasprintf("TERM=%s", term);
	return env;
}

static int write_request(const struct flags *f, char **argv, struct buf *b, char *err,
			 size_t errlen)
{
	char **env = env_new(f);
	struct exec_request req = { .argv = argv, .env = env, .dir = f->dir, .tty = f->tty };
	if (f->tty)
		terminal_size(&req.rows, &req.cols);
	int r = exec_request_write(&req, b, err, errlen);
	for (char **e = env; *e; e++)
		free(*e);
	free(env);
	return r;
}

/* Our stdio as streams; 0, or the status after saying why not. */
static int open_stdio(struct reactor *rx, struct exec_client_options *o)
{
	static const char *const names[] = { "input", "output", "error" };
	struct stream **to[] = { &o->in, &o->out, &o->err };
	for (int i = 0; i < 3; i++) {
		int err;
		*to[i] = stdio_stream_new(rx, i, &err);
		if (!*to[i])
			return fail("cannot use standard %s: %s", names[i], err_text(err));
	}
	return 0;
}

static int run(struct host_exec *h, struct slice request)
{
	struct exec_client_options o = { .opened = on_opened, .ended = on_ended, .arg = h };
	int status = open_stdio(h->rx, &o);
	if (status) {
		stream_close(o.in, 0);
		stream_close(o.out, 0);
		return status;
	}
	timer_init(&h->resize_timer, resize_fire);
	catch_signals(h);
	h->client = exec_client_new(h->rx, tunnel_open(h->tunnel, request, TUNNEL_INTERACTIVE), &o);
	status = reactor_run(h->rx);
	timer_clear(h->rx, &h->resize_timer);
	signals_close(&h->signals);
	return status;
}

static int server_address(const struct flags *f, struct addr *a)
{
	char err[256];
	if (!f->server)
		return fail("--server-addr is missing: the HOST[:PORT] of the guest");
	if (!f->cert != !f->key)
		return fail("--cert and --key must be given together");
	uint16_t port = f->cert ? 443 : 80;
	if (addr_parse_stream(a, slice_str(f->server), port, err, sizeof(err)) < 0)
		return fail("--server-addr: %s", err);
	return 0;
}

static int host_exec(const struct flags *f, char **argv)
{
	char err[1024];
	struct buf request;
	struct host_exec h = { .tty = f->tty };
	int status = server_address(f, &h.to.server);
	if (status)
		return status;
	if (f->tty && !isatty(0))
		return fail("the input device is not a TTY; leave out -t");
	buf_init(&request, FRAME_OTHER_MAX);
	if (write_request(f, argv, &request, err, sizeof(err)) < 0) {
		buf_end(&request);
		return fail("%s", err);
	}
	h.to.cert_file = f->cert;
	h.to.key_file = f->key;
	h.to.ca_file = f->ca;
	h.to.insecure = f->insecure;
	h.to.connect_ms = f->connect_ms;
	h.to.handshake_ms = f->handshake_ms;
	h.to.keepalive_ms = f->keepalive_ms;
	h.to.program = "tsctl/" TSTUNNEL_VERSION;
	h.rx = reactor_new();
	h.tunnel = tunnel_new(h.rx, &h.to, err, sizeof(err));
	status = h.tunnel ? run(&h, buf_data(&request)) : fail("%s", err);
	tunnel_free(h.tunnel);
	stream_linger_end();
	reactor_free(h.rx);
	buf_end(&request);
	return status;
}

int cmd_host_exec(int argc, char **argv)
{
	struct flags f = { .log_level = "error" };
	const struct opt opts[] = {
		{ .kind = OPT_STRING,
		  .name = "server-addr",
		  .to = &f.server,
		  .arg = "HOST[:PORT]",
		  .help = "the guest (default port 443 with a certificate, else 80)" },
		{ .kind = OPT_STRING,
		  .name = "cert",
		  .to = &f.cert,
		  .arg = "FILE",
		  .help = "client certificate (PEM); together with --key" },
		{ .kind = OPT_STRING,
		  .name = "key",
		  .to = &f.key,
		  .arg = "FILE",
		  .help = "its private key (PEM)" },
		{ .kind = OPT_STRING,
		  .name = "ca",
		  .to = &f.ca,
		  .arg = "FILE",
		  .help = "CA that signed the guest's certificate (default: the system's)" },
		{ .kind = OPT_FLAG,
		  .name = "insecure",
		  .to = &f.insecure,
		  .help = "do not verify the guest's certificate (development only)" },
		{ .kind = OPT_LIST,
		  .name = "env",
		  .letter = 'e',
		  .to = &f.env,
		  .arg = "NAME[=VALUE]",
		  .help = "set an environment variable; without a value: ours (repeatable)" },
		{ .kind = OPT_STRING,
		  .name = "workdir",
		  .letter = 'w',
		  .to = &f.dir,
		  .arg = "DIR",
		  .help = "directory to run in (default: where the guest was started)" },
		{ .kind = OPT_FLAG,
		  .name = "tty",
		  .letter = 't',
		  .to = &f.tty,
		  .help = "give the command a terminal" },
		{ .kind = OPT_FLAG,
		  .name = "interactive",
		  .letter = 'i',
		  .to = &f.interactive,
		  .help = "accepted for docker's sake: stdin is always passed on" },
		{ .kind = OPT_DURATION,
		  .name = "connect-timeout",
		  .to = &f.connect_ms,
		  .arg = "TIME",
		  .help = "for reaching the guest (default 10s)" },
		{ .kind = OPT_DURATION,
		  .name = "handshake-timeout",
		  .to = &f.handshake_ms,
		  .arg = "TIME",
		  .help = "for TLS and the upgrade to a tunnel (default 10s)" },
		{ .kind = OPT_DURATION,
		  .name = "keepalive",
		  .to = &f.keepalive_ms,
		  .arg = "TIME",
		  .help = "a silent tunnel is probed after this, and dead after as long again "
			  "(default 4s)" },
		{ .kind = OPT_STRING,
		  .name = "log-level",
		  .to = &f.log_level,
		  .arg = "LEVEL",
		  .help = "error, warn, info or debug (default error)" },
		{ .kind = OPT_END },
	};
	const struct opt_command command = {
		.name = "tsctl host-exec",
		.args = "--server-addr HOST[:PORT] [OPTIONS] -- COMMAND [ARG...]",
		.summary = "Runs a command on the remote host, with this command's stdin, stdout, "
			   "stderr and signals.",
		.opts = opts,
		.more = "Exit status: the command's; 128+N if signal N killed it; 127 not found, "
			"126 not\nexecutable, 255 if it is the tunnel that failed.\n\n"
			"Examples:\n"
			"  tsctl host-exec --server-addr remote:8080 --insecure -- ls -la\n"
			"  tsctl host-exec --server-addr remote:8080 --insecure -e DEBUG=1 -- "
			"printenv DEBUG\n"
			"  tsctl host-exec --server-addr host --cert c.crt --key c.key --ca ca.crt "
			"-t -- bash\n",
		.stop_at_operand = true,
	};
	int first = opt_parse(&command, argc, argv), status;
	log_set_program("tsctl");
	if (first <= 0)
		status = first == 0 ? 0 : STATUS_OURS;
	else if (log_set_level(f.log_level) < 0)
		status = fail("--log-level must be error, warn, info or debug");
	else if (first >= argc)
		status = fail("no command given; see 'tsctl host-exec --help'");
	else
		status = host_exec(&f, argv + first);
	opt_list_free(&f.env);
	return status;
}
