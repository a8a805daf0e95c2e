#include "proto/docker/binds.h"

#include <errno.h>

#include "proto/docker/docker.h"
#include "reactor/buf.h"

#define FENCE_LABEL "tstunnel.fence"

/* --- paths --- */

char *docker_path_clean(struct slice path)
{
	if (path.n == 0 || path.p[0] != '/' || memchr(path.p, '\0', path.n))
		return NULL;
	char *out = xmalloc(path.n + 2);
	size_t n = 0;
	struct slice rest = slice_after(path, 1), part;
	for (bool more = true; more;) {
		more = slice_cut(rest, '/', &part, &rest);
		if (slice_eq(part, SLICE("..")))
			while (n > 0 && out[--n] != '/')
				;
		else if (part.n && !slice_eq(part, SLICE("."))) {
			out[n++] = '/';
			memcpy(out + n, part.p, part.n);
			n += part.n;
		}
	}
	if (n == 0)
		out[n++] = '/';
	out[n] = '\0';
	return out;
}

const char *docker_path_below(const char *root, const char *path)
{
	size_t n = strlen(root);
	if (strcmp(root, "/") == 0)
		return path + 1;
	if (strncmp(path, root, n) != 0 || (path[n] && path[n] != '/'))
		return NULL;
	return path[n] ? path + n + 1 : path + n;
}

/* --- reading --- */

/* Makes room for one more in an array whose size doubles. */
static void *grown(void *v, size_t n, size_t size)
{
	return (n & (n - 1)) == 0 ? xrealloc(v, MAX(2 * n, 1) * size) : v;
}

static void add_target(struct docker_binds *b, struct slice text)
{
	char *path = docker_path_clean(text);
	if (!path)
		return;
	b->targets = grown(b->targets, b->ntargets, sizeof(char *));
	b->targets[b->ntargets++] = path;
}

static struct docker_bind *add_bind(struct docker_binds *b, struct slice source,
				    struct slice target)
{
	char *from = docker_path_clean(source), *to = docker_path_clean(target);
	if (!from || !to) {
		free(from);
		free(to);
		return NULL;
	}
	b->v = grown(b->v, b->n, sizeof(*b->v));
	b->v[b->n] = (struct docker_bind){ .source = from, .target = to };
	return &b->v[b->n++];
}

/* "ro,z" */
static bool has_word(struct slice words, struct slice word)
{
	struct slice one;
	for (bool more = true; more;) {
		more = slice_cut(words, ',', &one, &words);
		if (slice_eq(one, word))
			return true;
	}
	return false;
}

/* "src:dst[:opts]" (moby volume/mounts/linux_parser.go): a colon cannot be part of a path. */
static bool split_spec(struct slice spec, struct slice *source, struct slice *target,
		       struct slice *options)
{
	struct slice rest, more;
	if (!slice_cut(spec, ':', source, &rest))
		return false;
	bool third = slice_cut(rest, ':', target, options);
	return !third || !slice_cut(*options, ':', &rest, &more);
}

static void take_spec(struct docker_binds *b, struct json_doc *doc, struct json *v)
{
	struct slice spec, source, target, options;
	if (json_str(doc, v, &spec) < 0)
		return;
	if (!split_spec(spec, &source, &target, &options)) {
		add_target(b, spec); /* "/dst": an anonymous volume */
		return;
	}
	add_target(b, target);
	struct docker_bind *bind = add_bind(b, source, target);
	if (!bind)
		return; /* a volume */
	bind->read_only = has_word(options, SLICE("ro"));
	bind->at = v;
	bind->tail = slice_after(spec, source.n);
}

/* The last of that name: the one that the engine believes. */
static struct json *last_named(struct json *object, const char *name)
{
	struct json *v = NULL, *last = NULL;
	while ((v = docker_named(object, v, name)))
		last = v;
	return last;
}

static struct slice text_of(struct json_doc *doc, struct json *object, const char *name)
{
	struct slice s = SLICE("");
	json_str(doc, last_named(object, name), &s);
	return s;
}

static bool flag_of(struct json *object, const char *name)
{
	bool b = false;
	json_bool(last_named(object, name), &b);
	return b;
}

