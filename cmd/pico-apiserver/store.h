/*
 * The sessions on disk: DIR/sessions/ID.json, one file each, written aside, synced and renamed, so
 * that whoever reads finds the old or the new one. DIR/lock is held while a server runs. The files
 * are under 64 KiB, and on a tmpfs by default (/run): a write does wait for the disk that it is on.
 */
#ifndef PICO_STORE_H
#define PICO_STORE_H

#include "proto/sandbox/record.h"

struct session_store;

/* Makes dir (0700) and locks it. NULL with a sentence: not ours alone, or another server has it. */
struct session_store *session_store_open(const char *dir, char *err, size_t errlen);
void session_store_close(struct session_store *); /* NULL is ignored */
/* Each record, which is the callee's from then on. Damaged files are told to the log, and renamed
 * to ID.json.bad. 0 or -errno. */
int session_store_load(struct session_store *, void (*each)(void *arg, struct sandbox_record *),
		       void *arg);
/* 0 or -errno, and the old one is as it was. */
int session_store_put(struct session_store *, const struct sandbox_record *);
void session_store_remove(struct session_store *, const char *id);

#endif
