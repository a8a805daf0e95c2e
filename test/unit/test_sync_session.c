/*
 * A brain and a far end, joined by a socketpair in one reactor, on directories under /tmp.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/sync/serve.h"
#include "proto/sync/session_int.h"
#include "proto/sync/side.h"
#include "reactor/buf.h"
#include "sync_files.h"

enum { WAIT_S = 60 };

static struct reactor *rx;
static struct session *session;
static struct serve *serve;
static char *dir;
static int control = -1, number;
static char said[1 << 20], status[1 << 20];
static int ended_codes[2];
static char ended_why[2][512];
static unsigned ended;

static void on_ended(void *arg, int code, const char *why)
{
	int i = arg != NULL;
	ended_codes[i] = code;
	snprintf(ended_why[i], sizeof(ended_why[i]), "%s", why);
	ended |= 1u << i;
}

static void say(const char *fmt, ...) PRINTF_LIKE(1, 2);
static void say(const char *fmt, ...)
{
	char text[4096];
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	text[n++] = '\n';
	assert_int_equal(write(control, text, (size_t)n), n);
}

static void pair_start(const char *more)
{
	int a[2], c[2];
	assert_int_equal(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, a));
	assert_int_equal(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, c));
	said[0] = status[0] = '\0';
	ended = 0;
	struct stream *far = fd_stream_new(rx, a[1]), *near = fd_stream_new(rx, a[0]);
	serve = serve_new(rx, far, far, at(dir, "beta"), at(dir, "store-b"), on_ended, &serve);
	session = session_new(rx, near, near, fd_stream_new(rx, c[1]), on_ended, NULL);
	control = c[0];
	say("{\"root\":\"%s/alpha\",\"store\":\"%s/store-a\",\"halt\":true,"
	    "\"far\":{\"make\":true},%s}",
	    dir, dir, more);
}

static void pair_end(void)
{
	session_free(session);
	serve_free(serve);
	session = NULL;
	serve = NULL;
	if (control != -1)
		close(control);
	control = -1;
}

static bool tick_over;
static void tick(struct timer *t)
{
	(void)t;
	tick_over = true;
}

/* A few milliseconds of the reactor, then what the brain has said meanwhile. */
static void some(void)
{
	static struct timer timer;
	timer_init(&timer, tick);
	timer_set(rx, &timer, 2);
	tick_over = false;
	reactor_run_until(rx, &tick_over);
	timer_clear(rx, &timer);
	size_t n = strlen(said);
	ssize_t got = read(control, said + n, sizeof(said) - n - 1);
	if (got > 0)
		said[n + (size_t)got] = '\0';
	for (char *l = said, *e; (e = strchr(l, '\n')); l = e + 1) {
		if (strncmp(l, "{\"status\"", 9) == 0)
			snprintf(status, sizeof(status), "%.*s", (int)(e - l), l);
	}
}

static void wait_for_text(char *in, const char *text)
{
	double end = seconds() + WAIT_S;
	while (!strstr(in, text)) {
		if (seconds() > end || ended)
			fail_msg("no %s in %s; ended %x: %s / %s", text, in, ended, ended_why[0],
				 ended_why[1]);
		some();
	}
}

static void fence_says(const char *expected)
{
	char text[64];
	said[0] = '\0';
	say("{\"fence\":%d}", ++number);
	snprintf(text, sizeof(text), "{\"fenced\":%d%s", number, expected);
	wait_for_text(said, text);
}

/* What the parent knows when it hears of a fence is of then, and not of up to 100 ms before. */
static void fence(void)
{
	char before[40], text[64];
	snprintf(before, sizeof(before), "%.32s", status);
	fence_says("}");
	snprintf(text, sizeof(text), "{\"fenced\":%d}", number);
	for (char *l = said, *end = strstr(said, text); l < end; l = strchr(l, '\n') + 1)
		if (strncmp(l, "{\"status\"", 9) == 0)
			snprintf(before, sizeof(before), "%.32s", l);
	assert_non_null(strstr(before, "{\"state\":\"watching\""));
}

