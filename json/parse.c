#include "json/doc.h"
#include "reactor/utf8.h"

enum {
	BYTES_DEFAULT = 4 << 20,
	VALUES_DEFAULT = 1 << 18,
	DEPTH_DEFAULT = 64,
	DEPTH_MOST = 1024, /* json_render recurses that deep */
	CHUNK_MIN = 2048,
	CHUNK_MAX = 65536,
	FEW_MEMBERS = 8
};

struct parser {
	struct json_doc *doc;
	const char *start, *p, *end;
	unsigned depth;
	struct json_error err;
};

static bool fail_at(struct parser *ps, enum json_code code, const char *at)
{
	ps->err = (struct json_error){ code, (size_t)(at - ps->start) };
	return false;
}

static bool fail(struct parser *ps, enum json_code code)
{
	return fail_at(ps, ps->p == ps->end ? JSON_E_TRUNCATED : code, ps->p);
}

void *json_arena(struct json_doc *doc, size_t n)
{
	struct json_chunk *c = doc->chunks;
	n = (n + _Alignof(max_align_t) - 1) & ~(_Alignof(max_align_t) - 1);
	if (!c || c->size - c->used < n) {
		size_t size = c ? MIN(c->size * 2, CHUNK_MAX) : CHUNK_MIN;
		size = MAX(size, n);
		c = xmalloc(sizeof(*c) + size);
		*c = (struct json_chunk){ .next = doc->chunks, .size = size };
		doc->chunks = c;
	}
	c->used += n;
	return c->data + c->used - n;
}

static void skip_space(struct parser *ps)
{
	while (ps->p < ps->end &&
	       (*ps->p == ' ' || *ps->p == '\n' || *ps->p == '\r' || *ps->p == '\t'))
		ps->p++;
}

static bool literal(struct parser *ps, struct slice word)
{
	for (size_t i = 0; i < word.n; i++, ps->p++)
		if (ps->p == ps->end || *ps->p != word.p[i])
			return fail(ps, JSON_E_SYNTAX);
	return true;
}

static bool digits(struct parser *ps)
{
	const char *from = ps->p;
	while (ps->p < ps->end && *ps->p >= '0' && *ps->p <= '9')
		ps->p++;
	return ps->p > from || fail(ps, JSON_E_NUMBER);
}

/* RFC 8259 section 6: [ minus ] int [ frac ] [ exp ] */
static bool number(struct parser *ps)
{
	if (*ps->p == '-')
		ps->p++;
	if (ps->p < ps->end && *ps->p == '0') {
		ps->p++;
		if (ps->p < ps->end && *ps->p >= '0' && *ps->p <= '9')
			return fail(ps, JSON_E_NUMBER);
	} else if (!digits(ps)) {
		return false;
	}
	if (ps->p < ps->end && *ps->p == '.') {
		ps->p++;
		if (!digits(ps))
			return false;
	}
	if (ps->p < ps->end && (*ps->p == 'e' || *ps->p == 'E')) {
		ps->p++;
		if (ps->p < ps->end && (*ps->p == '+' || *ps->p == '-'))
			ps->p++;
		return digits(ps);
	}
	return true;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)(c | 0x20);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static unsigned hex4(const char *p)
{
	unsigned v = 0;
	for (int i = 0; i < 4; i++)
		v = v << 4 | (unsigned)hex_digit(p[i]);
	return v;
}

/* At the four digits of a \u. */
static bool unit(struct parser *ps, unsigned *out)
{
	const char *from = ps->p;
	for (; ps->p < from + 4; ps->p++)
		if (ps->p == ps->end || hex_digit(*ps->p) < 0)
			return fail(ps, JSON_E_ESCAPE);
	*out = hex4(from);
	return true;
}

/* At the backslash. */
static bool escape(struct parser *ps)
{
	const char *from = ps->p++;
	unsigned first, second;

	if (ps->p == ps->end || *ps->p == '\0' || !strchr("\"\\/bfnrtu", *ps->p))
		return fail(ps, JSON_E_ESCAPE);
	if (*ps->p++ != 'u')
		return true;
	if (!unit(ps, &first))
		return false;
	if (first < 0xD800 || first > 0xDFFF)
		return true;
	if (first > 0xDBFF)
		return fail_at(ps, JSON_E_SURROGATE, from);
	for (const char *want = "\\u"; *want; want++, ps->p++)
		if (ps->p == ps->end || *ps->p != *want)
			return ps->p == ps->end ? fail(ps, JSON_E_TRUNCATED)
						: fail_at(ps, JSON_E_SURROGATE, from);
	if (!unit(ps, &second))
		return false;
	return (second >= 0xDC00 && second <= 0xDFFF) || fail_at(ps, JSON_E_SURROGATE, from);
}

