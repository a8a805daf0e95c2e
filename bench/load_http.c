/*
 * GET over connections that are kept: each asks, reads the whole answer, asks again. Every answer
 * must be 200, as long as the first and with the same body.
 */
#include <errno.h>
#include <sys/socket.h>

#include "bench/load.h"

enum { ANSWER_MAX = 2048 };

struct answer {
	char text[ANSWER_MAX];
	size_t n;
};

static struct answer *answers; /* one a stream, so far as it has come */
static char request[512], body[ANSWER_MAX];
static int request_len;
static size_t body_len, whole; /* whole: of every answer, its head, too */
static unsigned failed;
static bool going;

static void fail(struct side *e, const char *what)
{
	if (failed++ == 0)
		fprintf(stderr, "load: http: %s\n", what);
	net_close(e);
}

static void ask(struct side *e)
{
	e->stream->since = now_ns();
	answers[e->stream->index].n = 0;
	if (send(e->fd, request, (size_t)request_len, MSG_NOSIGNAL) != request_len)
		fail(e, "a request was not sent");
}

/* Learns from the first answer: -1 wrong, 0 not all there, else its length. */
static int answer_learn(struct answer *a)
{
	a->text[a->n] = 0;
	const char *end = strstr(a->text, "\r\n\r\n");
	const char *l = strcasestr(a->text, "\r\nContent-Length: ");
	if (!end)
		return 0;
	if (!l || l > end)
		return -1;
	size_t n = (size_t)atoi(l + strlen("\r\nContent-Length: "));
	size_t head = (size_t)(end + 4 - a->text);
	if (n == 0 || head + n >= ANSWER_MAX || a->n > head + n)
		return -1;
	if (a->n < head + n)
		return 0;
	body_len = n;
	memcpy(body, end + 4, n);
	return (int)a->n;
}

/* 1: all there and right; 0: not all there; -1: wrong. */
static int answer_check(struct answer *a)
{
	if (whole == 0) {
		int n = answer_learn(a);
		if (n <= 0)
			return n;
		whole = (size_t)n;
	}
	if (a->n < whole)
		return 0;
	return a->n == whole && memcmp(a->text, "HTTP/1.1 200 ", 13) == 0 &&
		       memcmp(a->text + a->n - body_len, body, body_len) == 0
		   ? 1
		   : -1;
}

static void on_run(struct side *e)
{
	struct stream *s = e->stream;
	struct answer *a = &answers[s->index];
	if (s->state == 0) {
		if (!(e->ready & READY_OUT))
			return;
		s->state = 1;
		ask(e);
		return;
	}
	while (e->ready & READY_IN) {
		ssize_t r = recv(e->fd, a->text + a->n, ANSWER_MAX - 1 - a->n, 0);
		if (r == -1 && errno == EAGAIN) {
			e->ready &= ~(unsigned)READY_IN;
			return;
		}
		if (r <= 0) {
			fail(e, "a connection was closed");
			return;
		}
		a->n += (size_t)r;
		int right = answer_check(a);
		if (right < 0) {
			fail(e, "not the answer that was to come");
			return;
		}
		if (right == 0)
			continue;
		if (load.t0 && !load.t1)
			samples_add(&load.samples, now_ns() - s->since);
		e->ready &= ~(unsigned)READY_IN; /* nothing comes unasked */
		if (going)
			ask(e);
		return;
	}
}

int http_main(void)
{
	answers = xcalloc((size_t)load.conns, sizeof(*answers));
	request_len = snprintf(request, sizeof(request),
			       "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", load.path);
	load.on_run = on_run;
	going = true;
	for (int i = 0; i < load.conns; i++)
		failed += !net_connect(&load.stream[i]);
	uint64_t start = now_ns();
	while (!load.timed_out && !failed) {
		uint64_t now = now_ns();
		if (!load.t0 && now - start >= load.warm_ms * 1000000)
			window_begin();
		else if (load.t0 && now - load.t0 >= load.time_ms * 1000000)
			break;
		net_turn(5);
	}
	if (!load.t0)
		window_begin();
	window_end();
	going = false;
	double seconds = (double)(load.t1 - load.t0) / 1e9;
	printf("{\"mode\":\"http\",\"conns\":%d,\"requests\":%zu,\"per_s\":%.1f,\"errors\":%u,",
	       load.conns, load.samples.n, (double)load.samples.n / seconds, failed + load.errors);
	samples_print(&load.samples);
	printf(",");
	window_print();
	printf("}\n");
	free(answers);
	return load.timed_out ? 3 : (failed || load.errors || load.samples.n == 0);
}
