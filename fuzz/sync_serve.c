/*
 * A far end whose brain is hostile: messages in any order, with any fields, and raw bytes, against
 * a root with files, directories and symlinks that lead out of it. Nothing outside the root and the
 * store may change, what waits to be sent stays bounded, and it ends when the brain does.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/sync/serve.h"
#include "proto/sync/wire.h"
#include "reactor/buf.h"
#include "reactor/log.h"

enum { MESSAGES_MAX = 24, TURN_LIMIT = 2000, MEMORY_MAX = 96 << 20 };

static struct reactor *rx;
static char base[64];
static bool ended;
static const uint8_t *in;
static size_t left;

static unsigned byte(void)
{
	if (left == 0)
		return 0;
	left--;
	return *in++;
}

static const char *at(const char *name)
{
	static char path[4][128];
	static unsigned next;
	char *p = path[next++ % 4];
	snprintf(p, sizeof(path[0]), "%s/%s", base, name);
	return p;
}

static void put(const char *name, const char *text)
{
	int fd = open(at(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	BUG_ON(fd == -1 || write(fd, text, strlen(text)) != (ssize_t)strlen(text));
	close(fd);
}

static void clear(int dir, const char *name)
{
	int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd == -1) {
		unlinkat(dir, name, 0);
		return;
	}
	fchmod(fd, 0700);
	DIR *d = fdopendir(fd);
	for (struct dirent *e; (e = readdir(d));)
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			clear(fd, e->d_name);
	closedir(d);
	unlinkat(dir, name, AT_REMOVEDIR);
}

static void world_make(void)
{
	clear(AT_FDCWD, base);
	BUG_ON(mkdir(base, 0755) == -1 || mkdir(at("root"), 0755) == -1);
	BUG_ON(mkdir(at("outside"), 0755) == -1 || mkdir(at("root/d"), 0755) == -1);
	put("outside/secret", "secret");
	put("root/a", "aaaa");
	put("root/d/b", "bbbb");
	BUG_ON(symlink("../outside", at("root/out")) == -1);
	BUG_ON(symlink("../outside/secret", at("root/s")) == -1);
}

static unsigned entries(const char *name)
{
	unsigned n = 0;
	DIR *d = opendir(at(name));
	BUG_ON(!d);
	for (struct dirent *e; (e = readdir(d));)
		n++;
	closedir(d);
	return n - 2;
}

static void world_check(void)
{
	char text[16] = "";
	struct stat st;
	BUG_ON(stat(at("outside/secret"), &st) == -1 || (st.st_mode & 0777) != 0644);
	int fd = open(at("outside/secret"), O_RDONLY | O_CLOEXEC);
	BUG_ON(fd == -1 || read(fd, text, sizeof(text) - 1) != 6 || strcmp(text, "secret") != 0);
	close(fd);
	BUG_ON(entries("outside") != 1);
	/* root, outside, and the store once it was opened */
	BUG_ON(entries(".") != 2u + (access(at("store"), F_OK) == 0));
}

static size_t memory(void)
{
	size_t pages = 0;
	FILE *f = fopen("/proc/self/statm", "re");
	BUG_ON(!f || fscanf(f, "%*u %zu", &pages) != 1);
	fclose(f);
	return pages * 4096;
}

/* --- messages --- */

static struct slice path(void)
{
	static const char *const some[] = { "a",
					    "d",
					    "d/b",
					    "new",
					    "d/new",
					    "out",
					    "s",
					    "out/secret",
					    "out/new",
					    "..",
					    "d/../../outside/secret",
					    "/etc/passwd",
					    ".tstunnel-sync",
					    ".tstunnel-sync/x",
					    "s/x",
					    "d/b/x" };
	unsigned k = byte();
	if (k < 240)
		return slice_str(some[k % ARRAY_LEN(some)]);
	size_t n = byte();
	n = MIN(n, left);
	struct slice s = slice_of(in, n);
	in += n;
	left -= n;
	return s;
}

