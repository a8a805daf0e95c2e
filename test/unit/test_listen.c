/* Listeners: reactor/listen.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "reactor/listen.h"

struct fixture {
	struct reactor *rx;
	struct listener *l;
	int accepted, want;
	int last_fd;
	bool keep; /* do not close what was accepted */
	bool close_in_callback;
	bool enough;
	char peer[128];
};

static char dir[64];

static struct addr at(const char *text)
{
	struct addr a;
	char err[128] = "";
	if (addr_parse(&a, slice_str(text), 0, err, sizeof(err)))
		fail_msg("%s", err);
	return a;
}

static struct addr at_file(const char *name)
{
	char text[128];
	snprintf(text, sizeof(text), "unix:%s/%s", dir, name);
	return at(text);
}

static void on_accept(void *arg, int fd, const struct sockaddr *peer)
{
	struct fixture *f = arg;
	f->accepted++;
	f->last_fd = fd;
	snprintf(f->peer, sizeof(f->peer), "%s", sockaddr_text(peer));
	if (!f->keep)
		close(fd);
	if (f->close_in_callback) {
		listener_close(f->l);
		f->l = NULL;
	}
	f->enough = f->accepted >= f->want;
}

static void start(struct fixture *f, struct addr a)
{
	int err = 1;
	f->l = listener_new(f->rx, &a, on_accept, f, &err);
	if (!f->l)
		fail_msg("listener_new: %d", err);
	assert_int_equal(err, 0);
}

/* A blocking client. */
static int client(const struct addr *a)
{
	struct sockaddr_storage ss;
	socklen_t len;
	int fd;
	assert_int_equal(addr_literal(a, &ss, &len), 0);
	fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_not_equal(fd, -1);
	if (connect(fd, (struct sockaddr *)&ss, len) == -1) {
		int r = -errno;
		close(fd);
		return r;
	}
	return fd;
}

static int client_port(const char *ip, uint16_t port)
{
	struct addr a = { .kind = ADDR_TCP, .port = port };
	snprintf(a.host, sizeof(a.host), "%s", ip);
	return client(&a);
}

static void wait_for(struct fixture *f, int accepted)
{
	f->want = accepted;
	f->enough = f->accepted >= accepted;
	reactor_run_until(f->rx, &f->enough);
}

static int set_up(void **state)
{
	struct fixture *f = xcalloc(1, sizeof(*f));
	f->rx = reactor_new();
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	listener_close(f->l);
	assert_int_equal(reactor_stats(f->rx)->handles, 0);
	assert_int_equal(reactor_stats(f->rx)->timers, 0);
	reactor_free(f->rx);
	free(f);
	return 0;
}

static void test_accepts(void **state)
{
	struct fixture *f = *state;
	int fd;
	start(f, at("127.0.0.1:0"));
	f->keep = true;
	assert_int_not_equal(listener_port(f->l), 0);
	fd = client_port("127.0.0.1", listener_port(f->l));
	assert_true(fd >= 0);
	wait_for(f, 1);
	assert_memory_equal(f->peer, "127.0.0.1:", 10);
	assert_true(fcntl(f->last_fd, F_GETFL) & O_NONBLOCK);
	assert_true(fcntl(f->last_fd, F_GETFD) & FD_CLOEXEC);
	close(f->last_fd);
	close(fd);
}

static void test_closed_stops_listening(void **state)
{
	struct fixture *f = *state;
	uint16_t port;
	start(f, at("127.0.0.1:0"));
	port = listener_port(f->l);
	listener_close(f->l);
	f->l = NULL;
	assert_int_equal(client_port("127.0.0.1", port), -ECONNREFUSED);
}

static void test_localhost_is_both_families(void **state)
{
	struct fixture *f = *state;
	int a, b;
	start(f, at("localhost:0"));
	a = client_port("127.0.0.1", listener_port(f->l));
	assert_true(a >= 0);
	wait_for(f, 1);
	b = client_port("::1", listener_port(f->l));
	if (b >= 0) { /* a host without IPv6 has nothing there */
		wait_for(f, 2);
		assert_memory_equal(f->peer, "[::1]:", 6);
		close(b);
	}
	close(a);
}

static void test_any(void **state)
{
	struct fixture *f = *state;
	int a;
	start(f, at(":0"));
	a = client_port("127.0.0.1", listener_port(f->l));
	assert_true(a >= 0);
	wait_for(f, 1);
	assert_memory_equal(f->peer, "127.0.0.1:", 10);
	close(a);
}

static int error_of(struct fixture *f, struct addr a)
{
	int err = 0;
	struct listener *l = listener_new(f->rx, &a, on_accept, f, &err);
	assert_null(l);
	return err;
}

