/*
 * The contract of a stream: a non-blocking, ordered, two-way byte pipe with half close and
 * back-pressure (TCP, unix socket, TLS over one of these, a mux stream, a child's stdio).
 *
 * Calling down attempts and returns; nothing calls up: a task is woken and runs later.
 * Every verb returns progress, or -EAGAIN (the bound task will be woken when trying again may
 * help), or a fatal negative code (err.h; stream_why() has the sentence).
 * Streams are born usable: while dialling, handshaking or opening the verbs say -EAGAIN, and a
 * failure comes out of the first verb. An empty write (n = 0) asks "open yet?": 0 means yes. It may
 * be asked any time, also after shut, and tells of a failure that no other verb has met yet.
 * One owner at a time. An upper stream owns its lower one; close() closes down the stack.
 * Wake-ups may be spurious.
 */
#ifndef REACTOR_STREAM_H
#define REACTOR_STREAM_H

#include <sys/types.h>
#include <sys/uio.h>

#include "reactor/reactor.h"

struct pipe_pair; /* pipe.h */

struct stream {
	const struct stream_ops *ops;
	struct reactor *rx;
};

struct stream_ops {
	const char *name;

	/* Bytes read; 0 = the peer's end of stream. Progress may be short: only -EAGAIN says that
	 * there is no more for now. */
	ssize_t (*read)(struct stream *, const struct iovec *, int n);
	/* Bytes taken, perhaps fewer than offered. */
	ssize_t (*write)(struct stream *, const struct iovec *, int n);

	/* Like write, where more follows at once: these bytes may wait for it. NULL: write does. */
	ssize_t (*write_more)(struct stream *, const struct iovec *, int n);

	/* Pipe verbs, or NULL: read and write by splice(2). -EOPNOTSUPP: copy instead, for good;
	 * -EINVAL: copy this time.
	 * to_pipe: up to max bytes into an empty pipe.
	 * from_pipe: n bytes, which are all that *p holds. Who takes all of them may keep the pipe,
	 * too: *p is NULL then. With n = 0 (p may be NULL) it asks how many would be taken now:
	 * more than 0, or a code. */
	ssize_t (*to_pipe)(struct stream *, int pipe_w, size_t max);
	ssize_t (*from_pipe)(struct stream *, struct pipe_pair **p, size_t n);

	/* Borrow verbs, or NULL: a stream that holds received bytes lends them. Returns how many
	 * iovecs were filled, 0 = end of stream, or a negative code; the bytes live until the next
	 * call on this stream or the end of the task that called. drop() gives back the first n of
	 * them as consumed. */
	int (*peek)(struct stream *, struct iovec *, int max);
	void (*drop)(struct stream *, size_t n);
	/* Lend verbs, or NULL: where the next bytes to send may be put (iov_len > 0), so that a
	 * read can go straight there: 0 or a negative code. added() commits n bytes (0: none after
	 * all); it must follow room() before any other call. */
	int (*room)(struct stream *, struct iovec *);
	void (*added)(struct stream *, size_t n);

	/* No more writes; the peer reads end of stream after what was written. Idempotent.
	 * 0, -EAGAIN (call again when woken) or a fatal code. */
	int (*shut)(struct stream *);
	/* Ends and frees the stream. why = 0: orderly, what was written still arrives (a stream
	 * with bytes of its own to flush does so behind the scenes, bounded in time). why < 0:
	 * abort, so that the peer sees a reset (TCP RST, RESET frame), not an end of stream. */
	void (*close)(struct stream *, int why);
	/* Makes task the one to wake; woken at once if something may be ready. NULL: nobody. */
	void (*bind)(struct stream *, struct task *);
	/* What went wrong, in one line with host/port/file, after a fatal code; NULL if there is
	 * nothing better than err_text(). Lives as long as the stream. */
	const char *(*why)(struct stream *);
};

static inline ssize_t stream_read(struct stream *s, void *p, size_t n)
{
	return s->ops->read(s, &(struct iovec){ p, n }, 1);
}

static inline ssize_t stream_write(struct stream *s, const void *p, size_t n)
{
	return s->ops->write(s, &(struct iovec){ (void *)(uintptr_t)p, n }, 1);
}

static inline int stream_open_yet(struct stream *s)
{
	return (int)s->ops->write(s, NULL, 0);
}

static inline int stream_shut(struct stream *s)
{
	return s->ops->shut(s);
}

/* NULL is ignored. */
static inline void stream_close(struct stream *s, int why)
{
	if (s)
		s->ops->close(s, why);
}

static inline void stream_bind(struct stream *s, struct task *t)
{
	s->ops->bind(s, t);
}

/* One line on why the stream failed with code; never NULL. */
const char *stream_why(struct stream *s, int code);

/* Shuts s, reads and discards until the peer closes (at most 1 MiB and ms milliseconds), then
 * closes: a TCP peer that is still sending gets to read our last words instead of a reset. Takes
 * ownership of s. */
void stream_linger(struct stream *s, uint64_t ms);
/* At exit, before reactor_free: closes those that still linger. */
void stream_linger_end(void);

/* --- streams over descriptors (stream_fd.c) --- */

/* A stream over a connected non-blocking socket, or one end of a pipe, tty or file. Takes fd.
 * Sets TCP_NODELAY on TCP. Never NULL. */
struct stream *fd_stream_new(struct reactor *, int fd);
/* A stream that is not open yet: every verb says -EAGAIN (close works) until _attach or _fail. For
 * dial.c. */
struct stream *fd_stream_pending(struct reactor *);
void fd_stream_attach(struct stream *, int fd);
/* Every verb fails with code from now on; why (copied, may be NULL) is the sentence for it. */
void fd_stream_fail(struct stream *, int code, const char *why);
/* Called when a pending stream is closed before _attach/_fail, so that the dialler can clean up. */
void fd_stream_on_drop(struct stream *, void (*drop)(void *), void *arg);
/* The descriptor, -1 when none (TLS, mux: their lower one is not ours to show). */
int stream_fd(const struct stream *);

/* A stream that reads from in and writes to out (a child's stdout and stdin). Takes both, each may
 * be NULL (then end of stream / EPIPE). */
struct stream *pair_stream_new(struct reactor *, struct stream *in, struct stream *out);

/* Opens this process's own fd 0, 1 or 2 as a stream without changing the blocking mode that it
 * shares with other processes. -errno in *err and NULL on failure. */
struct stream *stdio_stream_new(struct reactor *, int fd, int *err);

#endif
