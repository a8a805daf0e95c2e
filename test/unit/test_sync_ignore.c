#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "proto/sync/ignore.h"

extern char **environ;

static struct ignore *make(struct slice text)
{
	char why[200];
	struct ignore *ig = ignore_new(text, why, sizeof(why));
	assert_non_null(ig);
	return ig;
}

static bool matches(const char *text, const char *path)
{
	struct ignore *ig = make(slice_str(text));
	struct slice p = slice_str(path);
	bool dir = slice_ends(p, SLICE("/"));
	p.n -= dir;
	bool yes = ignore_match(ig, p, dir);
	ignore_free(ig);
	return yes;
}

/* What gitignore(5) says, sentence by sentence. A path that ends in '/' is a directory. */
static void test_manual(void **state)
{
	static const struct {
		const char *text, *path;
		bool ignored;
	} rows[] = {
		{ "", "a", false },
		{ "\n\n  \n", "a", false },
		{ "a", "a", true },
		{ "a", "b/c/a", true },
		{ "a", "ab", false },
		{ "#a", "#a", false },
		{ "\\#a", "#a", true },
		{ "a  ", "a", true },
		{ "a\\  ", "a ", true },
		{ "a\\ \\ ", "a  ", true },
		{ "a \\", "a \\", false },
		{ "a\r\nb", "a", true },
		{ "\xef\xbb\xbf"
		  "a",
		  "a", true },
		{ "*\n!a", "a", false },
		{ "*\n!a", "b", true },
		{ "!a\n*", "a", true },
		{ "\\!a", "!a", true },
		{ "a/", "a", false },
		{ "a/", "a/", true },
		{ "a/", "b/a/", true },
		{ "/a", "a", true },
		{ "/a", "b/a", false },
		{ "a/b", "a/b", true },
		{ "a/b", "c/a/b", false },
		{ "a/b/", "a/b/", true },
		{ "a/b/", "a/b", false },
		{ "*.o", "x/y.o", true },
		{ "*.o", ".o", true },
		{ "*.o", "y.oo", false },
		{ "a/*", "a/b", true },
		{ "a/*", "a/b/c", false },
		{ "a*c", "abbc", true },
		{ "a*c", "ab/c", false },
		{ "?", "a", true },
		{ "?", "ab", false },
		{ "a?b", "a/b", false },
		{ "[a-c]", "b", true },
		{ "[a-c]", "d", false },
		{ "[!a-c]", "d", true },
		{ "[^a-c]", "b", false },
		{ "[]-]", "]", true },
		{ "[]-]", "-", true },
		{ "[[:digit:]x]", "7", true },
		{ "[[:digit:]x]", "x", true },
		{ "[[:digit:]x]", "y", false },
		{ "[[:nothing:]]", "n", false },
		{ "[a", "[a", false },
		{ "a\\", "a\\", false },
		{ "[\\]]", "]", true },
		{ "a[/]b", "a/b", false },
		{ "/x[!a]y", "x/y", false },
		{ "**/foo", "foo", true },
		{ "**/foo", "a/b/foo", true },
		{ "**/foo/bar", "a/foo/bar", true },
		{ "**/foo/bar", "a/foo/b/bar", false },
		{ "abc/**", "abc/x/y", true },
		{ "abc/**", "abc/", false },
		{ "a/**/b", "a/b", true },
		{ "a/**/b", "a/x/b", true },
		{ "a/**/b", "a/x/y/b", true },
		{ "a/**/b", "a/xb", false },
		{ "a/**/**/b", "a/b", true },
		{ "/**", "a", true },
		{ "**", "a/b", true },
		{ "/", "a/", false },
		{ "//a", "a", false },
		{ "!", "!", false },
		{ "/*\n!/a\n/a/*\n!/a/b", "a/", false },
		{ "/*\n!/a\n/a/*\n!/a/b", "a/c", true },
		{ "/*\n!/a\n/a/*\n!/a/b", "a/b", false },
		{ "\xc3\xa4*", "\xc3\xa4x", true },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		if (matches(rows[i].text, rows[i].path) != rows[i].ignored)
			fail_msg("'%s' and %s: not %s", rows[i].text, rows[i].path,
				 rows[i].ignored ? "ignored" : "left");
	}
	assert_true(matches(IGNORE_VCS, "x/.git/"));
	assert_false(matches(IGNORE_VCS, "x/.git"));
	assert_true(matches(IGNORE_VCS, "CVS/"));
	assert_false(matches(IGNORE_VCS, ".gitignore"));
}

