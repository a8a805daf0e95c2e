#include "cmd/tsctl/certs.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "reactor/err.h"
#include "reactor/opt.h"
#include "reactor/tls_make.h"

enum { MAX_NAMES = 64, MAX_PEM = 1 << 20, CA_DAYS = 3650, DAY = 24 * 3600 };

struct certs {
	const char *dir, *client, *spiffe_id;
	struct opt_list names, ips;
	int days;
	bool force;             /* only what the other options name is replaced */
	char *ca_cert, *ca_key; /* PEM */
};

static int complain(const char *path, const char *what)
{
	fprintf(stderr, "tsctl certs: %s%s%s\n", path, *path ? ": " : "", what);
	return -1;
}

/* --- files --- */

static char *path_of(const struct certs *c, const char *name, const char *suffix)
{
	return xasprintf("%s/%s%s", c->dir, name, suffix);
}

static bool exists(const struct certs *c, const char *name, const char *suffix)
{
	char *path = path_of(c, name, suffix);
	struct stat st;
	bool yes = lstat(path, &st) == 0;
	free(path);
	return yes;
}

/* The file as a string, or NULL after saying why. */
static char *read_text(const struct certs *c, const char *name, const char *suffix)
{
	char *path = path_of(c, name, suffix), *text = NULL;
	FILE *f = fopen(path, "re");
	if (f) {
		text = xcalloc(1, MAX_PEM + 1);
		size_t n = fread(text, 1, MAX_PEM, f);
		text = xrealloc(text, n + 1);
	}
	if (!f || ferror(f)) {
		complain(path, err_text(errno));
		free(text);
		text = NULL;
	}
	if (f)
		fclose(f);
	free(path);
	return text;
}

/* Beside the target, then renamed over it: a reader sees the old file or the new one. */
static int write_text(const struct certs *c, const char *name, const char *suffix, const char *text,
		      mode_t mode)
{
	char *path = path_of(c, name, suffix), *temp = xasprintf("%s.%d.tmp", path, (int)getpid());
	size_t n = strlen(text);
	int r = -1, fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
	if (fd == -1 || fchmod(fd, mode) == -1 || write(fd, text, n) != (ssize_t)n ||
	    fsync(fd) == -1 || rename(temp, path) == -1) {
		complain(path, err_text(errno));
		if (fd != -1)
			unlink(temp);
	} else {
		printf("wrote %s\n", path);
		r = 0;
	}
	if (fd != -1)
		close(fd);
	free(temp);
	free(path);
	return r;
}

/* --- certificates --- */

/* The key first: a certificate without its key would be of no use. */
static int make(struct certs *c, const char *name, struct tls_make *want)
{
	char err[256];
	struct tls_made made;
	int64_t now = time(NULL);
	want->not_before = now - 300; /* the other machine's clock may be behind */
	want->not_after = now + (int64_t)c->days * DAY;
	if (want->kind == TLS_MAKE_CA)
		want->not_after = now + (int64_t)MAX(c->days, CA_DAYS) * DAY;
	want->ca_cert_pem = c->ca_cert;
	want->ca_key_pem = c->ca_key;
	if (tls_make(want, &made, err, sizeof(err)) < 0)
		return complain("", err);
	int r = write_text(c, name, ".key", made.key_pem, 0600);
	if (r == 0)
		r = write_text(c, name, ".crt", made.cert_pem, 0644);
	if (r == 0 && want->kind == TLS_MAKE_CA) {
		c->ca_cert = xstrdup(made.cert_pem);
		c->ca_key = xstrdup(made.key_pem);
	}
	tls_made_end(&made);
	return r;
}

/* An existing CA is used again, never replaced: every certificate out there hangs on it. */
static int have_ca(struct certs *c)
{
	bool cert = exists(c, "ca", ".crt"), key = exists(c, "ca", ".key");
	if (!cert && !key)
		return make(
		    c, "ca",
		    &(struct tls_make){ .kind = TLS_MAKE_CA, .common_name = "TinyscaleCA" });
	if (!cert || !key)
		return complain(c->dir, cert ? "has a ca.crt, but no ca.key to sign with"
					     : "has a ca.key, but no ca.crt");
	c->ca_cert = read_text(c, "ca", ".crt");
	c->ca_key = read_text(c, "ca", ".key");
	if (!c->ca_cert || !c->ca_key)
		return -1;
	printf("using %s/ca.crt, which was there\n", c->dir);
	return 0;
}

/* 1: make it; 0: it is there and was not asked for by name; -1: it is there and would be lost. */
static int wanted(const struct certs *c, const char *name, bool by_name)
{
	if (!exists(c, name, ".key") && !exists(c, name, ".crt"))
		return 1;
	if (!by_name) {
		printf("using %s/%s.crt, which was there\n", c->dir, name);
		return 0;
	}
	if (c->force)
		return 1;
	char *path = path_of(c, name, exists(c, name, ".key") ? ".key" : ".crt");
	complain(path, "is there already; --force replaces it");
	free(path);
	return -1;
}

static void add_once(const char **list, size_t *n, const char *name)
{
	for (size_t i = 0; i < *n; i++)
		if (strcmp(list[i], name) == 0)
			return;
	list[(*n)++] = name;
}

