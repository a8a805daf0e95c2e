/* Child processes and signals: reactor/child.c, reactor/signals.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "reactor/buf.h"
#include "reactor/child.h"
#include "reactor/signals.h"

enum { OUT_MAX = 4 << 20, GIVE_UP_MS = 20000 };

/* A child with all its output collected, and what became of it. */
struct run {
	struct reactor *rx;
	struct child *child;
	struct task task;
	struct stream *in, *from[2];
	struct buf text[2];
	size_t to_write; /* bytes still to go to its stdin, of 'x' */
	bool started, ended, done;
	int err;
	struct child_status status;
	int *left; /* runs that are not done */
	bool *all_done;
};

static struct reactor *rx;
static char dir[64];

static void too_late(struct timer *t)
{
	(void)t;
	fprintf(stderr, "test timed out\n");
	abort();
}

static struct timer watchdog;

static void wait_for(const bool *flag)
{
	timer_init(&watchdog, too_late);
	timer_set(rx, &watchdog, GIVE_UP_MS);
	reactor_run_until(rx, flag);
	timer_clear(rx, &watchdog);
}

struct pause {
	struct timer timer;
	bool over;
};

static void fire_flag(struct timer *t)
{
	container_of(t, struct pause, timer)->over = true;
}

static void turn_for(uint64_t ms)
{
	struct pause p = { .over = false };
	timer_init(&p.timer, fire_flag);
	timer_set(rx, &p.timer, ms);
	wait_for(&p.over);
}

static void feed(struct run *r)
{
	while (r->in && r->to_write > 0) {
		char block[4096];
		memset(block, 'x', sizeof(block));
		ssize_t n = stream_write(r->in, block, MIN(sizeof(block), r->to_write));
		if (n == -EAGAIN)
			return;
		if (n < 0) {
			r->to_write = 0;
			break;
		}
		r->to_write -= (size_t)n;
	}
	if (r->in && r->in != r->from[0]) {
		stream_close(r->in, 0);
		r->in = NULL;
	}
}

static void collect(struct run *r, int i)
{
	while (r->from[i]) {
		struct iovec room = buf_room(&r->text[i]);
		assert_true(room.iov_len > 0);
		ssize_t n = r->from[i]->ops->read(r->from[i], &room, 1);
		buf_added(&r->text[i], n > 0 ? (size_t)n : 0);
		if (n == -EAGAIN)
			return;
		if (n <= 0) {
			if (r->in == r->from[i])
				r->in = NULL;
			stream_close(r->from[i], 0);
			r->from[i] = NULL;
		}
	}
}

static void run_step(struct task *t)
{
	struct run *r = container_of(t, struct run, task);
	feed(r);
	collect(r, 0);
	collect(r, 1);
	bool done = r->ended && !r->from[0] && !r->from[1];
	if (done && !r->done) {
		r->done = true;
		if (r->left && --*r->left == 0)
			*r->all_done = true;
	}
}

static void on_started(void *arg)
{
	struct run *r = arg;
	assert_false(r->started || r->ended);
	r->started = true;
}

static void on_ended(void *arg, const struct child_status *status)
{
	struct run *r = arg;
	assert_false(r->ended);
	r->ended = true;
	r->status = *status;
	task_wake(r->rx, &r->task);
}

static char *const plain_env[] = { "PATH=/usr/bin:/bin", "LC_ALL=C", NULL };

static void run_start(struct run *r, const struct child_options *opt)
{
	*r = (struct run){ .rx = rx, .to_write = r->to_write };
	buf_init(&r->text[0], OUT_MAX);
	buf_init(&r->text[1], OUT_MAX);
	task_init(&r->task, run_step);
	struct child_options o = *opt;
	if (!o.envp)
		o.envp = plain_env;
	r->child = child_spawn(rx, &o, on_started, on_ended, r, &r->err);
	if (!r->child)
		return;
	r->in = child_stdin(r->child);
	r->from[0] = o.tty ? r->in : child_stdout(r->child);
	r->from[1] = child_stderr(r->child);
	stream_bind(r->in, &r->task);
	for (int i = 0; i < 2; i++)
		if (r->from[i])
			stream_bind(r->from[i], &r->task);
	if (!o.tty)
		task_wake(rx, &r->task);
}

