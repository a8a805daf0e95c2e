/*
 * Strict JSON (RFC 8259, and of RFC 7493 what removes ambiguity): a reader that gives a tree, edits
 * of that tree that leave every other byte as it was, a writer, and a splitter for streams of
 * values. Refused besides what the grammar refuses: ill-formed UTF-8, lone surrogates, a byte order
 * mark, and two members of one name in an object (readers differ in which one they believe).
 * Names are compared as decoded text, case and all. Numbers stay text until somebody asks.
 */
#ifndef JSON_JSON_H
#define JSON_JSON_H

#include <sys/types.h>

#include "reactor/base.h"

struct buf;
struct json_doc;

enum json_type { JSON_NULL = 1, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

/* A value of a document. Read type, name, count and raw; the rest belongs to the room. Values live
 * until json_free of their document; one that was replaced or removed is to be forgotten. */
struct json {
	enum json_type type;
	uint8_t place;     /* enum json_place, doc.h */
	bool escaped;      /* JSON_STRING: raw holds a backslash */
	bool dirty;        /* something below was edited */
	size_t count;      /* members or elements */
	struct slice name; /* decoded name of a member; empty in arrays and at the root */
	struct slice raw;  /* as it stands in the input, edits not seen */
	const char *from;  /* where the member or element starts in the text of its parent */
	struct json *parent, *next;
	struct json *first, *last;
	struct json *was; /* what this one replaced */
};

enum json_code {
	JSON_OK = 0,
	JSON_E_TRUNCATED, /* the text ends inside a value, or is empty */
	JSON_E_SYNTAX,    /* not what may stand here */
	JSON_E_NUMBER,
	JSON_E_ESCAPE,    /* unknown escape or bad hex digit */
	JSON_E_SURROGATE, /* \uD800..\uDFFF that is no pair */
	JSON_E_CONTROL,   /* control byte in a string */
	JSON_E_UTF8,
	JSON_E_DUPLICATE, /* a name stands twice in one object */
	JSON_E_TRAILING,  /* something follows the value */
	JSON_E_DEPTH,
	JSON_E_BYTES,
	JSON_E_VALUES
};

struct json_error {
	enum json_code code;
	size_t at; /* byte offset of the offence */
};

/* 0 in a field: the default. */
struct json_limits {
	size_t bytes;   /* 4 MiB */
	size_t values;  /* 262144; each takes about 100 bytes */
	unsigned depth; /* 64; at most 1024 */
};

/* The tree of text, which the caller keeps alive and unchanged until json_free. limits may be NULL.
 * Returns NULL and fills *err (may be NULL) when text is refused. */
struct json_doc *json_parse(struct slice text, const struct json_limits *limits,
			    struct json_error *err);
/* doc may be NULL. */
void json_free(struct json_doc *doc);
struct json *json_root(struct json_doc *doc);
/* "unexpected byte", "number is malformed", ... Static storage. */
const char *json_error_text(enum json_code code);

/* Member of an object by its decoded name; NULL when object is NULL or no object or has none. */
struct json *json_member(struct json *object, struct slice name);
/* Member of a member ...: keys end with NULL. NULL as soon as one is missing. */
struct json *json_path(struct json *from, const char *const *keys);
/* json_find(root, "HostConfig", "PortBindings", "80/tcp") */
#define json_find(from, ...) json_path((from), (const char *const[]){ __VA_ARGS__, NULL })
/* for (v = json_first(array); v; v = json_next(v)); NULL for what is NULL or has no children. */
struct json *json_first(struct json *v);
struct json *json_next(struct json *v);

/* The value as a C type: 0; -ENOENT when v is NULL or null; -EINVAL when it is of another type;
 * -ERANGE when the integer does not fit. *out is left alone unless 0 is returned. A string is
 * decoded here (it may hold NUL bytes) and lives as long as the document; a number with a fraction
 * or an exponent is no integer. */
int json_str(struct json_doc *doc, struct json *v, struct slice *out);
int json_bool(const struct json *v, bool *out);
int json_i64(const struct json *v, int64_t *out);
int json_u64(const struct json *v, uint64_t *out);

/* Edits. The new value is given as JSON text, which is checked and copied; what json_print writes
 * afterwards differs from the input in that place only. They return the new value, or NULL when
 * text is refused (nothing is changed then): the limits of the document hold for it too. */
struct json *json_replace(struct json_doc *doc, struct json *v, struct slice text);
/* Replaces the member's value, or adds the member behind the others. Parent must be an object. */
struct json *json_set(struct json_doc *doc, struct json *object, struct slice name,
		      struct slice text);
struct json *json_append(struct json_doc *doc, struct json *array, struct slice text);
/* Takes a member or an element (not the root) out, with its comma. */
void json_remove(struct json *v);
/* s as JSON text, quotes included, for the edits; ill-formed UTF-8 becomes U+FFFD. Lives as long as
 * the document. */
struct slice json_quote(struct json_doc *doc, struct slice s);

/* Bytes that json_print will write. */
size_t json_length(const struct json_doc *doc);
/* The document with its edits, unedited parts byte for byte: 0, or -ENOBUFS (b as it was). */
int json_print(const struct json_doc *doc, struct buf *b);

enum { JSON_WRITER_DEPTH = 64 };

/* Writes one value into a buf. Calls out of order (a value without a name in an object, a second
 * root, an end too many) are bugs of ours and abort; so what comes out is JSON, as long as the
 * caller does not use a name twice. A full buf is remembered until json_writer_end. */
struct json_writer {
	struct buf *to;
	size_t start; /* length of *to before */
	int error;
	unsigned depth;
	bool named;                       /* a name waits for its value */
	bool some[JSON_WRITER_DEPTH + 1]; /* the level holds something */
	bool object[JSON_WRITER_DEPTH + 1];
};

/* to must not be touched by others until json_writer_end. */
void json_writer_begin(struct json_writer *w, struct buf *to);
/* 0, or -ENOBUFS: it did not fit, and the buf is as it was. */
int json_writer_end(struct json_writer *w);
void json_put_object(struct json_writer *w);
void json_put_array(struct json_writer *w);
/* Closes the innermost object or array. */
void json_put_end(struct json_writer *w);
void json_put_name(struct json_writer *w, const char *name);
void json_put_name_slice(struct json_writer *w, struct slice name);
/* Ill-formed UTF-8 becomes U+FFFD: who must not lose bytes asks utf8_valid first. */
void json_put_str(struct json_writer *w, struct slice s);
void json_put_i64(struct json_writer *w, int64_t v);
void json_put_u64(struct json_writer *w, uint64_t v);
void json_put_bool(struct json_writer *w, bool v);
void json_put_null(struct json_writer *w);
/* A value of some document, with its edits. */
void json_put_value(struct json_writer *w, const struct json *v);

/* Finds where values end in a stream of them, with or without white space between (Docker's
 * /events, NDJSON, Kubernetes' watch). It only counts brackets: json_parse decides if it is JSON.
 */
struct json_split {
	size_t max;  /* longest value */
	size_t seen; /* bytes of the value under way that were looked at */
	size_t depth;
	bool string, escape, scalar;
};

void json_split_init(struct json_split *s, size_t max);
/* in holds all that was not consumed yet; eof says that nothing will follow. Returns how many bytes
 * at its front are done with, the next value among them in *value (value->n 0: only white space);
 * 0 when more is needed, or at the end; -EINVAL for what starts no value, -EMSGSIZE for a value
 * over max, -ERR_TRUNCATED for eof inside one. No byte is looked at twice.
 *	while ((n = json_split_next(&s, buf_data(b), eof, &v)) > 0) { use(v); buf_drop(b, n); } */
ssize_t json_split_next(struct json_split *s, struct slice in, bool eof, struct slice *value);

#endif