static struct version *version(void)
{
	unsigned k = byte();
	uint8_t digest[SYNC_DIGEST];
	struct stat st;
	switch (k % 8) {
	case 0:
		return NULL;
	case 1:
		return version_dir(byte() * 2);
	case 2:
		return version_link(k & 8 ? SLICE("../outside/secret") : SLICE("../outside"));
	case 3:
		return version_other();
	case 4: /* as it is */
	case 5:
		if (lstat(at(k & 8 ? "root/a" : "root/d/b"), &st) == -1 || !S_ISREG(st.st_mode))
			return NULL;
		return version_file(st.st_mode & 0777, (uint64_t)st.st_size,
				    st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec, NULL);
	case 6:
		return version_dir(0755);
	default:
		memset(digest, (int)k, sizeof(digest));
		return version_file(0644, k & 8 ? byte() : (uint64_t)byte() << (byte() % 56),
				    (int64_t)byte() << 50, k & 16 ? digest : NULL);
	}
}

static size_t message(char *out)
{
	static char zeros[70000];
	struct msg m = { .type = (enum msg_type)(1 + byte() % (MSG_TYPES - 1)) };
	m.id = byte() % 8;
	if (m.type == MSG_OPEN)
		m.id = WIRE_VERSION;
	m.flags = byte();
	m.status = -(int)byte();
	m.at = (uint64_t)byte() << (byte() % 64);
	m.n = (uint64_t)byte() << (byte() % 64);
	m.path = path();
	m.from = path();
	m.text = m.type == MSG_OPEN ? SLICE("") : path();
	m.want = version();
	m.expect = version();
	m.source = version();
	m.data = slice_of(zeros, m.want && m.want->kind == SYNC_FILE && m.type == MSG_PUT
				     ? (size_t)MIN(m.want->size, sizeof(zeros))
				     : (size_t)byte() * byte());
	char *p = wire_put(&m, out);
	memcpy(p, m.data.p, m.data.n);
	size_t n = wire_size(&m);
	version_unref(m.want);
	version_unref(m.expect);
	version_unref(m.source);
	return n;
}

/* --- the run --- */

static void on_ended(void *arg, int code, const char *why)
{
	(void)arg;
	BUG_ON(code > 0 || !why);
	ended = true;
}

static bool tick_over;
static void tick(struct timer *t)
{
	(void)t;
	tick_over = true;
}

static void turn(unsigned ms)
{
	struct timer timer;
	timer_init(&timer, tick);
	timer_set(rx, &timer, ms);
	tick_over = false;
	reactor_run_until(rx, &tick_over);
	timer_clear(rx, &timer);
}

/* All that comes back is thrown away; true when something did. */
static bool drain(int fd)
{
	static char junk[1 << 16];
	bool some = false;
	while (recv(fd, junk, sizeof(junk), MSG_DONTWAIT) > 0)
		some = true;
	return some;
}

static void say(int fd, const char *p, size_t n)
{
	for (int i = 0; n && !ended && i < TURN_LIMIT; i++) {
		ssize_t k = send(fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (k > 0) {
			p += k;
			n -= (size_t)k;
			continue;
		}
		turn(0);
		drain(fd);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char out[WIRE_MAX + WIRE_HEAD];
	static size_t before;
	int fd[2];
	if (!rx) {
		rx = reactor_new();
		log_set_level("error");
		snprintf(base, sizeof(base), "/dev/shm/sync-fuzz.%d", (int)getpid());
	}
	in = data;
	left = size;
	ended = false;
	world_make();
	BUG_ON(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd) == -1);
	struct stream *both = fd_stream_new(rx, fd[1]);
	struct serve *s = serve_new(rx, both, both, at("root"), at("store"), on_ended, NULL);
	unsigned how = byte();
	if (!(how & 1)) {
		struct msg open = { .type = MSG_OPEN, .id = WIRE_VERSION };
		size_t n = wire_size(&open);
		wire_put(&open, out);
		say(fd[0], out, n);
		for (int i = 0; i < 20; i++) {
			turn(1);
			if (drain(fd[0]) && i > 1)
				break;
		}
	}
	for (int i = 0; left && i < MESSAGES_MAX && !ended; i++) {
		if (how & 2 && byte() == 255) { /* no message at all */
			say(fd[0], (const char *)in, left);
			left = 0;
			break;
		}
		say(fd[0], out, message(out));
		turn(0);
	}
	turn(1);
	if (before == 0)
		before = memory();
	BUG_ON(memory() > before + MEMORY_MAX);
	shutdown(fd[0], SHUT_WR);
	for (int i = 0; !ended && i < TURN_LIMIT; i++) {
		turn(1);
		drain(fd[0]);
	}
	BUG_ON(!ended);
	serve_free(s);
	close(fd[0]);
	world_check();
	clear(AT_FDCWD, base);
	return 0;
}
