/* load: options and the choice of the mode. One line of JSON on stdout; 0 if all was right. */
#include <signal.h>
#include <sys/resource.h>

#include "bench/load.h"

struct load load = { .listen = "127.0.0.1:9001",
		     .connect = "127.0.0.1:9000",
		     .conns = 1,
		     .size = 64,
		     .at_once = 64,
		     .path = "/",
		     .time_ms = 1000,
		     .warm_ms = 200,
		     .grace_ms = 5000 };

static int amount_mb;

static const struct opt opts[] = {
	{ OPT_STRING, "connect", 'c', &load.connect, "ADDRESS:PORT",
	  "the relay under test (default 127.0.0.1:9000)", 0, 0, false },
	{ OPT_STRING, "listen", 'l', &load.listen, "ADDRESS:PORT",
	  "where the relay's target is: our server (default 127.0.0.1:9001)", 0, 0, false },
	{ OPT_INT, "conns", 'n', &load.conns, "N", "connections at a time (default 1)", 1, 100000,
	  false },
	{ OPT_DURATION, "time", 't', &load.time_ms, "TIME", "measured time (default 1s)", 0, 0,
	  false },
	{ OPT_DURATION, "warm", 0, &load.warm_ms, "TIME", "not measured before (default 200ms)", 0,
	  0, false },
	{ OPT_INT, "amount", 0, &amount_mb, "MB",
	  "bulk: this much for each stream and way, instead of a time", 1, 1000000, false },
	{ OPT_INT, "size", 0, &load.size, "BYTES", "ping: of a message (default 64)", 1, 65536,
	  false },
	{ OPT_LIST, "through", 0, &load.through, "PATH",
	  "CONNECT to this path first; repeatable: connections take turns", 0, 0, false },
	{ OPT_STRING, "path", 0, &load.path, "PATH", "http: what to GET (default /)", 0, 0, false },
	{ OPT_INT, "at-once", 0, &load.at_once, "N", "idle: to be opened at a time (default 64)", 1,
	  100000, false },
	{ OPT_FLAG, "banner", 0, &load.banner, NULL,
	  "idle: an sshd speaks first instead of our server's answer", 0, 0, false },
	{ OPT_INT, "gap", 0, &load.gap_ms, "MS",
	  "connect: between the end of one and the next (default 0)", 0, 10000, false },
	{ OPT_LIST, "pid", 'p', &load.pids, "PID",
	  "report the CPU time of this process and its children; repeatable", 0, 0, false },
	{ OPT_DURATION, "grace", 0, &load.grace_ms, "TIME",
	  "how long the end of all streams may take (default 5s)", 0, 0, false },
	{ OPT_DURATION, "limit", 0, &load.limit_ms, "TIME",
	  "the whole run at most (default time + 30s)", 0, 0, false },
	{ OPT_END, NULL, 0, NULL, NULL, NULL, 0, 0, false },
};

static const struct opt_command command = {
	.name = "load",
	.args = "up|down|both|ping|connect|idle|http [OPTIONS]",
	.summary = "Drives a relay: client and server of every connection, checks what arrives.",
	.opts = opts,
	.more = "idle reads commands on stdin: \"hold N\", \"close\"; each is answered.\n",
	.stop_at_operand = false,
};

int main(int argc, char **argv)
{
	struct rlimit files;
	int r = opt_parse(&command, argc, argv);
	if (r <= 0)
		return r < 0 ? 2 : 0;
	if (r != argc - 1 || load.pids.n > PIDS_MAX) {
		opt_usage(&command, stderr);
		return 2;
	}
	const char *mode = argv[r];
	signal(SIGPIPE, SIG_IGN); // NOLINT(bugprone-signal-handler)
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	load.amount = (uint64_t)amount_mb * 1000000;
	if (!load.limit_ms)
		load.limit_ms = load.warm_ms + load.time_ms + 30000;
	load.begin = now_ns();
	load.stream = xcalloc((size_t)load.conns, sizeof(*load.stream));
	for (int i = 0; i < load.conns; i++)
		load.stream[i].index = (unsigned)i;
	net_open();
	r = 2;
	if (strcmp(mode, "up") == 0 || strcmp(mode, "down") == 0 || strcmp(mode, "both") == 0)
		r = bulk_main(mode[0] != 'd', mode[0] != 'u');
	else if (strcmp(mode, "ping") == 0)
		r = ping_main();
	else if (strcmp(mode, "connect") == 0)
		r = connect_main();
	else if (strcmp(mode, "idle") == 0)
		r = idle_main();
	else if (strcmp(mode, "http") == 0)
		r = http_main();
	else
		fprintf(stderr, "load: no mode \"%s\"\n", mode);
	net_end();
	free(load.stream);
	free(load.samples.ns);
	opt_list_free(&load.pids);
	opt_list_free(&load.through);
	return r;
}
