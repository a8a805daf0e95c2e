/*
 * What to run: the JSON that opens an exec stream, and the body of the plain HTTP form
 * (docs/protocol.md, "exec").
 */
#ifndef TSTUNNEL_EXEC_REQUEST_H
#define TSTUNNEL_EXEC_REQUEST_H

#include "reactor/base.h"

struct buf;

struct exec_request {
	char **argv;     /* [0]: the command; ends with NULL */
	char **env;      /* "NAME=value", over the far side's own; ends with NULL; may be NULL */
	const char *dir; /* NULL: the far side's working directory */
	bool tty, merge_stderr;
	unsigned short rows, cols; /* tty: 0 = unknown */
};

enum exec_form {
	EXEC_STREAM, /* kind, command, args, env, dir, tty, rows, cols, merge_stderr */
	EXEC_PLAIN   /* command, args, envs; stderr is merged */
};

/* Strict: a member of an unknown name or of the wrong type, a NUL, an environment name that is
 * empty are refused. 0, or -EINVAL with a sentence in err. The request owns its strings then. */
int exec_request_parse(struct exec_request *, struct slice json, enum exec_form, char *err,
		       size_t errlen);
/* Frees what exec_request_parse made. */
void exec_request_end(struct exec_request *);

/* Appends the JSON of a stream's OPEN: 0, or -EINVAL with a sentence in err (not UTF-8, which JSON
 * cannot carry; an environment entry without a name; more than b takes). */
int exec_request_write(const struct exec_request *, struct buf *b, char *err, size_t errlen);

/* Signals by the names that the wire carries ("INT"); only those that make sense across hosts.
 * NULL or 0 when unknown. */
const char *exec_signal_name(int signo);
int exec_signal_number(struct slice name);

#endif
