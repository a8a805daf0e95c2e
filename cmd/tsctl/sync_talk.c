/* What a sync and its worker tell each other: JSON, one object a line (docs/sync.md, "Control"). */
#include <errno.h>
#include <signal.h>

#include "cmd/tsctl/sync_job_int.h"
#include "proto/sync/ignore.h"
#include "proto/sync/path_text.h"
#include "reactor/err.h"
#include "reactor/log.h"

static struct sync_fence *find_fence(struct sync_job *j, uint64_t number, bool resolve)
{
	for (struct list *i = j->fences.next; i != &j->fences; i = i->next) {
		struct sync_fence *f = container_of(i, struct sync_fence, link);
		if (f->number == number && resolve == (f->path != NULL))
			return f;
	}
	return NULL;
}

/* --- to the worker --- */

static void line_begin(struct sync_job *j, struct json_writer *w)
{
	json_writer_begin(w, &j->out);
	json_put_object(w);
}

static void line_end(struct sync_job *j, struct json_writer *w)
{
	json_put_end(w);
	/* It takes nothing in any more: what cannot be told is told to the next one. */
	if (json_writer_end(w) < 0 || buf_puts(&j->out, "\n") < 0)
		child_kill(j->child, SIGKILL);
	task_wake(j->sp.rx, &j->task);
}

static void put_str(struct json_writer *w, const char *name, const char *text)
{
	json_put_name(w, name);
	json_put_str(w, slice_str(text));
}

static void put_path(struct json_writer *w, const char *name, const char *path)
{
	json_put_name(w, name);
	path_text_put(w, path);
}

static void put_bool(struct json_writer *w, const char *name, bool v)
{
	json_put_name(w, name);
	json_put_bool(w, v);
}

void sync_tell(struct sync_job *j, const char *name)
{
	struct json_writer w;
	if (j->stage != SYNC_RUNNING)
		return;
	line_begin(j, &w);
	put_bool(&w, name, true);
	line_end(j, &w);
}

void sync_tell_fence(struct sync_job *j, const struct sync_fence *f)
{
	struct json_writer w;
	if (j->stage != SYNC_RUNNING)
		return;
	line_begin(j, &w);
	if (f->path) {
		put_path(&w, "resolve", f->path);
		put_str(&w, "keep", f->keep);
	}
	json_put_name(&w, f->path ? "n" : "fence");
	json_put_u64(&w, f->number);
	line_end(j, &w);
}

/* The directory that holds a file; the root itself for a directory. */
static char *root_of(const struct sync_job *j, const char **only)
{
	char *root = xstrdup(j->sp.alpha);
	char *slash = j->sp.file ? strrchr(root, '/') : NULL;
	*only = slash ? strrchr(j->sp.alpha, '/') + 1 : NULL;
	if (slash)
		slash[slash == root] = '\0';
	return root;
}

static void put_config(struct sync_job *j)
{
	struct json_writer w;
	const char *only, *ignore = j->sp.ignore ? j->sp.ignore : "";
	char *root = root_of(j, &only);
	char *store = xasprintf("%s/%s", j->sp.state_dir, j->sp.id);
	char *patterns = xasprintf("%s%s", j->sp.ignore_vcs ? IGNORE_VCS : "", ignore);
	line_begin(j, &w);
	put_str(&w, "id", j->sp.id);
	put_path(&w, "root", root);
	put_path(&w, "store", store);
	if (only)
		put_path(&w, "only", only);
	put_str(&w, "mode", sync_mode_text(j->sp.mode));
	put_str(&w, "ignore", patterns);
	json_put_name(&w, "masks");
	json_put_array(&w);
	for (size_t i = 0; i < j->nmasks; i++)
		path_text_put(&w, j->masks[i]);
	json_put_end(&w);
	put_bool(&w, "halt", !j->sp.owner); /* containers do empty their directories */
	put_bool(&w, "fanotify", false);
	json_put_name(&w, "far");
	json_put_object(&w);
	put_path(&w, "root", j->root);
	put_bool(&w, "make", true);
	put_bool(&w, "in_place", j->sp.file && j->sp.owner);
	put_bool(&w, "owned", j->sp.owner);
	json_put_end(&w);
	line_end(j, &w);
	free(root);
	free(store);
	free(patterns);
}

void sync_talk_begin(struct sync_job *j)
{
	put_config(j);
	if (j->reset)
		sync_tell(j, "reset");
	j->reset = false;
	for (struct list *i = j->fences.next; i != &j->fences; i = i->next)
		sync_tell_fence(j, container_of(i, struct sync_fence, link));
}

/* --- from the worker --- */

static void on_answer(struct sync_job *j, struct json_doc *doc, struct json *number, bool resolve)
{
	uint64_t n = 0;
	struct slice error = SLICE("");
	json_u64(number, &n);
	bool failed = json_str(doc, json_find(json_root(doc), "error"), &error) == 0;
	struct sync_fence *f = find_fence(j, n, resolve);
	if (!f)
		return; /* it was cancelled, or has waited for too long */
	char *why = xslicedup(error);
	sync_fence_over(f, failed ? -EIO : 0, why);
	free(why);
}

