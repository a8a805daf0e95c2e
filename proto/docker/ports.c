#include "proto/docker/listeners.h"

#include <errno.h>

static const struct {
	const char *text;
	enum docker_proto proto;
} protos[] = { { "tcp", DOCKER_TCP }, { "udp", DOCKER_UDP }, { "sctp", DOCKER_SCTP } };

const char *docker_proto_text(enum docker_proto proto)
{
	return protos[proto - DOCKER_TCP].text;
}

static int proto_parse(struct slice text, enum docker_proto *out)
{
	for (size_t i = 0; i < ARRAY_LEN(protos); i++)
		if (slice_eqi(text, slice_str(protos[i].text))) {
			*out = protos[i].proto;
			return 0;
		}
	return -EINVAL;
}

static int number_parse(struct slice text, uint16_t *out)
{
	uint64_t n;
	if (slice_u64(text, UINT16_MAX, &n) < 0)
		return -EINVAL;
	*out = (uint16_t)n;
	return 0;
}

int docker_port_parse(struct slice text, enum docker_proto *proto, uint16_t *port)
{
	struct slice number, name;
	if (!slice_cut(text, '/', &number, &name))
		name = SLICE("tcp");
	return number_parse(number, port) < 0 || *port == 0 ? -EINVAL : proto_parse(name, proto);
}

bool docker_ip_is_any(const char *ip)
{
	return !*ip || strcmp(ip, "0.0.0.0") == 0 || strcmp(ip, "::") == 0;
}

/* --- what the engine says --- */

/* A string into a fixed place, cut; false when it has bytes that no name has. */
static bool take(char *out, size_t outlen, struct slice s)
{
	size_t n = MIN(s.n, outlen - 1);
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)s.p[i] < ' ')
			return false;
	if (n)
		memcpy(out, s.p, n);
	out[n] = '\0';
	return true;
}

static int take_id(struct docker_container *c, struct json_doc *doc, struct json *v)
{
	struct slice id;
	if (json_str(doc, v, &id) < 0 || !docker_id_is_whole(id))
		return -EINVAL;
	memcpy(c->id, id.p, id.n);
	return 0;
}

static void take_name(struct docker_container *c, struct json_doc *doc, struct json *v)
{
	struct slice name;
	if (json_str(doc, v, &name) < 0)
		return;
	if (slice_starts(name, SLICE("/")))
		name = slice_after(name, 1);
	if (!take(c->name, sizeof(c->name), name))
		c->name[0] = '\0';
}

static void take_network(struct docker_container *c, struct json_doc *doc, struct json *root)
{
	struct slice mode;
	if (json_str(doc, json_find(root, "HostConfig", "NetworkMode"), &mode) == 0)
		take(c->network, sizeof(c->network), mode);
}

static void add_port(struct docker_container *c, const struct docker_port *p)
{
	if ((c->nports & (c->nports - 1)) == 0) /* a power of two is full */
		c->ports = xrealloc(c->ports, MAX(2 * c->nports, 1) * sizeof(*p));
	c->ports[c->nports++] = *p;
}

static bool take_ip(struct docker_port *p, struct json_doc *doc, struct json *v)
{
	struct slice ip = SLICE("");
	int r = json_str(doc, v, &ip);
	return (r == 0 || r == -ENOENT) && ip.n < sizeof(p->ip) && take(p->ip, sizeof(p->ip), ip);
}

/* {"80/tcp":[{"HostIp":"","HostPort":"8080"}],"81/tcp":null}. Where the engine is to choose, in
 * want, HostPort is empty, 0 or a range. */
static void take_map(struct docker_container *c, struct json_doc *doc, struct json *map, bool want)
{
	for (struct json *m = json_first(map); m; m = json_next(m)) {
		struct docker_port p = { .number = 0 };
		if (docker_port_parse(m->name, &p.proto, &p.inside) < 0)
			continue;
		if (want && (m->type == JSON_NULL || m->count == 0))
			add_port(c, &p);
		for (struct json *b = m->type == JSON_ARRAY ? json_first(m) : NULL; b;
		     b = json_next(b)) {
			struct slice number = SLICE("");
			int r = json_str(doc, json_find(b, "HostPort"), &number);
			if (r == -EINVAL || !take_ip(&p, doc, json_find(b, "HostIp")))
				continue;
			if (number_parse(number, &p.number) < 0)
				p.number = 0;
			if (p.number || want)
				add_port(c, &p);
		}
	}
}

static bool flag(struct json *root, const char *object, const char *name)
{
	bool b = false;
	json_bool(json_find(root, object, name), &b);
	return b;
}

static int take_inspected(struct docker_container *c, struct json_doc *doc)
{
	struct json *root = json_root(doc);
	*c = (struct docker_container){ .nports = 0 };
	if (take_id(c, doc, json_find(root, "Id")) < 0)
		return -EINVAL;
	take_name(c, doc, json_find(root, "Name"));
	take_network(c, doc, root);
	c->restarting = flag(root, "State", "Restarting");
	c->running = flag(root, "State", "Running") && !c->restarting;
	c->auto_remove = flag(root, "HostConfig", "AutoRemove");
	c->publish_all = flag(root, "HostConfig", "PublishAllPorts");
	return 0;
}

int docker_inspected(struct docker_container *c, struct json_doc *doc)
{
	if (take_inspected(c, doc) < 0)
		return -EINVAL;
	take_map(c, doc, json_find(json_root(doc), "NetworkSettings", "Ports"), false);
	return 0;
}

int docker_wanted(struct docker_container *c, struct json_doc *doc)
{
	if (take_inspected(c, doc) < 0)
		return -EINVAL;
	take_map(c, doc, json_find(json_root(doc), "HostConfig", "PortBindings"), true);
	return 0;
}

