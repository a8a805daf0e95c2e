#include "proto/sync/wire.h"

#include <errno.h>

/* The fields of each type, in their order. */
enum field {
	F_ID = 'i',
	F_FLAGS = 'g',
	F_STATUS = 's',
	F_AT = 'a',
	F_N = 'n',
	F_PATH = 'p',
	F_FROM = 'f',
	F_TEXT = 't',
	F_DIGEST = 'h',
	F_WANT = 'w',
	F_EXPECT = 'e',
	F_SOURCE = 'x',
	F_DATA = 'd' /* the rest; only as the last */
};

static const struct layout {
	const char *name, *fields;
} layouts[MSG_TYPES] = {
	[MSG_OPEN] = { "OPEN", "ignatd" },
	[MSG_IGNORE] = { "IGNORE", "d" },
	[MSG_MASK] = { "MASK", "p" },
	[MSG_OPENED] = { "OPENED", "itd" },
	[MSG_ENTRY] = { "ENTRY", "gpw" },
	[MSG_SCANNED] = { "SCANNED", "na" },
	[MSG_PROBLEM] = { "PROBLEM", "pt" },
	[MSG_HALT] = { "HALT", "t" },
	[MSG_PUT] = { "PUT", "ipwed" },
	[MSG_PUT_BEGIN] = { "PUT_BEGIN", "ipwe" },
	[MSG_DATA] = { "DATA", "id" },
	[MSG_HOLE] = { "HOLE", "in" },
	[MSG_COPY] = { "COPY", "ian" },
	[MSG_END] = { "END", "ih" },
	[MSG_ABORT] = { "ABORT", "is" },
	[MSG_MKDIR] = { "MKDIR", "ipwe" },
	[MSG_LINK] = { "LINK", "ipwe" },
	[MSG_META] = { "META", "igpwe" },
	[MSG_REMOVE] = { "REMOVE", "ipe" },
	[MSG_RENAME] = { "RENAME", "ipf" },
	[MSG_COPY_FROM] = { "COPY_FROM", "ipfwex" },
	[MSG_DONE] = { "DONE", "ist" },
	[MSG_SIGN] = { "SIGN", "ipw" },
	[MSG_SIGNATURE] = { "SIGNATURE", "id" },
	[MSG_READ] = { "READ", "ipe" },
	[MSG_HASH] = { "HASH", "ipe" },
	[MSG_HASHED] = { "HASHED", "ish" },
	[MSG_FENCE] = { "FENCE", "i" },
	[MSG_FENCED] = { "FENCED", "i" },
	[MSG_EPOCH] = { "EPOCH", "d" },
};

const char *wire_name(enum msg_type type)
{
	return type > 0 && type < MSG_TYPES ? layouts[type].name : "unknown message";
}

static struct version *const *version_of(const struct msg *m, char field)
{
	return field == F_WANT ? &m->want : field == F_EXPECT ? &m->expect : &m->source;
}

/* --- writing --- */

static size_t version_size(const struct version *v)
{
	if (!v)
		return 1;
	size_t n = 1 + 2;
	if (v->kind == SYNC_FILE)
		n += 8 + 8 + 1 + (v->hashed == 1 ? (size_t)SYNC_DIGEST : 0);
	else if (v->kind == SYNC_LINK)
		n += 2 + (size_t)v->size;
	return n;
}

size_t wire_size(const struct msg *m)
{
	size_t n = WIRE_HEAD + 1;
	for (const char *f = layouts[m->type].fields; *f; f++) {
		switch ((enum field) * f) {
		case F_ID:
		case F_FLAGS:
		case F_STATUS:
			n += 4;
			break;
		case F_AT:
		case F_N:
			n += 8;
			break;
		case F_PATH:
			n += 2 + m->path.n;
			break;
		case F_FROM:
			n += 2 + m->from.n;
			break;
		case F_TEXT:
			n += 2 + m->text.n;
			break;
		case F_DIGEST:
			n += SYNC_DIGEST;
			break;
		case F_WANT:
		case F_EXPECT:
		case F_SOURCE:
			n += version_size(*version_of(m, *f));
			break;
		case F_DATA:
			n += m->data.n;
			break;
		}
	}
	return n;
}

