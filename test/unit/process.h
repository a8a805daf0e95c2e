/*
 * Processes that tests start, seen from outside.
 */
#ifndef UNIT_PROCESS_H
#define UNIT_PROCESS_H

#include <stdbool.h>

/* Does it run? A zombie does not. proc(5). */
bool process_runs(int pid);

#endif
