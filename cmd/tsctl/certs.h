/*
 * tsctl certs: a CA, a server and a client certificate in one directory.
 */
#ifndef TSCTL_CERTS_H
#define TSCTL_CERTS_H

/* The subcommand; argv[0] is "certs". Returns the exit code. */
int cmd_certs(int argc, char **argv);

#endif
