/*
 * Files to and from the sandbox, as commands there. Nobody sees half a file under its name, on
 * either side.
 */
#ifndef CMD_TEST_TUNNEL_TRANSFER_H
#define CMD_TEST_TUNNEL_TRANSFER_H

#include "reactor/base.h"

struct transfer {
	bool up;
	int fd;        /* the local file, -1: none */
	uint64_t size; /* up: bytes of it */
	char *command; /* what has to run there */
	char *part;    /* down: the name until it is whole */
	const char *local;
};

void transfer_init(struct transfer *);
/* Opens the local file: its descriptor, which stays the transfer's, or -1 with a sentence. */
int transfer_begin(struct transfer *, bool up, const char *local, const char *remote, char *err,
		   size_t errlen);
/* The command went well: NULL, or what is wrong, to be free()d. */
char *transfer_finish(struct transfer *);
/* What was not finished is removed. */
void transfer_end(struct transfer *);

#endif
