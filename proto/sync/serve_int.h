/*
 * Shared by serve.c (begin, scan, entries) and serve_ops.c (what the brain asks for).
 *
 * The base of a node in the far end's tree is what the brain has put there, as long as it is there:
 * the brain may have been killed before it has noted that, and is told with the entry.
 */
#ifndef SYNC_SERVE_INT_H
#define SYNC_SERVE_INT_H

#include "proto/sync/apply.h"
#include "proto/sync/outgoing.h"
#include "proto/sync/serve.h"
#include "proto/sync/side.h"
#include "proto/sync/store.h"
#include "reactor/buf.h"

enum {
	PUTS_MAX = 32,
	SMALLS_MAX = 32,
	OUTGOING_MAX = 32,
	SETTLES_MAX = 64,
	MASKS_MAX = 10000,
	IGNORE_MAX = 1 << 20,
	SIGNATURE_BYTES_MAX = (16 << 20) + 64,
	SIGNATURES_BYTES_MAX = 64 << 20 /* of all files on their way out */
};

/* Its flags of a node, beside NODE_PROBLEM, which says that the brain was told. */
enum { NODE_DUE = 64 /* there is news of that, for which there was no room */ };

/* A file that comes in pieces. */
struct incoming {
	struct list link;
	uint32_t id;
	int basis; /* its signature was told; -1: none */
	struct put *put;
	struct version *want, *expect;
	char *path;
};

/* A small file, all of it in the stage. */
struct small {
	uint32_t id;
	struct put *put;
	struct version *want, *expect;
	char *path;
};

/* Answered once all that was to be looked at has been, and was told. */
struct settle {
	uint32_t id;
	bool fence; /* FENCED, else DONE */
};

struct serve {
	struct reactor *rx;
	struct task task;
	struct channel *ch;
	struct side side;
	struct store *store;
	char *root_path, *store_path;
	char generation[64];

	/* what OPEN and the messages before it have told */
	struct buf ignore;
	char **masks;
	size_t nmasks;
	char *only;
	bool opened, scanned, told, halted, ended_called;
	uint64_t check_at;
	bool noted; /* the store has something to write */

	struct small smalls[SMALLS_MAX]; /* in the order they came */
	size_t nsmalls;
	struct list puts, outgoing;
	size_t nputs, noutgoing;
	size_t sig_bytes; /* held by outgoing */
	char *upload;     /* a signature that comes with the next READ */
	size_t upload_len;
	uint32_t upload_id;
	struct settle settles[SETTLES_MAX];
	size_t nsettles;

	void (*ended)(void *arg, int code, const char *why);
	void *arg;
	int code;
	char why[512];
};

/* serve.c */
void serve_done(struct serve *, uint32_t id, int status);
/* The brain broke the rules: ends it. */
int serve_bad(struct serve *, const char *what);

/* serve_ops.c: 0, or a code: the end. */
int serve_op(struct serve *, struct msg_in *);
/* After the last of those that have come: small files that wait for more of them. */
void serve_smalls_end(struct serve *);
/* A piece of each file on its way out, while there is room. True: there is more to do. */
bool serve_outgoing(struct serve *);
void serve_ops_end(struct serve *);

#endif
