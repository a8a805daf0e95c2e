/* Who we are to a guest, and where it keeps the files of our containers. */
#include <ctype.h>
#include <errno.h>
#include <unistd.h>

#include "cmd/tsctl/binds_int.h"
#include "proto/sync/path_text.h"
#include "reactor/crypto.h"
#include "reactor/err.h"
#include "reactor/log.h"

enum { ASK_AGAIN_MS = 250, REFUSED_MS = 60 * 1000 /* it may be another guest soon */ };

/* --- names --- */

static void hex(const uint8_t *in, size_t n, char *out)
{
	for (size_t i = 0; i < n; i++)
		snprintf(out + 2 * i, 3, "%02x", in[i]);
}

void binds_id(const struct binds *b, const char *source, char out[33])
{
	const char *parts[] = { b->owner, b->server, source };
	uint8_t digest[32];
	struct sha256 sha;
	sha256_init(&sha);
	for (size_t i = 0; i < ARRAY_LEN(parts); i++)
		sha256_add(&sha, slice_of(parts[i], strlen(parts[i]) + 1));
	sha256_end(&sha, digest);
	hex(digest, 16, out);
}

int binds_owner_check(const char *owner)
{
	static const char extra[] = "._@-";
	size_t n = strlen(owner);
	for (size_t i = 0; i < n; i++)
		if (!isalnum((unsigned char)owner[i]) && !strchr(extra, owner[i]))
			return -EINVAL;
	return n >= 1 && n <= 128 && strcmp(owner, ".") != 0 && strcmp(owner, "..") != 0 ? 0
											 : -EINVAL;
}

/* The user's name by /etc/passwd, for a person to know the directory by; else uidN. */
static void user_name(char *out, size_t outlen)
{
	FILE *f = fopen("/etc/passwd", "re");
	char line[1024];
	snprintf(out, outlen, "uid%u", (unsigned)getuid());
	while (f && fgets(line, sizeof(line), f)) {
		struct slice name, rest, password, uid;
		uint64_t n;
		slice_cut(slice_str(line), ':', &name, &rest);
		slice_cut(rest, ':', &password, &rest);
		slice_cut(rest, ':', &uid, &rest);
		if (slice_u64(uid, UINT32_MAX, &n) < 0 || n != getuid() || name.n > 64)
			continue;
		snprintf(out, outlen, "%.*s", SLICE_FMT(name));
		break;
	}
	if (f)
		fclose(f);
	if (binds_owner_check(out) < 0)
		snprintf(out, outlen, "uid%u", (unsigned)getuid());
}

void binds_default_owner(char *out, size_t outlen)
{
	char name[80], machine[256] = "", digits[9];
	uint8_t digest[32];
	uint32_t uid = getuid();
	struct sha256 sha;
	FILE *f = fopen("/etc/machine-id", "re");
	if (!f || !fgets(machine, sizeof(machine), f))
		gethostname(machine, sizeof(machine) - 1);
	if (f)
		fclose(f);
	sha256_init(&sha);
	sha256_add(&sha, slice_of(machine, strcspn(machine, "\n")));
	sha256_add(&sha, slice_of(&uid, sizeof(uid)));
	sha256_end(&sha, digest);
	hex(digest, 4, digits);
	user_name(name, sizeof(name));
	snprintf(out, outlen, "%s-%s", name, digits);
}

/* --- where the guest keeps the files --- */

static void ask(struct binds *b)
{
	struct buf open;
	struct json_writer w;
	buf_init(&open, 1024);
	json_writer_begin(&w, &open);
	json_put_object(&w);
	json_put_name(&w, "kind");
	json_put_str(&w, SLICE("sync-root"));
	json_put_name(&w, "owner");
	json_put_str(&w, slice_str(b->owner));
	json_put_end(&w);
	int r = json_writer_end(&w);
	BUG_ON(r < 0);
	b->asking = tunnel_open(b->o.tunnel, buf_data(&open), TUNNEL_INTERACTIVE);
	stream_bind(b->asking, &b->asking_task);
	buf_end(&open);
}

/* "root" of what the guest says. False: there is none. */
static bool take_root(struct binds *b)
{
	struct json_doc *doc = json_parse(mux_opened_json(b->asking), NULL, NULL);
	struct slice root = SLICE("");
	if (doc)
		json_str(doc, json_find(json_root(doc), "root"), &root);
	char *path = path_text_get(root), *clean = docker_path_clean(slice_str(path));
	free(path);
	if (clean) {
		free(b->root);
		b->root = clean;
	}
	json_free(doc);
	return clean != NULL;
}

static void refused(struct binds *b, int code, const char *why)
{
	bool unknown = code == -ERR_NOT_FOUND && strstr(why, "kind");
	char *text =
	    xasprintf("%s%s", why, unknown ? "; it is older than this tsctl: update it" : "");
	if (!b->why || strcmp(b->why, text) != 0)
		log_warn("binds not-synced reason=%s", log_quote(slice_str(text)));
	free(b->why);
	b->why = text;
	b->state = BINDS_REFUSED;
}

static void asking_run(struct task *t)
{
	struct binds *b = container_of(t, struct binds, asking_task);
	char byte;
	int r = b->asking ? (int)stream_read(b->asking, &byte, 1) : -EAGAIN;
	if (r == -EAGAIN)
		return;
	r = MIN(r, 0); /* what it says stands in its first word, and it ends behind that */
	bool good = r == 0 && take_root(b), meant = r == 0 || tunnel_is_up(b->o.tunnel);
	if (good)
		b->state = BINDS_ON;
	else if (meant)
		refused(b, r,
			r ? stream_why(b->asking, r)
			  : "the guest did not say where it keeps the files of containers");
	stream_close(b->asking, r);
	b->asking = NULL;
	if (!good)
		timer_set(b->o.rx, &b->asking_timer, meant ? REFUSED_MS : ASK_AGAIN_MS);
	task_wake(b->o.rx, &b->wake_task);
}

static void asking_due(struct timer *t)
{
	struct binds *b = container_of(t, struct binds, asking_timer);
	if (!b->asking)
		ask(b);
}

void binds_start(struct binds *b, bool elsewhere)
{
	b->state = elsewhere ? BINDS_ASKING : BINDS_OFF;
	if (elsewhere)
		ask(b);
	else
		log_info("binds not-synced reason=\"the engine's host is this machine\"");
	task_wake(b->o.rx, &b->wake_task);
}

void binds_tunnel_changed(struct binds *b)
{
	bool asks = b->state == BINDS_ASKING || b->state == BINDS_ON || b->state == BINDS_REFUSED;
	if (asks && tunnel_is_up(b->o.tunnel))
		timer_set(b->o.rx, &b->asking_timer, 0); /* it may be another guest */
	task_wake(b->o.rx, &b->wake_task);
}

void binds_root_init(struct binds *b)
{
	task_init(&b->asking_task, asking_run);
	timer_init(&b->asking_timer, asking_due);
}

void binds_root_end(struct binds *b)
{
	stream_close(b->asking, -ERR_CANCELLED);
	task_cancel(&b->asking_task);
	timer_clear(b->o.rx, &b->asking_timer);
	free(b->root);
	free(b->why);
}
