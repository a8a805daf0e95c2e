/*
 * Child processes: spawned without blocking the reactor, stdio as streams, their end seen by pidfd.
 */
#ifndef REACTOR_CHILD_H
#define REACTOR_CHILD_H

#include "reactor/stream.h"

struct child;

struct child_options {
	char *const *argv; /* argv[0] is looked up in the child's PATH when it has no '/' */
	char *const *envp; /* the whole environment */
	const char *dir;   /* working directory, NULL: ours */
	bool tty;          /* a new pty is its controlling terminal; stdin, stdout are one stream */
	unsigned short rows, cols; /* tty: initial size, 0 = unset */
	bool merge_stderr;         /* no tty: stderr goes where stdout goes */
	bool channel;              /* one end of a socketpair is its fd 3 */
};

struct child_status {
	int exec_errno;  /* not 0: the program could not be started (ENOENT, EACCES, ...) */
	bool dir_failed; /* exec_errno is about the working directory */
	int exit_code;   /* 0-255 when it exited */
	int signal;      /* not 0: killed by it */
	bool core;       /* and dumped core */
};

/* Starts the child in a session and process group of its own, with no signal blocked or ignored and
 * the RLIMIT_NOFILE that we were started with. From the reactor, each at most once: started (may be
 * NULL) when exec succeeded, then ended when the process is gone, or only ended when it could not
 * be started; the output may still be in the streams then. The child object stays until child_free,
 * which both may call. NULL and -errno in *err when even fork or pipe failed; opt may go after the
 * call. */
struct child *child_spawn(struct reactor *, const struct child_options *opt,
			  void (*started)(void *arg),
			  void (*ended)(void *arg, const struct child_status *), void *arg,
			  int *err);
/* The streams, each handed out once and then the caller's: writing end of its stdin (tty: the pty,
 * both ways), reading ends of stdout (NULL with tty) and stderr (NULL with tty or merge_stderr). */
struct stream *child_stdin(struct child *);
struct stream *child_stdout(struct child *);
struct stream *child_stderr(struct child *);
/* Our end of the channel, both ways, NULL without one; handed out once, like these. */
struct stream *child_channel(struct child *);
int child_pid(const struct child *);
/* Sends signo to the process group: 0 or -errno. Until child_free that is safe also after ended:
 * the process stays a zombie so long, so that its number can be nobody else's, and reaches
 * background children that are left in the group. */
int child_kill(struct child *, int signo);
/* tty only: new window size, SIGWINCH follows from the kernel. 0 or -errno. */
int child_resize(struct child *, unsigned short rows, unsigned short cols);
/* Frees it and any stream not handed out; NULL is ignored. If it still runs: SIGHUP to the group,
 * SIGKILL after 5 s, reaped behind the scenes; ended is not called. */
void child_free(struct child *);
/* At exit: SIGKILL at once for the groups that child_free left to their 5 s, SIGHUP for those that
 * nobody has freed. */
void child_kill_lingering(void);

#endif
