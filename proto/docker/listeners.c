#include "proto/docker/listeners.h"

#include <arpa/inet.h>
#include <errno.h>

enum { TCP_STATE_LISTEN = 0x0a, ROW_INODE = 9 /* its column */ };

/* --- procfs --- */

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int hex(struct slice s, size_t digits, uint32_t *out)
{
	if (s.n != digits)
		return -EINVAL;
	*out = 0;
	for (size_t i = 0; i < s.n; i++) {
		int d = hex_digit(s.p[i]);
		if (d < 0)
			return -EINVAL;
		*out = *out << 4 | (uint32_t)d;
	}
	return 0;
}

/* The next word of a row; empty at its end. */
static struct slice word(struct slice *row)
{
	while (row->n && (row->p[0] == ' ' || row->p[0] == '\n'))
		*row = slice_after(*row, 1);
	size_t n = 0;
	while (n < row->n && row->p[n] != ' ' && row->p[n] != '\n')
		n++;
	struct slice w = slice_of(row->p, n);
	*row = slice_after(*row, n);
	return w;
}

/* "0100007F:1F90": words of the address as the machine has them, then the port. */
static int address(struct slice text, struct docker_port *port)
{
	struct slice host, number;
	uint32_t words[4], n;
	bool v6;
	slice_cut(text, ':', &host, &number);
	v6 = host.n == 32;
	if ((!v6 && host.n != 8) || hex(number, 4, &n) < 0)
		return -EINVAL;
	for (size_t i = 0; i < host.n / 8; i++)
		if (hex(slice_of(host.p + 8 * i, 8), 8, &words[i]) < 0)
			return -EINVAL;
	port->inside = port->number = (uint16_t)n;
	return inet_ntop(v6 ? AF_INET6 : AF_INET, words, port->ip, sizeof(port->ip)) ? 0 : -EINVAL;
}

/* sl local rem st tx:rx tr:when retrnsmt uid timeout inode ... */
int docker_listener_row(struct slice row, struct docker_port *port, uint64_t *inode)
{
	struct slice w[ROW_INODE + 1];
	uint32_t state;
	for (size_t i = 0; i < ARRAY_LEN(w); i++)
		w[i] = word(&row);
	*port = (struct docker_port){ .proto = DOCKER_TCP };
	if (!slice_ends(w[0], SLICE(":")) || hex(w[3], 2, &state) < 0 || address(w[1], port) < 0 ||
	    slice_u64(w[ROW_INODE], UINT64_MAX, inode) < 0)
		return -EINVAL;
	return state == TCP_STATE_LISTEN && port->number;
}

int docker_socket_inode(struct slice link, uint64_t *inode)
{
	struct slice head = SLICE("socket:[");
	if (!slice_starts(link, head) || !slice_ends(link, SLICE("]")))
		return -EINVAL;
	return slice_u64(slice_of(link.p + head.n, link.n - head.n - 1), UINT64_MAX, inode);
}

bool docker_id_is_whole(struct slice id)
{
	for (size_t i = 0; i < id.n; i++)
		if (!((id.p[i] >= '0' && id.p[i] <= '9') || (id.p[i] >= 'a' && id.p[i] <= 'f')))
			return false;
	return id.n == 64;
}

static bool is_alnum(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool docker_cgroup_is(struct slice text, const char *id)
{
	size_t n = strlen(id);
	for (size_t i = 0; i + n <= text.n; i++)
		if (memcmp(text.p + i, id, n) == 0 && (i == 0 || !is_alnum(text.p[i - 1])) &&
		    (i + n == text.n || !is_alnum(text.p[i + n])))
			return true;
	return false;
}

/* --- on the wire --- */

void docker_listeners_put(struct json_writer *w, const struct docker_port *port, size_t n)
{
	json_put_object(w);
	json_put_name(w, "listeners");
	json_put_array(w);
	for (size_t i = 0; i < n; i++) {
		json_put_object(w);
		json_put_name(w, "proto");
		json_put_str(w, slice_str(docker_proto_text(port[i].proto)));
		json_put_name(w, "ip");
		json_put_str(w, slice_str(port[i].ip));
		json_put_name(w, "port");
		json_put_u64(w, port[i].number);
		json_put_end(w);
	}
	json_put_end(w);
	json_put_end(w);
}
