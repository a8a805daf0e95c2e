/* Streams of kind sync: a worker beside each, which has the disk. */
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cmd/guest/guest.h"
#include "json/json.h"
#include "cmd/guest/worker.h"
#include "proto/sync/path_text.h"
#include "proto/sync/worker.h"
#include "reactor/child.h"
#include "reactor/err.h"
#include "reactor/hold.h"
#include "reactor/log.h"
#include "reactor/pump.h"

enum {
	SYNCS_MAX = 256,
	OWNER_MAX = 128,
	ID_LEN = 32,
	SAID_MAX = 4096,
	OPENED_MAX = 64 * 1024,
	KILL_MS = 5000
};

struct sync {
	struct list link; /* guest.syncs */
	struct guest *g;
	char id[ID_LEN + 1];
	char *peer, *root;
	struct child *child;
	struct stream *s; /* ours until started, then the pump's; NULL once it is closed */
	struct pump *pump;
	struct task task;            /* the worker's stderr */
	struct stream *err, *output; /* output: of the pump, its end is held */
	struct buf said;
	char last_said[512];
	bool ended;
	struct child_status status;
	struct timer kill; /* for a worker that does not end with its stream */
};

static void start_next(struct guest *g, const char *id);

static void sync_free(struct sync *y)
{
	struct guest *g = y->g;
	char id[ID_LEN + 1];
	memcpy(id, y->id, sizeof(id));
	list_del(&y->link);
	g->nsyncs--;
	task_cancel(&y->task);
	timer_clear(g->rx, &y->kill);
	stream_close(y->err, 0);
	child_free(y->child);
	buf_end(&y->said);
	free(y->peer);
	free(y->root);
	free(y);
	start_next(g, id);
}

/* --- the worker --- */

static void note(struct sync *y, struct slice line)
{
	if (line.n == 0)
		return;
	log_warn("sync-worker sync=%.12s said=%s", y->id, log_quote(line));
	snprintf(y->last_said, sizeof(y->last_said), "%.*s", SLICE_FMT(line));
}

static void listen_to(struct sync *y)
{
	while (y->err) {
		struct iovec room = buf_room(&y->said);
		ssize_t n = room.iov_len ? y->err->ops->read(y->err, &room, 1) : 0;
		if (n == -EAGAIN)
			return;
		buf_added(&y->said, n > 0 ? (size_t)n : 0);
		struct slice d, line, rest;
		while (slice_cut(d = buf_data(&y->said), '\n', &line, &rest)) {
			note(y, line);
			buf_drop(&y->said, d.n - rest.n);
		}
		if (n > 0)
			continue;
		note(y, buf_data(&y->said));
		buf_drop(&y->said, y->said.len);
		if (room.iov_len) {
			stream_close(y->err, 0);
			y->err = NULL;
		}
	}
}

/* The peer is told why; the pump sees that and ends. */
static void tell_peer(struct sync *y)
{
	char text[600];
	if (y->status.exec_errno)
		snprintf(text, sizeof(text), "cannot start the sync worker: %s",
			 err_text(-y->status.exec_errno));
	else if (y->status.signal)
		snprintf(text, sizeof(text), "the guest's sync worker was killed by signal %d",
			 y->status.signal);
	else if (y->last_said[0])
		snprintf(text, sizeof(text), "%s", y->last_said);
	else
		snprintf(text, sizeof(text), "the guest's sync worker ended with status %d",
			 y->status.exit_code);
	/* One that was killed can be started again at once. */
	mux_reset(y->s, y->status.signal ? -ERR_CANCELLED : -EIO, text);
}

static void sync_run(struct task *t)
{
	struct sync *y = container_of(t, struct sync, task);
	listen_to(y);
	if (!y->ended)
		return;
	if (y->s && (y->status.exec_errno || y->status.signal || y->status.exit_code))
		tell_peer(y);
	else if (y->output)
		hold_stream_release(y->output);
	if (!y->pump) {
		stream_close(y->s, 0);
		sync_free(y);
	}
}

static void on_ended(void *arg, const struct child_status *status)
{
	struct sync *y = arg;
	y->status = *status;
	y->ended = true;
	task_wake(y->g->rx, &y->task);
}

static void on_finished(void *arg, const struct pump_end *end, const char *why)
{
	struct sync *y = arg;
	(void)end;
	log_info("sync-closed sync=%.12s peer=%s in=%llu out=%llu reason=%s", y->id,
		 log_quote(slice_str(y->peer)), (unsigned long long)end->a_to_b,
		 (unsigned long long)end->b_to_a, log_quote(slice_str(why)));
	y->s = NULL;
	y->pump = NULL;
	/* The worker reads the end of its stdin, and ends: until then it has the store. */
	if (y->ended)
		task_wake(y->g->rx, &y->task);
	else
		timer_set(y->g->rx, &y->kill, KILL_MS);
}

