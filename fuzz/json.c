/*
 * Reader: what is accepted prints as it came, survives being written anew value by value, and an
 * edit changes its place only. Splitter: any cut of the input gives the same values as the whole.
 */
#include "json/json.h"
#include "reactor/buf.h"

enum { ROOM = 1 << 22 };

/* Choices are drawn from the input itself, so that a crasher is one file. */
static uint32_t seed;

static uint32_t draw(uint32_t below)
{
	seed = seed * 1664525 + 1013904223;
	return (seed >> 8) % below;
}

static void print(const struct json_doc *doc, struct buf *b)
{
	buf_init(b, ROOM);
	BUG_ON(json_print(doc, b) != 0);
	BUG_ON(json_length(doc) != b->len);
}

static struct json_doc *must_parse(struct slice text)
{
	struct json_limits max = { .bytes = ROOM };
	struct json_error err;
	struct json_doc *doc = json_parse(text, &max, &err);
	BUG_ON(!doc);
	return doc;
}

static void write_anew(struct json_writer *w, struct json_doc *doc, struct json *v)
{
	struct slice s;
	int64_t i;
	uint64_t u;
	bool b;

	switch (v->type) {
	case JSON_NULL:
		json_put_null(w);
		break;
	case JSON_BOOL:
		BUG_ON(json_bool(v, &b) != 0);
		json_put_bool(w, b);
		break;
	case JSON_STRING:
		BUG_ON(json_str(doc, v, &s) != 0);
		json_put_str(w, s);
		break;
	case JSON_NUMBER:
		if (json_u64(v, &u) == 0)
			json_put_u64(w, u);
		else if (json_i64(v, &i) == 0)
			json_put_i64(w, i);
		else
			json_put_value(w, v);
		break;
	case JSON_ARRAY:
	case JSON_OBJECT:
		if (v->type == JSON_OBJECT)
			json_put_object(w);
		else
			json_put_array(w);
		for (struct json *c = json_first(v); c; c = json_next(c)) {
			if (v->type == JSON_OBJECT)
				json_put_name_slice(w, c->name);
			write_anew(w, doc, c);
		}
		json_put_end(w);
		break;
	}
}

static void same(struct json_doc *da, struct json *a, struct json_doc *db, struct json *b)
{
	struct slice sa, sb;
	int64_t i;

	BUG_ON(a->type != b->type || a->count != b->count || !slice_eq(a->name, b->name));
	if (a->type == JSON_STRING) {
		BUG_ON(json_str(da, a, &sa) != 0 || json_str(db, b, &sb) != 0);
		BUG_ON(!slice_eq(sa, sb));
	} else if (a->type == JSON_NUMBER) {
		/* "-0" is written as 0. */
		BUG_ON(!slice_eq(a->raw, b->raw) && (json_i64(a, &i) != 0 || i != 0));
	} else if (a->type == JSON_BOOL) {
		BUG_ON(!slice_eq(a->raw, b->raw));
	}
	a = json_first(a);
	b = json_first(b);
	for (; a && b; a = json_next(a), b = json_next(b))
		same(da, a, db, b);
	BUG_ON(a || b);
}

static void check_rewrite(struct json_doc *doc)
{
	struct json_writer w;
	struct buf b;
	buf_init(&b, ROOM);
	json_writer_begin(&w, &b);
	write_anew(&w, doc, json_root(doc));
	BUG_ON(json_writer_end(&w) != 0);
	struct json_doc *again = must_parse(buf_data(&b));
	same(doc, json_root(doc), again, json_root(again));
	json_free(again);
	buf_end(&b);
}

/* Some value below the root, or the root. */
static struct json *pick(struct json_doc *doc)
{
	struct json *v = json_root(doc);
	while (json_first(v) && draw(4)) {
		uint32_t n = draw((uint32_t)v->count);
		v = json_first(v);
		while (n--)
			v = json_next(v);
	}
	return v;
}

/* One replacement must give the input with just that stretch exchanged. */
static void check_replace(struct slice in)
{
	static const char text[] = " {\"new\" : [ 1.0 ]}\n";
	struct json_limits max = { .bytes = ROOM, .depth = 1000 };
	struct json_doc *doc = json_parse(in, &max, NULL);
	struct slice was, out, new = slice_of(text + 1, sizeof(text) - 3);
	struct json *v = pick(doc);
	struct buf b;

	was = v->raw;
	BUG_ON(!json_replace(doc, v, slice_of(text, sizeof(text) - 1)));
	print(doc, &b);
	out = buf_data(&b);
	size_t before = (size_t)(was.p - in.p), after = in.n - before - was.n;
	BUG_ON(out.n != before + new.n + after);
	BUG_ON(memcmp(out.p, in.p, before) != 0);
	BUG_ON(memcmp(out.p + before, new.p, new.n) != 0);
	BUG_ON(memcmp(out.p + before + new.n, was.p + was.n, after) != 0);
	buf_end(&b);
	json_free(doc);
}

