/* tsctl sync monitor: one sync at work. */
#include <signal.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "cmd/tsctl/forward.h"
#include "cmd/tsctl/sync_cli.h"
#include "cmd/tsctl/text.h"
#include "reactor/opt.h"

enum { BAR = 20, POLL_US = 200 * 1000, LINE_MS = 1000 };

static volatile sig_atomic_t stopped;

static void on_signal(int signo)
{
	(void)signo;
	stopped = 1;
}

struct watched {
	bool tty;
	char id[33];
	char last[1024];         /* printed, without what changes all the time */
	uint64_t files0, bytes0; /* done before this transfer */
	uint64_t at_ms, moved;   /* for the rate */
	double rate;
	uint64_t line_ms;
};

static uint64_t now_ms(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void note_rate(struct watched *m, struct json *sync)
{
	uint64_t now = now_ms();
	uint64_t moved = member_number(sync, "sent") + member_number(sync, "received");
	if (m->at_ms && now > m->at_ms && moved >= m->moved) {
		double rate = (double)(moved - m->moved) * 1000 / (double)(now - m->at_ms);
		m->rate = m->rate > 0 ? 0.7 * m->rate + 0.3 * rate : rate;
	}
	m->at_ms = now;
	m->moved = moved;
}

/* "[#########...........] 45%". */
static void put_bar(struct buf *b, double part)
{
	int full = (int)(part * BAR);
	buf_puts(b, "[");
	for (int i = 0; i < BAR; i++)
		buf_puts(b, i < full ? "#" : ".");
	buf_printf(b, "] %d%%", (int)(part * 100));
}

static void put_live(struct watched *m, struct buf *b, const struct sync_found *f)
{
	struct json *todo = json_find(f->sync, "todo"), *done = json_find(f->sync, "done");
	uint64_t files = member_number(todo, "files"), bytes = member_number(todo, "bytes");
	uint64_t files_done = member_number(done, "files"),
		 bytes_done = member_number(done, "bytes");
	if ((!files && !bytes) || files_done < m->files0 || bytes_done < m->bytes0) {
		m->files0 = files_done;
		m->bytes0 = bytes_done;
	}
	note_rate(m, f->sync);
	buf_printf(b, "%s: ", sync_label(f));
	if (files || bytes) {
		/* A file weighs 4 KiB beside its bytes. */
		double did =
		    (double)(bytes_done - m->bytes0) + 4096.0 * (double)(files_done - m->files0);
		double left = (double)bytes + 4096.0 * (double)files;
		put_bar(b, did / (did + left));
		buf_puts(b, " ");
	}
	sync_put_state(b, f);
	if (files || bytes)
		buf_printf(b, ", %s/s", bytes_text((uint64_t)m->rate));
	char *why = printable(member_text(f->source->doc, f->sync, "why"));
	if (why[0])
		buf_printf(b, ": %s", why);
	free(why);
}

static void show_live(struct watched *m, const struct sync_found *f)
{
	struct winsize size = { 0 };
	struct buf b;
	buf_init(&b, 8192);
	put_live(m, &b, f);
	struct slice line = buf_data(&b);
	if (ioctl(1, TIOCGWINSZ, &size) == 0 && size.ws_col > 1)
		line.n = MIN(line.n, (size_t)size.ws_col - 1);
	printf("\r\x1b[K%.*s", SLICE_FMT(line));
	fflush(stdout);
	buf_end(&b);
}

/* A line when something else is so; how much is left, once a second. */
static void show_line(struct watched *m, const struct sync_found *f)
{
	char key[1024];
	struct buf b;
	struct slice state = member_text(f->source->doc, f->sync, "state");
	char *why = printable(member_text(f->source->doc, f->sync, "why"));
	uint64_t now = now_ms();
	buf_init(&b, 8192);
	sync_put_state(&b, f);
	snprintf(key, sizeof(key), "%.*s %llu %llu %s", SLICE_FMT(state),
		 (unsigned long long)member_number(f->sync, "conflicts_total"),
		 (unsigned long long)member_number(f->sync, "problems_total"), why);
	bool moves = member_number(json_find(f->sync, "todo"), "bytes") > 0;
	if (strcmp(key, m->last) != 0 || (moves && now - m->line_ms >= LINE_MS)) {
		printf("%s: %.*s%s%s\n", sync_label(f), SLICE_FMT(buf_data(&b)), why[0] ? ": " : "",
		       why);
		fflush(stdout);
		memcpy(m->last, key, sizeof(key));
		m->line_ms = now;
	}
	free(why);
	buf_end(&b);
}

/* 0: it goes on; else the exit status plus one. */
static int look(struct watched *m, char *const *names, int n)
{
	struct sync_list l = { .n = 0 };
	struct sync_found f = { .sync = NULL };
	int r = sync_list_get(&l);
	if (r) {
		r++;
	} else if (!m->id[0]) {
		if (n == 0 && l.n == 1) {
			f = l.all[0];
		} else if (n == 0) {
			r = 1 + forward_fail(1, l.n ? "there are several syncs: say which"
						    : "there is no sync");
		} else if (sync_list_pick(&l, names, 1, false, &f) < 0) {
			r = 2;
		}
		if (r == 0 && f.source)
			snprintf(m->id, sizeof(m->id), "%.*s",
				 SLICE_FMT(member_text(f.source->doc, f.sync, "id")));
	} else {
		size_t i = 0;
		while (i < l.n && !slice_eq(member_text(l.all[i].source->doc, l.all[i].sync, "id"),
					    slice_str(m->id)))
			i++;
		if (i < l.n)
			f = l.all[i];
		else
			r = 1; /* it was terminated */
	}
	if (r == 0 && f.source && m->tty)
		show_live(m, &f);
	else if (r == 0 && f.source)
		show_line(m, &f);
	sync_list_end(&l);
	return r;
}

int cmd_sync_monitor(int argc, char **argv)
{
	const struct opt none[] = { { .kind = OPT_END } };
	const struct opt_command command = {
		.name = "tsctl sync monitor",
		.args = "[NAME|ID]",
		.summary = "Shows what a sync is doing, until Ctrl-C or the end of the sync.",
		.opts = none,
		.more =
		    "On a terminal one live line: how much is done, files and bytes left, rate. "
		    "Else a line whenever\nthe state changes. NAME may be left out if there is "
		    "one sync.\n",
	};
	int first = opt_parse(&command, argc, argv);
	if (first <= 0)
		return first == 0 ? 0 : SYNC_USAGE;
	if (argc - first > 1)
		return unexpected_argument(command.name, argv[first + 1]);
	struct watched m = { .tty = isatty(1) };
	struct sigaction sa = { .sa_handler = on_signal };
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	int r = 0;
	while (!stopped && (r = look(&m, argv + first, argc - first)) == 0)
		usleep(POLL_US);
	if (m.tty)
		printf("\n");
	return stopped || r == 0 ? 0 : r - 1;
}
