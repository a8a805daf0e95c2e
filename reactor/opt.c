#include "reactor/opt.h"

#include <errno.h>

enum { USAGE_WIDTH = 80, LEFT_MAX = 34 };

/* The walk through argv: what is the next value, and what did the user call the option. */
struct args {
	const struct opt_command *cmd;
	char **argv;
	int argc, i;
};

static int fail(const struct opt_command *cmd, const char *fmt, ...) PRINTF_LIKE(2, 3);

static int fail(const struct opt_command *cmd, const char *fmt, ...)
{
	va_list ap;
	fprintf(stderr, "%s: ", cmd->name);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\nSee '%s --help'.\n", cmd->name);
	return -EINVAL;
}

static const struct opt *find_name(const struct opt_command *cmd, struct slice name)
{
	for (const struct opt *o = cmd->opts; o && o->kind != OPT_END; o++)
		if (o->kind != OPT_HEADING && o->name && slice_eq(name, slice_str(o->name)))
			return o;
	return NULL;
}

static const struct opt *find_letter(const struct opt_command *cmd, char letter)
{
	for (const struct opt *o = cmd->opts; o && o->kind != OPT_END; o++)
		if (o->kind != OPT_HEADING && o->letter == letter)
			return o;
	return NULL;
}

int opt_duration(const char *text, uint64_t *ms)
{
	static const struct {
		struct slice unit;
		uint64_t ms;
	} units[] = { { SLICE("ms"), 1 },
		      { SLICE("s"), 1000 },
		      { SLICE("m"), 60 * 1000 },
		      { SLICE("h"), 60 * 60 * 1000 } };
	struct slice s = slice_str(text);
	uint64_t each = 1000, count;

	for (size_t i = 0; i < ARRAY_LEN(units); i++)
		if (slice_ends(s, units[i].unit)) {
			each = units[i].ms;
			s.n -= units[i].unit.n;
			break;
		}
	if (slice_u64(s, UINT64_MAX / each, &count))
		return -EINVAL;
	*ms = count * each;
	return 0;
}

static int int_parse(const char *text, int min, int max, int *out)
{
	struct slice s = slice_str(text);
	bool negative = s.n > 0 && s.p[0] == '-';
	uint64_t digits;

	if (slice_u64(negative ? slice_after(s, 1) : s, INT32_MAX, &digits))
		return -EINVAL;
	int64_t v = negative ? -(int64_t)digits : (int64_t)digits;
	if (v < min || v > max)
		return -EINVAL;
	*out = (int)v;
	return 0;
}

static int refuse_value(const struct opt_command *cmd, const struct opt *o, const char *value,
			const char *must)
{
	char letter[] = { '-', o->letter, ',', ' ', '\0' };
	return fail(cmd, "invalid argument \"%s\" for \"%s%s%s\" flag: must be %s", value,
		    o->letter ? letter : "", o->name ? "--" : "", o->name ? o->name : "", must);
}

/* value is NULL for a flag that was given without one. */
static int apply(const struct opt_command *cmd, const struct opt *o, const char *value)
{
	char range[32];

	switch (o->kind) {
	case OPT_FLAG:
		if (value && strcmp(value, "true") != 0 && strcmp(value, "false") != 0)
			return refuse_value(cmd, o, value, "true or false");
		*(bool *)o->to = !value || strcmp(value, "true") == 0;
		return 0;
	case OPT_STRING:
		*(const char **)o->to = value;
		return 0;
	case OPT_LIST: {
		struct opt_list *l = o->to;
		l->v = xrealloc(l->v, (l->n + 1) * sizeof(*l->v));
		l->v[l->n++] = value;
		return 0;
	}
	case OPT_INT:
		if (int_parse(value, o->min, o->max, o->to) == 0)
			return 0;
		snprintf(range, sizeof(range), "%d..%d", o->min, o->max);
		return refuse_value(cmd, o, value, range);
	case OPT_DURATION:
		if (opt_duration(value, o->to) == 0)
			return 0;
		return refuse_value(cmd, o, value, "a duration like 10s, 500ms, 2m or 1h");
	case OPT_END:
	case OPT_HEADING:
		break;
	}
	BUG_ON(true);
}

/* "--name", "--name=value" or Go's "-name"; text is past the dashes. 1 = help was asked for. */
static int take_long(struct args *a, const char *text)
{
	const char *given = a->argv[a->i], *equals = strchr(text, '=');
	struct slice name = slice_of(text, equals ? (size_t)(equals - text) : strlen(text));
	const struct opt *o = find_name(a->cmd, name);
	const char *value = equals ? equals + 1 : NULL;

	if (!o && slice_eq(name, SLICE("help")))
		return 1;
	if (!o)
		return fail(a->cmd, "unknown flag: %.*s", (int)(text - given + (int)name.n), given);
	if (!value && o->kind != OPT_FLAG) {
		if (a->i + 1 >= a->argc)
			return fail(a->cmd, "flag needs an argument: %s", given);
		value = a->argv[++a->i];
	}
	return apply(a->cmd, o, value);
}

