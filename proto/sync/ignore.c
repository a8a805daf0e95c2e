#include "proto/sync/ignore.h"

#include <ctype.h>

enum { PATTERNS_MAX = 10000, TEXT_MAX = 1 << 20, PATH_BYTES = 4096 };

/* A pattern is a row of tokens: a byte that is to be there, or one of these, or CLASS + its index.
 */
enum {
	T_ANY = 256, /* ?: one byte, not '/' */
	T_STAR,      /* *: bytes without '/' */
	T_ALL,       /* ** at the end: all bytes */
	T_DIRS,      /* ** and '/': nothing, or all bytes and '/' */
	T_CLASS = 512
};

struct class
{
	uint64_t bits[4];
};

struct pattern {
	bool negative, dir_only;
	bool base_only; /* no '/' in it: the last component is what counts */
	/* Bytes at the start and at the end of what it matches, and the tokens between. */
	struct slice prefix, suffix;
	const uint32_t *tokens;
	size_t n;
};

struct ignore {
	size_t n;
	struct pattern *v;
	uint32_t *tokens;
	size_t ntokens;
	struct class *classes;
	size_t nclasses;
	char *bytes; /* prefixes and suffixes */
	size_t nbytes;
};

/* --- reading a pattern --- */

static void class_add(struct class *c, unsigned from, unsigned to)
{
	for (unsigned i = from; i <= to; i++)
		c->bits[i / 64] |= (uint64_t)1 << i % 64;
}

static bool class_has(const struct class *c, uint8_t byte)
{
	return c->bits[byte / 64] >> byte % 64 & 1;
}

static bool class_named(struct class *c, struct slice name)
{
	static const struct {
		const char *name;
		int (*is)(int);
	} all[] = { { "alnum", isalnum }, { "alpha", isalpha }, { "blank", isblank },
		    { "cntrl", iscntrl }, { "digit", isdigit }, { "graph", isgraph },
		    { "lower", islower }, { "print", isprint }, { "punct", ispunct },
		    { "space", isspace }, { "upper", isupper }, { "xdigit", isxdigit } };

	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		if (!slice_eq(name, slice_str(all[i].name)))
			continue;
		for (unsigned b = 0; b < 128; b++) {
			if (all[i].is((int)b))
				class_add(c, b, b);
		}
		return true;
	}
	return false;
}

/* "[:name:]" at the start of s: its length; 0 when it is none; -1 when there is no such class. */
static int class_name(struct class *c, struct slice s)
{
	if (!slice_starts(s, SLICE("[:")))
		return 0;
	const char *end = memchr(s.p + 2, ']', s.n - 2);
	if (!end)
		return -1;
	if (end[-1] != ':' || end - s.p < 3)
		return 0;
	if (!class_named(c, slice_of(s.p + 2, (size_t)(end - s.p) - 3)))
		return -1;
	return (int)(end - s.p) + 1;
}

/* The byte at the start of s, '\\' taken off; *s moves behind it. -1: there is none. */
static int escaped(struct slice *s)
{
	if (s->n > 0 && s->p[0] == '\\')
		*s = slice_after(*s, 1);
	if (s->n == 0)
		return -1;
	int byte = (uint8_t)s->p[0];
	*s = slice_after(*s, 1);
	return byte;
}

/* What is behind '['. Its length with the ']', or -1 when that is missing. A ']' that comes first
 * stands for itself. */
static ssize_t class_parse(struct class *c, struct slice all)
{
	struct slice s = all;
	int last = 0; /* may begin a range; 0: none may */
	bool negative = s.n > 0 && (s.p[0] == '!' || s.p[0] == '^');

	memset(c, 0, sizeof(*c));
	if (negative)
		s = slice_after(s, 1);
	for (bool first = true; first || s.n == 0 || s.p[0] != ']'; first = false) {
		int named = class_name(c, s), byte;
		if (named < 0 || s.n == 0)
			return -1;
		if (named > 0) {
			s = slice_after(s, (size_t)named);
			last = 0;
			continue;
		}
		if (s.p[0] == '-' && last && s.n > 1 && s.p[1] != ']') {
			s = slice_after(s, 1);
			byte = escaped(&s);
			if (byte < 0)
				return -1;
			if (last <= byte)
				class_add(c, (unsigned)last, (unsigned)byte);
			last = 0;
			continue;
		}
		last = escaped(&s);
		if (last < 0)
			return -1;
		class_add(c, (unsigned)last, (unsigned)last);
	}
	if (negative) {
		for (size_t i = 0; i < ARRAY_LEN(c->bits); i++)
			c->bits[i] = ~c->bits[i];
	}
	c->bits['/' / 64] &= ~((uint64_t)1 << '/' % 64);
	return (ssize_t)(all.n - s.n) + 1;
}

/* The asterisks at the start of s. *used: how much of it they are. */
static uint32_t stars(struct slice s, bool at_start, size_t *used)
{
	size_t n = 0;

	while (n < s.n && s.p[n] == '*')
		n++;
	*used = n;
	if (n == 1 || !at_start)
		return T_STAR;
	s = slice_after(s, n);
	if (s.n == 0 || slice_starts(s, SLICE("\\/")))
		return T_ALL;
	if (s.p[0] != '/')
		return T_STAR;
	(*used)++;
	return T_DIRS;
}

