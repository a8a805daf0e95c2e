/*
 * Running tsctl's of this user, one a listen address: the runtime directory, locks, names.
 */
#ifndef TSCTL_INSTANCE_H
#define TSCTL_INSTANCE_H

#include "reactor/dial.h"

/* Files of one instance, all in a directory of mode 0700 that belongs to us. */
struct instance {
	char name[96]; /* the address with other bytes than letters, digits, '.', '-' as '_' */
	char dir[80];  /* $XDG_RUNTIME_DIR/tstunnel, /run/tstunnel (root) or /tmp/tstunnel-UID */
	char pid_file[200], log[200];
	struct addr socket;
	int lock; /* -1: not held */
};

/* ":2375" means loopback here: who wants the network has to say which address. */
void instance_default_host(struct addr *);
/* Fills the names for a listen address and makes the directory. 0, or -errno with a sentence. */
int instance_init(struct instance *, const struct addr *listen, char *err, size_t errlen);
/* The same for a program that listens nowhere but on its control socket, of which there is one a
 * user. instance_each does not count it. */
int instance_init_single(struct instance *, const char *name, char *err, size_t errlen);
/* Locks the pid file (fcntl(2), F_OFD_SETLK: a dead process holds none) and writes our pid into it.
 * 0, or -EADDRINUSE naming the pid that runs, or -errno; with a sentence. listen NULL: single. */
int instance_lock(struct instance *, const struct addr *listen, char *err, size_t errlen);
/* stdin from /dev/null, stdout and stderr to the log from now on: nobody's terminal or pipe is
 * held. 0 or -errno with a sentence. */
int instance_log_stdio(const struct instance *, char *err, size_t errlen);
/* Removes the socket, gives up the lock. The pid file stays: removing it would race with the next
 * one that locks it. */
void instance_unlock(struct instance *);
/* The pid that holds the lock, 0 if nobody does. */
int instance_pid(const struct instance *);
/* Calls each for every instance whose lock is held, until it returns non-zero: that, or 0. */
int instance_each(int (*each)(const struct instance *, int pid, void *arg), void *arg);

#endif
