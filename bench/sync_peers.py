"""Who is compared in the bench of file sync: each brings a directory here to a directory "there", over ssh
or over our tunnel, all on loopback."""
import contextlib
import json
import os
import signal
import subprocess
import time

import peers as P
from rig import BIN, WORK, BenchError, ports


def wire():
    """Bytes that went over loopback in this namespace so far, headers and all."""
    with open("/proc/net/dev") as f:
        for line in f:
            if line.strip().startswith("lo:"):
                return int(line.split(":")[1].split()[0])
    return 0


def run(argv, what, env=None, ok=(0,), limit=300):
    r = subprocess.run(argv, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=limit)
    if r.returncode not in ok:
        raise BenchError(f"{what}: {r.returncode}: {(r.stderr or r.stdout)[-400:].strip()}")
    return r.stdout


class Ssh:
    """A private sshd, and what makes ssh speak to it: one for all of the run."""
    conf = None

    @classmethod
    def start(cls):
        port, = ports(1)
        cls.far = P.ssh_far(port)
        d, host = P.ssh_keys()
        cls.conf = P.write("ssh_sync", f"""
Host far
HostName 127.0.0.1
Port {port}
User root
IdentityFile {d}/user
UserKnownHostsFile {P.write("known_sync", f"[127.0.0.1]:{port} {host}")}
Ciphers aes128-gcm@openssh.com
Compression no
IPQoS none
LogLevel ERROR
""")


class Tool:
    """A program that runs, syncs once, and ends. sync() is such a run."""
    name = again = None
    two_way = False

    def __init__(self, here, there):
        self.here, self.there = here, there
        os.makedirs(there, exist_ok=True)

    def begin(self):
        self.sync()

    def end(self):
        pass


class Tar(Tool):
    name = "tar \\| ssh tar"

    def sync(self):
        run(["sh", "-c", f"tar -C {self.here} -cf - . | ssh -F {Ssh.conf} far tar -C {self.there} -xf -"], "tar")


class Rsync(Tool):
    name, again = "rsync over ssh", True

    def sync(self, ignore_vcs=False):
        more = ["--exclude", ".git"] if ignore_vcs else []
        run(["rsync", "-a", "--delete", *more, "-e", f"ssh -F {Ssh.conf}", self.here + "/", f"far:{self.there}/"], "rsync")


class Unison(Tool):
    name, again, two_way = "unison over ssh", True, True
    serial = 0

    def __init__(self, here, there):
        super().__init__(here, there)
        Unison.serial += 1
        self.archives = f"{WORK}/unison{Unison.serial}"
        os.makedirs(self.archives)
        self.env = dict(os.environ, HOME=WORK, UNISON=self.archives)

    def sync(self, ignore_vcs=False):
        more = ["-ignore", "Name .git"] if ignore_vcs else []
        # 1: some were skipped, which the comparison of the trees would show.
        run(["unison", self.here, f"ssh://far/{self.there}", "-batch", "-auto", "-silent", "-times", "-confirmbigdel=false",
             "-sshargs", f"-F {Ssh.conf}", "-servercmd", f"env UNISON={self.archives}-far unison", *more], "unison", self.env, ok=(0, 1))


class Ours(Tool):
    """tsctl's daemon, a tunnel with certificates, a guest."""
    name, two_way = "**tstunnel**", True
    guest = None
    serial = 0
    env = dict(os.environ, HOME=WORK + "/home", XDG_RUNTIME_DIR=WORK + "/home/run")

    @classmethod
    def start_guest(cls):
        os.makedirs(WORK + "/home/run", mode=0o700, exist_ok=True)
        if cls.guest is None:
            cls.port, = ports(1)
        cls.guest = P.ours_guest(cls.port, P.GUEST_TLS + ["--state-dir", WORK + "/guest-state"])

    @classmethod
    def tsctl(cls, *args, limit=300):
        return run([BIN + "/tsctl", *args], "tsctl " + " ".join(args[:2]), cls.env, limit=limit)

    @classmethod
    def stop_daemon(cls):
        for pid in cls.daemons():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    @staticmethod
    def daemons():
        """tsctl's processes that are no sync workers."""
        return [pid for pid, program, argv in processes() if program == "tsctl" and "sync-worker" not in argv]

    @staticmethod
    def workers():
        """(pid of tsctl's worker, pid of the guest's) of the sync that runs; there is only one."""
        found = {program: pid for pid, program, argv in processes() if "sync-worker" in argv}
        return found.get("tsctl"), found.get("guest")

    def __init__(self, here, there):
        super().__init__(here, there)
        Ours.serial += 1
        self.id = f"bench{Ours.serial}"

    def begin(self, *flags):
        self.tsctl("sync", "create", self.here, f"tstunnel://127.0.0.1:{self.port}{self.there}{P.QUERY_TLS}", "--name", self.id, *flags)
        self.sync()

    def sync(self, ignore_vcs=False):
        self.tsctl("sync", "flush", self.id)

    def status(self):
        return next(s for s in json.loads(self.tsctl("sync", "list", "--json")) if s.get("name") == self.id)

    def end(self):
        self.tsctl("sync", "terminate", self.id)

    def wait_watching(self, than, limit=60):
        """Until a worker other than than says that it watches; seconds it took."""
        began = time.perf_counter()
        while time.perf_counter() - began < limit:
            pid, _ = self.workers()
            if pid not in (None, than) and self.status().get("state") == "watching":
                return time.perf_counter() - began
            time.sleep(0.002)
        raise BenchError(f"the sync does not watch again: {self.status()}")


def processes():
    """(pid, name of the program, argv) of all."""
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    argv = f.read().decode(errors="replace").split("\0")
                yield int(pid), os.path.basename(os.readlink(f"/proc/{pid}/exe")), argv
            except OSError:
                continue
