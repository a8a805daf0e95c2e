#include "proto/k8s/yaml.h"

#include <errno.h>

enum { TEXT_MAX = 4 << 20 };

/* One line that says something. */
struct line {
	size_t number;
	size_t indent;
	struct slice text; /* without indent, trailing blanks and comment */
};

struct yaml {
	struct slice rest; /* behind line */
	size_t number;
	bool have; /* line holds the next one */
	struct line line;
	struct json_writer w;
	char *err;
	size_t errlen;
	bool failed;
};

static bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

static void fail(struct yaml *y, size_t number, const char *what)
{
	if (!y->failed)
		snprintf(y->err, y->errlen, "line %zu: %s", number, what);
	y->failed = true;
}

static struct slice trim(struct slice s)
{
	while (s.n && is_blank(s.p[0]))
		s = slice_after(s, 1);
	while (s.n && (is_blank(s.p[s.n - 1]) || s.p[s.n - 1] == '\r'))
		s.n--;
	return s;
}

/* Where a quoted scalar at the front of s ends, behind its quote; 0: it does not. */
static size_t quoted_end(struct slice s)
{
	for (size_t i = 1; i < s.n; i++) {
		if (s.p[0] == '"' && s.p[i] == '\\') {
			i++;
		} else if (s.p[i] == s.p[0]) {
			if (s.p[0] == '\'' && i + 1 < s.n && s.p[i + 1] == '\'')
				i++;
			else
				return i + 1;
		}
	}
	return 0;
}

/* s up to its comment: a '#' at the start or behind a blank, outside of quotes. */
static struct slice uncomment(struct slice s)
{
	for (size_t i = 0; i < s.n; i++) {
		bool starts = i == 0 || is_blank(s.p[i - 1]);
		if (s.p[i] == '#' && starts) {
			s.n = i;
			break;
		}
		if ((s.p[i] == '"' || s.p[i] == '\'') && starts) {
			size_t end = quoted_end(slice_after(s, i));
			i += end ? end - 1 : 0;
		}
	}
	return trim(s);
}

/* The next raw line; false at the end. */
static bool raw_line(struct yaml *y, struct slice *line)
{
	if (y->rest.n == 0)
		return false;
	slice_cut(y->rest, '\n', line, &y->rest);
	y->number++;
	return true;
}

static size_t indent_of(struct slice s)
{
	size_t n = 0;
	while (n < s.n && s.p[n] == ' ')
		n++;
	return n;
}

/* Makes y->line the next line with content: false at the end, or when that failed. */
static bool peek(struct yaml *y)
{
	struct slice raw;
	while (!y->have && !y->failed && raw_line(y, &raw)) {
		size_t indent = indent_of(raw);
		struct slice text = uncomment(slice_after(raw, indent));
		if (text.n == 0)
			continue;
		if (raw.p[indent] == '\t') {
			fail(y, y->number, "a tab as indentation");
			break;
		}
		if (indent == 0 && (slice_eq(text, SLICE("---")) || text.p[0] == '%')) {
			if (y->w.to->len > y->w.start) /* a second document */
				fail(y, y->number, "more than one document");
			continue;
		}
		if (indent == 0 && slice_eq(text, SLICE("..."))) {
			y->rest.n = 0;
			break;
		}
		y->line = (struct line){ y->number, indent, text };
		y->have = true;
	}
	return y->have && !y->failed;
}

/* --- scalars --- */

static unsigned hex(char c)
{
	return c <= '9' ? (unsigned)(c - '0') : ((unsigned)c | 0x20) - 'a' + 10;
}

static bool is_hex(char c)
{
	return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f');
}

static size_t put_utf8(char *out, unsigned c)
{
	if (c < 0x80) {
		out[0] = (char)c;
		return 1;
	}
	if (c < 0x800) {
		out[0] = (char)(0xc0 | c >> 6);
		out[1] = (char)(0x80 | (c & 0x3f));
		return 2;
	}
	out[0] = (char)(0xe0 | c >> 12);
	out[1] = (char)(0x80 | (c >> 6 & 0x3f));
	out[2] = (char)(0x80 | (c & 0x3f));
	return 3;
}

