#include "proto/sandbox/record.h"

#include <errno.h>
#include <time.h>

static const char *const states[] = {
	[SANDBOX_CREATING] = "creating", [SANDBOX_RUNNING] = "running",
	[SANDBOX_PAUSING] = "pausing",   [SANDBOX_PAUSED] = "paused",
	[SANDBOX_RESUMING] = "resuming", [SANDBOX_DELETING] = "deleting",
	[SANDBOX_FAILED] = "failed",
};

const char *sandbox_state_text(enum sandbox_state s)
{
	return states[s];
}

const char *sandbox_time_text(int64_t t, char out[24])
{
	struct tm tm;
	time_t when = (time_t)t;
	if (!gmtime_r(&when, &tm) || strftime(out, 24, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
		snprintf(out, 24, "1970-01-01T00:00:00Z");
	return out;
}

bool sandbox_id_ok(struct slice id)
{
	if (id.n != SANDBOX_ID_LEN)
		return false;
	for (size_t i = 0; i < id.n; i++) {
		bool dash = i == 8 || i == 13 || i == 18 || i == 23;
		char c = id.p[i];
		if (dash ? c != '-' : !((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
			return false;
	}
	return true;
}

bool sandbox_public_key_ok(struct slice line)
{
	static const char *const types[] = { "ssh-ed25519",
					     "ssh-rsa",
					     "ecdsa-sha2-nistp256",
					     "ecdsa-sha2-nistp384",
					     "ecdsa-sha2-nistp521",
					     "sk-ssh-ed25519@openssh.com",
					     "sk-ecdsa-sha2-nistp256@openssh.com" };
	struct slice type, rest, blob, comment;
	bool known = false;
	if (line.n == 0 || line.n > SANDBOX_KEY_MAX)
		return false;
	for (size_t i = 0; i < line.n; i++)
		if ((unsigned char)line.p[i] < ' ' || line.p[i] == 0x7f)
			return false;
	slice_cut(line, ' ', &type, &rest);
	slice_cut(rest, ' ', &blob, &comment);
	for (size_t i = 0; i < ARRAY_LEN(types); i++)
		known = known || slice_eq(type, slice_str(types[i]));
	if (!known || blob.n < 32)
		return false;
	for (size_t i = 0; i < blob.n; i++) {
		char c = blob.p[i];
		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
		      c == '+' || c == '/' || c == '='))
			return false;
	}
	return true;
}

/* --- requests --- */

struct source {
	struct json_doc *doc;
	struct json *object;
	char *err;
	size_t errlen;
};

static int refuse(const struct source *s, const char *text)
{
	snprintf(s->err, s->errlen, "%s", text);
	return -EINVAL;
}

/* By either name; NULL when it is missing or null. */
static struct json *member(const struct source *s, const char *camel, const char *snake)
{
	struct json *v = json_member(s->object, slice_str(camel));
	if (!v && snake)
		v = json_member(s->object, slice_str(snake));
	return v && v->type != JSON_NULL ? v : NULL;
}

static int get_text(const struct source *s, struct json *v, size_t max, const char *complaint,
		    char **out)
{
	struct slice text;
	if (!v)
		return 0;
	if (json_str(s->doc, v, &text) < 0 || text.n > max || memchr(text.p, '\0', text.n))
		return refuse(s, complaint);
	free(*out);
	*out = text.n ? xslicedup(text) : NULL;
	return 0;
}

static int get_times(const struct source *s, int64_t ttl_min, struct sandbox_request *q)
{
	struct json *ttl = member(s, "ttl", NULL);
	struct json *idle = member(s, "idleTimeout", "idle_timeout");
	if (ttl && (json_i64(ttl, &q->ttl) < 0 || q->ttl < ttl_min || q->ttl > SANDBOX_TTL_MAX)) {
		snprintf(s->err, s->errlen, "ttl must be a number of seconds from %d to %d",
			 (int)ttl_min, SANDBOX_TTL_MAX);
		return -EINVAL;
	}
	if (idle && (json_i64(idle, &q->idle) < 0 || q->idle < 0 || q->idle > SANDBOX_TTL_MAX)) {
		snprintf(s->err, s->errlen,
			 "idleTimeout must be a number of seconds from 0 (none) to %d",
			 SANDBOX_TTL_MAX);
		return -EINVAL;
	}
	return 0;
}

static bool image_ok(const char *image)
{
	for (const char *p = image; *p; p++)
		if (!((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
		      (*p >= '0' && *p <= '9') || (p > image && strchr("._-:/@", *p))))
			return false;
	return true;
}

static int get_all(const struct source *s, int64_t ttl_min, struct sandbox_request *q)
{
	if (s->object->type != JSON_OBJECT)
		return refuse(s, "the body must be a JSON object");
	int r = get_times(s, ttl_min, q);
	if (r == 0)
		r = get_text(s, member(s, "image", NULL), SANDBOX_IMAGE_MAX,
			     "image must be the name of one", &q->image);
	if (r == 0 && q->image && !image_ok(q->image))
		r = refuse(s, "image must be the name of one, like sandbox:latest");
	static const char key_help[] = "sshPublicKey must be one line as in id_ed25519.pub";
	if (r == 0)
		r = get_text(s, member(s, "sshPublicKey", "ssh_public_key"), SANDBOX_KEY_MAX,
			     key_help, &q->public_key);
	if (q->public_key) {
		size_t n = strlen(q->public_key);
		while (n && (q->public_key[n - 1] == '\n' || q->public_key[n - 1] == '\r'))
			q->public_key[--n] = '\0';
		if (r == 0 && !sandbox_public_key_ok(slice_of(q->public_key, n)))
			r = refuse(s, key_help);
	}
	struct json *metadata = member(s, "metadata", NULL);
	if (r == 0 && metadata) {
		if (metadata->type != JSON_OBJECT || metadata->raw.n > SANDBOX_METADATA_MAX)
			return refuse(s, "metadata must be an object of at most 8 KiB");
		q->metadata = xslicedup(metadata->raw);
	}
	return r;
}

int sandbox_request_get(struct sandbox_request *q, struct slice text, int64_t ttl_min, char *err,
			size_t errlen)
{
	*q = (struct sandbox_request){ .ttl = SANDBOX_TTL_DEFAULT };
	while (text.n && strchr(" \t\r\n", text.p[0]))
		text = slice_after(text, 1);
	if (text.n == 0)
		return 0;
	struct json_error e;
	struct source s = { json_parse(text, NULL, &e), NULL, err, errlen };
	if (!s.doc) {
		snprintf(err, errlen, "the body is not JSON: %s at byte %zu",
			 json_error_text(e.code), e.at);
		return -EINVAL;
	}
	s.object = json_root(s.doc);
	int r = get_all(&s, ttl_min, q);
	if (r < 0)
		sandbox_request_end(q);
	json_free(s.doc);
	return r;
}

void sandbox_request_end(struct sandbox_request *q)
{
	free(q->image);
	free(q->public_key);
	free(q->metadata);
	*q = (struct sandbox_request){ 0 };
}

/* --- records --- */

void sandbox_record_end(struct sandbox_record *r)
{
	free(r->owner);
	free(r->image);
	free(r->public_key);
	free(r->metadata);
	free(r->key);
	*r = (struct sandbox_record){ 0 };
}

static void put_text(struct json_writer *w, const char *name, const char *text)
{
	if (!text)
		return;
	json_put_name(w, name);
	json_put_str(w, slice_str(text));
}

static void put_number(struct json_writer *w, const char *name, int64_t v)
{
	json_put_name(w, name);
	json_put_i64(w, v);
}

void sandbox_record_put(struct json_writer *w, const struct sandbox_record *r)
{
	json_put_object(w);
	put_text(w, "id", r->id);
	put_text(w, "name", r->name);
	put_text(w, "state", sandbox_state_text(r->state));
	put_text(w, "owner", r->owner);
	put_text(w, "image", r->image);
	put_text(w, "public_key", r->public_key);
	put_text(w, "metadata", r->metadata); /* its text, as a string */
	put_number(w, "created", r->created);
	put_number(w, "order", r->order);
	put_number(w, "expires", r->expires);
	put_number(w, "active", r->active);
	put_number(w, "idle", r->idle);
	put_text(w, "fingerprint", r->fingerprint);
	put_text(w, "key", r->key);
	put_text(w, "key_hash", r->key_hash);
	json_put_end(w);
}

static bool copy_text(const struct source *s, const char *name, char *out, size_t cap)
{
	struct slice text;
	if (json_str(s->doc, json_member(s->object, slice_str(name)), &text) < 0 || text.n >= cap ||
	    (text.n && memchr(text.p, '\0', text.n)))
		return false;
	memcpy(out, text.p, text.n);
	out[text.n] = '\0';
	return true;
}

static bool record_state(const struct source *s, enum sandbox_state *out)
{
	char text[16];
	if (!copy_text(s, "state", text, sizeof(text)))
		return false;
	for (size_t i = 0; i < ARRAY_LEN(states); i++)
		if (strcmp(text, states[i]) == 0) {
			*out = (enum sandbox_state)i;
			return true;
		}
	return false;
}

static bool number(const struct source *s, const char *name, int64_t *out)
{
	return json_i64(json_member(s->object, slice_str(name)), out) == 0;
}

static bool record_all(const struct source *s, struct sandbox_record *r)
{
	static const char bad[] = "a text is malformed";
	r->owner = xstrdup("");
	return copy_text(s, "id", r->id, sizeof(r->id)) && sandbox_id_ok(slice_str(r->id)) &&
	       copy_text(s, "name", r->name, sizeof(r->name)) && r->name[0] &&
	       strspn(r->name, "abcdefghijklmnopqrstuvwxyz0123456789-") == strlen(r->name) &&
	       record_state(s, &r->state) && number(s, "created", &r->created) &&
	       number(s, "order", &r->order) && number(s, "expires", &r->expires) &&
	       number(s, "active", &r->active) && number(s, "idle", &r->idle) &&
	       copy_text(s, "fingerprint", r->fingerprint, sizeof(r->fingerprint)) &&
	       copy_text(s, "key_hash", r->key_hash, sizeof(r->key_hash)) &&
	       get_text(s, member(s, "owner", NULL), 1024, bad, &r->owner) == 0 &&
	       get_text(s, member(s, "image", NULL), SANDBOX_IMAGE_MAX, bad, &r->image) == 0 &&
	       get_text(s, member(s, "public_key", NULL), SANDBOX_KEY_MAX, bad, &r->public_key) ==
		   0 &&
	       get_text(s, member(s, "metadata", NULL), SANDBOX_METADATA_MAX, bad, &r->metadata) ==
		   0 &&
	       get_text(s, member(s, "key", NULL), 256, bad, &r->key) == 0;
}

int sandbox_record_get(struct sandbox_record *r, struct slice text, char *err, size_t errlen)
{
	*r = (struct sandbox_record){ 0 };
	struct json_error e;
	struct source s = { json_parse(text, NULL, &e), NULL, err, errlen };
	if (!s.doc) {
		snprintf(err, errlen, "not JSON: %s at byte %zu", json_error_text(e.code), e.at);
		return -EINVAL;
	}
	s.object = json_root(s.doc);
	bool ok = record_all(&s, r);
	if (ok && r->metadata) { /* goes into replies as it is */
		struct json_doc *d = json_parse(slice_str(r->metadata), NULL, NULL);
		ok = d && json_root(d)->type == JSON_OBJECT;
		json_free(d);
	}
	json_free(s.doc);
	if (!r->owner)
		r->owner = xstrdup("");
	if (ok)
		return 0;
	sandbox_record_end(r);
	snprintf(err, errlen, "not a session's record");
	return -EINVAL;
}
