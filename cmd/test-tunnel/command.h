/*
 * One command in the sandbox: its input from a file, its output kept or into a file.
 */
#ifndef CMD_TEST_TUNNEL_COMMAND_H
#define CMD_TEST_TUNNEL_COMMAND_H

#include "proto/ssh/ssh.h"

enum { COMMAND_OUTPUT_MAX = 16 << 20 };

struct command;

struct command_end {
	const char *why; /* NULL: it ran to its end, and the files were no trouble */
	unsigned status; /* exit status; 128 if a signal ended it */
	const char *signal;
	struct slice out, err; /* out is empty if it went to a file */
	bool cut;              /* output over COMMAND_OUTPUT_MAX was dropped */
	uint64_t received;     /* bytes of standard output */
};

/* in: a file to read, -1 for none; out: a file to write, -1 to keep it. Both stay the caller's.
 * ended is called once, from the reactor; the command is gone afterwards, and what it is given.
 * Never NULL. */
struct command *command_start(struct reactor *, struct ssh_client *, const char *text, int in,
			      int out, void (*ended)(void *arg, const struct command_end *),
			      void *arg);
/* Hangs it up; ended is not called. NULL is ignored. */
void command_free(struct command *);

#endif
