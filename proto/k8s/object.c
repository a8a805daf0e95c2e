#include "proto/k8s/object.h"

#include <errno.h>
#include <time.h>

#include "http/url.h"

#define GROUP "agents.x-k8s.io"

enum { LATE_S = 60, GRACE_S = 2, DISK_MIB = 1024 };

static const char *version_of(enum kube_kind kind)
{
	return kind == KUBE_SANDBOX_V1BETA1 ? "v1beta1" : "v1alpha1";
}

char *kube_target(enum kube_kind kind, const char *ns, const char *name)
{
	const char *slash = name ? "/" : "";
	name = name ? name : "";
	if (kind == KUBE_POD)
		return xasprintf("/api/v1/namespaces/%s/pods%s%s", ns, slash, name);
	return xasprintf("/apis/" GROUP "/%s/namespaces/%s/sandboxes%s%s", version_of(kind), ns,
			 slash, name);
}

char *kube_selector(const char *server, const char *session)
{
	if (session)
		return xasprintf("?labelSelector=session-id%%3D%s", session);
	return xasprintf("?labelSelector=managed-by%%3Dpico-apiserver%%2Cpico-server%%3D%s",
			 server);
}

/* --- writing --- */

static void put_text(struct json_writer *w, const char *name, const char *value)
{
	json_put_name(w, name);
	json_put_str(w, slice_str(value));
}

static void put_bool(struct json_writer *w, const char *name, bool value)
{
	json_put_name(w, name);
	json_put_bool(w, value);
}

static void put_number(struct json_writer *w, const char *name, int64_t value)
{
	json_put_name(w, name);
	json_put_i64(w, value);
}

static void open_object(struct json_writer *w, const char *name)
{
	if (name)
		json_put_name(w, name);
	json_put_object(w);
}

static void open_array(struct json_writer *w, const char *name)
{
	json_put_name(w, name);
	json_put_array(w);
}

static void put_labels(struct json_writer *w, const struct docker_sandbox *s)
{
	open_object(w, "labels");
	put_text(w, "managed-by", "pico-apiserver");
	put_text(w, "session-id", s->id);
	put_text(w, "sandbox", s->name);
	put_text(w, "pico-server", s->server);
	json_put_end(w);
}

static void put_env(void *arg, const char *name, const char *value)
{
	struct json_writer *w = arg;
	open_object(w, NULL);
	put_text(w, "name", name);
	put_text(w, "value", value);
	json_put_end(w);
}

static void put_limits(struct json_writer *w, const struct docker_sandbox *s)
{
	char text[32];
	if (!s->memory && !s->cpu_millis)
		return;
	open_object(w, "resources");
	open_object(w, "limits");
	if (s->memory) {
		snprintf(text, sizeof(text), "%llu", (unsigned long long)s->memory);
		put_text(w, "memory", text);
	}
	if (s->cpu_millis) {
		snprintf(text, sizeof(text), "%um", s->cpu_millis);
		put_text(w, "cpu", text);
	}
	json_put_end(w);
	json_put_end(w);
}

/* The pod's spec. A sandbox keeps its disk in a claim; a pod has no other life. */
static void put_pod_spec(struct json_writer *w, const struct kube_spec *k, bool pod)
{
	const struct docker_sandbox *s = &k->s;
	put_text(w, "restartPolicy", pod ? "Never" : "Always");
	put_bool(w, "automountServiceAccountToken", false);
	put_bool(w, "enableServiceLinks", false);
	put_number(w, "terminationGracePeriodSeconds", GRACE_S);
	if (k->runtime_class)
		put_text(w, "runtimeClassName", k->runtime_class);
	if (pod)
		put_number(w, "activeDeadlineSeconds", MAX(s->expires_at - k->now + LATE_S, 1));
	open_array(w, "containers");
	open_object(w, NULL);
	put_text(w, "name", "sandbox");
	put_text(w, "image", s->image);
	put_text(w, "imagePullPolicy", "IfNotPresent");
	open_array(w, "env");
	docker_sandbox_env(s, put_env, w);
	json_put_end(w);
	open_array(w, "ports");
	open_object(w, NULL);
	put_text(w, "name", "ssh");
	put_number(w, "containerPort", s->ssh_port);
	json_put_end(w);
	json_put_end(w);
	open_object(w, "readinessProbe");
	open_object(w, "tcpSocket");
	put_number(w, "port", s->ssh_port);
	json_put_end(w);
	put_number(w, "periodSeconds", 1);
	json_put_end(w);
	put_limits(w, s);
	open_array(w, "volumeMounts");
	open_object(w, NULL);
	put_text(w, "name", "workspace");
	put_text(w, "mountPath", "/workspace");
	json_put_end(w);
	json_put_end(w);
	json_put_end(w);
	json_put_end(w);
	if (!pod)
		return;
	open_array(w, "volumes");
	open_object(w, NULL);
	put_text(w, "name", "workspace");
	open_object(w, "emptyDir");
	json_put_end(w);
	json_put_end(w);
	json_put_end(w);
}

