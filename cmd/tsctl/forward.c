/* tsctl forward: ports and sockets of the remote network, answered here. */
#include <errno.h>

#include "cmd/tsctl/cmd.h"
#include "cmd/tsctl/forward.h"
#include "cmd/tsctl/forward_store.h"
#include "proto/tstunnel/version.h"
#include "reactor/log.h"
#include "reactor/opt.h"

int forward_fail(int status, const char *text)
{
	fprintf(stderr, "Error: %s\n", text);
	return status;
}

struct tunnel_options forward_tunnel_options(const struct tsurl *to, uint64_t connect_ms,
					     uint64_t handshake_ms, uint64_t keepalive_ms)
{
	return (struct tunnel_options){ .server = to->server,
					.cert_file = to->cert,
					.key_file = to->key,
					.ca_file = to->ca,
					.insecure = to->insecure,
					.connect_ms = connect_ms,
					.handshake_ms = handshake_ms,
					.keepalive_ms = keepalive_ms,
					.program = "tsctl/" TSTUNNEL_VERSION,
					.keep_up = true };
}

/* A stream of our own would tell at once if the guest is there, but it would be a connection to
 * somebody's service. */
int forward_state_of(const struct forward *f, const struct tunnel *t,
		     const struct tunnel_options *opt, char *err, size_t errlen)
{
	struct tunnel_status s;
	char why[512];
	tunnel_status(t, &s);
	if (!s.up && s.last_code < 0)
		tunnel_advice(s.last_code, s.last_error, NULL, opt, err, errlen);
	if (!s.up)
		return s.last_code < 0 ? s.last_code : -EAGAIN;
	int r = forward_ready(f, why, sizeof(why));
	if (r < 0 && r != -EAGAIN)
		snprintf(err, errlen, "%s (guest %s)", why, s.server);
	return r;
}

int forward_check(const struct forward_spec *sp, const char *src, bool insecure, char *err,
		  size_t errlen)
{
	if (sp->reverse || insecure || addr_is_loopback(&sp->from))
		return 0;
	snprintf(err, errlen,
		 "SRC %s would let everybody who reaches that address use the target, in your name "
		 "and without a certificate; listen on localhost, or say --insecure",
		 src);
	return -EPERM;
}

/* --- create --- */

static int run(const struct forward_flags *f)
{
	char err[1024];
	struct forward_spec sp;
	if (f->name && !forward_name_ok(f->name))
		return forward_fail(FORWARD_USAGE,
				    "--name takes letters, digits, '-', '_' and '.', at most 64");
	if (f->name && f->foreground)
		return forward_fail(FORWARD_USAGE, "--name is of no use with --foreground");
	if (forward_parse(&sp, slice_str(f->src), slice_str(f->dst), err, sizeof(err)) < 0)
		return forward_fail(FORWARD_USAGE, err);
	sp.udp_idle_ms = f->udp_idle_ms;
	int code = FORWARD_USAGE;
	if (forward_check(&sp, f->src, f->insecure, err, sizeof(err)) < 0) {
		forward_fail(code, err);
	} else {
		if (sp.to.insecure)
			fprintf(stderr, "Warning: insecure=true: the guest's certificate is not "
					"verified\n");
		code = f->foreground ? forward_run(f, &sp) : forward_hand_over(f, &sp);
	}
	forward_spec_end(&sp);
	return code;
}

