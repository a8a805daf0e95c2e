/*
 * What the Engine API (v1.24 and later) says and wants to hear about a container that is a sandbox.
 * Pure. What these write and read is in Docker's API reference under ContainerCreate,
 * ContainerInspect, ContainerList and ContainerArchive.
 */
#ifndef DOCKER_SANDBOX_H
#define DOCKER_SANDBOX_H

#include "json/json.h"
#include "reactor/buf.h"

struct docker_sandbox {
	const char *id, *name, *server; /* labels session-id, sandbox, pico-server */
	const char *image;
	const char *user;
	const char *public_key, *server_key; /* may be NULL */
	int64_t expires_at;
	uint64_t memory;
	unsigned pids, cpu_millis, ssh_port;
};

/* The environment that images/sandbox/entrypoint.sh reads, as one "NAME=value" after the other:
 * calls put for each. */
void docker_sandbox_env(const struct docker_sandbox *,
			void (*put)(void *arg, const char *name, const char *value), void *arg);
/* The body of POST /containers/create. */
void docker_sandbox_put(struct buf *, const struct docker_sandbox *);
/* The value of filters= for GET /containers/json, percent-encoded: all of this server's, or
 * (session not NULL) those of one session. */
void docker_sandbox_filters(const char *server, const char *session, char *out, size_t outlen);

/* What GET /containers/ID/json says. Slices live as long as the document. */
struct docker_inspect {
	struct slice id, session, address;
	bool running, paused;
	int64_t exit_code;
};
/* 0, or -EINVAL. */
int docker_inspect_read(struct json_doc *, struct docker_inspect *);

/* {"message":"..."} of a refusal, or what else there is, as one line. */
void docker_message(struct slice body, char *out, size_t outlen);

/* The first regular file of a tar archive (POSIX ustar): its content, inside of tar. .p NULL:
 * none. */
struct slice docker_tar_file(struct slice tar);

/* Eight bytes before each piece of a stream that is not a terminal's: 1 stdout, 2 stderr. Returns
 * the type and the length, or -EINVAL. */
int docker_frame_read(const uint8_t head[8], uint32_t *length);

#endif