static void test_errors(void **state)
{
	struct fixture *f = *state;
	struct addr taken = at("localhost:1");
	start(f, at("127.0.0.1:0"));
	taken.port = listener_port(f->l);
	assert_int_equal(error_of(f, taken), -EADDRINUSE);
	assert_int_equal(error_of(f, at("192.0.2.77:0")), -EADDRNOTAVAIL);
	assert_int_equal(error_of(f, at("some.name:0")), -EADDRNOTAVAIL);
	assert_int_equal(error_of(f, at("udp:127.0.0.1:0")), -EPROTONOSUPPORT);
	assert_int_equal(error_of(f, at("unix:/nonexistent/dir/x")), -ENOENT);
}

static void test_closed_by_owner_in_callback(void **state)
{
	struct fixture *f = *state;
	int a, b;
	start(f, at("127.0.0.1:0"));
	f->close_in_callback = true;
	a = client_port("127.0.0.1", listener_port(f->l));
	b = client_port("127.0.0.1", listener_port(f->l));
	wait_for(f, 1);
	assert_int_equal(f->accepted, 1);
	close(a);
	close(b);
}

/* --- the budget: another task runs at least once per 64 connections --- */

struct observer {
	struct task task;
	struct fixture *f;
	int seen, most;
};

static void observe(struct task *t)
{
	struct observer *o = container_of(t, struct observer, task);
	o->most = MAX(o->most, o->f->accepted - o->seen);
	o->seen = o->f->accepted;
	task_wake(o->f->rx, t);
}

static void test_budget(void **state)
{
	struct fixture *f = *state;
	struct observer o = { .f = f };
	int fd[200];
	start(f, at("127.0.0.1:0"));
	for (size_t i = 0; i < ARRAY_LEN(fd); i++)
		fd[i] = client_port("127.0.0.1", listener_port(f->l));
	task_init(&o.task, observe);
	task_wake(f->rx, &o.task);
	wait_for(f, (int)ARRAY_LEN(fd));
	task_cancel(&o.task);
	assert_int_equal(f->accepted, ARRAY_LEN(fd));
	assert_int_equal(o.most, 64);
	for (size_t i = 0; i < ARRAY_LEN(fd); i++)
		close(fd[i]);
}

/* --- out of descriptors, in a child with a low limit --- */

struct poller {
	struct task task;
	struct reactor *rx;
	int fd;
	int error;
	bool done;
};

/* Waits for the peer's verdict on a connection without using up a descriptor. */
static void poll_client(struct task *t)
{
	struct poller *p = container_of(t, struct poller, task);
	char c;
	ssize_t n = recv(p->fd, &c, 1, MSG_DONTWAIT);
	if (n == -1 && errno == EAGAIN) {
		task_wake(p->rx, t);
		return;
	}
	p->error = n == -1 ? errno : 0;
	p->done = true;
}

static int connect_to(int fd, const struct addr *to)
{
	struct sockaddr_storage ss;
	socklen_t len;
	addr_literal(to, &ss, &len);
	return connect(fd, (struct sockaddr *)&ss, len) == -1 ? errno : 0;
}

static int verdict(struct fixture *f, int fd, const struct addr *to)
{
	struct poller p = { .rx = f->rx, .fd = fd };
	int r = connect_to(fd, to);
	if (r != 0)
		return r;
	task_init(&p.task, poll_client);
	task_wake(p.rx, &p.task);
	reactor_run_until(p.rx, &p.done);
	return p.error;
}

/* Exit code 0, or the number of the step that went wrong. */
static int starve(void)
{
	const struct rlimit low = { 64, 64 };
	struct fixture f = { 0 };
	struct addr a = at("127.0.0.1:0"), other = a;
	int client_fd[5], err, last = -1, fd;
	if (setrlimit(RLIMIT_NOFILE, &low) == -1)
		return 1;
	f.rx = reactor_new();
	f.l = listener_new(f.rx, &a, on_accept, &f, &err);
	if (!f.l)
		return 2;
	a.port = listener_port(f.l);
	struct listener *second = listener_new(f.rx, &other, on_accept, &f, &err);
	if (!second)
		return 7;
	other.port = listener_port(second);
	for (size_t i = 0; i < ARRAY_LEN(client_fd); i++)
		client_fd[i] = socket(AF_INET, SOCK_STREAM, 0);
	while ((fd = dup(0)) != -1)
		last = fd;
	for (int i = 0; i < 2; i++)
		if (verdict(&f, client_fd[i], &a) != ECONNRESET)
			return 3 + i;
	if (f.accepted != 0)
		return 5;
	close(last);
	if (verdict(&f, client_fd[2], &a) != 0 || f.accepted != 1) /* served: end of stream */
		return 6;
	/* The one spare descriptor serves all listeners, again and again. */
	if ((fd = dup(0)) == -1 || verdict(&f, client_fd[3], &other) != ECONNRESET)
		return 8;
	close(fd);
	/* It is no failure that after the last connection there is neither a next one nor a
	 * descriptor for it. */
	f.keep = true;
	if (connect_to(client_fd[4], &a) != 0)
		return 9;
	wait_for(&f, 2);
	if (f.accepted != 2 || dup(0) != -1 || reactor_stats(f.rx)->timers != 0)
		return 10;
	listener_close(f.l);
	listener_close(second);
	reactor_free(f.rx);
	return 0;
}

