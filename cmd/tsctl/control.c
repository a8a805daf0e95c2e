#include "cmd/tsctl/control.h"

#include <errno.h>
#include <signal.h>

#include "reactor/err.h"
#include "reactor/log.h"

enum { STATUS_MAX = 1000 * 1000 }; /* one reply of the server is at most 1 MiB */

static void reply_status(struct control *c, struct http_conn *conn)
{
	static const struct http_field type = { { "Content-Type", 12 },
						{ "application/json", 16 } };
	struct buf b;
	struct json_writer w;
	buf_init(&b, STATUS_MAX);
	json_writer_begin(&w, &b);
	c->status(c->arg, &w);
	if (json_writer_end(&w) < 0)
		http_reply_error(conn, 500, "the status is too long");
	else
		http_reply(conn, 200, &type, 1, buf_data(&b));
	buf_end(&b);
}

static void handle(struct http_conn *conn, struct http_head *head, void *arg)
{
	struct control *c = arg;
	if (c->syncs && sync_api_handle(c->syncs, conn, head))
		return;
	bool status = slice_eq(head->target, SLICE("/status"));
	bool stop = slice_eq(head->target, SLICE("/stop"));
	if (status && slice_eq(head->method, SLICE("GET"))) {
		reply_status(c, conn);
	} else if (stop && slice_eq(head->method, SLICE("POST"))) {
		http_reply(conn, 202, NULL, 0, SLICE(""));
		c->stop(c->arg);
	} else {
		http_reply_error(conn, status || stop ? 405 : 404, "GET /status or POST /stop");
	}
}

static void on_accept(void *arg, int fd, const struct sockaddr *peer)
{
	(void)peer;
	struct control *c = arg;
	http_server_accept(&c->http, fd_stream_new(c->http.rx, fd), "control");
}

int control_open(struct control *c, struct reactor *rx, const struct instance *i, char *err,
		 size_t errlen)
{
	c->http = (struct http_server){ .rx = rx, .arg = c, .handle = handle, .conns_max = 64 };
	http_server_init(&c->http);
	int e;
	c->listener = listener_new(rx, &i->socket, on_accept, c, &e);
	if (c->listener)
		return 0;
	snprintf(err, errlen, "cannot listen on %s: %s", i->socket.path, err_text(e));
	return e;
}

void control_close(struct control *c)
{
	if (!c->listener)
		return;
	listener_close(c->listener);
	c->listener = NULL;
	http_server_abort(&c->http);
}
