#include "proto/sync/record.h"

#include <endian.h>
#include <errno.h>

enum { POLYNOMIAL = 0x82f63b78 }; /* 0x1edc6f41, bits reversed */

static void put_le(char **out, uint64_t v, unsigned bytes)
{
	for (; bytes; bytes--, v >>= 8)
		*(*out)++ = (char)(v & 0xff);
}

static uint64_t get_le(struct slice *in, unsigned bytes)
{
	uint64_t v = 0;
	for (unsigned i = 0; i < bytes; i++)
		v |= (uint64_t)(uint8_t)in->p[i] << 8 * i;
	*in = slice_after(*in, bytes);
	return v;
}

/* Eight bytes a step, by eight tables. */
uint32_t crc32c(struct slice s)
{
	static uint32_t table[8][256];
	uint32_t crc = 0xffffffff;
	if (!table[0][1]) {
		for (uint32_t i = 0; i < 256; i++) {
			uint32_t c = i;
			for (int k = 0; k < 8; k++)
				c = c & 1 ? c >> 1 ^ (uint32_t)POLYNOMIAL : c >> 1;
			table[0][i] = c;
		}
		for (uint32_t i = 0; i < 256; i++)
			for (int k = 1; k < 8; k++) {
				uint32_t c = table[k - 1][i];
				table[k][i] = c >> 8 ^ table[0][c & 0xff];
			}
	}
	for (; s.n >= 8; s = slice_after(s, 8)) {
		uint64_t w;
		memcpy(&w, s.p, 8);
		w = le64toh(w) ^ crc;
		crc = 0;
		for (int k = 0; k < 8; k++)
			crc ^= table[7 - k][w >> 8 * k & 0xff];
	}
	while (s.n)
		crc = crc >> 8 ^ table[0][(crc ^ get_le(&s, 1)) & 0xff];
	return ~crc;
}

static void put_slice(char **out, struct slice s)
{
	if (s.n)
		memcpy(*out, s.p, s.n);
	*out += s.n;
}

static void put_entry(char **out, const struct record *r)
{
	const struct version *v = r->v;
	put_le(out, r->text.n, 2);
	put_slice(out, r->text);
	put_le(out, v->kind, 1);
	put_le(out, v->mode, 2);
	put_le(out, r->stamp.ino, 8);
	put_le(out, (uint64_t)r->stamp.ctime_ns, 8);
	if (v->kind == SYNC_FILE) {
		put_le(out, v->size, 8);
		put_le(out, (uint64_t)v->mtime_ns, 8);
		if (v->hashed == 1)
			put_slice(out, slice_of(v->digest, SYNC_DIGEST));
	} else if (v->kind == SYNC_LINK) {
		put_slice(out, slice_of((const char *)v + offsetof(struct version, target),
					(size_t)v->size));
	}
}

size_t record_put(char *out, const struct record *r)
{
	char *head = out, *payload = out + RECORD_HEAD, *end = payload;
	BUG_ON(r->text.n > SYNC_PATH_MAX);
	if (r->type == RECORD_ENTRY || r->type == RECORD_GIVEN) {
		BUG_ON(r->v->kind == SYNC_OTHER);
		BUG_ON(r->v->kind == SYNC_LINK && r->v->size > SYNC_PATH_MAX);
		put_entry(&end, r);
	} else {
		put_slice(&end, r->text);
	}
	head += 4;
	put_le(&head, (size_t)(end - payload), 2);
	put_le(&head, (unsigned)r->type, 1);
	head = out;
	put_le(&head, crc32c(slice_of(out + 4, (size_t)(end - out) - 4)), 4);
	return (size_t)(end - out);
}

static int get_entry(struct slice in, struct record *r)
{
	size_t n;
	unsigned kind, mode;
	if (in.n < 2)
		return -EBADMSG;
	n = (size_t)get_le(&in, 2);
	if (n > SYNC_PATH_MAX || in.n < n + 19)
		return -EBADMSG;
	r->text = slice_of(in.p, n);
	in = slice_after(in, n);
	kind = (unsigned)get_le(&in, 1);
	mode = (unsigned)get_le(&in, 2);
	r->stamp.ino = get_le(&in, 8);
	r->stamp.ctime_ns = (int64_t)get_le(&in, 8);
	if (mode > 0777)
		return -EBADMSG;
	if (kind == SYNC_DIR && in.n == 0) {
		r->v = version_dir(mode);
	} else if (kind == SYNC_FILE && (in.n == 16 || in.n == 16 + SYNC_DIGEST)) {
		uint64_t size = get_le(&in, 8);
		int64_t mtime = (int64_t)get_le(&in, 8);
		r->v = version_file(mode, size, mtime, in.n ? (const uint8_t *)in.p : NULL);
	} else if (kind == SYNC_LINK && mode == 0 && in.n <= SYNC_PATH_MAX &&
		   !memchr(in.p, '\0', in.n)) {
		r->v = version_link(in);
	} else {
		return -EBADMSG;
	}
	return 0;
}

ssize_t record_get(struct slice in, struct record *r)
{
	struct slice head = in, payload;
	uint32_t crc;
	size_t n;
	int type;
	*r = (struct record){ 0 };
	if (in.n < RECORD_HEAD)
		return 0;
	crc = (uint32_t)get_le(&head, 4);
	n = (size_t)get_le(&head, 2);
	type = (int)get_le(&head, 1);
	if (n > RECORD_MAX - RECORD_HEAD || type < RECORD_GENERATION || type > RECORD_GIVEN)
		return -EBADMSG;
	if (head.n < n)
		return 0;
	if (crc32c(slice_of(in.p + 4, RECORD_HEAD - 4 + n)) != crc)
		return -EBADMSG;
	payload = slice_of(head.p, n);
	r->type = type;
	if (type == RECORD_ENTRY || type == RECORD_GIVEN) {
		if (get_entry(payload, r) < 0)
			return -EBADMSG;
	} else {
		if (n > SYNC_PATH_MAX)
			return -EBADMSG;
		r->text = payload;
	}
	return (ssize_t)(RECORD_HEAD + n);
}
