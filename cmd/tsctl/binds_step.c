/* What exchanges wait for: sources are looked at, syncs get ready, fences are reached. */
#include <errno.h>

#include "cmd/tsctl/binds_int.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "reactor/utf8.h"

enum {
	TICK_MS = 1000,
	ROOT_MS = 15 * 1000,  /* for the guest to say where the files are, */
	ROOT_DOWN_MS = 2000,  /* if there is a tunnel */
	CHECK_MS = 10 * 1000, /* for our own file systems */
	READY_MS = 30 * 1000, /* for the syncs to have their root there */
	/* Nothing moves for so long, or there is no tunnel: a start fails, an end is let go. */
	STALL_BEGIN_MS = 60 * 1000,
	DOWN_BEGIN_MS = 15 * 1000,
	STALL_END_MS = 30 * 1000,
	DOWN_END_MS = 5 * 1000,
	PROGRESS_MS = 5 * 1000
};

enum step_kind { STEP_CREATE = 1, STEP_BEGIN, STEP_ADOPT, STEP_SETTLE };

enum step_state {
	STEP_ROOT = 1, /* where does the guest keep the files? */
	STEP_CHECK,    /* what is there on this machine? */
	STEP_READY,    /* until the syncs have their root on the guest */
	STEP_FENCE,    /* until all is on the other side */
	STEP_DONE
};

struct step_fence {
	struct binds_step *step;
	struct bind_sync *sync;   /* counted as used */
	struct sync_fence *fence; /* NULL: reached */
};

struct binds_step {
	struct list link; /* binds.steps */
	struct binds *b;
	enum step_kind kind;
	enum step_state state;
	struct bind_user *user; /* held */
	struct json_doc *doc;   /* STEP_CREATE: to be rewritten */
	struct docker_binds binds;
	size_t *which; /* of binds: those that were looked at */
	size_t nwhich;
	struct bind_sync **syncs; /* of each bind, NULL: it has none */
	struct bind_check *check;
	struct step_fence *fences;
	size_t nfences, left;
	uint64_t began_ms; /* the state */
	uint64_t moved_ms; /* the syncs have last said something */
	uint64_t down_ms;  /* the tunnel is down since, 0: it is up */
	uint64_t told_ms;
	uint64_t changes;
	char **warnings;
	size_t nwarnings;
	int status;
	char *why;
	struct task task; /* delivers */
	binds_done *done;
	void *arg;
};

static uint64_t now(const struct binds_step *s)
{
	return reactor_now(s->b->o.rx);
}

static void enter(struct binds_step *s, enum step_state state)
{
	s->state = state;
	s->began_ms = s->moved_ms = s->told_ms = now(s);
}

/* --- its end --- */

static void fences_cancel(struct binds_step *s)
{
	struct step_fence *fences = s->fences;
	size_t n = s->nfences;
	s->fences = NULL;
	s->nfences = s->left = 0;
	for (size_t i = 0; i < n; i++) {
		sync_fence_cancel(fences[i].fence);
		bind_sync_put(fences[i].sync);
	}
	free(fences);
}

/* status 0: all is well. Takes why. */
static void finish(struct binds_step *s, int status, char *why)
{
	if (s->state == STEP_DONE) {
		free(why);
		return;
	}
	fences_cancel(s);
	s->state = STEP_DONE;
	s->status = status;
	s->why = why;
	task_wake(s->b->o.rx, &s->task);
}

static void deliver(struct task *t)
{
	struct binds_step *s = container_of(t, struct binds_step, task);
	if (s->status && s->kind != STEP_ADOPT)
		log_warn("binds-refused container=%s reason=%s",
			 log_quote(slice_str(s->user ? s->user->name : "")),
			 log_quote(slice_str(s->why)));
	s->done(s->arg, s->status, s->why);
}

void binds_step_free(struct binds_step *s)
{
	if (!s)
		return;
	fences_cancel(s);
	bind_check_free(s->check);
	task_cancel(&s->task);
	list_del(&s->link);
	if (s->user)
		bind_user_release(s->user);
	docker_binds_end(&s->binds);
	for (size_t i = 0; i < s->nwarnings; i++)
		free(s->warnings[i]);
	free(s->warnings);
	free(s->which);
	free(s->syncs);
	free(s->why);
	free(s);
}

/* --- fences --- */