static void run_end(struct run *r)
{
	task_cancel(&r->task);
	if (r->in != r->from[0])
		stream_close(r->in, 0);
	stream_close(r->from[0], 0);
	stream_close(r->from[1], 0);
	child_free(r->child);
	buf_end(&r->text[0]);
	buf_end(&r->text[1]);
}

static void run_whole(struct run *r, const struct child_options *opt)
{
	run_start(r, opt);
	assert_non_null(r->child);
	wait_for(&r->done);
}

#define ARGV(...) ((char *const[]){ __VA_ARGS__, NULL })
#define SH(text)  ARGV("sh", "-c", text)

static void assert_text(const struct run *r, int i, const char *expected)
{
	char *got = xslicedup(buf_data(&r->text[i]));
	assert_string_equal(got, expected);
	free(got);
}

static int count_fds(void)
{
	int n = 0;
	DIR *d = opendir("/proc/self/fd");
	while (readdir(d)) /* cppcheck-suppress readdirCalled */
		n++;
	closedir(d);
	return n;
}

/* State and process group of the process whose /proc entry is called name; 0: there is none. */
static char process_state(const char *name, long *group)
{
	char path[300], line[512] = "";
	snprintf(path, sizeof(path), "/proc/%s/stat", name);
	FILE *f = fopen(path, "r");
	if (!f)
		return 0;
	char *p = fgets(line, sizeof(line), f) ? strrchr(line, ')') : NULL;
	fclose(f);
	if (!p)
		return 0;
	char state = p[2];
	strtol(p + 4, &p, 10); /* its parent */
	*group = strtol(p, NULL, 10);
	return state;
}

/* True while somebody but a zombie has this process group. */
static bool group_lives(int pgid)
{
	bool found = false;
	struct dirent *e;
	DIR *d = opendir("/proc");
	while (!found && (e = readdir(d))) { /* cppcheck-suppress readdirCalled */
		long group = 0;
		char state = e->d_name[0] >= '1' && e->d_name[0] <= '9'
				 ? process_state(e->d_name, &group)
				 : 0;
		found = state && state != 'Z' && group == pgid;
	}
	closedir(d);
	return found;
}

static void wait_group_gone(int pgid)
{
	for (int i = 0; group_lives(pgid); i++) {
		assert_true(i < 1000);
		turn_for(10);
	}
}

/* --- tests --- */

static void output_and_status(void **state)
{
	(void)state;
	struct run r = { 0 };
	run_whole(&r, &(struct child_options){ .argv = SH("echo out; echo err >&2; exit 7") });
	assert_true(r.started);
	assert_text(&r, 0, "out\n");
	assert_text(&r, 1, "err\n");
	assert_int_equal(r.status.exit_code, 7);
	assert_int_equal(r.status.signal, 0);
	assert_int_equal(r.status.exec_errno, 0);
	run_end(&r);
}

static void merged_stderr(void **state)
{
	(void)state;
	struct run r = { 0 };
	run_whole(&r, &(struct child_options){ .argv = SH("echo out; echo err >&2; echo end"),
					       .merge_stderr = true });
	assert_null(child_stderr(r.child));
	assert_text(&r, 0, "out\nerr\nend\n");
	run_end(&r);
}

static void stdin_half_close(void **state)
{
	(void)state;
	struct run r = { .to_write = 1 << 20 };
	run_whole(&r, &(struct child_options){ .argv = SH("cat; echo done >&2") });
	assert_int_equal(r.text[0].len, 1 << 20);
	assert_text(&r, 1, "done\n");
	run_end(&r);
}

static void stdin_not_read(void **state)
{
	(void)state;
	struct run r = { .to_write = 1 << 20 };
	run_whole(&r, &(struct child_options){ .argv = ARGV("true") });
	assert_int_equal(r.status.exit_code, 0);
	run_end(&r);
}

