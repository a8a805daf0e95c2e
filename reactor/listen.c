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

struct listener {
	struct reactor *rx;
	struct handle handle[2];
	struct task task;
	struct timer pause;
	listener_accept *accept;
	void *arg;
	bool *gone;      /* set while accept() runs: the owner closed us in there */
	int spare;       /* a descriptor to give up when there are no others; -1: lost */
	uint64_t warned; /* when shedding was last logged */
	uint16_t port;
	struct sockaddr_un un; /* the socket file to unlink, if un.sun_path[0] */
	dev_t dev;
	ino_t ino;
};

/* --- accepting --- */

static int spare_open(void)
{
	return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

/* Out of descriptors: uses the spare one to take a connection off the queue and reset it, so that
 * its peer learns at once. */
static int shed(struct listener *l, int listen_fd, int why)
{
	struct linger reset = { .l_onoff = 1 };
	int fd;
	if (log_ratelimit(&l->warned, WARN_MS))
		log_warn("listen refusing connections port=%u error=%s", l->port,
			 log_quote(slice_str(strerrordesc_np(why))));
	if (l->spare != -1)
		close(l->spare);
	fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd != -1) {
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		close(fd);
	}
	l->spare = spare_open();
	return fd != -1 && l->spare != -1 ? 0 : -EBUSY;
}

/* One connection: 0 = go on, -EAGAIN = no more, -EBUSY = not now, -ECANCELED = l is gone. */
static int accept_one(struct listener *l, struct handle *h)
{
	struct sockaddr_storage peer = { 0 };
	socklen_t len = sizeof(peer);
	bool gone = false;
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
	// cppcheck-suppress autoVariables
	l->gone = &gone;
	l->accept(l->arg, fd, (const struct sockaddr *)&peer);
	if (gone)
		return -ECANCELED;
	l->gone = NULL;
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

static int bind_tcp(struct listener *l, struct handle *h, const struct sockaddr_storage *ss,
		    socklen_t len)
{
	const int on = 1, off = 0;
	struct sockaddr_in6 bound = { 0 };
	socklen_t bound_len = sizeof(bound);
	int fd = socket(ss->ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd == -1)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (ss->ss_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	if (bind(fd, (const struct sockaddr *)ss, len) == -1 ||
	    getsockname(fd, (struct sockaddr *)&bound, &bound_len) == -1) {
		int r = -errno;
		close(fd);
		return r;
	}
	l->port = ntohs(bound.sin6_port); /* a sockaddr_in has it in the same place */
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

static int bind_unix(struct listener *l, const struct addr *a)
{
	struct sockaddr_storage ss;
	struct stat st;
	socklen_t len;
	int r, fd;
	addr_literal(a, &ss, &len);
	memcpy(&l->un, &ss, sizeof(l->un));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd == -1)
		return -errno;
	r = bind_private(fd, &l->un, len);
	if (r == -EADDRINUSE && is_stale(&l->un, len) && unlink(l->un.sun_path) == 0)
		r = bind_private(fd, &l->un, len);
	if (r < 0) {
		close(fd);
		l->un.sun_path[0] = '\0';
		return r;
	}
	if (l->un.sun_path[0] && lstat(l->un.sun_path, &st) == 0) {
		l->dev = st.st_dev;
		l->ino = st.st_ino;
	}
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
	l->spare = spare_open();
	*err = l->spare == -1 ? -errno : bind_addr(l, a);
	if (*err < 0) {
		listener_close(l);
		return NULL;
	}
	return l;
}

/* Removes our socket file, unless a successor has put its own in that place. */
static void unlink_own(const struct listener *l)
{
	struct stat st;
	if (l->un.sun_path[0] && lstat(l->un.sun_path, &st) == 0 && st.st_dev == l->dev &&
	    st.st_ino == l->ino)
		unlink(l->un.sun_path);
}

void listener_close(struct listener *l)
{
	if (!l)
		return;
	if (l->gone)
		*l->gone = true;
	unlink_own(l);
	task_cancel(&l->task);
	timer_clear(l->rx, &l->pause);
	for (size_t i = 0; i < ARRAY_LEN(l->handle); i++)
		handle_close(&l->handle[i]);
	if (l->spare != -1)
		close(l->spare);
	free(l);
}

uint16_t listener_port(const struct listener *l)
{
	return l->port;
}
