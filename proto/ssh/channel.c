/* The connection protocol: RFC 4254. Sessions that run a command, and the server's global requests.
 */
#include <errno.h>

#include "proto/ssh/ssh_int.h"
#include "reactor/err.h"

enum {
	EXTENDED_DATA_STDERR = 1,
	OPEN_ADMINISTRATIVELY_PROHIBITED = 1,
	PEER_PACKET_MIN = 256, /* less than this would be mockery */
};

/* --- sending --- */

static void send_id(struct ssh_channel *ch, uint8_t type)
{
	char p[5] = { (char)type };
	ssh_put_u32(p + 1, ch->peer_id);
	client_send(ch->c, slice_of(p, sizeof(p)));
}

void channel_closing(struct ssh_channel *ch)
{
	if (!ch->c || ch->state < CHANNEL_STARTING || ch->close_sent)
		return;
	if (ch->eof_want && !ch->eof_sent) {
		ch->eof_sent = true;
		send_id(ch, MSG_CHANNEL_EOF);
	}
	if (ch->close_want) {
		ch->close_sent = true;
		send_id(ch, MSG_CHANNEL_CLOSE);
	}
}

void channel_consumed(struct ssh_channel *ch, size_t n)
{
	char p[9] = { MSG_CHANNEL_WINDOW_ADJUST };
	ch->consumed += (uint32_t)n;
	if (!ch->c || ch->eof_got || ch->close_sent || ch->consumed < SSH_WINDOW / 2)
		return;
	ssh_put_u32(p + 1, ch->peer_id);
	ssh_put_u32(p + 5, ch->consumed);
	ch->recv_window += ch->consumed;
	ch->consumed = 0;
	client_send(ch->c, slice_of(p, sizeof(p)));
}

void channel_begin(struct ssh_channel *ch)
{
	char p[64];
	struct ssh_wire_out w = { p, 0, sizeof(p) };
	put_u8(&w, MSG_CHANNEL_OPEN);
	put_str(&w, "session");
	put_u32(&w, ch->id);
	put_u32(&w, SSH_WINDOW);
	put_u32(&w, DATA_MAX);
	ch->recv_window = SSH_WINDOW;
	ch->state = CHANNEL_OPENING;
	client_send(ch->c, ssh_wire_written(&w));
}

/* A channel request, with up to two strings. */
static void request(struct ssh_channel *ch, const char *type, bool reply, const struct slice *text,
		    int n)
{
	size_t max = 64 + strlen(type);
	for (int i = 0; i < n; i++)
		max += 4 + text[i].n;
	struct ssh_wire_out w = { xmalloc(max), 0, max };
	put_u8(&w, MSG_CHANNEL_REQUEST);
	put_u32(&w, ch->peer_id);
	put_str(&w, type);
	put_u8(&w, reply);
	for (int i = 0; i < n; i++)
		put_string(&w, text[i]);
	client_send(ch->c, ssh_wire_written(&w));
	free(w.p);
}

/* Section 6.4, 6.5. */
static void start_command(struct ssh_channel *ch)
{
	for (const char *e = ch->env; e && *e; e += strlen(e) + 1) {
		struct slice part[2];
		slice_cut(slice_str(e), '=', &part[0], &part[1]);
		request(ch, "env", false, part, 2);
	}
	ch->state = CHANNEL_STARTING;
	if (ch->command)
		request(ch, "exec", true, (struct slice[]){ slice_str(ch->command) }, 1);
	else
		request(ch, "shell", true, NULL, 0);
	free(ch->env);
	free(ch->command);
	ch->env = ch->command = NULL;
	channel_closing(ch);
	channel_wake(ch);
}

/* --- ends --- */

void channel_wake(struct ssh_channel *ch)
{
	if (ch->stdio_owner && ch->blocked) {
		ch->blocked = false;
		task_wake(ch->rx, ch->stdio_owner);
	}
}

static void wake_readers(struct ssh_channel *ch)
{
	if (ch->stdio_owner)
		task_wake(ch->rx, ch->stdio_owner);
	if (ch->stderr_owner)
		task_wake(ch->rx, ch->stderr_owner);
}

