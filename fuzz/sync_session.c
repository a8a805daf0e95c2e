/*
 * A brain whose far end is hostile: entries of anything, answers that are late, wrong, too long or
 * for something else, and raw bytes, while somebody changes files at alpha and the parent says this
 * and that. Nothing outside alpha and the store changes, nothing at alpha that is ignored or
 * masked, nothing at all in the one-way modes; memory stays bounded, no descriptor stays open, what
 * it says is whole messages and JSON, it comes to rest, and it ends when the far end does.
 *
 * Input: a byte of flags, 15 that say how requests are answered, then records of 16 bytes: what,
 * id, path, from, kind and argument of want, expect and source, n, at, data (2), somebody (2),
 * spoil (2).
 */
#include "fuzz/sync_world.h"

#include "json/json.h"
#include "proto/sync/session.h"

enum { RECORDS_MAX = 64, ANSWERS = 15, ASKS_MAX = 500 };

enum flags {
	MODE = 3,
	WITH_LARGE = 4,
	DEAF = 8,  /* the far end reads nothing before the end */
	ONLY = 16, /* a single file */
	PATTERNS = 32,
	HALT = 64,
	LAZY = 128 /* answers some requests never */
};

static const char *const sync_modes[] = { "two-way-safe", "two-way-resolved", "one-way-safe",
					  "one-way-replica" };

static struct memory_stream far, parent;
static struct session *session;
static bool ended, opened, scanned, disturbed, honest;
static unsigned flags, next_answer;
static const uint8_t *answers;
static uint32_t last_id;
static struct stat alpha_was[ARRAY_LEN(paths) + 1];

static void on_ended(void *arg, int code, const char *why)
{
	(void)arg;
	BUG_ON(code > 0 || !why || !*why);
	ended = true;
}

static void look_at_alpha(struct stat *st)
{
	memset(st, 0, sizeof(alpha_was));
	for (size_t i = 0; i < ARRAY_LEN(paths); i++)
		fstatat(root_fd, paths[i], &st[i], AT_SYMLINK_NOFOLLOW);
	fstat(root_fd, &st[ARRAY_LEN(paths)]);
}

static bool is_left_out(const char *path)
{
	return flags & PATTERNS &&
	       (strncmp(path, "ign", 3) == 0 || strncmp(path, "masked", 6) == 0);
}

static void alpha_check(void)
{
	struct stat now[ARRAY_LEN(paths) + 1];
	bool one_way = (flags & MODE) >= 2;
	if (disturbed)
		return;
	look_at_alpha(now);
	for (size_t i = 0; i < ARRAY_LEN(now); i++) {
		const char *path = i < ARRAY_LEN(paths) ? paths[i] : "";
		if ((one_way || is_left_out(path)) && !stat_same(&now[i], &alpha_was[i])) {
			fprintf(stderr, "alpha's \"%s\" has changed\n", path);
			abort();
		}
	}
}

/* --- answers --- */

static struct slice some_bytes(size_t n)
{
	static char text[WIRE_INLINE + 64];
	return slice_of(text, MIN(n, sizeof(text)));
}

static void send_msg(const struct msg *m)
{
	memory_send(&far, m, 0, 0);
}

static void done(uint32_t id, int status)
{
	send_msg(&(struct msg){ .type = MSG_DONE,
				.id = id,
				.status = status,
				.text = status ? SLICE("\x1b[31mno\xff") : SLICE("") });
}

static void fail_it(const struct msg *m, unsigned how)
{
	static const int codes[] = { -ESTALE, -ENOENT, -ENOTEMPTY, -EACCES, -ENOSPC, -1, -12345 };
	if (how & 8)
		send_msg(&(struct msg){ .type = MSG_ENTRY,
					.path = m->path.n ? m->path : SLICE("a"),
					.want = m->expect });
	done(m->id, codes[how % ARRAY_LEN(codes)]);
}

