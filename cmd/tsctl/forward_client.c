/* tsctl forward create, list, pause, resume, terminate: asks the daemon, which is started when
 * there is none. */
#include <errno.h>
#include <limits.h>
#include <unistd.h>

#include "cmd/tsctl/daemon.h"
#include "cmd/tsctl/forward.h"
#include "cmd/tsctl/forward_store.h"
#include "cmd/tsctl/text.h"
#include "json/json.h"
#include "reactor/err.h"
#include "reactor/opt.h"

enum { CHANGE_MS = 10 * 60 * 1000 /* resume waits for the guests */, REQUEST_MAX = 64 * 1024 };

static int ask(const char *method, const char *path, struct slice body, uint64_t ms, bool start,
	       struct buf *reply, int *status, bool *again)
{
	return daemon_ask(&(struct daemon_request){ .method = method,
						    .path = path,
						    .body = body,
						    .ms = ms,
						    .state = "forwards.json",
						    .start = start },
			  reply, status, again);
}

/* --- create --- */

static void print_lines(struct forward_spec *sp, uint16_t port)
{
	struct addr *listens = sp->reverse ? &sp->to.target : &sp->from;
	struct buf line;
	buf_init(&line, FORWARD_LINE_MAX);
	if (listens->kind != ADDR_UNIX && listens->port == 0)
		listens->port = port;
	for (unsigned i = 0; i < sp->count; i++) {
		if (forward_spec_put(sp, i, &line) == 0)
			printf("%.*s\n", SLICE_FMT(buf_data(&line)));
		buf_drop(&line, line.len);
	}
	buf_end(&line);
}

/* path, absolute, in place of it. */
static int make_absolute(char **path, char *err, size_t errlen)
{
	char cwd[PATH_MAX];
	if (!*path || (*path)[0] == '/')
		return 0;
	if (!getcwd(cwd, sizeof(cwd))) {
		snprintf(err, errlen, "cannot tell the working directory: %s", err_text(-errno));
		return -EINVAL;
	}
	char *whole = xasprintf("%s/%s", cwd, *path);
	free(*path);
	*path = whole;
	return 0;
}

/* The daemon runs in another directory. */
static int make_all_absolute(struct forward_spec *sp, char *err, size_t errlen)
{
	struct tsurl *to = &sp->to;
	if (make_absolute(&to->cert, err, errlen) < 0 || make_absolute(&to->key, err, errlen) < 0 ||
	    make_absolute(&to->ca, err, errlen) < 0)
		return -EINVAL;
	if (sp->from.kind != ADDR_UNIX || sp->from.path[0] == '@')
		return 0;
	char *path = xstrdup(sp->from.path);
	int r = make_absolute(&path, err, errlen);
	if (r == 0 && strlen(path) >= sizeof(sp->from.path)) {
		snprintf(err, errlen, "%s: too long for a socket (107 bytes at most)", path);
		r = -EINVAL;
	}
	if (r == 0)
		memcpy(sp->from.path, path, strlen(path) + 1);
	free(path);
	return r;
}

static char *text_of(const struct forward_spec *sp, bool src)
{
	struct buf b;
	buf_init(&b, 3 * TSURL_MAX);
	if (src == sp->reverse)
		tsurl_put(&b, &sp->to);
	else
		forward_spec_put_part(sp, src, &b);
	char *text = xslicedup(buf_data(&b));
	buf_end(&b);
	return text;
}

static void put_create(struct buf *b, const struct forward_flags *f, const struct forward_spec *sp)
{
	struct forward_record rec = { .name = xstrdup(f->name ? f->name : ""),
				      .src = text_of(sp, true),
				      .dst = text_of(sp, false),
				      .insecure = f->insecure,
				      .connect_ms = f->connect_ms,
				      .handshake_ms = f->handshake_ms,
				      .keepalive_ms = f->keepalive_ms,
				      .udp_idle_ms = f->udp_idle_ms };
	struct json_writer w;
	snprintf(rec.id, sizeof(rec.id), "%08x", arc4random());
	json_writer_begin(&w, b);
	forward_record_put(&w, &rec);
	json_writer_end(&w);
	forward_record_end(&rec);
}