void channel_end(struct ssh_channel *ch, int code, const char *why)
{
	list_del(&ch->link);
	ch->c->nchannels--;
	ch->c = NULL;
	ch->state = CHANNEL_ENDED;
	if (ch->has_status && ch->eof_got)
		code = 0; /* all that it had to say is here */
	if (code != 0 && ch->code == 0) {
		ch->code = code;
		ch->why = xstrdup(why);
	}
	if (ch->code != 0)
		ch->exit = (struct ssh_exit){ .code = ch->code, .why = ch->why };
	else if (!ch->has_status)
		ch->exit = (struct ssh_exit){
			.code = -ERR_TRUNCATED,
			.why = "ssh: the server closed the channel and did not say how the command "
			       "ended",
		};
	wake_readers(ch);
	if (!ch->freed)
		task_wake(ch->rx, &ch->exit_task);
	channel_release(ch);
}

static void exit_run(struct task *t)
{
	struct ssh_channel *ch = container_of(t, struct ssh_channel, exit_task);
	if (ch->exited)
		ch->exited(ch->arg, &ch->exit);
}

void channel_release(struct ssh_channel *ch)
{
	if (!ch->freed || ch->stdio_open || ch->stderr_open)
		return;
	if (ch->c && ch->state == CHANNEL_QUEUED) {
		list_del(&ch->link);
		ch->c->nchannels--;
	} else if (ch->c) { /* it goes when the server has closed it, too */
		ch->close_want = true;
		channel_closing(ch);
		return;
	}
	task_cancel(&ch->exit_task);
	buf_end(&ch->out);
	buf_end(&ch->err);
	free(ch->command);
	free(ch->env);
	free(ch->why);
	free(ch->said);
	free(ch);
}

void ssh_channel_free(struct ssh_channel *ch)
{
	if (!ch)
		return;
	ch->freed = true;
	task_cancel(&ch->exit_task);
	channel_release(ch);
}

/* --- messages of a channel --- */

static struct ssh_channel *find(struct ssh_client *c, uint32_t id)
{
	for (struct list *l = c->channels.next; l != &c->channels; l = l->next) {
		struct ssh_channel *ch = container_of(l, struct ssh_channel, link);
		if (ch->id == id && ch->state != CHANNEL_QUEUED)
			return ch;
	}
	return NULL;
}

static int on_confirmation(struct ssh_client *c, struct ssh_channel *ch, struct ssh_wire_in *w)
{
	ch->peer_id = ssh_wire_u32(w);
	ch->send_window = ssh_wire_u32(w);
	ch->send_max = ssh_wire_u32(w);
	if (w->bad || ch->state != CHANNEL_OPENING)
		return client_fault(c, "a channel confirmation that is broken or out of place");
	if (ch->send_max < PEER_PACKET_MIN)
		return client_fault(c, "a channel whose packets may have %u bytes", ch->send_max);
	if (ch->close_want) { /* nobody wants it any more */
		ch->state = CHANNEL_STARTING;
		channel_closing(ch);
	} else {
		start_command(ch);
	}
	return 0;
}

static int on_open_failure(struct ssh_client *c, struct ssh_channel *ch, struct ssh_wire_in *w)
{
	char text[300], why[400];
	uint32_t reason = ssh_wire_u32(w);
	struct slice said = ssh_wire_string(w);
	if (w->bad || ch->state != CHANNEL_OPENING)
		return client_fault(c, "a channel refusal that is broken or out of place");
	snprintf(why, sizeof(why), "ssh: the server opens no session: %s (reason %u)",
		 ssh_text(said, false, text, sizeof(text)), reason);
	channel_end(ch, -ERR_DENIED, why);
	return 0;
}

static int on_adjust(struct ssh_client *c, struct ssh_channel *ch, struct ssh_wire_in *w)
{
	uint32_t more = ssh_wire_u32(w);
	if (!ssh_wire_end(w) || more > UINT32_MAX - ch->send_window)
		return client_fault(c, "a window that is broken or beyond 2^32");
	ch->send_window += more;
	channel_wake(ch);
	return 0;
}

static int on_data(struct ssh_client *c, struct ssh_channel *ch, struct ssh_wire_in *w,
		   bool extended)
{
	uint32_t type = extended ? ssh_wire_u32(w) : 0;
	struct slice data = ssh_wire_string(w);
	bool open = extended ? ch->stderr_open : ch->stdio_open;
	if (!ssh_wire_end(w))
		return client_fault(c, "broken channel data");
	if (ch->eof_got)
		return client_fault(c, "channel data after the end of file");
	if (data.n > ch->recv_window)
		return client_fault(c, "%zu bytes of channel data beyond the window",
				    data.n - ch->recv_window);
	ch->recv_window -= (uint32_t)data.n;
	if (!extended && !ch->stdio_given && !ch->freed)
		open = true; /* it may still be asked for */
	if (data.n == 0)
		return 0;
	if (!open || (extended && type != EXTENDED_DATA_STDERR)) {
		channel_consumed(ch, data.n);
		return 0;
	}
	BUG_ON(buf_put(extended ? &ch->err : &ch->out, data) < 0); /* the window bounds it */
	struct task *owner = extended ? ch->stderr_owner : ch->stdio_owner;
	if (owner)
		task_wake(ch->rx, owner);
	return 0;
}

