#include "proto/ssh/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/ssh/ssh.h"
#include "reactor/crypto_cipher.h"
#include "reactor/err.h"

int file_load(const char *path, size_t max, char **text, size_t *n)
{
	struct stat st;
	ssize_t r = 0;
	*text = NULL;
	*n = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	/* A pipe (a shell's <(...)) says 0 and may give as much as max. */
	size_t room = max + 1;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
		room = MIN(room, (size_t)st.st_size + 1024);
	char *p = xmalloc(room + 1);
	while (*n < room && (r = read(fd, p + *n, room - *n)) > 0)
		*n += (size_t)r;
	int code = r < 0 ? -errno : *n == room || *n > max ? -EFBIG : 0;
	close(fd);
	if (code < 0) {
		secret_wipe(p, *n);
		free(p);
		*n = 0;
		return code;
	}
	p[*n] = '\0';
	*text = p;
	return 0;
}

char *ssh_known_hosts_load(const char *path, size_t *n, char *err, size_t errlen)
{
	char *text;
	int r = file_load(path, SSH_KNOWN_HOSTS_MAX, &text, n);
	if (r == -ENOENT)
		return xstrdup("");
	if (r < 0)
		snprintf(err, errlen, "known_hosts %s: %s", path, err_text(r));
	return text;
}
