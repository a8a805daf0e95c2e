#include "cmd/tsctl/instance.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "reactor/err.h"

#define PID_SUFFIX ".pid"

static int dir_path(char *out, size_t outlen)
{
	const char *xdg = getenv("XDG_RUNTIME_DIR");
	int n;
	if (xdg && xdg[0] == '/')
		n = snprintf(out, outlen, "%s/tstunnel", xdg);
	else if (getuid() == 0)
		n = snprintf(out, outlen, "/run/tstunnel");
	else
		n = snprintf(out, outlen, "/tmp/tstunnel-%u", getuid());
	return n > 0 && (size_t)n < outlen ? 0 : -ENAMETOOLONG;
}

/* In /tmp anybody may have made the directory before us. */
static int dir_make(const char *dir, char *err, size_t errlen)
{
	struct stat st;
	if (mkdir(dir, 0700) == -1 && errno != EEXIST) {
		int e = -errno;
		snprintf(err, errlen,
			 "cannot make the runtime directory %s: %s (XDG_RUNTIME_DIR "
			 "chooses another place)",
			 dir, err_text(e));
		return e;
	}
	if (lstat(dir, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == getuid() &&
	    (st.st_mode & 077) == 0)
		return 0;
	snprintf(err, errlen, "%s must be a directory of yours with mode 0700", dir);
	return -EPERM;
}

static int set_paths(struct instance *i, const char *suffix)
{
	snprintf(i->pid_file, sizeof(i->pid_file), "%s/%s%s", i->dir, i->name, suffix);
	snprintf(i->log, sizeof(i->log), "%s/%s.log", i->dir, i->name);
	i->socket = (struct addr){ .kind = ADDR_UNIX };
	int n = snprintf(i->socket.path, sizeof(i->socket.path), "%s/%s.sock", i->dir, i->name);
	return (size_t)n < sizeof(i->socket.path) ? 0 : -ENAMETOOLONG;
}

void instance_default_host(struct addr *a)
{
	if (a->kind == ADDR_TCP && a->host[0] == '\0')
		snprintf(a->host, sizeof(a->host), "localhost");
}

static int init(struct instance *i, const char *name, const char *suffix, char *err, size_t errlen)
{
	*i = (struct instance){ .lock = -1 };
	if (dir_path(i->dir, sizeof(i->dir)) < 0) {
		snprintf(err, errlen, "XDG_RUNTIME_DIR is too long");
		return -ENAMETOOLONG;
	}
	snprintf(i->name, sizeof(i->name), "%s", name);
	for (char *p = i->name; *p; p++)
		if (!isalnum((unsigned char)*p) && *p != '.' && *p != '-')
			*p = '_';
	if (set_paths(i, suffix) < 0) {
		snprintf(err, errlen,
			 "the control socket's path %s/%s.sock is too long for a socket", i->dir,
			 i->name);
		return -ENAMETOOLONG;
	}
	return dir_make(i->dir, err, errlen);
}

int instance_init(struct instance *i, const struct addr *listen, char *err, size_t errlen)
{
	return init(i, addr_text(listen), PID_SUFFIX, err, errlen);
}

int instance_init_single(struct instance *i, const char *name, char *err, size_t errlen)
{
	return init(i, name, ".lock", err, errlen);
}

static int read_pid(int fd)
{
	char text[32] = "";
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
	return n > 0 ? (int)strtol(text, NULL, 10) : 0;
}

/* A lock on the open file, as flock(2) has it, but one that can be asked about without being taken:
 * a look at the wrong moment must not keep anybody from starting. */
static const struct flock whole = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

int instance_lock(struct instance *i, const struct addr *listen, char *err, size_t errlen)
{
	int fd = open(i->pid_file, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd == -1) {
		int e = -errno;
		snprintf(err, errlen, "cannot open %s: %s", i->pid_file, err_text(e));
		return e;
	}
	if (fcntl(fd, F_OFD_SETLK, &whole) == -1) {
		const char *where = listen ? addr_text(listen) : "";
		snprintf(err, errlen,
			 listen ? "tsctl already runs on %s (pid %d); \"tsctl stop --listen %s\" "
				  "ends it"
				: "it runs already%s (pid %d)%s",
			 where, read_pid(fd), where);
		close(fd);
		return -EADDRINUSE;
	}
	char text[32];
	int n = snprintf(text, sizeof(text), "%d\n", getpid());
	if (ftruncate(fd, 0) == -1 || pwrite(fd, text, (size_t)n, 0) != n) {
		int e = errno ? -errno : -EIO;
		snprintf(err, errlen, "cannot write %s: %s", i->pid_file, err_text(e));
		close(fd);
		return e;
	}
	i->lock = fd;
	return 0;
}

int instance_log_stdio(const struct instance *i, char *err, size_t errlen)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int log = open(i->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (null == -1 || log == -1) {
		int e = -errno;
		snprintf(err, errlen, "cannot open %s: %s", null == -1 ? "/dev/null" : i->log,
			 err_text(e));
		if (null != -1)
			close(null);
		return e;
	}
	dup2(null, 0);
	dup2(log, 1);
	dup2(log, 2);
	close(null);
	close(log);
	return 0;
}

void instance_unlock(struct instance *i)
{
	if (i->lock == -1)
		return;
	unlink(i->socket.path);
	close(i->lock);
	i->lock = -1;
}

int instance_pid(const struct instance *i)
{
	int fd = open(i->pid_file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd == -1)
		return 0;
	struct flock lock = whole;
	int pid = 0;
	if (fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK)
		pid = read_pid(fd);
	close(fd);
	return pid;
}

int instance_each(int (*each)(const struct instance *, int pid, void *arg), void *arg)
{
	struct instance i = { .lock = -1 };
	if (dir_path(i.dir, sizeof(i.dir)) < 0)
		return 0;
	DIR *d = opendir(i.dir);
	if (!d)
		return 0;
	struct dirent *e;
	int r = 0;
	while (r == 0 && (e = readdir(d))) {
		struct slice file = slice_str(e->d_name);
		if (!slice_ends(file, SLICE(PID_SUFFIX)) || file.n - 4 >= sizeof(i.name))
			continue;
		snprintf(i.name, sizeof(i.name), "%.*s", (int)(file.n - 4), e->d_name);
		int pid = set_paths(&i, PID_SUFFIX) < 0 ? 0 : instance_pid(&i);
		if (pid > 0)
			r = each(&i, pid, arg);
	}
	closedir(d);
	return r;
}
