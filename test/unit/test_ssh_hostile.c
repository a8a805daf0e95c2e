/* The client against a server that breaks the rules, one by one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fuzz/ssh_peer.h"
#include "test/unit/turn.h"

static struct reactor *rx;
static struct ssh_client *c;
static int failed;
static unsigned ready;
static char why[WHY_MAX + 100];

static void on_ready(void *arg)
{
	(void)arg;
	ready++;
}

static void on_failed(void *arg, int code, const char *text)
{
	(void)arg;
	assert_int_equal(failed, 0);
	failed = code;
	snprintf(why, sizeof(why), "%s", text);
}

static bool accept_any(void *arg, const struct ssh_unknown_host *h)
{
	(void)arg, (void)h;
	return true;
}

static char msg[PACKET_MAX];

/* Takes messages up to one of type; its length. */
static size_t take(uint8_t type)
{
	for (int i = 0; i < 50; i++) {
		size_t n = peer_take(msg, sizeof(msg));
		if (n == 0)
			turn_once(rx);
		else if ((uint8_t)msg[0] == type)
			return n;
	}
	fail_msg("no message %u: %s", type, why);
	return 0;
}

static void start(const char *cipher)
{
	failed = 0;
	ready = 0;
	why[0] = '\0';
	peer_init(rx);
	c = ssh_client_new(rx, &peer.s,
			   &(struct ssh_options){ .user = "me",
						  .password = "pw",
						  .host = "peer",
						  .ciphers = cipher,
						  .unknown_host = accept_any,
						  .ready = on_ready,
						  .failed = on_failed });
}

static void say_version(void)
{
	peer_raw(slice_str(peer_version));
	peer_raw(SLICE("\r\n"));
	UNTIL(peer_take_version());
}

static void to_reply(void)
{
	say_version();
	peer_kexinit(false);
	take(MSG_KEX_ECDH_INIT);
}

static void to_newkeys(void)
{
	to_reply();
	peer_reply(0);
	take(MSG_NEWKEYS);
	peer_got_newkeys();
}

static void to_auth(void)
{
	char p[100];
	to_newkeys();
	peer_newkeys();
	take(MSG_SERVICE_REQUEST);
	peer_send(slice_of(p, peer_text(p, sizeof(p), MSG_SERVICE_ACCEPT, "ssh-userauth")));
	take(MSG_USERAUTH_REQUEST);
}

static void to_open(void)
{
	to_auth();
	peer_send(slice_of("\64", 1)); /* SUCCESS */
	UNTIL(ready || failed);
	assert_true(ready);
}

static void expect(int code, const char *text)
{
	UNTIL(failed);
	if (!strstr(why, text))
		fail_msg("\"%s\", not \"%s\"", why, text);
	assert_int_equal(failed, code);
	ssh_client_free(c);
	assert_true(peer.closed);
	peer_end();
}

static void good(void **state)
{
	(void)state;
	static const char *const cipher[] = { "aes128-gcm@openssh.com", "aes256-ctr",
					      "chacha20-poly1305@openssh.com" };
	for (size_t i = 0; i < ARRAY_LEN(cipher); i++) {
		for (size_t piece = 1; piece < 300; piece = piece * 3 + 1) {
			start(cipher[i]);
			peer.read_max = piece;
			to_open();
			/* IGNORE, DEBUG, an unknown message, a global request. */
			peer_send(SLICE("\2\0\0\0\1x"));
			peer_send(SLICE("\4\1\0\0\0\1x\0\0\0\0"));
			peer_send(SLICE("\300hello"));
			assert_int_equal(take(MSG_UNIMPLEMENTED), 5);
			assert_int_equal(ssh_get_u32(msg + 1), peer.send.seq - 1);
			peer_send(SLICE("\120\0\0\0\3abc\1"));
			take(MSG_REQUEST_FAILURE);
			peer_send(SLICE("\132\0\0\0\3x11\0\0\0\7\0\0\0\0\0\0\1\0"));
			take(MSG_CHANNEL_OPEN_FAILURE);
			assert_int_equal(ssh_get_u32(msg + 1), 7);
			/* New keys, asked for by the server, with data held meanwhile. */
			peer_kexinit(false);
			take(MSG_KEX_ECDH_INIT);
			struct ssh_channel *ch = ssh_exec(c, &(struct ssh_exec){ .command = "x" });
			for (int t = 0; t < 5; t++)
				turn_once(rx);
			assert_int_equal(peer_take(msg, sizeof(msg)), 0);
			assert_true(c->held.len > 0);
			peer_reply(0);
			take(MSG_NEWKEYS);
			peer_got_newkeys();
			peer_newkeys();
			take(MSG_CHANNEL_OPEN);
			assert_int_equal(c->held.len, 0);
			ssh_channel_free(ch);
			ssh_client_free(c);
			assert_int_equal(failed, 0);
			peer_end();
		}
	}
}