static void on_kill(struct timer *t)
{
	child_kill(container_of(t, struct sync, kill)->child, SIGKILL);
}

static void accept_root(struct stream *s, const char *root)
{
	struct buf b;
	struct json_writer w;
	buf_init(&b, OPENED_MAX);
	json_writer_begin(&w, &b);
	json_put_object(&w);
	json_put_name(&w, "root");
	path_text_put(&w, root);
	json_put_end(&w);
	int r = json_writer_end(&w);
	BUG_ON(r < 0); /* it came in an OPEN */
	mux_accept(s, buf_data(&b));
	buf_end(&b);
}

static void on_output_ended(void *arg)
{
	(void)arg; /* sync_run lets it go, once it is known how the worker has ended */
}

static void on_output_closed(void *arg)
{
	struct sync *y = arg;
	y->output = NULL;
}

static void on_started(void *arg)
{
	struct sync *y = arg;
	accept_root(y->s, y->root);
	/* A peer that read the end first would end, too, and never hear the reason. */
	y->output = hold_stream_new(child_stdout(y->child), on_output_ended, on_output_closed, y);
	y->pump =
	    pump_start(y->g->rx, y->s, pair_stream_new(y->g->rx, y->output, child_stdin(y->child)),
		       on_finished, y);
	log_info("sync-open sync=%.12s peer=%s root=%s", y->id, log_quote(slice_str(y->peer)),
		 log_quote(slice_str(y->root)));
}

/* --- the request --- */

