/*
 * tsctl forward: what its files share.
 */
#ifndef TSCTL_FORWARD_H
#define TSCTL_FORWARD_H

#include "proto/tstunnel/forward.h"

enum { FORWARD_USAGE = 2, FORWARD_LINE_MAX = 4096, FORWARD_WATCH_MS = 5 };

/* What the command line of create says. */
struct forward_flags {
	const char *src, *dst;
	const char *name;
	const char *log_level;
	uint64_t connect_ms, handshake_ms, keepalive_ms, grace_ms, udp_idle_ms;
	bool foreground, insecure;
};

/* "Error: text" on stderr; returns status. */
int forward_fail(int status, const char *text);
/* The options of a tunnel to the URL's guest. Strings are lent by the URL. */
struct tunnel_options forward_tunnel_options(const struct tsurl *, uint64_t connect_ms,
					     uint64_t handshake_ms, uint64_t keepalive_ms);
/* Would it let others use the target? 0, or -EPERM with a sentence about src. */
int forward_check(const struct forward_spec *, const char *src, bool insecure, char *err,
		  size_t errlen);
/* How a forward that was just made is doing: 0 serves, -EAGAIN not known yet, else why it does not,
 * with a sentence for a person in err. */
int forward_state_of(const struct forward *, const struct tunnel *, const struct tunnel_options *,
		     char *err, size_t errlen);

/* forward_run.c: serves in the foreground until a signal ends it. Returns the exit code. */
int forward_run(const struct forward_flags *, const struct forward_spec *);

/* forward_client.c: has the daemon, which it starts if need be, serve it. Returns the exit code. */
int forward_hand_over(const struct forward_flags *, struct forward_spec *);
/* Subcommands of tsctl forward; argv[0] is their name. Return the exit code. */
int cmd_forward_list(int argc, char **argv);
int cmd_forward_pause(int argc, char **argv);
int cmd_forward_resume(int argc, char **argv);
int cmd_forward_terminate(int argc, char **argv);

#endif
