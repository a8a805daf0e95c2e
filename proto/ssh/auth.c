/* User authentication: RFC 4252; EXT_INFO: RFC 8308. The method "none" is asked first, whose answer
 * says what the server takes; then the key, then the password, each once. */
#include <errno.h>

#include "proto/ssh/ssh_int.h"
#include "reactor/err.h"

enum { BANNERS_MAX = 64, EXT_INFOS_MAX = 2, EXTENSIONS_MAX = 64 };

static const char service[] = "ssh-connection";

void auth_start(struct ssh_client *c)
{
	char p[64];
	struct ssh_wire_out w = { p, 0, sizeof(p) };
	put_u8(&w, MSG_SERVICE_REQUEST);
	put_str(&w, "ssh-userauth");
	client_send(c, ssh_wire_written(&w));
	c->state = CLIENT_SERVICE;
}

static void put_request(struct ssh_wire_out *w, const struct ssh_client *c, const char *method)
{
	put_u8(w, MSG_USERAUTH_REQUEST);
	put_str(w, c->user);
	put_str(w, service);
	put_str(w, method);
}

static void try_none(struct ssh_client *c)
{
	size_t max = strlen(c->user) + 100;
	struct ssh_wire_out w = { xmalloc(max), 0, max };
	c->auth.trying = AUTH_NONE;
	put_request(&w, c, "none");
	client_send(c, ssh_wire_written(&w));
	free(w.p);
}

static void try_password(struct ssh_client *c)
{
	size_t max = strlen(c->user) + strlen(c->password) + 100;
	struct ssh_wire_out w = { xmalloc(max), 0, max };
	c->auth.trying = AUTH_PASSWORD;
	c->auth.password_tried = true;
	put_request(&w, c, "password");
	put_u8(&w, 0); /* no change */
	put_str(&w, c->password);
	client_send(c, ssh_wire_written(&w));
	secret_wipe(w.p, w.n);
	free(w.p);
}

/* An RSA key signs with SHA-512 if server-sig-algs names it (or is not there: every server of the
 * last years takes it), then with SHA-256: OpenSSH names both, whatever it is configured to take.
 */
static struct slice key_alg(const struct ssh_client *c)
{
	const struct auth *a = &c->auth;
	struct slice type = ssh_key_type(c->key), algs = slice_str(a->sig_algs);
	if (!slice_eq(type, SLICE("ssh-rsa")))
		return type;
	if (a->key_tries == 0 && (!a->sig_algs_known || name_in(algs, SLICE("rsa-sha2-512"))))
		return SLICE("rsa-sha2-512");
	return SLICE("rsa-sha2-256");
}

static bool key_left(const struct ssh_client *c)
{
	return c->key && (c->auth.key_tries == 0 || c->auth.sha256_left);
}

/* Section 7: the signature is over the session identifier and the request so far. */
static void try_key(struct ssh_client *c)
{
	struct slice blob = ssh_key_blob(c->key), alg = key_alg(c);
	size_t head = 4 + KEX_HASH, max = head + strlen(c->user) + blob.n + 2 * SIGN_MAX, n;
	struct ssh_wire_out w = { xmalloc(max), 0, max };
	c->auth.trying = AUTH_KEY;
	c->auth.key_tries++;
	c->auth.sha256_left = slice_eq(alg, SLICE("rsa-sha2-512"));
	put_string(&w, slice_of(c->kex.session_id, KEX_HASH));
	put_request(&w, c, "publickey");
	put_u8(&w, 1); /* signed */
	put_string(&w, alg);
	put_string(&w, blob);
	char *signature = ssh_key_sign(c->key, alg, ssh_wire_written(&w), &n);
	put_string(&w, slice_of(signature, n));
	client_send(c, slice_after(ssh_wire_written(&w), head));
	free(signature);
	free(w.p);
}

static int give_up(struct ssh_client *c, const char *more)
{
	struct auth *a = &c->auth;
	char tried[64];
	snprintf(tried, sizeof(tried), "%s%s%s", a->key_tries ? "key" : "",
		 a->key_tries && a->password_tried ? " and " : "",
		 a->password_tried ? "password" : "");
	if (!more)
		more = a->key_tries && a->password_tried ? "were refused" : "was refused";
	if (tried[0])
		return client_fail(c, -ERR_SSH_AUTH, "permission denied (%s): %s's %s %s",
				   a->methods, c->user, tried, more);
	return client_fail(c, -ERR_SSH_AUTH, "permission denied (%s): %s", a->methods,
			   c->password || c->key ? "the server takes nothing that we were given"
						 : "neither a key nor a password was given");
}

