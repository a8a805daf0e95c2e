/*
 * The messages between the two workers of a sync: a 4-byte length of what follows, a type byte, the
 * fields, all integers in network order. docs/sync.md ("Messages") says who sends what when. Pure.
 *
 * Nothing that is decoded can be trusted further than this: a path is relative, of components of 1
 * to 255 bytes that are not "." or "..", at most 4095 bytes in all, without NUL; a version is one
 * that tree.h can hold; nothing is missing, nothing follows.
 */
#ifndef SYNC_WIRE_H
#define SYNC_WIRE_H

#include "proto/sync/tree.h"

enum {
	WIRE_VERSION = 2,
	WIRE_MAX = 320 * 1024,    /* longest message, without its length */
	WIRE_INLINE = 256 * 1024, /* largest content inside a PUT */
	WIRE_HEAD = 4,
	WIRE_TEXT_MAX = 1024
};

enum msg_type {
	MSG_OPEN =
	    1, /* id: WIRE_VERSION, flags: OPEN_..., text: the one name, or empty, data: alpha's
		* generation, n, at: the user and group that own alpha (OPEN_OWNED) */
	MSG_IGNORE,    /* data: the next piece of the patterns; before OPEN */
	MSG_MASK,      /* path; before OPEN */
	MSG_OPENED,    /* id: WIRE_VERSION, text: generation, data: kind of watch */
	MSG_ENTRY,     /* path, want: what is there (absent: nothing), flags: ENTRY_... */
	MSG_SCANNED,   /* the first scan is over; n: entries, at: bytes */
	MSG_PROBLEM,   /* path, text: why it cannot be looked at (empty: it can again) */
	MSG_HALT,      /* text: why nothing can go on */
	MSG_PUT,       /* id, path, want, expect, data: all of a small file */
	MSG_PUT_BEGIN, /* id, path, want, expect; then pieces */
	MSG_DATA,      /* id, data: the next bytes of a file */
	MSG_HOLE,      /* id, n zeros */
	MSG_COPY,      /* id, n bytes at `at` of the file that the signature was of */
	MSG_END,       /* id, digest: the file is complete */
	MSG_ABORT,     /* id, status: it will not be */
	MSG_MKDIR,     /* id, path, want, expect */
	MSG_LINK,      /* id, path, want, expect */
	MSG_META,      /* id, flags: META_AGREED, path, want, expect */
	MSG_REMOVE,    /* id, path, expect */
	MSG_RENAME,    /* id, path, from */
	MSG_COPY_FROM, /* id, path, from, want, expect, source: expected at from */
	MSG_DONE,      /* id, status (0 or a negative code), text */
	MSG_SIGN,      /* id, path, want: asks for the signature that a PUT_BEGIN can lean on */
	MSG_SIGNATURE, /* id, data: the next piece of a signature; an empty one is its end */
	MSG_READ,      /* id, path, expect; pieces of the file come back, or ABORT */
	MSG_HASH,      /* id, path, expect */
	MSG_HASHED,    /* id, status, digest */
	MSG_FENCE,     /* id */
	MSG_FENCED,    /* id */
	MSG_EPOCH,     /* data: alpha's generation, from now on: what was given counts no more */
	MSG_TYPES
};

/* GIVEN: it is what the brain has put there, or agreed on; nobody has changed it since. */
enum { ENTRY_GIVEN = 1 };
/* AGREED: on the content that is there. */
enum { META_AGREED = 1 };
enum { OPEN_MAKE = 1, OPEN_IN_PLACE = 2, OPEN_FANOTIFY = 4, OPEN_OWNED = 8 };

struct msg {
	enum msg_type type;
	uint32_t id, flags;
	int32_t status;
	uint64_t at, n;
	struct slice path, from, text, data;
	struct version *want, *expect, *source; /* NULL: absent */
	uint8_t digest[SYNC_DIGEST];
};

/* A decoded one: path and from are NUL-terminated copies, text and data point into the input, the
 * versions are references. */
struct msg_in {
	struct msg m;
	char path[SYNC_PATH_MAX + 1], from[SYNC_PATH_MAX + 1];
};

/* Bytes that wire_put writes for it, its length field included; the data counts as data.n. */
size_t wire_size(const struct msg *);
/* Writes it, all but the data, which must follow (it is the last field): returns where. */
char *wire_put(const struct msg *, char *out);

/* Length of the message at the front of in, its length field included; 0: more is needed to tell;
 * -EMSGSIZE: over WIRE_MAX, or empty. */
ssize_t wire_length(struct slice in);
/* Decodes one whole message (with its length field): 0, then wire_end; or -EBADMSG. */
int wire_get(struct msg_in *, struct slice message);
void wire_end(struct msg_in *);
/* "PUT", for errors; never NULL. */
const char *wire_name(enum msg_type);

/* Is it a path as the header says? */
bool wire_path_ok(struct slice path);

#endif