static void tell_signature(uint32_t id, unsigned how)
{
	static char text[8 + 20 * 64];
	unsigned blocks = how % 64;
	uint64_t size = blocks ? blocks * 65536ULL - how / 64 : how;
	for (int i = 0; i < 8; i++)
		text[i] = (char)(size >> (56 - 8 * i));
	memset(text + 8, (int)how & 1, sizeof(text) - 8);
	struct slice all = slice_of(text, 8 + 20 * blocks + (how == 191));
	for (unsigned i = 0; i < (how & 32 ? 2u : 1u); i++)
		send_msg(&(struct msg){ .type = MSG_SIGNATURE, .id = id, .data = all });
	send_msg(&(struct msg){ .type = MSG_SIGNATURE, .id = id });
}

static void tell_file(const struct msg *m, unsigned how)
{
	uint64_t size = m->expect ? m->expect->size : 0;
	struct msg data = { .type = MSG_DATA, .id = m->id };
	struct msg hole = { .type = MSG_HOLE, .id = m->id, .n = size };
	struct msg copy = { .type = MSG_COPY, .id = m->id, .n = size };
	struct msg over = { .type = MSG_END, .id = m->id };
	bool small = size <= WIRE_INLINE;
	data.data = some_bytes((size_t)MIN(size, WIRE_INLINE));
	memset(over.digest, how & 64 ? 1 : 0, SYNC_DIGEST);
	if (m->expect && m->expect->hashed)
		memcpy(over.digest, m->expect->digest, SYNC_DIGEST);
	switch (how < 160 ? 0 : how % 10) {
	case 1:
		data.data.n += 1;
		break;
	case 2:
		hole.n = sizes[how / 10 % ARRAY_LEN(sizes)];
		small = false;
		break;
	case 3:
		copy.at = sizes[how / 10 % ARRAY_LEN(sizes)];
		send_msg(&copy);
		break;
	case 4:
		over.digest[0] ^= 1;
		break;
	case 5:
		send_msg(
		    &(struct msg){ .type = MSG_ABORT, .id = m->id, .status = how & 1 ? 0 : -5 });
		return;
	case 6:
		fail_it(m, how);
		return;
	case 7:
		send_msg(&over);
		break;
	case 8:
		return;
	default:
		break;
	}
	if (!small && how & 1 && size < 4 << 20) {
		copy.n = size / 2;
		hole.n = size - copy.n;
		send_msg(&copy);
	}
	if (small)
		send_msg(&data);
	else
		send_msg(&hole);
	send_msg(&over);
}

static void answer(const struct msg *m)
{
	unsigned how = answers[next_answer++ % ANSWERS];
	if (m->type == MSG_DATA || m->type == MSG_HOLE || m->type == MSG_COPY ||
	    m->type == MSG_PUT_BEGIN || m->type == MSG_SIGNATURE || m->type == MSG_ABORT ||
	    m->type == MSG_IGNORE || m->type == MSG_MASK || m->type == MSG_OPEN)
		return;
	last_id = m->id;
	if (flags & LAZY && how % 4 == 3)
		return;
	switch (m->type) {
	case MSG_SIGN:
		tell_signature(m->id, how < 128 ? 0 : how);
		break;
	case MSG_READ:
		tell_file(m, how);
		break;
	case MSG_HASH: {
		struct msg hashed = { .type = MSG_HASHED, .id = m->id };
		hashed.status = how < 160 ? 0 : -(int)how;
		memset(hashed.digest, how & 1, SYNC_DIGEST);
		send_msg(&hashed);
		break;
	}
	case MSG_FENCE:
		send_msg(&(struct msg){ .type = MSG_FENCED, .id = m->id + (how >= 240) });
		break;
	default:
		if (how < 160)
			done(m->id, 0);
		else
			fail_it(m, how);
	}
}

/* --- what the brain says --- */

/* What it says is whole messages, of those that a brain sends. */
static bool hear_messages(void)
{
	static struct msg_in in;
	ssize_t n = 0;
	size_t at = 0, left;
	while ((left = far.out_n - at) > 0) {
		struct slice all = slice_of(far.out + at, left);
		n = wire_length(all);
		if (n <= 0 || (size_t)n > all.n)
			break;
		BUG_ON(wire_get(&in, slice_of(all.p, (size_t)n)) < 0);
		BUG_ON(in.m.type == MSG_OPENED || in.m.type == MSG_ENTRY || in.m.type == MSG_DONE ||
		       in.m.type == MSG_HASHED);
		answer(&in.m);
		wire_end(&in);
		at += (size_t)n;
	}
	BUG_ON(n < 0);
	if (at == 0)
		return false;
	far.out_n -= at;
	memmove(far.out, far.out + at, far.out_n);
	memory_wake(&far);
	return true;
}

