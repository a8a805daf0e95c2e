/* Ping-pong: each connection sends a message, waits until it came back, sends the next. */
#include <errno.h>
#include <sys/socket.h>

#include "bench/load.h"

enum { BUSY = 1, MESSAGE_MAX = 64 * 1024 };

static bool going;
static unsigned failed;

static void ask(struct side *e)
{
	struct stream *s = e->stream;
	struct way *w = &s->way[UP];
	ssize_t r = send(e->fd, pattern_at(s->index, UP, w->sent), (size_t)load.size, MSG_NOSIGNAL);
	if (r != load.size) { /* one message in flight always fits */
		failed++;
		return;
	}
	w->sent += (uint64_t)r;
	s->since = now_ns();
}

static void on_client(struct side *e)
{
	struct stream *s = e->stream;
	struct way *w = &s->way[DOWN];
	char buf[MESSAGE_MAX];
	if (!net_send_head(e))
		return;
	while (e->ready & READY_IN) {
		ssize_t r = recv(e->fd, buf, sizeof(buf), 0);
		if (r == -1 && errno == EAGAIN) {
			e->ready &= ~(unsigned)READY_IN;
			return;
		}
		if (r <= 0) {
			failed++;
			net_close(e);
			return;
		}
		/* It is an echo: the pattern of the way up. */
		if (memcmp(buf, pattern_at(s->index, UP, w->got), (size_t)r) != 0)
			w->bad = true;
		w->got += (uint64_t)r;
		if (w->got < s->way[UP].sent)
			continue;
		if (load.t0 && !load.t1)
			samples_add(&load.samples, now_ns() - s->since);
		if (going)
			ask(e);
	}
}

static void on_server(struct side *e)
{
	char buf[MESSAGE_MAX];
	ssize_t r;
	if (!e->stream && !net_take_head(e))
		return;
	while ((r = recv(e->fd, buf, sizeof(buf), 0)) > 0) {
		if (send(e->fd, buf, (size_t)r, MSG_NOSIGNAL) != r)
			failed++;
	}
	if (r == -1 && errno == EAGAIN) {
		e->ready &= ~(unsigned)READY_IN;
		return;
	}
	failed += going;
	net_close(e);
}

static void on_run(struct side *e)
{
	if (e->which == CLIENT)
		on_client(e);
	else
		on_server(e);
}

int ping_main(void)
{
	unsigned bad = 0;
	uint64_t start;
	load.on_run = on_run;
	load.size = MIN(load.size, (int)MESSAGE_MAX);
	if (!net_connect_all())
		return 3;
	going = true;
	for (int i = 0; i < load.conns; i++)
		ask(load.stream[i].side[CLIENT]);
	start = now_ns();
	while (!load.timed_out && !failed) {
		uint64_t now = now_ns();
		if (!load.t0 && now - start >= load.warm_ms * 1000000)
			window_begin();
		else if (load.t0 && now - load.t0 >= load.time_ms * 1000000)
			break;
		net_turn(5);
	}
	window_end();
	going = false;
	for (int i = 0; i < load.conns; i++)
		bad += load.stream[i].way[DOWN].bad;
	double seconds = (double)(load.t1 - load.t0) / 1e9;
	printf("{\"mode\":\"ping\",\"conns\":%d,\"size\":%d,\"round_trips\":%zu,\"per_s\":%.1f,"
	       "\"bad\":%u,\"errors\":%u,",
	       load.conns, load.size, load.samples.n, (double)load.samples.n / seconds, bad,
	       failed + load.errors);
	samples_print(&load.samples);
	printf(",");
	window_print();
	printf("}\n");
	return load.timed_out ? 3 : (bad || failed || load.errors || load.samples.n == 0);
}
