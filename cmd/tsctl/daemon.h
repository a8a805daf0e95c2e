/*
 * The daemon of one user, which keeps forwards and syncs, as other commands see it.
 */
#ifndef TSCTL_DAEMON_H
#define TSCTL_DAEMON_H

#include "cmd/tsctl/instance.h"
#include "reactor/buf.h"

/* Its name among the instances. */
#define DAEMON_NAME "daemon"

enum { DAEMON_ASK_MS = 30 * 1000 };

struct daemon_request {
	const char *method, *path;
	struct slice body;
	uint64_t ms;       /* for the reply */
	const char *state; /* the file that a daemon which does not run would know things from */
	bool start;        /* there need not be such a file */
};

/* Asks the daemon, and starts it when there is none. 0, *status and *reply (to be buf_ended);
 * -ENOENT when there is none and there is nothing that one would know about (unless start); or the
 * exit status, positive, after an error message. Every request may be sent twice: *again then, and
 * the first one may have been heard. */
int daemon_ask(const struct daemon_request *, struct buf *reply, int *status, bool *again);
/* The message of an error reply, printed. Returns the exit status. */
int daemon_complain(const struct buf *reply, int http_status);

#endif