/* The content of a double-quoted scalar into out (never longer): its length, or -1. */
static ssize_t unescape(struct slice s, char *out)
{
	static const char from[] = "0abtnvfre\"/\\ ";
	static const char to[] = "\0\a\b\t\n\v\f\r\x1b\"/\\ ";
	size_t n = 0;
	for (size_t i = 0; i < s.n; i++) {
		if (s.p[i] != '\\') {
			out[n++] = s.p[i];
			continue;
		}
		if (++i == s.n)
			return -1;
		size_t digits = s.p[i] == 'x' ? 2 : s.p[i] == 'u' ? 4 : 0;
		const char *at = s.p[i] ? strchr(from, s.p[i]) : NULL;
		if (digits) {
			unsigned c = 0;
			for (size_t k = 0; k < digits; k++) {
				if (++i >= s.n || !is_hex(s.p[i]))
					return -1;
				c = c * 16 + hex(s.p[i]);
			}
			if (c >= 0xd800 && c < 0xe000)
				return -1;
			n += put_utf8(out + n, c);
		} else if (at) {
			out[n++] = to[at - from];
		} else {
			return -1;
		}
	}
	return (ssize_t)n;
}

static ssize_t unquote(struct slice s, char *out)
{
	struct slice inner = slice_of(s.p + 1, s.n - 2);
	size_t n = 0;
	if (s.p[0] == '"')
		return unescape(inner, out);
	for (size_t i = 0; i < inner.n; i++) {
		out[n++] = inner.p[i];
		i += inner.p[i] == '\''; /* '' stands for one */
	}
	return (ssize_t)n;
}

/* A scalar as a JSON value, or (name) as the name of a member. */
static void put_scalar(struct yaml *y, size_t number, struct slice s, bool name)
{
	if (s.n && (s.p[0] == '"' || s.p[0] == '\'')) {
		char *text = xmalloc(s.n + 1);
		ssize_t n = quoted_end(s) == s.n ? unquote(s, text) : -1;
		if (n < 0)
			fail(y, number,
			     "a quoted text does not end on its line, or has an escape that is "
			     "unknown");
		else if (name)
			json_put_name_slice(&y->w, slice_of(text, (size_t)n));
		else
			json_put_str(&y->w, slice_of(text, (size_t)n));
		free(text);
		return;
	}
	if (s.n && memchr("&*!|>%@`[]{},#", s.p[0], 14)) {
		fail(y, number, "anchors, tags and inline collections are not understood here");
	} else if (name) {
		json_put_name_slice(&y->w, s);
	} else if (s.n == 0 || slice_eq(s, SLICE("~")) || slice_eq(s, SLICE("null"))) {
		json_put_null(&y->w);
	} else if (slice_eq(s, SLICE("true")) || slice_eq(s, SLICE("false"))) {
		json_put_bool(&y->w, s.p[0] == 't');
	} else {
		json_put_str(&y->w, s);
	}
}

/* "|", ">" with "-" or "+": the lines that follow, deeper than parent. */
static void put_block(struct yaml *y, struct slice head, size_t parent, bool top)
{
	struct buf b;
	struct slice raw;
	size_t indent = 0, blank = 0;
	bool first = true;
	buf_init(&b, TEXT_MAX);
	while (y->rest.n) {
		struct slice was = y->rest;
		raw_line(y, &raw);
		if (raw.n && raw.p[raw.n - 1] == '\r')
			raw.n--;
		size_t in = indent_of(raw);
		if (in == raw.n) {
			blank++;
			continue;
		}
		if (first)
			indent = in;
		if (in < indent || (!top && in <= parent)) {
			y->rest = was;
			y->number--;
			break;
		}
		if (!first && head.p[0] == '>' && blank == 0)
			buf_puts(&b, " ");
		for (size_t i = head.p[0] == '>' || first ? 0 : SIZE_MAX;
		     i != SIZE_MAX && i < blank; i++)
			buf_puts(&b, "\n");
		if (!first && head.p[0] == '|')
			for (size_t i = 0; i <= blank; i++)
				buf_puts(&b, "\n");
		buf_put(&b, slice_after(raw, indent));
		blank = 0;
		first = false;
	}
	if (!first && !slice_ends(head, SLICE("-")))
		buf_puts(&b, "\n");
	json_put_str(&y->w, buf_data(&b));
	buf_end(&b);
}

/* --- nodes --- */

/* Splits "key: value" or "key:"; false: no mapping entry. */
static bool split_key(struct slice s, struct slice *key, struct slice *value)
{
	size_t from = s.n && (s.p[0] == '"' || s.p[0] == '\'') ? quoted_end(s) : 0;
	for (size_t i = from; i < s.n; i++)
		if (s.p[i] == ':' && (i + 1 == s.n || is_blank(s.p[i + 1]))) {
			*key = trim(slice_of(s.p, i));
			*value = trim(slice_after(s, i + 1));
			return key->n > 0;
		}
	return false;
}

static bool is_entry(struct slice s)
{
	return s.p[0] == '-' && (s.n == 1 || is_blank(s.p[1]));
}