/* At the opening quote; *inside is what is between the quotes, still escaped. */
static bool string(struct parser *ps, struct slice *inside, bool *escaped)
{
	const char *from = ++ps->p;

	*escaped = false;
	while (ps->p < ps->end && *ps->p != '"') {
		unsigned char c = (unsigned char)*ps->p;
		if (c < 0x20)
			return fail(ps, JSON_E_CONTROL);
		if (c == '\\') {
			*escaped = true;
			if (!escape(ps))
				return false;
		} else if (c < 0x80) {
			ps->p++;
		} else {
			size_t n = utf8_seq(slice_of(ps->p, (size_t)(ps->end - ps->p)));
			if (n == 0)
				return fail(ps, JSON_E_UTF8);
			ps->p += n;
		}
	}
	if (ps->p == ps->end)
		return fail(ps, JSON_E_TRUNCATED);
	*inside = slice_of(from, (size_t)(ps->p++ - from));
	return true;
}

size_t json_decode(struct slice in, char *out)
{
	static const char names[] = "bfnrt", bytes[] = "\b\f\n\r\t";
	const char *p = in.p, *end = in.p + in.n;
	char *to = out;

	while (p < end) {
		if (*p != '\\') {
			*to++ = *p++;
			continue;
		}
		if (p[1] != 'u') {
			const char *name = strchr(names, p[1]);
			*to++ = name ? bytes[name - names] : p[1];
			p += 2;
			continue;
		}
		unsigned c = hex4(p + 2);
		p += 6;
		if (c >= 0xD800 && c <= 0xDFFF) {
			c = 0x10000 + ((c - 0xD800) << 10) + (hex4(p + 2) - 0xDC00);
			p += 6;
		}
		if (c < 0x80) {
			*to++ = (char)c;
			continue;
		}
		if (c < 0x800) {
			*to++ = (char)(0xC0 | c >> 6);
		} else {
			if (c < 0x10000) {
				*to++ = (char)(0xE0 | c >> 12);
			} else {
				*to++ = (char)(0xF0 | c >> 18);
				*to++ = (char)(0x80 | (c >> 12 & 0x3F));
			}
			*to++ = (char)(0x80 | (c >> 6 & 0x3F));
		}
		*to++ = (char)(0x80 | (c & 0x3F));
	}
	return (size_t)(to - out);
}

/* A member's name and colon. */
static bool name(struct parser *ps, struct slice *out)
{
	bool escaped;
	if (ps->p == ps->end || *ps->p != '"')
		return fail(ps, JSON_E_SYNTAX);
	if (!string(ps, out, &escaped))
		return false;
	if (escaped) {
		char *copy = json_arena(ps->doc, out->n);
		*out = slice_of(copy, json_decode(*out, copy));
	}
	skip_space(ps);
	if (ps->p == ps->end || *ps->p != ':')
		return fail(ps, JSON_E_SYNTAX);
	ps->p++;
	skip_space(ps);
	return true;
}

static struct json *value_new(struct parser *ps, struct json *parent)
{
	struct json *v = json_arena(ps->doc, sizeof(*v));
	*v = (struct json){ .parent = parent, .from = ps->p };
	if (!parent)
		return v;
	if (parent->last)
		parent->last->next = v;
	else
		parent->first = v;
	parent->last = v;
	parent->count++;
	return v;
}

/* A scalar whole, or the bracket that opens a container. */
static bool value(struct parser *ps, struct json *v)
{
	const char *from = ps->p;
	struct slice inside;
	bool ok;

	if (ps->p == ps->end)
		return fail(ps, JSON_E_TRUNCATED);
	switch (*ps->p) {
	case '{':
	case '[':
		v->type = *ps->p++ == '{' ? JSON_OBJECT : JSON_ARRAY;
		ok = true;
		break;
	case '"':
		v->type = JSON_STRING;
		ok = string(ps, &inside, &v->escaped);
		break;
	case 't':
	case 'f':
		v->type = JSON_BOOL;
		ok = literal(ps, *from == 't' ? SLICE("true") : SLICE("false"));
		break;
	case 'n':
		v->type = JSON_NULL;
		ok = literal(ps, SLICE("null"));
		break;
	default:
		if (*ps->p != '-' && (*ps->p < '0' || *ps->p > '9'))
			return fail(ps, JSON_E_SYNTAX);
		v->type = JSON_NUMBER;
		ok = number(ps);
	}
	v->raw = slice_of(from, (size_t)(ps->p - from));
	return ok;
}

static int by_name(const void *one, const void *two)
{
	const struct json *a = *(struct json *const *)one, *b = *(struct json *const *)two;
	int r = memcmp(a->name.p, b->name.p, MIN(a->name.n, b->name.n));
	if (r == 0 && a->name.n != b->name.n)
		r = a->name.n < b->name.n ? -1 : 1;
	return r ? r : (a->from > b->from) - (a->from < b->from);
}

/* Sorting keeps an object of many members from costing a square. */
static bool names_differ(struct parser *ps, const struct json *object)
{
	struct json **sorted, *few[FEW_MEMBERS], *twice = NULL;
	size_t n = 0;

	sorted = object->count > FEW_MEMBERS ? xcalloc(object->count, sizeof(*sorted)) : few;
	for (struct json *v = object->first; v; v = v->next)
		sorted[n++] = v;
	qsort(sorted, n, sizeof(*sorted), by_name);
	for (size_t i = 1; i < n; i++)
		if (slice_eq(sorted[i - 1]->name, sorted[i]->name) &&
		    (!twice || sorted[i]->from < twice->from))
			twice = sorted[i];
	if (sorted != few)
		free(sorted);
	return !twice || fail_at(ps, JSON_E_DUPLICATE, twice->from);
}

