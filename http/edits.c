#include "http/edits.h"

#include <errno.h>

#include "reactor/err.h"

int http_edits_add(struct http_edits *ed, struct slice name, struct slice value)
{
	if (ed->n == HTTP_EDITS_MAX)
		return -E2BIG;
	ed->e[ed->n++] = (struct http_edit){ name, value };
	return 0;
}

int http_edits_drop(struct http_edits *ed, struct slice name)
{
	return http_edits_add(ed, name, (struct slice){ NULL, 0 });
}

/* Dropping one of these would change what the message means to the next reader. */
static bool is_framing(struct slice name)
{
	return slice_eqi(name, SLICE("content-length")) ||
	       slice_eqi(name, SLICE("transfer-encoding")) || slice_eqi(name, SLICE("host"));
}

/* What Connection names is for this hop only, but an upgrade passes with all that belongs to it. */
int http_edits_hop(struct http_edits *ed, const struct http_head *h)
{
	bool upgrade = http_wants_upgrade(h);
	int r = http_edits_drop(ed, SLICE("keep-alive")) |
		http_edits_drop(ed, SLICE("proxy-connection"));

	if (!upgrade)
		r |= http_edits_drop(ed, SLICE("connection")) |
		     http_edits_drop(ed, SLICE("upgrade"));
	if (!h->response)
		r |= http_edits_drop(ed, SLICE("te"));
	for (size_t i = 0; i < h->nfields && r == 0; i++) {
		struct slice rest = h->field[i].value, name;
		if (!slice_eqi(h->field[i].name, SLICE("connection")))
			continue;
		while (r == 0 && http_list_next(&rest, &name)) {
			if (is_framing(name))
				return -ERR_HTTP;
			if (!upgrade)
				r = http_edits_drop(ed, name);
		}
	}
	return r < 0 ? -ERR_HTTP : 0;
}
