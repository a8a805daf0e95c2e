/*
 * A far end whose brain is hostile: messages in any order, with any fields, and raw bytes, against
 * a root with files, directories and symlinks that lead out of it, while somebody else changes
 * files in it, too. Nothing outside the root and the store may change, memory stays bounded, no
 * descriptor stays open, what it says is whole messages, it comes to rest, and it ends when the
 * brain does.
 *
 * Input: a byte of flags, then records of 16 bytes: what, id, path, from, kind and argument of
 * want, expect and source, n, at, data (2), somebody (2), spoil (2).
 */
#include "fuzz/sync_world.h"

#include "proto/sync/serve.h"

enum { RECORDS_MAX = 64 };

enum flags {
	NO_OPEN = 1,
	WITH_LARGE = 2,
	DEAF = 4, /* the brain reads nothing before the end */
	IN_PLACE = 8,
	OWNED = 16,
	ONLY = 32,
	PATTERNS = 64,
	MASKS = 128
};

static struct memory_stream brain;
static struct serve *serve;
static bool ended;
static unsigned flags;

static void on_ended(void *arg, int code, const char *why)
{
	(void)arg;
	BUG_ON(code > 0 || !why || !*why);
	ended = true;
}

/* What it says is whole messages, of those that a far end sends. */
static void hear(void)
{
	static struct msg_in in;
	struct slice all = slice_of(brain.out, brain.out_n);
	ssize_t n = 0;
	if (brain.out_n == 0)
		return;
	while ((n = wire_length(all)) > 0 && (size_t)n <= all.n) {
		BUG_ON(wire_get(&in, slice_of(all.p, (size_t)n)) < 0);
		BUG_ON(in.m.type == MSG_OPEN || in.m.type == MSG_PUT || in.m.type == MSG_READ ||
		       in.m.type == MSG_FENCE);
		wire_end(&in);
		all = slice_after(all, (size_t)n);
	}
	BUG_ON(n < 0);
	brain.out_n = all.n;
	memmove(brain.out, all.p, all.n);
	memory_wake(&brain);
}

static void rest(void)
{
	settle(&ended);
	while (!(flags & DEAF) && !ended && brain.out_n >= WIRE_HEAD + 1) {
		hear();
		settle(&ended);
	}
	memory_check();
}

static void begin(void)
{
	memory_begin(&brain);
	ended = false;
	serve = serve_new(rx, &brain.s, &brain.s, root_path, store_path, on_ended, NULL);
	if (flags & NO_OPEN)
		return;
	if (flags & PATTERNS)
		memory_send(&brain, &(struct msg){ .type = MSG_IGNORE, .data = SLICE("ign/\n*.o") },
			    0, 0);
	if (flags & MASKS)
		memory_send(&brain, &(struct msg){ .type = MSG_MASK, .path = SLICE("masked") }, 0,
			    0);
	memory_send(&brain,
		    &(struct msg){ .type = MSG_OPEN,
				   .id = WIRE_VERSION,
				   .n = flags & OWNED ? 1234 : 0,
				   .at = flags & OWNED ? 1234 : 0,
				   .text = flags & ONLY ? SLICE("a") : SLICE(""),
				   .flags = (flags & OWNED ? OPEN_OWNED : 0) |
					    (flags & IN_PLACE ? OPEN_IN_PLACE : 0) },
		    0, 0);
	rest();
}

static void end(bool orderly)
{
	if (orderly)
		flags &= ~(unsigned)DEAF;
	brain.eof = true;
	memory_wake(&brain);
	if (orderly) {
		rest();
		/* It is done with what it was told before it sees the end. */
		BUG_ON(!ended && brain.out_n < brain.out_max);
	}
	serve_free(serve);
	BUG_ON(!brain.closed);
	memory_end(&brain);
}

/* --- messages --- */

enum { SAY = 0, RAW = 240, SOMEBODY = 243, RACE = 246, TIME = 250, AGAIN = 254 };

static struct version *expect_of(unsigned kind, unsigned arg, struct slice path)
{
	switch (kind % 8) {
	case 0:
	case 1:
	case 2:
	case 3:
		return version_there(path, kind >= 240);
	case 4:
	case 5:
		return NULL;
	case 6:
		return version_there(path_of(arg), false);
	default:
		return any_version(arg, kind);
	}
}

static struct slice some_data(void)
{
	static char text[WIRE_INLINE + 8];
	static bool filled;
	static const size_t lengths[] = { 0, 1, 4, 7, 100, 5000, 65536, 65537, WIRE_INLINE };
	if (!filled)
		for (size_t i = 0; i < sizeof(text); i++)
			text[i] = (char)(i * 7 + i / 251);
	filled = true;
	return slice_of(text + rec[13] % 8, lengths[rec[12] % ARRAY_LEN(lengths)]);
}

