#include "reactor/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "reactor/log.h"

enum {
	BACKLOG = 4096,
	BUDGET = 64,    /* connections accepted per turn */
	PAUSE_MS = 100, /* after an error that only time can mend */
	WARN_MS = 60 * 1000,
	PORT_TRIES = 16 /* kernel-chosen ports tried until one is free in both families */
};

/* A socket file that is ours to unlink. */
struct socket_file {
	dev_t dev;
	ino_t ino;
	char path[];
};

/* Thousands of these may exist: whatever is not needed while idle is elsewhere. */
struct listener {
	struct task task;
	struct reactor *rx;
	struct handle handle[2]; /* "localhost" has two addresses */
	struct timer pause;
	listener_accept *accept;
	void *arg;
	struct socket_file *file; /* NULL: none */
	uint16_t port;
};

/* What all listeners of the process share. */
static struct {
	unsigned count; /* of listeners */
	int spare;      /* a descriptor to give up when there are no others; -1: lost */
	uint64_t warned;
	struct listener *accepting; /* whose accept() runs; NULL once it closed itself in there */
} shared = { .spare = -1 };

/* --- accepting --- */

static int spare_open(void)
{
	if (shared.spare == -1)
		shared.spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
	return shared.spare == -1 ? -errno : 0;
}

static void spare_close(void)
{
	if (shared.spare != -1)
		close(shared.spare);
	shared.spare = -1;
}

/* Out of descriptors: uses the spare one to take a connection off the queue and reset it, so that
 * its peer learns at once. The kernel looks for a descriptor first: the queue may well be empty. */
static int shed(const struct listener *l, int listen_fd, int why)
{
	struct linger reset = { .l_onoff = 1 };
	spare_close();
	int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	int r = fd == -1 ? -errno : 0;
	if (fd != -1) {
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		close(fd);
	}
	if (r != -EAGAIN && log_ratelimit(&shared.warned, WARN_MS))
		log_warn("listen refusing connections port=%u error=%s", l->port,
			 log_quote(slice_str(strerrordesc_np(why))));
	if (spare_open() < 0)
		return -EBUSY;
	return r == -EAGAIN || r == 0 ? r : -EBUSY;
}

/* One connection: 0 = go on, -EAGAIN = no more, -EBUSY = not now, -ECANCELED = l is gone. */
static int accept_one(struct listener *l, struct handle *h)
{
	struct sockaddr_storage peer = { 0 };
	socklen_t len = sizeof(peer);
	int fd = accept4(h->fd, (struct sockaddr *)&peer, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd == -1) {
		switch (errno) {
		case EAGAIN:
			return -EAGAIN;
		case ECONNABORTED:
		case EINTR:
			return 0;
		case EMFILE:
		case ENFILE:
			return shed(l, h->fd, errno);
		default:
			return -EBUSY;
		}
	}
	shared.accepting = l;
	l->accept(l->arg, fd, (const struct sockaddr *)&peer);
	if (!shared.accepting)
		return -ECANCELED;
	shared.accepting = NULL;
	return 0;
}

static void listener_run(struct task *t)
{
	struct listener *l = container_of(t, struct listener, task);
	for (size_t i = 0; i < ARRAY_LEN(l->handle); i++) {
		struct handle *h = &l->handle[i];
		for (int n = 0; h->ready && n < BUDGET; n++) {
			int r = accept_one(l, h);
			if (r == -ECANCELED)
				return;
			if (r == -EAGAIN)
				h->ready = 0;
			if (r == -EBUSY) {
				timer_set(l->rx, &l->pause, PAUSE_MS);
				return;
			}
		}
		if (h->ready)
			task_wake(l->rx, &l->task);
	}
}

static void listener_resume(struct timer *t)
{
	struct listener *l = container_of(t, struct listener, pause);
	task_wake(l->rx, &l->task);
}

/* --- binding --- */

/* Edge-triggered on purpose: a level-triggered listener that cannot accept spins. */
static int start(struct listener *l, struct handle *h, int fd)
{
	int r = listen(fd, BACKLOG) == -1 ? -errno : 0;
	if (r == 0)
		r = handle_open(h, l->rx, fd, &l->task);
	if (r < 0)
		close(fd);
	return r;
}

/* The port that fd is bound to, or -errno: the kernel is asked only if it had the choice. */
static int bound_port(int fd, const struct sockaddr_storage *asked)
{
	/* A sockaddr_in has its port in the same place. */
	struct sockaddr_in6 bound;
	socklen_t len = sizeof(bound);
	memcpy(&bound, asked, sizeof(bound));
	if (bound.sin6_port == 0 && getsockname(fd, (struct sockaddr *)&bound, &len) == -1)
		return -errno;
	return ntohs(bound.sin6_port);
}

