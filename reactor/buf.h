/*
 * Bounded contiguous byte buffer, and the pool its blocks come from.
 * Empty means unallocated: an idle connection holds no block. A buffer is born with a maximum and
 * never grows past it; who fills it stops reading when it is full, and that is the back-pressure.
 */
#ifndef REACTOR_BUF_H
#define REACTOR_BUF_H

#include <sys/uio.h>

#include "reactor/base.h"

struct buf {
	char *base;
	size_t head, len; /* data is base[head .. head+len) */
	size_t cap, max;
};

/* An empty buffer that will hold at most max bytes. Allocates nothing. */
void buf_init(struct buf *b, size_t max);
/* Gives the block back. b stays usable (empty). */
void buf_end(struct buf *b);

/* Where the next bytes go; iov_len 0 means full. Grows by doubling up to max. Valid until the next
 * call on b. Follow with buf_added. */
struct iovec buf_room(struct buf *b);
/* Like buf_room, but with at least want bytes where max allows that. */
struct iovec buf_room_for(struct buf *b, size_t want);
void buf_added(struct buf *b, size_t n);

/* The bytes held; valid until the next call on b. */
struct slice buf_data(const struct buf *b);
/* Drops n bytes (n <= len) from the front; the last byte out returns the block to the pool. */
void buf_drop(struct buf *b, size_t n);

/* Appends all of s or nothing: 0 or -ENOBUFS. */
int buf_put(struct buf *b, struct slice s);
int buf_puts(struct buf *b, const char *s);
/* Appends formatted text, all or nothing: 0 or -ENOBUFS. */
int buf_printf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Blocks in power-of-two classes from 512 bytes to 256 KiB, kept warm in free lists up to a cap.
 * *size is rounded up to the class on return. Larger sizes go straight to malloc. */
char *block_get(size_t *size);
/* size as block_get returned it. NULL is ignored. */
void block_put(char *p, size_t size);
/* Frees what the free lists hold (after a storm, at exit). */
void block_trim(void);

#endif