static char *put_uint(char *p, uint64_t v, unsigned bytes)
{
	for (unsigned i = bytes; i-- > 0; v >>= 8)
		p[i] = (char)(v & 0xff);
	return p + bytes;
}

static char *put_bytes(char *p, struct slice s)
{
	p = put_uint(p, s.n, 2);
	if (s.n)
		memcpy(p, s.p, s.n);
	return p + s.n;
}

static char *put_version(char *p, const struct version *v)
{
	p = put_uint(p, v ? v->kind : 0, 1);
	if (!v)
		return p;
	p = put_uint(p, v->mode, 2);
	if (v->kind == SYNC_FILE) {
		p = put_uint(p, v->size, 8);
		p = put_uint(p, (uint64_t)v->mtime_ns, 8);
		p = put_uint(p, v->hashed == 1, 1);
		if (v->hashed == 1) {
			memcpy(p, v->digest, SYNC_DIGEST);
			p += SYNC_DIGEST;
		}
	} else if (v->kind == SYNC_LINK) {
		p = put_bytes(p, slice_of(v->target, (size_t)v->size));
	}
	return p;
}

char *wire_put(const struct msg *m, char *out)
{
	size_t size = wire_size(m);
	BUG_ON(size - WIRE_HEAD > WIRE_MAX);
	char *p = put_uint(out, size - WIRE_HEAD, WIRE_HEAD);
	p = put_uint(p, m->type, 1);
	for (const char *f = layouts[m->type].fields; *f; f++) {
		switch ((enum field) * f) {
		case F_ID:
			p = put_uint(p, m->id, 4);
			break;
		case F_FLAGS:
			p = put_uint(p, m->flags, 4);
			break;
		case F_STATUS:
			p = put_uint(p, (uint32_t)m->status, 4);
			break;
		case F_AT:
			p = put_uint(p, m->at, 8);
			break;
		case F_N:
			p = put_uint(p, m->n, 8);
			break;
		case F_PATH:
			p = put_bytes(p, m->path);
			break;
		case F_FROM:
			p = put_bytes(p, m->from);
			break;
		case F_TEXT:
			p = put_bytes(p, m->text);
			break;
		case F_DIGEST:
			memcpy(p, m->digest, SYNC_DIGEST);
			p += SYNC_DIGEST;
			break;
		case F_WANT:
		case F_EXPECT:
		case F_SOURCE:
			p = put_version(p, *version_of(m, *f));
			break;
		case F_DATA:
			break;
		}
	}
	return p;
}

/* --- reading --- */

/* What is left of the message; once short, all that follows is zero. */
struct reader {
	struct slice in;
	bool bad;
};

static struct slice take(struct reader *r, size_t n)
{
	if (r->in.n < n) {
		r->bad = true;
		return slice_of(NULL, 0);
	}
	struct slice s = slice_of(r->in.p, n);
	r->in = slice_after(r->in, n);
	return s;
}

static uint64_t get_uint(struct reader *r, unsigned bytes)
{
	struct slice s = take(r, bytes);
	uint64_t v = 0;
	for (size_t i = 0; i < s.n; i++)
		v = v << 8 | (uint8_t)s.p[i];
	return v;
}

static struct slice get_bytes(struct reader *r)
{
	return take(r, (size_t)get_uint(r, 2));
}

bool wire_path_ok(struct slice path)
{
	if (path.n == 0 || path.n > SYNC_PATH_MAX || memchr(path.p, '\0', path.n))
		return false;
	struct slice rest = path, one;
	bool more = true;
	while (more) {
		more = slice_cut(rest, '/', &one, &rest);
		if (one.n == 0 || one.n > SYNC_NAME_MAX || slice_eq(one, SLICE(".")) ||
		    slice_eq(one, SLICE("..")))
			return false;
	}
	return true;
}

static struct slice get_path(struct reader *r, char *copy)
{
	struct slice s = get_bytes(r);
	if (r->bad || !wire_path_ok(s)) {
		r->bad = true;
		return slice_of(NULL, 0);
	}
	memcpy(copy, s.p, s.n);
	copy[s.n] = '\0';
	return slice_of(copy, s.n);
}

