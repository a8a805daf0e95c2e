#include "proto/sync/worker.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>

#include "proto/sync/serve.h"
#include "proto/sync/session.h"
#include "reactor/err.h"
#include "reactor/log.h"

static struct reactor *rx;

static void on_ended(void *arg, int code, const char *why)
{
	(void)arg;
	if (code < 0)
		fprintf(stderr, "%s\n", why);
	reactor_stop(rx, code < 0 ? 1 : 0);
}

static int complain(const char *what, int err)
{
	fprintf(stderr, "%s: %s\n", what, err_text(err));
	return 1;
}

/* The end of the streams ends it, and neither a signal to a whole terminal nor the parent's own. */
static void begin(void)
{
	umask(022);
	signal(SIGINT, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	log_set_level("error"); /* a long turn is a worker's daily work */
	rx = reactor_new();
}

/* What a turn of a worker brings is more than a pipe's usual 64 KiB, and whoever is at the other
 * end would be idle until its next turn. (More still would count against the user's limit: pipe(7),
 * pipe-user-pages-soft.) */
static int streams(struct stream **in, struct stream **out)
{
	enum { PIPE_BYTES = 512 * 1024 };
	int err = 0;
	fcntl(0, F_SETPIPE_SZ, PIPE_BYTES);
	fcntl(1, F_SETPIPE_SZ, PIPE_BYTES);
	*in = stdio_stream_new(rx, 0, &err);
	*out = *in ? stdio_stream_new(rx, 1, &err) : NULL;
	return *out ? 0 : err;
}

int sync_far_main(int argc, char **argv)
{
	struct stream *in, *out;
	if (argc != 2 || argv[0][0] != '/' || argv[1][0] != '/') {
		fprintf(stderr, "guest %s is started by guest itself\n", SYNC_WORKER_NAME);
		return 2;
	}
	begin();
	int r = streams(&in, &out);
	if (r < 0)
		return complain("the worker's standard input and output", r);
	struct serve *s = serve_new(rx, in, out, argv[0], argv[1], on_ended, NULL);
	int code = reactor_run(rx);
	serve_free(s);
	reactor_free(rx);
	return code;
}

int sync_brain_main(void)
{
	struct stream *in, *out, *control = NULL;
	struct stat st;
	if (fstat(3, &st) == -1 || !S_ISSOCK(st.st_mode)) {
		fprintf(stderr, "tsctl %s is started by tsctl itself\n", SYNC_WORKER_NAME);
		return 2;
	}
	begin();
	int r = streams(&in, &out);
	if (r == 0) {
		control = stdio_stream_new(rx, 3, &r);
		r = control ? 0 : r;
	}
	if (r < 0)
		return complain("the worker's streams", r);
	struct session *s = session_new(rx, in, out, control, on_ended, NULL);
	int code = reactor_run(rx);
	session_free(s);
	reactor_free(rx);
	return code;
}