/* Lines of JSON. */
static bool hear_control(void)
{
	size_t at = 0;
	const char *end;
	while (parent.out_n > at && (end = memchr(parent.out + at, '\n', parent.out_n - at))) {
		size_t n = (size_t)(end - parent.out) - at;
		struct json_doc *doc = json_parse(slice_of(parent.out + at, n), NULL, NULL);
		BUG_ON(!doc);
		json_free(doc);
		at += n + 1;
	}
	if (at == 0)
		return false;
	parent.out_n -= at;
	memmove(parent.out, parent.out + at, parent.out_n);
	memory_wake(&parent);
	return true;
}

static void rest(void)
{
	bool more = true;
	for (int i = 0; more && !ended; i++) {
		if (i >= ASKS_MAX && honest) {
			fprintf(stderr, "it asks for ever\n");
			abort();
		}
		if (i >= ASKS_MAX)
			break; /* as long as it is told something new with each answer */
		settle(&ended);
		more = !(flags & DEAF) && hear_messages();
		more |= hear_control();
	}
	memory_check();
}

static void words(const char *text)
{
	memory_say(&parent, text, strlen(text));
	memory_say(&parent, "\n", 1);
}

static void say_opened(unsigned k)
{
	opened = true;
	send_msg(&(struct msg){ .type = MSG_OPENED,
				.id = k < 250 ? WIRE_VERSION : k,
				.text = k & 1 ? SLICE("g1") : SLICE("another"),
				.data = k < 200 ? SLICE("inotify") : SLICE("\xff\x1b\"\\") });
}

static void begin(unsigned how)
{
	char text[512];
	memory_begin(&far);
	memory_begin(&parent);
	ended = opened = scanned = false;
	session = session_new(rx, &far.s, &far.s, &parent.s, on_ended, NULL);
	snprintf(text, sizeof(text),
		 "{\"root\":\"%s\",\"store\":\"%s\",\"mode\":\"%s\",\"only\":\"%s\",\"ignore\":\"%s"
		 "\",\"masks\":[%s],\"halt\":%s,\"far\":{\"make\":true}}",
		 root_path, store_path, sync_modes[flags & MODE], flags & ONLY ? "a" : "",
		 flags & PATTERNS ? "ign/\\n*.o" : "", flags & PATTERNS ? "\"masked\"" : "",
		 flags & HALT ? "true" : "false");
	words(text);
	rest();
	if (how < 240)
		say_opened(how | 1);
	rest();
}

static void end(bool orderly)
{
	if (orderly)
		flags &= ~(unsigned)DEAF;
	far.eof = true;
	memory_wake(&far);
	if (orderly) {
		rest();
		BUG_ON(!ended);
	}
	session_free(session);
	BUG_ON(!far.closed || !parent.closed);
	memory_end(&far);
	memory_end(&parent);
}

/* --- records --- */

enum {
	ENTRY = 0,
	SCANNED = 120,
	PROBLEM = 130,
	HALTED = 140,
	ANY = 144,
	OPENED = 200,
	WORDS = 205,
	SOMEBODY = 228,
	RACE = 236,
	TIME = 243,
	AGAIN = 251,
	RAW = 253
};

static struct version *entry_version(struct slice path)
{
	if (rec[4] % 8 == 0)
		return rec[4] & 8 ? NULL : version_there(path, rec[4] >= 240);
	return any_version(rec[4], rec[5]);
}

static void say_entry(void)
{
	struct msg m = { .type = MSG_ENTRY, .flags = rec[3] & 3, .path = path_of(rec[2]) };
	m.want = entry_version(m.path);
	memory_send(&far, &m, rec[14] >= 250 ? rec[15] : 0, rec[14]);
	version_unref(m.want);
}