int forward_hand_over(const struct forward_flags *f, struct forward_spec *sp)
{
	char err[1024];
	struct buf request, reply;
	int status = 0;
	bool again;
	if (make_all_absolute(sp, err, sizeof(err)) < 0)
		return forward_fail(1, err);
	buf_init(&request, REQUEST_MAX);
	put_create(&request, f, sp);
	/* Whoever asks twice is told about the first one: the id is the same. */
	int r = ask("POST", "/forwards", buf_data(&request),
		    2 * (f->connect_ms + f->handshake_ms) + DAEMON_ASK_MS, true, &reply, &status,
		    &again);
	buf_end(&request);
	if (r)
		return r;
	if (status == 201) {
		struct json_doc *doc = json_parse(buf_data(&reply), NULL, NULL);
		uint64_t port = 0;
		if (doc)
			json_u64(json_find(json_root(doc), "port"), &port);
		print_lines(sp, (uint16_t)port);
		json_free(doc);
	} else {
		r = daemon_complain(&reply, status);
	}
	buf_end(&reply);
	return r;
}

/* --- list --- */

static void print_row(struct json_doc *doc, struct json *v, int width)
{
	struct slice name = member_text(doc, v, "name"), reason = member_text(doc, v, "reason");
	printf("%-8.*s  %-*.*s  %-8.*s  %11llu  %8s  %8s  %.*s -> %.*s\n",
	       SLICE_FMT(member_text(doc, v, "id")), width, SLICE_FMT(name.n ? name : SLICE("-")),
	       SLICE_FMT(member_text(doc, v, "state")),
	       (unsigned long long)member_number(v, "connections"),
	       bytes_text(member_number(v, "bytes_out")), bytes_text(member_number(v, "bytes_in")),
	       SLICE_FMT(member_text(doc, v, "src")), SLICE_FMT(member_text(doc, v, "dst")));
	if (reason.n)
		printf("          %.*s\n", SLICE_FMT(reason));
}

static void print_table(struct json_doc *doc, struct json *all)
{
	int width = 4;
	for (struct json *v = json_first(all); v; v = json_next(v))
		width = MAX(width, (int)member_text(doc, v, "name").n);
	printf("%-8s  %-*s  %-8s  %11s  %8s  %8s  %s\n", "ID", width, "NAME", "STATE",
	       "CONNECTIONS", "SENT", "RECEIVED", "FORWARD");
	for (struct json *v = json_first(all); v; v = json_next(v))
		print_row(doc, v, width);
}

static int print_list(const struct buf *reply, bool as_json)
{
	struct json_doc *doc = json_parse(buf_data(reply), NULL, NULL);
	struct json *all = doc ? json_find(json_root(doc), "forwards") : NULL;
	if (!all)
		return forward_fail(1, "the daemon's answer cannot be understood");
	if (as_json)
		printf("%.*s\n", (int)all->raw.n, all->raw.p);
	else
		print_table(doc, all);
	json_free(doc);
	return 0;
}

int cmd_forward_list(int argc, char **argv)
{
	bool json = false, again;
	const struct opt opts[] = {
		{ .kind = OPT_FLAG, .name = "json", .to = &json, .help = "print a JSON array" },
		{ .kind = OPT_END },
	};
	const struct opt_command command = {
		.name = "tsctl forward list",
		.args = "[OPTIONS]",
		.summary = "Shows the forwards of this user.",
		.opts = opts,
	};
	int first = opt_parse(&command, argc, argv);
	if (first <= 0)
		return first == 0 ? 0 : FORWARD_USAGE;
	if (first < argc)
		return unexpected_argument("tsctl forward list", argv[first]);
	struct buf reply;
	int status = 0;
	int r = ask("GET", "/forwards", SLICE(""), DAEMON_ASK_MS, false, &reply, &status, &again);
	if (r == -ENOENT) {
		buf_init(&reply, 64);
		buf_puts(&reply, "{\"forwards\":[]}");
		status = 200;
	} else if (r) {
		return r;
	}
	r = status == 200 ? print_list(&reply, json) : daemon_complain(&reply, status);
	buf_end(&reply);
	return r;
}

