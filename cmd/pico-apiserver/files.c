/* PUT, POST and GET .../files?path=: files of the workspace, streamed.
 *
 * A small shell script does the work inside, as the sandbox's user: so nothing can be reached that
 * the user could not reach anyway, and all backends work alike. It resolves symbolic links first
 * and refuses what leads out of /workspace. */
#include <errno.h>

#include "cmd/pico-apiserver/api.h"
#include "http/url.h"
#include "reactor/err.h"

enum {
	PATH_ROOM = 4096,
	SAID_MAX = 512,
	HEADER_MAX = 64,
	TOKEN_LEN = 32,
	HELD_MAX = 256 * 1024,
	TURN_BYTES = 256 * 1024 /* in a turn of the reactor: then others have theirs */
};

/* Exit statuses of the scripts. */
enum {
	SCRIPT_OUTSIDE = 43,
	SCRIPT_MISSING = 44,
	SCRIPT_KIND = 45,
	SCRIPT_BROKEN = 46,
	SCRIPT_FULL = 47
};

#define SCRIPT_COMMON                                                                              \
	"export LC_ALL=C; p=$1\n"                                                                  \
	"case $p in /*) ;; *) p=/workspace/$p;; esac\n"                                            \
	"inside() { case $1 in /workspace/*) ;; *) echo 'the path leads out of /workspace' >&2; "  \
	"exit 43;; esac; }\n"

/* $2 ends the body: bytes that no upload that broke off has. */
static const char put_script[] = SCRIPT_COMMON
    "d=$(realpath -m -- \"$(dirname -- \"$p\")\") || exit 46; n=$(basename -- \"$p\")\n"
    "inside \"$d/$n\"; case $n in .|..|/) exit 45;; esac\n"
    "mkdir -p -- \"$d\" || exit 45\n"
    "[ -d \"$d/$n\" ] && { echo 'that is a directory' >&2; exit 45; }\n"
    "t=$(mktemp -- \"$d/.upload.XXXXXXXX\") || exit 46\n"
    "trap 'rm -f -- \"$t\"' EXIT; trap 'exit 46' HUP TERM INT; trap '' PIPE\n"
    "cat >\"$t\" || exit 47\n"
    "[ \"$(tail -c 32 -- \"$t\")\" = \"$2\" ] || { echo 'the upload broke off' >&2; exit 46; }\n"
    "truncate -s -32 -- \"$t\" && chmod \"$3\" -- \"$t\" && mv -fT -- \"$t\" \"$d/$n\" || exit 46\n"
    "stat -c %s -- \"$d/$n\"\n";

static const char get_script[] = SCRIPT_COMMON
    "r=$(realpath -e -- \"$p\" 2>/dev/null) || { r=$(realpath -m -- \"$p\"); inside \"$r\"; "
    "echo 'no such file' >&2; exit 44; }\n"
    "inside \"$r\"; [ -f \"$r\" ] || { echo 'that is no regular file' >&2; exit 45; }\n"
    "[ -r \"$r\" ] || { echo 'no permission to read it' >&2; exit 43; }; "
    "exec <\"$r\"; s=$(stat -Lc %s /dev/stdin) && echo \"$s\" && exec head -c \"$s\"\n";

struct transfer {
	struct call *c;
	char id[SANDBOX_ID_LEN + 1];
	char path[PATH_ROOM], mode[8], token[TOKEN_LEN + 1];
	bool put;
	struct box_run *run;
	struct stream *in, *out, *err;
	struct buf held; /* put: to the script; get: from it */
	struct buf said; /* its stderr */
	bool body_done, replying, ended;
	uint64_t left; /* get: bytes to come */
	struct child_status status;
};

static void transfer_end(struct transfer *t)
{
	run_end_output(&t->out, &t->in);
	stream_close(t->in, 0);
	stream_close(t->err, 0);
	if (t->run)
		t->run->ops->free(t->run);
	buf_end(&t->held);
	buf_end(&t->said);
	free(t);
}

