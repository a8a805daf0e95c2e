#include "reactor/tls_trust.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/mem.h>
#include <openssl/pem.h>
#include <openssl/pool.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include "reactor/err.h"
#include "reactor/log.h"
#include "reactor/tls_cert.h"

enum { MAX_FILE = 4 << 20, MAX_CHAIN = 16, MAX_DEPTH = 10 };

static const char *const system_bundles[] = {
	"/etc/ssl/certs/ca-certificates.crt", /* Debian, Ubuntu, Alpine */
	"/etc/pki/tls/certs/ca-bundle.crt",   /* Fedora, RHEL */
	"/etc/ssl/ca-bundle.pem",             /* openSUSE */
	"/etc/ssl/cert.pem",
};

/* --- files --- */

/* A whole file as a memory BIO. */
static BIO *open_file(const char *file, char *err, size_t errlen)
{
	struct stat st;
	BIO *bio = NULL;
	int fd = open(file, O_RDONLY | O_CLOEXEC);
	if (fd == -1 || fstat(fd, &st) == -1) {
		snprintf(err, errlen, "%s: %s", file, err_text(errno));
		goto out;
	}
	if (S_ISDIR(st.st_mode)) {
		snprintf(err, errlen, "%s: is a directory", file);
		goto out;
	}
	bio = BIO_new(BIO_s_mem());
	char block[16384];
	size_t total = 0;
	ssize_t n;
	while ((n = read(fd, block, sizeof(block))) > 0 && (total += (size_t)n) <= MAX_FILE)
		BIO_write(bio, block, (int)n);
	if (n != 0) {
		snprintf(err, errlen, "%s: %s", file, n == -1 ? err_text(errno) : "is too large");
		BIO_free(bio);
		bio = NULL;
	}
out:
	if (fd != -1)
		close(fd);
	return bio;
}

struct pem {
	char *name, *header;
	uint8_t *data;
	long len;
};

static void pem_end(struct pem *p)
{
	OPENSSL_free(p->name);
	OPENSSL_free(p->header);
	OPENSSL_cleanse(p->data, p->data ? (size_t)p->len : 0);
	OPENSSL_free(p->data);
	*p = (struct pem){ .name = NULL };
}

/* Replaces *p by the next block; false at the end or at something malformed (*bad). */
static bool pem_next(BIO *bio, struct pem *p, bool *bad)
{
	pem_end(p);
	ERR_clear_error();
	bool ok = PEM_read_bio(bio, &p->name, &p->header, &p->data, &p->len) == 1;
	*bad = !ok && ERR_GET_REASON(ERR_peek_error()) != PEM_R_NO_START_LINE;
	ERR_clear_error();
	return ok;
}

static bool looks_like_der(BIO *bio)
{
	const uint8_t *data;
	size_t n;
	return BIO_mem_contents(bio, &data, &n) && n > 1 && data[0] == 0x30 &&
	       (data[1] & 0x80 || data[1] == n - 2);
}

/* The certificates of a PEM file in their order, at least one; not parsed. */
static STACK_OF(CRYPTO_BUFFER) * read_certs(const char *file, size_t max, char *err, size_t errlen)
{
	BIO *bio = open_file(file, err, errlen);
	if (!bio)
		return NULL;
	bool der = looks_like_der(bio), bad = false;
	char other[64] = "";
	struct pem pem = { .name = NULL };
	STACK_OF(CRYPTO_BUFFER) *list = sk_CRYPTO_BUFFER_new_null();
	while (sk_CRYPTO_BUFFER_num(list) < max && pem_next(bio, &pem, &bad)) {
		if (strcmp(pem.name, PEM_STRING_X509) != 0 &&
		    strcmp(pem.name, PEM_STRING_X509_OLD) != 0) {
			snprintf(other, sizeof(other), "%s", pem.name);
			continue;
		}
		sk_CRYPTO_BUFFER_push(list, CRYPTO_BUFFER_new(pem.data, (size_t)pem.len, NULL));
	}
	if (bad)
		snprintf(err, errlen, "%s: malformed PEM", file);
	else if (sk_CRYPTO_BUFFER_num(list) == 0 && *other)
		snprintf(err, errlen, "%s: has no certificate in it, but a %s", file, other);
	else if (sk_CRYPTO_BUFFER_num(list) == 0)
		snprintf(err, errlen, "%s: is not PEM%s (-----BEGIN CERTIFICATE----- expected)",
			 file, der ? " but DER" : "");
	if (bad || sk_CRYPTO_BUFFER_num(list) == 0) {
		sk_CRYPTO_BUFFER_pop_free(list, CRYPTO_BUFFER_free);
		list = NULL;
	}
	pem_end(&pem);
	BIO_free(bio);
	return list;
}

