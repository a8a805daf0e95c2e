/*
 * A pool of empty pipes for splice(2). Pipes are scarce (pipe-user-pages-soft: 16,384 pages a
 * user), so a relay holds one only while bytes flow. capacities(7), pipe(7).
 */
#ifndef REACTOR_PIPE_H
#define REACTOR_PIPE_H

#include <stddef.h>

struct pipe_pair {
	int r, w;
	size_t size; /* capacity in bytes */
};

enum { PIPE_BYTES = 256 * 1024, PIPES_MAX = 256 };

/* An empty pipe of PIPE_BYTES, or NULL when the pool's limit or the kernel's is reached (copy
 * then). */
struct pipe_pair *pipe_get(void);
/* Gives p back; empty says that all its bytes were taken out, else it is closed. NULL is ignored.
 */
void pipe_put(struct pipe_pair *p, int empty);
/* Copies n bytes out of p, which holds at least as many. */
void pipe_read(struct pipe_pair *p, void *to, size_t n);
/* Closes the pooled pipes (at exit). */
void pipe_trim(void);

#endif
