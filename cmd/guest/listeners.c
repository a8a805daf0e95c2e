/* Streams of kind listeners: what a container listens on, told by a child that looks. */
#include "cmd/guest/listeners.h"

#include <errno.h>

#include "cmd/guest/guest.h"
#include "json/json.h"
#include "proto/docker/listeners.h"
#include "reactor/child.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "reactor/pump.h"

enum { WATCHERS_MAX = 256 };

struct watcher {
	struct list link; /* guest.watchers */
	struct guest *g;
	struct child *child;
	struct pump *pump;
};

static void on_ended(void *arg, const struct child_status *status)
{
	(void)arg, (void)status; /* its output ends, and that tells the pump */
}

static void on_finished(void *arg, const struct pump_end *end, const char *why)
{
	struct watcher *w = arg;
	(void)end, (void)why;
	list_del(&w->link);
	w->g->nwatchers--;
	child_free(w->child);
	free(w);
}

int listeners_start(struct guest *g, struct stream *s, struct json_doc *doc, char *why,
		    size_t whylen)
{
	struct slice id;
	if (json_str(doc, json_find(json_root(doc), "container"), &id) < 0 ||
	    !docker_id_is_whole(id)) {
		snprintf(why, whylen, "\"container\" must be an id of 64 hex digits");
		return -EINVAL;
	}
	if (g->nwatchers == WATCHERS_MAX) {
		snprintf(why, whylen, "the listeners of %d containers are being watched already",
			 WATCHERS_MAX);
		return -ERR_TOO_MANY;
	}
	struct watcher *w = xcalloc(1, sizeof(*w));
	char id_text[65];
	char *argv[] = { (char[]){ "/proc/self/exe" }, (char[]){ LISTENERS_NAME }, id_text, NULL };
	char *envp[] = { NULL };
	int err = 0;
	snprintf(id_text, sizeof(id_text), "%.*s", SLICE_FMT(id));
	w->g = g;
	w->child = child_spawn(g->rx, &(struct child_options){ .argv = argv, .envp = envp }, NULL,
			       on_ended, w, &err);
	if (!w->child) {
		snprintf(why, whylen, "cannot start the listeners worker: %s", err_text(err));
		free(w);
		return err;
	}
	list_init(&w->link);
	list_add_tail(&g->watchers, &w->link);
	g->nwatchers++;
	mux_accept(s, SLICE(""));
	w->pump = pump_start(g->rx, s,
			     pair_stream_new(g->rx, child_stdout(w->child), child_stdin(w->child)),
			     on_finished, w);
	return 0;
}

void listeners_end_all(struct guest *g)
{
	while (!list_empty(&g->watchers)) /* each takes itself out */
		pump_abort(container_of(g->watchers.next, struct watcher, link)->pump, -ERR_GOAWAY);
}
