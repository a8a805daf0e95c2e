#include "json/doc.h"

#include <errno.h>

#include "reactor/buf.h"

static void mark(struct json *v)
{
	for (; v; v = v->parent)
		v->dirty = true;
}

static unsigned depth_of(const struct json *v)
{
	unsigned n = 0;
	for (; v; v = v->parent)
		n++;
	return n;
}

/* text, copied and parsed, as a child of parent that is not linked yet; NULL when refused. */
static struct json *value_make(struct json_doc *doc, struct json *parent, struct slice text)
{
	char *copy = json_arena(doc, text.n);
	struct json_error err;
	struct json *v;

	if (text.n)
		memcpy(copy, text.p, text.n);
	v = json_parse_value(doc, slice_of(copy, text.n), depth_of(parent), &err);
	if (v)
		v->parent = parent;
	return v;
}

/* The link that points at v. */
static struct json **link_to(struct json *parent, const struct json *v)
{
	struct json **at = &parent->first;
	while (*at != v)
		at = &(*at)->next;
	return at;
}

/* Puts new where old is in the list of parent. */
static void swap(struct json *parent, struct json *old, struct json *new)
{
	*link_to(parent, old) = new;
	new->next = old->next;
	if (parent->last == old)
		parent->last = new;
}

struct json *json_replace(struct json_doc *doc, struct json *v, struct slice text)
{
	struct json *parent = v->parent, *new = value_make(doc, parent, text);

	if (!new)
		return NULL;
	new->name = v->name;
	new->from = v->from;
	new->place = v->place == JSON_ADDED ? JSON_ADDED : JSON_REPLACED;
	if (new->place == JSON_REPLACED)
		new->was = v->was ? v->was : v;
	if (parent)
		swap(parent, v, new);
	else
		doc->root = new;
	mark(parent);
	return new;
}

static void add(struct json *parent, struct json *v)
{
	v->place = JSON_ADDED;
	v->from = NULL;
	v->next = NULL;
	*(parent->last ? &parent->last->next : &parent->first) = v;
	parent->last = v;
	parent->count++;
	mark(parent);
}

struct json *json_append(struct json_doc *doc, struct json *array, struct slice text)
{
	BUG_ON(array->type != JSON_ARRAY);
	struct json *v = value_make(doc, array, text);
	if (v)
		add(array, v);
	return v;
}

struct json *json_set(struct json_doc *doc, struct json *object, struct slice name,
		      struct slice text)
{
	BUG_ON(object->type != JSON_OBJECT);
	struct json *v = json_member(object, name);
	if (v)
		return json_replace(doc, v, text);
	v = value_make(doc, object, text);
	if (!v)
		return NULL;
	char *copy = json_arena(doc, name.n);
	if (name.n)
		memcpy(copy, name.p, name.n);
	v->name = slice_of(copy, name.n);
	add(object, v);
	return v;
}

void json_remove(struct json *v)
{
	struct json *parent = v->parent;

	BUG_ON(!parent || v->place == JSON_REMOVED);
	if (v->place == JSON_ADDED) {
		struct json **at = link_to(parent, v);
		*at = v->next;
		if (parent->last == v)
			parent->last =
			    at == &parent->first ? NULL : container_of(at, struct json, next);
	} else {
		struct json *hole = v->was ? v->was : v;
		if (hole != v)
			swap(parent, v, hole);
		hole->place = JSON_REMOVED;
	}
	parent->count--;
	mark(parent);
}

struct slice json_quote(struct json_doc *doc, struct slice s)
{
	size_t n = json_escape(s, NULL);
	char *text = json_arena(doc, n + 2);
	text[0] = '"';
	json_escape(s, text + 1);
	text[n + 1] = '"';
	return slice_of(text, n + 2);
}

static size_t put(char *out, size_t at, struct slice s)
{
	if (out && s.n)
		memcpy(out + at, s.p, s.n);
	return at + s.n;
}

static struct slice between(const char *from, const char *to)
{
	return slice_of(from, (size_t)(to - from));
}

static size_t put_added(const struct json *v, char *out, size_t at)
{
	if (v->parent->type == JSON_OBJECT) {
		at = put(out, at, SLICE("\""));
		at += json_escape(v->name, out ? out + at : NULL);
		at = put(out, at, SLICE("\":"));
	}
	return at + json_render(v, out ? out + at : NULL);
}

size_t json_render(const struct json *v, char *out)
{
	const char *text = v->raw.p, *done, *first;
	bool some = false;
	size_t at;

	if (!v->dirty)
		return put(out, 0, v->raw);
	/* What is between the bracket and the first child goes before whichever comes first now;
	 * the comma and space before any other are its own. */
	at = put(out, 0, slice_of(text, 1));
	done = text + 1;
	first = v->first && v->first->from ? v->first->from : done;
	for (const struct json *c = v->first; c; c = c->next) {
		if (c->place == JSON_ADDED) {
			if (some)
				at = put(out, at, SLICE(","));
			at = put_added(c, out, at);
			some = true;
			continue;
		}
		struct slice was = c->was ? c->was->raw : c->raw;
		if (c->place != JSON_REMOVED) {
			at = put(out, at, some ? between(done, c->from) : between(text + 1, first));
			at = put(out, at, between(c->from, was.p));
			at += json_render(c, out ? out + at : NULL);
			some = true;
		}
		done = was.p + was.n;
	}
	return put(out, at, between(done, text + v->raw.n));
}

size_t json_length(const struct json_doc *doc)
{
	const struct json *root = doc->root;
	size_t was = root->was ? root->was->raw.n : root->raw.n;
	return doc->text.n - was + json_render(root, NULL);
}

int json_print(const struct json_doc *doc, struct buf *b)
{
	const struct json *root = doc->root;
	struct slice was = root->was ? root->was->raw : root->raw;
	size_t n = json_length(doc), at;
	struct iovec room;

	if (n > b->max - b->len)
		return -ENOBUFS;
	room = buf_room_for(b, n);
	BUG_ON(room.iov_len < n);
	at = put(room.iov_base, 0, between(doc->text.p, was.p));
	at += json_render(root, (char *)room.iov_base + at);
	at = put(room.iov_base, at, between(was.p + was.n, doc->text.p + doc->text.n));
	BUG_ON(at != n);
	buf_added(b, n);
	return 0;
}
