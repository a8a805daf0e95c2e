/*
 * What the engine says of containers, by any JSON: ports that are read keep the rules; other
 * numbers change what is read by just that, and nothing of the rest; a create request that was made
 * safe names no address but real ones, and making it safe again changes nothing. An event has a
 * verdict.
 */
#include <arpa/inet.h>

#include "proto/docker/follow.h"
#include "proto/docker/ports.h"
#include "reactor/buf.h"

enum { ROOM = 8 << 20 };

static struct json_doc *parse(struct slice text)
{
	static const struct json_limits max = { .bytes = ROOM };
	return json_parse(text, &max, NULL);
}

static void check_container(const struct docker_container *c)
{
	BUG_ON(strlen(c->id) != 64 || strlen(c->name) >= sizeof(c->name));
	for (size_t i = 0; i < c->nports; i++) {
		const struct docker_port *p = &c->ports[i];
		BUG_ON(p->proto < DOCKER_TCP || p->proto > DOCKER_SCTP);
		BUG_ON(strlen(p->ip) >= sizeof(p->ip));
	}
}

/* Never 0, and its own inverse. */
static uint16_t other(uint16_t n)
{
	return n % 2 ? n + 1 ? n + 1 : n : n - 1 ? n - 1 : n;
}

static uint16_t renumber(void *arg, struct slice id, const struct docker_port *p)
{
	(void)id;
	BUG_ON(p->number == 0);
	++*(size_t *)arg;
	return other(p->number);
}

static struct json_doc *printed(struct json_doc *doc, struct buf *b)
{
	buf_init(b, ROOM);
	BUG_ON(json_print(doc, b) != 0);
	struct json_doc *again = parse(buf_data(b));
	BUG_ON(!again);
	return again;
}

static void same_but_numbers(const struct docker_container *a, const struct docker_container *b)
{
	BUG_ON(strcmp(a->id, b->id) != 0 || strcmp(a->name, b->name) != 0);
	BUG_ON(a->nports != b->nports || a->running != b->running);
	for (size_t i = 0; i < a->nports; i++) {
		BUG_ON(other(a->ports[i].number) != b->ports[i].number);
		BUG_ON(a->ports[i].inside != b->ports[i].inside);
		BUG_ON(strcmp(a->ports[i].ip, b->ports[i].ip) != 0);
	}
}

static void inspect(struct slice text)
{
	struct docker_container before, after;
	struct json_doc *doc = parse(text), *again;
	struct buf b;
	size_t calls = 0;
	if (!doc)
		return;
	if (docker_wanted(&before, doc) == 0) {
		check_container(&before);
		docker_container_end(&before);
	}
	if (docker_inspected(&before, doc) == 0) {
		check_container(&before);
		size_t changed = docker_renumber_inspect(doc, renumber, &calls);
		BUG_ON(changed > calls || calls > before.nports);
		again = printed(doc, &b);
		BUG_ON(docker_inspected(&after, again) != 0);
		if (calls == before.nports)
			same_but_numbers(&before, &after);
		docker_container_end(&before);
		docker_container_end(&after);
		json_free(again);
		buf_end(&b);
	}
	json_free(doc);
}

static void list(struct slice text)
{
	struct json_doc *doc = parse(text), *again;
	struct docker_container before, after;
	struct buf b;
	size_t calls = 0, ports = 0;
	if (!doc || json_root(doc)->type != JSON_ARRAY) {
		json_free(doc);
		return;
	}
	docker_renumber_list(doc, renumber, &calls);
	again = printed(doc, &b);
	struct json_doc *first = parse(text);
	struct json *v = json_first(json_root(first)), *w = json_first(json_root(again));
	for (; v; v = json_next(v), w = json_next(w)) {
		BUG_ON(!w);
		int r = docker_listed(&before, first, v);
		BUG_ON(r != docker_listed(&after, again, w));
		if (r < 0)
			continue;
		check_container(&before);
		same_but_numbers(&before, &after);
		ports += before.nports;
		docker_container_end(&before);
		docker_container_end(&after);
	}
	BUG_ON(calls < ports);
	json_free(first);
	json_free(again);
	json_free(doc);
	buf_end(&b);
}

/* An address that the engine would not take for any. */
static void check_address(struct json_doc *doc, struct json *v)
{
	struct slice ip;
	struct in6_addr v6;
	char text[64];
	BUG_ON(json_str(doc, v, &ip) != 0 || ip.n == 0);
	snprintf(text, sizeof(text), "%.*s", SLICE_FMT(ip));
	BUG_ON(strcmp(text, "0.0.0.0") == 0);
	BUG_ON(inet_pton(AF_INET6, text, &v6) == 1 && IN6_IS_ADDR_UNSPECIFIED(&v6));
}

static void check_safe(struct json_doc *doc)
{
	struct json *map = json_find(json_root(doc), "HostConfig", "PortBindings");
	for (struct json *m = json_first(map); m; m = json_next(m)) {
		BUG_ON(m->type != JSON_ARRAY || m->count == 0);
		for (struct json *b = json_first(m); b; b = json_next(b)) {
			unsigned addresses = 0;
			for (struct json *v = json_first(b); v; v = json_next(v)) {
				if (!slice_eqi(v->name, SLICE("HostIp")))
					continue;
				check_address(doc, v);
				addresses++;
			}
			BUG_ON(addresses == 0);
		}
	}
}

static void create(struct slice text, struct slice image_text)
{
	struct json_doc *doc = parse(text), *image = parse(image_text);
	struct slice name;
	if (doc)
		docker_publishes_all(doc, &name);
	if (doc && docker_bind_loopback(doc, image) == 0) {
		struct buf b, c;
		struct json_doc *again = printed(doc, &b), *third;
		check_safe(again);
		BUG_ON(image && docker_publishes_all(again, &name));
		BUG_ON(docker_bind_loopback(again, image) != 0);
		third = printed(again, &c);
		BUG_ON(!slice_eq(buf_data(&b), buf_data(&c)));
		json_free(third);
		json_free(again);
		buf_end(&b);
		buf_end(&c);
	}
	json_free(doc);
	json_free(image);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The first byte says what the rest is. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct docker_event e;
	struct slice text, image;
	if (size == 0)
		return 0;
	text = slice_of(data + 1, size - 1);
	switch (data[0]) {
	case 'i':
		inspect(text);
		break;
	case 'l':
		list(text);
		break;
	case 'c':
		slice_cut(text, '\n', &text, &image);
		create(text, image);
		break;
	case 'e':
		docker_event_parse(&e, text);
		break;
	default:
		break;
	}
	return 0;
}
