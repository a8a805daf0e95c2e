/*
 * The objects of the Kubernetes API that a sandbox is made of, as JSON: what we write (Pod, v1;
 * Sandbox, agents.x-k8s.io v1beta1 and v1alpha1) and what we read of them, of lists, of watch
 * events and of refusals (kubernetes.io/docs/reference/using-api/api-concepts). Pure.
 */
#ifndef K8S_OBJECT_H
#define K8S_OBJECT_H

#include "json/json.h"
#include "proto/docker/sandbox.h"
#include "reactor/buf.h"

enum kube_kind { KUBE_POD = 0, KUBE_SANDBOX_V1BETA1, KUBE_SANDBOX_V1ALPHA1 };

struct kube_spec {
	struct docker_sandbox s;   /* what the container's environment is made of, and its limits */
	const char *runtime_class; /* NULL: none */
	int64_t now;               /* Unix time */
};

/* "/api/v1/namespaces/NS/pods" and so on, with "/NAME" if name is not NULL. To be free()d. */
char *kube_target(enum kube_kind, const char *ns, const char *name);
/* "?labelSelector=..." of this server's, or of one session's (not NULL), percent-encoded. To be
 * free()d. */
char *kube_selector(const char *server, const char *session);
/* The body of the POST that makes one. */
void kube_put(struct buf *, enum kube_kind, const struct kube_spec *);
/* The body of the merge patch (RFC 7386) that suspends or wakes a sandbox. */
struct slice kube_suspend_patch(enum kube_kind, bool suspend);
/* Which kind GET /apis/agents.x-k8s.io says that there is: KUBE_POD when neither version is. */
enum kube_kind kube_discovery(struct slice body);

/* Slices live as long as the document; empty: not said. */
struct kube_meta {
	struct slice name, uid, version, session, sandbox;
	bool deleting, owned;
};
void kube_meta_read(struct json_doc *, struct json *object, struct kube_meta *);

struct kube_pod {
	struct slice ip, phase;
	bool running;  /* its container runs */
	char why[400]; /* why it has ended or will not start; "": nothing is wrong */
	bool hopeless; /* and will not get better by waiting */
};
void kube_pod_read(struct json_doc *, struct json *object, struct kube_pod *);

struct kube_sandbox {
	bool suspended; /* by its spec */
	char why[400];  /* why it has ended or is broken */
	bool finished;
};
void kube_sandbox_read(struct json_doc *, struct json *object, struct kube_sandbox *);

/* A line of a watch. */
enum kube_event_type { KUBE_ADDED = 1, KUBE_MODIFIED, KUBE_DELETED, KUBE_BOOKMARK, KUBE_ERROR };
struct kube_event {
	enum kube_event_type type;
	struct json *object;
	int64_t code; /* of an error: 410 and others */
};
/* 0, or -EINVAL. */
int kube_event_read(struct json_doc *, struct kube_event *);

/* A refusal as a sentence: the Status' message, with what to do for 401 and 403. */
void kube_refusal(int status, struct slice body, char *out, size_t outlen);

#endif
