/* tsctl daemon: keeps the forwards and the syncs of one user. It is started by the first of them
 * and ends with the last. */
#include "cmd/tsctl/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "cmd/tsctl/cmd.h"
#include "cmd/tsctl/forward.h"
#include "cmd/tsctl/forward_api.h"
#include "cmd/tsctl/instance.h"
#include "cmd/tsctl/sync_api.h"
#include "cmd/tsctl/sync_keep.h"
#include "proto/tstunnel/version.h"
#include "reactor/child.h"
#include "reactor/err.h"
#include "reactor/listen.h"
#include "reactor/log.h"
#include "reactor/opt.h"
#include "reactor/signals.h"

enum { FIRST_MS = 10000 /* for the one that starts it to ask for something */, GRACE_MS = 10000 };

struct daemon_flags {
	const char *log_level;
	uint64_t grace_ms;
	bool detached, log_json;
};

struct daemon {
	const struct daemon_flags *flags;
	struct reactor *rx;
	struct instance instance;
	struct tunnels tunnels;
	struct forward_set set;
	struct forward_api api;
	struct sync_keep syncs;
	struct sync_api sync_api;
	struct http_server http;
	struct listener *listener;
	struct signals signals;
	struct timer first, grace;
	bool draining;
	int starter; /* a pipe to the command that started us, until we serve; else stderr */
};

static int fail(const struct daemon *d, const char *text)
{
	dprintf(d->starter, "Error: %s\n", text);
	return 1;
}

/* --- the end --- */

/* Nobody is answered any more; whoever asks next starts another daemon, which waits for our lock.
 */
static void stop_listening(struct daemon *d)
{
	d->api.ending = d->sync_api.ending = true;
	timer_clear(d->rx, &d->first);
	listener_close(d->listener);
	d->listener = NULL;
	http_server_drain(&d->http);
}

static void on_http_empty(void *arg)
{
	struct daemon *d = arg;
	if (!d->draining)
		reactor_stop(d->rx, 0);
}

/* The last forward or sync is gone, and its reply is on its way. */
static void on_idle(void *arg)
{
	struct daemon *d = arg;
	bool busy = d->set.n || d->syncs.set.n || forward_api_busy(&d->api) ||
		    sync_api_busy(&d->sync_api) || sync_keep_busy(&d->syncs);
	if (!busy && !d->api.ending)
		stop_listening(d);
}

static void on_first(struct timer *t)
{
	on_idle(container_of(t, struct daemon, first));
}

static void on_drained(void *arg)
{
	struct daemon *d = arg;
	reactor_stop(d->rx, 0);
}

static void on_grace(struct timer *t)
{
	struct daemon *d = container_of(t, struct daemon, grace);
	log_warn("drain gave-up");
	reactor_stop(d->rx, 0);
}

static void on_signal(void *arg, int signo)
{
	struct daemon *d = arg;
	if (signo == SIGHUP) {
		tunnels_reload(&d->tunnels);
		return;
	}
	if (d->draining) { /* asked twice */
		reactor_stop(d->rx, 0);
		return;
	}
	log_info("drain signal=%s", sigabbrev_np(signo));
	d->draining = true;
	stop_listening(d);
	forward_api_end(&d->api);
	sync_api_end(&d->sync_api);
	sync_keep_close(&d->syncs); /* what is not done yet is done by the next one */
	timer_set(d->rx, &d->grace, d->flags->grace_ms);
	set_drain(&d->set, on_drained, d);
}

/* --- the start --- */

static void on_tunnel_changed(void *arg)
{
	struct daemon *d = arg;
	sync_set_tunnel_changed(&d->syncs.set);
}

static void on_tunnel_goaway(void *arg)
{
	struct daemon *d = arg;
	sync_set_tunnel_goaway(&d->syncs.set);
}

static void on_create(void *arg, struct http_conn *c, struct json_doc *doc)
{
	struct daemon *d = arg;
	sync_keep_create(&d->syncs, c, doc);
}

static void on_request(struct http_conn *c, struct http_head *head, void *arg)
{
	struct daemon *d = arg;
	if (!sync_api_handle(&d->sync_api, c, head))
		forward_api_handle(c, head, &d->api);
}

static void on_accept(void *arg, int fd, const struct sockaddr *peer)
{
	struct daemon *d = arg;
	(void)peer;
	http_server_accept(&d->http, fd_stream_new(d->rx, fd), "control");
}

