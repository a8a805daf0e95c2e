/*
 * tsctl sync: what its files share.
 */
#ifndef TSCTL_SYNC_CLI_H
#define TSCTL_SYNC_CLI_H

#include "cmd/tsctl/instance.h"
#include "json/json.h"
#include "reactor/buf.h"

enum { SYNC_USAGE = 2, SYNC_FOUND_MAX = 4096, SYNC_SHORT = 12 };

/* Who answered a list: the daemon, or a tsctl start. */
struct sync_source {
	bool daemon;
	struct addr socket;
	struct buf reply;
	struct json_doc *doc;
};

struct sync_found {
	struct sync_source *source;
	struct json *sync; /* an object of the list */
};

/* All syncs of this user. */
struct sync_list {
	struct sync_source *sources;
	size_t nsources;
	struct sync_found *all;
	size_t n;
};

/* --- sync_client.c --- */
/* Asks everybody: 0, or the exit status after an error message. Zeroed before, and to be released
 * in any case. */
int sync_list_get(struct sync_list *);
void sync_list_end(struct sync_list *);
/* Those that names (or all) mean, into picked (as many as list.n), by name, id or the start of an
 * id: how many, or -1 after an error message. */
int sync_list_pick(const struct sync_list *, char *const *names, int n, bool all,
		   struct sync_found *picked);
/* POST /syncs/VERB for these, within ms (0: a day); more is JSON members that follow (",\"x\":1"),
 * or NULL. Prints the labels of those it is done for. Returns the exit status. */
int sync_list_post(const struct sync_found *, int n, const char *verb, uint64_t ms,
		   const char *more);

/* --- sync_show.c --- */
void sync_print_table(const struct sync_list *, const struct sync_found *, int n);
void sync_print_json(const struct sync_found *, int n);
/* Its name, or the first digits of its id; lives until the next but seven. */
const char *sync_label(const struct sync_found *);
/* "transferring, 3 files, 1.2 MB left, 2 conflicts". */
void sync_put_state(struct buf *, const struct sync_found *);
/* A path out of a reply, for a person; to be free()d. */
char *sync_path_shown(struct slice text);

/* Subcommands; argv[0] is their name. Return the exit status. */
int cmd_sync_list(int argc, char **argv);
int cmd_sync_monitor(int argc, char **argv);
int cmd_sync_change(int argc, char **argv); /* pause, resume, reset, terminate, flush */
int cmd_sync_resolve(int argc, char **argv);

#endif
