#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cmd/tsctl/ask.h"
#include "cmd/tsctl/daemon.h"
#include "cmd/tsctl/forward.h"
#include "cmd/tsctl/state_file.h"
#include "json/json.h"
#include "reactor/err.h"

enum {
	START_MS = 20 * 1000, /* for a daemon to come up, and for one that ends to be gone */
	PAUSE_US = 20 * 1000,
	ERROR_MAX = 4096
};

static uint64_t now_ms(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void become_daemon(int error_fd)
{
	int null = open("/dev/null", O_RDWR);
	char *const argv[] = { "tsctl", "daemon", "--detached", NULL };
	char path[PATH_MAX] = "";
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);
	setsid();
	dup2(null, 0);
	dup2(null, 1);
	dup2(error_fd, 2);           /* until it serves, then it has its log */
	close_range(3, UINT_MAX, 0); /* whatever a script has open, its locks among them */
	if (n > 0)
		execv(path, argv); /* so that ps shows its name */
	execv("/proc/self/exe", argv);
	fprintf(stderr, "Error: cannot start the daemon: %s\n", err_text(-errno));
	_exit(1);
}

/* Starts it and waits until it serves: 0; also when another one runs. Else 1, and its reason was
 * printed. */
static int start_daemon(void)
{
	char text[ERROR_MAX];
	size_t n = 0;
	int fd[2];
	if (pipe2(fd, O_CLOEXEC) == -1)
		return forward_fail(1, err_text(-errno));
	pid_t pid = fork();
	if (pid == 0)
		become_daemon(fd[1]);
	close(fd[1]);
	if (pid == -1) {
		close(fd[0]);
		return forward_fail(1, err_text(-errno));
	}
	/* It closes the pipe when it serves. What it says before that is why it does not. */
	for (;;) {
		ssize_t got = read(fd[0], text + n, sizeof(text) - n);
		if (got <= 0 && !(got == -1 && errno == EINTR))
			break;
		n += got > 0 ? (size_t)got : 0;
	}
	close(fd[0]);
	int status = 0;
	waitpid(pid, &status, n ? 0 : WNOHANG); /* it lives on: init is its parent soon */
	if (n == 0 && status == 0)
		return 0;
	if (n == 0)
		return forward_fail(1, "the daemon ended as soon as it was started");
	fwrite(text, 1, n, stderr);
	return 1;
}

static bool not_there(int r)
{
	return r == -ECONNREFUSED || r == -ENOENT;
}

/* The daemon went away while it was asked. */
static bool broke_off(int r)
{
	return r == -ECONNRESET || r == -EPIPE || r == -ERR_TRUNCATED;
}

int daemon_ask(const struct daemon_request *q, struct buf *reply, int *status, bool *again)
{
	struct instance i;
	char err[1024], state[PATH_MAX];
	*again = false;
	if (instance_init_single(&i, DAEMON_NAME, err, sizeof(err)) < 0 ||
	    state_path(state, sizeof(state), q->state, q->start, err, sizeof(err)) < 0)
		return forward_fail(1, err);
	for (uint64_t give_up = now_ms() + START_MS;;) {
		int r = control_ask(&i.socket, q->method, q->path, q->body, q->ms, status, reply);
		if (r == 0 && *status != 503)
			return 0;
		buf_end(reply);
		if (r < 0 && !not_there(r) && !broke_off(r)) {
			snprintf(err, sizeof(err), "the daemon does not answer on %s: %s",
				 i.socket.path, err_text(r));
			return forward_fail(1, err);
		}
		*again |= broke_off(r);
		if (not_there(r)) {
			if (!q->start && access(state, F_OK) == -1 && instance_pid(&i) == 0)
				return -ENOENT;
			if (start_daemon())
				return 1;
		}
		if (now_ms() > give_up) {
			snprintf(err, sizeof(err),
				 "the daemon (pid %d) neither answers on %s nor ends",
				 instance_pid(&i), i.socket.path);
			return forward_fail(1, err);
		}
		usleep(PAUSE_US);
	}
}

int daemon_complain(const struct buf *reply, int http_status)
{
	struct json_doc *doc = json_parse(buf_data(reply), NULL, NULL);
	struct slice message = SLICE("");
	char text[2048];
	if (doc)
		json_str(doc, json_find(json_root(doc), "message"), &message);
	if (message.n)
		snprintf(text, sizeof(text), "%.*s", SLICE_FMT(message));
	else
		snprintf(text, sizeof(text), "the daemon answered %d", http_status);
	json_free(doc);
	return forward_fail(1, text);
}
