/*
 * Bulk: every stream sends as fast as it goes, up, down or both. Then its first way ends (half
 * close); only when the far side has seen that, a tail is sent on the other way, which ends, too.
 * So each stream shows that all bytes came, in order, and that a half close keeps the rest going.
 */
#include <errno.h>
#include <sys/socket.h>

#include "bench/load.h"

enum { TAIL_ADDED = 1, SHORT = 2, HALF_LOST = 4, OVER = 8 };

static bool active[2], stopped;
static unsigned over;
static uint64_t arrived;

/* Which way of a stream ends first. */
static int first_way(const struct stream *s)
{
	if (active[UP] && active[DOWN])
		return s->index % 2 ? DOWN : UP;
	return active[UP] ? UP : DOWN;
}

/* A way broke. It may, for a relay that knows no half close, once the other way has ended. */
static void broke(struct stream *s, int way, const char *how)
{
	int first = first_way(s);
	s->way[way].dead = true;
	if (way != first && s->way[first].fin) {
		s->state |= HALF_LOST;
		return;
	}
	s->way[!way].dead = true; /* the order of the two ends is lost */
	if (!(s->state & SHORT)) {
		s->state |= SHORT;
		fprintf(stderr, "load: stream %u %s: %s after %llu of %llu bytes\n", s->index,
			way == UP ? "up" : "down", how, (unsigned long long)s->way[way].got,
			(unsigned long long)s->way[way].sent);
	}
}

/* Both return whether there may be more to do at once. */
static bool receive(struct side *e)
{
	int way = !e->which;
	struct way *w = &e->stream->way[way];
	ssize_t r;
	if (w->eof || w->dead)
		return false;
	r = net_recv(e);
	if (r > 0) {
		arrived += (uint64_t)r;
		return true;
	}
	if (r == -EAGAIN)
		return false;
	if (r < 0)
		broke(e->stream, way, strerror((int)-r));
	else if (!w->fin)
		broke(e->stream, way, "end of stream");
	else if (w->got != w->sent)
		broke(e->stream, way, "end of stream, bytes lost");
	else
		w->eof = true;
	return false;
}

static bool transmit(struct side *e)
{
	struct stream *s = e->stream;
	struct way *w = &s->way[e->which];
	int first = first_way(s);
	ssize_t r;
	if (w->fin || w->dead)
		return false;
	if (e->which != first && s->way[first].eof && w->sent == w->limit &&
	    !(s->state & TAIL_ADDED)) {
		s->state |= TAIL_ADDED;
		w->limit += TAIL_BYTES;
	}
	if (w->sent < w->limit) {
		r = net_send(e, w->limit - w->sent);
		if (r < 0 && r != -EAGAIN)
			broke(s, e->which, strerror((int)-r));
		return r > 0;
	}
	if (stopped && (e->which == first || s->state & TAIL_ADDED)) {
		w->fin = true;
		shutdown(e->fd, SHUT_WR);
	}
	return false;
}

static void stream_over(struct stream *s)
{
	if (s->state & OVER)
		return;
	s->state |= OVER;
	over++;
	for (int i = 0; i < 2; i++) {
		if (s->side[i])
			net_close(s->side[i]);
	}
}

static void on_run(struct side *e)
{
	struct stream *s;
	bool more;
	if (e->which == CLIENT ? !net_send_head(e) : !e->stream && !net_take_head(e))
		return;
	s = e->stream;
	more = receive(e);
	more |= transmit(e);
	if ((s->way[UP].eof || s->way[UP].dead) && (s->way[DOWN].eof || s->way[DOWN].dead))
		stream_over(s);
	else if (more)
		net_again(e);
}

/* Everybody may send up to amount; or, with 0, must stop. */
static void set_limits(uint64_t amount)
{
	for (int i = 0; i < load.conns; i++) {
		struct stream *s = &load.stream[i];
		for (int way = 0; way < 2; way++) {
			if (active[way])
				s->way[way].limit = amount ? amount : s->way[way].sent;
			if (s->side[way])
				net_again(s->side[way]);
		}
	}
}

static void mark(void)
{
	for (int i = 0; i < load.conns; i++) {
		for (int way = 0; way < 2; way++)
			load.stream[i].way[way].mark = load.stream[i].way[way].got;
	}
	window_begin();
}

