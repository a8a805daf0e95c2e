/*
 * The child that looks which TCP ports the processes of a container listen on: "guest
 * listeners-worker ID" prints a line of JSON (proto/docker/listeners.h) at once and whenever they
 * have changed, and ends with its stdin.
 *
 * Once a second it reads the listeners of its network namespace, which are the first rows of
 * /proc/net/tcp and tcp6; only when those have changed does it look whose they are:
 * /proc/PID/cgroup of every process, /proc/PID/fd of the container's.
 */
#ifndef GUEST_LISTENERS_H
#define GUEST_LISTENERS_H

#define LISTENERS_NAME "listeners-worker"

/* argv[0] is the program, argv[1] LISTENERS_NAME. Returns the exit status. */
int listeners_main(int argc, char **argv);

#endif
