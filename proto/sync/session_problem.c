#include "proto/sync/session_int.h"

enum { RETRY_MS = 1000, RETRY_MAX_MS = 30000, STALE_MS = 5, STALE_MAX_MS = 2000, TRIES_SOON = 6 };

static struct problem **bucket(struct session *s, const struct node *n)
{
	uint64_t h = ((uintptr_t)n >> 4) * 0x9e3779b97f4a7c15u;
	return &s->problems.table[h >> 54];
}

static struct problem **find(struct session *s, const struct node *n, enum problem_kind kind,
			     enum sync_side side)
{
	struct problem **p = bucket(s, n);
	while (*p && ((*p)->node != n || (*p)->kind != kind || (*p)->side != side))
		p = &(*p)->chain;
	return p;
}

static bool has_any(struct session *s, const struct node *n)
{
	for (struct problem *p = *bucket(s, n); p; p = p->chain)
		if (p->node == n)
			return true;
	return false;
}

static uint64_t delay(const struct problem *p)
{
	uint64_t first = p->kind == PROBLEM_STALE ? STALE_MS : RETRY_MS;
	uint64_t max = p->kind == PROBLEM_STALE ? STALE_MAX_MS : RETRY_MAX_MS;
	return MIN(first << MIN(p->tries, 16u), max);
}

void problem_set(struct session *s, struct node *n, enum problem_kind kind, enum sync_side side,
		 const char *why)
{
	struct problem **at = find(s, n, kind, side), *p = *at;
	if (p && kind == PROBLEM_STALE && p->tries >= TRIES_SOON) {
		/* It does not come to rest: nobody is to wait for it in silence. */
		problem_set(s, n, PROBLEM_OP, side, why);
		problem_clear(s, n, PROBLEM_STALE, side);
		return;
	}
	if (!p) {
		p = xcalloc(1, sizeof(*p));
		p->node = n;
		p->kind = (uint8_t)kind;
		p->side = (uint8_t)side;
		*at = p;
		list_init(&p->link);
		list_add_tail(&s->problems.all, &p->link);
		s->problems.n++;
		s->problems.told += kind != PROBLEM_STALE;
		n->flags |= NODE_PROBLEM;
	} else {
		p->tries++;
	}
	p->asked = false;
	why = why ? why : "it has changed";
	s->news |= kind != PROBLEM_STALE && (!p->why || strcmp(p->why, why) != 0);
	free(p->why);
	p->why = xstrdup(why);
	p->retry_at = kind == PROBLEM_SCAN ? 0 : reactor_now(s->rx) + delay(p);
}

void problem_clear(struct session *s, struct node *n, enum problem_kind kind, enum sync_side side)
{
	if (!(n->flags & NODE_PROBLEM))
		return;
	struct problem **at = find(s, n, kind, side), *p = *at;
	if (!p)
		return;
	*at = p->chain;
	list_del(&p->link);
	s->problems.n--;
	s->problems.told -= kind != PROBLEM_STALE;
	s->news |= kind != PROBLEM_STALE;
	free(p->why);
	free(p);
	if (has_any(s, n))
		return;
	n->flags &= ~(uint32_t)NODE_PROBLEM;
	node_mark_dirty(s->side.tree, n); /* it was left as it was */
	if (n->parent && n->parent->parent)
		node_mark_dirty(s->side.tree, n->parent); /* it may have kept its directory */
}

void problems_looked(struct session *s)
{
	if (!s->problems.asked)
		return;
	s->problems.asked = false;
	for (struct list *l = s->problems.all.next, *after; l != &s->problems.all; l = after) {
		struct problem *p = container_of(l, struct problem, link);
		after = l->next;
		if (p->asked && p->node->flags & (NODE_DIRTY | NODE_BUSY))
			s->problems.asked = true; /* the answer is still to come */
		else if (p->asked)
			problem_clear(s, p->node, (enum problem_kind)p->kind,
				      (enum sync_side)p->side);
	}
}

uint64_t problems_retry(struct session *s, bool all)
{
	uint64_t now = reactor_now(s->rx), next = 0;
	for (struct list *l = s->problems.all.next; l != &s->problems.all; l = l->next) {
		struct problem *p = container_of(l, struct problem, link);
		if (p->retry_at == 0)
			continue;
		if (all || p->retry_at <= now) {
			p->retry_at = now + 2 * delay(p); /* should it not even be tried */
			node_mark_dirty(s->side.tree, p->node);
			p->asked = true;
			s->problems.asked = true;
		}
		next = next ? MIN(next, p->retry_at) : p->retry_at;
	}
	return next;
}

bool problems_stale(const struct session *s)
{
	if (s->problems.n == s->problems.told)
		return false;
	for (struct list *l = s->problems.all.next; l != &s->problems.all; l = l->next) {
		struct problem *p = container_of(l, struct problem, link);
		if (p->kind == PROBLEM_STALE && p->tries < TRIES_SOON)
			return true;
	}
	return false;
}

void problems_end(struct session *s)
{
	while (!list_empty(&s->problems.all)) {
		struct problem *p = container_of(s->problems.all.next, struct problem, link);
		problem_clear(s, p->node, (enum problem_kind)p->kind, (enum sync_side)p->side);
	}
}