static void put_node(struct yaml *y, size_t indent, unsigned depth);

/* What follows "key:" or "-" on the same line or below; parent: the indent of that line. */
static void put_value(struct yaml *y, struct slice text, size_t number, size_t parent, bool in_map,
		      unsigned depth)
{
	if (text.n && (text.p[0] == '|' || text.p[0] == '>') &&
	    (text.n == 1 || (text.n == 2 && (text.p[1] == '-' || text.p[1] == '+')))) {
		put_block(y, text, parent, false);
	} else if (slice_eq(text, SLICE("{}"))) {
		json_put_object(&y->w);
		json_put_end(&y->w);
	} else if (slice_eq(text, SLICE("[]"))) {
		json_put_array(&y->w);
		json_put_end(&y->w);
	} else if (text.n) {
		put_scalar(y, number, text, false);
		if (peek(y) && y->line.indent > parent)
			fail(y, y->line.number, "deeper than the text above it");
	} else if (peek(y) && (y->line.indent > parent ||
			       (in_map && y->line.indent == parent && is_entry(y->line.text)))) {
		put_node(y, y->line.indent, depth + 1);
	} else {
		json_put_null(&y->w);
	}
}

static void put_sequence(struct yaml *y, size_t indent, unsigned depth)
{
	json_put_array(&y->w);
	while (peek(y) && y->line.indent == indent && is_entry(y->line.text)) {
		struct line l = y->line;
		struct slice after = slice_after(l.text, 1), key, value;
		struct slice text = trim(after);
		y->have = false;
		if (text.n && (is_entry(text) || split_key(text, &key, &value))) {
			/* a node that starts behind the dash: as if it stood on a line of its own
			 */
			y->line = (struct line){ l.number, indent + 1 + (size_t)(text.p - after.p),
						 text };
			y->have = true;
			put_node(y, y->line.indent, depth + 1);
		} else {
			put_value(y, text, l.number, indent, false, depth);
		}
	}
	if (!y->failed)
		json_put_end(&y->w);
}

static void put_mapping(struct yaml *y, size_t indent, unsigned depth)
{
	json_put_object(&y->w);
	while (peek(y) && y->line.indent == indent && !is_entry(y->line.text)) {
		struct line l = y->line;
		struct slice key, value;
		y->have = false;
		if (!split_key(l.text, &key, &value)) {
			fail(y, l.number, "neither \"key: value\" nor \"- entry\"");
			break;
		}
		put_scalar(y, l.number, key, true);
		if (!y->failed)
			put_value(y, value, l.number, indent, true, depth);
	}
	if (!y->failed)
		json_put_end(&y->w);
}

/* The node whose first line is y->line. */
static void put_node(struct yaml *y, size_t indent, unsigned depth)
{
	struct slice key, value;
	if (depth >= YAML_DEPTH)
		fail(y, y->line.number, "too deep");
	else if (is_entry(y->line.text))
		put_sequence(y, indent, depth);
	else if (split_key(y->line.text, &key, &value))
		put_mapping(y, indent, depth);
	else {
		struct line l = y->line;
		y->have = false;
		put_value(y, l.text, l.number, indent, false, depth);
	}
}

int yaml_to_json(struct slice text, struct buf *out, char *err, size_t errlen)
{
	struct yaml y = { .rest = text, .err = err, .errlen = errlen };
	struct buf b;
	int r;
	err[0] = '\0';
	if (slice_starts(text, SLICE("\xef\xbb\xbf")))
		y.rest = slice_after(text, 3);
	struct slice start = trim(y.rest);
	while (start.n && (start.p[0] == '\n' || start.p[0] == '\r' || is_blank(start.p[0])))
		start = slice_after(start, 1);
	if (start.n && start.p[0] == '{')
		return buf_put(out, start) < 0 ? -EINVAL : 0;
	if (memchr(text.p ? text.p : "", '\0', text.n)) {
		snprintf(err, errlen, "is no text");
		return -EINVAL;
	}
	buf_init(&b, TEXT_MAX);
	json_writer_begin(&y.w, &b);
	if (peek(&y))
		put_node(&y, y.line.indent, 0);
	else if (!y.failed)
		json_put_null(&y.w);
	if (!y.failed && peek(&y))
		fail(&y, y.line.number, "indented unlike the lines above");
	if (y.failed) {
		r = -EINVAL;
	} else if (json_writer_end(&y.w) < 0 || buf_put(out, buf_data(&b)) < 0) {
		snprintf(err, errlen, "is too long");
		r = -EINVAL;
	} else {
		r = 0;
	}
	buf_end(&b);
	return r;
}