/* Any run of edits prints as JSON, and as the tree that the edits left. */
static void check_edits(struct slice in)
{
	struct json_limits max = { .bytes = ROOM, .depth = 60 };
	struct json_doc *doc = json_parse(in, &max, NULL), *again;
	struct buf b;

	for (uint32_t n = doc ? 1 + draw(8) : 0; n; n--) {
		struct json *v = pick(doc);
		struct slice text = draw(2) ? SLICE(" [ 7 , {\"a\":1} ]")
					    : json_quote(doc, slice_of(in.p, MIN(in.n, 9)));
		static const char names[] = "abc\"";
		size_t count = v->count;
		switch (draw(3)) {
		case 0:
			json_replace(doc, v, text);
			break;
		case 1:
			if (v != json_root(doc))
				json_remove(v);
			break;
		case 2:
			if (v->type == JSON_ARRAY && json_append(doc, v, text))
				BUG_ON(v->count != count + 1);
			if (v->type == JSON_OBJECT)
				json_set(doc, v, slice_of(names + draw(4), 1), text);
			break;
		}
	}
	if (doc) {
		print(doc, &b);
		again = must_parse(buf_data(&b));
		same(doc, json_root(doc), again, json_root(again));
		json_free(again);
		buf_end(&b);
	}
	json_free(doc);
}

/* Values joined by newlines, and how it ended. piece 0: all at once; else at most that many. */
static ssize_t split(struct slice in, size_t max, uint32_t piece, struct buf *out, size_t *count)
{
	struct json_split s;
	struct slice v;
	size_t from = 0, to = 0;
	ssize_t r;

	json_split_init(&s, max);
	*count = 0;
	do {
		size_t more = piece ? 1 + draw(piece) : in.n;
		to = MIN(in.n, to + more);
		while ((r = json_split_next(&s, slice_of(in.p + from, to - from), to == in.n, &v)) >
		       0) {
			BUG_ON((size_t)r > to - from || v.n > max);
			if (v.n) {
				buf_put(out, v);
				buf_puts(out, "\n");
				++*count;
			}
			from += (size_t)r;
		}
	} while (r == 0 && to < in.n);
	BUG_ON(r == 0 && from != in.n);
	return r;
}

static void check_split(struct slice in, const struct json *root)
{
	size_t max = draw(2) ? in.n : draw((uint32_t)in.n + 1), n, n2;
	struct buf whole, pieces;
	ssize_t r, r2;

	buf_init(&whole, ROOM);
	r = split(in, max, 0, &whole, &n);
	for (uint32_t piece = 1; piece <= 8; piece += 7) {
		buf_init(&pieces, ROOM);
		r2 = split(in, max, piece, &pieces, &n2);
		BUG_ON(r != r2 || n != n2);
		BUG_ON(!slice_eq(buf_data(&whole), buf_data(&pieces)));
		buf_end(&pieces);
	}
	if (root && max >= root->raw.n) {
		struct slice all = buf_data(&whole);
		BUG_ON(r != 0 || n != 1 || all.n != root->raw.n + 1);
		BUG_ON(memcmp(all.p, root->raw.p, root->raw.n) != 0);
	}
	buf_end(&whole);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct slice in = slice_of(data, size);
	struct json_error err;
	struct json_doc *doc;
	struct buf b;

	if (size > 65536)
		return 0;
	seed = (uint32_t)size;
	for (size_t i = 0; i < size; i++)
		seed = seed * 31 + data[i];
	doc = json_parse(in, NULL, &err);
	BUG_ON(!doc && (err.code == JSON_OK || err.at > size));
	check_split(in, doc ? json_root(doc) : NULL);
	if (doc) {
		print(doc, &b);
		BUG_ON(!slice_eq(buf_data(&b), in));
		buf_end(&b);
		check_rewrite(doc);
		json_free(doc);
		check_replace(in);
		check_edits(in);
	} else {
		/* The offence is the first one: what is before it is JSON, or the start of some. */
		struct json_error early = { JSON_OK, 0 };
		doc = json_parse(slice_of(in.p, err.at), NULL, &early);
		BUG_ON(!doc && (early.code != JSON_E_TRUNCATED || early.at != err.at));
		json_free(doc);
	}
	return 0;
}
