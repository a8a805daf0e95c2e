/*
 * Bind mounts in any JSON: paths are clean, masks lie below their target and not below each other;
 * a request whose binds were moved has them where they were moved to, and all else as it was; what
 * a reply calls by another name is called back by it.
 */
#include "proto/docker/binds.h"
#include "reactor/buf.h"

enum { ROOM = 8 << 20 };

static const char root[] = "/S/o";

static struct json_doc *parse(struct slice text)
{
	static const struct json_limits max = { .bytes = ROOM };
	return json_parse(text, &max, NULL);
}

static struct json_doc *printed(struct json_doc *doc, struct buf *b)
{
	buf_init(b, ROOM);
	BUG_ON(json_print(doc, b) != 0);
	struct json_doc *again = parse(buf_data(b));
	BUG_ON(!again);
	return again;
}

static void check_path(const char *path)
{
	char *again = docker_path_clean(slice_str(path));
	BUG_ON(!again || strcmp(again, path) != 0);
	free(again);
}

static void check_masks(const struct docker_binds *b, size_t i)
{
	size_t n;
	char **masks = docker_binds_masks(b, i, &n);
	for (size_t k = 0; k < n; k++) {
		char *whole = xasprintf("/%s", masks[k]);
		check_path(whole);
		BUG_ON(!*masks[k]);
		BUG_ON(k > 0 && strcmp(masks[k - 1], masks[k]) >= 0);
		BUG_ON(k > 0 && docker_path_below(masks[k - 1], masks[k]));
		free(whole);
	}
	for (size_t k = 0; k < n; k++)
		free(masks[k]);
	free(masks);
}

static void check(const struct docker_binds *b)
{
	for (size_t i = 0; i < b->n; i++) {
		check_path(b->v[i].source);
		check_path(b->v[i].target);
		check_masks(b, i);
	}
	for (size_t i = 0; i < b->ntargets; i++)
		check_path(b->targets[i]);
}

static void create(struct slice text)
{
	struct json_doc *doc = parse(text), *again;
	struct docker_binds before, after;
	struct buf b;
	bool moved = true;
	if (!doc)
		return;
	docker_binds_asked(&before, doc);
	check(&before);
	for (size_t i = 0; i < before.n && moved; i++) {
		char *to = xasprintf("%s%s", root, before.v[i].source);
		moved = docker_bind_move(doc, &before.v[i], slice_str(to)) == 0;
		free(to);
	}
	again = printed(doc, &b);
	docker_binds_asked(&after, again);
	BUG_ON(after.n != before.n || after.ntargets != before.ntargets);
	for (size_t i = 0; i < after.n && moved; i++) {
		const struct docker_bind *was = &before.v[i], *is = &after.v[i];
		const char *below = docker_path_below(root, is->source);
		BUG_ON(!below || strcmp(below, was->source + 1) != 0);
		BUG_ON(strcmp(is->target, was->target) != 0);
		BUG_ON(is->read_only != was->read_only || is->strict != was->strict);
	}
	docker_binds_end(&after);
	docker_binds_end(&before);
	json_free(again);
	buf_end(&b);
	json_free(doc);
}

static bool there(void *arg, struct slice path, struct slice *out)
{
	char *to = xasprintf("%s%.*s", root, SLICE_FMT(path));
	char **kept = arg;
	free(*kept);
	*kept = to;
	*out = slice_str(to);
	return !memchr(path.p, '\0', path.n);
}

static bool back(void *arg, struct slice path, struct slice *out)
{
	(void)arg;
	if (!slice_starts(path, slice_str(root)) || memchr(path.p, '\0', path.n))
		return false;
	*out = slice_after(path, sizeof(root) - 1);
	return true;
}

/* There and back: the sources are what they were. */
static void reply(struct slice text, bool list)
{
	size_t (*rewrite)(struct json_doc *, docker_source_here *, void *) =
	    list ? docker_sources_list : docker_sources_inspect;
	struct json_doc *doc = parse(text), *again, *third;
	struct docker_binds before, after;
	struct buf b, c;
	char *kept = NULL;
	if (!doc)
		return;
	struct json *element = list ? json_first(json_root(doc)) : NULL;
	docker_binds_mounted(&before, doc, element);
	check(&before);
	size_t changed = rewrite(doc, there, &kept);
	again = printed(doc, &b);
	BUG_ON(rewrite(again, back, NULL) != changed);
	third = printed(again, &c);
	docker_binds_mounted(&after, third, list ? json_first(json_root(third)) : NULL);
	BUG_ON(after.n != before.n);
	for (size_t i = 0; i < after.n; i++)
		BUG_ON(strcmp(before.v[i].source, after.v[i].source) != 0);
	docker_binds_end(&after);
	docker_binds_end(&before);
	json_free(third);
	json_free(again);
	json_free(doc);
	buf_end(&b);
	buf_end(&c);
	free(kept);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The first byte says what the rest is. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	struct slice text = slice_of(data + 1, size - 1);
	if (data[0] == 'c')
		create(text);
	else if (data[0] == 'i' || data[0] == 'l')
		reply(text, data[0] == 'l');
	return 0;
}
