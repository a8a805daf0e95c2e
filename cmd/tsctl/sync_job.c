#include "cmd/tsctl/sync_job.h"

#include <errno.h>
#include <signal.h>

#include "cmd/tsctl/sync_job_int.h"
#include "proto/sync/path_text.h"
#include "proto/sync/worker.h"
#include "reactor/err.h"
#include "reactor/log.h"

enum {
	DOWN_MS = 100, /* the tunnel is down: no use to dial for ourselves */
	BACKOFF_FIRST_MS = 100,
	BACKOFF_MAX_MS = 5000,
	FAIL_FIRST_MS = 1000,
	FAIL_MAX_MS = 30 * 1000,
	STABLE_MS = 1000,
	KILL_MS = 5000,
	OPEN_BYTES = 64 * 1024
};

void sync_job_changed(const struct sync_job *j)
{
	if (j->sp.changed && !j->freed)
		j->sp.changed(j->sp.arg);
}

static void set_why(struct sync_job *j, const char *why)
{
	char *copy = why ? xstrdup(why) : NULL;
	free(j->why);
	j->why = copy;
}

static void retry_in(struct sync_job *j, uint64_t ms)
{
	j->stage = SYNC_IDLE;
	timer_set(j->sp.rx, &j->retry, ms);
}

/* It did not get as far as it should: the reason stands until it does. */
static void fail(struct sync_job *j, const char *why)
{
	if (!j->failed || !j->why || strcmp(j->why, why) != 0)
		log_warn("sync-failed sync=%.12s reason=%s", j->sp.id, log_quote(slice_str(why)));
	set_why(j, why);
	j->failed = true;
	sync_fences_fail(j, -EIO, j->why);
	retry_in(j, j->fail_ms);
	j->fail_ms = MIN(j->fail_ms * 2, (uint64_t)FAIL_MAX_MS);
	sync_job_changed(j);
}

/* The stream or a worker was lost, as happens. */
static void lost(struct sync_job *j, const char *why)
{
	set_why(j, why);
	retry_in(j, j->backoff_ms);
	j->backoff_ms = MIN(MAX(j->backoff_ms, BACKOFF_FIRST_MS) * 2, (uint64_t)BACKOFF_MAX_MS);
	sync_job_changed(j);
}

/* Did the guest mean it? Else it could not be reached, or was lost. */
static bool is_refusal(const struct sync_job *j, int code)
{
	return tunnel_is_up(j->sp.tunnel) &&
	       (code == -EIO || code == -EINVAL || code == -ERR_DENIED || code == -ERR_NOT_FOUND ||
		code == -ERR_TOO_MANY);
}

/* --- its end --- */

static void run_end(struct sync_job *j)
{
	timer_clear(j->sp.rx, &j->kill);
	sync_talk_end(j);
	child_free(j->child);
	j->child = NULL;
	j->exited = false;
}

/* The worker is gone, and all that it had to say was read. */
static void worker_gone(struct sync_job *j)
{
	struct child_status st = j->exit;
	char why[600];
	bool stable = j->heard && reactor_now(j->sp.rx) - j->started_ms >= STABLE_MS;
	run_end(j);
	if (stable) {
		j->backoff_ms = 0; /* at once, the first time */
		j->fail_ms = FAIL_FIRST_MS;
	}
	if (j->paused || j->again) {
		bool again = j->again && !j->paused;
		j->again = false;
		j->stage = SYNC_IDLE;
		if (again)
			retry_in(j, 0);
	} else if (st.exec_errno) {
		snprintf(why, sizeof(why), "cannot start the sync worker: %s",
			 err_text(-st.exec_errno));
		fail(j, why);
	} else if (st.exit_code) {
		snprintf(why, sizeof(why), "the sync worker ended with status %d", st.exit_code);
		fail(j, j->last_said[0] ? j->last_said : why);
	} else if (st.signal) {
		snprintf(why, sizeof(why), "the sync worker was killed by signal %d", st.signal);
		lost(j, why);
	} else if (j->failed) { /* the guest's worker said so: on_pump_end */
		fail(j, j->why);
	} else {
		lost(j, j->why);
	}
}

static void on_child_ended(void *arg, const struct child_status *st)
{
	struct sync_job *j = arg;
	j->exit = *st;
	j->exited = true;
	task_wake(j->sp.rx, &j->task);
}

