#include "cmd/tsctl/bind_check.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/docker/binds.h"
#include "reactor/buf.h"
#include "reactor/child.h"
#include "reactor/err.h"

enum { ANSWER_MAX = 4 << 20 };

/* --- the child --- */

static void answer(enum bind_kind kind, const char *text)
{
	printf("%c%s%c", kind, text, '\0');
}

static bool is_system(const char *path)
{
	static const char *const roots[] = { "/proc", "/sys", "/dev", "/run", "/var/run" };
	for (size_t i = 0; i < ARRAY_LEN(roots); i++)
		if (docker_path_below(roots[i], path))
			return true;
	return false;
}

/* As dockerd words it (moby volume/mounts). */
static void answer_error(const char *doing, const char *path, int error)
{
	char *text = xasprintf("%s '%s': %s", doing, path, strerrordesc_np(error));
	answer(BIND_ERROR, text);
	free(text);
}

/* 0 or an errno. */
static int make_dirs(const char *path)
{
	char *copy = xstrdup(path);
	int e = 0;
	for (char *p = copy + 1; !e; p++) {
		char c = *p;
		if (c && c != '/')
			continue;
		*p = '\0';
		struct stat st;
		if (mkdir(copy, 0755) == -1 && (errno != EEXIST || stat(copy, &st) == -1))
			e = errno;
		*p = c;
		if (!c)
			break;
	}
	free(copy);
	return e;
}

static const char *special(mode_t mode)
{
	return S_ISSOCK(mode) ? "socket" : S_ISFIFO(mode) ? "FIFO" : "device";
}

static void look(enum bind_missing missing, const char *path)
{
	char real[PATH_MAX];
	struct stat st;
	int e = 0;
	if (strcmp(path, "/") == 0 || is_system(path)) {
		answer(path[1] ? BIND_SYSTEM : BIND_ROOT, "");
		return;
	}
	bool there = realpath(path, real) != NULL;
	if (!there && errno == ENOENT && missing == BIND_MISSING_SAY) {
		answer(BIND_NONE, "");
		return;
	}
	if (!there && errno == ENOENT && (e = make_dirs(path)) != 0) {
		answer_error("error while creating mount source path", path, e);
		return;
	}
	if ((!there && !realpath(path, real)) || stat(real, &st) == -1)
		answer_error("error while looking at mount source path", path, errno);
	else if (!real[1] || is_system(real))
		answer(real[1] ? BIND_SYSTEM : BIND_ROOT, "");
	else if (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode))
		answer(BIND_SPECIAL, special(st.st_mode));
	else if (access(real, S_ISDIR(st.st_mode) ? R_OK | X_OK : R_OK) == -1)
		answer_error("error while reading mount source path", path, errno);
	else
		answer(S_ISDIR(st.st_mode) ? BIND_DIR : BIND_FILE, real);
}

int cmd_bind_check(int argc, char **argv)
{
	umask(022);
	for (int i = 1; i + 1 < argc; i += 2)
		look((enum bind_missing)argv[i][0], argv[i + 1]);
	return fflush(stdout) == 0 ? 0 : 1;
}

/* --- its parent --- */

struct bind_check {
	struct reactor *rx;
	struct task task;
	struct timer timer;
	struct child *child;
	struct stream *out;
	struct buf in;
	size_t n;
	bool ended, late;
	bind_checked *done;
	void *arg;
};

void bind_check_free(struct bind_check *c)
{
	if (!c)
		return;
	task_cancel(&c->task);
	timer_clear(c->rx, &c->timer);
	stream_close(c->out, 0);
	child_free(c->child);
	buf_end(&c->in);
	free(c);
}

static bool take_answers(struct bind_check *c, struct bind_found *found)
{
	struct slice rest = buf_data(&c->in), one;
	for (size_t i = 0; i < c->n; i++) {
		if (!slice_cut(rest, '\0', &one, &rest) || one.n == 0)
			return false;
		found[i] = (struct bind_found){ (enum bind_kind)one.p[0], one.p + 1 };
	}
	return rest.n == 0;
}

static void finish(struct bind_check *c)
{
	struct bind_found *found = xcalloc(c->n, sizeof(*found));
	bind_checked *done = c->done;
	void *arg = c->arg;
	struct buf in = c->in;
	const char *why = NULL;
	if (c->late)
		why = "the file system of a bind source does not answer";
	else if (!take_answers(c, found))
		why = "cannot look at the bind sources: the child that does it has failed";
	buf_init(&c->in, 0); /* the answers lie in it */
	if (c->late)
		child_kill(c->child, SIGKILL);
	bind_check_free(c);
	done(arg, why ? NULL : found, why);
	buf_end(&in);
	free(found);
}

static void check_run(struct task *t)
{
	struct bind_check *c = container_of(t, struct bind_check, task);
	while (c->out) {
		struct iovec room = buf_room(&c->in);
		ssize_t n = room.iov_len ? stream_read(c->out, room.iov_base, room.iov_len) : 0;
		if (n == -EAGAIN)
			break;
		if (n > 0) {
			buf_added(&c->in, (size_t)n);
			continue;
		}
		stream_close(c->out, 0);
		c->out = NULL;
	}
	if (c->late || (c->ended && !c->out))
		finish(c);
}

static void check_ended(void *arg, const struct child_status *status)
{
	struct bind_check *c = arg;
	c->ended = true;
	if (status->exec_errno) {
		stream_close(c->out, 0);
		c->out = NULL;
	}
	task_wake(c->rx, &c->task);
}

static void check_late(struct timer *t)
{
	struct bind_check *c = container_of(t, struct bind_check, timer);
	c->late = true;
	task_wake(c->rx, &c->task);
}

struct bind_check *bind_check_new(struct reactor *rx, const char *const *paths,
				  const enum bind_missing *missing, size_t n, uint64_t ms,
				  bind_checked *done, void *arg)
{
	struct bind_check *c = xcalloc(1, sizeof(*c));
	char **argv = xcalloc(2 * n + 3, sizeof(char *)), *envp[] = { NULL };
	char how[2][2] = { { BIND_MISSING_MAKE }, { BIND_MISSING_SAY } };
	int err = 0;
	argv[0] = (char[]){ "/proc/self/exe" };
	argv[1] = (char[]){ BIND_CHECK_NAME };
	for (size_t i = 0; i < n; i++) {
		argv[2 * i + 2] = how[missing[i] == BIND_MISSING_SAY];
		argv[2 * i + 3] = (char *)(uintptr_t)paths[i];
	}
	c->rx = rx;
	c->n = n;
	c->done = done;
	c->arg = arg;
	buf_init(&c->in, ANSWER_MAX);
	task_init(&c->task, check_run);
	timer_init(&c->timer, check_late);
	c->child = child_spawn(rx, &(struct child_options){ .argv = argv, .envp = envp }, NULL,
			       check_ended, c, &err);
	free(argv);
	if (c->child) {
		timer_set(rx, &c->timer, ms);
		c->out = child_stdout(c->child);
		stream_bind(c->out, &c->task);
	} else {
		c->ended = true;
		task_wake(rx, &c->task);
	}
	return c;
}
