#include "test/unit/mini_guest.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

struct mini_guest guest;

static void on_opened(void *arg, struct stream *s, struct slice json)
{
	(void)arg;
	assert_true(guest.nopened < STREAMS);
	snprintf(guest.json[guest.nopened], sizeof(guest.json[0]), "%.*s", SLICE_FMT(json));
	guest.opened[guest.nopened++] = s;
}

static void on_ended(void *arg, int code, const char *why)
{
	struct carrier *c = arg;
	mux_free(c->mux, code, why);
	c->mux = NULL;
}

static void carrier_run(struct task *t)
{
	static const char upgraded[] = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
				       "Upgrade: tstunnel/1\r\n\r\n";
	struct carrier *c = container_of(t, struct carrier, task);
	ssize_t n = stream_read(c->s, c->head + c->n, sizeof(c->head) - 1 - c->n);
	if (n == -EAGAIN)
		return;
	assert_true(n > 0);
	c->n += (size_t)n;
	if (!strstr(c->head, "\r\n\r\n"))
		return;
	assert_int_equal(strlen(upgraded), stream_write(c->s, upgraded, strlen(upgraded)));
	struct stream *s = c->s;
	c->s = NULL;
	task_cancel(&c->task);
	c->mux = mux_new(guest.rx, s, SLICE(""),
			 &(struct mux_options){ .opened = on_opened, .ended = on_ended, .arg = c });
}

static void on_carrier(void *arg, int fd, const struct sockaddr *peer)
{
	(void)arg, (void)peer;
	assert_true(guest.ncarriers < CARRIERS);
	struct carrier *c = guest.carrier[guest.ncarriers++] = xcalloc(1, sizeof(*c));
	c->s = fd_stream_new(guest.rx, fd);
	task_init(&c->task, carrier_run);
	stream_bind(c->s, &c->task);
}

void guest_listen(void)
{
	int err = 0;
	struct addr a = { .kind = ADDR_TCP, .host = HOST, .port = guest.port };
	guest.listener = listener_new(guest.rx, &a, on_carrier, NULL, &err);
	assert_non_null(guest.listener);
	guest.port = listener_port(guest.listener);
}

void guest_begin(struct reactor *rx)
{
	guest = (struct mini_guest){ .rx = rx };
}

struct tunnel *guest_tunnel(void)
{
	char err[256] = "";
	guest_listen();
	struct tunnel_options o = {
		.server = { .kind = ADDR_TCP, .host = HOST, .port = guest.port }, .keep_up = true
	};
	struct tunnel *t = tunnel_new(guest.rx, &o, err, sizeof(err));
	assert_string_equal("", err);
	assert_non_null(t);
	return t;
}

void guest_drop(unsigned i)
{
	mux_free(guest.carrier[i]->mux, -ECONNRESET, NULL);
	guest.carrier[i]->mux = NULL;
}

void guest_end(void)
{
	listener_close(guest.listener);
	for (unsigned i = 0; i < guest.nopened; i++)
		stream_close(guest.opened[i], 0);
	for (unsigned i = 0; i < guest.ncarriers; i++) {
		struct carrier *c = guest.carrier[i];
		task_cancel(&c->task);
		stream_close(c->s, -ECONNRESET);
		mux_free(c->mux, -ECONNRESET, NULL);
		free(c);
	}
}
