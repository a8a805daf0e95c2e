/* POST .../commands and .../code: a command in a sandbox, its output whole or as it comes. */
#include <errno.h>
#include <signal.h>

#include "cmd/pico-apiserver/api.h"
#include "cmd/pico-apiserver/order.h"
#include "reactor/err.h"
#include "reactor/utf8.h"

enum {
	BODY_MAX = 256 * 1024,
	STDIN_MAX = BODY_MAX,
	OUTPUT_MAX = 1 << 20, /* of each stream, in the whole form */
	REPLY_MAX = 16 << 20,
	PIECE = 32 * 1024,       /* of the streaming form */
	TURN_BYTES = 256 * 1024, /* of one output in a turn of the reactor */
	LINE_MAX_BYTES = 8 * PIECE,
	LINGER_MS = 250, /* background children that hold the output */
	KILL_MS = 2000   /* to die, once killed; the sandbox may be paused */
};

/* One of the two outputs. */
struct output {
	struct stream *s; /* NULL: ended */
	const char *name;
	struct buf held;
	bool cut;
};

struct job {
	struct call *c;
	char id[SANDBOX_ID_LEN + 1];
	struct box_run *run;
	struct stream *in;
	struct buf input, reply;
	struct output out[2];
	struct timer timer;
	uint64_t started, ended_at;
	bool streaming, replying, ended, timed_out, quiet;
	struct child_status status;
};

static struct session *session_of(struct job *j)
{
	bool expired;
	return session_find(&j->c->sv->sessions, j->c->owner, slice_str(j->id), &expired);
}

static void job_free(struct job *j)
{
	struct server *sv = j->c->sv;
	struct session *s = session_of(j);
	if (s)
		session_work_end(s);
	timer_clear(sv->rx, &j->timer);
	for (size_t i = 0; i < 2; i++) {
		run_end_output(&j->out[i].s, &j->in);
		buf_end(&j->out[i].held);
	}
	stream_close(j->in, 0);
	if (j->run)
		j->run->ops->free(j->run);
	buf_end(&j->input);
	buf_end(&j->reply);
	free(j);
}

static void client_left(struct call *c)
{
	job_free(c->state); /* kills what runs */
	c->state = NULL;
}

/* --- output --- */

static int exit_code(const struct job *j)
{
	if (j->timed_out)
		return 124; /* as timeout(1) */
	if (j->status.exec_errno)
		return 255; /* as ssh(1), when the way to it broke */
	return j->status.signal ? 128 + j->status.signal : j->status.exit_code;
}

static void put_end(struct json_writer *w, const struct job *j)
{
	bool camel = j->c->camel;
	json_put_name(w, camel ? "exitCode" : "exit_code");
	json_put_i64(w, exit_code(j));
	json_put_name(w, camel ? "durationMs" : "duration_ms");
	json_put_u64(w, j->ended_at - j->started);
	json_put_name(w, camel ? "timedOut" : "timed_out");
	json_put_bool(w, j->timed_out);
	if (j->status.signal && !j->timed_out) {
		json_put_name(w, "signal");
		json_put_i64(w, j->status.signal);
	}
	if (j->timed_out || j->status.exec_errno)
		json_put_name(w, "message");
	if (j->timed_out)
		json_put_str(w, SLICE("the command ran longer than its timeout; its whole process "
				      "group was killed"));
	else if (j->status.exec_errno)
		json_put_str(w, slice_str(err_text(-j->status.exec_errno)));
}

/* How many bytes at the end are the beginning of a character. */
static size_t open_end(struct slice s)
{
	for (size_t back = 1; back <= 3 && back <= s.n; back++) {
		unsigned char b = (unsigned char)s.p[s.n - back];
		size_t want = b >= 0xf0 ? 4 : b >= 0xe0 ? 3 : b >= 0xc0 ? 2 : 1;
		if (b >= 0x80 && b < 0xc0)
			continue;
		return want > back ? back : 0;
	}
	return 0;
}

/* One line of the streaming form into j->reply, which is empty. */
static void put_line(struct job *j, struct output *o, bool last)
{
	struct slice d = buf_data(&o->held);
	if (!last)
		d.n -= open_end(d);
	if (d.n == 0)
		return;
	struct json_writer w;
	json_writer_begin(&w, &j->reply);
	json_put_object(&w);
	json_put_name(&w, "type");
	json_put_str(&w, slice_str(o->name));
	json_put_name(&w, "data");
	json_put_str(&w, d);
	json_put_end(&w);
	json_writer_end(&w);
	buf_puts(&j->reply, "\n");
	buf_drop(&o->held, d.n);
}