static void wait_for_state(const char *state)
{
	char text[64];
	snprintf(text, sizeof(text), "{\"state\":\"%s\"", state);
	wait_for_text(status, text);
}

static void both_alike(void)
{
	shell(dir, "diff -r --no-dereference alpha beta");
	shell(dir, "cd alpha && find . -printf '%p %y %m %l\\n' | sort >../a.list;"
		   "cd ../beta && find . -printf '%p %y %m %l\\n' | sort >../b.list;"
		   "cd .. && diff a.list b.list");
}

static int setup(void **state)
{
	(void)state;
	rx = reactor_new();
	dir = files_new("sync-session");
	mkdir(at(dir, "alpha"), 0755);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	pair_end();
	reactor_free(rx);
	block_trim();
	files_free(dir);
	return 0;
}

#define SAFE "\"mode\":\"two-way-safe\""

static void test_initial_and_both_ways(void **state)
{
	(void)state;
	shell(dir, "cd alpha; mkdir -p a/b/c empty; echo hello >a/b/c/f; ln -s ../x a/l; : >zero;"
		   "chmod 700 empty; chmod 755 zero; head -c 400000 /dev/urandom >middle;"
		   "head -c 3000000 /dev/urandom >large; truncate -s 9000000 sparse;"
		   "printf x >>sparse; touch -d 2001-02-03T04:05:06.789 a/b/c/f");
	pair_start(SAFE);
	fence();
	both_alike();
	struct stat st;
	assert_int_equal(0, stat(at(dir, "beta/sparse"), &st));
	assert_true(st.st_blocks < 1000);
	assert_int_equal(0, stat(at(dir, "beta/a/b/c/f"), &st));
	assert_int_equal(st.st_mtim.tv_nsec, 789000000);
	shell(dir, "cd beta; echo more >>a/b/c/f; mkdir new; head -c 2000000 /dev/urandom >new/big;"
		   "rm zero; chmod 600 middle");
	shell(dir, "cd alpha; echo mine >mine; mv large a/large2; rmdir empty");
	fence();
	both_alike();
	shell(dir, "test -f alpha/mine && test -f beta/mine && test ! -e alpha/zero && "
		   "test ! -e beta/empty && test -s alpha/new/big");
	wait_for_state("watching");
}

/* Nothing is at beta: what alpha's scan finds goes there while it goes on. */
static void test_fresh(void **state)
{
	(void)state;
	shell(dir, "cd alpha; echo '*.o' >.tsignore; touch x.o; mkdir $(seq -f d%02g 40);"
		   "for d in d*; do (cd $d; seq 200 | xargs touch); done");
	pair_start(SAFE);
	double end = seconds() + WAIT_S;
	while (session->done.files == 0 && seconds() < end)
		some();
	assert_false(session->scanned);
	/* Beta does not stay empty. Of some of these alpha does not know yet. */
	shell(dir, "cd beta; echo theirs >theirs; mkdir -p $(seq -f d%02g 40);"
		   "for d in d*; do echo B >$d/b; done");
	fence();
	shell(dir, "test ! -e beta/x.o && rm alpha/x.o");
	both_alike();
	shell(dir, "test $(find alpha -name b | wc -l) = 40");
	wait_for_text(status, "\"conflicts_total\":0");
	assert_false(session->fresh);
}

static void test_conflict_and_resolve(void **state)
{
	(void)state;
	shell(dir, "cd alpha; for i in 1 2 3; do echo base >f$i; done");
	pair_start(SAFE);
	fence();
	say("{\"pause\":true}");
	wait_for_state("paused");
	fence_says(",\"error\":\"the sync is paused\"");
	shell(dir, "for i in 1 2 3; do echo A >alpha/f$i; echo BB >beta/f$i; done; rm alpha/f3");
	say("{\"proceed\":true}");
	fence();
	wait_for_text(status, "\"conflicts_total\":2");
	shell(dir, "grep -q A alpha/f1 && grep -q BB beta/f1 && grep -q BB alpha/f3");
	say("{\"resolve\":\"f1\",\"keep\":\"remote\",\"n\":900}");
	wait_for_text(said, "{\"resolved\":900}");
	say("{\"resolve\":\"f2\",\"keep\":\"both\",\"n\":901}");
	wait_for_text(said, "{\"resolved\":901}");
	say("{\"resolve\":\"nothing\",\"keep\":\"both\",\"n\":902}");
	wait_for_text(said, "{\"resolved\":902,\"error\":");
	fence();
	both_alike();
	shell(dir, "grep -q BB alpha/f1 && grep -q A beta/f2 && grep -q BB alpha/f2.remote-*");
	wait_for_text(status, "\"conflicts_total\":0");
}

