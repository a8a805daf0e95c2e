/*
 * The client's side of an exec stream (docs/protocol.md, "exec"): relays local streams to a remote
 * command and learns how it ended. Knows no terminal and no options: cmd/tsctl/host_exec.c does.
 */
#ifndef TSTUNNEL_EXEC_CLIENT_H
#define TSTUNNEL_EXEC_CLIENT_H

#include "reactor/stream.h"

struct exec_client;

struct exec_result {
	int code;         /* 0: the command ended; else why that is not known, see why */
	bool not_started; /* code is -ERR_NOT_FOUND or -ERR_DENIED about the command itself */
	bool broken_pipe; /* code is -EPIPE: local stdout takes no more */
	int exit_code;    /* 0-255 */
	int signal;       /* not 0: killed by it, on the far side */
	const char *why;  /* a sentence for code; lives during the call */
};

struct exec_client_options {
	struct stream *in, *out, *err; /* local ends, in may be NULL: no stdin */
	void (*opened)(void *arg);     /* the command runs; must not free; may be NULL */
	/* Once, from the reactor; must call exec_client_free, now or later. */
	void (*ended)(void *arg, const struct exec_result *);
	void *arg;
};

/* remote: a stream just opened with an exec request. Owns it and the local ends. */
struct exec_client *exec_client_new(struct reactor *, struct stream *remote,
				    const struct exec_client_options *);
/* To the remote process group: 0, -EAGAIN while it is not known to run, -EINVAL for a signal that
 * has no name on the wire, -EPIPE when the tunnel is gone. */
int exec_client_signal(struct exec_client *, int signo);
/* Not too often: each is a message (the far side holds no more than 32). */
void exec_client_resize(struct exec_client *, unsigned short rows, unsigned short cols);
/* Closes everything; a command that still runs is killed. NULL is ignored. */
void exec_client_free(struct exec_client *);

#endif
