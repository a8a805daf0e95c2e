/* Sockets, the loop (edge-triggered, every descriptor added once) and the pattern. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <arpa/inet.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "bench/load.h"

enum { EVENTS = 512, ACCEPTS = 64, BACKLOG = 4096, PATTERN_BYTES = 65521 /* a prime */ };
static const char MAGIC[4] = { 't', 's', 'b', '1' };

static char pattern[PATTERN_BYTES + IO_BYTES], scratch[IO_BYTES];

_Noreturn void die(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
	exit(3);
}

uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* --- the pattern --- */

static void pattern_init(void)
{
	uint64_t x = 0x9e3779b97f4a7c15;
	for (size_t i = 0; i < PATTERN_BYTES; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		pattern[i] = (char)(x >> 32);
	}
	for (size_t i = 0; i < IO_BYTES; i++) /* so that a piece never wraps */
		pattern[PATTERN_BYTES + i] = pattern[i % PATTERN_BYTES];
}

const char *pattern_at(unsigned index, int way, uint64_t position)
{
	return pattern + (position + index * 7919ull + (unsigned)way * 31337ull) % PATTERN_BYTES;
}

static void compare(const struct stream *s, int way, struct way *w, const char *data, size_t n)
{
	const char *want = pattern_at(s->index, way, w->got);
	size_t i = 0;
	if (memcmp(data, want, n) == 0 || w->bad)
		return;
	while (data[i] == want[i])
		i++;
	w->bad = true;
	fprintf(stderr, "load: stream %u %s: byte %llu is 0x%02x, not 0x%02x\n", s->index,
		way == UP ? "up" : "down", (unsigned long long)(w->got + i), (uint8_t)data[i],
		(uint8_t)want[i]);
}

/* --- bytes --- */

ssize_t net_send(struct side *e, uint64_t n)
{
	struct way *w = &e->stream->way[e->which];
	size_t len = (size_t)MIN(n, (uint64_t)IO_BYTES);
	ssize_t r;
	if (!(e->ready & READY_OUT))
		return -EAGAIN;
	r = send(e->fd, pattern_at(e->stream->index, e->which, w->sent), len, MSG_NOSIGNAL);
	if (r == -1) {
		if (errno == EAGAIN)
			e->ready &= ~(unsigned)READY_OUT;
		return -errno;
	}
	w->sent += (uint64_t)r;
	return r;
}

ssize_t net_recv(struct side *e)
{
	int way = e->which == CLIENT ? DOWN : UP;
	struct way *w = &e->stream->way[way];
	ssize_t r;
	if (!(e->ready & READY_IN))
		return -EAGAIN;
	r = recv(e->fd, scratch, sizeof(scratch), 0);
	if (r == -1) {
		if (errno == EAGAIN)
			e->ready &= ~(unsigned)READY_IN;
		return -errno;
	}
	compare(e->stream, way, w, scratch, (size_t)r);
	w->got += (uint64_t)r;
	return r;
}

/* --- connections --- */

static struct sockaddr_in address(const char *text)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	const char *colon = strrchr(text, ':');
	char host[64];
	if (!colon || (size_t)(colon - text) >= sizeof(host)) {
		fprintf(stderr, "load: %s is not ADDRESS:PORT\n", text);
		exit(2);
	}
	snprintf(host, sizeof(host), "%.*s", (int)(colon - text), text);
	a.sin_port = htons((uint16_t)atoi(colon + 1));
	if (inet_pton(AF_INET, host, &a.sin_addr) != 1) {
		fprintf(stderr, "load: %s is not an IPv4 address\n", host);
		exit(2);
	}
	return a;
}

static struct side *side_new(int fd, int which)
{
	struct side *e = xcalloc(1, sizeof(*e));
	struct epoll_event ev = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
				  .data.ptr = e };
	int one = 1;
	e->fd = fd;
	e->which = (uint8_t)which;
	list_init(&e->link);
	list_add_tail(&load.sides, &e->all);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (epoll_ctl(load.epfd, EPOLL_CTL_ADD, fd, &ev) == -1)
		die("epoll_ctl");
	return e;
}

void net_open(void)
{
	struct sockaddr_in a = address(load.listen);
	struct epoll_event ev = { .events = EPOLLIN };
	int one = 1;
	pattern_init();
	list_init(&load.run);
	list_init(&load.sides);
	load.epfd = epoll_create1(EPOLL_CLOEXEC);
	load.listener = -1;
	if (load.epfd == -1)
		die("epoll_create1");
	if (load.banner)
		return; /* the sshd is there */
	load.listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (load.listener == -1)
		die("socket");
	setsockopt(load.listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(load.listener, (struct sockaddr *)&a, sizeof(a)) == -1 ||
	    listen(load.listener, BACKLOG) == -1)
		die(load.listen);
	if (epoll_ctl(load.epfd, EPOLL_CTL_ADD, load.listener, &ev) == -1)
		die("epoll_ctl");
}

static void accept_some(void)
{
	struct side *e;
	int fd;
	for (int i = 0; i < ACCEPTS; i++) {
		fd = accept4(load.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd == -1) {
			if (errno != EAGAIN && errno != ECONNABORTED)
				die("accept");
			return;
		}
		e = side_new(fd, SERVER);
		load.accepted++, load.serving++;
		e->ready = READY_IN | READY_OUT; /* as far as we know */
		list_add_tail(&load.run, &e->link);
	}
}

bool net_connect(struct stream *s)
{
	struct sockaddr_in a = address(load.connect);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd == -1)
		die("socket");
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) == -1 && errno != EINPROGRESS) {
		if (errno == EADDRNOTAVAIL)
			die("no ephemeral ports left");
		close(fd);
		return false;
	}
	s->side[CLIENT] = side_new(fd, CLIENT);
	s->side[CLIENT]->stream = s;
	s->side[CLIENT]->open = load.through.n == 0;
	return true;
}

