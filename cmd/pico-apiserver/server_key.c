/* The server's own SSH key, for commands over SSH: made once, kept in the state directory. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "cmd/pico-apiserver/api.h"
#include "proto/ssh/keygen.h"
#include "reactor/crypto_cipher.h"
#include "reactor/err.h"

static int read_or_make(const char *path, const char *line_path)
{
	char text[SSH_KEYGEN_TEXT_MAX], line[SSH_KEYGEN_LINE_MAX];
	if (access(path, F_OK) == 0 && access(line_path, F_OK) == 0)
		return 0;
	size_t n = ssh_keygen(text, line);
	int r = 0;
	for (int i = 0; i < 2 && r == 0;
	     i++) { /* the public half last: it says that both are there */
		struct slice s = i == 0 ? slice_of(text, n) : slice_str(line);
		int fd =
		    open(i == 0 ? path : line_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		if (fd == -1 || write(fd, s.p, s.n) != (ssize_t)s.n)
			r = -EIO;
		if (fd != -1)
			close(fd);
	}
	secret_wipe(text, sizeof(text));
	return r;
}

int server_key_load(struct server *sv, const char *dir, char *err, size_t errlen)
{
	static char line[SSH_KEYGEN_LINE_MAX];
	char *path = xasprintf("%s/ssh_key", dir), *public = xasprintf("%s/ssh_key.pub", dir);
	int r = read_or_make(path, public);
	if (r == 0) {
		sv->ssh_key = ssh_key_load(path, err, errlen);
		int fd = open(public, O_RDONLY | O_CLOEXEC);
		ssize_t n = fd == -1 ? -1 : read(fd, line, sizeof(line) - 1);
		if (fd != -1)
			close(fd);
		line[n > 0 ? n : 0] = '\0';
		sv->sessions.server_key = n > 0 ? line : NULL;
		r = sv->ssh_key ? 0 : -EINVAL;
	} else {
		snprintf(err, errlen, "%s: %s", path, err_text(r));
	}
	free(path);
	free(public);
	return r;
}
