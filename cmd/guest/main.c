/* guest: options, listening, signals. */
#include <errno.h>
#include <unistd.h>

#include "cmd/guest/guest.h"
#include "cmd/guest/listeners.h"
#include "cmd/guest/worker.h"
#include "proto/sync/worker.h"
#include "proto/tstunnel/carrier.h"
#include "reactor/child.h"
#include "reactor/err.h"
#include "reactor/log.h"

enum { HANDSHAKE_MS = 10000, STREAM_GRACE_MS = 10000, CAS_MAX = 32 };

struct flags {
	const char *listen, *docker, *log_level, *cert, *key, *state_dir;
	struct opt_list cas;
	int port, max_children, max_conns;
	uint64_t grace_ms;
	bool insecure, no_exec, mtls, log_json, version;
};

static struct guest guest;
static struct flags flags = { .port = 8080,
			      .docker = "unix:///var/run/docker.sock",
			      .log_level = "info",
			      .max_children = 1000,
			      .max_conns = 20000,
			      .grace_ms = STREAM_GRACE_MS };

static const struct opt opts[] = {
	{ OPT_INT, "port", 'p', &flags.port, "PORT", "port to listen on (default 8080)", 1, 65535,
	  false },
	{ OPT_STRING, "listen", 0, &flags.listen, "HOST:PORT",
	  "address to listen on, instead of --port; also unix:///PATH", 0, 0, false },
	{ OPT_STRING, "docker", 0, &flags.docker, "URL",
	  "the engine: unix:///PATH or tcp://HOST:PORT (default unix:///var/run/docker.sock)", 0, 0,
	  false },
	{ OPT_HEADING, NULL, 0, NULL, NULL, "TLS (without it: loopback only)", 0, 0, false },
	{ OPT_STRING, "server-cert", 0, &flags.cert, "FILE", "certificate of this guest (PEM)", 0,
	  0, false },
	{ OPT_STRING, "server-key", 0, &flags.key, "FILE", "its private key (PEM)", 0, 0, false },
	{ OPT_LIST, "ca-certs", 0, &flags.cas, "FILE[,FILE]",
	  "CAs whose client certificates are accepted; with it clients must have one", 0, 0,
	  false },
	{ OPT_LIST, "allowed-cns", 0, &guest.policy.allowed_cns, "NAME[,NAME]",
	  "only clients with this common name or SPIFFE id", 0, 0, false },
	{ OPT_FLAG, "enable-mtls", 0, &flags.mtls, NULL,
	  "insist on client certificates (implied by --ca-certs)", 0, 0, false },
	{ OPT_FLAG, "insecure", 0, &flags.insecure, NULL,
	  "allow a listener that is not loopback without TLS or without client certificates", 0, 0,
	  false },
	{ OPT_HEADING, NULL, 0, NULL, NULL, "Policy", 0, 0, false },
	{ OPT_FLAG, "no-exec", 0, &flags.no_exec, NULL, "run no commands for clients", 0, 0,
	  false },
	{ OPT_LIST, "allow-tcp", 0, &guest.policy.allow_tcp, "HOST:PORTS",
	  "clients may dial only these (repeatable; PORTS is N, N-M or *)", 0, 0, false },
	{ OPT_LIST, "allow-udp", 0, &guest.policy.allow_udp, "HOST:PORTS",
	  "the same for datagrams (none once --allow-tcp is given)", 0, 0, false },
	{ OPT_LIST, "allow-unix", 0, &guest.policy.allow_unix, "PATH",
	  "clients may dial only these sockets (repeatable; none once something else is narrowed)",
	  0, 0, false },
	{ OPT_LIST, "allow-listen", 0, &guest.policy.allow_listen, "HOST:PORTS",
	  "clients may have this guest listen only there; also a socket's PATH (repeatable; "
	  "default: "
	  "loopback, nothing once something else is narrowed)",
	  0, 0, false },
	{ OPT_STRING, "sync-root", 0, &guest.policy.sync_root, "DIR",
	  "where files of containers are kept (default for root: /var/lib/tstunnel/sync); with "
	  "--no-exec the one directory that clients may write files to",
	  0, 0, false },
	{ OPT_STRING, "state-dir", 0, &flags.state_dir, "DIR",
	  "what is remembered of syncs (default for root: /var/lib/tstunnel, else "
	  "$XDG_STATE_HOME/tstunnel)",
	  0, 0, false },
	{ OPT_HEADING, NULL, 0, NULL, NULL, "Limits and logs", 0, 0, false },
	{ OPT_INT, "max-connections", 0, &flags.max_conns, "N",
	  "connections at once (default 20000)", 1, 1000000, false },
	{ OPT_INT, "max-children", 0, &flags.max_children, "N", "commands at once (default 1000)",
	  1, 100000, false },
	{ OPT_DURATION, "grace", 0, &flags.grace_ms, "TIME",
	  "after SIGTERM, how long streams may finish (default 10s)", 0, 0, false },
	{ OPT_STRING, "log-level", 0, &flags.log_level, "LEVEL",
	  "error, warn, info or debug (default info)", 0, 0, false },
	{ OPT_FLAG, "log-json", 0, &flags.log_json, NULL, "log lines as JSON", 0, 0, false },
	{ OPT_FLAG, "version", 0, &flags.version, NULL, "print the version", 0, 0, false },
	{ OPT_END, NULL, 0, NULL, NULL, NULL, 0, 0, false },
};