/* True when there was progress: there may be more. A turn's worth at most, it may never end. */
static bool read_output(struct job *j, struct output *o)
{
	bool some = false;
	size_t done = 0;
	while (o->s && done < TURN_BYTES) {
		struct iovec room = buf_room(&o->held);
		char *scratch = reactor_scratch(j->c->sv->rx);
		if (room.iov_len == 0) {
			if (j->streaming)
				return true;
			o->cut = true; /* read on, so that the command can end */
			room = (struct iovec){ scratch, REACTOR_SCRATCH };
		}
		ssize_t n = stream_read(o->s, room.iov_base, room.iov_len);
		if (room.iov_base != scratch)
			buf_added(&o->held, n > 0 ? (size_t)n : 0);
		if (n == -EAGAIN)
			return some;
		some = true;
		done += n > 0 ? (size_t)n : 0;
		if (n <= 0)
			run_end_output(&o->s, &j->in);
	}
	return some;
}

static void feed(struct job *j)
{
	while (j->in && j->input.len) {
		struct slice d = buf_data(&j->input);
		ssize_t n = stream_write(j->in, d.p, d.n);
		if (n == -EAGAIN)
			return;
		if (n < 0)
			buf_end(&j->input); /* it does not want it */
		else
			buf_drop(&j->input, (size_t)n);
	}
	run_end_input(&j->in, j->out[0].s);
}

/* Writes j->reply: 0, -EAGAIN or fatal. */
static int send_reply(struct job *j)
{
	while (j->reply.len) {
		struct slice d = buf_data(&j->reply);
		ssize_t n = http_write(j->c->conn, d.p, d.n);
		if (n < 0)
			return (int)n;
		buf_drop(&j->reply, (size_t)n);
	}
	return 0;
}

static void start_reply(struct job *j)
{
	struct http_field f[] = {
		{ SLICE("Content-Type"),
		  j->streaming ? SLICE("application/x-ndjson") : SLICE("application/json") },
		{ SLICE("X-Request-Id"), slice_str(j->c->request_id) },
	};
	if (!j->replying)
		http_reply_start(j->c->conn, 200, f, ARRAY_LEN(f));
	j->replying = true;
}

static void could_not_run(struct job *j)
{
	struct call *c = j->c;
	int e = j->status.exec_errno;
	job_free(j);
	c->state = NULL;
	if (e == ENOENT || e == ENOTDIR)
		call_error(c, 400, "COMMAND_NOT_FOUND", 0, NULL,
			   "no such program or working directory in the sandbox");
	else
		call_error(c, e == EACCES ? 400 : 502, "COMMAND_FAILED", 0, NULL,
			   "the command could not be run: %s", err_text(-e));
}

static void put_whole(struct job *j)
{
	struct json_writer w;
	json_writer_begin(&w, &j->reply);
	json_put_object(&w);
	for (size_t i = 0; i < 2; i++) {
		json_put_name(&w, j->out[i].name);
		json_put_str(&w, buf_data(&j->out[i].held));
	}
	put_end(&w, j);
	json_put_name(&w, "truncated");
	json_put_bool(&w, j->out[0].cut || j->out[1].cut);
	json_put_end(&w);
	json_writer_end(&w);
	buf_puts(&j->reply, "\n");
	for (size_t i = 0; i < 2; i++)
		buf_end(&j->out[i].held);
}

static void put_last_line(struct job *j)
{
	struct json_writer w;
	json_writer_begin(&w, &j->reply);
	json_put_object(&w);
	json_put_name(&w, "type");
	json_put_str(&w, SLICE("exit"));
	put_end(&w, j);
	json_put_end(&w);
	json_writer_end(&w);
	buf_puts(&j->reply, "\n");
}

static void finish(struct job *j)
{
	struct call *c = j->c;
	struct http_conn *conn = c->conn;
	job_free(j);
	c->state = NULL;
	call_free(c);
	http_reply_end(conn);
}

/* What is held, as lines, to the client: 0 when all is gone, -EAGAIN or fatal. */
static int stream_held(struct job *j, bool over)
{
	for (;;) {
		for (size_t i = 0; i < 2 && j->reply.len == 0; i++)
			put_line(j, &j->out[i], over || !j->out[i].s);
		if (j->reply.len == 0)
			return 0;
		start_reply(j);
		int r = send_reply(j);
		if (r < 0)
			return r;
	}
}

static void job_step(struct call *c)
{
	struct job *j = c->state;
	struct server *sv = c->sv;
	if (j->ended && j->status.exec_errno && !j->timed_out && !j->replying) {
		could_not_run(j);
		return;
	}
	feed(j);
	bool some = read_output(j, &j->out[0]);
	some = read_output(j, &j->out[1]) || some;
	bool over = j->ended && ((!j->out[0].s && !j->out[1].s) || (j->quiet && !some));
	if (j->streaming && stream_held(j, over) < 0) {
		/* The client is slow, or its end will wake us: that is no silence of the command.
		 */
		if (j->ended)
			timer_clear(sv->rx, &j->timer);
		j->quiet = false;
		return;
	}
	if (some && !over)
		task_wake(sv->rx, &c->task); /* until nothing comes: then the streams wake us */
	if (j->ended && !over && (some || !timer_is_set(&j->timer)))
		timer_set(sv->rx, &j->timer, LINGER_MS);
	if (!over)
		return;
	if (!j->replying || j->streaming) {
		start_reply(j);
		if (j->streaming)
			put_last_line(j);
		else
			put_whole(j);
		j->streaming = false; /* what is left is the same for both */
	}
	if (send_reply(j) == 0)
		finish(j);
}

