#include "proto/sync/trash.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEPTH_MAX = 200 };

static int64_t now_ms(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static DIR *dir_open(int at, const char *name)
{
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *d = fd == -1 ? NULL : fdopendir(fd);
	if (!d && fd != -1)
		close(fd);
	return d;
}

static bool is_dots(const char *name)
{
	return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

static int batch_order(const void *a, const void *b)
{
	return strcmp(((const struct trash_batch *)a)->name, ((const struct trash_batch *)b)->name);
}

static struct trash_batch *batch_add(struct trash *t, const char *name, time_t begun)
{
	if (t->n == t->cap) {
		t->cap = t->cap ? t->cap * 2 : 16;
		t->v = xrealloc(t->v, t->cap * sizeof(*t->v));
	}
	struct trash_batch *b = &t->v[t->n++];
	*b = (struct trash_batch){ .begun = begun };
	snprintf(b->name, sizeof(b->name), "%s", name);
	return b;
}

/* The time that a batch's name tells; 0 if it is no batch of ours. */
static time_t batch_time(const char *name)
{
	struct tm tm = { 0 };
	const char *end = strptime(name, "%Y%m%d-%H%M%S", &tm);
	if (!end || (*end && *end != '.'))
		return 0;
	time_t at = timegm(&tm);
	return at > 0 ? MIN(at, time(NULL)) : 0; /* a clock that was set back must not keep it */
}

int trash_init(struct trash *t, int dir, uint64_t bytes_max)
{
	*t = (struct trash){ .dir = dir, .now = -1, .bytes_max = bytes_max };
	DIR *d = dir_open(dir, ".");
	if (!d) {
		int e = errno;
		trash_end(t);
		return -e;
	}
	for (struct dirent *e; (e = readdir(d));) {
		time_t begun = batch_time(e->d_name);
		if (begun && strlen(e->d_name) < sizeof(t->v->name))
			batch_add(t, e->d_name, begun);
	}
	closedir(d);
	if (t->n)
		qsort(t->v, t->n, sizeof(*t->v), batch_order);
	return 0;
}

void trash_end(struct trash *t)
{
	if (t->now != -1)
		close(t->now);
	if (t->dir != -1)
		close(t->dir);
	free(t->v);
	*t = (struct trash){ .dir = -1, .now = -1 };
}

static int batch_begin(struct trash *t, time_t at)
{
	struct tm tm;
	char day[32], name[48];
	gmtime_r(&at, &tm);
	strftime(day, sizeof(day), "%Y%m%d-%H%M%S", &tm);
	snprintf(name, sizeof(name), "%s", day);
	for (unsigned i = 1; mkdirat(t->dir, name, 0700) == -1; i++) {
		if (errno != EEXIST || i > 9999)
			return -errno;
		snprintf(name, sizeof(name), "%s.%04u", day, i);
	}
	t->now = openat(t->dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (t->now == -1)
		return -errno;
	batch_add(t, name, at)->counted = true;
	return 0;
}

static bool batch_full(const struct trash *t, time_t at)
{
	const struct trash_batch *b = &t->v[t->n - 1];
	return b->files >= TRASH_BATCH || b->bytes >= t->bytes_max / 16 ||
	       at >= b->begun + TRASH_SPAN || at < b->begun;
}

static void name_escape(const char *path, char *out, size_t room)
{
	size_t n = 0, from = strlen(path);
	/* From the end, as much as fits. */
	while (from > 0) {
		size_t need = path[from - 1] == '/' || path[from - 1] == '%' ? 3 : 1;
		if (n + need >= room)
			break;
		n += need;
		from--;
	}
	for (; path[from]; from++) {
		if (path[from] == '/' || path[from] == '%') {
			memcpy(out, path[from] == '/' ? "%2F" : "%25", 3);
			out += 3;
		} else {
			*out++ = path[from];
		}
	}
	*out = '\0';
}

int trash_name(struct trash *t, const char *path, char name[TRASH_NAME])
{
	time_t at = time(NULL);
	struct tm tm;
	if (t->now != -1 && batch_full(t, at)) {
		close(t->now);
		t->now = -1;
	}
	if (t->now == -1) {
		int r = batch_begin(t, at);
		if (r < 0)
			return r;
	}
	gmtime_r(&at, &tm);
	int n = snprintf(name, TRASH_NAME, "%02d%02d%02d-%llu-", tm.tm_hour, tm.tm_min, tm.tm_sec,
			 (unsigned long long)++t->seq);
	name_escape(path, name + n, TRASH_NAME - (size_t)n);
	return t->now;
}

void trash_added(struct trash *t, uint64_t bytes)
{
	BUG_ON(t->n == 0);
	struct trash_batch *b = &t->v[t->n - 1];
	b->files++;
	b->bytes += bytes;
	t->files++;
	t->bytes += bytes;
}

static void batch_count(struct trash *t, struct trash_batch *b)
{
	DIR *d = dir_open(t->dir, b->name);
	for (struct dirent *e; d && (e = readdir(d));) {
		struct stat st;
		if (is_dots(e->d_name) ||
		    fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == -1)
			continue;
		b->files++;
		b->bytes += (uint64_t)st.st_blocks * 512;
	}
	if (d)
		closedir(d);
	b->counted = true;
	t->files += b->files;
	t->bytes += b->bytes;
}

/* True when all below is gone; false when the time is up, or something refuses. */
static bool remove_all(int at, const char *name, int64_t until, unsigned depth)
{
	if (unlinkat(at, name, 0) == 0 || errno == ENOENT)
		return true;
	if (errno != EISDIR && errno != EPERM)
		return false;
	DIR *d = depth < DEPTH_MAX ? dir_open(at, name) : NULL;
	bool all = d != NULL;
	for (struct dirent *e; all && (e = readdir(d));)
		if (!is_dots(e->d_name))
			all = remove_all(dirfd(d), e->d_name, until, depth + 1) && now_ms() < until;
	if (d)
		closedir(d);
	return unlinkat(at, name, AT_REMOVEDIR) == 0;
}

/* The oldest batch goes. */
static bool batch_drop(struct trash *t, int64_t until)
{
	struct trash_batch *b = &t->v[0];
	if (t->n == 1 && t->now != -1) {
		close(t->now);
		t->now = -1;
	}
	bool gone = remove_all(t->dir, b->name, until, 0);
	if (!gone && now_ms() >= until)
		return false;
	t->files -= b->files;
	t->bytes -= b->bytes;
	t->n--;
	memmove(t->v, t->v + 1, t->n * sizeof(*t->v));
	return gone;
}

static bool trash_over(const struct trash *t)
{
	return t->n && (t->files > TRASH_FILES || t->bytes > t->bytes_max ||
			t->v[0].begun + TRASH_SPAN + TRASH_AGE <= time(NULL));
}

void trash_tidy(struct trash *t, unsigned ms)
{
	int64_t until = now_ms() + ms;
	if (t->dir == -1)
		return;
	for (size_t i = 0; i < t->n && now_ms() < until; i++)
		if (!t->v[i].counted)
			batch_count(t, &t->v[i]);
	while (trash_over(t) && now_ms() < until)
		if (!batch_drop(t, until))
			break;
}