static _Noreturn void refused(const char *why)
{
	fprintf(stderr, "load: CONNECT: %.*s\n", (int)strcspn(why, "\r\n"), why);
	exit(3);
}

static bool connect_send(struct side *e)
{
	char text[512];
	if (!(e->ready & READY_OUT))
		return false;
	int n = snprintf(text, sizeof(text), "CONNECT %s HTTP/1.1\r\nHost: localhost\r\n\r\n",
			 load.through.v[e->stream->index % load.through.n]);
	if (send(e->fd, text, (size_t)n, MSG_NOSIGNAL) != n)
		refused("not sent");
	e->asked = true;
	return true;
}

/* Sends CONNECT, and takes the answer's head but not a byte behind it. False: not there yet. */
static bool connect_through(struct side *e)
{
	char text[1024];
	if (!e->asked && !connect_send(e))
		return false;
	if (!(e->ready & READY_IN))
		return false;
	ssize_t r = recv(e->fd, text, sizeof(text) - 1, MSG_PEEK);
	if (r == -1 && errno == EAGAIN) {
		e->ready &= ~(unsigned)READY_IN;
		return false;
	}
	if (r <= 0)
		refused(r == 0 ? "closed" : strerror(errno));
	text[r] = 0;
	const char *end = strstr(text, "\r\n\r\n");
	if (!end && r < (ssize_t)sizeof(text) - 1) {
		e->ready &= ~(unsigned)READY_IN; /* the rest tells, too */
		return false;
	}
	if (!end || strncmp(text, "HTTP/1.", 7) != 0 || strncmp(text + 8, " 200 ", 5) != 0)
		refused(text);
	e->open = recv(e->fd, text, (size_t)(end + 4 - text), 0) == end + 4 - text;
	return e->open;
}

void net_close(struct side *e)
{
	close(e->fd);
	list_del(&e->link);
	list_del(&e->all);
	if (e->which == SERVER)
		load.serving--;
	if (e->stream && e->stream->side[e->which] == e)
		e->stream->side[e->which] = NULL;
	free(e);
}

void net_end(void)
{
	while (!list_empty(&load.sides))
		net_close(container_of(load.sides.next, struct side, all));
	if (load.listener != -1)
		close(load.listener);
	close(load.epfd);
}

void net_again(struct side *e)
{
	if (list_empty(&e->link))
		list_add_tail(&load.run, &e->link);
}

bool net_send_head(struct side *e)
{
	char head[HEAD_BYTES];
	if (e->head_got == HEAD_BYTES)
		return true;
	if (!(e->ready & READY_OUT))
		return false;
	memcpy(head, MAGIC, sizeof(MAGIC));
	memcpy(head + 4, &e->stream->index, 4);
	e->head_got = HEAD_BYTES;
	if (send(e->fd, head, sizeof(head), MSG_NOSIGNAL) == HEAD_BYTES)
		return true;
	load.errors++;
	return false;
}

bool net_take_head(struct side *e)
{
	unsigned index;
	ssize_t r = recv(e->fd, e->head + e->head_got, (size_t)(HEAD_BYTES - e->head_got), 0);
	if (r <= 0) {
		if (r == 0 || errno != EAGAIN)
			net_close(e);
		else
			e->ready &= ~(unsigned)READY_IN;
		return false;
	}
	e->head_got = (uint8_t)(e->head_got + r);
	if (e->head_got < HEAD_BYTES) {
		net_again(e);
		return false;
	}
	memcpy(&index, e->head + 4, 4);
	if (memcmp(e->head, MAGIC, sizeof(MAGIC)) != 0 || index >= (unsigned)load.conns ||
	    load.stream[index].known) {
		fprintf(stderr, "load: a connection began with something else than a head\n");
		load.errors++;
		net_close(e);
		return false;
	}
	e->stream = &load.stream[index];
	e->stream->side[SERVER] = e;
	e->stream->known = true;
	load.known++;
	return true;
}

bool net_connect_all(void)
{
	for (int i = 0; i < load.conns; i++) {
		struct stream *s = &load.stream[i];
		s->index = (unsigned)i;
		if (!net_connect(s)) {
			fprintf(stderr, "load: %s: connection refused\n", load.connect);
			return false;
		}
		while (i - (int)load.known >= ACCEPTS && !load.timed_out)
			net_turn(100);
	}
	while (load.known < (unsigned)load.conns && !load.errors && !load.timed_out)
		net_turn(100);
	return load.known == (unsigned)load.conns;
}

/* --- the loop --- */

void net_turn(int ms)
{
	struct epoll_event ev[EVENTS];
	struct list todo;
	int n = epoll_wait(load.epfd, ev, EVENTS, list_empty(&load.run) ? ms : 0);
	if (n == -1 && errno != EINTR)
		die("epoll_wait");
	for (int i = 0; i < n; i++) {
		struct side *e = ev[i].data.ptr;
		if (!e) {
			accept_some();
			continue;
		}
		if (ev[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
			e->ready |= READY_IN;
		if (ev[i].events & (EPOLLOUT | EPOLLERR))
			e->ready |= READY_OUT;
		net_again(e);
	}
	list_init(&todo);
	list_splice(&todo, &load.run);
	while (!list_empty(&todo)) {
		struct side *e = container_of(list_pop(&todo), struct side, link);
		if (e->which == SERVER || e->open || connect_through(e))
			load.on_run(e);
	}
	if (now_ns() - load.begin > load.limit_ms * 1000000)
		load.timed_out = true;
}
