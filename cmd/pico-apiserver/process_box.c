#include "cmd/pico-apiserver/process_box.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "reactor/buf.h"

int process_dial(const char *dir, int *pid)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct ucred who = { 0 };
	socklen_t n = sizeof(who);
	/* By descriptor: the path may be longer than a socket's name can be. */
	int at = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (at == -1)
		return -errno;
	snprintf(a.sun_path, sizeof(a.sun_path), "/proc/self/fd/%d/%s", at, SANDBOX_CONTROL);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int r = fd == -1 ? -errno : 0;
	if (r == 0 && (connect(fd, (struct sockaddr *)&a, sizeof(a)) == -1 ||
		       getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &n) == -1))
		r = -errno;
	close(at);
	if (r == 0) {
		*pid = who.pid;
		return fd;
	}
	if (fd != -1)
		close(fd);
	return r;
}

int process_send(int control, const void *packet, size_t n, const int *fd, size_t nfd)
{
	union {
		struct cmsghdr h;
		char room[CMSG_SPACE(3 * sizeof(int))];
	} c = { 0 };
	struct iovec iov = { (void *)(uintptr_t)packet, n };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	if (nfd) {
		m.msg_control = &c;
		m.msg_controllen = CMSG_SPACE(nfd * sizeof(int));
		c.h.cmsg_level = SOL_SOCKET;
		c.h.cmsg_type = SCM_RIGHTS;
		c.h.cmsg_len = CMSG_LEN(nfd * sizeof(int));
		memcpy(CMSG_DATA(&c.h), fd, nfd * sizeof(int));
	}
	return sendmsg(control, &m, MSG_NOSIGNAL | MSG_DONTWAIT) == -1 ? -errno : 0;
}

void process_replied(struct process_box *x, const struct init_reply *r)
{
	box_done *done = x->done;
	char fingerprint[sizeof(r->fingerprint)];
	if (x->unwanted)
		return;
	if (r->kind == INIT_HELLO && x->state == BOX_GREETING) {
		memcpy(fingerprint, r->fingerprint, sizeof(fingerprint));
		fingerprint[sizeof(fingerprint) - 1] = '\0';
		x->state = BOX_UP;
		x->events.ready(x->events.arg, fingerprint, r->stopped);
	} else if (done) {
		x->done = NULL;
		done(x->arg, 0, NULL);
	}
}

static void ask(struct box *b, enum init_kind kind, box_done *done, void *arg)
{
	struct process_box *x = container_of(b, struct process_box, box);
	struct init_request q = { .kind = kind };
	x->done = done;
	x->arg = arg;
	/* It is one packet in an empty queue; if init has ended, gone will say so. */
	if (x->control.fd != -1)
		process_send(x->control.fd, &q, sizeof(q), NULL, 0);
}

void process_pause(struct box *b, box_done *done, void *arg)
{
	ask(b, INIT_STOP, done, arg);
}

void process_resume(struct box *b, box_done *done, void *arg)
{
	ask(b, INIT_CONT, done, arg);
}

struct stream *process_connect(struct box *b)
{
	struct process_box *x = container_of(b, struct process_box, box);
	struct init_request q = { .kind = INIT_SSHD };
	struct reactor *rx = x->backend->b.rx;
	int fd[2], r = -ENOTCONN;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) == -1) {
		r = -errno;
	} else {
		if (x->control.fd != -1)
			r = process_send(x->control.fd, &q, sizeof(q), &fd[1], 1);
		close(fd[1]);
		if (r == 0 && fcntl(fd[0], F_SETFL, O_NONBLOCK) == 0)
			return fd_stream_new(rx, fd[0]);
		close(fd[0]);
	}
	struct stream *s = fd_stream_pending(rx);
	fd_stream_fail(s, r, "the sandbox's process takes no connections");
	return s;
}

/* --- commands --- */

struct process_run {
	struct box_run run;
	struct reactor *rx;
	struct handle control; /* a connection of its own */
	struct task task;
	void (*ended)(void *arg, const struct child_status *);
	void *arg;
};

static int run_kill(struct box_run *b, int signo)
{
	struct process_run *r = container_of(b, struct process_run, run);
	struct init_request q = { .kind = INIT_KILL, .arg = (uint32_t)signo };
	return r->control.fd == -1 ? -ESRCH : process_send(r->control.fd, &q, sizeof(q), NULL, 0);
}

