/*
 * Published ports in what the engine says (Engine API: container inspect and list), and in what it
 * is asked (container create). Pure.
 */
#ifndef DOCKER_PORTS_H
#define DOCKER_PORTS_H

#include "json/json.h"

enum docker_proto { DOCKER_TCP = 1, DOCKER_UDP, DOCKER_SCTP };

/* A port of a container and one that it has on the host. v4 and v6 are two of these. */
struct docker_port {
	enum docker_proto proto;
	uint16_t inside; /* the container's */
	uint16_t number; /* the host's; 0: the engine is to choose */
	char ip[46];     /* of the host; "": any */
};

struct docker_container {
	char id[65];      /* 64 hex digits */
	char name[128];   /* without the slash; cut */
	char network[80]; /* HostConfig.NetworkMode, "" if it is not said; cut */
	bool running;     /* or paused: its ports are open */
	bool restarting;  /* it died, and its restart policy is waiting: they are not */
	bool publish_all, auto_remove; /* by inspect only */
	struct docker_port *ports;
	size_t nports;
};

/* "tcp", "udp", "sctp". */
const char *docker_proto_text(enum docker_proto);
/* "80/tcp", "80" (tcp): 0 or -EINVAL. */
int docker_port_parse(struct slice text, enum docker_proto *, uint16_t *port);
/* Empty, 0.0.0.0 or :: */
bool docker_ip_is_any(const char *ip);

/* GET /containers/NAME/json: the container with the ports that the engine has published now. 0, or
 * -EINVAL when it is none; ports that cannot be read are left out. On success to be released with
 * docker_container_end. */
int docker_inspected(struct docker_container *, struct json_doc *);
/* The same reply: the ports that a start will publish (HostConfig.PortBindings). */
int docker_wanted(struct docker_container *, struct json_doc *);
/* One element of GET /containers/json: as docker_inspected. */
int docker_listed(struct docker_container *, struct json_doc *, struct json *element);
void docker_container_end(struct docker_container *);

/* Which number has this port here? The engine's own: it stays as it is. */
typedef uint16_t docker_number_here(void *arg, struct slice id, const struct docker_port *);
/* Rewrites the host's numbers in replies, nothing else. Returns how many have changed. */
size_t docker_renumber_list(struct json_doc *, docker_number_here *, void *arg);
size_t docker_renumber_inspect(struct json_doc *, docker_number_here *, void *arg);

/* POST /containers/create, so that nothing is published but on the engine's loopback: bindings to
 * any address get 127.0.0.1. exposed: the image's inspect reply, whose EXPOSEd ports a
 * PublishAllPorts stands for; NULL: not known, PublishAllPorts stays. 0, or -EINVAL for a document
 * that cannot be made safe. Names of members are taken in any case, as the engine takes them. */
int docker_bind_loopback(struct json_doc *, struct json_doc *exposed);
/* Does the same request ask for PublishAllPorts? Then *image (decoded, lives as long as the
 * document) is what it starts from. */
bool docker_publishes_all(struct json_doc *, struct slice *image);

#endif