static EVP_PKEY *read_key(const char *file, char *err, size_t errlen)
{
	BIO *bio = open_file(file, err, errlen);
	if (!bio)
		return NULL;
	EVP_PKEY *key = NULL;
	bool bad = false, found = false;
	char other[64] = "";
	struct pem pem = { .name = NULL };
	while (!key && !found && pem_next(bio, &pem, &bad)) {
		struct slice name = slice_str(pem.name);
		if (!slice_ends(name, SLICE("PRIVATE KEY"))) {
			snprintf(other, sizeof(other), "%s", pem.name);
			continue;
		}
		found = true;
		if (slice_starts(name, SLICE("ENCRYPTED")) || strstr(pem.header, "ENCRYPTED")) {
			snprintf(err, errlen,
				 "%s: the private key is encrypted, which is not supported "
				 "(decrypt it: openssl pkey -in %s -out FILE)",
				 file, file);
			continue;
		}
		const uint8_t *p = pem.data;
		key = d2i_AutoPrivateKey(NULL, &p, pem.len);
		if (!key)
			snprintf(err, errlen, "%s: the %s is malformed or of an unsupported kind",
				 file, pem.name);
	}
	if (!found && bad)
		snprintf(err, errlen, "%s: malformed PEM", file);
	else if (!found && *other)
		snprintf(err, errlen, "%s: has no private key in it, but a %s", file, other);
	else if (!found)
		snprintf(err, errlen, "%s: is not PEM (-----BEGIN PRIVATE KEY----- expected)",
			 file);
	ERR_clear_error();
	pem_end(&pem);
	BIO_free(bio);
	return key;
}

static struct slice der_of(CRYPTO_BUFFER *b)
{
	return slice_of(CRYPTO_BUFFER_data(b), CRYPTO_BUFFER_len(b));
}

static int check_cert(const char *file, size_t number, CRYPTO_BUFFER *b, char *err, size_t errlen)
{
	struct cert cert;
	if (!b || cert_parse(&cert, der_of(b)) < 0) {
		snprintf(err, errlen, "%s: certificate number %zu is malformed", file, number);
		return -1;
	}
	if (cert.not_after < time(NULL))
		log_warn("certificate has expired file=%s cn=%s", log_quote(slice_str(file)),
			 log_quote(cert.common_name));
	return 0;
}

int trust_load_identity(SSL_CTX *ctx, const char *cert_file, const char *key_file, char *err,
			size_t errlen)
{
	EVP_PKEY *key = NULL;
	int r = -1;
	STACK_OF(CRYPTO_BUFFER) *chain = read_certs(cert_file, MAX_CHAIN, err, errlen);
	if (!chain || check_cert(cert_file, 1, sk_CRYPTO_BUFFER_value(chain, 0), err, errlen) < 0 ||
	    !(key = read_key(key_file, err, errlen)))
		goto out;
	CRYPTO_BUFFER *certs[MAX_CHAIN];
	size_t n = sk_CRYPTO_BUFFER_num(chain);
	for (size_t i = 0; i < n; i++)
		certs[i] = sk_CRYPTO_BUFFER_value(chain, i);
	ERR_clear_error();
	if (SSL_CTX_set_chain_and_key(ctx, certs, n, key, NULL) != 1) {
		snprintf(err, errlen,
			 "the private key %s does not match the (first) certificate in %s",
			 key_file, cert_file);
		ERR_clear_error();
		goto out;
	}
	r = 0;
out:
	EVP_PKEY_free(key);
	sk_CRYPTO_BUFFER_pop_free(chain, CRYPTO_BUFFER_free);
	return r;
}

static void add_subject(STACK_OF(CRYPTO_BUFFER) * subjects, X509 *x)
{
	uint8_t *der = NULL;
	int n = i2d_X509_NAME(X509_get_subject_name(x), &der);
	if (n > 0)
		sk_CRYPTO_BUFFER_push(subjects, CRYPTO_BUFFER_new(der, (size_t)n, NULL));
	OPENSSL_free(der);
}

