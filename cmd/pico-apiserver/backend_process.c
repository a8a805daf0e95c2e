/* Backend "process": each sandbox is a process with namespaces of its own (sandbox_init.c). Here is
 * what the server has to do with it. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cmd/pico-apiserver/process_box.h"
#include "reactor/child.h"
#include "reactor/err.h"
#include "reactor/log.h"

enum {
	/* Nobody else's: systemd's UIDS-GIDS.md has the ranges that are in use. Limits and keyrings
	 * are per uid on the whole host, so two sandboxes must not have the same one. */
	UID_FIRST = 0x70000000,
	UID_MASK = 0x07ffffff,
	CLEAN_TRIES = 100,
	CLEAN_MS = 20,
	WHY_MAX = 512
};

static void box_free(struct box *b)
{
	struct process_box *x = container_of(b, struct process_box, box);
	struct reactor *rx = x->backend->b.rx;
	task_cancel(&x->task);
	timer_clear(rx, &x->timer);
	child_free(x->child);
	stream_close(x->err, 0);
	handle_close(&x->control);
	handle_close(&x->pidfd);
	free(x->dir);
	free(x->name);
	free(x->why);
	free(x);
}

/* --- its end --- */

/* What the box leaves behind. -EBUSY: control groups are not empty yet. */
static int clean(struct process_box *x)
{
	static const char *const files[] = { SANDBOX_CONTROL, "id" };
	int r = sandbox_cgroup_remove(x->name);
	if (r < 0)
		return r;
	int dir = open(x->dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir == -1)
		return errno == ENOENT ? 0 : -errno;
	for (size_t i = 0; i < ARRAY_LEN(files); i++)
		unlinkat(dir, files[i], 0);
	unlinkat(dir, "root", AT_REMOVEDIR);
	close(dir);
	return rmdir(x->dir) == -1 && errno != ENOENT ? -errno : 0;
}

static void try_clean(struct timer *t)
{
	struct process_box *x = container_of(t, struct process_box, timer);
	int r = clean(x);
	if (r < 0 && --x->tries > 0) {
		timer_set(x->backend->b.rx, t, CLEAN_MS);
		return;
	}
	box_done *done = x->done;
	char *why = r < 0 ? xasprintf("cannot remove %s: %s", x->dir, err_text(r)) : NULL;
	x->done = NULL;
	if (done)
		done(x->arg, r, why);
	free(why);
}

static void begin_clean(struct process_box *x)
{
	x->state = BOX_CLEANING;
	handle_close(&x->control);
	handle_close(&x->pidfd);
	x->tries = CLEAN_TRIES;
	timer_set(x->backend->b.rx, &x->timer, 0);
}

static void destroy_now(struct process_box *x)
{
	if (x->pidfd.fd == -1 || pidfd_send_signal(x->pidfd.fd, SIGKILL, NULL, 0) == -1)
		begin_clean(x);
	else
		x->state = BOX_DYING; /* the rest when it is gone */
}

static void box_destroy(struct box *b, box_done *done, void *arg)
{
	struct process_box *x = container_of(b, struct process_box, box);
	x->done = done;
	x->arg = arg;
	x->unwanted = true;
	if (x->state != BOX_STARTING)
		destroy_now(x);
	else if (x->child) /* init dies with it, unless it is up: on_started goes on */
		child_kill(x->child, SIGKILL);
}

/* No word of it is to be trusted any more, and it has not been asked to go. */
static void box_lost(struct process_box *x, int code, const char *why)
{
	x->state = BOX_LOST;
	handle_close(&x->control);
	if (!x->unwanted)
		x->events.gone(x->events.arg, code, why);
}

/* --- its start --- */

static void attach(struct process_box *x)
{
	pid_t pid = 0;
	int fd = process_dial(x->dir, &pid);
	int pidfd = fd < 0 ? -1 : pidfd_open(pid, 0);
	struct init_request hello = { .kind = INIT_HELLO };
	/* If the connection still stands after pidfd_open, it is that very process; else the number
	 * may be another's by now. */
	if (pidfd == -1 || process_send(fd, &hello, sizeof(hello), NULL, 0) < 0 ||
	    handle_open(&x->pidfd, x->backend->b.rx, pidfd, &x->task) < 0) {
		if (fd >= 0)
			close(fd);
		if (pidfd >= 0)
			close(pidfd);
		if (x->unwanted)
			begin_clean(x);
		else
			box_lost(x, -ERR_NOT_FOUND, "the sandbox's process has ended");
		return;
	}
	handle_open(&x->control, x->backend->b.rx, fd, &x->task);
	x->state = BOX_GREETING;
	if (x->unwanted)
		destroy_now(x);
}