/* Both streams are closed: the worker reads the end of its stdin, and ends. */
static void on_pump_end(void *arg, const struct pump_end *end, const char *why)
{
	struct sync_job *j = arg;
	j->pump = NULL;
	if (j->freed)
		return;
	j->stage = SYNC_ENDING;
	timer_set(j->sp.rx, &j->kill, KILL_MS);
	if (j->paused || j->again || j->exited)
		return;
	bool theirs = end->code < 0 && end->a_failed && is_refusal(j, end->code);
	set_why(j, end->code < 0 ? why : "the guest ended the sync's stream");
	if (theirs)
		j->failed = true;
	log_info("sync-lost sync=%.12s reason=%s", j->sp.id, log_quote(slice_str(j->why)));
	sync_job_changed(j);
}

static void on_kill(struct timer *t)
{
	struct sync_job *j = container_of(t, struct sync_job, kill);
	child_kill(j->child, SIGKILL);
}

/* Ends what there is; what follows is decided when the worker is gone. */
static void end_now(struct sync_job *j)
{
	timer_clear(j->sp.rx, &j->retry);
	if (j->stage == SYNC_RUNNING) {
		pump_abort(j->pump, -ERR_CANCELLED);
	} else if (j->stage == SYNC_OPENING) {
		stream_close(j->s, -ERR_CANCELLED);
		j->s = NULL;
		j->stage = SYNC_IDLE;
	}
}

static void start_anew(struct sync_job *j)
{
	if (j->paused || j->stage == SYNC_IDLE)
		return;
	j->again = j->stage != SYNC_OPENING;
	end_now(j);
	if (!j->again)
		retry_in(j, 0);
}

/* --- its start --- */

static void put_open(const struct sync_job *j, struct buf *b)
{
	struct json_writer w;
	json_writer_begin(&w, b);
	json_put_object(&w);
	json_put_name(&w, "kind");
	json_put_str(&w, SLICE("sync"));
	json_put_name(&w, "id");
	json_put_str(&w, slice_str(j->sp.id));
	if (j->sp.owner) {
		json_put_name(&w, "owner");
		json_put_str(&w, slice_str(j->sp.owner));
		json_put_name(&w, "source");
		path_text_put(&w, j->sp.alpha);
		json_put_name(&w, "file");
		json_put_bool(&w, j->sp.file);
	} else {
		char *path = xstrdup(j->sp.beta);
		char *slash = j->sp.file ? strrchr(path, '/') : NULL;
		if (slash)
			slash[slash == path] = '\0';
		json_put_name(&w, "path");
		path_text_put(&w, path);
		free(path);
	}
	json_put_end(&w);
	int r = json_writer_end(&w);
	BUG_ON(r < 0); /* paths are shorter */
}

static void job_open(struct sync_job *j)
{
	struct buf b;
	if (!j->sp.tunnel)
		return;
	if (!tunnel_is_up(j->sp.tunnel)) {
		retry_in(j, DOWN_MS);
		return;
	}
	buf_init(&b, OPEN_BYTES);
	put_open(j, &b);
	j->stage = SYNC_OPENING;
	j->s = tunnel_open(j->sp.tunnel, buf_data(&b), TUNNEL_BULK);
	stream_bind(j->s, &j->task);
	buf_end(&b);
}

static void on_retry(struct timer *t)
{
	job_open(container_of(t, struct sync_job, retry));
}

/* "root" of OPENED. False: there is none. */
static bool take_root(struct sync_job *j)
{
	struct json_doc *doc = json_parse(mux_opened_json(j->s), NULL, NULL);
	struct slice text = SLICE("");
	if (doc)
		json_str(doc, json_find(json_root(doc), "root"), &text);
	char *root = text.n && text.p[0] == '/' ? path_text_get(text) : NULL;
	json_free(doc);
	if (!root)
		return false;
	free(j->root);
	free(j->remote);
	j->root = root;
	const char *name = j->sp.file ? strrchr(j->sp.alpha, '/') + 1 : "";
	bool slash = j->sp.file && strcmp(root, "/") != 0;
	j->remote = xasprintf("%s%s%s", root, slash ? "/" : "", name);
	return true;
}

static void spawn(struct sync_job *j)
{
	char *argv[] = { (char[]){ "/proc/self/exe" }, (char[]){ SYNC_WORKER_NAME }, NULL };
	char *envp[] = { NULL };
	char why[256];
	int err = 0;
	j->child = child_spawn(
	    j->sp.rx, &(struct child_options){ .argv = argv, .envp = envp, .channel = true }, NULL,
	    on_child_ended, j, &err);
	if (!j->child) {
		snprintf(why, sizeof(why), "cannot start the sync worker: %s", err_text(err));
		stream_close(j->s, -ERR_CANCELLED);
		j->s = NULL;
		fail(j, why);
		return;
	}
	j->stage = SYNC_RUNNING;
	j->heard = j->exited = false;
	j->last_said[0] = '\0';
	j->started_ms = reactor_now(j->sp.rx);
	j->channel = child_channel(j->child);
	j->err = child_stderr(j->child);
	buf_init(&j->out, SYNC_LINE_MAX);
	buf_init(&j->in, SYNC_LINE_MAX);
	buf_init(&j->said, SYNC_STDERR_MAX);
	stream_bind(j->channel, &j->task);
	stream_bind(j->err, &j->task);
	struct stream *s = j->s;
	j->s = NULL;
	j->pump = pump_start(
	    j->sp.rx, s, pair_stream_new(j->sp.rx, child_stdout(j->child), child_stdin(j->child)),
	    on_pump_end, j);
	sync_talk_begin(j);
	sync_job_changed(j);
}