static void death_by_signal(void **state)
{
	(void)state;
	static const int signals[] = { SIGKILL, SIGTERM, SIGINT, SIGPIPE, SIGHUP };
	for (size_t i = 0; i < ARRAY_LEN(signals); i++) {
		struct run r = { 0 };
		run_start(&r, &(struct child_options){ .argv = ARGV("sleep", "100") });
		wait_for(&r.started);
		assert_int_equal(child_kill(r.child, signals[i]), 0);
		wait_for(&r.done);
		assert_int_equal(r.status.signal, signals[i]);
		run_end(&r);
	}
}

static void killed_before_exec(void **state)
{
	(void)state;
	for (int i = 0; i < 20; i++) {
		struct run r = { 0 };
		run_start(&r, &(struct child_options){ .argv = ARGV("sleep", "100") });
		assert_int_equal(child_kill(r.child, SIGTERM), 0);
		wait_for(&r.done);
		assert_int_equal(r.status.signal, SIGTERM);
		run_end(&r);
	}
}

static void expect_exec_errno(const char *command, const char *path, int expected)
{
	struct run r = { 0 };
	char *env = xasprintf("PATH=%s", path);
	run_whole(&r, &(struct child_options){ .argv = ARGV((char *)command), .envp = ARGV(env) });
	assert_false(r.started);
	assert_int_equal(r.status.exec_errno, expected);
	assert_false(r.status.dir_failed);
	run_end(&r);
	free(env);
}

static void put_file(const char *name, mode_t mode, const char *text)
{
	char path[128];
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	FILE *f = fopen(path, "w");
	fputs(text, f);
	fclose(f);
	chmod(path, mode);
}

static void cannot_start(void **state)
{
	(void)state;
	char path[256], denied[128];
	put_file("denied", 0644, "#!/bin/sh\n");
	put_file("garbage", 0755, "garbage\n");
	snprintf(path, sizeof(path), "/nowhere:%s:/bin", dir);
	snprintf(denied, sizeof(denied), "%s/denied", dir);
	expect_exec_errno("no-such-command", path, ENOENT);
	expect_exec_errno("", path, ENOENT);
	expect_exec_errno("/no/such/file", path, ENOENT);
	expect_exec_errno("denied", path, EACCES);
	expect_exec_errno(denied, path, EACCES);
	expect_exec_errno(dir, path, EACCES);
	expect_exec_errno("garbage", path, ENOEXEC);
	expect_exec_errno("true", "", ENOENT);
	expect_exec_errno("true", "/bin/sh", ENOENT);
}

static void path_of_the_child(void **state)
{
	(void)state;
	char path[256];
	put_file("mine", 0755, "#!/bin/sh\necho found $0\n");
	snprintf(path, sizeof(path), "PATH=/nowhere:%s:/bin", dir);
	struct run r = { 0 };
	run_whole(&r, &(struct child_options){ .argv = ARGV("mine"), .envp = ARGV(path) });
	snprintf(path, sizeof(path), "found %s/mine\n", dir);
	assert_text(&r, 0, path);
	run_end(&r);
	/* An entry that is not executable does not hide a later one; without PATH there is a
	 * default. */
	put_file("sh", 0644, "");
	snprintf(path, sizeof(path), "PATH=%s:/bin", dir);
	run_whole(&r, &(struct child_options){ .argv = SH("exit 3"), .envp = ARGV(path) });
	assert_int_equal(r.status.exit_code, 3);
	run_end(&r);
	run_whole(&r, &(struct child_options){ .argv = SH("exit 4"), .envp = ARGV("A=b") });
	assert_int_equal(r.status.exit_code, 4);
	run_end(&r);
}

static void working_directory(void **state)
{
	(void)state;
	struct run r = { 0 };
	run_whole(&r, &(struct child_options){ .argv = ARGV("pwd"), .dir = "/usr" });
	assert_text(&r, 0, "/usr\n");
	run_end(&r);
	run_whole(&r, &(struct child_options){ .argv = ARGV("pwd"), .dir = "/no/such" });
	assert_true(r.status.dir_failed);
	assert_int_equal(r.status.exec_errno, ENOENT);
	assert_false(r.started);
	run_end(&r);
}