/* subjects NULL: the system's, of which what cannot be read is passed over. */
static int add_roots(X509_STORE *store, STACK_OF(CRYPTO_BUFFER) * subjects, const char *file,
		     char *err, size_t errlen)
{
	STACK_OF(CRYPTO_BUFFER) *list = read_certs(file, SIZE_MAX, err, errlen);
	int r = list ? 0 : -1;
	for (size_t i = 0; r == 0 && i < sk_CRYPTO_BUFFER_num(list); i++) {
		CRYPTO_BUFFER *b = sk_CRYPTO_BUFFER_value(list, i);
		X509 *x = X509_parse_from_buffer(b);
		if (subjects && check_cert(file, i + 1, x ? b : NULL, err, errlen) < 0)
			r = -1;
		else if (x)
			X509_STORE_add_cert(store, x);
		if (subjects && r == 0)
			add_subject(subjects, x);
		X509_free(x);
	}
	ERR_clear_error(); /* the same certificate twice */
	sk_CRYPTO_BUFFER_pop_free(list, CRYPTO_BUFFER_free);
	return r;
}

X509_STORE *trust_load_roots(const char *const *files, size_t n,
			     STACK_OF(CRYPTO_BUFFER) * *subjects, char *err, size_t errlen)
{
	X509_STORE *store = X509_STORE_new();
	STACK_OF(CRYPTO_BUFFER) *names = sk_CRYPTO_BUFFER_new_null();
	for (size_t i = 0; i < n && store; i++) {
		if (add_roots(store, names, files[i], err, errlen) < 0) {
			X509_STORE_free(store);
			store = NULL;
		}
	}
	if (store)
		*subjects = names;
	else
		sk_CRYPTO_BUFFER_pop_free(names, CRYPTO_BUFFER_free);
	return store;
}

static void add_directory(X509_STORE *store, const char *path)
{
	char err[256];
	DIR *dir = opendir(path);
	struct dirent *entry;
	// cppcheck-suppress readdirCalled ; one thread
	while (dir && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		char *file = xasprintf("%s/%s", path, entry->d_name);
		add_roots(store, NULL, file, err, sizeof(err));
		free(file);
	}
	if (dir)
		closedir(dir);
}

X509_STORE *trust_system_roots(void)
{
	static X509_STORE *store;
	if (store) {
		X509_STORE_up_ref(store);
		return store;
	}
	char err[256];
	const char *file = getenv("SSL_CERT_FILE"), *dirs = getenv("SSL_CERT_DIR");
	store = X509_STORE_new();
	if (file && *file)
		add_roots(store, NULL, file, err, sizeof(err));
	for (size_t i = 0; !(file && *file) && i < ARRAY_LEN(system_bundles); i++)
		if (add_roots(store, NULL, system_bundles[i], err, sizeof(err)) == 0)
			break;
	struct slice rest = slice_str(dirs), one;
	while (rest.n > 0) {
		slice_cut(rest, ':', &one, &rest);
		char *path = xslicedup(one);
		add_directory(store, path);
		free(path);
	}
	X509_STORE_up_ref(store);
	return store;
}

/* --- verification --- */

