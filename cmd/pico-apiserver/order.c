#include "cmd/pico-apiserver/order.h"

#include <errno.h>

enum {
	COMMAND_MAX = 96 * 1024, /* one argument (MAX_ARG_STRLEN), and a packet to init */
	TIMEOUT_DEFAULT_MS = 60 * 1000,
	TIMEOUT_MAX_S = 28800
};

void order_end(struct order *o)
{
	for (size_t i = 0; i < ARRAY_LEN(o->argv); i++)
		free(o->argv[i]);
	for (size_t i = 0; i < o->nenv; i++)
		free(o->envp[i]);
	free(o->dir);
	json_free(o->doc);
}

static bool env_name_ok(struct slice n)
{
	for (size_t i = 0; i < n.n; i++)
		if (!((n.p[i] >= 'a' && n.p[i] <= 'z') || (n.p[i] >= 'A' && n.p[i] <= 'Z') ||
		      n.p[i] == '_' || (i && n.p[i] >= '0' && n.p[i] <= '9')))
			return false;
	return n.n > 0 && n.n <= 128;
}

static const char *take_env(struct order *o, struct json *env)
{
	if (env && env->type != JSON_NULL && env->type != JSON_OBJECT)
		return "env must be an object of strings";
	for (struct json *v = json_first(env); v; v = json_next(v)) {
		struct slice text;
		if (o->nenv == ORDER_ENV_MAX)
			return "env has over 256 variables";
		if (!env_name_ok(v->name) || json_str(o->doc, v, &text) < 0 ||
		    (text.n && memchr(text.p, '\0', text.n)))
			return "env must be an object of strings, its names letters, digits and _";
		o->envp[o->nenv++] = xasprintf("%.*s=%.*s", SLICE_FMT(v->name), SLICE_FMT(text));
	}
	return NULL;
}

static const char *take_rest(struct order *o, struct json *root)
{
	struct slice dir = SLICE("");
	struct json *timeout = json_member(root, SLICE("timeout"));
	struct json *cwd = json_member(root, SLICE("cwd"));
	struct json *input = json_member(root, SLICE("stdin"));
	struct json *stream = json_member(root, SLICE("stream"));
	if (timeout && timeout->type != JSON_NULL) {
		double s = timeout->type == JSON_NUMBER ? strtod(timeout->raw.p, NULL) : -1;
		if (!(s > 0 && s <= TIMEOUT_MAX_S))
			return "timeout must be a number of seconds, over 0 and up to 28800";
		o->timeout_ms = MAX((uint64_t)(s * 1000), 1);
	}
	if (json_str(o->doc, cwd, &dir) == -EINVAL || (dir.n && memchr(dir.p, '\0', dir.n)))
		return "cwd must be a path";
	if (json_str(o->doc, input, &o->input) == -EINVAL)
		return "stdin must be a string";
	if (json_bool(stream, &o->streaming) == -EINVAL)
		return "stream must be true or false";
	o->dir = dir.n ? xslicedup(dir) : NULL;
	return take_env(o, json_member(root, SLICE("env")));
}

static const char *take_text(struct order *o, struct json *root, const char *name, char **out)
{
	struct slice text;
	if (json_str(o->doc, json_member(root, slice_str(name)), &text) < 0 || text.n == 0 ||
	    memchr(text.p, '\0', text.n))
		return "command (or code) must be a text that is not empty";
	if (text.n > COMMAND_MAX)
		return "command (or code) is over 96 KiB: upload it as a file";
	*out = xslicedup(text);
	return NULL;
}

static const char *take_command(struct order *o, struct json *root)
{
	o->argv[0] = xstrdup("/bin/bash");
	o->argv[1] = xstrdup("-c");
	return take_text(o, root, "command", &o->argv[2]);
}

static const char *take_code(struct order *o, struct json *root)
{
	static const struct {
		const char *language, *program, *flag;
	} all[] = { { "python", "python3", "-c" },
		    { "javascript", "node", "-e" },
		    { "bash", "bash", "-c" } };
	struct slice language = SLICE("python");
	if (json_str(o->doc, json_member(root, SLICE("language")), &language) == -EINVAL)
		return "language must be python, javascript or bash";
	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		if (!slice_eq(language, slice_str(all[i].language)))
			continue;
		o->argv[0] = xstrdup(all[i].program);
		o->argv[1] = xstrdup(all[i].flag);
		return take_text(o, root, "code", &o->argv[2]);
	}
	return "language must be python, javascript or bash";
}

const char *order_parse(struct order *o, struct slice body, bool code)
{
	*o = (struct order){ .timeout_ms = TIMEOUT_DEFAULT_MS, .input = SLICE("") };
	o->doc = json_parse(body, NULL, NULL);
	struct json *root = o->doc ? json_root(o->doc) : NULL;
	if (!root || root->type != JSON_OBJECT)
		return "the body must be a JSON object";
	const char *why = code ? take_code(o, root) : take_command(o, root);
	return why ? why : take_rest(o, root);
}