static void versions(void **state)
{
	(void)state;
	static const struct {
		struct slice said;
		const char *text;
	} bad[] = {
		{ SLICE("SSH-1.5-old\r\n"), "before 2.0" },
		{ SLICE("SSH-2\n"), "before 2.0" },
		{ SLICE("HTTP/1.1 400 \0\r\n"), "zero bytes" },
	};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		start(NULL);
		peer_raw(bad[i].said);
		expect(-EPROTO, bad[i].text);
	}
	char line[9000];
	memset(line, 'x', sizeof(line));
	start(NULL);
	peer_raw(slice_of(line, sizeof(line)));
	expect(-EPROTO, "too long");
	start(NULL);
	memcpy(line, "SSH-2.0-", 8);
	peer_raw(slice_of(line, 300));
	expect(-EPROTO, "too long");
	start(NULL);
	for (int i = 0; i < 1100; i++)
		peer_raw(SLICE("y\n"));
	expect(-EPROTO, "none of them SSH's: \"y\"");
	start(NULL);
	peer_raw(SLICE("Not allowed at this time\r\n"));
	peer.eof = true;
	expect(-ERR_TRUNCATED,
	       "before it said that it is an SSH server: \"Not allowed at this time\"");
	/* Lines before it are fine. */
	start(NULL);
	peer_raw(SLICE("welcome\n\r\nSSH is below\r\n"));
	to_open();
	ssh_client_free(c);
	peer_end();
}

static void exchange(void **state)
{
	(void)state;
	start(NULL);
	to_reply();
	peer_reply(1);
	expect(-EPROTO, "a wrong signature");
	start(NULL);
	to_reply();
	peer_reply(2);
	expect(-EPROTO, "small order");
	start(NULL);
	to_reply();
	peer_kexinit(false);
	expect(-EPROTO, "second KEXINIT");
	/* Strict key exchange: nothing but the exchange. */
	start(NULL);
	say_version();
	peer_send(SLICE("\2\0\0\0\0"));
	peer_kexinit(false);
	expect(-EPROTO, "messages before KEXINIT");
	start(NULL);
	to_reply();
	peer_send(SLICE("\2\0\0\0\0"));
	expect(-EPROTO, "message 2 in the middle of a key exchange");
	/* Without it both are allowed; */
	start("aes128-gcm@openssh.com");
	peer.strict_name = "";
	say_version();
	peer_send(SLICE("\2\0\0\0\0"));
	peer_kexinit(false);
	take(MSG_KEX_ECDH_INIT);
	peer_send(SLICE("\2\0\0\0\0"));
	peer_reply(0);
	take(MSG_NEWKEYS);
	peer_got_newkeys();
	peer_newkeys();
	take(MSG_SERVICE_REQUEST);
	ssh_client_free(c);
	peer_end();
	/* but not what needs it. */
	start(NULL);
	peer.strict_name = "";
	peer.lists[2] = "chacha20-poly1305@openssh.com";
	say_version();
	peer_kexinit(false);
	expect(-EPROTO, "lacks strict key exchange");
	start(NULL);
	peer.strict_name = "";
	peer.lists[2] = "aes128-ctr";
	say_version();
	peer_kexinit(false);
	expect(-EPROTO, "lacks strict key exchange");
	start(NULL);
	peer.strict_name = "";
	peer.lists[2] = "aes128-ctr";
	peer.lists[3] = "hmac-sha2-256";
	to_newkeys();
	ssh_client_free(c);
	peer_end();
	/* A wrong guess of the server's is stepped over. */
	start(NULL);
	peer.lists[0] = "sntrup761x25519-sha512,curve25519-sha256";
	say_version();
	peer_kexinit(true);
	peer_send(SLICE("\36guess"));
	take(MSG_KEX_ECDH_INIT);
	peer_reply(0);
	take(MSG_NEWKEYS);
	ssh_client_free(c);
	peer_end();
	/* Out of place. */
	start(NULL);
	say_version();
	peer_send(SLICE("\25"));
	expect(-EPROTO, "NEWKEYS out of place");
	start(NULL);
	to_newkeys();
	peer_send(SLICE("\64")); /* SUCCESS, in the clear */
	expect(-EPROTO, "message 52 in the middle of a key exchange");
	start(NULL);
	say_version();
	peer_send(SLICE("\7\0\0\0\0"));
	expect(-EPROTO, "message 7 in the middle");
	/* Another host key, later. */
	start(NULL);
	to_open();
	peer_kexinit(false);
	take(MSG_KEX_ECDH_INIT);
	peer_reply(4);
	expect(-EPROTO, "another host key than at the beginning");
	/* Data between KEXINIT and NEWKEYS. */
	start(NULL);
	to_open();
	peer_kexinit(false);
	peer_send(SLICE("\120\0\0\0\3abc\1"));
	expect(-EPROTO, "message 80 in the middle of a key exchange");
	start(NULL);
	to_reply();
	peer.eof = true;
	peer_wake();
	expect(-ERR_TRUNCATED, "during the key exchange");
}

