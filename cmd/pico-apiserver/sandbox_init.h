/*
 * The inside of a sandbox of backend "process": "pico-apiserver sandbox-init ..." makes namespaces
 * and a root of its own, and stays in it as process 1. The server asks it for sshd processes and
 * commands over a socket (SOCK_SEQPACKET, DIR/control), one request a packet, descriptors beside
 * it (unix(7), SCM_RIGHTS).
 *
 * It ends when it is killed, and by itself after its time; with it everything in its PID namespace.
 * While it starts, it dies with the server.
 */
#ifndef PICO_SANDBOX_INIT_H
#define PICO_SANDBOX_INIT_H

#include "reactor/base.h"

#define SANDBOX_INIT_NAME "sandbox-init"
#define SANDBOX_CONTROL   "control" /* socket, in the box's directory */
#define SANDBOX_SSHD      "/usr/sbin/sshd"

enum {
	INIT_PACKET_MAX = 128 * 1024,
	INIT_WORDS_MAX = 1024,
	INIT_OVERTIME_S = 30 /* after expires_at */
};

enum init_kind {
	INIT_HELLO = 1, /* -> who it is */
	INIT_SSHD,      /* one descriptor: the client; no reply */
	INIT_RUN,       /* three: stdin, stdout, stderr; -> how it ended */
	INIT_KILL,      /* signal arg to what this connection runs; its end is SIGKILL */
	INIT_STOP,      /* -> all processes are stopped */
	INIT_CONT       /* -> they go on */
};

/* Followed by 1 + argc + envc strings, each with its NUL: directory, arguments, environment. */
struct init_request {
	uint32_t kind, arg, argc, envc;
};

struct init_reply {
	uint32_t kind;
	int32_t exec_errno, exit_code, signal; /* INIT_RUN */
	uint32_t stopped;                      /* INIT_HELLO */
	char fingerprint[64];                  /* INIT_HELLO: of the SSH host key */
};

/* What it is started with. Standard input: authorized_keys (empty: login by password). */
struct init_options {
	const char *dir, *name, *user;
	uint32_t uid;
	int64_t expires;
	uint64_t memory;
	unsigned pids, cpu_millis;
	const char *keys;
};

/* argv: NAME DIR BOX USER UID EXPIRES MEMORY PIDS CPU SERVER_PID. */
int sandbox_init_main(int argc, char **argv);

/* --- sandbox_root.c --- */
/* In a new mount namespace: builds the root below DIR/root and moves into it; the working directory
 * is / then. 0, or -1 and a sentence is on stderr. */
int sandbox_root_enter(const struct init_options *, char fingerprint[64]);
/* Gives up what even root in the sandbox is not to have. The same. */
int sandbox_root_confine(const struct init_options *);

/* --- sandbox_filter.c --- */
/* Refuses some system calls to this process and its children for good; no_new_privs is set. 0, also
 * where the kernel knows no filters and on machines other than x86-64 and arm64; or -1 and errno.
 */
int sandbox_filter_set(void);

/* --- sandbox_cgroup.c --- */
/* Puts this process into control groups of the box, as far as they can be had here: which limits
 * hold is a bit set. Not having them is no error. */
enum { CGROUP_MEMORY = 1, CGROUP_PIDS = 2, CGROUP_CPU = 4 };
unsigned sandbox_cgroup_join(const struct init_options *);
/* Removes them: 0, or -EBUSY while processes are left. */
int sandbox_cgroup_remove(const char *name);

#endif
