#include "reactor/child.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

enum { KILL_AFTER_MS = 5000 };

#define PATH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

struct child {
	struct reactor *rx;
	struct task task;
	struct timer timer;   /* lingering: SIGHUP was not enough */
	struct list link;     /* living or lingerers */
	struct handle report; /* until the outcome of exec is known */
	struct handle pidfd;
	pid_t pid;
	int pty; /* for its size; -1 */
	struct stream *in, *out, *err, *channel;
	bool exited;    /* a zombie now */
	bool lingering; /* child_free was called before the end */
	bool killed;    /* with SIGKILL */
	struct child_status status;
	void (*started)(void *arg);
	void (*ended)(void *arg, const struct child_status *);
	void *arg;
};

static struct list living = { &living, &living };
static struct list lingerers = { &lingerers, &lingerers };

/* --- the child's side: from fork to exec, no allocation, no lock, no return --- */

/* What the child says on the report pipe when it gets nowhere; an exec that succeeds closes it. */
struct report {
	int error;
	bool dir_failed;
};

/* Both sides' descriptors, -1 where there is none. */
struct ends {
	int in[2], out[2], err[2], report[2]; /* [0] is read from */
	int channel[2];                       /* [0] is ours */
	int pty, tty;
};

static _Noreturn void give_up(int fd, bool dir_failed)
{
	struct report r = { .error = errno, .dir_failed = dir_failed };
	ssize_t n = write(fd, &r, sizeof(r));
	_exit(n == (ssize_t)sizeof(r) ? 127 : 126);
}

static const char *path_of(char *const *envp)
{
	for (; *envp; envp++)
		if (strncmp(*envp, "PATH=", 5) == 0)
			return *envp + 5;
	return PATH_DEFAULT;
}

/* As execvpe(3) searches, but in the PATH of the new environment, and without its fallback to a
 * shell. Returns with the errno of the last hopeful candidate. */
static void exec_in_path(char *const *argv, char *const *envp)
{
	const char *name = argv[0];
	size_t len = strlen(name);
	char file[PATH_MAX];
	bool denied = false;

	if (strchr(name, '/')) {
		execve(name, argv, envp);
		return;
	}
	errno = ENOENT;
	for (const char *dir = path_of(envp), *end; len > 0; dir = end + 1) {
		end = strchrnul(dir, ':');
		size_t n = (size_t)(end - dir);
		if (n + 1 + len < sizeof(file)) {
			memcpy(file, dir, n);
			file[n] = '/';
			n += n > 0; /* an empty entry means the working directory */
			memcpy(file + n, name, len + 1);
			execve(file, argv, envp);
			if (errno == EACCES)
				denied = true;
			else if (errno != ENOENT && errno != ENOTDIR && errno != ESTALE &&
				 errno != ENODEV && errno != ETIMEDOUT)
				return;
		}
		if (!*end)
			break;
	}
	errno = denied ? EACCES : ENOENT;
}

static void reset_signals(void)
{
	sigset_t none;
	for (int i = 1; i < NSIG; i++)
		signal(i, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static _Noreturn void child_main(const struct child_options *opt, const struct ends *e)
{
	/* Above the last first, wherever they are: what is placed must not overwrite what is still
	 * to be. */
	const int n = opt->channel ? 4 : 3;
	int report = fcntl(e->report[1], F_DUPFD_CLOEXEC, n);
	if (report == -1)
		give_up(e->report[1], false);
	int from[4] = { e->tty, e->tty, e->tty, e->channel[1] };
	if (!opt->tty) {
		from[0] = e->in[0];
		from[1] = e->out[1];
		from[2] = opt->merge_stderr ? e->out[1] : e->err[1];
	}
	for (int i = 0; i < n; i++)
		if ((from[i] = fcntl(from[i], F_DUPFD_CLOEXEC, n)) == -1)
			give_up(report, false);

	setsid();
	if (opt->tty && ioctl(from[0], TIOCSCTTY, 0) == -1)
		give_up(report, false);
	for (int i = 0; i < n; i++)
		if (dup2(from[i], i) == -1)
			give_up(report, false);
	/* Everything is marked already; this is for what a library may have opened. */
	close_range((unsigned)n, ~0U, CLOSE_RANGE_CLOEXEC);

	struct rlimit lim;
	if (getrlimit(RLIMIT_NOFILE, &lim) == 0) {
		lim.rlim_cur = MIN((rlim_t)reactor_nofile_before(), lim.rlim_max);
		setrlimit(RLIMIT_NOFILE, &lim);
	}
	if (opt->dir && chdir(opt->dir) == -1)
		give_up(report, true);
	reset_signals();
	exec_in_path(opt->argv, opt->envp);
	give_up(report, false);
}

/* --- our side: start --- */

static void close_fd(int *fd)
{
	if (*fd != -1)
		close(*fd);
	*fd = -1;
}

static void ends_close(struct ends *e)
{
	int *all[] = { &e->in[0],  &e->in[1],  &e->out[0],     &e->out[1],
		       &e->err[0], &e->err[1], &e->report[0],  &e->report[1],
		       &e->pty,    &e->tty,    &e->channel[0], &e->channel[1] };
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		close_fd(all[i]);
}

/* ours: which end does not block. */
static int open_pipe(int fd[2], int ours)
{
	if (pipe2(fd, O_CLOEXEC) == -1)
		return -errno;
	return fcntl(fd[ours], F_SETFL, O_NONBLOCK) == -1 ? -errno : 0;
}

/* The child's end blocks, like its stdio. */
static int open_channel(int fd[2])
{
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) == -1)
		return -errno;
	return fcntl(fd[0], F_SETFL, O_NONBLOCK) == -1 ? -errno : 0;
}

