/*
 * An SSH client from the inside. Private to proto/ssh: client.c (I/O, time, life), transport.c
 * (messages 1 to 49), auth.c (5 to 6, 50 to 79), channel.c (80 to 100), channel_stream.c.
 */
#ifndef PROTO_SSH_SSH_INT_H
#define PROTO_SSH_SSH_INT_H

#include "proto/ssh/kex.h"
#include "proto/ssh/packet.h"
#include "proto/ssh/ssh.h"

enum {
	DATA_MAX = 32 * 1024,    /* payload of a DATA message, both ways (section 6.1) */
	OUT_SOFT = 256 * 1024,   /* sealed bytes from which on writers wait, */
	OUT_PAUSE = 1024 * 1024, /* and from which on nothing is read that asks for answers */
	OUT_MAX = 8 * 1024 * 1024,
	HELD_MAX = 256 * 1024, /* messages that wait for the end of a key exchange */
	IN_MAX = 2 * PACKET_MAX,
	READ_SIZE = 256 * 1024,
	VERSION_MAX = 255, /* RFC 4253 section 4.2 */
	WHY_MAX = 1024
};

enum client_state {
	CLIENT_VERSION = 0,
	CLIENT_KEX, /* the first exchange */
	CLIENT_SERVICE,
	CLIENT_AUTH,
	CLIENT_OPEN,
	CLIENT_DEAD
};

enum kex_state {
	KEX_IDLE = 0,
	KEX_ASKED,  /* our KEXINIT is out */
	KEX_REPLY,  /* theirs is here, ours and ECDH_INIT are out */
	KEX_NEWKEYS /* our NEWKEYS is out */
};

struct exchange {
	enum kex_state state;
	bool strict; /* agreed in the first exchange */
	bool skip;
	unsigned done;         /* exchanges */
	uint64_t began, ended; /* ms */
	struct kex_agreed agreed;
	char *i_c, *i_s; /* KEXINIT payloads */
	size_t i_c_n, i_s_n;
	uint8_t public_key[32], private_key[32];
	uint8_t secret[32], hash[KEX_HASH];
	uint8_t session_id[KEX_HASH];
	char *host_key; /* blob */
	size_t host_key_n;
	char fingerprint[SSH_FINGERPRINT_MAX];
};

struct auth {
	enum { AUTH_NONE = 0, AUTH_KEY, AUTH_PASSWORD } trying;
	unsigned key_tries;
	bool sha256_left; /* an RSA key may try once more */
	bool password_tried;
	unsigned banners;
	char methods[200];  /* what the server would take, for people */
	char sig_algs[512]; /* server-sig-algs (RFC 8308) */
	bool sig_algs_known;
	unsigned ext_infos;
};

struct ssh_client {
	struct reactor *rx;
	struct stream *lower; /* NULL once dead */
	struct task task, flush_task;
	struct task tell_task; /* ready and failed */
	struct timer timer;
	enum client_state state;
	struct buf in, out, held;
	struct packets recv, send;
	char v_s[VERSION_MAX + 1];
	char said[200]; /* the last line before the version */
	unsigned lines;
	struct exchange kex;
	struct auth auth;
	struct list channels;
	unsigned nchannels;
	uint32_t next_id;
	unsigned pings, silent; /* keepalives without an answer; since bytes came last */
	uint64_t heard;         /* ms: when bytes came last */
	bool paused;            /* does not read until out has drained */
	bool telling_ready, told_failed;
	bool overflow; /* out or held is full: run() ends it */
	int code;
	char *why, *summary;

	/* Options. */
	char *user, *password, *host, *pin, *known_hosts_name, *known_hosts;
	size_t known_hosts_n;
	uint16_t port;
	const struct ssh_key *key;
	struct kex_offer offer;
	char *offer_text[4];
	uint64_t rekey_bytes, keepalive_ms;
	bool (*unknown_host)(void *arg, const struct ssh_unknown_host *);
	void (*ready)(void *arg);
	void (*failed)(void *arg, int code, const char *why);
	void (*banner)(void *arg, const char *text);
	void *arg;
};