/* Is it reached? Else, what a person is told of it. */
static void fence_failed(struct binds_step *s, const struct bind_sync *sync, const char *why)
{
	if (s->kind == STEP_BEGIN)
		finish(s, 500,
		       xasprintf("cannot sync bind source %s to the remote host: %s", sync->named,
				 why));
	else if (s->kind == STEP_CREATE)
		finish(s, 500,
		       xasprintf("cannot copy bind source %s to the remote host: %s", sync->named,
				 why));
	else
		log_warn("fence-failed source=%s reason=%s", log_quote(slice_str(sync->named)),
			 log_quote(slice_str(why)));
}

static void create_finish(struct binds_step *s);

static void on_fenced(void *arg, int code, const char *why)
{
	struct step_fence *f = arg;
	struct binds_step *s = f->step;
	f->fence = NULL;
	if (code == -ERR_CANCELLED) { /* its job was replaced */
		f->fence = sync_job_fence(f->sync->item.job, 0, on_fenced, f);
		return;
	}
	s->left--;
	if (code)
		fence_failed(s, f->sync, why);
	if (s->state != STEP_FENCE || s->left)
		return;
	if (s->kind == STEP_CREATE)
		create_finish(s);
	else
		finish(s, 0, NULL);
}

static bool fence_has(const struct binds_step *s, const struct bind_sync *sync)
{
	for (size_t i = 0; i < s->nfences; i++)
		if (s->fences[i].sync == sync)
			return true;
	return false;
}

/* Its own syncs, and those of what lies in them. */
static bool concerns(const struct bind_user *u, const struct bind_sync *sync)
{
	for (size_t i = 0; i < u->nuses; i++)
		if (docker_path_below(u->uses[i].sync->source, sync->source))
			return true;
	return false;
}

/* only_files: of a create, which needs those to be there. */
static void fences_set(struct binds_step *s, bool only_files)
{
	struct binds *b = s->b;
	size_t n = 0;
	enter(s, STEP_FENCE);
	for (struct list *l = b->syncs.next; l != &b->syncs; l = l->next)
		n++;
	s->fences = xcalloc(MAX(n, 1), sizeof(*s->fences));
	for (struct list *l = b->syncs.next; l != &b->syncs; l = l->next) {
		struct bind_sync *sync = container_of(l, struct bind_sync, link);
		if (!concerns(s->user, sync) || fence_has(s, sync) || (only_files && !sync->file))
			continue;
		s->fences[s->nfences++] = (struct step_fence){ .step = s, .sync = sync };
		sync->uses++;
	}
	s->left = s->nfences;
	for (size_t i = 0; i < s->nfences; i++)
		s->fences[i].fence =
		    sync_job_fence(s->fences[i].sync->item.job, 0, on_fenced, &s->fences[i]);
	if (s->left == 0 && s->kind == STEP_CREATE)
		create_finish(s);
	else if (s->left == 0)
		finish(s, 0, NULL);
}

/* --- ready --- */

/* 1: its root is there; 0: not yet; -1: it will not be, *why says so. */
static int sync_is_ready(const struct bind_sync *sync, const char **why)
{
	const struct sync_job *j = sync->item.job;
	const char *state = sync_job_state(j, why);
	if (strcmp(state, "failed") == 0 || strcmp(state, "halted") == 0)
		return -1;
	if (strcmp(state, "paused") == 0) {
		*why = "the sync is paused (tsctl sync resume lets it go on)";
		return -1;
	}
	return sync_job_remote(j) && strcmp(state, "connecting") != 0;
}

static bool waits_for_fence(const struct binds_step *s)
{
	return s->b->o.fence && !s->user->unfenced;
}

static void ready_look(struct binds_step *s)
{
	bool late = now(s) - s->began_ms > READY_MS;
	for (size_t i = 0; i < s->user->nuses; i++) {
		struct bind_sync *sync = s->user->uses[i].sync;
		const char *why = "";
		int r = sync_is_ready(sync, &why);
		if (r < 0 || (r == 0 && late)) {
			char *text = xstrdup(*why ? why : "the guest does not answer");
			fence_failed(s, sync, text);
			free(text);
			return;
		}
		if (r == 0)
			return;
	}
	if (s->kind == STEP_CREATE)
		fences_set(s, true);
	else if (waits_for_fence(s))
		fences_set(s, false);
	else
		finish(s, 0, NULL);
}

