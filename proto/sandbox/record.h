/*
 * Sandbox sessions as data: what a client asks for, what is kept of a session, and both as JSON.
 * Pure.
 */
#ifndef SANDBOX_RECORD_H
#define SANDBOX_RECORD_H

#include "json/json.h"
#include "reactor/buf.h"

enum {
	SANDBOX_TTL_MIN = 60, /* seconds */
	SANDBOX_TTL_MAX = 28800,
	SANDBOX_TTL_DEFAULT = 3600,
	SANDBOX_METADATA_MAX = 8 * 1024, /* bytes of its JSON text */
	SANDBOX_KEY_MAX = 8 * 1024,      /* of a public key line */
	SANDBOX_IMAGE_MAX = 255,
	SANDBOX_ID_LEN = 36,
	SANDBOX_RECORD_MAX = 64 * 1024
};

/* The body of POST /v1/sessions. All optional. */
struct sandbox_request {
	int64_t ttl;      /* seconds */
	int64_t idle;     /* seconds without activity; 0: no limit */
	char *image;      /* NULL: the default */
	char *public_key; /* one line of authorized_keys; NULL: login by password */
	char *metadata;   /* JSON text of an object; NULL: none */
};

/* Names are taken in camelCase and in snake_case; unknown ones are ignored. text may be empty.
 * ttl_min: SANDBOX_TTL_MIN, less in tests. 0, or -EINVAL with a sentence, and it holds nothing. */
int sandbox_request_get(struct sandbox_request *, struct slice text, int64_t ttl_min, char *err,
			size_t errlen);
void sandbox_request_end(struct sandbox_request *);
/* One line of authorized_keys without options: type, base64, perhaps a comment. */
bool sandbox_public_key_ok(struct slice line);

enum sandbox_state {
	SANDBOX_CREATING = 0,
	SANDBOX_RUNNING,
	SANDBOX_PAUSING,
	SANDBOX_PAUSED,
	SANDBOX_RESUMING,
	SANDBOX_DELETING,
	SANDBOX_FAILED
};
/* "creating", "running", ...: what clients see. */
const char *sandbox_state_text(enum sandbox_state);

/* A session as it is kept on disk. Times are Unix seconds. */
struct sandbox_record {
	char id[SANDBOX_ID_LEN + 1];
	char name[64];
	enum sandbox_state state;
	char *owner;                         /* subject of the token; "" without tokens */
	char *image, *public_key, *metadata; /* NULL: none */
	int64_t created, expires, active;
	int64_t order; /* grows from record to record: several are made within a second */
	int64_t idle;
	char fingerprint[64]; /* "" while unknown */
	char *key;            /* Idempotency-Key; NULL: none */
	char key_hash[65];    /* of the body that came with it, hexadecimal */
};

void sandbox_record_end(struct sandbox_record *);
void sandbox_record_put(struct json_writer *, const struct sandbox_record *);
/* 0, or -EINVAL with a sentence, and it holds nothing. */
int sandbox_record_get(struct sandbox_record *, struct slice text, char *err, size_t errlen);
/* Lower-case hexadecimal digits and dashes as in a UUID. */
bool sandbox_id_ok(struct slice id);

/* RFC 3339, UTC, "2025-10-24T03:45:00Z". */
const char *sandbox_time_text(int64_t t, char out[24]);

#endif
