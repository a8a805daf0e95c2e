/*
 * The project's own relay (reactor/pump.c) between two sockets and nothing else: what carries a
 * hijacked Docker connection, measured beside the bare relays of relay.c.
 *
 *   pump LISTEN TARGET      addresses as tsctl takes them: 127.0.0.1:9000
 */
#include "reactor/listen.h"
#include "reactor/pump.h"
#include "reactor/signals.h"

struct relay {
	struct reactor *rx;
	struct addr target;
};

static void on_accept(void *arg, int fd, const struct sockaddr *peer)
{
	struct relay *r = arg;
	(void)peer;
	pump_start(r->rx, fd_stream_new(r->rx, fd), dial(r->rx, &r->target, 0), NULL, NULL);
}

static void on_signal(void *arg, int signo)
{
	struct relay *r = arg;
	(void)signo;
	reactor_stop(r->rx, 0);
}

int main(int argc, char **argv)
{
	static const int signos[] = { SIGTERM, SIGINT, 0 };
	struct relay r;
	struct addr from;
	struct signals signals;
	char why[256];
	int e;
	if (argc != 3) {
		fputs("Usage: pump LISTEN TARGET\n", stderr);
		return 2;
	}
	if (addr_parse_stream(&from, slice_str(argv[1]), 0, why, sizeof(why)) < 0 ||
	    addr_parse_stream(&r.target, slice_str(argv[2]), 0, why, sizeof(why)) < 0) {
		fprintf(stderr, "pump: %s\n", why);
		return 2;
	}
	r.rx = reactor_new();
	signals_open(&signals, r.rx, signos, on_signal, &r);
	struct listener *l = listener_new(r.rx, &from, on_accept, &r, &e);
	if (!l) {
		fprintf(stderr, "pump: cannot listen on %s: %s\n", argv[1], strerrordesc_np(-e));
		return 1;
	}
	int code = reactor_run(r.rx);
	listener_close(l);
	signals_close(&signals);
	reactor_free(r.rx);
	return code;
}
