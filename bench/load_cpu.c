/* What the measured time cost: CPU clocks of whole process trees, latencies. */
#include <dirent.h>
#include <time.h>
#include <unistd.h>

#include "bench/load.h"

enum { SAMPLES_MAX = 8 << 20 };

/* A clock of another process with ns, all its threads: clock_getcpuclockid(3). */
static uint64_t cpu_process(int pid)
{
	clockid_t clock;
	struct timespec t;
	if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &t) == -1)
		return 0;
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* cutime and cstime of /proc/PID/stat, fields 16 and 17: children that were waited for. */
static uint64_t cpu_waited(int pid)
{
	char path[64], text[1024];
	unsigned long long ticks = 0;
	long a, b;
	FILE *f;
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "re");
	if (!f)
		return 0;
	text[fread(text, 1, sizeof(text) - 1, f)] = 0;
	fclose(f);
	char *p = strrchr(text, ')'); /* the name may hold anything */
	if (p && sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %ld %ld", &a,
			&b) == 2)
		ticks = (unsigned long long)(a + b);
	return ticks * 1000000000 / (unsigned long long)sysconf(_SC_CLK_TCK);
}

uint64_t cpu_tree(int pid)
{
	uint64_t sum = cpu_process(pid) + cpu_waited(pid);
	char path[64];
	struct dirent *d;
	DIR *dir;
	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	if (!dir)
		return sum;
	while ((d = readdir(dir))) { // NOLINT(concurrency-mt-unsafe)
		char list[384];
		int child;
		FILE *f;
		if (d->d_name[0] == '.')
			continue;
		snprintf(list, sizeof(list), "%s/%s/children", path, d->d_name);
		f = fopen(list, "re");
		while (f && fscanf(f, "%d", &child) == 1)
			sum += cpu_tree(child);
		if (f)
			fclose(f);
	}
	closedir(dir);
	return sum;
}

static uint64_t cpu_own(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

void window_begin(void)
{
	for (size_t i = 0; i < load.pids.n; i++)
		load.cpu[i] = cpu_tree(atoi(load.pids.v[i]));
	load.own_cpu = cpu_own();
	load.t0 = now_ns();
}

void window_end(void)
{
	load.t1 = now_ns();
	load.own_cpu = cpu_own() - load.own_cpu;
	for (size_t i = 0; i < load.pids.n; i++)
		load.cpu[i] = cpu_tree(atoi(load.pids.v[i])) - load.cpu[i];
}

void window_print(void)
{
	printf("\"seconds\":%.6f,\"load_cpu\":%.6f,\"cpu\":[", (double)(load.t1 - load.t0) / 1e9,
	       (double)load.own_cpu / 1e9);
	for (size_t i = 0; i < load.pids.n; i++)
		printf("%s%.6f", i ? "," : "", (double)load.cpu[i] / 1e9);
	printf("]");
}

void samples_add(struct samples *s, uint64_t ns)
{
	if (s->n == s->cap) {
		if (s->cap == SAMPLES_MAX)
			return;
		s->cap = s->cap ? s->cap * 2 : 1 << 16;
		s->ns = xrealloc(s->ns, s->cap * sizeof(*s->ns));
	}
	s->ns[s->n++] = (uint32_t)MIN(ns, (uint64_t)UINT32_MAX);
}

static int by_size(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

static double quantile_us(const struct samples *s, double q)
{
	size_t i = (size_t)(q * (double)s->n);
	return s->n ? s->ns[MIN(i, s->n - 1)] / 1e3 : 0;
}

void samples_print(struct samples *s)
{
	if (s->n)
		qsort(s->ns, s->n, sizeof(*s->ns), by_size);
	printf("\"p50_us\":%.2f,\"p99_us\":%.2f,\"p999_us\":%.2f", quantile_us(s, 0.5),
	       quantile_us(s, 0.99), quantile_us(s, 0.999));
}
