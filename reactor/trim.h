/*
 * Giving memory back once a storm is over: the reactor calls this when the number of its handles
 * has changed by much and then stays, and a second after the start.
 */
#ifndef REACTOR_TRIM_H
#define REACTOR_TRIM_H

/* Gives back what the pools keep warm, what the heap holds in holes, and the pages of libraries'
 * code that only the start needed. All of it comes again when it is touched. */
void memory_trim(void);

#endif