/* At what may be the bracket that ends v: 1 = it was, 0 = it is not, -1 = refused. */
static int close_at(struct parser *ps, struct json *v)
{
	if (ps->p == ps->end || *ps->p != (v->type == JSON_OBJECT ? '}' : ']'))
		return 0;
	ps->p++;
	v->raw.n = (size_t)(ps->p - v->raw.p);
	ps->depth--;
	return v->type == JSON_OBJECT && v->count > 1 && !names_differ(ps, v) ? -1 : 1;
}

/* Behind a whole value inside open: closes what ends here and passes the comma before the next.
 * Returns false with *open NULL at the end of the outermost value. */
static bool next_value(struct parser *ps, struct json **open)
{
	while (*open) {
		int closed;
		skip_space(ps);
		if (ps->p < ps->end && *ps->p == ',') {
			ps->p++;
			skip_space(ps);
			return true;
		}
		closed = close_at(ps, *open);
		if (closed <= 0)
			return closed < 0 ? false : fail(ps, JSON_E_SYNTAX);
		*open = (*open)->parent;
	}
	return false;
}

static struct json *tree(struct parser *ps)
{
	struct json *root = NULL, *open = NULL;

	for (;;) {
		if (ps->doc->values_left == 0) {
			fail_at(ps, JSON_E_VALUES, ps->p);
			return NULL;
		}
		ps->doc->values_left--;
		struct json *v = value_new(ps, open);
		root = root ? root : v;
		if (open && open->type == JSON_OBJECT && !name(ps, &v->name))
			return NULL;
		if (!value(ps, v))
			return NULL;
		if (v->type == JSON_OBJECT || v->type == JSON_ARRAY) {
			if (++ps->depth > ps->doc->max_depth) {
				fail_at(ps, JSON_E_DEPTH, v->raw.p);
				return NULL;
			}
			skip_space(ps);
			if (!close_at(ps, v)) {
				open = v;
				continue;
			}
		}
		if (!next_value(ps, &open))
			return open ? NULL : root;
	}
}

struct json *json_parse_value(struct json_doc *doc, struct slice text, unsigned depth,
			      struct json_error *err)
{
	struct parser ps = { .doc = doc, .start = text.n ? text.p : "", .depth = depth };
	struct json *root;

	ps.p = ps.start;
	ps.end = ps.start + text.n;
	skip_space(&ps);
	root = tree(&ps);
	skip_space(&ps);
	if (root && ps.p != ps.end) {
		fail_at(&ps, JSON_E_TRAILING, ps.p);
		root = NULL;
	}
	*err = ps.err;
	return root;
}

struct json_doc *json_parse(struct slice text, const struct json_limits *limits,
			    struct json_error *err)
{
	struct json_limits max = limits ? *limits : (struct json_limits){ 0 };
	struct json_doc *doc = xmalloc(sizeof(*doc));
	struct json_error why = { JSON_E_BYTES, 0 };

	max.bytes = max.bytes ? max.bytes : BYTES_DEFAULT;
	*doc = (struct json_doc){ .text = text,
				  .values_left = max.values ? max.values : VALUES_DEFAULT,
				  .max_depth = max.depth ? max.depth : DEPTH_DEFAULT };
	BUG_ON(doc->max_depth > DEPTH_MOST);
	if (text.n > max.bytes)
		why.at = max.bytes;
	else
		doc->root = json_parse_value(doc, text, 0, &why);
	if (err)
		*err = why;
	if (doc->root)
		return doc;
	json_free(doc);
	return NULL;
}

void json_free(struct json_doc *doc)
{
	if (!doc)
		return;
	while (doc->chunks) {
		struct json_chunk *c = doc->chunks;
		doc->chunks = c->next;
		free(c);
	}
	free(doc);
}

const char *json_error_text(enum json_code code)
{
	static const char *const text[] = {
		[JSON_OK] = "no error",
		[JSON_E_TRUNCATED] = "unexpected end of JSON",
		[JSON_E_SYNTAX] = "unexpected byte",
		[JSON_E_NUMBER] = "malformed number",
		[JSON_E_ESCAPE] = "malformed escape",
		[JSON_E_SURROGATE] = "surrogate without its other half",
		[JSON_E_CONTROL] = "control byte in a string",
		[JSON_E_UTF8] = "ill-formed UTF-8",
		[JSON_E_DUPLICATE] = "name stands twice in one object",
		[JSON_E_TRAILING] = "something follows the value",
		[JSON_E_DEPTH] = "nested too deep",
		[JSON_E_BYTES] = "too long",
		[JSON_E_VALUES] = "too many values",
	};
	return (size_t)code < ARRAY_LEN(text) ? text[code] : "unknown error";
}