static int on_failure(struct ssh_client *c, struct ssh_wire_in *w)
{
	struct auth *a = &c->auth;
	struct slice methods = ssh_wire_string(w);
	if (ssh_wire_bool(w)) /* partial success: the list says how to go on */
		c->auth.sha256_left = false;
	if (!ssh_wire_end(w) || !name_list_ok(methods))
		return client_fault(c, "a broken USERAUTH_FAILURE");
	ssh_text(methods, false, a->methods, sizeof(a->methods));
	if (key_left(c) && name_in(methods, SLICE("publickey")))
		try_key(c);
	else if (c->password && !a->password_tried && name_in(methods, SLICE("password")))
		try_password(c);
	else
		return give_up(c, NULL);
	return 0;
}

static int on_success(struct ssh_client *c, struct ssh_wire_in *w)
{
	if (!ssh_wire_end(w))
		return client_fault(c, "a broken USERAUTH_SUCCESS");
	client_opened(c);
	return 0;
}

static int on_banner(struct ssh_client *c, struct ssh_wire_in *w)
{
	struct slice text = ssh_wire_string(w);
	ssh_wire_string(w); /* language */
	if (!ssh_wire_end(w))
		return client_fault(c, "a broken banner");
	if (++c->auth.banners > BANNERS_MAX)
		return client_fault(c, "more than %d banners", BANNERS_MAX);
	if (c->banner) {
		char *safe = xmalloc(text.n + 1);
		c->banner(c->arg, ssh_text(text, true, safe, text.n + 1));
		free(safe);
	}
	return 0;
}

int auth_ext_info(struct ssh_client *c, struct slice payload)
{
	struct ssh_wire_in w = { payload, false };
	ssh_wire_u8(&w);
	uint32_t n = ssh_wire_u32(&w);
	if (c->state == CLIENT_OPEN || ++c->auth.ext_infos > EXT_INFOS_MAX)
		return client_fault(c, "EXT_INFO out of place");
	for (uint32_t i = 0; i < n && i < EXTENSIONS_MAX && !w.bad; i++) {
		struct slice name = ssh_wire_string(&w), value = ssh_wire_string(&w);
		if (!slice_eq(name, SLICE("server-sig-algs")) || !name_list_ok(value))
			continue;
		ssh_text(value, false, c->auth.sig_algs, sizeof(c->auth.sig_algs));
		c->auth.sig_algs_known = value.n < sizeof(c->auth.sig_algs);
	}
	if (n > EXTENSIONS_MAX || !ssh_wire_end(&w))
		return client_fault(c, "a broken EXT_INFO");
	return 0;
}

int auth_message(struct ssh_client *c, struct slice payload)
{
	struct ssh_wire_in w = { payload, false };
	uint8_t type = ssh_wire_u8(&w);
	if (c->state == CLIENT_SERVICE && type == MSG_SERVICE_ACCEPT) {
		struct slice name = ssh_wire_string(&w);
		if (!ssh_wire_end(&w) || !slice_eq(name, SLICE("ssh-userauth")))
			return client_fault(c, "a broken SERVICE_ACCEPT");
		c->state = CLIENT_AUTH;
		try_none(c);
		return 0;
	}
	if (c->state == CLIENT_SERVICE && type == MSG_USERAUTH_BANNER)
		return on_banner(c, &w);
	if (c->state != CLIENT_AUTH)
		return client_fault(c, "message %u out of place", type);
	switch (type) {
	case MSG_USERAUTH_FAILURE:
		return on_failure(c, &w);
	case MSG_USERAUTH_SUCCESS:
		return on_success(c, &w);
	case MSG_USERAUTH_BANNER:
		return on_banner(c, &w);
	case MSG_USERAUTH_PASSWD_CHANGEREQ:
		if (c->auth.trying == AUTH_PASSWORD)
			return give_up(c, "has expired and has to be changed there first");
		break;
	}
	return client_fault(c, "message %u out of place in authentication", type);
}
