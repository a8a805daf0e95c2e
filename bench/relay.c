/*
 * The bench's own relays, one hop, plain: what moving bytes costs at least.
 *   splice  through a pipe, no byte in user space: the limit that the tables name
 *   copy    through one 256 KB buffer
 *   corrupt, lose, deaf, slam  copy, but wrong: a byte changed, a byte lost, a half close
 * swallowed, a half close that ends both ways. For the test that shows that load notices. A pair of
 * connections, each edge-triggered; four buffers a turn, then to the back of the queue.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "reactor/base.h"

enum { SPLICE, COPY, CORRUPT, LOSE, DEAF, SLAM };
enum { BUFFER = 256 * 1024, QUANTUM = 4, EVENTS = 256, POOL = 64, WRONG_AT = 100000 };

struct end {
	struct pair *pair;
	int fd;
	bool in, out; /* may be readable, writable */
	/* What was read here and not yet written to the other end. */
	int pipe[2]; /* -1: none lent */
	char *kept;  /* copy: only while the other end is blocked */
	size_t held, at;
	uint64_t moved;
	bool eof, done;
};

struct pair {
	struct list link;
	struct end end[2];
};

static const char *const NAMES[] = { "splice", "copy", "corrupt", "lose", "deaf", "slam" };
static char buffer[BUFFER];
static int mode, epfd, pool[POOL][2], pooled;
static struct list queue;

static void pipe_lend(struct end *e)
{
	if (pooled > 0) {
		memcpy(e->pipe, pool[--pooled], sizeof(e->pipe));
		return;
	}
	if (pipe2(e->pipe, O_NONBLOCK | O_CLOEXEC) == -1)
		bug_abort(__FILE__, __LINE__, "pipe2");
	(void)fcntl(e->pipe[1], F_SETPIPE_SZ, BUFFER); /* else it stays at 64 KB */
}

static void pipe_return(struct end *e)
{
	if (e->pipe[0] == -1)
		return;
	if (e->held == 0 && pooled < POOL) {
		memcpy(pool[pooled++], e->pipe, sizeof(e->pipe));
	} else {
		close(e->pipe[0]);
		close(e->pipe[1]);
	}
	e->pipe[0] = e->pipe[1] = -1;
}

static void pair_close(struct pair *p)
{
	list_del(&p->link);
	for (int i = 0; i < 2; i++) {
		close(p->end[i].fd);
		pipe_return(&p->end[i]);
		free(p->end[i].kept);
	}
	free(p); /* all events of this turn have been noted, so none names it */
}

/* The wrongs, done to what was just read. */
static size_t spoil(struct end *e, char *data, size_t n)
{
	if ((mode == CORRUPT || mode == LOSE) && e->moved < WRONG_AT && e->moved + n >= WRONG_AT) {
		size_t at = (size_t)(WRONG_AT - e->moved - 1);
		if (mode == CORRUPT)
			data[at] ^= 1;
		else
			memmove(data + at, data + at + 1, --n - at);
	}
	return n;
}

