#include "cmd/tsctl/sync_set.h"

void sync_set_init(struct sync_set *set, struct reactor *rx)
{
	*set = (struct sync_set){ .rx = rx };
	list_init(&set->items);
}

void sync_set_add(struct sync_set *set, struct sync_item *item)
{
	item->set = set;
	list_init(&item->link);
	list_add_tail(&set->items, &item->link);
	set->n++;
}

void sync_set_remove(struct sync_item *item)
{
	list_del(&item->link);
	item->set->n--;
}

struct sync_item *sync_set_find(struct sync_set *set, struct slice id)
{
	for (struct list *i = set->items.next; i != &set->items; i = i->next) {
		struct sync_item *item = container_of(i, struct sync_item, link);
		if (slice_eq(id, slice_str(sync_job_id(item->job))))
			return item;
	}
	return NULL;
}

const char *sync_item_label(const struct sync_item *item)
{
	static char ring[4][13];
	static unsigned at;
	if (item->name[0])
		return item->name;
	char *out = ring[at++ % ARRAY_LEN(ring)];
	snprintf(out, sizeof(ring[0]), "%.12s", sync_job_id(item->job));
	return out;
}

void sync_item_put(const struct sync_item *item, struct json_writer *w)
{
	json_put_object(w);
	json_put_name(w, "name");
	json_put_str(w, slice_str(item->name));
	json_put_name(w, "kind");
	json_put_str(w, slice_str(item->owner->kind));
	sync_job_status(item->job, w);
	if (item->owner->put)
		item->owner->put(item, w);
	json_put_end(w);
}

void sync_set_put(const struct sync_set *set, struct json_writer *w)
{
	json_put_array(w);
	for (const struct list *i = set->items.next; i != &set->items; i = i->next)
		sync_item_put(container_of(i, const struct sync_item, link), w);
	json_put_end(w);
}

void sync_set_tunnel_changed(struct sync_set *set)
{
	for (struct list *i = set->items.next; i != &set->items; i = i->next)
		sync_job_tunnel_changed(container_of(i, struct sync_item, link)->job);
}

void sync_set_tunnel_goaway(struct sync_set *set)
{
	for (struct list *i = set->items.next; i != &set->items; i = i->next)
		sync_job_tunnel_goaway(container_of(i, struct sync_item, link)->job);
}
