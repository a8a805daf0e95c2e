/*
 * Command lines as rows: one table gives the parser, the usage text and the errors.
 * Accepts --name VALUE, --name=VALUE, -x VALUE, -xVALUE, -x=VALUE, bundled flags (-it), Go's single
 * dash (-name VALUE) where the table has the long name, and -- to end options.
 */
#ifndef REACTOR_OPT_H
#define REACTOR_OPT_H

#include "reactor/base.h"

enum opt_kind {
	OPT_END = 0,
	OPT_FLAG,     /* bool; also --name=true|false */
	OPT_STRING,   /* const char *, points into argv */
	OPT_LIST,     /* struct opt_list, each use appends */
	OPT_INT,      /* int, between min and max */
	OPT_DURATION, /* uint64_t milliseconds: "10s", "500ms", "2m", "1h", a bare number is seconds
		       */
	OPT_HEADING   /* only a line in the usage text (help) */
};

struct opt_list {
	const char **v; /* each points into argv; the array belongs to the list */
	size_t n;
};

struct opt {
	enum opt_kind kind;
	const char *name; /* without dashes */
	char letter;      /* 0: none */
	void *to;
	const char *arg;  /* "HOST:PORT" in the usage text */
	const char *help; /* may end in " (default X)" */
	int min, max;     /* OPT_INT */
	bool hidden;
};

/* A program or subcommand. */
struct opt_command {
	const char *name;    /* "tsctl start" */
	const char *args;    /* "[OPTIONS] -- COMMAND [ARG...]" */
	const char *summary; /* one sentence */
	const struct opt *opts;
	const char *more;     /* examples and the like, printed last; NULL */
	bool stop_at_operand; /* the first non-option ends the options (host-exec) */
};

/* Parses argv[1..argc). Returns the index of the first operand (operands are moved behind the
 * options), or a negative code after printing "NAME: what is wrong" and a hint to --help on stderr
 * (exit with 2), or 0 after printing the usage for --help/-h on stdout (exit with 0). */
int opt_parse(const struct opt_command *, int argc, char **argv);
/* Prints the usage text. */
void opt_usage(const struct opt_command *, FILE *);
/* "10s", "1500ms", "2m", "1h", "7" (seconds) to ms: 0 or -EINVAL. */
int opt_duration(const char *text, uint64_t *ms);
void opt_list_free(struct opt_list *);

#endif
