/*
 * What a sandbox lives on: one small interface, three implementations (process, docker,
 * kubernetes). sandbox.c is the only caller of the lifecycle verbs; connect.c asks for streams;
 * exec.c and files.c run commands.
 *
 * A backend makes boxes. A box is one sandbox as the backend knows it; struct box is the first
 * member of the backend's own record. All calls return at once; what takes time is told by a
 * callback, which runs from a task or timer of the backend and never from inside the call (but
 * list). Sentences (why) live during the callback and name what failed, on which thing, and what to
 * do.
 *
 * Names: a session has an id (UUID) and its box has a name, "sandbox-" and the first eight digits
 * of the id, or longer if that is taken: a DNS label, so that it may name a container or a pod.
 * Whatever a backend creates carries three labels: managed-by=pico-apiserver, session-id=ID and
 * sandbox=NAME (docker, kubernetes: exactly these; also "pico-server" with box_options.server, so
 * that two servers on one engine leave each other's alone).
 */
#ifndef PICO_BACKEND_H
#define PICO_BACKEND_H

#include "reactor/child.h"
#include "reactor/stream.h"

struct box;
struct backend;

/* What all backends get from the command line. Strings live as long as the program. */
struct backend_options {
	const char *server;        /* tells this server's boxes from another's: state dir, hashed */
	const char *state_dir;     /* a directory of ours, 0700 */
	const char *ssh_username;  /* --ssh-username (sandbox) */
	uint16_t ssh_port;         /* --ssh-port (22) */
	const char *image;         /* --sandbox-image (sandbox:latest) */
	const char *runtime_class; /* --runtime-class-name, NULL: none */
	const char *namespace_;    /* --namespace (default) */
	const char *kubeconfig;    /* --kubeconfig, NULL: $KUBECONFIG, ~/.kube/config */
	const char *docker_host;   /* --docker, NULL: $DOCKER_HOST, /var/run/docker.sock */
	const char *address;       /* --sandbox-address, for backend "address" */
	uint64_t memory;           /* --sandbox-memory, bytes; 0: no limit */
	unsigned pids;             /* --sandbox-pids; 0: no limit */
	unsigned cpu_millis;       /* --sandbox-cpu in thousandths of a core; 0: no limit */
};

/* One sandbox to be made (or adopted). The strings live during the call only. */
struct box_spec {
	const char *id;         /* session id */
	const char *name;       /* of the box */
	const char *image;      /* NULL: options.image */
	const char *public_key; /* one line of authorized_keys, NULL: login by password */
	/* A second such line, the server's own, for exec over SSH; NULL: none. Whoever sets up a
	 * box puts both into authorized_keys. */
	const char *server_key;
	/* Unix time. When nobody has destroyed it by then, the box must end by itself where the
	 * backend can arrange that (shutdownTime, activeDeadlineSeconds, init's own timer). */
	int64_t expires_at;
};

enum { BOX_NAME_MAX = 63, BOX_FINGERPRINT_MAX = 64 };

/* How a box tells its owner. Each function may call box_free of this very box. */
struct box_events {
	/* Its sshd may be asked for now; once after create or adopt. fingerprint: of its SSH host
	 * key ("SHA256:..." as ssh-keygen -l prints it), NULL when the backend cannot know. paused:
	 * an adopted box that was paused before (ready for resume, that is). */
	void (*ready)(void *arg, const char *fingerprint, bool paused);
	/* It could not be made, or has ended by itself (killed, evicted, expired). Once, and then
	 * nothing more. What the backend left of it still wants destroy. */
	void (*gone)(void *arg, int code, const char *why);
	void *arg;
};

/* code 0, or negative with a sentence. */
typedef void box_done(void *arg, int code, const char *why);

/* What list finds. The strings live during the call. */
struct box_found {
	const char *id, *name;
	bool paused;
};

/* A command in a box. */
struct box_command {
	char *const *argv;
	char *const *envp; /* added to the box's own environment (PATH, HOME, USER, LANG) */
	const char *dir;   /* working directory inside */
};

