/*
 * What several commands print, and how they read a reply.
 */
#ifndef TSCTL_TEXT_H
#define TSCTL_TEXT_H

#include "json/json.h"

/* "12 B", "3.4 MB"; one of eight rotating static buffers. */
const char *bytes_text(uint64_t n);
/* A member of an object as text, "" if there is none; lives as long as the document. */
struct slice member_text(struct json_doc *, struct json *object, const char *name);
/* As a number, 0 if there is none. */
uint64_t member_number(struct json *object, const char *name);
/* s with its control characters as '?', so that no name plays with the terminal; to be free()d. */
char *printable(struct slice s);
/* "NAME: unexpected argument: ARGUMENT" and a hint on stderr; returns 2. */
int unexpected_argument(const char *name, const char *argument);

#endif
