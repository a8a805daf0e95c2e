/* pico-apiserver: options, backend, listening, signals. */
#include <errno.h>
#include <unistd.h>

#include "cmd/pico-apiserver/api.h"
#include "cmd/pico-apiserver/sandbox_init.h"
#include "proto/ssh/key.h"
#include "reactor/child.h"
#include "reactor/crypto.h"
#include "reactor/crypto_cipher.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "reactor/opt.h"

enum { GRACE_MS = 10000, HANDSHAKE_MS = 10000, REQUEST_MS = 60000, CONNS_MAX = 20000 };

struct flags {
	const char *listen, *backend, *cert, *key, *log_level, *state_dir, *memory;
	struct auth_options auth;
	int port, ssh_port, max_sessions, max_per_user, max_conns, pids, cpus, ttl_min;
	uint64_t ready_ms, grace_ms, request_ms;
	bool tls, log_json, version;
};

static struct server server;
static struct backend_options *const bo = &server.backend_options;
static struct flags flags = {
	.port = 8080,
	.ssh_port = 22,
	.backend = "auto",
	.log_level = "info",
	.memory = "1g",
	.pids = 512,
	.max_sessions = 1000,
	.max_per_user = 100,
	.max_conns = CONNS_MAX,
	.ttl_min = SANDBOX_TTL_MIN,
	.ready_ms = 60000,
	.grace_ms = GRACE_MS,
	.request_ms = REQUEST_MS,
};

#define TEXT(name, to, arg, help)                                                                  \
	{                                                                                          \
		OPT_STRING, name, 0, to, arg, help, 0, 0, false                                    \
	}
#define NUMBER(name, to, help, min, max)                                                           \
	{                                                                                          \
		OPT_INT, name, 0, to, "N", help, min, max, false                                   \
	}
#define HEADING(text)                                                                              \
	{                                                                                          \
		OPT_HEADING, NULL, 0, NULL, NULL, text, 0, 0, false                                \
	}

static const struct opt opts[] = {
	{ OPT_INT, "port", 'p', &flags.port, "PORT", "port to listen on (default 8080)", 0, 65535,
	  false },
	TEXT(
	    "listen", &flags.listen, "HOST:PORT",
	    "address to listen on, instead of --port; also unix:///PATH (default: all with tokens, "
	    "else loopback)"),
	TEXT("backend", &flags.backend, "NAME",
	     "auto, process, docker, kubernetes or address (default auto)"),
	TEXT("state-dir", &flags.state_dir, "DIR",
	     "where sessions are kept; given, sandboxes live on when the server ends (default "
	     "/run/pico-apiserver/PORT)"),
	HEADING("Sandboxes"),
	TEXT("sandbox-image", &bo->image, "IMAGE",
	     "image if none is asked for (default "
	     "sandbox:latest)"),
	TEXT("ssh-username", &bo->ssh_username, "NAME", "login name (default sandbox)"),
	NUMBER("ssh-port", &flags.ssh_port, "port of its sshd (default 22)", 1, 65535),
	TEXT("namespace", &bo->namespace_, "NAME", "kubernetes: namespace (default: default)"),
	TEXT("kubeconfig", &bo->kubeconfig, "FILE",
	     "kubernetes: how to reach the cluster (default: $KUBECONFIG, ~/.kube/config, else the "
	     "pod's account)"),
	TEXT("runtime-class-name", &bo->runtime_class, "NAME", "kubernetes: runtimeClassName"),
	TEXT("docker", &bo->docker_host, "URL",
	     "docker: the engine (default: $DOCKER_HOST, unix:///var/run/docker.sock)"),
	TEXT("sandbox-address", &bo->address, "HOST:PORT", "address: the sshd"),
	TEXT("sandbox-memory", &flags.memory, "SIZE", "memory of each, 0: any (default 1g)"),
	NUMBER("sandbox-pids", &flags.pids, "processes of each, 0: any (default 512)", 0, 1000000),
	NUMBER("sandbox-cpu", &flags.cpus, "thousandths of a core of each, 0: any (default 0)", 0,
	       1000000),
	HEADING("TLS"),
	{ OPT_FLAG, "enable-tls", 0, &flags.tls, NULL, "serve https", 0, 0, false },
	TEXT("tls-cert", &flags.cert, "FILE", "certificate (PEM)"),
	TEXT("tls-key", &flags.key, "FILE", "its private key (PEM)"),
	HEADING("Tokens (without: anybody who gets here is served)"),
	TEXT("jwt-secret", &flags.auth.secret, "TEXT",
	     "HS256 secret; seen by ps for a moment, better:"),
	TEXT("jwt-secret-file", &flags.auth.secret_file, "FILE", "HS256 secret"),
	TEXT("jwt-public-key", &flags.auth.public_key_file, "FILE",
	     "RS256, ES256 or EdDSA public key (PEM)"),
	TEXT("jwt-audience", &flags.auth.audience, "TEXT", "tokens must have this aud"),
	TEXT("jwt-issuer", &flags.auth.issuer, "TEXT", "tokens must have this iss"),
	HEADING("Limits and logs"),
	NUMBER("max-sessions", &flags.max_sessions, "sessions at once (default 1000)", 1, 100000),
	NUMBER("max-sessions-per-user", &flags.max_per_user, "of one owner (default 100)", 1,
	       100000),
	NUMBER("max-connections", &flags.max_conns, "connections, and tunnels (default 20000)", 1,
	       1000000),
	{ OPT_DURATION, "ready-timeout", 0, &flags.ready_ms, "TIME",
	  "how long a sandbox may take to get ready (default 60s)", 0, 0, false },
	{ OPT_DURATION, "request-timeout", 0, &flags.request_ms, "TIME",
	  "for a request's head, and for each pause in its body (default 60s)", 0, 0, false },
	{ OPT_DURATION, "grace", 0, &flags.grace_ms, "TIME",
	  "after SIGTERM, how long requests may finish (default 10s)", 0, 0, false },
	{ OPT_INT, "min-ttl", 0, &flags.ttl_min, "N", "smallest ttl (tests)", 1, 28800, true },
	TEXT("log-level", &flags.log_level, "LEVEL", "error, warn, info or debug (default info)"),
	{ OPT_FLAG, "log-json", 0, &flags.log_json, NULL, "log lines as JSON", 0, 0, false },
	{ OPT_FLAG, "version", 0, &flags.version, NULL, "print the version", 0, 0, false },
	{ OPT_END, NULL, 0, NULL, NULL, NULL, 0, 0, false },
};

