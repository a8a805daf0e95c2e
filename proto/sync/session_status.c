/* What the parent is told of the sync, at most ten times a second. */
#include <errno.h>
#include <time.h>

#include "json/json.h"
#include "proto/sync/session_int.h"
#include "reactor/err.h"
#include "reactor/utf8.h"

enum { STATUS_MS = 100, LIST_BYTES = 1 << 20 /* names may be long, and each byte six in JSON */ };

static const char *state_of(struct session *s, const char **why)
{
	*why = NULL;
	if (s->code < 0) {
		*why = s->why;
		return "failed";
	}
	if (s->halt_why[0]) {
		*why = s->halt_why;
		return "halted";
	}
	if (s->paused)
		return "paused";
	if (!s->opened)
		return "connecting";
	if (!s->started)
		return "scanning";
	if (s->todo_left.files)
		return "transferring";
	if (!s->scanned)
		return "scanning";
	if (!list_empty(&s->ops) || s->nheld)
		return "reconciling";
	return "watching";
}

/* Bytes that are no UTF-8, and '%', as %XX. */
static void put_path(struct json_writer *w, const struct node *n)
{
	char path[SYNC_PATH_MAX + 1], out[3 * SYNC_PATH_MAX + 1], *to = out;
	ssize_t len = node_path(n, path, sizeof(path));
	struct slice rest = slice_of(path, len > 0 ? (size_t)len : 0);
	while (rest.n) {
		size_t k = utf8_seq(rest);
		if (k == 0 || *rest.p == '%') {
			to += sprintf(to, "%%%02X", (unsigned)(uint8_t)*rest.p);
			k = 1;
		} else {
			memcpy(to, rest.p, k);
			to += k;
		}
		rest = slice_after(rest, k);
	}
	json_put_str(w, slice_of(out, (size_t)(to - out)));
}

static void put_u64(struct json_writer *w, const char *name, uint64_t v)
{
	json_put_name(w, name);
	json_put_u64(w, v);
}

static void put_str(struct json_writer *w, const char *name, const char *v)
{
	json_put_name(w, name);
	json_put_str(w, slice_str(v));
}

