/* test-tunnel: tries the way into a sandbox: CONNECT, SSH, a command. README.md has examples. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "cmd/test-tunnel/load.h"
#include "proto/ssh/ssh.h"
#include "proto/tstunnel/version.h"
#include "reactor/dns.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "reactor/opt.h"
#include "reactor/pump.h"

enum { COUNT_MAX = 1000000, AT_ONCE_MAX = 10000 };

struct flags {
	const char *api, *session, *token, *user, *password, *command, *key, *ca;
	struct opt_list uploads, downloads;
	int count, at_once;
	uint64_t timeout_ms;
	bool insecure, raw, version;
};

static struct flags flags = {
	.api = "http://localhost:8080",
	.token = "",
	.user = "sandbox",
	.password = "sandbox",
	.command = "echo 'Hello from sandbox'",
	.at_once = 1,
	.timeout_ms = 60000,
};

#define TEXT(name, to, arg, help)                                                                  \
	{                                                                                          \
		OPT_STRING, name, 0, to, arg, help, 0, 0, false                                    \
	}

static const struct opt opts[] = {
	TEXT("api", &flags.api, "URL", "pico-apiserver (default http://localhost:8080)"),
	TEXT("session", &flags.session, "ID", "the session; needed"),
	TEXT("token", &flags.token, "TEXT", "bearer token, if the server wants one"),
	TEXT("user", &flags.user, "NAME", "SSH user name (default sandbox)"),
	TEXT("password", &flags.password, "TEXT", "SSH password (default sandbox)"),
	TEXT("key", &flags.key, "FILE", "SSH private key, tried before the password"),
	TEXT("cmd", &flags.command, "COMMAND",
	     "what to run there (default echo 'Hello from sandbox')"),
	{ OPT_LIST, "upload", 0, &flags.uploads, "LOCAL:REMOTE",
	  "send a file, after the command (repeatable)", 0, 0, false },
	{ OPT_LIST, "download", 0, &flags.downloads, "REMOTE:LOCAL",
	  "fetch a file, after the uploads (repeatable)", 0, 0, false },
	{ OPT_INT, "count", 'n', &flags.count, "COUNT",
	  "run COUNT tests of -cmd alone and say how long they took", 1, COUNT_MAX, false },
	{ OPT_INT, "concurrency", 'c', &flags.at_once, "N", "so many of them at once (default 1)",
	  1, AT_ONCE_MAX, false },
	{ OPT_FLAG, "raw", 'W', &flags.raw, NULL,
	  "no test: the tunnel on stdin and stdout (ssh's ProxyCommand)", 0, 0, false },
	TEXT("ca", &flags.ca, "FILE", "https: CA of the server (default: the system's)"),
	{ OPT_FLAG, "insecure", 0, &flags.insecure, NULL,
	  "https: do not verify the server (development only)", 0, 0, false },
	{ OPT_DURATION, "timeout", 0, &flags.timeout_ms, "TIME",
	  "for the tunnel, and again for SSH (default 60s)", 0, 0, false },
	{ OPT_FLAG, "version", 0, &flags.version, NULL, "print the version", 0, 0, false },
	{ OPT_END, NULL, 0, NULL, NULL, NULL, 0, 0, false },
};

static const struct opt_command command = {
	.name = "test-tunnel",
	.args = "-session ID [OPTIONS]",
	.summary = "Tries the way into a sandbox: HTTP CONNECT, SSH, a command, and what is there.",
	.opts = opts,
	.more = "Exit status: 0 when every step passed, 1 when one did not, 2 for wrong usage.\n\n"
		"Examples:\n"
		"  test-tunnel -session ID -cmd \"python -c 'print(1 + 1)'\"\n"
		"  test-tunnel -session ID -n 100 -c 10\n"
		"  ssh -o ProxyCommand='test-tunnel -W -session %h' sandbox@ID\n",
};

/* --- errors --- */

static const char *advice(const char *why)
{
	static const struct {
		const char *starts, *advice;
	} all[] = {
		{ "failed to connect to server: failed to establish TLS",
		  "-ca FILE says whose certificates to believe" },
		{ "failed to connect to server",
		  "is pico-apiserver running there? Try: curl API/health; to start one: make run" },
		{ "CONNECT failed: malformed", "does it want -api https://... ?" },
		{ "CONNECT failed with status 401", "give a valid token: -token" },
		{ "CONNECT failed with status 404",
		  "the ID is wrong, or the session has expired. See: curl API/v1/sessions" },
		{ "CONNECT failed with status 503",
		  "wait until its status is running: curl API/v1/sessions/ID" },
		{ "failed to establish SSH connection",
		  "does an SSH server run in the sandbox? Its log says more" },
		{ "ssh: unable to authenticate", "check -user, -password and -key" },
		{ "failed to execute command", "try something simple: -cmd 'echo test'" },
	};
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		if (slice_starts(slice_str(why), slice_str(all[i].starts)))
			return all[i].advice;
	return NULL;
}