/* --- pause, resume, terminate --- */

static void put_which(struct buf *b, int n, char **names, bool all)
{
	struct json_writer w;
	json_writer_begin(&w, b);
	json_put_object(&w);
	json_put_name(&w, "all");
	json_put_bool(&w, all);
	json_put_name(&w, "which");
	json_put_array(&w);
	for (int i = 0; i < n; i++)
		json_put_str(&w, slice_str(names[i]));
	json_put_end(&w);
	json_put_end(&w);
	json_writer_end(&w);
}

static int print_labels(const struct buf *reply)
{
	struct json_doc *doc = json_parse(buf_data(reply), NULL, NULL);
	struct json *all = doc ? json_find(json_root(doc), "forwards") : NULL;
	for (struct json *v = json_first(all); v; v = json_next(v)) {
		struct slice s = SLICE("");
		json_str(doc, v, &s);
		printf("%.*s\n", SLICE_FMT(s));
	}
	json_free(doc);
	return 0;
}

static int none(int n, char **names)
{
	char text[256];
	if (n == 0)
		return 0; /* --all of nothing */
	snprintf(text, sizeof(text), "there is no forward %.200s", names[0]);
	return forward_fail(1, text);
}

/* path: "/pause" and its kin. */
static int change(const char *path, int n, char **names, bool all)
{
	struct buf request, reply;
	int status = 0;
	bool again;
	buf_init(&request, REQUEST_MAX);
	put_which(&request, n, names, all);
	int r = ask("POST", path, buf_data(&request), CHANGE_MS, false, &reply, &status, &again);
	buf_end(&request);
	if (r == -ENOENT)
		return again ? 0 : none(n, names);
	if (r)
		return r;
	if (status == 200)
		print_labels(&reply);
	else if (status == 404 && again && strcmp(path, "/terminate") == 0)
		r = 0; /* it was heard the first time */
	else
		r = daemon_complain(&reply, status);
	buf_end(&reply);
	return r;
}

static int cmd_change(int argc, char **argv, const char *summary)
{
	bool all = false;
	char name[48], path[24];
	const struct opt opts[] = {
		{ .kind = OPT_FLAG,
		  .name = "all",
		  .to = &all,
		  .help = "every forward of this user" },
		{ .kind = OPT_END },
	};
	snprintf(name, sizeof(name), "tsctl forward %s", argv[0]);
	snprintf(path, sizeof(path), "/%s", argv[0]);
	const struct opt_command command = {
		.name = name,
		.args = "NAME|ID... | --all",
		.summary = summary,
		.opts = opts,
		.more = "Prints the name or id of each.\n",
	};
	int first = opt_parse(&command, argc, argv);
	if (first <= 0)
		return first == 0 ? 0 : FORWARD_USAGE;
	if (all && first < argc)
		return unexpected_argument(name, argv[first]);
	if (!all && first == argc) {
		fprintf(stderr, "%s: say which, or --all\nSee '%s --help'.\n", name, name);
		return FORWARD_USAGE;
	}
	return change(path, argc - first, argv + first, all);
}

int cmd_forward_pause(int argc, char **argv)
{
	return cmd_change(argc, argv,
			  "Stops listening and resets the connections, until it is resumed.");
}

int cmd_forward_resume(int argc, char **argv)
{
	return cmd_change(argc, argv, "Listens again. Returns once it serves.");
}

int cmd_forward_terminate(int argc, char **argv)
{
	return cmd_change(argc, argv, "Ends it for good: connections are reset.");
}