static int bind_tcp(struct listener *l, struct handle *h, const struct sockaddr_storage *ss,
		    socklen_t len)
{
	const int on = 1, off = 0;
	int fd = socket(ss->ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd == -1)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (ss->ss_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	int r = bind(fd, (const struct sockaddr *)ss, len) == -1 ? -errno : bound_port(fd, ss);
	if (r < 0) {
		close(fd);
		return r;
	}
	l->port = (uint16_t)r;
	return start(l, h, fd);
}

static int bind_host(struct listener *l, struct handle *h, const char *host, uint16_t port)
{
	struct addr a = { .kind = ADDR_TCP, .port = port };
	struct sockaddr_storage ss = { 0 };
	socklen_t len = 0;
	snprintf(a.host, sizeof(a.host), "%s", host);
	if (addr_literal(&a, &ss, &len) < 0)
		return -EADDRNOTAVAIL;
	return bind_tcp(l, h, &ss, len);
}

static bool family_missing(int r)
{
	return r == -EAFNOSUPPORT || r == -EADDRNOTAVAIL;
}

static int bind_localhost(struct listener *l, uint16_t port)
{
	int r = 0;
	for (int tries = 0; tries < PORT_TRIES; tries++) {
		r = bind_host(l, &l->handle[0], "127.0.0.1", port);
		if (r < 0)
			return r;
		r = bind_host(l, &l->handle[1], "::1", l->port);
		if (r == 0 || family_missing(r))
			return 0;
		if (port || r != -EADDRINUSE)
			return r;
		handle_close(&l->handle[0]);
	}
	return r;
}

static int bind_any(struct listener *l, uint16_t port)
{
	int r = bind_host(l, &l->handle[0], "::", port);
	return family_missing(r) ? bind_host(l, &l->handle[0], "0.0.0.0", port) : r;
}

/* True for a socket file whose server is gone. The type is looked at first, for connect(2) says
 * ECONNREFUSED about a regular file too, and that one is not ours to remove. */
static bool is_stale(const struct sockaddr_un *un, socklen_t len)
{
	struct stat st;
	bool refused;
	int fd;
	if (un->sun_path[0] == '\0' || lstat(un->sun_path, &st) == -1 || !S_ISSOCK(st.st_mode))
		return false;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd == -1)
		return false;
	refused = connect(fd, (const struct sockaddr *)un, len) == -1 && errno == ECONNREFUSED;
	close(fd);
	return refused;
}

/* bind(2) making the file with mode 0600 from its first instant. */
static int bind_private(int fd, const struct sockaddr_un *un, socklen_t len)
{
	mode_t old = umask(0177);
	int r = bind(fd, (const struct sockaddr *)un, len) == -1 ? -errno : 0;
	umask(old);
	return r;
}

/* Remembers the file that was just made; abstract sockets have none. */
static struct socket_file *file_new(const struct sockaddr_un *un)
{
	struct stat st;
	if (un->sun_path[0] == '\0' || lstat(un->sun_path, &st) == -1)
		return NULL;
	struct socket_file *f = xmalloc(sizeof(*f) + sizeof(un->sun_path) + 1);
	*f = (struct socket_file){ .dev = st.st_dev, .ino = st.st_ino };
	snprintf(f->path, sizeof(un->sun_path) + 1, "%.*s", (int)sizeof(un->sun_path),
		 un->sun_path);
	return f;
}

static int bind_unix(struct listener *l, const struct addr *a)
{
	struct sockaddr_storage ss;
	struct sockaddr_un un;
	socklen_t len;
	addr_literal(a, &ss, &len);
	memcpy(&un, &ss, sizeof(un));
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd == -1)
		return -errno;
	int r = bind_private(fd, &un, len);
	if (r == -EADDRINUSE && is_stale(&un, len) && unlink(un.sun_path) == 0)
		r = bind_private(fd, &un, len);
	if (r < 0) {
		close(fd);
		return r;
	}
	l->file = file_new(&un);
	return start(l, &l->handle[0], fd);
}

static int bind_addr(struct listener *l, const struct addr *a)
{
	if (a->kind == ADDR_UNIX)
		return bind_unix(l, a);
	if (a->kind != ADDR_TCP)
		return -EPROTONOSUPPORT;
	if (a->host[0] == '\0')
		return bind_any(l, a->port);
	if (slice_eqi(slice_str(a->host), SLICE("localhost")))
		return bind_localhost(l, a->port);
	return bind_host(l, &l->handle[0], a->host, a->port);
}

/* --- life --- */

struct listener *listener_new(struct reactor *rx, const struct addr *a, listener_accept *accept,
			      void *arg, int *err)
{
	struct listener *l = xcalloc(1, sizeof(*l));
	l->rx = rx;
	l->accept = accept;
	l->arg = arg;
	l->handle[0].fd = l->handle[1].fd = -1;
	task_init(&l->task, listener_run);
	timer_init(&l->pause, listener_resume);
	shared.count++;
	*err = spare_open();
	if (*err == 0)
		*err = bind_addr(l, a);
	if (*err < 0) {
		listener_close(l);
		return NULL;
	}
	return l;
}

/* Removes our socket file, unless a successor has put its own in that place. */
static void file_end(struct socket_file *f)
{
	struct stat st;
	if (f && lstat(f->path, &st) == 0 && st.st_dev == f->dev && st.st_ino == f->ino)
		unlink(f->path);
	free(f);
}

void listener_close(struct listener *l)
{
	if (!l)
		return;
	if (shared.accepting == l)
		shared.accepting = NULL;
	file_end(l->file);
	task_cancel(&l->task);
	timer_clear(l->rx, &l->pause);
	for (size_t i = 0; i < ARRAY_LEN(l->handle); i++)
		handle_close(&l->handle[i]);
	if (--shared.count == 0)
		spare_close();
	free(l);
}

uint16_t listener_port(const struct listener *l)
{
	return l->port;
}
