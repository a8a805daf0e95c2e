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
/* The options of a tunnel to sp's guest. Strings are lent by sp. */
struct tunnel_options forward_tunnel_options(const struct forward_spec *sp, uint64_t connect_ms,
					     uint64_t handshake_ms, uint64_t keepalive_ms);
/* How a forward that was just made is doing: 0 serves, -EAGAIN not known yet, else why it does not,
 * with a sentence for a person in err. */
int forward_state_of(const struct forward *, const struct tunnel *, const struct tunnel_options *,
		     char *err, size_t errlen);

/* forward_run.c: serves in the foreground until a signal ends it. Returns the exit code. */
int forward_run(const struct forward_flags *, const struct forward_spec *);

#endif
