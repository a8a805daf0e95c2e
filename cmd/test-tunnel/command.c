#include "cmd/test-tunnel/command.h"

#include <errno.h>
#include <unistd.h>

#include "reactor/buf.h"
#include "reactor/err.h"

enum { PIECE = 128 * 1024 };

struct command {
	struct reactor *rx;
	struct task task;
	struct ssh_channel *channel;
	struct stream *io, *err;
	struct buf input, out, said;
	int in_fd, out_fd;
	bool in_done, out_done, err_done, exited, cut;
	uint64_t received;
	unsigned status;
	char *signal, *why;
	void (*ended)(void *arg, const struct command_end *);
	void *arg;
};

void command_free(struct command *c)
{
	if (!c)
		return;
	task_cancel(&c->task);
	ssh_channel_free(c->channel);
	stream_close(c->io, c->exited ? 0 : -ERR_CANCELLED);
	stream_close(c->err, 0);
	buf_end(&c->input);
	buf_end(&c->out);
	buf_end(&c->said);
	free(c->signal);
	free(c->why);
	free(c);
}

static void trouble(struct command *c, const char *what)
{
	if (!c->why)
		c->why = xasprintf("%s: %s", what, err_text(errno));
}

/* Local files: read and write do not wait. */
static void feed(struct command *c)
{
	while (!c->in_done) {
		if (c->input.len == 0 && c->in_fd >= 0) {
			struct iovec room = buf_room_for(&c->input, PIECE);
			ssize_t n = read(c->in_fd, room.iov_base, room.iov_len);
			buf_added(&c->input, n > 0 ? (size_t)n : 0);
			if (n < 0)
				trouble(c, "cannot read the local file");
			if (n <= 0)
				c->in_fd = -1;
			continue;
		}
		struct slice d = buf_data(&c->input);
		ssize_t n = d.n ? stream_write(c->io, d.p, d.n) : stream_shut(c->io);
		if (n == -EAGAIN)
			return;
		if (n < 0 || d.n == 0) /* a command may well not read its input */
			c->in_done = true;
		else
			buf_drop(&c->input, (size_t)n);
	}
}

static void keep_file(struct command *c, const char *p, size_t n)
{
	while (n && !c->why) {
		ssize_t w = write(c->out_fd, p, n);
		if (w < 0) {
			trouble(c, "cannot write the local file");
			return;
		}
		p += w;
		n -= (size_t)w;
	}
}

/* True at the end. */
static bool drain(struct command *c, struct stream *s, struct buf *b)
{
	char *scratch = reactor_scratch(c->rx);
	for (;;) {
		ssize_t n = stream_read(s, scratch, REACTOR_SCRATCH);
		if (n == -EAGAIN)
			return false;
		if (n <= 0)
			return true;
		if (b == &c->out)
			c->received += (uint64_t)n;
		if (b == &c->out && c->out_fd >= 0) {
			keep_file(c, scratch, (size_t)n);
			continue;
		}
		size_t fits = MIN((size_t)n, b->max - b->len);
		buf_put(b, slice_of(scratch, fits));
		c->cut = c->cut || fits < (size_t)n;
	}
}

static void step(struct task *task)
{
	struct command *c = container_of(task, struct command, task);
	feed(c);
	c->out_done = c->out_done || drain(c, c->io, &c->out);
	c->err_done = c->err_done || drain(c, c->err, &c->said);
	if (!c->exited || !c->out_done || !c->err_done)
		return;
	struct command_end end = { .why = c->why,
				   .status = c->status,
				   .signal = c->signal,
				   .out = buf_data(&c->out),
				   .err = buf_data(&c->said),
				   .cut = c->cut,
				   .received = c->received };
	c->ended(c->arg, &end);
	command_free(c);
}

static void on_exited(void *arg, const struct ssh_exit *e)
{
	struct command *c = arg;
	c->exited = true;
	c->status = e->signal ? 128 : e->status;
	c->signal = e->signal ? xstrdup(e->signal) : NULL;
	if (e->code && !c->why)
		c->why = xstrdup(e->why && e->why[0] ? e->why : err_text(e->code));
	task_wake(c->rx, &c->task);
}

struct command *command_start(struct reactor *rx, struct ssh_client *ssh, const char *text, int in,
			      int out, void (*ended)(void *, const struct command_end *), void *arg)
{
	struct command *c = xcalloc(1, sizeof(*c));
	c->rx = rx;
	c->in_fd = in;
	c->out_fd = out;
	c->ended = ended;
	c->arg = arg;
	buf_init(&c->input, PIECE);
	buf_init(&c->out, COMMAND_OUTPUT_MAX);
	buf_init(&c->said, COMMAND_OUTPUT_MAX);
	task_init(&c->task, step);
	c->channel =
	    ssh_exec(ssh, &(struct ssh_exec){ .command = text, .exited = on_exited, .arg = c });
	c->io = ssh_channel_stdio(c->channel);
	c->err = ssh_channel_stderr(c->channel);
	stream_bind(c->io, &c->task);
	stream_bind(c->err, &c->task);
	task_wake(rx, &c->task);
	return c;
}
