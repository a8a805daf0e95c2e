/* tsctl sync list, pause, ..., resolve: asks the daemon, and every tsctl start. */
#include <errno.h>

#include "cmd/tsctl/ask.h"
#include "cmd/tsctl/daemon.h"
#include "cmd/tsctl/forward.h"
#include "cmd/tsctl/sync_cli.h"
#include "cmd/tsctl/text.h"
#include "proto/sync/path_text.h"
#include "reactor/err.h"
#include "reactor/opt.h"

enum { LIST_MS = 10 * 1000, DAY_MS = 24 * 3600 * 1000, REQUEST_MAX = 4 * 1024 * 1024, ID_MIN = 4 };

/* --- the list --- */

static struct sync_source *source_new(struct sync_list *l)
{
	l->sources = xrealloc(l->sources, (l->nsources + 1) * sizeof(*l->sources));
	struct sync_source *s = &l->sources[l->nsources++];
	*s = (struct sync_source){ .daemon = false };
	return s;
}

static int ask_instance(const struct instance *i, int pid, void *arg)
{
	struct sync_list *l = arg;
	struct buf reply;
	int status = 0;
	int r = control_ask(&i->socket, "GET", "/syncs", SLICE(""), LIST_MS, &status, &reply);
	if (r < 0)
		fprintf(stderr, "Warning: pid %d does not answer on %s: %s\n", pid, i->socket.path,
			err_text(r));
	if (r == 0 && status == 200) { /* else it is one that knows no syncs */
		struct sync_source *s = source_new(l);
		s->socket = i->socket;
		s->reply = reply;
	} else {
		buf_end(&reply);
	}
	return 0;
}

static int ask_daemon(struct sync_list *l)
{
	struct buf reply;
	int status = 0;
	bool again;
	int r = daemon_ask(
	    &(struct daemon_request){
		.method = "GET", .path = "/syncs", .ms = LIST_MS, .state = "syncs.json" },
	    &reply, &status, &again);
	if (r == -ENOENT)
		return 0;
	if (r)
		return r;
	if (status != 200) {
		r = daemon_complain(&reply, status);
		buf_end(&reply);
		return r;
	}
	struct sync_source *s = source_new(l);
	s->daemon = true;
	s->reply = reply;
	return 0;
}

static struct json *parse(struct sync_source *s)
{
	s->doc = json_parse(buf_data(&s->reply), NULL, NULL);
	return s->doc ? json_find(json_root(s->doc), "syncs") : NULL;
}

int sync_list_get(struct sync_list *l)
{
	int r = ask_daemon(l);
	if (r)
		return r;
	instance_each(ask_instance, l);
	for (size_t i = 0; i < l->nsources; i++) {
		struct json *all = parse(&l->sources[i]);
		if (!all)
			return forward_fail(1, "tsctl's answer cannot be understood");
		l->all = xrealloc(l->all, (l->n + all->count + 1) * sizeof(*l->all));
		for (struct json *v = json_first(all); v; v = json_next(v))
			l->all[l->n++] = (struct sync_found){ &l->sources[i], v };
	}
	return 0;
}

void sync_list_end(struct sync_list *l)
{
	for (size_t i = 0; i < l->nsources; i++) {
		json_free(l->sources[i].doc);
		buf_end(&l->sources[i].reply);
	}
	free(l->sources);
	free(l->all);
}

/* 3: its name, 2: its id, 1: the start of its id; 0: another. */
static int matches(const struct sync_found *f, struct slice key)
{
	struct slice id = member_text(f->source->doc, f->sync, "id");
	if (slice_eq(member_text(f->source->doc, f->sync, "name"), key))
		return 3;
	if (slice_eq(id, key))
		return 2;
	return key.n >= ID_MIN && slice_starts(id, key);
}

/* The one that key means; NULL after an error message. */
static const struct sync_found *pick(const struct sync_list *l, const char *key)
{
	const struct sync_found *best = NULL;
	char text[512];
	int rank = 0, same = 0;
	for (size_t i = 0; key[0] && i < l->n; i++) {
		int m = matches(&l->all[i], slice_str(key));
		same = m > rank ? 1 : same + (m == rank && m > 0);
		if (m > rank) {
			rank = m;
			best = &l->all[i];
		}
	}
	if (same == 1)
		return best;
	if (same)
		snprintf(text, sizeof(text), "%d syncs are called %.200s: give more of the id",
			 same, key);
	else
		snprintf(text, sizeof(text), "there is no sync %.200s", key);
	forward_fail(1, text);
	return NULL;
}

