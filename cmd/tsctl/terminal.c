#include "cmd/tsctl/terminal.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

static struct termios before;
static bool known, raw;

int terminal_raw(void)
{
	if (!known) {
		if (tcgetattr(0, &before) == -1)
			return -errno;
		known = true;
		atexit(terminal_restore);
	}
	struct termios t = before;
	cfmakeraw(&t);
	/* Typed ahead bytes are for the remote side: nothing is flushed. */
	if (tcsetattr(0, TCSADRAIN, &t) == -1)
		return -errno;
	raw = true;
	return 0;
}

void terminal_restore(void)
{
	if (raw)
		tcsetattr(0, TCSADRAIN, &before);
	raw = false;
}

bool terminal_size(unsigned short *rows, unsigned short *cols)
{
	struct winsize size = { 0 };
	bool ok = ioctl(0, TIOCGWINSZ, &size) == 0 && size.ws_row && size.ws_col;
	*rows = ok ? size.ws_row : 0;
	*cols = ok ? size.ws_col : 0;
	return ok;
}
