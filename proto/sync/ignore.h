/*
 * Which paths a sync leaves alone, in the syntax of gitignore(5): '#', '!', trailing spaces, '/' at
 * the start, in the middle and at the end, '*', '?', '[...]', '**'. Later patterns win; nothing
 * below an ignored directory can come back. Pure; a pattern never costs more than its length times
 * the path's. The far side gets the same text, so both always agree.
 */
#ifndef SYNC_IGNORE_H
#define SYNC_IGNORE_H

#include "reactor/base.h"

struct ignore;
/* text: patterns, one a line (the .tsignore file, then flags: the caller joins them). NULL
 * with a sentence naming the line for more than 10,000 patterns or 1 MiB. Never NULL for "". */
struct ignore *ignore_new(struct slice text, char *why, size_t whylen);
void ignore_free(struct ignore *);
/* Is path (relative, no trailing '/') ignored by itself? Its parents are not, the caller has asked.
 */
bool ignore_match(const struct ignore *, struct slice path, bool is_dir);
/* The patterns of --ignore-vcs. */
#define IGNORE_VCS ".git/\n.svn/\n.hg/\n.bzr/\n_darcs/\nCVS/\n"

#endif
