/*
 * The bench's load generator. One process and one thread are both ends of every connection: the
 * client, which connects to the relay under test, and the server that the relay connects to. So
 * each byte's sender and receiver are known here, and what arrives is compared with what was sent.
 */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include "reactor/base.h"
#include "reactor/opt.h"

enum { IO_BYTES = 128 * 1024, HEAD_BYTES = 8, TAIL_BYTES = 10000, PIDS_MAX = 64 };
enum { UP = 0, DOWN = 1 };       /* client to server, server to client */
enum { CLIENT = 0, SERVER = 1 }; /* a side sends on the way of its own number */
enum { READY_IN = 1, READY_OUT = 2 };

/* One direction of a stream. */
struct way {
	uint64_t sent, got;
	uint64_t limit; /* how much its sender may have sent by now */
	uint64_t mark;  /* got, when the measured time began */
	bool fin;       /* its sender has half-closed it */
	bool eof;       /* its receiver has seen that */
	bool bad;       /* a byte was wrong; said once */
	bool dead;      /* broke; nothing more is expected */
};

struct stream;
struct side {
	struct list link;      /* in load.run */
	struct list all;       /* in load.sides */
	struct stream *stream; /* NULL: a server's connection whose head has not come yet */
	int fd;
	unsigned ready;
	bool asked, open; /* CLIENT: CONNECT is sent, answered; open at once without --through */
	uint8_t which;    /* CLIENT, SERVER */
	uint8_t head_got; /* or sent */
	char head[HEAD_BYTES];
};

struct stream {
	unsigned index;
	bool known;     /* the server has got its head */
	uint64_t since; /* ns: when the question was asked, the connection opened */
	unsigned state; /* the mode's */
	struct side *side[2];
	struct way way[2];
};

struct samples {
	uint32_t *ns;
	size_t n, cap;
};

struct load {
	/* from the command line */
	const char *listen, *connect, *path;
	struct opt_list pids, through;
	int conns, size, gap_ms, at_once;
	bool banner;
	uint64_t time_ms, warm_ms, grace_ms, limit_ms, amount;

	int epfd, listener;
	struct list run;   /* sides that may go on */
	struct list sides; /* those that are open */
	void (*on_run)(struct side *);
	struct stream *stream;      /* conns of them */
	unsigned known;             /* streams whose head has arrived */
	uint64_t begin;             /* ns: start of the program */
	unsigned accepted, serving; /* server's connections: ever, now */
	unsigned errors;
	struct samples samples;
	bool timed_out;

	/* the measured time */
	uint64_t t0, t1;
	uint64_t own_cpu;
	uint64_t cpu[PIDS_MAX];
};
extern struct load load;

/* --- load_net.c: sockets, the loop, the pattern --- */

/* Opens epoll and the listener; exits when it cannot. */
void net_open(void);
/* Closes all that is still open. */
void net_end(void);
/* A connection to the relay has been begun for the stream's client side; with --through its side
 * runs when CONNECT has been answered, and another answer than 200 ends the program. False: refused
 * at once. */
bool net_connect(struct stream *);
/* One turn: waits at most ms, marks and runs. Exits the program's loop by timed_out. */
void net_turn(int ms);
/* Turns until all heads have come (each client sends its own), at most limit. False: not all. */
bool net_connect_all(void);
/* Sends the client's head, once. False: not connected yet, or it failed, which is counted. */
bool net_send_head(struct side *);
/* Takes the head from a server's side and finds its stream. False: not there yet, or closed. */
bool net_take_head(struct side *);
void net_close(struct side *);
/* Runs again in this turn's successor. */
void net_again(struct side *);
/* Sends up to n bytes of the way's pattern. Returns bytes, -EAGAIN, or another negative code. */
ssize_t net_send(struct side *, uint64_t n);
/* Receives and compares. Returns bytes, 0 for the end, -EAGAIN, or another negative code. */
ssize_t net_recv(struct side *);
/* Bytes of the pattern at a position of a stream's way: n <= IO_BYTES of them. */
const char *pattern_at(unsigned index, int way, uint64_t position);
uint64_t now_ns(void);
_Noreturn void die(const char *what);

/* --- load_cpu.c --- */

/* CPU time in ns of the process, its threads and its children, dead ones included. */
uint64_t cpu_tree(int pid);
/* Starts and ends the measured time: reads the clocks of --pid and our own. */
void window_begin(void);
void window_end(void);
/* "seconds":..,"load_cpu":..,"cpu":[..] */
void window_print(void);
void samples_add(struct samples *, uint64_t ns);
/* "p50_us":..,"p99_us":..,"p999_us":..; sorts. */
void samples_print(struct samples *);

/* --- the modes; each returns the exit code --- */
int bulk_main(bool up, bool down);
int ping_main(void);
int connect_main(void);
int idle_main(void);
int http_main(void);

#endif
