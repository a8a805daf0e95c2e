/* tsctl sync: keeps a directory here and one beside the guest alike. */
#include <errno.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cmd/tsctl/cmd.h"
#include "cmd/tsctl/daemon.h"
#include "cmd/tsctl/forward.h"
#include "cmd/tsctl/forward_store.h"
#include "cmd/tsctl/sync_cli.h"
#include "cmd/tsctl/sync_record.h"
#include "cmd/tsctl/text.h"
#include "proto/sync/ignore.h"
#include "reactor/err.h"
#include "reactor/opt.h"

enum { REQUEST_MAX = 4 * 1024 * 1024 };

struct create {
	const char *alpha, *beta, *name, *mode;
	struct opt_list ignore;
	bool ignore_vcs, paused;
	uint64_t connect_ms, handshake_ms, keepalive_ms;
};

static bool is_url(const char *s)
{
	return strncmp(s, "tstunnel:", strlen("tstunnel:")) == 0;
}

/* alpha as it is on disk. */
static int look_at_alpha(const struct create *c, struct sync_record *rec, char *err, size_t errlen)
{
	struct stat st;
	char path[PATH_MAX];
	if (!realpath(c->alpha, path) || stat(path, &st) == -1) {
		int e = -errno;
		snprintf(err, errlen, "ALPHA %s: %s", c->alpha,
			 e == -ENOENT ? "no such directory" : err_text(e));
		return e;
	}
	if (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode)) {
		snprintf(err, errlen, "ALPHA %s: is neither a directory nor a file", c->alpha);
		return -EINVAL;
	}
	if (access(path, R_OK) == -1) {
		int e = -errno;
		snprintf(err, errlen, "ALPHA %s: %s", c->alpha, err_text(e));
		return e;
	}
	rec->file = S_ISREG(st.st_mode);
	rec->alpha = xstrdup(path);
	return 0;
}

static char *absolute(const char *path)
{
	char cwd[PATH_MAX];
	if (!path || path[0] == '/' || !getcwd(cwd, sizeof(cwd)))
		return path ? xstrdup(path) : NULL;
	return xasprintf("%s/%s", cwd, path);
}

static void replace(char **slot)
{
	char *path = absolute(*slot);
	free(*slot);
	*slot = path;
}

/* beta with all file names absolute: the daemon runs in another directory. */
static int look_at_beta(const struct create *c, struct sync_record *rec, char *err, size_t errlen)
{
	struct tsurl u;
	struct buf b;
	if (tsurl_parse(&u, slice_str(c->beta), err, errlen) < 0)
		return -EINVAL;
	const char *there = u.has_target ? NULL : strrchr(u.path, '/');
	int r = 0;
	if (!there) {
		snprintf(err, errlen, "BETA must end in a directory, not in a port or socket");
		r = -EINVAL;
	} else if (rec->file && strcmp(there, strrchr(rec->alpha, '/')) != 0) {
		snprintf(err, errlen,
			 "ALPHA is a file, so BETA must be one of the same name: ...%s",
			 strrchr(rec->alpha, '/'));
		r = -EINVAL;
	}
	if (u.insecure && r == 0)
		fprintf(stderr,
			"Warning: insecure=true: the guest's certificate is not verified\n");
	replace(&u.cert);
	replace(&u.key);
	replace(&u.ca);
	buf_init(&b, 4 * TSURL_MAX);
	tsurl_put(&b, &u);
	rec->beta = xslicedup(buf_data(&b));
	buf_end(&b);
	tsurl_end(&u);
	return r;
}

static char *join_patterns(const struct opt_list *l)
{
	struct buf b;
	buf_init(&b, 1024 * 1024);
	for (size_t i = 0; i < l->n; i++)
		buf_printf(&b, "%s\n", l->v[i]);
	char *text = xslicedup(buf_data(&b));
	buf_end(&b);
	return text;
}

