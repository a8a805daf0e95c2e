/* POST /tinyscale/v1/host-exec/command with Upgrade: tcp. */
#include <errno.h>

#include "cmd/guest/guest.h"
#include "reactor/err.h"

enum { BODY_MAX = 256 * 1024 };

struct command {
	struct task task;
	struct guest *g;
	struct http_conn *conn;
	struct buf body;
	struct exec *exec;
};

static void command_free(struct command *c)
{
	task_cancel(&c->task);
	exec_plain_free(c->exec);
	buf_end(&c->body);
	free(c);
}

static void on_taken(void *arg, struct stream *s, struct slice rest)
{
	struct command *c = arg;
	if (s) {
		exec_plain_relay(c->exec, s, rest);
		c->exec = NULL;
	}
	command_free(c);
}

static int status_of(int code)
{
	switch (-code) {
	case EINVAL:
		return 400;
	case ERR_DENIED:
		return 403;
	case ERR_NOT_FOUND:
		return 404;
	case ERR_TOO_MANY:
		return 503;
	default:
		return 500;
	}
}

static void on_ready(void *arg, int code, const char *why)
{
	static const struct http_field upgrade[] = { { { "Connection", 10 }, { "Upgrade", 7 } },
						     { { "Upgrade", 7 }, { "tcp", 3 } } };
	struct command *c = arg;
	if (code == 0) {
		task_cancel(&c->task); /* conn is no more ours to abort */
		http_take(c->conn, 101, upgrade, ARRAY_LEN(upgrade), on_taken, c);
		return;
	}
	http_reply_error(c->conn, status_of(code), why);
	command_free(c);
}

/* Collects the body, then starts; later wake-ups only tell that the client has gone. */
static void command_run(struct task *t)
{
	struct command *c = container_of(t, struct command, task);
	while (!c->exec) {
		struct iovec room = buf_room(&c->body);
		if (room.iov_len == 0) {
			http_reply_error(c->conn, 413, "the body is over 256 KiB");
			command_free(c);
			return;
		}
		ssize_t n = http_read(c->conn, room.iov_base, room.iov_len);
		buf_added(&c->body, n > 0 ? (size_t)n : 0);
		if (n == -EAGAIN)
			return;
		if (n < 0) {
			http_abort(c->conn, (int)n);
			command_free(c);
			return;
		}
		if (n == 0) {
			c->exec = exec_plain_start(c->g->rx, buf_data(&c->body), &c->g->policy.exec,
						   http_conn_peer(c->conn), on_ready, c);
			return;
		}
	}
	if (http_failed(c->conn) < 0) {
		http_abort(c->conn, http_failed(c->conn));
		command_free(c);
	}
}

void command_start(struct guest *g, struct http_conn *conn, const struct http_head *head)
{
	if (!http_wants_upgrade(head) ||
	    !http_field_has_token(head, SLICE("Upgrade"), SLICE("tcp"))) {
		static const struct http_field upgrade = { { "Upgrade", 7 }, { "tcp", 3 } };
		http_reply(conn, 426, &upgrade, 1,
			   SLICE("{\"message\":\"ask for Upgrade: tcp\"}\n"));
		return;
	}
	struct command *c = xcalloc(1, sizeof(*c));
	c->g = g;
	c->conn = conn;
	buf_init(&c->body, BODY_MAX);
	task_init(&c->task, command_run);
	http_bind(conn, &c->task);
	task_wake(g->rx, &c->task);
}