static void look_opened(struct sync_job *j)
{
	char text[600];
	int r = stream_open_yet(j->s);
	if (r == -EAGAIN)
		return;
	if (r == 0 && take_root(j)) {
		spawn(j);
		return;
	}
	const char *why = r ? stream_why(j->s, r) : "the guest did not say where the files are";
	bool unknown = r == -ERR_NOT_FOUND && strstr(why, "kind");
	snprintf(text, sizeof(text), "%s%s", why,
		 unknown ? "; it is older than this tsctl: update it" : "");
	bool refused = r == 0 || is_refusal(j, r);
	stream_close(j->s, r ? 0 : -EINVAL);
	j->s = NULL;
	if (refused)
		fail(j, text);
	else
		lost(j, text);
}

static void job_run(struct task *t)
{
	struct sync_job *j = container_of(t, struct sync_job, task);
	if (j->stage == SYNC_OPENING) {
		look_opened(j);
	} else if (j->child) {
		if (!sync_talk(j))
			child_kill(j->child, SIGKILL);
		if (!j->exited)
			return;
		if (j->pump)
			pump_abort(j->pump, -ERR_CANCELLED);
		worker_gone(j);
	}
}

/* --- what it is told --- */

void sync_job_tunnel(struct sync_job *j, struct tunnel *t, const char *why)
{
	j->sp.tunnel = t;
	j->failed = !t;
	set_why(j, t ? NULL : why);
	if (t && !j->paused)
		retry_in(j, 0);
	else if (!t)
		sync_fences_fail(j, -EIO, why);
	sync_job_changed(j);
}

void sync_job_tunnel_changed(struct sync_job *j)
{
	if (j->sp.tunnel && j->stage == SYNC_IDLE && !j->paused && !j->failed &&
	    tunnel_is_up(j->sp.tunnel))
		retry_in(j, 0);
}

void sync_job_tunnel_goaway(struct sync_job *j)
{
	start_anew(j);
}

void sync_job_pause(struct sync_job *j)
{
	if (j->paused)
		return;
	j->paused = true;
	sync_fences_fail(j, -EBUSY, "the sync is paused");
	end_now(j);
	sync_job_changed(j);
}

void sync_job_resume(struct sync_job *j)
{
	if (!j->paused) {
		if (strcmp(sync_job_state(j, NULL), "halted") == 0)
			sync_tell(j, "proceed");
		else if (j->failed && j->stage == SYNC_IDLE)
			retry_in(j, 0);
		return;
	}
	j->paused = j->failed = false;
	set_why(j, NULL);
	if (j->stage == SYNC_IDLE)
		retry_in(j, 0);
	else
		j->again = true; /* its worker is just ending */
	sync_job_changed(j);
}

void sync_job_reset(struct sync_job *j)
{
	if (j->stage == SYNC_RUNNING)
		sync_tell(j, "reset");
	else
		j->reset = true;
}

static void free_masks(struct sync_job *j)
{
	for (size_t i = 0; i < j->nmasks; i++)
		free(j->masks[i]);
	free(j->masks);
	j->masks = NULL;
	j->nmasks = 0;
}

void sync_job_masks(struct sync_job *j, char *const *masks, size_t n)
{
	bool same = n == j->nmasks;
	for (size_t i = 0; same && i < n; i++)
		same = strcmp(masks[i], j->masks[i]) == 0;
	if (same)
		return;
	free_masks(j);
	j->masks = xcalloc(MAX(n, 1), sizeof(char *));
	for (size_t i = 0; i < n; i++)
		j->masks[i] = xstrdup(masks[i]);
	j->nmasks = n;
	start_anew(j);
}

/* --- what it tells --- */

const char *sync_job_remote(const struct sync_job *j)
{
	return j->remote;
}

const char *sync_job_id(const struct sync_job *j)
{
	return j->sp.id;
}

bool sync_job_paused(const struct sync_job *j)
{
	return j->paused;
}

