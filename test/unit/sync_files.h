/*
 * Directories for the tests of file sync: made under /tmp, removed with all that is in them.
 */
#ifndef TEST_SYNC_FILES_H
#define TEST_SYNC_FILES_H

#include <stdbool.h>
#include <stddef.h>

/* A new directory, under /tmp unless the name begins with '/'; to be passed to files_free. */
char *files_new(const char *name);
void files_free(char *dir);
/* DIR/PATH; the same few buffers again and again. */
const char *at(const char *dir, const char *path);
/* In a shell. Fails the test if it fails. */
void shell(const char *dir, const char *command);
void file_put(const char *path, const char *text);
void file_append(const char *path, const char *text);
double seconds(void);
/* Does the kernel let us have fanotify on the filesystem of dir? Asked without the code under test.
 */
bool fanotify_works(const char *dir);
/* How many events the kernel keeps, of "inotify" or "fanotify". */
unsigned events_max(const char *kind);

#endif
