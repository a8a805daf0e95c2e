/* tsctl start: the Docker API here, served by the engine there. */
#include <errno.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cmd/tsctl/cmd.h"
#include "cmd/tsctl/control.h"
#include "cmd/tsctl/publish.h"
#include "cmd/tsctl/state_file.h"
#include "http/proxy.h"
#include "proto/docker/docker.h"
#include "proto/tstunnel/tunnel.h"
#include "proto/tstunnel/version.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "reactor/opt.h"
#include "reactor/signals.h"

enum { GRACE_MS = 10000 };

struct flags {
	const char *listen, *server, *cert, *key, *ca, *remote_docker, *log_level;
	const char *publish_address, *publish_remote, *sync_owner;
	struct opt_list allow_hosts;
	uint64_t connect_ms, handshake_ms, keepalive_ms, grace_ms;
	bool ts_insecure, insecure, detach, retry, log_json, no_publish, no_sync, no_fence;
};

/* How the proxy reaches the engine: one per class of traffic. */
struct engine {
	struct start *st;
	enum tunnel_class class;
	struct http_upstream upstream;
};

struct start {
	struct flags flags;
	struct reactor *rx;
	struct addr listen, server;
	struct tunnel_options tunnel_options;
	struct tunnel *tunnel;
	struct instance instance;
	struct control control;
	struct http_server http;
	struct sync_set syncs;
	struct sync_api sync_api;
	struct binds *binds; /* --no-sync: NULL */
	struct publish *publish;
	struct listener *listener;
	struct signals signals;
	struct timer grace;
	struct engine engines[TUNNEL_CLASSES];
	struct buf open_json; /* what opens a stream to the engine */
	char state_dir[4096]; /* of the syncs */
	struct task probe_task;
	struct stream *probe; /* the first stream: is the guest there? */
	int ready_fd;         /* --detach: tells the parent; -1: none */
	uint64_t started_ms;
	bool draining, ports_drained;
};

static int fail(const char *text)
{
	fprintf(stderr, "Error: %s\n", text);
	return 1;
}

/* --- the proxy --- */

static struct stream *engine_dial(void *arg)
{
	struct engine *e = arg;
	return tunnel_open(e->st->tunnel, buf_data(&e->st->open_json), e->class);
}

static struct stream *engine_relayed(void *arg, const struct http_head *request, struct stream *up)
{
	struct engine *e = arg;
	return e->st->binds ? binds_relayed(e->st->binds, request, up) : up;
}

static void on_request(struct http_conn *c, struct http_head *head, void *arg)
{
	struct start *st = arg;
	char why[512];
	struct docker_guard guard = { .check_host = true,
				      .hosts = &st->flags.allow_hosts,
				      .help = "--allow-host NAME would add it" };
	int status =
	    st->listen.kind == ADDR_UNIX ? 0 : docker_guard_check(&guard, head, why, sizeof(why));
	if (status) {
		http_reply_error(c, status, why);
		return;
	}
	if (publish_handle(st->publish, c, head))
		return;
	enum tunnel_class class = docker_is_bulk(head) ? TUNNEL_BULK : TUNNEL_INTERACTIVE;
	http_proxy(c, head, NULL, 0, &st->engines[class].upstream);
}

static void on_preface(struct http_conn *c, void *arg)
{
	struct start *st = arg;
	http_relay(c, 0, NULL, 0, engine_dial(&st->engines[TUNNEL_INTERACTIVE]));
}

static void on_done(const struct http_access *a, void *arg)
{
	(void)arg;
	log_debug("request method=%s path=%s status=%d in=%llu out=%llu ms=%llu%s%s", a->method,
		  log_quote(slice_str(a->path)), a->status, (unsigned long long)a->in,
		  (unsigned long long)a->out, (unsigned long long)a->ms, a->code ? " error=" : "",
		  a->code ? log_quote(slice_str(err_text(a->code))) : "");
}

static void on_accept(void *arg, int fd, const struct sockaddr *peer)
{
	struct start *st = arg;
	http_server_accept(&st->http, fd_stream_new(st->rx, fd), sockaddr_text(peer));
}