/* 0, or the exit status after an error message. */
static int make_record(const struct create *c, struct sync_record *rec)
{
	char err[2 * PATH_MAX];
	*rec = (struct sync_record){ .name = xstrdup(c->name ? c->name : ""),
				     .ignore = join_patterns(&c->ignore),
				     .mode = sync_mode_parse(slice_str(c->mode)),
				     .ignore_vcs = c->ignore_vcs,
				     .paused = c->paused,
				     .connect_ms = c->connect_ms,
				     .handshake_ms = c->handshake_ms,
				     .keepalive_ms = c->keepalive_ms };
	for (size_t i = 0; i < SYNC_ID_LEN; i += 8)
		snprintf(rec->id + i, 9, "%08x", arc4random());
	if (c->name && !forward_name_ok(c->name))
		return forward_fail(SYNC_USAGE,
				    "--name takes letters, digits, '-', '_' and '.', at most 64");
	if (!rec->mode)
		return forward_fail(SYNC_USAGE, "--mode must be two-way-safe, two-way-resolved, "
						"one-way-safe or one-way-replica");
	if (is_url(c->alpha))
		return forward_fail(SYNC_USAGE, "ALPHA is the directory on this machine, BETA the "
						"tstunnel:// URL");
	struct ignore *ignore = ignore_new(slice_str(rec->ignore), err, sizeof(err));
	if (!ignore)
		return forward_fail(SYNC_USAGE, err);
	ignore_free(ignore);
	if (look_at_alpha(c, rec, err, sizeof(err)) < 0)
		return forward_fail(1, err);
	if (look_at_beta(c, rec, err, sizeof(err)) < 0)
		return forward_fail(SYNC_USAGE, err);
	return 0;
}

static int hand_over(const struct sync_record *rec)
{
	struct buf request, reply;
	struct json_writer w;
	int status = 0;
	bool again;
	buf_init(&request, REQUEST_MAX);
	json_writer_begin(&w, &request);
	sync_record_put(&w, rec);
	json_writer_end(&w);
	/* Whoever asks twice is told about the first one: the id is the same. */
	int r =
	    daemon_ask(&(struct daemon_request){ .method = "POST",
						 .path = "/syncs",
						 .body = buf_data(&request),
						 .ms = 2 * (rec->connect_ms + rec->handshake_ms) +
						       2 * DAEMON_ASK_MS,
						 .state = "syncs.json",
						 .start = true },
		       &reply, &status, &again);
	buf_end(&request);
	if (r)
		return r;
	struct json_doc *doc = status == 201 ? json_parse(buf_data(&reply), NULL, NULL) : NULL;
	if (doc)
		printf("%.*s\n", SYNC_SHORT, member_text(doc, json_root(doc), "id").p);
	else
		r = daemon_complain(&reply, status);
	json_free(doc);
	buf_end(&reply);
	return r;
}

