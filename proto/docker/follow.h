/*
 * Follows the containers of an engine: one long GET /events, and GET /containers/json whenever that
 * says that something has changed, after each (re)connect, and once a minute. An event is a hint
 * only; the list is the truth, so that it does not matter which client did what, or what was
 * missed. Lost connections are opened again, with growing pauses of up to 2 s.
 */
#ifndef DOCKER_FOLLOW_H
#define DOCKER_FOLLOW_H

#include "json/json.h"
#include "reactor/stream.h"

/* An event that may concern published ports: the time in *nano is left alone if there is none. */
struct docker_event {
	bool matters;
	uint64_t nano; /* since 1970, by the engine's clock; 0: not said */
};
/* One message of GET /events: 0, or -EINVAL for what is none. Pure. */
int docker_event_parse(struct docker_event *, struct slice text);
/* The request target of GET /events from that time on. */
void docker_events_target(uint64_t since_nano, char *out, size_t outlen);

struct docker_follow_options {
	struct stream *(*dial)(void *arg); /* to the engine; never NULL */
	/* A list is being asked for now: the state of things is that of a moment from here on. */
	void (*asking)(void *arg);
	/* The array that came for it; lives during the call. */
	void (*listed)(void *arg, struct json_doc *);
	void *arg;
};

struct docker_follow;

/* Begins at once. */
struct docker_follow *docker_follow_new(struct reactor *, const struct docker_follow_options *);
/* NULL is ignored. */
void docker_follow_free(struct docker_follow *);
/* The way to the engine is going away: opens a new one for the events. May be called from anywhere.
 */
void docker_follow_reconnect(struct docker_follow *);
/* Something may have changed: lists soon. */
void docker_follow_hint(struct docker_follow *);

/* The longest list that is read. */
enum { DOCKER_LIST_MAX = 16 << 20 };
/* Parses it: NULL with a sentence in why when it is no array. */
struct json_doc *docker_list_parse(struct slice text, char *why, size_t whylen);

#endif
