#include "proto/docker/sandbox.h"

#include <errno.h>

#include "http/url.h"

void docker_sandbox_env(const struct docker_sandbox *s,
			void (*put)(void *arg, const char *name, const char *value), void *arg)
{
	char number[24];
	char *keys = xasprintf("%s%s%s", s->public_key ? s->public_key : "",
			       s->public_key && s->server_key ? "\n" : "",
			       s->server_key ? s->server_key : "");
	put(arg, "SANDBOX_USER", s->user);
	put(arg, "SANDBOX_AUTHORIZED_KEYS", keys);
	put(arg, "SANDBOX_PASSWORD_LOGIN", s->public_key ? "no" : "yes");
	snprintf(number, sizeof(number), "%lld", (long long)s->expires_at);
	put(arg, "SANDBOX_EXPIRES_AT", number);
	snprintf(number, sizeof(number), "%u", s->ssh_port);
	put(arg, "SANDBOX_SSH_PORT", number);
	free(keys);
}

static void put_env(void *arg, const char *name, const char *value)
{
	char *text = xasprintf("%s=%s", name, value);
	json_put_str(arg, slice_str(text));
	free(text);
}

static void put_member(struct json_writer *w, const char *name, const char *value)
{
	json_put_name(w, name);
	json_put_str(w, slice_str(value));
}

static void put_limit(struct json_writer *w, const char *name, uint64_t value)
{
	if (value == 0)
		return;
	json_put_name(w, name);
	json_put_u64(w, value);
}

void docker_sandbox_put(struct buf *b, const struct docker_sandbox *s)
{
	struct json_writer w;
	json_writer_begin(&w, b);
	json_put_object(&w);
	put_member(&w, "Image", s->image);
	put_member(&w, "Hostname", s->name);
	json_put_name(&w, "Env");
	json_put_array(&w);
	docker_sandbox_env(s, put_env, &w);
	json_put_end(&w);
	json_put_name(&w, "Labels");
	json_put_object(&w);
	put_member(&w, "managed-by", "pico-apiserver");
	put_member(&w, "session-id", s->id);
	put_member(&w, "sandbox", s->name);
	put_member(&w, "pico-server", s->server);
	json_put_end(&w);
	json_put_name(&w, "HostConfig");
	json_put_object(&w);
	json_put_name(&w, "Init"); /* reaps what commands leave behind */
	json_put_bool(&w, true);
	json_put_name(&w, "AutoRemove"); /* it ends at expires_at, whoever is alive then */
	json_put_bool(&w, true);
	put_limit(&w, "Memory", s->memory);
	put_limit(&w, "MemorySwap", s->memory);
	put_limit(&w, "PidsLimit", s->pids);
	put_limit(&w, "NanoCpus", s->cpu_millis * UINT64_C(1000000));
	json_put_end(&w);
	json_put_end(&w);
	BUG_ON(json_writer_end(&w) < 0);
}

void docker_sandbox_filters(const char *server, const char *session, char *out, size_t outlen)
{
	struct buf text, coded;
	struct json_writer w;
	char label[256];
	buf_init(&text, 4096);
	buf_init(&coded, 16384);
	json_writer_begin(&w, &text);
	json_put_object(&w);
	json_put_name(&w, "label");
	json_put_array(&w);
	json_put_str(&w, SLICE("managed-by=pico-apiserver"));
	snprintf(label, sizeof(label), "pico-server=%s", server);
	json_put_str(&w, slice_str(label));
	if (session) {
		snprintf(label, sizeof(label), "session-id=%s", session);
		json_put_str(&w, slice_str(label));
	}
	json_put_end(&w);
	json_put_end(&w);
	BUG_ON(json_writer_end(&w) < 0 || http_percent_put(&coded, buf_data(&text)) < 0);
	snprintf(out, outlen, "%.*s", SLICE_FMT(buf_data(&coded)));
	buf_end(&text);
	buf_end(&coded);
}

/* Of the default network, or of the first that has one. */
static struct slice read_address(struct json_doc *doc)
{
	struct json *settings = json_find(json_root(doc), "NetworkSettings");
	struct slice ip = SLICE("");
	if (json_str(doc, json_find(settings, "IPAddress"), &ip) == 0 && ip.n)
		return ip;
	for (struct json *n = json_first(json_find(settings, "Networks")); n; n = json_next(n)) {
		if (json_str(doc, json_find(n, "IPAddress"), &ip) == 0 && ip.n)
			return ip;
		if (json_str(doc, json_find(n, "GlobalIPv6Address"), &ip) == 0 && ip.n)
			return ip;
	}
	return SLICE("");
}

int docker_inspect_read(struct json_doc *doc, struct docker_inspect *i)
{
	struct json *root = json_root(doc);
	*i = (struct docker_inspect){ .exit_code = 0 };
	if (json_str(doc, json_find(root, "Id"), &i->id) < 0 ||
	    json_bool(json_find(root, "State", "Running"), &i->running) < 0)
		return -EINVAL;
	json_bool(json_find(root, "State", "Paused"), &i->paused);
	json_i64(json_find(root, "State", "ExitCode"), &i->exit_code);
	json_str(doc, json_find(root, "Config", "Labels", "session-id"), &i->session);
	i->address = read_address(doc);
	return 0;
}

void docker_message(struct slice body, char *out, size_t outlen)
{
	struct json_doc *doc = json_parse(body, NULL, NULL);
	struct slice text = SLICE("no reason was given");
	if (!doc || json_str(doc, json_member(json_root(doc), SLICE("message")), &text) < 0)
		if (body.n && body.n < 200)
			text = body;
	snprintf(out, outlen, "%.*s", SLICE_FMT(text));
	for (char *p = out; *p; p++)
		if ((unsigned char)*p < ' ')
			*p = ' ';
	json_free(doc);
}

enum { TAR_BLOCK = 512, TAR_SIZE_AT = 124, TAR_SIZE_LEN = 11, TAR_TYPE_AT = 156 };

struct slice docker_tar_file(struct slice tar)
{
	while (tar.n >= TAR_BLOCK) {
		uint64_t size = 0;
		char type = tar.p[TAR_TYPE_AT];
		for (size_t i = 0; i < TAR_SIZE_LEN; i++) {
			char c = tar.p[TAR_SIZE_AT + i];
			if (c < '0' || c > '7')
				return (struct slice){ NULL, 0 };
			size = size * 8 + (uint64_t)(c - '0');
		}
		tar = slice_after(tar, TAR_BLOCK);
		if (size > tar.n)
			break;
		if (type == '0' || type == '\0')
			return slice_of(tar.p, (size_t)size);
		uint64_t padded = (size + TAR_BLOCK - 1) / TAR_BLOCK * TAR_BLOCK;
		tar = slice_after(tar, MIN((size_t)padded, tar.n));
	}
	return (struct slice){ NULL, 0 };
}

int docker_frame_read(const uint8_t head[8], uint32_t *length)
{
	if (head[0] > 2 || head[1] || head[2] || head[3])
		return -EINVAL;
	*length =
	    (uint32_t)head[4] << 24 | (uint32_t)head[5] << 16 | (uint32_t)head[6] << 8 | head[7];
	return head[0];
}
