/* Outgoing connections: reactor/dial.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "reactor/dial.h"
#include "reactor/dns.h"
#include "reactor/err.h"

static char dir[64];

struct fixture {
	struct reactor *rx;
	struct stream *s;
	struct task task;
	bool settled;
	int code;
};

static int set_up(void **state)
{
	struct fixture *f = xcalloc(1, sizeof(*f));
	f->rx = reactor_new();
	*state = f;
	return 0;
}

/* Whatever happened, nothing of a dial may be left. */
static int tear_down(void **state)
{
	struct fixture *f = *state;
	stream_close(f->s, 0);
	assert_int_equal(reactor_stats(f->rx)->handles, 0);
	assert_int_equal(reactor_stats(f->rx)->timers, 0);
	reactor_free(f->rx);
	dns_config(NULL, NULL, 0);
	free(f);
	return 0;
}

static void on_stream(struct task *t)
{
	struct fixture *f = container_of(t, struct fixture, task);
	f->code = stream_open_yet(f->s);
	f->settled = f->code != -EAGAIN;
}

static struct addr at(const char *text)
{
	struct addr a;
	char err[128] = "";
	if (addr_parse(&a, slice_str(text), 0, err, sizeof(err)))
		fail_msg("%s", err);
	return a;
}

static struct addr at_port(const char *host, uint16_t port)
{
	struct addr a = { .kind = ADDR_TCP, .port = port };
	snprintf(a.host, sizeof(a.host), "%s", host);
	return a;
}

static void dial_start(struct fixture *f, const struct addr *a, uint64_t ms)
{
	f->s = dial(f->rx, a, ms);
	assert_non_null(f->s);
	task_init(&f->task, on_stream);
	stream_bind(f->s, &f->task);
}

static int dial_code(struct fixture *f, const struct addr *a, uint64_t ms)
{
	dial_start(f, a, ms);
	reactor_run_until(f->rx, &f->settled);
	return f->code;
}

/* A listening socket on ip, on *port or else (0) on a free one. -1: no such address here. */
static int server(const char *ip, uint16_t *port, int backlog)
{
	struct addr a = at_port(ip, *port);
	struct sockaddr_storage ss;
	socklen_t len;
	const int on = 1;
	int fd;
	addr_literal(&a, &ss, &len);
	fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (fd == -1 || bind(fd, (struct sockaddr *)&ss, len) == -1 || listen(fd, backlog) == -1) {
		close(fd);
		return -1;
	}
	getsockname(fd, (struct sockaddr *)&ss, &len);
	*port = ntohs(((struct sockaddr_in *)&ss)->sin_port);
	return fd;
}

/* A port on which ip refuses. */
static uint16_t closed_port(const char *ip)
{
	uint16_t port = 0;
	close(server(ip, &port, 1));
	return port;
}

