/*
 * How to reach a cluster: what kubectl's configuration file says (YAML or JSON), or what a pod
 * finds in itself (kubernetes.io/docs: "Organizing Cluster Access Using kubeconfig Files",
 * "Accessing the Kubernetes API from a Pod"). Pure but for kube_config_in_cluster.
 */
#ifndef K8S_KUBECONFIG_H
#define K8S_KUBECONFIG_H

#include "reactor/base.h"

/* All strings are owned; NULL: not there. */
struct kube_config {
	char *server;     /* https://HOST:PORT[/PATH] */
	char *tls_name;   /* tls-server-name */
	char *namespace_; /* of the context */
	char *ca_file;    /* PEM; ca_data wins */
	char *cert_file, *key_file;
	char *ca_data, *cert_data, *key_data; /* PEM, decoded */
	char *token, *token_file;
	char *username, *password;
	bool insecure; /* insecure-skip-tls-verify */
};

/* text of a kubeconfig in file dir/..., against which relative paths are taken (as kubectl does).
 * context NULL: the current one. 0, or -EINVAL with a sentence. kube_config_end in any case. */
int kube_config_parse(struct kube_config *, struct slice text, const char *dir, const char *context,
		      char *err, size_t errlen);
/* From the environment and the service account. 0, or -ENOENT: we are in no pod. */
int kube_config_in_cluster(struct kube_config *);
/* Wipes and frees the strings. */
void kube_config_end(struct kube_config *);

#endif
