/*
 * The guest's side of remote commands: exec streams of a tunnel (docs/protocol.md, "exec"), and the
 * plain form, raw bytes after an HTTP upgrade.
 *
 * A session lasts until the process has exited and its output has ended. Background children that
 * keep stdout or stderr open hold it up only while they write: after 250 ms of silence it ends
 * without them. When the client is gone the process group gets SIGHUP, and SIGKILL 5 s later.
 */
#ifndef TSTUNNEL_EXEC_SERVER_H
#define TSTUNNEL_EXEC_SERVER_H

#include "reactor/stream.h"

/* Shared by all sessions of a guest, which it must outlive. */
struct exec_policy {
	bool allowed;
	unsigned max_children;   /* at once */
	unsigned children;       /* running now; kept by the sessions */
	void (*left)(void *arg); /* one less is running: take note, free nothing. May be NULL */
	void *arg;
};

/* Serves a stream of kind "exec" that the peer opened; open_json (its OPEN) is needed during the
 * call only. Owns s from now on: accepts it once the process runs, or refuses it. who names the
 * client in the log (copied). */
void exec_serve(struct reactor *, struct stream *s, struct slice open_json, struct exec_policy *,
		const char *who);

/* --- the plain form: {"command","args","envs"}, stderr merged into stdout --- */

struct exec;

/* Starts the command. ready is called once, from the reactor: code 0 when it runs, and the caller
 * answers 101 and hands over with exec_plain_relay; or why it does not, with a sentence: -EINVAL
 * (bad body), -ERR_DENIED (policy, or not executable), -ERR_NOT_FOUND (no such command),
 * -ERR_TOO_MANY, -EIO. The caller must then call exec_plain_free, which ready may do. json is
 * needed during the call only. */
struct exec *exec_plain_start(struct reactor *, struct slice json, struct exec_policy *,
			      const char *who, void (*ready)(void *arg, int code, const char *why),
			      void *arg);
/* After ready(0), the 101 written: raw's bytes are the command's stdin, leftover (copied, at most
 * 64 KiB) the first of them, its output goes to raw. End of stream closes stdin; a broken
 * connection kills. Owns both, and closes raw when the session is over. */
void exec_plain_relay(struct exec *, struct stream *raw, struct slice leftover);
/* Instead of exec_plain_relay, at any time: kills what runs. NULL is ignored. */
void exec_plain_free(struct exec *);

#endif
