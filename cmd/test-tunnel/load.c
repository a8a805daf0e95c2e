#include "cmd/test-tunnel/load.h"

enum { REASONS = 5 };

struct load {
	struct reactor *rx;
	const struct plan *plan;
	size_t count, started, done, failed, passed;
	uint64_t *times[TRIAL_TIMES]; /* of those that passed */
	struct {
		char *why;
		size_t n;
	} reasons[REASONS];
	bool over;
};

static void start(struct load *l);

static void count_reason(struct load *l, const char *why)
{
	for (size_t i = 0; i < REASONS; i++) {
		if (!l->reasons[i].why)
			l->reasons[i].why = xstrdup(why);
		if (strcmp(l->reasons[i].why, why) == 0) {
			l->reasons[i].n++;
			return;
		}
	}
}

static void on_ended(void *arg, const char *why, const uint64_t us[TRIAL_TIMES])
{
	struct load *l = arg;
	l->done++;
	if (why) {
		l->failed++;
		count_reason(l, why);
	} else {
		for (size_t i = 0; i < TRIAL_TIMES; i++)
			l->times[i][l->passed] = us[i];
		l->passed++;
	}
	if (l->done == l->count)
		l->over = true;
	else if (l->started < l->count)
		start(l);
}

static void start(struct load *l)
{
	l->started++;
	trial_new(l->rx, l->plan, on_ended, l);
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

/* Nearest rank: the smallest time that p percent of all are not above. */
static double percentile(const uint64_t *sorted, size_t n, size_t p)
{
	size_t rank = (n * p + 99) / 100;
	return (double)sorted[rank ? rank - 1 : 0] / 1000;
}

static void print_row(const char *name, uint64_t *us, size_t n)
{
	uint64_t sum = 0;
	qsort(us, n, sizeof(*us), compare);
	for (size_t i = 0; i < n; i++)
		sum += us[i];
	printf("%-8s %9.1f %9.1f %9.1f %9.1f %9.1f %9.1f\n", name, (double)us[0] / 1000,
	       (double)sum / (double)n / 1000, percentile(us, n, 50), percentile(us, n, 95),
	       percentile(us, n, 99), (double)us[n - 1] / 1000);
}

static void summary(struct load *l, size_t at_once, double seconds)
{
	static const char *const names[TRIAL_TIMES] = { "tunnel", "ssh", "command", "total" };
	printf(
	    "--- Load Test ---\n%zu runs, %zu at once: %zu passed, %zu failed, %.2f s, %.1f runs "
	    "per second\n",
	    l->count, at_once, l->passed, l->failed, seconds, (double)l->count / seconds);
	if (l->passed)
		printf("%-8s %9s %9s %9s %9s %9s %9s\n", "ms", "min", "avg", "p50", "p95", "p99",
		       "max");
	for (size_t i = 0; i < TRIAL_TIMES && l->passed; i++)
		print_row(names[i], l->times[i], l->passed);
	printf("--- End Load Test ---\n");
	fflush(stdout);
	for (size_t i = 0; i < REASONS && l->reasons[i].why; i++)
		fprintf(stderr, "Error: %s (%zu of %zu runs)\n", l->reasons[i].why, l->reasons[i].n,
			l->count);
}

size_t load_run(struct reactor *rx, const struct plan *plan, size_t count, size_t at_once)
{
	struct load l = { .rx = rx, .plan = plan, .count = count };
	uint64_t began = reactor_now(rx);
	for (size_t i = 0; i < TRIAL_TIMES; i++)
		l.times[i] = xcalloc(count, sizeof(*l.times[i]));
	for (size_t i = 0; i < MIN(at_once, count); i++)
		start(&l);
	reactor_run_until(rx, &l.over);
	summary(&l, MIN(at_once, count), (double)MAX(reactor_now(rx) - began, 1) / 1000);
	for (size_t i = 0; i < TRIAL_TIMES; i++)
		free(l.times[i]);
	for (size_t i = 0; i < REASONS; i++)
		free(l.reasons[i].why);
	return l.failed;
}