const char *sync_job_state(const struct sync_job *j, const char **why)
{
	static char text[1024];
	struct tunnel_status t;
	struct slice s = SLICE("");
	const char *state = "connecting";
	text[0] = '\0';
	if (j->paused) {
		state = "paused";
	} else if (j->failed) {
		state = "failed";
		snprintf(text, sizeof(text), "%s", j->why ? j->why : "");
	} else if (j->stage == SYNC_RUNNING && j->heard) {
		state = sync_talk_state(j);
		if (json_str(j->doc, json_find(j->status, "why"), &s) == 0)
			snprintf(text, sizeof(text), "%.*s", SLICE_FMT(s));
	} else if (j->sp.tunnel) {
		tunnel_status(j->sp.tunnel, &t);
		const char *down = t.last_error[0] ? t.last_error : "the tunnel is not up";
		snprintf(text, sizeof(text), "%s", !t.up ? down : j->why ? j->why : "");
	}
	if (why)
		*why = text;
	return state;
}

/* What there is of the worker's status always, and what stands for it before the first. */
static const struct {
	const char *name, *none;
} members[] = { { "alpha", "null" },
		{ "beta", "null" },
		{ "todo", "{\"files\":0,\"bytes\":0}" },
		{ "done", "{\"files\":0,\"bytes\":0}" },
		{ "sent", "0" },
		{ "received", "0" },
		{ "conflicts_total", "0" },
		{ "conflicts", "[]" },
		{ "problems_total", "0" },
		{ "problems", "[]" },
		{ "skipped_total", "0" },
		{ "skipped", "[]" } };

static void put_member(struct json_writer *w, struct json *v, const char *none)
{
	struct json_doc *doc = v ? NULL : json_parse(slice_str(none), NULL, NULL);
	json_put_value(w, v ? v : json_root(doc));
	json_free(doc);
}

void sync_job_status(const struct sync_job *j, struct json_writer *w)
{
	const char *why, *state = sync_job_state(j, &why);
	const char *beta = j->sp.shown ? j->sp.shown : j->remote ? j->remote : j->sp.beta;
	json_put_name(w, "id");
	json_put_str(w, slice_str(j->sp.id));
	json_put_name(w, "local");
	path_text_put(w, j->sp.alpha);
	json_put_name(w, "remote");
	path_text_put(w, beta ? beta : "");
	json_put_name(w, "mode");
	json_put_str(w, slice_str(sync_mode_text(j->sp.mode)));
	json_put_name(w, "paused");
	json_put_bool(w, j->paused);
	json_put_name(w, "state");
	json_put_str(w, slice_str(state));
	json_put_name(w, "why");
	json_put_str(w, slice_str(why));
	for (size_t i = 0; i < ARRAY_LEN(members); i++) {
		struct json *v = json_member(j->status, slice_str(members[i].name));
		json_put_name(w, members[i].name);
		put_member(w, v, members[i].none);
	}
}

/* --- life --- */

static char *copy(const char *s)
{
	return s ? xstrdup(s) : NULL;
}

struct sync_job *sync_job_new(const struct sync_spec *sp, bool paused)
{
	struct sync_job *j = xcalloc(1, sizeof(*j));
	j->sp = *sp;
	j->sp.alpha = copy(sp->alpha);
	j->sp.beta = copy(sp->beta);
	j->sp.owner = copy(sp->owner);
	j->sp.shown = copy(sp->shown);
	j->sp.ignore = copy(sp->ignore);
	j->sp.state_dir = copy(sp->state_dir);
	j->paused = paused;
	j->fail_ms = FAIL_FIRST_MS;
	task_init(&j->task, job_run);
	timer_init(&j->retry, on_retry);
	timer_init(&j->kill, on_kill);
	list_init(&j->fences);
	list_init(&j->over);
	if (!paused)
		retry_in(j, 0);
	return j;
}

void sync_job_free(struct sync_job *j)
{
	if (!j)
		return;
	j->freed = true;
	sync_fences_end(j);
	end_now(j);
	run_end(j);
	task_cancel(&j->task);
	timer_clear(j->sp.rx, &j->retry);
	json_free(j->doc);
	free(j->line);
	free_masks(j);
	free(j->why);
	free(j->root);
	free(j->remote);
	free((char *)(uintptr_t)j->sp.alpha);
	free((char *)(uintptr_t)j->sp.beta);
	free((char *)(uintptr_t)j->sp.owner);
	free((char *)(uintptr_t)j->sp.shown);
	free((char *)(uintptr_t)j->sp.ignore);
	free((char *)(uintptr_t)j->sp.state_dir);
	free(j);
}