/* --- the end --- */

static void on_tunnel_drained(void *arg)
{
	struct start *st = arg;
	reactor_stop(st->rx, 0);
}

/* The last connection is over, but its bytes may still be on their way to the guest. */
static void on_empty(void *arg)
{
	struct start *st = arg;
	if (!st->draining || !st->ports_drained || st->http.nconns > 0)
		return;
	binds_free(st->binds); /* their streams would be waited for */
	st->binds = NULL;
	tunnel_drain(st->tunnel, on_tunnel_drained, st);
}

static void on_ports_drained(void *arg)
{
	struct start *st = arg;
	st->ports_drained = true;
	on_empty(st);
}

static void grace_over(struct timer *t)
{
	struct start *st = container_of(t, struct start, grace);
	log_warn("drain gave-up connections=%zu", st->http.nconns);
	reactor_stop(st->rx, 0);
}

static void drain(void *arg)
{
	struct start *st = arg;
	if (st->draining || st->probe) { /* asked twice, or nobody is served yet */
		reactor_stop(st->rx, 0);
		return;
	}
	st->draining = true;
	listener_close(st->listener);
	st->listener = NULL;
	timer_set(st->rx, &st->grace, st->flags.grace_ms);
	publish_drain(st->publish, on_ports_drained, st);
	if (st->http.nconns > 0)
		http_server_drain(&st->http);
}

static void on_goaway(void *arg)
{
	struct start *st = arg;
	publish_reconnect(st->publish);
	sync_set_tunnel_goaway(&st->syncs);
}

static void on_tunnel_changed(void *arg)
{
	struct start *st = arg;
	sync_set_tunnel_changed(&st->syncs);
	if (st->binds)
		binds_tunnel_changed(st->binds);
}

/* --- control, signals --- */

static void on_signal(void *arg, int signo)
{
	struct start *st = arg;
	char err[512];
	if (signo != SIGHUP)
		drain(st);
	else if (tunnel_reload(st->tunnel, err, sizeof(err)) < 0)
		log_error("reload kept=old reason=%s", log_quote(slice_str(err)));
	else
		log_info("reload done");
}

static void status_json(void *arg, struct json_writer *w)
{
	struct start *st = arg;
	struct tunnel_status t;
	tunnel_status(st->tunnel, &t);
	json_put_object(w);
	json_put_name(w, "listen");
	json_put_str(w, slice_str(addr_text(&st->listen)));
	json_put_name(w, "server");
	json_put_str(w, slice_str(t.server));
	json_put_name(w, "pid");
	json_put_i64(w, getpid());
	json_put_name(w, "version");
	json_put_str(w, SLICE(TSTUNNEL_VERSION));
	json_put_name(w, "up");
	json_put_bool(w, t.up);
	json_put_name(w, "last_error");
	json_put_str(w, slice_str(t.last_error));
	const struct {
		const char *name;
		uint64_t value;
	} numbers[] = {
		{ "uptime_ms", reactor_now(st->rx) - st->started_ms },
		{ "rtt_us", t.rtt_us },
		{ "carriers", t.carriers },
		{ "connections", st->http.nconns },
		{ "streams", t.streams },
		{ "streams_total", t.streams_total },
		{ "bytes_in", t.bytes_in },
		{ "bytes_out", t.bytes_out },
		{ "redials", t.redials },
	};
	for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
		json_put_name(w, numbers[i].name);
		json_put_u64(w, numbers[i].value);
	}
	json_put_name(w, "ports");
	publish_status(st->publish, w);
	json_put_name(w, "syncs");
	sync_set_put(&st->syncs, w);
	json_put_end(w);
}

/* --- starting --- */

/* From now on the log is the daemon's own file and nobody's terminal or pipe is held. */
static int let_go_of_parent(struct start *st)
{
	char err[512];
	if (instance_log_stdio(&st->instance, err, sizeof(err)) < 0) {
		fail(err);
		return -1;
	}
	ssize_t n = write(st->ready_fd, "", 1);
	close(st->ready_fd);
	st->ready_fd = -1;
	return n == 1 ? 0 : -1;
}

