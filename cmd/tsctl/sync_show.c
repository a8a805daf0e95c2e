/* tsctl sync list: syncs for people. */
#include <time.h>

#include "cmd/tsctl/sync_cli.h"
#include "cmd/tsctl/text.h"
#include "proto/sync/path_text.h"
#include "reactor/opt.h"

const char *sync_label(const struct sync_found *f)
{
	static char ring[8][80];
	static unsigned at;
	struct slice name = member_text(f->source->doc, f->sync, "name");
	struct slice id = member_text(f->source->doc, f->sync, "id");
	char *out = ring[at++ % ARRAY_LEN(ring)];
	if (name.n == 0)
		name = slice_of(id.p, MIN(id.n, (size_t)SYNC_SHORT));
	snprintf(out, sizeof(ring[0]), "%.*s", SLICE_FMT(name));
	return out;
}

char *sync_path_shown(struct slice text)
{
	char *path = path_text_get(text);
	char *out = printable(path ? slice_str(path) : text);
	free(path);
	return out;
}

static char *path_member(const struct sync_found *f, const char *name)
{
	return sync_path_shown(member_text(f->source->doc, f->sync, name));
}

/* As a word for the shell, to be free()d. */
static char *shell_word(struct slice text)
{
	static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
				   "_-./+:,@=";
	char *path = path_text_get(text);
	if (!path)
		return xslicedup(text);
	if (path[0] && path[0] != '-' && path[strspn(path, safe)] == '\0')
		return path;
	char *out = xmalloc(4 * strlen(path) + 3), *p = out;
	*p++ = '\'';
	for (const char *c = path; *c; c++) {
		if (*c == '\'')
			p = stpcpy(p, "'\\''");
		else
			*p++ = *c;
	}
	memcpy(p, "'", 2);
	free(path);
	return out;
}

/* "10:01" of today, else with the date; from RFC 3339. */
static void put_time(char *out, size_t outlen, struct slice s)
{
	struct tm tm = { 0 }, then, today;
	time_t now = time(NULL);
	char text[20];
	snprintf(text, sizeof(text), "%.*s", (int)MIN(s.n, (size_t)19), s.p);
	char *end = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
	time_t at = end ? timegm(&tm) : 0;
	out[0] = '\0';
	if (!end || !localtime_r(&at, &then) || !localtime_r(&now, &today))
		return;
	bool same_day = then.tm_year == today.tm_year && then.tm_yday == today.tm_yday;
	strftime(out, outlen, same_day ? "%H:%M" : "%F %H:%M", &then);
}

/* "12 B, 10:01", "a directory", "nothing". */
static void put_version(struct buf *b, struct json_doc *doc, struct json *v)
{
	struct slice kind = member_text(doc, v, "kind");
	char when[32];
	if (!v || v->type != JSON_OBJECT) {
		buf_puts(b, "nothing");
	} else if (slice_eq(kind, SLICE("file"))) {
		put_time(when, sizeof(when), member_text(doc, v, "mtime"));
		buf_printf(b, "%s%s%s", bytes_text(member_number(v, "size")), when[0] ? ", " : "",
			   when);
	} else {
		buf_printf(b, "a %.*s", SLICE_FMT(kind.n ? kind : SLICE("thing")));
	}
}

static void print_conflict(const struct sync_found *f, struct json *c)
{
	struct json_doc *doc = f->source->doc;
	struct slice text = member_text(doc, c, "path");
	char *path = sync_path_shown(text), *word = shell_word(text);
	struct buf b;
	buf_init(&b, 4096);
	buf_puts(&b, "local ");
	put_version(&b, doc, json_find(c, "alpha"));
	buf_puts(&b, "; remote ");
	put_version(&b, doc, json_find(c, "beta"));
	printf("  conflict: %s: %.*s (%.*s); tsctl sync resolve %s %s --keep local|remote|both\n",
	       path, SLICE_FMT(member_text(doc, c, "reason")), SLICE_FMT(buf_data(&b)),
	       sync_label(f), word);
	buf_end(&b);
	free(path);
	free(word);
}

static void print_problem(const struct sync_found *f, struct json *p)
{
	struct json_doc *doc = f->source->doc;
	char *path = sync_path_shown(member_text(doc, p, "path"));
	char *why = printable(member_text(doc, p, "why"));
	bool here = slice_eq(member_text(doc, p, "side"), SLICE("alpha"));
	printf("  problem: %s (%s): %s\n", path, here ? "local" : "remote", why);
	free(path);
	free(why);
}

static void print_skipped(const struct sync_found *f, struct json *p)
{
	struct json_doc *doc = f->source->doc;
	char *path = sync_path_shown(member_text(doc, p, "path"));
	bool here = slice_eq(member_text(doc, p, "side"), SLICE("alpha"));
	printf("  skipped: %s (%s): a socket, a device, a named pipe or a mount point\n", path,
	       here ? "local" : "remote");
	free(path);
}

static void print_list(const struct sync_found *f, const char *name, const char *total,
		       void (*one)(const struct sync_found *, struct json *))
{
	struct json *all = json_member(f->sync, slice_str(name));
	uint64_t n = member_number(f->sync, total);
	for (struct json *v = json_first(all); v; v = json_next(v))
		one(f, v);
	if (all && n > all->count)
		printf("  and %llu more %s\n", (unsigned long long)(n - all->count), name);
}

