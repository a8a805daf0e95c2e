#include "reactor/tls_make.h"

#include <arpa/inet.h>
#include <errno.h>

#include <openssl/bio.h>
#include <openssl/buf.h>
#include <openssl/bytestring.h>
#include <openssl/ec.h>
#include <openssl/ec_key.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/mem.h>
#include <openssl/nid.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include "reactor/tls_cert.h"

struct maker {
	const struct tls_make *want;
	X509 *cert, *ca;
	EVP_PKEY *key, *ca_key;
	char *err;
	size_t errlen;
};

static int refuse(struct maker *m, const char *what, const char *name)
{
	snprintf(m->err, m->errlen, "%s%s%s", what, *name ? ": " : "", name);
	return -EINVAL;
}

static EVP_PKEY *new_key(void)
{
	EC_KEY *ec = EC_KEY_new_by_curve_name(NID_X9_62_prime256v1);
	EVP_PKEY *key = EVP_PKEY_new();
	BUG_ON(!ec || !key || !EC_KEY_generate_key(ec) || !EVP_PKEY_assign_EC_KEY(key, ec));
	return key;
}

/* 127 random bits, positive, never zero. */
static void set_serial(X509 *x)
{
	uint8_t bytes[16];
	RAND_bytes(bytes, sizeof(bytes));
	bytes[0] = (uint8_t)((bytes[0] & 0x7f) | 0x40);
	BIGNUM *n = BN_bin2bn(bytes, sizeof(bytes), NULL);
	BN_to_ASN1_INTEGER(n, X509_get_serialNumber(x));
	BN_free(n);
}

static void add_extension(struct maker *m, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509V3_set_ctx(&ctx, m->ca, m->cert, NULL, NULL, 0);
	X509_EXTENSION *e = X509V3_EXT_nconf_nid(NULL, &ctx, nid, value);
	BUG_ON(!e || !X509_add_ext(m->cert, e, -1));
	X509_EXTENSION_free(e);
}

static void add_name(CBB *names, enum cert_name_kind kind, const void *p, size_t n)
{
	CBB name;
	BUG_ON(!CBB_add_asn1(names, &name, CBS_ASN1_CONTEXT_SPECIFIC | (unsigned)kind) ||
	       !CBB_add_bytes(&name, p, n) || !CBB_flush(names));
}

/* What clients would not match is better refused here. */
static bool dns_name_ok(const char *name)
{
	struct slice s = slice_str(name), sample = s;
	if (slice_starts(s, SLICE("*.")))
		sample = slice_after(s, 2);
	return cert_name_matches(sample, sample) && s.n <= 253;
}

static int fill_names(struct maker *m, CBB *names)
{
	const struct tls_make *w = m->want;
	for (size_t i = 0; i < w->n_dns; i++) {
		if (!dns_name_ok(w->dns[i]))
			return refuse(m, "not a DNS name", w->dns[i]);
		add_name(names, CERT_DNS, w->dns[i], strlen(w->dns[i]));
	}
	for (size_t i = 0; i < w->n_ip; i++) {
		uint8_t address[16];
		if (inet_pton(AF_INET, w->ip[i], address) == 1)
			add_name(names, CERT_IP, address, 4);
		else if (inet_pton(AF_INET6, w->ip[i], address) == 1)
			add_name(names, CERT_IP, address, 16);
		else
			return refuse(m, "not an IP address", w->ip[i]);
	}
	if (w->spiffe_id && !spiffe_id_valid(slice_str(w->spiffe_id)))
		return refuse(m, "not a SPIFFE ID (spiffe://DOMAIN/PATH)", w->spiffe_id);
	if (w->spiffe_id)
		add_name(names, CERT_URI, w->spiffe_id, strlen(w->spiffe_id));
	return 0;
}

static int add_alt_names(struct maker *m)
{
	if (m->want->n_dns + m->want->n_ip == 0 && !m->want->spiffe_id)
		return 0;
	CBB cbb, names;
	uint8_t *der = NULL;
	size_t n;
	BUG_ON(!CBB_init(&cbb, 128) || !CBB_add_asn1(&cbb, &names, CBS_ASN1_SEQUENCE));
	int r = fill_names(m, &names);
	if (r == 0) {
		BUG_ON(!CBB_finish(&cbb, &der, &n));
		ASN1_OCTET_STRING *value = ASN1_OCTET_STRING_new();
		ASN1_OCTET_STRING_set(value, der, (int)n);
		X509_EXTENSION *e =
		    X509_EXTENSION_create_by_NID(NULL, NID_subject_alt_name, 0, value);
		BUG_ON(!e || !X509_add_ext(m->cert, e, -1));
		X509_EXTENSION_free(e);
		ASN1_OCTET_STRING_free(value);
		OPENSSL_free(der);
	}
	CBB_cleanup(&cbb);
	return r;
}

