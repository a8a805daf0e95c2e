/* Process 1 of a sandbox: starts, serves the control socket, reaps. It blocks in poll(2), and holds
 * nothing but the processes that it was asked for. */
#include "cmd/pico-apiserver/sandbox_init.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/keyctl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CONNS_MAX = 1024, KEYS_MAX = 16 * 1024, FDS_MAX = 3, EXEC_MS = 1000 };

#define ENV_PATH                                                                                   \
	"PATH=/opt/sandbox/bin:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"

/* A connection; it runs at most one command. */
struct conn {
	int fd;
	pid_t pid; /* 0: none */
};

static struct init {
	struct init_options o;
	char fingerprint[64];
	int listener, signals;
	struct conn conn[CONNS_MAX];
	size_t n;
	bool stopped;
} in;

/* --- requests --- */

struct packet {
	struct init_request q;
	char *word[INIT_WORDS_MAX + 3]; /* directory, arguments, NULL, environment, NULL */
	int fd[FDS_MAX];
	int nfd;
};

static void close_fds(struct packet *p)
{
	for (int i = 0; i < p->nfd; i++)
		close(p->fd[i]);
	p->nfd = 0;
}

static void reply(int fd, const struct init_reply *r)
{
	ssize_t n = send(fd, r, sizeof(*r), MSG_NOSIGNAL | MSG_DONTWAIT);
	(void)n; /* who does not read finds out by the end of the connection */
}