static const struct opt_command command = {
	.name = "guest",
	.args = "[OPTIONS]",
	.summary =
	    "The remote side of tstunnel, beside Docker: runs commands, copies files, dials ports.",
	.opts = opts,
	.more =
	    "Signals: SIGTERM lets streams finish, then ends; SIGHUP reads certificate, key and CA "
	    "again.\n",
};

static int fail(const char *text)
{
	fprintf(stderr, "Error: %s\n", text);
	return 1;
}

/* --ca-certs a,b: the parts, into the array that tls_options points at. */
static int split_cas(const char **out)
{
	size_t n = 0;
	for (size_t i = 0; i < flags.cas.n; i++) {
		struct slice rest = slice_str(flags.cas.v[i]), one;
		while (rest.n) {
			slice_cut(rest, ',', &one, &rest);
			if (one.n == 0)
				continue;
			if (n == CAS_MAX)
				return -E2BIG;
			out[n++] = xslicedup(one);
		}
	}
	return (int)n;
}

static int tls_setup(char *err, size_t errlen)
{
	static const char *cas[CAS_MAX];
	int n = split_cas(cas);
	if (n < 0) {
		snprintf(err, errlen, "--ca-certs: at most %d files", CAS_MAX);
		return n;
	}
	guest.tls_options = (struct tls_options){ .cert_file = flags.cert,
						  .key_file = flags.key,
						  .ca_files = cas,
						  .n_ca = (size_t)n,
						  .require_client_cert = n > 0 };
	if (!flags.cert && !flags.key) {
		if (n > 0 || flags.mtls || guest.policy.allowed_cns.n) {
			snprintf(
			    err, errlen,
			    "--ca-certs, --enable-mtls and --allowed-cns need --server-cert and "
			    "--server-key");
			return -EINVAL;
		}
		return 0;
	}
	if (!flags.cert || !flags.key) {
		snprintf(err, errlen, "--server-cert and --server-key must be given together");
		return -EINVAL;
	}
	if (n == 0 && (flags.mtls || guest.policy.allowed_cns.n)) {
		snprintf(err, errlen, "--enable-mtls and --allowed-cns need --ca-certs");
		return -EINVAL;
	}
	guest.tls = tls_config_new(&guest.tls_options, true, err, errlen);
	return guest.tls ? 0 : -EINVAL;
}

/* Whoever gets in can run commands as us: not from the network without a certificate. */
static int listen_check(const struct addr *a, char *err, size_t errlen)
{
	bool authenticated = guest.tls && guest.tls_options.require_client_cert;
	if (authenticated || flags.insecure || addr_is_loopback(a))
		return 0;
	snprintf(
	    err, errlen,
	    "%s without client certificates would let anybody on the network run commands here; "
	    "give --server-cert, --server-key and --ca-certs, or say --insecure",
	    addr_text(a));
	return -EPERM;
}

static int listen_address(struct addr *a, char *err, size_t errlen)
{
	if (flags.listen)
		return addr_parse_stream(a, slice_str(flags.listen), 0, err, errlen);
	bool open = flags.insecure || (guest.tls && guest.tls_options.require_client_cert);
	*a = (struct addr){ .kind = ADDR_TCP, .port = (uint16_t)flags.port };
	if (!open)
		snprintf(a->host, sizeof(a->host), "localhost");
	return 0;
}

static void on_accept(void *arg, int fd, const struct sockaddr *peer)
{
	struct guest *g = arg;
	carrier_tune(fd); /* it may become one, and under TLS it is out of reach */
	struct stream *s = fd_stream_new(g->rx, fd);
	if (g->tls) {
		s = tls_server(g->tls, s);
		tls_handshake_limit(s, g->handshake_ms);
	}
	int r = http_server_accept(&g->http, s, sockaddr_text(peer));
	if (r < 0)
		log_warn("connection-refused peer=%s reason=%s", sockaddr_text(peer),
			 log_quote(slice_str(err_text(r))));
}

static void reload(struct guest *g)
{
	char err[512];
	if (!g->tls)
		return;
	struct tls_config *fresh = tls_config_new(&g->tls_options, true, err, sizeof(err));
	if (!fresh) {
		log_error("reload kept=old reason=%s", log_quote(slice_str(err)));
		return;
	}
	tls_config_unref(g->tls);
	g->tls = fresh;
	log_info("reload done");
}

