/* What people write about a forward. */
#include <errno.h>

#include "proto/tstunnel/forward.h"
#include "reactor/buf.h"
#include "reactor/utf8.h"

/* One of the two arguments. */
struct part {
	const char *name; /* "SRC" or "DST" */
	struct slice text;
	bool listens;
	char *err;
	size_t errlen;
};

static bool is_url(struct slice s)
{
	return s.n >= 9 && slice_eqi(slice_of(s.p, 9), SLICE("tstunnel:"));
}

static int fail(const struct part *p, const char *fmt, ...) PRINTF_LIKE(2, 3);

static int fail(const struct part *p, const char *fmt, ...)
{
	char what[512];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	snprintf(p->err, p->errlen, "%s: %s", p->name, what);
	return -EINVAL;
}

/* A target needs a port, which a listener may leave to the kernel. */
static int check_port(const struct part *p, const struct addr *a)
{
	if (a->kind == ADDR_UNIX || a->port || p->listens)
		return 0;
	return fail(p, "port 0 is for listening, this is a target");
}

static int parse_local(struct forward_spec *sp, const struct part *p)
{
	struct slice text = p->text, last;
	uint64_t to;
	bool range = !slice_starts(text, SLICE("unix:")) && tsurl_cut_range(&text, &last);
	char why[400];
	if (addr_parse(&sp->from, text, 0, why, sizeof(why)) < 0)
		return fail(p, "%s", why);
	if (sp->from.kind != ADDR_UNIX && sp->from.host[0] == '\0')
		snprintf(sp->from.host, sizeof(sp->from.host), "localhost");
	sp->count = 1;
	if (!range)
		return check_port(p, &sp->from);
	if (sp->from.port == 0 || slice_u64(last, UINT16_MAX, &to) < 0 || to < sp->from.port)
		return fail(p,
			    "port range \"%u-%.*s\" must be FROM-TO, both in 1..65535, FROM not "
			    "above TO",
			    sp->from.port, SLICE_FMT(last));
	sp->count = (unsigned)to - sp->from.port + 1;
	return 0;
}

static int parse_remote(struct forward_spec *sp, const struct part *p)
{
	char why[400];
	if (tsurl_parse(&sp->to, p->text, why, sizeof(why)) < 0)
		return fail(p, "%s", why);
	const struct tsurl *to = &sp->to;
	if (!to->has_target)
		return fail(
		    p,
		    "path \"%s\" is no target: want /tcp:HOST:PORT, /udp:HOST:PORT or /unix:/PATH",
		    to->path);
	if (to->target.kind == ADDR_UNIX && !utf8_valid(slice_str(to->target.path)))
		return fail(p, "the target's path is not UTF-8");
	return check_port(p, &to->target);
}

/* Does one end fit the other? */
static int check_both(const struct forward_spec *sp, const struct part *src)
{
	const struct tsurl *to = &sp->to;
	bool here = sp->from.kind == ADDR_UDP, there = to->target.kind == ADDR_UDP;
	unsigned mine = sp->count;
	unsigned theirs = 1u + to->target_last - (to->target_last ? to->target.port : 0u);
	unsigned s = sp->reverse ? theirs : mine, d = sp->reverse ? mine : theirs;
	if (here != there)
		snprintf(src->err, src->errlen,
			 "%s is UDP and the other is not: datagrams go to datagrams",
			 here != sp->reverse ? "SRC" : "DST");
	else if (s != d)
		snprintf(src->err, src->errlen,
			 "SRC has %u port%s, DST has %u: the numbers must be equal", s,
			 s == 1 ? "" : "s", d);
	else
		return 0;
	return -EINVAL;
}

int forward_parse(struct forward_spec *sp, struct slice src, struct slice dst, char *err,
		  size_t errlen)
{
	const struct part s = { "SRC", src, true, err, errlen };
	const struct part d = { "DST", dst, false, err, errlen };
	*sp = (struct forward_spec){ .reverse = is_url(src) };
	if (is_url(src) == is_url(dst)) {
		snprintf(err, errlen,
			 is_url(src)
			     ? "SRC and DST are both tstunnel:// URLs: one of them has to be "
			       "tcp:HOST:PORT, udp:HOST:PORT or unix:/PATH on this machine"
			     : "neither SRC nor DST is a tstunnel:// URL: one of them has to be "
			       "tstunnel://HOST:PORT/tcp:HOST:PORT, .../udp:HOST:PORT or "
			       ".../unix:/PATH");
		return -EINVAL;
	}
	int r = parse_local(sp, sp->reverse ? &d : &s);
	if (r == 0)
		r = parse_remote(sp, sp->reverse ? &s : &d);
	if (r == 0)
		r = check_both(sp, &s);
	if (r < 0)
		forward_spec_end(sp);
	return r;
}

void forward_spec_end(struct forward_spec *sp)
{
	tsurl_end(&sp->to);
}

static struct addr shifted(struct addr a, unsigned i)
{
	if (a.kind != ADDR_UNIX)
		a.port = (uint16_t)(a.port + i);
	return a;
}

int forward_spec_put(const struct forward_spec *sp, unsigned i, struct buf *b)
{
	struct addr from = shifted(sp->from, i);
	const char *prefix = from.kind == ADDR_UDP ? "udp:" : "";
	struct tsurl to = { .server = sp->to.server,
			    .has_target = true,
			    .target = shifted(sp->to.target, i) };
	int r = sp->reverse ? 0 : buf_printf(b, "%s%s -> ", prefix, addr_text(&from));
	if (r == 0)
		r = tsurl_put(b, &to);
	if (r == 0 && sp->reverse)
		r = buf_printf(b, " -> %s%s", prefix, addr_text(&from));
	return r;
}

int forward_spec_put_part(const struct forward_spec *sp, bool src, struct buf *b)
{
	static const char *const prefix[] = {
		[ADDR_TCP] = "tcp:", [ADDR_UDP] = "udp:", [ADDR_UNIX] = ""
	};
	if (src == sp->reverse) {
		struct tsurl to = sp->to;
		to.cert = to.key = to.ca = NULL;
		to.insecure = false;
		return tsurl_put(b, &to);
	}
	int r = buf_printf(b, "%s%s", prefix[sp->from.kind], addr_text(&sp->from));
	if (r == 0 && sp->count > 1)
		r = buf_printf(b, "-%u", sp->from.port + sp->count - 1);
	return r;
}