/* Appends the tokens of s. False: it can match nothing. */
static bool tokenise(struct ignore *ig, struct slice s, bool base_only)
{
	size_t begin = ig->ntokens;
	bool at_start = !base_only; /* of a component */

	while (s.n > 0) {
		uint32_t t = (uint8_t)s.p[0];
		size_t used = 1;
		if (t == '\\') {
			if (s.n < 2)
				return false;
			t = (uint8_t)s.p[1];
			used = 2;
		} else if (t == '?') {
			t = T_ANY;
		} else if (t == '*') {
			t = stars(s, at_start, &used);
		} else if (t == '[') {
			ssize_t n = class_parse(&ig->classes[ig->nclasses], slice_after(s, 1));
			if (n < 0)
				return false;
			used = (size_t)n + 1;
			t = T_CLASS + (uint32_t)ig->nclasses++;
		}
		at_start = (t == '/' || t == T_DIRS) && !base_only;
		s = slice_after(s, used);
		if (t == T_DIRS && ig->ntokens > begin && ig->tokens[ig->ntokens - 1] == T_DIRS)
			continue;
		ig->tokens[ig->ntokens++] = t;
	}
	return ig->ntokens - begin <= (size_t)2 * PATH_BYTES;
}

static char *keep_byte(struct ignore *ig, uint32_t byte)
{
	ig->bytes[ig->nbytes] = (char)byte;
	return &ig->bytes[ig->nbytes++];
}

/* Most patterns are bytes, or bytes around one asterisk: those at both ends are compared first. */
static void take_ends(struct ignore *ig, struct pattern *p)
{
	size_t tail = p->n;

	while (p->n > 0 && p->tokens[0] < T_ANY) {
		keep_byte(ig, p->tokens[0]);
		p->prefix.n++;
		p->tokens++;
		p->n--;
		tail--;
	}
	while (tail > 0 && p->tokens[tail - 1] < T_ANY)
		tail--;
	p->suffix = slice_of(ig->bytes + ig->nbytes, p->n - tail);
	for (size_t i = tail; i < p->n; i++)
		keep_byte(ig, p->tokens[i]);
	p->n = tail;
}

/* Up to the first byte that means something. It is taken off before the rest is read, so that "a**"
 * and '/' is to git what it is at the start. */
static size_t plain_length(struct slice s)
{
	size_t n = 0;
	while (n < s.n && !memchr("*?[\\", s.p[n], 4))
		n++;
	return n;
}

static void pattern_add(struct ignore *ig, struct slice s)
{
	struct pattern *p = &ig->v[ig->n];

	memset(p, 0, sizeof(*p));
	p->negative = s.n > 0 && s.p[0] == '!';
	if (p->negative)
		s = slice_after(s, 1);
	p->dir_only = s.n > 0 && s.p[s.n - 1] == '/';
	if (p->dir_only)
		s.n--;
	p->base_only = s.n == 0 || !memchr(s.p, '/', s.n);
	if (s.n > 0 && s.p[0] == '/')
		s = slice_after(s, 1);
	size_t plain = p->base_only ? 0 : plain_length(s);
	p->prefix = slice_of(ig->bytes + ig->nbytes, plain);
	for (size_t i = 0; i < plain; i++)
		keep_byte(ig, (uint8_t)s.p[i]);
	p->tokens = ig->tokens + ig->ntokens;
	if (s.n == 0 || !tokenise(ig, slice_after(s, plain), p->base_only))
		return;
	p->n = (size_t)(ig->tokens + ig->ntokens - p->tokens);
	take_ends(ig, p);
	ig->n++;
}

/* Spaces at the end go, unless the first of them is behind a '\\'. */
static struct slice trim(struct slice s)
{
	size_t end = 0;

	for (size_t i = 0; i < s.n; i++) {
		if (s.p[i] == '\\')
			i++;
		else if (s.p[i] == ' ')
			continue;
		end = MIN(i + 1, s.n);
	}
	s.n = end;
	return s;
}

static struct slice clean(struct slice line)
{
	const char *nul = line.n ? memchr(line.p, 0, line.n) : NULL;

	if (line.n > 0 && line.p[0] == '#')
		line.n = 0;
	if (line.n > 0 && line.p[line.n - 1] == '\r')
		line.n--;
	if (nul && line.n > (size_t)(nul - line.p))
		line.n = (size_t)(nul - line.p);
	return trim(line);
}

static struct ignore *fill(struct ignore *ig, struct slice text, char *why, size_t whylen)
{
	struct slice line;
	size_t lines = 0, patterns = 0;

	while (text.n > 0) {
		slice_cut(text, '\n', &line, &text);
		lines++;
		line = clean(line);
		if (line.n == 0)
			continue;
		if (++patterns > PATTERNS_MAX) {
			snprintf(why, whylen,
				 "ignore patterns: line %zu is one over the limit of %d", lines,
				 PATTERNS_MAX);
			ignore_free(ig);
			return NULL;
		}
		if (ig->n == 0 || (ig->n & (ig->n - 1)) == 0)
			ig->v = xrealloc(ig->v, MAX(2 * ig->n, 1) * sizeof(*ig->v));
		pattern_add(ig, line);
	}
	return ig;
}

