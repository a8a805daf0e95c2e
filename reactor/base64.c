#include "reactor/base64.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void base64_put(struct slice s, char *out)
{
	uint32_t bits = 0;
	unsigned have = 0;
	for (size_t i = 0; i < s.n; i++) {
		bits = bits << 8 | (uint8_t)s.p[i];
		for (have += 8; have >= 6; have -= 6)
			*out++ = alphabet[bits >> (have - 6) & 63];
	}
	if (have)
		*out++ = alphabet[bits << (6 - have) & 63];
	*out = '\0';
}

ssize_t base64_get(struct slice s, bool spaced, uint8_t *out)
{
	uint32_t bits = 0;
	unsigned have = 0, digits = 0, padding = 0;
	ssize_t n = 0;
	for (size_t i = 0; i < s.n; i++) {
		char c = s.p[i];
		if (spaced && (c == '\n' || c == '\r' || c == ' ' || c == '\t'))
			continue;
		if (c == '=') {
			padding++;
			continue;
		}
		const char *at = c ? strchr(alphabet, c) : NULL;
		if (!at || padding)
			return -1;
		bits = bits << 6 | (uint32_t)(at - alphabet);
		digits++;
		have += 6;
		if (have >= 8) {
			have -= 8;
			out[n++] = (uint8_t)(bits >> have);
		}
	}
	bool leftover = (bits & ((1u << have) - 1)) != 0;
	if (have == 6 || leftover || (padding && (padding > 2 || (digits + padding) % 4)))
		return -1;
	return n;
}
