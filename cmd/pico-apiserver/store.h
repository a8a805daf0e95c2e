/*
 * The sessions on disk: DIR/sessions/ID.json, one file each, under 64 KiB, written aside and
 * renamed, so that whoever reads finds the old or the new one, however the server ended. DIR/lock
 * is held while one runs.
 *
 * The reactor does not wait for a disk: what was written is synced soon after, by a child. So a
 * machine that loses its power may forget what was told in the last second; a sandbox that outlives
 * that and has no record is removed at the next start, as others that nobody knows.
 */
#ifndef PICO_STORE_H
#define PICO_STORE_H

#include "proto/sandbox/record.h"
#include "reactor/reactor.h"

struct session_store;

/* Makes dir (0700) and locks it. NULL with a sentence: not ours alone, or another server has it. */
struct session_store *session_store_open(struct reactor *, const char *dir, char *err,
					 size_t errlen);
/* Syncs what was not yet. NULL is ignored. */
void session_store_close(struct session_store *);
/* "pico-apiserver state-sync": the child. Syncs the file system that its working directory is on.
 */
#define SESSION_SYNC_NAME "state-sync"
int session_sync_main(void);
/* Each record, which is the callee's from then on. Damaged files are told to the log, and renamed
 * to ID.json.bad. 0 or -errno. */
int session_store_load(struct session_store *, void (*each)(void *arg, struct sandbox_record *),
		       void *arg);
/* 0 or -errno, and the old one is as it was. */
int session_store_put(struct session_store *, const struct sandbox_record *);
void session_store_remove(struct session_store *, const char *id);

#endif
