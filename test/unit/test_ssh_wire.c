/* SSH's pure parts: primitives, packets, key exchange, keys, known_hosts, against published or
 * independently computed values. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <unistd.h>

#include "proto/ssh/keygen.h"
#include "proto/ssh/ssh_int.h"
#include "reactor/base64.h"

/* Hexadecimal to bytes. */
static size_t unhex(const char *hex, uint8_t *out)
{
	size_t n = strlen(hex) / 2;
	for (size_t i = 0; i < n; i++) {
		unsigned v;
		assert_int_equal(sscanf(hex + 2 * i, "%2x", &v), 1);
		out[i] = (uint8_t)v;
	}
	return n;
}

static void assert_hex(const void *p, const char *hex)
{
	uint8_t want[256];
	assert_memory_equal(p, want, unhex(hex, want));
}

static void primitives(void **state)
{
	(void)state;
	uint8_t a[64], b[64], out[SIGN_MAX], zero[32] = { 0 };
	/* RFC 7748 section 5.2 */
	unhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4", a);
	unhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c", b);
	assert_true(x25519_shared(out, a, b));
	assert_hex(out, "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552");
	assert_false(x25519_shared(out, a, zero));
	/* RFC 8032 section 7.1, test 3 */
	unhex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7", a);
	struct sign_key *k = sign_ed25519_pair(a);
	assert_hex(sign_ed25519_bytes(k),
		   "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025");
	assert_int_equal(sign_make(k, SIGN_SHA256, SLICE("\xaf\x82"), out), 64);
	assert_hex(out, "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
			"18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a");
	assert_true(sign_verify(k, SIGN_SHA256, SLICE("\xaf\x82"), slice_of(out, 64)));
	assert_false(sign_verify(k, SIGN_SHA256, SLICE("\xaf\x83"), slice_of(out, 64)));
	assert_false(sign_verify(k, SIGN_SHA256, SLICE("\xaf\x82"), slice_of(out, 63)));
	sign_key_free(k);
	/* RFC 8439 section 2.5.2 */
	unhex("85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b", a);
	poly1305(a, SLICE("Cryptographic Forum Research Group"), out);
	assert_hex(out, "a8061dc1305136c6c22b8baf0c0127a9");
	/* RFC 4231 section 4.3 */
	struct hmac_sha256 *h = hmac_sha256_new(SLICE("Jefe"));
	for (int i = 0; i < 2; i++) { /* a key serves again */
		hmac_sha256(h, (struct slice[]){ SLICE("what do ya want "), SLICE("for nothing?") },
			    2, out);
		assert_hex(out, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
	}
	hmac_sha256_free(h);
	/* RFC 2202 section 3 */
	hmac_sha1(SLICE("Jefe"), SLICE("what do ya want for nothing?"), out);
	assert_hex(out, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79");
	assert_null(sign_p256_public(SLICE("\4zzzz")));
	char point[65] = { 4, 1 };
	assert_null(sign_p256_public(slice_of(point, 65)));
	assert_null(sign_rsa_public(SLICE("\3"), SLICE("\1\0\1")));
}

/* Made by an implementation of its own in Python. */
static void chacha_packet(void **state)
{
	(void)state;
	uint8_t key[64];
	struct packets p;
	struct buf b;
	struct slice payload;
	const char *why;
	for (int i = 0; i < 64; i++)
		key[i] = (uint8_t)i;
	packets_init(&p);
	buf_init(&b, 4096);
	cipher_start(&p.cipher, cipher_find(SLICE("chacha20-poly1305@openssh.com")), NULL, key,
		     NULL, NULL);
	p.seq = 7;
	memcpy(packet_room(&b, 11), "hello, poly", 11);
	packet_seal(&p, &b, 11);
	assert_int_equal(b.len, 36);
	assert_hex(buf_data(&b).p,
		   "a39afcba2c2e702f22ec067e1c02d789d78fd32ca950222efd3b18684788c651"
		   "a77bcd6a");
	p.seq = 7;
	assert_int_equal(packet_open(&p, b.base, b.len, &payload, &why), b.len);
	assert_true(slice_eq(payload, SLICE("hello, poly")));
	packets_end(&p);
	buf_end(&b);
}

static const char *const suites[][2] = {
	{ NULL, NULL },
	{ "aes128-gcm@openssh.com", NULL },
	{ "aes256-gcm@openssh.com", NULL },
	{ "chacha20-poly1305@openssh.com", NULL },
	{ "aes128-ctr", "hmac-sha2-256" },
	{ "aes256-ctr", "hmac-sha2-256-etm@openssh.com" },
};

static void start_suite(struct packets *p, size_t i)
{
	uint8_t key[64] = { 1, 2, 3 }, iv[16] = { 4, 5 }, mac[32] = { 6 };
	packets_init(p);
	if (suites[i][0])
		cipher_start(&p->cipher, cipher_find(slice_str(suites[i][0])),
			     suites[i][1] ? mac_find(slice_str(suites[i][1])) : NULL, key, iv, mac);
}

/* Each cipher, packets of each small size, coming byte by byte; and with any bit changed. */
static void packets_split(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(suites); i++) {
		struct packets out, in;
		struct buf b;
		struct slice payload;
		const char *why;
		buf_init(&b, 1 << 20);
		start_suite(&out, i);
		start_suite(&in, i);
		for (size_t n = 1; n < 70; n++) {
			char *p = packet_room(&b, n);
			memset(p, (int)n, n);
			packet_seal(&out, &b, n);
			/* Section 6: multiples of the block, at least four bytes of padding. */
			size_t sealed = b.len - out.cipher.tag;
			if (cipher_length_apart(&out.cipher))
				sealed -= 4;
			assert_int_equal(sealed % out.cipher.suite->block, 0);
			for (size_t have = 0; have < b.len; have++)
				assert_int_equal(packet_open(&in, b.base, have, &payload, &why), 0);
			assert_int_equal(packet_open(&in, b.base, b.len, &payload, &why), b.len);
			assert_int_equal(payload.n, n);
			for (size_t k = 0; k < n; k++)
				assert_int_equal(payload.p[k], (char)n);
			buf_drop(&b, b.len);
		}
		assert_int_equal(in.seq, 69);
		packets_end(&out);
		packets_end(&in);
		for (size_t bit = 0; i > 0 && bit < 8 * 80; bit++) {
			start_suite(&out, i);
			start_suite(&in, i);
			memset(packet_room(&b, 20), 1, 20);
			packet_seal(&out, &b, 20);
			if (bit < 8 * b.len) {
				b.base[bit / 8] ^= (char)(1 << bit % 8);
				assert_true(packet_open(&in, b.base, b.len, &payload, &why) <= 0);
			}
			buf_drop(&b, b.len);
			packets_end(&out);
			packets_end(&in);
		}
		buf_end(&b);
	}
}

/* Values from hashlib. */
static void exchange_hash(void **state)
{
	(void)state;
	uint8_t hash[32], k[32] = { 0, 0x80 }, out[80];
	char q[32], r[32], id[32];
	for (int i = 0; i < 30; i++)
		k[2 + i] = (uint8_t)i;
	memset(q, 'q', 32);
	memset(r, 'r', 32);
	memset(id, 'S', 32);
	kex_hash(&(struct kex_transcript){ .v_c = SLICE("SSH-2.0-a"),
					   .v_s = SLICE("SSH-2.0-b c"),
					   .i_c = SLICE("\x14"
							"client"),
					   .i_s = SLICE("\x14server!"),
					   .k_s = SLICE("key"),
					   .q_c = slice_of(q, 32),
					   .q_s = slice_of(r, 32),
					   .k = slice_of(k, 32) },
		 hash);
	assert_hex(hash, "c51a362deefc6fb9cce676b16a09614dfc61c98cda8d1622d1be8d8d1a44b2c7");
	kex_derive(slice_of(k, 32), hash, slice_of(id, 32), 'C', out, sizeof(out));
	assert_hex(out, "1023f636603de321773508655c789f16288c7f39f5bece4bf01e6d102cd7ecd7"
			"6fe1514e4953bb01aba6c3c9a70eb008279612489d95622824cf2f0b59bfd078"
			"a0805b1e4c43aa05de5b00b45ae21f0b");
}

static void versions(void **state)
{
	(void)state;
	static const char text[] = "hello\r\n\nSSH-2.0-x y\r\nrest";
	struct slice line, version;
	const char *why;
	size_t at = 0;
	static const size_t lines[] = { 7, 1, 13 };
	for (size_t i = 0; i < 3; i++) {
		for (size_t have = 0; have < lines[i]; have++)
			assert_int_equal(
			    version_get(slice_of(text + at, have), &line, &version, &why), 0);
		assert_int_equal(
		    version_get(slice_of(text + at, sizeof(text) - at), &line, &version, &why),
		    lines[i]);
		at += lines[i];
	}
	assert_true(slice_eq(version, SLICE("SSH-2.0-x y")));
}

static void wire(void **state)
{
	(void)state;
	char p[64], text[20];
	struct ssh_wire_out w = { p, 0, sizeof(p) };
	/* RFC 4251 section 5, mpint */
	put_mpint(&w, SLICE(""));
	put_mpint(&w, SLICE("\x09\xa3\x78\xf9\xb2\xe3\x32\xa7"));
	put_mpint(&w, SLICE("\0\0\x80"));
	assert_int_equal(w.n, 4 + 12 + 6);
	assert_memory_equal(p, "\0\0\0\0\0\0\0\10\x09\xa3\x78\xf9\xb2\xe3\x32\xa7\0\0\0\2\0\x80",
			    22);
	struct ssh_wire_in in = { slice_of(p + 4, 18), false };
	assert_int_equal(ssh_wire_mpint(&in).n, 8);
	assert_true(slice_eq(ssh_wire_mpint(&in), SLICE("\x80")));
	assert_true(ssh_wire_end(&in));
	static const struct slice bad[] = { SLICE("\0\0\0\1\x80"), SLICE("\0\0\0\2\0\1"),
					    SLICE("\0\0\0\0"), SLICE("\0\0\0\5abc"),
					    SLICE("\0\0") };
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		in = (struct ssh_wire_in){ bad[i], false };
		ssh_wire_mpint(&in);
		assert_true(in.bad);
		assert_int_equal(ssh_wire_u32(&in), 0);
	}
	assert_true(name_list_ok(SLICE("")) && name_list_ok(SLICE("a,b@c")));
	assert_false(name_list_ok(SLICE(",a")) || name_list_ok(SLICE("a,")) ||
		     name_list_ok(SLICE("a,,b")) || name_list_ok(SLICE("a b")) ||
		     name_list_ok(SLICE("a\x80")));
	assert_true(name_in(SLICE("a,bc,d"), SLICE("bc")) && !name_in(SLICE("a,bc"), SLICE("b")));
	assert_string_equal(ssh_text(SLICE("a\x1b[m\xc3\xa9\xff\xc2\x9b\r\nb"), false, text, 20),
			    "a?[m\xc3\xa9????b");
	assert_string_equal(ssh_text(SLICE("a\r\nb"), true, text, 20), "a\nb");
	assert_string_equal(ssh_text(SLICE("abc"), true, text, 3), "ab");
	uint8_t raw[64];
	static const char *const code[] = {
		"", "Zg", "Zm8", "Zm9v", "Zm9vYg", "Zm9vYmE", "Zm9vYmFy"
	};
	for (size_t i = 0; i < 7; i++) {
		base64_put(slice_of("foobar", i), p);
		assert_string_equal(p, code[i]);
		assert_int_equal(base64_get(slice_str(p), false, raw), (int)i);
		assert_memory_equal(raw, "foobar", i);
	}
	assert_int_equal(base64_get(SLICE("Zg=="), false, raw), 1);
	assert_int_equal(base64_get(SLICE("Z g\n=="), true, raw), 1);
	assert_int_equal(base64_get(SLICE("Zg="), false, raw), -1);
	assert_int_equal(base64_get(SLICE("Zh"), false, raw), -1);
	assert_int_equal(base64_get(SLICE("Z"), false, raw), -1);
	assert_int_equal(base64_get(SLICE("Zg==Zg=="), false, raw), -1);
	assert_int_equal(base64_get(SLICE("Zm 9v"), false, raw), -1);
}