static int make_server(struct certs *c)
{
	const char *dns[MAX_NAMES + 1], *ip[MAX_NAMES + 2];
	struct tls_make want = { .kind = TLS_MAKE_SERVER, .dns = dns, .ip = ip };
	int r = wanted(c, "server", c->names.n + c->ips.n > 0);
	if (r <= 0)
		return r;
	for (size_t i = 0; i < c->names.n; i++)
		add_once(dns, &want.n_dns, c->names.v[i]);
	for (size_t i = 0; i < c->ips.n; i++)
		add_once(ip, &want.n_ip, c->ips.v[i]);
	want.common_name = c->names.n ? dns[0] : c->ips.n ? ip[0] : "localhost";
	add_once(dns, &want.n_dns, "localhost");
	add_once(ip, &want.n_ip, "127.0.0.1");
	add_once(ip, &want.n_ip, "::1");
	return make(c, "server", &want);
}

static int make_client(struct certs *c)
{
	const char *name = c->client ? c->client : "client";
	int r = wanted(c, name, c->client || c->spiffe_id);
	if (r <= 0)
		return r;
	return make(c, name,
		    &(struct tls_make){
			.kind = TLS_MAKE_CLIENT, .common_name = name, .spiffe_id = c->spiffe_id });
}

static void print_use(const struct certs *c)
{
	const char *d = c->dir, *client = c->client ? c->client : "client";
	const char *host = c->names.n ? c->names.v[0] : c->ips.n ? c->ips.v[0] : "HOST";
	bool v6 = strchr(host, ':') != NULL;
	if (strncmp(host, "*.", 2) == 0)
		host = "HOST";
	printf("\nOn the remote host (it needs ca.crt, server.crt and server.key):\n"
	       "  guest --port 443 --server-cert %s/server.crt --server-key %s/server.key "
	       "--ca-certs %s/ca.crt\n\n"
	       "On this machine:\n"
	       "  tsctl start --listen 127.0.0.1:2375 --ts-server %s%s%s:443 --ts-cert %s/%s.crt "
	       "--ts-key %s/%s.key --ts-ca %s/ca.crt\n\n"
	       "Keep %s/ca.key to yourself: whoever has it can make certificates.\n",
	       d, d, d, v6 ? "[" : "", host, v6 ? "]" : "", d, client, d, client, d, d);
}

/* The client's name becomes a file name. */
static bool file_name_ok(const char *name)
{
	if (*name == '\0' || *name == '.' || strcmp(name, "ca") == 0 || strcmp(name, "server") == 0)
		return false;
	return strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-@") ==
	       strlen(name);
}

static int run(struct certs *c)
{
	if (c->client && !file_name_ok(c->client))
		return complain(c->client, "--client-name is a file name, too: letters, digits, "
					   "'.', '_', '-' and '@', and neither ca nor server");
	if (c->names.n > MAX_NAMES || c->ips.n > MAX_NAMES)
		return complain("", "too many server names");
	if (mkdir(c->dir, 0700) == -1 && errno != EEXIST)
		return complain(c->dir, err_text(errno));
	if (have_ca(c) < 0 || make_server(c) < 0 || make_client(c) < 0)
		return -1;
	print_use(c);
	return 0;
}

int cmd_certs(int argc, char **argv)
{
	struct certs c = { .dir = "certs", .days = 365 };
	const struct opt opts[] = {
		{ .kind = OPT_STRING,
		  .name = "dir",
		  .to = &c.dir,
		  .arg = "DIR",
		  .help = "where to put them (default certs)" },
		{ .kind = OPT_LIST,
		  .name = "server-name",
		  .to = &c.names,
		  .arg = "NAME",
		  .help =
		      "DNS name of the server, *.NAME too; repeatable; localhost always is one" },
		{ .kind = OPT_LIST,
		  .name = "server-ip",
		  .to = &c.ips,
		  .arg = "ADDRESS",
		  .help = "IP address of the server; repeatable; 127.0.0.1 and ::1 always are" },
		{ .kind = OPT_STRING,
		  .name = "client-name",
		  .to = &c.client,
		  .arg = "NAME",
		  .help = "common name of the client and name of its files (default client)" },
		{ .kind = OPT_STRING,
		  .name = "spiffe-id",
		  .to = &c.spiffe_id,
		  .arg = "ID",
		  .help = "spiffe://DOMAIN/PATH for the client's certificate" },
		{ .kind = OPT_INT,
		  .name = "days",
		  .to = &c.days,
		  .arg = "N",
		  .help = "how long they are valid (default 365)",
		  .min = 1,
		  .max = 20000 },
		{ .kind = OPT_FLAG,
		  .name = "force",
		  .to = &c.force,
		  .help = "replace an existing server or client certificate (never the CA)" },
		{ .kind = OPT_END },
	};
	const struct opt_command command = {
		.name = "tsctl certs",
		.args = "[OPTIONS]",
		.summary = "Make a CA, a server and a client certificate for mutual TLS.",
		.opts = opts,
		.more = "A CA that is in the directory is used again, so that more clients can be "
			"added:\n"
			"  tsctl certs --server-name containers.tinyscale.net --server-name "
			"'*.containers.tinyscale.net'\n"
			"  tsctl certs --client-name bob\n",
	};
	int first = opt_parse(&command, argc, argv), code = 2;
	if (first == 0)
		code = 0;
	else if (first > 0 && first < argc)
		complain(argv[first], "unexpected argument");
	else if (first > 0)
		code = run(&c) < 0;
	opt_list_free(&c.names);
	opt_list_free(&c.ips);
	free(c.ca_cert);
	free(c.ca_key);
	return code;
}