static void packets(void **state)
{
	(void)state;
	/* Too long, too short, of odd length, in the clear. */
	static const uint32_t length[] = { 0, 5, 13, 35008, 0xffffffff };
	for (size_t i = 0; i < ARRAY_LEN(length); i++) {
		char head[5] = { 0, 0, 0, 0, 4 };
		start(NULL);
		say_version();
		ssh_put_u32(head, length[i]);
		peer_raw(slice_of(head, 5));
		expect(-EPROTO, "a packet of impossible length");
	}
	start(NULL);
	say_version();
	peer_raw(SLICE("\0\0\0\14\14\2xxxxxxxxxx"));
	expect(-EPROTO, "impossible padding");
	/* One bit changed on the way, anywhere in a packet. */
	static const char *const cipher[] = { "aes128-gcm@openssh.com", "aes128-ctr",
					      "chacha20-poly1305@openssh.com" };
	for (size_t i = 0; i < ARRAY_LEN(cipher); i++) {
		for (size_t at = 0; at < 48; at += 3) {
			start(cipher[i]);
			to_open();
			size_t before = peer.to_client.len;
			assert_int_equal(before, 0);
			peer_send(SLICE("\120\0\0\0\3abc\1"));
			if (at < peer.to_client.len)
				peer.to_client.base[peer.to_client.head + at] ^= 4;
			else
				peer.to_client.base[peer.to_client.head] ^= 0x40;
			peer.eof = true; /* a length that grew waits for more */
			UNTIL(failed);
			assert_true(failed == -EPROTO || failed == -ERR_TRUNCATED);
			assert_int_equal(
			    peer_take(msg, sizeof(msg)) > 0 && msg[0] == MSG_REQUEST_FAILURE, 0);
			ssh_client_free(c);
			peer_end();
		}
	}
}

