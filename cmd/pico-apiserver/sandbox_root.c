/* The file system of a sandbox: a tmpfs with the host's programs, read-only, and nothing else of
 * the host's. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cmd/pico-apiserver/sandbox_init.h"
#include "proto/ssh/keygen.h"
#include "reactor/crypto_cipher.h"

enum { NOFILE = 4096 };

/* crypt(3) of "sandbox": the password that the guide prints. */
#define PASSWORD                                                                                   \
	"$6$picosandbox$G7G59DtyuZnYJ04Do62XyWu2YLLnRPfSpH707FqB7zrigr0BaHocDTqKfQN2/"             \
	"fxWKW8vXFEr1SEdZeN7Cdh990"

/* One line about what failed; the working directory is the new root while it is built. */
static int complain(const char *what, const char *path)
{
	fprintf(stderr, "sandbox: cannot %s %s: %s\n", what, path, strerrordesc_np(errno));
	return -1;
}

/* --- pieces --- */

static int make_dir(const char *path, mode_t mode)
{
	if (mkdir(path, mode) == -1 && errno != EEXIST)
		return complain("make directory", path);
	return chmod(path, mode) == -1 ? complain("chmod", path) : 0;
}

static int make_file(const char *path, mode_t mode, const char *text, size_t n)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
	if (fd == -1)
		return complain("make file", path);
	ssize_t put = n ? write(fd, text, n) : 0;
	int r = put != (ssize_t)n || fchmod(fd, mode) == -1 ? complain("write", path) : 0;
	close(fd);
	return r;
}

static int make_text(const char *path, mode_t mode, const char *text)
{
	return make_file(path, mode, text, strlen(text));
}

static int bind_read_only(const char *from, const char *to)
{
	const unsigned long flags = MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV;
	if (mount(from, to, NULL, MS_BIND, NULL) == -1 || mount(NULL, to, NULL, flags, NULL) == -1)
		return complain("mount", from);
	return 0;
}

/* The host's /bin and the like: a link as it is, a directory read-only, nothing if it has none. */
static int take_over(const char *name)
{
	char host[64], target[PATH_MAX];
	struct stat st;
	snprintf(host, sizeof(host), "/%s", name);
	if (lstat(host, &st) == -1)
		return 0;
	if (S_ISDIR(st.st_mode))
		return make_dir(name, 0755) < 0 ? -1 : bind_read_only(host, name);
	ssize_t n = readlink(host, target, sizeof(target) - 1);
	if (n == -1)
		return 0;
	target[n] = '\0';
	return symlink(target, name) == -1 ? complain("link", name) : 0;
}