static int fail(const char *why)
{
	const char *more = advice(why);
	fflush(stdout);
	fprintf(stderr, "Error: %s\n", why);
	for (const char *p = more; p && *p; p++) { /* names of ours as they are here */
		if (strncmp(p, "API", 3) == 0) {
			fputs(flags.api, stderr);
			p += 2;
		} else {
			fputc(*p, stderr);
		}
	}
	if (more)
		fputc('\n', stderr);
	return 1;
}

static int usage_error(const char *text)
{
	fprintf(stderr, "test-tunnel: %s\nSee 'test-tunnel --help'.\n", text);
	return 2;
}

/* --- one test --- */

struct one {
	char *why;
	bool over;
};

static void on_trial(void *arg, const char *why, const uint64_t us[TRIAL_TIMES])
{
	struct one *o = arg;
	(void)us;
	o->why = why ? xstrdup(why) : NULL;
	o->over = true;
}

static int run_one(struct reactor *rx, const struct plan *p)
{
	struct one o = { 0 };
	int code = 0;
	trial_new(rx, p, on_trial, &o);
	reactor_run_until(rx, &o.over);
	if (o.why)
		code = fail(o.why);
	else
		puts("\n🎉 All tests completed successfully!");
	free(o.why);
	return code;
}

/* --- the raw tunnel --- */

struct raw {
	struct reactor *rx;
	char *why;
	bool over;
};

static void on_pumped(void *arg, const struct pump_end *e, const char *why)
{
	struct raw *r = arg;
	if (e->code && e->code != -EPIPE) /* who reads us has gone: as ssh does at its end */
		r->why = xasprintf("the tunnel broke: %s", why);
	r->over = true;
}

/* The streams have their own: were 1 open, too, who reads us would never see the tunnel's end. */
static void drop_stdio(void)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return;
	dup2(fd, 0);
	dup2(fd, 1);
	close(fd);
}

static void on_raw_tunnel(void *arg, struct stream *s, const char *pin, const char *why)
{
	struct raw *r = arg;
	int err = 0;
	(void)pin;
	if (!s) {
		r->why = xstrdup(why);
		r->over = true;
		return;
	}
	struct stream *in = stdio_stream_new(r->rx, 0, &err);
	struct stream *out = in ? stdio_stream_new(r->rx, 1, &err) : NULL;
	if (!out) {
		stream_close(in, 0);
		stream_close(s, -ERR_CANCELLED);
		r->why = xasprintf("cannot use standard input and output: %s", err_text(err));
		r->over = true;
		return;
	}
	drop_stdio();
	pump_start(r->rx, pair_stream_new(r->rx, in, out), s, on_pumped, r);
}

static int run_raw(struct reactor *rx, const struct plan *p)
{
	static const struct opening_events events = { NULL, NULL, on_raw_tunnel };
	struct raw r = { .rx = rx };
	int code = 0;
	opening_new(rx, &p->target, false, &events, &r);
	reactor_run_until(rx, &r.over);
	if (r.why)
		code = fail(r.why);
	free(r.why);
	return code;
}

/* --- the plan --- */

/* Cuts LOCAL:REMOTE at its last colon, REMOTE:LOCAL at its first: 0, or -EINVAL. text is changed.
 */
static int add_transfer(struct step *s, enum step_kind kind, char *text)
{
	char *colon = kind == STEP_UPLOAD ? strrchr(text, ':') : strchr(text, ':');
	if (!colon || colon == text || !colon[1])
		return -EINVAL;
	*colon = '\0';
	bool up = kind == STEP_UPLOAD;
	*s = (struct step){ .kind = kind,
			    .local = up ? text : colon + 1,
			    .remote = up ? colon + 1 : text };
	return 0;
}