/* Only now, so that whoever can connect is served. */
static int listen_here(struct start *st)
{
	char text[512];
	int e;
	st->listener = listener_new(st->rx, &st->listen, on_accept, st, &e);
	if (st->listener)
		return 0;
	snprintf(text, sizeof(text), "cannot listen on %s: %s%s", addr_text(&st->listen),
		 err_text(e), e == -EADDRINUSE ? "; --listen chooses another address" : "");
	reactor_stop(st->rx, fail(text));
	return e;
}

/* Everything is in place: say so and serve. */
static void ready(struct start *st)
{
	stream_close(st->probe, 0);
	st->probe = NULL;
	task_cancel(&st->probe_task);
	if (listen_here(st) < 0)
		return;
	log_set_level(st->flags.log_level);
	if (st->ready_fd != -1 && let_go_of_parent(st) < 0) {
		reactor_stop(st->rx, 1);
		return;
	}
	log_info("listening addr=%s server=%s version=%s", addr_text(&st->listen),
		 addr_text(&st->server), TSTUNNEL_VERSION);
	publish_start(st->publish);
	const char *scheme = st->listen.kind == ADDR_UNIX ? "" : "tcp://";
	if (isatty(2))
		fprintf(stderr, "export DOCKER_HOST=%s%s\n", scheme, addr_text(&st->listen));
}

static void probe_run(struct task *t)
{
	struct start *st = container_of(t, struct start, probe_task);
	struct tunnel_status status;
	int r = stream_open_yet(st->probe);
	if (r == -EAGAIN)
		return;
	tunnel_status(st->tunnel, &status);
	if (r < 0 && !status.up) {
		char text[1024];
		tunnel_advice(r, stream_why(st->probe, r), "ts-", &st->tunnel_options, text,
			      sizeof(text));
		reactor_stop(st->rx, fail(text));
		return;
	}
	char *warning = r < 0 ? xstrdup(stream_why(st->probe, r)) : NULL;
	ready(st);
	if (warning)
		log_warn("engine unreachable on the guest reason=%s",
			 log_quote(slice_str(warning)));
	free(warning);
}

static void probe(struct start *st)
{
	task_init(&st->probe_task, probe_run);
	if (st->flags.retry) {
		ready(st);
		return;
	}
	st->probe = engine_dial(&st->engines[TUNNEL_INTERACTIVE]);
	stream_bind(st->probe, &st->probe_task);
}

static int open_binds(struct start *st, char *err, size_t errlen)
{
	if (st->flags.no_sync)
		return 0;
	int r = state_path(st->state_dir, sizeof(st->state_dir), "sync", true, err, errlen);
	if (r == 0)
		st->binds = binds_new(
		    &(struct binds_options){ .rx = st->rx,
					     .tunnel = st->tunnel,
					     .engine = &st->engines[TUNNEL_INTERACTIVE].upstream,
					     .set = &st->syncs,
					     .server = addr_text(&st->server),
					     .owner = st->flags.sync_owner,
					     .state_dir = st->state_dir,
					     .fence = !st->flags.no_fence });
	return r;
}

static int open_all(struct start *st, char *err, size_t errlen)
{
	st->tunnel = tunnel_new(st->rx, &st->tunnel_options, err, errlen);
	if (!st->tunnel)
		return -EINVAL;
	if (open_binds(st, err, errlen) < 0)
		return -EINVAL;
	st->publish = publish_new(
	    &(struct publish_options){ .rx = st->rx,
				       .tunnel = st->tunnel,
				       .engine = &st->engines[TUNNEL_INTERACTIVE].upstream,
				       .address = st->flags.publish_address,
				       .follow = !st->flags.no_publish,
				       .remote_loopback = st->flags.publish_remote != NULL,
				       .binds = st->binds });
	if (instance_init(&st->instance, &st->listen, err, errlen) < 0 ||
	    instance_lock(&st->instance, &st->listen, err, errlen) < 0)
		return -EINVAL;
	st->control.status = status_json;
	st->control.stop = drain;
	st->control.arg = st;
	st->control.syncs = &st->sync_api;
	return control_open(&st->control, st->rx, &st->instance, err, errlen);
}

