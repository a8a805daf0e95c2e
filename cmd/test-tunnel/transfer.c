#include "cmd/test-tunnel/transfer.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "reactor/err.h"

void transfer_init(struct transfer *t)
{
	*t = (struct transfer){ .fd = -1 };
}

void transfer_end(struct transfer *t)
{
	if (t->fd >= 0)
		close(t->fd);
	if (t->part)
		unlink(t->part);
	free(t->command);
	free(t->part);
	transfer_init(t);
}

/* 'text' for a shell; to be free()d. */
static char *shell_quote(const char *text)
{
	char *out = xmalloc(4 * strlen(text) + 3), *p = out;
	*p++ = '\'';
	for (; *text; text++) {
		if (*text == '\'') {
			memcpy(p, "'\\''", 4);
			p += 4;
		} else {
			*p++ = *text;
		}
	}
	memcpy(p, "'", 2);
	return out;
}

static int open_up(struct transfer *t, const char *quoted)
{
	struct stat st;
	t->fd = open(t->local, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (t->fd < 0 || fstat(t->fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;
	t->size = (uint64_t)st.st_size;
	/* The size tells a whole file from a connection that broke. */
	t->command =
	    xasprintf("f=%s; if [ -d \"$f\" ]; then echo \"$f is a directory\" >&2; exit 1; fi; "
		      "p=\"$f.$$.part\"; "
		      "cat >\"$p\" && [ \"$(wc -c <\"$p\")\" -eq %llu ] && chmod %o \"$p\" && "
		      "mv -f \"$p\" \"$f\" || { rm -f \"$p\"; exit 1; }",
		      quoted, (unsigned long long)t->size, st.st_mode & 0777);
	return 0;
}

static int open_down(struct transfer *t, const char *quoted)
{
	t->part = xasprintf("%s.%d.part", t->local, (int)getpid());
	t->fd = open(t->part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (t->fd < 0) {
		int e = -errno;
		free(t->part);
		t->part = NULL;
		return e;
	}
	t->command = xasprintf("cat <%s", quoted);
	return 0;
}

int transfer_begin(struct transfer *t, bool up, const char *local, const char *remote, char *err,
		   size_t errlen)
{
	char *quoted = shell_quote(remote);
	t->up = up;
	t->local = local;
	int r = up ? open_up(t, quoted) : open_down(t, quoted);
	free(quoted);
	if (r < 0) {
		snprintf(err, errlen, "%s: %s", local, err_text(r));
		transfer_end(t);
		return -1;
	}
	return t->fd;
}

char *transfer_finish(struct transfer *t)
{
	if (t->up)
		return NULL;
	int r = close(t->fd) < 0 ? -errno : 0;
	t->fd = -1;
	if (r == 0 && rename(t->part, t->local) < 0)
		r = -errno;
	if (r < 0)
		return xasprintf("%s: %s", t->local, err_text(r));
	free(t->part);
	t->part = NULL;
	return NULL;
}
