#include <errno.h>
#include <sys/inotify.h>

#include "proto/sync/watch_int.h"

enum {
	WRITTEN = IN_MODIFY | IN_CLOSE_WRITE,
	NAMES = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ATTRIB | WRITTEN,
	SELF = IN_DELETE_SELF | IN_MOVE_SELF,
	OPEN = IN_MODIFY | IN_CREATE /* alone */
};

int inotify_open(struct watch *w)
{
	w->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	return w->fd < 0 ? -errno : 0;
}

/* The descriptor's own link, so that it is the directory that was opened, whatever its name is now.
 */
int inotify_key(struct watch *w, int dir_fd, struct watch_key *k)
{
	char path[40];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", dir_fd);
	int wd = inotify_add_watch(w->fd, path, NAMES | SELF | IN_ONLYDIR | IN_EXCL_UNLINK);
	if (wd < 0)
		return -errno;
	*k = (struct watch_key){ { (uint64_t)wd, 0 } };
	return 0;
}

void inotify_unwatch(struct watch *w, struct watch_key k)
{
	inotify_rm_watch(w->fd, (int)k.v[0]);
}

size_t inotify_event(struct watch *w)
{
	const struct inotify_event *e = (const void *)(w->buf + w->at);
	size_t len = sizeof(*e) + e->len;

	if (e->mask & IN_Q_OVERFLOW) {
		w->options.lost(w->options.arg, NULL);
		return len;
	}
	struct node *node = watch_find(w, (struct watch_key){ { (uint64_t)e->wd, 0 } });
	if (!node)
		return len;
	if (e->mask & IN_IGNORED) {
		watch_drop(w, node);
		watch_self(w, node);
	} else if (e->mask & IN_UNMOUNT) {
		w->options.lost(w->options.arg, node);
	} else if (e->len > 0) {
		watch_name(w, node, slice_str(e->name), e->mask & WRITTEN,
			   !(e->mask & ~(uint32_t)OPEN));
	} else if (!node->parent || (e->mask & SELF)) {
		watch_self(w, node); /* its attributes are told by the parent's watch, too */
	}
	return len;
}