/* Small public files and directories of the host's /etc. */
static int take_etc(const char *name)
{
	char host[64];
	struct stat st;
	snprintf(host, sizeof(host), "/%s", name);
	if (stat(host, &st) == -1)
		return 0;
	if (S_ISDIR(st.st_mode))
		return make_dir(name, 0755) < 0 ? -1 : bind_read_only(host, name);
	char text[256 * 1024];
	int fd = open(host, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd == -1 ? -1 : read(fd, text, sizeof(text));
	if (fd != -1)
		close(fd);
	if (n == -1 || n == (ssize_t)sizeof(text))
		return 0;
	return make_file(name, 0644, text, (size_t)n);
}

static int host_key(char fingerprint[64])
{
	char text[SSH_KEYGEN_TEXT_MAX], line[SSH_KEYGEN_LINE_MAX];
	size_t n = ssh_keygen(text, line);
	ssh_key_fingerprint(slice_str(line), fingerprint);
	int r = make_file("etc/ssh/ssh_host_ed25519_key", 0600, text, n);
	secret_wipe(text, sizeof(text));
	return r;
}

/* --- /etc --- */

static int make_users(const struct init_options *o)
{
	const char *shell = access("/bin/bash", X_OK) == 0 ? "/bin/bash" : "/bin/sh";
	bool password = o->keys[0] == '\0';
	/* The home directory is where sshd starts a session, which is to be the workspace; HOME is
	 * set to another by its configuration. */
	char *passwd = xasprintf("root:x:0:0:root:/root:/usr/sbin/nologin\n"
				 "sshd:x:102:65534::/run/sshd:/usr/sbin/nologin\n"
				 "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
				 "%s:x:%u:%u:sandbox:/workspace:%s\n",
				 o->user, o->uid, o->uid, shell);
	char *group =
	    xasprintf("root:x:0:\ntty:x:5:\nnogroup:x:65534:\n%s:x:%u:\n", o->user, o->uid);
	char *shadow = xasprintf("root:*:19000:0:99999:7:::\nsshd:*:19000:0:99999:7:::\n"
				 "nobody:*:19000:0:99999:7:::\n%s:%s:19000:0:99999:7:::\n",
				 o->user, password ? PASSWORD : "*");
	int r = make_text("etc/passwd", 0644, passwd);
	if (r == 0)
		r = make_text("etc/group", 0644, group);
	if (r == 0)
		r = make_text("etc/shadow", 0600, shadow);
	free(passwd);
	free(group);
	free(shadow);
	return r;
}

static int make_sshd_config(const struct init_options *o)
{
	bool password = o->keys[0] == '\0';
	char *text =
	    xasprintf("HostKey /etc/ssh/ssh_host_ed25519_key\n"
		      "AuthorizedKeysFile /etc/ssh/authorized_keys\n"
		      "AllowUsers %s\n"
		      "PermitRootLogin no\n"
		      "PasswordAuthentication %s\n"
		      "KbdInteractiveAuthentication no\n"
		      "UsePAM no\n"
		      "UseDNS no\n"
		      "PrintMotd no\n"
		      "PrintLastLog no\n"
		      "X11Forwarding no\n"
		      "MaxSessions 64\n"
		      "PidFile none\n"
		      "LogLevel ERROR\n"
		      "AcceptEnv LANG LC_* TERM\n"
		      "SetEnv HOME=/home/%s PATH=/opt/sandbox/bin:/usr/local/bin:/usr/bin:/bin:"
		      "/usr/local/sbin:/usr/sbin:/sbin LANG=C.UTF-8\n"
		      "Subsystem sftp /usr/lib/openssh/sftp-server\n",
		      o->user, password ? "yes" : "no", o->user);
	int r = make_text("etc/ssh/sshd_config", 0600, text);
	free(text);
	return r;
}

static int make_etc(const struct init_options *o, char fingerprint[64])
{
	static const char *const taken[] = {
		"etc/alternatives",    "etc/ld.so.cache", "etc/ssl/certs",
		"etc/resolv.conf",     "etc/protocols",   "etc/services",
		"etc/localtime",       "etc/bash.bashrc", "etc/ca-certificates.conf",
		"etc/ssl/openssl.cnf", "etc/mime.types",
	};
	if (make_dir("etc", 0755) < 0 || make_dir("etc/ssh", 0755) < 0 ||
	    make_dir("etc/ssl", 0755) < 0)
		return -1;
	for (size_t i = 0; i < ARRAY_LEN(taken); i++)
		if (take_etc(taken[i]) < 0)
			return -1;
	char *hosts =
	    xasprintf("127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 %s\n", o->name);
	char *hostname = xasprintf("%s\n", o->name);
	int r = make_text("etc/hosts", 0644, hosts);
	if (r == 0)
		r = make_text("etc/hostname", 0644, hostname);
	free(hosts);
	free(hostname);
	if (r < 0 || make_users(o) < 0 || make_sshd_config(o) < 0 || host_key(fingerprint) < 0)
		return -1;
	if (make_text("etc/nsswitch.conf", 0644,
		      "passwd: files\ngroup: files\nhosts: files dns\n") < 0)
		return -1;
	if (make_text("etc/profile", 0644,
		      "export PATH=/opt/sandbox/bin:/usr/local/bin:/usr/bin:"
		      "/bin:/usr/local/sbin:/usr/sbin:/sbin\n") < 0)
		return -1;
	return make_text("etc/ssh/authorized_keys", 0644, o->keys);
}

/* --- /dev, /proc, the rest --- */

static int make_dev(void)
{
	static const char *const nodes[] = { "null", "zero", "full", "random", "urandom", "tty" };
	static const char *const links[][2] = { { "pts/ptmx", "dev/ptmx" },
						{ "/proc/self/fd", "dev/fd" },
						{ "/proc/self/fd/0", "dev/stdin" },
						{ "/proc/self/fd/1", "dev/stdout" },
						{ "/proc/self/fd/2", "dev/stderr" } };
	if (make_dir("dev", 0755) < 0 || make_dir("dev/pts", 0755) < 0 ||
	    make_dir("dev/shm", 01777) < 0)
		return -1;
	for (size_t i = 0; i < ARRAY_LEN(nodes); i++) {
		char host[32];
		snprintf(host, sizeof(host), "/dev/%s", nodes[i]);
		if (make_text(host + 1, 0666, "") < 0)
			return -1;
		if (mount(host, host + 1, NULL, MS_BIND, NULL) == -1)
			return complain("mount", host);
	}
	for (size_t i = 0; i < ARRAY_LEN(links); i++)
		if (symlink(links[i][0], links[i][1]) == -1)
			return complain("link", links[i][1]);
	if (mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
		  "newinstance,ptmxmode=0666,mode=620,gid=5") == -1)
		return complain("mount", "devpts");
	return 0;
}

static int make_proc(void)
{
	static const char *const kernel[] = { "proc/sys", "proc/sysrq-trigger", "proc/irq",
					      "proc/bus", "proc/fs" };
	if (make_dir("proc", 0555) < 0)
		return -1;
	if (mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) == -1)
		return complain("mount", "/proc");
	for (size_t i = 0; i < ARRAY_LEN(kernel); i++)
		if (access(kernel[i], F_OK) == 0 && bind_read_only(kernel[i], kernel[i]) < 0)
			return -1;
	return 0;
}

