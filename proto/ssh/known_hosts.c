#include "proto/ssh/hostkey.h"
#include "reactor/base64.h"
#include "reactor/crypto_cipher.h"

enum { LINE_MAX_BYTES = 16384, BLOB_MAX = 12288 };

static char lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

/* Linear: a star that was passed is only ever begun anew from where the last one stood. */
static bool glob(struct slice pattern, struct slice name)
{
	size_t p = 0, n = 0, star = SIZE_MAX, from = 0;
	while (n < name.n) {
		if (p < pattern.n && pattern.p[p] == '*') {
			star = p++;
			from = n;
		} else if (p < pattern.n &&
			   (pattern.p[p] == '?' || lower(pattern.p[p]) == lower(name.p[n]))) {
			p++;
			n++;
		} else if (star != SIZE_MAX) {
			p = star + 1;
			n = ++from;
		} else {
			return false;
		}
	}
	while (p < pattern.n && pattern.p[p] == '*')
		p++;
	return p == pattern.n;
}

/* "|1|salt|hash": HMAC-SHA-1 of the name. */
static bool hashed_match(struct slice field, struct slice name)
{
	struct slice salt, hash;
	uint8_t s[48], h[48], want[20];
	slice_cut(slice_after(field, 3), '|', &salt, &hash);
	if (salt.n > 60 || hash.n > 60)
		return false;
	ssize_t sn = base64_get(salt, false, s), hn = base64_get(hash, false, h);
	if (sn <= 0 || hn != 20)
		return false;
	char plain[300];
	size_t n = MIN(name.n, sizeof(plain));
	for (size_t i = 0; i < n; i++)
		plain[i] = lower(name.p[i]);
	hmac_sha1(slice_of(s, (size_t)sn), slice_of(plain, n), want);
	return memcmp(want, h, 20) == 0;
}

static bool hosts_match(struct slice field, struct slice name)
{
	struct slice pattern;
	bool yes = false;
	if (slice_starts(field, SLICE("|1|")))
		return hashed_match(field, name);
	while (name_next(&field, &pattern)) {
		bool not = slice_starts(pattern, SLICE("!"));
		if (!glob(not ? slice_after(pattern, 1) : pattern, name))
			continue;
		if (not )
			return false;
		yes = true;
	}
	return yes;
}

static struct slice word(struct slice *line)
{
	size_t n = 0;
	while (line->n && (line->p[0] == ' ' || line->p[0] == '\t'))
		*line = slice_after(*line, 1);
	while (n < line->n && line->p[n] != ' ' && line->p[n] != '\t')
		n++;
	struct slice w = slice_of(line->p, n);
	*line = slice_after(*line, n);
	return w;
}

/* One line about our host. */
struct entry {
	bool revoked;
	struct slice type;
	struct slice blob; /* in key */
	uint8_t key[BLOB_MAX];
};

/* Reads lines off *text up to the next that is about name. */
static bool entry_next(struct slice *text, struct slice name, unsigned *line, struct entry *e)
{
	while (text->n > 0) {
		struct slice l, w;
		slice_cut(*text, '\n', &l, text);
		++*line;
		if (l.n > LINE_MAX_BYTES)
			continue;
		if (slice_ends(l, SLICE("\r")))
			l.n--;
		w = word(&l);
		e->revoked = slice_eq(w, SLICE("@revoked"));
		if (e->revoked)
			w = word(&l);
		if (w.n == 0 || w.p[0] == '#' || w.p[0] == '@' || !hosts_match(w, name))
			continue;
		e->type = word(&l);
		w = word(&l);
		ssize_t n = base64_get(w, false, e->key); /* fits: 3/4 of a line */
		if (n <= 0)
			continue;
		e->blob = slice_of(e->key, (size_t)n);
		if (slice_eq(host_key_type(e->blob), e->type))
			return true;
	}
	return false;
}

static struct slice name_of(const char *host, uint16_t port, char *out, size_t n)
{
	if (port == 22 || port == 0)
		snprintf(out, n, "%s", host);
	else
		snprintf(out, n, "[%s]:%u", host, port);
	return slice_str(out);
}

enum known_verdict known_hosts_check(struct slice text, const char *host, uint16_t port,
				     struct slice blob, unsigned *line)
{
	enum known_verdict verdict = KNOWN_NO;
	char buf[300];
	struct slice name = name_of(host, port, buf, sizeof(buf));
	struct entry e;
	unsigned at = 0;
	*line = 0;
	/* To the end: a key that is revoked further down is revoked. */
	while (entry_next(&text, name, &at, &e)) {
		bool same = slice_eq(e.blob, blob);
		enum known_verdict v = same                                    ? KNOWN_YES
				       : slice_eq(e.type, host_key_type(blob)) ? KNOWN_OTHER
									       : KNOWN_UNLIKE;
		if (e.revoked && !same)
			continue;
		if (e.revoked) {
			*line = at;
			return KNOWN_REVOKED;
		}
		if (v == KNOWN_YES
			? verdict != KNOWN_YES
			: verdict == KNOWN_NO || (verdict == KNOWN_UNLIKE && v == KNOWN_OTHER)) {
			verdict = v;
			*line = at;
		}
	}
	return verdict;
}

void known_hosts_order(struct slice text, const char *host, uint16_t port, const char *algs,
		       char *out)
{
	char buf[300];
	struct slice name = name_of(host, port, buf, sizeof(buf));
	struct slice left = slice_str(algs), alg;
	struct entry e;
	unsigned at = 0;
	bool known[SIGN_RSA + 1] = { false };
	while (entry_next(&text, name, &at, &e)) {
		const char *why;
		struct sign_key *k = e.revoked ? NULL : host_key_parse(e.blob, &why);
		if (k)
			known[sign_key_type(k)] = true;
		sign_key_free(k);
	}
	size_t n = 0;
	for (int turn = 1; turn >= 0; turn--) {
		left = slice_str(algs);
		while (name_next(&left, &alg)) {
			const struct host_alg *a = host_alg_find(alg);
			if ((a && known[a->type]) != (turn == 1))
				continue;
			if (n)
				out[n++] = ',';
			memcpy(out + n, alg.p, alg.n);
			n += alg.n;
		}
	}
	out[n] = '\0';
}
