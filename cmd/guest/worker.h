/*
 * The child that does disk work for the guest: "guest file-worker copy ROOT PATH MODE" writes stdin
 * to PATH (beside it, then rename), "guest file-worker directories ROOT" reads a JSON array of
 * paths from stdin and makes them like mkdir -p. Exits with 0 or an errno, the sentence on stderr.
 * Stdin is in pieces, each behind its length (uint32_t in the host's byte order), and ends with a
 * length of 0: an end without that is a body that broke off, and changes nothing.
 * A ROOT that is not empty confines every path: components are opened one by one, no symlink is
 * followed.
 */
#ifndef GUEST_WORKER_H
#define GUEST_WORKER_H

#define WORKER_NAME      "file-worker"
#define WORKER_PIECE_MAX (64 * 1024)

/* argv[0] is the program, argv[1] WORKER_NAME. Returns the exit status. */
int worker_main(int argc, char **argv);

/* Opens (O_PATH) the directory path, which lies below root, and makes what is missing; no symlink
 * below root is followed. The fd, or -errno. */
int worker_open_dir(const char *root, const char *path);

#endif
