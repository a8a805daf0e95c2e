/*
 * The local terminal while a remote one is shown in it: raw mode that is always taken back.
 */
#ifndef TSCTL_TERMINAL_H
#define TSCTL_TERMINAL_H

#include "reactor/base.h"

/* Makes the terminal on fd 0 raw. At exit, if not before, it is restored. 0 or -errno. */
int terminal_raw(void);
/* Back to what it was before the first terminal_raw; does nothing if it is. */
void terminal_restore(void);
/* Size of the terminal on fd 0; false (and 0) when it does not know. */
bool terminal_size(unsigned short *rows, unsigned short *cols);

#endif
