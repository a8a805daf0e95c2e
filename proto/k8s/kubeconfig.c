#include "proto/k8s/kubeconfig.h"

#include <errno.h>
#include <unistd.h>

#include "proto/k8s/yaml.h"
#include "reactor/base64.h"

enum { TEXT_MAX = 4 << 20 };

#define ACCOUNT "/var/run/secrets/kubernetes.io/serviceaccount"

struct reader {
	struct json_doc *doc;
	const char *dir;
	char *err;
	size_t errlen;
	bool failed;
};

static void fail(struct reader *r, const char *what, const char *name)
{
	if (!r->failed)
		snprintf(r->err, r->errlen, what, name);
	r->failed = true;
}

/* A member that is a text; "" counts as none. */
static char *text_of(struct reader *r, struct json *object, const char *name)
{
	struct slice s;
	int code = json_str(r->doc, json_member(object, slice_str(name)), &s);
	if (code == -EINVAL || (code == 0 && memchr(s.p, '\0', s.n)))
		fail(r, "%s is no text", name);
	return code == 0 && s.n && !r->failed ? xslicedup(s) : NULL;
}

static char *path_of(struct reader *r, struct json *object, const char *name)
{
	char *path = text_of(r, object, name);
	if (!path || path[0] == '/' || !r->dir)
		return path;
	char *full = xasprintf("%s/%s", r->dir, path);
	free(path);
	return full;
}

static char *data_of(struct reader *r, struct json *object, const char *name)
{
	char *text = text_of(r, object, name);
	if (!text)
		return NULL;
	size_t n = strlen(text);
	char *out = xmalloc(n + 1);
	ssize_t got = base64_get(slice_of(text, n), true, (uint8_t *)out);
	if (got < 0) {
		fail(r, "%s is no base64", name);
		got = 0;
	}
	out[got] = '\0';
	free(text);
	return out;
}

/* The entry of a list whose name is that, and in it the member kind. */
static struct json *entry_of(struct reader *r, const char *list, const char *name, const char *kind)
{
	struct json *l = json_member(json_root(r->doc), slice_str(list));
	for (struct json *e = json_first(l); e; e = json_next(e)) {
		struct slice is;
		if (json_str(r->doc, json_find(e, "name"), &is) == 0 &&
		    slice_eq(is, slice_str(name)))
			return json_member(e, slice_str(kind));
	}
	char what[64];
	snprintf(what, sizeof(what), "no entry \"%%s\" in %s", list);
	fail(r, what, name);
	return NULL;
}

static void read_cluster(struct reader *r, struct kube_config *c, struct json *cluster)
{
	c->server = text_of(r, cluster, "server");
	c->tls_name = text_of(r, cluster, "tls-server-name");
	c->ca_file = path_of(r, cluster, "certificate-authority");
	c->ca_data = data_of(r, cluster, "certificate-authority-data");
	if (json_bool(json_find(cluster, "insecure-skip-tls-verify"), &c->insecure) == -EINVAL)
		fail(r, "%s is neither true nor false", "insecure-skip-tls-verify");
	if (!c->server)
		fail(r, "%s is missing", "the cluster's server");
	if (json_member(cluster, SLICE("proxy-url")))
		fail(r, "%s is not supported", "proxy-url");
}

static void read_user(struct reader *r, struct kube_config *c, struct json *user)
{
	c->cert_file = path_of(r, user, "client-certificate");
	c->cert_data = data_of(r, user, "client-certificate-data");
	c->key_file = path_of(r, user, "client-key");
	c->key_data = data_of(r, user, "client-key-data");
	c->token = text_of(r, user, "token");
	c->token_file = path_of(r, user, "tokenFile");
	c->username = text_of(r, user, "username");
	c->password = text_of(r, user, "password");
	if (json_member(user, SLICE("exec")) || json_member(user, SLICE("auth-provider")))
		if (!c->token && !c->token_file && !c->cert_data && !c->cert_file)
			fail(r,
			     "the user gets its credentials from a program (%s), which is not "
			     "supported: "
			     "use a certificate or a token",
			     json_member(user, SLICE("exec")) ? "exec" : "auth-provider");
	if (!(c->cert_file || c->cert_data) != !(c->key_file || c->key_data))
		fail(r, "%s must be given together", "client certificate and key");
}

int kube_config_parse(struct kube_config *c, struct slice text, const char *dir,
		      const char *context, char *err, size_t errlen)
{
	struct reader r = { .dir = dir, .err = err, .errlen = errlen };
	struct json_error wrong = { JSON_OK, 0 };
	struct buf json;
	*c = (struct kube_config){ .server = NULL };
	buf_init(&json, TEXT_MAX);
	if (yaml_to_json(text, &json, err, errlen) < 0) {
		buf_end(&json);
		return -EINVAL;
	}
	r.doc = json_parse(buf_data(&json), NULL, &wrong);
	if (!r.doc || json_root(r.doc)->type != JSON_OBJECT) {
		fail(&r, "is no kubeconfig: %s",
		     r.doc ? "not a mapping" : json_error_text(wrong.code));
	} else {
		char *name =
		    context ? xstrdup(context) : text_of(&r, json_root(r.doc), "current-context");
		struct json *in = NULL;
		if (name)
			in = entry_of(&r, "contexts", name, "context");
		else
			fail(&r, "%s is not set: kubectl config use-context NAME",
			     "current-context");
		char *cluster = r.failed ? NULL : text_of(&r, in, "cluster");
		char *user = r.failed ? NULL : text_of(&r, in, "user");
		if (!r.failed)
			c->namespace_ = text_of(&r, in, "namespace");
		if (!r.failed && !cluster)
			fail(&r, "context \"%s\" names no cluster", name);
		if (!r.failed)
			read_cluster(&r, c, entry_of(&r, "clusters", cluster, "cluster"));
		if (!r.failed && user)
			read_user(&r, c, entry_of(&r, "users", user, "user"));
		free(name);
		free(cluster);
		free(user);
	}
	json_free(r.doc);
	buf_end(&json);
	return r.failed ? -EINVAL : 0;
}

int kube_config_in_cluster(struct kube_config *c)
{
	const char *host = getenv("KUBERNETES_SERVICE_HOST");
	const char *port = getenv("KUBERNETES_SERVICE_PORT");
	const char *account = getenv("PICO_SERVICE_ACCOUNT_DIR"); /* tests */
	*c = (struct kube_config){ .server = NULL };
	account = account ? account : ACCOUNT;
	if (!host || !*host)
		return -ENOENT;
	c->token_file = xasprintf("%s/token", account);
	c->ca_file = xasprintf("%s/ca.crt", account);
	c->server = xasprintf(strchr(host, ':') ? "https://[%s]:%s" : "https://%s:%s", host,
			      port && *port ? port : "443");
	if (access(c->token_file, R_OK) == 0)
		return 0;
	kube_config_end(c);
	return -ENOENT;
}

static void wipe(char **s)
{
	if (*s)
		explicit_bzero(*s, strlen(*s));
	free(*s);
	*s = NULL;
}

void kube_config_end(struct kube_config *c)
{
	char **all[] = { &c->server,     &c->tls_name, &c->namespace_, &c->ca_file,  &c->cert_file,
			 &c->key_file,   &c->ca_data,  &c->cert_data,  &c->key_data, &c->token,
			 &c->token_file, &c->username, &c->password };
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		wipe(all[i]);
}