static void grace_over(struct timer *t)
{
	struct guest *g = container_of(t, struct guest, grace);
	log_warn("drain gave-up connections=%zu tunnels=%zu", g->http.nconns, g->tunnels);
	reactor_stop(g->rx, 0);
}

void guest_left(void *arg)
{
	struct guest *g = arg;
	if (g->draining && g->http.nconns == 0 && list_empty(&g->sessions) &&
	    g->policy.exec.children == 0)
		reactor_stop(g->rx, 0);
}

static void on_signal(void *arg, int signo)
{
	struct guest *g = arg;
	if (signo == SIGHUP) {
		reload(g);
		return;
	}
	if (g->draining) {
		reactor_stop(g->rx, 0); /* asked twice: now */
		return;
	}
	log_info("drain signal=%s", sigabbrev_np(signo));
	g->draining = true;
	listener_close(g->listener);
	g->listener = NULL;
	timer_set(g->rx, &g->grace, g->grace_ms);
	http_server_drain(&g->http);
	listeners_end_all(g);
	syncs_end_all(g);
	sessions_goaway(g);
}

static int run(struct guest *g, const struct addr *a)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP, 0 };
	int err;
	g->http = (struct http_server){ .rx = g->rx,
					.arg = g,
					.handle = guest_handle,
					.preface = guest_preface,
					.done = guest_done,
					.broken = guest_broken,
					.empty = guest_left,
					.conns_max = (size_t)flags.max_conns };
	http_server_init(&g->http);
	routes_init(g);
	timer_init(&g->grace, grace_over);
	signals_open(&g->signals, g->rx, signals, on_signal, g);
	g->listener = listener_new(g->rx, a, on_accept, g, &err);
	if (!g->listener) {
		fprintf(stderr, "Error: cannot listen on %s: %s%s\n", addr_text(a), err_text(err),
			err == -EADDRINUSE ? "; is another guest running? (--port chooses another)"
					   : "");
		return 1;
	}
	struct addr bound = *a;
	if (a->kind == ADDR_TCP)
		bound.port = listener_port(g->listener);
	log_info("listening addr=%s tls=%s docker=%s version=%s", addr_text(&bound),
		 !g->tls                              ? "off"
		 : g->tls_options.require_client_cert ? "mutual"
						      : "server",
		 addr_text(&g->docker), TSTUNNEL_VERSION);
	syncs_make_dirs(g);
	int code = reactor_run(g->rx);
	listeners_end_all(g);
	syncs_end_all(g);
	sessions_abort(g);
	http_server_abort(&g->http);
	listener_close(g->listener);
	child_kill_lingering();
	stream_linger_end();
	log_info("stopped");
	return code;
}

int main(int argc, char **argv)
{
	struct guest *g = &guest;
	char err[1024];
	if (argc > 1 && strcmp(argv[1], WORKER_NAME) == 0)
		return worker_main(argc, argv);
	if (argc > 1 && strcmp(argv[1], LISTENERS_NAME) == 0)
		return listeners_main(argc, argv);
	if (argc > 1 && strcmp(argv[1], SYNC_WORKER_NAME) == 0)
		return syncs_worker_main(argc - 2, argv + 2);
	int first = opt_parse(&command, argc, argv);
	if (first <= 0)
		return first == 0 ? 0 : 2;
	if (flags.version) {
		puts("guest " TSTUNNEL_VERSION);
		return 0;
	}
	if (first < argc) {
		fprintf(stderr, "guest: unexpected argument: %s\nSee 'guest --help'.\n",
			argv[first]);
		return 2;
	}
	log_set_program("guest");
	log_set_json(flags.log_json);
	struct addr a;
	if (log_set_level(flags.log_level) < 0)
		return fail("--log-level must be error, warn, info or debug");
	g->policy.exec.allowed = !flags.no_exec;
	g->policy.exec.left = guest_left;
	g->policy.exec.arg = g;
	g->policy.exec.max_children = (unsigned)flags.max_children;
	g->grace_ms = flags.grace_ms;
	g->handshake_ms = HANDSHAKE_MS;
	list_init(&g->sessions);
	list_init(&g->watchers);
	if (addr_parse_stream(&g->docker, slice_str(flags.docker), 2375, err, sizeof(err)) < 0 ||
	    policy_check(&g->policy, err, sizeof(err)) < 0 ||
	    syncs_init(g, flags.state_dir, err, sizeof(err)) < 0 ||
	    tls_setup(err, sizeof(err)) < 0 || listen_address(&a, err, sizeof(err)) < 0 ||
	    listen_check(&a, err, sizeof(err)) < 0)
		return fail(err);
	g->plain_host_check = !g->tls && a.kind == ADDR_TCP && addr_is_loopback(&a);
	g->rx = reactor_new();
	int code = run(g, &a);
	tls_config_unref(g->tls);
	free(g->sync_root);
	free(g->state_dir);
	return code;
}
