#include "test/unit/pair.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "reactor/base.h"

void socket_pair(int fd[2])
{
	BUG_ON(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd) != 0);
}

void tcp_pair(int fd[2])
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t len = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	BUG_ON(bind(l, (struct sockaddr *)&a, len) != 0 || listen(l, 1) != 0);
	getsockname(l, (struct sockaddr *)&a, &len);
	fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	BUG_ON(connect(fd[0], (struct sockaddr *)&a, len) != 0);
	fd[1] = accept4(l, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	BUG_ON(fd[1] == -1 || fcntl(fd[0], F_SETFL, O_NONBLOCK) == -1);
	close(l);
}
