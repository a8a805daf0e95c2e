/*
 * The listeners of a container that has no network of its own: found by the guest (procfs(5)), told
 * to tsctl. Pure.
 */
#ifndef DOCKER_LISTENERS_H
#define DOCKER_LISTENERS_H

#include "proto/docker/ports.h"

/* A row of /proc/net/tcp or tcp6: 1 a listener, its address in *port (inside = number) and its
 * inode; 0 another state; -EINVAL no such row. */
int docker_listener_row(struct slice row, struct docker_port *port, uint64_t *inode);
/* The inode in what a descriptor's link says, "socket:[123]": 0 or -EINVAL. */
int docker_socket_inode(struct slice link, uint64_t *inode);
/* Does /proc/PID/cgroup say that the process belongs to that container: is the id in the name of
 * one of its groups ("/docker/ID", "/system.slice/docker-ID.scope")? */
bool docker_cgroup_is(struct slice text, const char *id);
/* 64 hex digits? */
bool docker_id_is_whole(struct slice id);

/* {"listeners":[{"proto":"tcp","ip":"0.0.0.0","port":8080}]} */
void docker_listeners_put(struct json_writer *, const struct docker_port *, size_t n);
/* The same as the ports of a container: 0, or -EINVAL. To be released with docker_container_end. */
int docker_listeners_parse(struct docker_container *, struct slice text);

#endif