static int load_ca(struct maker *m)
{
	const struct tls_make *w = m->want;
	BIO *cert = BIO_new_mem_buf(w->ca_cert_pem, -1), *key = BIO_new_mem_buf(w->ca_key_pem, -1);
	m->ca = PEM_read_bio_X509(cert, NULL, NULL, NULL);
	char no_password[] = ""; /* NULL would ask for one on the terminal */
	m->ca_key = PEM_read_bio_PrivateKey(key, NULL, NULL, no_password);
	BIO_free(cert);
	BIO_free(key);
	ERR_clear_error();
	if (!m->ca)
		return refuse(m, "the CA certificate is not a PEM certificate", "");
	if (!m->ca_key)
		return refuse(m, "the CA key is not an (unencrypted) PEM private key", "");
	if (!(X509_get_extension_flags(m->ca) & EXFLAG_CA))
		return refuse(m, "the CA certificate is not a CA's", "");
	time_t begin = (time_t)w->not_before;
	if (X509_cmp_time(X509_get0_notAfter(m->ca), &begin) < 0)
		return refuse(m, "the CA certificate has expired", "");
	if (X509_check_private_key(m->ca, m->ca_key) != 1) {
		ERR_clear_error();
		return refuse(m, "the CA key does not match the CA certificate", "");
	}
	return 0;
}

static void set_validity(struct maker *m)
{
	ASN1_TIME_set(X509_getm_notBefore(m->cert), (time_t)m->want->not_before);
	ASN1_TIME_set(X509_getm_notAfter(m->cert), (time_t)m->want->not_after);
}

static int build(struct maker *m)
{
	const struct tls_make *w = m->want;
	size_t n = strlen(w->common_name);
	if (w->ca_cert_pem) {
		int r = load_ca(m);
		if (r < 0)
			return r;
	}
	m->key = new_key();
	m->cert = X509_new();
	X509_set_version(m->cert, X509_VERSION_3);
	set_serial(m->cert);
	set_validity(m);
	X509_set_pubkey(m->cert, m->key);
	/* X.520 allows 64 characters; a longer name is still there as a SAN. */
	if (n == 0 || (n > 64 && w->n_dns == 0 && w->n_ip == 0))
		return refuse(m, "a common name has 1 to 64 characters", w->common_name);
	X509_NAME *subject = X509_get_subject_name(m->cert);
	if (n <= 64 && !X509_NAME_add_entry_by_NID(subject, NID_commonName, MBSTRING_UTF8,
						   (const uint8_t *)w->common_name, -1, -1, 0)) {
		ERR_clear_error();
		return refuse(m, "not a common name", w->common_name);
	}
	if (!m->ca) {
		X509_up_ref(m->cert);
		m->ca = m->cert;
		EVP_PKEY_up_ref(m->key);
		m->ca_key = m->key;
	}
	X509_set_issuer_name(m->cert, X509_get_subject_name(m->ca));
	if (w->kind == TLS_MAKE_CA) {
		add_extension(m, NID_basic_constraints, "critical,CA:TRUE");
		add_extension(m, NID_key_usage, "critical,keyCertSign,cRLSign");
	} else {
		add_extension(m, NID_basic_constraints, "critical,CA:FALSE");
		add_extension(m, NID_key_usage, "critical,digitalSignature");
		add_extension(m, NID_ext_key_usage,
			      w->kind == TLS_MAKE_SERVER ? "serverAuth" : "clientAuth");
	}
	add_extension(m, NID_subject_key_identifier, "hash");
	if (m->ca == m->cert || X509_get_ext_by_NID(m->ca, NID_subject_key_identifier, -1) >= 0)
		add_extension(m, NID_authority_key_identifier, "keyid:always");
	int r = add_alt_names(m);
	if (r < 0)
		return r;
	const EVP_MD *digest = EVP_PKEY_id(m->ca_key) == EVP_PKEY_ED25519 ? NULL : EVP_sha256();
	if (!X509_sign(m->cert, m->ca_key, digest)) {
		ERR_clear_error();
		return refuse(m, "the CA key cannot sign", "");
	}
	return 0;
}

static char *text_of(BIO *bio)
{
	BUF_MEM *mem;
	BUG_ON(!BIO_get_mem_ptr(bio, &mem));
	char *text = xslicedup(slice_of(mem->data, mem->length));
	OPENSSL_cleanse(mem->data, mem->length);
	BIO_free(bio);
	return text;
}

int tls_make(const struct tls_make *want, struct tls_made *made, char *err, size_t errlen)
{
	struct maker m = { .want = want, .err = err, .errlen = errlen };
	*made = (struct tls_made){ .cert_pem = NULL };
	int r = build(&m);
	if (r == 0) {
		BIO *cert = BIO_new(BIO_s_mem()), *key = BIO_new(BIO_s_mem());
		BUG_ON(!PEM_write_bio_X509(cert, m.cert) ||
		       !PEM_write_bio_PrivateKey(key, m.key, NULL, NULL, 0, NULL, NULL));
		made->cert_pem = text_of(cert);
		made->key_pem = text_of(key);
	}
	X509_free(m.cert);
	X509_free(m.ca);
	EVP_PKEY_free(m.key);
	EVP_PKEY_free(m.ca_key);
	return r;
}

void tls_made_end(struct tls_made *made)
{
	if (made->key_pem)
		OPENSSL_cleanse(made->key_pem, strlen(made->key_pem));
	free(made->cert_pem);
	free(made->key_pem);
	*made = (struct tls_made){ .cert_pem = NULL };
}
