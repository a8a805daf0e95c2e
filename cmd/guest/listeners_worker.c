#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "cmd/guest/listeners.h"
#include "proto/docker/listeners.h"
#include "reactor/buf.h"

enum { EVERY_MS = 1000, SOCKETS_MAX = 16384, LINE_MAX_BYTES = 2 << 20, CGROUP_MAX = 8192 };

struct socket {
	uint64_t inode;
	struct docker_port port;
	bool ours;
};

struct sockets {
	struct socket *v;
	size_t n;
};

static struct sockets now, before;

static int by_inode(const void *a, const void *b)
{
	const struct socket *x = a, *y = b;
	return x->inode < y->inode ? -1 : x->inode > y->inode;
}

static int by_port(const void *a, const void *b)
{
	const struct docker_port *x = a, *y = b;
	int r = (int)x->number - (int)y->number;
	return r ? r : strcmp(x->ip, y->ip);
}

/* Listeners come first: reading on would take 0.2 s on a host with 30,000 sockets. */
static void read_listeners(const char *path)
{
	FILE *f = fopen(path, "re");
	char row[512];
	int r = 1;
	if (!f)
		return;                  /* a host without IPv6 */
	if (!fgets(row, sizeof(row), f)) /* the headings */
		r = 0;
	while (r == 1 && now.n < SOCKETS_MAX && fgets(row, sizeof(row), f)) {
		struct socket *s = &now.v[now.n];
		s->ours = false;
		r = docker_listener_row(slice_str(row), &s->port, &s->inode);
		now.n += r == 1;
	}
	fclose(f);
}

static void look(void)
{
	now.n = 0;
	read_listeners("/proc/self/net/tcp");
	read_listeners("/proc/self/net/tcp6");
	if (now.n)
		qsort(now.v, now.n, sizeof(now.v[0]), by_inode);
}

static bool have_changed(void)
{
	if (now.n != before.n)
		return true;
	for (size_t i = 0; i < now.n; i++)
		if (now.v[i].inode != before.v[i].inode)
			return true;
	return false;
}

static bool is_of(const char *pid, const char *id)
{
	char path[300], text[CGROUP_MAX];
	snprintf(path, sizeof(path), "/proc/%s/cgroup", pid);
	FILE *f = fopen(path, "re");
	if (!f)
		return false; /* it has ended */
	size_t n = fread(text, 1, sizeof(text), f);
	fclose(f);
	return docker_cgroup_is(slice_of(text, n), id);
}

static void claim(const char *pid)
{
	char path[300], link[64];
	snprintf(path, sizeof(path), "/proc/%s/fd", pid);
	DIR *d = opendir(path);
	struct dirent *e;
	while (d && (e = readdir(d))) {
		struct socket key = { .inode = 0 };
		ssize_t n = readlinkat(dirfd(d), e->d_name, link, sizeof(link));
		if (n < 0 || docker_socket_inode(slice_of(link, (size_t)n), &key.inode) < 0)
			continue;
		struct socket *s = bsearch(&key, now.v, now.n, sizeof(key), by_inode);
		if (s)
			s->ours = true;
	}
	if (d)
		closedir(d);
}

static void find_owners(const char *id)
{
	DIR *d = opendir("/proc");
	struct dirent *e;
	while (d && (e = readdir(d)))
		if (e->d_name[0] >= '1' && e->d_name[0] <= '9' && is_of(e->d_name, id))
			claim(e->d_name);
	if (d)
		closedir(d);
}

/* 0, or -1 when nobody reads any more. */
static int tell(void)
{
	static struct docker_port ports[SOCKETS_MAX];
	static struct buf last;
	struct json_writer w;
	struct buf line;
	size_t n = 0;
	for (size_t i = 0; i < now.n; i++)
		if (now.v[i].ours)
			ports[n++] = now.v[i].port;
	if (n)
		qsort(ports, n, sizeof(ports[0]), by_port);
	buf_init(&line, LINE_MAX_BYTES);
	json_writer_begin(&w, &line);
	docker_listeners_put(&w, ports, n);
	json_writer_end(&w);
	buf_puts(&line, "\n");
	struct slice text = buf_data(&line);
	if (slice_eq(text, buf_data(&last))) {
		buf_end(&line);
		return 0;
	}
	buf_end(&last);
	last = line;
	while (text.n) {
		ssize_t put = write(1, text.p, text.n);
		if (put == -1 && errno != EINTR)
			return -1;
		text = slice_after(text, put > 0 ? (size_t)put : 0);
	}
	return 0;
}

/* Waits for the next look; true when stdin has ended, and so this is over. */
static bool ended(void)
{
	struct pollfd p = { .fd = 0, .events = POLLIN };
	char byte;
	return poll(&p, 1, EVERY_MS) > 0 && read(0, &byte, 1) <= 0;
}

int listeners_main(int argc, char **argv)
{
	if (argc != 3 || !docker_id_is_whole(slice_str(argv[2]))) {
		fprintf(stderr, "guest %s is started by guest itself\n", LISTENERS_NAME);
		return EINVAL;
	}
	now.v = xcalloc(SOCKETS_MAX, sizeof(now.v[0]));
	before.v = xcalloc(SOCKETS_MAX, sizeof(before.v[0]));
	bool first = true;
	do {
		look();
		if (first || have_changed()) {
			find_owners(argv[2]);
			if (tell() == -1)
				break;
			struct sockets swap = before;
			before = now;
			now = swap;
		}
		first = false;
	} while (!ended());
	return 0;
}
