/*
 * The stress section of the guide: many trials, some at once, and how long they took.
 */
#ifndef CMD_TEST_TUNNEL_LOAD_H
#define CMD_TEST_TUNNEL_LOAD_H

#include "cmd/test-tunnel/trial.h"

/* Runs count trials, at most at_once together, and prints the summary on stdout, the first reasons
 * of failures on stderr. The number of failures. */
size_t load_run(struct reactor *, const struct plan *, size_t count, size_t at_once);

#endif