static void take_mount(struct docker_binds *b, struct json_doc *doc, struct json *mount)
{
	struct slice target = text_of(doc, mount, "Target");
	add_target(b, target);
	if (!slice_eq(text_of(doc, mount, "Type"), SLICE("bind")))
		return;
	struct docker_bind *bind = add_bind(b, text_of(doc, mount, "Source"), target);
	if (!bind)
		return;
	bind->read_only = flag_of(mount, "ReadOnly");
	bind->strict = !flag_of(last_named(mount, "BindOptions"), "CreateMountpoint");
	bind->at = mount;
}

static void take_label(struct docker_binds *b, struct json_doc *doc, struct json *labels)
{
	struct slice value = SLICE("");
	json_str(doc, json_find(labels, FENCE_LABEL), &value);
	b->unfenced |= slice_eq(value, SLICE("off"));
}

static struct json *elements(struct json *v)
{
	return v->type == JSON_ARRAY ? json_first(v) : NULL;
}

static struct json *members(struct json *v)
{
	return v->type == JSON_OBJECT ? json_first(v) : NULL;
}

static void take_host(struct docker_binds *b, struct json_doc *doc, struct json *host)
{
	struct json *v = NULL;
	while ((v = docker_named(host, v, "Binds")))
		for (struct json *e = elements(v); e; e = json_next(e))
			take_spec(b, doc, e);
	while ((v = docker_named(host, v, "Mounts")))
		for (struct json *e = elements(v); e; e = json_next(e))
			take_mount(b, doc, e);
	while ((v = docker_named(host, v, "Tmpfs")))
		for (struct json *m = members(v); m; m = json_next(m))
			add_target(b, m->name);
}

void docker_binds_asked(struct docker_binds *b, struct json_doc *doc)
{
	struct json *root = json_root(doc), *v = NULL;
	*b = (struct docker_binds){ .n = 0 };
	while ((v = docker_named(root, v, "HostConfig")))
		take_host(b, doc, v);
	while ((v = docker_named(root, v, "Volumes")))
		for (struct json *m = members(v); m; m = json_next(m))
			add_target(b, m->name);
	take_label(b, doc, last_named(root, "Labels"));
}

void docker_binds_mounted(struct docker_binds *b, struct json_doc *doc, struct json *element)
{
	struct json *root = element ? element : json_root(doc);
	struct json *mounts = json_find(root, "Mounts"), *config = json_find(root, "Config");
	struct json *tmpfs = json_find(root, "HostConfig", "Tmpfs");
	*b = (struct docker_binds){ .n = 0 };
	for (struct json *m = mounts ? elements(mounts) : NULL; m; m = json_next(m)) {
		struct slice type = SLICE(""), source = SLICE(""), target = SLICE("");
		bool rw = true;
		json_str(doc, json_find(m, "Type"), &type);
		json_str(doc, json_find(m, "Source"), &source);
		json_str(doc, json_find(m, "Destination"), &target);
		json_bool(json_find(m, "RW"), &rw);
		add_target(b, target);
		struct docker_bind *bind =
		    slice_eq(type, SLICE("bind")) ? add_bind(b, source, target) : NULL;
		if (bind)
			bind->read_only = !rw;
	}
	for (struct json *m = tmpfs ? members(tmpfs) : NULL; m; m = json_next(m))
		add_target(b, m->name);
	take_label(b, doc, json_find(config ? config : root, "Labels"));
}

void docker_binds_end(struct docker_binds *b)
{
	for (size_t i = 0; i < b->n; i++) {
		free(b->v[i].source);
		free(b->v[i].target);
	}
	for (size_t i = 0; i < b->ntargets; i++)
		free(b->targets[i]);
	free(b->v);
	free(b->targets);
	*b = (struct docker_binds){ .n = 0 };
}

/* --- masks --- */

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

size_t docker_paths_outermost(char **paths, size_t n)
{
	size_t kept = 0;
	if (n)
		qsort(paths, n, sizeof(char *), by_text);
	for (size_t i = 0; i < n; i++) {
		bool covered = false;
		for (size_t k = 0; k < kept && !covered; k++)
			covered = docker_path_below(paths[k], paths[i]) != NULL;
		if (covered)
			free(paths[i]);
		else
			paths[kept++] = paths[i];
	}
	return kept;
}