static void test_limits(void **state)
{
	char why[200] = "";
	size_t n = 2 << 20;
	char *text = xmalloc(n);

	(void)state;
	memset(text, 'a', n);
	assert_null(ignore_new(slice_of(text, n), why, sizeof(why)));
	assert_non_null(strstr(why, "limit"));
	for (size_t i = 0; i < n; i += 2)
		text[i] = '\n';
	struct ignore *ig = make(slice_of(text, 20000));
	ignore_free(ig);
	assert_null(ignore_new(slice_of(text, 20002), why, sizeof(why)));
	assert_non_null(strstr(why, "line 10002"));
	free(text);
}

static double seconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* What makes a matcher that tries one way after the other run for ages. */
static void test_cost(void **state)
{
	char text[4096], path[4096];
	double t = seconds();

	(void)state;
	memset(path, 'a', sizeof(path) - 1);
	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = i % 2 ? '*' : 'a';
	memcpy(text + sizeof(text) - 4, "[b]", 4);
	path[sizeof(path) - 1] = 'c';
	struct ignore *ig = make(slice_of(text, sizeof(text) - 1));
	assert_false(ignore_match(ig, slice_of(path, sizeof(path)), false));
	ignore_free(ig);
	for (size_t i = 0; i + 4 <= sizeof(text); i += 4)
		memcpy(text + i, "**/a", 4);
	memcpy(text + 4090, "/*?[x]", 6);
	for (size_t i = 1; i < sizeof(path); i += 2)
		path[i] = '/';
	ig = make(slice_of(text, sizeof(text)));
	assert_false(ignore_match(ig, slice_of(path, sizeof(path) - 1), false));
	ignore_free(ig);
	t = seconds() - t;
	print_message("worst cases: %.0f ms\n", 1e3 * t);
	assert_true(t < 30); /* the other way it would not end today */

	/* and what is usual: 40 patterns of the common kinds */
	char usual[1000] = IGNORE_VCS "/build/**\ndoc/*.html\n**/tmp/*.log\n[Dd]ebug/\n";
	for (int i = 0; i < 30; i++)
		sprintf(usual + strlen(usual), i % 2 ? "*.ext%d\n" : "name%d\n", i);
	ig = make(slice_str(usual));
	t = seconds();
	int yes = 0;
	for (int i = 0; i < 100000; i++) {
		int n = sprintf(path, "src/some/where/file%d.c", i);
		yes += ignore_match(ig, slice_of(path, (size_t)n), false);
	}
	t = seconds() - t;
	print_message("40 patterns: %.0f ns a path (%d)\n", 1e4 * t, yes);
	ignore_free(ig);
}

/* --- the same questions to git --- */

enum { PATHS_MAX = 4000 };
static struct {
	char name[100];
	bool dir;
} paths[PATHS_MAX];
static size_t npaths;
static char top[] = "/tmp/test_sync_ignore.XXXXXX";

static void run(const char *command)
{
	char *argv[] = { "sh", "-c", (char *)(uintptr_t)command, NULL };
	pid_t pid;
	int status;

	assert_int_equal(posix_spawn(&pid, "/bin/sh", NULL, NULL, argv, environ), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) <= 1);
}

static void add_path(const char *name, bool dir)
{
	char full[200];

	snprintf(paths[npaths].name, sizeof(paths[0].name), "%s", name);
	paths[npaths++].dir = dir;
	assert_true(npaths < PATHS_MAX);
	snprintf(full, sizeof(full), "%s/w/%s", top, name);
	if (dir)
		assert_int_equal(mkdir(full, 0755), 0);
	else
		assert_int_equal(mknod(full, 0644 | S_IFREG, 0), 0);
}

static void make_tree(const char *parent, int depth)
{
	static const char *const names[] = { "a",   "b",    "ab",  "aab", "b.c", "]",
					     "a b", "\\#a", "!-a", "-",   "a*b", "[a]" };
	char name[100];

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		if (depth > 0 && rand() % 3 == 0)
			continue;
		snprintf(name, sizeof(name), "%s%s%s", parent, *parent ? "/" : "", names[i]);
		bool dir = depth < 3 && rand() % 2;
		add_path(name, dir);
		if (dir)
			make_tree(name, depth + 1);
	}
}