static int open_pty(struct ends *e, unsigned short rows, unsigned short cols)
{
	struct winsize size = { .ws_row = rows, .ws_col = cols };
	e->pty = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (e->pty == -1 || grantpt(e->pty) == -1 || unlockpt(e->pty) == -1)
		return -errno;
	/* By descriptor: a name might mean another devpts here. */
	e->tty = ioctl(e->pty, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (e->tty == -1)
		return -errno;
	if (rows && cols && ioctl(e->pty, TIOCSWINSZ, &size) == -1)
		return -errno;
	return 0;
}

static int ends_open(struct ends *e, const struct child_options *opt)
{
	*e = (struct ends){ { -1, -1 }, { -1, -1 }, { -1, -1 }, { -1, -1 }, { -1, -1 }, -1, -1 };
	int r = open_pipe(e->report, 0);
	if (r == 0 && opt->channel)
		r = open_channel(e->channel);
	if (r == 0 && opt->tty)
		return open_pty(e, opt->rows, opt->cols);
	if (r == 0)
		r = open_pipe(e->in, 1);
	if (r == 0)
		r = open_pipe(e->out, 0);
	if (r == 0 && !opt->merge_stderr)
		r = open_pipe(e->err, 0);
	return r;
}

/* pid, or -errno. Signals wait while the child still has our handlers and dispositions; they reach
 * it when it unblocks them. */
static pid_t fork_child(const struct child_options *opt, const struct ends *e)
{
	sigset_t all, before;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	pid_t pid = fork();
	if (pid == 0)
		child_main(opt, e);
	int error = errno;
	sigprocmask(SIG_SETMASK, &before, NULL);
	return pid == -1 ? -error : pid;
}

static struct stream *take_end(struct reactor *rx, int *fd)
{
	if (*fd == -1)
		return NULL;
	struct stream *s = fd_stream_new(rx, *fd);
	*fd = -1;
	return s;
}

static void child_run(struct task *t);
static void linger_fire(struct timer *t);

/* Registers what tells us of pid: 0, or -errno and it is gone. */
static int watch(struct child *c, int *report)
{
	int r, pidfd = pidfd_open(c->pid, 0);
	if (pidfd == -1) {
		r = -errno;
	} else if ((r = handle_open(&c->pidfd, c->rx, pidfd, &c->task)) < 0) {
		close(pidfd);
	} else if ((r = handle_open(&c->report, c->rx, *report, &c->task)) < 0) {
		handle_close(&c->pidfd);
	} else {
		*report = -1;
		return 0;
	}
	kill(c->pid, SIGKILL);
	waitpid(c->pid, NULL, 0);
	return r;
}

struct child *child_spawn(struct reactor *rx, const struct child_options *opt,
			  void (*started)(void *arg),
			  void (*ended)(void *arg, const struct child_status *), void *arg,
			  int *err)
{
	struct ends e;
	struct child *c = xcalloc(1, sizeof(*c));
	c->rx = rx;
	c->started = started;
	c->ended = ended;
	c->arg = arg;
	c->pty = -1;
	list_init(&c->link);
	task_init(&c->task, child_run);
	timer_init(&c->timer, linger_fire);
	/* Ignored, perhaps by who started us, it would make exit statuses vanish. */
	signal(SIGCHLD, SIG_DFL);

	int r = ends_open(&e, opt);
	if (r == 0)
		r = c->pid = fork_child(opt, &e);
	close_fd(&e.in[0]);
	close_fd(&e.out[1]);
	close_fd(&e.err[1]);
	close_fd(&e.report[1]);
	close_fd(&e.channel[1]);
	close_fd(&e.tty);
	if (r > 0)
		r = watch(c, &e.report[0]);
	if (r < 0) {
		ends_close(&e);
		free(c);
		*err = r;
		return NULL;
	}
	if (opt->tty)
		c->pty = fcntl(e.pty, F_DUPFD_CLOEXEC, 3);
	c->in = take_end(rx, opt->tty ? &e.pty : &e.in[1]);
	c->out = take_end(rx, &e.out[0]);
	c->err = take_end(rx, &e.err[0]);
	c->channel = take_end(rx, &e.channel[0]);
	list_add_tail(&living, &c->link);
	return c;
}

/* --- its end --- */

/* True once the process is a zombie, with its status noted. It is reaped in dispose. */
static bool child_exited(struct child *c)
{
	siginfo_t si = { 0 };
	if (c->exited)
		return true;
	if (waitid(P_PIDFD, (id_t)c->pidfd.fd, &si, WEXITED | WNOHANG | WNOWAIT) == 0 &&
	    si.si_pid == 0)
		return false;
	c->exited = true;
	if (si.si_code == CLD_KILLED || si.si_code == CLD_DUMPED)
		c->status.signal = si.si_status;
	else
		c->status.exit_code = si.si_status;
	c->status.core = si.si_code == CLD_DUMPED;
	return true;
}

static void dispose(struct child *c)
{
	siginfo_t si;
	waitid(P_PIDFD, (id_t)c->pidfd.fd, &si, WEXITED | WNOHANG);
	task_cancel(&c->task);
	timer_clear(c->rx, &c->timer);
	list_del(&c->link);
	handle_close(&c->pidfd);
	free(c);
}

/* Reads what became of exec: true once that is known. */
static bool exec_known(struct child *c)
{
	struct report r;
	ssize_t n = read(c->report.fd, &r, sizeof(r));
	if (n == -1)
		return false;
	if (n == (ssize_t)sizeof(r)) {
		c->status.exec_errno = r.error;
		c->status.dir_failed = r.dir_failed;
	}
	handle_close(&c->report);
	return true;
}

static void child_run(struct task *t)
{
	struct child *c = container_of(t, struct child, task);
	if (c->lingering) {
		if (child_exited(c) && c->killed)
			dispose(c);
		return;
	}
	if (c->report.fd != -1) {
		if (!exec_known(c))
			return;
		task_wake(c->rx, t);
		if (c->status.exec_errno == 0 && c->started)
			c->started(c->arg);
		return;
	}
	if (!c->exited && child_exited(c))
		c->ended(c->arg, &c->status);
}

static void linger_fire(struct timer *t)
{
	struct child *c = container_of(t, struct child, timer);
	child_kill(c, SIGKILL);
	c->killed = true;
	if (child_exited(c))
		dispose(c);
}

void child_free(struct child *c)
{
	if (!c)
		return;
	stream_close(c->in, 0);
	stream_close(c->out, 0);
	stream_close(c->err, 0);
	stream_close(c->channel, 0);
	close_fd(&c->pty);
	if (c->report.fd != -1)
		handle_close(&c->report);
	task_cancel(&c->task);
	if (c->exited) {
		dispose(c);
		return;
	}
	/* For the whole 5 s, even if the process itself goes at once: others of its group may stay.
	 */
	c->lingering = true;
	list_del(&c->link);
	list_add_tail(&lingerers, &c->link);
	child_kill(c, SIGHUP);
	child_kill(c, SIGCONT);
	timer_set(c->rx, &c->timer, KILL_AFTER_MS);
}

void child_kill_lingering(void)
{
	struct list *l;
	for (l = living.next; l != &living; l = l->next) {
		child_kill(container_of(l, struct child, link), SIGHUP);
		child_kill(container_of(l, struct child, link), SIGCONT);
	}
	while ((l = list_pop(&lingerers))) {
		struct child *c = container_of(l, struct child, link);
		child_kill(c, SIGKILL);
		dispose(c);
	}
}

/* --- the rest --- */

static struct stream *hand_out(struct stream **s)
{
	struct stream *given = *s;
	*s = NULL;
	return given;
}

struct stream *child_stdin(struct child *c)
{
	return hand_out(&c->in);
}

struct stream *child_stdout(struct child *c)
{
	return hand_out(&c->out);
}

struct stream *child_stderr(struct child *c)
{
	return hand_out(&c->err);
}

struct stream *child_channel(struct child *c)
{
	return hand_out(&c->channel);
}

int child_pid(const struct child *c)
{
	return c->pid;
}

int child_kill(struct child *c, int signo)
{
	if (kill(-c->pid, signo) == 0)
		return 0;
	/* Not yet at its setsid: it is alone. */
	if (errno == ESRCH && kill(c->pid, signo) == 0)
		return 0;
	return -errno;
}

int child_resize(struct child *c, unsigned short rows, unsigned short cols)
{
	struct winsize size = { .ws_row = rows, .ws_col = cols };
	return ioctl(c->pty, TIOCSWINSZ, &size) == -1 ? -errno : 0;
}
