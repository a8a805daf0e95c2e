/*
 * What a bind source is on this machine. A path may lie on a network that hangs, so a short-lived
 * child looks (tsctl bind-check), not the reactor.
 */
#ifndef TSCTL_BIND_CHECK_H
#define TSCTL_BIND_CHECK_H

#include "reactor/reactor.h"

/* What to do when it does not exist. */
enum bind_missing {
	BIND_MISSING_MAKE = 'm', /* make the directory, mode 0755, as docker run -v does */
	BIND_MISSING_SAY = 's'   /* answer BIND_NONE */
};

enum bind_kind {
	BIND_DIR = 'd',
	BIND_FILE = 'f',
	BIND_NONE = 'n',
	BIND_ROOT = 'r',    /* "/" */
	BIND_SYSTEM = 'p',  /* /proc, /sys, /dev, /run, /var/run, or below */
	BIND_SPECIAL = 'x', /* a socket, device or FIFO: path says which */
	BIND_ERROR = 'e'    /* path is a sentence */
};

struct bind_found {
	enum bind_kind kind;
	const char *path; /* of a directory or file: without symlinks */
};

struct bind_check;
/* Called once, from a task, with as many as were asked for, in their order; they live during the
 * call. found NULL: why is the sentence. The check is gone then. */
typedef void bind_checked(void *arg, const struct bind_found *found, const char *why);
/* paths: absolute, clean; n > 0. */
struct bind_check *bind_check_new(struct reactor *, const char *const *paths,
				  const enum bind_missing *missing, size_t n, uint64_t ms,
				  bind_checked *, void *arg);
/* Gives up; the function is not called. NULL is ignored. */
void bind_check_free(struct bind_check *);

/* The child: argv[1..] are a letter of bind_missing and a path each; the answers go to stdout, a
 * letter of bind_kind, the text and a NUL each. */
#define BIND_CHECK_NAME "bind-check"
int cmd_bind_check(int argc, char **argv);

#endif
