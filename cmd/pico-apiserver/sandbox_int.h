/* Inside of sessions: sandbox.c has their life, sandbox_start.c what is left of an earlier one. */
#ifndef PICO_SANDBOX_INT_H
#define PICO_SANDBOX_INT_H

#include "cmd/pico-apiserver/sandbox.h"

/* Of those that have expired: their owners are told so. */
struct tombstone {
	char id[SANDBOX_ID_LEN + 1];
	char *owner;
};

/* Unix time; milliseconds until then, at least 0. */
int64_t session_now(void);
uint64_t session_ms_until(int64_t t);
/* In any state, anybody's; NULL. */
struct session *session_by_id(struct sessions *, struct slice id);
/* Takes the record. */
struct session *session_add(struct sessions *, struct sandbox_record *);
/* The end of s: it is in no list afterwards. */
void session_drop(struct session *, const char *why);
void session_bury(struct session *);
struct box_spec session_spec(const struct session *);
/* box_events of a session. */
void session_on_ready(void *session, const char *fingerprint, bool paused);
void session_on_gone(void *session, int code, const char *why);
/* Timer sessions.sample. */
void session_sample_all(struct timer *);

#endif