static void close_all(struct start *st)
{
	task_cancel(&st->probe_task);
	stream_close(st->probe, 0);
	control_close(&st->control);
	http_server_abort(&st->http);
	listener_close(st->listener);
	publish_free(st->publish);
	sync_api_end(&st->sync_api);
	binds_free(st->binds);
	tunnel_free(st->tunnel);
	instance_unlock(&st->instance);
	buf_end(&st->open_json);
}

static int serve(struct start *st)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP, 0 };
	char err[1024];
	log_set_level("error"); /* until ready, what goes wrong is one line of ours */
	st->rx = reactor_new();
	st->started_ms = reactor_now(st->rx);
	st->http = (struct http_server){ .rx = st->rx,
					 .arg = st,
					 .handle = on_request,
					 .preface = on_preface,
					 .done = on_done,
					 .empty = on_empty };
	http_server_init(&st->http);
	sync_set_init(&st->syncs, st->rx);
	st->sync_api = (struct sync_api){ .set = &st->syncs, .rx = st->rx };
	sync_api_init(&st->sync_api);
	timer_init(&st->grace, grace_over);
	task_init(&st->probe_task, probe_run);
	for (int c = 0; c < TUNNEL_CLASSES; c++) {
		struct engine *e = &st->engines[c];
		*e = (struct engine){ .st = st, .class = (enum tunnel_class)c };
		e->upstream = (struct http_upstream){ .dial = engine_dial,
						      .hijack = docker_is_hijack,
						      .relayed = engine_relayed,
						      .arg = e };
	}
	signals_open(&st->signals, st->rx, signals, on_signal, st);
	int code;
	if (open_all(st, err, sizeof(err)) < 0) {
		code = fail(err);
	} else {
		probe(st);
		code = reactor_run(st->rx);
	}
	close_all(st);
	signals_close(&st->signals);
	stream_linger_end();
	reactor_free(st->rx);
	return code;
}

/* Returns in the child; the parent exits when the child serves or has failed. */
static int detach(struct start *st)
{
	int fd[2];
	if (pipe2(fd, O_CLOEXEC) == -1)
		return fail(strerror(errno));
	pid_t pid = fork();
	if (pid == -1)
		return fail(strerror(errno));
	if (pid == 0) {
		close(fd[0]);
		setsid();
		st->ready_fd = fd[1];
		return 0;
	}
	close(fd[1]);
	char byte;
	if (read(fd[0], &byte, 1) == 1)
		exit(0);
	int status = 1;
	waitpid(pid, &status, 0);
	exit(WIFEXITED(status) && WEXITSTATUS(status) ? WEXITSTATUS(status) : 1);
}

