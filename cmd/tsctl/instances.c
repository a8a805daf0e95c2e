/* tsctl stop and tsctl status: asks running instances over their control sockets. */
#include <errno.h>
#include <unistd.h>

#include "cmd/tsctl/ask.h"
#include "cmd/tsctl/control.h"
#include "cmd/tsctl/daemon.h"
#include "cmd/tsctl/text.h"
#include "reactor/err.h"
#include "reactor/opt.h"

enum { ASK_MS = 5000, STOP_MS = 30000 };

/* 0 and the body in *body (the caller buf_ends it), or a code. */
static int ask(const struct instance *i, const char *method, const char *path, struct buf *body)
{
	int status = 0;
	int r = control_ask(&i->socket, method, path, SLICE(""), ASK_MS, &status, body);
	return r == 0 && status >= 300 ? -ERR_HTTP : r;
}

/* --- status --- */

struct listing {
	bool json, first;
	const char *only; /* the name of one instance, NULL: all */
	int count;
};

static struct slice text_of(struct json_doc *doc, const char *key)
{
	return member_text(doc, json_root(doc), key);
}

static uint64_t number_of(struct json_doc *doc, const char *key)
{
	return member_number(json_root(doc), key);
}

/* "  web  localhost:8080 -> 127.0.0.1:8080/tcp" */
static void print_port(struct json_doc *doc, struct json *p)
{
	struct slice here = member_text(doc, p, "here"), reason = member_text(doc, p, "reason");
	printf("  %.*s  %.*s -> %.*s/%.*s%s%.*s\n", SLICE_FMT(member_text(doc, p, "container")),
	       SLICE_FMT(here.n ? here : SLICE("(not here)")),
	       SLICE_FMT(member_text(doc, p, "there")), SLICE_FMT(member_text(doc, p, "proto")),
	       reason.n ? "  " : "", SLICE_FMT(reason));
}

/* "  /home/me/app  watching  two-way-resolved  web, db" */
static void print_sync(struct json_doc *doc, struct json *s)
{
	struct slice why = member_text(doc, s, "why");
	uint64_t files = 0, bytes = 0, conflicts = 0, problems = 0;
	const char *comma = "  ";
	json_u64(json_find(s, "todo", "files"), &files);
	json_u64(json_find(s, "todo", "bytes"), &bytes);
	json_u64(json_find(s, "conflicts_total"), &conflicts);
	json_u64(json_find(s, "problems_total"), &problems);
	printf("  %.*s  %.*s", SLICE_FMT(member_text(doc, s, "local")),
	       SLICE_FMT(member_text(doc, s, "state")));
	if (files || bytes)
		printf(" (%llu files, %llu bytes left)", (unsigned long long)files,
		       (unsigned long long)bytes);
	printf("  %.*s", SLICE_FMT(member_text(doc, s, "mode")));
	for (struct json *c = json_first(json_find(s, "containers")); c; c = json_next(c)) {
		struct slice name = SLICE("");
		json_str(doc, c, &name);
		printf("%s%.*s", comma, SLICE_FMT(name));
		comma = ", ";
	}
	if (conflicts || problems)
		printf("  %llu conflicts, %llu problems", (unsigned long long)conflicts,
		       (unsigned long long)problems);
	printf("%s%.*s\n", why.n ? "  " : "", SLICE_FMT(why));
}

static void print_human(struct json_doc *doc)
{
	bool up = false;
	json_bool(json_find(json_root(doc), "up"), &up);
	struct slice error = text_of(doc, "last_error");
	uint64_t s = number_of(doc, "uptime_ms") / 1000;
	printf("%.*s -> %.*s  %s  pid %llu  up %lluh%02llum%02llus\n",
	       SLICE_FMT(text_of(doc, "listen")), SLICE_FMT(text_of(doc, "server")),
	       up ? "connected" : "not connected", (unsigned long long)number_of(doc, "pid"),
	       (unsigned long long)(s / 3600), (unsigned long long)(s / 60 % 60),
	       (unsigned long long)(s % 60));
	printf("  carriers %llu, streams %llu, connections %llu, received %llu bytes, sent %llu "
	       "bytes, round trip %.1f ms\n",
	       (unsigned long long)number_of(doc, "carriers"),
	       (unsigned long long)number_of(doc, "streams"),
	       (unsigned long long)number_of(doc, "connections"),
	       (unsigned long long)number_of(doc, "bytes_in"),
	       (unsigned long long)number_of(doc, "bytes_out"),
	       (double)number_of(doc, "rtt_us") / 1000.0);
	if (!up && error.n)
		printf("  %.*s\n", SLICE_FMT(error));
	for (struct json *p = json_first(json_find(json_root(doc), "ports")); p; p = json_next(p))
		print_port(doc, p);
	for (struct json *v = json_first(json_find(json_root(doc), "syncs")); v; v = json_next(v))
		print_sync(doc, v);
}

static int show(const struct instance *i, int pid, void *arg)
{
	struct listing *l = arg;
	if (l->only && strcmp(l->only, i->name) != 0)
		return 0;
	struct buf body;
	int r = ask(i, "GET", "/status", &body);
	if (r < 0) {
		fprintf(stderr, "tsctl status: pid %d does not answer on %s: %s\n", pid,
			i->socket.path, err_text(r));
	} else {
		l->count++;
		struct json_doc *doc = json_parse(buf_data(&body), NULL, NULL);
		if (l->json)
			printf("%s%.*s", l->first ? "" : ",\n ", SLICE_FMT(buf_data(&body)));
		else if (doc)
			print_human(doc);
		json_free(doc);
		l->first = false;
	}
	buf_end(&body);
	return 0;
}

