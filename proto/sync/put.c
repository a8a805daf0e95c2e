/* apply.h: files. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "proto/sync/apply.h"
#include "proto/sync/digest.h"
#include "proto/sync/root_int.h"
#include "reactor/crypto.h"

enum {
	PARTIAL_MIN = 1 << 20, /* what has come of smaller files is not kept */
	PARTIALS_MAX = 16,
	COPY_BUF = 256 << 10
};

/* A file of 1 MiB or more has a name in the stage, n and a hash of what it is to be, so that it is
 * still there after kill -9; given up, it is p and the hash. Smaller ones have none (O_TMPFILE), or
 * where that cannot be t and a number, and go at the next start. */
struct put {
	struct root *r;
	char *path;
	int fd, basis;
	bool copied; /* from the basis */
	unsigned mode;
	uint64_t size, off, end; /* end: of what was written, holes are not */
	int64_t mtime_ns;
	int err;               /* the first one */
	struct statx seen;     /* of the basis, when it was opened */
	char name[STAGE_NAME]; /* "": it has none */
};

/* out: room for STAGE_NAME. */
static void partial_name(char kind, const char *path, const struct version *want, char *out)
{
	struct sha256 h;
	uint8_t sum[32];
	sha256_init(&h);
	sha256_add(&h, slice_of(path, strlen(path) + 1));
	sha256_add(&h, slice_of(&want->size, sizeof(want->size)));
	sha256_add(&h, slice_of(&want->mtime_ns, sizeof(want->mtime_ns)));
	sha256_end(&h, sum);
	*out++ = kind;
	for (int i = 0; i < 16; i++)
		out += snprintf(out, 3, "%02x", sum[i]);
}

/* Copies n bytes, without bringing them here if possible. -ESTALE: in ends before. */
static int range_copy(int in, uint64_t at, int out, uint64_t off, uint64_t n)
{
	off_t from = (off_t)at, to = (off_t)off;
	char *buf = NULL;
	bool by_hand = false;
	int err = 0;
	while (n > 0 && err == 0) {
		ssize_t k;
		if (!by_hand) {
			k = copy_file_range(in, &from, out, &to, MIN(n, 1U << 30), 0);
			if (k == -1 && errno != ENOSPC && errno != EDQUOT && errno != EIO &&
			    errno != EINTR) {
				by_hand = true; /* EXDEV, EINVAL, EOPNOTSUPP, ENOSYS, EBADF */
				continue;
			}
		} else {
			if (!buf)
				buf = xmalloc(COPY_BUF);
			k = pread(in, buf, MIN(n, COPY_BUF), from);
			if (k > 0)
				k = pwrite(out, buf, (size_t)k, to);
			if (k > 0) {
				from += k;
				to += k;
			}
		}
		if (k > 0)
			n -= (uint64_t)k;
		else if (k == 0)
			err = -ESTALE;
		else if (errno != EINTR)
			err = -errno;
	}
	free(buf);
	return err;
}

static int range_zero(int fd, uint64_t off, uint64_t n)
{
	static const char zeros[4096];
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)n) == 0)
		return 0;
	while (n > 0) {
		ssize_t k = pwrite(fd, zeros, MIN(n, sizeof(zeros)), (off_t)off);
		if (k == -1 && errno != EINTR)
			return -errno;
		if (k > 0) {
			off += (uint64_t)k;
			n -= (uint64_t)k;
		}
	}
	return 0;
}

/* The content of in, size bytes with holes, to out from its start. over: out has content, so that
 * holes are to be made. */
static int sparse_copy(int in, uint64_t size, int out, bool over)
{
	uint64_t at = 0;
	int err = 0;
	while (at < size && err == 0) {
		off_t data = lseek(in, (off_t)at, SEEK_DATA), hole;
		uint64_t from = data == -1 ? size : (uint64_t)data;
		if (data == -1 && errno != ENXIO)
			from = at; /* it knows no holes */
		from = MIN(from, size);
		if (over && from > at)
			err = range_zero(out, at, from - at);
		hole = from < size ? lseek(in, (off_t)from, SEEK_HOLE) : -1;
		at = hole == -1 ? size : MIN((uint64_t)hole, size);
		if (err == 0 && at > from)
			err = range_copy(in, from, out, from, at - from);
	}
	if (err == 0 && ftruncate(out, (off_t)size) == -1)
		err = -errno;
	return err;
}