static void create_finish(struct binds_step *s)
{
	for (size_t i = 0; i < s->binds.n; i++) {
		struct bind_sync *sync = s->syncs[i];
		if (!sync)
			continue;
		char *there = xasprintf("%s%s", s->b->root, sync->source);
		int r = docker_bind_move(s->doc, &s->binds.v[i], slice_str(there));
		free(there);
		if (r < 0) {
			finish(s, 400,
			       xasprintf("bind source %s: this path cannot be named to the engine",
					 sync->named));
			return;
		}
	}
	finish(s, 0, NULL);
}

/* --- what is there on this machine --- */

static void warn(struct binds_step *s, char *text)
{
	if ((s->nwarnings & (s->nwarnings - 1)) == 0) /* a power of two is full */
		s->warnings =
		    xrealloc(s->warnings, MAX(2 * s->nwarnings, 1) * sizeof(*s->warnings));
	s->warnings[s->nwarnings++] = text;
}

/* The sync of a directory or file that was found; false: there is none to be had, and the step has
 * failed. */
static bool take_sync(struct binds_step *s, size_t i, const struct bind_found *f)
{
	struct docker_bind *bind = &s->binds.v[i];
	const char *path = s->kind == STEP_CREATE ? f->path : bind->source;
	if (s->b->state == BINDS_REFUSED) {
		finish(s, 500,
		       xasprintf("cannot sync bind source %s to the remote host: %s (tsctl start "
				 "--no-sync leaves bind sources alone)",
				 bind->source, s->b->why));
		return false;
	}
	if (s->kind == STEP_CREATE && !utf8_valid(slice_str(path))) {
		finish(s, 400,
		       xasprintf("bind source %s: a path that is not UTF-8 cannot be named to the "
				 "engine",
				 bind->source));
		return false;
	}
	s->syncs[i] =
	    bind_sync_get(s->b, path, bind->source, f->kind == BIND_FILE, !bind->read_only);
	bind_user_add(s->user, s->syncs[i], &s->binds, i);
	return true;
}

/* False: the step has failed. */
static bool take_found(struct binds_step *s, size_t i, const struct bind_found *f)
{
	const char *source = s->binds.v[i].source;
	switch (f->kind) {
	case BIND_DIR:
	case BIND_FILE:
		return take_sync(s, i, f);
	case BIND_NONE:
		if (s->kind == STEP_CREATE) /* in dockerd's words */
			finish(s, 400,
			       xasprintf("invalid mount config for type \"bind\": bind source path "
					 "does not exist: %s",
					 source));
		else
			finish(s, 500,
			       xasprintf("bind source path does not exist on this machine any "
					 "more: %s",
					 source));
		return false;
	case BIND_ERROR:
		finish(s, 500, xstrdup(f->path));
		return false;
	case BIND_ROOT:
		warn(s, xstrdup("tsctl: bind source / is never synced: the container gets the "
				"remote host's own"));
		break;
	case BIND_SPECIAL:
		warn(s, xasprintf("tsctl: bind source %s is a %s, which cannot be synced: the "
				  "container gets what the remote host has there",
				  source, f->path));
		break;
	case BIND_SYSTEM:
		break;
	}
	return true;
}

static void on_checked(void *arg, const struct bind_found *found, const char *why)
{
	struct binds_step *s = arg;
	struct bind_use *old = s->user->uses;
	size_t nold = s->user->nuses;
	s->check = NULL;
	if (!found) {
		finish(s, 500, xstrdup(why));
		return;
	}
	s->user->uses = NULL;
	s->user->nuses = 0;
	for (size_t k = 0; k < s->nwhich; k++)
		if (!take_found(s, s->which[k], &found[k]))
			break;
	bind_uses_end(old, nold); /* only now, so that those in both live on */
	binds_mask(s->b);
	if (s->state == STEP_DONE)
		return;
	if (s->kind == STEP_ADOPT) {
		finish(s, 0, NULL);
		return;
	}
	enter(s, STEP_READY);
	ready_look(s);
}

