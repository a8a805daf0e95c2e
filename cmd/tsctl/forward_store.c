#include "cmd/tsctl/forward_store.h"

#include <ctype.h>
#include <errno.h>

#include "cmd/tsctl/state_file.h"

enum { TEXT_MAX = 16 * 1024 };

/* --- a record --- */

void forward_record_end(struct forward_record *r)
{
	free(r->name);
	free(r->src);
	free(r->dst);
	*r = (struct forward_record){ .id = "" };
}

bool forward_name_ok(const char *name)
{
	size_t n = strlen(name);
	if (n == 0 || n > FORWARD_NAME_LEN || name[0] == '-')
		return false;
	for (size_t i = 0; i < n; i++)
		if (!isalnum((unsigned char)name[i]) && !strchr("-_.", name[i]))
			return false;
	return true;
}

/* The members but for "id", in the order of the file. */
static const struct {
	const char *name;
	size_t at;
} texts[] = { { "name", offsetof(struct forward_record, name) },
	      { "src", offsetof(struct forward_record, src) },
	      { "dst", offsetof(struct forward_record, dst) } },
  flags[] = { { "insecure", offsetof(struct forward_record, insecure) },
	      { "paused", offsetof(struct forward_record, paused) } },
  times[] = { { "connect_ms", offsetof(struct forward_record, connect_ms) },
	      { "handshake_ms", offsetof(struct forward_record, handshake_ms) },
	      { "keepalive_ms", offsetof(struct forward_record, keepalive_ms) },
	      { "udp_idle_ms", offsetof(struct forward_record, udp_idle_ms) } };

void forward_record_put(struct json_writer *w, const struct forward_record *r)
{
	const char *base = (const char *)r;
	json_put_object(w);
	json_put_name(w, "id");
	json_put_str(w, slice_str(r->id));
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		json_put_name(w, texts[i].name);
		json_put_str(w, slice_str(*(char *const *)(const void *)(base + texts[i].at)));
	}
	for (size_t i = 0; i < ARRAY_LEN(flags); i++) {
		json_put_name(w, flags[i].name);
		json_put_bool(w, *(const bool *)(base + flags[i].at));
	}
	for (size_t i = 0; i < ARRAY_LEN(times); i++) {
		json_put_name(w, times[i].name);
		json_put_u64(w, *(const uint64_t *)(const void *)(base + times[i].at));
	}
	json_put_name(w, "port");
	json_put_u64(w, r->port);
	json_put_end(w);
}

/* A string without NUL bytes. */
static int get_text(struct json_doc *doc, struct json *object, const char *name, struct slice *out)
{
	*out = SLICE("");
	int r = json_str(doc, json_member(object, slice_str(name)), out);
	if (r == -ENOENT)
		return 0;
	return r < 0 || out->n > TEXT_MAX || memchr(out->p, '\0', out->n) ? -EINVAL : 0;
}

static bool is_id(struct slice s)
{
	for (size_t i = 0; i < s.n; i++)
		if (!strchr("0123456789abcdef", s.p[i]))
			return false;
	return s.n == FORWARD_ID_LEN;
}

static const char *get_all(struct forward_record *r, struct json_doc *doc, struct json *object)
{
	char *base = (char *)r;
	struct slice text;
	uint64_t port = 0;
	int e;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		if (get_text(doc, object, texts[i].name, &text) < 0)
			return texts[i].name;
		*(char **)(void *)(base + texts[i].at) = xslicedup(text);
	}
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
	e = json_u64(json_member(object, SLICE("port")), &port);
	if ((e < 0 && e != -ENOENT) || port > UINT16_MAX)
		return "port";
	r->port = (uint16_t)port;
	if (get_text(doc, object, "id", &text) < 0 || !is_id(text))
		return "id";
	memcpy(r->id, text.p, FORWARD_ID_LEN);
	return r->name[0] && !forward_name_ok(r->name) ? "name" : NULL;
}

int forward_record_get(struct forward_record *r, struct json_doc *doc, struct json *object,
		       char *err, size_t errlen)
{
	*r = (struct forward_record){ .id = "" };
	const char *bad =
	    object && object->type == JSON_OBJECT ? get_all(r, doc, object) : "record";
	if (!bad)
		return 0;
	snprintf(err, errlen, "malformed \"%s\" of a forward", bad);
	forward_record_end(r);
	return -EINVAL;
}

/* --- the file --- */

int forward_store_path(char *out, size_t outlen, bool make, char *err, size_t errlen)
{
	return state_path(out, outlen, "forwards.json", make, err, errlen);
}

struct loading {
	void (*each)(void *arg, struct forward_record *);
	void *arg;
};

static int on_record(void *arg, struct json_doc *doc, struct json *object, char *err, size_t errlen)
{
	const struct loading *l = arg;
	struct forward_record r;
	if (forward_record_get(&r, doc, object, err, errlen) < 0)
		return -EINVAL;
	l->each(l->arg, &r);
	return 0;
}

int forward_store_load(const char *path, void (*each)(void *arg, struct forward_record *),
		       void *arg, char *err, size_t errlen)
{
	struct loading l = { each, arg };
	return state_load(
	    path,
	    &(struct state_load){
		.member = "forwards", .max = FORWARDS_MAX, .each = on_record, .arg = &l },
	    err, errlen);
}

struct saving {
	const struct forward_record *(*next)(void *arg, size_t i);
	void *arg;
};

static void put_record(void *arg, size_t i, struct json_writer *w)
{
	const struct saving *s = arg;
	forward_record_put(w, s->next(s->arg, i));
}

int forward_store_save(const char *path, size_t n,
		       const struct forward_record *(*next)(void *arg, size_t i), void *arg,
		       char *err, size_t errlen)
{
	struct saving s = { next, arg };
	return state_save(path, "forwards", n, put_record, &s, err, errlen);
}
