#include "reactor/timer.h"

static void place(struct timer_heap *h, uint32_t slot, struct timer *t)
{
	h->at[slot] = t;
	t->slot = slot;
}

static void sift_up(struct timer_heap *h, struct timer *t, uint32_t slot)
{
	while (slot > 1 && h->at[slot / 2]->at > t->at) {
		place(h, slot, h->at[slot / 2]);
		slot /= 2;
	}
	place(h, slot, t);
}

static void sift_down(struct timer_heap *h, struct timer *t, uint32_t slot)
{
	for (;;) {
		uint32_t child = slot * 2;
		if (child > h->count)
			break;
		if (child < h->count && h->at[child + 1]->at < h->at[child]->at)
			child++;
		if (h->at[child]->at >= t->at)
			break;
		place(h, slot, h->at[child]);
		slot = child;
	}
	place(h, slot, t);
}

void timer_heap_set(struct timer_heap *h, struct timer *t)
{
	if (t->slot == 0) {
		if (h->count + 1 >= h->cap) {
			h->cap = h->cap ? h->cap * 2 : 64;
			h->at = xrealloc(h->at, h->cap * sizeof(*h->at));
		}
		place(h, ++h->count, t);
	}
	sift_up(h, t, t->slot);
	sift_down(h, t, t->slot);
}

void timer_heap_clear(struct timer_heap *h, struct timer *t)
{
	if (t->slot == 0)
		return;
	uint32_t slot = t->slot;
	struct timer *last = h->at[h->count--];
	t->slot = 0;
	if (last == t)
		return;
	place(h, slot, last);
	sift_up(h, last, slot);
	sift_down(h, last, last->slot);
}

struct timer *timer_heap_first(const struct timer_heap *h)
{
	return h->count ? h->at[1] : NULL;
}