enum channel_state {
	CHANNEL_QUEUED = 0, /* the client is not ready */
	CHANNEL_OPENING,
	CHANNEL_STARTING, /* open; no answer about the command yet */
	CHANNEL_RUNNING,
	CHANNEL_ENDED /* no longer its client's */
};

struct ssh_channel {
	struct stream stdio, stderr_;
	struct ssh_client *c; /* NULL: CHANNEL_ENDED */
	struct reactor *rx;
	struct list link;
	enum channel_state state;
	uint32_t id, peer_id;
	uint32_t send_window, send_max;
	uint32_t recv_window; /* what the server may still send */
	uint32_t consumed;    /* taken by readers, not granted again yet */
	struct buf out, err;  /* received */
	struct task *stdio_owner, *stderr_owner;
	bool stdio_given, stdio_open, stderr_given, stderr_open, freed;
	bool blocked; /* a writer was told -EAGAIN */
	bool eof_got; /* from the server */
	bool eof_want, eof_sent, close_want, close_sent;
	bool no_stdin; /* eow@openssh.com */
	bool has_status;
	int code;
	char *why, *said; /* for code; about a signal */
	struct ssh_exit exit;
	char signal[32];
	char *command, *env; /* env: "NAME=VALUE\0...\0\0" */
	struct task exit_task;
	void (*exited)(void *arg, const struct ssh_exit *);
	void *arg;
};

/* --- client.c --- */

/* The connection is over: channels fail, the owner is told. Returns code. */
int client_fail(struct ssh_client *, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* The server broke the rules: it gets DISCONNECT with that text, then client_fail. -EPROTO. */
int client_fault(struct ssh_client *, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Seals a message, or keeps it until the key exchange that is going on is over. Never ends the
 * client from here. */
void client_send(struct ssh_client *, struct slice payload);
/* May DATA leave now? */
bool client_writable(const struct ssh_client *);
void client_flush_later(struct ssh_client *);
/* Seals what was held during an exchange. */
void client_release(struct ssh_client *);
/* Authentication is done. */
void client_opened(struct ssh_client *);
/* One message: 0, or the client is dead. Public for fuzzing. */
int client_message(struct ssh_client *, struct slice payload);

/* --- transport.c: each returns 0, or a code and the client is dead --- */

/* A line of the version exchange (RFC 4253 section 4.2) in front of in: how many bytes it has, 0
 * while it is not whole, -EPROTO with *why. *version is empty for the lines before it. */
ssize_t version_get(struct slice in, struct slice *line, struct slice *version, const char **why);
extern const char ssh_version[];
int transport_version(struct ssh_client *);
int transport_message(struct ssh_client *, struct slice payload);
/* Begins an exchange, unless one is going on. */
void transport_rekey(struct ssh_client *);
/* Sends DISCONNECT (section 11.1). */
void transport_goodbye(struct ssh_client *, uint32_t reason, const char *text);
void transport_end(struct ssh_client *);

/* --- auth.c --- */

void auth_start(struct ssh_client *);
int auth_message(struct ssh_client *, struct slice payload);
int auth_ext_info(struct ssh_client *, struct slice payload);

/* --- channel.c --- */

int channel_message(struct ssh_client *, struct slice payload);
void channel_begin(struct ssh_channel *);
/* Detaches it from the client, with a failure if code is not 0. */
void channel_end(struct ssh_channel *, int code, const char *why);
void channel_wake(struct ssh_channel *);
/* The readers took n bytes: grants the window again when that is worth a message. */
void channel_consumed(struct ssh_channel *, size_t n);
/* Sends EOF and CLOSE, as far as they are wanted and not sent. */
void channel_closing(struct ssh_channel *);
/* Frees it, or closes it, when nobody has it any more. */
void channel_release(struct ssh_channel *);

/* --- channel_stream.c --- */

void channel_streams_init(struct ssh_channel *);

#endif
