/* tsctl forward: ports and sockets of the remote network, answered here. */
#include <errno.h>
#include <unistd.h>

#include "cmd/tsctl/cmd.h"
#include "proto/tstunnel/forward.h"
#include "proto/tstunnel/version.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "reactor/opt.h"
#include "reactor/signals.h"

enum { USAGE = 2, LINE_MAX_BYTES = 4096 };

struct flags {
	const char *log_level;
	uint64_t connect_ms, handshake_ms, keepalive_ms, grace_ms;
	bool foreground, insecure;
};

struct create {
	struct flags flags;
	struct forward_spec spec;
	struct reactor *rx;
	struct tunnel_options tunnel_options;
	struct tunnel *tunnel;
	struct forward *forward;
	struct signals signals;
	struct task watch; /* is the guest there? */
	struct timer grace;
	bool ready, draining;
};

static int fail(int status, const char *text)
{
	fprintf(stderr, "Error: %s\n", text);
	return status;
}

/* --- the end --- */

static void on_tunnel_drained(void *arg)
{
	struct create *c = arg;
	reactor_stop(c->rx, 0);
}

/* The connections are over, but their last bytes may still be on their way to the guest. */
static void on_drained(void *arg)
{
	struct create *c = arg;
	tunnel_drain(c->tunnel, on_tunnel_drained, c);
}

static void grace_over(struct timer *t)
{
	struct create *c = container_of(t, struct create, grace);
	log_warn("drain gave-up connections=%zu", forward_connections(c->forward));
	reactor_stop(c->rx, 0);
}

static void on_signal(void *arg, int signo)
{
	struct create *c = arg;
	(void)signo;
	if (c->draining || !c->ready) { /* asked twice, or nobody is served yet */
		reactor_stop(c->rx, 0);
		return;
	}
	c->draining = true;
	timer_set(c->rx, &c->grace, c->flags.grace_ms);
	forward_drain(c->forward, on_drained, c);
}

/* --- the start --- */

static void print_lines(const struct create *c)
{
	struct buf line;
	buf_init(&line, LINE_MAX_BYTES);
	for (unsigned i = 0; i < c->spec.count; i++) {
		if (forward_put(c->forward, i, &line) == 0)
			printf("%.*s\n", SLICE_FMT(buf_data(&line)));
		buf_drop(&line, line.len);
	}
	buf_end(&line);
	fflush(stdout);
}

/* A stream of our own would tell at once, but it would be a connection to somebody's service. */
static void watch_run(struct task *t)
{
	struct create *c = container_of(t, struct create, watch);
	struct tunnel_status s;
	char text[1024];
	tunnel_status(c->tunnel, &s);
	if (c->ready)
		return;
	if (s.up) {
		c->ready = true;
		log_set_level(c->flags.log_level);
		print_lines(c);
	} else if (s.last_code < 0) {
		tunnel_advice(s.last_code, s.last_error, NULL, &c->tunnel_options, text,
			      sizeof(text));
		reactor_stop(c->rx, fail(1, text));
	}
}

static void on_changed(void *arg)
{
	struct create *c = arg;
	task_wake(c->rx, &c->watch);
}

static int serve(struct create *c)
{
	static const int signals[] = { SIGTERM, SIGINT, 0 };
	char err[1024];
	int code = 1;
	log_set_level("error"); /* until ready, what goes wrong is one line of ours */
	c->rx = reactor_new();
	task_init(&c->watch, watch_run);
	timer_init(&c->grace, grace_over);
	signals_open(&c->signals, c->rx, signals, on_signal, c);
	c->tunnel = tunnel_new(c->rx, &c->tunnel_options, err, sizeof(err));
	if (!c->tunnel ||
	    forward_new(&c->forward, c->rx, c->tunnel, &c->spec, err, sizeof(err)) < 0) {
		fail(code, err);
	} else {
		code = reactor_run(c->rx);
	}
	task_cancel(&c->watch);
	timer_clear(c->rx, &c->grace);
	forward_free(c->forward);
	tunnel_free(c->tunnel);
	signals_close(&c->signals);
	stream_linger_end();
	reactor_free(c->rx);
	return code;
}

static int run(struct create *c, const char *src, const char *dst)
{
	const struct flags *f = &c->flags;
	const struct tsurl *to = &c->spec.to;
	char err[1024];
	if (!f->foreground)
		return fail(USAGE, "forwards in the background are not there yet: give "
				   "--foreground");
	if (forward_parse(&c->spec, slice_str(src), slice_str(dst), err, sizeof(err)) < 0)
		return fail(USAGE, err);
	if (!addr_is_loopback(&c->spec.from) && !f->insecure) {
		snprintf(err, sizeof(err),
			 "SRC %s would let everybody who reaches that address use the target, in "
			 "your name and without a certificate; listen on localhost, or say "
			 "--insecure",
			 src);
		forward_spec_end(&c->spec);
		return fail(USAGE, err);
	}
	if (to->insecure)
		fprintf(stderr,
			"Warning: insecure=true: the guest's certificate is not verified\n");
	c->tunnel_options = (struct tunnel_options){ .server = to->server,
						     .cert_file = to->cert,
						     .key_file = to->key,
						     .ca_file = to->ca,
						     .insecure = to->insecure,
						     .connect_ms = f->connect_ms,
						     .handshake_ms = f->handshake_ms,
						     .keepalive_ms = f->keepalive_ms,
						     .program = "tsctl/" TSTUNNEL_VERSION,
						     .keep_up = true,
						     .changed = on_changed,
						     .arg = c };
	int code = serve(c);
	forward_spec_end(&c->spec);
	return code;
}