static void put_claim(struct json_writer *w)
{
	char text[16];
	open_array(w, "volumeClaimTemplates");
	open_object(w, NULL);
	open_object(w, "metadata");
	put_text(w, "name", "workspace");
	json_put_end(w);
	open_object(w, "spec");
	open_array(w, "accessModes");
	json_put_str(w, SLICE("ReadWriteOnce"));
	json_put_end(w);
	open_object(w, "resources");
	open_object(w, "requests");
	snprintf(text, sizeof(text), "%dMi", DISK_MIB);
	put_text(w, "storage", text);
	json_put_end(w);
	json_put_end(w);
	json_put_end(w);
	json_put_end(w);
	json_put_end(w);
}

static void put_sandbox_spec(struct json_writer *w, enum kube_kind kind, const struct kube_spec *k)
{
	char when[32];
	time_t at = (time_t)(k->s.expires_at + LATE_S);
	struct tm tm;
	strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&at, &tm));
	open_object(w, "podTemplate");
	open_object(w, "metadata");
	put_labels(w, &k->s);
	json_put_end(w);
	open_object(w, "spec");
	put_pod_spec(w, k, false);
	json_put_end(w);
	json_put_end(w);
	put_claim(w);
	put_text(w, "shutdownTime", when);
	put_text(w, "shutdownPolicy", "Delete");
	if (kind == KUBE_SANDBOX_V1BETA1)
		put_text(w, "operatingMode", "Running");
	else
		put_number(w, "replicas", 1);
}

void kube_put(struct buf *b, enum kube_kind kind, const struct kube_spec *k)
{
	struct json_writer w;
	char api[64];
	json_writer_begin(&w, b);
	open_object(&w, NULL);
	snprintf(api, sizeof(api), GROUP "/%s", version_of(kind));
	put_text(&w, "apiVersion", kind == KUBE_POD ? "v1" : api);
	put_text(&w, "kind", kind == KUBE_POD ? "Pod" : "Sandbox");
	open_object(&w, "metadata");
	put_text(&w, "name", k->s.name);
	put_labels(&w, &k->s);
	json_put_end(&w);
	open_object(&w, "spec");
	if (kind == KUBE_POD)
		put_pod_spec(&w, k, true);
	else
		put_sandbox_spec(&w, kind, k);
	json_put_end(&w);
	json_put_end(&w);
	BUG_ON(json_writer_end(&w) < 0);
}

struct slice kube_suspend_patch(enum kube_kind kind, bool suspend)
{
	if (kind == KUBE_SANDBOX_V1BETA1)
		return suspend ? SLICE("{\"spec\":{\"operatingMode\":\"Suspended\"}}")
			       : SLICE("{\"spec\":{\"operatingMode\":\"Running\"}}");
	return suspend ? SLICE("{\"spec\":{\"replicas\":0}}")
		       : SLICE("{\"spec\":{\"replicas\":1}}");
}

/* --- reading --- */

static bool str_is(struct json_doc *doc, struct json *v, struct slice want)
{
	struct slice s;
	return json_str(doc, v, &s) == 0 && slice_eq(s, want);
}

enum kube_kind kube_discovery(struct slice body)
{
	struct json_doc *doc = json_parse(body, NULL, NULL);
	enum kube_kind kind = KUBE_POD;
	struct json *versions = doc ? json_find(json_root(doc), "versions") : NULL;
	for (struct json *v = json_first(versions); v; v = json_next(v)) {
		if (str_is(doc, json_find(v, "version"), SLICE("v1beta1")))
			kind = KUBE_SANDBOX_V1BETA1;
		else if (kind == KUBE_POD &&
			 str_is(doc, json_find(v, "version"), SLICE("v1alpha1")))
			kind = KUBE_SANDBOX_V1ALPHA1;
	}
	json_free(doc);
	return kind;
}

void kube_meta_read(struct json_doc *doc, struct json *object, struct kube_meta *m)
{
	struct json *meta = json_find(object, "metadata");
	*m = (struct kube_meta){ .deleting = false };
	json_str(doc, json_find(meta, "name"), &m->name);
	json_str(doc, json_find(meta, "uid"), &m->uid);
	json_str(doc, json_find(meta, "resourceVersion"), &m->version);
	json_str(doc, json_find(meta, "labels", "session-id"), &m->session);
	json_str(doc, json_find(meta, "labels", "sandbox"), &m->sandbox);
	struct json *deleted = json_find(meta, "deletionTimestamp");
	m->deleting = deleted && deleted->type != JSON_NULL;
	m->owned = json_first(json_find(meta, "ownerReferences")) != NULL;
}