static void reset_signals(void)
{
	sigset_t none;
	for (int i = 1; i < NSIG; i++)
		signal(i, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static void start_sshd(struct packet *p)
{
	char *const argv[] = { (char[]){ SANDBOX_SSHD }, (char[]){ "-i" }, (char[]){ "-f" },
			       (char[]){ "/etc/ssh/sshd_config" }, NULL };
	char *const envp[] = { (char[]){ ENV_PATH }, NULL };
	if (p->nfd != 1 || fork() != 0)
		return;
	int null = open("/dev/null", O_RDWR);
	dup2(p->fd[0], 0);
	dup2(p->fd[0], 1);
	dup2(null, 2);
	setsid();
	close_range(3, ~0U, 0);
	reset_signals();
	execve(argv[0], argv, envp);
	_exit(127);
}

/* The child's side of a command; what fails is told through report. */
static _Noreturn void run_child(struct packet *p, int report)
{
	char **argv = p->word + 1, **envp = argv + p->q.argc + 1;
	for (int i = 0; i < FDS_MAX; i++)
		if ((p->fd[i] = fcntl(p->fd[i], F_DUPFD_CLOEXEC, 3)) == -1)
			goto failed;
	setsid();
	for (int i = 0; i < FDS_MAX; i++)
		if (dup2(p->fd[i], i) == -1)
			goto failed;
	close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
	if (setgroups(0, NULL) == -1 || setgid(in.o.uid) == -1 || setuid(in.o.uid) == -1)
		goto failed;
	if (chdir(p->word[0][0] ? p->word[0] : "/workspace") == -1)
		goto failed;
	reset_signals();
	clearenv();
	putenv((char[]){ ENV_PATH });
	putenv((char[]){ "LANG=C.UTF-8" });
	putenv((char[]){ "SHELL=/bin/bash" });
	setenv("USER", in.o.user, 1);
	setenv("LOGNAME", in.o.user, 1);
	char home[96];
	snprintf(home, sizeof(home), "/home/%s", in.o.user);
	setenv("HOME", home, 1);
	for (uint32_t i = 0; i < p->q.envc; i++)
		putenv(envp[i]);
	execvp(argv[0], argv);
failed:;
	int e = errno;
	ssize_t n = write(report, &e, sizeof(e));
	_exit(n == (ssize_t)sizeof(e) ? 127 : 126);
}

/* 0, or the errno of what did not work; c->pid is the command's. */
static int start_run(struct conn *c, struct packet *p)
{
	int report[2], e = 0;
	if (p->nfd != FDS_MAX || p->q.argc == 0 || c->pid)
		return EINVAL;
	if (pipe2(report, O_CLOEXEC) == -1)
		return errno;
	pid_t pid = fork();
	if (pid == 0) {
		int fd = fcntl(report[1], F_DUPFD_CLOEXEC, 16);
		run_child(p, fd == -1 ? report[1] : fd);
	}
	e = pid == -1 ? errno : 0;
	close(report[1]);
	/* Between setuid and exec the sandbox's user can stop it, and must not stop us with it. */
	struct pollfd told = { .fd = report[0], .events = POLLIN };
	if (pid > 0 &&
	    (poll(&told, 1, EXEC_MS) != 1 || read(report[0], &e, sizeof(e)) != (ssize_t)sizeof(e)))
		e = 0;
	close(report[0]);
	if (e == 0)
		c->pid = pid; /* a failed one is reaped as a stranger */
	return e;
}

/* Everybody but us; twice, for those who were being forked. */
static void signal_all(int signo)
{
	kill(-1, signo);
	kill(-1, signo);
	in.stopped = signo == SIGSTOP;
}

static void act(struct conn *c, struct packet *p)
{
	struct init_reply r = { .kind = p->q.kind };
	switch (p->q.kind) {
	case INIT_HELLO:
		r.stopped = in.stopped;
		memcpy(r.fingerprint, in.fingerprint, sizeof(r.fingerprint));
		break;
	case INIT_SSHD:
		start_sshd(p);
		return;
	case INIT_RUN:
		r.exec_errno = start_run(c, p);
		if (r.exec_errno == 0)
			return;
		break;
	case INIT_KILL:
		if (c->pid)
			kill(-c->pid, (int)p->q.arg);
		return;
	case INIT_STOP:
	case INIT_CONT:
		signal_all(p->q.kind == INIT_STOP ? SIGSTOP : SIGCONT);
		break;
	default:
		return;
	}
	reply(c->fd, &r);
}

/* Finds the strings of a packet of n bytes; false: malformed. */
static bool split_words(struct packet *p, char *data, size_t n)
{
	size_t at = sizeof(p->q), words = 0;
	if (n < sizeof(p->q))
		return false;
	memcpy(&p->q, data, sizeof(p->q));
	if (p->q.kind != INIT_RUN)
		return true;
	if (p->q.argc > INIT_WORDS_MAX || p->q.envc > INIT_WORDS_MAX ||
	    p->q.argc + p->q.envc > INIT_WORDS_MAX)
		return false;
	for (size_t i = 0; i < 1 + (size_t)p->q.argc + p->q.envc; i++) {
		char *end = memchr(data + at, '\0', n - at);
		if (!end)
			return false;
		if (i == 1 + (size_t)p->q.argc)
			p->word[words++] = NULL;
		p->word[words++] = data + at;
		at = (size_t)(end - data) + 1;
	}
	if (p->q.envc == 0)
		p->word[words++] = NULL;
	p->word[words] = NULL;
	return true;
}

/* False: the connection has ended. */
static bool conn_read(struct conn *c)
{
	static char data[INIT_PACKET_MAX];
	struct packet p = { .nfd = 0 };
	union {
		struct cmsghdr h;
		char room[CMSG_SPACE(FDS_MAX * sizeof(int))];
	} control;
	struct iovec iov = { data, sizeof(data) };
	struct msghdr m = { .msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = &control,
			    /* CMSG_SPACE is rounded up: a fourth one would fit */
			    .msg_controllen = CMSG_LEN(FDS_MAX * sizeof(int)) };
	ssize_t n = recvmsg(c->fd, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (n == -1)
		return errno == EAGAIN || errno == EINTR;
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	if (h && h->cmsg_level == SOL_SOCKET && h->cmsg_type == SCM_RIGHTS) {
		p.nfd = (int)((h->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(p.fd, CMSG_DATA(h), (size_t)p.nfd * sizeof(int));
	}
	if (n > 0 && !(m.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) && split_words(&p, data, (size_t)n))
		act(c, &p);
	close_fds(&p);
	return n > 0;
}

static void conn_end(struct conn *c)
{
	if (c->pid)
		kill(-c->pid, SIGKILL);
	close(c->fd);
	*c = in.conn[--in.n];
}

static void reap(void)
{
	struct signalfd_siginfo si;
	int status;
	pid_t pid;
	while (read(in.signals, &si, sizeof(si)) == (ssize_t)sizeof(si))
		;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		for (size_t i = 0; i < in.n; i++) {
			struct conn *c = &in.conn[i];
			if (c->pid != pid)
				continue;
			struct init_reply r = { .kind = INIT_RUN };
			if (WIFSIGNALED(status))
				r.signal = WTERMSIG(status);
			else
				r.exit_code = WEXITSTATUS(status);
			/* The group may have others in it still; its number stays taken as long
			 * as it has any, and is not used if it has none. */
			c->pid = 0;
			reply(c->fd, &r);
		}
}

static void serve(void)
{
	static struct pollfd p[CONNS_MAX + 2];
	for (;;) {
		int64_t left = in.o.expires + INIT_OVERTIME_S - (int64_t)time(NULL);
		if (left <= 0)
			return;
		p[0] = (struct pollfd){ .fd = in.listener, .events = POLLIN };
		p[1] = (struct pollfd){ .fd = in.signals, .events = POLLIN };
		for (size_t i = 0; i < in.n; i++)
			p[i + 2] = (struct pollfd){ .fd = in.conn[i].fd, .events = POLLIN };
		size_t n = in.n;
		if (poll(p, n + 2, (int)(MIN(left, 60) * 1000)) < 1)
			continue;
		for (size_t i = n; i-- > 0;)
			if (p[i + 2].revents && !conn_read(&in.conn[i]))
				conn_end(&in.conn[i]);
		if (p[1].revents)
			reap();
		if (p[0].revents) {
			int fd = accept4(in.listener, NULL, NULL, SOCK_CLOEXEC);
			if (fd != -1 && in.n < CONNS_MAX)
				in.conn[in.n++] = (struct conn){ fd, 0 };
			else if (fd != -1)
				close(fd);
		}
	}
}

/* --- start --- */

static int complain(const char *what)
{
	fprintf(stderr, "sandbox: cannot %s: %s\n", what, strerrordesc_np(errno));
	return 1;
}

/* In the box's directory: the name of a socket must be short. */
static int listen_control(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = SANDBOX_CONTROL };
	in.listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	umask(077);
	if (in.listener == -1 || bind(in.listener, (struct sockaddr *)&a, sizeof(a)) == -1)
		return -1;
	return 0;
}

static int inner(int ready)
{
	sigset_t mask;
	sigfillset(&mask);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	setsid();
	in.signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	if (in.signals == -1 || listen_control() == -1)
		return complain("listen for requests");
	if (sandbox_root_enter(&in.o, in.fingerprint) < 0 || sandbox_root_confine(&in.o) < 0)
		return 1;
	/* By listen it becomes the one whose credentials SO_PEERCRED tells. */
	if (listen(in.listener, 64) == -1)
		return complain("listen for requests");
	prctl(PR_SET_PDEATHSIG, 0);
	if (write(ready, "", 1) != 1)
		return 1;
	close(ready);
	int null = open("/dev/null", O_RDWR);
	for (int i = 0; i < 3; i++)
		dup2(null, i);
	if (null > 2)
		close(null);
	serve();
	return 0;
}

static int start(pid_t server)
{
	int ready[2];
	char byte;
	/* The server's end while this is going on is ours. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != server)
		return 1;
	if (chdir(in.o.dir) == -1)
		return complain("enter its directory");
	sandbox_cgroup_join(&in.o);
	/* Else all in it would possess the keyring of whoever started the server: keyrings(7).
	 * Where that is forbidden, it is forbidden to them, too. */
	syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);
	if (unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWCGROUP) ==
	    -1)
		return complain("make namespaces (root is needed)");
	if (pipe2(ready, O_CLOEXEC) == -1)
		return complain("make a pipe");
	pid_t pid = fork();
	if (pid == -1)
		return complain("fork");
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(ready[0]);
		_exit(inner(ready[1]));
	}
	close(ready[1]);
	if (read(ready[0], &byte, 1) == 1)
		return 0;
	waitpid(pid, NULL, 0);
	return 1;
}

int sandbox_init_main(int argc, char **argv)
{
	static char keys[KEYS_MAX];
	size_t n = 0;
	ssize_t got;
	if (argc != 11) {
		fprintf(stderr, "pico-apiserver " SANDBOX_INIT_NAME
				" is started by pico-apiserver itself\n");
		return 1;
	}
	while (n < sizeof(keys) - 1 && (got = read(0, keys + n, sizeof(keys) - 1 - n)) > 0)
		n += (size_t)got;
	in.o = (struct init_options){ .dir = argv[2],
				      .name = argv[3],
				      .user = argv[4],
				      .uid = (uint32_t)strtoul(argv[5], NULL, 10),
				      .expires = strtoll(argv[6], NULL, 10),
				      .memory = strtoull(argv[7], NULL, 10),
				      .pids = (unsigned)strtoul(argv[8], NULL, 10),
				      .cpu_millis = (unsigned)strtoul(argv[9], NULL, 10),
				      .keys = keys };
	/* Without exit handlers: what was unshared is for the child only, and threads that a
	 * sanitizer starts at the end would be in its namespace. */
	_exit(start((pid_t)strtol(argv[10], NULL, 10)));
}
