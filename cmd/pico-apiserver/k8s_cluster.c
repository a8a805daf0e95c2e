/* The kubernetes backend's way to its cluster: configuration, TLS, tokens. */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cmd/pico-apiserver/k8s_int.h"
#include "http/url.h"
#include "reactor/base64.h"
#include "reactor/err.h"
#include "reactor/log.h"

enum { CONFIG_MAX = 4 << 20, TOKEN_MAX = 64 * 1024, TOKEN_MS = 10 * 1000 };

/* A small file as text, to be free()d; NULL and errno. */
static char *read_text(const char *path, size_t max)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	size_t n = 0, cap = 4096;
	char *text = xmalloc(cap + 1);
	ssize_t r;
	while ((r = read(fd, text + n, cap - n)) > 0) {
		n += (size_t)r;
		if (n == cap && cap < max)
			text = xrealloc(text, (cap *= 2) + 1);
	}
	int saved = n >= max ? EFBIG : errno;
	close(fd);
	if (r < 0 || n >= max) {
		free(text);
		errno = saved;
		return NULL;
	}
	text[n] = '\0';
	return text;
}

/* --- tokens --- */

static const char *authorization(void *arg)
{
	struct kube *k = arg;
	uint64_t now = reactor_now(k->b.rx);
	if (!k->config.token_file || (k->authorization && now - k->token_at < TOKEN_MS))
		return k->authorization;
	char *token =
	    read_text(k->config.token_file, TOKEN_MAX); /* a few hundred bytes in memory */
	if (!token) {
		log_warn("kubernetes-token file=%s error=%s", k->config.token_file,
			 err_text(errno));
		return k->authorization;
	}
	token[strcspn(token, "\r\n")] = '\0';
	free(k->authorization);
	k->authorization = xasprintf("Bearer %s", token);
	k->token_at = now;
	explicit_bzero(token, strlen(token));
	free(token);
	return k->authorization;
}

static void set_authorization(struct kube *k)
{
	struct kube_config *c = &k->config;
	if (c->token && !c->token_file) {
		k->authorization = xasprintf("Bearer %s", c->token);
	} else if (c->username && c->password && !c->token_file) {
		char *pair = xasprintf("%s:%s", c->username, c->password);
		size_t n = strlen(pair);
		char *coded = xmalloc(n * 4 / 3 + 8);
		base64_put(slice_of(pair, n), coded);
		k->authorization = xasprintf("Basic %s%s", coded,
					     n % 3 == 1   ? "=="
					     : n % 3 == 2 ? "="
							  : "");
		free(pair);
		free(coded);
	}
	k->api.authorization = authorization;
	k->api.arg = k;
}

/* --- configuration --- */

static int config_from_file(struct kube *k, const char *path, char *err, size_t errlen)
{
	char why[400];
	char *text = read_text(path, CONFIG_MAX);
	if (!text) {
		snprintf(err, errlen, "kubeconfig %s: %s", path, err_text(errno));
		return -EINVAL;
	}
	char *dir = xstrdup(path);
	char *slash = strrchr(dir, '/');
	if (slash)
		*slash = '\0';
	int r = kube_config_parse(&k->config, slice_str(text), slash ? dir : NULL, NULL, why,
				  sizeof(why));
	if (r < 0)
		snprintf(err, errlen, "kubeconfig %s: %s", path, why);
	free(dir);
	explicit_bzero(text, strlen(text));
	free(text);
	return r;
}

static int config_find(struct kube *k, char *err, size_t errlen)
{
	const char *path = k->b.options->kubeconfig;
	const char *home = getenv("HOME");
	path = path ? path : getenv("KUBECONFIG");
	if (path && *path)
		return config_from_file(k, path, err, errlen);
	char *own = xasprintf("%s/.kube/config", home ? home : "");
	bool there = home && access(own, R_OK) == 0;
	int r = there ? config_from_file(k, own, err, errlen) : kube_config_in_cluster(&k->config);
	if (r < 0 && !there)
		snprintf(err, errlen,
			 "no cluster: neither --kubeconfig, $KUBECONFIG, ~/.kube/config nor a "
			 "service account of a pod is there");
	free(own);
	return r;
}