int sync_list_pick(const struct sync_list *l, char *const *names, int n, bool all,
		   struct sync_found *picked)
{
	int count = 0;
	for (size_t i = 0; all && i < l->n; i++)
		picked[count++] = l->all[i];
	for (int i = 0; !all && i < n; i++) {
		const struct sync_found *f = pick(l, names[i]);
		bool twice = false;
		if (!f)
			return -1;
		for (int k = 0; k < count; k++)
			twice |= picked[k].sync == f->sync;
		if (!twice)
			picked[count++] = *f;
	}
	return count;
}

/* --- asking for a change --- */

static void put_request(struct buf *b, const struct sync_found *all, int n,
			const struct sync_source *of, const char *more)
{
	struct json_writer w;
	buf_puts(b, "{\"which\":");
	json_writer_begin(&w, b);
	json_put_array(&w);
	for (int i = 0; i < n; i++)
		if (all[i].source == of)
			json_put_str(&w, member_text(of->doc, all[i].sync, "id"));
	json_put_end(&w);
	json_writer_end(&w);
	buf_printf(b, "%s}", more ? more : "");
}

static void print_labels(const struct buf *reply)
{
	struct json_doc *doc = json_parse(buf_data(reply), NULL, NULL);
	struct json *all = doc ? json_find(json_root(doc), "syncs") : NULL;
	for (struct json *v = json_first(all); v; v = json_next(v)) {
		struct slice s = SLICE("");
		json_str(doc, v, &s);
		printf("%.*s\n", SLICE_FMT(s));
	}
	json_free(doc);
}

static int post_to(const struct sync_source *s, const char *path, struct slice body, uint64_t ms,
		   bool gone_is_done)
{
	struct buf reply;
	char text[512];
	int status = 0, r;
	bool again = false;
	if (s->daemon) {
		r = daemon_ask(&(struct daemon_request){ .method = "POST",
							 .path = path,
							 .body = body,
							 .ms = ms,
							 .state = "syncs.json" },
			       &reply, &status, &again);
		if (r == -ENOENT)
			return forward_fail(1, "the daemon has ended");
	} else {
		r = control_ask(&s->socket, "POST", path, body, ms, &status, &reply);
		if (r < 0) {
			buf_end(&reply);
			snprintf(text, sizeof(text), "tsctl does not answer on %s: %s",
				 s->socket.path, err_text(r));
			return forward_fail(1, text);
		}
	}
	if (r)
		return r;
	if (status == 200)
		print_labels(&reply);
	else if (!(status == 404 && again && gone_is_done)) /* it was heard the first time */
		r = daemon_complain(&reply, status);
	buf_end(&reply);
	return r;
}

int sync_list_post(const struct sync_found *all, int n, const char *verb, uint64_t ms,
		   const char *more)
{
	char path[64];
	int code = 0;
	snprintf(path, sizeof(path), "/syncs/%s", verb);
	for (int i = 0; i < n; i++) {
		bool seen = false;
		for (int k = 0; k < i; k++)
			seen |= all[k].source == all[i].source;
		if (seen)
			continue;
		struct buf request;
		buf_init(&request, REQUEST_MAX);
		put_request(&request, all, n, all[i].source, more);
		int r = post_to(all[i].source, path, buf_data(&request), ms ? ms : DAY_MS,
				strcmp(verb, "terminate") == 0);
		buf_end(&request);
		code = MAX(code, r);
	}
	return code;
}

/* --- the commands --- */

static const struct {
	const char *name, *summary, *more;
} changes[] = {
	{ "pause", "Stops keeping them alike, until they are resumed.",
	  "Nothing is looked at or moved while it is paused. Prints the name or id of each.\n" },
	{ "resume", "Goes on: with what was paused, and with what has halted.",
	  "A sync halts when a root is gone, was emptied or is another: then nothing is removed on "
	  "the\nother side before you say so with this. Prints the name or id of each.\n" },
	{ "reset", "Forgets what both sides last agreed on: they are merged anew.",
	  "Nothing is removed by that: what only one side has goes to the other, what both have "
	  "and\ndiffers is a conflict. Prints the name or id of each.\n" },
	{ "terminate", "Ends it for good; the files on both sides stay as they are.",
	  "Prints the name or id of each.\n" },
	{ "flush", "Waits until all that was changed on either side before now is on the other.",
	  "What is in conflict stays so. Exit status 1 with the reason if that cannot be (paused, "
	  "halted,\nfailed), or not in time. Prints the name or id of each.\n" },
};