/* "-x", "-xVALUE", "-x=VALUE", "-xyz"; 1 = help was asked for. */
static int take_letters(struct args *a)
{
	const char *given = a->argv[a->i];

	for (const char *c = given + 1; *c; c++) {
		const struct opt *o = find_letter(a->cmd, *c);
		int r;
		if (!o && *c == 'h')
			return 1;
		if (!o)
			return fail(a->cmd, "unknown shorthand flag: '%c' in %s", *c, given);
		if (o->kind != OPT_FLAG || c[1] == '=') {
			const char *value = c[1] == '=' ? c + 2 : c + 1;
			if (c[1] == '\0') {
				if (a->i + 1 >= a->argc)
					return fail(a->cmd, "flag needs an argument: '%c' in %s",
						    *c, given);
				value = a->argv[++a->i];
			}
			return apply(a->cmd, o, value);
		}
		r = apply(a->cmd, o, NULL);
		if (r)
			return r;
	}
	return 0;
}

static int take(struct args *a)
{
	const char *given = a->argv[a->i];
	if (given[1] == '-')
		return take_long(a, given + 2);
	struct slice name, rest;
	slice_cut(slice_str(given + 1), '=', &name, &rest);
	if (name.n > 1 && (find_name(a->cmd, name) || slice_eq(name, SLICE("help"))))
		return take_long(a, given + 1);
	return take_letters(a);
}

int opt_parse(const struct opt_command *cmd, int argc, char **argv)
{
	struct args a = { .cmd = cmd, .argv = argv, .argc = argc };
	/* Options from the front, operands from the back of a second argv; then copied over. */
	char **sorted = xcalloc((size_t)argc + 1, sizeof(*sorted));
	char **operands = xcalloc((size_t)argc + 1, sizeof(*operands));
	int front = 1, behind = 0, r = 0;

	for (a.i = 1; a.i < argc && r == 0; a.i++) {
		int first = a.i;
		bool ends = strcmp(argv[first], "--") == 0;
		bool operand = !ends && (argv[first][0] != '-' || argv[first][1] == '\0');
		if (operand && !cmd->stop_at_operand) {
			operands[behind++] = argv[first];
			continue;
		}
		if (!ends && !operand)
			r = take(&a);
		if (!operand)
			for (int j = first; r == 0 && j <= a.i; j++)
				sorted[front++] = argv[j];
		if (ends || operand) {
			for (int j = operand ? first : first + 1; j < argc; j++)
				operands[behind++] = argv[j];
			break;
		}
	}
	if (r == 0 && argc > 1) {
		memcpy(argv + 1, sorted + 1, (size_t)(front - 1) * sizeof(*argv));
		memcpy(argv + front, operands, (size_t)behind * sizeof(*argv));
	}
	free(sorted);
	free(operands);
	if (r == 1) {
		opt_usage(cmd, stdout);
		return 0;
	}
	return r ? r : front;
}

void opt_list_free(struct opt_list *l)
{
	free(l->v);
	*l = (struct opt_list){ 0 };
}

static char *left_text(const struct opt *o)
{
	char letter[] = { '-', o->letter, '\0' };
	return xasprintf("%s%s%s%s%s%s", o->letter ? letter : "  ",
			 !o->name    ? ""
			 : o->letter ? ", "
				     : "  ",
			 o->name ? "--" : "", o->name ? o->name : "", o->arg ? " " : "",
			 o->arg ? o->arg : "");
}

/* Prints text in words from column at on, each line up to USAGE_WIDTH. */
static void print_wrapped(FILE *f, struct slice text, int indent)
{
	int column = indent;
	while (text.n) {
		struct slice word;
		slice_cut(text, ' ', &word, &text);
		if (column > indent && column + 1 + (int)word.n > USAGE_WIDTH) {
			fprintf(f, "\n%*s", indent, "");
			column = indent;
		} else if (column > indent) {
			fputc(' ', f);
			column++;
		}
		fprintf(f, "%.*s", SLICE_FMT(word));
		column += (int)word.n;
	}
	fputc('\n', f);
}

static void print_row(FILE *f, const struct opt *o, int left)
{
	char *text = left_text(o);
	if ((int)strlen(text) > left)
		fprintf(f, "  %s\n%*s", text, left + 4, "");
	else
		fprintf(f, "  %-*s  ", left, text);
	print_wrapped(f, slice_str(o->help ? o->help : ""), left + 4);
	free(text);
}

void opt_usage(const struct opt_command *cmd, FILE *f)
{
	static const struct opt help = {
		.kind = OPT_FLAG, .name = "help", .letter = 'h', .help = "Print this text"
	};
	int left = (int)strlen("-h, --help");

	for (const struct opt *o = cmd->opts; o && o->kind != OPT_END; o++) {
		char *text = o->kind == OPT_HEADING || o->hidden ? xstrdup("") : left_text(o);
		if (strlen(text) <= LEFT_MAX)
			left = MAX(left, (int)strlen(text));
		free(text);
	}
	fprintf(f, "Usage: %s%s%s\n", cmd->name, cmd->args ? " " : "", cmd->args ? cmd->args : "");
	if (cmd->summary) {
		fputc('\n', f);
		print_wrapped(f, slice_str(cmd->summary), 0);
	}
	if (!cmd->opts || cmd->opts->kind != OPT_HEADING)
		fputs("\nOptions:\n", f);
	for (const struct opt *o = cmd->opts; o && o->kind != OPT_END; o++) {
		if (o->kind == OPT_HEADING)
			fprintf(f, "\n%s\n", o->help);
		else if (!o->hidden)
			print_row(f, o, left);
	}
	if (!find_name(cmd, SLICE("help"))) {
		struct opt own = help;
		own.letter = find_letter(cmd, 'h') ? 0 : 'h';
		print_row(f, &own, left);
	}
	if (cmd->more)
		fprintf(f, "\n%s%s", cmd->more,
			slice_ends(slice_str(cmd->more), SLICE("\n")) ? "" : "\n");
}
