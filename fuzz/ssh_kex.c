/*
 * A client from its first byte on, against a server that has real keys and does what the input
 * says: the right thing, or anything else, at any time.
 *
 * The client is ready only after a genuine key exchange and a SUCCESS; a spoiled signature, another
 * host key, a pin that does not fit never get that far. failed comes once, with a sentence; what
 * the client sends opens and is in its place; buffers stay bounded.
 */
#include "fuzz/ssh_peer.h"

enum op {
	VERSION = 0,
	KEXINIT, /* the right one; bit 0: first_kex_packet_follows */
	REPLY,   /* how it is spoiled */
	NEWKEYS,
	ACCEPT,  /* SERVICE_ACCEPT */
	FAILURE, /* USERAUTH_FAILURE: which methods */
	SUCCESS,
	RAW_MESSAGE, /* type, count, bytes: sealed */
	RAW_BYTES,   /* count, bytes: as they are */
	SPEED,       /* read size, write capacity: exponents */
	TURN,
	STRICT, /* the server has strict key exchange or not */
	REKEY,  /* the client asks */
	END,
	KNOWN, /* several right steps at once */
	OPS
};

static struct reactor *rx;
static const uint8_t *in;
static size_t in_left;
static unsigned failed, ready;
static bool genuine, spoiled, success_sent, other_key, over;
static uint8_t kex_type; /* last message of the exchange that the client sent */

static unsigned byte(void)
{
	if (in_left == 0)
		return 0;
	in_left--;
	return *in++;
}

static void on_ready(void *arg)
{
	(void)arg;
	BUG_ON(ready++ || failed || !genuine || spoiled || !success_sent);
}

static void on_failed(void *arg, int code, const char *why)
{
	(void)arg;
	BUG_ON(failed++ || code >= 0 || !why || strncmp(why, "ssh: ", 5) != 0);
}

static void on_banner(void *arg, const char *text)
{
	(void)arg;
	for (; *text; text++)
		BUG_ON((unsigned char)*text < 32 && *text != '\n' && *text != '\t');
}

static bool accept_any(void *arg, const struct ssh_unknown_host *h)
{
	(void)arg;
	BUG_ON(!h->host[0] || !h->fingerprint[0] || spoiled);
	return true;
}

static void turn_over(struct task *t)
{
	(void)t;
	over = true;
}

static void turn(void)
{
	struct task t;
	task_init(&t, turn_over);
	task_defer(rx, &t);
	over = false;
	reactor_run_until(rx, &over);
}

/* Takes what the client sent. */
static void take(void)
{
	static char p[PACKET_MAX];
	size_t n;
	if (!peer.v_c[0] && !peer_take_version())
		return;
	while ((n = peer_take(p, sizeof(p))) > 0) {
		uint8_t type = (uint8_t)p[0];
		if (type >= 20 && type < 50) {
			BUG_ON(type == MSG_KEX_ECDH_INIT && kex_type != MSG_KEXINIT);
			BUG_ON(type == MSG_NEWKEYS && kex_type != MSG_KEX_ECDH_INIT);
			kex_type = type;
		} else {
			/* Between KEXINIT and NEWKEYS nothing else; the password never in the
			 * clear. */
			BUG_ON(kex_type != MSG_NEWKEYS && type != MSG_DISCONNECT &&
			       type != MSG_UNIMPLEMENTED);
			BUG_ON(type >= 50 && !genuine);
		}
		if (type == MSG_NEWKEYS) {
			BUG_ON(spoiled || other_key);
			genuine = true;
			peer_got_newkeys();
		}
	}
}

static void say_list(uint8_t type, const char *list)
{
	char p[200];
	size_t n = peer_text(p, sizeof(p) - 1, type, list);
	p[n] = 0;
	peer_send(slice_of(p, type == MSG_USERAUTH_FAILURE ? n + 1 : n));
}

