#include "proto/sync/slab.h"

#include <sys/mman.h>

enum { CHUNK = 64 * 1024, UNIT = 8 };

/* A chunk; the pieces lie behind it. */
struct slab {
	struct list link; /* of those of its size that have room */
	void *free;       /* pieces that were freed: each begins with the next */
	uint32_t fresh;   /* from this offset on none was ever given out */
	uint32_t used;
};

static struct list with_room[SLAB_MAX / UNIT + 1];
static size_t chunks;

/* AddressSanitizer is to see each piece. */
#if defined(__SANITIZE_ADDRESS__)
#define ALL_BY_MALLOC 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ALL_BY_MALLOC 1
#endif
#endif
#ifndef ALL_BY_MALLOC
#define ALL_BY_MALLOC 0
#endif

static size_t units(size_t n)
{
	return MAX((n + UNIT - 1) / UNIT, (size_t)1);
}

/* The address of a chunk is a multiple of its size, so that a piece tells where it is. */
static struct slab *chunk_new(void)
{
	char *p = mmap(NULL, 2 * (size_t)CHUNK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		       -1, 0);
	if (p == MAP_FAILED) {
		fputs("out of memory\n", stderr);
		abort();
	}
	size_t before = -(uintptr_t)p & (CHUNK - 1);
	if (before)
		munmap(p, before);
	munmap(p + before + CHUNK, CHUNK - before);
	struct slab *s = (struct slab *)(void *)(p + before);
	s->fresh = sizeof(*s);
	chunks++;
	return s;
}

static struct slab *chunk_of(void *p)
{
	return (struct slab *)(void *)((char *)p - ((uintptr_t)p & (CHUNK - 1)));
}

static bool has_room(const struct slab *s, size_t size)
{
	return s->free || s->fresh + size <= CHUNK;
}

void *slab_new(size_t n)
{
	if (ALL_BY_MALLOC || n > SLAB_MAX)
		return xcalloc(1, n);
	size_t size = units(n) * UNIT;
	struct list *room = &with_room[units(n)];
	if (!room->next)
		list_init(room);
	if (list_empty(room))
		list_add_tail(room, &chunk_new()->link);
	struct slab *s = container_of(room->next, struct slab, link);
	void *p = s->free;
	if (p) {
		memcpy(&s->free, p, sizeof(s->free));
		memset(p, 0, size);
	} else {
		p = (char *)s + s->fresh; /* zeroed by the system */
		s->fresh += (uint32_t)size;
	}
	s->used++;
	if (!has_room(s, size))
		list_del(&s->link);
	return p;
}

void slab_free(void *p, size_t n)
{
	if (!p)
		return;
	if (ALL_BY_MALLOC || n > SLAB_MAX) {
		free(p);
		return;
	}
	struct slab *s = chunk_of(p);
	struct list *room = &with_room[units(n)];
	BUG_ON(s->used == 0);
	if (!has_room(s, units(n) * UNIT))
		list_add_tail(room, &s->link);
	memcpy(p, &s->free, sizeof(s->free));
	s->free = p;
	/* The last one with room stays: what comes and goes is not to cost a system call each. */
	if (--s->used == 0 && (room->next != &s->link || room->prev != &s->link)) {
		list_del(&s->link);
		munmap(s, CHUNK);
		chunks--;
	}
}

size_t slab_bytes(void)
{
	return chunks * CHUNK;
}