/* {"IP":"0.0.0.0","PrivatePort":80,"PublicPort":8080,"Type":"tcp"}; not published: no PublicPort.
 */
static bool take_entry(struct docker_port *p, struct json_doc *doc, struct json *entry)
{
	uint64_t inside = 0, number = 0;
	struct slice type;
	*p = (struct docker_port){ .number = 0 };
	json_u64(json_find(entry, "PrivatePort"), &inside);
	json_u64(json_find(entry, "PublicPort"), &number);
	if (inside > UINT16_MAX || number == 0 || number > UINT16_MAX ||
	    json_str(doc, json_find(entry, "Type"), &type) < 0 ||
	    proto_parse(type, &p->proto) < 0 || !take_ip(p, doc, json_find(entry, "IP")))
		return false;
	p->inside = (uint16_t)inside;
	p->number = (uint16_t)number;
	return true;
}

int docker_listed(struct docker_container *c, struct json_doc *doc, struct json *element)
{
	struct slice state = SLICE("");
	*c = (struct docker_container){ .nports = 0 };
	if (take_id(c, doc, json_find(element, "Id")) < 0)
		return -EINVAL;
	take_name(c, doc, json_first(json_find(element, "Names")));
	take_network(c, doc, element);
	json_str(doc, json_find(element, "State"), &state);
	c->running = slice_eq(state, SLICE("running")) || slice_eq(state, SLICE("paused"));
	c->restarting = slice_eq(state, SLICE("restarting"));
	struct json *ports = json_find(element, "Ports");
	if (ports && ports->type != JSON_ARRAY)
		return 0;
	for (struct json *v = json_first(ports); v; v = json_next(v)) {
		struct docker_port p;
		if (take_entry(&p, doc, v))
			add_port(c, &p);
	}
	return 0;
}

/* As in listeners.h. */
static bool take_listener(struct docker_port *p, struct json_doc *doc, struct json *v)
{
	struct slice proto;
	uint64_t number;
	*p = (struct docker_port){ .number = 0 };
	if (json_str(doc, json_find(v, "proto"), &proto) < 0 || proto_parse(proto, &p->proto) < 0 ||
	    json_u64(json_find(v, "port"), &number) < 0 || number == 0 || number > UINT16_MAX ||
	    !take_ip(p, doc, json_find(v, "ip")))
		return false;
	p->inside = p->number = (uint16_t)number;
	return true;
}

int docker_listeners_parse(struct docker_container *c, struct slice text)
{
	struct json_doc *doc = json_parse(text, NULL, NULL);
	struct json *all = doc ? json_find(json_root(doc), "listeners") : NULL;
	bool good = all && all->type == JSON_ARRAY;
	*c = (struct docker_container){ .running = true };
	for (struct json *v = good ? json_first(all) : NULL; v; v = json_next(v)) {
		struct docker_port p;
		if (take_listener(&p, doc, v))
			add_port(c, &p);
	}
	json_free(doc);
	return good ? 0 : -EINVAL;
}

void docker_container_end(struct docker_container *c)
{
	free(c->ports);
	c->ports = NULL;
	c->nports = 0;
}

/* --- other numbers in replies --- */

size_t docker_renumber_list(struct json_doc *doc, docker_number_here *here, void *arg)
{
	struct json *root = json_root(doc);
	size_t changed = 0;
	if (root->type != JSON_ARRAY)
		return 0;
	for (struct json *c = json_first(root); c; c = json_next(c)) {
		struct json *ports = json_find(c, "Ports");
		struct slice id;
		if (json_str(doc, json_find(c, "Id"), &id) < 0 || !ports ||
		    ports->type != JSON_ARRAY)
			continue;
		for (struct json *v = json_first(ports); v; v = json_next(v)) {
			struct docker_port p;
			char text[8];
			uint16_t n = take_entry(&p, doc, v) ? here(arg, id, &p) : 0;
			if (n == 0 || n == p.number)
				continue;
			snprintf(text, sizeof(text), "%u", n);
			if (json_replace(doc, json_find(v, "PublicPort"), slice_str(text)))
				changed++;
		}
	}
	return changed;
}

static size_t renumber_bindings(struct json_doc *doc, struct slice id, struct json *member,
				docker_number_here *here, void *arg)
{
	struct docker_port p = { .number = 0 };
	size_t changed = 0;
	if (docker_port_parse(member->name, &p.proto, &p.inside) < 0 || member->type != JSON_ARRAY)
		return 0;
	for (struct json *b = json_first(member); b; b = json_next(b)) {
		struct json *v = json_find(b, "HostPort");
		struct slice number;
		char text[12];
		if (json_str(doc, v, &number) < 0 || number_parse(number, &p.number) < 0 ||
		    p.number == 0 || !take_ip(&p, doc, json_find(b, "HostIp")))
			continue;
		uint16_t n = here(arg, id, &p);
		if (n == 0 || n == p.number)
			continue;
		snprintf(text, sizeof(text), "\"%u\"", n);
		if (json_replace(doc, v, slice_str(text)))
			changed++;
	}
	return changed;
}

size_t docker_renumber_inspect(struct json_doc *doc, docker_number_here *here, void *arg)
{
	struct json *root = json_root(doc);
	struct json *map = json_find(root, "NetworkSettings", "Ports");
	struct slice id;
	size_t changed = 0;
	if (json_str(doc, json_find(root, "Id"), &id) < 0)
		return 0;
	for (struct json *m = json_first(map); m; m = json_next(m))
		changed += renumber_bindings(doc, id, m, here, arg);
	return changed;
}
