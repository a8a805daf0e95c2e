#include "proto/sync/root.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "proto/sync/digest.h"
#include "proto/sync/root_int.h"

enum {
	OPEN_TRIES = 64,      /* openat2(2): EAGAIN when something was renamed meanwhile */
	LINK_TRIES = 8,       /* a link that became something else between two calls */
	STAGE_AGE = 86400,    /* seconds that a partial file is kept */
	TRASH_MAX_MIB = 1024, /* the default */
	BELOW = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS
};

static int open_below(int dir, const char *path, int flags)
{
	struct open_how how = { .flags = (uint64_t)(unsigned)flags, .resolve = BELOW };
	for (int i = 0; i < OPEN_TRIES; i++) {
		long fd = syscall(SYS_openat2, dir, path, &how, sizeof(how));
		if (fd >= 0)
			return (int)fd;
		if (errno != EAGAIN && errno != EINTR)
			break;
	}
	return -errno;
}

static bool is_private(struct slice name)
{
	return slice_eq(name, slice_str(SYNC_PRIVATE));
}

/* Names that no tree has. openat2 keeps ".." inside the root, but renameat2 does not. */
static bool path_ok(const char *path)
{
	struct slice rest = slice_str(path), name;
	if (rest.n > SYNC_PATH_MAX)
		return false;
	while (rest.n) {
		bool more = slice_cut(rest, '/', &name, &rest);
		if (name.n == 0 || name.n > SYNC_NAME_MAX || slice_eq(name, SLICE(".")) ||
		    slice_eq(name, SLICE("..")) || is_private(name) || (more && rest.n == 0))
			return false;
	}
	return true;
}