static void say_any(void)
{
	struct msg m = { .type = (enum msg_type)(1 + rec[0] % (MSG_TYPES - 1)) };
	m.id = last_id - rec[1] % 8;
	m.flags = rec[1];
	m.status = -(int)rec[1];
	m.n = sizes[rec[10] % ARRAY_LEN(sizes)];
	m.at = sizes[rec[11] % ARRAY_LEN(sizes)];
	m.path = path_of(rec[2]);
	m.from = path_of(rec[3]);
	m.text = some_bytes(rec[12]);
	m.data = some_bytes((size_t)rec[12] * rec[13]);
	m.want = any_version(rec[4], rec[5]);
	m.expect = any_version(rec[6], rec[7]);
	m.source = any_version(rec[8], rec[9]);
	memory_send(&far, &m, rec[14] >= 250 ? rec[15] : 0, rec[14]);
	version_unref(m.want);
	version_unref(m.expect);
	version_unref(m.source);
}

static void say_words(void)
{
	static const char *const some[] = { "{\"fence\":7}",       "{\"pause\":true}",
					    "{\"proceed\":true}",  "{\"reset\":true}",
					    "{\"masks\":[\"x\"]}", "{\"fence\":8}" };
	static const char *const keep[] = { "local", "remote", "both", "x" };
	char text[128];
	unsigned k = rec[1] % 10;
	if (k < ARRAY_LEN(some)) {
		words(some[k]);
		return;
	}
	snprintf(text, sizeof(text), "{\"resolve\":\"%s\",\"keep\":\"%s\",\"n\":9}",
		 paths[rec[2] % (ARRAY_LEN(paths) - 1)], keep[rec[3] % ARRAY_LEN(keep)]);
	disturbed |= (flags & MODE) >= 2 && rec[3] % ARRAY_LEN(keep) == 1;
	words(text);
}

static void step(void)
{
	unsigned what = rec[0];
	if (what < SCANNED) {
		say_entry();
	} else if (what < PROBLEM) {
		scanned = true;
		send_msg(&(struct msg){ .type = MSG_SCANNED, .n = rec[1], .at = rec[2] });
	} else if (what < HALTED) {
		send_msg(&(struct msg){ .type = MSG_PROBLEM,
					.path = path_of(rec[2]),
					.text = rec[1] & 1 ? some_bytes(rec[3] * 4u) : SLICE("") });
	} else if (what < ANY) {
		send_msg(&(struct msg){ .type = MSG_HALT, .text = SLICE("\x1b\"\xc3\n") });
	} else if (what < OPENED) {
		say_any();
	} else if (what < WORDS) {
		say_opened(rec[1]);
	} else if (what < SOMEBODY) {
		say_words();
	} else if (what < RACE) {
		disturbed = true;
		somebody(rec[1], paths[rec[2] % ARRAY_LEN(paths)],
			 paths[rec[3] % ARRAY_LEN(paths)]);
	} else if (what < TIME) {
		disturbed = true;
		race_in = 1 + rec[4] % 8;
		race_what = rec[1];
		race_path = rec[2];
		race_other = rec[3];
	} else if (what < AGAIN) {
		clock_advance(rec[1] & 1 ? 60 : rec[1] & 2 ? 400 : 3100);
		memory_wake(&far);
	} else if (what < RAW) {
		end(false);
		begin(rec[1]);
	} else {
		memory_say(&far, rec + 1, RECORD - 1);
	}
	if (!(rec[15] & 1))
		rest();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1 + ANSWERS)
		return 0;
	run_begin(data + 1 + ANSWERS, size - 1 - ANSWERS);
	flags = data[0];
	answers = data + 1;
	next_answer = 0;
	honest = true;
	for (int i = 0; i < ANSWERS; i++)
		honest &= answers[i] < 160;
	last_id = 1;
	world_fill(flags & WITH_LARGE);
	syscall(SYS_mkdirat, root_fd, "masked", 0755);
	put_file(root_fd, "masked/x", 4, 0644);
	look_at_alpha(alpha_was);
	disturbed = false;
	begin(answers[0]);
	for (int i = 0; i < RECORDS_MAX && !ended && record_next(); i++)
		step();
	if (!ended && opened && !scanned)
		send_msg(&(struct msg){ .type = MSG_SCANNED });
	/* Deletions are believed, what failed is tried again. */
	for (int i = 0; i < 3 && !ended; i++) {
		rest();
		clock_advance(i ? 1200 : 400);
		memory_wake(&far);
	}
	if (!ended) {
		words("{\"fence\":99}");
		rest();
	}
	end(!ended);
	alpha_check();
	run_end();
	return 0;
}