static ssize_t take(struct end *e)
{
	ssize_t n;
	if (mode == SPLICE) {
		if (e->pipe[0] == -1)
			pipe_lend(e);
		return splice(e->fd, NULL, e->pipe[1], NULL, BUFFER,
			      SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
	}
	n = recv(e->fd, buffer, BUFFER, 0);
	return n > 0 ? (ssize_t)spoil(e, buffer, (size_t)n) : n;
}

static ssize_t give(struct end *from, struct end *to)
{
	if (mode == SPLICE)
		return splice(from->pipe[0], NULL, to->fd, NULL, from->held,
			      SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
	return send(to->fd, (from->kept ? from->kept : buffer) + from->at, from->held,
		    MSG_NOSIGNAL);
}

/* Moves from one end to the other: true when there may be more at once. False with *broken set: an
 * end is gone. */
static bool move(struct end *from, struct end *to, bool *broken)
{
	ssize_t n;
	for (int i = 0; i < QUANTUM && !from->done; i++) {
		if (from->held == 0 && !from->eof) {
			if (!from->in)
				break;
			n = take(from);
			if (n == -1 && errno == EAGAIN)
				from->in = false;
			else if (n == -1)
				*broken = true;
			if (n < 0)
				break;
			from->eof = n == 0;
			from->held = (size_t)n;
			from->moved += (size_t)n;
		}
		while (from->held > 0 && to->out) {
			n = give(from, to);
			if (n == -1 && errno == EAGAIN) {
				to->out = false;
			} else if (n == -1) {
				*broken = true;
				return false;
			} else {
				from->held -= (size_t)n;
				from->at += (size_t)n;
			}
		}
		if (from->held > 0) {
			if (mode != SPLICE && !from->kept) {
				from->kept = xmalloc(from->held);
				memcpy(from->kept, buffer + from->at, from->held);
				from->at = 0;
			}
			return false;
		}
		free(from->kept);
		from->kept = NULL;
		from->at = 0;
		if (from->eof) {
			from->done = true;
			to->done |= mode == SLAM;
			if (mode != DEAF)
				shutdown(to->fd, SHUT_WR);
		}
	}
	pipe_return(from);
	return from->in && !from->done;
}

static void pair_run(struct pair *p)
{
	bool broken = false;
	bool more = move(&p->end[0], &p->end[1], &broken);
	more |= move(&p->end[1], &p->end[0], &broken);
	if (broken || (p->end[0].done && p->end[1].done))
		pair_close(p);
	else if (more)
		list_add_tail(&queue, &p->link);
}

static void end_open(struct pair *p, int i, int fd)
{
	struct end *e = &p->end[i];
	struct epoll_event ev = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
				  .data.ptr = e };
	int one = 1;
	*e = (struct end){ .pair = p, .fd = fd, .pipe = { -1, -1 } };
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev) == -1)
		bug_abort(__FILE__, __LINE__, "epoll_ctl");
}

static void accept_some(int listener, const struct sockaddr_in *target)
{
	for (int i = 0; i < 64; i++) {
		struct pair *p;
		int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), out;
		if (fd == -1)
			return;
		out = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		if (out == -1 || (connect(out, (const struct sockaddr *)target, sizeof(*target)) &&
				  errno != EINPROGRESS)) {
			close(fd);
			close(out);
			return;
		}
		p = xcalloc(1, sizeof(*p));
		list_init(&p->link);
		end_open(p, 0, fd);
		end_open(p, 1, out);
	}
}

static struct sockaddr_in address(const char *port)
{
	return (struct sockaddr_in){ .sin_family = AF_INET,
				     .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				     .sin_port = htons((uint16_t)atoi(port)) };
}

static _Noreturn void serve(int listener, const struct sockaddr_in *target)
{
	struct epoll_event ev[EVENTS];
	for (;;) {
		struct list todo;
		int n = epoll_wait(epfd, ev, EVENTS, list_empty(&queue) ? -1 : 0);
		for (int i = 0; i < n; i++) {
			struct end *e = ev[i].data.ptr;
			if (!e) {
				accept_some(listener, target);
				continue;
			}
			if (ev[i].events & ~(unsigned)EPOLLOUT)
				e->in = true;
			if (ev[i].events & (EPOLLOUT | EPOLLERR))
				e->out = true;
			list_del(&e->pair->link);
			list_add_tail(&queue, &e->pair->link);
		}
		list_init(&todo);
		list_splice(&todo, &queue);
		while (!list_empty(&todo))
			pair_run(container_of(list_pop(&todo), struct pair, link));
	}
}

int main(int argc, char **argv)
{
	struct epoll_event ev = { .events = EPOLLIN };
	struct sockaddr_in here, target;
	struct rlimit files;
	int listener, one = 1;
	for (mode = SPLICE; argc == 4 && mode <= SLAM && strcmp(argv[1], NAMES[mode]) != 0; mode++)
		;
	if (argc != 4 || mode > SLAM) {
		fprintf(stderr,
			"Usage: relay splice|copy|corrupt|lose|deaf|slam PORT TARGET-PORT\n");
		return 2;
	}
	here = address(argv[2]);
	target = address(argv[3]);
	signal(SIGPIPE, SIG_IGN); // NOLINT(bugprone-signal-handler)
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	list_init(&queue);
	epfd = epoll_create1(EPOLL_CLOEXEC);
	listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&here, sizeof(here)) == -1 ||
	    listen(listener, 4096) == -1 || epoll_ctl(epfd, EPOLL_CTL_ADD, listener, &ev) == -1) {
		fprintf(stderr, "relay: port %s: %s\n", argv[2], strerror(errno));
		return 1;
	}
	serve(listener, &target);
}