/* What a child must not inherit of a reactor: descriptors, masks, ignored signals, limits. */
static void clean_slate(void **state)
{
	(void)state;
	struct signals s;
	static const int listed[] = { SIGTERM, SIGUSR1, 0 };
	signals_open(&s, rx, listed, NULL, NULL);
	int leak = open("/dev/null", O_RDONLY); /* without CLOEXEC */
	struct run r = { 0 };
	run_whole(&r,
		  &(struct child_options){
		      .argv = SH("ls /proc/self/fd | tr '\\n' ' '; ulimit -n; "
				 "grep -E 'Sig(Blk|Ign)' /proc/self/status; "
				 "ps -o pid=,pgid=,sid= -p $$ | awk '{print $1==$2,$2==$3}'") });
	char expected[256];
	snprintf(expected, sizeof(expected), "0 1 2 3 %llu\nSigBlk:\t%016d\nSigIgn:\t%016d\n1 1\n",
		 (unsigned long long)reactor_nofile_before(), 0, 0);
	assert_text(&r, 0, expected); /* 3: the directory that ls reads */
	run_end(&r);
	close(leak);
	signals_close(&s);
}

static void group_kill_takes_grandchildren(void **state)
{
	(void)state;
	struct run r = { 0 };
	run_start(&r,
		  &(struct child_options){ .argv = SH("sleep 100 & sleep 100 & echo up; wait") });
	int pid = child_pid(r.child);
	while (r.text[0].len == 0)
		turn_for(1);
	assert_true(group_lives(pid));
	child_kill(r.child, SIGTERM);
	wait_for(&r.done);
	wait_group_gone(pid);
	run_end(&r);
}

static void free_kills(void **state)
{
	(void)state;
	struct run r = { 0 };
	run_start(&r, &(struct child_options){ .argv = SH("sleep 100 & echo up; wait") });
	int pid = child_pid(r.child);
	while (r.text[0].len == 0)
		turn_for(1);
	run_end(&r);
	wait_group_gone(pid);
	assert_false(r.ended);
	child_kill_lingering();
}

/* SIGHUP ignored: SIGKILL follows, also for grandchildren that outlive the process. */
static void free_kills_the_stubborn(void **state)
{
	(void)state;
	struct run r[2] = { 0 };
	int pid[2];
	run_start(&r[0], &(struct child_options){
			     .argv = SH("trap '' HUP; sleep 100 & echo up; wait; sleep 100") });
	run_start(&r[1], &(struct child_options){
			     .argv = SH("(trap '' HUP; echo up; sleep 100) & wait") });
	for (int i = 0; i < 2; i++) {
		pid[i] = child_pid(r[i].child);
		while (r[i].text[0].len == 0)
			turn_for(1);
		run_end(&r[i]);
	}
	turn_for(200);
	assert_true(group_lives(pid[0]));
	assert_true(group_lives(pid[1]));
	turn_for(5000);
	wait_group_gone(pid[0]);
	wait_group_gone(pid[1]);
	assert_int_equal(kill(pid[0], 0), -1); /* reaped */
	assert_int_equal(kill(pid[1], 0), -1);
}

static void background_child_survives_free_after_end(void **state)
{
	(void)state;
	struct run r = { 0 };
	run_whole(&r, &(struct child_options){ .argv = SH("sleep 100 >&- 2>&- <&- & echo $!") });
	int grandchild = (int)strtol(buf_data(&r.text[0]).p, NULL, 10);
	run_end(&r);
	assert_int_equal(kill(grandchild, 0), 0);
	kill(grandchild, SIGKILL);
}

static void free_at_any_moment(void **state)
{
	(void)state;
	for (int i = 0; i < 10; i++) {
		struct run r = { 0 };
		run_start(&r, &(struct child_options){ .argv = ARGV("true") });
		if (i > 0)
			turn_for((uint64_t)i);
		run_end(&r);
	}
	child_kill_lingering();
}

