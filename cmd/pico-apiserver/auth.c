#include "cmd/pico-apiserver/auth.h"

#include <errno.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "proto/docker/docker.h"
#include "reactor/crypto_cipher.h"
#include "reactor/err.h"

enum { FILE_MAX = 64 * 1024, LEEWAY_S = 30 };

/* The length, or -errno. */
static ssize_t read_file(const char *path, char *p, size_t max)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd == -1)
		return -errno;
	size_t n = 0;
	ssize_t got;
	while ((got = read(fd, p + n, max - n)) > 0)
		n += (size_t)got;
	int e = errno;
	close(fd);
	return got == -1 ? -e : n == max ? -EFBIG : (ssize_t)n;
}

static int take_secret(struct auth *a, struct slice secret, char *err, size_t errlen)
{
	a->key = jwt_key_secret(secret);
	if (a->key)
		return 0;
	snprintf(err, errlen,
		 "the JWT secret is too short: at least %d bytes (openssl rand -hex 32)",
		 JWT_SECRET_MIN);
	return -EINVAL;
}

static int take_file(struct auth *a, const char *path, bool public, char *err, size_t errlen)
{
	char *text = xmalloc(FILE_MAX), why[256];
	ssize_t n = read_file(path, text, FILE_MAX);
	int r = n < 0 ? -EINVAL : 0;
	if (n < 0) {
		snprintf(err, errlen, "%s: %s", path, err_text((int)n));
	} else if (public) {
		a->key = jwt_key_public(slice_of(text, (size_t)n), why, sizeof(why));
		if (!a->key) {
			snprintf(err, errlen, "--jwt-public-key %s: %s", path, why);
			r = -EINVAL;
		}
	} else {
		while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == '\r'))
			n--;
		r = take_secret(a, slice_of(text, (size_t)n), err, errlen);
	}
	secret_wipe(text, FILE_MAX);
	free(text);
	return r;
}

int auth_init(struct auth *a, const struct auth_options *o, char *err, size_t errlen)
{
	int n = (o->secret != NULL) + (o->secret_file != NULL) + (o->public_key_file != NULL);
	*a = (struct auth){ .audience = o->audience, .issuer = o->issuer };
	if (n > 1) {
		snprintf(err, errlen,
			 "--jwt-secret, --jwt-secret-file and --jwt-public-key exclude "
			 "each other: one key, one algorithm");
		return -EINVAL;
	}
	if (n == 0 && (o->audience || o->issuer)) {
		snprintf(err, errlen, "--jwt-audience and --jwt-issuer need a key to check them");
		return -EINVAL;
	}
	if (o->secret)
		return take_secret(a, slice_str(o->secret), err, errlen);
	if (o->secret_file)
		return take_file(a, o->secret_file, false, err, errlen);
	return o->public_key_file ? take_file(a, o->public_key_file, true, err, errlen) : 0;
}

void auth_end(struct auth *a)
{
	jwt_key_free(a->key);
	a->key = NULL;
}

static struct slice bearer(const struct http_head *h)
{
	static const struct slice names[] = { SLICE("Authorization"),
					      SLICE("Proxy-Authorization") };
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		struct slice v = http_field_get(h, names[i]), scheme, token;
		if (!v.p || !slice_cut(v, ' ', &scheme, &token) ||
		    !slice_eqi(scheme, SLICE("Bearer")))
			continue; /* a proxy on the way may have one of the two for itself */
		while (token.n && token.p[0] == ' ')
			token = slice_after(token, 1);
		return token;
	}
	return (struct slice){ NULL, 0 };
}

int auth_check(const struct auth *a, const struct http_head *h, char owner[JWT_SUBJECT_MAX + 1],
	       char *why, size_t whylen)
{
	owner[0] = '\0';
	if (!a->key) {
		/* Any page that a browser shows could ask for sandboxes else. */
		struct docker_guard guard = { .check_host = a->check_host,
					      .help = "without tokens only loopback is served" };
		return docker_guard_check(&guard, h, why, whylen);
	}
	struct jwt_rules rules = { a->key, a->audience, a->issuer, LEEWAY_S };
	struct jwt_claims claims;
	const char *text = "a bearer token is needed";
	struct slice token = bearer(h);
	if (!token.p || jwt_verify(token, &rules, (int64_t)time(NULL), &claims, &text) < 0) {
		snprintf(why, whylen, "%s", text);
		return 401;
	}
	memcpy(owner, claims.subject, sizeof(claims.subject));
	return 0;
}
