/*
 * Shared by the brain's parts:
 *	session.c          begin, turns, rounds, what the far end tells
 *	session_ops.c      actions become operations, what came of them
 *	session_files.c    content, both ways
 *	session_problem.c  what failed, and when it is tried again
 *	session_control.c  configuration and the parent's words
 *	session_status.c   what the parent is told
 */
#ifndef SYNC_SESSION_INT_H
#define SYNC_SESSION_INT_H

#include "proto/sync/apply.h"
#include "proto/sync/outgoing.h"
#include "proto/sync/reconcile.h"
#include "proto/sync/session.h"
#include "proto/sync/side.h"
#include "proto/sync/store.h"
#include "reactor/buf.h"

enum {
	OPS_MAX = 4096,    /* begun, and not over */
	OPS_SLOTS = 16384, /* by id */
	LARGE_MAX = 8,     /* files in pieces at a time, each way */
	DELTA_MIN = 1 << 20,
	LIST_MAX = 100 /* of conflicts and problems in the status */
};

/* The session's own flags of a node. */
static const uint32_t NODE_OP = 1u << 27, /* counts the operations (and holds) it is busy with */
    NODE_OPS = 15u << 27,                 /* all of the count */
    NODE_SOURCE_A = 64,                   /* session_dedupe.c has a pointer to it */
    NODE_SOURCE_B = 128;

enum op_state {
	OP_WAITING = 1, /* for its turn: a large file */
	OP_ASKED,       /* DONE, or HASHED, will come */
	OP_SIGNING,     /* SIGNATURE will come */
	OP_SENDING,
	OP_READING, /* content will come */
};

enum { ACT_HASH = 32, ACT_RENAME }; /* operations that reconcile does not ask for */

struct op {
	struct list all;   /* in the order of serial */
	struct list queue; /* waiting, or sending */
	uint64_t serial;
	uint32_t id;
	uint8_t side, act, state;
	bool copy;    /* COPY_FROM has been considered */
	bool copying; /* and asked for: content is sent if that fails */
	bool unread;  /* what failed was to read it on the other side */
	struct node *node;
	struct version *want;
	struct version *expect; /* what is there; HASH: what is to be hashed */
	struct stamp stamp;     /* of expect, then of what was made */
	struct outgoing *out;
	struct put *put;
	int basis;
	char *sig;
	size_t sig_len;
	char *rename_to;
	int64_t reply; /* RENAME: of a resolve */
};

enum problem_kind {
	PROBLEM_STALE, /* not told: something has changed, look again soon */
	PROBLEM_OP,
	PROBLEM_SCAN
};

struct problem {
	struct list link;
	struct problem *chain;
	struct node *node;
	uint8_t kind, side;
	unsigned tries;
	bool asked;        /* it is being tried again */
	uint64_t retry_at; /* 0: by itself it never is */
	char *why;
};

struct problems {
	struct list all;
	size_t n, told; /* told: without the stale ones */
	bool asked;     /* of any */
	struct problem *table[1024];
};

enum fence_state { FENCE_SCAN = 1, FENCE_OPS, FENCE_REST };

struct fence {
	struct list link;
	int64_t n;
	enum fence_state state;
	uint32_t far_id;
	bool far_done;
	bool rest; /* there was more to do after those */
	unsigned rounds;
	uint64_t until; /* operations before this serial must be over */
};

/* What a side has, by content (session_dedupe.c). */
struct sources {
	struct node **nodes; /* by digest; NULL: not looked for */
	uint64_t *sizes, found_at;
	size_t cap;
};

/* version.hashed of a large file at alpha that has been written to: taken to be another than the
 * base (its digest is made up), as reading all of it to find out would take as long as sending what
 * differs. Only while beta has the base, and until it is sent. */
enum { HASH_ASSUMED = 2 };

struct known_signature {
	uint8_t digest[SYNC_DIGEST];
	struct signature sig; /* n = 0: none */
};

struct totals {
	uint64_t files, bytes;
};

struct config {
	char *root, *store, *only, *ignore;
	char **masks;
	size_t nmasks;
	enum sync_mode mode;
	bool halt, fanotify, far_make, far_in_place, far_fanotify, far_owned;
};

struct session {
	struct reactor *rx;
	struct task task;
	struct timer timer;
	struct channel *ch;
	struct stream *control;
	struct buf control_in, control_out;
	struct config config;
	bool configured, opened, scanned, far_scanned, started, paused;
	bool begun_told;  /* the parent knows that both sides are known */
	bool fresh;       /* started before all of alpha was known, and not done yet */
	bool reset_first; /* asked for before it was opened */
	bool want_look;   /* at .tsignore */
	struct side side;
	struct side_options side_options;
	bool has_side;
	struct store *store;
	char epoch[20]; /* what this memory is called; empty: it has no name */
	bool epoch_is_new;
	char roots[130], generation[160];
	bool remembers; /* the store has a base for it */
	bool noted;
	uint64_t check_at;

