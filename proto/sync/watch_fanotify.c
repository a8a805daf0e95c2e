#include <errno.h>
#include <fcntl.h>
#include <sys/fanotify.h>
#include <unistd.h>

#include "proto/sync/watch_int.h"

#ifndef AT_HANDLE_FID
#define AT_HANDLE_FID 0x200 /* Linux 6.5: filesystems that cannot be exported have handles, too */
#endif

#ifndef FAN_MARK_IGNORE
#define FAN_MARK_IGNORE 0x400 /* Linux 6.0 */
#endif

enum { HANDLE_MAX = 128 };

#define WRITTEN (FAN_MODIFY | FAN_CLOSE_WRITE)
#define OPEN    ((uint64_t)(FAN_MODIFY | FAN_CREATE)) /* alone */
#define NAMES   (FAN_CREATE | FAN_DELETE | FAN_MOVED_FROM | FAN_MOVED_TO | FAN_ATTRIB | WRITTEN)

/* The whole filesystem, and of the root itself that it goes away: its parent is not known. */
int fanotify_open(struct watch *w, int root_fd)
{
	w->fd = fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_DFID_NAME | FAN_NONBLOCK | FAN_CLOEXEC,
			      O_RDONLY);
	if (w->fd < 0)
		return -errno;
	struct watch_key k;
	if (fanotify_key(root_fd, &k) == 0 &&
	    fanotify_mark(w->fd, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, NAMES | FAN_ONDIR, root_fd,
			  NULL) == 0 &&
	    fanotify_mark(w->fd, FAN_MARK_ADD, FAN_DELETE_SELF | FAN_MOVE_SELF | FAN_ONDIR, root_fd,
			  NULL) == 0)
		return 0;
	int err = errno;
	close(w->fd);
	return -err;
}

void fanotify_leave(struct watch *w, int dir_fd)
{
	fanotify_mark(w->fd, FAN_MARK_ADD | FAN_MARK_IGNORE | FAN_MARK_IGNORED_SURV_MODIFY,
		      NAMES | FAN_ONDIR | FAN_EVENT_ON_CHILD, dir_fd, NULL);
}

/* A handle is 8 to 40 bytes, by the filesystem; two independent hashes of it will do. */
static struct watch_key key_of(const struct file_handle *h)
{
	struct watch_key k = { { (uint64_t)(unsigned)h->handle_type + 1, h->handle_bytes } };

	for (unsigned at = 0; at < h->handle_bytes; at += 8) {
		uint64_t word = 0;
		memcpy(&word, h->f_handle + at, MIN(8, h->handle_bytes - at));
		k.v[0] = (k.v[0] ^ word) * 0xff51afd7ed558ccdu;
		k.v[0] ^= k.v[0] >> 32;
		k.v[1] = (k.v[1] + word) * 0xc4ceb9fe1a85ec53u;
		k.v[1] ^= k.v[1] >> 29;
	}
	return k;
}

int fanotify_key(int dir_fd, struct watch_key *k)
{
	static int fid = AT_HANDLE_FID;
	union {
		struct file_handle h;
		char room[sizeof(struct file_handle) + HANDLE_MAX];
	} u;
	int mount;

	for (;;) {
		u.h.handle_bytes = HANDLE_MAX;
		if (name_to_handle_at(dir_fd, "", &u.h, &mount, AT_EMPTY_PATH | fid) == 0)
			break;
		if (errno != EINVAL || !fid)
			return -errno;
		fid = 0; /* a kernel that does not know it */
	}
	*k = key_of(&u.h);
	return 0;
}

static void named(struct watch *w, uint64_t mask, const struct file_handle *h, const char *end)
{
	const char *name = (const char *)h->f_handle + h->handle_bytes;
	struct node *node = watch_find(w, key_of(h));

	if (!node || name >= end)
		return;
	struct slice s = slice_of(name, strnlen(name, (size_t)(end - name)));
	if (slice_eq(s, SLICE(".")))
		watch_self(w, node);
	else
		watch_name(w, node, s, mask & WRITTEN, !(mask & ~OPEN));
}

size_t fanotify_event(struct watch *w)
{
	struct fanotify_event_metadata e; /* which may lie at any multiple of 4 */
	const char *p = w->buf + w->at;

	memcpy(&e, p, sizeof(e));
	BUG_ON(e.vers != FANOTIFY_METADATA_VERSION || e.event_len > w->len - w->at);
	const char *end = p + e.event_len;
	/* The kernel does not merge the events of two processes: another's are told. */
	if (w->options.not_own && e.pid == getpid() && !(e.mask & FAN_ONDIR))
		return e.event_len;
	if (e.mask & FAN_Q_OVERFLOW)
		w->options.lost(w->options.arg, NULL);
	for (p += e.metadata_len; p < end;) {
		const struct fanotify_event_info_fid *fid = (const void *)p;
		if (fid->hdr.info_type == FAN_EVENT_INFO_TYPE_DFID_NAME ||
		    fid->hdr.info_type == FAN_EVENT_INFO_TYPE_DFID)
			named(w, e.mask, (const void *)fid->handle, p + fid->hdr.len);
		p += fid->hdr.len;
	}
	return e.event_len;
}
