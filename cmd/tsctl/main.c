/* tsctl: the subcommands, one row each. */
#include <fcntl.h>
#include <unistd.h>

#include "cmd/tsctl/bind_check.h"
#include "cmd/tsctl/cmd.h"
#include "proto/sync/worker.h"
#include "proto/tstunnel/version.h"
#include "reactor/base.h"

static int cmd_help(int argc, char **argv);
static int cmd_version(int argc, char **argv);

static const struct command {
	const char *name, *summary;
	int (*run)(int argc, char **argv);
} commands[] = {
	{ "start", "serve a remote Docker engine on a local address", cmd_start },
	{ "stop", "end a running tsctl start", cmd_stop },
	{ "status", "say what runs, and how its tunnel is", cmd_status },
	{ "host-exec", "run a command on the remote host", cmd_host_exec },
	{ "forward", "make a port or socket of the remote network answer here", cmd_forward },
	{ "sync", "keep a directory here and a remote one alike", cmd_sync },
	{ "daemon", "keep forwards and syncs; started when it is needed", cmd_daemon },
	{ "certs", "make a CA, a server and a client certificate", cmd_certs },
	{ "version", "print the version", cmd_version },
	{ "help", "explain a command", cmd_help },
	/* Started by tsctl itself. */
	{ BIND_CHECK_NAME, NULL, cmd_bind_check },
};

static const struct command *find(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

static void usage(FILE *f)
{
	fputs("Usage: tsctl COMMAND [OPTIONS]\n\n"
	      "Docker, ports and commands of a remote host, through one authenticated tunnel.\n\n"
	      "Commands:\n",
	      f);
	for (size_t i = 0; i < ARRAY_LEN(commands) && commands[i].summary; i++)
		fprintf(f, "  %-10s  %s\n", commands[i].name, commands[i].summary);
	fputs("\nSee 'tsctl COMMAND --help'.\n", f);
}

static int unknown(const char *name)
{
	fprintf(stderr, "tsctl: unknown command \"%s\"\nSee 'tsctl --help'.\n", name);
	return 2;
}

static int cmd_version(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	puts("tsctl " TSTUNNEL_VERSION);
	return 0;
}

static int cmd_help(int argc, char **argv)
{
	const struct command *c = argc > 1 ? find(argv[1]) : NULL;
	if (argc > 1 && !c)
		return unknown(argv[1]);
	if (c && c->run != cmd_help && c->run != cmd_version)
		return c->run(2, (char *[]){ argv[1], "--help", NULL });
	usage(stdout);
	return 0;
}

/* A missing 0, 1 or 2 would be taken by the first socket, and output written into it. */
static void fill_stdio(void)
{
	int fd;
	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= 2);
	if (fd > 2)
		close(fd);
}

int main(int argc, char **argv)
{
	fill_stdio();
	if (argc < 2) {
		usage(stderr);
		return 2;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
		return cmd_help(1, argv + 1);
	if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-v") == 0)
		return cmd_version(1, argv + 1);
	if (strcmp(argv[1], SYNC_WORKER_NAME) == 0)
		return sync_brain_main();
	const struct command *c = find(argv[1]);
	return c ? c->run(argc - 1, argv + 1) : unknown(argv[1]);
}