static struct version *get_file(struct reader *r, unsigned mode)
{
	uint64_t size = get_uint(r, 8);
	int64_t mtime_ns = (int64_t)get_uint(r, 8);
	uint64_t hashed = get_uint(r, 1);
	struct slice digest = hashed == 1 ? take(r, SYNC_DIGEST) : slice_of(NULL, 0);
	if (r->bad || hashed > 1 || size > INT64_MAX) {
		r->bad = true;
		return NULL;
	}
	return version_file(mode, size, mtime_ns, (const uint8_t *)digest.p);
}

static struct version *get_link(struct reader *r)
{
	struct slice target = get_bytes(r);
	if (r->bad || target.n == 0 || target.n > SYNC_PATH_MAX ||
	    memchr(target.p, '\0', target.n)) {
		r->bad = true;
		return NULL;
	}
	return version_link(target);
}

static struct version *get_version(struct reader *r)
{
	uint64_t kind = get_uint(r, 1);
	if (r->bad || kind == 0)
		return NULL;
	unsigned mode = (unsigned)get_uint(r, 2);
	bool has_mode = kind == SYNC_DIR || kind == SYNC_FILE;
	if (r->bad || mode > 0777 || (!has_mode && mode)) {
		r->bad = true;
		return NULL;
	}
	switch (kind) {
	case SYNC_DIR:
		return version_dir(mode);
	case SYNC_FILE:
		return get_file(r, mode);
	case SYNC_LINK:
		return get_link(r);
	case SYNC_OTHER:
		return version_other();
	default:
		r->bad = true;
		return NULL;
	}
}

ssize_t wire_length(struct slice in)
{
	if (in.n < WIRE_HEAD)
		return 0;
	struct reader r = { .in = in };
	uint64_t n = get_uint(&r, WIRE_HEAD);
	return n == 0 || n > WIRE_MAX ? -EMSGSIZE : (ssize_t)(n + WIRE_HEAD);
}

static void get_field(struct reader *r, struct msg_in *in, char field)
{
	struct msg *m = &in->m;
	struct slice s;
	switch ((enum field)field) {
	case F_ID:
		m->id = (uint32_t)get_uint(r, 4);
		break;
	case F_FLAGS:
		m->flags = (uint32_t)get_uint(r, 4);
		break;
	case F_STATUS:
		m->status = (int32_t)(uint32_t)get_uint(r, 4);
		break;
	case F_AT:
		m->at = get_uint(r, 8);
		break;
	case F_N:
		m->n = get_uint(r, 8);
		break;
	case F_PATH:
		m->path = get_path(r, in->path);
		break;
	case F_FROM:
		m->from = get_path(r, in->from);
		break;
	case F_TEXT:
		m->text = get_bytes(r);
		r->bad |= m->text.n > WIRE_TEXT_MAX;
		break;
	case F_DIGEST:
		s = take(r, SYNC_DIGEST);
		if (s.n)
			memcpy(m->digest, s.p, s.n);
		break;
	case F_WANT:
		m->want = get_version(r);
		break;
	case F_EXPECT:
		m->expect = get_version(r);
		break;
	case F_SOURCE:
		m->source = get_version(r);
		break;
	case F_DATA:
		m->data = r->in;
		r->in = slice_of(NULL, 0);
		break;
	}
}

int wire_get(struct msg_in *in, struct slice message)
{
	in->m = (struct msg){ 0 };
	in->path[0] = in->from[0] = '\0';
	if (message.n == 0 || wire_length(message) != (ssize_t)message.n)
		return -EBADMSG;
	struct reader r = { .in = slice_after(message, WIRE_HEAD) };
	uint64_t type = get_uint(&r, 1);
	if (type == 0 || type >= MSG_TYPES)
		return -EBADMSG;
	in->m.type = (enum msg_type)type;
	for (const char *f = layouts[type].fields; *f && !r.bad; f++)
		get_field(&r, in, *f);
	if (!r.bad && r.in.n == 0 && in->m.status <= 0)
		return 0;
	wire_end(in);
	return -EBADMSG;
}

void wire_end(struct msg_in *in)
{
	struct msg *m = &in->m;
	version_unref(m->want);
	version_unref(m->expect);
	version_unref(m->source);
	m->want = m->expect = m->source = NULL;
}