int cmd_sync_change(int argc, char **argv)
{
	bool all = false;
	uint64_t timeout_ms = 0;
	char name[48], more[64];
	size_t i = 0;
	while (strcmp(argv[0], changes[i].name) != 0)
		i++;
	bool flush = strcmp(argv[0], "flush") == 0;
	const struct opt timeout = { .kind = OPT_DURATION,
				     .name = "timeout",
				     .to = &timeout_ms,
				     .arg = "TIME",
				     .help = "give up after this (default: never)" };
	const struct opt opts[] = {
		{ .kind = OPT_FLAG, .name = "all", .to = &all, .help = "every sync of this user" },
		flush ? timeout : (struct opt){ .kind = OPT_END },
		{ .kind = OPT_END },
	};
	snprintf(name, sizeof(name), "tsctl sync %s", argv[0]);
	const struct opt_command command = {
		.name = name,
		.args = "NAME|ID... | --all",
		.summary = changes[i].summary,
		.opts = opts,
		.more = changes[i].more,
	};
	int first = opt_parse(&command, argc, argv);
	if (first <= 0)
		return first == 0 ? 0 : SYNC_USAGE;
	if (all && first < argc)
		return unexpected_argument(name, argv[first]);
	if (!all && first == argc) {
		fprintf(stderr, "%s: say which, or --all\nSee '%s --help'.\n", name, name);
		return SYNC_USAGE;
	}
	struct sync_list l = { .n = 0 };
	int r = sync_list_get(&l);
	if (r == 0) {
		struct sync_found *picked = xcalloc(l.n + 1, sizeof(*picked));
		int n = sync_list_pick(&l, argv + first, argc - first, all, picked);
		snprintf(more, sizeof(more), ",\"timeout_ms\":%llu",
			 (unsigned long long)timeout_ms);
		uint64_t ms = !flush ? DAEMON_ASK_MS : timeout_ms ? timeout_ms + DAEMON_ASK_MS : 0;
		r = n < 0 ? 1 : sync_list_post(picked, n, argv[0], ms, flush ? more : NULL);
		free(picked);
	}
	sync_list_end(&l);
	return r;
}

int cmd_sync_resolve(int argc, char **argv)
{
	const char *keep = NULL;
	const struct opt opts[] = {
		{ .kind = OPT_STRING,
		  .name = "keep",
		  .to = &keep,
		  .arg = "WHICH",
		  .help = "local, remote, or both: the remote one beside the local one" },
		{ .kind = OPT_END },
	};
	const struct opt_command command = {
		.name = "tsctl sync resolve",
		.args = "NAME|ID PATH --keep local|remote|both",
		.summary = "Ends a conflict: says which version of PATH both sides are to have.",
		.opts = opts,
		.more =
		    "PATH is relative to the root of the sync, as \"tsctl sync list\" shows it. "
		    "The other version\ngoes to the trash (docs/sync.md).\n",
	};
	int first = opt_parse(&command, argc, argv);
	if (first <= 0)
		return first == 0 ? 0 : SYNC_USAGE;
	if (argc - first > 2)
		return unexpected_argument(command.name, argv[first + 2]);
	if (argc - first < 2 || !keep) {
		fprintf(stderr, "tsctl sync resolve: %s is missing\nSee '%s --help'.\n",
			argc == first      ? "NAME|ID"
			: argc - first < 2 ? "PATH"
					   : "--keep",
			command.name);
		return SYNC_USAGE;
	}
	if (strcmp(keep, "local") != 0 && strcmp(keep, "remote") != 0 && strcmp(keep, "both") != 0)
		return forward_fail(SYNC_USAGE, "--keep must be local, remote or both");
	struct sync_list l = { .n = 0 };
	struct sync_found f = { .sync = NULL };
	struct buf more;
	struct json_writer w;
	buf_init(&more, 64 * 1024);
	buf_puts(&more, ",\"path\":");
	json_writer_begin(&w, &more);
	path_text_put(&w, argv[first + 1]);
	int r = json_writer_end(&w) < 0 ? forward_fail(1, "PATH is too long") : sync_list_get(&l);
	buf_printf(&more, ",\"keep\":\"%s\"", keep);
	char *text = xslicedup(buf_data(&more));
	if (r == 0)
		r = sync_list_pick(&l, argv + first, 1, false, &f) < 0
			? 1
			: sync_list_post(&f, 1, "resolve", 0, text);
	sync_list_end(&l);
	free(text);
	buf_end(&more);
	return r;
}
