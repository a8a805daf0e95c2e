#include "test/unit/process.h"

#include <stdio.h>
#include <string.h>

bool process_runs(int pid)
{
	char path[64], line[256];
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	FILE *f = fopen(path, "r");
	if (!f)
		return false;
	/* The name in parentheses may itself have some: the state follows the last one. */
	const char *end = fgets(line, sizeof(line), f) ? strrchr(line, ')') : NULL;
	fclose(f);
	return end && end[2] != 'Z';
}