/* --- known_hosts --- */

static char blob[2][51], b64[2][80];

static void make_blobs(void)
{
	for (int i = 0; i < 2; i++) {
		struct ssh_wire_out w = { blob[i], 0, 51 };
		char key[32];
		memset(key, 'a' + i, 32);
		put_str(&w, "ssh-ed25519");
		put_string(&w, slice_of(key, 32));
		base64_put(ssh_wire_written(&w), b64[i]);
	}
}

static enum known_verdict check(const char *text, const char *host, uint16_t port, int which)
{
	unsigned line;
	char full[2000], *p = full;
	for (; *text; text++) /* $0 and $1 are the keys */
		if (*text == '$')
			p += sprintf(p, "ssh-ed25519 %s", b64[*++text - '0']);
		else
			*p++ = *text;
	return known_hosts_check(slice_of(full, (size_t)(p - full)), host, port,
				 slice_of(blob[which], 51), &line);
}

static void known(void **state)
{
	(void)state;
	make_blobs();
	assert_int_equal(check("", "h", 22, 0), KNOWN_NO);
	assert_int_equal(check("h $0", "h", 22, 0), KNOWN_YES);
	assert_int_equal(check("h $0\r\n", "H", 22, 0), KNOWN_YES);
	assert_int_equal(check("h $0\n", "h", 22, 1), KNOWN_OTHER);
	assert_int_equal(check("h $0\nh $1\n", "h", 22, 1), KNOWN_YES);
	assert_int_equal(check("h $0\n", "h", 23, 0), KNOWN_NO);
	assert_int_equal(check("[h]:23 $0\n", "h", 23, 0), KNOWN_YES);
	assert_int_equal(check("[h]:* $0\n", "h", 23, 0), KNOWN_YES);
	assert_int_equal(check("a,*.x,!b.x $0\n", "c.x", 22, 0), KNOWN_YES);
	assert_int_equal(check("a,*.x,!b.x $0\n", "b.x", 22, 0), KNOWN_NO);
	assert_int_equal(check("!b.x,* $0\n", "b.x", 22, 0), KNOWN_NO);
	assert_int_equal(check("h?? $0\n", "h12", 22, 0), KNOWN_YES);
	assert_int_equal(check("h?? $0\n", "h1", 22, 0), KNOWN_NO);
	assert_int_equal(check("*a*b*c $0\n", "xaybzc", 22, 0), KNOWN_YES);
	assert_int_equal(check("*a*b*c $0\n", "xaybz", 22, 0), KNOWN_NO);
	assert_int_equal(check("# h $0\n  h $0", "h", 22, 0), KNOWN_YES);
	assert_int_equal(check("#h $0\n", "#h", 22, 0), KNOWN_NO);
	assert_int_equal(check("h $0\n@revoked h $0\n", "h", 22, 0), KNOWN_REVOKED);
	assert_int_equal(check("@revoked * $0\n", "h", 22, 0), KNOWN_REVOKED);
	assert_int_equal(check("@revoked * $0\nh $1", "h", 22, 1), KNOWN_YES);
	assert_int_equal(check("@revoked h $0\n", "h", 22, 1), KNOWN_NO);
	assert_int_equal(check("@cert-authority h $0\n", "h", 22, 0), KNOWN_NO);
	assert_int_equal(check("h ssh-rsa AAAAB3NzaC1yc2E\n", "h", 22, 0), KNOWN_UNLIKE);
	assert_int_equal(check("h ssh-rsa AAAAB3NzaC1yc2E\nh $1", "h", 22, 0), KNOWN_OTHER);
	assert_int_equal(
	    check("h ssh-rsa AAAAC3NzaC1lZDI1NTE5\nh\nh x\nh ssh-ed25519 !\n", "h", 22, 0),
	    KNOWN_NO);
	assert_int_equal(check("|1|x|y $0\n|1| $0\n|1||| $0\n", "h", 22, 0), KNOWN_NO);
	/* One that OpenSSL hashed: printf h | openssl dgst -sha1 -hmac salt */
	assert_int_equal(check("|1|c2FsdA==|jVqr1xnqQEuc7LKclislnCMCjPg= $0\n", "h", 22, 0),
			 KNOWN_YES);
	assert_int_equal(check("|1|c2FsdA==|jVqr1xnqQEuc7LKclislnCMCjPg= $0\n", "H", 22, 0),
			 KNOWN_YES);
	assert_int_equal(check("|1|c2FsdA==|jVqr1xnqQEuc7LKclislnCMCjPg= $0\n", "i", 22, 0),
			 KNOWN_NO);
	char order[200];
	known_hosts_order(SLICE("h ecdsa-sha2-nistp256 AAAA\n"), "h", 22, host_alg_names, order);
	assert_string_equal(order, host_alg_names);
	char fp[SSH_FINGERPRINT_MAX], pin[80];
	host_key_fingerprint(slice_of(blob[0], 51), fp);
	snprintf(pin, sizeof(pin), "%s=", fp);
	assert_true(host_key_pinned(slice_of(blob[0], 51), fp));
	assert_true(host_key_pinned(slice_of(blob[0], 51), pin));
	assert_true(host_key_pinned(slice_of(blob[0], 51), fp + 7));
	assert_false(host_key_pinned(slice_of(blob[1], 51), fp));
	assert_false(host_key_pinned(slice_of(blob[0], 51), ""));
}