static int check(struct start *st, char *err, size_t errlen)
{
	const struct flags *f = &st->flags;
	struct addr docker;
	if (!f->server) {
		snprintf(err, errlen,
			 "--ts-server HOST:PORT is missing: where does the guest listen?");
		return -EINVAL;
	}
	if (!f->cert != !f->key) {
		snprintf(err, errlen, "--ts-cert and --ts-key must be given together");
		return -EINVAL;
	}
	uint16_t port = f->cert ? 443 : 80;
	if (addr_parse_stream(&st->server, slice_str(f->server), port, err, errlen) < 0 ||
	    addr_parse_stream(&st->listen, slice_str(f->listen), 0, err, errlen) < 0)
		return -EINVAL;
	instance_default_host(&st->listen);
	if (!addr_is_loopback(&st->listen) && !f->insecure) {
		snprintf(
		    err, errlen,
		    "--listen %s would give Docker, and with it root on the remote host, to "
		    "everybody who reaches that address; listen on 127.0.0.1, or say --insecure",
		    f->listen);
		return -EPERM;
	}
	if (f->publish_remote && strcmp(f->publish_remote, "loopback") != 0) {
		snprintf(err, errlen, "--publish-remote takes only \"loopback\"");
		return -EINVAL;
	}
	if (f->sync_owner && binds_owner_check(f->sync_owner) < 0) {
		snprintf(err, errlen,
			 "--sync-owner %s: must be 1 to 128 letters, digits, '.', '_', '@' or '-'",
			 f->sync_owner);
		return -EINVAL;
	}
	if (f->publish_address && publish_address_check(f->publish_address) < 0) {
		snprintf(err, errlen, "--publish-address %s: must be an IP address",
			 f->publish_address);
		return -EINVAL;
	}
	if (!f->remote_docker) {
		buf_puts(&st->open_json, "{\"kind\":\"docker\"}");
	} else if (addr_parse_stream(&docker, slice_str(f->remote_docker), 2375, err, errlen) < 0) {
		return -EINVAL;
	} else {
		struct json_writer w;
		json_writer_begin(&w, &st->open_json);
		json_put_object(&w);
		json_put_name(&w, "kind");
		json_put_str(&w, SLICE("docker"));
		json_put_name(&w, "address");
		json_put_str(&w, slice_str(addr_text(&docker)));
		json_put_end(&w);
		json_writer_end(&w);
	}
	st->tunnel_options = (struct tunnel_options){ .server = st->server,
						      .cert_file = f->cert,
						      .key_file = f->key,
						      .ca_file = f->ca,
						      .insecure = f->ts_insecure,
						      .connect_ms = f->connect_ms,
						      .handshake_ms = f->handshake_ms,
						      .keepalive_ms = f->keepalive_ms,
						      .program = "tsctl/" TSTUNNEL_VERSION,
						      .keep_up = true,
						      .goaway = on_goaway,
						      .changed = on_tunnel_changed,
						      .arg = st };
	return 0;
}