static void test_deletions_and_changes(void **state)
{
	(void)state;
	shell(dir, "cd alpha; mkdir -p d/e keep; echo 1 >d/e/f; echo 2 >d/g; echo 3 >keep/k");
	pair_start(SAFE);
	fence();
	say("{\"pause\":true}");
	wait_for_state("paused");
	shell(dir, "rm -r alpha/d; echo changed >beta/d/e/f; rm beta/keep/k");
	say("{\"proceed\":true}");
	fence();
	both_alike();
	shell(dir, "grep -q changed alpha/d/e/f && test ! -e beta/d/g && test ! -e alpha/keep/k");
	/* What was removed lies in the trash of the side it was removed from. */
	shell(dir, "find store-b/trash -type f | xargs cat | grep -q 2");
}

static void test_halts(void **state)
{
	(void)state;
	shell(dir, "cd alpha; echo 1 >a; echo 2 >b; mkdir c; echo 3 >c/d");
	pair_start(SAFE);
	fence();
	/* All at once, as far as the brain can see. */
	shell(dir, "mv alpha/a alpha/b alpha/c .");
	wait_for_state("halted");
	shell(dir, "test -e beta/a && test -e beta/c/d");
	fence_says(",\"error\":\"everything in alpha is gone");
	shell(dir, "mv a b c alpha/");
	say("{\"proceed\":true}");
	fence();
	both_alike();
	wait_for_state("watching");
	/* The root itself. */
	shell(dir, "rm -r beta");
	wait_for_state("halted");
	shell(dir, "test -e alpha/a && test -e alpha/c/d");
	say("{\"proceed\":true}");
	double end = seconds() + WAIT_S;
	while (!(ended & 1) && seconds() < end)
		some();
	assert_true(ended & 1);
	assert_int_equal(ended_codes[0], 0);
	pair_end();
	/* A root that was made anew is another one: nothing is deleted for that. */
	pair_start(SAFE);
	fence();
	both_alike();
	shell(dir, "test -e beta/a && test -e alpha/c/d");
}

static unsigned long sent(void)
{
	const char *p = strstr(status, "\"sent\":");
	assert_non_null(p);
	return strtoul(p + 7, NULL, 10);
}

static void test_deltas(void **state)
{
	(void)state;
	shell(dir, "head -c 8000000 /dev/urandom >alpha/big");
	pair_start(SAFE);
	fence();
	wait_for_state("watching");
	unsigned long before = sent();
	assert_true(before > 8000000);
	shell(dir, "printf here | dd of=alpha/big bs=1 seek=4000000 conv=notrunc 2>/dev/null");
	fence();
	both_alike();
	status[0] = '\0';
	wait_for_state("watching");
	assert_true(sent() - before < 300000);
	/* The other way: what comes is in pieces of the old one, too. */
	shell(dir, "cp -p beta/big big; (head -c 100 /dev/urandom; cat big) >new; mv new beta/big");
	fence();
	both_alike();
	status[0] = '\0';
	shell(dir, "echo >alpha/x");
	wait_for_state("watching");
	const char *p = strstr(status, "\"received\":");
	assert_true(strtoul(p + 11, NULL, 10) < 300000);
}

static unsigned long received(void)
{
	const char *p = strstr(status, "\"received\":");
	assert_non_null(p);
	return strtoul(p + 11, NULL, 10);
}

