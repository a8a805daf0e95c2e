#include "reactor/pipe.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "reactor/base.h"

enum { KEEP = 32 };

static struct pipe_pair *spare[KEEP];
static int spares, total;

static void discard(struct pipe_pair *p)
{
	close(p->r);
	close(p->w);
	free(p);
	total--;
}

struct pipe_pair *pipe_get(void)
{
	if (spares > 0)
		return spare[--spares];
	int fd[2];
	if (total >= PIPES_MAX || pipe2(fd, O_NONBLOCK | O_CLOEXEC) == -1)
		return NULL;
	struct pipe_pair *p = xcalloc(1, sizeof(*p));
	*p = (struct pipe_pair){ .r = fd[0], .w = fd[1] };
	total++;
	int size = fcntl(p->w, F_SETPIPE_SZ, PIPE_BYTES);
	if (size < PIPE_BYTES) { /* over the user's quota: small pipes are slower than copying */
		discard(p);
		return NULL;
	}
	p->size = (size_t)size;
	return p;
}

void pipe_put(struct pipe_pair *p, int empty)
{
	if (!p)
		return;
	if (empty && spares < KEEP)
		spare[spares++] = p;
	else
		discard(p);
}

void pipe_read(struct pipe_pair *p, void *to, size_t n)
{
	for (size_t at = 0; at < n;) {
		ssize_t r = read(p->r, (char *)to + at, n - at);
		BUG_ON(r <= 0 && !(r == -1 && errno == EINTR));
		at += r > 0 ? (size_t)r : 0;
	}
}

void pipe_trim(void)
{
	while (spares > 0)
		discard(spare[--spares]);
}
