#include "reactor/tls_int.h"

#include <openssl/err.h>
#include <openssl/pool.h>
#include <openssl/ssl.h>

#include "reactor/tls_trust.h"

/* What both sides may sign with: BoringSSL's list and Ed25519. */
static const uint16_t signatures[] = {
	SSL_SIGN_ED25519,          SSL_SIGN_ECDSA_SECP256R1_SHA256, SSL_SIGN_RSA_PSS_RSAE_SHA256,
	SSL_SIGN_RSA_PKCS1_SHA256, SSL_SIGN_ECDSA_SECP384R1_SHA384, SSL_SIGN_RSA_PSS_RSAE_SHA384,
	SSL_SIGN_RSA_PKCS1_SHA384, SSL_SIGN_ECDSA_SECP521R1_SHA512, SSL_SIGN_RSA_PSS_RSAE_SHA512,
	SSL_SIGN_RSA_PKCS1_SHA512,
};

static int load_trust(struct tls_config *c, const struct tls_options *o, char *err, size_t errlen)
{
	STACK_OF(CRYPTO_BUFFER) *subjects = NULL;
	c->roots = trust_load_roots(o->ca_files, o->n_ca, &subjects, err, errlen);
	if (!c->roots)
		return -1;
	if (c->server)
		SSL_CTX_set0_client_CAs(c->ctx, subjects);
	else
		sk_CRYPTO_BUFFER_pop_free(subjects, CRYPTO_BUFFER_free);
	return 0;
}

struct tls_config *tls_config_new(const struct tls_options *o, bool server, char *err,
				  size_t errlen)
{
	struct tls_config *c = xcalloc(1, sizeof(*c));
	c->refs = 1;
	c->server = server;
	c->insecure = o->insecure && !server;
	c->verify = !server || o->require_client_cert;
	c->has_cert = o->cert_file != NULL;
	c->ctx = SSL_CTX_new(TLS_with_buffers_method());
	BUG_ON(!c->ctx);
	SSL_CTX_set_min_proto_version(c->ctx, o->min_tls12 ? TLS1_2_VERSION : TLS1_3_VERSION);
	SSL_CTX_set_max_proto_version(c->ctx, TLS1_3_VERSION);
	SSL_CTX_set_options(c->ctx, SSL_OP_NO_TICKET);
	SSL_CTX_set_session_cache_mode(c->ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_keylog_callback(c->ctx, tls_on_secret);
	BUG_ON(!SSL_CTX_set1_curves_list(c->ctx, "X25519:P-256:P-384") ||
	       !SSL_CTX_set_verify_algorithm_prefs(c->ctx, signatures, ARRAY_LEN(signatures)));
	if (!o->cert_file != !o->key_file) {
		snprintf(err, errlen, "certificate and key must be given together");
		goto fail;
	}
	if (server && !o->cert_file) {
		snprintf(err, errlen, "a TLS server needs a certificate and a key");
		goto fail;
	}
	if (server && o->require_client_cert && o->n_ca == 0) {
		snprintf(err, errlen, "to require client certificates takes a CA to verify them");
		goto fail;
	}
	if (o->cert_file && trust_load_identity(c->ctx, o->cert_file, o->key_file, err, errlen) < 0)
		goto fail;
	if (o->n_ca > 0 && load_trust(c, o, err, errlen) < 0)
		goto fail;
	if (!server && o->n_ca == 0 && !o->insecure)
		c->roots = trust_system_roots(); /* now, since it takes more than a turn should */
	return c;
fail:
	tls_config_unref(c);
	return NULL;
}

struct tls_config *tls_config_ref(struct tls_config *c)
{
	c->refs++;
	return c;
}

void tls_config_unref(struct tls_config *c)
{
	if (!c || --c->refs > 0)
		return;
	SSL_CTX_free(c->ctx);
	X509_STORE_free(c->roots);
	free(c);
}
