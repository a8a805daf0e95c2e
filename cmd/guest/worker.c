#include "cmd/guest/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "json/json.h"

enum { BODY_MAX = 1 << 20 };

static int complain(int error, const char *what, const char *path)
{
	fprintf(stderr, "%s %s: %s\n", what, path, strerrordesc_np(error));
	return error;
}

/* Opens the directory of path, below root if there is one, and makes what is missing if make.
 * *last points at the final component. The fd, or -1 with errno. */
static int open_parent(const char *root, const char *path, bool make, const char **last)
{
	bool confined = root[0] != '\0';
	if (confined) {
		size_t n = strlen(root);
		if (strncmp(path, root, n) != 0 || (path[n] != '/' && root[n - 1] != '/')) {
			errno = EPERM;
			return -1;
		}
		path += n;
	}
	int dir = open(confined ? root : "/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	while (dir != -1) {
		while (*path == '/')
			path++;
		const char *slash = strchr(path, '/');
		char name[256];
		if (!slash)
			break;
		size_t n = (size_t)(slash - path);
		if (n >= sizeof(name)) {
			close(dir);
			errno = ENAMETOOLONG;
			return -1;
		}
		memcpy(name, path, n);
		name[n] = '\0';
		path = slash;
		if (make && mkdirat(dir, name, 0755) == -1 && errno != EEXIST) {
			int e = errno;
			close(dir);
			errno = e;
			return -1;
		}
		int next = openat(dir, name,
				  O_PATH | O_DIRECTORY | O_CLOEXEC | (confined ? O_NOFOLLOW : 0));
		int e = errno;
		close(dir);
		errno = e;
		dir = next;
	}
	*last = path;
	return dir;
}

/* Absolute, no "..", no trailing slash unless directories: what a caller may name. */
static bool path_is_plain(const char *path)
{
	if (path[0] != '/')
		return false;
	for (const char *p = path; *p; p++)
		if (p[0] == '/' && p[1] == '.' && p[2] == '.' && (p[3] == '/' || p[3] == '\0'))
			return false;
	return true;
}

/* Fills p: 0, or -1 with errno; an end before that is EPIPE. */
static int read_whole(void *p, size_t n)
{
	for (char *at = p; n > 0;) {
		ssize_t got = read(0, at, n);
		if (got == -1 && errno == EINTR)
			continue;
		if (got == 0)
			errno = EPIPE;
		if (got <= 0)
			return -1;
		at += got;
		n -= (size_t)got;
	}
	return 0;
}

/* The next piece of the body: its length, 0 at the end, or -1 with errno. */
static ssize_t read_piece(char *p, size_t max)
{
	uint32_t n;
	if (read_whole(&n, sizeof(n)) == -1)
		return -1;
	if (n > max) {
		errno = EINVAL;
		return -1;
	}
	return read_whole(p, n) == -1 ? -1 : (ssize_t)n;
}

static int write_all(int fd, const char *p, size_t n)
{
	while (n > 0) {
		ssize_t put = write(fd, p, n);
		if (put == -1 && errno == EINTR)
			continue;
		if (put == -1)
			return errno;
		p += put;
		n -= (size_t)put;
	}
	return 0;
}

static int copy_stdin(int fd)
{
	static char piece[WORKER_PIECE_MAX];
	ssize_t n;
	while ((n = read_piece(piece, sizeof(piece))) > 0) {
		int e = write_all(fd, piece, (size_t)n);
		if (e)
			return e;
	}
	return n == -1 || fsync(fd) == -1 ? errno : 0;
}

static int copy(const char *root, const char *path, const char *mode_text)
{
	char temp_name[64];
	const char *name = "";
	/* Who may not run commands is not to leave set-user-id programs behind either. */
	mode_t mode = (mode_t)strtoul(mode_text, NULL, 8) & (root[0] ? 0777 : 07777);
	if (!path_is_plain(path)) {
		fprintf(stderr, "path %s: must be absolute, without \"..\"\n", path);
		return EINVAL;
	}
	int dir = open_parent(root, path, false, &name);
	if (dir == -1)
		return complain(errno, "cannot write", path);
	struct stat st;
	if (name[0] == '\0' ||
	    (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode)))
		return complain(EISDIR, "cannot write", path);
	snprintf(temp_name, sizeof(temp_name), ".tstunnel-copy.%08x%08x", arc4random(),
		 arc4random());
	int fd = openat(dir, temp_name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd == -1)
		return complain(errno, "cannot write", path);
	int e = copy_stdin(fd);
	if (!e && fchmod(fd, mode) == -1)
		e = errno;
	if (close(fd) == -1 && !e)
		e = errno;
	if (!e && renameat(dir, temp_name, dir, name) == -1)
		e = errno;
	if (!e)
		return 0;
	unlinkat(dir, temp_name, 0);
	return complain(e, "cannot write", path);
}

static int make_directory(const char *root, struct slice text)
{
	char *path = xasprintf("%.*s/", SLICE_FMT(text)); /* the last component is a parent too */
	const char *name;
	int e = 0;
	if (memchr(text.p, '\0', text.n) || !path_is_plain(path)) {
		fprintf(stderr, "path %s: must be absolute, without \"..\"\n", path);
		e = EINVAL;
	} else {
		int dir = open_parent(root, path, true, &name);
		if (dir == -1)
			e = complain(errno, "cannot make directory", path);
		else
			close(dir);
	}
	free(path);
	return e;
}

static int directories(const char *root)
{
	char *body = xmalloc(BODY_MAX);
	size_t n = 0;
	ssize_t got;
	while ((got = read_piece(body + n, BODY_MAX - n)) > 0)
		n += (size_t)got;
	struct json_doc *doc = got == 0 ? json_parse(slice_of(body, n), NULL, NULL) : NULL;
	struct json *list = doc ? json_root(doc) : NULL;
	int e = 0;
	if (!doc || list->type != JSON_ARRAY) {
		fprintf(stderr, "the body must be a JSON array of paths, under 1 MiB\n");
		e = EINVAL;
	}
	for (struct json *v = e ? NULL : json_first(list); v && !e; v = json_next(v)) {
		struct slice path;
		if (json_str(doc, v, &path) < 0) {
			fprintf(stderr, "the body must be a JSON array of paths\n");
			e = EINVAL;
		} else {
			e = make_directory(root, path);
		}
	}
	json_free(doc);
	free(body);
	return e;
}

int worker_open_dir(const char *root, const char *path)
{
	char *inside = xasprintf("%s/", path); /* the last component is a parent, too */
	const char *name;
	int fd = path_is_plain(inside) ? open_parent(root, inside, true, &name) : -1;
	int e = path_is_plain(inside) ? errno : EINVAL;
	free(inside);
	return fd == -1 ? -e : fd;
}

int worker_main(int argc, char **argv)
{
	umask(022);
	/* Only the end of stdin ends it, and never in the middle of a file: neither a signal to the
	 * guest's whole group nor the guest's own end. */
	signal(SIGTERM, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	if (argc == 6 && strcmp(argv[2], "copy") == 0)
		return copy(argv[3], argv[4], argv[5]);
	if (argc == 4 && strcmp(argv[2], "directories") == 0)
		return directories(argv[3]);
	fprintf(stderr, "guest %s is started by guest itself\n", WORKER_NAME);
	return EINVAL;
}