/* Fills the accept queue of a server with backlog 0: later connects are not answered. */
static void fill(const char *ip, uint16_t port, int fd[3])
{
	struct addr a = at_port(ip, port);
	struct sockaddr_storage ss;
	socklen_t len;
	addr_literal(&a, &ss, &len);
	for (int i = 0; i < 3; i++) {
		fd[i] = socket(ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		connect(fd[i], (struct sockaddr *)&ss, len);
	}
}

static void close_all(const int fd[3])
{
	for (int i = 0; i < 3; i++)
		close(fd[i]);
}

static void hosts(const char *text)
{
	static char path[128];
	FILE *out;
	snprintf(path, sizeof(path), "%s/hosts", dir);
	out = fopen(path, "w");
	assert_non_null(out);
	fputs(text, out);
	fclose(out);
	dns_config(path, "/nonexistent", 1); /* no name server answers on port 1 */
}

static uint64_t now_ms(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void test_literal(void **state)
{
	struct fixture *f = *state;
	uint16_t port = 0;
	int fd = server("127.0.0.1", &port, 5), peer;
	struct addr a = at_port("127.0.0.1", port);
	char c;
	assert_int_equal(dial_code(f, &a, 5000), 0);
	assert_int_equal(stream_write(f->s, "x", 1), 1);
	peer = accept(fd, NULL, NULL);
	assert_int_equal(read(peer, &c, 1), 1);
	assert_int_equal(c, 'x');
	close(peer);
	close(fd);
}

static void test_refused(void **state)
{
	struct fixture *f = *state;
	struct addr a = at_port("127.0.0.1", closed_port("127.0.0.1"));
	char want[128];
	uint64_t start = now_ms();
	assert_int_equal(dial_code(f, &a, 5000), -ECONNREFUSED);
	assert_true(now_ms() - start < 1000);
	snprintf(want, sizeof(want), "dial tcp 127.0.0.1:%u: connection refused", a.port);
	assert_string_equal(stream_why(f->s, f->code), want);
}

/* A network of our own in which the kernel can pick only one source port: the one dialled. */
static bool one_port_network(uint16_t port)
{
	struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	FILE *range;
	int fd, r;
	if (unshare(CLONE_NEWNET) == -1)
		return false;
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	r = ioctl(fd, SIOCSIFFLAGS, &lo);
	close(fd);
	range = fopen("/proc/sys/net/ipv4/ip_local_port_range", "w");
	if (r == -1 || !range)
		return false;
	fprintf(range, "%u %u\n", port, port);
	return fclose(range) == 0;
}

/* Exit code 0: refused; 77: cannot try here. */
static int dial_self(void)
{
	struct fixture f = { .rx = reactor_new() };
	struct addr a = at_port("127.0.0.1", 40001);
	int code = 77;
	if (one_port_network(a.port))
		code = dial_code(&f, &a, 5000) == -ECONNREFUSED ? 0 : 1;
	stream_close(f.s, 0);
	reactor_free(f.rx);
	return code;
}

static void test_self_connect_is_refused(void **state)
{
	int status;
	pid_t pid;
	(void)state;
	fflush(NULL);
	pid = fork();
	if (pid == 0)
		_exit(dial_self());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_name(void **state)
{
	struct fixture *f = *state;
	uint16_t port = 0;
	int fd = server("127.0.0.1", &port, 5);
	struct addr a = at_port("Some.Host", port);
	hosts("127.0.0.1 some.host\n");
	assert_int_equal(dial_code(f, &a, 5000), 0);
	close(fd);
}

static void test_name_refused(void **state)
{
	struct fixture *f = *state;
	struct addr a = at_port("some.host", closed_port("127.0.0.1"));
	char want[128];
	hosts("127.0.0.1 some.host\n");
	assert_int_equal(dial_code(f, &a, 5000), -ECONNREFUSED);
	snprintf(want, sizeof(want), "dial tcp some.host:%u: connection refused", a.port);
	assert_string_equal(stream_why(f->s, f->code), want);
}

static void test_name_unknown(void **state)
{
	struct fixture *f = *state;
	struct addr a = at_port("no..host", 80);
	assert_int_equal(dial_code(f, &a, 5000), -ERR_DNS_NOT_FOUND);
	assert_string_equal(stream_why(f->s, f->code), "dial tcp: lookup no..host: no such host");
}

static void test_name_servers_dead(void **state)
{
	struct fixture *f = *state;
	struct addr a = at_port("other.host", 80);
	hosts("");
	assert_int_equal(dial_code(f, &a, 5000), -ERR_DNS_FAIL);
	assert_string_equal(stream_why(f->s, f->code),
			    "dial tcp: lookup other.host: name server failure");
}

static void test_no_host_is_localhost(void **state)
{
	struct fixture *f = *state;
	uint16_t port = 0;
	int fd = server("127.0.0.1", &port, 5);
	struct addr a = at_port("", port);
	assert_int_equal(dial_code(f, &a, 5000), 0);
	close(fd);
}

/* v6 refuses at once: v4 follows at once. */
static void test_second_family_after_refusal(void **state)
{
	struct fixture *f = *state;
	uint16_t port = 0;
	int fd = server("127.0.0.1", &port, 5);
	struct addr a = at_port("both.host", port);
	uint64_t start = now_ms();
	hosts("::1 both.host\n127.0.0.1 both.host\n");
	assert_int_equal(dial_code(f, &a, 5000), 0);
	assert_true(now_ms() - start < 200);
	close(fd);
}

/* v6 says nothing: v4 follows after 250 ms, and what is left of v6 is cleaned up. */
static void test_second_family_after_silence(void **state)
{
	struct fixture *f = *state;
	uint16_t port = 0;
	int six = server("::1", &port, 0), four, waiting[3];
	struct addr a = at_port("both.host", port);
	uint64_t start, took;
	if (six == -1)
		skip();
	four = server("127.0.0.1", &port, 5);
	assert_int_not_equal(four, -1);
	fill("::1", port, waiting);
	hosts("::1 both.host\n127.0.0.1 both.host\n");
	start = now_ms();
	assert_int_equal(dial_code(f, &a, 5000), 0);
	took = now_ms() - start;
	assert_in_range(took, 240, 900);
	close_all(waiting);
	close(six);
	close(four);
}

/* The first family answers within the delay: the second is not bothered. */
static void test_first_family_preferred(void **state)
{
	struct fixture *f = *state;
	uint16_t port = 0;
	int six = server("::1", &port, 5), four;
	struct addr a = at_port("both.host", port);
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	if (six == -1)
		skip();
	four = server("127.0.0.1", &port, 5);
	hosts("127.0.0.1 both.host\n::1 both.host\n");
	assert_int_equal(dial_code(f, &a, 5000), 0);
	assert_int_equal(getpeername(stream_fd(f->s), (struct sockaddr *)&ss, &len), 0);
	assert_int_equal(ss.ss_family, AF_INET6);
	close(six);
	close(four);
}

/* Both fail: the refusal is told, not that a family has no route. */
static void test_telling_error(void **state)
{
	struct fixture *f = *state;
	struct addr a = at_port("both.host", closed_port("127.0.0.1"));
	hosts("ff02::1 both.host\n127.0.0.1 both.host\n127.0.0.2 both.host\n");
	assert_int_equal(dial_code(f, &a, 5000), -ECONNREFUSED);
}

static void test_timeout(void **state)
{
	struct fixture *f = *state;
	uint16_t port = 0;
	int fd = server("127.0.0.1", &port, 0), waiting[3];
	struct addr a = at_port("127.0.0.1", port);
	char want[128];
	fill("127.0.0.1", port, waiting);
	assert_int_equal(dial_code(f, &a, 100), -ETIMEDOUT);
	snprintf(want, sizeof(want), "dial tcp 127.0.0.1:%u: i/o timeout", port);
	assert_string_equal(stream_why(f->s, f->code), want);
	close_all(waiting);
	close(fd);
}

struct clock {
	struct timer timer;
	bool over;
};

static void clock_fire(struct timer *t)
{
	container_of(t, struct clock, timer)->over = true;
}

static void turn_for(struct fixture *f, uint64_t ms)
{
	struct clock c = { .over = false };
	timer_init(&c.timer, clock_fire);
	timer_set(f->rx, &c.timer, ms);
	reactor_run_until(f->rx, &c.over);
}

/* One more attempt beside the first, begun anew now and then, but never more than these two. */
static void test_silence_is_asked_again(void **state)
{
	struct fixture *f = *state;
	uint16_t port = 0;
	int fd = server("127.0.0.1", &port, 0), waiting[3];
	struct addr a = at_port("127.0.0.1", port);
	fill("127.0.0.1", port, waiting);
	dial_start(f, &a, 20000);
	turn_for(f, 200);
	assert_int_equal(reactor_stats(f->rx)->handles, 1);
	turn_for(f, 1600);
	assert_int_equal(reactor_stats(f->rx)->handles, 2);
	assert_false(f->settled);
	close_all(waiting);
	int got;
	fcntl(fd, F_SETFL, O_NONBLOCK);
	while ((got = accept(fd, NULL, NULL)) != -1)
		close(got);
	reactor_run_until(f->rx, &f->settled);
	assert_int_equal(f->code, 0);
	assert_int_equal(reactor_stats(f->rx)->handles, 1);
	assert_int_equal(reactor_stats(f->rx)->timers, 0);
	close(fd);
}

static int unix_server(const struct addr *a, int backlog)
{
	struct sockaddr_storage ss;
	socklen_t len;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	addr_literal(a, &ss, &len);
	assert_int_equal(bind(fd, (struct sockaddr *)&ss, len), 0);
	assert_int_equal(listen(fd, backlog), 0);
	return fd;
}

static void test_unix(void **state)
{
	struct fixture *f = *state;
	struct addr a = { .kind = ADDR_UNIX };
	int fd;
	snprintf(a.path, sizeof(a.path), "%s/s", dir);
	fd = unix_server(&a, 5);
	assert_int_equal(dial_code(f, &a, 5000), 0);
	close(fd);
	unlink(a.path);
}

static void test_unix_missing(void **state)
{
	struct fixture *f = *state;
	struct addr a = at("unix:///nonexistent/x.sock");
	assert_int_equal(dial_code(f, &a, 5000), -ENOENT);
	assert_string_equal(stream_why(f->s, f->code),
			    "dial unix /nonexistent/x.sock: no such file or directory");
}

static void test_unix_dead(void **state)
{
	struct fixture *f = *state;
	struct addr a = { .kind = ADDR_UNIX };
	snprintf(a.path, sizeof(a.path), "%s/dead", dir);
	close(unix_server(&a, 1));
	assert_int_equal(dial_code(f, &a, 5000), -ECONNREFUSED);
	unlink(a.path);
}

struct late {
	struct timer timer;
	int fd;
};

static void accept_one(struct timer *t)
{
	close(accept(container_of(t, struct late, timer)->fd, NULL, NULL));
}

/* A full backlog: waits until the server takes one, or until the deadline. */
static void test_unix_full(void **state)
{
	struct fixture *f = *state;
	struct addr a = { .kind = ADDR_UNIX };
	struct sockaddr_storage ss;
	struct late late;
	socklen_t len;
	int first;
	snprintf(a.path, sizeof(a.path), "@test-dial-%d", getpid());
	late.fd = unix_server(&a, 0);
	addr_literal(&a, &ss, &len);
	first = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(connect(first, (struct sockaddr *)&ss, len), 0);
	assert_int_equal(dial_code(f, &a, 60), -ETIMEDOUT);
	stream_close(f->s, 0);
	f->settled = false;
	timer_init(&late.timer, accept_one);
	timer_set(f->rx, &late.timer, 50);
	assert_int_equal(dial_code(f, &a, 5000), 0);
	close(first);
	close(late.fd);
}

static void test_closed_by_owner(void **state)
{
	struct fixture *f = *state;
	uint16_t port = 0;
	int fd = server("127.0.0.1", &port, 0), waiting[3];
	struct addr connecting = at_port("127.0.0.1", port), looking = at_port("slow.host", 80);
	fill("127.0.0.1", port, waiting);
	dial_start(f, &connecting, 5000);
	assert_int_equal(stream_open_yet(f->s), -EAGAIN);
	assert_int_equal(reactor_stats(f->rx)->handles, 1);
	stream_close(f->s, 0);
	assert_int_equal(reactor_stats(f->rx)->handles, 0);
	assert_int_equal(reactor_stats(f->rx)->timers, 0);
	hosts("");
	dial_start(f, &looking, 5000);
	stream_close(f->s, -ERR_CANCELLED);
	f->s = NULL; /* tear_down counts what is left */
	close_all(waiting);
	close(fd);
}

static void test_udp(void **state)
{
	struct fixture *f = *state;
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001) };
	socklen_t len = sizeof(in);
	struct addr a = at("udp:127.0.0.1:1");
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	char two[2];
	assert_int_equal(bind(fd, (struct sockaddr *)&in, len), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&in, &len), 0);
	a.port = ntohs(in.sin_port);
	assert_int_equal(dial_code(f, &a, 5000), 0);
	assert_int_equal(stream_write(f->s, "hi", 2), 2);
	assert_int_equal(recv(fd, two, sizeof(two), 0), 2);
	close(fd);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(test_literal),
		TEST(test_refused),
		cmocka_unit_test(test_self_connect_is_refused),
		TEST(test_name),
		TEST(test_name_refused),
		TEST(test_name_unknown),
		TEST(test_name_servers_dead),
		TEST(test_no_host_is_localhost),
		TEST(test_second_family_after_refusal),
		TEST(test_second_family_after_silence),
		TEST(test_first_family_preferred),
		TEST(test_telling_error),
		TEST(test_timeout),
		TEST(test_silence_is_asked_again),
		TEST(test_unix),
		TEST(test_unix_missing),
		TEST(test_unix_dead),
		TEST(test_unix_full),
		TEST(test_closed_by_owner),
		TEST(test_udp),
	};
	char path[128];
	int r;
	snprintf(dir, sizeof(dir), "/tmp/test-dial-XXXXXX");
	if (!mkdtemp(dir))
		return 1;
	r = cmocka_run_group_tests(tests, NULL, NULL);
	snprintf(path, sizeof(path), "%s/hosts", dir);
	unlink(path);
	rmdir(dir);
	return r;
}