static void authentication(void **state)
{
	(void)state;
	char p[200];
	struct ssh_wire_out w = { p, 0, sizeof(p) };
	start(NULL);
	to_newkeys();
	peer_newkeys();
	take(MSG_SERVICE_REQUEST);
	peer_send(SLICE("\64")); /* SUCCESS before anything was asked */
	expect(-EPROTO, "message 52 out of place");
	start(NULL);
	to_auth();
	peer_send(SLICE("\133\0\0\0\0")); /* a channel */
	expect(-EPROTO, "message 91 before authentication");
	start(NULL);
	to_open();
	peer_send(SLICE("\64"));
	expect(-EPROTO, "message 52 out of place");
	start(NULL);
	to_open();
	peer_send(SLICE("\7\0\0\0\0"));
	expect(-EPROTO, "EXT_INFO out of place");
	/* A password that has expired. */
	start(NULL);
	to_auth();
	put_u8(&w, MSG_USERAUTH_FAILURE);
	put_str(&w, "password,\x01");
	put_u8(&w, 0);
	peer_send(ssh_wire_written(&w));
	expect(-EPROTO, "a broken USERAUTH_FAILURE");
	start(NULL);
	to_auth();
	w.n = 0;
	put_u8(&w, MSG_USERAUTH_FAILURE);
	put_str(&w, "password");
	put_u8(&w, 0);
	peer_send(ssh_wire_written(&w));
	size_t n = take(MSG_USERAUTH_REQUEST);
	assert_memory_equal(msg + n - 6, "\0\0\0\2pw", 6);
	peer_send(SLICE("\74\0\0\0\3new\0\0\0\0"));
	expect(-ERR_SSH_AUTH, "has expired and has to be changed");
	/* Banners without end. */
	start(NULL);
	to_auth();
	for (int i = 0; i < 100; i++)
		peer_send(SLICE("\65\0\0\0\1x\0\0\0\0"));
	expect(-EPROTO, "more than 64 banners");
	/* A reason. */
	start(NULL);
	to_auth();
	peer_send(SLICE("\1\0\0\0\13\0\0\0\11too\33 many\0\0\0\0"));
	expect(-ECONNRESET, "the server disconnected: too? many (reason 11)");
}

/* An open channel: its number at the peer is 5. */
static struct ssh_channel *channel(uint32_t window, uint32_t max)
{
	char p[100];
	struct ssh_wire_out w = { p, 0, sizeof(p) };
	struct ssh_channel *ch = ssh_exec(c, &(struct ssh_exec){ .command = "x" });
	take(MSG_CHANNEL_OPEN);
	put_u8(&w, MSG_CHANNEL_OPEN_CONFIRMATION);
	put_u32(&w, 0);
	put_u32(&w, 5);
	put_u32(&w, window);
	put_u32(&w, max);
	peer_send(ssh_wire_written(&w));
	return ch;
}

static void data(size_t n)
{
	static char big[100000];
	ssh_put_u32(big + 1, 0);
	big[0] = MSG_CHANNEL_DATA;
	ssh_put_u32(big + 5, (uint32_t)n);
	peer_send(slice_of(big, 9 + n));
}

