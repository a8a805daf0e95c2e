/*
 * What is kept of the forwards of the daemon: one record each, in one JSON file of this user,
 * $XDG_STATE_HOME/tstunnel/forwards.json (else under ~/.local/state), mode 0600. It names
 * certificate files, and holds no secrets. The same records ask the daemon for a forward.
 */
#ifndef TSCTL_FORWARD_STORE_H
#define TSCTL_FORWARD_STORE_H

#include "json/json.h"

enum { FORWARD_ID_LEN = 8, FORWARD_NAME_LEN = 64, FORWARDS_MAX = 1000 };

struct forward_record {
	char id[FORWARD_ID_LEN + 1]; /* hexadecimal digits */
	char *name;                  /* "" without one */
	char *src, *dst;             /* for forward_parse; all file names absolute */
	bool insecure, paused;
	uint16_t port; /* that port 0 has got, to be had again; 0: none yet */
	uint64_t connect_ms, handshake_ms, keepalive_ms, udp_idle_ms;
};

void forward_record_end(struct forward_record *);
void forward_record_put(struct json_writer *, const struct forward_record *);
/* From an object: 0, or -EINVAL with a sentence, and it holds nothing. Unknown members are ignored.
 */
int forward_record_get(struct forward_record *, struct json_doc *, struct json *object, char *err,
		       size_t errlen);
/* Letters, digits, '-', '_' and '.', not '-' in front, at most FORWARD_NAME_LEN. */
bool forward_name_ok(const char *name);

/* state_path, state_load (each record is the callee's from then on) and state_save of them. */
int forward_store_path(char *out, size_t outlen, bool make, char *err, size_t errlen);
int forward_store_load(const char *path, void (*each)(void *arg, struct forward_record *),
		       void *arg, char *err, size_t errlen);
/* next gives the i-th record. */
int forward_store_save(const char *path, size_t n,
		       const struct forward_record *(*next)(void *arg, size_t i), void *arg,
		       char *err, size_t errlen);

#endif
