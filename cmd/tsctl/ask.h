/*
 * Asking a running tsctl over its control socket.
 */
#ifndef TSCTL_ASK_H
#define TSCTL_ASK_H

#include "http/http.h"
#include "reactor/dial.h"

/* One request with a JSON body (may be empty), and its reply's status and body (the caller buf_ends
 * it in any case), within ms milliseconds. 0, or a code when there was no whole reply. Runs a
 * reactor of its own. */
int control_ask(const struct addr *socket, const char *method, const char *path, struct slice body,
		uint64_t ms, int *status, struct buf *reply);

#endif
