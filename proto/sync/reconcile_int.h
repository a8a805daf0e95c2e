/*
 * What the parts of the three-way merge share: reconcile.c (from dirty nodes to actions),
 * reconcile_case.c (the table of cases), reconcile_conflict.c (the list of conflicts).
 */
#ifndef SYNC_RECONCILE_INT_H
#define SYNC_RECONCILE_INT_H

#include "proto/sync/reconcile.h"

/* Of struct node's flags. */
enum {
	N_MAKING_A = 1 << 8,   /* while it is busy: a MKDIR is on its way to this side */
	N_MAKING_B = 1 << 9,   /* so what is in it can follow */
	N_BETA_WINS = 1 << 10, /* one-way modes: a person has said so */
	/* During one call: */
	N_LISTED = 1 << 11,  /* it was dirty */
	N_AGAIN = 1 << 12,   /* stays dirty */
	N_VISITED = 1 << 13, /* what is to be done here and below has been found */
	N_OPAQUE = 1 << 14,  /* visited: nothing is done below */
	/* Below a directory that only one side has; all but REMOVE hold for the parents, too: */
	N_REMOVE = 1 << 15,  /* it should go */
	N_CREATE = 1 << 16,  /* the other side must get it */
	N_STAYS = 1 << 17,   /* it stays where it is, and only there */
	N_BLOCKED = 1 << 18, /* it cannot be synced */
	N_WAITS = 1 << 19,   /* not known yet */
	N_HELD = N_CREATE | N_STAYS | N_BLOCKED | N_WAITS,
};

enum outcome { SAME = 1, TO_ALPHA, TO_BETA, LEAVE, CONFLICT, WAIT };

/* Reasons of conflicts, compared by address. */
extern const char reason_both[], reason_one_way[], reason_in_the_way[], reason_below[],
    reason_stuck[];

enum sync_mode mode_of(const struct reconciler *, const struct node *);
bool two_way(enum sync_mode);
/* What is to be done with n. sides: which are looked at (bits); the other has nothing there, as its
 * parent is no directory. Asks for digests if it hangs on them. */
enum outcome decide(struct reconciler *, struct node *n, unsigned sides);
const char *conflict_reason(const struct reconciler *, const struct node *);

/* O(1), both. Again: only the reason. */
void conflict_set(struct reconciler *, struct node *, const char *reason);
void conflict_clear(struct reconciler *, struct node *);
/* Of what is below, nothing is listed by itself. */
void conflict_covers(struct reconciler *, struct node *top, const char *reason);
/* The base of top and all below becomes what loser has: then the other side is the only one that
 * has changed, and that holds over failures and restarts. */
void base_becomes(struct reconciler *, struct node *top, enum sync_side loser);

static inline bool is_kind(const struct version *v, enum sync_kind kind)
{
	return v && v->kind == kind;
}

static inline enum sync_side other(enum sync_side side)
{
	return side == SYNC_ALPHA ? SYNC_BETA : SYNC_ALPHA;
}

#endif