/* PEM text as a file's name that tls_config_new can read, in *fd; NULL for NULL. To be free()d. */
static char *memory_file(const char *text, int *fd)
{
	*fd = text ? memfd_create("pem", MFD_CLOEXEC) : -1;
	if (*fd < 0)
		return NULL;
	size_t n = strlen(text);
	if (write(*fd, text, n) != (ssize_t)n)
		return NULL;
	return xasprintf("/proc/self/fd/%d", *fd);
}

static int set_tls(struct kube *k, char *err, size_t errlen)
{
	struct kube_config *c = &k->config;
	const char *data[] = { c->ca_data, c->cert_data, c->key_data };
	const char *files[] = { c->ca_file, c->cert_file, c->key_file };
	char *made[3];
	int fds[3];
	char why[400];
	for (size_t i = 0; i < 3; i++) {
		made[i] = memory_file(data[i], &fds[i]);
		files[i] = made[i] ? made[i] : files[i];
	}
	struct tls_options o = { .cert_file = files[1],
				 .key_file = files[2],
				 .ca_files = &files[0],
				 .n_ca = files[0] ? 1 : 0,
				 .insecure = c->insecure,
				 .min_tls12 = true };
	k->api.tls = tls_config_new(&o, false, why, sizeof(why));
	if (!k->api.tls)
		snprintf(err, errlen, "the cluster's certificates: %s", why);
	for (size_t i = 0; i < 3; i++) {
		free(made[i]);
		if (fds[i] >= 0)
			close(fds[i]);
	}
	return k->api.tls ? 0 : -EINVAL;
}

int kube_cluster_init(struct kube *k, char *err, size_t errlen)
{
	struct http_url url;
	struct http_err wrong;
	if (config_find(k, err, errlen) < 0)
		return -EINVAL;
	bool tls = true;
	if (http_url_parse(&url, slice_str(k->config.server), &wrong) < 0 || url.userinfo.p ||
	    (!(tls = slice_eqi(url.scheme, SLICE("https"))) &&
	     !slice_eqi(url.scheme, SLICE("http"))) ||
	    url.host.n == 0 || url.host.n >= sizeof(k->api.to.host)) {
		snprintf(err, errlen, "kubeconfig: server %s is not like https://HOST:PORT",
			 k->config.server);
		return -EINVAL;
	}
	k->api.rx = k->b.rx;
	k->api.to = (struct addr){ .kind = ADDR_TCP,
				   .port = url.port ? url.port : (uint16_t)(tls ? 443 : 80) };
	memcpy(k->api.to.host, url.host.p, url.host.n);
	k->host = xasprintf(url.ipv6 ? "[%s]:%u" : "%s:%u", k->api.to.host, k->api.to.port);
	while (url.path.n && url.path.p[url.path.n - 1] == '/')
		url.path.n--;
	k->prefix = xslicedup(url.path);
	k->tls_name = xstrdup(k->config.tls_name ? k->config.tls_name : k->api.to.host);
	k->api.host = k->host;
	k->api.prefix = k->prefix;
	k->api.tls_name = k->tls_name;
	set_authorization(k);
	return tls ? set_tls(k, err, errlen) : 0;
}

void kube_cluster_end(struct kube *k)
{
	tls_config_unref(k->api.tls);
	kube_config_end(&k->config);
	free(k->host);
	free(k->prefix);
	free(k->tls_name);
	free(k->authorization);
}

/* --- asking --- */

struct http_fetch *kube_ask(struct kube *k, const char *method, char *target, const char *type,
			    struct slice body, http_fetched *then, void *arg)
{
	struct rest_request q = { .method = method, .target = target, .type = type, .body = body };
	struct http_fetch *f = rest_ask(&k->api, &q, then, arg);
	free(target);
	return f;
}

const char *kube_said(struct kube *k, int status, const char *why, struct slice body, char *out,
		      size_t outlen)
{
	if (status < 0)
		snprintf(out, outlen, "cluster at %s: %s", k->host, why);
	else
		kube_refusal(status, body, out, outlen);
	return out;
}

bool kube_passing(int status)
{
	return (status < 0 && status != -EINVAL) || status == 409 || status == 429 || status >= 500;
}

bool backend_kubernetes_here(void)
{
	struct kube_config c;
	bool here = kube_config_in_cluster(&c) == 0;
	kube_config_end(&c);
	return here;
}
