/*
 * What a sync remembers on disk: the base (at the brain), and for each path the stamp and digest of
 * this side's file, so that a restart need not read the files again. An append-only journal,
 * checked by a checksum a record: kill -9 at any instant leaves the state of some moment before; a
 * torn end is cut off. It is written anew (aside, fsync, rename) when more than half of it is of no
 * use.
 */
#ifndef SYNC_STORE_H
#define SYNC_STORE_H

#include "proto/sync/tree.h"

struct store;

/* Opens (makes) DIR/state, DIR with mode 0700 and its parents, and locks it. NULL with a sentence
 * in why, *err -EBUSY when another process has it. */
struct store *store_open(const char *dir, int *err, char *why, size_t whylen);
/* Writes what is buffered (the tree may be gone by now). NULL is ignored. */
void store_close(struct store *);
/* Fills a fresh tree. Brain: base = the version, and side[ALPHA] is the same version with the stamp
 * as a cache (the scan confirms or replaces it). Far worker (base false): side[ALPHA] only.
 * generation names the pair of roots that it is to belong to: if the stored one is another, nothing
 * is loaded and the store begins anew with this one: 1. Loaded: 0. Errors: -errno, with a sentence.
 */
int store_load(struct store *, struct tree *, bool base, const char *generation, char *why,
	       size_t whylen);
/* What the file is of now: the generation that it was last written for, before and after
 * store_load.
 * "": it is new. */
void store_generation(const struct store *, char *out, size_t outlen);
/* Notes the node as it is now: its base (brain) or side[ALPHA] (far worker, and whether the
 * base is that very version: see serve.c), and the stamp, if
 * side[ALPHA] is the same version. Buffered until store_flush. */
void store_note(struct store *, struct node *);
/* To the kernel (not to the platter): 0 or -errno, and then nothing of it is lost: it is tried
 * again with the next. Rewrites the file when that is due. */
int store_flush(struct store *);
/* From now on of this generation: what the tree holds now is all that it remembers. 0 or -errno. */
int store_rename(struct store *, const char *generation);

#endif