/* Renamed and copied, on either side: the other has the content already. */
static void test_names_only(void **state)
{
	(void)state;
	shell(dir, "cd alpha; mkdir d; for i in 1 2 3 4 5 6 7 8; do"
		   " head -c 500000 /dev/urandom >d/$i; done");
	pair_start(SAFE);
	fence();
	status[0] = '\0';
	wait_for_state("watching");
	unsigned long out = sent(), back = received();
	assert_true(out > 4000000);
	shell(dir, "mv alpha/d alpha/e");
	fence();
	both_alike();
	shell(dir, "mv beta/e beta/f; cp -r beta/f beta/g");
	fence();
	both_alike();
	status[0] = '\0';
	shell(dir, "echo >alpha/x");
	wait_for_state("watching");
	assert_true(sent() - out < 100000 && received() - back < 100000);
}

/* By another process: what this one does to files the far end takes for its own doing. */
static void move(const char *from, const char *to)
{
	pid_t pid = fork();
	int how;
	if (pid == 0)
		_exit(renameat2(AT_FDCWD, at(dir, from), AT_FDCWD, at(dir, to), 0) ? errno : 0);
	assert_int_equal(waitpid(pid, &how, 0), pid);
	assert_int_equal(how, 0);
}

/* Both sides give it another name, and one takes that back while it is still uncertain whether all
 * will go: it is new there, and nothing that the other has deleted. */
static void test_taken_back_while_held(void **state)
{
	(void)state;
	shell(dir, "echo content >alpha/f; echo >alpha/other");
	pair_start(SAFE);
	fence();
	for (int i = 0; i < 5; i++) {
		move("alpha/f", "alpha/g");
		move("beta/f", "beta/g");
		for (int k = 0; k < 5; k++)
			some();
		move("beta/g", "beta/f");
		fence();
		both_alike();
		/* Or g, if it was back so soon that nobody saw it go: then only alpha has named it.
		 */
		shell(dir, "cd alpha; test -e f || mv g f; grep -q content f && test ! -e g");
		fence();
	}
}

static void test_left_out(void **state)
{
	(void)state;
	shell(dir, "cd alpha; mkdir node_modules keep logs; echo 1 >node_modules/x; echo 2 >a.o;"
		   "echo 3 >keep/a.c; echo 4 >logs/l; echo 'logs/' >.tsignore;"
		   "mkdir ../beta; echo 5 >../beta/b.o; mkdir ../beta/node_modules;"
		   "echo 6 >../beta/node_modules/y; mkfifo pipe");
	pair_start(SAFE ",\"ignore\":\"*.o\",\"masks\":[\"node_modules\"]");
	fence();
	shell(dir, "test -e beta/keep/a.c && test ! -e beta/a.o && test ! -e alpha/b.o &&"
		   "test ! -e beta/node_modules/x && test ! -e alpha/node_modules/y &&"
		   "test ! -e beta/logs && test -e beta/b.o && test ! -e beta/pipe");
}

/* As when $HOME is synced: what the programs note of the sync is no part of it. */
static void test_store_inside(void **state)
{
	(void)state;
	shell(dir, "mkdir -p alpha/state/sync/id beta/var/far/id; echo 1 >alpha/x; echo 2 >beta/y;"
		   "ln -s alpha/state/sync/id store-a; ln -s beta/var/far/id store-b");
	pair_start(SAFE);
	fence();
	shell(dir, "test -e beta/x && test -e alpha/y && test -e alpha/state/sync/id/state &&"
		   "test ! -e beta/state && test ! -e alpha/var; echo 3 >alpha/x");
	fence();
	pair_end();
	pair_start(SAFE);
	fence();
	shell(dir, "grep -q 3 beta/x && test ! -e beta/state && test ! -e alpha/var &&"
		   "test -e alpha/state/sync/id/state && test -e beta/var/far/id/state");
}

static void ignore_node(void *arg, struct node *n)
{
	(void)arg, (void)n;
}