static int cmd_create(int argc, char **argv)
{
	struct forward_flags flags = { .log_level = "info",
				       .connect_ms = 10000,
				       .handshake_ms = 10000,
				       .keepalive_ms = 4000,
				       .grace_ms = 10000 };
	struct forward_flags *f = &flags;
	const struct opt opts[] = {
		{ .kind = OPT_FLAG,
		  .name = "foreground",
		  .to = &f->foreground,
		  .help = "serve until SIGTERM or SIGINT, without the daemon" },
		{ .kind = OPT_STRING,
		  .name = "name",
		  .to = &f->name,
		  .arg = "NAME",
		  .help = "to pause, resume and terminate it by, instead of its id" },
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
		  .name = "udp-timeout",
		  .to = &f->udp_idle_ms,
		  .arg = "TIME",
		  .help = "a flow of datagrams that is silent for so long ends, for three times as "
			  "long once it was answered (default 60s)" },
		{ .kind = OPT_DURATION,
		  .name = "grace",
		  .to = &f->grace_ms,
		  .arg = "TIME",
		  .help = "--foreground: after SIGTERM, how long connections may finish (default "
			  "10s)" },
		{ .kind = OPT_STRING,
		  .name = "log-level",
		  .to = &f->log_level,
		  .arg = "LEVEL",
		  .help = "--foreground: error, warn, info or debug (default info)" },
		{ .kind = OPT_END },
	};
	const struct opt_command command = {
		.name = "tsctl forward create",
		.args = "SRC DST [OPTIONS]",
		.summary = "Listens on SRC and relays to DST. One of them is on this machine, the "
			   "other is a URL.",
		.opts = opts,
		.more =
		    "On this machine   tcp:HOST:PORT, udp:HOST:PORT, unix:/PATH\n"
		    "As the guest has  tstunnel://SERVER[:PORT]/tcp:HOST:PORT, .../udp:HOST:PORT, "
		    ".../unix:/PATH;\n"
		    "it                parameters behind '?', joined by '&': cert=FILE, key=FILE, "
		    "ca=FILE, insecure=true\n"
		    "PORT may be a range, FROM-TO, and in SRC 0, any free one. If SRC is the URL, "
		    "the guest listens\nand DST is dialled here.\n\n"
		    "Prints a line \"SRC -> DST\" for each port once it serves. A daemon keeps "
		    "it, until it is\nterminated.\n\n"
		    "Example:\n"
		    "  tsctl forward create --name web tcp:localhost:8080 \\\n"
		    "      'tstunnel://HOST:443/tcp:localhost:80?cert=c.crt&key=c.key&ca=ca.crt'\n",
	};
	int first = opt_parse(&command, argc, argv);
	log_set_program("tsctl");
	if (first <= 0)
		return first == 0 ? 0 : FORWARD_USAGE;
	if (log_set_level(f->log_level) < 0)
		return forward_fail(FORWARD_USAGE,
				    "--log-level must be error, warn, info or debug");
	if (argc - first == 2) {
		f->src = argv[first];
		f->dst = argv[first + 1];
		return run(f);
	}
	if (argc - first < 2)
		fprintf(stderr, "tsctl forward create: %s is missing\n",
			argc == first ? "SRC" : "DST");
	else
		fprintf(stderr, "tsctl forward create: unexpected argument: %s\n", argv[first + 2]);
	fputs("See 'tsctl forward create --help'.\n", stderr);
	return FORWARD_USAGE;
}

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
} commands[] = { { "create", cmd_create },
		 { "list", cmd_forward_list },
		 { "pause", cmd_forward_pause },
		 { "resume", cmd_forward_resume },
		 { "terminate", cmd_forward_terminate },
		 { "daemon", cmd_daemon } };

int cmd_forward(int argc, char **argv)
{
	const struct opt none[] = { { .kind = OPT_END } };
	const struct opt_command command = {
		.name = "tsctl forward",
		.args = "COMMAND [OPTIONS]",
		.summary =
		    "Makes a port or socket of the remote network answer on this machine, or "
		    "the other way round.",
		.opts = none,
		.more = "Commands:\n"
			"  create SRC DST    make a forward\n"
			"  list              show them\n"
			"  pause NAME...     stop listening for a while\n"
			"  resume NAME...    listen again\n"
			"  terminate NAME... end them\n"
			"  daemon            what keeps them (tsctl daemon)\n\n"
			"See 'tsctl forward COMMAND --help'.\n",
		.stop_at_operand = true,
	};
	int first = opt_parse(&command, argc, argv);
	if (first <= 0)
		return first == 0 ? 0 : FORWARD_USAGE;
	for (size_t i = 0; first < argc && i < ARRAY_LEN(commands); i++)
		if (strcmp(argv[first], commands[i].name) == 0)
			return commands[i].run(argc - first, argv + first);
	if (first < argc)
		fprintf(stderr, "tsctl forward: unknown command \"%s\"\n", argv[first]);
	else
		fputs("tsctl forward: a command is missing\n", stderr);
	fputs("See 'tsctl forward --help'.\n", stderr);
	return FORWARD_USAGE;
}