/* --- key files --- */

static void key_files(void **state)
{
	(void)state;
	static const char *const type[] = { "ed25519", "ecdsa", "rsa" };
	char dir[] = "/tmp/tskeyXXXXXX", path[100], cmd[300], err[300];
	if (access("/usr/bin/ssh-keygen", X_OK) != 0)
		skip();
	assert_non_null(mkdtemp(dir));
	for (size_t i = 0; i < ARRAY_LEN(type); i++) {
		static char text[SSH_KEY_FILE_MAX];
		snprintf(path, sizeof(path), "%s/%s", dir, type[i]);
		snprintf(cmd, sizeof(cmd), "ssh-keygen -q -t %s -N '' -C 'a comment' -f %s",
			 type[i], path);
		assert_int_equal(system(cmd), 0);
		FILE *f = fopen(path, "re");
		size_t n = fread(text, 1, sizeof(text), f);
		fclose(f);
		struct ssh_key *k = ssh_key_parse(slice_of(text, n), err, sizeof(err));
		if (!k)
			fail_msg("%s", err);
		/* It signs, and its public half verifies. */
		struct slice alg = i == 2 ? SLICE("rsa-sha2-512") : ssh_key_type(k);
		size_t sig_n;
		const char *why;
		char *sig = ssh_key_sign(k, alg, SLICE("message"), &sig_n);
		struct sign_key *pub = host_key_parse(ssh_key_blob(k), &why);
		assert_true(host_key_verify(pub, host_alg_find(alg), SLICE("message"),
					    slice_of(sig, sig_n)));
		assert_false(host_key_verify(pub, host_alg_find(alg), SLICE("massage"),
					     slice_of(sig, sig_n)));
		sig[sig_n - 1] ^= 1;
		assert_false(host_key_verify(pub, host_alg_find(alg), SLICE("message"),
					     slice_of(sig, sig_n)));
		for (size_t part = 0; part < sig_n; part++)
			assert_false(host_key_verify(pub, host_alg_find(alg), SLICE("message"),
						     slice_of(sig, part)));
		sign_key_free(pub);
		free(sig);
		ssh_key_free(k);
		/* Cut short, or with a changed letter: no key (but for the comment). */
		for (size_t part = 0; part + 30 < n; part++)
			assert_null(ssh_key_parse(slice_of(text, part), err, sizeof(err)));
		for (size_t at = 40; i < 2 && at + 100 < n; at++) {
			char was = text[at];
			text[at] = was == 'A' ? 'B' : 'A';
			struct ssh_key *other = ssh_key_parse(slice_of(text, n), err, sizeof(err));
			if (other && at < 280 && was != '\n')
				assert_true(was == text[at]);
			ssh_key_free(other);
			text[at] = was;
		}
		/* Encrypted, or in other formats. */
		snprintf(cmd, sizeof(cmd), "ssh-keygen -q -p -N secret -f %s >/dev/null", path);
		assert_int_equal(system(cmd), 0);
		assert_null(ssh_key_load(path, err, sizeof(err)));
		assert_non_null(strstr(err, "is encrypted"));
		snprintf(cmd, sizeof(cmd),
			 "ssh-keygen -q -p -m PEM -P secret -N '' -f %s >/dev/null", path);
		assert_int_equal(system(cmd), 0);
		assert_true(i == 0 || !ssh_key_load(path, err, sizeof(err)));
		assert_true(i == 0 || strstr(err, "old PEM format"));
	}
	snprintf(path, sizeof(path), "%s/p384", dir);
	snprintf(cmd, sizeof(cmd), "ssh-keygen -q -t ecdsa -b 384 -N '' -f %s", path);
	assert_int_equal(system(cmd), 0);
	assert_null(ssh_key_load(path, err, sizeof(err)));
	assert_non_null(strstr(err, "type is not supported"));
	assert_null(ssh_key_load(dir, err, sizeof(err)));
	snprintf(cmd, sizeof(cmd), "rm -r %s", dir);
	assert_int_equal(system(cmd), 0);
}

