#include "reactor/buf.h"

#include <errno.h>

enum {
	CLASS_MIN_SHIFT = 9,
	CLASS_MAX_SHIFT = 18,
	CLASSES = CLASS_MAX_SHIFT - CLASS_MIN_SHIFT + 1,
	KEEP_BYTES = 1u << 20 /* kept warm per class */
};

/* A free block's first bytes link it; the pool belongs to the one thread. */
struct free_block {
	struct free_block *next;
};

static struct pool_class {
	struct free_block *head;
	size_t count;
} pool[CLASSES];

static unsigned class_of(size_t size)
{
	unsigned shift = CLASS_MIN_SHIFT;
	while (((size_t)1 << shift) < size)
		shift++;
	return shift - CLASS_MIN_SHIFT;
}

char *block_get(size_t *size)
{
	if (*size > (size_t)1 << CLASS_MAX_SHIFT)
		return xmalloc(*size);
	unsigned c = class_of(*size);
	*size = (size_t)1 << (c + CLASS_MIN_SHIFT);
	struct free_block *b = pool[c].head;
	if (!b)
		return xmalloc(*size);
	pool[c].head = b->next;
	pool[c].count--;
	return (char *)b;
}

void block_put(char *p, size_t size)
{
	if (!p)
		return;
	if (size > (size_t)1 << CLASS_MAX_SHIFT) {
		free(p);
		return;
	}
	unsigned c = class_of(size);
	if (pool[c].count * size >= KEEP_BYTES) {
		free(p);
		return;
	}
	struct free_block *b = (void *)p;
	b->next = pool[c].head;
	pool[c].head = b;
	pool[c].count++;
}

void block_trim(void)
{
	for (size_t c = 0; c < CLASSES; c++) {
		while (pool[c].head) {
			struct free_block *b = pool[c].head;
			pool[c].head = b->next;
			free(b);
		}
		pool[c].count = 0;
	}
}

void buf_init(struct buf *b, size_t max)
{
	*b = (struct buf){ .max = max };
}

void buf_end(struct buf *b)
{
	block_put(b->base, b->cap);
	buf_init(b, b->max);
}

struct iovec buf_room_for(struct buf *b, size_t want)
{
	want = MIN(want, b->max - b->len);
	if (b->cap - b->head - b->len < want || want == 0) {
		if (b->head > 0 && b->cap - b->len >= want) {
			memmove(b->base, b->base + b->head, b->len);
			b->head = 0;
		} else if (want > 0) {
			size_t cap = MIN(MAX(b->len + want, 2 * b->cap), MAX(b->max, 512));
			char *base = block_get(&cap);
			if (b->len)
				memcpy(base, b->base + b->head, b->len);
			block_put(b->base, b->cap);
			b->base = base;
			b->head = 0;
			b->cap = cap;
		}
	}
	size_t room = MIN(b->cap - b->head - b->len, b->max - b->len);
	return (struct iovec){ b->base ? b->base + b->head + b->len : NULL, room };
}

struct iovec buf_room(struct buf *b)
{
	size_t tail = b->cap - b->head - b->len;
	size_t least = b->cap < 4096 ? 4096 : b->cap / 4;
	return buf_room_for(b, tail > least ? tail : least);
}

void buf_added(struct buf *b, size_t n)
{
	BUG_ON(n > b->cap - b->head - b->len || b->len + n > b->max);
	b->len += n;
	if (b->len == 0)
		buf_end(b);
}

struct slice buf_data(const struct buf *b)
{
	return slice_of(b->base ? b->base + b->head : NULL, b->len);
}

void buf_drop(struct buf *b, size_t n)
{
	BUG_ON(n > b->len);
	b->head += n;
	b->len -= n;
	if (b->len == 0)
		buf_end(b);
}

int buf_put(struct buf *b, struct slice s)
{
	if (s.n > b->max - b->len)
		return -ENOBUFS;
	if (s.n == 0)
		return 0;
	struct iovec room = buf_room_for(b, s.n);
	BUG_ON(!room.iov_base || room.iov_len < s.n);
	memcpy(room.iov_base, s.p, s.n);
	buf_added(b, s.n);
	return 0;
}

int buf_puts(struct buf *b, const char *s)
{
	return buf_put(b, slice_str(s));
}

int buf_printf(struct buf *b, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n + 1 > b->max - b->len + 1)
		return -ENOBUFS;
	char *text = xmalloc((size_t)n + 1);
	va_start(ap, fmt);
	vsnprintf(text, (size_t)n + 1, fmt, ap);
	va_end(ap);
	int r = buf_put(b, slice_of(text, (size_t)n));
	free(text);
	return r;
}