/* The syncs of the daemon, if one runs that has some. */
static void show_daemon(void)
{
	struct instance i;
	struct buf body;
	char err[512];
	int pid =
	    instance_init_single(&i, DAEMON_NAME, err, sizeof(err)) < 0 ? 0 : instance_pid(&i);
	if (pid <= 0)
		return;
	int r = ask(&i, "GET", "/syncs", &body);
	struct json_doc *doc = r < 0 ? NULL : json_parse(buf_data(&body), NULL, NULL);
	struct json *v = doc ? json_first(json_find(json_root(doc), "syncs")) : NULL;
	if (v)
		printf("tsctl sync  pid %d\n", pid);
	for (; v; v = json_next(v))
		print_sync(doc, v);
	json_free(doc);
	buf_end(&body);
}

/* The instance that --listen names. 0, or 2 after printing what is wrong. */
static int name_of(const char *who, const char *listen, struct instance *i)
{
	char err[512];
	struct addr a;
	if (addr_parse_stream(&a, slice_str(listen), 0, err, sizeof(err)) == 0) {
		instance_default_host(&a);
		if (instance_init(i, &a, err, sizeof(err)) == 0)
			return 0;
	}
	fprintf(stderr, "%s: %s\n", who, err);
	return 2;
}

int cmd_status(int argc, char **argv)
{
	bool json = false;
	const char *listen = NULL;
	const struct opt opts[] = {
		{ OPT_FLAG, "json", 0, &json, NULL, "print a JSON array", 0, 0, false },
		{ OPT_STRING, "listen", 0, &listen, "ADDR", "only the instance on this address", 0,
		  0, false },
		{ OPT_END, NULL, 0, NULL, NULL, NULL, 0, 0, false },
	};
	const struct opt_command command = {
		.name = "tsctl status",
		.args = "[OPTIONS]",
		.summary =
		    "Shows the running tsctl's of this user. Exit status 1 if there is none.",
		.opts = opts,
		.more =
		    "Syncs that were made by hand are shown, too; \"tsctl sync list\" says more.\n",
	};
	int first = opt_parse(&command, argc, argv);
	if (first <= 0)
		return first == 0 ? 0 : 2;
	if (first < argc)
		return unexpected_argument("tsctl status", argv[first]);
	struct instance i;
	struct listing l = { .json = json, .first = true };
	if (listen) {
		if (name_of("tsctl status", listen, &i))
			return 2;
		l.only = i.name;
	}
	if (json)
		printf("[");
	instance_each(show, &l);
	if (json)
		printf("]\n");
	else if (l.count == 0)
		fprintf(stderr, "no tsctl is running\n");
	if (!json && !listen)
		show_daemon();
	return l.count ? 0 : 1;
}

/* --- stop --- */

struct stopping {
	const char *only;
	bool all;
	int seen, pid;
	struct instance target;
	bool failed;
};

static bool stop_one(const struct instance *i, int pid)
{
	struct buf body;
	int r = ask(i, "POST", "/stop", &body);
	buf_end(&body);
	if (r < 0) {
		fprintf(stderr, "tsctl stop: pid %d does not answer on %s: %s\n", pid,
			i->socket.path, err_text(r));
		return false;
	}
	for (int waited = 0; waited < STOP_MS; waited += 20) {
		if (instance_pid(i) != pid)
			return true;
		usleep(20 * 1000);
	}
	fprintf(stderr, "tsctl stop: pid %d is still finishing its streams; it was told to stop\n",
		pid);
	return false;
}

static int consider(const struct instance *i, int pid, void *arg)
{
	struct stopping *s = arg;
	if (s->only && strcmp(s->only, i->name) != 0)
		return 0;
	s->seen++;
	if (s->all)
		s->failed |= !stop_one(i, pid);
	s->target = *i;
	s->pid = pid;
	return 0;
}

int cmd_stop(int argc, char **argv)
{
	const char *listen = NULL;
	bool all = false;
	const struct opt opts[] = {
		{ OPT_STRING, "listen", 0, &listen, "ADDR",
		  "the instance on this address (needed when there are several)", 0, 0, false },
		{ OPT_FLAG, "all", 0, &all, NULL, "every instance of this user", 0, 0, false },
		{ OPT_END, NULL, 0, NULL, NULL, NULL, 0, 0, false },
	};
	const struct opt_command command = {
		.name = "tsctl stop",
		.args = "[OPTIONS]",
		.summary = "Stops a running tsctl: requests in flight may finish first.",
		.opts = opts,
	};
	int first = opt_parse(&command, argc, argv);
	if (first <= 0)
		return first == 0 ? 0 : 2;
	if (first < argc)
		return unexpected_argument("tsctl stop", argv[first]);
	struct instance i;
	struct stopping s = { .all = all };
	if (listen) {
		if (name_of("tsctl stop", listen, &i))
			return 2;
		s.only = i.name;
	}
	instance_each(consider, &s);
	if (s.seen == 0) {
		fprintf(stderr, "tsctl stop: no tsctl is running%s%s\n", listen ? " on " : "",
			listen ? listen : "");
		return 1;
	}
	if (all)
		return s.failed ? 1 : 0;
	if (s.seen > 1) {
		fprintf(stderr,
			"tsctl stop: %d are running (tsctl status): say which with --listen, "
			"or --all\n",
			s.seen);
		return 1;
	}
	return stop_one(&s.target, s.pid) ? 0 : 1;
}