static void time_text(int64_t t, char *out, size_t n)
{
	time_t when = (time_t)t;
	struct tm tm;
	if (!gmtime_r(&when, &tm) || strftime(out, n, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
		snprintf(out, n, "?");
}

/* 0 when the certificate is in its dates. whose names a certificate that is not the leaf. */
static int check_dates(const struct cert *c, const char *whose, char *why, size_t n)
{
	int64_t now = time(NULL);
	if (now >= c->not_before && now <= c->not_after)
		return 0;
	bool early = now < c->not_before;
	char current[32], limit[32];
	time_text(now, current, sizeof(current));
	time_text(early ? c->not_before : c->not_after, limit, sizeof(limit));
	snprintf(why, n,
		 "x509: certificate has expired or is not yet valid: %scurrent time %s is %s %s",
		 whose, current, early ? "before" : "after", limit);
	return early ? -ERR_TLS_NOT_YET : -ERR_TLS_EXPIRED;
}

static void common_name_of(X509_NAME *name, char *out, size_t n)
{
	if (X509_NAME_get_text_by_NID(name, NID_commonName, out, (int)n) < 0)
		snprintf(out, n, "?");
	for (char *p = out; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f || *p == '"')
			*p = '?';
}

static int explain(X509_STORE_CTX *ctx, bool server, char *why, size_t n)
{
	int code = X509_STORE_CTX_get_error(ctx);
	X509 *at = X509_STORE_CTX_get_current_cert(ctx);
	char name[128], whose[192];
	struct cert cert;
	switch (code) {
	case X509_V_ERR_CERT_SIGNATURE_FAILURE:
		common_name_of(X509_get_issuer_name(at), name, sizeof(name));
		snprintf(why, n,
			 "x509: certificate signed by unknown authority (it names \"%s\" as its "
			 "issuer, but was signed by another key of that name)",
			 name);
		return -ERR_TLS_UNKNOWN_CA;
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
	case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
	case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
	case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
	case X509_V_ERR_CERT_UNTRUSTED:
		snprintf(why, n, "x509: certificate signed by unknown authority");
		return -ERR_TLS_UNKNOWN_CA;
	case X509_V_ERR_CERT_HAS_EXPIRED:
	case X509_V_ERR_CERT_NOT_YET_VALID: {
		uint8_t *der = NULL;
		int len = i2d_X509(at, &der), r = 0;
		common_name_of(X509_get_subject_name(at), name, sizeof(name));
		snprintf(whose, sizeof(whose), "its issuer \"%s\": ", name);
		if (len > 0 && cert_parse(&cert, slice_of(der, (size_t)len)) == 0)
			r = check_dates(&cert, whose, why, n);
		OPENSSL_free(der);
		if (r)
			return r;
		break;
	}
	case X509_V_ERR_INVALID_PURPOSE:
		snprintf(why, n,
			 "x509: certificate specifies an incompatible key usage (it is not meant "
			 "for a %s)",
			 server ? "server" : "client");
		return -ERR_TLS_BAD_CERT;
	case X509_V_ERR_INVALID_CA:
		common_name_of(X509_get_subject_name(at), name, sizeof(name));
		snprintf(why, n,
			 "x509: invalid signature: parent certificate \"%s\" cannot sign this kind "
			 "of certificate",
			 name);
		return -ERR_TLS_BAD_CERT;
	default:
		break;
	}
	snprintf(why, n, "x509: %s", X509_verify_cert_error_string(code));
	return -ERR_TLS_BAD_CERT;
}

static int verify_chain(X509_STORE *roots, const STACK_OF(CRYPTO_BUFFER) * chain, bool server,
			char *why, size_t n)
{
	int r = -ERR_TLS_BAD_CERT;
	STACK_OF(X509) *list = sk_X509_new_null();
	X509_STORE_CTX *ctx = X509_STORE_CTX_new();
	snprintf(why, n, "x509: malformed certificate");
	for (size_t i = 0; i < sk_CRYPTO_BUFFER_num(chain); i++) {
		X509 *x = X509_parse_from_buffer(sk_CRYPTO_BUFFER_value(chain, i));
		if (!x)
			goto out;
		sk_X509_push(list, x);
	}
	if (!X509_STORE_CTX_init(ctx, roots, sk_X509_value(list, 0), list))
		goto out;
	X509_STORE_CTX_set_flags(ctx, X509_V_FLAG_PARTIAL_CHAIN | X509_V_FLAG_TRUSTED_FIRST);
	X509_STORE_CTX_set_depth(ctx, MAX_DEPTH);
	X509_STORE_CTX_set_purpose(ctx, server ? X509_PURPOSE_SSL_SERVER : X509_PURPOSE_SSL_CLIENT);
	r = X509_verify_cert(ctx) == 1 ? 0 : explain(ctx, server, why, n);
out:
	X509_STORE_CTX_free(ctx);
	sk_X509_pop_free(list, X509_free);
	ERR_clear_error();
	return r;
}

int trust_verify(X509_STORE *roots, const STACK_OF(CRYPTO_BUFFER) * chain, bool server,
		 const char *host, char *why, size_t n)
{
	struct cert leaf;
	if (sk_CRYPTO_BUFFER_num(chain) == 0 || sk_CRYPTO_BUFFER_num(chain) > MAX_CHAIN ||
	    cert_parse(&leaf, der_of(sk_CRYPTO_BUFFER_value(chain, 0))) < 0) {
		snprintf(why, n, "x509: malformed certificate");
		return -ERR_TLS_BAD_CERT;
	}
	int r = check_dates(&leaf, "", why, n);
	if (r < 0)
		return r;
	if (host && !cert_covers(&leaf, host)) {
		cert_name_error(&leaf, host, why, n);
		return -ERR_TLS_NAME;
	}
	return verify_chain(roots, chain, server, why, n);
}

char *trust_subject(CRYPTO_BUFFER *b)
{
	char *text = NULL;
	X509 *x = X509_parse_from_buffer(b);
	BIO *bio = BIO_new(BIO_s_mem());
	const uint8_t *data;
	size_t n;
	if (x &&
	    X509_NAME_print_ex(bio, X509_get_subject_name(x), 0,
			       XN_FLAG_RFC2253 & ~(unsigned long)ASN1_STRFLGS_ESC_MSB) >= 0 &&
	    BIO_mem_contents(bio, &data, &n))
		text = xslicedup(slice_of(data, MIN(n, 512)));
	BIO_free(bio);
	X509_free(x);
	ERR_clear_error();
	return text ? text : xstrdup("");
}