struct ignore *ignore_new(struct slice text, char *why, size_t whylen)
{
	struct ignore *ig;

	if (slice_starts(text, SLICE("\xef\xbb\xbf")))
		text = slice_after(text, 3);
	if (text.n > TEXT_MAX) {
		snprintf(why, whylen, "ignore patterns: %zu bytes are over the limit of %d", text.n,
			 TEXT_MAX);
		return NULL;
	}
	ig = xcalloc(1, sizeof(*ig));
	size_t classes = 0;
	for (size_t i = 0; i < text.n; i++)
		classes += text.p[i] == '[';
	ig->classes = xcalloc(classes + 1, sizeof(*ig->classes));
	ig->tokens = xmalloc((text.n + 1) * sizeof(*ig->tokens));
	ig->bytes = xmalloc(text.n + 1);
	return fill(ig, text, why, whylen);
}

void ignore_free(struct ignore *ig)
{
	if (!ig)
		return;
	free(ig->v);
	free(ig->tokens);
	free(ig->classes);
	free(ig->bytes);
	free(ig);
}

/* --- matching --- */

/* The tokens that may be next, after some bytes: a bit each, and one for the end. */
struct states {
	uint64_t bits[2 * PATH_BYTES / 64 + 1];
};

/* Token i may be next, and what is behind it if it can stand for nothing. Of two T_DIRS in a row
 * one is left, so this is at most three steps. */
static void enter(struct states *to, const struct pattern *p, size_t i)
{
	for (;; i++) {
		to->bits[i / 64] |= (uint64_t)1 << i % 64;
		if (i == p->n || p->tokens[i] < T_STAR || p->tokens[i] > T_DIRS)
			return;
	}
}

static void advance(const struct ignore *ig, const struct pattern *p, struct states *to, size_t i,
		    uint8_t byte)
{
	if (i == p->n)
		return;
	uint32_t t = p->tokens[i];
	switch (t) {
	case T_ANY:
		if (byte != '/')
			enter(to, p, i + 1);
		break;
	case T_STAR:
		if (byte != '/')
			enter(to, p, i);
		break;
	case T_ALL:
		enter(to, p, i);
		break;
	case T_DIRS:
		to->bits[i / 64] |= (uint64_t)1 << i % 64;
		if (byte == '/')
			enter(to, p, i + 1);
		break;
	default:
		if (t < T_ANY ? t == byte : class_has(&ig->classes[t - T_CLASS], byte))
			enter(to, p, i + 1);
	}
}

/* All ways at once, so that no pattern can make it try them one after the other. */
static bool match_tokens(const struct ignore *ig, const struct pattern *p, struct slice s)
{
	size_t words = p->n / 64 + 1;
	struct states a, b, *now = &a, *next = &b, *swap;

	memset(now->bits, 0, words * sizeof(now->bits[0]));
	enter(now, p, 0);
	for (size_t k = 0; k < s.n; k++) {
		uint64_t any = 0;
		memset(next->bits, 0, words * sizeof(next->bits[0]));
		for (size_t w = 0; w < words; w++) {
			any |= now->bits[w];
			for (uint64_t left = now->bits[w]; left; left &= left - 1) {
				size_t i = 64 * w + (size_t)__builtin_ctzll(left);
				advance(ig, p, next, i, (uint8_t)s.p[k]);
			}
		}
		if (!any)
			return false;
		swap = now;
		now = next;
		next = swap;
	}
	return now->bits[p->n / 64] >> p->n % 64 & 1;
}

static bool match(const struct ignore *ig, const struct pattern *p, struct slice s)
{
	if (s.n < p->prefix.n + p->suffix.n || !slice_ends(s, p->suffix) ||
	    !slice_starts(s, p->prefix))
		return false;
	s = slice_after(s, p->prefix.n);
	s.n -= p->suffix.n;
	if (p->n == 0)
		return s.n == 0;
	if (p->n > 1)
		return match_tokens(ig, p, s);
	switch (p->tokens[0]) {
	case T_STAR:
		return s.n == 0 || !memchr(s.p, '/', s.n);
	case T_ALL:
		return true;
	case T_DIRS:
		return s.n == 0 || s.p[s.n - 1] == '/';
	default:
		return match_tokens(ig, p, s);
	}
}

bool ignore_match(const struct ignore *ig, struct slice path, bool is_dir)
{
	struct slice base = path;
	const char *slash = path.n ? memrchr(path.p, '/', path.n) : NULL;

	if (slash)
		base = slice_after(path, (size_t)(slash - path.p) + 1);
	for (size_t i = ig->n; i > 0; i--) {
		const struct pattern *p = &ig->v[i - 1];
		if (p->dir_only && !is_dir)
			continue;
		if (match(ig, p, p->base_only ? base : path))
			return !p->negative;
	}
	return false;
}