static int on_status(struct ssh_client *c, struct ssh_channel *ch, struct ssh_wire_in *w,
		     bool by_signal)
{
	struct ssh_exit *e = &ch->exit;
	if (by_signal) {
		char text[300];
		struct slice name = ssh_wire_string(w);
		e->core = ssh_wire_bool(w);
		struct slice said = ssh_wire_string(w);
		ssh_wire_string(w); /* language */
		ssh_text(name, false, ch->signal, sizeof(ch->signal));
		e->signal = ch->signal;
		free(ch->said);
		ch->said = xstrdup(ssh_text(said, false, text, sizeof(text)));
		e->why = ch->said;
	} else {
		e->status = ssh_wire_u32(w);
	}
	if (!ssh_wire_end(w) || ch->has_status)
		return client_fault(c, "an exit status that is broken or the second one");
	ch->has_status = true;
	return 0;
}

static int on_request(struct ssh_client *c, struct ssh_channel *ch, struct ssh_wire_in *w)
{
	struct slice type = ssh_wire_string(w);
	bool reply = ssh_wire_bool(w);
	int r = 0;
	if (w->bad)
		return client_fault(c, "a broken channel request");
	if (ch->state < CHANNEL_STARTING)
		return client_fault(c, "a request for a channel that is not open");
	if (slice_eq(type, SLICE("exit-status")))
		r = on_status(c, ch, w, false);
	else if (slice_eq(type, SLICE("exit-signal")))
		r = on_status(c, ch, w, true);
	else if (slice_eq(type, SLICE("eow@openssh.com"))) {
		ch->no_stdin = true;
		wake_readers(ch);
	}
	if (r == 0 && reply && !ch->close_sent)
		send_id(ch, MSG_CHANNEL_FAILURE);
	return r;
}

static int on_answer(struct ssh_client *c, struct ssh_channel *ch, bool success)
{
	if (ch->state != CHANNEL_STARTING)
		return client_fault(c, "an answer to a channel request that was not asked");
	ch->state = CHANNEL_RUNNING;
	if (success) {
		ch->blocked = true; /* who asked "open yet?" may ask again */
		channel_wake(ch);
		return 0;
	}
	/* It stays until the server has closed it, too, but nobody needs to wait for that. */
	ch->close_want = true;
	channel_closing(ch);
	ch->code = -ERR_DENIED;
	ch->why = xstrdup("ssh: the server refused to run the command");
	wake_readers(ch);
	return 0;
}

static int on_close(struct ssh_channel *ch)
{
	ch->eof_got = ch->close_want = true;
	ch->eof_want = ch->eof_sent; /* CLOSE says it all */
	channel_closing(ch);
	channel_end(ch, 0, NULL);
	return 0;
}

static int on_channel(struct ssh_client *c, uint8_t type, struct ssh_wire_in *w)
{
	uint32_t id = ssh_wire_u32(w);
	struct ssh_channel *ch = w->bad ? NULL : find(c, id);
	if (!ch)
		return client_fault(c, "message %u for a channel that does not exist", type);
	if (type == MSG_CHANNEL_OPEN_CONFIRMATION)
		return on_confirmation(c, ch, w);
	if (type == MSG_CHANNEL_OPEN_FAILURE)
		return on_open_failure(c, ch, w);
	if (ch->state < CHANNEL_STARTING)
		return client_fault(c, "message %u for a channel that is not open", type);
	switch (type) {
	case MSG_CHANNEL_WINDOW_ADJUST:
		return on_adjust(c, ch, w);
	case MSG_CHANNEL_DATA:
		return on_data(c, ch, w, false);
	case MSG_CHANNEL_EXTENDED_DATA:
		return on_data(c, ch, w, true);
	case MSG_CHANNEL_REQUEST:
		return on_request(c, ch, w);
	}
	if (!ssh_wire_end(w))
		return client_fault(c, "a broken channel message %u", type);
	switch (type) {
	case MSG_CHANNEL_EOF:
		ch->eof_got = true;
		wake_readers(ch);
		return 0;
	case MSG_CHANNEL_CLOSE:
		return on_close(ch);
	default:
		return on_answer(c, ch, type == MSG_CHANNEL_SUCCESS);
	}
}

