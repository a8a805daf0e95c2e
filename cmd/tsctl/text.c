#include "cmd/tsctl/text.h"

const char *bytes_text(uint64_t n)
{
	static const char units[] = "kMGTPE";
	static char ring[8][16];
	static unsigned at;
	char *out = ring[at++ % ARRAY_LEN(ring)];
	double v = (double)n;
	int unit = -1;
	for (; v >= 1000 && unit < 5; unit++)
		v /= 1000;
	if (unit < 0)
		snprintf(out, sizeof(ring[0]), "%u B", (unsigned)n);
	else
		snprintf(out, sizeof(ring[0]), "%.1f %cB", v, units[unit]);
	return out;
}

struct slice member_text(struct json_doc *doc, struct json *object, const char *name)
{
	struct slice s = SLICE("");
	json_str(doc, json_member(object, slice_str(name)), &s);
	return s;
}

uint64_t member_number(struct json *object, const char *name)
{
	uint64_t n = 0;
	json_u64(json_member(object, slice_str(name)), &n);
	return n;
}

char *printable(struct slice s)
{
	char *text = xslicedup(s);
	for (size_t i = 0; i < s.n; i++)
		if ((unsigned char)text[i] < ' ' || text[i] == '\x7f')
			text[i] = '?';
	return text;
}

int unexpected_argument(const char *name, const char *argument)
{
	fprintf(stderr, "%s: unexpected argument: %s\nSee '%s --help'.\n", name, argument, name);
	return 2;
}