static int cmd_create(int argc, char **argv)
{
	struct create c = { .mode = "two-way-safe",
			    .connect_ms = 10000,
			    .handshake_ms = 10000,
			    .keepalive_ms = 4000 };
	const struct opt opts[] = {
		{ .kind = OPT_STRING,
		  .name = "mode",
		  .to = &c.mode,
		  .arg = "MODE",
		  .help = "two-way-safe, two-way-resolved (ALPHA wins), one-way-safe or "
			  "one-way-replica (default two-way-safe)" },
		{ .kind = OPT_LIST,
		  .name = "ignore",
		  .letter = 'i',
		  .to = &c.ignore,
		  .arg = "PATTERN",
		  .help = "paths to leave alone, as in .gitignore (repeatable; also a file "
			  ".tsignore in ALPHA)" },
		{ .kind = OPT_FLAG,
		  .name = "ignore-vcs",
		  .to = &c.ignore_vcs,
		  .help = "leave .git and its like alone" },
		{ .kind = OPT_STRING,
		  .name = "name",
		  .to = &c.name,
		  .arg = "NAME",
		  .help = "to call it by, instead of its id" },
		{ .kind = OPT_FLAG,
		  .name = "paused",
		  .to = &c.paused,
		  .help = "do not begin before \"tsctl sync resume\"" },
		{ .kind = OPT_DURATION,
		  .name = "connect-timeout",
		  .to = &c.connect_ms,
		  .arg = "TIME",
		  .help = "for reaching the guest (default 10s)" },
		{ .kind = OPT_DURATION,
		  .name = "handshake-timeout",
		  .to = &c.handshake_ms,
		  .arg = "TIME",
		  .help = "for TLS and the upgrade to a tunnel (default 10s)" },
		{ .kind = OPT_DURATION,
		  .name = "keepalive",
		  .to = &c.keepalive_ms,
		  .arg = "TIME",
		  .help = "a silent guest is asked after this, given up after as long again "
			  "(default 4s)" },
		{ .kind = OPT_END },
	};
	const struct opt_command command = {
		.name = "tsctl sync create",
		.args = "ALPHA BETA [OPTIONS]",
		.summary =
		    "Keeps ALPHA, a directory or file here, and BETA beside the guest alike.",
		.opts = opts,
		.more =
		    "BETA is tstunnel://SERVER[:PORT]/REMOTE/PATH; parameters behind '?', joined "
		    "by '&': cert=FILE,\nkey=FILE, ca=FILE, insecure=true. It is made if it is not "
		    "there.\n\n"
		    "Prints the sync's id once both sides are open; \"tsctl sync flush\" waits "
		    "until all is there. A\ndaemon keeps it, until it is terminated. Asking again "
		    "for the same prints the same id.\n\n"
		    "Example:\n"
		    "  tsctl sync create --name app --ignore node_modules . \\\n"
		    "      'tstunnel://HOST:443/srv/app?cert=c.crt&key=c.key&ca=ca.crt'\n",
	};
	int first = opt_parse(&command, argc, argv);
	if (first <= 0)
		return first == 0 ? 0 : SYNC_USAGE;
	int code = SYNC_USAGE;
	if (argc - first == 2) {
		struct sync_record rec;
		c.alpha = argv[first];
		c.beta = argv[first + 1];
		code = make_record(&c, &rec);
		if (code == 0)
			code = hand_over(&rec);
		sync_record_end(&rec);
	} else if (argc - first > 2) {
		unexpected_argument(command.name, argv[first + 2]);
	} else {
		fprintf(stderr, "%s: %s is missing\nSee '%s --help'.\n", command.name,
			argc == first ? "ALPHA" : "BETA", command.name);
	}
	opt_list_free(&c.ignore);
	return code;
}

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
} commands[] = { { "create", cmd_create },        { "list", cmd_sync_list },
		 { "monitor", cmd_sync_monitor }, { "pause", cmd_sync_change },
		 { "resume", cmd_sync_change },   { "flush", cmd_sync_change },
		 { "reset", cmd_sync_change },    { "resolve", cmd_sync_resolve },
		 { "terminate", cmd_sync_change } };

int cmd_sync(int argc, char **argv)
{
	const struct opt none[] = { { .kind = OPT_END } };
	const struct opt_command command = {
		.name = "tsctl sync",
		.args = "COMMAND [OPTIONS]",
		.summary = "Keeps directories here and beside the guest alike.",
		.opts = none,
		.more =
		    "Commands:\n"
		    "  create ALPHA BETA    make a sync\n"
		    "  list                 show them, with conflicts and what to do about them\n"
		    "  monitor [NAME]       watch one at work\n"
		    "  pause NAME...        stop for a while\n"
		    "  resume NAME...       go on, also after a halt\n"
		    "  flush NAME...        wait until both sides are alike\n"
		    "  reset NAME...        merge both sides anew\n"
		    "  resolve NAME PATH    end a conflict\n"
		    "  terminate NAME...    end them; the files stay\n\n"
		    "See 'tsctl sync COMMAND --help'.\n",
		.stop_at_operand = true,
	};
	int first = opt_parse(&command, argc, argv);
	if (first <= 0)
		return first == 0 ? 0 : SYNC_USAGE;
	for (size_t i = 0; first < argc && i < ARRAY_LEN(commands); i++)
		if (strcmp(argv[first], commands[i].name) == 0)
			return commands[i].run(argc - first, argv + first);
	if (first < argc)
		fprintf(stderr, "tsctl sync: unknown command \"%s\"\n", argv[first]);
	else
		fputs("tsctl sync: a command is missing\n", stderr);
	fputs("See 'tsctl sync --help'.\n", stderr);
	return SYNC_USAGE;
}
