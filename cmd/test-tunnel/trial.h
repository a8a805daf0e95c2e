/*
 * One test from end to end: tunnel, SSH, then the steps one after another.
 */
#ifndef CMD_TEST_TUNNEL_TRIAL_H
#define CMD_TEST_TUNNEL_TRIAL_H

#include "cmd/test-tunnel/opening.h"
#include "proto/ssh/key.h"

enum step_kind {
	STEP_COMMAND = 0, /* shown whole; exit status 0 passes */
	STEP_CHECK,       /* one line of output, shown behind label */
	STEP_UPLOAD,      /* local to remote */
	STEP_DOWNLOAD     /* remote to local */
};

struct step {
	enum step_kind kind;
	const char *label, *command; /* COMMAND (no label), CHECK */
	const char *local, *remote;  /* UPLOAD, DOWNLOAD */
};

struct plan {
	struct target target;
	const char *user, *password;
	struct ssh_key *key;      /* NULL: none */
	struct slice known_hosts; /* for sandboxes whose key the API does not tell */
	const struct step *steps;
	size_t nsteps;
	bool talk; /* say what happens, in the words of the guide */
};

/* Microseconds: until the tunnel was open, from then until SSH was, then the steps; all of it. */
enum { TRIAL_TUNNEL = 0, TRIAL_SSH, TRIAL_STEPS, TRIAL_TOTAL, TRIAL_TIMES };

struct trial;

/* Never NULL. ended is called once, from the reactor; the trial is gone then. why: NULL when every
 * step passed. */
struct trial *trial_new(struct reactor *, const struct plan *,
			void (*ended)(void *arg, const char *why, const uint64_t us[TRIAL_TIMES]),
			void *arg);

/* "2025/10/24 03:45:00 text" on stderr, in local time. */
void say(const char *fmt, ...) PRINTF_LIKE(1, 2);

#endif
