/* Following an engine's containers (follow.h) between simulated streams: the test is the engine. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "proto/docker/follow.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "test/unit/sim.h"

enum { UPS = 64 };

static struct reactor *rx;
static struct sim_rules rules;
static struct sim_peer up[UPS]; /* connections in the order of dialling */
static unsigned ups, served, asked, listed;
static size_t last_count;
static int broken;
static struct docker_follow *follow;
static struct sim_peer *events; /* the connection that GET /events came on */
static char target[600];        /* of it */
static unsigned event_requests;
static const char *list; /* what the engine answers to GET /containers/json */

static struct stream *dial(void *arg)
{
	struct stream *near, *far;
	assert_ptr_equal(arg, &rules);
	if (broken)
		return sim_broken(rx, broken, "dial tcp x: connection refused");
	assert_true(ups < UPS);
	sim_pair(rx, &rules, &near, &far);
	sim_peer_init(&up[ups++], far);
	return near;
}

static void on_asking(void *arg)
{
	assert_ptr_equal(arg, &rules);
	asked++;
}

static void on_listed(void *arg, struct json_doc *doc)
{
	assert_ptr_equal(arg, &rules);
	listed++;
	last_count = json_root(doc)->count;
}

static void start(uint64_t seed)
{
	log_level = LOG_ERROR;
	rules = (struct sim_rules){ .seed = seed,
				    .refuse = seed % 4 * 20,
				    .piece = seed % 3 ? seed % 40 + 1 : 0 };
	rx = reactor_new();
	ups = served = asked = listed = event_requests = 0;
	broken = 0;
	sim_open = 0;
	events = NULL;
	list = "[]";
	follow = docker_follow_new(
	    rx, &(struct docker_follow_options){
		    .dial = dial, .asking = on_asking, .listed = on_listed, .arg = &rules });
}

static bool is_over(void *arg)
{
	(void)arg;
	return sim_open == 0;
}

static void finish(void)
{
	docker_follow_free(follow);
	for (unsigned i = 0; i < ups; i++)
		sim_peer_end(&up[i], 0);
	assert_true(sim_until(rx, is_over, NULL));
	assert_int_equal(reactor_stats(rx)->timers, 0);
	reactor_free(rx);
	block_trim();
}

static const char *event_head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/* The engine: answers what has come in whole. */
static void serve(void)
{
	while (served < ups && up[served].s) {
		struct sim_peer *p = &up[served];
		struct slice in = buf_data(&p->in);
		char text[1024];
		snprintf(text, sizeof(text), "%.*s", SLICE_FMT(in));
		if (!strstr(text, "\r\n\r\n"))
			return;
		served++;
		if (slice_starts(in, SLICE("GET /events?"))) {
			events = p;
			event_requests++;
			snprintf(target, sizeof(target), "%.*s",
				 (int)(strchr(text + 4, ' ') - text - 4), text + 4);
			if (event_head)
				sim_peer_send(p, slice_str(event_head));
		} else {
			assert_true(slice_starts(in, SLICE("GET /containers/json HTTP/1.1\r\n")));
			snprintf(text, sizeof(text),
				 "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n%s", strlen(list),
				 list);
			sim_peer_send(p, slice_str(text));
		}
	}
}

struct wanted {
	const unsigned *what;
	unsigned n;
};

static bool reached(void *arg)
{
	const struct wanted *w = arg;
	serve();
	return *w->what >= w->n;
}

static void until(const unsigned *what, unsigned n)
{
	struct wanted w = { what, n };
	assert_true(sim_until(rx, reached, &w));
}

static void event(const char *json)
{
	char text[600];
	snprintf(text, sizeof(text), "%zx\r\n%s\r\n", strlen(json), json);
	sim_peer_send(events, slice_str(text));
}

