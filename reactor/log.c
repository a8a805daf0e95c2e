#include "reactor/log.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

#include "reactor/utf8.h"

enum {
	LINE_MAX_LEN = PIPE_BUF, /* a pipe takes this much whole, or nothing */
	LINE_RESERVE = 8,        /* kept free for what closes a line: quote, brace, newline */
	QUOTE_MAX = 512,
	QUOTE_BUFS = 8,
	KEYS_MAX = 32
};

struct line {
	char text[LINE_MAX_LEN];
	size_t n;
};

enum log_level log_level = LOG_INFO;

static const char *const level_names[] = { "error", "warn", "info", "debug" };
static const char *program = "";
static bool json;
static uint64_t dropped;

int log_set_level(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(level_names); i++)
		if (strcmp(name, level_names[i]) == 0) {
			log_level = (enum log_level)i;
			return 0;
		}
	return -EINVAL;
}

void log_set_json(bool on)
{
	json = on;
}

void log_set_program(const char *name)
{
	program = name;
}

static size_t room(const struct line *l)
{
	size_t end = sizeof(l->text) - LINE_RESERVE;
	return l->n < end ? end - l->n : 0;
}

/* The whole of s, or nothing when it does not fit. */
static bool put(struct line *l, struct slice s)
{
	if (s.n > room(l))
		return false;
	memcpy(l->text + l->n, s.p, s.n);
	l->n += s.n;
	return true;
}

static void put_closing(struct line *l, struct slice s)
{
	BUG_ON(s.n > sizeof(l->text) - l->n);
	memcpy(l->text + l->n, s.p, s.n);
	l->n += s.n;
}

/* One printable unit of the text at s: returns the bytes of s it stands for, its escaped form in
 * out. C escapes, with \xNN for what has no name. */
static size_t escape(struct slice s, bool quotes, char out[5])
{
	static const char names[][2] = {
		{ '\n', 'n' }, { '\r', 'r' }, { '\t', 't' }, { '"', '"' }, { '\\', '\\' }
	};
	unsigned char c = (unsigned char)s.p[0];
	size_t n = utf8_seq(s);

	for (size_t i = 0; i < (quotes ? 5 : 3); i++)
		if (s.p[0] == names[i][0]) {
			memcpy(out, (char[]){ '\\', names[i][1], '\0' }, 3);
			return 1;
		}
	if (n == 0 || c < ' ' || c == 0x7F) {
		snprintf(out, 5, "\\x%02x", c);
		return 1;
	}
	memcpy(out, s.p, n);
	out[n] = '\0';
	return n;
}

const char *log_quote(struct slice s)
{
	static char bufs[QUOTE_BUFS][QUOTE_MAX + 1];
	static unsigned next;
	char *out = bufs[next++ % QUOTE_BUFS];
	size_t n = 1;
	bool quoted = s.n == 0;

	out[0] = '"';
	while (s.n) {
		char unit[5];
		size_t used = escape(s, true, unit), len = strlen(unit);
		if (n + len + sizeof("...\"") > QUOTE_MAX) {
			memcpy(out + n, "...", 3);
			n += 3;
			break;
		}
		if (unit[0] == '\\' || unit[0] == ' ' || unit[0] == '=')
			quoted = true;
		memcpy(out + n, unit, len);
		n += len;
		s = slice_after(s, used);
	}
	memcpy(out + n, "\"", 2);
	if (quoted)
		return out;
	out[n] = '\0';
	return out + 1;
}

