#include "proto/ssh/wire.h"

#include "reactor/utf8.h"

struct slice ssh_wire_bytes(struct ssh_wire_in *w, size_t n)
{
	if (w->bad || n > w->left.n) {
		w->bad = true;
		return slice_of("", 0);
	}
	struct slice s = slice_of(w->left.p, n);
	w->left = slice_after(w->left, n);
	return s;
}

uint8_t ssh_wire_u8(struct ssh_wire_in *w)
{
	struct slice s = ssh_wire_bytes(w, 1);
	return s.n ? (uint8_t)s.p[0] : 0;
}

bool ssh_wire_bool(struct ssh_wire_in *w)
{
	return ssh_wire_u8(w) != 0; /* "applications MUST accept" any other value as true */
}

uint32_t ssh_wire_u32(struct ssh_wire_in *w)
{
	struct slice s = ssh_wire_bytes(w, 4);
	return s.n ? ssh_get_u32(s.p) : 0;
}

struct slice ssh_wire_string(struct ssh_wire_in *w)
{
	return ssh_wire_bytes(w, ssh_wire_u32(w));
}

struct slice ssh_wire_mpint(struct ssh_wire_in *w)
{
	struct slice s = ssh_wire_string(w);
	if (s.n > 1 && s.p[0] == 0 && (s.p[1] & 0x80))
		return slice_after(s, 1);
	if (s.n == 0 || s.p[0] == 0 || (s.p[0] & 0x80)) {
		w->bad = true;
		return slice_of("", 0);
	}
	return s;
}

bool ssh_wire_end(const struct ssh_wire_in *w)
{
	return !w->bad && w->left.n == 0;
}

void put_bytes(struct ssh_wire_out *w, struct slice s)
{
	BUG_ON(s.n > w->max - w->n);
	if (s.n)
		memcpy(w->p + w->n, s.p, s.n);
	w->n += s.n;
}

void put_u8(struct ssh_wire_out *w, uint8_t v)
{
	put_bytes(w, slice_of(&v, 1));
}

void put_u32(struct ssh_wire_out *w, uint32_t v)
{
	uint8_t b[4];
	ssh_put_u32(b, v);
	put_bytes(w, slice_of(b, 4));
}

void put_string(struct ssh_wire_out *w, struct slice s)
{
	put_u32(w, (uint32_t)s.n);
	put_bytes(w, s);
}

void put_str(struct ssh_wire_out *w, const char *s)
{
	put_string(w, slice_str(s));
}

void put_mpint(struct ssh_wire_out *w, struct slice s)
{
	while (s.n > 0 && s.p[0] == 0)
		s = slice_after(s, 1);
	bool pad = s.n > 0 && (s.p[0] & 0x80);
	put_u32(w, (uint32_t)s.n + pad);
	if (pad)
		put_u8(w, 0);
	put_bytes(w, s);
}

bool name_next(struct slice *list, struct slice *name)
{
	if (list->n == 0)
		return false;
	slice_cut(*list, ',', name, list);
	return true;
}

bool name_in(struct slice list, struct slice name)
{
	struct slice n;
	while (name_next(&list, &n))
		if (slice_eq(n, name))
			return true;
	return false;
}

bool name_list_ok(struct slice list)
{
	for (size_t i = 0; i < list.n; i++) {
		unsigned char c = (unsigned char)list.p[i];
		if (c <= ' ' || c >= 127)
			return false;
		if (c == ',' && (i == 0 || i + 1 == list.n || list.p[i - 1] == ','))
			return false;
	}
	return true;
}

const char *ssh_text(struct slice s, bool lines, char *out, size_t n)
{
	size_t used = 0;
	while (s.n > 0) {
		size_t seq = utf8_seq(s);
		unsigned char c = (unsigned char)s.p[0];
		/* U+0080 to U+009F are control codes, too. */
		bool control =
		    c < 32 || c == 127 || (seq == 2 && c == 0xc2 && (unsigned char)s.p[1] < 0xa0);
		if (lines && (c == '\n' || c == '\t'))
			control = false;
		size_t step = seq ? seq : 1, put = seq && !control ? seq : 1;
		if (lines && c == '\r')
			put = 0;
		if (used + put >= n)
			break;
		if (put == 1)
			out[used] = seq && !control ? s.p[0] : '?';
		else
			memcpy(out + used, s.p, put);
		used += put;
		s = slice_after(s, step);
	}
	out[used] = '\0';
	return out;
}