static void on_timer(struct timer *t)
{
	struct job *j = container_of(t, struct job, timer);
	if (j->ended) {
		j->quiet = true;
	} else if (!j->timed_out) {
		j->timed_out = true;
		j->run->ops->kill(j->run, SIGKILL);
		timer_set(j->c->sv->rx, t, KILL_MS);
	} else { /* whoever waits for the answer gets it */
		j->ended = j->quiet = true;
		j->status = (struct child_status){ .signal = SIGKILL };
		j->ended_at = reactor_now(j->c->sv->rx);
	}
	task_wake(j->c->sv->rx, &j->c->task);
}

static void on_ended(void *arg, const struct child_status *st)
{
	struct job *j = arg;
	j->ended = true;
	j->status = *st;
	j->ended_at = reactor_now(j->c->sv->rx);
	/* The group's background children were part of the command only if it timed out. */
	if (j->timed_out)
		j->run->ops->kill(j->run, SIGKILL);
	timer_clear(j->c->sv->rx, &j->timer);
	task_wake(j->c->sv->rx, &j->c->task);
}

/* --- start --- */

static void start(struct call *c, struct session *s, struct order *o)
{
	int err = 0;
	struct job *j = xcalloc(1, sizeof(*j));
	struct box_command command = { .argv = o->argv, .envp = o->envp, .dir = o->dir };
	j->c = c;
	memcpy(j->id, s->r.id, sizeof(j->id));
	j->streaming = o->streaming;
	timer_init(&j->timer, on_timer);
	buf_init(&j->input, STDIN_MAX);
	buf_init(&j->reply, j->streaming ? LINE_MAX_BYTES * 2 : REPLY_MAX);
	buf_put(&j->input, o->input);
	j->out[0].name = "stdout";
	j->out[1].name = "stderr";
	for (size_t i = 0; i < 2; i++)
		buf_init(&j->out[i].held, j->streaming ? PIECE : OUTPUT_MAX);
	j->started = reactor_now(c->sv->rx);
	session_work_begin(s);
	c->sv->commands++;
	j->run = run_start(c->sv, s, &command, on_ended, j, &err);
	if (!j->run) {
		job_free(j);
		if (err == -E2BIG)
			call_error(c, 413, "PAYLOAD_TOO_LARGE", 0, NULL,
				   "command and env are too long for this backend: upload a file");
		else
			call_error(c, 502, "COMMAND_FAILED", 1, NULL,
				   "the command could not be started: %s", err_text(err));
		return;
	}
	j->in = j->run->in;
	j->out[0].s = j->run->out;
	j->out[1].s = j->run->err;
	j->run->in = j->run->out = j->run->err = NULL;
	c->state = j;
	stream_bind(j->in, &c->task);
	for (size_t i = 0; i < 2; i++)
		if (j->out[i].s)
			stream_bind(j->out[i].s, &c->task);
	timer_set(c->sv->rx, &j->timer, o->timeout_ms);
	call_wait(c, job_step, client_left);
}

/* The body is parsed when the sandbox runs: once, by whichever comes last. */
static void go(struct call *c, struct session *s, bool code)
{
	struct order o;
	if (!call_may_work(c, s))
		return;
	const char *why = order_parse(&o, buf_data(&c->body), code);
	if (why)
		call_error(c, 400, "INVALID_REQUEST", 0, NULL, "%s", why);
	else
		start(c, s, &o);
	order_end(&o);
}

static void go_command(struct call *c, struct session *s)
{
	go(c, s, false);
}

static void go_code(struct call *c, struct session *s)
{
	go(c, s, true);
}

static void read_then(struct call *c, void (*then)(struct call *, struct session *))
{
	struct session *s = call_session(c, slice_str(c->key));
	if (s && call_running(c, s, then) == 1)
		then(c, s);
}

static void command_body(struct call *c)
{
	read_then(c, go_command);
}

static void code_body(struct call *c)
{
	read_then(c, go_code);
}

static void begin(struct call *c, const struct http_head *h, struct slice id,
		  void (*then)(struct call *))
{
	if (!call_session(c, id))
		return;
	c->key = xslicedup(id);
	call_read_json(c, h, BODY_MAX, then);
}

void session_command(struct call *c, const struct http_head *h, struct slice id)
{
	begin(c, h, id, command_body);
}

void session_code(struct call *c, const struct http_head *h, struct slice id)
{
	begin(c, h, id, code_body);
}