const char *sync_talk_state(const struct sync_job *j)
{
	static const char *const states[] = { "connecting",   "scanning", "reconciling",
					      "transferring", "watching", "paused",
					      "halted",       "failed" };
	struct slice s;
	if (json_str(j->doc, json_find(j->status, "state"), &s) == 0)
		for (size_t i = 0; i < ARRAY_LEN(states); i++)
			if (slice_eq(s, slice_str(states[i])))
				return states[i];
	return states[0];
}

/* doc and text are taken. */
static void on_status(struct sync_job *j, struct json_doc *doc, struct json *status, char *text)
{
	json_free(j->doc);
	free(j->line);
	j->doc = doc;
	j->line = text;
	j->status = status;
	j->heard = true;
	/* Why it has failed stands until it gets further than to try again; and a worker that is
	 * to end still talks. */
	if (j->stage == SYNC_RUNNING && strcmp(sync_talk_state(j), "connecting") != 0)
		j->failed = false;
	sync_job_changed(j);
}

static bool on_line(struct sync_job *j, struct slice line)
{
	char *text = xslicedup(line);
	struct json_doc *doc = json_parse(slice_of(text, line.n), NULL, NULL);
	struct json *root = doc ? json_root(doc) : NULL, *v;
	bool good = root && root->type == JSON_OBJECT;
	if (!good) {
		log_error("sync-worker sync=%.12s nonsense=%s", j->sp.id, log_quote(line));
	} else if ((v = json_find(root, "status")) && v->type == JSON_OBJECT) {
		on_status(j, doc, v, text);
		return true;
	} else if ((v = json_find(root, "fenced"))) {
		on_answer(j, doc, v, false);
	} else if ((v = json_find(root, "resolved"))) {
		on_answer(j, doc, v, true);
	}
	json_free(doc);
	free(text);
	return good;
}

static bool take_lines(struct sync_job *j)
{
	for (;;) {
		struct slice d = buf_data(&j->in);
		const char *end = d.n ? memchr(d.p + j->looked, '\n', d.n - j->looked) : NULL;
		if (!end) {
			j->looked = d.n;
			return true;
		}
		size_t n = (size_t)(end - d.p);
		bool good = on_line(j, slice_of(d.p, n));
		buf_drop(&j->in, n + 1);
		j->looked = 0;
		if (!good)
			return false;
	}
}

static bool hear(struct sync_job *j)
{
	while (j->channel) {
		struct iovec room = buf_room(&j->in);
		if (room.iov_len == 0) {
			log_error("sync-worker sync=%.12s line=too-long", j->sp.id);
			return false;
		}
		ssize_t n = j->channel->ops->read(j->channel, &room, 1);
		buf_added(&j->in, n > 0 ? (size_t)n : 0);
		if (n == -EAGAIN)
			break;
		if (n <= 0) {
			stream_close(j->channel, 0);
			j->channel = NULL;
		} else if (!take_lines(j)) {
			return false;
		}
	}
	return true;
}

static void speak(struct sync_job *j)
{
	while (j->channel && j->out.len) {
		struct slice d = buf_data(&j->out);
		ssize_t n = stream_write(j->channel, d.p, d.n);
		if (n <= 0)
			break; /* its end is seen by others */
		buf_drop(&j->out, (size_t)n);
	}
}

static void note_said(struct sync_job *j, struct slice line)
{
	if (line.n == 0)
		return;
	log_warn("sync-worker sync=%.12s said=%s", j->sp.id, log_quote(line));
	snprintf(j->last_said, sizeof(j->last_said), "%.*s", SLICE_FMT(line));
}

static void hear_stderr(struct sync_job *j)
{
	while (j->err) {
		struct iovec room = buf_room(&j->said);
		if (room.iov_len == 0) { /* a line without an end */
			note_said(j, buf_data(&j->said));
			buf_drop(&j->said, j->said.len);
			continue;
		}
		ssize_t n = j->err->ops->read(j->err, &room, 1);
		buf_added(&j->said, n > 0 ? (size_t)n : 0);
		if (n == -EAGAIN)
			return;
		struct slice d, line, rest;
		while (slice_cut(d = buf_data(&j->said), '\n', &line, &rest)) {
			note_said(j, line);
			buf_drop(&j->said, d.n - rest.n);
		}
		if (n <= 0) {
			note_said(j, buf_data(&j->said));
			stream_close(j->err, 0);
			j->err = NULL;
		}
	}
}

bool sync_talk(struct sync_job *j)
{
	speak(j);
	hear_stderr(j);
	return hear(j);
}

void sync_talk_end(struct sync_job *j)
{
	stream_close(j->channel, 0);
	stream_close(j->err, 0);
	j->channel = j->err = NULL;
	buf_end(&j->out);
	buf_end(&j->in);
	buf_end(&j->said);
	j->looked = 0;
}
