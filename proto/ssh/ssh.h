/*
 * An SSH-2 client over any stream (RFC 4251 to 4254): one connection, several commands at once.
 *
 *	c = ssh_client_new(rx, dial(rx, &addr, 0), &options);
 *	ch = ssh_exec(c, &(struct ssh_exec){ .command = "uname -a", .exited = on_exit });
 *	pump_start(rx, ssh_channel_stdio(ch), other, ...);
 *
 * Nothing waits: commands may be given before the connection is ready; their streams say -EAGAIN
 * until then. curve25519-sha256; host keys ed25519, ecdsa (P-256), rsa with SHA-2; aes-gcm, aes-ctr
 * with hmac-sha2-256, chacha20-poly1305; strict key exchange; passwords and public keys. No SHA-1,
 * no compression, no agent, no forwarding, no terminal.
 */
#ifndef PROTO_SSH_SSH_H
#define PROTO_SSH_SSH_H

#include "proto/ssh/key.h"
#include "reactor/stream.h"

struct ssh_client;
struct ssh_channel;

enum {
	SSH_CHANNELS_MAX = 64,        /* of one connection at once */
	SSH_COMMAND_MAX = 64 * 1024,  /* command and environment together */
	SSH_WINDOW = 2 * 1024 * 1024, /* bytes that a channel may hold for its reader */
	SSH_KNOWN_HOSTS_MAX = 4 << 20 /* bytes of a known_hosts file */
};

/* A host key that is not known yet. Lives during the call. */
struct ssh_unknown_host {
	const char *host;        /* as known_hosts names it: "[127.0.0.1]:2222" */
	const char *type;        /* "ssh-ed25519" */
	const char *fingerprint; /* "SHA256:..." */
	const char *line;        /* for known_hosts, without line end */
};

/* All strings are copied; key stays the caller's and has to live until ready or failed. */
struct ssh_options {
	const char *user;
	const char *password;      /* NULL: not offered */
	const struct ssh_key *key; /* NULL: not offered. Tried before the password */

	/* Whom to believe. With host_pin ("SHA256:...") that key and no other; else what
	 * known_hosts (the text of such a file) has for host and port; else what unknown_host says.
	 */
	const char *host;
	uint16_t port;
	const char *host_pin;
	struct slice known_hosts;
	const char *known_hosts_name; /* for messages; NULL: "known_hosts" */
	bool (*unknown_host)(void *arg, const struct ssh_unknown_host *); /* NULL: no */

	/* Name-lists, best first; NULL: all that we have. -EINVAL for other names. */
	const char *kex, *host_key_algs, *ciphers, *macs;
	uint64_t rekey_bytes; /* new keys after so many either way; 0: 1 GiB (RFC 4253 section 9) */
	uint64_t handshake_ms; /* until ready; 0: 30 s */
	uint64_t keepalive_ms; /* ask a silent server; three without answer are the end. 0: never */

	/* Each may be NULL. ready and failed are called from the reactor, each at most once; both
	 * may free the client. banner must not; its text is safe to print and may have lines. */
	void (*ready)(void *arg);
	void (*failed)(void *arg, int code, const char *why);
	void (*banner)(void *arg, const char *text);
	void *arg;
};

/* Takes s, whose first bytes from the server were not read yet. Never NULL: what is wrong with the
 * options comes out of failed, too. Codes: -ERR_SSH_HOST_KEY, -ERR_SSH_AUTH, -EPROTO (the server
 * broke the rules, or nothing in common), -ERR_TRUNCATED, -ETIMEDOUT, -ECONNRESET (it disconnected
 * with a reason), those of s; why is a sentence for a person. */
struct ssh_client *ssh_client_new(struct reactor *, struct stream *s, const struct ssh_options *);
/* Says goodbye, closes; channels fail with -ERR_CANCELLED, their callbacks are not called. Channels
 * and streams that are still there stay their owners'. NULL is ignored. */
void ssh_client_free(struct ssh_client *);
bool ssh_client_is_ready(const struct ssh_client *);
/* For people, once ready: "SSH-2.0-OpenSSH_9.2p1 ..., curve25519-sha256, ssh-ed25519 SHA256:...,
 * aes128-gcm@openssh.com"; empty before. */
const char *ssh_client_summary(const struct ssh_client *);
/* Fingerprint of the server's key, "" before there is one. */
const char *ssh_client_host_key(const struct ssh_client *);
/* Key exchanges done so far. */
unsigned ssh_client_exchanges(const struct ssh_client *);

/* How a command ended. */
struct ssh_exit {
	int code;           /* 0: it ran and ended; else it did not, or nobody knows: see why */
	unsigned status;    /* exit status */
	const char *signal; /* not NULL: killed by it ("TERM", "KILL"), without "SIG" */
	bool core;
	const char *why; /* code: a sentence; signal: the server's message, perhaps "" */
};

struct ssh_exec {
	const char *command;    /* for the user's login shell; NULL: the shell itself */
	const char *const *env; /* "NAME=VALUE", ends with NULL; may be NULL. Servers take few names
				 * (AcceptEnv) and do not say which */
	/* Called once, from the reactor, when the channel is closed; output may still be in the
	 * streams then. May free the channel and the client. */
	void (*exited)(void *arg, const struct ssh_exit *);
	void *arg;
};

/* Never NULL; failures come out of exited and the streams. Options are copied. */
struct ssh_channel *ssh_exec(struct ssh_client *, const struct ssh_exec *);
/* Each handed out once and then the caller's. stdio: writes go to stdin (shut: end of file there),
 * reads come from stdout. close(0) discards further output, close(<0) hangs the command up.
 * stderr that is never asked for is discarded; who asks for it has to read it. */
struct stream *ssh_channel_stdio(struct ssh_channel *);
struct stream *ssh_channel_stderr(struct ssh_channel *);
/* Closes the channel once the streams that were handed out are closed; exited is not called any
 * more. NULL is ignored. */
void ssh_channel_free(struct ssh_channel *);

/* Reads a known_hosts file: its text, to be free()d; a missing file is an empty one. NULL with a
 * sentence. Blocks on the disk: for program starts. */
char *ssh_known_hosts_load(const char *path, size_t *n, char *err, size_t errlen);

#endif
