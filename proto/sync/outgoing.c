#include "proto/sync/outgoing.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

enum { PIECE = 120 * 1024, PIECE_DELTA = 2 * SYNC_BLOCK, HOLE_MIN = SYNC_BLOCK };

static int64_t time_ns(struct timespec t)
{
	return (int64_t)((uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec);
}

bool file_is(const struct stat *st, const struct version *v, const struct stamp *stamp)
{
	return S_ISREG(st->st_mode) && v->kind == SYNC_FILE && (uint64_t)st->st_size == v->size &&
	       (st->st_mode & 0777) == v->mode && time_ns(st->st_mtim) == v->mtime_ns &&
	       st->st_ino == stamp->ino && time_ns(st->st_ctim) == stamp->ctime_ns;
}

static int open_checked(struct root *root, const char *path, const struct version *v,
			const struct stamp *stamp, struct stat *st)
{
	int fd = root_open_at(root, path, O_RDONLY);
	if (fd < 0)
		return fd == -ENOENT || fd == -ELOOP || fd == -ENOTDIR || fd == -ENXIO ? -ESTALE
										       : fd;
	if (fstat(fd, st) == -1 || !file_is(st, v, stamp)) {
		close(fd);
		return -ESTALE;
	}
	return fd;
}

static ssize_t read_at(int fd, char *out, size_t n, uint64_t at)
{
	size_t got = 0;
	while (got < n) {
		ssize_t r = pread(fd, out + got, n - got, (off_t)(at + got));
		if (r == -1 && errno == EINTR)
			continue;
		if (r == -1)
			return -errno;
		if (r == 0)
			break;
		got += (size_t)r;
	}
	return (ssize_t)got;
}

int file_read(struct root *root, const char *path, const struct version *v,
	      const struct stamp *stamp, char *out, uint8_t digest[SYNC_DIGEST])
{
	struct stat st;
	struct digest sum;
	int fd = open_checked(root, path, v, stamp, &st);
	if (fd < 0)
		return fd;
	size_t size = (size_t)v->size, got = 0;
	ssize_t n = 0;
	while (got <= size) { /* one byte more than it should have: none may be there */
		n = read(fd, out + got, size + 1 - got);
		if (n == -1 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		got += (size_t)n;
		if (got == size && size > 0)
			break; /* fstat will tell if there is more */
	}
	int r = n == -1 ? -errno : got != size ? -ESTALE : 0;
	if (r == 0 && (fstat(fd, &st) == -1 || !file_is(&st, v, stamp)))
		r = -ESTALE;
	close(fd);
	if (r == 0) {
		digest_init(&sum, NULL);
		digest_add(&sum, slice_of(out, size));
		digest_end(&sum, digest);
	}
	return r;
}

/* --- pieces --- */

static int send_copy(void *arg, uint64_t at, uint64_t n)
{
	struct outgoing *o = arg;
	channel_send(o->ch, &(struct msg){ .type = MSG_COPY, .id = o->id, .at = at, .n = n });
	return 0;
}

static int send_data(void *arg, struct slice data)
{
	struct outgoing *o = arg;
	channel_send(o->ch, &(struct msg){ .type = MSG_DATA, .id = o->id, .data = data });
	return 0;
}

static const struct delta_ops delta_ops_of = { .copy = send_copy, .data = send_data };

static void delta_begin(struct outgoing *o)
{
	struct delta_ops ops = delta_ops_of;
	ops.arg = o;
	if (!o->sig.n)
		return;
	o->delta = delta_new(&o->sig, &ops);
	if (o->v->size >= SIGNATURE_MIN)
		delta_own(o->delta, &o->made, o->at);
}

struct outgoing *outgoing_new(struct channel *ch, uint32_t id, struct root *root, const char *path,
			      struct version *v, const struct stamp *stamp, struct signature *sig,
			      int *err)
{
	struct stat st;
	int fd = v->size > SYNC_FILE_MAX ? -EFBIG : open_checked(root, path, v, stamp, &st);
	if (fd < 0) {
		if (sig)
			signature_end(sig);
		*err = fd;
		return NULL;
	}
	struct outgoing *o = xcalloc(1, sizeof(*o));
	list_init(&o->link);
	o->id = id;
	o->path = xstrdup(path);
	o->fd = fd;
	o->ch = ch;
	o->v = version_ref(v);
	o->stamp = *stamp;
	o->holes = (uint64_t)st.st_blocks * 512 < v->size;
	if (!o->holes)
		o->data_end = v->size;
	digest_init(&o->sum, NULL);
	if (sig) {
		o->sig = *sig;
		*sig = (struct signature){ 0 };
	}
	delta_begin(o);
	return o;
}

void outgoing_sign(struct outgoing *o)
{
	if (o->v->size >= SIGNATURE_MIN)
		digest_init(&o->sum, &o->made);
}

static int abort_it(struct outgoing *o, int code)
{
	channel_send(o->ch, &(struct msg){ .type = MSG_ABORT, .id = o->id, .status = code });
	return code;
}

static int finish(struct outgoing *o)
{
	struct stat st;
	int r = o->delta ? delta_end(o->delta) : 0;
	if (r < 0)
		return abort_it(o, r);
	digest_end(&o->sum, o->digest);
	if (fstat(o->fd, &st) == -1 || !file_is(&st, o->v, &o->stamp))
		return abort_it(o, -ESTALE);
	/* The stamp is the same and the content is not: a write within one tick of the clock. */
	if (o->v->hashed == 1 && memcmp(o->v->digest, o->digest, SYNC_DIGEST) != 0)
		return abort_it(o, -ESTALE);
	struct msg end = { .type = MSG_END, .id = o->id };
	memcpy(end.digest, o->digest, SYNC_DIGEST);
	channel_send(o->ch, &end);
	return 1;
}

/* At the end of a stretch of data: the hole behind it, if there is one, then where data ends next.
 */
static int skip_hole(struct outgoing *o)
{
	off_t size = (off_t)o->v->size, at = (off_t)o->at;
	off_t data = lseek(o->fd, at, SEEK_DATA);
	if (data == -1)
		data = errno == ENXIO ? size : at; /* at: this filesystem cannot tell */
	data = MIN(data, size);
	if (data - at < HOLE_MIN)
		data = at; /* not worth a message */
	off_t end = data < size ? lseek(o->fd, data, SEEK_HOLE) : size;
	if (end <= data || end > size)
		end = size;
	if (end - data < HOLE_MIN)
		end = MIN(data + HOLE_MIN, size);
	if (data > at) {
		uint64_t n = (uint64_t)(data - at);
		int r = o->delta ? delta_end(o->delta) : 0;
		if (r < 0)
			return r;
		delta_free(o->delta);
		o->delta = NULL;
		channel_send(o->ch, &(struct msg){ .type = MSG_HOLE, .id = o->id, .n = n });
		digest_zeros(&o->sum, n);
		o->at += n;
		delta_begin(o);
	}
	o->data_end = (uint64_t)end;
	return 0;
}

int outgoing_step(struct outgoing *o)
{
	if (o->at == o->v->size)
		return finish(o);
	if (o->at == o->data_end) {
		int r = skip_hole(o);
		return r < 0 ? abort_it(o, r) : 0;
	}
	/* In step with the blocks, so that each is hashed before it is looked for. */
	size_t piece = o->delta ? PIECE_DELTA - o->at % SYNC_BLOCK : PIECE;
	size_t want = (size_t)MIN(o->data_end - o->at, piece);
	struct msg m = { .type = MSG_DATA, .id = o->id };
	static char scratch[PIECE_DELTA];
	char *to = o->delta ? scratch : channel_put(o->ch, &m, want);
	ssize_t n = read_at(o->fd, to, want, o->at);
	if (n < 0 || (size_t)n < want) {
		if (!o->delta)
			channel_put_drop(o->ch);
		return abort_it(o, n < 0 ? (int)n : -ESTALE);
	}
	digest_add(&o->sum, slice_of(to, want));
	o->at += want;
	if (o->at < o->v->size)
		digest_more(&o->sum);
	if (!o->delta) {
		channel_put_done(o->ch, &m, want);
		return 0;
	}
	int r = delta_feed(o->delta, slice_of(scratch, want));
	return r < 0 ? abort_it(o, r) : 0;
}

void outgoing_free(struct outgoing *o)
{
	if (!o)
		return;
	list_del(&o->link);
	delta_free(o->delta);
	signature_end(&o->sig);
	signature_end(&o->made);
	version_unref(o->v);
	close(o->fd);
	free(o->path);
	free(o);
}
