/*
 * tstunnel:// URLs: where a guest is, how to be known to it, and what is wanted of it.
 *
 *	tstunnel://HOST[:PORT]/tcp:HOST:PORT?...     a port of the guest's network; FROM-TO: several
 *	tstunnel://HOST[:PORT]/udp:HOST:PORT?...
 *	tstunnel://HOST[:PORT]/unix:/PATH?...        a socket on the guest
 *	tstunnel://HOST[:PORT]/REMOTE/PATH?...       a directory on the guest
 *
 * Parameters, each at most once: cert=FILE and key=FILE (together or not at all), ca=FILE,
 * insecure=true|false. The port defaults to 443 with a certificate, to 80 without. %XX may stand
 * anywhere in the path and in values; '+' is a plus. A directory whose name starts like a target
 * has its colon written as %3A. Pure.
 */
#ifndef TSTUNNEL_URL_H
#define TSTUNNEL_URL_H

#include "reactor/buf.h"
#include "reactor/dial.h"

enum { TSURL_MAX = 8192 };

struct tsurl {
	struct addr server; /* ADDR_TCP */
	bool has_target;
	struct addr target;    /* if has_target; port 0: any free one, for who listens there */
	uint16_t target_last;  /* last port of a range; target.port without one; 0 for a socket */
	char *path;            /* else: absolute, without "." and "..", no slash at its end */
	char *cert, *key, *ca; /* file names, NULL when not given */
	bool insecure;
};

/* 0, or -EINVAL with a sentence in err that names the wrong part ("tstunnel URL: unknown parameter
 * \"crt\""). On success to be released with tsurl_end; on failure it holds nothing. */
int tsurl_parse(struct tsurl *u, struct slice text, char *err, size_t errlen);
/* Frees the strings. */
void tsurl_end(struct tsurl *u);
/* Appends the URL, port always written: 0 or -ENOBUFS (part of it may be in b). tsurl_parse of it
 * gives u again. */
int tsurl_put(struct buf *b, const struct tsurl *u);
/* Cuts "-TO" off "HOST:FROM-TO": true, and *to is what stood behind the dash. */
bool tsurl_cut_range(struct slice *s, struct slice *to);

#endif
