/* What may be in a store's journal: record.c, and what loading makes of it. The first byte says
 * which: one record, a sequence of them, or (checksums put right) a journal that is loaded from a
 * file. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/sync/record.h"
#include "proto/sync/store.h"

static char dir[64];

static void clean(void)
{
	static const char *const names[] = { "state", "lock" };
	char path[80];
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		unlink(path);
	}
	rmdir(dir);
}

static void make_dir(void)
{
	if (dir[0])
		return;
	snprintf(dir, sizeof(dir), "%s/fuzz-sync-store-%d",
		 access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", (int)getpid());
	BUG_ON(mkdir(dir, 0700) == -1);
	atexit(clean);
}

/* What was read, written again, is what was read. */
static size_t one_record(struct slice in)
{
	static char again[RECORD_MAX];
	struct record r;
	ssize_t n = record_get(in, &r);
	BUG_ON(n < 0 && n != -EBADMSG);
	BUG_ON(n > 0 && (size_t)n > MIN(in.n, (size_t)RECORD_MAX));
	if (n <= 0) {
		BUG_ON(r.v != NULL);
		return 0;
	}
	BUG_ON(r.text.n > SYNC_PATH_MAX || (r.text.n && r.text.p < in.p));
	BUG_ON((r.v != NULL) != (r.type == RECORD_ENTRY || r.type == RECORD_GIVEN));
	BUG_ON(record_put(again, &r) != (size_t)n || memcmp(again, in.p, (size_t)n) != 0);
	/* Cut off anywhere it is no record, nor is it damaged. */
	for (ssize_t i = 0; i < n; i += MAX(n / 16, 1)) {
		struct record cut;
		BUG_ON(record_get(slice_of(in.p, (size_t)i), &cut) != 0);
	}
	version_unref(r.v);
	return (size_t)n;
}

static void records(struct slice in)
{
	size_t n;
	while ((n = one_record(in)))
		in = slice_after(in, n);
}

/* Puts right each record's checksum and, so that it can be one, its type; returns a copy. */
static char *mended(struct slice in)
{
	char *copy = xmalloc(in.n + 1);
	size_t at = 0;
	if (in.n)
		memcpy(copy, in.p, in.n);
	while (at + RECORD_HEAD <= in.n) {
		uint8_t *p = (uint8_t *)copy + at;
		size_t n = p[4] | (size_t)(p[5] & 1) << 8;
		n = MIN(n, in.n - at - RECORD_HEAD);
		p[4] = (uint8_t)n;
		p[5] = (uint8_t)(n >> 8);
		p[6] = at == 0 ? RECORD_GENERATION : (uint8_t)(1 + p[6] % 4);
		uint32_t crc = crc32c(slice_of(p + 4, RECORD_HEAD - 4 + n));
		for (int i = 0; i < 4; i++)
			p[i] = (uint8_t)(crc >> 8 * i);
		at += RECORD_HEAD + n;
	}
	return copy;
}

static struct tree *load(bool base, const char *generation, int *r)
{
	struct tree *t = tree_new(1000, NULL, NULL);
	char why[200];
	int err;
	struct store *s = store_open(dir, &err, why, sizeof(why));
	BUG_ON(!s);
	*r = store_load(s, t, base, generation, why, sizeof(why));
	BUG_ON(*r < 0);
	store_close(s);
	return t;
}

/* Whatever was in the file, a second load (of what the first made of it) is the same. */
static void file(struct slice in)
{
	char path[64], generation[512];
	bool base = in.n && in.p[0] & 1;
	char *copy = mended(slice_after(in, MIN(in.n, 1)));
	size_t len = in.n ? in.n - 1 : 0, n = 0;
	struct tree *t, *again;
	struct record first;
	int r;
	make_dir();
	snprintf(path, sizeof(path), "%s/state", dir);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	BUG_ON(fd == -1 || write(fd, copy, len) != (ssize_t)len);
	close(fd);
	if (record_get(slice_of(copy, len), &first) > 0 && first.type == RECORD_GENERATION)
		n = MIN(first.text.n, sizeof(generation) - 1);
	if (n)
		memcpy(generation, first.text.p, n);
	generation[n] = '\0';
	version_unref(first.v);
	t = load(base, generation, &r);
	again = load(base, generation, &r);
	BUG_ON(r != 0);
	BUG_ON(tree_count(t) != tree_count(again));
	for (struct node *a = tree_root(t); a; a = node_next(t, a)) {
		char name[SYNC_PATH_MAX + 1];
		ssize_t l = node_path(a, name, sizeof(name));
		BUG_ON(l < 0);
		struct node *b = tree_find(again, slice_of(name, (size_t)l));
		BUG_ON(!b || a->side[SYNC_BETA] || (base && a->base != a->side[SYNC_ALPHA]));
		BUG_ON(version_same(a->side[SYNC_ALPHA], b->side[SYNC_ALPHA]) == 0);
		BUG_ON((a->base != NULL) != (b->base != NULL));
	}
	tree_free(t);
	tree_free(again);
	free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct slice in = slice_of(data + 1, size ? size - 1 : 0);
	char *copy;
	if (size == 0)
		return 0;
	switch (data[0] % 3) {
	case 0:
		records(in);
		break;
	case 1:
		copy = mended(in);
		records(slice_of(copy, in.n));
		free(copy);
		break;
	default:
		file(in);
	}
	return 0;
}