static void on_started(void *arg, const struct child_status *st)
{
	struct process_box *x = arg;
	char text[WHY_MAX] = "";
	ssize_t n = st->exec_errno ? 0 : stream_read(x->err, text, sizeof(text) - 1);
	bool failed = st->exec_errno || st->signal || st->exit_code;
	if (n > 0)
		text[n] = '\0';
	text[strcspn(text, "\n")] = '\0';
	stream_close(x->err, 0);
	x->err = NULL;
	child_free(x->child);
	x->child = NULL;
	if (!failed || x->unwanted)
		attach(x);
	else
		box_lost(x, -EIO, text[0] ? text : "the sandbox's process could not be started");
}

static int write_id(const char *dir, const char *id)
{
	char *path = xasprintf("%s/id", dir);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	ssize_t n = fd == -1 ? -1 : write(fd, id, strlen(id));
	int r = n == (ssize_t)strlen(id) ? 0 : -EIO;
	if (fd != -1)
		close(fd);
	free(path);
	return r;
}

static uint32_t uid_of(const char *id)
{
	return UID_FIRST + ((uint32_t)strtoul(id, NULL, 16) & UID_MASK); /* its first 8 digits */
}

static int spawn(struct process_box *x, const struct box_spec *spec)
{
	const struct backend_options *o = x->backend->b.options;
	char uid[16], expires[24], memory[24], pids[16], cpu[16], server[16];
	int err = 0;
	snprintf(uid, sizeof(uid), "%u", uid_of(spec->id));
	snprintf(expires, sizeof(expires), "%lld", (long long)spec->expires_at);
	snprintf(memory, sizeof(memory), "%llu", (unsigned long long)o->memory);
	snprintf(pids, sizeof(pids), "%u", o->pids);
	snprintf(cpu, sizeof(cpu), "%u", o->cpu_millis);
	snprintf(server, sizeof(server), "%d", (int)getpid());
	char *user = xstrdup(o->ssh_username);
	char *argv[] = { (char[]){ "/proc/self/exe" },
			 (char[]){ SANDBOX_INIT_NAME },
			 x->dir,
			 x->name,
			 user,
			 uid,
			 expires,
			 memory,
			 pids,
			 cpu,
			 server,
			 NULL };
	char *envp[] = { NULL };
	x->child =
	    child_spawn(x->backend->b.rx, &(struct child_options){ .argv = argv, .envp = envp },
			NULL, on_started, x, &err);
	free(user);
	if (!x->child)
		return err;
	struct stream *keys = child_stdin(x->child);
	if (spec->public_key) {
		char *line = xasprintf("%s\n", spec->public_key);
		stream_write(keys, line, strlen(line)); /* fits an empty pipe */
		free(line);
	}
	stream_close(keys, 0);
	x->err = child_stderr(x->child);
	return 0;
}

static void box_run(struct task *t)
{
	struct process_box *x = container_of(t, struct process_box, task);
	if (x->state == BOX_BORN) { /* could not even be started; or is to be adopted */
		if (x->why)
			box_lost(x, -EIO, x->why);
		else
			attach(x);
		return;
	}
	if (x->control.fd != -1 && (x->control.ready & READY_IN)) {
		struct init_reply r;
		ssize_t n = recv(x->control.fd, &r, sizeof(r), MSG_DONTWAIT);
		if (n == -1 && errno == EAGAIN)
			x->control.ready &= ~(unsigned)READY_IN;
		else if (n == (ssize_t)sizeof(r)) {
			task_wake(x->backend->b.rx, t);
			process_replied(x, &r);
			return;
		} else
			handle_close(&x->control);
	}
	if (x->pidfd.fd == -1 || !(x->pidfd.ready & READY_IN))
		return;
	if (x->state == BOX_DYING) {
		begin_clean(x);
	} else if (x->state != BOX_LOST && x->state != BOX_CLEANING) {
		handle_close(&x->pidfd);
		box_lost(x, -ERR_NOT_FOUND, "the sandbox's process has ended");
	}
}

