/*
 * New connections: connect, a byte there, a byte back, the server closes first (so that ephemeral
 * ports last). --conns of them at a time; with --gap each waits that long before the next.
 * Idle connections: opened (--at-once of them at a time), used once, held while somebody reads the
 * relays' memory.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/load.h"

enum { IDLE = 0, ASKED, ANSWERED, HELD, PAUSED };

static unsigned failed, done, held;
static bool holding; /* idle: the server does not close */

static void begin(struct stream *s)
{
	s->since = now_ns();
	s->state = IDLE;
	if (!net_connect(s)) {
		failed++;
		s->state = PAUSED;
	}
}

static void ended(struct side *e)
{
	struct stream *s = e->stream;
	failed += s->state != ANSWERED;
	done += s->state == ANSWERED;
	s->state = PAUSED;
	s->since = now_ns();
	net_close(e);
}

static bool is_answer(const char *p, ssize_t n)
{
	return load.banner ? n >= 4 && memcmp(p, "SSH-", 4) == 0 : n == 1 && *p == '!';
}

static void on_client(struct side *e)
{
	struct stream *s = e->stream;
	char buf[256];
	ssize_t r;
	if (s->state == IDLE && load.banner) {
		s->state = ASKED;
	} else if (s->state == IDLE && e->ready & READY_OUT) {
		if (send(e->fd, "?", 1, MSG_NOSIGNAL) == 1)
			s->state = ASKED;
		else
			ended(e);
		return;
	}
	while (e->ready & READY_IN) {
		r = recv(e->fd, buf, sizeof(buf), 0);
		if (r == -1 && errno == EAGAIN) {
			e->ready &= ~(unsigned)READY_IN;
			return;
		}
		if (holding && r <= 0) {
			failed++;
			held -= s->state == HELD;
			net_close(e);
			return;
		}
		if (r <= 0) {
			ended(e);
			return;
		}
		if (s->state == ASKED && is_answer(buf, r)) {
			if (load.t0 && !load.t1)
				samples_add(&load.samples, now_ns() - s->since);
			s->state = holding ? HELD : ANSWERED;
			held += holding;
		} else {
			load.errors++;
		}
	}
}

static void on_server(struct side *e)
{
	char buf[256];
	ssize_t r = recv(e->fd, buf, sizeof(buf), 0);
	if (r == -1 && errno == EAGAIN) {
		e->ready &= ~(unsigned)READY_IN;
		return;
	}
	if (r > 0) {
		if (send(e->fd, "!", 1, MSG_NOSIGNAL) != 1)
			load.errors++;
		if (holding) {
			net_again(e);
			return;
		}
	}
	net_close(e);
}

static void on_run(struct side *e)
{
	if (e->which == CLIENT)
		on_client(e);
	else
		on_server(e);
}

/* Streams that wait for their next turn begin it. */
static void go_on(uint64_t now)
{
	for (int i = 0; i < load.conns; i++) {
		struct stream *s = &load.stream[i];
		if (s->state == PAUSED && now - s->since >= (uint64_t)load.gap_ms * 1000000)
			begin(s);
	}
}

int connect_main(void)
{
	uint64_t start, now;
	unsigned before = 0;
	load.on_run = on_run;
	for (int i = 0; i < load.conns; i++)
		begin(&load.stream[i]);
	start = now_ns();
	do {
		net_turn(load.gap_ms ? 1 : 5);
		now = now_ns();
		if (!load.t0 && now - start >= load.warm_ms * 1000000) {
			before = done;
			window_begin();
		}
		go_on(now);
		now = now_ns();
	} while (!load.timed_out && (!load.t0 || now - load.t0 < load.time_ms * 1000000));
	window_end();
	double seconds = (double)(load.t1 - load.t0) / 1e9;
	printf("{\"mode\":\"connect\",\"conns\":%d,\"gap_ms\":%d,\"done\":%u,\"per_s\":%.1f,"
	       "\"failed\":%u,\"errors\":%u,",
	       load.conns, load.gap_ms, done - before, (done - before) / seconds, failed,
	       load.errors);
	samples_print(&load.samples);
	printf(",");
	window_print();
	printf("}\n");
	return load.timed_out ? 3 : (failed || load.errors || done == before);
}

/* --- idle --- */

/* Holds n connections; at most --at-once are being opened at a time. */
static void hold(unsigned n)
{
	static unsigned opened;
	load.samples.n = 0;
	load.t1 = 0;
	window_begin();
	while (held + failed < n && !load.timed_out) {
		while (opened < n && opened < held + failed + (unsigned)load.at_once)
			begin(&load.stream[opened++]);
		net_turn(100);
	}
	window_end();
	printf("{\"held\":%u,\"failed\":%u,\"serving\":%u,", held, failed, load.serving);
	samples_print(&load.samples);
	printf(",");
	window_print();
	printf("}\n");
	fflush(stdout);
}

static void close_all(void)
{
	uint64_t start = now_ns();
	for (int i = 0; i < load.conns; i++) {
		if (load.stream[i].side[CLIENT])
			net_close(load.stream[i].side[CLIENT]);
	}
	held = 0;
	while (load.serving > 0 && !load.timed_out && now_ns() - start < load.grace_ms * 1000000)
		net_turn(100);
	printf("{\"held\":0,\"serving\":%u,\"seconds\":%.3f}\n", load.serving,
	       (double)(now_ns() - start) / 1e9);
	fflush(stdout);
}

/* Commands on stdin, an answer in JSON to each: "hold N", "close"; its end ends us. */
int idle_main(void)
{
	struct pollfd p[2] = { { .fd = STDIN_FILENO, .events = POLLIN },
			       { .fd = load.epfd, .events = POLLIN } };
	char line[64];
	unsigned n;
	holding = true;
	load.on_run = on_run;
	setvbuf(stdin, NULL, _IONBF, 0);
	for (;;) {
		while (poll(p, 2, 1000) >= 0 && !(p[0].revents & (POLLIN | POLLHUP))) {
			net_turn(0);
			if (load.timed_out)
				return 3;
		}
		if (!fgets(line, sizeof(line), stdin))
			break;
		if (sscanf(line, "hold %u", &n) == 1 && n <= (unsigned)load.conns)
			hold(n);
		else if (strncmp(line, "close", 5) == 0)
			close_all();
		else {
			fprintf(stderr, "load: idle: not a command: %s", line);
			return 2;
		}
	}
	return failed || load.errors;
}
