#include "reactor/dns_msg.h"

#include <errno.h>

enum {
	HEADER = 12,
	CLASS_IN = 1,
	LABEL_MAX = 63,
	WIRE_MAX = 255,    /* a name on the wire, lengths and root label included */
	JUMPS_MAX = 127,   /* compression pointers in a name: one a label */
	RECORDS_MAX = 512, /* in one answer section */
	CHAIN_MAX = 16     /* CNAMEs followed */
};

/* Bits of the second 16-bit word of the header. */
enum { QR = 0x8000, OPCODE = 0x7800, TC = 0x0200, RD = 0x0100, RCODE = 0x000f };

/* A name as on the wire but uncompressed and in lower case: equal names are equal bytes. */
struct name {
	size_t n;
	uint8_t wire[WIRE_MAX];
};

static uint8_t lower(uint8_t c)
{
	return c >= 'A' && c <= 'Z' ? (uint8_t)(c - 'A' + 'a') : c;
}

/* --- names as text --- */

static bool label_ok(struct slice label)
{
	if (label.n < 1 || label.n > LABEL_MAX)
		return false;
	for (size_t i = 0; i < label.n; i++) {
		uint8_t c = lower((uint8_t)label.p[i]);
		if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_'))
			return false;
	}
	return true;
}

bool dns_name_ok(struct slice name)
{
	struct slice label;
	if (name.n && name.p[name.n - 1] == '.')
		name.n--;
	if (name.n < 1 || name.n > DNS_NAME_TEXT)
		return false;
	while (slice_cut(name, '.', &label, &name))
		if (!label_ok(label))
			return false;
	return label_ok(label);
}

static void name_from_text(struct name *out, struct slice text)
{
	struct slice label;
	out->n = 0;
	BUG_ON(!dns_name_ok(text));
	while (text.n) {
		slice_cut(text, '.', &label, &text);
		out->wire[out->n++] = (uint8_t)label.n;
		for (size_t i = 0; i < label.n; i++)
			out->wire[out->n++] = lower((uint8_t)label.p[i]);
	}
	out->wire[out->n++] = 0;
}

static bool name_eq(const struct name *a, const struct name *b)
{
	return a->n == b->n && memcmp(a->wire, b->wire, a->n) == 0;
}

/* --- reading: each takes from *at and moves it; false = the message ends too early or lies --- */

static bool get_u16(struct slice msg, size_t *at, uint16_t *v)
{
	const uint8_t *p = (const uint8_t *)msg.p + *at;
	if (msg.n - *at < 2)
		return false;
	*v = (uint16_t)(p[0] << 8 | p[1]);
	*at += 2;
	return true;
}

static bool get_u32(struct slice msg, size_t *at, uint32_t *v)
{
	uint16_t high, low;
	if (!get_u16(msg, at, &high) || !get_u16(msg, at, &low))
		return false;
	*v = (uint32_t)high << 16 | low;
	return true;
}

/* RFC 1035 section 4.1.4. A pointer must lead before everything read so far of this name, so there
 * are no loops; long ways without any are cut short too. */
static bool get_name(struct slice msg, size_t *at, struct name *out)
{
	const uint8_t *p = (const uint8_t *)msg.p;
	size_t pos = *at, first = *at;
	int jumps = 0;
	out->n = 0;
	for (;;) {
		size_t len;
		if (pos >= msg.n)
			return false;
		len = p[pos++];
		if ((len & 0xc0) == 0xc0) {
			if (pos >= msg.n)
				return false;
			len = (len & 0x3f) << 8 | p[pos++];
			if (jumps == 0)
				*at = pos;
			if (len >= first || ++jumps > JUMPS_MAX)
				return false;
			pos = first = len;
			continue;
		}
		if (len > LABEL_MAX || len > msg.n - pos || out->n + 1 + len > WIRE_MAX)
			return false;
		out->wire[out->n++] = (uint8_t)len;
		if (len == 0)
			break;
		for (size_t i = 0; i < len; i++)
			out->wire[out->n++] = lower(p[pos++]);
	}
	if (jumps == 0)
		*at = pos;
	return true;
}

struct record {
	struct name owner;
	uint16_t type, class;
	uint32_t ttl;
	size_t data;   /* offset of RDATA in the message */
	uint16_t size; /* RDLENGTH */
};

