#include <errno.h>
#include <unistd.h>

#include "proto/sync/watch_int.h"

/* --- which node is watched by what --- */

static uint32_t *bucket(const struct watch *w, struct watch_key k)
{
	return &w->buckets[(k.v[0] * 0x9e3779b97f4a7c15u >> 32) & (w->cap - 1)];
}

static struct slot *find(const struct watch *w, struct watch_key k)
{
	if (w->cap == 0)
		return NULL;
	for (uint32_t i = *bucket(w, k); i; i = w->slots[i - 1].next) {
		struct slot *s = &w->slots[i - 1];
		if (s->key.v[0] == k.v[0] && s->key.v[1] == k.v[1])
			return s;
	}
	return NULL;
}

struct node *watch_find(const struct watch *w, struct watch_key k)
{
	struct slot *s = find(w, k);
	return s ? s->node : NULL;
}

static uint32_t number(const struct watch *w, const struct slot *s)
{
	return (uint32_t)(s - w->slots) + 1;
}

static void grow(struct watch *w)
{
	size_t old = w->cap;

	w->cap = old ? 2 * old : 64;
	w->slots = xrealloc(w->slots, w->cap * sizeof(*w->slots));
	free(w->buckets);
	w->buckets = xcalloc(w->cap, sizeof(*w->buckets));
	for (size_t i = 0; i < old; i++) {
		struct slot *s = &w->slots[i];
		uint32_t *head = bucket(w, s->key);
		s->next = *head;
		*head = number(w, s);
	}
	for (size_t i = w->cap; i > old; i--) {
		struct slot *s = &w->slots[i - 1];
		s->node = NULL;
		s->next = w->free_head;
		w->free_head = number(w, s);
	}
}

static struct slot *slot_new(struct watch *w, struct watch_key k)
{
	if (!w->free_head)
		grow(w);
	struct slot *s = &w->slots[w->free_head - 1];
	w->free_head = s->next;
	uint32_t *head = bucket(w, k);
	s->key = k;
	s->next = *head;
	*head = number(w, s);
	w->n++;
	return s;
}

void watch_drop(struct watch *w, struct node *node)
{
	struct slot *s = &w->slots[node->watch - 1];
	uint32_t *link = bucket(w, s->key);

	while (*link != node->watch)
		link = &w->slots[*link - 1].next;
	*link = s->next;
	s->next = w->free_head;
	w->free_head = node->watch;
	s->node = NULL;
	node->watch = 0;
	w->n--;
}

/* --- the interface --- */

struct watch *watch_new(const struct watch_options *o, int root_fd, int *err)
{
	struct watch *w = xcalloc(1, sizeof(*w));

	w->options = *o;
	w->fan = o->fanotify && fanotify_open(w, root_fd) == 0;
	if (!w->fan)
		*err = inotify_open(w);
	if (!w->fan && *err < 0) {
		free(w);
		return NULL;
	}
	*err = 0;
	return w;
}

void watch_free(struct watch *w)
{
	if (!w)
		return;
	for (size_t i = 0; i < w->cap; i++) {
		if (w->slots[i].node)
			w->slots[i].node->watch = 0;
	}
	close(w->fd);
	free(w->slots);
	free(w->buckets);
	free(w);
}

void watch_leave(struct watch *w, int dir_fd)
{
	if (w->fan && dir_fd >= 0)
		fanotify_leave(w, dir_fd);
}

int watch_fd(const struct watch *w)
{
	return w->fd;
}

const char *watch_kind(const struct watch *w)
{
	return w->fan ? "fanotify" : "inotify";
}

size_t watch_count(const struct watch *w)
{
	return w->fan ? 0 : w->n;
}

void watch_forget(struct watch *w, struct node *node)
{
	if (!node->watch)
		return;
	if (!w->fan)
		inotify_unwatch(w, w->slots[node->watch - 1].key);
	watch_drop(w, node);
}

/* A directory that was moved is the same to the kernel: what it has under the old node now belongs
 * to the new one. */
int watch_add(struct watch *w, struct node *node, int dir_fd)
{
	struct watch_key k;
	int rc = w->fan ? fanotify_key(dir_fd, &k) : inotify_key(w, dir_fd, &k);

	if (rc < 0)
		return rc;
	struct slot *s = find(w, k);
	if (s && s->node == node)
		return 1;
	watch_forget(w, node); /* another directory had that name */
	if (s)
		s->node->watch = 0;
	else
		s = slot_new(w, k);
	s->node = node;
	node->watch = number(w, s);
	return 0;
}

void watch_name(struct watch *w, struct node *node, struct slice name, bool written, bool open)
{
	if (open && w->options.writing)
		w->options.writing(w->options.arg, node, name);
	else
		w->options.changed(w->options.arg, node, name, written);
}

void watch_self(struct watch *w, struct node *node)
{
	if (node->parent)
		w->options.changed(w->options.arg, node->parent,
				   slice_of(node->name, node->namelen), false);
	else
		w->options.changed(w->options.arg, node, SLICE(""), false);
}

bool watch_read(struct watch *w, size_t max)
{
	for (size_t told = 0; max == 0 || told < max; told++) {
		if (w->at == w->len) {
			ssize_t n = read(w->fd, w->buf, sizeof(w->buf));
			if (n <= 0)
				return n < 0 && errno == EINTR;
			w->at = 0;
			w->len = (size_t)n;
		}
		w->at += w->fan ? fanotify_event(w) : inotify_event(w);
	}
	return true;
}
