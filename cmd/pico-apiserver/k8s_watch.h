/*
 * Follows a set of objects of the Kubernetes API: lists it, then watches from the list's version
 * on, with bookmarks; goes on from the last version when a connection ends, and lists again when
 * the cluster has forgotten that version (410 Gone).
 */
#ifndef PICO_K8S_WATCH_H
#define PICO_K8S_WATCH_H

#include "cmd/pico-apiserver/rest.h"
#include "proto/k8s/object.h"

struct kube_watch_options {
	const struct rest *api;
	char *target; /* of the list, with a query; becomes the watch's */
	/* A list is being asked for; its objects come as KUBE_ADDED, then listed. */
	void (*listing)(void *arg);
	void (*event)(void *arg, enum kube_event_type, struct json_doc *, struct json *object);
	void (*listed)(void *arg);
	/* It does not work now (status < 0, or the cluster's refusal); it goes on trying. */
	void (*broken)(void *arg, int status, const char *why);
	void *arg;
};

struct kube_watch;

/* Begins at once. None of the functions may free the watch. */
struct kube_watch *kube_watch_new(const struct kube_watch_options *);
/* NULL is ignored. */
void kube_watch_free(struct kube_watch *);

#endif