static void terminal(void **state)
{
	(void)state;
	struct run r = { 0 };
	run_start(&r,
		  &(struct child_options){
		      .argv = SH("trap 'stty size; exit 5' WINCH; tty; stty size; "
				 "test -t 0 -a -t 1 -a -t 2 && echo ready; while :; do sleep 0.01; "
				 "done"),
		      .tty = true,
		      .rows = 24,
		      .cols = 80 });
	assert_null(child_stdout(r.child));
	assert_null(child_stderr(r.child));
	for (;;) {
		turn_for(1);
		struct slice got = buf_data(&r.text[0]);
		if (got.n && memmem(got.p, got.n, "ready", 5))
			break;
	}
	assert_int_equal(child_resize(r.child, 50, 132), 0);
	wait_for(&r.done);
	struct slice got = buf_data(&r.text[0]);
	assert_non_null(memmem(got.p, got.n, "/dev/pts/", 9));
	assert_non_null(memmem(got.p, got.n, "24 80\r\n", 7));
	assert_non_null(memmem(got.p, got.n, "50 132\r\n", 8));
	assert_int_equal(r.status.exit_code, 5);
	run_end(&r);
}

/* ^C goes through the line discipline to the foreground group. */
static void terminal_interrupt(void **state)
{
	(void)state;
	struct run r = { 0 };
	run_start(&r, &(struct child_options){ .argv = ARGV("sleep", "100"), .tty = true });
	wait_for(&r.started);
	assert_int_equal(stream_write(r.in, "\003", 1), 1);
	wait_for(&r.done);
	assert_int_equal(r.status.signal, SIGINT);
	run_end(&r);
}

static void two_hundred_at_once(void **state)
{
	(void)state;
	enum { MANY = 200 };
	static struct run r[MANY];
	int left = MANY;
	bool all_done = false;
	for (int i = 0; i < MANY; i++) {
		char text[64];
		snprintf(text, sizeof(text), "cat >/dev/null; echo %d; exit %d", i, i);
		r[i].to_write = 10000;
		run_start(&r[i], &(struct child_options){ .argv = SH(text) });
		assert_non_null(r[i].child);
		r[i].left = &left;
		r[i].all_done = &all_done;
	}
	wait_for(&all_done);
	for (int i = 0; i < MANY; i++) {
		char text[16];
		snprintf(text, sizeof(text), "%d\n", i);
		assert_text(&r[i], 0, text);
		assert_int_equal(r[i].status.exit_code, i);
		run_end(&r[i]);
	}
}

/* Every step of a spawn that meets the limit fails cleanly. */
static void out_of_descriptors(void **state)
{
	(void)state;
	struct rlimit before, lim;
	getrlimit(RLIMIT_NOFILE, &before);
	int spare = dup(0);
	close(spare);
	bool succeeded = false;
	for (int room = 0; !succeeded; room++) {
		assert_true(room < 20);
		lim = before;
		lim.rlim_cur = (rlim_t)spare + (rlim_t)room;
		setrlimit(RLIMIT_NOFILE, &lim);
		struct run r = { 0 };
		run_start(&r, &(struct child_options){ .argv = ARGV("true") });
		setrlimit(RLIMIT_NOFILE, &before);
		succeeded = r.child != NULL;
		if (succeeded)
			wait_for(&r.done);
		else
			assert_int_equal(r.err, -EMFILE);
		run_end(&r);
	}
}

struct channel {
	struct task task;
	struct stream *s;
	char text[64];
	size_t n;
	bool ended;
};

static void channel_step(struct task *t)
{
	struct channel *c = container_of(t, struct channel, task);
	while (!c->ended) {
		ssize_t n = stream_read(c->s, c->text + c->n, sizeof(c->text) - 1 - c->n);
		if (n == -EAGAIN)
			return;
		assert_true(n >= 0);
		c->n += (size_t)n;
		c->ended = n == 0;
	}
}