static void check_begin(struct binds_step *s)
{
	size_t n = s->binds.n;
	const char **paths = xcalloc(MAX(n, 1), sizeof(*paths));
	enum bind_missing *missing = xcalloc(MAX(n, 1), sizeof(*missing));
	s->which = xcalloc(MAX(n, 1), sizeof(*s->which));
	s->syncs = xcalloc(MAX(n, 1), sizeof(struct bind_sync *));
	enter(s, STEP_CHECK);
	for (size_t i = 0; i < n; i++) {
		struct docker_bind *bind = &s->binds.v[i];
		const char *ours = binds_ours(s->b, bind->source);
		if (ours) { /* as they are here */
			char *here = xstrdup(ours);
			free(bind->source);
			bind->source = here;
		} else if (s->kind != STEP_CREATE) {
			continue;
		}
		bool say = s->kind != STEP_CREATE || bind->strict;
		paths[s->nwhich] = bind->source;
		missing[s->nwhich] = say ? BIND_MISSING_SAY : BIND_MISSING_MAKE;
		s->which[s->nwhich++] = i;
	}
	if (s->nwhich)
		s->check =
		    bind_check_new(s->b->o.rx, paths, missing, s->nwhich, CHECK_MS, on_checked, s);
	else
		finish(s, 0, NULL);
	free(paths);
	free(missing);
}

/* --- time --- */

/* What is left to do, for the log. */
static void tell_progress(struct binds_step *s)
{
	for (size_t i = 0; i < s->nfences; i++) {
		const struct step_fence *f = &s->fences[i];
		struct buf b;
		struct json_writer w;
		uint64_t files = 0, bytes = 0;
		if (!f->fence)
			continue;
		buf_init(&b, 1 << 20);
		json_writer_begin(&w, &b);
		json_put_object(&w);
		sync_job_status(f->sync->item.job, &w);
		json_put_end(&w);
		json_writer_end(&w);
		struct json_doc *doc = json_parse(buf_data(&b), NULL, NULL);
		if (doc) {
			json_u64(json_find(json_root(doc), "todo", "files"), &files);
			json_u64(json_find(json_root(doc), "todo", "bytes"), &bytes);
		}
		log_info("sync-progress container=%s source=%s state=%s files-left=%llu "
			 "bytes-left=%llu",
			 log_quote(slice_str(s->user->name)), log_quote(slice_str(f->sync->named)),
			 sync_job_state(f->sync->item.job, NULL), (unsigned long long)files,
			 (unsigned long long)bytes);
		json_free(doc);
		buf_end(&b);
	}
}

/* The first that is not reached fails for why; an end is let go. */
static void give_up(struct binds_step *s, const char *why)
{
	for (size_t i = 0; i < s->nfences && s->state == STEP_FENCE; i++)
		if (s->fences[i].fence)
			fence_failed(s, s->fences[i].sync, why);
	finish(s, 0, NULL); /* unless it has failed */
}

static char *down_why(const struct binds_step *s)
{
	struct tunnel_status t;
	tunnel_status(s->b->o.tunnel, &t);
	return xstrdup(t.last_error[0] ? t.last_error : "the tunnel is down");
}

static void fence_look(struct binds_step *s)
{
	bool begins = s->kind != STEP_SETTLE;
	uint64_t changes = 0;
	for (size_t i = 0; i < s->nfences; i++)
		changes += s->fences[i].sync->changes;
	if (changes != s->changes)
		s->moved_ms = now(s);
	s->changes = changes;
	if (tunnel_is_up(s->b->o.tunnel))
		s->down_ms = 0;
	else if (!s->down_ms)
		s->down_ms = now(s);
	if (s->down_ms && now(s) - s->down_ms > (begins ? DOWN_BEGIN_MS : DOWN_END_MS)) {
		char *why = down_why(s);
		give_up(s, why);
		free(why);
	} else if (now(s) - s->moved_ms > (begins ? STALL_BEGIN_MS : STALL_END_MS)) {
		give_up(s, "nothing has moved for a while");
	} else if (now(s) - s->told_ms >= PROGRESS_MS) {
		s->told_ms = now(s);
		tell_progress(s);
	}
}

static void root_look(struct binds_step *s)
{
	if (s->b->state == BINDS_OFF)
		finish(s, 0, NULL);
	else if (s->b->state == BINDS_ON || s->b->state == BINDS_REFUSED)
		check_begin(s);
	else if (now(s) - s->began_ms > ROOT_DOWN_MS && !tunnel_is_up(s->b->o.tunnel))
		finish(s, 502, down_why(s));
	else if (now(s) - s->began_ms > ROOT_MS)
		finish(s, 504,
		       xstrdup("the guest has not said where it keeps the files of containers"));
}