static void put_time(struct line *l)
{
	struct timespec ts;
	struct tm tm;
	char text[64];

	clock_gettime(CLOCK_REALTIME, &ts);
	gmtime_r(&ts.tv_sec, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
	put(l, slice_str(text));
	snprintf(text, sizeof(text), ".%03ldZ", ts.tv_nsec / 1000000);
	put(l, slice_str(text));
}

/* Control bytes that came in by a value nobody quoted must not make a second line. */
static void put_plain(struct line *l, struct slice s)
{
	char unit[5];
	while (s.n) {
		size_t used = escape(s, false, unit);
		if (!put(l, slice_str(unit)))
			return;
		s = slice_after(s, used);
	}
}

/* s inside a JSON string (RFC 8259 section 7), cut where the line is full. */
static void put_json(struct line *l, struct slice s)
{
	while (s.n) {
		unsigned char c = (unsigned char)s.p[0];
		size_t n = utf8_seq(s);
		char unit[8];
		if (n == 0)
			snprintf(unit, sizeof(unit), "\\ufffd");
		else if (c < ' ' || c == 0x7F)
			snprintf(unit, sizeof(unit), "\\u%04x", c);
		else if (c == '"' || c == '\\')
			snprintf(unit, sizeof(unit), "\\%c", c);
		else
			unit[0] = '\0';
		if (!put(l, unit[0] ? slice_str(unit) : slice_of(s.p, n)))
			return;
		s = slice_after(s, MAX(n, 1));
	}
}

/* Undoes log_quote. The result is never longer than the text. */
static struct slice unquote(struct slice s, char *to)
{
	static const char hex[] = "0123456789abcdef";
	size_t n = 0;

	if (s.n < 2 || s.p[0] != '"' || s.p[s.n - 1] != '"')
		return s;
	for (size_t i = 1; i < s.n - 1; i++) {
		if (s.p[i] != '\\') {
			to[n++] = s.p[i];
			continue;
		}
		char c = s.p[++i];
		if (c == 'x' && i + 2 < s.n - 1) {
			const char *hi = memchr(hex, s.p[i + 1], 16);
			const char *lo = memchr(hex, s.p[i + 2], 16);
			if (hi && lo) {
				c = (char)((hi - hex) << 4 | (lo - hex));
				i += 2;
			}
		} else if (c == 'n' || c == 'r' || c == 't') {
			c = c == 'n' ? '\n' : c == 'r' ? '\r' : '\t';
		}
		to[n++] = c;
	}
	return slice_of(to, n);
}

/* Length of "key=" at the front of a word, 0 when it is no pair. */
static size_t key_length(struct slice word)
{
	for (size_t i = 0; i < word.n; i++) {
		char c = word.p[i];
		if (c == '=' && i > 0)
			return i + 1;
		if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.'))
			return 0;
	}
	return 0;
}

/* The words up to the next pair: quotes hold spaces, and a bare word belongs to what is before. */
static struct slice next_value(struct slice text)
{
	bool quoted = false;
	for (size_t i = 0; i < text.n; i++) {
		if (text.p[i] == '\\' && quoted)
			i++;
		else if (text.p[i] == '"')
			quoted = !quoted;
		else if (text.p[i] == ' ' && !quoted && key_length(slice_after(text, i + 1)))
			return slice_of(text.p, i);
	}
	return text;
}

static void put_member(struct line *l, struct slice key, struct slice value)
{
	char *text = xmalloc(value.n);
	/* The name whole, or no member at all. */
	if (key.n + sizeof(",\"\":\"\"") < room(l)) {
		put(l, SLICE(",\""));
		put(l, key);
		put(l, SLICE("\":\""));
		put_json(l, unquote(value, text));
		put_closing(l, SLICE("\""));
	}
	free(text);
}

static bool seen(const struct slice *keys, size_t n, struct slice key)
{
	for (size_t i = 0; i < n; i++)
		if (slice_eq(keys[i], key))
			return true;
	return false;
}

/* "words k=v k2=v2" as members. A name that is taken gets no second member: readers differ in
 * which one they believe. */
static void put_members(struct line *l, struct slice text)
{
	struct slice keys[KEYS_MAX] = { SLICE("time"), SLICE("level"), SLICE("program"),
					SLICE("event") };
	struct slice rest = text, key = SLICE("event");
	size_t n = 4;

	if (key_length(text) == 0) {
		struct slice value = next_value(text);
		put_member(l, key, value);
		rest = slice_after(text, MIN(value.n + 1, text.n));
	}
	while (rest.n) {
		size_t k = key_length(rest);
		key = slice_of(rest.p, k - 1);
		rest = slice_after(rest, k);
		struct slice value = next_value(rest);
		if (!seen(keys, n, key)) {
			put_member(l, key, value);
			if (n < KEYS_MAX)
				keys[n++] = key;
		}
		rest = slice_after(rest, MIN(value.n + 1, rest.n));
	}
}

static void line_format(struct line *l, enum log_level level, struct slice text)
{
	l->n = 0;
	if (json) {
		put(l, SLICE("{\"time\":\""));
		put_time(l);
		put(l, SLICE("\",\"level\":\""));
		put(l, slice_str(level_names[level]));
		put(l, SLICE("\",\"program\":\""));
		put_json(l, slice_str(program));
		put(l, SLICE("\""));
		put_members(l, text);
		put_closing(l, SLICE("}\n"));
	} else {
		put_time(l);
		put(l, SLICE(" level="));
		put(l, slice_str(level_names[level]));
		put(l, SLICE(" program="));
		put(l, slice_str(program));
		put(l, SLICE(" "));
		put_plain(l, text);
		put_closing(l, SLICE("\n"));
	}
}

/* Writable means, for a pipe, that PIPE_BUF bytes go in at once: this does not block even where
 * stderr is a blocking pipe that we share and whose flags are not ours to change. */
static bool line_send(const struct line *l)
{
	struct pollfd p = { .fd = STDERR_FILENO, .events = POLLOUT };
	if (poll(&p, 1, 0) != 1 || !(p.revents & POLLOUT))
		return false;
	return write(STDERR_FILENO, l->text, l->n) == (ssize_t)l->n;
}

static bool report_dropped(struct line *l)
{
	char text[64];
	snprintf(text, sizeof(text), "log_dropped lines=%llu", (unsigned long long)dropped);
	line_format(l, LOG_WARN, slice_str(text));
	if (!line_send(l))
		return false;
	dropped = 0;
	return true;
}

void log_write(enum log_level level, const char *fmt, ...)
{
	char text[LINE_MAX_LEN];
	struct line l;
	va_list ap;
	int n;

	if (dropped && !report_dropped(&l)) {
		dropped++;
		return;
	}
	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	BUG_ON(n < 0);
	line_format(&l, level, slice_of(text, MIN((size_t)n, sizeof(text) - 1)));
	if (!line_send(&l))
		dropped++;
}

bool log_ratelimit(uint64_t *last, uint64_t period_ms)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	uint64_t now = (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
	if (*last && now - *last < period_ms)
		return false;
	*last = MAX(now, 1);
	return true;
}
