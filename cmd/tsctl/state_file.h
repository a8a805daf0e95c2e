/*
 * What this user's daemon keeps: JSON files {"version":1,"forwards":[...]}, mode 0600, in
 * $XDG_STATE_HOME/tstunnel (else under ~/.local/state).
 */
#ifndef TSCTL_STATE_FILE_H
#define TSCTL_STATE_FILE_H

#include "json/json.h"

/* The path of the file or directory name in there. make: the directory, too, mode 0700. 0, or
 * -errno with a sentence, also when the directory is not ours alone to write. */
int state_path(char *out, size_t outlen, const char *name, bool make, char *err, size_t errlen);

struct state_load {
	const char *member; /* "forwards" */
	size_t max;
	/* For every record: 0, or -EINVAL with a sentence. */
	int (*each)(void *arg, struct json_doc *, struct json *, char *err, size_t errlen);
	void *arg;
};
/* No file: none. 0, or -errno with a sentence; a file that is damaged, or not ours alone to write,
 * is an error and stays as it is. */
int state_load(const char *path, const struct state_load *, char *err, size_t errlen);
/* Replaces the file, so that whoever reads it sees the old or the new one; n 0 removes it. put
 * writes the i-th record. 0 or -errno with a sentence. What the disk has not got yet when the power
 * fails is lost: the loop does not wait for disks. */
int state_save(const char *path, const char *member, size_t n,
	       void (*put)(void *arg, size_t i, struct json_writer *), void *arg, char *err,
	       size_t errlen);

#endif