static void run_free(struct box_run *b)
{
	struct process_run *r = container_of(b, struct process_run, run);
	task_cancel(&r->task);
	handle_close(&r->control); /* init kills what is left */
	stream_close(b->in, 0);
	stream_close(b->out, 0);
	stream_close(b->err, 0);
	free(r);
}

static const struct box_run_ops run_ops = { run_kill, run_free };

static void run_run(struct task *t)
{
	struct process_run *r = container_of(t, struct process_run, task);
	struct init_reply reply;
	struct child_status st = { .signal = 9 }; /* if init has gone, so has everything */
	if (r->control.fd == -1)
		return;
	ssize_t n = recv(r->control.fd, &reply, sizeof(reply), MSG_DONTWAIT);
	if (n == -1 && errno == EAGAIN) {
		r->control.ready &= ~(unsigned)READY_IN;
		return;
	}
	if (n == (ssize_t)sizeof(reply))
		st = (struct child_status){ .exec_errno = reply.exec_errno,
					    .exit_code = reply.exit_code,
					    .signal = reply.signal };
	handle_close(&r->control);
	r->ended(r->arg, &st);
}

/* Strings of a list that ends with NULL, their number to *count. */
static int put_words(struct buf *b, char *const *words, uint32_t *count)
{
	int r = 0;
	for (*count = 0; words && *words && r == 0; words++, ++*count)
		r = buf_put(b, slice_of(*words, strlen(*words) + 1));
	return r;
}

/* The request as a packet; false: too long. */
static bool run_packet(struct buf *b, const struct box_command *c)
{
	struct init_request q = { .kind = INIT_RUN };
	const char *dir = c->dir ? c->dir : "";
	int r = buf_put(b, slice_of(&q, sizeof(q)));
	r = r ? r : buf_put(b, slice_of(dir, strlen(dir) + 1));
	r = r ? r : put_words(b, c->argv, &q.argc);
	r = r ? r : put_words(b, c->envp, &q.envc);
	if (r < 0 || q.argc + q.envc > INIT_WORDS_MAX)
		return false;
	memcpy(b->base + b->head, &q, sizeof(q));
	return true;
}

static struct stream *take(struct reactor *rx, int *fd)
{
	fcntl(*fd, F_SETFL, O_NONBLOCK);
	struct stream *s = fd_stream_new(rx, *fd);
	*fd = -1;
	return s;
}

struct box_run *process_run(struct box *b, const struct box_command *c,
			    void (*ended)(void *arg, const struct child_status *), void *arg,
			    int *err)
{
	struct process_box *x = container_of(b, struct process_box, box);
	struct reactor *rx = x->backend->b.rx;
	int in[2] = { -1, -1 }, out[2] = { -1, -1 }, se[2] = { -1, -1 }, pid;
	int control = process_dial(x->dir, &pid);
	struct process_run *r = NULL;
	struct buf packet;
	buf_init(&packet, INIT_PACKET_MAX);
	*err = control < 0 ? control : run_packet(&packet, c) ? 0 : -E2BIG;
	if (*err == 0 && (pipe2(in, O_CLOEXEC) == -1 || pipe2(out, O_CLOEXEC) == -1 ||
			  pipe2(se, O_CLOEXEC) == -1))
		*err = -errno;
	if (*err == 0)
		*err = process_send(control, buf_data(&packet).p, packet.len,
				    (int[]){ in[0], out[1], se[1] }, 3);
	if (*err == 0) {
		r = xcalloc(1, sizeof(*r));
		r->run.ops = &run_ops;
		r->rx = rx;
		r->ended = ended;
		r->arg = arg;
		task_init(&r->task, run_run);
		handle_open(&r->control, rx, control, &r->task);
		control = -1;
		r->run.in = take(rx, &in[1]);
		r->run.out = take(rx, &out[0]);
		r->run.err = take(rx, &se[0]);
	}
	int *all[] = { &in[0], &in[1], &out[0], &out[1], &se[0], &se[1], &control };
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		if (*all[i] >= 0)
			close(*all[i]);
	buf_end(&packet);
	return r ? &r->run : NULL;
}
