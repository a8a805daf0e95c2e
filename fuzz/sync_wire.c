/* Messages of a sync from a hostile end: what is accepted obeys wire.h, and written again it is the
 * same bytes; wire_length never asks for more than a message may have. */
#include <errno.h>

#include "proto/sync/wire.h"

static struct msg_in in;
static char again[WIRE_MAX + WIRE_HEAD];

static void check_version(const struct version *v)
{
	if (!v)
		return;
	BUG_ON(v->kind < SYNC_DIR || v->kind > SYNC_OTHER || v->mode > 0777);
	BUG_ON(v->kind == SYNC_FILE && v->size > INT64_MAX);
	BUG_ON(v->kind == SYNC_LINK &&
	       (v->size == 0 || v->size > SYNC_PATH_MAX || strlen(v->target) != v->size));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct slice all = slice_of(data, size);
	ssize_t n;
	while ((n = wire_length(all)) > 0 && (size_t)n <= all.n) {
		struct slice one = slice_of(all.p, (size_t)n);
		all = slice_after(all, (size_t)n);
		if (wire_get(&in, one) < 0)
			continue;
		const struct msg *m = &in.m;
		BUG_ON(m->path.n && (!wire_path_ok(m->path) || m->path.p[m->path.n]));
		BUG_ON(m->from.n && (!wire_path_ok(m->from) || m->from.p[m->from.n]));
		BUG_ON(m->text.n > WIRE_TEXT_MAX || m->status > 0);
		check_version(m->want);
		check_version(m->expect);
		check_version(m->source);
		BUG_ON(wire_size(m) != one.n);
		char *p = wire_put(m, again);
		if (m->data.n)
			memcpy(p, m->data.p, m->data.n);
		BUG_ON(memcmp(again, one.p, one.n) != 0);
		wire_end(&in);
	}
	BUG_ON(n > WIRE_MAX + WIRE_HEAD || (n < 0 && n != -EMSGSIZE));
	return 0;
}