static const struct opt_command command = {
	.name = "pico-apiserver",
	.args = "[OPTIONS]",
	.summary = "Sandboxes behind an HTTP API; each is reached by SSH through a CONNECT tunnel.",
	.opts = opts,
	.more = "Signals: SIGTERM and SIGINT end it, SIGHUP reads certificate and keys again.\n"
		"The API: docs/sandboxes.md.\n",
};

static int fail(const char *text)
{
	fprintf(stderr, "Error: %s\n", text);
	return 1;
}

/* "512m", "1g", bytes. */
static int parse_size(const char *text, uint64_t *out)
{
	static const char units[] = "kmg";
	struct slice s = slice_str(text);
	unsigned shift = 0;
	const char *unit = s.n ? strchr(units, s.p[s.n - 1] | 0x20) : NULL;
	if (unit && *unit) {
		shift = 10 * (unsigned)(unit - units + 1);
		s.n--;
	}
	if (slice_u64(s, UINT64_MAX >> shift, out) < 0)
		return -EINVAL;
	*out <<= shift;
	return 0;
}

static int listen_address(struct addr *a, char *err, size_t errlen)
{
	if (flags.listen)
		return addr_parse_stream(a, slice_str(flags.listen), 8080, err, errlen);
	*a = (struct addr){ .kind = ADDR_TCP, .port = (uint16_t)flags.port };
	if (!server.auth.key)
		snprintf(a->host, sizeof(a->host), "localhost");
	return 0;
}

static int tls_setup(char *err, size_t errlen)
{
	server.tls_options = (struct tls_options){ .cert_file = flags.cert, .key_file = flags.key };
	if (!flags.tls && !flags.cert && !flags.key)
		return 0;
	if (!flags.tls || !flags.cert || !flags.key) {
		snprintf(err, errlen,
			 "--enable-tls, --tls-cert and --tls-key must be given together");
		return -EINVAL;
	}
	server.tls = tls_config_new(&server.tls_options, true, err, errlen);
	return server.tls ? 0 : -EINVAL;
}

/* A name for us that is the same at the next start. */
static const char *server_name(const char *state_dir)
{
	static char text[17];
	struct sha256 h;
	uint8_t sum[32];
	sha256_init(&h);
	sha256_add(&h, slice_str(state_dir));
	sha256_end(&h, sum);
	for (size_t i = 0; i < 8; i++)
		snprintf(text + 2 * i, 3, "%02x", sum[i]);
	return text;
}

