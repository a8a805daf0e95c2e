/* Files and directories over plain HTTP. Disks have no readiness, so a child of our own does the
 * work (worker.c): the reactor only feeds it. */
#include <errno.h>
#include <unistd.h>

#include "cmd/guest/guest.h"
#include "cmd/guest/worker.h"
#include "http/url.h"
#include "json/json.h"
#include "reactor/child.h"
#include "reactor/err.h"
#include "reactor/log.h"

enum { MESSAGE_MAX = 1024, JOB_ARGS = 4 };

/* One request that a worker carries out. */
struct job {
	struct task task;
	struct reactor *rx;
	struct http_conn *conn;
	struct child *child;
	struct stream *in, *err;
	struct buf held, message;
	bool body_done, err_done, ended;
	struct child_status status;
};

static void job_free(struct job *j)
{
	task_cancel(&j->task);
	stream_close(j->in, 0);
	stream_close(j->err, 0);
	child_free(j->child);
	buf_end(&j->held);
	buf_end(&j->message);
	free(j);
}

static int status_of(const struct child_status *s)
{
	if (s->exec_errno || s->signal)
		return 500;
	switch (s->exit_code) { /* the worker exits with an errno */
	case 0:
		return 200;
	case ENOENT:
	case ENOTDIR:
		return 404;
	case EACCES:
	case EPERM:
	case EROFS:
	case ELOOP:
	case EXDEV:
		return 403;
	case EISDIR:
		return 409;
	case ENOSPC:
	case EDQUOT:
		return 507;
	case EINVAL:
	case ENAMETOOLONG:
		return 400;
	default:
		return 500;
	}
}

static void job_answer(struct job *j)
{
	int status = status_of(&j->status);
	if (status == 200) {
		static const struct http_field json = { { "Content-Type", 12 },
							{ "application/json", 16 } };
		http_reply(j->conn, 200, &json, 1, SLICE("{\"status\":\"ok\"}\n"));
	} else {
		struct slice m = buf_data(&j->message);
		while (m.n && m.p[m.n - 1] == '\n')
			m.n--;
		char *text = m.n ? xslicedup(m) : xstrdup("the file worker failed");
		http_reply_error(j->conn, status, text);
		free(text);
	}
	job_free(j);
}

/* Body to the worker's stdin, in pieces (worker.h). 0 when all was given, -EAGAIN, or what failed.
 */
static int job_feed(struct job *j)
{
	while (!j->body_done || j->held.len) {
		if (j->held.len) {
			struct slice d = buf_data(&j->held);
			ssize_t n = j->in ? stream_write(j->in, d.p, d.n) : (ssize_t)d.n;
			if (n ==
			    -EPIPE) { /* it failed, and says why on stderr; read the rest away */
				stream_close(j->in, 0);
				j->in = NULL;
				continue;
			}
			if (n < 0)
				return (int)n;
			buf_drop(&j->held, (size_t)n);
			continue;
		}
		uint32_t length;
		struct iovec room = buf_room_for(&j->held, sizeof(length) + WORKER_PIECE_MAX);
		char *piece = (char *)room.iov_base + sizeof(length);
		ssize_t n = http_read(j->conn, piece, WORKER_PIECE_MAX);
		if (n >= 0) {
			length = (uint32_t)n;
			memcpy(room.iov_base, &length, sizeof(length));
		}
		buf_added(&j->held, n < 0 ? 0 : sizeof(length) + (size_t)n);
		if (n < 0)
			return (int)n;
		j->body_done = n == 0;
	}
	stream_close(j->in, 0);
	j->in = NULL;
	return 0;
}

static void job_listen(struct job *j)
{
	char text[512];
	ssize_t n;
	while (!j->err_done && (n = stream_read(j->err, text, sizeof(text))) != -EAGAIN) {
		j->err_done = n <= 0;
		if (n > 0)
			buf_put(&j->message,
				slice_of(text, MIN((size_t)n, MESSAGE_MAX - j->message.len)));
	}
}

static void job_run(struct task *t)
{
	struct job *j = container_of(t, struct job, task);
	int r = job_feed(j);
	if (r < 0 && r != -EAGAIN) {
		http_abort(j->conn, r);
		job_free(j);
		return;
	}
	job_listen(j);
	if (j->ended && r == 0 && (j->err_done || j->status.exec_errno))
		job_answer(j);
}

static void job_ended(void *arg, const struct child_status *status)
{
	struct job *j = arg;
	j->status = *status;
	j->ended = true;
	task_wake(j->rx, &j->task);
}

static void job_start(struct guest *g, struct http_conn *conn, char *const *args)
{
	char *argv[JOB_ARGS + 3] = { (char[]){ "/proc/self/exe" }, (char[]){ WORKER_NAME } };
	for (size_t i = 0; i < JOB_ARGS && args[i]; i++)
		argv[i + 2] = args[i];
	char *envp[] = { NULL };
	struct job *j = xcalloc(1, sizeof(*j));
	j->rx = g->rx;
	j->conn = conn;
	buf_init(&j->held, 256 * 1024);
	buf_init(&j->message, MESSAGE_MAX);
	task_init(&j->task, job_run);
	int err = 0;
	j->child = child_spawn(g->rx, &(struct child_options){ .argv = argv, .envp = envp }, NULL,
			       job_ended, j, &err);
	if (!j->child) {
		log_error("file-worker error=%s", err_text(err));
		http_reply_error(conn, 500, "cannot start the file worker");
		job_free(j);
		return;
	}
	j->in = child_stdin(j->child);
	j->err = child_stderr(j->child);
	stream_bind(j->in, &j->task);
	stream_bind(j->err, &j->task);
	http_bind(conn, &j->task);
	task_wake(g->rx, &j->task);
}

/* What the worker is confined to: all, or with --no-exec only the sync root (writing files anywhere
 * would be running commands by another door). NULL: nothing. */
static const char *root_of(const struct guest *g)
{
	return g->policy.exec.allowed ? "" : g->policy.sync_root;
}

void files_copy(struct guest *g, struct http_conn *conn, const struct http_head *head)
{
	struct http_url url;
	struct http_err err;
	char path[4096], mode[16];
	if (http_target_parse(&url, head->target, &err) < 0 ||
	    http_query_get(url.query, "path", path, sizeof(path)) < 0) {
		http_reply_error(conn, 400, "the query must say ?path=/where/to[&mode=0644]");
		return;
	}
	ssize_t r = http_query_get(url.query, "mode", mode, sizeof(mode));
	if (r == -ENOENT)
		snprintf(mode, sizeof(mode), "0644");
	else if (r < 1 || strspn(mode, "01234567") != (size_t)r || r > 5) {
		http_reply_error(conn, 400, "mode must be octal, like 0644");
		return;
	}
	if (!root_of(g)) {
		http_reply_error(conn, 403,
				 "this guest takes no files (--no-exec, no --sync-root)");
		return;
	}
	char *args[JOB_ARGS + 1] = { (char[]){ "copy" }, xstrdup(root_of(g)), path, mode };
	job_start(g, conn, args);
	free(args[1]);
}

void files_directories(struct guest *g, struct http_conn *conn, const struct http_head *head)
{
	(void)head;
	if (!root_of(g)) {
		http_reply_error(conn, 403,
				 "this guest makes no directories (--no-exec, no --sync-root)");
		return;
	}
	/* The worker reads the JSON itself: its paths need not fit an argument list. */
	char *args[JOB_ARGS + 1] = { (char[]){ "directories" }, xstrdup(root_of(g)) };
	job_start(g, conn, args);
	free(args[1]);
}
