#include "reactor/signals.h"

#include <errno.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "reactor/log.h"

/* One signal a run: on_signal may close us. */
static void signals_run(struct task *t)
{
	struct signals *s = container_of(t, struct signals, task);
	struct signalfd_siginfo info;
	if (read(s->handle.fd, &info, sizeof(info)) != (ssize_t)sizeof(info)) {
		s->handle.ready = 0;
		return;
	}
	task_wake(s->handle.rx, t);
	s->on_signal(s->arg, (int)info.ssi_signo);
}

void signals_open(struct signals *s, struct reactor *rx, const int *list,
		  void (*on_signal)(void *arg, int signo), void *arg)
{
	*s = (struct signals){ .on_signal = on_signal, .arg = arg };
	task_init(&s->task, signals_run);
	sigemptyset(&s->mask);
	for (; *list; list++)
		sigaddset(&s->mask, *list);
	sigprocmask(SIG_BLOCK, &s->mask, NULL);
	int fd = signalfd(-1, &s->mask, SFD_NONBLOCK | SFD_CLOEXEC);
	if (fd == -1 || handle_open(&s->handle, rx, fd, &s->task) < 0) {
		log_error("signals signalfd: %s", strerror(errno));
		abort();
	}
}

void signals_close(struct signals *s)
{
	task_cancel(&s->task);
	handle_close(&s->handle);
	sigprocmask(SIG_UNBLOCK, &s->mask, NULL);
}