/* The programs' own state, where it lies in the root: no scan sees it, and no peer gets to it. */
static bool in_state(const struct root *r, const char *path)
{
	size_t n = r->state ? strlen(r->state) : 0;
	return n && strncmp(path, r->state, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

int root_open_at(struct root *r, const char *path, int flags)
{
	if (!path_ok(path) || in_state(r, path))
		return -EINVAL;
	flags |= O_NOFOLLOW | O_CLOEXEC | (flags & O_PATH ? 0 : O_NONBLOCK);
	return open_below(r->fd, *path ? path : ".", flags);
}

static void batch_forget(struct root *r)
{
	if (r->batch.dir != -1)
		close(r->batch.dir);
	r->batch.dir = -1;
	r->batch.n = 0;
	r->batch.looked = false;
}

void root_batch(struct root *r)
{
	root_batch_end(r);
	if (r)
		r->batch.on = true;
}

void root_batch_end(struct root *r)
{
	if (!r)
		return;
	BUG_ON(r->batch.users);
	batch_forget(r);
	r->batch.on = r->batch.ready = false;
}

static int batch_take(struct root *r, struct place *p)
{
	p->lent = r;
	p->dir = r->batch.dir;
	r->batch.users++;
	return 0;
}

/* Only the parent of the last place is kept, and we move and remove only what is in the parent of a
 * place: so it is never one that we have moved ourselves, nor below one. */
int place_open(struct root *r, const char *path, struct place *p)
{
	char parent[SYNC_PATH_MAX + 1];
	*p = (struct place){ .dir = -1, .mode = -1 };
	if (!*path || !path_ok(path) || in_state(r, path))
		return -EINVAL;
	const char *slash = strrchr(path, '/');
	size_t n = slash ? (size_t)(slash - path) : 0;
	p->name = slash ? slash + 1 : path;
	if (n > 0 && n == r->batch.n && memcmp(path, r->batch.path, n) == 0)
		return batch_take(r, p);
	if (r->batch.users == 0)
		batch_forget(r);
	if (n == 0) {
		p->dir = r->fd;
		return 0;
	}
	memcpy(parent, path, n);
	parent[n] = '\0';
	int fd = open_below(r->fd, parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return fd == -ENOTDIR || fd == -ELOOP ? -ENOENT : fd;
	if (r->batch.on && r->batch.users == 0) {
		r->batch.dir = fd;
		r->batch.n = n;
		memcpy(r->batch.path, path, n);
		return batch_take(r, p);
	}
	p->dir = fd;
	p->own = true;
	return 0;
}

const struct stat *place_stat(struct place *p, struct stat *room)
{
	struct root *r = p->lent;
	if (r && r->batch.looked)
		return &r->batch.st;
	struct stat *st = r ? &r->batch.st : room;
	if (fstat(p->dir, st) == -1)
		return NULL;
	if (r)
		r->batch.looked = true;
	return st;
}

int path_chmod(int fd, unsigned mode)
{
	char link[32];
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	return chmod(link, mode) == -1 ? -errno : 0;
}

bool place_unlock(struct place *p, int err)
{
	struct stat st;
	if (err != -EACCES || p->mode != -1 || fstat(p->dir, &st) == -1 || st.st_uid != geteuid() ||
	    (st.st_mode & 0300) == 0300)
		return false;
	if (path_chmod(p->dir, (st.st_mode & 07777) | 0300) < 0)
		return false;
	p->mode = (int)(st.st_mode & 07777);
	return true;
}

void place_close(struct place *p)
{
	if (p->mode != -1)
		path_chmod(p->dir, (unsigned)p->mode);
	if (p->lent)
		p->lent->batch.users--;
	if (p->own)
		close(p->dir);
	*p = (struct place){ .dir = -1, .mode = -1 };
}

int look_stat(int dir, const char *name, struct statx *sx)
{
	int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | (*name ? 0 : AT_EMPTY_PATH);
	return statx(dir, name, flags, STATX_BASIC_STATS, sx) == -1 ? -errno : 0;
}

/* Wraps before 1677 and after 2262, in the same way everywhere. */
static int64_t stamp_ns(struct statx_timestamp t)
{
	return (int64_t)((uint64_t)t.tv_sec * 1000000000 + t.tv_nsec);
}

struct timespec time_of(int64_t ns)
{
	int64_t s = ns / 1000000000, rest = ns % 1000000000;
	if (rest < 0) {
		s--;
		rest += 1000000000;
	}
	return (struct timespec){ .tv_sec = s, .tv_nsec = rest };
}

int64_t look_mtime(const struct statx *sx)
{
	return stamp_ns(sx->stx_mtime);
}

int64_t look_ctime(const struct statx *sx)
{
	return stamp_ns(sx->stx_ctime);
}

int look_version(int dir, const char *name, const struct statx *sx, struct version **v,
		 struct stamp *stamp)
{
	char target[PATH_MAX];
	ssize_t n;
	*stamp = (struct stamp){ .ino = sx->stx_ino, .ctime_ns = look_ctime(sx) };
	if (sx->stx_attributes & STATX_ATTR_MOUNT_ROOT && *name) {
		*v = version_other();
		return 0;
	}
	switch (sx->stx_mode & S_IFMT) {
	case S_IFDIR:
		*v = version_dir(sx->stx_mode & 0777);
		return 0;
	case S_IFREG:
		*v = version_file(sx->stx_mode & 0777, sx->stx_size, look_mtime(sx), NULL);
		return 0;
	case S_IFLNK:
		n = readlinkat(dir, name, target, sizeof(target));
		if (n == -1)
			return -errno;
		*v = version_link(slice_of(target, (size_t)n));
		return 0;
	default:
		*v = version_other();
		return 0;
	}
}

int root_look_at(struct root *r, int dir, const char *name, struct version **v, struct stamp *stamp)
{
	(void)r;
	*v = NULL;
	*stamp = (struct stamp){ 0 };
	for (int i = 0;; i++) {
		struct statx sx;
		int err = look_stat(dir, name, &sx);
		if (err == -ENOENT)
			return 0;
		if (err == 0)
			err = look_version(dir, name, &sx, v, stamp);
		if ((err != -EINVAL && err != -ENOENT) || i == LINK_TRIES)
			return err;
	}
}

int root_look(struct root *r, const char *path, struct version **v, struct stamp *stamp)
{
	struct place p;
	*v = NULL;
	*stamp = (struct stamp){ 0 };
	if (!*path)
		return root_look_at(r, r->fd, "", v, stamp);
	int err = place_open(r, path, &p);
	if (err == 0)
		err = root_look_at(r, p.dir, p.name, v, stamp);
	place_close(&p);
	return err == -ENOENT ? 0 : err;
}

static bool is_same(const struct statx *sx, const struct version *v, const struct stamp *stamp)
{
	return S_ISREG(sx->stx_mode) && sx->stx_size == v->size && look_mtime(sx) == v->mtime_ns &&
	       sx->stx_ino == stamp->ino && look_ctime(sx) == stamp->ctime_ns;
}

int root_hash(struct root *r, const char *path, struct version *v, const struct stamp *stamp,
	      struct signature *sig)
{
	struct statx sx;
	uint8_t digest[SYNC_DIGEST];
	if (v->kind != SYNC_FILE)
		return -EINVAL;
	int fd = root_open_at(r, path, O_RDONLY);
	if (fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP || fd == -ENXIO)
		return -ESTALE;
	if (fd < 0)
		return fd;
	int err = look_stat(fd, "", &sx);
	if (err == 0 && !is_same(&sx, v, stamp))
		err = -ESTALE;
	if (err == 0)
		err = digest_file(fd, digest, sig);
	if (err == 0 && look_stat(fd, "", &sx) == 0 && !is_same(&sx, v, stamp))
		err = -ESTALE;
	close(fd);
	if (err == 0) {
		memcpy(v->digest, digest, SYNC_DIGEST);
		v->hashed = 1;
	}
	return err;
}

void root_owner(const struct root *r, uid_t *uid, gid_t *gid)
{
	*uid = r->owner_uid;
	*gid = r->owner_gid;
}

/* The path of what fd is, without symlinks; "" if it cannot be told. */
static void fd_path(int fd, char out[PATH_MAX])
{
	char link[32];
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, out, PATH_MAX - 1);
	out[MAX(n, 0)] = '\0';
}

int root_check(struct root *r)
{
	struct stat st;
	char now[PATH_MAX];
	if (stat(r->path, &st) == -1)
		return -errno;
	if (r->real) {
		fd_path(r->fd, now);
		if (strcmp(now, r->real) != 0)
			return -ENOENT;
	}
	if (!S_ISDIR(st.st_mode))
		return -ENOTDIR;
	return st.st_dev == r->dev && st.st_ino == r->ino ? 0 : -ESTALE;
}

void root_generation(const struct root *r, char out[64])
{
	struct statx sx = { 0 };
	statx(r->fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &sx);
	if (!(sx.stx_mask & STATX_BTIME))
		sx.stx_btime = (struct statx_timestamp){ 0 };
	snprintf(out, 64, "%llx-%llx-%x", (unsigned long long)r->ino,
		 (unsigned long long)sx.stx_btime.tv_sec, sx.stx_btime.tv_nsec);
}

void root_tidy(struct root *r, unsigned ms)
{
	trash_tidy(&r->trash, ms);
}

int root_make_path(const char *path, mode_t mode)
{
	char *p = xstrdup(path);
	int err = 0;
	for (char *s = p + 1; err == 0 && (s = strchr(s, '/')); s++) {
		*s = '\0';
		if (mkdir(p, 0755) == -1 && errno != EEXIST)
			err = -errno;
		*s = '/';
	}
	if (err == 0 && mkdir(p, mode) == -1 && errno != EEXIST)
		err = -errno;
	free(p);
	return err;
}

static int make_dir(int at, const char *name)
{
	if (mkdirat(at, name, 0700) == -1 && errno != EEXIST)
		return -errno;
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd == -1 ? -errno : fd;
}

/* Can files be renamed from there into the root? The name does not exist, so nothing happens:
 * rename(2) says EXDEV before it looks. Subvolumes of btrfs are one mount, but have device numbers
 * of their own. */
static bool same_filesystem(int dir, const struct root *r)
{
	struct stat st;
	return fstat(dir, &st) == 0 && st.st_dev == r->dev &&
	       renameat(dir, ".none", r->fd, SYNC_PRIVATE ".none") == -1 && errno == ENOENT;
}

/* Can a file without a name be given one? (Where the fd is enough: the capability
 * CAP_DAC_READ_SEARCH, or Linux 6.10.) */
static bool can_link(int dir)
{
	unlinkat(dir, "probe", 0);
	int fd = openat(dir, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	bool can = fd != -1 && linkat(fd, "", dir, "probe", AT_EMPTY_PATH) == 0;
	if (fd != -1)
		close(fd);
	unlinkat(dir, "probe", 0);
	return can;
}

static int private_use(struct root *r, int dir)
{
	int trash = -1, err = 0;
	r->stage = make_dir(dir, "stage");
	if (r->stage < 0)
		err = r->stage;
	else if ((trash = make_dir(dir, "trash")) < 0)
		err = trash;
	else
		err = trash_init(&r->trash, trash, r->trash_max);
	if (err == 0)
		r->nameless = can_link(r->stage);
	if (err < 0 && r->stage >= 0)
		close(r->stage);
	if (err < 0)
		r->stage = -1;
	return err;
}

/* The stage and the trash: in the store, or in the root. */
static int private_open(struct root *r)
{
	int err = root_make_path(r->store, 0700), dir;
	if (err == 0) {
		dir = open(r->store, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		err = dir == -1 ? -errno : same_filesystem(dir, r) ? private_use(r, dir) : -EXDEV;
		if (dir != -1)
			close(dir);
	}
	if (err == 0)
		return 0;
	/* Several syncs may have this root. */
	const char *id = strrchr(r->store, '/');
	int top = make_dir(r->fd, SYNC_PRIVATE);
	if (top < 0)
		return top;
	dir = make_dir(top, id && id[1] ? id + 1 : "sync");
	close(top);
	if (dir < 0)
		return dir;
	err = private_use(r, dir);
	close(dir);
	return err;
}

/* The store is STATE/sync/ID or the like: the topmost of these that is in the root. */
static char *find_state(const struct root *r)
{
	static const char *const up[] = { "../..", "..", "." };
	char top[PATH_MAX], path[PATH_MAX];
	char *found = NULL;
	int store = open(r->store, O_PATH | O_DIRECTORY | O_CLOEXEC);
	fd_path(r->fd, top);
	size_t n = strcmp(top, "/") == 0 ? 0 : strlen(top);
	for (size_t i = 0; i < ARRAY_LEN(up) && store != -1 && *top && !found; i++) {
		int fd = openat(store, up[i], O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (fd == -1)
			continue;
		fd_path(fd, path);
		close(fd);
		if (strncmp(path, top, n) == 0 && path[n] == '/' && path[n + 1])
			found = xstrdup(path + n + 1);
	}
	if (store != -1)
		close(store);
	return found;
}

static void stage_tidy(struct root *r)
{
	int fd = openat(r->stage, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd == -1 ? NULL : fdopendir(fd);
	for (struct dirent *e; d && (e = readdir(d));) {
		struct stat st;
		if (fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == -1 || S_ISDIR(st.st_mode))
			continue;
		if ((e->d_name[0] != 'p' && e->d_name[0] != 'n') ||
		    st.st_ctime + STAGE_AGE < time(NULL))
			unlinkat(fd, e->d_name, 0);
		else if (e->d_name[0] == 'n')
			partial_keep(fd, e->d_name);
	}
	if (d)
		closedir(d);
}

static bool is_gone(int fd)
{
	struct stat st;
	return fstat(fd, &st) == -1 || st.st_nlink == 0;
}

int root_stage(const struct root *r)
{
	return r->stage;
}

int root_ready(struct root *r)
{
	if (r->batch.ready)
		return 0;
	if (r->stage != -1 && !is_gone(r->stage) && !is_gone(r->trash.dir) &&
	    (r->trash.now == -1 || !is_gone(r->trash.now))) {
		r->batch.ready = r->batch.on;
		return 0;
	}
	if (r->stage != -1)
		close(r->stage);
	r->stage = -1;
	trash_end(&r->trash);
	r->private_err = private_open(r);
	return r->private_err;
}

void stage_name(struct root *r, char out[STAGE_NAME])
{
	snprintf(out, STAGE_NAME, "t%llu", (unsigned long long)++r->seq);
}

struct root *root_open(const struct root_options *o, int *err, char *why, size_t whylen)
{
	struct stat st;
	if (o->make && (*err = root_make_path(o->path, 0755)) < 0 && *err != -ENOTDIR) {
		snprintf(why, whylen, "cannot make %s: %s", o->path, strerror(-*err));
		return NULL;
	}
	int fd = open(o->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd == -1 || fstat(fd, &st) == -1) {
		*err = -errno;
		snprintf(why, whylen, "cannot open the directory %s: %s", o->path, strerror(-*err));
		return NULL;
	}
	int probe = open_below(fd, ".", O_PATH | O_CLOEXEC);
	if (probe < 0) {
		*err = probe;
		snprintf(why, whylen, "sync needs openat2(2), Linux 5.6 or newer: %s",
			 strerror(-probe));
		close(fd);
		return NULL;
	}
	close(probe);
	/* Files get the modes that the other side has. */
	umask(0);
	struct root *r = xcalloc(1, sizeof(*r));
	uint64_t trash_max = o->trash_max ? o->trash_max : (uint64_t)TRASH_MAX_MIB << 20;
	*r = (struct root){ .fd = fd,
			    .store = xstrdup(o->store),
			    .trash_max = trash_max,
			    .stage = -1,
			    .path = xstrdup(o->path),
			    .dev = st.st_dev,
			    .ino = st.st_ino,
			    .in_place = o->in_place,
			    .owned = o->owned && geteuid() == 0,
			    .owner_uid = st.st_uid,
			    .owner_gid = st.st_gid,
			    .uid = o->uid,
			    .gid = o->gid,
			    .batch = { .dir = -1, .path = xmalloc(SYNC_PATH_MAX) },
			    .trash = { .dir = -1, .now = -1 } };
	if (r->owned && st.st_uid == 0 && fchown(fd, r->uid, r->gid) == -1)
		r->owned = false;
	r->private_err = private_open(r);
	if (r->stage != -1)
		stage_tidy(r);
	r->state = find_state(r);
	if (strncmp(o->path, "/proc/self/fd/", 14) == 0) {
		char real[PATH_MAX];
		fd_path(r->fd, real);
		r->real = xstrdup(real);
	}
	*err = 0;
	return r;
}

void root_close(struct root *r)
{
	if (!r)
		return;
	root_batch_end(r);
	trash_end(&r->trash);
	if (r->stage != -1)
		close(r->stage);
	close(r->fd);
	free(r->batch.path);
	free(r->path);
	free(r->store);
	free(r->state);
	free(r->real);
	free(r);
}