/* hang_up: the script sees an end without the token, and gets to clean up after itself. */
static void transfer_free(struct transfer *t, bool hang_up)
{
	bool expired;
	struct call *c = t->c;
	struct session *s = session_find(&c->sv->sessions, c->owner, slice_str(t->id), &expired);
	if (s && t->run)
		session_work_end(s);
	c->state = NULL;
	if (!hang_up || !t->put || t->ended) {
		transfer_end(t);
		return;
	}
	run_end_output(&t->out, &t->in);
	run_end_output(&t->err, &t->in);
	stream_close(t->in, 0);
	t->in = NULL;
	buf_end(&t->held);
	t->c = NULL; /* on_ended has the rest */
}

static void client_left(struct call *c)
{
	transfer_free(c->state, true);
}

static void fail(struct transfer *t)
{
	static const struct {
		int script, status;
		const char *code, *message;
	} all[] = {
		{ SCRIPT_OUTSIDE, 403, "PATH_FORBIDDEN", "the path leads out of /workspace" },
		{ SCRIPT_MISSING, 404, "FILE_NOT_FOUND", "no such file" },
		{ SCRIPT_KIND, 409, "NOT_A_FILE", "that is no regular file" },
		{ SCRIPT_BROKEN, 400, "UPLOAD_BROKEN", "the upload did not work" },
		{ SCRIPT_FULL, 507, "NO_SPACE", "the sandbox has no space left" },
	};
	struct call *c = t->c;
	struct slice said = buf_data(&t->said), line, rest;
	size_t i = 0;
	slice_cut(said, '\n', &line, &rest);
	while (i < ARRAY_LEN(all) && (t->status.signal || all[i].script != t->status.exit_code))
		i++;
	char *text = xasprintf("%.*s", SLICE_FMT(line));
	bool own = i < ARRAY_LEN(all);
	transfer_free(t, false);
	call_error(c, own ? all[i].status : 502, own ? all[i].code : "TRANSFER_FAILED", 0,
		   text[0] ? text : NULL, "%s", own ? all[i].message : "the transfer failed");
	free(text);
}

static void listen_errors(struct transfer *t)
{
	char text[256];
	ssize_t n;
	while (t->err && (n = stream_read(t->err, text, sizeof(text))) != -EAGAIN) {
		if (n > 0)
			buf_put(&t->said, slice_of(text, MIN((size_t)n, SAID_MAX - t->said.len)));
		if (n <= 0) {
			stream_close(t->err, 0);
			t->err = NULL;
		}
	}
}

/* --- up --- */

/* There may be more to move, when others had their turn. */
static void later(struct transfer *t)
{
	task_wake(t->c->sv->rx, &t->c->task);
}

/* Body to the script: 0 when all was given, -EAGAIN, or the client's failure. */
static int feed(struct transfer *t)
{
	for (size_t done = 0; !t->body_done || t->held.len;) {
		if (done >= TURN_BYTES) {
			later(t);
			return -EAGAIN;
		}
		if (t->held.len) {
			struct slice d = buf_data(&t->held);
			ssize_t n = t->in ? stream_write(t->in, d.p, d.n) : (ssize_t)d.n;
			if (n < 0 && n != -EAGAIN) { /* it has given up, and says why */
				run_end_input(&t->in, t->out);
				continue;
			}
			if (n < 0)
				return (int)n;
			buf_drop(&t->held, (size_t)n);
			continue;
		}
		struct iovec room = buf_room_for(&t->held, 64 * 1024);
		ssize_t n = http_read(t->c->conn, room.iov_base, room.iov_len);
		buf_added(&t->held, n > 0 ? (size_t)n : 0);
		if (n < 0)
			return (int)n;
		done += (size_t)n;
		if (n == 0) {
			t->body_done = true;
			buf_put(&t->held, slice_str(t->token));
		}
	}
	run_end_input(&t->in, t->out);
	return 0;
}