void binds_steps_run(struct binds *b)
{
	for (struct list *l = b->steps.next, *next; l != &b->steps; l = next) {
		struct binds_step *s = container_of(l, struct binds_step, link);
		next = l->next; /* what follows frees no step: it is delivered by its task */
		if (s->state == STEP_ROOT)
			root_look(s);
		else if (s->state == STEP_READY)
			ready_look(s);
		else if (s->state == STEP_FENCE)
			fence_look(s);
	}
	if (!list_empty(&b->steps) && !timer_is_set(&b->tick))
		timer_set(b->o.rx, &b->tick, TICK_MS);
}

/* --- its beginning --- */

static struct binds_step *step_new(struct binds *b, enum step_kind kind, struct bind_user *user,
				   binds_done *done, void *arg)
{
	struct binds_step *s = xcalloc(1, sizeof(*s));
	s->b = b;
	s->kind = kind;
	s->user = user;
	s->done = done;
	s->arg = arg;
	task_init(&s->task, deliver);
	list_init(&s->link);
	list_add_tail(&b->steps, &s->link);
	enter(s, STEP_ROOT);
	task_wake(b->o.rx, &b->wake_task);
	return s;
}

struct binds_step *binds_create(struct binds *b, struct json_doc *doc, binds_done *done, void *arg)
{
	struct docker_binds binds;
	docker_binds_asked(&binds, doc);
	if (b->state == BINDS_OFF || binds.n == 0) {
		docker_binds_end(&binds);
		return NULL;
	}
	struct binds_step *s = step_new(b, STEP_CREATE, bind_user_new(b), done, arg);
	s->user->unfenced = binds.unfenced;
	s->doc = doc;
	s->binds = binds;
	return s;
}

bool binds_created(struct binds_step *s, struct json_doc *reply, struct slice name)
{
	struct slice id = SLICE("");
	struct bind_user *u = s->user;
	json_str(reply, json_find(json_root(reply), "Id"), &id);
	if (id.n == sizeof(u->id) - 1 && !memchr(id.p, '\0', id.n)) {
		snprintf(u->id, sizeof(u->id), "%.*s", SLICE_FMT(id));
		snprintf(u->name, sizeof(u->name), "%.*s", SLICE_FMT(name));
		u->touched = ++u->b->clock;
	}
	return s->nwarnings && docker_warnings_add(reply, s->warnings, s->nwarnings) == 0;
}

struct binds_step *binds_begin(struct binds *b, struct json_doc *inspect, binds_done *done,
			       void *arg)
{
	struct docker_binds binds;
	struct slice id = SLICE(""), name = SLICE("");
	json_str(inspect, json_find(json_root(inspect), "Id"), &id);
	json_str(inspect, json_find(json_root(inspect), "Name"), &name);
	docker_binds_mounted(&binds, inspect, NULL);
	if (b->state == BINDS_OFF || binds.n == 0 || id.n != 64) {
		docker_binds_end(&binds);
		return NULL;
	}
	struct bind_user *u = bind_user_find(b, id);
	if (u)
		u->holds++;
	else
		u = bind_user_new(b);
	snprintf(u->id, sizeof(u->id), "%.*s", SLICE_FMT(id));
	snprintf(u->name, sizeof(u->name), "%.*s",
		 SLICE_FMT(slice_after(name, slice_starts(name, SLICE("/")))));
	u->unfenced = binds.unfenced;
	u->touched = ++b->clock;
	struct binds_step *s = step_new(b, STEP_BEGIN, u, done, arg);
	s->binds = binds;
	return s;
}

void binds_begun(struct binds_step *s)
{
	bind_user_runs(s->user);
}

struct binds_step *binds_adopt(struct binds *b, struct bind_user *u, struct docker_binds *binds,
			       binds_done *done, void *arg)
{
	u->holds++;
	u->unfenced = binds->unfenced;
	struct binds_step *s = step_new(b, STEP_ADOPT, u, done, arg);
	s->binds = *binds;
	return s;
}

struct binds_step *binds_settle_user(struct binds *b, struct bind_user *u, binds_done *done,
				     void *arg)
{
	if (u->nuses == 0)
		return NULL;
	u->holds++;
	struct binds_step *s = step_new(b, STEP_SETTLE, u, done, arg);
	fences_set(s, false);
	return s;
}

struct binds_step *binds_settle(struct binds *b, struct slice container, binds_done *done,
				void *arg)
{
	struct bind_user *u = bind_user_find(b, container);
	return u && binds_fenced(b, container, false) ? binds_settle_user(b, u, done, arg) : NULL;
}