static int put_file(struct put *p)
{
	struct root *r = p->r;
	int flags = O_RDWR | O_CLOEXEC;
	if (!*p->name && r->nameless) {
		p->fd = openat(r->stage, ".", flags | O_TMPFILE, p->mode);
		return p->fd == -1 ? -errno : 0;
	}
	if (!*p->name)
		stage_name(r, p->name);
	else
		unlinkat(r->stage, p->name, 0);
	p->fd = openat(r->stage, p->name, flags | O_CREAT | O_EXCL | O_NOFOLLOW, p->mode);
	return p->fd == -1 ? -errno : 0;
}

struct put *put_new_from(struct root *r, const char *path, const struct version *want, int basis,
			 int *err)
{
	struct place place;
	struct put *p = xcalloc(1, sizeof(*p));
	*p = (struct put){ .r = r,
			   .path = xstrdup(path),
			   .fd = -1,
			   .basis = basis,
			   .mode = want->mode & 0777,
			   .size = want->size,
			   .mtime_ns = want->mtime_ns };
	*err = want->kind != SYNC_FILE      ? -EINVAL
	       : want->size > SYNC_FILE_MAX ? -EFBIG
					    : root_ready(r);
	if (*err == 0 && basis >= 0)
		*err = look_stat(basis, "", &p->seen);
	if (*err == 0 && p->size >= PARTIAL_MIN) {
		/* Not after all of it has come: is there a place for it? */
		*err = place_open(r, path, &place);
		place_close(&place);
		partial_name('n', path, want, p->name);
	}
	if (*err == 0)
		*err = put_file(p);
	if (*err == 0)
		return p;
	put_abort(p);
	return NULL;
}

struct put *put_new(struct root *r, const char *path, const struct version *want, int *err)
{
	return put_new_from(r, path, want, -1, err);
}

/* The fd of a regular file and its size, or -errno. */
static int regular(int fd, uint64_t *size)
{
	struct statx sx;
	if (fd < 0)
		return fd;
	int err = look_stat(fd, "", &sx);
	if (err == 0 && !S_ISREG(sx.stx_mode))
		err = -ENOENT;
	if (err < 0) {
		close(fd);
		return err;
	}
	*size = sx.stx_size;
	return fd;
}

