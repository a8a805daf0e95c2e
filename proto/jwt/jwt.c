#include "proto/jwt/jwt.h"

#include <errno.h>

#include "json/json.h"
#include "proto/jwt/key.h"

enum { PARTS = 3 };

static int no(const char **why, const char *text)
{
	*why = text;
	return -EACCES;
}

static int value_of(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '-' ? 62 : c == '_' ? 63 : -1;
}

/* RFC 7515 section 2: base64url without padding. The length, or -1; bits that belong to no byte
 * must be zero, so that a token has one spelling. */
static ssize_t decode(struct slice in, uint8_t *out)
{
	unsigned bits = 0, have = 0;
	size_t n = 0;
	if (in.n % 4 == 1)
		return -1;
	for (size_t i = 0; i < in.n; i++) {
		int v = value_of(in.p[i]);
		if (v < 0)
			return -1;
		bits = bits << 6 | (unsigned)v;
		have += 6;
		if (have >= 8) {
			have -= 8;
			out[n++] = (uint8_t)(bits >> have);
			bits &= (1U << have) - 1;
		}
	}
	return bits == 0 ? (ssize_t)n : -1;
}

/* A header must name the key's algorithm and ask for nothing that we do not know. */
static bool header_ok(struct slice text, const struct jwt_key *key)
{
	struct slice alg, typ;
	struct json_doc *doc = json_parse(text, NULL, NULL);
	if (!doc)
		return false;
	struct json *root = json_root(doc);
	bool ok = json_str(doc, json_member(root, SLICE("alg")), &alg) == 0 &&
		  slice_eq(alg, slice_str(jwt_key_algorithm(key))) &&
		  !json_member(root, SLICE("crit")) && !json_member(root, SLICE("b64"));
	if (ok && json_str(doc, json_member(root, SLICE("typ")), &typ) == 0)
		ok = slice_eqi(typ, SLICE("JWT")) || slice_eqi(typ, SLICE("at+jwt"));
	json_free(doc);
	return ok;
}

/* NumericDate (RFC 7519 section 2) may have a fraction, which is cut off. */
static int date(struct json *v, int64_t *out)
{
	if (!v || v->type != JSON_NUMBER)
		return -EINVAL;
	if (json_i64(v, out) == 0)
		return 0;
	struct slice whole, fraction;
	uint64_t n;
	if (!slice_cut(v->raw, '.', &whole, &fraction) || memchr(fraction.p, 'e', fraction.n) ||
	    memchr(fraction.p, 'E', fraction.n) || slice_u64(whole, INT64_MAX, &n) < 0)
		return -EINVAL;
	*out = (int64_t)n;
	return 0;
}

static bool audience_ok(struct json_doc *doc, struct json *aud, const char *want)
{
	struct slice text;
	if (aud && aud->type == JSON_STRING)
		return json_str(doc, aud, &text) == 0 && slice_eq(text, slice_str(want));
	if (!aud || aud->type != JSON_ARRAY)
		return false;
	for (struct json *v = json_first(aud); v; v = json_next(v))
		if (json_str(doc, v, &text) == 0 && slice_eq(text, slice_str(want)))
			return true;
	return false;
}

static int times_ok(struct json *root, const struct jwt_rules *rules, int64_t now,
		    struct jwt_claims *out, const char **why)
{
	int64_t t;
	/* Differences, not sums: claims are anything that fits 64 bits. */
	if (date(json_member(root, SLICE("exp")), &out->expires) < 0)
		return no(why, "the token has no exp");
	if (out->expires <= now - rules->leeway)
		return no(why, "the token has expired");
	struct json *nbf = json_member(root, SLICE("nbf")), *iat = json_member(root, SLICE("iat"));
	if (nbf && (date(nbf, &t) < 0 || t > now + rules->leeway))
		return no(why, "the token is not valid yet");
	if (iat && (date(iat, &t) < 0 || t > now + rules->leeway))
		return no(why, "the token was issued in the future");
	return 0;
}

static int claims_ok(struct json_doc *doc, const struct jwt_rules *rules, int64_t now,
		     struct jwt_claims *out, const char **why)
{
	struct slice sub, iss;
	struct json *root = json_root(doc);
	if (root->type != JSON_OBJECT)
		return no(why, "the token's claims are no object");
	int r = times_ok(root, rules, now, out, why);
	if (r < 0)
		return r;
	if (json_str(doc, json_member(root, SLICE("sub")), &sub) < 0 || sub.n == 0 ||
	    sub.n > JWT_SUBJECT_MAX || memchr(sub.p, '\0', sub.n))
		return no(why, "the token has no usable sub");
	memcpy(out->subject, sub.p, sub.n);
	out->subject[sub.n] = '\0';
	if (rules->audience && !audience_ok(doc, json_member(root, SLICE("aud")), rules->audience))
		return no(why, "the token is for another audience");
	if (rules->issuer && (json_str(doc, json_member(root, SLICE("iss")), &iss) < 0 ||
			      !slice_eq(iss, slice_str(rules->issuer))))
		return no(why, "the token is from another issuer");
	return 0;
}

static int verify(struct slice token, const struct jwt_rules *rules, int64_t now,
		  struct jwt_claims *out, const char **why, uint8_t *room)
{
	struct slice part[PARTS], rest = token;
	ssize_t n;
	for (size_t i = 0; i < PARTS; i++)
		if (slice_cut(rest, '.', &part[i], &rest) != (i + 1 < PARTS))
			return no(why, "the token is malformed");
	n = decode(part[0], room);
	if (n < 0 || !header_ok(slice_of(room, (size_t)n), rules->key))
		return no(why, "the token's algorithm is not the one that is accepted here");
	n = decode(part[2], room);
	struct slice signed_text = slice_of(token.p, part[0].n + 1 + part[1].n);
	if (n < 0 || !jwt_key_check(rules->key, signed_text, slice_of(room, (size_t)n)))
		return no(why, "the token's signature is wrong");
	n = decode(part[1], room);
	struct json_doc *doc = n < 0 ? NULL : json_parse(slice_of(room, (size_t)n), NULL, NULL);
	if (!doc)
		return no(why, "the token's claims are malformed");
	int r = claims_ok(doc, rules, now, out, why);
	json_free(doc);
	return r;
}

int jwt_verify(struct slice token, const struct jwt_rules *rules, int64_t now,
	       struct jwt_claims *out, const char **why)
{
	*out = (struct jwt_claims){ 0 };
	if (token.n > JWT_MAX)
		return no(why, "the token is too long");
	uint8_t *room = xmalloc(JWT_MAX);
	int r = verify(token, rules, now, out, why, room);
	free(room);
	return r;
}
