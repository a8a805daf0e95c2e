#include "proto/sync/reconcile_int.h"

const char reason_both[] = "both sides have changed it";
const char reason_one_way[] = "beta has changed it, and this sync goes from alpha to beta only";
const char reason_in_the_way[] = "a socket, a device or a mount point is in the way";
const char reason_below[] =
    "one side has something else in place of a directory in which the other has changed files";
const char reason_stuck[] =
    "it was removed on the other side, but holds a socket, a device or what cannot be read";

static const char *const mode_text[] = {
	[SYNC_TWO_WAY_SAFE] = "two-way-safe",
	[SYNC_TWO_WAY_RESOLVED] = "two-way-resolved",
	[SYNC_ONE_WAY_SAFE] = "one-way-safe",
	[SYNC_ONE_WAY_REPLICA] = "one-way-replica",
};

const char *sync_mode_text(enum sync_mode mode)
{
	return mode_text[mode];
}

enum sync_mode sync_mode_parse(struct slice text)
{
	for (size_t i = SYNC_TWO_WAY_SAFE; i < ARRAY_LEN(mode_text); i++)
		if (slice_eq(text, slice_str(mode_text[i])))
			return (enum sync_mode)i;
	return (enum sync_mode)0;
}

enum sync_mode mode_of(const struct reconciler *r, const struct node *n)
{
	return n->flags & N_BETA_WINS ? SYNC_TWO_WAY_SAFE : r->mode;
}

bool two_way(enum sync_mode mode)
{
	return mode == SYNC_TWO_WAY_SAFE || mode == SYNC_TWO_WAY_RESOLVED;
}

/* A, B: what the sides have; ab, ao, bo: which have the same content. */
static enum outcome case_of(enum sync_mode mode, const struct version *a, const struct version *b,
			    bool ab, bool ao, bool bo)
{
	if (ab)
		return SAME;
	if (is_kind(a, SYNC_OTHER) || is_kind(b, SYNC_OTHER))
		return a && b ? CONFLICT : LEAVE;
	if (bo && !ao)
		return TO_BETA;
	if (mode == SYNC_ONE_WAY_REPLICA)
		return TO_BETA;
	if (mode == SYNC_ONE_WAY_SAFE) {
		if (!b)
			return TO_BETA;
		return a ? CONFLICT : LEAVE;
	}
	if (ao && !bo)
		return TO_ALPHA;
	if (!b || mode == SYNC_TWO_WAY_RESOLVED)
		return TO_BETA;
	return a ? CONFLICT : TO_ALPHA;
}

/* The same if a digest is missing (-1): what it is whatever they are, or 0 if it hangs on them. */
static enum outcome case_of_unknown(enum sync_mode mode, const struct version *a,
				    const struct version *b, int ab, int ao, int bo)
{
	enum outcome found = (enum outcome)0;
	for (int i = 0; i < 8; i++) {
		bool x = i & 1, y = i & 2, z = i & 4;
		enum outcome o;
		if ((ab >= 0 && x != ab) || (ao >= 0 && y != ao) || (bo >= 0 && z != bo))
			continue;
		o = case_of(mode, a, b, x, y, z);
		if (found && o != found)
			return (enum outcome)0;
		found = o;
	}
	return found;
}

static bool unhashed(const struct version *v)
{
	return is_kind(v, SYNC_FILE) && !v->hashed;
}

enum outcome decide(struct reconciler *r, struct node *n, unsigned sides)
{
	bool asked[2] = { false, false }, later = false, news;
	for (;;) {
		struct version *v[2] = { sides & 1 ? n->side[SYNC_ALPHA] : NULL,
					 sides & 2 ? n->side[SYNC_BETA] : NULL };
		int ab = version_same(v[0], v[1]);
		int base[2] = { version_same(v[0], n->base), version_same(v[1], n->base) };
		enum sync_mode mode = mode_of(r, n);
		enum outcome o = case_of_unknown(mode, v[0], v[1], ab, base[0], base[1]);
		if (o)
			return o;
		news = false;
		for (int i = 0; i < 2; i++) {
			if (asked[i] || !unhashed(v[i]) || (ab >= 0 && base[i] >= 0))
				continue;
			asked[i] = true;
			if (!r->hash)
				continue;
			if (r->hash(r->arg, n, (enum sync_side)i))
				news = true;
			else
				later = true;
		}
		if (!news && later)
			return WAIT;
		if (!news) /* of the base it will never be known */
			return case_of(mode, v[0], v[1], ab == 1, base[0] == 1, base[1] == 1);
	}
}

const char *conflict_reason(const struct reconciler *r, const struct node *n)
{
	if (is_kind(n->side[SYNC_ALPHA], SYNC_OTHER) || is_kind(n->side[SYNC_BETA], SYNC_OTHER))
		return reason_in_the_way;
	if (mode_of(r, n) == SYNC_ONE_WAY_SAFE && version_same(n->side[SYNC_ALPHA], n->base) == 1)
		return reason_one_way;
	return reason_both;
}