int put_basis(struct root *r, const char *path, const struct version *want)
{
	char name[STAGE_NAME];
	uint64_t size = 0, part_size = 0;
	int fd = regular(root_open_at(r, path, O_RDONLY), &size), part = -1;
	if (want->size >= PARTIAL_MIN && r->stage != -1) {
		partial_name('p', path, want, name);
		part = openat(r->stage, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
		part = part == -1 ? -errno : regular(part, &part_size);
	}
	if (part >= 0 && (fd < 0 || part_size > size / 2)) {
		if (fd >= 0)
			close(fd);
		return part;
	}
	if (part >= 0)
		close(part);
	return fd >= 0 ? fd : -ENOENT;
}

static bool put_room(struct put *p, uint64_t n)
{
	if (p->err == 0 && n > p->size - p->off)
		p->err = -EFBIG;
	return p->err == 0;
}

int put_data(struct put *p, struct slice data)
{
	if (!put_room(p, data.n))
		return p->err;
	while (data.n > 0) {
		ssize_t n = pwrite(p->fd, data.p, data.n, (off_t)p->off);
		if (n == -1 && errno == EINTR)
			continue;
		if (n == -1)
			return p->err = -errno;
		p->end = p->off += (uint64_t)n;
		data = slice_after(data, (size_t)n);
	}
	return 0;
}

int put_hole(struct put *p, uint64_t n)
{
	if (put_room(p, n))
		p->off += n;
	return p->err;
}

int put_copy(struct put *p, uint64_t at, uint64_t n)
{
	if (!put_room(p, n))
		return p->err;
	if (p->basis < 0) {
		uint64_t size;
		p->basis = regular(root_open_at(p->r, p->path, O_RDONLY), &size);
		p->err = p->basis < 0 ? -ESTALE : look_stat(p->basis, "", &p->seen);
	}
	p->copied = true;
	if (p->err == 0 && at > INT64_MAX - n)
		p->err = -ESTALE;
	if (p->err == 0)
		p->err = range_copy(p->basis, at, p->fd, p->off, n);
	if (p->err == 0)
		p->end = p->off += n;
	return p->err;
}

static void put_free(struct put *p)
{
	if (p->fd >= 0)
		close(p->fd);
	if (p->basis >= 0)
		close(p->basis);
	free(p->path);
	free(p);
}

/* The oldest goes when there are too many. */
static void partials_bound(int stage)
{
	char oldest[STAGE_NAME] = "";
	time_t when = 0;
	unsigned n = 0;
	int fd = openat(stage, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd == -1 ? NULL : fdopendir(fd);
	for (struct dirent *e; d && (e = readdir(d));) {
		struct stat st;
		if (e->d_name[0] != 'p' || fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == -1)
			continue;
		n++;
		if (!*oldest || st.st_ctime < when) {
			snprintf(oldest, sizeof(oldest), "%.40s", e->d_name);
			when = st.st_ctime;
		}
	}
	if (n > PARTIALS_MAX)
		unlinkat(stage, oldest, 0);
	if (d)
		closedir(d);
}

void partial_keep(int stage, const char *name)
{
	struct stat now, before;
	char to[STAGE_NAME];
	if (fstatat(stage, name, &now, AT_SYMLINK_NOFOLLOW) == -1)
		return;
	snprintf(to, sizeof(to), "p%s", name + 1);
	if (!S_ISREG(now.st_mode) || now.st_size < PARTIAL_MIN ||
	    (fstatat(stage, to, &before, AT_SYMLINK_NOFOLLOW) == 0 &&
	     before.st_size > now.st_size) ||
	    renameat(stage, name, stage, to) == -1)
		unlinkat(stage, name, 0);
	else
		partials_bound(stage);
}

void put_abort(struct put *p)
{
	if (!p)
		return;
	bool room = p->err != -ENOSPC && p->err != -EDQUOT;
	if (p->fd >= 0 && p->name[0] == 'n' && room)
		partial_keep(p->r->stage, p->name);
	else if (p->fd >= 0 && *p->name)
		unlinkat(p->r->stage, p->name, 0);
	put_free(p);
}

/* Length and time, before anybody sees it. */
static int put_finish(struct put *p)
{
	struct timespec ts[2] = { { .tv_nsec = UTIME_OMIT }, time_of(p->mtime_ns) };
	struct statx sx;
	if (p->err < 0)
		return p->err;
	if (p->off != p->size)
		return -EINVAL;
	if (p->copied) {
		int err = look_stat(p->basis, "", &sx);
		if (err < 0)
			return err;
		if (sx.stx_size != p->seen.stx_size || look_mtime(&sx) != look_mtime(&p->seen))
			return -ESTALE;
	}
	if (p->end != p->size && ftruncate(p->fd, (off_t)p->size) == -1)
		return -errno;
	return futimens(p->fd, ts) == -1 ? -errno : 0;
}

/* It belongs to whom the old one belonged, or to the root's owner, or to the group of a
 * set-group-id directory. */
static void put_owner(const struct put *p, struct place *place, const struct statx *old)
{
	struct stat room;
	const struct stat *dir;
	if (old->stx_mask && S_ISREG(old->stx_mode)) {
		if (old->stx_uid != geteuid() || old->stx_gid != getegid())
			if (fchown(p->fd, old->stx_uid, old->stx_gid) == -1)
				return; /* not ours to give away */
	} else if (p->r->owned) {
		if (fchown(p->fd, p->r->uid, p->r->gid) == -1)
			return;
	} else if ((dir = place_stat(place, &room)) && dir->st_mode & S_ISGID) {
		if (fchown(p->fd, (uid_t)-1, dir->st_gid) == -1)
			return;
	}
}

/* To close what was written to, once it has its place, would be news there of a file that was
 * written to, which would be read again. (Without a name it stays news of the stage.) */
static int put_reopen(struct put *p)
{
	int fd = openat(p->r->stage, p->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd == -1)
		return -errno;
	close(p->fd);
	p->fd = fd;
	return 0;
}

static int put_place(struct put *p, struct place *place, const struct expect *e, struct statx *sx)
{
	int err = 0;
	sx->stx_mask = 0;
	if (e->v)
		err = expect_look(e, place->dir, place->name, sx);
	if (err < 0)
		return err;
	put_owner(p, place, sx);
	if (*p->name)
		err = put_reopen(p);
	if (err < 0)
		return err;
	struct thing t = { .fd = p->fd, .name = p->name };
	if (e->v)
		err = thing_swap(p->r, &t, place, p->path, e);
	else
		err = thing_add(p->r, &t, place);
	if (err == 0)
		err = look_stat(p->fd, "", sx);
	/* A default ACL (acl(5)) of the stage may have taken bits away. */
	if (err == 0 && (sx->stx_mode & 07777) != p->mode)
		err = path_chmod(p->fd, p->mode);
	if (err == 0 && (sx->stx_mode & 07777) != p->mode)
		err = look_stat(p->fd, "", sx);
	return err;
}

/* A copy of an open file in the trash; its fd, or -errno. -ESTALE: it changes meanwhile. */
static int trash_copy(struct root *r, const char *path, int fd, const struct statx *old)
{
	char name[TRASH_NAME];
	struct statx sx;
	struct timespec ts[2] = { { .tv_nsec = UTIME_OMIT }, time_of(look_mtime(old)) };
	int dir = trash_name(&r->trash, path, name);
	if (dir < 0)
		return dir;
	int out = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, old->stx_mode & 0777);
	if (out == -1)
		return -errno;
	int err = sparse_copy(fd, old->stx_size, out, false);
	if (err == 0)
		err = look_stat(fd, "", &sx);
	if (err == 0 && (sx.stx_size != old->stx_size || look_mtime(&sx) != look_mtime(old)))
		err = -ESTALE;
	if (err < 0) {
		unlinkat(dir, name, 0);
		close(out);
		return err;
	}
	futimens(out, ts);
	if (look_stat(out, "", &sx) == 0)
		trash_added(&r->trash, sx.stx_blocks * 512);
	return out;
}

/* Writes over the file at the place, which keeps its inode. Not atomic: who reads meanwhile sees a
 * mixture, and what others write in these moments is lost. */
static int put_over(struct put *p, struct place *place, const struct expect *e, struct statx *sx)
{
	struct timespec ts[2] = { { .tv_nsec = UTIME_OMIT }, time_of(p->mtime_ns) };
	struct stat new;
	int err = expect_look(e, place->dir, place->name, sx), old = -1;
	if (err < 0)
		return err;
	int flags = O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
	int fd = openat(place->dir, place->name, flags);
	if (fd == -1)
		return errno == ENOENT || errno == ELOOP ? -ESTALE : -errno;
	err = expect_look(e, fd, "", sx);
	if (err == 0)
		old = err = trash_copy(p->r, p->path, fd, sx);
	/* Room for it, before anything is overwritten. */
	if (err >= 0 && fstat(p->fd, &new) == 0 && (uint64_t) new.st_blocks * 512 >= p->size &&
	    p->size > sx->stx_blocks * 512 &&
	    fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)p->size) == -1 &&
	    (errno == ENOSPC || errno == EDQUOT)) {
		err = -errno;
		if (ftruncate(fd, (off_t)sx->stx_size) == -1)
			err = -errno;
	} else if (err >= 0 && sx->stx_mode & 07000 && fchmod(fd, sx->stx_mode & 0777) == -1) {
		err = -errno; /* nothing of a peer's in a set-user-id file, be it for a moment */
	} else if (err >= 0) {
		err = sparse_copy(p->fd, p->size, fd, true);
		if (err < 0) {
			sparse_copy(old, sx->stx_size, fd, true);
			if (sx->stx_mode & 07000 && fchmod(fd, sx->stx_mode & 07777) == -1)
				err = -errno;
		}
	}
	if (err == 0 && (sx->stx_mode & 07777) != p->mode && fchmod(fd, p->mode) == -1)
		err = -errno;
	if (err == 0 && futimens(fd, ts) == -1)
		err = -errno;
	if (err == 0)
		err = look_stat(fd, "", sx);
	if (old >= 0)
		close(old);
	close(fd);
	return err;
}