/* --- messages of the connection --- */

static int on_global(struct ssh_client *c, struct ssh_wire_in *w)
{
	ssh_wire_string(w); /* keepalive, hostkeys-00@openssh.com, ...: none is known here */
	bool reply = ssh_wire_bool(w);
	if (w->bad)
		return client_fault(c, "a broken global request");
	if (reply)
		client_send(c, slice_of(&(uint8_t){ MSG_REQUEST_FAILURE }, 1));
	return 0;
}

static int on_open(struct ssh_client *c, struct ssh_wire_in *w)
{
	char p[64];
	struct ssh_wire_out out = { p, 0, sizeof(p) };
	ssh_wire_string(w);
	uint32_t id = ssh_wire_u32(w);
	ssh_wire_u32(w); /* window */
	ssh_wire_u32(w); /* packet */
	if (w->bad)
		return client_fault(c, "a broken CHANNEL_OPEN");
	put_u8(&out, MSG_CHANNEL_OPEN_FAILURE);
	put_u32(&out, id);
	put_u32(&out, OPEN_ADMINISTRATIVELY_PROHIBITED);
	put_str(&out, "not asked for");
	put_str(&out, "");
	client_send(c, ssh_wire_written(&out));
	return 0;
}

int channel_message(struct ssh_client *c, struct slice payload)
{
	struct ssh_wire_in w = { payload, false };
	uint8_t type = ssh_wire_u8(&w);
	switch (type) {
	case MSG_GLOBAL_REQUEST:
		return on_global(c, &w);
	case MSG_REQUEST_SUCCESS:
	case MSG_REQUEST_FAILURE:
		if (c->pings == 0)
			return client_fault(c, "an answer to a request that was not asked");
		c->pings--;
		return 0;
	case MSG_CHANNEL_OPEN:
		return on_open(c, &w);
	default:
		if (type < MSG_CHANNEL_OPEN)
			return client_fault(c, "message %u, which is none", type);
		return on_channel(c, type, &w);
	}
}

/* --- the owner's side --- */

/* "NAME=VALUE" strings as one block; those without a name are left out. */
static char *env_copy(const char *const *env, size_t *total)
{
	size_t n = 1, at = 0;
	for (size_t i = 0; env && env[i]; i++)
		n += strlen(env[i]) + 1;
	char *block = xcalloc(1, n);
	for (size_t i = 0; env && env[i]; i++) {
		const char *eq = strchr(env[i], '=');
		if (!eq || eq == env[i])
			continue;
		memcpy(block + at, env[i], strlen(env[i]));
		at += strlen(env[i]) + 1;
	}
	*total += n;
	return block;
}

struct ssh_channel *ssh_exec(struct ssh_client *c, const struct ssh_exec *x)
{
	struct ssh_channel *ch = xmalloc(sizeof(*ch));
	size_t size = x->command ? strlen(x->command) : 0;
	*ch = (struct ssh_channel){
		.c = c,
		.rx = c->rx,
		.id = c->next_id++,
		.command = x->command ? xstrdup(x->command) : NULL,
		.env = env_copy(x->env, &size),
		.exited = x->exited,
		.arg = x->arg,
	};
	task_init(&ch->exit_task, exit_run);
	buf_init(&ch->out, SSH_WINDOW);
	buf_init(&ch->err, SSH_WINDOW);
	channel_streams_init(ch);
	list_add_tail(&c->channels, &ch->link);
	c->nchannels++;
	if (c->state == CLIENT_DEAD)
		channel_end(ch, c->code, c->why);
	else if (c->nchannels > SSH_CHANNELS_MAX)
		channel_end(ch, -ERR_TOO_MANY, "ssh: too many commands at once on one connection");
	else if (size > SSH_COMMAND_MAX)
		channel_end(ch, -E2BIG, "ssh: the command and its environment are too long");
	else if (c->state == CLIENT_OPEN)
		channel_begin(ch);
	return ch; // NOLINT(clang-analyzer-unix.Malloc): its owner has not freed it yet
}