static void put_done(struct transfer *t)
{
	struct call *c = t->c;
	char text[HEADER_MAX];
	ssize_t n = t->out ? stream_read(t->out, text, sizeof(text)) : 0;
	uint64_t size = 0;
	while (n > 0 && text[n - 1] == '\n')
		n--;
	if (n > 0)
		slice_u64(slice_of(text, (size_t)n), UINT64_MAX, &size);
	struct buf b;
	struct json_writer w;
	buf_init(&b, 64 * 1024);
	json_writer_begin(&w, &b);
	json_put_object(&w);
	json_put_name(&w, "path");
	json_put_str(&w, slice_str(t->path));
	json_put_name(&w, "size");
	json_put_u64(&w, size);
	json_put_end(&w);
	json_writer_end(&w);
	buf_puts(&b, "\n");
	transfer_free(t, false);
	call_reply(c, 201, NULL, 0, buf_data(&b));
	buf_end(&b);
}

static void put_step(struct call *c)
{
	struct transfer *t = c->state;
	int r = feed(t);
	if (r < 0 && r != -EAGAIN) {
		transfer_free(t, true);
		call_abort(c, r);
		return;
	}
	listen_errors(t);
	if (!t->ended || r < 0 || t->err)
		return;
	if (t->status.exit_code || t->status.signal || t->status.exec_errno)
		fail(t);
	else
		put_done(t);
}

/* --- down --- */

/* The size, which comes first: 1 got it, 0 not yet. */
static int get_header(struct transfer *t)
{
	struct slice line, rest;
	if (!slice_cut(buf_data(&t->held), '\n', &line, &rest)) {
		return 0;
	}
	char size[24];
	if (slice_u64(line, UINT64_MAX, &t->left) < 0)
		return 0;
	snprintf(size, sizeof(size), "%llu", (unsigned long long)t->left);
	struct http_field f[] = {
		{ SLICE("Content-Type"), SLICE("application/octet-stream") },
		{ SLICE("X-File-Size"), slice_str(size) },
		{ SLICE("X-Request-Id"), slice_str(t->c->request_id) },
	};
	buf_drop(&t->held, line.n + 1);
	t->replying = true;
	http_reply_start(t->c->conn, 200, f, ARRAY_LEN(f));
	return 1;
}

static void get_finish(struct transfer *t)
{
	struct call *c = t->c;
	struct http_conn *conn = c->conn;
	bool whole = t->left == 0;
	transfer_free(t, false);
	if (!whole) { /* it was cut while it was read */
		call_abort(c, -ERR_TRUNCATED);
		return;
	}
	call_free(c);
	http_reply_end(conn);
}

static void get_step(struct call *c)
{
	struct transfer *t = c->state;
	listen_errors(t);
	for (size_t done = 0;;) {
		if (!t->replying)
			get_header(t);
		while (t->replying && t->held.len) {
			struct slice d = buf_data(&t->held);
			if (t->left == 0) { /* more than it said: that is not our script */
				buf_drop(&t->held, d.n);
				break;
			}
			ssize_t n = http_write(c->conn, d.p, MIN(d.n, t->left));
			if (n == -EAGAIN)
				return;
			if (n < 0) {
				transfer_free(t, true);
				call_abort(c, (int)n);
				return;
			}
			buf_drop(&t->held, (size_t)n);
			t->left -= (uint64_t)n;
		}
		if (!t->out)
			break;
		if (done >= TURN_BYTES) {
			later(t);
			return;
		}
		struct iovec room = buf_room_for(&t->held, 64 * 1024);
		ssize_t n = stream_read(t->out, room.iov_base, room.iov_len);
		buf_added(&t->held, n > 0 ? (size_t)n : 0);
		if (n == -EAGAIN)
			return;
		done += n > 0 ? (size_t)n : 0;
		if (n <= 0)
			run_end_output(&t->out, &t->in);
	}
	if (!t->ended || t->err)
		return;
	if (t->replying)
		get_finish(t);
	else
		fail(t);
}