/* What we make is a pair, and the line names its key; ssh-keygen reads both alike. */
static void new_keys(void **state)
{
	(void)state;
	char text[SSH_KEYGEN_TEXT_MAX], line[SSH_KEYGEN_LINE_MAX], again[SSH_KEYGEN_LINE_MAX + 8];
	char print[SSH_FINGERPRINT_MAX], want[SSH_FINGERPRINT_MAX], err[300], said[300] = "";
	size_t n = ssh_keygen(text, line);
	struct ssh_key *k = ssh_key_parse(slice_of(text, n), err, sizeof(err));
	if (!k)
		fail_msg("%s", err);
	host_key_fingerprint(ssh_key_blob(k), want);
	assert_true(ssh_key_fingerprint(slice_str(line), print));
	assert_string_equal(print, want);
	snprintf(again, sizeof(again), "%s me\n", line);
	assert_true(ssh_key_fingerprint(slice_str(again), print));
	line[8]++; /* the type is not what the key says */
	assert_false(ssh_key_fingerprint(slice_str(line), print));
	assert_string_equal(print, "");
	assert_false(ssh_key_fingerprint(SLICE(""), print));
	assert_false(ssh_key_fingerprint(SLICE("ssh-ed25519"), print));
	assert_false(ssh_key_fingerprint(SLICE("ssh-ed25519 !"), print));
	ssh_key_free(k);
	if (access("/usr/bin/ssh-keygen", X_OK) != 0)
		return;
	char path[] = "/tmp/tskeyXXXXXX", cmd[100];
	int fd = mkstemp(path);
	assert_int_equal(write(fd, text, n), n);
	close(fd);
	snprintf(cmd, sizeof(cmd), "ssh-keygen -lf %s", path);
	FILE *f = popen(cmd, "re");
	assert_non_null(f);
	assert_non_null(fgets(said, sizeof(said), f));
	assert_int_equal(pclose(f), 0);
	unlink(path);
	assert_non_null(strstr(said, want));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(primitives),    cmocka_unit_test(chacha_packet),
		cmocka_unit_test(packets_split), cmocka_unit_test(exchange_hash),
		cmocka_unit_test(versions),      cmocka_unit_test(wire),
		cmocka_unit_test(known),         cmocka_unit_test(key_files),
		cmocka_unit_test(new_keys),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
