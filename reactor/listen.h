/*
 * Listeners: accept4 until EAGAIN under a budget. Idle, one costs 136 bytes and a descriptor per
 * address. All of them share one spare descriptor: when there are no others, it is used to take
 * connections off the queue and to reset them, which the log says once a minute.
 */
#ifndef REACTOR_LISTEN_H
#define REACTOR_LISTEN_H

#include "reactor/dial.h"

struct listener;

/* A new connection: fd is non-blocking, close-on-exec, the callee's. peer lives during the call. */
typedef void listener_accept(void *arg, int fd, const struct sockaddr *peer);

/* Binds and listens (backlog 4096, SO_REUSEADDR). An empty host means all addresses, v6 with v4
 * mapped, else v4. "localhost" binds 127.0.0.1 and, if the host has it, ::1. Port 0: the kernel
 * chooses, see listener_port. Other names are -EADDRNOTAVAIL: give an IP literal. A unix path: a
 * socket nobody answers on is replaced, a live one is -EADDRINUSE, mode is 0600; it is unlinked on
 * close. NULL and -errno in *err on failure. */
struct listener *listener_new(struct reactor *, const struct addr *, listener_accept *, void *arg,
			      int *err);
/* Stops accepting and frees. NULL is ignored. */
void listener_close(struct listener *);
/* The bound TCP port (useful after port 0). */
uint16_t listener_port(const struct listener *);

#endif