static struct slice a_signature(void)
{
	static char text[8 + 20 * 20];
	uint64_t n = rec[12] % 20;
	uint64_t size = n ? n * 65536 - rec[13] : sizes[rec[13] % ARRAY_LEN(sizes)];
	for (int i = 0; i < 8; i++)
		text[i] = (char)(size >> (56 - 8 * i));
	memset(text + 8, rec[13] & 15, sizeof(text) - 8);
	return slice_of(text, rec[12] >= 250 ? 0 : 8 + 20 * n + (rec[12] >= 240));
}

static struct version *want_of(const struct msg *m)
{
	unsigned kind = rec[4], arg = rec[5];
	if (kind >= 240)
		return any_version(kind, arg);
	switch (m->type) {
	case MSG_PUT:
		return file_version(arg, m->data.n + (kind >= 230));
	case MSG_MKDIR:
		return version_dir(modes[arg % ARRAY_LEN(modes)]);
	case MSG_LINK:
		return link_version(arg);
	case MSG_META:
		if (m->expect && m->expect->kind == SYNC_DIR)
			return version_dir(modes[arg % ARRAY_LEN(modes)]);
		return file_version(arg, m->expect ? m->expect->size : 0);
	case MSG_COPY_FROM:
		return file_version(arg, m->source ? m->source->size : kind);
	default:
		return file_version(arg, sizes[kind % ARRAY_LEN(sizes)]);
	}
}

static void say(void)
{
	static const enum msg_type often[] = {
		MSG_PUT,  MSG_PUT_BEGIN, MSG_PUT_BEGIN, MSG_DATA,      MSG_HOLE,
		MSG_COPY, MSG_END,       MSG_ABORT,     MSG_MKDIR,     MSG_LINK,
		MSG_META, MSG_REMOVE,    MSG_RENAME,    MSG_COPY_FROM, MSG_SIGN,
		MSG_READ, MSG_SIGNATURE, MSG_HASH,      MSG_FENCE,     MSG_END
	};
	unsigned what = rec[0];
	struct msg m = { .type = what < 200 ? often[what % ARRAY_LEN(often)]
					    : (enum msg_type)(1 + what % (MSG_TYPES - 1)) };
	m.id = m.type == MSG_OPEN ? WIRE_VERSION : rec[1] % 8;
	m.flags = rec[1];
	m.status = -(int)rec[1];
	m.n = sizes[rec[10] % ARRAY_LEN(sizes)] - (rec[10] >= 128);
	m.at = sizes[rec[11] % ARRAY_LEN(sizes)] + (rec[11] >= 128);
	m.path = path_of(rec[2]);
	m.from = path_of(rec[3]);
	m.data = m.type == MSG_SIGNATURE ? a_signature() : some_data();
	memset(m.digest, rec[13] & 3, SYNC_DIGEST);
	m.expect = expect_of(rec[6], rec[7], m.path);
	m.source = expect_of(rec[8], rec[9], m.from);
	m.want = want_of(&m);
	memory_send(&brain, &m, rec[14] >= 250 ? rec[15] : 0, rec[14]);
	version_unref(m.expect);
	version_unref(m.source);
	version_unref(m.want);
}

static void step(void)
{
	if (rec[0] < RAW) {
		say();
	} else if (rec[0] < SOMEBODY) {
		memory_say(&brain, rec + 1, RECORD - 1);
	} else if (rec[0] < RACE) {
		somebody(rec[1], paths[rec[2] % ARRAY_LEN(paths)],
			 paths[rec[3] % ARRAY_LEN(paths)]);
	} else if (rec[0] < TIME) {
		race_in = 1 + rec[4] % 8;
		race_what = rec[1];
		race_path = rec[2];
		race_other = rec[3];
	} else if (rec[0] < AGAIN) {
		clock_advance(rec[1] & 1 ? 60 : 3100);
		memory_wake(&brain);
	} else {
		end(false); /* as after kill -9, but for what is in memory */
		begin();
	}
	/* The next ones may come in one read with it. */
	if (!(rec[15] & 1))
		rest();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	run_begin(data + 1, size - 1);
	flags = data[0];
	world_fill(flags & WITH_LARGE);
	begin();
	for (int i = 0; i < RECORDS_MAX && !ended && record_next(); i++)
		step();
	if (!ended)
		rest();
	end(!ended);
	run_end();
	return 0;
}