static void channels(void **state)
{
	(void)state;
	static const struct {
		struct slice said;
		const char *text;
	} bad[] = {
		{ SLICE("\136\0\0\0\1\0\0\0\0"), "a channel that does not exist" },
		{ SLICE("\136\0\0"), "a channel that does not exist" },
		{ SLICE("\136\0\0\0\0\0\0\0\5abc"), "broken channel data" },
		{ SLICE("\136\0\0\0\0\0\0\0\1abc"), "broken channel data" },
		{ SLICE("\135\0\0\0\0\377\377\377\377"), "beyond 2^32" },
		{ SLICE("\135\0\0\0\0\377\377\377"), "beyond 2^32" },
		{ SLICE("\140\0\0\0\0x"), "broken channel message" },
		{ SLICE("\133\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"), "broken or out of place" },
		{ SLICE("\134\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"), "broken or out of place" },
		{ SLICE("\142\0\0\0\0\0\0\0\13exit-status\0\0\0"), "exit status that is broken" },
		{ SLICE("\142\0\0\0\0\0\0\0\377"), "broken channel request" },
		{ SLICE("\121"), "a request that was not asked" },
		{ SLICE("\123"), "message 83" },
	};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		start(NULL);
		to_open();
		struct ssh_channel *ch = channel(1000, 32768);
		take(MSG_CHANNEL_REQUEST);
		peer_send(bad[i].said);
		expect(-EPROTO, bad[i].text);
		assert_int_equal(ch->code, -EPROTO);
		ssh_channel_free(ch);
	}
	start(NULL);
	to_open();
	struct ssh_channel *ch = channel(1000, 10);
	expect(-EPROTO, "whose packets may have 10 bytes");
	ssh_channel_free(ch);
	/* Beyond the window. */
	start(NULL);
	to_open();
	ch = channel(1000, 32768);
	for (size_t n = 0; n < SSH_WINDOW; n += 65536)
		data(65536);
	data(1);
	expect(-EPROTO, "1 bytes of channel data beyond the window");
	assert_int_equal(ch->out.len, SSH_WINDOW);
	ssh_channel_free(ch);
	/* After the end. */
	start(NULL);
	to_open();
	ch = channel(1000, 32768);
	peer_send(SLICE("\140\0\0\0\0"));
	data(1);
	expect(-EPROTO, "after the end of file");
	ssh_channel_free(ch);
	/* Answers that nobody asked for. */
	start(NULL);
	to_open();
	ch = channel(1000, 32768);
	peer_send(SLICE("\143\0\0\0\0"));
	peer_send(SLICE("\143\0\0\0\0"));
	expect(-EPROTO, "that was not asked");
	ssh_channel_free(ch);
	/* A command that is refused; its channel goes, the connection stays. */
	start(NULL);
	to_open();
	ch = channel(1000, 32768);
	struct stream *s = ssh_channel_stdio(ch);
	peer_send(SLICE("\144\0\0\0\0"));
	take(MSG_CHANNEL_CLOSE);
	assert_int_equal(stream_write(s, "x", 1), -ERR_DENIED);
	assert_non_null(strstr(stream_why(s, -ERR_DENIED), "refused to run"));
	peer_send(SLICE("\141\0\0\0\0"));
	UNTIL(c->nchannels == 0);
	stream_close(s, 0);
	ssh_channel_free(ch);
	/* Our windows: not one byte more than was granted. */
	ch = ssh_exec(c, &(struct ssh_exec){ .command = "y" });
	s = ssh_channel_stdio(ch);
	take(MSG_CHANNEL_OPEN);
	peer_send(SLICE("\133\0\0\0\1\0\0\0\6\0\0\3\350\0\0\1\54")); /* 1000, 300 */
	take(MSG_CHANNEL_REQUEST);
	static char much[5000];
	assert_int_equal(stream_write(s, much, sizeof(much)), 1000);
	assert_int_equal(stream_write(s, much, sizeof(much)), -EAGAIN);
	for (size_t total = 0; total < 1000; total += 300)
		assert_int_equal(take(MSG_CHANNEL_DATA), 9 + MIN(300, 1000 - (int)total));
	peer_send(SLICE("\135\0\0\0\1\0\0\0\1"));
	UNTIL(ch->send_window == 1);
	struct iovec room;
	assert_int_equal(s->ops->room(s, &room), 0);
	assert_int_equal(room.iov_len, 1);
	memcpy(room.iov_base, "z", 1);
	s->ops->added(s, 1);
	assert_int_equal(take(MSG_CHANNEL_DATA), 10);
	assert_int_equal(msg[9], 'z');
	stream_close(s, 0);
	take(MSG_CHANNEL_EOF);
	ssh_channel_free(ch);
	take(MSG_CHANNEL_CLOSE);
	ssh_client_free(c);
	peer_end();
	/* A flood of what has to be answered, from a server that reads nothing. */
	start(NULL);
	to_open();
	peer.write_left = 0;
	for (int i = 0; i < 100000; i++)
		peer_send(SLICE("\120\0\0\0\1x\1"));
	for (int i = 0; i < 200; i++)
		turn_once(rx);
	assert_int_equal(failed, 0);
	assert_true(c->paused);
	assert_in_range(c->out.len, 1, OUT_PAUSE + 100);
	assert_in_range(c->in.len, 1, IN_MAX);
	peer.write_left = SIZE_MAX;
	peer_wake();
	UNTIL(peer.to_client.len == 0 && !c->paused);
	ssh_client_free(c);
	peer_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good),           cmocka_unit_test(versions),
		cmocka_unit_test(exchange),       cmocka_unit_test(packets),
		cmocka_unit_test(authentication), cmocka_unit_test(channels),
	};
	rx = reactor_new();
	int r = cmocka_run_group_tests(tests, NULL, NULL);
	reactor_free(rx);
	return r;
}