static void step(enum op op, struct ssh_client *c)
{
	static const char *const methods[] = { "password", "publickey,password", "publickey", "",
					       "keyboard-interactive" };
	char raw[257];
	unsigned n, how;
	switch (op) {
	case VERSION:
		peer_raw(slice_str(peer_version));
		peer_raw(SLICE("\r\n"));
		break;
	case KEXINIT:
		peer_kexinit(byte() & 1);
		break;
	case REPLY:
		how = byte() & 15;
		/* A reply before there is anything to reply to is another's signature, too; and
		 * only the first one is heard. */
		if (!peer.replied) {
			spoiled |= !genuine && (how & 3 || kex_type != MSG_KEX_ECDH_INIT);
			other_key |= genuine && how & 4;
		}
		peer_reply(how & 7);
		break;
	case NEWKEYS:
		peer_newkeys();
		break;
	case ACCEPT:
		say_list(MSG_SERVICE_ACCEPT, "ssh-userauth");
		break;
	case FAILURE:
		say_list(MSG_USERAUTH_FAILURE, methods[byte() % ARRAY_LEN(methods)]);
		break;
	case SUCCESS:
		success_sent = true;
		peer_send(slice_of("\64", 1));
		break;
	case RAW_MESSAGE:
		raw[0] = (char)byte();
		n = byte();
		for (unsigned i = 0; i < n; i++)
			raw[1 + i] = (char)byte();
		success_sent |= raw[0] == MSG_USERAUTH_SUCCESS;
		peer_send(slice_of(raw, 1 + n));
		break;
	case RAW_BYTES:
		n = byte();
		for (unsigned i = 0; i < n; i++)
			raw[i] = (char)byte();
		success_sent |= memchr(raw, MSG_USERAUTH_SUCCESS, n) != NULL;
		peer_raw(slice_of(raw, n));
		break;
	case SPEED:
		peer.read_max = (size_t)1 << byte() % 18;
		peer.write_left = ((size_t)1 << byte() % 18) / 2;
		peer_wake();
		break;
	case STRICT:
		peer.strict_name = byte() & 1 ? ",kex-strict-s-v00@openssh.com" : "";
		break;
	case REKEY:
		if (!failed && c->state != CLIENT_DEAD && c->state > CLIENT_KEX)
			transport_rekey(c);
		break;
	case END:
		peer.eof = true;
		if (byte() & 1)
			peer.error = -ECONNRESET;
		peer_wake();
		break;
	case KNOWN:
		step(VERSION, c);
		peer_kexinit(false);
		turn();
		take();
		spoiled |= kex_type != MSG_KEX_ECDH_INIT && !genuine && !peer.replied;
		peer_reply(0);
		turn();
		take();
		peer_newkeys();
		turn();
		take();
		break;
	default:
		turn();
		take();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const ciphers[] = { NULL, "aes128-ctr",
					       "chacha20-poly1305@openssh.com" };
	if (!rx)
		rx = reactor_new();
	if (size > 4096)
		return 0;
	in = data;
	in_left = size;
	failed = ready = kex_type = 0;
	genuine = spoiled = success_sent = other_key = false;
	peer_init(rx);
	unsigned how = byte();
	struct ssh_client *c =
	    ssh_client_new(rx, &peer.s,
			   &(struct ssh_options){ .user = "u",
						  .password = "p",
						  .host = "h",
						  .port = 7,
						  .host_pin = how & 4 ? "SHA256:no" : NULL,
						  .ciphers = ciphers[how % 3],
						  .unknown_host = accept_any,
						  .ready = on_ready,
						  .failed = on_failed,
						  .banner = on_banner });
	spoiled = how & 4;
	for (int steps = 0; in_left > 0 && steps < 200; steps++) {
		step(byte() % OPS, c);
		BUG_ON(c->out.len > OUT_PAUSE + 2 * PACKET_MAX_EARLY || c->in.len > IN_MAX ||
		       c->held.len > HELD_MAX);
	}
	peer.read_max = peer.write_left = SIZE_MAX;
	peer_wake();
	for (int i = 0; i < 4; i++) {
		turn();
		take();
	}
	BUG_ON(ready && !genuine);
	BUG_ON(other_key && peer.to_client.len == 0 && !failed);
	ssh_client_free(c);
	BUG_ON(!peer.closed);
	peer_end();
	return 0;
}
