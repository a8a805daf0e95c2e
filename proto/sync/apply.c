#include "proto/sync/apply.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <unistd.h>

#include "proto/sync/root_int.h"

enum { SWAPS_MAX = 16 /* how often others may replace a file while we put theirs back */ };

bool expect_same(const struct expect *e, int dir, const char *name, const struct statx *sx,
		 bool moved)
{
	const struct version *v = e->v;
	char target[PATH_MAX];
	bool exact = e->stamp.ino || e->stamp.ctime_ns;
	if (!v || (sx->stx_attributes & STATX_ATTR_MOUNT_ROOT && *name))
		return false;
	if (exact && sx->stx_ino != e->stamp.ino)
		return false;
	switch (v->kind) {
	case SYNC_DIR: /* its times change with what is in it */
		return S_ISDIR(sx->stx_mode) && (!exact || (sx->stx_mode & 0777) == v->mode);
	case SYNC_FILE:
		if (!S_ISREG(sx->stx_mode) || sx->stx_size != v->size ||
		    look_mtime(sx) != v->mtime_ns || (exact && (sx->stx_mode & 0777) != v->mode))
			return false;
		break;
	case SYNC_LINK:
		if (!S_ISLNK(sx->stx_mode) || sx->stx_size != v->size ||
		    readlinkat(dir, name, target, sizeof(target)) != (ssize_t)v->size ||
		    memcmp(target, v->target, v->size) != 0)
			return false;
		break;
	default:
		return false;
	}
	return !exact || moved || look_ctime(sx) == e->stamp.ctime_ns;
}

int expect_look(const struct expect *e, int dir, const char *name, struct statx *sx)
{
	int err = look_stat(dir, name, sx);
	if (err == -ENOENT) {
		sx->stx_mask = 0;
		return e->v ? -ESTALE : 0;
	}
	if (err < 0)
		return err;
	return expect_same(e, dir, name, sx, false) ? 0 : -ESTALE;
}