static void ignore_problem(void *arg, struct node *n, const char *why)
{
	(void)arg, (void)n, (void)why;
}

/* A store may be of a moment when a directory was noted as gone, and what was in it not yet. No
 * scan would look there, and a fence would wait for ever. */
static void test_orphans(void **state)
{
	char why[400];
	struct side s;
	struct side_options o = { .root = { .path = at(dir, "alpha"), .store = at(dir, "store-a") },
				  .problem = ignore_problem,
				  .changed = ignore_node };
	struct task task;
	(void)state;
	task_init(&task, NULL);
	assert_int_equal(0, side_open(&s, rx, &task, &o, why, sizeof(why)));
	struct node *orphan = tree_get(s.tree, SLICE("gone/x"));
	struct node *kept = tree_get(s.tree, SLICE("kept/x"));
	orphan->side[SYNC_ALPHA] = version_file(0644, 1, 1, NULL);
	kept->side[SYNC_ALPHA] = version_file(0644, 1, 1, NULL);
	kept->parent->side[SYNC_ALPHA] = version_dir(0755);
	assert_int_equal(0, side_start(&s, &o, why, sizeof(why)));
	assert_null(orphan->side[SYNC_ALPHA]);
	assert_non_null(kept->side[SYNC_ALPHA]);
	side_close(&s);
}

static void test_only_one_file(void **state)
{
	(void)state;
	shell(dir, "echo 1 >alpha/conf; echo 2 >alpha/other; mkdir beta; echo old >beta/conf;"
		   "echo 3 >beta/third");
	struct stat before, after;
	assert_int_equal(0, stat(at(dir, "beta/conf"), &before));
	pair_start("\"mode\":\"two-way-resolved\",\"only\":\"conf\",\"far\":{\"in_place\":true}");
	pair_end();
	pair_start("\"mode\":\"two-way-resolved\",\"only\":\"conf\"");
	fence();
	shell(dir, "grep -q 1 beta/conf && test ! -e beta/other && test ! -e alpha/third");
	assert_int_equal(0, stat(at(dir, "beta/conf"), &after));
	shell(dir, "echo 4 >>alpha/other; echo 5 >>alpha/conf");
	fence();
	shell(dir, "grep -q 5 beta/conf && test ! -e beta/other");
}

/* Killed at any instant, and begun anew: it comes to the same in the end, and what was synced is
 * not sent again. */
static void test_killed(void **state)
{
	(void)state;
	shell(dir,
	      "cd alpha; for d in 1 2 3 4 5 6 7 8; do mkdir d$d; for f in 1 2 3 4 5 6 7 8 9; do"
	      " echo $d$f >d$d/f$f; done; done; head -c 5000000 /dev/urandom >big");
	for (int i = 0; i < 12; i++) {
		pid_t pid = fork();
		assert_int_not_equal(pid, -1);
		if (pid == 0) {
			rx = reactor_new();
			pair_start(SAFE);
			reactor_run(rx);
			_exit(0);
		}
		usleep((useconds_t)(3000 * i));
		shell(dir, "echo again >>alpha/d1/f1; rm -f alpha/d2/f2; echo b >alpha/d3/new");
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
	}
	pair_start(SAFE);
	fence();
	both_alike();
	wait_for_state("watching");
	pair_end();
	pair_start(SAFE);
	fence();
	wait_for_state("watching");
	assert_true(sent() < 1000);
	shell(dir, "test ! -e beta/d2/f2 && test $(cat beta/d1/f1 | wc -l) = 13 &&"
		   "find beta store-b/stage -name '.tstunnel*' | wc -l | grep -qx 0");
}

/* Alpha was made anew, or its memory is lost: what beta was given is no reason to remove it. */
static void test_anew(void **state)
{
	(void)state;
	shell(dir, "cd alpha; mkdir d; echo 1 >d/a; echo 2 >b; echo 3 >c");
	pair_start(SAFE);
	fence();
	pair_end();
	shell(dir, "rm -rf alpha; mkdir -m 755 alpha; echo 3 >alpha/c; echo 4 >alpha/new");
	pair_start(SAFE);
	fence();
	shell(dir, "grep -q 1 alpha/d/a && grep -q 2 alpha/b && grep -q 4 beta/new");
	both_alike();
	pair_end();
	shell(dir, "rm -r store-a alpha/d");
	pair_start(SAFE);
	fence();
	shell(dir, "grep -q 1 alpha/d/a && grep -q 1 beta/d/a");
	both_alike();
}