char **docker_binds_masks(const struct docker_binds *b, size_t i, size_t *n)
{
	char **all = NULL;
	size_t count = 0;
	for (size_t t = 0; t < b->ntargets; t++) {
		const char *below = docker_path_below(b->v[i].target, b->targets[t]);
		if (!below || !*below)
			continue;
		all = grown(all, count, sizeof(char *));
		all[count++] = xstrdup(below);
	}
	*n = docker_paths_outermost(all, count);
	return all;
}

/* --- writing --- */

/* Gives the string v the text a + b. */
static int set_text(struct json_doc *doc, struct json *v, struct slice a, struct slice b)
{
	struct buf text;
	buf_init(&text, a.n + b.n);
	int r = buf_put(&text, a);
	if (r == 0)
		r = buf_put(&text, b);
	BUG_ON(r < 0);
	r = json_replace(doc, v, json_quote(doc, buf_data(&text))) ? 0 : -EINVAL;
	buf_end(&text);
	return r;
}

int docker_bind_move(struct json_doc *doc, const struct docker_bind *bind, struct slice source)
{
	struct json *v, *next;
	if (bind->at->type == JSON_STRING)
		return memchr(source.p, ':', source.n)
			   ? -EINVAL
			   : set_text(doc, bind->at, source, bind->tail);
	for (v = docker_named(bind->at, NULL, "Source"); v; v = next) {
		next = docker_named(bind->at, v, "Source");
		if (set_text(doc, v, source, SLICE("")) < 0)
			return -EINVAL;
	}
	return 0;
}

int docker_warnings_add(struct json_doc *doc, char *const *texts, size_t n)
{
	struct json *root = json_root(doc);
	if (root->type != JSON_OBJECT)
		return -EINVAL;
	struct json *list = json_member(root, SLICE("Warnings"));
	if (!list || list->type != JSON_ARRAY)
		list = json_set(doc, root, SLICE("Warnings"), SLICE("[]"));
	for (size_t i = 0; i < n; i++)
		if (!list || !json_append(doc, list, json_quote(doc, slice_str(texts[i]))))
			return -EINVAL;
	return 0;
}

/* --- replies --- */

static size_t show_source(struct json_doc *doc, struct json *v, docker_source_here *here, void *arg)
{
	struct slice there, local;
	return json_str(doc, v, &there) == 0 && here(arg, there, &local) &&
	       set_text(doc, v, local, SLICE("")) == 0;
}

static size_t show_mounts(struct json_doc *doc, struct json *mounts, docker_source_here *here,
			  void *arg)
{
	size_t changed = 0;
	for (struct json *m = mounts ? elements(mounts) : NULL; m; m = json_next(m)) {
		struct slice type = SLICE("");
		json_str(doc, json_find(m, "Type"), &type);
		if (slice_eq(type, SLICE("bind")))
			changed += show_source(doc, json_find(m, "Source"), here, arg);
	}
	return changed;
}

size_t docker_sources_list(struct json_doc *doc, docker_source_here *here, void *arg)
{
	struct json *root = json_root(doc);
	size_t changed = 0;
	for (struct json *c = elements(root); c; c = json_next(c))
		changed += show_mounts(doc, json_find(c, "Mounts"), here, arg);
	return changed;
}

size_t docker_sources_inspect(struct json_doc *doc, docker_source_here *here, void *arg)
{
	struct json *root = json_root(doc), *next;
	struct json *binds = json_find(root, "HostConfig", "Binds");
	size_t changed = show_mounts(doc, json_find(root, "Mounts"), here, arg);
	changed += show_mounts(doc, json_find(root, "HostConfig", "Mounts"), here, arg);
	for (struct json *v = binds ? elements(binds) : NULL; v; v = next) {
		struct slice spec, there, target, options, local;
		next = json_next(v);
		if (json_str(doc, v, &spec) == 0 && split_spec(spec, &there, &target, &options) &&
		    here(arg, there, &local))
			changed += set_text(doc, v, local, slice_after(spec, there.n)) == 0;
	}
	return changed;
}
