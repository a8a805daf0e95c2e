#include "reactor/udp.h"

#include <errno.h>
#include <unistd.h>

_Static_assert(sizeof(struct udp_path) == 8 + 2 * sizeof(struct in6_addr), "no padding");

enum { PORT_TRIES = 16 /* kernel-chosen ports tried until one is free in both families */ };

/* --- binding --- */

static int open_socket(int family)
{
	int fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	return fd == -1 ? -errno : fd;
}

/* Both families' option on an IPv6 socket, which takes IPv4, too. */
static void ask_for_destination(int fd, int family)
{
	const int on = 1, off = 0;
	setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof(on));
	if (family == AF_INET)
		return;
	setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof(on));
	setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
}

static int bind_one(struct udp_socket *u, unsigned i, struct reactor *rx, const char *host,
		    uint16_t port, struct task *owner)
{
	struct addr a = { .kind = ADDR_UDP, .port = port };
	struct sockaddr_storage ss = { 0 };
	struct sockaddr_in6 bound = { 0 };
	socklen_t len = 0, bound_len = sizeof(bound);
	int r = 0;
	snprintf(a.host, sizeof(a.host), "%s", host);
	if (addr_literal(&a, &ss, &len) < 0)
		return -EADDRNOTAVAIL;
	int fd = open_socket(ss.ss_family);
	if (fd < 0)
		return fd;
	ask_for_destination(fd, ss.ss_family);
	if (bind(fd, (const struct sockaddr *)&ss, len) == -1 ||
	    getsockname(fd, (struct sockaddr *)&bound, &bound_len) == -1)
		r = -errno;
	else
		r = handle_open(&u->handle[i], rx, fd, owner);
	if (r < 0)
		close(fd);
	else
		u->port = ntohs(bound.sin6_port); /* a sockaddr_in has it in the same place */
	return r;
}

static bool family_missing(int r)
{
	return r == -EAFNOSUPPORT || r == -EADDRNOTAVAIL;
}

static int bind_localhost(struct udp_socket *u, struct reactor *rx, uint16_t port,
			  struct task *owner)
{
	for (int tries = 0;; tries++) {
		int r = bind_one(u, 0, rx, "127.0.0.1", port, owner);
		if (r < 0)
			return r;
		r = bind_one(u, 1, rx, "::1", u->port, owner);
		if (r == 0 || family_missing(r))
			return 0;
		udp_close(u);
		if (port || r != -EADDRINUSE || tries == PORT_TRIES)
			return r;
	}
}

int udp_bind(struct udp_socket *u, struct reactor *rx, const struct addr *a, struct task *owner)
{
	*u = (struct udp_socket){ .handle = { { .fd = -1 }, { .fd = -1 } } };
	if (slice_eqi(slice_str(a->host), SLICE("localhost")))
		return bind_localhost(u, rx, a->port, owner);
	if (a->host[0])
		return bind_one(u, 0, rx, a->host, a->port, owner);
	int r = bind_one(u, 0, rx, "::", a->port, owner);
	return family_missing(r) ? bind_one(u, 0, rx, "0.0.0.0", a->port, owner) : r;
}

void udp_close(struct udp_socket *u)
{
	handle_close(&u->handle[0]);
	handle_close(&u->handle[1]);
}

int udp_connect(const struct sockaddr_storage *ss, socklen_t len)
{
	int fd = open_socket(ss->ss_family);
	if (fd >= 0 && connect(fd, (const struct sockaddr *)ss, len) == -1) {
		int r = -errno;
		close(fd);
		return r;
	}
	return fd;
}

/* --- datagrams --- */

/* The two kinds of message that carry our address. */
union pktinfo {
	struct cmsghdr align;
	char v4[CMSG_SPACE(sizeof(struct in_pktinfo))];
	char v6[CMSG_SPACE(sizeof(struct in6_pktinfo))];
};

static void take_local(struct udp_path *p, struct msghdr *m)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		if (p->family == AF_INET && c->cmsg_level == IPPROTO_IP &&
		    c->cmsg_type == IP_PKTINFO) {
			struct in_pktinfo info;
			memcpy(&info, CMSG_DATA(c), sizeof(info));
			memcpy(&p->local, &info.ipi_spec_dst, sizeof(info.ipi_spec_dst));
		} else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
			struct in6_pktinfo info;
			memcpy(&info, CMSG_DATA(c), sizeof(info));
			p->local = info.ipi6_addr;
		}
	}
}