/* Alpha's new mode and beta's new content have crossed, and all ended when beta had the mode, and
 * alpha had not got the content: that is still beta's own. */
static void test_crossed(void **state)
{
	(void)state;
	shell(dir, "echo old >alpha/x; echo >alpha/other");
	pair_start(SAFE);
	fence();
	pair_end();
	shell(dir,
	      "cp store-a/state noted; chmod 700 alpha/x; cp -p alpha/x x; echo newer >beta/x");
	pair_start(SAFE);
	fence();
	shell(dir, "grep -q newer alpha/x && test -x alpha/x && test -x beta/x");
	pair_end();
	shell(dir, "cp noted store-a/state; cp -p x alpha/x");
	pair_start(SAFE);
	fence();
	shell(dir, "grep -q newer alpha/x && grep -q newer beta/x && test -x beta/x");
	both_alike();
}

/* What both have had from the beginning is agreed on: a mode that beta was given just before all
 * ended is no chmod of its own, should alpha take it back. */
static void test_mode_taken_back(void **state)
{
	(void)state;
	shell(dir, "umask 022; mkdir -m 755 beta alpha/d beta/d;"
		   "echo same | tee alpha/x beta/x; touch -r alpha/x beta/x");
	pair_start(SAFE);
	fence();
	pair_end();
	shell(dir, "cp store-a/state noted; chmod 700 alpha/x alpha/d");
	pair_start(SAFE);
	fence();
	shell(dir, "test -x beta/x");
	pair_end();
	shell(dir, "cp noted store-a/state; chmod 644 alpha/x; chmod 755 alpha/d");
	pair_start(SAFE);
	fence();
	shell(dir, "test $(stat -c %a alpha/x beta/x alpha/d beta/d | tr '\n' .) ="
		   " 644.644.755.755.");
}

static void paused(void)
{
	say("{\"pause\":true}");
	wait_for_state("paused");
}

/* Killed before it was noted that beta has been given 33: it knows. */
static void given_and_killed(void)
{
	fence();
	shell(dir, "cp store-a/state noted; echo 33 >alpha/c; echo 4 >alpha/e");
	fence();
	pair_end();
	shell(dir, "cp noted store-a/state; echo 5 >alpha/c; rm alpha/e");
	pair_start(SAFE);
	fence();
	wait_for_text(status, "\"conflicts_total\":0");
	shell(dir, "grep -q 5 beta/c && test ! -e beta/e");
}

/* What was forgotten stays so if all is killed before anything has come of it: the far end has no
 * say, though it knows what the brain had given it. */
static void test_forgotten(void **state)
{
	(void)state;
	shell(dir, "cd alpha; mkdir d; echo 1 >d/a; echo 2 >b; echo 3 >c");
	pair_start(SAFE);
	given_and_killed();
	/* A person's word, which the far end hears before all is killed, or does not. */
	for (int heard = 0; heard < 2; heard++) {
		shell(dir, "echo 1 >alpha/d/given");
		fence();
		paused();
		shell(dir, "rm -r alpha/d");
		say("{\"reset\":true}");
		fence_says(",\"error\":\"the sync is paused\"");
		char *known = xasprintf("cd %s && grep -qa %s store-b/state", dir, session->epoch);
		for (double end = seconds() + WAIT_S; heard && system(known) && seconds() < end;)
			some();
		assert_true(!heard || system(known) == 0);
		free(known);
		pair_end();
		pair_start(SAFE);
		fence();
		shell(dir, "grep -q 1 alpha/d/given && grep -q 1 beta/d/given");
		both_alike();
		shell(dir, "rm alpha/d/given");
		fence();
	}
	shell(dir, "echo 6 >alpha/d/new");
	fence();
	pair_end();
	shell(dir, "rm -r alpha/d");
	pair_start(SAFE);
	say("{\"reset\":true}"); /* before there is anything to forget */
	fence();
	shell(dir, "grep -q 6 alpha/d/new && grep -q 6 beta/d/new");
	/* Its memory is lost. */
	pair_end();
	shell(dir, "rm -r store-a alpha/d");
	pair_start(SAFE);
	paused();
	wait_for_text(status, "\"alpha\":{\"entries\":2,");
	pair_end();
	pair_start(SAFE);
	fence();
	shell(dir, "grep -q 1 alpha/d/a && grep -q 1 beta/d/a");
	both_alike();
}