static int own(const char *path, uint32_t uid)
{
	return chown(path, uid, uid) == -1 ? complain("chown", path) : 0;
}

static int make_places(const struct init_options *o)
{
	char home[PATH_MAX];
	snprintf(home, sizeof(home), "home/%s", o->user);
	if (make_dir("tmp", 01777) < 0 || make_dir("run", 0755) < 0 ||
	    make_dir("run/sshd", 0755) < 0 || make_dir("root", 0700) < 0 ||
	    make_dir("var", 0755) < 0 || make_dir("var/tmp", 01777) < 0 ||
	    make_dir("var/log", 0755) < 0 || make_dir("home", 0755) < 0 ||
	    make_dir(home, 0750) < 0 || make_dir("workspace", 0755) < 0 ||
	    make_dir("opt", 0755) < 0 || make_dir("opt/sandbox", 0755) < 0 ||
	    make_dir("opt/sandbox/bin", 0755) < 0 || own(home, o->uid) < 0 ||
	    own("workspace", o->uid) < 0)
		return -1;
	if (access("/usr/bin/python3", X_OK) == 0 &&
	    symlink("/usr/bin/python3", "opt/sandbox/bin/python") == -1)
		return complain("link", "python");
	return 0;
}

int sandbox_root_enter(const struct init_options *o, char fingerprint[64])
{
	static const char *const system[] = { "usr",   "bin",   "sbin",  "lib",
					      "lib32", "lib64", "libx32" };
	char tmpfs[96];
	/* Files count as memory: who fills the disk is to hear of no space, not to be killed. */
	uint64_t memory = o->memory ? o->memory : 1ULL << 30;
	umask(022);
	snprintf(tmpfs, sizeof(tmpfs), "mode=755,nr_inodes=1m,size=%llu",
		 (unsigned long long)(memory - memory / 8));
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == -1)
		return complain("make private", "/");
	if (make_dir("root", 0700) < 0)
		return -1;
	if (mount("tmpfs", "root", "tmpfs", MS_NOSUID | MS_NODEV, tmpfs) == -1)
		return complain("mount", "tmpfs");
	if (chdir("root") == -1)
		return complain("enter", "root");
	for (size_t i = 0; i < ARRAY_LEN(system); i++)
		if (take_over(system[i]) < 0)
			return -1;
	if (make_dev() < 0 || make_proc() < 0 || make_places(o) < 0 || make_etc(o, fingerprint) < 0)
		return -1;
	if (sethostname(o->name, strlen(o->name)) == -1)
		return complain("set host name", o->name);
	/* pivot_root(2), NOTES: the old root ends up over the new one, and is let go of. */
	if (syscall(SYS_pivot_root, ".", ".") == -1 || umount2(".", MNT_DETACH) == -1 ||
	    chdir("/") == -1)
		return complain("enter", "the new root");
	return 0;
}

int sandbox_root_confine(const struct init_options *o)
{
	/* What sshd needs to become the user, and init to end what the user started. Where the
	 * kernel audits, Debian's sshd ends a login with a terminal that it may not report. */
	const unsigned long long keep = 1ULL << CAP_CHOWN | 1ULL << CAP_DAC_OVERRIDE |
					1ULL << CAP_FOWNER | 1ULL << CAP_FSETID | 1ULL << CAP_KILL |
					1ULL << CAP_SETGID | 1ULL << CAP_SETUID |
					1ULL << CAP_SYS_CHROOT | 1ULL << CAP_AUDIT_WRITE;
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];
	const struct rlimit files = { NOFILE, NOFILE }, core = { 0, 0 };
	if (setrlimit(RLIMIT_NOFILE, &files) == -1 || setrlimit(RLIMIT_CORE, &core) == -1)
		return complain("set", "limits");
	if (o->pids) {
		const struct rlimit procs = { o->pids, o->pids };
		if (setrlimit(RLIMIT_NPROC, &procs) == -1)
			return complain("set", "limits");
	}
	for (unsigned long cap = 0; prctl(PR_CAPBSET_READ, cap) >= 0; cap++)
		if (!(keep >> cap & 1) && prctl(PR_CAPBSET_DROP, cap) == -1)
			return complain("drop", "capabilities");
	for (unsigned i = 0; i < 2; i++)
		data[i] =
		    (struct __user_cap_data_struct){ .effective = (uint32_t)(keep >> (32 * i)),
						     .permitted = (uint32_t)(keep >> (32 * i)) };
	if (syscall(SYS_capset, &header, data) == -1)
		return complain("drop", "capabilities");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == -1)
		return complain("set", "no_new_privs");
	if (sandbox_filter_set() == -1)
		return complain("set", "a filter of system calls");
	return 0;
}
