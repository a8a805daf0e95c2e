/* Inside of backend "process": backend_process.c has the life of a box, process_box.c what goes
 * through its control socket. */
#ifndef PICO_PROCESS_BOX_H
#define PICO_PROCESS_BOX_H

#include "cmd/pico-apiserver/backend.h"
#include "cmd/pico-apiserver/sandbox_init.h"

struct process_backend {
	struct backend b;
	char *boxes; /* STATE_DIR/boxes: a directory for each */
};

enum box_state {
	BOX_BORN = 0,
	BOX_STARTING, /* its child has not said yet that init is up */
	BOX_GREETING, /* init was asked who it is */
	BOX_UP,
	BOX_LOST, /* gone was told */
	BOX_DYING,
	BOX_CLEANING
};

struct process_box {
	struct box box;
	struct process_backend *backend;
	struct box_events events;
	enum box_state state;
	char *name, *dir;
	struct child *child; /* while starting */
	struct stream *err;
	struct task task;
	struct timer timer;    /* cleaning */
	struct handle control; /* to init */
	struct handle pidfd;   /* init's */
	char *why;
	int tries;
	bool unwanted; /* destroy was called */
	box_done *done;
	void *arg;
};

/* A connection to the init of the box in dir: the descriptor and its pid, or -errno. */
int process_dial(const char *dir, int *pid);
/* One packet with descriptors: 0 or -errno. */
int process_send(int control, const void *packet, size_t n, const int *fd, size_t nfd);
/* init has answered on x->control. */
void process_replied(struct process_box *, const struct init_reply *);

struct stream *process_connect(struct box *);
void process_pause(struct box *, box_done *, void *arg);
void process_resume(struct box *, box_done *, void *arg);
struct box_run *process_run(struct box *, const struct box_command *,
			    void (*ended)(void *arg, const struct child_status *), void *arg,
			    int *err);

#endif
