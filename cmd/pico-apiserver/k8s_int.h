/* Inside of the kubernetes backend: k8s_cluster.c, k8s_reap.c and backend_k8s.c only. */
#ifndef PICO_K8S_INT_H
#define PICO_K8S_INT_H

#include "cmd/pico-apiserver/backend.h"
#include "cmd/pico-apiserver/k8s_watch.h"
#include "cmd/pico-apiserver/probe.h"
#include "proto/k8s/kubeconfig.h"

struct kube {
	struct backend b;
	struct rest api;
	struct kube_config config;
	char *host, *prefix, *tls_name, *authorization;
	uint64_t token_at; /* when token_file was read, reactor_now */
	const char *ns;
	enum kube_kind kind; /* of what we create */
	bool known;          /* kind is */
	struct http_fetch *discover;
	struct kube_watch *pods, *sandboxes;
	struct list boxes; /* kube_box */
	struct list jobs;  /* kube_reap */
	/* list */
	struct http_fetch *list;
	bool list_waits;
	void (*each)(void *arg, const struct box_found *);
	box_done *listed;
	void *listed_arg;
};

struct kube_box {
	struct box box;
	struct kube *k;
	struct list link;
	struct box_events events;
	char *session, *name, *image, *public_key, *server_key;
	int64_t expires_at;
	enum kube_kind kind;
	struct http_fetch *ask;
	struct timer timer;
	void (*fire)(struct kube_box *);
	struct probe probe;
	struct addr at; /* of its pod; host "": none now */
	unsigned tries;
	bool adopting, creating, made;
	bool is_ready, is_gone, paused, pausing, resuming, destroying;
	bool seen, seen_before; /* a pod of it was; before the list under way */
	struct kube_reap *reap;
	box_done *done; /* of pause, resume, destroy */
	void *arg;
};

/* --- k8s_cluster.c: the way there --- */

/* Sets the way to the cluster from kubeconfig or the pod we are in: 0, or -EINVAL with a sentence.
 */
int kube_cluster_init(struct kube *, char *err, size_t errlen);
void kube_cluster_end(struct kube *);
/* Frees target. body.p NULL: none; type NULL: application/json. */
struct http_fetch *kube_ask(struct kube *, const char *method, char *target, const char *type,
			    struct slice body, http_fetched *, void *arg);
/* Why a request failed or was refused, into out, which it returns. */
const char *kube_said(struct kube *, int status, const char *why, struct slice body, char *out,
		      size_t outlen);
/* Worth trying again? */
bool kube_passing(int status);

/* --- k8s_reap.c: without a box --- */

struct kube_reap;
/* Removes what has that name and the label of that session, and waits until it is gone. done may
 * be NULL. */
struct kube_reap *kube_reap(struct kube *, const char *session, const char *name, box_done *,
			    void *arg);
/* Before done only. NULL is ignored. */
void kube_reap_free(struct kube_reap *);
void kube_jobs_end(struct kube *);
void kube_list(struct backend *, void (*each)(void *arg, const struct box_found *), box_done *,
	       void *arg);
void kube_remove(struct backend *, const struct box_found *, box_done *, void *arg);
/* kind is known now (code 0), or could not be asked for. */
void kube_list_discovered(struct kube *, int code, const char *why);

/* --- k8s_follow.c --- */

/* Asks which API there is, unless that is known or under way. */
void kube_discover(struct kube *);
/* What a pod says of its box, from a watch or a list. */
void kube_on_pod(void *kube, enum kube_event_type, struct json_doc *, struct json *object);
void kube_pod_seen(struct kube_box *, const struct kube_pod *, bool deleting);

/* --- backend_k8s.c --- */

/* Goes on once kind is known. */
void kube_box_begin(struct kube_box *);
void kube_box_gone(struct kube_box *, int code, const char *why);
/* Tells of the end of pause or resume. */
void kube_box_settle(struct kube_box *, int code, const char *why);

#endif