static int backend_setup(char *err, size_t errlen)
{
	static const struct {
		const char *name;
		struct backend *(*make)(struct reactor *, const struct backend_options *, char *,
					size_t);
	} all[] = {
		{ "process", backend_process_new },
		{ "docker", backend_docker_new },
		{ "kubernetes", backend_kubernetes_new },
		{ "address", backend_address_new },
	};
	const char *name = flags.backend;
	bo->ssh_username = bo->ssh_username ? bo->ssh_username : "sandbox";
	bo->image = bo->image ? bo->image : "sandbox:latest";
	bo->ssh_port = (uint16_t)flags.ssh_port;
	bo->state_dir = flags.state_dir;
	bo->server = server_name(flags.state_dir);
	bo->pids = (unsigned)flags.pids;
	bo->cpu_millis = (unsigned)flags.cpus;
	if (parse_size(flags.memory, &bo->memory) < 0) {
		snprintf(err, errlen, "--sandbox-memory must be like 512m or 1g");
		return -EINVAL;
	}
	if (strcmp(name, "auto") == 0)
		name = backend_kubernetes_here() ? "kubernetes"
		       : backend_docker_here(bo) ? "docker"
						 : "process";
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		if (strcmp(all[i].name, name) == 0) {
			server.backend = all[i].make(server.rx, bo, err, errlen);
			return server.backend ? 0 : -EINVAL;
		}
	snprintf(err, errlen,
		 "--backend must be auto, process, docker, kubernetes or address, not %s", name);
	return -EINVAL;
}

static void on_accept(void *arg, int fd, const struct sockaddr *peer)
{
	struct server *sv = arg;
	struct stream *s = fd_stream_new(sv->rx, fd);
	if (sv->tls) {
		s = tls_server(sv->tls, s);
		tls_handshake_limit(s, HANDSHAKE_MS);
	}
	int r = http_server_accept(&sv->http, s, sockaddr_text(peer));
	if (r < 0)
		log_warn("connection-refused peer=%s reason=%s", sockaddr_text(peer),
			 log_quote(slice_str(err_text(r))));
}

/* Both or none: connections, requests and tunnels that are there go on with what they began with.
 */
static void reload(struct server *sv)
{
	char err[512];
	struct auth auth;
	struct tls_config *tls = NULL;
	if (auth_init(&auth, &flags.auth, err, sizeof(err)) < 0 ||
	    (sv->tls && !(tls = tls_config_new(&sv->tls_options, true, err, sizeof(err))))) {
		log_error("reload kept=old reason=%s", log_quote(slice_str(err)));
		auth_end(&auth);
		return;
	}
	auth.check_host = sv->auth.check_host;
	auth_end(&sv->auth);
	sv->auth = auth;
	tls_config_unref(sv->tls);
	sv->tls = tls;
	log_info("reload done");
}

static void grace_over(struct timer *t)
{
	struct server *sv = container_of(t, struct server, grace);
	log_warn("drain gave-up sessions=%zu connections=%zu", sv->sessions.n, sv->http.nconns);
	reactor_stop(sv->rx, 0);
}

static void on_signal(void *arg, int signo)
{
	struct server *sv = arg;
	if (signo == SIGHUP) {
		reload(sv);
		return;
	}
	if (sv->draining) {
		reactor_stop(sv->rx, 0); /* asked twice: now */
		return;
	}
	log_info("drain signal=%s sandboxes=%s", sigabbrev_np(signo),
		 sv->keep ? "kept" : "removed");
	sv->draining = true;
	listener_close(sv->listener);
	sv->listener = NULL;
	timer_set(sv->rx, &sv->grace, flags.grace_ms);
	http_server_drain(&sv->http);
	sessions_end(&sv->sessions, sv->keep, &sv->drained);
}

static void requests_over(void *arg)
{
	((struct server *)arg)->answered = true;
}

/* Runs until a signal; then until the last request has its answer, and until the sandboxes are
 * gone, if they are to go. */
