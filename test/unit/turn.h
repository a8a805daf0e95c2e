/*
 * Turning a reactor by hand in unit tests: once, or until something has happened.
 */
#ifndef UNIT_TURN_H
#define UNIT_TURN_H

#include "reactor/reactor.h"

/* One turn. */
void turn_once(struct reactor *);

/* Turns the test's own rx until cond holds; fails the test after 20 s. Needs cmocka.h. */
#define UNTIL(cond)                                                                                \
	do {                                                                                       \
		uint64_t limit_ = reactor_now(rx) + 20000;                                         \
		while (!(cond)) {                                                                  \
			turn_once(rx);                                                             \
			assert_true(reactor_now(rx) < limit_);                                     \
		}                                                                                  \
	} while (0)

#endif