/* Both ways on fd 3, beside its stdio; a child without one has no fd 3. */
static void channel_to_a_child(void **state)
{
	(void)state;
	struct run r = { 0 };
	struct channel c = { .ended = false };
	run_start(&r, &(struct child_options){
			  .argv = SH("read line <&3; echo got $line >&3; echo out; "
				     "[ -S /proc/$$/fd/3 ] && [ ! -e /proc/$$/fd/4 ]"),
			  .channel = true });
	assert_non_null(r.child);
	c.s = child_channel(r.child);
	assert_non_null(c.s);
	assert_null(child_channel(r.child)); /* handed out once */
	task_init(&c.task, channel_step);
	stream_bind(c.s, &c.task);
	assert_int_equal(6, stream_write(c.s, "hello\n", 6));
	wait_for(&r.done);
	wait_for(&c.ended);
	assert_string_equal("got hello\n", c.text);
	assert_text(&r, 0, "out\n");
	assert_int_equal(0, r.status.exit_code);
	task_cancel(&c.task);
	stream_close(c.s, 0);
	run_end(&r);

	run_start(&r, &(struct child_options){ .argv = SH("[ ! -e /proc/$$/fd/3 ]") });
	assert_null(child_channel(r.child));
	wait_for(&r.done);
	assert_int_equal(0, r.status.exit_code);
	run_end(&r);

	/* One that is not handed out goes with the child. */
	run_whole(&r, &(struct child_options){ .argv = ARGV("true"), .channel = true });
	run_end(&r);
}

static int caught[3], ncaught;
static bool caught_all;

static void on_signal(void *arg, int signo)
{
	struct signals *s = arg;
	caught[ncaught++] = signo;
	caught_all = ncaught == 2;
	if (caught_all)
		signals_close(s);
}

static void signals_as_events(void **state)
{
	(void)state;
	struct signals s;
	static const int listed[] = { SIGUSR1, SIGUSR2, 0 };
	signals_open(&s, rx, listed, on_signal, &s);
	kill(getpid(), SIGUSR2);
	kill(getpid(), SIGUSR1);
	wait_for(&caught_all);
	assert_int_equal(caught[0] + caught[1], SIGUSR1 + SIGUSR2);
	sigset_t now;
	sigprocmask(SIG_BLOCK, NULL, &now);
	assert_false(sigismember(&now, SIGUSR1));
}

/* --- frame --- */

static int fds_before;

static int setup(void **state)
{
	(void)state;
	fds_before = count_fds();
	rx = reactor_new();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	child_kill_lingering();
	assert_int_equal(reactor_stats(rx)->handles, 0);
	assert_int_equal(reactor_stats(rx)->timers, 0);
	reactor_free(rx);
	assert_int_equal(count_fds(), fds_before);
	return 0;
}

static int setup_all(void **state)
{
	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/test_child.XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown_all(void **state)
{
	(void)state;
	static const char *const files[] = { "denied", "garbage", "mine", "sh" };
	for (size_t i = 0; i < ARRAY_LEN(files); i++) {
		char path[128];
		snprintf(path, sizeof(path), "%s/%s", dir, files[i]);
		unlink(path);
	}
	return rmdir(dir);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(output_and_status),
		TEST(merged_stderr),
		TEST(stdin_half_close),
		TEST(stdin_not_read),
		TEST(death_by_signal),
		TEST(killed_before_exec),
		TEST(cannot_start),
		TEST(path_of_the_child),
		TEST(working_directory),
		TEST(clean_slate),
		TEST(group_kill_takes_grandchildren),
		TEST(free_kills),
		TEST(free_kills_the_stubborn),
		TEST(background_child_survives_free_after_end),
		TEST(free_at_any_moment),
		TEST(terminal),
		TEST(terminal_interrupt),
		TEST(two_hundred_at_once),
		TEST(out_of_descriptors),
		TEST(channel_to_a_child),
		TEST(signals_as_events),
	};
	return cmocka_run_group_tests(tests, setup_all, teardown_all);
}
