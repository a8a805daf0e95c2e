#include "json/doc.h"

#include <errno.h>
#include <inttypes.h>

#include "reactor/buf.h"
#include "reactor/utf8.h"

/* One character of s (n bytes, 0 = ill-formed) as it stands in a string: RFC 8259 section 7. */
static struct slice escaped(struct slice s, size_t n, char unit[8])
{
	static const char bytes[] = "\"\\\b\f\n\r\t", names[] = "\"\\bfnrt";
	unsigned char c = (unsigned char)s.p[0];
	const char *named = c ? strchr(bytes, c) : NULL;

	if (n == 0)
		return SLICE("\\ufffd");
	if (named)
		snprintf(unit, 8, "\\%c", names[named - bytes]);
	else if (c < 0x20)
		snprintf(unit, 8, "\\u%04x", c);
	else
		return slice_of(s.p, n);
	return slice_str(unit);
}

size_t json_escape(struct slice s, char *out)
{
	size_t at = 0;
	while (s.n) {
		size_t n = utf8_seq(s);
		char unit[8];
		struct slice e = escaped(s, n, unit);
		if (out)
			memcpy(out + at, e.p, e.n);
		at += e.n;
		s = slice_after(s, MAX(n, 1));
	}
	return at;
}

void json_writer_begin(struct json_writer *w, struct buf *to)
{
	*w = (struct json_writer){ .to = to, .start = to->len };
}

int json_writer_end(struct json_writer *w)
{
	BUG_ON(w->depth != 0 || !w->some[0]);
	if (!w->error)
		return 0;
	if (w->start == 0)
		buf_end(w->to);
	else
		w->to->len = w->start;
	return w->error;
}

static void put(struct json_writer *w, struct slice s)
{
	if (!w->error)
		w->error = buf_put(w->to, s);
}

static void put_quoted(struct json_writer *w, struct slice s)
{
	size_t n = json_escape(s, NULL) + 2;
	if (w->error || n > w->to->max - w->to->len) {
		w->error = -ENOBUFS;
		return;
	}
	char *to = buf_room_for(w->to, n).iov_base;
	to[0] = '"';
	json_escape(s, to + 1);
	to[n - 1] = '"';
	buf_added(w->to, n);
}

/* Before each value: its comma, where no name has put it. */
static void value_begin(struct json_writer *w)
{
	BUG_ON(w->depth == 0 && w->some[0]);
	BUG_ON(w->object[w->depth] && !w->named);
	if (w->some[w->depth] && !w->named)
		put(w, SLICE(","));
	w->some[w->depth] = true;
	w->named = false;
}

static void open(struct json_writer *w, bool object)
{
	value_begin(w);
	BUG_ON(w->depth == JSON_WRITER_DEPTH);
	put(w, object ? SLICE("{") : SLICE("["));
	w->depth++;
	w->object[w->depth] = object;
	w->some[w->depth] = false;
}

void json_put_object(struct json_writer *w)
{
	open(w, true);
}

void json_put_array(struct json_writer *w)
{
	open(w, false);
}

void json_put_end(struct json_writer *w)
{
	BUG_ON(w->depth == 0 || w->named);
	put(w, w->object[w->depth] ? SLICE("}") : SLICE("]"));
	w->depth--;
}

void json_put_name_slice(struct json_writer *w, struct slice name)
{
	BUG_ON(!w->object[w->depth] || w->named);
	if (w->some[w->depth])
		put(w, SLICE(","));
	put_quoted(w, name);
	put(w, SLICE(":"));
	w->named = true;
}

void json_put_name(struct json_writer *w, const char *name)
{
	json_put_name_slice(w, slice_str(name));
}

void json_put_str(struct json_writer *w, struct slice s)
{
	value_begin(w);
	put_quoted(w, s);
}

void json_put_i64(struct json_writer *w, int64_t v)
{
	char text[24];
	snprintf(text, sizeof(text), "%" PRId64, v);
	value_begin(w);
	put(w, slice_str(text));
}

void json_put_u64(struct json_writer *w, uint64_t v)
{
	char text[24];
	snprintf(text, sizeof(text), "%" PRIu64, v);
	value_begin(w);
	put(w, slice_str(text));
}

void json_put_bool(struct json_writer *w, bool v)
{
	value_begin(w);
	put(w, v ? SLICE("true") : SLICE("false"));
}

void json_put_null(struct json_writer *w)
{
	value_begin(w);
	put(w, SLICE("null"));
}

void json_put_value(struct json_writer *w, const struct json *v)
{
	size_t n = json_render(v, NULL);
	value_begin(w);
	if (w->error || n > w->to->max - w->to->len) {
		w->error = -ENOBUFS;
		return;
	}
	json_render(v, buf_room_for(w->to, n).iov_base);
	buf_added(w->to, n);
}
