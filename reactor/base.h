/*
 * The few types that every room shares: slices, intrusive lists, checked allocation, BUG_ON.
 * No I/O and no state here.
 */
#ifndef REACTOR_BASE_H
#define REACTOR_BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Borrowed bytes: not NUL-terminated, never owned. Each user says how long they live. */
struct slice {
	const char *p;
	size_t n;
};

/* Doubly linked ring with a head; an entry that is in no list points at itself. */
struct list {
	struct list *prev, *next;
};

#define ARRAY_LEN(a)   (sizeof(a) / sizeof((a)[0]))
#define SLICE(literal) ((struct slice){ "" literal, sizeof(literal) - 1 })
/* printf("%.*s", SLICE_FMT(s)) */
#define SLICE_FMT(s)                    (int)((s).n > 65536 ? 65536 : (s).n), ((s).p ? (s).p : "")
#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))
#define PRINTF_LIKE(fmt, first)         __attribute__((format(printf, fmt, first)))
#define MIN(a, b)                       ((a) < (b) ? (a) : (b))
#define MAX(a, b)                       ((a) > (b) ? (a) : (b))

/* An invariant of ours is broken: say where and abort. Kept in release builds. */
#define BUG_ON(cond)                                                                               \
	do {                                                                                       \
		if (__builtin_expect(!!(cond), 0))                                                 \
			bug_abort(__FILE__, __LINE__, #cond);                                      \
	} while (0)
_Noreturn void bug_abort(const char *file, int line, const char *what);

/* malloc and kin that never return NULL: out of memory aborts (limits refuse work, not malloc). */
void *xmalloc(size_t n);
void *xcalloc(size_t count, size_t n);
void *xrealloc(void *p, size_t n);
char *xstrdup(const char *s);
/* NUL-terminated copy of s, to be free()d. An embedded NUL is copied as it is. */
char *xslicedup(struct slice s);
char *xasprintf(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* Returns the slice over a C string; NULL gives the empty slice. */
static inline struct slice slice_str(const char *s)
{
	return (struct slice){ s, s ? strlen(s) : 0 };
}

static inline struct slice slice_of(const void *p, size_t n)
{
	return (struct slice){ p, n };
}

static inline bool slice_eq(struct slice a, struct slice b)
{
	return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

/* Same length and same bytes but for ASCII case (never the locale's). */
bool slice_eqi(struct slice a, struct slice b);

static inline bool slice_starts(struct slice s, struct slice prefix)
{
	return s.n >= prefix.n && (prefix.n == 0 || memcmp(s.p, prefix.p, prefix.n) == 0);
}

static inline bool slice_ends(struct slice s, struct slice suffix)
{
	return s.n >= suffix.n &&
	       (suffix.n == 0 || memcmp(s.p + s.n - suffix.n, suffix.p, suffix.n) == 0);
}

/* s without its first n bytes (n <= s.n). */
static inline struct slice slice_after(struct slice s, size_t n)
{
	return (struct slice){ n ? s.p + n : s.p, s.n - n }; /* NULL + 0 is undefined */
}

/* Splits at the first sep: *head gets what is before it, *tail what follows; false (head = s,
 * tail empty) when sep does not occur. */
bool slice_cut(struct slice s, char sep, struct slice *head, struct slice *tail);

/* Decimal digits only, the whole slice, no sign, at most max: 0, or -EINVAL. */
int slice_u64(struct slice s, uint64_t max, uint64_t *out);

static inline void list_init(struct list *l)
{
	l->prev = l->next = l;
}

static inline bool list_empty(const struct list *l)
{
	return l->next == l;
}

static inline void list_add_tail(struct list *head, struct list *l)
{
	l->prev = head->prev;
	l->next = head;
	head->prev->next = l;
	head->prev = l;
}

/* Unlinks l, which may be in no list (initialised). */
static inline void list_del(struct list *l)
{
	l->prev->next = l->next;
	l->next->prev = l->prev;
	list_init(l);
}

/* Unlinks and returns the first entry, NULL when empty. */
static inline struct list *list_pop(struct list *head)
{
	struct list *l = head->next;
	if (l == head)
		return NULL;
	list_del(l); // NOLINT(clang-analyzer-unix.Malloc): it cannot follow a ring
	return l;
}

/* Moves all entries of from to the end of to. */
static inline void list_splice(struct list *to, struct list *from)
{
	if (list_empty(from))
		return;
	from->next->prev = to->prev;
	to->prev->next = from->next;
	from->prev->next = to;
	to->prev = from->prev;
	list_init(from);
}

#endif
