#include "cmd/tsctl/sync_record.h"

#include <errno.h>

#include "cmd/tsctl/forward_store.h"
#include "proto/sync/path_text.h"

void sync_record_end(struct sync_record *r)
{
	free(r->name);
	free(r->alpha);
	free(r->beta);
	free(r->ignore);
	*r = (struct sync_record){ .id = "" };
}

static void put_str(struct json_writer *w, const char *name, const char *text)
{
	json_put_name(w, name);
	json_put_str(w, slice_str(text));
}

static const struct {
	const char *name;
	size_t at;
} flags[] = { { "file", offsetof(struct sync_record, file) },
	      { "ignore_vcs", offsetof(struct sync_record, ignore_vcs) },
	      { "paused", offsetof(struct sync_record, paused) } },
  times[] = { { "connect_ms", offsetof(struct sync_record, connect_ms) },
	      { "handshake_ms", offsetof(struct sync_record, handshake_ms) },
	      { "keepalive_ms", offsetof(struct sync_record, keepalive_ms) } };

void sync_record_put(struct json_writer *w, const struct sync_record *r)
{
	const char *base = (const char *)r;
	json_put_object(w);
	put_str(w, "id", r->id);
	put_str(w, "name", r->name);
	json_put_name(w, "alpha");
	path_text_put(w, r->alpha);
	put_str(w, "beta", r->beta);
	json_put_name(w, "ignore");
	path_text_put(w, r->ignore);
	put_str(w, "mode", sync_mode_text(r->mode));
	for (size_t i = 0; i < ARRAY_LEN(flags); i++) {
		json_put_name(w, flags[i].name);
		json_put_bool(w, *(const bool *)(base + flags[i].at));
	}
	for (size_t i = 0; i < ARRAY_LEN(times); i++) {
		json_put_name(w, times[i].name);
		json_put_u64(w, *(const uint64_t *)(const void *)(base + times[i].at));
	}
	json_put_end(w);
}

/* NULL: it is malformed. */
static char *get_path(struct json_doc *doc, struct json *object, const char *name)
{
	struct slice text = SLICE("");
	int r = json_str(doc, json_member(object, slice_str(name)), &text);
	return r < 0 && r != -ENOENT ? NULL : path_text_get(text);
}

static bool is_id(struct slice s)
{
	for (size_t i = 0; i < s.n; i++)
		if (!memchr("0123456789abcdef", s.p[i], 16))
			return false;
	return s.n == SYNC_ID_LEN;
}

/* The member that is wrong; NULL: none. */
static const char *get_all(struct sync_record *r, struct json_doc *doc, struct json *object)
{
	char *base = (char *)r;
	struct slice text = SLICE("");
	int e;
	if (json_str(doc, json_member(object, SLICE("id")), &text) < 0 || !is_id(text))
		return "id";
	memcpy(r->id, text.p, SYNC_ID_LEN);
	text = SLICE("");
	e = json_str(doc, json_member(object, SLICE("name")), &text);
	r->name = xslicedup(text);
	if ((e < 0 && e != -ENOENT) || (text.n && !forward_name_ok(r->name)))
		return "name";
	r->alpha = get_path(doc, object, "alpha");
	if (!r->alpha || r->alpha[0] != '/')
		return "alpha";
	r->ignore = get_path(doc, object, "ignore");
	if (!r->ignore)
		return "ignore";
	if (json_str(doc, json_member(object, SLICE("beta")), &text) < 0 ||
	    memchr(text.p, '\0', text.n))
		return "beta";
	r->beta = xslicedup(text);
	text = SLICE("");
	json_str(doc, json_member(object, SLICE("mode")), &text);
	r->mode = sync_mode_parse(text);
	if (!r->mode)
		return "mode";
	for (size_t i = 0; i < ARRAY_LEN(flags); i++) {
		e = json_bool(json_member(object, slice_str(flags[i].name)),
			      (bool *)(base + flags[i].at));
		if (e < 0 && e != -ENOENT)
			return flags[i].name;
	}
	for (size_t i = 0; i < ARRAY_LEN(times); i++) {
		e = json_u64(json_member(object, slice_str(times[i].name)),
			     (uint64_t *)(void *)(base + times[i].at));
		if (e < 0 && e != -ENOENT)
			return times[i].name;
	}
	return NULL;
}

int sync_record_get(struct sync_record *r, struct json_doc *doc, struct json *object, char *err,
		    size_t errlen)
{
	*r = (struct sync_record){ .id = "" };
	const char *bad =
	    object && object->type == JSON_OBJECT ? get_all(r, doc, object) : "record";
	if (!bad)
		return 0;
	snprintf(err, errlen, "malformed \"%s\" of a sync", bad);
	sync_record_end(r);
	return -EINVAL;
}

bool sync_record_same_ends(const struct sync_record *a, const struct sync_record *b)
{
	return strcmp(a->alpha, b->alpha) == 0 && strcmp(a->beta, b->beta) == 0;
}

bool sync_record_same_options(const struct sync_record *a, const struct sync_record *b)
{
	return a->mode == b->mode && strcmp(a->ignore, b->ignore) == 0 &&
	       a->ignore_vcs == b->ignore_vcs && strcmp(a->name, b->name) == 0;
}
