#include "proto/tstunnel/exec_request.h"

#include <errno.h>
#include <signal.h>

#include "json/json.h"
#include "reactor/buf.h"
#include "reactor/utf8.h"

static int refuse(char *err, size_t errlen, const char *fmt, ...) PRINTF_LIKE(3, 4);

static int refuse(char *err, size_t errlen, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(err, errlen, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

/* The parse under way. */
struct reader {
	struct json_doc *doc;
	struct exec_request *to; /* argv[0] stays free until the end */
	char *command;
	char *err;
	size_t errlen;
};

static void strings_free(char **list)
{
	for (char **s = list; s && *s; s++)
		free(*s);
}

/* --- values --- */

static int get_string(struct reader *r, struct json *v, const char *what, char **out)
{
	struct slice s;
	if (json_str(r->doc, v, &s) < 0)
		return refuse(r->err, r->errlen, "exec: %s must be a string", what);
	if (s.n > 0 && memchr(s.p, '\0', s.n))
		return refuse(r->err, r->errlen, "exec: %s has a NUL in it", what);
	*out = xslicedup(s);
	return 0;
}

/* An array of strings, as a vector that ends with NULL, into list. */
static int get_strings(struct reader *r, struct json *v, const char *what, char **list)
{
	for (struct json *e = json_first(v); e; e = json_next(e))
		if (get_string(r, e, what, list++) < 0)
			return -EINVAL;
	return 0;
}

static int get_u16(struct reader *r, struct json *v, const char *what, unsigned short *out)
{
	uint64_t n;
	if (json_u64(v, &n) < 0 || n > UINT16_MAX)
		return refuse(r->err, r->errlen, "exec: %s must be a number from 0 to 65535", what);
	*out = (unsigned short)n;
	return 0;
}

static bool env_has_name(const char *entry)
{
	return entry[0] != '=' && strchr(entry, '=');
}

/* --- members --- */

static int read_command(struct reader *r, struct json *v)
{
	return get_string(r, v, "command", &r->command);
}

static int read_args(struct reader *r, struct json *v)
{
	free(r->to->argv);
	r->to->argv = xcalloc(v->count + 2, sizeof(char *));
	return get_strings(r, v, "each of args", r->to->argv + 1);
}

static int read_env(struct reader *r, struct json *v)
{
	r->to->env = xcalloc(v->count + 1, sizeof(char *));
	if (get_strings(r, v, "each of env", r->to->env) < 0)
		return -EINVAL;
	for (char **e = r->to->env; *e; e++)
		if (!env_has_name(*e))
			return refuse(r->err, r->errlen,
				      "exec: environment entry \"%.64s\" must be NAME=value", *e);
	return 0;
}

static int read_dir(struct reader *r, struct json *v)
{
	char *dir = NULL;
	int code = get_string(r, v, "dir", &dir);
	r->to->dir = dir;
	return code;
}

static int read_tty(struct reader *r, struct json *v)
{
	return json_bool(v, &r->to->tty);
}

static int read_merge(struct reader *r, struct json *v)
{
	return json_bool(v, &r->to->merge_stderr);
}

static int read_rows(struct reader *r, struct json *v)
{
	return get_u16(r, v, "rows", &r->to->rows);
}

static int read_cols(struct reader *r, struct json *v)
{
	return get_u16(r, v, "cols", &r->to->cols);
}

enum { STREAM = 1 << EXEC_STREAM, PLAIN = 1 << EXEC_PLAIN };

static const struct member {
	const char *name;
	unsigned forms;
	enum json_type type;
	const char *type_name;
	int (*read)(struct reader *, struct json *); /* NULL: whoever chose this parser read it */
} members[] = {
	{ "kind", STREAM, JSON_STRING, "a string", NULL },
	{ "command", STREAM | PLAIN, JSON_STRING, "a string", read_command },
	{ "args", STREAM | PLAIN, JSON_ARRAY, "an array of strings", read_args },
	{ "env", STREAM, JSON_ARRAY, "an array of strings", read_env },
	{ "envs", PLAIN, JSON_ARRAY, "an array of strings", read_env },
	{ "dir", STREAM, JSON_STRING, "a string", read_dir },
	{ "tty", STREAM, JSON_BOOL, "true or false", read_tty },
	{ "rows", STREAM, JSON_NUMBER, "a number", read_rows },
	{ "cols", STREAM, JSON_NUMBER, "a number", read_cols },
	{ "merge_stderr", STREAM, JSON_BOOL, "true or false", read_merge },
};

static int read_member(struct reader *r, struct json *v, enum exec_form form)
{
	const struct member *m = members, *end = members + ARRAY_LEN(members);
	while (m < end && !(m->forms & 1U << form && slice_eq(v->name, slice_str(m->name))))
		m++;
	if (m == end)
		return refuse(r->err, r->errlen, "exec: unknown member \"%.*s\"",
			      (int)MIN(v->name.n, (size_t)64), v->name.p);
	if (v->type == JSON_NULL || !m->read)
		return 0; /* null: not set, as many programs write it */
	if (v->type != m->type)
		return refuse(r->err, r->errlen, "exec: %s must be %s", m->name, m->type_name);
	return m->read(r, v);
}

static int read_members(struct reader *r, enum exec_form form)
{
	struct json *root = json_root(r->doc);
	if (root->type != JSON_OBJECT)
		return refuse(r->err, r->errlen, "exec: the request must be a JSON object");
	for (struct json *v = json_first(root); v; v = json_next(v))
		if (read_member(r, v, form) < 0)
			return -EINVAL;
	if (!r->command || !*r->command)
		return refuse(r->err, r->errlen, "exec: command is missing");
	return 0;
}

int exec_request_parse(struct exec_request *to, struct slice json, enum exec_form form, char *err,
		       size_t errlen)
{
	struct json_error bad;
	struct reader r = { .to = to, .err = err, .errlen = errlen };
	*to = (struct exec_request){ .merge_stderr = form == EXEC_PLAIN };
	r.doc = json_parse(json, NULL, &bad);
	if (!r.doc)
		return refuse(err, errlen, "exec: bad JSON at byte %zu: %s", bad.at,
			      json_error_text(bad.code));
	to->argv = xcalloc(2, sizeof(char *));
	int failed = read_members(&r, form);
	to->argv[0] = r.command;
	if (failed && !r.command)
		strings_free(to->argv + 1);
	if (failed)
		exec_request_end(to);
	json_free(r.doc);
	return failed;
}

void exec_request_end(struct exec_request *r)
{
	if (r->argv && r->argv[0])
		strings_free(r->argv);
	strings_free(r->env);
	free(r->argv);
	free(r->env);
	free((void *)r->dir);
	*r = (struct exec_request){ 0 };
}

/* --- writing --- */

static int put_strings(struct json_writer *w, const char *name, char **list, char *err,
		       size_t errlen)
{
	int bad = 0;
	json_put_name(w, name);
	json_put_array(w);
	for (; list && *list; list++) {
		if (!utf8_valid(slice_str(*list)))
			bad = refuse(err, errlen, "\"%.64s\" is not valid UTF-8", *list);
		json_put_str(w, slice_str(*list));
	}
	json_put_end(w);
	return bad;
}

int exec_request_write(const struct exec_request *r, struct buf *b, char *err, size_t errlen)
{
	struct json_writer w;
	int bad = 0;
	for (char **e = r->env; e && *e; e++)
		if (!env_has_name(*e))
			return refuse(err, errlen, "environment entry \"%.64s\" must be NAME=value",
				      *e);
	if (!utf8_valid(slice_str(r->argv[0])) || (r->dir && !utf8_valid(slice_str(r->dir))))
		return refuse(err, errlen, "the command or directory is not valid UTF-8");
	json_writer_begin(&w, b);
	json_put_object(&w);
	json_put_name(&w, "kind");
	json_put_str(&w, SLICE("exec"));
	json_put_name(&w, "command");
	json_put_str(&w, slice_str(r->argv[0]));
	bad |= put_strings(&w, "args", r->argv + 1, err, errlen);
	bad |= put_strings(&w, "env", r->env, err, errlen);
	if (r->dir) {
		json_put_name(&w, "dir");
		json_put_str(&w, slice_str(r->dir));
	}
	json_put_name(&w, "tty");
	json_put_bool(&w, r->tty);
	json_put_name(&w, "rows");
	json_put_u64(&w, r->rows);
	json_put_name(&w, "cols");
	json_put_u64(&w, r->cols);
	json_put_name(&w, "merge_stderr");
	json_put_bool(&w, r->merge_stderr);
	json_put_end(&w);
	if (json_writer_end(&w) < 0)
		return refuse(err, errlen,
			      "the command line and environment are too long (%zu KiB at most)",
			      b->max / 1024);
	return bad ? -EINVAL : 0;
}

/* --- signals --- */

static const struct {
	int number;
	const char *name;
} signals[] = {
	{ SIGHUP, "HUP" },   { SIGINT, "INT" },   { SIGQUIT, "QUIT" },   { SIGABRT, "ABRT" },
	{ SIGKILL, "KILL" }, { SIGUSR1, "USR1" }, { SIGUSR2, "USR2" },   { SIGPIPE, "PIPE" },
	{ SIGALRM, "ALRM" }, { SIGTERM, "TERM" }, { SIGCONT, "CONT" },   { SIGSTOP, "STOP" },
	{ SIGTSTP, "TSTP" }, { SIGTTIN, "TTIN" }, { SIGTTOU, "TTOU" },   { SIGILL, "ILL" },
	{ SIGTRAP, "TRAP" }, { SIGBUS, "BUS" },   { SIGFPE, "FPE" },     { SIGSEGV, "SEGV" },
	{ SIGSYS, "SYS" },   { SIGXCPU, "XCPU" }, { SIGXFSZ, "XFSZ" },   { SIGVTALRM, "VTALRM" },
	{ SIGPROF, "PROF" }, { SIGIO, "IO" },     { SIGWINCH, "WINCH" }, { SIGURG, "URG" },
};

const char *exec_signal_name(int signo)
{
	for (size_t i = 0; i < ARRAY_LEN(signals); i++)
		if (signals[i].number == signo)
			return signals[i].name;
	return NULL;
}

int exec_signal_number(struct slice name)
{
	for (size_t i = 0; i < ARRAY_LEN(signals); i++)
		if (slice_eq(name, slice_str(signals[i].name)))
			return signals[i].number;
	return 0;
}