static bool get_record(struct slice msg, size_t *at, struct record *r)
{
	if (!get_name(msg, at, &r->owner) || !get_u16(msg, at, &r->type) ||
	    !get_u16(msg, at, &r->class) || !get_u32(msg, at, &r->ttl) ||
	    !get_u16(msg, at, &r->size) || r->size > msg.n - *at)
		return false;
	if (r->ttl > INT32_MAX)
		r->ttl = 0; /* RFC 2181 section 8 */
	r->data = *at;
	*at += r->size;
	return true;
}

/* --- the question --- */

static size_t put_u16(uint8_t *out, size_t at, uint16_t v)
{
	out[at] = (uint8_t)(v >> 8);
	out[at + 1] = (uint8_t)v;
	return at + 2;
}

size_t dns_msg_ask(uint8_t *out, uint16_t id, struct slice name, uint16_t type)
{
	struct name wire;
	size_t at = 0;
	name_from_text(&wire, name);
	at = put_u16(out, at, id);
	at = put_u16(out, at, RD);
	at = put_u16(out, at, 1); /* QDCOUNT */
	at = put_u16(out, at, 0); /* ANCOUNT */
	at = put_u16(out, at, 0); /* NSCOUNT */
	at = put_u16(out, at, 0); /* ARCOUNT */
	memcpy(out + at, wire.wire, wire.n);
	at += wire.n;
	at = put_u16(out, at, type);
	return put_u16(out, at, CLASS_IN);
}

/* --- the answer --- */

struct section {
	struct slice msg;
	size_t at; /* of the first record */
	uint16_t count;
};

/* Takes the addresses that owner has, and its CNAME if it has one (*alias, else alias->n is 0). The
 * order of records means nothing, so the section is read once per name. */
static bool look_for(const struct section *s, const struct name *owner, uint16_t type,
		     struct dns_answer *out, struct name *alias)
{
	size_t size = type == DNS_TYPE_A ? 4 : 16, at = s->at;
	alias->n = 0;
	for (uint16_t i = 0; i < s->count; i++) {
		struct record r;
		if (!get_record(s->msg, &at, &r))
			return false;
		if (r.class != CLASS_IN || !name_eq(&r.owner, owner))
			continue;
		if (r.type == DNS_TYPE_CNAME) {
			size_t name_at = r.data;
			if (!get_name(s->msg, &name_at, alias) || name_at != r.data + r.size)
				return false;
		} else if (r.type == type) {
			if (r.size != size)
				return false;
			if (out->count == DNS_ANSWERS)
				continue;
			memcpy(out->addr[out->count++], s->msg.p + r.data, size);
		} else {
			continue;
		}
		out->ttl = MIN(out->ttl, r.ttl);
	}
	return true;
}

static int follow(const struct section *s, struct name *owner, uint16_t type,
		  struct dns_answer *out)
{
	out->ttl = UINT32_MAX;
	for (int hop = 0; hop <= CHAIN_MAX; hop++) {
		struct name alias;
		if (!look_for(s, owner, type, out, &alias))
			return -EBADMSG;
		if (out->count == 0 && alias.n) {
			*owner = alias;
			continue;
		}
		if (out->count == 0)
			out->ttl = 0;
		return 0;
	}
	return -EBADMSG;
}

int dns_msg_answer(struct dns_answer *out, struct slice msg, uint16_t id, struct slice name,
		   uint16_t type)
{
	struct section answers = { .msg = msg };
	struct name asked, echoed;
	uint16_t got_id, bits, questions, skipped, got_type, class;
	size_t at = 0;
	memset(out, 0, sizeof(*out));
	if (msg.n < HEADER)
		return -ENOMSG;
	get_u16(msg, &at, &got_id);
	get_u16(msg, &at, &bits);
	get_u16(msg, &at, &questions);
	get_u16(msg, &at, &answers.count);
	get_u16(msg, &at, &skipped); /* NSCOUNT */
	get_u16(msg, &at, &skipped); /* ARCOUNT */
	name_from_text(&asked, name);
	if (got_id != id || !(bits & QR) || (bits & OPCODE) || questions != 1 ||
	    !get_name(msg, &at, &echoed) || !name_eq(&echoed, &asked) ||
	    !get_u16(msg, &at, &got_type) || got_type != type || !get_u16(msg, &at, &class) ||
	    class != CLASS_IN)
		return -ENOMSG;
	out->rcode = bits & RCODE;
	out->truncated = (bits & TC) != 0;
	if (out->truncated || out->rcode != DNS_RCODE_OK)
		return 0;
	if (answers.count > RECORDS_MAX)
		return -EBADMSG;
	answers.at = at;
	return follow(&answers, &asked, type, out);
}