static ssize_t recv_one(struct handle *h, void *p, size_t n, struct udp_path *from)
{
	struct sockaddr_in6 in6 = { 0 };
	struct sockaddr_in *in = (void *)&in6;
	union pktinfo control;
	struct iovec iov = { p, n };
	struct msghdr m = { .msg_name = &in6,
			    .msg_namelen = sizeof(in6),
			    .msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = &control,
			    .msg_controllen = sizeof(control) };
	ssize_t got = recvmsg(h->fd, &m, 0);
	if (got == -1)
		return -errno;
	*from = (struct udp_path){ .family = in6.sin6_family, .port = in6.sin6_port };
	if (in->sin_family == AF_INET) {
		memcpy(&from->peer, &in->sin_addr, sizeof(in->sin_addr));
	} else {
		from->peer = in6.sin6_addr;
		from->ifindex = in6.sin6_scope_id;
	}
	take_local(from, &m);
	return got;
}

ssize_t udp_recv(struct udp_socket *u, void *p, size_t n, struct udp_path *from)
{
	for (size_t i = 0; i < ARRAY_LEN(u->handle); i++) {
		struct handle *h = &u->handle[i];
		while (h->fd != -1 && h->ready & READY_IN) {
			ssize_t got = recv_one(h, p, n, from);
			if (got >= 0)
				return got;
			if (got == -EAGAIN)
				h->ready &= ~(unsigned)READY_IN;
			/* Else an error that belongs to some datagram of the past. */
		}
	}
	return -EAGAIN;
}

static socklen_t put_peer(const struct udp_path *to, struct sockaddr_in6 *in6)
{
	struct sockaddr_in *in = (void *)in6;
	if (to->family == AF_INET) {
		*in = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = to->port };
		memcpy(&in->sin_addr, &to->peer, sizeof(in->sin_addr));
		return sizeof(*in);
	}
	*in6 = (struct sockaddr_in6){ .sin6_family = AF_INET6,
				      .sin6_port = to->port,
				      .sin6_addr = to->peer,
				      .sin6_scope_id = to->ifindex };
	return sizeof(*in6);
}

static void put_local(const struct udp_path *to, struct msghdr *m)
{
	struct in_pktinfo v4 = { .ipi_ifindex = 0 };
	struct in6_pktinfo v6 = { .ipi6_addr = to->local, .ipi6_ifindex = to->ifindex };
	bool four = to->family == AF_INET;
	memcpy(&v4.ipi_spec_dst, &to->local, sizeof(v4.ipi_spec_dst));
	size_t n = four ? sizeof(v4) : sizeof(v6);
	m->msg_controllen = CMSG_SPACE(n);
	struct cmsghdr *c = CMSG_FIRSTHDR(m);
	c->cmsg_level = four ? IPPROTO_IP : IPPROTO_IPV6;
	c->cmsg_type = four ? IP_PKTINFO : IPV6_PKTINFO;
	c->cmsg_len = CMSG_LEN(n);
	memcpy(CMSG_DATA(c), four ? (const void *)&v4 : (const void *)&v6, n);
}

int udp_send(struct udp_socket *u, struct slice d, const struct udp_path *to)
{
	bool second = to->family == AF_INET6 && u->handle[1].fd != -1;
	struct sockaddr_in6 peer;
	union pktinfo control;
	struct iovec iov = { (void *)(uintptr_t)d.p, d.n };
	memset(&control, 0, sizeof(control));
	struct msghdr m = { .msg_name = &peer,
			    .msg_namelen = put_peer(to, &peer),
			    .msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = &control,
			    .msg_controllen = sizeof(control) };
	put_local(to, &m);
	return sendmsg(u->handle[second].fd, &m, 0) == -1 ? -errno : 0;
}

const char *udp_path_text(const struct udp_path *p)
{
	struct sockaddr_in6 ss;
	put_peer(p, &ss);
	return sockaddr_text((const struct sockaddr *)&ss);
}

ssize_t udp_connected_recv(struct handle *h, void *p, size_t n)
{
	if (!(h->ready & READY_IN))
		return -EAGAIN;
	ssize_t got = recv(h->fd, p, n, 0);
	if (got == -1 && errno == EAGAIN)
		h->ready &= ~(unsigned)READY_IN;
	return got == -1 ? -errno : got;
}

int udp_connected_send(const struct handle *h, struct slice d)
{
	return send(h->fd, d.p, d.n, 0) == -1 ? -errno : 0;
}