int cmd_start(int argc, char **argv)
{
	static struct start st = { .ready_fd = -1,
				   .instance = { .lock = -1 },
				   .flags = { .listen = "127.0.0.1:2375",
					      .log_level = "info",
					      .connect_ms = 10000,
					      .handshake_ms = 10000,
					      .keepalive_ms = 4000,
					      .grace_ms = GRACE_MS } };
	struct flags *f = &st.flags;
	const struct opt opts[] = {
		{ OPT_STRING, "listen", 0, &f->listen, "ADDR",
		  "where the Docker API is served: HOST:PORT, :PORT (loopback) or unix:///PATH "
		  "(default 127.0.0.1:2375)",
		  0, 0, false },
		{ OPT_STRING, "ts-server", 0, &f->server, "HOST[:PORT]",
		  "the guest (default port 443 with a certificate, else 80)", 0, 0, false },
		{ OPT_STRING, "remote-docker", 0, &f->remote_docker, "URL",
		  "the engine as the guest reaches it (default: the guest's own)", 0, 0, false },
		{ OPT_HEADING, NULL, 0, NULL, NULL, "Published ports", 0, 0, false },
		{ OPT_FLAG, "no-publish", 0, &f->no_publish, NULL,
		  "do not answer the ports of containers on this machine", 0, 0, false },
		{ OPT_STRING, "publish-address", 0, &f->publish_address, "IP",
		  "where ports that are published on any address are bound here, 0.0.0.0 for all "
		  "(default: 127.0.0.1 and ::1)",
		  0, 0, false },
		{ OPT_STRING, "publish-remote", 0, &f->publish_remote, "loopback",
		  "publish on the remote host's loopback only, not on its network", 0, 0, false },
		{ OPT_HEADING, NULL, 0, NULL, NULL, "Bind mounts", 0, 0, false },
		{ OPT_FLAG, "no-sync", 0, &f->no_sync, NULL,
		  "bind sources are paths of the remote host, not of this machine", 0, 0, false },
		{ OPT_FLAG, "no-fence", 0, &f->no_fence, NULL,
		  "containers start before their files are there, and end before they are back", 0,
		  0, false },
		{ OPT_STRING, "sync-owner", 0, &f->sync_owner, "NAME",
		  "the directory on the remote host that the files are kept in (default: of this "
		  "user and machine)",
		  0, 0, false },
		{ OPT_HEADING, NULL, 0, NULL, NULL, "TLS (without these: plain HTTP)", 0, 0,
		  false },
		{ OPT_STRING, "ts-cert", 0, &f->cert, "FILE", "client certificate (PEM)", 0, 0,
		  false },
		{ OPT_STRING, "ts-key", 0, &f->key, "FILE", "its private key (PEM)", 0, 0, false },
		{ OPT_STRING, "ts-ca", 0, &f->ca, "FILE",
		  "CA that signed the guest's certificate (default: the system's)", 0, 0, false },
		{ OPT_FLAG, "ts-insecure", 0, &f->ts_insecure, NULL,
		  "do not verify the guest's certificate (development only)", 0, 0, false },
		{ OPT_HEADING, NULL, 0, NULL, NULL, "Time", 0, 0, false },
		{ OPT_DURATION, "connect-timeout", 0, &f->connect_ms, "TIME",
		  "for the TCP connection (default 10s)", 0, 0, false },
		{ OPT_DURATION, "handshake-timeout", 0, &f->handshake_ms, "TIME",
		  "for TLS and the tunnel's handshake (default 10s)", 0, 0, false },
		{ OPT_DURATION, "keepalive", 0, &f->keepalive_ms, "TIME",
		  "a silent guest is asked after this long, given up after twice as long (default "
		  "4s)",
		  0, 0, false },
		{ OPT_DURATION, "grace", 0, &f->grace_ms, "TIME",
		  "after SIGTERM, how long requests may finish (default 10s)", 0, 0, false },
		{ OPT_HEADING, NULL, 0, NULL, NULL, "Running", 0, 0, false },
		{ OPT_FLAG, "detach", 'd', &f->detach, NULL, "go to the background once it serves",
		  0, 0, false },
		{ OPT_FLAG, "retry", 0, &f->retry, NULL,
		  "start even if the guest cannot be reached yet", 0, 0, false },
		{ OPT_LIST, "allow-host", 0, &f->allow_hosts, "NAME",
		  "also serve requests for this Host; '*' for any, and for web pages (repeatable)",
		  0, 0, false },
		{ OPT_FLAG, "insecure", 0, &f->insecure, NULL,
		  "allow --listen on an address that is not loopback", 0, 0, false },
		{ OPT_STRING, "log-level", 0, &f->log_level, "LEVEL",
		  "error, warn, info or debug (default info)", 0, 0, false },
		{ OPT_FLAG, "log-json", 0, &f->log_json, NULL, "log lines as JSON", 0, 0, false },
		{ OPT_END, NULL, 0, NULL, NULL, NULL, 0, 0, false },
	};
	const struct opt_command command = {
		.name = "tsctl start",
		.args = "--ts-server HOST[:PORT] [OPTIONS]",
		.summary = "Serves the Docker API of a remote engine on this machine.",
		.opts = opts,
		.more = "Example:\n"
			"  tsctl start --ts-server containers.tinyscale.net:443 --ts-cert "
			"client.crt \\\n"
			"      --ts-key client.key --ts-ca ca.crt\n"
			"  export DOCKER_HOST=tcp://127.0.0.1:2375\n"
			"  docker info\n",
	};
	int first = opt_parse(&command, argc, argv);
	if (first <= 0)
		return first == 0 ? 0 : 2;
	if (first < argc) {
		fprintf(stderr, "tsctl start: unexpected argument: %s\nSee 'tsctl start --help'.\n",
			argv[first]);
		return 2;
	}
	char err[1024];
	buf_init(&st.open_json, 4096);
	log_set_program("tsctl");
	log_set_json(f->log_json);
	if (log_set_level(f->log_level) < 0)
		return fail("--log-level must be error, warn, info or debug");
	if (check(&st, err, sizeof(err)) < 0)
		return fail(err);
	if (f->ts_insecure)
		fprintf(stderr,
			"Warning: --ts-insecure: the guest's certificate is not verified\n");
	if (f->detach) {
		int code = detach(&st);
		if (code)
			return code;
	}
	int code = serve(&st);
	opt_list_free(&f->allow_hosts);
	return code;
}