static void test_out_of_descriptors(void **state)
{
	int status;
	pid_t pid;
	(void)state;
	fflush(NULL);
	pid = fork();
	if (pid == 0)
		_exit(starve());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static int open_descriptors(void)
{
	int n = 0;
	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) != -1;
	return n;
}

static void test_thousands_cost_a_descriptor_each(void **state)
{
	struct fixture *f = *state;
	struct listener *many[20];
	int before = open_descriptors(), err;
	for (size_t i = 0; i < ARRAY_LEN(many); i++) {
		struct addr a = at("127.0.0.1:0");
		many[i] = listener_new(f->rx, &a, on_accept, f, &err);
		assert_non_null(many[i]);
	}
	assert_int_equal(open_descriptors(), before + (int)ARRAY_LEN(many) + 1);
	/* A port that was asked for is the port that is told, without asking the kernel. */
	struct addr again = at("127.0.0.1:0");
	again.port = listener_port(many[0]);
	listener_close(many[0]);
	many[0] = listener_new(f->rx, &again, on_accept, f, &err);
	assert_non_null(many[0]);
	assert_int_equal(listener_port(many[0]), again.port);
	for (size_t i = 0; i < ARRAY_LEN(many); i++)
		listener_close(many[i]);
	assert_int_equal(open_descriptors(), before);
}

/* --- unix sockets --- */

static bool there(const struct addr *a)
{
	struct stat st;
	return lstat(a->path, &st) == 0;
}

static void test_unix(void **state)
{
	struct fixture *f = *state;
	struct addr a = at_file("s");
	mode_t old = umask(0);
	struct stat st;
	int fd;
	start(f, a);
	assert_int_equal(umask(old), 0);
	assert_int_equal(lstat(a.path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	fd = client(&a);
	assert_true(fd >= 0);
	wait_for(f, 1);
	assert_string_equal(f->peer, "unix://@");
	close(fd);
	assert_int_equal(error_of(f, a), -EADDRINUSE); /* we live */
	assert_true(there(&a));
	listener_close(f->l);
	f->l = NULL;
	assert_false(there(&a));
}

static void test_unix_stale(void **state)
{
	struct fixture *f = *state;
	struct addr a = at_file("stale");
	struct sockaddr_storage ss;
	socklen_t len;
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	addr_literal(&a, &ss, &len);
	assert_int_equal(bind(fd, (struct sockaddr *)&ss, len), 0);
	close(fd);
	assert_true(there(&a));
	start(f, a);
	fd = client(&a);
	assert_true(fd >= 0);
	wait_for(f, 1);
	close(fd);
}

static void test_unix_never_replaces_a_file(void **state)
{
	struct fixture *f = *state;
	struct addr a = at_file("precious");
	int fd = open(a.path, O_CREAT | O_WRONLY, 0600);
	assert_int_not_equal(fd, -1);
	close(fd);
	assert_int_equal(error_of(f, a), -EADDRINUSE);
	assert_true(there(&a));
	unlink(a.path);
}

static void test_unix_successor_keeps_its_file(void **state)
{
	struct fixture *f = *state;
	struct addr a = at_file("passed-on");
	struct listener *first, *second;
	int err;
	first = listener_new(f->rx, &a, on_accept, f, &err);
	unlink(a.path);
	second = listener_new(f->rx, &a, on_accept, f, &err);
	assert_non_null(first);
	assert_non_null(second);
	listener_close(first);
	assert_true(there(&a));
	listener_close(second);
	assert_false(there(&a));
}

static void test_unix_abstract(void **state)
{
	struct fixture *f = *state;
	struct addr a = { .kind = ADDR_UNIX };
	int fd;
	snprintf(a.path, sizeof(a.path), "@test-listen-%d", getpid());
	start(f, a);
	fd = client(&a);
	assert_true(fd >= 0);
	wait_for(f, 1);
	close(fd);
	assert_int_equal(error_of(f, a), -EADDRINUSE);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(test_accepts),
		TEST(test_closed_stops_listening),
		TEST(test_localhost_is_both_families),
		TEST(test_any),
		TEST(test_errors),
		TEST(test_closed_by_owner_in_callback),
		TEST(test_budget),
		cmocka_unit_test(test_out_of_descriptors),
		TEST(test_thousands_cost_a_descriptor_each),
		TEST(test_unix),
		TEST(test_unix_stale),
		TEST(test_unix_never_replaces_a_file),
		TEST(test_unix_successor_keeps_its_file),
		TEST(test_unix_abstract),
	};
	int r;
	snprintf(dir, sizeof(dir), "/tmp/test-listen-XXXXXX");
	if (!mkdtemp(dir))
		return 1;
	r = cmocka_run_group_tests(tests, NULL, NULL);
	rmdir(dir);
	return r;
}