/* The steps, to be free()d; NULL after saying what is wrong. The names of files live in *names. */
static struct step *make_steps(size_t *n, char **names)
{
	const struct opt_list *lists[] = { &flags.uploads, &flags.downloads };
	struct step *s = xcalloc(4 + flags.uploads.n + flags.downloads.n, sizeof(*s));
	s[0] = (struct step){ .kind = STEP_COMMAND, .command = flags.command };
	*n = 1;
	if (flags.count)
		return s;
	s[1] = (struct step){ STEP_CHECK, "Current directory", "pwd", NULL, NULL };
	s[2] = (struct step){ STEP_CHECK, "Current user", "whoami", NULL, NULL };
	s[3] =
	    (struct step){ STEP_CHECK, "Python version",
			   "if command -v python >/dev/null; then python --version; else python3 "
			   "--version; fi 2>&1",
			   NULL, NULL };
	*n = 4;
	for (size_t k = 0; k < 2; k++)
		for (size_t i = 0; i < lists[k]->n; i++) {
			char *text = xstrdup(lists[k]->v[i]);
			names[*n - 4] = text;
			if (add_transfer(&s[(*n)++], k ? STEP_DOWNLOAD : STEP_UPLOAD, text) < 0) {
				usage_error(k ? "-download must be REMOTE:LOCAL"
					      : "-upload must be LOCAL:REMOTE");
				free(s);
				return NULL;
			}
		}
	return s;
}

static int run_steps(struct reactor *rx, struct plan *p)
{
	size_t names_n = flags.uploads.n + flags.downloads.n;
	char **names = xcalloc(names_n + 1, sizeof(*names));
	struct step *steps = make_steps(&p->nsteps, names);
	int code = 2;
	p->steps = steps;
	p->talk = !flags.count;
	if (steps && flags.count)
		code = load_run(rx, p, (size_t)flags.count, (size_t)flags.at_once) ? 1 : 0;
	else if (steps)
		code = run_one(rx, p);
	for (size_t i = 0; i < names_n; i++)
		free(names[i]);
	free(names);
	free(steps);
	return code;
}

static int run_plan(struct plan *p)
{
	char err[1024];
	size_t n = 0;
	const char *home = getenv("HOME");
	char *path = xasprintf("%s/.ssh/known_hosts", home ? home : "");
	char *known = home ? ssh_known_hosts_load(path, &n, err, sizeof(err)) : NULL;
	struct reactor *rx = reactor_new();
	p->known_hosts = slice_of(known, known ? n : 0);
	int code = flags.raw ? run_raw(rx, p) : run_steps(rx, p);
	stream_linger_end();
	dns_end();
	reactor_free(rx);
	free(known);
	free(path);
	return code;
}

static int test_tunnel(void)
{
	char err[1024];
	struct plan p = { .user = flags.user, .password = flags.password };
	if (target_parse(&p.target, flags.api, flags.session, err, sizeof(err)) < 0)
		return usage_error(err);
	p.target.token = flags.token;
	p.target.ms = flags.timeout_ms;
	int code = 0;
	struct tls_options to = { .ca_files = &flags.ca,
				  .n_ca = flags.ca ? 1 : 0,
				  .insecure = flags.insecure,
				  .min_tls12 = true };
	if (p.target.https) {
		p.target.tls = tls_config_new(&to, false, err, sizeof(err));
		code = p.target.tls ? 0 : fail(err);
	}
	if (!code && flags.key) {
		p.key = ssh_key_load(flags.key, err, sizeof(err));
		code = p.key ? 0 : fail(err);
	}
	if (!code)
		code = run_plan(&p);
	ssh_key_free(p.key);
	tls_config_unref(p.target.tls);
	target_end(&p.target);
	return code;
}

int main(int argc, char **argv)
{
	int first = opt_parse(&command, argc, argv), code;
	log_set_program("test-tunnel");
	log_set_level("error");
	setvbuf(stderr, NULL, _IOLBF, BUFSIZ);
	if (first <= 0)
		code = first == 0 ? 0 : 2;
	else if (flags.version)
		code = puts("test-tunnel " TSTUNNEL_VERSION) < 0;
	else if (first < argc)
		code = usage_error("unexpected argument; -cmd needs quotes around its command");
	else if (!flags.session || !flags.session[0])
		code = usage_error("-session is missing: the ID that POST /v1/sessions gave");
	else if (flags.timeout_ms == 0)
		code = usage_error("-timeout must be over 0");
	else if (flags.at_once > 1 && !flags.count)
		code = usage_error("-c needs -n: how many tests there are");
	else if (flags.count && (flags.uploads.n || flags.downloads.n))
		code =
		    usage_error("-n runs -cmd alone: neither -upload nor -download goes with it");
	else if (flags.raw && (flags.count || flags.uploads.n || flags.downloads.n))
		code = usage_error("-W is the bare tunnel: no tests and no files");
	else
		code = test_tunnel();
	opt_list_free(&flags.uploads);
	opt_list_free(&flags.downloads);
	if (fflush(stdout) == EOF)
		code = 1;
	return code;
}
