#include "json/doc.h"

#include <errno.h>

struct json *json_root(struct json_doc *doc)
{
	return doc->root;
}

static struct json *present(struct json *v)
{
	while (v && v->place == JSON_REMOVED)
		v = v->next;
	return v;
}

struct json *json_first(struct json *v)
{
	return v && (v->type == JSON_OBJECT || v->type == JSON_ARRAY) ? present(v->first) : NULL;
}

struct json *json_next(struct json *v)
{
	return present(v->next);
}

struct json *json_member(struct json *object, struct slice name)
{
	struct json *v;
	if (!object || object->type != JSON_OBJECT)
		return NULL;
	for (v = json_first(object); v; v = json_next(v))
		if (slice_eq(v->name, name))
			return v;
	return NULL;
}

struct json *json_path(struct json *from, const char *const *keys)
{
	for (; *keys; keys++)
		from = json_member(from, slice_str(*keys));
	return from;
}

static int wrong_type(const struct json *v, enum json_type want)
{
	if (!v || v->type == JSON_NULL)
		return -ENOENT;
	return v->type == want ? 0 : -EINVAL;
}

int json_str(struct json_doc *doc, struct json *v, struct slice *out)
{
	int r = wrong_type(v, JSON_STRING);
	if (r)
		return r;
	*out = slice_of(v->raw.p + 1, v->raw.n - 2);
	if (v->escaped) {
		char *copy = json_arena(doc, out->n);
		*out = slice_of(copy, json_decode(*out, copy));
	}
	return 0;
}

int json_bool(const struct json *v, bool *out)
{
	int r = wrong_type(v, JSON_BOOL);
	if (r)
		return r;
	*out = v->raw.p[0] == 't';
	return 0;
}

/* Sign and magnitude of an integer. */
static int integer(const struct json *v, bool *negative, uint64_t *out)
{
	int r = wrong_type(v, JSON_NUMBER);
	if (r)
		return r;
	*negative = v->raw.p[0] == '-';
	struct slice s = slice_after(v->raw, *negative);
	for (size_t i = 0; i < s.n; i++)
		if (s.p[i] < '0' || s.p[i] > '9')
			return -EINVAL;
	return slice_u64(s, UINT64_MAX, out) ? -ERANGE : 0;
}

int json_i64(const struct json *v, int64_t *out)
{
	bool negative;
	uint64_t n;
	int r = integer(v, &negative, &n);
	if (r)
		return r;
	if (n > (uint64_t)INT64_MAX + negative)
		return -ERANGE;
	*out = negative ? (int64_t)(0 - n) : (int64_t)n;
	return 0;
}

int json_u64(const struct json *v, uint64_t *out)
{
	bool negative;
	uint64_t n;
	int r = integer(v, &negative, &n);
	if (r)
		return r;
	if (negative && n)
		return -ERANGE;
	*out = n;
	return 0;
}
