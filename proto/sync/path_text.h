/*
 * Paths in JSON: bytes that are no UTF-8, and '%', are written %XX (docs/sync.md, "Control").
 */
#ifndef SYNC_PATH_TEXT_H
#define SYNC_PATH_TEXT_H

#include "json/json.h"

/* Appends it as a string value. */
void path_text_put(struct json_writer *, const char *path);
/* The bytes again, to be free()d; NULL when a '%' is not followed by two hex digits or there is a
 * NUL. */
char *path_text_get(struct slice text);

#endif
