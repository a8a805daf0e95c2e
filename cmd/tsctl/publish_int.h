/* What the files of publish.h share. */
#ifndef TSCTL_PUBLISH_INT_H
#define TSCTL_PUBLISH_INT_H

#include "cmd/tsctl/publish.h"
#include "proto/docker/follow.h"
#include "proto/docker/ports.h"
#include "proto/tstunnel/forward.h"

struct self;
struct watch;

/* A port of a container, and what became of it here. v4 and v6 of any address are one. */
struct pub {
	struct list link;        /* box.pubs */
	struct docker_port port; /* as the engine said it first */
	const char *host;        /* where it is to be bound here: port.ip, or of publish */
	struct forward *forward; /* NULL: not bound, and reason says why */
	uint16_t here;           /* its number here, 0: none */
	bool elsewhere; /* bound on loopback, for this machine does not have that address */
	bool found;     /* a listener of a container on the host's network, not published */
	bool fresh;     /* while ports are being set: new, or still wanted */
	char *reason;   /* why it is not bound, or not as it was asked for; NULL */
};

/* A container that runs, or is being started. */
struct box {
	struct publish *p;
	char id[65], name[128];
	struct list pubs;
	unsigned holds;      /* starts on their way: lists do not touch it */
	uint64_t touched;    /* publish.clock when its ports were last set */
	bool seen;           /* by the list that is being applied */
	struct watch *watch; /* on the host's network: finds its listeners */
};

/* Forwards whose port is gone but whose connections are not. */
struct leaving {
	struct list link; /* publish.leaving */
	struct timer timer;
	struct forward *forward;
	struct publish *p;
};

struct publish {
	struct publish_options o;
	struct self *self; /* while it is not known whether the engine's host is this machine */
	struct docker_follow *follow;
	struct box **boxes; /* sorted by id */
	size_t nboxes;
	struct list leaving, exchanges;
	size_t moved;   /* ports whose number here is another */
	uint64_t clock; /* counts what happens, to tell old lists from new */
	uint64_t asked; /* clock when the list under way was asked for */
	struct task drained_task;
	void (*drained)(void *arg);
	void *arg;
};

/* What could not be bound: the address here, and the code. */
struct taken {
	struct docker_port port;
	char host[254]; /* as a person knows it */
	int code;
	char holder[65]; /* id of the container that has it, by what we know; "": none */
};

/* --- publish.c: containers --- */

/* NULL when there is none. */
struct box *box_find(const struct publish *, struct slice id);
/* Finds or makes it. */
struct box *box_get(struct publish *, const struct docker_container *);
/* A start is on its way: until box_release no list touches the box. */
void box_hold(struct box *);
/* It is over, and c is what the engine says of the container then; NULL: it did not say, and the
 * next list will. The box may be gone then. */
void box_release(struct box *, const struct docker_container *c);
/* What the engine says of a container, outside of its starts; not running: it may be gone. */
void box_update(struct publish *, const char *id, const struct docker_container *c);
/* The array of GET /containers/json, asked for at that clock. */
void publish_apply_list(struct publish *, struct json_doc *, uint64_t asked);

/* --- publish_port.c: their ports --- */

/* Binds the fixed ones of these, all or nothing: 0, or -1 with *taken. */
int box_bind(struct box *, const struct docker_container *, struct taken *);
/* The two halves of setting the ports to those of c: closing what it does not have, opening what is
 * not there yet. found: those that were found as listeners, else those that are published. */
void box_drop_stale(struct box *, const struct docker_container *c, bool found);
void box_open_missing(struct box *, const struct docker_container *c, bool found);
void pub_status(const struct box *, const struct pub *, struct json_writer *);
void pub_free(struct box *, struct pub *);
/* The pub for a port that the engine names, NULL when there is none. */
struct pub *pub_find(struct box *, const struct docker_port *);
void leaving_end(struct publish *);

/* --- publish_host.c: containers on the host's network --- */

/* Asks the guest which ports its processes listen on, for as long as it is there. */
struct watch *host_watch_new(struct box *);
/* Asks anew, soon. */
void host_watch_again(struct watch *);
/* NULL is ignored. */
void host_watch_free(struct watch *);

/* --- publish_self.c: is the engine's host this machine? --- */

/* Answers with publish_is_elsewhere, from a task. NULL when it cannot be found out. */
struct self *self_new(struct publish *);
/* NULL is ignored. */
void self_free(struct self *);
void publish_is_elsewhere(struct publish *, bool elsewhere);

/* --- publish_http.c: exchanges --- */

void exchanges_abort(struct publish *);

#endif