static int cmd_create(int argc, char **argv)
{
	struct create c = { .flags = { .log_level = "info",
				       .connect_ms = 10000,
				       .handshake_ms = 10000,
				       .keepalive_ms = 4000,
				       .grace_ms = 10000 } };
	struct flags *f = &c.flags;
	const struct opt opts[] = {
		{ .kind = OPT_FLAG,
		  .name = "foreground",
		  .to = &f->foreground,
		  .help = "stay until SIGTERM or SIGINT; required, there is no background yet" },
		{ .kind = OPT_FLAG,
		  .name = "insecure",
		  .to = &f->insecure,
		  .help = "allow SRC on an address that is not loopback" },
		{ .kind = OPT_DURATION,
		  .name = "connect-timeout",
		  .to = &f->connect_ms,
		  .arg = "TIME",
		  .help = "for reaching the guest (default 10s)" },
		{ .kind = OPT_DURATION,
		  .name = "handshake-timeout",
		  .to = &f->handshake_ms,
		  .arg = "TIME",
		  .help = "for TLS and the upgrade to a tunnel (default 10s)" },
		{ .kind = OPT_DURATION,
		  .name = "keepalive",
		  .to = &f->keepalive_ms,
		  .arg = "TIME",
		  .help = "a silent guest is asked after this, given up after as long again "
			  "(default 4s)" },
		{ .kind = OPT_DURATION,
		  .name = "grace",
		  .to = &f->grace_ms,
		  .arg = "TIME",
		  .help = "after SIGTERM, how long connections may finish (default 10s)" },
		{ .kind = OPT_STRING,
		  .name = "log-level",
		  .to = &f->log_level,
		  .arg = "LEVEL",
		  .help = "error, warn, info or debug (default info)" },
		{ .kind = OPT_END },
	};
	const struct opt_command command = {
		.name = "tsctl forward create",
		.args = "SRC DST --foreground [OPTIONS]",
		.summary = "Listens on SRC, on this machine, and relays to DST, as the guest "
			   "reaches it.",
		.opts = opts,
		.more =
		    "SRC  tcp:HOST:PORT, tcp:HOST:FROM-TO, tcp:HOST:0 (any free port) or "
		    "unix:/PATH\n"
		    "DST  tstunnel://SERVER[:PORT]/tcp:HOST:PORT, .../tcp:HOST:FROM-TO or "
		    ".../unix:/PATH;\n"
		    "     parameters behind '?', joined by '&': cert=FILE, key=FILE, ca=FILE, "
		    "insecure=true\n\n"
		    "Prints a line \"SRC -> DST\" for each port once it serves.\n\n"
		    "Example:\n"
		    "  tsctl forward create --foreground tcp:localhost:8080 \\\n"
		    "      'tstunnel://HOST:443/tcp:localhost:80?cert=c.crt&key=c.key&ca=ca.crt'\n",
	};
	int first = opt_parse(&command, argc, argv);
	log_set_program("tsctl");
	if (first <= 0)
		return first == 0 ? 0 : USAGE;
	if (log_set_level(f->log_level) < 0)
		return fail(USAGE, "--log-level must be error, warn, info or debug");
	if (argc - first == 2)
		return run(&c, argv[first], argv[first + 1]);
	if (argc - first < 2)
		fprintf(stderr, "tsctl forward create: %s is missing\n",
			argc == first ? "SRC" : "DST");
	else
		fprintf(stderr, "tsctl forward create: unexpected argument: %s\n", argv[first + 2]);
	fputs("See 'tsctl forward create --help'.\n", stderr);
	return USAGE;
}

int cmd_forward(int argc, char **argv)
{
	const struct opt none[] = { { .kind = OPT_END } };
	const struct opt_command command = {
		.name = "tsctl forward",
		.args = "create SRC DST --foreground [OPTIONS]",
		.summary = "Makes a port or socket of the remote network answer on this machine.",
		.opts = none,
		.more = "See 'tsctl forward create --help'.\n",
		.stop_at_operand = true,
	};
	int first = opt_parse(&command, argc, argv);
	if (first <= 0)
		return first == 0 ? 0 : USAGE;
	if (first < argc && strcmp(argv[first], "create") == 0)
		return cmd_create(argc - first, argv + first);
	if (first < argc)
		fprintf(stderr, "tsctl forward: unknown command \"%s\"\n", argv[first]);
	else
		fputs("tsctl forward: a command is missing\n", stderr);
	fputs("See 'tsctl forward --help'.\n", stderr);
	return USAGE;
}