static int open_all(struct daemon *d, char *err, size_t errlen)
{
	d->tunnels = (struct tunnels){
		.rx = d->rx, .changed = on_tunnel_changed, .goaway = on_tunnel_goaway, .arg = d
	};
	tunnels_init(&d->tunnels);
	sync_set_init(&d->syncs.set, d->rx); /* a tunnel may tell of itself early */
	int r = set_open(&d->set, &d->tunnels, err, errlen);
	if (r == 0)
		r = sync_keep_open(&d->syncs, &d->tunnels, err, errlen);
	if (r < 0)
		return r;
	d->api = (struct forward_api){ .set = &d->set, .rx = d->rx, .idle = on_idle, .arg = d };
	forward_api_init(&d->api);
	d->syncs.idle = on_idle;
	d->syncs.arg = d;
	d->sync_api = (struct sync_api){
		.set = &d->syncs.set, .rx = d->rx, .create = on_create, .idle = on_idle, .arg = d
	};
	sync_api_init(&d->sync_api);
	d->http = (struct http_server){ .rx = d->rx,
					.arg = d,
					.handle = on_request,
					.empty = on_http_empty,
					.conns_max = 256 };
	http_server_init(&d->http);
	d->listener = listener_new(d->rx, &d->instance.socket, on_accept, d, &r);
	if (!d->listener) {
		snprintf(err, errlen, "cannot listen on %s: %s", d->instance.socket.path,
			 err_text(r));
		return r;
	}
	return 0;
}

static int serve(struct daemon *d)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP, 0 };
	char err[1024];
	int code = 1;
	d->rx = reactor_new();
	timer_init(&d->first, on_first);
	timer_init(&d->grace, on_grace);
	signals_open(&d->signals, d->rx, signals, on_signal, d);
	if (open_all(d, err, sizeof(err)) < 0) {
		fail(d, err);
	} else {
		if (d->flags->detached)
			close(d->starter);
		log_info("listening addr=%s forwards=%zu syncs=%zu version=%s",
			 addr_text(&d->instance.socket), d->set.n, d->syncs.set.n,
			 TSTUNNEL_VERSION);
		timer_set(d->rx, &d->first, FIRST_MS);
		code = reactor_run(d->rx);
		forward_api_end(&d->api);
		sync_api_end(&d->sync_api);
		http_server_abort(&d->http);
	}
	timer_clear(d->rx, &d->first);
	timer_clear(d->rx, &d->grace);
	listener_close(d->listener);
	sync_keep_close(&d->syncs);
	set_close(&d->set);
	child_kill_lingering();
	signals_close(&d->signals);
	stream_linger_end();
	reactor_free(d->rx);
	log_info("stopped");
	return code;
}

static int run(const struct daemon_flags *f)
{
	static struct daemon d = { .starter = 2 };
	char err[1024];
	d.flags = f;
	if (instance_init_single(&d.instance, DAEMON_NAME, err, sizeof(err)) < 0)
		return fail(&d, err);
	int r = instance_lock(&d.instance, NULL, err, sizeof(err));
	if (r == -EADDRINUSE && f->detached)
		return 0; /* somebody else was quicker: just as well */
	if (r < 0)
		return fail(&d, err);
	if (f->detached) {
		d.starter = fcntl(2, F_DUPFD_CLOEXEC, 3);
		if (instance_log_stdio(&d.instance, err, sizeof(err)) < 0)
			return fail(&d, err);
		if (chdir("/") == -1)
			return fail(&d, err_text(-errno));
	}
	int code = serve(&d);
	instance_unlock(&d.instance);
	return code;
}

int cmd_daemon(int argc, char **argv)
{
	struct daemon_flags f = { .log_level = "info", .grace_ms = GRACE_MS };
	const struct opt opts[] = {
		{ .kind = OPT_DURATION,
		  .name = "grace",
		  .to = &f.grace_ms,
		  .arg = "TIME",
		  .help = "after SIGTERM, how long connections may finish (default 10s)" },
		{ .kind = OPT_STRING,
		  .name = "log-level",
		  .to = &f.log_level,
		  .arg = "LEVEL",
		  .help = "error, warn, info or debug (default info)" },
		{ .kind = OPT_FLAG,
		  .name = "log-json",
		  .to = &f.log_json,
		  .help = "log lines as JSON" },
		{ .kind = OPT_FLAG,
		  .name = "detached",
		  .to = &f.detached,
		  .help = "started by another command: log to a file",
		  .hidden = true },
		{ .kind = OPT_END },
	};
	const struct opt_command command = {
		.name = "tsctl daemon",
		.args = "[OPTIONS]",
		.summary =
		    "Keeps the forwards and syncs of this user. Other commands start it when "
		    "it is needed.",
		.opts = opts,
		.more =
		    "It ends with the last of them. Run it yourself to have it started with the "
		    "machine (systemd).\n",
	};
	int first = opt_parse(&command, argc, argv);
	if (first <= 0)
		return first == 0 ? 0 : FORWARD_USAGE;
	if (first < argc) {
		fprintf(stderr, "tsctl daemon: unexpected argument: %s\n", argv[first]);
		return FORWARD_USAGE;
	}
	log_set_program("tsctl");
	log_set_json(f.log_json);
	if (log_set_level(f.log_level) < 0)
		return forward_fail(FORWARD_USAGE,
				    "--log-level must be error, warn, info or debug");
	return run(&f);
}
