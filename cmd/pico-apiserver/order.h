/*
 * What .../commands and .../code are asked to run.
 */
#ifndef PICO_ORDER_H
#define PICO_ORDER_H

#include "json/json.h"

enum { ORDER_ENV_MAX = 256 };

struct order {
	struct json_doc *doc;
	char *argv[4];
	char *envp[ORDER_ENV_MAX + 1];
	size_t nenv;
	char *dir;
	struct slice input; /* in doc */
	uint64_t timeout_ms;
	bool streaming;
};

/* NULL, or what is wrong (static storage). order_end in both cases. body lives until then. */
const char *order_parse(struct order *, struct slice body, bool code);
void order_end(struct order *);

#endif