/* --- start --- */

static void on_ended(void *arg, const struct child_status *st)
{
	struct transfer *t = arg;
	if (!t->c) {
		transfer_end(t);
		return;
	}
	t->ended = true;
	t->status = *st;
	run_end_input(&t->in, t->out); /* the rest of the body is read away */
	task_wake(t->c->sv->rx, &t->c->task);
}

static void go(struct call *c, struct session *s)
{
	struct transfer *t = c->extra;
	int err = 0;
	if (!call_may_work(c, s))
		return;
	c->extra = NULL;
	char *argv[] = { (char[]){ "/bin/sh" },
			 (char[]){ "-c" },
			 xstrdup(t->put ? put_script : get_script),
			 (char[]){ "files" },
			 t->path,
			 t->token,
			 t->mode,
			 NULL };
	t->run = run_start(c->sv, s, &(struct box_command){ .argv = argv, .dir = "/" }, on_ended, t,
			   &err);
	free(argv[2]);
	if (!t->run) {
		transfer_free(t, false);
		call_error(c, 502, "TRANSFER_FAILED", 1, NULL,
			   "the transfer could not be started: %s", err_text(err));
		return;
	}
	session_work_begin(s);
	t->in = t->run->in;
	t->out = t->run->out;
	t->err = t->run->err;
	t->run->in = t->run->out = t->run->err = NULL;
	c->state = t;
	stream_bind(t->in, &c->task);
	if (!t->put)
		run_end_input(&t->in, t->out);
	stream_bind(t->out, &c->task);
	stream_bind(t->err, &c->task);
	call_wait(c, t->put ? put_step : get_step, client_left);
}

/* The path and mode of the query: NULL, or what is wrong. */
static const char *take_query(struct transfer *t, const struct http_head *h)
{
	struct slice path, query;
	slice_cut(h->target, '?', &path, &query);
	ssize_t n = http_query_get(query, "path", t->path, sizeof(t->path));
	if (n < 1 || t->path[n - 1] == '/')
		return "the query must say ?path=FILE, below /workspace or relative to it";
	if (strchr(t->path, '\n')) /* $(...) in the scripts would drop it at the end */
		return "a path with line ends cannot be transferred";
	n = http_query_get(query, "mode", t->mode, sizeof(t->mode));
	if (n == -ENOENT)
		snprintf(t->mode, sizeof(t->mode), "644");
	else if (n < 1 || n > 4 || strspn(t->mode, "01234567") != (size_t)n)
		return "mode must be octal, like 0644";
	return NULL;
}

static void begin(struct call *c, const struct http_head *h, struct slice id, bool put)
{
	struct session *s = call_session(c, id);
	if (!s)
		return;
	struct transfer *t = xcalloc(1, sizeof(*t));
	const char *why = take_query(t, h);
	t->c = c;
	t->put = put;
	memcpy(t->id, s->r.id, sizeof(t->id));
	buf_init(&t->held, HELD_MAX);
	buf_init(&t->said, SAID_MAX);
	for (size_t i = 0; i < TOKEN_LEN; i += 8)
		snprintf(t->token + i, 9, "%08x", arc4random());
	if (why) {
		free(t);
		call_error(c, 400, "INVALID_REQUEST", 0, NULL, "%s", why);
		return;
	}
	c->extra = t; /* freed with the call */
	int r = call_running(c, s, go);
	if (r == 1)
		go(c, s);
}

void session_put_file(struct call *c, const struct http_head *h, struct slice id)
{
	begin(c, h, id, true);
}

void session_get_file(struct call *c, const struct http_head *h, struct slice id)
{
	begin(c, h, id, false);
}
