/*
 * The part of YAML 1.2 that kubeconfig files are written in: block mappings and sequences, plain
 * and quoted scalars on one line, literal and folded blocks, empty flow collections, comments, one
 * document. JSON is YAML, too: text that starts with '{' is passed as it is. Anchors, tags, flow
 * collections with content and scalars over several lines are refused, with a sentence. Pure.
 */
#ifndef K8S_YAML_H
#define K8S_YAML_H

#include "json/json.h"
#include "reactor/buf.h"

enum { YAML_DEPTH = 24 };

/* Appends the document as JSON text to out. Plain scalars become strings, except null, ~ and
 * nothing (null), true and false. 0, or -EINVAL with a sentence that names the line in err (out
 * may hold a part then). */
int yaml_to_json(struct slice text, struct buf *out, char *err, size_t errlen);

#endif
