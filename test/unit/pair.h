/* Connected non-blocking sockets for unit tests. */
#ifndef UNIT_PAIR_H
#define UNIT_PAIR_H

void socket_pair(int fd[2]);
void tcp_pair(int fd[2]);

#endif
