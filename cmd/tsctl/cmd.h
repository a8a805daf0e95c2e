/*
 * The subcommands of tsctl. Each gets its own name as argv[0] and returns the exit code.
 */
#ifndef TSCTL_CMD_H
#define TSCTL_CMD_H

int cmd_start(int argc, char **argv);
int cmd_stop(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_host_exec(int argc, char **argv);
int cmd_forward(int argc, char **argv);
int cmd_sync(int argc, char **argv);
int cmd_daemon(int argc, char **argv);
int cmd_certs(int argc, char **argv);

#endif