/* "reason: message" of an object that has both, or one. */
static void put_why(struct json_doc *doc, struct json *from, char *out, size_t outlen)
{
	struct slice reason = SLICE(""), message = SLICE("");
	json_str(doc, json_find(from, "reason"), &reason);
	json_str(doc, json_find(from, "message"), &message);
	snprintf(out, outlen, "%.*s%s%.*s", SLICE_FMT(reason), reason.n && message.n ? ": " : "",
		 SLICE_FMT(message));
}

static bool is_hopeless(struct json_doc *doc, struct json *waiting)
{
	static const struct slice reasons[] = {
		SLICE("ImagePullBackOff"),     SLICE("InvalidImageName"),
		SLICE("ErrImageNeverPull"),    SLICE("CreateContainerConfigError"),
		SLICE("CreateContainerError"), SLICE("CrashLoopBackOff"),
		SLICE("RunContainerError"),
	};
	for (size_t i = 0; i < ARRAY_LEN(reasons); i++)
		if (str_is(doc, json_find(waiting, "reason"), reasons[i]))
			return true;
	return false;
}

void kube_pod_read(struct json_doc *doc, struct json *object, struct kube_pod *p)
{
	struct json *status = json_find(object, "status");
	*p = (struct kube_pod){ .running = false };
	json_str(doc, json_find(status, "podIP"), &p->ip);
	json_str(doc, json_find(status, "phase"), &p->phase);
	struct json *c = json_first(json_find(status, "containerStatuses"));
	struct json *waiting = json_find(c, "state", "waiting");
	struct json *ended = json_find(c, "state", "terminated");
	struct json *condition = json_first(json_find(status, "conditions"));
	p->running = slice_eq(p->phase, SLICE("Running")) && !waiting && !ended;
	if (slice_eq(p->phase, SLICE("Failed")) || slice_eq(p->phase, SLICE("Succeeded"))) {
		p->hopeless = true;
		put_why(doc, status, p->why, sizeof(p->why));
		if (!p->why[0])
			put_why(doc, ended, p->why, sizeof(p->why));
		if (!p->why[0])
			snprintf(p->why, sizeof(p->why), "%.*s", SLICE_FMT(p->phase));
	} else if (waiting) {
		p->hopeless = is_hopeless(doc, waiting);
		put_why(doc, waiting, p->why, sizeof(p->why));
	} else {
		for (; condition; condition = json_next(condition))
			if (str_is(doc, json_find(condition, "type"), SLICE("PodScheduled")) &&
			    str_is(doc, json_find(condition, "status"), SLICE("False")))
				put_why(doc, condition, p->why, sizeof(p->why));
	}
}

void kube_sandbox_read(struct json_doc *doc, struct json *object, struct kube_sandbox *s)
{
	struct json *replicas = json_find(object, "spec", "replicas");
	int64_t n = 1;
	*s = (struct kube_sandbox){ .suspended = false };
	json_i64(replicas, &n);
	s->suspended =
	    n == 0 || str_is(doc, json_find(object, "spec", "operatingMode"), SLICE("Suspended"));
	struct json *c = json_first(json_find(object, "status", "conditions"));
	for (; c; c = json_next(c)) {
		bool yes = str_is(doc, json_find(c, "status"), SLICE("True"));
		struct json *reason = json_find(c, "reason");
		if (str_is(doc, json_find(c, "type"), SLICE("Finished")) && yes) {
			s->finished = true;
			put_why(doc, c, s->why, sizeof(s->why));
		} else if (str_is(doc, json_find(c, "type"), SLICE("Ready")) && !yes) {
			s->finished |= str_is(doc, reason, SLICE("SandboxExpired")) ||
				       str_is(doc, reason, SLICE("PodFailed")) ||
				       str_is(doc, reason, SLICE("PodSucceeded"));
			put_why(doc, c, s->why, sizeof(s->why));
		}
	}
}

int kube_event_read(struct json_doc *doc, struct kube_event *e)
{
	static const char *const names[] = { NULL,      "ADDED",    "MODIFIED",
					     "DELETED", "BOOKMARK", "ERROR" };
	struct slice type;
	*e = (struct kube_event){ .code = 0 };
	if (json_str(doc, json_find(json_root(doc), "type"), &type) < 0)
		return -EINVAL;
	for (size_t i = 1; i < ARRAY_LEN(names); i++)
		if (slice_eq(type, slice_str(names[i])))
			e->type = (enum kube_event_type)i;
	e->object = json_find(json_root(doc), "object");
	if (!e->type || !e->object || e->object->type != JSON_OBJECT)
		return -EINVAL;
	if (e->type == KUBE_ERROR)
		json_i64(json_find(e->object, "code"), &e->code);
	return 0;
}

void kube_refusal(int status, struct slice body, char *out, size_t outlen)
{
	char message[512];
	docker_message(body, message, sizeof(message));
	snprintf(out, outlen, "the cluster answered %d: %s%s", status, message,
		 status == 401   ? "; are token or certificate still valid?"
		 : status == 403 ? "; the role in deploy/pico-apiserver.yaml grants what is needed"
				 : "");
}
