#include "json/json.h"

#include <errno.h>

#include "reactor/err.h"

void json_split_init(struct json_split *s, size_t max)
{
	*s = (struct json_split){ .max = max };
}

static bool is_space(char c)
{
	return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

/* A number or a word ends before anything that cannot be in one. */
static bool in_scalar(char c)
{
	return !is_space(c) && !strchr("{}[]\",:", c);
}

/* Looks at c, which follows what was seen. True when the value ends with it. */
static bool ends_with(struct json_split *s, char c)
{
	if (s->string) {
		if (s->escape)
			s->escape = false;
		else if (c == '\\')
			s->escape = true;
		else if (c == '"')
			s->string = false;
		return !s->string && s->depth == 0;
	}
	if (c == '"')
		s->string = true;
	else if (c == '{' || c == '[')
		s->depth++;
	else if (c == '}' || c == ']')
		return --s->depth == 0;
	else if (s->seen == 0)
		s->scalar = true;
	return false;
}

static ssize_t take(struct json_split *s, struct slice in, struct slice *value)
{
	*value = slice_of(in.p, s->seen);
	json_split_init(s, s->max);
	return (ssize_t)value->n;
}

ssize_t json_split_next(struct json_split *s, struct slice in, bool eof, struct slice *value)
{
	size_t space = 0;

	*value = (struct slice){ NULL, 0 };
	if (s->seen == 0) {
		while (space < in.n && is_space(in.p[space]))
			space++;
		if (space || in.n == 0)
			return (ssize_t)space;
		if (in.p[0] == '\0' || !strchr("{[\"-0123456789tfn", in.p[0]))
			return -EINVAL;
	}
	while (s->seen < in.n) {
		char c = in.p[s->seen];
		if (s->scalar && !in_scalar(c))
			return take(s, in, value);
		if (s->seen == s->max)
			return -EMSGSIZE;
		bool whole = !s->scalar && ends_with(s, c);
		s->seen++;
		if (whole)
			return take(s, in, value);
	}
	if (!eof)
		return 0;
	return s->scalar ? take(s, in, value) : -ERR_TRUNCATED;
}
