/*
 * A root of a sync for tests, in a directory of its own: BASE/root, BASE/state/0123.
 */
#ifndef TEST_SYNC_ROOT_H
#define TEST_SYNC_ROOT_H

#include "proto/sync/apply.h"
#include "sync_files.h"

struct sync_root {
	char *base, *path, *store;
	struct root *r;
};

struct sync_root *sync_root_new(const char *name);
void sync_root_free(struct sync_root *);
/* Opens it once more: NULL and *err, with a sentence. */
struct root *sync_root_try(struct sync_root *, bool make, bool in_place, int *err);
void sync_root_reopen(struct sync_root *, bool in_place);
/* What is at path, as an expectation, to be passed to expect_free. */
struct expect expect_now(struct sync_root *, const char *path);
void expect_free(struct expect *);
/* What a shell command in base prints, to be free()d. */
char *output_of(struct sync_root *, const char *command);

#endif
