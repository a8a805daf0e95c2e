#include "proto/tstunnel/exec_client.h"

#include <errno.h>

#include "json/json.h"
#include "proto/tstunnel/exec_request.h"
#include "proto/tstunnel/mux.h"
#include "reactor/err.h"

enum { QUANTUM = 256 * 1024 };

struct exec_client {
	struct reactor *rx;
	struct task task;
	struct stream *remote, *in, *out, *err;
	struct exec_client_options opt;
	bool opened, exited, over;
	struct exec_result result;
};

/* Text that the far side sent is for a person's terminal: no control characters. */
static void clean(char *text)
{
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
}

/* In tail position: the owner may free c. */
static void end(struct exec_client *c, int code, const char *why)
{
	char text[1024];
	snprintf(text, sizeof(text), "%s", why ? why : err_text(code));
	clean(text);
	c->over = true;
	c->result.code = code;
	c->result.why = text;
	task_cancel(&c->task);
	c->opt.ended(c->opt.arg, &c->result);
}

/* The guest's own words tell a failed start from a tunnel that says no. */
static void end_remote(struct exec_client *c, int code)
{
	const char *why = stream_why(c->remote, code);
	c->result.not_started = !c->opened && (code == -ERR_NOT_FOUND || code == -ERR_DENIED) &&
				strncmp(why, "exec: ", 6) == 0;
	end(c, code, why);
}

static void end_local(struct exec_client *c, int code)
{
	char why[256];
	snprintf(why, sizeof(why), "cannot write to standard output: %s", err_text(code));
	c->result.broken_pipe = code == -EPIPE;
	end(c, code, why);
}

/* --- stdin --- */

static void in_close(struct exec_client *c)
{
	stream_close(c->in, 0);
	c->in = NULL;
}

/* 1: quantum spent, else -EAGAIN. */
static int relay_in(struct exec_client *c)
{
	size_t quantum = QUANTUM;
	while (c->in) {
		struct iovec room;
		if (quantum == 0)
			return 1;
		int r = c->remote->ops->room(c->remote, &room);
		if (r == -EAGAIN)
			return r;
		if (r < 0) { /* the far side wants no more; it says how it ended by itself */
			in_close(c);
			break;
		}
		room.iov_len = MIN(room.iov_len, quantum);
		ssize_t n = c->in->ops->read(c->in, &room, 1);
		c->remote->ops->added(c->remote, n > 0 ? (size_t)n : 0);
		if (n == -EAGAIN)
			return -EAGAIN;
		if (n <= 0) { /* a terminal that hung up is an end, too */
			stream_shut(c->remote);
			in_close(c);
			break;
		}
		quantum -= (size_t)n;
	}
	return -EAGAIN;
}

/* --- stdout and stderr --- */

enum verdict {
	WAIT = 1,
	AGAIN,       /* quantum spent */
	REMOTE_END,  /* all output was passed on */
	REMOTE_FAIL, /* *code */
	LOCAL_FAIL   /* *code */
};

static enum verdict relay_out(struct exec_client *c, int *code)
{
	size_t quantum = QUANTUM;
	while (quantum > 0) {
		struct iovec iov[8];
		int n = c->remote->ops->peek(c->remote, iov, (int)ARRAY_LEN(iov));
		*code = n;
		if (n <= 0)
			return n == -EAGAIN ? WAIT : n == 0 ? REMOTE_END : REMOTE_FAIL;
		bool is_err = mux_peeked_channel(c->remote) == 2;
		struct stream *to = is_err ? c->err : c->out;
		ssize_t put = to->ops->write(to, iov, n);
		*code = (int)put;
		if (put == -EAGAIN)
			return WAIT;
		if (put < 0 && !is_err)
			return LOCAL_FAIL;
		if (put < 0) { /* nobody to complain to */
			put = 0;
			for (int i = 0; i < n; i++)
				put += (ssize_t)iov[i].iov_len;
		}
		c->remote->ops->drop(c->remote, (size_t)put);
		quantum -= MIN(quantum, (size_t)put);
	}
	return AGAIN;
}

/* --- control messages --- */

static void on_control(struct exec_client *c, struct slice text)
{
	struct json_doc *doc = json_parse(text, NULL, NULL);
	if (!doc)
		return;
	struct json *root = json_root(doc);
	uint64_t status;
	struct slice name;
	if (json_u64(json_find(root, "exit"), &status) == 0) {
		c->exited = true;
		c->result.exit_code = (int)(status & 255);
	} else if (json_str(doc, json_find(root, "signal"), &name) == 0) {
		c->exited = true;
		c->result.signal = exec_signal_number(name);
		c->result.exit_code = 255;
	}
	json_free(doc);
}

static void read_controls(struct exec_client *c)
{
	char *text;
	while ((text = mux_next_control(c->remote))) {
		on_control(c, slice_str(text));
		free(text);
	}
}

/* --- the session --- */

static void client_run(struct task *t)
{
	struct exec_client *c = container_of(t, struct exec_client, task);
	int code;
	if (!c->opened && stream_open_yet(c->remote) == 0) {
		c->opened = true;
		if (c->opt.opened)
			c->opt.opened(c->opt.arg);
	}
	read_controls(c);
	int in = relay_in(c);
	enum verdict v = relay_out(c, &code);
	if (v == REMOTE_FAIL)
		end_remote(c, code);
	else if (v == LOCAL_FAIL)
		end_local(c, code);
	else if (v == REMOTE_END && c->exited)
		end(c, 0, NULL);
	else if (v == REMOTE_END)
		end(c, -EPROTO, "the guest did not say how the command ended");
	else if (v == AGAIN || in == 1)
		task_wake(c->rx, t);
}

struct exec_client *exec_client_new(struct reactor *rx, struct stream *remote,
				    const struct exec_client_options *opt)
{
	struct exec_client *c = xcalloc(1, sizeof(*c));
	c->rx = rx;
	c->opt = *opt;
	c->remote = remote;
	c->in = opt->in;
	c->out = opt->out;
	c->err = opt->err;
	if (!c->in)
		stream_shut(remote);
	task_init(&c->task, client_run);
	struct stream *all[] = { c->remote, c->in, c->out, c->err };
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		if (all[i])
			stream_bind(all[i], &c->task);
	task_wake(rx, &c->task);
	return c;
}

int exec_client_signal(struct exec_client *c, int signo)
{
	char text[64];
	const char *name = exec_signal_name(signo);
	if (!name)
		return -EINVAL;
	if (c->over)
		return -EPIPE;
	if (!c->opened)
		return -EAGAIN;
	snprintf(text, sizeof(text), "{\"signal\":\"%s\"}", name);
	return mux_control(c->remote, slice_str(text));
}

void exec_client_resize(struct exec_client *c, unsigned short rows, unsigned short cols)
{
	char text[64];
	snprintf(text, sizeof(text), "{\"resize\":[%u,%u]}", rows, cols);
	if (!c->over)
		mux_control(c->remote, slice_str(text));
}

void exec_client_free(struct exec_client *c)
{
	if (!c)
		return;
	task_cancel(&c->task);
	stream_close(c->remote, 0);
	stream_close(c->in, 0);
	stream_close(c->out, 0);
	stream_close(c->err, 0);
	free(c);
}
