#include "proto/sync/path_text.h"

#include "reactor/utf8.h"

void path_text_put(struct json_writer *w, const char *path)
{
	static const char digits[] = "0123456789ABCDEF";
	struct slice rest = slice_str(path);
	char *text = xmalloc(3 * rest.n + 1), *p = text;
	while (rest.n) {
		size_t n = utf8_seq(rest);
		if (n == 0 || *rest.p == '%') {
			unsigned char c = (unsigned char)*rest.p;
			*p++ = '%';
			*p++ = digits[c >> 4];
			*p++ = digits[c & 15];
			n = 1;
		} else {
			memcpy(p, rest.p, n);
			p += n;
		}
		rest = slice_after(rest, n);
	}
	json_put_str(w, slice_of(text, (size_t)(p - text)));
	free(text);
}

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

char *path_text_get(struct slice text)
{
	char *path = xmalloc(text.n + 1), *p = path;
	for (size_t i = 0; i < text.n; i++) {
		char c = text.p[i];
		if (c == '%') {
			int a = i + 2 < text.n ? hex(text.p[i + 1]) : -1;
			int b = a < 0 ? -1 : hex(text.p[i + 2]);
			unsigned byte = b < 0 ? 0 : (unsigned)a << 4 | (unsigned)b;
			c = (char)byte;
			i += 2;
		}
		if (c == '\0') {
			free(path);
			return NULL;
		}
		*p++ = c;
	}
	*p = '\0';
	return path;
}