/* A memory that has begun anew knows as well as any what it has given, from its first moment on. */
static void test_given_after_a_reset(void **state)
{
	static const char *const lose[] = { "beta store-b", "store-a" };
	(void)state;
	shell(dir, "echo 3 >alpha/c; echo 1 >alpha/a");
	pair_start(SAFE);
	fence();
	say("{\"reset\":true}");
	given_and_killed();
	for (size_t i = 0; i < ARRAY_LEN(lose); i++) {
		shell(dir, "rm beta/c");
		fence();
		pair_end();
		char *gone = xasprintf("rm -r %s; echo 3 >alpha/c", lose[i]);
		shell(dir, gone);
		free(gone);
		pair_start(SAFE);
		given_and_killed();
	}
}

/* What may not be read is told, with the side on which that is, until it may. (The mode of d comes
 * to alpha, too.) */
static void test_unreadable(void **state)
{
	(void)state;
	if (getuid() != 0)
		skip();
	shell(dir,
	      "mkdir -m 755 beta; echo 1 >alpha/a; echo 2 >beta/b; mkdir beta/d; echo 3 >beta/d/e;"
	      "chmod 0 alpha/a beta/b beta/d; chown -R 65534:65534 .");
	assert_int_equal(0, seteuid(65534));
	pair_start(SAFE);
	fence();
	wait_for_text(status, "\"problems_total\":4");
	wait_for_text(status, "{\"path\":\"a\",\"side\":\"alpha\",\"why\":\"permission denied\"}");
	wait_for_text(status, "{\"path\":\"b\",\"side\":\"beta\",\"why\":\"cannot be read:");
	wait_for_text(status, "{\"path\":\"d\",\"side\":\"beta\",\"why\":\"cannot be listed:");
	shell(dir, "chmod 644 alpha/a beta/b; chmod 755 beta/d");
	fence();
	assert_int_equal(0, seteuid(0));
	both_alike();
	wait_for_text(status, "\"problems_total\":0");
	shell(dir, "grep -q 1 beta/a && grep -q 2 alpha/b && grep -q 3 alpha/d/e");
}

static void test_refused(void **state)
{
	(void)state;
	pair_start("\"mode\":\"sideways\"");
	double end = seconds() + WAIT_S;
	while (!(ended & 1) && seconds() < end)
		some();
	assert_int_equal(ended_codes[0], -EINVAL);
	pair_end();
	shell(dir, "rmdir alpha; echo >alpha");
	pair_start(SAFE);
	while (!(ended & 1) && seconds() < end)
		some();
	assert_int_equal(ended_codes[0], -ENOTDIR);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_initial_and_both_ways),
		TEST(test_fresh),
		TEST(test_conflict_and_resolve),
		TEST(test_deletions_and_changes),
		TEST(test_halts),
		TEST(test_deltas),
		TEST(test_names_only),
		TEST(test_taken_back_while_held),
		TEST(test_left_out),
		TEST(test_store_inside),
		TEST(test_orphans),
		TEST(test_only_one_file),
		TEST(test_killed),
		TEST(test_anew),
		TEST(test_crossed),
		TEST(test_mode_taken_back),
		TEST(test_forgotten),
		TEST(test_given_after_a_reset),
		TEST(test_unreadable),
		TEST(test_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
