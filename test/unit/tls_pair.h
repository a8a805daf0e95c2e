/*
 * Two TLS streams over a socket pair (or loopback TCP), with certificates made on the spot: what
 * the tests of TLS share.
 */
#ifndef UNIT_TLS_PAIR_H
#define UNIT_TLS_PAIR_H

#include <stdarg.h>

#include "reactor/stream.h"
#include "reactor/tls.h"
#include "reactor/tls_make.h"
#include "test/unit/pair.h"

#define HOST "containers.tinyscale.net"

extern struct reactor *rx;
extern char tls_dir[]; /* where the certificates are */
extern bool woken;     /* a stream bound to waker may be tried again */
extern struct task waker;
extern uint64_t tls_seed;

/* For cmocka_run_group_tests: makes and removes the reactor and tls_dir. The latter fails if a
 * stream was left open. */
int tls_setup(void **state);
int tls_teardown(void **state);
/* Lets what goes on behind the scenes end: closing, lingering. */
void tls_settle(void);
/* A random number from tls_seed. */
size_t tls_chance(void);

/* Runs a shell command: its exit status. */
int tls_shell(const char *command);
/* A file of tls_dir: its path (good for eight calls), its text in and out (free() it). */
const char *tls_path(const char *name);
void tls_save(const char *name, const char *text);
char *tls_load(const char *name);
/* Makes NAME.crt and NAME.key, signed by a CA made before (NULL: a CA), valid now unless told. */
void tls_make_files(const char *ca, const char *name, struct tls_make);

/* A lower stream that tears everything into pieces of 1 to most bytes (0: does not), refuses a
 * third of the calls then, and counts them in calls (or NULL). */
struct stream *choppy_new(struct stream *lower, size_t most, size_t *calls);

struct tls_config *tls_any_config(bool server, struct tls_options);
/* A client's options: its CA and its certificate by name, each may be NULL. */
struct tls_config *tls_client_config(const char *ca, const char *cert);
/* A server's: the CA for its clients (NULL: asks for no certificate) and its own certificate. */
struct tls_config *tls_server_config(const char *ca, const char *cert);

struct tls_two {
	struct stream *client, *server;
};

/* Both ends, bound to waker, on choppy streams over fd. Takes the configurations. */
struct tls_two tls_pair_over(struct tls_config *client, struct tls_config *server, const char *host,
			     int fd[2], size_t most, size_t *calls);
/* Over a socket pair, with the certificates "client" and "server" of "ca". */
struct tls_two tls_pair(size_t most, size_t *calls);

/* Until waker has run. */
void tls_wait(void);
/* Reads, writes, shuts until the answer is not -EAGAIN. */
ssize_t tls_get(struct stream *, void *p, size_t n);
ssize_t tls_put(struct stream *, const void *p, size_t n);
int tls_put_end(struct stream *);
/* Fails the test unless code is -want and the stream's sentence has text in it. */
void tls_expect_why(struct stream *, ssize_t code, int want, const char *text);

#endif
