#include "sync_files.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "reactor/base.h"

extern char **environ;

const char *at(const char *dir, const char *path)
{
	static char all[8][8192];
	static unsigned next;
	char *out = all[next++ % 8];
	snprintf(out, sizeof(all[0]), "%s%s%s", dir, *path ? "/" : "", path);
	return out;
}

void shell(const char *dir, const char *command)
{
	char *text = xasprintf("cd %s && %s", dir, command);
	char *argv[] = { "sh", "-c", text, NULL };
	pid_t pid;
	int status;

	BUG_ON(posix_spawn(&pid, "/bin/sh", NULL, NULL, argv, environ) != 0);
	BUG_ON(waitpid(pid, &status, 0) != pid);
	if (status != 0)
		fprintf(stderr, "%s: status %d\n", text, status);
	BUG_ON(status != 0);
	free(text);
}

char *files_new(const char *name)
{
	char *dir = xasprintf("%s%s.XXXXXX", *name == '/' ? "" : "/tmp/", name);
	BUG_ON(!mkdtemp(dir));
	return dir;
}

void files_free(char *dir)
{
	char *command = xasprintf("chmod -R u+rwx %s; rm -rf %s", dir, dir);
	shell("/", command);
	free(command);
	free(dir);
}

static void put(const char *path, const char *text, int flags)
{
	int fd = open(path, O_WRONLY | O_CREAT | flags, 0644);
	if (fd < 0)
		perror(path);
	BUG_ON(fd < 0);
	BUG_ON(write(fd, text, strlen(text)) != (ssize_t)strlen(text));
	close(fd);
}

void file_put(const char *path, const char *text)
{
	put(path, text, O_TRUNC);
}

void file_append(const char *path, const char *text)
{
	put(path, text, O_APPEND);
}

double seconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

bool fanotify_works(const char *dir)
{
	int fd = fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_DFID_NAME | FAN_CLOEXEC, O_RDONLY);
	if (fd < 0)
		return false;
	int rc = fanotify_mark(fd, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_CREATE | FAN_ONDIR,
			       AT_FDCWD, dir);
	close(fd);
	return rc == 0;
}

unsigned events_max(const char *kind)
{
	char path[100];
	unsigned n = 0;

	snprintf(path, sizeof(path), "/proc/sys/fs/%s/max_queued_events", kind);
	FILE *f = fopen(path, "r");
	if (!f || fscanf(f, "%u", &n) != 1) // NOLINT(cert-err34-c)
		n = 0;
	if (f)
		fclose(f);
	return n;
}