static bool ignored(const struct ignore *ig, size_t i)
{
	struct slice whole = slice_str(paths[i].name);

	for (size_t n = 1; n < whole.n; n++) {
		if (whole.p[n] == '/' && ignore_match(ig, slice_of(whole.p, n), true))
			return true;
	}
	return ignore_match(ig, whole, paths[i].dir);
}

static void random_patterns(char *out, size_t size)
{
	static const char *const pieces[] = {
		"a",  "a",   "b", "b",     "/",     "/",    "/", "*",   "*",          "**",
		"**", "**/", "?", "[ab]",  "[!a]",  "[a-",  "]", "b.c", "\\",         "#",
		"!",  " ",   "-", "/**/",  "aab",   "[]",   "[", "***", "[[:alpha:]", "\r",
		"*b", "a*",  "!", "[]-a]", "[\\]]", "\\ ",  "^", "]",   "[[:x:]]",    "[^-]",
		"\n", "a/b", "/", "*/",    "[a/b]", "[+-.]"
	};
	size_t n = 0;

	for (int line = 1 + rand() % 6; line > 0; line--) {
		if (rand() % 4 == 0)
			out[n++] = '!';
		for (int k = 1 + rand() % 5; k > 0; k--) {
			const char *p = pieces[(size_t)rand() % ARRAY_LEN(pieces)];
			n += (size_t)snprintf(out + n, size - n, "%s", p);
		}
		out[n++] = '\n';
	}
	out[n] = 0;
}

static char *slurp(const char *name, size_t *size)
{
	struct stat st;
	int fd = open(name, O_RDONLY);

	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	*size = (size_t)st.st_size;
	char *text = xmalloc(*size + 1);
	assert_int_equal(read(fd, text, *size), *size);
	close(fd);
	text[*size] = 0;
	return text;
}

static void put_file(const char *name, struct slice text)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text.p, text.n), text.n);
	close(fd);
}

static void ask_git(const char *text)
{
	char name[100], command[400];
	size_t size;

	snprintf(name, sizeof(name), "%s/exclude", top);
	put_file(name, slice_str(text));
	snprintf(
	    command, sizeof(command),
	    "cd %s/w && GIT_CONFIG_NOSYSTEM=1 HOME=%s exec git -c core.excludesFile=%s/exclude "
	    "check-ignore --no-index -z --stdin <%s/paths >%s/answer",
	    top, top, top, top, top);
	run(command);
	snprintf(name, sizeof(name), "%s/answer", top);
	char *answer = slurp(name, &size), *p = answer;
	struct ignore *ig = make(slice_str(text));
	for (size_t i = 0; i < npaths; i++) {
		bool git = p < answer + size && strcmp(p, paths[i].name) == 0;
		if (git)
			p += strlen(p) + 1;
		if (git != ignored(ig, i))
			fail_msg("git %s '%s'%s with patterns:\n%s",
				 git ? "ignores" : "does not ignore", paths[i].name,
				 paths[i].dir ? " (a directory)" : "", text);
	}
	assert_ptr_equal(p, answer + size);
	free(answer);
	ignore_free(ig);
}

static void test_git(void **state)
{
	char text[1000], name[100];
	const char *tests = getenv("IGNORE_ROUNDS");

	(void)state;
	if (system("git --version >/dev/null 2>&1") != 0) // NOLINT(cert-env33-c)
		skip();
	assert_non_null(mkdtemp(top));
	snprintf(text, sizeof(text), "git init -q %s/w", top);
	run(text);
	make_tree("", 0);
	snprintf(name, sizeof(name), "%s/paths", top);
	FILE *f = fopen(name, "w");
	for (size_t i = 0; i < npaths; i++)
		fwrite(paths[i].name, 1, strlen(paths[i].name) + 1, f);
	fclose(f);
	for (int i = tests ? atoi(tests) : 100; i > 0; i--) {
		random_patterns(text, sizeof(text));
		ask_git(text);
	}
	snprintf(text, sizeof(text), "rm -rf %s", top);
	run(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_manual),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_cost),
		cmocka_unit_test(test_git),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
