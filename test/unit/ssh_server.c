#include "test/unit/ssh_server.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "reactor/base.h"

static char dir[64];

const char *ssh_server_path(const char *name)
{
	static char path[8][200];
	static unsigned at;
	char *p = path[at++ % 8];
	snprintf(p, 200, "%s/%s", dir, name);
	return p;
}

static void put_file(const char *name, int mode, const char *text)
{
	FILE *f = fopen(ssh_server_path(name), "we");
	BUG_ON(!f || fputs(text, f) < 0 || fclose(f) != 0);
	BUG_ON(chmod(ssh_server_path(name), (mode_t)mode) != 0);
}

static bool sh(const char *fmt, ...)
{
	char cmd[4096];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	return system(cmd) == 0;
}

bool ssh_server_setup(void)
{
	if (geteuid() != 0 || access("/usr/sbin/sshd", X_OK) != 0)
		return false;
	snprintf(dir, sizeof(dir), "/tmp/tssshXXXXXX");
	BUG_ON(!mkdtemp(dir) || chmod(dir, 0755) != 0);
	static const char *const type[] = { "ed25519", "ecdsa", "rsa" };
	for (size_t i = 0; i < ARRAY_LEN(type); i++)
		BUG_ON(!sh("cd %s && ssh-keygen -q -t %s -N '' -f host_%s && ssh-keygen -q -t %s "
			   "-N '' -f user_%s",
			   dir, type[i], type[i], type[i], type[i]));
	BUG_ON(!sh("cd %s && ssh-keygen -q -t ed25519 -N locked -f user_locked", dir));
	BUG_ON(!sh("cd %s && mkdir -p home/.ssh && cat user_ed25519.pub user_ecdsa.pub "
		   "user_rsa.pub > home/.ssh/authorized_keys && chmod 700 home home/.ssh && "
		   "chmod 600 home/.ssh/authorized_keys && chown -R 12345:12345 home",
		   dir));
	if (access("/usr/bin/dropbearkey", X_OK) == 0)
		for (size_t i = 0; i < ARRAY_LEN(type); i++)
			BUG_ON(!sh("cd %s && dropbearkey -t %s -f dropbear_%s >/dev/null 2>&1", dir,
				   type[i], type[i]));
	/* The password is "secret". */
	char passwd[400];
	snprintf(passwd, sizeof(passwd),
		 "root:x:0:0:root:/root:/bin/sh\nsshd:x:104:65534::/run/sshd:/usr/sbin/nologin\n"
		 "sandbox:x:12345:12345::%s/home:/bin/sh\n",
		 dir);
	put_file("passwd", 0644, passwd);
	put_file("shadow", 0600,
		 "root:*:19000:0:99999:7:::\nsshd:*:19000:0:99999:7:::\n"
		 "sandbox:$6$tstunnel$ki2NPrOgKhnA1CWUnX1IRG9.9igVPhM084xpttBijBWsAVmKtBd2."
		 "yp6RAQCoRDwQ86kwmrtN7KDU3bfG.uep0:19000:0:99999:7:::\n");
	return true;
}

void ssh_server_teardown(void)
{
	if (dir[0])
		sh("rm -rf %s", dir);
	dir[0] = '\0';
}

const char *ssh_server_fingerprint(const char *type)
{
	static char out[100];
	char cmd[300];
	snprintf(cmd, sizeof(cmd), "ssh-keygen -l -f %s/host_%s.pub | cut -d' ' -f2", dir, type);
	FILE *f = popen(cmd, "re");
	BUG_ON(!f || !fgets(out, sizeof(out), f));
	pclose(f);
	out[strcspn(out, "\n")] = '\0';
	return out;
}

/* In the child. */
_Noreturn static void become(enum ssh_server_kind kind, const char *host_key, int fd)
{
	char key[200], config[200];
	int log = open(ssh_server_path("log"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	dup2(fd, 0);
	dup2(fd, 1);
	dup2(log, 2);
	if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
	    mount(ssh_server_path("passwd"), "/etc/passwd", NULL, MS_BIND, NULL) != 0 ||
	    mount(ssh_server_path("shadow"), "/etc/shadow", NULL, MS_BIND, NULL) != 0 ||
	    mount("tmpfs", "/run", "tmpfs", 0, "mode=755") != 0 || mkdir("/run/sshd", 0755) != 0)
		_exit(120);
	if (kind == SSH_SERVER_OPENSSH) {
		snprintf(config, sizeof(config), "%s", ssh_server_path("sshd_config"));
		execl("/usr/sbin/sshd", "/usr/sbin/sshd", "-i", "-e", "-f", config, (char *)NULL);
	} else {
		snprintf(key, sizeof(key), "%s/dropbear_%s", dir, host_key);
		execl("/usr/sbin/dropbear", "dropbear", "-i", "-r", key, (char *)NULL);
	}
	_exit(121);
}

int ssh_server_start(enum ssh_server_kind kind, const char *host_key, const char *config, int *pid)
{
	int fd[2];
	char text[2000];
	snprintf(
	    text, sizeof(text),
	    "%s\nHostKey %s/host_%s\nAuthorizedKeysFile %s/home/.ssh/authorized_keys\nUsePAM no\n"
	    "PasswordAuthentication yes\nKbdInteractiveAuthentication no\nStrictModes no\nPidFile "
	    "none\nLogLevel ERROR\n"
	    "AcceptEnv TS_*\nUseDNS no\n",
	    config ? config : "", dir, host_key, dir);
	put_file("sshd_config", 0600, text);
	BUG_ON(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) != 0);
	*pid = fork();
	BUG_ON(*pid < 0);
	if (*pid == 0) {
		setsid();
		become(kind, host_key, fd[1]);
	}
	close(fd[1]);
	BUG_ON(fcntl(fd[0], F_SETFL, O_NONBLOCK) != 0);
	return fd[0];
}

void ssh_server_stop(int pid)
{
	int status;
	kill(-pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
}
