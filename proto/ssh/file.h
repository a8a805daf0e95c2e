/* Small files of users, read in one go at a program's start. Private to proto/ssh. */
#ifndef PROTO_SSH_FILE_H
#define PROTO_SSH_FILE_H

#include "reactor/base.h"

/* The whole of path, at most max bytes, to be free()d: 0, or -errno (-EFBIG: longer) with no text.
 */
int file_load(const char *path, size_t max, char **text, size_t *n);

#endif
