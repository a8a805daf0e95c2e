/*
 * Listeners of a container: rows of /proc/net/tcp are read by their rules, as the kernel writes
 * them; what the guest tells is what tsctl reads.
 */
#include <arpa/inet.h>

#include "proto/docker/listeners.h"
#include "reactor/buf.h"

static void row(struct slice text)
{
	struct docker_port p;
	uint64_t inode;
	unsigned char ip[16];
	int r = docker_listener_row(text, &p, &inode);
	if (r < 0)
		return;
	BUG_ON(r > 1 || (r == 1 && p.number == 0) || p.inside != p.number);
	BUG_ON(inet_pton(strchr(p.ip, ':') ? AF_INET6 : AF_INET, p.ip, ip) != 1);
}

static void wire(struct slice text)
{
	struct docker_container c, again;
	struct json_writer w;
	struct buf b;
	if (docker_listeners_parse(&c, text) < 0)
		return;
	buf_init(&b, 8 << 20);
	json_writer_begin(&w, &b);
	docker_listeners_put(&w, c.ports, c.nports);
	BUG_ON(json_writer_end(&w) != 0);
	BUG_ON(docker_listeners_parse(&again, buf_data(&b)) != 0 || again.nports != c.nports);
	for (size_t i = 0; i < c.nports; i++) {
		BUG_ON(c.ports[i].number == 0 || c.ports[i].number != again.ports[i].number);
		BUG_ON(c.ports[i].proto != again.ports[i].proto);
		BUG_ON(strcmp(c.ports[i].ip, again.ports[i].ip) != 0);
	}
	docker_container_end(&c);
	docker_container_end(&again);
	buf_end(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char id[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
	struct slice text = slice_of(data, size), head, tail;
	uint64_t inode;
	row(text);
	wire(text);
	docker_socket_inode(text, &inode);
	if (docker_cgroup_is(text,
			     id)) { /* of two halves one has it, unless the cut goes through it */
		slice_cut(text, '\n', &head, &tail);
		BUG_ON(!docker_cgroup_is(head, id) && !docker_cgroup_is(tail, id));
	}
	return 0;
}