static bool state_is(const struct sync_found *f, const char *state)
{
	return slice_eq(member_text(f->source->doc, f->sync, "state"), slice_str(state));
}

static const char *plural(uint64_t n)
{
	return n == 1 ? "" : "s";
}

void sync_put_state(struct buf *b, const struct sync_found *f)
{
	struct json *todo = json_find(f->sync, "todo");
	uint64_t files = member_number(todo, "files"), bytes = member_number(todo, "bytes");
	uint64_t conflicts = member_number(f->sync, "conflicts_total");
	uint64_t problems = member_number(f->sync, "problems_total");
	buf_printf(b, "%.*s", SLICE_FMT(member_text(f->source->doc, f->sync, "state")));
	if (files || bytes)
		buf_printf(b, ", %llu file%s, %s left", (unsigned long long)files, plural(files),
			   bytes_text(bytes));
	if (conflicts)
		buf_printf(b, ", %llu conflict%s", (unsigned long long)conflicts,
			   plural(conflicts));
	if (problems)
		buf_printf(b, ", %llu problem%s", (unsigned long long)problems, plural(problems));
}

static void print_why(const struct sync_found *f)
{
	char *why = printable(member_text(f->source->doc, f->sync, "why"));
	const char *label = sync_label(f);
	if (state_is(f, "halted"))
		printf("  halted: %s; \"tsctl sync resume %s\" goes on with what is there now, "
		       "\"tsctl sync reset %s\" merges both sides anew\n",
		       why, label, label);
	else if (why[0])
		printf("  %.*s: %s\n", SLICE_FMT(member_text(f->source->doc, f->sync, "state")),
		       why);
	free(why);
}

void sync_print_table(const struct sync_list *l, const struct sync_found *all, int n)
{
	int wname = 4, wlocal = 5, wremote = 4;
	(void)l;
	for (int i = 0; i < n; i++) {
		char *local = path_member(&all[i], "local"),
		     *remote = path_member(&all[i], "remote");
		struct slice name = member_text(all[i].source->doc, all[i].sync, "name");
		wname = MAX(wname, (int)name.n);
		wlocal = MAX(wlocal, (int)strlen(local));
		wremote = MAX(wremote, (int)strlen(remote));
		free(local);
		free(remote);
	}
	printf("%-12s  %-*s  %-*s  %-*s  %-16s  %s\n", "ID", wname, "NAME", wlocal, "ALPHA",
	       wremote, "BETA", "MODE", "STATUS");
	for (int i = 0; i < n; i++) {
		const struct sync_found *f = &all[i];
		struct json_doc *doc = f->source->doc;
		struct slice name = member_text(doc, f->sync, "name");
		char *local = path_member(f, "local"), *remote = path_member(f, "remote");
		struct buf state;
		buf_init(&state, 1024);
		sync_put_state(&state, f);
		printf("%-12.12s  %-*.*s  %-*s  %-*s  %-16.*s  %.*s\n",
		       member_text(doc, f->sync, "id").p, wname,
		       SLICE_FMT(name.n ? name : SLICE("-")), wlocal, local, wremote, remote,
		       SLICE_FMT(member_text(doc, f->sync, "mode")), SLICE_FMT(buf_data(&state)));
		buf_end(&state);
		free(local);
		free(remote);
		print_why(f);
		print_list(f, "conflicts", "conflicts_total", print_conflict);
		print_list(f, "problems", "problems_total", print_problem);
		print_list(f, "skipped", "skipped_total", print_skipped);
	}
}

void sync_print_json(const struct sync_found *all, int n)
{
	printf("[");
	for (int i = 0; i < n; i++)
		printf("%s%.*s", i ? ",\n " : "", (int)all[i].sync->raw.n, all[i].sync->raw.p);
	printf("]\n");
}

int cmd_sync_list(int argc, char **argv)
{
	bool json = false;
	const struct opt opts[] = {
		{ .kind = OPT_FLAG, .name = "json", .to = &json, .help = "print a JSON array" },
		{ .kind = OPT_END },
	};
	const struct opt_command command = {
		.name = "tsctl sync list",
		.args = "[NAME|ID...] [OPTIONS]",
		.summary = "Shows the syncs of this user, those of containers (tsctl start) too.",
		.opts = opts,
		.more = "Conflicts, problems and halts are listed with what can be done about "
			"them, and "
			"what is\nskipped: sockets, devices, named pipes, mount points.\n",
	};
	int first = opt_parse(&command, argc, argv);
	if (first <= 0)
		return first == 0 ? 0 : SYNC_USAGE;
	struct sync_list l = { .n = 0 };
	int r = sync_list_get(&l);
	if (r == 0) {
		struct sync_found *picked = xcalloc(l.n + 1, sizeof(*picked));
		int n = sync_list_pick(&l, argv + first, argc - first, first == argc, picked);
		if (n < 0)
			r = 1;
		else if (json)
			sync_print_json(picked, n);
		else
			sync_print_table(&l, picked, n);
		free(picked);
	}
	sync_list_end(&l);
	return r;
}