/* A command that runs; made by run below. Streams like those of child.h. */
struct box_run {
	const struct box_run_ops *ops;
	/* The caller takes them by setting them to NULL. in may be the same stream as out. */
	struct stream *in, *out, *err;
};

struct box_run_ops {
	/* Signals all of its process group: 0 or -errno. */
	int (*kill)(struct box_run *, int signo);
	/* Frees it and the streams that are left, and kills what still runs. NULL is not passed. */
	void (*free)(struct box_run *);
};

struct backend_ops {
	const char *name; /* "process" */

	/* Begins to make a box. Never NULL: failures come as gone. Nothing may exist yet when it
	 * returns; when the server dies at any later moment, list of the next one finds what does.
	 */
	struct box *(*create)(struct backend *, const struct box_spec *, const struct box_events *);
	/* A box that list has found, after a restart: becomes ready or gone. The same spec. */
	struct box *(*adopt)(struct backend *, const struct box_spec *, const struct box_events *);
	/* A new stream to the box's sshd, after ready. Never NULL; born usable, failure comes out
	 * of the first verb (-ECONNREFUSED while sshd does not listen yet, ...). */
	struct stream *(*connect)(struct box *);
	/* One at a time, never while another is under way. A box that is paused keeps its memory or
	 * at least its disk. -EOPNOTSUPP with a sentence where that cannot be. */
	void (*pause)(struct box *, box_done *, void *arg);
	void (*resume)(struct box *, box_done *, void *arg); /* done(0): connect works again */
	/* Ends it and removes all of it, in any state (also while it is being made, and after
	 * gone); a pending pause or resume is not told of any more, nor is ready or gone. Retried
	 * inside for a bounded time. done, then the owner calls free. At most once. */
	void (*destroy)(struct box *, box_done *, void *arg);
	/* Forgets b without touching the sandbox (after destroy, or at exit so that a restart finds
	 * it); no callback comes any more. NULL is not passed. */
	void (*free)(struct box *);

	/* Tells each box of this server that exists, in whatever state, then done. code < 0: could
	 * not ask; the owner tries again. At the start, and after a server that was killed in the
	 * middle of a create a few times more; one after another. The one exception: who need not
	 * wait (process, address) tells from inside the call. */
	void (*list)(struct backend *, void (*each)(void *arg, const struct box_found *),
		     box_done *, void *arg);
	/* Destroys one that list has found and nobody wants. done may be NULL. */
	void (*remove)(struct backend *, const struct box_found *, box_done *, void *arg);

	/* Runs a command as the box's user, on its own way; the run may outlive the box (it ends
	 * with it, though). NULL (the function): exec.c goes
	 * through connect and SSH with the server's key. ended comes once, from a task. NULL and
	 * -errno in *err when it could not even be asked for. */
	struct box_run *(*run)(struct box *, const struct box_command *,
			       void (*ended)(void *arg, const struct child_status *), void *arg,
			       int *err);

	/* All boxes were freed. */
	void (*close)(struct backend *);
};

/* First members of the backends' own. */
struct backend {
	const struct backend_ops *ops;
	struct reactor *rx;
	const struct backend_options *options;
};
struct box {
	const struct backend_ops *ops;
};

/* Each checks what can be checked without waiting: NULL and a sentence in err if it cannot work
 * here (no root, no kubeconfig, ...). */
struct backend *backend_process_new(struct reactor *, const struct backend_options *, char *err,
				    size_t errlen);
struct backend *backend_docker_new(struct reactor *, const struct backend_options *, char *err,
				   size_t errlen);
struct backend *backend_kubernetes_new(struct reactor *, const struct backend_options *, char *err,
				       size_t errlen);
/* Every sandbox is the one sshd at options.address (tests, and one's own single machine). */
struct backend *backend_address_new(struct reactor *, const struct backend_options *, char *err,
				    size_t errlen);

/* For --backend auto, cheap: are we in a cluster; does an engine answer that has the image? The
 * second connects to a local socket and may wait some 2 s; only called before the reactor runs. */
bool backend_kubernetes_here(void);
bool backend_docker_here(const struct backend_options *);

#endif
