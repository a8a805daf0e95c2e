/*
 * Real SSH servers for tests: OpenSSH's sshd and dropbear, one process a connection ("-i") on a
 * socket pair, with keys, users and a configuration of their own. Root only: a mount namespace
 * keeps the machine's files as they are.
 */
#ifndef UNIT_SSH_SERVER_H
#define UNIT_SSH_SERVER_H

#include <stdbool.h>

enum ssh_server_kind { SSH_SERVER_OPENSSH = 0, SSH_SERVER_DROPBEAR };

#define SSH_SERVER_USER     "sandbox"
#define SSH_SERVER_PASSWORD "secret"

/* Makes the folder with keys: host_TYPE and user_TYPE for ed25519, ecdsa, rsa (OpenSSH's form),
 * dropbear_TYPE, user_locked (encrypted). False when this machine cannot (not root, no sshd): skip.
 */
bool ssh_server_setup(void);
void ssh_server_teardown(void);
/* Path in that folder. Rotating static buffer. */
const char *ssh_server_path(const char *name);
/* "SHA256:..." of the host key of a type. Static buffer. */
const char *ssh_server_fingerprint(const char *type);

/* Starts a server for one connection: our end of it; *pid gets its process. host_key: a type.
 * config: further lines of sshd_config (not for dropbear). */
int ssh_server_start(enum ssh_server_kind, const char *host_key, const char *config, int *pid);
/* Kills it, if it still runs, and waits for it. */
void ssh_server_stop(int pid);

#endif