/* rename(2) that never replaces. Where the filesystem cannot do that: link and unlink. */
static int move_new(int dir, const char *name, int to, const char *toname)
{
	if (renameat2(dir, name, to, toname, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EINVAL && errno != ENOSYS)
		return -errno;
	if (linkat(dir, name, to, toname, 0) == -1)
		return -errno;
	unlinkat(dir, name, 0);
	return 0;
}

static int thing_move(struct root *r, const struct thing *t, int dir, const char *name)
{
	if (*t->name)
		return move_new(r->stage, t->name, dir, name);
	return linkat(t->fd, "", dir, name, AT_EMPTY_PATH) == -1 ? -errno : 0;
}

int thing_add(struct root *r, const struct thing *t, struct place *p)
{
	int err;
	do {
		err = thing_move(r, t, p->dir, p->name);
	} while (place_unlock(p, err));
	return err == -EEXIST ? -ESTALE : err;
}

static uint64_t disk_bytes(const struct statx *sx)
{
	return sx->stx_blocks * 512;
}

static void trash_keep(struct root *r, int dir, const char *name)
{
	struct statx sx;
	if (look_stat(dir, name, &sx) == 0)
		trash_added(&r->trash, disk_bytes(&sx));
}

static int path_open(int dir, const char *name)
{
	int fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	return fd == -1 ? -errno : fd;
}

static bool is_at(int fd, int dir, const char *name)
{
	struct statx a, b;
	return look_stat(fd, "", &a) == 0 && look_stat(dir, name, &b) == 0 &&
	       a.stx_ino == b.stx_ino;
}

/* Nothing in it but our own SYNC_PRIVATE (of a root that is no more)? */
static bool holds_private_only(int dir, const char *name)
{
	int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *d = fd == -1 ? NULL : fdopendir(fd);
	bool only = d != NULL;
	for (struct dirent *e; d && only && (e = readdir(d));)
		only = strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
		       strcmp(e->d_name, SYNC_PRIVATE) == 0;
	if (d)
		closedir(d);
	else if (fd != -1)
		close(fd);
	return only;
}

/* Something else than expected came out of the exchange: it is now at dir, name, and ours at the
 * place. It goes back. If what comes out then is not what we put there, it is newer still and goes
 * back in turn. What is left in the end stays in the trash, even if it is ours: it has been seen,
 * and someone may have written to it. Inodes are held open while they are compared, so that no
 * number is used again. */
static void swap_back(struct root *r, int dir, const char *name, struct place *p, int ours)
{
	int put = fcntl(ours, F_DUPFD_CLOEXEC, 0);
	for (int i = 0; i < SWAPS_MAX && put >= 0; i++) {
		int in = path_open(dir, name), err = 0;
		if (in < 0)
			break;
		if (renameat2(dir, name, p->dir, p->name, RENAME_EXCHANGE) == -1)
			err = errno;
		if (err == ENOENT) {
			/* What we put there was removed, so it is free, or taken anew. */
			close(in);
			if (move_new(dir, name, p->dir, p->name) == 0)
				break;
			continue;
		}
		bool done = err != 0 || is_at(put, dir, name);
		close(put);
		put = in;
		if (done)
			break;
	}
	if (put >= 0)
		close(put);
	trash_keep(r, dir, name);
}

/* Is what came to dir, name what is expected? A directory must be empty, too. */
static int came_out(int dir, const char *name, const struct expect *e, struct statx *sx)
{
	int err = look_stat(dir, name, sx);
	if (err < 0 || !expect_same(e, dir, name, sx, true))
		return -ESTALE;
	return S_ISDIR(sx->stx_mode) && !holds_private_only(dir, name) ? -ENOTEMPTY : 0;
}

/* The place's file is linked into the trash, and ours (dir, name) renamed over it. */
static int swap_by_link(struct root *r, int dir, const char *name, struct place *p,
			const char *path, const struct expect *e)
{
	char old[TRASH_NAME];
	struct statx sx, ours;
	int err = look_stat(dir, name, &ours), to = trash_name(&r->trash, path, old);
	if (to < 0 || err < 0)
		return to < 0 ? to : err;
	bool linked = !S_ISDIR(ours.stx_mode) && linkat(p->dir, p->name, to, old, 0) == 0;
	/* A directory, or no hard links (FAT): for a moment nothing is there. */
	if (!linked && renameat(p->dir, p->name, to, old) == -1)
		return errno == ENOENT ? -ESTALE : -errno;
	err = came_out(to, old, e, &sx);
	if (err == 0 && linked)
		err = renameat(dir, name, p->dir, p->name) == -1 ? -errno : 0;
	else if (err == 0)
		err = move_new(dir, name, p->dir, p->name);
	if (err == 0)
		trash_added(&r->trash, disk_bytes(&sx));
	else if (linked)
		unlinkat(to, old, 0);
	else if (move_new(to, old, p->dir, p->name) < 0)
		trash_keep(r, to, old);
	return err == -EEXIST ? -ESTALE : err;
}

/* *ours_left: nobody has seen ours, it is at dir, name. */
static int swap_named(struct root *r, int dir, const char *name, struct place *p, const char *path,
		      const struct expect *e, int ours, bool *ours_left)
{
	struct statx sx;
	int err = 0;
	*ours_left = true;
	if (!r->no_exchange) {
		do {
			err = 0;
			if (renameat2(dir, name, p->dir, p->name, RENAME_EXCHANGE) == -1)
				err = -errno;
		} while (place_unlock(p, err));
		r->no_exchange = err == -EINVAL || err == -ENOSYS;
	}
	if (r->no_exchange)
		return swap_by_link(r, dir, name, p, path, e);
	if (err < 0)
		return err == -ENOENT ? -ESTALE : err;
	*ours_left = false;
	err = came_out(dir, name, e, &sx);
	if (err == 0)
		trash_added(&r->trash, disk_bytes(&sx));
	else
		swap_back(r, dir, name, p, ours);
	return err;
}

int thing_swap(struct root *r, const struct thing *t, struct place *p, const char *path,
	       const struct expect *e)
{
	char name[TRASH_NAME];
	bool left;
	int dir = trash_name(&r->trash, path, name), err;
	if (dir < 0)
		return dir;
	/* Under the name that the old one is to have: one rename does both. */
	err = thing_move(r, t, dir, name);
	if (err < 0)
		return err;
	err = swap_named(r, dir, name, p, path, e, t->fd, &left);
	if (err < 0 && left && *t->name)
		renameat(dir, name, r->stage, t->name);
	else if (err < 0 && left)
		unlinkat(dir, name, 0);
	return err;
}

/* What a directory or link was made as, under its name in the stage. */
static int stage_swap(struct root *r, const char *name, struct place *p, const char *path,
		      const struct expect *e, struct statx *sx)
{
	struct thing t = { .fd = path_open(r->stage, name), .name = name };
	int err = t.fd < 0 ? t.fd : thing_swap(r, &t, p, path, e);
	if (err == 0)
		err = look_stat(t.fd, "", sx);
	else if (unlinkat(r->stage, name, 0) == -1)
		unlinkat(r->stage, name, AT_REMOVEDIR);
	if (t.fd >= 0)
		close(t.fd);
	return err;
}

static void stamp_set(struct stamp *stamp, const struct statx *sx)
{
	*stamp = (struct stamp){ .ino = sx->stx_ino, .ctime_ns = look_ctime(sx) };
}

static int meta_set(int fd, const struct version *want, struct statx *sx)
{
	char link[32];
	struct timespec ts[2] = { { .tv_nsec = UTIME_OMIT } };
	if ((sx->stx_mode & 0777) != want->mode) {
		/* A directory's set-group-id and sticky bits are its own business. */
		unsigned keep = S_ISDIR(sx->stx_mode) ? sx->stx_mode & 07000U : 0;
		int err = path_chmod(fd, want->mode | keep);
		if (err < 0)
			return err;
	}
	if (want->kind == SYNC_FILE && look_mtime(sx) != want->mtime_ns) {
		ts[1] = time_of(want->mtime_ns);
		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		if (utimensat(AT_FDCWD, link, ts, 0) == -1)
			return -errno;
	}
	return look_stat(fd, "", sx);
}

int apply_meta(struct root *r, const char *path, const struct version *want, const struct expect *e,
	       struct stamp *stamp)
{
	struct statx sx;
	if (want->kind != SYNC_DIR && want->kind != SYNC_FILE)
		return -EINVAL;
	int fd = root_open_at(r, path, O_PATH);
	if (fd < 0)
		return fd == -ENOENT || fd == -EXDEV || fd == -ENOTDIR || fd == -ELOOP ? -ESTALE
										       : fd;
	int err = expect_look(e, fd, "", &sx);
	if (err == 0 && S_ISDIR(sx.stx_mode) != (want->kind == SYNC_DIR))
		err = -ESTALE;
	if (err == 0)
		err = meta_set(fd, want, &sx);
	if (err == 0)
		stamp_set(stamp, &sx);
	close(fd);
	return err;
}

/* What was made at the place a moment ago. -ESTALE: others were faster. */
static int look_made(struct place *p, const struct version *want, struct statx *sx)
{
	struct expect made = { .v = want };
	int err = look_stat(p->dir, p->name, sx);
	if (err == -ENOENT || (err == 0 && !expect_same(&made, p->dir, p->name, sx, false)))
		return -ESTALE;
	return err;
}

/* The umask is 0, but a default ACL (acl(5)) may have taken bits away. */
static int dir_finish(struct place *p, const struct version *want, struct statx *sx)
{
	int fd = path_open(p->dir, p->name);
	int err = fd < 0 ? (fd == -ENOENT ? -ESTALE : fd) : look_stat(fd, "", sx);
	if (err == 0)
		err = S_ISDIR(sx->stx_mode) ? meta_set(fd, want, sx) : -ESTALE;
	if (fd >= 0)
		close(fd);
	return err;
}

static int make_at(int dir, const char *name, const struct version *want)
{
	int r = want->kind == SYNC_DIR ? mkdirat(dir, name, want->mode)
				       : symlinkat(want->target, dir, name);
	return r == -1 ? -errno : 0;
}

/* To the root's owner, if it is what we have just made and nobody has put something else there. */
static void own(const struct root *r, int dir, const char *name, const struct version *want)
{
	struct stat st;
	int fd = r->owned ? path_open(dir, name) : -1;
	if (fd < 0)
		return;
	if (fstat(fd, &st) == 0 && st.st_uid == 0 &&
	    (want->kind == SYNC_DIR ? S_ISDIR(st.st_mode) : S_ISLNK(st.st_mode)) &&
	    fchownat(fd, "", r->uid, r->gid, AT_EMPTY_PATH) == -1)
		errno = 0; /* it stays ours */
	close(fd);
}

static int place_make(struct root *r, struct place *p, const struct version *want, struct statx *sx)
{
	int err;
	do {
		err = make_at(p->dir, p->name, want);
	} while (place_unlock(p, err));
	if (err < 0)
		return err == -EEXIST ? -ESTALE : err;
	own(r, p->dir, p->name, want);
	err = look_made(p, want, sx);
	if (err == 0 && want->kind == SYNC_DIR && (sx->stx_mode & 0777) != want->mode)
		err = dir_finish(p, want, sx);
	return err;
}

/* In the stage, then in exchange for what is there. */
static int place_remake(struct root *r, struct place *p, const char *path,
			const struct version *want, const struct expect *e, struct statx *sx)
{
	char name[STAGE_NAME];
	int err = root_ready(r);
	if (err == 0)
		err = expect_look(e, p->dir, p->name, sx);
	if (err < 0)
		return err;
	stage_name(r, name);
	err = make_at(r->stage, name, want);
	if (err < 0)
		return err;
	own(r, r->stage, name, want);
	return stage_swap(r, name, p, path, e, sx);
}

/* A directory or a link. */
static int make(struct root *r, const char *path, const struct version *want,
		const struct expect *e, struct stamp *stamp)
{
	struct place p;
	struct statx sx;
	int err = place_open(r, path, &p);
	if (err == 0)
		err = e->v ? place_remake(r, &p, path, want, e, &sx) : place_make(r, &p, want, &sx);
	if (err == 0)
		stamp_set(stamp, &sx);
	place_close(&p);
	return err;
}

int apply_mkdir(struct root *r, const char *path, const struct version *want,
		const struct expect *e, struct stamp *stamp)
{
	if (want->kind != SYNC_DIR)
		return -EINVAL;
	if (e->v && e->v->kind == SYNC_DIR)
		return apply_meta(r, path, want, e, stamp);
	return make(r, path, want, e, stamp);
}

int apply_link(struct root *r, const char *path, const struct version *want, const struct expect *e,
	       struct stamp *stamp)
{
	return want->kind == SYNC_LINK ? make(r, path, want, e, stamp) : -EINVAL;
}

/* Moves what is there to the trash, and back if it is not what is expected. */
static int trash_move(struct root *r, struct place *p, const char *path, const struct expect *e)
{
	char name[TRASH_NAME];
	struct statx sx;
	int dir = trash_name(&r->trash, path, name), err;
	if (dir < 0)
		return dir;
	do {
		err = renameat(p->dir, p->name, dir, name) == -1 ? -errno : 0;
	} while (place_unlock(p, err));
	if (err < 0)
		return err == -ENOENT ? -ESTALE : err;
	err = came_out(dir, name, e, &sx);
	if (err == 0 || move_new(dir, name, p->dir, p->name) < 0)
		trash_keep(r, dir, name);
	return err;
}

static int dir_remove(struct root *r, struct place *p, const char *path, const struct expect *e)
{
	int err;
	do {
		err = unlinkat(p->dir, p->name, AT_REMOVEDIR) == -1 ? -errno : 0;
	} while (place_unlock(p, err));
	if (err == -ENOTDIR || err == -ENOENT)
		return -ESTALE;
	if (err != -ENOTEMPTY && err != -EEXIST)
		return err;
	if (!holds_private_only(p->dir, p->name))
		return -ENOTEMPTY;
	err = root_ready(r);
	return err < 0 ? err : trash_move(r, p, path, e);
}

int apply_remove(struct root *r, const char *path, const struct expect *e)
{
	struct place p;
	struct statx sx;
	int err = place_open(r, path, &p);
	if (err == 0)
		err = e->v ? expect_look(e, p.dir, p.name, &sx) : -EINVAL;
	if (err == 0 && S_ISDIR(sx.stx_mode))
		err = dir_remove(r, &p, path, e);
	else if (err == 0 && (err = root_ready(r)) == 0)
		err = trash_move(r, &p, path, e);
	place_close(&p);
	return err;
}

int apply_rename(struct root *r, const char *from, const char *to)
{
	struct place a, b;
	int err = place_open(r, from, &a), err2 = place_open(r, to, &b);
	if (err == 0)
		err = err2;
	if (err == 0) {
		do {
			err = move_new(a.dir, a.name, b.dir, b.name);
		} while (place_unlock(&a, err) || place_unlock(&b, err));
		if (err == -EEXIST || err == -ENOENT)
			err = -ESTALE;
	}
	place_close(&a);
	place_close(&b);
	return err;
}