/* Absolute, no "." or ".." and no empty component. */
static bool is_clean(const char *path)
{
	if (path[0] != '/')
		return false;
	for (const char *p = path; *p; p += strcspn(p, "/")) {
		size_t n = strcspn(++p, "/");
		if (n == 0 ? p[-1] == '/' && path[1] != '\0'
			   : (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
			return false;
	}
	return strlen(path) < PATH_MAX;
}

static bool owner_ok(struct slice s)
{
	static const char extra[] = "._@-";
	for (size_t i = 0; i < s.n; i++)
		if (!isalnum((unsigned char)s.p[i]) && !memchr(extra, s.p[i], sizeof(extra) - 1))
			return false;
	return s.n >= 1 && s.n <= OWNER_MAX && !slice_eq(s, SLICE(".")) &&
	       !slice_eq(s, SLICE(".."));
}

/* A member that is a path, to be free()d; NULL: there is none, or no clean one. */
static char *path_member(struct json_doc *doc, const char *name)
{
	struct slice text;
	if (json_str(doc, json_member(json_root(doc), slice_str(name)), &text) < 0)
		return NULL;
	char *path = path_text_get(text);
	if (path && is_clean(path))
		return path;
	free(path);
	return NULL;
}

/* By hand: as other files, anywhere if commands may be run, else only below the sync root. */
static int root_by_path(const struct guest *g, struct json_doc *doc, char **root, char *why,
			size_t whylen)
{
	*root = path_member(doc, "path");
	if (!*root) {
		snprintf(why, whylen, "\"path\" must be absolute, without \"..\"");
		return -EINVAL;
	}
	if (g->policy.exec.allowed)
		return 0;
	size_t n = g->sync_root ? strlen(g->sync_root) : 0;
	if (n && strncmp(*root, g->sync_root, n) == 0 && (*root)[n] == '/')
		return 0;
	if (n)
		snprintf(why, whylen, "this guest syncs only below %s (--no-exec, --sync-root)",
			 g->sync_root);
	else
		snprintf(why, whylen, "this guest syncs nothing (--no-exec, no --sync-root)");
	return -ERR_DENIED;
}

/* Where that path of an owner's machine is kept. */
static int owner_root(const struct guest *g, struct slice owner, const char *path, char **root,
		      char *why, size_t whylen)
{
	if (g->sync_root && g->state_dir) {
		*root = xasprintf("%s/%.*s%s", g->sync_root, SLICE_FMT(owner), path);
		return 0;
	}
	snprintf(why, whylen,
		 "this guest keeps no files of containers: it was started without root and "
		 "without --%s DIR",
		 g->sync_root ? "state-dir" : "sync-root");
	return -ERR_DENIED;
}

/* A Docker bind. */
static int root_by_owner(const struct guest *g, struct json_doc *doc, struct slice owner,
			 char **root, char *why, size_t whylen)
{
	bool file = false;
	char *source = path_member(doc, "source");
	if (!owner_ok(owner) || !source || !source[1]) {
		free(source);
		snprintf(why, whylen, "\"owner\" must be a name, and \"source\" absolute");
		return -EINVAL;
	}
	json_bool(json_find(json_root(doc), "file"), &file);
	char *slash = strrchr(source, '/');
	if (file)
		*slash = '\0'; /* the directory that holds it */
	int r = owner_root(g, owner, source, root, why, whylen);
	free(source);
	return r;
}

static int resolve(const struct guest *g, struct json_doc *doc, char **root, char *why,
		   size_t whylen)
{
	struct slice owner;
	if (!g->state_dir) {
		snprintf(why, whylen,
			 "this guest has nowhere to keep the state of a sync: start "
			 "it with --state-dir DIR");
		return -ERR_DENIED;
	}
	if (json_str(doc, json_find(json_root(doc), "owner"), &owner) == 0)
		return root_by_owner(g, doc, owner, root, why, whylen);
	return root_by_path(g, doc, root, why, whylen);
}

static bool id_ok(struct slice s)
{
	for (size_t i = 0; i < s.n; i++)
		if (!memchr("0123456789abcdef", s.p[i], 16))
			return false;
	return s.n == ID_LEN;
}

static void sync_refuse(struct sync *y, int code, const char *why)
{
	mux_refuse(y->s, code, why);
	sync_free(y);
}

/* The client's tunnel was lost and is back, and we have not noticed yet that the old one is dead.
 */
static int take_over(struct guest *g, const char *peer, struct slice id)
{
	for (struct list *i = g->syncs.next, *next; i != &g->syncs; i = next) {
		struct sync *y = container_of(i, struct sync, link);
		next = i->next;
		if (!slice_eq(id, slice_str(y->id)))
			continue;
		if (strcmp(y->peer, peer) != 0)
			return -ERR_DENIED;
		if (y->pump)
			pump_abort(y->pump, -ERR_CANCELLED);
		else if (y->s && !y->child) /* it waits itself */
			sync_refuse(y, -ERR_CANCELLED, "asked for again");
	}
	return 0;
}

static struct sync *find(struct guest *g, const char *id)
{
	for (struct list *i = g->syncs.next; i != &g->syncs; i = i->next) {
		struct sync *y = container_of(i, struct sync, link);
		if (strcmp(id, y->id) == 0)
			return y;
	}
	return NULL;
}

static int spawn(struct sync *y, char *why, size_t whylen)
{
	struct guest *g = y->g;
	char *store = xasprintf("%s/far/%s", g->state_dir, y->id);
	/* Who may not run commands is not to get out of the sync root by a symlink that an earlier
	 * sync has put into it. */
	char *base = g->policy.exec.allowed ? NULL : (char *)(uintptr_t)g->sync_root;
	char *argv[] = { (char[]){ "/proc/self/exe" },
			 (char[]){ SYNC_WORKER_NAME },
			 y->root,
			 store,
			 base,
			 NULL };
	char *envp[] = { NULL };
	int err = 0;
	y->child = child_spawn(g->rx, &(struct child_options){ .argv = argv, .envp = envp },
			       on_started, on_ended, y, &err);
	free(store);
	if (!y->child) {
		snprintf(why, whylen, "cannot start the sync worker: %s", err_text(err));
		return err;
	}
	y->err = child_stderr(y->child);
	stream_bind(y->err, &y->task);
	return 0;
}

/* The one that waited for the worker of another to be gone. */
static void start_next(struct guest *g, const char *id)
{
	char why[256];
	struct sync *y = find(g, id);
	if (!y || y->child)
		return;
	int r = spawn(y, why, sizeof(why));
	if (r < 0)
		sync_refuse(y, r, why);
}

int sync_start(struct session *se, struct stream *s, struct json_doc *doc, char *why, size_t whylen)
{
	struct guest *g = se->g;
	struct slice id;
	char *root = NULL;
	if (json_str(doc, json_find(json_root(doc), "id"), &id) < 0 || !id_ok(id)) {
		snprintf(why, whylen, "\"id\" must be 32 hex digits");
		return -EINVAL;
	}
	int r = resolve(g, doc, &root, why, whylen);
	if (r == 0 && (r = take_over(g, se->peer, id)) < 0)
		snprintf(why, whylen, "a sync of somebody else has this id");
	if (r == 0 && g->nsyncs >= SYNCS_MAX) {
		snprintf(why, whylen, "this guest has %d syncs, that is the limit", SYNCS_MAX);
		r = -ERR_TOO_MANY;
	}
	if (r < 0) {
		free(root);
		return r;
	}
	struct sync *y = xcalloc(1, sizeof(*y));
	y->g = g;
	y->root = root;
	y->peer = xstrdup(se->peer);
	snprintf(y->id, sizeof(y->id), "%.*s", SLICE_FMT(id));
	buf_init(&y->said, SAID_MAX);
	task_init(&y->task, sync_run);
	list_init(&y->link);
	timer_init(&y->kill, on_kill);
	y->s = s;
	r = find(g, y->id) ? 0 : spawn(y, why, whylen);
	list_add_tail(&g->syncs, &y->link);
	g->nsyncs++;
	if (r < 0)
		sync_free(y);
	return r;
}

int sync_root_tell(const struct guest *g, struct stream *s, struct json_doc *doc, char *why,
		   size_t whylen)
{
	struct slice owner = SLICE("");
	char *root = NULL;
	json_str(doc, json_find(json_root(doc), "owner"), &owner);
	if (!owner_ok(owner)) {
		snprintf(why, whylen, "\"owner\" must be a name");
		return -EINVAL;
	}
	int r = owner_root(g, owner, "", &root, why, whylen);
	if (r < 0)
		return r;
	accept_root(s, root);
	stream_close(s, 0);
	free(root);
	return 0;
}

void syncs_end_all(struct guest *g)
{
	for (struct list *i = g->syncs.next, *next; i != &g->syncs; i = next) {
		struct sync *y = container_of(i, struct sync, link);
		next = i->next;
		if (y->pump)
			pump_abort(y->pump, -ERR_GOAWAY);
		else if (y->s && !y->child)
			sync_refuse(y, -ERR_GOAWAY, "guest is shutting down");
		else if (y->s)
			mux_reset(y->s, -ERR_GOAWAY, "guest is shutting down");
	}
}

/* --- the worker's side --- */

int syncs_worker_main(int argc, char **argv)
{
	char path[64];
	if (argc < 3)
		return sync_far_main(argc, argv);
	umask(022);
	int fd = worker_open_dir(argv[2], argv[0]);
	if (fd < 0) {
		fprintf(stderr, "cannot open the directory %s below %s: %s\n", argv[0], argv[2],
			err_text(fd));
		return 1;
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return sync_far_main(2, (char *[]){ path, argv[1], NULL });
}

/* --- where things are --- */

/* DIR and its parents; only the last gets the mode. */
static int make_dirs(const char *dir, mode_t mode)
{
	char *path = xstrdup(dir);
	int e = 0;
	for (char *p = path + 1; e == 0; p++) {
		if (*p && *p != '/')
			continue;
		char end = *p;
		*p = '\0';
		if (mkdir(path, end ? 0755 : mode) == -1 && errno != EEXIST)
			e = -errno;
		*p = end;
		if (!end)
			break;
	}
	free(path);
	return e;
}

static void make(const char *flag, const char *dir, mode_t mode)
{
	int r = dir ? make_dirs(dir, mode) : 0;
	if (r < 0) /* what needs it will say so again */
		log_warn("%s dir=%s error=%s", flag, dir, err_text(r));
}

int syncs_init(struct guest *g, const char *state_dir, char *err, size_t errlen)
{
	const char *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	bool root = geteuid() == 0;
	list_init(&g->syncs);
	if (state_dir && !is_clean(state_dir)) {
		snprintf(err, errlen, "--state-dir %s: must be an absolute path", state_dir);
		return -EINVAL;
	}
	if (state_dir)
		g->state_dir = xstrdup(state_dir);
	else if (root)
		g->state_dir = xstrdup("/var/lib/tstunnel");
	else if (xdg && xdg[0] == '/')
		g->state_dir = xasprintf("%s/tstunnel", xdg);
	else if (home && home[0] == '/')
		g->state_dir = xasprintf("%s/.local/state/tstunnel", home);
	if (g->policy.sync_root)
		g->sync_root = xstrdup(g->policy.sync_root);
	else if (root)
		g->sync_root = xstrdup("/var/lib/tstunnel/sync");
	for (size_t n;
	     g->sync_root && (n = strlen(g->sync_root)) > 1 && g->sync_root[n - 1] == '/';)
		g->sync_root[n - 1] = '\0';
	return 0;
}

void syncs_make_dirs(const struct guest *g)
{
	make("state-dir", g->state_dir, 0755);
	make("sync-root", g->sync_root, 0755);
}