static int serve(struct server *sv, const struct addr *a)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP, 0 };
	int err;
	sv->http = (struct http_server){ .rx = sv->rx,
					 .arg = sv,
					 .handle = routes_handle,
					 .done = routes_done,
					 .refuse = routes_refuse,
					 .empty = requests_over,
					 .head_ms = flags.request_ms,
					 .stall_ms = flags.request_ms,
					 .conns_max = (size_t)flags.max_conns };
	http_server_init(&sv->http);
	timer_init(&sv->grace, grace_over);
	signals_open(&sv->signals, sv->rx, signals, on_signal, sv);
	sv->listener = listener_new(sv->rx, a, on_accept, sv, &err);
	if (!sv->listener) {
		fprintf(stderr, "Error: cannot listen on %s: %s%s\n", addr_text(a), err_text(err),
			err == -EADDRINUSE ? "; --port chooses another" : "");
		return 1;
	}
	err = sessions_start(&sv->sessions);
	if (err < 0) {
		fprintf(stderr, "Error: cannot read sessions in %s: %s\n", flags.state_dir,
			err_text(err));
		return 1;
	}
	struct addr bound = *a;
	if (a->kind == ADDR_TCP)
		bound.port = listener_port(sv->listener);
	if (!sv->auth.key && !addr_is_loopback(a))
		log_warn("no-tokens: anybody who reaches %s may use sandboxes (--jwt-secret-file, "
			 "--jwt-public-key)",
			 addr_text(&bound));
	log_info("listening addr=%s tls=%s tokens=%s backend=%s state=%s version=%s",
		 addr_text(&bound), sv->tls ? "on" : "off",
		 sv->auth.key ? jwt_key_algorithm(sv->auth.key) : "off", sv->backend->ops->name,
		 log_quote(slice_str(flags.state_dir)), TSTUNNEL_VERSION);
	int code = reactor_run_until(sv->rx, &sv->answered);
	return sv->answered ? reactor_run_until(sv->rx, &sv->drained) : code;
}

static int run(struct server *sv, const struct addr *a, char *err, size_t errlen)
{
	if (!flags.state_dir)
		flags.state_dir = geteuid() == 0 ? xasprintf("/run/pico-apiserver/%d", flags.port)
						 : xasprintf("/tmp/pico-apiserver-%d-%d",
							     (int)geteuid(), flags.port);
	else
		sv->keep = true;
	struct session_store *store = session_store_open(sv->rx, flags.state_dir, err, errlen);
	if (!store)
		return fail(err);
	int code = 1;
	if (backend_setup(err, errlen) < 0) {
		fail(err);
	} else {
		sv->sessions = (struct sessions){ .rx = sv->rx,
						  .backend = sv->backend,
						  .store = store,
						  .ready_ms = flags.ready_ms,
						  .max = (size_t)flags.max_sessions,
						  .max_per_user = (size_t)flags.max_per_user,
						  .image = bo->image };
		code = server_key_load(sv, flags.state_dir, err, errlen) < 0 ? fail(err)
									     : serve(sv, a);
		listener_close(sv->listener);
		http_server_abort(&sv->http);
		if (sv->sessions.all.next)
			sessions_free(&sv->sessions);
		ssh_key_free(sv->ssh_key);
		sv->backend->ops->close(sv->backend);
	}
	session_store_close(store);
	child_kill_lingering();
	stream_linger_end();
	log_info("stopped");
	return code;
}

int main(int argc, char **argv)
{
	struct server *sv = &server;
	char err[1024];
	if (argc > 1 && strcmp(argv[1], SANDBOX_INIT_NAME) == 0)
		return sandbox_init_main(argc, argv);
	if (argc == 2 && strcmp(argv[1], SESSION_SYNC_NAME) == 0)
		return session_sync_main();
	int first = opt_parse(&command, argc, argv);
	if (first <= 0)
		return first == 0 ? 0 : 2;
	if (flags.version) {
		puts("pico-apiserver " TSTUNNEL_VERSION);
		return 0;
	}
	if (first < argc) {
		fprintf(stderr,
			"pico-apiserver: unexpected argument: %s\nSee 'pico-apiserver "
			"--help'.\n",
			argv[first]);
		return 2;
	}
	log_set_program("pico-apiserver");
	log_set_json(flags.log_json);
	struct addr a;
	if (log_set_level(flags.log_level) < 0)
		return fail("--log-level must be error, warn, info or debug");
	sv->ttl_min = flags.ttl_min;
	if (auth_init(&sv->auth, &flags.auth, err, sizeof(err)) < 0 ||
	    tls_setup(err, sizeof(err)) < 0 || listen_address(&a, err, sizeof(err)) < 0)
		return fail(err);
	if (flags.auth.secret) /* out of what ps shows */
		secret_wipe((void *)(uintptr_t)flags.auth.secret, strlen(flags.auth.secret));
	sv->auth.check_host = a.kind == ADDR_TCP && addr_is_loopback(&a);
	sv->rx = reactor_new();
	int code = run(sv, &a, err, sizeof(err));
	tls_config_unref(sv->tls);
	auth_end(&sv->auth);
	return code;
}
