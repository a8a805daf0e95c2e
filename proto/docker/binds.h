/*
 * Bind mounts in what the engine is asked (container create) and in what it says (container inspect
 * and list). Pure.
 */
#ifndef DOCKER_BINDS_H
#define DOCKER_BINDS_H

#include "json/json.h"

/* A directory or file of the engine's host in a container. Paths are absolute and clean (as Go's
 * path.Clean makes them), and hold no NUL. */
struct docker_bind {
	char *source, *target;
	bool read_only;
	bool strict;       /* of Mounts: a source that is missing is an error */
	struct json *at;   /* create: the string in Binds, or the object in Mounts */
	struct slice tail; /* create, of Binds: what follows the source, ":/app:ro"; lives as long
			      as the document */
};

struct docker_binds {
	struct docker_bind *v;
	size_t n;
	char **targets; /* of all mounts: volumes and tmpfs, too */
	size_t ntargets;
	bool unfenced; /* by the label tstunnel.fence=off */
};

/* POST /containers/create: those whose source is absolute. Names of members are taken in any case,
 * as the engine takes them; what it would refuse is left out. Released with docker_binds_end, as
 * the others. */
void docker_binds_asked(struct docker_binds *, struct json_doc *);
/* GET /containers/NAME/json, or one element of GET /containers/json (element NULL: the root). */
void docker_binds_mounted(struct docker_binds *, struct json_doc *, struct json *element);
void docker_binds_end(struct docker_binds *);

/* What other mounts cover of bind i: paths relative to its target, sorted, none below another. The
 * strings are the caller's, and the array (NULL when there are none). */
char **docker_binds_masks(const struct docker_binds *, size_t i, size_t *n);

/* Sorts n relative paths, frees those that lie below another or are another, and returns how many
 * are left. */
size_t docker_paths_outermost(char **paths, size_t n);

/* Gives a bind of a create request another source (absolute, without NUL): 0, or -EINVAL when the
 * document takes it not (a colon in Binds; over its limits). Once a bind. */
int docker_bind_move(struct json_doc *, const struct docker_bind *, struct slice source);
/* Adds sentences to the Warnings of the reply to a create. 0 or -EINVAL: it is none. */
int docker_warnings_add(struct json_doc *, char *const *texts, size_t n);

/* What is this path of the engine's host called here? False: it stays as it is. */
typedef bool docker_source_here(void *arg, struct slice there, struct slice *here);
/* Rewrites sources in replies: Mounts[].Source, and of inspect HostConfig.Binds and
 * HostConfig.Mounts[].Source, too; nothing else. Returns how many have changed. */
size_t docker_sources_list(struct json_doc *, docker_source_here *, void *arg);
size_t docker_sources_inspect(struct json_doc *, docker_source_here *, void *arg);

/* An absolute path without "//", "/./", "/../" and a slash at its end: malloc'ed, NULL for one that
 * is not absolute or holds a NUL. */
char *docker_path_clean(struct slice path);
/* path without root, as a relative path: NULL when it is not below root; "" when it is root. Both
 * clean. */
const char *docker_path_below(const char *root, const char *path);

#endif
