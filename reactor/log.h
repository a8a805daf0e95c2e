/*
 * One line an event on stderr: time, level, room, text, key=value pairs; or JSON by flag.
 * Levels are tested before arguments are formatted. Never log secrets: no keys, no tokens, no
 * query strings, no X-Registry-Auth.
 */
#ifndef REACTOR_LOG_H
#define REACTOR_LOG_H

#include "reactor/base.h"

enum log_level { LOG_ERROR = 0, LOG_WARN, LOG_INFO, LOG_DEBUG };

extern enum log_level log_level; /* LOG_INFO at start */

/* "error", "warn", "info", "debug": 0 or -EINVAL. */
int log_set_level(const char *name);
void log_set_json(bool on);
/* Name of the program, printed in each line ("tsctl"). Static storage expected. */
void log_set_program(const char *name);

/* Does not block: one write a line (at most PIPE_BUF bytes); while stderr takes none, lines are
 * dropped, and a line "log_dropped lines=N" says how many once it does again. */
void log_write(enum log_level, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* The text is an event name, then key=value pairs by hand: log_info("listen addr=%s", a). Values
 * that may hold spaces go through log_quote. */
#define log_at(level, ...)                                                                         \
	do {                                                                                       \
		if ((level) <= log_level)                                                          \
			log_write((level), __VA_ARGS__);                                           \
	} while (0)
#define log_error(...) log_at(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_at(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_at(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_at(LOG_DEBUG, __VA_ARGS__)

/* s made safe for one log value: control bytes, ill-formed UTF-8, quotes and backslashes escaped;
 * in double quotes if it has an escape, a space or '=', or is empty. Cut at 512 bytes. One of eight
 * rotating static buffers. */
const char *log_quote(struct slice s);

/* True at most once per period for this *last (ms since boot, starts 0). */
bool log_ratelimit(uint64_t *last, uint64_t period_ms);

#endif