int put_end(struct put *p, const struct expect *e, struct stamp *stamp)
{
	struct place place = { .dir = -1, .mode = -1 };
	struct statx sx;
	int err = put_finish(p);
	if (err == 0)
		err = place_open(p->r, p->path, &place);
	if (err == 0 && p->r->in_place && e->v && e->v->kind == SYNC_FILE) {
		err = put_over(p, &place, e, &sx);
		if (err == 0 && *p->name)
			unlinkat(p->r->stage, p->name, 0);
	} else if (err == 0) {
		err = put_place(p, &place, e, &sx);
	}
	place_close(&place);
	if (err < 0) {
		p->err = err;
		put_abort(p);
		return err;
	}
	*stamp = (struct stamp){ .ino = sx.stx_ino, .ctime_ns = look_ctime(&sx) };
	if (p->name[0] == 'n') {
		p->name[0] = 'p';
		unlinkat(p->r->stage, p->name, 0);
	}
	put_free(p);
	return 0;
}

int apply_copy(struct root *r, const char *from, const struct expect *source, const char *path,
	       const struct version *want, const struct expect *e, struct stamp *stamp)
{
	struct statx sx;
	if (!source->v || source->v->kind != SYNC_FILE || source->v->size != want->size)
		return -EINVAL;
	int fd = root_open_at(r, from, O_RDONLY), err;
	if (fd < 0)
		return fd == -EACCES ? fd : -ESTALE;
	err = expect_look(source, fd, "", &sx);
	struct put *p = err == 0 ? put_new(r, path, want, &err) : NULL;
	if (p) {
		p->err = sparse_copy(fd, want->size, p->fd, false);
		p->off = p->end = want->size;
		if (p->err == 0)
			p->err = expect_look(source, fd, "", &sx);
		err = put_end(p, e, stamp);
	}
	close(fd);
	return err;
}
