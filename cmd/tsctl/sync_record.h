/*
 * What is kept of the syncs that were made by hand: one record each, in syncs.json (state_file.h).
 * It names certificate files, and holds no secrets. The same records ask the daemon for a sync.
 */
#ifndef TSCTL_SYNC_RECORD_H
#define TSCTL_SYNC_RECORD_H

#include "json/json.h"
#include "proto/sync/reconcile.h"
#include "proto/tstunnel/url.h"

enum { SYNC_ID_LEN = 32, SYNCS_MAX = 1000 };

struct sync_record {
	char id[SYNC_ID_LEN + 1]; /* hexadecimal digits */
	char *name;               /* "" without one */
	char *alpha;              /* absolute */
	char *beta;               /* tstunnel:// URL; all file names absolute */
	char *ignore;             /* patterns, one a line */
	enum sync_mode mode;
	bool file, ignore_vcs, paused;
	uint64_t connect_ms, handshake_ms, keepalive_ms;
};

void sync_record_end(struct sync_record *);
void sync_record_put(struct json_writer *, const struct sync_record *);
/* From an object: 0, or -EINVAL with a sentence, and it holds nothing. Unknown members are ignored.
 */
int sync_record_get(struct sync_record *, struct json_doc *, struct json *object, char *err,
		    size_t errlen);
/* Do they keep the same two alike? And in the same way? */
bool sync_record_same_ends(const struct sync_record *, const struct sync_record *);
bool sync_record_same_options(const struct sync_record *, const struct sync_record *);

#endif