	struct reconciler rec;
	struct actions todo; /* [todo_at, n) are to be begun */
	size_t todo_at;
	uint64_t next_serial; /* of the next action that is appended */
	struct list ops;
	struct op **by_id; /* OPS_SLOTS */
	uint32_t next_id;
	struct known_signature signatures[16];
	size_t next_signature;
	struct sources sources[2];
	uint64_t lately[2], lately_at; /* bytes to be moved to a side, since there was none */
	size_t nops, nsending, nreading;
	struct list waiting, sending;

	struct node **held; /* NODE_HELD: gone, but let us wait a moment */
	size_t nheld, held_cap;
	uint64_t held_first, held_last;
	/* The last round has changed nothing, there were so many dirty nodes, and the next one is
	 * due at again_at. 0: it has. done_at_round: done.files then. */
	unsigned again_ms;
	size_t again_dirty;
	uint64_t again_at, done_at_round;

	struct problems problems;
	struct list fences;
	uint32_t next_fence;

	char halt_why[512]; /* not empty: halted */
	bool restart_to_proceed, emptied_ok;

	/* status */
	struct totals todo_left, done;
	uint64_t far_entries, far_bytes;
	char far_watch[16];
	bool news;
	uint64_t status_at;

	void (*ended)(void *arg, int code, const char *why);
	void *arg;
	int code; /* not 0: it is over; 1: orderly */
	bool ended_called;
	char why[512];
};

/* session.c */
int session_fail(struct session *, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Forgets the base, at once or as soon as there is one. */
void session_reset(struct session *);
/* At once, here and at the far end: 0 or -errno. */
int session_forget(struct session *);
/* Halts if alpha's root is gone, or another. */
void session_look_at_root(struct session *);
void session_halt(struct session *, bool restart, const char *fmt, ...) PRINTF_LIKE(3, 4);
int session_begin(struct session *); /* configured: opens alpha, calls the far end */
/* A round may do something again where the last could not: the next is due now, or soon. */
void session_again(struct session *, bool now);
/* Deletions that were held back are believed now. */
void held_release(struct session *);

/* session_ops.c */
void ops_busy(struct session *, struct node *);
void ops_unbusy(struct session *, struct node *);
/* What reconcile has appended to todo from index from on. */
void ops_added(struct session *, size_t from);
/* Begins what can be begun: true if there is more to do at once. */
bool ops_run(struct session *);
struct op *op_find(struct session *, uint32_t id);
/* It is over: the tree follows. Frees it. why may be NULL. */
void op_done(struct session *, struct op *, int status, const char *why);
/* The serial of the oldest that is not over. */
uint64_t ops_oldest(const struct session *);
/* reconciler's callback. */
bool ops_hash(void *arg, struct node *, enum sync_side);
int op_rename(struct session *, struct node *, int64_t reply);
int ops_message(struct session *, struct msg_in *);
void ops_end(struct session *);

/* session_files.c */
void file_send(struct session *, struct op *, const char *path);
void file_fetch(struct session *, struct op *, const char *path);
void signatures_end(struct session *);
bool files_run(struct session *); /* pieces, while there is room */
int file_signature(struct session *, struct op *, const struct msg *);
void file_piece(struct session *, struct op *, const struct msg *);
void file_end(struct session *, struct op *, const struct msg *);

/* session_dedupe.c */
/* The actions from index from on are new: looks for sources if they are to move a lot. */
void sources_find(struct session *, size_t from);
void sources_forget(struct session *);
/* Forgets them when they have not been of use lately: when to ask again, 0: there are none. */
uint64_t sources_age(struct session *);
/* Where the side of a PUT has that content already, or NULL. */
struct node *source_of(struct session *, const struct op *, const char *path);

/* session_problem.c */
void problem_set(struct session *, struct node *, enum problem_kind, enum sync_side,
		 const char *why);
void problem_clear(struct session *, struct node *, enum problem_kind, enum sync_side);
/* Marks what is due (or all) to be tried again; returns when the next is due, 0: none. */
uint64_t problems_retry(struct session *, bool all);
/* After reconcile: where it wants nothing to be done any more, nothing is left of the problem. */
void problems_looked(struct session *);
/* Something changed under our hands a moment ago, and is to be tried again at once. */
bool problems_stale(const struct session *);
void problems_end(struct session *);

/* session_control.c */
void control_read(struct session *);
void control_reply(struct session *, const char *what, int64_t n, const char *error);
void config_end(struct config *);
void fences_fail(struct session *, const char *why);

/* session_status.c */
/* At once, if there is something new: what follows is to be understood by it. */
void status_say(struct session *);
void status_run(struct session *);

#endif