static void put_mtime(struct json_writer *w, int64_t ns)
{
	char text[64], day[32];
	int64_t frac = ns % 1000000000;
	if (frac < 0)
		frac += 1000000000;
	time_t t = (time_t)(ns / 1000000000 - (ns % 1000000000 < 0));
	struct tm tm;
	gmtime_r(&t, &tm);
	strftime(day, sizeof(day), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(text, sizeof(text), "%s.%09dZ", day, (int)frac);
	put_str(w, "mtime", text);
}

static void put_version(struct json_writer *w, const char *name, const struct version *v)
{
	static const char *const kinds[] = { "", "directory", "file", "link", "other" };
	char mode[16];
	json_put_name(w, name);
	if (!v) {
		json_put_null(w);
		return;
	}
	json_put_object(w);
	put_str(w, "kind", kinds[v->kind]);
	if (v->kind == SYNC_FILE) {
		put_u64(w, "size", v->size);
		put_mtime(w, v->mtime_ns);
	}
	if (v->kind == SYNC_FILE || v->kind == SYNC_DIR) {
		snprintf(mode, sizeof(mode), "%04o", (unsigned)v->mode);
		put_str(w, "mode", mode);
	}
	json_put_end(w);
}

static void put_conflicts(struct session *s, struct json_writer *w)
{
	put_u64(w, "conflicts_total", s->rec.nconflicts);
	json_put_name(w, "conflicts");
	json_put_array(w);
	size_t until = s->control_out.len + LIST_BYTES;
	for (size_t i = 0; i < s->rec.nconflicts && i < LIST_MAX && s->control_out.len < until;
	     i++) {
		const struct conflict *c = &s->rec.conflicts[i];
		json_put_object(w);
		json_put_name(w, "path");
		put_path(w, c->node);
		put_str(w, "reason", c->reason);
		put_version(w, "alpha", c->node->side[SYNC_ALPHA]);
		put_version(w, "beta", c->node->side[SYNC_BETA]);
		json_put_end(w);
	}
	json_put_end(w);
}

static void put_problems(struct session *s, struct json_writer *w)
{
	size_t told = 0, until = s->control_out.len + LIST_BYTES;
	put_u64(w, "problems_total", s->problems.told);
	json_put_name(w, "problems");
	json_put_array(w);
	for (struct list *l = s->problems.all.next;
	     l != &s->problems.all && told < LIST_MAX && s->control_out.len < until; l = l->next) {
		const struct problem *p = container_of(l, struct problem, link);
		if (p->kind == PROBLEM_STALE)
			continue;
		told++;
		json_put_object(w);
		json_put_name(w, "path");
		put_path(w, p->node);
		put_str(w, "side", p->side == SYNC_ALPHA ? "alpha" : "beta");
		put_str(w, "why", p->why);
		json_put_end(w);
	}
	json_put_end(w);
}

/* What is there, and is never synced. */
static void put_skipped(struct session *s, struct json_writer *w)
{
	struct node *const *n;
	size_t listed, total = s->side.tree ? tree_others(s->side.tree, &n, &listed) : 0;
	put_u64(w, "skipped_total", total);
	json_put_name(w, "skipped");
	json_put_array(w);
	for (size_t i = 0; total && i < listed; i++) {
		const struct version *alpha = n[i]->side[SYNC_ALPHA];
		json_put_object(w);
		json_put_name(w, "path");
		put_path(w, n[i]);
		put_str(w, "side", alpha && alpha->kind == SYNC_OTHER ? "alpha" : "beta");
		json_put_end(w);
	}
	json_put_end(w);
}

static void put_side(struct json_writer *w, const char *name, uint64_t entries, uint64_t bytes,
		     const char *watch, uint64_t unwatched)
{
	json_put_name(w, name);
	json_put_object(w);
	put_u64(w, "entries", entries);
	put_u64(w, "bytes", bytes);
	put_str(w, "watch", watch);
	put_u64(w, "unwatched", unwatched);
	json_put_end(w);
}

static void put_totals(struct json_writer *w, const char *name, const struct totals *t)
{
	json_put_name(w, name);
	json_put_object(w);
	put_u64(w, "files", t->files);
	put_u64(w, "bytes", t->bytes);
	json_put_end(w);
}

static void put_status(struct session *s, struct json_writer *w)
{
	uint64_t entries = 0, bytes = 0;
	const char *why, *state = state_of(s, &why);
	if (s->side.scan)
		scan_totals(s->side.scan, &entries, &bytes);
	json_put_object(w);
	json_put_name(w, "status");
	json_put_object(w);
	put_str(w, "state", state);
	if (why)
		put_str(w, "why", why);
	put_side(w, "alpha", entries, bytes, side_watch_kind(&s->side),
		 s->side.scan ? scan_unwatched(s->side.scan) : 0);
	put_side(w, "beta", s->far_entries, s->far_bytes, s->far_watch, 0);
	put_totals(w, "todo", &s->todo_left);
	put_totals(w, "done", &s->done);
	put_u64(w, "sent", channel_sent(s->ch));
	put_u64(w, "received", channel_received(s->ch));
	put_conflicts(s, w);
	put_problems(s, w);
	put_skipped(s, w);
	json_put_end(w);
	json_put_end(w);
}

void status_say(struct session *s)
{
	struct json_writer w;
	if (!s->news || s->control_out.len >= 65536)
		return;
	json_writer_begin(&w, &s->control_out);
	put_status(s, &w);
	if (json_writer_end(&w) == 0)
		buf_puts(&s->control_out, "\n");
	s->news = false;
	s->status_at = reactor_now(s->rx) + STATUS_MS;
}

void status_run(struct session *s)
{
	bool at_once = s->code || (s->started && s->scanned && !s->begun_told);
	s->news |= at_once;
	if (s->configured && (reactor_now(s->rx) >= s->status_at || at_once))
		status_say(s);
	s->begun_told = s->started && s->scanned;
	while (s->control_out.len) {
		struct slice d = buf_data(&s->control_out);
		ssize_t n = stream_write(s->control, d.p, d.n);
		if (n == -EAGAIN)
			return;
		if (n < 0) {
			session_fail(s, 1, "the parent has gone");
			return;
		}
		buf_drop(&s->control_out, (size_t)n);
	}
}
