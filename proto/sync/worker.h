/*
 * The two programs around a sync: "tsctl sync-worker" (the brain; fd 0 and 1 lead to the far end,
 * fd 3 to the parent) and "guest sync-worker ROOT STORE" (the far end). Each lives as long as its
 * streams, and writes its store at the end. Exit code 0, or 1 with the reason as the last line on
 * stderr.
 */
#ifndef SYNC_WORKER_H
#define SYNC_WORKER_H

#define SYNC_WORKER_NAME "sync-worker"

int sync_brain_main(void);
/* argv: ROOT STORE, absolute. */
int sync_far_main(int argc, char **argv);

#endif
