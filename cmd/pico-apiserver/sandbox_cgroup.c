/* Limits by control groups, version 1 or 2 (cgroups(7)), where this process may make some. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cmd/pico-apiserver/sandbox_init.h"

#define MOUNTED "/sys/fs/cgroup"

static int write_text(const char *dir, const char *file, const char *text)
{
	char path[PATH_MAX];
	if (snprintf(path, sizeof(path), "%s/%s", dir, file) >= (int)sizeof(path))
		return -1;
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd == -1)
		return -1;
	ssize_t n = write(fd, text, strlen(text));
	close(fd);
	return n == -1 ? -1 : 0;
}

static int write_number(const char *dir, const char *file, uint64_t v)
{
	char text[32];
	snprintf(text, sizeof(text), "%llu", (unsigned long long)v);
	return write_text(dir, file, text);
}

static unsigned limit(const char *dir, const char *controllers, const struct init_options *o)
{
	bool all = controllers[0] == '\0'; /* version 2 */
	unsigned got = 0;
	char text[64];
	if (o->memory && (all || strstr(controllers, "memory")) &&
	    write_number(dir, all ? "memory.max" : "memory.limit_in_bytes", o->memory) == 0)
		got |= CGROUP_MEMORY;
	/* No swap beside it, where that is counted. */
	if (got & CGROUP_MEMORY)
		write_number(dir, all ? "memory.swap.max" : "memory.memsw.limit_in_bytes",
			     all ? 0 : o->memory);
	if (o->pids && (all || strstr(controllers, "pids")) &&
	    write_number(dir, "pids.max", o->pids) == 0)
		got |= CGROUP_PIDS;
	if (o->cpu_millis && all) {
		snprintf(text, sizeof(text), "%u 100000", o->cpu_millis * 100);
		if (write_text(dir, "cpu.max", text) == 0)
			got |= CGROUP_CPU;
	} else if (o->cpu_millis && strncmp(controllers, "cpu", 3) == 0 &&
		   write_number(dir, "cpu.cfs_quota_us", o->cpu_millis * 100) == 0) {
		got |= CGROUP_CPU;
	}
	return got;
}

/* The places where a group of that name could be, for one line of /proc/self/cgroup; false at the
 * end. */
static bool candidate(unsigned i, const char *controllers, const char *own, const char *name,
		      char *out, size_t n)
{
	bool v2 = controllers[0] == '\0';
	char parent[PATH_MAX];
	if (i > 1 || (v2 && access(MOUNTED "/cgroup.controllers", F_OK) == -1))
		return false;
	snprintf(parent, sizeof(parent), "%s", i == 0 ? own : "");
	char *slash = strrchr(parent, '/');
	if (v2 &&
	    slash) /* beside us: a group with processes of its own has no children with limits */
		*slash = '\0';
	return snprintf(out, n, MOUNTED "/%s%s/pico-%s", controllers,
			strcmp(parent, "/") == 0 ? "" : parent, name) < (int)n;
}

/* Calls each for every line's controllers ("" for version 2) and path. */
static void for_each_hierarchy(void (*each)(const char *controllers, const char *own, void *arg),
			       void *arg)
{
	char line[PATH_MAX + 64];
	FILE *f = fopen("/proc/self/cgroup", "re");
	while (f && fgets(line, sizeof(line), f)) {
		char *controllers = strchr(line, ':'), *own;
		line[strcspn(line, "\n")] = '\0';
		if (!controllers || !(own = strchr(++controllers, ':')))
			continue;
		*own++ = '\0';
		if (controllers[0] == '\0' || strstr(controllers, "memory") ||
		    strstr(controllers, "pids") || strncmp(controllers, "cpu", 3) == 0)
			each(controllers, own, arg);
	}
	if (f)
		fclose(f);
}

struct joining {
	const struct init_options *o;
	unsigned got;
};

static void join_one(const char *controllers, const char *own, void *arg)
{
	struct joining *j = arg;
	char dir[PATH_MAX];
	for (unsigned i = 0; candidate(i, controllers, own, j->o->name, dir, sizeof(dir)); i++) {
		if (mkdir(dir, 0755) == -1 && errno != EEXIST)
			continue;
		unsigned got = limit(dir, controllers, j->o);
		if (got && write_text(dir, "cgroup.procs", "0") == 0) {
			j->got |= got;
			return;
		}
		rmdir(dir);
	}
}

unsigned sandbox_cgroup_join(const struct init_options *o)
{
	struct joining j = { o, 0 };
	for_each_hierarchy(join_one, &j);
	return j.got;
}

struct removing {
	const char *name;
	bool busy;
};

static void remove_one(const char *controllers, const char *own, void *arg)
{
	struct removing *r = arg;
	char dir[PATH_MAX];
	for (unsigned i = 0; candidate(i, controllers, own, r->name, dir, sizeof(dir)); i++)
		if (rmdir(dir) == -1 && errno == EBUSY)
			r->busy = true;
}

int sandbox_cgroup_remove(const char *name)
{
	struct removing r = { name, false };
	for_each_hierarchy(remove_one, &r);
	return r.busy ? -EBUSY : 0;
}
