/*
 * A program in a container as a stream: its stdin and stdout, by the engine's exec API, for
 * containers whose addresses cannot be reached from here. stderr goes to the debug log.
 */
#ifndef PICO_DOCKER_EXEC_H
#define PICO_DOCKER_EXEC_H

#include "cmd/pico-apiserver/rest.h"

/* body: of POST /containers/ID/exec, with AttachStdin, AttachStdout and AttachStderr. api lives
 * longer. Never NULL. */
struct stream *docker_exec(const struct rest *api, const char *container, struct slice body);

#endif
