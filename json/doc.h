/* What the files of this room share: the document and its arena. Nobody outside includes this. */
#ifndef JSON_DOC_H
#define JSON_DOC_H

#include "json/json.h"

/* How a value stands to the text of its parent. */
enum json_place {
	JSON_KEPT = 0,
	JSON_REPLACED, /* was->raw is the gap it fills */
	JSON_REMOVED,  /* still in the list: its neighbours' white space is found by it */
	JSON_ADDED     /* behind all others */
};

struct json_chunk {
	struct json_chunk *next;
	size_t used, size;
	_Alignas(max_align_t) char data[];
};

struct json_doc {
	struct slice text; /* the input, with the white space around the root */
	struct json *root;
	struct json_chunk *chunks;
	size_t values_left;
	unsigned max_depth;
};

/* n bytes that live as long as doc. */
void *json_arena(struct json_doc *doc, size_t n);
/* Parses text (which lives as long as doc) as a value that has depth containers around it. */
struct json *json_parse_value(struct json_doc *doc, struct slice text, unsigned depth,
			      struct json_error *err);
/* Decodes the inside of a checked string; out has room for inside.n bytes. Returns the length. */
size_t json_decode(struct slice inside, char *out);
/* s escaped, without quotes, into out (NULL: only count). Returns the length. */
size_t json_escape(struct slice s, char *out);
/* v with its edits into out (NULL: only count). Returns the length. */
size_t json_render(const struct json *v, char *out);

#endif