static struct process_box *box_new(struct backend *b, const char *name,
				   const struct box_events *events)
{
	struct process_box *x = xcalloc(1, sizeof(*x));
	x->box.ops = b->ops;
	x->backend = container_of(b, struct process_backend, b);
	if (events)
		x->events = *events;
	x->name = xstrdup(name);
	x->dir = xasprintf("%s/%s", x->backend->boxes, name);
	x->control.fd = x->pidfd.fd = -1;
	task_init(&x->task, box_run);
	timer_init(&x->timer, try_clean);
	return x;
}

static struct box *box_create(struct backend *b, const struct box_spec *spec,
			      const struct box_events *events)
{
	struct process_box *x = box_new(b, spec->name, events);
	int r = mkdir(x->dir, 0700) == -1 ? -errno : write_id(x->dir, spec->id);
	if (r == 0) {
		x->state = BOX_STARTING;
		r = spawn(x, spec);
	}
	if (r < 0) {
		x->state = BOX_BORN;
		x->why = xasprintf("cannot start a sandbox in %s: %s", x->dir, err_text(r));
		task_wake(b->rx, &x->task);
	}
	return &x->box;
}

static struct box *box_adopt(struct backend *b, const struct box_spec *spec,
			     const struct box_events *events)
{
	struct process_box *x = box_new(b, spec->name, events);
	task_wake(b->rx, &x->task);
	return &x->box;
}

/* --- leftovers --- */

static void list(struct backend *b, void (*each)(void *arg, const struct box_found *),
		 box_done *done, void *arg)
{
	struct process_backend *p = container_of(b, struct process_backend, b);
	DIR *d = opendir(p->boxes);
	struct dirent *e;
	while (d && (e = readdir(d))) {
		char id[64] = "";
		if (e->d_name[0] == '.')
			continue;
		char *path = xasprintf("%s/%s/id", p->boxes, e->d_name);
		int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		ssize_t n = fd == -1 ? 0 : read(fd, id, sizeof(id) - 1);
		if (fd != -1)
			close(fd);
		free(path);
		id[n > 0 ? n : 0] = '\0';
		each(arg, &(struct box_found){ .id = id, .name = e->d_name });
	}
	if (d)
		closedir(d);
	done(arg, 0, NULL);
}

struct removal {
	struct box *box;
	box_done *done;
	void *arg;
};

static void on_removed(void *arg, int code, const char *why)
{
	struct removal *r = arg;
	if (code < 0)
		log_error("sandbox-remove error=%s", log_quote(slice_str(why)));
	if (r->done)
		r->done(r->arg, code, why);
	box_free(r->box);
	free(r);
}

static void remove_box(struct backend *b, const struct box_found *f, box_done *done, void *arg)
{
	struct process_box *x = box_new(b, f->name, NULL);
	struct removal *r = xcalloc(1, sizeof(*r));
	*r = (struct removal){ &x->box, done, arg };
	x->state = BOX_STARTING;
	box_destroy(&x->box, on_removed, r);
	x->state = BOX_BORN; /* attaches, and finds itself unwanted */
	task_wake(b->rx, &x->task);
}

static void close_backend(struct backend *b)
{
	struct process_backend *p = container_of(b, struct process_backend, b);
	rmdir(p->boxes); /* if there are none */
	free(p->boxes);
	free(p);
}

static const struct backend_ops ops = {
	.name = "process",
	.create = box_create,
	.adopt = box_adopt,
	.connect = process_connect,
	.pause = process_pause,
	.resume = process_resume,
	.destroy = box_destroy,
	.free = box_free,
	.list = list,
	.remove = remove_box,
	.run = process_run,
	.close = close_backend,
};

struct backend *backend_process_new(struct reactor *rx, const struct backend_options *o, char *err,
				    size_t errlen)
{
	if (geteuid() != 0) {
		snprintf(err, errlen,
			 "backend process makes namespaces: it needs root (or --backend docker)");
		return NULL;
	}
	if (access(SANDBOX_SSHD, X_OK) == -1) {
		snprintf(err, errlen, "%s: %s; apt-get install openssh-server", SANDBOX_SSHD,
			 err_text(-errno));
		return NULL;
	}
	struct process_backend *p = xcalloc(1, sizeof(*p));
	p->b = (struct backend){ &ops, rx, o };
	p->boxes = xasprintf("%s/boxes", o->state_dir);
	if (mkdir(p->boxes, 0700) == 0 || errno == EEXIST)
		return &p->b;
	snprintf(err, errlen, "%s: %s", p->boxes, err_text(-errno));
	free(p->boxes);
	free(p);
	return NULL;
}