/* What each stream moved in the measured time. */
static void measure(uint64_t *moved)
{
	window_end();
	for (int i = 0; i < load.conns; i++) {
		const struct way *w = load.stream[i].way;
		moved[i] = w[UP].got - w[UP].mark + w[DOWN].got - w[DOWN].mark;
	}
}

static void run_for_time(uint64_t *moved)
{
	uint64_t start = now_ns(), stop_at = 0;
	set_limits(UINT64_MAX);
	while (over < (unsigned)load.conns && !load.timed_out) {
		uint64_t now = now_ns();
		if (!load.t0 && now - start >= load.warm_ms * 1000000)
			mark();
		else if (load.t0 && !stopped && now - load.t0 >= load.time_ms * 1000000) {
			measure(moved);
			stopped = true;
			stop_at = now;
			set_limits(0);
		}
		if (stopped && now - stop_at > load.grace_ms * 1000000)
			break;
		net_turn(5);
	}
}

static void run_amount(uint64_t *moved)
{
	uint64_t all = load.amount * (uint64_t)load.conns * (unsigned)(active[UP] + active[DOWN]);
	stopped = true;
	mark();
	set_limits(load.amount);
	while (over < (unsigned)load.conns && !load.timed_out) {
		if (!load.t1 && arrived >= all)
			measure(moved);
		if (load.t1 && now_ns() - load.t1 > load.grace_ms * 1000000)
			break;
		net_turn(5);
	}
}

static int report(const uint64_t *moved)
{
	uint64_t sum = 0, least = UINT64_MAX, most = 0;
	unsigned bad = 0, lost = 0, half = 0, unfinished = (unsigned)load.conns - over;
	double squares = 0;
	for (int i = 0; i < load.conns; i++) {
		struct stream *s = &load.stream[i];
		if (!(s->state & OVER) && i < 4) /* a few say it for all */
			fprintf(
			    stderr,
			    "load: stream %u: no end; up %llu of %llu, down %llu of %llu bytes\n",
			    s->index, (unsigned long long)s->way[UP].got,
			    (unsigned long long)s->way[UP].sent,
			    (unsigned long long)s->way[DOWN].got,
			    (unsigned long long)s->way[DOWN].sent);
		bad += s->way[UP].bad || s->way[DOWN].bad;
		lost += (s->state & SHORT) != 0;
		half += (s->state & (HALF_LOST | SHORT)) == HALF_LOST;
		sum += moved[i];
		squares += (double)moved[i] * (double)moved[i];
		least = MIN(least, moved[i]);
		most = MAX(most, moved[i]);
	}
	double seconds = (double)(load.t1 - load.t0) / 1e9;
	printf("{\"mode\":\"%s\",\"conns\":%d,\"bytes\":%llu,\"mb_per_s\":%.1f,\"jain\":%.4f,"
	       "\"least\":%llu,\"most\":%llu,\"bad\":%u,\"short\":%u,\"half_close_lost\":%u,"
	       "\"unfinished\":%u,\"errors\":%u,",
	       active[UP] && active[DOWN] ? "both" : (active[UP] ? "up" : "down"), load.conns,
	       (unsigned long long)sum, load.t1 ? (double)sum / 1e6 / seconds : 0,
	       squares > 0 ? (double)sum * (double)sum / squares / load.conns : 0,
	       (unsigned long long)least, (unsigned long long)most, bad, lost, half, unfinished,
	       load.errors);
	window_print();
	printf("}\n");
	return load.timed_out ? 3 : (bad || lost || half || unfinished || load.errors || sum == 0);
}

int bulk_main(bool up, bool down)
{
	uint64_t *moved = xcalloc((size_t)load.conns, sizeof(*moved));
	int r;
	active[UP] = up;
	active[DOWN] = down;
	load.on_run = on_run;
	if (!net_connect_all()) {
		fprintf(stderr, "load: only %u of %d connections came through\n", load.known,
			load.conns);
		return 3;
	}
	if (load.amount)
		run_amount(moved);
	else
		run_for_time(moved);
	if (load.t0 && !load.t1)
		measure(moved);
	r = report(moved);
	free(moved);
	return r;
}