/* It lists when the stream stands, and for each event, at once and when things have settled. */
static void lists(void **state)
{
	(void)state;
	for (uint64_t seed = 0; seed < 12; seed++) {
		start(seed);
		until(&listed, 1);
		assert_int_equal(event_requests, 1);
		assert_true(slice_starts(slice_str(target), SLICE("/events?since=0.000000000&")));
		assert_int_equal(last_count, 0);
		list = "[{},{}]";
		event("{\"Type\":\"container\",\"Action\":\"start\",\"timeNano\":"
		      "1700000000000000001}");
		unsigned before = listed;
		until(&listed, before + 1);
		assert_int_equal(last_count, 2);
		if (seed == 0) { /* without faults */
			before = listed;
			until(&listed, before + 1);
			assert_int_equal(asked, listed);
			assert_int_equal(event_requests, 1);
		}
		finish();
	}
}

/* What does not matter asks for nothing. */
static void noise(void **state)
{
	(void)state;
	start(0);
	until(&listed, 3); /* the next one would come by itself after 2.5 s */
	unsigned before = asked;
	event("{\"Action\":\"exec_start: x\",\"timeNano\":7}\n{\"Action\":\"top\"}");
	sim_turns(rx, 50);
	assert_int_equal(asked, before);
	uint64_t then = reactor_now(rx);
	event("{\"Action\":\"die\"}");
	until(&listed, before + 1);
	assert_true(reactor_now(rx) - then < 2000);
	finish();
}

/* After a loss it asks for what came since, and lists again. */
static void lost(void **state)
{
	(void)state;
	for (uint64_t seed = 0; seed < 8; seed++) {
		start(seed);
		until(&listed, 1);
		event("{\"Action\":\"die\",\"timeNano\":1700000000000000042}\n{\"Action\":\"die\","
		      "\"timeNano\":1600000000000000000}");
		until(&listed, 2);
		unsigned before = listed;
		if (seed % 2)
			sim_peer_end(events, -ECONNRESET);
		else
			sim_peer_shut(events);
		until(&event_requests, 2);
		assert_true(
		    slice_starts(slice_str(target), SLICE("/events?since=1700000000.000000042&")));
		until(&listed, before + 1);
		finish();
	}
}

/* An engine that is not there is asked again and again, but ever less often. */
static void down(void **state)
{
	(void)state;
	start(0);
	until(&listed, 1);
	broken = -ECONNREFUSED;
	sim_peer_end(events, -ECONNRESET);
	uint64_t then = reactor_now(rx);
	unsigned before = ups;
	while (reactor_now(rx) - then < 500)
		sim_turns(rx, 1);
	assert_int_equal(ups, before);
	broken = 0;
	until(&event_requests, 2);
	before = listed;
	until(&listed, before + 1);
	finish();
}

static void nonsense(void **state)
{
	static const char *const heads[] = {
		"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\n\r\nnot json",
		"HTTP/1.1 200 OK\r\n\r\n[1]",
		"nonsense\r\n\r\n",
	};
	const char *good = event_head;
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(heads); i++) {
		event_head = heads[i];
		start(i);
		until(&event_requests, 1);
		event_head = good;
		until(&event_requests, 2);
		until(&listed, 1);
		finish();
	}
	start(0); /* of the list it is not the end either */
	list = "{\"message\":\"x\"}";
	until(&asked, 1);
	list = "[7]";
	until(&listed, 1);
	assert_int_equal(last_count, 1);
	finish();
}

/* The guest goes away: the stream moves, without waiting for its end. */
static void moves(void **state)
{
	(void)state;
	start(0);
	until(&listed, 1);
	struct sim_peer *old = events;
	docker_follow_reconnect(follow);
	until(&event_requests, 2);
	assert_true(events != old);
	assert_true(old->code < 0 || old->eof);
	finish();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lists), cmocka_unit_test(noise),    cmocka_unit_test(lost),
		cmocka_unit_test(down),  cmocka_unit_test(nonsense), cmocka_unit_test(moves),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
